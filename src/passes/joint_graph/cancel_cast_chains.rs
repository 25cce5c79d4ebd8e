//! Joins casts of casts.

use crate::ops::Op;
use crate::rewrite::{Rewritten, Rule, Site};
use crate::types::DType;

/// Drops the inner cast of two when it loses nothing: widening and narrowing back is the value itself.
///
/// ```text
/// %1 = cast(%0) {dtype="f32"}  // from f16
/// %2 = cast(%1) {dtype="f16"}      ->   (%0)
/// ```
///
/// Chains that narrow first stay: they round. So do those through a float to an integer that does not hold every number: they
/// saturate.
pub(in crate::passes) const RULES: &[Rule] = &[Rule { name: "cast(widening cast(x)) -> cast(x)", apply: join }];

fn join(site: &mut Site<'_>) -> Rewritten {
    let Op::Cast(outer) = site.op() else { return Ok(None) };
    let (to, inner) = (outer.dtype, site.def(site.operands[0]));
    if !matches!(*inner.op, Op::Cast(_)) {
        return Ok(None);
    }
    let base = inner.operands[0];
    let (from, between) = (site.b.dtype(base), inner.types[0].dtype);
    // Floats saturate where integers wrap.
    let wraps = !from.is_float() && between.is_float() && !to.is_float() && to != DType::Bool && !is_lossless(from, to);
    if wraps || !is_lossless(from, between) {
        return Ok(None);
    }
    Ok(Some(vec![site.b.cast(base, to)?]))
}

/// Whether every value of `from` is a value of `to`, and converts to it.
fn is_lossless(from: DType, to: DType) -> bool {
    // Bits of the integers that a float holds exactly.
    let precision = |d: DType| match d {
        DType::F16 => 11,
        DType::BF16 => 8,
        DType::F32 => 24,
        _ => 53,
    };
    match (from.is_float(), to.is_float()) {
        (true, true) => from == to || matches!((from, to), (DType::F16 | DType::BF16, DType::F32 | DType::F64) | (DType::F32, DType::F64)),
        (true, false) => false,
        (false, true) => from.int_range().is_some_and(|(lo, hi)| lo >= -(1i64 << precision(to)) && hi <= 1i64 << precision(to)),
        (false, false) if to == DType::Bool => from == DType::Bool,
        (false, false) => match (from.int_range(), to.int_range()) {
            (Some((a, b)), Some((lo, hi))) => lo <= a && b <= hi,
            _ => false,
        },
    }
}
