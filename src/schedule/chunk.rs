//! The largest product in chunks of rows, with all that is computed of it: the logits of a language model, their losses and gradients.
//!
//! ```text
//! logits = x w      losses = f(logits)      d = g(logits)      dx = d wT      dw = xT d
//! ```
//!
//! is computed for some rows of `x` after the others, so that only a chunk of `logits` and of `d` is alive. What has rows, as the losses
//! and `dx`, comes in pieces that are joined; what is summed over rows, as `dw`, is the sum so far plus that of the chunk: another order
//! of the same sum. (C. Wijmans et al., "Cut your losses in large-vocabulary language models", 2025, and Liger's fused linear cross
//! entropy do so for one known loss. Here nests say by their indices what goes along rows, so that any loss will do, with labels left
//! out, weights of classes and a loss scale.)
//!
//! It works on nests before they are fused. [`Turn`]s keep apart what fusion would bring together again: the count of labels, which all
//! gradients wait for, and the sum of the losses, which waits for all rows. Whether the program is better for it is seen by scheduling
//! both ([`better`]).

#[cfg(test)]
mod tests;

use super::chunk_nest::{accumulated, joined, part};
use super::group::Turn;
use super::in_place::LARGE;
use super::program::Program;
use super::split::reduction;
use crate::error::Error;
use crate::loop_ir::facts::product_axes;
use crate::loop_ir::{Buffer, BufferId, Combiner, IndexExpr, Instr, Nest, Tag};
use crate::lower::Lowered;
use crate::types::{DType, DeviceCaps, Dim, Shape, TensorType};
use std::collections::{BTreeMap, BTreeSet};

/// What chunks there may be.
#[derive(Clone, Copy)]
pub struct Bounds {
    /// Bytes of the product in a chunk, at least: from there on a value takes over memory, so that the gradient of a chunk lies where the chunk did.
    bytes: i64,
    /// Rows of a chunk, at least: products of fewer do not fill a large device.
    rows: i64,
    /// Bytes of the product in a chunk, at most: what a binding holds.
    most: i64,
    /// Chunks, at most: the kernel that joins their pieces binds all of them.
    count: i64,
}

impl Bounds {
    /// What pays on a device. Where a binding holds less than two values that take over memory, what does not fit one is in chunks that do.
    pub fn on(caps: &DeviceCaps) -> Bounds {
        let most = i64::try_from(caps.max_binding_bytes.min(caps.max_buffer_bytes)).unwrap_or(i64::MAX);
        // Beside the pieces it binds the whole, the status word and the word that skips a branch.
        let pieces = i64::from(caps.max_storage_buffers) - 3;
        Bounds { bytes: LARGE.min(most / 2), rows: 256, most, count: pieces.min(16) }
    }
}

/// Bytes by which chunks must lower the peak.
const WORTH: i64 = 64 << 20;
/// How much longer a step may take for it, by the prices of its kernels.
const SLOWER: f64 = 1.01;
/// Nests that take part in it: those of a head are some twenty.
const MOST: usize = 96;

/// A program whose nests run in chunks of rows.
pub struct Chunked {
    /// The nests, in an order that can run.
    pub lowered: Lowered,
    /// Which of them fusion keeps apart.
    pub turns: Vec<Turn>,
    /// How many chunks.
    pub count: i64,
}

/// A large product and the program in chunks of its rows, or what stands against them; none where no product is large enough. The largest
/// that has chunks is taken: scores of attention have none, since all of a layer lies between them and their gradients.
pub fn in_chunks(lowered: &Lowered, bounds: Bounds) -> Option<(BufferId, Result<Chunked, String>)> {
    let subjects = subjects(lowered, bounds);
    let first = *subjects.first()?;
    let search = Search::new(lowered);
    let chunked = |b: BufferId| search.chunked(b, bounds);
    let others = || subjects[1..].iter().find_map(|b| Some((*b, Ok(chunked(*b).ok()?))));
    Some(match chunked(first) {
        Ok(found) => (first, Ok(found)),
        Err(why) => others().unwrap_or((first, Err(why))),
    })
}

