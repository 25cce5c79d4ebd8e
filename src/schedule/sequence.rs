//! The order in which kernels run: that of the program, but for what frees memory, which runs as soon as it can.
//!
//! A list schedule over the kernels that wait for no other (R. L. Graham, 1969). Next is a kernel that frees at least the bytes that
//! it takes: the gradient of a weight with its update, the reader of a value that was computed again. Where there is none, the
//! earliest in the program is. What helps many, as the step size of an optimizer, is as early as the earliest that waits for it; only
//! what is small may be hoisted so, since it is held until then.

use super::group::Group;
use crate::loop_ir::BufferId;
use std::collections::BTreeSet;

/// Bytes that may be held for longer than needed.
const SMALL: i64 = 64 << 10;
/// What kernels hold and whom they wait for, by number.
pub struct Sequence<'a> {
    /// Kernels that are no more are absent.
    pub groups: &'a [Option<Group>],
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

    fn group(&self, id: usize) -> &Group {
        self.groups[id].as_ref().expect("the kernel is alive")
    }

    fn alive(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.groups.len()).filter(|&id| self.groups[id].is_some())
    }

    fn written(&self, id: usize) -> BTreeSet<BufferId> {
        self.group(id).kernel.writes().collect()
    }

    /// Where kernels stand in the program; small ones where the first stands that waits for them.
    fn places(&self) -> Vec<usize> {
        let mut place: Vec<usize> = self.groups.iter().map(|g| g.as_ref().map_or(0, |g| g.position)).collect();
        let mut waiting = vec![0; self.groups.len()];
        self.successors.iter().flatten().for_each(|s| waiting[*s] += 1);
        let mut topological: Vec<usize> = self.alive().filter(|&id| waiting[id] == 0).collect();
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
    /// Kernels that still read each buffer.
    readers: Vec<BTreeSet<usize>>,
    held: Vec<bool>,
    ready: BTreeSet<(usize, usize)>,
    /// Those of them that free at least what they take.
    frees: BTreeSet<(usize, usize)>,
}

impl<'a> Walk<'a> {
    fn new(of: &'a Sequence<'a>) -> Walk<'a> {
        let (mut waiting, mut readers) = (vec![0; of.groups.len()], vec![BTreeSet::new(); of.bytes.len()]);
        of.successors.iter().flatten().for_each(|s| waiting[*s] += 1);
        for id in of.alive() {
            of.group(id).kernel.reads().iter().for_each(|b| {
                readers[b.0 as usize].insert(id);
            });
        }
        let (ready, frees) = (BTreeSet::new(), BTreeSet::new());
        let mut walk = Walk { of, place: of.places(), waiting, readers, held: vec![false; of.bytes.len()], ready, frees };
        of.alive().filter(|&id| walk.waiting[id] == 0).collect::<Vec<_>>().into_iter().for_each(|id| walk.becomes_ready(id));
        walk
    }

    fn next(&self) -> Option<usize> {
        self.frees.first().or(self.ready.first()).map(|&(_, id)| id)
    }

    fn takes(&self, id: usize) -> i64 {
        let written = self.of.written(id);
        written.iter().filter(|b| !self.held[b.0 as usize]).map(|b| self.of.bytes[b.0 as usize]).sum()
    }

    /// Bytes that nobody reads behind a kernel.
    fn freed(&self, id: usize) -> i64 {
        let written = self.of.written(id);
        let last = |b: &&BufferId| self.readers[b.0 as usize].len() == 1 && !written.contains(b);
        self.of.group(id).kernel.reads().iter().filter(last).map(|b| self.of.bytes[b.0 as usize]).sum()
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
        self.of.written(id).iter().for_each(|b| self.held[b.0 as usize] = true);
        for b in self.of.group(id).kernel.reads() {
            let readers = &mut self.readers[b.0 as usize];
            readers.remove(&id);
            if let (1, Some(&last)) = (readers.len(), readers.first())
                && self.ready.contains(&(self.place[last], last))
            {
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
