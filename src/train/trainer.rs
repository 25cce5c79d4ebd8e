//! The loop.

use super::checkpoints::Checkpoints;
use super::folder::{Folder, METRICS};
use super::history::{Evaluation, History, StepRecord};
#[cfg(feature = "interrupt")]
use super::interrupt::Interrupt;
use super::observer::{Event, Observer};
use super::tensorboard::EventFile;
use crate::config::Mode;
use crate::error::{Error, Result};
use crate::frontend::optim::{Goal, Plateau, Schedule};
use crate::runtime::{Inputs, State, Step, StepResult};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

/// Numbers by name that an evaluation gives.
type Metrics = BTreeMap<String, f64>;
type Evaluate<'a> = Box<dyn FnMut(&mut State) -> Result<Metrics> + 'a>;

/// Ends a run whose metric no longer improves.
#[derive(Clone, Debug, PartialEq)]
pub struct EarlyStopping {
    metric: String,
    goal: Goal,
    patience: u64,
    min_delta: f64,
}

impl EarlyStopping {
    /// By that metric of evaluations, after three without improvement.
    pub fn new(metric: &str, goal: Goal) -> EarlyStopping {
        EarlyStopping { metric: metric.into(), goal, patience: 3, min_delta: 0.0 }
    }

    /// How many evaluations without improvement end the run.
    pub fn patience(mut self, evaluations: u64) -> EarlyStopping {
        self.patience = evaluations.max(1);
        self
    }

    /// The least improvement that counts.
    pub fn min_delta(mut self, delta: f64) -> EarlyStopping {
        self.min_delta = delta;
        self
    }
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It took all its steps.
    Done,
    /// There were no more batches.
    NoBatches,
    /// The metric no longer improved.
    Stopped,
    /// The process was asked to end.
    Interrupted,
}

/// What a run was.
#[derive(Clone, Debug)]
pub struct Run {
    /// Why it ended.
    pub end: End,
    /// Steps that the state has taken.
    pub steps: u64,
    /// All that happened, before an interruption too.
    pub history: History,
}

/// What the loop remembers of evaluations, so that it goes on exactly.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Memory {
    /// The best value by which checkpoints are kept.
    best: Option<f64>,
    /// The best value of early stopping, and evaluations since.
    stopping: Option<f64>,
    since: u64,
    plateau: Option<Plateau>,
}

/// Runs steps in a loop: see the [module](super).
pub struct Trainer<'a> {
    step: Step,
    steps: u64,
    schedule: Option<Schedule>,
    plateau: Option<(String, Plateau)>,
    evaluate: Option<(u64, Evaluate<'a>)>,
    averaged: bool,
    early: Option<EarlyStopping>,
    checkpoints: Option<Checkpoints>,
    observers: Vec<Box<dyn Observer + 'a>>,
    folder: Option<PathBuf>,
    resume: bool,
    keep_going: bool,
    norms_every: u64,
    prefetch: usize,
    #[cfg(feature = "interrupt")]
    interrupt: Option<&'a Interrupt>,
}

