//! A compiled program bound to a device.

use super::device::Device;
use super::engine::{Engine, Started};
use super::explain::Explain;
use super::ledger::{Counts, Outcome};
use super::memory;
use super::oracle::Sources;
use super::result::StepResult;
use super::signature::{Inputs, Signature};
use super::state::{Mailbox, Spec, State, lock};
use crate::codegen::Plan;
use crate::compile::Report;
use crate::config::{Config, Mode, Verify};
use crate::error::{Error, Result};
use crate::frontend::{Initializer, Traced};
use crate::graph::{InputRole, OutputRole};
use crate::loop_ir::BufferId;
use crate::schedule::Program;
use crate::types::{Bindings, DType, HostTensor};
use crate::update::{Counter, counter, moments_of};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// A compiled program bound to a device: one call is one step. Cheap to clone; clones share buffers.
#[derive(Clone)]
pub struct Step {
    shared: Arc<Shared>,
}

/// What clones of a step share.
pub(super) struct Shared {
    pub plan: Arc<Plan>,
    pub config: Config,
    pub device: Device,
    signature: Signature,
    states: Vec<StateTensor>,
    /// What the program reads of a state.
    specs: Vec<Spec>,
    report: Report,
    pub sources: Sources,
    /// The moments whose updates bias correction counts.
    pub moments: Vec<String>,
    /// Whether a run draws keys of its own: steps of training have those of their number.
    pub draws: bool,
    pub core: Mutex<Core>,
}

/// A tensor of the step's state.
struct StateTensor {
    spec: Spec,
    initializer: Initializer,
    /// Where the program has it; a parameter that the program does not read has no place.
    buffer: Option<BufferId>,
    written: bool,
}

/// The engine and what is on it.
pub(super) struct Core {
    pub engine: Engine,
    tenant: Option<(u64, Mailbox)>,
    /// Version of each state tensor on the engine.
    resident: HashMap<String, u64>,
    scalars: BTreeMap<String, f64>,
    pub runs: u64,
    /// The interpreter that kernels are compared with, made when first needed.
    #[cfg_attr(not(feature = "gpu"), allow(dead_code))]
    pub verifier: Option<crate::interp::Interpreter>,
}

impl Step {
    /// Binds a plan to a device: pipelines are compiled here, buffers made at the first run with known sizes.
    pub fn new(plan: Plan, mut report: Report, traced: &Traced, device: &Device, config: &Config) -> Result<Step> {
        let plan = Arc::new(plan);
        let states = state_tensors(&plan.program, traced)?;
        let started = Instant::now();
        let engine = Engine::new(device, plan.clone())?;
        report.stage_ms.push(("pipelines".into(), started.elapsed().as_secs_f64() * 1e3));
        let sources = match config.verify {
            Verify::Full => Sources { graphs: std::mem::take(&mut report.graphs), values: std::mem::take(&mut report.values) },
            _ => Sources::default(),
        };
        let mut scalars = BTreeMap::new();
        if let Mode::Train(optimizer) = &config.mode {
            scalars.insert("lr".to_string(), optimizer.lr);
        }
        let core = Core { engine, tenant: None, resident: HashMap::new(), scalars, runs: 0, verifier: None };
        let signature = Signature::new(&plan, config);
        let (config, device) = (config.clone(), device.clone());
        let specs = states.iter().filter(|s| s.buffer.is_some()).map(|s| s.spec.clone()).collect();
        let mut moments: Vec<String> = states.iter().filter(|s| s.written).filter_map(|s| moments_of(&s.spec.name)).map(String::from).collect();
        let mut seen = HashSet::new();
        moments.retain(|name| seen.insert(name.clone()));
        let draws = !matches!(config.mode, Mode::Train(_)) && plan.program.inputs.iter().any(|i| i.role == InputRole::Key);
        let shared = Shared { plan, config, device, signature, states, specs, report, sources, moments, draws, core: Mutex::new(core) };
        Ok(Step { shared: Arc::new(shared) })
    }

