//! The flow network and its minimum cut.
//!
//! The source side of a cut is what only the forward has, the sink side what the backward has. A node that depends on no
//! cotangent has one vertex (`computes`: the backward computes it) and each of its results has another (`has`: the
//! backward can read it):
//!
//! ```text
//! computes(n) -> has(r)       cost of saving r       a cut edge is a saved value
//! SOURCE -> computes(n)       cost of recomputing n  a cut edge is a node that the backward computes again
//! has(operand) -> computes(n) infinite               computing n needs its operands
//! has(operand) -> SINK        infinite               a node that depends on a cotangent reads it, or a gradient is it
//! ```
//!
//! Inputs have no vertex: the backward reads them. Costs are bytes: those saved count in full, those that kernels move in
//! addition count a quarter, since they cost time only: storing what the forward would not store, storing what the backward
//! would not store, reading operands of a reduction once more. What rides in a kernel that runs anyway costs its arithmetic,
//! counted as a small part of its bytes. Values that are never saved and nodes that may not be recomputed cost infinitely
//! much. Among equal cuts the one nearest the sink is taken: it recomputes least.
//!
//! A vertex that may not be recomputed is the source itself. What is left falls apart into one small network for each stretch
//! between two such nodes; they are cut one by one, and equal ones once, so that the whole is near-linear in the graph.

use super::classify::Classes;
use super::{Choice, expected_bytes};
use crate::graph::{Graph, NodeId, OutputRole, Value};
use crate::ops::{Class, OpDef, RecomputeCost};
use crate::types::TensorType;
use petgraph::algo::dinics;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::unionfind::UnionFind;
use petgraph::visit::EdgeRef;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::{BTreeSet, HashMap};

/// More than any sum of costs.
pub(super) const INFINITE: u128 = 1 << 100;

/// Costs are in 1/1024 of a saved byte.
const UNIT: u128 = 1024;
/// A byte that a kernel moves in addition.
pub(super) const MOVED: u128 = UNIT / 4;
/// A byte that is computed again in a kernel that runs anyway.
const COMPUTED: u128 = UNIT / 32;

/// Multiplications with additions that take as long as moving a byte.
const MULTIPLY_ADDS: f64 = 10.0;

/// Cost of saving a value: its bytes, and storing them where the forward would not.
pub(super) fn saving_cost(joint: &Graph, classes: &Classes, v: Value) -> u128 {
    let i = v.node.0 as usize;
    if classes.never_saved[i] {
        return INFINITE;
    }
    let bytes = expected_bytes(joint.ty(v)).max(1) as u128;
    let once = if classes.stored_in_forward[i] { bytes * UNIT } else { bytes * (UNIT + MOVED) };
    if classes.late[i] { once } else { classes.pressure.weigh(once) }
}

/// Cost of computing a node in the backward; infinite where it may not be.
pub(super) fn recomputing_cost(joint: &Graph, classes: &Classes, id: NodeId) -> u128 {
    let node = joint.node(id);
    if classes.ban[id.0 as usize].is_some() {
        return INFINITE;
    }
    let written: u128 = node.types.iter().map(|ty| expected_bytes(ty) as u128).sum();
    let read: u128 = node.operands.iter().map(|v| expected_bytes(joint.ty(*v)) as u128).sum();
    let stored = if classes.stored_in_backward[id.0 as usize] { written * MOVED } else { 0 };
    match node.op.recompute_cost() {
        RecomputeCost::Free => 0,
        RecomputeCost::Cheap => written * COMPUTED + stored,
        RecomputeCost::Pass => read * MOVED + stored,
        RecomputeCost::Heavy if !classes.required_forward[id.0 as usize] => stored,
        RecomputeCost::Heavy => {
            let types: Vec<TensorType> = node.operands.iter().map(|v| joint.ty(*v).clone()).collect();
            let arithmetic = node.op.multiply_adds(&types, &node.types) / MULTIPLY_ADDS;
            (read + written + arithmetic as u128) * MOVED
        }
    }
}

