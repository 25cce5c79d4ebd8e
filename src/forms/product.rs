//! Tiles of matrix products: what a workgroup computes, and which of them promises the shortest time.

use super::{Cost, triangle};
use crate::loop_ir::Triangle;
use crate::types::{Cooperative, DeviceCaps, DeviceModel, MatmulPrecision};
use serde::{Deserialize, Serialize};

/// Elements behind each line of workgroup memory that fragments are loaded from, against bank conflicts: without them a third of the speed.
pub const PAD: u32 = 8;

/// Quads of a line of so many elements of workgroup memory that fragments are loaded from.
pub fn stride(length: u32) -> u32 {
    (length + PAD) / 4
}

/// Invocations that share a block of a tile; a unit of the work's layout, whatever the device's subgroups are.
pub const TEAM: u32 = 32;

/// Sizes of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tile {
    /// Rows of the output tile, a multiple of 32.
    pub bm: u32,
    /// Columns of the output tile, a multiple of 32.
    pub bn: u32,
    /// Depth of a step, a multiple of sixteen.
    pub bk: u32,
    /// Rows of a team's block, a multiple of sixteen.
    pub wm: u32,
    /// Columns of a team's block, a multiple of 32.
    pub wn: u32,
    /// What multiplies.
    pub math: Math,
    /// Workgroups that share the steps of all tiles evenly; none where each has a tile of its own.
    pub workers: Option<u32>,
}

/// How a tile multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Math {
    /// Invocations, with fused multiply-adds.
    Fma {
        /// Halves of workgroup memory: with two, one is filled while the other is read.
        halves: u32,
        /// Terms of a step spelled out, four or all; those of a draft, two.
        unroll: u32,
        /// Parts that the terms are divided into, each of which as many invocations as a tile needs multiply; more than one where tiles are
        /// few, so that a multiprocessor has something to do while steps wait for memory.
        slices: u32,
    },
    /// Subgroups, with cooperative matrices of f16 and f32 sums.
    Cooperative(Terms),
}

/// What cooperative matrices multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Terms {
    /// Values of f16.
    Halves,
    /// Values of f32, scaled and rounded.
    Rounded,
    /// Values of f32, scaled and split in two terms of eleven bits each.
    Split,
}

impl Terms {
    /// What names of kernels that multiply these end in.
    pub fn suffix(self) -> &'static str {
        match self {
            Terms::Halves => "-f16",
            Terms::Rounded => "-f16x1",
            Terms::Split => "-f16x2",
        }
    }

    /// Terms of a value.
    pub fn count(self) -> u32 {
        if self == Terms::Split { 2 } else { 1 }
    }
}

/// A tile with what was measured of it.
struct Candidate {
    tile: Tile,
    /// Share of the fastest tile's arithmetic that a multiprocessor reaches with one of its workgroups, with two and so on, up to as many as
    /// it holds.
    speed: &'static [f64],
    /// The same where workgroups share tiles, as many of them as it holds; zero where that was not faster for any product.
    shared: f64,
    /// Terms at that speed that starting and ending a tile costs as much as.
    start: f64,
}

const fn tile(size: (u32, u32, u32), block: (u32, u32), halves: u32) -> Tile {
    let math = Math::Fma { halves, unroll: size.2, slices: 1 };
    Tile { bm: size.0, bn: size.1, bk: size.2, wm: block.0, wn: block.1, math, workers: None }
}

/// A tile whose terms slices share. Two slices of 64 x 64 were never the fastest.
const fn sliced(size: (u32, u32), block: (u32, u32), slices: u32) -> Tile {
    Tile { bm: size.0, bn: size.1, bk: 16, wm: block.0, wn: block.1, math: Math::Fma { halves: 1, unroll: 16, slices }, workers: None }
}

const fn cooperative(size: (u32, u32), block: (u32, u32), terms: Terms) -> Tile {
    Tile { bm: size.0, bn: size.1, bk: 32, wm: block.0, wn: block.1, math: Math::Cooperative(terms), workers: None }
}

