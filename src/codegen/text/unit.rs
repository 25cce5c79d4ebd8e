//! One kernel to be spelled: a nest with the formats and bindings of its buffers.

use super::storage::{Element, Format, Kind};
use crate::codegen::plan::Binding;
use crate::config::Target;
use crate::forms::{Form, Operand};
use crate::loop_ir::{BufferId, Nest};
use crate::schedule::{Dispatch, Program};
use crate::types::{DType, Dim, Storage, Symbol};

/// How the kernel sees one of the nest's buffers.
#[derive(Clone, Debug)]
pub struct BufferUse {
    /// The tensor's name, for messages.
    pub name: String,
    /// Its elements, as forms see them.
    pub operand: Operand,
    /// Element format.
    pub format: Format,
    /// Position in [`Unit::bindings`].
    pub binding: usize,
}

/// A storage binding, shared by the buffers of one slot.
#[derive(Clone, Debug)]
pub struct BindingUse {
    /// The first of its buffers, counted over all dispatches of the launch.
    pub buffer: u32,
    /// Whether it is bound for writing, as it is where any of them is written.
    pub written: bool,
    /// Type of the array's elements.
    pub element: Element,
}

/// A nest, its buffers and what it is compiled for.
pub struct Unit<'a> {
    /// The nest.
    pub nest: &'a Nest,
    /// How a workgroup runs it.
    pub form: &'a Form,
    /// What it is compiled for.
    pub target: &'a Target,
    /// Symbols of the program, in order.
    pub symbols: &'a [Symbol],
    /// The nest's buffers.
    pub buffers: Vec<BufferUse>,
    /// Storage bindings, in order of their first buffer.
    pub bindings: Vec<BindingUse>,
    /// Skipped when the status word is set.
    pub guarded: bool,
    /// Skipped where a word of its own is not zero.
    pub skips: bool,
    /// May set the status word.
    pub sets_status: bool,
    /// For each value, whether it is element-level.
    pub level: Vec<bool>,
}

/// What distinguishes launches: kernels, formats, slot aliasing and the guard.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Signature(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Part {
    kernel: u32,
    guarded: bool,
    skips: bool,
    buffers: Vec<(Storage, DType, usize, Dim)>,
}

impl Signature {
    /// The signature of dispatches that run together.
    pub fn of(program: &Program, dispatches: &[&Dispatch]) -> Signature {
        let mut slots = vec![];
        let part = |dispatch: &&Dispatch| {
            let buffers = dispatch.buffers.iter().map(|b| {
                let placed = &program.buffers[b.0 as usize];
                let first = slots.iter().position(|s| *s == placed.slot).unwrap_or_else(|| {
                    slots.push(placed.slot);
                    slots.len() - 1
                });
                (placed.storage, placed.ty.dtype, first, placed.ty.numel())
            });
            Part { kernel: dispatch.kernel, guarded: dispatch.guarded, skips: dispatch.skip.is_some(), buffers: buffers.collect() }
        };
        Signature(dispatches.iter().map(part).collect())
    }
}

