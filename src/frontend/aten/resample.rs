//! Resampling of images: to other sizes, at points of a grid, and padding with their own elements.

use super::args::{Args, Cx, fraction};
use super::{Row, opmath, pure, table_length};
use crate::graph::Value;
use crate::ops::Constant;
use crate::scalar::ScalarFn as F;
use crate::types::{DType, Dim, HostTensor};

mod antialias;
mod symbolic;

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["upsample_nearest1d.default", "upsample_nearest1d.vec"], |cx, a| upsample(cx, a, 1, Kernel::Nearest { exact: false })),
    pure(&["upsample_nearest2d.default", "upsample_nearest2d.vec"], |cx, a| upsample(cx, a, 2, Kernel::Nearest { exact: false })),
    pure(&["upsample_nearest3d.default", "upsample_nearest3d.vec"], |cx, a| upsample(cx, a, 3, Kernel::Nearest { exact: false })),
    pure(&["_upsample_nearest_exact1d.default", "_upsample_nearest_exact1d.vec"], |cx, a| upsample(cx, a, 1, Kernel::Nearest { exact: true })),
    pure(&["_upsample_nearest_exact2d.default", "_upsample_nearest_exact2d.vec"], |cx, a| upsample(cx, a, 2, Kernel::Nearest { exact: true })),
    pure(&["_upsample_nearest_exact3d.default", "_upsample_nearest_exact3d.vec"], |cx, a| upsample(cx, a, 3, Kernel::Nearest { exact: true })),
    pure(&["upsample_linear1d.default", "upsample_linear1d.vec"], |cx, a| upsample(cx, a, 1, Kernel::Linear)),
    pure(&["upsample_bilinear2d.default", "upsample_bilinear2d.vec"], |cx, a| upsample(cx, a, 2, Kernel::Linear)),
    pure(&["upsample_trilinear3d.default", "upsample_trilinear3d.vec"], |cx, a| upsample(cx, a, 3, Kernel::Linear)),
    pure(&["upsample_bicubic2d.default", "upsample_bicubic2d.vec"], |cx, a| upsample(cx, a, 2, Kernel::Cubic)),
    pure(&["_upsample_bilinear2d_aa.default", "_upsample_bilinear2d_aa.vec"], |cx, a| antialias::upsample(cx, a, antialias::Filter::Linear)),
    pure(&["_upsample_bicubic2d_aa.default", "_upsample_bicubic2d_aa.vec"], |cx, a| antialias::upsample(cx, a, antialias::Filter::Cubic)),
    pure(&["grid_sampler_2d.default", "grid_sampler_3d.default", "grid_sampler.default"], grid_sampler),
    pure(&["reflection_pad1d.default", "reflection_pad2d.default", "reflection_pad3d.default"], |cx, a| {
        let x = a.tensor("self")?;
        Ok(vec![padded(cx, x, &a.ints("padding")?, Border::Reflect)?])
    }),
    pure(&["replication_pad1d.default", "replication_pad2d.default", "replication_pad3d.default"], |cx, a| {
        let x = a.tensor("self")?;
        Ok(vec![padded(cx, x, &a.ints("padding")?, Border::Replicate)?])
    }),
    pure(&["_pad_circular.default"], |cx, a| {
        let x = a.tensor("self")?;
        Ok(vec![padded(cx, x, &a.ints("pad")?, Border::Circular)?])
    }),
];

/// How an element between others is found.
#[derive(Clone, Copy, PartialEq)]
enum Kernel {
    /// The nearest, by PyTorch's two rules.
    Nearest { exact: bool },
    /// The two neighbors.
    Linear,
    /// The four neighbors.
    Cubic,
}

/// Along one dimension: for each tap, the element read and its weight for each element of the result.
type Taps = Vec<(Vec<i64>, Vec<f64>)>;

/// Coefficients of cubic convolution with a = -0.75, for a point `t` behind the second of four elements.
fn cubic(t: f64, r: &dyn Fn(f64) -> f64) -> [f64; 4] {
    const A: f64 = -0.75;
    let near = |x: f64| r(r(r(r((A + 2.0) * x) - (A + 3.0)) * x) * x) + 1.0;
    let far = |x: f64| r(r(r(r(A * x) - 5.0 * A) * x) + 8.0 * A) * x - 4.0 * A;
    [far(r(t + 1.0)), near(t), near(r(1.0 - t)), far(r(2.0 - t))].map(r)
}

