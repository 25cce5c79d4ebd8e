//! Mean and variance.

use super::batch::behind;
use super::composite::{check_dims, count, dim_numbers, eval_decomposed, mean_kept, rows, sum_kept, widen};
use super::{Array, BatchContext, Built, Class, Grads, OpDef, Precision, Sample, VjpContext};
use crate::graph::{Builder, Value};
use crate::types::{DType, Dim, Shape, TensorType};
use serde::{Deserialize, Serialize};

/// `mean = sum over dims of x / n`, with n the number of elements summed. Dimensions are dropped unless `keepdim`.
///
/// * One float operand; half floats are summed in f32. Over no element the result is NaN.
/// * Gradient: `g / n`, repeated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mean {
    /// Dimensions reduced: sorted, distinct.
    pub dims: Vec<u32>,
    /// Keep reduced dimensions with size one.
    pub keepdim: bool,
}

/// `var = sum over dims of (x - mean x)^2 / max(n - correction, 0)`. Dimensions are dropped unless `keepdim`.
///
/// * One float operand; half floats are computed in f32. With `n <= correction` the result is NaN or infinite.
/// * Gradient: `2 * (x - mean x) * g / (n - correction)`.
/// * Numerics: two passes, no cancellation. PyTorch: `correction` is an integer here; its default there is 1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Var {
    /// Dimensions reduced: sorted, distinct.
    pub dims: Vec<u32>,
    /// Subtracted from the number of elements: 1 for the unbiased estimate.
    pub correction: u32,
    /// Keep reduced dimensions with size one.
    pub keepdim: bool,
}

fn infer_reduced(operands: &[TensorType], dims: &[u32], keepdim: bool) -> Result<Vec<TensorType>, String> {
    let [x] = operands else { return Err("takes one operand".into()) };
    check_dims(&x.shape, dims)?;
    if !x.dtype.is_float() {
        return Err(format!("does not take {}", x.dtype));
    }
    Ok(vec![TensorType { dtype: x.dtype, shape: reduced_shape(&x.shape, dims, keepdim) }])
}

fn reduced_shape(shape: &Shape, dims: &[u32], keepdim: bool) -> Shape {
    let sizes = shape.0.iter().enumerate().filter_map(|(i, d)| match dims.contains(&(i as u32)) {
        true => keepdim.then(|| Dim::int(1)),
        false => Some(d.clone()),
    });
    Shape::new(sizes.collect())
}

/// The kept form of a reduction's result, in the result's own shape and dtype.
fn finish(b: &mut Builder, kept: Value, x: Value, dims: &[u32], keepdim: bool) -> Built<Vec<Value>> {
    let shape = reduced_shape(b.shape(x), dims, keepdim);
    let out = b.reshape(kept, shape)?;
    Ok(vec![b.cast(out, b.dtype(x))?])
}

/// The cotangent with reduced dimensions of size one, in the accumulator's dtype.
fn kept_cotangent(b: &mut Builder, g: Value, x: Value, dims: &[u32]) -> Built {
    let shape = reduced_shape(b.shape(x), dims, true);
    let g = b.reshape(g, shape)?;
    widen(b, g)
}

