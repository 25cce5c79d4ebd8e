//! Linear layers, embeddings, norms, dropout.

use crate::frontend::{Initializer, Tensor, Trace};
use crate::types::Dim;

/// Settings of [`linear`]; a number of features alone gives PyTorch's defaults.
#[derive(Clone, Debug)]
pub struct Linear {
    features: usize,
    bias: bool,
    std: Option<f64>,
}

impl Linear {
    /// That many outputs, a bias, and both drawn uniformly within `1 / sqrt(inputs)`.
    pub fn new(features: usize) -> Linear {
        Linear { features, bias: true, std: None }
    }

    /// With or without a bias.
    pub fn bias(mut self, bias: bool) -> Linear {
        self.bias = bias;
        self
    }

    /// The weight drawn from a normal distribution of that deviation, the bias zero.
    pub fn std(mut self, std: f64) -> Linear {
        self.std = Some(std);
        self
    }
}

impl From<usize> for Linear {
    fn from(features: usize) -> Linear {
        Linear::new(features)
    }
}
impl From<i32> for Linear {
    fn from(features: i32) -> Linear {
        Linear::new(features.max(0) as usize)
    }
}

/// `x W^T + b` over the last dimension, with `weight` of shape `[out, in]` and `bias` of `[out]`.
#[track_caller]
pub fn linear(t: &Trace, x: &Tensor, layer: impl Into<Linear>) -> Tensor {
    let layer = layer.into();
    let _scope = t.enter();
    let inputs = match features(x, "linear") {
        Ok(size) => size,
        Err(poison) => return poison,
    };
    let bound = 1.0 / (inputs.max(1) as f64).sqrt();
    let uniform = Initializer::Uniform { low: -bound, high: bound };
    let (w, b) = match layer.std {
        Some(std) => (Initializer::Normal { std }, Initializer::Zeros),
        None => (uniform, uniform),
    };
    let weight = t.parameter("weight", x.dtype(), [layer.features as i64, inputs], w);
    let bias = if layer.bias { Some(t.parameter("bias", x.dtype(), layer.features, b)) } else { None };
    x.linear(&weight, bias.as_ref())
}

/// Settings of [`embedding`].
#[derive(Clone, Debug)]
pub struct Embedding {
    rows: usize,
    width: usize,
    std: f64,
}

impl Embedding {
    /// A table of standard normal rows.
    pub fn new(rows: usize, width: usize) -> Embedding {
        Embedding { rows, width, std: 1.0 }
    }

    /// The deviation of the table's values.
    pub fn std(mut self, std: f64) -> Embedding {
        self.std = std;
        self
    }
}

/// Rows of a table `weight` of shape `[rows, width]`, f32, at integer indices.
#[track_caller]
pub fn embedding(t: &Trace, indices: &Tensor, table: Embedding) -> Tensor {
    let _scope = t.enter();
    let init = Initializer::Normal { std: table.std };
    let weight = t.parameter("weight", crate::types::DType::F32, (table.rows, table.width), init);
    indices.embedding(&weight)
}

/// Settings of [`layer_norm`].
#[derive(Clone, Debug)]
pub struct LayerNorm {
    bias: bool,
    eps: f64,
}

impl Default for LayerNorm {
    fn default() -> LayerNorm {
        LayerNorm { bias: true, eps: 1e-5 }
    }
}

impl LayerNorm {
    /// With or without a bias.
    pub fn bias(mut self, bias: bool) -> LayerNorm {
        self.bias = bias;
        self
    }

    /// Added to the variance.
    pub fn eps(mut self, eps: f64) -> LayerNorm {
        self.eps = eps;
        self
    }
}

/// Layer norm over the last dimension with `weight` and, by default, `bias`.
#[track_caller]
pub fn layer_norm(t: &Trace, x: &Tensor, norm: LayerNorm) -> Tensor {
    let _scope = t.enter();
    let width = match features(x, "layer_norm") {
        Ok(size) => size,
        Err(poison) => return poison,
    };
    let weight = t.parameter("weight", x.dtype(), width, Initializer::Ones);
    let bias = if norm.bias { Some(t.parameter("bias", x.dtype(), width, Initializer::Zeros)) } else { None };
    x.layer_norm(Some(&weight), bias.as_ref(), norm.eps)
}

