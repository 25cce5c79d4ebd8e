//! A training compiler for every GPU that wgpu reaches.
//!
//! A model is a closure. [`trace`] records it as a graph; [`compile_train`] differentiates it, decides what to save between
//! forward and backward, fuses it into kernels, generates WGSL, and binds the result to a [`Device`]; one [`Step`] is forward,
//! backward and optimizer in one program.
//!
//! ```
//! use inductor::{Config, DType, Device, HostTensor, Trace, compile, compile_train, nn, optim, trace, trace_eval};
//!
//! # fn main() -> inductor::Result<()> {
//! // 1. A model. Parameters are named by path; a mistake would come back with its line.
//! let logits = |t: &Trace, x: &inductor::Tensor| {
//!     let h = nn::linear(&t.path("fc1"), x, 16).tanh();
//!     nn::linear(&t.path("fc2"), &h, 2)
//! };
//! let training = trace("xor", |t| {
//!     let (x, y) = (t.input("x", DType::F32, (4, 2)), t.input("y", DType::I32, 4));
//!     Ok(logits(t, &x).cross_entropy(&y))
//! })?;
//!
//! // 2. Compiled for a device: a GPU where there is one (`Device::best_or_cpu`), here the CPU interpreter.
//! let device = Device::cpu();
//! let step = compile_train(&training, &device, optim::AdamW::new(0.05), &Config::default())?;
//!
//! // 3. Trained. The state lives on the device between steps.
//! let x = HostTensor::f32(&[4, 2], &[0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]);
//! let y = HostTensor::i32(&[4], &[0, 1, 1, 0]);
//! let mut state = step.init(1)?;
//! let mut loss = f32::NAN;
//! for _ in 0..60 {
//!     loss = step.run(&mut state, [&x, &y])?.loss()?;
//! }
//! assert!(loss < 0.1, "{loss}");
//!
//! // 4. Used: another program over the same state.
//! let inference = trace_eval("xor", |t| Ok(vec![("class", logits(t, &t.input("x", DType::F32, (4, 2))).argmax(-1))]))?;
//! let classes = compile(&inference, &device, &Config::default())?.run(&mut state, [&x])?.output("class")?;
//! assert_eq!(classes.to_i64(), [0, 1, 1, 0]);
//! # Ok(())
//! # }
//! ```
//!
//! # Where to go from here
//!
//! * **Write models**: [`Tensor`] has the operators, [`nn`] the layers, [`optim`] the optimizers and schedules, [`models`] whole
//!   models. [`Trace`] declares inputs, parameters, buffers and random keys.
//! * **Train them**: [`train`] has the loop with data, metrics, checkpoints and logs; [`Trace::frozen`] and groups of an optimizer say what
//!   is trained and how; [`Traced::summary`] shows what a model is made of.
//! * **Run them**: [`Device`], [`Step`], [`State`], [`HostTensor`]. [`Config`] has the options, [`Verify`] among them.
//! * **See what happened**: [`Step::explain`] tells each decision; `Config::dump` writes graphs and kernels of every stage.
//! * **Read the compiler**: [`compile::inductor`] is the pipeline as one function. A graph ([`graph`], [`ops`]) is simplified
//!   ([`passes`], [`rewrite`]), differentiated ([`autograd`]), cut ([`partition`]), lowered to loop nests ([`lower`], [`loop_ir`]),
//!   fused and placed in memory ([`fusion`], [`schedule`]), given a form ([`forms`]), and spelled in WGSL ([`codegen`]). [`runtime`] runs the plan on
//!   wgpu, [`interp`] on the CPU; [`eval`] evaluates graphs by definition and is the oracle of all tests. Each room's page opens
//!   with what comes in, what goes out, its invariants, and where things are added.
//!
//! # Features
//!
//! `gpu` (wgpu), `cli` (the `inductor` binary), `torch` (`torch.export` archives) and `interrupt` (runs that end at Ctrl-C with a checkpoint)
//! are on by default; without them remains the bare compiler with the interpreter. `plots` draws curves of runs as PNG.
pub mod autograd;
pub mod codegen;
pub mod compile;
pub mod config;
pub mod error;
pub mod eval;
pub mod files;
pub mod forms;
pub mod frontend;
pub mod fusion;
pub mod graph;
pub mod interp;
pub mod loop_ir;
pub mod lower;
pub mod ops;
pub mod partition;
pub mod passes;
pub mod platform;
pub mod report;
pub mod rewrite;
pub mod runtime;
pub mod scalar;
pub mod schedule;
mod threads;
pub mod train;
pub mod types;
pub mod update;

pub use config::{Config, Gradients, Verify};
pub use error::{Error, Result};
#[cfg(feature = "torch")]
pub use frontend::torch_export;
pub use frontend::{
    AttentionOptions, ConvOptions, CrossEntropy, Initializer, Interpolation, PadMode, PoolOptions, ScatterMode, Tensor, Tensors, Trace, Traced,
    Triplet, models, nn, optim, trace, trace_eval,
};
pub use ops::Reduction;
pub use runtime::{Device, Inputs, Load, LoadReport, State, Step, StepResult, compile, compile_train, compile_vjp};
pub use types::{DType, Dim, HostTensor};

/// The README's program compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
