//! Every way to execute a graph, for tests that hold them against the graph evaluation.
#![allow(dead_code)]

use inductor::Step;
use inductor::autograd::{Seed, Wrt, joint_graph, set_unit_cotangents};
use inductor::compile::{inductor, inductor_with_report};
use inductor::config::{Config, Mode, Target};
use inductor::eval::{accuracy, evaluate, evaluate_exact};
use inductor::frontend::Traced;
use inductor::graph::{Graph, Inline, inline_subgraphs};
use inductor::interp::Interpreter;
use inductor::loop_ir::naive::{self, Memory};
use inductor::loop_ir::{Buffer, BufferId, Number, Phase};
use inductor::lower::{Block, Control, Lowered, Repeat, lower};
use inductor::ops::{Array, Precision};
use inductor::passes::{post_grad_passes, recursive_joint_graph_passes};
use inductor::runtime::Device;
use inductor::schedule::Program;
use inductor::types::{Bindings, DeviceModel, HostTensor};
use std::sync::{Arc, OnceLock};

/// Named tensors.
pub type Named = Vec<(String, HostTensor)>;

/// What is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The outputs.
    Forward,
    /// The outputs and the gradients of all float inputs, for given cotangents.
    Gradients,
}

/// A layer of execution: its name and how it computes outputs by name.
pub type Layer = (&'static str, fn(&Graph, What, &Named) -> Result<Named, String>);

/// The layers that need no adapter, lowest first.
pub const LAYERS: &[Layer] = &[
    ("lowered nests", nests),
    ("program without fusion", |g, w, i| program(g, w, i, &Target::cpu(), false, true)),
    ("program", |g, w, i| program(g, w, i, &Target::cpu(), true, true)),
    ("program without reuse", |g, w, i| program(g, w, i, &Target::cpu(), true, false)),
    ("program for webgpu-default", |g, w, i| program(g, w, i, &with_doubles(Target::webgpu_default()), true, true)),
    ("program for a large GPU", |g, w, i| {
        program(g, w, i, &with_doubles(Target { model: DeviceModel::large_gpu(), ..Target::webgpu_default() }), true, true)
    }),
];

/// The software adapter, or else a GPU; says once which, or why none.
pub fn software() -> Option<&'static Device> {
    static DEVICE: OnceLock<Option<Device>> = OnceLock::new();
    let found = DEVICE.get_or_init(|| match Device::software().or_else(|why| Device::best().map_err(|_| why)) {
        Ok(device) => {
            println!("device tests run on: {}", device.describe());
            Some(device)
        }
        Err(why) => {
            println!("device tests are skipped: {why}");
            None
        }
    });
    found.as_ref()
}

/// The oracle: outputs in the dtypes' arithmetic and in f64.
pub fn oracle(graph: &Graph, what: What, inputs: &Named) -> Result<Vec<(String, HostTensor, Array)>, String> {
    let whole = match what {
        What::Forward => graph.clone(),
        What::Gradients => {
            let joint = joint_graph(graph, Wrt::Inputs, Seed::Cotangents).map_err(|e| e.to_string())?;
            set_unit_cotangents(&joint)?
        }
    };
    let mut tensors = vec![];
    for input in &whole.inputs {
        let found = inputs.iter().find(|(name, _)| *name == input.name);
        tensors.push(found.ok_or_else(|| format!("no value for {}", input.name))?.1.clone());
    }
    let arrays: Vec<Array> = tensors.iter().map(Array::from_host).collect();
    let working = evaluate(&whole, &tensors, Precision::Working).map_err(|e| e.to_string())?;
    let exact = evaluate_exact(&whole, &arrays).map_err(|e| e.to_string())?;
    Ok(whole.outputs.iter().zip(working).zip(exact).map(|((o, w), e)| (o.name.clone(), w, e)).collect())
}

/// Holds one layer against the oracle.
pub fn check(layer: &Layer, graph: &Graph, what: What, inputs: &Named, floor: f64) -> Result<(), String> {
    let expected = oracle(graph, what, inputs)?;
    let run = std::panic::catch_unwind(|| (layer.1)(graph, what, inputs));
    let got = run.unwrap_or_else(|_| Err("panicked".into())).map_err(|e| format!("{}: {e}", layer.0))?;
    // A value that cancels to almost nothing is judged on the scale of the program's values.
    let scale = inputs.iter().flat_map(|(_, t)| t.to_f64()).filter(|x| x.is_finite()).fold(0.0f64, |m, x| m.max(x.abs()));
    for (name, working, exact) in &expected {
        let tensor = got.iter().find(|(n, _)| n == name).ok_or_else(|| format!("{}: output {name} is missing", layer.0))?;
        let floor = accuracy::floor(working.dtype()).max(floor);
        let magnitude = exact.floats().into_iter().filter(|x| x.is_finite()).fold(0.0f64, |m, x| m.max(x.abs()));
        let floor = if magnitude > 0.0 && magnitude < scale { floor * scale / magnitude } else { floor };
        let zero = magnitude == 0.0 && tensor.1.to_f64().iter().all(|x| x.abs() <= floor * scale);
        if zero && tensor.1.ty() == working.ty() {
            continue;
        }
        accuracy::check_against_oracle(&tensor.1, working, exact, floor).map_err(|e| format!("{}: {name}: {e}", layer.0))?;
    }
    Ok(())
}