/// Root-mean-square norm over the last dimension with `weight`, eps 1e-5.
#[track_caller]
pub fn rms_norm(t: &Trace, x: &Tensor) -> Tensor {
    let _scope = t.enter();
    let width = match features(x, "rms_norm") {
        Ok(size) => size,
        Err(poison) => return poison,
    };
    let weight = t.parameter("weight", x.dtype(), width, Initializer::Ones);
    x.rms_norm(Some(&weight), 1e-5)
}

/// In training, zeroes elements with probability `p` and scales the rest by `1 / (1 - p)`, with a random stream of its own;
/// the operand itself otherwise.
#[track_caller]
pub fn dropout(t: &Trace, x: &Tensor, p: f64) -> Tensor {
    if !t.recorder.training || p == 0.0 {
        return x.clone();
    }
    let _scope = t.enter();
    x.dropout(p, &t.key())
}

/// Linear layers `layers.0`, `layers.1`, ... of those output sizes with rectifiers between them.
#[track_caller]
pub fn mlp(t: &Trace, x: &Tensor, sizes: &[usize]) -> Tensor {
    let mut h = x.clone();
    for (i, &features) in sizes.iter().enumerate() {
        h = linear(&t.path("layers").path(i), &h, features);
        if i + 1 < sizes.len() {
            h = h.relu();
        }
    }
    h
}

/// The last size, which is a constant; otherwise a report, and a poisoned tensor.
#[track_caller]
pub(super) fn features(x: &Tensor, layer: &str) -> Result<i64, Tensor> {
    match x.shape().0.last().and_then(Dim::as_int) {
        Some(size) if !x.is_poisoned() => Ok(size),
        _ => Err(x.fail(layer, format!("the last size of {} is not a constant", x.ty()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::{Traced, trace, trace_eval};
    use crate::types::DType;

    fn names(traced: &Traced) -> Vec<String> {
        traced.initializers.iter().map(|(n, _)| n.clone()).collect()
    }

    #[test]
    fn parameters_have_their_names_and_ranges() {
        let traced = trace("mlp", |t| {
            let x = t.input("x", DType::F32, (8, 16));
            let h = layer_norm(&t.path("norm"), &mlp(t, &x, &[32, 4]), LayerNorm::default());
            Ok(rms_norm(&t.path("rms"), &h).sum_all())
        })
        .unwrap();
        let expected = ["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias", "norm.weight", "norm.bias", "rms.weight"];
        assert_eq!(names(&traced), expected);
        assert_eq!(traced.initializers[0].1, Initializer::Uniform { low: -0.25, high: 0.25 });
    }

    #[test]
    fn dropout_records_nothing_for_inference() {
        let f = |t: &Trace| Ok(dropout(&t.path("drop"), &t.input("x", DType::F32, (8, 16)), 0.5));
        assert_eq!(trace_eval("eval", f).unwrap().graph.inputs.len(), 1);
        let traced = trace("train", f).unwrap();
        assert_eq!(traced.graph.inputs.len(), 2, "the key");
        let inference = traced.inference().unwrap().graph;
        assert_eq!((inference.inputs.len(), inference.nodes.len()), (1, 1));
    }

    #[test]
    fn a_mistake_shows_the_line_of_the_layer() {
        let line = line!();
        let error = trace("bad", |t| {
            let x = t.input("x", DType::F32, ());
            Ok(linear(&t.path("fc"), &linear(&t.path("fc"), &x, 3), 4))
        })
        .unwrap_err();
        let crate::Error::Trace(faults) = error else { panic!() };
        assert_eq!(faults.len(), 1, "the outer layer is poisoned, and silent");
        assert_eq!(faults[0].message, "linear: the last size of f32[] is not a constant");
        assert_eq!(faults[0].location.as_ref().unwrap().line, line + 3);
    }
}
