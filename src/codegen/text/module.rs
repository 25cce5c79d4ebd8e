//! From a finished function body to a variant: directives, bindings, helpers, entry point.

use super::emit::{Barrier, Emitter};
use super::helpers;
use super::storage::Element;
use super::unit::Unit;
use crate::codegen::plan::{Binding, Variant};
use crate::loop_ir::Val;
use crate::types::{DeviceCaps, Dim};
use std::collections::BTreeSet;

/// How a body is launched.
pub struct Geometry {
    /// What the variant is.
    pub name: String,
    /// Invocations of a workgroup.
    pub threads: u32,
    /// Number of workgroups.
    pub groups: Dim,
    /// Bytes of workgroup memory.
    pub shared_bytes: u32,
}

/// A finished function body. It may use `group` (u32), `lid` (u32), `sub` and `sid` where it works by subgroups and, where it says
/// so, `status`.
pub struct Shader {
    launch: Geometry,
    /// Bindings declared as arrays of `vec4`.
    vector: Vec<bool>,
    subgroup: Option<u32>,
    entry: Vec<String>,
    lines: Vec<String>,
    helpers: BTreeSet<String>,
    globals: Vec<String>,
    uses_symbols: bool,
}

/// Completes a function body.
pub fn assemble(mut em: Emitter, launch: Geometry) -> Result<Shader, String> {
    check(&em.unit.target.caps, launch.threads, launch.shared_bytes)?;
    all_checked(&em.unchecked().collect::<Vec<_>>())?;
    all_wait(em.waits(), em.unit.guarded && em.unit.sets_status)?;
    let entry = entry(&mut em, &launch.groups);
    let (vector, subgroup) = (em.vector.clone(), em.subgroup);
    let (lines, helpers, globals, uses_symbols) = em.finish();
    Ok(Shader { launch, vector, subgroup, entry, lines, helpers, globals, uses_symbols })
}

/// A check that no statement of the shader makes would be lost without a word.
pub fn all_checked(missing: &[Val]) -> Result<(), String> {
    missing.first().map_or(Ok(()), |v| Err(format!("%{}: the shader does not check it", v.0)))
}

/// Barriers are reached by all invocations of a workgroup or by none. `skipped` tells of a kernel that looks at a status word which it
/// may set: invocations may read it before and after another workgroup does.
fn all_wait(barrier: Barrier, skipped: bool) -> Result<(), String> {
    match barrier {
        Barrier::Divergent => Err("some invocations of the workgroup do not reach a barrier".into()),
        Barrier::Uniform if skipped => Err("a kernel with barriers may not be skipped by a status word that it sets".into()),
        _ => Ok(()),
    }
}

fn check(caps: &DeviceCaps, threads: u32, shared_bytes: u32) -> Result<(), String> {
    if threads > caps.max_invocations || threads > caps.max_workgroup_size {
        return Err(format!("{threads} invocations in a workgroup are more than this device's {}", caps.max_invocations));
    }
    if shared_bytes > caps.max_workgroup_bytes {
        return Err(format!("{shared_bytes} bytes of workgroup memory are more than this device's {}", caps.max_workgroup_bytes));
    }
    Ok(())
}

impl Shader {
    /// Invocations of a workgroup.
    pub fn threads(&self) -> u32 {
        self.launch.threads
    }

    /// Bindings declared as arrays of `vec4`.
    pub fn vector(&self) -> &[bool] {
        &self.vector
    }

    /// The module of this body alone.
    pub fn variant(self, unit: &Unit) -> Variant {
        let (bindings, mut out) = header(unit, &self.vector, self.uses_symbols, &self.helpers);
        push_lines(&mut out, "", &self.globals);
        let folded = self.entry.iter().any(|l| l.contains("nwg"));
        out.push_str(&head(self.launch.threads, folded, self.subgroup));
        push_lines(&mut out, "  ", helpers::opening(&self.helpers).as_slice());
        push_lines(&mut out, "  ", &self.entry);
        push_lines(&mut out, "  ", &self.lines);
        out.push_str("}\n");
        let Geometry { name, threads, groups, .. } = self.launch;
        Variant { name, wgsl: out, workgroup: [threads, 1, 1], groups, bindings, scratch_bytes: 0, cooperative: false }
    }
}

