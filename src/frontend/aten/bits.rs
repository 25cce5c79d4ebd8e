//! Bits of numbers as numbers of another dtype.
//!
//! The bits of floats are taken as they are, without arithmetic, so that subnormal numbers are exact on every device. Other
//! widths go through integers, whose parts are joined and split by shifts.

use super::args::Cx;
use super::{Row, snapshot};
use crate::graph::Value;
use crate::ops::Built;
use crate::scalar::ScalarFn as F;
use crate::types::{DType, Dim};

/// Rows of this family.
pub const ROWS: &[Row] = &[snapshot(&["view.dtype", "view_copy.dtype"], |cx, a| {
    let (x, to) = (a.tensor("self")?, a.dtype_opt("dtype")?.ok_or("there is no dtype")?);
    Ok(vec![reinterpret(cx, x, to)?])
})];

fn reinterpret(cx: &mut Cx, x: Value, to: DType) -> Built {
    let from = cx.b.dtype(x);
    if from == to {
        return Ok(x);
    }
    let bits = if from.is_float() { cx.b.bitcast(x, integer(from.size()))? } else { cx.b.cast(x, integer(from.size()))? };
    let (wide, narrow) = (from.size() / to.size(), to.size() / from.size());
    let bits = match (wide, narrow) {
        (1, _) => bits,
        (0, count) => join(cx, bits, count, integer(to.size()))?,
        (count, _) => split(cx, bits, count, integer(to.size()))?,
    };
    if to.is_float() { cx.b.bitcast(bits, to) } else { cx.b.cast(bits, to) }
}

/// The integer of so many bytes, signed where a float has as many.
pub(super) fn integer(bytes: usize) -> DType {
    match bytes {
        1 => DType::U8,
        2 => DType::I16,
        4 => DType::I32,
        _ => DType::I64,
    }
}

/// Each element as so many of a narrower dtype, along the last dimension, the lowest bits first.
fn split(cx: &mut Cx, bits: Value, count: usize, to: DType) -> Built {
    let last = super::rank_of(cx, bits, 1)? - 1;
    let (from, mut parts) = (cx.b.dtype(bits), vec![]);
    for k in 0..count {
        let by = cx.b.constant(from, (8 * to.size() * k) as f64)?;
        let part = cx.b.scalar(F::ShiftRight, &[bits, by])?;
        parts.push(cx.b.cast(part, to)?);
    }
    let mut shape = cx.shape(bits);
    shape.0[last] = shape[last].clone() * Dim::int(count as i64);
    let parts = cx.b.stack(&parts, last + 1)?;
    cx.b.reshape(parts, shape)
}

/// So many elements each as one of a wider dtype, along the last dimension.
fn join(cx: &mut Cx, bits: Value, count: usize, to: DType) -> Built {
    let last = super::rank_of(cx, bits, 1)? - 1;
    let size = cx.b.dtype(bits).size();
    let mut shape = cx.shape(bits);
    shape.0[last] = shape[last].try_div(&Dim::int(count as i64)).ok_or_else(|| format!("{} elements are no multiple of {count}", shape[last]))?;
    shape.0.push(Dim::int(count as i64));
    let parts = cx.b.reshape(bits, shape)?;
    let mask = cx.b.constant(to, 2f64.powi(8 * size as i32) - 1.0)?;
    let mut whole: Option<Value> = None;
    for k in 0..count {
        let part = cx.b.select(parts, last + 1, k as i64)?;
        let part = cx.b.cast(part, to)?;
        let part = cx.b.scalar(F::BitwiseAnd, &[part, mask])?;
        let by = cx.b.constant(to, (8 * size * k) as f64)?;
        let part = cx.b.scalar(F::ShiftLeft, &[part, by])?;
        whole = Some(match whole {
            Some(whole) => cx.b.scalar(F::BitwiseOr, &[whole, part])?,
            None => part,
        });
    }
    whole.ok_or_else(|| "there is no part".into())
}
