//! Sorting along a dimension.

use super::composite::rows;
use super::{Array, BatchContext, Built, Class, Data, Gather, Grads, NestBuilder, OpDef, Precision, Sample, ScatterAdd, VjpContext};
use crate::graph::Value;
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

/// Two results: the first `k` values of `x` in order along `dim`, and the index each came from, i32.
///
/// * One operand of any dtype, at least `k` long along `dim`. Of equal elements the first ones are taken, in order. NaN is larger than
///   everything: first, or last when ascending.
/// * Gradient: the cotangent of the values, added to zeros at the indices. The indices have none.
/// * PyTorch: `topk`, which does not say which of equal elements it takes, and whose indices are i64.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TopK {
    /// Number of elements taken.
    pub k: Dim,
    /// The dimension taken along.
    pub dim: u32,
    /// Largest first.
    pub descending: bool,
}

/// NaN is larger than everything; zeros are equal.
fn compare(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// The first `k` elements of each row along `dim`, and where they came from.
fn first_of_rows(x: &Array, dim: usize, k: usize, descending: bool) -> Vec<Array> {
    let mut shape = x.shape.clone();
    shape[dim] = k;
    let numel = shape.iter().product();
    let (mut from, mut index) = (vec![0; numel], vec![0; numel]);
    for (row, out) in rows(&x.shape, &[dim]).iter().zip(rows(&shape, &[dim])) {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&a, &b| {
            let ordering = match &x.data {
                Data::Float(v) => compare(v[row[a]], v[row[b]]),
                Data::Int(v) => v[row[a]].cmp(&v[row[b]]),
            };
            if descending { ordering.reverse() } else { ordering }
        });
        for (&to, &k) in out.iter().zip(&order) {
            from[to] = row[k];
            index[to] = k as i64;
        }
    }
    vec![x.gather(shape.clone(), from.into_iter()), Array::int(DType::I32, shape, index)]
}

/// The one operand, which has that dimension.
fn sorted_operand(operands: &[TensorType], dim: u32) -> Result<&TensorType, String> {
    let [x] = operands else { return Err("takes one operand".into()) };
    if dim as usize >= x.shape.rank() {
        return Err(format!("dimension {dim} is out of range"));
    }
    Ok(x)
}

/// A nest of one sort, of which the first `k` elements of each row are written, or all.
fn lower_sort(cx: &mut NestBuilder<'_>, dim: usize, descending: bool, k: Option<&Dim>) -> Result<(), String> {
    let x = cx.operand(0);
    let ((values, ty), (indices, _)) = (cx.results[0].clone(), cx.results[1].clone());
    let mut rows: Vec<Dim> = x.ty.shape.0.to_vec();
    let cols = [rows.remove(dim)];
    cx.nest(&rows, &cols, |b, row, col| {
        let mut at = row.to_vec();
        at.insert(dim, col[0].clone());
        let key = b.load(x.at(&at));
        let sorted = b.sort(key, descending);
        let source = b.proj(sorted, 1);
        for (buffer, value) in [(values, sorted), (indices, source)] {
            let place = flatten(&at, &ty.shape.0);
            match k {
                Some(k) => b.write_first(buffer, place, value, k),
                None => b.write(buffer, place, value),
            }
        }
        Ok(())
    })
}

impl OpDef for Sort {
    fn name(&self) -> &'static str {
        "sort"
    }
    fn class(&self) -> Class {
        Class::Sort
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let x = sorted_operand(operands, self.dim)?;
        Ok(vec![x.clone(), TensorType { dtype: DType::I32, shape: x.shape.clone() }])
    }
    fn eval(&self, operands: &[Array], _types: &[TensorType], _precision: Precision) -> Result<Vec<Array>, String> {
        let size = operands[0].shape[self.dim as usize];
        Ok(first_of_rows(&operands[0], self.dim as usize, size, self.descending))
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let Some(g) = cx.cotangents[0] else { return Ok(vec![None]) };
        let inverse = cx.b.node(Sort { dim: self.dim, descending: false }, &[cx.results[1]])?[1];
        Ok(vec![Some(cx.b.op(Gather { dim: self.dim }, &[g, inverse])?)])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(Sort { dim: self.dim + 1, ..self.clone() })
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        lower_sort(cx, self.dim as usize, self.descending, None)
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

impl OpDef for TopK {
    fn name(&self) -> &'static str {
        "topk"
    }
    fn class(&self) -> Class {
        Class::Sort
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let x = sorted_operand(operands, self.dim)?;
        if !self.k.known_le(&x.shape[self.dim as usize]) {
            return Err(format!("{} elements are not known to have a first {}", x.shape[self.dim as usize], self.k));
        }
        let mut shape = x.shape.clone();
        shape.0[self.dim as usize] = self.k.clone();
        Ok(vec![TensorType { dtype: x.dtype, shape: shape.clone() }, TensorType { dtype: DType::I32, shape }])
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], _precision: Precision) -> Result<Vec<Array>, String> {
        let k = types[0].shape[self.dim as usize].as_int().ok_or("its size is not a number")?;
        Ok(first_of_rows(&operands[0], self.dim as usize, k as usize, self.descending))
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let Some(g) = cx.cotangents[0] else { return Ok(vec![None]) };
        let x = cx.operands[0];
        let zeros = cx.b.full(cx.b.dtype(x), 0.0, cx.b.shape(x).clone())?;
        Ok(vec![Some(cx.b.op(ScatterAdd { dim: self.dim, checked: false }, &[zeros, cx.results[1], g])?)])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(TopK { dim: self.dim + 1, ..self.clone() })
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        lower_sort(cx, self.dim as usize, self.descending, Some(&self.k))
    }
    fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        self.k = f(&self.k);
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |dtype: DType, shape: &[i64], dim: u32, k: i64, descending: bool| {
            Sample::new(TopK { k: Dim::int(k), dim, descending }, vec![TensorType::new(dtype, shape)])
        };
        vec![
            of(DType::F32, &[3, 7], 1, 2, true),
            of(DType::F32, &[5, 2, 3], 0, 5, true),
            of(DType::F32, &[1], 0, 1, false),
            of(DType::F32, &[2, 300], 1, 3, false),
            of(DType::I32, &[2, 11], 1, 4, true),
            of(DType::I32, &[11], 0, 1, false),
        ]
    }
}
