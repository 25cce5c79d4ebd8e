//! Operators as methods of [`Tensor`]. Each records one op, or the few that its words say; the op's page in
//! [`crate::ops`] has formula, dtypes and gradient.

use super::tensor::{Operand, Tensor};
use crate::graph::{Builder, Value};
use crate::ops::{self, ReduceKind};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, IntoShape, Shape, TensorType, broadcast_shapes};

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident = $function:ident;)+) => {
        /// Functions of one element.
        impl Tensor {
            $($(#[$doc])* #[track_caller] pub fn $name(&self) -> Tensor { self.pointwise(ScalarFn::$function, &[]) })+
        }
    };
}
unary! {
    /// `|x|`.
    abs = Abs;
    /// -1, 0 or 1.
    sign = Sign;
    /// Square root.
    sqrt = Sqrt;
    /// `1 / sqrt(x)`.
    rsqrt = Rsqrt;
    /// `e^x`.
    exp = Exp;
    /// `2^x`.
    exp2 = Exp2;
    /// `e^x - 1`, exact near zero.
    expm1 = Expm1;
    /// Natural logarithm.
    log = Log;
    /// Binary logarithm.
    log2 = Log2;
    /// `log(1 + x)`, exact near zero.
    log1p = Log1p;
    /// Sine.
    sin = Sin;
    /// Cosine.
    cos = Cos;
    /// Tangent.
    tan = Tan;
    /// Inverse sine.
    asin = Asin;
    /// Inverse cosine.
    acos = Acos;
    /// Inverse tangent.
    atan = Atan;
    /// Hyperbolic sine.
    sinh = Sinh;
    /// Hyperbolic cosine.
    cosh = Cosh;
    /// Hyperbolic tangent.
    tanh = Tanh;
    /// Error function.
    erf = Erf;
    /// `1 / (1 + e^-x)`.
    sigmoid = Sigmoid;
    /// Largest integer below.
    floor = Floor;
    /// Smallest integer above.
    ceil = Ceil;
    /// Nearest integer, ties to even.
    round = Round;
    /// Toward zero.
    trunc = Trunc;
    /// `1 / x`.
    reciprocal = Reciprocal;
    /// `max(x, 0)`.
    relu = Relu;
    /// Whether it is NaN.
    is_nan = IsNan;
    /// Whether it is an infinity.
    is_inf = IsInf;
    /// Whether it is false.
    logical_not = LogicalNot;
    /// All bits inverted.
    bitwise_not = BitwiseNot;
}

macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident = $function:ident;)+) => {
        /// Functions of two elements; operands broadcast, numbers take the tensor's dtype.
        impl Tensor {
            $($(#[$doc])* #[track_caller] pub fn $name(&self, other: impl Into<Operand>) -> Tensor {
                self.pointwise(ScalarFn::$function, &[other.into()])
            })+
        }
    };
}
binary! {
    /// Quotient toward minus infinity.
    floor_div = FloorDiv;
    /// Remainder with the divisor's sign.
    remainder = Remainder;
    /// Remainder with the dividend's sign.
    fmod = Fmod;
    /// Power.
    pow = Pow;
    /// Larger of both; NaN wins.
    maximum = Maximum;
    /// Smaller of both; NaN wins.
    minimum = Minimum;
    /// Angle of the point (`other`, `self`).
    atan2 = Atan2;
    /// Whether equal.
    eq = Eq;
    /// Whether not equal.
    ne = Ne;
    /// Whether less.
    lt = Lt;
    /// Whether less or equal.
    le = Le;
    /// Whether greater.
    gt = Gt;
    /// Whether greater or equal.
    ge = Ge;
    /// Whether both hold.
    logical_and = LogicalAnd;
    /// Whether any holds.
    logical_or = LogicalOr;
    /// Whether exactly one holds.
    logical_xor = LogicalXor;
    /// Bits shifted up.
    shift_left = ShiftLeft;
    /// Bits shifted down.
    shift_right = ShiftRight;
}

