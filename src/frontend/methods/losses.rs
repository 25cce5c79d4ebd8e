//! Losses, with PyTorch's names. What is predicted is the tensor itself.

use crate::frontend::tensor::Tensor;
use crate::ops::Reduction;
use crate::types::Dim;

/// Settings of [`Tensor::cross_entropy_with`].
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    weight: Option<Tensor>,
    smoothing: f64,
    ignore_index: Option<i64>,
    reduction: Reduction,
    dim: i64,
}

impl Default for CrossEntropy {
    fn default() -> CrossEntropy {
        CrossEntropy { weight: None, smoothing: 0.0, ignore_index: None, reduction: Reduction::Mean, dim: -1 }
    }
}

impl CrossEntropy {
    /// The mean over all labels, with the classes as the last dimension.
    pub fn new() -> CrossEntropy {
        CrossEntropy::default()
    }

    /// A weight for each class; the mean is over the weights of the labels.
    pub fn weight(mut self, weight: &Tensor) -> CrossEntropy {
        self.weight = Some(weight.clone());
        self
    }

    /// So much of each label is spread over all classes.
    pub fn smoothing(mut self, smoothing: f64) -> CrossEntropy {
        self.smoothing = smoothing;
        self
    }

    /// Labels of this value have no loss. Without it, any label that is no class is an error; with weights of classes or smoothing,
    /// -100 is left out by itself, as it always is in PyTorch.
    pub fn ignore_index(mut self, label: i64) -> CrossEntropy {
        self.ignore_index = Some(label);
        self
    }

    /// How the losses of labels become the result.
    pub fn reduction(mut self, reduction: Reduction) -> CrossEntropy {
        self.reduction = reduction;
        self
    }

    /// The dimension of the classes: 1 for PyTorch's layout `[n, classes, ...]`.
    pub fn dim(mut self, dim: i64) -> CrossEntropy {
        self.dim = dim;
        self
    }
}

/// Losses of classes.
impl Tensor {
    /// Mean negative log-likelihood of integer `labels` under these logits, whose last dimension is the classes. Labels of a float dtype
    /// are probabilities, of the shape of the logits. For PyTorch's layout `[n, classes, ...]` see [`CrossEntropy::dim`].
    ///
    /// ```
    /// use inductor::{CrossEntropy, DType, trace};
    /// trace("losses", |t| {
    ///     let (logits, labels) = (t.input("logits", DType::F32, (8, 10)), t.input("labels", DType::I32, 8));
    ///     let plain = logits.cross_entropy(&labels);
    ///     Ok(plain + logits.cross_entropy_with(&labels, CrossEntropy::new().smoothing(0.1).ignore_index(-100)))
    /// })?;
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn cross_entropy(&self, labels: &Tensor) -> Tensor {
        self.cross_entropy_with(labels, CrossEntropy::new())
    }

    /// As [`Tensor::cross_entropy`], with settings. Labels of a float dtype are probabilities, of the shape of the logits.
    #[track_caller]
    pub fn cross_entropy_with(&self, labels: &Tensor, settings: CrossEntropy) -> Tensor {
        let CrossEntropy { weight, smoothing, ignore_index, reduction, dim } = settings;
        let Some(dim) = self.dim("cross_entropy", dim) else { return self.recorder.poison(self.ty.clone()) };
        let last = self.rank() - 1;
        let (x, is_soft) = (self.movedim(dim as i64, -1), labels.dtype().is_float());
        if let Some(fault) = self.labels_fault(labels, dim) {
            return self.fail("cross_entropy", format!("{fault}: {} x {}", self.ty, labels.ty));
        }
        if !is_soft && weight.is_none() && smoothing == 0.0 {
            return x.recorder.apply("cross_entropy", &[&x, labels], |b, v| b.cross_entropy(v[0], v[1], ignore_index, reduction));
        }
        if !is_soft && labels.shape().0[..] != x.shape().0[..last] {
            return self.fail("cross_entropy", format!("labels do not fit: {} x {}", self.ty, labels.ty));
        }
        let labels = if is_soft { labels.movedim(dim as i64, -1) } else { labels.clone() };
        let shape = x.shape().0[..last].to_vec();
        let classes = x.shape().0[last].clone();
        let labels = if is_soft { labels.reshape([Dim::int(-1), classes.clone()]) } else { labels.reshape(-1) };
        let call = x.reshape([Dim::int(-1), classes]).call("cross_entropy_loss.default").with("target", &labels);
        let call = call.with("weight", weight.as_ref()).with("label_smoothing", smoothing).with("reduction", reduction);
        let loss = if is_soft { call.one() } else { call.with("ignore_index", ignore_index.unwrap_or(-100)).one() };
        if reduction == Reduction::None { loss.reshape(shape) } else { loss }
    }

