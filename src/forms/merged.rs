//! What it saves to compute linear layers of one input as one product, before any nest is there.

use super::product::{FEW_LANES, Machine, Sizes};
use crate::config::Target;
use crate::types::MatmulPrecision;

/// Linear layers of one input.
#[derive(Clone, Debug, PartialEq)]
pub struct Layers {
    /// Rows of the input.
    pub rows: f64,
    /// Columns of the input: terms of each result.
    pub terms: f64,
    /// Columns of each layer's results.
    pub columns: Vec<f64>,
    /// How many of those an operation of single elements reads, which the layer's own kernel would compute, or are outputs.
    pub read_by_elements: f64,
    /// Whether the input's gradient is computed.
    pub input_gradient: bool,
    /// Whether the weights' gradients are computed.
    pub weight_gradients: bool,
    /// Whether products multiply values of f16.
    pub halves: bool,
    /// Whether weights are converted before they are multiplied.
    pub converted: bool,
}

/// The share of the products' time that merging must save: predictions are a tenth off, but those of products of equal layouts are off alike.
const CLEARLY: f64 = 0.05;

/// Launches that the saving must be worth: those around the products are moved, too.
const LAUNCHES: f64 = 4.0;

/// Products of fewer rows are bound by reading weights, which merging reads and writes once more.
const ROWS: f64 = 512.0;

impl Layers {
    /// Whether one product is predicted to be clearly faster, with all that it costs around it.
    pub fn pays(&self, precision: MatmulPrecision, target: &Target) -> bool {
        // A processor multiplies narrow matrices as fast as wide ones.
        if target.model.parallel_lanes < FEW_LANES || self.rows < ROWS {
            return false;
        }
        let Some((apart, merged)) = self.times(precision, target) else { return false };
        let saved = apart - merged;
        tracing::debug!(layers = ?self, apart, merged, "linear layers of one input");
        saved > CLEARLY * apart && saved > LAUNCHES * target.model.launch_ns as f64
    }

    /// Predicted nanoseconds of the layers one by one, and of one product with its copies. Launches of products are not counted: those of
    /// layers do not wait for one another.
    fn times(&self, precision: MatmulPrecision, target: &Target) -> Option<(f64, f64)> {
        let Target { caps, model } = target;
        let machine = Machine { caps, model, bytes: 4, loads: [0.0; 2], precision, halves: self.halves, shares: caps.shares_storage };
        let all: f64 = self.columns.iter().sum();
        let mut apart = self.sums(model.bandwidth_gbps as f64);
        for &columns in &self.columns {
            apart += self.products(&machine, columns)?;
        }
        Some((apart, self.products(&machine, all)? + self.copies(all, &machine)))
    }

    /// Time of a layer's products.
    fn products(&self, machine: &Machine<'_>, columns: f64) -> Option<f64> {
        let Layers { rows, terms, .. } = *self;
        let of = |m: f64, n: f64, k: f64| machine.time(&Sizes { batch: 1.0, m, n, k, ..Sizes::default() });
        let forward = of(rows, columns, terms)?;
        let input = if self.input_gradient { of(rows, terms, columns)? } else { 0.0 };
        let weights = if self.weight_gradients { of(columns, terms, rows)? } else { 0.0 };
        Some(forward + input + weights)
    }

    /// Time of adding up the layers' gradients of the input: each but the first reads the sum so far and stores it again.
    fn sums(&self, bandwidth: f64) -> f64 {
        let times = if self.input_gradient { 2.0 * (self.columns.len() - 1) as f64 } else { 0.0 };
        times * self.rows * self.terms * self.bytes() / bandwidth
    }

    /// Time of what merging copies: weights, cotangents of results, results that kernels of their own read, and gradients of weights that
    /// no epilogue takes up.
    fn copies(&self, all: f64, machine: &Machine<'_>) -> f64 {
        let mut launches = self.columns.len() as f64 * if self.read_by_elements > 0.0 { 1.0 } else { 0.0 };
        let weights = self.terms * all * 4.0;
        let mut bytes = 2.0 * self.rows * self.read_by_elements * self.bytes();
        // What is converted is stored anew anyway. The backward copies weights again, rather than that the forward keeps them.
        if !self.converted {
            let times = if self.input_gradient { 2.0 } else { 1.0 };
            (bytes, launches) = (bytes + times * 2.0 * weights, launches + times);
        }
        if self.input_gradient || self.weight_gradients {
            (bytes, launches) = (bytes + 2.0 * self.rows * all * self.bytes(), launches + 1.0);
        }
        if self.weight_gradients {
            (bytes, launches) = (bytes + 2.0 * weights, launches + self.columns.len() as f64);
        }
        bytes / machine.model.bandwidth_gbps as f64 + launches * machine.model.launch_ns as f64
    }

    /// Bytes of an element of a result.
    fn bytes(&self) -> f64 {
        if self.halves { 2.0 } else { 4.0 }
    }
}
