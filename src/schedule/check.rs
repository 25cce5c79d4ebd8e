//! An independent look at a finished program: whether every kernel finds in memory what it is to read. It follows the bytes from
//! command to command, and knows nothing of how order and slots were chosen.
//!
//! (The idea is regalloc2's checker: symbolic execution of the result instead of trust in the allocator.)

use super::program::{Dispatch, Program};
use crate::loop_ir::BufferId;
use crate::types::{Dim, Storage};
use std::collections::{BTreeMap, BTreeSet};

/// Everything that is wrong with the order and the memory of a program; empty when it is sound:
///
/// * a buffer fits its slot;
/// * a command reads only buffers that hold their value: given at the start or written before, and not overwritten since by
///   another buffer of the slot;
/// * what takes over memory is read, in the command that writes it, for what was there;
/// * buffers of one launch share no slot, and commands of one launch do not touch what another of them writes;
/// * a buffer is complete before another command reads it, and what is given stays as it was until its last reader is done;
/// * every command is in a launch;
/// * outputs, constants and state hold their values at the end;
/// * whatever can set the status word comes before every write of state, and those are guarded.
///
/// Blocks of control flow were programs of their own when they were looked at; here a command stands for them.
pub fn check_memory(program: &Program) -> Vec<String> {
    let mut walk = Walk::new(program);
    for b in &program.buffers {
        let slot = &program.slots[b.slot.0 as usize];
        if !slot.bytes.is(0) && !fits(&b.ty.numel(), b.ty.dtype.size() as i64, b.storage, &slot.bytes) {
            walk.faults.push(format!("{} of type {} does not fit the {} bytes of its slot", b.name, b.ty, slot.bytes));
        }
    }
    let main = program.main();
    for launch in program.runs().into_iter().take_while(|run| run.start < main.end) {
        walk.launch(&program.commands[launch]);
    }
    if walk.at != main.end {
        walk.faults.push(format!("launches take {} of {} commands", walk.at, main.end));
    }
    walk.end();
    walk.faults
}

/// Whether so many elements take at most those bytes.
fn fits(elements: &Dim, size: i64, storage: Storage, bytes: &Dim) -> bool {
    let size = if matches!(storage, Storage::Word | Storage::Narrow) { 4 } else { size };
    (elements.clone() * Dim::int(size)).known_le(bytes)
}

/// What the memory holds.
struct Walk<'a> {
    program: &'a Program,
    /// For each slot the buffers whose values are in it.
    held: Vec<BTreeSet<u32>>,
    /// Buffers that exist before the step.
    given: BTreeSet<u32>,
    /// Buffers read so far, and whoever read them.
    read: BTreeMap<u32, Vec<usize>>,
    written: BTreeSet<u32>,
    /// Number of the command at hand.
    at: usize,
    /// Whether there are checks, and whether what is given has been written.
    checked: bool,
    committed: bool,
    faults: Vec<String>,
}

impl<'a> Walk<'a> {
    fn new(program: &'a Program) -> Walk<'a> {
        let given = program.inputs.iter().map(|i| i.buffer.0).chain(program.constants.iter().map(|(b, _)| b.0));
        let given: BTreeSet<u32> = given.collect();
        let mut held = vec![BTreeSet::new(); program.slots.len()];
        given.iter().for_each(|&b| {
            held[program.buffers[b as usize].slot.0 as usize].insert(b);
        });
        let checked = program.kernels.iter().any(|k| k.checks().next().is_some());
        let (read, written) = (BTreeMap::new(), BTreeSet::new());
        Walk { program, held, given, read, written, at: 0, checked, committed: false, faults: vec![] }
    }

    fn name(&self, b: u32) -> &'a str {
        &self.program.buffers[b as usize].name
    }

    fn slot(&self, b: u32) -> usize {
        self.program.buffers[b as usize].slot.0 as usize
    }

    fn checks(&self, c: &Dispatch) -> bool {
        self.program.kernels[c.kernel as usize].checks().next().is_some()
    }

    fn fault(&mut self, c: &Dispatch, what: String) {
        self.faults.push(format!("command {} ({}): {what}", self.at, c.label));
    }

    /// What a command reads and what it writes.
    fn touched(&self, c: &Dispatch) -> (BTreeSet<u32>, BTreeSet<u32>) {
        let kernel = &self.program.kernels[c.kernel as usize];
        let global = |local: BufferId| c.buffers[local.0 as usize].0;
        (kernel.reads().into_iter().map(global).collect(), kernel.writes.iter().map(|w| global(w.buffer)).collect())
    }