/// Results of products that live within the step and make two chunks, one of each type, the largest first.
fn subjects(lowered: &Lowered, bounds: Bounds) -> Vec<BufferId> {
    let stays = stays(lowered);
    let products = lowered.nests.iter().filter(|n| product_axes(n).is_some()).flat_map(|n| &n.writes).map(|w| w.buffer);
    let ty = |b: &BufferId| &lowered.buffers[b.0 as usize].ty;
    let bytes = |b: &BufferId| elements(lowered, *b).map_or(0, |n| n.saturating_mul(ty(b).dtype.size() as i64));
    let mut large: Vec<BufferId> = products.filter(|b| !stays.contains(b) && bytes(b) / 2 >= bounds.bytes).collect();
    large.sort_by_key(|b| (std::cmp::Reverse(bytes(b)), *b));
    let mut kinds: Vec<&TensorType> = vec![];
    large.retain(|b| {
        !kinds.contains(&ty(b)) && {
            kinds.push(ty(b));
            true
        }
    });
    large
}

/// A program with its predicted nanoseconds.
pub type Timed = (Program, f64);

/// One of two programs, and why.
pub struct Choice {
    /// The program.
    pub program: Program,
    /// Whether it is the one in chunks.
    pub in_chunks: bool,
    /// In words.
    pub reason: String,
}

/// The program in chunks, if it is better than the whole one, or the only one that the device can run.
pub fn better(whole: Result<Timed, Error>, chunked: Result<Timed, Error>) -> Result<Choice, Error> {
    let ((whole, time), (mut chunked, longer)) = match (whole, chunked) {
        (Ok(whole), Ok(chunked)) => (whole, chunked),
        (Err(why), Ok((program, _))) => return Ok(Choice { program, in_chunks: true, reason: why.to_string() }),
        (whole, Err(why)) => return Ok(Choice { program: whole?.0, in_chunks: false, reason: why.to_string() }),
    };
    let [before, after] = [&whole, &chunked].map(|p| p.peak_bytes().hint());
    let longer = if time > 0.0 { longer / time } else { 1.0 };
    let in_chunks = before - after >= WORTH && longer <= SLOWER;
    let reason = format!("chunks make the peak {after} bytes instead of {before}, and a step takes {longer:.3} of its predicted time");
    if in_chunks {
        // Labels are checked as a whole before they are sent.
        chunked.input_checks = whole.input_checks;
        return Ok(Choice { program: chunked, in_chunks, reason });
    }
    Ok(Choice { program: whole, in_chunks, reason })
}

/// Buffers of inputs, outputs and constants.
fn stays(lowered: &Lowered) -> BTreeSet<BufferId> {
    let border = lowered.inputs.iter().map(|i| i.buffer).chain(lowered.outputs.iter().map(|o| o.buffer));
    border.chain(lowered.constants.iter().map(|c| c.0)).collect()
}

/// Elements of a buffer, where they are known.
fn elements(lowered: &Lowered, b: BufferId) -> Option<i64> {
    lowered.buffers[b.0 as usize].ty.numel().as_int()
}

/// Nests that take part, each with the axis that goes along rows, and those that they wait for.
struct Region {
    axes: BTreeMap<usize, usize>,
    before: BTreeSet<usize>,
}

struct Search<'a> {
    lowered: &'a Lowered,
    readers: Vec<Vec<usize>>,
    writers: Vec<Vec<usize>>,
    stays: BTreeSet<BufferId>,
    /// Buffers that are read as they were before the step.
    inputs: BTreeSet<BufferId>,
}

impl<'a> Search<'a> {
    fn new(lowered: &'a Lowered) -> Search<'a> {
        let mut readers = vec![vec![]; lowered.buffers.len()];
        let mut writers = readers.clone();
        for (i, nest) in lowered.nests.iter().enumerate() {
            nest.reads().iter().for_each(|b| readers[b.0 as usize].push(i));
            nest.writes.iter().for_each(|w| writers[w.buffer.0 as usize].push(i));
        }
        let inputs = lowered.inputs.iter().map(|i| i.buffer).collect();
        Search { lowered, readers, writers, stays: stays(lowered), inputs }
    }

    fn chunked(&self, subject: BufferId, bounds: Bounds) -> Result<Chunked, String> {
        let region = self.region(subject)?;
        let count = self.count(&region, subject, bounds)?;
        Ok(Emission::new(self, &region, count).run())
    }

    fn nest(&self, at: usize) -> &'a Nest {
        &self.lowered.nests[at]
    }

