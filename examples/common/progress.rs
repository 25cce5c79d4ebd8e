//! Progress of a training loop: a bar on a terminal, one line a step elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::Instant;

/// Shows steps as they finish.
pub struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
    first: u64,
    per_step: u64,
    unit: &'static str,
}

impl Progress {
    /// For steps `first..total` of `per_step` units each.
    pub fn new(first: u64, total: u64, per_step: u64, unit: &'static str) -> Progress {
        let bar = std::io::stdout().is_terminal().then(|| {
            let bar = ProgressBar::new(total).with_position(first);
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}  {eta} left").expect("the template is valid");
            bar.set_style(style);
            bar.reset_eta();
            bar
        });
        Progress { bar, started: Instant::now(), first, per_step, unit }
    }

    /// A step is done; steps count from 1.
    pub fn step(&self, step: u64, loss: f32) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(step);
                bar.set_message(format!("loss {loss:.4}  {:.0} {}/s", self.rate(step), self.unit));
            }
            None => super::say(format!("step {step} loss {loss:.6}")),
        }
    }

    /// A line besides the steps.
    pub fn note(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => super::say(line),
        }
    }

    /// Ends the bar; a summary line.
    pub fn finish(&self, step: u64) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
        super::say(format!("{} steps in {:.1} s, {:.0} {}/s", step - self.first, self.started.elapsed().as_secs_f64(), self.rate(step), self.unit));
    }

    fn rate(&self, step: u64) -> f64 {
        (step - self.first) as f64 * self.per_step as f64 / self.started.elapsed().as_secs_f64().max(1e-9)
    }
}
