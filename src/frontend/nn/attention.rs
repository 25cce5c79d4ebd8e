//! Multi-head attention and the transformer block.

use super::basic::{Linear, dropout, features, linear};
use super::norm::{LayerNorm, layer_norm};
use crate::frontend::{AttentionOptions, Initializer, Tensor, Trace};
use crate::types::{DType, Dim, HostTensor};

/// Settings of [`multi_head_attention`].
#[derive(Clone, Debug)]
pub struct Attention {
    /// Number of heads; divides the width.
    pub heads: usize,
    /// Heads of keys and values, where they are fewer: grouped queries. They divide `heads`.
    pub kv_heads: Option<usize>,
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
    /// Positions by turning queries and keys.
    pub rotary: Option<Rotary>,
    /// Positions by a bias that falls with the distance (Press and others, 2021).
    pub alibi: bool,
    /// Keys and values of former runs are kept in state.
    pub cache: Option<Cache>,
}

/// Rotary positions (Su and others, 2021), by halves of a head as in Llama.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotary {
    /// The base of the wavelengths, usually 10,000.
    pub base: f64,
}

/// Keys and values in buffers `cache.keys` and `cache.values`, `[batch, heads, context, width of a head]`, of which the first
/// `cache.length` (i32, 0-d) are there. A run appends its own, attends to all of them, and moves the length; setting it to 0 starts anew.
/// For inference only; a run that goes beyond the context is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cache {
    /// Positions that there is room for.
    pub context: usize,
}

impl Default for Attention {
    fn default() -> Attention {
        Attention {
            heads: 1,
            kv_heads: None,
            causal: false,
            bias: true,
            dropout: 0.0,
            std: None,
            residual_std: None,
            rotary: None,
            alibi: false,
            cache: None,
        }
    }
}

impl Attention {
    /// Attention to all positions with that many heads, biases, and no dropout.
    pub fn new(heads: usize) -> Attention {
        Attention { heads, ..Attention::default() }
    }

    /// Causal attention with that many heads, biases, and no dropout.
    pub fn causal(heads: usize) -> Attention {
        Attention { heads, causal: true, ..Attention::default() }
    }

    fn kv(&self) -> usize {
        self.kv_heads.unwrap_or(self.heads)
    }

    /// The width, and that of a head, or a report.
    #[track_caller]
    fn widths(&self, x: &Tensor) -> Result<(i64, i64), Tensor> {
        let (width, heads, kv) = (features(x, "attention")?, self.heads as i64, self.kv() as i64);
        if x.rank() != 3 || heads == 0 || kv == 0 || width % heads != 0 || heads % kv != 0 {
            let message = format!("{} is not [batch, time, width] with a width that {heads} heads divide, and {kv} of keys divide them", x.ty());
            return Err(x.fail("attention", message));
        }
        Ok((width, width / heads))
    }
}

/// Self-attention over `[batch, time, width]`: one fused projection `qkv`, heads of `width / heads`, a projection `proj`.
///
/// ```
/// use inductor::{DType, nn, trace};
/// let traced = trace("attend", |t| {
///     let x = t.input("x", DType::F32, (2, 16, 64));
///     let grouped = nn::Attention { kv_heads: Some(2), rotary: Some(nn::Rotary { base: 1e4 }), ..nn::Attention::causal(8) };
///     Ok(nn::multi_head_attention(&t.path("attn"), &x, &grouped).mean(()))
/// })?;
/// let qkv = traced.graph.ty(traced.graph.input("attn.qkv.weight").unwrap().value);
/// assert_eq!(qkv.to_string(), "f32[96, 64]");
/// # Ok::<(), inductor::Error>(())
/// ```
#[track_caller]
pub fn multi_head_attention(t: &Trace, x: &Tensor, config: &Attention) -> Tensor {
    let _scope = t.enter();
    let (width, head) = match config.widths(x) {
        Ok(widths) => widths,
        Err(poison) => return poison,
    };
    let of_kv = config.kv() as i64 * head;
    let qkv = linear(&t.path("qkv"), x, sized(width + 2 * of_kv, config.bias, config.std));
    let parts = qkv.split_with_sizes([width, of_kv, of_kv], -1);
    let [q, k, v] = [&parts[0], &parts[1], &parts[2]].map(|part| by_heads(part, head));
    attend(t, x, [q, k, v], config)
}

