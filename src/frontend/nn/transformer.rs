//! Transformer encoders and decoders, with PyTorch's names and defaults, over `[batch, time, width]`.

use super::attention::{Multihead, multihead_attention};
use super::basic::{dropout, features, linear};
use super::norm::{LayerNorm, layer_norm};
use crate::frontend::{Tensor, Trace};

/// Settings of the layers of transformers.
#[derive(Clone, Debug)]
pub struct TransformerLayer {
    /// Number of heads; divides the width.
    pub heads: usize,
    /// Width of the feed-forward.
    pub feed_forward: usize,
    /// Probability of dropping: attention weights, hidden values, and what is added.
    pub dropout: f64,
    /// GELU instead of rectifiers.
    pub gelu: bool,
    /// Norms before attention and feed-forward instead of behind the sums.
    pub norm_first: bool,
    /// Added to the variance in norms.
    pub eps: f64,
    /// Hide later positions of the sequence itself.
    pub causal: bool,
    /// Which positions of the sequence itself are seen; see [`Multihead::mask`].
    pub mask: Option<Tensor>,
    /// Which positions of the memory are seen.
    pub memory_mask: Option<Tensor>,
}

impl TransformerLayer {
    /// PyTorch's defaults: a feed-forward of 2,048, dropout 0.1, rectifiers, norms behind the sums.
    pub fn new(heads: usize) -> TransformerLayer {
        TransformerLayer {
            heads,
            feed_forward: 2048,
            dropout: 0.1,
            gelu: false,
            norm_first: false,
            eps: 1e-5,
            causal: false,
            mask: None,
            memory_mask: None,
        }
    }

    fn attention(&self, causal: bool, mask: Option<&Tensor>) -> Multihead {
        Multihead { causal, dropout: self.dropout, mask: mask.cloned(), ..Multihead::new(self.heads) }
    }
}

/// What a part of a layer sees of `x`.
#[track_caller]
fn seen(t: &Trace, x: &Tensor, config: &TransformerLayer, number: usize) -> Tensor {
    if config.norm_first { layer_norm(&t.path(format!("norm{number}")), x, LayerNorm::default().eps(config.eps)) } else { x.clone() }
}

/// `x` with what a part of a layer made of it.
#[track_caller]
fn joined(t: &Trace, x: &Tensor, part: &Tensor, config: &TransformerLayer, number: usize) -> Tensor {
    let y = x + dropout(&t.path(format!("dropout{number}")), part, config.dropout);
    if config.norm_first { y } else { layer_norm(&t.path(format!("norm{number}")), &y, LayerNorm::default().eps(config.eps)) }
}

#[track_caller]
fn feed_forward(t: &Trace, x: &Tensor, config: &TransformerLayer) -> Tensor {
    let width = match features(x, "transformer") {
        Ok(width) => width as usize,
        Err(poison) => return poison,
    };
    let h = linear(&t.path("linear1"), x, config.feed_forward);
    let h = if config.gelu { h.gelu() } else { h.relu() };
    linear(&t.path("linear2"), &dropout(&t.path("dropout"), &h, config.dropout), width)
}

/// PyTorch's `TransformerEncoderLayer`: self-attention and a feed-forward.
#[track_caller]
pub fn encoder_layer(t: &Trace, x: &Tensor, config: &TransformerLayer) -> Tensor {
    let _scope = t.enter();
    let (h, own) = (seen(t, x, config, 1), config.attention(config.causal, config.mask.as_ref()));
    let x = joined(t, x, &multihead_attention(&t.path("self_attn"), &h, &h, &h, &own), config, 1);
    joined(t, &x, &feed_forward(t, &seen(t, &x, config, 2), config), config, 2)
}

/// PyTorch's `TransformerDecoderLayer`: self-attention, attention to a memory, and a feed-forward.
#[track_caller]
pub fn decoder_layer(t: &Trace, x: &Tensor, memory: &Tensor, config: &TransformerLayer) -> Tensor {
    let _scope = t.enter();
    let (h, own) = (seen(t, x, config, 1), config.attention(config.causal, config.mask.as_ref()));
    let x = joined(t, x, &multihead_attention(&t.path("self_attn"), &h, &h, &h, &own), config, 1);
    let (h, other) = (seen(t, &x, config, 2), config.attention(false, config.memory_mask.as_ref()));
    let x = joined(t, &x, &multihead_attention(&t.path("multihead_attn"), &h, memory, memory, &other), config, 2);
    joined(t, &x, &feed_forward(t, &seen(t, &x, config, 3), config), config, 3)
}

/// So many encoder layers, `layers.0` and so on; with `final_norm`, a layer norm `norm` behind them.
///
/// ```
/// use inductor::{DType, nn, trace};
/// let traced = trace("encoder", |t| {
///     let x = t.input("x", DType::F32, (2, 16, 32));
///     let layer = nn::TransformerLayer { feed_forward: 64, norm_first: true, ..nn::TransformerLayer::new(4) };
///     Ok(nn::transformer_encoder(&t.path("encoder"), &x, 2, true, &layer).mean(()))
/// })?;
/// assert_eq!(traced.initializers[0].0, "encoder.layers.0.norm1.weight");
/// # Ok::<(), inductor::Error>(())
/// ```
#[track_caller]
pub fn transformer_encoder(t: &Trace, x: &Tensor, layers: usize, final_norm: bool, config: &TransformerLayer) -> Tensor {
    let mut x = x.clone();
    for i in 0..layers {
        x = encoder_layer(&t.path("layers").path(i), &x, config);
    }
    if final_norm { layer_norm(&t.path("norm"), &x, LayerNorm::default().eps(config.eps)) } else { x }
}

/// So many decoder layers, `layers.0` and so on, which see `memory`; with `final_norm`, a layer norm `norm` behind them.
///
/// ```
/// # use inductor::{DType, nn, trace};
/// trace("layer", |t| {
///     let (x, memory) = (t.input("x", DType::F32, (2, 5, 16)), t.input("memory", DType::F32, (2, 9, 16)));
///     let layer = nn::TransformerLayer { causal: true, ..nn::TransformerLayer::new(4) };
///     let y = nn::transformer_decoder(&t.path("decoder"), &x, &memory, 2, true, &layer);
///     assert_eq!(y.ty().to_string(), "f32[2, 5, 16]");
///     Ok(y)
/// })?;
/// # Ok::<(), inductor::Error>(())
/// ```
#[track_caller]
pub fn transformer_decoder(t: &Trace, x: &Tensor, memory: &Tensor, layers: usize, final_norm: bool, config: &TransformerLayer) -> Tensor {
    let mut x = x.clone();
    for i in 0..layers {
        x = decoder_layer(&t.path("layers").path(i), &x, memory, config);
    }
    if final_norm { layer_norm(&t.path("norm"), &x, LayerNorm::default().eps(config.eps)) } else { x }
}
