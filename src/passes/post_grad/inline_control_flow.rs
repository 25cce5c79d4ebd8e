//! Decomposes control flow.

use crate::graph::{Graph, Inline, inline_subgraphs};

/// Replaces `cond` by both branches and a selection, and unrolls `scan`. `while_loop` stays: lowering refuses it by name.
///
/// ```text
/// %2 = cond @0 @1 (%0, %1)   ->   %2 = sin(%1)
///                                 %3 = cos(%1)
///                                 %4 = where(expand(%0), %2, %3)
/// ```
pub(super) fn inline_control_flow(graph: &Graph) -> Result<Option<Graph>, String> {
    if graph.has_subgraphs() { inline_subgraphs(graph, Inline::All).map(Some) } else { Ok(None) }
}