impl<'a> Unit<'a> {
    /// The unit of a dispatch.
    pub fn new(program: &'a Program, dispatch: &'a Dispatch, target: &'a Target) -> Result<Unit<'a>, String> {
        Ok(Unit::together(program, &[dispatch], target)?.remove(0))
    }

    /// The units of dispatches that one launch runs: bindings are numbered over all of them.
    pub fn together(program: &'a Program, dispatches: &[&'a Dispatch], target: &'a Target) -> Result<Vec<Unit<'a>>, String> {
        let mut slots = vec![];
        let mut bindings: Vec<BindingUse> = vec![];
        let (mut units, mut first) = (vec![], 0);
        for dispatch in dispatches {
            let nest = &program.kernels[dispatch.kernel as usize];
            let form =
                program.forms.get(dispatch.kernel as usize).ok_or("the program was scheduled for the interpreter: its kernels have no forms")?;
            let mut buffers = vec![];
            for (k, id) in dispatch.buffers.iter().enumerate() {
                let placed = &program.buffers[id.0 as usize];
                let format = Format::of(placed.ty.dtype, placed.storage, &target.caps).map_err(|e| format!("{}: {e}", placed.name))?;
                let is_written = nest.writes.iter().any(|w| w.buffer == BufferId(k as u32));
                let binding = match slots.iter().position(|s| *s == placed.slot) {
                    Some(at) => {
                        let shared: &mut BindingUse = &mut bindings[at];
                        if shared.element != format.element && !(shared.element.is_word() && format.element.is_word()) {
                            return Err(format!("{}: a slot holds elements of 32 bits and of another width in one dispatch", placed.name));
                        }
                        shared.written |= is_written;
                        at
                    }
                    None => {
                        slots.push(placed.slot);
                        bindings.push(BindingUse { buffer: first + k as u32, written: is_written, element: format.element });
                        bindings.len() - 1
                    }
                };
                let operand = Operand { dtype: placed.ty.dtype, storage: placed.storage, numel: placed.ty.numel() };
                buffers.push(BufferUse { name: placed.name.clone(), operand, format, binding });
            }
            let sets_status = nest.checks().next().is_some();
            let (symbols, level) = (&program.symbols[..], nest.element_level());
            let (guarded, skips) = (dispatch.guarded, dispatch.skip.is_some());
            units.push(Unit { nest, form, target, symbols, buffers, bindings: vec![], guarded, skips, sets_status, level });
            first += dispatch.buffers.len() as u32;
        }
        let sets_status = units.iter().any(|u| u.sets_status);
        for unit in &mut units {
            (unit.bindings, unit.sets_status) = (bindings.clone(), sets_status);
        }
        Ok(units)
    }

    /// The same buffers under another spelling of the nest.
    pub fn of<'b>(&'b self, nest: &'b Nest) -> Unit<'b> {
        let (buffers, bindings, level) = (self.buffers.clone(), self.bindings.clone(), nest.element_level());
        Unit { nest, buffers, bindings, level, ..*self }
    }

    /// The same with all buffers bound for writing: a driver moves loads of others past the work that is to hide them.
    pub fn pinned(&self) -> Unit<'_> {
        let mut unit = self.of(self.nest);
        unit.bindings.iter_mut().for_each(|b| b.written = true);
        unit
    }

    /// The buffer behind a nest's buffer id.
    pub fn buffer(&self, id: BufferId) -> Result<&BufferUse, String> {
        self.buffers.get(id.0 as usize).ok_or_else(|| format!("the dispatch lacks buffer {}", id.0))
    }

    /// The kind values of `dtype` are computed in.
    pub fn kind(&self, dtype: DType) -> Result<Kind, String> {
        Kind::of(dtype, &self.target.caps)
    }

    /// Whether a buffer that is written shares its slot with one that is read, or is itself read.
    pub fn is_in_place(&self) -> bool {
        let reads = self.nest.reads();
        self.nest.writes.iter().any(|w| {
            let at = self.buffers[w.buffer.0 as usize].binding;
            reads.iter().any(|r| self.buffers[r.0 as usize].binding == at)
        })
    }

    /// The plan's bindings, and the declarations of the module.
    pub fn declarations(&self, vector: &[bool], uses_symbols: bool) -> (Vec<Binding>, Vec<String>) {
        let (mut out, mut lines) = (vec![], vec![]);
        for (k, b) in self.bindings.iter().enumerate() {
            let access = if b.written { "read_write" } else { "read" };
            let element = if vector[k] { format!("vec4<{}>", b.element.wgsl()) } else { b.element.wgsl().to_string() };
            lines.push(format!("@group(0) @binding({k}) var<storage, {access}> b{k}: array<{element}>;"));
            out.push(if b.written { Binding::ReadWrite(b.buffer) } else { Binding::Read(b.buffer) });
        }
        if self.sets_status {
            lines.push(format!("@group(0) @binding({}) var<storage, read_write> status: atomic<u32>;", out.len()));
            out.push(Binding::StatusWrite);
        } else if self.guarded {
            lines.push(format!("@group(0) @binding({}) var<storage, read> status: u32;", out.len()));
            out.push(Binding::StatusRead);
        }
        if self.skips {
            lines.push(format!("@group(0) @binding({}) var<storage, read> skip: u32;", out.len()));
            out.push(Binding::Skip);
        }
        if uses_symbols {
            let words = self.symbols.len().div_ceil(4);
            lines.push(format!("@group(0) @binding({}) var<uniform> symbols: array<vec4<u32>, {words}>;", out.len()));
            out.push(Binding::Symbols);
        }
        (out, lines)
    }
}
