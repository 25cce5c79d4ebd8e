//! Which state is on an engine, and in which version.

use super::engine::Engine;
use super::state::{Mailbox, State, lock};
use super::step::{Shared, StateTensor};
use crate::config::Verify;
use crate::error::{Error, Result};
use crate::loop_ir::BufferId;
use crate::types::{Bindings, HostTensor};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, MutexGuard};

/// The engine and what is on it.
pub(super) struct Core {
    pub engine: Engine,
    tenant: Option<(u64, Mailbox)>,
    /// Version of each state tensor on the engine.
    resident: HashMap<String, u64>,
    /// What was brought for the run that begins.
    arrivals: Vec<String>,
    /// The state, and its age when the last run ended: until somebody looks at it or changes it, all of it is here and nowhere else.
    current: Option<(u64, u64)>,
    pub scalars: BTreeMap<String, f64>,
    pub runs: u64,
    /// The interpreter that kernels are compared with, made when first needed.
    #[cfg_attr(not(feature = "gpu"), allow(dead_code))]
    pub verifier: Option<crate::interp::Interpreter>,
}

impl Shared {
    /// The engine, when all that the program reads of a state is on it or on the host.
    pub fn core_for(&self, state: &State) -> Result<MutexGuard<'_, Core>> {
        // A verified run may find that the device is wrong: then the host has what was there before.
        let all = self.config.verify != Verify::Off;
        loop {
            let core = lock(&self.core);
            if core.is_current(state) && !all {
                return Ok(core);
            }
            state.admit(&self.specs)?;
            let absent = core.absent(self, state, all);
            if absent.is_empty() {
                return Ok(core);
            }
            // Whoever has it may be this engine, or one that waits for it.
            drop(core);
            state.download(&|name| absent.iter().any(|a| a == name))?;
        }
    }

    /// Tensors of a state that this engine holds, or left in the state's mailbox.
    pub fn hand_over(&self, tenant: u64, names: &[(String, u64)], mailbox: &Mailbox) -> Result<Vec<HostTensor>> {
        let core = lock(&self.core);
        let at_home = core.tenant.as_ref().is_some_and(|(id, _)| *id == tenant);
        let here = |(name, version): &&(String, u64)| at_home && core.resident.get(name) == Some(version);
        let buffers: Vec<BufferId> = names.iter().filter(here).filter_map(|(n, _)| self.buffer_of(n)).collect();
        let mut read = core.engine.read_all(&buffers)?.into_iter();
        let left = lock(mailbox);
        names
            .iter()
            .map(|entry| {
                let posted = left.get(&entry.0).filter(|(version, _)| *version == entry.1).map(|(_, t)| t.clone());
                let found = if here(&entry) { read.next() } else { posted };
                found.ok_or_else(|| Error::Device(format!("{} was on a device that failed; load a checkpoint", entry.0)))
            })
            .collect()
    }

    fn buffer_of(&self, name: &str) -> Option<BufferId> {
        self.states.iter().find(|s| s.spec.name == name).and_then(|s| s.buffer)
    }
}

impl Core {
    pub fn new(engine: Engine) -> Core {
        Core { engine, tenant: None, resident: HashMap::new(), arrivals: vec![], current: None, scalars: BTreeMap::new(), runs: 0, verifier: None }
    }

    /// Brings state and inputs. Where that fails, what had arrived counts as if it had not.
    pub fn prepare(&mut self, shared: &Shared, state: &State, bindings: &Bindings, feeds: &[(BufferId, HostTensor)]) -> Result<()> {
        let brought = self.bring(shared, state, bindings, feeds);
        if brought.is_err() {
            self.current = None;
            self.resident.retain(|name, _| !self.arrivals.contains(name));
        }
        self.arrivals.clear();
        brought
    }

