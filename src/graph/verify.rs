//! The verifier: collects every fault of a graph instead of stopping at the first.

use super::{Graph, InputRole, Node, NodeId, Policy, Value};
use crate::ops::{Class, Op, OpDef};
use crate::types::{DType, Dim, Symbol, TensorType, is_size_function};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Every fault of the graph, its subgraphs included; empty when it is sound. Cost: one pass.
pub fn verify(graph: &Graph) -> Vec<String> {
    let mut faults = vec![];
    if graph.provenance.len() != graph.nodes.len() {
        faults.push(format!("{} nodes carry {} provenances", graph.nodes.len(), graph.provenance.len()));
    }
    check_inputs(graph, &mut faults);
    check_outputs(graph, &mut faults);
    check_sizes(graph, &mut faults);
    check_regions(graph, &mut faults);
    let mut known: HashMap<&Node, NodeId> = HashMap::new();
    for id in graph.ids() {
        check_node(graph, id, &mut faults);
        if let Some(first) = known.insert(graph.node(id), id) {
            faults.push(format!("{} equals %{}", describe(graph, id), first.0));
        }
        for body in graph.node(id).op.subgraphs() {
            faults.extend(verify(&body).into_iter().map(|fault| format!("{}, body {}: {fault}", describe(graph, id), body.name)));
        }
    }
    faults
}

fn describe(graph: &Graph, id: NodeId) -> String {
    format!("%{} ({})", id.0, graph.node(id).op.name())
}

fn exists(graph: &Graph, v: Value) -> bool {
    graph.nodes.get(v.node.0 as usize).is_some_and(|n| (v.result as usize) < n.types.len())
}

/// Operands precede the node and types are what the op infers.
fn check_node(graph: &Graph, id: NodeId, faults: &mut Vec<String>) {
    let node = graph.node(id);
    let mut types: Vec<TensorType> = vec![];
    for v in &node.operands {
        if v.node >= id || !exists(graph, *v) {
            faults.push(format!("{} reads %{}.{}, which is not computed before it", describe(graph, id), v.node.0, v.result));
            return;
        }
        types.push(graph.ty(*v).clone());
    }
    if matches!(node.op.class(), Class::Input | Class::Source) && !types.is_empty() {
        faults.push(format!("{} takes no operand", describe(graph, id)));
    }
    match node.op.infer(&types) {
        Err(message) => faults.push(format!("{}: {message}: {}", describe(graph, id), list(&types))),
        Ok(inferred) if inferred[..] != node.types[..] => {
            faults.push(format!("{} infers {}, but is recorded as {}", describe(graph, id), list(&inferred), list(&node.types)));
        }
        Ok(_) => {}
    }
}

fn list(types: &[TensorType]) -> String {
    types.iter().map(|t| t.to_string()).collect::<Vec<_>>().join(" x ")
}

/// The input list and the input nodes agree; names are unique; keys and host scalars have their types. The body of a batch takes a
/// key for each example.
fn check_inputs(graph: &Graph, faults: &mut Vec<String>) {
    let mut names = HashSet::new();
    for (k, input) in graph.inputs.iter().enumerate() {
        if !names.insert(&input.name) {
            faults.push(format!("there are two inputs named {}", input.name));
        }
        if !exists(graph, input.value) {
            faults.push(format!("input {} is not a node", input.name));
            continue;
        }
        match &*graph.def(input.value).op {
            Op::InputOp(op) if op.index as usize == k => {}
            _ => faults.push(format!("input {} is not the input node of index {k}", input.name)),
        }
        let ty = graph.ty(input.value);
        match input.role {
            InputRole::Key if !is_keys(ty) => faults.push(format!("key {} is {ty}, expected u32[2]", input.name)),
            InputRole::HostScalar if ty.shape.rank() != 0 => faults.push(format!("host scalar {} is {ty}, expected a 0-d tensor", input.name)),
            _ => {}
        }
    }
    for id in graph.ids() {
        let listed = |index: u32| graph.inputs.get(index as usize).is_some_and(|i| i.value == Value::first(id));
        if matches!(&*graph.node(id).op, Op::InputOp(op) if !listed(op.index)) {
            faults.push(format!("%{} is an input without a place in the input list", id.0));
        }
    }
}

fn is_keys(ty: &TensorType) -> bool {
    ty.dtype == DType::U32 && ty.shape.0.last().is_some_and(|words| words.is(2))
}

fn check_outputs(graph: &Graph, faults: &mut Vec<String>) {
    let mut names = HashSet::new();
    for output in &graph.outputs {
        if !names.insert(&output.name) {
            faults.push(format!("there are two outputs named {}", output.name));
        }
        if !exists(graph, output.value) {
            faults.push(format!("output {} is %{}.{}, which does not exist", output.name, output.value.node.0, output.value.result));
        }
    }
}

