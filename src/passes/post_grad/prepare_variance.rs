//! Sums of squared deviations in one pass.

use crate::graph::{Graph, NodeId, Value, ValueMap};
use crate::ops::{Op, Reduce, ReduceKind, SquaredDeviations};
use crate::rewrite::{rebuild, scalar_call, spread_core, stands_beside, uniform};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim};
use std::collections::HashMap;

/// Rows of at most so many elements are read once anyway: a kernel keeps them at hand and takes the mean and the deviations from
/// there.
const LONG_ROW: i64 = 16384;

/// Computes the squared deviations of columns, or of very long rows, beside their sum and not after it.
///
/// ```text
/// %2 = div(sum(%0), n)                            %2 = div(sum(%0), n)
/// %3 = sub(%0, expand(%2))                 ->     %3 = squared_deviations(%0)
/// %5 = sum(mul(%3, %3))                           (%3 in place of %5)
/// ```
///
/// Requires f32 elements, at least one to a mean. Rows of up to 16,384 elements along the last dimension are left as they
/// are. Gives the same values but for rounding. Source: Welford 1962; PyTorch computes `var_mean` so. Linear.
pub(super) fn prepare_variance(graph: &Graph) -> Result<Option<Graph>, String> {
    let found: HashMap<NodeId, (Value, Vec<u32>)> = graph.ids().filter_map(|id| Some((id, deviations(graph, id)?))).collect();
    if found.is_empty() {
        return Ok(None);
    }
    // New values of the operands: nodes precede their users.
    let mut built: ValueMap = ValueMap::default();
    rebuild(graph, |b, id, operands| {
        let node = graph.node(id);
        for (old, new) in node.operands.iter().zip(operands) {
            built.insert(*old, *new);
        }
        let Some((x, dims)) = found.get(&id) else { return Ok(None) };
        let sum = b.op(SquaredDeviations { dims: dims.clone() }, &[built[x]])?;
        Ok(Some(vec![b.reshape(sum, node.types[0].shape.clone())?]))
    })
    .map(Some)
}

/// What a node sums the squared deviations of, and over which dimensions, if it does and one pass pays.
fn deviations(graph: &Graph, id: NodeId) -> Option<(Value, Vec<u32>)> {
    let Op::Reduce(Reduce { kind: ReduceKind::Sum, dims, .. }) = &*graph.node(id).op else { return None };
    let [a, b] = scalar_call(graph, graph.node(id).operands[0], ScalarFn::Mul)?;
    let [x, spread] = scalar_call(graph, a, ScalarFn::Sub)?;
    let ty = graph.ty(x);
    let last = ty.shape.rank().checked_sub(1)? as u32;
    let count = Dim::product(dims.iter().map(|d| &ty.shape[*d as usize]));
    let pays = !dims.contains(&last) || count.range().0 > LONG_ROW;
    let fits = a == b && ty.dtype == DType::F32 && count.range().0 > 0 && pays;
    let same_region = graph.node(id).region == graph.def(a).region;
    (fits && same_region && is_mean_of(graph, spread, x, dims, &count)).then(|| (x, dims.clone()))
}

/// Whether `spread` repeats `sum(x over dims) / count` beside `x`.
fn is_mean_of(graph: &Graph, spread: Value, x: Value, dims: &[u32], count: &Dim) -> bool {
    let mean = spread_core(graph, spread);
    let Some([sum, divisor]) = scalar_call(graph, mean, ScalarFn::Div) else { return false };
    let sum = spread_core(graph, sum);
    let Op::Reduce(Reduce { kind: ReduceKind::Sum, dims: of, .. }) = &*graph.def(sum).op else { return false };
    let counts = uniform(graph, divisor).is_some_and(|n| count.as_int().is_some_and(|c| n == c as f64));
    of == dims && graph.def(sum).operands[0] == x && counts && stands_beside(graph, spread, x, dims)
}
