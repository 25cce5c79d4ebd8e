//! Means and deviations that norms hand on beside their result.

use super::schema::{ExportedNode, TensorMeta};
use super::weights;
use crate::frontend::aten::args::Cx;
use crate::graph::Value;
use crate::types::DType;

/// The mean and deviation that a norm of half floats hands on, in the dtype that the program declares: which one that is depends on
/// the device that it was exported for.
pub fn as_declared(cx: &mut Cx, node: &ExportedNode, value: Value, meta: &TensorMeta) -> Result<Option<Value>, String> {
    let (found, declared) = (cx.b.dtype(value), weights::dtype(meta.dtype)?);
    let is_norm = ["batch_norm", "layer_norm", "group_norm"].iter().any(|name| node.target.contains(name));
    let is_wider = found == DType::F32 && matches!(declared, DType::F16 | DType::BF16);
    if is_norm && is_wider { cx.b.cast(value, declared).map(Some) } else { Ok(None) }
}
