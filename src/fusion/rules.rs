//! Facts about nests that decide fusion.

use crate::loop_ir::{IndexExpr, Instr, Nest, Tag, Term, flatten};
use crate::types::Dim;

/// No columns, no column work, nothing special, and every write at the row-major identity of its rows.
pub fn is_pointwise(nest: &Nest) -> bool {
    let identity = flatten(&nest.row_axes(), &nest.rows);
    nest.tag == Tag::Loop && nest.cols.is_empty() && !nest.has_column_work() && nest.writes.iter().all(|w| w.index == identity)
}

/// Copies or converts: at most one load and no arithmetic.
pub fn is_trivial(nest: &Nest) -> bool {
    let loads = nest.body.iter().filter(|s| matches!(s.instr, Instr::Load { .. })).count();
    loads <= 1 && nest.body.iter().all(|s| matches!(s.instr, Instr::Load { mask: None, .. } | Instr::Cast(_) | Instr::Const(_)))
}

/// Whether scans or sorts are in it.
pub fn is_ordered(nest: &Nest) -> bool {
    nest.body.iter().any(|s| matches!(s.instr, Instr::Scan(..) | Instr::Sort { .. }))
}

/// Whether loads of single elements run along memory with the last column axis (and not with a row axis), by majority, with the
/// nest's axes placed at `at` in a domain of `sizes` whose last axis is the last column; `None` where neither prevails.
pub fn reads_along_columns(nest: &Nest, sizes: &[Dim], at: &[IndexExpr]) -> Option<bool> {
    let last = sizes.len().checked_sub(1)? as u32;
    let (level, one) = (nest.element_level(), |e: &IndexExpr, a: u32| e.linear_coefficient(a).is_some_and(|k| k.is(1)));
    let mut balance = 0;
    for (stmt, _) in nest.body.iter().zip(&level).filter(|(_, level)| **level) {
        let Instr::Load { index, .. } = &stmt.instr else { continue };
        let e = index.substitute(&|a| at[a.id as usize].clone(), &|v, size| IndexExpr::value(v, size));
        if e.uses_axis(|a| a == last) && e.uses_axis(|a| a != last) {
            balance += if one(&e, last) { 1 } else { -((0..last).any(|a| one(&e, a)) as i32) };
        }
    }
    (balance != 0).then_some(balance > 0)
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
