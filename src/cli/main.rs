//! The command line program.

mod allocator;
mod bench;
#[cfg(feature = "torch")]
mod case;
#[cfg(feature = "torch")]
mod chance;
#[cfg(feature = "torch")]
mod check;
mod doctor;
mod models;
#[cfg(feature = "gpu")]
mod tune;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use inductor::compile::{frontier, inductor_with_report};
use inductor::config::{MemoryBudget, Mode, Precision, Target};
use inductor::graph::InputRole;
use inductor::runtime::{Explain, TensorFile, replay, save_tensors};
use inductor::types::Shape;
use inductor::{Config, Device, Dim, HostTensor, Inputs, Traced, compile, optim, report};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

/// A training compiler for every GPU that wgpu reaches.
#[derive(Parser)]
#[command(version, about)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show adapters, limits and fast paths; fails when the device is unusable.
    Doctor {
        /// The device that must be usable: auto, gpu, software or cpu.
        #[arg(long, default_value = "auto")]
        device: String,
    },
    /// Show what the compiler decides for a model.
    Explain(ExplainOptions),
    /// Measure which forms of a model's products are the fastest on this device, for later compilations.
    #[cfg(feature = "gpu")]
    Tune(tune::TuneOptions),
    /// Show the modules of a model: parameters, shapes, arithmetic, activations.
    Summary(SummaryOptions),
    /// Run a model once on inputs from a safetensors file.
    Run(RunOptions),
    /// Compare cases with PyTorch's results.
    #[cfg(feature = "torch")]
    Check(check::CheckOptions),
    /// Run cases that another process names.
    #[cfg(feature = "torch")]
    #[command(hide = true)]
    CheckWorker {
        /// Where to run.
        #[arg(long)]
        device: String,
        /// Compare gradients too.
        #[arg(long)]
        grad: bool,
        /// Name the layer that is wrong.
        #[arg(long)]
        verify: bool,
    },
    /// Measure.
    Bench(bench::BenchOptions),
    /// Run a reproducer that `verify` wrote.
    Replay {
        /// Folder of the reproducer.
        folder: PathBuf,
        /// Device for kernels: auto, gpu or software.
        #[arg(long, default_value = "auto")]
        device: String,
    },
}

#[derive(clap::Args)]
struct ExplainOptions {
    /// Graph text (`.ir`), a program of torch.export (`.pt2`), or one of mlp, small, nanogpt, gpt2.
    model: String,
    /// Compile a training step instead of inference.
    #[arg(long)]
    train: bool,
    /// Compile the forward and gradients of given cotangents instead of inference.
    #[arg(long, conflicts_with = "train")]
    vjp: bool,
    /// Target: auto, gpu, software, cpu, or webgpu-default and h100, which need no device.
    #[arg(long, default_value = "auto")]
    device: String,
    /// How exactly a step computes: highest, high or medium products of f32 where there are matrix units, or f16 or bf16 for mixed precision.
    #[arg(long, default_value = "highest")]
    precision: Precision,
    /// Memory that the step may take: a share of what it takes otherwise (`0.5`, `50%`), or bytes (`3000MiB`).
    #[arg(long)]
    memory_budget: Option<MemoryBudget>,
    /// Show what each memory budget saves and costs, instead of the program.
    #[arg(long, requires = "train")]
    frontier: bool,
    /// Write graphs, loop nests and shaders of every stage into this folder.
    #[arg(long)]
    dump: Option<PathBuf>,
    /// Write everything as one HTML page into this file.
    #[arg(long)]
    html: Option<PathBuf>,
    /// Write everything as JSON into this file; `-` is the standard output.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(clap::Args)]
struct SummaryOptions {
    /// Graph text (`.ir`), a program of torch.export (`.pt2`), or one of mlp, small, nanogpt, gpt2.
    model: String,
    /// Write everything as JSON into this file; `-` is the standard output.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(clap::Args)]
struct RunOptions {
    /// Graph text (`.ir`) or a program of torch.export (`.pt2`).
    model: String,
    /// Safetensors file with the inputs, by name.
    #[arg(long)]
    input: PathBuf,
    /// Safetensors file that receives the outputs, by name.
    #[arg(long)]
    output: PathBuf,
    /// Safetensors file with parameters and buffers.
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Where to run: auto, gpu, software or cpu.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Seed of parameters that no file gives, and of random ops.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn main() -> ExitCode {
    allocator::keep_memory();
    inductor::config::leave_windows_alone();
    let options = Options::parse();
    match listen().and_then(|()| run(options.command)) {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Sends what `INDUCTOR_LOG` asks for (levels by target, as in `warn,inductor=debug`), warnings where it is not set, to standard error.
fn listen() -> Result<()> {
    let filter: Targets = match std::env::var("INDUCTOR_LOG") {
        Ok(text) => text.parse().with_context(|| format!("INDUCTOR_LOG is `{text}`"))?,
        Err(_) => Targets::new().with_default(LevelFilter::WARN),
    };
    let colors = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colors);
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
    Ok(())
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Doctor { device } => doctor::doctor(&device),
        Command::Explain(options) => explain(&options).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "gpu")]
        Command::Tune(options) => tune::tune(&options).map(|()| ExitCode::SUCCESS),
        Command::Summary(options) => summary(&options).map(|()| ExitCode::SUCCESS),
        Command::Run(options) => run_model(&options).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "torch")]
        Command::Check(options) => check::check(&options),
        #[cfg(feature = "torch")]
        Command::CheckWorker { device, grad, verify } => check::worker(&device, case::Mode { grad, verify }),
        Command::Bench(options) => bench::bench(&options).map(|()| ExitCode::SUCCESS),
        Command::Replay { folder, device } => replay_case(&folder, &device),
    }
}

