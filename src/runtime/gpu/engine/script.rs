//! What a step is recorded from, on whatever thread: its launches with pipelines, bind groups and grids, and what is read behind them.

use super::super::grid::fold_grid;
use super::super::pending::LOSS_AT;
use super::GpuEngine;
use crate::codegen::Binding;
use crate::error::{Error, Result};
use crate::loop_ir::BufferId;
use crate::types::Bindings;
use std::sync::Arc;

/// A launch with everything it needs; nothing where it stands for control flow.
#[derive(Clone, Default)]
pub(super) struct Ready {
    code: usize,
    pipeline: Option<wgpu::ComputePipeline>,
    group: Option<wgpu::BindGroup>,
    grid: [u32; 3],
}

/// What recording needs. Copies share everything.
#[derive(Clone)]
pub(super) struct Script {
    device: wgpu::Device,
    launches: Arc<Vec<Ready>>,
    status: wgpu::Buffer,
    loss: Option<wgpu::Buffer>,
}

/// What a step begins with: no fault so far, and its small inputs.
#[derive(Default)]
pub(super) struct Opening {
    /// The staging buffer; none where there is nothing small.
    pub staging: Option<wgpu::Buffer>,
    /// From where in it, to which buffer, and how many bytes.
    pub copies: Vec<(u64, wgpu::Buffer, u64)>,
}

/// Launches that are submitted together.
pub(super) struct Recorded {
    pub commands: wgpu::CommandBuffer,
    pub launches: usize,
    /// Those that have something to do.
    pub dispatched: u64,
}

impl Script {
    /// Records launches, behind `opening` where that is given, and where there is a `staging` buffer the copies of status word and loss into it.
    pub fn record(
        &self,
        opening: Option<&Opening>,
        launches: impl IntoIterator<Item = usize, IntoIter: ExactSizeIterator>,
        staging: Option<&wgpu::Buffer>,
    ) -> Recorded {
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("step") });
        opening.into_iter().for_each(|opening| self.open(&mut encoder, opening));
        let launches = launches.into_iter();
        let count = launches.len();
        let dispatched = if count > 0 { self.pass(&mut encoder, launches, None) } else { 0 };
        if let Some(staging) = staging {
            encoder.copy_buffer_to_buffer(&self.status, 0, staging, 0, 4);
            if let Some(loss) = &self.loss {
                encoder.copy_buffer_to_buffer(loss, 0, staging, LOSS_AT, 8);
            }
        }
        Recorded { commands: encoder.finish(), launches: count, dispatched }
    }

    fn open(&self, encoder: &mut wgpu::CommandEncoder, opening: &Opening) {
        encoder.clear_buffer(&self.status, 0, None);
        if let Some(staging) = &opening.staging {
            opening.copies.iter().for_each(|(at, to, bytes)| encoder.copy_buffer_to_buffer(staging, *at, to, 0, *bytes));
        }
    }

    /// Records launches into one pass; how many of them have something to do.
    pub fn pass(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        launches: impl Iterator<Item = usize>,
        timestamps: Option<wgpu::ComputePassTimestampWrites<'_>>,
    ) -> u64 {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes: timestamps });
        let (mut current, mut dispatched) = (usize::MAX, 0);
        for launch in launches.map(|launch| &self.launches[launch]) {
            let Some(pipeline) = launch.pipeline.as_ref().filter(|_| launch.grid[0] > 0) else { continue };
            if launch.code != current {
                pass.set_pipeline(pipeline);
                current = launch.code;
            }
            pass.set_bind_group(0, launch.group.as_ref(), &[]);
            pass.dispatch_workgroups(launch.grid[0], launch.grid[1], launch.grid[2]);
            dispatched += 1;
        }
        dispatched
    }
}

impl GpuEngine {
    /// What the next step is recorded from.
    pub(super) fn script(&self) -> Result<Script> {
        let loss = self.loss.map(|loss| self.slot_of(loss).cloned()).transpose()?;
        Ok(Script { device: self.device.device.clone(), launches: self.ready.clone(), status: self.status.clone(), loss })
    }

    /// Others run the kernels from now on: what was recorded is of no use.
    pub(super) fn take_pipelines(&mut self) {
        self.ahead.forget();
        for launch in Arc::make_mut(&mut self.ready).iter_mut().filter(|launch| launch.pipeline.is_some()) {
            launch.pipeline = Some(self.pipelines.current()[launch.code].pipeline.clone());
        }
    }

    /// Workgroups of each launch.
    pub(super) fn grids(&self, bindings: &Bindings) -> Result<Vec<[u32; 3]>> {
        let caps = self.device.caps();
        crate::codegen::check_domains(&self.plan.program, caps, bindings)?;
        let limit = caps.max_groups;
        (0..self.plan.launches.len())
            .map(|i| {
                let Some(variant) = self.variant(i) else { return Ok([0, 1, 1]) };
                if self.plan.is_idle(&self.plan.launches[i], bindings).map_err(Error::Input)? {
                    return Ok([0, 1, 1]);
                }
                let groups = variant.groups.eval(bindings).map_err(Error::Input)?;
                fold_grid(groups, limit).map_err(|e| Error::Input(format!("{}: {e}", self.plan.label(&self.plan.launches[i]))))
            })
            .collect()
    }

    /// Gives each launch its workgroups.
    pub(super) fn set_grids(&mut self, grids: Vec<[u32; 3]>) {
        for (launch, grid) in Arc::make_mut(&mut self.ready).iter_mut().zip(grids) {
            launch.grid = grid;
        }
    }

    /// Launches without grids, bound to the slots as they are.
    pub(super) fn ready_launches(&self) -> Result<Vec<Ready>> {
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
                let (doing, prepared) = (format!("binding {label}"), &self.pipelines.current()[code]);
                let group = self.device.guarded(&doing, || {
                    let layout = &prepared.layout;
                    self.device.device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries })
                })?;
                Ok(Ready { code, pipeline: Some(prepared.pipeline.clone()), group: Some(group), grid: [0; 3] })
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
}
