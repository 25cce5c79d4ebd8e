//! One interface over the interpreter and the GPU, so that a step can hold either.

use super::counters::{Counted, count};
use super::device::Device;
use super::memory;
use crate::codegen::Plan;
use crate::error::Result;
use crate::graph::OutputRole;
use crate::interp::Interpreter;
use crate::loop_ir::BufferId;
use crate::types::{Bindings, HostTensor};
use std::sync::Arc;

#[cfg(feature = "gpu")]
use super::gpu::{GpuEngine, Pending, Readback};

/// What runs a plan.
pub(super) enum Engine {
    Cpu {
        interpreter: Box<Interpreter>,
        plan: Arc<Plan>,
        bindings: Bindings,
        bound: bool,
    },
    #[cfg(feature = "gpu")]
    Gpu(Box<GpuEngine>),
}

/// Loss and status word of a run.
pub(super) enum Started {
    Done {
        status: u32,
        loss: Option<HostTensor>,
    },
    #[cfg(feature = "gpu")]
    Pending(Box<Pending>),
}

/// Tensors as they were when they were asked for.
pub(super) enum Copies {
    Here(Vec<HostTensor>),
    #[cfg(feature = "gpu")]
    Coming(Readback),
}

impl Copies {
    /// Waits for them, if nobody has.
    pub fn arrived(&mut self) -> Result<&[HostTensor]> {
        #[cfg(feature = "gpu")]
        if let Copies::Coming(readback) = self {
            *self = Copies::Here(readback.wait()?);
        }
        match self {
            Copies::Here(tensors) => Ok(tensors),
            #[cfg(feature = "gpu")]
            Copies::Coming(_) => Ok(&[]),
        }
    }
}

impl Engine {
    /// With `drafts`, what takes a driver long is compiled behind the first runs.
    pub fn new(device: &Device, plan: Arc<Plan>, drafts: bool) -> Result<Engine> {
        // A software adapter's memory is the host's, too.
        if plan.program.symbols.is_empty() && (device.is_cpu() || device.is_software()) {
            memory::admit_program(&plan.program, &Bindings::new(), 0)?;
        }
        #[cfg(feature = "gpu")]
        if let Some(gpu) = device.gpu() {
            return Ok(Engine::Gpu(Box::new(GpuEngine::new(gpu, plan, drafts)?)));
        }
        let _ = drafts;
        count(Counted::Interpreter);
        let interpreter = Box::new(Interpreter::new(Arc::new(plan.program.clone()))?);
        Ok(Engine::Cpu { interpreter, plan, bindings: Bindings::new(), bound: false })
    }

    pub fn bind(&mut self, new: &Bindings) -> Result<()> {
        match self {
            Engine::Cpu { interpreter, plan, bindings, bound, .. } => {
                if !*bound || bindings != new {
                    if !plan.program.symbols.is_empty() {
                        let held = if *bound { memory::predicted_peak(&plan.program, bindings) } else { 0 };
                        memory::admit_program(&plan.program, new, held)?;
                    }
                    interpreter.bind(new)?;
                    (*bindings, *bound) = (new.clone(), true);
                }
                Ok(())
            }
            #[cfg(feature = "gpu")]
            Engine::Gpu(engine) => engine.bind(new),
        }
    }

    pub fn write(&mut self, buffer: BufferId, tensor: &HostTensor) -> Result<()> {
        match self {
            Engine::Cpu { interpreter, .. } => interpreter.write(buffer, tensor),
            #[cfg(feature = "gpu")]
            Engine::Gpu(engine) => engine.write(buffer, tensor),
        }
    }

    /// [`Engine::write`] of a tensor that is known to be zeros.
    pub fn write_zeros(&mut self, buffer: BufferId, zeros: &HostTensor) -> Result<()> {
        match self {
            Engine::Cpu { interpreter, .. } => interpreter.write(buffer, zeros),
            #[cfg(feature = "gpu")]
            Engine::Gpu(engine) => engine.write_zeros(buffer),
        }
    }

