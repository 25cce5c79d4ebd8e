//! Random draws: keys come from the program's one key by streams in order of the calls.

use super::args::{Args, Cx, Operand, Scalar};
use super::gradients::detached;
use super::{Row, pure};
use crate::graph::Value;
use crate::scalar::ScalarFn as F;
use crate::types::{DType, Dim, Shape, broadcast_shapes};

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["dropout.default"], |cx, a| {
        dropped(cx, a, |cx, x, p| {
            let key = cx.key()?;
            cx.b.dropout(x, key, p)
        })
    }),
    pure(&["feature_dropout.default"], |cx, a| {
        dropped(cx, a, |cx, x, p| {
            let kept = kept(cx, feature_shape(cx, x), p)?;
            let (zero, scaled) = (cx.b.constant(cx.b.dtype(x), 0.0)?, if p < 1.0 { cx.b.scale(x, 1.0 / (1.0 - p))? } else { x });
            cx.b.where_(kept, scaled, zero)
        })
    }),
    pure(&["alpha_dropout.default"], |cx, a| dropped(cx, a, |cx, x, p| alpha_dropout(cx, x, p, cx.shape(x)))),
    pure(&["feature_alpha_dropout.default"], |cx, a| dropped(cx, a, |cx, x, p| alpha_dropout(cx, x, p, feature_shape(cx, x)))),
    pure(&["rrelu.default"], |cx, a| Ok(vec![rrelu(cx, a)?.0])),
    pure(&["rrelu_with_noise.default"], |cx, a| {
        let (y, slope) = rrelu(cx, a)?;
        if let Some(slope) = slope {
            cx.write("noise", slope);
        }
        Ok(vec![y])
    }),
    pure(&["rrelu_with_noise_functional.default"], |cx, a| {
        let (y, slope) = rrelu(cx, a)?;
        Ok(vec![y, slope.map_or_else(|| a.tensor("noise"), Ok)?])
    }),
    pure(&["randint.default", "randint.low"], |cx, a| {
        let shape = Shape::new(a.dims("size")?);
        integers(cx, a, shape, a.dtype_opt("dtype")?.unwrap_or(DType::I64))
    }),
    pure(&["randint_like.default", "randint_like.low_dtype"], |cx, a| {
        let x = a.tensor("self")?;
        integers(cx, a, cx.shape(x), a.dtype_opt("dtype")?.unwrap_or(cx.b.dtype(x)))
    }),
    pure(&["randperm.default"], |cx, a| {
        let (key, n) = (cx.key()?, a.dim("n")?);
        let draws = cx.b.uniform(key, [n])?;
        let order = cx.b.sort(draws, 0, false)?.1;
        Ok(vec![cx.b.cast(order, a.dtype_opt("dtype")?.unwrap_or(DType::I64))?])
    }),
    pure(&["cauchy.default"], |cx, a| {
        let (x, median, sigma) = (a.tensor("self")?, a.float_or("median", 0.0)?, a.float_or("sigma", 1.0)?);
        let u = draw(cx, x)?;
        let half = cx.b.constant(DType::F32, 0.5)?;
        let u = cx.b.sub(u, half)?;
        let angle = cx.b.scale(u, std::f64::consts::PI)?;
        let tangent = cx.b.scalar(F::Tan, &[angle])?;
        let (scaled, median) = (cx.b.scale(tangent, sigma)?, cx.b.constant(DType::F32, median)?);
        let out = cx.b.add(scaled, median)?;
        like(cx, x, out)
    }),
    pure(&["log_normal.default"], |cx, a| {
        let (x, mean, std) = (a.tensor("self")?, a.float_or("mean", 1.0)?, a.float_or("std", 2.0)?);
        let n = normal(cx, cx.shape(x))?;
        let (scaled, mean) = (cx.b.scale(n, std)?, cx.b.constant(DType::F32, mean)?);
        let log = cx.b.add(scaled, mean)?;
        let out = cx.b.scalar(F::Exp, &[log])?;
        like(cx, x, out)
    }),
    pure(&["geometric.default"], |cx, a| {
        let (x, p) = (a.tensor("self")?, a.float("p")?);
        let u = draw(cx, x)?;
        let minus = cx.b.neg(u)?;
        let log = cx.b.scalar(F::Log1p, &[minus])?;
        let trials = cx.b.scale(log, 1.0 / (-p).ln_1p())?;
        let (trials, one) = (cx.b.scalar(F::Ceil, &[trials])?, cx.b.constant(DType::F32, 1.0)?);
        let out = cx.b.scalar(F::Maximum, &[trials, one])?;
        like(cx, x, out)
    }),
    pure(&["native_dropout.default"], native_dropout),
    pure(&["rand.default"], |cx, a| {
        let shape = Shape::new(a.dims("size")?);
        uniform(cx, shape, a.dtype_opt("dtype")?.unwrap_or(DType::F32))
    }),
    pure(&["rand_like.default"], |cx, a| {
        let x = a.tensor("self")?;
        let (shape, dtype) = (cx.shape(x), a.dtype_opt("dtype")?.unwrap_or(cx.b.dtype(x)));
        uniform(cx, shape, dtype)
    }),
    pure(&["uniform.default"], |cx, a| {
        let (x, from, to) = (a.tensor("self")?, a.float_or("from", 0.0)?, a.float_or("to", 1.0)?);
        let u = draw(cx, x)?;
        let (scaled, from) = (cx.b.scale(u, to - from)?, cx.b.constant(cx.b.dtype(u), from)?);
        let out = cx.b.add(scaled, from)?;
        like(cx, x, out)
    }),
    pure(&["randn.default"], |cx, a| {
        let shape = Shape::new(a.dims("size")?);
        let x = normal(cx, shape)?;
        Ok(vec![cx.b.cast(x, a.dtype_opt("dtype")?.unwrap_or(DType::F32))?])
    }),
    pure(&["randn_like.default"], |cx, a| {
        let x = a.tensor("self")?;
        let (shape, dtype) = (cx.shape(x), a.dtype_opt("dtype")?.unwrap_or(cx.b.dtype(x)));
        let out = normal(cx, shape)?;
        Ok(vec![cx.b.cast(out, dtype)?])
    }),
    pure(&["normal.default", "normal_functional.default", "normal.Tensor_Tensor", "normal.Tensor_float", "normal.float_Tensor"], |cx, a| {
        let operand = |name: &str, default: f64| if a.has(name) { a.operand(name) } else { Ok(Operand::Scalar(Scalar::Float(default))) };
        let (mean, std) = (operand("mean", 0.0)?, operand("std", 1.0)?);
        let mut shape = Shape::scalar();
        for operand in [a.operand("self").ok(), Some(mean.clone()), Some(std.clone())].into_iter().flatten() {
            if let Operand::Tensor(v) = operand {
                shape = broadcast_shapes(&shape, cx.b.shape(v))?;
            }
        }
        let dtype = [a.operand("self").ok(), Some(mean.clone()), Some(std.clone())].iter().flatten().find_map(|o| match o {
            Operand::Tensor(v) => Some(cx.b.dtype(*v)),
            Operand::Scalar(_) => None,
        });
        // PyTorch gives no gradient to what a draw is parameterized by.
        let mut fixed = |operand: &Operand| {
            let value = cx.as_tensor(operand, DType::F32)?;
            detached(&mut cx.b, value)
        };
        let (mean, std) = (fixed(&mean)?, fixed(&std)?);
        let x = normal(cx, shape)?;
        let x = cx.b.mul(x, std)?;
        let x = cx.b.add(x, mean)?;
        Ok(vec![cx.b.cast(x, dtype.unwrap_or(DType::F32))?])
    }),
    pure(&["exponential.default"], |cx, a| {
        let (x, rate) = (a.tensor("self")?, a.float_or("lambd", 1.0)?);
        let u = draw(cx, x)?;
        let minus = cx.b.neg(u)?;
        let log = cx.b.scalar(F::Log1p, &[minus])?;
        let out = cx.b.scale(log, -1.0 / rate)?;
        like(cx, x, out)
    }),
    // In place it takes its probability from its argument, which is one half when it is not given.
    pure(&["bernoulli.p", "bernoulli.default", "bernoulli.float", "bernoulli.Tensor"], |cx, a| {
        let x = a.tensor("self")?;
        let u = draw(cx, x)?;
        let p = if a.has("p") { a.operand("p")? } else { Operand::Tensor(x) };
        let p = cx.as_tensor(&p, DType::F32)?;
        let hit = cx.b.scalar(F::Lt, &[u, p])?;
        like(cx, x, hit)
    }),
];