/// Selection and conversion.
impl Tensor {
    /// `if self { x } else { y }`, element by element; `self` is bool. At least one of both is a tensor.
    #[track_caller]
    pub fn where_(&self, x: impl Into<Operand>, y: impl Into<Operand>) -> Tensor {
        let (x, y) = (x.into(), y.into());
        if !matches!((&x, &y), (Operand::Tensor(_), _) | (_, Operand::Tensor(_))) {
            return self.fail("where", "at least one of both values is a tensor");
        }
        self.pointwise(ScalarFn::Where, &[x, y])
    }

    /// `x` where `mask` holds.
    #[track_caller]
    pub fn masked_fill(&self, mask: &Tensor, x: f64) -> Tensor {
        mask.where_(x, self)
    }

    /// `min(max(x, low), high)`.
    #[track_caller]
    pub fn clamp(&self, low: f64, high: f64) -> Tensor {
        self.pointwise(ScalarFn::Clamp, &[low.into(), high.into()])
    }

    /// Converted to `dtype`.
    #[track_caller]
    pub fn cast(&self, dtype: DType) -> Tensor {
        self.unary("cast", |b, x| b.cast(x, dtype))
    }

    /// The same value as a constant to derivatives: no gradient passes. What reaches the loss only through detached values is
    /// not trained, so that parts of a model can be held still, or a target made of the model itself.
    ///
    /// ```
    /// use inductor::{Config, DType, Device, HostTensor, compile_vjp, trace};
    /// let traced = trace("square", |t| {
    ///     let x = t.input("x", DType::F32, 3);
    ///     Ok((&x * x.detach()).sum_all())
    /// })?;
    /// let step = compile_vjp(&traced, &Device::cpu(), &Config::default())?;
    /// let result = step.run(&mut step.init(0)?, [&HostTensor::f32(&[3], &[1.0, 2.0, 3.0])])?;
    /// assert_eq!(result.gradients()?[0].1.to_f32(), [1.0, 2.0, 3.0]);
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn detach(&self) -> Tensor {
        self.unary("detach", |b, x| b.op(ops::Detach {}, &[x]))
    }

    /// `x * x`.
    #[track_caller]
    pub fn square(&self) -> Tensor {
        self * self
    }
}

