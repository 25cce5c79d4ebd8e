//! The measured suites.

#[path = "bench_attention.rs"]
mod attention;
#[path = "bench_compile.rs"]
mod compiling;
#[path = "bench_conv.rs"]
mod conv;
#[path = "bench_memory.rs"]
mod memory;

use super::{emit, models, write_json};
use anyhow::{Context, Result, bail};
use clap::Args;
use inductor::config::{MemoryBudget, Mode, Precision, Saving};
use inductor::graph::InputRole;
use inductor::report::{Row, compile_text, memory_text, rows_text};
use inductor::{Config, DType, Device, Dim, HostTensor, Initializer, State, Step, Traced, compile, compile_train, optim, trace_eval};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What to measure, and where.
#[derive(Args)]
pub struct BenchOptions {
    /// Suites: train, matmul, conv, attention, memory, compile.
    #[arg(default_value = "train")]
    suites: Vec<String>,
    /// Where to run: auto, gpu, software or cpu.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Models of the train suite: mlp, small, nanogpt, gpt2, or files of torch.export (`.pt2`) whose first output is the loss.
    #[arg(long, value_delimiter = ',', default_value = "mlp,nanogpt")]
    model: Vec<String>,
    /// Compile models of the train suite once for batches and sequences of any size, and run them at the size they have otherwise.
    #[arg(long)]
    symbolic: bool,
    /// Sizes of the matmul suite (512, 1024, 2048 and 4096 unless given); images of the conv suite (64 on a GPU, else 2);
    /// rows of the attention suite (1,024 and 4,096 on a GPU, else 256); rows of the memory suite (65,536 on a GPU, else 256);
    /// blocks of the compile suite (6, 32 and 320).
    #[arg(long, value_delimiter = ',')]
    size: Vec<usize>,
    /// Shapes of the matmul suite, as `MxNxK` or `BATCHxMxNxK`; `t` behind them transposes the left operand, `T` the right one.
    #[arg(long, value_delimiter = ',')]
    shape: Vec<Shape>,
    /// How exactly a step computes: highest, high or medium products of f32 where there are matrix units, or f16 or bf16 for mixed precision.
    #[arg(long, default_value = "highest")]
    precision: Precision,
    /// Memory that a step of the train suite may take: a share of what it takes otherwise (`0.5`, `50%`), or bytes (`3000MiB`).
    #[arg(long)]
    memory_budget: Option<MemoryBudget>,
    /// Save everything that the backward reads instead of computing some of it again, to see what that costs.
    #[arg(long, conflicts_with = "memory_budget")]
    save_everything: bool,
    /// Measure the forms of products first, and use the fastest.
    #[arg(long)]
    tune: bool,
    /// Operands of the matmul suite are drawn from 0 to 1 instead of from -1 to 1.
    #[arg(long)]
    positive: bool,
    /// Only cases of the memory and attention suites whose name contains this.
    #[arg(long)]
    filter: Option<String>,
    /// Measured steps; the median is reported.
    #[arg(long, default_value_t = 20)]
    steps: usize,
    /// Steps before measuring.
    #[arg(long, default_value_t = 5)]
    warm_up: usize,
    /// Show the time and the traffic of each command, where the device has timestamps, and write a trace that Perfetto and Chrome
    /// read.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "profile.json")]
    profile: Option<PathBuf>,
    /// Write rows as JSON into this file; `-` is the standard output.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What a size is in each suite that takes sizes, and the largest one.
const SIZES: [(&str, &str, usize); 5] = [
    ("matmul", "rows and columns of a matrix", 1 << 17),
    ("conv", "images", 1 << 10),
    ("attention", "rows of a head", 1 << 16),
    ("memory", "rows of a matrix", 1 << 24),
    ("compile", "blocks of a model", 1 << 14),
];

fn check_sizes(options: &BenchOptions) -> Result<()> {
    for (suite, what, most) in SIZES.iter().filter(|s| options.suites.iter().any(|asked| asked == s.0)) {
        if let Some(size) = options.size.iter().find(|&&size| size == 0 || size > *most) {
            bail!("--size {size}: a size of the {suite} suite is 1 to {most} {what}");
        }
    }
    Ok(())
}

impl BenchOptions {
    fn config(&self) -> Config {
        let saving = if self.save_everything { Saving::Everything } else { Saving::default() };
        self.precision.of(Config { memory_budget: self.memory_budget, saving, ..Config::default() })
    }
}

/// Runs the suites and prints their rows.
pub fn bench(options: &BenchOptions) -> Result<()> {
    check_sizes(options)?;
    if let Some(path) = options.profile.as_ref().filter(|p| options.json.as_ref() == Some(p)) {
        bail!("--profile and --json are both {}", path.display());
    }
    let device = Device::from_name(&options.device)?;
    super::complain(&format!("device: {}", device.describe()));
    let (mut rows, mut memory_rows, mut compile_rows) = (vec![], vec![], vec![]);
    let mut profiles = Profiles::default();
    for suite in &options.suites {
        match suite.as_str() {
            "train" => {
                for model in &options.model {
                    rows.push(train(options, &device, model, &mut profiles)?);
                }
            }
            "matmul" => {
                let asked = !options.size.is_empty() || !options.shape.is_empty();
                let sizes: &[usize] = if asked { &options.size } else { &[512, 1024, 2048, 4096] };
                for shape in sizes.iter().map(|&n| Shape::square(n)).chain(options.shape.iter().copied()) {
                    rows.push(arithmetic(
                        options,
                        &device,
                        &Product { shape, positive: options.positive, dtype: options.precision.operands() },
                        &mut profiles,
                    )?);
                }
            }
            "conv" => rows.extend(conv::conv(options, &device, &mut profiles)?),
            "attention" => rows.extend(attention::attention(options, &device, &mut profiles)?),
            "memory" => memory_rows.extend(memory::memory(options, &device, &mut profiles)?),
            "compile" => compile_rows.extend(compiling::compile(options)?),
            _ => bail!("there is no suite {suite}: use train, matmul, conv, attention, memory or compile"),
        }
    }
    if options.json.as_ref().is_none_or(|p| p.as_os_str() != "-") {
        if !rows.is_empty() {
            emit(&rows_text(&rows))?;
        }
        if !memory_rows.is_empty() {
            emit(&memory_text(&memory_rows))?;
        }
        if !compile_rows.is_empty() {
            emit(&compile_text(&compile_rows))?;
        }
    }
    #[cfg(feature = "gpu")]
    if let Some(path) = &options.profile {
        super::write_file(path, &inductor::report::chrome_trace(&profiles))?;
        eprintln!("wrote {}", path.display());
    }
    let all: Vec<serde_json::Value> = rows
        .iter()
        .map(serde_json::to_value)
        .chain(memory_rows.iter().map(serde_json::to_value))
        .chain(compile_rows.iter().map(serde_json::to_value))
        .collect::<Result<_, _>>()?;
    write_json(options.json.as_deref(), &all)
}

fn train(options: &BenchOptions, device: &Device, model: &str, profiles: &mut Profiles) -> Result<Row> {
    let (models::Model { traced, tensors }, sizes) = match options.symbolic {
        true => {
            let (traced, sizes) = models::symbolic(model)?;
            (models::Model { traced, tensors: vec![] }, sizes)
        }
        false => (models::load(model)?, vec![]),
    };
    let inputs = random_inputs(&traced, &sizes)?;
    let tuned = tuned(options, device, &traced, Mode::Train(optim::AdamW::new(1e-4).into()), &inputs)?;
    let device = tuned.as_ref().unwrap_or(device);
    let started = Instant::now();
    let step = compile_train(&traced, device, optim::AdamW::new(1e-4), &options.config())?;
    let mut state = step.init(1)?;
    for (name, tensor) in tensors {
        state.set(&name, tensor)?;
    }
    let loss = step.run(&mut state, &inputs)?.loss()?;
    let first_step_s = started.elapsed().as_secs_f64();
    if !loss.is_finite() {
        bail!("{model}: the loss is {loss}");
    }
    let row = measure(options, "train", model, device, &step, &mut state, &inputs, first_step_s)?;
    profile(options, &step, profiles)?;
    Ok(row)
}

/// The device with measured forms of the program's products, where that was asked for.
fn tuned(options: &BenchOptions, device: &Device, traced: &Traced, mode: Mode, inputs: &[HostTensor]) -> Result<Option<Device>> {
    if !options.tune {
        return Ok(None);
    }
    #[cfg(feature = "gpu")]
    return super::tune::measured(device, traced, &Config { mode, ..options.config() }, inputs).map(Some);
    #[cfg(not(feature = "gpu"))]
    {
        let _ = (device, traced, mode, inputs);
        bail!("this build has no GPU support, and the interpreter no forms")
    }
}

/// A product of the matmul suite.
#[derive(Clone, Copy, Debug)]
struct Shape {
    batch: usize,
    m: usize,
    n: usize,
    k: usize,
    transpose: [bool; 2],
}

impl Shape {
    fn square(n: usize) -> Shape {
        Shape { batch: 1, m: n, n, k: n, transpose: [false; 2] }
    }
}

/// Arithmetic on operands that are state, so that no step uploads them.
trait Work {
    fn suite(&self) -> &'static str;
    fn name(&self) -> String;
    fn traced(&self) -> Result<Traced>;
    /// The output whose error is looked at.
    fn output(&self) -> &'static str;
    fn flops(&self) -> f64;
    /// A sample of that output's elements: by sums of f64, and as computed.
    fn sample(&self, state: &State, result: &[f64]) -> Result<Vec<(f64, f64)>>;
}

/// Measures work with its speed and its relative error (Frobenius).
fn arithmetic(options: &BenchOptions, device: &Device, work: &dyn Work, profiles: &mut Profiles) -> Result<Row> {
    let traced = work.traced()?;
    let tuned = tuned(options, device, &traced, Mode::Inference, &[])?;
    let device = tuned.as_ref().unwrap_or(device);
    let started = Instant::now();
    let step = compile(&traced, device, &options.config())?;
    let mut state = step.init(1)?;
    step.run(&mut state, ())?.wait()?;
    let first_step_s = started.elapsed().as_secs_f64();
    let mut row = measure(options, work.suite(), &work.name(), device, &step, &mut state, &[], first_step_s)?;
    profile(options, &step, profiles)?;
    let result = step.run(&mut state, ())?.output(work.output())?.to_f64();
    let (wrong, whole) =
        work.sample(&state, &result)?.iter().fold((0.0, 0.0), |(wrong, whole), (exact, got)| (wrong + (got - exact).powi(2), whole + exact * exact));
    row.error = Some((wrong / whole).sqrt());
    row.device_ms = memory::device_us(&step, options.steps)?.map(|us| us * 1e-3);
    // A host may take longer to submit a small product than a GPU to compute it.
    row.tflops = Some(work.flops() / (row.device_ms.unwrap_or(row.pipelined_ms) * 1e-3) / 1e12);
    Ok(row)
}

/// The product of a shape, on operands from 0 or -1 to 1.
struct Product {
    shape: Shape,
    positive: bool,
    dtype: DType,
}

impl Work for Product {
    fn suite(&self) -> &'static str {
        "matmul"
    }

