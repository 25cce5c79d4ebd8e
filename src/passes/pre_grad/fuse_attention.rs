//! Replaces attention by one kernel.

use crate::forms::attention::{Problem, Scores};
use crate::graph::{Builder, Graph, NodeId, ValueMap};
use crate::ops::{FusedAttention, Op, OpDef, ScaledDotProductAttention};
use crate::passes::change_bodies;
use crate::types::{DType, TensorType};

/// How attention is computed by one kernel where that is faster than by products and a softmax.
type Fastest<'a> = &'a dyn Fn(&Problem) -> Option<Scores>;

/// Fuses attention that is `fastest` so, in subgraphs too, with scores as it says; the rest is decomposed behind autograd.
///
/// ```text
/// %3 = scaled_dot_product_attention(%0, %1, %2)   ->   %3, %4 = fused_attention(%0, %1, %2)
/// ```
///
/// Before autograd, since the kernel's derivative reads the logarithms beside its result. Linear.
pub(in crate::passes) fn fuse_attention(graph: &Graph, fastest: Fastest<'_>) -> Result<Graph, String> {
    let (mut b, mut map) = (Builder::like(&graph.name, graph), ValueMap::default());
    b.copy_inputs(graph, &mut map)?;
    for id in graph.ids() {
        match fused(graph, id, fastest)? {
            Some(op) => b.copy_changed_node(graph, id, op, &mut map)?,
            None => b.copy_node(graph, id, &mut map)?,
        }
    }
    for output in &graph.outputs {
        b.output(&output.name, output.role.clone(), map[&output.value]);
    }
    Ok(b.finish())
}

/// What a node becomes, if that is something else.
fn fused(graph: &Graph, id: NodeId, fastest: Fastest<'_>) -> Result<Option<Op>, String> {
    let node = graph.node(id);
    if let Op::ScaledDotProductAttention(attention) = &*node.op {
        let types: Vec<TensorType> = node.operands.iter().map(|v| graph.ty(*v).clone()).collect();
        let Some(fused) = FusedAttention::of(attention, &types) else { return Ok(None) };
        let of_scores = |scores| FusedAttention { stores_weights: scores == Scores::Stored, ..fused };
        return Ok(fastest(&problem(attention, &types)).map(of_scores).map(Op::from));
    }
    if node.op.subgraphs().is_empty() {
        return Ok(None);
    }
    let mut op = Op::clone(&node.op);
    change_bodies(&mut op, |g| fuse_attention(g, fastest))?;
    Ok(Some(op))
}

fn problem(attention: &ScaledDotProductAttention, types: &[TensorType]) -> Problem {
    let (q, v) = (&types[0].shape.0, &types[2].shape.0);
    // What takes the longest decides.
    let size = |shape: &[crate::types::Dim]| shape.iter().map(|d| d.most() as f64).product::<f64>();
    let (rows, features) = q.split_at(q.len() - 1);
    Problem {
        rows: size(rows),
        columns: size(&v[v.len() - 2..v.len() - 1]),
        scored: size(features),
        summed: size(&v[v.len() - 1..]),
        causal: attention.causal,
        halves: types[0].dtype == DType::F16,
    }
}
