//! The cut is the cheapest there is, and the halves compute what the whole does.

use super::network::{in_network, min_cut, recomputing_cost, saving_cost};
use super::*;
use crate::autograd::{Seed, Wrt, joint_graph, set_unit_cotangents};
use crate::graph::{Builder, InputRole, OutputRole, Policy, Region};
use crate::ops::{Array, Class, Precision, ReduceKind};
use crate::scalar::ScalarFn;
use crate::types::DType;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

type Env = BTreeMap<String, Array>;

fn evaluate(graph: &Graph, inputs: &Env) -> Env {
    let mut values: BTreeMap<Value, Array> = BTreeMap::new();
    for input in &graph.inputs {
        values.insert(input.value, inputs[&input.name].clone());
    }
    for id in graph.ids() {
        let node = graph.node(id);
        if node.op.class() != Class::Input {
            let operands: Vec<Array> = node.operands.iter().map(|v| values[v].clone()).collect();
            for (result, array) in node.op.eval(&operands, &node.types, Precision::Exact).unwrap().into_iter().enumerate() {
                values.insert(Value { node: id, result: result as u32 }, array);
            }
        }
    }
    graph.outputs.iter().map(|o| (o.name.clone(), values[&o.value].clone())).collect()
}

/// Values by name: floats around zero unless `positive`, integers below a bound.
fn inputs_of(graph: &Graph, positive: bool, below: i64) -> Env {
    let array = |k: usize, ty: &TensorType| {
        let shape = ty.shape.as_ints().unwrap();
        let n: usize = shape.iter().product();
        if !ty.dtype.is_float() {
            let below = if ty.dtype == DType::Bool { 2 } else { below };
            return Array::int(ty.dtype, shape, (0..n).map(|i| (i * 5 + k) as i64 % below).collect());
        }
        let number = |i: usize| ((i * 7 + k * 3) % 11) as f64 / 8.0;
        Array::float(ty.dtype, shape, (0..n).map(|i| if positive { number(i) + 0.125 } else { number(i) - 0.6 }).collect())
    };
    graph.inputs.iter().enumerate().map(|(k, i)| (i.name.clone(), array(k, graph.ty(i.value)))).collect()
}

/// Forward, then backward on what it saved, against the joint graph.
fn check_values(joint: &Graph, partition: &Partition) {
    check_values_at(joint, partition, false, 4);
}

fn check_values_at(joint: &Graph, partition: &Partition, positive: bool, below: i64) {
    let whole = set_unit_cotangents(joint).unwrap();
    let mut env = inputs_of(&whole, positive, below);
    let expected = evaluate(&whole, &env);
    let forward = evaluate(&partition.forward, &env);
    env.extend(forward.clone());
    let backward = evaluate(&partition.backward, &env);
    for (name, array) in &expected {
        let found = backward.get(name).or(forward.get(name)).unwrap();
        let same = found.floats().iter().zip(array.floats()).all(|(a, b)| *a == b || (a.is_nan() && b.is_nan()));
        assert!(
            same && found.shape == array.shape,
            "{name}:\n{}\n{}",
            crate::graph::print(&partition.forward),
            crate::graph::print(&partition.backward)
        );
    }
}

/// What the backward computes of the forward when those values are saved; `None` when it may not.
fn recomputed(joint: &Graph, classes: &Classes, saved: &BTreeSet<Value>) -> Option<BTreeSet<NodeId>> {
    let mut needed: BTreeSet<Value> = joint.outputs.iter().filter(|o| matches!(o.role, OutputRole::Gradient(_))).map(|o| o.value).collect();
    for id in joint.ids().filter(|id| classes.tangent[id.0 as usize]) {
        needed.extend(joint.node(id).operands.iter().copied());
    }
    let mut computed = BTreeSet::new();
    while let Some(v) = needed.pop_last() {
        if in_network(joint, classes, v.node) && !saved.contains(&v) {
            if classes.ban[v.node.0 as usize].is_some() {
                return None;
            }
            computed.insert(v.node);
            needed.extend(joint.node(v.node).operands.iter().copied());
        }
    }
    Some(computed)
}

fn brute_force(joint: &Graph, classes: &Classes) -> u128 {
    let candidates: Vec<Value> =
        joint.ids().filter(|&id| in_network(joint, classes, id) && !classes.never_saved[id.0 as usize]).map(Value::first).collect();
    assert!(candidates.len() <= 14, "too large for brute force");
    let subset = |bits: u32| candidates.iter().enumerate().filter(move |(k, _)| bits >> k & 1 == 1).map(|(_, v)| *v).collect::<BTreeSet<_>>();
    let price = |saved: &BTreeSet<Value>| {
        let computed = recomputed(joint, classes, saved)?;
        let saving: u128 = saved.iter().map(|v| saving_cost(joint, classes, *v)).sum();
        Some(saving + computed.iter().map(|id| recomputing_cost(joint, classes, *id)).sum::<u128>())
    };
    (0..1u32 << candidates.len()).map(subset).filter_map(|s| price(&s)).min().unwrap()
}

