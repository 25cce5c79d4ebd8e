//! Removes ops that do nothing.

use crate::graph::Graph;
use crate::passes::pre_grad::remove_identities;

/// The rules of the pre-grad stage again: derivatives and decompositions build without looking.
///
/// ```text
/// %1 = reshape(%0) {shape=[3]} : f32[3]
/// %2 = neg(%1)             ->     %1 = neg(%0)
/// ```
pub(super) fn remove_noops(graph: &Graph) -> Result<Graph, String> {
    remove_identities(graph)
}
