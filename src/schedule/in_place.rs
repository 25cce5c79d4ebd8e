//! Which large values take over the memory of what they are computed from: the gradient of the logits that of the logits.
//!
//! The last reader of a value may write its result over it where every element is read at the place that is written, by the
//! invocation that owns it. Kernels that do so are kernels of their own, and may run in another form; so it is done only for values
//! that decide how much memory a step takes.

use super::group::Group;
use crate::fusion::{Kernel, Memo};
use crate::loop_ir::facts::is_bijective;
use crate::loop_ir::{BufferId, Instr, Nest, Stmt, Tag, Write};
use crate::lower::Lowered;
use crate::types::DType;
use rustc_hash::FxHashMap;

/// Bytes from which a value takes over memory.
pub const LARGE: i64 = 128 << 20;

/// Rewrites kernels so that they read what they overwrite through the buffer that they write; gives which buffer takes over from
/// which. Kernels that share a launch are left alone.
pub fn take_over(groups: &mut [Group], together: &[u32], lowered: &Lowered, memo: &mut Memo) -> Vec<(BufferId, BufferId)> {
    let uses = Uses::of(groups, lowered);
    let mut pairs = vec![];
    for at in alone(groups.len(), together) {
        while let Some((to, from)) = uses.pair(at, &groups[at].kernel, lowered) {
            groups[at].kernel = over(&groups[at].kernel, to, from, memo);
            pairs.push((to, from));
        }
    }
    pairs
}

/// Commands that run in a launch of their own.
fn alone(count: usize, together: &[u32]) -> Vec<usize> {
    if together.is_empty() {
        return (0..count).collect();
    }
    let starts = together.iter().scan(0, |at, &n| Some(std::mem::replace(at, *at + n as usize)));
    starts.zip(together).filter(|(_, n)| **n == 1).map(|(at, _)| at).collect()
}

struct Uses {
    last: Vec<usize>,
    writers: Vec<u32>,
    /// It is no temporary.
    stays: Vec<bool>,
}

impl Uses {
    fn of(groups: &[Group], lowered: &Lowered) -> Uses {
        let n = lowered.buffers.len();
        let mut uses = Uses { last: vec![0; n], writers: vec![0; n], stays: vec![false; n] };
        let border = lowered.inputs.iter().map(|i| i.buffer).chain(lowered.outputs.iter().map(|o| o.buffer));
        border.chain(lowered.constants.iter().map(|c| c.0)).for_each(|b| uses.stays[b.0 as usize] = true);
        for (at, group) in groups.iter().enumerate() {
            group.kernel.buffers.iter().for_each(|b| uses.last[b.0 as usize] = at);
            group.kernel.writes().for_each(|b| uses.writers[b.0 as usize] += 1);
        }
        uses
    }

    /// A buffer that command `at` may write over another that nobody reads any more.
    fn pair(&self, at: usize, kernel: &Kernel, lowered: &Lowered) -> Option<(BufferId, BufferId)> {
        let nest = &kernel.structure.nest;
        let local = |b: BufferId| kernel.buffers.iter().position(|o| *o == b).map(|k| BufferId(k as u32));
        let large = |b: BufferId| {
            let ty = &lowered.buffers[b.0 as usize].ty;
            ty.dtype == DType::F32 && !self.stays[b.0 as usize] && ty.numel().as_int().is_some_and(|n| n * 4 >= LARGE)
        };
        let same = |a: BufferId, b: BufferId| lowered.buffers[a.0 as usize].ty.numel() == lowered.buffers[b.0 as usize].ty.numel();
        let written: Vec<BufferId> = kernel.writes().collect();
        let dies = |b: &BufferId| large(*b) && self.last[b.0 as usize] == at && !written.contains(b);
        let fits =
            |to: BufferId| kernel.reads().iter().copied().filter(dies).find(|from| same(to, *from) && may_overwrite(nest, local(to), local(*from)));
        let fresh = |b: &BufferId| large(*b) && self.writers[b.0 as usize] == 1 && !kernel.reads().contains(b);
        written.iter().copied().filter(fresh).find_map(|to| Some((to, fits(to)?)))
    }
}

/// Whether a nest reads a buffer only where it writes another, each element before it is written.
fn may_overwrite(nest: &Nest, to: Option<BufferId>, from: Option<BufferId>) -> bool {
    let (Some(to), Some(from)) = (to, from) else { return false };
    let mut writes = nest.writes.iter().filter(|w| w.buffer == to);
    let (Some(write), None) = (writes.next(), writes.next()) else { return false };
    let level = nest.element_level();
    let product = matches!(nest.tag, Tag::Matmul { .. });
    let owned = |(i, w): (usize, &Write)| match &nest.body[i].instr {
        Instr::Load { buffer, index, mask } if *buffer == from => mask.is_none() && *index == w.index && !(product && level[i]),
        _ => true,
    };
    // What is read in another order is transposed, which needs the operand as it was.
    let sizes = nest.sizes();
    let in_order = |s: &Stmt| !matches!(&s.instr, Instr::Load { index, .. } if *index != write.index && is_bijective(index, &sizes, 0));
    (product || nest.tag == Tag::Loop)
        && !nest.is_ordered()
        && (nest.has_column_work() || product || nest.body.iter().all(in_order))
        && nest.writes.iter().all(|w| !w.fold)
        && nest.is_element_write(write, &level) != (product || nest.cols.is_empty())
        && (0..nest.body.len()).all(|i| owned((i, write)))
}

/// The kernel with `from` read as `to`.
fn over(kernel: &Kernel, to: BufferId, from: BufferId, memo: &mut Memo) -> Kernel {
    let global: FxHashMap<u32, BufferId> = kernel.buffers.iter().enumerate().map(|(k, &b)| (k as u32, if b == from { to } else { b })).collect();
    let nest = kernel.structure.nest.map_buffers(&|local| global[&local.0]);
    Kernel { label: kernel.label.clone(), provenance: kernel.provenance.clone(), ..memo.kernel(&nest) }
}
