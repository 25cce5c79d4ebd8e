//! Training loops and what belongs to them, over the public interface: data, metrics, checkpoints, logs, curves.
//!
//! * Comes in: a compiled [`Step`](crate::Step), a [`State`](crate::State), an iterator of batches; closures that look at the run.
//! * Goes out: a trained state, a [`History`], and where a folder is given: `metrics.jsonl`, checkpoints, TensorBoard's event files,
//!   `report.html`, and `curves.png` with the feature `plots`.
//! * Invariants: the next step is queued before the loss of the last one is waited for, so that the device does not idle; a run that
//!   goes on from a checkpoint takes the steps that it would have taken without the interruption, in the same order; files are there
//!   as a whole or not at all, but for `metrics.jsonl` and event files, which grow.
//! * Must not know: anything but the public interface.
//! * Add here: what many training loops share: a metric in `metrics.rs`, a source of batches in `data/`, a log as an [`Observer`].
//!
//! ```
//! use inductor::optim::{AdamW, Goal, Schedule};
//! use inductor::train::{Trainer, data::Dataset};
//! use inductor::{Config, DType, Device, HostTensor, compile_train, nn, trace};
//!
//! # fn main() -> inductor::Result<()> {
//! let x: Vec<f32> = (0..64).map(|i| i as f32 / 32.0 - 1.0).collect();
//! let y: Vec<f32> = x.iter().map(|x| 3.0 * x + 0.5).collect();
//! let data = Dataset::new([("x", HostTensor::f32(&[64, 1], &x)), ("y", HostTensor::f32(&[64, 1], &y))])?;
//! let program = trace("line", |t| {
//!     let (x, y) = (t.input("x", DType::F32, (16, 1)), t.input("y", DType::F32, (16, 1)));
//!     Ok((nn::linear(&t.path("fc"), &x, 1) - y).square().mean_all())
//! })?;
//! let step = compile_train(&program, &Device::cpu(), AdamW::new(0.1).weight_decay(0.0), &Config::default())?;
//! let mut state = step.init(1)?;
//! let batches = data.loader(16).shuffle(7);
//! let mut trainer = Trainer::new(step).steps(200).schedule(Schedule::cosine_annealing(0.1, 0.001, 200));
//! let run = trainer.run(&mut state, |done| batches.from(done))?;
//! assert!(run.history.losses().last().unwrap().1 < 1e-3);
//! # let _ = Goal::Smaller;
//! # Ok(())
//! # }
//! ```

mod checkpoints;
pub mod data;
mod folder;
mod history;
mod html;
#[cfg(feature = "interrupt")]
mod interrupt;
pub mod metrics;
mod observer;
#[cfg(feature = "plots")]
mod plot;
mod progress;
mod tensorboard;
mod trainer;

pub use checkpoints::Checkpoints;
pub use history::{Evaluation, History, StepRecord};
pub use html::report;
#[cfg(feature = "interrupt")]
pub use interrupt::Interrupt;
pub use observer::{Event, Observer};
#[cfg(feature = "plots")]
pub use plot::draw;
pub use progress::Progress;
pub use tensorboard::EventFile;
pub use trainer::{EarlyStopping, End, Run, Trainer};