    /// Everything is written: gives back what writing took.
    pub fn end_writing(&mut self) -> Result<()> {
        match self {
            Engine::Cpu { .. } => Ok(()),
            #[cfg(feature = "gpu")]
            Engine::Gpu(engine) => engine.end_writing(),
        }
    }

    /// Fills a buffer that is filled anew for every step.
    pub fn feed(&mut self, buffer: BufferId, tensor: &HostTensor) -> Result<()> {
        match self {
            Engine::Cpu { interpreter, .. } => interpreter.write(buffer, tensor),
            #[cfg(feature = "gpu")]
            Engine::Gpu(engine) => engine.feed(buffer, tensor),
        }
    }

    pub fn read_all(&self, buffers: &[BufferId]) -> Result<Vec<HostTensor>> {
        match self {
            Engine::Cpu { interpreter, .. } => buffers.iter().map(|&b| interpreter.read(b)).collect(),
            #[cfg(feature = "gpu")]
            Engine::Gpu(engine) => engine.read_all(buffers),
        }
    }

    /// Copies of buffers as they are now. On a GPU they are queued.
    pub fn copies(&self, buffers: &[BufferId]) -> Result<Copies> {
        match self {
            Engine::Cpu { .. } => self.read_all(buffers).map(Copies::Here),
            #[cfg(feature = "gpu")]
            Engine::Gpu(engine) => engine.request_all(buffers).map(Copies::Coming),
        }
    }

    /// What may fail before a run, so that one that fails behind it has failed with its device.
    pub fn make_ready(&mut self) -> Result<()> {
        match self {
            Engine::Cpu { .. } => Ok(()),
            #[cfg(feature = "gpu")]
            Engine::Gpu(engine) => engine.make_ready(),
        }
    }

    /// What `work` gives, or what the device finds wrong with it. Whatever fails on a lost device fails for that.
    pub fn guarded<T>(device: &Device, work: impl FnOnce() -> Result<T>) -> Result<Result<T>> {
        #[cfg(feature = "gpu")]
        if let Some(gpu) = device.gpu() {
            let done = gpu.guarded("running a step", work)?;
            return if let (Err(crate::error::Error::Device(_)), Some(lost)) = (&done, gpu.lost()) { Err(lost) } else { Ok(done) };
        }
        let _ = device;
        Ok(work())
    }

    /// Waits until everything is compiled.
    pub fn settle(&mut self) -> Result<()> {
        match self {
            Engine::Cpu { .. } => Ok(()),
            #[cfg(feature = "gpu")]
            Engine::Gpu(engine) => engine.settle(),
        }
    }

    /// Runs the step. On the CPU it is done when this returns; on a GPU it is queued.
    pub fn run(&mut self) -> Result<Started> {
        match self {
            Engine::Cpu { interpreter, plan, .. } => {
                let status = interpreter.run()?;
                let loss = plan.program.outputs.iter().find(|o| o.role == OutputRole::Loss);
                let loss = loss.map(|o| interpreter.read(o.buffer)).transpose()?;
                Ok(Started::Done { status, loss })
            }
            #[cfg(feature = "gpu")]
            Engine::Gpu(engine) => Ok(Started::Pending(Box::new(engine.run()?))),
        }
    }

    pub fn poison_temporaries(&mut self) {
        match self {
            Engine::Cpu { interpreter, .. } => interpreter.poison_temporaries(),
            #[cfg(feature = "gpu")]
            Engine::Gpu(engine) => engine.poison_temporaries(),
        }
    }

    pub fn launches(&self) -> u64 {
        match self {
            Engine::Cpu { interpreter, .. } => interpreter.dispatches(),
            #[cfg(feature = "gpu")]
            Engine::Gpu(engine) => engine.launches(),
        }
    }

    /// Bytes of all slots.
    pub fn peak_bytes(&self) -> u64 {
        match self {
            Engine::Cpu { plan, bindings, .. } => plan.program.slots.iter().map(|s| s.bytes.eval(bindings).unwrap_or(0).max(0) as u64).sum(),
            #[cfg(feature = "gpu")]
            Engine::Gpu(engine) => engine.peak_bytes(),
        }
    }
}