    fn name(&self) -> String {
        self.shape.to_string()
    }

    fn output(&self) -> &'static str {
        "c"
    }

    fn flops(&self) -> f64 {
        let Shape { batch, m, n, k, .. } = self.shape;
        2.0 * [batch, m, n, k].iter().map(|&n| n as f64).product::<f64>()
    }

    fn traced(&self) -> Result<Traced> {
        let Shape { batch, m, n, k, transpose } = self.shape;
        let uniform = Initializer::Uniform { low: if self.positive { 0.0 } else { -1.0 }, high: 1.0 };
        Ok(trace_eval("matmul", |t| {
            let matrix = |name: &str, rows: usize, columns: usize, transpose: bool| {
                let (rows, columns) = if transpose { (columns, rows) } else { (rows, columns) };
                let x = match batch {
                    1 => t.parameter(name, self.dtype, (rows, columns), uniform.clone()),
                    batch => t.parameter(name, self.dtype, (batch, rows, columns), uniform.clone()),
                };
                if transpose { x.transpose(-2, -1) } else { x }
            };
            Ok(vec![("c", matrix("a", m, k, transpose[0]).matmul(&matrix("b", k, n, transpose[1])))])
        })?)
    }

    fn sample(&self, state: &State, c: &[f64]) -> Result<Vec<(f64, f64)>> {
        let Shape { m, n, k, transpose, .. } = self.shape;
        let (a, b) = (state.get("a")?.to_f64(), state.get("b")?.to_f64());
        let spread = |n: usize| (0..n).step_by(n.div_ceil(32));
        let of = |i: usize, j: usize| {
            let left = |t: usize| a[if transpose[0] { t * m + i } else { i * k + t }];
            let right = |t: usize| b[if transpose[1] { j * k + t } else { t * n + j }];
            ((0..k).map(|t| left(t) * right(t)).sum(), c[i * n + j])
        };
        Ok(spread(m).flat_map(|i| spread(n).map(move |j| (i, j))).map(|(i, j)| of(i, j)).collect())
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.batch > 1 {
            write!(f, "{}x", self.batch)?;
        }
        write!(f, "{}x{}x{}{}{}", self.m, self.n, self.k, if self.transpose[0] { "t" } else { "" }, if self.transpose[1] { "T" } else { "" })
    }
}

