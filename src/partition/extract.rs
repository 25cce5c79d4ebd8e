//! Builds the two graphs from what is saved.

use super::classify::Classes;
use super::network::{MOVED, recomputing_cost};
use super::{Choice, Partition, RecomputedValue, SavedValue, expected_bytes};
use crate::autograd::copy_input_or_unit;
use crate::graph::{Builder, Graph, InputRole, Node, NodeId, Operands, OutputRole, Value, ValueMap};
use crate::ops::{Class, OpDef, RecomputeCost};
use crate::types::{Decision, Dim, TensorType};

/// Saved values, which are asked for by every operand: in the order of nodes.
type Saved = ValueMap<()>;

/// Forward and backward, with the list of what crosses.
pub(super) fn extract(joint: &Graph, classes: &Classes, choice: &Choice, cost: u128) -> Result<Partition, String> {
    let names: Vec<String> = (0..choice.saved.len()).map(|k| format!("saved.{k}")).collect();
    let demand = Demand::of(joint, classes, &choice.saved.iter().map(|&v| (v, ())).collect());
    let forward = forward_graph(joint, choice, &names)?;
    let backward = backward_graph(joint, choice, &names, &demand)?;
    let saved: Vec<SavedValue> = choice.saved.iter().zip(&names).map(|(v, name)| saved_value(joint, classes, *v, name)).collect();
    let recomputed: Vec<RecomputedValue> = demand.order.iter().filter_map(|&id| recomputed_value(joint, classes, id)).collect();
    let again = demand.order.iter().filter(|id| classes.required_forward[id.0 as usize] && !classes.tangent[id.0 as usize]);
    let recomputing = again.map(|&id| recomputing_cost(joint, classes, id)).sum::<u128>() / MOVED;
    let decision = |subject: &str, ty: &TensorType, verdict: &str, reason: &str| Decision {
        stage: "partition".into(),
        subject: format!("{subject}: {ty}"),
        verdict: verdict.into(),
        reason: reason.into(),
    };
    let mut decisions: Vec<Decision> = saved.iter().map(|s| decision(&format!("{} ({})", s.name, s.label), &s.ty, "saved", &s.reason)).collect();
    decisions.extend(recomputed.iter().map(|r| decision(&r.label, &r.ty, "recomputed", &r.reason)));
    Ok(Partition { forward, backward, saved, recomputed, decisions, cost, recomputing: recomputing as u64 })
}

fn bytes(ty: &TensorType) -> Dim {
    ty.numel() * Dim::from(ty.dtype.size())
}

fn label(joint: &Graph, id: NodeId) -> String {
    let op = joint.node(id).op.name();
    match joint.provenance(id).paths().first() {
        Some(path) => format!("{op} in {path}"),
        None => op.to_string(),
    }
}

fn saved_value(joint: &Graph, classes: &Classes, v: Value, name: &str) -> SavedValue {
    let i = v.node.0 as usize;
    let reason = match classes.ban[i] {
        Some(ban) => ban.reason(),
        None if classes.required_forward[i] => "cheaper to save than what it is computed from",
        None => "smaller than what it is computed from",
    };
    let ty = joint.ty(v).clone();
    SavedValue { name: name.into(), label: label(joint, v.node), bytes: bytes(&ty), ty, reason: reason.into() }
}

/// Nothing for what is free, and for what the forward does not compute.
fn recomputed_value(joint: &Graph, classes: &Classes, id: NodeId) -> Option<RecomputedValue> {
    let node = joint.node(id);
    let i = id.0 as usize;
    if !classes.required_forward[i] || classes.tangent[i] || node.op.recompute_cost() == RecomputeCost::Free {
        return None;
    }
    let reason = if node.region.is_some() {
        "a checkpoint region recomputes it".to_string()
    } else if node.op.is_random() {
        "redrawn from its key".to_string()
    } else {
        let bytes = node.types.iter().map(expected_bytes).sum::<u64>();
        let how = match node.op.recompute_cost() {
            RecomputeCost::Heavy => "memory is dearer than computing it again",
            RecomputeCost::Pass => "a pass over values at hand",
            _ if classes.stored_in_backward[i] => "stored once more by a kernel that reads the same",
            _ => "computed from values at hand",
        };
        format!("{bytes} bytes not saved; {how}")
    };
    let ty = node.types[0].clone();
    Some(RecomputedValue { label: label(joint, id), bytes: bytes(&ty), ty, reason })
}

/// What the backward computes, in order of first demand, and which inputs it reads.
struct Demand {
    order: Vec<NodeId>,
    reads: Vec<bool>,
}

impl Demand {
    /// Nodes that depend on cotangents keep the order of the joint graph, which is that of the reverse walk; everything else is
    /// placed just before its first use, so that recomputed values live briefly and gradients die early.
    fn of(joint: &Graph, classes: &Classes, saved: &Saved) -> Demand {
        let needed = needed_for_gradients(joint, saved);
        let mut demand = Demand { order: vec![], reads: vec![false; joint.nodes.len()] };
        let mut placed = vec![false; joint.nodes.len()];
        for id in joint.ids().filter(|id| classes.tangent[id.0 as usize] && needed[id.0 as usize]) {
            demand.place(joint, saved, &mut placed, id);
        }
        for id in joint.ids().filter(|id| needed[id.0 as usize]) {
            demand.place(joint, saved, &mut placed, id);
        }
        demand
    }