    /// A fresh state: parameters and buffers by their initializers, optimizer state zero. Equal seeds give equal states on
    /// every device.
    pub fn init(&self, seed: u64) -> Result<State> {
        let bytes = |s: &StateTensor| s.spec.shape.iter().fold(s.spec.dtype.size() as u64, |n, &d| n.saturating_mul(d as u64));
        let total = self.shared.states.iter().map(bytes).fold(0, u64::saturating_add);
        memory::admit(total, || format!("the state of {}", self.shared.plan.program.name))?;
        let sample = |s: &StateTensor| (s.spec.clone(), s.initializer.sample(s.spec.dtype, &s.spec.shape, seed, &s.spec.name));
        Ok(State::new(seed, self.shared.states.iter().map(sample).collect()))
    }

    /// Sets a host scalar, such as `lr`, for the steps that follow. Nothing is recompiled.
    pub fn set_scalar(&self, name: &str, value: f64) -> Result<()> {
        let scalars = self.shared.plan.program.inputs.iter().filter(|i| i.role == InputRole::HostScalar && counter(&i.name).is_none());
        let known: Vec<&str> = scalars.map(|i| i.name.as_str()).collect();
        if !known.contains(&name) {
            return Err(Error::Input(format!("there is no host scalar {name}; there are [{}]", known.join(", "))));
        }
        self.check_scalar(name, value)?;
        lock(&self.shared.core).scalars.insert(name.into(), value);
        Ok(())
    }

    /// What a host scalar is set to, if it is.
    pub fn scalar(&self, name: &str) -> Option<f64> {
        lock(&self.shared.core).scalars.get(name).copied()
    }

    /// The options it was compiled with, its mode among them.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    fn check_scalar(&self, name: &str, value: f64) -> Result<()> {
        let program = &self.shared.plan.program;
        let dtypes = program.inputs.iter().filter(|i| i.name == name).map(|i| program.buffers[i.buffer.0 as usize].ty.dtype);
        let refuse_infinite = self.shared.counts() && !self.shared.config.allow_non_finite;
        for dtype in dtypes {
            match dtype.int_range() {
                Some((low, high)) if value.fract() != 0.0 || value < low as f64 || value > high as f64 => {
                    return Err(Error::Input(format!("{name}: {value} is no {dtype}")));
                }
                None if refuse_infinite && !dtype.round(value).is_finite() => {
                    return Err(Error::Input(format!("{name}: {value} is not finite as {dtype} (Config::allow_non_finite)")));
                }
                _ => {}
            }
        }
        let is_rate = name == "lr" && self.shared.counts();
        if is_rate && value < 0.0 { Err(Error::Input(format!("{name}: {value} is negative"))) } else { Ok(()) }
    }

    /// Runs one step. Everything is checked before anything changes. On a GPU the step is queued, and what it computes is
    /// waited for when it is asked for.
    pub fn run(&self, state: &mut State, inputs: impl Into<Inputs>) -> Result<StepResult> {
        let shared = &self.shared;
        let span = tracing::debug_span!("step", program = %shared.plan.program.name);
        let _entered = span.enter();
        state.ledger.look()?;
        let checked = shared.signature.check(inputs.into())?;
        let mut feeds = checked.feeds;
        feeds.extend(shared.host_inputs(state)?);
        state.admit(&shared.specs)?;
        let missing = shared.lacking(state);
        // A verified step may find that the device is wrong: then the host has what was there before.
        let all = shared.config.verify != Verify::Off;
        state.download(&|name| all || missing.iter().any(|m| m == name))?;

        let mut core = lock(&shared.core);
        core.take_tenant(shared, state)?;
        core.engine.bind(&checked.bindings)?;
        core.upload_state(shared, state)?;
        for (buffer, tensor) in &feeds {
            core.engine.feed(*buffer, tensor)?;
        }
        core.runs += 1;
        let run = core.runs;
        let started = match shared.config.verify {
            Verify::Off => core.engine.run()?,
            level => shared.run_verified(&mut core, state, &checked.bindings, &feeds, level)?,
        };
        let outcome = match started {
            Started::Done { status: 0, loss } => Outcome::Done(loss),
            Started::Done { status, .. } => return Err(Error::Step(shared.why_refused(status))),
            #[cfg(feature = "gpu")]
            Started::Pending(pending) => Outcome::Pending(pending),
        };
        core.record_writes(shared, state);
        Ok(StepResult::new(state.ledger.enter(shared, outcome), state.ledger.clone(), run))
    }

    /// Fills what lives only within a step with NaN, so that a kernel that reads what nobody wrote is seen. For tests.
    pub fn poison_temporaries(&self) {
        lock(&self.shared.core).engine.poison_temporaries();
    }

    /// Dispatches so far.
    pub fn launches(&self) -> u64 {
        lock(&self.shared.core).engine.launches()
    }

    /// Bytes of all buffers on the device.
    pub fn peak_bytes(&self) -> u64 {
        lock(&self.shared.core).engine.peak_bytes()
    }

    /// What the compiler decided, as data; prints as text.
    pub fn explain(&self) -> Explain {
        Explain::new(&self.shared.plan, &self.shared.report)
    }

    /// The compiled plan.
    pub fn plan(&self) -> &Plan {
        &self.shared.plan
    }

    /// The device it runs on.
    pub fn device(&self) -> &Device {
        &self.shared.device
    }

    /// Names and types of the inputs a call takes, in order.
    pub fn signature(&self) -> String {
        self.shared.signature.describe()
    }

    /// Time of each command on the device, by timestamps; for tables. Runs the step's commands on what the buffers hold.
    #[cfg(feature = "gpu")]
    pub fn command_times(&self) -> Result<Vec<super::gpu::LaunchTime>> {
        let mut core = lock(&self.shared.core);
        match &mut core.engine {
            Engine::Gpu(engine) => engine.run_timed(),
            Engine::Cpu { .. } => Err(Error::Platform("the interpreter has no timestamps".into())),
        }
    }

    /// Sizes of the last call's symbols.
    #[cfg(feature = "gpu")]
    pub(super) fn bindings(&self) -> Bindings {
        match &lock(&self.shared.core).engine {
            Engine::Gpu(engine) => engine.bindings().clone(),
            Engine::Cpu { .. } => Bindings::new(),
        }
    }
}

