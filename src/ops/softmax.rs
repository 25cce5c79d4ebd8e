//! Softmax and its logarithm.

use super::composite::{eval_decomposed, largest, rows, sum_kept, widen};
use super::{Array, BatchContext, Built, Class, Grads, OpDef, Precision, ReduceKind, Sample, VjpContext};
use crate::graph::{Builder, Value};
use crate::scalar::ScalarFn;
use crate::types::{DType, TensorType};
use serde::{Deserialize, Serialize};

/// `y = exp(x - max x) / sum exp(x - max x)` along `dim`.
///
/// * One float operand; the result has its type. Half floats are computed in f32.
/// * Gradient: `y * (g - sum(g * y))`, in which the maximum is a constant.
/// * Numerics: no overflow, since the largest exponent is zero. A row of minus infinities, or with an infinity or NaN in it,
///   gives NaN, as in PyTorch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Softmax {
    /// The dimension that sums to one.
    pub dim: u32,
}

/// `y = x - max x - log(sum exp(x - max x))` along `dim`: the logarithm of [`Softmax`], without its cancellation.
///
/// * One float operand; the result has its type. Half floats are computed in f32.
/// * Gradient: `g - exp(y) * sum(g)`.
/// * Numerics: as [`Softmax`]; an element of minus infinity gives minus infinity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LogSoftmax {
    /// The dimension whose exponentials sum to one.
    pub dim: u32,
}

fn check(operands: &[TensorType], dim: u32) -> Result<Vec<TensorType>, String> {
    let [x] = operands else { return Err("takes one operand".into()) };
    if dim as usize >= x.shape.rank() {
        return Err(format!("dimension {dim} is out of range"));
    }
    if !x.dtype.is_float() {
        return Err(format!("does not take {}", x.dtype));
    }
    Ok(vec![x.clone()])
}

/// `x - max x`, in the accumulator's dtype.
pub(super) fn shifted(b: &mut Builder, x: Value, dim: usize) -> Built {
    let x = widen(b, x)?;
    let max = b.reduce(ReduceKind::Max, x, &[dim], true)?;
    b.sub(x, max)
}

/// `exp(shifted)` and its sum, kept.
pub(super) fn exponentials(b: &mut Builder, shifted: Value, dim: usize) -> Built<(Value, Value)> {
    let e = b.scalar(ScalarFn::Exp, &[shifted])?;
    let sum = sum_kept(b, e, &[dim])?;
    Ok((e, sum))
}

fn samples_of(op: impl Fn(u32) -> super::Op) -> Vec<Sample> {
    let of = |dtype: DType, shape: &[i64], dim: u32| Sample::new(op(dim), vec![TensorType::new(dtype, shape)]);
    vec![
        of(DType::F32, &[3, 7], 1),
        of(DType::F32, &[3, 7], 0),
        of(DType::F32, &[2, 5, 3], 1),
        of(DType::F32, &[1], 0),
        of(DType::F32, &[0, 3], 1),
        of(DType::F16, &[3, 5], 1),
    ]
}

impl OpDef for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }
    fn class(&self) -> Class {
        Class::Composite
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        check(operands, self.dim)
    }
    fn eval(&self, operands: &[Array], _types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        if precision == Precision::Working {
            return eval_decomposed(self, operands, precision);
        }
        let mut y = operands[0].floats();
        for row in rows(&operands[0].shape, &[self.dim as usize]) {
            let max = largest(row.iter().map(|&i| y[i]));
            let sum: f64 = row.iter().map(|&i| (y[i] - max).exp()).sum();
            for i in row {
                y[i] = (y[i] - max).exp() / sum;
            }
        }
        Ok(vec![Array::float(operands[0].dtype, operands[0].shape.clone(), y)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let Some(g) = cx.cotangents[0] else { return Ok(vec![None]) };
        let (dtype, b) = (cx.b.dtype(g), &mut *cx.b);
        let (y, g) = (widen(b, cx.results[0])?, widen(b, g)?);
        let product = b.mul(y, g)?;
        let dot = sum_kept(b, product, &[self.dim as usize])?;
        let rest = b.sub(g, dot)?;
        let dx = b.mul(y, rest)?;
        Ok(vec![Some(b.cast(dx, dtype)?)])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(Softmax { dim: self.dim + 1 })
    }
    fn decompose(&self, b: &mut Builder, operands: &[Value]) -> Option<Built<Vec<Value>>> {
        let mut build = || {
            let (x, dim) = (operands[0], self.dim as usize);
            if b.shape(x)[dim].is(0) {
                return Ok(vec![x]);
            }
            let s = shifted(b, x, dim)?;
            let (e, sum) = exponentials(b, s, dim)?;
            let y = b.div(e, sum)?;
            Ok(vec![b.cast(y, b.dtype(x))?])
        };
        Some(build())
    }
    fn samples(&self) -> Vec<Sample> {
        samples_of(|dim| Softmax { dim }.into())
    }
}

impl OpDef for LogSoftmax {
    fn name(&self) -> &'static str {
        "log_softmax"
    }
    fn class(&self) -> Class {
        Class::Composite
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        check(operands, self.dim)
    }
    fn eval(&self, operands: &[Array], _types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        if precision == Precision::Working {
            return eval_decomposed(self, operands, precision);
        }
        let mut y = operands[0].floats();
        for row in rows(&operands[0].shape, &[self.dim as usize]) {
            let max = largest(row.iter().map(|&i| y[i]));
            let sum: f64 = row.iter().map(|&i| (y[i] - max).exp()).sum();
            for i in row {
                y[i] = y[i] - max - sum.ln();
            }
        }
        Ok(vec![Array::float(operands[0].dtype, operands[0].shape.clone(), y)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let Some(g) = cx.cotangents[0] else { return Ok(vec![None]) };
        let (dtype, b) = (cx.b.dtype(g), &mut *cx.b);
        let (y, g) = (widen(b, cx.results[0])?, widen(b, g)?);
        let sum = sum_kept(b, g, &[self.dim as usize])?;
        let p = b.scalar(ScalarFn::Exp, &[y])?;
        let spread = b.mul(p, sum)?;
        let dx = b.sub(g, spread)?;
        Ok(vec![Some(b.cast(dx, dtype)?)])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(LogSoftmax { dim: self.dim + 1 })
    }
    fn decompose(&self, b: &mut Builder, operands: &[Value]) -> Option<Built<Vec<Value>>> {
        let mut build = || {
            let (x, dim) = (operands[0], self.dim as usize);
            if b.shape(x)[dim].is(0) {
                return Ok(vec![x]);
            }
            let s = shifted(b, x, dim)?;
            let (_, sum) = exponentials(b, s, dim)?;
            let log = b.scalar(ScalarFn::Log, &[sum])?;
            let y = b.sub(s, log)?;
            Ok(vec![b.cast(y, b.dtype(x))?])
        };
        Some(build())
    }
    fn samples(&self) -> Vec<Sample> {
        samples_of(|dim| LogSoftmax { dim }.into())
    }
}