/// The module of several bodies, of which each workgroup runs one. An error where they do not go together.
pub fn together(units: &[Unit], shaders: Vec<Shader>) -> Result<Variant, String> {
    let (unit, threads, caps) = (&units[0], shaders[0].launch.threads, &units[0].target.caps);
    let mut vector: Vec<Option<bool>> = vec![None; unit.bindings.len()];
    for (unit, shader) in units.iter().zip(&shaders) {
        for b in unit.buffers.iter().map(|b| b.binding) {
            if *vector[b].get_or_insert(shader.vector[b]) != shader.vector[b] {
                return Err("one reads by vectors what another reads by elements".into());
            }
        }
    }
    let vector: Vec<bool> = vector.into_iter().map(|v| v.unwrap_or(false)).collect();
    check(caps, threads, shaders.iter().map(|s| s.launch.shared_bytes).sum())?;
    let helpers: BTreeSet<String> = shaders.iter().flat_map(|s| s.helpers.iter().cloned()).collect();
    let (bindings, mut out) = header(unit, &vector, shaders.iter().any(|s| s.uses_symbols), &helpers);
    let subgroup = shaders.iter().find_map(|s| s.subgroup);
    let (declared, passed) = match subgroup {
        Some(_) => ("group: u32, lid: u32, sid: u32, sub: u32", "lid, sid, sub"),
        None => ("group: u32, lid: u32", "lid"),
    };
    let mut branches: Vec<String> = vec![];
    let (count, mut first) = (shaders.len(), 0i64);
    for (k, shader) in shaders.into_iter().enumerate() {
        let groups = shader.launch.groups.as_int().ok_or("a number of workgroups is not known")?;
        if shader.launch.threads != threads {
            return Err("workgroups are of different sizes".into());
        }
        let names: Vec<&str> = shader.globals.iter().filter_map(|g| g.strip_prefix("var<workgroup> ")?.split(':').next()).collect();
        // Workgroup variables of different bodies have the same names.
        let own = |text: &String| names.iter().fold(text.clone(), |t, n| t.replace(&format!("{n}["), &format!("part{k}_{n}[")));
        let globals = names.iter().zip(&shader.globals).map(|(n, g)| g.replace(&format!("{n}:"), &format!("part{k}_{n}:")));
        push_lines(&mut out, "", &globals.collect::<Vec<_>>());
        let lines: Vec<String> = shader.lines.iter().map(own).collect();
        out.push_str(&format!("\nfn part{k}({declared}) {{\n"));
        push_lines(&mut out, "  ", &lines);
        out.push_str("}\n");
        let offset = if first == 0 { "group".to_string() } else { format!("group - {first}u") };
        first += groups;
        branches.push(format!("if (group < {first}u) {{ part{k}({offset}, {passed}); }}"));
    }
    let mut em = Emitter::new(unit);
    let groups = Dim::int(first);
    let entry = entry(&mut em, &groups);
    out.push_str(&head(threads, entry.iter().any(|l| l.contains("nwg")), subgroup));
    push_lines(&mut out, "  ", helpers::opening(&helpers).as_slice());
    push_lines(&mut out, "  ", &entry);
    push_lines(&mut out, "  ", &[branches.join("\nelse ")]);
    out.push_str("}\n");
    Ok(Variant {
        name: format!("{count}-together-{threads}"),
        wgsl: out,
        workgroup: [threads, 1, 1],
        groups,
        bindings,
        scratch_bytes: 0,
        cooperative: false,
    })
}

/// The head of the entry point, and its first statement where invocations are numbered by subgroup, so that neighbors share one
/// whatever order the driver gives invocations.
fn head(threads: u32, folded: bool, subgroup: Option<u32>) -> String {
    let nwg = if folded { "@builtin(num_workgroups) nwg: vec3<u32>, " } else { "" };
    let (place, first) = match subgroup {
        Some(size) => ("@builtin(subgroup_id) sid: u32, @builtin(subgroup_invocation_id) sub: u32", format!("  let lid = sid * {size}u + sub;\n")),
        None => ("@builtin(local_invocation_index) lid: u32", String::new()),
    };
    format!("\n@compute @workgroup_size({threads})\nfn main(@builtin(workgroup_id) wid: vec3<u32>, {nwg}{place}) {{\n{first}")
}

fn push_lines(out: &mut String, indent: &str, lines: &[String]) {
    for part in lines.iter().flat_map(|line| line.split('\n')) {
        out.push_str(indent);
        out.push_str(part);
        out.push('\n');
    }
}

/// First statements of the entry point: the guard, the workgroup's number as `group`.
pub fn entry(em: &mut Emitter, groups: &Dim) -> Vec<String> {
    let (unit, caps) = (em.unit, &em.unit.target.caps);
    let mut entry = vec![];
    if unit.guarded {
        entry.push(if unit.sets_status { "if (atomicLoad(&status) != 0u) { return; }" } else { "if (status != 0u) { return; }" }.to_string());
    }
    if unit.skips {
        entry.push("if (skip != 0u) { return; }".into());
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
    if helpers::opening(used).is_some() {
        out.push_str(&format!("{}\n", helpers::OPAQUE_ZERO));
    }
    for text in helpers::texts(used, &unit.target.caps) {
        out.push('\n');
        out.push_str(&text);
        out.push('\n');
    }
    (bindings, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn barriers_that_some_miss_make_no_shader() {
        assert!(all_wait(Barrier::Divergent, false).unwrap_err().contains("do not reach a barrier"));
        assert!(all_wait(Barrier::Uniform, true).unwrap_err().contains("status word"));
        assert_eq!((all_wait(Barrier::Uniform, false), all_wait(Barrier::None, true)), (Ok(()), Ok(())));
    }
}
