//! Layers as functions: each takes the path under which its parameters are named, and tensors.
//!
//! * Comes in: a [`Trace`](super::Trace) seen from the layer's path, tensors, sizes.
//! * Goes out: tensors; parameters are recorded with PyTorch's names and initial values.
//! * Invariants: a poisoned operand gives a poisoned result and reports nothing; every op carries the caller's line and the
//!   layer's path.
//! * Must not know: optimizers, devices, how anything is compiled.
//! * Add here: one file for a layer and one line below.

mod attention;
mod basic;
mod conv;

pub use attention::{Attention, Block, multi_head_attention, transformer_block};
pub use basic::{Embedding, LayerNorm, Linear, dropout, embedding, layer_norm, linear, mlp, rms_norm};
pub use conv::{Conv2d, conv2d};
