//! Runs a loop once that is there twice: as it was recorded, and as its derivative computes it.

use crate::graph::{Builder, Graph, NodeId, Value, ValueMap};
use crate::ops::{Op, OpDef};
use std::collections::HashMap;

/// Replaces an op by the one that gives more results of the same operands, where that is there, too.
///
/// ```text
/// %2 = scan(%0, %1) {carry: y}               ->   %2, %3 = scan(%0, %1) {carry: y; stacked: carry}
/// %3, %4 = scan(%0, %1) {carry: y; stacked: carry}
/// ```
///
/// A gradient within a trace reads what each trip began with, which the recorded loop does not give. Linear but for loops over the same
/// operands, which are compared with one another.
pub(super) fn share_loops(graph: &Graph) -> Result<Option<Graph>, String> {
    let mut of_operands: HashMap<&[Value], Vec<NodeId>> = HashMap::new();
    for id in graph.ids().filter(|&id| !graph.node(id).op.subgraphs().is_empty()) {
        of_operands.entry(&graph.node(id).operands).or_default().push(id);
    }
    let larger = |id: NodeId| -> Option<Op> {
        let node = graph.node(id);
        let others = of_operands.get(&node.operands[..]).filter(|others| others.len() > 1)?;
        let saving = node.op.saving()?;
        others.iter().any(|&other| *graph.node(other).op == saving && graph.node(other).region == node.region).then_some(saving)
    };
    let shared: HashMap<NodeId, Op> = graph.ids().filter_map(|id| Some((id, larger(id)?))).collect();
    if shared.is_empty() {
        return Ok(None);
    }
    let (mut b, mut map) = (Builder::like(&graph.name, graph), ValueMap::default());
    b.copy_inputs(graph, &mut map)?;
    for id in graph.ids() {
        let op = shared.get(&id).unwrap_or(&graph.node(id).op).clone();
        b.copy_changed_node(graph, id, op, &mut map)?;
    }
    for output in &graph.outputs {
        b.output(&output.name, output.role.clone(), map[&output.value]);
    }
    Ok(Some(b.finish()))
}
