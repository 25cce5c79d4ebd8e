//! Resampling of dimensions whose size is known only when the program runs: places and weights are computed with the program, by
//! the arithmetic that makes tables of them where sizes are constants.

use super::{Kernel, repeat};
use crate::frontend::aten::args::Cx;
use crate::graph::Value;
use crate::scalar::ScalarFn as F;
use crate::types::{DType, Dim, Shape};

/// From `n` to `out` elements.
pub(super) struct Resampling {
    pub(super) kernel: Kernel,
    pub(super) n: Dim,
    pub(super) out: Dim,
    pub(super) scale: Option<f64>,
    pub(super) align: bool,
}

/// The sum over taps of elements times weights, along one dimension.
pub(super) fn resample(cx: &mut Cx, x: Value, dim: usize, r: &Resampling) -> Result<Value, String> {
    if r.n.range().0 < 1 || r.out.range().0 < 0 {
        return Err(format!("resampling {} to {} elements is not supported", r.n, r.out));
    }
    if r.n == r.out && r.scale.is_none_or(|s| s == 1.0) {
        return Ok(x);
    }
    if let Kernel::Nearest { exact } = r.kernel {
        let times = r.out.try_div(&r.n).and_then(|t| t.as_int()).filter(|&t| r.scale.is_none_or(|s| s == t as f64));
        return match times {
            Some(times) => repeat(cx, x, dim, times),
            None => {
                let at = nearest(cx, r, exact)?;
                cx.b.index_select(x, dim, at)
            }
        };
    }
    let mut sum: Option<Value> = None;
    let behind = cx.b.shape(x).rank() - dim - 1;
    for (at, weight) in taps(cx, r)? {
        let part = cx.b.index_select(x, dim, at)?;
        let weight = cx.b.cast(weight, cx.b.dtype(x))?;
        let shape = Shape::new(std::iter::once(r.out.clone()).chain(vec![Dim::int(1); behind]).collect());
        let weight = cx.b.reshape(weight, shape)?;
        let part = cx.b.mul(part, weight)?;
        sum = Some(match sum {
            Some(sum) => cx.b.add(sum, part)?,
            None => part,
        });
    }
    sum.ok_or_else(|| "there is nothing to read".into())
}

/// Elements of the input for one of the result, as PyTorch computes it: in f32.
fn ratio(cx: &mut Cx, r: &Resampling) -> Result<Value, String> {
    if let Some(s) = r.scale.filter(|&s| s > 0.0) {
        return cx.b.constant(DType::F32, (1.0 / s) as f32 as f64);
    }
    let constant = |n: &Dim, by: &Dim| n.try_div(by).and_then(|t| t.as_int()).filter(|&t| t > 0);
    match (constant(&r.n, &r.out), constant(&r.out, &r.n)) {
        (Some(t), _) => cx.b.constant(DType::F32, t as f64),
        (None, Some(t)) => cx.b.constant(DType::F32, (1.0 / t as f32) as f64),
        _ => {
            let (n, out) = (cx.b.size(&r.n, DType::F32)?, cx.b.size(&r.out, DType::F32)?);
            cx.b.div(n, out)
        }
    }
}

/// `0, 1, ...` below `out`, and a number, both f32.
fn places(cx: &mut Cx, r: &Resampling, add: f64) -> Result<Value, String> {
    let at = cx.b.iota(DType::I32, [r.out.clone()], 0)?;
    let at = cx.b.cast(at, DType::F32)?;
    if add == 0.0 { Ok(at) } else { plus(cx, at, add) }
}

fn plus(cx: &mut Cx, x: Value, n: f64) -> Result<Value, String> {
    let n = cx.b.constant(cx.b.dtype(x), n)?;
    cx.b.add(x, n)
}

