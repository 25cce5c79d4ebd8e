//! Derivatives of what holds bodies.

use super::{Seed, Wrt, dependents, joint_graph};
use crate::graph::{Builder, Graph, InputRole, OutputRole, ValueMap};
use crate::ops::{Op, OpDef};
use std::borrow::Cow;

/// The gradient of a body, as `VjpContext::pull_back` has it: inputs of the body, then a cotangent for each float output; a gradient
/// for each float input, zeros where nothing flows.
pub fn pull_back(body: &Graph) -> Result<Graph, String> {
    let mut joint = joint_graph(&numbered(body), Wrt::Inputs, Seed::Each).map_err(|e| e.to_string())?;
    joint.outputs.retain(|o| matches!(o.role, OutputRole::Gradient(_)));
    joint.outputs.iter_mut().for_each(|o| o.role = OutputRole::User);
    joint.inputs.iter_mut().filter(|i| i.role == InputRole::Cotangent).for_each(|i| i.role = InputRole::Input);
    Ok(joint)
}

/// The body with numbers for names, since cotangents are named by outputs, and bodies of derivatives have such names already.
fn numbered(body: &Graph) -> Graph {
    let mut out = body.clone();
    for (k, input) in out.inputs.iter_mut().enumerate() {
        input.name = format!("x{k}");
        if input.role != InputRole::Key {
            input.role = InputRole::Input;
        }
    }
    out.outputs.iter_mut().enumerate().for_each(|(k, o)| (o.name, o.role) = (format!("y{k}"), OutputRole::User));
    out
}

/// The graph with the results that derivatives of its nodes read beside their own, where a gradient passes.
pub(super) fn saving(graph: Cow<'_, Graph>, wrt: Wrt) -> Result<Cow<'_, Graph>, String> {
    if !graph.has_subgraphs() {
        return Ok(graph);
    }
    let dependent = dependents(&graph, wrt);
    let (mut b, mut map) = (Builder::new(&graph.name), ValueMap::default());
    b.copy_inputs(&graph, &mut map)?;
    for id in graph.ids() {
        let op = &graph.node(id).op;
        let passes = dependent[id.0 as usize].contains(&true);
        let op = if passes { op.saving() } else { None }.unwrap_or_else(|| Op::clone(op));
        b.copy_changed_node(&graph, id, op, &mut map)?;
    }
    for output in &graph.outputs {
        b.output(&output.name, output.role.clone(), map[&output.value]);
    }
    Ok(Cow::Owned(b.finish()))
}