impl<'a> Trainer<'a> {
    /// A loop over `step`, with the learning rate it was compiled with, until batches end.
    pub fn new(step: Step) -> Trainer<'a> {
        Trainer {
            step,
            steps: u64::MAX,
            schedule: None,
            plateau: None,
            evaluate: None,
            averaged: false,
            early: None,
            checkpoints: None,
            observers: vec![],
            folder: None,
            resume: false,
            keep_going: false,
            norms_every: 0,
            prefetch: 2,
            #[cfg(feature = "interrupt")]
            interrupt: None,
        }
    }

    /// Steps of the whole run. Where an update takes the mean gradient of several, these are batches, not updates.
    pub fn steps(mut self, steps: u64) -> Trainer<'a> {
        self.steps = steps;
        self
    }

    /// Takes the learning rate of each update from a schedule.
    ///
    /// ```
    /// # use inductor::{Config, DType, Device, HostTensor, Initializer, compile_train, optim, trace};
    /// # use inductor::{optim::Schedule, train::Trainer};
    /// # let model = trace("w", |t| Ok((t.parameter("w", DType::F32, (), Initializer::Ones) - t.input("x", DType::F32, ())).square()))?;
    /// # let step = compile_train(&model, &Device::cpu(), optim::Sgd::new(0.25), &Config::default())?;
    /// # let mut state = step.init(0)?;
    /// # let batches = |_| std::iter::repeat_with(|| Ok([HostTensor::f32(&[], &[3.0])]));
    /// let halved = Schedule::Step { lr: 0.5, every: 1, factor: 0.5 };
    /// let run = Trainer::new(step).steps(3).schedule(halved).run(&mut state, batches)?;
    /// let rates: Vec<f64> = run.history.steps.iter().map(|step| step.lr).collect();
    /// assert_eq!(rates, [0.5, 0.25, 0.125]);
    /// # Ok::<(), inductor::Error>(())
    /// ```
    pub fn schedule(mut self, schedule: Schedule) -> Trainer<'a> {
        self.schedule = Some(schedule);
        self
    }

    /// Lets the learning rate fall where a metric of evaluations no longer improves.
    pub fn plateau(mut self, metric: &str, plateau: Plateau) -> Trainer<'a> {
        self.plateau = Some((metric.into(), plateau));
        self
    }

    /// Evaluates after each so many steps and at the end: the closure runs other programs over the state, and gives numbers by name,
    /// such as `Ok([("loss", loss)])`.
    ///
    /// ```
    /// # use inductor::{Config, DType, Device, HostTensor, Initializer, compile_train, optim, trace};
    /// # use inductor::train::Trainer;
    /// # let model = trace("w", |t| Ok((t.parameter("w", DType::F32, (), Initializer::Ones) - t.input("x", DType::F32, ())).square()))?;
    /// # let step = compile_train(&model, &Device::cpu(), optim::Sgd::new(0.25), &Config::default())?;
    /// # let mut state = step.init(0)?;
    /// # let batches = |_| std::iter::repeat_with(|| Ok([HostTensor::f32(&[], &[3.0])]));
    /// let mut trainer = Trainer::new(step).steps(4).evaluate(2, |state| Ok([("w", state.get("w")?.item()?)]));
    /// let run = trainer.run(&mut state, batches)?;
    /// assert_eq!(run.history.metric("w"), [(2, 2.5), (4, 2.875)]);
    /// # Ok::<(), inductor::Error>(())
    /// ```
    pub fn evaluate<S: Into<String>, M: IntoIterator<Item = (S, f64)>>(
        mut self,
        every: u64,
        mut evaluate: impl FnMut(&mut State) -> Result<M> + 'a,
    ) -> Trainer<'a> {
        let by_name = move |state: &mut State| Ok(evaluate(state)?.into_iter().map(|(name, x)| (name.into(), x)).collect());
        self.evaluate = Some((every.max(1), Box::new(by_name)));
        self
    }

    /// Evaluates the averages of weights that the optimizer keeps ([`State::averaged`]) instead of the weights.
    pub fn evaluate_averages(mut self, averaged: bool) -> Trainer<'a> {
        self.averaged = averaged;
        self
    }

    /// Ends where a metric no longer improves.
    ///
    /// ```
    /// # use inductor::{Config, DType, Device, HostTensor, Initializer, compile_train, optim, trace};
    /// # use inductor::{optim::Goal, train::{EarlyStopping, End, Trainer}};
    /// # let model = trace("w", |t| Ok((t.parameter("w", DType::F32, (), Initializer::Ones) - t.input("x", DType::F32, ())).square()))?;
    /// # let step = compile_train(&model, &Device::cpu(), optim::Sgd::new(0.25), &Config::default())?;
    /// # let mut state = step.init(0)?;
    /// # let batches = |_| std::iter::repeat_with(|| Ok([HostTensor::f32(&[], &[3.0])]));
    /// let mut trainer = Trainer::new(step).steps(100).evaluate(1, |_| Ok([("loss", 1.0)]));
    /// trainer = trainer.early_stopping(EarlyStopping::new("loss", Goal::Smaller).patience(2));
    /// let run = trainer.run(&mut state, batches)?;
    /// assert_eq!((run.end, run.steps), (End::Stopped, 3));
    /// # Ok::<(), inductor::Error>(())
    /// ```
    pub fn early_stopping(mut self, early: EarlyStopping) -> Trainer<'a> {
        self.early = Some(early);
        self
    }

    /// Writes checkpoints.
    ///
    /// ```
    /// # use inductor::{Config, DType, Device, HostTensor, Initializer, compile_train, optim, trace};
    /// # use inductor::train::{Checkpoints, Trainer};
    /// # let model = trace("w", |t| Ok((t.parameter("w", DType::F32, (), Initializer::Ones) - t.input("x", DType::F32, ())).square()))?;
    /// # let step = compile_train(&model, &Device::cpu(), optim::Sgd::new(0.25), &Config::default())?;
    /// # let mut state = step.init(0)?;
    /// # let batches = |_| std::iter::repeat_with(|| Ok([HostTensor::f32(&[], &[3.0])]));
    /// # let folder = std::env::temp_dir().join(format!("inductor-checkpoints-{}", std::process::id()));
    /// let kept = || Checkpoints::new(&folder).every(2).keep(2);
    /// Trainer::new(step.clone()).steps(5).checkpoints(kept()).run(&mut state, batches)?;
    /// assert_eq!(kept().last()?.map(|(number, _)| number), Some(5));
    /// // Another process, later: five more.
    /// let mut state = step.init(0)?;
    /// let run = Trainer::new(step).steps(10).checkpoints(kept()).resume(true).run(&mut state, batches)?;
    /// assert_eq!((run.steps, run.history.steps.len()), (10, 5));
    /// # std::fs::remove_dir_all(&folder).unwrap();
    /// # Ok::<(), inductor::Error>(())
    /// ```
    pub fn checkpoints(mut self, checkpoints: Checkpoints) -> Trainer<'a> {
        self.checkpoints = Some(checkpoints);
        self
    }

    /// Goes on from the last checkpoint, if there is one.
    pub fn resume(mut self, resume: bool) -> Trainer<'a> {
        self.resume = resume;
        self
    }

    /// Lets somebody look at the run: [`Progress`](super::Progress), [`EventFile`], or a closure.
    pub fn observe(mut self, observer: impl Observer + 'a) -> Trainer<'a> {
        self.observers.push(Box::new(observer));
        self
    }

    /// Calls a closure with each step, as its loss arrives.
    ///
    /// ```
    /// # use inductor::{Config, DType, Device, HostTensor, Initializer, compile_train, optim, trace};
    /// # use inductor::train::Trainer;
    /// # let model = trace("w", |t| Ok((t.parameter("w", DType::F32, (), Initializer::Ones) - t.input("x", DType::F32, ())).square()))?;
    /// # let step = compile_train(&model, &Device::cpu(), optim::Sgd::new(0.25), &Config::default())?;
    /// # let mut state = step.init(0)?;
    /// # let batches = |_| std::iter::repeat_with(|| Ok([HostTensor::f32(&[], &[3.0])]));
    /// let mut seen = vec![];
    /// Trainer::new(step).steps(2).on_step(|record| Ok(seen.push(record.loss))).run(&mut state, batches)?;
    /// assert_eq!(seen, [4.0, 1.0]);
    /// # Ok::<(), inductor::Error>(())
    /// ```
    pub fn on_step(self, mut look: impl FnMut(&StepRecord) -> Result<()> + 'a) -> Trainer<'a> {
        self.observe(move |event: Event<'_>| if let Event::Step(record) = event { look(record) } else { Ok(()) })
    }

    /// Calls a closure with each evaluation.
    pub fn on_evaluation(self, mut look: impl FnMut(&Evaluation) -> Result<()> + 'a) -> Trainer<'a> {
        self.observe(move |event: Event<'_>| if let Event::Evaluation(found) = event { look(found) } else { Ok(()) })
    }

    /// Writes the run into a folder: `metrics.jsonl` as it goes, `report.html` (and, with the feature `plots`, `curves.png`) at its end.
    pub fn folder(mut self, path: impl Into<PathBuf>) -> Trainer<'a> {
        self.folder = Some(path.into());
        self
    }

    /// Writes event files for TensorBoard into a folder.
    pub fn tensorboard(self, folder: impl AsRef<Path>) -> Result<Trainer<'a>> {
        Ok(self.observe(EventFile::create(folder)?))
    }

    /// Goes on when a loss is NaN or infinite, which is an error otherwise.
    pub fn keep_going(mut self, keep_going: bool) -> Trainer<'a> {
        self.keep_going = keep_going;
        self
    }

    /// Reads the norms of gradients of one of so many steps, which is waited for; the step is compiled with `Config::gradients`.
    pub fn gradient_norms(mut self, every: u64) -> Trainer<'a> {
        self.norms_every = every;
        self
    }

    /// How many batches a thread makes ahead; 0 makes them in between.
    pub fn prefetch(mut self, batches: usize) -> Trainer<'a> {
        self.prefetch = batches;
        self
    }

    /// Ends after the step at hand when the process is asked to.
    #[cfg(feature = "interrupt")]
    pub fn interrupt(mut self, interrupt: &'a Interrupt) -> Trainer<'a> {
        self.interrupt = Some(interrupt);
        self
    }

    /// Trains. `batches` is told how many steps the state has taken, and gives the batches of those that follow, such as
    /// [`Loader::from`](super::data::Loader::from) does. At the end, whatever it is, there is an evaluation, a checkpoint and an
    /// event; not behind an error.
    pub fn run<I, B>(&mut self, state: &mut State, batches: impl FnOnce(u64) -> B) -> Result<Run>
    where
        I: Into<Inputs>,
        B: IntoIterator<Item = Result<I>>,
        B::IntoIter: Send,
    {
        self.check()?;
        let (history, memory) = self.begin(state)?;
        if let Some(path) = &self.folder {
            self.observers.insert(0, Box::new(Folder::new(path, &self.step.plan().program.name)));
        }
        let batches = batches(state.step()).into_iter().map(|batch| batch.map(Into::into));
        let mut run = Running { trainer: self, state, history, memory, begun: Instant::now(), queued: None };
        let ended = if run.trainer.prefetch == 0 { run.all(batches) } else { run.ahead(batches) };
        let (end, history) = (ended, run.history);
        if self.folder.is_some() {
            self.observers.remove(0);
        }
        Ok(Run { end: end?, steps: state.step(), history })
    }

    /// Refuses what would never come to effect.
    fn check(&self) -> Result<()> {
        let best = self.checkpoints.as_ref().is_some_and(|c| c.criterion().is_some());
        let wants_metrics = [
            (self.plateau.is_some(), "Trainer::plateau"),
            (self.early.is_some(), "Trainer::early_stopping"),
            (best, "Checkpoints::best"),
            (self.averaged, "Trainer::evaluate_averages"),
        ];
        if let Some((_, what)) = wants_metrics.iter().find(|(is_set, _)| *is_set && self.evaluate.is_none()) {
            return Err(Error::Input(format!("{what} goes by evaluations, and there are none: see Trainer::evaluate")));
        }
        if self.plateau.is_some() && self.schedule.is_some() {
            return Err(Error::Input("a schedule and a plateau both set the learning rate".into()));
        }
        Ok(())
    }

    /// The state and what is remembered, of the last checkpoint where that is asked for.
    fn begin(&self, state: &mut State) -> Result<(History, Memory)> {
        let fresh = || (History::default(), Memory { plateau: self.plateau.as_ref().map(|p| p.1.clone()), ..Memory::default() });
        let last = match (&self.checkpoints, self.resume) {
            (Some(checkpoints), true) => checkpoints.last()?,
            (None, true) => return Err(Error::Input("a run goes on from checkpoints, and there are none: see Trainer::checkpoints".into())),
            _ => None,
        };
        let Some((_, path)) = last else { return Ok(fresh()) };
        state.load_checkpoint(&path)?;
        let metrics = self.folder.as_ref().map(|folder| folder.join(METRICS)).filter(|path| path.exists());
        let history = metrics.map_or(Ok(History::default()), |path| History::read(path, state.step()))?;
        Ok((history, Checkpoints::memory(&path)?))
    }

    /// Steps of one update.
    fn accumulated(&self) -> u64 {
        match &self.step.config().mode {
            Mode::Train(optimizer) => optimizer.accumulate.max(1) as u64,
            _ => 1,
        }
    }

    fn is_interrupted(&self) -> bool {
        #[cfg(feature = "interrupt")]
        return self.interrupt.is_some_and(Interrupt::is_asked);
        #[cfg(not(feature = "interrupt"))]
        false
    }
}

