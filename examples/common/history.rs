//! Losses of a run, kept across interruptions.

use anyhow::{Context, Result, bail};
use std::path::Path;

/// (step, loss) of training and validation.
#[derive(Default)]
pub struct History {
    pub training: Vec<(u64, f32)>,
    pub validation: Vec<(u64, f32)>,
}

impl History {
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
            let Some((kind, point)) = record(line) else { bail!("{}: {line} is no record", path.display()) };
            if point.0 <= step {
                if kind == "training" { history.training.push(point) } else { history.validation.push(point) }
            }
        }
        Ok(history)
    }
}

fn record(line: &str) -> Option<(&str, (u64, f32))> {
    let parts: Vec<&str> = line.split(',').collect();
    let [kind, step, loss] = parts[..] else { return None };
    Some((kind, (step.parse().ok()?, loss.parse().ok()?)))
}
