//! Pooling: maximum with indices, average, adaptive.

use super::args::{Args, Cx, Scalar};
use super::conv::each;
use super::pointwise::integer_quotient;
use super::{Row, pure, rank_of, table_length};
use crate::graph::Value;
use crate::ops::{Constant, MaxPool, Pool, ReduceKind, Window, WindowSum};
use crate::scalar::ScalarFn as F;
use crate::types::{DType, Dim, HostTensor, Shape};

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["max_pool1d_with_indices.default"], |cx, a| max_pool(cx, a, 1)),
    pure(&["max_pool2d_with_indices.default"], |cx, a| max_pool(cx, a, 2)),
    pure(&["max_pool3d_with_indices.default"], |cx, a| max_pool(cx, a, 3)),
    pure(&["max_pool1d.default"], |cx, a| Ok(vec![max_pool(cx, a, 1)?[0]])),
    pure(&["max_pool2d.default"], |cx, a| Ok(vec![max_pool(cx, a, 2)?[0]])),
    pure(&["max_pool3d.default"], |cx, a| Ok(vec![max_pool(cx, a, 3)?[0]])),
    pure(&["max_pool2d_with_indices_backward.default"], |cx, a| max_pool_backward(cx, a, 2)),
    pure(&["max_pool3d_with_indices_backward.default"], |cx, a| max_pool_backward(cx, a, 3)),
    pure(&["avg_pool1d.default"], |cx, a| avg_pool(cx, a, 1)),
    pure(&["avg_pool2d.default"], |cx, a| avg_pool(cx, a, 2)),
    pure(&["avg_pool3d.default"], |cx, a| avg_pool(cx, a, 3)),
    pure(&["adaptive_avg_pool1d.default"], |cx, a| adaptive_avg(cx, a, 1)),
    pure(&["_adaptive_avg_pool2d.default", "adaptive_avg_pool2d.default"], |cx, a| adaptive_avg(cx, a, 2)),
    pure(&["_adaptive_avg_pool3d.default", "adaptive_avg_pool3d.default"], |cx, a| adaptive_avg(cx, a, 3)),
    pure(&["adaptive_max_pool1d.default"], |cx, a| adaptive_max(cx, a, 1)),
    pure(&["adaptive_max_pool2d.default"], |cx, a| adaptive_max(cx, a, 2)),
    pure(&["adaptive_max_pool3d.default"], |cx, a| adaptive_max(cx, a, 3)),
];

fn pool(a: &Args, rank: usize) -> Result<Pool, String> {
    let kernel = each(a.ints("kernel_size")?, rank, 1)?;
    let own: Vec<i64> = kernel.iter().map(|&k| k as i64).collect();
    let stride = a.ints_or_empty("stride")?;
    let stride = each(if stride.is_empty() { own.clone() } else { stride }, rank, 1)?;
    let padding = each(a.ints_or_empty("padding")?, rank, 0)?;
    let dilation = each(a.ints_or_empty("dilation")?, rank, 1)?;
    let kernel = own.into_iter().map(Dim::int).collect();
    Ok(Pool { window: Window { stride, padding, dilation }, kernel, ceil: a.bool_or("ceil_mode", false)? })
}

fn max_pool(cx: &mut Cx, a: &Args, rank: usize) -> Built {
    let results = cx.b.node(MaxPool { pool: pool(a, rank)?.into() }, &[a.tensor("self")?])?;
    Ok(vec![results[0], cx.b.cast(results[1], DType::I64)?])
}

/// The shape with its last `rank` dimensions as one.
fn flat(shape: &Shape, rank: usize) -> Shape {
    let (lead, plane) = shape.0.split_at(shape.rank() - rank);
    Shape::new(lead.iter().cloned().chain([Dim::product(plane)]).collect())
}

/// By its definition: the cotangent is added wherever the indices say, whether a window sees it or not.
fn max_pool_backward(cx: &mut Cx, a: &Args, rank: usize) -> Built {
    let (g, x, index) = (a.tensor("grad_output")?, a.tensor("self")?, a.tensor("indices")?);
    // The indices say what the windows were.
    a.disregard(&["kernel_size", "stride", "padding", "dilation", "ceil_mode"]);
    let (from, to) = (cx.shape(g), cx.shape(x));
    if to.numel().is(0) || from.numel().is(0) {
        return Ok(vec![cx.b.full(cx.b.dtype(x), 0.0, to)?]);
    }
    let (g, index) = (cx.b.reshape(g, flat(&from, rank))?, cx.b.reshape(index, flat(&from, rank))?);
    let zeros = cx.b.full(cx.b.dtype(g), 0.0, flat(&to, rank))?;
    let dx = cx.b.scatter_add(zeros, index, g, from.rank() - rank)?;
    Ok(vec![cx.b.reshape(dx, to)?])
}

