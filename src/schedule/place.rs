//! Element formats and the memory plan: which slot each buffer lives in.
//!
//! Slots are separate device buffers, not offsets into one arena, since wgpu tracks hazards per buffer. Temporaries whose
//! lifetimes do not meet share a slot: the largest are placed first, each in the smallest slot that is free for as long as it
//! lives (Y. Pisarchyk and J. Lee, "Efficient memory management for deep neural net inference", 2020: greedy by size). A launch that
//! reads one buffer and writes another uses both at once, so that every kernel has what `Form::needs_distinct_slots` asks for; the
//! check of a program's memory follows that, and code generation refuses what does not have it.

use super::group::Group;
use super::program::{PlacedBuffer, Slot, SlotId, SlotKind, buffer_bytes};
use crate::config::{Config, Target};
use crate::graph::InputRole;
use crate::loop_ir::BufferId;
use crate::loop_ir::facts::owns_words;
use crate::lower::Lowered;
use crate::types::{DType, DeviceCaps, Dim, Storage};
use std::collections::BTreeMap;

/// Places every buffer that is read or written by a group or stands at the border, and takes them out of `lowered`. Buffers nobody
/// stores get a slot of no bytes.
///
/// `in_place` tells which buffer takes over the memory of which, and `together` how many neighbors one launch takes (each runs alone where
/// it is empty): they share no slot but for the same buffer.
pub fn place(
    lowered: &mut Lowered,
    groups: &[Group],
    together: &[u32],
    in_place: &[(BufferId, BufferId)],
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
    place_temporaries(lowered, &launches(groups, together), in_place, config, &mut slot_of, &mut slots, &bytes);
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

/// First and last launch that uses a buffer.
type Span = (usize, usize);

fn place_temporaries(
    lowered: &Lowered,
    launches: &[&[Group]],
    in_place: &[(BufferId, BufferId)],
    config: &Config,
    slot_of: &mut [Option<SlotId>],
    slots: &mut Vec<Slot>,
    bytes: &dyn Fn(BufferId) -> Dim,
) {
    let mut spans: Vec<Option<Span>> = vec![None; lowered.buffers.len()];
    for (at, launch) in launches.iter().enumerate() {
        for b in launch.iter().flat_map(|g| &g.kernel.buffers) {
            spans[b.0 as usize].get_or_insert((at, at)).1 = at;
        }
    }
    // Who takes over memory lives in it together with whom it takes it from: one tenant, the first of them.
    let mut tenant: Vec<BufferId> = (0..spans.len() as u32).map(BufferId).collect();
    for &(to, from) in in_place {
        let first = tenant[from.0 as usize];
        tenant[to.0 as usize] = first;
        let last = spans[to.0 as usize].take().map(|(_, last)| last);
        if let (Some(whole), Some(last)) = (&mut spans[first.0 as usize], last) {
            whole.1 = last;
        }
    }
    let open = |i: usize| slot_of[i].is_none();
    let mut wanted: Vec<(BufferId, Dim, Span)> = spans
        .iter()
        .enumerate()
        .filter(|(i, _)| open(*i))
        .filter_map(|(i, s)| s.map(|s| (BufferId(i as u32), bytes(BufferId(i as u32)), s)))
        .collect();
    // Those that live longest first among equals: the short ones find gaps between them.
    wanted.sort_by_key(|(b, bytes, span)| (std::cmp::Reverse(bytes.as_int()), std::cmp::Reverse(span.1 - span.0), *b));
    let mut tenants: Vec<Tenants> = vec![];
    let first = slots.len();
    for (b, need, span) in wanted {
        let fits = |k: &usize| config.reuse && admits(&slots[first + k].bytes, &need) && tenants[*k].are_away(span);
        let at = (0..tenants.len()).rev().find(fits).unwrap_or_else(|| {
            slots.push(Slot { bytes: need, kind: SlotKind::Temporary });
            tenants.push(Tenants::default());
            tenants.len() - 1
        });
        tenants[at].0.insert(span.0, span.1);
        slot_of[b.0 as usize] = Some(SlotId((first + at) as u32));
    }
    in_place.iter().for_each(|(to, _)| slot_of[to.0 as usize] = slot_of[tenant[to.0 as usize].0 as usize]);
}

/// Whether a slot holds what is placed after it: the largest come first; equal sizes only where one is a symbol's.
fn admits(slot: &Dim, need: &Dim) -> bool {
    slot == need || (slot.as_int().is_some() && need.as_int().is_some())
}

/// Last launch by first launch of what lives in a slot.
#[derive(Default)]
struct Tenants(BTreeMap<usize, usize>);

impl Tenants {
    fn are_away(&self, (first, last): Span) -> bool {
        self.0.range(..=last).next_back().is_none_or(|(_, end)| *end < first)
    }
}

/// Buffers that blocks of control flow and what is around them share, whose formats both must know without the other.
fn shared(lowered: &Lowered, groups: &[Group]) -> Vec<bool> {
    let mut shared = vec![false; lowered.buffers.len()];
    let controls = groups.iter().filter(|g| g.kernel.structure.nest.control().is_some());
    controls.flat_map(|g| &g.kernel.buffers).for_each(|b| shared[b.0 as usize] = true);
    let border = lowered.inputs.iter().map(|i| i.buffer).chain(lowered.outputs.iter().map(|o| o.buffer));
    border.filter(|_| lowered.is_block).for_each(|b| shared[b.0 as usize] = true);
    shared
}

/// Element formats: what the device has natively, else packed where every writer owns whole words, else a word an element; what is
/// shared with a block a word, too.
fn storages(lowered: &Lowered, groups: &[Group], caps: &DeviceCaps) -> Result<Vec<Storage>, String> {
    let (mut used, mut writers) = (vec![false; lowered.buffers.len()], vec![vec![]; lowered.buffers.len()]);
    let shared = shared(lowered, groups);
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
            _ if !shared[i] && writers[i].iter().all(|(nest, own)| owns_words(nest, *own)) => Storage::Packed,
            _ => Storage::Word,
        };
        out.push(storage);
    }
    Ok(out)
}
