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
mod history;
mod sample;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use common::{Common, chart, progress::Progress};
use data::Corpus;
use history::History;
use inductor::models::{GptConfig, gpt, gpt_logits};
use inductor::optim::{AdamW, Schedule};
use inductor::{Config, Device, HostTensor, State, Step, Traced, compile, compile_train};
use std::path::{Path, PathBuf};

/// Trains a character GPT.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    common: Common,
    /// Size of the model: auto is full on a GPU and small on the CPU.
    #[arg(long, value_enum, default_value = "auto")]
    size: Size,
    /// Go on from the checkpoint in the output folder, exactly.
    #[arg(long)]
    resume: bool,
    /// Stop after this step, with a checkpoint; the schedule still ends at --steps.
    #[arg(long)]
    until: Option<u64>,
    /// Steps between checkpoints.
    #[arg(long, default_value_t = 200)]
    checkpoint_every: u64,
    /// Sequences of a batch.
    #[arg(long)]
    batch: Option<usize>,
    /// Largest learning rate.
    #[arg(long)]
    lr: Option<f64>,
    /// Probability of dropout.
    #[arg(long, default_value_t = 0.0)]
    dropout: f64,
    /// Train on these files instead of the shipped texts.
    #[arg(long)]
    text: Vec<PathBuf>,
    /// Characters of the text sample.
    #[arg(long, default_value_t = 400)]
    sample: usize,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Size {
    Small,
    Full,
    Auto,
}

/// Settings that follow from the size.
struct Setup {
    model: GptConfig,
    steps: u64,
    lr: f64,
}

impl Setup {
    fn new(options: &Options, device: &Device, vocab: usize) -> Setup {
        let is_gpu = !device.is_cpu() && !device.is_software();
        let is_full = options.size == Size::Full || (options.size == Size::Auto && is_gpu);
        let (mut model, steps, lr) = if is_full { (GptConfig::full(vocab), 2000, 1e-3) } else { (GptConfig::small(vocab), 1000, 3e-3) };
        model.dropout = options.dropout;
        model.batch = options.batch.unwrap_or(model.batch);
        Setup { model, steps: options.common.steps.unwrap_or(steps), lr: options.lr.unwrap_or(lr) }
    }

    fn schedule(&self) -> Schedule {
        Schedule::Cosine { peak: self.lr, floor: self.lr / 10.0, warmup: (self.steps / 10).clamp(20, 100), total: self.steps }
    }
}

fn main() -> std::process::ExitCode {
    common::main(run)
}

fn run() -> Result<()> {
    let options = Options::parse();
    let out = &options.common.out;
    let device = options.common.start()?;
    ensure!(options.batch != Some(0), "a batch has at least one sequence");
    let corpus = if options.text.is_empty() { Corpus::shipped() } else { Corpus::read(&options.text)? };
    let setup = Setup::new(&options, &device, corpus.vocabulary.len());
    let traced = gpt(&setup.model)?;
    let optimizer = AdamW::new(setup.lr).betas(0.9, 0.99).weight_decay(0.1).clip_norm(1.0);
    let step = compile_train(&traced, &device, optimizer, &options.common.config())?;
    if options.common.explain {
        common::say(step.explain().to_string());
    }

    let mut state = step.init(options.common.seed)?;
    let mut history = History::default();
    if options.resume {
        let path = out.join("checkpoint.safetensors");
        ensure!(path.exists(), "there is no checkpoint in {}: one is written every {} steps", out.display(), options.checkpoint_every);
        state.load_checkpoint(&path).context("cannot resume; --resume takes the options of the run that it continues")?;
        history = History::load(&out.join("losses.csv"), state.step())?;
        common::say(format!("resumed after step {}", state.step()));
    }
    let validation = Validation::new(&traced, &device, &setup, &corpus)?;
    train(&options, &setup, &corpus, &step, &mut state, &mut history, &validation)?;

    let bigram = corpus.bigram_loss();
    let loss = validation.loss(&mut state, usize::MAX)?;
    common::say(format!("validation loss {loss:.4} nats per character (a bigram model scores {bigram:.4})"));
    history.validation.push((state.step(), loss));
    history.save(&out.join("losses.csv"))?;
    state.save(out.join("model.safetensors"))?;
    draw(&out.join("loss.png"), &history, bigram)?;
    let text = sample_text(&options, &setup, &device, &corpus, &mut state)?;
    inductor::files::write(out.join("sample.txt"), &text)?;
    common::say(format!("--- sample\n{text}\n---"));
    common::say(format!("wrote loss.png, losses.csv, sample.txt, model.safetensors and checkpoint.safetensors to {}", out.display()));
    options.common.show_profile(&step)
}

/// Steps from where the state stands to the end. The loss of a step is read after the next one is queued, so that a GPU never
/// waits for the host.
fn train(
    options: &Options,
    setup: &Setup,
    corpus: &Corpus,
    step: &Step,
    state: &mut State,
    history: &mut History,
    validation: &Validation,
) -> Result<()> {
    let GptConfig { batch, context, .. } = setup.model;
    // A resumed run goes on with the seed it began with.
    let (seed, schedule) = (state.seed(), setup.schedule());
    let last = options.until.unwrap_or(setup.steps).min(setup.steps);
    let progress = Progress::new(state.step(), setup.steps, (batch * context) as u64, "tokens");
    let look = (setup.steps / 8).max(50);
    let mut queued = None;
    for number in state.step() + 1..=last {
        step.set_scalar("lr", schedule.lr(number))?;
        let [tokens, targets] = corpus.batch(seed, number, batch, context)?;
        let result = step.run(state, [&tokens, &targets])?;
        if let Some((number, result)) = queued.replace((number, result)) {
            history.record(&progress, number, result.loss()?);
        }
        let is_checkpoint = number % options.checkpoint_every.max(1) == 0 || number == last;
        if (is_checkpoint || number % look == 0)
            && let Some((number, result)) = queued.take()
        {
            history.record(&progress, number, result.loss()?);
        }
        if number % look == 0 && number < last {
            let loss = validation.loss(state, 8)?;
            progress.note(&format!("step {number} validation loss {loss:.4}"));
            history.validation.push((number, loss));
        }
        if is_checkpoint {
            state.save_checkpoint(options.common.out.join("checkpoint.safetensors"))?;
            history.save(&options.common.out.join("losses.csv"))?;
        }
    }
    progress.finish(state.step());
    Ok(())
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
    fn loss(&self, state: &mut State, limit: usize) -> Result<f32> {
        let n = self.batches.len().min(limit);
        let mut sum = 0.0;
        for k in 0..n {
            let [tokens, targets] = &self.batches[k * self.batches.len() / n];
            sum += self.step.run(state, [tokens, targets])?.loss()? as f64;
        }
        Ok((sum / n as f64) as f32)
    }
}

fn draw(path: &Path, history: &History, bigram: f64) -> Result<()> {
    chart::draw(
        path,
        &chart::Curve {
            title: "character GPT",
            unit: "nats per character",
            training: &history.training,
            validation: &history.validation,
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
