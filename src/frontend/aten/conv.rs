//! Convolutions of one to three dimensions, transposed or not.

use super::args::{Args, Cx};
use super::{Row, pure};
use crate::graph::Value;
use crate::ops::{Convolution, ConvolutionInput, Window};
use crate::types::Dim;

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["convolution.default", "_convolution.default", "_convolution.deprecated"], |cx, a| {
        let transposed = a.bool_or("transposed", false)?;
        build(cx, a, a.tensor("weight")?, transposed, None)
    }),
    pure(&["conv_tbc.default"], |cx, a| {
        let (x, weight, bias, pad) = (a.tensor("self")?, a.tensor("weight")?, a.tensor("bias")?, a.int_or("pad", 0)?);
        [x, weight].into_iter().try_for_each(|v| cx.expect_rank(v, 3..=3))?;
        let (x, weight) = (cx.b.permute(x, &[1, 2, 0])?, cx.b.permute(weight, &[2, 1, 0])?);
        let window = Window { stride: vec![1], padding: each(vec![pad], 1, 0)?, dilation: vec![1] };
        let y = cx.b.op(Convolution { window: window.into(), groups: 1 }, &[x, weight])?;
        let y = cx.b.permute(y, &[2, 0, 1])?;
        Ok(vec![cx.b.add(y, bias)?])
    }),
    pure(&["conv1d.default", "conv2d.default", "conv3d.default"], |cx, a| build(cx, a, a.tensor("weight")?, false, None)),
    pure(&["conv1d.padding", "conv2d.padding", "conv3d.padding"], |cx, a| {
        let mode = a.text_or("padding", "valid")?;
        build(cx, a, a.tensor("weight")?, false, Some(mode))
    }),
    pure(&["conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input"], |cx, a| build(cx, a, a.tensor("weight")?, true, None)),
];

/// A list with one element for each spatial dimension; a single one stands for all.
pub fn each(list: Vec<i64>, rank: usize, default: i64) -> Result<Vec<u32>, String> {
    let list = match list.len() {
        0 => vec![default; rank],
        1 => vec![list[0]; rank],
        n if n == rank => list,
        n => return Err(format!("a list of {n} numbers for {rank} dimensions")),
    };
    list.into_iter().map(|x| u32::try_from(x).map_err(|_| format!("{x} is out of range"))).collect()
}

fn build(cx: &mut Cx, a: &Args, weight: Value, transposed: bool, mode: Option<&str>) -> Built {
    let x = a.tensor("input")?;
    let rank = cx.b.shape(weight).rank().checked_sub(2).filter(|&r| r > 0).ok_or("the weight has no spatial dimension")?;
    // Without a batch dimension, there is one of size one.
    let unbatched = cx.b.shape(x).rank() == rank + 1;
    let mut x = if unbatched { cx.b.unsqueeze(x, 0)? } else { x };
    let stride = each(a.ints_or_empty("stride")?, rank, 1)?;
    let dilation = each(a.ints_or_empty("dilation")?, rank, 1)?;
    let groups = u32::try_from(a.int_or("groups", 1)?).map_err(|_| "the number of groups is out of range")?;
    let padding = match mode {
        None => each(a.ints_or_empty("padding")?, rank, 0)?,
        Some("valid") => vec![0; rank],
        Some("same") => {
            x = pad_same(cx, x, weight, &dilation)?;
            vec![0; rank]
        }
        Some(other) => return Err(format!("padding {other} is not known")),
    };
    let window = Window { stride, padding, dilation };
    a.disregard(&["output_padding"]);
    let y = if transposed {
        let extra = each(a.ints_or_empty("output_padding")?, rank, 0)?;
        transpose(cx, x, weight, window, groups, &extra)?
    } else {
        cx.b.op(Convolution { window: window.into(), groups }, &[x, weight])?
    };
    let y = match a.tensor_opt("bias")? {
        Some(bias) => {
            super::rank_of(cx, bias, 1)?;
            let shape = super::norm::channel_shape(&cx.b.shape(bias)[0].clone(), rank + 2);
            let bias = cx.b.reshape(bias, shape)?;
            cx.b.add(y, bias)?
        }
        None => y,
    };
    Ok(vec![if unbatched { cx.b.squeeze(y, 0)? } else { y }])
}

/// Zeros around the input so that the result has its size; the odd one goes behind.
fn pad_same(cx: &mut Cx, x: Value, weight: Value, dilation: &[u32]) -> Result<Value, String> {
    let (mut low, mut high) = (vec![Dim::int(0); 2], vec![Dim::int(0); 2]);
    for (i, &d) in dilation.iter().enumerate() {
        let kernel = kernel_size(cx, weight, i)?;
        let total = d as i64 * (kernel - 1);
        low.push(Dim::int(total / 2));
        high.push(Dim::int(total - total / 2));
    }
    if low.iter().chain(&high).all(|d| d.is(0)) { Ok(x) } else { cx.b.pad(x, &low, &high, 0.0) }
}

/// Size of a kernel's spatial dimension, small enough to reckon with.
fn kernel_size(cx: &Cx, weight: Value, i: usize) -> Result<i64, String> {
    let size = cx.b.shape(weight).0.get(2 + i).ok_or("the weight has too few dimensions")?;
    let size = size.as_int().ok_or("a symbolic kernel is not supported")?;
    if size <= i32::MAX as i64 { Ok(size) } else { Err(format!("a kernel of {size} elements is not supported")) }
}

fn transpose(cx: &mut Cx, x: Value, weight: Value, window: Window, groups: u32, extra: &[u32]) -> Result<Value, String> {
    super::rank_of(cx, x, window.rank() + 2)?;
    let shape = cx.shape(x);
    let (mut size, mut behind) = (vec![], vec![Dim::int(0); 2]);
    for i in 0..window.rank() {
        let k = kernel_size(cx, weight, i)?;
        let [s, p, d, e] = [window.stride[i], window.padding[i], window.dilation[i], extra[i]].map(|n| n as i64);
        if s == 0 {
            return Err("a stride is zero".into());
        }
        size.push((shape[2 + i].clone() - &Dim::int(1)) * &Dim::int(s) + Dim::int(d * (k - 1) + 1 + e - 2 * p));
        // A convolution of so large a result has further windows, which see nothing of the input.
        behind.push(Dim::int(e / s));
    }
    let x = match behind.iter().all(|d| d.is(0)) {
        true => x,
        false => cx.b.pad(x, &vec![Dim::int(0); behind.len()], &behind, 0.0)?,
    };
    cx.b.op(ConvolutionInput { window: window.into(), groups, size }, &[x, weight])
}