/// Shares and starts are those of the reference H100 (`benches/results.md`); those of small tiles are fitted to what `inductor tune` measured of the
/// 101 products of two models.
const CANDIDATES: [Candidate; 9] = [
    Candidate { tile: tile((128, 128, 16), (64, 64), 1), speed: &[0.59, 1.0], shared: 1.0, start: START },
    Candidate { tile: tile((128, 64, 16), (32, 64), 2), speed: &[0.42, 0.9], shared: 0.0, start: START },
    Candidate { tile: tile((64, 64, 16), (32, 32), 2), speed: &[0.48, 0.68, 0.78, 0.88], shared: 0.8, start: 56.0 },
    Candidate { tile: tile((64, 32, 16), (32, 32), 2), speed: &[0.25, 0.36, 0.47, 0.6, 0.63], shared: 0.0, start: START },
    Candidate { tile: tile((32, 64, 16), (16, 32), 2), speed: &[0.32, 0.53, 0.58, 0.64, 0.65], shared: 0.55, start: 29.0 },
    Candidate { tile: tile((32, 32, 16), (16, 32), 2), speed: &[0.16, 0.29, 0.31, 0.45, 0.46, 0.54], shared: 0.0, start: 24.0 },
    Candidate { tile: tile((32, 32, 16), (16, 32), 1), speed: &[0.14, 0.26, 0.28, 0.42, 0.43, 0.5], shared: 0.0, start: 16.0 },
    Candidate { tile: sliced((32, 32), (16, 32), 4), speed: &[0.27, 0.5], shared: 0.0, start: 24.0 },
    Candidate { tile: sliced((32, 32), (16, 32), 8), speed: &[0.36], shared: 0.0, start: 24.0 },
];

/// Tiles of cooperative matrices for values of f32, with one and with two terms.
const SCALED: [[Candidate; 4]; 2] = [
    of_terms(Terms::Rounded, [&[2.3], &[1.9], &[1.0, 1.9], &[0.7, 1.4, 1.8]], [1.9, 1.7, 1.6, 1.4]),
    of_terms(Terms::Split, [&[1.6], &[1.5], &[0.6, 1.1], &[0.4, 0.8, 1.1]], [1.5, 1.45, 0.95, 0.9]),
];

const fn of_terms(terms: Terms, speeds: [&'static [f64]; 4], shared: [f64; 4]) -> [Candidate; 4] {
    [
        Candidate { tile: cooperative((128, 128), (64, 32), terms), speed: speeds[0], shared: shared[0], start: START },
        Candidate { tile: cooperative((128, 128), (32, 64), terms), speed: speeds[1], shared: shared[1], start: START },
        Candidate { tile: cooperative((128, 64), (32, 32), terms), speed: speeds[2], shared: shared[2], start: START },
        Candidate { tile: cooperative((64, 64), (32, 32), terms), speed: speeds[3], shared: shared[3], start: START },
    ]
}

/// Tiles of cooperative matrices for values of f16. Shares and starts are fitted to what `inductor tune` measured of 21 products.
const HALVES: [Candidate; 6] = [
    of_halves((128, 128), (64, 64), &[3.1, 6.4], 6.2, 208.0),
    of_halves((96, 128), (48, 64), &[2.7, 5.3], 0.0, 180.0),
    of_halves((128, 128), (64, 32), &[3.0, 3.8], 3.4, 20.0),
    of_halves((128, 64), (64, 32), &[1.7, 3.7], 3.6, 150.0),
    of_halves((64, 64), (32, 32), &[0.9, 1.8, 2.5, 3.0], 3.0, 58.0),
    of_halves((64, 32), (32, 16), &[0.6, 1.1, 1.5, 1.8, 2.0], 0.0, 64.0),
];

const fn of_halves(size: (u32, u32), block: (u32, u32), speed: &'static [f64], shared: f64, start: f64) -> Candidate {
    Candidate { tile: cooperative(size, block, Terms::Halves), speed, shared, start }
}

/// A product's sizes: outputs of each of `batch` matrices, and terms of each output.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sizes {
    /// Matrices.
    pub batch: f64,
    /// Rows.
    pub m: f64,
    /// Columns.
    pub n: f64,
    /// Terms.
    pub k: f64,
    /// What of them is left out.
    pub triangle: Triangle,
    /// Numbers that follow a result through memory, but for the one that is stored; counted where sums are left out only.
    pub beside: f64,
}

