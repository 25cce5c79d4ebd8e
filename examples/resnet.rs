//! A residual net tells four shapes apart: batch norm, pictures that the program itself turns around, one rise and fall of the rate,
//! and a picture of what the net says about pictures it has not seen.
//!
//! ```sh
//! cargo run --example resnet
//! ```

#[path = "common/mod.rs"]
mod common;

use anyhow::Result;
use common::{Common, training::Training, uniform};
use inductor::nn::{self, BatchNorm, Conv2d};
use inductor::optim::{Schedule, Sgd};
use inductor::train::{data::Dataset, metrics::accuracy};
use inductor::{Config, DType, HostTensor, Tensor, Trace, compile, compile_train, trace, trace_eval};
use plotters::prelude::*;

const SIDE: usize = 16;
const PIXELS: usize = SIDE * SIDE;
/// Discs, squares, crosses and rings.
const CLASSES: usize = 4;
const BATCH: usize = 64;
const PICTURES: usize = 2048;
const HELD_OUT: usize = 256;
const PEAK: f64 = 0.1;
/// Pictures along each side of the final one.
const GRID: usize = 12;

fn main() -> std::process::ExitCode {
    common::example("Trains a residual net on pictures of shapes", run)
}

/// Trains the net and shows what it says.
pub fn run(mut options: Common) -> Result<()> {
    let device = options.start()?;
    options.recall()?;
    let training = trace("resnet", |t| {
        let (x, y) = (t.input("x", DType::F32, (BATCH, 3, SIDE, SIDE)), t.input("y", DType::I32, BATCH));
        Ok(scores(t, &turned(t, &x)).cross_entropy(&y))
    })?;
    let sgd = Sgd::new(PEAK).momentum(0.9).nesterov(true).weight_decay(5e-4).clip_norm(5.0);
    let step = compile_train(&training, &device, sgd, &options.config())?;
    let inference = trace_eval("resnet", |t| Ok(vec![("scores", scores(t, &t.input("x", DType::F32, (HELD_OUT, 3, SIDE, SIDE))))]))?;
    let inference = compile(&inference, &device, &Config::default())?;

    let steps = options.steps.unwrap_or(240);
    let schedule = Some(Schedule::one_cycle(PEAK, steps));
    let training = Training { common: &options, step: &step, steps, schedule, size: (BATCH, "pictures"), facts: vec![("example", "resnet".into())] };
    let mut state = training.begin()?;
    let ((x, y), (pictures, labels)) = (shapes(options.seed(), PICTURES), shapes(options.seed() + 1, HELD_OUT));
    let mut batches = Dataset::new([("x", x), ("y", y)])?.loader(BATCH).shuffle(options.seed()).from(state.step());
    let trainer = training.trainer()?.evaluate((steps / 4).max(1), |state| {
        let found = inference.run(state, [&pictures])?.output("scores")?;
        Ok([("accuracy", accuracy(&found, &labels)?)])
    });
    training.run(trainer, &mut state, |_| Ok(batches.next().expect("they do not end")?))?;

    let found = inference.run(&mut state, [&pictures])?.output("scores")?;
    common::say(format!("{:.1}% of the pictures held out are recognized", 100.0 * accuracy(&found, &labels)?));
    let path = options.out.join("resnet.png");
    draw(&path, &pictures.to_f32(), &found.to_f32(), &labels.to_i64())?;
    common::say(format!("wrote {}", path.display()));
    options.show_profile(&step)
}

/// Half of the pictures, drawn anew in each step, from right to left.
fn turned(t: &Trace, x: &Tensor) -> Tensor {
    t.rand((BATCH, 1, 1, 1)).lt(0.5).where_(x.flip(-1), x)
}

/// Scores of the classes.
fn scores(t: &Trace, x: &Tensor) -> Tensor {
    let mut h = nn::conv_block(&t.path("stem"), x, Conv2d::new(12, 3).padding(1));
    for (i, (channels, stride)) in [(12, 1), (24, 2), (48, 2)].into_iter().enumerate() {
        h = residual(&t.path("blocks").path(i), &h, channels, stride);
    }
    nn::linear(&t.path("fc"), &h.mean([2, 3]), CLASSES)
}

