//! Every sample through every layer this room knows: evaluation, decomposition, derivative, lowered nests.

use super::*;
use crate::graph::{InputRole, OutputRole};
use crate::loop_ir::naive::{self, Memory};
use crate::loop_ir::{Buffer, BufferId, Nest, flatten, verify};
use crate::scalar::ScalarFn;
use crate::types::{Bindings, DType, Provenance};
use std::collections::HashMap;

/// Deterministic numbers in `0..1`.
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as f64 / (1u64 << 31) as f64
    }
}

fn draw(sample: &Sample) -> Vec<Array> {
    let mut draws = Draws(7);
    let mut one = |ty: &TensorType| {
        let shape = ty.shape.as_ints().expect("constant sizes");
        let numel: usize = shape.iter().product();
        let mut number = || match ty.dtype {
            d if d.is_float() && sample.positive => d.round(0.1 + 1.9 * draws.next()),
            d if d.is_float() => d.round(4.0 * draws.next() - 2.0),
            DType::Bool => (draws.next() < 0.5) as i64 as f64,
            _ => (draws.next() * sample.index_below as f64).floor(),
        };
        let data: Vec<f64> = (0..numel).map(|_| number()).collect();
        if ty.dtype.is_float() { Array::float(ty.dtype, shape, data) } else { Array::int(ty.dtype, shape, data.iter().map(|&x| x as i64).collect()) }
    };
    sample.operands.iter().map(&mut one).collect()
}

/// A derivative of operands that all have gradients, of an op without bodies.
fn context<'a>(b: &'a mut Builder, operands: &'a [Value], results: &'a [Value], cotangents: &'a [Option<Value>]) -> VjpContext<'a> {
    const WANTED: &[bool] = &[true; 16];
    VjpContext { b, operands, results, cotangents, wanted: &WANTED[..operands.len()], pull_back: &no_bodies }
}

fn no_bodies(_: &Graph) -> Built<Graph> {
    Err("an op with bodies is differentiated in the tests of the library".into())
}

/// The sample as a graph; with `gradients`, cotangents follow the inputs and gradients of float operands the outputs.
fn graph_of(sample: &Sample, gradients: bool) -> Built<Graph> {
    let mut b = Builder::new("sample");
    let operands: Vec<Value> =
        sample.operands.iter().enumerate().map(|(i, ty)| b.input(&format!("x{i}"), InputRole::Input, ty.clone())).collect::<Built<_>>()?;
    let results = b.node(sample.op.clone(), &operands)?;
    for (i, &v) in results.iter().enumerate() {
        b.output(&format!("y{i}"), OutputRole::User, v);
    }
    if gradients {
        let mut cotangents = vec![];
        for (i, &v) in results.iter().enumerate() {
            let ty = b.ty(v).clone();
            cotangents.push(if ty.dtype.is_float() { Some(b.input(&format!("g{i}"), InputRole::Cotangent, ty)?) } else { None });
        }
        let grads = sample.op.vjp(&mut context(&mut b, &operands, &results, &cotangents))?;
        assert_eq!(grads.len(), operands.len(), "{:?} gives one gradient per operand", sample.op);
        for (i, grad) in grads.into_iter().enumerate() {
            if let Some(v) = grad {
                assert_eq!(b.ty(v), b.ty(operands[i]), "{:?}: type of gradient {i}", sample.op);
                b.output(&format!("dx{i}"), OutputRole::User, v);
            }
        }
    }
    Ok(b.finish())
}

/// The graph without composites.
fn decomposed(graph: &Graph) -> Graph {
    let (mut b, mut map) = (Builder::new(&graph.name), crate::graph::ValueMap::default());
    b.copy_inputs(graph, &mut map).unwrap();
    for id in graph.ids() {
        let node = graph.node(id);
        let operands: Vec<Value> = node.operands.iter().map(|v| map[v]).collect();
        if node.op.class() != Class::Composite {
            b.copy_node(graph, id, &mut map).unwrap();
            continue;
        }
        let values = node.op.decompose(&mut b, &operands).expect("composites decompose").unwrap_or_else(|e| panic!("{:?}: {e}", node.op));
        for (result, v) in values.into_iter().enumerate() {
            assert_eq!(b.ty(v), &node.types[result], "{:?}: type of the decomposition", node.op);
            map.insert(Value { node: id, result: result as u32 }, v);
        }
    }
    for o in &graph.outputs {
        b.output(&o.name, o.role.clone(), map[&o.value]);
    }
    let out = b.finish();
    if out.nodes.iter().any(|n| n.op.class() == Class::Composite) { decomposed(&out) } else { out }
}

