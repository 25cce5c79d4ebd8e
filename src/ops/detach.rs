//! Values that no gradient passes.

use super::{Array, BatchContext, Built, Class, Grads, OpDef, Precision, Sample, VjpContext};
use crate::graph::{Builder, Value};
use crate::types::{DType, TensorType};
use serde::{Deserialize, Serialize};

/// `y = x`, of any shape and dtype, as a constant to derivatives: PyTorch's `detach`, JAX's `stop_gradient`.
///
/// * Gradient: none. Differentiation stops here, so that what `x` is made of may have no derivative at all; a parameter that
///   reaches the loss only through detached values gets no update, as in PyTorch, where its gradient is `None`.
/// * It decomposes into `x` itself and costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Detach {
    /// What further derivatives see of it.
    #[serde(default, skip_serializing_if = "Constancy::is_plain")]
    pub constancy: Constancy,
}

/// What derivatives of derivatives see of a [`Detach`]. The first derivative takes each but the last for a constant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Constancy {
    /// A constant.
    #[default]
    Plain,
    /// The factor by which an operator states its partial derivative: what the derivative is made of has the factor itself.
    Partial,
    /// A part of a value that carries the gradient of another one: the gradient's own derivative is not known.
    Surrogate,
    /// A gradient whose own derivative is not known: asking for it is an error.
    Unknown,
}

impl Constancy {
    fn is_plain(&self) -> bool {
        *self == Constancy::Plain
    }
}

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
        match self.constancy {
            Constancy::Unknown => Err("the derivative of this gradient is not known: an operator on the way states its gradient only".into()),
            _ => Ok(vec![None]),
        }
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(self.clone())
    }
    fn decompose(&self, _b: &mut Builder, operands: &[Value]) -> Option<Built<Vec<Value>>> {
        Some(Ok(operands.to_vec()))
    }
    fn stops_gradient(&self) -> bool {
        self.constancy != Constancy::Unknown
    }
    fn samples(&self) -> Vec<Sample> {
        [DType::F32, DType::I32].into_iter().map(|dtype| Sample::new(Detach::default(), vec![TensorType::new(dtype, (3, 5))])).collect()
    }
}
