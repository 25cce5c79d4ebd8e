//! Blocks of attention: which rows and columns a workgroup takes at a time, and the coordinates of their elements over the kernel's axes.

use super::contraction::is_half;
use super::cost::count;
use super::product::{DRAFTED_TERMS, FEW_LANES, MANY_TERMS, TEAM, Terms, stride};
use super::{Cost, Form, Lane};
use crate::config::Target;
use crate::loop_ir::{Attention, Axis, IndexExpr, Instr, Nest, Tag, Val, attention, unflatten};
use crate::types::{Cooperative, DeviceModel, Dim, MatmulPrecision};
use serde::{Deserialize, Serialize};

/// Kernel axis of batches.
pub const BATCH: u32 = 0;
/// Kernel axis of rows.
pub const X: u32 = 1;
/// Kernel axis of columns.
pub const Y: u32 = 2;
/// Kernel axis of features.
pub const F: u32 = 3;
/// First of the clamped axes of lanes behind an end that does not divide by four.
pub const CLAMPED: u32 = 4;
/// First of the kernel axes of inner axes.
pub const INNER: u32 = 8;

/// Sizes of a workgroup's blocks. Each invocation holds four rows, of which eight invocations share each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Blocks {
    /// Rows of a workgroup.
    pub bx: u32,
    /// Columns of a step, a multiple of 32.
    pub by: u32,
    /// Features of a workgroup, a multiple of 32.
    pub bf: u32,
    /// Terms of contractions that are staged at a time, a multiple of four.
    pub bk: u32,
    /// Terms of a stage that are spelled out.
    pub unroll: u32,
    /// What matrix units multiply, with a subgroup for sixteen rows: bx, by and bf are multiples of sixteen. None where invocations multiply.
    pub units: Option<Terms>,
}

/// Columns of a stage of values.
pub const VALUES: u32 = 16;

/// Features of a workgroup at most: their sums stay in registers.
const MOST_FEATURES: u32 = 128;

impl Blocks {
    /// The blocks with few terms spelled out, as [`Tile::draft`](super::Tile::draft).
    pub fn draft(&self) -> Option<Blocks> {
        (self.units.is_none() && self.unroll >= MANY_TERMS).then_some(Blocks { unroll: DRAFTED_TERMS, ..*self })
    }

    /// Invocations of a workgroup.
    pub fn threads(&self) -> u32 {
        self.bx / 16 * TEAM
    }

    /// Vectors of what columns hold in workgroup memory.
    pub fn staged(&self) -> u32 {
        (self.bk * self.by / 4).max(VALUES * self.bf / 4)
    }

    /// Terms of f16 that matrix units multiply for a value.
    pub fn term_count(&self) -> u32 {
        self.units.map_or(1, Terms::count)
    }

    /// Whether matrix units multiply values that are scaled before.
    pub fn is_scaled(&self) -> bool {
        self.units.is_some_and(|terms| terms != Terms::Halves)
    }

    /// Bytes of workgroup memory: rows, columns or values, maxima of eight invocations a row, and weights.
    pub fn shared_bytes(&self) -> u32 {
        16 * (self.bk * self.bx / 4 + self.staged() + 8 * self.bx / 4 + self.by * self.bx / 4)
    }
}

/// Workgroup memory of attention by matrix units, in quads of f16 and, for scores, of f32. A line of values with two terms has those of eleven
/// bits first, then what is left of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Where each contraction's rows start.
    pub rows: Vec<u32>,
    /// Where each contraction's columns start.
    pub columns: Vec<u32>,
    /// Where values start; columns of a contraction may be values, too.
    pub values: u32,
    /// Where weights start.
    pub weights: u32,
    /// Quads of f16.
    pub halves: u32,
}

