//! Values that no gradient passes.

use super::{Array, Built, Class, Grads, OpDef, Precision, Sample, VjpContext};
use crate::graph::{Builder, Value};
use crate::types::{DType, TensorType};
use serde::{Deserialize, Serialize};

/// `y = x`, of any shape and dtype, as a constant to derivatives: PyTorch's `detach`, JAX's `stop_gradient`.
///
/// * Gradient: none. Differentiation stops here, so that what `x` is made of may have no derivative at all; a parameter that
///   reaches the loss only through detached values gets no update, as in PyTorch, where its gradient is `None`.
/// * It decomposes into `x` itself and costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Detach {}

impl OpDef for Detach {
    fn name(&self) -> &'static str {
        "detach"
    }
    fn class(&self) -> Class {
        Class::Composite
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = operands else { return Err("takes one operand".into()) };
        Ok(vec![x.clone()])
    }
    fn eval(&self, operands: &[Array], _types: &[TensorType], _precision: Precision) -> Result<Vec<Array>, String> {
        Ok(vec![operands[0].clone()])
    }
    fn vjp(&self, _cx: &mut VjpContext<'_>) -> Built<Grads> {
        Ok(vec![None])
    }
    fn decompose(&self, _b: &mut Builder, operands: &[Value]) -> Option<Built<Vec<Value>>> {
        Some(Ok(operands.to_vec()))
    }
    fn stops_gradient(&self) -> bool {
        true
    }
    fn samples(&self) -> Vec<Sample> {
        [DType::F32, DType::I32].into_iter().map(|dtype| Sample::new(Detach {}, vec![TensorType::new(dtype, (3, 5))])).collect()
    }
}