impl Shared {
    /// The message behind a status word.
    pub fn why_refused(&self, status: u32) -> String {
        let known = (status as usize).checked_sub(1).and_then(|k| self.plan.program.checks.get(k));
        known.cloned().unwrap_or_else(|| format!("status {status}"))
    }

    /// Whether a run is a step of the state: only training counts.
    pub fn counts(&self) -> bool {
        matches!(self.config.mode, Mode::Train(_))
    }

    /// Keys and host scalars of the next step.
    fn host_inputs(&self, state: &State) -> Result<Vec<(BufferId, HostTensor)>> {
        let (scalars, counts) = (lock(&self.core).scalars.clone(), state.ledger.counts());
        let mut out = vec![];
        for input in &self.plan.program.inputs {
            let ty = &self.plan.program.buffers[input.buffer.0 as usize].ty;
            match input.role {
                InputRole::Key if self.draws => out.push((input.buffer, key(state.seed(), counts.draws, &format!("draw {}", input.name)))),
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

    /// Names of tensors that this engine lacks in the state's version.
    fn lacking(&self, state: &State) -> Vec<String> {
        let core = lock(&self.core);
        let at_home = core.tenant.as_ref().is_some_and(|(id, _)| *id == state.id);
        let entries = lock(&state.entries);
        let has = |name: &str| at_home && core.resident.get(name) == entries.get(name).map(|e| &e.version);
        self.states.iter().filter(|s| s.buffer.is_some() && !has(&s.spec.name)).map(|s| s.spec.name.clone()).collect()
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
                found.ok_or_else(|| Error::Device(format!("{} is no longer on its device", entry.0)))
            })
            .collect()
    }

    fn buffer_of(&self, name: &str) -> Option<BufferId> {
        self.states.iter().find(|s| s.spec.name == name).and_then(|s| s.buffer)
    }

    #[cfg(feature = "gpu")]
    pub fn decode_loss(&self, bytes: &[u8]) -> Result<Option<HostTensor>> {
        let program = &self.plan.program;
        let Some(loss) = program.outputs.iter().find(|o| o.role == OutputRole::Loss) else { return Ok(None) };
        let placed = &program.buffers[loss.buffer.0 as usize];
        super::storage::decode(bytes, placed.storage, placed.ty.dtype, &[]).map(Some).map_err(Error::Device)
    }
}

impl Core {
    /// Makes `state` the tenant; tensors of the former one that exist nowhere else go to its mailbox.
    fn take_tenant(&mut self, shared: &Shared, state: &State) -> Result<()> {
        if self.tenant.as_ref().is_some_and(|(id, _)| *id == state.id) {
            return Ok(());
        }
        if let Some((_, mailbox)) = self.tenant.take() {
            let written: Vec<&StateTensor> = shared.states.iter().filter(|s| s.written && self.resident.contains_key(&s.spec.name)).collect();
            let buffers: Vec<BufferId> = written.iter().filter_map(|s| s.buffer).collect();
            let tensors = self.engine.read_all(&buffers)?;
            let mut left = lock(&mailbox);
            for (s, tensor) in written.iter().zip(tensors) {
                left.insert(s.spec.name.clone(), (self.resident[&s.spec.name], tensor));
            }
        }
        self.resident.clear();
        self.tenant = Some((state.id, state.mailbox.clone()));
        Ok(())
    }

