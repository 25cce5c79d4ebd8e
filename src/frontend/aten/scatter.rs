//! Indexing by several tensors, and writes at indices: everything of which later writes win, or which combines.

use super::args::{Args, Cx};
use super::gradients::{detached, gradient_only};
use super::{Row, pure};
use crate::graph::Value;
use crate::ops::{CheckIndex, Constancy, Constant, Detach, Op, ReduceKind, ScatterAdd, ScatterReduce};
use crate::scalar::ScalarFn as F;
use crate::types::{DType, Dim, HostTensor, Shape, broadcast_shapes};

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["index.Tensor", "_unsafe_index.Tensor"], index),
    pure(&["index_put.default", "_unsafe_index_put.default"], index_put),
    pure(&["take.default"], |cx, a| {
        let (x, index) = (a.tensor("self")?, a.tensor("index")?);
        let n = cx.shape(x).numel();
        let flat = cx.b.reshape(x, [n.clone()])?;
        let index = wrapped(cx, index, &n, "take: index")?;
        Ok(vec![cx.b.index_select(flat, 0, index)?])
    }),
    pure(&["put.default"], put),
    pure(&["scatter.src", "scatter.value"], |cx, a| Ok(vec![assigned(cx, a)?])),
    pure(&["scatter.reduce", "scatter.value_reduce"], |cx, a| {
        let mode = match a.text_or("reduce", "")? {
            "add" => "sum",
            "multiply" => "prod",
            other => return Err(format!("reduction {other} is not known")),
        };
        let s = Scatter::new(cx, a)?;
        let out = s.reduce(cx, mode, true)?;
        s.finish(cx, out)
    }),
    pure(&["scatter_reduce.two"], |cx, a| {
        let s = Scatter::new(cx, a)?;
        let out = s.reduce(cx, a.text_or("reduce", "")?, a.bool_or("include_self", true)?)?;
        s.finish(cx, out)
    }),
    pure(&["index_reduce.default"], index_reduce),
    pure(&["index_copy.default"], index_copy),
    pure(&["index_fill.int_Scalar", "index_fill.int_Tensor"], index_fill),
    pure(&["masked_scatter.default"], masked_scatter),
];

/// `scatter`: the last of the elements written to a place wins.
pub fn assigned(cx: &mut Cx, a: &Args) -> Result<Value, String> {
    let s = Scatter::new(cx, a)?;
    let out = s.assign(cx)?;
    s.finish(cx, out)?.pop().ok_or_else(|| "it has one result".into())
}

/// An index that may count from the end, checked, as i32.
fn wrapped(cx: &mut Cx, index: Value, size: &Dim, subject: &str) -> Result<Value, String> {
    if cx.b.dtype(index).is_float() {
        return Err(format!("{subject} is {}, not an integer", cx.b.ty(index)));
    }
    let index = if cx.b.dtype(index) == DType::I64 { index } else { cx.b.cast(index, DType::I32)? };
    let dtype = cx.b.dtype(index);
    let (n, zero) = (cx.b.size(size, dtype)?, cx.b.constant(dtype, 0.0)?);
    let negative = cx.b.scalar(F::Lt, &[index, zero])?;
    let from_end = cx.b.add(index, n)?;
    let index = cx.b.where_(negative, from_end, index)?;
    cx.b.op(CheckIndex { size: size.clone(), ignore: None, subject: subject.into() }, &[index])
}

/// A tensor's indexed dimensions as one, in front, and the index into it.
struct Indexed {
    /// Indexed dimensions, then the others.
    order: Vec<usize>,
    /// Number of elements of the indexed dimensions.
    size: Dim,
    /// Sizes of the other dimensions.
    rest: Vec<Dim>,
    /// i32.
    index: Value,
    /// Where the index's dimensions stand among the others in the result.
    place: usize,
}

