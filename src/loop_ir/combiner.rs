//! How reductions and scans combine: a row for each combiner, which every executor reads.

use super::Number;
use crate::scalar::ScalarFn;
use crate::types::DType;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// How a reduction or scan combines. Every combiner is associative with an identity; results for no column are the identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Combiner {
    /// Sum; identity 0.
    Sum,
    /// Product; identity 1.
    Prod,
    /// Largest; NaN wins; identity -infinity or the smallest integer.
    Max,
    /// Smallest; NaN wins; identity infinity or the largest integer.
    Min,
    /// Logical or; identity false.
    Any,
    /// Logical and; identity true.
    All,
    /// Two results: largest value and its flat column index, lowest index among ties, NaN first.
    ArgMax,
    /// Two results: smallest value and its flat column index, lowest index among ties, NaN first.
    ArgMin,
    /// Three results: mean, sum of squared deviations, count (Welford; Chan's parallel combination).
    Welford,
    /// Two results: row maximum m and sum of exp(x - m) (Milakov and Gimelshein, "Online normalizer calculation").
    OnlineSoftmax,
}

/// The number that combines with any other to that other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Zero, false.
    Zero,
    /// One, true.
    One,
    /// Minus infinity, the smallest integer, false.
    Lowest,
    /// Infinity, the largest integer, true.
    Highest,
}

/// A further result, in the state of one column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The number of the column, i32.
    Column,
    /// Zero.
    Zero,
    /// One.
    One,
}

/// How two states become one.
#[derive(Clone, Copy)]
pub enum Merge {
    /// By a scalar function of two numbers.
    Function(ScalarFn),
    /// The better of the two, of which `scalar` says whether the later is, given the order of later to earlier; in WGSL a helper
    /// function for each kind that takes `(later, its column, earlier, its column)`.
    Winner {
        /// Which order of later to earlier wins.
        order: Ordering,
        /// Name of the helper without the kind's suffix.
        helper: &'static str,
    },
    /// By a function of both states, of floats only; in WGSL a helper function of two vectors, and one for each result out of the
    /// whole state, where results are not the state.
    State {
        /// The definition; the first is of earlier columns.
        both: fn(&[f64], &[f64]) -> Vec<f64>,
        /// Name of the helper.
        helper: &'static str,
        /// Results out of the state of all columns.
        finish: fn(&mut [f64]),
        /// The helpers of results.
        results: &'static [&'static str],
    },
}

/// A row of the table of combiners.
#[derive(Clone, Copy)]
pub struct CombinerRow {
    /// Identity of the first result; further ones start at zero.
    pub identity: Identity,
    /// Results behind the first.
    pub parts: &'static [Part],
    /// How states combine.
    pub merge: Merge,
}

/// Results are the state.
fn as_it_is(_: &mut [f64]) {}

impl Combiner {
    /// Every combiner.
    pub const ALL: [Combiner; 10] = {
        use Combiner::*;
        [Sum, Prod, Max, Min, Any, All, ArgMax, ArgMin, Welford, OnlineSoftmax]
    };

    /// Its row of the table.
    pub fn row(self) -> CombinerRow {
        let function = |f: ScalarFn, identity| CombinerRow { identity, parts: &[], merge: Merge::Function(f) };
        let winner = |order, helper, identity| CombinerRow { identity, parts: &[Part::Column], merge: Merge::Winner { order, helper } };
        match self {
            Combiner::Sum => function(ScalarFn::Add, Identity::Zero),
            Combiner::Prod => function(ScalarFn::Mul, Identity::One),
            Combiner::Max => function(ScalarFn::Maximum, Identity::Lowest),
            Combiner::Min => function(ScalarFn::Minimum, Identity::Highest),
            Combiner::Any => function(ScalarFn::LogicalOr, Identity::Zero),
            Combiner::All => function(ScalarFn::LogicalAnd, Identity::One),
            Combiner::ArgMax => winner(Ordering::Greater, "arg_max_wins_", Identity::Lowest),
            Combiner::ArgMin => winner(Ordering::Less, "arg_min_wins_", Identity::Highest),
            Combiner::Welford => CombinerRow {
                identity: Identity::Zero,
                parts: &[Part::Zero, Part::One],
                merge: Merge::State { both: both_moments, helper: "welford_", finish: as_it_is, results: &[] },
            },
            Combiner::OnlineSoftmax => CombinerRow {
                identity: Identity::Lowest,
                parts: &[Part::One],
                merge: Merge::State {
                    both: both_exponentials,
                    helper: "online_softmax_",
                    finish: |state| state[1] = if state[0].is_finite() { state[1] } else { f64::NAN },
                    results: &["online_softmax_max_", "online_softmax_sum_"],
                },
            },
        }
    }

    /// Number of results.
    pub fn results(self) -> usize {
        1 + self.row().parts.len()
    }

    /// Dtype of result `k` for an argument of `dtype`.
    pub fn result_dtype(self, k: usize, dtype: DType) -> DType {
        match k.checked_sub(1).map(|k| self.row().parts[k]) {
            Some(Part::Column) => DType::I32,
            _ => dtype,
        }
    }

    /// The scalar function of two numbers, where combining is one.
    pub fn function(self) -> Option<ScalarFn> {
        if let Merge::Function(f) = self.row().merge { Some(f) } else { None }
    }

    /// The identity of the first result.
    pub fn identity(self, dtype: DType) -> Number {
        let (lo, hi) = dtype.int_range().map_or((Number::infinity(-1.0), Number::infinity(1.0)), |(lo, hi)| (Number::Int(lo), Number::Int(hi)));
        match self.row().identity {
            Identity::Zero => Number::new(dtype, 0.0),
            Identity::One => Number::new(dtype, 1.0),
            Identity::Lowest => lo,
            Identity::Highest => hi,
        }
    }
}

impl Number {
    fn infinity(sign: f64) -> Number {
        Number::Float((f64::INFINITY * sign).to_bits())
    }
}

/// Means, squared deviations and counts of two parts (Chan, Golub and LeVeque).
fn both_moments(a: &[f64], b: &[f64]) -> Vec<f64> {
    let (na, nb) = (a[2], b[2]);
    if na + nb == 0.0 {
        return a.to_vec();
    }
    let delta = b[0] - a[0];
    vec![a[0] + delta * nb / (na + nb), a[1] + b[1] + delta * delta * na * nb / (na + nb), na + nb]
}

/// Sums of exponentials below their maxima. Parts below the same maximum add up, also where that is not finite.
fn both_exponentials(a: &[f64], b: &[f64]) -> Vec<f64> {
    let max = (ScalarFn::Maximum.row().eval_f64)(&[a[0], b[0]]);
    let part = |x: f64, s: f64| match s {
        0.0 => 0.0,
        s if x == max => s,
        s => s * (x - max).exp(),
    };
    vec![max, part(a[0], a[1]) + part(b[0], b[1])]
}
