//! Subgraphs that run once, in place of which their nodes stand, and what holds inside: whether gradients flow, and to which
//! dtype operators cast their arguments by themselves.
//!
//! Where gradients are off, each new value is detached, and each write in place keeps the gradient of the old value. Regions
//! nest; gradients may be on again within a region without them. `inference_mode`, and `.data` in PyTorch's strict mode, leave no
//! trace in an exported program, which has gradients there in PyTorch, too.
//!
//! Operators that take functions (`cond`, `map`, `scan`, `while_loop`) are in `control.rs`.

use super::convert::{Converter, Item, declared_dtype};
use super::schema::{Argument, ExportedGraph, ExportedNode, GraphArgument};
use super::weights;
use super::{autocast, control};
use crate::frontend::aten::args::{Args, Cx};
use crate::types::DType;
use std::collections::HashMap;

/// Subgraphs within subgraphs beyond this are refused.
const DEPTH: usize = 16;

/// Operators that hold a subgraph which runs once, and what they say about it.
const KNOWN: &[&str] = &["wrap_with_set_grad_enabled", "wrap_with_autocast", "hints_wrapper", "wrap"];

/// Whether a higher-order operator of that name is supported.
pub fn is_known(name: &str) -> bool {
    KNOWN.contains(&name) || control::takes_functions(name)
}

/// What holds in a subgraph.
#[derive(Clone, Copy, Debug, Default)]
pub struct Region {
    depth: usize,
    without_gradients: bool,
    /// The dtype of automatic casts, where there are any.
    autocast: Option<DType>,
}

impl Region {
    /// Whether new values have gradients.
    pub fn has_gradients(&self) -> bool {
        !self.without_gradients
    }

    /// Casts the arguments of a call as automatic casts do here.
    pub fn cast_arguments(&self, cx: &mut Cx, target: &str, args: &mut Args, declared: Option<DType>) -> Result<(), String> {
        self.autocast.map_or(Ok(()), |dtype| autocast::cast_arguments(cx, target, args, dtype, declared))
    }

    /// Whether operators cast their arguments by themselves.
    pub(super) fn casts(&self) -> bool {
        self.autocast.is_some()
    }

    /// What holds in the subgraph of a call.
    pub(super) fn inner(&self, node: &ExportedNode) -> Result<Region, String> {
        let mut inner = Region { depth: self.depth + 1, ..*self };
        if inner.depth > DEPTH {
            return Err("subgraphs are nested too deeply".into());
        }
        match node.target.rsplit('.').next() {
            Some("wrap_with_set_grad_enabled") => match node.inputs.first().map(|a| &a.arg) {
                Some(Argument::Bool(enabled)) => inner.without_gradients = !enabled,
                other => return Err(format!("whether gradients are enabled is {other:?}")),
            },
            Some("wrap_with_autocast") => inner.autocast = self.casts_of(node)?,
            _ => {}
        }
        Ok(inner)
    }

    /// Arguments are a kind of device, a dtype, whether casts are enabled, and whether they are cached.
    fn casts_of(&self, node: &ExportedNode) -> Result<Option<DType>, String> {
        let given: Vec<&Argument> = node.inputs.iter().map(|a| &a.arg).collect();
        let [Argument::Text(device), dtype, Argument::Bool(enabled), ..] = given[..] else {
            return Err("its arguments are no device, dtype and flag".into());
        };
        match (device.as_str(), dtype) {
            (_, _) if !enabled => Ok(None),
            ("cpu", Argument::ScalarType(n)) => weights::dtype(*n).map(Some),
            ("cpu", Argument::None) => Ok(Some(DType::BF16)),
            ("cpu", other) => Err(format!("casts to {other:?} are not supported")),
            (other, _) => {
                Err(format!("automatic casts of the device {other} are not supported; export the model on the CPU, or with explicit casts"))
            }
        }
    }
}

/// Whether the program declares f32 for what computes in the lower precision of automatic casts.
fn declares_no_cast(node: &ExportedNode, graph: &ExportedGraph) -> bool {
    autocast::lowers(&node.target) && matches!(declared_dtype(node, graph), Ok(Some(DType::F32)))
}

impl Converter<'_> {
    /// A call whose subgraph runs once.
    pub(super) fn higher_order(&mut self, node: &ExportedNode, graph: &ExportedGraph) -> Result<(), String> {
        let at = node.inputs.iter().position(|a| matches!(a.arg, Argument::Graph(_))).ok_or("it has no subgraph")?;
        let Argument::Graph(body) = &node.inputs[at].arg else { return Err("it has no subgraph".into()) };
        let names = node.inputs[at + 1..].iter().filter_map(|a| if let Argument::Tensor(name) = &a.arg { Some(name.as_str()) } else { None });
        let operands = names.map(|name| self.item(name).cloned()).collect::<Result<Vec<Item>, String>>()?;
        let results = self.inline(node, body, operands);
        let tensor = |item| if let Item::Tensor(t) = item { Ok(t) } else { Err("a result of its subgraph is no tensor".to_string()) };
        let results = results?.into_iter().map(tensor).collect::<Result<_, _>>()?;
        self.define_results(node, graph, results)
    }

    /// The results of the subgraph of a call.
    pub(super) fn inline(&mut self, node: &ExportedNode, body: &GraphArgument, operands: Vec<Item>) -> Result<Vec<Item>, String> {
        let inner = self.region.inner(node)?;
        self.cast_unseen |= inner.casts() && body.graph.nodes.iter().any(|n| declares_no_cast(n, &body.graph));
        let outer = std::mem::replace(&mut self.region, inner);
        let results = self.inline_here(body, operands);
        self.region = outer;
        results
    }

    fn inline_here(&mut self, body: &GraphArgument, operands: Vec<Item>) -> Result<Vec<Item>, String> {
        if body.graph.inputs.len() != operands.len() {
            return Err(format!("its subgraph takes {} tensors, it has {}", body.graph.inputs.len(), operands.len()));
        }
        let mut inner = HashMap::new();
        for (input, operand) in body.graph.inputs.iter().zip(operands) {
            let Argument::Tensor(name) = input else { return Err("an input of its subgraph is no tensor".into()) };
            if inner.insert(name.clone(), operand).is_some() {
                return Err(format!("{name} is an input of its subgraph twice"));
            }
        }
        let outer = std::mem::replace(&mut self.names, inner);
        let provenance = self.cx.b.provenance.clone();
        let done = self.run(&body.graph);
        self.cx.b.provenance = provenance;
        let inner = std::mem::replace(&mut self.names, outer);
        done?;
        let result = |output: &Argument| match output {
            Argument::Tensor(name) => inner.get(name).cloned().ok_or_else(|| format!("{name} is not defined in the subgraph")),
            _ => Err("a result of the subgraph is no tensor".to_string()),
        };
        body.graph.outputs.iter().map(result).collect()
    }
}
