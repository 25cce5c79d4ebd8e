//! Buffers on their way to the host.

use super::super::storage::decode;
use super::device::GpuDevice;
use super::pending::Mapping;
use crate::error::{Error, Result};
use crate::types::{DType, HostTensor, Storage};
use std::sync::Arc;

/// Bytes that the device copies for the host. The copy is queued: what is submitted later does not change it.
pub(super) struct Fetch {
    device: Arc<GpuDevice>,
    staging: wgpu::Buffer,
    submission: wgpu::SubmissionIndex,
    mapping: Mapping,
}

impl Fetch {
    /// Queues copies into a fresh buffer of so many bytes. Nothing waits here.
    pub fn request(device: &Arc<GpuDevice>, total: u64, copies: impl FnOnce(&mut wgpu::CommandEncoder, &wgpu::Buffer)) -> Result<Fetch> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = device.buffer("readback", total, usage)?;
        let mut encoder = device.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("readback") });
        copies(&mut encoder, &staging);
        let submission = device.queue.submit([encoder.finish()]);
        device.check()?;
        let mapping = Mapping::request(&staging, wgpu::MapMode::Read);
        Ok(Fetch { device: device.clone(), staging, submission, mapping })
    }

    /// Waits for them.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        self.mapping.wait(&self.device, self.submission.clone(), None)?;
        let view = self.staging.get_mapped_range(..).map_err(|e| Error::Device(format!("readback: {e}")))?;
        Ok(view.to_vec())
    }
}

/// Where a tensor lies among fetched bytes, and how it is stored.
pub(super) struct Piece {
    pub name: String,
    pub at: u64,
    pub bytes: u64,
    pub storage: Storage,
    pub dtype: DType,
    pub shape: Vec<usize>,
}

/// Tensors on their way to the host, as they were when they were asked for.
pub struct Readback {
    pieces: Vec<Piece>,
    /// Nothing where there are no bytes to fetch.
    fetch: Option<Fetch>,
}

impl Readback {
    pub(super) fn new(pieces: Vec<Piece>, fetch: Option<Fetch>) -> Readback {
        Readback { pieces, fetch }
    }

    /// Waits for them.
    pub fn wait(&self) -> Result<Vec<HostTensor>> {
        let contents = self.fetch.as_ref().map_or(Ok(vec![]), Fetch::bytes)?;
        let tensor = |p: &Piece| {
            let stored = &contents[p.at as usize..(p.at + p.bytes) as usize];
            decode(stored, p.storage, p.dtype, &p.shape).map_err(|e| Error::Device(format!("reading {}: {e}", p.name)))
        };
        self.pieces.iter().map(tensor).collect()
    }
}
