//! What a workgroup can do with a nest, and how long it takes.
//!
//! * Comes in: sizes and dtypes of a nest, what the device can do and how fast it is.
//! * Goes out: forms as data, the fastest first, with their predicted time; read by `schedule`, which chooses, and by `codegen`, which spells.
//! * Invariants: thresholds are rows of candidate tables, each with its measurement; the same question has the same answer wherever it is asked.
//! * Must not know: WGSL, graphs, adapters, the order of kernels.
//! * Add here: a form is a file with its parameters, candidates and cost.

pub mod product;
