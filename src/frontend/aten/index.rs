//! Reading and writing at indices.

use super::args::{Args, Cx};
use super::gradients::{detached, scaled_gradient};
use super::{Row, pure};
use crate::graph::Value;
use crate::ops::{ReduceKind, ScatterReduce};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim};

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["embedding.default"], embedding),
    pure(&["_embedding_bag.default", "_embedding_bag_forward_only.default", "embedding_bag.default"], |cx, a| {
        let padding = a.int_or("padding_idx", -1)?;
        embedding_bag(cx, a, padding)
    }),
    pure(&["embedding_bag.padding_idx"], |cx, a| {
        // This overload counts from the end, the others mean none by a negative one.
        let rows = cx.b.shape(a.tensor("weight")?).0.first().and_then(Dim::as_int);
        let padding = match a.int_or("padding_idx", i64::MIN)? {
            n if (-(1 << 40)..0).contains(&n) => n + rows.ok_or("an index from the end of a weight of symbolic size is not supported")?,
            n => n,
        };
        embedding_bag(cx, a, padding)
    }),
    pure(&["gather.default"], gather),
    pure(&["index_select.default"], index_select),
    pure(&["index_add.default"], index_add),
    pure(&["scatter_add.default"], scatter_add),
];

/// Rows of the weight; the row of the padding index takes no gradient.
fn embedding(cx: &mut Cx, a: &Args) -> Built {
    let (weight, index) = (a.tensor("weight")?, a.tensor("indices")?);
    let padding = a.int_or("padding_idx", -1)?;
    // It says how the gradient is stored.
    a.disregard(&["sparse"]);
    let mut rows = cx.b.embedding(weight, index)?;
    if a.bool_or("scale_grad_by_freq", false)? {
        rows = by_frequency(cx, rows, weight, index)?;
    }
    if padding < 0 {
        return Ok(vec![rows]);
    }
    let fixed = detached(&mut cx.b, rows)?;
    let rank = cx.b.shape(index).rank();
    let index = cx.b.unsqueeze(index, rank)?;
    let padding = cx.b.constant(cx.b.dtype(index), padding as f64)?;
    let is_padding = cx.b.scalar(ScalarFn::Eq, &[index, padding])?;
    Ok(vec![cx.b.where_(is_padding, fixed, rows)?])
}

/// Rows of the weight whose gradient is divided by how often their index occurs.
fn by_frequency(cx: &mut Cx, rows: Value, weight: Value, index: Value) -> Result<Value, String> {
    let (flat, shape) = (cx.b.reshape(index, [cx.shape(index).numel()])?, cx.shape(index));
    let (none, ones) = (cx.b.full(DType::I32, 0.0, [cx.shape(weight)[0].clone()])?, cx.b.full(DType::I32, 1.0, cx.shape(flat))?);
    let counts = cx.b.index_add(none, 0, flat, ones)?;
    let count = cx.b.index_select(counts, 0, flat)?;
    let count = cx.b.cast(count, cx.b.dtype(rows).accumulator())?;
    let share = cx.b.scalar(ScalarFn::Reciprocal, &[count])?;
    let share = cx.b.cast(share, cx.b.dtype(rows))?;
    let share = cx.b.reshape(share, shape.clone())?;
    let share = cx.b.unsqueeze(share, shape.rank())?;
    scaled_gradient(&mut cx.b, rows, share)
}

