//! Which nests become one kernel: candidates are neighbors by buffer, in topological order.
//!
//! Cost: each round looks at every (kernel, buffer read) pair once; a merge copies two bodies. Candidates, in order: cheap
//! pointwise producers move into every consumer; a pointwise producer of one reduction moves into it; then each kernel tries
//! its producers, most shared bytes first; last, kernels of one domain that share reads.

use crate::fusion::{Limits, WhyNot, fuse, hint, is_pointwise, is_trivial};
use crate::loop_ir::{BufferId, Instr, Nest, Phase, Tag};
use crate::lower::Lowered;
use crate::types::Decision;
use std::collections::{BTreeMap, BTreeSet};

/// A kernel in the making.
#[derive(Clone, Debug)]
pub struct Group {
    /// What it does.
    pub nest: Nest,
    /// The latest phase of its members.
    pub phase: Phase,
    /// Writes state.
    pub commit: bool,
    /// Position of its first member before fusion; early kernels let what they read die early.
    pub position: usize,
}

/// Groups with the tables that find neighbors.
pub struct Grouping<'a> {
    groups: Vec<Option<Group>>,
    readers: Vec<BTreeSet<usize>>,
    writers: Vec<BTreeSet<usize>>,
    outputs: Vec<bool>,
    state: Vec<bool>,
    limits: Limits,
    lowered: &'a Lowered,
    /// Refusals and merges with their reasons.
    pub decisions: Vec<Decision>,
}

