//! Grouping, order, the memory plan and the form of each kernel: loop nests in, a [`Program`] out.
//!
//! * Comes in: [`crate::lower::Lowered`], one nest per node over forward, backward and update.
//! * Goes out: [`Program`]: distinct kernels with their forms, dispatches, slots, border, decisions.
//! * Invariants: execution order respects every dependency, state is overwritten after its last other reader and after the
//!   last kernel that can set the status word; buffers of one dispatch share a slot only where they are the same buffer
//!   (a value that takes over memory is read through the buffer that is written, `Program::in_place`);
//!   the same input gives the same bytes. `check.rs` looks at every program of a debug build, without trust in what made it.
//!   Blocks of control flow are scheduled first, each as a program of its own, whose commands stand behind those of the program
//!   around it (`embed.rs`): a command stands for them and keeps its place.
//! * Must not know: graphs, WGSL, wgpu; what forms there are and what they cost (`forms/`).
//! * Add here: a rule of fusion goes to `fusion/`; an order of candidates to `grouping.rs`; what shares a launch to `join.rs`;
//!   what runs in chunks of rows to `chunk.rs`.

mod check;
mod choose;
mod chunk;
mod chunk_nest;
mod embed;
#[cfg(test)]
mod fixtures;
mod group;
mod grouping;
mod in_place;
mod input_checks;
mod join;
mod narrow;
mod order;
mod place;
mod program;
mod scan_in_turns;
mod search;
mod sequence;
mod sort_rows;
mod sort_scatter;
mod split;
mod split_scan;

pub use check::check_memory;
pub use choose::{alternatives, choose_forms, form_text, kernel_hashes};
pub use program::*;

use crate::config::{Config, Target};
use crate::error::Error;
use crate::fusion::{Kernel, Limits, Memo, stored_number, substitute_numbers};
use crate::loop_ir::{BodyBuilder, Buffer, BufferId, Instr, Nest, Number, Rebase, Val, factor_domain};
use crate::lower::{Lowered, Repeat};
use crate::types::{Decision, Storage, Symbol};
use chunk::{Bounds, Choice, Chunked};
use group::{Group, Turn};
use rustc_hash::FxHashMap;
use std::borrow::Cow;
use std::hash::{Hash, Hasher};

/// Schedules a lowered program for a target.
pub fn schedule(name: &str, lowered: Lowered, target: &Target, config: &Config) -> Result<Program, Error> {
    let bounds = Bounds::on(&target.caps);
    let chunks = if config.fuse && config.reuse { chunk::in_chunks(&lowered, bounds) } else { None };
    let Some((subject, chunked)) = chunks else { return Ok(complete(name, lowered, &[], target, config)?.0) };
    let Buffer { name: value, ty } = lowered.buffers[subject.0 as usize].clone();
    let whole = complete(name, lowered, &[], target, config);
    let (mut program, verdict, reason) = match chunked {
        Err(why) => (whole?.0, "whole".into(), why),
        Ok(Chunked { lowered, turns, count }) => {
            let Choice { program, in_chunks, reason } = chunk::better(whole, complete(name, lowered, &turns, target, config))?;
            (program, if in_chunks { format!("{count} chunks of rows") } else { "whole".into() }, reason)
        }
    };
    program.decisions.push(Decision { stage: "memory".into(), subject: format!("{value}: {ty}"), verdict, reason });
    Ok(program)
}

/// A program, and the predicted nanoseconds of a step. `turns` says which nests stay apart; none need to where it is empty.
fn complete(name: &str, lowered: Lowered, turns: &[Turn], target: &Target, config: &Config) -> Result<(Program, f64), Error> {
    let mut program = schedule_nests(name, lowered, turns, target, config)?;
    program.symbols = symbols(&program);
    program.input_checks = input_checks::input_checks(&program);
    let mut target = Cow::Borrowed(target);
    if program.commands.iter().any(|c| c.skip.is_some()) {
        // Kernels of blocks that may be skipped bind a word more.
        target.to_mut().caps.max_storage_buffers -= 1;
    }
    let time = choose_forms(&mut program, &target);
    Ok((program, time))
}

