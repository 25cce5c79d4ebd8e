//! May these nests be one kernel? The one idea of fusion that the partitioner and the scheduler share.
//!
//! * Comes in: a producer nest, a consumer nest, which of the producer's buffers must stay stored, limits.
//! * Goes out: the fused nest, or a [`WhyNot`] that says what stands against it.
//! * Invariants: fusing never changes a stored value; a value read only inside its kernel is not stored; hard limits of the
//!   device are constraints, not advice.
//! * Must not know: the order of candidates, graphs, WGSL.
//! * Add here: a rule is a check in `merge.rs` that returns a [`WhyNot`]; what it asks about nests is in `loop_ir::facts`.

mod constants;
mod memo;
mod merge;

pub use constants::{stored_number, substitute_numbers};
pub use memo::{Kernel, Memo, Structure};
pub use merge::fuse;

use crate::forms::HELD_COLUMNS;
use crate::loop_ir::BufferId;
use crate::types::{DeviceCaps, DeviceModel};
use std::fmt;

/// Hard limits and coarse profitability bounds of a target.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Storage buffers of one kernel, one to spare for the status word.
    pub buffers: usize,
    /// Statements of one body (shader front ends are superlinear in function length).
    pub statements: usize,
    /// Rows below which element-level work does not join a kernel with long columns.
    pub rows: i64,
    /// Invocations that fill the device.
    pub lanes: i64,
    /// Columns of which the invocations of one workgroup can hold sums over rows.
    pub held_columns: i64,
}

impl Limits {
    /// Of a target.
    pub fn of(caps: &DeviceCaps, model: &DeviceModel) -> Limits {
        Limits {
            buffers: caps.max_storage_buffers.saturating_sub(1).max(1) as usize,
            statements: 300,
            rows: (model.parallel_lanes / 512).max(1) as i64,
            lanes: model.parallel_lanes as i64,
            held_columns: (HELD_COLUMNS * caps.max_invocations.min(caps.max_workgroup_size)) as i64,
        }
    }
}

/// Why two nests are not one kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum WhyNot {
    /// Iteration domains do not fit each other.
    Domain(String),
    /// The consumer reads the buffer at another index than the producer writes.
    Index(BufferId),
    /// One reads memory along its columns, the other along its rows: together one of them would be scattered.
    MemoryOrder,
    /// The producer's value must be stored, and the consumer's domain does not visit each element once.
    NotOnce,
    /// The producer is costly, and the consumer would compute each of its elements so many times.
    Recomputes(i64),
    /// A template takes only this kind of neighbor.
    Template(&'static str),
    /// Scans and sorts take only pointwise producers.
    Ordered,
    /// Too many storage buffers.
    Buffers {
        /// Needed.
        need: usize,
        /// Allowed.
        limit: usize,
    },
    /// The body would be too long.
    Statements(usize),
    /// A buffer would be read at another index than it is overwritten.
    Overwrite(BufferId),
    /// Too few rows to fill the device.
    Rows(i64),
    /// State is written only after everything that can set the status word.
    Status,
    /// The backward's part would be computed in the forward, and hold more bytes until it is read than are held otherwise.
    Holds(i64),
    /// The consumer waits for something else, and what the producer reads would be held meanwhile: so many more elements.
    Waits(i64),
    /// They belong to different chunks of rows, or one waits for all of them.
    Turns,
    /// Another kernel between the two depends on one and is needed by the other.
    Cycle,
    /// Sums over chunks of rows stay as they are.
    Chunks(&'static str),
    /// So many kernels stand between the two that the search for a dependency through them was given up.
    SearchLimit,
    /// They share no data.
    Unrelated,
}

impl WhyNot {
    /// The same about other buffers.
    pub fn map_buffers(self, buffer: &dyn Fn(BufferId) -> BufferId) -> WhyNot {
        match self {
            WhyNot::Index(b) => WhyNot::Index(buffer(b)),
            WhyNot::Overwrite(b) => WhyNot::Overwrite(buffer(b)),
            other => other,
        }
    }
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WhyNot::Domain(s) => write!(f, "iteration domains differ: {s}"),
            WhyNot::Index(b) => write!(f, "read and written at different indices: b{}", b.0),
            WhyNot::MemoryOrder => write!(f, "one reads along its columns, the other along its rows"),
            WhyNot::NotOnce => write!(f, "the stored value would be computed more than once"),
            WhyNot::Recomputes(times) => write!(f, "a costly value would be computed {times} times over"),
            WhyNot::Template(s) => write!(f, "template: {s}"),
            WhyNot::Ordered => write!(f, "scan or sort takes pointwise producers only"),
            WhyNot::Buffers { need, limit } => write!(f, "needs {need} storage buffers, {limit} allowed"),
            WhyNot::Statements(n) => write!(f, "body of {n} statements is too long"),
            WhyNot::Overwrite(b) => write!(f, "would overwrite what it still reads: b{}", b.0),
            WhyNot::Rows(n) => write!(f, "{n} rows leave the device idle"),
            WhyNot::Status => write!(f, "state is written after the last check"),
            WhyNot::Holds(n) => write!(f, "{n} elements of the backward would be computed in the forward and wait"),
            WhyNot::Waits(n) => write!(f, "the consumer waits for something else, and {n} more elements would be held meanwhile"),
            WhyNot::Turns => write!(f, "chunks of rows run one after the other"),
            WhyNot::Cycle => write!(f, "a kernel between the two depends on both"),
            WhyNot::Chunks(s) => write!(f, "sums over rows: {s}"),
            WhyNot::SearchLimit => write!(f, "too many kernels between the two"),
            WhyNot::Unrelated => write!(f, "no shared data"),
        }
    }
}
