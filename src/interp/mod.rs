//! Executes a [`Program`] on the CPU: the embedded default where there is no GPU, and the oracle for generated kernels.
//!
//! * Comes in: a program, values of its symbols, contents of its inputs.
//! * Goes out: contents of its buffers, the status word.
//! * How: `bind` puts numbers for symbols and compiles every nest: `access` makes index expressions runs of constant stride,
//!   `kernel` makes bodies steps over registers, `template` and `attention` take products to the `gemm` crates. `exec` runs blocks of about
//!   1,024 lanes, one operation at a time, in parallel where that pays.
//!   A command that stands for control flow runs its blocks instead, as often as the program says, or until a word in memory is set.
//! * Invariants: results do not depend on the number of threads (partitions depend on sizes alone; no float is added by an
//!   atomic); a block reads all it needs before it writes; nothing is read where a mask is off; no thread pool exists before
//!   the first run that wants one.
//! * Must not know: graphs, WGSL, wgpu.
//! * Departure from the house rules: `raw.rs` holds unsafe code, because blocks of one kernel write disjoint but interleaved
//!   elements of one slot, and because the `gemm` crates take pointers. Every access is checked against the slot; the file argues the
//!   rest.
//! * Add here: a fast loop for a scalar function goes to `calls.rs`, its f32 approximation to `math.rs`; a tag to `template.rs`.

mod access;
mod attention;
mod calls;
mod exec;
mod kernel;
mod lanes;
mod math;
mod patch;
mod raw;
mod reduce;
mod registers;
mod template;

#[cfg(test)]
mod definition;
#[cfg(test)]
mod tests;

use crate::error::Error;
use crate::loop_ir::BufferId;
use crate::lower::Repeat;
use crate::schedule::{Control, Dispatch, PlacedBuffer, Program, SlotKind};
use crate::types::{Bindings, DType, HostTensor, Storage};
use exec::{Context, Pool};
use raw::{Line, Memory};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use template::Executable;

/// Kernels compiled for one set of sizes.
type Kernels = Arc<Vec<Executable>>;

/// Sizes for which compiled kernels are kept.
const KEPT: usize = 8;

/// A program with its memory.
pub struct Interpreter {
    program: Arc<Program>,
    bindings: Option<Bindings>,
    kernels: Kernels,
    cache: Vec<(Bindings, Kernels)>,
    slots: Vec<Vec<Line>>,
    slot_bytes: Vec<usize>,
    status: u32,
    dispatches: u64,
    pool: Pool,
}

impl Interpreter {
    /// Checks the program and, when it has no symbols, binds it. Starts no threads.
    pub fn new(program: Arc<Program>) -> Result<Interpreter, Error> {
        let faults: Vec<String> = program.kernels.iter().flat_map(crate::loop_ir::verify).collect();
        if !faults.is_empty() {
            return Err(Error::compile(format!("interp: unsound kernel: {}", faults.join("; "))));
        }
        let slots = program.slots.len();
        let mut out = Interpreter {
            bindings: None,
            kernels: Arc::new(vec![]),
            cache: vec![],
            slots: vec![vec![]; slots],
            slot_bytes: vec![usize::MAX; slots],
            status: 0,
            dispatches: 0,
            pool: Pool::default(),
            program,
        };
        if out.program.symbols.is_empty() {
            out.bind(&Bindings::new())?;
        }
        Ok(out)
    }

    /// Gives the symbols their values: compiles kernels for them and sizes the slots. Slots whose size stays keep their
    /// contents.
    pub fn bind(&mut self, bindings: &Bindings) -> Result<(), Error> {
        if self.bindings.as_ref() == Some(bindings) {
            return Ok(());
        }
        for symbol in &self.program.symbols {
            let value = bindings.get(&*symbol.name).ok_or_else(|| Error::Input(format!("symbol {} has no value", symbol.name)))?;
            if !(symbol.min..=symbol.max).contains(value) {
                return Err(Error::Input(format!("symbol {} is {value}, outside {}..={}", symbol.name, symbol.min, symbol.max)));
            }
        }
        self.kernels = self.compiled(bindings)?;
        let program = self.program.clone();
        self.size_slots(&program, bindings)?;
        self.bindings = Some(bindings.clone());
        for (buffer, tensor) in &program.constants {
            self.write(*buffer, tensor)?;
        }
        Ok(())
    }

