//! Which adapters there are, which one is taken, and why.

use super::super::counters::{Counted, count};
use crate::config::Environment;
use crate::error::{Error, Result};
use crate::types::{Cooperative, DeviceCaps, DeviceModel};

/// What an adapter is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AdapterKind {
    /// A GPU with its own memory.
    Discrete,
    /// A GPU that shares the host's memory.
    Integrated,
    /// A GPU behind a hypervisor, or one that does not say.
    Other,
    /// A driver that runs shaders on the CPU.
    Software,
}

impl AdapterKind {
    fn of(info: &wgpu::AdapterInfo) -> AdapterKind {
        match info.device_type {
            wgpu::DeviceType::DiscreteGpu => AdapterKind::Discrete,
            wgpu::DeviceType::IntegratedGpu => AdapterKind::Integrated,
            wgpu::DeviceType::Cpu => AdapterKind::Software,
            _ => AdapterKind::Other,
        }
    }

    /// The word for tables and messages.
    pub fn name(self) -> &'static str {
        match self {
            AdapterKind::Discrete => "discrete",
            AdapterKind::Integrated => "integrated",
            AdapterKind::Other => "other",
            AdapterKind::Software => "software",
        }
    }
}

/// An adapter as `doctor` shows it.
#[derive(Clone, Debug)]
pub struct AdapterReport {
    /// Name the driver gives.
    pub name: String,
    /// `vulkan`, `metal`, `dx12` or `webgpu`.
    pub backend: String,
    /// What it is made of.
    pub kind: AdapterKind,
    /// Driver and its version.
    pub driver: String,
    /// What it can do.
    pub caps: DeviceCaps,
    /// Coarse speeds.
    pub model: DeviceModel,
    /// Why `WGPU_ADAPTER_NAME` or `WGPU_BACKEND` rules it out; `None` when they do not.
    pub excluded: Option<String>,
}

/// Which kind of adapter is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A GPU.
    Hardware,
    /// A driver that runs shaders on the CPU.
    Software,
}

/// An adapter that was found, with why it was taken.
pub(super) struct Chosen {
    pub adapter: wgpu::Adapter,
    pub reason: String,
}

/// Every adapter of this machine.
pub fn adapters(environment: &Environment) -> Vec<AdapterReport> {
    let backends = all_backends();
    let found = pollster::block_on(instance(backends).enumerate_adapters(backends));
    found.iter().map(|a| report(a, environment)).collect()
}

/// Takes the best adapter of the wanted kind that the environment admits: discrete before integrated before others, the
/// first of the driver's order among equals. The error lists what was found.
pub(super) fn choose(wanted: Wanted, environment: &Environment) -> Result<Chosen> {
    let backends = asked_backends(environment)?;
    let found = pollster::block_on(instance(backends).enumerate_adapters(backends));
    let reports: Vec<AdapterReport> = found.iter().map(|a| report(a, environment)).collect();
    let fits = |r: &AdapterReport| r.excluded.is_none() && (r.kind == AdapterKind::Software) == (wanted == Wanted::Software);
    let best = (0..reports.len()).filter(|&i| fits(&reports[i])).min_by_key(|&i| (reports[i].kind, i));
    let Some(best) = best else { return Err(Error::Platform(refusal(wanted, environment, &reports))) };
    let others = reports.iter().filter(|r| fits(r)).count() - 1;
    let reason = format!(
        "{} adapter{}{}",
        reports[best].kind.name(),
        environment.adapter_name.as_ref().map(|n| format!(", named by WGPU_ADAPTER_NAME={n}")).unwrap_or_default(),
        if others == 0 { ", the only one".to_string() } else { format!(", preferred to {others} other{}", if others == 1 { "" } else { "s" }) }
    );
    let adapter = found.into_iter().nth(best).ok_or_else(|| Error::Platform("the adapter is gone".into()))?;
    Ok(Chosen { adapter, reason })
}

fn all_backends() -> wgpu::Backends {
    wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12
}

fn asked_backends(environment: &Environment) -> Result<wgpu::Backends> {
    let Some(list) = &environment.backend else { return Ok(all_backends()) };
    let mut asked = wgpu::Backends::empty();
    for name in list.split(',').map(|n| n.trim().to_lowercase()) {
        asked |= match name.as_str() {
            "vulkan" | "vk" => wgpu::Backends::VULKAN,
            "metal" | "mtl" => wgpu::Backends::METAL,
            "dx12" | "d3d12" => wgpu::Backends::DX12,
            _ => return Err(Error::Platform(format!("WGPU_BACKEND={list}: {name} is not one of vulkan, metal, dx12"))),
        };
    }
    Ok(asked)
}

