//! The regularized incomplete gamma functions, by one quadrature for all arguments.
//!
//! With `t = x e^(±s)` in the integral from `x` upwards, or downwards, the integrand falls from one: for `x >= a` the upper function is
//! `x^a e^-x / gamma(a)` times the integral of `exp(a s - x (e^s - 1))` over positive `s`, and for `x < a` the lower one is as much times
//! that of `exp(-a s - x (e^-s - 1))`. Takahasi and Mori's exponential substitution ("Double exponential formulas for numerical
//! integration", 1974) in units of `1 / (|x - a| + sqrt(max(a, x)))` leaves errors below 1e-6 in f32 and 1e-9 in f64 from `a = 1` on, up to
//! a million; below, one step of the recurrence leads there.

use super::args::{Args, Cx};
use super::gamma::lgamma;
use super::opmath::{wide, with_partials};
use super::{Row, pure};
use crate::graph::Value;
use crate::ops::{Constancy, Constant, Detach, ReduceKind};
use crate::scalar::ScalarFn as F;
use crate::types::{DType, HostTensor, broadcast_shapes};
use std::f64::consts::FRAC_PI_2;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["igamma.default", "special_gammainc.default"], |cx, a| regularized(cx, a, false)),
    pure(&["igammac.default", "special_gammaincc.default"], |cx, a| regularized(cx, a, true)),
];

/// Points of the quadrature, and what it leaves out on both sides.
const POINTS: [(usize, f64, f64); 2] = [(48, -3.4, 2.2), (96, -3.8, 2.6)];

fn regularized(cx: &mut Cx, args: &Args, is_upper: bool) -> Result<Vec<Value>, String> {
    let (a, x) = (args.operand("self")?, args.operand("other")?);
    let dtype = cx.result_type(&[&a, &x]);
    let dtype = if dtype.is_float() { dtype } else { DType::F32 };
    let (a, x) = (cx.as_tensor(&a, dtype)?, cx.as_tensor(&x, dtype)?);
    let shape = broadcast_shapes(cx.b.shape(a), cx.b.shape(x))?;
    let (a, x) = (cx.b.broadcast_to(a, &shape)?, cx.b.broadcast_to(x, &shape)?);
    Ok(vec![wide(cx, [a, x], |cx, [a, x]| with_density(cx, a, x, is_upper))?])
}

/// The function with its derivative by `x`; that by `a` is not known, as in PyTorch.
fn with_density(cx: &mut Cx, a: Value, x: Value, is_upper: bool) -> Result<Value, String> {
    let [lower, upper] = both(cx, a, x)?;
    let one = number(cx, a, 1.0)?;
    let (power, gamma) = (cx.b.sub(a, one)?, lgamma(cx, a)?);
    let density = logarithm(cx, power, x, gamma)?;
    let density = cx.b.scalar(F::Exp, &[density])?;
    let partial = if is_upper { cx.b.neg(density)? } else { density };
    let (unknown, zero) = (cx.b.op(Detach { constancy: Constancy::Unknown }, &[a])?, number(cx, a, 0.0)?);
    with_partials(cx, if is_upper { upper } else { lower }, &[(x, partial), (unknown, zero)])
}

fn number(cx: &mut Cx, like: Value, k: f64) -> Result<Value, String> {
    cx.b.constant(cx.b.dtype(like), k)
}

/// `log(x^power e^-x)` less the logarithm of a gamma function.
fn logarithm(cx: &mut Cx, power: Value, x: Value, gamma: Value) -> Result<Value, String> {
    let log = cx.b.scalar(F::Log, &[x])?;
    let log = cx.b.mul(power, log)?;
    let log = cx.b.sub(log, x)?;
    cx.b.sub(log, gamma)
}

/// The lower and the upper function.
fn both(cx: &mut Cx, a: Value, x: Value) -> Result<[Value; 2], String> {
    let one = number(cx, a, 1.0)?;
    let (is_small, next) = (cx.b.scalar(F::Lt, &[a, one])?, cx.b.add(a, one)?);
    let large = cx.b.where_(is_small, next, a)?;
    let is_above = cx.b.scalar(F::Ge, &[x, large])?;
    let gamma = lgamma(cx, large)?;
    let front = logarithm(cx, large, x, gamma)?;
    let front = cx.b.scalar(F::Exp, &[front])?;
    let integral = integral(cx, large, x, is_above)?;
    let near = cx.b.mul(front, integral)?;
    let far = cx.b.sub(one, near)?;
    // Of `a` below one, from that of `a + 1`.
    let (step, zero) = (cx.b.div(front, x)?, number(cx, a, 0.0)?);
    let step = cx.b.where_(is_small, step, zero)?;
    let (lower, upper) = (cx.b.where_(is_above, far, near)?, cx.b.where_(is_above, near, far)?);
    let (lower, upper) = (cx.b.add(lower, step)?, cx.b.sub(upper, step)?);
    Ok([at_borders(cx, a, x, lower, [0.0, 1.0])?, at_borders(cx, a, x, upper, [1.0, 0.0])?])
}

