//! Formats what `explain` and the measured suites return: text and pages for people, JSON for machines.
//!
//! * Comes in: [`Explain`], rows of measurements.
//! * Goes out: text, HTML and JSON; the keys of the JSON are those of the field names.
//! * Invariants: read-only; nothing here decides or measures.
//! * Must not know: how plans are made or run.
//! * Add here: a table is one function.

mod compile;
mod html;
mod printable;
#[cfg(feature = "gpu")]
mod profile;
mod summary;
mod table;

pub use compile::{CompileRow, compile_text};
pub use html::html;
pub use printable::{on_one_line, printable};
#[cfg(feature = "gpu")]
pub use profile::{chrome_trace, profile_text};
pub use summary::{ModuleSummary, Summary};
pub use table::Table;

use crate::compile::Frontier;
use crate::runtime::{Crossing, Explain, PerPhase};
use serde::Serialize;
use std::fmt;

/// One measurement of a suite.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Suite it belongs to: `train` or `matmul`.
    pub suite: String,
    /// What was measured.
    pub name: String,
    /// Where.
    pub device: String,
    /// Milliseconds of a step that is waited for.
    pub ms: f64,
    /// Milliseconds of a step when several are queued.
    pub pipelined_ms: f64,
    /// Seconds from the traced graph to the first loss: compilation, pipelines, initialization, one step.
    pub first_step_s: f64,
    /// Dispatches of a step.
    pub launches: u64,
    /// Microseconds that a step keeps its caller before it is waited for: checks and copies of inputs, and its submission. None on the
    /// interpreter, where the caller computes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_us: Option<f64>,
    /// Bytes of all device buffers.
    pub peak_bytes: u64,
    /// Milliseconds by timestamps of the device, for suites of one operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_ms: Option<f64>,
    /// f32 arithmetic reached, for suites that count it: by the device's time where there is one, else by that of queued steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tflops: Option<f64>,
    /// Relative error of a sample of the results against f64, for suites that compare.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<f64>,
}

/// Rows as a table.
pub fn rows_text(rows: &[Row]) -> String {
    let columns = ["suite", "name", "device", "ms", "pipelined ms", "device ms", "first step s", "launches", "peak MiB", "TFLOPS", "error"];
    let mut table = Table::new(&[&columns[..], &["host us", "a launch"]].concat());
    for r in rows {
        table.row(&[
            r.suite.clone(),
            r.name.clone(),
            r.device.clone(),
            format!("{:.3}", r.ms),
            format!("{:.3}", r.pipelined_ms),
            r.device_ms.map(|ms| format!("{ms:.3}")).unwrap_or_default(),
            format!("{:.2}", r.first_step_s),
            r.launches.to_string(),
            format!("{:.1}", r.peak_bytes as f64 / (1 << 20) as f64),
            r.tflops.map(|t| format!("{t:.2}")).unwrap_or_default(),
            r.error.map(|e| format!("{e:.1e}")).unwrap_or_default(),
            r.host_us.map(|us| format!("{us:.0}")).unwrap_or_default(),
            r.host_us.map(|us| format!("{:.2}", us / r.launches.max(1) as f64)).unwrap_or_default(),
        ]);
    }
    table.to_string()
}

/// Cuts by what they save and cost, each with its share of the memory of the first.
pub fn frontier_text(points: &[Frontier]) -> String {
    let mut table = Table::new(&["saved MiB", "peak MiB", "of the whole", "recomputing ms", ""]);
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / (1 << 20) as f64);
    let whole = points.first().map_or(1, |p| p.peak_bytes.max(1)) as f64;
    for p in points {
        let share = p.peak_bytes as f64 / whole;
        let bar = "#".repeat((share * 40.0).round() as usize);
        table.row(&[mib(p.saved_bytes), mib(p.peak_bytes), format!("{:.0}%", 100.0 * share), format!("{:.2}", p.recomputing_ms), bar]);
    }
    table.to_string()
}

/// One kernel, or a few that belong together, of the memory suite.
#[derive(Clone, Debug, Serialize)]
pub struct MemoryRow {
    /// The suite, `memory`.
    pub suite: String,
    /// What was measured.
    pub name: String,
    /// Where.
    pub device: String,
    /// Microseconds on the device from the first command's start to the last one's end; host clock where there are no timestamps.
    pub us: f64,
    /// Microseconds of a step by the host's clock, steps queued one behind the other. `None` where each step uploads inputs, which
    /// would be what is measured.
    pub host_us: Option<f64>,
    /// Compulsory bytes per time: each input read once, each output written once.
    pub gbps: f64,
    /// The same relative to what the device copies, counting bytes read and written.
    pub percent_copy: f64,
    /// Dispatches.
    pub kernels: u64,
}

/// Rows of the memory suite as a table.
pub fn memory_text(rows: &[MemoryRow]) -> String {
    let mut table = Table::new(&["suite", "name", "device", "us", "host us", "GB/s", "% of copy", "kernels"]);
    for r in rows {
        let numbers = [
            format!("{:.1}", r.us),
            r.host_us.map(|us| format!("{us:.1}")).unwrap_or_default(),
            format!("{:.0}", r.gbps),
            format!("{:.0}", r.percent_copy),
            r.kernels.to_string(),
        ];
        table.row(&[[r.suite.clone(), r.name.clone(), r.device.clone()].as_slice(), &numbers].concat());
    }
    table.to_string()
}