/// A run at work.
struct Running<'r, 'a> {
    trainer: &'r mut Trainer<'a>,
    state: &'r mut State,
    history: History,
    memory: Memory,
    begun: Instant,
    /// The step whose loss is not known yet, with its rate.
    queued: Option<(u64, f64, StepResult)>,
}

impl Running<'_, '_> {
    /// Batches come from a thread.
    fn ahead(&mut self, batches: impl Iterator<Item = Result<Inputs>> + Send) -> Result<End> {
        let (give, take) = sync_channel(self.trainer.prefetch);
        std::thread::scope(|scope| {
            let made = std::thread::Builder::new().name("batches".into()).spawn_scoped(scope, move || {
                // The run is over when nobody takes any more.
                let _ = batches.map_while(|batch| give.send(batch).ok()).last();
            });
            made.map_err(|e| Error::Platform(format!("there is no thread for batches ({e}): see Trainer::prefetch")))?;
            self.all(Taken(take))
        })
    }

    fn all(&mut self, mut batches: impl Iterator<Item = Result<Inputs>>) -> Result<End> {
        let first = self.state.step();
        let begin = Event::Begin { done: first, steps: self.trainer.steps, history: &self.history };
        tell(&mut self.trainer.observers, begin)?;
        let (mut number, mut evaluated) = (first, None);
        let end = loop {
            if number >= self.trainer.steps {
                break End::Done;
            }
            if self.trainer.is_interrupted() {
                break End::Interrupted;
            }
            let Some(batch) = batches.next() else { break End::NoBatches };
            number += 1;
            self.step(number, batch?)?;
            if self.trainer.evaluate.as_ref().is_some_and(|(every, _)| number.is_multiple_of(*every)) {
                evaluated = Some(number);
                if self.evaluate(number)? {
                    break End::Stopped;
                }
            }
            if number < self.trainer.steps && self.trainer.checkpoints.as_ref().is_some_and(|c| c.is_due(number)) {
                self.checkpoint(number)?;
            }
        };
        self.settle()?;
        if number > first {
            if end != End::Interrupted && evaluated != Some(number) && self.trainer.evaluate.is_some() {
                self.evaluate(number)?;
            }
            self.checkpoint(number)?;
        }
        if let Some(checkpoints) = &mut self.trainer.checkpoints {
            checkpoints.finish()?;
        }
        tell(&mut self.trainer.observers, Event::End { step: number, history: &self.history })?;
        Ok(end)
    }

