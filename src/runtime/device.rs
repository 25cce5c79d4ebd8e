//! The public device: a GPU adapter or the CPU interpreter.

use crate::config::{Environment, Target};
use crate::error::{Error, Result};
use crate::forms::Form;
use crate::types::{DeviceCaps, DeviceModel};
use std::fmt;
use std::sync::Arc;
#[cfg(feature = "gpu")]
use std::sync::OnceLock;

#[cfg(feature = "gpu")]
use super::gpu::{AdapterKind, GpuDevice, Wanted};
#[cfg(feature = "gpu")]
use super::units::Units;

/// What runs compiled steps: a GPU adapter, or the CPU interpreter. A cheap shared handle; clones are the same device.
#[derive(Clone)]
pub struct Device(Arc<Kind>);

enum Kind {
    Cpu {
        target: Target,
        reason: String,
    },
    #[cfg(feature = "gpu")]
    Gpu {
        device: Arc<GpuDevice>,
        /// Known once the adapter has been probed, which waits for the first that asks.
        target: OnceLock<Target>,
        /// What is known of its matrix units.
        units: Arc<Units>,
    },
}

impl Device {
    /// The best hardware GPU; the error says what was found instead and what to do.
    pub fn best() -> Result<Device> {
        Device::open_gpu(false)
    }

    /// A hardware GPU, else the CPU interpreter. Which one, and why, is in [`describe`](Device::describe) and logged.
    pub fn best_or_cpu() -> Result<Device> {
        let device = match Device::best() {
            Ok(device) => device,
            Err(Error::Platform(why)) => Device::cpu_because(why),
            Err(error) => return Err(error),
        };
        tracing::info!(device = %device.describe(), "device chosen");
        Ok(device)
    }

    /// The CPU interpreter. Starts nothing.
    pub fn cpu() -> Device {
        Device::cpu_because("asked for".into())
    }

    /// A driver that runs shaders on the CPU: for tests of the GPU path on machines without a GPU.
    pub fn software() -> Result<Device> {
        Device::open_gpu(true)
    }

    /// `auto` ([`best_or_cpu`](Device::best_or_cpu)), `gpu`, `software` or `cpu`.
    pub fn from_name(name: &str) -> Result<Device> {
        match name {
            "auto" => Device::best_or_cpu(),
            "gpu" => Device::best(),
            "software" => Device::software(),
            "cpu" => Ok(Device::cpu()),
            _ => Err(Error::Platform(format!("{name} is no device: use auto, gpu, software or cpu"))),
        }
    }

    /// Capabilities and limits. The first call of a device probes the adapter, or reads what an earlier probe found.
    pub fn caps(&self) -> &DeviceCaps {
        &self.target_ref().caps
    }

    /// Coarse speeds.
    pub fn model(&self) -> &DeviceModel {
        &self.target_ref().model
    }

    /// What a program is compiled for to run here.
    pub fn target(&self) -> Target {
        self.target_ref().clone()
    }

    /// What `work` gives for this device's target. Where the adapter is not probed yet, that happens beside the work, which takes it for what it
    /// says that it is and starts again where that was too much.
    pub(super) fn beside_probing<T>(&self, work: impl Fn(&Target) -> T) -> T {
        #[cfg(feature = "gpu")]
        if let Kind::Gpu { device, target, .. } = &*self.0
            && target.get().is_none()
        {
            let stated = Target { caps: device.caps().clone(), model: device.model().clone() };
            let done = std::thread::scope(|scope| {
                let probing = std::thread::Builder::new().name("probes".into()).spawn_scoped(scope, || self.target()).ok()?;
                let done = work(&stated);
                let found = probing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                is_spelled_as(&found, &stated).then_some(done)
            });
            if let Some(done) = done {
                return done;
            }
        }
        work(self.target_ref())
    }

    /// Whether matrix units compute what kernels of these forms take them for. Each way of using them is tried before its first use; one that is
    /// wrong is warned of once.
    pub(super) fn multiplies(&self, forms: &[Form]) -> bool {
        match &*self.0 {
            Kind::Cpu { .. } => forms.iter().all(|form| form.units().is_none()),
            #[cfg(feature = "gpu")]
            Kind::Gpu { device, units, .. } => units.are_right(forms, device, self.target_ref()),
        }
    }

    /// True for the interpreter.
    pub fn is_cpu(&self) -> bool {
        matches!(*self.0, Kind::Cpu { .. })
    }

    /// True for an adapter that runs shaders on the CPU.
    pub fn is_software(&self) -> bool {
        match &*self.0 {
            Kind::Cpu { .. } => false,
            #[cfg(feature = "gpu")]
            Kind::Gpu { device, .. } => device.kind() == AdapterKind::Software,
        }
    }

    /// One line: which device this is, and why it was taken.
    pub fn describe(&self) -> String {
        match &*self.0 {
            Kind::Cpu { target, reason } => format!("{} ({reason})", target.caps.name),
            #[cfg(feature = "gpu")]
            Kind::Gpu { device, .. } => format!("{} through {} ({})", device.caps().name, device.caps().backend, device.reason()),
        }
    }