/// Coordinates and weights are computed in the precision of the tensor, f32 at least, as PyTorch does.
fn taps(kernel: Kernel, n: i64, out: i64, scale: Option<f64>, align: bool, dtype: DType) -> Taps {
    let is_double = dtype == DType::F64;
    let r = move |x: f64| if is_double { x } else { x as f32 as f64 };
    let clamp = |i: i64| i.clamp(0, n - 1);
    if let Kernel::Nearest { exact } = kernel {
        let ratio = match scale {
            Some(s) if s > 0.0 => (1.0 / s) as f32,
            _ => n as f32 / out as f32,
        };
        let at = |i: i64| clamp(((i as f32 + if exact { 0.5 } else { 0.0 }) * ratio).floor() as i64);
        return vec![((0..out).map(at).collect(), vec![1.0; out as usize])];
    }
    let ratio = match scale {
        Some(s) if s > 0.0 => r(1.0 / s),
        _ => r(n as f64 / out as f64),
    };
    let point = |i: i64| match align {
        true if out > 1 => r(i as f64 * r((n - 1) as f64 / (out - 1) as f64)),
        true => 0.0,
        false => r(r(ratio * (i as f64 + 0.5)) - 0.5),
    };
    let count = if kernel == Kernel::Linear { 2 } else { 4 };
    let mut taps: Taps = vec![(vec![], vec![]); count];
    for i in 0..out {
        let mut x = point(i);
        if kernel == Kernel::Linear {
            x = x.max(0.0);
        }
        let first = (x.floor() as i64).min(if kernel == Kernel::Linear { n - 1 } else { i64::MAX });
        let t = r(x - first as f64).clamp(0.0, 1.0);
        let (start, weights) = match kernel {
            Kernel::Linear => (first, vec![r(1.0 - t), t]),
            _ => (first - 1, cubic(t, &r).to_vec()),
        };
        for (k, w) in weights.into_iter().enumerate() {
            taps[k].0.push(clamp(start + k as i64));
            taps[k].1.push(w);
        }
    }
    taps
}

fn upsample(cx: &mut Cx, a: &Args, rank: usize, kernel: Kernel) -> Built {
    let x = a.tensor(if a.has("input") { "input" } else { "self" })?;
    let shape = cx.shape(x);
    let first = shape.rank().checked_sub(rank).ok_or("it has too few dimensions")?;
    let align = a.bool_or("align_corners", false)?;
    let factors = scales(a, rank)?;
    let dtype = cx.b.dtype(x);
    let weighted = !matches!(kernel, Kernel::Nearest { .. });
    if weighted && dtype == DType::U8 && rank == 2 {
        return antialias::of_bytes(cx, a, |along, align| taps(kernel, along.n, along.out, along.scale, align, DType::F64));
    }
    let wide = if dtype.is_float() { dtype.accumulator() } else { DType::F32 };
    let mut y = if weighted { cx.b.cast(x, wide)? } else { x };
    for i in 0..rank {
        let size = shape[first + i].clone();
        let out = match (a.has("output_size"), factors[i]) {
            (true, _) => a.dims("output_size")?.get(i).cloned().ok_or("it has too few sizes")?,
            (false, Some(s)) => scaled_size(&size, s)?,
            (false, None) => return Err("there is neither a size nor a scale".into()),
        };
        let (Some(n), Some(out)) = (size.as_int(), out.as_int()) else {
            y = symbolic::resample(cx, y, first + i, &symbolic::Resampling { kernel, n: size, out, scale: factors[i], align })?;
            continue;
        };
        if !(1..=1 << 32).contains(&n) && out != 0 {
            return Err(format!("{n} elements cannot be resampled"));
        }
        table_length(out)?;
        y = resample(cx, y, first + i, taps(kernel, n, out, factors[i], align, dtype), n, out)?;
    }
    if weighted && !dtype.is_float() {
        let half = cx.b.constant(wide, 0.5)?;
        let shifted = cx.b.add(y, half)?;
        y = cx.b.scalar(F::Floor, &[shifted])?;
    }
    Ok(vec![cx.b.cast(y, dtype)?])
}