    fn step(&mut self, number: u64, batch: Inputs) -> Result<()> {
        let update = (number - 1) / self.trainer.accumulated() + 1;
        let scheduled = self.trainer.schedule.as_ref().map(|s| s.lr(update));
        let rate = scheduled.or(self.memory.plateau.as_ref().map(Plateau::lr));
        if let Some(rate) = rate {
            self.trainer.step.set_scalar("lr", rate)?;
        }
        let rate = rate.or_else(|| self.trainer.step.scalar("lr")).unwrap_or(f64::NAN);
        let result = self.trainer.step.run(self.state, batch)?;
        let every = self.trainer.norms_every;
        if every > 0 && number.is_multiple_of(every) {
            self.settle()?;
            let norms = result.gradient_norms()?;
            return self.take(number, rate, &result, norms.into_iter().collect());
        }
        match self.queued.replace((number, rate, result)) {
            Some((earlier, rate, result)) => self.take(earlier, rate, &result, BTreeMap::new()),
            None => Ok(()),
        }
    }

    /// Waits for the step that was queued last.
    fn settle(&mut self) -> Result<()> {
        match self.queued.take() {
            Some((number, rate, result)) => self.take(number, rate, &result, BTreeMap::new()),
            None => Ok(()),
        }
    }

    fn take(&mut self, step: u64, lr: f64, result: &StepResult, gradient_norms: BTreeMap<String, f64>) -> Result<()> {
        let loss = result.loss()? as f64;
        let record = StepRecord { step, loss, lr, seconds: self.begun.elapsed().as_secs_f64(), gradient_norms };
        tell(&mut self.trainer.observers, Event::Step(&record))?;
        self.history.steps.push(record);
        if loss.is_finite() || self.trainer.keep_going {
            return Ok(());
        }
        Err(Error::Step(format!("the loss of step {step} is {loss}: training stops (Trainer::keep_going goes on)")))
    }

