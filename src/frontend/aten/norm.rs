//! Normalizations and activations with their own derivative.

use super::args::{Args, Cx, promote};
use super::opmath::{flag, with_partials};
use super::pointwise::composed;
use super::{Row, pure};
use crate::graph::Value;
use crate::ops::ReduceKind;
use crate::scalar::ScalarFn as F;
use crate::types::{DType, Dim, Shape};

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["_softmax.default", "softmax.int", "special_softmax.default", "special_softmax.int"], |cx, a| softmax(cx, a, false)),
    pure(&["_safe_softmax.default"], safe_softmax),
    pure(&["_log_softmax.default", "log_softmax.int", "special_log_softmax.default", "special_log_softmax.int"], |cx, a| softmax(cx, a, true)),
    pure(&["layer_norm.default"], |cx, a| Ok(vec![layer_norm(cx, a)?.0])),
    pure(&["native_layer_norm.default"], |cx, a| {
        let (y, x, dims) = layer_norm(cx, a)?;
        let (mean, rstd) = statistics(cx, x, &dims, a.float("eps")?)?;
        Ok(vec![y, mean, rstd])
    }),
    pure(&["rms_norm.default", "_fused_rms_norm.default"], |cx, a| {
        let x = a.tensor("input")?;
        let dims = a.dims("normalized_shape")?.len();
        let eps = match a.has("eps") {
            true => a.float("eps")?,
            false if cx.b.dtype(x) == DType::F64 => f64::EPSILON,
            false => f32::EPSILON as f64,
        };
        let (of_scale, [weight]) = of_one_dtype(cx, x, [a.tensor_opt("weight")?])?;
        let y = cx.b.rms_norm(of_scale, dims, weight, eps)?;
        let y = cx.b.cast(y, cx.b.dtype(x))?;
        let wide = cx.b.cast(x, cx.b.dtype(x).accumulator())?;
        let square = cx.b.mul(wide, wide)?;
        let rank = cx.b.shape(x).rank();
        let mean = cx.b.mean(square, &(rank - dims..rank).collect::<Vec<_>>(), true)?;
        let eps = cx.b.constant(cx.b.dtype(mean), eps)?;
        let shifted = cx.b.add(mean, eps)?;
        Ok(vec![y, cx.b.scalar(F::Rsqrt, &[shifted])?])
    }),
    pure(&["_weight_norm.default"], |cx, a| Ok(vec![weight_norm(cx, a)?.0])),
    pure(&["_weight_norm_interface.default"], |cx, a| {
        let (y, norm) = weight_norm(cx, a)?;
        Ok(vec![y, norm])
    }),
    pure(&["norm_except_dim.default"], |cx, a| {
        let (v, p, dim) = (a.tensor("v")?, a.float_or("pow", 2.0)?, a.int_or("dim", 0)?);
        Ok(vec![norm_except(cx, v, p, dim)?])
    }),
    pure(&["gelu.default"], |cx, a| {
        let x = a.tensor("self")?;
        let approximate = a.text_or("approximate", "none")? == "tanh";
        Ok(vec![cx.b.gelu(x, approximate)?])
    }),
    pure(&["silu.default"], |cx, a| {
        let x = a.tensor("self")?;
        Ok(vec![cx.b.silu(x)?])
    }),
    pure(&["leaky_relu.default"], |cx, a| {
        let x = a.tensor("self")?;
        let scaled = cx.b.scale(x, a.float_or("negative_slope", 0.01)?)?;
        piecewise(cx, x, 0.0, x, scaled)
    }),
    pure(&["softplus.default"], softplus),
    pure(&["hardsigmoid.default"], |cx, a| {
        composed(cx, a, |cx, x| {
            let (y, _) = hard_sigmoid(cx, x)?;
            let inside = inside(cx, x)?;
            let slope = cx.b.scale(inside, 1.0 / 6.0)?;
            with_partials(cx, y, &[(x, slope)])
        })
    }),
    pure(&["hardswish.default"], |cx, a| {
        composed(cx, a, |cx, x| {
            let (y, below) = hard_sigmoid(cx, x)?;
            let y = cx.b.mul(x, y)?;
            let dtype = cx.b.dtype(x);
            let [zero, half, one, high] = [0.0, 0.5, 1.0, 3.0].map(|k| cx.b.constant(dtype, k));
            let third = cx.b.scale(x, 1.0 / 3.0)?;
            let slope = cx.b.add(third, half?)?;
            let bent = cx.b.scalar(F::Lt, &[x, high?])?;
            let partial = cx.b.where_(bent, slope, one?)?;
            let partial = cx.b.where_(below, zero?, partial)?;
            with_partials(cx, y, &[(x, partial)])
        })
    }),
    pure(&["mish.default"], |cx, a| {
        composed(cx, a, |cx, x| {
            let y = smooth(cx, x, 1.0, 20.0)?;
            let y = cx.b.scalar(F::Tanh, &[y])?;
            cx.b.mul(x, y)
        })
    }),
    pure(&["log_sigmoid.default", "logsigmoid.default"], |cx, a| {
        composed(cx, a, |cx, x| {
            let minus = cx.b.neg(x)?;
            let y = softplus_exact(cx, minus)?;
            cx.b.neg(y)
        })
    }),
];

