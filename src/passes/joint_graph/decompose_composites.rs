//! Replaces composites by simpler ops.

use crate::graph::Graph;
use crate::ops::{Class, Op, OpDef};
use crate::rewrite::rebuild;

/// Decomposes until no composite is left.
///
/// ```text
/// %1 = silu(%0)            ->     %1 = sigmoid(%0)
///                                 %2 = mul(%0, %1)
/// ```
///
/// What a decomposition builds carries the composite's region and provenance. Equal subexpressions, those of derivatives
/// included, are shared by hash-consing. Linear in the result; a chain of decompositions deeper than 16 is an error.
pub(super) fn decompose_composites(graph: &Graph) -> Result<Graph, String> {
    decompose(graph, &|op| op.class() == Class::Composite)
}

/// How deep decompositions may nest.
const MAX_DEPTH: usize = 16;

/// Decomposes the ops that `which` names, and those that appear in their place, until none is left.
pub(super) fn decompose(graph: &Graph, which: &dyn Fn(&Op) -> bool) -> Result<Graph, String> {
    let mut graph = graph.clone();
    for _ in 0..MAX_DEPTH {
        let mut count = 0;
        graph = rebuild(&graph, |b, id, operands| {
            let op = &graph.node(id).op;
            let values = if which(op) { op.decompose(b, operands) } else { None };
            count += values.is_some() as usize;
            values.transpose()
        })?;
        if count == 0 {
            return Ok(graph);
        }
    }
    Err(format!("decompositions nest deeper than {MAX_DEPTH}"))
}
