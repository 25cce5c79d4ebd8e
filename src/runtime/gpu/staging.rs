//! Inputs of every step on their way to the device: through buffers that stay, mapped whenever no copy reads them. Small ones share a
//! buffer, whose copies are the first commands of the step. State goes in pieces, through buffers that go when it is there.
//!
//! The queue's own way of writing a buffer allocates as much memory anew each time, which costs more than the copy: 44 ms for 38 MB.
//! A large copy is submitted at once, so that it is over before the step that reads it has begun, and the host fills the next buffer
//! meanwhile.

use super::device::GpuDevice;
use super::pending::Mapping;
use crate::error::{Error, Result};
use crate::loop_ir::BufferId;
use crate::schedule::{SHARED_BUFFERS, STAGED_ALONE, STAGING_BUFFERS};
use crate::threads;
use std::collections::VecDeque;

/// Bytes that one thread copies at a time.
const CHUNK: usize = 1 << 18;
/// Bytes of a piece of state.
const PIECE: usize = 16 << 20;

/// Staging buffers, the one that was used last behind the others.
#[derive(Default)]
pub(super) struct Staging {
    buffers: VecDeque<Staged>,
}

/// A staging buffer whose copy was submitted.
struct Staged {
    buffer: wgpu::Buffer,
    copied: wgpu::SubmissionIndex,
    mapping: Mapping,
}

impl Staging {
    /// Writes `bytes`, whole words, to the start of a buffer, in order with what is submitted before and after.
    pub fn write(&mut self, gpu: &GpuDevice, to: &wgpu::Buffer, bytes: &[u8]) -> Result<()> {
        self.send(gpu, to, 0, bytes, bytes.len())
    }

    /// The same of a tensor that is written once: in pieces, so that little memory is mapped.
    pub fn write_once(&mut self, gpu: &GpuDevice, to: &wgpu::Buffer, bytes: &[u8]) -> Result<()> {
        if (bytes.len() as u64) < STAGED_ALONE {
            gpu.queue.write_buffer(to, 0, bytes);
            return Ok(());
        }
        let mut pieces = bytes.chunks(PIECE).enumerate();
        pieces.try_for_each(|(k, piece)| self.send(gpu, to, (k * PIECE) as u64, piece, PIECE))
    }

    /// Bytes of all buffers.
    pub fn bytes(&self) -> u64 {
        self.buffers.iter().map(|staged| staged.buffer.size()).sum()
    }

    /// Copies `bytes` to a place of a buffer through a staging buffer of `size` bytes.
    fn send(&mut self, gpu: &GpuDevice, to: &wgpu::Buffer, at: u64, bytes: &[u8], size: usize) -> Result<()> {
        let buffer = self.mapped(gpu, size as u64, STAGING_BUFFERS)?;
        fill(&buffer, 0, bytes)?;
        buffer.unmap();
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("upload") });
        encoder.copy_buffer_to_buffer(&buffer, 0, to, at, bytes.len() as u64);
        let copied = gpu.submit(encoder);
        gpu.check()?;
        self.sent(buffer, copied);
        Ok(())
    }

    /// Takes back a buffer whose copies were submitted.
    fn sent(&mut self, buffer: wgpu::Buffer, copied: wgpu::SubmissionIndex) {
        let mapping = Mapping::request(&buffer, wgpu::MapMode::Write);
        self.buffers.push_back(Staged { buffer, copied, mapping });
    }

    /// The oldest buffer of that size, if there are as many as there are to be and nothing waits for it.
    fn free(&mut self, gpu: &GpuDevice, size: u64, count: usize) -> Result<Option<wgpu::Buffer>> {
        let of_size: Vec<usize> = (0..self.buffers.len()).filter(|&k| self.buffers[k].buffer.size() == size).collect();
        let Some(&oldest) = of_size.first().filter(|_| of_size.len() >= count) else { return Ok(None) };
        let is_free = self.buffers[oldest].mapping.is_done(gpu)?;
        Ok(if is_free { self.buffers.remove(oldest).map(|staged| staged.buffer) } else { None })
    }

    /// A mapped buffer of that size: a new one until there are as many as there are to be, then the oldest.
    fn mapped(&mut self, gpu: &GpuDevice, size: u64, count: usize) -> Result<wgpu::Buffer> {
        let mut of_size = (0..self.buffers.len()).filter(|&k| self.buffers[k].buffer.size() == size);
        if let Some(oldest) = of_size.next()
            && of_size.count() + 1 >= count
            && let Some(oldest) = self.buffers.remove(oldest)
        {
            if !oldest.mapping.is_done(gpu)? {
                oldest.mapping.wait(gpu, oldest.copied, None)?;
            }
            return Ok(oldest.buffer);
        }
        let usage = wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC;
        gpu.allocate(&wgpu::BufferDescriptor { label: Some("staging"), size, usage, mapped_at_creation: true })
    }
}

