//! Curves as PNG, drawn without any library of the system, in a font that is shipped along.

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;
use plotters::style::register_font;
use std::path::Path;

const FONT: &[u8] = include_bytes!("../assets/DejaVuSans.ttf");
const TRAINING: RGBColor = RGBColor(31, 119, 180);
const VALIDATION: RGBColor = RGBColor(214, 84, 39);
const REFERENCE: RGBColor = RGBColor(120, 120, 120);

/// Losses of a run.
pub struct Curve<'a> {
    /// Above the chart.
    pub title: &'a str,
    /// What the vertical axis shows.
    pub unit: &'a str,
    /// (step, loss).
    pub training: &'a [(u64, f64)],
    /// (step, loss), fewer.
    pub validation: &'a [(u64, f64)],
    /// A level to compare with, and its name.
    pub reference: Option<(f64, &'a str)>,
}

/// Makes `sans-serif` mean the shipped font.
pub fn use_shipped_font() -> Result<()> {
    register_font("sans-serif", FontStyle::Normal, FONT).map_err(|_| anyhow!("the shipped font does not load"))
}

/// Draws training loss (each step faint, a moving average bold), validation loss and the reference level.
pub fn draw(path: &Path, curve: &Curve<'_>) -> Result<()> {
    use_shipped_font()?;
    let root = BitMapBackend::new(path, (1280, 800)).into_drawing_area();
    root.fill(&WHITE)?;
    let last = curve.training.last().map_or(1, |p| p.0).max(1) as f64;
    let losses = || curve.training.iter().chain(curve.validation).map(|p| p.1).filter(|y| y.is_finite());
    let low = losses().chain(curve.reference.map(|r| r.0)).fold(f64::INFINITY, f64::min);
    let high = losses().fold(f64::NEG_INFINITY, f64::max);
    let (low, high) = if low.is_finite() && high > low { (low, high) } else { (0.0, 1.0) };
    let margin = 0.05 * (high - low);
    let mut chart = ChartBuilder::on(&root)
        .caption(curve.title, ("sans-serif", 30))
        .margin(24)
        .x_label_area_size(56)
        .y_label_area_size(76)
        .build_cartesian_2d(0.0..last, (low - margin)..(high + margin))?;
    chart
        .configure_mesh()
        .x_desc("step")
        .y_desc(curve.unit)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.2}"))
        .label_style(("sans-serif", 18))
        .axis_desc_style(("sans-serif", 20))
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(225, 225, 225))
        .draw()?;
    let points = |of: &[(u64, f64)]| of.iter().map(|&(x, y)| (x as f64, y)).collect::<Vec<_>>();
    chart.draw_series(LineSeries::new(points(curve.training), TRAINING.mix(0.3)))?;
    let key = |color: RGBColor| move |(x, y): (i32, i32)| PathElement::new(vec![(x, y), (x + 24, y)], color.stroke_width(3));
    chart.draw_series(LineSeries::new(smooth(curve.training), TRAINING.stroke_width(3)))?.label("training, moving average").legend(key(TRAINING));
    chart
        .draw_series(LineSeries::new(points(curve.validation), VALIDATION.stroke_width(3)).point_size(5))?
        .label("held-out text")
        .legend(key(VALIDATION));
    if let Some((level, name)) = curve.reference {
        chart.draw_series(LineSeries::new([(0.0, level), (last, level)], REFERENCE.stroke_width(2)))?.label(name).legend(key(REFERENCE));
    }
    chart.configure_series_labels().label_font(("sans-serif", 20)).background_style(WHITE.mix(0.9)).border_style(REFERENCE).draw()?;
    root.present().with_context(|| format!("cannot write {}", path.display()))
}

/// Exponential moving average over about a fiftieth of the run, without the bias of its start.
fn smooth(points: &[(u64, f64)]) -> Vec<(f64, f64)> {
    let keep = 1.0 - 1.0 / (points.len() as f64 / 50.0).max(1.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    let mut out = vec![];
    for &(step, loss) in points {
        sum = keep * sum + (1.0 - keep) * loss;
        weight = keep * weight + (1.0 - keep);
        out.push((step as f64, sum / weight));
    }
    out
}
