//! Tests generated from the table of operators: every sample of every op through
//!
//! * `inference`: the inferred types are those of the evaluated arrays;
//! * `text`: printing and parsing the graph of the one node, and its nests;
//! * `gradient`: central differences in f64 against the derivative, for each float operand;
//! * `decomposition`: the simpler ops give the same values;
//! * `layers`: every executor of [`EXECUTORS`] agrees with the oracle by the accuracy rule;
//! * `backward`: the compiled forward and backward agree with the evaluated joint graph;
//! * `batching`: three examples at once are what a loop over them gives, and so are their derivatives;
//! * `adapter`: the same, forward and backward, on the software adapter, with all that it has and as `webgpu-default`.
//!
//! A test is named `<op>/<number of the sample>/<what>`; its failure prints the graph.

use inductor::autograd::{Seed, Wrt, joint_graph, pull_back, set_unit_cotangents};
use inductor::config::{Config, Mode, Target};
use inductor::eval::{accuracy, evaluate, evaluate_all, evaluate_exact};
use inductor::graph::{Builder, Graph, Inline, InputRole, Node, OutputRole, Value, ValueMap, inline_subgraphs, parse, print, verify};
use inductor::interp::Interpreter;
use inductor::loop_ir::Phase;
use inductor::lower::lower;
use inductor::ops::{Array, Class, Data, Op, OpDef, Precision, Sample, VjpContext, samples};
use inductor::passes::{post_grad_passes, recursive_joint_graph_passes, recursive_pre_grad_passes};
use inductor::scalar::ScalarFn;
use inductor::schedule::schedule;
use inductor::types::{DType, HostTensor, TensorType};
use libtest_mimic::{Arguments, Failed, Trial};
use std::collections::BTreeMap;
use std::sync::Arc;

#[path = "ops/batching.rs"]
mod batching;
mod support;

use support::layers::{self, Named, What};
use support::nests::parse_back;

type Check = fn(&Case) -> Result<(), String>;
type Executor = fn(&Graph, &[HostTensor]) -> Result<Vec<HostTensor>, String>;

/// Ways to compute a graph's outputs that must agree with the oracle, one row for each layer. An executor that cannot run an op
/// by design gives an error that begins with `unsupported`.
const EXECUTORS: &[(&str, Executor)] = &[
    ("reparsed", |graph, inputs| {
        let graph = parse(&print(graph)).map_err(|e| e.to_string())?;
        evaluate(&graph, inputs, Precision::Working).map_err(|e| e.to_string())
    }),
    ("passes", |graph, inputs| {
        let graph = recursive_pre_grad_passes(graph).and_then(recursive_joint_graph_passes).and_then(post_grad_passes).map_err(|e| e.to_string())?;
        evaluate(&graph, inputs, Precision::Working).map_err(|e| e.to_string())
    }),
    ("nests", |graph, inputs| interpret(graph, inputs, &Config { fuse: false, reuse: false, ..Config::default() })),
    ("program", |graph, inputs| interpret(graph, inputs, &Config::default())),
];

/// Elements of an operand whose derivative is checked.
const MAX_ELEMENTS: usize = 24;

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = vec![];
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for sample in samples() {
        let op = if matches!(sample.op, Op::Pointwise(_)) { sample.op.name() } else { sample.op.text_name() };
        let count = counts.entry(op.to_string()).or_default();
        let checks: [(&str, Check); 8] = [
            ("inference", check_inference),
            ("text", check_text),
            ("gradient", check_gradient),
            ("decomposition", check_decomposition),
            ("layers", check_layers),
            ("backward", check_backward),
            ("batching", batching::check),
            ("adapter", check_adapter),
        ];
        for (what, check) in checks {
            let case = (sample.clone(), *count as u64);
            trials.push(Trial::test(format!("{op}/{count}/{what}"), move || run(&case.0, case.1, check).map_err(Failed::from)));
        }
        *count += 1;
    }
    trials.push(Trial::test("table/every_op_has_samples", || every_op_has_samples().map_err(Failed::from)));
    trials.push(Trial::test("table/branches_of_examples", || batching::branches_of_examples().map_err(Failed::from)));
    trials.push(Trial::test("table/names_are_unambiguous", || names_are_unambiguous().map_err(Failed::from)));
    libtest_mimic::run(&arguments, trials).exit();
}

