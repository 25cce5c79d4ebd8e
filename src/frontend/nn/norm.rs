//! Normalization layers.

use super::basic::features;
use crate::frontend::{Initializer, Tensor, Trace};
use crate::types::DType;

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
///
/// ```
/// # use inductor::{Device, HostTensor, nn};
/// let x = HostTensor::f32(&[1, 3], &[1.0, 2.0, 3.0]);
/// let y = Device::cpu().compute([&x], |t, [x]| nn::layer_norm(&t.path("norm"), &x, nn::LayerNorm::default()))?;
/// assert_eq!(format!("{y:.3}"), "[[-1.225  0.     1.225]]");
/// # Ok::<(), inductor::Error>(())
/// ```
#[track_caller]
pub fn layer_norm(t: &Trace, x: &Tensor, norm: LayerNorm) -> Tensor {
    let _scope = t.enter();
    let width = match features(x, "layer_norm") {
        Ok(size) => size,
        Err(poison) => return poison,
    };
    let (weight, bias) = affine(t, x, width, true, norm.bias);
    x.layer_norm(weight.as_ref(), bias.as_ref(), norm.eps)
}

/// Settings of [`rms_norm_with`].
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm {
    /// Added to the mean square.
    pub eps: f64,
}

impl Default for RmsNorm {
    fn default() -> RmsNorm {
        RmsNorm { eps: 1e-5 }
    }
}

/// Root-mean-square norm over the last dimension with `weight`, eps 1e-5.
///
/// ```
/// # use inductor::{Device, HostTensor, nn};
/// let x = HostTensor::f32(&[1, 3], &[1.0, 2.0, 3.0]);
/// let y = Device::cpu().compute([&x], |t, [x]| nn::rms_norm(&t.path("norm"), &x))?;
/// assert_eq!(format!("{y:.3}"), "[[0.463 0.926 1.389]]");
/// # Ok::<(), inductor::Error>(())
/// ```
#[track_caller]
pub fn rms_norm(t: &Trace, x: &Tensor) -> Tensor {
    rms_norm_with(t, x, RmsNorm::default())
}

/// Root-mean-square norm over the last dimension with `weight`.
///
/// ```
/// # use inductor::{Device, HostTensor, nn};
/// let x = HostTensor::f32(&[1, 3], &[1.0, 2.0, 3.0]);
/// let y = Device::cpu().compute([&x], |t, [x]| nn::rms_norm_with(&t.path("norm"), &x, nn::RmsNorm { eps: 1.0 }))?;
/// assert_eq!(format!("{y:.3}"), "[[0.42 0.84 1.26]]");
/// # Ok::<(), inductor::Error>(())
/// ```
#[track_caller]
pub fn rms_norm_with(t: &Trace, x: &Tensor, norm: RmsNorm) -> Tensor {
    let _scope = t.enter();
    let width = match features(x, "rms_norm") {
        Ok(size) => size,
        Err(poison) => return poison,
    };
    let (weight, _) = affine(t, x, width, true, false);
    x.rms_norm(weight.as_ref(), norm.eps)
}

/// Settings of [`batch_norm`].
#[derive(Clone, Debug)]
pub struct BatchNorm {
    affine: bool,
    momentum: Option<f64>,
    eps: f64,
}

impl Default for BatchNorm {
    fn default() -> BatchNorm {
        BatchNorm { affine: true, momentum: Some(0.1), eps: 1e-5 }
    }
}

impl BatchNorm {
    /// With or without `weight` and `bias`.
    pub fn affine(mut self, affine: bool) -> BatchNorm {
        self.affine = affine;
        self
    }

    /// How much of the running statistics a batch replaces; with `None` they are the mean over all batches so far.
    pub fn momentum(mut self, momentum: impl Into<Option<f64>>) -> BatchNorm {
        self.momentum = momentum.into();
        self
    }

    /// Added to the variance.
    pub fn eps(mut self, eps: f64) -> BatchNorm {
        self.eps = eps;
        self
    }
}

