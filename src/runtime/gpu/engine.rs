//! Runs a plan on a device: slots are buffers, a step is a compute pass in each of a few submissions, in order.

mod ahead;
mod recording;
mod script;
mod timing;

use super::super::memory;
use super::super::storage::{concrete_shape, encode, stored_bytes};
use super::device::{GpuDevice, lock};
use super::drafts::Pipelines;
use super::grid::negative;
use super::pace::Pace;
use super::pending::{Pending, STAGING_BYTES, Shared};
use super::pipelines::{Prepared, STACK};
use super::readback::{Fetch, Piece, Readback};
use super::staging::{Parcel, Staging};
use crate::codegen::{Plan, Variant};
use crate::error::{Error, Result};
use crate::graph::OutputRole;
use crate::loop_ir::BufferId;
use crate::schedule::{PlacedBuffer, SlotKind};
use crate::types::{Bindings, HostTensor};
use ahead::Ahead;
use script::Ready;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use timing::Clock;

/// Steps that may be queued before `run` waits for the oldest: enough to hide the host, few enough to bound memory.
const IN_FLIGHT: usize = 8;

/// A plan with its buffers and pipelines on a device. The same interface as the interpreter's.
pub struct GpuEngine {
    device: Arc<GpuDevice>,
    plan: Arc<Plan>,
    bindings: Bindings,
    bound: bool,
    slots: Vec<Option<wgpu::Buffer>>,
    status: wgpu::Buffer,
    /// What workgroups of a dispatch share, where a kernel does; kernels leave it as zeros where they count.
    scratch: Option<wgpu::Buffer>,
    symbols: Option<wgpu::Buffer>,
    pipelines: Pipelines,
    /// By launch.
    ready: Arc<Vec<Ready>>,
    loss: Option<BufferId>,
    shared: Arc<Shared>,
    uploads: Staging,
    /// Small inputs of the next step.
    parcel: Parcel,
    /// Staging of state.
    pieces: Staging,
    /// State that is zeros.
    zeros: Vec<wgpu::Buffer>,
    /// What launches took, while they are timed instead of submitted together.
    timed: Option<Clock>,
    pace: Pace,
    /// The next step, recorded while the device is busy with the last one.
    ahead: Ahead,
    queued: VecDeque<wgpu::SubmissionIndex>,
    launches: u64,
}

/// A buffer with its sizes.
struct Stored<'a> {
    placed: &'a PlacedBuffer,
    shape: Vec<usize>,
    bytes: u64,
}

/// What slots are used for.
const STORED: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC).union(wgpu::BufferUsages::COPY_DST);

/// How long a launch took on the device.
#[derive(Clone, Debug)]
pub struct LaunchTime {
    /// Which launch of the plan.
    pub launch: usize,
    /// What runs in it.
    pub label: String,
    /// When it started, in microseconds since the first launch of the step.
    pub start_us: f64,
    /// Microseconds between the timestamps around it.
    pub us: f64,
}

impl GpuEngine {
    /// Compiles the plan's pipelines. Buffers come with the first [`bind`](GpuEngine::bind); a plan without symbols is bound
    /// at once. With `drafts`, those that take long are compiled behind the first steps, where nothing knows them.
    pub fn new(device: &Arc<GpuDevice>, plan: Arc<Plan>, drafts: bool) -> Result<GpuEngine> {
        let program = &plan.program;
        let launched: usize = plan.launches.iter().map(|l| l.commands.len()).sum();
        if launched != program.commands.len() {
            return Err(Error::Device(format!("the plan has {} commands and launches {launched}", program.commands.len())));
        }
        let status = device.buffer("the status word", 16, STORED)?;
        let mut engine = GpuEngine {
            device: device.clone(),
            bindings: Bindings::new(),
            bound: false,
            slots: vec![None; program.slots.len()],
            status,
            scratch: None,
            symbols: None,
            pipelines: Pipelines::default(),
            ready: Arc::default(),
            loss: program.outputs.iter().find(|o| o.role == OutputRole::Loss).map(|o| o.buffer),
            shared: Arc::default(),
            uploads: Staging::default(),
            parcel: Parcel::default(),
            pieces: Staging::default(),
            zeros: vec![],
            timed: None,
            pace: Pace::new(),
            ahead: Ahead::default(),
            queued: VecDeque::new(),
            launches: 0,
            plan,
        };
        engine.pipelines = engine.compile_and_allocate(drafts)?;
        engine.scratch = scratch(device, &engine.plan, engine.pipelines.current())?;
        if engine.plan.program.symbols.is_empty() {
            engine.bind(&Bindings::new())?;
        }
        device.check()?;
        Ok(engine)
    }

