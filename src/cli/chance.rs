//! Which results of a program cannot be compared element by element: those that depend on random draws, or on memory that nobody
//! wrote.

use inductor::graph::{Graph, Node, Value};
use inductor::ops::{Class, Op, OpDef};
use std::collections::HashMap;

/// What a result depends on, in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Chance {
    /// Inputs alone.
    None,
    /// Random draws, each element on its own.
    Draws,
    /// Random draws, of which several elements share some.
    Shared,
    /// Memory that nobody wrote.
    Unwritten,
}

impl Chance {
    /// The end of a sentence about a result.
    pub fn describe(self) -> &'static str {
        match self {
            Chance::None => "depends on inputs alone",
            Chance::Draws | Chance::Shared => "depends on random draws",
            Chance::Unwritten => "reads memory that nobody wrote",
        }
    }
}

/// What each output of a graph depends on, by name.
pub fn of_outputs(graph: &Graph) -> HashMap<String, Chance> {
    let values = of_values(graph);
    graph.outputs.iter().map(|o| (o.name.clone(), values[&o.value])).collect()
}

/// What each value of a graph depends on.
fn of_values(graph: &Graph) -> HashMap<Value, Chance> {
    let mut known = HashMap::new();
    for id in graph.ids() {
        let node = graph.node(id);
        let operands: Vec<Chance> = node.operands.iter().map(|v| known[v]).collect();
        let chance = match of_node(&node.op, &operands) {
            Chance::Draws if !keeps_elements_apart(graph, node) => Chance::Shared,
            chance => chance,
        };
        known.extend((0..node.types.len() as u32).map(|result| (Value { node: id, result }, chance)));
    }
    known
}

/// Whether each element of the result depends on one element of each operand, and none of them on the same.
fn keeps_elements_apart(graph: &Graph, node: &Node) -> bool {
    let floats = node.operands.iter().filter(|v| graph.ty(**v).dtype.is_float()).count();
    match node.op.class() {
        Class::Pointwise | Class::Random => true,
        Class::View => node.operands.iter().all(|v| node.types.iter().all(|t| t.numel() == graph.ty(*v).numel())),
        // A draw for each element of one tensor, as in dropout.
        _ => node.op.is_random() && floats <= 1,
    }
}

fn of_node(op: &Op, operands: &[Chance]) -> Chance {
    let own = match (op.is_unwritten(), op.is_random()) {
        (true, _) => Chance::Unwritten,
        (_, true) => Chance::Draws,
        _ => Chance::None,
    };
    let held = op.subgraphs().iter().map(|body| of_values(body).into_values().max().unwrap_or(Chance::None)).max();
    operands.iter().copied().chain([own]).chain(held).max().unwrap_or(Chance::None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_outputs_depend_on() {
        let text = "graph main
  %0 = input x : f32[4, 3]
  %1 = input key key : u32[2]
  %2 = dropout(%0, %1) {p=0.5}
  %3 = exp(%2)
  %4 = reduce(%3) {kind=\"sum\", dims=[0], keepdim=false}
  %5 = empty() {dtype=\"f32\", shape=[4, 3]}
  %6 = add(%3, %5)
  %7 = exp(%0)
  return %3 as draws
  return %4 as shared
  return %6 as unwritten
  return %7 as none";
        let found = of_outputs(&inductor::graph::parse(text).unwrap());
        let expected = [("draws", Chance::Draws), ("shared", Chance::Shared), ("unwritten", Chance::Unwritten), ("none", Chance::None)];
        assert_eq!(found, expected.map(|(name, chance)| (name.to_string(), chance)).into());
    }
}