/// Rows of the weight summed, averaged or maximized over bags, which begin at the offsets: the result, the bag of each index,
/// the number of rows of each bag. Empty bags are zero; rows of the padding index are passed over.
fn embedding_bag(cx: &mut Cx, a: &Args, padding: i64) -> Built {
    let (weight, index, mut offsets) = (a.tensor("weight")?, a.tensor("indices")?, a.tensor("offsets")?);
    a.disregard(&["sparse"]);
    cx.expect_rank(weight, 2..=2)?;
    [index, offsets].into_iter().try_for_each(|v| cx.expect_rank(v, 1..=1))?;
    let dtype = cx.b.dtype(weight);
    if a.bool_or("include_last_offset", false)? {
        let end = cx.b.shape(offsets)[0].clone() - Dim::int(1);
        offsets = cx.b.slice(offsets, 0, 0, end, 1)?;
    }
    let (bags, count, width) = (cx.b.shape(offsets)[0].clone(), cx.b.shape(index)[0].clone(), cx.b.shape(weight)[1].clone());
    let bag = bag_of_each(cx, offsets, &count)?;
    let padding = cx.b.constant(cx.b.dtype(index), padding.max(-1) as f64)?;
    let counts = cx.b.scalar(ScalarFn::Ne, &[index, padding])?;
    let zero = cx.b.constant(dtype, 0.0)?;
    let mut rows = cx.b.embedding(weight, index)?;
    if a.bool_or("scale_grad_by_freq", false)? {
        rows = by_frequency(cx, rows, weight, index)?;
    }
    if let Some(factor) = a.tensor_opt("per_sample_weights")? {
        cx.expect_rank(factor, 1..=1)?;
        // Rows that are passed over must not meet their factor in the gradient either: it may be infinite.
        let factor = cx.b.where_(counts, factor, zero)?;
        let factor = cx.b.unsqueeze(factor, 1)?;
        rows = cx.b.mul(rows, factor)?;
    }
    let number = cx.b.cast(counts, DType::I64)?;
    let none = cx.b.full(DType::I64, 0.0, [bags.clone()])?;
    let sizes = cx.b.index_add(none, 0, bag, number)?;
    let counts = cx.b.unsqueeze(counts, 1)?;
    let empty = cx.b.full(dtype, 0.0, [bags, width])?;
    let out = match a.int_or("mode", 0)? {
        mode @ (0 | 1) => {
            let rows = cx.b.where_(counts, rows, zero)?;
            let sum = cx.b.index_add(empty, 0, bag, rows)?;
            if mode == 0 { sum } else { average(cx, sum, sizes)? }
        }
        2 => largest(cx, rows, bag, counts, empty)?,
        mode => return Err(format!("mode {mode} is not known")),
    };
    Ok(vec![out, cx.b.cast(bag, DType::I64)?, sizes])
}

/// For each position below `count`, how many offsets are not above it, less one.
fn bag_of_each(cx: &mut Cx, offsets: Value, count: &Dim) -> Result<Value, String> {
    let offsets = cx.b.cast(offsets, DType::I32)?;
    let at = cx.b.iota(DType::I32, [count.clone(), Dim::int(1)], 0)?;
    let begun = cx.b.scalar(ScalarFn::Le, &[offsets, at])?;
    let begun = cx.b.cast(begun, DType::I32)?;
    let begun = cx.b.reduce(ReduceKind::Sum, begun, &[1], false)?;
    let one = cx.b.constant(DType::I32, 1.0)?;
    cx.b.sub(begun, one)
}

fn average(cx: &mut Cx, sum: Value, sizes: Value) -> Result<Value, String> {
    let one = cx.b.constant(DType::I64, 1.0)?;
    let sizes = cx.b.scalar(ScalarFn::Maximum, &[sizes, one])?;
    let sizes = cx.b.cast(sizes, cx.b.dtype(sum))?;
    let sizes = cx.b.unsqueeze(sizes, 1)?;
    cx.b.div(sum, sizes)
}

/// The largest of each bag, read where it comes first: that element takes the gradient. Zero where a bag is empty.
fn largest(cx: &mut Cx, rows: Value, bag: Value, counts: Value, empty: Value) -> Result<Value, String> {
    let (shape, whole) = (cx.shape(rows), cx.shape(empty));
    let low = cx.b.constant(cx.b.dtype(rows), f64::NEG_INFINITY)?;
    let fixed = detached(&mut cx.b, rows)?;
    let fixed = cx.b.where_(counts, fixed, low)?;
    let base = cx.b.broadcast_to(low, &whole)?;
    let at = cx.b.unsqueeze(bag, 1)?;
    let at = cx.b.broadcast_to(at, &shape)?;
    let top = cx.b.node(ScatterReduce { dim: 0, kind: ReduceKind::Max }, &[base, at, fixed])?[0];
    let top = cx.b.gather(top, at, 0)?;
    let (equal, nan) = (cx.b.scalar(ScalarFn::Eq, &[fixed, top])?, cx.b.scalar(ScalarFn::IsNan, &[fixed])?);
    let hit = cx.b.scalar(ScalarFn::LogicalOr, &[equal, nan])?;
    let hit = cx.b.scalar(ScalarFn::LogicalAnd, &[hit, counts])?;
    let (place, count) = (cx.b.iota(DType::I32, shape.clone(), 0)?, cx.b.size(&shape[0], DType::I32)?);
    let place = cx.b.where_(hit, place, count)?;
    let none = cx.b.broadcast_to(count, &whole)?;
    let first = cx.b.node(ScatterReduce { dim: 0, kind: ReduceKind::Min }, &[none, at, place])?[0];
    let found = cx.b.scalar(ScalarFn::Lt, &[first, count])?;
    if shape[0].is(0) {
        return Ok(empty);
    }
    let zero = cx.b.constant(DType::I32, 0.0)?;
    let first = cx.b.where_(found, first, zero)?;
    let top = cx.b.gather(rows, first, 0)?;
    cx.b.where_(found, top, empty)
}

