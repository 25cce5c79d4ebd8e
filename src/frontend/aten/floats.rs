//! Floats by their parts: mantissa and exponent, and the number next to one.
//!
//! Both are integer arithmetic on bits: logarithms and powers of devices are not exact, and some take subnormal numbers for zeros.

use super::args::{Args, Cx};
use super::bits::integer;
use super::opmath::with_partials;
use super::{Row, pure};
use crate::graph::Value;
use crate::ops::Built;
use crate::scalar::ScalarFn as F;
use crate::types::DType;

/// Rows of this family.
pub const ROWS: &[Row] = &[pure(&["frexp.Tensor"], frexp), pure(&["nextafter.default"], nextafter)];

/// The bits of a float as an integer, and those of them that are its sign and its magnitude.
struct Bits {
    /// The integer's dtype.
    dtype: DType,
    all: Value,
    sign: Value,
    size: Value,
}

impl Bits {
    fn of(cx: &mut Cx, x: Value) -> Built<Bits> {
        let dtype = integer(cx.b.dtype(x).size());
        let all = cx.b.bitcast(x, dtype)?;
        let lowest = cx.b.constant(dtype, -(2f64.powi(8 * dtype.size() as i32 - 1)))?;
        let sign = cx.b.scalar(F::BitwiseAnd, &[all, lowest])?;
        let size = cx.b.scalar(F::BitwiseXor, &[all, sign])?;
        Ok(Bits { dtype, all, sign, size })
    }
}

/// `x = mantissa * 2^exponent` with `0.5 <= |mantissa| < 1`. Zeros, infinities and NaN are their own mantissas, with exponent 0.
fn frexp(cx: &mut Cx, a: &Args) -> Result<Vec<Value>, String> {
    let x = a.tensor("self")?;
    let dtype = cx.b.dtype(x);
    let wide = cx.b.cast(x, dtype.accumulator())?;
    let (float, bits) = (cx.b.dtype(wide), Bits::of(cx, wide)?);
    let (fraction, lowest) = format(float);
    let bias = 1 - lowest - fraction;
    let number = |cx: &mut Cx, x: f64| cx.b.constant(bits.dtype, x);
    let (none, shift, power) = (number(cx, 0.0)?, number(cx, fraction as f64)?, number(cx, 2f64.powi(fraction))?);
    // A subnormal number is its bits, as a number, times the smallest one.
    let is_small = cx.b.scalar(F::Lt, &[bits.size, power])?;
    let scaled = cx.b.cast(bits.size, float)?;
    let scaled = cx.b.bitcast(scaled, bits.dtype)?;
    let normal = cx.b.where_(is_small, scaled, bits.size)?;
    let (behind, below) = (number(cx, 2f64.powi(fraction) - 1.0)?, number(cx, lowest as f64)?);
    let (field, behind) = (cx.b.scalar(F::ShiftRight, &[normal, shift])?, cx.b.scalar(F::BitwiseAnd, &[normal, behind])?);
    let half = number(cx, (bias - 1) as f64)?;
    let (exponent, scale) = (cx.b.sub(field, half)?, cx.b.where_(is_small, below, none)?);
    let exponent = cx.b.add(exponent, scale)?;
    let half = cx.b.scalar(F::ShiftLeft, &[half, shift])?;
    let mantissa = cx.b.scalar(F::BitwiseOr, &[half, behind])?;
    let mantissa = cx.b.scalar(F::BitwiseOr, &[mantissa, bits.sign])?;
    let infinity = number(cx, (2 * bias + 1) as f64)?;
    let infinity = cx.b.scalar(F::ShiftLeft, &[infinity, shift])?;
    let (is_zero, is_beyond) = (cx.b.scalar(F::Eq, &[bits.size, none])?, cx.b.scalar(F::Ge, &[bits.size, infinity])?);
    let is_own = cx.b.scalar(F::LogicalOr, &[is_zero, is_beyond])?;
    let exponent = cx.b.where_(is_own, none, exponent)?;
    let mantissa = cx.b.where_(is_own, bits.all, mantissa)?;
    let mantissa = cx.b.bitcast(mantissa, float)?;
    let partial = power_of_two(cx, exponent, float)?;
    let mantissa = with_partials(cx, mantissa, &[(wide, partial)])?;
    Ok(vec![cx.b.cast(mantissa, dtype)?, cx.b.cast(exponent, DType::I32)?])
}

