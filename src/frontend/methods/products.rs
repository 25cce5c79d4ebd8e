//! Matrix products and what is built of them.

use crate::frontend::call::Call;
use crate::frontend::tensor::Tensor;
use crate::graph::{Builder, Value};
use crate::ops;
use crate::types::{Dim, Dims, IntoDims, Shape, TensorType, broadcast_shapes};
use std::borrow::Borrow;

/// Products.
impl Tensor {
    /// Matrix product of the last two dimensions; leading dimensions broadcast. A vector is a row on the left and a column on the
    /// right, and its dimension is dropped from the result, as in PyTorch.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    /// let y = HostTensor::f32(&[2, 2], &[1.0, 0.0, 2.0, 1.0]);
    /// let z = Device::cpu().compute([&x, &y], |_, [x, y]| x.matmul(&y))?;
    /// assert_eq!(z.to_string(), "[[ 5.  2.]\n [11.  4.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn matmul(&self, other: &Tensor) -> Tensor {
        match (self.rank(), other.rank()) {
            (1, 1) => self.dot(other),
            (1, n) if n > 1 => self.unsqueeze(0).product(other, false).squeeze(-2),
            (n, 1) if n > 1 => self.product(&other.unsqueeze(1), false).squeeze(-1),
            _ => self.product(other, false),
        }
    }

    /// As [`Tensor::matmul`], with the last two dimensions of `other` exchanged, for free: `x.matmul_t(&weight)` is a linear
    /// layer whose weight is `[out, in]`.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    /// let y = HostTensor::f32(&[2, 2], &[1.0, 0.0, 2.0, 1.0]);
    /// let z = Device::cpu().compute([&x, &y], |_, [x, y]| x.matmul_t(&y))?;
    /// assert_eq!(z.to_string(), "[[ 1.  4.]\n [ 3. 10.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn matmul_t(&self, other: &Tensor) -> Tensor {
        self.product(other, true)
    }

    /// `x weight^T + bias` over the last dimension, with a weight of `[out, in]`.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[1, 2], &[1.0, 2.0]);
    /// let weight = HostTensor::f32(&[2, 2], &[1.0, 0.0, 2.0, 1.0]);
    /// let bias = HostTensor::f32(&[2], &[10.0, 20.0]);
    /// let y = Device::cpu().compute([&x, &weight, &bias], |_, [x, weight, bias]| x.linear(&weight, Some(&bias)))?;
    /// assert_eq!(y.to_string(), "[[11. 24.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn linear(&self, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
        let operands: Vec<&Tensor> = [self, weight].into_iter().chain(bias).collect();
        self.recorder.apply("linear", &operands, |b, v| b.linear(v[0], v[1], v.get(2).copied()))
    }

    /// Product of two matrices.
    #[track_caller]
    pub fn mm(&self, other: &Tensor) -> Tensor {
        self.call("mm.default").with("mat2", other).one()
    }

    /// Products of two stacks of as many matrices.
    #[track_caller]
    pub fn bmm(&self, other: &Tensor) -> Tensor {
        self.call("bmm.default").with("mat2", other).one()
    }

    /// Product of a matrix and a vector.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    /// let y = HostTensor::f32(&[2], &[1.0, 10.0]);
    /// let z = Device::cpu().compute([&x, &y], |_, [x, y]| x.mv(&y))?;
    /// assert_eq!(z.to_string(), "[21. 43.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn mv(&self, vector: &Tensor) -> Tensor {
        self.call("mv.default").with("vec", vector).one()
    }

    /// Product of two vectors: the sum of their elements' products.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2], &[1.0, 2.0]);
    /// let y = HostTensor::f32(&[2], &[3.0, 4.0]);
    /// let z = Device::cpu().compute([&x, &y], |_, [x, y]| x.dot(&y))?;
    /// assert_eq!(z.to_string(), "11.0");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn dot(&self, other: &Tensor) -> Tensor {
        if self.rank() != 1 || self.ty != other.ty {
            return self.fail("dot", format!("takes two vectors of one type: {} x {}", self.ty, other.ty));
        }
        (self * other).sum(0)
    }

    /// The products of each element of one vector with each of another.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2], &[1.0, 2.0]);
    /// let y = HostTensor::f32(&[2], &[3.0, 4.0]);
    /// let z = Device::cpu().compute([&x, &y], |_, [x, y]| x.outer(&y))?;
    /// assert_eq!(z.to_string(), "[[3. 4.]\n [6. 8.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn outer(&self, other: &Tensor) -> Tensor {
        self.call("outer.default").with("vec2", other).one()
    }

    /// `beta * self + alpha * a b`, for matrices.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    /// let y = HostTensor::f32(&[2, 2], &[1.0, 0.0, 2.0, 1.0]);
    /// let z = Device::cpu().compute([&x, &y], |_, [x, y]| x.addmm(&y, &y, 1.0, 0.5))?;
    /// assert_eq!(z.to_string(), "[[1.5 2. ]\n [5.  4.5]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn addmm(&self, a: &Tensor, b: &Tensor, beta: f64, alpha: f64) -> Tensor {
        self.call("addmm.default").with("mat1", a).with("mat2", b).with("beta", beta).with("alpha", alpha).one()
    }

    /// `beta * self + alpha * a b` of batches of matrices.
    #[track_caller]
    pub fn baddbmm(&self, a: &Tensor, b: &Tensor, beta: f64, alpha: f64) -> Tensor {
        self.call("baddbmm.default").with("batch1", a).with("batch2", b).with("beta", beta).with("alpha", alpha).one()
    }

    /// `beta * self + alpha * a v` of a matrix and a vector.
    #[track_caller]
    pub fn addmv(&self, a: &Tensor, v: &Tensor, beta: f64, alpha: f64) -> Tensor {
        self.call("addmv.default").with("mat", a).with("vec", v).with("beta", beta).with("alpha", alpha).one()
    }

    /// Sums of products by Einstein's convention.
    ///
    /// ```
    /// use inductor::{DType, Tensor, trace};
    /// let traced = trace("scores", |t| {
    ///     let (q, k) = (t.input("q", DType::F32, (2, 4, 5, 8)), t.input("k", DType::F32, (2, 4, 7, 8)));
    ///     Ok(vec![Tensor::einsum("bhqd,bhkd->bhqk", &[&q, &k])])
    /// })?;
    /// assert_eq!(traced.graph.ty(traced.graph.outputs[0].value).to_string(), "f32[2, 4, 5, 7]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn einsum<T: Borrow<Tensor>>(equation: &str, operands: &[T]) -> Tensor {
        match Tensor::first_of("einsum", operands) {
            Ok(first) => Call::new(&first.recorder, "einsum.default").with("equation", equation).with("tensors", operands).one(),
            Err(stray) => stray,
        }
    }

    /// Sums of products over dimensions of the one and as many of the other.
    #[track_caller]
    pub fn tensordot(&self, other: &Tensor, dims: impl IntoDims, dims_other: impl IntoDims) -> Tensor {
        let (Dims::Of(own), Dims::Of(others)) = (dims.into_dims(), dims_other.into_dims()) else {
            return self.fail("tensordot", "takes the dimensions that are summed over");
        };
        self.call("tensordot.default").with("other", other).with("dims_self", own).with("dims_other", others).one()
    }

    /// Kronecker's product.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2], &[1.0, 2.0]);
    /// let y = HostTensor::f32(&[2], &[3.0, 4.0]);
    /// let z = Device::cpu().compute([&x, &y], |_, [x, y]| x.kron(&y))?;
    /// assert_eq!(z.to_string(), "[3. 4. 6. 8.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn kron(&self, other: &Tensor) -> Tensor {
        self.call("kron.default").with("other", other).one()
    }

    /// Cross products of vectors of three elements along one dimension.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[1.0, 0.0, 0.0]);
    /// let y = HostTensor::f32(&[3], &[0.0, 1.0, 0.0]);
    /// let z = Device::cpu().compute([&x, &y], |_, [x, y]| x.cross(&y, 0))?;
    /// assert_eq!(z.to_string(), "[0. 0. 1.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn cross(&self, other: &Tensor, dim: i64) -> Tensor {
        self.call("cross.default").with("other", other).with("dim", dim).one()
    }

    /// `x W y + b` for each of the outputs of `weight`, `[out, x, y]`.
    #[track_caller]
    pub fn bilinear(&self, other: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
        self.call_as("bilinear.default", "input1").with("input2", other).with("weight", weight).with("bias", bias).one()
    }

    /// The distances (of order `p`) of each row of the one to each row of the other.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[1, 2], &[0.0, 0.0]);
    /// let y = HostTensor::f32(&[2, 2], &[3.0, 4.0, 0.0, 1.0]);
    /// let z = Device::cpu().compute([&x, &y], |_, [x, y]| x.cdist(&y, 2.0))?;
    /// assert_eq!(z.to_string(), "[[5. 1.]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn cdist(&self, other: &Tensor, p: f64) -> Tensor {
        self.call_as("cdist.default", "x1").with("x2", other).with("p", p).one()
    }

    #[track_caller]
    fn product(&self, other: &Tensor, transpose_b: bool) -> Tensor {
        self.recorder.apply("matmul", &[self, other], |b, v| matmul(b, v[0], v[1], transpose_b))
    }
}

