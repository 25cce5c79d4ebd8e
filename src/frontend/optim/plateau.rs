//! A learning rate that falls when a metric no longer improves.

use serde::{Deserialize, Serialize};

/// Which way a metric improves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Goal {
    /// Losses.
    Smaller,
    /// Accuracies.
    Larger,
}

/// PyTorch's `ReduceLROnPlateau`: the rate is multiplied by a factor where a metric has not improved for a while. What it has seen
/// is data, so that a run can go on exactly.
///
/// ```
/// use inductor::optim::{Goal, Plateau};
/// let mut rate = Plateau::new(0.1, Goal::Smaller).patience(1).factor(0.5);
/// let rates: Vec<f64> = [1.0, 0.9, 0.95, 0.93, 0.91].into_iter().map(|loss| rate.observe(loss)).collect();
/// assert_eq!(rates, [0.1, 0.1, 0.1, 0.05, 0.05]);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plateau {
    lr: f64,
    goal: Goal,
    factor: f64,
    patience: u64,
    threshold: f64,
    is_relative: bool,
    cooldown: u64,
    floor: f64,
    eps: f64,
    best: Option<f64>,
    bad: u64,
    cooling: u64,
}

impl Plateau {
    /// With that first rate and PyTorch's defaults: a factor of 0.1, a patience of 10, improvements from 1e-4 of the best on.
    pub fn new(lr: f64, goal: Goal) -> Plateau {
        let (factor, patience, threshold, is_relative) = (0.1, 10, 1e-4, true);
        Plateau { lr, goal, factor, patience, threshold, is_relative, cooldown: 0, floor: 0.0, eps: 1e-8, best: None, bad: 0, cooling: 0 }
    }

    /// What the rate is multiplied by.
    pub fn factor(mut self, factor: f64) -> Plateau {
        self.factor = factor;
        self
    }

    /// How many looks without improvement are borne.
    pub fn patience(mut self, looks: u64) -> Plateau {
        self.patience = looks;
        self
    }

    /// The least improvement that counts, as a share of the best or as it is.
    pub fn threshold(mut self, threshold: f64, is_relative: bool) -> Plateau {
        (self.threshold, self.is_relative) = (threshold, is_relative);
        self
    }

    /// How many looks after a fall do not count.
    pub fn cooldown(mut self, looks: u64) -> Plateau {
        self.cooldown = looks;
        self
    }

    /// The rate never falls below this.
    pub fn floor(mut self, lr: f64) -> Plateau {
        self.floor = lr;
        self
    }

    /// The rate as it is.
    pub fn lr(&self) -> f64 {
        self.lr
    }

    /// Takes note of the metric; gives the rate from here on.
    pub fn observe(&mut self, metric: f64) -> f64 {
        if self.is_better(metric) {
            (self.best, self.bad) = (Some(metric), 0);
        } else {
            self.bad += 1;
        }
        if self.cooling > 0 {
            (self.cooling, self.bad) = (self.cooling - 1, 0);
        }
        if self.bad > self.patience {
            let lower = (self.lr * self.factor).max(self.floor);
            if self.lr - lower > self.eps {
                self.lr = lower;
            }
            (self.cooling, self.bad) = (self.cooldown, 0);
        }
        self.lr
    }

    fn is_better(&self, metric: f64) -> bool {
        let Some(best) = self.best else { return !metric.is_nan() };
        match (self.goal, self.is_relative) {
            (Goal::Smaller, true) => metric < best * (1.0 - self.threshold),
            (Goal::Smaller, false) => metric < best - self.threshold,
            (Goal::Larger, true) => metric > best * (1.0 + self.threshold),
            (Goal::Larger, false) => metric > best + self.threshold,
        }
    }
}
