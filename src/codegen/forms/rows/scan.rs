//! Scans: prefixes along a row, by one invocation or by a team of them.
//!
//! A team takes its columns in blocks, one after the other. Within a block each invocation combines its own consecutive columns, the
//! totals of the invocations are scanned across the team (by subgroup shuffles, through workgroup memory, or both), and what
//! all blocks before came to is carried along. A row is read once. (Merrill and Garland, "Single-pass parallel prefix scan with
//! decoupled look-back", is the same tree within a workgroup; between workgroups `schedule/split_scan.rs` makes two passes.)

use super::exchange::{from_shared, to_shared};
use super::team::Rows;
use crate::codegen::text::combine::Accumulator;
use crate::codegen::text::emit::{Block, Emitter, Ex};
use crate::codegen::text::spell;
use crate::codegen::text::storage::Kind;
use crate::forms::Team;
use crate::loop_ir::{Combiner, Instr, Val, Write};

impl Rows<'_, '_> {
    /// Computes the scans that these reductions and writes need, for all columns at hand.
    pub fn scans(&mut self, arguments: &[Val], writes: &[&Write]) -> Result<(), String> {
        let nest = self.nest;
        let mut open: Vec<Val> = arguments.to_vec();
        for w in writes {
            open.push(w.value);
            open.extend(w.index.values().into_iter().map(Val));
        }
        let mut needed = vec![false; nest.body.len()];
        while let Some(v) = open.pop() {
            let known = self.em.computed(v.0, 0).is_some();
            if !known && !std::mem::replace(&mut needed[v.0 as usize], true) {
                open.extend(nest.stmt(v).instr.operands());
            }
        }
        for (i, stmt) in nest.body.iter().enumerate() {
            if let Instr::Scan(combiner, x) = stmt.instr
                && needed[i]
            {
                self.scan(Val(i as u32), combiner, x)?;
            }
        }
        Ok(())
    }

    fn scan(&mut self, v: Val, combiner: Combiner, x: Val) -> Result<(), String> {
        let (sets, dtype) = (self.sets(), self.nest.dtype(x));
        // For each block the invocation's total, in the end what comes before its first column.
        let mut blocks: Vec<Accumulator> = vec![];
        let mut own: Vec<Vec<String>> = vec![];
        for set in 0..sets {
            let acc = Accumulator::new(&mut self.em, combiner, dtype)?;
            let lanes = self.lane_set(set);
            let xs = lanes.iter().map(|&l| self.em.value(x, l)).collect::<Result<Vec<_>, _>>()?;
            acc.declare(&mut self.em);
            let mut prefixes = vec![];
            for x in xs {
                acc.add(&mut self.em, &x.text, "").into_iter().for_each(|line| self.em.line(line));
                let name = self.em.fresh("p");
                self.em.line(format!("let {name} = {};", acc.names[0]));
                prefixes.push(name);
            }
            own.push(prefixes);
            blocks.push(acc);
        }
        let carry = self.carry(&blocks[0]);
        match self.em.subgroup.filter(|_| carry.kinds[0].bytes() <= 4) {
            Some(size) => self.before_by_subgroup(&blocks, size, &carry),
            None => self.before_through_memory(&blocks, &carry),
        }
        for (set, prefixes) in own.iter().enumerate() {
            for (&lane, prefix) in self.lane_set(set).iter().zip(prefixes) {
                let acc = Accumulator { names: vec![self.em.fresh("v")], ..blocks[set].clone() };
                self.em.line(format!("var {} = {};", acc.names[0], blocks[set].names[0]));
                acc.merge(&mut self.em, std::slice::from_ref(prefix)).into_iter().for_each(|line| self.em.line(line));
                let text = spell::wrap(self.nest.dtype(v), acc.names[0].clone());
                let (name, depth) = (self.em.fresh("v"), self.em.depth());
                self.em.line(format!("let {name} = {text};"));
                self.em.set_computed(v.0, lane, &Ex { text: name, depth });
            }
        }
        Ok(())
    }

    /// Declares the variable of everything before the block at hand, outside the loop over columns where there is one.
    fn carry(&mut self, like: &Accumulator) -> Accumulator {
        let carry = Accumulator { names: vec![self.em.fresh("a")], ..like.clone() };
        let depth = self.em.loop_depth.map_or(self.em.depth(), |d| d - 1);
        self.em.line_at(depth, format!("var {} = {};", carry.names[0], carry.start[0]));
        carry
    }

    /// Copies of the invocation's totals.
    fn totals(&mut self, blocks: &[Accumulator]) -> Vec<Accumulator> {
        let copy = |acc: &Accumulator| {
            let total = Accumulator { names: vec![self.em.fresh("t")], ..acc.clone() };
            self.em.line(format!("var {} = {};", total.names[0], acc.names[0]));
            total
        };
        blocks.iter().map(copy).collect()
    }

