//! The pipelines of a plan, drafts first: what a driver takes long to compile is compiled behind the first steps.
//!
//! Most of a first start goes to products whose terms are spelled out. A draft is the same kernel with few of them spelled, in a loop: the same
//! launch, bindings and order of sums, so the same numbers to the bit, a little slower ([`codegen::draft`](crate::codegen::draft)). Where
//! neither this process nor the cache on disk knows the pipelines of a plan, its first run takes drafts. A program that runs once, such as one
//! inference, needs no more. Who asks for a second run will ask for many: then threads compile the others, half as many as the machine
//! has, and the run behind the last of them takes them all. The cache on disk is whole from then on, so that the next start has no drafts.
//!
//! What does not compile behind is the error of the next run, which changes nothing; runs after it try again. Who drops a step waits for what
//! the driver has begun, since a process must not end inside a driver, but not for the rest.

use super::device::GpuDevice;
use super::pipelines::{DiskCache, Kept, Prepared, STACK, Work, are_known, prepare};
use crate::codegen::{KernelCode, Plan, draft};
use crate::error::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// The pipelines of a plan; none before any is compiled.
#[derive(Default)]
pub(super) struct Pipelines {
    /// By [`Plan::code`].
    current: Vec<Prepared>,
    left: Left,
    _saving: Saving,
}

/// What is still to be compiled.
#[derive(Default)]
enum Left {
    #[default]
    Nothing,
    /// What drafts stand for, and whether a run has begun.
    Drafts {
        job: Job,
        has_run: bool,
    },
    Behind(Behind),
}

/// Kernels that are to be compiled.
#[derive(Clone)]
struct Job {
    gpu: Arc<GpuDevice>,
    plan: Arc<Plan>,
    disk: Option<Arc<DiskCache>>,
    kernels: Arc<[usize]>,
    cancelled: Arc<AtomicBool>,
}

/// A job under way.
struct Behind {
    job: Job,
    /// None where the system gives no thread: then who takes the pipelines compiles them.
    thread: Option<JoinHandle<Result<Vec<Prepared>>>>,
}

impl Pipelines {
    /// Compiles all, or with `drafts` what the first run needs.
    pub fn new(gpu: &Arc<GpuDevice>, plan: &Arc<Plan>, drafts: bool) -> Result<Pipelines> {
        let known = are_known(gpu, &plan.code);
        let disk = if known { None } else { DiskCache::open(gpu, &plan.code).map(Arc::new) };
        let whole = !drafts || known || disk.as_ref().is_some_and(|disk| disk.is_whole());
        let work = Work { threads: cores(), cancelled: &AtomicBool::new(false) };
        let drafts = if whole { vec![] } else { drafts_of(plan, work)? };
        let drafted = |k: usize| drafts.iter().find(|(kernel, _)| *kernel == k).map(|(_, code)| code);
        let code: Vec<&KernelCode> = plan.code.iter().enumerate().map(|(k, whole)| drafted(k).unwrap_or(whole)).collect();
        let mut current = prepare(gpu, &code, disk.as_deref(), work)?;
        let kept = if drafts.is_empty() { Kept::Whole } else { Kept::Drafts };
        let saving = disk.clone().map_or_else(Saving::default, |disk| Saving::begin(disk, kept));
        if drafts.is_empty() {
            return Ok(Pipelines { current, left: Left::Nothing, _saving: saving });
        }
        let kernels: Arc<[usize]> = drafts.into_iter().map(|(kernel, _)| kernel).collect();
        // Drafts stand for the only variant of a kernel.
        kernels.iter().for_each(|&k| current[k].variant = 0);
        let job = Job { gpu: gpu.clone(), plan: plan.clone(), disk, kernels, cancelled: Arc::default() };
        Ok(Pipelines { current, left: Left::Drafts { job, has_run: false }, _saving: saving })
    }

    /// What runs each kernel now.
    pub fn current(&self) -> &[Prepared] {
        &self.current
    }