fn explain(options: &ExplainOptions) -> Result<()> {
    for (k, output) in [&options.json, &options.html].into_iter().enumerate() {
        let Some(output) = output else { continue };
        refuse_overwriting(output, &[Path::new(&options.model)])?;
        if k == 0 && options.html.as_ref() == Some(output) {
            bail!("--json and --html are both {}", output.display());
        }
    }
    let traced = models::load(&options.model)?.traced;
    let target = match options.device.as_str() {
        "webgpu-default" => Target::webgpu_default(),
        "h100" => Target::h100(),
        "cpu" => Target::cpu(),
        name => Device::from_name(name)?.target(),
    };
    let mode = match (options.train, options.vjp) {
        (true, _) => Mode::Train(optim::AdamW::new(1e-3).into()),
        (_, true) => Mode::Vjp,
        _ => Mode::Inference,
    };
    let config = Config { mode, dump: options.dump.clone(), memory_budget: options.memory_budget, ..Config::default() };
    let config = options.precision.of(config);
    if options.frontier {
        return emit(&report::frontier_text(&frontier(&traced.graph, &target, &config)?));
    }
    if let Some(dir) = &options.dump {
        refuse_dumping_over(dir, Path::new(&options.model))?;
    }
    let examples: Vec<_> = traced.graph.inputs.iter().map(|i| traced.graph.ty(i.value).clone()).collect();
    let (plan, compiled) = inductor_with_report(&traced.graph, &examples, &target, &config)?;
    let explained = Explain::new(&plan, &compiled);
    write_json(options.json.as_deref(), &explained)?;
    if let Some(path) = &options.html {
        write_file(path, &report::html(&explained))?;
    }
    if options.json.as_ref().is_none_or(|p| p != Path::new("-")) {
        emit(&explained.to_string())?;
    }
    Ok(())
}

fn summary(options: &SummaryOptions) -> Result<()> {
    if let Some(output) = &options.json {
        refuse_overwriting(output, &[Path::new(&options.model)])?;
    }
    let summary = models::load(&options.model)?.traced.summary()?;
    write_json(options.json.as_deref(), &summary)?;
    if options.json.as_ref().is_some_and(|p| p == Path::new("-")) { Ok(()) } else { emit(&summary.to_string()) }
}

fn run_model(options: &RunOptions) -> Result<()> {
    let model = Path::new(&options.model);
    let weights = options.weights.as_deref().into_iter();
    refuse_overwriting(&options.output, &[model, &options.input].into_iter().chain(weights).collect::<Vec<_>>())?;
    let models::Model { traced, tensors } = models::load(&options.model)?;
    // A program imported with dropout is used, not trained.
    let traced = traced.inference()?;
    // Mistakes in files show before anything is compiled.
    let inputs = read_inputs(&options.input, &traced)?;
    let folder = options.output.parent().filter(|p| !p.as_os_str().is_empty());
    if folder.is_some_and(|p| !p.is_dir()) || options.output.is_dir() {
        bail!("cannot write {}: it must be a file in a folder that exists", options.output.display());
    }
    let device = Device::from_name(&options.device)?;
    complain(&format!("device: {}", device.describe()));
    let step = compile(&traced, &device, &Config::default())?;
    let mut state = step.init(options.seed)?;
    for (name, tensor) in tensors {
        state.set(&name, tensor)?;
    }
    if let Some(weights) = &options.weights {
        state.load(weights)?;
    }
    let result = step.run(&mut state, Inputs::Named(inputs)).with_context(|| format!("inputs of {}", options.input.display()))?;
    let outputs: Vec<(String, HostTensor)> = result.outputs()?;
    save_tensors(&options.output, &outputs, None)?;
    for (name, tensor) in &outputs {
        emit(&format!("{name}: {}{:?}\n", tensor.dtype(), tensor.shape()))?;
    }
    Ok(())
}