impl OpDef for Mean {
    fn name(&self) -> &'static str {
        "mean"
    }
    fn class(&self) -> Class {
        Class::Composite
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        infer_reduced(operands, &self.dims, self.keepdim)
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        if precision == Precision::Working {
            return eval_decomposed(self, operands, precision);
        }
        let x = operands[0].floats();
        let rows = rows(&operands[0].shape, &dim_numbers(&self.dims));
        let means = rows.iter().map(|row| row.iter().map(|&i| x[i]).sum::<f64>() / row.len() as f64).collect();
        Ok(vec![Array::float(operands[0].dtype, super::array::sizes(&types[0]), means)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let (Some(g), x) = (cx.cotangents[0], cx.operands[0]) else { return Ok(vec![None]) };
        let b = &mut *cx.b;
        let g = kept_cotangent(b, g, x, &self.dims)?;
        let n = b.size(&count(b.shape(x), &dim_numbers(&self.dims)), b.dtype(g))?;
        let each = b.div(g, n)?;
        let each = b.cast(each, b.dtype(x))?;
        let shape = b.shape(x).clone();
        Ok(vec![Some(b.broadcast_to(each, &shape)?)])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(Mean { dims: behind(&self.dims), ..self.clone() })
    }
    fn decompose(&self, b: &mut Builder, operands: &[Value]) -> Option<Built<Vec<Value>>> {
        let mut build = || {
            let x = widen(b, operands[0])?;
            let mean = mean_kept(b, x, &dim_numbers(&self.dims))?;
            finish(b, mean, operands[0], &self.dims, self.keepdim)
        };
        Some(build())
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |dtype: DType, shape: &[i64], dims: &[u32], keepdim: bool| {
            Sample::new(Mean { dims: dims.to_vec(), keepdim }, vec![TensorType::new(dtype, shape)])
        };
        vec![
            of(DType::F32, &[3, 7], &[1], true),
            of(DType::F32, &[3, 7], &[0], false),
            of(DType::F32, &[2, 3, 5], &[0, 2], false),
            of(DType::F32, &[5], &[0], false),
            of(DType::F32, &[3, 0], &[0], false),
            of(DType::F16, &[3, 5], &[1], false),
        ]
    }
}

impl OpDef for Var {
    fn name(&self) -> &'static str {
        "var"
    }
    fn class(&self) -> Class {
        Class::Composite
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        infer_reduced(operands, &self.dims, self.keepdim)
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        if precision == Precision::Working {
            return eval_decomposed(self, operands, precision);
        }
        let x = operands[0].floats();
        let variance = |row: Vec<usize>| {
            let mean = row.iter().map(|&i| x[i]).sum::<f64>() / row.len() as f64;
            row.iter().map(|&i| (x[i] - mean).powi(2)).sum::<f64>() / row.len().saturating_sub(self.correction as usize) as f64
        };
        let values = rows(&operands[0].shape, &dim_numbers(&self.dims)).into_iter().map(variance).collect();
        Ok(vec![Array::float(operands[0].dtype, super::array::sizes(&types[0]), values)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let (Some(g), x) = (cx.cotangents[0], cx.operands[0]) else { return Ok(vec![None]) };
        let b = &mut *cx.b;
        let g = kept_cotangent(b, g, x, &self.dims)?;
        let wide = widen(b, x)?;
        let (centered, freedom) = self.parts(b, wide)?;
        // More corrections than elements count below zero here, unlike in the value, as in PyTorch.
        let n = count(b.shape(x), &dim_numbers(&self.dims)).as_int();
        let freedom = n.map_or(Ok(freedom), |n| b.constant(b.dtype(wide), n as f64 - self.correction as f64))?;
        let twice = b.scale(g, 2.0)?;
        let each = b.div(twice, freedom)?;
        let dx = b.mul(centered, each)?;
        Ok(vec![Some(b.cast(dx, b.dtype(x))?)])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(Var { dims: behind(&self.dims), ..self.clone() })
    }
    fn decompose(&self, b: &mut Builder, operands: &[Value]) -> Option<Built<Vec<Value>>> {
        let mut build = || {
            let x = widen(b, operands[0])?;
            let (centered, freedom) = self.parts(b, x)?;
            let square = b.mul(centered, centered)?;
            let sum = sum_kept(b, square, &dim_numbers(&self.dims))?;
            let var = b.div(sum, freedom)?;
            finish(b, var, operands[0], &self.dims, self.keepdim)
        };
        Some(build())
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |shape: &[i64], dims: &[u32], correction: u32, keepdim: bool| {
            Sample::new(Var { dims: dims.to_vec(), correction, keepdim }, vec![TensorType::new(DType::F32, shape)])
        };
        vec![of(&[3, 7], &[1], 1, true), of(&[3, 7], &[0], 0, false), of(&[2, 3, 5], &[0, 2], 1, false), of(&[5], &[0], 2, false)]
    }
}

impl Var {
    /// `x - mean x` and `max(n - correction, 0)`.
    fn parts(&self, b: &mut Builder, x: Value) -> Built<(Value, Value)> {
        let dims = dim_numbers(&self.dims);
        let mean = mean_kept(b, x, &dims)?;
        let centered = b.sub(x, mean)?;
        let freedom = (count(b.shape(x), &dims) - &Dim::int(self.correction as i64)).max_with(&Dim::int(0));
        Ok((centered, b.size(&freedom, b.dtype(x))?))
    }
}
