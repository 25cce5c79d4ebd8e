//! One page about a run: curves as SVG, self-contained, readable on a phone.

use super::history::History;
use std::fmt::Write;

const STYLE: &str = "
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 72rem; padding: 0 1rem; color: #1d2733; background: #fff }
h1 { font-size: 1.4rem; overflow-wrap: anywhere } h2 { font-size: 1.05rem; margin: 0 0 .3rem; overflow-wrap: anywhere }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin-bottom: 1.4rem }
.card { border: 1px solid #d5dbe3; border-radius: 6px; padding: .5rem .9rem }
.card b { display: block; font-size: 1.15rem } .card span { color: #5a6675; font-size: .85rem }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.4rem }
svg { width: 100%; height: auto; background: #f8fafc; border: 1px solid #d5dbe3 }
svg text { font: 15px system-ui, sans-serif; fill: #5a6675 } .grid { stroke: #dde3ea } polyline { fill: none; stroke-linejoin: round }
.raw { stroke: #4477aa; stroke-opacity: .3 } .smooth { stroke: #4477aa; stroke-width: 2.5 } .seen { stroke: #cc6677; stroke-width: 2.5 }
circle { fill: #cc6677 } .table { overflow-x: auto; margin-top: 1.6rem }
table { border-collapse: collapse } th { color: #5a6675; font-weight: 600 }
th, td { padding: .15rem 1rem .15rem 0; text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
";

/// Size of a chart, in the units of its drawing, and the room for its labels.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 78.0;
const BOTTOM: f64 = 34.0;
const TOP: f64 = 14.0;
/// Points of a drawn line; longer ones are thinned.
const POINTS: usize = 800;
/// Evaluations shown in the table, the last ones.
const ROWS: usize = 50;

/// A run as an HTML page.
pub fn report(title: &str, history: &History) -> String {
    let (title, mut page) = (escape(title), String::new());
    let _ = write!(page, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">");
    let _ = write!(page, "<title>{title}</title><style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n{}<div class=\"charts\">", cards(history));
    let losses = history.losses();
    page += &chart("training loss", &[("raw", &losses), ("smooth", &smooth(&losses))]);
    for name in history.metrics() {
        page += &chart(&format!("evaluation: {name}"), &[("seen", &history.metric(name))]);
    }
    page += &chart("learning rate", &[("smooth", &history.steps.iter().map(|s| (s.step, s.lr)).collect::<Vec<_>>())]);
    let norms: Vec<(u64, f64)> =
        history.steps.iter().filter(|s| !s.gradient_norms.is_empty()).map(|s| (s.step, total(s.gradient_norms.values()))).collect();
    page += &chart("norm of the gradient", &[("smooth", &norms)]);
    page + "</div>\n" + &evaluations(history) + "</body></html>\n"
}

fn total<'a>(norms: impl Iterator<Item = &'a f64>) -> f64 {
    norms.map(|x| x * x).sum::<f64>().sqrt()
}

fn cards(history: &History) -> String {
    let mut out = String::from("<div class=\"cards\">");
    let mut card = |value: String, what: &str| {
        let _ = write!(out, "<div class=\"card\"><b>{value}</b><span>{}</span></div>", escape(what));
    };
    if let Some(last) = history.steps.last() {
        card(last.step.to_string(), "steps");
        card(number(smooth(&history.losses()).last().map_or(last.loss, |p| p.1)), "training loss, smoothed");
        card(format!("{:.0} s", last.seconds), "since the run began or went on");
    }
    for (name, x) in history.evaluations.last().iter().flat_map(|e| &e.metrics) {
        card(number(*x), name);
    }
    out + "</div>"
}

/// A chart of lines over steps; nothing where there are fewer than two points.
fn chart(title: &str, lines: &[(&str, &[(u64, f64)])]) -> String {
    let finite = || lines.iter().flat_map(|(_, points)| points.iter()).filter(|p| p.1.is_finite());
    let bounds = |of: fn(&(u64, f64)) -> f64| finite().map(of).fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)));
    let ((first, last), (low, high)) = (bounds(|p| p.0 as f64), bounds(|p| p.1));
    if first >= last || !low.is_finite() {
        return String::new();
    }
    let (low, high) = if high > low { (low, high) } else { (low - 0.5, high + 0.5) };
    let x = |step: f64| LEFT + (step - first) / (last - first) * (WIDTH - LEFT - 16.0);
    let y = |value: f64| HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - BOTTOM - TOP);
    let mut out = format!("<figure style=\"margin:0\"><h2>{}</h2><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">", escape(title));
    for k in 0..=4 {
        let value = low + (high - low) * k as f64 / 4.0;
        let (at, label) = (y(value), number(value));
        let _ = write!(out, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>", WIDTH - 16.0);
        let _ = write!(out, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>", LEFT - 8.0, at + 5.0);
    }
    for (step, anchor) in [(first, "start"), ((first + last) / 2.0, "middle"), (last, "end")] {
        let _ = write!(out, "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{step:.0}</text>", x(step), HEIGHT - 10.0);
    }
    for (class, points) in lines {
        let thin = points.len().div_ceil(POINTS).max(1);
        let shown = points.iter().step_by(thin).chain(points.last()).filter(|p| p.1.is_finite());
        let text: Vec<String> = shown.map(|p| format!("{:.1},{:.1}", x(p.0 as f64), y(p.1))).collect();
        let _ = write!(out, "<polyline class=\"{class}\" points=\"{}\"/>", text.join(" "));
    }
    out + "</svg></figure>"
}

fn evaluations(history: &History) -> String {
    let names = history.metrics();
    if names.is_empty() {
        return String::new();
    }
    let mut out = String::from("<div class=\"table\"><table><tr><th>step</th>");
    names.iter().for_each(|name| out += &format!("<th>{}</th>", escape(name)));
    out += "</tr>";
    for found in history.evaluations.iter().rev().take(ROWS).rev() {
        let _ = write!(out, "<tr><td>{}</td>", found.step);
        names.iter().for_each(|name| out += &format!("<td>{}</td>", found.metrics.get(*name).map_or(String::new(), |x| number(*x))));
        out += "</tr>";
    }
    out + "</table></div>\n"
}

/// Exponential moving average over about a fiftieth of the run, without the bias of its start. What is no number is left out.
pub(super) fn smooth(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let keep = 1.0 - 1.0 / (points.len() as f64 / 50.0).max(1.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    let mut out = vec![];
    for &(step, x) in points.iter().filter(|p| p.1.is_finite()) {
        (sum, weight) = (keep * sum + (1.0 - keep) * x, keep * weight + (1.0 - keep));
        out.push((step, sum / weight));
    }
    out
}

/// Four digits, as short as they can be.
fn number(x: f64) -> String {
    match x.abs() {
        size if !x.is_finite() || (1e-4..1e5).contains(&size) || size == 0.0 => {
            let first = if size == 0.0 || !x.is_finite() { 0 } else { size.log10().floor() as i32 };
            let digits = (if first < 0 { 2 } else { 3 } - first).max(0) as usize;
            format!("{x:.digits$}")
        }
        _ => format!("{x:.2e}"),
    }
}

fn escape(text: &str) -> String {
    crate::report::printable(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::history::{Evaluation, StepRecord};
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_page_has_a_chart_for_each_series() {
        let norms = BTreeMap::from([("w".to_string(), 3.0), ("b".to_string(), 4.0)]);
        let step = |step: u64| StepRecord { step, loss: 1.0 / step as f64, lr: 0.1, seconds: 1.0, gradient_norms: norms.clone() };
        let evaluation = |step: u64| Evaluation { step, metrics: BTreeMap::from([("<accuracy>".to_string(), step as f64 / 9.0)]) };
        let history = History { steps: (1..=2000).map(step).collect(), evaluations: vec![evaluation(3), evaluation(6)] };
        let page = report("a & b", &history);
        assert_eq!(page.matches("<svg").count(), 4);
        assert!(page.contains("a &amp; b") && page.contains("evaluation: &lt;accuracy&gt;") && !page.contains("<accuracy>"));
        assert!(page.contains(">5.000</text>"), "the norm over both");
        assert!(page.len() < 100_000, "long lines are thinned: {}", page.len());
        assert_eq!([0.0, 1.0, 12.345678, 123456.0, 0.00012].map(number), ["0.000", "1.000", "12.35", "1.23e5", "0.000120"]);
        assert!(!report("nothing", &History::default()).contains("<svg"));
    }
}