    /// Memory for all slots, or an error before any of it is touched: a program may ask for more than there is.
    fn size_slots(&mut self, program: &Program, bindings: &Bindings) -> Result<(), Error> {
        let sizes = program.slots.iter().map(|slot| slot.bytes.eval(bindings)).collect::<Result<Vec<i64>, _>>().map_err(Error::Input)?;
        let changed: Vec<usize> = (0..sizes.len()).filter(|&i| usize::try_from(sizes[i]) != Ok(self.slot_bytes[i])).collect();
        let wanted = changed.iter().fold(0u64, |sum, &i| sum.saturating_add(u64::try_from(sizes[i]).unwrap_or(u64::MAX)));
        let refused = || Error::Platform(format!("{} takes {wanted} bytes of memory at these sizes, and there are not as many", program.name));
        // One reservation for all of it fails where the sum does not fit, even if each slot would.
        let total = usize::try_from(wanted).map_err(|_| refused())?;
        let mut whole = Vec::<u8>::new();
        whole.try_reserve_exact(total).map_err(|_| refused())?;
        drop(std::hint::black_box(whole));
        for i in changed {
            let bytes = usize::try_from(sizes[i]).map_err(|_| refused())?;
            self.slots[i] = raw::try_lines(bytes).ok_or_else(refused)?;
            self.slot_bytes[i] = bytes;
        }
        Ok(())
    }

    fn compiled(&mut self, bindings: &Bindings) -> Result<Kernels, Error> {
        if let Some((_, kernels)) = self.cache.iter().find(|(b, _)| b == bindings) {
            return Ok(kernels.clone());
        }
        let mut kernels = vec![];
        for nest in &self.program.kernels {
            let bound = access::bind_nest(nest, bindings).map_err(|e| Error::Input(format!("{}: {e}", nest.label)))?;
            kernels.push(template::compile(nest, &bound));
        }
        let kernels = Arc::new(kernels);
        if self.cache.len() == KEPT {
            self.cache.remove(0);
        }
        self.cache.push((bindings.clone(), kernels.clone()));
        Ok(kernels)
    }

    /// Fills a buffer. Dtype and shape must be its own; i64 values in a narrow buffer must fit 32 bits.
    pub fn write(&mut self, buffer: BufferId, tensor: &HostTensor) -> Result<(), Error> {
        let (placed, shape) = self.placed(buffer)?;
        if tensor.dtype() != placed.ty.dtype || tensor.shape() != shape {
            return Err(Error::Input(format!("{}: expected {}{shape:?}, got {}{:?}", placed.name, placed.ty.dtype, tensor.dtype(), tensor.shape())));
        }
        let dtype = placed.ty.dtype;
        let bytes = match (placed.storage, dtype) {
            (Storage::Narrow, DType::I64) => {
                let narrow = |x: i64| i32::try_from(x).map_err(|_| Error::Input(format!("{}: {x} does not fit 32 bits", placed.name)));
                as_bytes(tensor.to_i64().into_iter().map(narrow).collect::<Result<Vec<i32>, _>>()?)
            }
            (Storage::Word, DType::F16 | DType::BF16) => as_bytes(tensor.to_f32()),
            (Storage::Word, DType::Bool | DType::U8 | DType::I8 | DType::I16) => {
                as_bytes(tensor.to_i64().into_iter().map(|x| x as i32).collect::<Vec<_>>())
            }
            (_, DType::Bool) => tensor.bytes().iter().map(|&b| (b != 0) as u8).collect(),
            _ => tensor.bytes().to_vec(),
        };
        let slot = placed.slot.0 as usize;
        let name = placed.name.clone();
        let to: &mut [u8] = bytemuck::cast_slice_mut(&mut self.slots[slot]);
        if bytes.len() > to.len() {
            return Err(Error::Input(format!("{name}: {} bytes do not fit a slot of {}", bytes.len(), to.len())));
        }
        to[..bytes.len()].copy_from_slice(&bytes);
        Ok(())
    }

    /// The contents of a buffer.
    pub fn read(&self, buffer: BufferId) -> Result<HostTensor, Error> {
        let (placed, shape) = self.placed(buffer)?;
        let (dtype, n) = (placed.ty.dtype, shape.iter().product::<usize>());
        let bytes: &[u8] = bytemuck::cast_slice(&self.slots[placed.slot.0 as usize]);
        let format = lanes::format_of(dtype, placed.storage);
        let Some(bytes) = bytes.get(..n * format.size()) else {
            return Err(Error::Input(format!("{}: nothing stores it", placed.name)));
        };
        Ok(match (placed.storage, dtype) {
            (Storage::Narrow, DType::I64) => {
                HostTensor::from_i64(dtype, &shape, &words(bytes).map(|x| i32::from_le_bytes(x) as i64).collect::<Vec<_>>())
            }
            (Storage::Word, DType::F16 | DType::BF16) => {
                HostTensor::from_f64(dtype, &shape, &words(bytes).map(|x| f32::from_le_bytes(x) as f64).collect::<Vec<_>>())
            }
            (Storage::Word, DType::Bool | DType::U8 | DType::I8 | DType::I16) => {
                HostTensor::from_i64(dtype, &shape, &words(bytes).map(|x| i32::from_le_bytes(x) as i64).collect::<Vec<_>>())
            }
            _ => HostTensor::from_bytes(dtype, shape, bytes.to_vec()).map_err(Error::Input)?,
        })
    }

