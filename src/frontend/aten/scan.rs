//! Prefix products and extrema, order statistics, positions in sorted sequences.

use super::args::{Args, Cx};
use super::opmath::{flag, with_partials_over};
use super::{Row, pure};
use crate::graph::Value;
use crate::ops::{Cumextremum, Cumprod, ReduceKind};
use crate::scalar::ScalarFn as F;
use crate::types::{DType, Dim, Shape};

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["cumprod.default"], cumprod),
    pure(&["linalg_vander.default"], |cx, a| {
        let x = a.tensor("x")?;
        Ok(vec![powers(cx, x, a.dim_opt("N")?)?])
    }),
    pure(&["vander.default"], |cx, a| {
        let x = a.tensor("x")?;
        let x = if cx.b.dtype(x).is_float() { x } else { cx.b.cast(x, DType::I64)? };
        let rising = powers(cx, x, a.dim_opt("N")?)?;
        let last = cx.b.shape(rising).rank() - 1;
        Ok(vec![if a.bool_or("increasing", false)? { rising } else { cx.b.flip(rising, &[last])? }])
    }),
    pure(&["cummax.default"], |cx, a| cumextremum(cx, a, false)),
    pure(&["cummin.default"], |cx, a| cumextremum(cx, a, true)),
    pure(&["searchsorted.Tensor", "searchsorted.Scalar"], |cx, a| {
        let mut sequence = a.tensor("sorted_sequence")?;
        if let Some(sorter) = a.tensor_opt("sorter")? {
            let last = super::rank_of(cx, sequence, 1)? - 1;
            sequence = cx.b.gather(sequence, sorter, last)?;
        }
        let (right, side) = (a.bool_or("right", false)?, a.text_or("side", "left")?);
        let right = right || side == "right";
        search(cx, a, sequence, right)
    }),
    pure(&["bucketize.Tensor", "bucketize.Scalar"], |cx, a| {
        let right = a.bool_or("right", false)?;
        search(cx, a, a.tensor("boundaries")?, right)
    }),
    pure(&["kthvalue.default"], |cx, a| {
        let x = a.tensor("self")?;
        let k = a.int("k")?;
        let dim = cx.dim(x, a.int_or("dim", -1)?)?;
        let (values, indices) = sorted(cx, x, dim)?;
        pick(cx, a, values, indices, dim, k.saturating_sub(1))
    }),
    pure(&["median.dim"], |cx, a| {
        let x = a.tensor("self")?;
        let dim = cx.dim(x, a.int("dim")?)?;
        median(cx, a, x, dim, false)
    }),
    pure(&["nanmedian.dim"], |cx, a| {
        let x = a.tensor("self")?;
        let dim = cx.dim(x, a.int("dim")?)?;
        median(cx, a, x, dim, true)
    }),
    pure(&["mode.default"], |cx, a| {
        let x = a.tensor("self")?;
        let dim = cx.dim(x, a.int_or("dim", -1)?)?;
        mode(cx, a, x, dim)
    }),
    pure(&["median.default"], |cx, a| median_of_all(cx, a, false)),
    pure(&["nanmedian.default"], |cx, a| median_of_all(cx, a, true)),
];

fn cumprod(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("self")?;
    let own = cx.b.dtype(x);
    let dtype = a.dtype_opt("dtype")?.unwrap_or(if own.is_float() { own } else { DType::I64 });
    let x = cx.b.cast(x, dtype)?;
    let dim = cx.dim(x, a.int("dim")?)?;
    if cx.b.shape(x).rank() == 0 {
        return Ok(vec![x]);
    }
    Ok(vec![cx.b.op(Cumprod { dim: dim as u32 }, &[x])?])
}

/// Powers from 0 on of each element, as many as there are elements if none are asked for.
fn powers(cx: &mut Cx, x: Value, count: Option<Dim>) -> Result<Value, String> {
    let last = super::rank_of(cx, x, 1)? - 1;
    let count = count.unwrap_or_else(|| cx.b.shape(x)[last].clone());
    let mut shape = cx.shape(x);
    shape.0.push(count);
    let (column, zero) = (cx.b.iota(DType::I32, &shape, last + 1)?, cx.b.constant(DType::I32, 0.0)?);
    let is_first = cx.b.scalar(F::Eq, &[column, zero])?;
    let one = cx.b.constant(cx.b.dtype(x), 1.0)?;
    let base = cx.b.unsqueeze(x, last + 1)?;
    let factors = cx.b.where_(is_first, one, base)?;
    cx.b.op(Cumprod { dim: last as u32 + 1 }, &[factors])
}

