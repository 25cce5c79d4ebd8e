//! Layer norm and root-mean-square norm.

use super::composite::{eval_decomposed, last_dims, mean_kept, rows, widen};
use super::{Array, BatchContext, Built, Class, Grads, Op, OpDef, Precision, Real, Sample, VjpContext};
use crate::graph::{Builder, Value};
use crate::scalar::ScalarFn;
use crate::types::{DType, Shape, TensorType};
use serde::{Deserialize, Serialize};

/// `y = (x - mean x) / sqrt(var x + eps) * weight + bias` over the last `dims` dimensions, with the variance `mean (x - mean x)^2`.
///
/// * Operands `x`, and optionally `weight`, and optionally `bias`, floats of one dtype; weight and bias have the normalized
///   dimensions' shape. Half floats are computed in f32.
/// * Gradient, with `h = (x - mean x) * r` and `d = g * weight`: `dx = r * (d - mean d - h * mean(d * h))`,
///   `dweight = sum g * h`, `dbias = sum g` over the other dimensions.
/// * Numerics: two passes, so that a large mean costs no precision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LayerNorm {
    /// How many trailing dimensions are normalized together; at least one.
    pub dims: u32,
    /// Added to the variance.
    pub eps: Real,
}

/// `y = x / sqrt(mean x^2 + eps) * weight` over the last `dims` dimensions.
///
/// * Operands `x` and optionally `weight`, floats of one dtype; the weight has the normalized dimensions' shape. Half floats
///   are computed in f32.
/// * Gradient, with `h = x * r` and `d = g * weight`: `dx = r * (d - h * mean(d * h))`, `dweight = sum g * h`.
/// * PyTorch: `eps` must be given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RmsNorm {
    /// How many trailing dimensions are normalized together; at least one.
    pub dims: u32,
    /// Added to the mean square.
    pub eps: Real,
}

fn check(operands: &[TensorType], dims: u32, most: usize) -> Result<Vec<TensorType>, String> {
    let Some(x) = operands.first().filter(|_| operands.len() <= most) else { return Err(format!("takes one to {most} operands")) };
    let rank = x.shape.rank();
    if dims < 1 || dims as usize > rank {
        return Err(format!("cannot normalize {dims} dimensions"));
    }
    if !x.dtype.is_float() {
        return Err(format!("does not take {}", x.dtype));
    }
    let normalized = Shape::new(x.shape.0[rank - dims as usize..].to_vec());
    if operands[1..].iter().any(|t| t.dtype != x.dtype || t.shape != normalized) {
        return Err(format!("weight and bias must be {}{normalized}", x.dtype));
    }
    Ok(vec![x.clone()])
}

/// `1 / sqrt(mean square + eps)`, kept.
fn reciprocal_deviation(b: &mut Builder, centered: Value, dims: &[usize], eps: f64) -> Built {
    let square = b.mul(centered, centered)?;
    let mean = mean_kept(b, square, dims)?;
    let eps = b.constant(b.dtype(mean), eps)?;
    let sum = b.add(mean, eps)?;
    b.scalar(ScalarFn::Rsqrt, &[sum])
}

/// `h * weight + bias` in the dtype of `x`.
fn affine(b: &mut Builder, normalized: Value, operands: &[Value]) -> Built<Vec<Value>> {
    let mut y = normalized;
    if let Some(&weight) = operands.get(1) {
        let weight = widen(b, weight)?;
        y = b.mul(y, weight)?;
    }
    if let Some(&bias) = operands.get(2) {
        let bias = widen(b, bias)?;
        y = b.add(y, bias)?;
    }
    Ok(vec![b.cast(y, b.dtype(operands[0]))?])
}

/// A norm of all examples; where they have weights and biases of their own, those follow as in [`affine`].
fn batched(cx: &mut BatchContext<'_>, norm: &(impl Clone + Into<Op>)) -> Built<Vec<Value>> {
    let has_own = (1..cx.operands.len()).any(|k| cx.is_each(k));
    if !has_own {
        return cx.b.node(norm.clone(), &cx.values());
    }
    let x = widen(cx.b, cx.value(0))?;
    let normalized = cx.b.op(norm.clone(), &[x])?;
    let rank = cx.example(0).shape.rank();
    let parameters: Vec<Value> = (1..cx.operands.len()).map(|k| cx.aligned(k, rank)).collect::<Built<_>>()?;
    affine(cx.b, normalized, &[&[cx.value(0)], &parameters[..]].concat())
}

/// Gradients of input, weight and bias from the normalized value and the reciprocal deviation.
fn gradients(cx: &mut VjpContext<'_>, normalized: Value, r: Value, dims: &[usize], centered: bool) -> Built<Grads> {
    let g = cx.cotangents[0].expect("the caller has checked");
    let (b, x) = (&mut *cx.b, cx.operands[0]);
    let (dtype, g) = (b.dtype(x), widen(b, g)?);
    let mut d = g;
    if let Some(&weight) = cx.operands.get(1) {
        let weight = widen(b, weight)?;
        d = b.mul(g, weight)?;
    }
    let product = b.mul(d, normalized)?;
    let dot = mean_kept(b, product, dims)?;
    let along = b.mul(normalized, dot)?;
    let mut dx = d;
    if centered {
        let mean = mean_kept(b, d, dims)?;
        dx = b.sub(dx, mean)?;
    }
    dx = b.sub(dx, along)?;
    dx = b.mul(dx, r)?;
    let mut grads = vec![Some(b.cast(dx, dtype)?)];
    if let Some(&weight) = cx.operands.get(1) {
        let product = b.mul(g, normalized)?;
        let shape = b.shape(weight).clone();
        let sum = b.sum_to(product, &shape)?;
        grads.push(Some(b.cast(sum, dtype)?));
    }
    if let Some(&bias) = cx.operands.get(2) {
        let shape = b.shape(bias).clone();
        let sum = b.sum_to(g, &shape)?;
        grads.push(Some(b.cast(sum, dtype)?));
    }
    Ok(grads)
}

