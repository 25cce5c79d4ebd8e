//! Raises softmax, its logarithm and cross entropy written out by hand.

use crate::graph::{Graph, Value};
use crate::ops::{CrossEntropy, Gather, LogSoftmax, Op, ReduceKind, Reduction, Softmax};
use crate::rewrite::{Rewritten, Rule, Site, scalar_call, spread_core, spread_reduction, stands_beside};
use crate::scalar::ScalarFn;
use crate::types::Shape;

/// Raises what was written out by hand to ops with their own derivative, which saves the result instead of every step.
///
/// ```text
/// %3 = sub(%0, expand(amax(%0)))
/// %4 = exp(%3)                       ->   %1 = softmax(%0) {dim=1}
/// %5 = div(%4, expand(sum(%4)))
/// ```
///
/// * `x - max - log(sum(exp(x - max)))` and `log(softmax(x))` become `log_softmax`.
/// * The log-probability of a label, gathered from `log_softmax` along the last dimension, becomes `-cross_entropy`.
///
/// Requires that the maximum is subtracted, since without it large elements give NaN, which raising would hide; and one
/// dimension. In half floats the raised form rounds once. Linear.
pub(in crate::passes) const RULES: &[Rule] = &[
    Rule { name: "exp(x - amax) / sum(exp(x - amax)) -> softmax(x)", apply: softmax },
    Rule { name: "s - log(sum(exp(s))), s = x - amax -> log_softmax(x)", apply: log_softmax },
    Rule { name: "log(softmax(x)) -> log_softmax(x)", apply: log_of_softmax },
    Rule { name: "gather(log_softmax(x), label) -> -cross_entropy(x, label)", apply: cross_entropy },
];

/// `x` and the dimension, if `v` is `x - amax(x)` along one dimension.
fn shifted(graph: &Graph, v: Value) -> Option<(Value, u32)> {
    let [x, max] = scalar_call(graph, v, ScalarFn::Sub)?;
    let row = spread_reduction(graph, max)?;
    match row.op.dims[..] {
        [dim] if row.op.kind == ReduceKind::Max && row.operand == x => Some((x, dim)),
        _ => None,
    }
}

fn softmax(site: &mut Site<'_>) -> Rewritten {
    let graph = site.b.graph();
    let Some([e, sum]) = site.call(ScalarFn::Div) else { return Ok(None) };
    let Some(x) = scalar_call::<1>(graph, e, ScalarFn::Exp).and_then(|[s]| shifted(graph, s)) else { return Ok(None) };
    let Some(row) = spread_reduction(graph, sum) else { return Ok(None) };
    if row.operand != e || row.op.kind != ReduceKind::Sum || row.op.dims[..] != [x.1] {
        return Ok(None);
    }
    Ok(Some(vec![site.b.op(Softmax { dim: x.1 }, &[x.0])?]))
}

fn log_softmax(site: &mut Site<'_>) -> Rewritten {
    let graph = site.b.graph();
    let Some([s, log]) = site.call(ScalarFn::Sub) else { return Ok(None) };
    let Some((x, dim)) = shifted(graph, s) else { return Ok(None) };
    let Some([sum]) = scalar_call::<1>(graph, spread_core(graph, log), ScalarFn::Log) else { return Ok(None) };
    let Op::Reduce(row) = &*graph.def(spread_core(graph, sum)).op else { return Ok(None) };
    let reduced = graph.def(spread_core(graph, sum)).operands[0];
    let is_row = row.kind == ReduceKind::Sum && row.dims[..] == [dim] && stands_beside(graph, log, reduced, &[dim]);
    if !is_row || scalar_call::<1>(graph, reduced, ScalarFn::Exp) != Some([s]) {
        return Ok(None);
    }
    Ok(Some(vec![site.b.op(LogSoftmax { dim }, &[x])?]))
}

fn log_of_softmax(site: &mut Site<'_>) -> Rewritten {
    let Some([p]) = site.call(ScalarFn::Log) else { return Ok(None) };
    let Op::Softmax(Softmax { dim }) = *site.def(p).op else { return Ok(None) };
    let x = site.def(p).operands[0];
    Ok(Some(vec![site.b.op(LogSoftmax { dim }, &[x])?]))
}

fn cross_entropy(site: &mut Site<'_>) -> Rewritten {
    let Op::Gather(Gather { dim }) = *site.op() else { return Ok(None) };
    let (p, index) = (site.operands[0], site.operands[1]);
    let (shape, rank) = (site.b.shape(p).clone(), site.b.shape(p).rank());
    let is_last = dim as usize + 1 == rank && *site.def(p).op == Op::from(LogSoftmax { dim });
    let mut one_a_row = shape.clone();
    one_a_row.0[dim as usize] = 1.into();
    if !is_last || *site.b.shape(index) != one_a_row {
        return Ok(None);
    }
    let x = site.def(p).operands[0];
    let label = site.b.reshape(index, Shape::new(shape.0[..rank - 1].to_vec()))?;
    let loss = site.b.op(CrossEntropy { ignore_index: None, reduction: Reduction::None }, &[x, label])?;
    let gain = site.b.neg(loss)?;
    Ok(Some(vec![site.b.reshape(gain, one_a_row)?]))
}
