//! Composite operators as methods of [`Tensor`]: activations, norms, losses, attention, indexing.

use super::tensor::Tensor;
use crate::graph::{Builder, Value};
use crate::ops::ReduceKind;
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim};

type Built<T = Value> = Result<T, String>;

/// Activations.
impl Tensor {
    /// `x * P(X < x)` for a standard normal `X`, by the error function.
    #[track_caller]
    pub fn gelu(&self) -> Tensor {
        self.unary("gelu", |b, x| {
            let t = b.scale(x, std::f64::consts::FRAC_1_SQRT_2)?;
            let e = b.scalar(ScalarFn::Erf, &[t])?;
            let one = b.constant(b.dtype(x), 1.0)?;
            let p = b.add(e, one)?;
            let h = b.scale(x, 0.5)?;
            b.mul(h, p)
        })
    }

    /// `x * sigmoid(x)`.
    #[track_caller]
    pub fn silu(&self) -> Tensor {
        self.unary("silu", |b, x| {
            let s = b.scalar(ScalarFn::Sigmoid, &[x])?;
            b.mul(x, s)
        })
    }

    /// `exp(x) / sum(exp(x))` along one dimension.
    #[track_caller]
    pub fn softmax(&self, dim: i64) -> Tensor {
        self.along("softmax", dim, |b, x, dim| {
            let l = log_softmax(b, x, dim)?;
            b.scalar(ScalarFn::Exp, &[l])
        })
    }

    /// `x - log(sum(exp(x)))` along one dimension.
    #[track_caller]
    pub fn log_softmax(&self, dim: i64) -> Tensor {
        self.along("log_softmax", dim, log_softmax)
    }
}

fn log_softmax(b: &mut Builder, x: Value, dim: usize) -> Built {
    let m = b.reduce(ReduceKind::Max, x, &[dim], true)?;
    let d = b.sub(x, m)?;
    let e = b.scalar(ScalarFn::Exp, &[d])?;
    let s = b.reduce(ReduceKind::Sum, e, &[dim], true)?;
    let l = b.scalar(ScalarFn::Log, &[s])?;
    b.sub(d, l)
}

fn mean(b: &mut Builder, x: Value, dims: &[usize], keepdim: bool) -> Built {
    let n: i64 = dims.iter().map(|&d| b.shape(x)[d].as_int().unwrap_or(1)).product();
    let s = b.reduce(ReduceKind::Sum, x, dims, keepdim)?;
    b.scale(s, 1.0 / n as f64)
}

/// Statistics and norms.
impl Tensor {
    /// Mean over dimensions, which are dropped.
    #[track_caller]
    pub fn mean(&self, dims: &[i64]) -> Tensor {
        let mut at = vec![];
        for &d in dims {
            match self.dim("mean", d) {
                Some(d) => at.push(d),
                None => return self.recorder.poison(self.ty.clone()),
            }
        }
        self.unary("mean", |b, x| mean(b, x, &at, false))
    }

    /// Mean of all elements.
    #[track_caller]
    pub fn mean_all(&self) -> Tensor {
        self.mean(&self.every_dim())
    }

    /// `(x - mean) / sqrt(var + eps)` over the last dimension, times `weight`, plus `bias`.
    #[track_caller]
    pub fn layer_norm(&self, weight: Option<&Tensor>, bias: Option<&Tensor>, eps: f64) -> Tensor {
        let operands: Vec<&Tensor> = [self].into_iter().chain(weight).chain(bias).collect();
        self.recorder.apply("layer_norm", &operands, |b, v| {
            let last = b.shape(v[0]).rank() - 1;
            let m = mean(b, v[0], &[last], true)?;
            let d = b.sub(v[0], m)?;
            let q = b.mul(d, d)?;
            let q = mean(b, q, &[last], true)?;
            let e = b.constant(b.dtype(q), eps)?;
            let q = b.add(q, e)?;
            let r = b.scalar(ScalarFn::Rsqrt, &[q])?;
            let n = b.mul(d, r)?;
            let n = b.mul(n, v[1])?;
            if v.len() == 3 { b.add(n, v[2]) } else { Ok(n) }
        })
    }