    /// A run is to begin. True where it takes others than the last one.
    pub fn advance(&mut self) -> Result<bool> {
        match &mut self.left {
            #[cfg(test)]
            Left::Drafts { job, .. } if job.gpu.injected.keeps_drafts() => Ok(false),
            Left::Drafts { has_run: has_run @ false, .. } => {
                *has_run = true;
                Ok(false)
            }
            Left::Behind(behind) if !behind.is_finished() => Ok(false),
            Left::Drafts { .. } => {
                self.compile_behind();
                Ok(false)
            }
            Left::Behind(_) | Left::Nothing => self.take(),
        }
    }

    /// Waits for what drafts stand for. True where there were any.
    pub fn settle(&mut self) -> Result<bool> {
        self.compile_behind();
        self.take()
    }

    fn compile_behind(&mut self) {
        self.left = match std::mem::take(&mut self.left) {
            Left::Drafts { job, .. } => Left::Behind(Behind::begin(job)),
            others => others,
        };
    }

    fn take(&mut self) -> Result<bool> {
        let Left::Behind(mut behind) = std::mem::take(&mut self.left) else { return Ok(false) };
        match behind.end() {
            Ok(prepared) => {
                behind.job.kernels.iter().zip(prepared).for_each(|(&k, prepared)| self.current[k] = prepared);
                Ok(true)
            }
            Err(error) => {
                self.left = Left::Drafts { job: behind.job.again(), has_run: true };
                Err(error)
            }
        }
    }
}

/// The cache on disk is written beside the first run, which a disk may keep waiting for longer than it takes.
#[derive(Default)]
struct Saving(Option<JoinHandle<()>>);

impl Saving {
    fn begin(disk: Arc<DiskCache>, kept: Kept) -> Saving {
        let thread = std::thread::Builder::new().name("cache".into()).spawn(move || disk.save(kept));
        Saving(thread.inspect_err(|error| tracing::debug!(%error, "no thread writes the cache")).ok())
    }
}

impl Drop for Saving {
    fn drop(&mut self) {
        if self.0.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::debug!("writing the cache panicked");
        }
    }
}

impl Job {
    fn compile(&self) -> Result<Vec<Prepared>> {
        let code: Vec<&KernelCode> = self.kernels.iter().map(|&k| &self.plan.code[k]).collect();
        let work = Work { threads: cores().div_ceil(2), cancelled: &self.cancelled };
        let prepared = prepare(&self.gpu, &code, self.disk.as_deref(), work)?;
        if let Some(disk) = &self.disk {
            disk.save(Kept::Whole);
        }
        Ok(prepared)
    }

    fn again(&self) -> Job {
        Job { cancelled: Arc::default(), ..self.clone() }
    }
}

impl Behind {
    fn begin(job: Job) -> Behind {
        let work = {
            let job = job.clone();
            move || job.compile()
        };
        let thread = std::thread::Builder::new().name("pipelines".into()).stack_size(STACK).spawn(work);
        let thread = thread.inspect_err(|error| tracing::debug!(%error, "no thread compiles pipelines")).ok();
        Behind { job, thread }
    }

    fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(|thread| thread.is_finished())
    }

    fn end(&mut self) -> Result<Vec<Prepared>> {
        match self.thread.take() {
            Some(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            None => self.job.compile(),
        }
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        self.job.cancelled.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Nobody asks what became of it any more.
            drop(thread.join());
        }
    }
}

