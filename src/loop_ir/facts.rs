//! Facts about nests: one answer each, for interpreter, fusion, scheduler and code generation.
//!
//! Which way a nest runs over memory is asked in three ways, which look alike and differ on purpose where nests are irregular:
//!
//! | question | asked by | loads that count | axes |
//! | --- | --- | --- | --- |
//! | [`reads_along_columns`] | fusion | of single elements, that vary with the last column and with another axis | the last column against every other |
//! | [`is_column_reduction`] | schedule | all; one is enough | the last row against the last column |
//! | [`rows_are_contiguous`] | layout of a kernel | of single elements; along columns only those that vary with the row | the last row and the last column that step |

use super::{BufferId, Combiner, IndexExpr, Instr, Nest, Seen, Tag, Term, Val, Write, factor_domain, flatten};
use crate::types::{Bindings, Dim};
use std::ops::Range;

impl Nest {
    /// Its values in order.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = Val> + use<> {
        (0..self.body.len() as u32).map(Val)
    }

    /// For each value, whether it is element-level.
    pub fn element_level(&self) -> Vec<bool> {
        let first_col = self.rows.len() as u32;
        let mut level = vec![false; self.body.len()];
        for (i, stmt) in self.body.iter().enumerate() {
            level[i] = match &stmt.instr {
                Instr::Reduce(..) => false,
                Instr::Scan(..) | Instr::Sort { .. } => true,
                instr => instr.index().is_some_and(|e| e.uses_axis(|a| a >= first_col)) || instr.operands().iter().any(|v| level[v.0 as usize]),
            };
        }
        level
    }

    /// For each value, whether it varies along an inner axis: only contractions see it.
    pub fn inner_level(&self) -> Vec<bool> {
        let first = (self.rows.len() + self.cols.len()) as u32;
        let mut level: Vec<bool> = Vec::with_capacity(self.body.len());
        for stmt in &self.body {
            let varies = stmt.instr.index().is_some_and(|e| e.uses_axis(|a| a >= first));
            let inherits = !matches!(stmt.instr, Instr::Contract { .. }) && stmt.instr.operands().iter().any(|v| level[v.0 as usize]);
            level.push(varies || inherits);
        }
        level
    }

    /// Whether a write happens once per element.
    pub fn is_element_write(&self, write: &Write, level: &[bool]) -> bool {
        let first_col = self.rows.len() as u32;
        level[write.value.0 as usize] || write.index.uses_axis(|a| a >= first_col) || write.index.values().iter().any(|&v| level[v as usize])
    }

    /// The control flow that it stands for.
    pub fn control(&self) -> Option<usize> {
        if let Tag::Control { number } = self.tag { Some(number as usize) } else { None }
    }

    /// The row axis of features, in attention.
    pub fn attention_features(&self) -> Option<usize> {
        if let Tag::Attention { batch, .. } = self.tag { Some(batch as usize + 1) } else { None }
    }

    /// Number of row axes that tell chunks of rows apart, where values are summed over the rows of a chunk; the axes behind them
    /// count the rows of a chunk. `None` where nothing is.
    pub fn chunk_axes(&self) -> Option<usize> {
        let rows = self.rows.len() as u32;
        let used = |w: &Write| (0..rows).rev().find(|&i| w.index.uses_axis(|a| a == i)).map_or(0, |i| i as usize + 1);
        self.writes.iter().filter(|w| w.fold).map(used).max()
    }

    /// Statements that set the status word.
    pub fn checks(&self) -> impl Iterator<Item = Val> + '_ {
        self.values().filter(|v| matches!(self.stmt(*v).instr, Instr::Bound { .. }))
    }

    /// Whether it does something for its elements only: rows without columns, however many, need no visit.
    pub fn works_per_element(&self) -> bool {
        let level = self.element_level();
        self.writes.iter().all(|w| self.is_element_write(w, &level)) && self.checks().all(|v| level[v.0 as usize])
    }

    /// Whether any statement is a reduction, scan or sort.
    pub fn has_column_work(&self) -> bool {
        self.body.iter().any(|s| matches!(s.instr, Instr::Reduce(..) | Instr::Scan(..) | Instr::Sort { .. }))
    }

    /// Whether scans or sorts are in it.
    pub fn is_ordered(&self) -> bool {
        self.body.iter().any(|s| matches!(s.instr, Instr::Scan(..) | Instr::Sort { .. }))
    }

    /// No columns, no column work, nothing special, and every write at the row-major identity of its rows.
    pub fn is_pointwise(&self) -> bool {
        let identity = flatten(&self.row_axes(), &self.rows);
        self.tag == Tag::Loop && self.cols.is_empty() && !self.has_column_work() && self.writes.iter().all(|w| w.index == identity)
    }

    /// Converts to fewer bytes: who reads the result several times reads less by storing it.
    pub fn narrows(&self) -> bool {
        self.body.iter().any(|s| matches!(s.instr, Instr::Cast(from) if s.dtype.size() < self.dtype(from).size()))
    }

    /// Copies or converts: at most one load and no arithmetic.
    pub fn is_trivial(&self) -> bool {
        let loads = self.body.iter().filter(|s| matches!(s.instr, Instr::Load { .. })).count();
        loads <= 1
            && self.body.iter().all(|s| matches!(s.instr, Instr::Load { mask: None, .. } | Instr::Cast(_) | Instr::Bitcast(_) | Instr::Const(_)))
    }
}

