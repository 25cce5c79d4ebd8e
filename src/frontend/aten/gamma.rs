//! The gamma function's logarithm and its derivatives, by series.

use super::activations::horner;
use super::args::Cx;
use super::opmath::with_partials;
use super::pointwise::composed;
use super::{Row, pure};
use crate::graph::Value;
use crate::scalar::ScalarFn as F;
use std::f64::consts::{FRAC_1_PI, PI};

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["lgamma.default", "special_gammaln.default"], |cx, a| composed(cx, a, log_gamma)),
    pure(&["special_multigammaln.default", "mvlgamma.default"], |cx, a| {
        // log of pi^(p (p - 1) / 4) gamma(x) gamma(x - 1/2) ... gamma(x - (p - 1) / 2)
        let p = a.int_in("p", 1, 1..=64)?;
        composed(cx, a, |cx, x| {
            let mut sum = number(cx, x, (p * (p - 1)) as f64 / 4.0 * PI.ln())?;
            for j in 0..p {
                let step = number(cx, x, j as f64 / 2.0)?;
                let at = cx.b.sub(x, step)?;
                let term = log_gamma(cx, at)?;
                sum = cx.b.add(sum, term)?;
            }
            Ok(sum)
        })
    }),
    pure(&["digamma.default", "special_digamma.default", "special_psi.default"], |cx, a| composed(cx, a, |cx, x| derivative_of_digamma(cx, x, 0))),
    pure(&["polygamma.default", "special_polygamma.default"], |cx, a| match a.int("n")? {
        n @ 0..=64 => composed(cx, a, |cx, x| derivative_of_digamma(cx, x, n as i32)),
        n => Err(format!("derivative {n} of digamma is not supported")),
    }),
];

/// Bernoulli's numbers from the second on.
pub const BERNOULLI: [f64; 7] = [1.0 / 6.0, -1.0 / 30.0, 1.0 / 42.0, -1.0 / 30.0, 5.0 / 66.0, -691.0 / 2730.0, 7.0 / 6.0];

/// How far arguments are moved up before the asymptotic series, which then has an f32's accuracy and more.
const SHIFT: i32 = 8;

/// `lgamma` with PyTorch's derivative, which is NaN at negative integers.
fn log_gamma(cx: &mut Cx, x: Value) -> Result<Value, String> {
    let (value, slope) = (lgamma(cx, x)?, digamma(cx, x)?);
    with_partials(cx, value, &[(x, slope)])
}

/// Digamma's derivative of order `n`, whose own is the next one: at the poles, where the parts of its formula cancel, too.
fn derivative_of_digamma(cx: &mut Cx, x: Value, n: i32) -> Result<Value, String> {
    let (value, slope) = (if n == 0 { digamma(cx, x)? } else { polygamma(cx, x, n)? }, polygamma(cx, x, n + 1)?);
    with_partials(cx, value, &[(x, slope)])
}

fn number(cx: &mut Cx, like: Value, k: f64) -> Result<Value, String> {
    cx.b.constant(cx.b.dtype(like), k)
}

/// Whether `x < 1/2`, and `x` or `1 - x`, whichever is not below one half.
fn reflected(cx: &mut Cx, x: Value) -> Result<(Value, Value), String> {
    let (half, one) = (number(cx, x, 0.5)?, number(cx, x, 1.0)?);
    let low = cx.b.scalar(F::Lt, &[x, half])?;
    let mirror = cx.b.sub(one, x)?;
    Ok((low, cx.b.where_(low, mirror, x)?))
}

/// `x - floor(x)`, where that is used, else one half: sines of it are accurate.
fn fraction(cx: &mut Cx, x: Value, used: Value) -> Result<Value, String> {
    let (floor, half) = (cx.b.scalar(F::Floor, &[x])?, number(cx, x, 0.5)?);
    let rest = cx.b.sub(x, floor)?;
    cx.b.where_(used, rest, half)
}

