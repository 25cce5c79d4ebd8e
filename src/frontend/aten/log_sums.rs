//! Logarithms of sums of exponentials of prefixes.
//!
//! Long rows are divided into blocks: each block's whole comes before the elements of the blocks behind it, and the prefixes of
//! wholes are found the same way. Every sum is taken below its own largest term, so that no element is lost beside a larger one
//! behind it, in a time that grows with the row's length.

use super::args::{Args, Cx};
use super::gradients::detached;
use super::{Row, pure};
use crate::graph::Value;
use crate::ops::{Built, ReduceKind};
use crate::scalar::ScalarFn as F;
use crate::types::{DType, Dim, Shape};

/// Rows of this family.
pub const ROWS: &[Row] = &[pure(&["logcumsumexp.default"], logcumsumexp)];

/// Elements of a block, whose prefixes are each a pass over it.
const BLOCK: i64 = 16;

fn logcumsumexp(cx: &mut Cx, a: &Args) -> Result<Vec<Value>, String> {
    let x = a.tensor("self")?;
    let dim = cx.dim(x, a.int("dim")?)?;
    let (shape, dtype) = (cx.shape(x), cx.b.dtype(x));
    if shape.rank() == 0 || shape.numel().is(0) {
        return Ok(vec![x]);
    }
    let rank = shape.rank();
    let order: Vec<usize> = (0..rank).filter(|&d| d != dim).chain([dim]).collect();
    let x = cx.b.permute(x, &order)?;
    let x = cx.b.cast(x, dtype.accumulator())?;
    let y = prefixes(cx, x)?;
    let y = cx.b.cast(y, dtype)?;
    let back: Vec<usize> = (0..dim).chain([rank - 1]).chain(dim..rank - 1).collect();
    Ok(vec![cx.b.permute(y, &back)?])
}

/// Of the last dimension.
fn prefixes(cx: &mut Cx, x: Value) -> Built {
    let shape = cx.shape(x);
    let last = shape.rank() - 1;
    let n = match shape[last].as_int() {
        Some(n) if n > 2 * BLOCK => n,
        _ => return within_block(cx, x, None),
    };
    let blocks = (n + BLOCK - 1) / BLOCK;
    let (mut low, mut high) = (vec![Dim::int(0); last + 1], vec![Dim::int(0); last + 1]);
    high[last] = Dim::int(blocks * BLOCK - n);
    let padded = if high[last].is(0) { x } else { cx.b.pad(x, &low, &high, f64::NEG_INFINITY)? };
    let mut divided = shape.clone();
    divided.0[last] = Dim::int(blocks);
    divided.0.push(Dim::int(BLOCK));
    let divided = cx.b.reshape(padded, divided)?;
    let wholes = whole(cx, divided)?;
    let until = prefixes(cx, wholes)?;
    // What lies before each block.
    (low[last], high[last]) = (Dim::int(1), Dim::int(-1));
    let before = cx.b.pad(until, &low, &high, f64::NEG_INFINITY)?;
    let y = within_block(cx, divided, Some(before))?;
    let mut joined = shape.clone();
    joined.0[last] = Dim::int(blocks * BLOCK);
    let y = cx.b.reshape(y, joined)?;
    cx.b.slice(y, last, 0, n, 1)
}

/// Sums of the last dimension. Nothing but minus infinity has no derivative.
fn whole(cx: &mut Cx, x: Value) -> Built {
    let last = cx.b.shape(x).rank() - 1;
    let top = cx.b.reduce(ReduceKind::Max, x, &[last], true)?;
    let top = finite(cx, top)?;
    let shifted = cx.b.sub(x, top)?;
    let e = cx.b.scalar(F::Exp, &[shifted])?;
    let sum = cx.b.reduce(ReduceKind::Sum, e, &[last], true)?;
    let dtype = cx.b.dtype(sum);
    let (zero, one, nothing) = (cx.b.constant(dtype, 0.0)?, cx.b.constant(dtype, 1.0)?, cx.b.constant(dtype, f64::NEG_INFINITY)?);
    let is_nothing = cx.b.scalar(F::Eq, &[sum, zero])?;
    let some = cx.b.where_(is_nothing, one, sum)?;
    let log = cx.b.scalar(F::Log, &[some])?;
    let y = cx.b.add(log, top)?;
    let y = cx.b.where_(is_nothing, nothing, y)?;
    cx.b.squeeze(y, last)
}

/// Each prefix of the last dimension, behind what lies before all of them: a pass over the prefix for each element.
fn within_block(cx: &mut Cx, x: Value, before: Option<Value>) -> Built {
    let (rank, dtype) = (cx.b.shape(x).rank(), cx.b.dtype(x));
    let n = cx.b.shape(x)[rank - 1].clone();
    let mut square = cx.shape(x);
    square.0.push(n.clone());
    // [..., prefix, element], minus infinity behind the end of the prefix.
    let elements = cx.b.unsqueeze(x, rank - 1)?;
    let corner = Shape::new(vec![n.clone(), n]);
    let (end, element) = (cx.b.iota(DType::I32, corner.clone(), 0)?, cx.b.iota(DType::I32, corner, 1)?);
    let inside = cx.b.scalar(F::Le, &[element, end])?;
    let nothing = cx.b.constant(dtype, f64::NEG_INFINITY)?;
    let prefixes = cx.b.where_(inside, elements, nothing)?;
    let prefixes = cx.b.broadcast_to(prefixes, &square)?;
    let mut top = cx.b.reduce(ReduceKind::Max, prefixes, &[rank], false)?;
    let before = before.map(|v| cx.b.unsqueeze(v, rank - 1)).transpose()?;
    if let Some(before) = before {
        top = cx.b.scalar(F::Maximum, &[top, before])?;
    }
    let top = finite(cx, top)?;
    let column = cx.b.unsqueeze(top, rank)?;
    let shifted = cx.b.sub(prefixes, column)?;
    let e = cx.b.scalar(F::Exp, &[shifted])?;
    let mut sum = cx.b.reduce(ReduceKind::Sum, e, &[rank], false)?;
    if let Some(before) = before {
        let shifted = cx.b.sub(before, top)?;
        let e = cx.b.scalar(F::Exp, &[shifted])?;
        sum = cx.b.add(sum, e)?;
    }
    let log = cx.b.scalar(F::Log, &[sum])?;
    cx.b.add(log, top)
}

/// The largest terms, without a derivative; zero where they are infinite.
fn finite(cx: &mut Cx, top: Value) -> Built {
    let top = detached(&mut cx.b, top)?;
    let infinite = cx.b.scalar(F::IsInf, &[top])?;
    let zero = cx.b.constant(cx.b.dtype(top), 0.0)?;
    cx.b.where_(infinite, zero, top)
}
