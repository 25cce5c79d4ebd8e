//! Resampling of images with a filter as wide as what an element of the result covers (`antialias=True`).
//!
//! Along each dimension, an element of the result is the weighted mean of the elements that the filter reaches. Integers of 8 bits
//! are computed as PyTorch does: by weights of 16 bits, and rounded after each dimension.

use super::{Taps, resample, scaled_size, scales, select, table_length};
use crate::frontend::aten::args::{Args, Cx};
use crate::graph::Value;
use crate::ops::Constant;
use crate::scalar::ScalarFn as F;
use crate::types::{DType, HostTensor};

/// A filter, by its support and its weight at a distance from its center.
#[derive(Clone, Copy)]
pub(super) enum Filter {
    /// A triangle.
    Linear,
    /// Cubic convolution with a = -0.5.
    Cubic,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Filter::Linear => 1.0,
            Filter::Cubic => 2.0,
        }
    }

    fn weight(self, x: f64, r: &dyn Fn(f64) -> f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Filter::Linear if x < 1.0 => r(1.0 - x),
            Filter::Cubic if x < 1.0 => r(r(r(r(r((A + 2.0) * x) - (A + 3.0)) * x) * x) + 1.0),
            Filter::Cubic if x < 2.0 => r(r(r(r(r(r(x - 5.0) * x) + 8.0) * x) - 4.0) * A),
            _ => 0.0,
        }
    }
}

/// How one dimension is resampled.
pub(super) struct Along {
    pub(super) n: i64,
    pub(super) out: i64,
    pub(super) scale: Option<f64>,
}

/// The last two dimensions resampled, the last one first.
pub(super) fn upsample(cx: &mut Cx, a: &Args, filter: Filter) -> Result<Vec<Value>, String> {
    let x = a.tensor(if a.has("input") { "input" } else { "self" })?;
    let dtype = cx.b.dtype(x);
    match dtype {
        DType::U8 => return of_bytes(cx, a, |along, align| taps(filter, along, align, dtype)),
        _ if !dtype.is_float() => return Err(format!("images of {dtype} are not supported")),
        _ => {}
    }
    let (align, [rows, columns]) = dimensions(cx, a, x)?;
    let (mut y, last) = (cx.b.cast(x, dtype.accumulator())?, cx.b.shape(x).rank() - 1);
    for (dim, along) in [(last, columns), (last - 1, rows)] {
        y = resample(cx, y, dim, taps(filter, &along, align, dtype), along.n, along.out)?;
    }
    Ok(vec![cx.b.cast(y, dtype)?])
}

/// The same of bytes, with the taps that `taps` gives for a dimension, in exact weights.
pub(super) fn of_bytes(cx: &mut Cx, a: &Args, taps: impl Fn(&Along, bool) -> Taps) -> Result<Vec<Value>, String> {
    let x = a.tensor(if a.has("input") { "input" } else { "self" })?;
    let (align, [rows, columns]) = dimensions(cx, a, x)?;
    let (mut y, last) = (cx.b.cast(x, DType::I32)?, cx.b.shape(x).rank() - 1);
    for (dim, along) in [(last, columns), (last - 1, rows)] {
        if along.n != along.out {
            y = fixed(cx, y, dim, &taps(&along, align))?;
        }
    }
    Ok(vec![cx.b.cast(y, DType::U8)?])
}

/// Whether corners are aligned, and what is known of the last two dimensions.
fn dimensions(cx: &Cx, a: &Args, x: Value) -> Result<(bool, [Along; 2]), String> {
    let shape = cx.shape(x);
    let first = shape.rank().checked_sub(2).ok_or("it has too few dimensions")?;
    let factors = scales(a, 2)?;
    let along = |i: usize| {
        let size = &shape[first + i];
        let out = match (a.has("output_size"), factors[i]) {
            (true, _) => a.dims("output_size")?.get(i).cloned().ok_or("it has too few sizes")?,
            (false, Some(s)) => scaled_size(size, s)?,
            (false, None) => return Err("there is neither a size nor a scale".to_string()),
        };
        let (Some(n), Some(out)) = (size.as_int(), out.as_int()) else {
            return Err("images of bytes or with a wide filter are not supported with a symbolic size".into());
        };
        // A filter reaches over some elements for each of the result.
        table_length(n.max(out).saturating_mul(8))?;
        Ok(Along { n, out, scale: factors[i] })
    };
    Ok((a.bool_or("align_corners", false)?, [along(0)?, along(1)?]))
}

