//! The adapter at hand with matrix units, which it emulates.

use crate::kernels::device::Gpu;
use inductor::config::Target;
use inductor::types::{Cooperative, DeviceCaps, DeviceModel};

/// The target of the reference card's forms that the adapter can run.
pub fn with_units(gpu: &Gpu) -> Target {
    let caps = DeviceCaps { cooperative: Cooperative::Emulated, max_workgroup_bytes: 48 << 10, ..gpu.target.caps.clone() };
    Target { caps, model: DeviceModel::large_gpu() }
}