/// Checks before any reshaping, so that the message shows the user's types.
fn matmul(b: &mut Builder, x: Value, y: Value, transpose_b: bool) -> Result<Value, String> {
    let (tx, ty) = (b.ty(x).clone(), b.ty(y).clone());
    let (rx, ry) = (tx.shape.rank(), ty.shape.rank());
    if rx < 2 || ry < 2 {
        return Err("operands have at least two dimensions".into());
    }
    if tx.dtype != ty.dtype {
        return Err("operand dtypes differ".into());
    }
    let (inner, outer) = if transpose_b { (ry - 1, ry - 2) } else { (ry - 2, ry - 1) };
    if tx.shape[rx - 1] != ty.shape[inner] {
        return Err("inner dimensions differ".into());
    }
    let op = ops::Matmul { transpose_a: false, transpose_b };
    if ry == 2 && rx > 2 {
        // One matrix for all of the batch: a single product over all rows.
        let rows = Dim::product(&tx.shape.0[..rx - 1]);
        let flat = b.reshape(x, [rows, tx.shape[rx - 1].clone()])?;
        let out = b.op(op, &[flat, y])?;
        let mut shape = tx.shape.clone();
        shape.0[rx - 1] = ty.shape[outer].clone();
        return b.reshape(out, shape);
    }
    let batch = broadcast_shapes(&Shape::new(tx.shape.0[..rx - 2].to_vec()), &Shape::new(ty.shape.0[..ry - 2].to_vec()))?;
    let with_batch = |t: &TensorType| Shape::new([&batch.0[..], &t.shape.0[t.shape.rank() - 2..]].concat());
    let (x, y) = (b.broadcast_to(x, &with_batch(&tx))?, b.broadcast_to(y, &with_batch(&ty))?);
    b.op(op, &[x, y])
}
