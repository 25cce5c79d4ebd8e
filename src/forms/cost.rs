//! Predicted time of a form: memory or arithmetic, whichever takes longer, by the share of the device that is busy.

use super::Operand;
use crate::loop_ir::{BufferId, IndexExpr, Instr, Nest, Val};
use crate::types::{DeviceModel, Dim, Storage};

/// Bytes that memory moves for an element that none of its neighbors is read with.
const SECTOR: f64 = 32.0;
/// Bytes of a buffer that the caches of any GPU hold: it moves once, however it is read.
const CACHED: f64 = (4 << 20) as f64;

/// A predicted time.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Cost {
    /// Nanoseconds.
    pub ns: f64,
}

/// What a kernel asks of the device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Bytes moved to and from memory.
    pub bytes: f64,
    /// Additions, or what takes as long.
    pub operations: f64,
    /// Elements that are worked on at the same time.
    pub parallel: f64,
    /// Kernels started.
    pub launches: u32,
}

impl Work {
    /// One launch of a nest by a form that reads columns `passes` times, whose neighboring invocations step along `axis`.
    pub fn of(nest: &Nest, operands: &[Operand], axis: Option<u32>, passes: usize, parallel: f64) -> Work {
        let (rows, cols) = (count(&nest.row_count()), count(&nest.col_count()));
        let level = nest.element_level();
        let points = |element: bool| if element { rows * cols } else { rows };
        let mut work = Work { bytes: 0.0, operations: 0.0, parallel, launches: 1 };
        for (stmt, &element) in nest.body.iter().zip(&level) {
            let passes = if element { passes } else { 1 };
            match &stmt.instr {
                Instr::Load { buffer, index, .. } => work.bytes += moved(operands, *buffer, index, axis, points(element), passes),
                Instr::Call(f, _) => work.operations += (passes as u32 * f.row().cost) as f64 * points(element),
                Instr::Reduce(_, Val(v)) | Instr::Scan(_, Val(v)) => work.operations += points(level[*v as usize]),
                _ => {}
            }
        }
        for w in &nest.writes {
            work.bytes += moved(operands, w.buffer, &w.index, axis, points(nest.is_element_write(w, &level)), 1);
        }
        work
    }

    /// Its time on a device.
    pub fn on(&self, model: &DeviceModel) -> Cost {
        let busy = (self.parallel / model.parallel_lanes.max(1) as f64).clamp(1e-9, 1.0);
        let memory = self.bytes / model.bandwidth_gbps.max(1) as f64;
        let arithmetic = self.operations / model.gflops.max(1) as f64;
        Cost { ns: (self.launches as f64) * model.launch_ns as f64 + memory.max(arithmetic) / busy }
    }
}

/// Bytes moved in so many passes over a buffer: each element once where neighbors are neighbors in memory or share it, a sector for
/// each access where they are not.
fn moved(operands: &[Operand], buffer: BufferId, index: &IndexExpr, axis: Option<u32>, points: f64, passes: usize) -> f64 {
    let Some(operand) = operands.get(buffer.0 as usize) else { return 0.0 };
    let bytes = if operand.storage == Storage::Native { operand.dtype.size() as f64 } else { 4.0 / operand.per_word() as f64 };
    let once = points.min(count(&operand.numel)) * bytes;
    if count(&operand.numel) * bytes <= CACHED {
        return once;
    }
    let step = axis.map(|a| index.linear_coefficient(a).and_then(|k| k.as_int()));
    match step {
        Some(Some(-1..=1)) | None if index.values().is_empty() => passes as f64 * once,
        _ => passes as f64 * points * SECTOR,
    }
}

/// A number to reckon with for a size.
pub fn count(d: &Dim) -> f64 {
    d.hint() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_device_takes_twice_as_long_and_a_launch_its_own_time() {
        let model = DeviceModel::large_gpu();
        let work = Work { bytes: 3e9, operations: 0.0, parallel: model.parallel_lanes as f64, launches: 1 };
        assert_eq!(work.on(&model).ns, 1e6 + 4000.0);
        let half = Work { parallel: work.parallel / 2.0, launches: 2, ..work };
        assert_eq!(half.on(&model).ns, 2e6 + 8000.0);
        let busy = Work { operations: 12e10, ..work };
        assert_eq!(busy.on(&model).ns, 2e6 + 4000.0);
    }
}
