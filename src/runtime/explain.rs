//! What the compiler decided, as data.

use crate::codegen::Plan;
use crate::compile::Report;
use crate::loop_ir::Phase;
use crate::lower::Repeat;
use crate::schedule::{Dispatch, Program, SlotKind, buffer_bytes};
use crate::types::{Bindings, Decision, Dim};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::Range;

/// A count for each phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PerPhase {
    /// Forward.
    pub forward: u64,
    /// Backward.
    pub backward: u64,
    /// Optimizer.
    pub update: u64,
}

impl PerPhase {
    /// Over all phases.
    pub fn total(&self) -> u64 {
        self.forward + self.backward + self.update
    }

    fn of(mut count: impl FnMut(Phase) -> u64) -> PerPhase {
        PerPhase { forward: count(Phase::Forward), backward: count(Phase::Backward), update: count(Phase::Update) }
    }
}

/// A value that crosses from forward to backward, or is computed again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Crossing {
    /// Name.
    pub name: String,
    /// Bytes, symbols at their smallest value.
    pub bytes: u64,
    /// Why.
    pub reason: String,
}

/// What was saved and what is recomputed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PartitionReport {
    /// Bytes of everything saved.
    pub saved_activation_bytes: u64,
    /// Saved values.
    pub saved: Vec<Crossing>,
    /// Recomputed values.
    pub recomputed: Vec<Crossing>,
}

/// Memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryReport {
    /// Bytes of all slots, symbols at their smallest value.
    pub predicted_peak_bytes: u64,
    /// Buffers that some command uses, in order of their first command.
    pub buffers: Vec<BufferReport>,
}

/// A buffer and the commands it lives for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BufferReport {
    /// Name.
    pub name: String,
    /// Slot that holds it.
    pub slot: u32,
    /// What the slot is for.
    pub kind: &'static str,
    /// Its own bytes, symbols at their smallest value.
    pub bytes: u64,
    /// Bytes of the slot; several buffers share a slot one after the other.
    pub slot_bytes: u64,
    /// First command that uses it.
    pub first: usize,
    /// Last command that uses it.
    pub last: usize,
}

/// A dispatch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CommandReport {
    /// Graph it belongs to.
    pub phase: Phase,
    /// Ops and lines.
    pub label: String,
    /// Distinct kernel it runs.
    pub kernel: u32,
    /// Number of the launch that runs it.
    pub launch: usize,
    /// WGSL variant, empty for the interpreter.
    pub variant: String,
}

/// What the compiler decided.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explain {
    /// Name of the program.
    pub name: String,
    /// Device it was compiled for.
    pub device: String,
    /// What crosses from forward to backward.
    pub partition: PartitionReport,
    /// Distinct kernels.
    pub kernels: PerPhase,
    /// Launches: commands, some of which run together.
    pub launches: PerPhase,
    /// Memory.
    pub memory: MemoryReport,
    /// Milliseconds by stage.
    pub compile_ms: serde_json::Map<String, serde_json::Value>,
    /// Dispatches in order.
    pub commands: Vec<CommandReport>,
    /// Decisions with reasons.
    pub decisions: Vec<Decision>,
    /// Parameters that no gradient of the loss reaches.
    pub untrained: Vec<String>,
    /// What the program assumes about the sizes of its inputs.
    pub guards: Vec<String>,
}

