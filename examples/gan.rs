//! Two programs that train one state: a generator learns to place points on a ring of eight clusters, a critic to tell them from
//! real ones. Each leaves the other's parameters frozen, and has an optimizer of its own.
//!
//! ```sh
//! cargo run --example gan
//! ```

#[path = "common/mod.rs"]
mod common;

use anyhow::Result;
use common::{Common, chart, uniform};
use inductor::optim::Adam;
use inductor::train::{Event, History, Observer, Progress, StepRecord};
use inductor::{Config, DType, HostTensor, Tensor, Trace, Traced, compile, compile_train, nn, trace, trace_eval};
use plotters::prelude::*;
use std::time::Instant;

const BATCH: usize = 128;
const NOISE: usize = 8;
const WIDTH: usize = 64;
const CLUSTERS: usize = 8;
/// The critic learns faster, and sees points through a blur, so that the generator does not settle on a few clusters.
const CRITIC_RATE: f64 = 2e-3;
const GENERATOR_RATE: f64 = 5e-4;
const BLUR: f64 = 0.3;
/// Half the width of the picture.
const REACH: f64 = 1.5;

fn main() -> std::process::ExitCode {
    common::example("Trains a generator and a critic", run)
}

/// Trains both nets and draws what the generator makes.
pub fn run(options: Common) -> Result<()> {
    let device = options.start()?;
    let adam = |lr: f64| Adam::new(lr).betas(0.5, 0.9);
    let critic = compile_train(&critic_loss()?, &device, adam(CRITIC_RATE), &options.config())?;
    let generator = compile_train(&generator_loss()?, &device, adam(GENERATOR_RATE), &options.config())?;
    let mut state = critic.init(options.seed())?;

    let (steps, history, begun) = (options.steps.unwrap_or(4000), History::default(), Instant::now());
    let mut progress = Progress::new().rate(BATCH as u64, "points");
    progress.observe(Event::Begin { done: 0, steps, history: &history })?;
    for step in 1..=steps {
        critic.run(&mut state, [&ring(options.seed(), step)])?;
        let loss = generator.run(&mut state, ())?.loss()? as f64;
        progress.observe(Event::Step(&StepRecord {
            step,
            loss,
            lr: GENERATOR_RATE,
            seconds: begun.elapsed().as_secs_f64(),
            gradient_norms: Default::default(),
        }))?;
    }
    progress.observe(Event::End { step: steps, history: &history })?;

    let made = compile(&trace_eval("points", |t| Ok(vec![("points", generated(t))]))?, &device, &Config::default())?;
    let points: Vec<f32> = (0..4).map(|_| Ok(made.run(&mut state, ())?.output("points")?.to_f32())).collect::<Result<Vec<_>>>()?.concat();
    let is_near = |p: &[f32], [x, y]: [f64; 2]| (p[0] as f64 - x).hypot(p[1] as f64 - y) < 0.2;
    let reached = (0..CLUSTERS).filter(|&k| points.chunks(2).any(|p| is_near(p, center(k)))).count();
    common::say(format!("the generator reaches {reached} of {CLUSTERS} clusters"));
    let path = options.out.join("gan.png");
    draw(&path, &points, &ring(options.seed(), 0).to_f32())?;
    common::say(format!("wrote {}", path.display()));
    Ok(())
}

/// Points that the generator makes of noise.
fn generated(t: &Trace) -> Tensor {
    let noise = t.key().uniform((BATCH, NOISE)) * 2.0 - 1.0;
    nn::mlp(&t.path("generator"), &noise, &[WIDTH, WIDTH, 2])
}

/// Scores of "made" and "real" for each of so many points.
fn scores(t: &Trace, points: &Tensor, count: usize) -> Tensor {
    let blur = (t.key().uniform((count, 2)) * 2.0 - 1.0) * BLUR;
    nn::mlp(&t.path("critic"), &(points + blur), &[WIDTH, WIDTH, 2])
}

/// Labels of so many points, all made or all real.
fn labels(t: &Trace, is_real: bool) -> Tensor {
    t.full(DType::I32, BATCH, is_real as u8 as f64)
}

/// The critic's: real points are real, made ones are not.
fn critic_loss() -> Result<Traced> {
    Ok(trace("critic", |t| {
        t.frozen("generator");
        let real = t.input("real", DType::F32, (BATCH, 2));
        let points = real.concat(&[&generated(t)], 0);
        Ok(scores(t, &points, 2 * BATCH).cross_entropy(&labels(t, true).concat(&[&labels(t, false)], 0)))
    })?)
}

/// The generator's: made points pass for real.
fn generator_loss() -> Result<Traced> {
    Ok(trace("generator", |t| {
        t.frozen("critic");
        Ok(scores(t, &generated(t), BATCH).cross_entropy(&labels(t, true)))
    })?)
}

/// The center of a cluster.
fn center(cluster: usize) -> [f64; 2] {
    let angle = std::f64::consts::TAU * cluster as f64 / CLUSTERS as f64;
    [angle.cos(), angle.sin()]
}

/// Real points: clusters on a circle.
fn ring(seed: u64, step: u64) -> HostTensor {
    let at = |k: usize| {
        let draw = |n: u64| uniform(seed, (step * BATCH as u64 + k as u64) * 4 + n);
        let [x, y] = center((draw(0) * CLUSTERS as f64) as usize);
        [x + 0.1 * (draw(1) - 0.5), y + 0.1 * (draw(2) - 0.5)].map(|x| x as f32)
    };
    HostTensor::f32(&[BATCH, 2], &(0..BATCH).flat_map(at).collect::<Vec<_>>())
}

fn draw(path: &std::path::Path, made: &[f32], real: &[f32]) -> Result<()> {
    chart::use_shipped_font()?;
    let root = BitMapBackend::new(path, (900, 940)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut area = ChartBuilder::on(&root)
        .caption("real points, and those of the generator", ("sans-serif", 28))
        .margin(20)
        .build_cartesian_2d(-REACH..REACH, -REACH..REACH)?;
    for (points, color, size) in [(real, RGBColor(190, 190, 190), 6), (made, RGBColor(214, 84, 39), 3)] {
        area.draw_series(points.chunks(2).map(|p| Circle::new((p[0] as f64, p[1] as f64), size, color.filled())))?;
    }
    root.present()?;
    Ok(())
}