    fn upload_state(&mut self, shared: &Shared, state: &mut State) -> Result<()> {
        let mut entries = lock(&state.entries);
        for s in &shared.states {
            let (Some(buffer), Some(entry)) = (s.buffer, entries.get_mut(&s.spec.name)) else { continue };
            if self.resident.get(&s.spec.name) == Some(&entry.version) {
                continue;
            }
            let posted = || lock(&state.mailbox).get(&s.spec.name).filter(|(v, _)| *v == entry.version).map(|(_, t)| t.clone());
            let host = entry.host.clone().or_else(posted);
            let host = host.ok_or_else(|| Error::Device(format!("{} is on no device and not on the host", s.spec.name)))?;
            self.engine.write(buffer, &host)?;
            self.resident.insert(s.spec.name.clone(), entry.version);
        }
        self.engine.end_writing();
        Ok(())
    }

    /// After a step: what it wrote is newer here than anywhere else.
    fn record_writes(&mut self, shared: &Arc<Shared>, state: &mut State) {
        for s in shared.states.iter().filter(|s| s.written) {
            let version = state.fresh_version();
            if let Some(entry) = lock(&state.entries).get_mut(&s.spec.name) {
                entry.version = version;
                entry.host = None;
                entry.owner = Some(shared.clone());
                self.resident.insert(s.spec.name.clone(), version);
            }
        }
    }