impl Layout {
    /// Of blocks over contractions of so many terms; `shared` is the one whose columns are the values. Rows, sixteen terms at a time, give way
    /// to the next and to the rest where fragments hold them.
    pub fn new(b: &Blocks, terms: &[u32], shared: Option<usize>, rows_stay: bool) -> Layout {
        let line = |length: u32| stride(length * b.term_count());
        let (slice, mut at) = (b.bx * line(16), 0);
        let mut place = |quads: u32| {
            at += quads;
            at - quads
        };
        let slices = |k: &u32| if rows_stay { k.div_ceil(16) * slice } else { 0 };
        let rows: Vec<u32> = terms.iter().map(|k| place(slices(k))).collect();
        let columns: Vec<u32> = terms.iter().map(|k| place(b.by * line(k.next_multiple_of(16)))).collect();
        let values = shared.map_or_else(|| place(b.by * line(b.bf)), |k| columns[k]);
        let weights = place(b.bx * line(b.by));
        Layout { rows, columns, values, weights, halves: at.max(slice) }
    }

    /// Bytes, with scores of each contraction, or of one at a time where values are scaled, and what invocations tell one another.
    pub fn bytes(&self, b: &Blocks) -> u32 {
        let contractions = self.columns.len() as u32;
        let (strips, told) = if b.is_scaled() { (1, contractions + 3 + b.bx / 16) } else { (contractions, 4) };
        8 * self.halves + 16 * strips * b.bx * stride(b.by) + 4 * (b.threads() + told)
    }
}

/// The contraction whose columns are the values that are summed: those of the same place, feature by term.
pub fn shared_columns(nest: &Nest, parts: &Attention) -> Option<usize> {
    let load = |v: Val| {
        let stored = if let Instr::Cast(from) = nest.stmt(v).instr { from } else { v };
        match &nest.stmt(stored).instr {
            Instr::Load { buffer, index, mask: None } => Some((*buffer, index)),
            _ => None,
        }
    };
    let (buffer, index) = load(parts.values)?;
    let first = (nest.rows.len() + nest.cols.len()) as u32;
    let features = &nest.rows[parts.features() as usize];
    parts.contractions.iter().position(|c| {
        let term = |a: &Axis| if a.id == parts.features() { IndexExpr::axis(first + c.over, &a.size) } else { IndexExpr::axis(a.id, &a.size) };
        let same = nest.inner[c.over as usize] == *features;
        same && load(c.b).is_some_and(|(b, at)| b == buffer && *at == index.substitute(&term, &IndexExpr::value))
    })
}

/// Numbers of terms of a nest's contractions.
pub fn terms(nest: &Nest, parts: &Attention) -> Option<Vec<u32>> {
    parts.contractions.iter().map(|c| u32::try_from(nest.inner[c.over as usize].as_int()?).ok()).collect()
}

/// Attention to be computed by one kernel and its gradients by three, or by products and a softmax.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    /// Rows of queries, of all batches.
    pub rows: f64,
    /// Rows of keys.
    pub columns: f64,
    /// Features of queries and keys.
    pub scored: f64,
    /// Features of values.
    pub summed: f64,
    /// Whether rows see no later column.
    pub causal: bool,
    /// Whether queries, keys and values are of f16.
    pub halves: bool,
}

/// What gradients of fused attention make of the scores, of which the forward keeps none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scores {
    /// Three kernels compute them again.
    Recomputed,
    /// Two products compute them and their gradient again, and three more read them from memory.
    Stored,
}

/// Scores of 128 MiB: from there on the forward stores none, whatever that costs.
const MANY: f64 = (1 << 25) as f64;

/// Scores of 256 MiB: from there on the backward stores none either.
const MOST_STORED: f64 = (1 << 26) as f64;