/// `log |gamma(x)|` by Stirling's series, from `1 - x` below one half.
pub fn lgamma(cx: &mut Cx, x: Value) -> Result<Value, String> {
    let (low, z) = reflected(cx, x)?;
    let (limit, one, shift) = (number(cx, x, f64::from(SHIFT))?, number(cx, x, 1.0)?, number(cx, x, f64::from(SHIFT))?);
    // gamma(z) = gamma(z + n) / (z (z + 1) ... (z + n - 1)), for small z.
    let small = cx.b.scalar(F::Lt, &[z, limit])?;
    let start = cx.b.where_(small, z, one)?;
    let mut product = start;
    for k in 1..SHIFT {
        let k = number(cx, x, f64::from(k))?;
        let factor = cx.b.add(start, k)?;
        product = cx.b.mul(product, factor)?;
    }
    let far = cx.b.add(z, shift)?;
    let w = cx.b.where_(small, far, z)?;
    let (log, half) = (cx.b.scalar(F::Log, &[w])?, number(cx, x, 0.5)?);
    let power = cx.b.sub(w, half)?;
    let main = cx.b.mul(power, log)?;
    let main = cx.b.sub(main, w)?;
    let inverse = cx.b.scalar(F::Reciprocal, &[w])?;
    let square = cx.b.mul(inverse, inverse)?;
    let series = horner(cx, square, &[-1.0 / 1680.0, 1.0 / 1260.0, -1.0 / 360.0, 1.0 / 12.0])?;
    let series = cx.b.mul(series, inverse)?;
    let rest = number(cx, x, 0.5 * (2.0 * PI).ln())?;
    let sum = cx.b.add(series, rest)?;
    let sum = cx.b.add(main, sum)?;
    let (zero, product) = (number(cx, x, 0.0)?, cx.b.scalar(F::Log, &[product])?);
    let taken = cx.b.where_(small, product, zero)?;
    let value = cx.b.sub(sum, taken)?;
    let infinite = cx.b.scalar(F::IsInf, &[x])?;
    let high = number(cx, x, f64::INFINITY)?;
    let mirrored = {
        let angle = fraction(cx, x, low)?;
        let angle = cx.b.scale(angle, PI)?;
        let sine = cx.b.scalar(F::Sin, &[angle])?;
        let sine = cx.b.scale(sine, FRAC_1_PI)?;
        let log = cx.b.scalar(F::Log, &[sine])?;
        let both = cx.b.add(log, value)?;
        cx.b.neg(both)?
    };
    let out = cx.b.where_(low, mirrored, value)?;
    cx.b.where_(infinite, high, out)
}

/// The derivative of `lgamma`: `-1/x` at zeros, which is infinite, NaN at negative integers.
fn digamma(cx: &mut Cx, x: Value) -> Result<Value, String> {
    let (low, z) = reflected(cx, x)?;
    let shift = number(cx, x, f64::from(SHIFT))?;
    let w = cx.b.add(z, shift)?;
    let (log, inverse) = (cx.b.scalar(F::Log, &[w])?, cx.b.scalar(F::Reciprocal, &[w])?);
    let square = cx.b.mul(inverse, inverse)?;
    let coefficients: Vec<f64> = BERNOULLI.iter().enumerate().rev().map(|(k, b)| b / (2.0 * (k + 1) as f64)).collect();
    let series = horner(cx, square, &coefficients)?;
    let series = cx.b.mul(series, square)?;
    let half = cx.b.scale(inverse, 0.5)?;
    let mut value = cx.b.sub(log, half)?;
    value = cx.b.sub(value, series)?;
    for k in 0..SHIFT {
        let k = number(cx, x, f64::from(k))?;
        let at = cx.b.add(z, k)?;
        let term = cx.b.scalar(F::Reciprocal, &[at])?;
        value = cx.b.sub(value, term)?;
    }
    let cotangent = cotangent(cx, x, low)?;
    let cotangent = cx.b.scale(cotangent, PI)?;
    let mirrored = cx.b.sub(value, cotangent)?;
    let out = cx.b.where_(low, mirrored, value)?;
    let (zero, nan) = (number(cx, x, 0.0)?, number(cx, x, f64::NAN)?);
    let (none, minus) = (cx.b.scalar(F::Eq, &[x, zero])?, cx.b.neg(x)?);
    let limit = cx.b.scalar(F::Reciprocal, &[minus])?;
    let out = cx.b.where_(none, limit, out)?;
    let floor = cx.b.scalar(F::Floor, &[x])?;
    let (integral, negative) = (cx.b.scalar(F::Eq, &[floor, x])?, cx.b.scalar(F::Lt, &[x, zero])?);
    let pole = cx.b.scalar(F::LogicalAnd, &[integral, negative])?;
    cx.b.where_(pole, nan, out)
}

