//! Batching rules against a loop over examples: of each sample, and of its derivative, with the examples along each operand alone and
//! along all of them.

use super::{Case, arrays, close, gradient_graph, interpret, op_floor, with_wide};
use inductor::eval::{accuracy, evaluate, evaluate_exact};
use inductor::graph::{Builder, Graph, Inline, InputRole, OutputRole, concretize, inline_subgraphs, print, verify};
use inductor::ops::{Array, Batched, Class, Data, Op, OpDef, Precision, batch};
use inductor::types::{Bindings, Dim, HostTensor, Shape, TensorType};

/// Number of examples.
const EXAMPLES: usize = 3;

pub fn check(case: &Case) -> Result<(), String> {
    let (wide, accuracy) = with_wide(case, 1e-9).pop().ok_or("a case is its own at least")?;
    let count = wide.inputs.len();
    let mut choices: Vec<Vec<bool>> = (0..count).map(|k| (0..count).map(|i| i == k).collect()).collect();
    choices.push(vec![true; count]);
    if count > 0 {
        for each in &choices {
            compare(&wide.graph, &wide.inputs, each, accuracy)?;
            check_derivatives(&wide, each, accuracy)?;
        }
        check_interpreter(case)?;
    }
    Ok(())
}

/// Example `e` of an operand: its elements turned around, floats also made smaller.
fn example(x: &HostTensor, e: usize) -> Array {
    let mut array = Array::from_host(x);
    let n = array.numel().max(1);
    match &mut array.data {
        Data::Float(v) => {
            v.rotate_left(e % n);
            v.iter_mut().for_each(|x| *x *= 1.0 - 0.05 * e as f64);
        }
        Data::Int(v) => v.rotate_left(e % n),
    }
    array
}

fn stack(arrays: &[Array]) -> Array {
    let shape = [&[arrays.len()], &arrays[0].shape[..]].concat();
    match &arrays[0].data {
        Data::Float(_) => Array::float(arrays[0].dtype, shape, arrays.iter().flat_map(Array::floats).collect()),
        Data::Int(_) => Array::int(arrays[0].dtype, shape, arrays.iter().flat_map(Array::ints).collect()),
    }
}

/// The graph of `size` examples along the chosen inputs.
fn batched(graph: &Graph, each: &[bool], size: &Dim) -> Result<Graph, String> {
    let (mut b, mut inputs) = (Builder::new("batch"), vec![]);
    for (input, &is_each) in graph.inputs.iter().zip(each) {
        let ty = graph.ty(input.value);
        let lead = if is_each { vec![size.clone()] } else { vec![] };
        let v = b.input(&input.name, InputRole::Input, TensorType { shape: Shape::new([&lead, &ty.shape.0[..]].concat()), ..ty.clone() })?;
        inputs.push(if is_each { Batched::Each(v) } else { Batched::Same(v) });
    }
    for (output, y) in graph.outputs.iter().zip(batch(&mut b, graph, &inputs, size)?) {
        let y = y.each(&mut b, size)?;
        b.output(&output.name, OutputRole::User, y);
    }
    let batched = b.finish();
    let faults = verify(&batched);
    if faults.is_empty() { Ok(batched) } else { Err(format!("{}\n{}", faults.join("\n"), print(&batched))) }
}

/// What the graph gives for each example in turn, and the inputs of the batch.
fn of_loop(graph: &Graph, inputs: &[HostTensor], each: &[bool]) -> Result<(Vec<Vec<Array>>, Vec<Array>), String> {
    let of = |e: usize| inputs.iter().zip(each).map(|(x, &is_each)| if is_each { example(x, e) } else { Array::from_host(x) }).collect::<Vec<_>>();
    let examples: Vec<Vec<Array>> = (0..EXAMPLES).map(of).collect();
    let results = examples.iter().map(|x| evaluate_exact(graph, x).map_err(|e| e.to_string())).collect::<Result<_, _>>()?;
    let all = |k: usize| stack(&examples.iter().map(|x| x[k].clone()).collect::<Vec<_>>());
    Ok((results, each.iter().enumerate().map(|(k, &is_each)| if is_each { all(k) } else { Array::from_host(&inputs[k]) }).collect()))
}

fn agree(what: &str, got: &Array, want: &Array, accuracy: f64) -> Result<(), String> {
    if got.dtype != want.dtype || got.shape != want.shape {
        return Err(format!("{what} is {}{:?}, of a loop {}{:?}", got.dtype, got.shape, want.dtype, want.shape));
    }
    match got.floats().into_iter().zip(want.floats()).enumerate().find(|(_, (a, b))| !close(*a, *b, accuracy)) {
        Some((i, (a, b))) => Err(format!("{what}, element {i}: {a}, of a loop {b}")),
        None => Ok(()),
    }
}

/// The batch of a known size, and of a symbolic one.
fn compare(graph: &Graph, inputs: &[HostTensor], each: &[bool], accuracy: f64) -> Result<(), String> {
    let (results, all) = of_loop(graph, inputs, each)?;
    let known = batched(graph, each, &Dim::int(EXAMPLES as i64))?;
    let symbolic = batched(graph, each, &Dim::symbol("examples", 1, 64))?;
    let symbolic = concretize(&symbolic, &Bindings::from([("examples".to_string(), EXAMPLES as i64)]))?;
    for batch in [known, symbolic] {
        let got = evaluate_exact(&batch, &all).map_err(|e| format!("{each:?}: {e}\n{}", print(&batch)))?;
        for (k, output) in graph.outputs.iter().enumerate() {
            let want = stack(&results.iter().map(|r| r[k].clone()).collect::<Vec<_>>());
            agree(&output.name, &got[k], &want, accuracy).map_err(|m| format!("examples {each:?}: {m}\n{}", print(&batch)))?;
        }
    }
    Ok(())
}

