//! Invocations of a row combine their partial results: by subgroup shuffles, through workgroup memory, or both.
//!
//! A tree of the same shape on every device that takes the same way; all invocations of a row end with the same bits.

use super::team::Rows;
use crate::codegen::text::combine::Accumulator;
use crate::codegen::text::emit::{Block, Emitter, Ex};
use crate::codegen::text::storage::Kind;
use crate::forms::Team;
use crate::loop_ir::Val;

/// A reduction of the pass, of one of the invocation's rows.
pub struct Reduction {
    /// Its statement.
    pub stmt: u32,
    /// Its argument.
    pub arg: Val,
    /// Its variables.
    pub acc: Accumulator,
    /// Which of the rows.
    pub row: usize,
}

impl Rows<'_, '_> {
    /// Combines the partial results of the invocations of each row and names the results.
    pub fn combine(&mut self, accumulators: &[Reduction]) {
        let wide = accumulators.iter().any(|r| r.acc.kinds.iter().any(|&k| k.bytes() > 4));
        let finals: Vec<Vec<String>> = match (self.team.threads, self.em.subgroup) {
            (1, _) => accumulators.iter().map(|r| r.acc.names.clone()).collect(),
            (_, Some(size)) if !wide => self.combine_by_subgroup(accumulators, size),
            _ => self.combine_in_batches(accumulators),
        };
        for (Reduction { stmt, acc, row, .. }, finals) in accumulators.iter().zip(&finals) {
            let results = acc.results(&mut self.em, finals);
            for (k, text) in results.into_iter().enumerate() {
                let text = self.finish(*stmt, text);
                let name = self.em.fresh("r");
                self.em.line(format!("let {name} = {text};"));
                self.set_result(*stmt, k as u32, *row, &Ex { text: name, depth: self.base });
            }
        }
    }

    /// Shuffles within each subgroup; partial results of the subgroups of a longer row meet in workgroup memory.
    fn combine_by_subgroup(&mut self, accumulators: &[Reduction], size: u32) -> Vec<Vec<String>> {
        let Team { threads, rows, .. } = self.team;
        let inside = threads.min(size);
        let em = &mut self.em;
        let mut mask = inside / 2;
        while mask > 0 {
            for Reduction { acc, .. } in accumulators {
                let others = shuffled(em, acc, &|x| format!("subgroupShuffleXor({x}, {mask}u)"));
                acc.merge(em, &others).into_iter().for_each(|l| em.line(l));
            }
            mask /= 2;
        }
        if threads <= size {
            // Merging in different orders may differ in the last bit: the first invocation of the row decides.
            let first = format!("sub & {}u", size - inside);
            return accumulators.iter().map(|Reduction { acc, .. }| shuffled(em, acc, &|x| format!("subgroupShuffle({x}, {first})"))).collect();
        }
        let parts = threads / size;
        let mut taken = vec![false; self.shared.len()];
        let arrays: Vec<Vec<(String, Kind)>> = accumulators.iter().map(|Reduction { acc, .. }| self.arrays(acc, &mut taken, rows * parts)).collect();
        let em = &mut self.em;
        em.open(Block::Divergent);
        for (Reduction { acc, .. }, names) in accumulators.iter().zip(&arrays) {
            save(em, acc, names, "sid");
        }
        em.close("if (sub == 0u)");
        em.barrier();
        let base = if rows == 1 { String::new() } else { format!("ty * {parts}u + ") };
        let mut finals = vec![];
        for (Reduction { acc, .. }, names) in accumulators.iter().zip(&arrays) {
            let total = Accumulator { names: acc.names.iter().map(|_| em.fresh("t")).collect(), ..acc.clone() };
            for part in 0..parts {
                let at = |(array, kind): &(String, Kind)| from_shared(*kind, &format!("{array}[{base}{part}u]"));
                let values: Vec<String> = names.iter().map(at).collect();
                if part == 0 {
                    total.names.iter().zip(&values).for_each(|(name, value)| em.line(format!("var {name} = {value};")));
                } else {
                    total.merge(em, &values).into_iter().for_each(|l| em.line(l));
                }
            }
            finals.push(total.names);
        }
        em.barrier();
        finals
    }