impl Problem {
    /// How the kernels are used where they take less time on a device, or the scores are too many to be stored; nothing where products and a
    /// softmax are faster. `gradients` are computed, too, with scores of at most that kind.
    pub fn fastest(&self, gradients: Option<Scores>, precision: MatmulPrecision, target: &Target) -> Option<Scores> {
        // Kernels in a step were a tenth slower than alone.
        const MARGIN: f64 = 1.1;
        let [fused, decomposed] = self.forward(precision, target);
        let many = self.rows * self.columns >= MANY;
        let Some(most) = gradients else { return (many || MARGIN * fused < decomposed).then_some(Scores::Recomputed) };
        let [recomputed, stored, saved] = self.backward(precision, target);
        let is_fastest = |gradients: f64| MARGIN * (fused + gradients) < decomposed + saved;
        let bounded = self.rows * self.columns <= MOST_STORED;
        // Of f16, kernels by matrix units are twice as fast as what passes through memory.
        let in_halves = self.units(precision, target) == Some(Terms::Halves);
        if most == Scores::Stored && !in_halves && bounded && stored < recomputed && (many || is_fastest(stored)) {
            return Some(Scores::Stored);
        }
        (many || is_fastest(recomputed)).then_some(Scores::Recomputed)
    }

    /// What matrix units multiply, where there are any.
    fn units(&self, precision: MatmulPrecision, target: &Target) -> Option<Terms> {
        let terms = if self.halves { Some(Terms::Halves) } else { scaled(precision, false) };
        terms.filter(|_| target.caps.cooperative != Cooperative::Absent)
    }

    /// The part of scores that causal attention computes in blocks of so many: those of the diagonal are computed whole.
    fn seen(&self, block: f64) -> f64 {
        if self.causal { ((self.columns + block) / (2.0 * self.columns)).min(1.0) } else { 1.0 }
    }

    /// Nanoseconds of so many products along features of queries and of values for each score, at a device's whole arithmetic.
    fn products(&self, scored: f64, summed: f64, target: &Target) -> f64 {
        2.0 * (scored * self.scored + summed * self.summed) / target.model.gflops.max(1) as f64
    }

    /// Shares of the arithmetic that are reached, measured on the reference H100: by the kernel, by the five products of gradients of which three
    /// kernels compute eight, and by products of stored scores.
    fn shares(&self, precision: MatmulPrecision, target: &Target) -> [f64; 3] {
        match self.units(precision, target) {
            None => [0.48, 0.29, PRODUCTS],
            // Decomposed, weights are of f32.
            Some(Terms::Halves) => [1.3, 0.55, PRODUCTS],
            Some(Terms::Split) => [0.95, 0.5, 1.4],
            Some(Terms::Rounded) => [1.2, 0.5, 2.0],
        }
    }

    /// Nanoseconds of a score, by the kernel and decomposed. A product takes as long as its arithmetic, while a score is stored; the softmax reads
    /// and writes it.
    fn forward(&self, precision: MatmulPrecision, target: &Target) -> [f64; 2] {
        let [kernel, _, share] = self.shares(precision, target);
        let both = self.products(1.0, 1.0, target);
        [self.seen(128.0) * both / kernel, both / share + 8.0 / bandwidth(target)]
    }

    /// The same of the gradients: by kernels, by products of scores that are computed again and stored, and of those that the forward saves.
    fn backward(&self, precision: MatmulPrecision, target: &Target) -> [f64; 3] {
        let [_, kernels, share] = self.shares(precision, target);
        let recomputed = self.seen(64.0) * self.products(3.0, 2.0, target) / kernels;
        // Products of few terms, whose sums are many.
        let short = self.seen(64.0) * self.products(1.0, 1.0, target) / (SHORT * share) + 12.0 / bandwidth(target);
        let stored = short + self.seen(64.0) * self.products(2.0, 1.0, target) / share;
        [recomputed, stored, self.products(2.0, 2.0, target) / share + 12.0 / bandwidth(target)]
    }
}

/// The share of a device's arithmetic that products of f32 reach.
const PRODUCTS: f64 = 0.69;

/// What products of as few terms as there are features reach of that.
const SHORT: f64 = 0.68;

/// Gigabytes a second.
fn bandwidth(target: &Target) -> f64 {
    target.model.bandwidth_gbps.max(1) as f64
}