    /// Forgets what is on the engine, so that the next run uploads everything again.
    pub fn forget_tenant(&mut self) {
        self.resident.clear();
        self.tenant = None;
    }
}

/// The key of one run: a function of seed, number and input name, so that a resumed run continues exactly.
fn key(seed: u64, step: u64, name: &str) -> HostTensor {
    let mut hash = blake3::Hasher::new();
    hash.update(&seed.to_le_bytes()).update(&step.to_le_bytes()).update(name.as_bytes());
    let bytes = hash.finalize().as_bytes()[..8].to_vec();
    HostTensor::from_bytes(DType::U32, vec![2], bytes).unwrap_or_else(|_| HostTensor::zeros(DType::U32, &[2]))
}

/// State tensors of the program, and parameters and buffers of the trace that the program does not read.
fn state_tensors(program: &Program, traced: &Traced) -> Result<Vec<StateTensor>> {
    let is_state = |role: &InputRole| matches!(role, InputRole::Parameter | InputRole::Buffer | InputRole::Optimizer);
    let mut out: Vec<StateTensor> = vec![];
    for input in program.inputs.iter().filter(|i| is_state(&i.role)) {
        let ty = &program.buffers[input.buffer.0 as usize].ty;
        out.push(StateTensor {
            spec: spec(&input.name, &input.role, ty)?,
            initializer: traced.initializer(&input.name),
            buffer: Some(input.buffer),
            written: writes_slot_of(program, input.buffer),
        });
    }
    for input in traced.graph.inputs.iter().filter(|i| is_state(&i.role)) {
        if !out.iter().any(|s| s.spec.name == input.name) {
            let spec = spec(&input.name, &input.role, traced.graph.ty(input.value))?;
            out.push(StateTensor { spec, initializer: traced.initializer(&input.name), buffer: None, written: false });
        }
    }
    Ok(out)
}

fn spec(name: &str, role: &InputRole, ty: &crate::types::TensorType) -> Result<Spec> {
    let shape = ty.shape.as_ints().ok_or_else(|| Error::compile(format!("{name}: {ty} is state and must have a fixed size")))?;
    Ok(Spec { name: name.into(), role: role.clone(), dtype: ty.dtype, shape })
}

fn writes_slot_of(program: &Program, state: BufferId) -> bool {
    let slot = program.buffers[state.0 as usize].slot;
    program.commands.iter().any(|command| {
        let writes = &program.kernels[command.kernel as usize].writes;
        writes.iter().any(|w| program.buffers[command.buffers[w.buffer.0 as usize].0 as usize].slot == slot)
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::*;

    /// The devices tests run on; a missing software adapter is said, not passed over.
    fn devices() -> Vec<Device> {
        let mut devices = vec![Device::cpu()];
        match Device::software() {
            Ok(device) => devices.push(device),
            Err(error) => eprintln!("software adapter: skipped, {error}"),
        }
        devices
    }

    fn fixture(device: &Device) -> Step {
        Step::new(fixtures::training_plan(device.target()), Report::default(), &fixtures::traced(), device, &fixtures::config()).unwrap()
    }

    fn x(values: [f32; 4]) -> HostTensor {
        HostTensor::f32(&[4], &values)
    }

    fn index(i: i32) -> HostTensor {
        HostTensor::i32(&[], &[i])
    }

    #[test]
    fn a_step_trains() {
        for device in devices() {
            let step = fixture(&device);
            let mut state = step.init(1).unwrap();
            assert_eq!(step.run(&mut state, [&x([1.0, 2.0, 3.0, 4.0]), &index(0)]).unwrap().loss().unwrap(), 10.0, "{device:?}");
            assert_eq!(state.get("w").unwrap().to_f32(), [0.5, 0.0, -0.5, -1.0]);
            step.set_scalar("lr", 1.0).unwrap();
            let result = step.run(&mut state, [("i", &index(3)), ("x", &x([1.0; 4]))]).unwrap();
            assert_eq!(result.loss().unwrap(), -1.0);
            assert_eq!(result.output("loss").unwrap().to_f32(), [-1.0]);
            assert_eq!(state.get("w").unwrap().to_f32(), [-0.5, -1.0, -1.5, -2.0]);
            assert_eq!((state.step(), step.launches()), (2, 4));
            assert!(step.set_scalar("momentum", 1.0).unwrap_err().to_string().contains("there are [lr]"));
        }
    }

    #[test]
    fn a_refused_step_leaves_state() {
        for device in devices() {
            let step = fixture(&device);
            let mut state = step.init(1).unwrap();
            let refused = step.run(&mut state, [&x([1.0; 4]), &index(4)]).and_then(|r| r.loss()).unwrap_err();
            assert_eq!(refused.to_string(), "step refused: index i is out of range");
            assert_eq!((state.step(), state.get("w").unwrap().to_f32()), (0, vec![1.0; 4]));
            assert!(matches!(step.run(&mut state, [&x([f32::NAN; 4]), &index(0)]), Err(Error::Input(_))));
            assert_eq!(step.run(&mut state, [&x([1.0; 4]), &index(1)]).unwrap().loss().unwrap(), 4.0);
            assert_eq!(state.step(), 1);
        }
    }

    #[test]
    fn states_take_turns_on_one_engine() {
        for device in devices() {
            let (step, other) = (fixture(&device), fixture(&device));
            let (mut a, mut b) = (step.init(1).unwrap(), step.init(1).unwrap());
            for k in 0..3 {
                step.run(&mut a, [&x([1.0; 4]), &index(0)]).unwrap();
                step.run(&mut b, [&x([2.0; 4]), &index(0)]).unwrap();
                if k == 1 {
                    other.run(&mut a, [&x([4.0; 4]), &index(0)]).unwrap();
                }
            }
            assert_eq!(a.get("w").unwrap().to_f32(), [1.0 - 3.0 * 0.5 - 2.0; 4]);
            assert_eq!(b.get("w").unwrap().to_f32(), [1.0 - 3.0; 4]);
        }
    }

    #[test]
    fn outputs_are_read_before_the_next_run() {
        for device in devices() {
            let step = fixture(&device);
            let mut state = step.init(1).unwrap();
            let first = step.run(&mut state, [&x([1.0; 4]), &index(0)]).unwrap();
            let _second = step.run(&mut state, [&x([1.0; 4]), &index(0)]).unwrap();
            assert_eq!(first.loss().unwrap(), 4.0);
            assert!(first.output("loss").unwrap_err().to_string().contains("overwritten by run 2"));
            for _ in 0..40 {
                step.run(&mut state, [&x([0.0; 4]), &index(0)]).unwrap();
            }
            assert_eq!(state.get("w").unwrap().to_f32(), [0.0; 4]);
        }
    }

    #[test]
    #[cfg(feature = "gpu")]
    fn a_wrong_kernel_is_named_and_leaves_a_reproducer() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { verify: Verify::Kernels, dump: Some(folder.path().to_path_buf()), ..fixtures::config() };
        for device in devices().into_iter().filter(|d| !d.is_cpu()) {
            let sound = Step::new(fixtures::training_plan(device.target()), Report::default(), &fixtures::traced(), &device, &config).unwrap();
            let mut state = sound.init(1).unwrap();
            assert_eq!(sound.run(&mut state, [&x([1.0, 2.0, 3.0, 4.0]), &index(0)]).unwrap().loss().unwrap(), 10.0);
            assert_eq!(state.get("w").unwrap().to_f32(), [0.5, 0.0, -0.5, -1.0]);
            assert!(matches!(sound.run(&mut state, [&x([1.0; 4]), &index(9)]), Err(Error::Step(_))));

            let mut plan = fixtures::training_plan(device.target());
            plan.code[1].variants[0].wgsl = plan.code[1].variants[0].wgsl.replace("- lr[0]", "+ lr[0]");
            let wrong = Step::new(plan, Report::default(), &fixtures::traced(), &device, &config).unwrap();
            let error = wrong.run(&mut state, [&x([1.0; 4]), &index(0)]).err().expect("refused").to_string();
            assert!(error.starts_with("verify: command 1, kernel 1 as sgd, ops sgd (sgd): w: element "), "{error}");
            assert_eq!((state.step(), state.get("w").unwrap().to_f32()), (1, vec![0.5, 0.0, -0.5, -1.0]));

            let case = folder.path().join("fixture-1");
            assert!(super::super::replay(&case, &device).unwrap().difference.unwrap().contains("w: element"));
            let facts = std::fs::read_to_string(case.join("case.json")).unwrap().replace("+ lr[0]", "- lr[0]");
            std::fs::write(case.join("case.json"), facts).unwrap();
            assert_eq!(super::super::replay(&case, &device).unwrap().difference, None);
        }
    }

    #[test]
    fn sizes_change_between_runs() {
        for device in devices() {
            let plan = fixtures::symbolic_plan(device.target());
            let traced = Traced::default();
            let step = Step::new(plan, Report::default(), &traced, &device, &Config::default()).unwrap();
            let mut state = step.init(0).unwrap();
            // The last size needs more than 65,535 workgroups.
            for n in [3usize, 1000, 1, 64 * 65536 + 5] {
                let data: Vec<f32> = (0..n).map(|k| (k % 1000) as f32).collect();
                let result = step.run(&mut state, [&HostTensor::f32(&[n], &data)]).unwrap();
                let y = result.output("y").unwrap();
                assert_eq!(y.shape(), [n]);
                assert!(y.to_f32().iter().zip(&data).all(|(y, x)| *y == 2.0 * x), "{n}");
            }
        }
    }
}