/// The graph of one sample, with inputs.
struct Case {
    op: Op,
    graph: Graph,
    inputs: Vec<HostTensor>,
}

fn run(sample: &Sample, number: u64, check: Check) -> Result<(), String> {
    let graph = graph_of(sample)?;
    let mut random = Random(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x1234_5678);
    let inputs = sample.operands.iter().map(|ty| random.tensor(ty, sample.positive, sample.index_below)).collect();
    let text = print(&graph);
    check(&Case { op: sample.op.clone(), graph, inputs }).map_err(|message| format!("{message}\n{text}"))
}

fn graph_of(sample: &Sample) -> Result<Graph, String> {
    let mut b = Builder::new("sample");
    let mut operands = vec![];
    for (k, ty) in sample.operands.iter().enumerate() {
        operands.push(b.input(&format!("x{k}"), InputRole::Input, ty.clone())?);
    }
    for (k, v) in b.node(sample.op.clone(), &operands)?.into_iter().enumerate() {
        b.output(&format!("y{k}"), OutputRole::User, v);
    }
    Ok(b.finish())
}

/// A deterministic generator (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In (0, 1).
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    fn tensor(&mut self, ty: &TensorType, positive: bool, index_below: i64) -> HostTensor {
        let shape = ty.shape.as_ints().expect("samples have constant sizes");
        let numel: usize = shape.iter().product();
        if ty.dtype.is_float() {
            let (low, high) = if positive { (0.1, 2.0) } else { (-2.0, 2.0) };
            let values: Vec<f64> = (0..numel).map(|_| low + (high - low) * self.unit()).collect();
            return HostTensor::from_f64(ty.dtype, &shape, &values);
        }
        let below = if ty.dtype == DType::Bool { 2 } else { index_below.max(1) as u64 };
        let values: Vec<i64> = (0..numel).map(|_| (self.next() % below) as i64).collect();
        HostTensor::from_i64(ty.dtype, &shape, &values)
    }
}

/// The case, and the same with f64 in place of every float dtype, where constants are not rounded; each with the accuracy to ask
/// of exact evaluation.
fn with_wide(case: &Case, accuracy: f64) -> Vec<(Case, f64)> {
    let text = print(&case.graph);
    let rounding = [("bf16", 3e-2), ("f16", 4e-3), ("f32", 1e-6)].into_iter().find(|(name, _)| text.contains(name)).map_or(0.0, |(_, eps)| eps);
    let mut cases = vec![(Case { op: case.op.clone(), graph: case.graph.clone(), inputs: case.inputs.clone() }, accuracy.max(rounding))];
    let mut wide = text;
    for name in ["bf16", "f16", "f32"] {
        wide = wide.replace(&format!(" {name}["), " f64[").replace(&format!("\"{name}\""), "\"f64\"");
    }
    if let Ok(graph) = parse(&wide)
        && let Some(node) = graph.outputs.first().map(|o| graph.def(o.value))
        && node.op.class() != Class::Input
    {
        let widen = |t: &HostTensor| if t.dtype().is_float() { HostTensor::from_f64(DType::F64, t.shape(), &t.to_f64()) } else { t.clone() };
        let (op, inputs) = (Op::clone(&node.op), case.inputs.iter().map(widen).collect());
        cases.push((Case { op, graph, inputs }, accuracy));
    }
    cases
}

fn arrays(inputs: &[HostTensor]) -> Vec<Array> {
    inputs.iter().map(Array::from_host).collect()
}

