//! Kernels plus capabilities in, WGSL out. Pure, deterministic, no `wgpu`.
//!
//! * Comes in: a [`Program`] and a [`Target`].
//! * Goes out: a [`Plan`]: the program with a shader for every distinct launch: kernels, slot aliasing and guard.
//! * Forms: `pointwise` (one invocation for each element), `transpose` (tiles through workgroup memory where reads and writes
//!   run along different axes), `reduce` (rows with reductions or scans), `sort` (with the
//!   `network` of rows that a workgroup holds), `matmul` (tiles, from
//!   `shaders/matmul.wgsl.j2`). `emit` places statements in blocks, `value` spells statements, `spell` scalar functions,
//!   `combine` reductions, `exchange` partial results between invocations, `storage` element formats.
//! * Invariants: the same program and target give the same bytes; a shader does not depend on names, labels or lines; a
//!   buffer is bound once; whatever a device lacks is an error naming the capability.
//! * Must not know: graphs, ops, adapters.
//! * Add here: a form is a file with `generate(unit) -> Result<Shader, String>` and one line in `shader`; a scalar
//!   helper is a function of `shaders/helpers.wgsl`.

mod combine;
mod dump;
mod emit;
mod exchange;
mod helpers;
mod layout;
mod limits;
mod matmul;
mod module;
mod network;
mod plan;
mod pointwise;
mod reduce;
mod scan;
mod sort;
mod spell;
mod storage;
mod team;
mod transpose;
mod unit;
mod value;
mod vector;

pub use dump::dump;
pub use limits::check_domains;
pub use plan::*;

use crate::config::Target;
use crate::error::{Error, Result};
use crate::loop_ir::{Instr, Nest};
use crate::schedule::{Dispatch, Program, SlotId};
use module::Shader;
use rustc_hash::FxHashMap;
use unit::{Signature, Unit};

/// Spells every distinct kernel of a program in WGSL.
pub fn generate(program: Program, target: &Target) -> Result<Plan, Error> {
    if target.caps.is_cpu() {
        return Ok(Plan { program, target: target.clone(), code: vec![], launches: vec![] });
    }
    limits::check_program(&program, &target.caps)?;
    let mut shaders = Shaders {
        program: &program,
        target,
        code: vec![],
        shapes: FxHashMap::default(),
        by_signature: FxHashMap::default(),
        by_text: FxHashMap::default(),
    };
    let mut launches = vec![];
    for run in program.runs() {
        launches.extend(shaders.launches(&run.map(|c| c as u32).collect::<Vec<_>>())?);
    }
    let code = shaders.code;
    Ok(Plan { program, target: target.clone(), code, launches })
}

/// Distinct shaders.
struct Shaders<'a> {
    program: &'a Program,
    target: &'a Target,
    code: Vec<KernelCode>,
    shapes: FxHashMap<Signature, Shape>,
    by_signature: FxHashMap<Signature, u32>,
    by_text: FxHashMap<String, Vec<u32>>,
}

/// Commands that go together: the size of their workgroups, and which slots they access by vectors.
#[derive(Default)]
struct Party {
    threads: u32,
    vectors: FxHashMap<SlotId, bool>,
    commands: Vec<u32>,
}

/// What decides which others a command goes with.
#[derive(Clone)]
struct Shape {
    threads: u32,
    /// One buffer of each binding, and whether it is accessed by vectors.
    vectors: Vec<(u32, bool)>,
}

impl<'a> Shaders<'a> {
    /// Launches of commands that may run together: those with workgroups of one size that read what they share in one way do.
    fn launches(&mut self, commands: &[u32]) -> Result<Vec<Launch>> {
        let mut parties: Vec<Party> = vec![];
        for &command in commands.iter().filter(|_| commands.len() > 1) {
            let shape = self.shape(command)?;
            let slot = |k: u32| self.program.buffers[self.dispatch(command).buffers[k as usize].0 as usize].slot;
            let vectors: Vec<(SlotId, bool)> = shape.vectors.iter().map(|&(buffer, v)| (slot(buffer), v)).collect();
            let agrees = |p: &&mut Party| p.threads == shape.threads && vectors.iter().all(|(slot, v)| p.vectors.get(slot).is_none_or(|w| w == v));
            match parties.iter_mut().find(agrees) {
                Some(party) => {
                    party.vectors.extend(vectors);
                    party.commands.push(command);
                }
                None => parties.push(Party { threads: shape.threads, vectors: vectors.into_iter().collect(), commands: vec![command] }),
            }
        }
        if parties.is_empty() {
            parties.extend(commands.iter().map(|&c| Party { commands: vec![c], ..Party::default() }));
        }
        let mut out = vec![];
        for Party { commands, .. } in parties {
            match self.together(&commands)? {
                Some(code) => out.push(Launch { commands, code }),
                None => {
                    for command in commands {
                        out.push(Launch { commands: vec![command], code: self.alone(command)? });
                    }
                }
            }
        }
        Ok(out)
    }

