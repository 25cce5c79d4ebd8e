//! The final shape of a kernel's domain: axes are split where indices divide them and merged where nothing tells them apart,
//! so that most indices are affine in few axes.

use super::{IndexExpr, Nest, Rebase, Tag, Term, axes};
use crate::types::Dim;

/// Splits and merges axes of `nest` until nothing changes. Nests with a tag keep their rows.
pub fn factor_domain(mut nest: Nest) -> Nest {
    if nest.tag != Tag::Loop {
        return nest;
    }
    for _ in 0..8 {
        let Some((axis, divisor)) = find_split(&nest) else { break };
        nest = split_axis(&nest, axis, &divisor);
    }
    while let Some(axis) = find_merge(&nest) {
        nest = merge_axes(&nest, axis);
    }
    drop_unit_axes(nest)
}

/// All index expressions of a nest.
fn expressions(nest: &Nest) -> Vec<&IndexExpr> {
    let body = nest.body.iter().filter_map(|s| s.instr.index());
    body.chain(nest.writes.iter().map(|w| &w.index)).collect()
}

/// An axis that stands alone inside a division or modulo whose divisor divides its size.
fn find_split(nest: &Nest) -> Option<(u32, Dim)> {
    let mut best: Option<(u32, Dim)> = None;
    for e in expressions(nest) {
        e.visit(&mut |t| {
            let (Term::Div(inner, d) | Term::Mod(inner, d)) = t else { return };
            let [(Term::Axis(a), k)] = &inner.terms[..] else { return };
            if k.is(1) && inner.offset.is(0) && best.is_none() && a.size != *d && a.size.try_div(d).is_some() {
                best = Some((a.id, d.clone()));
            }
        });
    }
    best
}

/// Replaces `axis` by `outer = axis / d` and `inner = axis % d`.
fn split_axis(nest: &Nest, axis: u32, d: &Dim) -> Nest {
    let at = axis as usize;
    let mut all = nest.sizes();
    let outer = all[at].try_div(d).expect("the divisor divides");
    all[at] = outer;
    all.insert(at + 1, d.clone());
    let rows = nest.rows.len() + (at < nest.rows.len()) as usize;
    let new = axes(&all, 0);
    let map: Vec<IndexExpr> = (0..all.len() - 1)
        .map(|i| match i.cmp(&at) {
            std::cmp::Ordering::Less => new[i].clone(),
            std::cmp::Ordering::Equal => new[i].times(d).add(&new[i + 1]),
            std::cmp::Ordering::Greater => new[i + 1].clone(),
        })
        .collect();
    Rebase::new(map).nest(nest, &all[..rows], &all[rows..])
}

/// An axis whose successor of the same level is its continuation in every expression.
fn find_merge(nest: &Nest) -> Option<u32> {
    let all = nest.sizes();
    (0..all.len().saturating_sub(1)).map(|i| i as u32).find(|&i| {
        let same_level = (i as usize + 1 < nest.rows.len()) || (i as usize >= nest.rows.len());
        same_level
            && expressions(nest).iter().all(|e| match (e.linear_coefficient(i), e.linear_coefficient(i + 1)) {
                (Some(outer), Some(inner)) => outer == inner * &all[i as usize + 1],
                _ => false,
            })
    })
}

/// Axis `axis` and its successor become one.
fn merge_axes(nest: &Nest, axis: u32) -> Nest {
    let at = axis as usize;
    let mut all = nest.sizes();
    let inner = all.remove(at + 1);
    all[at] = all[at].clone() * &inner;
    let rows = nest.rows.len() - (at + 1 < nest.rows.len()) as usize;
    let new = axes(&all, 0);
    // Every expression has `outer * inner_size` for the first and `inner` for the second, so the merged axis takes the
    // second's place and the first vanishes.
    let map: Vec<IndexExpr> = (0..all.len() + 1)
        .map(|i| match i {
            i if i < at => new[i].clone(),
            i if i == at => IndexExpr::zero(),
            i => new[i - 1].clone(),
        })
        .collect();
    Rebase::new(map).nest(nest, &all[..rows], &all[rows..])
}

fn drop_unit_axes(nest: Nest) -> Nest {
    let all = nest.sizes();
    if !all.iter().any(|d| d.is(1)) {
        return nest;
    }
    let kept: Vec<usize> = (0..all.len()).filter(|&i| !all[i].is(1)).collect();
    let mut sizes: Vec<Dim> = kept.iter().map(|&i| all[i].clone()).collect();
    let rows = kept.iter().filter(|&&i| i < nest.rows.len()).count();
    let new = axes(&sizes, 0);
    let map: Vec<IndexExpr> = (0..all.len()).map(|i| kept.iter().position(|&k| k == i).map_or(IndexExpr::zero(), |p| new[p].clone())).collect();
    // A domain of unit columns keeps one, so that column work stays column work.
    if rows == sizes.len() && !nest.cols.is_empty() {
        sizes.push(Dim::int(1));
    }
    Rebase::new(map).nest(&nest, &sizes[..rows], &sizes[rows..])
}