fn cumextremum(cx: &mut Cx, a: &Args, min: bool) -> Built {
    let x = a.tensor("self")?;
    let dim = cx.dim(x, a.int("dim")?)?;
    if cx.b.shape(x).rank() == 0 {
        return Ok(vec![x, cx.b.constant(DType::I64, 0.0)?]);
    }
    let dtype = cx.b.dtype(x);
    let numbers = if dtype == DType::Bool { cx.b.cast(x, DType::I32)? } else { x };
    let results = cx.b.node(Cumextremum { dim: dim as u32, min }, &[numbers])?;
    Ok(vec![cx.b.cast(results[0], dtype)?, cx.b.cast(results[1], DType::I64)?])
}

/// How many elements of the sequence are below each value (or, from the right, not above): where it would be inserted.
fn search(cx: &mut Cx, a: &Args, sequence: Value, right: bool) -> Built {
    let values = a.operand("self")?;
    let sequence_operand = super::args::Operand::Tensor(sequence);
    let dtype = cx.result_type(&[&sequence_operand, &values]);
    let dtype = if dtype == DType::Bool { DType::I32 } else { dtype };
    let (sequence, values) = (cx.b.cast(sequence, dtype)?, cx.as_tensor(&values, dtype)?);
    let shape = cx.shape(values);
    let rank = shape.rank();
    let values = cx.b.unsqueeze(values, rank)?;
    let sequence = if cx.b.shape(sequence).rank() > 1 {
        let at = super::rank_of(cx, sequence, 1)? - 1;
        cx.b.unsqueeze(sequence, at)?
    } else {
        sequence
    };
    let stop = cx.b.scalar(if right { F::Gt } else { F::Ge }, &[sequence, values])?;
    let below = cx.b.scalar(F::LogicalNot, &[stop])?;
    let result = if a.bool_or("out_int32", false)? { DType::I32 } else { DType::I64 };
    let count = cx.b.cast(below, DType::I32)?;
    let last = cx.b.shape(count).rank() - 1;
    let count = cx.b.reduce(ReduceKind::Sum, count, &[last], false)?;
    let count = cx.b.reshape(count, shape)?;
    Ok(vec![cx.b.cast(count, result)?])
}

fn sorted(cx: &mut Cx, x: Value, dim: usize) -> Result<(Value, Value), String> {
    let x = cx.at_least_1d(x)?;
    cx.b.sort(x, dim, false)
}

/// Element `at` of both along `dim`.
fn pick(cx: &mut Cx, a: &Args, values: Value, indices: Value, dim: usize, at: i64) -> Built {
    let keep = a.bool_or("keepdim", false)?;
    let size = cx.b.shape(values)[dim].clone();
    if at < 0 || !Dim::int(at + 1).known_le(&size) {
        return Err(format!("element {at} of {size} does not exist"));
    }
    let (values, indices) = (cx.b.slice(values, dim, at, at + 1, 1)?, cx.b.slice(indices, dim, at, at + 1, 1)?);
    finish(cx, a.tensor("self")?, values, indices, dim, keep)
}

fn finish(cx: &mut Cx, x: Value, values: Value, indices: Value, dim: usize, keep: bool) -> Built {
    let mut shape = cx.shape(values);
    if cx.b.shape(x).rank() == 0 {
        shape = Shape::scalar();
    } else if !keep {
        shape.0.remove(dim);
    }
    let (values, indices) = (cx.b.reshape(values, shape.clone())?, cx.b.reshape(indices, shape)?);
    Ok(vec![values, cx.b.cast(indices, DType::I64)?])
}

