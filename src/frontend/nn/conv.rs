//! Convolution layers.

use crate::frontend::{Initializer, Tensor, Trace};

/// Settings of [`conv2d`].
#[derive(Clone, Debug)]
pub struct Conv2d {
    channels: usize,
    kernel: usize,
    stride: u32,
    padding: u32,
    bias: bool,
}

impl Conv2d {
    /// That many channels from square kernels of that size, moved by one, with a bias and without padding.
    pub fn new(channels: usize, kernel: usize) -> Conv2d {
        Conv2d { channels, kernel, stride: 1, padding: 0, bias: true }
    }

    /// Distance between neighboring windows.
    pub fn stride(mut self, stride: u32) -> Conv2d {
        self.stride = stride;
        self
    }

    /// Zeros on each side of the image.
    pub fn padding(mut self, padding: u32) -> Conv2d {
        self.padding = padding;
        self
    }

    /// With or without a bias.
    pub fn bias(mut self, bias: bool) -> Conv2d {
        self.bias = bias;
        self
    }
}

/// Convolution of images `[n, channels, height, width]` with `weight` of shape `[out, in, k, k]` and `bias` of `[out]`, both drawn
/// uniformly within `1 / sqrt(in * k * k)` as in PyTorch. The number of channels that come in must be known.
#[track_caller]
pub fn conv2d(t: &Trace, x: &Tensor, layer: Conv2d) -> Tensor {
    let _scope = t.enter();
    let (channels, kernel) = (x.size(1), layer.kernel as i64);
    let inputs = channels.as_int().unwrap_or(1).saturating_mul(kernel * kernel);
    let bound = 1.0 / (inputs.max(1) as f64).sqrt();
    let init = Initializer::Uniform { low: -bound, high: bound };
    let weight = t.parameter("weight", x.dtype(), [(layer.channels as i64).into(), channels, kernel.into(), kernel.into()], init);
    let y = x.conv2d(&weight, crate::frontend::ConvOptions::new().stride(layer.stride).padding(layer.padding));
    if !layer.bias {
        return y;
    }
    let bias = t.parameter("bias", x.dtype(), layer.channels, init);
    y + bias.reshape((1, layer.channels, 1, 1))
}
