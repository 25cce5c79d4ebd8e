//! Functions of one element made of others, as `torch.export` leaves them in programs that are not decomposed.

use super::args::{Args, Cx, Operand};
use super::gradients::{detached, gradient_only};
use super::opmath::{self, with_partials};
use super::pointwise::{composed, is_finite};
use super::{Row, fits, pure};
use crate::graph::Value;
use crate::ops::Op;
use crate::scalar::ScalarFn as F;
use crate::types::{DType, Dim, Shape};
use std::f64::consts::{FRAC_1_SQRT_2, PI};

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["celu.default"], |cx, a| {
        let alpha = a.float_or("alpha", 1.0)?;
        composed(cx, a, |cx, x| exponential_below(cx, x, alpha, 1.0, 1.0 / alpha))
    }),
    pure(&["sinc.where"], decomposed_sinc),
    pure(&["logit.log"], decomposed_logit),
    pure(&["selu.default"], |cx, a| composed(cx, a, |cx, x| exponential_below(cx, x, 1.673_263_242_354_377_2, 1.050_700_987_355_480_5, 1.0))),
    pure(&["elu.default"], |cx, a| {
        let (alpha, scale, rate) = (a.float_or("alpha", 1.0)?, a.float_or("scale", 1.0)?, a.float_or("input_scale", 1.0)?);
        composed(cx, a, |cx, x| exponential_below(cx, x, alpha, scale, rate))
    }),
    pure(&["glu.default"], |cx, a| {
        let x = a.tensor("self")?;
        let dim = cx.dim(x, a.int_or("dim", -1)?)?;
        let size = cx.b.shape(x).0.get(dim).cloned().ok_or("a 0-d tensor has no halves")?;
        let half = size.try_div(&Dim::int(2)).ok_or("the dimension has no halves")?;
        let (left, right) = (cx.b.slice(x, dim, 0, half.clone(), 1)?, cx.b.slice(x, dim, half, size, 1)?);
        let gate = cx.b.scalar(F::Sigmoid, &[right])?;
        Ok(vec![cx.b.mul(left, gate)?])
    }),
    pure(&["prelu.default", "_prelu_kernel.default"], |cx, a| {
        let (x, mut weight) = (a.tensor("self")?, a.tensor("weight")?);
        if cx.b.shape(weight).rank() == 1 && cx.b.shape(x).rank() != 1 {
            let channels = cx.b.shape(weight)[0].clone();
            let one = channels.is(1) || cx.b.shape(x).rank() < 2;
            let shape = if one { Shape::scalar() } else { super::norm::channel_shape(&channels, cx.b.shape(x).rank()) };
            weight = cx.b.reshape(weight, shape)?;
        }
        let low = cx.b.mul(weight, x)?;
        above(cx, x, 0.0, x, low)
    }),
    pure(&["threshold.default"], |cx, a| {
        let (x, value) = (a.tensor("self")?, a.scalar("value")?);
        let value = cx.number(&value, cx.b.dtype(x))?;
        // A NaN stays.
        let threshold = a.scalar("threshold")?;
        let threshold = cx.number(&threshold, cx.b.dtype(x))?;
        let low = cx.b.scalar(F::Le, &[x, threshold])?;
        Ok(vec![cx.b.where_(low, value, x)?])
    }),
    pure(&["hardshrink.default"], |cx, a| {
        let (x, lambda) = (a.tensor("self")?, a.float_or("lambd", 0.5)?);
        let zero = cx.b.constant(cx.b.dtype(x), 0.0)?;
        let inside = within(cx, x, lambda)?;
        let y = cx.b.where_(inside, zero, x)?;
        // A NaN is not inside, and has no gradient.
        let (size, bound) = (cx.b.scalar(F::Abs, &[x])?, cx.b.constant(cx.b.dtype(x), lambda)?);
        let outside = cx.b.scalar(F::Gt, &[size, bound])?;
        Ok(vec![opmath::with_choices(cx, y, &[(x, outside)])?])
    }),
    pure(&["softshrink.default"], |cx, a| {
        let (x, lambda) = (a.tensor("self")?, a.float_or("lambd", 0.5)?);
        let dtype = cx.b.dtype(x);
        let (zero, width) = (cx.b.constant(dtype, 0.0)?, cx.b.constant(dtype, lambda)?);
        let (down, up) = (cx.b.sub(x, width)?, cx.b.add(x, width)?);
        let positive = cx.b.scalar(F::Gt, &[x, zero])?;
        let moved = cx.b.where_(positive, down, up)?;
        let inside = within(cx, x, lambda)?;
        Ok(vec![cx.b.where_(inside, zero, moved)?])
    }),
    pure(&["frac.default"], |cx, a| {
        let x = a.tensor("self")?;
        let whole = cx.b.scalar(F::Trunc, &[x])?;
        Ok(vec![cx.b.sub(x, whole)?])
    }),
    pure(&["deg2rad.default"], |cx, a| scaled(cx, a, PI / 180.0)),
    pure(&["rad2deg.default"], |cx, a| scaled(cx, a, 180.0 / PI)),
    pure(&["conj_physical.default", "resolve_conj.default", "resolve_neg.default", "real.default"], |_, a| Ok(vec![a.tensor("self")?])),
    pure(&["isreal.default"], |cx, a| {
        let shape = cx.shape(a.tensor("self")?);
        Ok(vec![cx.b.full(DType::Bool, 1.0, shape)?])
    }),
    pure(&["isposinf.default"], |cx, a| infinite(cx, a, f64::INFINITY)),
    pure(&["isneginf.default"], |cx, a| infinite(cx, a, f64::NEG_INFINITY)),
    pure(&["isclose.default"], isclose),
    pure(&["logaddexp.default"], |cx, a| logaddexp(cx, a, F::Exp, F::Log)),
    pure(&["logaddexp2.default"], |cx, a| logaddexp(cx, a, F::Exp2, F::Log2)),
    pure(&["logit.default", "special_logit.default"], |cx, a| {
        let eps = a.has("eps").then(|| a.float("eps")).transpose()?;
        composed(cx, a, |cx, x| logit(cx, x, eps))
    }),
    pure(&["sinc.default", "special_sinc.default"], |cx, a| composed(cx, a, sinc)),
    pure(&["heaviside.default"], |cx, a| {
        let (x, at_zero) = (a.tensor("self")?, a.tensor("values")?);
        let dtype = cx.b.dtype(x);
        let (zero, numbers) = (cx.b.constant(dtype, 0.0)?, cx.b.dtype(x));
        let (none, positive) = (cx.b.scalar(F::Eq, &[x, zero])?, cx.b.scalar(F::Gt, &[x, zero])?);
        let step = cx.b.cast(positive, numbers)?;
        Ok(vec![cx.b.where_(none, at_zero, step)?])
    }),
    pure(&["float_power.Tensor", "float_power.Tensor_Scalar", "float_power.Tensor_Tensor", "float_power.Scalar"], |cx, a| {
        let (x, y) = (a.operand("self")?, a.operand("exponent")?);
        let (x, y) = (cx.as_tensor(&x, DType::F64)?, cx.as_tensor(&y, DType::F64)?);
        Ok(vec![cx.b.scalar(F::Pow, &[x, y])?])
    }),
    pure(&["special_entr.default"], |cx, a| composed(cx, a, entropy)),
    pure(&["special_ndtr.default"], |cx, a| {
        let x = float(cx, a)?;
        let y = cx.b.scale(x, -FRAC_1_SQRT_2)?;
        let y = super::special::erfc(cx, y, false)?;
        Ok(vec![cx.b.scale(y, 0.5)?])
    }),
    pure(&["erfinv.default", "special_erfinv.default"], |cx, a| {
        let x = float(cx, a)?;
        Ok(vec![erfinv(cx, x)?])
    }),
    pure(&["special_ndtri.default"], |cx, a| {
        let x = float(cx, a)?;
        Ok(vec![ndtri(cx, x)?])
    }),
    pure(&["gcd.default"], |cx, a| Ok(vec![common_divisor(cx, a)?.2])),
    pure(&["lcm.default"], |cx, a| {
        let (x, y, divisor) = common_divisor(cx, a)?;
        let one = cx.b.constant(cx.b.dtype(x), 1.0)?;
        let divisor = cx.b.scalar(F::Maximum, &[divisor, one])?;
        let part = cx.b.scalar(F::FloorDiv, &[x, divisor])?;
        let multiple = cx.b.mul(part, y)?;
        Ok(vec![cx.b.scalar(F::Abs, &[multiple])?])
    }),
];

