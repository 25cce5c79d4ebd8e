//! Convolutions, poolings, resampling and patches.

use crate::frontend::tensor::Tensor;
use crate::types::{Dim, Dims, IntoDims, IntoShape};

/// How a convolution moves; each number is for all spatial dimensions, or there is one for each.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvOptions {
    stride: Dims,
    padding: Dims,
    same: bool,
    dilation: Dims,
    output_padding: Dims,
    groups: i64,
}

impl Default for ConvOptions {
    fn default() -> ConvOptions {
        let all = |n: i64| Dims::Of(vec![n]);
        ConvOptions { stride: all(1), padding: all(0), same: false, dilation: all(1), output_padding: all(0), groups: 1 }
    }
}

impl ConvOptions {
    /// By one element, without padding, dilation and groups.
    pub fn new() -> ConvOptions {
        ConvOptions::default()
    }

    /// Distance between neighboring windows.
    pub fn stride(mut self, stride: impl IntoDims) -> ConvOptions {
        self.stride = stride.into_dims();
        self
    }

    /// Zeros on each side.
    pub fn padding(mut self, padding: impl IntoDims) -> ConvOptions {
        self.padding = padding.into_dims();
        self
    }

    /// As many zeros as keep the size: PyTorch's `padding="same"`. Not for transposed convolutions.
    pub fn same(mut self) -> ConvOptions {
        self.same = true;
        self
    }

    /// Distance between neighboring elements of a window.
    pub fn dilation(mut self, dilation: impl IntoDims) -> ConvOptions {
        self.dilation = dilation.into_dims();
        self
    }

    /// Of a transposed convolution: elements more at the end.
    pub fn output_padding(mut self, output_padding: impl IntoDims) -> ConvOptions {
        self.output_padding = output_padding.into_dims();
        self
    }

    /// The channels fall into so many groups, which do not see one another.
    pub fn groups(mut self, groups: usize) -> ConvOptions {
        self.groups = groups as i64;
        self
    }
}

/// Convolutions over `[n, channels, sizes...]`, or over one example without `n`.
impl Tensor {
    /// Convolution of `[n, channels, time]` with `weight` of shape `[out, in / groups, size]`.
    ///
    /// ```
    /// # use inductor::{ConvOptions, Device, HostTensor};
    /// let x = HostTensor::f32(&[1, 1, 3], &[1.0, 2.0, 3.0]);
    /// let weight = HostTensor::f32(&[1, 1, 3], &[1.0, 0.0, -1.0]);
    /// let y = Device::cpu().compute([&x, &weight], |_, [x, weight]| x.conv1d(&weight, ConvOptions::new().padding(1)))?;
    /// assert_eq!(y.to_string(), "[[[-2. -2.  2.]]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn conv1d(&self, weight: &Tensor, options: ConvOptions) -> Tensor {
        self.convolved(["conv1d.default", "conv1d.padding"], weight, options)
    }

    /// Convolution of `[n, channels, rows, columns]` with `weight` of shape `[out, in / groups, rows, columns]`.
    ///
    /// ```
    /// use inductor::{ConvOptions, DType, trace};
    /// let traced = trace("edges", |t| {
    ///     let x = t.input("x", DType::F32, (8, 1, 28, 28));
    ///     let w = t.input("w", DType::F32, (4, 1, 3, 3));
    ///     Ok(vec![x.conv2d(&w, ConvOptions::new().padding(1)).max_pool2d(2)])
    /// })?;
    /// let ty = traced.graph.ty(traced.graph.outputs[0].value);
    /// assert_eq!(ty.to_string(), "f32[8, 4, 14, 14]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn conv2d(&self, weight: &Tensor, options: ConvOptions) -> Tensor {
        self.convolved(["conv2d.default", "conv2d.padding"], weight, options)
    }

    /// Convolution over three dimensions, with `weight` of shape `[out, in / groups, depth, rows, columns]`.
    #[track_caller]
    pub fn conv3d(&self, weight: &Tensor, options: ConvOptions) -> Tensor {
        self.convolved(["conv3d.default", "conv3d.padding"], weight, options)
    }

    /// Transposed convolution of `[n, channels, time]` with `weight` of shape `[in, out / groups, size]`.
    #[track_caller]
    pub fn conv_transpose1d(&self, weight: &Tensor, options: ConvOptions) -> Tensor {
        self.transposed("conv_transpose1d.default", weight, options)
    }

    /// Transposed convolution of images with `weight` of shape `[in, out / groups, rows, columns]`.
    #[track_caller]
    pub fn conv_transpose2d(&self, weight: &Tensor, options: ConvOptions) -> Tensor {
        self.transposed("conv_transpose2d.input", weight, options)
    }

    /// Transposed convolution over three dimensions, with `weight` of shape `[in, out / groups, depth, rows, columns]`.
    #[track_caller]
    pub fn conv_transpose3d(&self, weight: &Tensor, options: ConvOptions) -> Tensor {
        self.transposed("conv_transpose3d.input", weight, options)
    }

    #[track_caller]
    fn convolved(&self, rows: [&'static str; 2], weight: &Tensor, o: ConvOptions) -> Tensor {
        let name = rows[0].split('.').next().unwrap_or_default();
        if o.output_padding != ConvOptions::default().output_padding {
            return self.fail(name, "padding of the result is for transposed convolutions");
        }
        if let Some(fault) = self.ranks_fault(name, weight) {
            return self.fail(name, fault);
        }
        let call = self.call_as(rows[o.same as usize], "input").with("weight", weight).with("stride", o.stride).with("dilation", o.dilation);
        let call = if o.same { call.with("padding", "same") } else { call.with("padding", o.padding) };
        call.with("groups", o.groups).one()
    }

    #[track_caller]
    fn transposed(&self, row: &'static str, weight: &Tensor, o: ConvOptions) -> Tensor {
        let name = row.split('.').next().unwrap_or_default();
        if o.same {
            return self.fail(name, "there is no padding that keeps the size of a transposed convolution");
        }
        if let Some(fault) = self.ranks_fault(name, weight) {
            return self.fail(name, fault);
        }
        let call = self.call_as(row, "input").with("weight", weight).with("stride", o.stride).with("padding", o.padding);
        call.with("dilation", o.dilation).with("output_padding", o.output_padding).with("groups", o.groups).one()
    }

    /// Why an operand has the wrong number of dimensions for the operator, whose name ends in the number of spatial ones.
    fn ranks_fault(&self, name: &str, weight: &Tensor) -> Option<String> {
        let spatial = spatial(name);
        let fits = weight.rank() == spatial + 2 && (spatial + 1..=spatial + 2).contains(&self.rank());
        (!fits).then(|| format!("expected {} dimensions: {} x {}", spatial + 2, self.ty, weight.ty))
    }
}