/// Whether a product of floats is scanned: a part of it may leave the range of the type where the whole does not, and times a zero
/// before it that is NaN instead of zero.
pub fn scans_in_order(nest: &Nest) -> bool {
    nest.body.iter().any(|s| matches!(s.instr, Instr::Scan(Combiner::Prod, _)) && s.dtype.is_float())
}

/// For each value, the number of reductions behind one another that it waits for: the pass in which it can be computed.
pub fn depths(nest: &Nest) -> Vec<usize> {
    let mut out: Vec<usize> = Vec::with_capacity(nest.body.len());
    for stmt in &nest.body {
        let deepest = stmt.instr.operands().iter().map(|o| out[o.0 as usize]).max().unwrap_or(0);
        out.push(deepest + matches!(stmt.instr, Instr::Reduce(..)) as usize);
    }
    out
}

/// The pass in which a write can happen.
pub fn write_depth(w: &Write, depth: &[usize]) -> usize {
    w.index.values().into_iter().map(|v| depth[v as usize]).fold(depth[w.value.0 as usize], usize::max)
}

/// For each value, whether `roots` are computed from it, themselves included.
pub fn needed(nest: &Nest, roots: impl IntoIterator<Item = Val>) -> Vec<bool> {
    needed_before(nest, roots, None)
}

/// The same, without what only `stop` is computed from.
pub fn needed_before(nest: &Nest, roots: impl IntoIterator<Item = Val>, stop: Option<Val>) -> Vec<bool> {
    let mut needed = vec![false; nest.body.len()];
    roots.into_iter().for_each(|v| needed[v.0 as usize] = true);
    for v in nest.values().rev() {
        if needed[v.0 as usize] && stop != Some(v) {
            nest.stmt(v).instr.operands().iter().for_each(|o| needed[o.0 as usize] = true);
        }
    }
    needed
}

/// What a value is computed from, itself last.
pub fn cone(nest: &Nest, v: Val) -> Vec<Val> {
    let needed = needed(nest, [v]);
    nest.values().filter(|v| needed[v.0 as usize]).collect()
}

/// The values that a write stores and is placed by.
pub fn stored(w: &Write) -> impl Iterator<Item = Val> + use<> {
    std::iter::once(w.value).chain(w.index.values().into_iter().map(Val))
}

/// For each value, whether a write, the tag or a check needs it.
pub fn live(nest: &Nest) -> Vec<bool> {
    needed(nest, nest.writes.iter().flat_map(stored).chain(nest.tag.values()).chain(nest.checks()))
}

/// Row axes of a nest with the tag of a product: those of its matrices, of their rows and of their columns. `None` where it has another
/// tag.
pub fn product_axes(nest: &Nest) -> Option<[Range<usize>; 3]> {
    let Tag::Matmul { batch, m, .. } = nest.tag else { return None };
    let (batch, first) = (batch as usize, batch.checked_add(m)? as usize);
    (batch < first && first < nest.rows.len()).then_some([0..batch, batch..first, first..nest.rows.len()])
}

/// Whether a value is the same along an axis.
pub fn is_constant_along(nest: &Nest, v: Val, axis: u32) -> bool {
    let needed = needed(nest, [v]);
    let uses = |v: Val| nest.stmt(v).instr.index().is_some_and(|e| e.uses_axis(|a| a == axis));
    !nest.values().any(|v| needed[v.0 as usize] && uses(v))
}

/// Whether an index moves by one element as an axis does.
pub fn runs_along(index: &IndexExpr, axis: u32) -> bool {
    index.linear_coefficient(axis).is_some_and(|k| k.is(1))
}

/// The innermost of these axes, numbered from `first`, that has more than one place.
pub fn stepped(sizes: &[Dim], first: usize) -> Option<u32> {
    (0..sizes.len()).rev().find(|&i| !sizes[i].is(1)).map(|i| (first + i) as u32)
}

