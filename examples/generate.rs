//! A character GPT that is trained here continues a prompt. Keys and values of former tokens are state, so that each run computes one
//! position; the token is drawn by the program, of the likeliest ones.
//!
//! ```sh
//! cargo run --example generate -- --prompt "Alice was " --temperature 0.7
//! ```

#[path = "common/mod.rs"]
mod common;
#[path = "train_gpt/data.rs"]
mod data;

use anyhow::{Result, ensure};
use clap::Parser;
use common::{Common, training::Training};
use data::Corpus;
use inductor::nn::{self, Attention, Block, Cache, Embedding, LayerNorm, Linear, Rotary};
use inductor::optim::{AdamW, Schedule};
use inductor::{Config, DType, Device, Dim, HostTensor, Initializer, State, Step, Tensor, Trace, Traced, compile, compile_train, trace, trace_eval};
use std::time::Instant;

const LAYERS: usize = 3;
const HEADS: usize = 4;
const WIDTH: usize = 96;
/// Positions that a token sees; when the cache is full, the last half of it is computed anew.
const CONTEXT: usize = 64;
const BATCH: usize = 16;
const PEAK: f64 = 4e-3;

/// Trains a character GPT and continues a prompt.
#[derive(Parser)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// What the text begins with.
    #[arg(long, default_value = "The ")]
    prompt: String,
    /// Characters to add.
    #[arg(long, default_value_t = 400)]
    length: usize,
    /// Sharpens the distribution: below 1, likely characters become likelier.
    #[arg(long, default_value_t = 0.8)]
    temperature: f64,
    /// Draw of so many likeliest characters.
    #[arg(long, default_value_t = 20)]
    top_k: usize,
    /// Of those, draw of the likeliest that make up this share together; of the likeliest one alone at 0.
    #[arg(long, default_value_t = 0.95)]
    top_p: f64,
}

fn main() -> std::process::ExitCode {
    common::main(|| run(Options::parse()))
}

/// Trains and writes.
pub fn run(mut options: Options) -> Result<()> {
    let device = options.common.start()?;
    options.common.recall()?;
    let corpus = Corpus::shipped();
    let vocab = corpus.vocabulary.len();
    let prompt = corpus.encode(options.prompt.as_bytes());
    ensure!(!prompt.is_empty() && prompt.len() == options.prompt.len(), "--prompt: characters of the texts, at least one");
    ensure!((1..=vocab).contains(&options.top_k), "--top-k: between 1 and the {vocab} characters there are");
    let state = train(&options.common, &device, &corpus)?;

    let mut writer = Writer::new(&options, &device, vocab, &state)?;
    let begun = Instant::now();
    let tokens = writer.go_on(prompt, options.length)?;
    let seconds = begun.elapsed().as_secs_f64();
    let text = corpus.decode(&tokens);
    inductor::files::write(options.common.out.join("generated.txt"), &text)?;
    common::say(format!("--- generated\n{text}\n---"));
    common::say(format!("{:.0} tokens per second; wrote generated.txt to {}", options.length as f64 / seconds, options.common.out.display()));
    Ok(())
}

fn train(options: &Common, device: &Device, corpus: &Corpus) -> Result<State> {
    let program = trace("gpt", |t| {
        let [x, y] = ["x", "y"].map(|name| t.input(name, DType::I32, (BATCH, CONTEXT)));
        Ok(logits(&t.path("gpt"), &x, corpus.vocabulary.len(), None).cross_entropy(&y))
    })?;
    let step = compile_train(&program, device, AdamW::new(PEAK).betas(0.9, 0.99).weight_decay(0.1).clip_norm(1.0), &options.config())?;
    let steps = options.steps.unwrap_or(600);
    let schedule = Some(Schedule::cosine_annealing(PEAK, PEAK / 10.0, steps).warmup(20.min(steps)));
    let facts = vec![("example", "generate".into())];
    let training = Training { common: options, step: &step, steps, schedule, size: (BATCH * CONTEXT, "tokens"), facts };
    let (mut state, seed) = (training.begin()?, options.seed());
    training.run(training.trainer()?, &mut state, |number| corpus.batch(seed, number, BATCH, CONTEXT))?;
    Ok(state)
}

