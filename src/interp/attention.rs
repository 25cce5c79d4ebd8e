//! Attention: blocks of rows, whose scores and weights are products of the `gemm` crates with a kernel over the block between them. A
//! thread holds the scores of its block only.

use super::access::Bound;
use super::exec::{self, Context, PARALLEL};
use super::kernel::Kernel;
use super::lanes::{Lane, Reg};
use super::raw::{Format, Line, Matrix, Memory, lines, product};
use super::template::{Domain, Operand, Part, buffer_count, domain_size};
use crate::loop_ir::facts::stored;
use crate::loop_ir::{self, Attention as Parts, BufferId, Combiner, Element, IndexExpr, Instr, Nest, Seen, Tag, Val, flatten};
use crate::types::DType;

/// Scores of a block, about: half of a second-level cache.
const BLOCK: i64 = 1 << 17;

/// A nest of attention.
pub struct Attention {
    batch: i64,
    x: i64,
    y: i64,
    features: i64,
    seen: Seen,
    /// Both factors and number of terms of each contraction.
    contractions: Vec<(Operand, Operand, i64)>,
    values: Operand,
    /// Buffers of the nest; packed operands are numbered from here, then the block's.
    buffers: usize,
    /// From scores to weights, and the row's maximum and sum.
    weights: Kernel,
    /// What follows the sum.
    epilogue: Kernel,
}

/// A block's own buffers, numbered behind each other: scores, then these.
struct Own {
    first: u32,
    scores: u32,
}

impl Own {
    fn score(&self, k: usize) -> BufferId {
        BufferId(self.first + k as u32)
    }
    fn weights(&self) -> BufferId {
        BufferId(self.first + self.scores)
    }
    fn max(&self) -> BufferId {
        BufferId(self.first + self.scores + 1)
    }
    fn exponentials(&self) -> BufferId {
        BufferId(self.first + self.scores + 2)
    }
    fn sum(&self) -> BufferId {
        BufferId(self.first + self.scores + 3)
    }
}

impl Attention {
    /// Compiles a bound nest of these parts.
    pub fn new(bound: &Bound, parts: &Parts) -> Option<Attention> {
        let nest = &bound.nest;
        let Tag::Attention { seen, .. } = nest.tag else { return None };
        let group = |axis: u32| bound.axes[axis as usize].clone().collect::<Vec<usize>>();
        let inner = |over: u32| group(parts.y() + 1 + over);
        let (x, features, y) = (group(parts.x()), group(parts.features()), group(parts.y()));
        let batch: Vec<usize> = (0..bound.axes[parts.x() as usize].start).collect();
        let buffers = buffer_count(nest);
        let mut packs = (buffers as u32..).map(BufferId);
        let mut contractions = vec![];
        for c in &parts.contractions {
            let domain = Domain { batch: batch.clone(), m: x.clone(), n: y.clone(), k: inner(c.over) };
            let [first, second] = [packs.next()?, packs.next()?];
            let a = Operand::new(nest, c.a, Lane::F32, &domain, &domain.m, &domain.k, first)?;
            let b = Operand::new(nest, c.b, Lane::F32, &domain, &domain.k, &domain.n, second)?;
            contractions.push((a, b, domain_size(nest, &domain.k)));
        }
        let domain = Domain { batch, m: x, n: features, k: y };
        let values = Operand::new(nest, parts.values, Lane::F32, &domain, &domain.k, &domain.n, packs.next()?)?;
        let own = Own { first: packs.next()?.0, scores: parts.contractions.len() as u32 };
        let size = |axes: &[usize]| domain_size(nest, axes);
        Some(Attention {
            batch: size(&domain.batch),
            x: size(&domain.m),
            y: size(&domain.k),
            features: size(&domain.n),
            seen,
            contractions,
            values,
            buffers,
            weights: Kernel::with_tile(&weights(nest, parts, &domain, &own), own.score(0)),
            epilogue: Kernel::with_tile(&epilogue(nest, parts, &domain, &own), own.score(0)),
        })
    }

