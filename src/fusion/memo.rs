//! Kernels of equal structure fuse equally: what was found for one pair of them holds for every other.
//!
//! Programs repeat: twelve equal layers ask the same questions twelve times. A [`Structure`] is a nest without names, lines and the
//! identities of its buffers; a [`Kernel`] is a structure with its own buffers. The outcome for two structures, with the buffers
//! they share and those that stay stored, is kept; asked again, it only gets other buffers, a label and lines.

use super::merge::{consumer_hosts, fuse, merge_labels};
use super::{Limits, WhyNot};
use crate::loop_ir::{BufferId, Buffers, Instr, Nest};
use crate::types::Provenance;
use rustc_hash::{FxHashMap, FxHashSet};
use std::hash::{Hash, Hasher};
use std::rc::Rc;

/// A nest whose buffers are numbered in order of first occurrence, reads before writes, and facts about it.
#[derive(Debug)]
pub struct Structure {
    /// Equal for equal structures of one [`Memo`].
    pub id: u32,
    /// The nest; its label and lines are those of the first of its kind.
    pub nest: Nest,
    /// How many of its buffers are read: the first ones.
    pub reads: usize,
    /// Buffers written, in the order of the nest's writes.
    pub writes: Vec<u32>,
    /// As [`Nest::is_pointwise`].
    pub pointwise: bool,
    /// Whether it can set the status word.
    pub checks: bool,
    /// As [`Nest::has_column_work`].
    pub column_work: bool,
}

/// A structure at work.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// What it does.
    pub structure: Rc<Structure>,
    /// The buffer behind each number.
    pub buffers: Buffers,
    /// Names of the ops in it, for people.
    pub label: Rc<str>,
    /// Where it came from.
    pub provenance: Provenance,
}

impl Kernel {
    /// Buffers it reads, in order of first use.
    pub fn reads(&self) -> &[BufferId] {
        &self.buffers[..self.structure.reads]
    }

    /// Buffers it writes, in the order of its writes.
    pub fn writes(&self) -> impl Iterator<Item = BufferId> + '_ {
        self.structure.writes.iter().map(|w| self.buffers[*w as usize])
    }
}

/// Structures seen and pairs tried.
#[derive(Default)]
pub struct Memo {
    structures: FxHashMap<Vec<u8>, Rc<Structure>>,
    /// By question: two structures, which of the first's results stay stored, and which of their buffers are the same.
    outcomes: FxHashMap<Vec<u32>, Outcome>,
    /// Labels, each once: equal layers have equal ones.
    labels: FxHashSet<Rc<str>>,
    /// The bytes of the structure and the question at hand.
    bytes: Vec<u8>,
    question: Vec<u32>,
}

/// Its answer, with buffers numbered through the first kernel and then the second.
enum Outcome {
    Fused { structure: Rc<Structure>, buffers: Vec<u32>, consumer_hosts: bool },
    Refused(WhyNot),
}

impl Memo {
    /// A nest as a kernel.
    pub fn kernel(&mut self, nest: &Nest) -> Kernel {
        let buffers = nest.buffers();
        let local = |b: BufferId| BufferId(buffers.iter().position(|o| *o == b).expect("listed") as u32);
        let mut bytes = Bytes(std::mem::take(&mut self.bytes));
        bytes.spell(nest, &local);
        let structure = match self.structures.get(&bytes.0) {
            Some(known) => known.clone(),
            None => {
                let new = Rc::new(Structure::new(self.structures.len() as u32, nest.map_buffers(&local)));
                self.structures.insert(bytes.0.clone(), new.clone());
                new
            }
        };
        self.bytes = bytes.0;
        Kernel { structure, buffers, label: self.label(&nest.label), provenance: nest.provenance.clone() }
    }

    fn label(&mut self, text: &str) -> Rc<str> {
        if let Some(known) = self.labels.get(text) {
            return known.clone();
        }
        let new: Rc<str> = text.into();
        self.labels.insert(new.clone());
        new
    }

