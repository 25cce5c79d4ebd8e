//! Drops what no output needs.

use crate::graph::Graph;
use crate::rewrite::rebuild;

/// Drops nodes that no output depends on, and merges equal ones. Inputs stay, since they are the signature.
///
/// ```text
/// %1 = sin(%0)
/// %2 = cos(%0)             ->     %1 = cos(%0)
/// return %2 as y                  return %1 as y
/// ```
pub(in crate::passes) fn eliminate_dead_code(graph: &Graph) -> Result<Graph, String> {
    rebuild(graph, |_, _, _| Ok(None))
}
