//! Which nests become one kernel: candidates are neighbors by buffer, in topological order.
//!
//! Cost: each round looks at every (kernel, buffer read) pair once, at those refused before only when one of the two has
//! changed; two structures are merged once (`fusion::Memo`); the search for ways between them has a bound (`order.rs`).
//! Near-linear in the program. Candidates, in order: cheap pointwise producers move into every consumer; a pointwise producer of one reduction moves into it; then each kernel tries
//! its producers, most shared bytes first; last, kernels of one domain that share reads.

use super::group::Group;
use super::order::{Merge, Order};
use super::sequence::Sequence;
use crate::fusion::{Kernel, Limits, Memo, Structure, WhyNot};
use crate::loop_ir::{Buffer, BufferId, Instr, Phase, Tag};
use crate::lower::Lowered;
use crate::types::Decision;
use rustc_hash::{FxHashSet, FxHasher};
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

/// Nests of a program between two that are far from each other: about as many as a layer has in the backward.
const FAR: usize = 128;

/// Kernels that share a read and are looked at together, counted from each.
const NEIGHBORS: usize = 8;

/// Groups on their way to kernels.
pub struct Grouping<'a> {
    groups: Vec<Option<Group>>,
    /// Positions of the groups, which are asked for from afar: they are small together.
    positions: Vec<u32>,
    /// A number of its own for each group as it is now.
    stamps: Vec<u32>,
    /// How many of them were given out.
    given: u32,
    order: Order,
    memo: &'a mut Memo,
    outputs: Vec<bool>,
    limits: Limits,
    /// Elements of each buffer.
    sizes: Vec<i64>,
    /// Bytes of each buffer that lives within the step; none of others.
    bytes: Vec<i64>,
    /// For each group as it is now, the stamps of those that were refused as its producers: nothing new comes of asking again.
    refused: Vec<SmallVec<[u32; 4]>>,
    /// Refusals and merges with their reasons.
    decisions: Vec<Decision>,
    /// Hashes of the decisions noted.
    noted: FxHashSet<u64>,
}

/// Fuses `groups` (one per nest, in an order that can run) as far as the rules allow; the result is in execution order.
pub fn group(groups: Vec<Group>, lowered: &Lowered, limits: Limits, fuse_nests: bool, memo: &mut Memo) -> (Vec<Group>, Vec<Decision>) {
    let buffers = lowered.buffers.len();
    let mut state = vec![false; buffers];
    lowered.inputs.iter().for_each(|i| state[i.buffer.0 as usize] = true);
    let mut outputs = state.clone();
    lowered.outputs.iter().for_each(|o| outputs[o.buffer.0 as usize] = true);
    let sizes: Vec<i64> = lowered.buffers.iter().map(|b| b.ty.numel().hint()).collect();
    let bytes_of = |(b, (stays, size)): (&Buffer, (&bool, &i64))| if *stays { 0 } else { size.saturating_mul(b.ty.dtype.size() as i64) };
    let bytes = lowered.buffers.iter().zip(outputs.iter().zip(&sizes)).map(bytes_of).collect();
    let mut grouping = Grouping {
        bytes,
        stamps: (0..groups.len() as u32).collect(),
        given: groups.len() as u32,
        positions: groups.iter().map(|g| g.position as u32).collect(),
        groups: Vec::with_capacity(groups.len()),
        order: Order::new(state),
        memo,
        outputs,
        limits,
        sizes,
        refused: vec![SmallVec::new(); groups.len()],
        decisions: vec![],
        noted: FxHashSet::default(),
    };
    for group in groups {
        grouping.order.add(&group);
        grouping.groups.push(Some(group));
    }
    grouping.drop_unread();
    if fuse_nests {
        grouping.inline_cheap();
        grouping.inline_into_reductions();
        while grouping.fuse_producers() {}
        grouping.fuse_neighbors();
        while grouping.fuse_producers() {}
    }
    grouping.finish()
}