fn float(cx: &mut Cx, a: &Args) -> Result<Value, String> {
    let x = a.tensor("self")?;
    cx.widen_to_float(x)
}

fn scaled(cx: &mut Cx, a: &Args, factor: f64) -> Built {
    let x = float(cx, a)?;
    Ok(vec![cx.b.scale(x, factor)?])
}

/// `high` where `x > at`, else `low`.
fn above(cx: &mut Cx, x: Value, at: f64, high: Value, low: Value) -> Built {
    let at = cx.b.constant(cx.b.dtype(x), at)?;
    let is_above = cx.b.scalar(F::Gt, &[x, at])?;
    Ok(vec![cx.b.where_(is_above, high, low)?])
}

/// Whether `-bound <= x <= bound`.
fn within(cx: &mut Cx, x: Value, bound: f64) -> Result<Value, String> {
    let bound = cx.b.constant(cx.b.dtype(x), bound)?;
    let size = cx.b.scalar(F::Abs, &[x])?;
    cx.b.scalar(F::Le, &[size, bound])
}

/// `scale * x` above zero, `scale * alpha * (e^(rate x) - 1)` below.
fn exponential_below(cx: &mut Cx, x: Value, alpha: f64, scale: f64, rate: f64) -> Result<Value, String> {
    let zero = cx.b.constant(cx.b.dtype(x), 0.0)?;
    let below = cx.b.scalar(F::Le, &[x, zero])?;
    let exponent = cx.b.scale(x, rate)?;
    let low = cx.b.scalar(F::Expm1, &[exponent])?;
    let (low, high) = (cx.b.scale(low, alpha * scale)?, cx.b.scale(x, scale)?);
    let y = cx.b.where_(below, low, high)?;
    let slope = cx.b.scalar(F::Exp, &[exponent])?;
    let (slope, straight) = (cx.b.scale(slope, alpha * scale * rate)?, cx.b.constant(cx.b.dtype(x), scale)?);
    let partial = cx.b.where_(below, slope, straight)?;
    with_partials(cx, y, &[(x, partial)])
}