impl Indexed {
    fn new(cx: &mut Cx, x: Value, indices: &[Option<Value>]) -> Result<Indexed, String> {
        let shape = cx.shape(x);
        if indices.len() > shape.rank() {
            return Err(format!("{} indices for {}", indices.len(), cx.b.ty(x)));
        }
        let dims: Vec<usize> = (0..indices.len()).filter(|&d| indices[d].is_some()).collect();
        let (Some(&first), Some(&last)) = (dims.first(), dims.last()) else { return Err("there is no index".into()) };
        let mut together = Shape::scalar();
        for index in indices.iter().flatten() {
            together = broadcast_shapes(&together, cx.b.shape(*index))?;
        }
        let mut linear = None;
        for &d in &dims {
            let Some(index) = indices[d] else { continue };
            let index = wrapped(cx, index, &shape[d], "index")?;
            linear = Some(match linear {
                None => index,
                Some(before) => {
                    let size = cx.b.size(&shape[d], DType::I32)?;
                    let before = cx.b.mul(before, size)?;
                    cx.b.add(before, index)?
                }
            });
        }
        let index = cx.b.broadcast_to(linear.ok_or("there is no index")?, &together)?;
        let others: Vec<usize> = (0..shape.rank()).filter(|d| !dims.contains(d)).collect();
        let size = Dim::product(dims.iter().map(|&d| &shape[d]));
        let rest = others.iter().map(|&d| shape[d].clone()).collect();
        let neighbors = last - first + 1 == dims.len();
        let order = dims.into_iter().chain(others).collect();
        Ok(Indexed { order, size, rest, index, place: if neighbors { first } else { 0 } })
    }

    /// `[size, rest...]`.
    fn front(&self, cx: &mut Cx, x: Value) -> Result<Value, String> {
        let moved = cx.b.permute(x, &self.order)?;
        let shape: Vec<Dim> = [self.size.clone()].into_iter().chain(self.rest.iter().cloned()).collect();
        cx.b.reshape(moved, shape)
    }

    /// Back to the tensor's own shape.
    fn back(&self, cx: &mut Cx, front: Value, shape: &Shape) -> Result<Value, String> {
        let moved: Vec<Dim> = self.order.iter().map(|&d| shape[d].clone()).collect();
        let front = cx.b.reshape(front, moved)?;
        let mut back = vec![0; self.order.len()];
        for (i, &d) in self.order.iter().enumerate() {
            back[d] = i;
        }
        cx.b.permute(front, &back)
    }

    /// For each dimension of the result, where it is in `[index..., rest...]`.
    fn result_order(&self, cx: &Cx) -> Vec<usize> {
        let rank = cx.b.shape(self.index).rank();
        let rest = rank..rank + self.rest.len();
        let (before, after) = (rest.start..rest.start + self.place, rest.start + self.place..rest.end);
        before.chain(0..rank).chain(after).collect()
    }
}

fn index(cx: &mut Cx, a: &Args) -> Built {
    let (x, indices) = (a.tensor("self")?, a.optional_tensors("indices")?);
    let indices = without_fixed_masks(cx, indices)?;
    if indices.iter().flatten().any(|&i| matches!(cx.b.dtype(i), DType::Bool | DType::U8)) {
        return Err("a mask selects a number of elements that depends on the data, which is not supported".into());
    }
    let given: Vec<usize> = (0..indices.len()).filter(|&d| indices[d].is_some()).collect();
    if let ([dim], Some(Some(index))) = (&given[..], given.first().map(|&d| indices[d])) {
        let size = cx.b.shape(x).0.get(*dim).cloned().ok_or("there are more indices than dimensions")?;
        let index = wrapped(cx, index, &size, "index")?;
        return Ok(vec![cx.b.index_select(x, *dim, index)?]);
    }
    if given.is_empty() {
        return Ok(vec![x]);
    }
    let at = Indexed::new(cx, x, &indices)?;
    let front = at.front(cx, x)?;
    let read = cx.b.index_select(front, 0, at.index)?;
    let order = at.result_order(cx);
    Ok(vec![cx.b.permute(read, &order)?])
}

