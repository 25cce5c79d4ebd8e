//! Rules and the driver that applies them until none fires.
//!
//! * Comes in: a graph and a list of [`Rule`]s, each with a name and a direction.
//! * Goes out: a graph that computes the same, rebuilt old -> new through the builder with a value map.
//! * Invariants: a rule replaces all results of one node by values of the same types. Rules carry fuel: when it runs out, that
//!   is logged and the rest is copied as it stands, so a pair of rules that undo each other ends.
//! * Must not know: any particular rule; those live with the passes.
//! * Add here: questions about values that several rules ask, in `look.rs`.
//!
//! Nodes are visited in topological order, so a rule sees operands that are rewritten already; what a rule builds is visited in
//! its turn. Replacements carry the region and the provenance of the node they replace.

mod integers;
mod look;

pub use integers::{holds_up_to_row, integer_at};
pub use look::{SpreadReduction, has_no_negative_zero, scalar_call, spread_core, spread_reduction, stands_beside, through_broadcast, uniform};

use crate::graph::{Builder, Graph, Input, Node, NodeId, Operands, Output, Value, ValueMap};
use crate::ops::Op;
use crate::scalar::ScalarFn;
use crate::types::{Provenance, TensorType};
use std::borrow::Cow;

/// A node that a rule may replace, with its operands in the graph under construction.
pub struct Site<'a> {
    /// The new graph, built up to this node.
    pub b: &'a mut Builder,
    /// The node as it was: op, result types, region.
    pub node: &'a Node,
    /// Its operands in the new graph.
    pub operands: &'a [Value],
}

impl Site<'_> {
    /// The op.
    pub fn op(&self) -> &Op {
        &self.node.op
    }

    /// The node that computes a value of the new graph.
    pub fn def(&self, v: Value) -> &Node {
        self.b.graph().def(v)
    }

    /// Type of the first result.
    pub fn ty(&self) -> &TensorType {
        &self.node.types[0]
    }

    /// The operands, if the node is a call of that scalar function.
    pub fn call<const N: usize>(&self, f: ScalarFn) -> Option<[Value; N]> {
        match &*self.node.op {
            Op::Pointwise(op) if op.f == f => self.operands.try_into().ok(),
            _ => None,
        }
    }

    /// The operands of a value of the new graph, if it is a call of that scalar function.
    pub fn call_of<const N: usize>(&self, v: Value, f: ScalarFn) -> Option<[Value; N]> {
        scalar_call(self.b.graph(), v, f)
    }

    /// The number that every element of operand `k` is, if that is known.
    pub fn uniform(&self, k: usize) -> Option<f64> {
        uniform(self.b.graph(), *self.operands.get(k)?)
    }

    /// The same value in the type of the first result, when only broadcasting is between them.
    pub fn replace_by(&mut self, v: Value) -> Rewritten {
        if self.b.dtype(v) != self.ty().dtype {
            return Ok(None);
        }
        let shape = self.ty().shape.clone();
        Ok(Some(vec![self.b.broadcast_to(v, &shape)?]))
    }

    /// The node replaced by a number.
    pub fn replace_by_number(&mut self, x: f64) -> Rewritten {
        let ty = self.ty().clone();
        Ok(Some(vec![self.b.full(ty.dtype, x, ty.shape)?]))
    }
}

/// What a rule gives: values in place of the node's results, or nothing when it does not apply.
pub type Rewritten = Result<Option<Vec<Value>>, String>;

