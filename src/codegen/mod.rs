//! Kernels plus capabilities in, ranked WGSL variants out. Pure, deterministic, no `wgpu`.

mod plan;

pub use plan::*;
