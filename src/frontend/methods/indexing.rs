//! Reading and writing at indices.

use crate::frontend::tensor::{Operand, Tensor};
use crate::types::{DType, Dim};

/// Reading at indices, which are integers of any dtype.
impl Tensor {
    /// Rows of `weight` at these integer indices.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let index = HostTensor::i32(&[2], &[2, 0]);
    /// let table = HostTensor::f32(&[3, 2], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    /// let y = Device::cpu().compute([&index, &table], |_, [index, table]| index.embedding(&table))?;
    /// assert_eq!(y.to_string(), "[[4. 5.]\n [0. 1.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn embedding(&self, weight: &Tensor) -> Tensor {
        self.recorder.apply("embedding", &[weight, self], |b, v| b.embedding(v[0], v[1]))
    }

    /// Elements at an integer `index` of the same rank, along one dimension.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3, 2], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    /// let index = HostTensor::i32(&[3, 1], &[1, 0, 1]);
    /// let y = Device::cpu().compute([&x, &index], |_, [x, index]| x.gather(1, &index))?;
    /// assert_eq!(y.to_string(), "[[1.]\n [2.]\n [5.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn gather(&self, dim: i64, index: &Tensor) -> Tensor {
        match self.dim("gather", dim) {
            Some(dim) => self.recorder.apply("gather", &[self, index], |b, v| b.gather(v[0], v[1], dim)),
            None => self.recorder.poison(self.ty.clone()),
        }
    }

    /// As [`Tensor::gather`], where the other dimensions broadcast.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3, 2], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.take_along_dim(&x.argsort(1, true), 1))?;
    /// assert_eq!(y.to_string(), "[[1. 0.]\n [3. 2.]\n [5. 4.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn take_along_dim(&self, index: &Tensor, dim: i64) -> Tensor {
        self.call("take_along_dim.default").with("indices", index).with("dim", dim).one()
    }

    /// Elements of the row-major whole at these places.
    #[track_caller]
    pub fn take(&self, index: &Tensor) -> Tensor {
        self.call("take.default").with("index", index).one()
    }

    /// Slices at an integer `index` along one dimension.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3, 2], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    /// let index = HostTensor::i32(&[2], &[2, 2]);
    /// let y = Device::cpu().compute([&x, &index], |_, [x, index]| x.index_select(0, &index))?;
    /// assert_eq!(y.to_string(), "[[4. 5.]\n [4. 5.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn index_select(&self, dim: i64, index: &Tensor) -> Tensor {
        match self.dim("index_select", dim) {
            Some(dim) => self.recorder.apply("index_select", &[self, index], |b, v| b.index_select(v[0], dim, v[1])),
            None => self.recorder.poison(self.ty.clone()),
        }
    }

    /// `length` elements of a dimension from `start` on, a 0-d integer that the program computes. The slice must lie inside.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[4], &[0.0, 1.0, 2.0, 3.0]);
    /// let start = HostTensor::i32(&[], &[1]);
    /// let y = Device::cpu().compute([&x, &start], |_, [x, start]| x.dynamic_slice(0, &start, 2))?;
    /// assert_eq!(y.to_string(), "[1. 2.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn dynamic_slice(&self, dim: i64, start: &Tensor, length: impl Into<Dim>) -> Tensor {
        let at = start.places(length.into());
        self.index_select(dim, &at)
    }

    /// With the elements of a dimension from `start` on, a 0-d integer that the program computes, replaced by `src`. The slice
    /// must lie inside.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[4], &[0.0, 1.0, 2.0, 3.0]);
    /// let start = HostTensor::i32(&[], &[1]);
    /// let src = HostTensor::f32(&[2], &[8.0, 9.0]);
    /// let y = Device::cpu().compute([&x, &start, &src], |_, [x, start, src]| x.dynamic_update_slice(0, &start, &src))?;
    /// assert_eq!(y.to_string(), "[0. 8. 9. 3.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn dynamic_update_slice(&self, dim: i64, start: &Tensor, src: &Tensor) -> Tensor {
        let Some(at) = self.dim("dynamic_update_slice", dim) else { return self.recorder.poison(self.ty.clone()) };
        let length = src.ty.shape.0.get(at).cloned().unwrap_or_default();
        self.index_copy(dim, &start.places(length), src)
    }

    /// `self, self + 1, ...`, so many, i32.
    #[track_caller]
    fn places(&self, length: Dim) -> Tensor {
        let start = self.as_index();
        let steps = self.recorder.apply("iota", &[], |b, _| b.iota(DType::I32, [length], 0));
        steps + start
    }

    /// 1 where a new last dimension, of size `classes`, counts to this integer index, else 0. An index that is no class gives zeros, where
    /// PyTorch raises.
    ///
    /// ```
    /// # use inductor::{DType, Device, HostTensor};
    /// let index = HostTensor::i32(&[2], &[2, 0]);
    /// let y = Device::cpu().compute([&index], |_, [index]| index.one_hot(3, DType::F32))?;
    /// assert_eq!(y.to_string(), "[[0. 0. 1.]\n [1. 0. 0.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn one_hot(&self, classes: impl Into<Dim>, dtype: DType) -> Tensor {
        let classes = classes.into();
        if self.dtype().is_float() {
            return self.fail("one_hot", format!("an index is an integer: {}", self.ty));
        }
        self.unary("one_hot", |b, x| b.one_hot(x, classes, dtype))
    }

    /// How often each number below `bins` occurs among these integers, i64; another number is an error of the run. PyTorch's `bincount`,
    /// whose result is as long as the largest number asks.
    #[track_caller]
    pub fn bincount(&self, bins: impl Into<Dim>) -> Tensor {
        let bins = bins.into();
        self.unary("bincount", |b, x| {
            let size = b.shape(x).numel();
            let (flat, ones) = (b.reshape(x, [size.clone()])?, b.full(DType::I64, 1.0, [size])?);
            let none = b.full(DType::I64, 0.0, [bins])?;
            b.index_add(none, 0, flat, ones)
        })
    }
}