/// `floor(n * scale)`; of a symbolic size where the scale is a fraction of a power of two.
fn scaled_size(n: &Dim, scale: f64) -> Result<Dim, String> {
    match n.as_int() {
        Some(n) => Ok(Dim::int((n as f64 * scale).floor() as i64)),
        None => {
            let (times, by) = fraction(scale).filter(|f| f.0 > 0).ok_or_else(|| format!("{n} elements times {scale} is not supported"))?;
            Ok((n.clone() * Dim::int(times)).floor_div(&Dim::int(by)))
        }
    }
}

/// Scales that were given, by which coordinates are computed.
fn scales(a: &Args, rank: usize) -> Result<Vec<Option<f64>>, String> {
    if let Some(list) = a.floats_opt("scale_factors")? {
        return if list.len() == rank {
            Ok(list.into_iter().map(Some).collect())
        } else {
            Err(format!("{} scales for {rank} dimensions", list.len()))
        };
    }
    let names: &[&str] = match rank {
        1 => &["scales"],
        2 => &["scales_h", "scales_w"],
        _ => &["scales_d", "scales_h", "scales_w"],
    };
    names.iter().map(|name| if a.has(name) { a.float(name).map(Some) } else { Ok(None) }).collect()
}

fn resample(cx: &mut Cx, x: Value, dim: usize, taps: Taps, n: i64, out: i64) -> Result<Value, String> {
    let repeats = if n > 0 { out / n } else { 0 };
    if taps.len() == 1 && repeats * n == out && taps[0].0.iter().enumerate().all(|(i, &at)| at == i as i64 / repeats.max(1)) {
        return repeat(cx, x, dim, repeats);
    }
    let mut sum: Option<Value> = None;
    for (at, weights) in taps {
        let part = select(cx, x, dim, &at)?;
        let part = if weights.iter().all(|&w| w == 1.0) {
            part
        } else {
            let mut shape = vec![1; cx.b.shape(x).rank() - dim];
            shape[0] = weights.len();
            let weights = cx.b.op(Constant::from_host(&HostTensor::from_f64(cx.b.dtype(x), &shape, &weights)), &[])?;
            cx.b.mul(part, weights)?
        };
        sum = Some(match sum {
            Some(sum) => cx.b.add(sum, part)?,
            None => part,
        });
    }
    sum.ok_or_else(|| "there is nothing to read".into())
}

/// Each element of a dimension so many times, as a view.
fn repeat(cx: &mut Cx, x: Value, dim: usize, times: i64) -> Result<Value, String> {
    if times == 1 {
        return Ok(x);
    }
    let mut shape = cx.shape(x);
    let n = shape[dim].clone();
    let one = cx.b.unsqueeze(x, dim + 1)?;
    shape.0.insert(dim + 1, Dim::int(times));
    let spread = cx.b.broadcast_to(one, &shape)?;
    shape.0.remove(dim + 1);
    shape.0[dim] = n * &Dim::int(times);
    cx.b.reshape(spread, shape)
}

fn select(cx: &mut Cx, x: Value, dim: usize, at: &[i64]) -> Result<Value, String> {
    let index = cx.b.op(Constant::from_host(&HostTensor::from_i64(DType::I32, &[at.len()], at)), &[])?;
    cx.b.index_select(x, dim, index)
}

/// What lies beyond the border.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Border {
    /// The image mirrored, the border element once.
    Reflect,
    /// The border element.
    Replicate,
    /// The image again.
    Circular,
}

/// Pads the last dimensions, given as `[last low, last high, one before low, ...]`, with the tensor's own elements. Negative
/// amounts crop.
pub fn padded(cx: &mut Cx, x: Value, amounts: &[i64], border: Border) -> Result<Value, String> {
    let rank = cx.b.shape(x).rank();
    if !amounts.len().is_multiple_of(2) || amounts.len() / 2 > rank {
        return Err(format!("{} amounts for {rank} dimensions", amounts.len()));
    }
    let mut y = x;
    for (k, pair) in amounts.chunks_exact(2).enumerate() {
        y = padded_dim(cx, y, rank - 1 - k, [pair[0], pair[1]], border)?;
    }
    Ok(y)
}

