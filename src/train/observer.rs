//! Who looks at a run.

use super::history::{Evaluation, History, StepRecord};
use crate::error::Result;
use std::path::Path;

/// What happens in a run, in order.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// It begins, or goes on, after so many steps.
    Begin {
        /// Steps taken already.
        done: u64,
        /// Steps of the whole run.
        steps: u64,
        /// What went before.
        history: &'a History,
    },
    /// The loss of a step has arrived.
    Step(&'a StepRecord),
    /// The model was evaluated.
    Evaluation(&'a Evaluation),
    /// A checkpoint is written, perhaps still by a thread.
    Checkpoint {
        /// After which step.
        step: u64,
        /// Where.
        path: &'a Path,
    },
    /// The run ends after a step, for whatever reason.
    End {
        /// The last step.
        step: u64,
        /// All that happened.
        history: &'a History,
    },
}

/// Sees every event of a run; an error ends it. Closures are observers.
pub trait Observer {
    /// Sees one event.
    fn observe(&mut self, event: Event<'_>) -> Result<()>;
}

impl<F: FnMut(Event<'_>) -> Result<()>> Observer for F {
    fn observe(&mut self, event: Event<'_>) -> Result<()> {
        self(event)
    }
}
