//! The GPU engine: everything that names `wgpu`.

mod adapters;
pub(super) mod cache;
mod device;
mod drafts;
mod engine;
mod grid;
#[cfg(test)]
mod injected;
mod pace;
mod pending;
mod pipelines;
mod readback;
mod spirv;
mod staging;

pub use adapters::{AdapterKind, AdapterReport, Wanted, adapters};
pub use device::GpuDevice;
pub use engine::{GpuEngine, LaunchTime};
pub use pending::{Arrived, Pending};
pub use readback::Readback;
