//! The memory suite: kernels that are limited by memory traffic, on f32 of 65,536 x 4,096 (1 GiB) and other common shapes.

use super::{BenchOptions, Profiles};
use anyhow::{Context, Result};
use inductor::graph::InputRole;
use inductor::report::MemoryRow;
use inductor::{
    Config, DType, Device, HostTensor, Initializer, Step, Tensor, Trace, Traced, compile, compile_train, compile_vjp, nn, optim, trace, trace_eval,
};
use std::time::Instant;

/// What is compiled of a case.
#[derive(Clone, Copy)]
enum Pass {
    Forward,
    /// Outputs and gradients of given cotangents.
    Both,
    Train,
}

struct Case {
    name: &'static str,
    pass: Pass,
    /// Compulsory traffic: each input read once, each output written once.
    bytes: u64,
    traced: Traced,
}

/// Sizes of the suite: a matrix, and the shapes of layers that are about as large.
#[derive(Clone, Copy)]
struct Sizes {
    rows: usize,
    cols: usize,
}

impl Sizes {
    fn numel(&self) -> u64 {
        (self.rows * self.cols) as u64
    }

    fn matrix(&self, passes: u64) -> u64 {
        4 * passes * self.numel()
    }
}

/// Seconds of load before anything is measured.
const WARM_UP_S: f64 = 0.4;

const NOISE: Initializer = Initializer::Uniform { low: -1.0, high: 1.0 };

/// Runs the suite; `--size` gives the number of rows.
pub fn memory(options: &BenchOptions, device: &Device, profiles: &mut Profiles) -> Result<Vec<MemoryRow>> {
    let rows = options.size.first().copied().unwrap_or(if device.is_cpu() || device.is_software() { 256 } else { 65536 });
    let sizes = Sizes { rows, cols: 4096 };
    let copy = copy_gbps(device, sizes)?;
    eprintln!("copy: {copy:.0} GB/s read and written");
    let mut out = vec![];
    for build in CASES {
        let case = build(sizes)?;
        if options.filter.as_ref().is_some_and(|f| !case.name.contains(f.as_str())) {
            continue;
        }
        let row = measure(options, device, &case, copy, profiles).with_context(|| case.name.to_string())?;
        eprintln!("  {}: {:.0} us, {:.0} GB/s", row.name, row.us, row.gbps);
        out.push(row);
    }
    Ok(out)
}

/// What a kernel that reads and writes each element once moves on the device; on the CPU, what the host copies.
fn copy_gbps(device: &Device, sizes: Sizes) -> Result<f64> {
    #[cfg(feature = "gpu")]
    if !device.is_cpu() && device.caps().timestamps {
        return Ok(inductor::runtime::copy_gbps(device, sizes.matrix(1) as usize)?);
    }
    let _ = device;
    // As much as is measured, unless that alone would fill the memory.
    let bytes = sizes.matrix(1).min(1 << 30);
    let source = vec![1u8; bytes as usize];
    let mut target = vec![0u8; bytes as usize];
    let started = Instant::now();
    target.copy_from_slice(&source);
    std::hint::black_box(&target);
    Ok(2.0 * bytes as f64 / started.elapsed().as_secs_f64() / 1e9)
}

fn measure(options: &BenchOptions, device: &Device, case: &Case, copy: f64, profiles: &mut Profiles) -> Result<MemoryRow> {
    let config = Config::default();
    let step = match case.pass {
        Pass::Forward => compile(&case.traced, device, &config)?,
        Pass::Both => compile_vjp(&case.traced, device, &config)?,
        Pass::Train => compile_train(&case.traced, device, optim::AdamW::new(1e-3), &config)?,
    };
    step.settle()?;
    let mut state = step.init(1)?;
    let cotangents = cotangents(&step)?;
    let run = |state: &mut inductor::State| -> Result<()> {
        let named: Vec<(&str, &HostTensor)> = cotangents.iter().map(|(n, t)| (n.as_str(), t)).collect();
        Ok(step.run(state, named.as_slice())?.wait()?)
    };
    let before = step.launches();
    run(&mut state)?;
    let launches = step.launches() - before;
    let us = match device_us(&step, options.steps)? {
        Some(us) => us,
        None => median((0..options.steps.max(1)).map(|_| {
            let started = Instant::now();
            run(&mut state)?;
            Ok(started.elapsed().as_secs_f64() * 1e6)
        }))?,
    };
    let host_us = if cotangents.is_empty() { Some(queued_us(&step, &mut state, options.steps.max(1))?) } else { None };
    super::profile(options, &step, profiles)?;
    let gbps = case.bytes as f64 / us / 1e3;
    let device = device.caps().name.clone();
    Ok(MemoryRow { suite: "memory".into(), name: case.name.into(), device, us, host_us, gbps, percent_copy: 100.0 * gbps / copy, kernels: launches })
}

