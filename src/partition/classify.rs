//! What each node of a joint graph is: which half needs it, how far it is from the backward, and whether it may be
//! recomputed.

use super::network::{INFINITE, saving_cost};
use super::{Ban, Fusible, Pressure, expected_bytes};
use crate::graph::{Graph, InputRole, Node, NodeId, OutputRole, Policy, Value};
use crate::ops::{Class, OpDef, RecomputeCost};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Facts about the nodes of a joint graph, indexed by node.
pub(super) struct Classes {
    /// Outputs of the forward depend on it.
    pub required_forward: Vec<bool>,
    /// It depends on a cotangent.
    pub tangent: Vec<bool>,
    /// The forward stores it in any case: it is an output, or a later kernel reads it.
    pub stored_in_forward: Vec<bool>,
    /// A kernel of the backward that cannot hold it reads it, so that recomputing it stores it.
    pub stored_in_backward: Vec<bool>,
    /// Why it is not recomputed.
    pub ban: Vec<Option<Ban>>,
    /// It is never saved: a view, or inside a region that is recomputed.
    pub never_saved: Vec<bool>,
    /// It is computed at the end of the forward, and read first: it is held no longer than if it were computed again.
    pub late: Vec<bool>,
    /// How dear memory is.
    pub pressure: Pressure,
}

impl Classes {
    pub(super) fn of(joint: &Graph, fusible: Fusible<'_>, pressure: Pressure) -> Classes {
        let users = Users::of(joint);
        let required_forward = ancestors(joint, |role| !matches!(role, OutputRole::Gradient(_)));
        let tangent = tangent_closure(joint);
        let is_output = forward_outputs(joint);
        let is_view: Vec<bool> = joint.nodes.iter().map(|n| n.op.is_view()).collect();
        let cx = Context {
            joint,
            users: &users,
            required_forward: &required_forward,
            tangent: &tangent,
            is_output: &is_output,
            is_view: &is_view,
            fusible,
            pressure,
        };
        let wave = cx.waves();
        let stored_in_forward = joint.ids().map(|id| cx.stored_in_forward(id, &wave)).collect();
        let stored_in_backward = joint.ids().map(|id| cx.stored_in_backward(id)).collect();
        let mut ban: Vec<Option<Ban>> = joint.ids().map(|id| cx.ban(id)).collect();
        if pressure == Pressure::NONE {
            cx.ban_long_chains(&mut ban);
        }
        let never_saved = joint.ids().map(|id| is_view[id.0 as usize] || (must_recompute(joint.node(id)) && !cx.leaves_region(id))).collect();
        let forward: Vec<usize> = (0..required_forward.len()).filter(|&i| required_forward[i]).collect();
        let end = forward.get(forward.len() - forward.len() / LATE).copied().unwrap_or(usize::MAX);
        let late = (0..required_forward.len()).map(|i| i >= end).collect();
        let mut classes = Classes { required_forward, tangent, stored_in_forward, stored_in_backward, ban, never_saved, late, pressure };
        ban_dominated(joint, &users, &mut classes);
        classes
    }
}

/// The last part in so many of the forward is late: about a layer of a deep network.
const LATE: usize = 12;

fn may_ban(node: &Node) -> bool {
    node.op.recompute_cost() != RecomputeCost::Free && !must_recompute(node) && !node.op.is_random()
}

fn must_recompute(node: &Node) -> bool {
    node.region.is_some_and(|r| r.policy == Policy::MustRecompute)
}

/// Users of each node among nodes, ascending, without repeats: one list of all, by where each node's begin.
struct Users {
    begin: Vec<u32>,
    all: Vec<NodeId>,
}

impl Users {
    fn of(joint: &Graph) -> Users {
        let uses = || joint.ids().flat_map(|id| sources(joint, id).map(move |source| (source, id)));
        let mut begin = vec![0u32; joint.nodes.len() + 2];
        uses().for_each(|(source, _)| begin[source.0 as usize + 2] += 1);
        (2..begin.len()).for_each(|i| begin[i] += begin[i - 1]);
        let mut all = vec![NodeId(0); begin[begin.len() - 1] as usize];
        for (source, user) in uses() {
            let next = &mut begin[source.0 as usize + 1];
            all[*next as usize] = user;
            *next += 1;
        }
        Users { begin, all }
    }

