//! Learning rates as functions of the step.

use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// A learning rate as a function of the update, for the host scalar `lr`: nothing recompiles when it changes. Updates count from 1,
/// so that `lr(step)` is the rate that PyTorch's schedule of that name has after `step - 1` calls of `scheduler.step()`.
///
/// ```
/// use inductor::frontend::optim::Schedule;
/// let schedule = Schedule::Cosine { peak: 1.0, floor: 0.1, warmup: 10, total: 110 };
/// assert_eq!(schedule.lr(5), 0.5);
/// assert_eq!(schedule.lr(10), 1.0);
/// assert!((schedule.lr(60) - 0.55).abs() < 1e-12);
/// assert_eq!(schedule.lr(500), 0.1);
///
/// // Up in ten updates, constant for a hundred, then a tenth every fifty.
/// let schedule = Schedule::Constant(1.0).warmup(10).then(110, Schedule::Step { lr: 0.1, every: 50, factor: 0.1 });
/// assert_eq!([1, 10, 110, 111].map(|step| schedule.lr(step)), [0.1, 1.0, 1.0, 0.1]);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Moves from one rate to another in equal parts, and stays there.
    Linear {
        /// Rate of the first step.
        from: f64,
        /// Rate after `steps` steps.
        to: f64,
        /// Steps in between.
        steps: u64,
    },
    /// Falls along half a cosine again and again (Loshchilov and Hutter, 2017).
    WarmRestarts {
        /// Rate at each start.
        peak: f64,
        /// Rate that each fall ends before.
        floor: f64,
        /// Steps of the first fall.
        first: u64,
        /// Each fall is so many times as long as the one before it.
        factor: u64,
    },
    /// Up and down once (Smith and Topin, 2018).
    OneCycle {
        /// Largest rate.
        peak: f64,
        /// Steps of the whole.
        steps: u64,
        /// Share of the rise.
        rise: f64,
        /// The first rate is so many times smaller than the peak.
        start_divisor: f64,
        /// The last rate is so many times smaller than the first.
        end_divisor: f64,
        /// Along lines instead of half cosines.
        linear: bool,
    },
    /// Times a factor every so many steps.
    Step {
        /// First rate.
        lr: f64,
        /// Steps of the same rate.
        every: u64,
        /// What it is multiplied by.
        factor: f64,
    },
    /// Times a factor after those numbers of steps.
    MultiStep {
        /// First rate.
        lr: f64,
        /// After how many steps.
        after: Vec<u64>,
        /// What it is multiplied by.
        factor: f64,
    },
    /// Times a factor at every step.
    Exponential {
        /// First rate.
        lr: f64,
        /// What it is multiplied by.
        factor: f64,
    },
    /// Falls to zero along a power, and stays there.
    Polynomial {
        /// First rate.
        lr: f64,
        /// Steps of the fall.
        steps: u64,
        /// The power.
        power: f64,
    },
    /// One schedule after another: see [`Schedule::then`].
    Sequence {
        /// What comes first.
        first: Box<Schedule>,
        /// After how many steps the next one begins.
        after: u64,
        /// The next one, which starts anew.
        next: Box<Schedule>,
    },
}

impl Schedule {
    /// PyTorch's `CosineAnnealingLR`: from `peak` along half a cosine to `floor` after `steps` steps, where it stays.
    pub fn cosine_annealing(peak: f64, floor: f64, steps: u64) -> Schedule {
        Schedule::Cosine { peak, floor, warmup: 1, total: steps.saturating_add(1) }
    }

    /// [`Schedule::OneCycle`] with PyTorch's defaults, but for momentum and betas, which stay as they are (`cycle_momentum=False`).
    pub fn one_cycle(peak: f64, steps: u64) -> Schedule {
        Schedule::OneCycle { peak, steps, rise: 0.3, start_divisor: 25.0, end_divisor: 1e4, linear: false }
    }

    /// The same after a rise: step `k` of the first `steps` has `k / steps` of the rate that this schedule begins with, and the last
    /// of them is the first of this schedule.
    pub fn warmup(self, steps: u64) -> Schedule {
        let rate = self.lr(1);
        match steps {
            0 | 1 => self,
            _ => Schedule::Linear { from: rate / steps as f64, to: rate, steps: steps - 1 }.then(steps - 1, self),
        }
    }

    /// Another schedule once this one has given so many rates; it starts anew there.
    pub fn then(self, after: u64, next: Schedule) -> Schedule {
        Schedule::Sequence { first: Box::new(self), after, next: Box::new(next) }
    }

    /// The rate of a step, counted from 1.
    pub fn lr(&self, step: u64) -> f64 {
        let done = step.saturating_sub(1);
        match self {
            Schedule::Constant(lr) => *lr,
            Schedule::Cosine { peak, warmup, .. } if step < *warmup => peak * step as f64 / *warmup as f64,
            Schedule::Cosine { floor, total, .. } if step >= *total => *floor,
            Schedule::Cosine { peak, floor, warmup, total } => half_cosine(*peak, *floor, share(step - warmup, total - warmup)),
            Schedule::Linear { from, to, steps } => from + (to - from) * share(done, *steps),
            Schedule::WarmRestarts { peak, floor, first, factor } => {
                let (at, length) = place_in_fall(done, *first, *factor);
                half_cosine(*peak, *floor, share(at, length))
            }
            Schedule::OneCycle { .. } => self.one_cycle_lr(done as f64),
            Schedule::Step { lr, every, factor } => lr * libm::pow(*factor, (done / (*every).max(1)) as f64),
            Schedule::MultiStep { lr, after, factor } => lr * libm::pow(*factor, after.iter().filter(|n| **n <= done).count() as f64),
            Schedule::Exponential { lr, factor } => lr * libm::pow(*factor, done as f64),
            Schedule::Polynomial { lr, steps, power } => lr * libm::pow(1.0 - share(done, *steps), *power),
            Schedule::Sequence { first, after, .. } if step <= *after => first.lr(step),
            Schedule::Sequence { after, next, .. } => next.lr(step - after),
        }
    }

    fn one_cycle_lr(&self, done: f64) -> f64 {
        let Schedule::OneCycle { peak, steps, rise, start_divisor, end_divisor, linear } = *self else { return f64::NAN };
        let (start, end) = (peak / start_divisor, peak / start_divisor / end_divisor);
        let (top, last) = ((rise * steps as f64 - 1.0).max(0.0), (steps as f64 - 1.0).max(0.0));
        let between = |from: f64, to: f64, share: f64| if linear { from + (to - from) * share } else { half_cosine(from, to, share) };
        match () {
            () if done <= top && top > 0.0 => between(start, peak, done / top),
            () if done < last => between(peak, end, (done - top) / (last - top)),
            () => end,
        }
    }
}

/// `done` of `all`, at most one.
fn share(done: u64, all: u64) -> f64 {
    if done >= all { 1.0 } else { done as f64 / all as f64 }
}

fn half_cosine(from: f64, to: f64, share: f64) -> f64 {
    to + (from - to) * 0.5 * (1.0 + libm::cos(PI * share))
}

/// How far into its fall a step is, and how long that is.
fn place_in_fall(mut done: u64, first: u64, factor: u64) -> (u64, u64) {
    let mut length = first.max(1);
    if factor <= 1 {
        return (done % length, length);
    }
    while done >= length {
        done -= length;
        length = length.saturating_mul(factor);
    }
    (done, length)
}