impl std::fmt::Display for Tile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Tile { bm, bn, bk, wm, wn, math, workers } = self;
        match math {
            Math::Fma { .. } => write!(f, "tile-{bm}x{bn}x{bk}-{wm}x{wn}")?,
            Math::Cooperative(terms) => write!(f, "cooperative-{bm}x{bn}x{bk}-{wm}x{wn}{}", terms.suffix())?,
        }
        if self.slices() > 1 {
            write!(f, "-over-{}", self.slices())?;
        }
        workers.map_or(Ok(()), |workers| write!(f, "-by-{workers}"))
    }
}

/// Terms that are many to spell out, and those that a draft does. A driver takes half a second for sixteen and less than half of that for two.
pub const MANY_TERMS: u32 = 8;
/// See [`MANY_TERMS`].
pub const DRAFTED_TERMS: u32 = 2;

impl Tile {
    /// The tile with few terms spelled out, where many are: the same launch, and the same sums in the same order.
    pub fn draft(&self) -> Option<Tile> {
        match self.math {
            Math::Fma { halves, unroll, slices } if unroll >= MANY_TERMS => {
                Some(Tile { math: Math::Fma { halves, unroll: DRAFTED_TERMS, slices }, ..*self })
            }
            _ => None,
        }
    }

    /// Whether it is the draft of another.
    pub fn is_draft(&self) -> bool {
        matches!(self.math, Math::Fma { unroll: DRAFTED_TERMS, .. })
    }

    /// Invocations of a workgroup.
    pub fn threads(&self) -> u32 {
        (self.bm / self.wm) * (self.bn / self.wn) * TEAM * self.slices()
    }

    /// Parts of the terms that a workgroup multiplies side by side.
    pub fn slices(&self) -> u32 {
        if let Math::Fma { slices, .. } = self.math { slices } else { 1 }
    }

    /// Steps of loops that an invocation takes over so many terms.
    pub fn steps(&self, terms: u64) -> u64 {
        let own = terms.div_ceil(self.slices() as u64);
        let inner = if let Math::Fma { unroll, .. } = self.math { own.div_ceil(unroll as u64) } else { 0 };
        own.div_ceil(self.bk as u64) + inner
    }

    /// Bytes of workgroup memory for elements of `bytes` bytes.
    pub fn shared_bytes(&self, bytes: u32) -> u32 {
        match self.math {
            Math::Fma { slices: 1, halves, .. } => halves * self.bk * (self.bm + self.bn) * bytes,
            // Steps of all slices, then their sums.
            Math::Fma { slices, .. } => slices * (self.bk * (self.bm + self.bn)).max(self.bm * self.bn) * bytes,
            Math::Cooperative(terms) => {
                // In either direction; then the strips, and the largest values.
                let padded = |size: u32| (size * (self.bk + PAD)).max(self.bk * (size + PAD));
                2 * terms.count() * (padded(self.bm) + padded(self.bn)) + 1024 * self.hands() * self.span() + 16
            }
        }
    }

    /// Neighboring fragments of a subgroup that are handed over to the epilogue at a time.
    pub fn span(&self) -> u32 {
        match self.math {
            // Rounds of the epilogue are spelled out there, which is faster with fragments of as many subgroups; but eight subgroups take
            // turns, and who waits hands over two.
            Math::Cooperative(Terms::Halves) => (self.wn / 16).min(if self.threads() > 4 * TEAM { 2 } else { 1 }),
            _ => (self.wn / 16).min(4),
        }
    }

    /// Subgroups that hand over at a time. More than four fragments take memory that another workgroup needs: of the reference H100, two of
    /// 24 KiB run on a multiprocessor at a time and only one of 36 KiB, at 0.6 of the speed.
    pub fn hands(&self) -> u32 {
        (4 / self.span()).min(self.threads() / TEAM)
    }