/// Fuses `groups` (one per nest) as far as the rules allow; the result is in execution order.
pub fn group(groups: Vec<Group>, lowered: &Lowered, limits: Limits, fuse_nests: bool) -> (Vec<Group>, Vec<Decision>) {
    let buffers = lowered.buffers.len();
    let mut outputs = vec![false; buffers];
    lowered.outputs.iter().for_each(|o| outputs[o.buffer.0 as usize] = true);
    let mut state = vec![false; buffers];
    lowered.inputs.iter().for_each(|i| state[i.buffer.0 as usize] = true);
    state.iter().zip(&mut outputs).for_each(|(s, o)| *o |= s);
    let mut grouping = Grouping {
        readers: vec![BTreeSet::new(); buffers],
        writers: vec![BTreeSet::new(); buffers],
        groups: vec![],
        outputs,
        state,
        limits,
        lowered,
        decisions: vec![],
    };
    for group in groups {
        grouping.add(group);
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
    fn add(&mut self, group: Group) -> usize {
        self.groups.push(None);
        self.set(self.groups.len() - 1, group)
    }

    fn set(&mut self, id: usize, group: Group) -> usize {
        group.nest.reads().into_iter().for_each(|b| {
            self.readers[b.0 as usize].insert(id);
        });
        group.nest.writes.iter().for_each(|w| {
            self.writers[w.buffer.0 as usize].insert(id);
        });
        self.groups[id] = Some(group);
        id
    }

    fn remove(&mut self, id: usize) -> Group {
        let group = self.groups[id].take().expect("the group is alive");
        group.nest.reads().into_iter().for_each(|b| {
            self.readers[b.0 as usize].remove(&id);
        });
        group.nest.writes.iter().for_each(|w| {
            self.writers[w.buffer.0 as usize].remove(&id);
        });
        group
    }

    fn get(&self, id: usize) -> &Group {
        self.groups[id].as_ref().expect("the group is alive")
    }

    fn alive(&self) -> Vec<usize> {
        (0..self.groups.len()).filter(|&id| self.groups[id].is_some()).collect()
    }

    /// Groups that must run after `id`.
    fn successors(&self, id: usize) -> BTreeSet<usize> {
        let group = self.get(id);
        let mut out: BTreeSet<usize> =
            group.nest.writes.iter().filter(|w| !self.is_state(w.buffer)).flat_map(|w| self.readers[w.buffer.0 as usize].iter().copied()).collect();
        for b in group.nest.reads() {
            if self.is_state(b) {
                out.extend(self.writers[b.0 as usize].iter().copied());
            }
        }
        if Lowered::sets_status(&group.nest) {
            out.extend(self.groups.iter().enumerate().filter(|(_, g)| g.as_ref().is_some_and(|g| g.commit)).map(|(i, _)| i));
        }
        out.remove(&id);
        out
    }

    /// State is read before it is written: the reverse of every other buffer.
    fn is_state(&self, buffer: BufferId) -> bool {
        self.state[buffer.0 as usize]
    }

    /// Whether `to` is reached from `from` through at least one other group.
    fn has_detour(&self, from: usize, to: usize) -> bool {
        let mut seen = BTreeSet::from([from, to]);
        let mut stack: Vec<usize> = self.successors(from).into_iter().filter(|s| *s != to).collect();
        while let Some(id) = stack.pop() {
            if !seen.insert(id) {
                continue;
            }
            for next in self.successors(id) {
                if next == to {
                    return true;
                }
                stack.push(next);
            }
        }
        false
    }

    /// Whether a buffer must be stored although `a` and `b` become one.
    fn is_kept(&self, buffer: BufferId, a: usize, b: usize) -> bool {
        self.outputs[buffer.0 as usize] || self.readers[buffer.0 as usize].iter().any(|r| *r != a && *r != b)
    }

    fn try_fuse(&self, a: usize, b: usize) -> Result<Nest, WhyNot> {
        let (x, y) = (self.get(a), self.get(b));
        let status = (Lowered::sets_status(&x.nest) || Lowered::sets_status(&y.nest)) && (x.commit || y.commit);
        if status {
            return Err(WhyNot::Status);
        }
        let nest = fuse(&x.nest, &y.nest, &|buffer| self.is_kept(buffer, a, b), &self.limits)?;
        if self.has_detour(a, b) || self.has_detour(b, a) {
            return Err(WhyNot::Cycle);
        }
        Ok(nest)
    }

    fn replace(&mut self, a: usize, b: usize, nest: Nest) -> usize {
        let (x, y) = (self.remove(a), self.remove(b));
        self.note(&x.nest.label, &y.nest.label, "fused", String::new());
        self.set(b, Group { nest, phase: x.phase.max(y.phase), commit: x.commit || y.commit, position: x.position.min(y.position) })
    }

    fn note(&mut self, a: &str, b: &str, verdict: &str, reason: String) {
        let decision = Decision { stage: "fusion".into(), subject: format!("{a} + {b}"), verdict: verdict.into(), reason };
        if !self.decisions.contains(&decision) {
            self.decisions.push(decision);
        }
    }

    /// Removes groups nobody reads.
    fn drop_unread(&mut self) {
        for id in self.alive().into_iter().rev() {
            let group = self.get(id);
            let needed = Lowered::sets_status(&group.nest)
                || group.nest.writes.iter().any(|w| self.outputs[w.buffer.0 as usize] || !self.readers[w.buffer.0 as usize].is_empty());
            if !needed {
                self.remove(id);
            }
        }
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
        let nest = &group.nest;
        if !is_pointwise(nest) || group.commit || Lowered::sets_status(nest) || nest.writes.iter().any(|w| self.outputs[w.buffer.0 as usize]) {
            return false;
        }
        let mut cost = 0;
        let mut loads = 0;
        for stmt in &nest.body {
            match &stmt.instr {
                Instr::Load { buffer, .. } => loads += (hint(&self.lowered.shape(*buffer).numel()) * 2 > hint(&nest.row_count())) as u32,
                Instr::Call(f, _) => cost += f.row().cost,
                _ => {}
            }
        }
        if loads == 0 && cost == 0 {
            return true;
        }
        let consumers = nest.writes.iter().flat_map(|w| self.readers[w.buffer.0 as usize].iter());
        let feeds_template = consumers.clone().any(|c| matches!(self.get(*c).nest.tag, Tag::Matmul { .. }));
        loads <= 1 && cost <= 12 && (!feeds_template || is_trivial(nest))
    }

    fn inline_everywhere(&mut self, id: usize) {
        let consumers: BTreeSet<usize> = self.get(id).nest.writes.iter().flat_map(|w| self.readers[w.buffer.0 as usize].iter().copied()).collect();
        for consumer in consumers {
            let (producer, reader) = (self.get(id), self.get(consumer));
            let written: Vec<BufferId> = producer.nest.writes.iter().map(|w| w.buffer).collect();
            match fuse(&producer.nest, &reader.nest, &|b| !written.contains(&b), &self.limits) {
                Ok(nest) => {
                    let old = self.remove(consumer);
                    self.set(consumer, Group { nest, ..old });
                }
                Err(why) => {
                    let (a, b) = (producer.nest.label.clone(), reader.nest.label.clone());
                    self.note(&a, &b, "refused", why.to_string());
                }
            }
        }
        self.drop_if_unread(id);
    }

    fn drop_if_unread(&mut self, id: usize) {
        if self.get(id).nest.writes.iter().all(|w| self.readers[w.buffer.0 as usize].is_empty() && !self.outputs[w.buffer.0 as usize]) {
            self.remove(id);
        }
    }

    /// A pointwise nest read by one reduction only is its prologue.
    fn inline_into_reductions(&mut self) {
        for id in self.alive() {
            if self.groups[id].is_none() || !is_pointwise(&self.get(id).nest) {
                continue;
            }
            let readers: BTreeSet<usize> = self.get(id).nest.writes.iter().flat_map(|w| self.readers[w.buffer.0 as usize].iter().copied()).collect();
            let [reader] = readers.iter().copied().collect::<Vec<_>>()[..] else { continue };
            let consumer = self.get(reader);
            if consumer.nest.tag == Tag::Loop && consumer.nest.has_column_work() {
                self.attempt(id, reader);
            }
        }
    }

    /// Each kernel with its producers, most bytes first. True when something was fused.
    fn fuse_producers(&mut self) -> bool {
        let mut changed = false;
        let mut order = self.alive();
        order.sort_by_key(|&id| self.get(id).position);
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
        match self.try_fuse(a, b) {
            Ok(nest) => Some(self.replace(a, b, nest)),
            Err(why) => {
                let (x, y) = (self.get(a).nest.label.clone(), self.get(b).nest.label.clone());
                self.note(&x, &y, "refused", why.to_string());
                None
            }
        }
    }

    fn producers(&self, id: usize) -> Vec<usize> {
        let mut bytes: BTreeMap<usize, i64> = BTreeMap::new();
        for b in self.get(id).nest.reads() {
            if self.is_state(b) {
                continue;
            }
            for &w in &self.writers[b.0 as usize] {
                if w != id {
                    *bytes.entry(w).or_default() += hint(&self.lowered.shape(b).numel());
                }
            }
        }
        let mut out: Vec<(usize, i64)> = bytes.into_iter().collect();
        out.sort_by_key(|(w, n)| (-n, *w));
        out.into_iter().map(|(w, _)| w).collect()
    }

    /// Kernels with column work over one domain that share reads and do not depend on each other.
    fn fuse_neighbors(&mut self) {
        for id in self.alive() {
            if self.groups[id].is_none() || !self.get(id).nest.has_column_work() || self.get(id).nest.tag != Tag::Loop {
                continue;
            }
            let neighbors: BTreeSet<usize> = self
                .get(id)
                .nest
                .reads()
                .iter()
                .filter(|b| hint(&self.lowered.shape(**b).numel()) > 256)
                .flat_map(|b| self.readers[b.0 as usize].iter().copied())
                .collect();
            for other in neighbors {
                if other <= id || self.groups[other].is_none() || self.groups[id].is_none() {
                    continue;
                }
                let (x, y) = (self.get(id), self.get(other));
                let fits = y.nest.has_column_work()
                    && y.nest.tag == Tag::Loop
                    && x.phase == y.phase
                    && x.nest.row_count() == y.nest.row_count()
                    && x.nest.col_count() == y.nest.col_count();
                let related = self.successors(id).contains(&other) || self.successors(other).contains(&id);
                if fits && !related {
                    self.attempt(id, other);
                }
            }
        }
    }

    /// Topological order, earliest position first; a kernel is as early as the earliest that waits for it.
    fn finish(mut self) -> (Vec<Group>, Vec<Decision>) {
        let alive = self.alive();
        let successors: BTreeMap<usize, BTreeSet<usize>> = alive.iter().map(|&id| (id, self.successors(id))).collect();
        let order = ordered(&successors, &|id| self.get(id).position);
        assert_eq!(order.len(), alive.len(), "fusion made a cycle");
        let mut urgency: BTreeMap<usize, usize> = BTreeMap::new();
        for &id in order.iter().rev() {
            let waiting = successors[&id].iter().map(|s| urgency[s]).min().unwrap_or(usize::MAX);
            urgency.insert(id, waiting.min(self.get(id).position));
        }
        let order = ordered(&successors, &|id| urgency[&id]);
        let groups = order.into_iter().map(|id| self.groups[id].take().expect("ordered once")).collect();
        (groups, self.decisions)
    }
}

/// A topological order that takes the smallest key among the ready ones.
fn ordered(successors: &BTreeMap<usize, BTreeSet<usize>>, key: &dyn Fn(usize) -> usize) -> Vec<usize> {
    let mut waiting: BTreeMap<usize, usize> = successors.keys().map(|&id| (id, 0)).collect();
    for s in successors.values().flatten() {
        *waiting.get_mut(s).expect("successors are alive") += 1;
    }
    let mut ready: BTreeSet<(usize, usize)> = waiting.iter().filter(|(_, n)| **n == 0).map(|(&id, _)| (key(id), id)).collect();
    let mut order = vec![];
    while let Some((_, id)) = ready.pop_first() {
        order.push(id);
        for s in &successors[&id] {
            let left = waiting.get_mut(s).expect("successors are alive");
            *left -= 1;
            if *left == 0 {
                ready.insert((key(*s), *s));
            }
        }
    }
    order
}
