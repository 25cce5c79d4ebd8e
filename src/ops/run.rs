//! Reference evaluation of a whole graph: what `eval` and the ops that hold subgraphs share.

use super::{Array, Op, OpDef, Precision};
use crate::graph::{Graph, NodeId};

/// A node that could not be evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The node, if the fault belongs to one.
    pub node: Option<NodeId>,
    /// What is wrong, naming the op.
    pub message: String,
}

impl From<Fault> for String {
    fn from(fault: Fault) -> String {
        fault.message
    }
}

/// Outputs of a graph without symbols. Arrays are dropped after their last use.
pub fn run(graph: &Graph, inputs: &[Array], precision: Precision) -> Result<Vec<Array>, Fault> {
    let mut uses = graph.use_counts();
    let mut values = evaluate_nodes(graph, inputs, precision, &mut |values, node| {
        for v in &graph.node(node).operands {
            let left = &mut uses[v.node.0 as usize][v.result as usize];
            *left -= 1;
            if *left == 0 {
                values[v.node.0 as usize][v.result as usize] = empty();
            }
        }
    })?;
    let mut outputs = Vec::with_capacity(graph.outputs.len());
    for o in &graph.outputs {
        let (slot, left) = (&mut values[o.value.node.0 as usize][o.value.result as usize], &mut uses[o.value.node.0 as usize]);
        left[o.value.result as usize] -= 1;
        outputs.push(if left[o.value.result as usize] == 0 { std::mem::replace(slot, empty()) } else { slot.clone() });
    }
    Ok(outputs)
}

/// Results of every node of a graph without symbols, indexed by node and result.
pub fn run_all(graph: &Graph, inputs: &[Array], precision: Precision) -> Result<Vec<Vec<Array>>, Fault> {
    evaluate_nodes(graph, inputs, precision, &mut |_, _| {})
}

/// Evaluates node by node; `done` sees all values after each node.
fn evaluate_nodes(
    graph: &Graph,
    inputs: &[Array],
    precision: Precision,
    done: &mut dyn FnMut(&mut [Vec<Array>], NodeId),
) -> Result<Vec<Vec<Array>>, Fault> {
    check_inputs(graph, inputs).map_err(|message| Fault { node: None, message })?;
    let mut values: Vec<Vec<Array>> = Vec::with_capacity(graph.nodes.len());
    for id in graph.ids() {
        let node = graph.node(id);
        let results = match &*node.op {
            Op::InputOp(input) => vec![inputs[input.index as usize].clone()],
            op => {
                let operands: Vec<Array> = node.operands.iter().map(|v| values[v.node.0 as usize][v.result as usize].clone()).collect();
                let fault = |message| Fault { node: Some(id), message: format!("{}: {message}", op.name()) };
                op.eval(&operands, &node.types, precision).map_err(fault)?
            }
        };
        values.push(results);
        done(&mut values, id);
    }
    Ok(values)
}

fn check_inputs(graph: &Graph, inputs: &[Array]) -> Result<(), String> {
    if inputs.len() != graph.inputs.len() {
        return Err(format!("graph {} takes {} inputs, got {}", graph.name, graph.inputs.len(), inputs.len()));
    }
    for (input, array) in graph.inputs.iter().zip(inputs) {
        let ty = graph.ty(input.value);
        if ty.dtype != array.dtype || ty.shape.as_ints().as_ref() != Some(&array.shape) {
            return Err(format!("{}: expected {ty}, got {}{:?}", input.name, array.dtype, array.shape));
        }
    }
    Ok(())
}

fn empty() -> Array {
    Array::int(crate::types::DType::Bool, vec![0], vec![])
}
