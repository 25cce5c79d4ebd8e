//! Losses of a run, kept across interruptions.

use crate::common::progress::Progress;
use anyhow::{Context, Result};
use std::path::Path;

/// (step, loss) of training and validation.
#[derive(Default)]
pub struct History {
    pub training: Vec<(u64, f32)>,
    pub validation: Vec<(u64, f32)>,
}

impl History {
    /// Keeps and shows the loss of a training step.
    pub fn record(&mut self, progress: &Progress, step: u64, loss: f32) {
        progress.step(step, loss);
        self.training.push((step, loss));
    }

    /// Writes `kind,step,loss` lines.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut text = String::from("kind,step,loss\n");
        for (kind, points) in [("training", &self.training), ("validation", &self.validation)] {
            for (step, loss) in points {
                text.push_str(&format!("{kind},{step},{loss}\n"));
            }
        }
        Ok(inductor::files::write(path, text)?)
    }

    /// Reads what was written up to and including `step`.
    pub fn load(path: &Path, step: u64) -> Result<History> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut history = History::default();
        for line in text.lines().skip(1) {
            let parts: Vec<&str> = line.split(',').collect();
            let [kind, at, loss] = parts[..] else { anyhow::bail!("{}: {line} is no record", path.display()) };
            let point = (at.parse()?, loss.parse()?);
            if point.0 <= step {
                if kind == "training" { history.training.push(point) } else { history.validation.push(point) }
            }
        }
        Ok(history)
    }
}
