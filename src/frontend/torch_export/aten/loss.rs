//! Losses.

use super::{Row, pure};
use crate::frontend::torch_export::args::{Args, Cx};
use crate::graph::Value;
use crate::ops::{ReduceKind, Reduction};
use crate::scalar::ScalarFn as F;

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["cross_entropy_loss.default"], cross_entropy),
    pure(&["mse_loss.default"], |cx, a| {
        let (x, y) = (a.tensor("self")?, a.tensor("target")?);
        let difference = cx.b.sub(x, y)?;
        let square = cx.b.mul(difference, difference)?;
        reduced(cx, a, square)
    }),
    pure(&["l1_loss.default"], |cx, a| {
        let (x, y) = (a.tensor("self")?, a.tensor("target")?);
        let difference = cx.b.sub(x, y)?;
        let size = cx.b.scalar(F::Abs, &[difference])?;
        reduced(cx, a, size)
    }),
    pure(&["binary_cross_entropy_with_logits.default"], with_logits),
];

/// The reduction that PyTorch numbers 0 (none), 1 (mean) and 2 (sum).
fn reduction(a: &Args) -> Result<Reduction, String> {
    match a.int_or("reduction", 1)? {
        0 => Ok(Reduction::None),
        1 => Ok(Reduction::Mean),
        2 => Ok(Reduction::Sum),
        n => Err(format!("reduction {n} is not known")),
    }
}

/// Reduces a loss for each element.
pub fn reduced(cx: &mut Cx, a: &Args, x: Value) -> Built {
    let dims: Vec<usize> = (0..cx.b.shape(x).rank()).collect();
    Ok(vec![match reduction(a)? {
        _ if dims.is_empty() => x,
        Reduction::None => x,
        Reduction::Sum => cx.b.reduce(ReduceKind::Sum, x, &dims, false)?,
        Reduction::Mean => cx.b.mean(x, &dims, false)?,
    }])
}

fn cross_entropy(cx: &mut Cx, a: &Args) -> Built {
    let (mut x, target) = (a.tensor("self")?, a.tensor("target")?);
    if a.has("weight") || a.float_or("label_smoothing", 0.0)? != 0.0 || cx.b.dtype(target).is_float() {
        return Err("weights, label smoothing and probabilities as labels are not supported yet".into());
    }
    let rank = cx.b.shape(x).rank();
    if rank > 2 {
        // Classes are dimension 1 there, and the last one here.
        let mut order: Vec<usize> = (0..rank).filter(|&d| d != 1).collect();
        order.push(1);
        x = cx.b.permute(x, &order)?;
    }
    Ok(vec![cx.b.cross_entropy(x, target, Some(a.int_or("ignore_index", -100)?), reduction(a)?)?])
}

/// `(1 - y) x + l (log(1 + e^-|x|) + max(-x, 0))`, with `l = 1 + (pos_weight - 1) y`.
fn with_logits(cx: &mut Cx, a: &Args) -> Built {
    let (x, y) = (a.tensor("self")?, a.tensor("target")?);
    let dtype = cx.b.dtype(x);
    let (zero, one) = (cx.b.constant(dtype, 0.0)?, cx.b.constant(dtype, 1.0)?);
    let rest = cx.b.sub(one, y)?;
    let linear = cx.b.mul(rest, x)?;
    let positive = cx.b.scalar(F::Ge, &[x, zero])?;
    let minus = cx.b.neg(x)?;
    let low = cx.b.where_(positive, minus, x)?;
    let e = cx.b.scalar(F::Exp, &[low])?;
    let log = cx.b.scalar(F::Log1p, &[e])?;
    let high = cx.b.where_(positive, zero, minus)?;
    let mut soft = cx.b.add(log, high)?;
    if let Some(weight) = a.tensor_opt("pos_weight")? {
        let excess = cx.b.sub(weight, one)?;
        let factor = cx.b.mul(excess, y)?;
        let factor = cx.b.add(factor, one)?;
        soft = cx.b.mul(factor, soft)?;
    }
    let mut loss = cx.b.add(linear, soft)?;
    if let Some(weight) = a.tensor_opt("weight")? {
        loss = cx.b.mul(loss, weight)?;
    }
    reduced(cx, a, loss)
}