fn check_inference(case: &Case) -> Result<(), String> {
    let faults = verify(&case.graph);
    if !faults.is_empty() {
        return Err(faults.join("\n"));
    }
    for precision in [Precision::Working, Precision::Exact] {
        let values = evaluate_all(&case.graph, &case.inputs, precision).map_err(|e| e.to_string())?;
        for (k, output) in case.graph.outputs.iter().enumerate() {
            let (ty, array) = (case.graph.ty(output.value), &values[output.value.node.0 as usize][output.value.result as usize]);
            let (length, is_float) = match &array.data {
                Data::Float(x) => (x.len(), true),
                Data::Int(x) => (x.len(), false),
            };
            if ty.dtype != array.dtype || ty.shape.as_ints().as_ref() != Some(&array.shape) {
                return Err(format!("result {k} is inferred {ty}, evaluated {}{:?}", array.dtype, array.shape));
            }
            if length != array.numel() || is_float != ty.dtype.is_float() {
                return Err(format!("result {k}: {length} elements for {ty}"));
            }
        }
    }
    Ok(())
}

fn check_text(case: &Case) -> Result<(), String> {
    let text = print(&case.graph);
    let back = parse(&text).map_err(|e| e.to_string())?;
    if back != case.graph {
        return Err(format!("parses back to\n{}", print(&back)));
    }
    mutate(&text);
    nests_parse_back(&case.graph)
}

/// The nests that a graph is lowered to, and the kernels that they become on each target.
fn nests_parse_back(graph: &Graph) -> Result<(), String> {
    let graph = inline_subgraphs(graph, Inline::Calls)?;
    let graph = recursive_joint_graph_passes(graph.into_owned()).and_then(post_grad_passes).map_err(|e| e.to_string())?;
    // What cannot be lowered is refused by name, which `layers` looks at.
    let Ok(lowered) = lower(&[(Phase::Forward, &graph)], &Config::default()) else { return Ok(()) };
    parse_back(&lowered.buffers, &lowered.nests)?;
    for target in [Target::cpu(), Target::h100(), Target::webgpu_default()] {
        let Ok(program) = schedule("sample", lowered.clone(), &target, &Config::default()) else { continue };
        parse_back(&[], &program.kernels)?;
    }
    Ok(())
}

/// Bad text is an error, never a panic.
fn mutate(text: &str) {
    let mut random = Random(text.len() as u64);
    for _ in 0..40 {
        let mut chars: Vec<char> = text.chars().collect();
        let at = random.next() as usize % chars.len();
        match random.next() % 3 {
            0 => chars[at] = ['9', '-', '"', '[', '%', ',', '1', 'x'][random.next() as usize % 8],
            1 => chars.insert(at, ['9', '-', '0', '.'][random.next() as usize % 4]),
            _ => drop(chars.remove(at)),
        }
        if let Ok(graph) = parse(&chars.into_iter().collect::<String>()) {
            verify(&graph);
        }
    }
}

fn check_decomposition(case: &Case) -> Result<(), String> {
    with_wide(case, 1e-9).iter().try_for_each(|(case, accuracy)| check_one_decomposition(case, *accuracy))
}