    /// Bytes of the memory that workgroups which share tiles leave sums in: a count for each of [`SHARED_TILES`] tiles, then a tile for
    /// each of a workgroup's two ends. Zero where none are shared.
    pub fn scratch_bytes(&self) -> u64 {
        self.workers.map_or(0, |workers| 4 * (SHARED_TILES + 2 * workers as u64 * (self.bm * self.bn) as u64))
    }

    /// Rows of tiles that neighboring workgroups take together. A matrix of some thousand tiles no cache holds.
    pub fn band(&self, sizes: &Sizes) -> u32 {
        let tiles = (sizes.m / self.bm as f64).ceil() * (sizes.n / self.bn as f64).ceil();
        if tiles > 2048.0 { 16 } else { 1 }
    }
}

/// Tiles that workgroups may share, a power of two. More come out even enough by themselves.
pub const SHARED_TILES: u64 = 1 << 14;

/// How a tile divides the work of a product.
struct Division {
    /// Number of tiles.
    tiles: f64,
    /// Steps along the terms of each.
    steps: f64,
}

impl Candidate {
    fn is_legal(&self, machine: &Machine) -> bool {
        let (threads, caps) = (self.tile.threads(), machine.caps);
        threads <= caps.max_invocations.min(caps.max_workgroup_size) && self.tile.shared_bytes(machine.bytes) <= caps.max_workgroup_bytes
    }

    fn division(&self, s: &Sizes) -> Division {
        let Tile { bm, bn, bk, .. } = self.tile;
        Division { tiles: s.batch * (s.m / bm as f64).ceil() * (s.n / bn as f64).ceil(), steps: (s.k / bk as f64).ceil() }
    }

    /// The tile with as many workgroups as the device holds at a time, each of which takes as many steps as the others (stream-K, Osama et
    /// al. 2023), and the time of the product so.
    fn shared(&self, s: &Sizes, machine: &Machine) -> Option<(Tile, f64)> {
        // Terms that storing the parts of a workgroup costs as much as, and adding up each of a tile.
        const STORED: f64 = 48.0;
        const ADDED: f64 = 20.0;
        // How clearly it is to be worth it, which part of starting a tile is not hidden by others, and tiles of a multiprocessor from which on they come
        // out even by themselves. Those of invocations are fitted to what `inductor tune` measured of 139 products.
        let (clearly, begun, most) = match self.tile.math {
            Math::Fma { .. } => (1.01, 0.5, 16.0),
            Math::Cooperative(_) => (1.03, 1.0, f64::INFINITY),
        };
        let (Division { tiles, steps }, held) = (self.division(s), self.speed.len() as f64);
        let workers = (machine.processors() * held).floor();
        // The fewest steps that are worth a workgroup.
        const FEWEST: f64 = 8.0;
        let all = tiles * steps;
        if !machine.shares
            || self.shared == 0.0
            || tiles > (most * machine.processors()).min(SHARED_TILES as f64)
            || tiles % workers == 0.0
            || !(FEWEST * workers..2f64.powi(31)).contains(&all)
        {
            return None;
        }
        let (bm, bn) = (self.tile.bm as f64, self.tile.bn as f64);
        let terms = (all / workers).ceil() * self.tile.bk as f64;
        let [a, b] = machine.loads;
        let beside = begun * self.start * (terms / s.k + 1.0);
        // Memory is no faster for units that multiply halves.
        let passed = (STORED + ADDED * (workers / tiles + 1.0)) * if machine.halves { 2.0 * self.shared } else { 1.0 };
        let time = held / self.shared * bm * bn * (terms + beside + passed) + held * (bm * a + bn * b) * terms;
        Some((Tile { workers: Some(workers as u32), ..self.tile }, clearly * time))
    }