fn avg_pool(cx: &mut Cx, a: &Args, rank: usize) -> Built {
    let x = a.tensor("self")?;
    let pool = pool(a, rank)?;
    let dtype = cx.b.dtype(x);
    let wide = if dtype.is_float() { dtype.accumulator() } else { dtype };
    let x = cx.b.cast(x, wide)?;
    rank_of(cx, x, rank)?;
    let size = cx.shape(x).0[cx.b.shape(x).rank() - rank..].to_vec();
    let sum = cx.b.op(WindowSum { pool: pool.clone().into() }, &[x])?;
    let windows = cx.shape(sum).0[cx.b.shape(sum).rank() - rank..].to_vec();
    let include = a.bool_or("count_include_pad", true)?;
    let divide = if dtype.is_float() { float_quotient } else { integer_quotient };
    let mut out = sum;
    if a.has("divisor_override") {
        a.disregard(&["count_include_pad"]);
        let divisor = cx.b.constant(wide, a.float("divisor_override")?)?;
        out = divide(cx, out, divisor)?;
    } else {
        let mut area = cx.b.constant(wide, 1.0)?;
        for i in 0..rank {
            let counts = match (size[i].as_int(), windows[i].as_int()) {
                (Some(n), Some(count)) => {
                    let counts = counts(&pool, i, n, count, include)?;
                    let mut shape = vec![1; rank];
                    shape[i] = counts.len();
                    cx.b.op(Constant::from_host(&HostTensor::from_f64(wide, &shape, &counts)), &[])?
                }
                _ => symbolic_counts(cx, (&pool, i, rank), &size[i], &windows[i], (include, wide))?,
            };
            area = cx.b.mul(area, counts)?;
        }
        out = divide(cx, out, area)?;
    }
    Ok(vec![cx.b.cast(out, dtype)?])
}

fn float_quotient(cx: &mut Cx, x: Value, y: Value) -> Result<Value, String> {
    cx.b.div(x, y)
}

/// Elements that the windows of dimension `i` count.
fn counts(pool: &Pool, i: usize, n: i64, count: i64, include: bool) -> Result<Vec<f64>, String> {
    let (s, p) = (pool.window.stride[i] as i64, pool.window.padding[i] as i64);
    let kernel = pool.kernel[i].as_int().unwrap_or(1);
    let of = |window: i64| {
        let start = window * s - p;
        let end = (start + kernel).min(n + p);
        (if include { end - start } else { end.min(n) - start.max(0) }) as f64
    };
    Ok((0..table_length(count)?).map(of).collect())
}

/// The same for a symbolic size, computed with the program, in the shape of the spatial dimensions.
fn symbolic_counts(
    cx: &mut Cx,
    (pool, i, rank): (&Pool, usize, usize),
    size: &Dim,
    windows: &Dim,
    (include, dtype): (bool, DType),
) -> Result<Value, String> {
    let (s, p, kernel) = (pool.window.stride[i] as i64, pool.window.padding[i] as i64, pool.kernel[i].as_int().unwrap_or(1));
    let number = |cx: &mut Cx, n: Dim| cx.number(&Scalar::Int(n), DType::I32);
    let mut shape = vec![Dim::int(1); rank];
    shape[i] = windows.clone();
    let window = cx.b.iota(DType::I32, Shape::new(shape), i)?;
    let (stride, padding, length) = (number(cx, Dim::int(s))?, number(cx, Dim::int(p))?, number(cx, Dim::int(kernel))?);
    let start = cx.b.mul(window, stride)?;
    let mut start = cx.b.sub(start, padding)?;
    let mut end = cx.b.add(start, length)?;
    let border = number(cx, if include { size.clone() + Dim::int(p) } else { size.clone() })?;
    end = cx.b.scalar(F::Minimum, &[end, border])?;
    if !include {
        let zero = number(cx, Dim::int(0))?;
        start = cx.b.scalar(F::Maximum, &[start, zero])?;
    }
    let counts = cx.b.sub(end, start)?;
    cx.b.cast(counts, dtype)
}

