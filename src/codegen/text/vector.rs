//! Which bindings are read and written four elements at a time, as `vec4`.

use super::emit::Emitter;
use super::unit::Unit;
use crate::forms::{Lane, fits_vectors, restrict_to_vectors};
use crate::loop_ir::{Instr, Write};

/// Marks bindings of plain elements of which every access of every group of four lanes is one aligned vector.
pub fn mark(em: &mut Emitter, groups: &[Vec<usize>]) {
    let mut fits = candidates(em.unit);
    restrict(em, em.unit.nest.body.iter().map(|s| &s.instr), &em.unit.nest.writes, groups, &mut fits);
    em.vector = fits;
}

/// Bindings of plain elements, in numbers that divide by four.
pub fn candidates(unit: &Unit) -> Vec<bool> {
    // Bindings of other kernels of the launch are none of this one's.
    let mut fits = vec![false; unit.bindings.len()];
    unit.buffers.iter().for_each(|b| fits[b.binding] = true);
    for b in &unit.buffers {
        fits[b.binding] &= fits_vectors(&b.operand) && unit.bindings[b.binding].element.has_vectors();
    }
    fits
}

/// Clears what these statements and writes access otherwise than by aligned vectors.
pub fn restrict<'i>(em: &Emitter, instrs: impl Iterator<Item = &'i Instr>, writes: &[Write], groups: &[Vec<usize>], fits: &mut [bool]) {
    let groups: Vec<Vec<&Lane>> = groups.iter().map(|g| g.iter().map(|&l| &em.lanes[l]).collect()).collect();
    let mut own = vec![true; em.unit.buffers.len()];
    restrict_to_vectors(em.unit.nest, &groups, em.across, instrs, writes, &mut own);
    em.unit.buffers.iter().zip(own).for_each(|(b, own)| fits[b.binding] &= own);
}