/// What happens where [`Tensor::scatter_reduce`] writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScatterMode {
    /// Their sum.
    Sum,
    /// Their product.
    Prod,
    /// Their mean.
    Mean,
    /// The largest.
    Amax,
    /// The smallest.
    Amin,
}

/// Writing at indices, which are integers of any dtype. The tensor itself stays as it is.
impl Tensor {
    /// With `src` added at an integer `index` along one dimension.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[0.0, 0.0, 0.0]);
    /// let index = HostTensor::i32(&[3], &[0, 2, 0]);
    /// let src = HostTensor::f32(&[3], &[1.0, 2.0, 3.0]);
    /// let y = Device::cpu().compute([&x, &index, &src], |_, [x, index, src]| x.scatter_add(0, &index, &src))?;
    /// assert_eq!(y.to_string(), "[4. 0. 2.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn scatter_add(&self, dim: i64, index: &Tensor, src: &Tensor) -> Tensor {
        match self.dim("scatter_add", dim) {
            Some(dim) => self.recorder.apply("scatter_add", &[self, index, src], |b, v| b.scatter_add(v[0], v[1], v[2], dim)),
            None => self.recorder.poison(self.ty.clone()),
        }
    }

    /// With `src`, a tensor of the index's shape or a number, written at `index` along one dimension. Of several elements for one
    /// place, the last one stays.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[0.0, 0.0, 0.0]);
    /// let index = HostTensor::i32(&[1], &[2]);
    /// let y = Device::cpu().compute([&x, &index], |_, [x, index]| x.scatter(0, &index, 7.0))?;
    /// assert_eq!(y.to_string(), "[0. 0. 7.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn scatter(&self, dim: i64, index: &Tensor, src: impl Into<Operand>) -> Tensor {
        match src.into() {
            Operand::Tensor(src) => self.call("scatter.src").with("dim", dim).with("index", index).with("src", &src).one(),
            number => self.call("scatter.value").with("dim", dim).with("index", index).with("value", number).one(),
        }
    }

    /// With `src` combined with what is there at `index` along one dimension.
    #[track_caller]
    pub fn scatter_reduce(&self, dim: i64, index: &Tensor, src: &Tensor, mode: ScatterMode) -> Tensor {
        let mode = match mode {
            ScatterMode::Sum => "sum",
            ScatterMode::Prod => "prod",
            ScatterMode::Mean => "mean",
            ScatterMode::Amax => "amax",
            ScatterMode::Amin => "amin",
        };
        self.call("scatter_reduce.two").with("dim", dim).with("index", index).with("src", src).with("reduce", mode).one()
    }

    /// With slices of `src` added at `index`, a vector, along one dimension.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3, 2], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    /// let index = HostTensor::i32(&[2], &[0, 0]);
    /// let src = HostTensor::f32(&[2, 2], &[10.0, 10.0, 20.0, 20.0]);
    /// let y = Device::cpu().compute([&x, &index, &src], |_, [x, index, src]| x.index_add(0, &index, &src))?;
    /// assert_eq!(y.to_string(), "[[30. 31.]\n [ 2.  3.]\n [ 4.  5.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn index_add(&self, dim: i64, index: &Tensor, src: &Tensor) -> Tensor {
        self.call("index_add.default").with("dim", dim).with("index", index).with("source", src).one()
    }

    /// With slices of `src` written at `index`, a vector, along one dimension.
    #[track_caller]
    pub fn index_copy(&self, dim: i64, index: &Tensor, src: &Tensor) -> Tensor {
        self.call("index_copy.default").with("dim", dim).with("index", index).with("source", src).one()
    }

    /// With a number written into the slices at `index`, a vector, along one dimension.
    #[track_caller]
    pub fn index_fill(&self, dim: i64, index: &Tensor, x: f64) -> Tensor {
        self.call("index_fill.int_Scalar").with("dim", dim).with("index", index).with("value", x).one()
    }

    /// With `values` written at places given by an index for each of the first dimensions; indices broadcast. `accumulate` adds
    /// instead.
    #[track_caller]
    pub fn index_put(&self, indices: &[&Tensor], values: &Tensor, accumulate: bool) -> Tensor {
        self.call("index_put.default").with("indices", indices).with("values", values).with("accumulate", accumulate).one()
    }

    /// Elements at places given by an index for each of the first dimensions; indices broadcast. NumPy's `x[i, j]`.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3, 2], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    /// let rows = HostTensor::i32(&[2], &[0, 2]);
    /// let columns = HostTensor::i32(&[2], &[1, 0]);
    /// let y = Device::cpu().compute([&x, &rows, &columns], |_, [x, rows, columns]| x.index(&[&rows, &columns]))?;
    /// assert_eq!(y.to_string(), "[1. 4.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn index(&self, indices: &[&Tensor]) -> Tensor {
        self.call("index.Tensor").with("indices", indices).one()
    }

    /// With the elements where `mask` holds replaced by those of `src` in their order.
    #[track_caller]
    pub fn masked_scatter(&self, mask: &Tensor, src: &Tensor) -> Tensor {
        self.call("masked_scatter.default").with("mask", mask).with("source", src).one()
    }

    /// With elements `start..end` of a dimension replaced by `src`.
    #[track_caller]
    pub fn slice_scatter(&self, dim: i64, start: impl Into<Dim>, end: impl Into<Dim>, src: &Tensor) -> Tensor {
        self.call("slice_scatter.default").with("src", src).with("dim", dim).with("start", start.into()).with("end", end.into()).one()
    }

    /// With element `at` of a dimension replaced by `src`, which lacks that dimension.
    #[track_caller]
    pub fn select_scatter(&self, dim: i64, at: impl Into<Dim>, src: &Tensor) -> Tensor {
        self.call("select_scatter.default").with("src", src).with("dim", dim).with("index", at.into()).one()
    }
}
