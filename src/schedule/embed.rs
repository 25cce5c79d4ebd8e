//! Blocks of control flow as parts of the program around them.
//!
//! Each block is scheduled as a program of its own. Then its commands go behind those of the program around it, over that program's
//! buffers: what stands at the block's border is a buffer of the program, everything else is new. Blocks of one program never run at
//! the same time, so that their temporaries share slots. Equal kernels are one, wherever they run.

use super::Kernels;
use super::program::{Control, Dispatch, PlacedBuffer, Program, Slot, SlotId, SlotKind};
use crate::error::Error;
use crate::loop_ir::{BodyBuilder, BufferId, Instr, Nest, Phase, Tag};
use crate::lower::{Block, Lowered, Repeat};
use crate::types::{DType, Dim};
use std::ops::Range;

/// Scheduled blocks of one command.
pub struct Blocks {
    repeat: Repeat,
    blocks: Vec<Embedded>,
}

/// A block's program.
struct Embedded {
    program: Program,
    border: Vec<(BufferId, BufferId)>,
    /// What is added to the codes of its checks.
    codes: u32,
}

/// Schedules all blocks; what they check is checked by the nests that stand for them.
pub fn schedule_blocks(lowered: &mut Lowered, schedule: &dyn Fn(Lowered) -> Result<Program, Error>) -> Result<Vec<Blocks>, Error> {
    let mut out = vec![];
    for (number, control) in std::mem::take(&mut lowered.controls).into_iter().enumerate() {
        let mut blocks = vec![];
        for Block { lowered: inner, border } in control.blocks {
            let mut program = schedule(inner)?;
            let codes = lowered.checks.len() as u32;
            if !program.checks.is_empty() {
                lowered.checks.append(&mut program.checks);
                lowered.nests.iter_mut().filter(|n| n.control() == Some(number)).for_each(|nest| check(nest, codes + 1));
            }
            blocks.push(Embedded { program, border, codes });
        }
        out.push(Blocks { repeat: control.repeat, blocks });
    }
    Ok(out)
}

/// Lets a nest that stands for others check what they check.
fn check(nest: &mut Nest, code: u32) {
    let mut b = BodyBuilder::of(nest);
    let zero = b.constant(DType::I32, 0.0);
    b.bound(zero, &Dim::int(1), None, code);
    *nest = b.replace(nest);
}

/// Puts blocks behind the commands of a program.
pub fn embed(program: &mut Program, blocks: Vec<Blocks>, kernels: &mut Kernels) {
    let mut pool = vec![];
    // Those of the program itself come first, as its tags number them.
    let own = blocks.iter().map(|b| Control { repeat: b.repeat.clone(), blocks: vec![] });
    program.controls.extend(own);
    if program.together.is_empty() && blocks.iter().flat_map(|b| &b.blocks).any(|b| !b.program.together.is_empty()) {
        program.together = vec![1; program.commands.len()];
    }
    let phases: Vec<Option<Phase>> = (0..blocks.len()).map(|number| phase_of(program, number)).collect();
    for (number, (blocks, phase)) in blocks.into_iter().zip(phases).enumerate() {
        // Control flow that nobody needs the results of is gone.
        let Some(phase) = phase else { continue };
        for block in blocks.blocks {
            let range = Embedding { program, pool: &mut pool, kernels }.block(block, phase);
            program.controls[number].blocks.push(range);
        }
    }
}

/// The phase of the command that stands for control flow.
fn phase_of(program: &Program, number: usize) -> Option<Phase> {
    let stands = |c: &&Dispatch| program.kernels[c.kernel as usize].control() == Some(number);
    program.commands.iter().find(stands).map(|c| c.phase)
}

struct Embedding<'a> {
    program: &'a mut Program,
    /// Slots for temporaries of blocks.
    pool: &'a mut Vec<SlotId>,
    kernels: &'a mut Kernels,
}

