//! One kernel to be spelled: a nest with the formats and bindings of its buffers.

use super::plan::Binding;
use super::storage::{Element, Format, Kind};
use crate::config::Target;
use crate::loop_ir::{BufferId, Instr, Nest};
use crate::schedule::{Dispatch, Program};
use crate::types::{DType, Dim, Symbol};

/// How the kernel sees one of the nest's buffers.
#[derive(Clone, Debug)]
pub struct BufferUse {
    /// The tensor's name, for messages.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Element format.
    pub format: Format,
    /// Position in [`Unit::bindings`].
    pub binding: usize,
    /// Number of elements.
    pub numel: Dim,
}

/// A storage binding, shared by the buffers of one slot.
#[derive(Clone, Debug)]
pub struct BindingUse {
    /// The first of its buffers.
    pub buffer: u32,
    /// Whether any of them is written.
    pub written: bool,
    /// Type of the array's elements.
    pub element: Element,
}

/// A nest, its buffers and what it is compiled for.
pub struct Unit<'a> {
    /// The nest.
    pub nest: &'a Nest,
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
    /// May set the status word.
    pub sets_status: bool,
    /// For each value, whether it is element-level.
    pub level: Vec<bool>,
}

/// What distinguishes two dispatches of one kernel: formats, slot aliasing and the guard.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Signature {
    kernel: u32,
    guarded: bool,
    buffers: Vec<(crate::schedule::Storage, DType, usize, Dim)>,
}

impl Signature {
    /// The signature of a dispatch.
    pub fn of(program: &Program, dispatch: &Dispatch) -> Signature {
        let slots: Vec<_> = dispatch.buffers.iter().map(|b| program.buffers[b.0 as usize].slot).collect();
        let buffers = dispatch.buffers.iter().map(|b| {
            let placed = &program.buffers[b.0 as usize];
            let first = slots.iter().position(|s| *s == placed.slot).expect("the slot is in the list");
            (placed.storage, placed.ty.dtype, first, placed.ty.numel())
        });
        Signature { kernel: dispatch.kernel, guarded: dispatch.guarded, buffers: buffers.collect() }
    }
}

impl<'a> Unit<'a> {
    /// The unit of a dispatch.
    pub fn new(program: &'a Program, dispatch: &Dispatch, target: &'a Target) -> Result<Unit<'a>, String> {
        let nest = &program.kernels[dispatch.kernel as usize];
        let written: Vec<BufferId> = nest.writes.iter().map(|w| w.buffer).collect();
        let mut slots = vec![];
        let (mut buffers, mut bindings): (Vec<BufferUse>, Vec<BindingUse>) = (vec![], vec![]);
        for (k, id) in dispatch.buffers.iter().enumerate() {
            let placed = &program.buffers[id.0 as usize];
            let format = Format::of(placed.ty.dtype, placed.storage, &target.caps).map_err(|e| format!("{}: {e}", placed.name))?;
            let is_written = written.contains(&BufferId(k as u32));
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
                    bindings.push(BindingUse { buffer: k as u32, written: is_written, element: format.element });
                    bindings.len() - 1
                }
            };
            buffers.push(BufferUse { name: placed.name.clone(), dtype: placed.ty.dtype, format, binding, numel: placed.ty.numel() });
        }
        let sets_status = nest.body.iter().any(|s| matches!(s.instr, Instr::Bound { .. }));
        let level = nest.element_level();
        Ok(Unit { nest, target, symbols: &program.symbols, buffers, bindings, guarded: dispatch.guarded, sets_status, level })
    }

    /// The same buffers under another spelling of the nest.
    pub fn of<'b>(&'b self, nest: &'b Nest) -> Unit<'b> {
        let (buffers, bindings, level) = (self.buffers.clone(), self.bindings.clone(), nest.element_level());
        Unit { nest, target: self.target, symbols: self.symbols, buffers, bindings, guarded: self.guarded, sets_status: self.sets_status, level }
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
        if uses_symbols {
            let words = self.symbols.len().div_ceil(4);
            lines.push(format!("@group(0) @binding({}) var<uniform> symbols: array<vec4<u32>, {words}>;", out.len()));
            out.push(Binding::Symbols);
        }
        (out, lines)
    }
}