/// Attention of `x`, `[batch, time, width]`, to `memory`, `[batch, positions, any width]`: projections `q`, `kv` and `proj`.
///
/// ```
/// # use inductor::{DType, nn, trace};
/// trace("layer", |t| {
///     let (x, memory) = (t.input("x", DType::F32, (2, 5, 16)), t.input("memory", DType::F32, (2, 9, 32)));
///     let y = nn::cross_attention(&t.path("attn"), &x, &memory, &nn::Attention::new(4));
///     assert_eq!(y.ty().to_string(), "f32[2, 5, 16]");
///     Ok(y)
/// })?;
/// # Ok::<(), inductor::Error>(())
/// ```
#[track_caller]
pub fn cross_attention(t: &Trace, x: &Tensor, memory: &Tensor, config: &Attention) -> Tensor {
    let _scope = t.enter();
    let (width, head) = match config.widths(x) {
        Ok(widths) => widths,
        Err(poison) => return poison,
    };
    if config.rotary.is_some() || config.alibi || config.cache.is_some() {
        return x.fail("cross_attention", "positions and caches are for attention of a sequence to itself");
    }
    let of_kv = config.kv() as i64 * head;
    let q = linear(&t.path("q"), x, sized(width, config.bias, config.std));
    let kv = linear(&t.path("kv"), memory, sized(2 * of_kv, config.bias, config.std));
    let parts = kv.split_with_sizes([of_kv, of_kv], -1);
    attend(t, x, [&q, &parts[0], &parts[1]].map(|part| by_heads(part, head)), config)
}

/// `[batch, time, heads * width]` as `[batch, heads, time, width]`.
#[track_caller]
fn by_heads(x: &Tensor, head: i64) -> Tensor {
    x.unflatten(-1, [-1, head]).transpose(1, 2)
}

/// The heads put together again.
#[track_caller]
fn together(x: &Tensor) -> Tensor {
    x.transpose(1, 2).flatten(-2, -1)
}

/// Positions, cache, attention, and the projection of its result.
#[track_caller]
fn attend(t: &Trace, x: &Tensor, [mut q, mut k, mut v]: [Tensor; 3], config: &Attention) -> Tensor {
    let cache = match config.cache {
        Some(_) if t.training() => return x.fail("attention", "a cache of keys and values is for inference"),
        Some(cache) => Some((cache, t.path("cache").buffer("length", DType::I32, (), Initializer::Zeros))),
        None => None,
    };
    let start = cache.as_ref().map(|(_, length)| length.clone());
    if let Some(rotary) = config.rotary {
        (q, k) = rotated(t, &q, &k, rotary, start.as_ref());
    }
    let (times, keys) = (q.size(2), k.size(2));
    let mut options = AttentionOptions { causal: config.causal, ..AttentionOptions::default() };
    if t.recorder.training && config.dropout > 0.0 {
        options.dropout = Some((config.dropout, t.key()));
    }
    let mut context = keys.clone();
    if let Some((cache, length)) = &cache {
        (k, v) = cached(t, &k, &v, *cache, length);
        context = Dim::from(cache.context);
    }
    if cache.is_some() || config.alibi {
        let places = Places::new(t, times, context, start.as_ref());
        options.causal = false;
        options.mask = match config.alibi {
            true => Some(places.alibi(t, config, cache.is_some() || config.causal, q.dtype())),
            // What is not there yet lies behind the last position, whoever asks.
            false => Some(places.seen(config.causal, &keys)),
        };
    }
    let y = together(&q.attention(&k, &v, &options));
    let y = linear(&t.path("proj"), &y, sized(x.constant_size(-1).unwrap_or(1), config.bias, config.residual_std.or(config.std)));
    dropout(&t.path("dropout"), &y, config.dropout)
}

/// Positions of queries, `[time, 1]`, and of keys, `[1, context]`, i32.
struct Places {
    queries: Tensor,
    keys: Tensor,
}

impl Places {
    #[track_caller]
    fn new(t: &Trace, times: Dim, context: Dim, start: Option<&Tensor>) -> Places {
        let own = t.iota(DType::I32, times);
        let queries = start.map_or_else(|| own.clone(), |start| &own + start);
        Places { queries: queries.unsqueeze(1), keys: t.iota(DType::I32, context).unsqueeze(0) }
    }

    /// Which keys each query sees: those up to its own, or all that are there after `appended` more.
    #[track_caller]
    fn seen(&self, causal: bool, appended: &Dim) -> Tensor {
        if causal {
            return self.keys.le(&self.queries);
        }
        let last = self.queries.narrow(0, appended.clone() - Dim::int(1), 1);
        self.keys.le(&last).expand_as(&(&self.queries + &self.keys))
    }

    /// `-slope * distance` for each head, minus infinity for what is hidden.
    #[track_caller]
    fn alibi(&self, t: &Trace, config: &Attention, causal: bool, dtype: DType) -> Tensor {
        let heads = config.heads;
        let slopes: Vec<f64> = (1..=heads).map(|k| 2f64.powf(-8.0 * k as f64 / heads as f64)).collect();
        let slopes = t.constant(&HostTensor::from_f64(dtype, &[heads, 1, 1], &slopes));
        let distance = (&self.queries - &self.keys).abs().cast(dtype);
        let bias = -(slopes * distance);
        if causal { self.keys.le(&self.queries).where_(bias, f64::NEG_INFINITY) } else { bias }
    }
}

