//! Multi-head attention and the transformer block.

use super::basic::{LayerNorm, Linear, dropout, features, layer_norm, linear};
use crate::frontend::{AttentionOptions, Tensor, Trace};

/// Settings of [`multi_head_attention`].
#[derive(Clone, Debug)]
pub struct Attention {
    /// Number of heads; divides the width.
    pub heads: usize,
    /// Hide later positions.
    pub causal: bool,
    /// Biases on the projections.
    pub bias: bool,
    /// Probability of dropping attention weights, and outputs.
    pub dropout: f64,
    /// Deviation of the weights, instead of PyTorch's uniform default.
    pub std: Option<f64>,
    /// Deviation of the output projection, when it differs.
    pub residual_std: Option<f64>,
}

impl Attention {
    /// Causal attention with that many heads, biases, and no dropout.
    pub fn causal(heads: usize) -> Attention {
        Attention { heads, causal: true, bias: true, dropout: 0.0, std: None, residual_std: None }
    }
}

/// Self-attention over `[batch, time, width]`: one fused projection `qkv`, heads of `width / heads`, a projection `proj`.
#[track_caller]
pub fn multi_head_attention(t: &Trace, x: &Tensor, config: &Attention) -> Tensor {
    let _scope = t.enter();
    let width = match features(x, "attention") {
        Ok(width) => width,
        Err(poison) => return poison,
    };
    if x.rank() != 3 || config.heads == 0 || width % config.heads as i64 != 0 {
        return x.fail("attention", format!("{} is not [batch, time, width] with a width that {} heads divide", x.ty(), config.heads));
    }
    let [batch, time, _] = x.sizes();
    let heads = config.heads as i64;
    let qkv = linear(&t.path("qkv"), x, sized(3 * width, config.bias, config.std));
    let mut parts = vec![];
    for part in qkv.chunk(3, -1) {
        parts.push(part.reshape([batch.clone(), time.clone(), heads.into(), (width / heads).into()]).permute(&[0, 2, 1, 3]));
    }
    let dropout_key = if t.recorder.training && config.dropout > 0.0 { Some((config.dropout, t.key())) } else { None };
    let options = AttentionOptions { causal: config.causal, dropout: dropout_key, ..AttentionOptions::default() };
    let y = parts[0].attention(&parts[1], &parts[2], &options);
    let y = y.permute(&[0, 2, 1, 3]).reshape([batch, time, width.into()]);
    let y = linear(&t.path("proj"), &y, sized(width, config.bias, config.residual_std.or(config.std)));
    dropout(&t.path("dropout"), &y, config.dropout)
}

/// Settings of [`transformer_block`].
#[derive(Clone, Debug)]
pub struct Block {
    /// The attention; its biases, dropout and deviations hold for the feed-forward too.
    pub attention: Attention,
    /// Biases of the norms.
    pub norm_bias: bool,
    /// Width of the feed-forward in widths.
    pub expansion: usize,
}

impl Block {
    /// The usual block: biases everywhere, a feed-forward of four widths.
    pub fn new(attention: Attention) -> Block {
        Block { attention, norm_bias: true, expansion: 4 }
    }
}

/// A pre-norm block, `x + attention(norm(x))`, then `x + mlp(norm(x))` with GELU between two linear layers.
#[track_caller]
pub fn transformer_block(t: &Trace, x: &Tensor, config: &Block) -> Tensor {
    let _scope = t.enter();
    let width = match features(x, "transformer_block") {
        Ok(width) => width,
        Err(poison) => return poison,
    };
    let (a, norm) = (&config.attention, LayerNorm::default().bias(config.norm_bias));
    let h = layer_norm(&t.path("ln_1"), x, norm.clone());
    let x = x + multi_head_attention(&t.path("attn"), &h, a);
    let h = layer_norm(&t.path("ln_2"), &x, norm);
    let h = linear(&t.path("mlp.fc"), &h, sized(width * config.expansion as i64, a.bias, a.std)).gelu();
    let h = linear(&t.path("mlp.proj"), &h, sized(width, a.bias, a.residual_std.or(a.std)));
    x + dropout(&t.path("mlp.dropout"), &h, a.dropout)
}

fn sized(features: i64, bias: bool, std: Option<f64>) -> Linear {
    let layer = Linear::new(features as usize).bias(bias);
    match std {
        Some(std) => layer.std(std),
        None => layer,
    }
}
