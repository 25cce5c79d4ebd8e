//! Devices, buffers, pipelines, running a plan; state; verification. The only room that names `wgpu`.
//!
//! * Comes in: a [`Plan`](crate::codegen::Plan) and a [`Device`]; tensors on the host.
//! * Goes out: [`Step`], which runs the plan, [`State`], which lives across steps, errors instead of panics.
//! * Invariants: no instance, adapter, device, thread pool or cache folder exists before the first call that needs it
//!   ([`counters`] proves it); everything a caller gives is checked before anything changes; a refused step leaves state as
//!   it was; one step is a few submissions in order; a plan runs the same on the interpreter and on a GPU.
//! * Must not know: graphs beyond their signature, how kernels are made.
//! * Add here: a capability is detected in `gpu/adapters.rs`, and whether it works in `probe.rs`; a check of inputs in `signature.rs`.

mod anomaly;
mod checkpoint;
mod compile;
mod counters;
mod device;
mod engine;
mod explain;
#[cfg(all(test, feature = "gpu"))]
mod faults;
#[cfg(test)]
mod fixtures;
mod gguf;
#[cfg(feature = "gpu")]
pub mod gpu;
mod ledger;
mod load;
mod memory;
mod oracle;
mod parts;
#[cfg(feature = "gpu")]
mod probe;
#[cfg(feature = "gpu")]
mod profile;
mod reproducer;
mod resident;
mod result;
mod run;
mod shards;
mod signature;
#[cfg(feature = "gpu")]
mod speeds;
mod state;
mod step;
#[cfg(feature = "gpu")]
mod storage;
mod tensor_file;
#[cfg(feature = "gpu")]
mod tune;
#[cfg(feature = "gpu")]
mod units;
mod uploads;
mod verify;

pub use checkpoint::checkpoint_notes;
pub use compile::{compile, compile_train, compile_vjp};
pub use counters::{Counters, counters};
pub use device::Device;
pub use explain::{BufferReport, CommandReport, Crossing, Explain, MemoryReport, PartitionReport, PerPhase};
pub use load::{Load, LoadReport};
#[cfg(feature = "gpu")]
pub use profile::{Profile, ProfiledCommand, copy_gbps};
pub use reproducer::{Replay, replay};
pub use result::StepResult;
pub use shards::Shards;
pub use signature::Inputs;
pub use state::State;
pub use step::Step;
pub use tensor_file::{NamedTensors, TensorFile, load_tensors, save_tensors};
#[cfg(feature = "gpu")]
pub use tune::TunedKernel;