    fn bring(&mut self, shared: &Shared, state: &State, bindings: &Bindings, feeds: &[(BufferId, HostTensor)]) -> Result<()> {
        let is_current = self.is_current(state);
        if !is_current {
            self.take_tenant(shared, state)?;
        }
        self.engine.bind(bindings)?;
        if !is_current {
            self.upload_state(shared, state)?;
        }
        feeds.iter().try_for_each(|(buffer, tensor)| self.engine.feed(*buffer, tensor))?;
        self.engine.make_ready()
    }

    fn is_current(&self, state: &State) -> bool {
        self.current == Some((state.id, state.age()))
    }

    fn is_home_of(&self, state: &State) -> bool {
        self.tenant.as_ref().is_some_and(|(id, _)| *id == state.id)
    }

    /// Names of tensors that the program reads and that are neither here in the state's version nor on the host; with `all`, of those that
    /// are not on the host.
    fn absent(&self, shared: &Shared, state: &State, all: bool) -> Vec<String> {
        let at_home = self.is_home_of(state) && !all;
        let entries = lock(&state.entries);
        let is_absent = |name: &str| {
            let entry = entries.get(name).filter(|e| e.host.is_none());
            entry.is_some_and(|e| !at_home || self.resident.get(name) != Some(&e.version))
        };
        let read = shared.states.iter().filter(|s| s.buffer.is_some());
        read.map(|s| &s.spec.name).filter(|name| is_absent(name)).cloned().collect()
    }

    /// Makes `state` the tenant; tensors of the former one that exist nowhere else go to its mailbox.
    fn take_tenant(&mut self, shared: &Shared, state: &State) -> Result<()> {
        if self.is_home_of(state) {
            return Ok(());
        }
        if let Some((_, mailbox)) = &self.tenant {
            let written: Vec<&StateTensor> = shared.states.iter().filter(|s| s.written && self.resident.contains_key(&s.spec.name)).collect();
            let buffers: Vec<BufferId> = written.iter().filter_map(|s| s.buffer).collect();
            let tensors = self.engine.read_all(&buffers)?;
            let mut left = lock(mailbox);
            for (s, tensor) in written.iter().zip(tensors) {
                left.insert(s.spec.name.clone(), (self.resident[&s.spec.name], tensor));
            }
        }
        self.resident.clear();
        self.tenant = Some((state.id, state.mailbox.clone()));
        Ok(())
    }

    fn upload_state(&mut self, shared: &Shared, state: &State) -> Result<()> {
        let entries = lock(&state.entries);
        for s in &shared.states {
            let (Some(buffer), Some(entry)) = (s.buffer, entries.get(&s.spec.name)) else { continue };
            if self.resident.get(&s.spec.name) == Some(&entry.version) {
                continue;
            }
            let host = entry.host.as_ref().ok_or_else(|| Error::Device(format!("{} is on no device and not on the host", s.spec.name)))?;
            self.arrivals.push(s.spec.name.clone());
            if entry.zero {
                self.engine.write_zeros(buffer, host)?
            } else {
                self.engine.write(buffer, host)?
            }
            self.resident.insert(s.spec.name.clone(), entry.version);
        }
        self.engine.end_writing()
    }

    /// After a run: what it wrote is newer here than anywhere else. Where nobody has looked at the state since the last one, that is
    /// known already.
    pub fn record_writes(&mut self, shared: &Arc<Shared>, state: &State) {
        if self.is_current(state) {
            return;
        }
        let mut entries = lock(&state.entries);
        for s in shared.states.iter().filter(|s| s.written) {
            let Some(entry) = entries.get_mut(&s.spec.name) else { continue };
            entry.version = state.fresh_version();
            (entry.host, entry.zero) = (None, false);
            entry.owner = Some(shared.clone());
            self.resident.insert(s.spec.name.clone(), entry.version);
        }
        self.current = Some((state.id, state.age()));
    }

    /// Forgets what is on the engine, so that the next run uploads everything again.
    pub fn forget_tenant(&mut self) {
        self.resident.clear();
        self.tenant = None;
        self.current = None;
    }
}
