//! Sorting along a dimension.

use super::composite::rows;
use super::{Array, Built, Class, Data, Gather, Grads, NestBuilder, OpDef, Precision, Sample, VjpContext};
use crate::loop_ir::flatten;
use crate::types::{DType, Dim, TensorType};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// Two results: the values of `x` in order along `dim`, and the index each came from, i32.
///
/// * One operand of any dtype. Stable. NaN is larger than everything: last, or first when descending.
/// * Gradient: the cotangent of the values, read through the inverse permutation (the sorted indices' own indices), so that no
///   float is compared again. The indices have none.
/// * PyTorch: `sort` with `stable=True`, whose indices are i64.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sort {
    /// The dimension sorted along.
    pub dim: u32,
    /// Largest first.
    pub descending: bool,
}

/// NaN is larger than everything; zeros are equal.
fn compare(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

impl OpDef for Sort {
    fn name(&self) -> &'static str {
        "sort"
    }
    fn class(&self) -> Class {
        Class::Sort
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = operands else { return Err("takes one operand".into()) };
        if self.dim as usize >= x.shape.rank() {
            return Err(format!("dimension {} is out of range", self.dim));
        }
        Ok(vec![x.clone(), TensorType { dtype: DType::I32, shape: x.shape.clone() }])
    }
    fn eval(&self, operands: &[Array], _types: &[TensorType], _precision: Precision) -> Result<Vec<Array>, String> {
        let x = &operands[0];
        let mut from = vec![0; x.numel()];
        let mut index = vec![0; x.numel()];
        for row in rows(&x.shape, &[self.dim as usize]) {
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|&a, &b| {
                let ordering = match &x.data {
                    Data::Float(v) => compare(v[row[a]], v[row[b]]),
                    Data::Int(v) => v[row[a]].cmp(&v[row[b]]),
                };
                if self.descending { ordering.reverse() } else { ordering }
            });
            for (&to, &k) in row.iter().zip(&order) {
                from[to] = row[k];
                index[to] = k as i64;
            }
        }
        let values = x.gather(x.shape.clone(), from.into_iter());
        Ok(vec![values, Array::int(DType::I32, x.shape.clone(), index)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let Some(g) = cx.cotangents[0] else { return Ok(vec![None]) };
        let inverse = cx.b.node(Sort { dim: self.dim, descending: false }, &[cx.results[1]])?[1];
        Ok(vec![Some(cx.b.op(Gather { dim: self.dim }, &[g, inverse])?)])
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let (x, dim) = (cx.operand(0), self.dim as usize);
        let ((values, ty), (indices, _)) = (cx.results[0].clone(), cx.results[1].clone());
        let mut rows: Vec<Dim> = ty.shape.0.clone();
        let cols = [rows.remove(dim)];
        cx.nest(&rows, &cols, |b, row, col| {
            let mut at = row.to_vec();
            at.insert(dim, col[0].clone());
            let key = b.load(&x, &at);
            let sorted = b.sort(key, self.descending);
            let source = b.proj(sorted, 1);
            b.write(values, flatten(&at, &ty.shape.0), sorted);
            b.write(indices, flatten(&at, &ty.shape.0), source);
            Ok(())
        })
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |dtype: DType, shape: &[i64], dim: u32, descending: bool| Sample::new(Sort { dim, descending }, vec![TensorType::new(dtype, shape)]);
        vec![
            of(DType::F32, &[3, 7], 1, false),
            of(DType::F32, &[5, 2, 3], 0, true),
            of(DType::F32, &[1], 0, false),
            of(DType::F32, &[2, 0], 1, false),
            of(DType::I32, &[2, 11], 1, true),
            of(DType::I32, &[11], 0, false),
        ]
    }
}
