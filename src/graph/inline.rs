//! Inlining of calls and decomposition of control flow.

use super::{Builder, Graph, NodeId, Policy, Region, Value, ValueMap};
use crate::ops::{Checkpoint, Op, OpDef};
use std::borrow::Cow;

/// Which ops that hold subgraphs give way to their bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inline {
    /// `checkpoint` and `invoke_subgraph`; `cond` and `scan` stay, with their bodies inlined in the same way.
    Calls,
    /// `cond` and `scan` as well, by their decompositions; `while_loop` stays. What tests hold loops and branches against.
    All,
}

/// The graph with calls replaced by their bodies, innermost bodies included. Values of a `checkpoint` carry a region tag of its
/// policy with an id of their own; an inner checkpoint's tag wins over an outer one's. Keys are passed as they are: whoever
/// records a call gives it a key of its own.
pub fn inline_subgraphs(graph: &Graph, which: Inline) -> Result<Cow<'_, Graph>, String> {
    if !graph.has_subgraphs() {
        return Ok(Cow::Borrowed(graph));
    }
    let mut inliner = Inliner { b: Builder::new(&graph.name), which, next_region: crate::ops::fresh_region(graph) };
    let mut map = ValueMap::default();
    inliner.b.copy_inputs(graph, &mut map)?;
    inliner.copy_nodes(graph, &mut map)?;
    for o in &graph.outputs {
        inliner.b.output(&o.name, o.role.clone(), map[&o.value]);
    }
    Ok(Cow::Owned(inliner.b.finish()))
}

struct Inliner {
    b: Builder,
    which: Inline,
    next_region: u32,
}

impl Inliner {
    fn copy_nodes(&mut self, graph: &Graph, map: &mut ValueMap) -> Result<(), String> {
        for id in graph.ids() {
            if map.contains_key(&Value::first(id)) {
                continue;
            }
            let results = match &*graph.node(id).op {
                Op::Checkpoint(call) => Some(self.checkpoint(graph, id, call, map)?),
                Op::InvokeSubgraph(call) => Some(self.under(graph, id, None, |s| s.call(&call.body, &operands(graph, id, map)))?),
                op if !op.subgraphs().is_empty() => self.control_flow(graph, id, op, map)?,
                _ => None,
            };
            match results {
                Some(values) => {
                    for (result, value) in values.into_iter().enumerate() {
                        map.insert(Value { node: id, result: result as u32 }, value);
                    }
                }
                None => self.b.copy_node(graph, id, map)?,
            }
        }
        Ok(())
    }

    fn checkpoint(&mut self, graph: &Graph, id: NodeId, call: &Checkpoint, map: &ValueMap) -> Result<Vec<Value>, String> {
        self.under(graph, id, Some(call.policy), |s| s.call(&call.body, &operands(graph, id, map)))
    }

    /// Control flow holding inlined bodies, or decomposed.
    fn control_flow(&mut self, graph: &Graph, id: NodeId, op: &Op, map: &ValueMap) -> Result<Option<Vec<Value>>, String> {
        let mut op = op.clone();
        let mut bodies = vec![];
        for body in op.subgraphs() {
            let inlined = inline_subgraphs(&body, self.which)?;
            bodies.push(std::sync::Arc::new(self.with_own_regions(&inlined)));
        }
        op.set_subgraphs(bodies);
        let operands = operands(graph, id, map);
        self.under(graph, id, None, |s| {
            if s.which == Inline::All
                && let Some(results) = op.decompose(&mut s.b, &operands)
            {
                return results.map(Some);
            }
            s.b.node(op, &operands).map(Some)
        })
    }

    /// The results of a body, node by node.
    fn call(&mut self, body: &Graph, operands: &[Value]) -> Result<Vec<Value>, String> {
        let body = self.with_own_regions(body);
        let mut map: ValueMap = body.inputs.iter().zip(operands).map(|(i, &v)| (i.value, v)).collect();
        self.copy_nodes(&body, &mut map)?;
        Ok(body.outputs.iter().map(|o| map[&o.value]).collect())
    }

    /// Builds under the provenance and region of a node, or under a fresh region.
    fn under<T>(
        &mut self,
        graph: &Graph,
        id: NodeId,
        policy: Option<Policy>,
        build: impl FnOnce(&mut Self) -> Result<T, String>,
    ) -> Result<T, String> {
        let outer = (self.b.provenance.clone(), self.b.region);
        self.b.provenance = graph.provenance(id).clone();
        self.b.provenance.merge(&outer.0);
        self.b.region = match policy {
            Some(policy) => {
                self.next_region += 1;
                Some(Region { id: self.next_region - 1, policy })
            }
            None => graph.node(id).region.or(outer.1),
        };
        let result = build(self);
        (self.b.provenance, self.b.region) = outer;
        result
    }

    /// The body with its region tags renumbered, so that two calls of it stay apart.
    fn with_own_regions(&mut self, body: &Graph) -> Graph {
        let mut body = body.clone();
        let shift = self.next_region;
        for region in body.nodes.iter_mut().filter_map(|n| n.region.as_mut()) {
            region.id += shift;
            self.next_region = self.next_region.max(region.id + 1);
        }
        body
    }
}

fn operands(graph: &Graph, id: NodeId, map: &ValueMap) -> Vec<Value> {
    graph.node(id).operands.iter().map(|v| map[v]).collect()
}