/// Elements that the filter reaches from each element of the result, and their weights, whose sum is one. All have as many taps:
/// those beyond have no weight.
fn taps(filter: Filter, along: &Along, align: bool, dtype: DType) -> Taps {
    let Along { n, out, .. } = *along;
    let is_single = dtype.is_float() && dtype != DType::F64;
    let r = move |x: f64| if is_single { x as f32 as f64 } else { x };
    let ratio = match along.scale {
        _ if align => {
            if out > 1 {
                r((n - 1) as f64 / (out - 1) as f64)
            } else {
                0.0
            }
        }
        Some(s) if s > 0.0 => r(1.0 / s),
        _ => r(n as f64 / out as f64),
    };
    let (support, inverse) = if ratio >= 1.0 { (r(filter.support() * ratio), r(1.0 / ratio)) } else { (filter.support(), 1.0) };
    let count = (support.ceil() as i64).saturating_mul(2).saturating_add(1);
    let mut taps: Taps = vec![(vec![], vec![]); count.min(n) as usize];
    for i in 0..out {
        let center = r(ratio * (i as f64 + 0.5));
        let start = (r(r(center - support) + 0.5) as i64).max(0);
        let reached = ((r(r(center + support) + 0.5) as i64).min(n) - start).clamp(0, count);
        let weights: Vec<f64> = (0..reached).map(|k| filter.weight(r(r(r((k + start) as f64 - center) + 0.5) * inverse), &r)).collect();
        let total = weights.iter().fold(0.0, |sum, w| r(sum + w));
        for (k, (at, weight)) in taps.iter_mut().enumerate() {
            let own = weights.get(k).copied();
            at.push((start + k as i64).min(start + reached - 1).clamp(0, n - 1));
            weight.push(own.map_or(0.0, |w| if total == 0.0 { w } else { r(w / total) }));
        }
    }
    taps
}

/// Taps of which those that meet at the border are one.
fn merged(taps: &Taps) -> Taps {
    let mut taps = taps.clone();
    for k in 1..taps.len() {
        let (before, from) = taps.split_at_mut(k);
        let (at, weights) = &mut from[0];
        for (i, weight) in weights.iter_mut().enumerate() {
            if let Some((_, same)) = before.iter_mut().find(|(earlier, _)| earlier[i] == at[i]) {
                same[i] += std::mem::take(weight);
            }
        }
    }
    taps
}

/// By weights of as many bits as fit 16 with their sign, and rounded to 8 bits.
fn fixed(cx: &mut Cx, x: Value, dim: usize, taps: &Taps) -> Result<Value, String> {
    let taps = merged(taps);
    let largest = taps.iter().flat_map(|(_, weights)| weights).fold(0.0, |a: f64, &b| a.max(b));
    let bits = (0..22).find(|p| (0.5 + largest * 2f64.powi(p + 1)) as i64 >= 1 << 15).unwrap_or(22);
    let half = cx.b.constant(DType::I32, 2f64.powi(bits - 1))?;
    let mut sum = half;
    for (at, weights) in &taps {
        let weights: Vec<i64> = weights.iter().map(|w| (w * 2f64.powi(bits)).round() as i64).collect();
        let mut shape = vec![1; cx.b.shape(x).rank() - dim];
        shape[0] = weights.len();
        let weights = cx.b.op(Constant::from_host(&HostTensor::from_i64(DType::I32, &shape, &weights)), &[])?;
        let part = select(cx, x, dim, at)?;
        let part = cx.b.mul(part, weights)?;
        sum = cx.b.add(sum, part)?;
    }
    let (by, low, high) = (cx.b.constant(DType::I32, bits as f64)?, cx.b.constant(DType::I32, 0.0)?, cx.b.constant(DType::I32, 255.0)?);
    let y = cx.b.scalar(F::ShiftRight, &[sum, by])?;
    cx.b.scalar(F::Clamp, &[y, low, high])
}
