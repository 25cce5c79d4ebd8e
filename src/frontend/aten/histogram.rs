//! Histograms: how many elements are in each of several intervals.

use super::args::{Args, Cx};
use super::gradients::detached;
use super::{Row, pure};
use crate::graph::Value;
use crate::ops::ReduceKind;
use crate::scalar::ScalarFn as F;
use crate::types::{DType, Dim};

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["histc.default"], histc),
    pure(&["histogram.bins_tensor"], |cx, a| {
        let (x, edges) = (flat(cx, a.tensor("self")?)?, a.tensor("bins")?);
        histogram(cx, a, x, edges)
    }),
    pure(&["histogram.bin_ct"], |cx, a| {
        let (x, bins) = (flat(cx, a.tensor("self")?)?, a.int_in("bins", 100, 1..=MOST_BINS)?);
        let (low, high) = match a.floats_opt("range")? {
            Some(range) => match range[..] {
                [low, high] => (cx.b.constant(cx.b.dtype(x), low)?, cx.b.constant(cx.b.dtype(x), high)?),
                _ => return Err("a range has two ends".into()),
            },
            None => range_of(cx, x, 0.5)?,
        };
        let edges = even_edges(cx, low, high, bins)?;
        histogram(cx, a, x, edges)
    }),
];

/// Intervals of one histogram.
const MOST_BINS: i64 = 1 << 24;

/// The elements in a row, without a gradient.
fn flat(cx: &mut Cx, x: Value) -> Result<Value, String> {
    let x = cx.b.reshape(x, [cx.shape(x).numel()])?;
    detached(&mut cx.b, x)
}

/// The least and the largest element, moved apart where they are equal; zero and one of nothing.
fn range_of(cx: &mut Cx, x: Value, apart: f64) -> Result<(Value, Value), String> {
    let dtype = cx.b.dtype(x);
    if cx.shape(x).numel().is(0) {
        return Ok((cx.b.constant(dtype, 0.0)?, cx.b.constant(dtype, 1.0)?));
    }
    let (low, high) = (cx.b.reduce(ReduceKind::Min, x, &[0], false)?, cx.b.reduce(ReduceKind::Max, x, &[0], false)?);
    let (same, apart) = (cx.b.scalar(F::Eq, &[low, high])?, cx.b.constant(dtype, apart)?);
    let (below, above) = (cx.b.sub(low, apart)?, cx.b.add(high, apart)?);
    Ok((cx.b.where_(same, below, low)?, cx.b.where_(same, above, high)?))
}

/// Ends of `bins` equal intervals, counted from the nearer end, as PyTorch's `linspace` does.
fn even_edges(cx: &mut Cx, low: Value, high: Value, bins: i64) -> Result<Value, String> {
    let dtype = cx.b.dtype(low);
    let (width, at) = (cx.b.sub(high, low)?, cx.b.iota(dtype, [bins + 1], 0)?);
    let [count, half] = [bins as f64, ((bins + 1) / 2) as f64].map(|n| cx.b.constant(dtype, n));
    let (count, half) = (count?, half?);
    let step = cx.b.div(width, count)?;
    let (up, rest) = (cx.b.mul(at, step)?, cx.b.sub(count, at)?);
    let down = cx.b.mul(rest, step)?;
    let (up, down, lower) = (cx.b.add(low, up)?, cx.b.sub(high, down)?, cx.b.scalar(F::Lt, &[at, half])?);
    cx.b.where_(lower, up, down)
}

