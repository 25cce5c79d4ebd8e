//! The graph IR: immutable, hash-consed nodes with several results, closed subgraphs, roles at the border.
//!
//! * Comes in: ops with operands, through [`Builder`], the only door; or graph text, through [`parse`].
//! * Goes out: [`Graph`], read by every later stage.
//! * Invariants (checked by [`verify`], which collects every fault):
//!   operands precede their users; result types equal what the op infers; no two nodes of one region agree on op and
//!   operands; inputs and outputs carry roles and unique names; subgraphs are closed, and their signatures agree with
//!   the op that holds them.
//! * Semantics: everything is pure; a node is its op applied to its operands; evaluation order is any topological order.
//! * Text: `parse(print(g)) == g`. Provenance is a side set, printed as a comment and not part of equality.
//! * Must not know: particular ops (it asks [`crate::ops::OpDef`]), passes, kernels.
//! * Add here: a shorthand of [`Builder`] in `shorthand.rs`; a check in `verify.rs`. A new op needs nothing here.

mod adopt;
mod assume;
mod build;
mod concretize;
mod freeze;
mod inline;
mod outline;
mod parse;
mod shorthand;
mod text;
mod value_map;
mod verify;

pub use build::Builder;
pub use concretize::{concretize, map_dims};
pub use freeze::{freeze, is_frozen};
pub use inline::{Inline, inline_subgraphs};
pub use outline::outline;
pub(crate) use outline::{close, is_computed, needed_inside};
pub use parse::parse;
pub use text::print;
pub use value_map::ValueMap;
pub use verify::{size_conflicts, verify};

use crate::ops::{Op, OpDef};
use crate::types::{Guard, Provenance, TensorType};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::sync::Arc;

/// A node of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeId(pub u32);

/// One result of a node: what operands are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Value {
    /// The node.
    pub node: NodeId,
    /// Which of its results.
    pub result: u32,
}

/// What recomputation a checkpoint region allows; left on nodes when the region is inlined after autograd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Values of the region are recomputed in the backward, never saved.
    MustRecompute,
    /// Values of the region are saved.
    MustSave,
}

/// A region tag: nodes of different regions are never merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Region {
    /// Distinguishes regions of one graph.
    pub id: u32,
    /// What the partitioner must do.
    pub policy: Policy,
}

/// Operands of a node: nearly all have three or fewer.
pub type Operands = SmallVec<[Value; 3]>;

/// A node: an op applied to operands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// The op with its attributes, which copies share.
    pub op: Arc<Op>,
    /// Operands, in the op's order.
    pub operands: Operands,
    /// Types of the results, which copies share.
    pub types: Arc<[TensorType]>,
    /// The checkpoint region, if any.
    pub region: Option<Region>,
}

/// What an input is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputRole {
    /// User data of one step.
    Input,
    /// A trained parameter.
    Parameter,
    /// State that is not trained (running statistics).
    Buffer,
    /// Optimizer state.
    Optimizer,
    /// A random key, `u32[2]`.
    Key,
    /// The cotangent of an output.
    Cotangent,
    /// A 0-d number given per step, such as a learning rate.
    HostScalar,
    /// A constant tensor carried by the program.
    Constant,
    /// The gradient of a parameter, read by the update graph.
    Gradient,
    /// A value saved by the forward, read by the backward.
    Saved,
}

impl InputRole {
    /// Whether it lives across steps.
    pub fn is_state(&self) -> bool {
        matches!(self, InputRole::Parameter | InputRole::Buffer | InputRole::Optimizer)
    }

    /// Whether every step is given it anew.
    pub fn is_given(&self) -> bool {
        matches!(self, InputRole::Input | InputRole::Cotangent | InputRole::Key | InputRole::HostScalar)
    }
}

/// What an output is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputRole {
    /// A result for the user.
    User,
    /// The scalar that is differentiated.
    Loss,
    /// The gradient of the input of that name.
    Gradient(String),
    /// The norm of the gradient of the parameter of that name.
    GradientNorm(String),
    /// The new value of the parameter, buffer, optimizer state or mutated input of that name.
    NewValue(String),
    /// A value saved for the backward.
    Saved,
}