/// One step of a random program over matrices: which op, and which earlier values.
type Step = (u8, usize, usize);

fn program(steps: &[Step]) -> Graph {
    let mut b = Builder::new("random");
    let ty = |shape: &[i64]| TensorType::new(DType::F32, shape);
    let mut values = vec![b.input("x", InputRole::Input, ty(&[3, 3])).unwrap(), b.input("w", InputRole::Parameter, ty(&[3, 3])).unwrap()];
    for &(op, i, j) in steps {
        let (x, y) = (values[i % values.len()], values[j % values.len()]);
        let square = |b: &mut Builder, v| b.broadcast_to(v, &crate::types::Shape::new(vec![3.into(), 3.into()])).unwrap();
        let v = match op % 8 {
            0 => b.matmul(x, y),
            1 => b.scalar(ScalarFn::Sin, &[x]),
            2 => b.mul(x, y),
            3 => b.add(x, y),
            4 => b.transpose(x),
            5 => {
                let r = b.reduce(ReduceKind::Sum, x, &[1], true).unwrap();
                Ok(square(&mut b, r))
            }
            6 => b.scalar(ScalarFn::Relu, &[x]),
            _ => b.scalar(ScalarFn::Tanh, &[x]),
        };
        values.push(v.unwrap());
    }
    let loss = b.reduce(ReduceKind::Sum, *values.last().unwrap(), &[0, 1], false).unwrap();
    b.output("loss", OutputRole::Loss, loss);
    b.finish()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_cut_is_optimal_and_right(steps in prop::collection::vec((any::<u8>(), 0usize..8, 0usize..8), 1..7)) {
        let joint = joint_graph(&program(&steps), Wrt::Inputs, Seed::Loss).unwrap();
        let classes = Classes::of(&joint, &fusible_by_traits, Pressure::NONE);
        let free = joint.ids().filter(|&id| in_network(&joint, &classes, id) && !classes.never_saved[id.0 as usize]).count();
        prop_assume!(free <= 14);
        let least = min_cut(&joint, &classes).unwrap().1;
        prop_assert_eq!(least, brute_force(&joint, &classes));
        // What is banned as dominated makes no cut dearer.
        let freed = classes.ban.iter().map(|ban| ban.filter(|b| *b != Ban::Dominated)).collect();
        prop_assert_eq!(least, brute_force(&joint, &Classes { ban: freed, ..classes }));
        let everything = min_cut_rematerialization_partition(&joint, &fusible_by_traits, Saving::Everything).unwrap();
        check_values(&joint, &everything);
        for pressure in Pressure::all() {
            check_values(&joint, &partition_under(&joint, &fusible_by_traits, Saving::MinCut, pressure).unwrap());
        }
    }
}

fn partition_of(forward: &Graph) -> (Graph, Partition) {
    let joint = joint_graph(forward, Wrt::Parameters, Seed::Loss).unwrap();
    let partition = min_cut_rematerialization_partition(&joint, &fusible_by_traits, Saving::MinCut).unwrap();
    check_values(&joint, &partition);
    (joint, partition)
}

/// `loss = sum(sin(sin(x w)))`, its middle in a region if there is one.
fn chain(region: Option<Region>) -> Graph {
    let mut b = Builder::new("chain");
    let x = b.input("x", InputRole::Input, TensorType::new(DType::F32, (4, 3))).unwrap();
    let w = b.input("w", InputRole::Parameter, TensorType::new(DType::F32, (3, 5))).unwrap();
    b.region = region;
    let h = b.matmul(x, w).unwrap();
    let s = b.scalar(ScalarFn::Sin, &[h]).unwrap();
    let s = b.scalar(ScalarFn::Sin, &[s]).unwrap();
    b.region = None;
    let loss = b.reduce(ReduceKind::Sum, s, &[0, 1], false).unwrap();
    b.output("loss", OutputRole::Loss, loss);
    b.finish()
}

#[test]
fn pointwise_values_are_recomputed_from_the_product() {
    let (_, partition) = partition_of(&chain(None));
    let labels: Vec<&str> = partition.saved.iter().map(|s| s.label.as_str()).collect();
    assert_eq!(labels, ["matmul"]);
    assert_eq!(partition.recomputed.len(), 1);
    assert_eq!(partition.recomputed[0].label, "sin");
    assert_eq!(partition.saved[0].bytes, Dim::int(80));
    assert_eq!(partition.decisions.len(), 2);
}