    /// `x / sqrt(mean(x^2) + eps)` over the last dimension, times `weight`.
    #[track_caller]
    pub fn rms_norm(&self, weight: Option<&Tensor>, eps: f64) -> Tensor {
        let operands: Vec<&Tensor> = [self].into_iter().chain(weight).collect();
        self.recorder.apply("rms_norm", &operands, |b, v| {
            let last = b.shape(v[0]).rank() - 1;
            let q = b.mul(v[0], v[0])?;
            let q = mean(b, q, &[last], true)?;
            let e = b.constant(b.dtype(q), eps)?;
            let q = b.add(q, e)?;
            let r = b.scalar(ScalarFn::Rsqrt, &[q])?;
            let n = b.mul(v[0], r)?;
            b.mul(n, v[1])
        })
    }
}

/// Randomness.
impl Tensor {
    /// Elements zeroed with probability `p`, the others scaled by `1 / (1 - p)`, as the key `stream` decides.
    #[track_caller]
    pub fn dropout(&self, p: f64, stream: &Tensor) -> Tensor {
        self.recorder.apply("dropout", &[self, stream], |b, v| {
            let shape = b.shape(v[0]).clone();
            let numel = shape.numel();
            let at = b.iota(DType::U32, [numel], 0)?;
            let at = b.reshape(at, shape)?;
            let bits = philox(b, v[1], at)?;
            let limit = b.constant(DType::U32, (p * 4294967296.0).floor())?;
            let keep = b.scalar(ScalarFn::Ge, &[bits, limit])?;
            let scaled = b.scale(v[0], 1.0 / (1.0 - p))?;
            let zero = b.constant(b.dtype(v[0]), 0.0)?;
            b.where_(keep, scaled, zero)
        })
    }
}

fn philox(b: &mut Builder, key: Value, at: Value) -> Built {
    let (k0, k1) = (b.select(key, 0, 0)?, b.select(key, 0, 1)?);
    b.scalar(ScalarFn::Philox, &[k0, k1, at])
}

/// A key of its own for each stream.
pub(super) fn fold_in(b: &mut Builder, key: Value, stream: u32) -> Built {
    let at = b.iota(DType::U32, [2], 0)?;
    let start = b.constant(DType::U32, (4 * stream) as f64)?;
    let at = b.add(at, start)?;
    philox(b, key, at)
}

/// Losses.
impl Tensor {
    /// Mean negative log likelihood of integer `targets` under these logits, whose last dimension is classes.
    #[track_caller]
    pub fn cross_entropy(&self, targets: &Tensor) -> Tensor {
        self.recorder.apply("cross_entropy", &[self, targets], |b, v| {
            let last = b.shape(v[0]).rank() - 1;
            let l = log_softmax(b, v[0], last)?;
            let at = b.unsqueeze(v[1], last)?;
            let picked = b.gather(l, at, last)?;
            let dims: Vec<usize> = (0..=last).collect();
            let m = mean(b, picked, &dims, false)?;
            b.neg(m)
        })
    }

    /// Mean squared difference.
    #[track_caller]
    pub fn mse(&self, target: &Tensor) -> Tensor {
        (self - target).square().mean_all()
    }
}

/// Attention.
impl Tensor {
    /// `softmax(q k^T / sqrt(width)) v` over the last two dimensions; `causal` hides later keys. `self` is the query.
    #[track_caller]
    pub fn attention(&self, key: &Tensor, value: &Tensor, causal: bool) -> Tensor {
        self.weights(key, causal).matmul(value)
    }