/// Flags are empty: validation layers and debug information cost time, and the checks of `wgpu-core` are always on. The
/// indirect-call check must go because it caps buffers at 4 GiB and adds dispatches.
fn instance(backends: wgpu::Backends) -> wgpu::Instance {
    count(Counted::Instance);
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = backends;
    descriptor.flags = wgpu::InstanceFlags::empty();
    wgpu::Instance::new(descriptor)
}

fn report(adapter: &wgpu::Adapter, environment: &Environment) -> AdapterReport {
    let info = adapter.get_info();
    let kind = AdapterKind::of(&info);
    AdapterReport {
        backend: backend_name(info.backend).into(),
        driver: [info.driver.as_str(), info.driver_info.as_str()].join(" ").trim().to_string(),
        caps: caps(adapter),
        model: model(kind),
        excluded: exclusion(&info, environment),
        name: info.name,
        kind,
    }
}

fn exclusion(info: &wgpu::AdapterInfo, environment: &Environment) -> Option<String> {
    if let Some(name) = &environment.adapter_name
        && !info.name.to_lowercase().contains(&name.to_lowercase())
    {
        return Some(format!("its name lacks WGPU_ADAPTER_NAME={name}"));
    }
    let backends = asked_backends(environment).ok()?;
    (!backends.contains(info.backend.into())).then(|| format!("WGPU_BACKEND={} leaves it out", environment.backend.as_deref().unwrap_or_default()))
}

fn refusal(wanted: Wanted, environment: &Environment, reports: &[AdapterReport]) -> String {
    let kind = if wanted == Wanted::Hardware { "hardware GPU" } else { "software adapter" };
    let mut found: Vec<String> = vec![];
    for r in reports {
        let why = match (&r.excluded, r.kind == AdapterKind::Software) {
            (Some(reason), _) => reason.clone(),
            (None, true) => "runs on the CPU; ask for it with --device software".into(),
            (None, false) => "is a hardware GPU; ask for it with --device gpu".into(),
        };
        found.push(format!("{} ({}, {}): {why}", r.name, r.backend, r.kind.name()));
    }
    let filters = match (&environment.adapter_name, &environment.backend) {
        (None, None) => String::new(),
        (name, backend) => {
            format!(" (WGPU_ADAPTER_NAME={} WGPU_BACKEND={})", name.as_deref().unwrap_or("unset"), backend.as_deref().unwrap_or("unset"))
        }
    };
    let advice = match wanted {
        Wanted::Hardware => "install the GPU's Vulkan driver, or use --device cpu",
        Wanted::Software => "install mesa-vulkan-drivers and libvulkan1, or use --device cpu",
    };
    if found.is_empty() {
        format!("no {kind} found{filters}: no Vulkan, Metal or DX12 adapter at all; {advice}")
    } else {
        format!("no {kind} found{filters}; found {}; {advice}", found.join("; "))
    }
}

pub(super) fn backend_name(backend: wgpu::Backend) -> &'static str {
    match backend {
        wgpu::Backend::Vulkan => "vulkan",
        wgpu::Backend::Metal => "metal",
        wgpu::Backend::Dx12 => "dx12",
        wgpu::Backend::BrowserWebGpu => "webgpu",
        wgpu::Backend::Gl => "gl",
        wgpu::Backend::Noop => "noop",
    }
}

/// Features that are asked for when the adapter has them; each is read into a field of [`DeviceCaps`] or used by the engine.
pub(super) fn wanted_features() -> wgpu::Features {
    wgpu::Features::SHADER_F16
        | wgpu::Features::SHADER_INT64
        | wgpu::Features::SHADER_F64
        | wgpu::Features::SUBGROUP
        | wgpu::Features::SUBGROUP_BARRIER
        | wgpu::Features::TIMESTAMP_QUERY
        | wgpu::Features::PIPELINE_CACHE
        | wgpu::Features::PASSTHROUGH_SHADERS
        | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
}

/// Largest binding asked for: bindings of 4 GiB and more miscompute on some back ends.
const MAX_BINDING: u64 = u32::MAX as u64 - 4;

/// The adapter's own limits, with bindings kept below 4 GiB.
pub(super) fn limits(adapter: &wgpu::Adapter) -> wgpu::Limits {
    let mut limits = adapter.limits();
    limits.max_storage_buffer_binding_size = limits.max_storage_buffer_binding_size.min(MAX_BINDING) & !3;
    limits
}