#[test]
fn a_region_is_recomputed_from_inputs() {
    let (_, partition) = partition_of(&chain(Some(Region { id: 0, policy: Policy::MustRecompute })));
    assert!(partition.saved.is_empty());
    assert_eq!(partition.backward.nodes.iter().filter(|n| n.op.class() == Class::Template).count(), 2);
}

#[test]
fn a_region_that_saves_keeps_all_it_needs() {
    let (_, partition) = partition_of(&chain(Some(Region { id: 0, policy: Policy::MustSave })));
    assert_eq!(partition.saved.len(), 2);
    assert!(partition.recomputed.is_empty());
}

#[test]
fn views_are_rebuilt_from_their_base() {
    let mut b = Builder::new("views");
    let x = b.input("x", InputRole::Input, TensorType::new(DType::F32, (4, 3))).unwrap();
    let w = b.input("w", InputRole::Parameter, TensorType::new(DType::F32, (3, 4))).unwrap();
    let h = b.matmul(x, w).unwrap();
    let t = b.transpose(h).unwrap();
    let p = b.matmul(t, t).unwrap();
    let loss = b.reduce(ReduceKind::Sum, p, &[0, 1], false).unwrap();
    b.output("loss", OutputRole::Loss, loss);
    let (_, partition) = partition_of(&b.finish());
    assert_eq!(partition.saved.len(), 1);
    assert_eq!(partition.saved[0].label, "matmul");
    assert!(partition.backward.nodes.iter().any(|n| n.op.is_view()));
}

#[test]
fn small_results_of_reductions_are_saved() {
    let mut b = Builder::new("norm");
    let x = b.input("x", InputRole::Parameter, TensorType::new(DType::F32, (4, 64))).unwrap();
    let e = b.scalar(ScalarFn::Exp, &[x]).unwrap();
    let s = b.reduce(ReduceKind::Sum, e, &[1], true).unwrap();
    let y = b.div(e, s).unwrap();
    let y = b.mul(y, y).unwrap();
    let loss = b.reduce(ReduceKind::Sum, y, &[0, 1], false).unwrap();
    b.output("loss", OutputRole::Loss, loss);
    let (_, partition) = partition_of(&b.finish());
    let saved: Vec<String> = partition.saved.iter().map(|s| format!("{} {}", s.label, s.ty)).collect();
    assert_eq!(saved, ["sum f32[4, 1]"]);
}

#[test]
fn a_residual_stream_is_not_recomputed_from_its_start() {
    let mut b = Builder::new("residual");
    let mut x = b.input("x", InputRole::Input, TensorType::new(DType::F32, (8, 8))).unwrap();
    for k in 0..4 {
        let w = b.input(&format!("w{k}"), InputRole::Parameter, TensorType::new(DType::F32, (8, 8))).unwrap();
        let n = b.scalar(ScalarFn::Tanh, &[x]).unwrap();
        let h = b.matmul(n, w).unwrap();
        x = b.add(x, h).unwrap();
    }
    let loss = b.reduce(ReduceKind::Sum, x, &[0, 1], false).unwrap();
    b.output("loss", OutputRole::Loss, loss);
    let (_, partition) = partition_of(&b.finish());
    assert!(partition.recomputed.iter().all(|r| r.label != "add"), "{:?}", partition.decisions);
}

#[test]
fn nothing_of_the_cotangents_is_in_the_forward() {
    let (joint, partition) = partition_of(&chain(None));
    assert!(joint.inputs.iter().any(|i| i.role == InputRole::Cotangent));
    assert!(partition.forward.inputs.iter().all(|i| i.role != InputRole::Cotangent));
    assert!(partition.backward.inputs.iter().all(|i| i.role != InputRole::Cotangent));
    assert_eq!(partition.backward.input("saved.0").unwrap().role, InputRole::Saved);
}

/// Every sample of the op table, differentiated, through the joint passes and cut.
#[test]
fn every_op_survives_the_cut() {
    for sample in crate::ops::samples() {
        let mut b = Builder::new("sample");
        let operands: Vec<Value> =
            sample.operands.iter().enumerate().map(|(k, ty)| b.input(&format!("x{k}"), InputRole::Input, ty.clone()).unwrap()).collect();
        for (k, v) in b.node(sample.op.clone(), &operands).unwrap().into_iter().enumerate() {
            b.output(&format!("y{k}"), OutputRole::User, v);
        }
        let Ok(joint) = joint_graph(&b.finish(), Wrt::Inputs, Seed::Cotangents) else { continue };
        let joint = crate::passes::recursive_joint_graph_passes(joint).unwrap();
        for (saving, pressure) in [(Saving::MinCut, 0), (Saving::MinCut, 1), (Saving::MinCut, 12), (Saving::Everything, 0)] {
            let partition = partition_under(&joint, &fusible_by_traits, saving, Pressure(pressure)).unwrap();
            check_values_at(&joint, &partition, sample.positive, sample.index_below);
        }
    }
}

