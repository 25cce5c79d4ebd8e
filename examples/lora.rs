//! Low-rank adaptation (Hu et al., 2022): a classifier of spirals learns turned ones by a few numbers beside its frozen weights, which
//! are all that is saved.
//!
//! ```sh
//! cargo run --example lora
//! ```

#[path = "common/mod.rs"]
mod common;

use anyhow::Result;
use common::{Common, uniform};
use inductor::nn::{self, Linear, Lora};
use inductor::optim::{AdamW, Schedule};
use inductor::train::metrics::accuracy;
use inductor::train::{Progress, Trainer};
use inductor::{Config, DType, Device, HostTensor, State, Tensor, Trace, Traced, compile, compile_train, trace, trace_eval};

const ARMS: usize = 3;
const POINTS: usize = 600;
const SIZES: [usize; 3] = [64, 64, ARMS];
const RANK: usize = 4;
/// How far the second task is turned, in radians.
const TURN: f64 = 0.8;

fn main() -> std::process::ExitCode {
    common::example("Adapts a classifier to another task", run)
}

/// Trains, adapts and compares.
pub fn run(options: Common) -> Result<()> {
    let device = options.start()?;
    let (first, second) = (spirals(options.seed(), 0.0), spirals(options.seed(), TURN));
    let base = fit(&options, &device, &program(false)?, None, &first)?;
    common::say(format!("the first task: {:.1}% right", 100.0 * share_right(&device, &base, false, &first)?));
    common::say(format!("the second one: {:.1}% right before it is learnt", 100.0 * share_right(&device, &base, false, &second)?));

    let program = program(true)?;
    let all = program.summary()?.total().clone();
    let adapted = fit(&options, &device, &program, Some(&base), &second)?;
    common::say(format!(
        "{:.1}% right after, by {} of {} numbers",
        100.0 * share_right(&device, &adapted, true, &second)?,
        all.trained,
        all.parameters
    ));
    let path = options.out.join("lora.safetensors");
    adapted.subset("*.lora_*")?.save(&path)?;
    common::say(format!("wrote {} of {} bytes", path.display(), std::fs::metadata(&path)?.len()));
    Ok(())
}

/// Scores of the classes. With adapters the layers are frozen, and each has a product of two narrow matrices beside it, zero at first.
fn scores(t: &Trace, x: &Tensor, adapts: bool) -> Tensor {
    let mut h = x.clone();
    for (i, &features) in SIZES.iter().enumerate() {
        let plain = Linear::new(features);
        let layer = if adapts { plain.lora(Lora { rank: RANK, alpha: 4.0 }) } else { plain };
        let y = nn::linear(&t.path("layers").path(i), &h, layer);
        h = if i + 1 < SIZES.len() { y.relu() } else { y };
    }
    h
}

fn program(adapts: bool) -> Result<Traced> {
    Ok(trace("spirals", |t| {
        let (x, y) = (t.input("x", DType::F32, (POINTS, 2)), t.input("y", DType::I32, POINTS));
        Ok(scores(t, &x, adapts).cross_entropy(&y))
    })?)
}

/// Trains a program, with the weights of another state where there is one.
fn fit(options: &Common, device: &Device, program: &Traced, from: Option<&State>, [x, y]: &[HostTensor; 2]) -> Result<State> {
    let step = compile_train(program, device, AdamW::new(1e-2).weight_decay(1e-4), &options.config())?;
    let mut state = step.init(options.seed())?;
    if let Some(from) = from {
        state.merge(from)?;
    }
    let steps = options.steps.unwrap_or(600);
    let mut trainer = Trainer::new(step).steps(steps).schedule(Schedule::cosine_annealing(1e-2, 1e-4, steps));
    trainer = trainer.observe(Progress::new().rate(POINTS as u64, "points").every(100));
    trainer.run(&mut state, |_| std::iter::repeat_with(|| Ok([x, y])))?;
    Ok(state)
}

fn share_right(device: &Device, state: &State, adapts: bool, [x, y]: &[HostTensor; 2]) -> Result<f64> {
    let traced = trace_eval("scores", |t| Ok(vec![("scores", scores(t, &t.input("x", DType::F32, (POINTS, 2)), adapts))]))?;
    let found = compile(&traced, device, &Config::default())?.run(&mut state.try_clone()?, [x])?.output("scores")?;
    Ok(accuracy(&found, y)?)
}

/// Points on noisy spirals around the origin, turned by an angle, and the arm of each.
fn spirals(seed: u64, turn: f64) -> [HostTensor; 2] {
    let point = |i: usize| {
        let (arm, along) = (i % ARMS, (i / ARMS) as f64 / (POINTS / ARMS) as f64);
        let noise = 0.25 * (uniform(seed, i as u64) - 0.5);
        let angle = std::f64::consts::TAU * (arm as f64 / ARMS as f64 + 0.8 * along) + noise + turn;
        let radius = 0.05 + 0.95 * along;
        [(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]
    };
    let labels: Vec<i32> = (0..POINTS).map(|i| (i % ARMS) as i32).collect();
    [HostTensor::f32(&[POINTS, 2], &(0..POINTS).flat_map(point).collect::<Vec<_>>()), HostTensor::i32(&[POINTS], &labels)]
}
