//! Replacing symbolic sizes by numbers.

use super::Graph;
use crate::ops::OpDef;
use crate::types::{Bindings, Dim, TensorType};
use std::cell::RefCell;
use std::sync::Arc;

/// The graph with every symbol replaced by its value, subgraphs included; the error names a symbol without one. Node
/// numbering stays. For evaluation: nodes that differed in a symbol may have become equal, and stay apart.
pub fn concretize(graph: &Graph, bindings: &Bindings) -> Result<Graph, String> {
    let fault = RefCell::new(None);
    let out = map_dims(graph, &|d| match d.eval(bindings) {
        Ok(n) => Dim::int(n),
        Err(message) => {
            fault.borrow_mut().get_or_insert(message);
            d.clone()
        }
    });
    match fault.into_inner() {
        Some(message) => Err(message),
        None => Ok(out),
    }
}

/// The graph with every size in types and attributes replaced, subgraphs included. Node numbering stays.
pub fn map_dims(graph: &Graph, f: &dyn Fn(&Dim) -> Dim) -> Graph {
    let mut out = graph.clone();
    for node in &mut out.nodes {
        Arc::make_mut(&mut node.op).map_dims(f);
        node.types = node.types.iter().map(|ty| TensorType { dtype: ty.dtype, shape: ty.shape.map(f) }).collect();
    }
    out
}