    /// Runs on the dispatch's memories.
    pub fn run(&self, cx: &Context<'_>) {
        if self.batch * self.x * self.features == 0 {
            return;
        }
        let operands: Vec<&Operand> = self.contractions.iter().flat_map(|(a, b, _)| [a, b]).chain([&self.values]).collect();
        let mut packs: Vec<Vec<Line>> = operands.iter().map(|o| o.scratch(Format::F32)).collect();
        let mut memories = cx.memories.to_vec();
        memories.resize(self.buffers, cx.memories[0]);
        memories.extend(packs.iter_mut().map(|lines| Memory::new(lines, Format::F32)));
        for operand in operands {
            operand.fill(&Context { memories: &memories, ..*cx });
        }
        let cx = Context { memories: &memories, ..*cx };
        // A partition that depends on the sizes alone, so that results do not depend on the number of threads.
        let rows = (BLOCK / self.y.max(1)).clamp(8, 64).min(self.x);
        let blocks = (self.x + rows - 1) / rows;
        let uniform = [&self.weights, &self.epilogue].map(|kernel| exec::run_uniform(kernel, &cx));
        let run = |t: i64| self.run_block(t / blocks, t % blocks * rows..(t % blocks * rows + rows).min(self.x), &cx, &uniform);
        let terms: i64 = self.contractions.iter().map(|c| c.2).sum::<i64>() + self.features;
        if blocks * self.batch == 1 || self.batch * self.x * self.y * (terms / 8 + 8) < PARALLEL {
            (0..blocks * self.batch).for_each(run);
        } else {
            crate::threads::for_each((blocks * self.batch) as usize, |t| run(t as i64));
        }
    }

    fn run_block(&self, batch: i64, x: std::ops::Range<i64>, cx: &Context<'_>, uniform: &[Vec<Reg>; 2]) {
        let rows = x.end - x.start;
        let seen = self.seen.range(x.start, x.end, self.y);
        let (m, n) = (rows as usize, (seen.end - seen.start) as usize);
        cx.pool.with(|scratch| {
            let mut tile = std::mem::take(&mut scratch.tile);
            let scores = self.contractions.len();
            let sizes: Vec<usize> = (0..scores).map(|_| rows * self.y).chain([rows, rows, rows * self.features]).map(in_lines).collect();
            if tile.len() < sizes.iter().sum() {
                tile = lines(sizes.iter().sum::<usize>() * 64, 0);
            }
            let mut own = split(&mut tile, &sizes);
            // Weights take the place of the first scores.
            own.insert(scores, own[0]);
            for ((a, b, k), &score) in self.contractions.iter().zip(&own) {
                let (a, b) = (a.at(cx, batch, x.start, 0), b.at(cx, batch, 0, seen.start));
                product::<f32>(m, n, *k as usize, matrix(score, seen.start, self.y), a, b);
            }
            let row = batch * self.x + x.start;
            let of_rows = [1, 1, self.features];
            let origins = (0..=scores).map(|_| self.y).chain(of_rows).map(|per_row| row * per_row);
            let mut memories = cx.memories.to_vec();
            memories.extend(own.iter().zip(origins).map(|(memory, origin)| memory.with_origin(origin)));
            let cx = Context { memories: &memories, ..*cx };
            exec::run_part(&self.weights, &cx, &uniform[0], row..row + rows, seen.clone(), scratch);
            let values = self.values.at(&cx, batch, seen.start, 0);
            let sum = matrix(own[scores + 3], 0, self.features);
            product::<f32>(m, self.features as usize, n, sum, matrix(own[scores], seen.start, self.y), values);
            exec::run_rows(&self.epilogue, &cx, &uniform[1], row * self.features..(row + rows) * self.features, scratch);
            scratch.tile = tile;
        });
    }
}

fn in_lines(elements: i64) -> usize {
    (elements as usize * 4).div_ceil(64)
}