/// The tensor as it is where nothing is dropped, else what `f` makes of it and the share that is dropped.
fn dropped(cx: &mut Cx, a: &Args, f: fn(&mut Cx, Value, f64) -> Result<Value, String>) -> Built {
    let (x, p) = (a.tensor(if a.has("input") { "input" } else { "self" })?, a.float("p")?);
    let train = a.bool_or("train", true)?;
    Ok(vec![if train && p > 0.0 { f(cx, x, p)? } else { x }])
}

/// Which of so many are kept, when each is dropped with probability `p`.
fn kept(cx: &mut Cx, shape: Shape, p: f64) -> Result<Value, String> {
    if p >= 1.0 {
        return cx.b.full(DType::Bool, 0.0, shape);
    }
    let key = cx.key()?;
    cx.b.bernoulli(key, shape, p)
}

/// One draw for each channel of each instance.
fn feature_shape(cx: &Cx, x: Value) -> Shape {
    Shape::new(cx.shape(x).0.into_iter().enumerate().map(|(d, n)| if d < 2 { n } else { Dim::int(1) }).collect())
}

/// Dropout to the negative saturation of SELU, `-alpha scale`, with mean and variance restored ("Self-normalizing neural
/// networks", 2017).
fn alpha_dropout(cx: &mut Cx, x: Value, p: f64, draws: Shape) -> Result<Value, String> {
    const SATURATION: f64 = 1.758_099_340_847_376_6;
    if p >= 1.0 {
        return cx.b.scale(x, 0.0);
    }
    let kept = kept(cx, draws, p)?;
    let factor = 1.0 / ((SATURATION * SATURATION * p + 1.0) * (1.0 - p)).sqrt();
    let dtype = cx.b.dtype(x);
    let (shift, zero) = (SATURATION * factor * p, cx.b.constant(dtype, 0.0)?);
    let (high, low) = (cx.b.constant(dtype, shift)?, cx.b.constant(dtype, shift - SATURATION * factor)?);
    let scaled = cx.b.scale(x, factor)?;
    let (value, offset) = (cx.b.where_(kept, scaled, zero)?, cx.b.where_(kept, high, low)?);
    cx.b.add(value, offset)
}

