//! Optimizers: their settings, and learning-rate schedules.

use crate::config::{Optimizer, OptimizerKind};

/// Stochastic gradient descent, with momentum where asked: `v = momentum * v + g; p -= lr * v`.
///
/// ```
/// use inductor::{config::Optimizer, frontend::optim::Sgd};
/// let optimizer: Optimizer = Sgd::new(0.1).momentum(0.9).into();
/// assert_eq!(optimizer.lr, 0.1);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Sgd {
    settings: Settings,
    momentum: f64,
}

/// Adam (Kingma and Ba, 2015) with bias correction; weight decay is L2. The correction counts the updates of the moments, which
/// the state keeps: programs that share a state but not their parameters, as the two of a GAN, do not disturb each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Adam {
    settings: Settings,
    moments: Moments,
}

/// Adam with decoupled weight decay (Loshchilov and Hutter, 2019). Defaults as in PyTorch: betas 0.9 and 0.999, eps 1e-8,
/// weight decay 0.01; decay applies to parameters of rank two and more, so that norms and biases are left alone.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW {
    settings: Settings,
    moments: Moments,
}

#[derive(Clone, Debug, PartialEq)]
struct Settings {
    lr: f64,
    weight_decay: f64,
    decay_vectors: bool,
    clip_norm: Option<f64>,
    name: String,
}

#[derive(Clone, Debug, PartialEq)]
struct Moments {
    beta1: f64,
    beta2: f64,
    eps: f64,
    step_per_parameter: bool,
}

impl Settings {
    fn new(lr: f64, weight_decay: f64) -> Settings {
        Settings { lr, weight_decay, decay_vectors: false, clip_norm: None, name: String::new() }
    }

    fn optimizer(self, kind: OptimizerKind) -> Optimizer {
        let Settings { lr, weight_decay, decay_vectors, clip_norm, name } = self;
        Optimizer { kind, lr, weight_decay, decay_vectors, clip_norm, name, step_per_parameter: false }
    }
}

const MOMENTS: Moments = Moments { beta1: 0.9, beta2: 0.999, eps: 1e-8, step_per_parameter: false };

macro_rules! common_settings {
    ($name:ident) => {
        impl $name {
            /// Weight decay of parameters of rank two and more.
            pub fn weight_decay(mut self, decay: f64) -> $name {
                self.settings.weight_decay = decay;
                self
            }

            /// Weight decay of vectors and scalars too, as PyTorch's optimizers do it by default.
            pub fn decay_vectors(mut self, decay: bool) -> $name {
                self.settings.decay_vectors = decay;
                self
            }

            /// Scales gradients down so that their global norm is at most `norm`.
            pub fn clip_norm(mut self, norm: f64) -> $name {
                self.settings.clip_norm = Some(norm);
                self
            }

            /// Keeps this optimizer's state of a parameter apart from that of others. Programs of one state whose optimizers
            /// have the same name (none, without this) continue each other's moments, as one optimizer that steps on several
            /// losses; two optimizers over the same parameters have two names.
            pub fn named(mut self, name: &str) -> $name {
                self.settings.name = name.into();
                self
            }
        }
    };
}
common_settings!(Sgd);
common_settings!(Adam);
common_settings!(AdamW);

macro_rules! moment_settings {
    ($name:ident) => {
        impl $name {
            /// Decay of the first and second moment.
            pub fn betas(mut self, beta1: f64, beta2: f64) -> $name {
                (self.moments.beta1, self.moments.beta2) = (beta1, beta2);
                self
            }

            /// Added to the denominator.
            pub fn eps(mut self, eps: f64) -> $name {
                self.moments.eps = eps;
                self
            }

            /// Counts the updates of each parameter apart for bias correction, as PyTorch does. Needed where programs of one
            /// optimizer train different parameters that overlap, such as a trunk with two heads; costs one number a parameter
            /// to be sent at each step.
            pub fn step_per_parameter(mut self, apart: bool) -> $name {
                self.moments.step_per_parameter = apart;
                self
            }
        }

        impl From<$name> for Optimizer {
            fn from(o: $name) -> Optimizer {
                let Moments { beta1, beta2, eps, step_per_parameter } = o.moments;
                Optimizer { step_per_parameter, ..o.settings.optimizer(OptimizerKind::$name { beta1, beta2, eps }) }
            }
        }
    };
}
moment_settings!(Adam);
moment_settings!(AdamW);

impl Sgd {
    /// Plain descent with that default learning rate.
    pub fn new(lr: f64) -> Sgd {
        Sgd { settings: Settings::new(lr, 0.0), momentum: 0.0 }
    }

    /// Decay of the velocity; 0 keeps no state.
    pub fn momentum(mut self, momentum: f64) -> Sgd {
        self.momentum = momentum;
        self
    }
}

impl Adam {
    /// Adam with that default learning rate.
    pub fn new(lr: f64) -> Adam {
        Adam { settings: Settings::new(lr, 0.0), moments: MOMENTS }
    }
}

impl AdamW {
    /// AdamW with that default learning rate.
    pub fn new(lr: f64) -> AdamW {
        AdamW { settings: Settings::new(lr, 0.01), moments: MOMENTS }
    }
}

impl From<Sgd> for Optimizer {
    fn from(o: Sgd) -> Optimizer {
        o.settings.optimizer(OptimizerKind::Sgd { momentum: o.momentum })
    }
}

/// A learning rate as a function of the step, for the host scalar `lr`: nothing recompiles when it changes.
///
/// ```
/// use inductor::frontend::optim::Schedule;
/// let schedule = Schedule::Cosine { peak: 1.0, floor: 0.1, warmup: 10, total: 110 };
/// assert_eq!(schedule.lr(5), 0.5);
/// assert_eq!(schedule.lr(10), 1.0);
/// assert!((schedule.lr(60) - 0.55).abs() < 1e-12);
/// assert_eq!(schedule.lr(500), 0.1);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Schedule {
    /// The same at every step.
    Constant(f64),
    /// Rises linearly to `peak` over `warmup` steps, then falls along half a cosine to `floor` at step `total`.
    Cosine {
        /// Largest rate.
        peak: f64,
        /// Rate from step `total` on.
        floor: f64,
        /// Steps of the rise.
        warmup: u64,
        /// Step at which the fall ends.
        total: u64,
    },
}

impl Schedule {
    /// The rate of a step, counted from 1.
    pub fn lr(&self, step: u64) -> f64 {
        match *self {
            Schedule::Constant(lr) => lr,
            Schedule::Cosine { peak, warmup, .. } if step < warmup => peak * step as f64 / warmup as f64,
            Schedule::Cosine { floor, total, .. } if step >= total => floor,
            Schedule::Cosine { peak, floor, warmup, total } => {
                let done = (step - warmup) as f64 / (total - warmup) as f64;
                floor + (peak - floor) * 0.5 * (1.0 + libm::cos(std::f64::consts::PI * done))
            }
        }
    }
}
