//! Classifies pictures of clothes: a perceptron or a small convolutional net on Fashion-MNIST.
//!
//! ```sh
//! apt-get install dataset-fashion-mnist
//! cargo run --example train_fashion_mnist
//! cargo run --example train_fashion_mnist -- --model cnn
//! ```

#[path = "../common/mod.rs"]
mod common;
mod data;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use common::{Common, random, training::Training};
use data::{CLASSES, SIDE, Split};
use inductor::nn::{Conv2d, conv2d, linear};
use inductor::optim::{AdamW, Schedule};
use inductor::{Config, DType, Device, HostTensor, State, Step, Tensor, Trace, Traced, compile, compile_train, trace, trace_eval};
use std::path::PathBuf;

/// Images that are tested at once.
const TESTED: usize = 250;

/// Trains a classifier of clothes.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    common: Common,
    /// A multilayer perceptron, or a convolutional net.
    #[arg(long, value_enum, default_value = "mlp")]
    model: Model,
    /// Folder with the four files of the data set.
    #[arg(long, default_value = data::FOLDER)]
    data: PathBuf,
    /// Images of a batch [default: 100].
    #[arg(long)]
    batch: Option<usize>,
    /// Largest learning rate [default: 0.002].
    #[arg(long)]
    lr: Option<f64>,
}

impl Options {
    fn batch(&self) -> usize {
        self.batch.unwrap_or(100)
    }

    fn lr(&self) -> f64 {
        self.lr.unwrap_or(2e-3)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Model {
    Mlp,
    Cnn,
}

impl Model {
    /// Epochs that reach the accuracy that the page of this example promises.
    fn epochs(self) -> u64 {
        match self {
            Model::Mlp => 4,
            Model::Cnn => 6,
        }
    }

    /// Scores of each class, for images `[n, 1, 28, 28]`.
    fn logits(self, t: &Trace, x: &Tensor) -> Tensor {
        let n = x.size(0);
        match self {
            Model::Mlp => {
                let x = x.reshape([n, ((SIDE * SIDE) as i64).into()]);
                let h = linear(&t.path("fc1"), &x, 256).relu();
                linear(&t.path("fc2"), &h, CLASSES.len())
            }
            // The stride and the pool come early: the second convolution sees 7 x 7 places, which a CPU trains in minutes.
            Model::Cnn => {
                let h = conv2d(&t.path("conv1"), x, Conv2d::new(16, 5).stride(2).padding(2)).relu().max_pool2d(2);
                let h = conv2d(&t.path("conv2"), &h, Conv2d::new(32, 3).padding(1)).relu();
                let h = h.reshape([n, (32 * 7 * 7).into()]);
                let h = linear(&t.path("fc1"), &h, 128).relu();
                linear(&t.path("fc2"), &h, CLASSES.len())
            }
        }
    }
}

fn main() -> std::process::ExitCode {
    common::main(run)
}

fn run() -> Result<()> {
    let mut options = Options::parse();
    let device = options.common.start()?;
    let notes = options.common.recall()?;
    notes.recall(&mut options.batch, "batch")?;
    notes.recall(&mut options.lr, "lr")?;
    let (train, test) = (Split::read(&options.data, "train")?, Split::read(&options.data, "t10k")?);
    ensure!((1..=train.len()).contains(&options.batch()), "a batch has 1 to {} images", train.len());
    let step = compile_train(&training(&options)?, &device, AdamW::new(options.lr()).weight_decay(1e-3), &options.common.config())?;
    if options.common.explain {
        common::say(step.explain().to_string());
    }
    let mut state = fit(&options, &train, &step)?;

    let right = count_right(&options, &device, &mut state, &test)?;
    common::say(format!("test accuracy {:.2}% of {} images", 100.0 * right as f64 / test.len() as f64, test.len()));
    let path = options.common.out.join("fashion.safetensors");
    state.save(&path)?;
    common::say(format!("wrote {}", path.display()));
    options.common.show_profile(&step)
}

/// The loss of one batch.
fn training(options: &Options) -> Result<Traced> {
    Ok(trace("fashion", |t: &Trace| {
        let x = t.input("x", DType::F32, (options.batch(), 1, SIDE, SIDE));
        let y = t.input("y", DType::I32, options.batch());
        Ok(options.model.logits(t, &x).cross_entropy(&y))
    })?)
}

/// Each epoch sees every image once, in another order.
fn fit(options: &Options, train: &Split, step: &Step) -> Result<State> {
    let per_epoch = (train.len() / options.batch()) as u64;
    let steps = options.common.steps.unwrap_or(options.model.epochs() * per_epoch);
    let training = Training {
        common: &options.common,
        step,
        steps,
        schedule: Some(Schedule::Cosine { peak: options.lr(), floor: options.lr() / 100.0, warmup: 100.min(steps / 10), total: steps }),
        size: (options.batch(), "images"),
        facts: vec![
            ("example", "train_fashion_mnist".into()),
            ("model", format!("{:?}", options.model)),
            ("batch", options.batch().to_string()),
            ("lr", options.lr().to_string()),
        ],
    };
    let mut state = training.begin()?;
    let mut epoch = (u64::MAX, vec![]);
    training.run(training.trainer()?, &mut state, |number| Ok(batch(options, train, number - 1, &mut epoch)))?;
    Ok(state)
}

/// The images of a step, counted from 0, and their classes; with the order of the epoch that was taken from last.
fn batch(options: &Options, train: &Split, step: u64, epoch: &mut (u64, Vec<usize>)) -> [HostTensor; 2] {
    let batch = options.batch();
    let per_epoch = (train.len() / batch) as u64;
    let first = step - step % per_epoch + 1;
    if epoch.0 != first {
        *epoch = (first, shuffled(train.len(), options.common.seed(), first));
    }
    let at = (step % per_epoch) as usize * batch;
    train.batch(&epoch.1[at..at + batch])
}

/// The numbers below `n` in an order that `seed` and `epoch` decide (Fisher and Yates).
fn shuffled(n: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, (random(seed.wrapping_add(epoch << 20), i as u64) % (i as u64 + 1)) as usize);
    }
    order
}

/// Images that are classified rightly.
fn count_right(options: &Options, device: &Device, state: &mut State, test: &Split) -> Result<usize> {
    let traced = trace_eval("classes", |t: &Trace| {
        let x = t.input("x", DType::F32, (TESTED, 1, SIDE, SIDE));
        Ok(vec![("class", options.model.logits(t, &x).argmax(-1))])
    })?;
    let step = compile(&traced, device, &Config::default())?;
    let mut right = 0;
    for first in (0..test.len()).step_by(TESTED) {
        // The last images fill their batch with the first one, which is not counted again.
        let chosen: Vec<usize> = (first..first + TESTED).map(|i| if i < test.len() { i } else { 0 }).collect();
        let [images, _] = test.batch(&chosen);
        let classes = step.run(state, [&images])?.output("class")?.to_i64();
        right += (first..test.len()).zip(&classes).filter(|&(i, &class)| class as usize == test.label(i)).count();
    }
    Ok(right)
}