fn check_one_decomposition(case: &Case, accuracy: f64) -> Result<(), String> {
    let mut b = Builder::new("decomposed");
    let mut map = ValueMap::default();
    b.copy_inputs(&case.graph, &mut map)?;
    let operands: Vec<Value> = case.graph.inputs.iter().map(|i| map[&i.value]).collect();
    let Some(results) = case.op.decompose(&mut b, &operands) else { return Ok(()) };
    for (k, v) in results?.into_iter().enumerate() {
        b.output(&format!("y{k}"), OutputRole::User, v);
    }
    let decomposed = b.finish();
    let faults = verify(&decomposed);
    if !faults.is_empty() {
        return Err(format!("{}\n{}", faults.join("\n"), print(&decomposed)));
    }
    let inputs = arrays(&case.inputs);
    let whole = evaluate_exact(&case.graph, &inputs).map_err(|e| e.to_string())?;
    let parts = evaluate_exact(&decomposed, &inputs).map_err(|e| e.to_string())?;
    if whole.len() != parts.len() {
        return Err(format!("{} results decompose into {}", whole.len(), parts.len()));
    }
    for (k, (x, y)) in whole.iter().zip(&parts).enumerate() {
        if x.dtype != y.dtype || x.shape != y.shape {
            return Err(format!("result {k} is {}{:?}, decomposed {}{:?}", x.dtype, x.shape, y.dtype, y.shape));
        }
        for (i, (a, b)) in x.floats().into_iter().zip(y.floats()).enumerate() {
            if !close(a, b, accuracy) {
                return Err(format!("result {k}, element {i}: {a} is decomposed into {b}\n{}", print(&decomposed)));
            }
        }
    }
    Ok(())
}

fn close(a: f64, b: f64, tolerance: f64) -> bool {
    (a.is_nan() && b.is_nan()) || a == b || (a - b).abs() <= tolerance * a.abs().max(b.abs()).max(1.0)
}

/// Runs every executor and compares with the oracle.
fn check_layers(case: &Case) -> Result<(), String> {
    let exact = evaluate_exact(&case.graph, &arrays(&case.inputs)).map_err(|e| e.to_string())?;
    let working = evaluate(&case.graph, &case.inputs, Precision::Working).map_err(|e| e.to_string())?;
    for (name, executor) in EXECUTORS {
        let outputs = match executor(&case.graph, &case.inputs) {
            Err(message) if message.starts_with("unsupported") => continue,
            other => other.map_err(|message| format!("{name}: {message}"))?,
        };
        for (k, got) in outputs.iter().enumerate() {
            let floor = accuracy::floor(got.dtype()).max(op_floor(&case.op));
            accuracy::check_against_oracle(got, &working[k], &exact[k], floor).map_err(|message| format!("{name}: result {k}: {message}"))?;
        }
    }
    Ok(())
}

/// Compiles for the interpreter and runs, with temporary memory full of NaN.
fn interpret(graph: &Graph, inputs: &[HostTensor], config: &Config) -> Result<Vec<HostTensor>, String> {
    let names: Vec<&str> = graph.outputs.iter().map(|o| &o.name[..]).collect();
    let named: Vec<(&str, &HostTensor)> = graph.inputs.iter().map(|i| &i.name[..]).zip(inputs).collect();
    interpret_named(graph, &named, &names, config)
}

/// As [`interpret`], with the program's inputs and outputs by name.
fn interpret_named(graph: &Graph, inputs: &[(&str, &HostTensor)], outputs: &[&str], config: &Config) -> Result<Vec<HostTensor>, String> {
    let types: Vec<TensorType> = graph.inputs.iter().map(|i| graph.ty(i.value).clone()).collect();
    let program = inductor::compile::inductor(graph, &types, &Target::cpu(), config).map_err(|e| e.to_string())?.program;
    let text = || program.kernels.iter().map(|k| k.to_string()).collect::<Vec<_>>().join("\n");
    let mut interpreter = Interpreter::new(Arc::new(program.clone())).map_err(|e| format!("{e}\n{}", text()))?;
    interpreter.poison_temporaries();
    for input in &program.inputs {
        let (_, tensor) = inputs.iter().find(|(name, _)| *name == input.name).ok_or_else(|| format!("the program has an input {}", input.name))?;
        interpreter.write(input.buffer, tensor).map_err(|e| e.to_string())?;
    }
    interpreter.run().map_err(|e| format!("{e}\n{}", text()))?;
    let read = |name: &str| {
        let output = program.outputs.iter().find(|o| o.name == name).ok_or_else(|| format!("the program has no output {name}"))?;
        interpreter.read(output.buffer).map_err(|e| e.to_string())
    };
    outputs.iter().map(|name| read(name)).collect()
}

