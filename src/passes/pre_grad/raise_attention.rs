//! Raises.
use crate::graph::Graph;

pub(super) fn raise_attention(graph: &Graph) -> Result<Graph, String> {
    Ok(graph.clone())
}
