//! Models of the examples and the measured suites.

use super::nn::{self, Attention, Block, Embedding, LayerNorm, Linear};
use super::{Initializer, Tensor, Trace, Traced, trace, trace_eval};
use crate::error::Result;
use crate::types::{DType, Dim};

/// A GPT in the manner of GPT-2: learnt positions, pre-norm blocks, an output head of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct GptConfig {
    /// Number of tokens.
    pub vocab: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Attention heads of a block.
    pub heads: usize,
    /// Largest number of positions.
    pub context: usize,
    /// Sequences of a batch.
    pub batch: usize,
    /// Probability of dropout, in training.
    pub dropout: f64,
    /// Biases of linear layers.
    pub linear_bias: bool,
    /// Biases of norms.
    pub norm_bias: bool,
}

impl GptConfig {
    /// About 0.8M parameters: what two CPU cores train in minutes.
    pub fn small(vocab: usize) -> GptConfig {
        GptConfig { vocab, layers: 4, width: 128, heads: 4, context: 64, batch: 16, dropout: 0.0, linear_bias: false, norm_bias: true }
    }

    /// About 10.7M parameters: 6 layers, 384 wide, context 256, batch 64.
    pub fn full(vocab: usize) -> GptConfig {
        GptConfig { layers: 6, width: 384, heads: 6, context: 256, batch: 64, ..GptConfig::small(vocab) }
    }

    /// The measured `nanogpt`.
    pub fn nanogpt() -> GptConfig {
        GptConfig::full(65)
    }

    /// The measured `gpt2`: the 124M model with a head of its own, batch 4 x 1024.
    pub fn gpt2() -> GptConfig {
        GptConfig { vocab: 50304, layers: 12, width: 768, heads: 12, context: 1024, batch: 4, dropout: 0.0, linear_bias: true, norm_bias: true }
    }

    fn block(&self) -> Block {
        let residual_std = Some(0.02 / (2.0 * self.layers as f64).sqrt());
        let causal = Attention::causal(self.heads);
        let attention = Attention { bias: self.linear_bias, dropout: self.dropout, std: Some(0.02), residual_std, ..causal };
        Block { attention, norm_bias: self.norm_bias, expansion: 4 }
    }
}

/// Training of a GPT: inputs `tokens` and `targets`, i32 of `[batch, context]`; the loss is the mean cross entropy.
///
/// ```
/// use inductor::models::{GptConfig, gpt};
/// let traced = gpt(&GptConfig { layers: 2, ..GptConfig::small(65) })?;
/// assert_eq!(traced.graph.outputs[0].name, "loss");
/// # Ok::<(), inductor::Error>(())
/// ```
pub fn gpt(config: &GptConfig) -> Result<Traced> {
    gpt_sized(config, config.batch, config.context)
}

/// As [`gpt`] for other sizes, symbolic ones too; `time` is at most the context.
pub fn gpt_sized(config: &GptConfig, batch: impl Into<Dim>, time: impl Into<Dim>) -> Result<Traced> {
    let (batch, time) = (batch.into(), time.into());
    trace("gpt", |t| {
        let tokens = t.input("tokens", DType::I32, [batch.clone(), time.clone()]);
        let targets = t.input("targets", DType::I32, [batch.clone(), time.clone()]);
        Ok(logits(t, &tokens, config).cross_entropy(&targets.reshape(batch * time)))
    })
}

/// Inference of a GPT: input `tokens`, i32 of `[batch, context]`; output `logits` of `[batch * context, vocab]`.
pub fn gpt_logits(config: &GptConfig) -> Result<Traced> {
    trace_eval("gpt", |t| {
        let tokens = t.input("tokens", DType::I32, (config.batch, config.context));
        Ok(vec![("logits", logits(t, &tokens, config))])
    })
}

