//! Runs a plan on a device: slots are buffers, a step is a compute pass in each of a few submissions, in order.

mod recording;

use super::super::storage::{concrete_shape, decode, encode, stored_bytes};
use super::device::{GpuDevice, lock};
use super::pending::{LOSS_AT, Mapping, Pending, STAGING_BYTES, StagingPool};
use super::pipelines::{Prepared, prepare};
use super::staging::Staging;
use crate::codegen::{Binding, Plan, Variant};
use crate::error::{Error, Result};
use crate::graph::OutputRole;
use crate::loop_ir::BufferId;
use crate::schedule::{PlacedBuffer, SlotKind};
use crate::types::{Bindings, HostTensor};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

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
    prepared: Vec<Prepared>,
    /// By launch.
    ready: Vec<Ready>,
    loss: Option<BufferId>,
    staging: StagingPool,
    uploads: Staging,
    /// Staging of state.
    pieces: Staging,
    queued: VecDeque<wgpu::SubmissionIndex>,
    launches: u64,
}

/// A launch with everything it needs; nothing where it stands for control flow.
#[derive(Default)]
struct Ready {
    code: usize,
    group: Option<wgpu::BindGroup>,
    grid: [u32; 3],
}

/// How long a launch took on the device.
#[derive(Clone, Debug)]
pub struct LaunchTime {
    /// Which launch of the plan.
    pub launch: usize,
    /// What runs in it.
    pub label: String,
    /// When it started, in microseconds since the first launch of its submission.
    pub start_us: f64,
    /// Microseconds between the timestamps around it.
    pub us: f64,
}

impl GpuEngine {
    /// Compiles the plan's pipelines. Buffers come with the first [`bind`](GpuEngine::bind); a plan without symbols is bound
    /// at once.
    pub fn new(device: &Arc<GpuDevice>, plan: Arc<Plan>) -> Result<GpuEngine> {
        let program = &plan.program;
        let launched: usize = plan.launches.iter().map(|l| l.commands.len()).sum();
        if launched != program.commands.len() {
            return Err(Error::Device(format!("the plan has {} commands and launches {launched}", program.commands.len())));
        }
        let prepared = prepare(device, &plan.code)?;
        let status = device.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("status"),
            size: 16,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let scratch = scratch(device, &plan, &prepared)?;
        let mut engine = GpuEngine {
            device: device.clone(),
            bindings: Bindings::new(),
            bound: false,
            slots: vec![None; program.slots.len()],
            status,
            scratch,
            symbols: None,
            prepared,
            ready: vec![],
            loss: program.outputs.iter().find(|o| o.role == OutputRole::Loss).map(|o| o.buffer),
            staging: StagingPool::default(),
            uploads: Staging::default(),
            pieces: Staging::default(),
            queued: VecDeque::new(),
            launches: 0,
            plan,
        };
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
        let sizes = self.slot_sizes(bindings)?;
        let changed = self.grow_slots(&sizes)?;
        self.write_symbols(bindings)?;
        self.bindings = bindings.clone();
        self.uploads = Staging::default();
        if changed || !self.bound {
            self.ready = self.ready_launches()?;
            self.upload_constants()?;
        }
        for (ready, grid) in self.ready.iter_mut().zip(grids) {
            ready.grid = grid;
        }
        self.bound = true;
        self.device.check()
    }

    /// Fills a buffer that keeps what it is filled with.
    pub fn write(&mut self, buffer: BufferId, tensor: &HostTensor) -> Result<()> {
        let bytes = self.encoded(buffer, tensor)?;
        let slot = self.slot_of(buffer)?.clone();
        if bytes.is_empty() { Ok(()) } else { self.pieces.write_once(&self.device, &slot, &bytes) }
    }

    /// Gives back what writing took; called when the state is there.
    pub fn end_writing(&mut self) {
        self.pieces = Staging::default();
    }

    /// Fills a buffer that is filled anew for every step.
    pub fn feed(&mut self, buffer: BufferId, tensor: &HostTensor) -> Result<()> {
        let bytes = self.encoded(buffer, tensor)?;
        let slot = self.slot_of(buffer)?.clone();
        if bytes.is_empty() { Ok(()) } else { self.uploads.write(&self.device, &slot, &bytes) }
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
        let mut plans = vec![];
        let mut total = 0u64;
        for &b in buffers {
            let placed = self.placed(b)?;
            let shape = concrete_shape(placed, &self.bindings).map_err(Error::Device)?;
            let bytes = stored_bytes(placed.ty.dtype, placed.storage, shape.iter().product()) as u64;
            plans.push((b, shape, total, bytes));
            total += bytes.next_multiple_of(8);
        }
        let contents = if total == 0 { vec![] } else { self.download(&plans, total)? };
        plans
            .into_iter()
            .map(|(b, shape, at, bytes)| {
                let placed = self.placed(b)?;
                decode(&contents[at as usize..(at + bytes) as usize], placed.storage, placed.ty.dtype, &shape)
                    .map_err(|e| Error::Device(format!("reading {}: {e}", placed.name)))
            })
            .collect()
    }