/// Everything but the form of each kernel.
fn schedule_nests(name: &str, mut lowered: Lowered, turns: &[Turn], target: &Target, config: &Config) -> Result<Program, Error> {
    let blocks = embed::schedule_blocks(&mut lowered, &|lowered| schedule_nests(name, lowered, &[], target, config))?;
    let skip = lowered.skip;
    let mut nests = std::mem::take(&mut lowered.nests);
    if config.fuse {
        substitute_numbers_everywhere(&mut nests, &lowered);
    }
    if !target.caps.i64 {
        narrow::check_narrowed(&mut nests, &mut lowered);
    }
    let mut memo = Memo::default();
    let kernels = split::split_nests(nests, &mut lowered.buffers, target, &mut memo);
    let group = |(position, (at, kernel)): (usize, (usize, _))| {
        let turn = turns.get(at).copied().unwrap_or_default();
        Group { kernel, phase: lowered.phases[at], commit: lowered.commits[at], position, turn }
    };
    let groups = kernels.into_iter().enumerate().map(group).collect();
    let mut limits = Limits::of(&target.caps, &target.model);
    // The word that skips a block is bound by each of its kernels.
    limits.buffers = limits.buffers.saturating_sub(skip.is_some() as usize).max(1);
    let (groups, decisions) = grouping::group(groups, &lowered, limits, config.fuse, &mut memo);
    let (mut groups, together) = if config.fuse { join_small(groups, &lowered, target) } else { (groups, vec![]) };
    let in_place = if config.reuse { in_place::take_over(&mut groups, &together, &lowered, &mut memo) } else { vec![] };
    let (buffers, slots) = place::place(&mut lowered, &groups, &together, &in_place, target, config).map_err(Error::compile)?;
    check_bindings(&buffers, &slots, target)?;
    let checked = groups.iter().any(|g| g.kernel.structure.checks);
    let mut program = Program {
        name: name.into(),
        buffers,
        slots,
        decisions,
        in_place,
        constants: lowered.constants,
        checks: lowered.checks,
        ..Program::default()
    };
    program.inputs = lowered.inputs.into_iter().map(|b| ProgramInput { name: b.name, role: b.role, buffer: b.buffer }).collect();
    program.outputs = lowered.outputs.into_iter().map(|b| ProgramOutput { name: b.name, role: b.role, buffer: b.buffer }).collect();
    program.together = together;
    // Kernels by their structure before the domain takes its final form, and after.
    let mut by_structure: FxHashMap<(u32, Vec<Storage>), u32> = FxHashMap::default();
    let mut kernels = Kernels::default();
    for group in groups {
        let Kernel { structure, buffers, label, provenance } = group.kernel;
        let formats: Vec<Storage> = buffers.iter().map(|b| program.buffers[b.0 as usize].storage).collect();
        let id = match by_structure.get(&(structure.id, formats.clone())) {
            Some(id) => *id,
            None => {
                let nest = Nest { label: label.to_string().into(), provenance: provenance.clone(), ..structure.nest.clone() };
                let kernel = final_form(&if config.mixed_precision.is_some() { hand_on_floats(&nest) } else { nest });
                let id = kernels.number(&mut program.kernels, kernel, formats.clone());
                by_structure.insert((structure.id, formats), id);
                id
            }
        };
        let lines: Vec<String> = provenance.locations().iter().take(3).map(|l| l.to_string()).collect();
        let label = if lines.is_empty() { label.to_string() } else { format!("{label} ({})", lines.join(", ")) };
        program.commands.push(Dispatch {
            kernel: id,
            buffers: buffers.into_vec(),
            phase: group.phase,
            guarded: group.commit && checked,
            skip,
            label,
        });
    }
    let faults = if cfg!(debug_assertions) { check_memory(&program) } else { vec![] };
    assert!(faults.is_empty(), "schedule made an unsound program of {name}:\n{}", faults.join("\n"));
    embed::embed(&mut program, blocks, &mut kernels);
    Ok(program)
}

/// Small kernels beside one another, where the target has launches.
fn join_small(groups: Vec<Group>, lowered: &Lowered, target: &Target) -> (Vec<Group>, Vec<u32>) {
    if target.caps.is_cpu() {
        return (groups, vec![]);
    }
    let bytes: Vec<i64> = lowered.buffers.iter().map(|b| b.ty.numel().hint().saturating_mul(b.ty.dtype.size() as i64)).collect();
    let mut state = vec![false; bytes.len()];
    lowered.inputs.iter().for_each(|i| state[i.buffer.0 as usize] = true);
    let facts = join::Facts { bytes: &bytes, state: &state };
    let mut caps = target.caps.clone();
    caps.max_storage_buffers -= lowered.skip.is_some() as u32;
    join::join(groups, &facts, &caps, &target.model)
}

/// Numbers in the place of loads of buffers that hold nothing else. Nests that nobody reads any more are dropped with the others
/// of their kind.
fn substitute_numbers_everywhere(nests: &mut [Nest], lowered: &Lowered) {
    let mut numbers: FxHashMap<BufferId, Number> = nests
        .iter()
        .filter_map(stored_number)
        .filter(|(buffer, _, dtype)| lowered.buffers[buffer.0 as usize].ty.dtype == *dtype)
        .map(|(buffer, number, _)| (buffer, number))
        .collect();
    // State holds its number after the step, not before.
    lowered.inputs.iter().for_each(|i| {
        numbers.remove(&i.buffer);
    });
    nests.iter_mut().for_each(|nest| substitute_numbers(nest, &numbers));
}

