//! Removes ops that do nothing.

use crate::graph::Graph;
use crate::passes::pre_grad::remove_identities;
use crate::rewrite::{Rewritten, Rule, Site, rewrite};
use crate::scalar::ScalarFn;

/// The rules of the pre-grad stage again: derivatives and decompositions build without looking. What only derivatives look at
/// goes too.
///
/// ```text
/// %1 = reshape(%0) {shape=[3]} : f32[3]
/// %2 = neg(%1)             ->     %1 = neg(%0)
/// %3 = straight_through(%2, %0)
/// ```
pub(super) fn remove_noops(graph: &Graph) -> Result<Graph, String> {
    remove_identities(&rewrite(graph, RULES)?)
}

/// Differentiation is over.
const RULES: &[Rule] = &[Rule { name: "detach(x), straight_through(x, y) -> x", apply: gradient_only }];

fn gradient_only(site: &mut Site<'_>) -> Rewritten {
    if let Some([x]) = site.call(ScalarFn::Detach) {
        return Ok(Some(vec![x]));
    }
    let [x, _] = match site.call(ScalarFn::StraightThrough) {
        Some(operands) => operands,
        None => return Ok(None),
    };
    Ok(Some(vec![x]))
}
