//! Nests with a sort: rows that a workgroup holds go through a network, others are sorted by counting.

use super::cost::count;
use super::rows::subgroup;
use super::{Cost, Form, Operand, Work};
use crate::config::Target;
use crate::loop_ir::facts::stepped;
use crate::loop_ir::{Instr, Nest, Val};
use crate::types::{DType, DeviceCaps, Dim};
use serde::{Deserialize, Serialize};

/// Elements of the head of a sorted row that one invocation holds, however long the row is.
pub const SORTED_HEAD: i64 = 16;

/// Elements of an invocation, where rows have that many.
const EACH: u32 = 8;
/// Invocations of a workgroup at least, where there are several rows.
const THREADS: u32 = 64;
/// Invocations of a row of which the head is kept, at least.
const HEAD_THREADS: u32 = 32;

/// A bitonic network over elements that the invocations of a row hold in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Network {
    /// Rows of a workgroup.
    pub rows: u32,
    /// Invocations of a row, a power of two.
    pub threads: u32,
    /// Elements of an invocation, a power of two.
    pub each: u32,
    /// Words of an element: those of its key and its column.
    pub words: u32,
    /// Size of the subgroups by whose shuffles invocations reach each other.
    pub subgroup: Option<u32>,
    /// Only as many elements of a row as an invocation holds are kept, of rows of any length.
    pub head: bool,
    /// No element lies behind the end of a row, or of the last step through it.
    pub full: bool,
}

/// The sort of a nest.
#[derive(Clone, Copy, Debug)]
pub struct Sort {
    /// The statement.
    pub at: Val,
    /// What is sorted.
    pub key: Val,
    /// Largest first.
    pub descending: bool,
}

/// The sorts of a nest.
pub fn sorts(nest: &Nest) -> Vec<Sort> {
    let found = nest.body.iter().enumerate().filter_map(|(i, s)| match s.instr {
        Instr::Sort { key, descending } => Some(Sort { at: Val(i as u32), key, descending }),
        _ => None,
    });
    found.collect()
}

impl Sort {
    /// The values that are the column each element came from.
    pub fn columns(&self, nest: &Nest) -> Vec<Val> {
        (0..nest.body.len() as u32).map(Val).filter(|v| nest.stmt(*v).instr == Instr::Proj(self.at, 1)).collect()
    }

    /// Checks of what is made of sorted values, and the others.
    pub fn checks(&self, nest: &Nest) -> (Vec<Val>, Vec<Val>) {
        let mut after = vec![false; nest.body.len()];
        for (i, stmt) in nest.body.iter().enumerate() {
            after[i] = i == self.at.0 as usize || stmt.instr.operands().iter().any(|v| after[v.0 as usize]);
        }
        nest.checks().partition(|v| after[v.0 as usize])
    }

    /// Whether anything but those columns is made of the sorted values.
    pub fn value_is_used(&self, nest: &Nest) -> bool {
        let read = |i: &Instr| !matches!(i, Instr::Proj(..)) && i.operands().contains(&self.at);
        nest.body.iter().any(|s| read(&s.instr)) || nest.writes.iter().any(|w| w.value == self.at || w.index.values().contains(&self.at.0))
    }
}

/// A network where a workgroup holds a row or its head, and counting, whose work is quadratic in the row.
pub fn candidates(nest: &Nest, operands: &[Operand], target: &Target) -> Vec<(Form, Cost)> {
    let axis = stepped(&nest.cols, nest.rows.len());
    let (rows, cols) = (count(&nest.row_count()), count(&nest.col_count()));
    let work = |comparisons: f64| {
        let once = Work::of(nest, operands, axis, 1, rows * cols);
        Work { operations: once.operations + rows * cols * comparisons, ..once }.on(&target.model)
    };
    let network = match &sorts(nest)[..] {
        [sort] => network(nest, nest.dtype(sort.key), target),
        _ => None,
    };
    // A network of N elements has log2(N)^2 / 2 steps.
    let steps = cols.max(2.0).log2().powi(2) / 2.0;
    network.map(|n| (Form::Network(n), work(steps.min(cols)))).into_iter().chain([(Form::Rank, work(cols))]).collect()
}

/// The network of a row that one workgroup holds, or of which it holds what is written; `None` where it does not.
fn network(nest: &Nest, dtype: DType, target: &Target) -> Option<Network> {
    let (low, high) = nest.col_count().range();
    if dtype == DType::F64 || low < 1 {
        return None;
    }
    if let Some(first) = first(nest)
        && first <= SORTED_HEAD
        && (low < high || high >= 8 * SORTED_HEAD)
    {
        return head(nest, dtype, first as u32, target);
    }
    if high > sorted_elements(&target.caps, dtype) as i64 {
        return None;
    }
    let length = (high as u32).next_power_of_two();
    let limit = invocations(&target.caps);
    let each = EACH.min(length).max(length / limit);
    let threads = length / each;
    let full = low == high && high == length as i64;
    Some(Network { each, full, ..Network::of((THREADS.min(limit) / threads).max(1), threads, dtype, &target.caps) })
}

/// The network that holds what is written of each row.
fn head(nest: &Nest, dtype: DType, first: u32, target: &Target) -> Option<Network> {
    let (columns, caps) = (nest.col_count(), &target.caps);
    let long = columns.as_int().unwrap_or(columns.range().1.min(1 << 20)) as u64;
    let rows = nest.row_count().as_int().unwrap_or(1 << 16).max(1) as u64;
    let each = first.max(4).next_power_of_two();
    let most = invocations(caps).min(1 << (caps.max_workgroup_bytes / (4 * words(dtype, caps) * each)).max(1).ilog2());
    let mut threads = HEAD_THREADS.min(most);
    // Few rows get more invocations each than many rows do.
    while 2 * threads <= most && rows * (threads as u64) < target.model.parallel_lanes as u64 && long >= 4 * (threads * each) as u64 {
        threads *= 2;
    }
    let full = columns.as_int().is_some_and(|n| n % (threads * each) as i64 == 0);
    let network = Network { each, full, head: true, ..Network::of((THREADS.min(most) / threads).max(1), threads, dtype, caps) };
    (threads >= each).then_some(network)
}

impl Network {
    fn of(rows: u32, threads: u32, dtype: DType, caps: &DeviceCaps) -> Network {
        let (words, subgroup) = (words(dtype, caps), subgroup(caps, rows, threads));
        Network { rows, threads, each: 1, words, subgroup, head: false, full: false }
    }
}

/// Words of a key and its column.
fn words(dtype: DType, caps: &DeviceCaps) -> u32 {
    if dtype == DType::I64 && caps.i64 { 3 } else { 2 }
}

/// Invocations of the largest workgroup, a power of two.
fn invocations(caps: &DeviceCaps) -> u32 {
    1 << caps.max_invocations.min(caps.max_workgroup_size).max(1).ilog2()
}

/// Elements of the longest row that one workgroup sorts, a power of two: each takes the words of its key and that of its column in
/// workgroup memory, and no invocation holds more than sixteen.
pub fn sorted_elements(caps: &DeviceCaps, dtype: DType) -> u32 {
    let most = (caps.max_workgroup_bytes / (4 * words(dtype, caps))).min(16 * invocations(caps)).max(1);
    1 << most.ilog2()
}

/// The number of columns of a row that are written, where all writes are of the same first ones.
fn first(nest: &Nest) -> Option<i64> {
    let mut all = nest.writes.iter().map(|w| w.first.as_ref().and_then(Dim::as_int));
    let first = all.next()??;
    (first > 0 && all.all(|n| n == Some(first))).then_some(first)
}
