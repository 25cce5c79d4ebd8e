//! Composite, indexing and random operators as methods of [`Tensor`]; their pages in [`crate::ops`] have formulas, dtypes
//! and gradients.

use super::tensor::Tensor;
use crate::graph::{Builder, Value};
use crate::ops::{Real, Reduction, ScaledDotProductAttention};
use crate::types::{DType, Dim, IntoShape};

/// Activations.
impl Tensor {
    /// `x * P(X < x)` for a standard normal `X`.
    #[track_caller]
    pub fn gelu(&self) -> Tensor {
        self.unary("gelu", |b, x| b.gelu(x, false))
    }

    /// [`Tensor::gelu`] approximated through tanh.
    #[track_caller]
    pub fn gelu_tanh(&self) -> Tensor {
        self.unary("gelu", |b, x| b.gelu(x, true))
    }

    /// `x * sigmoid(x)`.
    #[track_caller]
    pub fn silu(&self) -> Tensor {
        self.unary("silu", |b, x| b.silu(x))
    }

    /// `exp(x) / sum(exp(x))` along one dimension.
    #[track_caller]
    pub fn softmax(&self, dim: i64) -> Tensor {
        self.along("softmax", dim, |b, x, dim| b.softmax(x, dim))
    }

    /// `x - log(sum(exp(x)))` along one dimension.
    #[track_caller]
    pub fn log_softmax(&self, dim: i64) -> Tensor {
        self.along("log_softmax", dim, |b, x, dim| b.log_softmax(x, dim))
    }
}

/// Statistics and norms. Dimensions are dropped.
impl Tensor {
    /// Mean over dimensions.
    #[track_caller]
    pub fn mean(&self, dims: &[i64]) -> Tensor {
        self.over("mean", dims, |b, x, dims| b.mean(x, dims, false))
    }

    /// Mean of all elements.
    #[track_caller]
    pub fn mean_all(&self) -> Tensor {
        self.mean(&self.every_dim())
    }

    /// Variance over dimensions; `correction` is 1 for the unbiased estimate.
    #[track_caller]
    pub fn var(&self, dims: &[i64], correction: u32) -> Tensor {
        self.over("var", dims, |b, x, dims| b.var(x, dims, correction, false))
    }

    /// `(x - mean) / sqrt(var + eps) * weight + bias` over the last dimension; a bias needs a weight.
    #[track_caller]
    pub fn layer_norm(&self, weight: Option<&Tensor>, bias: Option<&Tensor>, eps: f64) -> Tensor {
        let operands: Vec<&Tensor> = [self].into_iter().chain(weight).chain(bias).collect();
        let has_weight = weight.is_some();
        self.recorder.apply("layer_norm", &operands, |b, v| {
            let (weight, bias) = if has_weight { (v.get(1), v.get(2)) } else { (None, v.get(1)) };
            b.layer_norm(v[0], 1, weight.copied(), bias.copied(), eps)
        })
    }

    /// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension.
    #[track_caller]
    pub fn rms_norm(&self, weight: Option<&Tensor>, eps: f64) -> Tensor {
        let operands: Vec<&Tensor> = [self].into_iter().chain(weight).collect();
        self.recorder.apply("rms_norm", &operands, |b, v| b.rms_norm(v[0], 1, v.get(1).copied(), eps))
    }
}

/// Random numbers, as keys from [`Trace::key`](super::Trace::key) decide. Elsewhere: [`Tensor::dropout`].
impl Tensor {
    /// 32 random bits for each element, from this key.
    #[track_caller]
    pub fn random_bits(&self, shape: impl IntoShape) -> Tensor {
        let shape = shape.into_shape();
        self.unary("random_bits", |b, key| b.random_bits(key, shape))
    }

    /// Uniform f32 numbers in `0..1`, from this key.
    #[track_caller]
    pub fn uniform(&self, shape: impl IntoShape) -> Tensor {
        let shape = shape.into_shape();
        self.unary("uniform", |b, key| b.uniform(key, shape))
    }

    /// Elements zeroed with probability `p`, the others scaled by `1 / (1 - p)`, as `key` decides. A program's
    /// [`inference`](super::Traced::inference) is without it.
    #[track_caller]
    pub fn dropout(&self, p: f64, key: &Tensor) -> Tensor {
        self.recorder.apply("dropout", &[self, key], |b, v| b.dropout(v[0], v[1], p))
    }
}