/// Masks that the program itself holds as the positions where they are true, an index for each of their dimensions.
fn without_fixed_masks(cx: &mut Cx, indices: Vec<Option<Value>>) -> Result<Vec<Option<Value>>, String> {
    let mut out = vec![];
    for index in indices {
        let fixed = index.and_then(|v| match &*cx.b.graph().def(v).op {
            Op::Constant(c) if matches!(c.dtype, DType::Bool | DType::U8) => Some(c.to_host()),
            _ => None,
        });
        let Some(mask) = fixed else {
            out.push(index);
            continue;
        };
        let hits: Vec<usize> = mask.to_f64().iter().enumerate().filter(|(_, flag)| **flag != 0.0).map(|(at, _)| at).collect();
        let mut behind = mask.numel();
        for &size in mask.shape() {
            behind /= size.max(1);
            let at: Vec<f64> = hits.iter().map(|hit| (hit / behind.max(1) % size) as f64).collect();
            let at = HostTensor::from_f64(DType::I64, &[at.len()], &at);
            out.push(Some(cx.b.op(Constant::from_host(&at), &[])?));
        }
    }
    Ok(out)
}

fn index_put(cx: &mut Cx, a: &Args) -> Built {
    let (x, indices, values) = (a.tensor("self")?, a.optional_tensors("indices")?, a.tensor("values")?);
    let accumulate = a.bool_or("accumulate", false)?;
    let shape = cx.shape(x);
    let indices = if indices.iter().flatten().count() > 1 { without_fixed_masks(cx, indices)? } else { indices };
    if let Some(d) = indices.iter().position(|i| i.is_some_and(|i| matches!(cx.b.dtype(i), DType::Bool | DType::U8))) {
        let only = indices.iter().flatten().count() == 1;
        let Some(mask) = indices[d].filter(|_| only) else { return Err("a mask beside other indices is not supported".into()) };
        return Ok(vec![put_masked(cx, x, d, mask, values, accumulate)?]);
    }
    if indices.iter().flatten().count() == 0 {
        let values = cx.b.broadcast_to(values, &shape)?;
        return Ok(vec![match accumulate {
            true if cx.b.dtype(x) == DType::Bool => cx.b.scalar(F::LogicalOr, &[x, values])?,
            true => cx.b.add(x, values)?,
            false => values,
        }]);
    }
    let at = Indexed::new(cx, x, &indices)?;
    let order = at.result_order(cx);
    let unordered: Vec<Dim> = cx.shape(at.index).0.into_iter().chain(at.rest.iter().cloned()).collect();
    let result = Shape::new(order.iter().map(|&o| unordered[o].clone()).collect());
    let values = cx.b.broadcast_to(values, &result)?;
    let mut back = vec![0; order.len()];
    for (i, &o) in order.iter().enumerate() {
        back[o] = i;
    }
    let values = cx.b.permute(values, &back)?;
    let base = at.front(cx, x)?;
    let out = write_slices(cx, base, at.index, values, accumulate)?;
    Ok(vec![at.back(cx, out, &shape)?])
}

/// `base[index[k...], ...] = values[k..., ...]`, or the sum; of equal indices the last wins.
pub fn write_slices(cx: &mut Cx, base: Value, index: Value, values: Value, accumulate: bool) -> Result<Value, String> {
    let count = cx.shape(index).numel();
    if count.is(0) || cx.shape(base).numel().is(0) {
        return Ok(base);
    }
    let rest = cx.shape(base).0[1..].to_vec();
    let index = cx.b.reshape(index, [count.clone()])?;
    let slices: Vec<Dim> = [count.clone()].into_iter().chain(rest.iter().cloned()).collect();
    let values = cx.b.reshape(values, slices)?;
    if accumulate {
        let dtype = cx.b.dtype(base);
        let number = if dtype == DType::Bool { DType::I32 } else { dtype };
        let (base, values) = (cx.b.cast(base, number)?, cx.b.cast(values, number)?);
        let sum = cx.b.index_add(base, 0, index, values)?;
        return cx.b.cast(sum, dtype);
    }
    let none = cx.b.full(DType::I32, -1.0, [cx.shape(base)[0].clone()])?;
    let order = cx.b.iota(DType::I32, [count], 0)?;
    let last = cx.b.node(ScatterReduce { dim: 0, kind: ReduceKind::Max }, &[none, index, order])?[0];
    let (hit, last) = chosen(cx, last)?;
    let written = cx.b.index_select(values, 0, last)?;
    let mut spread = vec![Dim::int(1); rest.len() + 1];
    spread[0] = cx.shape(base)[0].clone();
    let hit = cx.b.reshape(hit, spread)?;
    let Some(carrier) = carrier(cx, values, 0)? else { return cx.b.where_(hit, written, base) };
    let fixed = detached(&mut cx.b, written)?;
    let none = cx.b.full(cx.b.dtype(base), 0.0, cx.shape(base))?;
    let carried = cx.b.index_add(none, 0, index, carrier)?;
    let written = cx.b.add(fixed, carried)?;
    cx.b.where_(hit, written, base)
}