    /// Gives the symbols their values: slots that must grow are made anew (which loses what they held), bind groups and
    /// grids follow.
    pub fn bind(&mut self, bindings: &Bindings) -> Result<()> {
        if self.bound && *bindings == self.bindings {
            return Ok(());
        }
        let grids = self.grids(bindings)?;
        self.ahead.restart();
        let changed = self.allocate(bindings)?;
        self.write_symbols(bindings)?;
        self.bindings = bindings.clone();
        self.uploads = Staging::default();
        let fed = self.fed()?;
        self.parcel.fit(fed);
        if changed || !self.bound {
            self.pace = Pace::new();
            self.ready = Arc::new(self.ready_launches()?);
            self.upload_constants()?;
        }
        self.set_grids(grids);
        self.bound = true;
        self.device.check()
    }

    /// Fills a buffer that keeps what it is filled with.
    pub fn write(&mut self, buffer: BufferId, tensor: &HostTensor) -> Result<()> {
        let bytes = self.encoded(buffer, tensor)?;
        let slot = self.slot_of(buffer)?.clone();
        if bytes.is_empty() { Ok(()) } else { self.pieces.write_once(&self.device, &slot, &bytes) }
    }

    /// Fills a buffer with zeros when [`end_writing`](GpuEngine::end_writing) is called.
    pub fn write_zeros(&mut self, buffer: BufferId) -> Result<()> {
        let slot = self.slot_of(buffer)?.clone();
        self.zeros.push(slot);
        Ok(())
    }

    /// The state is there: gives back what writing took.
    pub fn end_writing(&mut self) -> Result<()> {
        self.pieces = Staging::default();
        if self.zeros.is_empty() {
            return Ok(());
        }
        let mut encoder = self.encoder("zeros");
        self.zeros.drain(..).for_each(|slot| encoder.clear_buffer(&slot, 0, None));
        self.device.submit(encoder);
        self.device.check()
    }

    /// Fills a buffer that is filled anew for every step.
    pub fn feed(&mut self, buffer: BufferId, tensor: &HostTensor) -> Result<()> {
        let bytes = self.encoded(buffer, tensor)?;
        if bytes.is_empty() || self.parcel.put(&self.device, buffer, &bytes)? {
            return Ok(());
        }
        let slot = self.slot_of(buffer)?.clone();
        self.uploads.write(&self.device, &slot, &bytes)
    }

