//! What tracing gives.

use super::Initializer;
use crate::error::{Error, Result, TraceFault};
use crate::graph::{Builder, Graph, Input, InputRole, Value, ValueMap};
use crate::ops::{Op, OpDef};
use std::sync::Arc;

/// A traced program: the graph, and how its parameters and buffers start.
#[derive(Clone, Debug, Default)]
pub struct Traced {
    /// The forward graph.
    pub graph: Graph,
    /// Name and initializer of each parameter and buffer, in input order.
    pub initializers: Vec<(String, Initializer)>,
    /// What keeps a program that was recorded for training from being an inference program: where it asked.
    pub training_only: Vec<TraceFault>,
}

impl Traced {
    /// The same program with dropout off, as [`trace_eval`](super::trace_eval) would record it; keys that nothing reads are gone.
    /// A program that asked [`Trace::training`](super::Trace::training) while it was recorded for training cannot be told to do
    /// otherwise afterwards (a norm would use the batch's statistics, and move the running ones): that is an error, and the program
    /// is to be recorded with `trace_eval`.
    pub fn inference(&self) -> Result<Traced> {
        if !self.training_only.is_empty() {
            return Err(Error::Trace(self.training_only.clone()));
        }
        let failed = |message: String| Error::compile(format!("inference: {message}"));
        let graph = inference(&self.graph, &[]).map_err(failed)?;
        let used = graph.use_counts();
        let idle = |i: &&Input| i.role == InputRole::Key && used[i.value.node.0 as usize][0] == 0;
        let idle: Vec<&str> = graph.inputs.iter().filter(idle).map(|i| i.name.as_str()).collect();
        let graph = inference(&graph, &idle).map_err(failed)?;
        Ok(Traced { graph, ..self.clone() })
    }

    /// The initializer of the parameter or buffer of that name; zeros when none was recorded.
    pub fn initializer(&self, name: &str) -> Initializer {
        self.initializers.iter().find(|(n, _)| n == name).map_or(Initializer::Zeros, |(_, i)| i.clone())
    }
}

/// `graph` with every op as it is when a model is used, also in subgraphs; without the unused inputs named in `idle`.
fn inference(graph: &Graph, idle: &[&str]) -> Result<Graph, String> {
    let (mut b, mut map) = (Builder::new(&graph.name), ValueMap::default());
    b.assume_guards(&graph.guards);
    for input in graph.inputs.iter().filter(|i| !idle.contains(&i.name.as_str())) {
        b.provenance = graph.provenance(input.value.node).clone();
        map.insert(input.value, b.input(&input.name, input.role.clone(), graph.ty(input.value).clone())?);
    }
    for id in graph.ids() {
        let node = graph.node(id);
        if graph.inputs.iter().any(|i| i.value.node == id) {
            continue;
        }
        let operands: Vec<Value> = node.operands.iter().map(|v| map[v]).collect();
        b.provenance = graph.provenance(id).clone();
        b.region = node.region;
        let bodies = node.op.subgraphs().iter().map(|body| inference(body, &[]).map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
        let mut op = Op::clone(&node.op);
        op.set_subgraphs(bodies);
        let results = match op.in_inference(&mut b, &operands) {
            Some(results) => results?,
            None => b.node(op, &operands)?,
        };
        for (result, value) in results.into_iter().enumerate() {
            map.insert(Value { node: id, result: result as u32 }, value);
        }
    }
    for output in &graph.outputs {
        b.output(&output.name, output.role.clone(), map[&output.value]);
    }
    Ok(b.finish())
}
