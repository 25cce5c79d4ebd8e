//! The loop that all training examples share: learning rates, losses, checkpoints, and how a run ends early and goes on.

use super::history::History;
use super::interrupt::{EXIT_CODE, Interrupt};
use super::progress::Progress;
use super::{Common, say};
use anyhow::{Context, Result, ensure};
use inductor::optim::Schedule;
use inductor::runtime::checkpoint_notes;
use inductor::{Inputs, State, Step, StepResult};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

const CHECKPOINT: &str = "checkpoint.safetensors";
const LOSSES: &str = "losses.csv";

/// Options of a run.
#[derive(clap::Args, Clone, Debug)]
pub struct RunOptions {
    /// Go on from the checkpoint in the output folder, exactly. Options that decide how the run goes on are those it began with:
    /// they may be left out, and other values are refused.
    #[arg(long)]
    pub resume: bool,
    /// Stop after this step, with a checkpoint; the schedule still ends at --steps.
    #[arg(long)]
    pub until: Option<u64>,
    /// Steps between checkpoints; 0 writes one at the end only.
    #[arg(long, default_value_t = 200)]
    pub checkpoint_every: u64,
    /// Go on when a loss is NaN or infinite.
    #[arg(long)]
    pub keep_going: bool,
}

/// What the checkpoint to go on from says about its run; nothing for a new run.
pub struct Notes(BTreeMap<String, String>);

impl Notes {
    pub fn read(common: &Common) -> Result<Notes> {
        if !common.run.resume {
            return Ok(Notes(BTreeMap::new()));
        }
        let path = path(common, CHECKPOINT);
        ensure!(path.exists(), "--resume: there is no checkpoint in {}", common.out.display());
        Ok(Notes(checkpoint_notes(&path).context("--resume")?))
    }

    /// An option that was left out is the one the run began with.
    pub fn recall<T: FromStr>(&self, option: &mut Option<T>, name: &str) -> Result<()> {
        if let (None, Some(text)) = (&option, self.0.get(name)) {
            *option = Some(text.parse().ok().with_context(|| format!("--resume: the checkpoint has --{name} {text}"))?);
        }
        Ok(())
    }
}

/// A run of training.
pub struct Training<'a> {
    pub common: &'a Common,
    pub step: &'a Step,
    /// Steps of the whole run.
    pub steps: u64,
    /// Learning rates, where they are not the same at every step.
    pub schedule: Option<Schedule>,
    /// What a step goes through, for the rate: so many units of that name.
    pub size: (usize, &'static str),
    /// What decides how the run goes on, by the name of the option.
    pub facts: Vec<(&'static str, String)>,
    /// Steps between looks.
    pub look_every: u64,
}

impl Training<'_> {
    /// The state of a new run, or of the checkpoint to go on from.
    pub fn begin(&self) -> Result<(State, History)> {
        let mut state = self.step.init(self.common.seed())?;
        let common = [("seed", self.common.seed().to_string()), ("steps", self.steps.to_string())];
        for (name, value) in self.facts.iter().chain(&common) {
            state.note(name, value);
        }
        if !self.common.run.resume {
            return Ok((state, History::default()));
        }
        let resumed = state.load_checkpoint(path(self.common, CHECKPOINT));
        resumed.context("cannot resume; --resume takes the options of the run that it continues")?;
        ensure!(state.step() <= self.steps, "the checkpoint is of step {}, and the run has {}", state.step(), self.steps);
        let history = History::load(&path(self.common, LOSSES), state.step())?;
        say(format!("resumed after step {}", state.step()));
        Ok((state, history))
    }

    /// Steps from where the state stands to the end. `batch` gives the inputs of a step, `look` what a look at the state after a step
    /// finds: the loss on other data, if there is any. The process ends here, with a checkpoint, when it is asked to.
    pub fn run<I: Into<Inputs>>(
        &self,
        state: &mut State,
        history: &mut History,
        batch: impl Fn(u64) -> Result<I>,
        look: impl Fn(&mut State) -> Result<Option<f32>>,
    ) -> Result<()> {
        let interrupt = Interrupt::watch()?;
        let first = state.step();
        let last = self.common.run.until.unwrap_or(self.steps).min(self.steps);
        let progress = Progress::new(first, self.steps, self.size.0 as u64, self.size.1);
        let mut losses = Losses { progress, history, keep_going: self.common.run.keep_going, queued: None };
        let mut number = first;
        while number < last && !interrupt.is_asked() {
            number += 1;
            if let Some(schedule) = &self.schedule {
                self.step.set_scalar("lr", schedule.lr(number))?;
            }
            losses.queue(number, self.step.run(state, batch(number)?)?)?;
            if number.is_multiple_of(self.look_every.max(1)) && number < last {
                losses.read()?;
                if let Some(loss) = look(state)? {
                    losses.progress.note(&format!("step {number} validation loss {loss:.4}"));
                    losses.history.validation.push((number, loss));
                }
            }
            let every = self.common.run.checkpoint_every;
            if every > 0 && number.is_multiple_of(every) && number < last {
                losses.read()?;
                self.save(state, losses.history)?;
            }
        }
        losses.read()?;
        if number > first {
            self.save(state, losses.history)?;
        }
        if number < last {
            self.stop(number, first);
        }
        losses.progress.finish(number);
        Ok(())
    }

    /// Losses first: those behind the checkpoint's step are left out when they are read.
    fn save(&self, state: &State, history: &History) -> Result<()> {
        history.save(&path(self.common, LOSSES))?;
        Ok(state.save_checkpoint(path(self.common, CHECKPOINT))?)
    }

    fn stop(&self, number: u64, first: u64) -> ! {
        if number > first {
            say(format!("stopped after step {number}; wrote {}, from which --resume goes on", path(self.common, CHECKPOINT).display()));
        } else {
            say("stopped before the first step");
        }
        std::process::exit(EXIT_CODE)
    }
}

fn path(common: &Common, name: &str) -> PathBuf {
    common.out.join(name)
}

/// Losses as they arrive. That of a step is read after the next one is queued, so that a GPU never waits for the host.
struct Losses<'a> {
    progress: Progress,
    history: &'a mut History,
    keep_going: bool,
    queued: Option<(u64, StepResult)>,
}

impl Losses<'_> {
    fn queue(&mut self, number: u64, result: StepResult) -> Result<()> {
        match self.queued.replace((number, result)) {
            Some((earlier, result)) => self.take(earlier, &result),
            None => Ok(()),
        }
    }

    /// Waits for the step that was queued last.
    fn read(&mut self) -> Result<()> {
        match self.queued.take() {
            Some((number, result)) => self.take(number, &result),
            None => Ok(()),
        }
    }

    fn take(&mut self, number: u64, result: &StepResult) -> Result<()> {
        let loss = result.loss().with_context(|| format!("step {number}"))?;
        self.progress.step(number, loss);
        self.history.training.push((number, loss));
        ensure!(loss.is_finite() || self.keep_going, "the loss of step {number} is {loss}: training stops (--keep-going goes on)");
        Ok(())
    }
}
