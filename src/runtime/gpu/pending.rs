//! A submitted step: its loss and status word arrive when they arrive.

use super::adapters::AdapterKind;
use super::device::{GpuDevice, lock};
use crate::error::{Error, Result};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long the news of a mapping may take once the device is done: another thread that polls may be the one to bring it.
const NEWS: Duration = Duration::from_secs(10);

/// How long a wait looks again and again before it sleeps: a thread takes a tenth of a millisecond to wake up, as long as a small step.
const AWAKE: Duration = Duration::from_micros(500);

/// How long before a step is expected to be done a wait that slept looks again: a processor that was asleep works several times slower at first, and
/// what comes next is the submission of the next step.
const EARLY: Duration = Duration::from_millis(1);

/// Bytes of a staging buffer: the status word, then the loss at [`LOSS_AT`].
pub(super) const STAGING_BYTES: u64 = 32;
/// Where the loss lies in a staging buffer.
pub(super) const LOSS_AT: u64 = 16;

/// What the steps of an engine share.
#[derive(Default)]
pub(super) struct Shared {
    /// Small buffers for readback, used again and again.
    pub staging: Mutex<Vec<wgpu::Buffer>>,
    /// How long after its submission the last step that somebody waited for was done.
    took: Mutex<Option<Duration>>,
}

/// What the device wrote: status word and the loss's stored bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// The status word.
    pub status: u32,
    /// Stored bytes of the loss, eight of them.
    pub loss: [u8; 8],
}

/// A buffer that was asked to be mapped.
pub(super) struct Mapping {
    news: Mutex<Receiver<Result<(), wgpu::BufferAsyncError>>>,
}

impl Mapping {
    /// Asks for `buffer` to be mapped once what uses it is done. Nothing waits here.
    pub fn request(buffer: &wgpu::Buffer, mode: wgpu::MapMode) -> Mapping {
        let (sender, news) = channel();
        // The receiver may be gone: then nobody wants the news.
        buffer.map_async(mode, .., move |result| drop(sender.send(result)));
        Mapping { news: Mutex::new(news) }
    }

    /// Waits for the submission that uses the buffer, and for the mapping. Where it is known when they are `expected`, the wait is awake around then.
    pub fn wait(&self, device: &GpuDevice, submission: wgpu::SubmissionIndex, expected: Option<Instant>) -> Result<()> {
        if self.looks_until(device, Instant::now() + AWAKE)? {
            return Ok(());
        }
        if let Some(expected) = expected {
            device.wait_until(submission.clone(), expected.checked_sub(EARLY).unwrap_or(expected))?;
            if self.looks_until(device, expected + EARLY)? {
                return Ok(());
            }
        }
        device.wait_for(Some(submission))?;
        let news = lock(&self.news).recv_timeout(NEWS);
        device.check()?;
        match news {
            Ok(result) => result.map_err(|e| device.failed(format!("mapping a staging buffer: {e}"))),
            Err(_) => Err(Error::Device(format!("a staging buffer was not mapped within {} s", NEWS.as_secs()))),
        }
    }

    /// Looks again and again whether the buffer is mapped, once at least.
    fn looks_until(&self, device: &GpuDevice, end: Instant) -> Result<bool> {
        loop {
            device.look()?;
            if self.is_done(device)? {
                return Ok(true);
            }
            if Instant::now() >= end {
                return Ok(false);
            }
        }
    }

    /// Whether the buffer is mapped, by what submissions since have heard. Nothing waits here.
    pub fn is_done(&self, device: &GpuDevice) -> Result<bool> {
        let news = lock(&self.news).try_recv();
        match news {
            Ok(result) => result.map(|()| true).map_err(|e| device.failed(format!("mapping a staging buffer: {e}"))),
            Err(TryRecvError::Empty) => Ok(false),
            Err(TryRecvError::Disconnected) => Err(Error::Device("mapping a staging buffer: there are no news".into())),
        }
    }
}

enum Stage {
    Mapping { buffer: wgpu::Buffer, submission: wgpu::SubmissionIndex, mapping: Mapping },
    Done(Arrived),
    Failed(String),
}

/// A submitted step.
pub struct Pending {
    device: Arc<GpuDevice>,
    shared: Arc<Shared>,
    submitted: Instant,
    stage: Stage,
}

impl Pending {
    /// Asks for `buffer` to be mapped once `submission` is done. Nothing waits here.
    pub(super) fn new(device: Arc<GpuDevice>, shared: Arc<Shared>, buffer: wgpu::Buffer, submission: wgpu::SubmissionIndex) -> Pending {
        let mapping = Mapping::request(&buffer, wgpu::MapMode::Read);
        Pending { device, shared, submitted: Instant::now(), stage: Stage::Mapping { buffer, submission, mapping } }
    }

    /// Waits for the step and gives status word and loss.
    pub fn wait(&mut self) -> Result<Arrived> {
        if let Stage::Mapping { buffer, submission, mapping } = &self.stage {
            // A software adapter's threads need the processor themselves.
            let took = lock(&self.shared.took).filter(|_| self.device.kind() != AdapterKind::Software);
            mapping.wait(&self.device, submission.clone(), took.map(|took| self.submitted + took))?;
            *lock(&self.shared.took) = Some(self.submitted.elapsed());
            self.stage = self.read(buffer);
        }
        self.arrived()
    }

    /// Status word and loss, if they are here already.
    pub fn poll(&mut self) -> Result<Option<Arrived>> {
        if let Stage::Mapping { buffer, mapping, .. } = &self.stage {
            if !mapping.is_done(&self.device)? {
                return Ok(None);
            }
            self.stage = self.read(buffer);
        }
        self.arrived().map(Some)
    }

    fn read(&self, buffer: &wgpu::Buffer) -> Stage {
        match read(buffer) {
            Ok(arrived) => {
                buffer.unmap();
                lock(&self.shared.staging).push(buffer.clone());
                Stage::Done(arrived)
            }
            Err(message) => Stage::Failed(message),
        }
    }

    fn arrived(&self) -> Result<Arrived> {
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
            lock(&self.shared.staging).push(buffer.clone());
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