/// Zeros that carry the gradient of values which are written: of those that meet in one place, PyTorch gives the cotangent of
/// that place to each, although one of them stays. A single one along the dimension meets none.
fn carrier(cx: &mut Cx, values: Value, dim: usize) -> Result<Option<Value>, String> {
    let alone = cx.b.shape(values)[dim].is(1);
    if cx.b.dtype(values).is_float() && !alone { gradient_only(&mut cx.b, values).map(Some) } else { Ok(None) }
}

/// Whether something was written, and a valid position.
fn chosen(cx: &mut Cx, position: Value) -> Result<(Value, Value), String> {
    let zero = cx.b.constant(DType::I32, 0.0)?;
    Ok((cx.b.scalar(F::Ge, &[position, zero])?, cx.b.scalar(F::Maximum, &[position, zero])?))
}

/// Writes where a mask over the dimensions from `first` on holds: one value, or one after the other.
fn put_masked(cx: &mut Cx, x: Value, first: usize, mask: Value, values: Value, accumulate: bool) -> Result<Value, String> {
    let (shape, covered) = (cx.shape(x), cx.b.shape(mask).rank());
    let mask = cx.b.cast(mask, DType::Bool)?;
    let behind = shape.rank().checked_sub(first + covered).ok_or("the mask has more dimensions than the tensor")?;
    let spread: Vec<Dim> = cx.shape(mask).0.into_iter().chain(vec![Dim::int(1); behind]).collect();
    let flag = cx.b.reshape(mask, spread)?;
    // In the result of reading, the masked dimensions are one.
    let rank = first + 1 + behind;
    let own = cx.shape(values);
    let missing = rank.checked_sub(own.rank()).ok_or("the values have too many dimensions")?;
    let of_one: Vec<Dim> = vec![Dim::int(1); missing].into_iter().chain(own.0).collect();
    let values = cx.b.reshape(values, of_one.clone())?;
    let written = if of_one[first].is(1) {
        let dims: Vec<Dim> = of_one[..first].iter().cloned().chain(vec![Dim::int(1); covered]).chain(of_one[first + 1..].iter().cloned()).collect();
        cx.b.reshape(values, dims)?
    } else {
        let count = cx.shape(mask).numel();
        let flat = cx.b.reshape(mask, [count])?;
        let place = rank_of_true(cx, flat, &of_one[first])?;
        let shape = cx.shape(mask);
        let place = cx.b.reshape(place, shape)?;
        cx.b.index_select(values, first, place)?
    };
    let written = cx.b.broadcast_to(written, &shape)?;
    let new = match accumulate {
        true if cx.b.dtype(x) == DType::Bool => cx.b.scalar(F::LogicalOr, &[x, written])?,
        true => cx.b.add(x, written)?,
        false => written,
    };
    cx.b.where_(flag, new, x)
}

/// For each element of a flat mask, how many before it hold, below `limit`.
fn rank_of_true(cx: &mut Cx, mask: Value, limit: &Dim) -> Result<Value, String> {
    let number = cx.b.cast(mask, DType::I32)?;
    let sum = cx.b.cumsum(number, 0)?;
    let (zero, one, limit) = (cx.b.constant(DType::I32, 0.0)?, cx.b.constant(DType::I32, 1.0)?, cx.b.size(limit, DType::I32)?);
    let place = cx.b.sub(sum, one)?;
    let last = cx.b.sub(limit, one)?;
    let place = cx.b.scalar(F::Minimum, &[place, last])?;
    cx.b.scalar(F::Maximum, &[place, zero])
}