    /// Submits the whole step and returns at once; loss and status word arrive in the [`Pending`].
    pub fn run(&mut self) -> Result<Pending> {
        self.check_bound()?;
        let gpu = self.device.clone();
        gpu.check()?;
        while self.queued.len() >= IN_FLIGHT {
            gpu.wait_for(self.queued.pop_front())?;
        }
        gpu.queue.write_buffer(&self.status, 0, &[0; 16]);
        let mut encoder = self.record_step()?;
        let staging = self.staging_buffer();
        encoder.copy_buffer_to_buffer(&self.status, 0, &staging, 0, 4);
        if let Some(loss) = self.loss {
            let slot = self.slot_of(loss)?;
            encoder.copy_buffer_to_buffer(slot, 0, &staging, LOSS_AT, 8);
        }
        let submission = gpu.queue.submit([encoder.finish()]);
        gpu.check()?;
        self.queued.push_back(submission.clone());
        Ok(Pending::new(gpu, self.staging.clone(), staging, submission))
    }

    /// Clears the status word, as [`run`](GpuEngine::run) does first.
    pub fn reset_status(&mut self) {
        self.device.queue.write_buffer(&self.status, 0, &[0; 16]);
    }

    /// Submits launch `index` alone, with the blocks that it stands for.
    pub fn run_launch(&mut self, index: usize) -> Result<()> {
        self.check_bound()?;
        let encoder = self.record_launches(index..index + 1)?;
        self.device.queue.submit([encoder.finish()]);
        self.device.check()
    }