/// The small inputs of a step in one staging buffer.
#[derive(Default)]
pub(super) struct Parcel {
    places: Vec<Place>,
    /// Bytes of each buffer: as many as the largest inputs so far needed.
    size: u64,
    staging: Staging,
    open: Option<Filled>,
    sealed: Option<Filled>,
}

/// Where an input lies in the parcel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub buffer: BufferId,
    pub at: u64,
    pub bytes: u64,
}

/// A staging buffer with what is in it.
struct Filled {
    staging: wgpu::Buffer,
    places: Vec<Place>,
}

impl Parcel {
    /// Takes inputs of these sizes from now on, of which the large ones stay out.
    pub fn fit(&mut self, inputs: Vec<(BufferId, u64)>) {
        let mut size = 0;
        let place = |(buffer, bytes): (BufferId, u64)| {
            let at = size;
            size += bytes.next_multiple_of(wgpu::MAP_ALIGNMENT);
            Place { buffer, at, bytes }
        };
        self.places = inputs.into_iter().filter(|&(_, bytes)| bytes > 0 && bytes < STAGED_ALONE).map(place).collect();
        if size > self.size {
            *self = Parcel { places: std::mem::take(&mut self.places), size, ..Parcel::default() };
        }
    }

    /// Bytes of all buffers.
    pub fn bytes(&self) -> u64 {
        let filled = [&self.open, &self.sealed].into_iter().flatten();
        self.staging.bytes() + filled.map(|filled| filled.staging.size()).sum::<u64>()
    }

    /// Takes an input, if it is a small one.
    pub fn put(&mut self, gpu: &GpuDevice, buffer: BufferId, bytes: &[u8]) -> Result<bool> {
        let Some(&place) = self.places.iter().find(|p| p.buffer == buffer) else { return Ok(false) };
        let filled = match self.open.take() {
            Some(open) => open,
            None => Filled { staging: self.staging.mapped(gpu, self.size, SHARED_BUFFERS)?, places: vec![] },
        };
        let filled = self.open.insert(filled);
        fill(&filled.staging, place.at, bytes)?;
        filled.places.retain(|p| p.buffer != buffer);
        filled.places.push(Place { bytes: bytes.len() as u64, ..place });
        Ok(true)
    }

    /// Takes the staging buffer of the next step, if one is free. Whether it is known from where its inputs will come.
    pub fn foresee(&mut self, gpu: &GpuDevice) -> Result<bool> {
        if self.open.is_none() && !self.places.is_empty() {
            self.open = self.staging.free(gpu, self.size, SHARED_BUFFERS)?.map(|staging| Filled { staging, places: vec![] });
        }
        Ok(self.open.is_some() || self.places.is_empty())
    }

    /// Where the next step's inputs will lie, all of them; none where there are none, or nobody foresees it.
    pub fn foreseen(&self) -> Option<(&wgpu::Buffer, &[Place])> {
        self.open.as_ref().map(|open| (&open.staging, &*self.places))
    }

    /// Whether these are all inputs.
    pub fn is_full(&self, places: &[Place]) -> bool {
        places.len() == self.places.len() && self.places.iter().all(|place| places.contains(place))
    }

    /// Nothing comes to it any more.
    pub fn seal(&mut self) {
        if let Some(open) = self.open.take() {
            open.staging.unmap();
            self.sealed = Some(open);
        }
    }

    /// What is to be copied from where.
    pub fn sealed(&self) -> Option<(&wgpu::Buffer, &[Place])> {
        self.sealed.as_ref().map(|sealed| (&sealed.staging, &*sealed.places))
    }

    /// Its copies were submitted.
    pub fn sent(&mut self, copied: wgpu::SubmissionIndex) {
        if let Some(sealed) = self.sealed.take() {
            self.staging.sent(sealed.staging, copied);
        }
    }
}

/// Copies to a place of a mapped buffer, by all threads where it is much: one does not fill the bus.
fn fill(buffer: &wgpu::Buffer, at: u64, bytes: &[u8]) -> Result<()> {
    let range = buffer.get_mapped_range_mut(at..at + bytes.len() as u64);
    let mut view = range.map_err(|e| Error::Device(format!("filling a staging buffer: {e}")))?;
    if (bytes.len() as u64) < STAGED_ALONE {
        view.copy_from_slice(bytes);
        return Ok(());
    }
    let (chunks, mut rest) = view.slice(..).into_chunks::<CHUNK>();
    let (whole, tail) = bytes.split_at(chunks.len() * CHUNK);
    rest.copy_from_slice(tail);
    let pairs = chunks.into_iter().zip(whole.chunks_exact(CHUNK)).collect();
    threads::consume(pairs, |(to, from): (wgpu::WriteOnly<'_, [u8; CHUNK]>, &[u8])| {
        wgpu::WriteOnly::<[u8]>::from(to).copy_from_slice(from);
    });
    Ok(())
}
