//! Into how many kernels' work a nest is divided, so that the device has enough of it at once.

use crate::types::DeviceModel;

/// Whether dividing work on `bytes` of memory into `parts` saves more time than `launches` more launches take. The work as
/// it is leaves room for `room` times as many invocations, and is that much slower than memory.
pub fn is_worth(model: &DeviceModel, bytes: i64, room: i64, parts: i64, launches: i64) -> bool {
    let undivided_ns = bytes.saturating_mul(room) / model.bandwidth_gbps.max(1) as i64;
    undivided_ns - undivided_ns / parts.max(1) > launches * model.launch_ns as i64
}