/// Microseconds of a step by the host's clock when steps are queued one behind the other.
fn queued_us(step: &Step, state: &mut inductor::State, steps: usize) -> Result<f64> {
    let started = Instant::now();
    let mut last = None;
    for _ in 0..steps {
        last = Some(step.run(state, ())?);
    }
    if let Some(last) = last {
        last.wait()?;
    }
    Ok(started.elapsed().as_secs_f64() * 1e6 / steps as f64)
}

/// Microseconds from the first command's start to the last one's end, by timestamps; `None` where there are none.
#[cfg(feature = "gpu")]
pub(super) fn device_us(step: &Step, steps: usize) -> Result<Option<f64>> {
    if step.device().is_cpu() || !step.device().caps().timestamps {
        return Ok(None);
    }
    let once = || -> Result<f64> {
        let times = step.command_times()?;
        let first = times.iter().map(|t| t.start_us).fold(f64::INFINITY, f64::min);
        Ok(times.iter().map(|t| t.start_us + t.us).fold(0.0, f64::max) - first)
    };
    // Clocks rise under load only.
    let started = Instant::now();
    while started.elapsed().as_secs_f64() < WARM_UP_S {
        once()?;
    }
    median((0..steps.max(1)).map(|_| once())).map(Some)
}

#[cfg(not(feature = "gpu"))]
pub(super) fn device_us(_: &Step, _: usize) -> Result<Option<f64>> {
    Ok(None)
}

fn median(times: impl Iterator<Item = Result<f64>>) -> Result<f64> {
    let mut times = times.collect::<Result<Vec<f64>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn cotangents(step: &Step) -> Result<Vec<(String, HostTensor)>> {
    let program = &step.plan().program;
    let asked = program.inputs.iter().filter(|i| i.role == InputRole::Cotangent);
    asked
        .map(|i| {
            let ty = &program.buffers[i.buffer.0 as usize].ty;
            let shape = ty.shape.as_ints().context("the suite has fixed sizes")?;
            Ok((i.name.clone(), NOISE.sample(ty.dtype, &shape, 3, &i.name)))
        })
        .collect()
}

type Build = fn(Sizes) -> Result<Case>;

const CASES: [Build; 26] = [
    |s| forward("x*2", s.matrix(2), s, |_, x| x * 2.0),
    |s| forward("gelu(x*w+b)", s.matrix(2), s, |t, x| (x * vector(t, "w", s) + vector(t, "b", s)).gelu()),
    |s| forward("softmax", s.matrix(2), s, |_, x| x.softmax(-1)),
    |s| forward("layer_norm", s.matrix(2), s, layer_norm),
    |s| forward("rms_norm", s.matrix(2), s, |t, x| x.rms_norm(Some(&vector(t, "w", s)), 1e-6)),
    |s| forward("group_norm", s.matrix(2), s, |_, x| x.reshape((s.rows, 4, s.cols / 4)).layer_norm(None, None, 1e-5)),
    |s| forward("row sum", s.matrix(1), s, |_, x| x.sum([1])),
    |s| forward("column sum", s.matrix(1), s, |_, x| x.sum([0])),
    |s| forward("full sum", s.matrix(1), s, |_, x| x.sum_all()),
    |s| several("var_mean over columns", Pass::Forward, s.matrix(1), s, |_, x| vec![("var", x.var(0)), ("mean", x.mean([0]))]),
    |s| forward("transpose copy", s.matrix(2), s, |_, x| x.transpose(0, 1) * 1.0),
    |s| forward("cross entropy", s.matrix(1), s, |t, x| x.cross_entropy(&labels(t, s))),
    |s| forward("dropout + residual + layer_norm", s.matrix(3), s, |t, x| layer_norm(t, &(x.dropout(0.1, &t.key()) + matrix(t, "r", s)))),
    |s| forward("silu gate", s.matrix(3), s, |t, x| x.silu() * matrix(t, "g", s)),
    |s| forward("rotary embedding", s.matrix(2), s, |t, x| rotary(t, x, s)),
    |s| forward("cumsum", s.matrix(2), s, |_, x| x.cumsum(-1)),
    |s| {
        several("topk 8", Pass::Forward, s.matrix(1) / 16, Sizes { rows: s.rows.div_ceil(16), ..s }, |_, x| {
            let (values, indices) = x.topk(8, -1);
            vec![("values", values), ("indices", indices)]
        })
    },
    |s| both("softmax, forward + backward", s.matrix(5), s, |_, x| x.softmax(-1)),
    |s| both("layer_norm + gelu, forward + backward", s.matrix(5), s, |t, x| layer_norm(t, x).gelu()),
    |s| both("layer_norm, forward + backward", s.matrix(5), s, layer_norm),
    |s| both("rms_norm, forward + backward", s.matrix(5), s, |t, x| x.rms_norm(Some(&vector(t, "w", s)), 1e-6)),
    |s| both("silu gate, forward + backward", s.matrix(8), s, |t, x| x.silu() * matrix(t, "g", s)),
    |s| both("cross entropy, forward + backward", s.matrix(3), s, |t, x| x.cross_entropy(&labels(t, s))),
    |s| both("gelu(x*w+b), forward + backward", s.matrix(5), s, |t, x| (x * vector(t, "w", s) + vector(t, "b", s)).gelu()),
    embedding_backward,
    adamw,
];

fn forward(name: &'static str, bytes: u64, sizes: Sizes, f: impl FnOnce(&Trace, &Tensor) -> Tensor) -> Result<Case> {
    several(name, Pass::Forward, bytes, sizes, |t, x| vec![("y", f(t, x))])
}

fn both(name: &'static str, bytes: u64, sizes: Sizes, f: impl FnOnce(&Trace, &Tensor) -> Tensor) -> Result<Case> {
    several(name, Pass::Both, bytes, sizes, |t, x| vec![("y", f(t, x))])
}

fn several(name: &'static str, pass: Pass, bytes: u64, sizes: Sizes, f: impl FnOnce(&Trace, &Tensor) -> Vec<(&'static str, Tensor)>) -> Result<Case> {
    let traced = trace_eval("memory", |t| Ok(f(t, &matrix(t, "x", sizes))))?;
    Ok(Case { name, pass, bytes, traced })
}

