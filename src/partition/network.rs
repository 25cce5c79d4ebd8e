//! The flow network and its minimum cut.
//!
//! The source side of a cut is what only the forward has, the sink side what the backward has. A node that depends on no
//! cotangent has one vertex (`computes`: the backward computes it) and each of its results has another (`has`: the
//! backward can read it):
//!
//! ```text
//! computes(n) -> has(r)       cost of saving r       the only edges that may be cut; a cut edge is a saved value
//! has(operand) -> computes(n) infinite               computing n needs its operands
//! has(operand) -> SINK        infinite               a node that depends on a cotangent reads it, or a gradient is it
//! SOURCE -> computes(n)       infinite               n may not be recomputed
//! ```
//!
//! Inputs have no vertex: the backward reads them. The cost of saving is its bytes, times 1.1 for each step away from the
//! backward (up to 100; a value saved early lives longer), doubled when the forward would not store it otherwise. Values
//! that are never saved cost infinitely much. Among equal cuts the one nearest the sink is taken: it recomputes least.

use super::classify::Classes;
use super::{Choice, expected_bytes};
use crate::graph::{Graph, NodeId, OutputRole, Value};
use crate::ops::{Class, OpDef, RecomputeCost};
use petgraph::algo::dinics;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;
use std::collections::HashMap;

/// More than any sum of costs.
const INFINITE: u128 = 1 << 100;

/// Costs are in 1/1024 byte, so that the growth by distance is seen on single bytes.
const UNIT: u128 = 1024;

/// Cost of saving a value.
pub(super) fn cost(joint: &Graph, classes: &Classes, v: Value) -> u128 {
    let i = v.node.0 as usize;
    if classes.never_saved[i] {
        return INFINITE;
    }
    let bytes = expected_bytes(joint.ty(v)).max(1) as u128;
    let steps = classes.distance[i].clamp(1, 100);
    let aged = (0..steps).fold(bytes * UNIT, |c, _| c + c / 10);
    if classes.stored_in_forward[i] { aged } else { aged * 2 }
}

/// Whether a node has a place in the network: no input, no cotangent in it.
pub(super) fn in_network(joint: &Graph, classes: &Classes, id: NodeId) -> bool {
    !classes.tangent[id.0 as usize] && joint.node(id).op.class() != Class::Input
}

/// The cheapest set of values to save, and what it costs.
pub(super) fn min_cut(joint: &Graph, classes: &Classes) -> Result<(Choice, u128), String> {
    let mut network: DiGraph<(), u128> = DiGraph::new();
    let (source, sink) = (network.add_node(()), network.add_node(()));
    let mut computes: HashMap<NodeId, NodeIndex> = HashMap::new();
    let mut has: HashMap<Value, NodeIndex> = HashMap::new();
    let mut saveable: Vec<Value> = vec![];
    for id in joint.ids() {
        let node = joint.node(id);
        let reached = if in_network(joint, classes, id) {
            let vertex = network.add_node(());
            computes.insert(id, vertex);
            if classes.ban[id.0 as usize].is_some() {
                network.add_edge(source, vertex, INFINITE);
            }
            for result in 0..node.types.len() as u32 {
                let v = Value { node: id, result };
                let out = network.add_node(());
                network.add_edge(vertex, out, cost(joint, classes, v));
                has.insert(v, out);
                saveable.push(v);
            }
            vertex
        } else {
            sink
        };
        for v in &node.operands {
            if let Some(&from) = has.get(v) {
                network.update_edge(from, reached, INFINITE);
            }
        }
    }
    for output in joint.outputs.iter().filter(|o| matches!(o.role, OutputRole::Gradient(_))) {
        if let Some(&from) = has.get(&output.value) {
            network.update_edge(from, sink, INFINITE);
        }
    }
    let (flow, flows) = dinics(&network, source, sink);
    if flow >= INFINITE {
        return Err("partition: a value that may not be recomputed may not be saved either".into());
    }
    let backward = reaches_sink(&network, sink, &flows);
    let saved = saveable.into_iter().filter(|v| backward[has[v].index()] && !backward[computes[&v.node].index()]).collect();
    Ok((Choice { saved }, flow))
}

/// Vertices from which the sink is reached in the residual network: the sink side of the minimum cut nearest the sink.
fn reaches_sink(network: &DiGraph<(), u128>, sink: NodeIndex, flows: &[u128]) -> Vec<bool> {
    let mut reached = vec![false; network.node_count()];
    reached[sink.index()] = true;
    let mut stack = vec![sink];
    while let Some(at) = stack.pop() {
        let forward = network.edges_directed(at, petgraph::Incoming).filter(|e| *e.weight() > flows[e.id().index()]).map(|e| e.source());
        let backward = network.edges_directed(at, petgraph::Outgoing).filter(|e| flows[e.id().index()] > 0).map(|e| e.target());
        for next in forward.chain(backward).collect::<Vec<_>>() {
            if !std::mem::replace(&mut reached[next.index()], true) {
                stack.push(next);
            }
        }
    }
    reached
}

/// Every value of the forward that the rest reads; views and constants are rebuilt on top.
pub(super) fn save_everything(joint: &Graph, classes: &Classes) -> Choice {
    let mut saved = vec![false; joint.nodes.len()];
    let mut values: Vec<Value> = vec![];
    let free = |id: NodeId| joint.node(id).op.recompute_cost() == RecomputeCost::Free;
    let mut demanded: Vec<Value> = joint.outputs.iter().filter(|o| matches!(o.role, OutputRole::Gradient(_))).map(|o| o.value).collect();
    let mut seen = vec![false; joint.nodes.len()];
    while let Some(v) = demanded.pop() {
        let i = v.node.0 as usize;
        if joint.node(v.node).op.class() == Class::Input {
            continue;
        }
        if classes.required_forward[i] && !free(v.node) {
            saved[i] = true;
            if !values.contains(&v) {
                values.push(v);
            }
        } else if !std::mem::replace(&mut seen[i], true) {
            demanded.extend(joint.node(v.node).operands.iter().copied());
        }
    }
    values.sort_unstable();
    Choice { saved: values }
}
