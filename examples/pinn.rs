//! A net solves a differential equation (Raissi, Perdikaris and Karniadakis, 2019): Burgers' `u_t + u u_x = v u_xx`, which makes a wave
//! of a sine and then a shock. The loss is made of derivatives of the net by its inputs, which training differentiates again. It has
//! no data: the program draws its own points. In the end the solution is compared with finite differences.
//!
//! ```sh
//! cargo run --example pinn
//! ```

#[path = "common/mod.rs"]
mod common;

use anyhow::Result;
use common::{Common, chart, training::Training};
use inductor::optim::{Adam, Schedule};
use inductor::{Config, DType, HostTensor, Tensor, Trace, compile, compile_train, nn, trace, trace_eval};
use plotters::prelude::*;
use std::f64::consts::PI;

const VISCOSITY: f64 = 0.05;
const POINTS: usize = 512;
const PEAK: f64 = 4e-3;
/// Places between -1 and 1 where solutions are compared.
const PLACES: usize = 101;
/// Times of the picture.
const TIMES: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];
const COLORS: [RGBColor; 5] = [RGBColor(68, 1, 84), RGBColor(59, 82, 139), RGBColor(33, 145, 140), RGBColor(94, 201, 98), RGBColor(230, 170, 20)];

fn main() -> std::process::ExitCode {
    common::example("Trains a net that solves Burgers' equation", run)
}

/// Trains the net and compares it with finite differences.
pub fn run(mut options: Common) -> Result<()> {
    let device = options.start()?;
    options.recall()?;
    let program = trace("pinn", |t| {
        let (x, time) = (t.rand((POINTS, 1)) * 2.0 - 1.0, t.rand((POINTS, 1)));
        Ok(residual(t, &x, &time).square().mean(()))
    })?;
    let step = compile_train(&program, &device, Adam::new(PEAK), &options.config())?;
    let steps = options.steps.unwrap_or(1500);
    let schedule = Some(Schedule::cosine_annealing(PEAK, 1e-5, steps));
    let training = Training { common: &options, step: &step, steps, schedule, size: (POINTS, "points"), facts: vec![("example", "pinn".into())] };
    let mut state = training.begin()?;
    training.run(training.trainer()?, &mut state, |_| Ok(()))?;

    let all = (TIMES.len() * PLACES, 1);
    let solution = trace_eval("solution", |t| Ok(vec![("u", solution(t, &t.input("x", DType::F32, all), &t.input("time", DType::F32, all)))]))?;
    let column = |f: &dyn Fn(usize) -> f64| HostTensor::from_f64(DType::F32, &[all.0, 1], &(0..all.0).map(f).collect::<Vec<_>>());
    let points = [column(&|i| place(i % PLACES)), column(&|i| TIMES[i / PLACES])];
    let found = compile(&solution, &device, &Config::default())?.run(&mut state, points)?.output("u")?.to_f64();
    let expected = finite_differences();
    let distance = (found.iter().zip(&expected).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / found.len() as f64).sqrt();
    common::say(format!("the net is {distance:.5} away from finite differences (root mean square)"));
    let path = options.out.join("pinn.png");
    draw(&path, &found, &expected)?;
    common::say(format!("wrote {}", path.display()));
    options.show_profile(&step)
}

/// The net's solution. It is `-sin(pi x)` at first and zero at both ends, whatever the net says.
fn solution(t: &Trace, x: &Tensor, time: &Tensor) -> Tensor {
    let mut h = Tensor::cat(&[x, time], 1);
    for i in 0..3 {
        h = nn::linear(&t.path("layers").path(i), &h, 24).tanh();
    }
    time * (1.0 - x.square()) * nn::linear(&t.path("out"), &h, 1) - (PI * x).sin()
}

/// What is left of the equation.
fn residual(t: &Trace, x: &Tensor, time: &Tensor) -> Tensor {
    let u = solution(t, x, time);
    let first = u.grad(&[x, time]);
    let second = first[0].grad(&[x]);
    &first[1] + u * &first[0] - VISCOSITY * &second[0]
}

fn place(k: usize) -> f64 {
    2.0 * k as f64 / (PLACES - 1) as f64 - 1.0
}

/// The solution at all places and times, by small steps forward in time.
fn finite_differences() -> Vec<f64> {
    const FINER: usize = 4;
    let (dx, dt) = (2.0 / ((PLACES - 1) * FINER) as f64, 1.0 / 8000.0);
    let mut u: Vec<f64> = (0..=(PLACES - 1) * FINER).map(|k| -(PI * (k as f64 * dx - 1.0)).sin()).collect();
    let (mut out, mut now) = (vec![], 0.0);
    for time in TIMES {
        while now < time - dt / 2.0 {
            let before = u.clone();
            for k in 1..u.len() - 1 {
                let (left, here, right) = (before[k - 1], before[k], before[k + 1]);
                u[k] += dt * (VISCOSITY * (left - 2.0 * here + right) / (dx * dx) - (right * right - left * left) / (4.0 * dx));
            }
            now += dt;
        }
        out.extend(u.iter().step_by(FINER));
    }
    out
}

fn draw(path: &std::path::Path, found: &[f64], expected: &[f64]) -> Result<()> {
    chart::use_shipped_font()?;
    let root = BitMapBackend::new(path, (1000, 700)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut area = ChartBuilder::on(&root)
        .caption("Burgers' equation: the net (lines), finite differences (points)", ("sans-serif", 26))
        .margin(20)
        .x_label_area_size(40)
        .y_label_area_size(50)
        .build_cartesian_2d(-1.0..1.0, -1.1..1.1)?;
    area.configure_mesh().x_desc("x").y_desc("u").label_style(("sans-serif", 16)).light_line_style(WHITE).draw()?;
    for (k, (&time, color)) in TIMES.iter().zip(COLORS).enumerate() {
        let curve = |of: &[f64]| (0..PLACES).map(|i| (place(i), of[k * PLACES + i])).collect::<Vec<_>>();
        area.draw_series(curve(expected).into_iter().step_by(4).map(|point| Circle::new(point, 4, color.filled())))?;
        let line = area.draw_series(LineSeries::new(curve(found), color.stroke_width(2)))?.label(format!("t = {time}"));
        line.legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 20, y)], color.stroke_width(3)));
    }
    area.configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .label_font(("sans-serif", 18))
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK)
        .draw()?;
    root.present()?;
    Ok(())
}
