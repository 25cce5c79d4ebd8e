//! Dropout.

use super::composite::eval_decomposed;
use super::random::key_lead;
use super::{Array, BatchContext, Built, Class, Grads, OpDef, Precision, Real, Sample, VjpContext};
use crate::graph::{Builder, Value};
use crate::scalar::philox;
use crate::types::{DType, Shape, TensorType};
use serde::{Deserialize, Serialize};

/// `y = x / (1 - p)` where the random bits of the element keep it, else 0: each element is dropped with probability `p`.
///
/// * Operands `x`, a float, and `key: u32[2]`. Element `i` is kept when `philox(key, i) >= p * 2^32`. Keys `u32[lead..., 2]` are of
///   the first dimensions of `x`, and `i` counts within the others.
/// * Gradient: `g / (1 - p)` where kept, else 0. The mask is drawn again from the key; it is never stored.
/// * `p = 1` gives zeros, as in PyTorch, whose masks are not reproduced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Dropout {
    /// Probability that an element is dropped, in `0..=1`.
    pub p: Real,
}

/// Whether a dropout probability makes sense.
pub(super) fn check_probability(p: f64) -> Result<(), String> {
    if (0.0..=1.0).contains(&p) { Ok(()) } else { Err(format!("probability {p} is outside 0..=1")) }
}

/// Bits below this are dropped. `p = 1` has no threshold.
pub(crate) fn drop_threshold(p: f64) -> u32 {
    (p * 4_294_967_296.0).round().min(u32::MAX as f64) as u32
}

/// Whether element `index` of `numel` is kept, which are divided among the keys.
pub(super) fn is_kept(keys: &[i64], (index, numel): (usize, usize), p: f64) -> bool {
    let each = numel / (keys.len() / 2);
    let key = &keys[index / each * 2..];
    p < 1.0 && philox(key[0] as u32, key[1] as u32, (index % each) as u32) >= drop_threshold(p)
}

/// Whether keys are those of the first dimensions of a shape.
pub(super) fn check_keys(keys: &TensorType, of: &Shape) -> Result<(), String> {
    let lead = key_lead(keys)?;
    if of.0.starts_with(lead) { Ok(()) } else { Err(format!("the keys {keys} are not those of the first dimensions of {of}")) }
}

/// `x / (1 - p)` where kept, else zero. Its own transpose.
pub(super) fn drop(b: &mut Builder, x: Value, key: Value, p: f64) -> Built {
    if p == 0.0 {
        return Ok(x);
    }
    let zero = b.constant(b.dtype(x), 0.0)?;
    if p == 1.0 {
        let shape = b.shape(x).clone();
        return b.full(b.dtype(x), 0.0, shape);
    }
    let each = Shape::new(b.shape(x).0[b.shape(key).rank() - 1..].to_vec());
    let keep = b.bernoulli(key, each, p)?;
    let scaled = b.scale(x, 1.0 / (1.0 - p))?;
    b.where_(keep, scaled, zero)
}

impl OpDef for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }
    fn class(&self) -> Class {
        Class::Composite
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, key] = operands else { return Err("takes a tensor and a key".into()) };
        if !x.dtype.is_float() {
            return Err(format!("does not take {}", x.dtype));
        }
        check_keys(key, &x.shape)?;
        check_probability(self.p.get())?;
        Ok(vec![x.clone()])
    }
    fn eval(&self, operands: &[Array], _types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        if precision == Precision::Working {
            return eval_decomposed(self, operands, precision);
        }
        let (x, keys, p) = (&operands[0], operands[1].ints(), self.p.get());
        let kept = |i: usize| is_kept(&keys, (i, x.numel()), p);
        let values = x.floats().into_iter().enumerate().map(|(i, v)| if kept(i) { v / (1.0 - p) } else { 0.0 });
        Ok(vec![Array::float(x.dtype, x.shape.clone(), values.collect())])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let Some(g) = cx.cotangents[0] else { return Ok(vec![None; 2]) };
        Ok(vec![Some(drop(cx.b, g, cx.operands[1], self.p.get())?), None])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(self.clone())
    }
    fn in_inference(&self, _b: &mut Builder, operands: &[Value]) -> Option<Built<Vec<Value>>> {
        Some(Ok(vec![operands[0]]))
    }
    fn decompose(&self, b: &mut Builder, operands: &[Value]) -> Option<Built<Vec<Value>>> {
        Some(drop(b, operands[0], operands[1], self.p.get()).map(|y| vec![y]))
    }
    fn is_random(&self) -> bool {
        true
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |p: f64, keys: &[i64]| {
            Sample::new(Dropout { p: Real::new(p) }, vec![TensorType::new(DType::F32, (3, 7)), TensorType::new(DType::U32, keys)])
        };
        vec![of(0.5, &[2]), of(0.1, &[2]), of(0.0, &[2]), of(1.0, &[2]), of(0.5, &[3, 2])]
    }
}
