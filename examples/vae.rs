//! A variational autoencoder: pictures of discs become two numbers each, and numbers become pictures.
//!
//! ```sh
//! cargo run --example vae
//! ```

#[path = "common/mod.rs"]
mod common;

use anyhow::Result;
use common::{Common, training::Training, uniform};
use inductor::optim::{AdamW, Schedule};
use inductor::train::data::Dataset;
use inductor::{Config, DType, Device, HostTensor, State, Tensor, Trace, Traced, compile, compile_train, nn, trace, trace_eval};
use plotters::prelude::*;

const SIDE: usize = 12;
const PIXELS: usize = SIDE * SIDE;
const LATENT: usize = 2;
const WIDTH: usize = 96;
const BATCH: usize = 64;
const PICTURES: usize = 2048;
/// Decoded pictures along each side of the final one.
const GRID: usize = 10;

fn main() -> std::process::ExitCode {
    common::example("Trains a variational autoencoder", run)
}

/// Trains the autoencoder and draws what it decodes.
pub fn run(mut options: Common) -> Result<()> {
    let device = options.start()?;
    options.recall()?;
    let steps = options.steps.unwrap_or(1500);
    let step = compile_train(&training()?, &device, AdamW::new(3e-3), &options.config())?;
    let training = Training {
        common: &options,
        step: &step,
        steps,
        schedule: Some(Schedule::cosine_annealing(3e-3, 1e-5, steps).warmup(20.min(steps))),
        size: (BATCH, "pictures"),
        facts: vec![("example", "vae".into())],
    };
    let mut state = training.begin()?;
    let data = Dataset::new([("x", discs(options.seed()))])?;
    let mut batches = data.loader(BATCH).shuffle(options.seed()).from(state.step());
    training.run(training.trainer()?, &mut state, |_| Ok(batches.next().expect("they do not end")?))?;

    let path = options.out.join("vae.png");
    draw(&path, &decoded(&device, &mut state)?)?;
    common::say(format!("wrote {}", path.display()));
    options.show_profile(&step)
}

/// Negative evidence bound in nats per picture: squared errors under a deviation of 0.2, and the distance of each code's distribution
/// from the standard one.
fn training() -> Result<Traced> {
    Ok(trace("vae", |t| {
        let x = t.input("x", DType::F32, (BATCH, PIXELS));
        let h = nn::linear(&t.path("encoder").path("hidden"), &x, WIDTH).relu();
        let mean = nn::linear(&t.path("encoder").path("mean"), &h, LATENT);
        let log_var = nn::linear(&t.path("encoder").path("log_var"), &h, LATENT);
        let code = &mean + (&log_var * 0.5).exp() * t.randn((BATCH, LATENT));
        let error = (pictures(t, &code) - x).square().sum_all() * (0.5 / 0.04);
        let distance = (mean.square() + log_var.exp() - log_var - 1.0).sum_all() * 0.5;
        Ok((error + distance) * (1.0 / BATCH as f64))
    })?)
}

/// Pictures of codes.
fn pictures(t: &Trace, code: &Tensor) -> Tensor {
    let h = nn::linear(&t.path("decoder").path("hidden"), code, WIDTH).relu();
    nn::linear(&t.path("decoder").path("out"), &h, PIXELS).sigmoid()
}

/// Pictures of a grid of codes, row by row.
fn decoded(device: &Device, state: &mut State) -> Result<Vec<f32>> {
    let traced = trace_eval("decoder", |t| Ok(vec![("pictures", pictures(t, &t.input("code", DType::F32, (GRID * GRID, LATENT))))]))?;
    let place = |k: usize| ((k as f32 + 0.5) / GRID as f32 * 2.0 - 1.0) * 2.0;
    let codes: Vec<f32> = (0..GRID * GRID).flat_map(|i| [place(i % GRID), place(i / GRID)]).collect();
    let codes = HostTensor::f32(&[GRID * GRID, LATENT], &codes);
    Ok(compile(&traced, device, &Config::default())?.run(state, [&codes])?.output("pictures")?.to_f32())
}

/// Soft discs somewhere.
fn discs(seed: u64) -> HostTensor {
    let picture = |k: usize| {
        let [x, y] = [0, 1].map(|n| 2.5 + uniform(seed, 2 * k as u64 + n) * (SIDE as f64 - 6.0));
        (0..PIXELS).map(move |i| {
            let far = ((i % SIDE) as f64 - x).hypot((i / SIDE) as f64 - y);
            (1.0 / (1.0 + ((far - 2.5) * 3.0).exp())) as f32
        })
    };
    HostTensor::f32(&[PICTURES, PIXELS], &(0..PICTURES).flat_map(picture).collect::<Vec<_>>())
}

fn draw(path: &std::path::Path, pictures: &[f32]) -> Result<()> {
    const CELL: usize = 6;
    let side = GRID * SIDE * CELL;
    let root = BitMapBackend::new(path, (side as u32, side as u32)).into_drawing_area();
    for (k, &brightness) in pictures.iter().enumerate() {
        let (picture, pixel) = (k / PIXELS, k % PIXELS);
        let at = |of: usize, within: usize| ((of * SIDE + within) * CELL) as i32;
        let (x, y) = (at(picture % GRID, pixel % SIDE), at(picture / GRID, pixel / SIDE));
        let shade = (brightness.clamp(0.0, 1.0) * 255.0) as u8;
        root.draw(&Rectangle::new([(x, y), (x + CELL as i32, y + CELL as i32)], RGBColor(shade, shade, shade).filled()))?;
    }
    root.present()?;
    Ok(())
}
