//! From a finished function body to a variant: directives, bindings, helpers, entry point.

use super::emit::Emitter;
use super::helpers;
use super::plan::{Binding, Variant};
use super::storage::Element;
use super::unit::Unit;
use crate::types::Dim;
use std::collections::BTreeSet;

/// Shape of a variant's launch.
pub struct Launch {
    /// What the variant is.
    pub name: String,
    /// Invocations of a workgroup.
    pub threads: u32,
    /// Number of workgroups.
    pub groups: Dim,
    /// Bytes of workgroup memory.
    pub shared_bytes: u32,
}

/// Assembles the module of a function body. The body may use `group` (u32), `lid` (u32) and, where it says so, `status`.
pub fn assemble(mut em: Emitter, launch: Launch) -> Result<Variant, String> {
    let (unit, caps) = (em.unit, &em.unit.target.caps);
    if launch.threads > caps.max_invocations || launch.threads > caps.max_workgroup_size {
        return Err(format!("{} invocations in a workgroup are more than this device's {}", launch.threads, caps.max_invocations));
    }
    if launch.shared_bytes > caps.max_workgroup_bytes {
        return Err(format!("{} bytes of workgroup memory are more than this device's {}", launch.shared_bytes, caps.max_workgroup_bytes));
    }
    let entry = entry(&mut em, &launch.groups);
    let (vector, subgroup) = (em.vector.clone(), em.subgroup);
    let (lines, used, globals, uses_symbols) = em.finish();
    let (bindings, mut out) = header(unit, &vector, uses_symbols, &used);
    for line in &globals {
        out.push_str(line);
        out.push('\n');
    }
    let nwg = if entry.iter().any(|l| l.contains("nwg")) { "@builtin(num_workgroups) nwg: vec3<u32>, " } else { "" };
    let (place, first) = match subgroup {
        // Numbered by subgroup, so that neighbors share one whatever order the driver gives invocations.
        Some(size) => ("@builtin(subgroup_id) sid: u32, @builtin(subgroup_invocation_id) sub: u32", Some(format!("let lid = sid * {size}u + sub;"))),
        None => ("@builtin(local_invocation_index) lid: u32", None),
    };
    out.push_str(&format!("\n@compute @workgroup_size({})\nfn main(@builtin(workgroup_id) wid: vec3<u32>, {nwg}{place}) {{\n", launch.threads));
    for line in first.iter().chain(&entry).chain(&lines) {
        for part in line.split('\n') {
            out.push_str("  ");
            out.push_str(part);
            out.push('\n');
        }
    }
    out.push_str("}\n");
    Ok(Variant { name: launch.name, wgsl: out, workgroup: [launch.threads, 1, 1], groups: launch.groups, bindings })
}

/// First statements of the entry point: the guard, the workgroup's number as `group`.
pub fn entry(em: &mut Emitter, groups: &Dim) -> Vec<String> {
    let (unit, caps) = (em.unit, &em.unit.target.caps);
    let mut entry = vec![];
    if unit.guarded {
        entry.push(if unit.sets_status { "if (atomicLoad(&status) != 0u) { return; }" } else { "if (status != 0u) { return; }" }.to_string());
    }
    match groups.as_int() {
        Some(n) if n <= caps.max_groups as i64 => entry.push("let group = wid.x;".into()),
        _ => {
            let count = em.size_text(groups);
            entry.push("let group = wid.x + wid.y * nwg.x;".into());
            entry.push(format!("if (group >= {count}) {{ return; }}"));
        }
    }
    entry
}

/// Everything before the entry point: directives, bindings, helper functions.
pub fn header(unit: &Unit, vector: &[bool], uses_symbols: bool, used: &BTreeSet<String>) -> (Vec<Binding>, String) {
    let (bindings, declarations) = unit.declarations(vector, uses_symbols);
    let mut out = String::new();
    if unit.bindings.iter().any(|b| b.element == Element::F16) {
        out.push_str("enable f16;\n\n");
    }
    for line in &declarations {
        out.push_str(line);
        out.push('\n');
    }
    for text in helpers::texts(used, &unit.target.caps) {
        out.push('\n');
        out.push_str(&text);
        out.push('\n');
    }
    (bindings, out)
}
