//! What the parts of a kernel over teams of invocations share: its state, lanes, results and workgroup memory.

use crate::codegen::text::emit::{Emitter, Ex};
use crate::codegen::text::storage::Kind;
use crate::forms::Team;
use crate::loop_ir::{Instr, Nest, Val, Write};
use crate::types::Dim;

/// The kernel of a nest with reductions or scans, under construction.
pub struct Rows<'u, 'n> {
    /// Statements so far.
    pub em: Emitter<'u>,
    /// What it computes.
    pub nest: &'n Nest,
    /// Rows and columns over invocations.
    pub team: Team,
    /// Active condition of each lane; `None` when always active.
    pub active: Vec<Option<String>>,
    /// Condition under which the invocation has a row; `None` when it always has.
    pub row_active: Option<String>,
    /// Groups of columns of a row.
    pub groups: Dim,
    /// Depth of the block that works on one row.
    pub base: usize,
    /// Sums over rows: names of the variables of each lane, for each write that has them.
    pub sums: Vec<(Write, Vec<String>)>,
    /// Checks that the pass at hand makes, whatever it computes.
    pub pending: Vec<Val>,
    /// Workgroup arrays: element type and bytes.
    pub shared: Vec<(&'static str, u32)>,
}

impl Rows<'_, '_> {
    /// The end of a sum of rough exponentials: NaN where the maximum is NaN or infinite, as the definition has it.
    pub fn finish(&mut self, i: u32, text: String) -> String {
        let Some(max) = self.team.rough.iter().find(|r| r.sum == Val(i)).and_then(|r| self.em.computed(r.max.0, 0)) else { return text };
        format!("{}({}, {text})", self.em.helper("online_softmax_sum_"), max.text)
    }

    /// Groups of columns an invocation holds at once.
    pub fn sets(&self) -> usize {
        self.team.kept.max(self.team.unroll) as usize
    }

    /// Lanes of such a group.
    pub fn lane_set(&self, e: usize) -> Vec<usize> {
        let n = (self.team.lanes * self.team.across) as usize;
        (e * n..(e + 1) * n).collect()
    }

    /// Makes result `k` of reduction `i` known to every lane of a row.
    pub fn set_result(&mut self, i: u32, k: u32, row: usize, e: &Ex) {
        let targets: Vec<u32> = if k == 0 {
            vec![i]
        } else {
            (0..self.nest.body.len() as u32).filter(|&j| self.nest.body[j as usize].instr == Instr::Proj(Val(i), k)).collect()
        };
        for t in targets {
            for lane in (row..self.em.lanes.len()).step_by(self.team.across as usize) {
                self.em.set_computed(t, lane, e);
            }
        }
    }

    /// A workgroup array of that kind and size that this pass does not use yet; passes reuse them.
    pub fn shared_array(&mut self, kind: Kind, taken: &mut Vec<bool>, count: u32) -> String {
        let ty = kind.shared();
        let bytes = kind.bytes() * count;
        let found = (0..self.shared.len()).find(|&i| self.shared[i] == (ty, bytes) && !taken[i]);
        let at = found.unwrap_or_else(|| {
            self.shared.push((ty, bytes));
            taken.push(false);
            let n = self.shared.len() - 1;
            self.em.globals.push(format!("var<workgroup> shared{n}: array<{ty}, {count}>;"));
            n
        });
        taken[at] = true;
        format!("shared{at}")
    }
}
