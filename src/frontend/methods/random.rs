//! Random numbers. A method that takes no key draws from a stream of its own, as [`Trace::key`](crate::Trace::key) gives them.

use crate::frontend::tensor::Tensor;
use crate::types::{DType, Dim, IntoShape};

/// Random numbers as a key decides, from [`Trace::key`](crate::Trace::key): these are methods of the key.
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

    /// Standard normal f32 numbers, from this key.
    #[track_caller]
    pub fn normal(&self, shape: impl IntoShape) -> Tensor {
        let shape = shape.into_shape();
        self.unary("normal", |b, key| {
            let keys = [b.fold_in(key, 0)?, b.fold_in(key, 1)?];
            b.normal(keys, shape)
        })
    }

    /// 1 with probability `p`, else 0, f32, from this key.
    #[track_caller]
    pub fn bernoulli_of(&self, p: f64, shape: impl IntoShape) -> Tensor {
        self.uniform(shape).lt(p).cast(DType::F32)
    }
}

/// Random numbers of a tensor's shape.
impl Tensor {
    /// Elements zeroed with probability `p`, the others scaled by `1 / (1 - p)`, as `key` decides. A program's
    /// [`inference`](crate::Traced::inference) is without it.
    #[track_caller]
    pub fn dropout(&self, p: f64, key: &Tensor) -> Tensor {
        self.recorder.apply("dropout", &[self, key], |b, v| b.dropout(v[0], v[1], p))
    }

    /// Uniform numbers in `0..1`, of this dtype and shape.
    #[track_caller]
    pub fn rand_like(&self) -> Tensor {
        self.call("rand_like.default").one()
    }

    /// Standard normal numbers, of this dtype and shape.
    #[track_caller]
    pub fn randn_like(&self) -> Tensor {
        self.call("randn_like.default").one()
    }

    /// 1 with each element's probability, else 0, without a gradient.
    #[track_caller]
    pub fn bernoulli(&self) -> Tensor {
        self.call("bernoulli.default").one()
    }

    /// `samples` indices along the last dimension, whose elements are their weights, i32. Without replacement an index comes once;
    /// there must be so many of a weight above zero.
    ///
    /// ```
    /// use inductor::{Config, DType, Device, HostTensor, compile, trace};
    /// let traced = trace("draw", |t| Ok(vec![t.input("weights", DType::F32, 3).multinomial(8, true)]))?;
    /// let step = compile(&traced, &Device::cpu(), &Config::default())?;
    /// let drawn = step.run(&mut step.init(0)?, [&HostTensor::f32(&[3], &[0.0, 2.0, 0.0])])?;
    /// assert_eq!(drawn.outputs()?[0].1.to_i64(), [1; 8]);
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn multinomial(&self, samples: i64, replacement: bool) -> Tensor {
        let weights = self.detach();
        if !replacement {
            if let Some(size) = self.constant_size(-1).filter(|&size| !(0..=size).contains(&samples)) {
                return self.fail("multinomial", format!("{samples} draws of {size} without replacement: {}", self.ty));
            }
            // The largest of weights over exponential numbers are a draw without replacement.
            let race = &weights / weights.call("exponential.default").one();
            return race.topk(samples, -1).1;
        }
        // Uniform numbers are below one and have 24 bits, so that their product with the sum stays below it.
        let sums = weights.cumsum(-1);
        let mut shape = self.ty.shape.clone();
        if let Some(last) = shape.0.last_mut() {
            *last = samples.into();
        }
        let zeros = self.recorder.apply("multinomial", &[&weights], |b, v| b.full(b.dtype(v[0]), 0.0, shape));
        let points = zeros.rand_like() * sums.narrow(-1, self.size(-1) - Dim::int(1), 1);
        sums.searchsorted(&points, true)
    }
}