    /// Evaluates; says whether the run is to end.
    fn evaluate(&mut self, step: u64) -> Result<bool> {
        self.settle()?;
        let averaged = if self.trainer.averaged { Some(self.state.averaged()?) } else { None };
        let Some((_, evaluate)) = &mut self.trainer.evaluate else { return Ok(false) };
        let metrics = match averaged {
            Some(mut averaged) => evaluate(&mut averaged)?,
            None => evaluate(self.state)?,
        };
        let found = Evaluation { step, metrics };
        tell(&mut self.trainer.observers, Event::Evaluation(&found))?;
        self.keep_best(&found)?;
        if let (Some((metric, _)), Some(plateau)) = (&self.trainer.plateau, &mut self.memory.plateau) {
            plateau.observe(value(&found, metric)?);
        }
        let ends = self.has_stalled(&found)?;
        self.history.evaluations.push(found);
        Ok(ends)
    }

    fn keep_best(&mut self, found: &Evaluation) -> Result<()> {
        let Some(checkpoints) = &mut self.trainer.checkpoints else { return Ok(()) };
        let Some((metric, goal)) = checkpoints.criterion() else { return Ok(()) };
        let x = value(found, metric)?;
        if is_better(x, self.memory.best, *goal, 0.0) {
            self.memory.best = Some(x);
            tell(&mut self.trainer.observers, Event::Checkpoint { step: found.step, path: &checkpoints.best_path() })?;
            checkpoints.write_best(self.state)?;
        }
        Ok(())
    }