    /// What is wrong with labels of logits with the classes along `dim`, where it is a matter of conventions.
    fn labels_fault(&self, labels: &Tensor, dim: usize) -> Option<&'static str> {
        if labels.dtype().is_float() {
            return (labels.shape() != self.shape()).then_some("labels of a float dtype are probabilities, of the shape of the logits");
        }
        let without = |at: usize| self.shape().as_ints().map(|mut sizes| (sizes.remove(at), sizes).1);
        let is_second = self.rank() > 2
            && dim + 1 == self.rank()
            && labels
                .shape()
                .as_ints()
                .is_some_and(|given| without(1).is_some_and(|sizes| sizes == given) && without(dim).is_some_and(|sizes| sizes != given));
        is_second.then_some("the classes are the last dimension; for PyTorch's layout say cross_entropy_with(labels, CrossEntropy::new().dim(1))")
    }

    /// Negative log-likelihood of integer `labels` under these log-probabilities, `[n, classes, ...]` as in PyTorch.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor, Reduction};
    /// let x = HostTensor::f32(&[2, 3], &[2.0, 0.0, 1.0, 0.0, 3.0, 0.0]);
    /// let labels = HostTensor::i32(&[2], &[0, 1]);
    /// let y = Device::cpu().compute([&x, &labels], |_, [x, labels]| x.log_softmax(-1).nll_loss(&labels, None, -100, Reduction::Mean))?;
    /// assert_eq!(format!("{y:.3}"), "0.251");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn nll_loss(&self, labels: &Tensor, weight: Option<&Tensor>, ignore_index: i64, reduction: Reduction) -> Tensor {
        let call = self.call("nll_loss_nd.default").with("target", labels).with("weight", weight);
        call.with("ignore_index", ignore_index).with("reduction", reduction).one()
    }

    /// Hinge loss of classes: the mean over the others of `max(0, margin - x[label] + x)`.
    #[track_caller]
    pub fn multi_margin_loss(&self, labels: &Tensor, margin: f64, reduction: Reduction) -> Tensor {
        self.call("multi_margin_loss.default").with("target", labels).with("margin", margin).with("reduction", reduction).one()
    }

    /// Connectionist temporal classification: the negative log-likelihood of label sequences under log-probabilities
    /// `[time, n, classes]`. `labels` are integers `[n, longest]`, of which the first `label_lengths`, `[n]`, count, within the first
    /// `input_lengths`, `[n]`, steps; class `blank` stands between labels. The mean is over sequences, each divided by its length.
    ///
    /// A sequence that does not fit has infinite loss and no gradient, or no loss with `zero_infinity`. Time is unrolled: the graph
    /// grows with it.
    #[track_caller]
    pub fn ctc_loss(&self, labels: &Tensor, lengths: [&Tensor; 2], blank: i64, reduction: Reduction, zero_infinity: bool) -> Tensor {
        let ([input_lengths, label_lengths], sizes) = (lengths, (self.constant_size(0), self.constant_size(1), labels.constant_size(1)));
        let (Some(steps), Some(n), Some(longest), 3, 2) = (sizes.0, sizes.1, sizes.2, self.rank(), labels.rank()) else {
            return self.fail("ctc_loss", format!("expected constant [time, n, classes] and [n, labels]: {} x {}", self.ty, labels.ty));
        };
        if !(1..=MAX_STEPS).contains(&steps) {
            return self.fail("ctc_loss", format!("a sequence of {steps} steps is not supported, up to {MAX_STEPS} are"));
        }
        let (labels, lengths) = (labels.as_index(), label_lengths.as_index());
        // Blanks before, between and behind the labels.
        let states = 2 * longest + 1;
        let spread = Tensor::stack(&[labels.full_like(blank), labels.clone()], -1).reshape((n, 2 * longest));
        let path = spread.pad([0, 1], blank as f64);
        let emitted = self.gather(2, &path.unsqueeze(0).expand((steps, n, states)));
        // A label may follow another one without a blank where they differ.
        let skips = path.ne(path.pad([2, 0], blank as f64).narrow(1, 0, states)).logical_and(path.ne(blank));
        let unreachable = emitted.select(0, 0).full_like(UNREACHABLE);
        let first = emitted.select(0, 0).narrow(1, 0, states.min(2)).pad([0, states - states.min(2)], UNREACHABLE);
        let mut alpha = first;
        for step in 1..steps {
            let moved = |by: i64| alpha.pad([by, 0], UNREACHABLE).narrow(1, 0, states);
            let jumped = skips.where_(moved(2), &unreachable);
            let next = Tensor::stack(&[alpha.clone(), moved(1), jumped], -1).logsumexp(-1) + emitted.select(0, step);
            alpha = input_lengths.as_index().gt(step).unsqueeze(1).where_(next, &alpha);
        }
        let end = (2 * &lengths).unsqueeze(1);
        let (last, before) = (alpha.gather(1, &end), alpha.gather(1, &(&end - 1).clamp_min(0)));
        let before = lengths.gt(0).unsqueeze(1).where_(before, UNREACHABLE);
        let loss = -Tensor::cat(&[last, before], 1).logsumexp(1);
        let lost = if zero_infinity { 0.0 } else { f64::INFINITY };
        let loss = loss.gt(-UNREACHABLE / 2.0).where_(lost, &loss);
        match reduction {
            Reduction::Mean => (loss / lengths.clamp_min(1).cast(self.dtype())).mean(()),
            Reduction::Sum => loss.sum(()),
            Reduction::None => loss,
        }
    }
}

