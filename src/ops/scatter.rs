//! Accumulation at computed indices, written as a reduction so that it needs no atomics and is deterministic.

use super::array::{coordinates, flat_index};
use super::gather::{check_index, checked_indices, load_index, spread_index};
use super::{Array, BatchContext, Built, Class, Gather, Grads, IndexSelect, NestBuilder, OpDef, Precision, Sample, VjpContext};
use crate::graph::Value;
use crate::loop_ir::{BodyBuilder, Combiner, IndexExpr, Tag, Val, flatten, unflatten};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, Shape, TensorType, paired, paired_besides};
use serde::{Deserialize, Serialize};

/// `out = base`, then `out[i, index[i, j, ...], ...] += src[i, j, ...]` with the index in place of coordinate `dim`: PyTorch's
/// `scatter_add`. Repeated indices accumulate.
///
/// * Operands `base` and `src` of one float or integer dtype, and `index` of an integer dtype, all of one rank; `src` has the
///   index's shape, which besides `dim` is not larger than `base`.
/// * With `checked`, an index outside `0..size` is an error; without (gradients, whose forward has checked) it adds nothing.
/// * Gradient: the cotangent for `base`, [`Gather`] of it for `src`.
/// * Numerics: sums in the accumulator of the dtype, in index order on the interpreters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ScatterAdd {
    /// The dimension indexed.
    pub dim: u32,
    /// Whether indices are checked.
    pub checked: bool,
}

/// `out = base`, then `out[before..., index[i...], after...] += src[before..., i..., after...]`: the transpose of
/// [`IndexSelect`], and with `dim` 0 the gradient of an embedding's weight. Repeated indices accumulate.
///
/// * Operands `base` and `src` of one float or integer dtype, and `index` of an integer dtype and any rank, whose shape takes
///   the place of dimension `dim` in `src`.
/// * With `checked`, an index outside `0..size` is an error; without (gradients, whose forward has checked) it adds nothing.
/// * Gradient: the cotangent for `base`, [`IndexSelect`] of it for `src`.
/// * Numerics: sums in the accumulator of the dtype, in index order on the interpreters.
/// * PyTorch: `index_add` for an index of rank one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IndexAdd {
    /// The dimension indexed.
    pub dim: u32,
    /// Whether indices are checked.
    pub checked: bool,
}

fn check_dtypes(base: &TensorType, src: &TensorType) -> Result<(), String> {
    if base.dtype != src.dtype || base.dtype == DType::Bool {
        return Err("base and source differ in dtype or are bool".into());
    }
    Ok(())
}

/// Adds `src[k]` to `base[target(k)]` in order; `None` targets add nothing.
fn accumulate(base: &Array, src: &Array, targets: impl Iterator<Item = Option<usize>>, precision: Precision) -> Array {
    let (dtype, shape) = (base.dtype, base.shape.clone());
    if dtype.is_float() {
        let (mut out, accumulator) = (base.floats(), dtype.accumulator());
        for (x, target) in src.floats().into_iter().zip(targets) {
            if let Some(k) = target {
                out[k] = precision.round(accumulator, out[k] + x);
            }
        }
        return Array::float(dtype, shape, out.into_iter().map(|x| precision.round(dtype, x)).collect());
    }
    let mut out = base.ints();
    for (x, target) in src.ints().into_iter().zip(targets) {
        if let Some(k) = target {
            out[k] = dtype.wrap(out[k].wrapping_add(x));
        }
    }
    Array::int(dtype, shape, out)
}

/// Indices of an evaluation; `None` where unchecked ones are outside.
fn targets(op: &str, checked: bool, index: &Array, size: usize) -> Result<Vec<Option<usize>>, String> {
    if checked {
        return Ok(checked_indices(op, index, size)?.into_iter().map(Some).collect());
    }
    Ok(index.ints().into_iter().map(|i| (0..size as i64).contains(&i).then_some(i as usize)).collect())
}

/// The accumulation of one element: where `index` names the row, `src` is summed over the columns; plus `base`.
struct Accumulation {
    index: Val,
    source: Val,
    base: Val,
    axis: u32,
    dtype: DType,
}

impl Accumulation {
    fn build(self, b: &mut BodyBuilder, row: &IndexExpr) -> Val {
        let accumulator = if self.dtype.is_float() { self.dtype.accumulator() } else { self.dtype };
        let position = b.index(row, b.dtype(self.index));
        let hit = b.call(ScalarFn::Eq, &[self.index, position]);
        let source = b.cast(self.source, accumulator);
        let zero = b.constant(accumulator, 0.0);
        let term = b.call(ScalarFn::Where, &[hit, source, zero]);
        let sum = b.reduce(Combiner::Sum, term);
        b.tag = Tag::ScatterSum { index: self.index, axis: self.axis, source, sum };
        let base = b.cast(self.base, accumulator);
        let total = b.call(ScalarFn::Add, &[base, sum]);
        b.cast(total, self.dtype)
    }
}

