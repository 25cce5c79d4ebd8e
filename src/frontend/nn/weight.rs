//! The weight of a layer: as it is, or made of others.

use crate::frontend::{Initializer, Tensor, Trace};
use crate::types::DType;

/// What a layer's weight is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Made {
    /// Itself: `weight`.
    #[default]
    Plain,
    /// `weight_v` with rows of the lengths `weight_g` (Salimans and Kingma, 2016).
    WeightNorm,
    /// `weight_orig` over its largest singular value, which `weight_u` and `weight_v` estimate by one step of power iteration in each
    /// step of training (Miyato and others, 2018).
    SpectralNorm,
    /// `weight` without a gradient.
    Frozen,
}

/// The weight of a layer, whose results lie along dimension `rows`.
#[track_caller]
pub(super) fn weight(t: &Trace, dtype: DType, shape: &[i64], rows: usize, init: Initializer, made: Made) -> Tensor {
    match made {
        Made::Plain => t.parameter("weight", dtype, shape, init),
        Made::Frozen => t.parameter("weight", dtype, shape, init).detach(),
        Made::WeightNorm => weight_norm(t, dtype, shape, init),
        Made::SpectralNorm => spectral_norm(t, dtype, shape, rows, init),
    }
}

#[track_caller]
fn weight_norm(t: &Trace, dtype: DType, shape: &[i64], init: Initializer) -> Tensor {
    let v = t.parameter("weight_v", dtype, shape, init.clone());
    let mut lengths = vec![1; shape.len()];
    lengths[0] = shape[0];
    let sizes = shape.iter().map(|&n| n as usize).collect();
    let start = Initializer::RowNorms { of: t.full_name("weight_v"), shape: sizes, start: Box::new(init) };
    let g = t.parameter("weight_g", dtype, lengths, start);
    v.call_as("_weight_norm.default", "v").with("g", &g).one()
}

#[track_caller]
fn spectral_norm(t: &Trace, dtype: DType, shape: &[i64], rows: usize, init: Initializer) -> Tensor {
    let weight = t.parameter("weight_orig", dtype, shape, init);
    let matrix = weight.movedim(rows as i64, 0).flatten(1, -1);
    let columns = shape.iter().product::<i64>() / shape[rows].max(1);
    let vector = |name: &str, n: i64| t.buffer(name, dtype, n, Initializer::Normal { std: 1.0 });
    let (u, v) = (vector("weight_u", shape[rows]), vector("weight_v", columns));
    let (mut u, mut v) = (t.moved_buffer("weight_u").unwrap_or(u).normalize(2.0, 0), t.moved_buffer("weight_v").unwrap_or(v).normalize(2.0, 0));
    if t.training() {
        let fixed = matrix.detach();
        v = fixed.mt().matmul(&u).normalize(2.0, 0);
        u = fixed.matmul(&v).normalize(2.0, 0);
        t.move_buffer("weight_u", &u);
        t.move_buffer("weight_v", &v);
    }
    let largest = u.dot(&matrix.matmul(&v));
    weight / largest
}
