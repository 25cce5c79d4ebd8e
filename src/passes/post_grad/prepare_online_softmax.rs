//! Row maximum and sum of exponentials in one pass.

use crate::graph::{Graph, NodeId, Value, ValueMap};
use crate::ops::{OnlineSoftmaxStats, Op, Reduce, ReduceKind};
use crate::rewrite::{rebuild, scalar_call, spread_reduction};
use crate::scalar::ScalarFn;
use crate::types::DType;
use std::collections::HashMap;

/// Shorter rows are read once anyway: a kernel keeps them at hand and takes both reductions from there.
const LONG_ROW: i64 = 1024;

/// Computes the maximum of a long row and the sum of its exponentials together.
///
/// ```text
/// %1 = amax(%0)                            %1:2 = online_softmax_stats(%0) {dim=1}
/// %2 = exp(sub(%0, expand(%1)))     ->     %2 = exp(sub(%0, expand(%1.0)))
/// %3 = sum(%2)                             (%1.1 in place of %3)
/// ```
///
/// Rows of at most 1,024 elements are left as they are. Requires one reduced dimension and f32 or f64 elements; gives the same
/// values but for rounding, infinities and NaN included. Source: Milakov and Gimelshein, "Online normalizer calculation for
/// softmax", 2018. PyTorch: `prepare_softmax_online`, post-grad as here, since on the joint graph it raised what is
/// saved. Linear.
pub(super) fn prepare_online_softmax(graph: &Graph) -> Result<Option<Graph>, String> {
    // Which result of the pair a reduction becomes, and of what along which dimension.
    let mut replaced: HashMap<NodeId, (usize, Value, u32)> = HashMap::new();
    for id in graph.ids() {
        if let Some((max, x, dim)) = softmax_sum(graph, id) {
            replaced.insert(max, (0, x, dim));
            replaced.insert(id, (1, x, dim));
        }
    }
    if replaced.is_empty() {
        return Ok(None);
    }
    let mut rows: ValueMap = ValueMap::default();
    rebuild(graph, |b, id, operands| {
        let Some(&(result, x, dim)) = replaced.get(&id) else { return Ok(None) };
        // The maximum comes first and reads the row itself; the sum reads its exponentials.
        if result == 0 {
            rows.insert(x, operands[0]);
        }
        let stats = b.node(OnlineSoftmaxStats { dim }, &[rows[&x]])?;
        let shape = graph.node(id).types[0].shape.clone();
        Ok(Some(vec![b.reshape(stats[result], shape)?]))
    })
    .map(Some)
}

/// The maximum, the row and the dimension, if a node is `sum(exp(x - amax(x)))` over a long row.
fn softmax_sum(graph: &Graph, id: NodeId) -> Option<(NodeId, Value, u32)> {
    let single = |op: &Reduce, kind| if op.kind == kind && op.dims.len() == 1 { Some(op.dims[0]) } else { None };
    let Op::Reduce(sum) = &*graph.node(id).op else { return None };
    let dim = single(sum, ReduceKind::Sum)?;
    let [shifted] = scalar_call(graph, graph.node(id).operands[0], ScalarFn::Exp)?;
    let [x, spread] = scalar_call(graph, shifted, ScalarFn::Sub)?;
    let max = spread_reduction(graph, spread)?;
    let ty = graph.ty(x);
    let is_long = ty.shape[dim as usize].range().1 > LONG_ROW;
    let fits = single(max.op, ReduceKind::Max) == Some(dim) && max.operand == x && matches!(ty.dtype, DType::F32 | DType::F64);
    let same_region = graph.node(id).region == graph.def(max.value).region;
    (fits && is_long && same_region).then_some((max.value.node, x, dim))
}
