//! States made of others: copies, parts, unions, and the one of averaged weights.

use super::ledger::{Counts, Ledger};
use super::state::{Entry, State, lock};
use crate::error::{Error, Result};
use crate::graph::InputRole;
use crate::types::{HostTensor, matches_pattern};
use crate::update::{averaged_parameter, moments_of, parameter_of};
use std::collections::BTreeMap;

impl State {
    /// A state of its own with the same tensors, counters, seed and notes: what one of them trains, the other does not see.
    pub fn try_clone(&self) -> Result<State> {
        self.part(|_| true)
    }

    /// The tensors whose names fit a pattern ([`matches_pattern`](crate::types::matches_pattern)), with the optimizer state of those
    /// among them. An error where there is none.
    ///
    /// ```
    /// # use inductor::{Config, DType, Device, HostTensor, Initializer, compile_train, optim, trace};
    /// # let model = trace("w", |t| Ok((t.parameter("w", DType::F32, 2, Initializer::Ones) * t.parameter("v", DType::F32, 2, Initializer::Ones)).sum(())))?;
    /// # let step = compile_train(&model, &Device::cpu(), optim::Sgd::new(0.5).average(0.5), &Config::default())?;
    /// let part = step.init(0)?.subset("w")?;
    /// assert_eq!(part.parameters(), ["w"]);
    /// # Ok::<(), inductor::Error>(())
    /// ```
    pub fn subset(&self, pattern: &str) -> Result<State> {
        let part = self.part(|name| matches_pattern(pattern, parameter_of(name).unwrap_or(name)))?;
        if part.names().is_empty() {
            return Err(Error::Input(format!("the state has no tensor that fits {pattern}")));
        }
        Ok(part)
    }

    /// Takes over the tensors of another state, with their counters; those that this state has, too, must be of the same type.
    /// Seed, notes and the number of steps stay.
    ///
    /// ```
    /// # use inductor::{Config, DType, Device, HostTensor, Initializer, compile_train, optim, trace};
    /// # let model = trace("w", |t| Ok((t.parameter("w", DType::F32, 2, Initializer::Ones) * t.parameter("v", DType::F32, 2, Initializer::Ones)).sum(())))?;
    /// # let step = compile_train(&model, &Device::cpu(), optim::Sgd::new(0.5).average(0.5), &Config::default())?;
    /// let (mut state, mut other) = (step.init(0)?, step.init(0)?);
    /// other.set("w", HostTensor::f32(&[2], &[3.0, 4.0]))?;
    /// state.merge(&other.subset("w")?)?;
    /// assert_eq!(state.get("w")?.to_f32(), [3.0, 4.0]);
    /// # Ok::<(), inductor::Error>(())
    /// ```
    pub fn merge(&mut self, other: &State) -> Result<()> {
        let (added, counts) = (other.on_host(|_| true)?, other.settled_counts());
        let known = lock(&self.entries);
        let faults = added.iter().filter_map(|(name, entry)| known.get(name).and_then(|own| own.mismatch(name, entry.dtype, &entry.shape)));
        let faults: Vec<String> = faults.collect();
        drop(known);
        if !faults.is_empty() {
            return Err(Error::Input(format!("the states do not fit: {}", faults.join("; "))));
        }
        for (name, mut entry) in added {
            entry.version = self.fresh_version();
            lock(&self.entries).insert(name, entry);
        }
        self.ledger.settle();
        self.ledger.counts().updates.extend(counts.updates);
        Ok(())
    }

    /// A copy for evaluation in which each parameter is the average that its optimizer keeps (`average(decay)` of an optimizer);
    /// others, and buffers, are as they are. An error where no optimizer keeps averages, or before the first step.
    ///
    /// ```
    /// # use inductor::{Config, DType, Device, HostTensor, Initializer, compile_train, optim, trace};
    /// # let model = trace("w", |t| Ok((t.parameter("w", DType::F32, 2, Initializer::Ones) * t.parameter("v", DType::F32, 2, Initializer::Ones)).sum(())))?;
    /// # let step = compile_train(&model, &Device::cpu(), optim::Sgd::new(0.5).average(0.5), &Config::default())?;
    /// let mut state = step.init(0)?;
    /// (0..2).try_for_each(|_| step.run(&mut state, ())?.wait())?;
    /// // The weight was 0.5 and then 0.25.
    /// assert_eq!((state.get("w")?.to_f32(), state.averaged()?.get("w")?.to_f32()), (vec![0.25; 2], vec![0.375; 2]));
    /// # Ok::<(), inductor::Error>(())
    /// ```
    pub fn averaged(&self) -> Result<State> {
        let mut copy = self.try_clone()?;
        let (names, counts) = (self.names(), self.settled_counts());
        let is_begun = |name: &str| moments_of(name).is_some_and(|moments| counts.updates_of(moments) > 0);
        let averages: Vec<(&str, &str)> = names.iter().filter_map(|name| Some((name.as_str(), averaged_parameter(name)?))).collect();
        if averages.is_empty() || !averages.iter().all(|(name, _)| is_begun(name)) {
            return Err(Error::Input("the state has no averages, or no step has begun them: see `average` of the optimizers".into()));
        }
        for (average, parameter) in averages {
            let (mean, dtype) = (self.get(average)?, self.get(parameter)?.dtype());
            copy.set(parameter, HostTensor::from_f64(dtype, mean.shape(), &mean.to_f64()))?;
        }
        Ok(copy)
    }

    fn part(&self, wanted: impl Fn(&str) -> bool) -> Result<State> {
        let mut state = State::new(self.seed, vec![]);
        let (entries, counts) = (self.on_host(wanted)?, self.settled_counts());
        state.ledger = Ledger::new(counts);
        for (name, mut entry) in entries {
            entry.version = state.fresh_version();
            lock(&state.entries).insert(name, entry);
        }
        state.notes = self.notes.clone();
        Ok(state)
    }

    fn settled_counts(&self) -> Counts {
        self.ledger.settle();
        self.ledger.counts().clone()
    }

    /// Entries that live on the host, and nowhere else.
    fn on_host(&self, wanted: impl Fn(&str) -> bool) -> Result<BTreeMap<String, Entry>> {
        self.download(&wanted)?;
        let entries = lock(&self.entries);
        let chosen = entries.iter().filter(|(name, _)| wanted(name));
        chosen
            .map(|(name, entry)| match &entry.host {
                Some(_) => Ok((name.clone(), Entry { owner: None, ..entry.clone() })),
                None => Err(Error::Device(format!("{name} was not read"))),
            })
            .collect()
    }
}

/// Roles that a model is saved with.
pub(super) fn is_weight(role: &InputRole) -> bool {
    *role != InputRole::Optimizer
}
