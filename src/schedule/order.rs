//! Which kernel must run before which, while kernels merge.
//!
//! Every kernel has a key; keys ascend along all dependencies. Two kernels may merge when no other kernel stands on a way from
//! the earlier to the later one. That is searched from both ends, only between their keys, and with limited fuel, so that
//! programs of many equal layers cost as much for each layer as programs of one. After a merge, the few kernels that stood
//! between the two move to the other side (D. J. Pearce and P. H. J. Kelly, "A dynamic topological sort algorithm for directed
//! acyclic graphs", JEA 11, 2007; here with gaps between keys instead of dense numbers).

use super::group::Group;
use crate::fusion::WhyNot;
use crate::loop_ir::BufferId;
use smallvec::SmallVec;
use std::collections::{BTreeSet, VecDeque};

/// Distance of neighboring keys when they are new.
const GAP: u64 = 1 << 32;
/// Kernels that one search looks at. Whoever depends on so much between the two is far away, and fusing would keep values alive
/// for as long.
const FUEL: usize = 128;

/// Readers and writers of every buffer, and an order of kernels.
pub struct Order {
    readers: Vec<Users>,
    writers: Vec<Users>,
    /// Buffers of the program's inputs: read before they are written, the reverse of every other buffer.
    state: Vec<bool>,
    kernels: Vec<Kernel>,
    /// Kernels that can set the status word, and those that write state, which wait for them.
    checks: BTreeSet<usize>,
    commits: BTreeSet<usize>,
    /// Those with the smallest and the largest key.
    ends: [u32; 2],
}

/// What a kernel touches.
#[derive(Clone, Debug)]
struct Kernel {
    reads: SmallVec<[BufferId; 4]>,
    writes: SmallVec<[BufferId; 2]>,
    key: u64,
    /// Those with the next smaller and the next larger key.
    beside: [u32; 2],
}

/// In the place of a kernel: there is none.
const NONE: u32 = u32::MAX;
/// Sides of a kernel: smaller keys, and larger ones.
const BEFORE: usize = 0;
const BEHIND: usize = 1;

/// What must move when two kernels merge.
pub enum Merge {
    /// The merged kernel stands where the later one stood; these come after it, in this order.
    Late(Vec<usize>),
    /// The merged kernel stands where the earlier one stood; these come before it, in this order.
    Early(Vec<usize>),
}

impl Order {
    /// No kernels yet; `state` tells the buffers of inputs.
    pub fn new(state: Vec<bool>) -> Order {
        let none = vec![Users::default(); state.len()];
        Order { readers: none.clone(), writers: none, state, kernels: vec![], checks: BTreeSet::new(), commits: BTreeSet::new(), ends: [NONE; 2] }
    }

    /// A kernel behind all others; gives its number.
    pub fn add(&mut self, group: &Group) -> usize {
        let id = self.kernels.len();
        let last = self.ends[BEHIND];
        let key = self.key_or(last, 0) + GAP;
        self.kernels.push(Kernel { key, reads: SmallVec::new(), writes: SmallVec::new(), beside: [NONE; 2] });
        self.link(last, id);
        self.attach(id, group);
        id
    }

    /// Records what kernel `id` reads and writes.
    pub fn attach(&mut self, id: usize, group: &Group) {
        let mut writes: SmallVec<[BufferId; 2]> = group.kernel.writes().collect();
        writes.sort();
        writes.dedup();
        let reads: SmallVec<[BufferId; 4]> = SmallVec::from_slice(group.kernel.reads());
        reads.iter().for_each(|b| self.readers[b.0 as usize].insert(id));
        writes.iter().for_each(|b| self.writers[b.0 as usize].insert(id));
        if group.kernel.structure.checks {
            self.checks.insert(id);
        }
        if group.commit {
            self.commits.insert(id);
        }
        let kernel = &mut self.kernels[id];
        (kernel.reads, kernel.writes) = (reads, writes);
    }

    /// Forgets what kernel `id`, still as it was attached, reads and writes; it keeps its place.
    pub fn detach(&mut self, id: usize, group: &Group) {
        let reads = std::mem::take(&mut self.kernels[id].reads);
        let writes = std::mem::take(&mut self.kernels[id].writes);
        reads.iter().for_each(|b| self.readers[b.0 as usize].remove(id));
        writes.iter().for_each(|b| self.writers[b.0 as usize].remove(id));
        if group.kernel.structure.checks {
            self.checks.remove(&id);
        }
        if group.commit {
            self.commits.remove(&id);
        }
    }

    /// Forgets the place of a kernel that is no more.
    pub fn vacate(&mut self, id: usize) {
        self.unlink(id);
    }

    /// Kernels that read a buffer.
    pub fn readers(&self, buffer: BufferId) -> &Users {
        &self.readers[buffer.0 as usize]
    }

    /// Kernels that write a buffer.
    pub fn writers(&self, buffer: BufferId) -> &Users {
        &self.writers[buffer.0 as usize]
    }