    /// The status word now.
    pub fn status(&self) -> Result<u32> {
        let bytes = self.fetch(16, |encoder, staging| encoder.copy_buffer_to_buffer(&self.status, 0, staging, 0, 16))?;
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

    /// Runs the step with a timestamp before and after each launch, each in its own pass. Slower than a step; for tables.
    pub fn run_timed(&mut self) -> Result<Vec<LaunchTime>> {
        self.check_bound()?;
        if !self.device.features.contains(wgpu::Features::TIMESTAMP_QUERY) {
            return Err(Error::Platform(format!("{} has no timestamp queries", self.device.caps().name)));
        }
        if let Some(launch) = self.plan.launches.iter().find(|l| l.code.is_none()) {
            return Err(Error::Platform(format!("{}: the launches of control flow have no timestamps", self.plan.label(launch))));
        }
        self.reset_status();
        let mut times = vec![];
        // A query set holds at most 4,096 queries.
        for first in (0..self.ready.len()).step_by(1024) {
            let range = first..(first + 1024).min(self.ready.len());
            times.extend(self.time_range(range)?);
        }
        Ok(times)
    }

    /// Dispatches submitted so far, since this engine was made.
    pub fn launches(&self) -> u64 {
        self.launches
    }

    /// Bytes of all buffers of this engine.
    pub fn peak_bytes(&self) -> u64 {
        let slots = self.slots.iter().flatten().chain(&self.symbols).chain(&self.scratch);
        slots.map(|b| b.size()).sum::<u64>() + self.status.size()
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
        Some(&self.plan.code[code].variants[self.prepared[code].variant])
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
    let descriptor = wgpu::BufferDescriptor { label: Some("scratch"), size, usage: wgpu::BufferUsages::STORAGE, mapped_at_creation: false };
    device.guarded("allocating memory that workgroups share", || device.device.create_buffer(&descriptor)).map(Some)
}

impl GpuEngine {
    fn check_bound(&self) -> Result<()> {
        if self.bound { Ok(()) } else { Err(Error::Input("the sizes of symbols are not bound yet".into())) }
    }

    fn placed(&self, buffer: BufferId) -> Result<&PlacedBuffer> {
        self.plan.program.buffers.get(buffer.0 as usize).ok_or_else(|| Error::Device(format!("the plan has no buffer {}", buffer.0)))
    }

    fn slot_of(&self, buffer: BufferId) -> Result<&wgpu::Buffer> {
        let slot = self.placed(buffer)?.slot;
        let found = self.slots.get(slot.0 as usize).and_then(|s| s.as_ref());
        found.ok_or_else(|| Error::Device(format!("slot {} has no memory yet", slot.0)))
    }

    fn grids(&self, bindings: &Bindings) -> Result<Vec<[u32; 3]>> {
        crate::codegen::check_domains(&self.plan.program, bindings)?;
        let limit = self.device.caps().max_groups;
        (0..self.plan.launches.len())
            .map(|i| {
                let Some(variant) = self.variant(i) else { return Ok([0, 1, 1]) };
                let groups = variant.groups.eval(bindings).map_err(Error::Input)?;
                fold_grid(groups, limit).map_err(|e| Error::Input(format!("{}: {e}", self.plan.label(&self.plan.launches[i]))))
            })
            .collect()
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
            let label = format!("slot {k}");
            let descriptor = wgpu::BufferDescriptor {
                label: Some(&label),
                size,
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            };
            let total: u64 = sizes.iter().sum();
            let doing = format!("allocating {size} of {total} bytes on {}", self.device.caps().name);
            fresh.push((k, self.device.guarded(&doing, || self.device.device.create_buffer(&descriptor))?));
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
        let gpu = &self.device;
        let buffer = self.symbols.get_or_insert_with(|| {
            gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("symbols"),
                size: bytes.len() as u64,
                usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        });
        gpu.queue.write_buffer(buffer, 0, bytes);
        Ok(())
    }

    fn ready_launches(&self) -> Result<Vec<Ready>> {
        (self.plan.launches.iter().enumerate())
            .map(|(i, launch)| {
                let (Some(code), Some(variant)) = (launch.code, self.variant(i)) else { return Ok(Ready::default()) };
                let (code, label, buffers) = (code as usize, self.plan.label(launch), self.plan.buffers(launch));
                let skip = self.plan.program.commands[launch.commands[0] as usize].skip;
                let mut entries = vec![];
                for (k, binding) in variant.bindings.iter().enumerate() {
                    let buffer = self.bound_buffer(&buffers, skip, binding)?;
                    entries.push(wgpu::BindGroupEntry { binding: k as u32, resource: buffer.as_entire_binding() });
                }
                let doing = format!("binding {label}");
                let group = self.device.guarded(&doing, || {
                    self.device.device.create_bind_group(&wgpu::BindGroupDescriptor {
                        label: None,
                        layout: &self.prepared[code].layout,
                        entries: &entries,
                    })
                })?;
                Ok(Ready { code, group: Some(group), grid: [0; 3] })
            })
            .collect()
    }

    fn bound_buffer(&self, buffers: &[BufferId], skip: Option<BufferId>, binding: &Binding) -> Result<&wgpu::Buffer> {
        let missing = |what: &str| Error::Device(format!("no {what} to bind"));
        match binding {
            Binding::Read(k) | Binding::ReadWrite(k) => self.slot_of(*buffers.get(*k as usize).ok_or_else(|| missing("buffer"))?),
            Binding::StatusWrite | Binding::StatusRead => Ok(&self.status),
            Binding::Skip => self.slot_of(skip.ok_or_else(|| missing("word that skips"))?),
            Binding::Symbols => self.symbols.as_ref().ok_or_else(|| missing("symbols")),
            Binding::Scratch => self.scratch.as_ref().ok_or_else(|| missing("scratch memory")),
        }
    }

    fn upload_constants(&mut self) -> Result<()> {
        let plan = self.plan.clone();
        for (buffer, tensor) in &plan.program.constants {
            self.write(*buffer, tensor)?;
        }
        Ok(())
    }

    /// Records launches into one pass.
    fn record(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        launches: impl IntoIterator<Item = usize>,
        timestamps: Option<wgpu::ComputePassTimestampWrites<'_>>,
    ) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes: timestamps });
        let mut current = usize::MAX;
        for command in launches.into_iter().map(|launch| &self.ready[launch]) {
            if command.grid[0] == 0 {
                continue;
            }
            if command.code != current {
                pass.set_pipeline(&self.prepared[command.code].pipeline);
                current = command.code;
            }
            pass.set_bind_group(0, command.group.as_ref(), &[]);
            pass.dispatch_workgroups(command.grid[0], command.grid[1], command.grid[2]);
            self.launches += 1;
        }
    }

    fn staging_buffer(&self) -> wgpu::Buffer {
        lock(&self.staging).pop().unwrap_or_else(|| {
            self.device.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("loss"),
                size: STAGING_BYTES,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })
    }

    fn download(&self, plans: &[(BufferId, Vec<usize>, u64, u64)], total: u64) -> Result<Vec<u8>> {
        for (b, ..) in plans {
            self.slot_of(*b)?;
        }
        self.fetch(total, |encoder, staging| {
            for (b, _, at, bytes) in plans {
                if let (Ok(slot), true) = (self.slot_of(*b), *bytes > 0) {
                    encoder.copy_buffer_to_buffer(slot, 0, staging, *at, *bytes);
                }
            }
        })
    }

    /// Copies into a fresh staging buffer, waits, and gives its bytes.
    fn fetch(&self, total: u64, copies: impl FnOnce(&mut wgpu::CommandEncoder, &wgpu::Buffer)) -> Result<Vec<u8>> {
        let gpu = &self.device;
        let staging = gpu.guarded("allocating a readback buffer", || {
            let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
            gpu.device.create_buffer(&wgpu::BufferDescriptor { label: Some("readback"), size: total, usage, mapped_at_creation: false })
        })?;
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("readback") });
        copies(&mut encoder, &staging);
        let submission = gpu.queue.submit([encoder.finish()]);
        Mapping::request(&staging, wgpu::MapMode::Read).wait(gpu, submission)?;
        let view = staging.get_mapped_range(..).map_err(|e| Error::Device(format!("readback: {e}")))?;
        let bytes = view.to_vec();
        drop(view);
        staging.unmap();
        Ok(bytes)
    }

    fn time_range(&mut self, range: std::ops::Range<usize>) -> Result<Vec<LaunchTime>> {
        let gpu = self.device.clone();
        let count = 2 * range.len() as u32;
        let queries = gpu.device.create_query_set(&wgpu::QuerySetDescriptor { label: None, ty: wgpu::QueryType::Timestamp, count });
        let resolved = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("timestamps"),
            size: 8 * count as u64,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("timed step") });
        for (k, launch) in range.clone().enumerate() {
            let writes = wgpu::ComputePassTimestampWrites {
                query_set: &queries,
                beginning_of_pass_write_index: Some(2 * k as u32),
                end_of_pass_write_index: Some(2 * k as u32 + 1),
            };
            self.record(&mut encoder, launch..launch + 1, Some(writes));
        }
        encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
        gpu.queue.submit([encoder.finish()]);
        let bytes = self.fetch(8 * count as u64, |encoder, staging| encoder.copy_buffer_to_buffer(&resolved, 0, staging, 0, 8 * count as u64))?;
        let ticks: Vec<u64> = bytes.chunks_exact(8).map(|c| u64::from_le_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]])).collect();
        let period = gpu.queue.get_timestamp_period() as f64;
        let time = |(k, launch): (usize, usize)| LaunchTime {
            launch,
            label: self.plan.label(&self.plan.launches[launch]),
            start_us: ticks[2 * k].saturating_sub(ticks[0]) as f64 * period / 1000.0,
            us: ticks[2 * k + 1].saturating_sub(ticks[2 * k]) as f64 * period / 1000.0,
        };
        Ok(range.enumerate().map(time).collect())
    }
}