/// `log(x / (1 - x))`, of x between `eps` and `1 - eps`; without a gradient outside.
fn logit(cx: &mut Cx, x: Value, eps: Option<f64>) -> Result<Value, String> {
    let dtype = cx.b.dtype(x);
    let one = cx.b.constant(dtype, 1.0)?;
    let (low, high) = (cx.b.constant(dtype, eps.unwrap_or(0.0))?, cx.b.constant(dtype, 1.0 - eps.unwrap_or(0.0))?);
    let (below, above) = (cx.b.scalar(F::Lt, &[x, low])?, cx.b.scalar(F::Gt, &[x, high])?);
    let mut inner = x;
    if eps.is_some() {
        // The lower bound goes before the upper one where eps is above one half.
        inner = cx.b.where_(above, high, inner)?;
        inner = cx.b.where_(below, low, inner)?;
    }
    let rest = cx.b.sub(one, inner)?;
    let odds = cx.b.div(inner, rest)?;
    let y = cx.b.scalar(F::Log, &[odds])?;
    let outside = cx.b.scalar(F::LogicalOr, &[below, above])?;
    let rest = cx.b.sub(one, x)?;
    let spread = cx.b.mul(x, rest)?;
    let slope = cx.b.scalar(F::Reciprocal, &[spread])?;
    // The slope is infinite at both ends; minus zero is none of them.
    let slope = cx.b.scalar(F::Abs, &[slope])?;
    let nothing = cx.b.constant(dtype, if eps.is_some() { 0.0 } else { f64::NAN })?;
    let partial = cx.b.where_(outside, nothing, slope)?;
    with_partials(cx, y, &[(x, partial)])
}

