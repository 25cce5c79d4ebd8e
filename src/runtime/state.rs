//! Named tensors that live across steps: parameters, buffers, optimizer state.
//!
//! A tensor stays on the engine that wrote it last and comes to the host when somebody asks for it. Every write makes a new
//! version; an engine that holds the version it needs is not written again. An engine that takes another state as its
//! tenant first leaves the old tenant's tensors in that state's mailbox.

use super::checkpoint::{Facts, check_sum};
use super::ledger::Ledger;
use super::parts::is_weight;
use super::signature::describe_type;
use super::step::Shared;
use super::tensor_file::{TensorFile, save_tensors};
use crate::error::{Error, Result};
use crate::graph::InputRole;
use crate::types::{DType, HostTensor};
use crate::update::is_optimizer_state;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Tensors that an engine gave back, with their versions.
pub(super) type Mailbox = Arc<Mutex<HashMap<String, (u64, HostTensor)>>>;

/// A lock whose holder cannot leave broken data behind.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Names of tensors with the version that is meant.
type Versions = Vec<(String, u64)>;

/// What a step needs to know about one tensor of its state.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub name: String,
    pub role: InputRole,
    pub dtype: DType,
    pub shape: Vec<usize>,
    /// Whether it starts as zeros, as moments do.
    pub zero: bool,
}

/// One tensor. Either `host` is there, or `owner` holds that version (or has left it in the mailbox).
#[derive(Clone)]
pub(super) struct Entry {
    pub role: InputRole,
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub version: u64,
    pub host: Option<HostTensor>,
    /// Known to be zeros, which a device is told instead of sent.
    pub zero: bool,
    pub owner: Option<Arc<Shared>>,
}

/// Parameters, buffers and optimizer state of a model, with the seed of its random keys and the number of steps taken.
/// Made by `Step::init`; shared by training and inference steps of one model, saved, loaded, resumed.
pub struct State {
    pub(super) id: u64,
    pub(super) seed: u64,
    pub(super) ledger: Arc<Ledger>,
    pub(super) entries: Mutex<BTreeMap<String, Entry>>,
    pub(super) mailbox: Mailbox,
    pub(super) notes: BTreeMap<String, String>,
    next_version: AtomicU64,
}

impl State {
    pub(super) fn new(seed: u64, tensors: Vec<(Spec, HostTensor)>) -> State {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let state = State {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            seed,
            ledger: Arc::default(),
            entries: Mutex::default(),
            mailbox: Mailbox::default(),
            notes: BTreeMap::new(),
            next_version: AtomicU64::new(1),
        };
        for (spec, tensor) in tensors {
            state.insert(spec, tensor);
        }
        state
    }

    /// Steps taken. Waits for queued ones, which may be refused.
    pub fn step(&self) -> u64 {
        self.ledger.settle();
        self.ledger.counts().steps
    }

    /// Notes a fact about the run in the checkpoints of this state, such as an option that decides how it goes on.
    /// [`load_checkpoint`](State::load_checkpoint) refuses a checkpoint whose notes differ; a state without any takes over those of
    /// the checkpoint.
    pub fn note(&mut self, name: &str, value: impl std::fmt::Display) {
        self.notes.insert(name.into(), value.to_string());
    }