/// Differentiates through the whole pipeline (autograd, joint passes, partition, one schedule over forward and backward), and
/// compares outputs and gradients with the evaluation of the joint graph.
fn check_backward(case: &Case) -> Result<(), String> {
    let Some((joint, inputs)) = differentiated(case)? else { return Ok(()) };
    let tensors: Vec<HostTensor> = inputs.iter().map(|(_, t)| t.clone()).collect();
    let exact = evaluate_exact(&joint, &arrays(&tensors)).map_err(|e| e.to_string())?;
    let working = evaluate(&joint, &tensors, Precision::Working).map_err(|e| e.to_string())?;
    let names: Vec<&str> = joint.outputs.iter().map(|o| &o.name[..]).collect();
    let named: Vec<(&str, &HostTensor)> = inputs.iter().map(|(name, t)| (name.as_str(), t)).collect();
    let config = Config { mode: Mode::Vjp, ..Config::default() };
    let got = interpret_named(&case.graph, &named, &names, &config).map_err(|e| format!("{e}\n{}", print(&joint)))?;
    for (k, got) in got.iter().enumerate() {
        let floor = accuracy::floor(got.dtype()).max(op_floor(&case.op));
        accuracy::check_against_oracle(got, &working[k], &exact[k], floor).map_err(|e| format!("{}: {e}\n{}", names[k], print(&joint)))?;
    }
    Ok(())
}

/// The joint graph of a sample with values for its inputs, cotangents included; `None` where there is nothing to differentiate.
fn differentiated(case: &Case) -> Result<Option<(Graph, Named)>, String> {
    let is_float = |v: Value| case.graph.ty(v).dtype.is_float();
    let differentiable = case.graph.inputs.iter().any(|i| is_float(i.value)) && case.graph.outputs.iter().any(|o| is_float(o.value));
    if !differentiable {
        return Ok(None);
    }
    let joint = match joint_graph(&case.graph, Wrt::Inputs, Seed::Cotangents) {
        Err(error) if error.to_string().contains("not differentiable") => return Ok(None),
        other => set_unit_cotangents(&other.map_err(|e| e.to_string())?)?,
    };
    let mut random = Random(7);
    let mut inputs = vec![];
    for input in &joint.inputs {
        let given = case.graph.inputs.iter().position(|i| i.name == input.name).map(|k| case.inputs[k].clone());
        inputs.push((input.name.clone(), given.unwrap_or_else(|| random.tensor(joint.ty(input.value), false, 1))));
    }
    Ok(Some((joint, inputs)))
}

/// Forward, and forward with backward, as generated WGSL.
fn check_adapter(case: &Case) -> Result<(), String> {
    if layers::software().is_none() {
        return Ok(());
    }
    let inputs: Named = case.graph.inputs.iter().map(|i| i.name.clone()).zip(case.inputs.iter().cloned()).collect();
    let derivative = differentiated(case)?;
    for layer in layers::ADAPTERS {
        let forward = layers::check(layer, &case.graph, What::Forward, &inputs, op_floor(&case.op));
        let both = match &derivative {
            Some((_, inputs)) if forward.is_ok() => layers::check(layer, &case.graph, What::Gradients, inputs, op_floor(&case.op)),
            _ => forward,
        };
        match both {
            Err(message) if message.contains("unsupported") => {}
            other => other?,
        }
    }
    Ok(())
}

/// What the WGSL spelling of a scalar function is granted.
fn op_floor(op: &Op) -> f64 {
    if let Op::Pointwise(p) = op { p.f.row().floor } else { 0.0 }
}

/// Differentiates the weighted sum of the float results, and compares with central differences.
fn check_gradient(case: &Case) -> Result<(), String> {
    with_wide(case, 1e-5).iter().try_for_each(|(case, accuracy)| check_one_gradient(case, *accuracy))
}