/// Structure. Dimensions count from the end when negative.
impl Tensor {
    /// The same elements in row-major order under another shape; one size may be -1, and follows from the others.
    #[track_caller]
    pub fn reshape(&self, shape: impl IntoShape) -> Tensor {
        let mut shape = shape.into_shape();
        let open: Vec<usize> = (0..shape.rank()).filter(|&i| shape[i].is(-1)).collect();
        if let [at] = open[..] {
            let known = Shape(shape.0.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, d)| d.clone()).collect());
            match self.ty.numel().try_div(&known.numel()) {
                Some(size) => shape.0[at] = size,
                None => return self.fail("reshape", format!("{} elements do not fill {shape}: {}", self.ty.numel(), self.ty)),
            }
        }
        self.unary("reshape", |b, x| b.reshape(x, shape))
    }

    /// Dimensions `from..=to` made one.
    #[track_caller]
    pub fn flatten(&self, from: i64, to: i64) -> Tensor {
        let (Some(from), Some(to)) = (self.dim("flatten", from), self.dim("flatten", to)) else { return self.recorder.poison(self.ty.clone()) };
        if from > to {
            return self.fail("flatten", format!("dimensions {from} to {to} are out of order"));
        }
        let mut sizes = self.ty.shape.0.clone();
        let joined = Dim::product(&sizes.drain(from..=to).collect::<Vec<_>>());
        sizes.insert(from, joined);
        self.unary("reshape", |b, x| b.reshape(x, Shape(sizes)))
    }

    /// Dimensions reordered: result dimension `i` is dimension `order[i]`.
    #[track_caller]
    pub fn permute(&self, order: &[usize]) -> Tensor {
        let mut sorted = order.to_vec();
        sorted.sort_unstable();
        if sorted != (0..self.rank()).collect::<Vec<_>>() {
            return self.fail("permute", format!("{order:?} does not permute the dimensions of {}", self.ty));
        }
        self.unary("permute", |b, x| b.permute(x, order))
    }

    /// Two dimensions exchanged.
    #[track_caller]
    pub fn transpose(&self, a: i64, b: i64) -> Tensor {
        let (Some(i), Some(j)) = (self.dim("transpose", a), self.dim("transpose", b)) else { return self.recorder.poison(self.ty.clone()) };
        let mut order: Vec<usize> = (0..self.rank()).collect();
        order.swap(i, j);
        self.permute(&order)
    }

    /// Repeated along new and size-one dimensions.
    #[track_caller]
    pub fn broadcast_to(&self, shape: impl IntoShape) -> Tensor {
        let shape = shape.into_shape();
        self.unary("expand", |b, x| b.broadcast_to(x, &shape))
    }

    /// A new dimension of size one; -1 puts it last.
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

    /// Without a dimension of size one.
    #[track_caller]
    pub fn squeeze(&self, dim: i64) -> Tensor {
        let Some(at) = self.dim("squeeze", dim) else { return self.recorder.poison(self.ty.clone()) };
        if !self.ty.shape[at].is(1) {
            return self.fail("squeeze", format!("dimension {dim} of {} is not one", self.ty));
        }
        let mut shape = self.ty.shape.clone();
        shape.0.remove(at);
        self.unary("reshape", |b, x| b.reshape(x, shape))
    }

    /// Elements `start..end` of a dimension.
    #[track_caller]
    pub fn slice(&self, dim: i64, start: impl Into<Dim>, end: impl Into<Dim>) -> Tensor {
        self.slice_step(dim, start, end, 1)
    }

    /// Every `step`-th element of `start..end` of a dimension.
    #[track_caller]
    pub fn slice_step(&self, dim: i64, start: impl Into<Dim>, end: impl Into<Dim>, step: i64) -> Tensor {
        let (start, end) = (start.into(), end.into());
        self.along("slice", dim, |b, x, dim| b.slice(x, dim, start, end, step))
    }

    /// `n` equal parts of a dimension.
    #[track_caller]
    pub fn chunk(&self, n: usize, dim: i64) -> Vec<Tensor> {
        let size = self.size(dim);
        let mut parts = vec![];
        match size.try_div(&Dim::from(n)) {
            Some(part) => {
                for k in 0..n {
                    parts.push(self.slice(dim, part.clone() * Dim::from(k), part.clone() * Dim::from(k + 1)));
                }
            }
            None => parts = vec![self.fail("chunk", format!("dimension {dim} of {} has no {n} equal parts", self.ty)); n],
        }
        parts
    }

    /// The index of that dimension, or a report.
    #[track_caller]
    pub(super) fn dim(&self, op: &str, dim: i64) -> Option<usize> {
        match self.ty.shape.dim_index(dim) {
            Ok(at) => Some(at),
            Err(message) => {
                self.report(op, message);
                None
            }
        }
    }

    /// Records an op of this tensor along one dimension.
    #[track_caller]
    pub(super) fn along(&self, op: &str, dim: i64, build: impl FnOnce(&mut Builder, Value, usize) -> Result<Value, String>) -> Tensor {
        match self.dim(op, dim) {
            Some(dim) => self.unary(op, |b, x| build(b, x, dim)),
            None => self.recorder.poison(self.ty.clone()),
        }
    }
}

/// Reductions over dimensions, which are dropped unless kept by `_keepdim`.
impl Tensor {
    /// Sum.
    #[track_caller]
    pub fn sum(&self, dims: &[i64]) -> Tensor {
        self.reduce(ReduceKind::Sum, dims, false)
    }

    /// Sum, with the dimensions kept as ones.
    #[track_caller]
    pub fn sum_keepdim(&self, dims: &[i64]) -> Tensor {
        self.reduce(ReduceKind::Sum, dims, true)
    }

    /// Sum of all elements.
    #[track_caller]
    pub fn sum_all(&self) -> Tensor {
        self.sum(&self.every_dim())
    }

