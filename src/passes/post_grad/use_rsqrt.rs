//! Divisions by square roots.

use crate::rewrite::{Rewritten, Rule, Site, scalar_call, through_broadcast};
use crate::scalar::ScalarFn;

/// Turns the reciprocal of a square root into one instruction.
///
/// ```text
/// %1 = sqrt(%0)            ->     %1 = rsqrt(%0)
/// %2 = reciprocal(%1)
/// ```
///
/// `reciprocal(sqrt(x))` and `1 / sqrt(x)`; zero gives infinity and a negative number NaN before and after. PyTorch:
/// the same pass, post-grad. Linear.
pub(in crate::passes) const RULES: &[Rule] =
    &[Rule { name: "reciprocal(sqrt(x)) -> rsqrt(x)", apply: reciprocal }, Rule { name: "1 / sqrt(x) -> rsqrt(x)", apply: quotient }];

fn reciprocal(site: &mut Site<'_>) -> Rewritten {
    match site.call(ScalarFn::Reciprocal) {
        Some([root]) => rsqrt_of(site, root),
        None => Ok(None),
    }
}

fn quotient(site: &mut Site<'_>) -> Rewritten {
    match site.call(ScalarFn::Div) {
        Some([_, root]) if site.uniform(0) == Some(1.0) => rsqrt_of(site, root),
        _ => Ok(None),
    }
}

/// The root may stand behind broadcasts: rows are rooted once and spread.
fn rsqrt_of(site: &mut Site<'_>, root: crate::graph::Value) -> Rewritten {
    let graph = site.b.graph();
    let (inner, shape) = (through_broadcast(graph, root), graph.ty(root).shape.clone());
    let direct = scalar_call::<1>(graph, root, ScalarFn::Sqrt);
    if let Some([x]) = direct {
        return Ok(Some(vec![site.b.scalar(ScalarFn::Rsqrt, &[x])?]));
    }
    let Some([x]) = scalar_call::<1>(graph, inner, ScalarFn::Sqrt) else { return Ok(None) };
    if graph.ty(inner).shape.rank() != shape.rank() {
        return Ok(None);
    }
    let y = site.b.scalar(ScalarFn::Rsqrt, &[x])?;
    site.replace_by(y)
}