/// Whether a node has a place in the network: no input, no cotangent in it.
pub(super) fn in_network(joint: &Graph, classes: &Classes, id: NodeId) -> bool {
    !classes.tangent[id.0 as usize] && joint.node(id).op.class() != Class::Input
}

/// The cheapest set of values to save, and what it costs.
pub(super) fn min_cut(joint: &Graph, classes: &Classes) -> Result<(Choice, u128), String> {
    let network = Network::of(joint, classes);
    let (backward, cost) = network.cut()?;
    let is_cut = |s: &&Saveable| backward[s.has as usize] && !backward[s.computes as usize];
    Ok((Choice { saved: network.saveable.iter().filter(is_cut).map(|s| s.value).collect() }, cost))
}

const SOURCE: u32 = 0;
const SINK: u32 = 1;

/// Vertices are numbered; source and sink come first.
struct Network {
    vertices: u32,
    /// Those into a vertex stand before those out of it.
    arcs: Vec<Arc>,
    saveable: Vec<Saveable>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Arc {
    from: u32,
    to: u32,
    capacity: u128,
}

/// A value with its two vertices.
struct Saveable {
    value: Value,
    computes: u32,
    has: u32,
}

impl Network {
    fn of(joint: &Graph, classes: &Classes) -> Network {
        let mut network = Network { vertices: 2, arcs: vec![], saveable: vec![] };
        // The vertex of a node's first result; those of the others follow.
        let mut has: Vec<Option<u32>> = vec![None; joint.nodes.len()];
        let vertex_of = |has: &[Option<u32>], v: Value| has[v.node.0 as usize].map(|first| first + v.result);
        for id in joint.ids() {
            let computes = match in_network(joint, classes, id) {
                false => SINK,
                true if classes.ban[id.0 as usize].is_some() => SOURCE,
                true => network.vertex(),
            };
            if computes > SINK {
                network.arc(SOURCE, computes, recomputing_cost(joint, classes, id));
            }
            for v in &joint.node(id).operands {
                vertex_of(&has, *v).into_iter().for_each(|from| network.arc(from, computes, INFINITE));
            }
            if computes != SINK {
                has[id.0 as usize] = Some(network.vertices);
                for value in joint.results(id) {
                    let out = network.vertex();
                    network.arc(computes, out, saving_cost(joint, classes, value));
                    network.saveable.push(Saveable { value, computes, has: out });
                }
            }
        }
        for output in joint.outputs.iter().filter(|o| matches!(o.role, OutputRole::Gradient(_))) {
            vertex_of(&has, output.value).into_iter().for_each(|from| network.arc(from, SINK, INFINITE));
        }
        network
    }

    fn vertex(&mut self) -> u32 {
        self.vertices += 1;
        self.vertices - 1
    }

    /// An arc; none leads back into the source.
    fn arc(&mut self, from: u32, to: u32, capacity: u128) {
        if to != SOURCE {
            self.arcs.push(Arc { from, to, capacity });
        }
    }

    /// Which vertices are on the sink's side of the minimum cut, and what it costs.
    fn cut(&self) -> Result<(Vec<bool>, u128), String> {
        let (mut backward, mut total) = (vec![false; self.vertices as usize], 0);
        backward[SINK as usize] = true;
        let mut known: HashMap<Vec<Arc>, (Vec<bool>, u128)> = HashMap::new();
        for part in self.parts() {
            let (arcs, vertices) = renumber(&part);
            let (side, flow) = &*known.entry(arcs).or_insert_with_key(|arcs| cut_part(arcs, vertices.len()));
            if *flow >= INFINITE {
                return Err("partition: a value that may not be recomputed may not be saved either".into());
            }
            total += *flow;
            vertices.iter().zip(side).for_each(|(&v, &is_behind)| backward[v as usize] |= is_behind);
        }
        Ok((backward, total))
    }

