//! A part of a graph under construction as a graph of its own.

use super::{Builder, Graph, InputRole, NodeId, OutputRole, Value, ValueMap};

/// What `results` need of the nodes from `start` on, as a closed graph of that name, and the values that it reads from outside, sources
/// included. The nodes stay behind; where nothing else needs them they are dropped when the graph is finished.
pub fn outline(graph: &Graph, name: &str, start: usize, results: &[Value]) -> Result<(Graph, Vec<Value>), String> {
    let needed = needed_inside(graph, results, |v| is_computed(graph, start, v));
    let (mut body, mut map, mut operands) = (Builder::new(name), ValueMap::default(), vec![]);
    let read = needed.iter().flat_map(|&id| graph.node(id).operands.iter().copied());
    for v in read.chain(results.iter().copied()).filter(|&v| !is_computed(graph, start, v)) {
        if !map.contains_key(&v) {
            map.insert(v, body.input(&format!("x.{}", operands.len()), InputRole::Input, graph.ty(v).clone())?);
            operands.push(v);
        }
    }
    Ok((close(body, map, graph, &needed, results)?, operands))
}

/// Whether a value is computed from others by a node from `start` on.
pub(crate) fn is_computed(graph: &Graph, start: usize, v: Value) -> bool {
    v.node.0 as usize >= start && !graph.def(v).operands.is_empty()
}

/// A part whose inputs are made and mapped already: the nodes of it that are needed, and the results.
pub(crate) fn close(mut body: Builder, mut map: ValueMap, graph: &Graph, needed: &[NodeId], results: &[Value]) -> Result<Graph, String> {
    for &id in needed {
        body.copy_node(graph, id, &mut map)?;
    }
    for (k, v) in results.iter().enumerate() {
        body.output(&format!("y.{k}"), OutputRole::User, map[v]);
    }
    Ok(body.finish())
}

/// The nodes that results need among those inside, in order.
pub(crate) fn needed_inside(graph: &Graph, results: &[Value], inside: impl Fn(Value) -> bool) -> Vec<NodeId> {
    let mut needed = vec![false; graph.nodes.len()];
    results.iter().filter(|&&v| inside(v)).for_each(|v| needed[v.node.0 as usize] = true);
    for id in graph.ids().rev() {
        if needed[id.0 as usize] {
            graph.node(id).operands.iter().filter(|&&v| inside(v)).for_each(|v| needed[v.node.0 as usize] = true);
        }
    }
    graph.ids().filter(|id| needed[id.0 as usize]).collect()
}
