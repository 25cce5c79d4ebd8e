//! The last states of an LSTM. Over more than one sequence PyTorch declares one dimension of one more for them than they have, and
//! its decomposition gives them so: it squeezes another dimension than that of time. Here they have the operator's shape, and what
//! was traced behind them follows it.
//!
//! A call that the author made has his arguments: it is applied to the right shape. What PyTorch made of a call has sizes and
//! dimensions of the wrong shape in it. A product flattens leading dimensions and restores them, so that the size too many is
//! found there; any other such call is refused.

use super::schema::{Argument, ExportedNode};
use crate::frontend::aten::args::{Arg, Args, Scalar};
use crate::types::Shape;
use std::collections::HashMap;

const LSTM: &str = "torch.ops.aten.lstm.input";
const VIEW: &str = "torch.ops.aten.view.default";
/// Functions whose decomposition only flattens leading dimensions and restores them.
const FLATTENING: [&str; 3] = ["linear", "matmul", "__matmul__"];

/// Shapes that the program declares otherwise than they are.
#[derive(Debug, Default)]
pub struct Misdeclared {
    /// The right shape and the declared one, by the tensor's name.
    tensors: HashMap<String, (Shape, Shape)>,
    /// Products of such tensors, with the dimension too many and the declared rank.
    products: HashMap<String, (usize, usize)>,
    /// Whether the LSTM was decomposed, and with it all other calls.
    decomposed: bool,
}

impl Misdeclared {
    /// Whether a result may have another shape than the declared one.
    pub fn may_differ(&self, node: &ExportedNode) -> bool {
        let differs = |name: &&str| self.tensors.contains_key(*name);
        let gives = |a: &Argument| matches!(a, Argument::Graph(body) if body.graph.outputs.iter().flat_map(Argument::tensors).any(|n| differs(&n)));
        gives_states(node)
            || self.products.contains_key(&node.metadata.torch_fn)
            || node.reads().iter().any(differs)
            || node.inputs.iter().any(|a| gives(&a.arg))
    }

    /// Notes a result that does.
    pub fn insert(&mut self, node: &ExportedNode, name: &str, right: Shape, declared: Shape) {
        self.decomposed |= gives_states(node) && node.target != LSTM;
        self.tensors.insert(name.to_string(), (right, declared));
    }

    /// Makes a call's arguments fit the right shapes, or says why that cannot be.
    pub fn follow(&mut self, node: &ExportedNode, args: &mut Args) -> Result<(), String> {
        if !self.decomposed || is_the_authors(node) {
            return Ok(());
        }
        let read = node.reads().into_iter().find_map(|n| self.tensors.get(n));
        if let Some((right, declared)) = read {
            let flattens = FLATTENING.contains(&node.function()) && node.target == VIEW;
            match extra_dim(right, declared) {
                Some(extra) if flattens => drop(self.products.insert(node.metadata.torch_fn.clone(), (extra, declared.rank()))),
                Some(extra) if acts_before(args, extra) => {}
                _ if is_lstm(node) || args.iter_mut().any(|a| names_dimensions(a)) => return Err(unclear(node, right, declared)),
                _ => {}
            }
        }
        if let Some(&(extra, rank)) = self.products.get(&node.metadata.torch_fn).filter(|_| node.target == VIEW) {
            for arg in args.iter_mut() {
                match arg {
                    Arg::Dims(sizes) if sizes.len() == rank => drop(sizes.remove(extra)),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// The shape that the last states of a decomposed LSTM have, where a call gives them with one dimension more. Nothing else in it
/// has four dimensions.
pub fn states_shape(node: &ExportedNode, shape: &Shape) -> Option<Shape> {
    let is_state = gives_states(node) && node.target == VIEW && shape.rank() == 4 && shape[1].is(1);
    is_state.then(|| without(shape, 1))
}

/// Whether a call is an LSTM, or the part of one that may give its last states.
fn gives_states(node: &ExportedNode) -> bool {
    node.target == LSTM || node.target == VIEW && is_lstm(node)
}

/// Whether a call is a part of what an LSTM was decomposed into.
fn is_lstm(node: &ExportedNode) -> bool {
    node.function() == "lstm"
}

/// Whether a call is what the author wrote: an operator under its function's name, or a part that subscripts take.
fn is_the_authors(node: &ExportedNode) -> bool {
    let operator = node.target.strip_prefix("torch.ops.aten.").and_then(|t| t.split('.').next()).unwrap_or_default();
    let function = node.function();
    match operator {
        "view" if function == "reshape" => true,
        "select" | "slice" | "unsqueeze" | "index" if function == "__getitem__" => true,
        _ => plain(operator) == plain(function),
    }
}

/// `_softmax` is `softmax`, `native_layer_norm` is `layer_norm`.
fn plain(name: &str) -> &str {
    let name = name.trim_matches('_');
    name.strip_prefix("native_").unwrap_or(name)
}

/// Whether an argument may be sizes or dimensions.
fn names_dimensions(arg: &Arg) -> bool {
    matches!(arg, Arg::Dims(_) | Arg::Scalar(Scalar::Int(_)))
}

/// Whether a call acts along dimensions that both shapes have at the same place.
fn acts_before(args: &Args, extra: usize) -> bool {
    let dims = if args.has("dim") { args.ints("dim").unwrap_or_default() } else { vec![] };
    !dims.is_empty() && dims.iter().all(|d| (0..extra as i64).contains(d))
}

/// The dimension of one that the declared shape has too many: the last of several that stand side by side and are all the same.
fn extra_dim(right: &Shape, declared: &Shape) -> Option<usize> {
    (0..declared.rank()).rfind(|&d| declared[d].is(1) && without(declared, d) == *right)
}

fn without(shape: &Shape, dim: usize) -> Shape {
    let mut sizes = shape.0.to_vec();
    sizes.remove(dim);
    Shape::new(sizes)
}

fn unclear(node: &ExportedNode, right: &Shape, declared: &Shape) -> String {
    format!(
        "PyTorch decomposed {} for {declared}, a shape that its decomposition of lstm gets wrong: it is {right}; export without run_decompositions",
        node.function()
    )
}