/// Parts of some lines, one behind the other.
fn split<'a>(mut lines: &'a mut [Line], sizes: &[usize]) -> Vec<Memory<'a>> {
    let mut out = vec![];
    for &n in sizes {
        let (part, rest) = lines.split_at_mut(n);
        out.push(Memory::new(part, Format::F32));
        lines = rest;
    }
    out
}

/// An element of a block's own buffer, numbered as in the whole domain.
fn own_element(buffer: BufferId, index: IndexExpr) -> Element {
    Element { buffer, index, dtype: DType::F32 }
}

/// From the scores in memory to weights in memory, over rows x columns.
fn weights(nest: &Nest, parts: &Parts, domain: &Domain, own: &Own) -> Nest {
    let rows = [&domain.batch[..], &domain.m].concat();
    let axes = [&rows[..], &domain.k].concat();
    let mut part = Part::of(nest, &axes);
    let cols = part.rows.split_off(rows.len());
    let row = flatten(&loop_ir::axes(&part.rows, 0), &part.rows);
    let col = flatten(&loop_ir::axes(&cols, rows.len() as u32), &cols);
    let element = row.times(&domain_size(nest, &domain.k).into()).add(&col);
    let score = parts.online.map_or(parts.weight, |o| o.score);
    let surface = parts.surface(nest, [parts.weight, score]);
    for v in nest.values().filter(|v| surface[v.0 as usize]) {
        match parts.contractions.iter().position(|c| c.dot == v) {
            Some(k) => part.to.set(v, part.body.load(own_element(own.score(k), element.clone()))),
            // The scores of a block are at hand twice, so that each exponential is computed once.
            None if is_max(parts, v) => part.to.set(v, part.body.reduce(Combiner::Max, part.to.value(score))),
            None => drop(part.to.copy(&mut part.body, nest, v)),
        }
    }
    if let Some(online) = parts.online {
        let max = part.to.value(online.max);
        let sum = part.body.reduce(Combiner::Sum, part.to.value(online.exp));
        part.body.write(own.max(), row.clone(), max);
        part.body.write(own.exponentials(), row, sum);
    }
    part.body.write(own.weights(), element, part.to.value(parts.weight));
    part.body.nest(nest.label.clone(), part.rows, cols, nest.provenance.clone())
}

/// What follows the sum, over rows, with the sum and the softmax's numbers in memory.
fn epilogue(nest: &Nest, parts: &Parts, domain: &Domain, own: &Own) -> Nest {
    let mut part = Part::of(nest, &(0..nest.rows.len()).collect::<Vec<_>>());
    let row = part.place();
    let of_x = domain.batch.len() + domain.m.len();
    let of_x = flatten(&nest.row_axes()[..of_x], &nest.rows[..of_x]);
    let surface = parts.surface(nest, nest.writes.iter().flat_map(stored));
    for v in nest.values().filter(|v| surface[v.0 as usize]) {
        let held = match &nest.stmt(v).instr {
            Instr::Proj(of, 1) if is_max(parts, *of) => Some((own.exponentials(), &of_x)),
            _ if v == parts.sum => Some((own.sum(), &row)),
            _ if is_max(parts, v) => Some((own.max(), &of_x)),
            _ => None,
        };
        match held {
            Some((buffer, index)) => part.to.set(v, part.body.load(own_element(buffer, index.clone()))),
            None => drop(part.to.copy(&mut part.body, nest, v)),
        }
    }
    part.body.writes = nest.writes.iter().map(|w| part.to.write(w)).collect();
    part.nest(nest)
}

fn is_max(parts: &Parts, v: Val) -> bool {
    parts.online.is_some_and(|o| o.max == v)
}

/// A matrix whose columns are neighbors in memory.
fn matrix(memory: Memory<'_>, offset: i64, row_stride: i64) -> Matrix<'_> {
    Matrix { memory, offset, row_stride, col_stride: 1 }
}
