//! Small kernels that do not need one another run in one launch: the updates of many parameters, sums of their gradients.
//!
//! * Comes in: kernels in an order that can run. Goes out: the same kernels in an order that can run, and which neighbors share a
//!   launch.
//! * A small kernel waits until something needs what it wrote or would overwrite what it reads; by then others have come to
//!   wait beside it. Kernels that wait have levels: those of one level do not need one another.
//! * Worth it where a launch costs a noticeable part of the kernel's own time, by the device model.
//! * Invariants: kernels of a launch are of one phase, all or none of them write state, and their buffers fit the bindings of one
//!   kernel. What waits keeps few bytes alive, by [`HELD`].
//!
//! (`torch.compile` calls this a combo kernel; its fused optimizers are multi-tensor kernels.)

use super::group::Group;
use crate::loop_ir::{BufferId, Instr, Phase, Tag};
use crate::types::{DeviceCaps, DeviceModel};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;

/// Kernels of a launch: each is spelled in the shader, and shaders take time to compile.
const TOGETHER: usize = 8;
/// A kernel is small when its launch costs more than one part in this many of its time.
const NOTICEABLE: i64 = 8;
/// Bytes of temporaries that may wait to be read: one part in so many of what is held at most, within these bounds.
const PARTS: i64 = 4;
const HELD: [i64; 2] = [4 << 20, 64 << 20];

/// What joining needs to know about buffers.
pub struct Facts<'a> {
    /// Bytes of each buffer.
    pub bytes: &'a [i64],
    /// Whether it lives longer than a step.
    pub state: &'a [bool],
}

/// Orders the kernels anew; the numbers say how many of them each launch takes.
pub fn join(groups: Vec<Group>, facts: &Facts, caps: &DeviceCaps, model: &DeviceModel) -> (Vec<Group>, Vec<u32>) {
    let small = model.launch_ns as i64 * model.bandwidth_gbps as i64 * NOTICEABLE;
    let most = (held_at_most(&groups, facts) / PARTS).clamp(HELD[0], HELD[1]);
    let mut queue = Queue { limit: (caps.max_storage_buffers as usize).saturating_sub(1), ..Queue::default() };
    for (at, group) in groups.iter().enumerate() {
        let needs = queue.conflicts(group);
        if may_wait(group, facts, small) {
            queue.wait(at, group, needs, facts);
            if queue.held > most {
                queue.flush_all(&groups);
            }
        } else {
            queue.flush(needs, &groups);
            queue.order.push(at);
            queue.launches.push(1);
        }
    }
    queue.flush_all(&groups);
    let mut groups: Vec<Option<Group>> = groups.into_iter().map(Some).collect();
    let ordered = queue.order.iter().filter_map(|&at| groups[at].take()).collect();
    (ordered, queue.launches)
}

/// Bytes of temporaries that are held at once, at most, in the order at hand.
fn held_at_most(groups: &[Group], facts: &Facts) -> i64 {
    let mut spans: FxHashMap<BufferId, (usize, usize)> = FxHashMap::default();
    for (at, group) in groups.iter().enumerate() {
        for b in group.kernel.buffers.iter().filter(|b| !facts.state[b.0 as usize]) {
            spans.entry(*b).or_insert((at, at)).1 = at;
        }
    }
    // Hints of sizes may be anything.
    let mut change = vec![0i128; groups.len() + 1];
    for (b, (first, last)) in spans {
        change[first] += facts.bytes[b.0 as usize] as i128;
        change[last + 1] -= facts.bytes[b.0 as usize] as i128;
    }
    let mut held = 0;
    change
        .into_iter()
        .map(|by| {
            held += by;
            held
        })
        .max()
        .map_or(0, |most| most.min(i64::MAX as i128) as i64)
}

/// Whether a kernel is small, of a known size, and sets no status word that others look at.
fn may_wait(group: &Group, facts: &Facts, small: i64) -> bool {
    let (kernel, nest) = (&group.kernel, &group.kernel.structure.nest);
    let plain = nest.tag == Tag::Loop && !nest.body.iter().any(|s| matches!(s.instr, Instr::Sort { .. }));
    let known = nest.row_count().as_int().is_some() && nest.col_count().as_int().is_some();
    let bytes: i64 = kernel.buffers.iter().map(|b| facts.bytes[b.0 as usize]).fold(0, i64::saturating_add);
    plain && known && !kernel.structure.checks && bytes <= small && nest.row_count().hint() > 0
}

