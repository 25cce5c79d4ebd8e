//! Patches of images as columns and back, sampling grids, and positions of pooled elements put back.

use super::args::{Arg, Args, Cx, Scalar};
use super::{Row, pure};
use crate::graph::Value;
use crate::types::{DType, Dim, Shape};

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["im2col.default"], im2col),
    pure(&["col2im.default"], col2im),
    pure(&["affine_grid_generator.default"], affine_grid),
    pure(&["max_unpool2d.default"], |cx, a| max_unpool(cx, a, 2)),
    pure(&["max_unpool3d.default"], |cx, a| max_unpool(cx, a, 3)),
];

/// Where the patches of one dimension begin and what they cover.
struct Steps {
    kernel: i64,
    dilation: i64,
    padding: i64,
    stride: i64,
}

impl Steps {
    fn both(a: &Args) -> Result<[Steps; 2], String> {
        let [kernel, dilation, padding, stride] = ["kernel_size", "dilation", "padding", "stride"].map(|name| {
            let list = a.ints(name)?;
            if list.iter().any(|n| !(0..=1 << 12).contains(n)) {
                return Err(format!("{name} is {list:?}, outside of 0 to 4096"));
            }
            match list[..] {
                [both] => Ok([both, both]),
                [h, w] => Ok([h, w]),
                _ => Err(format!("{name} has {} elements", list.len())),
            }
        });
        let (kernel, dilation, padding, stride) = (kernel?, dilation?, padding?, stride?);
        if [kernel, dilation, stride].iter().flatten().any(|n| *n < 1) {
            return Err("kernel, dilation and stride are positive".into());
        }
        Ok([0, 1].map(|d| Steps { kernel: kernel[d], dilation: dilation[d], padding: padding[d], stride: stride[d] }))
    }

    /// How many patches there are along `n` elements.
    fn count(&self, n: i64) -> Result<i64, String> {
        let span = n + 2 * self.padding - self.dilation * (self.kernel - 1) - 1;
        if span < 0 { Err(format!("a patch of {} does not fit {n} elements", self.kernel)) } else { Ok(span / self.stride + 1) }
    }

    /// Positions `[kernel, patches]` in the padded dimension.
    fn index(&self, cx: &mut Cx, patches: i64) -> Result<Value, String> {
        let shape = Shape::new(vec![Dim::int(self.kernel), Dim::int(patches)]);
        let (inside, patch) = (cx.b.iota(DType::I32, shape.clone(), 0)?, cx.b.iota(DType::I32, shape, 1)?);
        let (dilation, stride) = (cx.b.constant(DType::I32, self.dilation as f64)?, cx.b.constant(DType::I32, self.stride as f64)?);
        let (inside, patch) = (cx.b.mul(inside, dilation)?, cx.b.mul(patch, stride)?);
        cx.b.add(inside, patch)
    }
}

/// A batch of images, and whether the tensor was a single one.
fn batch(cx: &mut Cx, x: Value, rank: usize) -> Result<(Value, bool), String> {
    if cx.b.shape(x).rank() == rank { Ok((x, false)) } else { Ok((cx.b.unsqueeze(x, 0)?, true)) }
}

fn unbatched(cx: &mut Cx, x: Value, single: bool) -> Built {
    Ok(vec![if single { cx.b.squeeze(x, 0)? } else { x }])
}

fn sizes<const N: usize>(cx: &Cx, x: Value) -> Result<[i64; N], String> {
    let list: Option<Vec<i64>> = cx.b.shape(x).0.iter().map(|d| d.as_int().filter(|n| *n < 1 << 31)).collect();
    list.and_then(|l| l.try_into().ok()).ok_or_else(|| format!("{} of constant sizes is expected to have {N} dimensions", cx.b.ty(x)))
}

/// Sizes whose products do not overflow.
fn bounded(a: &Args, name: &str) -> Result<Vec<i64>, String> {
    let list = a.ints(name)?;
    if list.iter().all(|n| (0..=1 << 20).contains(n)) { Ok(list) } else { Err(format!("{name} is {list:?}")) }
}

fn im2col(cx: &mut Cx, a: &Args) -> Built {
    let (x, single) = batch(cx, a.tensor("self")?, 4)?;
    let [n, c, h, w] = sizes(cx, x)?;
    let [rows, columns] = Steps::both(a)?;
    let (oh, ow) = (rows.count(h)?, columns.count(w)?);
    let pad = [0, 0, rows.padding, columns.padding].map(Dim::int);
    let x = cx.b.pad(x, &pad, &pad, 0.0)?;
    let (i, j) = (rows.index(cx, oh)?, columns.index(cx, ow)?);
    // [n, c, kernel h, patches h, kernel w, patches w]
    let x = cx.b.index_select(x, 2, i)?;
    let x = cx.b.index_select(x, 4, j)?;
    let x = cx.b.permute(x, &[0, 1, 2, 4, 3, 5])?;
    let x = cx.b.reshape(x, [n, c * rows.kernel * columns.kernel, oh * ow])?;
    unbatched(cx, x, single)
}

