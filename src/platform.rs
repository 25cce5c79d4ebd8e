//! The platform check: before any work, does the device have what the program needs?
//!
//! * Comes in: a target's capabilities and a graph.
//! * Goes out: nothing, or one error that names everything missing and what to do.
//! * Must not know: adapters, drivers, kernels.
//! * Add here: a capability that some program cannot do without.

use crate::config::Target;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::types::{DType, DeviceCaps, TensorType};

/// Storage buffers without which no fused kernel can be bound: two operands, a result and one to spare.
const MIN_STORAGE_BUFFERS: u32 = 4;
/// Invocations of the smallest workgroup that kernels are written for.
const MIN_INVOCATIONS: u32 = 64;
/// Workgroup memory of the smallest reduction kernel.
const MIN_WORKGROUP_BYTES: u32 = 4096;
/// Workgroups along one dimension that grids are folded to.
const MIN_GROUPS: u32 = 256;

/// Checks the limits every kernel needs, and the dtypes and sizes of this program's border.
pub fn check(target: &Target, graph: &Graph) -> Result<()> {
    let caps = &target.caps;
    let mut missing = vec![];
    if !caps.is_cpu() {
        check_limits(caps, &mut missing);
        check_dtypes(caps, graph, &mut missing);
        check_sizes(caps, graph, &mut missing);
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::Platform(format!("{} ({}) cannot run {}: {}; use --device cpu", caps.name, caps.backend, graph.name, missing.join("; "))))
}

fn check_limits(caps: &DeviceCaps, missing: &mut Vec<String>) {
    let mut need = |what: &str, has: u64, least: u64| {
        if has < least {
            missing.push(format!("{what} is {has}, and kernels need {least}"));
        }
    };
    need("the number of storage buffers per stage", caps.max_storage_buffers as u64, MIN_STORAGE_BUFFERS as u64);
    need("invocations per workgroup", caps.max_invocations as u64, MIN_INVOCATIONS as u64);
    need("the workgroup size along one dimension", caps.max_workgroup_size as u64, MIN_INVOCATIONS as u64);
    need("workgroup memory in bytes", caps.max_workgroup_bytes as u64, MIN_WORKGROUP_BYTES as u64);
    need("workgroups per dimension", caps.max_groups as u64, MIN_GROUPS as u64);
}

fn check_dtypes(caps: &DeviceCaps, graph: &Graph, missing: &mut Vec<String>) {
    if caps.f64 {
        return;
    }
    for id in graph.ids() {
        let node = graph.node(id);
        if node.types.iter().any(|t| t.dtype == DType::F64) {
            let line = graph.provenance(id).line().map(|l| format!(" (at {l})")).unwrap_or_default();
            missing.push(format!("f64 needs 64-bit floats in shaders, which it lacks{line}: cast to f32"));
            return;
        }
    }
}

/// Inputs and outputs are bound whole, so one binding must hold the smallest admissible size of each.
fn check_sizes(caps: &DeviceCaps, graph: &Graph, missing: &mut Vec<String>) {
    let limit = caps.max_binding_bytes.min(caps.max_buffer_bytes);
    let inputs = graph.inputs.iter().map(|i| (&i.name, i.value));
    for (name, value) in inputs.chain(graph.outputs.iter().map(|o| (&o.name, o.value))) {
        let ty = graph.ty(value);
        let bytes = least_bytes(ty);
        if bytes > limit {
            missing.push(format!("{name}: {ty} takes {bytes} bytes, and one binding holds {limit}"));
        }
    }
}

fn least_bytes(ty: &TensorType) -> u64 {
    // A 64-bit integer may be narrowed to a word.
    let element = if ty.dtype == DType::I64 { 4 } else { ty.dtype.size() as u64 };
    u64::try_from(ty.numel().range().0).unwrap_or(0).saturating_mul(element)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Builder, InputRole, OutputRole};
    use crate::types::IntoShape;

    fn graph(dtype: DType, shape: impl IntoShape) -> Graph {
        let mut b = Builder::new("g");
        let x = b.input("x", InputRole::Input, TensorType::new(dtype, shape)).unwrap();
        let y = b.neg(x).unwrap();
        b.output("y", OutputRole::User, y);
        b.finish()
    }

    fn refusal(change: impl Fn(&mut DeviceCaps), graph: &Graph) -> String {
        let mut target = Target::webgpu_default();
        change(&mut target.caps);
        check(&target, graph).expect_err("refused").to_string()
    }

    #[test]
    fn the_default_profile_passes() {
        let g = graph(DType::F32, (32, 32));
        assert!(check(&Target::webgpu_default(), &g).is_ok());
        assert!(check(&Target::cpu(), &graph(DType::F64, 1 << 30)).is_ok());
    }

    #[test]
    fn lacking_limits_are_named() {
        let message = refusal(|c| (c.max_storage_buffers, c.max_invocations) = (2, 32), &graph(DType::F32, 4));
        assert!(message.starts_with("platform: webgpu-default (webgpu) cannot run g: the number of storage buffers per stage is 2"), "{message}");
        assert!(message.contains("invocations per workgroup is 32, and kernels need 64"), "{message}");
    }

    #[test]
    fn dtypes_and_sizes_are_named() {
        assert!(refusal(|_| (), &graph(DType::F64, 4)).contains("f64 needs 64-bit floats"));
        let message = refusal(|_| (), &graph(DType::F32, (32 << 20) + 1));
        assert!(message.contains("x: f32[33554433] takes 134217732 bytes, and one binding holds 134217728"), "{message}");
    }
}
