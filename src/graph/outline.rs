//! A part of a graph under construction as a graph of its own.

use super::{Builder, Graph, InputRole, NodeId, OutputRole, Value, ValueMap};
use std::collections::hash_map::Entry;

/// What `results` need of the nodes from `start` on, as a closed graph of that name, and the values that it reads from outside, sources
/// included. The nodes stay behind; where nothing else needs them they are dropped when the graph is finished.
pub fn outline(graph: &Graph, name: &str, start: usize, results: &[Value]) -> Result<(Graph, Vec<Value>), String> {
    let inside = |v: Value| v.node.0 as usize >= start && !graph.def(v).operands.is_empty();
    let needed = needed(graph, start, results.iter().copied().filter(|&v| inside(v)), inside);
    let (mut body, mut map, mut operands) = (Builder::new(name), ValueMap::default(), vec![]);
    let read = needed.iter().flat_map(|&id| graph.node(id).operands.iter().copied());
    for v in read.chain(results.iter().copied()).filter(|&v| !inside(v)) {
        if let Entry::Vacant(e) = map.entry(v) {
            e.insert(body.input(&format!("x.{}", operands.len()), InputRole::Input, graph.ty(v).clone())?);
            operands.push(v);
        }
    }
    for &id in &needed {
        body.copy_node(graph, id, &mut map)?;
    }
    for (k, v) in results.iter().enumerate() {
        body.output(&format!("y.{k}"), OutputRole::User, map[v]);
    }
    Ok((body.finish(), operands))
}

/// The nodes that results need among those inside, in order.
fn needed(graph: &Graph, start: usize, results: impl Iterator<Item = Value>, inside: impl Fn(Value) -> bool) -> Vec<NodeId> {
    let mut needed = vec![false; graph.nodes.len()];
    results.for_each(|v| needed[v.node.0 as usize] = true);
    for id in graph.ids().rev().filter(|id| id.0 as usize >= start) {
        if needed[id.0 as usize] {
            graph.node(id).operands.iter().filter(|&&v| inside(v)).for_each(|v| needed[v.node.0 as usize] = true);
        }
    }
    graph.ids().filter(|id| needed[id.0 as usize]).collect()
}