    /// Arcs between source and sink, one list for each part of the network that shares no other vertex with the rest.
    fn parts(&self) -> Vec<Vec<Arc>> {
        let (ahead, behind) = self.reached();
        let between = |v: u32| ahead[v as usize] && behind[v as usize];
        let arcs: Vec<&Arc> = self.arcs.iter().filter(|a| between(a.from) && between(a.to)).collect();
        let mut joined: UnionFind<u32> = UnionFind::new(self.vertices as usize);
        for arc in arcs.iter().filter(|a| a.from != SOURCE && a.to != SINK) {
            joined.union(arc.from, arc.to);
        }
        let mut parts: Vec<Vec<Arc>> = vec![];
        let mut of = vec![None; self.vertices as usize];
        for arc in arcs {
            let inner = if arc.from == SOURCE { arc.to } else { arc.from };
            let part = *of[joined.find_mut(inner) as usize].get_or_insert(parts.len());
            if part == parts.len() {
                parts.push(vec![]);
            }
            parts[part].push(*arc);
        }
        parts
    }

    /// Vertices that the source reaches, and those that reach the sink.
    fn reached(&self) -> (Vec<bool>, Vec<bool>) {
        let (mut ahead, mut behind) = (vec![false; self.vertices as usize], vec![false; self.vertices as usize]);
        (ahead[SOURCE as usize], behind[SINK as usize]) = (true, true);
        let open = || self.arcs.iter().filter(|a| a.capacity > 0);
        open().for_each(|a| ahead[a.to as usize] |= ahead[a.from as usize]);
        open().rev().for_each(|a| behind[a.from as usize] |= behind[a.to as usize]);
        (ahead, behind)
    }
}

/// The arcs with vertices numbered as they come, without repeats; and which vertices those are. Source and sink keep their numbers.
fn renumber(arcs: &[Arc]) -> (Vec<Arc>, Vec<u32>) {
    let mut vertices = vec![SOURCE, SINK];
    let mut number: FxHashMap<u32, u32> = vertices.iter().map(|&v| (v, v)).collect();
    let mut of = |v: u32| {
        *number.entry(v).or_insert_with(|| {
            vertices.push(v);
            vertices.len() as u32 - 1
        })
    };
    let mut seen = FxHashSet::default();
    let arcs: Vec<Arc> = arcs.iter().map(|a| Arc { from: of(a.from), to: of(a.to), ..*a }).filter(|a| seen.insert(*a)).collect();
    (arcs, vertices)
}

/// The sink's side of the minimum cut of a small network, and its cost.
fn cut_part(arcs: &[Arc], vertices: usize) -> (Vec<bool>, u128) {
    let mut network: DiGraph<(), u128, u32> = DiGraph::with_capacity(vertices, arcs.len());
    (0..vertices).for_each(|_| {
        network.add_node(());
    });
    for arc in arcs {
        network.add_edge(NodeIndex::from(arc.from), NodeIndex::from(arc.to), arc.capacity);
    }
    let (flow, flows) = dinics(&network, NodeIndex::from(SOURCE), NodeIndex::from(SINK));
    (reaches_sink(&network, NodeIndex::from(SINK), &flows), flow)
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
    let mut values: BTreeSet<Value> = BTreeSet::new();
    let free = |id: NodeId| joint.node(id).op.recompute_cost() == RecomputeCost::Free;
    let mut demanded: Vec<Value> = joint.outputs.iter().filter(|o| matches!(o.role, OutputRole::Gradient(_))).map(|o| o.value).collect();
    let mut seen = vec![false; joint.nodes.len()];
    while let Some(v) = demanded.pop() {
        let i = v.node.0 as usize;
        if joint.node(v.node).op.class() == Class::Input {
            continue;
        }
        if classes.required_forward[i] && !free(v.node) {
            values.insert(v);
        } else if !std::mem::replace(&mut seen[i], true) {
            demanded.extend(joint.node(v.node).operands.iter().copied());
        }
    }
    Choice { saved: values.into_iter().collect() }
}
