//! The platform check as a table.

use super::emit;
use anyhow::Result;
use inductor::config::Environment;
use inductor::report::{Table, bytes};
use inductor::types::{Capability, DeviceCaps};
use inductor::{Config, DType, Device, HostTensor, Initializer, compile_train, optim, trace};
use std::process::ExitCode;

/// Shows adapters, limits and fast paths, and trains one small step on the named device.
pub fn doctor(name: &str) -> Result<ExitCode> {
    let environment = Environment::read();
    emit(&format!("inductor {} on {} {}\n", env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH))?;
    let cache = environment.cache_dir.as_ref().map_or("none".into(), |d| d.display().to_string());
    emit(&format!("cache folder: {cache}\n{}", adapters(&environment)))?;
    let device = match Device::from_name(name) {
        Ok(device) => device,
        Err(error) => {
            emit(&format!("\ndevice {name}: unusable, {error}\n"))?;
            return Ok(ExitCode::FAILURE);
        }
    };
    emit(&format!("\ndevice {name}: {}\n{}", device.describe(), limits_and_paths(device.caps())))?;
    emit(&speeds(&device))?;
    match self_test(&device) {
        Ok(loss) => {
            emit(&format!("\nself test: a training step ran, loss {loss}\n"))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            emit(&format!("\nself test: failed, {error:#}\n"))?;
            Ok(ExitCode::FAILURE)
        }
    }
}

/// What the device does, measured now and kept for later compilations.
#[cfg(feature = "gpu")]
fn speeds(device: &Device) -> String {
    if device.is_cpu() {
        return String::new();
    }
    match device.measure() {
        Ok(model) => {
            format!("\nmeasured: copies {} GB/s, a launch takes {} ns (coarse; later compilations use it)\n", model.bandwidth_gbps, model.launch_ns)
        }
        Err(error) => format!("\nmeasured: nothing, {error}\n"),
    }
}

#[cfg(not(feature = "gpu"))]
fn speeds(_: &Device) -> String {
    String::new()
}

#[cfg(not(feature = "gpu"))]
fn adapters(_: &Environment) -> String {
    "\nadapters: this build has no GPU support\n".into()
}

#[cfg(feature = "gpu")]
fn adapters(environment: &Environment) -> String {
    let adapters = inductor::runtime::gpu::adapters(environment);
    if adapters.is_empty() {
        return "\nadapters: none (no Vulkan, Metal or DX12 driver was found; the CPU interpreter needs none)\n".into();
    }
    let mut table = Table::new(&["name", "backend", "kind", "driver", "note"]);
    for a in adapters {
        let note = a.excluded.unwrap_or_else(|| {
            let software = a.kind.name() == "software";
            if software { "only with --device software".into() } else { "usable".into() }
        });
        table.row(&[a.name, a.backend, a.kind.name().into(), a.driver, note]);
    }
    format!("\nadapters\n{table}")
}

fn limits_and_paths(caps: &DeviceCaps) -> String {
    if caps.is_cpu() {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        return format!("\nevery dtype, and no limit but this machine's memory; kernels run on up to {threads} threads\n");
    }
    let mut limits = Table::new(&["limit", "value"]);
    let mut limit = |name: &str, value: String| limits.row(&[name.into(), value]);
    limit("storage buffers per kernel", caps.max_storage_buffers.to_string());
    limit("bytes of one binding", bytes(caps.max_binding_bytes));
    limit("bytes of one buffer", bytes(caps.max_buffer_bytes));
    limit("workgroup memory", bytes(caps.max_workgroup_bytes as u64));
    limit("invocations per workgroup", caps.max_invocations.to_string());
    limit("workgroups per dimension", caps.max_groups.to_string());
    let mut table = Table::new(&["path", "state", "otherwise"]);
    for Capability { name, state, otherwise } in caps.optional() {
        let otherwise = if state.is_some() { "" } else { otherwise };
        let state = state.unwrap_or_else(|| "off: the adapter lacks it, or gets it wrong".into());
        table.row(&[name.into(), state, otherwise.into()]);
    }
    format!("\nlimits\n{limits}\nfast paths\n{table}")
}

/// One step of a small model: products, a reduction, an update.
fn self_test(device: &Device) -> Result<f32> {
    let traced = trace("self_test", |t| {
        let x = t.input("x", DType::F32, (4, 8));
        let y = t.input("y", DType::I32, 4);
        let w = t.parameter("w", DType::F32, (8, 3), Initializer::Normal { std: 0.5 });
        Ok(x.matmul(&w).cross_entropy(&y))
    })?;
    let step = compile_train(&traced, device, optim::Sgd::new(0.1), &Config::default())?;
    let mut state = step.init(1)?;
    let x: Vec<f32> = (0..32).map(|i| (i % 7) as f32 / 7.0).collect();
    let inputs = [HostTensor::f32(&[4, 8], &x), HostTensor::i32(&[4], &[0, 1, 2, 0])];
    let first = step.run(&mut state, &inputs[..])?.loss()?;
    let second = step.run(&mut state, &inputs[..])?.loss()?;
    anyhow::ensure!(second < first, "the loss did not fall: {first}, then {second}");
    Ok(second)
}