fn negative(what: &str, n: i64) -> Error {
    Error::Input(format!("{what} is {n} at these sizes"))
}

/// Folds a number of workgroups into a grid whose sides stay within `limit`; the product is at least `groups`.
fn fold_grid(groups: i64, limit: u32) -> Result<[u32; 3], String> {
    let (groups, limit) = (u64::try_from(groups).map_err(|_| negative("a number of workgroups", groups).to_string())?, limit as u64);
    if groups == 0 {
        return Ok([0, 1, 1]);
    }
    let y = groups.div_ceil(limit);
    if y > limit {
        return Err(format!("{groups} workgroups do not fit a grid of {limit} x {limit}"));
    }
    Ok([groups.div_ceil(y) as u32, y as u32, 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_fold_at_the_limit() {
        assert_eq!(fold_grid(0, 65535), Ok([0, 1, 1]));
        assert_eq!(fold_grid(65535, 65535), Ok([65535, 1, 1]));
        assert_eq!(fold_grid(65536, 65535), Ok([32768, 2, 1]));
        for groups in [1i64, 65537, 1 << 20, (1 << 31) - 1] {
            let [x, y, _] = fold_grid(groups, 65535).unwrap();
            assert!(x as i64 * y as i64 >= groups && x <= 65535 && y <= 65535);
        }
        assert!(fold_grid(1 << 40, 65535).is_err());
    }
}