/// `sin(pi x) / (pi x)`, and one at zero, where it is flat.
fn sinc(cx: &mut Cx, x: Value) -> Result<Value, String> {
    let dtype = cx.b.dtype(x);
    let (zero, one) = (cx.b.constant(dtype, 0.0)?, cx.b.constant(dtype, 1.0)?);
    let none = cx.b.scalar(F::Eq, &[x, zero])?;
    let angle = cx.b.scale(x, PI)?;
    let (sine, cosine) = (cx.b.scalar(F::Sin, &[angle])?, cx.b.scalar(F::Cos, &[angle])?);
    let ratio = cx.b.div(sine, angle)?;
    let y = cx.b.where_(none, one, ratio)?;
    let difference = cx.b.sub(cosine, ratio)?;
    let slope = cx.b.div(difference, x)?;
    let partial = cx.b.where_(none, zero, slope)?;
    with_partials(cx, y, &[(x, partial)])
}

/// What PyTorch decomposes `sinc` into, `where(x == 0, 1, sin(x) / x)`, with its derivative at zero.
fn decomposed_sinc(cx: &mut Cx, a: &Args) -> Built {
    let (none, one, ratio) = (a.tensor("condition")?, a.tensor("self")?, a.tensor("other")?);
    let y = cx.b.where_(none, one, ratio)?;
    let Some(angle) = divisor(cx, ratio) else { return Ok(vec![y]) };
    let (cosine, zero) = (cx.b.scalar(F::Cos, &[angle])?, cx.b.constant(cx.b.dtype(angle), 0.0)?);
    let difference = cx.b.sub(cosine, ratio)?;
    let slope = cx.b.div(difference, angle)?;
    let partial = cx.b.where_(none, zero, slope)?;
    Ok(vec![with_partials(cx, y, &[(angle, partial)])?])
}

/// What PyTorch decomposes `logit` into, `log(x / (1 - x))`, with its derivative at the ends.
fn decomposed_logit(cx: &mut Cx, a: &Args) -> Built {
    let odds = a.tensor("self")?;
    let y = cx.b.scalar(F::Log, &[odds])?;
    let Some(rest) = divisor(cx, odds) else { return Ok(vec![y]) };
    let [zero, one, nan] = [0.0, 1.0, f64::NAN].map(|k| cx.b.constant(cx.b.dtype(rest), k));
    let x = cx.b.graph().def(odds).operands[0];
    let spread = cx.b.mul(x, rest)?;
    let slope = cx.b.div(one?, spread)?;
    let slope = cx.b.scalar(F::Abs, &[slope])?;
    let outside = cx.b.scalar(F::Lt, &[odds, zero?])?;
    let slope = cx.b.where_(outside, nan?, slope)?;
    Ok(vec![with_partials(cx, y, &[(x, slope)])?])
}

/// What a value is divided by, where it is a quotient of equal types.
fn divisor(cx: &Cx, v: Value) -> Option<Value> {
    let node = cx.b.graph().def(v);
    let is_quotient = matches!(&*node.op, Op::Pointwise(p) if p.f == F::Div);
    is_quotient.then(|| node.operands[1]).filter(|&d| cx.b.ty(d) == cx.b.ty(v))
}