/// Patches added where they were taken from.
fn col2im(cx: &mut Cx, a: &Args) -> Built {
    let (x, single) = batch(cx, a.tensor("self")?, 3)?;
    let [n, joined, _] = sizes(cx, x)?;
    let output = bounded(a, "output_size")?;
    let [h, w] = output[..] else { return Err("the output has two sizes".into()) };
    let [rows, columns] = Steps::both(a)?;
    let (oh, ow) = (rows.count(h)?, columns.count(w)?);
    let c = joined / (rows.kernel * columns.kernel);
    let x = cx.b.reshape(x, [n, c, rows.kernel, columns.kernel, oh, ow])?;
    let x = cx.b.permute(x, &[0, 1, 2, 4, 3, 5])?;
    let x = cx.b.reshape(x, [n, c, rows.kernel * oh, columns.kernel * ow])?;
    let (i, j) = (rows.index(cx, oh)?, columns.index(cx, ow)?);
    let (i, j) = (cx.b.reshape(i, [rows.kernel * oh])?, cx.b.reshape(j, [columns.kernel * ow])?);
    let (tall, wide) = (h + 2 * rows.padding, w + 2 * columns.padding);
    let dtype = cx.b.dtype(x);
    let empty = cx.b.full(dtype, 0.0, [n, c, tall, columns.kernel * ow])?;
    let x = cx.b.index_add(empty, 2, i, x)?;
    let empty = cx.b.full(dtype, 0.0, [n, c, tall, wide])?;
    let x = cx.b.index_add(empty, 3, j, x)?;
    let x = cx.b.slice(x, 2, rows.padding, rows.padding + h, 1)?;
    let x = cx.b.slice(x, 3, columns.padding, columns.padding + w, 1)?;
    unbatched(cx, x, single)
}

/// Positions in -1 to 1 along `n` elements: their middles, or with aligned corners from end to end.
fn positions(cx: &mut Cx, n: i64, dtype: DType, align_corners: bool) -> Result<Value, String> {
    let i = cx.b.iota(dtype, [n], 0)?;
    let (step, first) = match align_corners {
        true if n > 1 => (2.0 / (n - 1) as f64, -1.0),
        true => (0.0, 0.0),
        false => (2.0 / n as f64, 1.0 / n as f64 - 1.0),
    };
    let (scaled, first) = (cx.b.scale(i, step)?, cx.b.constant(dtype, first)?);
    cx.b.add(scaled, first)
}

/// The positions of an output's elements, mapped by one affine matrix for each image.
fn affine_grid(cx: &mut Cx, a: &Args) -> Built {
    let (theta, size) = (a.tensor("theta")?, bounded(a, "size")?);
    let (dtype, align) = (cx.b.dtype(theta), a.bool_or("align_corners", false)?);
    cx.expect_rank(theta, 3..=3)?;
    let spatial = size.get(2..).filter(|s| (2..=3).contains(&s.len())).ok_or("a grid has two or three dimensions")?;
    let shape = Shape::new(spatial.iter().map(|&n| Dim::int(n)).collect());
    let mut parts = vec![];
    for (d, &n) in spatial.iter().enumerate().rev() {
        let mut own = vec![Dim::int(1); spatial.len()];
        own[d] = Dim::int(n);
        let at = positions(cx, n, dtype, align)?;
        let at = cx.b.reshape(at, Shape::new(own))?;
        parts.push(cx.b.broadcast_to(at, &shape)?);
    }
    parts.push(cx.b.full(dtype, 1.0, shape)?);
    let base = cx.b.stack(&parts, spatial.len())?;
    let base = cx.b.reshape(base, [spatial.iter().product::<i64>(), spatial.len() as i64 + 1])?;
    let matrix = cx.b.permute(theta, &[0, 2, 1])?;
    let grid = super::matmul::matmul(cx, base, matrix)?;
    let full: Vec<i64> = [size[0]].into_iter().chain(spatial.iter().copied()).chain([spatial.len() as i64]).collect();
    Ok(vec![cx.b.reshape(grid, Shape::new(full.into_iter().map(Dim::int).collect()))?])
}

/// Elements put back at the positions that pooling took them from; elsewhere zero.
fn max_unpool(cx: &mut Cx, a: &Args, dims: usize) -> Built {
    let (x, index, output) = (a.tensor("self")?, a.tensor("indices")?, bounded(a, "output_size")?);
    // They only say how the output's size was found.
    a.disregard(&["stride", "padding"]);
    if output.len() != dims {
        return Err(format!("the output has {} sizes", output.len()));
    }
    let shape = cx.shape(x);
    let lead = shape.rank().checked_sub(dims).ok_or("there are too few dimensions")?;
    let flat = |total: Dim| Shape::new(shape.0[..lead].iter().cloned().chain([total]).collect());
    let (own, all) = (Shape::new(shape.0[lead..].to_vec()).numel(), output.iter().product::<i64>());
    let (x, index) = (cx.b.reshape(x, flat(own.clone()))?, cx.b.reshape(index, flat(own))?);
    let empty = cx.b.full(cx.b.dtype(x), 0.0, flat(Dim::int(all)))?;
    let args = Args::new(vec![
        ("self".into(), Arg::Tensor(empty)),
        ("dim".into(), Arg::Scalar(Scalar::Int(Dim::int(lead as i64)))),
        ("index".into(), Arg::Tensor(index)),
        ("src".into(), Arg::Tensor(x)),
    ]);
    let out = super::scatter::assigned(cx, &args)?;
    let full = shape.0[..lead].iter().cloned().chain(output.iter().map(|&n| Dim::int(n))).collect();
    Ok(vec![cx.b.reshape(out, Shape::new(full))?])
}