/// What the adapter says that it can do; [`probe`](super::probe) finds out whether that is so.
pub(super) fn caps(adapter: &wgpu::Adapter) -> DeviceCaps {
    let (features, limits, info) = (adapter.features(), limits(adapter), adapter.get_info());
    let has = |f: wgpu::Features| features.contains(f);
    DeviceCaps {
        backend: backend_name(info.backend).into(),
        max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        max_buffer_bytes: limits.max_buffer_size,
        memory_bytes: memory_bytes(adapter),
        max_workgroup_bytes: limits.max_compute_workgroup_storage_size,
        max_invocations: limits.max_compute_invocations_per_workgroup,
        max_workgroup_size: limits.max_compute_workgroup_size_x.min(limits.max_compute_workgroup_size_y),
        max_groups: limits.max_compute_workgroups_per_dimension,
        subgroups: has(wgpu::Features::SUBGROUP).then_some((info.subgroup_min_size, info.subgroup_max_size)),
        f16: has(wgpu::Features::SHADER_F16),
        i64: has(wgpu::Features::SHADER_INT64),
        i64_comparisons: true,
        f64: has(wgpu::Features::SHADER_F64) && has(wgpu::Features::SHADER_INT64),
        exact_floats: true,
        converts_halves: true,
        cooperative: if has(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) && has(wgpu::Features::SHADER_F16) && has_fragments(adapter) {
            Cooperative::Native
        } else {
            Cooperative::Absent
        },
        // WGSL promises nothing between workgroups; naga's storage barriers in SPIR-V are those of the device.
        shares_storage: info.backend == wgpu::Backend::Vulkan,
        max_steps: info.name.starts_with("llvmpipe").then_some(65_535),
        timestamps: has(wgpu::Features::TIMESTAMP_QUERY),
        name: info.name,
    }
}

/// Memory that is the GPU's own, on Vulkan, which says so; a GPU that shares the host's has as much as the host leaves.
#[allow(unsafe_code)]
fn memory_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
    const DEVICE_LOCAL: u32 = 1;
    if kind(adapter) != AdapterKind::Discrete {
        return None;
    }
    // SAFETY: nothing is destroyed or changed through the adapter's own handles, which live as long as the guard.
    let adapter = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let (instance, device) = (adapter.shared_instance().raw_instance(), adapter.raw_physical_device());
    // SAFETY: the physical device is one of that instance.
    let memory = unsafe { instance.get_physical_device_memory_properties(device) };
    let heaps = memory.memory_heaps.iter().take(memory.memory_heap_count as usize);
    heaps.filter(|heap| heap.flags.as_raw() & DEVICE_LOCAL != 0).map(|heap| heap.size).max()
}

/// Matrices of the one shape that products use, by subgroups of the one size that they count on.
fn has_fragments(adapter: &wgpu::Adapter) -> bool {
    let info = adapter.get_info();
    let subgroups = adapter.features().contains(wgpu::Features::SUBGROUP) && (info.subgroup_min_size, info.subgroup_max_size) == (32, 32);
    subgroups
        && adapter.cooperative_matrix_properties().iter().any(|p| {
            (p.m_size, p.n_size, p.k_size) == (16, 16, 16)
                && p.ab_type == wgpu::CooperativeScalarType::F16
                && p.cr_type == wgpu::CooperativeScalarType::F32
        })
}

/// The named speed model; coarse on purpose, so that plans do not depend on a measurement.
pub(super) fn model(kind: AdapterKind) -> DeviceModel {
    match kind {
        AdapterKind::Discrete => DeviceModel::large_gpu(),
        AdapterKind::Integrated | AdapterKind::Other => DeviceModel::small_gpu(),
        AdapterKind::Software => DeviceModel::cpu(),
    }
}

pub(super) fn kind(adapter: &wgpu::Adapter) -> AdapterKind {
    AdapterKind::of(&adapter.get_info())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_backends_are_named() {
        let environment = Environment { backend: Some("vulkan,cuda".into()), ..Environment::default() };
        let error = choose(Wanted::Software, &environment).err().expect("refused").to_string();
        assert_eq!(error, "platform: WGPU_BACKEND=vulkan,cuda: cuda is not one of vulkan, metal, dx12");
    }

    #[test]
    fn a_name_that_fits_nothing_is_refused_with_what_was_found() {
        let environment = Environment { adapter_name: Some("no such adapter".into()), ..Environment::default() };
        let error = choose(Wanted::Hardware, &environment).err().expect("refused").to_string();
        assert!(error.starts_with("platform: no hardware GPU found (WGPU_ADAPTER_NAME=no such adapter"), "{error}");
    }
}