/// The kernel of mixed precision, in which what is converted to a half and back is handed on as it was: it is rounded where it is stored. What
/// matrix units multiply stays a half.
fn hand_on_floats(nest: &Nest) -> Nest {
    let (mut body, mut to) = (BodyBuilder::default(), Rebase::in_place());
    let factors = nest.tag.values();
    for v in nest.values() {
        match before_rounding(nest, v).filter(|_| !factors.contains(&v)) {
            Some(before) => to.set(v, to.value(before)),
            None => drop(to.copy(&mut body, nest, v)),
        }
    }
    to.finish(body, nest)
}

/// What a value is that was converted to a half and back.
fn before_rounding(nest: &Nest, v: Val) -> Option<Val> {
    let from = |v: Val| if let Instr::Cast(from) = nest.stmt(v).instr { Some(from) } else { None };
    let half = from(v).filter(|half| nest.dtype(*half).is_half())?;
    from(half).filter(|before| nest.dtype(*before) == nest.dtype(v))
}

/// The kernel in its final domain.
fn final_form(nest: &Nest) -> Nest {
    let kernel = factor_domain(nest.clone());
    let faults = if cfg!(debug_assertions) { crate::loop_ir::verify(&kernel) } else { vec![] };
    assert!(faults.is_empty(), "schedule made an unsound kernel:\n{}\n{kernel}", faults.join("\n"));
    kernel
}

/// The distinct kernels of a program, by number.
#[derive(Default)]
struct Kernels(FxHashMap<Identity, u32>);

impl Kernels {
    /// The number of a kernel, which joins the others where it is new.
    fn number(&mut self, kernels: &mut Vec<Nest>, kernel: Nest, formats: Vec<Storage>) -> u32 {
        let next = kernels.len() as u32;
        let id = *self.0.entry(Identity { kernel: kernel.clone(), formats }).or_insert(next);
        if id == next {
            kernels.push(kernel);
        }
        id
    }
}

/// What makes a kernel the same as another: everything but its label and lines.
struct Identity {
    kernel: Nest,
    formats: Vec<Storage>,
}

impl Identity {
    fn key(&self) -> impl PartialEq + Hash + '_ {
        let Nest { rows, cols, inner, body, writes, tag, .. } = &self.kernel;
        (rows, cols, inner, body, writes, tag, &self.formats)
    }
}

impl Eq for Identity {}

impl PartialEq for Identity {
    fn eq(&self, other: &Identity) -> bool {
        self.key() == other.key()
    }
}

impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

fn symbols(program: &Program) -> Vec<Symbol> {
    let mut out = vec![];
    for buffer in &program.buffers {
        buffer.ty.shape.0.iter().for_each(|d| d.collect_symbols(&mut out));
    }
    for control in &program.controls {
        if let Repeat::Times(trips) = &control.repeat {
            trips.collect_symbols(&mut out);
        }
    }
    out.sort();
    out
}