/// How many elements, or how much weight, lies between neighboring edges, the last one included; and the edges.
fn histogram(cx: &mut Cx, a: &Args, x: Value, edges: Value) -> Built {
    let dtype = cx.b.dtype(x);
    cx.expect_rank(edges, 1..=1)?;
    let size = cx.shape(edges)[0].clone();
    let bins = size.clone() - &Dim::int(1);
    let (column, row) = (cx.b.unsqueeze(x, 1)?, cx.b.cast(edges, dtype)?);
    let passed = cx.b.scalar(F::Ge, &[column, row])?;
    let passed = cx.b.cast(passed, DType::I32)?;
    let passed = cx.b.reduce(ReduceKind::Sum, passed, &[1], false)?;
    // Beyond the first edge and not beyond the last.
    let none = cx.b.constant(DType::I32, 0.0)?;
    let (first, last) = (cx.b.scalar(F::Gt, &[passed, none])?, cx.b.select(row, 0, bins.clone())?);
    let within = cx.b.scalar(F::Le, &[x, last])?;
    let inside = cx.b.scalar(F::LogicalAnd, &[first, within])?;
    let (one, end) = (cx.b.constant(DType::I32, 1.0)?, cx.b.size(&(bins.clone() - &Dim::int(1)), DType::I32)?);
    let at = cx.b.sub(passed, one)?;
    let at = cx.b.scalar(F::Clamp, &[at, none, end])?;
    let mut counts = cx.b.cast(inside, dtype)?;
    if let Some(weight) = a.tensor_opt("weight")? {
        let (weight, zero) = (flat(cx, weight)?, cx.b.constant(dtype, 0.0)?);
        counts = cx.b.where_(inside, weight, zero)?;
    }
    let empty = cx.b.full(dtype, 0.0, [bins])?;
    let mut found = cx.b.index_add(empty, 0, at, counts)?;
    if a.bool_or("density", false)? {
        let (upper, lower) = (cx.b.slice(row, 0, 1, size.clone(), 1)?, cx.b.slice(row, 0, 0, size - &Dim::int(1), 1)?);
        let (width, total) = (cx.b.sub(upper, lower)?, cx.b.reduce(ReduceKind::Sum, found, &[0], true)?);
        let share = cx.b.div(found, total)?;
        found = cx.b.div(share, width)?;
    }
    Ok(vec![found, edges])
}

/// How many elements are in each of `bins` equal intervals from `min` to `max`; from the least to the largest element where
/// both are the same.
fn histc(cx: &mut Cx, a: &Args) -> Built {
    let (x, bins) = (a.tensor("self")?, a.int_in("bins", 100, 1..=1 << 24)?);
    let dtype = cx.b.dtype(x);
    let flat = cx.b.reshape(x, [cx.shape(x).numel()])?;
    let (low, high) = (a.float_or("min", 0.0)?, a.float_or("max", 0.0)?);
    let (mut low, mut high) = (cx.b.constant(dtype, low)?, cx.b.constant(dtype, high)?);
    if a.float_or("min", 0.0)? == a.float_or("max", 0.0)? && !cx.shape(flat).numel().is(0) {
        (low, high) = (cx.b.reduce(ReduceKind::Min, flat, &[0], false)?, cx.b.reduce(ReduceKind::Max, flat, &[0], false)?);
        let (same, one) = (cx.b.scalar(F::Eq, &[low, high])?, cx.b.constant(dtype, 1.0)?);
        let (below, above) = (cx.b.sub(low, one)?, cx.b.add(high, one)?);
        (low, high) = (cx.b.where_(same, below, low)?, cx.b.where_(same, above, high)?);
    }
    let (from, width) = (cx.b.sub(flat, low)?, cx.b.sub(high, low)?);
    let (above, below) = (cx.b.scalar(F::Ge, &[flat, low])?, cx.b.scalar(F::Le, &[flat, high])?);
    let inside = cx.b.scalar(F::LogicalAnd, &[above, below])?;
    let scaled = cx.b.scale(from, bins as f64)?;
    let at = cx.b.div(scaled, width)?;
    let (zero, last) = (cx.b.constant(DType::I32, 0.0)?, cx.b.constant(DType::I32, (bins - 1) as f64)?);
    let at = cx.b.cast(at, DType::I32)?;
    let at = cx.b.scalar(F::Clamp, &[at, zero, last])?;
    let (empty, count) = (cx.b.full(dtype, 0.0, [bins])?, cx.b.cast(inside, dtype)?);
    Ok(vec![cx.b.index_add(empty, 0, at, count)?])
}