impl std::str::FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Shape, String> {
        let transpose = ['t', 'T'].map(|mark| text.contains(mark));
        let sizes: Option<Vec<usize>> =
            text.trim_end_matches(['t', 'T']).split('x').map(|n| n.parse().ok().filter(|n| (1..=1 << 17).contains(n))).collect();
        match sizes.as_deref() {
            Some(&[m, n, k]) => Ok(Shape { batch: 1, m, n, k, transpose }),
            Some(&[batch, m, n, k]) => Ok(Shape { batch, m, n, k, transpose }),
            _ => Err(format!("{text}: a shape is MxNxK or BATCHxMxNxK, with sizes of 1 to {}", 1 << 17)),
        }
    }
}

/// Does something at least so many times and so long; how many times it was.
fn repeat(least: usize, time: Duration, mut work: impl FnMut() -> Result<()>) -> Result<usize> {
    let (started, mut count) = (Instant::now(), 0);
    while count < least || started.elapsed() < time {
        work()?;
        count += 1;
    }
    Ok(count)
}

#[allow(clippy::too_many_arguments)]
fn measure(
    options: &BenchOptions,
    suite: &str,
    name: &str,
    device: &Device,
    step: &Step,
    state: &mut State,
    inputs: &[HostTensor],
    first_step_s: f64,
) -> Result<Row> {
    step.settle()?;
    // The clocks of a GPU rise under load: a product measured cold is several times slower than it is.
    let warm = if device.is_cpu() || device.is_software() { Duration::ZERO } else { Duration::from_millis(400) };
    repeat(options.warm_up, warm, || Ok(step.run(state, inputs)?.wait()?))?;
    let before = step.launches();
    let (mut times, mut called) = (vec![], vec![]);
    for _ in 0..options.steps.max(1) {
        let started = Instant::now();
        let running = step.run(state, inputs)?;
        called.push(started.elapsed().as_secs_f64() * 1e6);
        running.wait()?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let launches = (step.launches() - before) / options.steps.max(1) as u64;
    [&mut times, &mut called].into_iter().for_each(|times| times.sort_by(f64::total_cmp));
    let started = Instant::now();
    let mut last = None;
    let steps = repeat(options.steps.max(1), warm / 4, || {
        last = Some(step.run(state, inputs)?);
        Ok(())
    })?;
    if let Some(last) = last {
        last.wait()?;
    }
    let pipelined_ms = started.elapsed().as_secs_f64() * 1e3 / steps as f64;
    Ok(Row {
        suite: suite.into(),
        name: name.into(),
        device: device.caps().name.clone(),
        ms: times[times.len() / 2],
        pipelined_ms,
        first_step_s,
        launches,
        host_us: Some(called[called.len() / 2]).filter(|_| !device.is_cpu()),
        peak_bytes: device.allocated_bytes().unwrap_or(0).max(step.peak_bytes()),
        device_ms: None,
        tflops: None,
        error: None,
    })
}

/// What `--profile` writes in the end.
#[cfg(feature = "gpu")]
type Profiles = Vec<inductor::runtime::Profile>;
#[cfg(not(feature = "gpu"))]
type Profiles = Vec<()>;

/// Shows where the time of a step goes, when that was asked for.
fn profile(options: &BenchOptions, step: &Step, profiles: &mut Profiles) -> Result<()> {
    if options.profile.is_none() {
        return Ok(());
    }
    #[cfg(feature = "gpu")]
    {
        let profile = step.profile()?;
        super::complain(&inductor::report::profile_text(&profile, 40));
        profiles.push(profile);
        Ok(())
    }
    #[cfg(not(feature = "gpu"))]
    {
        let _ = (step, profiles);
        bail!("this build has no GPU support, and the interpreter no timestamps")
    }
}

/// Inputs that fit the signature: uniform floats, and integers that are valid labels and tokens of every measured model.
pub fn random_inputs(traced: &Traced, sizes: &[(Dim, i64)]) -> Result<Vec<HostTensor>> {
    let graph = &traced.graph;
    let mut out = vec![];
    for input in graph.inputs.iter().filter(|i| i.role == InputRole::Input) {
        let ty = graph.ty(input.value);
        let size = |d: &Dim| d.as_int().or_else(|| sizes.iter().find(|(symbol, _)| symbol == d).map(|(_, n)| *n));
        let shape: Option<Vec<usize>> = ty.shape.0.iter().map(|d| size(d).map(|n| n as usize)).collect();
        let shape = shape.with_context(|| format!("{}: {ty} has no fixed size", input.name))?;
        let uniform = Initializer::Uniform { low: 0.0, high: if ty.dtype.is_float() { 1.0 } else { 10.0 } };
        out.push(uniform.sample(ty.dtype, &shape, 7, &input.name));
    }
    Ok(out)
}
