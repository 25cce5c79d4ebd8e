//! What a run has gone through, in memory and as lines of JSON.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// One step of training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its number, from 1.
    pub step: u64,
    /// Its loss.
    #[serde(with = "any_float")]
    pub loss: f64,
    /// Its learning rate.
    #[serde(with = "any_float")]
    pub lr: f64,
    /// Seconds since the run began, or went on.
    pub seconds: f64,
    /// Norm of each parameter's gradient, where that was asked for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", with = "any_floats")]
    pub gradient_norms: BTreeMap<String, f64>,
}

/// A look at the model after a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// After which step.
    pub step: u64,
    /// Numbers by name, such as `loss` and `accuracy`.
    #[serde(with = "any_floats")]
    pub metrics: BTreeMap<String, f64>,
}

/// All steps and evaluations of a run, those before an interruption included.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Steps, in order.
    pub steps: Vec<StepRecord>,
    /// Evaluations, in order.
    pub evaluations: Vec<Evaluation>,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Evaluation(Evaluation),
    Step(StepRecord),
}

impl History {
    /// Step and loss of every step.
    pub fn losses(&self) -> Vec<(u64, f64)> {
        self.steps.iter().map(|s| (s.step, s.loss)).collect()
    }

    /// Step and value of a metric at every evaluation that has it.
    pub fn metric(&self, name: &str) -> Vec<(u64, f64)> {
        self.evaluations.iter().filter_map(|e| Some((e.step, *e.metrics.get(name)?))).collect()
    }

    /// Names of all metrics, sorted.
    pub fn metrics(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.evaluations.iter().flat_map(|e| e.metrics.keys().map(String::as_str)).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Reads lines of JSON up to and including a step. A last line that was cut short is left out.
    pub fn read(path: impl AsRef<Path>, until: u64) -> Result<History> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, e))?;
        let mut history = History::default();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        for (at, line) in lines.iter().enumerate() {
            match serde_json::from_str(line) {
                Ok(Line::Step(record)) if record.step <= until => history.steps.push(record),
                Ok(Line::Evaluation(found)) if found.step <= until => history.evaluations.push(found),
                Ok(_) => {}
                Err(_) if at + 1 == lines.len() && !line.ends_with('\n') => {}
                Err(error) => return Err(Error::file(path, format!("line {}: {error}", at + 1))),
            }
        }
        Ok(history)
    }

    /// The lines that [`History::read`] reads: by step, evaluations after theirs.
    pub fn to_lines(&self) -> String {
        let mut evaluations = self.evaluations.iter().peekable();
        let mut text = String::new();
        for record in &self.steps {
            while let Some(earlier) = evaluations.next_if(|e| e.step < record.step) {
                text += &line_of(earlier);
            }
            text += &line_of(record);
        }
        evaluations.for_each(|e| text += &line_of(e));
        text
    }
}

/// A record as a line.
pub(super) fn line_of(record: &impl Serialize) -> String {
    serde_json::json!(record).to_string() + "\n"
}

/// A number as JSON, which has no NaN and no infinities: they are words there.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Float {
    Number(f64),
    Word(String),
}

impl Float {
    fn new(x: f64) -> Float {
        if x.is_finite() { Float::Number(x) } else { Float::Word(x.to_string()) }
    }

    fn value<E: serde::de::Error>(self) -> Result<f64, E> {
        match self {
            Float::Number(x) => Ok(x),
            Float::Word(word) => word.parse().map_err(E::custom),
        }
    }
}

mod any_float {
    use super::Float;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(x: &f64, s: S) -> Result<S::Ok, S::Error> {
        Float::new(*x).serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
        Float::deserialize(d)?.value()
    }
}

mod any_floats {
    use super::Float;
    use serde::{Deserialize, Deserializer, Serializer};
    use std::collections::BTreeMap;

    pub fn serialize<S: Serializer>(numbers: &BTreeMap<String, f64>, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(numbers.iter().map(|(name, x)| (name, Float::new(*x))))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<String, f64>, D::Error> {
        BTreeMap::<String, Float>::deserialize(d)?.into_iter().map(|(name, x)| Ok((name, x.value()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back() {
        let step = |step: u64, loss: f64| StepRecord { step, loss, lr: 0.1, seconds: step as f64, gradient_norms: BTreeMap::new() };
        let evaluation = Evaluation { step: 2, metrics: BTreeMap::from([("accuracy".into(), 0.5), ("loss".into(), f64::NEG_INFINITY)]) };
        let history = History { steps: vec![step(1, 0.25), step(2, f64::INFINITY), step(3, 1.0 / 3.0)], evaluations: vec![evaluation] };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, history.to_lines() + "{\"step\": 4, \"lo").unwrap();
        assert_eq!(History::read(&path, 9).unwrap(), history);
        let early = History::read(&path, 1).unwrap();
        assert_eq!((early.steps.len(), early.evaluations.len()), (1, 0));
        std::fs::write(&path, "{\"step\": 4}\n{\"step\": 5, \"loss\": 1, \"lr\": 1, \"seconds\": 1}\n").unwrap();
        assert!(History::read(&path, 9).unwrap_err().to_string().contains("line 1"));
    }
}
