//! Inputs of every step on their way to the device: through buffers that stay, mapped whenever no copy reads them. State goes the same
//! way, in pieces, through buffers that go when it is there; zeros are not sent at all.
//!
//! The queue's own way of writing a buffer allocates as much memory anew each time, which costs more than the copy: 44 ms for 38 MB.
//! A copy is submitted at once, so that it is over before the step that reads it has begun, and the host fills the next buffer
//! meanwhile.

use super::device::GpuDevice;
use super::pending::Mapping;
use crate::error::{Error, Result};
use crate::threads;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes from which on a staging buffer is worth an own submission.
const STAGED: usize = 1 << 20;
/// Bytes that one thread copies at a time.
const CHUNK: usize = 1 << 18;
/// Bytes of a piece of state.
const PIECE: usize = 16 << 20;
/// Buffers of a size: one that is filled, one that is copied, and one that waits for its turn behind a step.
const BUFFERS: usize = 3;

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
        if bytes.len() < STAGED {
            gpu.queue.write_buffer(to, 0, bytes);
            return Ok(());
        }
        self.send(gpu, to, 0, bytes, bytes.len())
    }

    /// The same of a tensor that is written once: in pieces, so that little memory is mapped, and without sending zeros.
    pub fn write_once(&mut self, gpu: &GpuDevice, to: &wgpu::Buffer, bytes: &[u8]) -> Result<()> {
        if bytes.len() < STAGED {
            gpu.queue.write_buffer(to, 0, bytes);
        } else if is_zero(bytes) {
            let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("clear") });
            encoder.clear_buffer(to, 0, Some(bytes.len() as u64));
            gpu.queue.submit([encoder.finish()]);
        } else {
            for (k, piece) in bytes.chunks(PIECE).enumerate() {
                self.send(gpu, to, (k * PIECE) as u64, piece, PIECE)?;
            }
        }
        Ok(())
    }

    /// Copies `bytes` to a place of a buffer through a staging buffer of `size` bytes.
    fn send(&mut self, gpu: &GpuDevice, to: &wgpu::Buffer, at: u64, bytes: &[u8], size: usize) -> Result<()> {
        let buffer = self.mapped(gpu, size as u64)?;
        fill(&buffer, bytes).map_err(|e| Error::Device(format!("filling a staging buffer: {e}")))?;
        buffer.unmap();
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("upload") });
        encoder.copy_buffer_to_buffer(&buffer, 0, to, at, bytes.len() as u64);
        let copied = gpu.queue.submit([encoder.finish()]);
        let mapping = Mapping::request(&buffer, wgpu::MapMode::Write);
        self.buffers.push_back(Staged { buffer, copied, mapping });
        Ok(())
    }

    /// A mapped buffer of that size: the oldest, where it is free or there are enough of them.
    fn mapped(&mut self, gpu: &GpuDevice, size: u64) -> Result<wgpu::Buffer> {
        gpu.look()?;
        let of_size: Vec<usize> = (0..self.buffers.len()).filter(|&k| self.buffers[k].buffer.size() == size).collect();
        if let Some(&oldest) = of_size.first() {
            let free = self.buffers[oldest].mapping.is_done()?;
            if (free || of_size.len() >= BUFFERS)
                && let Some(Staged { buffer, copied, mapping }) = self.buffers.remove(oldest)
            {
                if !free {
                    mapping.wait(gpu, copied)?;
                }
                return Ok(buffer);
            }
        }
        let usage = wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC;
        let descriptor = wgpu::BufferDescriptor { label: Some("upload"), size, usage, mapped_at_creation: true };
        gpu.guarded("allocating a staging buffer", || gpu.device.create_buffer(&descriptor))
    }
}

/// Whether all bytes are zero, looked at by all threads until one is not.
fn is_zero(bytes: &[u8]) -> bool {
    let found = AtomicBool::new(false);
    threads::for_each(bytes.len().div_ceil(CHUNK), |k| {
        let chunk = &bytes[k * CHUNK..bytes.len().min((k + 1) * CHUNK)];
        if !found.load(Ordering::Relaxed) && chunk.iter().any(|&b| b != 0) {
            found.store(true, Ordering::Relaxed);
        }
    });
    !found.into_inner()
}

/// Copies into a mapped buffer, by all threads: one does not fill the bus.
fn fill(buffer: &wgpu::Buffer, bytes: &[u8]) -> Result<(), wgpu::MapRangeError> {
    let mut view = buffer.get_mapped_range_mut(..bytes.len() as u64)?;
    let (chunks, mut rest) = view.slice(..).into_chunks::<CHUNK>();
    let (whole, tail) = bytes.split_at(chunks.len() * CHUNK);
    rest.copy_from_slice(tail);
    let pairs = chunks.into_iter().zip(whole.chunks_exact(CHUNK)).collect();
    threads::consume(pairs, |(to, from): (wgpu::WriteOnly<'_, [u8; CHUNK]>, &[u8])| {
        wgpu::WriteOnly::<[u8]>::from(to).copy_from_slice(from);
    });
    Ok(())
}
