//! Bits of numbers as numbers of another dtype.
//!
//! Floats are taken apart and put together by exact arithmetic, as no device says what a conversion of bits does to subnormal numbers
//! and NaN. All NaN have the bits of one; where a device takes subnormal numbers for zeros, as NVIDIA's do, they have the bits of zeros.

use super::args::Cx;
use super::floats::{Parts, format};
use super::special::sign_bit;
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
    let bits = if from.is_float() { bits_of(cx, x)? } else { cx.b.cast(x, integer(from.size()))? };
    let (wide, narrow) = (from.size() / to.size(), to.size() / from.size());
    let bits = match (wide, narrow) {
        (1, _) => bits,
        (0, count) => join(cx, bits, count, integer(to.size()))?,
        (count, _) => split(cx, bits, count, integer(to.size()))?,
    };
    if to.is_float() { number_of(cx, bits, to) } else { cx.b.cast(bits, to) }
}

/// The integer of so many bytes.
fn integer(bytes: usize) -> DType {
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

/// How a float is stored: the integer that computes with its bits, bits behind the point, what is added to exponents, and the field of
/// infinity.
struct Format {
    integer: DType,
    fraction: i32,
    lowest: i32,
    bias: i32,
    top: i64,
}

impl Format {
    fn of(dtype: DType) -> Format {
        let (fraction, lowest, _) = format(dtype);
        // The smallest positive number has the exponent of the smallest normal one, less the bits behind the point.
        let bias = 1 - lowest - fraction;
        Format { integer: if dtype == DType::F64 { DType::I64 } else { DType::I32 }, fraction, lowest, bias, top: 2 * bias as i64 + 1 }
    }

    fn number(&self, cx: &mut Cx, x: f64) -> Built {
        cx.b.constant(self.integer, x)
    }

    /// What the sign adds to the bits of a number, in the integer that computes with them.
    fn sign(&self, cx: &mut Cx, dtype: DType) -> Built {
        let highest = 2f64.powi(8 * dtype.size() as i32 - 1);
        self.number(cx, if dtype.is_half() { highest } else { -highest })
    }
}

/// `x` times a power of two, in two steps, each of which the dtype has.
fn times_power(cx: &mut Cx, x: Value, power: i32) -> Built {
    let x = cx.b.scale(x, 2f64.powi(power / 2))?;
    cx.b.scale(x, 2f64.powi(power - power / 2))
}

/// The bits of a float, as an integer of its size.
fn bits_of(cx: &mut Cx, x: Value) -> Built {
    let (dtype, f) = (cx.b.dtype(x), Format::of(cx.b.dtype(x)));
    let x = cx.b.cast(x, dtype.accumulator())?;
    let x = super::gradients::detached(&mut cx.b, x)?;
    let wide = cx.b.dtype(x);
    let size = cx.b.scalar(F::Abs, &[x])?;
    let (one, infinity) = (cx.b.constant(wide, 1.0)?, cx.b.constant(wide, f64::INFINITY)?);
    let (is_nan, is_infinite) = (cx.b.scalar(F::IsNan, &[x])?, cx.b.scalar(F::Eq, &[size, infinity])?);
    let is_special = cx.b.scalar(F::LogicalOr, &[is_nan, is_infinite])?;
    let size = cx.b.where_(is_special, one, size)?;
    // Normal numbers: the exponent, and the fraction behind the point.
    let parts = Parts::of(cx, size)?;
    let smallest = cx.b.constant(wide, 2f64.powi(1 - f.bias))?;
    let is_small = cx.b.scalar(F::Lt, &[size, smallest])?;
    let [a, b] = parts.scale;
    let mantissa = cx.b.mul(size, a)?;
    let mantissa = cx.b.mul(mantissa, b)?;
    let fraction = cx.b.sub(mantissa, one)?;
    let fraction = cx.b.scale(fraction, 2f64.powi(f.fraction))?;
    let low = times_power(cx, size, -f.lowest)?;
    let fraction = cx.b.where_(is_small, low, fraction)?;
    let fraction = cx.b.cast(fraction, f.integer)?;
    let exponent = cx.b.cast(parts.exponent, f.integer)?;
    let bias = f.number(cx, f.bias as f64)?;
    let field = cx.b.add(exponent, bias)?;
    let (none, shift, top, quiet) =
        (f.number(cx, 0.0)?, f.number(cx, f.fraction as f64)?, f.number(cx, f.top as f64)?, f.number(cx, 2f64.powi(f.fraction - 1))?);
    let field = cx.b.where_(is_small, none, field)?;
    let field = cx.b.where_(is_special, top, field)?;
    let fraction = cx.b.where_(is_special, none, fraction)?;
    let fraction = cx.b.where_(is_nan, quiet, fraction)?;
    let field = cx.b.scalar(F::ShiftLeft, &[field, shift])?;
    let bits = cx.b.add(field, fraction)?;
    let (is_negative, sign) = (sign_bit(cx, x)?, f.sign(cx, dtype)?);
    let signed = cx.b.add(bits, sign)?;
    let bits = cx.b.where_(is_negative, signed, bits)?;
    cx.b.cast(bits, integer(dtype.size()))
}

/// The float of these bits.
fn number_of(cx: &mut Cx, bits: Value, dtype: DType) -> Built {
    let (f, wide) = (Format::of(dtype), dtype.accumulator());
    let bits = cx.b.cast(bits, f.integer)?;
    let none = f.number(cx, 0.0)?;
    let is_negative = cx.b.scalar(F::Lt, &[bits, none])?;
    let (low, shift, top) = (f.number(cx, 2f64.powi(f.fraction) - 1.0)?, f.number(cx, f.fraction as f64)?, f.number(cx, f.top as f64)?);
    let fraction = cx.b.scalar(F::BitwiseAnd, &[bits, low])?;
    let field = cx.b.scalar(F::ShiftRight, &[bits, shift])?;
    let field = cx.b.scalar(F::BitwiseAnd, &[field, top])?;
    let (is_small, is_special) = (cx.b.scalar(F::Eq, &[field, none])?, cx.b.scalar(F::Eq, &[field, top])?);
    let (is_infinite, parts) = (cx.b.scalar(F::Eq, &[fraction, none])?, cx.b.cast(fraction, wide)?);
    let small = times_power(cx, parts, f.lowest)?;
    let one = cx.b.constant(wide, 1.0)?;
    let behind = cx.b.scale(parts, 2f64.powi(-f.fraction))?;
    let mut normal = cx.b.add(one, behind)?;
    let bias = f.number(cx, f.bias as f64)?;
    let exponent = cx.b.sub(field, bias)?;
    let (rises, size) = (cx.b.scalar(F::Gt, &[exponent, none])?, cx.b.scalar(F::Abs, &[exponent])?);
    for power in std::iter::successors(Some(1), |p| Some(2 * p)).take_while(|&p| p <= f.bias) {
        let (up, down) = (cx.b.constant(wide, 2f64.powi(power))?, cx.b.constant(wide, 2f64.powi(-power))?);
        let (by, at) = (cx.b.where_(rises, up, down)?, f.number(cx, power as f64)?);
        let has = cx.b.scalar(F::BitwiseAnd, &[size, at])?;
        let has = cx.b.scalar(F::Ne, &[has, none])?;
        let by = cx.b.where_(has, by, one)?;
        normal = cx.b.mul(normal, by)?;
    }
    let (infinity, nan) = (cx.b.constant(wide, f64::INFINITY)?, cx.b.constant(wide, f64::NAN)?);
    let special = cx.b.where_(is_infinite, infinity, nan)?;
    let number = cx.b.where_(is_small, small, normal)?;
    let number = cx.b.where_(is_special, special, number)?;
    let negated = cx.b.neg(number)?;
    let number = cx.b.where_(is_negative, negated, number)?;
    cx.b.cast(number, dtype)
}