/// Two convolutions beside a shortcut, as in the first residual nets (He and others, 2015).
fn residual(t: &Trace, x: &Tensor, channels: usize, stride: i64) -> Tensor {
    let y = nn::conv_block(&t.path("one"), x, Conv2d::new(channels, 3).stride(stride).padding(1));
    let y = nn::conv2d(&t.path("two"), &y, Conv2d::new(channels, 3).padding(1).bias(false));
    let y = nn::batch_norm(&t.path("norm"), &y, BatchNorm::default());
    let shortcut = match stride {
        1 => x.clone(),
        _ => nn::conv2d(&t.path("shortcut"), x, Conv2d::new(channels, 1).stride(stride).bias(false)),
    };
    (y + shortcut).relu()
}

/// So many noisy pictures of a shape somewhere, light on dark or dark on light, and which shape it is.
fn shapes(seed: u64, count: usize) -> (HostTensor, HostTensor) {
    let picture = |k: usize| {
        let draw = move |n: usize| uniform(seed, (k * (16 + 3 * PIXELS) + n) as u64);
        let (x, y, size) = (5.0 + 6.0 * draw(0), 5.0 + 6.0 * draw(1), 2.5 + 2.0 * draw(2));
        (0..3 * PIXELS).map(move |i| {
            let (dx, dy) = (((i % SIDE) as f64 - x).abs(), ((i / SIDE % SIDE) as f64 - y).abs());
            let [light, dark] = [0.55 + 0.45 * draw(3 + i / PIXELS), 0.45 * draw(6 + i / PIXELS)];
            let is_light = is_inside(k % CLASSES, dx / size, dy / size) == (draw(9) < 0.5);
            ((if is_light { light } else { dark }) + 0.3 * (draw(16 + i) - 0.5)) as f32
        })
    };
    let labels: Vec<i32> = (0..count).map(|k| (k % CLASSES) as i32).collect();
    let pixels: Vec<f32> = (0..count).flat_map(picture).collect();
    (HostTensor::f32(&[count, 3, SIDE, SIDE], &pixels), HostTensor::i32(&[count], &labels))
}

/// Whether a point at that distance from the center, in sizes, belongs to the shape.
fn is_inside(class: usize, dx: f64, dy: f64) -> bool {
    match class {
        0 => dx.hypot(dy) < 1.0,
        1 => dx.max(dy) < 0.9,
        2 => dx.min(dy) < 0.35 && dx.max(dy) < 1.2,
        _ => (0.6..1.2).contains(&dx.hypot(dy)),
    }
}

/// Pictures in frames: green where the highest score is that of the label.
fn draw(path: &std::path::Path, pictures: &[f32], scores: &[f32], labels: &[i64]) -> Result<()> {
    const CELL: i32 = 4;
    const FRAMED: i32 = SIDE as i32 * CELL + 8;
    let root = BitMapBackend::new(path, (GRID as u32 * FRAMED as u32, GRID as u32 * FRAMED as u32)).into_drawing_area();
    for k in 0..GRID * GRID {
        let row = &scores[k * CLASSES..(k + 1) * CLASSES];
        let is_right = row.iter().all(|&score| score <= row[labels[k] as usize]);
        let (left, top) = ((k % GRID) as i32 * FRAMED, (k / GRID) as i32 * FRAMED);
        let frame = if is_right { RGBColor(44, 140, 80) } else { RGBColor(214, 54, 39) };
        root.draw(&Rectangle::new([(left, top), (left + FRAMED, top + FRAMED)], frame.filled()))?;
        for i in 0..PIXELS {
            let shade = |channel: usize| (pictures[(3 * k + channel) * PIXELS + i].clamp(0.0, 1.0) * 255.0) as u8;
            let (x, y) = (left + 4 + (i % SIDE) as i32 * CELL, top + 4 + (i / SIDE) as i32 * CELL);
            root.draw(&Rectangle::new([(x, y), (x + CELL, y + CELL)], RGBColor(shade(0), shade(1), shade(2)).filled()))?;
        }
    }
    root.present()?;
    Ok(())
}