/// First element and number of elements of each of `out` windows over `n`.
fn adaptive_windows(n: i64, out: i64) -> Result<Vec<(i64, i64)>, String> {
    if !(0..=1 << 32).contains(&n) {
        return Err(format!("adaptive windows over {n} elements are not supported"));
    }
    let of = |i: i64| {
        let start = i * n / out;
        (start, ((i + 1) * n + out - 1) / out - start)
    };
    Ok((0..table_length(out)?).map(of).collect())
}

/// Sizes of the result's last dimensions; those not given stay.
fn adaptive_sizes(cx: &Cx, a: &Args, x: Value, rank: usize) -> Result<Vec<(i64, i64)>, String> {
    let shape = cx.b.shape(x);
    let first = shape.rank().checked_sub(rank).ok_or("it has too few dimensions")?;
    let out = each(a.ints("output_size")?, rank, 1)?;
    let size = |i: usize| shape[first + i].as_int().ok_or_else(|| "adaptive windows over a symbolic size are not supported".to_string());
    (0..rank).map(|i| Ok((size(i)?, out[i] as i64))).collect()
}

/// The windows of dimension `dim`, padded to one length: `[..., out, length, ...]`, and a mask of what is there, which broadcasts.
fn windowed(cx: &mut Cx, x: Value, dim: usize, n: i64, out: i64) -> Result<(Value, Option<Value>, Vec<i64>), String> {
    let windows = adaptive_windows(n, out)?;
    let length = windows.iter().map(|w| w.1).max().unwrap_or(0);
    table_length(out.saturating_mul(length))?;
    let mut index = vec![];
    let mut inside = vec![];
    for (start, count) in windows {
        index.extend((0..length).map(|k| start + k.min(count - 1)));
        inside.extend((0..length).map(|k| (k < count) as i64));
    }
    let shape = [out as usize, length as usize];
    let at = cx.b.op(Constant::from_host(&HostTensor::from_i64(DType::I32, &shape, &index)), &[])?;
    let parts = cx.b.index_select(x, dim, at)?;
    if inside.iter().all(|&i| i == 1) {
        return Ok((parts, None, index));
    }
    let mask = cx.b.op(Constant::from_host(&HostTensor::from_i64(DType::Bool, &shape, &inside)), &[])?;
    let behind = cx.b.shape(x).rank() - dim - 1;
    let shape: Vec<Dim> = [out, length].into_iter().chain(vec![1; behind]).map(Dim::int).collect();
    Ok((parts, Some(cx.b.reshape(mask, shape)?), index))
}

fn adaptive_avg(cx: &mut Cx, a: &Args, rank: usize) -> Built {
    let x = a.tensor("self")?;
    let first = cx.b.shape(x).rank().checked_sub(rank).ok_or("it has too few dimensions")?;
    let sizes = a.dims("output_size")?;
    if sizes.len() != rank && sizes.len() != 1 {
        return Err(format!("{} sizes for {rank} dimensions", sizes.len()));
    }
    let dtype = cx.b.dtype(x);
    let mut y = cx.b.cast(x, dtype.accumulator())?;
    for i in 0..rank {
        let (dim, out) = (first + i, sizes[i.min(sizes.len() - 1)].clone());
        let n = cx.b.shape(y)[dim].clone();
        if n == out {
            continue;
        }
        if out.range().0 > 0
            && let Some(each) = n.try_div(&out)
        {
            let mut shape = cx.shape(y);
            shape.0[dim] = out;
            shape.0.insert(dim + 1, each);
            let parts = cx.b.reshape(y, shape)?;
            y = cx.b.mean(parts, &[dim + 1], false)?;
            continue;
        }
        let (Some(n), Some(out)) = (n.as_int(), out.as_int()) else {
            return Err(format!("{out} adaptive windows over {n} elements are not supported"));
        };
        let (mut parts, mask, _) = windowed(cx, y, dim, n, out)?;
        if let Some(mask) = mask {
            let zero = cx.b.constant(cx.b.dtype(parts), 0.0)?;
            parts = cx.b.where_(mask, parts, zero)?;
        }
        let sum = cx.b.reduce(ReduceKind::Sum, parts, &[dim + 1], false)?;
        let counts: Vec<f64> = adaptive_windows(n, out)?.into_iter().map(|w| w.1 as f64).collect();
        let mut shape = vec![1; cx.b.shape(sum).rank() - dim];
        shape[0] = counts.len();
        let counts = cx.b.op(Constant::from_host(&HostTensor::from_f64(dtype.accumulator(), &shape, &counts)), &[])?;
        y = cx.b.div(sum, counts)?;
    }
    Ok(vec![cx.b.cast(y, dtype)?])
}

