//! Shorthands for ops with attributes, so that front ends, derivatives and decompositions stay readable.

use super::{Builder, Value};
use crate::ops::{self, Built, Real, Reduction};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, IntoShape, Shape};

/// Operands of one concatenation; longer lists become trees, since a kernel binds a limited number of buffers.
const CONCAT_WIDTH: usize = 6;

/// Structure.
impl Builder {
    /// Elements `start, start + step, ...` below `end` of dimension `dim`; nothing when that is all of it.
    pub fn slice(&mut self, x: Value, dim: usize, start: impl Into<Dim>, end: impl Into<Dim>, step: i64) -> Built {
        let (start, end) = (start.into(), end.into());
        if start.is(0) && step == 1 && self.shape(x).0.get(dim) == Some(&end) {
            return Ok(x);
        }
        self.op(ops::Slice { dim: dim as u32, start, end, step }, &[x])
    }

    /// Element `at` of dimension `dim`, which is dropped.
    pub fn select(&mut self, x: Value, dim: usize, at: impl Into<Dim>) -> Built {
        let at = at.into();
        let end = at.clone() + Dim::int(1);
        let one = self.slice(x, dim, at, end, 1)?;
        self.squeeze(one, dim)
    }

    /// `value` added before and after each dimension; negative amounts crop. Crops alone are views.
    pub fn pad(&mut self, x: Value, low: &[Dim], high: &[Dim], value: f64) -> Built {
        let zero = Dim::int(0);
        let is_crop = low.iter().chain(high).all(|d| d.known_le(&zero));
        if !is_crop || low.len() != self.shape(x).rank() || high.len() != low.len() {
            let interior = vec![0; low.len()];
            return self.op(ops::Pad { low: low.into(), high: high.into(), interior: interior.into(), value: Real::new(value) }, &[x]);
        }
        let mut out = x;
        for (i, (lo, hi)) in low.iter().zip(high).enumerate() {
            let end = self.shape(out)[i].clone() + hi;
            out = self.slice(out, i, zero.clone() - lo, end, 1)?;
        }
        Ok(out)
    }

    /// The order of `dims` reversed.
    pub fn flip(&mut self, x: Value, dims: &[usize]) -> Built {
        if dims.is_empty() { Ok(x) } else { self.op(ops::Flip { dims: dims.iter().map(|&d| d as u32).collect() }, &[x]) }
    }

    /// The operands one after the other along `dim`.
    pub fn concat(&mut self, parts: &[Value], dim: usize) -> Built {
        if let [only] = parts {
            return Ok(*only);
        }
        if parts.len() > CONCAT_WIDTH {
            let joined: Vec<Value> = parts.chunks(CONCAT_WIDTH).map(|p| self.concat(p, dim)).collect::<Built<_>>()?;
            return self.concat(&joined, dim);
        }
        self.op(ops::Concat { dim: dim as u32 }, parts)
    }

    /// The operands along a new dimension `dim`.
    pub fn stack(&mut self, parts: &[Value], dim: usize) -> Built {
        let parts: Vec<Value> = parts.iter().map(|&x| self.unsqueeze(x, dim)).collect::<Built<_>>()?;
        self.concat(&parts, dim)
    }

    /// A new dimension of size one at `dim`.
    pub fn unsqueeze(&mut self, x: Value, dim: usize) -> Built {
        let mut shape = self.shape(x).clone();
        if dim > shape.rank() {
            return Err(format!("unsqueeze: dimension {dim} is out of range for {}", self.ty(x)));
        }
        shape.0.insert(dim, Dim::int(1));
        self.reshape(x, shape)
    }

    /// Without dimension `dim`, which has size one.
    pub fn squeeze(&mut self, x: Value, dim: usize) -> Built {
        let mut shape = self.shape(x).clone();
        if !shape.0.get(dim).is_some_and(|d| d.is(1)) {
            return Err(format!("squeeze: dimension {dim} of {} is not one", self.ty(x)));
        }
        shape.0.remove(dim);
        self.reshape(x, shape)
    }

    /// `x` read at `index` along `dim`; see [`ops::Gather`].
    pub fn gather(&mut self, x: Value, index: Value, dim: usize) -> Built {
        self.op(ops::Gather { dim: dim as u32 }, &[x, index])
    }

    /// Slices of `x` along `dim` chosen by an index of any rank.
    pub fn index_select(&mut self, x: Value, dim: usize, index: Value) -> Built {
        self.op(ops::IndexSelect { dim: dim as u32 }, &[x, index])
    }

    /// Rows of `weight` chosen by an index of any rank.
    pub fn embedding(&mut self, weight: Value, index: Value) -> Built {
        self.index_select(weight, 0, index)
    }

    /// `src` added into `base` at `index` along `dim`; see [`ops::ScatterAdd`].
    pub fn scatter_add(&mut self, base: Value, index: Value, src: Value, dim: usize) -> Built {
        self.op(ops::ScatterAdd { dim: dim as u32, checked: true }, &[base, index, src])
    }

