//! Methods, losses and layers against PyTorch: the loss and all gradients of each case of `make.py`, whose values are in
//! `values.json`, on the interpreter and on the software adapter.

mod behavior;
mod derivatives;
mod layers;
mod losses;
mod methods;
mod mixed_precision;
mod vmap;

use inductor::graph::InputRole;
use inductor::types::TensorType;
use inductor::{Config, DType, Device, HostTensor, Tensor, Trace, compile_vjp, trace};
use std::collections::HashMap;

/// A case by the name that `make.py` gives it: what it makes of its inputs.
type Case = (&'static str, fn(&Trace) -> Vec<Tensor>);

/// Values that both sides know: `sin(1.3 i + 0.7 seed + 0.3)`.
fn wave(seed: usize, shape: &[usize]) -> Vec<f64> {
    (0..shape.iter().product::<usize>()).map(|i| (1.3 * i as f64 + 0.7 * seed as f64 + 0.3).sin()).collect()
}

fn named(name: &str) -> usize {
    name.bytes().map(|b| b as usize).sum::<usize>() % 97
}

fn table(t: &Trace, values: &[i32], shape: &[usize]) -> Tensor {
    t.constant(&HostTensor::i32(shape, values))
}

/// Input `a`, `b`, ... of that shape.
fn input<const N: usize>(t: &Trace, name: &str, shape: [i64; N]) -> Tensor {
    t.input(name, DType::F32, shape)
}

/// The sum of all results, each element with a factor that both sides know.
fn weighed(t: &Trace, results: &[Tensor]) -> Tensor {
    let mut loss = t.zeros(DType::F32, ());
    for (k, out) in results.iter().enumerate() {
        let shape = out.shape().as_ints().expect("constant sizes");
        let factors = t.constant(&HostTensor::from_f64(DType::F32, &shape, &wave(50 + k, &shape)));
        loss = loss + (out.cast(DType::F32) * factors).sum(());
    }
    loss
}

/// What an input, parameter or buffer holds in a case.
fn value(name: &str, role: &InputRole, ty: &TensorType, positive: bool) -> Option<HostTensor> {
    let shape = ty.shape.as_ints().expect("constant sizes");
    let values = match role {
        InputRole::Input => {
            let x = wave((name.as_bytes()[0] - b'a') as usize + 1, &shape);
            if positive { x.iter().map(|x| 0.5 + 0.4 * (*x as f32 as f64)).collect() } else { x }
        }
        InputRole::Parameter => wave(named(name), &shape).iter().map(|x| 0.5 * (*x as f32 as f64)).collect(),
        InputRole::Buffer if ty.dtype.is_float() && !name.contains("running") => wave(named(name), &shape),
        _ => return None,
    };
    Some(HostTensor::from_f64(DType::F32, &shape, &values))
}

/// What differs from PyTorch, in words.
fn faults(device: &Device, (name, build): &Case, expected: &serde_json::Value) -> Result<Vec<String>, inductor::Error> {
    let traced = trace(name, |t| Ok(weighed(t, &build(t))))?;
    let step = compile_vjp(&traced, device, &Config::default())?;
    let mut state = step.init(0)?;
    let mut inputs = vec![];
    for input in &traced.graph.inputs {
        let value = value(&input.name, &input.role, traced.graph.ty(input.value), POSITIVE.contains(name));
        match (&input.role, value) {
            (InputRole::Input, Some(value)) => inputs.push((input.name.clone(), value)),
            (InputRole::Parameter | InputRole::Buffer, Some(value)) => state.set(&input.name, value)?,
            _ => {}
        }
    }
    let named: Vec<(&str, &HostTensor)> = inputs.iter().map(|(n, x)| (n.as_str(), x)).collect();
    let result = step.run(&mut state, &named[..])?;
    let mut out = vec![];
    let loss = (result.loss()? as f64, expected["loss"].as_f64().unwrap());
    if (loss.0 - loss.1).abs() > 2e-5 * loss.1.abs().max(1.0) {
        out.push(format!("{name}: the loss is {} here, {} in PyTorch", loss.0, loss.1));
    }
    let found: HashMap<String, HostTensor> = result.gradients()?.into_iter().collect();
    let Some(gradients) = expected["grads"].as_object() else { return Ok(out) };
    let numbers = |values: &serde_json::Value| -> Vec<f64> { values.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect() };
    // Gradients that are far smaller than others of their program are differences of those.
    let program = gradients.values().flat_map(&numbers).fold(0f64, |m, x| m.max(x.abs()));
    for (of, values) in gradients {
        let Some(here) = found.get(of) else {
            out.push(format!("{name}: there is no gradient of {of}, but {:?}", found.keys()));
            continue;
        };
        let there = numbers(values);
        let scale = there.iter().fold(1e-2 * program, |m, x| m.max(x.abs()));
        let here = here.to_f64();
        if let Some(i) = (0..there.len()).find(|&i| (here[i] - there[i]).abs().partial_cmp(&(3e-5 * scale)).is_none_or(|order| order.is_gt())) {
            out.push(format!("{name}: gradient of {of} at {i} is {} here, {} in PyTorch", here[i], there[i]));
        }
    }
    Ok(out)
}

/// Cases whose inputs are between 0.1 and 0.9.
const POSITIVE: &[&str] = &[
    "log10",
    "igamma",
    "special",
    "lgamma",
    "digamma",
    "logit",
    "asinh",
    "erfc",
    "erfinv",
    "acosh",
    "atanh",
    "binary_cross_entropy",
    "poisson_nll_loss",
    "gaussian_nll_loss",
    "dice",
];

fn check(device: &Device) {
    let expected: serde_json::Value = serde_json::from_str(include_str!("values.json")).unwrap();
    let filter = std::env::var("CASE").ok();
    let mut all = vec![];
    let cases: Vec<&Case> = [methods::CASES, losses::CASES, layers::CASES, derivatives::CASES, vmap::CASES].into_iter().flatten().collect();
    let names: Vec<&str> = cases.iter().map(|c| c.0).collect();
    assert!(expected.as_object().unwrap().keys().all(|k| names.contains(&k.as_str())), "every case of make.py is tried");
    for case in cases.into_iter().filter(|c| filter.as_ref().is_none_or(|f| c.0.contains(f.as_str()))) {
        match expected.get(case.0) {
            Some(values) => all.extend(faults(device, case, values).unwrap_or_else(|e| vec![format!("{}: {e}", case.0)])),
            None => all.push(format!("{}: make.py has no such case", case.0)),
        }
    }
    assert!(all.is_empty(), "{} faults:\n{}", all.len(), all.join("\n"));
}

#[test]
fn as_in_pytorch_on_the_interpreter() {
    check(&Device::cpu());
}

#[test]
fn as_in_pytorch_on_the_software_adapter() {
    match Device::software() {
        Ok(device) => check(&device),
        Err(error) => eprintln!("software adapter: skipped, {error}"),
    }
}