    /// Nests that read or write large values with the rows of the product, and those on a way from one of them to another.
    fn region(&self, subject: BufferId) -> Result<Region, String> {
        let half = elements(self.lowered, subject).unwrap_or(0) / 2;
        let (mut nests, mut parts, mut open) = (BTreeSet::new(), BTreeSet::from([subject]), vec![subject]);
        while let Some(b) = open.pop() {
            for &at in self.writers[b.0 as usize].iter().chain(&self.readers[b.0 as usize]) {
                if nests.insert(at) {
                    let axis = self.row_axis(at, &parts)?;
                    open.extend(self.along(at, axis).into_iter().filter(|b| elements(self.lowered, *b) >= Some(half) && parts.insert(*b)));
                }
            }
            if nests.len() > MOST {
                return Err(format!("more than {MOST} operations compute with its rows"));
            }
        }
        let (after, before) = self.around(&nests);
        nests.extend(after.intersection(&before));
        let written: BTreeSet<BufferId> = nests.iter().flat_map(|&at| &self.nest(at).writes).map(|w| w.buffer).collect();
        if let Some(b) = written.iter().find(|b| self.writers[b.0 as usize].len() > 1) {
            return Err(format!("several operations write {}", self.lowered.buffers[b.0 as usize].name));
        }
        let is_read = |b: &BufferId| self.readers[b.0 as usize].iter().any(|r| nests.contains(r));
        let parts = written.into_iter().filter(|b| !self.inputs.contains(b) && is_read(b)).collect();
        let axes: Result<BTreeMap<usize, usize>, String> = nests.iter().map(|&at| Ok((at, self.row_axis(at, &parts)?))).collect();
        Ok(Region { axes: axes?, before: before.difference(&nests).copied().collect() })
    }

    /// Nests among those that depend on some of `nests`, and those that some of them depend on; between the first and the last.
    fn around(&self, nests: &BTreeSet<usize>) -> (BTreeSet<usize>, BTreeSet<usize>) {
        let (mut after, mut before) = (nests.clone(), nests.clone());
        let (Some(&first), Some(&last)) = (nests.first(), nests.last()) else { return (after, before) };
        let within = |b: &BufferId| !self.inputs.contains(b);
        for at in first..=last {
            if self.nest(at).reads().iter().filter(|b| within(b)).flat_map(|b| &self.writers[b.0 as usize]).any(|w| after.contains(w)) {
                after.insert(at);
            }
        }
        for at in (first..=last).rev() {
            let read = |b: BufferId| self.readers[b.0 as usize].iter().any(|r| before.contains(r));
            if self.nest(at).writes.iter().any(|w| within(&w.buffer) && read(w.buffer)) {
                before.insert(at);
            }
        }
        (after, before)
    }

    /// The axis of a nest that goes along the rows of `parts`, which it reads or writes.
    fn row_axis(&self, at: usize, parts: &BTreeSet<BufferId>) -> Result<usize, String> {
        let nest = self.nest(at);
        let plain = matches!(nest.tag, Tag::Loop | Tag::Matmul { .. }) && !self.lowered.commits[at];
        let axis = (0..nest.rows.len() + nest.cols.len()).find(|&axis| plain && self.goes_along_rows(nest, axis, parts));
        axis.ok_or_else(|| format!("{} does not go through its rows one by one", nest.label))
    }

    fn goes_along_rows(&self, nest: &Nest, axis: usize, parts: &BTreeSet<BufferId>) -> bool {
        let reads = |buffer: &BufferId, index: &IndexExpr| !parts.contains(buffer) || self.leads(nest, axis, *buffer, index);
        let ordered = nest.body.iter().all(|s| if let Instr::Load { buffer, index, .. } = &s.instr { reads(buffer, index) } else { true });
        let stored = match axis < nest.rows.len() {
            true => nest.writes.iter().all(|w| self.leads(nest, axis, w.buffer, &w.index)),
            false => is_sum(nest) && nest.writes.iter().all(|w| !parts.contains(&w.buffer)),
        };
        ordered && stored
    }

