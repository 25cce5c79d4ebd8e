//! A training loop over the public interface.
//!
//! * Comes in: a compiled [`Step`], a [`State`], a source of batches.
//! * Goes out: losses, in order, to an observer.
//! * Invariants: the next step is queued before the loss of the last one is waited for, so that the device does not idle;
//!   the loop stops at the first refused step.
//! * Must not know: anything but the public interface.
//! * Add here: what many training loops share.

use crate::error::Result;
use crate::frontend::optim::Schedule;
use crate::runtime::{Inputs, State, Step, StepResult};

/// Runs steps in a loop.
#[derive(Clone)]
pub struct Trainer {
    step: Step,
    schedule: Option<Schedule>,
}

impl Trainer {
    /// A loop over `step`, with the learning rate it was compiled with.
    pub fn new(step: Step) -> Trainer {
        Trainer { step, schedule: None }
    }

    /// Takes the learning rate of each step from a schedule.
    pub fn schedule(mut self, schedule: Schedule) -> Trainer {
        self.schedule = Some(schedule);
        self
    }

    /// Trains until `state` has taken `until` steps. `batch` gives the inputs of a step (counted from 1), `observe` takes its
    /// number and loss and may stop the loop with an error.
    pub fn run<I: Into<Inputs>>(
        &self,
        state: &mut State,
        until: u64,
        mut batch: impl FnMut(u64) -> Result<I>,
        mut observe: impl FnMut(u64, f32) -> Result<()>,
    ) -> Result<()> {
        let mut queued: Option<(u64, StepResult)> = None;
        for number in state.step() + 1..=until {
            if let Some(schedule) = &self.schedule {
                self.step.set_scalar("lr", schedule.lr(number))?;
            }
            let result = self.step.run(state, batch(number)?)?;
            if let Some((earlier, result)) = queued.replace((number, result)) {
                observe(earlier, result.loss()?)?;
            }
        }
        match queued {
            Some((last, result)) => observe(last, result.loss()?),
            None => Ok(()),
        }
    }
}
