//! How the training examples use the loop: options of a run, what its checkpoints note, how it ends early and goes on.

use super::{Common, say};
use anyhow::{Context, Result};
use inductor::optim::Schedule;
use inductor::runtime::checkpoint_notes;
use inductor::train::{Checkpoints, End, History, Interrupt, Progress, Trainer};
use inductor::{Error, Inputs, State, Step};
use std::collections::BTreeMap;
use std::str::FromStr;

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
    /// Write event files for TensorBoard, too, into the folder `tensorboard` of the output.
    #[arg(long)]
    pub tensorboard: bool,
}

/// What the checkpoint to go on from says about its run; nothing for a new run.
pub struct Notes(BTreeMap<String, String>);

impl Notes {
    pub fn read(common: &Common) -> Result<Notes> {
        if !common.run.resume {
            return Ok(Notes(BTreeMap::new()));
        }
        let last = checkpoints(common).last()?;
        let (_, path) = last.with_context(|| format!("--resume: there is no checkpoint in {}", common.out.display()))?;
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
}

impl Training<'_> {
    /// The state of a new run, or of the checkpoint to go on from.
    pub fn begin(&self) -> Result<State> {
        let mut state = self.step.init(self.common.seed())?;
        let common = [("seed", self.common.seed().to_string()), ("steps", self.steps.to_string())];
        for (name, value) in self.facts.iter().chain(&common) {
            state.note(name, value);
        }
        if self.common.run.resume
            && let Some((_, path)) = checkpoints(self.common).last()?
        {
            let resumed = state.load_checkpoint(path);
            resumed.context("cannot resume; --resume takes the options of the run that it continues")?;
        }
        Ok(state)
    }

    /// A loop over the steps, to be given to [`Training::run`].
    pub fn trainer<'a>(&self) -> Result<Trainer<'a>> {
        let run = &self.common.run;
        let trainer = Trainer::new(self.step.clone()).steps(self.steps).folder(&self.common.out).keep_going(run.keep_going).resume(run.resume);
        let trainer = trainer.checkpoints(checkpoints(self.common).every(run.checkpoint_every).keep(1));
        let trainer = trainer.observe(Progress::new().rate(self.size.0 as u64, self.size.1));
        let trainer = if let Some(schedule) = &self.schedule { trainer.schedule(schedule.clone()) } else { trainer };
        if run.tensorboard { Ok(trainer.tensorboard(self.common.out.join("tensorboard"))?) } else { Ok(trainer) }
    }

    /// Steps from where the state stands to the end. `batch` gives the inputs of a step, counted from 1. The process ends here, with a
    /// checkpoint, when it is asked to.
    pub fn run<I: Into<Inputs>>(&self, trainer: Trainer<'_>, state: &mut State, mut batch: impl FnMut(u64) -> Result<I> + Send) -> Result<History> {
        let interrupt = Interrupt::watch()?;
        let first = state.step();
        let left = self.common.run.until.unwrap_or(u64::MAX).saturating_sub(first) as usize;
        let batches = |done: u64| (done + 1..).map(move |number| batch(number).map_err(|e| Error::Input(format!("{e:#}")))).take(left);
        let run = trainer.interrupt(&interrupt).run(state, batches)?;
        if run.end != End::Interrupted {
            return Ok(run.history);
        }
        match checkpoints(self.common).last()? {
            Some((step, path)) if step > first => say(format!("stopped after step {step}; wrote {}, from which --resume goes on", path.display())),
            _ => say("stopped before the first step"),
        }
        std::process::exit(Interrupt::EXIT_CODE)
    }
}

fn checkpoints(common: &Common) -> Checkpoints {
    Checkpoints::new(common.out.join("checkpoints"))
}