fn masked_scatter(cx: &mut Cx, a: &Args) -> Built {
    let (x, mask, source) = (a.tensor("self")?, a.tensor("mask")?, a.tensor("source")?);
    let shape = broadcast_shapes(cx.b.shape(x), cx.b.shape(mask))?;
    let (x, mask) = (cx.b.broadcast_to(x, &shape)?, cx.b.broadcast_to(mask, &shape)?);
    let (count, available) = (shape.numel(), cx.shape(source).numel());
    if count.is(0) || available.is(0) {
        return Ok(vec![x]);
    }
    let (flat, source) = (cx.b.reshape(mask, [count])?, cx.b.reshape(source, [available.clone()])?);
    let place = rank_of_true(cx, flat, &available)?;
    let taken = cx.b.index_select(source, 0, place)?;
    let taken = cx.b.reshape(taken, shape)?;
    Ok(vec![cx.b.where_(mask, taken, x)?])
}

fn put(cx: &mut Cx, a: &Args) -> Built {
    let (x, index, source) = (a.tensor("self")?, a.tensor("index")?, a.tensor("source")?);
    let shape = cx.shape(x);
    let n = shape.numel();
    let flat = cx.b.reshape(x, [n.clone()])?;
    let index = wrapped(cx, index, &n, "put: index")?;
    let like = cx.shape(index);
    let source = cx.b.reshape(source, like)?;
    let out = write_slices(cx, flat, index, source, a.bool_or("accumulate", false)?)?;
    Ok(vec![cx.b.reshape(out, shape)?])
}

/// `dim` moved to the front.
fn dim_first(cx: &mut Cx, x: Value, dim: usize) -> Result<Value, String> {
    let rank = cx.b.shape(x).rank();
    let order: Vec<usize> = [dim].into_iter().chain((0..rank).filter(|&d| d != dim)).collect();
    cx.b.permute(x, &order)
}

/// The first dimension moved to `dim`.
fn dim_back(cx: &mut Cx, x: Value, dim: usize) -> Result<Value, String> {
    let rank = cx.b.shape(x).rank();
    let order: Vec<usize> = (1..=dim).chain([0]).chain(dim + 1..rank).collect();
    cx.b.permute(x, &order)
}

fn index_copy(cx: &mut Cx, a: &Args) -> Built {
    let (x, index, source) = (a.tensor("self")?, a.tensor("index")?, a.tensor("source")?);
    let shape = cx.shape(x);
    let dim = cx.dim(x, a.int("dim")?)?;
    let (x, index, source) = (cx.at_least_1d(x)?, cx.at_least_1d(index)?, cx.at_least_1d(source)?);
    let size = cx.shape(x)[dim].clone();
    let index = wrapped(cx, index, &size, "index_copy: index")?;
    let (base, values) = (dim_first(cx, x, dim)?, dim_first(cx, source, dim)?);
    let out = write_slices(cx, base, index, values, false)?;
    let out = dim_back(cx, out, dim)?;
    Ok(vec![cx.b.reshape(out, shape)?])
}

fn index_fill(cx: &mut Cx, a: &Args) -> Built {
    let (x, index) = (a.tensor("self")?, a.tensor("index")?);
    let shape = cx.shape(x);
    let dim = cx.dim(x, a.int("dim")?)?;
    let value = a.operand("value")?;
    let value = cx.as_tensor(&value, cx.b.dtype(x))?;
    let (x, index) = (cx.at_least_1d(x)?, cx.at_least_1d(index)?);
    let size = cx.shape(x)[dim].clone();
    if cx.shape(index).numel().is(0) || size.is(0) {
        return Ok(vec![cx.b.reshape(x, shape)?]);
    }
    let index = wrapped(cx, index, &size, "index_fill: index")?;
    let (none, like) = (cx.b.full(DType::I32, 0.0, [size.clone()])?, cx.shape(index));
    let ones = cx.b.full(DType::I32, 1.0, like)?;
    let count = cx.b.index_add(none, 0, index, ones)?;
    let hit = cx.b.cast(count, DType::Bool)?;
    let mut spread = vec![Dim::int(1); cx.b.shape(x).rank()];
    spread[dim] = size;
    let hit = cx.b.reshape(hit, spread)?;
    let out = cx.b.where_(hit, value, x)?;
    Ok(vec![cx.b.reshape(out, shape)?])
}

