//! Reductions over dimensions: `()` for all of them, one, or several.

use crate::frontend::tensor::Tensor;
use crate::ops::ReduceKind;
use crate::types::{DType, Dims, IntoDims};

macro_rules! reductions {
    ($($(#[$doc:meta])* $name:ident $kept:ident = |$x:ident, $dims:ident, $keepdim:ident| $body:expr;)+) => {
        /// Reductions over dimensions (`()` is all of them), which are dropped, or kept with size one by `_keepdim`.
        ///
        /// ```
        /// use inductor::{DType, trace};
        /// let traced = trace("reduce", |t| {
        ///     let x = t.input("x", DType::F32, (2, 3, 4));
        ///     Ok(vec![x.sum(-1), x.mean(()), x.amax([0, -1]), x.std_keepdim(1)])
        /// })?;
        /// let types: Vec<String> = traced.graph.outputs.iter().map(|o| traced.graph.ty(o.value).to_string()).collect();
        /// assert_eq!(types, ["f32[2, 3]", "f32[]", "f32[3]", "f32[2, 1, 4]"]);
        /// # Ok::<(), inductor::Error>(())
        /// ```
        impl Tensor {
            $(
                $(#[$doc])*
                #[track_caller]
                pub fn $name(&self, dims: impl IntoDims) -> Tensor {
                    let ($x, $dims, $keepdim) = (self, dims.into_dims(), false);
                    $body
                }

                #[doc = concat!("[`Tensor::", stringify!($name), "`] with its dimensions kept, of size one.")]
                #[track_caller]
                pub fn $kept(&self, dims: impl IntoDims) -> Tensor {
                    let ($x, $dims, $keepdim) = (self, dims.into_dims(), true);
                    $body
                }
            )+
        }
    };
}
reductions! {
    /// Sum; of bools, how many hold, i32.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 2], &[1.0, 2.0, 3.0, 5.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.sum(0))?;
    /// assert_eq!(y.to_string(), "[4. 7.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    sum sum_keepdim = |x, dims, keepdim| x.reduce(ReduceKind::Sum, dims, keepdim);
    /// Product.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 2], &[1.0, 2.0, 3.0, 5.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.prod(1))?;
    /// assert_eq!(y.to_string(), "[ 2. 15.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    prod prod_keepdim = |x, dims, keepdim| x.reduce(ReduceKind::Prod, dims, keepdim);
    /// Whether any element holds.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 2], &[1.0, 2.0, 3.0, 5.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.gt(4.0).any(1))?;
    /// assert_eq!(y.to_string(), "[False  True]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    any any_keepdim = |x, dims, keepdim| x.reduce(ReduceKind::Any, dims, keepdim);
    /// Whether all elements hold.
    all all_keepdim = |x, dims, keepdim| x.reduce(ReduceKind::All, dims, keepdim);
    /// Mean.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 2], &[1.0, 2.0, 3.0, 5.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.mean(-1))?;
    /// assert_eq!(y.to_string(), "[1.5 4. ]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    mean mean_keepdim = |x, dims, keepdim| x.over("mean", dims, |b, x, dims| b.mean(x, dims, keepdim));
    /// Largest element; NaN wins. Elements that tie share the gradient.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 2], &[1.0, 2.0, 3.0, 5.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.amax(0))?;
    /// assert_eq!(y.to_string(), "[3. 5.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    amax amax_keepdim = |x, dims, keepdim| x.rows_over("amax.default", dims, keepdim);
    /// Smallest element; NaN wins. Elements that tie share the gradient.
    amin amin_keepdim = |x, dims, keepdim| x.rows_over("amin.default", dims, keepdim);
    /// As [`Tensor::amax`].
    max max_keepdim = |x, dims, keepdim| x.rows_over("amax.default", dims, keepdim);
    /// As [`Tensor::amin`].
    min min_keepdim = |x, dims, keepdim| x.rows_over("amin.default", dims, keepdim);
    /// Variance, unbiased. [`Tensor::var_with`] takes another correction.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 2], &[1.0, 2.0, 3.0, 5.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.var(1))?;
    /// assert_eq!(y.to_string(), "[0.5 2. ]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    var var_keepdim = |x, dims, keepdim| x.var_with(dims, 1.0, keepdim);
    /// Standard deviation, from the unbiased variance. [`Tensor::std_with`] takes another correction.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 2], &[1.0, 2.0, 3.0, 5.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.std(1))?;
    /// assert_eq!(format!("{y:.3}"), "[0.707 1.414]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    std std_keepdim = |x, dims, keepdim| x.std_with(dims, 1.0, keepdim);
    /// `log(sum(exp(x)))`.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 2], &[1.0, 2.0, 3.0, 5.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.logsumexp(1))?;
    /// assert_eq!(format!("{y:.3}"), "[2.313 5.127]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    logsumexp logsumexp_keepdim = |x, dims, keepdim| x.rows_over("logsumexp.default", dims, keepdim);
    /// Euclidean norm. [`Tensor::norm_with`] takes another order.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 2], &[1.0, 2.0, 3.0, 5.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.norm(()))?;
    /// assert_eq!(format!("{y:.3}"), "6.245");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    norm norm_keepdim = |x, dims, keepdim| x.norm_with(2.0, dims, keepdim);
    /// Sum of what is not NaN.
    nansum nansum_keepdim = |x, dims, keepdim| x.rows_over("nansum.default", dims, keepdim);
    /// Mean of what is not NaN.
    nanmean nanmean_keepdim = |x, dims, keepdim| x.rows_over("nanmean.default", dims, keepdim);
    /// Index of the largest element along one dimension, or in row-major order of all, i32.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 2], &[1.0, 2.0, 3.0, 5.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.argmax(1))?;
    /// assert_eq!(y.to_string(), "[1 1]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    argmax argmax_keepdim = |x, dims, keepdim| x.position("argmax.default", dims, keepdim);
    /// Index of the smallest element along one dimension, or in row-major order of all, i32.
    argmin argmin_keepdim = |x, dims, keepdim| x.position("argmin.default", dims, keepdim);
}

/// Reductions with further arguments.
impl Tensor {
    /// Sum of all elements.
    #[track_caller]
    pub fn sum_all(&self) -> Tensor {
        self.sum(())
    }

    /// Mean of all elements.
    #[track_caller]
    pub fn mean_all(&self) -> Tensor {
        self.mean(())
    }

    /// Variance, `sum((x - mean)^2) / (n - correction)`.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 2], &[1.0, 2.0, 3.0, 5.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.var_with(1, 0.0, false))?;
    /// assert_eq!(y.to_string(), "[0.25 1.  ]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn var_with(&self, dims: impl IntoDims, correction: f64, keepdim: bool) -> Tensor {
        self.call("var.correction").with("dim", dims.into_dims()).with("correction", correction).with("keepdim", keepdim).one()
    }

    /// Square root of [`Tensor::var_with`].
    #[track_caller]
    pub fn std_with(&self, dims: impl IntoDims, correction: f64, keepdim: bool) -> Tensor {
        self.call("std.correction").with("dim", dims.into_dims()).with("correction", correction).with("keepdim", keepdim).one()
    }

    /// Variance, unbiased, and mean.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 2], &[1.0, 2.0, 3.0, 5.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.var_mean(1).1)?;
    /// assert_eq!(y.to_string(), "[1.5 4. ]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn var_mean(&self, dims: impl IntoDims) -> (Tensor, Tensor) {
        self.call("var_mean.correction").with("dim", dims.into_dims()).pair()
    }

    /// Standard deviation, from the unbiased variance, and mean.
    #[track_caller]
    pub fn std_mean(&self, dims: impl IntoDims) -> (Tensor, Tensor) {
        self.call("std_mean.correction").with("dim", dims.into_dims()).pair()
    }

    /// The smallest and the largest element over dimensions.
    #[track_caller]
    pub fn aminmax(&self, dims: impl IntoDims) -> (Tensor, Tensor) {
        let dims = dims.into_dims();
        (self.amin(dims.clone()), self.amax(dims))
    }

    /// `sum(|x|^p)^(1/p)`; the largest magnitude for an infinite `p`, the number of elements that are not zero for 0.
    #[track_caller]
    pub fn norm_with(&self, p: f64, dims: impl IntoDims, keepdim: bool) -> Tensor {
        self.call("linalg_vector_norm.default").with("ord", p).with("dim", dims.into_dims()).with("keepdim", keepdim).one()
    }

    /// The number of elements that are not zero, i32.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 2], &[1.0, 2.0, 3.0, 5.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.count_nonzero(0))?;
    /// assert_eq!(y.to_string(), "[2 2]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn count_nonzero(&self, dims: impl IntoDims) -> Tensor {
        self.call("count_nonzero.dim_IntList").with("dim", dims.into_dims()).index()
    }

    /// The largest elements along one dimension, and their indices.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 2], &[1.0, 2.0, 3.0, 5.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.max_with_indices(0).1)?;
    /// assert_eq!(y.to_string(), "[1 1]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn max_with_indices(&self, dim: i64) -> (Tensor, Tensor) {
        self.call("max.dim").with("dim", dim).indexed()
    }

    /// The smallest elements along one dimension, and their indices.
    #[track_caller]
    pub fn min_with_indices(&self, dim: i64) -> (Tensor, Tensor) {
        self.call("min.dim").with("dim", dim).indexed()
    }

    /// The medians along one dimension, the lower of two, and their indices.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 2], &[1.0, 2.0, 3.0, 5.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.median(1).0)?;
    /// assert_eq!(y.to_string(), "[1. 3.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn median(&self, dim: i64) -> (Tensor, Tensor) {
        self.call("median.dim").with("dim", dim).indexed()
    }

    /// The most frequent values along one dimension, and their indices.
    #[track_caller]
    pub fn mode(&self, dim: i64) -> (Tensor, Tensor) {
        self.call("mode.default").with("dim", dim).indexed()
    }

    /// The `k`-th smallest values along one dimension, counted from 1, and their indices.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 2], &[1.0, 2.0, 3.0, 5.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.kthvalue(2, 1).0)?;
    /// assert_eq!(y.to_string(), "[2. 5.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn kthvalue(&self, k: i64, dim: i64) -> (Tensor, Tensor) {
        self.call("kthvalue.default").with("k", k).with("dim", dim).indexed()
    }

    /// Any reduction.
    #[track_caller]
    pub fn reduce(&self, kind: ReduceKind, dims: impl IntoDims, keepdim: bool) -> Tensor {
        let x = match kind {
            ReduceKind::Any | ReduceKind::All => self.cast(DType::Bool),
            ReduceKind::Sum | ReduceKind::Prod if self.dtype() == DType::Bool => self.cast(DType::I32),
            _ => self.clone(),
        };
        x.over("reduce", dims.into_dims(), |b, x, dims| b.reduce(kind, x, dims, keepdim))
    }

    /// Records a reduction by PyTorch's operator.
    #[track_caller]
    fn rows_over(&self, row: &'static str, dims: Dims, keepdim: bool) -> Tensor {
        let op = row.trim_end_matches(".default");
        let Some(dims) = self.dims(op, dims) else { return self.recorder.poison(self.ty.clone()) };
        let dims: Vec<i64> = dims.into_iter().map(|d| d as i64).collect();
        self.call(row).with("dim", dims).with("keepdim", keepdim).one()
    }

    #[track_caller]
    fn position(&self, row: &'static str, dims: Dims, keepdim: bool) -> Tensor {
        let call = self.call(row).with("keepdim", keepdim);
        match dims {
            Dims::All => call.index(),
            Dims::Of(list) if list.len() == 1 => call.with("dim", list[0]).index(),
            Dims::Of(list) => self.fail(row.trim_end_matches(".default"), format!("takes one dimension or all, not {list:?}")),
        }
    }
}