/// Unfused nests with buffers and the buffer of each output.
fn lowered(graph: &Graph) -> (Vec<Buffer>, Vec<Nest>, HashMap<BufferId, Array>, Vec<BufferId>) {
    let (mut buffers, mut nests, mut checks, mut constants) = (vec![], vec![], vec![], HashMap::new());
    let mut views: HashMap<Value, OperandView> = HashMap::new();
    let add = |buffers: &mut Vec<Buffer>, ty: &TensorType| {
        buffers.push(Buffer { name: "value".into(), ty: ty.clone() });
        BufferId(buffers.len() as u32 - 1)
    };
    for id in graph.ids() {
        let node = graph.node(id);
        if node.op.is_view() {
            let view = views[&node.operands[0]].through(&node.op, &node.types[0]);
            views.insert(Value::first(id), view);
            continue;
        }
        let results: Vec<(BufferId, TensorType)> = node.types.iter().map(|t| (add(&mut buffers, t), t.clone())).collect();
        for (k, (buffer, ty)) in results.iter().enumerate() {
            views.insert(Value { node: id, result: k as u32 }, OperandView::of(*buffer, ty.clone()));
        }
        if let Some(tensor) = node.op.constant() {
            constants.insert(results[0].0, Array::from_host(&tensor));
        } else if node.op.class() != Class::Input {
            let operands = node.operands.iter().map(|v| views[v].clone()).collect();
            let (label, provenance) = (node.op.name().into(), Provenance::default());
            let mut cx = NestBuilder { operands, results, label, provenance, buffers: &mut buffers, nests: &mut nests, checks: &mut checks };
            node.op.lower(&mut cx).unwrap_or_else(|e| panic!("{:?}: {e}", node.op));
        }
    }
    let mut outputs = vec![];
    for o in &graph.outputs {
        let (view, ty) = (views[&o.value].clone(), graph.ty(o.value).clone());
        let buffer = add(&mut buffers, &ty);
        let (label, provenance, results) = ("copy".into(), Provenance::default(), vec![(buffer, ty.clone())]);
        let mut cx = NestBuilder { operands: vec![], results, label, provenance, buffers: &mut buffers, nests: &mut nests, checks: &mut checks };
        cx.nest(&ty.shape.0, &[], |b, at, _| {
            let v = b.load(view.at(at));
            b.write(buffer, flatten(at, &ty.shape.0), v);
            Ok(())
        })
        .unwrap();
        outputs.push(buffer);
    }
    (buffers, nests, constants, outputs)
}

fn memory(a: &Array) -> Memory {
    match &a.data {
        Data::Float(x) => Memory::from_f64(a.dtype, x),
        Data::Int(x) => Memory::from_i64(a.dtype, x),
    }
}

/// Runs a graph without composites through its nests.
fn run_nests(graph: &Graph, inputs: &[Array]) -> Result<Vec<Vec<f64>>, String> {
    run_nests_with(graph, inputs, &Bindings::new())
}

fn run_nests_with(graph: &Graph, inputs: &[Array], bindings: &Bindings) -> Result<Vec<Vec<f64>>, String> {
    let (buffers, nests, constants, outputs) = lowered(graph);
    let mut memories: Vec<Memory> =
        buffers.iter().map(|b| Memory::zeros(b.ty.dtype, b.ty.numel().eval(bindings).expect("bound sizes") as usize)).collect();
    for (k, input) in inputs.iter().enumerate() {
        memories[graph.inputs[k].value.node.0 as usize] = memory(input);
    }
    // Inputs come first and each takes one buffer, so that node and buffer numbers agree for them.
    for (buffer, a) in constants {
        memories[buffer.0 as usize] = memory(&a);
    }
    for nest in &nests {
        let faults = verify(nest);
        assert!(faults.is_empty(), "{faults:?}\n{nest}");
        if let Some(code) = naive::run(nest, &mut memories, bindings).map_err(|e| format!("{e}\n{nest}"))? {
            return Err(format!("status {code}\n{nest}"));
        }
    }
    Ok(outputs.iter().map(|o| memories[o.0 as usize].to_f64()).collect())
}

