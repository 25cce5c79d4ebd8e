//! The distinct shaders of a program, and which commands share a launch.

use super::plan::{KernelCode, Launch, Plan, Variant};
use super::text::module::{self, Shader};
use super::text::unit::{Signature, Unit};
use super::{forms, limits};
use crate::config::Target;
use crate::error::{Error, Result};
use crate::loop_ir::Nest;
use crate::schedule::{Dispatch, Program, SlotId};
use rustc_hash::FxHashMap;

/// Distinct shaders.
pub struct Shaders<'a> {
    program: &'a Program,
    target: &'a Target,
    /// Each shader once.
    pub code: Vec<KernelCode>,
    shapes: FxHashMap<Signature, Shape>,
    by_signature: FxHashMap<Signature, u32>,
    by_text: FxHashMap<String, Vec<u32>>,
}

/// Commands that one launch runs: the size of their workgroups, and which slots they access by vectors.
#[derive(Default)]
struct LaunchGroup {
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
    /// None yet.
    pub fn new(program: &'a Program, target: &'a Target) -> Shaders<'a> {
        let (shapes, by_signature, by_text) = (FxHashMap::default(), FxHashMap::default(), FxHashMap::default());
        Shaders { program, target, code: vec![], shapes, by_signature, by_text }
    }

    /// Launches of commands that may run together: those with workgroups of one size that read what they share in one way do.
    pub fn launches(&mut self, commands: &[u32]) -> Result<Vec<Launch>> {
        let mut groups: Vec<LaunchGroup> = vec![];
        for &command in commands.iter().filter(|_| commands.len() > 1) {
            let shape = self.shape(command)?;
            let slot = |k: u32| self.program.buffers[self.dispatch(command).buffers[k as usize].0 as usize].slot;
            let vectors: Vec<(SlotId, bool)> = shape.vectors.iter().map(|&(buffer, v)| (slot(buffer), v)).collect();
            let agrees =
                |g: &&mut LaunchGroup| g.threads == shape.threads && vectors.iter().all(|(slot, v)| g.vectors.get(slot).is_none_or(|w| w == v));
            match groups.iter_mut().find(agrees) {
                Some(group) => {
                    group.vectors.extend(vectors);
                    group.commands.push(command);
                }
                None => groups.push(LaunchGroup { threads: shape.threads, vectors: vectors.into_iter().collect(), commands: vec![command] }),
            }
        }
        if groups.is_empty() {
            groups.extend(commands.iter().map(|&c| LaunchGroup { commands: vec![c], ..LaunchGroup::default() }));
        }
        let mut out = vec![];
        for LaunchGroup { commands, .. } in groups {
            match self.together(&commands)? {
                Some(code) => out.push(Launch { commands, code: Some(code) }),
                None => {
                    for command in commands {
                        out.push(Launch { commands: vec![command], code: Some(self.alone(command)?) });
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
        let variant = forms::module(&unit).map_err(|e| at_line(nest, e))?;
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
            let shader = forms::spell(&unit).map_err(|e| at_line(unit.nest, e))?;
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

/// A shader of a plan as a driver compiles it quickly, in place of the only variant of `plan.code[code]`; none where nothing is quicker.
pub fn draft(plan: &Plan, code: usize) -> Result<Option<Variant>> {
    let program = &plan.program;
    let launch = plan.launches.iter().find(|l| l.code == Some(code as u32));
    let (Some(Launch { commands, .. }), [whole]) = (launch, &plan.code[code].variants[..]) else { return Ok(None) };
    let dispatch = &program.commands[commands[0] as usize];
    if commands.len() > 1 || program.forms.is_empty() {
        return Ok(None);
    }
    let nest = &program.kernels[dispatch.kernel as usize];
    let unit = Unit::new(program, dispatch, &plan.target).map_err(|e| at_line(nest, e))?;
    let draft = forms::draft(unit).map_err(|e| at_line(nest, e))?;
    // The shaders of a plan may be edited; what is bound and launched differently is no draft of them.
    let replaces = |v: &Variant| {
        (&v.bindings, &v.groups, v.workgroup, v.scratch_bytes) == (&whole.bindings, &whole.groups, whole.workgroup, whole.scratch_bytes)
    };
    Ok(draft.filter(replaces))
}

fn at_line(nest: &Nest, message: String) -> Error {
    Error::Compile { message: format!("{}: {message}", nest.label), location: nest.provenance.line().cloned() }
}
