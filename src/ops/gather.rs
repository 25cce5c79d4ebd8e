//! Reads at computed indices.

use super::array::{coordinates, flat_index, sizes};
use super::{Array, BatchContext, Built, Class, Grads, NestBuilder, OpDef, OperandView, Precision, Sample, VjpContext};
use super::{IndexAdd, ScatterAdd};
use crate::graph::Value;
use crate::loop_ir::{BodyBuilder, IndexExpr, Val};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, Shape, TensorType, paired_besides};
use serde::{Deserialize, Serialize};

/// `out[i, j, ...] = x[i, index[i, j, ...], ...]` with the index in place of coordinate `dim`: PyTorch's `gather`.
///
/// * Operands `x` of any dtype and `index` of an integer dtype, of one rank; besides `dim` the index is not larger than `x`.
///   The result has the index's shape. Nothing broadcasts.
/// * An index outside `0..size` is an error: of the evaluation, or through the status word on a device.
/// * Gradient: [`ScatterAdd`] of the cotangent into zeros. The index has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Gather {
    /// The dimension indexed.
    pub dim: u32,
}

/// `out[before..., i..., after...] = x[before..., index[i...], after...]`: slices of `x` along `dim`, chosen by an index of any
/// rank, whose shape takes the place of that dimension. With `dim` 0 this is an embedding.
///
/// * Operands `x` of any dtype and rank at least one, and `index` of an integer dtype.
/// * An index outside `0..size` is an error: of the evaluation, or through the status word on a device.
/// * Gradient: [`IndexAdd`] of the cotangent into zeros. The index has none.
/// * PyTorch: `index_select` for an index of rank one, `embedding` for `dim` 0; no padding index, no renormalization.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IndexSelect {
    /// The dimension indexed.
    pub dim: u32,
}

/// `out = index` as i32, where `0 <= index < size`; 0 where the index is `ignore`; anything else is an error: of the
/// evaluation, or through the status word on a device, where the index is clamped. Composites check labels with it.
///
/// * One integer operand. No gradient.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CheckIndex {
    /// Exclusive bound.
    pub size: Dim,
    /// A value outside the range that is admitted.
    pub ignore: Option<i64>,
    /// What the message calls the index: op and role.
    pub subject: String,
}

/// Whether a tensor may index a dimension of `size`.
pub(super) fn check_index(index: &TensorType, dim: u32, shape: &Shape) -> Result<(), String> {
    if !index.dtype.is_int() {
        return Err(format!("the index is {}, not an integer", index.dtype));
    }
    let size = shape.0.get(dim as usize).ok_or_else(|| format!("dimension {dim} is out of range"))?;
    if size.is(0) && !index.numel().is(0) {
        return Err(format!("dimension {dim} has no element to index"));
    }
    Ok(())
}

/// Checks indices of an evaluation.
pub(super) fn checked_indices(op: &str, index: &Array, size: usize) -> Result<Vec<usize>, String> {
    let inside = |i: i64| if (0..size as i64).contains(&i) { Ok(i as usize) } else { Err(format!("{op}: index {i} is outside 0..{size}")) };
    index.ints().into_iter().map(inside).collect()
}

/// Indices of each example for slices of `x` along `dim`, as indices of elements: flat in that dimension's place, repeated along others.
pub(super) fn spread_index(cx: &mut BatchContext<'_>, k: usize, x: &Shape, dim: usize) -> Built {
    let (index, mut flat) = (cx.value(k), x.map(&|_| Dim::int(1)));
    flat.0[dim] = cx.example(k).shape.numel();
    let mut full = x.clone();
    full.0[dim] = flat[dim].clone();
    let index = cx.b.reshape(index, cx.lead(&flat))?;
    cx.b.broadcast_to(index, &cx.lead(&full))
}

/// An index as an integer that devices have: i64 stays, everything else is an i32.
pub(super) fn load_index(b: &mut BodyBuilder, index: &OperandView, at: &[IndexExpr], mask: Option<Val>) -> Val {
    let raw = b.load_if(index.at(at), mask);
    if index.ty.dtype == DType::I64 { raw } else { b.cast(raw, DType::I32) }
}

