//! Which ranges the elements of inputs must lie in.
//!
//! A kernel that indexes by a value computed from one element of an input alone (through casts, or past an ignored label)
//! gives a check of that input. What is computed otherwise is left to the status word.

use super::program::{InputCheck, Program};
use crate::graph::InputRole;
use crate::loop_ir::facts::cone;
use crate::loop_ir::{BodyBuilder, BufferId, Element, IndexExpr, Instr, Nest, Rebase, Term, Val};
use crate::types::Dim;

/// The checks of a program's inputs.
pub fn input_checks(program: &Program) -> Vec<InputCheck> {
    let mut out: Vec<InputCheck> = vec![];
    for dispatch in &program.commands[program.main()] {
        let nest = &program.kernels[dispatch.kernel as usize];
        for (at, stmt) in nest.body.iter().enumerate() {
            // What is checked under a mask only is left to the device, which knows where the mask holds.
            let Instr::Bound { size, mask: None, code, .. } = &stmt.instr else { continue };
            let Some((load, body)) = function_of_one_load(nest, Val(at as u32)) else { continue };
            let Instr::Load { buffer, index, .. } = &nest.stmt(load).instr else { continue };
            let input = dispatch.buffers[buffer.0 as usize];
            let Some(given) = program.inputs.iter().find(|i| i.buffer == input && i.role == InputRole::Input) else { continue };
            if !covers(index, &program.buffers[input.0 as usize].ty.numel()) {
                continue;
            }
            let direct = body.body.iter().all(|s| matches!(s.instr, Instr::Load { .. } | Instr::Cast(_) | Instr::Bound { .. }));
            let message = (*code as usize).checked_sub(1).and_then(|k| program.checks.get(k)).cloned().unwrap_or_default();
            let check = InputCheck { input, name: given.name.clone(), body, size: size.clone(), direct, message };
            if !out.contains(&check) {
                out.push(check);
            }
        }
    }
    out
}

/// The load behind a checked index, and the computation as a nest of one row over a buffer of one element.
fn function_of_one_load(nest: &Nest, bound: Val) -> Option<(Val, Nest)> {
    let (mut b, mut to, mut found) = (BodyBuilder::default(), Rebase::in_place(), None);
    for v in cone(nest, bound) {
        let stmt = nest.stmt(v);
        match &stmt.instr {
            Instr::Load { index, mask: None, .. } if index.values().is_empty() && found.is_none() => {
                found = Some(v);
                to.set(v, b.load(Element { buffer: BufferId(0), index: IndexExpr::zero(), dtype: stmt.dtype }));
            }
            Instr::Const(_) | Instr::Call(..) | Instr::Cast(_) | Instr::Bitcast(_) => drop(to.copy(&mut b, nest, v)),
            Instr::Bound { .. } if v == bound => drop(to.copy(&mut b, nest, v)),
            _ => return None,
        }
    }
    Some((found?, b.nest("", vec![], vec![], Default::default())))
}

/// Whether a place runs over every element: axes in row-major order of the buffer's own size.
fn covers(index: &IndexExpr, numel: &Dim) -> bool {
    let mut axes = vec![];
    for (term, stride) in &index.terms {
        let Term::Axis(a) = term else { return false };
        axes.push((stride.clone(), a.size.clone()));
    }
    if !index.offset.is(0) {
        return false;
    }
    let mut reached = Dim::int(1);
    while let Some(at) = axes.iter().position(|(stride, _)| *stride == reached) {
        let (_, size) = axes.swap_remove(at);
        reached = reached * &size;
    }
    axes.is_empty() && reached == *numel
}
