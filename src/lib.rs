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
//! That was all of it; the rest of this page goes through the parts. [`coming_from`] has the names of PyTorch, burn and candle beside ours.
//!
//! # Models
//!
//! There are no modules to keep: a layer is a function, and the path it is called under names its parameters. A [`Tensor`] stands for a
//! value of the program, with methods that have PyTorch's names and defaults; shapes are integers or symbols ([`Dim`]). The closure
//! runs once. What is wrong with it comes back as one error, each mistake with its line.
//!
//! ```
//! use inductor::{DType, Dim, Tensor, Trace, nn, trace};
//!
//! fn block(t: &Trace, x: &Tensor, width: usize) -> Tensor {
//!     let h = nn::layer_norm(&t.path("norm"), x, nn::LayerNorm::default());
//!     x + nn::linear(&t.path("fc"), &h, width).gelu()
//! }
//!
//! let batch = Dim::symbol("batch", 1, 256);
//! let model = trace("regression", |t| {
//!     let (x, y) = (t.input("x", DType::F32, (&batch, 16)), t.input("y", DType::F32, (&batch, 1)));
//!     let h = (0..2).fold(x, |h, i| block(&t.path("blocks").path(i), &h, 16));
//!     Ok(nn::linear(&t.path("head"), &nn::dropout(t, &h, 0.1), 1).mse(&y))
//! })?;
//! assert_eq!(model.initializers[2].0, "blocks.0.fc.weight");
//! println!("{}", model.summary()?); // parameters, shapes and arithmetic by module
//!
//! let wrong = trace("wrong", |t| Ok(nn::linear(&t.path("fc"), &t.input("x", DType::F32, (8, 16)), 4).mse(&t.input("y", DType::F32, 8))));
//! assert!(wrong.unwrap_err().to_string().contains("f32[8, 4]"));
//! # Ok::<(), inductor::Error>(())
//! ```
//!
//! A function of tensors may be tried out at once, without tracing and compiling it by hand:
//!
//! ```
//! use inductor::{Device, HostTensor};
//! let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
//! let y = Device::cpu().compute([&x], |_, [x]| x.softmax(-1))?;
//! println!("{y}");
//! assert_eq!(format!("{y:.2}"), "[[0.09 0.24 0.67]\n [0.09 0.24 0.67]]");
//! # Ok::<(), inductor::Error>(())
//! ```
//!
//! # Training
//!
//! [`compile_train`] takes the program with an optimizer of [`optim`], whose settings say what is trained and how: groups by names,
//! frozen parts, clipping, accumulation, averages. The learning rate is an input of the step, so that schedules compile nothing.
//! [`train::Trainer`] is the loop around it; a plain `for` does as well.
//!
//! ```
//! use inductor::optim::{AdamW, Goal, Schedule};
//! use inductor::train::{EarlyStopping, Trainer, data::Dataset};
//! use inductor::{Config, DType, Device, Dim, HostTensor, compile, compile_train, nn, trace};
//!
//! let model = trace("sine", |t| {
//!     let n = Dim::symbol("n", 1, 256);
//!     let (x, y) = (t.input("x", DType::F32, (&n, 1)), t.input("y", DType::F32, (&n, 1)));
//!     Ok(nn::mlp(t, &x, &[32, 32, 1]).mse(&y))
//! })?;
//! let x: Vec<f32> = (0..256).map(|i| i as f32 / 128.0 - 1.0).collect();
//! let y: Vec<f32> = x.iter().map(|x| (3.0 * x).sin()).collect();
//! let data = Dataset::new([("x", HostTensor::f32(&[256, 1], &x)), ("y", HostTensor::f32(&[256, 1], &y))])?;
//! let (training, held_out) = data.shuffled(1).split(192)?;
//!
//! let device = Device::cpu();
//! let optimizer = AdamW::new(1e-2).clip_norm(1.0).group("*.bias", AdamW::new(1e-2).weight_decay(0.0)).average(0.98);
//! let step = compile_train(&model, &device, optimizer, &Config::default())?;
//! let look = compile(&model, &device, &Config::default())?; // the same program, without gradients
//! let mut state = step.init(1)?;
//! let mut trainer = Trainer::new(step)
//!     .steps(300)
//!     .schedule(Schedule::cosine_annealing(1e-2, 1e-4, 300))
//!     .evaluate(50, |state| Ok([("loss", look.run(state, held_out.loader(64).epoch(0).next().unwrap()?)?.loss()? as f64)]))
//!     .evaluate_averages(true)
//!     .early_stopping(EarlyStopping::new("loss", Goal::Smaller));
//! let run = trainer.run(&mut state, |done| training.loader(32).shuffle(1).from(done))?;
//! assert!(run.history.metric("loss").last().unwrap().1 < 0.01);
//! # Ok::<(), inductor::Error>(())
//! ```
//!
//! Derivatives may be part of a program, too ([`Tensor::grad`], [`Tensor::jvp`], [`Tensor::hvp`]), and are trained through; [`vmap()`]
//! gives those of each example. The gradients of a step are read with [`Config::gradients`].
//!
//! # Saving and loading
//!
//! A [`State`] holds parameters, buffers and what the optimizer remembers, by name. It belongs to no program: training and inference
//! share it, and so do several programs with optimizers of their own. Weights are safetensors; a checkpoint is a state with everything
//! that a run needs to go on exactly.
//!
//! ```
//! use inductor::{Config, DType, Device, HostTensor, Load, compile_train, nn, optim, trace};
//!
//! let model = trace("fc", |t| Ok(nn::linear(&t.path("fc"), &t.input("x", DType::F32, (2, 3)), 1).square().mean(())))?;
//! let step = compile_train(&model, &Device::cpu(), optim::Adam::new(0.1), &Config::default())?;
//! let (mut state, x) = (step.init(1)?, HostTensor::f32(&[2, 3], &[1.0; 6]));
//! step.run(&mut state, [&x])?;
//!
//! # let folder = std::env::temp_dir().join(format!("inductor-tour-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder).unwrap();
//! state.save(folder.join("model.safetensors"))?;
//! state.save_checkpoint(folder.join("run.safetensors"))?;
//! let mut other = step.init(2)?;
//! other.load_checkpoint(folder.join("run.safetensors"))?;
//! assert_eq!((other.step(), step.run(&mut other, [&x])?.loss()?), (1, step.run(&mut state, [&x])?.loss()?));
//!
//! // Published weights: other names, other precision, or only a part of them.
//! let load = Load::new().strip_prefix("model.").rename(|name| Some(name.replace("dense", "fc"))).cast(true).strict(false);
//! let report = other.load_with(folder.join("model.safetensors"), &load)?;
//! assert_eq!(report.to_string(), "2 tensors loaded");
//! # std::fs::remove_dir_all(&folder).unwrap();
//! # Ok::<(), inductor::Error>(())
//! ```
//!
//! # Importing from PyTorch
//!
//! A program that `torch.export.save` wrote is traced already; a state that is made for it begins with its weights. After the training,
//! `load_state_dict` takes what [`torch_export::Imported::state_dict`](frontend::torch_export::Imported::state_dict) gives. Half the
//! models there are need no program: their layers are written here, and their weights loaded.
//!
//! ```
//! # #[cfg(feature = "torch")] {
//! use inductor::{Config, Device, HostTensor, compile_train, load_tensors, optim, torch_export};
//!
//! let imported = torch_export::load("tests/finetune/model.pt2")?; // a loss as its output, and a batch of any size
//! let step = compile_train(&imported.traced, &Device::cpu(), optim::AdamW::new(1e-2), &Config::default())?;
//! let mut state = step.init(0)?;
//! let examples = load_tensors("tests/finetune/data.safetensors".as_ref())?.0;
//! let losses: Vec<f32> = (0..20).map(|_| step.run(&mut state, examples.clone())?.loss()).collect::<inductor::Result<_>>()?;
//! assert!(losses[19] < losses[0]);
//! # }
//! # Ok::<(), inductor::Error>(())
//! ```
//!
//! # Reading what the compiler did
//!
//! [`Step::explain`] has every decision as data, and prints it: how many kernels and launches there are, what is saved between forward and
//! backward and what is computed again, which op went into which kernel, and why two kernels did not become one. `inductor explain`
//! shows the same of a file, `--html` as a page.
//!
//! ```
//! use inductor::{Config, Device, compile_train, models, optim};
//! let step = compile_train(&models::mlp(32, &[64, 128, 10])?, &Device::cpu(), optim::AdamW::new(1e-3), &Config::default())?;
//! let explain = step.explain();
//! println!("{explain}");
//! // Bias, rectifier and the optimizer live in the kernels of the products.
//! assert!(explain.launches.total() < 12);
//! // Between forward and backward: what rectifiers passed, and the statistics of the softmax.
//! assert!(explain.partition.saved.iter().all(|value| !value.reason.is_empty()));
//! // Why not one kernel?
//! assert!(explain.decisions.iter().any(|decision| decision.stage == "fusion"));
//! # Ok::<(), inductor::Error>(())
//! ```
//!
//! # When numbers differ
//!
//! Equal seeds give equal numbers on every device but for the order of sums. Where something looks wrong, let the step check itself:
//! with [`Verify::Full`] every kernel is compared with the interpreter, and that with the definition of every value; a difference is
//! an error that names the kernel, and writes a folder that `inductor replay` runs again. [`Config::gradients`] shows what
//! explodes, `Config::check_gradients` refuses steps whose gradients are not finite, `inductor check` compares with PyTorch's outputs.
//!
//! ```
//! use inductor::{Config, DType, Device, Gradients, HostTensor, Verify, compile_train, nn, optim, trace};
//! let model = trace("fc", |t| Ok(nn::linear(&t.path("fc"), &t.input("x", DType::F32, (2, 3)), 1).square().mean(())))?;
//! let config = Config { verify: Verify::Full, gradients: Gradients::Norms, check_gradients: true, ..Config::default() };
//! let step = compile_train(&model, &Device::cpu(), optim::Sgd::new(0.1), &config)?;
//! let mut state = step.init(1)?;
//! let result = step.run(&mut state, [HostTensor::f32(&[2, 3], &[1.0; 6])])?;
//! assert!(result.gradient_norms()?.iter().all(|(_, norm)| norm.is_finite()));
//!
//! // The infinite gradient is refused, and the state is as it was.
//! let before = state.get("fc.weight")?;
//! let refused = step.run(&mut state, [HostTensor::f32(&[2, 3], &[1e30; 6])]).and_then(|r| r.loss());
//! assert!(refused.is_err() && state.get("fc.weight")? == before);
//! # Ok::<(), inductor::Error>(())
//! ```
//!
//! # Performance
//!
//! * A step is queued when [`Step::run`] returns; asking for its loss waits. Ask for the loss of a step after queuing the next, as
//!   [`train::Trainer`] does.
//! * The first step compiles shaders; later processes find them in a cache. Sizes that are symbols share one compilation; constants
//!   make faster kernels.
//! * [`MatmulPrecision::High`] uses matrix units and is as exact as f32 for all but extreme ranges. `inductor tune` measures which tiles
//!   a device likes.
//! * [`MixedPrecision::f16`] in `Config::mixed_precision` computes products, convolutions and attention in halves, with parameters and updates in f32 and
//!   a loss scale that finds itself: two to three times as fast as f32 where there are matrix units, in less memory.
//! * Memory: [`Trace::checkpoint`] computes a region again in the backward, `Config::memory_budget` lets the compiler choose, `accumulate`
//!   of an optimizer takes a large batch in parts.
//! * `inductor bench` and `--profile` of the examples show where the time goes.
//!
//! ```
//! use inductor::config::MemoryBudget;
//! use inductor::{Config, Device, MatmulPrecision, compile_train, models::{GptConfig, gpt}, optim};
//! let model = gpt(&GptConfig { layers: 2, width: 32, context: 32, ..GptConfig::small(65) })?;
//! let optimizer = || optim::AdamW::new(1e-3).accumulate(2);
//! let fast = Config { matmul_precision: MatmulPrecision::High, ..Config::default() };
//! let small = Config { memory_budget: Some(MemoryBudget::Fraction(0.9)), ..fast.clone() };
//! let peak = |config: &Config| {
//!     let step = compile_train(&model, &Device::cpu(), optimizer(), config)?;
//!     Ok::<u64, inductor::Error>(step.explain().memory.predicted_peak_bytes)
//! };
//! assert!(peak(&small)? < peak(&fast)?);
//! # Ok::<(), inductor::Error>(())
//! ```
//!
//! # Where to go from here
//!
//! * **Write models**: [`Tensor`] has the operators, [`nn`] the layers, [`Initializer`] how they start, [`models`] whole models. [`Trace`]
//!   declares inputs, parameters, buffers and random keys.
//! * **Train them**: [`optim`] has optimizers and schedules, [`train`] the loop, data, metrics, checkpoints and logs.
//! * **Run them**: [`Device`], [`Step`], [`State`], [`HostTensor`]. [`Config`] has the options.
//! * **Read the compiler**: [`compile::inductor`] is the pipeline as one function. A graph ([`graph`], [`ops`]) is simplified
//!   ([`passes`], [`rewrite`]), differentiated ([`autograd`]), cut ([`partition`]), lowered to loop nests ([`lower`], [`loop_ir`]),
//!   fused and placed in memory ([`fusion`], [`schedule`]), given a form ([`forms`]), and spelled in WGSL ([`codegen`]). [`runtime`] runs the plan on
//!   wgpu, [`interp`] on the CPU; [`eval`] evaluates graphs by definition and is the oracle of all tests. Each room's page opens
//!   with what comes in, what goes out, its invariants, and where things are added.
//!
//! # Features
//!
//! `gpu` (wgpu), `torch` (`torch.export` archives) and `interrupt` (runs that end at Ctrl-C with a checkpoint)
//! are on by default; without them remains the bare compiler with the interpreter. `plots` draws curves of runs as PNG, `images` reads
//! pictures in folders.
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

pub use config::{Config, Gradients, LossScale, MixedPrecision, Optimizer, Precision, Verify};
pub use error::{Error, Result};
#[cfg(feature = "torch")]
pub use frontend::torch_export;
pub use frontend::{
    AttentionOptions, ConvOptions, CrossEntropy, Initializer, Interpolation, PadMode, PoolOptions, ScatterMode, Tensor, Tensors, Trace, Traced,
    Triplet, Vmap, models, nn, optim, trace, trace_eval, vmap,
};
pub use ops::Reduction;
pub use runtime::{Device, Inputs, Load, LoadReport, State, Step, StepResult, compile, compile_train, compile_vjp, load_tensors, save_tensors};
pub use types::{DType, Dim, HostTensor, MatmulPrecision};

#[doc = include_str!("coming_from.md")]
pub mod coming_from {}

/// The README's program compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
