//! The front end: tracing Rust closures into graphs, and what models are made of.
//!
//! * Comes in: closures over `Trace` and `Tensor` handles; optimizer settings.
//! * Goes out: [`Traced`], a graph with roles at its border and the initial values of its state; settings of optimizers.
//! * Invariants: building never panics, a mistake poisons the value and all of them come back at once with the user's
//!   lines; parameters are named by path, as in safetensors files; nothing here optimizes.
//! * Must not know: passes, partition, kernels, devices.
//! * Add here: an operator of PyTorch as a row in `aten/`; a method of `Tensor` in its family of `methods/`; a layer as one file of `nn/`; the
//!   settings of an optimizer in `optim/`.

// Methods of tensors call some of the rows, imported programs the others.
#[cfg_attr(not(feature = "torch"), allow(dead_code))]
mod aten;
mod call;
mod control;
mod freeze;
mod init;
mod methods;
pub mod models;
pub mod nn;
pub mod optim;
mod recorder;
mod region;
mod tensor;
#[cfg(feature = "torch")]
pub mod torch_export;
mod trace;
mod traced;
mod transform;
mod vmap;

pub use init::Initializer;
pub use methods::{AttentionOptions, ConvOptions, CrossEntropy, Interpolation, PadMode, PoolOptions, ScatterMode, Triplet};
pub use tensor::{Operand, Tensor};
pub use trace::{IntoOutputs, Scope, Trace, trace, trace_eval};
pub use traced::Traced;
pub use vmap::{Tensors, Vmap, vmap};
