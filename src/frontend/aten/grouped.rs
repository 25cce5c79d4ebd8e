//! Products of groups of rows, each with a matrix of its own: the experts of a mixture, behind sorting tokens by expert.
//!
//! The groups' sizes are data. So every row takes all matrices at once, `[rows, groups * terms] x [groups * terms, columns]`, and is
//! zero where a matrix is another group's: as much arithmetic as all experts at every row, without a size that depends on data.
//! A matrix that is not finite so spoils the rows of all groups.

use super::args::Cx;
use super::{Row, matmul::matmul, pure};
use crate::graph::Value;
use crate::scalar::ScalarFn as F;
use crate::types::{DType, Dim};

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["_grouped_mm.default"], |cx, a| {
        let (x, weights) = (a.tensor("self")?, a.tensor("mat2")?);
        if a.tensor_opt("bias")?.is_some() {
            return Err("a bias of groups is not supported".into());
        }
        let out = match a.tensor_opt("offs")? {
            Some(ends) => grouped(cx, x, weights, ends)?,
            None => {
                cx.expect_rank(x, 3..=3)?;
                matmul(cx, x, weights)?
            }
        };
        let dtype = a.dtype_opt("out_dtype")?.unwrap_or(cx.b.dtype(x));
        Ok(vec![cx.b.cast(out, dtype)?])
    }),
    // The operator of the transformers library.
    pure(&["transformers.grouped_mm_fallback.default"], |cx, a| {
        let (x, weights, ends) = (a.tensor("input")?, a.tensor("weight")?, a.tensor("offs")?);
        Ok(vec![grouped(cx, x, weights, ends)?])
    }),
];

/// `x: [rows, terms]`, `weights: [groups, terms, columns]`; group `g` has the rows from `ends[g - 1]` to `ends[g]`. Rows behind the last
/// group give zeros.
fn grouped(cx: &mut Cx, x: Value, weights: Value, ends: Value) -> Result<Value, String> {
    let (sx, sw) = (cx.shape(x), cx.shape(weights));
    if sx.rank() != 2 || sw.rank() != 3 {
        return Err(format!("groups of rows are multiplied, [rows, terms] x [groups, terms, columns], not {sx} x {sw}"));
    }
    if cx.b.dtype(x) != cx.b.dtype(weights) || sx[1] != sw[1] || *cx.shape(ends).0 != [sw[0].clone()] {
        return Err(format!("{} x {} in groups that end at {}", cx.b.ty(x), cx.b.ty(weights), cx.b.ty(ends)));
    }
    let inside = membership(cx, &sx[0], &sw[0], ends)?;
    let inside = cx.b.unsqueeze(inside, 2)?;
    let shape = crate::types::Shape::new(vec![sx[0].clone(), sw[0].clone(), sx[1].clone()]);
    let (inside, x) = (cx.b.broadcast_to(inside, &shape)?, cx.b.unsqueeze(x, 1)?);
    let x = cx.b.broadcast_to(x, &shape)?;
    let zero = cx.b.constant(cx.b.dtype(x), 0.0)?;
    let spread = cx.b.where_(inside, x, zero)?;
    let terms = sw[0].clone() * &sw[1];
    let spread = cx.b.reshape(spread, [sx[0].clone(), terms.clone()])?;
    let weights = cx.b.reshape(weights, [terms, sw[2].clone()])?;
    cx.b.matmul(spread, weights)
}

/// Which rows belong to which group: `[rows, groups]`.
fn membership(cx: &mut Cx, rows: &Dim, groups: &Dim, ends: Value) -> Result<Value, String> {
    let ends = cx.b.cast(ends, DType::I32)?;
    let none = cx.b.full(DType::I32, 0.0, [Dim::int(1)])?;
    let others = cx.b.slice(ends, 0, 0, groups.clone() - &Dim::int(1), 1)?;
    let starts = cx.b.concat(&[none, others], 0)?;
    let row = cx.b.iota(DType::I32, [rows.clone(), groups.clone()], 0)?;
    let shape = cx.shape(row);
    let (starts, ends) = (cx.b.broadcast_to(starts, &shape)?, cx.b.broadcast_to(ends, &shape)?);
    let (begun, open) = (cx.b.scalar(F::Ge, &[row, starts])?, cx.b.scalar(F::Lt, &[row, ends])?);
    cx.b.scalar(F::LogicalAnd, &[begun, open])
}
