//! Nests without column work: an invocation for each element, or for each few neighbors.

use super::cost::count;
use super::lanes::{flat_lanes, has_vectors};
use super::{Cost, Form, Operand, Work};
use crate::config::Target;
use crate::loop_ir::Nest;
use crate::loop_ir::facts::stepped;
use crate::types::Dim;
use serde::{Deserialize, Serialize};

/// An invocation for each few neighbors.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Map {
    /// Consecutive elements of an invocation: those of a packed word or of an aligned vector, else one.
    pub lanes: u32,
    /// Invocations of a workgroup.
    pub threads: u32,
}

/// Invocations of a workgroup: enough that starting workgroups does not count, few enough for every device.
const THREADS: u32 = 256;
/// Statements of the longest body that is worth spelling four times: longer ones are bound by arithmetic.
const STATEMENTS: usize = 100;

/// Vectors where something is read or written by them, and single elements; whole words where elements are packed.
pub fn candidates(nest: &Nest, operands: &[Operand], target: &Target) -> Vec<(Form, Cost)> {
    let packed = nest.writes.iter().map(|w| operands[w.buffer.0 as usize].per_word()).max().unwrap_or(1);
    let numel = nest.row_count() * nest.col_count();
    let widths = match packed {
        1 if nest.body.len() <= STATEMENTS && numel.range().0 > 0 && numel.try_div(&Dim::int(4)).is_some() => vec![4, 1],
        width => vec![width],
    };
    let threads = THREADS.min(target.caps.max_invocations);
    let legal = |lanes: &u32| packed > 1 || *lanes == 1 || has_vectors(nest, operands, &flat_lanes(nest, *lanes), 1);
    let form = |lanes| (Form::Map(Map { lanes, threads }), price(nest, operands, &numel, target));
    widths.into_iter().filter(legal).map(form).collect()
}

fn price(nest: &Nest, operands: &[Operand], numel: &Dim, target: &Target) -> Cost {
    let axis = stepped(&nest.cols, nest.rows.len()).or_else(|| stepped(&nest.rows, 0));
    Work::of(nest, operands, axis, 1, count(numel)).on(&target.model)
}
