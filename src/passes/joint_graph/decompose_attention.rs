//! Replaces attention by products and a softmax.

use crate::graph::Graph;

/// Placeholder.
pub(super) fn decompose_attention(graph: &Graph) -> Result<Graph, String> {
    Ok(graph.clone())
}
