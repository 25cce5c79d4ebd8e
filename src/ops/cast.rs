//! Conversion between dtypes.

use super::array::sizes;
use super::{Array, BatchContext, Built, Class, Grads, NestBuilder, OpDef, Precision, Sample, VjpContext};
use crate::graph::Value;
use crate::types::{DType, TensorType};
use serde::{Deserialize, Serialize};

/// `out = x` as `dtype`. Floats to integers truncate toward zero and saturate, NaN gives 0; integers wrap; anything to bool
/// is `x != 0`. The gradient converts back; through an integer or bool there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cast {
    /// Result dtype.
    pub dtype: DType,
}

impl OpDef for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }
    fn class(&self) -> Class {
        Class::Pointwise
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = operands else { return Err("takes one operand".into()) };
        Ok(vec![TensorType { dtype: self.dtype, shape: x.shape.clone() }])
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        let (x, shape) = (&operands[0], sizes(&types[0]));
        Ok(vec![match (x.dtype.is_float(), self.dtype.is_float()) {
            (_, true) => Array::float(self.dtype, shape, x.floats().into_iter().map(|v| precision.round(self.dtype, v)).collect()),
            (true, false) => Array::int(self.dtype, shape, x.floats().into_iter().map(|v| float_to_int(v, self.dtype)).collect()),
            (false, false) => Array::int(self.dtype, shape, x.ints().into_iter().map(|v| self.dtype.wrap(v)).collect()),
        }])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let from = cx.b.dtype(cx.operands[0]);
        match cx.cotangents[0] {
            Some(g) if from.is_float() && self.dtype.is_float() => Ok(vec![Some(cx.b.cast(g, from)?)]),
            _ => Ok(vec![None]),
        }
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(self.clone())
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let x = cx.operand(0);
        cx.pointwise(0, |b, at| {
            let v = b.load(x.at(at));
            Ok(b.cast(v, self.dtype))
        })
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |from: DType, to: DType| Sample::new(Cast { dtype: to }, vec![TensorType::new(from, (3, 5))]);
        vec![
            of(DType::F32, DType::I32),
            of(DType::I32, DType::F32),
            of(DType::F32, DType::Bool),
            of(DType::Bool, DType::F32),
            of(DType::F32, DType::F16),
            of(DType::F16, DType::F32),
            of(DType::I32, DType::U8),
        ]
    }
}

/// Truncates and saturates; NaN is zero; bool is `x != 0`.
pub fn float_to_int(x: f64, dtype: DType) -> i64 {
    if dtype == DType::Bool {
        return (x != 0.0) as i64;
    }
    let (lo, hi) = dtype.int_range().expect("an integer dtype");
    (x as i64).clamp(lo, hi)
}