/// The result, and while training the slope at each element: a draw where it is not positive, else one.
fn rrelu(cx: &mut Cx, a: &Args) -> Result<(Value, Option<Value>), String> {
    let (x, low, high) = (a.tensor("self")?, a.float_or("lower", 0.125)?, a.float_or("upper", 1.0 / 3.0)?);
    a.disregard(&["noise"]);
    let (dtype, zero) = (cx.b.dtype(x), cx.b.constant(cx.b.dtype(x), 0.0)?);
    let positive = cx.b.scalar(F::Gt, &[x, zero])?;
    if !a.bool_or("training", false)? {
        let scaled = cx.b.scale(x, (low + high) / 2.0)?;
        return Ok((cx.b.where_(positive, x, scaled)?, None));
    }
    let u = draw(cx, x)?;
    let (scaled, from) = (cx.b.scale(u, high - low)?, cx.b.constant(DType::F32, low)?);
    let drawn = cx.b.add(scaled, from)?;
    let (drawn, one) = (cx.b.cast(drawn, dtype)?, cx.b.constant(dtype, 1.0)?);
    let slope = cx.b.where_(positive, one, drawn)?;
    Ok((cx.b.mul(x, slope)?, Some(slope)))
}

/// Integers from `low` (or zero) to below `high`.
fn integers(cx: &mut Cx, a: &Args, shape: Shape, dtype: DType) -> Built {
    let (low, high) = (a.int_or("low", 0)?, a.int("high")?);
    let span =
        high.checked_sub(low).filter(|n| (1..=1 << 24).contains(n)).ok_or_else(|| format!("{low} to {high} is no range of up to 2^24 integers"))?;
    let key = cx.key()?;
    let u = cx.b.uniform(key, shape)?;
    let scaled = cx.b.scale(u, span as f64)?;
    let (whole, last) = (cx.b.scalar(F::Floor, &[scaled])?, cx.b.constant(DType::F32, (span - 1) as f64)?);
    let whole = cx.b.scalar(F::Minimum, &[whole, last])?;
    let whole = cx.b.cast(whole, DType::I64)?;
    let low = cx.number(&Scalar::Int(Dim::int(low)), DType::I64)?;
    let out = cx.b.add(whole, low)?;
    Ok(vec![cx.b.cast(out, dtype)?])
}

/// Uniform f32 numbers, one for each element of a tensor.
fn draw(cx: &mut Cx, x: Value) -> Result<Value, String> {
    let (key, shape) = (cx.key()?, cx.shape(x));
    cx.b.uniform(key, shape)
}

/// In the dtype of a tensor.
fn like(cx: &mut Cx, x: Value, out: Value) -> Built {
    let dtype = cx.b.dtype(x);
    Ok(vec![cx.b.cast(out, dtype)?])
}

fn normal(cx: &mut Cx, shape: Shape) -> Result<Value, String> {
    let keys = [cx.key()?, cx.key()?];
    cx.b.normal(keys, shape)
}

fn uniform(cx: &mut Cx, shape: Shape, dtype: DType) -> Built {
    let key = cx.key()?;
    let x = cx.b.uniform(key, shape)?;
    Ok(vec![cx.b.cast(x, dtype)?])
}

/// The result and the mask of what is kept.
fn native_dropout(cx: &mut Cx, a: &Args) -> Built {
    let (x, p) = (a.tensor("input")?, a.float("p")?);
    let shape = cx.shape(x);
    if !a.bool_or("train", true)? || p == 0.0 {
        return Ok(vec![x, cx.b.full(DType::Bool, 1.0, shape)?]);
    }
    let dtype = cx.b.dtype(x);
    let zero = cx.b.constant(dtype, 0.0)?;
    let mask = if p < 1.0 {
        let key = cx.key()?;
        cx.b.bernoulli(key, shape.clone(), p)?
    } else {
        cx.b.full(DType::Bool, 0.0, shape.clone())?
    };
    let scaled = if p < 1.0 { cx.b.scale(x, 1.0 / (1.0 - p))? } else { x };
    Ok(vec![cx.b.where_(mask, scaled, zero)?, mask])
}
