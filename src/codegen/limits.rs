//! Checks against the device's limits, before any shader exists on it.

use super::unit::Unit;
use crate::error::Error;
use crate::schedule::Program;
use crate::types::DeviceCaps;

/// Sizes of slots. An error names the tensor and the limit.
pub fn check_program(program: &Program, caps: &DeviceCaps) -> Result<(), Error> {
    for b in &program.buffers {
        let Some(slot) = program.slots.get(b.slot.0 as usize) else {
            return Err(Error::compile(format!("{}: its slot {} does not exist", b.name, b.slot.0)));
        };
        let Some(bytes) = slot.bytes.as_int() else { continue };
        let limit = caps.max_binding_bytes.min(caps.max_buffer_bytes);
        if bytes as u64 > limit {
            return Err(Error::compile(format!(
                "{}: {} needs {bytes} bytes, more than the {limit} bytes that {} can bind at once",
                b.name, b.ty, caps.name
            )));
        }
    }
    Ok(())
}

/// Bindings and index width of one kernel.
pub fn check_unit(unit: &Unit) -> Result<(), String> {
    let caps = &unit.target.caps;
    let storage = unit.bindings.len() as u32 + (unit.sets_status || unit.guarded) as u32;
    if storage > caps.max_storage_buffers {
        return Err(format!("{storage} storage buffers in one kernel are more than the {} of {}", caps.max_storage_buffers, caps.name));
    }
    for b in &unit.buffers {
        if b.numel.as_int().is_some_and(|n| n > u32::MAX as i64) {
            return Err(format!("{}: {} elements do not fit a 32-bit index", b.name, b.numel));
        }
    }
    Ok(())
}
