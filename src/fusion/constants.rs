//! Loads of buffers that hold one number become that number, before any kernel is looked at: most small nests are such numbers.

use crate::loop_ir::{BodyBuilder, BufferId, Instr, Nest, Number, Rebase, Stmt};
use crate::types::DType;
use rustc_hash::FxHashMap;

/// The number that a nest stores everywhere, when that is all it does: its buffer, the number and its dtype.
pub fn stored_number(nest: &Nest) -> Option<(BufferId, Number, DType)> {
    let ([stmt], [write]) = (&nest.body[..], &nest.writes[..]) else { return None };
    let Instr::Const(number) = stmt.instr else { return None };
    (nest.cols.is_empty() && !write.fold).then_some((write.buffer, number, stmt.dtype))
}

/// Puts numbers in the place of loads, and each of them once. Masked loads stay.
pub fn substitute_numbers(nest: &mut Nest, numbers: &FxHashMap<BufferId, Number>) {
    let number = |s: &Stmt| match &s.instr {
        Instr::Load { buffer, mask: None, .. } => numbers.get(buffer).copied(),
        _ => None,
    };
    if nest.control().is_some() || !nest.body.iter().any(|s| number(s).is_some()) {
        return;
    }
    let mut b = BodyBuilder::with_capacity(nest.body.len());
    let mut to = Rebase::in_place();
    for v in nest.values() {
        match number(nest.stmt(v)) {
            Some(n) => to.set(v, b.number(nest.stmt(v).dtype, n)),
            None => drop(to.copy(&mut b, nest, v)),
        }
    }
    *nest = to.finish(b, nest);
}
