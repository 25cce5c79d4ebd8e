//! The pipeline as one readable function.
//!
//! * Comes in: a forward graph with example input types, a target, a configuration.
//! * Goes out: a [`Plan`] that `runtime` or `interp` executes.
//! * Invariants: the platform is checked before any work; nothing here touches a device, a thread pool or a file (but for
//!   `Config::dump`); the same input gives the same bytes.
//! * Must not know: wgpu.

use crate::autograd::{self, Seed, Wrt};
use crate::codegen::{self, Plan};
use crate::config::{Config, Gradients, LossScale, MixedPrecision, Mode, Optimizer, Target};
use crate::error::{Error, Result};
use crate::forms::attention::Scores;
use crate::graph::{Graph, Inline, Input, InputRole, OutputRole, Value, freeze, inline_subgraphs, is_frozen};
use crate::loop_ir::Phase;
use crate::lower::lower;
use crate::partition::{Pressure, fusible_by_traits, partition_under};
use crate::passes::{fuse_attention, halve_products, merge_linears, post_grad_passes, recursive_joint_graph_passes, recursive_pre_grad_passes};
use crate::schedule::{Program, schedule};
use crate::types::{Bindings, DType, Decision, Dim, TensorType};
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::time::Instant;

/// What a compilation did, beside its plan: never part of the plan, which is deterministic.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Milliseconds of each stage, in order.
    pub stage_ms: Vec<(String, f64)>,
    /// Nodes of the joint graph of forward and backward after its passes; of the forward, in inference.
    pub joint_nodes: usize,
    /// Parameters that no gradient of the loss reaches: training leaves them as they are.
    pub untrained: Vec<String>,
    /// The graphs that were lowered, by phase: what `verify` evaluates.
    pub graphs: Vec<(Phase, Graph)>,
    /// Saved values: name, bytes and reason.
    pub saved: Vec<(String, Dim, String)>,
    /// Recomputed values: name, bytes and reason.
    pub recomputed: Vec<(String, Dim, String)>,
    /// What computing values again costs, in bytes that memory could move meanwhile.
    pub recomputing: u64,
    /// The buffer that holds each stored graph value, by phase: what `verify` compares.
    pub values: Vec<(Phase, Value, crate::loop_ir::BufferId)>,
}

/// The front door: compiles `graph` for `target`. `example_inputs` are the types of the graph's inputs of role `input`, in
/// order (or of all its inputs); they are checked against the signature.
pub fn inductor(graph: &Graph, example_inputs: &[TensorType], target: &Target, config: &Config) -> Result<Plan> {
    inductor_with_report(graph, example_inputs, target, config).map(|(plan, _)| plan)
}

/// [`inductor()`], and what it did.
pub fn inductor_with_report(graph: &Graph, example_inputs: &[TensorType], target: &Target, config: &Config) -> Result<(Plan, Report)> {
    let span = tracing::info_span!("inductor", graph = %graph.name, target = %target.caps.name);
    let _entered = span.enter();
    crate::platform::check(target, graph)?;
    check_examples(graph, example_inputs)?;
    let mut report = Report::default();
    let plan = compile_fx(graph, target, config, &mut report)?;
    let total: f64 = report.stage_ms.iter().map(|s| s.1).sum();
    tracing::info!(kernels = plan.program.kernels.len(), launches = plan.launches.len(), ms = total, "compiled");
    Ok((plan, report))
}

/// Pre-grad passes, differentiation, joint passes, partition, then one schedule over all graphs, then code.
fn compile_fx(graph: &Graph, target: &Target, config: &Config, report: &mut Report) -> Result<Plan> {
    let mut clock = Clock { report, started: Instant::now() };
    let guards = graph.guards.clone();
    let training = config.mode != Mode::Inference;
    let graph = before_autograd(graph, target, config)?;
    clock.stage("pre_grad");
    let stages = Stages { graph: &graph, target, config };
    let mut program = if training { stages.training(&mut clock)? } else { stages.inference(&mut clock)? };
    program.guards = guards;
    let plan = generate(program, target)?;
    clock.stage("codegen");
    dump_plan(config, &plan)?;
    Ok(plan)
}

