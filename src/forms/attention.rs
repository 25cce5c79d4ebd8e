//! Blocks of attention: which rows and columns a workgroup takes at a time, and the coordinates of their elements over the kernel's axes.

use super::cost::count;
use super::product::{FEW_LANES, TEAM};
use super::{Cost, Form, Lane};
use crate::config::Target;
use crate::loop_ir::{Attention, IndexExpr, Nest, attention, unflatten};
use crate::types::{DeviceModel, Dim};
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

/// Sizes of a workgroup's blocks. Each invocation holds `4 * quads` rows, of which eight invocations share each.
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
    /// Fours of rows of an invocation.
    pub quads: u32,
    /// Whether what rows hold stays in workgroup memory from step to step.
    pub resident: bool,
    /// Terms of a stage that are spelled out.
    pub unroll: u32,
}

/// Columns of a stage of values.
pub const VALUES: u32 = 16;

/// Features of a workgroup at most: their sums stay in registers.
const MOST_FEATURES: u32 = 128;

impl Blocks {
    /// Invocations of a workgroup.
    pub fn threads(&self) -> u32 {
        self.bx / (16 * self.quads) * TEAM
    }

    /// Vectors of what rows hold in workgroup memory, for contractions of so many terms.
    pub fn held(&self, terms: &[u32]) -> u32 {
        let staged: u32 = if self.resident { terms.iter().map(|k| k.next_multiple_of(self.bk)).sum() } else { self.bk };
        staged * self.bx / 4
    }

    /// Vectors of what columns hold in workgroup memory.
    pub fn staged(&self) -> u32 {
        (self.bk * self.by / 4).max(VALUES * self.bf / 4)
    }

    /// Vectors that rows exchange their maxima through.
    pub fn exchanged(&self) -> u32 {
        8 * self.bx / 4
    }

    /// Bytes of workgroup memory.
    pub fn shared_bytes(&self, terms: &[u32]) -> u32 {
        16 * (self.held(terms) + self.staged() + self.exchanged() + self.by * self.bx / 4)
    }
}

/// Numbers of terms of a nest's contractions.
pub fn terms(nest: &Nest, parts: &Attention) -> Option<Vec<u32>> {
    parts.contractions.iter().map(|c| u32::try_from(nest.inner[c.over as usize].as_int()?).ok()).collect()
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
    let blocks = |(bx, by, quads, bk, resident): (u32, u32, u32, u32, bool)| Blocks { bx, by, bf, bk, quads, resident, unroll: unroll(bk) };
    let caps = &target.caps;
    let legal = |b: &Blocks| b.threads() <= caps.max_invocations.min(caps.max_workgroup_size) && b.shared_bytes(&terms) <= caps.max_workgroup_bytes;
    let sizes = if rows > 32 { &SIZES[..] } else { &SIZES[SIZES.len() - 2..] };
    let found = sizes.iter().map(|s| blocks(*s)).filter(legal);
    found.map(|b| (Form::Attention(b), price(nest, &terms, &b, &target.model))).collect()
}

/// Rows, columns, fours of rows of an invocation, terms of a stage, and whether rows stay, best first; the last are for few rows and for
/// little workgroup memory.
const SIZES: [(u32, u32, u32, u32, bool); 4] = [(64, 64, 1, 16, true), (64, 64, 1, 16, false), (32, 32, 1, 16, false), (32, 32, 1, 8, false)];

/// By the multiply-adds of whole blocks, of which half of the device's arithmetic is reached, by the share of the device that is busy.
fn price(nest: &Nest, terms: &[u32], b: &Blocks, model: &DeviceModel) -> Cost {
    const REACHED: f64 = 0.5;
    let [x, f] = [b.bx, b.bf].map(|n| n as f64);
    let axis = |i: usize| count(&nest.rows[i]);
    let batch: f64 = (0..nest.rows.len() - 2).map(axis).product();
    let (rows, features) = ((axis(nest.rows.len() - 2) / x).ceil() * x, (axis(nest.rows.len() - 1) / f).ceil());
    let each = terms.iter().map(|&k| k as f64).sum::<f64>() + f;
    let operations = batch * rows * features * count(&nest.cols[0]) * each;
    let lanes = batch * rows / x * features * b.threads() as f64;
    let busy = (4.0 * lanes / model.parallel_lanes.max(1) as f64).clamp(1e-9, 1.0);
    Cost { ns: 2.0 * operations / (model.gflops.max(1) as f64 * REACHED * busy) + model.launch_ns as f64 }
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