/// Drafts with their kernels. A driver that does not take one has the whole kernel behind it.
fn drafts_of(plan: &Plan, work: Work) -> Result<Vec<(usize, KernelCode)>> {
    let order: Vec<usize> = (0..plan.code.len()).collect();
    let drafts = work.done(&order, |k| draft(plan, k))?.into_iter().enumerate().filter_map(|(k, draft)| Some((k, draft?)));
    Ok(drafts.map(|(k, draft)| (k, KernelCode { variants: [&[draft], &plan.code[k].variants[..]].concat() })).collect())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment, Target};
    use crate::frontend::optim::AdamW;
    use crate::frontend::{Initializer, Traced, trace};
    use crate::graph::{Builder, InputRole, OutputRole};
    use crate::ops::{FusedAttention, ScaledDotProductAttention};
    use crate::runtime::{Device, State, Step, compile, compile_train};
    use crate::types::{DType, DeviceModel, HostTensor, TensorType};
    use std::path::{Path, PathBuf};

    /// A device of its own that knows no pipeline of a program, for which terms are spelled out as for a GPU.
    fn fresh(cache_dir: Option<&Path>) -> Option<Device> {
        let environment = Environment { cache_dir: cache_dir.map(PathBuf::from), ..Environment::default() };
        let software = Device::open_with(true, &environment).inspect_err(|e| eprintln!("software adapter: skipped, {e}")).ok()?;
        let gpu = software.gpu().expect("a software adapter is one").clone();
        Some(Device::assumed(gpu, Target { model: DeviceModel::large_gpu(), ..software.target() }))
    }

    fn gpu(device: &Device) -> &GpuDevice {
        device.gpu().expect("a software adapter is one")
    }

    fn known(device: &Device) -> usize {
        super::super::device::lock(&gpu(device).pipelines).len()
    }

    fn build(device: &Device) -> Step {
        let model = trace("one layer", |t| {
            let w = t.parameter("w", DType::F32, (33, 40), Initializer::Uniform { low: -1.0, high: 1.0 });
            Ok(t.input("x", DType::F32, (24, 33)).matmul(&w).relu().square().sum(()))
        });
        compile_train(&model.unwrap(), device, AdamW::new(1e-2), &Config::default()).unwrap()
    }

    fn run(step: &Step, state: &mut State) -> Result<f32> {
        let values: Vec<f32> = (0..24 * 33).map(|i| ((i * 7 + state.step() as usize * 11) % 17) as f32 / 7.0 - 1.0).collect();
        step.run(state, [&HostTensor::f32(&[24, 33], &values)])?.loss()
    }

    fn train(step: &Step, state: &mut State, steps: u64) {
        for _ in 0..steps {
            run(step, state).unwrap();
        }
    }

    /// The weights after so many steps without drafts.
    fn settled(device: &Device, steps: u64) -> HostTensor {
        let step = build(device);
        step.settle().unwrap();
        let mut state = step.init(1).unwrap();
        train(&step, &mut state, steps);
        state.get("w").unwrap()
    }

    #[test]
    fn drafts_compute_the_same_numbers() {
        let Some(device) = fresh(None) else { return };
        gpu(&device).injected.keep_drafts(true);
        let step = build(&device);
        let mut state = step.init(1).unwrap();
        train(&step, &mut state, 4);
        let (drafted, drafts) = (state.get("w").unwrap(), known(&device));
        gpu(&device).injected.keep_drafts(false);
        assert!(settled(&device, 4) == drafted);
        assert!(known(&device) > drafts);
    }

    /// Sums of others are no fused multiply-adds as spelled, so that a driver may round a draft otherwise.
    #[test]
    fn only_products_of_f32_have_drafts() {
        for (dtype, expected) in [(DType::F32, 1), (DType::F64, 0), (DType::I32, 0)] {
            let mut b = Builder::new("product");
            let mut input = |name: &str| b.input(name, InputRole::Input, TensorType::new(dtype, (256, 256))).unwrap();
            let (x, y) = (input("x"), input("y"));
            let z = b.matmul(x, y).unwrap();
            b.output("z", OutputRole::User, z);
            let types = [TensorType::new(dtype, (256, 256)), TensorType::new(dtype, (256, 256))];
            let config = Config { mode: crate::config::Mode::Inference, ..Config::default() };
            let (plan, _) = crate::compile::inductor_with_report(&b.finish(), &types, &Target::h100(), &config).unwrap();
            let drafts: Vec<_> = (0..plan.code.len()).filter_map(|k| draft(&plan, k).unwrap()).collect();
            assert_eq!(drafts.len(), expected, "{dtype}");
            assert!(drafts.iter().all(|d| plan.code.iter().all(|whole| d.wgsl.len() < whole.variants[0].wgsl.len())));
        }
    }

    #[test]
    fn attention_of_drafts_is_the_same() {
        let Some(device) = fresh(None) else { return };
        let mut b = Builder::new("attention");
        let mut input = |name: &str, rows: i64| b.input(name, InputRole::Input, TensorType::new(DType::F32, (2, rows, 24))).unwrap();
        let operands = [input("q", 37), input("k", 70), input("v", 70)];
        let attention = ScaledDotProductAttention { causal: true, ..ScaledDotProductAttention::default() };
        let results = b.node(FusedAttention { attention, stores_weights: false }, &operands).unwrap();
        b.output("y", OutputRole::User, results[0]);
        let traced = Traced { graph: b.finish(), ..Traced::default() };
        let inputs: Vec<HostTensor> = [("q", 37), ("k", 70), ("v", 70)]
            .map(|(name, rows)| Initializer::Uniform { low: -1.0, high: 1.0 }.sample(DType::F32, &[2, rows, 24], 1, name))
            .into();
        let step = compile(&traced, &device, &Config::default()).unwrap();
        let state = step.init(0).unwrap();
        let (before, drafted) = (known(&device), step.infer(&state, &inputs[..]).unwrap().output("y").unwrap());
        step.settle().unwrap();
        assert!(known(&device) > before);
        assert!(step.infer(&state, &inputs[..]).unwrap().output("y").unwrap() == drafted);
    }

    #[test]
    fn what_is_compiled_behind_takes_over_between_steps() {
        let Some(device) = fresh(None) else { return };
        let step = build(&device);
        let (mut state, drafts) = (step.init(1).unwrap(), known(&device));
        let drafted = (0..step.plan().code.len()).filter(|&k| draft(step.plan(), k).unwrap().is_some()).count();
        while known(&device) < drafts + drafted {
            train(&step, &mut state, 1);
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        train(&step, &mut state, 3);
        let steps = state.step();
        assert!(settled(&device, steps) == state.get("w").unwrap());
    }

    #[test]
    fn what_does_not_compile_behind_is_the_error_of_a_run() {
        let Some(device) = fresh(None) else { return };
        let step = build(&device);
        let mut state = step.init(1).unwrap();
        run(&step, &mut state).unwrap();
        gpu(&device).injected.fail_compilation(0);
        let error = loop {
            match run(&step, &mut state) {
                Ok(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains("a planned compilation failed"), "{error}");
        run(&step, &mut state).unwrap();
        step.settle().unwrap();
        let steps = state.step();
        assert!(settled(&device, steps) == state.get("w").unwrap());
    }

    #[test]
    fn a_second_start_has_no_drafts() {
        let folder = tempfile::tempdir().unwrap();
        let start = |settle: bool| {
            let device = fresh(Some(folder.path()))?;
            let probed = known(&device);
            let step = build(&device);
            let first = known(&device) - probed;
            run(&step, &mut step.init(1).unwrap()).unwrap();
            if settle {
                step.settle().unwrap();
            }
            Some((first, known(&device) - probed))
        };
        // One run needs no more than drafts.
        let Some((drafts, then)) = start(false) else { return };
        assert_eq!(then, drafts);
        let (again, all) = start(true).unwrap();
        assert_eq!(again, drafts);
        assert!(all > drafts);
        let (whole, then) = start(true).unwrap();
        assert_eq!((whole, then), (drafts, drafts));
    }

    #[test]
    fn a_step_may_be_dropped_while_it_compiles() {
        let Some(device) = fresh(None) else { return };
        let step = build(&device);
        let mut state = step.init(1).unwrap();
        train(&step, &mut state, 2);
        let weights = state.get("w").unwrap();
        drop((state, step));
        assert!(settled(&device, 2) == weights);
    }
}
