//! Questions that rules ask about values.

use crate::graph::{Graph, Value};
use crate::loop_ir::Number;
use crate::ops::{Op, OpDef, Reduce, ReduceKind};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim};

/// Operands of the node that computes `v`, if it is a call of that scalar function with that many operands.
pub fn scalar_call<const N: usize>(graph: &Graph, v: Value, f: ScalarFn) -> Option<[Value; N]> {
    let node = graph.def(v);
    match &*node.op {
        Op::Pointwise(op) if op.f == f => node.operands[..].try_into().ok(),
        _ => None,
    }
}

/// The number that every element of a value is, in the value's dtype: a `full`, a constant of equal elements, seen through views.
pub fn uniform(graph: &Graph, v: Value) -> Option<f64> {
    let node = graph.def(v);
    match &*node.op {
        Op::Full(full) => Some(Number::new(graph.ty(v).dtype, full.value.get()).as_f64()),
        Op::Constant(c) => {
            let first = c.data.first()?;
            c.data.iter().all(|x| x == first).then(|| first.get())
        }
        op if op.is_view() => uniform(graph, *node.operands.first()?),
        _ => None,
    }
}

/// The value before dimensions were repeated, or added with size one: through `expand`, and through a `reshape` that only
/// adds or drops dimensions of size one.
pub fn through_broadcast(graph: &Graph, v: Value) -> Value {
    let node = graph.def(v);
    let is_broadcast = match &*node.op {
        Op::Expand(_) => true,
        Op::Reshape(_) => {
            let without_ones = |v: Value| graph.ty(v).shape.0.iter().filter(|d| !d.is(1)).cloned().collect::<Vec<Dim>>();
            without_ones(v) == without_ones(node.operands[0])
        }
        _ => false,
    };
    if is_broadcast { through_broadcast(graph, node.operands[0]) } else { v }
}

/// A reduction whose result stands beside its operand again: `value` is its result, `operand` what it reduces.
pub struct SpreadReduction<'a> {
    /// The reduction.
    pub op: &'a Reduce,
    /// Its operand.
    pub operand: Value,
    /// Its result.
    pub value: Value,
}

/// The reduction that `v` repeats over the dimensions it reduced, if `v` is one: the result, with or without kept
/// dimensions, reshaped to size one where it reduced, expanded to the operand's shape.
pub fn spread_reduction(graph: &Graph, v: Value) -> Option<SpreadReduction<'_>> {
    let at = spread_core(graph, v);
    let Op::Reduce(op) = &*graph.def(at).op else { return None };
    let operand = graph.def(at).operands[0];
    stands_beside(graph, v, operand, &op.dims).then_some(SpreadReduction { op, operand, value: at })
}

/// What `v` repeats: the value below one `expand` and the reshapes under it.
pub fn spread_core(graph: &Graph, v: Value) -> Value {
    let mut at = below_expand(graph, v);
    while let Op::Reshape(_) = *graph.def(at).op {
        at = graph.def(at).operands[0];
    }
    at
}

/// Whether `v`, which repeats something that was reduced over `dims` of `operand`, stands element by element beside
/// `operand`: below its `expand` it has size one exactly where it was reduced.
pub fn stands_beside(graph: &Graph, v: Value, operand: Value, dims: &[u32]) -> bool {
    let (shape, small) = (&graph.ty(v).shape, &graph.ty(below_expand(graph, v)).shape);
    let with_ones = (0..shape.rank()).map(|d| if dims.contains(&(d as u32)) { Dim::int(1) } else { shape[d].clone() });
    graph.ty(operand).shape == *shape && small.0.iter().cloned().eq(with_ones)
}

fn below_expand(graph: &Graph, v: Value) -> Value {
    match &*graph.def(v).op {
        Op::Expand(_) => graph.def(v).operands[0],
        _ => v,
    }
}

/// Whether no element of a value is minus zero, so that adding zero to it changes nothing.
pub fn has_no_negative_zero(graph: &Graph, v: Value) -> bool {
    let (node, dtype) = (graph.def(v), graph.ty(v).dtype);
    if !dtype.is_float() || has_no_sign(graph, v) {
        return true;
    }
    let operands = || node.operands.iter().map(|&x| has_no_negative_zero(graph, x));
    match &*node.op {
        Op::Pointwise(op) => match op.f {
            ScalarFn::Add => operands().any(|positive| positive),
            ScalarFn::Maximum => operands().all(|positive| positive),
            _ => false,
        },
        // Narrowing makes minus zero of small numbers.
        Op::Cast(_) => is_wider(graph.ty(node.operands[0]).dtype, dtype) && operands().all(|positive| positive),
        // A sum starts from zero, and does not underflow; one that is narrowed in the end may.
        Op::Reduce(op) => op.kind == ReduceKind::Sum && matches!(dtype, DType::F32 | DType::F64),
        op if op.is_view() => operands().all(|positive| positive),
        _ => false,
    }
}

/// Whether no element of a float value but a NaN has its sign bit set: rounding keeps that.
fn has_no_sign(graph: &Graph, v: Value) -> bool {
    let node = graph.def(v);
    match &*node.op {
        Op::Pointwise(op) => match op.f {
            ScalarFn::Exp | ScalarFn::Exp2 | ScalarFn::Sigmoid | ScalarFn::Abs => true,
            ScalarFn::Mul => node.operands[0] == node.operands[1],
            _ => false,
        },
        Op::Full(full) => full.value.get().is_sign_positive(),
        Op::Iota(_) => true,
        Op::Cast(_) => {
            let from = node.operands[0];
            matches!(graph.ty(from).dtype, DType::Bool | DType::U8 | DType::U32) || (graph.ty(from).dtype.is_float() && has_no_sign(graph, from))
        }
        op if op.is_view() => node.operands.iter().all(|&x| has_no_sign(graph, x)),
        _ => false,
    }
}

/// Whether every number of `from` is one of the float dtype `to`, or is an integer, which has no minus zero.
fn is_wider(from: DType, to: DType) -> bool {
    from == to || !from.is_float() || matches!((from, to), (DType::F16 | DType::BF16, DType::F32) | (_, DType::F64))
}
