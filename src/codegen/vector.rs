//! Which bindings are read and written four elements at a time, as `vec4`.

use super::emit::Emitter;
use super::unit::Unit;
use crate::loop_ir::{BufferId, IndexExpr, Instr, Write};

/// Marks bindings of plain 32-bit elements of which every access of every group of four lanes is one aligned vector.
pub fn choose(em: &mut Emitter, groups: &[Vec<usize>]) {
    let mut fits = candidates(em.unit);
    restrict(em, em.unit.nest.body.iter().map(|s| &s.instr), &em.unit.nest.writes, groups, &mut fits);
    em.vector = fits;
}

/// Bindings of plain 32-bit elements, in numbers that divide by four.
pub fn candidates(unit: &Unit) -> Vec<bool> {
    // Bindings of other kernels of the launch are none of this one's.
    let mut fits = vec![false; unit.bindings.len()];
    unit.buffers.iter().for_each(|b| fits[b.binding] = true);
    for b in &unit.buffers {
        let sized = b.numel.as_int().is_some_and(|n| n >= 4 && n % 4 == 0);
        if !sized || b.format.per_word != 1 || !b.format.element.is_word() || !unit.bindings[b.binding].element.is_word() {
            fits[b.binding] = false;
        }
    }
    fits
}

/// Clears what these statements and writes access otherwise than by aligned vectors.
pub fn restrict<'i>(em: &Emitter, instrs: impl Iterator<Item = &'i Instr>, writes: &[Write], groups: &[Vec<usize>], fits: &mut [bool]) {
    let mut check = |buffer: BufferId, index: &IndexExpr, masked: bool| {
        let at = em.unit.buffers[buffer.0 as usize].binding;
        fits[at] = fits[at] && !masked && groups.iter().all(|g| em.owns_words(index, g, 4));
    };
    for instr in instrs {
        if let Instr::Load { buffer, index, mask } = instr {
            check(*buffer, index, mask.is_some());
        }
    }
    for w in writes {
        check(w.buffer, &w.index, false);
    }
}
