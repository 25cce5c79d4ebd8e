//! Random draws: keys come from the program's one key by streams in order of the calls.

use super::{Row, pure};
use crate::frontend::torch_export::args::{Args, Cx, Operand, Scalar};
use crate::graph::Value;
use crate::scalar::ScalarFn as F;
use crate::types::{DType, Shape, broadcast_shapes};

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["dropout.default", "feature_dropout.default", "alpha_dropout.default"], |cx, a| {
        let (x, p) = (a.tensor("input")?, a.float("p")?);
        if !a.bool_or("train", true)? || p == 0.0 {
            return Ok(vec![x]);
        }
        let key = cx.key()?;
        Ok(vec![cx.b.dropout(x, key, p)?])
    }),
    pure(&["native_dropout.default"], native_dropout),
    pure(&["rand.default"], |cx, a| {
        let shape = Shape(a.dims("size")?);
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
        let shape = Shape(a.dims("size")?);
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
            cx.b.scalar(F::Detach, &[value])
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
    pure(&["bernoulli.p", "bernoulli.default"], |cx, a| {
        let x = a.tensor("self")?;
        let u = draw(cx, x)?;
        let p = if a.has("p") { cx.b.constant(DType::F32, a.float("p")?)? } else { cx.b.cast(x, DType::F32)? };
        let hit = cx.b.scalar(F::Lt, &[u, p])?;
        like(cx, x, hit)
    }),
];

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

/// Normal numbers by Box and Muller's transform: `sqrt(-2 log(1 - u)) cos(2 pi v)`.
fn normal(cx: &mut Cx, shape: Shape) -> Result<Value, String> {
    let (first, second) = (cx.key()?, cx.key()?);
    let (u, v) = (cx.b.uniform(first, shape.clone())?, cx.b.uniform(second, shape)?);
    let minus = cx.b.neg(u)?;
    let log = cx.b.scalar(F::Log1p, &[minus])?;
    let square = cx.b.scale(log, -2.0)?;
    let radius = cx.b.scalar(F::Sqrt, &[square])?;
    let angle = cx.b.scale(v, 2.0 * std::f64::consts::PI)?;
    let cosine = cx.b.scalar(F::Cos, &[angle])?;
    cx.b.mul(radius, cosine)
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