    /// Runs all commands in order with a fresh status word, and gives it: 0, or `k` when `checks[k - 1]` failed. From then
    /// on guarded dispatches are skipped.
    pub fn run(&mut self) -> Result<u32, Error> {
        self.reset_status();
        let main = self.program.main();
        self.run_all(main)?;
        Ok(self.status)
    }

    /// The status word becomes 0.
    pub fn reset_status(&mut self) {
        self.status = 0;
    }

    /// The status word.
    pub fn status(&self) -> u32 {
        self.status
    }

    /// Kernels run so far.
    pub fn dispatches(&self) -> u64 {
        self.dispatches
    }

    /// Runs one command, guarded or not, with the blocks that it stands for; the status word carries on.
    pub fn run_command(&mut self, index: usize) -> Result<(), Error> {
        let program = self.program.clone();
        let command = program.commands.get(index).ok_or_else(|| Error::Input(format!("the program has no command {index}")))?;
        if (command.guarded && self.status != 0) || command.skip.map_or(Ok(false), |word| self.is_set(word))? {
            return Ok(());
        }
        match program.control(index) {
            Some(control) => self.run_control(control),
            None => self.dispatch(command),
        }
    }

    fn run_all(&mut self, commands: Range<usize>) -> Result<(), Error> {
        commands.into_iter().try_for_each(|index| self.run_command(index))
    }

    fn run_control(&mut self, control: &Control) -> Result<(), Error> {
        let Some((first, others)) = control.blocks.split_first() else { return Ok(()) };
        self.run_all(first.clone())?;
        match &control.repeat {
            Repeat::Times(trips) => {
                let bindings = self.bindings.as_ref().ok_or_else(unbound)?;
                for _ in 0..trips.eval(bindings).map_err(Error::Input)? {
                    others.iter().try_for_each(|block| self.run_all(block.clone()))?;
                }
            }
            // A step that failed commits nothing any more, and would never end.
            Repeat::Until(word) => loop {
                others.iter().try_for_each(|block| self.run_all(block.clone()))?;
                if self.is_set(*word)? || self.status != 0 {
                    break;
                }
            },
        }
        Ok(())
    }

    /// Whether a word is not zero.
    fn is_set(&self, word: BufferId) -> Result<bool, Error> {
        Ok(self.read(word)?.bytes().iter().any(|b| *b != 0))
    }

    /// Fills temporary slots with bytes that are NaN in every float format.
    pub fn poison_temporaries(&mut self) {
        for (slot, lines) in self.program.slots.iter().zip(&mut self.slots) {
            if slot.kind == SlotKind::Temporary {
                bytemuck::cast_slice_mut::<Line, u8>(lines).fill(0xff);
            }
        }
    }

    fn placed(&self, buffer: BufferId) -> Result<(&PlacedBuffer, Vec<usize>), Error> {
        let placed = self.program.buffers.get(buffer.0 as usize).ok_or_else(|| Error::Input(format!("the program has no buffer {}", buffer.0)))?;
        let bindings = self.bindings.as_ref().ok_or_else(unbound)?;
        let size = |d: &crate::types::Dim| d.eval(bindings).map(|n| n as usize).map_err(Error::Input);
        Ok((placed, placed.ty.shape.0.iter().map(size).collect::<Result<_, _>>()?))
    }

    fn dispatch(&mut self, command: &Dispatch) -> Result<(), Error> {
        if self.bindings.is_none() {
            return Err(unbound());
        }
        self.dispatches += 1;
        let program = &self.program;
        // One view of each slot; buffers that share a slot share the view.
        let mut views: Vec<(usize, Memory<'_>)> = vec![];
        for (i, slot) in self.slots.iter_mut().enumerate() {
            if command.buffers.iter().any(|b| program.buffers[b.0 as usize].slot.0 as usize == i) {
                views.push((i, Memory::new(slot, raw::Format::U8)));
            }
        }
        let view = |b: &BufferId| {
            let placed = &program.buffers[b.0 as usize];
            let (_, memory) = views.iter().find(|(i, _)| *i == placed.slot.0 as usize).expect("every slot was viewed");
            memory.with_format(lanes::format_of(placed.ty.dtype, placed.storage))
        };
        let memories: Vec<Memory<'_>> = command.buffers.iter().map(view).collect();
        let failed = AtomicU32::new(u32::MAX);
        self.kernels[command.kernel as usize].run(&Context { memories: &memories, status: &failed, pool: &self.pool });
        let failed = failed.into_inner();
        if failed != u32::MAX && self.status == 0 {
            self.status = failed;
        }
        Ok(())
    }
}

fn unbound() -> Error {
    Error::Input("the program's symbols have no values yet".into())
}

fn as_bytes<T: bytemuck::NoUninit>(x: Vec<T>) -> Vec<u8> {
    bytemuck::cast_slice(&x).to_vec()
}

fn words(bytes: &[u8]) -> impl Iterator<Item = [u8; 4]> + '_ {
    bytes.chunks_exact(4).map(|c| c.try_into().expect("four bytes"))
}