    /// Buffers that a kernel reads, in order of first use.
    pub fn reads(&self, id: usize) -> &[BufferId] {
        &self.kernels[id].reads
    }

    /// Buffers that a kernel writes.
    pub fn writes(&self, id: usize) -> &[BufferId] {
        &self.kernels[id].writes
    }

    /// Whether a buffer is an input's.
    pub fn is_state(&self, buffer: BufferId) -> bool {
        self.state[buffer.0 as usize]
    }

    /// Kernels that must run after `id`; some may repeat.
    pub fn successors(&self, id: usize) -> impl Iterator<Item = usize> + '_ {
        let kernel = &self.kernels[id];
        let results = kernel.writes.iter().filter(|b| !self.is_state(**b)).flat_map(|b| self.readers(*b).iter());
        let overwriters = kernel.reads.iter().filter(|b| self.is_state(**b)).flat_map(|b| self.writers(*b).iter());
        let commits = self.checks.contains(&id).then_some(&self.commits).into_iter().flatten();
        results.chain(overwriters).chain(commits.copied()).filter(move |s| *s != id)
    }

    /// Kernels that must run before `id`; some may repeat.
    fn predecessors(&self, id: usize) -> impl Iterator<Item = usize> + '_ {
        let kernel = &self.kernels[id];
        let producers = kernel.reads.iter().filter(|b| !self.is_state(**b)).flat_map(|b| self.writers(*b).iter());
        let readers = kernel.writes.iter().filter(|b| self.is_state(**b)).flat_map(|b| self.readers(*b).iter());
        let checks = self.commits.contains(&id).then_some(&self.checks).into_iter().flatten();
        producers.chain(readers).chain(checks.copied()).filter(move |s| *s != id)
    }

    /// Whether a consumer that does the work of `producer` itself would read state that is overwritten before the consumer may run: two
    /// states that take each other's place cannot both be read and written by one kernel each.
    pub fn reads_too_late(&self, producer: usize, consumer: usize) -> bool {
        let states = self.reads(producer).iter().filter(|b| self.is_state(**b));
        let writers: BTreeSet<usize> = states.flat_map(|b| self.writers(*b).iter()).filter(|w| *w != consumer).collect();
        let mut open = Front::new(writers.into_iter());
        for _ in 0..FUEL {
            let Some(id) = open.open.pop_front() else { return false };
            let after: Vec<usize> = self.successors(id).collect();
            if after.contains(&consumer) {
                return true;
            }
            open.extend(after.into_iter(), &Front::new(std::iter::empty()));
        }
        true
    }

    /// Whether two kernels may become one, and what moves when they do.
    pub fn merge(&self, a: usize, b: usize) -> Result<Merge, WhyNot> {
        let key = |id: usize| self.kernels[id].key;
        let (early, late) = if key(a) < key(b) { (a, b) } else { (b, a) };
        let between = |id: &usize| key(early) < key(*id) && key(*id) < key(late);
        let mut after = Front::new(self.successors(early).filter(between));
        let mut before = Front::new(self.predecessors(late).filter(between));
        if after.seen.iter().any(|id| before.seen.contains(id)) {
            return Err(WhyNot::Cycle);
        }
        for _ in 0..FUEL {
            if after.open.is_empty() {
                return Ok(Merge::Late(self.sorted(after.seen)));
            }
            if before.open.is_empty() {
                return Ok(Merge::Early(self.sorted(before.seen)));
            }
            let met = if after.open.len() <= before.open.len() {
                let id = after.open.pop_front().expect("it is not empty");
                after.extend(self.successors(id).filter(between), &before)
            } else {
                let id = before.open.pop_front().expect("it is not empty");
                before.extend(self.predecessors(id).filter(between), &after)
            };
            if met {
                return Err(WhyNot::Cycle);
            }
        }
        Err(WhyNot::SearchLimit)
    }

    fn sorted(&self, ids: BTreeSet<usize>) -> Vec<usize> {
        let mut out: Vec<usize> = ids.into_iter().collect();
        out.sort_by_key(|id| self.kernels[*id].key);
        out
    }

    /// Gives the place of a merged kernel to `b`, which goes on, and takes that of `a`.
    pub fn merged(&mut self, a: usize, b: usize, merge: Merge) {
        let (ka, kb) = (self.kernels[a].key, self.kernels[b].key);
        let key = if matches!(merge, Merge::Late(_)) { ka.max(kb) } else { ka.min(kb) };
        if key == kb {
            self.unlink(a);
        } else {
            self.unlink(b);
            let before = self.kernels[a].beside[BEFORE];
            self.unlink(a);
            self.kernels[b].key = key;
            self.link(before, b);
        }
        let (Merge::Late(moving) | Merge::Early(moving)) = &merge;
        if moving.is_empty() {
            return;
        }
        moving.iter().for_each(|id| self.unlink(*id));
        let (mut low, mut step) = self.room(b, &merge, moving.len());
        if step == 0 {
            self.spread();
            (low, step) = self.room(b, &merge, moving.len());
        }
        let mut before = if matches!(merge, Merge::Late(_)) { b as u32 } else { self.kernels[b].beside[BEFORE] };
        for (i, &id) in moving.iter().enumerate() {
            self.kernels[id].key = low + step * (i as u64 + 1);
            self.link(before, id);
            before = id as u32;
        }
    }

    /// Where `count` kernels fit beside kernel `id`: a key below all of them, and their distance, zero when there is no room.
    fn room(&self, id: usize, merge: &Merge, count: usize) -> (u64, u64) {
        let Kernel { key, beside: [before, behind], .. } = self.kernels[id];
        let (low, high) = match merge {
            Merge::Late(_) => (key, self.key_or(behind, key + 2 * GAP)),
            Merge::Early(_) => (self.key_or(before, 0), key),
        };
        (low, (high - low) / (count as u64 + 1))
    }

    /// The key of a kernel, or another number where there is no kernel.
    fn key_or(&self, id: u32, otherwise: u64) -> u64 {
        self.kernels.get(id as usize).map_or(otherwise, |kernel| kernel.key)
    }

    /// Puts a kernel behind another, or before all where there is none.
    fn link(&mut self, before: u32, id: usize) {
        let behind = self.neighbor(before, BEHIND);
        self.kernels[id].beside = [before, behind];
        self.set_neighbor(before, BEHIND, id as u32);
        self.set_neighbor(behind, BEFORE, id as u32);
    }

    /// Takes a kernel from between its neighbors.
    fn unlink(&mut self, id: usize) {
        let [before, behind] = self.kernels[id].beside;
        self.set_neighbor(before, BEHIND, behind);
        self.set_neighbor(behind, BEFORE, before);
    }

    /// Who stands on that side of a kernel. Beside none stand both ends.
    fn neighbor(&self, id: u32, side: usize) -> u32 {
        self.kernels.get(id as usize).map_or(self.ends[1 - side], |kernel| kernel.beside[side])
    }

    fn set_neighbor(&mut self, id: u32, side: usize, to: u32) {
        match self.kernels.get_mut(id as usize) {
            Some(kernel) => kernel.beside[side] = to,
            None => self.ends[1 - side] = to,
        }
    }

    /// Makes room everywhere.
    fn spread(&mut self) {
        let (mut id, mut key) = (self.ends[BEFORE], 0);
        while let Some(kernel) = self.kernels.get_mut(id as usize) {
            key += GAP;
            kernel.key = key;
            id = kernel.beside[BEHIND];
        }
    }
}