    /// Whether one place of an axis has a part of a buffer to itself, behind that of the place before.
    fn leads(&self, nest: &Nest, axis: usize, buffer: BufferId, index: &IndexExpr) -> bool {
        let size = nest.sizes()[axis].as_int();
        let stride = index.linear_coefficient(axis as u32).and_then(|k| k.as_int());
        let (Some(size), Some(stride), Some(whole)) = (size, stride, elements(self.lowered, buffer)) else { return false };
        let rest =
            || index.substitute(&|a| if a.id as usize == axis { IndexExpr::zero() } else { IndexExpr::axis(a.id, &a.size) }, &IndexExpr::value);
        size > 1 && stride.checked_mul(size) == Some(whole) && rest().is_within(&Dim::int(stride))
    }

    /// Values of the step that a nest reads and writes along an axis.
    fn along(&self, at: usize, axis: usize) -> Vec<BufferId> {
        let nest = self.nest(at);
        let load = |s: &'a crate::loop_ir::Stmt| if let Instr::Load { buffer, index, .. } = &s.instr { Some((*buffer, index)) } else { None };
        let touched = nest.body.iter().filter_map(load).chain(nest.writes.iter().map(|w| (w.buffer, &w.index)));
        touched.filter(|(b, index)| !self.stays.contains(b) && self.leads(nest, axis, *b, index)).map(|(b, _)| b).collect()
    }