/// Tensors of a file, under the names that the program gives its inputs: the file may say `input.0`, `input.1`, ... instead. Only
/// those are read whose types fit; the others are named in one error.
fn read_inputs(path: &Path, traced: &Traced) -> Result<Vec<(String, HostTensor)>> {
    let mut file = TensorFile::open(path).context("cannot read the inputs")?;
    let graph = &traced.graph;
    let names: Vec<&str> = graph.inputs.iter().filter(|i| i.role == InputRole::Input).map(|i| i.name.as_str()).collect();
    let (mut wanted, mut faults) = (vec![], vec![]);
    for (name, dtype, shape) in file.tensors() {
        let position = name.strip_prefix("input.").and_then(|n| n.parse::<usize>().ok());
        let real = position.and_then(|n| names.get(n).copied()).filter(|_| !names.contains(&name)).unwrap_or(name);
        match graph.input(real).filter(|_| names.contains(&real)).map(|i| graph.ty(i.value)) {
            None => faults.push(format!("there is no input {name}")),
            Some(ty) if ty.dtype != dtype || !takes(&ty.shape, shape) => faults.push(format!("{real}: expected {ty}, got {dtype}{shape:?}")),
            Some(_) => wanted.push((name.to_string(), real.to_string())),
        }
    }
    if !faults.is_empty() {
        bail!("{}: {}", path.display(), faults.join("; "));
    }
    wanted.into_iter().map(|(name, real)| Ok((real, file.read(&name)?))).collect()
}

/// Whether a shape takes these sizes, each for itself.
fn takes(shape: &Shape, sizes: &[usize]) -> bool {
    let fits = |dim: &Dim, n: &usize| i64::try_from(*n).is_ok_and(|n| dim.range().0 <= n && n <= dim.range().1);
    shape.rank() == sizes.len() && shape.0.iter().zip(sizes).all(|(dim, n)| fits(dim, n))
}

/// An error when a file that is to be written is one that is read.
fn refuse_overwriting(output: &Path, inputs: &[&Path]) -> Result<()> {
    match inputs.iter().find(|input| inductor::files::is_same(output, input)) {
        Some(input) => bail!("{} would be written over {}, which is read", output.display(), input.display()),
        None => Ok(()),
    }
}

/// [`refuse_overwriting`], for the files of a dump.
fn refuse_dumping_over(dir: &Path, model: &Path) -> Result<()> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| e.path()).try_for_each(|path| refuse_overwriting(&path, &[model]))
}

fn replay_case(folder: &Path, device: &str) -> Result<ExitCode> {
    let replayed = replay(folder, &Device::from_name(device)?)?;
    emit(&format!("recorded: {}\ndevice:   {}\n", replayed.recorded, replayed.device))?;
    match replayed.difference {
        None => {
            emit("now:      everything agrees\n")?;
            Ok(ExitCode::SUCCESS)
        }
        Some(difference) => {
            emit(&format!("now:      {difference}\n"))?;
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Writes to the standard error, with what a terminal would obey spelled out.
pub fn complain(text: &str) {
    // Nothing is left to tell where not even this can be written.
    let _ = writeln!(std::io::stderr(), "{}", report::printable(text));
}

/// Writes to the standard output, with what a terminal would obey spelled out; a reader that has seen enough is no error.
pub fn emit(text: &str) -> Result<()> {
    match std::io::stdout().write_all(report::printable(text).as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes JSON to a file, or to the standard output for `-`.
pub fn write_json(path: Option<&Path>, value: &impl serde::Serialize) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = report::json(value);
    if path == Path::new("-") {
        return emit(&format!("{text}\n"));
    }
    write_file(path, &(text + "\n"))
}

fn write_file(path: &Path, text: &str) -> Result<()> {
    if path.is_dir() {
        bail!("{} is a folder", path.display());
    }
    Ok(inductor::files::write(path, text)?)
}