/// The target with 64-bit floats: the interpreter runs what is scheduled for it.
fn with_doubles(mut target: Target) -> Target {
    target.caps.f64 = true;
    target
}

/// The layers that need an adapter. What one lacks by design is an error with `unsupported` in it.
pub const ADAPTERS: &[Layer] = &[("adapter", adapter), ("adapter as webgpu-default", portable)];

/// The adapter with all that it has.
pub fn adapter(graph: &Graph, what: What, inputs: &Named) -> Result<Named, String> {
    let Some(device) = software() else { return Err("unsupported: no adapter".into()) };
    on_device(device, &device.target(), graph, what, inputs)
}

/// The adapter with what every adapter has: no subgroups, no halves, no 64-bit numbers.
pub fn portable(graph: &Graph, what: What, inputs: &Named) -> Result<Named, String> {
    let Some(device) = software() else { return Err("unsupported: no adapter".into()) };
    on_device(device, &Target::webgpu_default(), graph, what, inputs)
}

/// The adapter, taken to compare 64-bit integers wrongly.
pub fn comparing_words(graph: &Graph, what: What, inputs: &Named) -> Result<Named, String> {
    let Some(device) = software() else { return Err("unsupported: no adapter".into()) };
    let mut target = device.target();
    target.caps.i64_comparisons = false;
    on_device(device, &target, graph, what, inputs)
}

/// A plan for `target` on a device, through a step as the user runs it, but with dropout where the graph has it.
fn on_device(device: &Device, target: &Target, graph: &Graph, what: What, inputs: &Named) -> Result<Named, String> {
    let lacks = |e: String| if e.contains("f64 needs 64-bit floats") { format!("unsupported: {e}") } else { e };
    let traced = Traced { graph: graph.clone(), ..Traced::default() };
    let config = Config { allow_non_finite: true, allow_empty: true, ..Config::default() };
    let config = Config { mode: if what == What::Forward { Mode::Inference } else { Mode::Vjp }, ..config };
    let types: Vec<_> = graph.inputs.iter().map(|i| graph.ty(i.value).clone()).collect();
    let compiled = inductor_with_report(graph, &types, target, &config);
    let step = compiled.and_then(|(plan, report)| Step::new(plan, report, &traced, device, &config)).map_err(|e| lacks(e.to_string()))?;
    let mut state = step.init(0).map_err(|e| e.to_string())?;
    let wanted: Vec<String> = step.plan().program.inputs.iter().map(|i| i.name.clone()).collect();
    let given: Named = inputs.iter().filter(|(n, _)| wanted.contains(n)).cloned().collect();
    let result = step.run(&mut state, given).map_err(|e| e.to_string())?;
    let mut out = result.outputs().map_err(|e| e.to_string())?;
    if what == What::Gradients {
        let gradients = result.gradients().map_err(|e| e.to_string())?;
        out.extend(gradients.into_iter().map(|(name, g)| (format!("grad.{name}"), g)));
    }
    Ok(out)
}

/// Lowered nests one by one, element by element.
fn nests(graph: &Graph, what: What, inputs: &Named) -> Result<Named, String> {
    let graph = match what {
        What::Forward => inline_subgraphs(graph, Inline::Calls)?.into_owned(),
        What::Gradients => {
            let joint = joint_graph(graph, Wrt::Inputs, Seed::Cotangents).map_err(|e| e.to_string())?;
            set_unit_cotangents(&joint)?
        }
    };
    let graph = recursive_joint_graph_passes(graph).and_then(post_grad_passes).map_err(|e| e.to_string())?;
    let lowered = lower(&[(Phase::Forward, &graph)], &Config::default()).map_err(|e| e.to_string())?;
    let mut memory = empty_memory(&lowered);
    for input in &lowered.inputs {
        let (_, tensor) = inputs.iter().find(|(n, _)| *n == input.name).ok_or_else(|| format!("no value for {}", input.name))?;
        memory[input.buffer.0 as usize] = to_memory(tensor);
    }
    run_nests(&lowered, &mut memory)?;
    let read = |b: usize| to_tensor(&memory[b], &lowered.buffers[b].ty.shape.as_ints().expect("constant sizes"));
    Ok(lowered.outputs.iter().map(|o| (o.name.clone(), read(o.buffer.0 as usize))).collect())
}