/// All windows of all dimensions, then one maximum over their elements; the value is read at its index, so that one element
/// takes the cotangent.
fn adaptive_max(cx: &mut Cx, a: &Args, rank: usize) -> Built {
    let x = a.tensor("self")?;
    let sizes = adaptive_sizes(cx, a, x, rank)?;
    let first = cx.b.shape(x).rank() - rank;
    let dtype = cx.b.dtype(x);
    let lowest = cx.b.constant(dtype, dtype.int_range().map_or(f64::NEG_INFINITY, |(low, _)| low as f64))?;
    let mut parts = x;
    let mut plane = vec![(0i64, vec![])];
    for (i, &(n, out)) in sizes.iter().enumerate() {
        // Dimensions before this one have become two.
        let dim = first + 2 * i;
        let (next, mask, index) = windowed(cx, parts, dim, n, out)?;
        parts = match mask {
            Some(mask) => cx.b.where_(mask, next, lowest)?,
            None => next,
        };
        plane.push((n, index));
    }
    let plane = &plane[1..];
    let lead: Vec<usize> = (0..first).collect();
    let order: Vec<usize> = lead.iter().copied().chain((0..rank).map(|i| first + 2 * i)).chain((0..rank).map(|i| first + 2 * i + 1)).collect();
    let moved = cx.b.permute(parts, &order)?;
    let joined = cx.shape(moved);
    let joined = flat(&joined, rank);
    let elements = cx.b.reshape(moved, joined.clone())?;
    let last = joined.rank() - 1;
    if joined.numel().is(0) {
        let shape = Shape::new(joined.0[..last].to_vec());
        return Ok(vec![cx.b.full(dtype, 0.0, shape.clone())?, cx.b.full(DType::I64, 0.0, shape)?]);
    }
    let at = cx.b.reduce(ReduceKind::Argmax, elements, &[last], true)?;
    let value = cx.b.gather(elements, at, last)?;
    // Where each element of each window lies in the plane.
    let places = plane_places(plane, &sizes);
    let shape: Vec<usize> =
        sizes.iter().map(|s| s.1 as usize).chain([places.len() / sizes.iter().map(|s| s.1 as usize).product::<usize>()]).collect();
    let places = cx.b.op(Constant::from_host(&HostTensor::from_i64(DType::I32, &shape, &places)), &[])?;
    let places = cx.b.broadcast_to(places, &joined)?;
    let index = cx.b.gather(places, at, last)?;
    let (value, index) = (cx.b.squeeze(value, last)?, cx.b.squeeze(index, last)?);
    Ok(vec![value, cx.b.cast(index, DType::I64)?])
}

/// For each window, in row-major order, and each of its elements: the flat index in the plane.
fn plane_places(plane: &[(i64, Vec<i64>)], sizes: &[(i64, i64)]) -> Vec<i64> {
    let lengths: Vec<usize> = plane.iter().zip(sizes).map(|((_, index), s)| index.len() / s.1.max(1) as usize).collect();
    let counts: Vec<usize> = sizes.iter().map(|s| s.1 as usize).collect();
    let unravel = |mut flat: usize, of: &[usize]| {
        let mut at = vec![0; of.len()];
        for (i, &n) in of.iter().enumerate().rev() {
            at[i] = flat % n;
            flat /= n;
        }
        at
    };
    let (windows, elements) = (counts.iter().product::<usize>(), lengths.iter().product::<usize>());
    let mut out = Vec::with_capacity(windows * elements);
    for w in 0..windows {
        let window = unravel(w, &counts);
        for e in 0..elements {
            let element = unravel(e, &lengths);
            let at = |i: usize| plane[i].1[window[i] * lengths[i] + element[i]];
            out.push((0..plane.len()).fold(0, |flat, i| flat * plane[i].0 + at(i)));
        }
    }
    out
}
