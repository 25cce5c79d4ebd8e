//! Bessel functions, Airy's function and the zeta function of Hurwitz. Near zero they are series in `x^2`, far away an amplitude
//! times a wave or an exponential, both with the fits of `fits.rs`. PyTorch knows no derivative of most of them; here they have
//! the one of their series.

use super::activations::horner;
use super::args::{Args, Cx};
use super::fits::{self, Fit};
use super::gamma::BERNOULLI;
use super::gradients::detached;
use super::opmath::{wide, with_partials};
use super::{Row, pure};
use crate::graph::Value;
use crate::scalar::ScalarFn as F;
use crate::types::DType;
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI, PI};

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["i0.default", "special_i0.default", "special_modified_bessel_i0.default"], |cx, a| {
        of_self(cx, a, |cx, x| {
            // Where it overflows, its formula has no derivative.
            let (value, slope) = (modified_first(cx, x, 0, false)?, modified_first(cx, x, 1, false)?);
            with_partials(cx, value, &[(x, slope)])
        })
    }),
    pure(&["special_i0e.default"], |cx, a| of_self(cx, a, |cx, x| modified_first(cx, x, 0, true))),
    pure(&["special_i1.default", "special_modified_bessel_i1.default"], |cx, a| of_self(cx, a, |cx, x| modified_first(cx, x, 1, false))),
    pure(&["special_i1e.default"], |cx, a| of_self(cx, a, |cx, x| modified_first(cx, x, 1, true))),
    pure(&["special_modified_bessel_k0.default"], |cx, a| of_self(cx, a, |cx, x| modified_second(cx, x, 0, false))),
    pure(&["special_modified_bessel_k1.default"], |cx, a| of_self(cx, a, |cx, x| modified_second(cx, x, 1, false))),
    pure(&["special_scaled_modified_bessel_k0.default"], |cx, a| of_self(cx, a, |cx, x| modified_second(cx, x, 0, true))),
    pure(&["special_scaled_modified_bessel_k1.default"], |cx, a| of_self(cx, a, |cx, x| modified_second(cx, x, 1, true))),
    pure(&["special_bessel_j0.default"], |cx, a| of_self(cx, a, |cx, x| first(cx, x, 0))),
    pure(&["special_bessel_j1.default"], |cx, a| of_self(cx, a, |cx, x| first(cx, x, 1))),
    pure(&["special_bessel_y0.default"], |cx, a| of_self(cx, a, |cx, x| second(cx, x, 0))),
    pure(&["special_bessel_y1.default"], |cx, a| of_self(cx, a, |cx, x| second(cx, x, 1))),
    pure(&["special_spherical_bessel_j0.default"], |cx, a| of_self(cx, a, spherical)),
    pure(&["special_airy_ai.default"], |cx, a| of_self(cx, a, airy)),
    pure(&["special_zeta.default", "special_zeta.self_scalar", "special_zeta.other_scalar"], zeta),
];

/// Below it the functions of the first kind are series in `x^2`, those of the second kind of modified ones below the other.
const BORDER: f64 = 8.0;
const SECOND_BORDER: f64 = 2.0;

/// A function of a float; the argument may be called `x`.
fn of_self(cx: &mut Cx, a: &Args, f: impl Fn(&mut Cx, Value) -> Result<Value, String>) -> Built {
    let x = a.tensor(if a.has("x") { "x" } else { "self" })?;
    let x = cx.widen_to_float(x)?;
    Ok(vec![wide(cx, [x], |cx, [x]| f(cx, x))?])
}

fn number(cx: &mut Cx, like: Value, k: f64) -> Result<Value, String> {
    cx.b.constant(cx.b.dtype(like), k)
}

/// Whether `x` is below the border, `x` where it is, else the border, and `x` where it is not, else the border.
fn split(cx: &mut Cx, x: Value, border: f64) -> Result<(Value, Value, Value), String> {
    let border = number(cx, x, border)?;
    let below = cx.b.scalar(F::Lt, &[x, border])?;
    Ok((below, cx.b.where_(below, x, border)?, cx.b.where_(below, border, x)?))
}

/// `k / x`.
fn inverse(cx: &mut Cx, x: Value, k: f64) -> Result<Value, String> {
    let inverse = cx.b.scalar(F::Reciprocal, &[x])?;
    cx.b.scale(inverse, k)
}