/// Blocks that can run attention, those first that promise the shortest time.
pub fn candidates(nest: &Nest, target: &Target) -> Vec<(Form, Cost)> {
    let Ok(parts) = attention(nest) else { return vec![] };
    let Some(terms) = terms(nest, &parts) else { return vec![] };
    let features = nest.rows[parts.features() as usize].hint().max(1) as u32;
    let rows = nest.rows[parts.x() as usize].hint();
    let parts_of_features = features.div_ceil(MOST_FEATURES);
    let bf = features.div_ceil(parts_of_features).next_multiple_of(32);
    // A compiler for a processor takes seconds for what a GPU's takes milliseconds.
    let unroll = |bk: u32| if target.model.parallel_lanes < FEW_LANES { 4 } else { bk };
    let blocks = |(bx, by, bk): (u32, u32, u32)| Blocks { bx, by, bf, bk, unroll: unroll(bk), units: None };
    let caps = &target.caps;
    let legal = |b: &Blocks| b.threads() <= caps.max_invocations.min(caps.max_workgroup_size) && b.shared_bytes() <= caps.max_workgroup_bytes;
    let first = match rows {
        0..=32 => 3,
        _ if parts.online.is_none() => 2,
        33..=128 => 1,
        _ => 0,
    };
    let sizes = &SIZES[first..];
    let found = by_units(nest, &parts, &terms, target).into_iter().chain(sizes.iter().map(|s| blocks(*s)).filter(legal));
    found.map(|b| (Form::Attention(b), price(nest, &terms, &b, &target.model))).collect()
}

/// What matrix units may multiply: operands of f16, or others where their precision admits it.
fn multiplied(nest: &Nest, parts: &Attention) -> Option<Terms> {
    let halves = parts.contractions.iter().all(|c| is_half(nest, c.a) && is_half(nest, c.b)) && is_half(nest, parts.values);
    match nest.tag {
        _ if halves => Some(Terms::Halves),
        Tag::Attention { precision, .. } => scaled(precision, parts.online.is_none()),
        _ => None,
    }
}

/// What matrix units multiply for values of f32. Gradients in one term took five times as long as in two on the reference H100.
fn scaled(precision: MatmulPrecision, gradient: bool) -> Option<Terms> {
    match precision {
        MatmulPrecision::Medium if !gradient => Some(Terms::Rounded),
        MatmulPrecision::Medium | MatmulPrecision::High => Some(Terms::Split),
        MatmulPrecision::Highest => None,
    }
}

/// Blocks by matrix units, where there are any and operands may be multiplied by them.
fn by_units(nest: &Nest, parts: &Attention, terms: &[u32], target: &Target) -> Vec<Blocks> {
    let units = multiplied(nest, parts);
    if target.caps.cooperative == Cooperative::Absent || units.is_none() {
        return vec![];
    }
    let features = nest.rows[parts.features() as usize].hint().max(1) as u32;
    let bf = features.div_ceil(features.div_ceil(MOST_FEATURES)).next_multiple_of(16);
    let shared = shared_columns(nest, parts).filter(|_| features == bf);
    let caps = &target.caps;
    let legal = |b: &Blocks| {
        let bytes = Layout::new(b, terms, shared, caps.cooperative == Cooperative::Emulated).bytes(b);
        b.threads() <= caps.max_invocations.min(caps.max_workgroup_size) && bytes <= caps.max_workgroup_bytes
    };
    let blocks = |&(bx, by): &(u32, u32)| Blocks { bx, by, bf, bk: 16, unroll: 16, units };
    // Half of a block of the diagonal is computed in vain.
    let tall = (parts.online.is_some() || units != Some(Terms::Halves)) && nest.cols[0].hint() >= 1024;
    let (first, rest) = if tall { ((128, 16), (64, 16)) } else { ((64, 16), (128, 16)) };
    [first, rest].iter().chain(&UNITS).map(blocks).filter(legal).collect()
}

