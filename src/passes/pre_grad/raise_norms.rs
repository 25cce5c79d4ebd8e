//! Raises layer norm and RMS norm written out by hand.

use crate::graph::{Graph, Value};
use crate::ops::{LayerNorm, Op, Real, ReduceKind, RmsNorm};
use crate::rewrite::{Rewritten, Rule, Site, scalar_call, spread_core, stands_beside, uniform};
use crate::scalar::ScalarFn;
use crate::types::Dim;

/// Raises norms over trailing dimensions to ops with their own derivative.
///
/// ```text
/// %2 = sub(%0, expand(mean(%0)))
/// %3 = mean(mul(%2, %2))
/// %4 = div(%2, expand(sqrt(add(%3, 1e-5))))    ->   %2 = layer_norm(%0, %1) {dims=1, eps=1e-5}
/// %5 = mul(%4, expand(%1))
/// ```
///
/// The mean is `mean`, a sum divided by the count, or a sum times its reciprocal; the variance is `var` without correction,
/// or the mean of the squares of what was centered; the division is by a root, or a product with `rsqrt` or a reciprocal.
/// A following product with a weight and sum with a bias of the normalized shape are taken in. Without centering the same is
/// an RMS norm. In half floats the raised form rounds once. Linear.
pub(in crate::passes) const RULES: &[Rule] = &[
    Rule { name: "(x - mean) / sqrt(var + eps) -> layer_norm(x)", apply: layer_norm },
    Rule { name: "x / sqrt(mean(x^2) + eps) -> rms_norm(x)", apply: rms_norm },
    Rule { name: "norm(x) * weight -> norm(x, weight)", apply: weight },
    Rule { name: "layer_norm(x, weight) + bias -> layer_norm(x, weight, bias)", apply: bias },
];

/// A statistic of rows: over which dimensions, of what.
struct Statistic {
    dims: Vec<u32>,
    of: Value,
}

/// The mean over some dimensions, in the shape it has before it is spread.
fn mean(graph: &Graph, v: Value) -> Option<Statistic> {
    let v = spread_core(graph, v);
    let node = graph.def(v);
    if let Op::Mean(op) = &*node.op {
        return Some(Statistic { dims: op.dims.clone(), of: node.operands[0] });
    }
    let sum = |v: Value| match &*graph.def(spread_core(graph, v)).op {
        Op::Reduce(op) if op.kind == ReduceKind::Sum => Some(Statistic { dims: op.dims.clone(), of: graph.def(spread_core(graph, v)).operands[0] }),
        _ => None,
    };
    let count = |s: &Statistic| Dim::product(s.dims.iter().map(|&d| &graph.ty(s.of).shape[d as usize])).as_int().map(|n| n as f64);
    let dtype = graph.ty(v).dtype;
    if let Some([x, n]) = scalar_call(graph, v, ScalarFn::Div) {
        return sum(x).filter(|s| count(s).is_some() && uniform(graph, n) == count(s));
    }
    let [x, y] = scalar_call(graph, v, ScalarFn::Mul)?;
    let by = |x: Value, factor: Value| sum(x).filter(|s| count(s).is_some_and(|n| uniform(graph, factor) == Some(dtype.round(1.0 / n))));
    by(x, y).or_else(|| by(y, x))
}

/// The mean of squares.
fn mean_square(graph: &Graph, v: Value) -> Option<Statistic> {
    let s = mean(graph, v)?;
    let squared = match scalar_call(graph, s.of, ScalarFn::Mul) {
        Some([x, y]) if x == y => Some(x),
        _ => match scalar_call(graph, s.of, ScalarFn::Pow) {
            Some([x, two]) if uniform(graph, two) == Some(2.0) => Some(x),
            _ => None,
        },
    };
    squared.map(|of| Statistic { of, ..s })
}

/// What `v` centers, if it is `x - mean(x)`.
fn centered(graph: &Graph, v: Value) -> Option<Statistic> {
    let [x, m] = scalar_call(graph, v, ScalarFn::Sub)?;
    mean(graph, m).filter(|s| s.of == x && stands_beside(graph, m, x, &s.dims))
}