impl Embedding<'_> {
    /// The commands of a block, without those of blocks within it.
    fn block(&mut self, block: Embedded, phase: Phase) -> Range<usize> {
        let Embedded { program: inner, border, codes } = block;
        let (first, controls) = (self.program.commands.len(), self.program.controls.len() as u32);
        let main = inner.main();
        let buffers = self.buffers(&inner, &border);
        let to = |b: BufferId| buffers[b.0 as usize];
        let nests = inner.kernels.iter().map(|nest| renumbered(nest, codes, controls)).collect::<Vec<Nest>>();
        let launches = match inner.together.is_empty() && !self.program.together.is_empty() {
            true => vec![1; inner.commands.len()],
            false => inner.together,
        };
        self.program.together.extend(launches);
        for command in inner.commands {
            let buffers: Vec<BufferId> = command.buffers.iter().map(|&b| to(b)).collect();
            let formats = buffers.iter().map(|b| self.program.buffers[b.0 as usize].storage).collect();
            let kernel = self.kernels.number(&mut self.program.kernels, nests[command.kernel as usize].clone(), formats);
            self.program.commands.push(Dispatch { kernel, buffers, phase, skip: command.skip.map(to), ..command });
        }
        for Control { repeat, blocks } in inner.controls {
            let repeat = if let Repeat::Until(word) = repeat { Repeat::Until(to(word)) } else { repeat };
            let blocks = blocks.into_iter().map(|r| r.start + first..r.end + first).collect();
            self.program.controls.push(Control { repeat, blocks });
        }
        self.program.in_place.extend(inner.in_place.into_iter().map(|(a, b)| (to(a), to(b))));
        self.program.constants.extend(inner.constants.into_iter().map(|(b, tensor)| (to(b), tensor)));
        self.program.decisions.extend(inner.decisions);
        first + main.start..first + main.end
    }

    /// For each buffer of a block the program's.
    fn buffers(&mut self, inner: &Program, border: &[(BufferId, BufferId)]) -> Vec<BufferId> {
        let mut slots: Vec<Option<SlotId>> = vec![None; inner.slots.len()];
        let mut temporaries = 0;
        let mut out = vec![];
        for (k, placed) in inner.buffers.iter().enumerate() {
            if let Some((_, outer)) = border.iter().find(|(own, _)| own.0 as usize == k) {
                out.push(*outer);
                continue;
            }
            let at = placed.slot.0 as usize;
            let slot = *slots[at].get_or_insert_with(|| self.slot(&inner.slots[at], &mut temporaries));
            out.push(BufferId(self.program.buffers.len() as u32));
            self.program.buffers.push(PlacedBuffer { slot, ..placed.clone() });
        }
        out
    }

    /// A slot for that of a block: a temporary takes the next of the pool.
    fn slot(&mut self, wanted: &Slot, temporaries: &mut usize) -> SlotId {
        if wanted.kind == SlotKind::Temporary && !wanted.bytes.is(0) {
            let shared = self.pool[(*temporaries).min(self.pool.len())..].iter().position(|s| self.fits(*s, &wanted.bytes));
            if let Some(at) = shared {
                let slot = self.pool[*temporaries + at];
                *temporaries += at + 1;
                let bytes = &mut self.program.slots[slot.0 as usize].bytes;
                *bytes = larger(bytes, &wanted.bytes);
                return slot;
            }
        }
        let slot = SlotId(self.program.slots.len() as u32);
        self.program.slots.push(wanted.clone());
        if wanted.kind == SlotKind::Temporary && !wanted.bytes.is(0) {
            self.pool.push(slot);
            *temporaries = self.pool.len();
        }
        slot
    }

    /// Whether one slot may serve both.
    fn fits(&self, slot: SlotId, wanted: &Dim) -> bool {
        let bytes = &self.program.slots[slot.0 as usize].bytes;
        bytes == wanted || (bytes.as_int().is_some() && wanted.as_int().is_some())
    }
}

fn larger(a: &Dim, b: &Dim) -> Dim {
    if a.as_int() >= b.as_int() { a.clone() } else { b.clone() }
}

/// A kernel of a block with the program's codes and numbers.
fn renumbered(nest: &Nest, codes: u32, controls: u32) -> Nest {
    let mut out = nest.clone();
    for stmt in &mut out.body {
        if let Instr::Bound { code, .. } = &mut stmt.instr {
            *code += codes;
        }
    }
    if let Tag::Control { number } = &mut out.tag {
        *number += controls;
    }
    out
}