/// Faults of TorchInductor's partitioner, by the number under which they were reported. In all of them `h` is a matrix product.
fn faulty(rest: impl FnOnce(&mut Builder, Value, Value) -> Value) -> Graph {
    let mut b = Builder::new("fault");
    let x = b.input("x", InputRole::Input, TensorType::new(DType::F32, (8, 16))).unwrap();
    let w = b.input("w", InputRole::Parameter, TensorType::new(DType::F32, (16, 16))).unwrap();
    let v = b.input("v", InputRole::Parameter, TensorType::new(DType::F32, (16, 16))).unwrap();
    let h = b.matmul(x, w).unwrap();
    let y = rest(&mut b, h, v);
    let loss = b.reduce(ReduceKind::Sum, y, &[0, 1], false).unwrap();
    b.output("loss", OutputRole::Loss, loss);
    b.finish()
}

fn saved_labels(partition: &Partition) -> Vec<&str> {
    partition.saved.iter().map(|s| s.label.as_str()).collect()
}

/// 149258: a product was saved where the sum behind it costs as much and spares adding again.
#[test]
fn a_sum_is_saved_rather_than_the_product_in_it() {
    let (_, partition) = partition_of(&faulty(|b, h, v| {
        let y = b.matmul(h, v).unwrap();
        let y = b.add(y, h).unwrap();
        b.mul(y, y).unwrap()
    }));
    assert_eq!(saved_labels(&partition), ["matmul", "add"]);
}

/// 126348: the softmax was saved beside its operand; its rows' maxima and sums are enough.
#[test]
fn a_softmax_is_saved_by_its_rows() {
    let (_, partition) = partition_of(&faulty(|b, h, _| {
        let max = b.reduce(ReduceKind::Max, h, &[1], true).unwrap();
        let e = b.sub(h, max).unwrap();
        let e = b.scalar(ScalarFn::Exp, &[e]).unwrap();
        let sum = b.reduce(ReduceKind::Sum, e, &[1], true).unwrap();
        let p = b.div(e, sum).unwrap();
        b.mul(p, h).unwrap()
    }));
    let large: Vec<&str> = partition.saved.iter().filter(|s| s.ty.numel() == Dim::int(128)).map(|s| s.label.as_str()).collect();
    assert_eq!(large, ["matmul"], "{:?}", partition.decisions);
}

/// 141881 and 133637: copies of weights in another format were kept from forward to backward.
#[test]
fn converted_weights_are_converted_again() {
    let (_, partition) = partition_of(&faulty(|b, h, v| {
        let v = b.cast(v, DType::F64).unwrap();
        let v = b.cast(v, DType::F32).unwrap();
        let h = b.scalar(ScalarFn::Tanh, &[h]).unwrap();
        b.matmul(h, v).unwrap()
    }));
    assert!(partition.saved.iter().all(|s| s.ty.shape[0] != Dim::int(16)), "{:?}", partition.decisions);
}

/// 103635 and 121692: what the backward reads from memory was always saved, though a kernel that runs anyway could store it.
#[test]
fn operands_of_weight_gradients_are_computed_again() {
    let (_, partition) = partition_of(&faulty(|b, h, v| {
        let g = b.scalar(ScalarFn::Tanh, &[h]).unwrap();
        let g = b.mul(g, h).unwrap();
        b.matmul(g, v).unwrap()
    }));
    assert_eq!(saved_labels(&partition), ["matmul"], "{:?}", partition.decisions);
}

/// 190717 and 190758: under a budget the seed itself was drawn again, and the backward had another mask.
#[test]
fn masks_are_the_same_at_every_pressure() {
    let mut b = Builder::new("dropped");
    let x = b.input("x", InputRole::Input, TensorType::new(DType::F32, (8, 16))).unwrap();
    let key = b.input("key", InputRole::Key, TensorType::new(DType::U32, 2)).unwrap();
    let w = b.input("w", InputRole::Parameter, TensorType::new(DType::F32, (16, 16))).unwrap();
    let mut y = x;
    for stream in 0..3 {
        let own = b.fold_in(key, stream).unwrap();
        y = b.matmul(y, w).unwrap();
        y = b.dropout(y, own, 0.5).unwrap();
    }
    let loss = b.reduce(ReduceKind::Sum, y, &[0, 1], false).unwrap();
    b.output("loss", OutputRole::Loss, loss);
    let joint = joint_graph(&b.finish(), Wrt::Parameters, Seed::Loss).unwrap();
    let joint = crate::passes::recursive_joint_graph_passes(joint).unwrap();
    for pressure in Pressure::all() {
        let partition = partition_under(&joint, &fusible_by_traits, Saving::MinCut, pressure).unwrap();
        assert!(partition.saved.iter().all(|s| s.ty.dtype == DType::F32), "{:?}", partition.decisions);
        check_values(&joint, &partition);
    }
}