/// A matrix that is state, so that no step uploads it.
fn matrix(t: &Trace, name: &str, s: Sizes) -> Tensor {
    t.parameter(name, DType::F32, (s.rows, s.cols), NOISE)
}

fn vector(t: &Trace, name: &str, s: Sizes) -> Tensor {
    t.parameter(name, DType::F32, s.cols, NOISE)
}

fn layer_norm(t: &Trace, x: &Tensor) -> Tensor {
    nn::layer_norm(&t.path("norm"), x, nn::LayerNorm::default())
}

fn labels(t: &Trace, s: Sizes) -> Tensor {
    t.buffer("labels", DType::I32, s.rows, Initializer::Uniform { low: 0.0, high: s.cols as f64 })
}

/// Heads of 128 features over at most 1,024 positions, halves rotated.
fn rotary(t: &Trace, x: &Tensor, s: Sizes) -> Tensor {
    let time = (1..=s.rows.min(1024)).rev().find(|n| s.rows.is_multiple_of(*n)).unwrap_or(1);
    let half = 64;
    let table = |name: &str| t.buffer(name, DType::F32, (time, 1, half), NOISE);
    let (cos, sin) = (table("cos"), table("sin"));
    let heads = x.reshape((s.rows / time, time, s.cols / (2 * half), 2 * half));
    let (a, b) = (heads.slice(-1, 0, half), heads.slice(-1, half, 2 * half));
    let low = &a * &cos - &b * &sin;
    let high = &b * &cos + &a * &sin;
    low.concat(&[&high], -1)
}

/// Gradient of a table of 50,304 words of 768 features, for as many tokens as the matrix has rows.
fn embedding_backward(s: Sizes) -> Result<Case> {
    let (words, width) = if s.rows >= 4096 { (50304, 768) } else { (512, 64) };
    let traced = trace_eval("embedding", |t| {
        let table = t.parameter("table", DType::F32, (words, width), NOISE);
        let tokens = t.buffer("tokens", DType::I32, s.rows, Initializer::Uniform { low: 0.0, high: words as f64 });
        Ok(vec![("y", tokens.embedding(&table))])
    })?;
    // Table rows read, looked-up rows written, cotangent read, gradient written.
    let bytes = 4 * (3 * s.rows * width + words * width) as u64;
    Ok(Case { name: "embedding, forward + backward", pass: Pass::Both, bytes, traced })
}

/// AdamW over a hundred tensors; the gradient of each is another tensor in memory.
fn adamw(s: Sizes) -> Result<Case> {
    let tensors = 100;
    let rows = (s.rows / 64).max(1);
    let shape = |i: usize| if i.is_multiple_of(2) { vec![rows, 1024] } else { vec![1024 + i] };
    let traced = trace("adamw", |t| {
        let term = |i: usize| {
            let shape: Vec<_> = shape(i).into_iter().map(inductor::Dim::from).collect();
            let p = t.parameter(&format!("p{i}"), DType::F32, shape.clone(), NOISE);
            let g = t.buffer(&format!("g{i}"), DType::F32, shape, NOISE);
            (p * g).sum_all()
        };
        Ok((1..tensors).fold(term(0), |sum, i| sum + term(i)))
    })?;
    let numel: usize = (0..tensors).map(|i| shape(i).iter().product::<usize>()).sum();
    Ok(Case { name: "AdamW over 100 tensors", pass: Pass::Train, bytes: 4 * 7 * numel as u64, traced })
}
