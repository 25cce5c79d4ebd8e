//! A compiled program bound to a device.

use super::device::Device;
use super::engine::Engine;
use super::explain::Explain;
use super::memory;
use super::oracle::Sources;
use super::resident::Core;
use super::result::{Outputs, StepResult};
use super::signature::{Inputs, Signature};
use super::state::{Spec, State, lock};
use crate::codegen::Plan;
use crate::compile::Report;
use crate::config::{Config, Mode, Verify};
use crate::error::{Error, Result};
use crate::frontend::{Initializer, Traced};
use crate::graph::InputRole;
#[cfg(feature = "gpu")]
use crate::graph::OutputRole;
use crate::loop_ir::BufferId;
use crate::schedule::Program;
#[cfg(feature = "gpu")]
use crate::types::{Bindings, HostTensor};
use crate::types::{Cooperative, TensorType};
use crate::update::{counter, moments_of};
use std::collections::HashSet;
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
    pub signature: Signature,
    pub states: Vec<StateTensor>,
    /// What the program reads of a state.
    pub specs: Vec<Spec>,
    report: Report,
    pub sources: Sources,
    /// The moments whose updates bias correction counts.
    pub moments: Vec<String>,
    /// Whether a run draws keys of its own: steps of training have those of their number.
    pub draws: bool,
    pub core: Mutex<Core>,
}

/// A tensor of the step's state.
#[derive(Clone)]
pub(super) struct StateTensor {
    pub spec: Spec,
    initializer: Initializer,
    /// Where the program has it; a parameter that the program does not read has no place.
    pub buffer: Option<BufferId>,
    pub written: bool,
}

