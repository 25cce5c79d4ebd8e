//! The shaders of a plan as text for people, each with what it runs and where that came from.

use super::plan::Plan;
use std::fmt::Write;

/// Every distinct shader, headed by the dispatches that use it, their ops and source lines.
pub fn dump(plan: &Plan) -> String {
    let mut out = String::new();
    for (k, code) in plan.code.iter().enumerate() {
        let launches = || plan.launches.iter().filter(|l| l.code == Some(k as u32));
        let users = || launches().flat_map(|l| l.commands.iter().map(|&c| &plan.program.commands[c as usize]));
        let _ = writeln!(out, "// ---- shader {k}, {} launches", launches().count());
        for d in users().take(8) {
            let nest = &plan.program.kernels[d.kernel as usize];
            let lines: Vec<String> = nest.provenance.locations().iter().map(|l| l.to_string()).collect();
            let _ = writeln!(out, "// {:?} kernel {}: {} [{}] at {}", d.phase, d.kernel, d.label, nest.label, lines.join(", "));
        }
        if let Some(d) = users().next() {
            for line in plan.program.kernels[d.kernel as usize].to_string().lines() {
                let _ = writeln!(out, "//   {line}");
            }
        }
        for v in &code.variants {
            let _ = writeln!(out, "// variant {}: {} workgroups of {:?}, bindings {:?}", v.name, v.groups, v.workgroup, v.bindings);
            out.push_str(&v.wgsl);
            out.push('\n');
        }
    }
    out
}