/// The formula on host arrays.
fn evaluate(operands: &[Array], dims: u32, eps: f64, centered: bool) -> Vec<Array> {
    let shape = &operands[0].shape;
    let mut y = operands[0].floats();
    let parameter = |k: usize| operands.get(k).map(Array::floats);
    let (weight, bias) = (parameter(1), parameter(2));
    for row in rows(shape, &last_dims(shape.len(), dims as usize)) {
        let n = row.len() as f64;
        let mean = if centered { row.iter().map(|&i| y[i]).sum::<f64>() / n } else { 0.0 };
        let var = row.iter().map(|&i| (y[i] - mean).powi(2)).sum::<f64>() / n;
        for (k, i) in row.into_iter().enumerate() {
            let h = (y[i] - mean) / (var + eps).sqrt();
            y[i] = h * weight.as_ref().map_or(1.0, |w| w[k]) + bias.as_ref().map_or(0.0, |b| b[k]);
        }
    }
    vec![Array::float(operands[0].dtype, shape.clone(), y)]
}

impl LayerNorm {
    /// The normalized value and the reciprocal deviation, in the accumulator's dtype.
    fn parts(&self, b: &mut Builder, x: Value) -> Built<(Value, Value)> {
        let dims = last_dims(b.shape(x).rank(), self.dims as usize);
        let x = widen(b, x)?;
        let mean = mean_kept(b, x, &dims)?;
        let centered = b.sub(x, mean)?;
        let r = reciprocal_deviation(b, centered, &dims, self.eps.get())?;
        Ok((b.mul(centered, r)?, r))
    }
}

impl OpDef for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }
    fn class(&self) -> Class {
        Class::Composite
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        check(operands, self.dims, 3)
    }
    fn eval(&self, operands: &[Array], _types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        match precision {
            Precision::Working => eval_decomposed(self, operands, precision),
            Precision::Exact => Ok(evaluate(operands, self.dims, self.eps.get(), true)),
        }
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        if cx.cotangents[0].is_none() {
            return Ok(vec![None; cx.operands.len()]);
        }
        let (h, r) = self.parts(cx.b, cx.operands[0])?;
        let dims = last_dims(cx.b.shape(h).rank(), self.dims as usize);
        gradients(cx, h, r, &dims, true)
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        batched(cx, self)
    }
    fn decompose(&self, b: &mut Builder, operands: &[Value]) -> Option<Built<Vec<Value>>> {
        Some(self.parts(b, operands[0]).and_then(|(h, _)| affine(b, h, operands)))
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |dtype: DType, shape: &[i64], dims: u32, parameters: usize| {
            let mut operands = vec![TensorType::new(dtype, shape)];
            operands.extend(vec![TensorType::new(dtype, &shape[shape.len() - dims as usize..]); parameters]);
            Sample::new(LayerNorm { dims, eps: Real::new(1e-5) }, operands)
        };
        vec![
            of(DType::F32, &[3, 7], 1, 2),
            of(DType::F32, &[2, 3, 5], 1, 1),
            of(DType::F32, &[2, 3, 5], 2, 2),
            of(DType::F32, &[3, 5], 1, 0),
            of(DType::F32, &[1, 1], 1, 2),
            of(DType::F16, &[3, 5], 1, 2),
        ]
    }
}

impl RmsNorm {
    /// The normalized value and the reciprocal root mean square, in the accumulator's dtype.
    fn parts(&self, b: &mut Builder, x: Value) -> Built<(Value, Value)> {
        let dims = last_dims(b.shape(x).rank(), self.dims as usize);
        let x = widen(b, x)?;
        let r = reciprocal_deviation(b, x, &dims, self.eps.get())?;
        Ok((b.mul(x, r)?, r))
    }
}

impl OpDef for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }
    fn class(&self) -> Class {
        Class::Composite
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        check(operands, self.dims, 2)
    }
    fn eval(&self, operands: &[Array], _types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        match precision {
            Precision::Working => eval_decomposed(self, operands, precision),
            Precision::Exact => Ok(evaluate(operands, self.dims, self.eps.get(), false)),
        }
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        if cx.cotangents[0].is_none() {
            return Ok(vec![None; cx.operands.len()]);
        }
        let (h, r) = self.parts(cx.b, cx.operands[0])?;
        let dims = last_dims(cx.b.shape(h).rank(), self.dims as usize);
        gradients(cx, h, r, &dims, false)
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        batched(cx, self)
    }
    fn decompose(&self, b: &mut Builder, operands: &[Value]) -> Option<Built<Vec<Value>>> {
        Some(self.parts(b, operands[0]).and_then(|(h, _)| affine(b, h, operands)))
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |shape: &[i64], dims: u32, parameters: usize| {
            let mut operands = vec![TensorType::new(DType::F32, shape)];
            operands.extend(vec![TensorType::new(DType::F32, &shape[shape.len() - dims as usize..]); parameters]);
            Sample::new(RmsNorm { dims, eps: Real::new(1e-6) }, operands)
        };
        vec![of(&[3, 7], 1, 1), of(&[2, 3, 5], 2, 1), of(&[3, 5], 1, 0)]
    }
}
