//! Programs over sequences.

use super::{begin, classes, fit, losses};
use inductor::nn::{self, Attention, Block, Cache, Embedding, LayerNorm, Recurrent};
use inductor::optim::{Adam, AdamW};
use inductor::{Config, DType, Device, HostTensor, Initializer, Result, Tensor, Trace, compile, compile_train, trace, trace_eval};

fn tokens(k: u64, vocab: usize, shape: &[usize]) -> [HostTensor; 2] {
    ["x", "y"].map(|name| classes(&format!("{name}{k}"), vocab, shape))
}

/// A language model by two LSTM layers.
pub fn lstm(device: &Device) -> Result<Vec<f64>> {
    let traced = trace("lstm", |t| {
        let (x, y) = (t.input("x", DType::I32, (4, 12)), t.input("y", DType::I32, (4, 12)));
        let h = nn::embedding(&t.path("embed"), &x, Embedding::new(20, 16));
        let (h, _) = nn::lstm(&t.path("lstm"), &h, None, Recurrent::new(16).layers(2).batch_first());
        Ok(nn::linear(&t.path("head"), &h, 20).cross_entropy(&y))
    })?;
    fit(device, &traced, Adam::new(1e-2).clip_norm(1.0), |k| tokens(k % 4, 20, &[4, 12]))
}

const VOCAB: usize = 17;
const CONTEXT: usize = 16;

/// A GPT's logits, `[batch, time, vocab]`, with the first token at that position; blocks may be checkpoints.
fn gpt(t: &Trace, tokens: &Tensor, start: Option<&Tensor>, attention: &Attention, recomputes: bool) -> Tensor {
    let places = t.iota(DType::I32, tokens.size(1));
    let places = start.map_or(places.clone(), |start| places + start);
    let mut x =
        nn::embedding(&t.path("wte"), tokens, Embedding::new(VOCAB, 16)) + nn::embedding(&t.path("wpe"), &places, Embedding::new(CONTEXT, 16));
    for i in 0..2 {
        let block = |x: &Tensor| nn::transformer_block(&t.path("blocks").path(i), x, &Block::new(attention.clone()));
        x = if recomputes { t.checkpoint(&x, block) } else { block(&x) };
    }
    nn::linear(&t.path("head"), &nn::layer_norm(&t.path("norm"), &x, LayerNorm::default()), VOCAB)
}

fn gpt_loss(recomputes: bool) -> Result<inductor::Traced> {
    trace("gpt", |t| {
        let (x, y) = (t.input("x", DType::I32, (3, CONTEXT)), t.input("y", DType::I32, (3, CONTEXT)));
        Ok(gpt(t, &x, None, &Attention::causal(4), recomputes).cross_entropy(&y))
    })
}

/// A transformer whose blocks are computed again in the backward.
pub fn checkpoints(device: &Device) -> Result<Vec<f64>> {
    fit(device, &gpt_loss(true)?, AdamW::new(3e-3).decay_vectors(true), |k| tokens(k % 4, VOCAB, &[3, CONTEXT]))
}

/// Trains, and continues a prompt by what is most likely, with keys and values of former tokens in the state.
pub fn generation(device: &Device) -> Result<Vec<f64>> {
    let step = compile_train(&gpt_loss(false)?, device, AdamW::new(3e-3).decay_vectors(true), &Config::default())?;
    let mut state = begin(&step)?;
    losses(&step, &mut state, |k| tokens(k % 4, VOCAB, &[3, CONTEXT]))?;

    let program = |time: usize| {
        trace_eval("gpt", |t| {
            let x = t.input("x", DType::I32, (1, time));
            let start = t.buffer("position", DType::I32, (), Initializer::Zeros);
            t.update_buffer("position", &(&start + time as i32));
            let attention = Attention { cache: Some(Cache { context: CONTEXT }), ..Attention::causal(4) };
            Ok(vec![("scores", gpt(t, &x, Some(&start), &attention, false).select(1, -1).log_softmax(-1))])
        })
    };
    let (prompt, next) = (compile(&program(4)?, device, &Config::default())?, compile(&program(1)?, device, &Config::default())?);
    let mut cached = prompt.init(0)?;
    cached.merge(&state)?;
    let mut scores = prompt.run(&mut cached, [&classes("x0", VOCAB, &[1, 4])])?.output("scores")?;
    let mut found = vec![];
    for _ in 4..CONTEXT {
        let row = scores.to_f64();
        let best = (0..VOCAB).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        found.extend([best as f64, row[best]]);
        scores = next.run(&mut cached, [&HostTensor::i32(&[1, 1], &[best as i32])])?.output("scores")?;
    }
    Ok(found)
}