/// `-x log(x)`: zero at zero, minus infinity below.
fn entropy(cx: &mut Cx, x: Value) -> Result<Value, String> {
    let dtype = cx.b.dtype(x);
    let [zero, one, low] = [0.0, 1.0, f64::NEG_INFINITY].map(|k| cx.b.constant(dtype, k));
    let zero = zero?;
    let log = cx.b.scalar(F::Log, &[x])?;
    let product = cx.b.mul(x, log)?;
    let entropy = cx.b.neg(product)?;
    let (none, negative) = (cx.b.scalar(F::Eq, &[x, zero])?, cx.b.scalar(F::Lt, &[x, zero])?);
    let y = cx.b.where_(none, zero, entropy)?;
    let y = cx.b.where_(negative, low?, y)?;
    let slope = cx.b.add(log, one?)?;
    let partial = cx.b.neg(slope)?;
    with_partials(cx, y, &[(x, partial)])
}

fn infinite(cx: &mut Cx, a: &Args, which: f64) -> Built {
    let x = float(cx, a)?;
    let which = cx.b.constant(cx.b.dtype(x), which)?;
    Ok(vec![cx.b.scalar(F::Eq, &[x, which])?])
}

/// `|x - y| <= atol + rtol |y|`, or equal.
fn isclose(cx: &mut Cx, a: &Args) -> Built {
    let (x, y) = (a.tensor("self")?, a.tensor("other")?);
    let equal = cx.b.scalar(F::Eq, &[x, y])?;
    let (x, y) = (cx.widen_to_float(x)?, cx.widen_to_float(y)?);
    let difference = cx.b.sub(x, y)?;
    let distance = cx.b.scalar(F::Abs, &[difference])?;
    let size = cx.b.scalar(F::Abs, &[y])?;
    let allowed = cx.b.scale(size, a.float_or("rtol", 1e-5)?)?;
    let atol = cx.b.constant(cx.b.dtype(x), a.float_or("atol", 1e-8)?)?;
    let allowed = cx.b.add(allowed, atol)?;
    let near = cx.b.scalar(F::Le, &[distance, allowed])?;
    let finite = is_finite(cx, distance)?;
    let near = cx.b.scalar(F::LogicalAnd, &[near, finite])?;
    let mut close = cx.b.scalar(F::LogicalOr, &[equal, near])?;
    if a.bool_or("equal_nan", false)? {
        let (x, y) = (cx.b.scalar(F::IsNan, &[x])?, cx.b.scalar(F::IsNan, &[y])?);
        let both = cx.b.scalar(F::LogicalAnd, &[x, y])?;
        close = cx.b.scalar(F::LogicalOr, &[close, both])?;
    }
    Ok(vec![close])
}

/// `log(e^x + e^y)` in the base of the functions given; equal infinities stay.
fn logaddexp(cx: &mut Cx, a: &Args, exp: F, log: F) -> Built {
    let (x, y) = (Operand::Tensor(a.tensor("self")?), Operand::Tensor(a.tensor("other")?));
    let dtype = cx.result_type(&[&x, &y]);
    let operands = [cx.as_tensor(&x, dtype)?, cx.as_tensor(&y, dtype)?];
    let rate = if exp == F::Exp { 1.0 } else { std::f64::consts::LN_2 };
    let sum = opmath::wide(cx, operands, |cx, [x, y]| {
        let top = cx.b.scalar(F::Maximum, &[x, y])?;
        let (infinite, zero) = (cx.b.scalar(F::IsInf, &[top])?, cx.b.constant(cx.b.dtype(x), 0.0)?);
        let shift = cx.b.where_(infinite, zero, top)?;
        let (left, right) = (cx.b.sub(x, shift)?, cx.b.sub(y, shift)?);
        let (left, right) = (cx.b.scalar(exp, &[left])?, cx.b.scalar(exp, &[right])?);
        let sum = cx.b.add(left, right)?;
        let sum = cx.b.scalar(log, &[sum])?;
        let value = cx.b.add(sum, shift)?;
        let (left, right) = (cx.b.sub(x, y)?, cx.b.sub(y, x)?);
        let (left, right) = (cx.b.scale(left, rate)?, cx.b.scale(right, rate)?);
        let shares = [(x, cx.b.scalar(F::Sigmoid, &[left])?), (y, cx.b.scalar(F::Sigmoid, &[right])?)];
        with_partials(cx, value, &shares)
    })?;
    Ok(vec![sum])
}