    /// A tensor as its slot holds it.
    fn encoded<'t>(&self, buffer: BufferId, tensor: &'t HostTensor) -> Result<Cow<'t, [u8]>> {
        let placed = self.placed(buffer)?;
        let bytes = encode(tensor, placed.storage).map_err(|e| Error::Input(format!("{}: {e}", placed.name)))?;
        let size = self.slot_of(buffer)?.size();
        if bytes.len() as u64 > size {
            return Err(Error::Input(format!("{}: {} bytes do not fit its slot of {size}", placed.name, bytes.len())));
        }
        Ok(bytes)
    }

    /// A buffer's contents, after everything submitted so far.
    pub fn read(&self, buffer: BufferId) -> Result<HostTensor> {
        Ok(self.read_all(&[buffer])?.remove(0))
    }

    /// Several buffers in one round trip.
    pub fn read_all(&self, buffers: &[BufferId]) -> Result<Vec<HostTensor>> {
        self.request_all(buffers)?.wait()
    }

    /// Asks for several buffers as they are after everything submitted so far. Nothing waits here.
    pub fn request_all(&self, buffers: &[BufferId]) -> Result<Readback> {
        let (mut pieces, mut slots, mut total) = (vec![], vec![], 0);
        for &b in buffers {
            let Stored { placed, shape, bytes } = self.stored(b, &self.bindings)?;
            slots.push(self.slot_of(b)?);
            pieces.push(Piece { name: placed.name.clone(), at: total, bytes, storage: placed.storage, dtype: placed.ty.dtype, shape });
            total += bytes.next_multiple_of(8);
        }
        let copies = |encoder: &mut wgpu::CommandEncoder, staging: &wgpu::Buffer| {
            for (piece, slot) in pieces.iter().zip(slots).filter(|(piece, _)| piece.bytes > 0) {
                encoder.copy_buffer_to_buffer(slot, 0, staging, piece.at, piece.bytes);
            }
        };
        let fetch = if total == 0 { None } else { Some(Fetch::request(&self.device, total, copies)?) };
        Ok(Readback::new(pieces, fetch))
    }

    /// What may fail before a step: afterwards [`run`](GpuEngine::run) fails only with the device.
    pub fn make_ready(&mut self) -> Result<()> {
        self.check_bound()?;
        self.device.check()?;
        if self.pipelines.advance()? {
            self.take_pipelines();
        }
        while self.queued.len() >= IN_FLIGHT {
            self.device.wait_for(self.queued.pop_front())?;
        }
        if self.pace.is_measuring() {
            self.device.wait()?;
        }
        // One for this step, one for the next, which is recorded behind it.
        let losses = [self.staging_buffer()?, self.staging_buffer()?];
        lock(&self.shared.staging).extend(losses);
        Ok(())
    }

    /// Waits until no kernel is a draft any more.
    pub fn settle(&mut self) -> Result<()> {
        if self.pipelines.settle()? {
            self.take_pipelines();
        }
        Ok(())
    }

    /// Submits the whole step and returns at once; loss and status word arrive in the [`Pending`].
    pub fn run(&mut self) -> Result<Pending> {
        let (staging, submission) = self.submit_step()?;
        self.queued.push_back(submission.clone());
        Ok(Pending::new(self.device.clone(), self.shared.clone(), staging, submission))
    }

    /// Brings small inputs and clears the status word, as [`run`](GpuEngine::run) does first.
    pub fn reset(&mut self) -> Result<()> {
        let inputs = self.begin()?;
        self.submit_parts([inputs], 0).map(|_| ())
    }

    /// Submits launch `index` alone, with the blocks that it stands for.
    pub fn run_launch(&mut self, index: usize) -> Result<()> {
        self.check_bound()?;
        self.submit_launches(index..index + 1)
    }

    /// The status word now.
    pub fn status(&self) -> Result<u32> {
        let copy = |encoder: &mut wgpu::CommandEncoder, staging: &wgpu::Buffer| encoder.copy_buffer_to_buffer(&self.status, 0, staging, 0, 16);
        let bytes = Fetch::request(&self.device, 16, copy)?.bytes()?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// Fills every temporary slot with NaN bits, so that a kernel that reads what nobody wrote is seen.
    pub fn poison_temporaries(&mut self) {
        for (slot, buffer) in self.plan.program.slots.iter().zip(&self.slots) {
            if let (SlotKind::Temporary, Some(buffer)) = (slot.kind, buffer) {
                self.device.queue.write_buffer(buffer, 0, &vec![0xff; buffer.size() as usize]);
            }
        }
    }

    /// Runs the step with a timestamp before and after each launch, each in its own pass. A launch of a loop is there as often as it
    /// ran. Slower than a step; for tables.
    pub fn run_timed(&mut self) -> Result<Vec<LaunchTime>> {
        self.check_bound()?;
        if !self.device.features.contains(wgpu::Features::TIMESTAMP_QUERY) {
            return Err(Error::Platform(format!("{} has no timestamp queries", self.device.caps().name)));
        }
        self.settle()?;
        self.reset()?;
        self.time_launches(self.plan.launches_of(&self.plan.program.main()))
    }

    /// Dispatches submitted so far, since this engine was made.
    pub fn launches(&self) -> u64 {
        self.launches
    }

    /// Bytes of all buffers of this engine.
    pub fn peak_bytes(&self) -> u64 {
        let slots = self.slots.iter().flatten().chain(&self.symbols).chain(&self.scratch);
        slots.map(|b| b.size()).sum::<u64>() + self.status.size() + self.uploads.bytes() + self.parcel.bytes()
    }

    /// The plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The values of the symbols.
    pub fn bindings(&self) -> &Bindings {
        &self.bindings
    }

    /// The variant that runs launch `index`; none where it stands for control flow.
    pub fn variant(&self, index: usize) -> Option<&Variant> {
        let code = self.plan.launches[index].code? as usize;
        Some(&self.plan.code[code].variants[self.pipelines.current()[code].variant])
    }

    /// The device.
    pub fn device(&self) -> &Arc<GpuDevice> {
        &self.device
    }
}