    /// Slices of `src` added into `base` along `dim`; see [`ops::IndexAdd`].
    pub fn index_add(&mut self, base: Value, dim: usize, index: Value, src: Value) -> Built {
        self.op(ops::IndexAdd { dim: dim as u32, checked: true }, &[base, index, src])
    }

    /// Prefix sums along `dim`.
    pub fn cumsum(&mut self, x: Value, dim: usize) -> Built {
        self.op(ops::Cumsum { dim: dim as u32 }, &[x])
    }

    /// Values in order along `dim`, and the indices they came from.
    pub fn sort(&mut self, x: Value, dim: usize, descending: bool) -> Built<(Value, Value)> {
        let results = self.node(ops::Sort { dim: dim as u32, descending }, &[x])?;
        Ok((results[0], results[1]))
    }

    /// The indices that sort `x` along `dim`, i32.
    pub fn argsort(&mut self, x: Value, dim: usize, descending: bool) -> Built {
        Ok(self.sort(x, dim, descending)?.1)
    }

    /// The `k` largest (or smallest) values along `dim` in order, and their indices. Of many elements the whole is sorted: their gradient
    /// compares each with each element of the operand.
    pub fn topk(&mut self, x: Value, k: impl Into<Dim>, dim: usize, largest: bool) -> Built<(Value, Value)> {
        let k = k.into();
        if k.as_int().is_some_and(|k| (1..=64).contains(&k)) && k.known_le(&self.shape(x)[dim]) {
            let results = self.node(ops::TopK { k, dim: dim as u32, descending: largest }, &[x])?;
            return Ok((results[0], results[1]));
        }
        let (values, indices) = self.sort(x, dim, largest)?;
        Ok((self.slice(values, dim, 0, k.clone(), 1)?, self.slice(indices, dim, 0, k, 1)?))
    }
}

/// Numbers, random and not.
impl Builder {
    /// A size as a 0-d number.
    pub fn size(&mut self, size: &Dim, dtype: DType) -> Built {
        match size.as_int() {
            Some(n) => self.constant(dtype, n as f64),
            None => self.op(ops::SizeOf { size: size.clone(), dtype }, &[]),
        }
    }

    /// 32 random bits for each element.
    pub fn random_bits(&mut self, key: Value, shape: impl IntoShape) -> Built {
        self.op(ops::RandomBits { shape: shape.into_shape() }, &[key])
    }

    /// A new key for a stream.
    pub fn fold_in(&mut self, key: Value, stream: u32) -> Built {
        self.op(ops::FoldIn { stream }, &[key])
    }

    /// Uniform f32 numbers in `0..1`, from the upper 24 bits.
    pub fn uniform(&mut self, key: Value, shape: impl IntoShape) -> Built {
        let bits = self.random_bits(key, shape)?;
        let eight = self.constant(DType::U32, 8.0)?;
        let upper = self.scalar(ScalarFn::ShiftRight, &[bits, eight])?;
        let number = self.cast(upper, DType::F32)?;
        self.scale(number, 1.0 / 16_777_216.0)
    }

    /// Standard normal f32 numbers by Box and Muller's transform: `sqrt(-2 log(1 - u)) cos(2 pi v)`, with a key for each of the two.
    pub fn normal(&mut self, keys: [Value; 2], shape: impl IntoShape) -> Built {
        let shape = shape.into_shape();
        let (u, v) = (self.uniform(keys[0], &shape)?, self.uniform(keys[1], shape)?);
        let minus = self.neg(u)?;
        let log = self.scalar(ScalarFn::Log1p, &[minus])?;
        let square = self.scale(log, -2.0)?;
        let radius = self.scalar(ScalarFn::Sqrt, &[square])?;
        let angle = self.scale(v, 2.0 * std::f64::consts::PI)?;
        let cosine = self.scalar(ScalarFn::Cos, &[angle])?;
        self.mul(radius, cosine)
    }

    /// True with probability `1 - p`: the elements that dropout keeps. `p` is below 1.
    pub fn bernoulli(&mut self, key: Value, shape: impl IntoShape, p: f64) -> Built {
        let bits = self.random_bits(key, shape)?;
        let threshold = self.constant(DType::U32, ops::drop_threshold(p) as f64)?;
        self.scalar(ScalarFn::Ge, &[bits, threshold])
    }

    /// 1 where the last dimension, of size `classes`, counts to the index, else 0.
    pub fn one_hot(&mut self, index: Value, classes: impl Into<Dim>, dtype: DType) -> Built {
        let mut shape = self.shape(index).clone();
        let rank = shape.rank();
        shape.0.push(classes.into());
        let class = self.iota(self.dtype(index), shape, rank)?;
        let index = self.unsqueeze(index, rank)?;
        let hit = self.scalar(ScalarFn::Eq, &[class, index])?;
        self.cast(hit, dtype)
    }

