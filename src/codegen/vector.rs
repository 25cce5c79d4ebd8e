//! Which bindings are read and written four elements at a time, as `vec4`.

use super::emit::Emitter;
use crate::loop_ir::{IndexExpr, Instr};

/// Marks bindings of plain 32-bit elements of which every access of every group of four lanes is one aligned vector.
pub fn choose(em: &mut Emitter, groups: &[Vec<usize>]) {
    let unit = em.unit;
    let mut fits = vec![true; unit.bindings.len()];
    for b in &unit.buffers {
        let sized = b.numel.as_int().is_some_and(|n| n >= 4 && n % 4 == 0);
        if !sized || b.format.per_word != 1 || !b.format.element.is_word() || !unit.bindings[b.binding].element.is_word() {
            fits[b.binding] = false;
        }
    }
    let mut check = |buffer: crate::loop_ir::BufferId, index: &IndexExpr, masked: bool| {
        let at = unit.buffers[buffer.0 as usize].binding;
        fits[at] = fits[at] && !masked && groups.iter().all(|g| em.owns_words(index, g, 4));
    };
    for stmt in &unit.nest.body {
        if let Instr::Load { buffer, index, mask } = &stmt.instr {
            check(*buffer, index, mask.is_some());
        }
    }
    for w in &unit.nest.writes {
        check(w.buffer, &w.index, false);
    }
    em.vector = fits;
}