/// A named rewrite that goes one way.
pub struct Rule {
    /// Name, for logs: what becomes what.
    pub name: &'static str,
    /// Applies it to a node.
    pub apply: fn(&mut Site<'_>) -> Rewritten,
}

/// Firings allowed: a few for each node.
fn fuel_of(graph: &Graph) -> usize {
    64 + 8 * graph.nodes.len()
}

/// How often what a rule built may be replaced in its turn.
const MAX_DEPTH: usize = 64;

/// Applies rules, the first that fits at each node, until none fires.
///
/// One visit of each node is enough: nodes come after their operands, and rules look at operands only, so that what stands is
/// final when its users are visited. What a rule builds is visited before its value is used. Near-linear.
pub fn rewrite(mut graph: Cow<'_, Graph>, rules: &[&[Rule]]) -> Result<Graph, String> {
    let given = match &mut graph {
        Cow::Owned(graph) => Given {
            provenance: std::mem::take(&mut graph.provenance),
            inputs: std::mem::take(&mut graph.inputs),
            outputs: std::mem::take(&mut graph.outputs),
        },
        Cow::Borrowed(graph) => Given::copied(graph),
    };
    let mut rewriter = Rewriter { rules, fuel: fuel_of(&graph), replaced: ValueMap::default(), is_exhausted: false };
    let next = rebuild_from(&graph, given, |b, id, operands| rewriter.visit(b, graph.node(id), operands, 0))?;
    if rewriter.is_exhausted {
        let names: Vec<&str> = rules.iter().flat_map(|family| family.iter()).map(|r| r.name).collect();
        tracing::warn!(graph = graph.name, rules = names.join(", "), "rewriting ran out of fuel");
    }
    Ok(next)
}

struct Rewriter<'a> {
    rules: &'a [&'a [Rule]],
    fuel: usize,
    /// What stands for values that a rule built and another replaced: a builder that shares equal nodes gives them out again.
    replaced: ValueMap,
    is_exhausted: bool,
}

impl Rewriter<'_> {
    /// Final values in place of a node's results, or nothing when no rule fires.
    fn visit(&mut self, b: &mut Builder, node: &Node, operands: &[Value], depth: usize) -> Rewritten {
        let built = b.graph().nodes.len();
        let Some((rule, values)) = first_match(b, node, operands, self.rules)? else { return Ok(None) };
        if self.fuel == 0 || depth == MAX_DEPTH {
            self.is_exhausted = true;
            return Ok(None);
        }
        self.fuel -= 1;
        tracing::trace!(rule, "rule fired");
        for id in built..b.graph().nodes.len() {
            self.settle(b, NodeId(id as u32), depth + 1)?;
        }
        Ok(Some(values.into_iter().map(|v| self.resolve(v)).collect()))
    }

    /// Visits a node that a rule built.
    fn settle(&mut self, b: &mut Builder, id: NodeId, depth: usize) -> Result<(), String> {
        let node = b.graph().node(id).clone();
        let operands: Vec<Value> = node.operands.iter().map(|&v| self.resolve(v)).collect();
        let values = match self.visit(b, &node, &operands, depth)? {
            Some(values) => values,
            None if operands[..] != node.operands[..] => b.node(node.op, &operands)?,
            None => return Ok(()),
        };
        let results = (0..node.types.len() as u32).map(|result| Value { node: id, result });
        self.replaced.extend(results.zip(values).filter(|(old, new)| old != new));
        Ok(())
    }

    fn resolve(&self, mut v: Value) -> Value {
        while let Some(&next) = self.replaced.get(&v) {
            v = next;
        }
        v
    }
}

fn first_match(b: &mut Builder, node: &Node, operands: &[Value], rules: &[&[Rule]]) -> Result<Option<(&'static str, Vec<Value>)>, String> {
    for rule in rules.iter().flat_map(|family| family.iter()) {
        let mut site = Site { b: &mut *b, node, operands };
        if let Some(values) = (rule.apply)(&mut site).map_err(|m| format!("rule {}: {m}", rule.name))? {
            let found: Vec<&TensorType> = values.iter().map(|&v| b.ty(v)).collect();
            if found.len() != node.types.len() || found.iter().zip(node.types.iter()).any(|(a, b)| *a != b) {
                return Err(format!("rule {} changes the types of a node", rule.name));
            }
            return Ok(Some((rule.name, values)));
        }
    }
    Ok(None)
}

/// Rebuilds a graph node by node. `replace` gives values of the same types for a node's results, or nothing to have it copied; what it
/// builds carries the node's region and provenance. Nodes that nothing needs any more are dropped.
pub fn rebuild(graph: &Graph, replace: impl FnMut(&mut Builder, NodeId, &[Value]) -> Result<Option<Vec<Value>>, String>) -> Result<Graph, String> {
    rebuild_from(graph, Given::copied(graph), replace)
}

/// What a graph gives away to the one that comes of it: copies would be made of each name, and sharing where a node came from would look
/// at each.
struct Given {
    provenance: Vec<Provenance>,
    inputs: Vec<Input>,
    outputs: Vec<Output>,
}

impl Given {
    fn copied(graph: &Graph) -> Given {
        Given { provenance: graph.provenance.clone(), inputs: graph.inputs.clone(), outputs: graph.outputs.clone() }
    }
}

