//! Views by strides and sliding windows, as reads at computed positions.

use super::args::{Args, Cx};
use super::scatter::write_slices;
use super::{Row, pure, snapshot};
use crate::graph::Value;
use crate::types::{DType, Dim, Shape};

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    snapshot(&["as_strided.default"], as_strided),
    pure(&["as_strided_copy.default"], as_strided),
    pure(&["as_strided_scatter.default"], |cx, a| {
        let (x, src) = (a.tensor("self")?, a.tensor("src")?);
        let index = positions(cx, a, x)?;
        let (shape, like) = (cx.shape(x), cx.shape(index));
        let flat = cx.b.reshape(x, [shape.numel()])?;
        let src = cx.b.cast(src, cx.b.dtype(x))?;
        let src = cx.b.broadcast_to(src, &like)?;
        let out = write_slices(cx, flat, index, src, false)?;
        Ok(vec![cx.b.reshape(out, shape)?])
    }),
    snapshot(&["unfold.default"], unfold),
    pure(&["unfold_copy.default"], unfold),
    pure(&["resize.default"], |cx, a| {
        let (x, size) = (a.tensor("self")?, Shape::new(a.dims("size")?));
        let (old, new) = (cx.shape(x).numel(), size.numel());
        let flat = cx.b.reshape(x, [old.clone()])?;
        let flat = if new.known_le(&old) { cx.b.slice(flat, 0, 0, new, 1)? } else { grown(cx, flat, new - &old)? };
        Ok(vec![cx.b.reshape(flat, size)?])
    }),
];

/// With so many elements more, which may be anything.
fn grown(cx: &mut Cx, flat: Value, more: Dim) -> Result<Value, String> {
    let dtype = cx.b.dtype(flat);
    let rest = cx.b.empty(dtype, [more])?;
    cx.b.concat(&[flat, rest], 0)
}

fn as_strided(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("self")?;
    let index = positions(cx, a, x)?;
    let n = cx.shape(x).numel();
    let flat = cx.b.reshape(x, [n])?;
    Ok(vec![cx.b.index_select(flat, 0, index)?])
}

/// Positions in the elements of `x`, which lie one behind the other, of a tensor of these sizes and strides.
fn positions(cx: &mut Cx, a: &Args, x: Value) -> Result<Value, String> {
    let (sizes, strides) = (a.ints("size")?, a.ints("stride")?);
    let offset = a.int_or("storage_offset", 0)?;
    if sizes.len() != strides.len() {
        return Err(format!("{} sizes, but {} strides", sizes.len(), strides.len()));
    }
    if offset < 0 || sizes.iter().chain(&strides).any(|n| *n < 0) {
        return Err(format!("sizes {sizes:?}, strides {strides:?} or the offset {offset} are negative"));
    }
    let n = cx.shape(x).numel().as_int().ok_or("strides of a symbolic size are not supported")?;
    let reach = sizes.iter().zip(&strides).try_fold(0i64, |sum, (n, s)| sum.checked_add((n - 1).checked_mul(*s)?));
    let last = reach.and_then(|r| r.checked_add(offset)).filter(|last| *last < n && n < 1 << 31);
    if !sizes.contains(&0) && last.is_none() {
        return Err(format!("sizes {sizes:?} and strides {strides:?} from {offset} on reach beyond {}", cx.b.ty(x)));
    }
    let shape = Shape::new(sizes.iter().map(|&n| Dim::int(n)).collect());
    let mut index = cx.b.full(DType::I32, offset as f64, shape.clone())?;
    for (d, &stride) in strides.iter().enumerate().filter(|(_, s)| **s != 0) {
        let (at, stride) = (cx.b.iota(DType::I32, shape.clone(), d)?, cx.b.constant(DType::I32, stride as f64)?);
        let step = cx.b.mul(at, stride)?;
        index = cx.b.add(index, step)?;
    }
    Ok(index)
}

/// Windows of `size` elements along a dimension, every `step` elements; the window is the last dimension.
fn unfold(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("self")?;
    let dim = cx.dim(x, a.int("dimension")?)?;
    let (size, step) = (a.int("size")?, a.int_in("step", 1, 1..=1 << 30)?);
    let wide = cx.at_least_1d(x)?;
    let all = cx.b.shape(wide)[dim].clone();
    if size < 0 || !Dim::int(size).known_le(&all) {
        return Err(format!("windows of {size} every {step} do not fit {}", cx.b.ty(x)));
    }
    let count = (all - Dim::int(size)).floor_div(&Dim::int(step)) + Dim::int(1);
    let windows = Shape::new(vec![count, Dim::int(size)]);
    let (first, inside) = (cx.b.iota(DType::I32, windows.clone(), 0)?, cx.b.iota(DType::I32, windows, 1)?);
    let step = cx.b.constant(DType::I32, step as f64)?;
    let first = cx.b.mul(first, step)?;
    let index = cx.b.add(first, inside)?;
    let rank = cx.b.shape(wide).rank();
    let read = cx.b.index_select(wide, dim, index)?;
    if cx.b.shape(x).rank() == 0 {
        // Its only window; an empty one would fit twice.
        let window = cx.b.slice(read, 0, 0, 1, 1)?;
        return Ok(vec![cx.b.reshape(window, [size])?]);
    }
    let order: Vec<usize> = (0..=rank).filter(|&d| d != dim + 1).chain([dim + 1]).collect();
    Ok(vec![cx.b.permute(read, &order)?])
}