    /// One kernel doing the work of `a` and then `b`, as [`fuse`] has it.
    pub fn fuse(&mut self, a: &Kernel, b: &Kernel, keep: &dyn Fn(BufferId) -> bool, limits: &Limits) -> Result<Kernel, WhyNot> {
        let mut question = std::mem::take(&mut self.question);
        question.clear();
        question.extend([a.structure.id, b.structure.id]);
        question.extend(a.writes().map(|w| keep(w) as u32));
        for (i, buffer) in b.buffers.iter().enumerate() {
            if let Some(at) = a.buffers.iter().position(|o| o == buffer) {
                question.extend([at as u32, i as u32]);
            }
        }
        if !self.outcomes.contains_key(&question) {
            let outcome = self.ask(a, b, keep, limits);
            self.outcomes.insert(question.clone(), outcome);
        }
        let outcome = &self.outcomes[&question];
        self.question = question;
        match outcome {
            Outcome::Refused(why) => Err(why.clone().map_buffers(&|local| numbered(a, b).0[local.0 as usize])),
            Outcome::Fused { structure, buffers, consumer_hosts } => {
                let (host, guest) = if *consumer_hosts { (b, a) } else { (a, b) };
                let mut provenance = host.provenance.clone();
                provenance.merge(&guest.provenance);
                let (all, _) = numbered(a, b);
                let (structure, buffers) = (structure.clone(), buffers.iter().map(|b| all[*b as usize]).collect());
                let label = merge_labels(&host.label, &guest.label).map_or_else(|| host.label.clone(), |merged| self.label(&merged));
                Ok(Kernel { structure, buffers, label, provenance })
            }
        }
    }

    fn ask(&mut self, a: &Kernel, b: &Kernel, keep: &dyn Fn(BufferId) -> bool, limits: &Limits) -> Outcome {
        let (all, second) = numbered(a, b);
        let kept = |local: BufferId| keep(all[local.0 as usize]);
        let guest = b.structure.nest.map_buffers(&|b| second[b.0 as usize]);
        match fuse(&a.structure.nest, &guest, &kept, limits) {
            Err(why) => Outcome::Refused(why),
            Ok(nest) => {
                let Kernel { structure, buffers, .. } = self.kernel(&nest);
                let consumer_hosts = consumer_hosts(&a.structure.nest, &guest);
                Outcome::Fused { structure, buffers: buffers.into_iter().map(|b| b.0).collect(), consumer_hosts }
            }
        }
    }
}

/// The buffers of two kernels, those of the first and then the others of the second, and the numbers of the second's among them.
fn numbered(a: &Kernel, b: &Kernel) -> (Buffers, Buffers) {
    let mut all = a.buffers.clone();
    let mut second = Buffers::with_capacity(b.buffers.len());
    for buffer in &b.buffers {
        let at = a.buffers.iter().position(|o| o == buffer).unwrap_or_else(|| {
            all.push(*buffer);
            all.len() - 1
        });
        second.push(BufferId(at as u32));
    }
    (all, second)
}

impl Structure {
    fn new(id: u32, nest: Nest) -> Structure {
        let checks = nest.checks().next().is_some();
        Structure {
            id,
            reads: nest.reads().len(),
            writes: nest.writes.iter().map(|w| w.buffer.0).collect(),
            pointwise: nest.is_pointwise(),
            checks,
            column_work: nest.has_column_work(),
            nest,
        }
    }
}

/// Collects what is hashed, so that equal bytes mean equal values.
struct Bytes(Vec<u8>);

impl Bytes {
    /// What a nest is, in the place of what was collected before. With the numbers of statements and writes, equal bytes are of equal nests.
    fn spell(&mut self, nest: &Nest, local: &dyn Fn(BufferId) -> BufferId) {
        self.0.clear();
        (&nest.rows, &nest.cols, &nest.inner, &nest.tag, nest.body.len(), nest.writes.len()).hash(self);
        for stmt in &nest.body {
            match &stmt.instr {
                Instr::Load { buffer, index, mask } => (u8::MAX, local(*buffer), index, mask, stmt.dtype).hash(self),
                _ => stmt.hash(self),
            }
        }
        for w in &nest.writes {
            (local(w.buffer), &w.index, w.value, w.fold, &w.first).hash(self);
        }
    }
}

impl Hasher for Bytes {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
    fn finish(&self) -> u64 {
        self.0.len() as u64
    }
}
