//! Convolution layers.

use super::norm::{BatchNorm, batch_norm, channels};
use super::weight::{Made, weight};
use crate::frontend::{ConvOptions, Initializer, Tensor, Trace};
use crate::types::{Dims, IntoDims};

/// Settings of convolutions of all ranks, transposed or not.
#[derive(Clone, Debug)]
pub struct Conv {
    channels: usize,
    kernel: Dims,
    options: ConvOptions,
    groups: usize,
    bias: bool,
    init: Option<Initializer>,
    made: Made,
}

/// Settings of [`conv1d`] and [`conv_transpose1d`].
pub type Conv1d = Conv;
/// Settings of [`conv2d`] and [`conv_transpose2d`].
pub type Conv2d = Conv;
/// Settings of [`conv3d`] and [`conv_transpose3d`].
pub type Conv3d = Conv;

impl Conv {
    /// That many channels from kernels of that size (one number, or one for each dimension), moved by one, with a bias and without
    /// padding.
    pub fn new(channels: usize, kernel: impl IntoDims) -> Conv {
        let kernel = kernel.into_dims();
        Conv { channels, kernel, options: ConvOptions::new(), groups: 1, bias: true, init: None, made: Made::Plain }
    }

    /// Distance between neighboring windows.
    pub fn stride(mut self, stride: impl IntoDims) -> Conv {
        self.options = self.options.stride(stride);
        self
    }

    /// Zeros on each side.
    pub fn padding(mut self, padding: impl IntoDims) -> Conv {
        self.options = self.options.padding(padding);
        self
    }

    /// As many zeros as keep the size; not for transposed convolutions.
    pub fn same(mut self) -> Conv {
        self.options = self.options.same();
        self
    }

    /// Distance between neighboring elements of a window.
    pub fn dilation(mut self, dilation: impl IntoDims) -> Conv {
        self.options = self.options.dilation(dilation);
        self
    }

    /// Of a transposed convolution: elements more at the end.
    pub fn output_padding(mut self, output_padding: impl IntoDims) -> Conv {
        self.options = self.options.output_padding(output_padding);
        self
    }

    /// The channels fall into so many groups, which do not see one another; as many as channels make a depthwise convolution.
    pub fn groups(mut self, groups: usize) -> Conv {
        self.options = self.options.groups(groups);
        self.groups = groups;
        self
    }

    /// With or without a bias.
    pub fn bias(mut self, bias: bool) -> Conv {
        self.bias = bias;
        self
    }

    /// How the weight starts; the bias is then zero.
    pub fn init(mut self, init: Initializer) -> Conv {
        self.init = Some(init);
        self
    }

    /// The weight is `weight_v` with rows of the lengths `weight_g`.
    pub fn weight_norm(mut self) -> Conv {
        self.made = Made::WeightNorm;
        self
    }

    /// The weight is `weight_orig` over an estimate of its largest singular value.
    pub fn spectral_norm(mut self) -> Conv {
        self.made = Made::SpectralNorm;
        self
    }
}