/// `x`, the inner value and eps, if the node is `x / sqrt(inner + eps)` in one of its spellings; the last value is what stood
/// beside `x`.
fn over_root(site: &Site<'_>) -> Option<(Value, Value, f64, Value)> {
    let graph = site.b.graph();
    let with_eps = |v: Value| {
        let v = spread_core(graph, v);
        let Some([x, y]) = scalar_call(graph, v, ScalarFn::Add) else { return Some((v, 0.0)) };
        match (uniform(graph, x), uniform(graph, y)) {
            (_, Some(eps)) => Some((x, eps)),
            (Some(eps), _) => Some((y, eps)),
            _ => None,
        }
    };
    // A power of one half is a root with a derivative of its own, which the norm replaces.
    let plain = |v: Value| scalar_call::<2>(graph, v, ScalarFn::StraightThrough).map_or(v, |[y, _]| y);
    let root = |v: Value, f| scalar_call::<1>(graph, plain(spread_core(graph, v)), f).map(|[x]| x);
    if let Some([x, spread]) = site.call(ScalarFn::Div) {
        let (inner, eps) = with_eps(root(spread, ScalarFn::Sqrt)?)?;
        return Some((x, inner, eps, spread));
    }
    let [a, b] = site.call(ScalarFn::Mul)?;
    for (x, spread) in [(a, b), (b, a)] {
        let under = root(spread, ScalarFn::Rsqrt).or_else(|| root(spread, ScalarFn::Reciprocal).and_then(|r| root(r, ScalarFn::Sqrt)));
        if let Some((inner, eps)) = under.and_then(with_eps) {
            return Some((x, inner, eps, spread));
        }
    }
    None
}

/// The number of trailing dimensions, if that is what `dims` are.
fn trailing(graph: &Graph, x: Value, dims: &[u32]) -> Option<u32> {
    let rank = graph.ty(x).shape.rank() as u32;
    let n = dims.len() as u32;
    (n > 0 && dims.iter().copied().eq(rank.checked_sub(n)?..rank)).then_some(n)
}

fn layer_norm(site: &mut Site<'_>) -> Rewritten {
    let graph = site.b.graph();
    let Some((d, variance, eps, spread)) = over_root(site) else { return Ok(None) };
    let Some(Statistic { dims, of: x }) = centered(graph, d) else { return Ok(None) };
    let variance = spread_core(graph, variance);
    let of_rows = match &*graph.def(variance).op {
        Op::Var(op) => op.correction == 0 && op.dims == dims && graph.def(variance).operands[0] == x,
        _ => mean_square(graph, variance).is_some_and(|s| s.of == d && s.dims == dims),
    };
    let Some(n) = trailing(graph, x, &dims).filter(|_| of_rows && stands_beside(graph, spread, x, &dims)) else { return Ok(None) };
    Ok(Some(vec![site.b.op(LayerNorm { dims: n, eps: Real::new(eps) }, &[x])?]))
}

fn rms_norm(site: &mut Site<'_>) -> Rewritten {
    let graph = site.b.graph();
    let Some((x, square, eps, spread)) = over_root(site) else { return Ok(None) };
    let Some(s) = mean_square(graph, square).filter(|s| s.of == x) else { return Ok(None) };
    let Some(n) = trailing(graph, x, &s.dims).filter(|_| stands_beside(graph, spread, x, &s.dims)) else { return Ok(None) };
    Ok(Some(vec![site.b.op(RmsNorm { dims: n, eps: Real::new(eps) }, &[x])?]))
}

/// The parameter before it was broadcast, if `v` repeats a value of the last `dims` dimensions' shape.
fn parameter(graph: &Graph, v: Value, dims: u32) -> Option<Value> {
    let core = spread_core(graph, v);
    let small = match *graph.def(v).op {
        Op::Expand(_) => graph.def(v).operands[0],
        _ => v,
    };
    let (shape, small) = (&graph.ty(v).shape.0, &graph.ty(small).shape.0);
    let (lead, last) = small.split_at(shape.len() - dims as usize);
    let repeats_rows = lead.iter().all(|d| d.is(1)) && last == &shape[lead.len()..];
    (repeats_rows && graph.ty(core).shape.0 == last).then_some(core)
}

fn weight(site: &mut Site<'_>) -> Rewritten {
    let graph = site.b.graph();
    let Some([a, b]) = site.call(ScalarFn::Mul) else { return Ok(None) };
    for (norm, spread) in [(a, b), (b, a)] {
        let node = graph.def(norm);
        let dims = match &*node.op {
            Op::LayerNorm(op) => op.dims,
            Op::RmsNorm(op) => op.dims,
            _ => continue,
        };
        if let ([x], Some(w)) = (&node.operands[..], parameter(graph, spread, dims)) {
            let (op, x) = (node.op.clone(), *x);
            return Ok(Some(vec![site.b.op(op, &[x, w])?]));
        }
    }
    Ok(None)
}

fn bias(site: &mut Site<'_>) -> Rewritten {
    let graph = site.b.graph();
    let Some([a, b]) = site.call(ScalarFn::Add) else { return Ok(None) };
    for (norm, spread) in [(a, b), (b, a)] {
        let node = graph.def(norm);
        let Op::LayerNorm(op) = &*node.op else { continue };
        if let ([x, w], Some(bias)) = (&node.operands[..], parameter(graph, spread, op.dims)) {
            let (op, x, w) = (op.clone(), *x, *w);
            return Ok(Some(vec![site.b.op(op, &[x, w, bias])?]));
        }
    }
    Ok(None)
}