/// What mixed precision cannot be, or stand beside.
fn check_mixed(mixed: &MixedPrecision, config: &Config) -> Result<()> {
    if !matches!(mixed.dtype, DType::F16 | DType::BF16) {
        return Err(Error::compile(format!("mixed precision computes products in f16 or bf16, not in {}", mixed.dtype)));
    }
    let Some(scale) = &mixed.loss_scale else { return Ok(()) };
    if config.check_gradients {
        return Err(Error::compile("a loss scale skips steps whose gradients are not finite, and check_gradients refuses them: choose one"));
    }
    let is_power = scale.initial > 0.0 && scale.initial.log2().fract() == 0.0;
    if !is_power || !(-24.0..=24.0).contains(&scale.initial.log2()) || scale.growth_interval == 0 {
        return Err(Error::compile(format!(
            "a loss scale starts with a power of two from 2^-24 to 2^24 and doubles after one step or more, not with {} and after {}",
            scale.initial, scale.growth_interval
        )));
    }
    Ok(())
}

/// Pre-grad passes, linear layers of one input merged and attention in one kernel where that pays, and frozen parameters detached.
fn before_autograd(graph: &Graph, target: &Target, config: &Config) -> Result<Graph> {
    let graph = recursive_pre_grad_passes(graph)?;
    // Before products are halved, so that weights are copied as they are converted.
    let mut graph = merge_linears(graph, target, config)?;
    if let Some(mixed) = &config.mixed_precision {
        check_mixed(mixed, config)?;
        graph = halve_products(&graph, mixed.dtype)?;
    }
    // Whoever bounds memory wants no scores in it.
    let scores = if config.memory_budget.is_some() { Scores::Recomputed } else { Scores::Stored };
    let gradients = (config.mode != Mode::Inference).then_some(scores);
    let graph = fuse_attention(&graph, target, config.matmul_precision, gradients)?;
    let Mode::Train(optimizer) = &config.mode else { return Ok(graph) };
    check_trainable(&graph)?;
    freeze_groups(graph, optimizer)
}

/// How much a training step may save less, and what it costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Frontier {
    /// Bytes that cross from forward to backward.
    pub saved_bytes: u64,
    /// Bytes of all buffers on the device.
    pub peak_bytes: u64,
    /// Predicted milliseconds of a step that are spent on computing values again, by the model of the device.
    pub recomputing_ms: f64,
}

/// Every cut that a memory budget chooses from, from the one without a budget on.
pub fn frontier(graph: &Graph, target: &Target, config: &Config) -> Result<Vec<Frontier>> {
    crate::platform::check(target, graph)?;
    let graph = before_autograd(graph, target, config)?;
    let stages = Stages { graph: &graph, target, config };
    let mut clock = Clock { report: &mut Report::default(), started: Instant::now() };
    let joint = stages.joint(&mut clock)?;
    let point = |pressure| -> Result<Frontier> {
        let program = stages.cut(&joint, pressure, &mut clock)?;
        let saved_bytes = clock.report.saved.iter().map(|(_, bytes, _)| hint(bytes)).sum();
        let recomputing_ms = clock.report.recomputing as f64 / target.model.bandwidth_gbps.max(1) as f64 / 1e6;
        Ok(Frontier { saved_bytes, peak_bytes: hint(&program.peak_bytes()), recomputing_ms })
    };
    Pressure::all().map(point).collect()
}

/// What all cuts of a program have in common.
struct Stages<'a> {
    /// After the pre-grad passes.
    graph: &'a Graph,
    target: &'a Target,
    config: &'a Config,
}