    /// Time in multiply-adds of one multiprocessor at full speed.
    fn time(&self, s: &Sizes, machine: &Machine) -> f64 {
        match s.triangle {
            Triangle::Whole => self.even_time(s, machine),
            Triangle::Results => {
                // A number beside costs as much as so many terms; large tiles have too many under way.
                const BESIDE: f64 = 24.0;
                let Tile { bm, bn, .. } = self.tile;
                let seen = ((s.m + bm.max(bn) as f64) / (2.0 * s.m)).min(1.0);
                let beside = BESIDE * s.beside * if bm * bn > 4096 { 1.5 } else { 1.0 };
                // Tiles that are left out start and end at once.
                self.even_time(&Sizes { k: seen * (s.k + self.start) - self.start + beside, ..*s }, machine)
            }
            Triangle::TermsAfter | Triangle::TermsBefore => {
                let half = Sizes { k: (s.k / 2.0).ceil(), ..*s };
                self.uneven_time(s, machine).unwrap_or_else(|| self.even_time(&half, machine))
            }
        }
    }

    /// The time where rows have unequally many terms, unless it is that of the average.
    fn uneven_time(&self, s: &Sizes, machine: &Machine) -> Option<f64> {
        let (bm, bn) = (self.tile.bm as f64, self.tile.bn as f64);
        let tiles = [(s.m / bm).ceil(), s.batch * (s.n / bn).ceil()];
        let terms = triangle::of_one(machine.processors(), tiles, s.k, bm)?;
        let [a, b] = machine.loads;
        let beside = (bm * a + bn * b) * terms.iter().sum::<f64>();
        let with_start: Vec<f64> = terms.iter().map(|k| k + self.start).collect();
        Some(triangle::in_turn(&with_start, self.speed) * bm * bn + beside)
    }

    /// The time of equal tiles: that of the multiprocessor with most of them.
    fn even_time(&self, s: &Sizes, machine: &Machine) -> f64 {
        let (bm, bn) = (self.tile.bm as f64, self.tile.bn as f64);
        let Division { tiles, .. } = self.division(s);
        let (each, held) = (tiles / machine.processors(), self.speed.len() as f64);
        // Workgroups start as others end, so that what does not come out even matters less the more there are.
        let most = if each <= 4.0 * held { each.ceil() } else { each + 0.5 };
        let (rounds, rest) = ((most / held).floor(), most % held);
        // Where it holds many, they end at different times, so that the last ones are not alone.
        let beside = if rounds > 0.0 && held >= 4.0 { self.speed.len() } else { (rest.ceil() as usize).clamp(1, self.speed.len()) };
        let alone = rest / self.speed[beside - 1];
        let [a, b] = machine.loads;
        (rounds * held / self.speed[self.speed.len() - 1] + alone) * bm * bn * (s.k + self.start) + most * (bm * a + bn * b) * s.k
    }
}

/// Fewer invocations at a time than any GPU runs.
pub const FEW_LANES: u32 = 4096;

/// Terms that starting and ending a tile costs as much as, where nobody has measured it.
const START: f64 = 64.0;

/// Numbers of parts that are tried: those of few outputs of very many terms are many.
const PARTS: [i64; 30] = [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 22, 24, 26, 29, 32, 40, 48, 58, 64, 88, 112, 128, 192];

/// What multiplies, and how exactly it has to.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// Capabilities.
    pub caps: &'a DeviceCaps,
    /// Speeds.
    pub model: &'a DeviceModel,
    /// Bytes of an element.
    pub bytes: u32,
    /// Multiply-adds that take as long as loading an element of each operand, beside those that come in vectors.
    pub loads: [f64; 2],
    /// How exact products of f32 are to be. Others are [`MatmulPrecision::Highest`].
    pub precision: MatmulPrecision,
    /// Whether both operands are of f16, and sums of f32.
    pub halves: bool,
    /// Whether workgroups may share tiles: sums are of f32, sizes are known, and one workgroup sees what others stored.
    pub shares: bool,
}

