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
use std::collections::{BTreeMap, BTreeSet, VecDeque};

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
    by_key: BTreeMap<u64, usize>,
}

/// What a kernel touches.
#[derive(Clone, Debug, Default)]
struct Kernel {
    reads: SmallVec<[BufferId; 4]>,
    writes: SmallVec<[BufferId; 2]>,
    key: u64,
}

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
        Order {
            readers: none.clone(),
            writers: none,
            state,
            kernels: vec![],
            checks: BTreeSet::new(),
            commits: BTreeSet::new(),
            by_key: BTreeMap::new(),
        }
    }

    /// A kernel behind all others; gives its number.
    pub fn add(&mut self, group: &Group) -> usize {
        let id = self.kernels.len();
        let key = self.by_key.last_key_value().map_or(0, |(k, _)| *k) + GAP;
        self.kernels.push(Kernel { key, ..Kernel::default() });
        self.by_key.insert(key, id);
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

    /// Forgets what kernel `id` reads and writes; it keeps its place.
    pub fn detach(&mut self, id: usize) {
        let reads = std::mem::take(&mut self.kernels[id].reads);
        let writes = std::mem::take(&mut self.kernels[id].writes);
        reads.iter().for_each(|b| self.readers[b.0 as usize].remove(id));
        writes.iter().for_each(|b| self.writers[b.0 as usize].remove(id));
        self.checks.remove(&id);
        self.commits.remove(&id);
    }

    /// Forgets the place of a kernel that is no more.
    pub fn vacate(&mut self, id: usize) {
        self.by_key.remove(&self.kernels[id].key);
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
        self.by_key.remove(&ka);
        self.place(b, key);
        let (Merge::Late(moving) | Merge::Early(moving)) = &merge;
        if moving.is_empty() {
            return;
        }
        moving.iter().for_each(|id| {
            self.by_key.remove(&self.kernels[*id].key);
        });
        let (mut low, mut step) = self.room(b, &merge, moving.len());
        if step == 0 {
            self.spread();
            (low, step) = self.room(b, &merge, moving.len());
        }
        for (i, &id) in moving.iter().enumerate() {
            let key = low + step * (i as u64 + 1);
            self.kernels[id].key = key;
            self.by_key.insert(key, id);
        }
    }

    /// Where `count` kernels fit beside kernel `id`: a key below all of them, and their distance, zero when there is no room.
    fn room(&self, id: usize, merge: &Merge, count: usize) -> (u64, u64) {
        let key = self.kernels[id].key;
        let (low, high) = match merge {
            Merge::Late(_) => (key, self.by_key.range(key + 1..).next().map_or(key + 2 * GAP, |(k, _)| *k)),
            Merge::Early(_) => (self.by_key.range(..key).next_back().map_or(0, |(k, _)| *k), key),
        };
        (low, (high - low) / (count as u64 + 1))
    }

    fn place(&mut self, id: usize, key: u64) {
        self.by_key.remove(&self.kernels[id].key);
        self.kernels[id].key = key;
        self.by_key.insert(key, id);
    }

    /// Makes room everywhere.
    fn spread(&mut self) {
        let ids: Vec<usize> = self.by_key.values().copied().collect();
        self.by_key = ids.iter().enumerate().map(|(i, id)| (GAP * (i as u64 + 1), *id)).collect();
        for (key, id) in &self.by_key {
            self.kernels[*id].key = *key;
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
