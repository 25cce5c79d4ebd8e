//! Splits a joint graph into a forward and a backward graph, choosing what is saved between them.
//!
//! * Comes in: a joint graph of `autograd`, after its passes; whether two nodes may share a kernel; how to save.
//! * Goes out: [`Partition`]: the forward with extra outputs `saved.<k>`, the backward with inputs of the same names, and a
//!   reason for every value saved or recomputed.
//! * Invariants: forward then backward compute what the joint graph computes. Nothing that depends on a cotangent is in the
//!   forward. A view is never saved: its base is, and the view is rebuilt. Inputs are read again, never saved. Values of
//!   a region that must be recomputed are saved only where they leave it.
//! * Must not know: names of ops (it asks `ops` traits), kernels, schedules.
//! * Add here: a rule that forbids recomputing is one function in `classify.rs` and one [`Ban`].
//!
//! The method is the minimum cut of TorchInductor's partitioner: Chen et al. call the problem rematerialization ("Training
//! deep nets with sublinear memory cost", 2016); the network is described in `network.rs`. We depart from TorchInductor in
//! four ways. Ops are judged by their traits, not by lists of names. Computing a value again has a price, so that few values
//! are forbidden to: the operand of a weight's gradient is stored by a kernel that reads the same anyway. Random values are
//! functions of a key, so that redrawing them is legal and no mask is saved. Inputs never enter the network, since they live
//! through the step anyway.
//!
//! Under [`Pressure`] memory is dearer, and matrix products may be computed again, too. Bytes at the border say little about the
//! peak of a step (everything computed again at once takes more than everything saved), so `compile.rs` schedules the step at
//! each pressure and takes the first that fits a budget.

mod classify;
mod extract;
mod network;
#[cfg(test)]
mod tests;

use crate::config::Saving;
use crate::error::Error;
use crate::graph::{Graph, NodeId, Value};
use crate::ops::OpDef;
use crate::types::{Bindings, Decision, Dim, TensorType};
use classify::Classes;

/// Answers whether a producer and a consumer of it may be one kernel.
pub type Fusible<'a> = &'a dyn Fn(&Graph, NodeId, NodeId) -> bool;

/// A value that crosses from forward to backward.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedValue {
    /// Name of the output and of the input: `saved.<k>`.
    pub name: String,
    /// The op that computes it and the module it belongs to, for people.
    pub label: String,
    /// Its type.
    pub ty: TensorType,
    /// Bytes on the host; symbolic sizes stay symbolic.
    pub bytes: Dim,
    /// Why it is saved.
    pub reason: String,
}

/// A forward value that the backward computes again.
#[derive(Clone, Debug, PartialEq)]
pub struct RecomputedValue {
    /// The op that computes it and the module it belongs to, for people.
    pub label: String,
    /// Its type.
    pub ty: TensorType,
    /// Bytes that are not saved.
    pub bytes: Dim,
    /// Why it is recomputed.
    pub reason: String,
}

/// The two halves of a training step, and why they are cut where they are.
#[derive(Clone, Debug)]
pub struct Partition {
    /// Outputs of the program, then saved values.
    pub forward: Graph,
    /// Reads saved values, cotangents and forward inputs; gives gradients.
    pub backward: Graph,
    /// What crosses.
    pub saved: Vec<SavedValue>,
    /// What is computed twice; views and constants are not listed.
    pub recomputed: Vec<RecomputedValue>,
    /// The same, as decisions.
    pub decisions: Vec<Decision>,
    /// Cost of the cut in the network's unit; 0 when everything is saved.
    pub cost: u128,
    /// What computing again costs, in bytes that memory could move meanwhile.
    pub recomputing: u64,
}

/// Why a value is not recomputed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ban {
    /// A matrix product, sort, scan or scatter.
    Heavy,
    /// It checks indices: the update would wait for the second check.
    Checks,
    /// A reduction whose result is much smaller than its operand.
    SmallResult,
    /// It costs no more to save than a value that only it reads and that would have to be saved instead.
    Dominated,
    /// It ends a chain of a hundred fusible ops.
    LongChain,
    /// Its region says so, or it leaves a region that is recomputed.
    Region,
}

impl Ban {
    /// In words.
    pub fn reason(self) -> &'static str {
        match self {
            Ban::Heavy => "too expensive to recompute",
            Ban::Checks => "its indices are checked once, early",
            Ban::SmallResult => "a small result of a reduction",
            Ban::Dominated => "no larger than what it would be computed from",
            Ban::LongChain => "ends a long chain of fusible ops",
            Ban::Region => "a checkpoint region saves it",
        }
    }
}

/// How dear memory is. At each step a saved byte weighs half as much again against the time of computing it again; from the first
/// on, matrix products may be computed again, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pressure(u32);

impl Pressure {
    /// Only what costs next to no time is computed again.
    pub const NONE: Pressure = Pressure(0);

    /// The weight of what costs so much without it.
    fn weigh(self, cost: u128) -> u128 {
        (1..self.0).fold(cost, |cost, _| cost + cost / 2)
    }

    /// Every pressure, the lowest first.
    pub fn all() -> impl Iterator<Item = Pressure> {
        (0..=12).map(Pressure)
    }
}

/// Whether the ops' own traits allow one kernel. The default answer for [`Fusible`].
pub fn fusible_by_traits(graph: &Graph, producer: NodeId, consumer: NodeId) -> bool {
    graph.node(producer).op.fusible_as_producer() && graph.node(consumer).op.fusible_as_consumer()
}

/// Cuts a joint graph where the least has to be saved.
pub fn min_cut_rematerialization_partition(joint: &Graph, fusible: Fusible<'_>, saving: Saving) -> Result<Partition, Error> {
    partition_under(joint, fusible, saving, Pressure::NONE)
}

/// The same where memory is dearer.
pub fn partition_under(joint: &Graph, fusible: Fusible<'_>, saving: Saving, pressure: Pressure) -> Result<Partition, Error> {
    let _span = tracing::info_span!("partition", nodes = joint.nodes.len()).entered();
    let classes = Classes::of(joint, fusible, pressure);
    let (choice, cost) = match saving {
        Saving::Everything => (network::save_everything(joint, &classes), 0),
        Saving::MinCut => network::min_cut(joint, &classes).map_err(Error::compile)?,
    };
    let partition = extract::extract(joint, &classes, &choice, cost).map_err(|m| Error::compile(format!("partition: {m}")))?;
    for d in &partition.decisions {
        tracing::debug!(subject = d.subject, verdict = d.verdict, reason = d.reason, "partition");
    }
    Ok(partition)
}

/// What the cut decides.
#[derive(Clone, Debug, Default)]
struct Choice {
    /// Values saved, in order.
    saved: Vec<Value>,
}

/// Bytes of a value at its expected size: symbols take the middle of their range, at most 4,096 above its start.
fn expected_bytes(ty: &TensorType) -> u64 {
    let numel = ty.numel();
    let mut symbols = vec![];
    numel.collect_symbols(&mut symbols);
    let middle = |min: i64, max: i64| min.saturating_add((max.saturating_sub(min) / 2).clamp(0, 4096));
    let bindings: Bindings = symbols.iter().map(|s| (s.name.to_string(), middle(s.min, s.max))).collect();
    let count = numel.eval(&bindings).unwrap_or(i64::MAX).max(0) as u64;
    count.saturating_mul(ty.dtype.size() as u64)
}