/// The border between the middle and the tails of the normal distribution's inverse: `e^-2`.
const TAIL: f64 = 0.135_335_283_236_612_7;

/// The inverse of the normal distribution's integral at `1/2 + y`, of a tail's probability `p = 1/2 - |y|`: the middle is a series in
/// `y^2`, the tail one in `1 / sqrt(-2 log p)`, as in Cephes' `ndtri`.
fn quantile(cx: &mut Cx, y: Value, p: Value) -> Result<Value, String> {
    let dtype = cx.b.dtype(y);
    let [tail, zero, one, border] = [TAIL, 0.0, 1.0, 8.0].map(|k| cx.b.constant(dtype, k));
    let (tail, zero, one, border) = (tail?, zero?, one?, border?);
    let far = cx.b.scalar(F::Lt, &[p, tail])?;
    let middle = cx.b.where_(far, zero, y)?;
    let square = cx.b.mul(middle, middle)?;
    let ratio = fits::NDTRI.at(cx, square)?;
    let near = cx.b.mul(middle, ratio)?;
    let positive = cx.b.scalar(F::Gt, &[p, zero])?;
    let used = cx.b.scalar(F::LogicalAnd, &[far, positive])?;
    let p = cx.b.where_(used, p, tail)?;
    let log = cx.b.scalar(F::Log, &[p])?;
    let square = cx.b.scale(log, -2.0)?;
    let z = cx.b.scalar(F::Sqrt, &[square])?;
    let inverse = cx.b.div(one, z)?;
    let further = cx.b.scalar(F::Gt, &[z, border])?;
    let eighth = cx.b.div(one, border)?;
    let (low, high) = (cx.b.scalar(F::Minimum, &[inverse, eighth])?, cx.b.scalar(F::Maximum, &[inverse, eighth])?);
    let (low, high) = (fits::NDTRI_FAR_TAIL.at(cx, low)?, fits::NDTRI_TAIL.at(cx, high)?);
    let series = cx.b.where_(further, low, high)?;
    let log = cx.b.scalar(F::Log, &[z])?;
    let sum = cx.b.add(log, series)?;
    let correction = cx.b.mul(sum, inverse)?;
    let size = cx.b.sub(z, correction)?;
    let infinite = cx.b.constant(dtype, f64::INFINITY)?;
    let size = cx.b.where_(used, size, infinite)?;
    let (minus, negative) = (cx.b.neg(size)?, cx.b.scalar(F::Lt, &[y, zero])?);
    let end = cx.b.where_(negative, minus, size)?;
    cx.b.where_(far, end, near)
}

/// `value`, NaN where `p` is below zero, with the gradient of `x` times `slope`. At its ends the function and its slope are infinite,
/// and so is the line through its center.
fn inverse_of(cx: &mut Cx, from_center: Value, value: Value, p: Value, slope: Value) -> Result<Value, String> {
    let (zero, nan) = (cx.b.constant(cx.b.dtype(value), 0.0)?, cx.b.constant(cx.b.dtype(value), f64::NAN)?);
    let outside = cx.b.scalar(F::Lt, &[p, zero])?;
    let value = cx.b.where_(outside, nan, value)?;
    let slope = cx.b.where_(outside, nan, slope)?;
    let (fixed, slope) = (detached(&mut cx.b, value)?, detached(&mut cx.b, slope)?);
    let end = cx.b.scalar(F::Eq, &[p, zero])?;
    let (steep, finite) = (cx.b.where_(end, slope, zero)?, cx.b.where_(end, zero, slope)?);
    let nothing = gradient_only(&mut cx.b, from_center)?;
    let carried = cx.b.mul(nothing, finite)?;
    let (inside, line) = (cx.b.add(fixed, carried)?, cx.b.mul(from_center, steep)?);
    cx.b.where_(end, line, inside)
}

