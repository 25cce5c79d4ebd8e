//! Raises attention written out by hand.

use crate::graph::{Graph, Value};
use crate::ops::{Matmul, Op, OpDef, Permute, Real, ScaledDotProductAttention, Softmax};
use crate::rewrite::{Rewritten, Rule, Site, holds_up_to_row, scalar_call, uniform};
use crate::scalar::ScalarFn;

/// Raises `softmax(q k^T * scale + mask) v` to attention.
///
/// ```text
/// %3 = matmul(%0, %1) {transpose_b=true}
/// %4 = mul(%3, 0.125)
/// %5 = softmax(%4) {dim=3}          ->   %3 = scaled_dot_product_attention(%0, %1, %2) {scale=0.125}
/// %6 = matmul(%5, %2)
/// ```
///
/// One structural matcher instead of a list of templates: `k` transposed by the product or by a permutation; the scale on
/// the product or on either operand, as a factor or a divisor, or absent; then an added mask, or one that selects minus
/// infinity where it is false; `iota >= iota` is recognized as causal. A row that attends to nothing is NaN written by
/// hand and zero in attention, as in PyTorch. PyTorch: `_sfdp_pattern_1` to `_30`. Linear.
///
/// Programs that were decomposed on their way here flatten the leading dimensions of each product; these are taken apart again.
pub(in crate::passes) const RULES: &[Rule] = &[
    Rule { name: "reshape(matmul(reshape(x), reshape(y))) over leading dimensions -> matmul(x, y)", apply: unflatten },
    Rule { name: "softmax(q k^T * scale + mask) v -> attention", apply: attention },
];

fn unflatten(site: &mut Site<'_>) -> Rewritten {
    let Op::Reshape(_) = site.op() else { return Ok(None) };
    let Op::Matmul(op) = &*site.def(site.operands[0]).op else { return Ok(None) };
    let (op, flat) = (op.clone(), site.def(site.operands[0]).operands.clone());
    let lead = |v: Value| site.b.shape(v).0.split_last_chunk::<2>();
    let (Some((leading, matrix)), Some((_, product))) = (site.ty().shape.0.split_last_chunk::<2>(), lead(site.operands[0])) else { return Ok(None) };
    let mut whole = vec![];
    for &v in &flat {
        let Op::Reshape(_) = *site.def(v).op else { return Ok(None) };
        let below = site.def(v).operands[0];
        let (Some((outer, inner)), Some((_, of_flat))) = (lead(below), lead(v)) else { return Ok(None) };
        if outer != leading || inner != of_flat {
            return Ok(None);
        }
        whole.push(below);
    }
    if matrix != product {
        return Ok(None);
    }
    Ok(Some(vec![site.b.op(op, &whole)?]))
}

/// What the scores are made of.
struct Scores {
    q: Value,
    k: Value,
    /// Whether `k` is `[..., s, d]`, else its transpose.
    k_in_rows: bool,
    scale: f64,
    causal: bool,
    mask: Option<Value>,
}

fn attention(site: &mut Site<'_>) -> Rewritten {
    let Op::Matmul(Matmul { transpose_a: false, transpose_b: false }) = site.op() else { return Ok(None) };
    let (weights, v) = (site.operands[0], site.operands[1]);
    let (p, dropout, key) = match &*site.def(weights).op {
        Op::Dropout(op) => (site.def(weights).operands[0], op.p, site.def(weights).operands.get(1).copied()),
        _ => (weights, Real::new(0.0), None),
    };
    let Op::Softmax(Softmax { dim }) = *site.def(p).op else { return Ok(None) };
    if dim as usize + 1 != site.b.shape(p).rank() {
        return Ok(None);
    }
    let masked = site.def(p).operands[0];
    let Some(Scores { q, k, k_in_rows, scale, causal, mask }) = scores(site.b.graph(), masked) else { return Ok(None) };
    let k = if k_in_rows { k } else { in_rows(site, k)? };
    let op = ScaledDotProductAttention { causal, scale: Some(Real::new(scale)), dropout };
    let operands: Vec<Value> = [q, k, v].into_iter().chain(mask).chain(key).collect();
    let types: Vec<_> = operands.iter().map(|&v| site.b.ty(v).clone()).collect();
    // Masks that broadcast otherwise, or products with other leading dimensions, are not attention.
    if op.infer(&types).is_err() {
        return Ok(None);
    }
    Ok(Some(vec![site.b.op(op, &operands)?]))
}

