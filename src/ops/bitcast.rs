//! Bits of numbers as numbers of another dtype.

use super::array::sizes;
use super::{Array, BatchContext, Built, Class, Grads, NestBuilder, OpDef, Precision, Sample, VjpContext};
use crate::graph::Value;
use crate::types::{DType, TensorType};
use serde::{Deserialize, Serialize};

/// The bits of each element as those of a number of `dtype`, which is as wide: floats as signed integers and back.
/// PyTorch's `view(dtype)` of equal sizes.
///
/// * Numerics: no arithmetic, so that subnormal numbers, infinities and signs of zeros are exact on devices whose arithmetic flushes
///   them. The bits of a NaN are those of some NaN.
/// * Integers convert to one another by `cast`, which wraps.
/// * Gradient: none, as in PyTorch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Bitcast {
    /// Result dtype.
    pub dtype: DType,
}

impl OpDef for Bitcast {
    fn name(&self) -> &'static str {
        "bitcast"
    }
    fn class(&self) -> Class {
        Class::Pointwise
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = operands else { return Err("takes one operand".into()) };
        let (from, to) = (x.dtype, self.dtype);
        let is_integer = |dtype: DType| matches!(dtype, DType::I16 | DType::I32 | DType::I64);
        if from.size() != to.size() || !(from.is_float() && is_integer(to) || to.is_float() && is_integer(from)) {
            return Err(format!("takes floats as signed integers of their size and back, got {from} as {to}"));
        }
        Ok(vec![TensorType { dtype: to, shape: x.shape.clone() }])
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], _precision: Precision) -> Result<Vec<Array>, String> {
        let (x, shape) = (&operands[0], sizes(&types[0]));
        Ok(vec![match self.dtype.is_float() {
            true => Array::float(self.dtype, shape, x.ints().into_iter().map(|v| self.dtype.of_bits(v)).collect()),
            false => Array::int(self.dtype, shape, x.floats().into_iter().map(|v| x.dtype.bits(v)).collect()),
        }])
    }
    fn vjp(&self, _cx: &mut VjpContext<'_>) -> Built<Grads> {
        Ok(vec![None])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(self.clone())
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let x = cx.operand(0);
        cx.pointwise(0, |b, at| {
            let v = b.load(x.at(at));
            Ok(b.bitcast(v, self.dtype))
        })
    }
    fn stops_gradient(&self) -> bool {
        true
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |from: DType, to: DType| Sample::new(Bitcast { dtype: to }, vec![TensorType::new(from, (3, 5))]);
        vec![
            of(DType::F32, DType::I32),
            of(DType::I32, DType::F32),
            of(DType::F16, DType::I16),
            of(DType::I16, DType::F16),
            of(DType::BF16, DType::I16),
            of(DType::I16, DType::BF16),
            of(DType::F64, DType::I64),
            of(DType::I64, DType::F64),
        ]
    }
}