macro_rules! convolutions {
    ($($(#[$doc:meta])* $name:ident = $rank:literal $transposed:literal;)+) => {
        $($(#[$doc])* #[track_caller] pub fn $name(t: &Trace, x: &Tensor, layer: Conv) -> Tensor {
            let _scope = t.enter();
            let (weight, bias) = match parts(t, x, &layer, stringify!($name), $rank, $transposed) {
                Ok(parts) => parts,
                Err(poison) => return poison,
            };
            let y = x.$name(&weight, layer.options);
            match bias {
                Some(bias) => y + bias,
                None => y,
            }
        })+
    };
}
convolutions! {
    /// Convolution of `[n, channels, time]`.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor, Initializer, nn};
    /// let x = HostTensor::f32(&[1, 1, 4], &[1.0, 2.0, 3.0, 4.0]);
    /// let y = Device::cpu().compute([&x], |t, [x]| nn::conv1d(&t.path("conv"), &x, nn::Conv1d::new(1, 2).stride(2).init(Initializer::Ones)))?;
    /// assert_eq!(y.to_string(), "[[[3. 7.]]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    conv1d = 1 false;
    /// Convolution of images `[n, channels, height, width]` with `weight` of shape `[out, in / groups, k, k]` and `bias` of `[out]`, both
    /// drawn uniformly within `1 / sqrt(in / groups * k * k)` as in PyTorch. The number of channels that come in must be known.
    ///
    /// ```
    /// # use inductor::{DType, Device, Initializer, nn};
    /// let y = Device::cpu().compute([], |t, []| {
    ///     let x = t.iota(DType::F32, 9).reshape((1, 1, 3, 3));
    ///     nn::conv2d(&t.path("conv"), &x, nn::Conv2d::new(1, 2).init(Initializer::Ones))
    /// })?;
    /// assert_eq!(y.to_string(), "[[[[ 8. 12.]\n   [20. 24.]]]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    conv2d = 2 false;
    /// Convolution of `[n, channels, depth, height, width]`.
    conv3d = 3 false;
    /// Transposed convolution of `[n, channels, time]`.
    conv_transpose1d = 1 true;
    /// Transposed convolution of images with `weight` of shape `[in, out / groups, k, k]`.
    ///
    /// ```
    /// # use inductor::{DType, Device, Initializer, nn};
    /// let y = Device::cpu().compute([], |t, []| {
    ///     let x = t.iota(DType::F32, 9).reshape((1, 1, 3, 3));
    ///     nn::conv_transpose2d(&t.path("up"), &x.narrow(2, 0, 1).narrow(3, 0, 2), nn::Conv2d::new(1, 2).stride(2).init(Initializer::Ones))
    /// })?;
    /// assert_eq!(y.to_string(), "[[[[0. 0. 1. 1.]\n   [0. 0. 1. 1.]]]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    conv_transpose2d = 2 true;
    /// Transposed convolution of `[n, channels, depth, height, width]`.
    conv_transpose3d = 3 true;
}

/// Weight and bias, whose shape lets it be added.
#[track_caller]
fn parts(t: &Trace, x: &Tensor, layer: &Conv, name: &str, rank: usize, transposed: bool) -> Result<(Tensor, Option<Tensor>), Tensor> {
    let inputs = channels(x, name)?;
    let kernel = match &layer.kernel {
        Dims::Of(list) if list.len() == 1 => vec![list[0]; rank],
        Dims::Of(list) if list.len() == rank => list.clone(),
        other => return Err(x.fail(name, format!("{other:?} is no size of a kernel of {rank} dimensions"))),
    };
    let (outputs, groups) = (layer.channels as i64, layer.groups as i64);
    if groups == 0 || inputs % groups != 0 || outputs % groups != 0 {
        return Err(x.fail(name, format!("{groups} groups do not divide {inputs} and {outputs} channels")));
    }
    let (first, second) = if transposed { (inputs, outputs / groups) } else { (outputs, inputs / groups) };
    let field: i64 = kernel.iter().product();
    let bound = 1.0 / ((second * field).max(1) as f64).sqrt();
    let uniform = Initializer::Uniform { low: -bound, high: bound };
    let of_bias = if layer.init.is_some() { Initializer::Zeros } else { uniform.clone() };
    let shape = [&[first, second], &kernel[..]].concat();
    let weight = weight(t, x.dtype(), &shape, transposed as usize, layer.init.clone().unwrap_or(uniform), layer.made);
    if !layer.bias {
        return Ok((weight, None));
    }
    let mut spread = vec![1; rank + 1];
    spread[0] = outputs;
    Ok((weight, Some(t.parameter("bias", x.dtype(), outputs, of_bias).reshape(spread))))
}

/// A convolution of images without a bias (`conv`), batch norm (`norm`) and a rectifier.
///
/// ```
/// # use inductor::{DType, nn, trace};
/// let traced = trace("layer", |t| Ok(vec![nn::conv_block(&t.path("stem"), &t.input("x", DType::F32, (2, 3, 8, 8)), nn::Conv2d::new(16, 3).same())]))?;
/// let names: Vec<&str> = traced.initializers.iter().map(|(name, _)| name.as_str()).collect();
/// assert_eq!(names[..3], ["stem.conv.weight", "stem.norm.weight", "stem.norm.bias"]);
/// assert!(names.contains(&"stem.norm.running_mean"));
/// # Ok::<(), inductor::Error>(())
/// ```
#[track_caller]
pub fn conv_block(t: &Trace, x: &Tensor, layer: Conv) -> Tensor {
    let y = conv2d(&t.path("conv"), x, layer.bias(false));
    batch_norm(&t.path("norm"), &y, BatchNorm::default()).relu()
}