/// Whether loads of single elements run along memory with the last column axis (and not with a row axis), by majority, with the
/// nest's axes placed at `at` in a domain of `sizes` whose last axis is the last column; `None` where neither prevails.
pub fn reads_along_columns(nest: &Nest, sizes: &[Dim], at: &[IndexExpr]) -> Option<bool> {
    let last = sizes.len().checked_sub(1)? as u32;
    let mut balance = 0;
    for (stmt, _) in nest.body.iter().zip(nest.element_level()).filter(|(_, level)| *level) {
        let Instr::Load { index, .. } = &stmt.instr else { continue };
        let e = index.moved(at);
        if e.uses_axis(|a| a == last) && e.uses_axis(|a| a != last) {
            balance += if runs_along(&e, last) { 1 } else { -((0..last).any(|a| runs_along(&e, a)) as i32) };
        }
    }
    (balance != 0).then_some(balance > 0)
}

/// Whether neighbors in memory are neighboring rows in some load.
pub fn is_column_reduction(nest: &Nest) -> bool {
    let (Some(row), Some(_)) = (nest.rows.len().checked_sub(1), nest.cols.len().checked_sub(1)) else { return false };
    let col = (nest.rows.len() + nest.cols.len() - 1) as u32;
    nest.body.iter().any(|s| matches!(&s.instr, Instr::Load { index, .. } if runs_along(index, row as u32) && !runs_along(index, col)))
}

/// Whether loads inside the column loop run along memory with the last row axis and not with the last column axis, by majority.
pub fn rows_are_contiguous(nest: &Nest) -> bool {
    let (Some(row), Some(col)) = (stepped(&nest.rows, 0), stepped(&nest.cols, nest.rows.len())) else { return false };
    let (mut by_row, mut by_col) = (0, 0);
    for (stmt, _) in nest.body.iter().zip(nest.element_level()).filter(|(_, level)| *level) {
        let Instr::Load { index, .. } = &stmt.instr else { continue };
        by_row += runs_along(index, row) as u32;
        // What all rows share is small and stays in caches.
        by_col += (runs_along(index, col) && index.uses_axis(|a| a == row)) as u32;
    }
    by_row > by_col
}

/// Whether `e` visits each of `0..product(sizes)` exactly once as the axes numbered from `first` run: a mixed-radix
/// permutation of the axes, with no division, modulo or other axis.
pub fn is_bijective(e: &IndexExpr, sizes: &[Dim], first: u32) -> bool {
    let mut left: Vec<(u32, &Dim)> = sizes.iter().enumerate().filter(|(_, d)| !d.is(1)).map(|(i, d)| (first + i as u32, d)).collect();
    if !e.offset.is(0) || e.terms.len() != left.len() {
        return false;
    }
    let mut stride = Dim::int(1);
    while !left.is_empty() {
        let next = left.iter().position(|(id, _)| e.terms.iter().any(|(t, k)| matches!(t, Term::Axis(a) if a.id == *id) && *k == stride));
        let Some(at) = next else { return false };
        stride = stride * left.remove(at).1;
    }
    true
}

/// Whether every load of the buffer that a write overwrites is at the place that it writes.
pub fn reads_at_its_place(nest: &Nest, w: &Write) -> bool {
    nest.body.iter().all(|s| !matches!(&s.instr, Instr::Load { buffer, index, .. } if *buffer == w.buffer && *index != w.index))
}

/// Whether a nest that writes `buffer` packed may own whole words: it is pointwise in its final domain, writes at the identity, and
/// does not read what it writes.
pub fn owns_words(nest: &Nest, buffer: BufferId) -> bool {
    factor_domain(nest.clone()).is_pointwise() && !nest.reads().contains(&buffer)
}

/// Multiply-adds of a product, or of attention, whose columns that no row sees are not counted; none of others.
pub fn multiply_adds(nest: &Nest, sizes: &Bindings) -> f64 {
    let size = |d: &Dim| d.eval(sizes).unwrap_or(0) as f64;
    let points: f64 = nest.rows.iter().chain(&nest.cols).map(size).product();
    match nest.tag {
        Tag::Matmul { .. } => points,
        Tag::Attention { seen, .. } => {
            let scores = points / nest.rows.last().map_or(1.0, size).max(1.0);
            let contracted =
                nest.body.iter().filter_map(|s| if let Instr::Contract { over, .. } = s.instr { nest.inner.get(over as usize) } else { None });
            let all = points + scores * contracted.map(size).sum::<f64>();
            if seen == Seen::All { all } else { all / 2.0 }
        }
        _ => 0.0,
    }
}
