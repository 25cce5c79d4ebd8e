//! Curves of a run as PNG, drawn without any library of the system, in a font that is shipped along.

use super::history::History;
use super::html::smooth;
use crate::error::{Error, Result};
use plotters::prelude::*;
use plotters::style::register_font;
use std::path::Path;

const FONT: &[u8] = include_bytes!("../../examples/assets/DejaVuSans.ttf");
const TRAINING: RGBColor = RGBColor(31, 119, 180);
const EVALUATION: RGBColor = RGBColor(214, 84, 39);
/// Metrics that lie beside the training loss.
const LOSSES: [&str; 2] = ["loss", "validation_loss"];

/// Draws training loss (each step faint, a moving average bold) with the loss of evaluations.
pub fn draw(path: &Path, title: &str, history: &History) -> Result<()> {
    let mut pixels = vec![0u8; 1280 * 800 * 3];
    paint(&mut pixels, title, history).map_err(|e| Error::file(path, e))?;
    let mut png = vec![];
    let mut encoder = png::Encoder::new(&mut png, 1280, 800);
    encoder.set_color(png::ColorType::Rgb);
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&pixels));
    written.map_err(|e| Error::file(path, e))?;
    crate::files::write(path, png)
}

type Painted = std::result::Result<(), Box<dyn std::error::Error>>;

fn paint(pixels: &mut [u8], title: &str, history: &History) -> Painted {
    register_font("sans-serif", FontStyle::Normal, FONT).map_err(|_| "the shipped font does not load")?;
    let root = BitMapBackend::with_buffer(pixels, (1280, 800)).into_drawing_area();
    root.fill(&WHITE)?;
    let training = history.losses();
    let seen: Vec<(u64, f64)> = LOSSES.iter().map(|name| history.metric(name)).find(|points| !points.is_empty()).unwrap_or_default();
    let finite = || training.iter().chain(&seen).filter(|p| p.1.is_finite());
    let (low, high) = finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), p| (low.min(p.1), high.max(p.1)));
    let (low, high) = if high > low { (low, high) } else { (0.0, 1.0) };
    let (last, margin) = (finite().map(|p| p.0).max().unwrap_or(1).max(1) as f64, 0.05 * (high - low));
    let mut builder = ChartBuilder::on(&root);
    builder.caption(title, ("sans-serif", 30)).margin(24).x_label_area_size(56).y_label_area_size(90);
    let mut chart = builder.build_cartesian_2d(0.0..last, (low - margin)..(high + margin))?;
    let mut mesh = chart.configure_mesh();
    mesh.x_desc("step").y_desc("loss").x_label_formatter(&|x| format!("{x:.0}")).label_style(("sans-serif", 18));
    mesh.axis_desc_style(("sans-serif", 20)).light_line_style(WHITE).bold_line_style(RGBColor(225, 225, 225)).draw()?;
    let points = |of: &[(u64, f64)]| of.iter().filter(|p| p.1.is_finite()).map(|&(x, y)| (x as f64, y)).collect::<Vec<_>>();
    let key = |color: RGBColor| move |(x, y): (i32, i32)| PathElement::new(vec![(x, y), (x + 24, y)], color.stroke_width(3));
    chart.draw_series(LineSeries::new(points(&training), TRAINING.mix(0.3)))?;
    let average = LineSeries::new(points(&smooth(&training)), TRAINING.stroke_width(3));
    chart.draw_series(average)?.label("training, moving average").legend(key(TRAINING));
    if !seen.is_empty() {
        let line = LineSeries::new(points(&seen), EVALUATION.stroke_width(3)).point_size(5);
        chart.draw_series(line)?.label("evaluation").legend(key(EVALUATION));
    }
    chart.configure_series_labels().label_font(("sans-serif", 20)).background_style(WHITE.mix(0.9)).border_style(BLACK.mix(0.4)).draw()?;
    root.present()?;
    Ok(())
}
