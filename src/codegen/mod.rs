//! Kernels plus capabilities in, WGSL out. Pure, deterministic, no `wgpu`.
//!
//! * Comes in: a [`Program`] and a [`Target`].
//! * Goes out: a [`Plan`]: the program with a shader for every distinct kernel, slot aliasing and guard.
//! * Forms: `pointwise` (one invocation for each element), `transpose` (tiles through workgroup memory where reads and writes
//!   run along different axes), `reduce` (rows with reductions or scans), `sort` (with the
//!   `network` of rows that a workgroup holds), `matmul` (tiles, from
//!   `shaders/matmul.wgsl.j2`). `emit` places statements in blocks, `value` spells statements, `spell` scalar functions,
//!   `combine` reductions, `exchange` partial results between invocations, `storage` element formats.
//! * Invariants: the same program and target give the same bytes; a shader does not depend on names, labels or lines; a
//!   buffer is bound once; whatever a device lacks is an error naming the capability.
//! * Must not know: graphs, ops, adapters.
//! * Add here: a form is a file with `generate(unit) -> Result<Variant, String>` and one line in `variant`; a scalar
//!   helper is a function of `shaders/helpers.wgsl`.

mod combine;
mod dump;
mod emit;
mod exchange;
mod helpers;
mod limits;
mod matmul;
mod module;
mod network;
mod plan;
mod pointwise;
mod reduce;
mod sort;
mod spell;
mod storage;
mod transpose;
mod unit;
mod value;
mod vector;

pub use dump::dump;
pub use plan::*;
pub use pointwise::packed_write_is_legal;

use crate::config::Target;
use crate::error::{Error, Result};
use crate::loop_ir::{Instr, Tag};
use crate::schedule::Program;
use std::collections::HashMap;
use unit::{Signature, Unit};

/// Spells every distinct kernel of a program in WGSL.
pub fn generate(program: Program, target: &Target) -> Result<Plan, Error> {
    if target.caps.is_cpu() {
        return Ok(Plan { program, target: target.clone(), code: vec![], dispatch_code: vec![] });
    }
    let (mut code, mut dispatch_code): (Vec<KernelCode>, Vec<u32>) = (vec![], vec![]);
    let mut by_signature: HashMap<Signature, u32> = HashMap::new();
    let mut by_text: HashMap<String, Vec<u32>> = HashMap::new();
    limits::check_program(&program, &target.caps)?;
    for dispatch in &program.commands {
        let signature = Signature::of(&program, dispatch);
        let at = match by_signature.get(&signature) {
            Some(&at) => at,
            None => {
                let nest = &program.kernels[dispatch.kernel as usize];
                let at_line =
                    |message: String| Error::Compile { message: format!("{}: {message}", nest.label), location: nest.provenance.line().cloned() };
                let unit = Unit::new(&program, dispatch, target).map_err(at_line)?;
                limits::check_unit(&unit).map_err(at_line)?;
                let kernel = KernelCode { variants: vec![variant(&unit).map_err(at_line)?] };
                let same = by_text.entry(kernel.variants[0].wgsl.clone()).or_default();
                let at = match same.iter().find(|&&k| code[k as usize] == kernel) {
                    Some(&k) => k,
                    None => {
                        code.push(kernel);
                        same.push(code.len() as u32 - 1);
                        code.len() as u32 - 1
                    }
                };
                by_signature.insert(signature, at);
                at
            }
        };
        dispatch_code.push(at);
    }
    Ok(Plan { program, target: target.clone(), code, dispatch_code })
}

/// The form that fits a nest.
fn variant(unit: &Unit) -> Result<Variant, String> {
    let has = |test: fn(&Instr) -> bool| unit.nest.body.iter().any(|s| test(&s.instr));
    if has(|i| matches!(i, Instr::Sort { .. })) {
        return sort::generate(unit);
    }
    if let Tag::Matmul { .. } = unit.nest.tag
        && let Some(tiled) = matmul::generate(unit)?
    {
        return Ok(tiled);
    }
    if has(|i| matches!(i, Instr::Reduce(..) | Instr::Scan(..))) {
        return reduce::generate(unit);
    }
    match transpose::plan(unit) {
        Some(tiling) => transpose::generate(unit, &tiling),
        None => pointwise::generate(unit),
    }
}