/// The norm over all dimensions but one, which are kept; over all of them, not kept, for the dimension -1.
fn norm_except(cx: &mut Cx, v: Value, p: f64, dim: i64) -> Result<Value, String> {
    let kept = if dim == -1 { None } else { Some(cx.dim(v, dim)?) };
    let dims: Vec<usize> = (0..cx.b.shape(v).rank()).filter(|&d| Some(d) != kept).collect();
    super::reduce::norm(cx, v, p, &dims, kept.is_some())
}

/// `v g / |v|`, and `|v|`.
fn weight_norm(cx: &mut Cx, a: &Args) -> Result<(Value, Value), String> {
    let (v, g) = (a.tensor("v")?, a.tensor("g")?);
    let norm = norm_except(cx, v, 2.0, a.int_or("dim", 0)?)?;
    let scale = cx.b.div(g, norm)?;
    Ok((cx.b.mul(v, scale)?, norm))
}

fn softmax(cx: &mut Cx, a: &Args, log: bool) -> Built {
    let x = a.tensor("self")?;
    let own = cx.b.dtype(x);
    let widen_to_float = a.bool_or("half_to_float", false)?;
    let dtype = a.dtype_opt("dtype")?.unwrap_or(if widen_to_float || !own.is_float() { DType::F32 } else { own });
    let x = cx.b.cast(x, dtype)?;
    let (shape, dim) = (cx.shape(x), cx.dim(x, a.int("dim")?)?);
    let x = cx.at_least_1d(x)?;
    if shape.numel().is(0) {
        return Ok(vec![x]);
    }
    let y = if log { cx.b.log_softmax(x, dim)? } else { cx.b.softmax(x, dim)? };
    Ok(vec![cx.b.reshape(y, shape)?])
}

/// Softmax whose rows of nothing but minus infinity are zero, and take no gradient.
fn safe_softmax(cx: &mut Cx, a: &Args) -> Built {
    let mut x = a.tensor("self")?;
    let own = cx.b.dtype(x);
    let dtype = a.dtype_opt("dtype")?.unwrap_or(if own.is_float() { own } else { DType::F32 });
    x = cx.b.cast(x, dtype)?;
    let (shape, dim) = (cx.shape(x), cx.dim(x, a.int("dim")?)?);
    let x = cx.at_least_1d(x)?;
    if shape.numel().is(0) {
        return Ok(vec![x]);
    }
    let y = without_dead_rows(cx, x, dim)?;
    Ok(vec![cx.b.reshape(y, shape)?])
}

/// Softmax along `dim`; zero, without a gradient, where all elements are minus infinity.
pub fn without_dead_rows(cx: &mut Cx, x: Value, dim: usize) -> Result<Value, String> {
    let dtype = cx.b.dtype(x);
    let (low, zero) = (cx.b.constant(dtype, f64::NEG_INFINITY)?, cx.b.constant(dtype, 0.0)?);
    let masked = cx.b.scalar(F::Eq, &[x, low])?;
    let dead = cx.b.reduce(ReduceKind::All, masked, &[dim], true)?;
    let safe = cx.b.where_(dead, zero, x)?;
    let y = cx.b.softmax(safe, dim)?;
    cx.b.where_(dead, zero, y)
}

/// The result, the operand, and the dimensions normalized over.
fn layer_norm(cx: &mut Cx, a: &Args) -> Result<(Value, Value, Vec<usize>), String> {
    let x = a.tensor("input")?;
    let count = a.dims("normalized_shape")?.len();
    let (weight, bias) = (a.tensor_opt("weight")?, a.tensor_opt("bias")?);
    let eps = a.float_or("eps", 1e-5)?;
    let rank = cx.b.shape(x).rank();
    let first = rank.checked_sub(count).ok_or("it normalizes over more dimensions than there are")?;
    let (wide, [weight, bias]) = of_one_dtype(cx, x, [weight, bias])?;
    let y = match (weight, bias) {
        (None, Some(bias)) => {
            let y = cx.b.layer_norm(wide, count, None, None, eps)?;
            cx.b.add(y, bias)?
        }
        _ => cx.b.layer_norm(wide, count, weight, bias, eps)?,
    };
    let y = cx.b.cast(y, cx.b.dtype(x))?;
    Ok((y, x, (first..rank).collect()))
}

