//! Builders of [`Optimizer`], one for each algorithm.

use crate::config::{Optimizer, OptimizerKind, ParameterGroup};

/// Builders with the settings that all optimizers have.
macro_rules! optimizers {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name(Optimizer);

        impl From<$name> for Optimizer {
            fn from(o: $name) -> Optimizer {
                o.0
            }
        }

        impl $name {
            /// Weight decay of parameters of rank two and more.
            pub fn weight_decay(mut self, decay: f64) -> $name {
                self.0.weight_decay = decay;
                self
            }

            /// Weight decay of vectors and scalars too, as PyTorch's optimizers do it by default.
            pub fn decay_vectors(mut self, decay: bool) -> $name {
                self.0.decay_vectors = decay;
                self
            }

            /// Brings each element of gradients into `-value..=value`, before the norm is looked at.
            pub fn clip_value(mut self, value: f64) -> $name {
                self.0.clip_value = Some(value);
                self
            }

            /// Scales gradients down so that their global norm is at most `norm`.
            pub fn clip_norm(mut self, norm: f64) -> $name {
                self.0.clip_norm = Some(norm);
                self
            }

            /// Keeps this optimizer's state of a parameter apart from that of others. Programs of one state whose optimizers
            /// have the same name (none, without this) continue each other's moments, as one optimizer that steps on several
            /// losses; two optimizers over the same parameters have two names.
            pub fn named(mut self, name: &str) -> $name {
                self.0.name = name.into();
                self
            }

            /// Counts the updates of each parameter apart, as PyTorch does. Needed where programs of one optimizer train
            /// different parameters that overlap, such as a trunk with two heads; costs one number a parameter to be sent at
            /// each step.
            pub fn step_per_parameter(mut self, apart: bool) -> $name {
                self.0.step_per_parameter = apart;
                self
            }

            /// Updates once in `steps` runs, by the mean of their gradients: a batch that is too large for the device is taken
            /// in parts. Runs between updates change nothing but that mean, which is state.
            pub fn accumulate(mut self, steps: u32) -> $name {
                self.0.accumulate = steps;
                self
            }

            /// Keeps an exponential moving average of each parameter, which starts at its value after the first update:
            /// `average = decay * average + (1 - decay) * parameter`. See [`State::averaged`](crate::State::averaged).
            pub fn average(mut self, decay: f64) -> $name {
                self.0.average = Some(decay);
                self
            }

            /// Trains the parameters whose names fit a pattern ([`matches_pattern`](crate::types::matches_pattern)) by other
            /// settings, be it of the same algorithm or of another one. Of several groups that fit, the first counts. Where the
            /// learning rate changes, that of the group does in proportion.
            pub fn group(mut self, pattern: &str, optimizer: impl Into<Optimizer>) -> $name {
                self.0.groups.push(ParameterGroup { pattern: pattern.into(), optimizer: Some(optimizer.into()) });
                self
            }

            /// Leaves the parameters whose names fit a pattern as they are: they cost neither a gradient nor state.
            pub fn frozen(mut self, pattern: &str) -> $name {
                self.0.groups.push(ParameterGroup { pattern: pattern.into(), optimizer: None });
                self
            }
        }
    )+ };
}

