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
mod norm;
mod recurrent;
mod transformer;
mod weight;

pub use attention::{Attention, Block, Cache, Multihead, Rotary, cross_attention, multi_head_attention, multihead_attention, transformer_block};
pub use basic::{Embedding, Linear, Lora, alpha_dropout, dropout, embedding, feature_alpha_dropout, feature_dropout, linear, mlp, swiglu};
pub use conv::{Conv, Conv1d, Conv2d, Conv3d, conv_block, conv_transpose1d, conv_transpose2d, conv_transpose3d, conv1d, conv2d, conv3d};
pub use norm::{BatchNorm, LayerNorm, RmsNorm, batch_norm, group_norm, instance_norm, layer_norm, rms_norm, rms_norm_with};
pub use recurrent::{Recurrent, gru, gru_cell, lstm, lstm_cell, rnn, rnn_cell};
pub use transformer::{TransformerLayer, decoder_layer, encoder_layer, transformer_decoder, transformer_encoder};