    /// As many reductions at a time as workgroup memory holds.
    fn combine_in_batches(&mut self, accumulators: &[Reduction]) -> Vec<Vec<String>> {
        let count = self.team.rows * self.team.threads;
        let limit = self.em.unit.target.caps.max_workgroup_bytes;
        let bytes = |r: &Reduction| r.acc.kinds.iter().map(|k| k.bytes() * count).sum::<u32>();
        let (mut finals, mut first) = (vec![], 0);
        while first < accumulators.len() {
            let mut end = first + 1;
            let mut total = bytes(&accumulators[first]);
            while end < accumulators.len() && total + bytes(&accumulators[end]) <= limit / 2 {
                total += bytes(&accumulators[end]);
                end += 1;
            }
            finals.extend(self.combine_through_memory(&accumulators[first..end]));
            first = end;
        }
        finals
    }

    fn combine_through_memory(&mut self, accumulators: &[Reduction]) -> Vec<Vec<String>> {
        let Team { rows, threads, rows_first, .. } = self.team;
        let stride = if rows_first { rows } else { 1 };
        let mut taken = vec![false; self.shared.len()];
        let arrays: Vec<Vec<(String, Kind)>> =
            accumulators.iter().map(|Reduction { acc, .. }| self.arrays(acc, &mut taken, rows * threads)).collect();
        let em = &mut self.em;
        for (Reduction { acc, .. }, names) in accumulators.iter().zip(&arrays) {
            save(em, acc, names, "lid");
        }
        em.barrier();
        let mut half = threads / 2;
        while half > 0 {
            em.open(Block::Divergent);
            for (Reduction { acc, .. }, names) in accumulators.iter().zip(&arrays) {
                let other = names.iter().map(|(a, k)| {
                    let name = em.fresh("o");
                    em.line(format!("let {name} = {};", from_shared(*k, &format!("{a}[lid + {}u]", half * stride))));
                    name
                });
                let other: Vec<String> = other.collect();
                for line in acc.merge(em, &other) {
                    em.line(line);
                }
                save(em, acc, names, "lid");
            }
            em.close(&format!("if (tx < {half}u)"));
            em.barrier();
            half /= 2;
        }
        let first = match (rows, rows_first) {
            (1, _) => "0u".to_string(),
            (_, true) => "ty".to_string(),
            (_, false) => format!("ty * {threads}u"),
        };
        let mut finals = vec![];
        for names in &arrays {
            let mut row = vec![];
            for (array, kind) in names {
                let name = em.fresh("t");
                em.line(format!("let {name} = {};", from_shared(*kind, &format!("{array}[{first}]"))));
                row.push(name);
            }
            finals.push(row);
        }
        em.barrier();
        finals
    }

    /// Workgroup arrays of `count` elements for the variables of a reduction.
    fn arrays(&mut self, acc: &Accumulator, taken: &mut Vec<bool>, count: u32) -> Vec<(String, Kind)> {
        acc.kinds.iter().map(|&kind| (self.shared_array(kind, taken, count), kind)).collect()
    }
}

/// The variables of a reduction in another invocation, bound to names.
fn shuffled(em: &mut Emitter, acc: &Accumulator, shuffle: &dyn Fn(&str) -> String) -> Vec<String> {
    let one = |(name, kind): (&String, &Kind)| {
        let bound = em.fresh("o");
        let text = from_shared(*kind, &shuffle(&to_shared(*kind, name)));
        em.line(format!("let {bound} = {text};"));
        bound
    };
    acc.names.iter().zip(&acc.kinds).map(one).collect()
}

fn save(em: &mut Emitter, acc: &Accumulator, names: &[(String, Kind)], at: &str) {
    for (name, (array, kind)) in acc.names.iter().zip(names) {
        em.line(format!("{array}[{at}] = {};", to_shared(*kind, name)));
    }
}

/// A value as an element of workgroup memory or as what is shuffled.
pub fn to_shared(kind: Kind, name: &str) -> String {
    if kind == Kind::Bool { format!("select(0u, 1u, {name})") } else { name.to_string() }
}

/// The way back.
pub fn from_shared(kind: Kind, text: &str) -> String {
    if kind == Kind::Bool { format!("({text} != 0u)") } else { text.to_string() }
}
