//! The compiled program as data: kernels, commands, slots, border. Executed by `interp`, spelled in WGSL by `codegen`.

use crate::forms::Form;
use crate::graph::{InputRole, OutputRole};
use crate::loop_ir::{BufferId, Nest, Phase};
use crate::lower::Repeat;
use crate::types::{Bindings, Decision, Dim, Guard, HostTensor, Storage, Symbol, TensorType};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// A physical piece of memory. Several buffers share a slot when their lifetimes do not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlotId(pub u32);

/// What a slot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SlotKind {
    /// Written by the host before each step.
    Input,
    /// Parameters, buffers and optimizer state: live across steps.
    State,
    /// Written once, when the program is loaded.
    Constant,
    /// Lives within a step.
    Temporary,
    /// Read by the host after a step.
    Output,
}

/// A slot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slot {
    /// Bytes needed, a multiple of four for every binding of the symbols.
    pub bytes: Dim,
    /// What it is for.
    pub kind: SlotKind,
}

/// A logical buffer and where it lives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlacedBuffer {
    /// Name for people.
    pub name: String,
    /// Element type and logical shape, row-major.
    pub ty: TensorType,
    /// Element format.
    pub storage: Storage,
    /// Its slot; it starts at the slot's first byte.
    pub slot: SlotId,
}

/// Runs a kernel once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dispatch {
    /// Which kernel of the program.
    pub kernel: u32,
    /// The buffer behind each `BufferId` of the kernel's nest: the nest's `BufferId(k)` is `buffers[k]`.
    pub buffers: Vec<BufferId>,
    /// The graph it belongs to.
    pub phase: Phase,
    /// Skipped when the status word is set: everything that writes state.
    pub guarded: bool,
    /// Skipped where this word is not zero: everything in a branch that may not be taken, or in a loop that may have ended.
    #[serde(default)]
    pub skip: Option<BufferId>,
    /// Label and source lines, for people.
    pub label: String,
}

/// What a command that stands for control flow runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Control {
    /// How often the blocks behind the first run.
    pub repeat: Repeat,
    /// Commands of each block, in the order in which blocks run. The first runs once.
    pub blocks: Vec<Range<usize>>,
}

/// An input of the program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProgramInput {
    /// Unique name.
    pub name: String,
    /// What it is for.
    pub role: InputRole,
    /// Its buffer.
    pub buffer: BufferId,
}

/// An output of the program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProgramOutput {
    /// Unique name.
    pub name: String,
    /// What it is for. New values of state are not listed: they are in the state's own slot after the step.
    pub role: OutputRole,
    /// Its buffer.
    pub buffer: BufferId,
}

/// A range that elements of an input must lie in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InputCheck {
    /// The input's buffer.
    pub input: BufferId,
    /// The input's name.
    pub name: String,
    /// One row: loads the element, computes the index, checks it.
    pub body: Nest,
    /// The index is below this.
    pub size: Dim,
    /// Whether the element is the index itself.
    pub direct: bool,
    /// What is said of an element outside.
    pub message: String,
}

/// Bytes from which on an input is staged alone; smaller ones share a staging buffer.
pub const STAGED_ALONE: u64 = 1 << 20;
/// Staging buffers of an input that is staged alone: one that is filled, one whose copy waits for its turn behind a step.
pub const STAGING_BUFFERS: usize = 2;
/// Staging buffers that small inputs share: they are copied when their step begins, and steps are queued.
pub const SHARED_BUFFERS: usize = 3;
/// What wgpu keeps on a device for itself: zeros to clear memory with.
const WGPU_KEEPS: i64 = 512 << 10;

/// A scheduled program. Everything in it is data: it prints, serializes, compares and replays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// Name of the traced graph.
    pub name: String,
    /// Symbols whose values each run gives (taken from the shapes of its inputs).
    pub symbols: Vec<Symbol>,
    /// Logical buffers.
    pub buffers: Vec<PlacedBuffer>,
    /// Physical slots.
    pub slots: Vec<Slot>,
    /// Distinct kernels: nests whose buffers are numbered from 0 in order of first occurrence (reads, then writes).
    pub kernels: Vec<Nest>,
    /// How a workgroup runs each kernel; empty for the interpreter, which blocks nests by itself.
    #[serde(default)]
    pub forms: Vec<Form>,
    /// Dispatches in order: those of the step itself ([`Program::main`]), then those of the blocks that control flow runs.
    pub commands: Vec<Dispatch>,
    /// What commands whose kernels are tagged as control flow run, by the tag's number.
    #[serde(default)]
    pub controls: Vec<Control>,
    /// How many neighboring commands, which do not need one another, one launch may take; empty where each runs alone.
    #[serde(default)]
    pub together: Vec<u32>,
    /// Buffers that take over the memory of another in the command that writes them: the kernel reads its operand through the buffer
    /// that it writes.
    #[serde(default)]
    pub in_place: Vec<(BufferId, BufferId)>,
    /// Inputs of the border.
    pub inputs: Vec<ProgramInput>,
    /// Outputs of the border.
    pub outputs: Vec<ProgramOutput>,
    /// Contents of constant buffers.
    pub constants: Vec<(BufferId, HostTensor)>,
    /// What it assumes about the sizes of its inputs: checked before anything runs.
    #[serde(default)]
    pub guards: Vec<Guard>,
    /// What it assumes about the elements of its inputs: checked before they reach the device.
    #[serde(default)]
    pub input_checks: Vec<InputCheck>,
    /// Messages of the status word: code `k` means `checks[k - 1]`.
    pub checks: Vec<String>,
    /// What was decided, and why.
    pub decisions: Vec<Decision>,
}