/// The magnitude, for an even or odd function. An odd one has a slope at zero, which that of the magnitude must not hide.
fn magnitude(cx: &mut Cx, x: Value, order: u32) -> Result<Value, String> {
    if order == 0 {
        return cx.b.scalar(F::Abs, &[x]);
    }
    odd(cx, x, x)
}

/// `value` with the sign of `x`, for odd functions of the magnitude.
fn odd(cx: &mut Cx, x: Value, value: Value) -> Result<Value, String> {
    let (zero, minus) = (number(cx, x, 0.0)?, cx.b.neg(value)?);
    let negative = cx.b.scalar(F::Lt, &[x, zero])?;
    cx.b.where_(negative, minus, value)
}

/// The sum of `(x^2 / 4)^k / (k! (k + order)!)`, times `x / 2` for order 1.
fn power_series(cx: &mut Cx, x: Value, order: u32) -> Result<Value, String> {
    let square = cx.b.mul(x, x)?;
    let quarter = cx.b.scale(square, 0.25)?;
    let mut terms = vec![1.0];
    for k in 1..32 {
        terms.push(terms[k - 1] / (k as f64 * (k as f64 + f64::from(order))));
    }
    terms.reverse();
    let series = horner(cx, quarter, &terms)?;
    if order == 0 {
        return Ok(series);
    }
    let half = cx.b.scale(x, 0.5)?;
    cx.b.mul(series, half)
}

/// The modified function of the first kind, times `e^-|x|` where it is scaled.
pub(super) fn modified_first(cx: &mut Cx, x: Value, order: u32, scaled: bool) -> Result<Value, String> {
    let size = magnitude(cx, x, order)?;
    let (small, near, far) = split(cx, size, BORDER)?;
    let mut series = power_series(cx, near, order)?;
    let argument = inverse(cx, far, 8.0)?;
    let amplitude = [fits::I0_FAR, fits::I1_FAR][order as usize].at(cx, argument)?;
    let root = cx.b.scalar(F::Rsqrt, &[far])?;
    let mut tail = cx.b.mul(amplitude, root)?;
    if scaled {
        let minus = cx.b.neg(near)?;
        let e = cx.b.scalar(F::Exp, &[minus])?;
        series = cx.b.mul(series, e)?;
    } else {
        // e^x overflows before e^x / sqrt(x) does.
        let half = cx.b.scale(far, 0.5)?;
        let e = cx.b.scalar(F::Exp, &[half])?;
        tail = cx.b.mul(tail, e)?;
        tail = cx.b.mul(tail, e)?;
    }
    let value = cx.b.where_(small, series, tail)?;
    if order == 0 { Ok(value) } else { odd(cx, x, value) }
}

/// The modified function of the second kind, times `e^x` where it is scaled: infinite at zero, NaN below.
fn modified_second(cx: &mut Cx, x: Value, order: u32, scaled: bool) -> Result<Value, String> {
    let (small, near, far) = split(cx, x, SECOND_BORDER)?;
    let square = cx.b.mul(near, near)?;
    let half = cx.b.scale(near, 0.5)?;
    let log = cx.b.scalar(F::Log, &[half])?;
    let first = power_series(cx, near, order)?;
    let product = cx.b.mul(log, first)?;
    let rest = [fits::K0, fits::K1][order as usize].at(cx, square)?;
    let mut series = match order {
        0 => cx.b.sub(rest, product)?,
        _ => {
            let rest = cx.b.div(rest, near)?;
            cx.b.add(rest, product)?
        }
    };
    let argument = inverse(cx, far, 2.0)?;
    let amplitude = [fits::K0_FAR, fits::K1_FAR][order as usize].at(cx, argument)?;
    let root = cx.b.scalar(F::Rsqrt, &[far])?;
    let mut tail = cx.b.mul(amplitude, root)?;
    let (at, sign) = if scaled { (near, 1.0) } else { (far, -1.0) };
    let exponent = cx.b.scale(at, sign)?;
    let e = cx.b.scalar(F::Exp, &[exponent])?;
    if scaled {
        series = cx.b.mul(series, e)?;
    } else {
        tail = cx.b.mul(tail, e)?;
    }
    let value = cx.b.where_(small, series, tail)?;
    at_zero(cx, x, value, f64::INFINITY)
}

/// The value, with a limit at zero and NaN below.
fn at_zero(cx: &mut Cx, x: Value, value: Value, limit: f64) -> Result<Value, String> {
    let (zero, limit, nan) = (number(cx, x, 0.0)?, number(cx, x, limit)?, number(cx, x, f64::NAN)?);
    let (none, below) = (cx.b.scalar(F::Eq, &[x, zero])?, cx.b.scalar(F::Lt, &[x, zero])?);
    let value = cx.b.where_(none, limit, value)?;
    cx.b.where_(below, nan, value)
}

