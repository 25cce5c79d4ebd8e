//! Element formats and the memory plan: which slot each buffer lives in.
//!
//! Slots are separate device buffers, not offsets into one arena, since wgpu tracks hazards per buffer. Temporaries whose
//! lifetimes do not meet share a slot, best fit by size (one scan over the commands). What a launch writes first gets its slot while all
//! that the launch reads still has its own, so that every kernel has what `Form::needs_distinct_slots` asks for; the check of a
//! program's memory follows that, and code generation refuses what does not have it.

use super::group::Group;
use super::program::{PlacedBuffer, Slot, SlotId, SlotKind};
use crate::config::{Config, Target};
use crate::graph::InputRole;
use crate::loop_ir::BufferId;
use crate::loop_ir::facts::owns_words;
use crate::lower::Lowered;
use crate::types::{DType, DeviceCaps, Dim, Storage, TensorType};
use std::collections::{BTreeMap, VecDeque};

/// Places every buffer that is read or written by a group or stands at the border, and takes them out of `lowered`. Buffers nobody
/// stores get a slot of no bytes.
///
/// `together` says how many neighbors one launch takes (each runs alone where it is empty): they share no slot but for the same buffer.
pub fn place(
    lowered: &mut Lowered,
    groups: &[Group],
    together: &[u32],
    target: &Target,
    config: &Config,
) -> Result<(Vec<PlacedBuffer>, Vec<Slot>), String> {
    let storage = storages(lowered, groups, &target.caps)?;
    let mut slots: Vec<Slot> = vec![];
    let mut slot_of: Vec<Option<SlotId>> = vec![None; lowered.buffers.len()];
    let bytes = |b: BufferId| buffer_bytes(&lowered.buffers[b.0 as usize].ty, storage[b.0 as usize]);
    let mut fixed = |b: BufferId, kind: SlotKind, slots: &mut Vec<Slot>| {
        slot_of[b.0 as usize] = Some(SlotId(slots.len() as u32));
        slots.push(Slot { bytes: bytes(b), kind });
    };
    for input in &lowered.inputs {
        let state = matches!(input.role, InputRole::Parameter | InputRole::Buffer | InputRole::Optimizer);
        fixed(input.buffer, if state { SlotKind::State } else { SlotKind::Input }, &mut slots);
    }
    lowered.constants.iter().for_each(|(b, _)| fixed(*b, SlotKind::Constant, &mut slots));
    lowered.outputs.iter().for_each(|o| fixed(o.buffer, SlotKind::Output, &mut slots));
    place_temporaries(lowered, &launches(groups, together), config, &mut slot_of, &mut slots, &bytes);
    let empty = SlotId(slots.len() as u32);
    slots.push(Slot { bytes: Dim::int(0), kind: SlotKind::Temporary });
    let placed = std::mem::take(&mut lowered.buffers).into_iter().zip(storage).zip(slot_of);
    let placed = placed.map(|((b, storage), slot)| PlacedBuffer { name: b.name, ty: b.ty, storage, slot: slot.unwrap_or(empty) });
    Ok((placed.collect(), slots))
}

/// Groups by launch.
fn launches<'g>(mut groups: &'g [Group], together: &[u32]) -> Vec<&'g [Group]> {
    if together.is_empty() {
        return groups.chunks(1).collect();
    }
    let mut out = vec![];
    for &n in together {
        let (launch, rest) = groups.split_at(n as usize);
        out.push(launch);
        groups = rest;
    }
    out
}

