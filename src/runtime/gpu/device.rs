//! An open GPU device: limits, errors, and the pipelines it has compiled.

use super::super::counters::{Counted, count};
use super::super::{speeds, tune};
use super::adapters::{self, AdapterKind, Wanted};
use crate::config::Environment;
use crate::error::{Error, Result};
use crate::types::{DeviceCaps, DeviceModel};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// An open GPU device. Shared by every step that runs on it.
pub struct GpuDevice {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) features: wgpu::Features,
    pub(super) info: wgpu::AdapterInfo,
    pub(super) pipelines: Mutex<HashMap<[u8; 32], wgpu::ComputePipeline>>,
    pub(super) layouts: Mutex<HashMap<Vec<u8>, (wgpu::BindGroupLayout, wgpu::PipelineLayout)>>,
    pub(super) cache_dir: Option<PathBuf>,
    opened: (Wanted, Environment),
    faults: Arc<Faults>,
    #[cfg(test)]
    pub(in super::super) injected: super::injected::Injected,
    exact: AtomicBool,
    caps: DeviceCaps,
    model: DeviceModel,
    kind: AdapterKind,
    reason: String,
}

/// How long a device that has failed is asked whether it is lost: it says so when it has nothing more to do.
const NEWS: Duration = Duration::from_secs(2);

/// What went wrong on the device since it was last asked.
#[derive(Default)]
struct Faults {
    errors: Mutex<Vec<String>>,
    lost: Mutex<Option<String>>,
}

/// A lock whose holder cannot leave broken data behind.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key(info: &wgpu::AdapterInfo) -> String {
    format!("{} {:?} {} {}", info.name, info.backend, info.driver, info.driver_info)
}