/// Losses.
impl Tensor {
    /// Mean negative log-likelihood of integer `labels` under these logits, whose last dimension is the classes.
    #[track_caller]
    pub fn cross_entropy(&self, labels: &Tensor) -> Tensor {
        self.cross_entropy_with(labels, None, Reduction::Mean)
    }

    /// As [`Tensor::cross_entropy`], where one label may have no loss, with any reduction.
    #[track_caller]
    pub fn cross_entropy_with(&self, labels: &Tensor, ignore_index: Option<i64>, reduction: Reduction) -> Tensor {
        self.recorder.apply("cross_entropy", &[self, labels], |b, v| b.cross_entropy(v[0], v[1], ignore_index, reduction))
    }

    /// Mean squared difference of two tensors of one type.
    #[track_caller]
    pub fn mse(&self, target: &Tensor) -> Tensor {
        self.recorder.apply("mse", &[self, target], |b, v| b.mse(v[0], v[1], Reduction::Mean))
    }
}

/// What attention does besides `softmax(q k^T / sqrt(width)) v`.
#[derive(Clone, Debug, Default)]
pub struct AttentionOptions {
    /// Hide later keys.
    pub causal: bool,
    /// Another factor than `1 / sqrt(width)`.
    pub scale: Option<f64>,
    /// Bool (true is attended to) or of the query's dtype (added); broadcasts to the weights.
    pub mask: Option<Tensor>,
    /// Probability of dropping a weight, and the random key that decides.
    pub dropout: Option<(f64, Tensor)>,
}

/// Attention.
impl Tensor {
    /// `softmax(q k^T * scale + mask) v` over the last two dimensions, with this tensor as the query.
    #[track_caller]
    pub fn attention(&self, key: &Tensor, value: &Tensor, options: &AttentionOptions) -> Tensor {
        let dropout = options.dropout.as_ref().filter(|(p, _)| *p != 0.0);
        let op = ScaledDotProductAttention {
            causal: options.causal,
            scale: options.scale.map(Real::new),
            dropout: Real::new(dropout.map_or(0.0, |(p, _)| *p)),
        };
        let operands: Vec<&Tensor> = [self, key, value].into_iter().chain(options.mask.as_ref()).chain(dropout.map(|(_, key)| key)).collect();
        self.recorder.apply("scaled_dot_product_attention", &operands, |b, v| b.op(op, v))
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
        let amounts = |x: &[i64]| x.iter().map(|&n| Dim::int(n)).collect::<Vec<_>>();
        self.unary("pad", |b, x| b.pad(x, &amounts(low), &amounts(high), value))
    }

    /// The order along dimensions reversed.
    #[track_caller]
    pub fn flip(&self, dims: &[i64]) -> Tensor {
        self.over("flip", dims, |b, x, dims| b.flip(x, dims))
    }

    /// This and others along a new dimension.
    #[track_caller]
    pub fn stack(&self, others: &[&Tensor], dim: usize) -> Tensor {
        let operands: Vec<&Tensor> = [self].into_iter().chain(others.iter().copied()).collect();
        self.recorder.apply("stack", &operands, |b, v| b.stack(v, dim))
    }

    /// Element `at` of one dimension, which is dropped.
    #[track_caller]
    pub fn select(&self, dim: i64, at: impl Into<Dim>) -> Tensor {
        let at = at.into();
        self.along("select", dim, |b, x, dim| b.select(x, dim, at))
    }

    /// 1 where a new last dimension, of size `classes`, counts to this integer index, else 0.
    #[track_caller]
    pub fn one_hot(&self, classes: impl Into<Dim>, dtype: DType) -> Tensor {
        let classes = classes.into();
        if self.dtype().is_float() {
            return self.fail("one_hot", format!("an index is an integer: {}", self.ty));
        }
        self.unary("one_hot", |b, x| b.one_hot(x, classes, dtype))
    }

    /// The elements on and below diagonal `offset` of the last two dimensions, else 0.
    #[track_caller]
    pub fn tril(&self, offset: i64) -> Tensor {
        self.unary("tril", |b, x| b.tril(x, offset))
    }

    /// The elements on and above diagonal `offset` of the last two dimensions, else 0.
    #[track_caller]
    pub fn triu(&self, offset: i64) -> Tensor {
        self.unary("triu", |b, x| b.triu(x, offset))
    }

