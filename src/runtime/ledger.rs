//! What a state counts, and the runs whose outcome nobody knows yet.
//!
//! A run is counted when it is queued. Where the device refuses it, its counts are taken back by whoever learns of it first:
//! the holder of its result, the next run of the state, or who asks for the number of steps. The refusal of a run whose result
//! was dropped unread is an error of the next run, and of the log.

use super::state::lock;
use super::step::Shared;
use crate::error::{Error, Result};
use crate::types::HostTensor;
use rustc_hash::FxHashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// What a state counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Counts {
    /// Steps of training.
    pub steps: u64,
    /// Runs that drew random keys and were no steps of training.
    pub draws: u64,
    /// Updates of each parameter's moments, by the name that their tensors begin with.
    pub updates: FxHashMap<String, u64>,
}

impl Counts {
    /// How often those moments were updated.
    pub fn updates_of(&self, moments: &str) -> u64 {
        self.updates.get(moments).copied().unwrap_or(0)
    }

    fn add(&mut self, shared: &Shared) {
        self.steps += shared.counts() as u64;
        for name in &shared.moments {
            if let Some(count) = self.updates.get_mut(name) {
                *count += 1;
            } else {
                self.updates.insert(name.clone(), 1);
            }
        }
    }

    #[cfg_attr(not(feature = "gpu"), allow(dead_code))]
    fn take_back(&mut self, shared: &Shared) {
        self.steps = self.steps.saturating_sub(shared.counts() as u64);
        for name in &shared.moments {
            self.updates.entry(name.clone()).and_modify(|count| *count = count.saturating_sub(1));
        }
    }
}

/// The counts of a state with the runs that are queued.
#[derive(Default)]
pub(super) struct Ledger {
    counts: Mutex<Counts>,
    queued: Mutex<Vec<Arc<Ticket>>>,
}

impl Ledger {
    pub fn new(counts: Counts) -> Arc<Ledger> {
        Arc::new(Ledger { counts: Mutex::new(counts), queued: Mutex::default() })
    }

    /// The counts, of which those of queued runs may be taken back.
    pub fn counts(&self) -> MutexGuard<'_, Counts> {
        lock(&self.counts)
    }

    /// The number of a run that draws random keys. It stays used, whatever becomes of the run: others may have drawn later ones.
    pub fn draw(&self) -> u64 {
        let draws = &mut self.counts().draws;
        *draws += 1;
        *draws - 1
    }

    /// Counts a run that has this outcome, or will have one.
    pub fn enter(&self, shared: &Arc<Shared>, outcome: Outcome) -> Arc<Ticket> {
        let mut counts = self.counts();
        counts.add(shared);
        let is_open = !matches!(outcome, Outcome::Done(_));
        let number = shared.counts().then_some(counts.steps);
        let ticket = Ticket { shared: shared.clone(), number, outcome: Mutex::new(outcome), is_dropped: false.into(), is_told: false.into() };
        let ticket = Arc::new(ticket);
        drop(counts);
        if is_open {
            lock(&self.queued).push(ticket.clone());
        }
        ticket
    }

    /// Looks at what has arrived, without waiting; an error when a run was refused and its result dropped unread.
    pub fn look(&self) -> Result<()> {
        let mut lost = vec![];
        lock(&self.queued).retain(|ticket| match ticket.poll(self) {
            Fate::Open => true,
            Fate::Known => false,
            Fate::Lost(message) => {
                lost.push(message);
                false
            }
        });
        if lost.is_empty() { Ok(()) } else { Err(Error::Step(lost.join("; "))) }
    }

    /// Waits for every queued run. Refusals that nobody has read stay for the next run to report.
    pub fn settle(&self) {
        lock(&self.queued).retain(|ticket| match ticket.wait(self) {
            Ok(_) => false,
            Err(Error::Step(_)) => !ticket.is_told.load(Ordering::SeqCst),
            Err(error) => {
                tracing::error!(%error, "a queued run has no outcome");
                false
            }
        });
    }
}