/// Longer sequences are refused: each step is a part of the graph.
const MAX_STEPS: i64 = 4096;
/// The log-probability of what cannot be, finite so that its gradient is zero.
const UNREACHABLE: f64 = -1e30;

/// Losses of elements.
impl Tensor {
    /// Mean squared difference.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2], &[1.0, 2.0]);
    /// let y = HostTensor::f32(&[2], &[0.0, 4.0]);
    /// let z = Device::cpu().compute([&x, &y], |_, [x, y]| x.mse(&y))?;
    /// assert_eq!(z.to_string(), "2.5");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn mse(&self, target: &Tensor) -> Tensor {
        self.mse_loss(target, Reduction::Mean)
    }

    /// Squared difference.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor, Reduction};
    /// let x = HostTensor::f32(&[2], &[1.0, 2.0]);
    /// let y = HostTensor::f32(&[2], &[0.0, 4.0]);
    /// let z = Device::cpu().compute([&x, &y], |_, [x, y]| x.mse_loss(&y, Reduction::Sum))?;
    /// assert_eq!(z.to_string(), "5.0");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn mse_loss(&self, target: &Tensor, reduction: Reduction) -> Tensor {
        self.recorder.apply("mse", &[self, target], |b, v| b.mse(v[0], v[1], reduction))
    }

    /// Absolute difference.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor, Reduction};
    /// let x = HostTensor::f32(&[2], &[1.0, 2.0]);
    /// let y = HostTensor::f32(&[2], &[0.0, 4.0]);
    /// let z = Device::cpu().compute([&x, &y], |_, [x, y]| x.l1_loss(&y, Reduction::Mean))?;
    /// assert_eq!(z.to_string(), "1.5");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn l1_loss(&self, target: &Tensor, reduction: Reduction) -> Tensor {
        self.call("l1_loss.default").with("target", target).with("reduction", reduction).one()
    }

    /// `d^2 / (2 beta)` below a difference of `beta`, `d - beta / 2` above. PyTorch's default `beta` is 1.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor, Reduction};
    /// let x = HostTensor::f32(&[2], &[0.5, 2.0]);
    /// let y = HostTensor::f32(&[2], &[0.0, 4.0]);
    /// let z = Device::cpu().compute([&x, &y], |_, [x, y]| x.smooth_l1_loss(&y, 1.0, Reduction::None))?;
    /// assert_eq!(z.to_string(), "[0.125 1.5  ]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn smooth_l1_loss(&self, target: &Tensor, beta: f64, reduction: Reduction) -> Tensor {
        self.call("smooth_l1_loss.default").with("target", target).with("beta", beta).with("reduction", reduction).one()
    }

    /// `d^2 / 2` below a difference of `delta`, `delta (d - delta / 2)` above. PyTorch's default `delta` is 1.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor, Reduction};
    /// let x = HostTensor::f32(&[2], &[0.5, 2.0]);
    /// let y = HostTensor::f32(&[2], &[0.0, 4.0]);
    /// let z = Device::cpu().compute([&x, &y], |_, [x, y]| x.huber_loss(&y, 1.5, Reduction::None))?;
    /// assert_eq!(z.to_string(), "[0.125 1.875]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn huber_loss(&self, target: &Tensor, delta: f64, reduction: Reduction) -> Tensor {
        self.call("huber_loss.default").with("target", target).with("delta", delta).with("reduction", reduction).one()
    }

    /// `-y log(x) - (1 - y) log(1 - x)` of probabilities.
    #[track_caller]
    pub fn binary_cross_entropy(&self, target: &Tensor, weight: Option<&Tensor>, reduction: Reduction) -> Tensor {
        self.call("binary_cross_entropy.default").with("target", target).with("weight", weight).with("reduction", reduction).one()
    }

    /// The mean of [`Tensor::binary_cross_entropy`] of the sigmoid, exact for large logits.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2], &[2.0, -1.0]);
    /// let y = HostTensor::f32(&[2], &[1.0, 0.0]);
    /// let z = Device::cpu().compute([&x, &y], |_, [x, y]| x.binary_cross_entropy_with_logits(&y))?;
    /// assert_eq!(format!("{z:.3}"), "0.22");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn binary_cross_entropy_with_logits(&self, target: &Tensor) -> Tensor {
        self.bce_with_logits(target, None, None, Reduction::Mean)
    }

    /// [`Tensor::binary_cross_entropy_with_logits`] with weights of elements and of positive examples.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor, Reduction};
    /// let x = HostTensor::f32(&[2], &[2.0, -1.0]);
    /// let y = HostTensor::f32(&[2], &[1.0, 0.0]);
    /// let positive = HostTensor::f32(&[2], &[3.0, 3.0]);
    /// let z = Device::cpu().compute([&x, &y, &positive], |_, [x, y, positive]| x.bce_with_logits(&y, None, Some(&positive), Reduction::Sum))?;
    /// assert_eq!(format!("{z:.3}"), "0.694");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn bce_with_logits(&self, target: &Tensor, weight: Option<&Tensor>, pos_weight: Option<&Tensor>, reduction: Reduction) -> Tensor {
        let call = self.call("binary_cross_entropy_with_logits.default").with("target", target).with("weight", weight);
        call.with("pos_weight", pos_weight).with("reduction", reduction).one()
    }

    /// Focal loss of logits: [`Tensor::bce_with_logits`] where examples that are right count little. Usual are `alpha` 0.25 and
    /// `gamma` 2.
    #[track_caller]
    pub fn sigmoid_focal_loss(&self, target: &Tensor, alpha: f64, gamma: f64, reduction: Reduction) -> Tensor {
        let (p, rest) = (self.sigmoid(), 1.0 - target);
        let entropy = self.bce_with_logits(target, None, None, Reduction::None);
        let wrong = &p * &rest + (1.0 - &p) * target;
        let weight = target * alpha + rest * (1.0 - alpha);
        (weight * wrong.pow(gamma) * entropy).reduced(reduction)
    }

    /// One less Dice's coefficient of probabilities with a target of zeros and ones, for each example (dimension 0), and their mean.
    /// `smooth`, usually 1, is added above and below.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[1, 2], &[1.0, 0.5]);
    /// let y = HostTensor::f32(&[1, 2], &[1.0, 0.0]);
    /// let z = Device::cpu().compute([&x, &y], |_, [x, y]| x.dice_loss(&y, 1.0))?;
    /// assert_eq!(format!("{z:.3}"), "0.143");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn dice_loss(&self, target: &Tensor, smooth: f64) -> Tensor {
        if self.rank() < 2 || target.rank() < 2 {
            return self.fail("dice_loss", format!("operands are [n, ...]: {} x {}", self.ty, target.ty));
        }
        let (x, y) = (self.flatten(1, -1), target.flatten(1, -1));
        let common = (&x * &y).sum(1);
        (1.0 - (2.0 * common + smooth) / (x.sum(1) + y.sum(1) + smooth)).mean(())
    }

    /// `y (log(y) - x)` of log-probabilities, or `e^y (y - x)` where the target is logarithms too.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor, Reduction};
    /// let x = HostTensor::f32(&[2], &[0.5, 0.5]);
    /// let y = HostTensor::f32(&[2], &[0.25, 0.75]);
    /// let z = Device::cpu().compute([&x, &y], |_, [x, y]| x.log().kl_div(&y, false, Reduction::Sum))?;
    /// assert_eq!(format!("{z:.3}"), "0.131");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn kl_div(&self, target: &Tensor, log_target: bool, reduction: Reduction) -> Tensor {
        self.call("kl_div.default").with("target", target).with("log_target", log_target).with("reduction", reduction).one()
    }

    /// `e^x - y x`: Poisson's negative log-likelihood of the logarithm of a rate.
    #[track_caller]
    pub fn poisson_nll_loss(&self, target: &Tensor, reduction: Reduction) -> Tensor {
        let call = self.call_as("poisson_nll_loss.default", "input").with("target", target).with("log_input", true).with("full", false);
        call.with("eps", 1e-8).with("reduction", reduction).one()
    }

    /// `(log(var) + (x - y)^2 / var) / 2` of means with variances, which count as 1e-6 at least.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor, Reduction};
    /// let x = HostTensor::f32(&[2], &[1.0, 2.0]);
    /// let y = HostTensor::f32(&[2], &[0.0, 4.0]);
    /// let var = HostTensor::f32(&[2], &[1.0, 4.0]);
    /// let z = Device::cpu().compute([&x, &y, &var], |_, [x, y, var]| x.gaussian_nll_loss(&y, &var, Reduction::Mean))?;
    /// assert_eq!(format!("{z:.3}"), "0.847");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn gaussian_nll_loss(&self, target: &Tensor, var: &Tensor, reduction: Reduction) -> Tensor {
        let var = var.straight_through(&var.clamp_min(1e-6));
        (0.5 * (var.log() + (self - target).square() / &var)).reduced(reduction)
    }

    /// `log(1 + e^(-y x))` for targets of -1 and 1.
    #[track_caller]
    pub fn soft_margin_loss(&self, target: &Tensor, reduction: Reduction) -> Tensor {
        self.call("soft_margin_loss.default").with("target", target).with("reduction", reduction).one()
    }

    /// `x` for targets of 1, `max(0, margin - x)` for targets of -1. PyTorch's default margin is 1.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor, Reduction};
    /// let x = HostTensor::f32(&[2], &[0.5, 0.25]);
    /// let y = HostTensor::f32(&[2], &[1.0, -1.0]);
    /// let z = Device::cpu().compute([&x, &y], |_, [x, y]| x.hinge_embedding_loss(&y, 1.0, Reduction::None))?;
    /// assert_eq!(z.to_string(), "[0.5  0.75]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn hinge_embedding_loss(&self, target: &Tensor, margin: f64, reduction: Reduction) -> Tensor {
        self.call("hinge_embedding_loss.default").with("target", target).with("margin", margin).with("reduction", reduction).one()
    }

    /// `max(0, 1 - y x)`: the hinge loss of support vector machines, for targets of -1 and 1.
    #[track_caller]
    pub fn hinge_loss(&self, target: &Tensor, reduction: Reduction) -> Tensor {
        (1.0 - self * target).relu().reduced(reduction)
    }

    /// Reduced as losses are.
    #[track_caller]
    fn reduced(&self, reduction: Reduction) -> Tensor {
        match reduction {
            Reduction::Mean => self.mean(()),
            Reduction::Sum => self.sum(()),
            Reduction::None => self.clone(),
        }
    }
}