    /// The seed of random keys.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        lock(&self.entries).keys().cloned().collect()
    }

    /// Names of all parameters, trained or not, sorted.
    ///
    /// ```
    /// # use inductor::{Config, DType, Device, HostTensor, Initializer, compile_train, optim, trace};
    /// # let model = trace("w", |t| Ok((t.parameter("w", DType::F32, 2, Initializer::Ones) * t.parameter("v", DType::F32, 2, Initializer::Ones)).sum(())))?;
    /// # let step = compile_train(&model, &Device::cpu(), optim::Sgd::new(0.5).average(0.5), &Config::default())?;
    /// assert_eq!(step.init(0)?.parameters(), ["v", "w"]);
    /// # Ok::<(), inductor::Error>(())
    /// ```
    pub fn parameters(&self) -> Vec<String> {
        self.names_of(InputRole::Parameter)
    }

    /// Names of the tensors of that role, sorted.
    pub fn names_of(&self, role: InputRole) -> Vec<String> {
        lock(&self.entries).iter().filter(|(_, e)| e.role == role).map(|(n, _)| n.clone()).collect()
    }

    /// A tensor, downloaded when it lives on a device.
    pub fn get(&self, name: &str) -> Result<HostTensor> {
        if !lock(&self.entries).contains_key(name) {
            return Err(Error::Input(format!("the state has no tensor {name}")));
        }
        self.download(&|n| n == name)?;
        let host = lock(&self.entries).get(name).and_then(|e| e.host.clone());
        host.ok_or_else(|| Error::Device(format!("{name} was not read")))
    }

    /// Replaces a tensor by one of the same type.
    ///
    /// ```
    /// # use inductor::{Config, DType, Device, HostTensor, Initializer, compile_train, optim, trace};
    /// # let model = trace("w", |t| Ok((t.parameter("w", DType::F32, 2, Initializer::Ones) * t.parameter("v", DType::F32, 2, Initializer::Ones)).sum(())))?;
    /// # let step = compile_train(&model, &Device::cpu(), optim::Sgd::new(0.5).average(0.5), &Config::default())?;
    /// let mut state = step.init(0)?;
    /// state.set("w", HostTensor::f32(&[2], &[3.0, 4.0]))?;
    /// assert_eq!(state.get("w")?.to_f32(), [3.0, 4.0]);
    /// assert!(state.set("w", HostTensor::f32(&[3], &[0.0; 3])).is_err(), "it is f32[2]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    pub fn set(&mut self, name: &str, tensor: HostTensor) -> Result<()> {
        if let Some(fault) = tensor.fault() {
            return Err(Error::Input(format!("{name}: {fault}")));
        }
        let version = self.fresh_version();
        let mut entries = lock(&self.entries);
        let entry = entries.get_mut(name).ok_or_else(|| Error::Input(format!("the state has no tensor {name}")))?;
        if let Some(fault) = entry.mismatch(name, tensor.dtype(), tensor.shape()) {
            return Err(Error::Input(fault));
        }
        entry.replace(tensor, version);
        Ok(())
    }

    /// Writes parameters and buffers under their names.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.write(path.as_ref(), &is_weight, None)
    }

    /// Writes everything that a run needs to go on exactly: also optimizer state, seed, counters and notes, with a checksum.
    pub fn save_checkpoint(&self, path: impl AsRef<Path>) -> Result<()> {
        self.ledger.settle();
        let facts = Facts { counts: self.ledger.counts().clone(), seed: self.seed, notes: self.notes.clone() };
        self.write(path.as_ref(), &|_| true, Some(facts))
    }

    /// Reads a checkpoint; as [`load`](State::load), of one file, with optimizer state, seed and counters. Also an error, and nothing changes,
    /// when its checksum is wrong or its notes differ from those of this state.
    pub fn load_checkpoint(&mut self, path: impl AsRef<Path>) -> Result<()> {
        self.read(path.as_ref())
    }

    pub(super) fn insert(&self, spec: Spec, tensor: HostTensor) {
        let version = self.fresh_version();
        let entry = Entry { role: spec.role, dtype: spec.dtype, shape: spec.shape, version, host: Some(tensor), zero: spec.zero, owner: None };
        lock(&self.entries).insert(spec.name, entry);
    }

    pub(super) fn fresh_version(&self) -> u64 {
        self.next_version.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Grows whenever a tensor changes, or comes to the host.
    pub(super) fn age(&self) -> u64 {
        self.next_version.load(Ordering::Relaxed)
    }

    /// Checks that the state fits a step. Optimizer state that is missing starts at zero: the state may come from an
    /// inference step.
    pub(super) fn admit(&self, specs: &[Spec]) -> Result<()> {
        let (mut faults, mut missing) = (vec![], vec![]);
        {
            let entries = lock(&self.entries);
            for spec in specs {
                match entries.get(&spec.name) {
                    Some(e) if e.dtype == spec.dtype && e.shape == spec.shape => {}
                    Some(e) => faults.push(format!(
                        "{}: the step takes {}, the state has {}",
                        spec.name,
                        describe_type(spec.dtype, &spec.shape),
                        describe_type(e.dtype, &e.shape)
                    )),
                    None if spec.role == InputRole::Optimizer => missing.push(spec.clone()),
                    None => faults.push(format!("{} is missing", spec.name)),
                }
            }
        }
        if !faults.is_empty() {
            return Err(Error::Input(format!("the state does not fit this step: {}", faults.join("; "))));
        }
        for spec in missing {
            let zeros = HostTensor::zeros(spec.dtype, &spec.shape);
            self.insert(Spec { zero: true, ..spec }, zeros);
        }
        Ok(())
    }

    /// Brings the wanted tensors to the host, one round trip per owner.
    pub(super) fn download(&self, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
        let mut entries = lock(&self.entries);
        let mut owners: Vec<(Arc<Shared>, Versions)> = vec![];
        for (name, entry) in entries.iter().filter(|(n, e)| e.host.is_none() && wanted(n)) {
            let Some(owner) = &entry.owner else { continue };
            let at = owners.iter().position(|(o, _)| Arc::ptr_eq(o, owner)).unwrap_or(owners.len());
            if at == owners.len() {
                owners.push((owner.clone(), vec![]));
            }
            owners[at].1.push((name.clone(), entry.version));
        }
        for (owner, names) in owners {
            let found = owner.hand_over(self.id, &names, &self.mailbox)?;
            for ((name, _), tensor) in names.iter().zip(found) {
                if let Some(entry) = entries.get_mut(name) {
                    entry.host = Some(tensor);
                    // Whoever owns it is to write a new version from now on.
                    self.fresh_version();
                }
            }
        }
        Ok(())
    }

    fn write(&self, path: &Path, wanted: &dyn Fn(&InputRole) -> bool, facts: Option<Facts>) -> Result<()> {
        self.download(&|_| true)?;
        let mut tensors = vec![];
        for (name, entry) in lock(&self.entries).iter().filter(|(_, e)| wanted(&e.role)) {
            let host = entry.host.clone().ok_or_else(|| Error::Device(format!("{name} was not read")))?;
            tensors.push((name.clone(), host));
        }
        let metadata = facts.map(|facts| facts.metadata(&tensors));
        save_tensors(path, &tensors, metadata)
    }

    fn read(&mut self, path: &Path) -> Result<()> {
        let mut file = TensorFile::open(path)?;
        let mut faults = vec![];
        {
            let entries = lock(&self.entries);
            for (name, dtype, shape) in file.tensors() {
                match entries.get(name) {
                    Some(entry) => faults.extend(entry.mismatch(name, dtype, shape)),
                    // Of a program that has not run with this state yet.
                    None if is_optimizer_state(name) => {}
                    None => faults.push(format!("unknown tensor {name}")),
                }
            }
            faults.extend(entries.keys().filter(|name| !file.holds(name)).map(|name| format!("{name} is missing")));
        }
        let facts = Facts::read(file.metadata(), file.tensors().map(|(name, ..)| name));
        let facts = match facts {
            Ok(facts) => {
                faults.extend(facts.differences(&self.notes));
                Some(facts)
            }
            Err(fault) => {
                faults.push(fault);
                None
            }
        };
        if !faults.is_empty() {
            return Err(Error::file(path, faults.join("; ")));
        }
        let tensors = file.read_all()?;
        check_sum(file.metadata(), &tensors).map_err(|fault| Error::file(path, fault))?;
        for (name, tensor) in tensors {
            let version = self.fresh_version();
            let (role, dtype, shape) = (InputRole::Optimizer, tensor.dtype(), tensor.shape().to_vec());
            let new = || Entry { role, dtype, shape, version, host: None, zero: false, owner: None };
            lock(&self.entries).entry(name).or_insert_with(new).replace(tensor, version);
        }
        if let Some(Facts { counts, seed, notes }) = facts {
            (self.ledger, self.seed, self.notes) = (Ledger::new(counts), seed, notes);
        }
        Ok(())
    }
}