/// A run in the ledger.
pub(super) struct Ticket {
    pub shared: Arc<Shared>,
    /// Of a step of training.
    number: Option<u64>,
    outcome: Mutex<Outcome>,
    is_dropped: AtomicBool,
    is_told: AtomicBool,
}

/// How a run ended, if it has.
pub(super) enum Outcome {
    Done(Option<HostTensor>),
    #[cfg_attr(not(feature = "gpu"), allow(dead_code))]
    Refused(u32),
    #[cfg(feature = "gpu")]
    Pending(Box<super::gpu::Pending>),
}

enum Fate {
    /// Nobody knows, or the holder of the result may still ask.
    Open,
    Known,
    /// Refused, and only the ledger knows.
    Lost(String),
}

impl Ticket {
    /// Waits for the run; gives the loss, or the refusal.
    #[cfg_attr(not(feature = "gpu"), allow(unused_variables, unused_mut))]
    pub fn wait(&self, ledger: &Ledger) -> Result<Option<HostTensor>> {
        let mut outcome = lock(&self.outcome);
        #[cfg(feature = "gpu")]
        if let Outcome::Pending(pending) = &mut *outcome {
            let arrived = pending.wait()?;
            *outcome = self.judge(arrived, ledger)?;
        }
        match &*outcome {
            Outcome::Done(loss) => Ok(loss.clone()),
            Outcome::Refused(status) => Err(Error::Step(self.shared.why_refused(*status))),
            #[cfg(feature = "gpu")]
            Outcome::Pending(_) => Err(Error::Device("the step is still pending".into())),
        }
    }

    /// [`Ticket::wait`] for the holder of the result, who then knows.
    pub fn tell(&self, ledger: &Ledger) -> Result<Option<HostTensor>> {
        let told = self.wait(ledger);
        if let Err(Error::Step(_)) = told {
            self.is_told.store(true, Ordering::SeqCst);
        }
        told
    }

    /// The holder of the result has gone.
    pub fn drop_result(&self) {
        self.is_dropped.store(true, Ordering::SeqCst);
        if let Outcome::Refused(status) = &*lock(&self.outcome) {
            self.announce(*status);
        }
    }

    #[cfg_attr(not(feature = "gpu"), allow(unused_variables, unused_mut))]
    fn poll(&self, ledger: &Ledger) -> Fate {
        let mut outcome = lock(&self.outcome);
        #[cfg(feature = "gpu")]
        if let Outcome::Pending(pending) = &mut *outcome {
            match pending.poll().and_then(|arrived| arrived.map(|a| self.judge(a, ledger)).transpose()) {
                Ok(Some(known)) => *outcome = known,
                Ok(None) => return Fate::Open,
                // The device is broken, which whatever runs next finds, too.
                Err(_) => return Fate::Known,
            }
        }
        let Outcome::Refused(status) = &*outcome else { return Fate::Known };
        match (self.is_told.load(Ordering::SeqCst), self.is_dropped.load(Ordering::SeqCst)) {
            (true, _) => Fate::Known,
            (false, false) => Fate::Open,
            (false, true) => Fate::Lost(format!("{}, whose result was dropped unread: {}", self.name(), self.shared.why_refused(*status))),
        }
    }

    #[cfg(feature = "gpu")]
    fn judge(&self, arrived: super::gpu::Arrived, ledger: &Ledger) -> Result<Outcome> {
        if arrived.status == 0 {
            return Ok(Outcome::Done(self.shared.decode_loss(&arrived.loss)?));
        }
        ledger.counts().take_back(&self.shared);
        if self.is_dropped.load(Ordering::SeqCst) {
            self.announce(arrived.status);
        }
        Ok(Outcome::Refused(arrived.status))
    }

    fn announce(&self, status: u32) {
        if !self.is_told.load(Ordering::SeqCst) {
            tracing::error!(run = self.name(), why = self.shared.why_refused(status), "a run was refused, and its result dropped unread");
        }
    }

    fn name(&self) -> String {
        let program = &self.shared.plan.program.name;
        self.number.map_or_else(|| format!("a run of {program}"), |n| format!("step {n} of {program}"))
    }
}