/// The number of spatial dimensions in names such as `conv2d`.
fn spatial(name: &str) -> usize {
    name.bytes().rev().nth(1).map_or(0, |digit| (digit - b'0') as usize)
}

/// Windows of a pooling. A size alone is a window that moves by itself, without padding and dilation.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolOptions {
    kernel: Dims,
    stride: Dims,
    padding: Dims,
    dilation: Dims,
    ceil: bool,
    count_padding: bool,
}

impl PoolOptions {
    /// Windows of that size (one number, or one for each dimension), which do not overlap.
    pub fn new(kernel: impl IntoDims) -> PoolOptions {
        let kernel = kernel.into_dims();
        let all = |n: i64| Dims::Of(vec![n]);
        PoolOptions { stride: kernel.clone(), kernel, padding: all(0), dilation: all(1), ceil: false, count_padding: true }
    }

    /// Distance between neighboring windows.
    pub fn stride(mut self, stride: impl IntoDims) -> PoolOptions {
        self.stride = stride.into_dims();
        self
    }

    /// Elements on each side that are no maximum and that count for averages as zeros.
    pub fn padding(mut self, padding: impl IntoDims) -> PoolOptions {
        self.padding = padding.into_dims();
        self
    }

    /// Distance between neighboring elements of a window; of maxima only.
    pub fn dilation(mut self, dilation: impl IntoDims) -> PoolOptions {
        self.dilation = dilation.into_dims();
        self
    }

    /// A last window that is not filled counts too.
    pub fn ceil(mut self) -> PoolOptions {
        self.ceil = true;
        self
    }

    /// Averages over the elements that are there only: PyTorch's `count_include_pad=False`.
    pub fn without_padding(mut self) -> PoolOptions {
        self.count_padding = false;
        self
    }
}

impl From<i32> for PoolOptions {
    fn from(kernel: i32) -> PoolOptions {
        PoolOptions::new(kernel)
    }
}
impl<const N: usize> From<[i32; N]> for PoolOptions {
    fn from(kernel: [i32; N]) -> PoolOptions {
        PoolOptions::new(kernel)
    }
}
impl From<(i32, i32)> for PoolOptions {
    fn from(kernel: (i32, i32)) -> PoolOptions {
        PoolOptions::new(kernel)
    }
}
impl From<(i32, i32, i32)> for PoolOptions {
    fn from(kernel: (i32, i32, i32)) -> PoolOptions {
        PoolOptions::new(kernel)
    }
}

