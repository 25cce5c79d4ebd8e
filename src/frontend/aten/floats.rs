//! Floats by their parts: mantissa and exponent, and the number next to one.
//!
//! Exponents are found by comparing with powers of two and multiplying by them, which is exact: logarithms and powers of devices are not.

use super::args::{Args, Cx};
use super::gradients::detached;
use super::{Row, pure};
use crate::graph::Value;
use crate::ops::Built;
use crate::scalar::ScalarFn as F;
use crate::types::DType;

/// Rows of this family.
pub const ROWS: &[Row] = &[pure(&["frexp.Tensor"], frexp), pure(&["nextafter.default"], nextafter)];

/// `x` as `m * 2^exponent` with `1 <= |m| < 2`, of f32 or f64, finite and not zero.
pub(super) struct Parts {
    /// Powers of two whose product with `x` is `m`; it alone might be none of the dtype.
    pub(super) scale: [Value; 2],
    /// `2^exponent`.
    power: Value,
    /// i32.
    pub(super) exponent: Value,
}

impl Parts {
    pub(super) fn of(cx: &mut Cx, x: Value) -> Built<Parts> {
        let dtype = cx.b.dtype(x);
        let first = if dtype == DType::F64 { 512 } else { 64 };
        let one = cx.b.constant(dtype, 1.0)?;
        let mut size = cx.b.scalar(F::Abs, &[x])?;
        let (mut scale, mut power, mut exponent) = ([one; 2], one, cx.b.constant(DType::I32, 0.0)?);
        let halves = std::iter::successors(Some(first), |&p: &i32| (p > 1).then_some(p / 2));
        for (k, step) in std::iter::once(first).chain(halves).enumerate() {
            let (at, up, down) = (2f64.powi(step), cx.b.constant(dtype, 2f64.powi(step))?, cx.b.constant(dtype, 2f64.powi(-step))?);
            let (high, low) = (cx.b.constant(dtype, at)?, cx.b.constant(dtype, 2f64.powi(1 - step))?);
            let (is_large, is_small) = (cx.b.scalar(F::Ge, &[size, high])?, cx.b.scalar(F::Lt, &[size, low])?);
            let mut choose = |large: Value, small: Value, neither: Value| {
                let rest = cx.b.where_(is_small, small, neither)?;
                cx.b.where_(is_large, large, rest)
            };
            let (by, back) = (choose(down, up, one)?, choose(up, down, one)?);
            let [more, less, none] = [step, -step, 0].map(|n| cx.b.constant(DType::I32, n as f64));
            let rest = cx.b.where_(is_small, less?, none?)?;
            let change = cx.b.where_(is_large, more?, rest)?;
            size = cx.b.mul(size, by)?;
            exponent = cx.b.add(exponent, change)?;
            power = cx.b.mul(power, back)?;
            let part = &mut scale[(k > 0) as usize];
            *part = cx.b.mul(*part, by)?;
        }
        Ok(Parts { scale, power, exponent })
    }
}

/// `x = mantissa * 2^exponent` with `0.5 <= |mantissa| < 1`. Zeros, infinities and NaN are their own mantissas, with exponent 0.
fn frexp(cx: &mut Cx, a: &Args) -> Result<Vec<Value>, String> {
    let x = a.tensor("self")?;
    let dtype = cx.b.dtype(x);
    let wide = cx.b.cast(x, dtype.accumulator())?;
    let parts = Parts::of(cx, wide)?;
    let is_own = has_no_exponent(cx, wide)?;
    let (one, half) = (cx.b.constant(cx.b.dtype(wide), 1.0)?, cx.b.constant(cx.b.dtype(wide), 0.5)?);
    let halved = cx.b.mul(parts.scale[1], half)?;
    let mut mantissa = wide;
    for factor in [parts.scale[0], halved] {
        let factor = cx.b.where_(is_own, one, factor)?;
        mantissa = cx.b.mul(mantissa, factor)?;
    }
    let (single, none) = (cx.b.constant(DType::I32, 1.0)?, cx.b.constant(DType::I32, 0.0)?);
    let exponent = cx.b.add(parts.exponent, single)?;
    Ok(vec![cx.b.cast(mantissa, dtype)?, cx.b.where_(is_own, none, exponent)?])
}