fn check_one_gradient(case: &Case, accuracy: f64) -> Result<(), String> {
    // Another gradient than the value's is what they are for.
    let states_another = matches!(&case.op, Op::Pointwise(p) if p.f == ScalarFn::StraightThrough);
    if states_another || matches!(&case.op, Op::Detach(_)) {
        return Ok(());
    }
    // What gives way before autograd is differentiated in its inlined form, and what stays refuses.
    let graph = inline_subgraphs(&case.graph, Inline::Calls)?;
    let floats: Vec<usize> = (0..graph.outputs.len()).filter(|&k| graph.ty(graph.outputs[k].value).dtype.is_float()).collect();
    let mut subsets = vec![floats.clone()];
    if floats.len() > 1 {
        subsets.extend(floats.iter().map(|&k| vec![k]));
    }
    for outputs in subsets.into_iter().filter(|s| !s.is_empty()) {
        match gradient_graph(&graph, &outputs) {
            Ok(gradients) => compare_gradients(&case.inputs, &graph, &gradients, &outputs, accuracy)?,
            Err(message) if message.contains("not differentiable") => {}
            Err(message) => return Err(message),
        }
    }
    Ok(())
}

/// The graph's inputs, a weight for each chosen output -> the gradient of the weighted sum for each float input that has one.
fn gradient_graph(graph: &Graph, outputs: &[usize]) -> Result<Graph, String> {
    let mut b = Builder::new("gradient");
    let mut map = ValueMap::default();
    b.copy_inputs(graph, &mut map)?;
    let mut cotangents: ValueMap = ValueMap::default();
    for id in graph.ids() {
        b.copy_node(graph, id, &mut map)?;
    }
    for &k in outputs {
        let weight = b.input(&format!("weight{k}"), InputRole::Cotangent, graph.ty(graph.outputs[k].value).clone())?;
        accumulate(&mut b, &mut cotangents, map[&graph.outputs[k].value], weight)?;
    }
    for id in graph.ids().rev() {
        let Node { op, operands, types, .. } = graph.node(id);
        let results: Vec<Value> = (0..types.len() as u32).map(|result| map[&Value { node: id, result }]).collect();
        let incoming: Vec<Option<Value>> = results.iter().map(|v| cotangents.get(v).copied()).collect();
        if operands.is_empty() || incoming.iter().all(Option::is_none) {
            continue;
        }
        let operands: Vec<Value> = operands.iter().map(|v| map[v]).collect();
        let (wanted, pull_back) = (vec![true; operands.len()], &pull_back);
        let mut cx = VjpContext { b: &mut b, operands: &operands, results: &results, cotangents: &incoming, wanted: &wanted, pull_back };
        let grads = op.vjp(&mut cx)?;
        if grads.len() != operands.len() {
            return Err(format!("{} gives {} gradients for {} operands", op.name(), grads.len(), operands.len()));
        }
        for (operand, grad) in operands.into_iter().zip(grads) {
            if let Some(g) = grad {
                if b.ty(g) != b.ty(operand) {
                    return Err(format!("{} gives a gradient {} for an operand {}", op.name(), b.ty(g), b.ty(operand)));
                }
                accumulate(&mut b, &mut cotangents, operand, g)?;
            }
        }
    }
    for input in &graph.inputs {
        if let Some(&g) = cotangents.get(&map[&input.value]) {
            b.output(&input.name, OutputRole::Gradient(input.name.clone()), g);
        }
    }
    Ok(b.finish())
}

fn accumulate(b: &mut Builder, cotangents: &mut ValueMap, to: Value, g: Value) -> Result<(), String> {
    let sum = match cotangents.get(&to) {
        Some(&other) => b.add(other, g)?,
        None => g,
    };
    cotangents.insert(to, sum);
    Ok(())
}

