//! Into how many kernels' work a nest is divided, so that the device has enough of it at once.

use super::product::FEW_LANES;
use crate::types::DeviceModel;

/// Bytes of a matrix that no cache holds: what is reduced along rows and along columns is worth reading once.
const LARGE: i64 = 64 << 20;
/// Columns that an invocation of a kernel along rows takes, about.
const COLUMNS: i64 = 8;
/// Comparisons of a sum at computed indices that are not worth sorting for.
const FEW_PAIRS: i64 = 1 << 26;
/// Indices of a segment on average that one invocation may sum, whatever works beside it.
const SEGMENT: i64 = 64;
/// Columns of a block at least, where only the first elements of a sorted row are written.
const BLOCK: i64 = 8192;

/// A reduction or a scan along the columns of a matrix.
#[derive(Clone, Copy, Debug)]
pub struct Along {
    /// Rows.
    pub rows: i64,
    /// Columns.
    pub cols: i64,
    /// Bytes of an element.
    pub bytes: i64,
    /// Neighbors in memory are neighboring rows, so that invocations take rows by themselves.
    pub rows_first: bool,
}

impl Along {
    fn total(&self) -> i64 {
        self.rows.saturating_mul(self.cols).saturating_mul(self.bytes)
    }
}

/// Parts of a reduction's columns. `mixed` tells of a sum beside which another reduction takes the rows of the same matrix, whose kernel
/// may take over this one's first stage: then there are as many parts as there are workgroups to fill the device. `even` parts are of
/// equal sizes.
pub fn of_reduction(along: Along, mixed: bool, even: bool, model: &DeviceModel) -> Option<i64> {
    if model.parallel_lanes < FEW_LANES {
        return None;
    }
    let (lanes, rows, cols) = (model.parallel_lanes as i64, along.rows.max(1), along.cols);
    // How many times as many invocations there is room for, and how short parts may be.
    let (room, shortest) = match along.rows_first {
        // Not more parts than the second stage combines in no time.
        true if mixed && along.rows.saturating_mul(cols) * 4 >= LARGE => ((lanes * COLUMNS / rows).min(2 * cols.isqrt()), 16),
        true => (lanes / 4 / rows, 16),
        false => (lanes / 512 / rows, 1024),
    };
    let wanted = room.min(cols / shortest);
    if wanted < 2 || !is_worth(model, along.total(), room, wanted, 1) {
        return None;
    }
    let divisor = (wanted / 2..=wanted * 2).filter(|s| *s >= 2 && cols % s == 0).min_by_key(|s| (s - wanted).abs());
    divisor.or((!even).then_some(wanted))
}

/// Chunks of a scan's columns: three more launches, and the data twice.
pub fn of_scan(along: Along, model: &DeviceModel) -> Option<i64> {
    let (lanes, rows) = (model.parallel_lanes as i64, along.rows.max(1));
    let (room, shortest) = if along.rows_first { (lanes / 4 / rows, 64) } else { (lanes / 512 / rows, 4096) };
    let wanted = room.min(along.cols / shortest);
    let worth = model.parallel_lanes >= FEW_LANES && wanted >= 2 && is_worth(model, 2 * along.total(), room, wanted, 3);
    worth.then_some(wanted)
}

/// Blocks of a row of which only the first elements are written and an invocation holds them: as many workgroups as fill the device,
/// where rows alone do not.
pub fn of_head(rows: i64, cols: i64, model: &DeviceModel) -> i64 {
    (model.parallel_lanes as i64 / 256 / rows.max(1)).min(cols / BLOCK)
}

/// Whether a sum at `count` computed indices, of which each of `rows` takes those equal to its own of `classes`, is worth sorting the
/// indices for: many pairs are compared otherwise, and segments are short, or the rows beside them many.
pub fn is_worth_sorting(rows: i64, classes: i64, count: i64, model: &DeviceModel) -> bool {
    let short = count <= SEGMENT * classes || count <= rows / 4;
    let many = rows.checked_mul(count).is_some_and(|pairs| pairs >= FEW_PAIRS);
    model.parallel_lanes >= FEW_LANES && many && short
}

/// Whether dividing work on `bytes` of memory into `parts` saves more time than `launches` more launches take. The work as
/// it is leaves room for `room` times as many invocations, and is that much slower than memory.
fn is_worth(model: &DeviceModel, bytes: i64, room: i64, parts: i64, launches: i64) -> bool {
    let undivided_ns = bytes.saturating_mul(room) / model.bandwidth_gbps.max(1) as i64;
    undivided_ns - undivided_ns / parts.max(1) > launches * model.launch_ns as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_divided_where_the_device_is_idle_and_it_takes_longer_than_a_launch() {
        let (large, small) = (DeviceModel::large_gpu(), DeviceModel::cpu());
        let long = Along { rows: 4, cols: 1 << 22, bytes: 4, rows_first: false };
        assert_eq!(of_reduction(long, false, false, &large), Some(128));
        assert_eq!(of_reduction(long, false, false, &small), None);
        assert_eq!(of_reduction(Along { rows: 1 << 20, cols: 64, ..long }, false, false, &large), None);
        assert_eq!(of_reduction(Along { cols: 2048, ..long }, false, false, &large), None);
        // A prime number of columns has no parts of equal sizes.
        let prime = Along { cols: (1 << 22) + 15, ..long };
        assert_eq!((of_reduction(prime, false, true, &large), of_reduction(prime, false, false, &large)), (None, Some(128)));
        assert!(of_scan(long, &large).is_some() && of_scan(Along { rows: 4096, ..long }, &large).is_none());
    }
}