impl GpuDevice {
    /// Opens the best adapter of the wanted kind with all its limits.
    pub fn open(wanted: Wanted, environment: &Environment) -> Result<GpuDevice> {
        let chosen = adapters::choose(wanted, environment)?;
        let features = adapters::wanted_features() & chosen.adapter.features();
        let caps = adapters::caps(&chosen.adapter);
        let kind = adapters::kind(&chosen.adapter);
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("inductor"),
            required_features: features,
            required_limits: adapters::limits(&chosen.adapter),
            experimental_features: experimental(features),
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        };
        let (device, queue) = pollster::block_on(chosen.adapter.request_device(&descriptor))
            .map_err(|e| Error::Platform(format!("{} ({}) gives no device: {e}", caps.name, caps.backend)))?;
        count(Counted::Device);
        let faults = Arc::new(Faults::default());
        watch(&device, &faults);
        let info = chosen.adapter.get_info();
        let (folder, key) = (environment.cache_dir.as_deref(), key(&info));
        let model = tune::known(folder, &key, speeds::known(folder, &key, adapters::model(kind)));
        let gpu = GpuDevice {
            info,
            device,
            queue,
            features,
            pipelines: Mutex::default(),
            layouts: Mutex::default(),
            cache_dir: environment.cache_dir.clone(),
            opened: (wanted, environment.clone()),
            faults,
            #[cfg(test)]
            injected: Default::default(),
            exact: AtomicBool::new(false),
            model,
            caps,
            kind,
            reason: chosen.reason,
        };
        tracing::info!(adapter = %gpu.caps.name, backend = %gpu.caps.backend, reason = %gpu.reason, "opened a GPU device");
        Ok(gpu)
    }

    /// The same adapter once more.
    pub(in super::super) fn reopen(&self) -> Result<GpuDevice> {
        GpuDevice::open(self.opened.0, &self.opened.1)
    }

    /// Whether shaders forbid the driver to simplify floats from now on; false where the adapter takes no SPIR-V.
    pub(in super::super) fn forbid_simplification(&self, forbid: bool) -> bool {
        let exact = forbid && self.features.contains(wgpu::Features::PASSTHROUGH_SHADERS) && self.info.backend == wgpu::Backend::Vulkan;
        self.exact.store(exact, Ordering::Relaxed);
        exact
    }

    /// Whether shaders forbid the driver to simplify floats.
    pub(super) fn is_exact(&self) -> bool {
        self.exact.load(Ordering::Relaxed)
    }

    /// Capabilities and limits as the adapter states them.
    pub fn caps(&self) -> &DeviceCaps {
        &self.caps
    }

    /// Coarse speeds.
    pub fn model(&self) -> &DeviceModel {
        &self.model
    }

    /// Where driver blobs and measurements are kept, if anywhere.
    pub(in super::super) fn cache_folder(&self) -> Option<&Path> {
        self.cache_dir.as_deref()
    }

    /// Tells adapters and drivers apart.
    pub(in super::super) fn key(&self) -> String {
        key(&self.info)
    }

    /// What the adapter is made of.
    pub fn kind(&self) -> AdapterKind {
        self.kind
    }

    /// Why this adapter was taken.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Bytes that the allocator has handed out, staging and readback included, on back ends that report it.
    pub fn allocated_bytes(&self) -> Option<u64> {
        self.device.generate_allocator_report().map(|r| r.total_allocated_bytes)
    }

    /// The first error since the last call, if any; a lost device stays lost.
    pub fn check(&self) -> Result<()> {
        if let Some(lost) = self.lost() {
            return Err(lost);
        }
        let errors = std::mem::take(&mut *lock(&self.faults.errors));
        match errors.len() {
            0 => Ok(()),
            1 => Err(Error::Device(errors[0].clone())),
            n => Err(Error::Device(format!("{} (and {} more)", errors[0], n - 1))),
        }
    }

    /// A buffer that the host does not map before it is used.
    pub(super) fn buffer(&self, label: &str, size: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        self.allocate(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false })
    }

    /// A buffer, or an error that says how much there was already.
    pub(super) fn allocate(&self, descriptor: &wgpu::BufferDescriptor<'_>) -> Result<wgpu::Buffer> {
        #[cfg(test)]
        self.injected.allocation()?;
        self.caught(|| self.device.create_buffer(descriptor)).map_err(|error| {
            let held = self.allocated_bytes().map(|n| format!(", beside {n} that are taken")).unwrap_or_default();
            let label = descriptor.label.unwrap_or("a buffer");
            self.failed(format!("{label}: {} bytes of {}{held}: {error}", descriptor.size, self.caps.name))
        })
    }

    /// Submits what an encoder recorded.
    pub(super) fn submit(&self, encoder: wgpu::CommandEncoder) -> wgpu::SubmissionIndex {
        self.submit_all([encoder.finish()])
    }

    /// Submits what was recorded, in order.
    pub(super) fn submit_all(&self, recorded: impl IntoIterator<Item = wgpu::CommandBuffer>) -> wgpu::SubmissionIndex {
        #[cfg(test)]
        self.injected.submission(&self.device);
        self.queue.submit(recorded)
    }

    /// Runs `work` with out-of-memory, validation and internal errors caught; the error says what was being done.
    pub(in super::super) fn guarded<T>(&self, doing: &str, work: impl FnOnce() -> T) -> Result<T> {
        self.caught(work).map_err(|error| self.failed(format!("{doing}: {error}")))
    }

    /// What `work` gives, or the first error of this thread in it: no other thread sees it, or brings one of its own.
    fn caught<T>(&self, work: impl FnOnce() -> T) -> Result<T, wgpu::Error> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let value = work();
        let caught = [pollster::block_on(validation.pop()), pollster::block_on(internal.pop()), pollster::block_on(memory.pop())];
        match caught.into_iter().flatten().next() {
            Some(error) => Err(error),
            None => Ok(value),
        }
    }

    /// A failure of the device, which may be that it is lost: who has not asked it since has not heard.
    pub(super) fn failed(&self, message: String) -> Error {
        let asked = self.device.poll(wgpu::PollType::Wait { submission_index: None, timeout: Some(NEWS) });
        tracing::debug!(%message, ?asked, "the device failed");
        self.lost().unwrap_or(Error::Device(message))
    }

    /// The error of a lost device.
    pub(in super::super) fn lost(&self) -> Option<Error> {
        let message = lock(&self.faults.lost).clone();
        message.map(|message| Error::Lost(format!("{}: {message}", self.caps.name)))
    }

    /// Waits until everything submitted so far is done.
    pub fn wait(&self) -> Result<()> {
        self.wait_for(None)
    }

    /// Brings the news of what is done. Nothing waits here.
    pub(super) fn look(&self) -> Result<()> {
        let looked = self.device.poll(wgpu::PollType::Poll);
        self.check()?;
        looked.map(|_| ()).map_err(|e| self.failed(format!("looking at {}: {e}", self.caps.name)))
    }

    /// Waits for a submission, but not beyond `end`.
    pub(super) fn wait_until(&self, submission: wgpu::SubmissionIndex, end: Instant) -> Result<()> {
        let timeout = end.saturating_duration_since(Instant::now());
        if timeout.is_zero() {
            return Ok(());
        }
        let waited = self.device.poll(wgpu::PollType::Wait { submission_index: Some(submission), timeout: Some(timeout) });
        self.check()?;
        match waited {
            Ok(_) | Err(wgpu::PollError::Timeout) => Ok(()),
            Err(e) => Err(self.failed(format!("waiting for {}: {e}", self.caps.name))),
        }
    }

    pub(super) fn wait_for(&self, submission: Option<wgpu::SubmissionIndex>) -> Result<()> {
        let waited = self.device.poll(wgpu::PollType::Wait { submission_index: submission, timeout: None });
        self.check()?;
        waited.map(|_| ()).map_err(|e| self.failed(format!("waiting for {}: {e}", self.caps.name)))
    }
}

/// Errors are kept for the next call instead of the default panic.
fn watch(device: &wgpu::Device, faults: &Arc<Faults>) {
    let sink = faults.clone();
    device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| lock(&sink.errors).push(error.to_string())));
    let sink = faults.clone();
    device.set_device_lost_callback(move |reason, message| {
        lock(&sink.lost).get_or_insert(format!("{message} ({reason:?})"));
    });
}

/// Cooperative matrices are an experimental feature, and asking for one needs a token.
#[allow(unsafe_code)]
fn experimental(features: wgpu::Features) -> wgpu::ExperimentalFeatures {
    if features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
        // SAFETY: the token acknowledges that experimental features may have bugs. Cooperative kernels come only from our
        // generator, which takes shapes from the adapter's own list.
        unsafe { wgpu::ExperimentalFeatures::enabled() }
    } else {
        wgpu::ExperimentalFeatures::disabled()
    }
}