/// Derivatives of examples, batched, are those of a loop; and derivatives of the batch are theirs, or their sum where examples share an
/// operand.
fn check_derivatives(case: &Case, each: &[bool], accuracy: f64) -> Result<(), String> {
    let graph = if case.op.class() == Class::Subgraph { inline_subgraphs(&case.graph, Inline::All)?.into_owned() } else { case.graph.clone() };
    let floats: Vec<usize> = (0..graph.outputs.len()).filter(|&k| graph.ty(graph.outputs[k].value).dtype.is_float()).collect();
    let one = match gradient_graph(&graph, &floats) {
        Err(message) if message.contains("not differentiable") => return Ok(()),
        other => other?,
    };
    let weights = one.inputs[case.inputs.len()..].iter().enumerate().map(|(k, w)| weight(k, one.ty(w.value)));
    let inputs: Vec<HostTensor> = case.inputs.iter().cloned().chain(weights).collect();
    let each = [each, &vec![true; inputs.len() - each.len()]].concat();
    compare(&one, &inputs, &each, accuracy).map_err(|m| format!("derivative: {m}"))?;
    let (results, all) = of_loop(&one, &inputs, &each)?;
    let whole = gradient_graph(&batched(&graph, &each[..case.inputs.len()], &Dim::int(EXAMPLES as i64))?, &floats)?;
    let got = evaluate_exact(&whole, &all).map_err(|e| format!("{e}\n{}", print(&whole)))?;
    for (k, output) in one.outputs.iter().enumerate() {
        let examples: Vec<Array> = results.iter().map(|r| r[k].clone()).collect();
        let is_each = each[graph.inputs.iter().position(|i| i.name == output.name).ok_or("a gradient is of an input")?];
        let at = whole.outputs.iter().position(|o| o.name == output.name);
        let at = at.ok_or_else(|| format!("the batch has no gradient of {}", output.name))?;
        let want = if is_each { stack(&examples) } else { sum(&examples) };
        agree(&output.name, &got[at], &want, accuracy).map_err(|m| format!("derivative of the batch {each:?}: {m}\n{}", print(&whole)))?;
    }
    Ok(())
}

fn weight(seed: usize, ty: &TensorType) -> HostTensor {
    let shape = ty.shape.as_ints().expect("samples have constant sizes");
    let values: Vec<f64> = (0..shape.iter().product()).map(|i: usize| ((i * 31 + seed * 17 + 5) % 23) as f64 / 11.0 - 1.0).collect();
    HostTensor::from_f64(ty.dtype, &shape, &values)
}

fn sum(arrays: &[Array]) -> Array {
    let columns: Vec<Vec<f64>> = arrays.iter().map(Array::floats).collect();
    let values = (0..columns[0].len()).map(|i| columns.iter().map(|c| c[i]).sum()).collect();
    Array::float(arrays[0].dtype, arrays[0].shape.clone(), values)
}

/// The batch of all operands, compiled for the interpreter.
fn check_interpreter(case: &Case) -> Result<(), String> {
    let each = vec![true; case.inputs.len()];
    let graph = batched(&case.graph, &each, &Dim::int(EXAMPLES as i64))?;
    let all: Vec<HostTensor> = of_loop(&case.graph, &case.inputs, &each)?.1.iter().map(Array::to_host).collect();
    let outputs = match interpret(&graph, &all, &inductor::Config::default()) {
        Err(message) if message.starts_with("unsupported") => return Ok(()),
        other => other.map_err(|message| format!("interpreter: {message}"))?,
    };
    let exact = evaluate_exact(&graph, &arrays(&all)).map_err(|e| e.to_string())?;
    let working = evaluate(&graph, &all, Precision::Working).map_err(|e| e.to_string())?;
    for (k, got) in outputs.iter().enumerate() {
        let floor = accuracy::floor(got.dtype()).max(op_floor(&case.op));
        accuracy::check_against_oracle(got, &working[k], &exact[k], floor).map_err(|m| format!("interpreter: result {k}: {m}\n{}", print(&graph)))?;
    }
    Ok(())
}

/// A condition that differs from example to example takes each its own branch, which turning a scalar around does not show.
pub fn branches_of_examples() -> Result<(), String> {
    let sample = inductor::ops::samples().into_iter().find(|s| matches!(s.op, Op::Cond(_))).ok_or("there is a sample of cond")?;
    let graph = super::graph_of(&sample)?;
    let predicates = [1, 0, 1].map(|p| Array::int(inductor::DType::Bool, vec![], vec![p]));
    let rest: Vec<Array> = sample.operands[1..].iter().enumerate().map(|(k, ty)| Array::from_host(&weight(k, ty))).collect();
    let each: Vec<bool> = (0..sample.operands.len()).map(|k| k == 0).collect();
    let got = evaluate_exact(&batched(&graph, &each, &Dim::int(3))?, &[&[stack(&predicates)], &rest[..]].concat()).map_err(|e| e.to_string())?;
    let alone = predicates.iter().map(|p| evaluate_exact(&graph, &[std::slice::from_ref(p), &rest[..]].concat()).map_err(|e| e.to_string()));
    let alone: Vec<Vec<Array>> = alone.collect::<Result<_, _>>()?;
    if alone[0] == alone[1] {
        return Err("the branches give the same".into());
    }
    (0..got.len()).try_for_each(|k| agree("result", &got[k], &stack(&alone.iter().map(|r| r[k].clone()).collect::<Vec<_>>()), 1e-12))
}
