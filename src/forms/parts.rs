//! Into how many kernels' work a nest is divided, so that the device has enough of it at once.

use crate::loop_ir::{Instr, Nest};
use crate::types::DeviceModel;

/// Whether dividing work on `bytes` of memory into `parts` saves more time than `launches` more launches take. The work as
/// it is leaves room for `room` times as many invocations, and is that much slower than memory.
pub fn is_worth(model: &DeviceModel, bytes: i64, room: i64, parts: i64, launches: i64) -> bool {
    let undivided_ns = bytes.saturating_mul(room) / model.bandwidth_gbps.max(1) as i64;
    undivided_ns - undivided_ns / parts.max(1) > launches * model.launch_ns as i64
}

/// Whether neighbors in memory are neighboring rows.
pub fn is_column_reduction(nest: &Nest) -> bool {
    let (Some(row), Some(_)) = (nest.rows.len().checked_sub(1), nest.cols.len().checked_sub(1)) else { return false };
    let col = (nest.rows.len() + nest.cols.len() - 1) as u32;
    nest.body.iter().any(|s| match &s.instr {
        Instr::Load { index, .. } => {
            index.linear_coefficient(row as u32).is_some_and(|k| k.is(1)) && !index.linear_coefficient(col).is_some_and(|k| k.is(1))
        }
        _ => false,
    })
}