    fn dispatch(&self, command: u32) -> &'a Dispatch {
        &self.program.commands[command as usize]
    }

    /// How a command is spelled alone.
    fn shape(&mut self, command: u32) -> Result<Shape> {
        let signature = Signature::of(self.program, &[self.dispatch(command)]);
        if let Some(known) = self.shapes.get(&signature) {
            return Ok(known.clone());
        }
        let (unit, shader) = self.spelled(&[command])?.remove(0);
        let vectors = unit.bindings.iter().map(|b| b.buffer).zip(shader.vector().iter().copied()).collect();
        let shape = Shape { threads: shader.threads(), vectors };
        self.shapes.insert(signature, shape.clone());
        Ok(shape)
    }

    /// The shader of one command.
    fn alone(&mut self, command: u32) -> Result<u32> {
        let dispatch = self.dispatch(command);
        let signature = Signature::of(self.program, &[dispatch]);
        if let Some(&known) = self.by_signature.get(&signature) {
            return Ok(known);
        }
        let nest = &self.program.kernels[dispatch.kernel as usize];
        let unit = Unit::new(self.program, dispatch, self.target).map_err(|e| at_line(nest, e))?;
        limits::check_unit(&unit).map_err(|e| at_line(nest, e))?;
        let tiled = matmul::generate(&unit).map_err(|e| at_line(nest, e))?;
        let variant = match tiled {
            Some(variant) => variant,
            None => shader(&unit).map_err(|e| at_line(nest, e))?.variant(&unit),
        };
        Ok(self.add(signature, variant))
    }

    /// The shader of several commands; `None` where they do not go together.
    fn together(&mut self, commands: &[u32]) -> Result<Option<u32>> {
        if commands.len() == 1 {
            return Ok(None);
        }
        let dispatches: Vec<&Dispatch> = commands.iter().map(|&c| self.dispatch(c)).collect();
        let signature = Signature::of(self.program, &dispatches);
        if let Some(&known) = self.by_signature.get(&signature) {
            return Ok(Some(known));
        }
        let (units, shaders): (Vec<Unit>, Vec<Shader>) = self.spelled(commands)?.into_iter().unzip();
        if units.iter().any(|u| limits::check_unit(u).is_err()) {
            return Ok(None);
        }
        match module::together(&units, shaders) {
            Ok(variant) => Ok(Some(self.add(signature, variant))),
            Err(why) => {
                tracing::debug!(%why, "kernels run one by one");
                Ok(None)
            }
        }
    }

    /// Function bodies of commands whose bindings are numbered together.
    fn spelled(&self, commands: &[u32]) -> Result<Vec<(Unit<'a>, Shader)>> {
        let dispatches: Vec<&Dispatch> = commands.iter().map(|&c| self.dispatch(c)).collect();
        let nest = &self.program.kernels[dispatches[0].kernel as usize];
        let units = Unit::together(self.program, &dispatches, self.target).map_err(|e| at_line(nest, e))?;
        let spell = |unit: Unit<'a>| {
            let shader = shader(&unit).map_err(|e| at_line(unit.nest, e))?;
            Ok((unit, shader))
        };
        units.into_iter().map(spell).collect()
    }

    fn add(&mut self, signature: Signature, variant: Variant) -> u32 {
        let kernel = KernelCode { variants: vec![variant] };
        let same = self.by_text.entry(kernel.variants[0].wgsl.clone()).or_default();
        let at = match same.iter().find(|&&k| self.code[k as usize] == kernel) {
            Some(&k) => k,
            None => {
                self.code.push(kernel);
                same.push(self.code.len() as u32 - 1);
                self.code.len() as u32 - 1
            }
        };
        self.by_signature.insert(signature, at);
        at
    }
}

fn at_line(nest: &Nest, message: String) -> Error {
    Error::Compile { message: format!("{}: {message}", nest.label), location: nest.provenance.line().cloned() }
}

/// A nest in the form that fits it.
fn shader(unit: &Unit) -> Result<Shader, String> {
    let has = |test: fn(&Instr) -> bool| unit.nest.body.iter().any(|s| test(&s.instr));
    if has(|i| matches!(i, Instr::Sort { .. })) {
        return sort::generate(unit);
    }
    if has(|i| matches!(i, Instr::Reduce(..) | Instr::Scan(..))) {
        return reduce::generate(unit);
    }
    match transpose::plan(unit) {
        Some(tiling) => transpose::generate(unit, &tiling),
        None => pointwise::generate(unit),
    }
}
