//! A character GPT on real text: trains, reports the loss on held-out text, writes a sample, the loss curve, the weights and
//! checkpoints.
//!
//! ```sh
//! cargo run --example train_gpt
//! cargo run --example train_gpt -- --size full --device gpu
//! cargo run --example train_gpt -- --resume
//! ```

#[path = "../common/mod.rs"]
mod common;
mod data;
mod sample;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use common::training::Training;
use common::{Common, chart};
use data::Corpus;
use inductor::models::{GptConfig, gpt, gpt_logits};
use inductor::optim::{AdamW, Schedule};
use inductor::train::History;
use inductor::{Config, Device, HostTensor, State, Step, Traced, compile, compile_train};
use std::path::{Path, PathBuf};

/// Trains a character GPT.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    common: Common,
    /// Size of the model: auto is full on a GPU and small on the CPU [default: auto].
    #[arg(long, value_enum)]
    size: Option<Size>,
    /// Sequences of a batch.
    #[arg(long)]
    batch: Option<usize>,
    /// Largest learning rate.
    #[arg(long)]
    lr: Option<f64>,
    /// Probability of dropout [default: 0].
    #[arg(long)]
    dropout: Option<f64>,
    /// Train on these files instead of the shipped texts.
    #[arg(long)]
    text: Vec<PathBuf>,
    /// Characters of the text sample.
    #[arg(long, default_value_t = 400)]
    sample: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Size {
    Small,
    Full,
    Auto,
}

impl std::str::FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Size, String> {
        <Size as ValueEnum>::from_str(text, true)
    }
}

/// Settings that follow from the size.
struct Setup {
    size: Size,
    model: GptConfig,
    steps: u64,
    lr: f64,
}

impl Setup {
    fn new(options: &Options, device: &Device, vocab: usize) -> Setup {
        let is_gpu = !device.is_cpu() && !device.is_software();
        let size = match options.size.unwrap_or(Size::Auto) {
            Size::Auto if is_gpu => Size::Full,
            Size::Auto => Size::Small,
            size => size,
        };
        let (mut model, steps, lr) = if size == Size::Full { (GptConfig::full(vocab), 2000, 1e-3) } else { (GptConfig::small(vocab), 1000, 3e-3) };
        model.dropout = options.dropout.unwrap_or(0.0);
        model.batch = options.batch.unwrap_or(model.batch);
        Setup { size, model, steps: options.common.steps.unwrap_or(steps), lr: options.lr.unwrap_or(lr) }
    }

    fn schedule(&self) -> Schedule {
        Schedule::Cosine { peak: self.lr, floor: self.lr / 10.0, warmup: (self.steps / 10).clamp(20, 100), total: self.steps }
    }

    /// What decides how a run goes on.
    fn facts(&self, corpus: &Corpus) -> Vec<(&'static str, String)> {
        vec![
            ("example", "train_gpt".into()),
            ("size", format!("{:?}", self.size).to_lowercase()),
            ("text", corpus.digest()),
            ("batch", self.model.batch.to_string()),
            ("lr", self.lr.to_string()),
            ("dropout", self.model.dropout.to_string()),
        ]
    }
}

/// Options that were left out are those of the run to go on from.
fn recall(options: &mut Options) -> Result<()> {
    let notes = options.common.recall()?;
    notes.recall(&mut options.size, "size")?;
    notes.recall(&mut options.batch, "batch")?;
    notes.recall(&mut options.lr, "lr")?;
    notes.recall(&mut options.dropout, "dropout")
}

fn main() -> std::process::ExitCode {
    common::main(run)
}

fn run() -> Result<()> {
    let mut options = Options::parse();
    let device = options.common.start()?;
    recall(&mut options)?;
    let out = &options.common.out;
    ensure!(options.batch != Some(0), "a batch has at least one sequence");
    let corpus = if options.text.is_empty() { Corpus::shipped() } else { Corpus::read(&options.text)? };
    let setup = Setup::new(&options, &device, corpus.vocabulary.len());
    let traced = gpt(&setup.model)?;
    let optimizer = AdamW::new(setup.lr).betas(0.9, 0.99).weight_decay(0.1).clip_norm(1.0);
    let step = compile_train(&traced, &device, optimizer, &options.common.config())?;
    if options.common.explain {
        common::say(step.explain().to_string());
    }

    let GptConfig { batch, context, .. } = setup.model;
    let training = Training {
        common: &options.common,
        step: &step,
        steps: setup.steps,
        schedule: Some(setup.schedule()),
        size: (batch * context, "tokens"),
        facts: setup.facts(&corpus),
    };
    let mut state = training.begin()?;
    let validation = Validation::new(&traced, &device, &setup, &corpus)?;
    let seed = state.seed();
    let trainer = training.trainer()?.evaluate((setup.steps / 8).max(50), |state| Ok([("loss", validation.loss(state, 8)?)]));
    let history = training.run(trainer, &mut state, |number| corpus.batch(seed, number, batch, context))?;

    let bigram = corpus.bigram_loss();
    let loss = validation.loss(&mut state, usize::MAX)?;
    common::say(format!("validation loss {loss:.4} nats per character (a bigram model scores {bigram:.4})"));
    state.save(out.join("model.safetensors"))?;
    draw(&out.join("loss.png"), &history, bigram)?;
    let text = sample_text(&options, &setup, &device, &corpus, &mut state)?;
    inductor::files::write(out.join("sample.txt"), &text)?;
    common::say(format!("--- sample\n{text}\n---"));
    common::say(format!("wrote loss.png, report.html, metrics.jsonl, sample.txt, model.safetensors and a checkpoint to {}", out.display()));
    options.common.show_profile(&step)
}

/// The loss on held-out text, by the inference program over the same state.
struct Validation {
    step: Step,
    batches: Vec<[HostTensor; 2]>,
}

impl Validation {
    fn new(traced: &Traced, device: &Device, setup: &Setup, corpus: &Corpus) -> Result<Validation> {
        let step = compile(traced, device, &Config::default())?;
        let batches = corpus.held_out(setup.model.batch, setup.model.context, usize::MAX);
        let GptConfig { batch, context, .. } = setup.model;
        ensure!(
            !batches.is_empty(),
            "the held-out tenth of the text is shorter than a batch of {batch} x {context} characters; --batch makes it smaller"
        );
        Ok(Validation { step, batches })
    }

    /// Mean over at most `limit` batches, spread evenly.
    fn loss(&self, state: &mut State, limit: usize) -> inductor::Result<f64> {
        let n = self.batches.len().min(limit);
        let mut sum = 0.0;
        for k in 0..n {
            let [tokens, targets] = &self.batches[k * self.batches.len() / n];
            sum += self.step.run(state, [tokens, targets])?.loss()? as f64;
        }
        Ok(sum / n as f64)
    }
}

fn draw(path: &Path, history: &History, bigram: f64) -> Result<()> {
    chart::draw(
        path,
        &chart::Curve {
            title: "character GPT",
            unit: "nats per character",
            training: &history.losses(),
            validation: &history.metric("loss"),
            reference: Some((bigram, "bigram model, held-out text")),
        },
    )
}

fn sample_text(options: &Options, setup: &Setup, device: &Device, corpus: &Corpus, state: &mut State) -> Result<String> {
    let model = GptConfig { batch: 1, ..setup.model.clone() };
    let step = compile(&gpt_logits(&model)?, device, &Config::default())?;
    let seed = state.seed();
    sample::generate(&step, state, corpus, model.context, options.sample, seed)
}
