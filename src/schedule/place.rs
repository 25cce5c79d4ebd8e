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
    let mut tenants = Tenants::default();
    let first = slots.len();
    for (b, need, span) in wanted {
        let found = if config.reuse { tenants.last_away(span, &|k| admits(&slots[first + k].bytes, &need)) } else { None };
        let at = found.unwrap_or_else(|| {
            slots.push(Slot { bytes: need, kind: SlotKind::Temporary });
            slots.len() - 1 - first
        });
        tenants.insert(at, span);
        slot_of[b.0 as usize] = Some(SlotId((first + at) as u32));
    }
    in_place.iter().for_each(|(to, _)| slot_of[to.0 as usize] = slot_of[tenant[to.0 as usize].0 as usize]);
}

/// Whether a slot holds what is placed after it: the largest come first; equal sizes only where one is a symbol's.
fn admits(slot: &Dim, need: &Dim) -> bool {
    slot == need || (slot.as_int().is_some() && need.as_int().is_some())
}

/// What lives in the slots. Deep networks hold a value or more of each layer at once, whose slots must not be looked at one by one.
#[derive(Default)]
struct Tenants {
    /// For each slot, last launch by first launch of what lives in it.
    slots: Vec<BTreeMap<usize, usize>>,
    /// Launches during which the first tenants of all slots are at home: of single slots, then of neighbors two by two, and so on.
    /// Where none is, the span ends before it begins.
    at_home: Vec<Vec<Span>>,
}

impl Tenants {
    /// The last slot that admits a tenant and where nobody is at home during a span.
    fn last_away(&self, span: Span, admits: &dyn Fn(usize) -> bool) -> Option<usize> {
        self.last_away_of(self.at_home.len().checked_sub(1)?, 0, span, admits)
    }

    /// The same among the slots that one entry of a level stands for.
    fn last_away_of(&self, level: usize, at: usize, span: Span, admits: &dyn Fn(usize) -> bool) -> Option<usize> {
        let home = *self.at_home[level].get(at)?;
        if home.0.max(span.0) <= home.1.min(span.1) {
            return None;
        }
        let Some(below) = level.checked_sub(1) else { return (admits(at) && self.is_away(at, span)).then_some(at) };
        self.last_away_of(below, 2 * at + 1, span, admits).or_else(|| self.last_away_of(below, 2 * at, span, admits))
    }

    fn is_away(&self, slot: usize, (first, last): Span) -> bool {
        self.slots[slot].range(..=last).next_back().is_none_or(|(_, end)| *end < first)
    }

    /// A tenant of a slot, or of a new one behind the others.
    fn insert(&mut self, slot: usize, span: Span) {
        if slot == self.slots.len() {
            self.slots.push(BTreeMap::new());
            self.add_home(span);
        }
        self.slots[slot].insert(span.0, span.1);
    }

    fn add_home(&mut self, span: Span) {
        let mut at = self.slots.len() - 1;
        let levels = self.slots.len().next_power_of_two().ilog2() as usize;
        for level in 0..=levels {
            if self.at_home.len() == level {
                // All that a new level stands for is what the one below it began with.
                let whole = level.checked_sub(1).map(|below| self.at_home[below][0]);
                self.at_home.push(whole.into_iter().collect());
            }
            match self.at_home[level].get_mut(at) {
                Some(home) => *home = (home.0.max(span.0), home.1.min(span.1)),
                None => self.at_home[level].push(span),
            }
            at /= 2;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Spans drawn at random, against a look at every slot.
    #[test]
    fn the_last_free_slot_is_found() {
        let (mut tenants, mut random) = (Tenants::default(), 1u64);
        let mut below = |n: u64| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((random >> 33) % n) as usize
        };
        let mut reused = 0;
        for _ in 0..600 {
            let start = below(200);
            let (span, odd) = ((start, start + below(30) * below(8)), below(4));
            let admits = |k: usize| k % 4 != odd;
            let found = tenants.last_away(span, &admits);
            assert_eq!(found, (0..tenants.slots.len()).rev().find(|&k| admits(k) && tenants.is_away(k, span)));
            reused += found.is_some() as usize;
            tenants.insert(found.unwrap_or(tenants.slots.len()), span);
        }
        assert!(reused > 50 && tenants.slots.len() > 50, "{reused} of {}", tenants.slots.len());
    }
}