/// The inverse of erf: `quantile(1/2 + x / 2) / sqrt(2)`. Its derivative is `sqrt(pi) / 2 e^(y^2)`.
fn erfinv(cx: &mut Cx, x: Value) -> Result<Value, String> {
    let fixed = detached(&mut cx.b, x)?;
    let (one, size) = (cx.b.constant(cx.b.dtype(x), 1.0)?, cx.b.scalar(F::Abs, &[fixed])?);
    let rest = cx.b.sub(one, size)?;
    let (half, p) = (cx.b.scale(fixed, 0.5)?, cx.b.scale(rest, 0.5)?);
    let y = quantile(cx, half, p)?;
    let y = cx.b.scale(y, FRAC_1_SQRT_2)?;
    let square = cx.b.mul(y, y)?;
    let e = cx.b.scalar(F::Exp, &[square])?;
    let slope = cx.b.scale(e, PI.sqrt() / 2.0)?;
    inverse_of(cx, x, y, p, slope)
}

/// The inverse of `ndtr`. Its derivative is `sqrt(2 pi) e^(y^2 / 2)`.
fn ndtri(cx: &mut Cx, x: Value) -> Result<Value, String> {
    let fixed = detached(&mut cx.b, x)?;
    let (half, one) = (cx.b.constant(cx.b.dtype(x), 0.5)?, cx.b.constant(cx.b.dtype(x), 1.0)?);
    let (y, rest) = (cx.b.sub(fixed, half)?, cx.b.sub(one, fixed)?);
    let p = cx.b.scalar(F::Minimum, &[fixed, rest])?;
    let value = quantile(cx, y, p)?;
    let square = cx.b.mul(value, value)?;
    let square = cx.b.scale(square, 0.5)?;
    let e = cx.b.scalar(F::Exp, &[square])?;
    let slope = cx.b.scale(e, (2.0 * PI).sqrt())?;
    let from_center = cx.b.sub(x, half)?;
    inverse_of(cx, from_center, value, p, slope)
}

/// A polynomial, highest coefficient first.
pub fn horner(cx: &mut Cx, x: Value, coefficients: &[f64]) -> Result<Value, String> {
    let dtype = cx.b.dtype(x);
    let mut sum = cx.b.constant(dtype, coefficients[0])?;
    for &k in &coefficients[1..] {
        let (product, k) = (cx.b.mul(sum, x)?, cx.b.constant(dtype, k)?);
        sum = cx.b.add(product, k)?;
    }
    Ok(sum)
}

/// Both integers and their greatest common divisor, by as many steps of Euclid's algorithm as their width can need.
fn common_divisor(cx: &mut Cx, a: &Args) -> Result<(Value, Value, Value), String> {
    let (x, y) = (Operand::Tensor(a.tensor("self")?), Operand::Tensor(a.tensor("other")?));
    let dtype = cx.result_type(&[&x, &y]);
    let (x, y) = (cx.as_tensor(&x, dtype)?, cx.as_tensor(&y, dtype)?);
    // Neighbors in Fibonacci's sequence take the most steps: 1.44 for each bit.
    let steps = match dtype {
        DType::I64 => 93,
        DType::I32 | DType::U32 => 47,
        DType::I16 => 24,
        DType::I8 | DType::U8 => 13,
        other => return Err(format!("{other} has no divisors")),
    };
    let (mut low, mut high) = (cx.b.scalar(F::Abs, &[x])?, cx.b.scalar(F::Abs, &[y])?);
    let zero = cx.b.constant(dtype, 0.0)?;
    for _ in 0..steps {
        let done = cx.b.scalar(F::Eq, &[low, zero])?;
        // The least integer has no magnitude: its remainders have the sign of the dividend, as in C.
        let rest = cx.b.scalar(F::Fmod, &[high, low])?;
        let (next, after) = (cx.b.where_(done, high, low)?, cx.b.where_(done, zero, rest)?);
        (high, low) = (next, after);
    }
    Ok((x, y, high))
}
