//! Parts of a recorded program as closed graphs: what was recorded by a closure becomes the body of an op.

use crate::error::TraceFault;
use crate::graph::{Builder, Graph, InputRole, NodeId, Value, ValueMap, close, is_computed, needed_inside};
use crate::ops::{Class, Cond, OpDef, Scan, WhileLoop};
use crate::types::Dim;
use std::sync::Arc;

/// What was recorded from a node on, by a closure that was given some values as its arguments.
pub(super) struct Region<'a> {
    /// The whole program so far.
    pub graph: &'a Graph,
    /// Its first node.
    pub start: usize,
    /// Placeholders: the first inputs of the body.
    pub arguments: &'a [Value],
}

impl Region<'_> {
    /// Whether a value is computed in the region. Constants are, wherever they were first recorded.
    fn is_inside(&self, v: Value) -> bool {
        self.graph.def(v).op.class() == Class::Source || is_computed(self.graph, self.start, v)
    }

    /// The nodes of the region that the results need, in order.
    fn needed(&self, results: &[Value]) -> Vec<NodeId> {
        needed_inside(self.graph, results, |v| self.is_inside(v))
    }

    /// Values from outside that the results are computed from, in order of first use.
    pub fn captures(&self, results: &[Value]) -> Vec<Value> {
        let needed = self.needed(results);
        let read = needed.iter().flat_map(|&id| self.graph.node(id).operands.iter());
        let mut out: Vec<Value> = vec![];
        for &v in read.chain(results) {
            if !self.is_inside(v) && !self.arguments.contains(&v) && !out.contains(&v) {
                out.push(v);
            }
        }
        out
    }

    /// The closed graph from arguments and captured values to the results. The recorded nodes stay behind, unused, and are dropped when
    /// the trace is finished. A captured key of the program is a key of the body.
    pub fn body(&self, name: &str, captured: &[Value], results: &[Value]) -> Result<Graph, String> {
        let (mut body, mut map) = (Builder::new(name), ValueMap::default());
        for &v in self.arguments.iter().chain(captured) {
            let given = self.graph.inputs.iter().find(|i| i.value == v);
            let role = if given.is_some_and(|i| i.role == InputRole::Key) { InputRole::Key } else { InputRole::Input };
            map.insert(v, body.input(&format!("x.{}", body.graph().inputs.len()), role, self.graph.ty(v).clone())?);
        }
        close(body, map, self.graph, &self.needed(results), results)
    }
}

/// One of two lists of values that were recorded from `start` on.
pub(super) fn cond(b: &mut Builder, start: usize, predicate: Value, yes: &[Value], no: &[Value]) -> Result<Vec<Value>, String> {
    let region = Region { graph: b.graph(), start, arguments: &[] };
    let captured = region.captures(&[yes, no].concat());
    let [then_body, else_body] = [Arc::new(region.body("then", &captured, yes)?), Arc::new(region.body("else", &captured, no)?)];
    b.node(Cond { then_body, else_body }, &[&[predicate], &captured[..]].concat())
}

/// What a scan takes: starting values and stacked tensors.
pub(super) struct Scanned<'a> {
    /// Trips.
    pub length: Dim,
    /// From the last to the first.
    pub reverse: bool,
    /// Starting values.
    pub init: &'a [Value],
    /// What is sliced.
    pub xs: &'a [Value],
}

/// A loop over what was recorded from `start` on of its arguments: next values of what is carried, then what is stacked.
pub(super) fn scan(b: &mut Builder, start: usize, of: Scanned<'_>, arguments: &[Value], results: &[Value]) -> Result<Vec<Value>, String> {
    let region = Region { graph: b.graph(), start, arguments };
    let captured = region.captures(results);
    let body = Arc::new(region.body("trip", &captured, results)?);
    let (carries, stacked) = (of.init.len() as u32, of.xs.len() as u32);
    b.node(Scan { length: of.length, reverse: of.reverse, carries, stacked, body }, &[of.init, of.xs, &captured].concat())
}

/// A loop over what was recorded from `start` on of its arguments: whether to go on, and the next values.
pub(super) fn while_loop(
    b: &mut Builder,
    start: usize,
    init: &[Value],
    arguments: &[Value],
    holds: Value,
    next: &[Value],
) -> Result<Vec<Value>, String> {
    let region = Region { graph: b.graph(), start, arguments };
    let captured = region.captures(&[&[holds], next].concat());
    let [condition, body] = [Arc::new(region.body("condition", &captured, &[holds])?), Arc::new(region.body("trip", &captured, next)?)];
    b.node(WhileLoop { carries: Some(init.len() as u32), condition, body }, &[init, &captured].concat())
}

/// Arguments of mapped functions and of bodies that are read where nobody gives them.
pub(super) fn stray_placeholders(graph: &Graph) -> Vec<TraceFault> {
    let reader = |id: NodeId| graph.nodes.iter().position(|n| n.operands.iter().any(|v| v.node == id)).unwrap_or(id.0 as usize);
    let message = "a value from inside a mapped function, or a body of scan, map, cond or while_loop, is read outside of it: return it from there";
    let at = |id| graph.provenance[reader(id)].line().cloned();
    graph.placeholders().map(|id| TraceFault { location: at(id), message: message.into() }).collect()
}
