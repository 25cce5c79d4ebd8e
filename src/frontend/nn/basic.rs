//! Linear layers, embeddings, dropout.

use super::weight::{Made, weight};
use crate::frontend::{Initializer, Tensor, Trace};
use crate::types::Dim;

/// Settings of [`linear`]; a number of features alone gives PyTorch's defaults.
#[derive(Clone, Debug)]
pub struct Linear {
    features: usize,
    bias: bool,
    init: Option<Initializer>,
    made: Made,
    lora: Option<Lora>,
}

/// Low-rank adaptation of a linear layer (Hu and others, 2021): `weight` and `bias` have no gradient, and `lora_b lora_a`, which are
/// trained, is added to the weight, times `alpha / rank`. It starts at zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lora {
    /// Rows of `lora_a` and columns of `lora_b`.
    pub rank: usize,
    /// How much the adaptation counts, times the rank.
    pub alpha: f64,
}

impl Linear {
    /// That many outputs, a bias, and both drawn uniformly within `1 / sqrt(inputs)`.
    pub fn new(features: usize) -> Linear {
        Linear { features, bias: true, init: None, made: Made::Plain, lora: None }
    }

    /// With or without a bias.
    pub fn bias(mut self, bias: bool) -> Linear {
        self.bias = bias;
        self
    }

    /// The weight drawn from a normal distribution of that deviation, the bias zero.
    pub fn std(self, std: f64) -> Linear {
        self.init(Initializer::Normal { std })
    }

    /// How the weight starts; the bias is then zero.
    pub fn init(mut self, init: Initializer) -> Linear {
        self.init = Some(init);
        self
    }

    /// The weight is `weight_v` with rows of the lengths `weight_g`.
    pub fn weight_norm(mut self) -> Linear {
        self.made = Made::WeightNorm;
        self
    }

    /// The weight is `weight_orig` over an estimate of its largest singular value.
    pub fn spectral_norm(mut self) -> Linear {
        self.made = Made::SpectralNorm;
        self
    }

    /// Adapted, and itself without a gradient.
    pub fn lora(mut self, lora: Lora) -> Linear {
        (self.lora, self.made) = (Some(lora), Made::Frozen);
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
///
/// ```
/// # use inductor::{Device, HostTensor, Initializer, nn};
/// let x = HostTensor::f32(&[1, 2], &[1.0, 2.0]);
/// let y = Device::cpu().compute([&x], |t, [x]| nn::linear(&t.path("fc"), &x, nn::Linear::new(3).init(Initializer::Ones)))?;
/// assert_eq!(y.to_string(), "[[3. 3. 3.]]");
/// # Ok::<(), inductor::Error>(())
/// ```
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
    let of_bias = if layer.init.is_some() { Initializer::Zeros } else { uniform.clone() };
    let weight = weight(t, x.dtype(), &[layer.features as i64, inputs], 0, layer.init.unwrap_or(uniform.clone()), layer.made);
    let bias = match (layer.bias, layer.lora) {
        (false, _) => None,
        (true, None) => Some(t.parameter("bias", x.dtype(), layer.features, of_bias)),
        (true, Some(_)) => Some(t.parameter("bias", x.dtype(), layer.features, of_bias).detach()),
    };
    let y = x.linear(&weight, bias.as_ref());
    let Some(Lora { rank, alpha }) = layer.lora else { return y };
    if rank == 0 {
        return x.fail("linear", "the rank of an adaptation is at least one");
    }
    let a = t.parameter("lora_a", x.dtype(), [rank as i64, inputs], uniform);
    let b = t.parameter("lora_b", x.dtype(), (layer.features, rank), Initializer::Zeros);
    y + x.linear(&a, None).linear(&b, None) * (alpha / rank as f64)
}

/// Settings of [`embedding`].
#[derive(Clone, Debug)]
pub struct Embedding {
    rows: usize,
    width: usize,
    init: Initializer,
    padding: Option<usize>,
}

impl Embedding {
    /// A table of standard normal rows.
    pub fn new(rows: usize, width: usize) -> Embedding {
        Embedding { rows, width, init: Initializer::Normal { std: 1.0 }, padding: None }
    }

    /// The deviation of the table's values.
    pub fn std(self, std: f64) -> Embedding {
        self.init(Initializer::Normal { std })
    }

    /// How the table starts.
    pub fn init(mut self, init: Initializer) -> Embedding {
        self.init = init;
        self
    }