    fn get(&self, id: NodeId) -> &[NodeId] {
        let i = id.0 as usize;
        &self.all[self.begin[i] as usize..self.begin[i + 1] as usize]
    }
}

/// The nodes that a node reads, each once.
fn sources(joint: &Graph, id: NodeId) -> impl Iterator<Item = NodeId> {
    let operands = &joint.node(id).operands;
    let is_first = |(k, v): &(usize, &Value)| operands[..*k].iter().all(|earlier| earlier.node != v.node);
    operands.iter().enumerate().filter(is_first).map(|(_, v)| v.node)
}

/// Nodes that outputs of those roles depend on.
fn ancestors(joint: &Graph, role: impl Fn(&OutputRole) -> bool) -> Vec<bool> {
    let mut needed = vec![false; joint.nodes.len()];
    for output in joint.outputs.iter().filter(|o| role(&o.role)) {
        needed[output.value.node.0 as usize] = true;
    }
    for id in joint.ids().rev() {
        if needed[id.0 as usize] {
            for v in &joint.node(id).operands {
                needed[v.node.0 as usize] = true;
            }
        }
    }
    needed
}

/// Nodes that the forward returns.
fn forward_outputs(joint: &Graph) -> Vec<bool> {
    let mut is_output = vec![false; joint.nodes.len()];
    for output in joint.outputs.iter().filter(|o| !matches!(o.role, OutputRole::Gradient(_))) {
        is_output[output.value.node.0 as usize] = true;
    }
    is_output
}

/// Cotangents and all that depends on them.
fn tangent_closure(joint: &Graph) -> Vec<bool> {
    let mut tangent = vec![false; joint.nodes.len()];
    for input in joint.inputs.iter().filter(|i| i.role == InputRole::Cotangent) {
        tangent[input.value.node.0 as usize] = true;
    }
    for id in joint.ids() {
        tangent[id.0 as usize] |= joint.node(id).operands.iter().any(|v| tangent[v.node.0 as usize]);
    }
    tangent
}

/// Nodes closer than this to the start of a fusible chain may always be recomputed.
const LONG_CHAIN: u32 = 100;

struct Context<'a> {
    joint: &'a Graph,
    users: &'a Users,
    required_forward: &'a [bool],
    tangent: &'a [bool],
    /// The forward returns it.
    is_output: &'a [bool],
    /// It is a view. Readers are anywhere in the graph, and this is asked of all of them.
    is_view: &'a [bool],
    fusible: Fusible<'a>,
    pressure: Pressure,
}