fn padded_dim(cx: &mut Cx, x: Value, dim: usize, [low, high]: [i64; 2], border: Border) -> Result<Value, String> {
    // What is read must be there: a symbolic size is as large from here on.
    let cropped = low.min(0).saturating_add(high.min(0)).saturating_neg();
    let least = match border {
        Border::Reflect => low.max(high).saturating_add(1),
        Border::Circular => low.max(high).saturating_add(cropped),
        Border::Replicate => 1,
    };
    let least = Dim::int(least.max(1).max(low.saturating_add(high).saturating_neg()));
    let n = cx.b.shape(x)[dim].clone();
    cx.b.assume_at_most(&least, &n, "pad");
    let n = cx.b.resolve(&n);
    if !least.known_le(&n) {
        return Err(format!("padding of {low} and {high} does not fit dimension {dim} of size {n}"));
    }
    let before = |k: i64| n.clone() - Dim::int(k);
    // What is left of the image: a circle repeats this, the others continue the image as it was.
    let (first, end) = ((-low).max(0), before((-high).max(0)));
    let mut parts = vec![];
    if low > 0 {
        parts.push(match border {
            Border::Reflect => {
                let inner = cx.b.slice(x, dim, 1, low + 1, 1)?;
                cx.b.flip(inner, &[dim])?
            }
            Border::Replicate => repeated_end(cx, x, dim, Dim::int(0), low)?,
            Border::Circular => cx.b.slice(x, dim, end.clone() - Dim::int(low), end.clone(), 1)?,
        });
    }
    parts.push(cx.b.slice(x, dim, first, end, 1)?);
    if high > 0 {
        parts.push(match border {
            Border::Reflect => {
                let inner = cx.b.slice(x, dim, before(1 + high), before(1), 1)?;
                cx.b.flip(inner, &[dim])?
            }
            Border::Replicate => repeated_end(cx, x, dim, before(1), high)?,
            Border::Circular => cx.b.slice(x, dim, first, first + high, 1)?,
        });
    }
    cx.b.concat(&parts, dim)
}

fn repeated_end(cx: &mut Cx, x: Value, dim: usize, at: Dim, times: i64) -> Result<Value, String> {
    let one = cx.b.slice(x, dim, at.clone(), at + Dim::int(1), 1)?;
    let mut shape = cx.shape(one);
    shape.0[dim] = Dim::int(times);
    cx.b.broadcast_to(one, &shape)
}

/// Settings of a grid sampler.
struct Sampler {
    padding: i64,
    align: bool,
    /// The image with its spatial dimensions as one.
    image: Value,
    /// Its spatial sizes.
    sizes: Vec<i64>,
}

/// The image at points of a grid in -1..1; modes are 0 linear, 1 nearest, 2 cubic, beyond the border 0 zeros, 1 border, 2
/// reflection.
fn grid_sampler(cx: &mut Cx, a: &Args) -> Built {
    let (x, grid) = (a.tensor("input")?, a.tensor("grid")?);
    let (shape, points) = (cx.shape(x), cx.shape(grid));
    let rank = shape.rank().checked_sub(2).filter(|&r| r > 0).ok_or("the image has no spatial dimension")?;
    let sizes: Option<Vec<i64>> = shape.0[2..].iter().map(Dim::as_int).collect();
    let sizes = sizes.ok_or("sampling an image of symbolic size is not supported")?;
    let plane = Dim::product(&shape.0[2..]);
    super::rank_of(cx, grid, 1)?;
    let image = cx.b.reshape(x, [shape[0].clone(), shape[1].clone(), plane])?;
    let sampler = Sampler { padding: a.int_or("padding_mode", 0)?, align: a.bool_or("align_corners", false)?, image, sizes };
    // The last coordinate of the grid belongs to the first spatial dimension.
    let mut at = vec![];
    for d in 0..rank {
        let g = cx.b.select(grid, points.rank() - 1, rank as i64 - 1 - d as i64)?;
        at.push(sampler.unnormalize(cx, g, d)?);
    }
    let y = match a.int_or("interpolation_mode", 0)? {
        0 => sampler.linear(cx, &at)?,
        1 => {
            let mut nearest = vec![];
            for (d, &v) in at.iter().enumerate() {
                let v = sampler.confine(cx, v, d)?;
                nearest.push(cx.b.scalar(F::Round, &[v])?);
            }
            sampler.read(cx, &nearest)?
        }
        2 => sampler.cubic(cx, &at)?,
        other => return Err(format!("interpolation mode {other} is not known")),
    };
    Ok(vec![y])
}