    fn launch(&mut self, commands: &[Dispatch]) {
        let touched: Vec<_> = commands.iter().map(|c| self.touched(c)).collect();
        let mut owners: BTreeMap<usize, u32> = BTreeMap::new();
        for (c, (reads, writes)) in commands.iter().zip(&touched) {
            for &b in reads.union(writes) {
                let owner = *owners.entry(self.slot(b)).or_insert(b);
                if owner != b {
                    self.fault(c, format!("{} and {} are in one slot", self.name(owner), self.name(b)));
                }
            }
        }
        self.check_neighbors(commands, &touched);
        for (c, (reads, writes)) in commands.iter().zip(&touched) {
            self.reads(c, reads);
            self.writes(c, writes);
            self.at += 1;
        }
    }

    /// Commands of one launch run in any order.
    fn check_neighbors(&mut self, commands: &[Dispatch], touched: &[(BTreeSet<u32>, BTreeSet<u32>)]) {
        for (i, c) in commands.iter().enumerate() {
            for (reads, writes) in touched.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, t)| t) {
                if let Some(&b) = touched[i].1.iter().find(|b| reads.contains(b) || writes.contains(b)) {
                    self.fault(c, format!("another command of its launch touches {}, which it writes", self.name(b)));
                }
            }
        }
    }

    fn reads(&mut self, c: &Dispatch, reads: &BTreeSet<u32>) {
        for &b in reads {
            let held = &self.held[self.slot(b)];
            let taken_over = || self.program.in_place.iter().any(|(to, from)| to.0 == b && held.contains(&from.0));
            if !held.contains(&b) && !taken_over() {
                self.fault(c, format!("reads {}, which is not there", self.name(b)));
            }
            if self.given.contains(&b) && self.written.contains(&b) {
                self.fault(c, format!("reads {} after its new value was written", self.name(b)));
            }
            self.read.entry(b).or_default().push(self.at);
        }
    }

    fn writes(&mut self, c: &Dispatch, writes: &BTreeSet<u32>) {
        for &b in writes {
            let early = self.read.get(&b).is_some_and(|readers| readers.iter().any(|r| *r != self.at));
            if early && !self.given.contains(&b) {
                self.fault(c, format!("writes {}, which was read before", self.name(b)));
            }
            if self.given.contains(&b) {
                self.committed = true;
                if self.checked && !c.guarded {
                    self.fault(c, format!("writes {} whatever the checks say", self.name(b)));
                }
            }
            self.written.insert(b);
            let slot = self.slot(b);
            self.held[slot].retain(|held| *held == b);
            self.held[slot].insert(b);
        }
        if self.checks(c) && self.committed {
            self.fault(c, "checks after state was written".into());
        }
    }

    fn end(&mut self) {
        let outputs = self.program.outputs.iter().map(|o| o.buffer.0);
        let constants = self.program.constants.iter().map(|(b, _)| b.0);
        let state = self.program.inputs.iter().map(|i| i.buffer.0);
        for b in outputs.chain(constants).chain(state).collect::<BTreeSet<u32>>() {
            if !self.held[self.slot(b)].contains(&b) {
                self.faults.push(format!("{} is not there at the end", self.name(b)));
            }
        }
        for (b, _) in &self.program.constants {
            if self.written.contains(&b.0) {
                self.faults.push(format!("the constant {} is written", self.name(b.0)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Target};
    use crate::graph::{Builder, InputRole, OutputRole};
    use crate::loop_ir::Phase;
    use crate::lower::lower;
    use crate::ops::ReduceKind;
    use crate::scalar::ScalarFn;
    use crate::schedule::{SlotKind, schedule};
    use crate::types::{DType, TensorType};

    /// Products whose operands live and die, rows at checked places, and state that is replaced.
    fn program() -> Program {
        let mut b = Builder::new("memory");
        let f32 = |shape: (i64, i64)| TensorType::new(DType::F32, shape);
        let x = b.input("x", InputRole::Input, f32((40, 40))).unwrap();
        let at = b.input("at", InputRole::Input, TensorType::new(DType::I32, 40)).unwrap();
        let state = b.input("state", InputRole::Buffer, f32((40, 40))).unwrap();
        let mut y = b.index_select(x, 0, at).unwrap();
        for _ in 0..4 {
            y = b.matmul(y, x).unwrap();
            y = b.softmax(y, 1).unwrap();
        }
        let sum = b.reduce(ReduceKind::Sum, state, &[1], true).unwrap();
        let z = b.scalar(ScalarFn::Add, &[y, sum]).unwrap();
        let new = b.matmul(state, z).unwrap();
        b.output("y", OutputRole::User, z);
        b.output("new", OutputRole::NewValue("state".into()), new);
        let graph = crate::passes::recursive_joint_graph_passes(b.finish()).unwrap();
        let config = Config::default();
        let lowered = lower(&[(Phase::Forward, &graph)], &config).unwrap();
        schedule("memory", lowered, &Target::webgpu_default(), &config).unwrap()
    }

    /// Whether what `spoil` does is seen, with these words.
    fn check(name: &str, words: &str, spoil: impl Fn(&mut Program)) {
        let mut p = program();
        p.together.clear();
        spoil(&mut p);
        let faults = check_memory(&p).join("\n");
        assert!(faults.contains(words), "{name}: {faults}");
    }

    fn is_temporary(p: &Program, b: BufferId) -> bool {
        p.slots[p.buffers[b.0 as usize].slot.0 as usize].kind == SlotKind::Temporary
    }

    /// The first command that reads a temporary, and the temporary.
    fn reader(p: &Program) -> (usize, BufferId) {
        let reads = |c: &Dispatch| p.kernels[c.kernel as usize].reads().into_iter().map(|b| c.buffers[b.0 as usize]).find(|b| is_temporary(p, *b));
        p.commands.iter().enumerate().find_map(|(i, c)| Some((i, reads(c)?))).unwrap()
    }

    fn committing(p: &Program) -> usize {
        p.commands.iter().position(|c| c.guarded).unwrap()
    }

    #[test]
    fn a_sound_program_has_no_faults() {
        assert_eq!(check_memory(&program()), Vec::<String>::new());
        let shared = program();
        let slots: BTreeSet<_> = shared.commands.iter().flat_map(|c| &c.buffers).map(|b| shared.buffers[b.0 as usize].slot).collect();
        let buffers: BTreeSet<_> = shared.commands.iter().flat_map(|c| &c.buffers).collect();
        assert!(slots.len() < buffers.len(), "nothing shares a slot");
    }

    #[test]
    fn planted_faults_are_seen() {
        check("a slot of two live values", "which is not there", |p| {
            let (at, b) = reader(p);
            // Another value is written over it before it is read.
            let other = *p.commands[at].buffers.last().unwrap();
            p.buffers[b.0 as usize].slot = p.buffers[other.0 as usize].slot;
            let overwriting = p.commands[at].clone();
            p.commands.insert(at, overwriting);
        });
        check("operands of one command in one slot", "are in one slot", |p| {
            let (at, b) = reader(p);
            let other = *p.commands[at].buffers.iter().find(|o| **o != b).unwrap();
            p.buffers[b.0 as usize].slot = p.buffers[other.0 as usize].slot;
        });
        check("a reader before its writer", "which is not there", |p| {
            let (at, _) = reader(p);
            p.commands.swap(at, at - 1);
        });
        check("a writer that comes again", "which was read before", |p| {
            let (at, _) = reader(p);
            let again = p.commands[at - 1].clone();
            p.commands.insert(at + 1, again);
        });
        check("a slot that is too small", "does not fit", |p| {
            let (_, b) = reader(p);
            let slot = p.buffers[b.0 as usize].slot.0 as usize;
            p.slots[slot].bytes = Dim::int(8);
        });
        check("state written whatever the checks say", "whatever the checks say", |p| {
            let at = committing(p);
            p.commands[at].guarded = false;
        });
        check("a check behind a write of state", "checks after state was written", |p| {
            let check = p.commands.iter().position(|c| p.kernels[c.kernel as usize].checks().next().is_some()).unwrap();
            let moved = p.commands[check].clone();
            p.commands.push(moved);
        });
        check("state read after it was written", "after its new value was written", |p| {
            let first = p.commands.iter().position(|c| c.buffers.contains(&p.inputs.iter().find(|i| i.name == "state").unwrap().buffer)).unwrap();
            let again = p.commands[first].clone();
            p.commands.push(again);
        });
        check("an output that nobody writes", "is not there at the end", |p| {
            let output = p.outputs[0].buffer;
            p.commands.retain(|c| !p.kernels[c.kernel as usize].writes.iter().any(|w| c.buffers[w.buffer.0 as usize] == output));
        });
        check("commands that nobody launches", "launches take", |p| p.together = vec![1]);
        check("commands of one launch that need one another", "another command of its launch", |p| {
            p.together = vec![p.commands.len() as u32];
        });
    }
}
