//! Structure: shapes, and copies that only move elements.

use crate::frontend::tensor::Tensor;
use crate::types::{Dim, Dims, IntoDims, IntoShape, Shape};

/// Structure. Dimensions count from the end when negative.
impl Tensor {
    /// The same elements in row-major order under another shape; one size may be -1, and follows from the others.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.reshape((3, -1)))?;
    /// assert_eq!(y.to_string(), "[[1. 2.]\n [3. 4.]\n [5. 6.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn reshape(&self, shape: impl IntoShape) -> Tensor {
        let mut shape = shape.into_shape();
        let open: Vec<usize> = (0..shape.rank()).filter(|&i| shape[i].is(-1)).collect();
        if let [at] = open[..] {
            let known = Shape::new(shape.0.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, d)| d.clone()).collect());
            match self.ty.numel().try_div(&known.numel()) {
                Some(size) => shape.0[at] = size,
                None => return self.fail("reshape", format!("{} elements do not fill {shape}: {}", self.ty.numel(), self.ty)),
            }
        }
        self.unary("reshape", |b, x| b.reshape(x, shape))
    }

    /// Another name of [`Tensor::reshape`].
    #[track_caller]
    pub fn view(&self, shape: impl IntoShape) -> Tensor {
        self.reshape(shape)
    }

    /// Dimensions `from..=to` made one.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.flatten(0, -1))?;
    /// assert_eq!(y.to_string(), "[1. 2. 3. 4. 5. 6.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn flatten(&self, from: i64, to: i64) -> Tensor {
        let (Some(from), Some(to)) = (self.dim("flatten", from), self.dim("flatten", to)) else { return self.recorder.poison(self.ty.clone()) };
        if from > to {
            return self.fail("flatten", format!("dimensions {from} to {to} are out of order"));
        }
        let mut sizes = self.ty.shape.0.to_vec();
        let joined = Dim::product(&sizes.drain(from..=to).collect::<Vec<_>>());
        sizes.insert(from, joined);
        self.unary("reshape", |b, x| b.reshape(x, Shape::new(sizes)))
    }

    /// Dimensions reordered: result dimension `i` is dimension `order[i]`.
    #[track_caller]
    pub fn permute(&self, order: impl IntoDims) -> Tensor {
        let Dims::Of(order) = order.into_dims() else { return self.fail("permute", "takes the dimensions in their new order") };
        let at: Vec<usize> = order.iter().filter_map(|&d| self.ty.shape.dim_index(d).ok()).collect();
        let mut sorted = at.clone();
        sorted.sort_unstable();
        if at.len() != order.len() || sorted != (0..self.rank()).collect::<Vec<_>>() {
            return self.fail("permute", format!("{order:?} does not permute the dimensions of {}", self.ty));
        }
        self.unary("permute", |b, x| b.permute(x, &at))
    }

    /// Two dimensions exchanged.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.transpose(0, 1))?;
    /// assert_eq!(y.to_string(), "[[1. 4.]\n [2. 5.]\n [3. 6.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn transpose(&self, a: i64, b: i64) -> Tensor {
        let (Some(i), Some(j)) = (self.dim("transpose", a), self.dim("transpose", b)) else { return self.recorder.poison(self.ty.clone()) };
        let mut order: Vec<usize> = (0..self.rank()).collect();
        order.swap(i, j);
        self.permute(order)
    }

    /// Repeated along new and size-one dimensions.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.sum_keepdim(1).broadcast_to((2, 2)))?;
    /// assert_eq!(y.to_string(), "[[ 6.  6.]\n [15. 15.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn broadcast_to(&self, shape: impl IntoShape) -> Tensor {
        let shape = shape.into_shape();
        self.unary("expand", |b, x| b.broadcast_to(x, &shape))
    }

    /// A new dimension of size one; -1 puts it last.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.unsqueeze(0))?;
    /// assert_eq!(y.to_string(), "[[[1. 2. 3.]\n  [4. 5. 6.]]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn unsqueeze(&self, dim: i64) -> Tensor {
        let at = if dim < 0 { dim + self.rank() as i64 + 1 } else { dim };
        if !(0..=self.rank() as i64).contains(&at) {
            return self.fail("unsqueeze", format!("dimension {dim} is out of range for {}", self.ty));
        }
        let mut shape = self.ty.shape.clone();
        shape.0.insert(at as usize, Dim::int(1));
        self.unary("reshape", |b, x| b.reshape(x, shape))
    }

    /// Without those of the dimensions that have size one: `()` for all of them.
    #[track_caller]
    pub fn squeeze(&self, dims: impl IntoDims) -> Tensor {
        let Some(dims) = self.dims("squeeze", dims.into_dims()) else { return self.recorder.poison(self.ty.clone()) };
        let kept = |i: &usize| !dims.contains(i) || !self.ty.shape[*i].is(1);
        let shape = Shape::new((0..self.rank()).filter(kept).map(|i| self.ty.shape[i].clone()).collect());
        self.unary("reshape", |b, x| b.reshape(x, shape))
    }

    /// Elements `start..end` of a dimension, both counted from the end when negative. What is not there is an error: PyTorch takes
    /// less instead.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.slice(1, 1, 3) + x.slice(-1, -3, -1))?;
    /// assert_eq!(y.to_string(), "[[ 3.  5.]\n [ 9. 11.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn slice(&self, dim: i64, start: impl Into<Dim>, end: impl Into<Dim>) -> Tensor {
        self.slice_step(dim, start, end, 1)
    }

    /// Every `step`-th element of `start..end` of a dimension.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.slice_step(1, 0, 3, 2))?;
    /// assert_eq!(y.to_string(), "[[1. 3.]\n [4. 6.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn slice_step(&self, dim: i64, start: impl Into<Dim>, end: impl Into<Dim>, step: i64) -> Tensor {
        let (start, end) = (start.into(), end.into());
        self.along("slice", dim, |b, x, dim| {
            let size = b.shape(x)[dim].clone();
            b.slice(x, dim, from_start(start, &size), from_start(end, &size), step)
        })
    }
}