/// One side of a search.
struct Front {
    seen: BTreeSet<usize>,
    open: VecDeque<usize>,
}

impl Front {
    fn new(start: impl Iterator<Item = usize>) -> Front {
        let seen: BTreeSet<usize> = start.collect();
        Front { open: seen.iter().copied().collect(), seen }
    }

    /// Adds what was found; true when the other side knows it.
    fn extend(&mut self, found: impl Iterator<Item = usize>, other: &Front) -> bool {
        for id in found {
            if other.seen.contains(&id) {
                return true;
            }
            if self.seen.insert(id) {
                self.open.push_back(id);
            }
        }
        false
    }
}

/// Kernels that use a buffer, ascending. Most buffers have few, in place; a host scalar has one for each parameter.
#[derive(Clone, Debug)]
pub enum Users {
    /// At most [`FEW`].
    Few(SmallVec<[u32; 4]>),
    /// Any number.
    Many(BTreeSet<u32>),
}

/// Users that a list holds before it becomes a tree.
const FEW: usize = 32;

impl Default for Users {
    fn default() -> Users {
        Users::Few(SmallVec::new())
    }
}

impl Users {
    fn insert(&mut self, id: usize) {
        let id = id as u32;
        match self {
            Users::Few(few) if few.len() < FEW => {
                if let Err(at) = few.binary_search(&id) {
                    few.insert(at, id);
                }
            }
            Users::Few(few) => *self = Users::Many(few.iter().copied().chain([id]).collect()),
            Users::Many(many) => {
                many.insert(id);
            }
        }
    }

    fn remove(&mut self, id: usize) {
        let id = id as u32;
        match self {
            Users::Few(few) => few.retain(|user| *user != id),
            Users::Many(many) => {
                many.remove(&id);
            }
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        let (few, many) = self.parts();
        few.iter().chain(many.into_iter().flatten()).map(|&user| user as usize)
    }

    /// Those with higher numbers, ascending.
    pub fn behind(&self, id: usize) -> impl Iterator<Item = usize> + '_ {
        let first = id as u32 + 1;
        let (few, many) = self.parts();
        let many = many.into_iter().flat_map(move |many| many.range(first..));
        few[few.partition_point(|user| *user < first)..].iter().chain(many).map(|&user| user as usize)
    }

    fn parts(&self) -> (&[u32], Option<&BTreeSet<u32>>) {
        match self {
            Users::Few(few) => (few, None),
            Users::Many(many) => (&[], Some(many)),
        }
    }
}