    fn has_stalled(&mut self, found: &Evaluation) -> Result<bool> {
        let Some(early) = &self.trainer.early else { return Ok(false) };
        let x = value(found, &early.metric)?;
        if is_better(x, self.memory.stopping, early.goal, early.min_delta) {
            (self.memory.stopping, self.memory.since) = (Some(x), 0);
        } else {
            self.memory.since += 1;
        }
        Ok(self.memory.since >= early.patience)
    }

    fn checkpoint(&mut self, step: u64) -> Result<()> {
        self.settle()?;
        let Some(checkpoints) = &mut self.trainer.checkpoints else { return Ok(()) };
        // Logs first: what they have behind the checkpoint's step is left out when they are read, and what they lack is lost.
        tell(&mut self.trainer.observers, Event::Checkpoint { step, path: &checkpoints.path(step) })?;
        checkpoints.write(self.state, &self.memory)
    }
}

/// Tells everybody.
fn tell(observers: &mut [Box<dyn Observer + '_>], event: Event<'_>) -> Result<()> {
    observers.iter_mut().try_for_each(|o| o.observe(event))
}

/// Batches that a thread made.
struct Taken(Receiver<Result<Inputs>>);

impl Iterator for Taken {
    type Item = Result<Inputs>;
    fn next(&mut self) -> Option<Result<Inputs>> {
        self.0.recv().ok()
    }
}

fn value(found: &Evaluation, metric: &str) -> Result<f64> {
    let names = || found.metrics.keys().cloned().collect::<Vec<_>>().join(", ");
    found.metrics.get(metric).copied().ok_or_else(|| Error::Input(format!("the evaluation gives no {metric}; it gives [{}]", names())))
}

fn is_better(x: f64, best: Option<f64>, goal: Goal, delta: f64) -> bool {
    let Some(best) = best else { return !x.is_nan() };
    match goal {
        Goal::Smaller => x < best - delta,
        Goal::Larger => x > best + delta,
    }
}