    fn place(&mut self, joint: &Graph, saved: &Saved, placed: &mut [bool], root: NodeId) {
        let mut stack = vec![(root, false)];
        while let Some((id, ready)) = stack.pop() {
            if ready {
                self.order.push(id);
                continue;
            }
            if std::mem::replace(&mut placed[id.0 as usize], true) {
                continue;
            }
            if joint.node(id).op.class() == Class::Input {
                self.reads[id.0 as usize] = true;
                continue;
            }
            stack.push((id, true));
            stack.extend(joint.node(id).operands.iter().rev().filter(|v| !saved.contains_key(v)).map(|v| (v.node, false)));
        }
    }
}

/// Nodes between the saved values and the gradients.
fn needed_for_gradients(joint: &Graph, saved: &Saved) -> Vec<bool> {
    let mut needed = vec![false; joint.nodes.len()];
    for output in joint.outputs.iter().filter(|o| matches!(o.role, OutputRole::Gradient(_)) && !saved.contains_key(&o.value)) {
        needed[output.value.node.0 as usize] = true;
    }
    for id in joint.ids().rev() {
        if needed[id.0 as usize] {
            for v in joint.node(id).operands.iter().filter(|v| !saved.contains_key(v)) {
                needed[v.node.0 as usize] = true;
            }
        }
    }
    needed
}

fn forward_graph(joint: &Graph, choice: &Choice, names: &[String]) -> Result<Graph, String> {
    let outputs: Vec<(&str, &OutputRole, Value)> = joint
        .outputs
        .iter()
        .filter(|o| !matches!(o.role, OutputRole::Gradient(_)))
        .map(|o| (o.name.as_str(), &o.role, o.value))
        .chain(choice.saved.iter().zip(names).map(|(v, name)| (name.as_str(), &OutputRole::Saved, *v)))
        .collect();
    let mut needed = vec![false; joint.nodes.len()];
    outputs.iter().for_each(|(_, _, v)| needed[v.node.0 as usize] = true);
    for id in joint.ids().rev() {
        if needed[id.0 as usize] {
            joint.node(id).operands.iter().for_each(|v| needed[v.node.0 as usize] = true);
        }
    }
    let mut b = Builder::with_room(&joint.name, joint.inputs.len() + needed.iter().filter(|n| **n).count());
    let mut map = ValueMap::default();
    for input in joint.inputs.iter().filter(|i| i.role != InputRole::Cotangent) {
        map.insert(input.value, b.copy_input(joint, input)?);
    }
    for id in joint.ids().filter(|id| needed[id.0 as usize] && joint.node(*id).op.class() != Class::Input) {
        copy(&mut b, joint, id, &mut map);
    }
    for (name, role, v) in outputs {
        b.output(name, role.clone(), map[&v]);
    }
    Ok(b.finish())
}

fn backward_graph(joint: &Graph, choice: &Choice, names: &[String], demand: &Demand) -> Result<Graph, String> {
    let nodes = joint.inputs.len() + choice.saved.len() + demand.order.len();
    let mut b = Builder::with_room(&format!("{}.backward", joint.name), nodes);
    let mut map = ValueMap::default();
    for input in joint.inputs.iter().filter(|i| i.role != InputRole::Cotangent && demand.reads[i.value.node.0 as usize]) {
        map.insert(input.value, b.copy_input(joint, input)?);
    }
    for (v, name) in choice.saved.iter().zip(names) {
        b.provenance = joint.provenance(v.node).clone();
        map.insert(*v, b.input(name, InputRole::Saved, joint.ty(*v).clone())?);
    }
    b.provenance = Default::default();
    for input in joint.inputs.iter().filter(|i| i.role == InputRole::Cotangent) {
        map.insert(input.value, copy_input_or_unit(&mut b, joint, input)?);
    }
    for &id in &demand.order {
        copy(&mut b, joint, id, &mut map);
    }
    for output in joint.outputs.iter().filter(|o| matches!(o.role, OutputRole::Gradient(_))) {
        b.output(&output.name, output.role.clone(), map[&output.value]);
    }
    Ok(b.finish())
}

/// Copies a node. Results that are saved already keep the saved value.
fn copy(b: &mut Builder, joint: &Graph, id: NodeId, map: &mut ValueMap) {
    let node = joint.node(id);
    let operands: Operands = node.operands.iter().map(|v| map[v]).collect();
    let copied = Node { op: node.op.clone(), operands, types: node.types.clone(), region: node.region };
    for (result, value) in joint.results(id).zip(b.adopt(copied, joint.provenance(id).clone())) {
        if !map.contains_key(&result) {
            map.insert(result, value);
        }
    }
}
