//! Matrix products of which a triangle is zero.

use super::array::coordinates;
use super::{Array, BatchContext, Built, Class, Grads, Matmul, NestBuilder, OpDef, Precision, Sample, VjpContext};
use crate::loop_ir::Triangle;
use crate::types::{DType, Dim, TensorType};
use serde::{Deserialize, Serialize};

/// [`Matmul`] with zeros above the diagonal of the matrices of its result or of its left operand, whatever that holds there; about half of the
/// arithmetic is left out.
///
/// * Operands and attributes as there. The left operand's diagonal is that of its matrices in memory: element `[r, c]` is zero for `c > r`,
///   also where it is read transposed.
/// * No gradient: the derivative of causal attention introduces it, where nothing is differentiated twice.
/// * Numerics: as [`Matmul`]; a zero times a number that is not finite may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TriangularMatmul {
    /// Whether zeros are in the result; else in the left operand.
    pub of_result: bool,
    /// The product.
    #[serde(flatten)]
    pub product: Matmul,
}

/// An array with zeros above the diagonals of its matrices.
fn below_diagonal(x: &Array) -> Array {
    let rank = x.shape.len();
    let floats = x.floats();
    let kept = coordinates(&x.shape).zip(floats.iter()).map(|(at, v)| if at[rank - 1] > at[rank - 2] { 0.0 } else { *v });
    Array::float(x.dtype, x.shape.clone(), kept.collect())
}

impl OpDef for TriangularMatmul {
    fn name(&self) -> &'static str {
        "triangular_matmul"
    }
    fn class(&self) -> Class {
        Class::Template
    }
    fn multiply_adds(&self, operands: &[TensorType], results: &[TensorType]) -> f64 {
        self.product.multiply_adds(operands, results) / 2.0
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let results = self.product.infer(operands)?;
        if !results[0].dtype.is_float() { Err("operands are not of floats".into()) } else { Ok(results) }
    }
    fn equal_sizes(&self, operands: &[TensorType]) -> Vec<(Dim, Dim)> {
        self.product.equal_sizes(operands)
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        if self.of_result {
            return Ok(self.product.eval(operands, types, precision)?.iter().map(below_diagonal).collect());
        }
        self.product.eval(&[below_diagonal(&operands[0]), operands[1].clone()], types, precision)
    }
    fn vjp(&self, _cx: &mut VjpContext<'_>) -> Built<Grads> {
        Err("triangular_matmul is not differentiable; differentiate matmul of masked operands".into())
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<crate::graph::Value>> {
        cx.apply(self.clone())
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let triangle = match (self.of_result, self.product.transpose_a) {
            (true, _) => Triangle::Results,
            (false, false) => Triangle::TermsAfter,
            (false, true) => Triangle::TermsBefore,
        };
        self.product.lower_part(cx, triangle)
    }
    fn samples(&self) -> Vec<Sample> {
        let ty = |rows: i64, cols: i64, swap: bool| TensorType::new(DType::F32, if swap { (2, cols, rows) } else { (2, rows, cols) });
        let mut out = vec![];
        for of_result in [true, false] {
            for (transpose_a, transpose_b) in [(false, true), (true, false)] {
                // More rows than a tile has, so that some tiles are left out; sizes that divide by nothing.
                for (m, k, n) in [(67, 70, 5), (5, 9, 67), (67, 5, 70)] {
                    let op = TriangularMatmul { of_result, product: Matmul { transpose_a, transpose_b } };
                    out.push(Sample::new(op, vec![ty(m, k, transpose_a), ty(k, n, transpose_b)]));
                }
            }
        }
        out
    }
}