/// No tensor that is stored may exceed what one binding holds. A slot of no bytes is one of tensors that fusion removed.
fn check_bindings(buffers: &[PlacedBuffer], slots: &[Slot], target: &Target) -> Result<(), Error> {
    for b in buffers.iter().filter(|b| slots.get(b.slot.0 as usize).is_some_and(|s| !s.bytes.is(0))) {
        let bytes = buffer_bytes(&b.ty, b.storage).range().0;
        let limit = target.caps.max_binding_bytes.min(target.caps.max_buffer_bytes);
        if bytes > 0 && bytes as u64 > limit {
            return Err(Error::Platform(format!(
                "{} of type {} takes {bytes} bytes, but one binding of {} holds {limit}",
                b.name, b.ty, target.caps.name
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Builder, Graph, InputRole, OutputRole};
    use crate::loop_ir::Phase;
    use crate::lower::lower;
    use crate::ops::ReduceKind;
    use crate::scalar::ScalarFn;
    use crate::types::{DType, TensorType};

    fn program(graph: &Graph, target: &Target) -> Program {
        let config = Config::default();
        let lowered = lower(&[(Phase::Forward, graph)], &config).unwrap();
        schedule("test", lowered, target, &config).unwrap()
    }

    fn layer_norm() -> Graph {
        let mut b = Builder::new("ln");
        let x = b.input("x", InputRole::Input, TensorType::new(DType::F32, (4, 8, 32))).unwrap();
        let w = b.input("w", InputRole::Parameter, TensorType::new(DType::F32, 32)).unwrap();
        let sum = b.reduce(ReduceKind::Sum, x, &[2], true).unwrap();
        let mean = b.scale(sum, 1.0 / 32.0).unwrap();
        let centered = b.sub(x, mean).unwrap();
        let square = b.mul(centered, centered).unwrap();
        let var = b.reduce(ReduceKind::Sum, square, &[2], true).unwrap();
        let std = b.scalar(ScalarFn::Rsqrt, &[var]).unwrap();
        let y = b.mul(centered, std).unwrap();
        let y = b.mul(y, w).unwrap();
        b.output("y", OutputRole::User, y);
        b.finish()
    }

    #[test]
    fn a_layer_norm_row_is_one_kernel() {
        let p = program(&layer_norm(), &Target::webgpu_default());
        assert_eq!(p.commands.len(), 1, "{}", p.kernels.iter().map(|k| k.to_string()).collect::<Vec<_>>().join("\n"));
        assert_eq!(p.kernels[0].writes.len(), 1);
    }

    #[test]
    fn dear_values_are_not_computed_many_times_over() {
        for (sines, commands) in [(1, 1), (40, 2)] {
            let mut b = Builder::new("broadcast");
            let x = b.input("x", InputRole::Input, TensorType::new(DType::F32, (8, 1))).unwrap();
            let y = b.input("y", InputRole::Input, TensorType::new(DType::F32, (8, 64))).unwrap();
            let dear = (0..sines).fold(x, |x, _| b.scalar(ScalarFn::Sin, &[x]).unwrap());
            let product = b.mul(dear, y).unwrap();
            b.output("y", OutputRole::User, product);
            assert_eq!(program(&b.finish(), &Target::webgpu_default()).commands.len(), commands, "{sines} sines");
        }
    }

    #[test]
    fn a_reader_of_a_part_does_not_store_the_whole() {
        let mut b = Builder::new("parts");
        let x = b.input("x", InputRole::Input, TensorType::new(DType::F32, (7, 5))).unwrap();
        let y = b.input("y", InputRole::Input, TensorType::new(DType::F32, (7, 5))).unwrap();
        let product = b.mul(x, y).unwrap();
        let product = b.scalar(ScalarFn::Sin, &[product]).unwrap();
        for (name, start, end) in [("head", 0, 5), ("tail", 5, 7)] {
            let part = b.slice(product, 0, start, end, 1).unwrap();
            b.output(name, OutputRole::User, part);
        }
        let p = program(&b.finish(), &Target::webgpu_default());
        let elements = |buffer: crate::loop_ir::BufferId| p.buffers[buffer.0 as usize].ty.numel();
        for command in &p.commands {
            let kernel = &p.kernels[command.kernel as usize];
            for w in &kernel.writes {
                assert_eq!(elements(command.buffers[w.buffer.0 as usize]), kernel.row_count(), "{kernel}");
            }
        }
    }

    #[test]
    fn attention_layout_views_cost_nothing() {
        let mut b = Builder::new("attn");
        let (n, t, h, d) = (2, 16, 4, 8);
        let x = b.input("x", InputRole::Input, TensorType::new(DType::F32, (n * t, 3 * h * d))).unwrap();
        let x = b.reshape(x, (n, t, 3, h, d)).unwrap();
        let x = b.permute(x, &[2, 0, 3, 1, 4]).unwrap();
        let part = |b: &mut Builder, k: i64| {
            let s = b.op(crate::ops::Slice { dim: 0, start: k.into(), end: (k + 1).into(), step: 1 }, &[x]).unwrap();
            b.reshape(s, (n, h, t, d)).unwrap()
        };
        let (q, k, v) = (part(&mut b, 0), part(&mut b, 1), part(&mut b, 2));
        let scores = b.op(crate::ops::Matmul { transpose_a: false, transpose_b: true }, &[q, k]).unwrap();
        let scores = b.scale(scores, 0.35).unwrap();
        let max = b.reduce(ReduceKind::Max, scores, &[3], true).unwrap();
        let e = b.sub(scores, max).unwrap();
        let e = b.scalar(ScalarFn::Exp, &[e]).unwrap();
        let sum = b.reduce(ReduceKind::Sum, e, &[3], true).unwrap();
        let p = b.div(e, sum).unwrap();
        let y = b.matmul(p, v).unwrap();
        let y = b.permute(y, &[0, 2, 1, 3]).unwrap();
        let y = b.reshape(y, (n * t, h * d)).unwrap();
        let bias = b.input("b", InputRole::Parameter, TensorType::new(DType::F32, h * d)).unwrap();
        let y = b.add(y, bias).unwrap();
        b.output("y", OutputRole::User, y);
        let p = program(&b.finish(), &Target::webgpu_default());
        for k in &p.kernels {
            println!("{k}");
        }
        assert_eq!(p.commands.len(), 3);
    }
}
