//! Programs that came from hostile input: compiled for the CPU and for any WebGPU, differentiated, and run where they are tiny.

use super::fuzz::Trial;
use inductor::compile::inductor;
use inductor::config::{Mode, Target};
use inductor::graph::{Graph, InputRole};
use inductor::{Config, Device, HostTensor, Traced, compile, optim};

/// Elements of all values of a program that is run.
const TINY: i64 = 1 << 16;
/// Memory that running a tiny program takes at most.
const RUN_ROOM: u64 = 256 << 20;

/// Whatever the program is, the compiler gives a plan or an error, and running it ends.
pub fn survive(traced: &Traced, room: u64, trial: &Trial<'_>) {
    let graph = &traced.graph;
    let train = || Mode::Train(optim::AdamW::new(1e-3).into());
    for (name, target, mode) in [
        ("cpu", Target::cpu(), Mode::Inference),
        ("webgpu", Target::webgpu_default(), Mode::Inference),
        ("vjp", Target::webgpu_default(), Mode::Vjp),
        ("training", Target::webgpu_default(), train()),
    ] {
        let examples: Vec<_> = graph.inputs.iter().map(|i| graph.ty(i.value).clone()).collect();
        let config = Config { mode, ..Config::default() };
        trial.step(&format!("compiling for {name}"), room, || inductor(graph, &examples, &target, &config).is_ok());
    }
    if is_tiny(graph) {
        trial.step("running", RUN_ROOM, || run(traced).is_ok());
    }
}

fn is_tiny(graph: &Graph) -> bool {
    let held = graph.nodes.iter().any(|n| !inductor::ops::OpDef::subgraphs(&*n.op).is_empty());
    let numel =
        |t: &inductor::types::TensorType| t.shape.as_ints().and_then(|s| s.iter().try_fold(1i64, |n, &d| n.checked_mul(i64::try_from(d).ok()?)));
    let total = graph.nodes.iter().flat_map(|n| &n.types[..]).try_fold(0i64, |sum, t| sum.checked_add(numel(t)?));
    !held && total.is_some_and(|n| n <= TINY)
}

/// Runs once on zeros.
fn run(traced: &Traced) -> inductor::Result<()> {
    let step = compile(traced, &Device::cpu(), &Config { allow_empty: true, ..Config::default() })?;
    let mut state = step.init(0)?;
    let graph = &traced.graph;
    let inputs = graph.inputs.iter().filter(|i| i.role == InputRole::Input);
    let zeros: Vec<HostTensor> =
        inputs.map(|i| HostTensor::zeros(graph.ty(i.value).dtype, &graph.ty(i.value).shape.as_ints().unwrap_or_default())).collect();
    step.run(&mut state, &zeros[..])?.outputs().map(drop)
}