impl OpDef for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }
    fn class(&self) -> Class {
        Class::Gather
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, index] = operands else { return Err("takes a tensor and an index".into()) };
        check_index(index, self.dim, &x.shape)?;
        let rank = x.shape.rank();
        let fits = index.shape.rank() == rank && (0..rank).all(|i| i == self.dim as usize || index.shape[i].known_le(&x.shape[i]));
        if !fits {
            return Err(format!("besides dimension {} the index is larger than the tensor", self.dim));
        }
        Ok(vec![TensorType { dtype: x.dtype, shape: index.shape.clone() }])
    }
    fn bounded_sizes(&self, operands: &[TensorType]) -> Vec<(Dim, Dim)> {
        let [x, index] = operands else { return vec![] };
        paired_besides(&index.shape, &x.shape, self.dim)
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], _precision: Precision) -> Result<Vec<Array>, String> {
        let (x, shape, dim) = (&operands[0], sizes(&types[0]), self.dim as usize);
        let index = checked_indices(self.name(), &operands[1], x.shape[dim])?;
        let from = coordinates(&shape).zip(index).map(|(mut at, i)| {
            at[dim] = i;
            flat_index(&at, &x.shape)
        });
        Ok(vec![x.gather(shape.clone(), from)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let (Some(g), x) = (cx.cotangents[0], cx.operands[0]) else { return Ok(vec![None; 2]) };
        if !cx.b.dtype(x).is_float() {
            return Ok(vec![None; 2]);
        }
        let zeros = cx.b.full(cx.b.dtype(x), 0.0, cx.b.shape(x).clone())?;
        let dx = cx.b.op(ScatterAdd { dim: self.dim, checked: false }, &[zeros, cx.operands[1], g])?;
        Ok(vec![Some(dx), None])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(Gather { dim: self.dim + 1 })
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let (x, index, dim) = (cx.operand(0), cx.operand(1), self.dim as usize);
        let size = x.ty.shape[dim].clone();
        let code = cx.check(format!("gather: index outside 0..{size} of dimension {dim}"));
        cx.pointwise(0, |b, at| {
            let i = load_index(b, &index, at, None);
            let mut from = at.to_vec();
            from[dim] = b.bound(i, &size, None, code);
            Ok(b.load(x.at(&from)))
        })
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |dtype: DType, index: DType, dim: u32, x: &[i64], at: &[i64]| {
            Sample::new(Gather { dim }, vec![TensorType::new(dtype, x), TensorType::new(index, at)]).index_below(x[dim as usize])
        };
        vec![
            of(DType::F32, DType::I32, 1, &[3, 5], &[3, 7]),
            of(DType::F32, DType::I64, 0, &[4, 3], &[2, 3]),
            of(DType::F32, DType::I32, 1, &[3, 5, 2], &[2, 1, 2]),
            of(DType::F32, DType::U8, 0, &[1], &[3]),
            of(DType::I32, DType::I32, 0, &[5], &[0]),
        ]
    }
}

impl OpDef for IndexSelect {
    fn name(&self) -> &'static str {
        "index_select"
    }
    fn class(&self) -> Class {
        Class::Gather
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, index] = operands else { return Err("takes a tensor and an index".into()) };
        check_index(index, self.dim, &x.shape)?;
        let (before, after) = x.shape.0.split_at(self.dim as usize);
        let shape: Vec<Dim> = before.iter().chain(&index.shape.0).chain(&after[1..]).cloned().collect();
        Ok(vec![TensorType { dtype: x.dtype, shape: Shape::new(shape) }])
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], _precision: Precision) -> Result<Vec<Array>, String> {
        let (x, at_index, shape, dim) = (&operands[0], &operands[1], sizes(&types[0]), self.dim as usize);
        let index = checked_indices(self.name(), at_index, x.shape[dim])?;
        let rank = at_index.shape.len();
        let from = coordinates(&shape).map(|at| {
            let i = index[flat_index(&at[dim..dim + rank], &at_index.shape)];
            let source: Vec<usize> = at[..dim].iter().copied().chain([i]).chain(at[dim + rank..].iter().copied()).collect();
            flat_index(&source, &x.shape)
        });
        Ok(vec![x.gather(shape.clone(), from)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let (Some(g), x) = (cx.cotangents[0], cx.operands[0]) else { return Ok(vec![None; 2]) };
        if !cx.b.dtype(x).is_float() {
            return Ok(vec![None; 2]);
        }
        let zeros = cx.b.full(cx.b.dtype(x), 0.0, cx.b.shape(x).clone())?;
        let dx = cx.b.op(IndexAdd { dim: self.dim, checked: false }, &[zeros, cx.operands[1], g])?;
        Ok(vec![Some(dx), None])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        let dim = self.dim as usize;
        if !cx.is_each(1) {
            return cx.b.node(IndexSelect { dim: self.dim + 1 }, &cx.values());
        }
        if !cx.is_each(0) {
            let y = cx.b.op(self.clone(), &cx.values())?;
            let rank = cx.b.shape(y).rank();
            return Ok(vec![cx.b.permute(y, &[dim].into_iter().chain(0..dim).chain(dim + 1..rank).collect::<Vec<_>>())?]);
        }
        let (x, index) = (cx.example(0).shape, cx.example(1).shape);
        let flat = spread_index(cx, 1, &x, dim)?;
        let y = cx.b.op(Gather { dim: self.dim + 1 }, &[cx.value(0), flat])?;
        let shape = cx.lead(&Shape::new([&x.0[..dim], &index.0, &x.0[dim + 1..]].concat()));
        Ok(vec![cx.b.reshape(y, shape)?])
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let (x, index, dim) = (cx.operand(0), cx.operand(1), self.dim as usize);
        let (size, rank) = (x.ty.shape[dim].clone(), index.ty.shape.rank());
        let code = cx.check(format!("index_select: index outside 0..{size} of dimension {dim}"));
        cx.pointwise(0, |b, at| {
            let i = load_index(b, &index, &at[dim..dim + rank], None);
            let mut from = at[..dim].to_vec();
            from.push(b.bound(i, &size, None, code));
            from.extend_from_slice(&at[dim + rank..]);
            Ok(b.load(x.at(&from)))
        })
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |dtype: DType, index: DType, dim: u32, x: &[i64], at: &[i64]| {
            Sample::new(IndexSelect { dim }, vec![TensorType::new(dtype, x), TensorType::new(index, at)]).index_below(x[dim as usize])
        };
        vec![
            of(DType::F32, DType::I32, 0, &[7, 3], &[2, 5]),
            of(DType::F32, DType::I64, 1, &[3, 4], &[5]),
            of(DType::F32, DType::I32, 1, &[2, 3, 5], &[]),
            of(DType::F32, DType::I32, 0, &[1, 2], &[3, 0]),
            of(DType::I32, DType::U32, 0, &[5], &[3]),
        ]
    }
}

impl OpDef for CheckIndex {
    fn name(&self) -> &'static str {
        "check_index"
    }
    fn class(&self) -> Class {
        Class::Pointwise
    }
    fn checks_indices(&self) -> bool {
        true
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [index] = operands else { return Err("takes an index".into()) };
        if !index.dtype.is_int() {
            return Err(format!("the index is {}, not an integer", index.dtype));
        }
        if self.size.range().1 < 0 {
            return Err(format!("an index cannot be below a size of {}", self.size));
        }
        Ok(vec![TensorType { dtype: DType::I32, shape: index.shape.clone() }])
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], _precision: Precision) -> Result<Vec<Array>, String> {
        let size = self.size.as_int().ok_or("symbolic size")?;
        let check = |i: i64| match self.ignore {
            Some(ignored) if i == ignored => Ok(0),
            _ if (0..size).contains(&i) => Ok(i),
            _ => Err(format!("{} {i} is outside 0..{size}", self.subject)),
        };
        Ok(vec![Array::int(DType::I32, sizes(&types[0]), operands[0].ints().into_iter().map(check).collect::<Result<_, _>>()?)])
    }
    fn vjp(&self, _cx: &mut VjpContext<'_>) -> Built<Grads> {
        Ok(vec![None])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(self.clone())
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let index = cx.operand(0);
        let code = cx.check(format!("{} outside 0..{}", self.subject, self.size));
        cx.pointwise(0, |b, at| {
            let mut i = load_index(b, &index, at, None);
            if let Some(ignored) = self.ignore {
                let dtype = b.dtype(i);
                let (ignored, zero) = (b.constant(dtype, ignored as f64), b.constant(dtype, 0.0));
                let skip = b.call(ScalarFn::Eq, &[i, ignored]);
                i = b.call(ScalarFn::Where, &[skip, zero, i]);
            }
            let bound = b.bound(i, &self.size, None, code);
            Ok(b.index(&bound, DType::I32))
        })
    }
    fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        self.size = f(&self.size);
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |dtype: DType, size: i64, ignore: Option<i64>| {
            let op = CheckIndex { size: size.into(), ignore, subject: "check_index: index".into() };
            Sample::new(op, vec![TensorType::new(dtype, (3, 5))]).index_below(7)
        };
        vec![of(DType::I32, 7, None), of(DType::I64, 7, Some(3)), of(DType::I32, 6, Some(6))]
    }
}
