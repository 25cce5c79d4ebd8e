//! Kernels of equal structure fuse equally: what was found for one pair of them holds for every other.
//!
//! Programs repeat: twelve equal layers ask the same questions twelve times. A [`Shape`] is a nest without names, lines and the
//! identities of its buffers. The outcome for two shapes, with the buffers they share and those that stay stored, is kept;
//! asked again, it is only given other buffers, a label and lines.

use super::merge::{consumer_hosts, fuse, label, provenance};
use super::{Limits, WhyNot};
use crate::loop_ir::{BufferId, Instr, Nest};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};

/// The structure of a nest, by number, and the buffers behind it in order of first occurrence, reads before writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Equal for nests of equal structure.
    pub id: u32,
    /// The nest's own buffers.
    pub buffers: Vec<BufferId>,
}

/// A nest with its shape.
#[derive(Clone, Copy)]
pub struct Shaped<'a> {
    /// The nest.
    pub nest: &'a Nest,
    /// Its shape.
    pub shape: &'a Shape,
}

/// Shapes seen and pairs tried.
#[derive(Default)]
pub struct Memo {
    shapes: HashMap<Vec<u8>, u32>,
    outcomes: HashMap<Pair, Outcome>,
    /// The bytes of the shape at hand.
    bytes: Vec<u8>,
}

/// A question: two shapes, which of their buffers are the same, and which of the first's results stay stored.
#[derive(PartialEq, Eq, Hash)]
struct Pair {
    shapes: [u32; 2],
    shared: Vec<(u32, u32)>,
    kept: Vec<bool>,
}

/// Its answer, with buffers numbered through the first nest and then the second.
enum Outcome {
    Fused { nest: Nest, shape: Shape, consumer_hosts: bool },
    Refused(WhyNot),
}

impl Memo {
    /// The shape of a nest.
    pub fn shape(&mut self, nest: &Nest) -> Shape {
        let buffers = nest.buffers();
        let local = |b: BufferId| buffers.iter().position(|o| *o == b).expect("listed") as u32;
        let mut bytes = Bytes(std::mem::take(&mut self.bytes));
        bytes.0.clear();
        (&nest.rows, &nest.cols, &nest.tag).hash(&mut bytes);
        for stmt in &nest.body {
            match &stmt.instr {
                Instr::Load { buffer, index, mask } => (u8::MAX, local(*buffer), index, mask, stmt.dtype).hash(&mut bytes),
                _ => stmt.hash(&mut bytes),
            }
        }
        for w in &nest.writes {
            (local(w.buffer), &w.index, w.value, w.fold).hash(&mut bytes);
        }
        let next = self.shapes.len() as u32;
        let id = match self.shapes.get(&bytes.0) {
            Some(id) => *id,
            None => *self.shapes.entry(bytes.0.clone()).or_insert(next),
        };
        self.bytes = bytes.0;
        Shape { id, buffers }
    }

    /// As [`fuse`].
    pub fn fuse(&mut self, a: Shaped, b: Shaped, keep: &dyn Fn(BufferId) -> bool, limits: &Limits) -> Result<(Nest, Shape), WhyNot> {
        let mut buffers = a.shape.buffers.clone();
        let mut shared = vec![];
        for (i, buffer) in b.shape.buffers.iter().enumerate() {
            match a.shape.buffers.iter().position(|o| o == buffer) {
                Some(at) => shared.push((at as u32, i as u32)),
                None => buffers.push(*buffer),
            }
        }
        let kept = a.nest.writes.iter().map(|w| keep(w.buffer)).collect();
        let pair = Pair { shapes: [a.shape.id, b.shape.id], shared, kept };
        if !self.outcomes.contains_key(&pair) {
            let outcome = self.ask(a, b, keep, limits, &buffers);
            self.outcomes.insert(pair, outcome);
            return self.fuse(a, b, keep, limits);
        }
        let real = |b: BufferId| buffers[b.0 as usize];
        match &self.outcomes[&pair] {
            Outcome::Refused(why) => Err(why.clone().map_buffers(&real)),
            Outcome::Fused { nest, shape, consumer_hosts } => {
                let (host, guest) = if *consumer_hosts { (b.nest, a.nest) } else { (a.nest, b.nest) };
                let nest = Nest { label: label(host, guest), provenance: provenance(host, guest), ..nest.map_buffers(&real) };
                Ok((nest, Shape { id: shape.id, buffers: shape.buffers.iter().map(|b| real(*b)).collect() }))
            }
        }
    }

    fn ask(&mut self, a: Shaped, b: Shaped, keep: &dyn Fn(BufferId) -> bool, limits: &Limits, buffers: &[BufferId]) -> Outcome {
        let local = |b: BufferId| BufferId(buffers.iter().position(|o| *o == b).expect("it is one of the two nests'") as u32);
        match fuse(a.nest, b.nest, keep, limits) {
            Err(why) => Outcome::Refused(why.map_buffers(&local)),
            Ok(nest) => {
                let nest = nest.map_buffers(&local);
                Outcome::Fused { shape: self.shape(&nest), nest, consumer_hosts: consumer_hosts(a.nest, b.nest) }
            }
        }
    }
}

/// Collects what is hashed, so that equal bytes mean equal values.
struct Bytes(Vec<u8>);

impl Hasher for Bytes {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
    fn finish(&self) -> u64 {
        self.0.len() as u64
    }
}
