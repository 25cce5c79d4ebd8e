//! The form of each kernel: the candidate of `forms` that promises the shortest time, for the formats and sizes of its buffers.

use super::program::Program;
use crate::config::Target;
use crate::forms::{Form, Operand, candidates, expand_online, keeping};
use crate::loop_ir::Nest;

/// Gives every kernel its form, and its body the spelling that the form works on. The interpreter needs none.
pub fn choose_forms(program: &mut Program, target: &Target) {
    if target.caps.is_cpu() {
        return;
    }
    let mut operands: Vec<Vec<Operand>> = vec![vec![]; program.kernels.len()];
    for command in program.commands.iter().rev() {
        let of = |b: &crate::loop_ir::BufferId| {
            let placed = &program.buffers[b.0 as usize];
            Operand { dtype: placed.ty.dtype, storage: placed.storage, numel: placed.ty.numel() }
        };
        operands[command.kernel as usize] = command.buffers.iter().map(of).collect();
    }
    let chosen = program.kernels.iter().zip(&operands).map(|(nest, operands)| choose(nest, operands, target));
    (program.kernels, program.forms) = chosen.unzip();
}

/// The form of a nest, and the nest as that form runs it.
fn choose(nest: &Nest, operands: &[Operand], target: &Target) -> (Nest, Form) {
    if let Some((expanded, sums)) = expand_online(nest)
        && let Some(form) = keeping(&best(&expanded, operands, target), &expanded, sums)
    {
        return (expanded, form);
    }
    (nest.clone(), best(nest, operands, target))
}

fn best(nest: &Nest, operands: &[Operand], target: &Target) -> Form {
    candidates(nest, operands, target).swap_remove(0).0
}
