//! The order in which kernels run: that of the program, but for what frees memory, which runs as soon as it can.
//!
//! A list schedule over the kernels that wait for no other (R. L. Graham, 1969). Next is a kernel that frees at least the bytes that
//! it takes: the gradient of a weight with its update, the reader of a value that was computed again. Where there is none, the
//! earliest in the program is. What helps many, as the step size of an optimizer, is as early as the earliest that waits for it; only
//! what is small may be hoisted so, since it is held until then. What frees much but takes much first waits, as long as it would raise
//! the peak and the program can go on without it: so does the gradient of tied embeddings beside that of the logits. A chunk of rows
//! does not wait: the next one would stay in memory beside it.

use super::group::{Group, Turn};
use super::in_place::LARGE;
use crate::loop_ir::BufferId;
use std::collections::BTreeSet;

/// Bytes that may be held for longer than needed.
const SMALL: i64 = 64 << 10;
/// Bytes above the peak so far for which a kernel waits.
const MUCH: i64 = 64 << 20;
/// What kernels hold and whom they wait for, by number.
pub struct Sequence<'a> {
    /// The kernels.
    pub groups: &'a [Group],
    /// Kernels that must run after each.
    pub successors: Vec<Vec<usize>>,
    /// Bytes of each buffer; none where it lives longer than the step.
    pub bytes: &'a [i64],
}

impl Sequence<'_> {
    /// All kernels, in an order that can run.
    pub fn order(&self) -> Vec<usize> {
        let mut walk = Walk::new(self);
        let mut order = vec![];
        while let Some(id) = walk.next() {
            order.push(id);
            walk.run(id);
        }
        order
    }

    fn written(&self, id: usize) -> Vec<BufferId> {
        let mut written: Vec<BufferId> = self.groups[id].kernel.writes().collect();
        written.sort_unstable();
        written.dedup();
        written
    }

    /// Where kernels stand in the program; small ones where the first stands that waits for them.
    fn places(&self) -> Vec<usize> {
        let mut place: Vec<usize> = self.groups.iter().map(|g| g.position).collect();
        let mut waiting = vec![0; self.groups.len()];
        self.successors.iter().flatten().for_each(|s| waiting[*s] += 1);
        let mut topological: Vec<usize> = (0..self.groups.len()).filter(|&id| waiting[id] == 0).collect();
        let mut at = 0;
        while let Some(&id) = topological.get(at) {
            at += 1;
            for &s in &self.successors[id] {
                waiting[s] -= 1;
                if waiting[s] == 0 {
                    topological.push(s);
                }
            }
        }
        for id in topological.into_iter().rev() {
            let held: i64 = self.written(id).iter().map(|b| self.bytes[b.0 as usize]).sum();
            if held <= SMALL {
                let first = self.successors[id].iter().map(|s| place[*s]).min().unwrap_or(usize::MAX);
                place[id] = place[id].min(first);
            }
        }
        place
    }
}

/// A schedule in the making.
struct Walk<'a> {
    of: &'a Sequence<'a>,
    place: Vec<usize>,
    /// Kernels that each kernel still waits for.
    waiting: Vec<usize>,
    /// How many kernels still read each buffer, and the sum of their numbers: the last one's, when the others are gone.
    readers: Vec<(u32, usize)>,
    held: Vec<bool>,
    /// Bytes held now, and at most so far.
    live: i64,
    peak: i64,
    ready: BTreeSet<(usize, usize)>,
    /// Those of them that free at least what they take.
    frees: BTreeSet<(usize, usize)>,
}