    /// Bytes the driver's allocator has handed out for all buffers of this device, where it says so.
    pub fn allocated_bytes(&self) -> Option<u64> {
        match &*self.0 {
            Kind::Cpu { .. } => None,
            #[cfg(feature = "gpu")]
            Kind::Gpu { device, .. } => device.allocated_bytes(),
        }
    }

    /// The open GPU device, if this is one, probed: how it compiles shaders depends on what was found.
    #[cfg(feature = "gpu")]
    pub fn gpu(&self) -> Option<&Arc<GpuDevice>> {
        self.target_ref();
        match &*self.0 {
            Kind::Cpu { .. } => None,
            Kind::Gpu { device, .. } => Some(device),
        }
    }

    /// This adapter for another target; what is known of its matrix units stays.
    #[cfg(feature = "gpu")]
    pub(super) fn retargeted(&self, target: Target) -> Option<Device> {
        match &*self.0 {
            Kind::Cpu { .. } => None,
            Kind::Gpu { device, units, .. } => {
                Some(Device(Arc::new(Kind::Gpu { device: device.clone(), target: OnceLock::from(target), units: units.clone() })))
            }
        }
    }

    /// The same adapter, opened anew: after [`Error::Lost`].
    pub fn reopen(&self) -> Result<Device> {
        match &*self.0 {
            Kind::Cpu { .. } => Ok(self.clone()),
            #[cfg(feature = "gpu")]
            Kind::Gpu { device, target, .. } => {
                let fresh = Device::of(device.reopen()?);
                // Probing says how shaders are compiled there; what was measured and tuned is known already.
                let probed = fresh.target();
                fresh.retargeted(target.get().cloned().unwrap_or(probed)).ok_or_else(|| Error::Platform("the adapter is gone".into()))
            }
        }
    }

    /// A device that is taken to have these capabilities.
    #[cfg(feature = "gpu")]
    pub(super) fn assumed(device: Arc<GpuDevice>, target: Target) -> Device {
        Device(Arc::new(Kind::Gpu { device, target: OnceLock::from(target), units: Arc::new(Units::assumed(true)) }))
    }

    fn target_ref(&self) -> &Target {
        match &*self.0 {
            Kind::Cpu { target, .. } => target,
            #[cfg(feature = "gpu")]
            Kind::Gpu { device, target, .. } => target.get_or_init(|| super::probe::target(device)),
        }
    }

    fn cpu_because(reason: String) -> Device {
        Device(Arc::new(Kind::Cpu { target: Target::cpu(), reason }))
    }

    #[cfg(feature = "gpu")]
    fn open_gpu(software: bool) -> Result<Device> {
        Device::open_with(software, &Environment::read())
    }

    #[cfg(not(feature = "gpu"))]
    fn open_gpu(_software: bool) -> Result<Device> {
        let _ = Environment::default();
        Err(Error::Platform("this build has no GPU support; build with the feature gpu, or use --device cpu".into()))
    }

    /// As [`best`](Device::best) or [`software`](Device::software), under a given environment.
    #[cfg(feature = "gpu")]
    pub fn open_with(software: bool, environment: &Environment) -> Result<Device> {
        let device = GpuDevice::open(if software { Wanted::Software } else { Wanted::Hardware }, environment)?;
        Ok(Device::of(device))
    }

    #[cfg(feature = "gpu")]
    fn of(device: GpuDevice) -> Device {
        Device(Arc::new(Kind::Gpu { device: Arc::new(device), target: OnceLock::new(), units: Arc::default() }))
    }
}

/// Whether programs for one target are those for the other. How shaders go over to a driver that simplifies floats is not their matter.
#[cfg(feature = "gpu")]
fn is_spelled_as(target: &Target, other: &Target) -> bool {
    let caps = DeviceCaps { exact_floats: other.caps.exact_floats, ..target.caps.clone() };
    caps == other.caps && target.model == other.model
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.describe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(feature = "gpu")]
    use crate::types::Cooperative;

    #[test]
    fn names_are_checked() {
        assert!(Device::from_name("cpu").unwrap().is_cpu());
        assert_eq!(Device::from_name("tpu").unwrap_err().to_string(), "platform: tpu is no device: use auto, gpu, software or cpu");
    }

    /// Matrix units that were found wrong stay so whatever tuning adds.
    #[cfg(feature = "gpu")]
    #[test]
    fn tuning_does_not_forget_that_units_are_wrong() {
        let Ok(software) = Device::software() else { return };
        let gpu = software.gpu().expect("a software adapter is one").clone();
        let target = Target { caps: DeviceCaps { cooperative: Cooperative::Native, ..software.caps().clone() }, model: software.model().clone() };
        let wrong = Device(Arc::new(Kind::Gpu { device: gpu, target: OnceLock::from(target), units: Arc::new(Units::assumed(false)) }));
        let blocks = crate::forms::Blocks { bx: 64, by: 16, bf: 64, bk: 16, unroll: 16, units: Some(crate::forms::Terms::Split) };
        for device in [wrong.tuned(&Default::default()).unwrap(), wrong] {
            assert!(!device.multiplies(&[Form::Attention(blocks)]));
            assert!(device.multiplies(&[Form::Rank]));
        }
    }
}