fn compare_gradients(inputs: &[HostTensor], graph: &Graph, gradients: &Graph, outputs: &[usize], accuracy: f64) -> Result<(), String> {
    let faults = verify(gradients);
    if !faults.is_empty() {
        return Err(format!("{}\n{}", faults.join("\n"), print(gradients)));
    }
    let mut random = Random(99);
    let inputs = arrays(inputs);
    let draw = |&k: &usize| Array::from_host(&random.tensor(graph.ty(graph.outputs[k].value), false, 1));
    let weights: Vec<Array> = outputs.iter().map(draw).collect();
    let arguments = [&inputs[..], &weights].concat();
    let analytic = evaluate_exact(gradients, &arguments).map_err(|e| format!("{e}\n{}", print(gradients)))?;
    for (k, input) in inputs.iter().enumerate().filter(|(_, a)| a.dtype.is_float()) {
        let grad = gradients.outputs.iter().position(|o| o.name == graph.inputs[k].name).map(|at| analytic[at].floats());
        let numel = input.numel();
        for i in (0..numel).step_by(numel.div_ceil(MAX_ELEMENTS).max(1)) {
            let difference = central_difference(graph, &inputs, (k, i), outputs, &weights)?;
            let derivative = grad.as_ref().map_or(0.0, |g| g[i]);
            if !close(derivative, difference, accuracy) {
                let names = outputs.iter().map(|k| format!("y{k}")).collect::<Vec<_>>().join(" + ");
                let x = input.floats()[i];
                return Err(format!("d({names})/d(x{k}[{i}]) at {x}: derivative {derivative}, difference {difference}\n{}", print(gradients)));
            }
        }
    }
    Ok(())
}

/// The derivative of the weighted sum by element `i` of input `k`, from a difference of fourth order. Outputs that do not move
/// count as zero even where they are infinite; where they move and are NaN, so is the derivative.
fn central_difference(graph: &Graph, inputs: &[Array], (k, i): (usize, usize), outputs: &[usize], weights: &[Array]) -> Result<f64, String> {
    let values = inputs[k].floats();
    let step = 1e-5 * values[i].abs().max(1.0);
    let at = |x: f64| {
        let mut moved = inputs.to_vec();
        let mut values = values.clone();
        values[i] = x;
        moved[k].data = Data::Float(values);
        let all = evaluate_exact(graph, &moved).map_err(|e| e.to_string())?;
        Ok::<_, String>(outputs.iter().flat_map(|&k| all[k].floats()).collect::<Vec<f64>>())
    };
    let (far, near) = ([at(values[i] - 2.0 * step)?, at(values[i] + 2.0 * step)?], [at(values[i] - step)?, at(values[i] + step)?]);
    let weights = weights.iter().flat_map(Array::floats);
    // A NaN that is there without the move as well comes from another element, unless the function is pointwise.
    let moves = |[a, b]: &[Vec<f64>; 2], at: usize| if a[at] == b[at] || (at != i && a[at].is_nan() && b[at].is_nan()) { 0.0 } else { b[at] - a[at] };
    Ok(weights.enumerate().map(|(at, w)| w * (8.0 * moves(&near, at) - moves(&far, at)) / (12.0 * step)).sum())
}

fn every_op_has_samples() -> Result<(), String> {
    let missing: Vec<&str> =
        Op::exemplars().iter().filter(|op| op.class() != Class::Input && op.samples().is_empty()).map(|op| op.text_name()).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("no samples: {missing:?}")) }
}

fn names_are_unambiguous() -> Result<(), String> {
    let mut names: Vec<&str> = inductor::scalar::ScalarFn::ALL.iter().map(|f| f.name()).chain(Op::NAMES.iter().copied()).collect();
    names.sort_unstable();
    match names.windows(2).find(|w| w[0] == w[1]) {
        Some(twice) => Err(format!("{} names two operators", twice[0])),
        None => Ok(()),
    }
}