impl Step {
    /// Binds a plan to a device: pipelines are compiled here, buffers made at the first run with known sizes.
    pub fn new(plan: Plan, mut report: Report, traced: &Traced, device: &Device, config: &Config) -> Result<Step> {
        let plan = Arc::new(plan);
        let states = state_tensors(&plan.program, traced)?;
        let started = Instant::now();
        let engine = Engine::new(device, plan.clone(), takes_drafts(config))?;
        report.stage_ms.push(("pipelines".into(), started.elapsed().as_secs_f64() * 1e3));
        let sources = if config.verify == Verify::Full || config.detect_anomaly {
            Sources { graphs: std::mem::take(&mut report.graphs), values: std::mem::take(&mut report.values) }
        } else {
            Sources::default()
        };
        let mut core = Core::new(engine);
        if let Mode::Train(optimizer) = &config.mode {
            core.scalars.insert("lr".to_string(), optimizer.lr);
        }
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

    /// The same program on another device of the same kind, with the host scalars as they are: what goes on after [`Error::Lost`].
    /// Nothing of a state that was only on the lost device comes back; a copy on the host ([`State::try_clone`]) or a checkpoint does,
    /// with its counters, so that a run continues with the numbers it would have had.
    ///
    /// ```no_run
    /// # use inductor::{Error, HostTensor, Result, State, Step};
    /// # fn train(step: &mut Step, state: &mut State, batch: &HostTensor) -> Result<()> {
    /// match step.run(state, [batch]).and_then(|r| r.loss()) {
    ///     Err(Error::Lost(_)) => {
    ///         *step = step.rebuild(&step.device().reopen()?)?;
    ///         state.load_checkpoint("last.safetensors")
    ///     }
    ///     other => other.map(|_| ()),
    /// }
    /// # }
    /// ```
    pub fn rebuild(&self, device: &Device) -> Result<Step> {
        let old = &self.shared;
        let (forms, had) = (&old.plan.program.forms, &old.plan.target.caps);
        let mut has = device.caps().clone();
        // A plan without matrix units asks nothing of them.
        if !forms.iter().any(|form| form.units().is_some()) {
            has.cooperative = had.cooperative;
        } else if !device.multiplies(forms) {
            has.cooperative = Cooperative::Absent;
        }
        if *had != has {
            return Err(Error::Platform(format!("the program is compiled for {}, and {} differs from it: compile it anew", had.name, has.name)));
        }
        let mut core = Core::new(Engine::new(device, old.plan.clone(), takes_drafts(&old.config))?);
        core.scalars = lock(&old.core).scalars.clone();
        Ok(Step { shared: Arc::new(old.on(device.clone(), core)) })
    }

    /// A fresh state: parameters and buffers by their initializers, optimizer state zero. Equal seeds give equal states on
    /// every device.
    pub fn init(&self, seed: u64) -> Result<State> {
        let bytes = |s: &StateTensor| s.spec.shape.iter().fold(s.spec.dtype.size() as u64, |n, &d| n.saturating_mul(d as u64));
        let total = self.shared.states.iter().map(bytes).fold(0, u64::saturating_add);
        memory::admit(total, || format!("the state of {}", self.shared.plan.program.name))?;
        let began = Instant::now();
        let sample = |s: &StateTensor| (s.spec.clone(), s.initializer.sample(s.spec.dtype, &s.spec.shape, seed, &s.spec.name));
        let state = State::new(seed, self.shared.states.iter().map(sample).collect());
        tracing::info!(bytes = total, ms = began.elapsed().as_secs_f64() * 1e3, "initial state");
        Ok(state)
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
        let (ticket, run) = self.shared.start(state, inputs.into(), |core| Ok(core.runs))?;
        Ok(StepResult::new(ticket, state.ledger.clone(), Outputs::OnEngine(run)))
    }

    /// Runs a program that writes no state once. Several threads may share step and state: their runs are queued one behind the
    /// other, and each result has outputs of its own, which no later run overwrites. A program that updates its state is refused; it needs
    /// the state for itself ([`run`](Step::run)).
    ///
    /// ```
    /// use inductor::{Config, DType, Device, HostTensor, Initializer, compile, trace_eval};
    ///
    /// # fn main() -> inductor::Result<()> {
    /// let traced = trace_eval("scaled", |t| {
    ///     let scale = t.parameter("scale", DType::F32, (), Initializer::Constant(3.0));
    ///     Ok(vec![("y", t.input("x", DType::F32, 2) * scale)])
    /// })?;
    /// let step = compile(&traced, &Device::cpu(), &Config::default())?;
    /// let state = step.init(0)?;
    /// std::thread::scope(|scope| {
    ///     for k in 0..4 {
    ///         let (step, state) = (&step, &state);
    ///         scope.spawn(move || {
    ///             let y = step.infer(state, [&HostTensor::f32(&[2], &[k as f32, 1.0])]).and_then(|r| r.output("y"));
    ///             assert_eq!(y.unwrap().to_f32(), [3.0 * k as f32, 3.0]);
    ///         });
    ///     }
    /// });
    /// # Ok(())
    /// # }
    /// ```
    pub fn infer(&self, state: &State, inputs: impl Into<Inputs>) -> Result<StepResult> {
        if let Some(written) = self.shared.states.iter().find(|s| s.written) {
            let (program, name) = (&self.shared.plan.program.name, &written.spec.name);
            return Err(Error::Input(format!("{program} updates {name}, and needs its state for itself: use Step::run")));
        }
        let mut buffers: Vec<BufferId> = self.shared.plan.program.outputs.iter().map(|o| o.buffer).collect();
        buffers.sort_unstable();
        buffers.dedup();
        let (ticket, copies) = self.shared.start(state, inputs.into(), |core| core.engine.copies(&buffers))?;
        Ok(StepResult::new(ticket, state.ledger.clone(), Outputs::own(buffers, copies)))
    }

    /// Waits until everything is compiled. Where no cache knows a program, its first runs take drafts of kernels that are slow to compile: they
    /// compute the same numbers, a little slower, while the others are compiled behind them from the second run on. Whoever measures
    /// waits here first.
    ///
    /// ```
    /// # use inductor::{Config, DType, Device, HostTensor, Initializer, compile_train, optim, trace};
    /// # let model = trace("w", |t| Ok(t.parameter("w", DType::F32, 2, Initializer::Ones).square().sum(())))?;
    /// let step = compile_train(&model, &Device::cpu(), optim::Sgd::new(0.1), &Config::default())?;
    /// let mut state = step.init(0)?;
    /// step.run(&mut state, ())?.loss()?;
    /// step.settle()?;
    /// let began = std::time::Instant::now();
    /// step.run(&mut state, ())?.loss()?;
    /// println!("a step takes {:?}", began.elapsed());
    /// # Ok::<(), inductor::Error>(())
    /// ```
    pub fn settle(&self) -> Result<()> {
        lock(&self.shared.core).engine.settle()
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
    fn on(&self, device: Device, core: Core) -> Shared {
        Shared {
            plan: self.plan.clone(),
            config: self.config.clone(),
            device,
            signature: self.signature.clone(),
            states: self.states.clone(),
            specs: self.specs.clone(),
            report: self.report.clone(),
            sources: self.sources.clone(),
            moments: self.moments.clone(),
            draws: self.draws,
            core: Mutex::new(core),
        }
    }

    /// The message behind a status word.
    pub fn why_refused(&self, status: u32) -> String {
        let known = (status as usize).checked_sub(1).and_then(|k| self.plan.program.checks.get(k));
        known.cloned().unwrap_or_else(|| format!("status {status}"))
    }

    /// Whether a run is a step of the state: only training counts.
    pub fn counts(&self) -> bool {
        matches!(self.config.mode, Mode::Train(_))
    }

    #[cfg(feature = "gpu")]
    pub fn decode_loss(&self, bytes: &[u8]) -> Result<Option<HostTensor>> {
        let program = &self.plan.program;
        let Some(loss) = program.outputs.iter().find(|o| o.role == OutputRole::Loss) else { return Ok(None) };
        let placed = &program.buffers[loss.buffer.0 as usize];
        super::storage::decode(bytes, placed.storage, placed.ty.dtype, &[]).map(Some).map_err(Error::Device)
    }
}

/// A verified run compares the kernels that stay.
fn takes_drafts(config: &Config) -> bool {
    config.verify == Verify::Off
}

/// State tensors of the program, and parameters and buffers of the trace that the program does not read.
fn state_tensors(program: &Program, traced: &Traced) -> Result<Vec<StateTensor>> {
    let mut out: Vec<StateTensor> = vec![];
    for input in program.inputs.iter().filter(|i| i.role.is_state()) {
        let ty = &program.buffers[input.buffer.0 as usize].ty;
        let written = writes_slot_of(program, input.buffer);
        out.push(state_tensor(traced, &input.name, &input.role, ty, Some(input.buffer), written)?);
    }
    for input in traced.graph.inputs.iter().filter(|i| i.role.is_state()) {
        if !out.iter().any(|s| s.spec.name == input.name) {
            out.push(state_tensor(traced, &input.name, &input.role, traced.graph.ty(input.value), None, false)?);
        }
    }
    Ok(out)
}

fn state_tensor(traced: &Traced, name: &str, role: &InputRole, ty: &TensorType, buffer: Option<BufferId>, written: bool) -> Result<StateTensor> {
    let shape = ty.shape.as_ints().ok_or_else(|| Error::compile(format!("{name}: {ty} is state and must have a fixed size")))?;
    let initializer = traced.initializer(name);
    let spec = Spec { name: name.into(), role: role.clone(), dtype: ty.dtype, shape, zero: initializer == Initializer::Zeros };
    Ok(StateTensor { spec, initializer, buffer, written })
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
    use crate::types::HostTensor;

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