/// The transpose of a transposed key: what was transposed, where that is at hand.
fn in_rows(site: &mut Site<'_>, k: Value) -> Result<Value, String> {
    if let Op::Permute(Permute { order }) = &*site.def(k).op {
        let last = order.len() as u32 - 1;
        let swaps_last = order[..order.len() - 2].iter().enumerate().all(|(i, &o)| i as u32 == o) && order[order.len() - 2..] == [last, last - 1];
        if swaps_last {
            return Ok(site.def(k).operands[0]);
        }
    }
    site.b.transpose(k)
}

/// Takes masks off, then scales, until the product of q and the transposed k.
fn scores(graph: &Graph, v: Value) -> Option<Scores> {
    let (mut inner, mut causal, mut mask) = (v, false, None);
    loop {
        if let Some(below) = causal_mask(graph, inner).filter(|_| !causal) {
            (inner, causal) = (below, true);
        } else if let Some((below, given)) = explicit_mask(graph, inner).filter(|_| mask.is_none()) {
            (inner, mask) = (below, Some(given));
        } else {
            break;
        }
    }
    let (scale, product) = scaled(graph, inner);
    let node = graph.def(product);
    let Op::Matmul(op) = &*node.op else { return None };
    if op.transpose_a {
        return None;
    }
    let ((on_q, q), (on_k, k)) = (scaled(graph, node.operands[0]), scaled(graph, node.operands[1]));
    Some(Scores { q, k, k_in_rows: op.transpose_b, scale: scale * on_q * on_k, causal, mask })
}

/// A value without its constant factors and divisors.
fn scaled(graph: &Graph, v: Value) -> (f64, Value) {
    let number = |v| uniform(graph, v).filter(|c| c.is_finite() && *c != 0.0);
    let (factor, inner) = if let Some([x, y]) = scalar_call(graph, v, ScalarFn::Mul) {
        match (number(x), number(y)) {
            (_, Some(c)) => (c, x),
            (Some(c), _) => (c, y),
            _ => return (1.0, v),
        }
    } else if let Some([x, y]) = scalar_call(graph, v, ScalarFn::Div) {
        match number(y) {
            Some(c) => (1.0 / c, x),
            None => return (1.0, v),
        }
    } else {
        return (1.0, v);
    };
    let (rest, base) = scaled(graph, inner);
    (factor * rest, base)
}

/// The scores below a selection of columns not after the row.
fn causal_mask(graph: &Graph, v: Value) -> Option<Value> {
    let [condition, yes, no] = scalar_call(graph, v, ScalarFn::Where)?;
    let hidden = |v| uniform(graph, v) == Some(f64::NEG_INFINITY);
    match (hidden(yes), hidden(no)) {
        (_, true) => (holds_up_to_row(graph, condition) == Some(true)).then_some(yes),
        (true, _) => (holds_up_to_row(graph, condition) == Some(false)).then_some(no),
        _ => None,
    }
}

/// The scores below a mask, and the mask before it was expanded: a bool that selects minus infinity, or a float added.
fn explicit_mask(graph: &Graph, v: Value) -> Option<(Value, Value)> {
    let small = |v: Value| match *graph.def(v).op {
        Op::Expand(_) => graph.def(v).operands[0],
        _ => v,
    };
    if let Some([condition, inner, fill]) = scalar_call(graph, v, ScalarFn::Where) {
        return (uniform(graph, fill) == Some(f64::NEG_INFINITY)).then(|| (inner, small(condition)));
    }
    let [x, y] = scalar_call(graph, v, ScalarFn::Add)?;
    let leads_to_product = |v: Value| {
        let below = causal_mask(graph, v).unwrap_or(v);
        matches!(*graph.def(scaled(graph, below).1).op, Op::Matmul(_))
    };
    match (leads_to_product(x), leads_to_product(y)) {
        (true, _) => Some((x, small(y))),
        (_, true) => Some((y, small(x))),
        _ => None,
    }
}