/// The lower of the two middle elements. A NaN is the median of its row, or is left out.
fn median(cx: &mut Cx, a: &Args, x: Value, dim: usize, skip_nan: bool) -> Built {
    let keep = a.bool_or("keepdim", false)?;
    let (values, indices) = sorted(cx, x, dim)?;
    let n = cx.b.shape(values)[dim].clone();
    let dtype = cx.b.dtype(values);
    if n.is(0) {
        return Err("there is no element to choose from".into());
    }
    let one = cx.b.constant(DType::I32, 1.0)?;
    let count = if dtype.is_float() {
        let nan = cx.b.scalar(F::IsNan, &[values])?;
        let nan = cx.b.cast(nan, DType::I32)?;
        let nan = cx.b.reduce(ReduceKind::Sum, nan, &[dim], true)?;
        let size = cx.b.size(&n, DType::I32)?;
        cx.b.sub(size, nan)?
    } else {
        let mut shape = cx.shape(values);
        shape.0[dim] = Dim::int(1);
        let size = cx.b.size(&n, DType::I32)?;
        cx.b.broadcast_to(size, &shape)?
    };
    // NaN is sorted last: the first of them is behind all numbers.
    let two = cx.b.constant(DType::I32, 2.0)?;
    let zero = cx.b.constant(DType::I32, 0.0)?;
    let before = cx.b.sub(count, one)?;
    let before = cx.b.scalar(F::Maximum, &[before, zero])?;
    let mut at = cx.b.scalar(F::FloorDiv, &[before, two])?;
    if !skip_nan {
        let size = cx.b.size(&n, DType::I32)?;
        let has_nan = cx.b.scalar(F::Lt, &[count, size])?;
        at = cx.b.where_(has_nan, count, at)?;
    }
    let (values, indices) = (cx.b.gather(values, at, dim)?, cx.b.gather(indices, at, dim)?);
    finish(cx, x, values, indices, dim, keep)
}

/// The smallest of the most frequent elements, and where it comes last. Each element is compared with each other of its row.
fn mode(cx: &mut Cx, a: &Args, x: Value, dim: usize) -> Built {
    let row = cx.at_least_1d(x)?;
    let dtype = cx.b.dtype(row);
    let numbers = if dtype == DType::Bool { cx.b.cast(row, DType::I32)? } else { row };
    let (left, right) = (cx.b.unsqueeze(numbers, dim + 1)?, cx.b.unsqueeze(numbers, dim)?);
    let equal = cx.b.scalar(F::Eq, &[left, right])?;
    let equal = cx.b.cast(equal, DType::I32)?;
    let count = cx.b.reduce(ReduceKind::Sum, equal, &[dim + 1], false)?;
    let most = cx.b.reduce(ReduceKind::Max, count, &[dim], true)?;
    let frequent = cx.b.scalar(F::Eq, &[count, most])?;
    let highest = cx.b.dtype(numbers).int_range().map_or(f64::INFINITY, |(_, high)| high as f64);
    let highest = cx.b.constant(cx.b.dtype(numbers), highest)?;
    let candidates = cx.b.where_(frequent, numbers, highest)?;
    let smallest = cx.b.reduce(ReduceKind::Min, candidates, &[dim], true)?;
    let hit = cx.b.scalar(F::Eq, &[numbers, smallest])?;
    let hit = cx.b.scalar(F::LogicalAnd, &[hit, frequent])?;
    let shape = cx.shape(row);
    let (position, none) = (cx.b.iota(DType::I32, shape, dim)?, cx.b.constant(DType::I32, 0.0)?);
    let position = cx.b.where_(hit, position, none)?;
    let at = cx.b.reduce(ReduceKind::Max, position, &[dim], true)?;
    let value = cx.b.gather(row, at, dim)?;
    finish(cx, x, value, at, dim, a.bool_or("keepdim", false)?)
}

fn median_of_all(cx: &mut Cx, a: &Args, skip_nan: bool) -> Built {
    let x = a.tensor("self")?;
    let n = cx.shape(x).numel();
    if n.is(0) {
        return Ok(vec![cx.b.constant(cx.b.dtype(x), f64::NAN)?]);
    }
    let flat = cx.b.reshape(x, [n])?;
    let value = median(cx, &Args::default(), flat, 0, skip_nan)?[0];
    Ok(vec![if cx.b.dtype(x).is_float() { evenly(cx, flat, value)? } else { value }])
}

/// `value`, an element of the vector `x`, whose cotangent all elements share that are the same.
fn evenly(cx: &mut Cx, x: Value, value: Value) -> Result<Value, String> {
    let dtype = cx.b.dtype(x);
    let equal = cx.b.scalar(F::Eq, &[x, value])?;
    let (nan, found) = (cx.b.scalar(F::IsNan, &[x])?, cx.b.scalar(F::IsNan, &[value])?);
    let nan = cx.b.scalar(F::LogicalAnd, &[nan, found])?;
    let same = cx.b.scalar(F::LogicalOr, &[equal, nan])?;
    let ones = flag(cx, same, dtype.accumulator())?;
    let count = cx.b.reduce(ReduceKind::Sum, ones, &[0], true)?;
    let share = cx.b.div(ones, count)?;
    let share = cx.b.cast(share, dtype)?;
    let value = cx.b.unsqueeze(value, 0)?;
    let value = with_partials_over(cx, value, &[0], x, share)?;
    cx.b.squeeze(value, 0)
}