/// The wave far away, of the first kind and of the second: `sqrt(2 / (pi x)) (P cos(c) - Q sin(c))` and
/// `sqrt(2 / (pi x)) (P sin(c) + Q cos(c))` with `c = x - (2 order + 1) pi / 4`.
fn waves(cx: &mut Cx, x: Value, order: u32) -> Result<(Value, Value), String> {
    let inverse = inverse(cx, x, BORDER)?;
    let square = cx.b.mul(inverse, inverse)?;
    let amplitudes: [(Fit, Fit); 2] = [(fits::P0, fits::Q0), (fits::P1, fits::Q1)];
    let (even, odd) = &amplitudes[order as usize];
    let (p, q) = (even.at(cx, square)?, odd.at(cx, square)?);
    let q = cx.b.div(q, x)?;
    // cos(x - pi / 4) = (cos x + sin x) / sqrt(2), and a quarter turn further for order 1.
    let (sine, cosine) = (cx.b.scalar(F::Sin, &[x])?, cx.b.scalar(F::Cos, &[x])?);
    let (sum, difference) = (cx.b.add(sine, cosine)?, cx.b.sub(sine, cosine)?);
    let (sum, difference) = (cx.b.scale(sum, FRAC_1_SQRT_2)?, cx.b.scale(difference, FRAC_1_SQRT_2)?);
    let (cosine, sine) = if order == 0 { (sum, difference) } else { (difference, cx.b.neg(sum)?) };
    let root = cx.b.scalar(F::Rsqrt, &[x])?;
    let root = cx.b.scale(root, FRAC_2_PI.sqrt())?;
    let [pc, qs, ps, qc] = [(p, cosine), (q, sine), (p, sine), (q, cosine)].map(|(u, v)| cx.b.mul(u, v));
    let (first, second) = (cx.b.sub(pc?, qs?)?, cx.b.add(ps?, qc?)?);
    Ok((cx.b.mul(first, root)?, cx.b.mul(second, root)?))
}

/// The function of the first kind below the border.
fn first_near(cx: &mut Cx, x: Value, order: u32) -> Result<Value, String> {
    let square = cx.b.mul(x, x)?;
    if order == 0 {
        return fits::J0.at(cx, square);
    }
    let ratio = fits::J1.at(cx, square)?;
    cx.b.mul(ratio, x)
}

fn first(cx: &mut Cx, x: Value, order: u32) -> Result<Value, String> {
    let size = magnitude(cx, x, order)?;
    let (small, near, far) = split(cx, size, BORDER)?;
    let series = first_near(cx, near, order)?;
    let wave = waves(cx, far, order)?.0;
    let value = cx.b.where_(small, series, wave)?;
    if order == 0 { Ok(value) } else { odd(cx, x, value) }
}

fn second(cx: &mut Cx, x: Value, order: u32) -> Result<Value, String> {
    let (small, near, far) = split(cx, x, BORDER)?;
    let square = cx.b.mul(near, near)?;
    let rest = [fits::Y0, fits::Y1][order as usize].at(cx, square)?;
    let rest = if order == 0 { rest } else { cx.b.div(rest, near)? };
    let (log, first) = (cx.b.scalar(F::Log, &[near])?, first_near(cx, near, order)?);
    let product = cx.b.mul(log, first)?;
    let product = cx.b.scale(product, FRAC_2_PI)?;
    let series = cx.b.add(rest, product)?;
    let wave = waves(cx, far, order)?.1;
    let value = cx.b.where_(small, series, wave)?;
    at_zero(cx, x, value, f64::NEG_INFINITY)
}

/// `sin(x) / x`: one at zero, zero at infinity.
fn spherical(cx: &mut Cx, x: Value) -> Result<Value, String> {
    let (zero, one) = (number(cx, x, 0.0)?, number(cx, x, 1.0)?);
    let (none, infinite) = (cx.b.scalar(F::Eq, &[x, zero])?, cx.b.scalar(F::IsInf, &[x])?);
    let safe = cx.b.where_(none, one, x)?;
    let sine = cx.b.scalar(F::Sin, &[safe])?;
    let ratio = cx.b.div(sine, safe)?;
    let value = cx.b.where_(none, one, ratio)?;
    cx.b.where_(infinite, zero, value)
}