/// Logits of every position, `[batch * time, vocab]`.
fn logits(t: &Trace, tokens: &Tensor, config: &GptConfig) -> Tensor {
    let [batch, time] = tokens.sizes();
    let positions = t.path("wpe").parameter("weight", DType::F32, (config.context, config.width), Initializer::Normal { std: 0.02 });
    let words = nn::embedding(&t.path("wte"), tokens, Embedding::new(config.vocab, config.width).std(0.02));
    let mut x = nn::dropout(&t.path("dropout"), &(words + positions.slice(0, 0, time.clone())), config.dropout);
    for i in 0..config.layers {
        x = nn::transformer_block(&t.path("blocks").path(i), &x, &config.block());
    }
    let x = nn::layer_norm(&t.path("ln_f"), &x, LayerNorm::default().bias(config.norm_bias));
    let rows = x.reshape([batch * time, config.width.into()]);
    nn::linear(&t.path("head"), &rows, Linear::new(config.vocab).bias(false).std(0.02))
}

/// Training of a classifier of `sizes[0]` features: linear layers of the other sizes with rectifiers between them. Inputs `x`, f32 of
/// `[batch, sizes[0]]`, and `y`, i32 of `[batch]`; the loss is the mean cross entropy.
pub fn mlp(batch: impl Into<Dim>, sizes: &[usize]) -> Result<Traced> {
    let batch = batch.into();
    trace("mlp", |t| {
        let x = t.input("x", DType::F32, [batch.clone(), sizes.first().copied().unwrap_or(0).into()]);
        let y = t.input("y", DType::I32, [batch]);
        Ok(nn::mlp(t, &x, sizes.get(1..).unwrap_or_default()).cross_entropy(&y))
    })
}

/// The measured `mlp`: 784-512-256-10, batch 128.
pub fn mnist_mlp() -> Result<Traced> {
    mlp(128, &[784, 512, 256, 10])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Graph, InputRole, OutputRole};
    use crate::types::HostTensor;

    fn parameters(graph: &Graph) -> i64 {
        graph.inputs.iter().filter(|i| i.role == InputRole::Parameter).map(|i| graph.ty(i.value).numel().as_int().unwrap()).sum()
    }

    #[test]
    fn models_have_their_known_sizes() {
        let norms = 13 * 2 * 768;
        let biases = 12 * (3 + 1 + 4 + 1) * 768;
        let gpt2 = 2 * 50304 * 768 + 1024 * 768 + 12 * 12 * 768 * 768 + biases + norms + 12 * 2 * 768;
        assert_eq!(parameters(&gpt(&GptConfig::gpt2()).unwrap().graph), gpt2);
        assert_eq!(parameters(&mnist_mlp().unwrap().graph), 784 * 512 + 512 + 512 * 256 + 256 + 2560 + 10);
    }

    #[test]
    fn training_and_inference_share_parameters() {
        let config = GptConfig { dropout: 0.1, ..GptConfig::small(65) };
        let (train, infer) = (gpt(&config).unwrap(), gpt_logits(&config).unwrap());
        assert_eq!(train.initializers, infer.initializers);
        assert_eq!(train.graph.outputs[0].role, OutputRole::Loss);
        assert_eq!(infer.graph.outputs[0].name, "logits");
        assert_eq!(train.graph.inputs.iter().filter(|i| i.role == InputRole::Key).count(), 1);
    }

    #[test]
    fn an_untrained_gpt_knows_nothing() {
        let config = GptConfig { vocab: 11, layers: 2, width: 8, heads: 2, context: 5, batch: 2, ..GptConfig::small(11) };
        let traced = gpt(&config).unwrap();
        let inputs: Vec<HostTensor> = traced
            .graph
            .inputs
            .iter()
            .map(|i| {
                let ty = traced.graph.ty(i.value);
                let shape = ty.shape.as_ints().unwrap();
                match i.role {
                    InputRole::Parameter => traced.initializer(&i.name).sample(ty.dtype, &shape, 1, &i.name),
                    _ => HostTensor::i32(&shape, &(0..10).map(|k| k * 7 % 11).collect::<Vec<_>>()),
                }
            })
            .collect();
        let loss = crate::eval::evaluate(&traced.graph, &inputs, crate::ops::Precision::Working).unwrap()[0].to_f64()[0];
        assert!((loss - 11f64.ln()).abs() < 0.02, "{loss}");
    }

    #[test]
    fn sizes_may_be_symbolic() {
        let config = GptConfig::small(65);
        let (batch, time) = (Dim::symbol("batch", 1, 64), Dim::symbol("time", 1, 64));
        let traced = gpt_sized(&config, batch, time).unwrap();
        assert!(traced.graph.ty(traced.graph.outputs[0].value).shape.0.is_empty());
    }
}