    /// The row at this index starts at zero, and has no gradient.
    pub fn padding_index(mut self, row: usize) -> Embedding {
        self.padding = Some(row);
        self
    }
}

/// Rows of a table `weight` of shape `[rows, width]`, f32, at integer indices.
///
/// ```
/// # use inductor::{Device, HostTensor, Initializer, nn};
/// let rows = HostTensor::f32(&[3, 2], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
/// let index = HostTensor::i32(&[2], &[2, 0]);
/// let y = Device::cpu().compute([&index], |t, [index]| nn::embedding(&t.path("embed"), &index, nn::Embedding::new(3, 2).init(Initializer::Tensor(rows))))?;
/// assert_eq!(y.to_string(), "[[4. 5.]\n [0. 1.]]");
/// # Ok::<(), inductor::Error>(())
/// ```
#[track_caller]
pub fn embedding(t: &Trace, indices: &Tensor, table: Embedding) -> Tensor {
    let _scope = t.enter();
    let init = match table.padding {
        Some(row) => Initializer::ZeroRow { row, rest: Box::new(table.init) },
        None => table.init,
    };
    let weight = t.parameter("weight", crate::types::DType::F32, (table.rows, table.width), init);
    match table.padding {
        Some(row) => weight.call_as("embedding.default", "weight").with("indices", indices).with("padding_idx", row as i64).one(),
        None => indices.embedding(&weight),
    }
}

/// In training, zeroes elements with probability `p` and scales the rest by `1 / (1 - p)`, with a random stream of its own;
/// the operand itself otherwise.
///
/// ```
/// # use inductor::{Device, HostTensor, nn};
/// let x = HostTensor::f32(&[3], &[1.0, 2.0, 3.0]);
/// // Not a training program: nothing is dropped.
/// let y = Device::cpu().compute([&x], |t, [x]| nn::dropout(t, &x, 0.5))?;
/// assert_eq!(y, x);
/// # Ok::<(), inductor::Error>(())
/// ```
#[track_caller]
pub fn dropout(t: &Trace, x: &Tensor, p: f64) -> Tensor {
    if !t.recorder.training || p == 0.0 {
        return x.clone();
    }
    let _scope = t.enter();
    x.dropout(p, &t.key())
}

macro_rules! feature_dropouts {
    ($($(#[$doc:meta])* $name:ident = $row:literal;)+) => {
        $($(#[$doc])* #[track_caller] pub fn $name(t: &Trace, x: &Tensor, p: f64) -> Tensor {
            if p == 0.0 || !t.training() {
                return x.clone();
            }
            let _scope = t.enter();
            x.call_as($row, "input").with("p", p).with("train", true).one()
        })+
    };
}
feature_dropouts! {
    /// In training, zeroes whole channels of `[n, channels, ...]` with probability `p` and scales the rest by `1 / (1 - p)`: PyTorch's
    /// `Dropout1d` to `Dropout3d`.
    feature_dropout = "feature_dropout.default";
    /// In training, dropout that keeps mean and variance of what comes from [`Tensor::selu`].
    alpha_dropout = "alpha_dropout.default";
    /// [`alpha_dropout`] of whole channels.
    feature_alpha_dropout = "feature_alpha_dropout.default";
}

/// The gated feed-forward of Llama: `down_proj(silu(gate_proj(x)) * up_proj(x))`, without biases.
///
/// ```
/// # use inductor::{DType, nn, trace};
/// let traced = trace("layer", |t| Ok(vec![nn::swiglu(&t.path("mlp"), &t.input("x", DType::F32, (8, 4)), 16)]))?;
/// let names: Vec<&str> = traced.initializers.iter().map(|(name, _)| name.as_str()).collect();
/// assert_eq!(names, ["mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"]);
/// # Ok::<(), inductor::Error>(())
/// ```
#[track_caller]
pub fn swiglu(t: &Trace, x: &Tensor, hidden: usize) -> Tensor {
    let width = match features(x, "swiglu") {
        Ok(width) => width as usize,
        Err(poison) => return poison,
    };
    let gate = linear(&t.path("gate_proj"), x, Linear::new(hidden).bias(false)).silu();
    let up = linear(&t.path("up_proj"), x, Linear::new(hidden).bias(false));
    linear(&t.path("down_proj"), &(gate * up), Linear::new(width).bias(false))
}

/// Linear layers `layers.0`, `layers.1`, ... of those output sizes with rectifiers between them.
///
/// ```
/// # use inductor::{DType, nn, trace};
/// let traced = trace("layer", |t| Ok(vec![nn::mlp(&t.path("net"), &t.input("x", DType::F32, (8, 4)), &[16, 2])]))?;
/// let names: Vec<&str> = traced.initializers.iter().map(|(name, _)| name.as_str()).collect();
/// assert_eq!(names, ["net.layers.0.weight", "net.layers.0.bias", "net.layers.1.weight", "net.layers.1.bias"]);
/// # Ok::<(), inductor::Error>(())
/// ```
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
    use crate::frontend::nn::{LayerNorm, layer_norm, rms_norm};
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