fn place_temporaries(
    lowered: &Lowered,
    launches: &[&[Group]],
    config: &Config,
    slot_of: &mut [Option<SlotId>],
    slots: &mut Vec<Slot>,
    bytes: &dyn Fn(BufferId) -> Dim,
) {
    let mut last_use = vec![0usize; lowered.buffers.len()];
    let buffers = |launch: &[Group]| launch.iter().flat_map(|g| g.kernel.buffers.iter().copied()).collect::<Vec<_>>();
    for (at, launch) in launches.iter().enumerate() {
        buffers(launch).iter().for_each(|b| last_use[b.0 as usize] = at);
    }
    let mut free = Free::default();
    for (at, launch) in launches.iter().enumerate() {
        let mut written: Vec<BufferId> = launch.iter().flat_map(|g| g.kernel.writes()).collect();
        written.dedup();
        for b in &written {
            if slot_of[b.0 as usize].is_none() {
                let need = bytes(*b);
                let found = config.reuse.then(|| free.take(&need)).flatten();
                let slot = found.unwrap_or_else(|| {
                    slots.push(Slot { bytes: need, kind: SlotKind::Temporary });
                    SlotId(slots.len() as u32 - 1)
                });
                slot_of[b.0 as usize] = Some(slot);
            }
        }
        let mut touched = buffers(launch);
        touched.sort();
        touched.dedup();
        for b in touched {
            if let Some(slot) = slot_of[b.0 as usize]
                && last_use[b.0 as usize] == at
                && slots[slot.0 as usize].kind == SlotKind::Temporary
            {
                free.add(slot, &slots[slot.0 as usize].bytes);
            }
        }
    }
}

/// Slots that hold nothing that is still read.
#[derive(Default)]
struct Free {
    /// By size, the longest free first.
    sized: BTreeMap<i64, VecDeque<SlotId>>,
    /// Those whose size is a symbol's.
    symbolic: Vec<(Dim, SlotId)>,
}

impl Free {
    fn add(&mut self, slot: SlotId, bytes: &Dim) {
        match bytes.as_int() {
            Some(n) => self.sized.entry(n).or_default().push_back(slot),
            None => self.symbolic.push((bytes.clone(), slot)),
        }
    }

    /// The free slot that wastes least and at most half of itself; equal sizes only when sizes are symbolic.
    fn take(&mut self, need: &Dim) -> Option<SlotId> {
        let Some(n) = need.as_int() else {
            let at = self.symbolic.iter().position(|(bytes, _)| bytes == need)?;
            return Some(self.symbolic.remove(at).1);
        };
        let (&bytes, slots) = self.sized.range_mut(n..=n.saturating_mul(2).max(n)).next()?;
        let slot = slots.pop_front()?;
        if slots.is_empty() {
            self.sized.remove(&bytes);
        }
        Some(slot)
    }
}

/// Bytes of a buffer in its element format, rounded up to whole words.
pub fn buffer_bytes(ty: &TensorType, storage: Storage) -> Dim {
    let element = match storage {
        Storage::Native | Storage::Packed => ty.dtype.size() as i64,
        Storage::Word | Storage::Narrow => 4,
    };
    (ty.numel() * Dim::int(element)).ceil_div(&Dim::int(4)) * Dim::int(4)
}

/// Element formats: what the device has natively, else packed where every writer owns whole words, else a word an element.
fn storages(lowered: &Lowered, groups: &[Group], caps: &DeviceCaps) -> Result<Vec<Storage>, String> {
    let (mut used, mut writers) = (vec![false; lowered.buffers.len()], vec![vec![]; lowered.buffers.len()]);
    for group in groups {
        group.kernel.buffers.iter().for_each(|b| used[b.0 as usize] = true);
        let structure = &group.kernel.structure;
        for (own, b) in structure.writes.iter().zip(group.kernel.writes()) {
            writers[b.0 as usize].push((&structure.nest, BufferId(*own)));
        }
    }
    let mut out = vec![];
    for (i, buffer) in lowered.buffers.iter().enumerate() {
        let storage = match buffer.ty.dtype {
            _ if caps.is_cpu() => Storage::Native,
            DType::F32 | DType::I32 | DType::U32 => Storage::Native,
            DType::F64 if caps.f64 => Storage::Native,
            DType::F64 if used[i] => {
                return Err(format!("{} is f64, which {} lacks: cast it to f32, or use a device with 64-bit floats", buffer.name, caps.name));
            }
            DType::F64 => Storage::Native,
            DType::I64 if caps.i64 => Storage::Native,
            DType::I64 => Storage::Narrow,
            DType::F16 if caps.f16 => Storage::Native,
            _ if writers[i].iter().all(|(nest, own)| owns_words(nest, *own)) => Storage::Packed,
            _ => Storage::Word,
        };
        out.push(storage);
    }
    Ok(out)
}