/// Scores of the token behind each one, `[batch, time, vocab]`.
fn logits(t: &Trace, tokens: &Tensor, vocab: usize, cache: Option<Cache>) -> Tensor {
    let attention = Attention { rotary: Some(Rotary { base: 1e4 }), std: Some(0.02), cache, ..Attention::causal(HEADS) };
    let mut x = nn::embedding(&t.path("embed"), tokens, Embedding::new(vocab, WIDTH).std(0.02));
    for i in 0..LAYERS {
        x = nn::transformer_block(&t.path("blocks").path(i), &x, &Block::new(attention.clone()));
    }
    nn::linear(&t.path("head"), &nn::layer_norm(&t.path("norm"), &x, LayerNorm::default()), Linear::new(vocab).bias(false).std(0.02))
}

/// Two programs over one state.
struct Writer {
    /// Takes tokens, as many as there are.
    several: Step,
    /// Takes the token that was drawn last.
    one: Step,
    state: State,
}

impl Writer {
    fn new(options: &Options, device: &Device, vocab: usize, trained: &State) -> Result<Writer> {
        let ready = |several: bool| -> Result<Step> {
            let step = compile(&program(options.top_k, vocab, several)?, device, &Config::default())?;
            step.set_scalar("temperature", options.temperature)?;
            step.set_scalar("top_p", options.top_p)?;
            Ok(step)
        };
        let (several, one) = (ready(true)?, ready(false)?);
        let mut state = one.init(options.common.seed())?;
        state.merge(&trained.subset("gpt")?)?;
        Ok(Writer { several, one, state })
    }

    /// The prompt and what follows.
    fn go_on(&mut self, mut tokens: Vec<i32>, length: usize) -> Result<Vec<i32>> {
        let mut cached = 0;
        for _ in 0..length {
            let drawn = if cached == 0 || cached == CONTEXT {
                cached = tokens.len().min(CONTEXT / 2);
                self.forget()?;
                let recent = &tokens[tokens.len() - cached..];
                self.several.run(&mut self.state, [HostTensor::i32(&[1, cached], recent)])?
            } else {
                cached += 1;
                self.one.run(&mut self.state, ())?
            };
            tokens.push(drawn.output("token")?.item()? as i32);
        }
        Ok(tokens)
    }

    /// Empties the caches.
    fn forget(&mut self) -> Result<()> {
        for i in 0..LAYERS {
            self.state.set(&format!("gpt.blocks.{i}.attn.cache.length"), HostTensor::i32(&[], &[0]))?;
        }
        Ok(())
    }
}

/// Draws the next token, which it also keeps: behind several tokens, or behind the one it drew before.
fn program(top_k: usize, vocab: usize, several: bool) -> Result<Traced> {
    Ok(trace_eval("next", |t| {
        let last = t.buffer("token", DType::I32, (1, 1), Initializer::Zeros);
        let tokens = if several { t.input("tokens", DType::I32, (1, Dim::symbol("time", 1, CONTEXT as i64 / 2))) } else { last };
        let scores = logits(&t.path("gpt"), &tokens, vocab, Some(Cache { context: CONTEXT })).select(1, -1);
        let token = drawn(t, &(scores / t.scalar("temperature", DType::F32)), top_k);
        t.update_buffer("token", &token);
        Ok(vec![("token", token)])
    })?)
}

/// A token for each row of scores: of the `top_k` likeliest, of those that are needed to reach the share `top_p`.
fn drawn(t: &Trace, scores: &Tensor, top_k: usize) -> Tensor {
    let (likeliest, which) = scores.topk(top_k, -1);
    let shares = likeliest.softmax(-1);
    let likelier = shares.cumsum(-1) - &shares;
    let is_kept = likelier.lt(t.scalar("top_p", DType::F32)).logical_or(t.iota(DType::I32, top_k).lt(1));
    which.gather(-1, &is_kept.where_(shares, 0.0).multinomial(1, false)).cast(DType::I32)
}