    /// As many chunks as there may be.
    fn count(&self, region: &Region, subject: BufferId, bounds: Bounds) -> Result<i64, String> {
        let sizes = region.axes.iter().map(|(&at, &axis)| self.nest(at).sizes()[axis].as_int().unwrap_or(1));
        let common = sizes.fold(0, gcd);
        let total = elements(self.lowered, subject).unwrap_or(0);
        let bytes = total * self.lowered.buffers[subject.0 as usize].ty.dtype.size() as i64;
        let columns = self.writers[subject.0 as usize].iter().filter_map(|&at| {
            let nest = self.nest(at);
            Dim::product(&nest.rows[product_axes(nest)?[2].clone()]).as_int()
        });
        let rows = total / columns.max().unwrap_or(1).max(1);
        // Few: each has kernels of its own, which the first start compiles.
        let fits = |n: &i64| common % n == 0 && (bounds.bytes..=bounds.most).contains(&(bytes / n)) && rows / n >= bounds.rows;
        (2..=common.min(bounds.count))
            .find(fits)
            .ok_or_else(|| format!("no number of chunks up to {} divides its rows into {} or more of them", bounds.count, bounds.rows))
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Whether a nest stores one sum over all of its columns and nothing else.
fn is_sum(nest: &Nest) -> bool {
    let placed = nest.writes.iter().all(|w| w.index.values().is_empty());
    placed && matches!(reduction(nest), Some((_, Combiner::Sum, _)))
}

/// The program in chunks, as it is put together.
struct Emission<'a> {
    search: &'a Search<'a>,
    region: &'a Region,
    count: i64,
    out: Lowered,
    turns: Vec<Turn>,
    /// The pieces of each value with rows.
    pieces: BTreeMap<BufferId, Vec<BufferId>>,
    /// The sums over rows so far.
    sums: BTreeMap<BufferId, BufferId>,
}

impl<'a> Emission<'a> {
    fn new(search: &'a Search<'a>, region: &'a Region, count: i64) -> Emission<'a> {
        let mut out = search.lowered.clone();
        (out.nests, out.phases, out.commits) = (vec![], vec![], vec![]);
        Emission { search, region, count, out, turns: vec![], pieces: BTreeMap::new(), sums: BTreeMap::new() }
    }

    fn run(mut self) -> Chunked {
        let first = self.region.axes.keys().next().copied().unwrap_or(0);
        (0..first).for_each(|at| self.keep(at, Turn::Any));
        self.region.before.iter().for_each(|&at| self.keep(at, Turn::Before));
        self.make_pieces();
        for chunk in 0..self.count {
            self.region.axes.iter().for_each(|(&at, &axis)| self.chunk(at, axis, chunk));
        }
        let mut late = self.join();
        for at in (first..self.search.lowered.nests.len()).filter(|at| !self.region.axes.contains_key(at) && !self.region.before.contains(at)) {
            let nest = self.search.nest(at);
            let waits = nest.reads().iter().any(|b| late.contains(b));
            if waits {
                late.extend(nest.writes.iter().map(|w| w.buffer).filter(|b| !self.search.inputs.contains(b)));
            }
            self.keep(at, if waits { Turn::After } else { Turn::Any });
        }
        Chunked { lowered: self.out, turns: self.turns, count: self.count }
    }

    fn keep(&mut self, at: usize, turn: Turn) {
        self.push(at, self.search.nest(at).clone(), turn);
    }

    fn push(&mut self, at: usize, nest: Nest, turn: Turn) {
        self.out.nests.push(nest);
        self.out.phases.push(self.search.lowered.phases[at]);
        self.out.commits.push(self.search.lowered.commits[at]);
        self.turns.push(turn);
    }

    fn buffer(&mut self, name: String, dtype: DType, shape: Shape) -> BufferId {
        self.out.buffers.push(Buffer { name, ty: TensorType { dtype, shape } });
        BufferId(self.out.buffers.len() as u32 - 1)
    }

    /// Elements of a piece of a value.
    fn piece(&self, whole: BufferId) -> Dim {
        Dim::int(elements(self.search.lowered, whole).expect("parts have fixed sizes") / self.count)
    }

    /// Buffers for what region's nests write for each row.
    fn make_pieces(&mut self) {
        let by_rows = self.region.axes.iter().filter(|(at, axis)| **axis < self.search.nest(**at).rows.len());
        let written: BTreeSet<BufferId> = by_rows.flat_map(|(at, _)| &self.search.nest(*at).writes).map(|w| w.buffer).collect();
        for b in written {
            let (Buffer { name, ty }, size) = (self.out.buffers[b.0 as usize].clone(), self.piece(b));
            let pieces = (0..self.count).map(|k| self.buffer(format!("{name}.rows.{k}"), ty.dtype, Shape::new(vec![size.clone()]))).collect();
            self.pieces.insert(b, pieces);
        }
    }

    /// A nest for the rows of one chunk.
    fn chunk(&mut self, at: usize, axis: usize, chunk: i64) {
        let nest = self.search.nest(at);
        let place = |b: BufferId| self.pieces.get(&b).map(|pieces| (pieces[chunk as usize], self.piece(b) * Dim::int(chunk)));
        let own = part(nest, axis, (chunk, self.count), &place);
        let own = if axis < nest.rows.len() { own } else { self.summed(own, chunk) };
        self.push(at, own, Turn::Chunk(chunk as u32));
    }

    /// The sum over the rows of the chunks so far. The last chunk stores what the whole nest does.
    fn summed(&mut self, nest: Nest, chunk: i64) -> Nest {
        let whole = nest.writes[0].buffer;
        let before = self.sums.get(&whole).copied();
        let (at, ..) = reduction(&nest).expect("a sum over rows");
        let dtype = if nest.body[at].dtype.is_half() { DType::F32 } else { nest.body[at].dtype };
        let so_far = (chunk + 1 < self.count).then(|| {
            let Buffer { name, ty } = self.out.buffers[whole.0 as usize].clone();
            self.buffer(format!("{name}.sum.{chunk}"), dtype, ty.shape)
        });
        self.sums.extend(so_far.map(|b| (whole, b)));
        accumulated(&nest, at, dtype, before, so_far)
    }

    /// Puts pieces together for whoever reads the whole; gives the values that are whole then.
    fn join(&mut self) -> BTreeSet<BufferId> {
        let outside = |b: &BufferId| self.search.readers[b.0 as usize].iter().any(|r| !self.region.axes.contains_key(r));
        let wholes: Vec<BufferId> = self.pieces.keys().copied().filter(|b| self.search.stays.contains(b) || outside(b)).collect();
        for &whole in &wholes {
            let at = self.search.writers[whole.0 as usize][0];
            let (dtype, provenance) = (self.out.buffers[whole.0 as usize].ty.dtype, self.search.nest(at).provenance.clone());
            let nest = joined(&self.pieces[&whole], &self.piece(whole), whole, dtype, provenance);
            self.push(at, nest, Turn::After);
        }
        wholes.into_iter().collect()
    }
}
