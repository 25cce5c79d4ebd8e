//! Tensors taken apart and put together.

use super::shapes::from_start;
use crate::frontend::call::Call;
use crate::frontend::tensor::Tensor;
use crate::types::{Dim, IntoShape};
use std::borrow::Borrow;

/// Tensors taken apart and put together.
impl Tensor {
    /// Elements `start..start + length` of a dimension; a negative start counts from the end.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.narrow(1, 1, 2))?;
    /// assert_eq!(y.to_string(), "[[2. 3.]\n [5. 6.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn narrow(&self, dim: i64, start: impl Into<Dim>, length: impl Into<Dim>) -> Tensor {
        let (start, length) = (start.into(), length.into());
        self.along("narrow", dim, |b, x, dim| {
            let start = from_start(start, &b.shape(x)[dim]);
            b.slice(x, dim, start.clone(), start + length, 1)
        })
    }

    /// Element `at` of one dimension, which is dropped; a negative one counts from the end.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.select(1, -1))?;
    /// assert_eq!(y.to_string(), "[3. 6.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn select(&self, dim: i64, at: impl Into<Dim>) -> Tensor {
        let at = at.into();
        match (at.as_int(), self.constant_size(dim)) {
            (Some(i), Some(size)) if !(-size..size).contains(&i) => {
                self.fail("select", format!("there is no element {i} in dimension {dim} of size {size}: {}", self.ty))
            }
            _ => self.call("select.int").with("dim", dim).with("index", at).one(),
        }
    }

    /// `n` parts of a dimension, equal but for the last one, which may be smaller; fewer where there are not so many.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.chunk(3, 1)[2].clone())?;
    /// assert_eq!(y.to_string(), "[[3.]\n [6.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn chunk(&self, n: usize, dim: i64) -> Vec<Tensor> {
        let count = match self.constant_size(dim) {
            Some(size) if n > 0 && size > 0 => (size as u64).div_ceil((size as u64).div_ceil(n as u64)) as usize,
            _ => n.max(1),
        };
        self.call("chunk.default").with("chunks", n as i64).with("dim", dim).many(count)
    }

    /// Parts of `size` elements of a dimension; the last one may be smaller.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.split(2, 1)[1].clone())?;
    /// assert_eq!(y.to_string(), "[[3.]\n [6.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn split(&self, size: i64, dim: i64) -> Vec<Tensor> {
        let count = match self.constant_size(dim) {
            Some(n) if size > 0 => ((n as u64).div_ceil(size as u64) as usize).max(1),
            _ => 1,
        };
        self.call("split.Tensor").with("split_size", size).with("dim", dim).many(count)
    }

    /// Parts of these sizes of a dimension, which they fill.
    #[track_caller]
    pub fn split_with_sizes(&self, sizes: impl IntoShape, dim: i64) -> Vec<Tensor> {
        let sizes = sizes.into_shape();
        let count = sizes.rank();
        self.call("split_with_sizes.default").with("split_sizes", sizes).with("dim", dim).many(count)
    }

    /// The slices of a dimension, which is dropped.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.unbind(0)[1].clone())?;
    /// assert_eq!(y.to_string(), "[4. 5. 6.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn unbind(&self, dim: i64) -> Vec<Tensor> {
        let count = self.constant_size(dim).unwrap_or(1);
        self.call("unbind.int").with("dim", dim).many(count as usize)
    }

    /// The size of a dimension, where that is there and a constant.
    pub(in crate::frontend) fn constant_size(&self, dim: i64) -> Option<i64> {
        self.ty.shape.dim_index(dim).ok().and_then(|d| self.ty.shape[d].as_int())
    }

    /// This and others one after the other along one dimension.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.concat(&[&x], 0))?;
    /// assert_eq!(y.to_string(), "[[1. 2. 3.]\n [4. 5. 6.]\n [1. 2. 3.]\n [4. 5. 6.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn concat(&self, others: &[&Tensor], dim: i64) -> Tensor {
        let operands: Vec<&Tensor> = [self].into_iter().chain(others.iter().copied()).collect();
        Tensor::cat(&operands, dim)
    }

    /// Tensors one after the other along one dimension; there is at least one.
    ///
    /// ```
    /// use inductor::{DType, Tensor, trace};
    /// let traced = trace("join", |t| {
    ///     let (x, y) = (t.input("x", DType::F32, (2, 3)), t.input("y", DType::F32, (2, 5)));
    ///     Ok(vec![Tensor::cat(&[&x, &y], 1), Tensor::stack(&[&x, &x], 0)])
    /// })?;
    /// let types: Vec<String> = traced.graph.outputs.iter().map(|o| traced.graph.ty(o.value).to_string()).collect();
    /// assert_eq!(types, ["f32[2, 8]", "f32[2, 2, 3]"]);
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn cat<T: Borrow<Tensor>>(parts: &[T], dim: i64) -> Tensor {
        let first = match Tensor::first_of("cat", parts) {
            Ok(first) => first,
            Err(stray) => return stray,
        };
        let Some(dim) = first.dim("cat", dim) else { return first.recorder.poison(first.ty.clone()) };
        let operands: Vec<&Tensor> = parts.iter().map(Borrow::borrow).collect();
        first.recorder.apply("cat", &operands, |b, v| b.concat(v, dim))
    }

    /// Tensors of one shape along a new dimension; there is at least one.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor, Tensor};
    /// let x = HostTensor::f32(&[2], &[1.0, 2.0]);
    /// let y = HostTensor::f32(&[2], &[3.0, 4.0]);
    /// let z = Device::cpu().compute([&x, &y], |_, [x, y]| Tensor::stack(&[&x, &y], 0))?;
    /// assert_eq!(z.to_string(), "[[1. 2.]\n [3. 4.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn stack<T: Borrow<Tensor>>(parts: &[T], dim: i64) -> Tensor {
        let first = match Tensor::first_of("stack", parts) {
            Ok(first) => first,
            Err(stray) => return stray,
        };
        let at = if dim < 0 { dim + first.rank() as i64 + 1 } else { dim };
        if !(0..=first.rank() as i64).contains(&at) {
            return first.fail("stack", format!("dimension {dim} is out of range for a result of {} dimensions", first.rank() + 1));
        }
        let operands: Vec<&Tensor> = parts.iter().map(Borrow::borrow).collect();
        first.recorder.apply("stack", &operands, |b, v| b.stack(v, at as usize))
    }

    /// Tensors one after the other along dimension 1, or along dimension 0 where there is no other.
    #[track_caller]
    pub fn hstack<T: Borrow<Tensor>>(parts: &[T]) -> Tensor {
        match Tensor::first_of("hstack", parts) {
            Ok(first) => Call::new(&first.recorder, "hstack.default").with("tensors", parts).one(),
            Err(stray) => stray,
        }
    }

    /// Tensors, of at least two dimensions, one after the other along dimension 0.
    #[track_caller]
    pub fn vstack<T: Borrow<Tensor>>(parts: &[T]) -> Tensor {
        match Tensor::first_of("vstack", parts) {
            Ok(first) => Call::new(&first.recorder, "vstack.default").with("tensors", parts).one(),
            Err(stray) => stray,
        }
    }

    /// Vectors as coordinates of a grid, indexed as a matrix (`indexing="ij"`).
    #[track_caller]
    pub fn meshgrid<T: Borrow<Tensor>>(vectors: &[T]) -> Vec<Tensor> {
        match vectors.first() {
            Some(first) => {
                Call::new(&first.borrow().recorder, "meshgrid.indexing").with("tensors", vectors).with("indexing", "ij").many(vectors.len())
            }
            None => vec![],
        }
    }

    /// The first of several tensors; of none, a handle that carries the mistake to whatever takes it.
    #[track_caller]
    pub(in crate::frontend) fn first_of<'a, T: Borrow<Tensor>>(op: &str, parts: &'a [T]) -> Result<&'a Tensor, Tensor> {
        match parts.first() {
            Some(first) => Ok(first.borrow()),
            None => Err(Tensor::stray(format!("{op}: takes at least one tensor"))),
        }
    }
}