impl Stages<'_> {
    fn inference(&self, clock: &mut Clock<'_>) -> Result<Program> {
        let inlined = inline_subgraphs(self.graph, Inline::Calls).map_err(Error::compile)?;
        let joint = recursive_joint_graph_passes(inlined.into_owned())?;
        clock.report.joint_nodes = joint.nodes.len();
        clock.stage("joint");
        let forward = fw_compiler_base(joint)?;
        clock.stage("post_grad");
        let program = self.program(vec![(Phase::Forward, forward)], vec![], clock)?;
        self.excess(&program).map_or(Ok(program), |why| Err(Error::Platform(why)))
    }

    /// The program that saves least without losing time; with a memory budget, the fastest that is known to fit.
    fn training(&self, clock: &mut Clock<'_>) -> Result<Program> {
        let joint = self.joint(clock)?;
        let program = self.cut(&joint, Pressure::NONE, clock)?;
        let unbounded = hint(&program.peak_bytes());
        let Some(limit) = self.config.memory_budget.map(|b| b.bytes(unbounded)).filter(|&limit| limit < unbounded) else {
            return match self.excess(&program) {
                Some(why) => Err(Error::Platform(format!("{why}; {}", self.remedy(&joint)?))),
                None => Ok(program),
            };
        };
        let mut floor = unbounded;
        for pressure in Pressure::all().skip(1) {
            let program = self.cut(&joint, pressure, clock)?;
            let peak = hint(&program.peak_bytes());
            if peak <= limit {
                return self.excess(&program).map_or(Ok(program), |why| Err(Error::Platform(why)));
            }
            floor = floor.min(peak);
        }
        Err(Error::compile(format!(
            "a step of {} takes at least {floor} bytes, and the memory budget is {limit}; without a budget it takes {unbounded}",
            self.graph.name
        )))
    }

    fn loss_scale(&self) -> Option<&LossScale> {
        let trains = matches!(self.config.mode, Mode::Train(_));
        self.config.mixed_precision.as_ref().filter(|_| trains).and_then(|mixed| mixed.loss_scale.as_ref())
    }

    /// Why a program cannot run on the target at any time. Sizes that are not known yet are looked at when they are.
    fn excess(&self, program: &Program) -> Option<String> {
        let (caps, bindings) = (&self.target.caps, Bindings::new());
        let peak = program.peak_bytes().as_int()?.max(0) as u64;
        let memory = caps.memory_bytes.filter(|&memory| peak > memory)?;
        Some(format!("{}; {} has {memory} bytes", program.appetite(peak, &bindings), caps.name))
    }

    /// The memory budget under which a step that is too large fits the target.
    fn remedy(&self, joint: &Graph) -> Result<String> {
        let mut clock = Clock { report: &mut Report::default(), started: Instant::now() };
        let mut floor = u64::MAX;
        for pressure in Pressure::all().skip(1) {
            let program = self.cut(joint, pressure, &mut clock)?;
            let peak = hint(&program.peak_bytes());
            if self.excess(&program).is_none() {
                return Ok(format!("it fits with a memory budget of {peak} bytes (Config::memory_budget)"));
            }
            floor = floor.min(peak);
        }
        Ok(format!("no memory budget makes it fit: the smallest is {floor} bytes"))
    }

    /// Differentiation and joint passes.
    fn joint(&self, clock: &mut Clock<'_>) -> Result<Graph> {
        let (wrt, seed) = match self.config.mode {
            Mode::Vjp => (Wrt::Inputs, Seed::Cotangents),
            _ => (Wrt::Parameters, Seed::Loss),
        };
        let joint = autograd::joint_graph(self.graph, wrt, seed)?;
        let joint = match self.loss_scale() {
            Some(scale) => crate::update::scale_loss(&joint, scale).map_err(Error::compile)?,
            None => joint,
        };
        clock.stage("autograd");
        let joint = recursive_joint_graph_passes(joint)?;
        clock.report.joint_nodes = joint.nodes.len();
        clock.stage("joint");
        Ok(joint)
    }

    /// The cut, both halves compiled, and the update.
    fn cut(&self, joint: &Graph, pressure: Pressure, clock: &mut Clock<'_>) -> Result<Program> {
        let partition = partition_under(joint, &fusible_by_traits, self.config.saving, pressure)?;
        clock.stage("partition");
        clock.report.saved = partition.saved.iter().map(|s| (format!("{} ({})", s.name, s.label), s.bytes.clone(), s.reason.clone())).collect();
        clock.report.recomputed = partition.recomputed.iter().map(|s| (s.label.clone(), s.bytes.clone(), s.reason.clone())).collect();
        clock.report.recomputing = partition.recomputing;
        let forward = fw_compiler_base(partition.forward)?;
        let backward = bw_compiler(partition.backward)?;
        clock.stage("post_grad");
        let mut graphs = vec![(Phase::Forward, forward), (Phase::Backward, backward)];
        if let Mode::Train(optimizer) = &self.config.mode {
            let trained = trained_parameters(self.graph, &graphs);
            clock.report.untrained = untrained_parameters(self.graph, &trained);
            let update = compile_update(&trained, optimizer, self.config.gradients, self.loss_scale())?;
            check_names(self.graph, &update)?;
            graphs.push((Phase::Update, update));
            clock.stage("update");
        }
        self.program(graphs, partition.decisions, clock)
    }

    /// Loop nests and one schedule over all graphs.
    fn program(&self, graphs: Vec<(Phase, Graph)>, decisions: Vec<Decision>, clock: &mut Clock<'_>) -> Result<Program> {
        dump_graphs(self.config, &graphs)?;
        let lowered = lower(&graphs.iter().map(|(p, g)| (*p, g)).collect::<Vec<_>>(), self.config)?;
        clock.report.values = lowered.values.clone();
        clock.stage("lower");
        let mut program = schedule(&self.graph.name, lowered, self.target, self.config)?;
        program.decisions.splice(0..0, decisions);
        clock.stage("schedule");
        clock.report.graphs = graphs;
        Ok(program)
    }
}

