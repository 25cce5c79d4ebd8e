//! Derivatives of what is sampled at even distances.

use super::args::{Arg, Args, Cx};
use super::{Row, pure};
use crate::graph::Value;
use crate::types::Dim;

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] =
    &[pure(&["gradient.scalarint", "gradient.scalararray", "gradient.array", "gradient.scalarrayint", "gradient.scalarrayarray"], gradient)];

/// For each dimension that is asked for, half the difference of both neighbors, and at the ends a formula of that order.
fn gradient(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("self")?;
    let x = cx.widen_to_float(x)?;
    let dims = cx.dims_or_all(x, &a.ints_or_empty("dim")?)?;
    let spacings = match a.get("spacing") {
        Some(Arg::Scalar(number)) => vec![number.to_f64().ok_or("a spacing is not constant")?; dims.len()],
        _ => a.floats_opt("spacing")?.unwrap_or_else(|| vec![1.0; dims.len()]),
    };
    if spacings.len() != dims.len() {
        return Err(format!("{} spacings for {} dimensions", spacings.len(), dims.len()));
    }
    let order = a.int_in("edge_order", 1, 1..=2)?;
    dims.iter().zip(spacings).map(|(&dim, spacing)| along(cx, x, dim, spacing, order as usize)).collect()
}

/// The derivative along one dimension.
fn along(cx: &mut Cx, x: Value, dim: usize, spacing: f64, order: usize) -> Result<Value, String> {
    let size = cx.b.shape(x)[dim].clone();
    if !Dim::int(order as i64 + 1).known_le(&size) {
        return Err(format!("{} elements are too few for edges of order {order}", size));
    }
    let inner = size.clone() - Dim::int(2);
    let (after, before) = (cx.b.slice(x, dim, 2, size.clone(), 1)?, cx.b.slice(x, dim, 0, inner, 1)?);
    let center = cx.b.sub(after, before)?;
    let center = cx.b.scale(center, 0.5)?;
    // Factors of the elements from the edge on.
    let factors: &[f64] = if order == 1 { &[-1.0, 1.0] } else { &[-1.5, 2.0, -0.5] };
    let first = edge(cx, x, dim, factors, Dim::int)?;
    let last = edge(cx, x, dim, factors, |k| size.clone() - Dim::int(k + 1))?;
    let last = cx.b.scale(last, -1.0)?;
    let all = cx.b.concat(&[first, center, last], dim)?;
    let spacing = cx.b.constant(cx.b.dtype(x), spacing)?;
    cx.b.div(all, spacing)
}

/// The sum of elements times factors, where `at` says where each stands.
fn edge(cx: &mut Cx, x: Value, dim: usize, factors: &[f64], at: impl Fn(i64) -> Dim) -> Result<Value, String> {
    let mut sum = None;
    for (k, &factor) in factors.iter().enumerate() {
        let start = at(k as i64);
        let end = start.clone() + Dim::int(1);
        let element = cx.b.slice(x, dim, start, end, 1)?;
        let term = cx.b.scale(element, factor)?;
        sum = Some(sum.map_or(Ok(term), |sum| cx.b.add(sum, term))?);
    }
    sum.ok_or_else(|| "an edge has elements".into())
}
