//! Finds the causal mask in masks of attention.

use crate::graph::{Graph, Value};
use crate::loop_ir::axes;
use crate::ops::{Op, ScaledDotProductAttention};
use crate::rewrite::{Rewritten, Rule, Site, holds_up_to_row, integer_at, scalar_call};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim};

/// Takes out of a boolean mask what is known of positions.
///
/// ```text
/// %4 = le(%column, %row)                                              %5 = scaled_dot_product_attention(%0, %1, %2)
/// %5 = scaled_dot_product_attention(%0, %1, %2, %4)           ->           {causal=true}
/// ```
///
/// A mask is a conjunction. Of its conditions, those go that hold everywhere, and one that compares the number of the column with that of the
/// row, however these are computed of coordinates: looked up in tables of positions, as exports of language models do, or counted. Linear.
pub(in crate::passes) const RULES: &[Rule] = &[Rule { name: "attention under a mask of positions -> causal attention", apply: causal }];

/// What is known of a condition.
#[derive(Clone, Copy, PartialEq)]
enum Known {
    Always,
    Causal,
    Nothing,
}

fn causal(site: &mut Site<'_>) -> Rewritten {
    let Op::ScaledDotProductAttention(op) = site.op() else { return Ok(None) };
    let has_key = op.dropout.get() != 0.0;
    let Some(&mask) = site.operands.get(3).filter(|_| site.operands.len() == 4 + has_key as usize) else { return Ok(None) };
    if site.b.dtype(mask) != DType::Bool {
        return Ok(None);
    }
    let mut conditions = vec![];
    conjuncts(site.b.graph(), mask, &mut conditions);
    let rows = |k: usize| site.b.shape(site.operands[k]).0.iter().rev().nth(1);
    let known: Vec<Known> = conditions.iter().map(|&c| of_positions(site.b.graph(), c, [0, 1].map(rows))).collect();
    if known.iter().all(|k| *k == Known::Nothing) {
        return Ok(None);
    }
    let op = ScaledDotProductAttention { causal: op.causal || known.contains(&Known::Causal), ..op.clone() };
    let mut rest = conditions.iter().zip(&known).filter(|(_, k)| **k == Known::Nothing).map(|(c, _)| *c);
    let mut operands = site.operands[..3].to_vec();
    if let Some(mut left) = rest.next() {
        for c in rest {
            left = site.b.scalar(ScalarFn::LogicalAnd, &[left, c])?;
        }
        operands.push(left);
    }
    operands.extend(&site.operands[4..]);
    Ok(Some(vec![site.b.op(op, &operands)?]))
}

/// The conditions of a conjunction.
fn conjuncts(graph: &Graph, mask: Value, out: &mut Vec<Value>) {
    let both = scalar_call(graph, mask, ScalarFn::BitwiseAnd).or_else(|| scalar_call(graph, mask, ScalarFn::LogicalAnd));
    match both {
        Some([x, y]) => [x, y].into_iter().for_each(|v| conjuncts(graph, v, out)),
        None => out.push(mask),
    }
}

/// What is known of a condition on scores of so many rows and columns.
fn of_positions(graph: &Graph, condition: Value, [rows, columns]: [Option<&Dim>; 2]) -> Known {
    let shape = &graph.ty(condition).shape.0;
    let at = axes(shape, 0);
    if integer_at(graph, condition, &at).and_then(|x| x.as_constant().map(|d| d.is(1))) == Some(true) {
        return Known::Always;
    }
    let whole = shape.iter().rev().nth(1) == rows && shape.last() == columns;
    if whole && holds_up_to_row(graph, condition) == Some(true) { Known::Causal } else { Known::Nothing }
}