/// As [`rebuild`] of a graph without what it gave away.
fn rebuild_from(
    graph: &Graph,
    Given { mut provenance, inputs, outputs }: Given,
    mut replace: impl FnMut(&mut Builder, NodeId, &[Value]) -> Result<Option<Vec<Value>>, String>,
) -> Result<Graph, String> {
    let mut b = Builder::with_room(&graph.name, graph.nodes.len());
    b.reserve_border(inputs.len(), outputs.len());
    let mut map = ValueMap::default();
    b.adopt_inputs(graph, inputs, &mut provenance, &mut map);
    for (id, provenance) in graph.ids().zip(provenance) {
        if map.contains_key(&Value::first(id)) {
            continue;
        }
        let node = graph.node(id);
        let operands: Operands = node.operands.iter().map(|v| map[v]).collect();
        (b.provenance, b.region) = (provenance, node.region);
        let values = match replace(&mut b, id, &operands)? {
            Some(values) => values,
            None => {
                let provenance = std::mem::take(&mut b.provenance);
                b.adopt(Node { op: node.op.clone(), operands, types: node.types.clone(), region: node.region }, provenance)
            }
        };
        map.extend(graph.results(id).zip(values));
    }
    outputs.into_iter().for_each(|output| b.adopt_output(output, &map));
    Ok(b.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{InputRole, OutputRole};
    use crate::types::DType;

    fn graph(f: impl Fn(&mut Builder, Value) -> Value) -> Graph {
        let mut b = Builder::new("g");
        let x = b.input("x", InputRole::Input, TensorType::new(DType::F32, 3)).unwrap();
        let y = f(&mut b, x);
        b.output("y", OutputRole::User, y);
        b.finish()
    }

    const DOUBLE_NEGATION: Rule = Rule {
        name: "neg(neg(x)) -> x",
        apply: |site| {
            let inner = site.call::<1>(ScalarFn::Neg).and_then(|[x]| site.call_of::<1>(x, ScalarFn::Neg));
            Ok(inner.map(|[x]| vec![x]))
        },
    };

    #[test]
    fn rules_fire_to_a_fixpoint() {
        let g = graph(|b, x| (0..4).fold(x, |y, _| b.neg(y).unwrap()));
        assert_eq!(rewrite(Cow::Borrowed(&g), &[&[DOUBLE_NEGATION]]).unwrap().nodes.len(), 1);
    }

    #[test]
    fn names_of_inputs_that_came_from_another_graph_are_taken() {
        let (g, mut b, mut map) = (graph(|_, x| x), Builder::new("h"), ValueMap::default());
        b.adopt_inputs(&g, g.inputs.clone(), &mut g.provenance.clone(), &mut map);
        let mut named = |name: &str| b.input(name, InputRole::Input, TensorType::new(DType::F32, 3));
        assert!(named("z").is_ok());
        assert_eq!(["x", "z"].map(|name| named(name).unwrap_err()), ["there are two inputs named x", "there are two inputs named z"]);
    }

    #[test]
    fn rules_that_undo_each_other_run_out_of_fuel() {
        const THERE: Rule = Rule { name: "sin -> cos", apply: |site| swap(site, ScalarFn::Sin, ScalarFn::Cos) };
        const BACK: Rule = Rule { name: "cos -> sin", apply: |site| swap(site, ScalarFn::Cos, ScalarFn::Sin) };
        fn swap(site: &mut Site<'_>, from: ScalarFn, to: ScalarFn) -> Rewritten {
            let Some([x]) = site.call(from) else { return Ok(None) };
            Ok(Some(vec![site.b.scalar(to, &[x])?]))
        }
        let g = graph(|b, x| b.scalar(ScalarFn::Sin, &[x]).unwrap());
        assert_eq!(rewrite(Cow::Borrowed(&g), &[&[THERE, BACK]]).unwrap().nodes.len(), 2);
    }

    #[test]
    fn a_rule_that_changes_types_is_refused() {
        const BAD: Rule =
            Rule { name: "bad", apply: |site| if site.operands.is_empty() { Ok(None) } else { Ok(Some(vec![site.b.constant(DType::I32, 1.0)?])) } };
        let g = graph(|b, x| b.neg(x).unwrap());
        assert!(rewrite(Cow::Borrowed(&g), &[&[BAD]]).unwrap_err().contains("changes the types"));
    }
}