    /// As [`Tensor::attention`], with a part `p` of the attention weights dropped under a random `stream`.
    #[track_caller]
    pub fn attention_dropout(&self, key: &Tensor, value: &Tensor, causal: bool, p: f64, stream: &Tensor) -> Tensor {
        self.weights(key, causal).dropout(p, stream).matmul(value)
    }

    #[track_caller]
    fn weights(&self, key: &Tensor, causal: bool) -> Tensor {
        let width = self.size(-1).as_int().unwrap_or(1);
        let scores = self.matmul_t(key) * (1.0 / (width as f64).sqrt());
        let scores = if causal {
            let (rows, cols) = (self.size(-2), key.size(-2));
            let hidden = self.recorder.apply("attention", &[&scores], |b, _| {
                let i = b.iota(DType::I32, [rows.clone(), cols.clone()], 0)?;
                let j = b.iota(DType::I32, [rows, cols], 1)?;
                b.scalar(ScalarFn::Gt, &[j, i])
            });
            scores.masked_fill(&hidden, f64::NEG_INFINITY)
        } else {
            scores
        };
        scores.softmax(-1)
    }
}

/// Indexing and structure.
impl Tensor {
    /// Rows of `weight` at these integer indices.
    #[track_caller]
    pub fn embedding(&self, weight: &Tensor) -> Tensor {
        self.recorder.apply("embedding", &[weight, self], |b, v| b.embedding(v[0], v[1]))
    }

    /// Elements at an integer `index` of the same rank, along one dimension.
    #[track_caller]
    pub fn gather(&self, dim: i64, index: &Tensor) -> Tensor {
        match self.dim("gather", dim) {
            Some(dim) => self.recorder.apply("gather", &[self, index], |b, v| b.gather(v[0], v[1], dim)),
            None => self.recorder.poison(self.ty.clone()),
        }
    }

    /// Slices at an integer `index` along one dimension.
    #[track_caller]
    pub fn index_select(&self, dim: i64, index: &Tensor) -> Tensor {
        match self.dim("index_select", dim) {
            Some(dim) => self.recorder.apply("index_select", &[self, index], |b, v| b.index_select(v[0], dim, v[1])),
            None => self.recorder.poison(self.ty.clone()),
        }
    }

    /// With `src` added at an integer `index` along one dimension.
    #[track_caller]
    pub fn scatter_add(&self, dim: i64, index: &Tensor, src: &Tensor) -> Tensor {
        match self.dim("scatter_add", dim) {
            Some(dim) => self.recorder.apply("scatter_add", &[self, index, src], |b, v| b.scatter_add(v[0], v[1], v[2], dim)),
            None => self.recorder.poison(self.ty.clone()),
        }
    }

    /// This and others one after the other along one dimension.
    #[track_caller]
    pub fn concat(&self, others: &[&Tensor], dim: i64) -> Tensor {
        let Some(dim) = self.dim("cat", dim) else { return self.recorder.poison(self.ty.clone()) };
        let operands: Vec<&Tensor> = [self].into_iter().chain(others.iter().copied()).collect();
        self.recorder.apply("cat", &operands, |b, v| b.concat(v, dim))
    }

    /// `value` added before and after each dimension; negative amounts crop.
    #[track_caller]
    pub fn pad(&self, low: &[i64], high: &[i64], value: f64) -> Tensor {
        let dims = |x: &[i64]| x.iter().map(|&n| Dim::int(n)).collect::<Vec<_>>();
        self.unary("pad", |b, x| b.pad(x, &dims(low), &dims(high), value))
    }

    /// The order of dimensions reversed.
    #[track_caller]
    pub fn flip(&self, dims: &[i64]) -> Tensor {
        let mut at = vec![];
        for &d in dims {
            match self.dim("flip", d) {
                Some(d) => at.push(d),
                None => return self.recorder.poison(self.ty.clone()),
            }
        }
        self.unary("flip", |b, x| b.flip(x, &at))
    }
}