/// `2^-exponent`, as the product of two powers that are normal numbers.
fn power_of_two(cx: &mut Cx, exponent: Value, float: DType) -> Built {
    let integer = cx.b.dtype(exponent);
    let (fraction, lowest) = format(float);
    let [one, shift, bias] = [1, fraction, 1 - lowest - fraction].map(|k| cx.b.constant(integer, k as f64));
    let (shift, bias) = (shift?, bias?);
    let part = cx.b.scalar(F::ShiftRight, &[exponent, one?])?;
    let rest = cx.b.sub(exponent, part)?;
    let mut factors = [part, rest].into_iter().map(|part| {
        let field = cx.b.sub(bias, part)?;
        let bits = cx.b.scalar(F::ShiftLeft, &[field, shift])?;
        cx.b.bitcast(bits, float)
    });
    let (Some(x), Some(y)) = (factors.next(), factors.next()) else { unreachable!("there are two") };
    let (x, y) = (x?, y?);
    drop(factors);
    cx.b.mul(x, y)
}

/// Bits of a mantissa behind its first one, and the exponent of the smallest positive number, of f32 and f64.
fn format(dtype: DType) -> (i32, i32) {
    if dtype == DType::F64 { (52, -1074) } else { (23, -149) }
}

/// The place of each float among all of its dtype, as an integer: zeros have 0, numbers below zero negative places.
fn places(cx: &mut Cx, bits: &Bits) -> Built {
    let zero = cx.b.constant(bits.dtype, 0.0)?;
    let (is_negative, below) = (cx.b.scalar(F::Ne, &[bits.sign, zero])?, cx.b.neg(bits.size)?);
    cx.b.where_(is_negative, below, bits.size)
}

/// The number next to `self` in the direction of `other`: the one at the next place. A zero that is reached has the sign of `self`.
fn nextafter(cx: &mut Cx, a: &Args) -> Result<Vec<Value>, String> {
    let (x, y) = (a.operand("self")?, a.operand("other")?);
    let dtype = cx.result_type(&[&x, &y]);
    let (x, y) = (cx.as_tensor(&x, dtype)?, cx.as_tensor(&y, dtype)?);
    let (of_x, of_y) = (Bits::of(cx, x)?, Bits::of(cx, y)?);
    let (place, goal) = (places(cx, &of_x)?, places(cx, &of_y)?);
    let [zero, up, down] = [0.0, 1.0, -1.0].map(|k| cx.b.constant(of_x.dtype, k));
    let (zero, rises) = (zero?, cx.b.scalar(F::Gt, &[goal, place])?);
    let step = cx.b.where_(rises, up?, down?)?;
    let next = cx.b.add(place, step)?;
    let (size, below, is_zero) = (cx.b.scalar(F::Abs, &[next])?, cx.b.scalar(F::Lt, &[next, zero])?, cx.b.scalar(F::Eq, &[next, zero])?);
    let lowest = cx.b.constant(of_x.dtype, -(2f64.powi(8 * dtype.size() as i32 - 1)))?;
    let sign = cx.b.where_(below, lowest, zero)?;
    let sign = cx.b.where_(is_zero, of_x.sign, sign)?;
    let bits = cx.b.scalar(F::BitwiseOr, &[size, sign])?;
    let is_there = cx.b.scalar(F::Eq, &[place, goal])?;
    let bits = cx.b.where_(is_there, of_y.all, bits)?;
    let next = cx.b.bitcast(bits, dtype)?;
    let [x_is_nan, y_is_nan] = [x, y].map(|v| cx.b.scalar(F::IsNan, &[v]));
    let is_nan = cx.b.scalar(F::LogicalOr, &[x_is_nan?, y_is_nan?])?;
    let nan = cx.b.constant(dtype, f64::NAN)?;
    Ok(vec![cx.b.where_(is_nan, nan, next)?])
}