/// `cot(pi x)` where it is used.
fn cotangent(cx: &mut Cx, x: Value, used: Value) -> Result<Value, String> {
    let angle = fraction(cx, x, used)?;
    let angle = cx.b.scale(angle, PI)?;
    let (sine, cosine) = (cx.b.scalar(F::Sin, &[angle])?, cx.b.scalar(F::Cos, &[angle])?);
    cx.b.div(cosine, sine)
}

/// The `n`-th derivative of digamma: `(-1)^(n+1) n! zeta(n + 1, x)` by Euler and Maclaurin's sum; below one half by the
/// derivatives of `digamma(1 - x) - digamma(x) = pi cot(pi x)`, which are polynomials in the cotangent.
fn polygamma(cx: &mut Cx, x: Value, n: i32) -> Result<Value, String> {
    let (low, z) = reflected(cx, x)?;
    let s = f64::from(n + 1);
    let mut sum = number(cx, x, 0.0)?;
    for k in 0..SHIFT {
        let k = number(cx, x, f64::from(k))?;
        let at = cx.b.add(z, k)?;
        let term = power(cx, at, n + 1)?;
        sum = cx.b.add(sum, term)?;
    }
    let shift = number(cx, x, f64::from(SHIFT))?;
    let w = cx.b.add(z, shift)?;
    let (tail, last) = (power(cx, w, n)?, power(cx, w, n + 1)?);
    let (tail, half) = (cx.b.scale(tail, 1.0 / (s - 1.0))?, cx.b.scale(last, 0.5)?);
    sum = cx.b.add(sum, tail)?;
    sum = cx.b.add(sum, half)?;
    let inverse = cx.b.scalar(F::Reciprocal, &[w])?;
    let square = cx.b.mul(inverse, inverse)?;
    // B_2k / (2k)! s (s + 1) ... (s + 2k - 2) w^-(s + 2k - 1)
    let (mut factor, mut coefficients) = (s / 2.0, vec![]);
    for (k, b) in BERNOULLI.iter().enumerate() {
        coefficients.push(b * factor);
        let m = 2.0 * (k + 1) as f64;
        factor *= (s + m - 1.0) * (s + m) / ((m + 1.0) * (m + 2.0));
    }
    coefficients.reverse();
    let series = horner(cx, square, &coefficients)?;
    let series = cx.b.mul(series, inverse)?;
    let series = cx.b.mul(series, last)?;
    sum = cx.b.add(sum, series)?;
    let factorial: f64 = (1..=n).map(f64::from).product();
    let sign = if n % 2 == 0 { -1.0 } else { 1.0 };
    let value = cx.b.scale(sum, sign * factorial)?;
    let cotangent = cotangent(cx, x, low)?;
    let slope = horner(cx, cotangent, &cotangent_derivative(n))?;
    let slope = cx.b.scale(slope, PI.powi(n + 1))?;
    let mirrored = if n % 2 == 0 { cx.b.sub(value, slope)? } else { cx.b.add(value, slope)? };
    let mirrored = if n % 2 == 0 { mirrored } else { cx.b.neg(mirrored)? };
    cx.b.where_(low, mirrored, value)
}

/// `x^-n` by products.
fn power(cx: &mut Cx, x: Value, n: i32) -> Result<Value, String> {
    let inverse = cx.b.scalar(F::Reciprocal, &[x])?;
    let (mut out, mut base, mut left) = (None, inverse, n);
    while left > 0 {
        if left % 2 == 1 {
            out = Some(match out {
                Some(before) => cx.b.mul(before, base)?,
                None => base,
            });
        }
        left /= 2;
        if left > 0 {
            base = cx.b.mul(base, base)?;
        }
    }
    out.ok_or_else(|| "the power zero".into())
}

/// The polynomial `p` with `d^n/dx^n cot(x) = p(cot(x))`, highest coefficient first.
fn cotangent_derivative(n: i32) -> Vec<f64> {
    let mut p = vec![0.0, 1.0];
    for _ in 0..n {
        // d/dx p(c) = -(1 + c^2) p'(c)
        let mut next = vec![0.0; p.len() + 1];
        for (k, x) in p.iter().enumerate().skip(1) {
            next[k - 1] -= k as f64 * x;
            next[k + 1] -= k as f64 * x;
        }
        p = next;
    }
    p.reverse();
    p
}