impl Sampler {
    /// From -1..1 to elements.
    fn unnormalize(&self, cx: &mut Cx, g: Value, d: usize) -> Result<Value, String> {
        let (n, dtype) = (self.sizes[d] as f64, cx.b.dtype(g));
        let one = cx.b.constant(dtype, 1.0)?;
        let g = cx.b.add(g, one)?;
        if self.align {
            return cx.b.scale(g, (n - 1.0) / 2.0);
        }
        let g = cx.b.scale(g, n)?;
        let g = cx.b.sub(g, one)?;
        cx.b.scale(g, 0.5)
    }

    /// Coordinates beyond the border as the padding mode says.
    fn confine(&self, cx: &mut Cx, x: Value, d: usize) -> Result<Value, String> {
        let (n, dtype) = (self.sizes[d], cx.b.dtype(x));
        let x = match (self.padding, self.align) {
            (0, _) => return Ok(x),
            (2, true) => reflect(cx, x, 0, 2 * (n - 1))?,
            (2, false) => reflect(cx, x, -1, 2 * n - 1)?,
            _ => x,
        };
        let (low, high) = (cx.b.constant(dtype, 0.0)?, cx.b.constant(dtype, (n - 1) as f64)?);
        let shape = cx.shape(x);
        let (low, high) = (cx.b.broadcast_to(low, &shape)?, cx.b.broadcast_to(high, &shape)?);
        let confined = cx.b.scalar(F::Clamp, &[x, low, high])?;
        // Points on the border count as outside in PyTorch's derivative, which is zero there.
        let (above, below) = (cx.b.scalar(F::Gt, &[x, low])?, cx.b.scalar(F::Lt, &[x, high])?);
        let inside = cx.b.scalar(F::LogicalAnd, &[above, below])?;
        opmath::with_choices(cx, confined, &[(x, inside)])
    }

    /// Elements at integral coordinates `[n, points...]`, as `[n, channels, points...]`; zero beyond the border.
    fn read(&self, cx: &mut Cx, at: &[Value]) -> Result<Value, String> {
        let points = cx.shape(at[0]);
        let dtype = cx.b.dtype(at[0]);
        let (mut mask, mut flat): (Option<Value>, Option<Value>) = (None, None);
        for (&v, &n) in at.iter().zip(&self.sizes) {
            let (zero, end) = (cx.b.constant(dtype, 0.0)?, cx.b.constant(dtype, n as f64)?);
            let (above, below) = (cx.b.scalar(F::Ge, &[v, zero])?, cx.b.scalar(F::Lt, &[v, end])?);
            let inside = cx.b.scalar(F::LogicalAnd, &[above, below])?;
            let safe = cx.b.where_(inside, v, zero)?;
            let index = cx.b.cast(safe, DType::I32)?;
            mask = Some(match mask {
                Some(mask) => cx.b.scalar(F::LogicalAnd, &[mask, inside])?,
                None => inside,
            });
            flat = Some(match flat {
                Some(before) => {
                    let before = cx.b.scale(before, n as f64)?;
                    cx.b.add(before, index)?
                }
                None => index,
            });
        }
        let (Some(mask), Some(flat)) = (mask, flat) else { return Err("there is no coordinate".into()) };
        let image = cx.shape(self.image);
        let count = Dim::product(&points.0[1..]);
        let index = cx.b.reshape(flat, [points[0].clone(), Dim::int(1), count.clone()])?;
        let index = cx.b.broadcast_to(index, &crate::types::Shape::new(vec![image[0].clone(), image[1].clone(), count]))?;
        let read = cx.b.gather(self.image, index, 2)?;
        let shape: Vec<Dim> = image.0[..2].iter().chain(&points.0[1..]).cloned().collect();
        let read = cx.b.reshape(read, shape)?;
        let mask = cx.b.unsqueeze(mask, 1)?;
        let zero = cx.b.constant(cx.b.dtype(read), 0.0)?;
        cx.b.where_(mask, read, zero)
    }

