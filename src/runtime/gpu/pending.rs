//! A submitted step: its loss and status word arrive when they arrive.

use super::device::{GpuDevice, lock};
use crate::error::{Error, Result};
use std::sync::{Arc, Mutex};

/// Bytes of a staging buffer: the status word, then the loss at [`LOSS_AT`].
pub(super) const STAGING_BYTES: u64 = 32;
/// Where the loss lies in a staging buffer.
pub(super) const LOSS_AT: u64 = 16;

/// Small buffers for readback, used again and again.
pub(super) type StagingPool = Arc<Mutex<Vec<wgpu::Buffer>>>;

/// What the device wrote: status word and the loss's stored bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// The status word.
    pub status: u32,
    /// Stored bytes of the loss, eight of them.
    pub loss: [u8; 8],
}

enum Stage {
    Mapping { buffer: wgpu::Buffer, submission: wgpu::SubmissionIndex, mapped: Arc<Mutex<Option<Result<(), String>>>> },
    Done(Arrived),
    Failed(String),
}

/// A submitted step.
pub struct Pending {
    device: Arc<GpuDevice>,
    pool: StagingPool,
    stage: Stage,
}

impl Pending {
    /// Asks for `buffer` to be mapped once `submission` is done. Nothing waits here.
    pub(super) fn new(device: Arc<GpuDevice>, pool: StagingPool, buffer: wgpu::Buffer, submission: wgpu::SubmissionIndex) -> Pending {
        let mapped = Arc::new(Mutex::new(None));
        let sink = mapped.clone();
        buffer.map_async(wgpu::MapMode::Read, .., move |result| *lock(&sink) = Some(result.map_err(|e| e.to_string())));
        Pending { device, pool, stage: Stage::Mapping { buffer, submission, mapped } }
    }

    /// Waits for the step and gives status word and loss.
    pub fn wait(&mut self) -> Result<Arrived> {
        if let Stage::Mapping { buffer, submission, mapped } = &self.stage {
            self.device.wait_for(Some(submission.clone()))?;
            let arrived = lock(mapped).take();
            self.stage = match arrived {
                Some(Ok(())) => match read(buffer) {
                    Ok(arrived) => {
                        buffer.unmap();
                        lock(&self.pool).push(buffer.clone());
                        Stage::Done(arrived)
                    }
                    Err(message) => Stage::Failed(message),
                },
                Some(Err(message)) => Stage::Failed(message),
                None => Stage::Failed("the loss was never mapped".into()),
            };
        }
        match &self.stage {
            Stage::Done(arrived) => Ok(arrived.clone()),
            Stage::Failed(message) => Err(Error::Device(format!("reading the loss: {message}"))),
            Stage::Mapping { .. } => Err(Error::Device("reading the loss: still mapping".into())),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Unmapping cancels; the copy into the buffer is ordered before any later use of it by the queue.
        if let Stage::Mapping { buffer, .. } = &self.stage {
            buffer.unmap();
            lock(&self.pool).push(buffer.clone());
        }
    }
}

fn read(buffer: &wgpu::Buffer) -> Result<Arrived, String> {
    let view = buffer.get_mapped_range(..).map_err(|e| e.to_string())?;
    let word = |at: usize| <[u8; 4]>::try_from(&view[at..at + 4]).map(u32::from_le_bytes).map_err(|e| e.to_string());
    let at = LOSS_AT as usize;
    let loss = <[u8; 8]>::try_from(&view[at..at + 8]).map_err(|e| e.to_string())?;
    Ok(Arrived { status: word(0)?, loss })
}