macro_rules! pools {
    ($($(#[$doc:meta])* $name:ident = $helper:ident $row:literal;)+) => {
        /// Poolings over the last dimensions. Windows are given by their size, or by [`PoolOptions`].
        impl Tensor {
            $($(#[$doc])* #[track_caller] pub fn $name(&self, windows: impl Into<PoolOptions>) -> Tensor { self.$helper($row, windows.into()) })+
        }
    };
}
pools! {
    /// The largest element of each window of the last dimension.
    max_pool1d = maxima "max_pool1d.default";
    /// The largest element of each window of the last two dimensions.
    ///
    /// ```
    /// # use inductor::{DType, Device};
    /// let y = Device::cpu().compute([], |t, []| t.iota(DType::F32, 16).reshape((1, 1, 4, 4)).max_pool2d(2))?;
    /// assert_eq!(y.to_string(), "[[[[ 5.  7.]\n   [13. 15.]]]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    max_pool2d = maxima "max_pool2d.default";
    /// The largest element of each window of the last three dimensions.
    max_pool3d = maxima "max_pool3d.default";
    /// The mean of each window of the last dimension.
    avg_pool1d = averages "avg_pool1d.default";
    /// The mean of each window of the last two dimensions.
    ///
    /// ```
    /// # use inductor::{DType, Device};
    /// let y = Device::cpu().compute([], |t, []| t.iota(DType::F32, 16).reshape((1, 1, 4, 4)).avg_pool2d(2))?;
    /// assert_eq!(y.to_string(), "[[[[ 2.5  4.5]\n   [10.5 12.5]]]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    avg_pool2d = averages "avg_pool2d.default";
    /// The mean of each window of the last three dimensions.
    avg_pool3d = averages "avg_pool3d.default";
}

macro_rules! adaptive_pools {
    ($($(#[$doc:meta])* $name:ident = $row:literal;)+) => {
        /// Poolings to a given size, over windows that follow from it.
        impl Tensor {
            $($(#[$doc])* #[track_caller] pub fn $name(&self, size: impl IntoShape) -> Tensor {
                self.call($row).with("output_size", size.into_shape()).one()
            })+
        }
    };
}
adaptive_pools! {
    /// Means, so many along the last dimension.
    adaptive_avg_pool1d = "adaptive_avg_pool1d.default";
    /// Means, so many along the last two dimensions.
    ///
    /// ```
    /// # use inductor::{DType, Device};
    /// let y = Device::cpu().compute([], |t, []| t.iota(DType::F32, 16).reshape((1, 1, 4, 4)).adaptive_avg_pool2d((1, 2)))?;
    /// assert_eq!(y.to_string(), "[[[[6.5 8.5]]]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    adaptive_avg_pool2d = "adaptive_avg_pool2d.default";
    /// Means, so many along the last three dimensions.
    adaptive_avg_pool3d = "adaptive_avg_pool3d.default";
    /// Maxima, so many along the last dimension.
    adaptive_max_pool1d = "adaptive_max_pool1d.default";
    /// Maxima, so many along the last two dimensions.
    adaptive_max_pool2d = "adaptive_max_pool2d.default";
    /// Maxima, so many along the last three dimensions.
    adaptive_max_pool3d = "adaptive_max_pool3d.default";
}

impl Tensor {
    #[track_caller]
    fn maxima(&self, row: &'static str, o: PoolOptions) -> Tensor {
        if !o.count_padding {
            return self.fail(row.trim_end_matches(".default"), "maxima never count the padding");
        }
        let call = self.call(row).with("kernel_size", o.kernel).with("stride", o.stride).with("padding", o.padding);
        call.with("dilation", o.dilation).with("ceil_mode", o.ceil).one()
    }

    #[track_caller]
    fn averages(&self, row: &'static str, o: PoolOptions) -> Tensor {
        if o.dilation != Dims::Of(vec![1]) {
            return self.fail(row.trim_end_matches(".default"), "averages have no dilation");
        }
        let call = self.call(row).with("kernel_size", o.kernel).with("stride", o.stride).with("padding", o.padding);
        call.with("ceil_mode", o.ceil).with("count_include_pad", o.count_padding).one()
    }
}

/// How elements between others are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interpolation {
    /// The nearest one, by PyTorch's default rule.
    #[default]
    Nearest,
    /// The nearest one, as image libraries have it: PyTorch's `nearest-exact`.
    NearestExact,
    /// Linear between neighbors, over one to three dimensions (PyTorch's `linear`, `bilinear`, `trilinear`).
    Linear,
    /// Cubic convolution, over two dimensions (PyTorch's `bicubic`).
    Cubic,
}

/// Resampling and patches.
impl Tensor {
    /// The last dimensions, those behind the first two, resampled to `size`. `align_corners` keeps the corners' elements where they
    /// are, and is for linear and cubic interpolation.
    ///
    /// ```
    /// use inductor::{DType, Interpolation, trace};
    /// let traced = trace("resize", |t| {
    ///     let x = t.input("x", DType::F32, (1, 3, 8, 8));
    ///     Ok(vec![x.interpolate((12, 20), Interpolation::Linear, false), x.upsample(2, Interpolation::Nearest)])
    /// })?;
    /// let types: Vec<String> = traced.graph.outputs.iter().map(|o| traced.graph.ty(o.value).to_string()).collect();
    /// assert_eq!(types, ["f32[1, 3, 12, 20]", "f32[1, 3, 16, 16]"]);
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn interpolate(&self, size: impl IntoShape, mode: Interpolation, align_corners: bool) -> Tensor {
        let spatial = self.rank().saturating_sub(2);
        let row = match (mode, spatial) {
            (Interpolation::Nearest, 1) => "upsample_nearest1d.default",
            (Interpolation::Nearest, 2) => "upsample_nearest2d.default",
            (Interpolation::Nearest, 3) => "upsample_nearest3d.default",
            (Interpolation::NearestExact, 1) => "_upsample_nearest_exact1d.default",
            (Interpolation::NearestExact, 2) => "_upsample_nearest_exact2d.default",
            (Interpolation::NearestExact, 3) => "_upsample_nearest_exact3d.default",
            (Interpolation::Linear, 1) => "upsample_linear1d.default",
            (Interpolation::Linear, 2) => "upsample_bilinear2d.default",
            (Interpolation::Linear, 3) => "upsample_trilinear3d.default",
            (Interpolation::Cubic, 2) => "upsample_bicubic2d.default",
            _ => return self.fail("interpolate", format!("there is no {mode:?} interpolation of {}", self.ty)),
        };
        let call = self.call(row).with("output_size", size.into_shape());
        match mode {
            Interpolation::Linear | Interpolation::Cubic => call.with("align_corners", align_corners).one(),
            _ if align_corners => self.fail("interpolate", "corners are aligned by linear and cubic interpolation only"),
            _ => call.one(),
        }
    }

    /// The last dimensions, those behind the first two, made larger by a whole factor.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor, Interpolation};
    /// let x = HostTensor::f32(&[1, 1, 2], &[1.0, 2.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.upsample(2, Interpolation::Nearest))?;
    /// assert_eq!(y.to_string(), "[[[1. 1. 2. 2.]]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn upsample(&self, factor: i64, mode: Interpolation) -> Tensor {
        let sizes: Vec<_> = self.ty.shape.0.iter().skip(2).map(|d| d.clone() * Dim::int(factor)).collect();
        self.interpolate(sizes, mode, false)
    }

    /// Groups of `factor^2` channels made squares of elements: `[n, c f^2, h, w]` to `[n, c, h f, w f]`.
    ///
    /// ```
    /// # use inductor::{DType, Device};
    /// let y = Device::cpu().compute([], |t, []| t.iota(DType::F32, 4).reshape((1, 4, 1, 1)).pixel_shuffle(2))?;
    /// assert_eq!(y.to_string(), "[[[[0. 1.]\n   [2. 3.]]]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn pixel_shuffle(&self, factor: i64) -> Tensor {
        self.call("pixel_shuffle.default").with("upscale_factor", factor).one()
    }

    /// Squares of elements made channels: the inverse of [`Tensor::pixel_shuffle`].
    #[track_caller]
    pub fn pixel_unshuffle(&self, factor: i64) -> Tensor {
        self.call("pixel_unshuffle.default").with("downscale_factor", factor).one()
    }

    /// Channels of groups taken in turn.
    #[track_caller]
    pub fn channel_shuffle(&self, groups: i64) -> Tensor {
        self.call("channel_shuffle.default").with("groups", groups).one()
    }

    /// Images read between elements at the points of `grid`, `[n, rows, columns, 2]` with coordinates in -1..1, bilinearly, with
    /// zeros outside: PyTorch's defaults.
    #[track_caller]
    pub fn grid_sample(&self, grid: &Tensor, align_corners: bool) -> Tensor {
        let call = self.call_as("grid_sampler.default", "input").with("grid", grid);
        call.with("interpolation_mode", 0i64).with("padding_mode", 0i64).with("align_corners", align_corners).one()
    }

    /// Patches of images as columns: `[n, c, h, w]` to `[n, c * kernel, places]`. PyTorch's `F.unfold`.
    #[track_caller]
    pub fn im2col(&self, kernel: [i64; 2], options: ConvOptions) -> Tensor {
        let call = self.call("im2col.default").with("kernel_size", kernel.to_vec()).with("dilation", options.dilation);
        call.with("padding", options.padding).with("stride", options.stride).one()
    }

    /// Columns of patches added into images of that size: PyTorch's `F.fold`.
    #[track_caller]
    pub fn col2im(&self, size: [i64; 2], kernel: [i64; 2], options: ConvOptions) -> Tensor {
        let call = self.call("col2im.default").with("output_size", size.to_vec()).with("kernel_size", kernel.to_vec());
        call.with("dilation", options.dilation).with("padding", options.padding).with("stride", options.stride).one()
    }
}
