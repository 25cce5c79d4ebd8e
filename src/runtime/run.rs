//! One run of a step: what it is given, what it counts, and what becomes of it.

use super::anomaly;
use super::engine::{Engine, Started};
use super::ledger::{Counts, Outcome, Ticket};
use super::resident::Core;
use super::signature::{Checked, Inputs};
use super::state::{State, lock};
use super::step::Shared;
use crate::config::{Mode, Verify};
use crate::error::{Error, Result};
use crate::graph::InputRole;
use crate::loop_ir::BufferId;
use crate::types::{DType, HostTensor};
use crate::update::{Counter, counter};
use std::sync::Arc;
use std::time::Instant;

impl Shared {
    /// Queues one run, and takes from the engine what the result needs. With `Config::detect_anomaly` the run is waited for.
    pub fn start<T>(self: &Arc<Shared>, state: &State, inputs: Inputs, take: impl FnOnce(&Core) -> Result<T>) -> Result<(Arc<Ticket>, T)> {
        let span = tracing::debug_span!("step", program = %self.plan.program.name);
        let _entered = span.enter();
        state.ledger.look()?;
        let mut checked = self.signature.check(inputs)?;
        if !self.config.detect_anomaly {
            return self.enter(state, &mut checked, take);
        }
        let step = state.step() + 1;
        let done = self.enter(state, &mut checked, take).and_then(|(ticket, taken)| ticket.tell(&state.ledger).map(|_| (ticket, taken)));
        match done {
            Err(Error::Step(why)) => Err(Error::Step(match self.anomaly(state, &checked)? {
                Some(found) => format!("{why}; the first value of step {step} that is not finite is of {found}"),
                None => why,
            })),
            done => done,
        }
    }

    /// The first value that is not finite of a run that was refused, from the state that it left as it was.
    fn anomaly(&self, state: &State, run: &Checked) -> Result<Option<String>> {
        state.download(&|_| true)?;
        let program = &self.plan.program;
        let named = |(buffer, tensor): &(BufferId, HostTensor)| {
            let input = program.inputs.iter().find(|i| i.buffer == *buffer);
            input.map(|i| (i.name.clone(), tensor.clone()))
        };
        let mut inputs: Vec<(String, HostTensor)> = run.feeds.iter().filter_map(named).collect();
        let entries = lock(&state.entries);
        inputs.extend(entries.iter().filter_map(|(name, entry)| Some((name.clone(), entry.host.clone()?))));
        drop(entries);
        anomaly::find(&self.sources, &self.config, &run.bindings, &inputs)
    }

    /// Queues one run and counts it.
    fn enter<T>(self: &Arc<Shared>, state: &State, run: &mut Checked, take: impl FnOnce(&Core) -> Result<T>) -> Result<(Arc<Ticket>, T)> {
        let mut core = self.core_for(state)?;
        let queued = Engine::guarded(&self.device, || {
            let outcome = self.queue(&mut core, state, run)?;
            let taken = take(&core)?;
            core.record_writes(self, state);
            Ok((outcome, taken))
        });
        match queued {
            Ok(queued) => queued.map(|(outcome, taken)| (state.ledger.enter(self, outcome), taken)),
            Err(fault) => {
                core.forget_tenant();
                Err(fault)
            }
        }
    }

    /// Brings state and inputs to the engine and starts it. Where they do not arrive, nothing has changed; where the engine fails, nobody
    /// knows what it has written.
    fn queue(&self, core: &mut Core, state: &State, run: &mut Checked) -> Result<Outcome> {
        run.feeds.extend(self.host_inputs(core, state)?);
        let began = Instant::now();
        core.prepare(self, state, &run.bindings, &run.feeds)?;
        tracing::debug!(ms = began.elapsed().as_secs_f64() * 1e3, "state and inputs are where the step runs");
        core.runs += 1;
        let started = match self.config.verify {
            Verify::Off => core.engine.run().inspect_err(|_| core.forget_tenant())?,
            level => self.run_verified(core, state, &run.bindings, &run.feeds, level)?,
        };
        match started {
            Started::Done { status: 0, loss } => Ok(Outcome::Done(loss)),
            Started::Done { status, .. } => Err(Error::Step(self.why_refused(status))),
            #[cfg(feature = "gpu")]
            Started::Pending(pending) => Ok(Outcome::Pending(pending)),
        }
    }

    /// Keys and host scalars of the next run.
    fn host_inputs(&self, core: &Core, state: &State) -> Result<Vec<(BufferId, HostTensor)>> {
        let draw = if self.draws { state.ledger.draw() } else { 0 };
        let (scalars, counts) = (&core.scalars, state.ledger.counts());
        let mut out = vec![];
        for input in &self.plan.program.inputs {
            let ty = &self.plan.program.buffers[input.buffer.0 as usize].ty;
            match input.role {
                InputRole::Key if self.draws => out.push((input.buffer, key(state.seed(), draw, &format!("draw {}", input.name)))),
                InputRole::Key => out.push((input.buffer, key(state.seed(), counts.steps, &input.name))),
                InputRole::HostScalar => {
                    let given = match counter(&input.name) {
                        Some((kind, None)) => Some(self.count(kind, self.updates(&counts)?)),
                        Some((kind, Some(moments))) => Some(self.count(kind, counts.updates_of(moments))),
                        None => scalars.get(&input.name).copied(),
                    };
                    let value = given.ok_or_else(|| Error::Input(format!("host scalar {} is not set; use Step::set_scalar", input.name)))?;
                    out.push((input.buffer, HostTensor::from_f64(ty.dtype, &[], &[value])));
                }
                _ => {}
            }
        }
        Ok(out)
    }

    /// What a counter says of a run before which there were so many.
    fn count(&self, kind: Counter, runs: u64) -> f64 {
        let each = match &self.config.mode {
            Mode::Train(optimizer) => optimizer.accumulate.max(1) as u64,
            _ => 1,
        };
        let count = match kind {
            Counter::Step => runs / each,
            Counter::MicroBatch => runs % each,
        };
        (count + 1) as f64
    }

    /// The runs that updated the moments so far, which are as many for all parameters of this program.
    fn updates(&self, counts: &Counts) -> Result<u64> {
        let Some(first) = self.moments.first() else { return Ok(counts.steps) };
        let updates = counts.updates_of(first);
        match self.moments.iter().find(|name| counts.updates_of(name) != updates) {
            None => Ok(updates),
            Some(other) => Err(Error::Input(format!(
                "{first} was updated {updates} times, {other} {} times: where programs of one optimizer train different parameters, \
                 bias correction counts for each (step_per_parameter), or the optimizers have names of their own (named)",
                counts.updates_of(other)
            ))),
        }
    }
}

/// The key of one run: a function of seed, number and input name, so that a resumed run continues exactly.
fn key(seed: u64, step: u64, name: &str) -> HostTensor {
    let mut hash = blake3::Hasher::new();
    hash.update(&seed.to_le_bytes()).update(&step.to_le_bytes()).update(name.as_bytes());
    let bytes = hash.finalize().as_bytes()[..8].to_vec();
    HostTensor::from_bytes(DType::U32, vec![2], bytes).unwrap_or_else(|_| HostTensor::zeros(DType::U32, &[2]))
}
