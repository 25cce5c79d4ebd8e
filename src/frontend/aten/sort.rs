//! Sorting along a dimension. Indices are i64.

use super::args::{Args, Cx};
use super::{Row, pure};
use crate::graph::Value;
use crate::types::DType;

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["sort.default", "sort.stable"], |cx, a| {
        let (values, indices) = sorted(cx, a, -1, a.bool_or("descending", false)?)?;
        Ok(vec![values, indices])
    }),
    pure(&["msort.default"], |cx, a| Ok(vec![sorted(cx, a, 0, false)?.0])),
    pure(&["argsort.default", "argsort.stable"], |cx, a| Ok(vec![sorted(cx, a, -1, a.bool_or("descending", false)?)?.1])),
    pure(&["topk.default"], topk),
];

/// Values and indices, along the dimension that is given or else `dim`.
fn sorted(cx: &mut Cx, a: &Args, dim: i64, descending: bool) -> Result<(Value, Value), String> {
    // It always is.
    a.disregard(&["stable"]);
    let x = a.tensor("self")?;
    let dim = cx.dim(x, a.int_or("dim", dim)?)?;
    if cx.b.shape(x).rank() == 0 {
        return Ok((x, cx.b.constant(DType::I64, 0.0)?));
    }
    let (values, indices) = cx.b.sort(x, dim, descending)?;
    Ok((values, cx.b.cast(indices, DType::I64)?))
}

fn topk(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("self")?;
    let (k, largest) = (a.dim("k")?, a.bool_or("largest", true)?);
    // Without it any order is right.
    a.disregard(&["sorted", "dim"]);
    if cx.b.shape(x).rank() == 0 {
        let zero = cx.b.constant(DType::I64, 0.0)?;
        return Ok(vec![x, zero]);
    }
    let dim = cx.dim(x, a.int_or("dim", -1)?)?;
    let (values, indices) = cx.b.topk(x, k, dim, largest)?;
    Ok(vec![values, cx.b.cast(indices, DType::I64)?])
}
