//! Kernels and their forms in, WGSL out. Pure, deterministic, no `wgpu`.
//!
//! * Comes in: a [`Program`] whose kernels have their forms, and a [`Target`].
//! * Goes out: a [`Plan`]: the program with a shader for every distinct launch: kernels, slot aliasing and guard.
//! * Two folders. `text/` spells and knows no form: `emit` places statements in blocks, `value` spells statements, `spell` scalar
//!   functions, `combine` reductions, `storage` element formats, `module` what stands around a function body. `forms/` has a file
//!   for each form of kernel; `shaders` says which commands share a shader.
//! * Invariants: nothing is chosen here, and a form that cannot be spelled is an error, never another form; the same program and
//!   target give the same bytes; a shader does not depend on names, labels or lines; a buffer is bound once; whatever a device
//!   lacks is an error naming the capability.
//! * Must not know: graphs, ops, adapters, what a kernel costs.
//! * Add here: the spelling of a form is `forms/<name>.rs` with `spell(&Unit, &..) -> Result<Shader, String>` and an arm in
//!   `forms::spell`; a scalar helper is a function of `shaders/helpers.wgsl`.

mod dump;
mod forms;
mod limits;
mod plan;
mod shaders;
mod text;

pub use dump::dump;
pub use limits::check_domains;
pub use plan::*;
pub use shaders::draft;

use crate::config::Target;
use crate::error::{Error, Result};
use crate::schedule::Program;
use shaders::Shaders;

/// Spells every distinct kernel of a program in WGSL.
pub fn generate(program: Program, target: &Target) -> Result<Plan, Error> {
    if target.caps.is_cpu() {
        return Ok(Plan { program, target: target.clone(), code: vec![], launches: vec![] });
    }
    let mut shaders = Shaders::new(&program, target);
    let mut launches = vec![];
    for run in program.runs() {
        if program.control(run.start).is_some() {
            launches.push(Launch { commands: vec![run.start as u32], code: None });
            continue;
        }
        launches.extend(shaders.launches(&run.map(|c| c as u32).collect::<Vec<_>>())?);
    }
    let code = shaders.code;
    Ok(Plan { program, target: target.clone(), code, launches })
}