impl Grouping<'_> {
    /// Another kernel for a group that stays.
    fn change(&mut self, id: usize, kernel: Kernel) {
        let group = self.groups[id].as_mut().expect("the group is alive");
        self.order.detach(id, group);
        group.kernel = kernel;
        self.order.attach(id, group);
        self.stamps[id] = self.given;
        self.given += 1;
        self.refused[id].clear();
    }

    fn remove(&mut self, id: usize) -> Group {
        let group = self.groups[id].take().expect("the group is alive");
        self.order.detach(id, &group);
        group
    }

    fn get(&self, id: usize) -> &Group {
        self.groups[id].as_ref().expect("the group is alive")
    }

    fn position(&self, id: usize) -> usize {
        self.positions[id] as usize
    }

    fn size(&self, buffer: BufferId) -> i64 {
        self.sizes[buffer.0 as usize]
    }

    fn alive(&self) -> Vec<usize> {
        (0..self.groups.len()).filter(|&id| self.groups[id].is_some()).collect()
    }

    /// Groups that read what `id` writes. Whoever reads state reads the value before the step.
    fn consumers(&self, id: usize) -> BTreeSet<usize> {
        let made = self.order.writes(id).iter().filter(|b| !self.order.is_state(**b));
        made.flat_map(|b| self.order.readers(*b).iter()).collect()
    }

    fn try_fuse(&mut self, a: usize, b: usize) -> Result<(Kernel, Merge), WhyNot> {
        let alive = "the group is alive";
        let (x, y) = (self.groups[a].as_ref().expect(alive), self.groups[b].as_ref().expect(alive));
        let status = (x.commit || y.commit) && (x.kernel.structure.checks || y.kernel.structure.checks);
        if status {
            return Err(WhyNot::Status);
        }
        if x.turn.with(y.turn).is_none() {
            return Err(WhyNot::Turns);
        }
        let (order, outputs) = (&self.order, &self.outputs);
        // Stored although the two become one.
        let keep = |buffer: BufferId| outputs[buffer.0 as usize] || order.readers(buffer).iter().any(|r| r != a && r != b);
        let elements =
            |id: usize, counts: &dyn Fn(&BufferId) -> bool| order.writes(id).iter().filter(|b| counts(b)).map(|b| self.size(*b)).sum::<i64>();
        if (x.phase, y.phase) == (Phase::Forward, Phase::Backward) {
            // What fusing spares crosses no more; what it brings forward does.
            let more = elements(b, &|_| true) - elements(a, &|b| !keep(*b));
            if more > 0 {
                return Err(WhyNot::Holds(more));
            }
        }
        if self.waits_long(a, b) {
            // What is read elsewhere by then, too, is held longer for this alone.
            let soon = |r: usize| self.position(r) <= self.position(a) + FAR;
            let own = |b: &&BufferId| !order.is_state(**b) && order.readers(**b).iter().all(soon);
            let held: i64 = order.reads(a).iter().filter(own).map(|b| self.size(*b)).sum();
            let more = held - elements(a, &|b| !keep(*b));
            if more > 0 {
                return Err(WhyNot::Waits(more));
            }
        }
        let fused = self.memo.fuse(&x.kernel, &y.kernel, &keep, &self.limits)?;
        Ok((fused, self.order.merge(a, b)?))
    }

    /// Whether a consumer needs something else that is computed long after its producer.
    fn waits_long(&self, producer: usize, consumer: usize) -> bool {
        let writers = |b: &BufferId| self.order.writers(*b).iter().filter(|w| *w != producer).map(|w| self.position(w)).max();
        let others = self.order.reads(consumer).iter().filter(|b| !self.order.is_state(**b) && self.size(**b) > 1);
        others.filter_map(writers).max().is_some_and(|last| last > self.position(producer) + FAR)
    }

    /// `b` becomes the two of them.
    fn replace(&mut self, a: usize, b: usize, fused: Kernel, merge: Merge) -> usize {
        self.note(a, b, None);
        let x = self.remove(a);
        self.order.merged(a, b, merge);
        let y = self.groups[b].as_mut().expect("the group is alive");
        (y.phase, y.commit, y.position) = (x.phase.max(y.phase), x.commit || y.commit, x.position.min(y.position));
        self.positions[b] = y.position as u32;
        y.turn = x.turn.with(y.turn).expect("try_fuse looked");
        self.change(b, fused);
        b
    }

    /// Records that two groups were fused, or why not; the same words once.
    fn note(&mut self, a: usize, b: usize, refusal: Option<&WhyNot>) {
        let label = |id: usize| &self.groups[id].as_ref().expect("the group is alive").kernel.label;
        let (x, y) = (label(a), label(b));
        let mut hasher = FxHasher::default();
        (x, y, refusal).hash(&mut hasher);
        if self.noted.insert(hasher.finish()) {
            let verdict = if refusal.is_some() { "refused" } else { "fused" };
            let reason = refusal.map(WhyNot::to_string).unwrap_or_default();
            self.decisions.push(Decision { stage: "fusion".into(), subject: format!("{x} + {y}"), verdict: verdict.into(), reason });
        }
    }

    /// Removes groups nobody reads.
    fn drop_unread(&mut self) {
        for id in self.alive().into_iter().rev() {
            let read = |b: &BufferId| self.outputs[b.0 as usize] || !self.order.readers(*b).is_empty();
            if !self.get(id).kernel.structure.checks && !self.order.writes(id).iter().any(read) {
                self.discard(id);
            }
        }
    }

    fn discard(&mut self, id: usize) {
        self.remove(id);
        self.order.vacate(id);
    }

    /// Sources, and pointwise nests that recomputing makes no dearer than loading, move into all their consumers.
    fn inline_cheap(&mut self) {
        for id in self.alive() {
            if self.groups[id].is_some() && self.is_cheap(id) {
                self.inline_everywhere(id);
            }
        }
    }

    fn is_cheap(&self, id: usize) -> bool {
        let group = self.get(id);
        let (kernel, structure) = (&group.kernel, &group.kernel.structure);
        let nest = &structure.nest;
        if !structure.pointwise || group.commit || structure.checks || kernel.writes().any(|b| self.outputs[b.0 as usize]) {
            return false;
        }
        let mut cost = 0;
        let mut loads = 0;
        for stmt in &nest.body {
            match &stmt.instr {
                Instr::Load { buffer, .. } => {
                    loads += (self.size(kernel.buffers[buffer.0 as usize]).saturating_mul(2) > nest.row_count().hint()) as u32
                }
                Instr::Call(f, _) => cost += f.row().cost,
                _ => {}
            }
        }
        if loads == 0 && cost == 0 {
            return true;
        }
        let feeds_template = self.consumers(id).into_iter().any(|c| matches!(self.get(c).kernel.structure.nest.tag, Tag::Matmul { .. }));
        loads <= 1 && cost <= 12 && (!feeds_template || nest.is_trivial())
    }

    fn inline_everywhere(&mut self, id: usize) {
        let written = self.order.writes(id).to_vec();
        for consumer in self.consumers(id) {
            let (x, y) = (&self.groups[id], &self.groups[consumer]);
            let (Some(x), Some(y)) = (x, y) else { continue };
            if self.order.reads_too_late(id, consumer) {
                self.note(id, consumer, Some(&WhyNot::Cycle));
                continue;
            }
            match self.memo.fuse(&x.kernel, &y.kernel, &|b| !written.contains(&b), &self.limits) {
                Ok(fused) => self.change(consumer, fused),
                Err(why) => self.note(id, consumer, Some(&why)),
            }
        }
        if written.iter().all(|b| self.order.readers(*b).is_empty() && !self.outputs[b.0 as usize]) {
            self.discard(id);
        }
    }

    /// A pointwise nest read by one reduction only is its prologue.
    fn inline_into_reductions(&mut self) {
        for id in self.alive() {
            if self.groups[id].is_none() || !self.get(id).kernel.structure.pointwise {
                continue;
            }
            let readers: Vec<usize> = self.consumers(id).into_iter().collect();
            let [reader] = readers[..] else { continue };
            let consumer = &self.get(reader).kernel.structure;
            if consumer.nest.tag == Tag::Loop && consumer.column_work {
                self.attempt(id, reader);
            }
        }
    }

    /// Each kernel with its producers, most bytes first. True when something was fused.
    fn fuse_producers(&mut self) -> bool {
        let mut changed = false;
        let mut order = self.alive();
        order.sort_by_key(|&id| self.position(id));
        for start in order {
            if self.groups[start].is_none() {
                continue;
            }
            let mut id = start;
            while let Some(next) = self.producers(id).into_iter().find_map(|p| self.attempt(p, id)) {
                id = next;
                changed = true;
            }
        }
        changed
    }

    fn attempt(&mut self, a: usize, b: usize) -> Option<usize> {
        let stamp = self.stamps[a];
        if self.refused[b].contains(&stamp) {
            return None;
        }
        match self.try_fuse(a, b) {
            Ok((fused, merge)) => Some(self.replace(a, b, fused, merge)),
            Err(why) => {
                self.note(a, b, Some(&why));
                self.refused[b].push(stamp);
                None
            }
        }
    }

    fn producers(&self, id: usize) -> Vec<usize> {
        let mut bytes: BTreeMap<usize, i64> = BTreeMap::new();
        for &b in self.order.reads(id).iter().filter(|b| !self.order.is_state(**b)) {
            for w in self.order.writers(b).iter().filter(|w| *w != id) {
                *bytes.entry(w).or_default() += self.size(b);
            }
        }
        let mut out: Vec<(usize, i64)> = bytes.into_iter().collect();
        out.sort_by_key(|(w, n)| (-n, *w));
        out.into_iter().map(|(w, _)| w).collect()
    }

    /// Kernels over one domain that share reads and do not depend on each other: two of a kind, or a pointwise one and one that it
    /// rides in.
    fn fuse_neighbors(&mut self) {
        for id in self.alive() {
            if self.groups[id].is_none() {
                continue;
            }
            let large = self.order.reads(id).iter().filter(|b| self.size(**b) > 256);
            let neighbors: BTreeSet<usize> = large.flat_map(|b| self.order.readers(*b).behind(id).take(NEIGHBORS)).collect();
            for other in neighbors {
                if self.groups[other].is_none() || self.groups[id].is_none() {
                    continue;
                }
                let related = |a, b| self.order.successors(a).any(|s| s == b);
                if self.may_share(id, other) && !related(id, other) && !related(other, id) && self.attempt(id, other).is_none() {
                    self.attempt(other, id);
                }
            }
        }
    }

    /// Whether two kernels that share reads are of a kind that one kernel holds.
    fn may_share(&self, id: usize, other: usize) -> bool {
        let (x, y) = (self.get(id), self.get(other));
        let points = |s: &Structure| s.nest.row_count() * s.nest.col_count();
        let plain = |s: &Structure| s.nest.tag == Tag::Loop && (s.column_work || s.pointwise);
        let (a, b) = (&*x.kernel.structure, &*y.kernel.structure);
        let alike = plain(a) && plain(b) && a.column_work == b.column_work && points(a) == points(b);
        let rides =
            |a: &Structure, b: &Structure| a.pointwise && !b.pointwise && (points(a) == points(b) || a.nest.row_count() == b.nest.row_count());
        x.phase == y.phase && (alike || rides(a, b) || rides(b, a))
    }

    /// In the order in which they run.
    fn finish(self) -> (Vec<Group>, Vec<Decision>) {
        let alive = self.alive();
        // Those that are left, numbered anew.
        let mut number = vec![0; self.groups.len()];
        alive.iter().enumerate().for_each(|(new, &id)| number[id] = new);
        let numbered = |id: usize| {
            let mut successors: Vec<usize> = self.order.successors(id).map(|s| number[s]).collect();
            successors.sort_unstable();
            successors.dedup();
            successors
        };
        let successors = alive.iter().map(|&id| numbered(id)).collect();
        let groups: Vec<Group> = self.groups.into_iter().flatten().collect();
        let order = Sequence { groups: &groups, successors, bytes: &self.bytes }.order();
        assert_eq!(order.len(), groups.len(), "fusion made a cycle");
        let mut groups: Vec<Option<Group>> = groups.into_iter().map(Some).collect();
        let groups = order.into_iter().map(|id| groups[id].take().expect("ordered once")).collect();
        (groups, self.decisions)
    }
}