/// Anything here as JSON text.
pub fn json(value: &impl Serialize) -> String {
    printable::printable_json(serde_json::to_string_pretty(value).unwrap_or_else(|e| format!("{{\"error\": \"{e}\"}}")))
}

impl fmt::Display for Explain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "program {} for {}", on_one_line(&self.name), on_one_line(&self.device))?;
        let phases = |p: &PerPhase| format!("{} forward, {} backward, {} update", p.forward, p.backward, p.update);
        writeln!(f, "kernels:  {}", phases(&self.kernels))?;
        writeln!(f, "launches: {}", phases(&self.launches))?;
        writeln!(f, "memory:   {} predicted peak", bytes(self.memory.predicted_peak_bytes))?;
        writeln!(
            f,
            "compile:  {}",
            self.compile_ms.iter().map(|(s, ms)| format!("{s} {:.1} ms", ms.as_f64().unwrap_or(0.0))).collect::<Vec<_>>().join(", ")
        )?;
        if !self.untrained.is_empty() {
            writeln!(f, "not trained: {}", self.untrained.join(", "))?;
        }
        let partition = &self.partition;
        if !partition.saved.is_empty() || !partition.recomputed.is_empty() {
            writeln!(f, "\nsaved between forward and backward: {}", bytes(partition.saved_activation_bytes))?;
            write!(f, "{}", crossings(&partition.saved))?;
            writeln!(f, "\nrecomputed in the backward: {} values", partition.recomputed.len())?;
            write!(f, "{}", crossings(&partition.recomputed))?;
        }
        if !self.guards.is_empty() {
            writeln!(f, "\nassumed about sizes of inputs\n  {}", self.guards.join("\n  "))?;
        }
        writeln!(f, "\ncommands")?;
        let mut table = Table::new(&["#", "launch", "phase", "kernel", "variant", "ops"]);
        for (i, c) in self.commands.iter().enumerate() {
            let phase = format!("{:?}", c.phase).to_lowercase();
            table.row(&[i.to_string(), c.launch.to_string(), phase, c.kernel.to_string(), c.variant.clone(), c.label.clone()]);
        }
        write!(f, "{table}")?;
        let others: Vec<_> = self.decisions.iter().filter(|d| d.stage != "partition").collect();
        if !others.is_empty() {
            writeln!(f, "\ndecisions")?;
            let mut table = Table::new(&["stage", "subject", "verdict", "reason"]);
            for d in others {
                table.row(&[d.stage.clone(), d.subject.clone(), d.verdict.clone(), d.reason.clone()]);
            }
            write!(f, "{table}")?;
        }
        Ok(())
    }
}

fn crossings(list: &[Crossing]) -> String {
    let mut table = Table::new(&["name", "bytes", "reason"]);
    for c in list {
        table.row(&[c.name.clone(), c.bytes.to_string(), c.reason.clone()]);
    }
    table.to_string()
}

/// Bytes with a binary unit.
pub fn bytes(n: u64) -> String {
    match n {
        0..=9999 => format!("{n} B"),
        10_000..=10_485_759 => format!("{:.1} KiB", n as f64 / 1024.0),
        10_485_760..=10_737_418_239 => format!("{:.1} MiB", n as f64 / (1 << 20) as f64),
        _ => format!("{:.1} GiB", n as f64 / (1 << 30) as f64),
    }
}

/// What tuning measured: a row for each kernel, the model's choice first.
#[cfg(feature = "gpu")]
pub fn tuning_text(kernels: &[crate::runtime::TunedKernel]) -> String {
    let mut table = Table::new(&["chosen us", "best us", "best", "all", "operators"]);
    for kernel in kernels {
        let Some((_, chosen)) = kernel.forms.first() else { continue };
        let least = kernel.forms.iter().map(|f| f.1).fold(f64::INFINITY, f64::min);
        let all: Vec<String> = kernel.forms.iter().map(|(form, us)| format!("{form} {us:.1}")).collect();
        let best = kernel.better().map_or("as chosen".into(), |form| form.to_string());
        table.row(&[format!("{chosen:.1}"), format!("{least:.1}"), best, all.join(", "), kernel.label.clone()]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_documented_keys() {
        let row = Row {
            suite: "train".into(),
            name: "mlp".into(),
            device: "cpu".into(),
            ms: 1.0,
            pipelined_ms: 0.5,
            device_ms: None,
            first_step_s: 2.0,
            launches: 3,
            host_us: None,
            peak_bytes: 1 << 20,
            tflops: None,
            error: None,
        };
        let value: serde_json::Value = serde_json::from_str(&json(&[&row])).unwrap();
        let keys: Vec<&String> = value[0].as_object().unwrap().keys().collect();
        assert_eq!(keys, ["suite", "name", "device", "ms", "pipelined_ms", "first_step_s", "launches", "peak_bytes"]);
        assert!(rows_text(&[row]).contains("train  mlp   cpu"));
    }
}
