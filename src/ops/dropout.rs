//! Dropout.

use super::composite::eval_decomposed;
use super::{Array, Built, Class, Grads, OpDef, Precision, Real, Sample, VjpContext};
use crate::graph::{Builder, Value};
use crate::scalar::philox;
use crate::types::{DType, TensorType};
use serde::{Deserialize, Serialize};

/// `y = x / (1 - p)` where the random bits of the element keep it, else 0: each element is dropped with probability `p`.
///
/// * Operands `x`, a float, and `key: u32[2]`. Element `i` is kept when `philox(key, i) >= p * 2^32`.
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

/// Whether element `index` is kept.
pub(super) fn is_kept(key: &[i64], index: usize, p: f64) -> bool {
    p < 1.0 && philox(key[0] as u32, key[1] as u32, index as u32) >= drop_threshold(p)
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
    let shape = b.shape(x).clone();
    let keep = b.bernoulli(key, shape, p)?;
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
        if !x.dtype.is_float() || *key != TensorType::new(DType::U32, 2) {
            return Err("takes a float and a key u32[2]".into());
        }
        check_probability(self.p.get())?;
        Ok(vec![x.clone()])
    }
    fn eval(&self, operands: &[Array], _types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        if precision == Precision::Working {
            return eval_decomposed(self, operands, precision);
        }
        let (x, key, p) = (&operands[0], operands[1].ints(), self.p.get());
        let values = x.floats().into_iter().enumerate().map(|(i, v)| if is_kept(&key, i, p) { v / (1.0 - p) } else { 0.0 });
        Ok(vec![Array::float(x.dtype, x.shape.clone(), values.collect())])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let Some(g) = cx.cotangents[0] else { return Ok(vec![None; 2]) };
        Ok(vec![Some(drop(cx.b, g, cx.operands[1], self.p.get())?), None])
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
        let of = |p: f64| Sample::new(Dropout { p: Real::new(p) }, vec![TensorType::new(DType::F32, (3, 7)), TensorType::new(DType::U32, 2)]);
        vec![of(0.5), of(0.1), of(0.0), of(1.0)]
    }
}