#[track_caller]
fn rotated(t: &Trace, q: &Tensor, k: &Tensor, rotary: Rotary, start: Option<&Tensor>) -> (Tensor, Tensor) {
    let half = q.constant_size(-1).unwrap_or(2) as usize / 2;
    let rates: Vec<f64> = (0..half).map(|i| rotary.base.powf(-(i as f64) / half as f64)).collect();
    let rates = t.constant(&HostTensor::from_f64(DType::F32, &[1, half], &rates));
    let own = t.iota(DType::I32, q.size(2));
    let places = start.map_or_else(|| own.clone(), |start| &own + start);
    let angles = places.cast(DType::F32).unsqueeze(1) * rates;
    let (cos, sin) = (angles.cos().cast(q.dtype()), angles.sin().cast(q.dtype()));
    (q.rotary(&cos, &sin, false), k.rotary(&cos, &sin, false))
}

/// All keys and values, with these appended.
#[track_caller]
fn cached(t: &Trace, k: &Tensor, v: &Tensor, cache: Cache, length: &Tensor) -> (Tensor, Tensor) {
    let (t, mut sizes) = (t.path("cache"), k.shape().clone());
    let appended = t.size(DType::I32, std::mem::replace(&mut sizes.0[2], Dim::from(cache.context)));
    let keys = t.buffer("keys", k.dtype(), sizes.clone(), Initializer::Zeros).dynamic_update_slice(2, length, k);
    let values = t.buffer("values", v.dtype(), sizes, Initializer::Zeros).dynamic_update_slice(2, length, v);
    t.update_buffer("keys", &keys);
    t.update_buffer("values", &values);
    t.update_buffer("length", &(length + appended));
    (keys, values)
}

/// Settings of [`multihead_attention`].
#[derive(Clone, Debug)]
pub struct Multihead {
    /// Number of heads; divides the width.
    pub heads: usize,
    /// Hide later positions.
    pub causal: bool,
    /// Biases on the projections.
    pub bias: bool,
    /// Probability of dropping attention weights.
    pub dropout: f64,
    /// Bool (true is attended to) or float (added); broadcasts to `[batch, heads, time, positions]`.
    pub mask: Option<Tensor>,
}

impl Multihead {
    /// So many heads with biases, without dropout and mask.
    pub fn new(heads: usize) -> Multihead {
        Multihead { heads, causal: false, bias: true, dropout: 0.0, mask: None }
    }
}

/// PyTorch's `MultiheadAttention` over `[batch, time, width]`, with its names: `in_proj_weight`, `in_proj_bias`, `out_proj.weight` and
/// `out_proj.bias`. Queries, keys and values have one width. A bool mask is the inverse of PyTorch's.
///
/// ```
/// # use inductor::{DType, nn, trace};
/// trace("layer", |t| {
///     let x = t.input("x", DType::F32, (2, 5, 16));
///     let y = nn::multihead_attention(&t.path("attn"), &x, &x, &x, &nn::Multihead { causal: true, ..nn::Multihead::new(4) });
///     assert_eq!(y.ty().to_string(), "f32[2, 5, 16]");
///     Ok(y)
/// })?;
/// # Ok::<(), inductor::Error>(())
/// ```
#[track_caller]
pub fn multihead_attention(t: &Trace, query: &Tensor, key: &Tensor, value: &Tensor, config: &Multihead) -> Tensor {
    let _scope = t.enter();
    let (width, head) = match Attention::new(config.heads).widths(query) {
        Ok(widths) => widths,
        Err(poison) => return poison,
    };
    let weight = t.parameter("in_proj_weight", query.dtype(), [3 * width, width], Initializer::xavier_uniform());
    let bias = if config.bias { Some(t.parameter("in_proj_bias", query.dtype(), 3 * width, Initializer::Zeros)) } else { None };
    let mut parts = vec![];
    for (k, x) in [query, key, value].into_iter().enumerate() {
        let at = k as i64 * width;
        let bias = bias.as_ref().map(|bias| bias.narrow(0, at, width));
        parts.push(by_heads(&x.linear(&weight.narrow(0, at, width), bias.as_ref()), head));
    }
    let mut options = AttentionOptions { causal: config.causal, mask: config.mask.clone(), ..AttentionOptions::default() };
    if t.recorder.training && config.dropout > 0.0 {
        options.dropout = Some((config.dropout, t.key()));
    }
    let y = together(&parts[0].attention(&parts[1], &parts[2], &options));
    let bound = 1.0 / (width as f64).sqrt();
    linear(&t.path("out_proj"), &y, Linear::new(width as usize).bias(config.bias).init(Initializer::Uniform { low: -bound, high: bound }))
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
///
/// ```
/// # use inductor::{DType, nn, trace};
/// trace("layer", |t| {
///     let x = t.input("x", DType::F32, (2, 5, 16));
///     let y = nn::transformer_block(&t.path("blocks.0"), &x, &nn::Block::new(nn::Attention::causal(4)));
///     assert_eq!(y.ty().to_string(), "f32[2, 5, 16]");
///     Ok(y)
/// })?;
/// # Ok::<(), inductor::Error>(())
/// ```
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