fn index_reduce(cx: &mut Cx, a: &Args) -> Built {
    let (x, index, source) = (a.tensor("self")?, a.tensor("index")?, a.tensor("source")?);
    let shape = cx.shape(x);
    let dim = cx.dim(x, a.int("dim")?)?;
    let (base, index, src) = (cx.at_least_1d(x)?, cx.at_least_1d(index)?, cx.at_least_1d(source)?);
    let like = cx.shape(src);
    super::rank_of(cx, src, dim + 1)?;
    let mut spread = vec![Dim::int(1); like.rank()];
    spread[dim] = cx.shape(index).numel();
    let index = cx.b.reshape(index, spread)?;
    let index = cx.b.broadcast_to(index, &like)?;
    let s = Scatter { shape, base, index, src, dim };
    let out = s.reduce(cx, a.text_or("reduce", "")?, a.bool_or("include_self", true)?)?;
    s.finish(cx, out)
}

/// What is made of elements written to places, with the gradient that gives each of them its share, and `kept` one where it counts.
pub fn with_shares(cx: &mut Cx, y: Value, kept: Value, [index, src, share]: [Value; 3], dim: usize) -> Result<Value, String> {
    let share = cx.b.op(Detach { constancy: Constancy::Partial }, &[share])?;
    let parts = cx.b.mul(src, share)?;
    let linear = cx.b.scatter_add(kept, index, parts, dim)?;
    cx.b.scalar(F::StraightThrough, &[y, linear])
}

/// A write at indices along one dimension, with operands of rank one at least.
struct Scatter {
    /// The shape of the result.
    shape: Shape,
    base: Value,
    index: Value,
    /// Of the index's shape and the base's dtype.
    src: Value,
    dim: usize,
}

impl Scatter {
    fn new(cx: &mut Cx, a: &Args) -> Result<Scatter, String> {
        let (x, index) = (a.tensor("self")?, a.tensor("index")?);
        let (shape, dtype) = (cx.shape(x), cx.b.dtype(x));
        let dim = cx.dim(x, a.int("dim")?)?;
        let (base, index) = (cx.at_least_1d(x)?, cx.at_least_1d(index)?);
        let like = cx.shape(index);
        let src = if a.has("src") {
            // What the index does not reach is not read.
            let mut src = a.tensor("src")?;
            src = cx.at_least_1d(src)?;
            for d in 0..like.rank() {
                src = cx.b.slice(src, d, 0, like[d].clone(), 1)?;
            }
            cx.b.cast(src, dtype)?
        } else {
            let value = cx.number(&a.scalar("value")?, dtype)?;
            cx.b.broadcast_to(value, &like)?
        };
        Ok(Scatter { shape, base, index, src, dim })
    }

    fn finish(&self, cx: &mut Cx, out: Value) -> Built {
        Ok(vec![cx.b.reshape(out, self.shape.clone())?])
    }

    fn is_empty(&self, cx: &Cx) -> bool {
        cx.b.shape(self.index).numel().is(0)
    }

    /// The last of the elements written to a place wins.
    fn assign(&self, cx: &mut Cx) -> Result<Value, String> {
        if self.is_empty(cx) {
            return Ok(self.base);
        }
        let (whole, like) = (cx.shape(self.base), cx.shape(self.index));
        // The part of the base that the index reaches.
        let mut part = self.base;
        for d in (0..whole.rank()).filter(|&d| d != self.dim) {
            part = cx.b.slice(part, d, 0, like[d].clone(), 1)?;
        }
        let size = cx.shape(part);
        let none = cx.b.full(DType::I32, -1.0, size.clone())?;
        let order = cx.b.iota(DType::I32, like, self.dim)?;
        let last = cx.b.node(ScatterReduce { dim: self.dim as u32, kind: ReduceKind::Max }, &[none, self.index, order])?[0];
        let (hit, last) = chosen(cx, last)?;
        let mut written = cx.b.gather(self.src, last, self.dim)?;
        if let Some(carrier) = carrier(cx, self.src, self.dim)? {
            let zeros = cx.b.full(cx.b.dtype(written), 0.0, size.clone())?;
            let carried = cx.b.scatter_add(zeros, self.index, carrier, self.dim)?;
            let fixed = detached(&mut cx.b, written)?;
            written = cx.b.add(fixed, carried)?;
        }
        if size == whole {
            return cx.b.where_(hit, written, self.base);
        }
        let high: Vec<Dim> = (0..whole.rank()).map(|d| whole[d].clone() - &size[d]).collect();
        let low = vec![Dim::int(0); whole.rank()];
        let (hit, written) = (cx.b.pad(hit, &low, &high, 0.0)?, cx.b.pad(written, &low, &high, 0.0)?);
        cx.b.where_(hit, written, self.base)
    }

