//! Checks against the device's limits, before any shader exists on it.

use super::text::unit::Unit;
use crate::error::Error;
use crate::forms::Form;
use crate::loop_ir::{Instr, Nest};
use crate::schedule::Program;
use crate::types::{Bindings, DType, DeviceCaps, Dim};

/// Points of a domain that 32 bits count, with room for the last steps of loops and for workgroups beyond the end.
const POINTS: i64 = (1 << 32) - (1 << 20);

/// Refuses kernels that count further than 32 bits at these sizes: rows and columns by themselves where a kernel loops over columns,
/// all elements where it does not.
pub fn check_domains(program: &Program, caps: &DeviceCaps, bindings: &Bindings) -> Result<(), Error> {
    for (nest, form) in program.kernels.iter().zip(&program.forms) {
        let size = |d: Dim| d.eval(bindings).map_err(Error::Input);
        let found = check_domain(nest, &size)?.or(check_steps(nest, form, caps, size(nest.col_count())?));
        found.map_or(Ok(()), |what| Err(Error::Input(format!("{}: {what}", nest.label))))?;
    }
    Ok(())
}

/// What is wrong with the loops of a nest of so many columns.
fn check_steps(nest: &Nest, form: &Form, caps: &DeviceCaps, columns: i64) -> Option<String> {
    let steps = form.steps(nest, columns.max(0) as u64);
    let most = caps.max_steps.filter(|most| steps > *most as u64)?;
    Some(format!("its loops take {steps} steps, and {} ends them behind {most} without an error", caps.name))
}

/// What is wrong with the sizes of a nest, which `size` gives.
fn check_domain<E>(nest: &Nest, size: &dyn Fn(Dim) -> Result<i64, E>) -> Result<Option<String>, E> {
    let counts = match nest.has_column_work() {
        true => vec![(nest.row_count(), "rows"), (nest.col_count(), "columns")],
        false => vec![(nest.row_count() * nest.col_count(), "elements")],
    };
    for (count, of) in counts {
        let n = size(count)?;
        if n > POINTS {
            return Ok(Some(format!("{n} {of} are more than a kernel counts in 32 bits")));
        }
    }
    Ok(None)
}

/// An index that a kernel computes as a number must fit the 32 bits it is computed in. Places that are masked are not read.
fn check_numbers(nest: &Nest) -> Result<(), String> {
    for stmt in &nest.body {
        let Instr::Index(e) = &stmt.instr else { continue };
        let top = e.bounds().and_then(|(_, hi)| hi.as_int());
        if !matches!(stmt.dtype, DType::I32 | DType::U32) && top.is_some_and(|n| n > i32::MAX as i64) {
            return Err(format!("a position up to {} does not fit 32 bits", top.unwrap_or_default()));
        }
    }
    Ok(())
}

/// Bindings and index width of one kernel.
pub fn check_unit(unit: &Unit) -> Result<(), String> {
    let caps = &unit.target.caps;
    let scratch = matches!(unit.form, Form::Product(tile) if tile.workers.is_some());
    let storage = unit.bindings.len() as u32 + (unit.sets_status || unit.guarded) as u32 + unit.skips as u32 + scratch as u32;
    if storage > caps.max_storage_buffers {
        return Err(format!("{storage} storage buffers in one kernel are more than the {} of {}", caps.max_storage_buffers, caps.name));
    }
    if let Ok(Some(message)) = check_domain(unit.nest, &|d| Ok::<_, String>(d.range().0)) {
        return Err(message);
    }
    if let Some(message) = check_steps(unit.nest, unit.form, caps, unit.nest.col_count().range().0) {
        return Err(message);
    }
    check_numbers(unit.nest)?;
    for b in &unit.buffers {
        if b.operand.numel.as_int().is_some_and(|n| n > u32::MAX as i64) {
            return Err(format!("{}: {} elements do not fit a 32-bit index", b.name, b.operand.numel));
        }
    }
    Ok(())
}
