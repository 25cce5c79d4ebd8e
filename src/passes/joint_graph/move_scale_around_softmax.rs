//! Takes the maximum of a softmax row before the row is scaled.

use crate::ops::ReduceKind;
use crate::rewrite::{Rewritten, Rule, Site, spread_reduction, uniform};
use crate::scalar::ScalarFn;

/// Moves a positive finite scale behind the subtraction of the row maximum.
///
/// ```text
/// %3 = mul(%0, 8.0)                %2 = reduce(%0) {kind="max", ...}
/// %4 = reduce(%3) {kind="max"}  -> %3 = sub(%0, expand(%2))
/// %5 = sub(%3, expand(%4))         %4 = mul(%3, 8.0)
/// ```
///
/// A scale that would overflow a finite row does not any more, and the scores are read unscaled by both reductions. Rows with
/// infinities or NaN give what they gave: `inf - inf` is NaN before and after the scale. Scales that are negative, zero,
/// infinite, NaN or not constant are left alone. The partitioner gains too, since the scaled row need not exist.
/// PyTorch: `mul_softmax_pattern`, `div_softmax_pattern`. Linear.
pub(in crate::passes) const RULES: &[Rule] = &[Rule { name: "x*c - amax(x*c) -> (x - amax(x)) * c", apply: move_scale }];

fn move_scale(site: &mut Site<'_>) -> Rewritten {
    let Some([scaled, spread]) = site.call(ScalarFn::Sub) else { return Ok(None) };
    let graph = site.b.graph();
    let Some(row) = spread_reduction(graph, spread) else { return Ok(None) };
    if row.operand != scaled || row.op.kind != ReduceKind::Max || !site.ty().dtype.is_float() {
        return Ok(None);
    }
    let factor = |v| uniform(graph, v).filter(|c| c.is_finite() && *c > 0.0);
    let (x, c, f) = if let Some([a, b]) = site.call_of::<2>(scaled, ScalarFn::Mul) {
        match (factor(a), factor(b)) {
            (_, Some(c)) => (a, c, ScalarFn::Mul),
            (Some(c), _) => (b, c, ScalarFn::Mul),
            _ => return Ok(None),
        }
    } else if let Some([a, b]) = site.call_of::<2>(scaled, ScalarFn::Div) {
        match factor(b) {
            Some(c) => (a, c, ScalarFn::Div),
            None => return Ok(None),
        }
    } else {
        return Ok(None);
    };
    let dims: Vec<usize> = row.op.dims.iter().map(|&d| d as usize).collect();
    let largest = site.b.reduce(ReduceKind::Max, x, &dims, true)?;
    let below = site.b.sub(x, largest)?;
    let dtype = site.ty().dtype;
    let c = site.b.constant(dtype, c)?;
    Ok(Some(vec![site.b.scalar(f, &[below, c])?]))
}
