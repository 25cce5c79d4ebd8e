//! Gradients within a graph that is being built: the derivative of a part of it, whose nodes go behind it.

use crate::graph::{Builder, NodeId, Value, ValueMap};
use crate::ops::{Constancy, Detach, Op, OpDef, VjpContext};
use crate::types::Location;

/// A mistake, and the line of the op that it is about.
pub type Fault = (String, Option<Location>);

/// The gradients of values of a graph, with a cotangent for each, with respect to other values of it; `None` where nothing flows.
///
/// The gradients are values as any other, so that they may be differentiated again. Where an operator states its partial derivatives,
/// these are differentiated themselves; where it carries a gradient that is not its own, the gradient's derivative is an error.
pub fn gradients_within(b: &mut Builder, of: &[(Value, Value)], wrt: &[Value]) -> Result<Vec<Option<Value>>, Fault> {
    let provenance = b.provenance.clone();
    let mut walk = Pullback { dependent: dependents(b, wrt), cotangents: ValueMap::default(), is_first_order: false, b };
    for &(value, cotangent) in of {
        walk.accumulate(value, cotangent).map_err(|m| (m, None))?;
    }
    for id in (0..walk.dependent.len() as u32).rev().map(NodeId) {
        let line = walk.b.graph().provenance(id).line().cloned();
        walk.differentiate(id).map_err(|m| (m, line))?;
    }
    walk.b.provenance = provenance;
    walk.finish(wrt).map_err(|m| (m, None))
}

/// For each node so far, whether a derivative passes from one of the values to it.
fn dependents(b: &Builder, wrt: &[Value]) -> Vec<bool> {
    let graph = b.graph();
    let mut dependent = vec![false; graph.nodes.len()];
    wrt.iter().for_each(|v| dependent[v.node.0 as usize] = true);
    for id in graph.ids() {
        let node = graph.node(id);
        let passes = |v: &Value| dependent[v.node.0 as usize] && graph.ty(*v).dtype.is_float();
        dependent[id.0 as usize] |= !node.op.stops_gradient() && node.operands.iter().any(passes);
    }
    dependent
}

struct Pullback<'b> {
    b: &'b mut Builder,
    dependent: Vec<bool>,
    cotangents: ValueMap,
    /// Whether a value on the way carries a gradient that is not its own.
    is_first_order: bool,
}

impl Pullback<'_> {
    fn accumulate(&mut self, value: Value, cotangent: Value) -> Result<(), String> {
        let depends = self.dependent.get(value.node.0 as usize).is_some_and(|d| *d);
        if !depends || !self.b.dtype(value).is_float() {
            return Ok(());
        }
        let sum = match self.cotangents.get(&value) {
            None => cotangent,
            Some(&before) => self.b.add(before, cotangent)?,
        };
        self.cotangents.insert(value, sum);
        Ok(())
    }

    fn differentiate(&mut self, id: NodeId) -> Result<(), String> {
        let node = self.b.graph().node(id).clone();
        let results: Vec<Value> = self.b.graph().results(id).collect();
        let cotangents: Vec<Option<Value>> = results.iter().map(|v| self.cotangents.get(v).copied()).collect();
        if node.operands.is_empty() || node.op.stops_gradient() || cotangents.iter().all(Option::is_none) {
            return Ok(());
        }
        self.b.provenance = self.b.graph().provenance(id).clone();
        let grads = match node.op.subgraphs().is_empty() || node.op.flow().is_some() {
            true => self.pull(&node.op, &node.operands, &results, &cotangents)?,
            false => self.pull_through_bodies(&node.op, &node.operands, &cotangents)?,
        };
        for (&operand, grad) in node.operands.iter().zip(grads) {
            if let Some(grad) = grad {
                self.accumulate(operand, grad)?;
            }
        }
        Ok(())
    }

    fn pull(&mut self, op: &Op, operands: &[Value], results: &[Value], cotangents: &[Option<Value>]) -> Result<Vec<Option<Value>>, String> {
        let wanted: Vec<bool> = operands.iter().map(|v| self.dependent.get(v.node.0 as usize).is_some_and(|d| *d)).collect();
        let operands: Vec<Value> = operands.iter().map(|&v| self.seen(v)).collect();
        let mut cx = VjpContext { b: self.b, operands: &operands, results, cotangents, wanted: &wanted, pull_back: &super::pull_back };
        op.vjp(&mut cx).map_err(|m| if m.starts_with(op.name()) { m } else { format!("{}: {m}", op.name()) })
    }

    /// What the derivative is made of in an operand's place.
    fn seen(&mut self, operand: Value) -> Value {
        let node = self.b.graph().def(operand);
        match &*node.op {
            Op::Detach(Detach { constancy: Constancy::Partial }) => node.operands[0],
            Op::Detach(Detach { constancy: Constancy::Surrogate }) => {
                self.is_first_order = true;
                operand
            }
            _ => operand,
        }
    }

    /// Through what a call decomposes into.
    fn pull_through_bodies(&mut self, op: &Op, operands: &[Value], cotangents: &[Option<Value>]) -> Result<Vec<Option<Value>>, String> {
        let region = self.b.region;
        let results = op.decompose(self.b, operands).ok_or_else(|| format!("{} is not differentiable", op.name()))??;
        self.b.region = region;
        let of: Vec<(Value, Value)> = results.into_iter().zip(cotangents).filter_map(|(v, g)| g.map(|g| (v, g))).collect();
        gradients_within(self.b, &of, operands).map_err(|(message, _)| message)
    }

    fn finish(self, wrt: &[Value]) -> Result<Vec<Option<Value>>, String> {
        let mut out = vec![];
        for v in wrt {
            out.push(match self.cotangents.get(v) {
                Some(&g) if self.is_first_order => Some(self.b.op(Detach { constancy: Constancy::Unknown }, &[g])?),
                other => other.copied(),
            });
        }
        Ok(out)
    }
}
