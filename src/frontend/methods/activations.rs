//! Activations.

use crate::frontend::tensor::Tensor;
use crate::scalar::ScalarFn;

/// Activations.
impl Tensor {
    /// `x * P(X < x)` for a standard normal `X`.
    #[track_caller]
    pub fn gelu(&self) -> Tensor {
        self.unary("gelu", |b, x| b.gelu(x, false))
    }

    /// [`Tensor::gelu`] approximated through tanh.
    #[track_caller]
    pub fn gelu_tanh(&self) -> Tensor {
        self.unary("gelu", |b, x| b.gelu(x, true))
    }

    /// `x * sigmoid(x)`, also known as swish.
    #[track_caller]
    pub fn silu(&self) -> Tensor {
        self.unary("silu", |b, x| b.silu(x))
    }

    /// `exp(x) / sum(exp(x))` along one dimension.
    #[track_caller]
    pub fn softmax(&self, dim: i64) -> Tensor {
        self.along("softmax", dim, |b, x, dim| b.softmax(x, dim))
    }

    /// `x - log(sum(exp(x)))` along one dimension.
    #[track_caller]
    pub fn log_softmax(&self, dim: i64) -> Tensor {
        self.along("log_softmax", dim, |b, x, dim| b.log_softmax(x, dim))
    }

    /// [`Tensor::softmax`] of `-x`.
    #[track_caller]
    pub fn softmin(&self, dim: i64) -> Tensor {
        (-self).softmax(dim)
    }

    /// `log(1 + e^x)`, and `x` above 20.
    #[track_caller]
    pub fn softplus(&self) -> Tensor {
        self.softplus_with(1.0, 20.0)
    }

    /// `log(1 + e^(beta x)) / beta`, and `x` where `beta x` is above `threshold`.
    #[track_caller]
    pub fn softplus_with(&self, beta: f64, threshold: f64) -> Tensor {
        self.call("softplus.default").with("beta", beta).with("threshold", threshold).one()
    }

    /// `x` above zero, `slope * x` below. PyTorch's default slope is 0.01.
    #[track_caller]
    pub fn leaky_relu(&self, slope: f64) -> Tensor {
        self.call("leaky_relu.default").with("negative_slope", slope).one()
    }

    /// `x` above zero, `weight * x` below, with a weight of one element or one for each channel (dimension 1).
    #[track_caller]
    pub fn prelu(&self, weight: &Tensor) -> Tensor {
        self.call("prelu.default").with("weight", weight).one()
    }

    /// `x` above zero, `alpha * (e^x - 1)` below. PyTorch's default `alpha` is 1.
    #[track_caller]
    pub fn elu(&self, alpha: f64) -> Tensor {
        self.call("elu.default").with("alpha", alpha).one()
    }

    /// `x` above zero, `alpha * (e^(x / alpha) - 1)` below.
    #[track_caller]
    pub fn celu(&self, alpha: f64) -> Tensor {
        self.call("celu.default").with("alpha", alpha).one()
    }

    /// The scaled exponential unit, which keeps means and variances.
    #[track_caller]
    pub fn selu(&self) -> Tensor {
        self.call("selu.default").one()
    }

    /// The first half of a dimension times the sigmoid of the second.
    #[track_caller]
    pub fn glu(&self, dim: i64) -> Tensor {
        self.call("glu.default").with("dim", dim).one()
    }

    /// `min(max(x, 0), 6)`.
    #[track_caller]
    pub fn relu6(&self) -> Tensor {
        self.call("relu6.default").one()
    }

    /// `min(max(x, low), high)`, without a gradient outside. PyTorch's defaults are -1 and 1.
    #[track_caller]
    pub fn hardtanh(&self, low: f64, high: f64) -> Tensor {
        self.call("hardtanh.default").with("min_val", low).with("max_val", high).one()
    }

    /// `min(max(x / 6 + 1/2, 0), 1)`.
    #[track_caller]
    pub fn hardsigmoid(&self) -> Tensor {
        self.call("hardsigmoid.default").one()
    }

    /// `x * hardsigmoid(x)`.
    #[track_caller]
    pub fn hardswish(&self) -> Tensor {
        self.call("hardswish.default").one()
    }

    /// `x * tanh(softplus(x))`.
    #[track_caller]
    pub fn mish(&self) -> Tensor {
        self.call("mish.default").one()
    }

    /// `log(sigmoid(x))`.
    #[track_caller]
    pub fn logsigmoid(&self) -> Tensor {
        self.call("log_sigmoid.default").one()
    }

    /// `x / (1 + |x|)`.
    #[track_caller]
    pub fn softsign(&self) -> Tensor {
        self / (self.abs() + 1.0)
    }

    /// `x - tanh(x)`.
    #[track_caller]
    pub fn tanhshrink(&self) -> Tensor {
        self - self.pointwise(ScalarFn::Tanh, &[])
    }

    /// `x` where its magnitude is above `lambda`, else 0.
    #[track_caller]
    pub fn hardshrink(&self, lambda: f64) -> Tensor {
        self.call("hardshrink.default").with("lambd", lambda).one()
    }

    /// `x` moved towards zero by `lambda`, 0 between.
    #[track_caller]
    pub fn softshrink(&self, lambda: f64) -> Tensor {
        self.call("softshrink.default").with("lambd", lambda).one()
    }

    /// `x` above `threshold`, else `value`.
    #[track_caller]
    pub fn threshold(&self, threshold: f64, value: f64) -> Tensor {
        self.call("threshold.default").with("threshold", threshold).with("value", value).one()
    }
}