/// Rows and columns of a step by matrix units beside those of 64 and 128 rows and sixteen columns. TFLOPS of causal attention of 64 heads of 64
/// features and 4,096 rows on the reference H100, forward and backward: 128 x 16 154 and 64, 64 x 16 146 and 66, 128 x 32 123 and 60, 64 x 64
/// 100 and 59, 64 x 32 93 and 44, 32 x 32 73 and 27. What matters is how many workgroups have room in a multiprocessor. Of two terms: 128 x 16 57
/// and 30, 64 x 16 57 and 28, 96 x 16 42 and 23; shorter lines of scores 54 and 29.
const UNITS: [(u32, u32); 4] = [(64, 32), (32, 32), (32, 16), (16, 16)];

/// Rows, columns and terms of a stage, best first. TFLOPS of causal attention of 64 heads of 64 features on the reference H100, forward at
/// 4,096 rows: 28.7 by the first, 24.3, 22.0; rows that stay in workgroup memory gave 22.3, two fours of rows for an invocation 26.9,
/// 32 columns 17.8 to 22.1. Backward at 2,048 rows: 16.7, 14.0, 17.5; two fours of rows 14.3, 32 columns 11.4 to 12.8. The last are for few
/// rows and for little workgroup memory.
const SIZES: [(u32, u32, u32); 5] = [(128, 64, 16), (64, 64, 32), (64, 64, 16), (32, 32, 16), (32, 32, 8)];

/// By the multiply-adds of whole blocks, of which half of the device's arithmetic is reached, by the share of the device that is busy.
fn price(nest: &Nest, terms: &[u32], b: &Blocks, model: &DeviceModel) -> Cost {
    let reached = match b.units {
        None => 0.5,
        Some(Terms::Split) => 0.9,
        Some(Terms::Rounded | Terms::Halves) => 1.0,
    };
    let [x, f] = [b.bx, b.bf].map(|n| n as f64);
    let axis = |i: usize| count(&nest.rows[i]);
    let batch: f64 = (0..nest.rows.len() - 2).map(axis).product();
    let (rows, features) = ((axis(nest.rows.len() - 2) / x).ceil() * x, (axis(nest.rows.len() - 1) / f).ceil());
    let each = terms.iter().map(|&k| k as f64).sum::<f64>() + f;
    let operations = batch * rows * features * count(&nest.cols[0]) * each;
    let lanes = batch * rows / x * features * b.threads() as f64;
    let busy = (4.0 * lanes / model.parallel_lanes.max(1) as f64).clamp(1e-9, 1.0);
    Cost { ns: 2.0 * operations / (model.gflops.max(1) as f64 * reached * busy) + model.launch_ns as f64 }
}

/// The coordinates of the nest's axes for four lanes along kernel axis `along`, the other axes by themselves. `clamped` lanes have
/// an axis each.
pub fn lanes(nest: &Nest, parts: &Attention, along: u32, clamped: bool) -> Vec<Lane> {
    let four = Dim::int(4);
    let lane = |l: u32| {
        let at = |id: u32, size: &Dim| -> IndexExpr {
            if id != along {
                IndexExpr::axis(id, size)
            } else if clamped {
                IndexExpr::axis(CLAMPED + l, size)
            } else {
                IndexExpr::axis(id, &size.ceil_div(&four)).times(&four).plus(&Dim::int(l as i64))
            }
        };
        let (batch, own) = nest.rows.split_at(parts.batch as usize);
        let mut axes = unflatten(&IndexExpr::axis(BATCH, &Dim::product(batch)), batch);
        axes.extend([at(X, &own[0]), at(F, &own[1]), at(Y, &nest.cols[0])]);
        axes.extend(nest.inner.iter().zip(INNER..).map(|(size, id)| at(id, size)));
        Lane::at(axes)
    };
    (0..4).map(lane).collect()
}