/// Symbols have one range and a printable name; no size is negative.
fn check_sizes(graph: &Graph, faults: &mut Vec<String>) {
    faults.extend(size_conflicts(graph).into_iter().map(|(id, fault)| format!("{}: {fault}", describe(graph, id))));
    for (id, ty) in graph.ids().flat_map(|id| graph.node(id).types.iter().map(move |ty| (id, ty))) {
        if has_negative_size(ty) {
            faults.push(format!("{} has a negative size: {ty}", describe(graph, id)));
        }
    }
}

/// Symbols that stand for no size, or for several, and the first node that shows it.
pub fn size_conflicts(graph: &Graph) -> Vec<(NodeId, String)> {
    let mut faults = vec![];
    let mut ranges: BTreeMap<std::sync::Arc<str>, (i64, i64)> = BTreeMap::new();
    for (id, ty) in graph.ids().flat_map(|id| graph.node(id).types.iter().map(move |ty| (id, ty))) {
        let mut symbols = vec![];
        ty.shape.0.iter().for_each(|d| d.collect_symbols(&mut symbols));
        for s in symbols {
            let known = ranges.insert(s.name.clone(), (s.min, s.max));
            if known == Some((s.min, s.max)) {
                continue;
            }
            if !is_symbol_name(&s.name) || s.min > s.max || s.max < 0 {
                faults.push((id, format!("symbol `{}` {}..{} has no proper name or range", s.name, s.min, s.max)));
            } else if let Some(range) = known {
                faults.push((id, format!("symbol {} has two ranges: {}..{} and {}..{}", s.name, range.0, range.1, s.min, s.max)));
            }
        }
    }
    faults
}

/// Dimensions and elements of a type beyond which a text is refused: no device holds them, and arithmetic on less stays within 64 bits.
const MAX_RANK: usize = 64;
const MAX_NUMEL: i64 = 1 << 48;

/// What is wrong with a type that a text gives or leads to.
pub(super) fn fault_of(ty: &TensorType) -> Option<&'static str> {
    let known = ty.shape.0.iter().filter_map(Dim::as_int);
    let numel = known.fold(1i64, |n, d| n.saturating_mul(d.max(1)));
    match (has_negative_size(ty), ty.shape.rank() > MAX_RANK) {
        (true, _) => Some("negative size"),
        (_, true) => Some("too many dimensions"),
        _ => (numel > MAX_NUMEL).then_some("too many elements"),
    }
}

/// Whether some size is below zero for all values of its symbols.
pub(super) fn has_negative_size(ty: &TensorType) -> bool {
    ty.shape.0.iter().any(|d: &Dim| d.range().1 < 0)
}

/// Names that size expressions can hold.
pub(super) fn is_symbol_name(name: &str) -> bool {
    let starts_well = name.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_');
    starts_well && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.') && !is_size_function(name)
}

/// Symbols of the types of a graph (not of its attributes, which carry their ranges), sorted by name.
pub(super) fn symbols(graph: &Graph) -> Vec<Symbol> {
    let mut out = vec![];
    for ty in graph.nodes.iter().flat_map(|n| &n.types[..]) {
        ty.shape.0.iter().for_each(|d| d.collect_symbols(&mut out));
    }
    out.sort();
    out
}

/// A region has one policy.
fn check_regions(graph: &Graph, faults: &mut Vec<String>) {
    let mut policies: BTreeMap<u32, Policy> = BTreeMap::new();
    for region in graph.nodes.iter().filter_map(|n| n.region) {
        if *policies.entry(region.id).or_insert(region.policy) != region.policy {
            faults.push(format!("region {} has two policies", region.id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Builder, OutputRole};
    use super::*;
    use crate::ops::Pointwise;
    use crate::scalar::ScalarFn;

    #[test]
    fn all_faults_are_collected() {
        let mut b = Builder::new("g");
        let x = b.input("x", InputRole::Input, TensorType::new(DType::F32, (2, 3))).unwrap();
        let y = b.scalar(ScalarFn::Exp, &[x]).unwrap();
        b.output("y", OutputRole::User, y);
        let mut g = b.finish();
        assert_eq!(verify(&g), Vec::<String>::new());

        let again = g.nodes[1].clone();
        g.nodes.push(again);
        g.nodes.push(Node {
            op: Op::from(Pointwise { f: ScalarFn::Neg }).into(),
            operands: vec![y].into(),
            types: vec![TensorType::new(DType::I32, (2,))].into(),
            region: None,
        });
        let late = Value::first(NodeId(9));
        g.nodes.push(Node { op: Op::from(Pointwise { f: ScalarFn::Neg }).into(), operands: vec![late].into(), types: [].into(), region: None });
        g.outputs.push(super::super::Output { name: "y".into(), role: OutputRole::User, value: late });
        g.inputs.push(g.inputs[0].clone());
        assert_eq!(
            verify(&g),
            [
                "5 nodes carry 2 provenances",
                "there are two inputs named x",
                "input x is not the input node of index 1",
                "there are two outputs named y",
                "output y is %9.0, which does not exist",
                "%2 (exp) equals %1",
                "%3 (neg) infers f32[2, 3], but is recorded as i32[2]",
                "%4 (neg) reads %9.0, which is not computed before it",
            ]
        );
    }
}