fn gather(cx: &mut Cx, a: &Args) -> Built {
    let (x, index) = (a.tensor("self")?, a.tensor("index")?);
    // It says how the gradient is stored.
    a.disregard(&["sparse_grad"]);
    let shape = cx.shape(index);
    let dim = cx.dim(x, a.int("dim")?)?;
    let (x, index) = (cx.at_least_1d(x)?, cx.at_least_1d(index)?);
    if shape.numel().is(0) {
        return Ok(vec![cx.b.full(cx.b.dtype(x), 0.0, shape)?]);
    }
    let out = cx.b.gather(x, index, dim)?;
    Ok(vec![cx.b.reshape(out, shape)?])
}

fn index_select(cx: &mut Cx, a: &Args) -> Built {
    let (x, index) = (a.tensor("self")?, a.tensor("index")?);
    let shape = cx.shape(x);
    let dim = cx.dim(x, a.int("dim")?)?;
    let (x, index) = (cx.at_least_1d(x)?, cx.at_least_1d(index)?);
    let out = cx.b.index_select(x, dim, index)?;
    Ok(vec![if shape.rank() == 0 { cx.b.reshape(out, shape)? } else { out }])
}

fn index_add(cx: &mut Cx, a: &Args) -> Built {
    let (x, index, mut source) = (a.tensor("self")?, a.tensor("index")?, a.tensor("source")?);
    let shape = cx.shape(x);
    let dim = cx.dim(x, a.int("dim")?)?;
    if let Some(alpha) = a.scalar_opt("alpha")?
        && alpha.to_f64() != Some(1.0)
    {
        let alpha = cx.number(&alpha, cx.b.dtype(source))?;
        source = cx.b.mul(source, alpha)?;
    }
    let (x, index, source) = (cx.at_least_1d(x)?, cx.at_least_1d(index)?, cx.at_least_1d(source)?);
    let out = as_number(cx, x, |cx, x| {
        let source = cx.b.cast(source, cx.b.dtype(x))?;
        cx.b.index_add(x, dim, index, source)
    })?;
    Ok(vec![cx.b.reshape(out, shape)?])
}

fn scatter_add(cx: &mut Cx, a: &Args) -> Built {
    let (x, index, src) = (a.tensor("self")?, a.tensor("index")?, a.tensor("src")?);
    let shape = cx.shape(x);
    let dim = cx.dim(x, a.int("dim")?)?;
    let (x, index, mut src) = (cx.at_least_1d(x)?, cx.at_least_1d(index)?, cx.at_least_1d(src)?);
    if cx.b.ty(index).numel().is(0) {
        return Ok(vec![a.tensor("self")?]);
    }
    // The source may be larger than the index; what the index does not reach is not read.
    for d in 0..cx.b.shape(index).rank() {
        let end = cx.b.shape(index)[d].clone();
        src = cx.b.slice(src, d, 0, end, 1)?;
    }
    let out = as_number(cx, x, |cx, x| {
        let src = cx.b.cast(src, cx.b.dtype(x))?;
        cx.b.scatter_add(x, index, src, dim)
    })?;
    Ok(vec![cx.b.reshape(out, shape)?])
}

/// Bools accumulate as numbers.
fn as_number(cx: &mut Cx, x: Value, f: impl FnOnce(&mut Cx, Value) -> Result<Value, String>) -> Result<Value, String> {
    if cx.b.dtype(x) != DType::Bool {
        return f(cx, x);
    }
    let x = cx.b.cast(x, DType::I32)?;
    let out = f(cx, x)?;
    cx.b.cast(out, DType::Bool)
}