/// A tensor and its scales in one dtype: half floats may have scales of f32, by which they are computed before they are rounded.
fn of_one_dtype<const N: usize>(cx: &mut Cx, x: Value, scales: [Option<Value>; N]) -> Result<(Value, [Option<Value>; N]), String> {
    let dtype = scales.iter().flatten().fold(cx.b.dtype(x), |dtype, &v| promote(dtype, cx.b.dtype(v)));
    let mut scales = scales;
    for v in scales.iter_mut().flatten() {
        *v = cx.b.cast(*v, dtype)?;
    }
    Ok((cx.b.cast(x, dtype)?, scales))
}

/// Mean and `1 / sqrt(var + eps)`, kept, in f32 for half floats.
pub fn statistics(cx: &mut Cx, x: Value, dims: &[usize], eps: f64) -> Result<(Value, Value), String> {
    let wide = cx.b.dtype(x).accumulator();
    let x = cx.b.cast(x, wide)?;
    let mean = cx.b.mean(x, dims, true)?;
    let var = cx.b.var(x, dims, 0, true)?;
    let eps = cx.b.constant(wide, eps)?;
    let shifted = cx.b.add(var, eps)?;
    Ok((mean, cx.b.scalar(F::Rsqrt, &[shifted])?))
}

/// `above` where `x > at`, else `below`.
fn piecewise(cx: &mut Cx, x: Value, at: f64, above: Value, below: Value) -> Built {
    let at = cx.b.constant(cx.b.dtype(x), at)?;
    let is_above = cx.b.scalar(F::Gt, &[x, at])?;
    Ok(vec![cx.b.where_(is_above, above, below)?])
}

fn softplus(cx: &mut Cx, a: &Args) -> Built {
    let (beta, threshold) = (a.float_or("beta", 1.0)?, a.float_or("threshold", 20.0)?);
    composed(cx, a, |cx, x| smooth(cx, x, beta, threshold))
}

/// `log(1 + e^(beta x)) / beta`, and `x` itself where `beta x` is above the threshold.
fn smooth(cx: &mut Cx, x: Value, beta: f64, threshold: f64) -> Result<Value, String> {
    let scaled = cx.b.scale(x, beta)?;
    let y = softplus_exact(cx, scaled)?;
    let y = cx.b.scale(y, 1.0 / beta)?;
    let (threshold, one) = (cx.b.constant(cx.b.dtype(x), threshold)?, cx.b.constant(cx.b.dtype(x), 1.0)?);
    let straight = cx.b.scalar(F::Gt, &[scaled, threshold])?;
    let y = cx.b.where_(straight, x, y)?;
    let slope = cx.b.scalar(F::Sigmoid, &[scaled])?;
    let partial = cx.b.where_(straight, one, slope)?;
    with_partials(cx, y, &[(x, partial)])
}

/// `log(1 + e^x) = max(x, 0) + log1p(e^-|x|)`, which does not overflow.
fn softplus_exact(cx: &mut Cx, x: Value) -> Result<Value, String> {
    let zero = cx.b.constant(cx.b.dtype(x), 0.0)?;
    let positive = cx.b.scalar(F::Ge, &[x, zero])?;
    let minus = cx.b.neg(x)?;
    let below = cx.b.where_(positive, minus, x)?;
    let e = cx.b.scalar(F::Exp, &[below])?;
    let log = cx.b.scalar(F::Log1p, &[e])?;
    let high = cx.b.where_(positive, x, zero)?;
    cx.b.add(high, log)
}

/// `min(max(x + 3, 0), 6) / 6`, and whether it is between its bounds.
fn hard_sigmoid(cx: &mut Cx, x: Value) -> Result<(Value, Value), String> {
    let dtype = cx.b.dtype(x);
    let [three, low, high, zero, one] = [3.0, -3.0, 3.0, 0.0, 1.0].map(|k| cx.b.constant(dtype, k));
    let (below, above) = (cx.b.scalar(F::Le, &[x, low?])?, cx.b.scalar(F::Ge, &[x, high?])?);
    let line = cx.b.add(x, three?)?;
    let line = cx.b.scale(line, 1.0 / 6.0)?;
    let y = cx.b.where_(below, zero?, line)?;
    let y = cx.b.where_(above, one?, y)?;
    Ok((y, below))
}

/// One where `-3 < x < 3`, else zero.
fn inside(cx: &mut Cx, x: Value) -> Result<Value, String> {
    let dtype = cx.b.dtype(x);
    let (size, bound) = (cx.b.scalar(F::Abs, &[x])?, cx.b.constant(dtype, 3.0)?);
    let inside = cx.b.scalar(F::Lt, &[size, bound])?;
    flag(cx, inside, dtype)
}

/// The shape in which per-channel values broadcast against a tensor whose channels are dimension 1.
pub fn channel_shape(channels: &Dim, rank: usize) -> Shape {
    let mut shape = vec![Dim::int(1); rank];
    if let Some(d) = shape.get_mut(1) {
        *d = channels.clone();
    }
    Shape::new(shape)
}