/// Whether a float is zero, infinite or NaN.
fn has_no_exponent(cx: &mut Cx, x: Value) -> Built {
    let zero = cx.b.constant(cx.b.dtype(x), 0.0)?;
    let difference = cx.b.sub(x, x)?;
    let (is_zero, is_finite) = (cx.b.scalar(F::Eq, &[x, zero])?, cx.b.scalar(F::Eq, &[difference, zero])?);
    let is_not = cx.b.scalar(F::LogicalNot, &[is_finite])?;
    cx.b.scalar(F::LogicalOr, &[is_zero, is_not])
}

/// Bits of a mantissa behind its first one, the exponent of the smallest positive number, and the largest number.
pub(super) fn format(dtype: DType) -> (i32, i32, f64) {
    match dtype {
        DType::F64 => (52, -1074, f64::MAX),
        DType::F16 => (10, -24, 65_504.0),
        DType::BF16 => (7, -133, 255.0 * 2f64.powi(120)),
        _ => (23, -149, f32::MAX as f64),
    }
}

/// The number next to `self` in the direction of `other`.
fn nextafter(cx: &mut Cx, a: &Args) -> Result<Vec<Value>, String> {
    let (x, y) = (a.operand("self")?, a.operand("other")?);
    let dtype = cx.result_type(&[&x, &y]);
    let (bits, lowest, largest) = format(dtype);
    let wide = dtype.accumulator();
    let (x, y) = (cx.as_tensor(&x, dtype)?, cx.as_tensor(&y, dtype)?);
    let (x, y) = (cx.b.cast(x, wide)?, cx.b.cast(y, wide)?);
    let (x, y) = (detached(&mut cx.b, x)?, detached(&mut cx.b, y)?);
    let [zero, smallest, largest, half] = [0.0, 2f64.powi(lowest), largest, 0.5].map(|k| cx.b.constant(wide, k));
    let (zero, smallest, largest, half) = (zero?, smallest?, largest?, half?);
    let power = Parts::of(cx, x)?.power;
    let size = cx.b.scalar(F::Abs, &[x])?;
    let (is_power, rises, is_positive) = (cx.b.scalar(F::Eq, &[size, power])?, cx.b.scalar(F::Gt, &[y, x])?, cx.b.scalar(F::Gt, &[x, zero])?);
    let falls_inward = cx.b.scalar(F::Ne, &[rises, is_positive])?;
    // Below a power of two numbers lie half as far apart.
    let is_near = cx.b.scalar(F::LogicalAnd, &[is_power, falls_inward])?;
    let gap = cx.b.scale(power, 2f64.powi(-bits))?;
    let nearer = cx.b.mul(gap, half)?;
    let gap = cx.b.where_(is_near, nearer, gap)?;
    let gap = cx.b.scalar(F::Maximum, &[gap, smallest])?;
    let is_zero = cx.b.scalar(F::Eq, &[x, zero])?;
    let gap = cx.b.where_(is_zero, smallest, gap)?;
    let down = cx.b.neg(gap)?;
    let step = cx.b.where_(rises, gap, down)?;
    let next = cx.b.add(x, step)?;
    // From infinity the way leads to the largest number.
    let lowest = cx.b.neg(largest)?;
    let end = cx.b.where_(is_positive, largest, lowest)?;
    let beyond = cx.b.scalar(F::Gt, &[size, largest])?;
    let next = cx.b.where_(beyond, end, next)?;
    let is_there = cx.b.scalar(F::Eq, &[x, y])?;
    let next = cx.b.where_(is_there, y, next)?;
    let both = cx.b.add(x, y)?;
    let is_nan = [x, y].map(|v| cx.b.scalar(F::IsNan, &[v]));
    let [of_x, of_y] = is_nan;
    let is_nan = cx.b.scalar(F::LogicalOr, &[of_x?, of_y?])?;
    let next = cx.b.where_(is_nan, both, next)?;
    Ok(vec![cx.b.cast(next, dtype)?])
}
