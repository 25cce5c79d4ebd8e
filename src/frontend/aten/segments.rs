//! Reductions of segments: parts of a dimension that follow one another, by their lengths or offsets.
//!
//! PyTorch divides the gradient of an extremum among equal elements only where it is positive; here always.

use super::args::{Args, Cx};
use super::scatter::with_shares;
use super::{Row, pure};
use crate::graph::Value;
use crate::ops::{ReduceKind, ScatterReduce};
use crate::scalar::ScalarFn as F;
use crate::types::{DType, Dim, Shape};

/// Rows of this family.
pub const ROWS: &[Row] = &[pure(&["segment_reduce.default"], segment_reduce)];

/// One result for each segment. Elements behind the last segment belong to none.
fn segment_reduce(cx: &mut Cx, a: &Args) -> Result<Vec<Value>, String> {
    let (x, mode) = (a.tensor("data")?, a.text_or("reduce", "")?);
    a.disregard(&["unsafe"]);
    if a.tensor_opt("indices")?.is_some() {
        return Err("segments by indices are not supported".into());
    }
    let axis = cx.dim(x, a.int_or("axis", 0)?)?;
    let (starts, ends) = borders(cx, a, axis)?;
    let segments = cx.shape(ends)[axis].clone();
    let index = numbers(cx, x, ends, axis)?;
    let dtype = cx.b.dtype(x);
    let initial = if a.has("initial") { Some(a.float("initial")?) } else { None };
    let (kind, identity) = match mode {
        "sum" | "mean" => (None, 0.0),
        "prod" => (Some(ReduceKind::Prod), 1.0),
        "max" => (Some(ReduceKind::Max), f64::NEG_INFINITY),
        "min" => (Some(ReduceKind::Min), f64::INFINITY),
        other => return Err(format!("reduction {other} is not known")),
    };
    // What belongs to no segment goes into one behind all others.
    let mut shape = cx.shape(x);
    shape.0[axis] = segments.clone() + Dim::int(1);
    let base = cx.b.full(dtype, initial.unwrap_or(identity), shape)?;
    let out = match kind {
        None => cx.b.scatter_add(base, index, x, axis)?,
        Some(kind) => extremum_or_product(cx, kind, [base, index, x], axis)?,
    };
    let out = cx.b.slice(out, axis, 0, segments, 1)?;
    if mode != "mean" {
        return Ok(vec![out]);
    }
    let length = cx.b.sub(ends, starts)?;
    let (length, whole) = (cx.b.cast(length, dtype)?, cx.shape(out));
    let length = along(cx, length, &whole)?;
    let (zero, nothing) = (cx.b.constant(dtype, 0.0)?, cx.b.constant(dtype, initial.unwrap_or(f64::NAN))?);
    let (is_empty, mean) = (cx.b.scalar(F::Eq, &[length, zero])?, cx.b.div(out, length)?);
    Ok(vec![cx.b.where_(is_empty, nothing, mean)?])
}

/// Where segments begin and end along their last dimension, `axis`.
fn borders(cx: &mut Cx, a: &Args, axis: usize) -> Result<(Value, Value), String> {
    let (starts, ends) = match (a.tensor_opt("lengths")?, a.tensor_opt("offsets")?) {
        (Some(lengths), None) => {
            cx.expect_rank(lengths, axis + 1..=axis + 1)?;
            let ends = cx.b.cumsum(lengths, axis)?;
            (cx.b.sub(ends, lengths)?, ends)
        }
        (None, Some(offsets)) => {
            cx.expect_rank(offsets, axis + 1..=axis + 1)?;
            let size = cx.shape(offsets)[axis].clone();
            let segments = size.clone() - &Dim::int(1);
            (cx.b.slice(offsets, axis, 0, segments, 1)?, cx.b.slice(offsets, axis, 1, size, 1)?)
        }
        _ => return Err("segments have either lengths or offsets".into()),
    };
    Ok((starts, ends))
}

/// The number of each element's segment, repeated over what follows the axis.
fn numbers(cx: &mut Cx, x: Value, ends: Value, axis: usize) -> Result<Value, String> {
    let shape = cx.shape(x);
    let mut column = vec![Dim::int(1); axis + 2];
    column[axis] = shape[axis].clone();
    let at = cx.b.iota(cx.b.dtype(ends), [shape[axis].clone()], 0)?;
    let (at, ends) = (cx.b.reshape(at, Shape::new(column))?, cx.b.unsqueeze(ends, axis)?);
    let passed = cx.b.scalar(F::Ge, &[at, ends])?;
    let passed = cx.b.cast(passed, DType::I32)?;
    let number = cx.b.reduce(ReduceKind::Sum, passed, &[axis + 1], false)?;
    along(cx, number, &shape)
}

/// A value of leading dimensions repeated over those of `shape` that follow them.
fn along(cx: &mut Cx, x: Value, shape: &Shape) -> Result<Value, String> {
    let mut own = cx.shape(x);
    own.0.resize(shape.rank(), Dim::int(1));
    let x = cx.b.reshape(x, own)?;
    cx.b.broadcast_to(x, shape)
}

/// Elements that are equal to the extremum of their segment share its gradient, NaN among them.
fn extremum_or_product(cx: &mut Cx, kind: ReduceKind, operands: [Value; 3], axis: usize) -> Result<Value, String> {
    let results = cx.b.node(ScatterReduce { dim: axis as u32, kind }, &operands)?;
    if kind == ReduceKind::Prod {
        return Ok(results[0]);
    }
    let [base, index, x] = operands;
    let (dtype, nan) = (cx.b.dtype(x), cx.b.scalar(F::IsNan, &[x])?);
    let hits = cx.b.scalar(F::LogicalOr, &[results[1], nan])?;
    let (hits, one, none) = (cx.b.cast(hits, dtype)?, cx.b.constant(dtype, 1.0)?, cx.b.full(dtype, 0.0, cx.shape(base))?);
    let sharers = cx.b.scatter_add(none, index, hits, axis)?;
    let sharers = cx.b.gather(sharers, index, axis)?;
    // The initial value may be the extremum.
    let sharers = cx.b.scalar(F::Maximum, &[sharers, one])?;
    let share = cx.b.div(hits, sharers)?;
    with_shares(cx, results[0], none, [index, x, share], axis)
}
