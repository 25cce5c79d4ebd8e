//! Ordinary programs, written with the public items of the crate root, `nn`, `optim` and `train` alone, as their users would write them.
//! What they compute in fifty steps is PyTorch's (`make.py`, whose numbers are in `losses.json`), on the interpreter and on the
//! software adapter.

mod adapted;
mod generative;
mod science;
mod sequences;
mod structured;
mod vision;

use inductor::{Config, Device, HostTensor, Optimizer, Result, State, Step, Traced, compile_train};

/// Gives the numbers to compare, mostly losses.
type Program = fn(&Device) -> Result<Vec<f64>>;

const PROGRAMS: &[(&str, Program)] = &[
    ("resnet", vision::resnet),
    ("unet", vision::unet),
    ("siamese", vision::siamese),
    ("lstm", sequences::lstm),
    ("checkpoints", sequences::checkpoints),
    ("generation", sequences::generation),
    ("llama", adapted::llama),
    ("lora", adapted::lora),
    ("sizes", adapted::sizes),
    ("folds", adapted::folds),
    ("averages", adapted::averages),
    ("vae", generative::vae),
    ("gan", generative::gan),
    ("spectral", generative::spectral),
    ("pinn", science::pinn),
    ("hessian", science::hessian),
    ("examples_apart", science::examples_apart),
    ("own_loss", science::own_loss),
    ("gradients", science::gradients),
    ("speech", structured::speech),
    ("tags", structured::tags),
    ("equilibrium", structured::equilibrium),
];

const STEPS: u64 = 50;

/// Numbers in -1..1 that both sides know.
fn noise(name: &str, n: usize) -> Vec<f64> {
    let seed = name.bytes().enumerate().map(|(i, b)| (i + 1) * b as usize).sum::<usize>() % 9973;
    let at = |i: usize| (12.9898 * (i + 1) as f64 + 78.233 * seed as f64).sin() * 43758.5453;
    (0..n).map(|i| 2.0 * (at(i) - at(i).floor()) - 1.0).collect()
}

fn floats(name: &str, shape: &[usize]) -> HostTensor {
    HostTensor::f32(shape, &noise(name, shape.iter().product()).iter().map(|&x| x as f32).collect::<Vec<_>>())
}

fn classes(name: &str, count: usize, shape: &[usize]) -> HostTensor {
    let class = |x: &f64| (0.5 * (x + 1.0) * count as f64) as i32;
    HostTensor::i32(shape, &noise(name, shape.iter().product()).iter().map(class).collect::<Vec<_>>())
}

/// How a parameter starts on both sides.
fn weight(name: &str, shape: &[usize]) -> HostTensor {
    let n: usize = shape.iter().product();
    let values = noise(name, n).into_iter().map(|x| match shape.len() {
        0 | 1 if name.ends_with("weight") => 1.0 + 0.1 * x,
        0 | 1 => 0.1 * x,
        _ => x / ((n / shape[0]) as f64).sqrt(),
    });
    HostTensor::f32(shape, &values.map(|x| x as f32).collect::<Vec<_>>())
}

/// A state that starts as PyTorch's model does.
fn begin(step: &Step) -> Result<State> {
    let mut state = step.init(0)?;
    for name in state.parameters() {
        let shape = state.get(&name)?.shape().to_vec();
        state.set(&name, weight(&name, &shape))?;
    }
    Ok(state)
}

/// The losses of fifty steps; the closure gives the inputs of each, counted from 0.
fn losses<const N: usize>(step: &Step, state: &mut State, inputs: impl Fn(u64) -> [HostTensor; N]) -> Result<Vec<f64>> {
    (0..STEPS).map(|k| Ok(step.run(state, inputs(k))?.loss()? as f64)).collect()
}

/// Compiles and trains from the weights that both sides know.
fn fit<const N: usize>(
    device: &Device,
    traced: &Traced,
    optimizer: impl Into<Optimizer>,
    inputs: impl Fn(u64) -> [HostTensor; N],
) -> Result<Vec<f64>> {
    let step = compile_train(traced, device, optimizer, &Config::default())?;
    losses(&step, &mut begin(&step)?, inputs)
}

fn check(device: &Device) {
    let expected: serde_json::Value = serde_json::from_str(include_str!("losses.json")).unwrap();
    let filter = std::env::var("CASE").ok();
    let mut faults = vec![];
    for (name, program) in PROGRAMS.iter().filter(|p| filter.as_ref().is_none_or(|f| p.0.contains(f.as_str()))) {
        let wanted: Vec<f64> = expected[*name].as_array().unwrap_or(&vec![]).iter().map(|x| x.as_f64().unwrap()).collect();
        let found = match program(device) {
            Ok(found) => found,
            Err(error) => {
                faults.push(format!("{name}: {error}"));
                continue;
            }
        };
        if found.len() != wanted.len() || wanted.is_empty() {
            faults.push(format!("{name}: {} numbers here, {} in PyTorch", found.len(), wanted.len()));
        }
        let apart = |(a, b): (&f64, &f64)| (a - b).abs() / b.abs().max(1.0);
        let worst = found.iter().zip(&wanted).map(apart).enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
        if let Some((at, apart)) = worst.filter(|(_, apart)| apart.is_nan() || *apart > 1e-5) {
            faults.push(format!("{name}: number {at} is {} here, {} in PyTorch: {apart:.1e}", found[at], wanted[at]));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
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
