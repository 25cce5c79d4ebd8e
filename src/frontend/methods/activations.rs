//! Activations.

use crate::frontend::tensor::Tensor;
use crate::scalar::ScalarFn;

/// Activations.
impl Tensor {
    /// `x * P(X < x)` for a standard normal `X`.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[-1.0, 0.0, 2.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.gelu())?;
    /// assert_eq!(format!("{y:.3}"), "[-0.159  0.     1.954]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn gelu(&self) -> Tensor {
        self.unary("gelu", |b, x| b.gelu(x, false))
    }

    /// [`Tensor::gelu`] approximated through tanh.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[-1.0, 0.0, 2.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.gelu_tanh())?;
    /// assert_eq!(format!("{y:.3}"), "[-0.159  0.     1.955]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn gelu_tanh(&self) -> Tensor {
        self.unary("gelu", |b, x| b.gelu(x, true))
    }

    /// `x * sigmoid(x)`, also known as swish.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[-1.0, 0.0, 2.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.silu())?;
    /// assert_eq!(format!("{y:.3}"), "[-0.269  0.     1.762]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn silu(&self) -> Tensor {
        self.unary("silu", |b, x| b.silu(x))
    }

    /// `exp(x) / sum(exp(x))` along one dimension.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 2], &[0.0, 1.0, 2.0, 2.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.softmax(-1))?;
    /// assert_eq!(format!("{y:.3}"), "[[0.269 0.731]\n [0.5   0.5  ]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn softmax(&self, dim: i64) -> Tensor {
        self.along("softmax", dim, |b, x, dim| b.softmax(x, dim))
    }

    /// `x - log(sum(exp(x)))` along one dimension.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[0.0, 1.0, 2.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.log_softmax(-1))?;
    /// assert_eq!(format!("{y:.3}"), "[-2.408 -1.408 -0.408]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
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
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[-1.0, 0.0, 2.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.softplus())?;
    /// assert_eq!(format!("{y:.3}"), "[0.313 0.693 2.127]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
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
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[-1.0, 0.0, 2.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.leaky_relu(0.1))?;
    /// assert_eq!(y.to_string(), "[-0.1  0.   2. ]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn leaky_relu(&self, slope: f64) -> Tensor {
        self.call("leaky_relu.default").with("negative_slope", slope).one()
    }

    /// `x` above zero, `weight * x` below, with a weight of one element or one for each channel (dimension 1).
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[-1.0, 0.0, 2.0]);
    /// let slope = HostTensor::f32(&[1], &[0.25]);
    /// let y = Device::cpu().compute([&x, &slope], |_, [x, slope]| x.prelu(&slope))?;
    /// assert_eq!(y.to_string(), "[-0.25  0.    2.  ]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn prelu(&self, weight: &Tensor) -> Tensor {
        self.call("prelu.default").with("weight", weight).one()
    }

    /// `x` above zero, `alpha * (e^x - 1)` below. PyTorch's default `alpha` is 1.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[-1.0, 0.0, 2.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.elu(1.0))?;
    /// assert_eq!(format!("{y:.3}"), "[-0.632  0.     2.   ]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
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
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[-1.0, 0.0, 2.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.selu())?;
    /// assert_eq!(format!("{y:.3}"), "[-1.111  0.     2.101]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn selu(&self) -> Tensor {
        self.call("selu.default").one()
    }

    /// The first half of a dimension times the sigmoid of the second.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[4], &[1.0, 2.0, 0.0, 3.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.glu(-1))?;
    /// assert_eq!(format!("{y:.3}"), "[0.5   1.905]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
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
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[-4.0, 0.5, 4.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.hardtanh(-1.0, 1.0))?;
    /// assert_eq!(y.to_string(), "[-1.   0.5  1. ]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
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
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[4], &[-4.0, -1.0, 1.0, 4.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.hardswish())?;
    /// assert_eq!(format!("{y:.3}"), "[-0.    -0.333  0.667  4.   ]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn hardswish(&self) -> Tensor {
        self.call("hardswish.default").one()
    }

    /// `x * tanh(softplus(x))`.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[-1.0, 0.0, 2.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.mish())?;
    /// assert_eq!(format!("{y:.3}"), "[-0.303  0.     1.944]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
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
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2], &[0.5, 1.5]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.threshold(1.0, -9.0))?;
    /// assert_eq!(y.to_string(), "[-9.   1.5]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn threshold(&self, threshold: f64, value: f64) -> Tensor {
        self.call("threshold.default").with("threshold", threshold).with("value", value).one()
    }
}