/// Airy's function: series from -10 to 2, a wave below, a decaying exponential above.
fn airy(cx: &mut Cx, x: Value) -> Result<Value, String> {
    let (below, _, rest) = split(cx, x, -10.0)?;
    let mut value = airy_wave(cx, x, below)?;
    let mut lowest = below;
    for piece in [fits::AIRY_0, fits::AIRY_1, fits::AIRY_2, fits::AIRY_3] {
        let (inside, _, _) = split(cx, x, piece.high)?;
        let (low, high) = (number(cx, x, piece.low)?, number(cx, x, piece.high)?);
        let at = cx.b.scalar(F::Clamp, &[rest, low, high])?;
        let series = piece.at(cx, at)?;
        let earlier = cx.b.scalar(F::LogicalNot, &[lowest])?;
        let here = cx.b.scalar(F::LogicalAnd, &[inside, earlier])?;
        value = cx.b.where_(here, series, value)?;
        lowest = inside;
    }
    let decay = airy_decay(cx, x)?;
    let value = cx.b.where_(lowest, value, decay)?;
    let (nan, broken) = (number(cx, x, f64::NAN)?, cx.b.scalar(F::IsNan, &[x])?);
    cx.b.where_(broken, nan, value)
}

/// `2/3 |x|^(3/2)`, and `|x|^(1/4)`.
fn airy_phase(cx: &mut Cx, size: Value) -> Result<(Value, Value), String> {
    let root = cx.b.scalar(F::Sqrt, &[size])?;
    let power = cx.b.mul(size, root)?;
    Ok((cx.b.scale(power, 2.0 / 3.0)?, cx.b.scalar(F::Sqrt, &[root])?))
}

/// `(cos(z - pi/4) A + sin(z - pi/4) B) / (sqrt(pi) |x|^(1/4))`, with the asymptotic series of A and B.
fn airy_wave(cx: &mut Cx, x: Value, used: Value) -> Result<Value, String> {
    let (minus, ten) = (cx.b.neg(x)?, number(cx, x, 10.0)?);
    let size = cx.b.where_(used, minus, ten)?;
    let (z, fourth) = airy_phase(cx, size)?;
    let mut u = vec![1.0];
    for k in 1..10 {
        let n = k as f64;
        u.push(u[k - 1] * (6.0 * n - 5.0) * (6.0 * n - 3.0) * (6.0 * n - 1.0) / (216.0 * n * (2.0 * n - 1.0)));
    }
    let signed = |first: usize| (0..5).rev().map(|k| if k % 2 == 0 { u[2 * k + first] } else { -u[2 * k + first] }).collect::<Vec<f64>>();
    let inverse = cx.b.scalar(F::Reciprocal, &[z])?;
    let square = cx.b.mul(inverse, inverse)?;
    let (a, b) = (horner(cx, square, &signed(0))?, horner(cx, square, &signed(1))?);
    let b = cx.b.mul(b, inverse)?;
    let quarter = number(cx, x, PI / 4.0)?;
    let phase = cx.b.sub(z, quarter)?;
    let (cosine, sine) = (cx.b.scalar(F::Cos, &[phase])?, cx.b.scalar(F::Sin, &[phase])?);
    let (ac, bs) = (cx.b.mul(a, cosine)?, cx.b.mul(b, sine)?);
    let sum = cx.b.add(ac, bs)?;
    let wave = cx.b.div(sum, fourth)?;
    cx.b.scale(wave, 1.0 / PI.sqrt())
}

fn airy_decay(cx: &mut Cx, x: Value) -> Result<Value, String> {
    let two = number(cx, x, 2.0)?;
    let size = cx.b.scalar(F::Maximum, &[x, two])?;
    let (z, fourth) = airy_phase(cx, size)?;
    let inverse = cx.b.scalar(F::Reciprocal, &[z])?;
    let amplitude = fits::AIRY_DECAY.at(cx, inverse)?;
    let minus = cx.b.neg(z)?;
    let e = cx.b.scalar(F::Exp, &[minus])?;
    let product = cx.b.mul(amplitude, e)?;
    let value = cx.b.div(product, fourth)?;
    cx.b.scale(value, 0.5 / PI.sqrt())
}

/// Terms of the zeta function that are summed one by one: `q` may be down to -16, below it the result is NaN.
const SUMMED: i32 = 26;

