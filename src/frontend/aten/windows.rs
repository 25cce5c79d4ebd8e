//! Windows of signal processing: numbers by their positions. Periodic ones, the default, are one position short of the symmetric
//! window of one more.

use super::args::{Args, Cx};
use super::bessel::modified_first;
use super::{Row, pure};
use crate::graph::Value;
use crate::scalar::ScalarFn as F;
use crate::types::DType;
use std::f64::consts::PI;

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["hann_window.default", "hann_window.periodic"], |cx, a| window(cx, a, |cx, at, steps| cosines(cx, at, steps, &[0.5, -0.5]))),
    pure(&["hamming_window.default", "hamming_window.periodic", "hamming_window.periodic_alpha", "hamming_window.periodic_alpha_beta"], |cx, a| {
        let (alpha, beta) = (a.float_or("alpha", 0.54)?, a.float_or("beta", 0.46)?);
        window(cx, a, |cx, at, steps| cosines(cx, at, steps, &[alpha, -beta]))
    }),
    pure(&["blackman_window.default", "blackman_window.periodic"], |cx, a| {
        window(cx, a, |cx, at, steps| cosines(cx, at, steps, &[0.42, -0.5, 0.08]))
    }),
    pure(&["bartlett_window.default", "bartlett_window.periodic"], |cx, a| {
        window(cx, a, |cx, at, steps| {
            let one = cx.b.constant(cx.b.dtype(at), 1.0)?;
            let from_middle = from_middle(cx, at, steps)?;
            let size = cx.b.scalar(F::Abs, &[from_middle])?;
            cx.b.sub(one, size)
        })
    }),
    pure(&["kaiser_window.default", "kaiser_window.periodic", "kaiser_window.beta"], |cx, a| {
        let beta = a.float_or("beta", 12.0)?;
        window(cx, a, |cx, at, steps| kaiser(cx, at, steps, beta))
    }),
];

/// A window whose numbers are a function of positions and of the last position's number; one position alone is 1.
fn window(cx: &mut Cx, a: &Args, f: impl FnOnce(&mut Cx, Value, f64) -> Result<Value, String>) -> Built {
    let (count, periodic) = (a.int_in("window_length", 0, 0..=1 << 40)?, a.bool_or("periodic", true)?);
    let dtype = a.dtype_opt("dtype")?.unwrap_or(DType::F32);
    if !dtype.is_float() {
        return Err(format!("a window of {dtype} is not supported"));
    }
    if count <= 1 {
        return Ok(vec![cx.b.full(dtype, 1.0, [count])?]);
    }
    let at = cx.b.iota(dtype.accumulator(), [count], 0)?;
    let numbers = f(cx, at, (count - 1 + periodic as i64) as f64)?;
    Ok(vec![cx.b.cast(numbers, dtype)?])
}

/// The sum of factors times cosines of 0, 1, ... turns over all steps.
fn cosines(cx: &mut Cx, at: Value, steps: f64, factors: &[f64]) -> Result<Value, String> {
    let mut sum = cx.b.constant(cx.b.dtype(at), factors[0])?;
    for (turns, &factor) in factors.iter().enumerate().skip(1) {
        let angle = cx.b.scale(at, 2.0 * PI * turns as f64 / steps)?;
        let cosine = cx.b.scalar(F::Cos, &[angle])?;
        let part = cx.b.scale(cosine, factor)?;
        sum = cx.b.add(sum, part)?;
    }
    Ok(sum)
}

/// Positions from -1 to 1.
fn from_middle(cx: &mut Cx, at: Value, steps: f64) -> Result<Value, String> {
    let (place, one) = (cx.b.scale(at, 2.0 / steps)?, cx.b.constant(cx.b.dtype(at), 1.0)?);
    cx.b.sub(place, one)
}

/// The Bessel function of `beta` times the height of a half circle over the position, over that of `beta`.
fn kaiser(cx: &mut Cx, at: Value, steps: f64, beta: f64) -> Result<Value, String> {
    let dtype = cx.b.dtype(at);
    let [zero, one, beta] = [0.0, 1.0, beta].map(|x| cx.b.constant(dtype, x));
    let (zero, one, beta) = (zero?, one?, beta?);
    let place = from_middle(cx, at, steps)?;
    let square = cx.b.mul(place, place)?;
    let rest = cx.b.sub(one, square)?;
    let rest = cx.b.scalar(F::Maximum, &[rest, zero])?;
    let height = cx.b.scalar(F::Sqrt, &[rest])?;
    let height = cx.b.mul(beta, height)?;
    let (above, below) = (modified_first(cx, height, 0, false)?, modified_first(cx, beta, 0, false)?);
    cx.b.div(above, below)
}
