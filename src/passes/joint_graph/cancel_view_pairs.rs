//! Joins views of views.

use crate::ops::{Op, Permute};
use crate::rewrite::{Rewritten, Rule, Site};

/// Joins a view with the view it reads, and drops the pair where it gives back what it took.
///
/// ```text
/// %1 = reshape(%0) {shape=[12]}
/// %2 = reshape(%1) {shape=[3, 4]}    ->   (%0, which is f32[3, 4])
/// ```
///
/// Reshape of reshape, permute of permute, expand of expand. Indices stay as simple as they were. One sweep per nesting.
pub(in crate::passes) const RULES: &[Rule] = &[
    Rule { name: "reshape(reshape(x)) -> reshape(x)", apply: reshapes },
    Rule { name: "permute(permute(x)) -> permute(x)", apply: permutes },
    Rule { name: "expand(expand(x)) -> expand(x)", apply: expands },
    Rule { name: "permute that moves only dimensions of size one -> reshape", apply: permute_of_ones },
];

fn reshapes(site: &mut Site<'_>) -> Rewritten {
    let Op::Reshape(outer) = site.op() else { return Ok(None) };
    let shape = outer.shape.clone();
    let inner = site.def(site.operands[0]);
    if !matches!(*inner.op, Op::Reshape(_)) && site.b.shape(site.operands[0]) != &shape {
        return Ok(None);
    }
    let base = if matches!(*inner.op, Op::Reshape(_)) { inner.operands[0] } else { site.operands[0] };
    Ok(Some(vec![site.b.reshape(base, shape)?]))
}

fn permutes(site: &mut Site<'_>) -> Rewritten {
    let Op::Permute(outer) = site.op() else { return Ok(None) };
    let inner = site.def(site.operands[0]);
    let Op::Permute(first) = &*inner.op else { return Ok(None) };
    let order: Vec<usize> = outer.order.iter().map(|&o| first.order[o as usize] as usize).collect();
    let base = inner.operands[0];
    Ok(Some(vec![site.b.permute(base, &order)?]))
}

fn expands(site: &mut Site<'_>) -> Rewritten {
    let Op::Expand(outer) = site.op() else { return Ok(None) };
    let shape = outer.shape.clone();
    let inner = site.def(site.operands[0]);
    if !matches!(*inner.op, Op::Expand(_)) {
        return Ok(None);
    }
    let base = inner.operands[0];
    Ok(Some(vec![site.b.broadcast_to(base, &shape)?]))
}

/// Order in memory is kept when the dimensions that are not of size one keep their order; a reshape says so more plainly, and
/// joins with others.
fn permute_of_ones(site: &mut Site<'_>) -> Rewritten {
    let Op::Permute(Permute { order }) = site.op() else { return Ok(None) };
    let from = site.b.shape(site.operands[0]);
    let moved: Vec<u32> = order.iter().copied().filter(|&o| !from[o as usize].is(1)).collect();
    if moved.windows(2).any(|w| w[0] > w[1]) {
        return Ok(None);
    }
    let shape = site.ty().shape.clone();
    Ok(Some(vec![site.b.reshape(site.operands[0], shape)?]))
}