impl Context<'_> {
    fn fusible(&self, producer: NodeId, consumer: NodeId) -> bool {
        (self.fusible)(self.joint, producer, consumer)
    }

    /// Calls `f` on users that read the value, seen through views; stops when it says so.
    fn any_reader(&self, id: NodeId, f: &dyn Fn(NodeId) -> bool) -> bool {
        self.users.get(id).iter().any(|&u| if self.is_view[u.0 as usize] { self.any_reader(u, f) } else { f(u) })
    }

    /// How many kernel boundaries lie before each node of the forward, at least.
    fn waves(&self) -> Vec<u32> {
        let mut wave = vec![0u32; self.joint.nodes.len()];
        for id in self.joint.ids() {
            let after = |v: &Value| wave[v.node.0 as usize] + self.ends_kernel(v.node, id) as u32;
            wave[id.0 as usize] = self.joint.node(id).operands.iter().map(after).max().unwrap_or(0);
        }
        wave
    }

    /// Whether a value is complete only behind the kernel that computes it: sums of a row are at hand in the row's kernel, sums over
    /// rows are not.
    fn ends_kernel(&self, producer: NodeId, consumer: NodeId) -> bool {
        let node = self.joint.node(producer);
        let along_rows = || {
            let (from, to) = (&self.joint.ty(node.operands[0]).shape.0, &node.types[0].shape.0);
            let kept = from.iter().zip(to).take_while(|(a, b)| a == b).count();
            to[kept..].iter().all(|d| d.is(1))
        };
        !self.fusible(producer, consumer) || (node.op.class() == Class::Reduction && !along_rows())
    }

    fn stored_in_forward(&self, id: NodeId, wave: &[u32]) -> bool {
        let i = id.0 as usize;
        let by_view = |u: &NodeId| self.is_view[u.0 as usize] && self.stored_in_forward(*u, wave);
        let later = |u: NodeId| self.required_forward[u.0 as usize] && wave[u.0 as usize] > wave[i];
        self.required_forward[i] && (self.is_output[i] || self.users.get(id).iter().any(by_view) || self.any_reader(id, &later))
    }

    fn stored_in_backward(&self, id: NodeId) -> bool {
        self.any_reader(id, &|u| self.tangent[u.0 as usize] && !self.fusible(id, u))
    }

    /// Whether a node outside its region reads it, or the forward returns it.
    fn leaves_region(&self, id: NodeId) -> bool {
        let region = self.joint.node(id).region;
        let by_view = |u: NodeId| self.is_view[u.0 as usize] && self.leaves_region(u);
        let outside = |u: NodeId| self.required_forward[u.0 as usize] && self.joint.node(u).region != region;
        self.is_output[id.0 as usize] || self.users.get(id).iter().any(|&u| outside(u) || by_view(u))
    }

    fn ban(&self, id: NodeId) -> Option<Ban> {
        let node = self.joint.node(id);
        let cost = node.op.recompute_cost();
        if self.tangent[id.0 as usize] || cost == RecomputeCost::Free || node.op.class() == Class::Input {
            return None;
        }
        match node.region.map(|r| r.policy) {
            Some(Policy::MustRecompute) if self.leaves_region(id) => return Some(Ban::Region),
            Some(Policy::MustRecompute) => return None,
            Some(Policy::MustSave) => return Some(Ban::Region),
            None => {}
        }
        let product = node.op.class() == Class::Template && self.pressure > Pressure::NONE;
        // What only gradients read is computed once in either half.
        if cost == RecomputeCost::Heavy && !product && self.required_forward[id.0 as usize] {
            return Some(Ban::Heavy);
        }
        if node.op.checks_indices() {
            return Some(Ban::Checks);
        }
        if node.op.is_random() {
            return None;
        }
        if cost == RecomputeCost::Pass && node.op.class() == Class::Reduction {
            let bytes = |v: &Value| expected_bytes(self.joint.ty(*v));
            let read: u64 = node.operands.iter().map(bytes).sum();
            let written: u64 = node.types.iter().map(expected_bytes).sum();
            if written.saturating_mul(4) < read {
                return Some(Ban::SmallResult);
            }
        }
        None
    }

    fn ban_long_chains(&self, ban: &mut [Option<Ban>]) {
        let mut seen = vec![false; self.joint.nodes.len()];
        for start in self.joint.ids().filter(|id| self.required_forward[id.0 as usize]) {
            let mut queue = BinaryHeap::from([Reverse(start)]);
            while let Some(Reverse(id)) = queue.pop() {
                if std::mem::replace(&mut seen[id.0 as usize], true) {
                    continue;
                }
                if id.0 > start.0 + LONG_CHAIN && queue.is_empty() && may_ban(self.joint.node(id)) {
                    ban[id.0 as usize].get_or_insert(Ban::LongChain);
                    break;
                }
                let joins = |u: &&NodeId| self.required_forward[u.0 as usize] && ban[u.0 as usize].is_none() && self.fusible(id, **u);
                queue.extend(self.users.get(id).iter().filter(joins).map(|&u| Reverse(u)));
            }
        }
    }
}

/// Bans what costs no more to save than an operand that only it reads and that must be saved otherwise: no cut is better for
/// recomputing it. A residual connection is so saved at its end, not in its parts.
fn ban_dominated(joint: &Graph, users: &Users, classes: &mut Classes) {
    for id in joint.ids() {
        let i = id.0 as usize;
        if classes.ban[i].is_some() || classes.tangent[i] || !may_ban(joint.node(id)) {
            continue;
        }
        let price = saving_cost(joint, classes, Value::first(id));
        let bound = |v: &Value| sole_source(joint, users, classes, *v).is_some_and(|source| price <= saving_cost(joint, classes, source));
        if price < INFINITE && joint.node(id).operands.iter().any(bound) {
            classes.ban[i] = Some(Ban::Dominated);
        }
    }
}

/// The value behind views that nothing else reads, if it may not be recomputed.
fn sole_source(joint: &Graph, users: &Users, classes: &Classes, mut v: Value) -> Option<Value> {
    loop {
        let node = joint.node(v.node);
        if users.get(v.node).len() != 1 || node.types.len() != 1 {
            return None;
        }
        if !node.op.is_view() {
            return classes.ban[v.node.0 as usize].is_some().then_some(v);
        }
        v = node.operands[0];
    }
}
