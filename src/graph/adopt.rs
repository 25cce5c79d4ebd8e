//! Inputs and outputs that come from another graph.

use super::build::Built;
use super::{Builder, Graph, Input, Output, Value, ValueMap};
use crate::types::Provenance;

impl Builder {
    /// Declares the same inputs as `graph`, with what it assumes about them, and maps them.
    pub fn copy_inputs(&mut self, graph: &Graph, map: &mut ValueMap) -> Built<()> {
        for input in &graph.inputs {
            map.insert(input.value, self.copy_input(graph, input)?);
        }
        self.assume_guards(&graph.guards);
        Ok(())
    }

    /// Declares the inputs of `graph`, in its order, as the first of this one, and maps them; they came from there.
    pub(crate) fn adopt_inputs(&mut self, graph: &Graph, inputs: Vec<Input>, provenance: &mut [Provenance], map: &mut ValueMap) {
        for input in inputs {
            let id = self.push(graph.def(input.value).clone(), std::mem::take(&mut provenance[input.value.node.0 as usize]));
            let value = Value::first(id);
            map.insert(input.value, value);
            self.graph.inputs.push(Input { value, ..input });
        }
        self.assume_guards(&graph.guards);
    }

    /// Declares one input as in `graph`, where it came from included.
    pub fn copy_input(&mut self, graph: &Graph, input: &Input) -> Built {
        let value = self.input(&input.name, input.role.clone(), graph.ty(input.value).clone())?;
        self.graph.provenance[value.node.0 as usize] = graph.provenance(input.value.node).clone();
        Ok(value)
    }

    /// Adds an output that came from another graph.
    pub(crate) fn adopt_output(&mut self, output: Output, map: &ValueMap) {
        self.graph.outputs.push(Output { value: map[&output.value], ..output });
    }
}