/// Memory that the workgroups of a dispatch share, as much as the kernel with most of it wants.
fn scratch(device: &GpuDevice, plan: &Plan, prepared: &[Prepared]) -> Result<Option<wgpu::Buffer>> {
    let wanted = plan.code.iter().zip(prepared).map(|(code, chosen)| code.variants[chosen.variant].scratch_bytes);
    let Some(size) = wanted.max().filter(|&bytes| bytes > 0) else { return Ok(None) };
    device.buffer("memory that workgroups share", size, wgpu::BufferUsages::STORAGE).map(Some)
}

impl GpuEngine {
    /// Compiles pipelines, and takes memory for slots of known sizes meanwhile: gigabytes take a driver a tenth of a second.
    fn compile_and_allocate(&mut self, drafts: bool) -> Result<Pipelines> {
        let (device, plan) = (self.device.clone(), self.plan.clone());
        let compile = || Pipelines::new(&device, &plan, drafts);
        std::thread::scope(|scope| {
            let compiling = std::thread::Builder::new().name("pipelines".into()).stack_size(STACK).spawn_scoped(scope, compile);
            let allocated = if plan.program.symbols.is_empty() { self.allocate(&Bindings::new()) } else { Ok(false) };
            let pipelines = match compiling {
                Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                Err(_) => compile(),
            };
            allocated.and(pipelines)
        })
    }

    /// Memory for slots of these sizes; true when any is new.
    fn allocate(&mut self, bindings: &Bindings) -> Result<bool> {
        let caps = self.device.caps();
        memory::admit_on(&self.plan.program, bindings, &caps.name, caps.memory_bytes)?;
        let sizes = self.slot_sizes(bindings)?;
        self.grow_slots(&sizes)
    }

    fn check_bound(&self) -> Result<()> {
        if self.bound { Ok(()) } else { Err(Error::Input("the sizes of symbols are not bound yet".into())) }
    }

    fn placed(&self, buffer: BufferId) -> Result<&PlacedBuffer> {
        self.plan.program.buffers.get(buffer.0 as usize).ok_or_else(|| Error::Device(format!("the plan has no buffer {}", buffer.0)))
    }

