//! A training compiler for every GPU that wgpu reaches.
pub mod autograd;
pub mod codegen;
pub mod compile;
pub mod config;
pub mod error;
pub mod eval;
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
pub mod train;
pub mod types;

pub use config::Config;
pub use error::{Error, Result};
pub use frontend::{Initializer, Tensor, Trace, Traced, optim, trace, trace_eval};
pub use types::{DType, Dim, HostTensor};