    /// Puts into the variables of the blocks what comes before this invocation, by shuffles within subgroups; totals of the
    /// subgroups of a longer row meet in workgroup memory.
    fn before_by_subgroup(&mut self, blocks: &[Accumulator], size: u32, carry: &Accumulator) {
        let Team { threads, rows, .. } = self.team;
        let inside = threads.min(size);
        let totals = self.totals(blocks);
        let kind = carry.kinds[0];
        let place = if inside == size { "sub".to_string() } else { format!("(sub & {}u)", inside - 1) };
        let mut step = 1;
        while step < inside {
            for t in &totals {
                let other = self.shuffle(kind, &t.names[0], &|x| format!("subgroupShuffleUp({x}, {step}u)"));
                let lines = t.merge(&mut self.em, &[other]);
                self.em.line(format!("if ({place} >= {step}u) {{ {} }}", lines.join(" ")));
            }
            step *= 2;
        }
        for (t, block) in totals.iter().zip(blocks) {
            let other = self.shuffle(kind, &t.names[0], &|x| format!("subgroupShuffleUp({x}, 1u)"));
            self.em.line(format!("{} = select({other}, {}, {place} == 0u);", block.names[0], block.start[0]));
        }
        if threads <= size {
            let last = format!("sub | {}u", inside - 1);
            for (t, block) in totals.iter().zip(blocks) {
                let all = self.shuffle(kind, &t.names[0], &|x| format!("subgroupShuffle({x}, {last})"));
                self.advance(block, carry, &all);
            }
            return;
        }
        let (parts, sets) = (threads / size, totals.len() as u32);
        let array = self.shared_array(kind, &mut vec![false; self.shared.len()], rows * parts * sets);
        let at = |set: usize, part: &str| format!("{array}[{}u + {part}]", set as u32 * rows * parts);
        self.em.open(Block::Divergent);
        for (set, t) in totals.iter().enumerate() {
            self.em.line(format!("{} = {};", at(set, "sid"), to_shared(kind, &t.names[0])));
        }
        self.em.close(&format!("if (sub == {}u)", size - 1));
        self.em.barrier();
        let first = if rows == 1 { "0u".to_string() } else { format!("ty * {parts}u") };
        for (set, block) in blocks.iter().enumerate() {
            let all = Accumulator { names: vec![self.em.fresh("t")], ..block.clone() };
            self.em.line(format!("var {} = {};", all.names[0], all.start[0]));
            self.em.open(Block::Divergent);
            let other = self.em.fresh("o");
            self.em.line(format!("let {other} = {};", from_shared(kind, &at(set, "q"))));
            let lines = block.merge(&mut self.em, std::slice::from_ref(&other));
            self.em.line(format!("if (q < sid) {{ {} }}", lines.join(" ")));
            all.merge(&mut self.em, &[other]).into_iter().for_each(|line| self.em.line(line));
            self.em.close(&format!("for (var q = {first}; q < {first} + {parts}u; q++)"));
            self.advance(block, carry, &all.names[0]);
        }
        self.em.barrier();
    }

    /// The same by workgroup memory alone: each step adds what lies twice as far away (Hillis and Steele).
    fn before_through_memory(&mut self, blocks: &[Accumulator], carry: &Accumulator) {
        let Team { threads, rows, .. } = self.team;
        let totals = self.totals(blocks);
        let kind = carry.kinds[0];
        let array = self.shared_array(kind, &mut vec![false; self.shared.len()], rows * threads * totals.len() as u32);
        let at = |set: usize, place: &str| format!("{array}[{}u + {place}]", set as u32 * rows * threads);
        let save = |em: &mut Emitter| {
            for (set, t) in totals.iter().enumerate() {
                em.line(format!("{} = {};", at(set, "lid"), to_shared(kind, &t.names[0])));
            }
            em.barrier();
        };
        save(&mut self.em);
        let mut step = 1;
        while step < threads {
            self.em.open(Block::Divergent);
            for (set, t) in totals.iter().enumerate() {
                let other = from_shared(kind, &at(set, &format!("lid - {step}u")));
                t.merge(&mut self.em, &[other]).into_iter().for_each(|line| self.em.line(line));
            }
            self.em.close(&format!("if (tx >= {step}u)"));
            self.em.barrier();
            save(&mut self.em);
            step *= 2;
        }
        let last = if rows == 1 { format!("{}u", threads - 1) } else { format!("ty * {threads}u + {}u", threads - 1) };
        for (set, block) in blocks.iter().enumerate() {
            self.em.line(format!("{} = {};", block.names[0], block.start[0]));
            self.em.line(format!("if (tx > 0u) {{ {} = {}; }}", block.names[0], from_shared(kind, &at(set, "lid - 1u"))));
            let all = self.em.fresh("o");
            self.em.line(format!("let {all} = {};", from_shared(kind, &at(set, &last))));
            self.advance(block, carry, &all);
        }
        self.em.barrier();
    }

    /// Puts what the blocks before came to in front of a block, whose total is `all`.
    fn advance(&mut self, block: &Accumulator, carry: &Accumulator, all: &str) {
        block.merge(&mut self.em, &carry.names).into_iter().for_each(|line| self.em.line(line));
        carry.merge(&mut self.em, &[all.to_string()]).into_iter().for_each(|line| self.em.line(line));
    }

    /// A value of another invocation, bound to a name.
    fn shuffle(&mut self, kind: Kind, name: &str, by: &dyn Fn(&str) -> String) -> String {
        let other = self.em.fresh("o");
        self.em.line(format!("let {other} = {};", from_shared(kind, &by(&to_shared(kind, name)))));
        other
    }
}
