//! What a workgroup can do with a nest: forms of kernels as data, and what they cost.
//!
//! * Comes in: a nest in its final domain, how its buffers lie in memory, a [`Target`].
//! * Goes out: [`candidates`]: the [`Form`]s that can run the nest, each with its predicted [`Cost`], best first. `schedule`
//!   chooses, `codegen` spells, and whoever prices a fusion asks the same numbers.
//! * Invariants: there is always a form, the generic one at its true price; a form is legal whatever slots its buffers get, or says
//!   in [`Form::needs_distinct_slots`] that it is not; the same nest, buffers and target give the same bytes.
//! * A threshold is a row or a constant of its form's file, with its reason or measurement beside it.
//! * Must not know: WGSL, slots, the order of kernels, graphs.
//! * Add here: a form is a file with its parameters and candidates, a variant of [`Form`], an arm of [`candidates`], and its
//!   spelling in `codegen/forms/`.

mod cost;
mod lanes;
mod map;
mod online;
pub mod parts;
pub mod product;
mod rows;
mod sort;
mod transpose;

pub use cost::{Cost, Work};
pub use lanes::{Lane, fits_vectors, flat_lanes, owns_words, restrict_to_vectors};
pub use map::Map;
pub use online::{ExpSum, expand_online, keeping};
pub use rows::{
    COLUMN, HELD_COLUMNS, Pick, ROW, STEP, Team, chunks, depths, lane, lazy_source, picked, row_axes, scans, subgroup, write_depth,
};
pub use sort::{Network, SORTED_HEAD, Sort, sorted_elements, sorts};
pub use transpose::Transpose;

use crate::config::Target;
use crate::loop_ir::{Instr, Nest};
use crate::types::{DType, Dim, Storage, per_word};
use serde::{Deserialize, Serialize};

/// How a workgroup runs a nest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Form {
    /// An invocation for each element, or for a few neighbors.
    Map(Map),
    /// Square tiles through workgroup memory, where reads and writes run along different axes.
    Transpose(Transpose),
    /// A team of invocations for each row, with reductions or scans.
    Rows(Team),
    /// Rows sorted by a workgroup that holds them, or the part of them that is written.
    Network(Network),
    /// Rows sorted by counting, an invocation for each element.
    Rank,
}

/// A buffer of a nest as a form sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Operand {
    /// Element type.
    pub dtype: DType,
    /// Element format.
    pub storage: Storage,
    /// Number of elements.
    pub numel: Dim,
}

impl Operand {
    /// Elements in one word or array element.
    pub fn per_word(&self) -> u32 {
        if self.storage == Storage::Packed { per_word(self.dtype) } else { 1 }
    }

    /// Whether an element is one 32-bit word.
    pub fn is_word(&self) -> bool {
        match self.storage {
            Storage::Native => self.dtype.size() == 4,
            Storage::Word | Storage::Narrow => true,
            Storage::Packed => false,
        }
    }
}

/// Forms that can run a nest, with their predicted times, best first. Never empty.
pub fn candidates(nest: &Nest, operands: &[Operand], target: &Target) -> Vec<(Form, Cost)> {
    let has = |test: fn(&Instr) -> bool| nest.body.iter().any(|s| test(&s.instr));
    let found = if has(|i| matches!(i, Instr::Sort { .. })) {
        sort::candidates(nest, operands, target)
    } else if has(|i| matches!(i, Instr::Reduce(..) | Instr::Scan(..))) {
        rows::candidates(nest, operands, target)
    } else {
        let transposed = transpose::candidate(nest, operands, target);
        transposed.into_iter().chain(map::candidates(nest, operands, target)).collect()
    };
    ranked(found)
}

/// How many times as long as the shortest a predicted time may be and still tell nothing: a model of a few figures is no better.
const NOTICEABLE: f64 = 2.0;

/// By predicted time. Where predictions hardly differ, the order of the tables, which were measured, decides.
fn ranked(mut found: Vec<(Form, Cost)>) -> Vec<(Form, Cost)> {
    let mut out = Vec::with_capacity(found.len());
    while !found.is_empty() {
        let least = found.iter().map(|(_, cost)| cost.ns).fold(f64::INFINITY, f64::min);
        let first = found.iter().position(|(_, cost)| cost.ns <= least * NOTICEABLE).unwrap_or(0);
        out.push(found.remove(first));
    }
    out
}

impl Form {
    /// Whether no buffer that is written may share its slot with another that is read.
    pub fn needs_distinct_slots(&self, nest: &Nest) -> bool {
        match self {
            Form::Map(_) => false,
            Form::Rows(_) => (0..nest.body.len() as u32).any(|i| picked(nest, i).is_some()),
            Form::Transpose(_) | Form::Network(_) | Form::Rank => true,
        }
    }
}

/// Whether a buffer that is written is also read.
fn is_in_place(nest: &Nest) -> bool {
    let reads = nest.reads();
    nest.writes.iter().any(|w| reads.contains(&w.buffer))
}
