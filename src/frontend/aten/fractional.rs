//! Fractional max pooling (Graham, "Fractional Max-Pooling", 2014): windows at places that random numbers choose.

use super::args::{Args, Cx};
use super::conv::each;
use super::{Row, pure};
use crate::graph::Value;
use crate::ops::ReduceKind;
use crate::scalar::ScalarFn as F;
use crate::types::{DType, Dim, Shape};

/// Rows of this family.
pub const ROWS: &[Row] =
    &[pure(&["fractional_max_pool2d.default"], |cx, a| pool(cx, a, 2)), pure(&["fractional_max_pool3d.default"], |cx, a| pool(cx, a, 3))];

/// The largest element of each window, and its index in the plane of an example's channel.
fn pool(cx: &mut Cx, a: &Args, rank: usize) -> Result<Vec<Value>, String> {
    let (x, samples) = (a.tensor("self")?, a.tensor("random_samples")?);
    let (kernel, output) = (each(a.ints("kernel_size")?, rank, 1)?, each(a.ints("output_size")?, rank, 0)?);
    cx.expect_rank(x, rank + 1..=rank + 2)?;
    let shape = cx.shape(x);
    let batched = if shape.rank() == rank + 1 { cx.b.unsqueeze(x, 0)? } else { x };
    let sizes = cx.shape(batched).0;
    let (mut windows, mut plane, mut stride) = (batched, None, Dim::int(1));
    for d in (0..rank).rev() {
        // In two dimensions the first number is of the last dimension, in three each is of its own.
        let number = if rank == 2 { 1 - d } else { d };
        let at = places(cx, samples, number, &sizes[2 + d], (kernel[d], output[d]))?;
        windows = along(cx, windows, 2 + d, at)?;
        let width = cx.b.size(&stride, DType::I32)?;
        let part = cx.b.mul(at, width)?;
        plane = Some(match plane {
            None => part,
            // Windows of this dimension before those of the later ones.
            Some(later) => outer_sum(cx, part, later)?,
        });
        stride = stride * &sizes[2 + d];
    }
    let (flat, count) = rows_of_windows(cx, windows, &kernel, &output)?;
    let plane = plane.ok_or("it has no dimension")?;
    let index = in_rows(cx, plane, &kernel, &output)?;
    let last = cx.b.shape(flat).rank() - 1;
    let best = cx.b.reduce(ReduceKind::Argmax, flat, &[last], true)?;
    let (values, index) = (cx.b.gather(flat, best, last)?, cx.b.broadcast_to(index, &cx.shape(flat))?);
    let index = cx.b.gather(index, best, last)?;
    let mut result: Vec<Dim> = shape.0[..shape.rank() - rank].to_vec();
    result.extend(count);
    let (values, index) = (cx.b.reshape(values, Shape::new(result.clone()))?, cx.b.reshape(index, Shape::new(result))?);
    Ok(vec![values, cx.b.cast(index, DType::I64)?])
}

/// `[n, channels, windows * kernel]`: the elements of each window along a dimension of `size`, i32. Windows begin at
/// `int((i + s) * alpha) - int(s * alpha)` with the random number `s`, the last one at the end.
fn places(cx: &mut Cx, samples: Value, number: usize, size: &Dim, (kernel, output): (u32, u32)) -> Result<Value, String> {
    let samples = cx.b.slice(samples, 2, number as i64, number as i64 + 1, 1)?;
    let dtype = cx.b.dtype(samples);
    let (span, i) = (cx.b.size(&(size.clone() - &Dim::int(kernel as i64)), dtype)?, cx.b.iota(dtype, [output as i64], 0)?);
    let steps = cx.b.constant(dtype, (output as f64 - 1.0).max(1.0))?;
    let alpha = cx.b.div(span, steps)?;
    let shifted = cx.b.add(i, samples)?;
    let [start, before] = [shifted, samples].map(|at| {
        let scaled = cx.b.mul(at, alpha)?;
        cx.b.cast(scaled, DType::I32)
    });
    let start = cx.b.sub(start?, before?)?;
    let (position, last) = (cx.b.iota(DType::I32, [output as i64], 0)?, cx.b.constant(DType::I32, output as f64 - 1.0)?);
    let (is_last, end) = (cx.b.scalar(F::Eq, &[position, last])?, cx.b.cast(span, DType::I32)?);
    let start = cx.b.where_(is_last, end, start)?;
    let (start, within) = (cx.b.unsqueeze(start, 3)?, cx.b.iota(DType::I32, [kernel as i64], 0)?);
    let at = cx.b.add(start, within)?;
    let mut shape = cx.shape(at).0[..2].to_vec();
    shape.push(Dim::int(output as i64 * kernel as i64));
    cx.b.reshape(at, Shape::new(shape))
}

/// Elements of `x` at these places along a dimension.
fn along(cx: &mut Cx, x: Value, dim: usize, at: Value) -> Result<Value, String> {
    let (own, places) = (cx.shape(x), cx.shape(at));
    let mut narrow = vec![Dim::int(1); own.rank()];
    narrow[..2].clone_from_slice(&places.0[..2]);
    narrow[dim] = places[2].clone();
    let mut full = own;
    full.0[dim] = places[2].clone();
    let at = cx.b.reshape(at, Shape::new(narrow))?;
    let at = cx.b.broadcast_to(at, &full)?;
    cx.b.gather(x, at, dim)
}

/// `[n, channels, a * b]` from `[n, channels, a]` and `[n, channels, b]`.
fn outer_sum(cx: &mut Cx, x: Value, y: Value) -> Result<Value, String> {
    let (column, row) = (cx.b.unsqueeze(x, 3)?, cx.b.unsqueeze(y, 2)?);
    let sum = cx.b.add(column, row)?;
    let shape = cx.shape(sum).0;
    let flat = shape[2].clone() * &shape[3];
    cx.b.reshape(sum, Shape::new([&shape[..2], &[flat]].concat()))
}

/// Windows as rows, and how many there are along each dimension.
fn rows_of_windows(cx: &mut Cx, windows: Value, kernel: &[u32], output: &[u32]) -> Result<(Value, Vec<Dim>), String> {
    let shape = cx.shape(windows).0;
    let flat = cx.b.reshape(windows, Shape::new([&shape[..2], &[Dim::product(&shape[2..])]].concat()))?;
    Ok((in_rows(cx, flat, kernel, output)?, output.iter().map(|&n| Dim::int(n as i64)).collect()))
}

/// `[n, channels, windows, kernel]` from `[n, channels, windows 0 * kernel 0 * windows 1 * kernel 1 ...]`.
fn in_rows(cx: &mut Cx, x: Value, kernel: &[u32], output: &[u32]) -> Result<Value, String> {
    let lead = cx.shape(x).0[..2].to_vec();
    let pairs: Vec<Dim> = output.iter().zip(kernel).flat_map(|(&n, &k)| [Dim::int(n as i64), Dim::int(k as i64)]).collect();
    let split = cx.b.reshape(x, Shape::new([&lead[..], &pairs].concat()))?;
    let rank = kernel.len();
    let order: Vec<usize> = [0, 1].into_iter().chain((0..rank).map(|d| 2 + 2 * d)).chain((0..rank).map(|d| 3 + 2 * d)).collect();
    let split = cx.b.permute(split, &order)?;
    let count = |sizes: &[u32]| Dim::int(sizes.iter().map(|&n| n as i64).product());
    cx.b.reshape(split, Shape::new([&lead[..], &[count(output), count(kernel)]].concat()))
}