impl<'a> Walk<'a> {
    fn new(of: &'a Sequence<'a>) -> Walk<'a> {
        let (mut waiting, mut readers) = (vec![0; of.groups.len()], vec![(0, 0); of.bytes.len()]);
        of.successors.iter().flatten().for_each(|s| waiting[*s] += 1);
        for (id, group) in of.groups.iter().enumerate() {
            for b in group.kernel.reads() {
                let (count, sum) = &mut readers[b.0 as usize];
                (*count, *sum) = (*count + 1, *sum + id);
            }
        }
        let (ready, frees) = (BTreeSet::new(), BTreeSet::new());
        let mut walk = Walk { of, place: of.places(), waiting, readers, held: vec![false; of.bytes.len()], live: 0, peak: 0, ready, frees };
        (0..of.groups.len()).filter(|&id| walk.waiting[id] == 0).collect::<Vec<_>>().into_iter().for_each(|id| walk.becomes_ready(id));
        walk
    }

    fn next(&self) -> Option<usize> {
        let Some(&(_, id)) = self.frees.first() else { return self.ready.first().map(|&(_, id)| id) };
        if matches!(self.of.groups[id].turn, Turn::Chunk(_)) {
            return Some(id);
        }
        let phase = |id: usize| self.of.groups[id].phase;
        let mut others = self.ready.iter().map(|&(_, other)| other).filter(|&other| other != id && phase(other) == phase(id));
        let raise = self.raise(id);
        others.next().filter(|&other| raise > MUCH && self.raise(other) <= raise / 2).or(Some(id))
    }

    /// Bytes that a kernel would hold more than were held at any time.
    fn raise(&self, id: usize) -> i64 {
        (self.live + self.takes(id) - self.peak).max(0)
    }

    /// Bytes that a kernel writes beside what is held; large values take over memory.
    fn takes(&self, id: usize) -> i64 {
        let bytes = |b: &BufferId| self.of.bytes[b.0 as usize];
        let written = self.of.written(id);
        let dying: Vec<i64> = self.dying(id, &written).map(|b| bytes(&b)).collect();
        let takes_over = |b: &BufferId| bytes(b) >= LARGE && dying.contains(&bytes(b));
        written.iter().filter(|b| !self.held[b.0 as usize] && !takes_over(b)).map(bytes).sum()
    }

    /// Buffers that nobody reads behind a kernel.
    fn dying<'b>(&'b self, id: usize, written: &'b [BufferId]) -> impl Iterator<Item = BufferId> + 'b {
        let last = move |b: &BufferId| self.readers[b.0 as usize].0 == 1 && !written.contains(b);
        self.of.groups[id].kernel.reads().iter().copied().filter(last)
    }

    fn freed(&self, id: usize) -> i64 {
        self.dying(id, &self.of.written(id)).map(|b| self.of.bytes[b.0 as usize]).sum()
    }

    fn becomes_ready(&mut self, id: usize) {
        self.ready.insert((self.place[id], id));
        self.look(id);
    }

    /// Whether a kernel that is ready frees what it takes by now.
    fn look(&mut self, id: usize) {
        let frees = self.freed(id);
        if frees > 0 && self.takes(id) <= frees {
            self.frees.insert((self.place[id], id));
        }
    }

    fn run(&mut self, id: usize) {
        self.ready.remove(&(self.place[id], id));
        self.frees.remove(&(self.place[id], id));
        let taken: i64 = self.of.written(id).iter().filter(|b| !self.held[b.0 as usize]).map(|b| self.of.bytes[b.0 as usize]).sum();
        self.peak = self.peak.max(self.live + self.takes(id));
        self.live += taken - self.freed(id);
        self.of.written(id).iter().for_each(|b| self.held[b.0 as usize] = true);
        for b in self.of.groups[id].kernel.reads() {
            let (count, last) = &mut self.readers[b.0 as usize];
            (*count, *last) = (*count - 1, *last - id);
            let (count, last) = (*count, *last);
            if count == 1 && self.ready.contains(&(self.place[last], last)) {
                self.look(last);
            }
        }
        for &s in &self.of.successors[id] {
            self.waiting[s] -= 1;
            if self.waiting[s] == 0 {
                self.becomes_ready(s);
            }
        }
    }
}