/// A place that counts from the end when it is negative, counted from the start.
pub(super) fn from_start(at: Dim, size: &Dim) -> Dim {
    if at.as_int().is_some_and(|at| at < 0) { size.clone() + at } else { at }
}

/// Dimensions moved and repeated.
impl Tensor {
    /// The last two dimensions exchanged.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.mt())?;
    /// assert_eq!(y.to_string(), "[[1. 4.]\n [2. 5.]\n [3. 6.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn mt(&self) -> Tensor {
        self.transpose(-2, -1)
    }

    /// The transpose of a matrix; a tensor of at most one dimension stays.
    #[track_caller]
    pub fn t(&self) -> Tensor {
        self.call("t.default").one()
    }

    /// Another name of [`Tensor::transpose`].
    #[track_caller]
    pub fn swap_dims(&self, a: i64, b: i64) -> Tensor {
        self.transpose(a, b)
    }

    /// Dimensions moved from `source` to `destination`; the others keep their order.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.movedim(0, -1))?;
    /// assert_eq!(y.to_string(), "[[1. 4.]\n [2. 5.]\n [3. 6.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn movedim(&self, source: impl IntoDims, destination: impl IntoDims) -> Tensor {
        self.call("movedim.intlist").with("source", source.into_dims()).with("destination", destination.into_dims()).one()
    }

    /// One dimension made several; one size may be -1, and follows from the others.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.flatten(0, 1).unflatten(0, (3, 2)))?;
    /// assert_eq!(y.to_string(), "[[1. 2.]\n [3. 4.]\n [5. 6.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn unflatten(&self, dim: i64, sizes: impl IntoShape) -> Tensor {
        self.call("unflatten.int").with("dim", dim).with("sizes", sizes.into_shape()).one()
    }

    /// As [`Tensor::broadcast_to`], where a size of -1 keeps a dimension's size.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.narrow(0, 0, 1).expand((2, -1)))?;
    /// assert_eq!(y.to_string(), "[[1. 2. 3.]\n [1. 2. 3.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn expand(&self, shape: impl IntoShape) -> Tensor {
        self.call("expand.default").with("size", shape.into_shape()).one()
    }

    /// Broadcast to the shape of another tensor.
    #[track_caller]
    pub fn expand_as(&self, other: &Tensor) -> Tensor {
        self.call("expand_as.default").with("other", other).one()
    }

    /// The whole repeated so many times along each dimension; further counts in front make new dimensions.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.repeat((1, 2)))?;
    /// assert_eq!(y.to_string(), "[[1. 2. 3. 1. 2. 3.]\n [4. 5. 6. 4. 5. 6.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn repeat(&self, counts: impl IntoShape) -> Tensor {
        self.call("repeat.default").with("repeats", counts.into_shape()).one()
    }

    /// As [`Tensor::repeat`], where missing counts are one.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.select(0, 0).tile(2))?;
    /// assert_eq!(y.to_string(), "[1. 2. 3. 1. 2. 3.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn tile(&self, counts: impl IntoShape) -> Tensor {
        self.call("tile.default").with("dims", counts.into_shape()).one()
    }

    /// Each element of a dimension repeated `n` times.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.select(0, 0).repeat_interleave(2, 0))?;
    /// assert_eq!(y.to_string(), "[1. 1. 2. 2. 3. 3.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn repeat_interleave(&self, n: i64, dim: i64) -> Tensor {
        self.call("repeat_interleave.self_int").with("repeats", n).with("dim", dim).one()
    }

    /// Elements moved along dimensions by so many places, around the end.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[1.0, 2.0, 3.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.roll(1, 0))?;
    /// assert_eq!(y.to_string(), "[3. 1. 2.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn roll(&self, shifts: impl IntoDims, dims: impl IntoDims) -> Tensor {
        let dims = match dims.into_dims() {
            Dims::All => vec![],
            Dims::Of(list) => list,
        };
        self.call("roll.default").with("shifts", shifts.into_dims()).with("dims", dims).one()
    }

    /// The order along dimensions reversed.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.flip(1))?;
    /// assert_eq!(y.to_string(), "[[3. 2. 1.]\n [6. 5. 4.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn flip(&self, dims: impl IntoDims) -> Tensor {
        self.over("flip", dims.into_dims(), |b, x, dims| b.flip(x, dims))
    }

    /// Turned by `k` quarters in the plane of two dimensions.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.rot90(1, [0, 1]))?;
    /// assert_eq!(y.to_string(), "[[3. 6.]\n [2. 5.]\n [1. 4.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn rot90(&self, k: i64, dims: [i64; 2]) -> Tensor {
        self.call("rot90.default").with("k", k).with("dims", dims.to_vec()).one()
    }

    /// The elements on and below diagonal `offset` of the last two dimensions, else 0.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.tril(0))?;
    /// assert_eq!(y.to_string(), "[[1. 0. 0.]\n [4. 5. 0.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn tril(&self, offset: i64) -> Tensor {
        self.unary("tril", |b, x| b.tril(x, offset))
    }

    /// The elements on and above diagonal `offset` of the last two dimensions, else 0.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.triu(1))?;
    /// assert_eq!(y.to_string(), "[[0. 2. 3.]\n [0. 0. 6.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn triu(&self, offset: i64) -> Tensor {
        self.unary("triu", |b, x| b.triu(x, offset))
    }

    /// Diagonal `offset` of two dimensions, as the last dimension.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.diagonal(0, 0, 1))?;
    /// assert_eq!(y.to_string(), "[1. 5.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn diagonal(&self, offset: i64, dim1: i64, dim2: i64) -> Tensor {
        self.call("diagonal.default").with("offset", offset).with("dim1", dim1).with("dim2", dim2).one()
    }

    /// The diagonal `offset` of a matrix, or a matrix with this vector there.
    #[track_caller]
    pub fn diag(&self, offset: i64) -> Tensor {
        self.call("diag.default").with("diagonal", offset).one()
    }

    /// Matrices with the last dimension on their diagonal `offset`, else 0.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.select(0, 0).diag_embed(0))?;
    /// assert_eq!(y.to_string(), "[[1. 0. 0.]\n [0. 2. 0.]\n [0. 0. 3.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn diag_embed(&self, offset: i64) -> Tensor {
        self.call("diag_embed.default").with("offset", offset).one()
    }

    /// The sum of a matrix's diagonal.
    #[track_caller]
    pub fn trace(&self) -> Tensor {
        self.call("trace.default").one()
    }

    /// Windows of `size` elements along a dimension, `step` apart, as a new last dimension.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.select(0, 0).unfold(0, 2, 1))?;
    /// assert_eq!(y.to_string(), "[[1. 2.]\n [2. 3.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn unfold(&self, dim: i64, size: i64, step: i64) -> Tensor {
        self.call("unfold.default").with("dimension", dim).with("size", size).with("step", step).one()
    }

    /// More elements around dimensions: pairs of counts before and after, the last dimension first, as in PyTorch. A number is a
    /// [`PadMode::Constant`], for which negative counts crop.
    ///
    /// ```
    /// use inductor::{DType, PadMode, trace};
    /// let traced = trace("pad", |t| {
    ///     let x = t.input("x", DType::F32, (1, 3, 8, 8));
    ///     Ok(vec![x.pad([1, 1], 0.0), x.pad([2, 2, 2, 2], PadMode::Reflect)])
    /// })?;
    /// let types: Vec<String> = traced.graph.outputs.iter().map(|o| traced.graph.ty(o.value).to_string()).collect();
    /// assert_eq!(types, ["f32[1, 3, 8, 10]", "f32[1, 3, 12, 12]"]);
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn pad(&self, counts: impl IntoDims, mode: impl Into<PadMode>) -> Tensor {
        let (mode, value) = match mode.into() {
            PadMode::Constant(x) => ("constant", Some(x)),
            PadMode::Reflect => ("reflect", None),
            PadMode::Replicate => ("replicate", None),
            PadMode::Circular => ("circular", None),
        };
        self.call("pad.default").with("pad", counts.into_dims()).with("mode", mode).with("value", value).one()
    }
}

/// What [`Tensor::pad`] puts around a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PadMode {
    /// A number.
    Constant(f64),
    /// The elements mirrored at the edge, which is not repeated.
    Reflect,
    /// The elements at the edge.
    Replicate,
    /// The elements at the other end.
    Circular,
}

impl From<f64> for PadMode {
    fn from(x: f64) -> PadMode {
        PadMode::Constant(x)
    }
}