/// An input of a graph.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Input {
    /// Unique name; parameters are named by path, as in safetensors files.
    pub name: String,
    /// What it is for.
    pub role: InputRole,
    /// Its value inside the graph.
    pub value: Value,
}

/// An output of a graph.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Output {
    /// Unique name among outputs.
    pub name: String,
    /// What it is for.
    pub role: OutputRole,
    /// The value.
    pub value: Value,
}

/// A closed pure program. Build one with [`Builder`].
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Name, for text and messages.
    pub name: String,
    /// Nodes in topological order.
    pub nodes: Vec<Node>,
    /// Inputs, in signature order. Each is an `input` node.
    pub inputs: Vec<Input>,
    /// Outputs, in signature order.
    pub outputs: Vec<Output>,
    /// Where each node came from; as long as `nodes`.
    pub provenance: Vec<Provenance>,
    /// What it assumes about the sizes of its inputs, whose types imply it.
    pub guards: Vec<Guard>,
}

impl PartialEq for Graph {
    fn eq(&self, other: &Graph) -> bool {
        self.name == other.name
            && self.nodes == other.nodes
            && self.inputs == other.inputs
            && self.outputs == other.outputs
            && self.guards == other.guards
    }
}
impl Eq for Graph {}
impl std::hash::Hash for Graph {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        self.nodes.hash(state);
        self.outputs.hash(state);
    }
}

impl Graph {
    /// The node of that id.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// The node that computes a value.
    pub fn def(&self, value: Value) -> &Node {
        self.node(value.node)
    }

    /// The type of a value.
    pub fn ty(&self, value: Value) -> &TensorType {
        &self.def(value).types[value.result as usize]
    }

    /// Where a node came from.
    pub fn provenance(&self, id: NodeId) -> &Provenance {
        &self.provenance[id.0 as usize]
    }

    /// The results of a node.
    pub fn results(&self, id: NodeId) -> impl Iterator<Item = Value> + use<> {
        (0..self.node(id).types.len() as u32).map(move |result| Value { node: id, result })
    }

    /// Ids in topological order.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// The input of that name.
    pub fn input(&self, name: &str) -> Option<&Input> {
        self.inputs.iter().find(|i| i.name == name)
    }

    /// The output of that name.
    pub fn output(&self, name: &str) -> Option<&Output> {
        self.outputs.iter().find(|o| o.name == name)
    }

    /// Inputs of parts that were never taken out: [`Builder::placeholder`]s that are still read.
    pub fn placeholders(&self) -> impl Iterator<Item = NodeId> {
        let listed = |index: u32| self.inputs.get(index as usize).is_some();
        self.ids().filter(move |&id| matches!(&*self.node(id).op, Op::InputOp(op) if !listed(op.index)))
    }

    /// Whether an op holds a graph.
    pub fn has_subgraphs(&self) -> bool {
        self.nodes.iter().any(|n| !n.op.subgraphs().is_empty())
    }

    /// Number of uses of each value by operands and outputs, indexed by node and result.
    pub fn use_counts(&self) -> Vec<Vec<u32>> {
        let mut counts: Vec<Vec<u32>> = self.nodes.iter().map(|n| vec![0; n.types.len()]).collect();
        let operands = self.nodes.iter().flat_map(|n| n.operands.iter().copied());
        for v in operands.chain(self.outputs.iter().map(|o| o.value)) {
            counts[v.node.0 as usize][v.result as usize] += 1;
        }
        counts
    }

    /// Which nodes the outputs depend on. Inputs count as needed.
    pub fn live(&self) -> Vec<bool> {
        let mut live = vec![false; self.nodes.len()];
        for v in self.outputs.iter().map(|o| o.value).chain(self.inputs.iter().map(|i| i.value)) {
            live[v.node.0 as usize] = true;
        }
        for id in self.ids().rev() {
            if live[id.0 as usize] {
                for v in &self.node(id).operands {
                    live[v.node.0 as usize] = true;
                }
            }
        }
        live
    }
}

impl Value {
    /// The first result of a node.
    pub fn first(node: NodeId) -> Value {
        Value { node, result: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::Node;

    /// Every pass reads all nodes and writes them anew: what is not in one line of a cache is read twice.
    #[test]
    fn a_node_is_one_line_of_a_cache() {
        assert_eq!(size_of::<Node>(), 64);
    }
}
