//! What each node of a joint graph is: which half needs it, how far it is from the backward, and whether it may be
//! recomputed.

use super::{Ban, Fusible, expected_bytes};
use crate::graph::{Graph, InputRole, Node, NodeId, OutputRole, Policy, Value};
use crate::ops::{Class, OpDef, RecomputeCost};
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

/// Facts about the nodes of a joint graph, indexed by node.
pub(super) struct Classes {
    /// Outputs of the forward depend on it.
    pub required_forward: Vec<bool>,
    /// It depends on a cotangent.
    pub tangent: Vec<bool>,
    /// Steps to the nearest node that is not the forward's; at least 1 for nodes of the forward.
    pub distance: Vec<u32>,
    /// The forward stores it in any case: it is an output, or a kernel that cannot hold it reads it.
    pub stored_in_forward: Vec<bool>,
    /// Why it is not recomputed.
    pub ban: Vec<Option<Ban>>,
    /// It is never saved: a view, or inside a region that is recomputed.
    pub never_saved: Vec<bool>,
}

impl Classes {
    pub(super) fn of(joint: &Graph, fusible: Fusible<'_>) -> Classes {
        let users = users(joint);
        let required_forward = ancestors(joint, |role| !matches!(role, OutputRole::Gradient(_)));
        let tangent = tangent_closure(joint);
        let distance = distances(&users, &required_forward);
        let is_output = forward_outputs(joint);
        let cx = Context { joint, users: &users, required_forward: &required_forward, tangent: &tangent, is_output: &is_output, fusible };
        let stored_in_forward = joint.ids().map(|id| cx.stored_in_forward(id)).collect();
        let mut ban: Vec<Option<Ban>> = joint.ids().map(|id| cx.ban(id)).collect();
        cx.ban_used_far_apart(&mut ban);
        cx.ban_long_chains(&mut ban);
        let never_saved = joint.ids().map(|id| joint.node(id).op.is_view() || (must_recompute(joint.node(id)) && !cx.leaves_region(id))).collect();
        Classes { required_forward, tangent, distance, stored_in_forward, ban, never_saved }
    }
}

fn must_recompute(node: &Node) -> bool {
    node.region.is_some_and(|r| r.policy == Policy::MustRecompute)
}

/// Users of each node among nodes, ascending, without repeats.
fn users(joint: &Graph) -> Vec<Vec<NodeId>> {
    let mut users: Vec<BTreeSet<NodeId>> = vec![BTreeSet::new(); joint.nodes.len()];
    for id in joint.ids() {
        for v in &joint.node(id).operands {
            users[v.node.0 as usize].insert(id);
        }
    }
    users.into_iter().map(|set| set.into_iter().collect()).collect()
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

fn distances(users: &[Vec<NodeId>], required_forward: &[bool]) -> Vec<u32> {
    let mut distance = vec![0u32; users.len()];
    for i in (0..users.len()).rev() {
        if required_forward[i] {
            let nearest = users[i].iter().map(|u| distance[u.0 as usize]).min().unwrap_or(u32::MAX - 1);
            distance[i] = nearest.saturating_add(1);
        }
    }
    distance
}

/// Nodes closer than this to the start of a fusible chain may always be recomputed.
const LONG_CHAIN: u32 = 100;

struct Context<'a> {
    joint: &'a Graph,
    users: &'a [Vec<NodeId>],
    required_forward: &'a [bool],
    tangent: &'a [bool],
    /// The forward returns it.
    is_output: &'a [bool],
    fusible: Fusible<'a>,
}

