//! Propagates values whose elements are all the same number.

use crate::loop_ir::Number;
use crate::ops::{Op, ReduceKind};
use crate::rewrite::{Rewritten, Rule, Site};
use crate::scalar::ScalarFn;

/// Propagates repeated numbers through reductions and zero factors; runs with the rules that fold and remove what that makes
/// constant.
///
/// ```text
/// %1 = full() {value=1.0, shape=[4]}
/// %2 = reduce(%1) {kind="sum", dims=[0]}   ->   %1 = full() {value=4.0, shape=[]}
/// ```
///
/// A product with zero is zero only for integers: a NaN or infinity in the other factor survives a zero. Sums of repeated
/// numbers are folded where they are exact. Linear.
pub(in crate::passes) const RULES: &[Rule] = &[
    Rule { name: "scan or sort of nothing -> nothing", apply: order_of_nothing },
    Rule { name: "reduction of nothing -> identity", apply: reduction_of_nothing },
    Rule { name: "reduction of a repeated number -> number", apply: reduction },
    Rule { name: "x * 0 -> 0 for integers", apply: integer_zero },
];

/// Integers up to this are exact in every partial sum of an f32.
const EXACT: f64 = (1 << 24) as f64;

fn reduction(site: &mut Site<'_>) -> Rewritten {
    let Op::Reduce(op) = site.op() else { return Ok(None) };
    let Some(x) = site.uniform(0) else { return Ok(None) };
    let shape = &site.b.ty(site.operands[0]).shape;
    let count = op.dims.iter().try_fold(1i64, |n, &d| shape[d as usize].as_int().map(|size| n.saturating_mul(size)));
    let Some(count) = count.filter(|&n| n > 0) else { return Ok(None) };
    // A sum starts from zero, so that zeros of either sign sum to zero.
    let sum = 0.0 + x * count as f64;
    match op.kind {
        ReduceKind::Max | ReduceKind::Min | ReduceKind::Any | ReduceKind::All => site.replace_by_number(x),
        ReduceKind::Argmax | ReduceKind::Argmin => site.replace_by_number(0.0),
        ReduceKind::Sum if x.fract() == 0.0 && sum.abs() <= EXACT && Number::new(site.ty().dtype, sum).as_f64() == sum => site.replace_by_number(sum),
        ReduceKind::Prod if x == 1.0 || (x == 0.0 && x.is_sign_positive()) => site.replace_by_number(x),
        _ => Ok(None),
    }
}

/// A driver sees that a loop has no trip, and takes zero times or over anything for zero: a mean of nothing is NaN.
fn reduction_of_nothing(site: &mut Site<'_>) -> Rewritten {
    let Op::Reduce(op) = site.op() else { return Ok(None) };
    let shape = &site.b.ty(site.operands[0]).shape;
    if !op.dims.iter().any(|&d| shape[d as usize].is(0)) {
        return Ok(None);
    }
    match op.kind {
        ReduceKind::Sum | ReduceKind::Any => site.replace_by_number(0.0),
        ReduceKind::Prod | ReduceKind::All => site.replace_by_number(1.0),
        // There is none: these are refused of no element.
        ReduceKind::Max | ReduceKind::Min | ReduceKind::Argmax | ReduceKind::Argmin => Ok(None),
    }
}

/// The loop would have no trip, but a shader that names elements in front of it does not compile.
fn order_of_nothing(site: &mut Site<'_>) -> Rewritten {
    let types = &site.node.types;
    let is_ordered = matches!(site.op(), Op::Cumsum(_) | Op::Cumprod(_) | Op::Cumextremum(_) | Op::Sort(_));
    if !is_ordered || !types.iter().all(|ty| ty.shape.0.iter().any(|d| d.is(0))) {
        return Ok(None);
    }
    let types = types.clone();
    types.iter().map(|ty| site.b.full(ty.dtype, 0.0, ty.shape.clone())).collect::<Result<Vec<_>, _>>().map(Some)
}

fn integer_zero(site: &mut Site<'_>) -> Rewritten {
    if site.ty().dtype.is_float() {
        return Ok(None);
    }
    for f in [ScalarFn::Mul, ScalarFn::BitwiseAnd, ScalarFn::LogicalAnd] {
        if site.call::<2>(f).is_some() && (site.uniform(0) == Some(0.0) || site.uniform(1) == Some(0.0)) {
            return site.replace_by_number(0.0);
        }
    }
    Ok(None)
}