    /// The sum over neighbors of elements times the product of their weights.
    fn blend(&self, cx: &mut Cx, taps: &[Vec<(Value, Value)>]) -> Result<Value, String> {
        let count: usize = taps.iter().map(Vec::len).product();
        let mut sum: Option<Value> = None;
        for mut k in 0..count {
            let (mut at, mut weight): (Vec<Value>, Option<Value>) = (vec![], None);
            for along in taps {
                let (v, w) = along[k % along.len()];
                k /= along.len();
                at.push(v);
                weight = Some(match weight {
                    Some(weight) => cx.b.mul(weight, w)?,
                    None => w,
                });
            }
            let read = self.read(cx, &at)?;
            let weight = weight.ok_or("there is no coordinate")?;
            let weight = cx.b.unsqueeze(weight, 1)?;
            let part = cx.b.mul(read, weight)?;
            sum = Some(match sum {
                Some(sum) => cx.b.add(sum, part)?,
                None => part,
            });
        }
        sum.ok_or_else(|| "there is no neighbor".into())
    }

    fn linear(&self, cx: &mut Cx, at: &[Value]) -> Result<Value, String> {
        let mut taps = vec![];
        for (d, &v) in at.iter().enumerate() {
            let v = self.confine(cx, v, d)?;
            let one = cx.b.constant(cx.b.dtype(v), 1.0)?;
            let low = cx.b.scalar(F::Floor, &[v])?;
            let high = cx.b.add(low, one)?;
            let (to_high, to_low) = (cx.b.sub(high, v)?, cx.b.sub(v, low)?);
            taps.push(vec![(low, to_high), (high, to_low)]);
        }
        self.blend(cx, &taps)
    }

    /// Padding applies to the elements read, not to the point.
    fn cubic(&self, cx: &mut Cx, at: &[Value]) -> Result<Value, String> {
        let mut taps = vec![];
        for (d, &v) in at.iter().enumerate() {
            let low = cx.b.scalar(F::Floor, &[v])?;
            let t = cx.b.sub(v, low)?;
            let mut along = vec![];
            for k in 0..4 {
                let offset = cx.b.constant(cx.b.dtype(v), k as f64 - 1.0)?;
                let place = cx.b.add(low, offset)?;
                let place = self.confine(cx, place, d)?;
                along.push((place, cubic_weight(cx, t, k)?));
            }
            taps.push(along);
        }
        self.blend(cx, &taps)
    }
}

/// The weight of element `k` of four around a point `t` behind the second.
fn cubic_weight(cx: &mut Cx, t: Value, k: usize) -> Result<Value, String> {
    const A: f64 = -0.75;
    let dtype = cx.b.dtype(t);
    let start = cx.b.constant(dtype, [1.0, 0.0, 1.0, 2.0][k])?;
    let x = if k < 2 { cx.b.add(t, start)? } else { cx.b.sub(start, t)? };
    let coefficients = if k == 1 || k == 2 { [A + 2.0, -(A + 3.0), 0.0, 1.0] } else { [A, -5.0 * A, 8.0 * A, -4.0 * A] };
    let mut y = cx.b.constant(dtype, coefficients[0])?;
    for c in &coefficients[1..] {
        let c = cx.b.constant(dtype, *c)?;
        y = cx.b.mul(y, x)?;
        y = cx.b.add(y, c)?;
    }
    Ok(y)
}

/// Mirrors a coordinate at two borders, given doubled, until it lies between them.
fn reflect(cx: &mut Cx, x: Value, twice_low: i64, twice_high: i64) -> Result<Value, String> {
    let dtype = cx.b.dtype(x);
    if twice_low == twice_high {
        let shape = cx.shape(x);
        return cx.b.full(dtype, 0.0, shape);
    }
    let (low, span) = (cx.b.constant(dtype, twice_low as f64 / 2.0)?, cx.b.constant(dtype, (twice_high - twice_low) as f64 / 2.0)?);
    let from = cx.b.sub(x, low)?;
    let from = cx.b.scalar(F::Abs, &[from])?;
    let extra = cx.b.scalar(F::Fmod, &[from, span])?;
    let turns = cx.b.div(from, span)?;
    let turns = cx.b.scalar(F::Floor, &[turns])?;
    // Halves are exact, and cheaper than a remainder.
    let half = cx.b.scale(turns, 0.5)?;
    let whole = cx.b.scalar(F::Floor, &[half])?;
    let even = cx.b.scalar(F::Eq, &[half, whole])?;
    let back = cx.b.sub(span, extra)?;
    let inside = cx.b.where_(even, extra, back)?;
    cx.b.add(inside, low)
}