    fn reduce(&self, cx: &mut Cx, mode: &str, include_self: bool) -> Result<Value, String> {
        if self.is_empty(cx) {
            return Ok(self.base);
        }
        let dtype = cx.b.dtype(self.base);
        if dtype == DType::Bool {
            let (base, src) = (cx.b.cast(self.base, DType::I32)?, cx.b.cast(self.src, DType::I32)?);
            let s = Scatter { shape: self.shape.clone(), base, index: self.index, src, dim: self.dim };
            let out = s.reduce(cx, mode, include_self)?;
            return cx.b.cast(out, DType::Bool);
        }
        let bounds = dtype.int_range().map_or((f64::NEG_INFINITY, f64::INFINITY), |(low, high)| (low as f64, high as f64));
        let (kind, identity) = match mode {
            "sum" | "mean" => (None, 0.0),
            "prod" => (Some(ReduceKind::Prod), 1.0),
            "amax" => (Some(ReduceKind::Max), bounds.0),
            "amin" => (Some(ReduceKind::Min), bounds.1),
            other => return Err(format!("reduction {other} is not known")),
        };
        let count = self.count(cx)?;
        let touched = cx.b.cast(count, DType::Bool)?;
        let mut base = self.base;
        if !include_self {
            let identity = cx.b.constant(dtype, identity)?;
            base = cx.b.where_(touched, identity, base)?;
        }
        let operands = [base, self.index, self.src];
        let out = match kind {
            Some(kind) => {
                let results = cx.b.node(ScatterReduce { dim: self.dim as u32, kind }, &operands)?;
                let is_extremum = results.len() > 1 && dtype.is_float() && !include_self;
                if is_extremum { self.shared_with_own(cx, results[0], results[1], touched)? } else { results[0] }
            }
            None => cx.b.op(ScatterAdd { dim: self.dim as u32, checked: true }, &operands)?,
        };
        if mode != "mean" {
            return Ok(out);
        }
        let one = cx.b.constant(DType::I32, 1.0)?;
        let count = if include_self { cx.b.add(count, one)? } else { cx.b.scalar(F::Maximum, &[count, one])? };
        let count = cx.b.cast(count, dtype)?;
        if dtype.is_float() { cx.b.div(out, count) } else { cx.b.scalar(F::FloorDiv, &[out, count]) }
    }

    /// An extremum of written elements alone, with PyTorch's gradient: those that are equal to it, `hits`, share it with an element that was
    /// there and is equal to it, too, although that did not count and gets none.
    fn shared_with_own(&self, cx: &mut Cx, extremum: Value, hits: Value, touched: Value) -> Result<Value, String> {
        let dtype = cx.b.dtype(extremum);
        let is_equal = cx.b.scalar(F::Eq, &[self.base, extremum])?;
        let (own, hits, zero) = (cx.b.cast(is_equal, dtype)?, cx.b.cast(hits, dtype)?, cx.b.constant(dtype, 0.0)?);
        let sharers = cx.b.scatter_add(own, self.index, hits, self.dim)?;
        let sharers = cx.b.gather(sharers, self.index, self.dim)?;
        let (share, kept) = (cx.b.div(hits, sharers)?, cx.b.where_(touched, zero, self.base)?);
        with_shares(cx, extremum, kept, [self.index, self.src, share], self.dim)
    }

    /// How many elements are written to each place.
    fn count(&self, cx: &mut Cx) -> Result<Value, String> {
        let (whole, like) = (cx.shape(self.base), cx.shape(self.index));
        let (none, ones) = (cx.b.full(DType::I32, 0.0, whole)?, cx.b.full(DType::I32, 1.0, like)?);
        cx.b.scatter_add(none, self.index, ones, self.dim)
    }
}
