//! Settings of the update as data; their builders are in `frontend/optim`.

use serde::{Deserialize, Serialize};

/// Optimizers and their hyperparameters. The learning rate is a host scalar named `lr`, given per step, with `lr` here as
/// its default; `step` counts the updates from 1 as a host scalar of that name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Optimizer {
    /// Which algorithm.
    pub kind: OptimizerKind,
    /// Default learning rate.
    pub lr: f64,
    /// Weight decay; applied to parameters of rank two and more.
    pub weight_decay: f64,
    /// Decay shrinks the parameter itself, `p *= 1 - lr * decay`, instead of pulling its gradient (L2).
    #[serde(default)]
    pub decoupled_decay: bool,
    /// Weight decay of vectors and scalars too, as PyTorch's optimizers do it.
    #[serde(default)]
    pub decay_vectors: bool,
    /// Elements of gradients are brought into `-value..=value`, before the norm is looked at.
    #[serde(default)]
    pub clip_value: Option<f64>,
    /// Gradients are scaled down so that their global norm is at most this.
    pub clip_norm: Option<f64>,
    /// Keeps its state apart from that of other optimizers of the same parameters; the empty name is the optimizer that most
    /// programs have.
    #[serde(default)]
    pub name: String,
    /// Bias correction counts the updates of each parameter apart, as PyTorch does, so that the programs of one optimizer may
    /// train different parameters. Otherwise all parameters of a program have one count.
    #[serde(default)]
    pub step_per_parameter: bool,
    /// An update takes the mean gradient of so many steps, which differ in their batches only; the others leave parameters as
    /// they are.
    #[serde(default = "one")]
    pub accumulate: u32,
    /// Keeps an exponential moving average of each trained parameter, with that decay.
    #[serde(default)]
    pub average: Option<f64>,
    /// Parameters with settings of their own, or none. Of several that match, the first counts.
    #[serde(default)]
    pub groups: Vec<ParameterGroup>,
}

fn one() -> u32 {
    1
}

/// Parameters that are trained otherwise than the rest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParameterGroup {
    /// Which: see [`matches_pattern`](crate::types::matches_pattern).
    pub pattern: String,
    /// Algorithm, decay and learning rate, which changes with that of the whole in proportion; `None` freezes them.
    pub optimizer: Option<Optimizer>,
}

/// What a step of training tells about its gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Gradients {
    /// Nothing: they live as long as the update needs them.
    #[default]
    Internal,
    /// The norm of each, [`StepResult::gradient_norms`](crate::runtime::StepResult::gradient_norms).
    Norms,
    /// Norms, and the gradients themselves, [`StepResult::gradients`](crate::runtime::StepResult::gradients).
    Values,
}

/// The algorithm of an [`Optimizer`]. State starts at zero.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum OptimizerKind {
    /// Stochastic gradient descent, `v = momentum * v + (1 - dampening) * g; p -= lr * v` (PyTorch's form, whose first `v` is `g`).
    Sgd {
        /// 0 keeps no state.
        momentum: f64,
        /// How much less of the gradient the velocity takes, from the second step on.
        dampening: f64,
        /// Looks ahead: `p -= lr * (g + momentum * v)`.
        nesterov: bool,
    },
    /// Adam (Kingma and Ba, 2015) with bias correction.
    Adam {
        /// Decay of the first moment.
        beta1: f64,
        /// Decay of the second moment.
        beta2: f64,
        /// Added to the denominator.
        eps: f64,
        /// Divides by the largest second moment so far (Reddi et al., 2018).
        amsgrad: bool,
    },
    /// Adam by the infinity norm (Kingma and Ba, 2015, section 7).
    Adamax {
        /// Decay of the first moment.
        beta1: f64,
        /// Decay of the norm.
        beta2: f64,
        /// Added to the gradient's magnitude.
        eps: f64,
    },
    /// Adam with Nesterov's momentum (Dozat, 2016).
    NAdam {
        /// Decay of the first moment.
        beta1: f64,
        /// Decay of the second moment.
        beta2: f64,
        /// Added to the denominator.
        eps: f64,
        /// How fast the momentum warms up.
        momentum_decay: f64,
    },
    /// Adam with a rectified rate (Liu et al., 2020).
    RAdam {
        /// Decay of the first moment.
        beta1: f64,
        /// Decay of the second moment; at least 0.6, below which the rate is never rectified.
        beta2: f64,
        /// Added to the denominator.
        eps: f64,
    },
    /// RMSprop (Hinton, 2012).
    RmsProp {
        /// Decay of the mean square.
        alpha: f64,
        /// Added to the denominator.
        eps: f64,
        /// Decay of the velocity; 0 keeps none.
        momentum: f64,
        /// Divides by the standard deviation instead (Graves, 2013).
        centered: bool,
    },
    /// Adagrad (Duchi, Hazan and Singer, 2011).
    Adagrad {
        /// The rate is divided by `1 + (step - 1) * lr_decay`.
        lr_decay: f64,
        /// What the sum of squares starts from.
        initial: f64,
        /// Added to the denominator.
        eps: f64,
    },
    /// Adadelta (Zeiler, 2012).
    Adadelta {
        /// Decay of both mean squares.
        rho: f64,
        /// Added to them under the roots.
        eps: f64,
    },
    /// Adafactor (Shazeer and Stern, 2018), as in PyTorch: without momentum, with the rate relative to the parameter.
    Adafactor {
        /// The second moment takes `step^beta2_decay` of each new square.
        beta2_decay: f64,
        /// Least root of the second moment; `None` is the resolution of the parameter's dtype.
        eps1: Option<f64>,
        /// Least root mean square of a parameter.
        eps2: f64,
        /// Largest root mean square of an update.
        clip: f64,
    },
    /// Lion (Chen et al., 2023).
    Lion {
        /// Share of the moment in the direction.
        beta1: f64,
        /// Decay of the moment.
        beta2: f64,
    },
    /// LAMB (You et al., 2020): Adam whose updates are as long as the parameter, layer by layer.
    Lamb {
        /// Decay of the first moment.
        beta1: f64,
        /// Decay of the second moment.
        beta2: f64,
        /// Added to the denominator.
        eps: f64,
    },
    /// Muon (Jordan et al., 2024): momentum made orthogonal by Newton-Schulz iterations, for matrices only.
    Muon {
        /// Decay of the momentum, which takes `1 - momentum` of each gradient.
        momentum: f64,
        /// Looks ahead.
        nesterov: bool,
        /// Coefficients of the iteration.
        coefficients: [f64; 3],
        /// Number of iterations.
        iterations: u32,
        /// Least norm to divide by.
        eps: f64,
        /// Scales rates so that updates are as large as AdamW's: `0.2 * sqrt(max(rows, columns))` in place of
        /// `sqrt(max(1, rows / columns))`.
        match_adamw: bool,
    },
}

impl Optimizer {
    /// That algorithm with that rate, and nothing else.
    pub fn new(kind: OptimizerKind, lr: f64) -> Optimizer {
        Optimizer {
            kind,
            lr,
            weight_decay: 0.0,
            decoupled_decay: false,
            decay_vectors: false,
            clip_value: None,
            clip_norm: None,
            name: String::new(),
            step_per_parameter: false,
            accumulate: 1,
            average: None,
            groups: vec![],
        }
    }

    /// How that parameter is trained; `None` when it is frozen.
    pub fn of(&self, parameter: &str) -> Option<&Optimizer> {
        let group = self.groups.iter().find(|g| crate::types::matches_pattern(&g.pattern, parameter));
        group.map_or(Some(self), |g| g.optimizer.as_ref())
    }
}