    /// Running sums along one dimension.
    #[track_caller]
    pub fn cumsum(&self, dim: i64) -> Tensor {
        self.along("cumsum", dim, |b, x, dim| b.cumsum(x, dim))
    }

    /// Values in order along one dimension, and the indices they came from, i32. Stable; NaN is the largest.
    #[track_caller]
    pub fn sort(&self, dim: i64, descending: bool) -> (Tensor, Tensor) {
        self.pair("sort", dim, |b, x, dim| b.sort(x, dim, descending))
    }

    /// The `k` largest values along one dimension, in order, and their indices.
    #[track_caller]
    pub fn topk(&self, k: impl Into<Dim>, dim: i64) -> (Tensor, Tensor) {
        let k = k.into();
        self.pair("topk", dim, |b, x, dim| b.topk(x, k, dim, true))
    }

    #[track_caller]
    fn pair(&self, op: &str, dim: i64, build: impl FnOnce(&mut Builder, Value, usize) -> Result<(Value, Value), String>) -> (Tensor, Tensor) {
        let poison = || self.recorder.poison(self.ty.clone());
        let Some(dim) = self.dim(op, dim) else { return (poison(), poison()) };
        let results = self.recorder.apply_many(op, &[self], |b, v| build(b, v[0], dim).map(|(values, indices)| vec![values, indices]));
        <[Tensor; 2]>::try_from(results).map_or_else(|_| (poison(), poison()), |[values, indices]| (values, indices))
    }
}

#[cfg(test)]
mod tests {
    use crate::frontend::{AttentionOptions, trace};
    use crate::types::DType;

    #[test]
    fn every_method_records_its_op() {
        let traced = trace("all", |t| {
            let x = t.input("x", DType::F32, (2, 3, 4));
            let i = t.input("i", DType::I32, (2, 3, 4));
            let (w, key) = (t.input("w", DType::F32, 4), t.key());
            let (values, order) = x.sort(-1, true);
            let (top, _) = x.topk(2, 1);
            let attended = x.attention(&x, &x, &AttentionOptions { causal: true, dropout: Some((0.1, key.clone())), ..Default::default() });
            Ok(vec![
                x.gelu() + x.gelu_tanh() + x.silu() + x.softmax(0) + x.log_softmax(1),
                x.layer_norm(Some(&w), Some(&w), 1e-5) + x.layer_norm(None, None, 1e-5) + x.rms_norm(Some(&w), 1e-5) + x.rms_norm(None, 1e-5),
                x.mean(&[0, -1]) + x.var(&[0, 2], 1),
                x.dropout(0.3, &key) + key.uniform((2, 3, 4)) + key.random_bits((2, 3, 4)).cast(DType::F32),
                attended + values + order.cast(DType::F32) + x.cumsum(1),
                top + x.slice(1, 0, 2),
                x.cross_entropy(&i.select(-1, 0)) + x.mse(&x),
                i.one_hot(5, DType::F32).sum(&[-1]) + x.gather(2, &i) + x.scatter_add(2, &i, &x),
                x.index_select(1, &i).flatten(0, -1) + i.embedding(&w).sum_all(),
                x.concat(&[&x], 0).pad(&[-2, 0, 0], &[0, 0, 0], 0.0).flip(&[1]).tril(0) + x.triu(1),
                x.stack(&[&x, &x], 0),
            ])
        })
        .unwrap();
        assert_eq!(crate::graph::verify(&traced.graph), Vec::<String>::new());
        assert_eq!(traced.graph.outputs.len(), 11);
    }

    #[test]
    fn mistakes_are_named() {
        let error = trace("wrong", |t| {
            let x = t.input("x", DType::F32, (2, 3));
            let (values, _) = x.sort(2, false);
            Ok(vec![
                values,
                x.softmax(5),
                x.cross_entropy(&x),
                x.attention(&x, &x.transpose(0, 1), &AttentionOptions::default()),
                x.chunk(2, 1).remove(0),
            ])
        })
        .unwrap_err()
        .to_string();
        for part in
            ["sort: dimension 2 is out of range", "softmax: dimension 5", "cross_entropy:", "scaled_dot_product_attention:", "chunk: dimension 1"]
        {
            assert!(error.contains(part), "{part} is missing in {error}");
        }
        assert!(error.contains("5 faults"), "{error}");
    }
}