impl Program {
    /// Bytes on the device once steps run: of all slots, of what the workgroups of a kernel share, and of what inputs are staged in. The
    /// interpreter, whose programs have no forms, has slots only.
    pub fn peak_bytes(&self) -> Dim {
        let slots = self.slots.iter().fold(Dim::int(0), |sum, slot| sum + &slot.bytes);
        let Some(shared) = self.forms.iter().map(Form::scratch_bytes).max() else { return slots };
        self.staging_bytes() + &slots + &Dim::int(shared as i64 + WGPU_KEEPS)
    }

    /// Bytes of all staging buffers; symbols count as expected where it depends on a size whether an input is staged alone.
    fn staging_bytes(&self) -> Dim {
        let given = self.inputs.iter().filter(|i| i.role.is_given());
        given.fold(Dim::int(0), |sum, input| {
            let buffer = &self.buffers[input.buffer.0 as usize];
            let bytes = buffer_bytes(&buffer.ty, buffer.storage);
            let count = if bytes.hint() >= STAGED_ALONE as i64 { STAGING_BUFFERS } else { SHARED_BUFFERS };
            sum + bytes * &Dim::int(count as i64)
        })
    }

    /// For messages: what a program takes at these sizes, and its largest tensors, each with what computes it and where.
    pub fn appetite(&self, peak: u64, bindings: &Bindings) -> String {
        format!("{}: its predicted peak is {peak} bytes, its largest tensors are {}", self.name, self.largest(bindings).join("; "))
    }

    fn largest(&self, bindings: &Bindings) -> Vec<String> {
        const SHOWN: usize = 3;
        let is_stored = |b: &usize| !self.slots[self.buffers[*b].slot.0 as usize].bytes.is(0);
        let mut stored: Vec<usize> = (0..self.buffers.len()).filter(is_stored).collect();
        let bytes = |b: usize| buffer_bytes(&self.buffers[b].ty, self.buffers[b].storage).eval(bindings).unwrap_or(i64::MAX);
        stored.sort_by_key(|&b| std::cmp::Reverse(bytes(b)));
        let writer = |b: usize| {
            let writes = |c: &&Dispatch| self.kernels[c.kernel as usize].writes.iter().any(|w| c.buffers[w.buffer.0 as usize].0 as usize == b);
            self.commands.iter().find(writes).map(|c| format!(" of {}", c.label)).unwrap_or_default()
        };
        stored.into_iter().take(SHOWN).map(|b| format!("{}: {}{}", self.buffers[b].name, self.buffers[b].ty, writer(b))).collect()
    }

    /// The commands of the step itself.
    pub fn main(&self) -> Range<usize> {
        let blocks = self.controls.iter().flat_map(|c| &c.blocks).map(|block| block.start);
        0..blocks.min().unwrap_or(self.commands.len())
    }

    /// The control flow that a command stands for.
    pub fn control(&self, command: usize) -> Option<&Control> {
        let kernel = self.commands.get(command)?.kernel;
        self.kernels[kernel as usize].control().map(|number| &self.controls[number])
    }

    /// Ranges of commands that one launch may take.
    pub fn runs(&self) -> Vec<Range<usize>> {
        if self.together.is_empty() {
            return (0..self.commands.len()).map(|i| i..i + 1).collect();
        }
        let mut first = 0;
        let run = |n: &u32| {
            first += *n as usize;
            first - *n as usize..first
        };
        self.together.iter().map(run).collect()
    }
}

/// Bytes of a buffer in its element format, rounded up to whole words.
pub fn buffer_bytes(ty: &TensorType, storage: Storage) -> Dim {
    let element = match storage {
        Storage::Native | Storage::Packed => ty.dtype.size() as i64,
        Storage::Word | Storage::Narrow => 4,
    };
    (ty.numel() * Dim::int(element)).ceil_div(&Dim::int(4)) * Dim::int(4)
}