    /// Product.
    #[track_caller]
    pub fn prod(&self, dims: &[i64]) -> Tensor {
        self.reduce(ReduceKind::Prod, dims, false)
    }

    /// Largest element; NaN wins.
    #[track_caller]
    pub fn amax(&self, dims: &[i64]) -> Tensor {
        self.reduce(ReduceKind::Max, dims, false)
    }

    /// Smallest element; NaN wins.
    #[track_caller]
    pub fn amin(&self, dims: &[i64]) -> Tensor {
        self.reduce(ReduceKind::Min, dims, false)
    }

    /// Whether any element holds.
    #[track_caller]
    pub fn any(&self, dims: &[i64]) -> Tensor {
        self.reduce(ReduceKind::Any, dims, false)
    }

    /// Whether all elements hold.
    #[track_caller]
    pub fn all(&self, dims: &[i64]) -> Tensor {
        self.reduce(ReduceKind::All, dims, false)
    }

    /// Index of the largest element along one dimension, i32.
    #[track_caller]
    pub fn argmax(&self, dim: i64) -> Tensor {
        self.reduce(ReduceKind::Argmax, &[dim], false)
    }

    /// Index of the smallest element along one dimension, i32.
    #[track_caller]
    pub fn argmin(&self, dim: i64) -> Tensor {
        self.reduce(ReduceKind::Argmin, &[dim], false)
    }

    /// Any reduction.
    #[track_caller]
    pub fn reduce(&self, kind: ReduceKind, dims: &[i64], keepdim: bool) -> Tensor {
        if dims.is_empty() && matches!(kind, ReduceKind::Any | ReduceKind::All) {
            return self.cast(DType::Bool);
        }
        self.over("reduce", dims, |b, x, dims| b.reduce(kind, x, dims, keepdim))
    }

    /// Records an op of this tensor over dimensions; nothing for none.
    #[track_caller]
    pub(super) fn over(&self, op: &str, dims: &[i64], build: impl FnOnce(&mut Builder, Value, &[usize]) -> Result<Value, String>) -> Tensor {
        let mut at = vec![];
        for &dim in dims {
            match self.dim(op, dim) {
                Some(again) if at.contains(&again) => return self.fail(op, format!("dimension {dim} of {} is named twice", self.ty)),
                Some(dim) => at.push(dim),
                None => return self.recorder.poison(self.ty.clone()),
            }
        }
        if at.is_empty() { self.clone() } else { self.unary(op, |b, x| build(b, x, &at)) }
    }

    pub(super) fn every_dim(&self) -> Vec<i64> {
        (0..self.rank() as i64).collect()
    }
}

/// Products.
impl Tensor {
    /// Matrix product of the last two dimensions; leading dimensions broadcast, both ranks are at least two.
    #[track_caller]
    pub fn matmul(&self, other: &Tensor) -> Tensor {
        self.product(other, false)
    }

    /// As [`Tensor::matmul`], with the last two dimensions of `other` exchanged, for free: `x.matmul_t(&weight)` is a linear
    /// layer whose weight is `[out, in]`.
    #[track_caller]
    pub fn matmul_t(&self, other: &Tensor) -> Tensor {
        self.product(other, true)
    }

    /// `x weight^T + bias` over the last dimension, with a weight of `[out, in]`.
    #[track_caller]
    pub fn linear(&self, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
        let operands: Vec<&Tensor> = [self, weight].into_iter().chain(bias).collect();
        self.recorder.apply("linear", &operands, |b, v| b.linear(v[0], v[1], v.get(2).copied()))
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
    let batch = broadcast_shapes(&Shape(tx.shape.0[..rx - 2].to_vec()), &Shape(ty.shape.0[..ry - 2].to_vec()))?;
    let with_batch = |t: &TensorType| Shape([&batch.0[..], &t.shape.0[t.shape.rank() - 2..]].concat());
    let (x, y) = (b.broadcast_to(x, &with_batch(&tx))?, b.broadcast_to(y, &with_batch(&ty))?);
    b.op(op, &[x, y])
}
