//! Random draws: keys come from the program's one key by streams in order of the calls.

use super::{Row, pure};
use crate::frontend::torch_export::args::{Args, Cx};
use crate::graph::Value;
use crate::types::{DType, Shape};

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
];

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