impl Machine<'_> {
    /// Parts of the device that workgroups are spread over. Shares of tiles of f32 are fitted to a count by invocations, 128 for the 132
    /// of the reference H100.
    fn processors(&self) -> f64 {
        if self.halves { self.model.processors as f64 } else { (self.model.parallel_lanes as f64 / 2048.0).max(1.0) }
    }

    /// The time of a launch that takes so many multiply-adds of a multiprocessor.
    pub fn price(&self, units: f64) -> Cost {
        Cost { ns: self.arithmetic_ns(units) + self.model.launch_ns as f64 }
    }

    fn arithmetic_ns(&self, units: f64) -> f64 {
        // What the fastest tile reaches of the device's arithmetic.
        const REACHED: f64 = 0.75;
        2.0 * units * self.processors() / (self.model.gflops as f64 * REACHED)
    }

    /// Tiles that the device can run, shortest time first, and that time in multiply-adds of a multiprocessor.
    pub fn by_time(&self, sizes: &Sizes) -> Vec<(Tile, f64)> {
        let cooperative: &[Candidate] = match self.precision {
            _ if self.caps.cooperative == Cooperative::Absent => &[],
            _ if self.halves => &HALVES,
            MatmulPrecision::Medium => &SCALED[0],
            MatmulPrecision::High => &SCALED[1],
            MatmulPrecision::Highest => &[],
        };
        let legal = cooperative.iter().chain(&CANDIDATES).filter(|c| c.is_legal(self));
        let timed = legal.flat_map(|c| [Some((c.tile, c.time(sizes, self))), c.shared(sizes, self)].into_iter().flatten());
        let mut timed: Vec<(Tile, f64)> = timed.map(|(tile, time)| (self.spelled(tile), time)).collect();
        timed.sort_by(|a, b| a.1.total_cmp(&b.1));
        timed
    }

    /// A compiler for a processor takes seconds for what a GPU's takes milliseconds.
    fn spelled(&self, tile: Tile) -> Tile {
        match tile.math {
            Math::Fma { slices, .. } if self.model.parallel_lanes < FEW_LANES => Tile { math: Math::Fma { halves: 1, unroll: 4, slices }, ..tile },
            _ => tile,
        }
    }

    /// Terms of a step of the tiles.
    pub fn step(&self) -> i64 {
        if self.precision == MatmulPrecision::Highest && !self.halves { 16 } else { 32 }
    }

    /// Parts that the terms of a product are divided into, so that few tiles fill the device, where that saves clearly more than storing and
    /// adding up their results costs.
    pub fn parts(&self, sizes: &Sizes) -> Option<i64> {
        const SHORTEST: f64 = 512.0;
        const NEAR: f64 = 1.05;
        let model = self.model;
        if model.parallel_lanes < FEW_LANES {
            return None;
        }
        let divided: Vec<(i64, f64)> =
            PARTS.into_iter().filter(|p| sizes.k / *p as f64 >= SHORTEST).filter_map(|p| Some((p, self.divided(sizes, p)?))).collect();
        let least = divided.iter().map(|d| d.1).min_by(f64::total_cmp)?;
        // Few parts take less memory.
        let (parts, time) = *divided.iter().find(|d| d.1 <= NEAR * least)?;
        let whole = self.divided(sizes, 1)?;
        // Predictions are a tenth off, one launch more also costs those around it, and what followed the product leaves its kernel: a saving of
        // less than a fifth must be worth many launches.
        let launches = (whole - time) / model.launch_ns as f64;
        (time < 0.8 * whole && launches > 4.0 || time < 0.9 * whole && launches > 50.0).then_some(parts)
    }

    /// Predicted nanoseconds of a product but for its launch, in parts where that pays. None where no tile can run it.
    pub fn time(&self, sizes: &Sizes) -> Option<f64> {
        self.divided(sizes, self.parts(sizes).unwrap_or(1))
    }

    /// The same of one whose terms are divided into so many parts.
    fn divided(&self, sizes: &Sizes, parts: i64) -> Option<f64> {
        let s = Sizes { batch: sizes.batch * parts as f64, k: sizes.k / parts as f64, ..*sizes };
        let (_, units) = *self.by_time(&s).first()?;
        let outputs = sizes.batch * sizes.m * sizes.n;
        let traffic = || (2.0 * parts as f64 + 1.0) * outputs * self.bytes as f64 / self.model.bandwidth_gbps as f64 + self.model.launch_ns as f64;
        Some(self.arithmetic_ns(units) + if parts > 1 { traffic() } else { 0.0 })
    }
}