impl Entry {
    /// How a type differs from that of the tensor of this name.
    pub fn mismatch(&self, name: &str, dtype: DType, shape: &[usize]) -> Option<String> {
        let fits = self.dtype == dtype && self.shape == shape;
        let (want, got) = (describe_type(self.dtype, &self.shape), describe_type(dtype, shape));
        (!fits).then(|| format!("{name}: expected {want}, got {got}"))
    }

    fn replace(&mut self, tensor: HostTensor, version: u64) {
        self.version = version;
        self.host = Some(tensor);
        self.zero = false;
        self.owner = None;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tensor_file::load_tensors;
    use super::*;

    fn spec(name: &str, role: InputRole, shape: &[usize]) -> Spec {
        Spec { name: name.into(), role, dtype: DType::F32, shape: shape.to_vec(), zero: false }
    }

    fn state() -> State {
        let w = HostTensor::f32(&[2], &[1.0, 2.0]);
        State::new(
            7,
            vec![
                (spec("w", InputRole::Parameter, &[2]), w.clone()),
                (spec("running", InputRole::Buffer, &[]), HostTensor::f32(&[], &[0.5])),
                (spec("optimizer.w.m", InputRole::Optimizer, &[2]), w),
            ],
        )
    }

    #[test]
    fn files_hold_parameters_and_buffers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let mut a = state();
        a.save(&path).unwrap();
        assert_eq!(load_tensors(&path).unwrap().0.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(), ["running", "w"]);
        a.set("w", HostTensor::f32(&[2], &[9.0, 9.0])).unwrap();
        a.load(&path).unwrap();
        assert_eq!(a.get("w").unwrap().to_f32(), [1.0, 2.0]);
        assert!(a.load_checkpoint(&path).unwrap_err().to_string().contains("optimizer.w.m is missing; it is no checkpoint"));
    }