/// Whether an index of a shape that may be smaller than the result's, besides `dim`, has an element for this row.
pub(super) fn reached(b: &mut BodyBuilder, index: &Shape, result: &Shape, row: &[IndexExpr], dim: usize) -> Option<Val> {
    let mut mask = None;
    for (i, r) in row.iter().enumerate() {
        if i != dim && index[i] != result[i] {
            let position = b.index(r, DType::I32);
            let end = b.index(&IndexExpr::constant(index[i].clone()), DType::I32);
            let inside = b.call(ScalarFn::Lt, &[position, end]);
            mask = Some(mask.map_or(inside, |m| b.call(ScalarFn::LogicalAnd, &[m, inside])));
        }
    }
    mask
}

/// An index clamped to `0..size`, setting the status word, when there is a code for it.
fn bounded(b: &mut BodyBuilder, index: Val, size: &Dim, code: Option<u32>) -> Val {
    match code {
        Some(code) => {
            let bound = b.bound(index, size, None, code);
            b.index(&bound, DType::I32)
        }
        None => b.cast(index, DType::I32),
    }
}

impl OpDef for ScatterAdd {
    fn name(&self) -> &'static str {
        "scatter_add"
    }
    fn class(&self) -> Class {
        Class::Scatter
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [base, index, src] = operands else { return Err("takes a base, an index and a source".into()) };
        check_scatter(base, index, src, self.dim)?;
        Ok(vec![base.clone()])
    }
    fn equal_sizes(&self, operands: &[TensorType]) -> Vec<(Dim, Dim)> {
        let [_, index, src] = operands else { return vec![] };
        paired(&index.shape.0, &src.shape.0)
    }
    fn bounded_sizes(&self, operands: &[TensorType]) -> Vec<(Dim, Dim)> {
        let [base, index, _] = operands else { return vec![] };
        bounded_sizes(base, index, self.dim)
    }
    fn eval(&self, operands: &[Array], _types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        let (base, index, dim) = (&operands[0], &operands[1], self.dim as usize);
        let rows = targets(self.name(), self.checked, index, base.shape[dim])?;
        let places = coordinates(&index.shape).zip(rows).map(|(mut at, row)| {
            at[dim] = row?;
            Some(flat_index(&at, &base.shape))
        });
        Ok(vec![accumulate(base, &operands[2], places, precision)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let Some(g) = cx.cotangents[0] else { return Ok(vec![None; 3]) };
        let dsrc = cx.b.op(Gather { dim: self.dim }, &[g, cx.operands[1]])?;
        Ok(vec![Some(g), None, Some(dsrc)])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(ScatterAdd { dim: self.dim + 1, ..self.clone() })
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let (base, index, src, dim) = (cx.operand(0), cx.operand(1), cx.operand(2), self.dim as usize);
        let (buffer, ty) = cx.results[0].clone();
        let size = ty.shape[dim].clone();
        let code = self.checked.then(|| cx.check(format!("scatter_add: index outside 0..{size} of dimension {dim}")));
        let cols = [index.ty.shape[dim].clone()];
        cx.nest(&ty.shape.0, &cols, |b, row, col| {
            let mut at = row.to_vec();
            at[dim] = col[0].clone();
            let mask = reached(b, &index.ty.shape, &ty.shape, row, dim);
            let i = load_index(b, &index, &at, mask);
            let i = bounded(b, i, &size, code);
            let source = b.load_if(src.at(&at), mask);
            let base = b.load(base.at(row));
            let out = Accumulation { index: i, source, base, axis: self.dim, dtype: ty.dtype }.build(b, &row[dim]);
            b.write(buffer, flatten(row, &ty.shape.0), out);
            Ok(())
        })
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |dtype: DType, index: DType, dim: u32, base: &[i64], at: &[i64]| {
            let operands = vec![TensorType::new(dtype, base), TensorType::new(index, at), TensorType::new(dtype, at)];
            Sample::new(ScatterAdd { dim, checked: true }, operands).index_below(base[dim as usize])
        };
        let mut out = vec![
            of(DType::F32, DType::I32, 0, &[5, 3], &[7, 3]),
            of(DType::F32, DType::I64, 1, &[3, 4], &[2, 5]),
            of(DType::F32, DType::I32, 1, &[2, 1, 3], &[1, 7, 2]),
            of(DType::I32, DType::I32, 0, &[5], &[11]),
            of(DType::F32, DType::I32, 0, &[3, 2], &[0, 2]),
        ];
        // Indices that are not checked may be outside.
        let operands = vec![TensorType::new(DType::F32, (2, 3)), TensorType::new(DType::I32, (5, 3)), TensorType::new(DType::F32, (5, 3))];
        out.push(Sample::new(ScatterAdd { dim: 0, checked: false }, operands).index_below(2));
        out
    }
}

impl OpDef for IndexAdd {
    fn name(&self) -> &'static str {
        "index_add"
    }
    fn class(&self) -> Class {
        Class::Scatter
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [base, index, src] = operands else { return Err("takes a base, an index and a source".into()) };
        check_index(index, self.dim, &base.shape)?;
        check_dtypes(base, src)?;
        let (before, after) = base.shape.0.split_at(self.dim as usize);
        let expected: Vec<Dim> = before.iter().chain(&index.shape.0).chain(&after[1..]).cloned().collect();
        if !src.shape.known_eq(&Shape::new(expected.clone())) {
            return Err(format!("the source must be {}", Shape::new(expected)));
        }
        Ok(vec![base.clone()])
    }
    fn equal_sizes(&self, operands: &[TensorType]) -> Vec<(Dim, Dim)> {
        let [base, index, src] = operands else { return vec![] };
        let Some((before, after)) = base.shape.0.split_at_checked(self.dim as usize) else { return vec![] };
        let expected: Vec<Dim> = before.iter().chain(&index.shape.0).chain(after.iter().skip(1)).cloned().collect();
        if expected.len() == src.shape.rank() { paired(&expected, &src.shape.0) } else { vec![] }
    }
    fn eval(&self, operands: &[Array], _types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        let (base, index, src, dim) = (&operands[0], &operands[1], &operands[2], self.dim as usize);
        let rows = targets(self.name(), self.checked, index, base.shape[dim])?;
        let rank = index.shape.len();
        let places = coordinates(&src.shape).map(|at| {
            let row = rows[flat_index(&at[dim..dim + rank], &index.shape)]?;
            let target: Vec<usize> = at[..dim].iter().copied().chain([row]).chain(at[dim + rank..].iter().copied()).collect();
            Some(flat_index(&target, &base.shape))
        });
        Ok(vec![accumulate(base, src, places, precision)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let Some(g) = cx.cotangents[0] else { return Ok(vec![None; 3]) };
        let dsrc = cx.b.op(IndexSelect { dim: self.dim }, &[g, cx.operands[1]])?;
        Ok(vec![Some(g), None, Some(dsrc)])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        if !cx.is_each(1) {
            let [base, src] = [cx.each(0)?, cx.each(2)?];
            return cx.b.node(IndexAdd { dim: self.dim + 1, ..self.clone() }, &[base, cx.value(1), src]);
        }
        let base = cx.example(0).shape;
        let index = spread_index(cx, 1, &base, self.dim as usize)?;
        let (base, src, shape) = (cx.each(0)?, cx.each(2)?, cx.b.shape(index).clone());
        let src = cx.b.reshape(src, shape)?;
        cx.b.node(ScatterAdd { dim: self.dim + 1, checked: self.checked }, &[base, index, src])
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let (base, index, src, dim) = (cx.operand(0), cx.operand(1), cx.operand(2), self.dim as usize);
        let (buffer, ty) = cx.results[0].clone();
        let size = ty.shape[dim].clone();
        let code = self.checked.then(|| cx.check(format!("index_add: index outside 0..{size} of dimension {dim}")));
        cx.nest(&ty.shape.0, &[index.ty.numel()], |b, row, col| {
            let at = unflatten(&col[0], &index.ty.shape.0);
            let i = load_index(b, &index, &at, None);
            let i = bounded(b, i, &size, code);
            let from: Vec<IndexExpr> = row[..dim].iter().chain(&at).chain(&row[dim + 1..]).cloned().collect();
            let (source, base) = (b.load(src.at(&from)), b.load(base.at(row)));
            let out = Accumulation { index: i, source, base, axis: self.dim, dtype: ty.dtype }.build(b, &row[dim]);
            b.write(buffer, flatten(row, &ty.shape.0), out);
            Ok(())
        })
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |dtype: DType, index: DType, dim: u32, base: &[i64], at: &[i64]| {
            let (before, after) = base.split_at(dim as usize);
            let src: Vec<i64> = before.iter().chain(at).chain(&after[1..]).copied().collect();
            let operands = vec![TensorType::new(dtype, base), TensorType::new(index, at), TensorType::new(dtype, &src[..])];
            Sample::new(IndexAdd { dim, checked: true }, operands).index_below(base[dim as usize])
        };
        vec![
            of(DType::F32, DType::I32, 0, &[7, 3], &[2, 5]),
            of(DType::F32, DType::I64, 1, &[3, 4], &[5]),
            of(DType::F32, DType::I32, 1, &[2, 3, 5], &[]),
            of(DType::I32, DType::I32, 0, &[5], &[11]),
            of(DType::F32, DType::I32, 0, &[3, 2], &[0]),
        ]
    }
}

/// Checks what scatters along `dim` have in common: dtypes, ranks and sizes.
pub(super) fn check_scatter(base: &TensorType, index: &TensorType, src: &TensorType, dim: u32) -> Result<(), String> {
    check_index(index, dim, &base.shape)?;
    check_dtypes(base, src)?;
    let fits = index.shape.rank() == base.shape.rank() && bounded_sizes(base, index, dim).iter().all(|(index, size)| index.known_le(size));
    if !fits || !src.shape.known_eq(&index.shape) {
        return Err(format!("source and index differ, or are larger than the base besides dimension {dim}"));
    }
    Ok(())
}

/// Sizes of index and base besides `dim`: the index may be smaller.
pub(super) fn bounded_sizes(base: &TensorType, index: &TensorType, dim: u32) -> Vec<(Dim, Dim)> {
    paired_besides(&index.shape, &base.shape, dim)
}