    /// The elements on and below diagonal `offset` of the last two dimensions, else 0.
    pub fn tril(&mut self, x: Value, offset: i64) -> Built {
        self.triangle(x, offset, ScalarFn::Le)
    }

    /// The elements on and above diagonal `offset` of the last two dimensions, else 0.
    pub fn triu(&mut self, x: Value, offset: i64) -> Built {
        self.triangle(x, offset, ScalarFn::Ge)
    }

    fn triangle(&mut self, x: Value, offset: i64, keep: ScalarFn) -> Built {
        let rank = self.shape(x).rank();
        if rank < 2 {
            return Err(format!("a triangle needs two dimensions: {}", self.ty(x)));
        }
        let corner = Shape::new(self.shape(x).0[rank - 2..].to_vec());
        let (row, column) = (self.iota(DType::I32, corner.clone(), 0)?, self.iota(DType::I32, corner, 1)?);
        let offset = self.constant(DType::I32, offset as f64)?;
        let diagonal = self.add(row, offset)?;
        let kept = self.scalar(keep, &[column, diagonal])?;
        let zero = self.constant(self.dtype(x), 0.0)?;
        self.where_(kept, x, zero)
    }
}

/// Composites.
impl Builder {
    /// Softmax along `dim`.
    pub fn softmax(&mut self, x: Value, dim: usize) -> Built {
        self.op(ops::Softmax { dim: dim as u32 }, &[x])
    }

    /// Logarithm of the softmax along `dim`.
    pub fn log_softmax(&mut self, x: Value, dim: usize) -> Built {
        self.op(ops::LogSoftmax { dim: dim as u32 }, &[x])
    }

    /// Mean over `dims`.
    pub fn mean(&mut self, x: Value, dims: &[usize], keepdim: bool) -> Built {
        self.op(ops::Mean { dims: sorted(dims), keepdim }, &[x])
    }

    /// Variance over `dims`.
    pub fn var(&mut self, x: Value, dims: &[usize], correction: u32, keepdim: bool) -> Built {
        self.op(ops::Var { dims: sorted(dims), correction, keepdim }, &[x])
    }

    /// Layer norm over the last `dims` dimensions; a bias needs a weight.
    pub fn layer_norm(&mut self, x: Value, dims: usize, weight: Option<Value>, bias: Option<Value>, eps: f64) -> Built {
        let mut operands = vec![x];
        operands.extend(weight);
        operands.extend(bias);
        if bias.is_some() && weight.is_none() {
            return Err("layer_norm: a bias needs a weight".into());
        }
        self.op(ops::LayerNorm { dims: dims as u32, eps: Real::new(eps) }, &operands)
    }

    /// Root-mean-square norm over the last `dims` dimensions.
    pub fn rms_norm(&mut self, x: Value, dims: usize, weight: Option<Value>, eps: f64) -> Built {
        let operands: Vec<Value> = [x].into_iter().chain(weight).collect();
        self.op(ops::RmsNorm { dims: dims as u32, eps: Real::new(eps) }, &operands)
    }

    /// Gelu, exact or through tanh.
    pub fn gelu(&mut self, x: Value, approximate: bool) -> Built {
        self.op(ops::Gelu { approximate }, &[x])
    }

    /// `x * sigmoid(x)`.
    pub fn silu(&mut self, x: Value) -> Built {
        self.op(ops::Silu {}, &[x])
    }

    /// Elements dropped with probability `p`, the others scaled; nothing for `p = 0`.
    pub fn dropout(&mut self, x: Value, key: Value, p: f64) -> Built {
        if p == 0.0 { Ok(x) } else { self.op(ops::Dropout { p: Real::new(p) }, &[x, key]) }
    }

    /// `x @ weight^T + bias`.
    pub fn linear(&mut self, x: Value, weight: Value, bias: Option<Value>) -> Built {
        let operands: Vec<Value> = [x, weight].into_iter().chain(bias).collect();
        self.op(ops::Linear {}, &operands)
    }

    /// Cross entropy of logits (classes last) and labels.
    pub fn cross_entropy(&mut self, x: Value, label: Value, ignore_index: Option<i64>, reduction: Reduction) -> Built {
        self.op(ops::CrossEntropy { ignore_index, reduction }, &[x, label])
    }

    /// Squared error.
    pub fn mse(&mut self, x: Value, y: Value, reduction: Reduction) -> Built {
        self.op(ops::Mse { reduction }, &[x, y])
    }

    /// Attention; see [`ops::ScaledDotProductAttention`] for `rest`: a mask, then a key with dropout.
    pub fn attention(&mut self, attributes: ops::ScaledDotProductAttention, q: Value, k: Value, v: Value, rest: &[Value]) -> Built {
        let operands: Vec<Value> = [q, k, v].iter().chain(rest).copied().collect();
        self.op(attributes, &operands)
    }
}

fn sorted(dims: &[usize]) -> Vec<u32> {
    let mut out: Vec<u32> = dims.iter().map(|&d| d as u32).collect();
    out.sort_unstable();
    out.dedup();
    out
}
