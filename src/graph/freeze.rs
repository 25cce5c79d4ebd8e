//! Parameters that are not trained: every reader gets the detached value, so that no gradient of them is ever computed.

use super::{Builder, Graph, InputRole, Value, ValueMap};
use crate::ops::{Detach, OpDef};
use crate::types::Provenance;

/// The graph in which parameters of those names are constants to derivatives.
pub fn freeze(graph: &Graph, chosen: &dyn Fn(&str) -> bool) -> Result<Graph, String> {
    let (mut b, mut map) = (Builder::like(&graph.name, graph), ValueMap::default());
    b.copy_inputs(graph, &mut map)?;
    for input in graph.inputs.iter().filter(|i| i.role == InputRole::Parameter && chosen(&i.name)) {
        b.provenance = graph.provenance(input.value.node).clone();
        let detached = b.op(Detach::default(), &[map[&input.value]])?;
        map.insert(input.value, detached);
    }
    b.provenance = Provenance::default();
    for id in graph.ids() {
        b.copy_node(graph, id, &mut map)?;
    }
    for output in &graph.outputs {
        b.output(&output.name, output.role.clone(), map[&output.value]);
    }
    Ok(b.finish())
}

/// Whether every reader of a value gets it detached, and there is one.
pub fn is_frozen(graph: &Graph, value: Value) -> bool {
    let readers: Vec<_> = graph.nodes.iter().filter(|n| n.operands.contains(&value)).collect();
    let is_output = graph.outputs.iter().any(|o| o.value == value);
    !readers.is_empty() && !is_output && readers.iter().all(|n| n.op.stops_gradient())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::OutputRole;
    use crate::types::{DType, TensorType};

    #[test]
    fn readers_get_the_detached_value() {
        let mut b = Builder::new("g");
        let ty = TensorType::new(DType::F32, 3);
        let (w, v) = (b.input("w", InputRole::Parameter, ty.clone()).unwrap(), b.input("v", InputRole::Parameter, ty).unwrap());
        let y = b.mul(w, v).unwrap();
        let y = b.add(y, w).unwrap();
        b.output("y", OutputRole::User, y);
        let graph = freeze(&b.finish(), &|name| name == "w").unwrap();
        let frozen: Vec<bool> = graph.inputs.iter().map(|i| is_frozen(&graph, i.value)).collect();
        assert_eq!(frozen, [true, false]);
        assert_eq!(graph.nodes.iter().filter(|n| n.op.stops_gradient()).count(), 1);
        assert_eq!(super::super::verify(&graph), Vec::<String>::new());
    }
}
