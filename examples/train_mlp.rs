//! Three spirals, a small network, and a picture of the regions it learns.
//!
//! ```sh
//! cargo run --example train_mlp
//! ```

#[path = "common/mod.rs"]
mod common;

use anyhow::Result;
use common::{Common, chart, training::Training, uniform};
use inductor::optim::{AdamW, Schedule};
use inductor::{Config, DType, Device, Dim, HostTensor, State, Trace, Traced, compile, compile_train, nn, trace};
use plotters::prelude::*;

const ARMS: usize = 3;
const POINTS: usize = 600;
const SIZES: [usize; 3] = [64, 64, ARMS];
const COLORS: [RGBColor; ARMS] = [RGBColor(31, 119, 180), RGBColor(214, 84, 39), RGBColor(44, 140, 80)];
/// Half the width of the picture, in the spirals' own unit.
const REACH: f64 = 1.15;
const GRID: usize = 160;

fn main() -> std::process::ExitCode {
    common::example("Trains a classifier of spirals", run)
}

/// Trains the network and shows what it learnt.
pub fn run(mut options: Common) -> Result<()> {
    let device = options.start()?;
    options.recall()?;
    let (points, labels) = spirals(options.seed());
    let steps = options.steps.unwrap_or(600);
    let step = compile_train(&training()?, &device, AdamW::new(1e-2).weight_decay(1e-4), &options.config())?;
    if options.explain {
        common::say(step.explain().to_string());
    }
    let training = Training {
        common: &options,
        step: &step,
        steps,
        schedule: Some(Schedule::Cosine { peak: 1e-2, floor: 1e-4, warmup: 20.min(steps), total: steps }),
        size: (POINTS, "points"),
        facts: vec![("example", "train_mlp".into())],
    };
    let mut state = training.begin()?;
    training.run(training.trainer()?, &mut state, |_| Ok([&points, &labels]))?;

    let learnt = classes(&device, &mut state, &points)?;
    let right = learnt.iter().zip(labels.to_i64()).filter(|(a, b)| **a == *b as usize).count();
    common::say(format!("{:.1}% of the points are classified rightly", 100.0 * right as f64 / POINTS as f64));
    let path = options.out.join("spirals.png");
    draw(&path, &classes(&device, &mut state, &grid())?, &points.to_f32(), &labels.to_i64())?;
    common::say(format!("wrote {}", path.display()));
    options.show_profile(&step)
}

/// The loss over all points.
fn training() -> Result<Traced> {
    Ok(trace("spirals", |t: &Trace| {
        let x = t.input("x", DType::F32, (POINTS, 2));
        let y = t.input("y", DType::I32, POINTS);
        Ok(nn::mlp(t, &x, &SIZES).cross_entropy(&y))
    })?)
}

/// The class of each point, for any number of points: the size is a symbol, and one compilation serves all.
fn classes(device: &Device, state: &mut State, points: &HostTensor) -> Result<Vec<usize>> {
    let traced = trace("classes", |t: &Trace| {
        let x = t.input("x", DType::F32, [Dim::symbol("points", 1, 1 << 20), 2.into()]);
        Ok(vec![("class", nn::mlp(t, &x, &SIZES).argmax(-1))])
    })?;
    let step = compile(&traced, device, &Config::default())?;
    Ok(step.run(state, [points])?.output("class")?.to_i64().into_iter().map(|c| c as usize).collect())
}

/// Points on noisy spirals around the origin, and the arm of each.
fn spirals(seed: u64) -> (HostTensor, HostTensor) {
    let (mut points, mut labels) = (vec![], vec![]);
    for i in 0..POINTS {
        let (arm, along) = (i % ARMS, (i / ARMS) as f64 / (POINTS / ARMS) as f64);
        let noise = 0.25 * (uniform(seed, i as u64) - 0.5);
        let angle = std::f64::consts::TAU * (arm as f64 / ARMS as f64 + 0.8 * along) + noise;
        let radius = 0.05 + 0.95 * along;
        points.extend([(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]);
        labels.push(arm as i32);
    }
    (HostTensor::f32(&[POINTS, 2], &points), HostTensor::i32(&[POINTS], &labels))
}

/// The centers of the picture's cells, row by row.
fn grid() -> HostTensor {
    let center = |k: usize| ((k as f64 + 0.5) / GRID as f64 * 2.0 - 1.0) * REACH;
    let points: Vec<f32> = (0..GRID * GRID).flat_map(|i| [center(i % GRID) as f32, center(i / GRID) as f32]).collect();
    HostTensor::f32(&[GRID * GRID, 2], &points)
}

fn draw(path: &std::path::Path, regions: &[usize], points: &[f32], labels: &[i64]) -> Result<()> {
    chart::use_shipped_font()?;
    let root = BitMapBackend::new(path, (900, 960)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut area = ChartBuilder::on(&root)
        .caption("spirals, and the regions learnt", ("sans-serif", 30))
        .margin(20)
        .build_cartesian_2d(-REACH..REACH, -REACH..REACH)?;
    let edge = |k: usize| (k as f64 / GRID as f64 * 2.0 - 1.0) * REACH;
    area.draw_series(regions.iter().enumerate().map(|(i, &class)| {
        let (x, y) = (i % GRID, i / GRID);
        Rectangle::new([(edge(x), edge(y)), (edge(x + 1), edge(y + 1))], COLORS[class].mix(0.35).filled())
    }))?;
    area.draw_series(points.chunks(2).zip(labels).map(|(p, &label)| Circle::new((p[0] as f64, p[1] as f64), 4, COLORS[label as usize].filled())))?;
    root.present()?;
    Ok(())
}
