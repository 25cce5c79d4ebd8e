//! Element formats and the memory plan: which slot each buffer lives in.
//!
//! Slots are separate device buffers, not offsets into one arena, since wgpu tracks hazards per buffer. Temporaries whose
//! lifetimes do not meet share a slot, best fit by size (a linear scan over the commands).

use super::group::Group;
use super::program::{PlacedBuffer, Slot, SlotId, SlotKind, Storage};
use crate::config::{Config, Target};
use crate::graph::InputRole;
use crate::loop_ir::{BufferId, Nest, Tag, flatten};
use crate::lower::Lowered;
use crate::types::{DType, DeviceCaps, Dim, TensorType};

/// Places every buffer that is read or written by a group or stands at the border. Buffers nobody stores get a slot of no
/// bytes.
pub fn place(lowered: &Lowered, groups: &[Group], target: &Target, config: &Config) -> Result<(Vec<PlacedBuffer>, Vec<Slot>), String> {
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
    place_temporaries(lowered, groups, config, &mut slot_of, &mut slots, &bytes);
    let empty = SlotId(slots.len() as u32);
    slots.push(Slot { bytes: Dim::int(0), kind: SlotKind::Temporary });
    let placed = lowered
        .buffers
        .iter()
        .enumerate()
        .map(|(i, b)| PlacedBuffer { name: b.name.clone(), ty: b.ty.clone(), storage: storage[i], slot: slot_of[i].unwrap_or(empty) })
        .collect();
    Ok((placed, slots))
}

fn place_temporaries(
    lowered: &Lowered,
    groups: &[Group],
    config: &Config,
    slot_of: &mut [Option<SlotId>],
    slots: &mut Vec<Slot>,
    bytes: &dyn Fn(BufferId) -> Dim,
) {
    let mut last_use = vec![0usize; lowered.buffers.len()];
    for (at, group) in groups.iter().enumerate() {
        let written = group.nest.writes.iter().map(|w| w.buffer);
        group.nest.reads().into_iter().chain(written).for_each(|b| last_use[b.0 as usize] = at);
    }
    let mut free: Vec<SlotId> = vec![];
    for (at, group) in groups.iter().enumerate() {
        let mut written: Vec<BufferId> = group.nest.writes.iter().map(|w| w.buffer).collect();
        written.dedup();
        for b in &written {
            if slot_of[b.0 as usize].is_none() {
                let need = bytes(*b);
                let found = config.reuse.then(|| best_fit(&free, slots, &need)).flatten();
                let slot = found.map(|i| free.remove(i)).unwrap_or_else(|| {
                    slots.push(Slot { bytes: need, kind: SlotKind::Temporary });
                    SlotId(slots.len() as u32 - 1)
                });
                slot_of[b.0 as usize] = Some(slot);
            }
        }
        let mut touched = group.nest.reads();
        touched.extend(written);
        touched.sort();
        touched.dedup();
        for b in touched {
            if let Some(slot) = slot_of[b.0 as usize]
                && last_use[b.0 as usize] == at
                && slots[slot.0 as usize].kind == SlotKind::Temporary
            {
                free.push(slot);
            }
        }
    }
}

/// The free slot that wastes least and at most half of itself; equal sizes only when sizes are symbolic.
fn best_fit(free: &[SlotId], slots: &[Slot], need: &Dim) -> Option<usize> {
    let fits = |s: &SlotId| -> Option<i64> {
        let have = &slots[s.0 as usize].bytes;
        match (have.as_int(), need.as_int()) {
            (Some(h), Some(n)) => (h >= n && h <= n.saturating_mul(2)).then_some(h - n),
            _ => (have == need).then_some(0),
        }
    };
    free.iter().enumerate().filter_map(|(i, s)| fits(s).map(|waste| (waste, i))).min().map(|(_, i)| i)
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
    let mut out = vec![];
    for (i, buffer) in lowered.buffers.iter().enumerate() {
        let id = BufferId(i as u32);
        let used = groups.iter().any(|g| g.nest.reads().contains(&id) || g.nest.writes.iter().any(|w| w.buffer == id));
        let storage = match buffer.ty.dtype {
            _ if caps.is_cpu() => Storage::Native,
            DType::F32 | DType::I32 | DType::U32 => Storage::Native,
            DType::F64 if caps.f64 => Storage::Native,
            DType::F64 if used => {
                return Err(format!("{} is f64, which {} lacks: cast it to f32, or use a device with 64-bit floats", buffer.name, caps.name));
            }
            DType::F64 => Storage::Native,
            DType::I64 if caps.i64 => Storage::Native,
            DType::I64 => Storage::Narrow,
            DType::F16 if caps.f16 => Storage::Native,
            dtype => {
                let per_word = 4 / dtype.size() as u32;
                let mut writers = groups.iter().filter(|g| g.nest.writes.iter().any(|w| w.buffer == id));
                let owned = writers.all(|g| owns_words(&g.nest, id, per_word));
                if owned { Storage::Packed } else { Storage::Word }
            }
        };
        out.push(storage);
    }
    Ok(out)
}

/// Whether a kernel that writes `buffer` packed may own whole words: a pointwise kernel that writes it at the identity.
fn owns_words(nest: &Nest, buffer: BufferId, _per_word: u32) -> bool {
    let identity = flatten(&nest.row_axes(), &nest.rows);
    let plain = nest.tag == Tag::Loop && nest.cols.is_empty() && !nest.has_column_work();
    plain && nest.writes.iter().all(|w| w.index == identity) && !nest.reads().contains(&buffer)
}