impl Explain {
    /// Reads a plan and what its compilation reported.
    pub fn new(plan: &Plan, report: &Report) -> Explain {
        let program = &plan.program;
        let smallest: Bindings = program.symbols.iter().map(|s| (s.name.to_string(), s.min)).collect();
        let is_kernel = |c: &&Dispatch| program.kernels[c.kernel as usize].control().is_none();
        let in_phase = |phase: Phase| program.commands.iter().filter(move |c| c.phase == phase).filter(is_kernel);
        let mut times = vec![0; program.commands.len()];
        count_runs(program, program.main(), 1, &smallest, &mut times);
        let launched = |commands: &[u32]| times[commands[0] as usize];
        let phase_of = |commands: &[u32]| program.commands[commands[0] as usize].phase;
        let kernels = |phase: Phase| {
            let mut used: Vec<u32> = in_phase(phase).map(|c| c.kernel).collect();
            used.sort_unstable();
            used.dedup();
            used.len() as u64
        };
        let launch_of: BTreeMap<u32, usize> = plan.launches.iter().enumerate().flat_map(|(k, l)| l.commands.iter().map(move |&c| (c, k))).collect();
        let launch = |i: usize| launch_of.get(&(i as u32)).copied();
        let variant = |i: usize| launch(i).and_then(|k| plan.code.get(plan.launches[k].code? as usize)).and_then(|c| c.variants.first());
        Explain {
            name: program.name.clone(),
            device: plan.target.caps.name.clone(),
            partition: partition(report, &smallest),
            kernels: PerPhase::of(kernels),
            launches: PerPhase::of(|phase| match plan.launches.is_empty() {
                true => (0..program.commands.len() as u32).filter(|&c| phase_of(&[c]) == phase).map(|c| launched(&[c])).sum(),
                false => plan.launches.iter().filter(|l| phase_of(&l.commands) == phase).map(|l| launched(&l.commands)).sum(),
            }),
            memory: memory(program, &smallest),
            compile_ms: compile_ms(report),
            commands: (program.commands.iter().enumerate())
                .map(|(i, c)| CommandReport {
                    phase: c.phase,
                    label: c.label.clone(),
                    kernel: c.kernel,
                    launch: launch(i).unwrap_or(i),
                    variant: variant(i).map(|v| v.name.clone()).unwrap_or_default(),
                })
                .collect(),
            decisions: program.decisions.clone(),
            untrained: report.untrained.clone(),
            guards: program.guards.iter().map(|g| g.to_string()).collect(),
        }
    }
}

/// How often each kernel of some commands runs in a step, at least: a loop that ends when it likes counts once. What stands for control
/// flow runs nothing itself.
fn count_runs(program: &Program, commands: Range<usize>, times: u64, smallest: &Bindings, into: &mut [u64]) {
    for command in commands {
        let Some(control) = program.control(command) else {
            into[command] = times;
            continue;
        };
        let trips = if let Repeat::Times(n) = &control.repeat { n.eval(smallest).unwrap_or(0).max(0) as u64 } else { 1 };
        for (k, block) in control.blocks.iter().enumerate() {
            count_runs(program, block.clone(), if k == 0 { times } else { times.saturating_mul(trips) }, smallest, into);
        }
    }
}

fn memory(program: &Program, smallest: &Bindings) -> MemoryReport {
    let size = |bytes: &Dim| bytes.eval(smallest).unwrap_or(0).max(0) as u64;
    let mut span: BTreeMap<u32, (usize, usize)> = BTreeMap::new();
    for (i, command) in program.commands.iter().enumerate() {
        command.buffers.iter().for_each(|b| span.entry(b.0).or_insert((i, i)).1 = i);
    }
    let report = |(&buffer, &(first, last)): (&u32, &(usize, usize))| {
        let placed = &program.buffers[buffer as usize];
        let slot = &program.slots[placed.slot.0 as usize];
        let kind = match slot.kind {
            SlotKind::Input => "input",
            SlotKind::State => "state",
            SlotKind::Constant => "constant",
            SlotKind::Temporary => "temporary",
            SlotKind::Output => "output",
        };
        let (bytes, slot_bytes) = if slot.bytes.is(0) { (0, 0) } else { (size(&buffer_bytes(&placed.ty, placed.storage)), size(&slot.bytes)) };
        BufferReport { name: placed.name.clone(), slot: placed.slot.0, kind, bytes, slot_bytes, first, last }
    };
    let mut buffers: Vec<BufferReport> = span.iter().map(report).collect();
    buffers.sort_by_key(|b| (b.first, b.last));
    MemoryReport { predicted_peak_bytes: program.peak_bytes().eval(smallest).unwrap_or(0).max(0) as u64, buffers }
}

fn partition(report: &Report, smallest: &Bindings) -> PartitionReport {
    let crossings = |list: &[(String, Dim, String)]| -> Vec<Crossing> {
        let bytes = |d: &Dim| d.eval(smallest).unwrap_or(0).max(0) as u64;
        list.iter().map(|(name, size, reason)| Crossing { name: name.clone(), bytes: bytes(size), reason: reason.clone() }).collect()
    };
    let saved = crossings(&report.saved);
    PartitionReport { saved_activation_bytes: saved.iter().map(|c| c.bytes).sum(), saved, recomputed: crossings(&report.recomputed) }
}

/// Milliseconds by stage; stages that ran more than once are added up.
fn compile_ms(report: &Report) -> serde_json::Map<String, serde_json::Value> {
    let mut out = serde_json::Map::new();
    for (stage, ms) in &report.stage_ms {
        let before = out.get(stage).and_then(|v| v.as_f64()).unwrap_or(0.0);
        out.insert(stage.clone(), serde_json::json!(before + ms));
    }
    out
}
