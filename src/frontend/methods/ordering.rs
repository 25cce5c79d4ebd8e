//! Order along a dimension: sorting, searching, running combinations.

use crate::frontend::tensor::Tensor;
use crate::graph::{Builder, Value};
use crate::types::{DType, Dim};

/// Order along a dimension.
impl Tensor {
    /// Values in order along one dimension, and the indices they came from, i32. Stable; NaN is the largest.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[2.0, 3.0, 1.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.sort(0, true).0)?;
    /// assert_eq!(y.to_string(), "[3. 2. 1.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn sort(&self, dim: i64, descending: bool) -> (Tensor, Tensor) {
        self.pair("sort", dim, |b, x, dim| b.sort(x, dim, descending))
    }

    /// The indices that sort a dimension, i32. Stable; NaN is the largest.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[2.0, 3.0, 1.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.argsort(0, false))?;
    /// assert_eq!(y.to_string(), "[2 0 1]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn argsort(&self, dim: i64, descending: bool) -> Tensor {
        self.sort(dim, descending).1
    }

    /// The `k` largest values along one dimension, in order, and their indices.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[2.0, 3.0, 1.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.topk(2, -1).0)?;
    /// assert_eq!(y.to_string(), "[3. 2.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn topk(&self, k: impl Into<Dim>, dim: i64) -> (Tensor, Tensor) {
        self.topk_with(k, dim, true)
    }

    /// The `k` largest or smallest values along one dimension, in order, and their indices.
    #[track_caller]
    pub fn topk_with(&self, k: impl Into<Dim>, dim: i64, largest: bool) -> (Tensor, Tensor) {
        let k = k.into();
        self.pair("topk", dim, |b, x, dim| match (k.as_int(), b.shape(x)[dim].as_int()) {
            (Some(k), Some(size)) if !(0..=size).contains(&k) => Err(format!("{k} elements of a dimension of size {size}")),
            _ => b.topk(x, k, dim, largest),
        })
    }

    /// Running sums along one dimension.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[2.0, 3.0, 1.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.cumsum(0))?;
    /// assert_eq!(y.to_string(), "[2. 5. 6.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn cumsum(&self, dim: i64) -> Tensor {
        let x = if self.dtype() == DType::Bool { self.cast(DType::I32) } else { self.clone() };
        x.along("cumsum", dim, |b, x, dim| b.cumsum(x, dim))
    }

    /// Running products along one dimension.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[2.0, 3.0, 1.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.cumprod(0))?;
    /// assert_eq!(y.to_string(), "[2. 6. 6.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn cumprod(&self, dim: i64) -> Tensor {
        self.call("cumprod.default").with("dim", dim).one()
    }

    /// Running maxima along one dimension, and their indices.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[2.0, 3.0, 1.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.cummax(0).0)?;
    /// assert_eq!(y.to_string(), "[2. 3. 3.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn cummax(&self, dim: i64) -> (Tensor, Tensor) {
        self.call("cummax.default").with("dim", dim).indexed()
    }

    /// Running minima along one dimension, and their indices.
    #[track_caller]
    pub fn cummin(&self, dim: i64) -> (Tensor, Tensor) {
        self.call("cummin.default").with("dim", dim).indexed()
    }

    /// Running logarithms of sums of exponentials along one dimension.
    #[track_caller]
    pub fn logcumsumexp(&self, dim: i64) -> Tensor {
        self.call("logcumsumexp.default").with("dim", dim).one()
    }

    /// Differences of neighbors along one dimension.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[2.0, 3.0, 1.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.diff(0))?;
    /// assert_eq!(y.to_string(), "[ 1. -2.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn diff(&self, dim: i64) -> Tensor {
        self.call("diff.default").with("dim", dim).one()
    }

    /// Where `values` would go into this sorted last dimension, i32: before equal elements, or behind them if `right`.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[1.0, 2.0, 4.0]);
    /// let values = HostTensor::f32(&[2], &[2.0, 3.0]);
    /// let y = Device::cpu().compute([&x, &values], |_, [x, values]| x.searchsorted(&values, false))?;
    /// assert_eq!(y.to_string(), "[1 2]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn searchsorted(&self, values: &Tensor, right: bool) -> Tensor {
        self.call_as("searchsorted.Tensor", "sorted_sequence").with("self", values).with("right", right).index()
    }

    /// Between which of the sorted `boundaries` each element lies, i32.
    #[track_caller]
    pub fn bucketize(&self, boundaries: &Tensor, right: bool) -> Tensor {
        self.call("bucketize.Tensor").with("boundaries", boundaries).with("right", right).index()
    }

    /// Which elements are among `values`.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::i32(&[3], &[1, 2, 3]);
    /// let values = HostTensor::i32(&[2], &[3, 1]);
    /// let y = Device::cpu().compute([&x, &values], |_, [x, values]| x.isin(&values))?;
    /// assert_eq!(y.to_string(), "[ True False  True]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn isin(&self, values: &Tensor) -> Tensor {
        self.call_as("isin.Tensor_Tensor", "elements").with("test_elements", values).one()
    }

    #[track_caller]
    fn pair(&self, op: &str, dim: i64, build: impl FnOnce(&mut Builder, Value, usize) -> Result<(Value, Value), String>) -> (Tensor, Tensor) {
        let poison = || self.recorder.poison(self.ty.clone());
        let Some(dim) = self.dim(op, dim) else { return (poison(), poison()) };
        let results = self.recorder.apply_many(op, &[self], |b, v| build(b, v[0], dim).map(|(values, indices)| vec![values, indices]));
        <[Tensor; 2]>::try_from(results).map_or_else(|_| (poison(), poison()), |[values, indices]| (values, indices))
    }
}