/// The integral of what falls from one, over positive `s`.
fn integral(cx: &mut Cx, a: Value, x: Value, is_above: Value) -> Result<Value, String> {
    let (one, minus) = (number(cx, a, 1.0)?, number(cx, a, -1.0)?);
    let sign = cx.b.where_(is_above, one, minus)?;
    let (distance, most) = (cx.b.sub(x, a)?, cx.b.scalar(F::Maximum, &[a, x])?);
    let (distance, root) = (cx.b.scalar(F::Abs, &[distance])?, cx.b.scalar(F::Sqrt, &[most])?);
    let scale = cx.b.add(distance, root)?;
    let unit = cx.b.div(one, scale)?;
    let [points, weights] = quadrature(cx, cx.b.dtype(a))?;
    let rank = cx.b.shape(a).rank();
    let [a, x, sign, step] = [a, x, sign, unit].map(|v| cx.b.unsqueeze(v, rank));
    let (a, x, sign) = (a?, x?, sign?);
    let s = cx.b.mul(step?, points)?;
    let along = cx.b.mul(sign, s)?;
    let (rise, growth) = (cx.b.mul(a, along)?, cx.b.scalar(F::Expm1, &[along])?);
    let fall = cx.b.mul(x, growth)?;
    let exponent = cx.b.sub(rise, fall)?;
    let value = cx.b.scalar(F::Exp, &[exponent])?;
    let value = cx.b.mul(value, weights)?;
    let sum = cx.b.reduce(ReduceKind::Sum, value, &[rank], false)?;
    cx.b.mul(sum, unit)
}

/// Points and weights over positive numbers: `e^(pi/2 sinh t)` at equal distances of `t`.
fn quadrature(cx: &mut Cx, dtype: DType) -> Result<[Value; 2], String> {
    let (count, from, to) = POINTS[(dtype == DType::F64) as usize];
    let step = (to - from) / (count - 1) as f64;
    let at = |i: usize| from + step * i as f64;
    let point = |t: f64| (FRAC_PI_2 * t.sinh()).exp();
    let points: Vec<f64> = (0..count).map(|i| point(at(i))).collect();
    let weights: Vec<f64> = (0..count).map(|i| step * FRAC_PI_2 * at(i).cosh() * point(at(i))).collect();
    let [points, weights] = [points, weights].map(|v| cx.b.op(Constant::from_host(&HostTensor::from_f64(dtype, &[count], &v)), &[]));
    Ok([points?, weights?])
}

/// What the function is where `x` is zero and where it is infinite, for an `a` in between; the other way round in `a`; NaN where that
/// says both, and of negative numbers.
fn at_borders(cx: &mut Cx, a: Value, x: Value, value: Value, [first, last]: [f64; 2]) -> Result<Value, String> {
    let [zero, nan, first, last] = [0.0, f64::NAN, first, last].map(|k| number(cx, a, k));
    let (zero, nan, first, last) = (zero?, nan?, first?, last?);
    let mut ends = |v: Value| -> Result<[Value; 3], String> {
        Ok([cx.b.scalar(F::Eq, &[v, zero])?, cx.b.scalar(F::IsInf, &[v])?, cx.b.scalar(F::Lt, &[v, zero])?])
    };
    let ([a_zero, a_infinite, a_negative], [x_zero, x_infinite, x_negative]) = (ends(a)?, ends(x)?);
    let mut choose = |conditions: [Value; 2], of: F, chosen: Value, rest: Value| {
        let condition = cx.b.scalar(of, &conditions)?;
        cx.b.where_(condition, chosen, rest)
    };
    let value = choose([x_zero, a_infinite], F::LogicalOr, first, value)?;
    let value = choose([x_infinite, a_zero], F::LogicalOr, last, value)?;
    let value = choose([x_zero, a_zero], F::LogicalAnd, nan, value)?;
    let value = choose([x_infinite, a_infinite], F::LogicalAnd, nan, value)?;
    choose([x_negative, a_negative], F::LogicalOr, nan, value)
}