/// Settings of [`Tensor::triplet_margin_loss`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Triplet {
    /// How much farther the negative is to be.
    pub margin: f64,
    /// The order of the norm.
    pub p: f64,
    /// The negative counts from whichever of anchor and positive it is nearer to.
    pub swap: bool,
}

impl Default for Triplet {
    fn default() -> Triplet {
        Triplet { margin: 1.0, p: 2.0, swap: false }
    }
}

/// Losses of distances.
impl Tensor {
    /// `max(0, |anchor - positive| - |anchor - negative| + margin)`, with this tensor as the anchor.
    #[track_caller]
    pub fn triplet_margin_loss(&self, positive: &Tensor, negative: &Tensor, settings: Triplet, reduction: Reduction) -> Tensor {
        let call = self.call_as("triplet_margin_loss.default", "anchor").with("positive", positive).with("negative", negative);
        call.with("margin", settings.margin).with("p", settings.p).with("swap", settings.swap).with("reduction", reduction).one()
    }

    /// `max(0, margin - y (x - other))` for targets of -1 and 1. PyTorch's default margin is 0.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor, Reduction};
    /// let x = HostTensor::f32(&[2], &[1.0, 2.0]);
    /// let y = HostTensor::f32(&[2], &[2.0, 1.0]);
    /// let order = HostTensor::f32(&[2], &[1.0, 1.0]);
    /// let z = Device::cpu().compute([&x, &y, &order], |_, [x, y, order]| x.margin_ranking_loss(&y, &order, 0.5, Reduction::None))?;
    /// assert_eq!(z.to_string(), "[1.5 0. ]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn margin_ranking_loss(&self, other: &Tensor, target: &Tensor, margin: f64, reduction: Reduction) -> Tensor {
        let call = self.call_as("margin_ranking_loss.default", "input1").with("input2", other).with("target", target);
        call.with("margin", margin).with("reduction", reduction).one()
    }

    /// `1 - cos` for targets of 1, `max(0, cos - margin)` for targets of -1. PyTorch's default margin is 0.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor, Reduction};
    /// let x = HostTensor::f32(&[2, 2], &[1.0, 0.0, 1.0, 1.0]);
    /// let y = HostTensor::f32(&[2, 2], &[0.0, 1.0, 1.0, 0.0]);
    /// let same = HostTensor::f32(&[2], &[1.0, -1.0]);
    /// let z = Device::cpu().compute([&x, &y, &same], |_, [x, y, same]| x.cosine_embedding_loss(&y, &same, 0.0, Reduction::None))?;
    /// assert_eq!(format!("{z:.3}"), "[1.    0.707]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn cosine_embedding_loss(&self, other: &Tensor, target: &Tensor, margin: f64, reduction: Reduction) -> Tensor {
        let call = self.call_as("cosine_embedding_loss.default", "input1").with("input2", other).with("target", target);
        call.with("margin", margin).with("reduction", reduction).one()
    }
}