/// Settings of one algorithm: methods that set fields of its kind.
macro_rules! settings {
    ($name:ident as $kind:ident: $($(#[$doc:meta])* $method:ident($($field:ident: $ty:ty),+);)+) => {
        impl $name { $(
            $(#[$doc])*
            pub fn $method(mut self, $($field: $ty),+) -> $name {
                let given = ($($field,)+);
                if let OptimizerKind::$kind { $($field,)+ .. } = &mut self.0.kind {
                    ($(*$field,)+) = given;
                }
                self
            }
        )+ }
    };
}

optimizers! {
    /// Stochastic gradient descent, with momentum where asked: `v = momentum * v + g; p -= lr * v`.
    ///
    /// ```
    /// use inductor::{config::Optimizer, frontend::optim::Sgd};
    /// let optimizer: Optimizer = Sgd::new(0.1).momentum(0.9).nesterov(true).into();
    /// assert_eq!(optimizer.lr, 0.1);
    /// ```
    Sgd,
    /// Adam (Kingma and Ba, 2015) with bias correction; weight decay is L2. The correction counts the updates of the moments, which
    /// the state keeps: programs that share a state but not their parameters, as the two of a GAN, do not disturb each other.
    ///
    /// ```
    /// # use inductor::{Config, DType, Device, HostTensor, Initializer, compile_train, optim, trace};
    /// let model = trace("w", |t| Ok(t.parameter("w", DType::F32, 2, Initializer::Ones).dot(&t.input("gradient", DType::F32, 2))))?;
    /// let step = compile_train(&model, &Device::cpu(), optim::Adam::new(0.1), &Config::default())?;
    /// let mut state = step.init(0)?;
    /// for _ in 0..2 {
    ///     step.run(&mut state, [HostTensor::f32(&[2], &[0.5, -2.0])])?;
    /// }
    /// assert_eq!(format!("{:.4}", state.get("w")?), "[0.8 1.2]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    Adam,
    /// Adam with decoupled weight decay (Loshchilov and Hutter, 2019). Defaults as in PyTorch: betas 0.9 and 0.999, eps 1e-8,
    /// weight decay 0.01; decay applies to parameters of rank two and more, so that norms and biases are left alone.
    ///
    /// ```
    /// use inductor::optim::AdamW;
    /// // The head learns fast, biases do not decay, and the encoder stays as it is.
    /// let optimizer = AdamW::new(1e-4).group("head", AdamW::new(1e-3)).group("*.bias", AdamW::new(1e-4).weight_decay(0.0)).frozen("encoder");
    /// # let optimizer: inductor::config::Optimizer = optimizer.into();
    /// # assert!(optimizer.of("encoder.0.weight").is_none() && optimizer.of("head.weight").unwrap().lr == 1e-3);
    /// ```
    AdamW,
    /// Adam by the infinity norm of gradients (Kingma and Ba, 2015, section 7).
    ///
    /// ```
    /// # use inductor::{Config, DType, Device, HostTensor, Initializer, compile_train, optim, trace};
    /// let model = trace("w", |t| Ok(t.parameter("w", DType::F32, 2, Initializer::Ones).dot(&t.input("gradient", DType::F32, 2))))?;
    /// let step = compile_train(&model, &Device::cpu(), optim::Adamax::new(0.1), &Config::default())?;
    /// let mut state = step.init(0)?;
    /// for _ in 0..2 {
    ///     step.run(&mut state, [HostTensor::f32(&[2], &[0.5, -2.0])])?;
    /// }
    /// assert_eq!(format!("{:.4}", state.get("w")?), "[0.8 1.2]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    Adamax,
    /// Adam with Nesterov's momentum (Dozat, 2016).
    ///
    /// ```
    /// # use inductor::{Config, DType, Device, HostTensor, Initializer, compile_train, optim, trace};
    /// let model = trace("w", |t| Ok(t.parameter("w", DType::F32, 2, Initializer::Ones).dot(&t.input("gradient", DType::F32, 2))))?;
    /// let step = compile_train(&model, &Device::cpu(), optim::NAdam::new(0.1), &Config::default())?;
    /// let mut state = step.init(0)?;
    /// for _ in 0..2 {
    ///     step.run(&mut state, [HostTensor::f32(&[2], &[0.5, -2.0])])?;
    /// }
    /// assert_eq!(format!("{:.4}", state.get("w")?), "[0.816 1.184]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    NAdam,
    /// Adam whose rate is rectified while its second moment is uncertain (Liu et al., 2020).
    ///
    /// ```
    /// # use inductor::{Config, DType, Device, HostTensor, Initializer, compile_train, optim, trace};
    /// let model = trace("w", |t| Ok(t.parameter("w", DType::F32, 2, Initializer::Ones).dot(&t.input("gradient", DType::F32, 2))))?;
    /// let step = compile_train(&model, &Device::cpu(), optim::RAdam::new(0.1), &Config::default())?;
    /// let mut state = step.init(0)?;
    /// for _ in 0..2 {
    ///     step.run(&mut state, [HostTensor::f32(&[2], &[0.5, -2.0])])?;
    /// }
    /// assert_eq!(format!("{:.4}", state.get("w")?), "[0.9 1.4]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    RAdam,
    /// RMSprop (Hinton, 2012).
    ///
    /// ```
    /// # use inductor::{Config, DType, Device, HostTensor, Initializer, compile_train, optim, trace};
    /// let model = trace("w", |t| Ok(t.parameter("w", DType::F32, 2, Initializer::Ones).dot(&t.input("gradient", DType::F32, 2))))?;
    /// let step = compile_train(&model, &Device::cpu(), optim::RmsProp::new(0.1).momentum(0.9), &Config::default())?;
    /// let mut state = step.init(0)?;
    /// for _ in 0..2 {
    ///     step.run(&mut state, [HostTensor::f32(&[2], &[0.5, -2.0])])?;
    /// }
    /// assert_eq!(format!("{:.4}", state.get("w")?), "[-1.6089  3.6089]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    RmsProp,
    /// Adagrad (Duchi, Hazan and Singer, 2011).
    ///
    /// ```
    /// # use inductor::{Config, DType, Device, HostTensor, Initializer, compile_train, optim, trace};
    /// let model = trace("w", |t| Ok(t.parameter("w", DType::F32, 2, Initializer::Ones).dot(&t.input("gradient", DType::F32, 2))))?;
    /// let step = compile_train(&model, &Device::cpu(), optim::Adagrad::new(0.1), &Config::default())?;
    /// let mut state = step.init(0)?;
    /// for _ in 0..2 {
    ///     step.run(&mut state, [HostTensor::f32(&[2], &[0.5, -2.0])])?;
    /// }
    /// assert_eq!(format!("{:.4}", state.get("w")?), "[0.8293 1.1707]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    Adagrad,
    /// Adadelta (Zeiler, 2012).
    ///
    /// ```
    /// # use inductor::{Config, DType, Device, HostTensor, Initializer, compile_train, optim, trace};
    /// let model = trace("w", |t| Ok(t.parameter("w", DType::F32, 2, Initializer::Ones).dot(&t.input("gradient", DType::F32, 2))))?;
    /// let step = compile_train(&model, &Device::cpu(), optim::Adadelta::new(1.0), &Config::default())?;
    /// let mut state = step.init(0)?;
    /// for _ in 0..2 {
    ///     step.run(&mut state, [HostTensor::f32(&[2], &[0.5, -2.0])])?;
    /// }
    /// assert_eq!(format!("{:.4}", state.get("w")?), "[0.9936 1.0064]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    Adadelta,
    /// Adafactor (Shazeer and Stern, 2018) as in PyTorch: the second moment of a matrix is the product of one vector for its rows
    /// and one for its columns, and the rate is relative to the size of the parameter.
    Adafactor,
    /// Lion (Chen et al., 2023): steps by the sign of a moment. Its rate is some ten times smaller than AdamW's.
    Lion,
    /// LAMB (You et al., 2020): Adam whose updates are as long as the parameter that they change, for large batches.
    Lamb,
    /// Muon (Jordan et al., 2024): momentum made orthogonal by Newton-Schulz iterations. It trains matrices only; give embeddings,
    /// vectors and the head a group of another optimizer. PyTorch iterates in bf16, this in f32.
    ///
    /// ```
    /// use inductor::optim::{AdamW, Muon};
    /// let optimizer = Muon::new(0.02).group("embed", AdamW::new(3e-4)).group("*.bias", AdamW::new(3e-4));
    /// # let _: inductor::config::Optimizer = optimizer.into();
    /// ```
    Muon,
}

impl Sgd {
    /// Plain descent with that default learning rate.
    pub fn new(lr: f64) -> Sgd {
        Sgd(Optimizer::new(OptimizerKind::Sgd { momentum: 0.0, dampening: 0.0, nesterov: false }, lr))
    }
}
settings! { Sgd as Sgd:
    /// Decay of the velocity; 0 keeps no state.
    momentum(momentum: f64);
    /// How much less of each gradient the velocity takes, but for the first.
    dampening(dampening: f64);
    /// Steps by the gradient with the velocity ahead of it.
    nesterov(nesterov: bool);
}

const ADAM: OptimizerKind = OptimizerKind::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, amsgrad: false };

impl Adam {
    /// Adam with that default learning rate.
    pub fn new(lr: f64) -> Adam {
        Adam(Optimizer::new(ADAM, lr))
    }
}
settings! { Adam as Adam:
    /// Decay of the first and second moment.
    betas(beta1: f64, beta2: f64);
    /// Added to the denominator.
    eps(eps: f64);
    /// Divides by the largest second moment so far.
    amsgrad(amsgrad: bool);
}

impl AdamW {
    /// AdamW with that default learning rate.
    pub fn new(lr: f64) -> AdamW {
        AdamW(Optimizer { weight_decay: 0.01, decoupled_decay: true, ..Optimizer::new(ADAM, lr) })
    }
}
settings! { AdamW as Adam:
    /// Decay of the first and second moment.
    betas(beta1: f64, beta2: f64);
    /// Added to the denominator.
    eps(eps: f64);
    /// Divides by the largest second moment so far.
    amsgrad(amsgrad: bool);
}

impl Adamax {
    /// Adamax with that default learning rate.
    pub fn new(lr: f64) -> Adamax {
        Adamax(Optimizer::new(OptimizerKind::Adamax { beta1: 0.9, beta2: 0.999, eps: 1e-8 }, lr))
    }
}
settings! { Adamax as Adamax:
    /// Decay of the first moment and of the norm.
    betas(beta1: f64, beta2: f64);
    /// Added to the gradient's magnitude.
    eps(eps: f64);
}

impl NAdam {
    /// NAdam with that default learning rate.
    pub fn new(lr: f64) -> NAdam {
        NAdam(Optimizer::new(OptimizerKind::NAdam { beta1: 0.9, beta2: 0.999, eps: 1e-8, momentum_decay: 4e-3 }, lr))
    }

    /// Decay shrinks the parameter itself instead of pulling its gradient.
    pub fn decoupled_weight_decay(mut self, decoupled: bool) -> NAdam {
        self.0.decoupled_decay = decoupled;
        self
    }
}
settings! { NAdam as NAdam:
    /// Decay of the first and second moment.
    betas(beta1: f64, beta2: f64);
    /// Added to the denominator.
    eps(eps: f64);
    /// How fast the momentum warms up.
    momentum_decay(momentum_decay: f64);
}

impl RAdam {
    /// RAdam with that default learning rate.
    pub fn new(lr: f64) -> RAdam {
        RAdam(Optimizer::new(OptimizerKind::RAdam { beta1: 0.9, beta2: 0.999, eps: 1e-8 }, lr))
    }

    /// Decay shrinks the parameter itself instead of pulling its gradient.
    pub fn decoupled_weight_decay(mut self, decoupled: bool) -> RAdam {
        self.0.decoupled_decay = decoupled;
        self
    }
}
settings! { RAdam as RAdam:
    /// Decay of the first and second moment; the second is at least 0.6.
    betas(beta1: f64, beta2: f64);
    /// Added to the denominator.
    eps(eps: f64);
}

impl RmsProp {
    /// RMSprop with that default learning rate.
    pub fn new(lr: f64) -> RmsProp {
        RmsProp(Optimizer::new(OptimizerKind::RmsProp { alpha: 0.99, eps: 1e-8, momentum: 0.0, centered: false }, lr))
    }
}
settings! { RmsProp as RmsProp:
    /// Decay of the mean square.
    alpha(alpha: f64);
    /// Added to the denominator.
    eps(eps: f64);
    /// Decay of the velocity; 0 keeps none.
    momentum(momentum: f64);
    /// Divides by the standard deviation instead of the root of the mean square.
    centered(centered: bool);
}

impl Adagrad {
    /// Adagrad with that default learning rate.
    pub fn new(lr: f64) -> Adagrad {
        Adagrad(Optimizer::new(OptimizerKind::Adagrad { lr_decay: 0.0, initial: 0.0, eps: 1e-10 }, lr))
    }
}
settings! { Adagrad as Adagrad:
    /// Divides the rate by `1 + (step - 1) * lr_decay`.
    lr_decay(lr_decay: f64);
    /// What sums of squares start from.
    initial_accumulator_value(initial: f64);
    /// Added to the denominator.
    eps(eps: f64);
}

impl Adadelta {
    /// Adadelta with that default learning rate, which is most often 1.
    pub fn new(lr: f64) -> Adadelta {
        Adadelta(Optimizer::new(OptimizerKind::Adadelta { rho: 0.9, eps: 1e-6 }, lr))
    }
}
settings! { Adadelta as Adadelta:
    /// Decay of both mean squares.
    rho(rho: f64);
    /// Added to them under the roots.
    eps(eps: f64);
}

impl Adafactor {
    /// Adafactor with that default learning rate: a bound, which falls as `1 / sqrt(step)`.
    pub fn new(lr: f64) -> Adafactor {
        let kind = OptimizerKind::Adafactor { beta2_decay: -0.8, eps1: None, eps2: 1e-3, clip: 1.0 };
        Adafactor(Optimizer { decoupled_decay: true, ..Optimizer::new(kind, lr) })
    }
}
settings! { Adafactor as Adafactor:
    /// The second moment takes `step^beta2_decay` of each new square.
    beta2_decay(beta2_decay: f64);
    /// Least root of the second moment (`None` is the resolution of the parameter's dtype), and least size of a parameter.
    eps(eps1: Option<f64>, eps2: f64);
    /// Largest root mean square of an update: PyTorch's `d`.
    clip(clip: f64);
}

impl Lion {
    /// Lion with that default learning rate.
    pub fn new(lr: f64) -> Lion {
        Lion(Optimizer { decoupled_decay: true, ..Optimizer::new(OptimizerKind::Lion { beta1: 0.9, beta2: 0.99 }, lr) })
    }
}
settings! { Lion as Lion:
    /// Share of the moment in the direction, and its decay.
    betas(beta1: f64, beta2: f64);
}

impl Lamb {
    /// LAMB with that default learning rate.
    pub fn new(lr: f64) -> Lamb {
        Lamb(Optimizer::new(OptimizerKind::Lamb { beta1: 0.9, beta2: 0.999, eps: 1e-6 }, lr))
    }
}
settings! { Lamb as Lamb:
    /// Decay of the first and second moment.
    betas(beta1: f64, beta2: f64);
    /// Added to the denominator.
    eps(eps: f64);
}

impl Muon {
    /// Muon with that default learning rate.
    pub fn new(lr: f64) -> Muon {
        let coefficients = [3.4445, -4.7750, 2.0315];
        let kind = OptimizerKind::Muon { momentum: 0.95, nesterov: true, coefficients, iterations: 5, eps: 1e-7, match_adamw: false };
        Muon(Optimizer { weight_decay: 0.1, decoupled_decay: true, ..Optimizer::new(kind, lr) })
    }
}
settings! { Muon as Muon:
    /// Decay of the momentum.
    momentum(momentum: f64);
    /// Looks ahead.
    nesterov(nesterov: bool);
    /// Coefficients of the Newton-Schulz iteration.
    ns_coefficients(coefficients: [f64; 3]);
    /// Number of iterations.
    ns_steps(iterations: u32);
    /// Least norm to divide by.
    eps(eps: f64);
    /// Scales rates so that updates are as large as AdamW's, whose rates and decay then fit: `0.2 * sqrt(max(rows, columns))` in
    /// place of `sqrt(max(1, rows / columns))`.
    match_rms_adamw(match_adamw: bool);
}