/// Zeros for every buffer, and the constants.
fn empty_memory(lowered: &Lowered) -> Vec<Memory> {
    let zeros = |b: &Buffer| Memory::zeros(b.ty.dtype, b.ty.shape.as_ints().expect("constant sizes").iter().product());
    let mut memory: Vec<Memory> = lowered.buffers.iter().map(zeros).collect();
    for (buffer, tensor) in &lowered.constants {
        memory[buffer.0 as usize] = to_memory(tensor);
    }
    memory
}

fn run_nests(lowered: &Lowered, memory: &mut [Memory]) -> Result<(), String> {
    for nest in &lowered.nests {
        match nest.control() {
            Some(number) => run_control(&lowered.controls[number], memory)?,
            None => drop(naive::run(nest, memory, &Bindings::new())?),
        }
    }
    Ok(())
}

/// The first block once, the others as often as they are to run.
fn run_control(control: &Control, memory: &mut [Memory]) -> Result<(), String> {
    let (first, others) = control.blocks.split_first().ok_or("control flow without blocks")?;
    run_block(first, memory)?;
    let mut trips = 0;
    loop {
        let ended = match &control.repeat {
            Repeat::Times(n) => n.as_int().ok_or("a symbolic trip count")? <= trips,
            Repeat::Until(word) => trips > 0 && memory[word.0 as usize].elements[0].as_i64() != 0,
        };
        if ended {
            return Ok(());
        }
        others.iter().try_for_each(|block| run_block(block, memory))?;
        trips += 1;
    }
}

/// A block on memory of its own, unless its word says to skip it.
fn run_block(block: &Block, outer: &mut [Memory]) -> Result<(), String> {
    let mut memory = empty_memory(&block.lowered);
    block.border.iter().for_each(|(own, around)| memory[own.0 as usize] = outer[around.0 as usize].clone());
    if block.lowered.skip.is_some_and(|word| memory[word.0 as usize].elements[0].as_i64() != 0) {
        return Ok(());
    }
    run_nests(&block.lowered, &mut memory)?;
    let written: Vec<BufferId> = block.lowered.nests.iter().flat_map(|n| n.writes.iter().map(|w| w.buffer)).collect();
    let changed = block.border.iter().filter(|(own, _)| written.contains(own));
    changed.for_each(|(own, around)| outer[around.0 as usize] = memory[own.0 as usize].clone());
    Ok(())
}

/// The elements of a buffer as a tensor.
pub fn to_tensor(m: &Memory, shape: &[usize]) -> HostTensor {
    match m.dtype.is_float() {
        true => HostTensor::from_f64(m.dtype, shape, &m.to_f64()),
        false => HostTensor::from_i64(m.dtype, shape, &m.elements.iter().map(|n: &Number| n.as_i64()).collect::<Vec<_>>()),
    }
}

/// A tensor as the elements of a buffer.
pub fn to_memory(t: &HostTensor) -> Memory {
    if t.dtype().is_float() { Memory::from_f64(t.dtype(), &t.to_f64()) } else { Memory::from_i64(t.dtype(), &t.to_i64()) }
}

/// The scheduled program on the interpreter, temporaries poisoned first.
fn program(graph: &Graph, what: What, inputs: &Named, target: &Target, fuse: bool, reuse: bool) -> Result<Named, String> {
    let mode = if what == What::Forward { Mode::Inference } else { Mode::Vjp };
    let config = Config { mode, fuse, reuse, ..Config::default() };
    let types: Vec<_> = graph.inputs.iter().map(|i| graph.ty(i.value).clone()).collect();
    let plan = inductor(graph, &types, target, &config).map_err(|e| e.to_string())?;
    run_program(plan.program, inputs)
}

/// Runs a program on the interpreter.
pub fn run_program(program: Program, inputs: &Named) -> Result<Named, String> {
    let program = Arc::new(program);
    let mut interpreter = Interpreter::new(program.clone()).map_err(|e| e.to_string())?;
    interpreter.bind(&Bindings::new()).map_err(|e| e.to_string())?;
    interpreter.poison_temporaries();
    for input in &program.inputs {
        let (_, tensor) = inputs.iter().find(|(n, _)| *n == input.name).ok_or_else(|| format!("no value for {}", input.name))?;
        interpreter.write(input.buffer, tensor).map_err(|e| e.to_string())?;
    }
    let status = interpreter.run().map_err(|e| e.to_string())?;
    if status != 0 {
        return Err(format!("status: {}", program.checks[status as usize - 1]));
    }
    program.outputs.iter().map(|o| Ok((o.name.clone(), interpreter.read(o.buffer).map_err(|e| e.to_string())?))).collect()
}