/// A number to reckon with for bytes; symbols count as expected.
fn hint(bytes: &Dim) -> u64 {
    bytes.hint().max(0) as u64
}

/// Makes a forward ready for lowering; inference and training share it.
pub fn fw_compiler_base(forward: Graph) -> Result<Graph> {
    post_grad_passes(forward)
}

/// Makes a backward ready for lowering.
pub fn bw_compiler(backward: Graph) -> Result<Graph> {
    post_grad_passes(backward)
}

/// Parameters that have a gradient, with their types. What the loss does not read, or reads detached, has none.
fn trained_parameters(graph: &Graph, compiled: &[(Phase, Graph)]) -> Vec<(String, TensorType)> {
    let outputs = compiled.iter().flat_map(|(_, g)| &g.outputs);
    let with_gradient: HashSet<&str> =
        outputs.filter_map(|o| if let OutputRole::Gradient(of) = &o.role { Some(of.as_str()) } else { None }).collect();
    let parameters = graph.inputs.iter().filter(|i| i.role == InputRole::Parameter && with_gradient.contains(i.name.as_str()));
    parameters.map(|i| (i.name.clone(), graph.ty(i.value).clone())).collect()
}

/// A parameter that is not of floats has no gradient, and nobody trains it.
fn check_trainable(graph: &Graph) -> Result<()> {
    let Some(input) = graph.inputs.iter().find(|i| i.role == InputRole::Parameter && !graph.ty(i.value).dtype.is_float()) else {
        return Ok(());
    };
    let message = format!("parameter {} is {}; only floats are trained, and what is not trained is a buffer", input.name, graph.ty(input.value));
    Err(Error::Compile { message, location: graph.provenance(input.value.node).line().cloned() })
}

/// What the optimizer reads beside the parameters has names of its own; the program may read its host scalars, too.
fn check_names(graph: &Graph, update: &Graph) -> Result<()> {
    let inputs: HashMap<&str, &Input> = graph.inputs.iter().map(|i| (i.name.as_str(), i)).collect();
    for own in update.inputs.iter().filter(|i| i.role != InputRole::Parameter) {
        let Some(input) = inputs.get(own.name.as_str()) else { continue };
        let (ty, wanted) = (graph.ty(input.value), update.ty(own.value));
        if input.role != InputRole::HostScalar || input.role != own.role || ty != wanted {
            let message = format!("the program's {} is {ty}, and the optimizer has a {wanted} of that name; name it otherwise", own.name);
            return Err(Error::Compile { message, location: graph.provenance(input.value.node).line().cloned() });
        }
    }
    Ok(())
}

/// Detaches the parameters of frozen groups, so that nothing is computed for them.
fn freeze_groups(graph: Graph, optimizer: &Optimizer) -> Result<Graph> {
    let parameters: Vec<&str> = graph.inputs.iter().filter(|i| i.role == InputRole::Parameter).map(|i| i.name.as_str()).collect();
    let idle = crate::update::idle_patterns(optimizer, &parameters);
    if !idle.is_empty() {
        let message = format!("optimizer: no parameter fits {}; there are {}", idle.join(", "), parameters.join(", "));
        return Err(Error::compile(message));
    }
    let is_frozen = |name: &str| optimizer.of(name).is_none();
    if parameters.iter().any(|name| is_frozen(name)) { freeze(&graph, &is_frozen).map_err(Error::compile) } else { Ok(graph) }
}