/// Batch norm of `[n, channels, ...]`: over the batch in training, where `running_mean` and `running_var` follow it and
/// `num_batches_tracked` counts, and by them otherwise. For inference the program is recorded with
/// [`trace_eval`](crate::trace_eval). PyTorch's `BatchNorm1d` to `BatchNorm3d`, with the names of its state.
///
/// ```
/// # use inductor::{Config, DType, Device, HostTensor, compile_train, nn, optim, trace};
/// let training = trace("norm", |t| {
///     let y = nn::batch_norm(&t.path("norm"), &t.input("x", DType::F32, (2, 1)), nn::BatchNorm::default());
///     Ok((y.sum(()), y))
/// })?;
/// let step = compile_train(&training, &Device::cpu(), optim::Sgd::new(0.0), &Config::default())?;
/// let mut state = step.init(0)?;
/// let result = step.run(&mut state, [HostTensor::f32(&[2, 1], &[1.0, 3.0])])?;
/// assert_eq!(format!("{:.3}", result.output("output.1")?), "[[-1.]\n [ 1.]]");
/// assert_eq!(format!("{:.3}", state.get("norm.running_mean")?), "[0.2]");
/// # Ok::<(), inductor::Error>(())
/// ```
#[track_caller]
pub fn batch_norm(t: &Trace, x: &Tensor, norm: BatchNorm) -> Tensor {
    let _scope = t.enter();
    let channels = match channels(x, "batch_norm") {
        Ok(channels) => channels,
        Err(poison) => return poison,
    };
    let (weight, bias) = affine(t, x, channels, norm.affine, norm.affine);
    let statistic = |name: &str, init| t.buffer(name, x.dtype().accumulator(), channels, init);
    let (mean, var) = (statistic("running_mean", Initializer::Zeros), statistic("running_var", Initializer::Ones));
    let (mean, var) = (t.moved_buffer("running_mean").unwrap_or(mean), t.moved_buffer("running_var").unwrap_or(var));
    let seen = t.buffer("num_batches_tracked", DType::I64, (), Initializer::Zeros);
    let is_training = t.training();
    let row = if is_training { "_batch_norm_with_update_functional.default" } else { "batch_norm.default" };
    let call = x.call_as(row, "input").with("weight", weight.as_ref()).with("bias", bias.as_ref());
    let call = call.with("running_mean", &mean).with("running_var", &var).with("momentum", norm.momentum.unwrap_or(1.0)).with("eps", norm.eps);
    if !is_training {
        return call.one();
    }
    let results = call.many(6);
    let seen = t.moved_buffer("num_batches_tracked").unwrap_or(seen) + 1;
    t.move_buffer("num_batches_tracked", &seen);
    for (name, old, new) in [("running_mean", mean, &results[4]), ("running_var", var, &results[5])] {
        let new = if norm.momentum.is_none() { averaged(&old, new, &seen) } else { new.clone() };
        t.move_buffer(name, &new);
    }
    results[0].clone()
}

/// The mean over `count` batches, from that over all but the last and that of the last.
#[track_caller]
fn averaged(before: &Tensor, last: &Tensor, count: &Tensor) -> Tensor {
    let share = 1.0 / count.cast(before.dtype());
    before * (1.0 - &share) + last * share
}

/// Group norm of `[n, channels, ...]` with `weight` and `bias`, over each of so many groups of channels of an example.
///
/// ```
/// # use inductor::{Device, HostTensor, nn};
/// let x = HostTensor::f32(&[1, 2, 2], &[1.0, 3.0, 0.0, 2.0]);
/// let y = Device::cpu().compute([&x], |t, [x]| nn::group_norm(&t.path("norm"), &x, 2))?;
/// assert_eq!(format!("{y:.3}"), "[[[-1.  1.]\n  [-1.  1.]]]");
/// # Ok::<(), inductor::Error>(())
/// ```
#[track_caller]
pub fn group_norm(t: &Trace, x: &Tensor, groups: usize) -> Tensor {
    let _scope = t.enter();
    let channels = match channels(x, "group_norm") {
        Ok(channels) => channels,
        Err(poison) => return poison,
    };
    let (weight, bias) = affine(t, x, channels, true, true);
    x.group_norm(groups as i64, weight.as_ref(), bias.as_ref(), 1e-5)
}

/// Instance norm of `[n, channels, ...]`, over each channel of an example; `affine` gives it `weight` and `bias`.
///
/// ```
/// # use inductor::{Device, HostTensor, nn};
/// let x = HostTensor::f32(&[1, 2, 2], &[1.0, 3.0, 0.0, 2.0]);
/// let y = Device::cpu().compute([&x], |t, [x]| nn::instance_norm(&t.path("norm"), &x, false))?;
/// assert_eq!(format!("{y:.3}"), "[[[-1.  1.]\n  [-1.  1.]]]");
/// # Ok::<(), inductor::Error>(())
/// ```
#[track_caller]
pub fn instance_norm(t: &Trace, x: &Tensor, has_affine: bool) -> Tensor {
    let _scope = t.enter();
    let channels = match channels(x, "instance_norm") {
        Ok(channels) => channels,
        Err(poison) => return poison,
    };
    let (weight, bias) = affine(t, x, channels, has_affine, has_affine);
    x.instance_norm(weight.as_ref(), bias.as_ref(), 1e-5)
}

#[track_caller]
fn affine(t: &Trace, x: &Tensor, size: i64, has_weight: bool, has_bias: bool) -> (Option<Tensor>, Option<Tensor>) {
    let weight = if has_weight { Some(t.parameter("weight", x.dtype(), size, Initializer::Ones)) } else { None };
    let bias = if has_bias { Some(t.parameter("bias", x.dtype(), size, Initializer::Zeros)) } else { None };
    (weight, bias)
}

/// The size of dimension 1, which is a constant; otherwise a report, and a poisoned tensor.
#[track_caller]
pub(super) fn channels(x: &Tensor, layer: &str) -> Result<i64, Tensor> {
    match x.constant_size(1) {
        Some(channels) if !x.is_poisoned() && x.rank() > 1 => Ok(channels),
        _ => Err(x.fail(layer, format!("{} has no constant number of channels as dimension 1", x.ty()))),
    }
}