/// `sum (q + k)^-s` over all k, by Euler and Maclaurin's sum. One has the limit infinity, below it there is none; so have
/// integers `q` that are not positive; other negative ones need an integer `s`. The derivative is that in `q`.
fn zeta(cx: &mut Cx, a: &Args) -> Built {
    let (s, q) = (a.operand("self")?, a.operand("other")?);
    let dtype = match cx.result_type(&[&s, &q]) {
        d if d.is_float() => d,
        _ => DType::F32,
    };
    let (s, q) = (cx.as_tensor(&s, dtype)?, cx.as_tensor(&q, dtype)?);
    let s = detached(&mut cx.b, s)?;
    Ok(vec![wide(cx, [s, q], |cx, [s, q]| zeta_of(cx, s, q))?])
}

fn zeta_of(cx: &mut Cx, s: Value, q: Value) -> Result<Value, String> {
    let dtype = cx.b.dtype(s);
    let (zero, one) = (cx.b.constant(dtype, 0.0)?, cx.b.constant(dtype, 1.0)?);
    let minus = cx.b.neg(s)?;
    let mut sum = zero;
    for k in 0..SUMMED {
        let k = cx.b.constant(dtype, f64::from(k))?;
        let at = cx.b.add(q, k)?;
        let term = cx.b.scalar(F::Pow, &[at, minus])?;
        sum = cx.b.add(sum, term)?;
    }
    let count = cx.b.constant(dtype, f64::from(SUMMED))?;
    let w = cx.b.add(q, count)?;
    let last = cx.b.scalar(F::Pow, &[w, minus])?;
    let tail = zeta_tail(cx, s, w, last)?;
    sum = cx.b.add(sum, tail)?;
    let value = zeta_limits(cx, s, q, sum)?;
    let (lowest, nan) = (cx.b.constant(dtype, 10.0 - f64::from(SUMMED))?, cx.b.constant(dtype, f64::NAN)?);
    let low = cx.b.scalar(F::Lt, &[q, lowest])?;
    let value = cx.b.where_(low, nan, value)?;
    let (pole, infinite) = (cx.b.scalar(F::Eq, &[s, one])?, cx.b.constant(dtype, f64::INFINITY)?);
    cx.b.where_(pole, infinite, value)
}

/// What follows the terms before `w`, given `w^-s`.
fn zeta_tail(cx: &mut Cx, s: Value, w: Value, last: Value) -> Result<Value, String> {
    let one = number(cx, s, 1.0)?;
    let less = cx.b.sub(s, one)?;
    let whole = cx.b.mul(last, w)?;
    let whole = cx.b.div(whole, less)?;
    let half = cx.b.scale(last, 0.5)?;
    let mut sum = cx.b.add(whole, half)?;
    // B_2k / (2k)! s (s + 1) ... (s + 2k - 2) w^-(s + 2k - 1)
    let mut power = cx.b.div(last, w)?;
    power = cx.b.mul(power, s)?;
    let mut factorial = 2.0;
    for (k, b) in BERNOULLI.iter().enumerate() {
        let term = cx.b.scale(power, b / factorial)?;
        sum = cx.b.add(sum, term)?;
        let m = 2.0 * (k + 1) as f64;
        factorial *= (m + 1.0) * (m + 2.0);
        for next in [m - 1.0, m] {
            let next = number(cx, s, next)?;
            let factor = cx.b.add(s, next)?;
            power = cx.b.mul(power, factor)?;
            power = cx.b.div(power, w)?;
        }
    }
    Ok(sum)
}

fn zeta_limits(cx: &mut Cx, s: Value, q: Value, sum: Value) -> Result<Value, String> {
    let [zero, one, nan, infinite] = [0.0, 1.0, f64::NAN, f64::INFINITY].map(|k| number(cx, s, k));
    let (zero, one, nan, infinite) = (zero?, one?, nan?, infinite?);
    let (whole_q, whole_s) = (cx.b.scalar(F::Floor, &[q])?, cx.b.scalar(F::Floor, &[s])?);
    let (integral, fractional) = (cx.b.scalar(F::Eq, &[whole_q, q])?, cx.b.scalar(F::Ne, &[whole_s, s])?);
    let low = cx.b.scalar(F::Le, &[q, zero])?;
    let undefined = cx.b.scalar(F::LogicalAnd, &[low, fractional])?;
    let pole = cx.b.scalar(F::LogicalAnd, &[low, integral])?;
    let small = cx.b.scalar(F::Lt, &[s, one])?;
    let value = cx.b.where_(undefined, nan, sum)?;
    let value = cx.b.where_(pole, infinite, value)?;
    cx.b.where_(small, nan, value)
}
