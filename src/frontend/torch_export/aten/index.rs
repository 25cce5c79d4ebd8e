//! Reading and writing at indices.

use super::{Row, pure};
use crate::frontend::torch_export::args::{Args, Cx};
use crate::graph::Value;
use crate::types::DType;

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["embedding.default"], embedding),
    pure(&["gather.default"], gather),
    pure(&["index_select.default"], index_select),
    pure(&["index_add.default"], index_add),
    pure(&["scatter_add.default"], scatter_add),
];

/// Rows of the weight; the row of the padding index takes no gradient.
fn embedding(cx: &mut Cx, a: &Args) -> Built {
    let (weight, index) = (a.tensor("weight")?, a.tensor("indices")?);
    let padding = a.int_or("padding_idx", -1)?;
    let rows = cx.b.embedding(weight, index)?;
    if padding < 0 {
        return Ok(vec![rows]);
    }
    let fixed = cx.b.scalar(crate::scalar::ScalarFn::Detach, &[rows])?;
    let rank = cx.b.shape(index).rank();
    let index = cx.b.unsqueeze(index, rank)?;
    let padding = cx.b.constant(cx.b.dtype(index), padding as f64)?;
    let is_padding = cx.b.scalar(crate::scalar::ScalarFn::Eq, &[index, padding])?;
    Ok(vec![cx.b.where_(is_padding, fixed, rows)?])
}

fn gather(cx: &mut Cx, a: &Args) -> Built {
    let (x, index) = (a.tensor("self")?, a.tensor("index")?);
    let shape = cx.shape(index);
    let dim = cx.dim(x, a.int("dim")?)?;
    let (x, index) = (cx.at_least_1d(x)?, cx.at_least_1d(index)?);
    if shape.numel().is(0) {
        return Ok(vec![cx.b.full(cx.b.dtype(x), 0.0, shape)?]);
    }
    let out = cx.b.gather(x, index, dim)?;
    Ok(vec![cx.b.reshape(out, shape)?])
}

fn index_select(cx: &mut Cx, a: &Args) -> Built {
    let (x, index) = (a.tensor("self")?, a.tensor("index")?);
    let shape = cx.shape(x);
    let dim = cx.dim(x, a.int("dim")?)?;
    let (x, index) = (cx.at_least_1d(x)?, cx.at_least_1d(index)?);
    let out = cx.b.index_select(x, dim, index)?;
    Ok(vec![if shape.rank() == 0 { cx.b.reshape(out, shape)? } else { out }])
}

fn index_add(cx: &mut Cx, a: &Args) -> Built {
    let (x, index, mut source) = (a.tensor("self")?, a.tensor("index")?, a.tensor("source")?);
    let shape = cx.shape(x);
    let dim = cx.dim(x, a.int("dim")?)?;
    if let Some(alpha) = a.scalar_opt("alpha")?
        && alpha.to_f64() != Some(1.0)
    {
        let alpha = cx.number(&alpha, cx.b.dtype(source))?;
        source = cx.b.mul(source, alpha)?;
    }
    let (x, index, source) = (cx.at_least_1d(x)?, cx.at_least_1d(index)?, cx.at_least_1d(source)?);
    let out = as_number(cx, x, |cx, x| {
        let source = cx.b.cast(source, cx.b.dtype(x))?;
        cx.b.index_add(x, dim, index, source)
    })?;
    Ok(vec![cx.b.reshape(out, shape)?])
}

fn scatter_add(cx: &mut Cx, a: &Args) -> Built {
    let (x, index, src) = (a.tensor("self")?, a.tensor("index")?, a.tensor("src")?);
    let shape = cx.shape(x);
    let dim = cx.dim(x, a.int("dim")?)?;
    let (x, index, mut src) = (cx.at_least_1d(x)?, cx.at_least_1d(index)?, cx.at_least_1d(src)?);
    if cx.b.ty(index).numel().is(0) {
        return Ok(vec![a.tensor("self")?]);
    }
    // The source may be larger than the index; what the index does not reach is not read.
    for d in 0..cx.b.shape(index).rank() {
        let end = cx.b.shape(index)[d].clone();
        src = cx.b.slice(src, d, 0, end, 1)?;
    }
    let out = as_number(cx, x, |cx, x| {
        let src = cx.b.cast(src, cx.b.dtype(x))?;
        cx.b.scatter_add(x, index, src, dim)
    })?;
    Ok(vec![cx.b.reshape(out, shape)?])
}

/// Bools accumulate as numbers.
fn as_number(cx: &mut Cx, x: Value, f: impl FnOnce(&mut Cx, Value) -> Result<Value, String>) -> Result<Value, String> {
    if cx.b.dtype(x) != DType::Bool {
        return f(cx, x);
    }
    let x = cx.b.cast(x, DType::I32)?;
    let out = f(cx, x)?;
    cx.b.cast(out, DType::Bool)
}