impl Context<'_> {
    fn fusible(&self, producer: NodeId, consumer: NodeId) -> bool {
        (self.fusible)(self.joint, producer, consumer)
    }

    /// Calls `f` on users that read the value, seen through views; stops when it says so.
    fn any_reader(&self, id: NodeId, f: &dyn Fn(NodeId) -> bool) -> bool {
        self.users[id.0 as usize].iter().any(|&u| if self.joint.node(u).op.is_view() { self.any_reader(u, f) } else { f(u) })
    }

    fn stored_in_forward(&self, id: NodeId) -> bool {
        let i = id.0 as usize;
        let seen_as_output =
            self.is_output[id.0 as usize] || self.users[i].iter().any(|&u| self.joint.node(u).op.is_view() && self.stored_in_forward(u));
        self.required_forward[i] && (seen_as_output || self.any_reader(id, &|u| self.required_forward[u.0 as usize] && !self.fusible(id, u)))
    }

    /// Whether a node outside its region reads it, or the forward returns it.
    fn leaves_region(&self, id: NodeId) -> bool {
        let region = self.joint.node(id).region;
        let by_view = |u: NodeId| self.joint.node(u).op.is_view() && self.leaves_region(u);
        let outside = |u: NodeId| self.required_forward[u.0 as usize] && self.joint.node(u).region != region;
        self.is_output[id.0 as usize] || self.users[id.0 as usize].iter().any(|&u| outside(u) || by_view(u))
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
        if cost == RecomputeCost::Heavy {
            return Some(Ban::Heavy);
        }
        if node.op.is_random() {
            return None;
        }
        if self.any_reader(id, &|u| self.tangent[u.0 as usize] && !self.fusible(id, u)) {
            return Some(Ban::StoredInBackward);
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

    fn may_ban(&self, id: NodeId) -> bool {
        let node = self.joint.node(id);
        node.op.recompute_cost() != RecomputeCost::Free && !must_recompute(node) && !node.op.is_random()
    }

    /// Bans consumers that lie past the first kernel boundary after a value: a residual connection is saved at its end, since
    /// recomputing it would read everything that was ever added to it.
    fn ban_used_far_apart(&self, ban: &mut [Option<Ban>]) {
        for id in self.joint.ids().filter(|id| self.required_forward[id.0 as usize]) {
            let readers: Vec<NodeId> = self.users[id.0 as usize].iter().copied().filter(|u| self.required_forward[u.0 as usize]).collect();
            let Some(&last) = readers.last() else { continue };
            if readers.len() < 2 {
                continue;
            }
            let boundary = self.first_boundary(&readers, last);
            for &reader in readers.iter().filter(|&&r| r > boundary && self.fusible(id, r) && self.may_ban(r)) {
                ban[reader.0 as usize].get_or_insert(Ban::FarApart);
            }
        }
    }

    /// The first node, walking fusible consumers in order, that cannot join the kernel; `last` when there is none before it.
    fn first_boundary(&self, start: &[NodeId], last: NodeId) -> NodeId {
        let mut queue: BinaryHeap<Reverse<(NodeId, bool)>> = start.iter().map(|&id| Reverse((id, true))).collect();
        let mut seen = BTreeSet::new();
        while let Some(Reverse((id, joins))) = queue.pop() {
            if !joins {
                return id;
            }
            if !seen.insert(id) {
                continue;
            }
            for &u in self.users[id.0 as usize].iter().filter(|&&u| self.required_forward[u.0 as usize] && u <= last) {
                queue.push(Reverse((u, self.fusible(id, u))));
            }
        }
        last
    }

    fn ban_long_chains(&self, ban: &mut [Option<Ban>]) {
        let mut seen = vec![false; self.joint.nodes.len()];
        for start in self.joint.ids().filter(|id| self.required_forward[id.0 as usize]) {
            let mut queue = BinaryHeap::from([Reverse(start)]);
            while let Some(Reverse(id)) = queue.pop() {
                if std::mem::replace(&mut seen[id.0 as usize], true) {
                    continue;
                }
                if id.0 > start.0 + LONG_CHAIN && queue.is_empty() && self.may_ban(id) {
                    ban[id.0 as usize].get_or_insert(Ban::LongChain);
                    break;
                }
                let joins = |u: &&NodeId| self.required_forward[u.0 as usize] && ban[u.0 as usize].is_none() && self.fusible(id, **u);
                queue.extend(self.users[id.0 as usize].iter().filter(joins).map(|&u| Reverse(u)));
            }
        }
    }
}