/// Clamped to the elements that there are, i32.
fn inside(cx: &mut Cx, at: Value, r: &Resampling) -> Result<Value, String> {
    let (at, zero) = (cx.b.cast(at, DType::I32)?, cx.b.constant(DType::I32, 0.0)?);
    let last = cx.b.size(&(r.n.clone() - Dim::int(1)), DType::I32)?;
    let at = cx.b.scalar(F::Maximum, &[at, zero])?;
    cx.b.scalar(F::Minimum, &[at, last])
}

fn nearest(cx: &mut Cx, r: &Resampling, exact: bool) -> Result<Value, String> {
    let (at, ratio) = (places(cx, r, if exact { 0.5 } else { 0.0 })?, ratio(cx, r)?);
    let at = cx.b.mul(at, ratio)?;
    let at = cx.b.scalar(F::Floor, &[at])?;
    inside(cx, at, r)
}

/// For each tap, the element read and its weight, for each element of the result.
fn taps(cx: &mut Cx, r: &Resampling) -> Result<Vec<(Value, Value)>, String> {
    let mut x = points(cx, r)?;
    let zero = cx.b.constant(DType::F32, 0.0)?;
    if r.kernel == Kernel::Linear {
        x = cx.b.scalar(F::Maximum, &[x, zero])?;
    }
    let mut first = cx.b.scalar(F::Floor, &[x])?;
    if r.kernel == Kernel::Linear {
        let last = cx.b.size(&(r.n.clone() - Dim::int(1)), DType::F32)?;
        first = cx.b.scalar(F::Minimum, &[first, last])?;
    }
    let t = cx.b.sub(x, first)?;
    let one = cx.b.constant(DType::F32, 1.0)?;
    let t = cx.b.scalar(F::Maximum, &[t, zero])?;
    let t = cx.b.scalar(F::Minimum, &[t, one])?;
    let (start, weights) = match r.kernel {
        Kernel::Linear => (0.0, vec![cx.b.sub(one, t)?, t]),
        _ => (-1.0, cubic(cx, t)?.to_vec()),
    };
    let mut taps = vec![];
    for (k, weight) in weights.into_iter().enumerate() {
        let at = plus(cx, first, start + k as f64)?;
        taps.push((inside(cx, at, r)?, weight));
    }
    Ok(taps)
}

/// Coordinates in the input of the elements of the result.
fn points(cx: &mut Cx, r: &Resampling) -> Result<Value, String> {
    if !r.align {
        let (at, ratio) = (places(cx, r, 0.5)?, ratio(cx, r)?);
        let at = cx.b.mul(at, ratio)?;
        return plus(cx, at, -0.5);
    }
    // A result of one element reads the first.
    let steps = (r.out.clone() - Dim::int(1)).max_with(&Dim::int(1));
    let (n, steps) = (cx.b.size(&(r.n.clone() - Dim::int(1)), DType::F32)?, cx.b.size(&steps, DType::F32)?);
    let (at, ratio) = (places(cx, r, 0.0)?, cx.b.div(n, steps)?);
    cx.b.mul(at, ratio)
}

/// Weights of cubic convolution, as `super::cubic` has them.
fn cubic(cx: &mut Cx, t: Value) -> Result<[Value; 4], String> {
    const A: f64 = -0.75;
    let polynomial = |cx: &mut Cx, x: Value, factors: [f64; 4]| {
        let mut sum = cx.b.constant(DType::F32, factors[0])?;
        for factor in &factors[1..] {
            sum = cx.b.mul(sum, x)?;
            sum = plus(cx, sum, *factor)?;
        }
        Ok::<_, String>(sum)
    };
    let (near, far) = ([A + 2.0, -(A + 3.0), 0.0, 1.0], [A, -5.0 * A, 8.0 * A, -4.0 * A]);
    let (minus, one) = (cx.b.neg(t)?, 1.0);
    let (above, below, beyond) = (plus(cx, t, one)?, plus(cx, minus, one)?, plus(cx, minus, 2.0)?);
    Ok([polynomial(cx, above, far)?, polynomial(cx, t, near)?, polynomial(cx, below, near)?, polynomial(cx, beyond, far)?])
}