/// Parameters that stay as they are. Of those that nobody froze this is said, since it is often a mistake.
fn untrained_parameters(graph: &Graph, trained: &[(String, TensorType)]) -> Vec<String> {
    let trained: HashSet<&str> = trained.iter().map(|(name, _)| name.as_str()).collect();
    let untrained: Vec<_> = graph.inputs.iter().filter(|i| i.role == InputRole::Parameter && !trained.contains(i.name.as_str())).collect();
    let lost: Vec<&str> = untrained.iter().filter(|i| !is_frozen(graph, i.value)).map(|i| i.name.as_str()).collect();
    if !lost.is_empty() {
        tracing::warn!(program = %graph.name, parameters = lost.join(", "), "no gradient of the loss reaches these parameters: they stay as they are");
    }
    untrained.into_iter().map(|i| i.name.clone()).collect()
}

/// The optimizer's graph over those parameters. It is built in the form that the joint passes give, so that only those of the last
/// stage run. Other parameters stay as they are, without decay, as in PyTorch.
fn compile_update(parameters: &[(String, TensorType)], optimizer: &Optimizer, gradients: Gradients, loss_scale: Option<&LossScale>) -> Result<Graph> {
    let update = crate::update::update_graph(optimizer, parameters, gradients, loss_scale)?;
    post_grad_passes(update)
}

fn generate(program: Program, target: &Target) -> Result<Plan> {
    if target.caps.is_cpu() {
        return Ok(Plan { program, target: target.clone(), code: vec![], launches: vec![] });
    }
    codegen::generate(program, target)
}

fn check_examples(graph: &Graph, examples: &[TensorType]) -> Result<()> {
    let user: Vec<_> = graph.inputs.iter().filter(|i| i.role == InputRole::Input).collect();
    let all: Vec<_> = graph.inputs.iter().collect();
    let inputs = if examples.len() == all.len() { all } else { user };
    if inputs.len() != examples.len() {
        return Err(Error::Input(format!("{} takes {} inputs, got {} example types", graph.name, inputs.len(), examples.len())));
    }
    for (input, example) in inputs.into_iter().zip(examples) {
        let expected = graph.ty(input.value);
        let fits = expected.dtype == example.dtype
            && expected.shape.rank() == example.shape.rank()
            && expected.shape.0.iter().zip(&example.shape.0).all(|(e, x)| e == x || (e.as_int().is_none() && admits(e.range(), x.range())));
        if !fits {
            return Err(Error::Input(format!("{} is {expected}, got {example}", input.name)));
        }
    }
    Ok(())
}

fn admits(declared: (i64, i64), given: (i64, i64)) -> bool {
    declared.0 <= given.0 && given.1 <= declared.1
}

struct Clock<'a> {
    report: &'a mut Report,
    started: Instant,
}

impl Clock<'_> {
    fn stage(&mut self, name: &str) {
        let ms = self.started.elapsed().as_secs_f64() * 1e3;
        tracing::debug!(stage = name, ms, "stage done");
        self.report.stage_ms.push((name.into(), ms));
        self.started = Instant::now();
    }
}

fn dump_graphs(config: &Config, graphs: &[(Phase, Graph)]) -> Result<()> {
    let Some(dir) = &config.dump else { return Ok(()) };
    for (phase, graph) in graphs {
        write_file(&dir.join(format!("{phase:?}.ir").to_lowercase()), &crate::graph::print(graph))?;
    }
    Ok(())
}

fn dump_plan(config: &Config, plan: &Plan) -> Result<()> {
    let Some(dir) = &config.dump else { return Ok(()) };
    let form = |i: usize| plan.program.forms.get(i).map(|form| format!(", {form:?}")).unwrap_or_default();
    let kernels: Vec<String> = plan.program.kernels.iter().enumerate().map(|(i, k)| format!("// kernel {i}{}\n{k}\n", form(i))).collect();
    write_file(&dir.join("kernels.txt"), &kernels.join("\n"))?;
    let commands: Vec<String> = plan
        .program
        .commands
        .iter()
        .map(|c| format!("{:?} kernel {} buffers {:?} {}", c.phase, c.kernel, c.buffers.iter().map(|b| b.0).collect::<Vec<_>>(), c.label))
        .collect();
    write_file(&dir.join("commands.txt"), &commands.join("\n"))?;
    if plan.code.is_empty() { Ok(()) } else { write_file(&dir.join("kernels.wgsl"), &codegen::dump(plan)) }
}

fn write_file(path: &std::path::Path, text: &str) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    std::fs::create_dir_all(parent).map_err(|e| Error::file(path, e))?;
    crate::files::write(path, text)
}
