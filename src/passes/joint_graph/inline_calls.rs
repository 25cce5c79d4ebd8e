//! Inlines calls.

use crate::graph::{Graph, Inline, inline_subgraphs};

/// Replaces `checkpoint` and `invoke_subgraph` by their bodies; `cond` and `scan` stay, with their bodies inlined so.
///
/// ```text
/// %1 = invoke_subgraph @0 (%0)   ->   %1 = tanh(%0)
/// ```
///
/// Nodes of a checkpoint keep its region tag. Linear in the inlined graph.
pub(super) fn inline_calls(graph: &Graph) -> Result<Option<Graph>, String> {
    if graph.has_subgraphs() { inline_subgraphs(graph, Inline::Calls).map(|g| Some(g.into_owned())) } else { Ok(None) }
}