    #[test]
    fn checkpoints_hold_everything() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.safetensors");
        let a = state();
        a.ledger.counts().steps = 41;
        a.save_checkpoint(&path).unwrap();
        let mut b = State::new(1, vec![(spec("w", InputRole::Parameter, &[2]), HostTensor::zeros(DType::F32, &[2]))]);
        let error = b.load_checkpoint(&path).unwrap_err().to_string();
        assert!(error.ends_with(": unknown tensor running"), "{error}");
        let mut b = state();
        b.set("optimizer.w.m", HostTensor::zeros(DType::F32, &[2])).unwrap();
        b.load_checkpoint(&path).unwrap();
        assert_eq!((b.step(), b.seed(), b.get("optimizer.w.m").unwrap().to_f32()), (41, 7, vec![1.0, 2.0]));
    }

    #[test]
    fn damaged_files_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let mut a = state();
        a.save(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        a.set("w", HostTensor::f32(&[2], &[9.0, 9.0])).unwrap();
        assert!(a.load(&path).unwrap_err().to_string().contains("not a sound safetensors file"));
        assert!(a.load(folder.path().join("absent")).is_err());
        assert_eq!(a.get("w").unwrap().to_f32(), [9.0, 9.0]);
        assert!(a.set("w", HostTensor::f32(&[3], &[9.0; 3])).unwrap_err().to_string().contains("w: expected f32[2], got f32[3]"));
        assert!(a.get("nobody").is_err());
    }
}