/// What kernels of a launch have in common.
type Kind = (Phase, bool, bool);

fn kind(group: &Group) -> Kind {
    (group.phase, group.commit, group.kernel.structure.column_work)
}

/// A kernel that waits.
struct Waiting {
    group: usize,
    level: usize,
    /// Others that wait and go first, by their numbers.
    needs: Vec<usize>,
}

#[derive(Default)]
struct Queue {
    /// Buffers that one kernel may bind.
    limit: usize,
    /// By number; `None` when gone.
    waiting: Vec<Option<Waiting>>,
    writers: FxHashMap<BufferId, usize>,
    readers: FxHashMap<BufferId, Vec<usize>>,
    held: i64,
    order: Vec<usize>,
    launches: Vec<u32>,
}

impl Queue {
    /// Those that wait and must go before `group`.
    fn conflicts(&self, group: &Group) -> Vec<usize> {
        let written = group.kernel.buffers.iter().filter_map(|b| self.writers.get(b));
        let overwritten = group.kernel.writes().filter_map(|b| self.readers.get(&b)).flatten();
        let mut out: Vec<usize> = written.chain(overwritten).copied().filter(|w| self.waiting[*w].is_some()).collect();
        out.sort_unstable();
        out.dedup();
        out
    }

    fn wait(&mut self, at: usize, group: &Group, needs: Vec<usize>, facts: &Facts) {
        let level = needs.iter().filter_map(|&n| self.waiting[n].as_ref()).map(|w| w.level + 1).max().unwrap_or(0);
        let number = self.waiting.len();
        for b in group.kernel.reads() {
            self.readers.entry(*b).or_default().push(number);
            self.held += if facts.state[b.0 as usize] { 0 } else { facts.bytes[b.0 as usize] };
        }
        for b in group.kernel.writes() {
            self.writers.insert(b, number);
        }
        self.waiting.push(Some(Waiting { group: at, level, needs }));
    }

    fn flush_all(&mut self, groups: &[Group]) {
        self.flush((0..self.waiting.len()).collect(), groups);
        self.waiting.clear();
        self.writers.clear();
        self.readers.clear();
        self.held = 0;
    }

    /// Lets these go, and whatever they need.
    fn flush(&mut self, wanted: Vec<usize>, groups: &[Group]) {
        let (mut open, mut gone) = (wanted, vec![]);
        while let Some(number) = open.pop() {
            if let Some(waiting) = self.waiting[number].take() {
                open.extend(&waiting.needs);
                gone.push(waiting);
            }
        }
        let mut by_kind: BTreeMap<(usize, Kind), Vec<usize>> = BTreeMap::new();
        gone.sort_by_key(|w| w.group);
        for w in gone {
            by_kind.entry((w.level, kind(&groups[w.group]))).or_default().push(w.group);
        }
        for (_, mut members) in by_kind {
            // Equal kernels side by side give equal shaders.
            members.sort_by_key(|&g| (groups[g].kernel.structure.id, g));
            self.emit(&members, groups);
        }
    }

    /// Launches of as many neighbors as fit one.
    fn emit(&mut self, members: &[usize], groups: &[Group]) {
        let mut first = 0;
        while first < members.len() {
            let mut buffers: FxHashSet<BufferId> = groups[members[first]].kernel.buffers.iter().copied().collect();
            let mut end = first + 1;
            while end < members.len() && end - first < TOGETHER {
                let more: Vec<BufferId> = groups[members[end]].kernel.buffers.iter().copied().filter(|b| !buffers.contains(b)).collect();
                if buffers.len() + more.len() > self.limit {
                    break;
                }
                buffers.extend(more);
                end += 1;
            }
            self.order.extend(&members[first..end]);
            self.launches.push((end - first) as u32);
            first = end;
        }
    }
}