/// Largest difference relative to the largest magnitude; infinite when NaNs or infinities stand at different places.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let scale = b.iter().filter(|x| x.is_finite()).fold(1.0f64, |m, x| m.max(x.abs()));
    let one = |(x, y): (&f64, &f64)| match (x.is_finite(), y.is_finite()) {
        (true, true) => (x - y).abs() / scale,
        _ if x == y || (x.is_nan() && y.is_nan()) => 0.0,
        _ => f64::INFINITY,
    };
    a.iter().zip(b).map(one).fold(0.0, f64::max)
}

fn has_subgraph(sample: &Sample) -> bool {
    !sample.op.subgraphs().is_empty()
}

fn tolerance(sample: &Sample) -> f64 {
    let half =
        sample.operands.iter().any(|t| matches!(t.dtype, DType::F16 | DType::BF16)) || matches!(&sample.op, Op::Cast(c) if c.dtype == DType::F16);
    if half { 2e-2 } else { 2e-5 }
}

/// Rules and derivatives make many: what few operators have goes into a box.
#[test]
fn operators_are_small() {
    assert!(size_of::<Op>() <= 64, "{} bytes", size_of::<Op>());
}

#[test]
fn samples_agree_with_their_decomposition_and_their_nests() {
    let mut faults = vec![];
    for sample in samples().iter().filter(|s| !has_subgraph(s)) {
        let inputs = draw(sample);
        let graph = graph_of(sample, false).unwrap_or_else(|e| panic!("{:?}: {e}", sample.op));
        let simple = decomposed(&graph);
        let exact = run(&graph, &inputs, Precision::Exact).unwrap_or_else(|e| panic!("{:?}: {}", sample.op, e.message));
        let steps = run(&simple, &inputs, Precision::Exact).unwrap();
        let working = run(&graph, &inputs, Precision::Working).unwrap();
        let nests = run_nests(&simple, &inputs).unwrap_or_else(|e| panic!("{:?}: {e}", sample.op));
        for (k, want) in exact.iter().enumerate() {
            let want = want.floats();
            let apart = [distance(&steps[k].floats(), &want), distance(&working[k].floats(), &want), distance(&nests[k], &want)];
            // Constants of a decomposition are rounded to their dtype, in exact arithmetic too.
            if apart[0] > 1e-6 || apart[1].max(apart[2]) > tolerance(sample) {
                faults.push(format!("{:?}: decomposed, working, nests: {apart:?}", sample.op));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn gradients_agree_with_differences_and_with_their_nests() {
    let mut faults = vec![];
    for sample in samples().iter().filter(|s| !has_subgraph(s)) {
        // Another gradient than the value's is what it is for.
        let has_another = matches!(&sample.op, Op::Pointwise(p) if p.f == ScalarFn::StraightThrough);
        if has_another || !sample.operands.iter().any(|t| t.dtype.is_float()) || tolerance(sample) > 1e-3 {
            continue;
        }
        let graph = match graph_of(sample, true) {
            Err(message) if message.contains("not differentiable") => continue,
            other => other.unwrap_or_else(|e| panic!("{:?}: {e}", sample.op)),
        };
        let forward = graph_of(sample, false).unwrap();
        let mut inputs = draw(sample);
        let mut draws = Draws(11);
        let mut cotangents = vec![];
        for o in graph.inputs.iter().skip(sample.operands.len()) {
            let shape = graph.ty(o.value).shape.as_ints().unwrap();
            let data = (0..shape.iter().product()).map(|_| DType::F32.round(2.0 * draws.next() - 1.0)).collect();
            cotangents.push(Array::float(graph.ty(o.value).dtype, shape, data));
        }
        let all: Vec<Array> = inputs.iter().chain(&cotangents).cloned().collect();
        let simple = decomposed(&graph);
        let exact = run(&graph, &all, Precision::Exact).unwrap_or_else(|e| panic!("{:?}: {}", sample.op, e.message));
        let steps = run(&simple, &all, Precision::Exact).unwrap();
        let nests = run_nests(&simple, &all).unwrap_or_else(|e| panic!("{:?}: {e}", sample.op));
        for (k, output) in graph.outputs.iter().enumerate() {
            let Some(operand) = output.name.strip_prefix("dx") else { continue };
            let (operand, got): (usize, Vec<f64>) = (operand.parse().unwrap(), exact[k].floats());
            let apart = [distance(&steps[k].floats(), &got), distance(&nests[k], &got)];
            let numeric = differences(&forward, &mut inputs, operand, &cotangents);
            let scale = got.iter().filter(|x| x.is_finite()).fold(1.0f64, |m, x| m.max(x.abs()));
            let wrong = got.iter().zip(&numeric).filter(|(g, n)| g.is_finite() && n.is_finite() && (*g - *n).abs() > 1e-4 * scale).count();
            if wrong > 0 || apart[0] > 1e-6 || apart[1] > 1e-4 {
                faults.push(format!("{:?}: operand {operand}: {apart:?}\n  gradient {got:?}\n  numeric  {numeric:?}", sample.op));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Central differences of `sum(cotangent * result)`.
fn differences(forward: &Graph, inputs: &mut [Array], operand: usize, cotangents: &[Array]) -> Vec<f64> {
    let base = inputs[operand].floats();
    let loss = |inputs: &[Array]| {
        let results = run(forward, inputs, Precision::Exact).unwrap();
        let floats = results.iter().filter(|r| r.dtype.is_float());
        floats
            .zip(cotangents)
            .map(|(y, g)| y.floats().iter().zip(g.floats()).map(|(y, g)| if g == 0.0 { 0.0 } else { y * g }).sum::<f64>())
            .sum::<f64>()
    };
    let mut out = vec![];
    for i in 0..base.len() {
        let mut at = |x: f64| {
            let mut moved = base.clone();
            moved[i] = x;
            inputs[operand].data = Data::Float(moved);
            loss(inputs)
        };
        let h = 1e-6;
        out.push((at(base[i] + h) - at(base[i] - h)) / (2.0 * h));
    }
    inputs[operand].data = Data::Float(base);
    out
}

/// Evaluates one op on arrays, directly and through nests, which must agree; gives the results of the nests.
fn check_both(op: impl Into<Op>, inputs: &[Array]) -> Result<Vec<Vec<f64>>, String> {
    let sample = Sample::new(op, inputs.iter().map(|a| a.to_host().ty()).collect());
    let graph = graph_of(&sample, false)?;
    let direct = run(&graph, inputs, Precision::Exact);
    let nests = run_nests(&decomposed(&graph), inputs);
    match (&direct, &nests) {
        (Ok(direct), Ok(nests)) => {
            for (a, b) in direct.iter().zip(nests) {
                assert!(distance(b, &a.floats()) < 1e-5, "{:?}: {b:?} {:?}", sample.op, a.floats());
            }
        }
        (Err(_), Err(_)) => {}
        _ => panic!("{:?}: {direct:?} {nests:?}", sample.op),
    }
    nests
}

fn floats(shape: &[usize], data: &[f64]) -> Array {
    Array::float(DType::F32, shape.to_vec(), data.to_vec())
}

#[test]
fn infinities_are_data() {
    let inf = f64::INFINITY;
    let rows = check_both(Softmax { dim: 1 }, &[floats(&[3, 2], &[-inf, -inf, -inf, 1.0, inf, 0.0])]).unwrap();
    assert!(rows[0][0].is_nan() && rows[0][2] == 0.0 && rows[0][3] == 1.0 && rows[0][4].is_nan());
    let rows = check_both(LogSoftmax { dim: 1 }, &[floats(&[1, 2], &[-inf, 1.0])]).unwrap();
    assert_eq!(rows[0], [-inf, 0.0]);
    // A row that attends to nothing gives zeros.
    let mask = Array::int(DType::Bool, vec![2, 2], vec![0, 0, 1, 0]);
    let (q, v) = (floats(&[2, 1], &[1.0, 2.0]), floats(&[2, 1], &[5.0, 7.0]));
    let y = check_both(ScaledDotProductAttention::default(), &[q.clone(), q, v, mask]).unwrap();
    assert_eq!(y[0], [0.0, 5.0]);
    let sorted = check_both(Sort { dim: 0, descending: false }, &[floats(&[4], &[f64::NAN, inf, -1.0, -inf])]).unwrap();
    assert!(sorted[0][3].is_nan() && sorted[1] == [3.0, 2.0, 1.0, 0.0]);
}

#[test]
fn the_mean_of_ignored_labels_is_nan_with_a_zero_gradient() {
    let op = CrossEntropy { ignore_index: Some(-100), reduction: Reduction::Mean };
    let (x, label) = (floats(&[2, 3], &[1.0, 2.0, 3.0, 0.0, 1.0, 0.0]), Array::int(DType::I64, vec![2], vec![-100, -100]));
    assert!(check_both(op.clone(), &[x.clone(), label.clone()]).unwrap()[0][0].is_nan());
    let sample = Sample::new(op, vec![x.to_host().ty(), label.to_host().ty()]);
    let results = run(&graph_of(&sample, true).unwrap(), &[x, label, floats(&[], &[1.0])], Precision::Exact).unwrap();
    assert_eq!(results[1].floats(), [0.0; 6]);
}

#[test]
fn indices_outside_are_errors_in_every_layer() {
    let (x, index) = (floats(&[3, 1], &[1.0, 2.0, 3.0]), |i: i64| Array::int(DType::I64, vec![1, 1], vec![i]));
    for i in [-1, 3, 1 << 32] {
        assert!(check_both(Gather { dim: 0 }, &[x.clone(), index(i)]).is_err());
        assert!(check_both(IndexSelect { dim: 0 }, &[x.clone(), index(i)]).is_err());
        assert!(check_both(ScatterAdd { dim: 0, checked: true }, &[x.clone(), index(i), floats(&[1, 1], &[5.0])]).is_err());
        let loss = CrossEntropy { ignore_index: Some(-100), reduction: Reduction::Sum };
        assert!(check_both(loss, &[x.clone(), Array::int(DType::I64, vec![3], vec![0, i, 0])]).is_err());
    }
    let kept = check_both(ScatterAdd { dim: 0, checked: false }, &[x.clone(), index(3), floats(&[1, 1], &[5.0])]).unwrap();
    assert_eq!(kept[0], [1.0, 2.0, 3.0]);
}

#[test]
fn derivatives_share_what_the_decomposition_computes() {
    let count = |op: Op, operands: Vec<TensorType>, f: ScalarFn| {
        let joint = decomposed(&graph_of(&Sample::new(op, operands), true).unwrap());
        joint.nodes.iter().filter(|n| *n.op == Op::from(Pointwise { f })).count()
    };
    let (x, w) = (TensorType::new(DType::F32, (4, 8)), TensorType::new(DType::F32, 8));
    assert_eq!(count(LayerNorm { dims: 1, eps: Real::new(1e-5) }.into(), vec![x.clone(), w.clone(), w], ScalarFn::Rsqrt), 1);
    assert_eq!(count(Softmax { dim: 1 }.into(), vec![x.clone()], ScalarFn::Exp), 1);
    assert_eq!(count(Gelu { approximate: true }.into(), vec![x.clone()], ScalarFn::Tanh), 1);
    let labels = TensorType::new(DType::I32, 4);
    assert_eq!(count(CrossEntropy::default().into(), vec![x, labels], ScalarFn::Log), 1);
    let dropout = graph_of(&Sample::new(Dropout { p: Real::new(0.5) }, vec![TensorType::new(DType::F32, 5), TensorType::new(DType::U32, 2)]), true);
    assert_eq!(decomposed(&dropout.unwrap()).nodes.iter().filter(|n| n.op.is_random()).count(), 1);
}

/// A small network over symbolic sizes, with gradients through pad, slice, attention, norms, embedding and loss.
#[test]
fn symbolic_sizes_lower_and_agree_with_numbers() {
    use crate::types::Dim;
    let (batch, time) = (Dim::symbol("b", 1, 64), Dim::symbol("t", 2, 64));
    let mut b = Builder::new("symbolic");
    let tokens = b.input("tokens", InputRole::Input, TensorType::new(DType::I32, (batch.clone(), time.clone()))).unwrap();
    let table = b.input("table", InputRole::Parameter, TensorType::new(DType::F32, (5, 4))).unwrap();
    let key = b.input("key", InputRole::Key, TensorType::new(DType::U32, 2)).unwrap();
    let x = b.embedding(table, tokens).unwrap();
    let h = b.layer_norm(x, 1, None, None, 1e-5).unwrap();
    let attention = ScaledDotProductAttention { causal: true, ..Default::default() };
    let a = b.attention(attention, h, h, x, &[]).unwrap();
    let a = b.dropout(a, key, 0.25).unwrap();
    let tail = b.slice(a, 1, 1, time.clone(), 1).unwrap();
    let head = b.slice(x, 1, 0, 1, 1).unwrap();
    let joined = b.concat(&[head, tail], 1).unwrap();
    let logits = b.linear(joined, table, None).unwrap();
    let flat = b.reshape(logits, [batch.clone() * &time, Dim::int(5)]).unwrap();
    let labels = b.reshape(tokens, batch.clone() * &time).unwrap();
    let loss = b.cross_entropy(flat, labels, None, Reduction::Mean).unwrap();
    let mean = b.mean(joined, &[0, 1], false).unwrap();
    let var = b.var(joined, &[1], 1, false).unwrap();
    // Gradients by hand through a few of the nodes: the walk itself belongs to autograd.
    let sums = b.cumsum(joined, 1).unwrap();
    let padded = b.pad(joined, &[0.into(), 1.into(), 0.into()], &[0.into(), time.clone(), 0.into()], 0.5).unwrap();
    for (name, v) in [("loss", loss), ("mean", mean), ("var", var), ("sums", sums), ("padded", padded)] {
        b.output(name, OutputRole::User, v);
    }
    let seed = b.constant(DType::F32, 1.0).unwrap();
    let op = CrossEntropy { ignore_index: None, reduction: Reduction::Mean };
    let d = op.vjp(&mut context(&mut b, &[flat, labels], &[loss], &[Some(seed)])).unwrap()[0].unwrap();
    b.output("dlogits", OutputRole::User, d);
    let slice = b.graph().def(tail).op.clone();
    let d = slice.vjp(&mut context(&mut b, &[a], &[tail], &[Some(tail)])).unwrap()[0].unwrap();
    b.output("dslice", OutputRole::User, d);
    let graph = b.finish();
    let simple = decomposed(&graph);
    for (nb, nt) in [(1i64, 2i64), (3, 5)] {
        let bindings: Bindings = [("b".to_string(), nb), ("t".to_string(), nt)].into_iter().collect();
        let concrete = crate::graph::concretize(&graph, &bindings).unwrap();
        let (nb, nt) = (nb as usize, nt as usize);
        let mut draws = Draws(3);
        let tokens = Array::int(DType::I32, vec![nb, nt], (0..nb * nt).map(|_| (draws.next() * 5.0) as i64).collect());
        let table = floats(&[5, 4], &(0..20).map(|_| DType::F32.round(draws.next())).collect::<Vec<_>>());
        let inputs = [tokens, table, Array::int(DType::U32, vec![2], vec![1, 2])];
        let direct = run(&concrete, &inputs, Precision::Exact).unwrap();
        let nests = run_nests_with(&simple, &inputs, &bindings).unwrap();
        for (k, o) in graph.outputs.iter().enumerate() {
            assert!(distance(&nests[k], &direct[k].floats()) < 1e-5, "{}: {:?} {:?}", o.name, nests[k], direct[k].floats());
        }
    }
}