    /// What a buffer is at those sizes.
    fn stored(&self, buffer: BufferId, bindings: &Bindings) -> Result<Stored<'_>> {
        let placed = self.placed(buffer)?;
        let shape = concrete_shape(placed, bindings).map_err(Error::Device)?;
        let bytes = stored_bytes(placed.ty.dtype, placed.storage, shape.iter().product()) as u64;
        Ok(Stored { placed, shape, bytes })
    }

    /// The buffers that are filled anew for every step, with their sizes.
    fn fed(&self) -> Result<Vec<(BufferId, u64)>> {
        let given = self.plan.program.inputs.iter().filter(|i| i.role.is_given());
        given.map(|i| Ok((i.buffer, self.stored(i.buffer, &self.bindings)?.bytes))).collect()
    }

    fn slot_of(&self, buffer: BufferId) -> Result<&wgpu::Buffer> {
        let slot = self.placed(buffer)?.slot;
        let found = self.slots.get(slot.0 as usize).and_then(|s| s.as_ref());
        found.ok_or_else(|| Error::Device(format!("slot {} has no memory yet", slot.0)))
    }

    fn slot_sizes(&self, bindings: &Bindings) -> Result<Vec<u64>> {
        let caps = self.device.caps();
        let limit = caps.max_binding_bytes.min(caps.max_buffer_bytes);
        let program = &self.plan.program;
        program
            .slots
            .iter()
            .enumerate()
            .map(|(k, slot)| {
                let bytes = slot.bytes.eval(bindings).map_err(Error::Input)?;
                // Whole vec4 words, and never empty: bindings of no bytes are refused.
                let size = u64::try_from(bytes).map_err(|_| negative("a size in bytes", bytes))?.next_multiple_of(16).max(16);
                if size <= limit {
                    return Ok(size);
                }
                let names: Vec<&str> = program.buffers.iter().filter(|b| b.slot.0 as usize == k).map(|b| b.name.as_str()).collect();
                Err(Error::Platform(format!("{} needs {bytes} bytes, and one binding of {} holds {limit}", names.join(", "), caps.name)))
            })
            .collect()
    }

    /// Makes slots that are missing or too small; true when any changed.
    fn grow_slots(&mut self, sizes: &[u64]) -> Result<bool> {
        let mut fresh = vec![];
        for (k, &size) in sizes.iter().enumerate() {
            if self.slots[k].as_ref().is_some_and(|b| b.size() >= size) {
                continue;
            }
            fresh.push((k, self.device.buffer(&format!("slot {k} of {} bytes in all", sizes.iter().sum::<u64>()), size, STORED)?));
        }
        let changed = !fresh.is_empty();
        for (k, buffer) in fresh {
            self.slots[k] = Some(buffer);
        }
        Ok(changed)
    }

    fn write_symbols(&mut self, bindings: &Bindings) -> Result<()> {
        let symbols = &self.plan.program.symbols;
        if symbols.is_empty() {
            return Ok(());
        }
        let mut words = vec![];
        for symbol in symbols {
            let value = *bindings.get(&*symbol.name).ok_or_else(|| Error::Input(format!("symbol {} has no value", symbol.name)))?;
            words.push(u32::try_from(value).map_err(|_| Error::Input(format!("symbol {} is {value}", symbol.name)))?);
        }
        words.resize(words.len().next_multiple_of(4), 0);
        let bytes: &[u8] = bytemuck::cast_slice(&words);
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let buffer = match self.symbols.take() {
            Some(buffer) => buffer,
            None => self.device.buffer("sizes", bytes.len() as u64, usage)?,
        };
        self.device.queue.write_buffer(self.symbols.insert(buffer), 0, bytes);
        Ok(())
    }

    fn upload_constants(&mut self) -> Result<()> {
        let plan = self.plan.clone();
        for (buffer, tensor) in &plan.program.constants {
            self.write(*buffer, tensor)?;
        }
        Ok(())
    }

    fn encoder(&self, label: &str) -> wgpu::CommandEncoder {
        self.device.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(label) })
    }

    /// A small buffer for status word and loss. Readers hand theirs back.
    fn staging_buffer(&self) -> Result<wgpu::Buffer> {
        let free = lock(&self.shared.staging).pop();
        free.map_or_else(|| self.device.buffer("the loss", STAGING_BYTES, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST), Ok)
    }
}
