//! Computes products in a half type.

use crate::graph::{Builder, Graph, Value, ValueMap};
use crate::ops::{Op, OpDef};
use crate::passes::change_bodies;
use crate::types::DType;

/// Products of f32 take their operands in `half` and give a result of it, in subgraphs too; everything else stays in f32.
///
/// ```text
/// %2 = matmul(%0, %1)   ->   %4 = matmul(cast(%0), cast(%1)) {f16}, cast(%4)
/// ```
///
/// Before autograd, so that gradients are products of halves, too. An operand of several products is converted once. What is between two
/// products is computed in f32, and stored as a half where only products read it. Linear.
pub(in crate::passes) fn halve_products(graph: &Graph, half: DType) -> Result<Graph, String> {
    let (mut b, mut map) = (Builder::new(&graph.name), ValueMap::default());
    let mut halves = ValueMap::default();
    b.copy_inputs(graph, &mut map)?;
    for id in graph.ids() {
        let node = graph.node(id);
        let mut op = Op::clone(&node.op);
        change_bodies(&mut op, |g| halve_products(g, half))?;
        let results: Vec<Value> = (0..node.types.len() as u32).map(|result| Value { node: id, result }).collect();
        if !op.is_product() || results.iter().any(|v| graph.ty(*v).dtype != DType::F32) {
            b.copy_changed_node(graph, id, op, &mut map)?;
            continue;
        }
        (b.region, b.provenance) = (node.region, graph.provenance(id).clone());
        let mut operands = vec![];
        for v in &node.operands {
            operands.push(match (graph.ty(*v).dtype, halves.get(v)) {
                (DType::F32, Some(known)) => *known,
                (DType::F32, None) => {
                    let cast = b.cast(map[v], half)?;
                    halves.insert(*v, cast);
                    cast
                }
                _ => map[v],
            });
        }
        for (v, result) in results.into_iter().zip(b.node(op, &operands)?) {
            map.insert(v, b.cast(result, DType::F32)?);
        }
    }
    for output in &graph.outputs {
        b.output(&output.name, output.role.clone(), map[&output.value]);
    }
    Ok(b.finish())
}
