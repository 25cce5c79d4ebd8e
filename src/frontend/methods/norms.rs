//! Normalization and attention.

use crate::frontend::tensor::Tensor;
use crate::ops::{Real, ScaledDotProductAttention};

/// Normalization. Layers with their parameters are in [`nn`](crate::nn).
impl Tensor {
    /// `(x - mean) / sqrt(var + eps) * weight + bias` over the last dimension.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[1, 3], &[1.0, 2.0, 3.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.layer_norm(None, None, 1e-5))?;
    /// assert_eq!(format!("{y:.3}"), "[[-1.225  0.     1.225]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn layer_norm(&self, weight: Option<&Tensor>, bias: Option<&Tensor>, eps: f64) -> Tensor {
        if let (None, Some(bias)) = (weight, bias) {
            return self.layer_norm(None, None, eps) + bias;
        }
        let operands: Vec<&Tensor> = [self].into_iter().chain(weight).chain(bias).collect();
        self.recorder.apply("layer_norm", &operands, |b, v| b.layer_norm(v[0], 1, v.get(1).copied(), v.get(2).copied(), eps))
    }

    /// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[1, 2], &[3.0, 4.0]);
    /// let weight = HostTensor::f32(&[2], &[1.0, 2.0]);
    /// let y = Device::cpu().compute([&x, &weight], |_, [x, weight]| x.rms_norm(Some(&weight), 0.0))?;
    /// assert_eq!(format!("{y:.3}"), "[[0.849 2.263]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn rms_norm(&self, weight: Option<&Tensor>, eps: f64) -> Tensor {
        let operands: Vec<&Tensor> = [self].into_iter().chain(weight).collect();
        self.recorder.apply("rms_norm", &operands, |b, v| b.rms_norm(v[0], 1, v.get(1).copied(), eps))
    }

    /// `(x - mean) / sqrt(var + eps) * weight + bias` over each of `groups` groups of channels (dimension 1) of each example.
    #[track_caller]
    pub fn group_norm(&self, groups: i64, weight: Option<&Tensor>, bias: Option<&Tensor>, eps: f64) -> Tensor {
        let call = self.call_as("group_norm.default", "input").with("num_groups", groups);
        call.with("weight", weight).with("bias", bias).with("eps", eps).one()
    }

    /// As [`Tensor::group_norm`], over each channel of each example.
    #[track_caller]
    pub fn instance_norm(&self, weight: Option<&Tensor>, bias: Option<&Tensor>, eps: f64) -> Tensor {
        let call = self.call_as("instance_norm.default", "input").with("weight", weight).with("bias", bias);
        call.with("use_input_stats", true).with("momentum", 0.1).with("eps", eps).one()
    }

    /// `x / max(|x|, 1e-12)`, with the norm of order `p` along one dimension.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[1, 2], &[3.0, 4.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.normalize(2.0, -1))?;
    /// assert_eq!(y.to_string(), "[[0.6 0.8]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn normalize(&self, p: f64, dim: i64) -> Tensor {
        self / self.norm_with(p, dim, true).clamp_min(1e-12)
    }

    /// The cosine of the angle between vectors along one dimension; norms are at least 1e-8.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2, 2], &[1.0, 0.0, 1.0, 1.0]);
    /// let y = HostTensor::f32(&[2, 2], &[2.0, 0.0, 1.0, 0.0]);
    /// let z = Device::cpu().compute([&x, &y], |_, [x, y]| x.cosine_similarity(&y, -1))?;
    /// assert_eq!(format!("{z:.3}"), "[1.    0.707]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn cosine_similarity(&self, other: &Tensor, dim: i64) -> Tensor {
        self.call_as("cosine_similarity.default", "x1").with("x2", other).with("dim", dim).one()
    }

    /// The distance of order `p` along the last dimension.
    #[track_caller]
    pub fn pairwise_distance(&self, other: &Tensor, p: f64) -> Tensor {
        self.call_as("pairwise_distance.default", "x1").with("x2", other).with("p", p).one()
    }

    /// Slices of a dimension whose norm of order `p` is above `most`, scaled to it.
    #[track_caller]
    pub fn renorm(&self, p: f64, dim: i64, most: f64) -> Tensor {
        self.call("renorm.default").with("p", p).with("dim", dim).with("maxnorm", most).one()
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
    /// `softmax(q k^T * scale + mask) v` over the last two dimensions, with this tensor as the query. Where the heads (the third
    /// last dimension) of keys and values are fewer than the query's, which they divide, each serves as many in turn.
    ///
    /// ```
    /// # use inductor::{AttentionOptions, Device, HostTensor};
    /// let x = HostTensor::f32(&[1, 1, 2, 2], &[1.0, 0.0, 0.0, 1.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.attention(&x, &x, &AttentionOptions { causal: true, ..Default::default() }))?;
    /// assert_eq!(format!("{y:.3}"), "[[[[1.   0.  ]\n   [0.33 0.67]]]]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn attention(&self, key: &Tensor, value: &Tensor, options: &AttentionOptions) -> Tensor {
        let (key, value) = (self.serve_heads(key), self.serve_heads(value));
        let dropout = options.dropout.as_ref().filter(|(p, _)| *p != 0.0);
        let op = ScaledDotProductAttention {
            causal: options.causal,
            scale: options.scale.map(Real::new),
            dropout: Real::new(dropout.map_or(0.0, |(p, _)| *p)),
        };
        let operands: Vec<&Tensor> = [self, &key, &value].into_iter().chain(options.mask.as_ref()).chain(dropout.map(|(_, key)| key)).collect();
        self.recorder.apply("scaled_dot_product_attention", &operands, |b, v| b.op(op, v))
    }

    /// Keys or values with as many heads as this query has.
    #[track_caller]
    fn serve_heads(&self, x: &Tensor) -> Tensor {
        match (self.constant_size(-3), x.constant_size(-3)) {
            (Some(own), Some(given)) if self.rank() == x.rank() && given > 0 && given < own && own % given == 0 => {
                x.repeat_interleave(own / given, -3)
            }
            _ => x.clone(),
        }
    }

    /// Rotary positions: halves of the last dimension turned by angles, whose cosines and sines broadcast to a half. With
    /// `interleaved`, neighbors are turned instead of halves.
    #[track_caller]
    pub fn rotary(&self, cos: &Tensor, sin: &Tensor, interleaved: bool) -> Tensor {
        let Some(width) = self.constant_size(-1).filter(|n| n % 2 == 0) else {
            return self.fail("rotary", format!("the last size of {} is not a constant and even", self.ty));
        };
        if interleaved {
            let pairs = self.unflatten(-1, [width / 2, 2]);
            let (x, y) = (pairs.select(-1, 0), pairs.select(-1, 1));
            return Tensor::stack(&[&x * cos - &y * sin, &x * sin + &y * cos], -1).flatten(-2, -1);
        }
        let (x, y) = (self.narrow(-1, 0, width / 2), self.narrow(-1, width / 2, width / 2));
        Tensor::cat(&[&x * cos - &y * sin, &x * sin + &y * cos], -1)
    }

    /// This tensor with a gradient scaled by a number.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2], &[1.0, 2.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.scale_gradient(0.5).square().grad(&[&x]).remove(0))?;
    /// assert_eq!(y.to_string(), "[1. 2.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn scale_gradient(&self, factor: f64) -> Tensor {
        self.unary("scale_gradient", |b, x| {
            let factor = b.constant(b.dtype(x), factor)?;
            crate::frontend::aten::gradients::scaled_gradient(b, x, factor)
        })
    }
}
