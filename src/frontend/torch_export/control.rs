//! Operators that take functions: their subgraphs become the bodies of control flow.

use super::convert::{Converter, Item};
use super::schema::{Argument, ExportedNode, GraphArgument};
use crate::frontend::region::{self, Scanned};
use crate::graph::Value;
use crate::types::{DType, Shape, TensorType};

/// Operators that take functions.
const NAMES: &[&str] = &["cond", "scan", "map_impl", "while_loop"];

/// Whether a higher-order operator of that name is one of them.
pub(super) fn takes_functions(name: &str) -> bool {
    NAMES.contains(&name)
}

impl Converter<'_> {
    /// The results of a call whose subgraphs are branches or trips; nothing for other calls.
    pub(super) fn control_flow(&mut self, node: &ExportedNode) -> Result<Option<Vec<Value>>, String> {
        let arguments: Vec<&Argument> = node.inputs.iter().map(|a| &a.arg).collect();
        let results = match (node.target.trim_start_matches("torch.ops.higher_order."), &arguments[..]) {
            ("cond", [predicate, Argument::Graph(then), Argument::Graph(otherwise), operands]) => {
                self.cond(node, predicate, [then, otherwise], operands)?
            }
            ("scan", [Argument::Graph(body), init, xs, shared]) => {
                let init = self.tensors(init)?;
                self.scan(node, body, init, xs, shared)?
            }
            ("map_impl", [Argument::Graph(body), xs, shared]) => self.scan(node, body, vec![], xs, shared)?,
            ("while_loop", [Argument::Graph(condition), Argument::Graph(body), init, shared]) => {
                self.while_loop(node, [condition, body], init, shared)?
            }
            (name, _) if takes_functions(name) => return Err("its arguments are not those of the operator".into()),
            _ => return Ok(None),
        };
        Ok(Some(results))
    }

    fn cond(&mut self, node: &ExportedNode, predicate: &Argument, bodies: [&GraphArgument; 2], operands: &Argument) -> Result<Vec<Value>, String> {
        let Argument::Tensor(name) = predicate else { return Err("a predicate that is no tensor is not supported".into()) };
        let predicate = self.tensor(name)?;
        let predicate = self.cx.b.cast(predicate, DType::Bool)?;
        let predicate = self.cx.b.reshape(predicate, ())?;
        let operands = self.tensors(operands)?;
        let start = self.cx.b.graph().nodes.len();
        let yes = self.results_of(node, bodies[0], &operands)?;
        let no = self.results_of(node, bodies[1], &operands)?;
        region::cond(&mut self.cx.b, start, predicate, &yes, &no)
    }

    fn scan(&mut self, node: &ExportedNode, body: &GraphArgument, init: Vec<Value>, xs: &Argument, shared: &Argument) -> Result<Vec<Value>, String> {
        let (xs, shared) = (self.tensors(xs)?, self.tensors(shared)?);
        let length = xs.first().and_then(|x| self.cx.b.shape(*x).0.first()).cloned().ok_or("it slices nothing")?;
        let start = self.cx.b.graph().nodes.len();
        let mut arguments = self.placeholders(&init, 0);
        arguments.extend(self.placeholders(&xs, 1));
        let results = self.results_of(node, body, &[&arguments[..], &shared].concat())?;
        let of = Scanned { length, reverse: false, init: &init, xs: &xs };
        region::scan(&mut self.cx.b, start, of, &arguments, &results)
    }

    fn while_loop(&mut self, node: &ExportedNode, bodies: [&GraphArgument; 2], init: &Argument, shared: &Argument) -> Result<Vec<Value>, String> {
        let (init, shared) = (self.tensors(init)?, self.tensors(shared)?);
        let start = self.cx.b.graph().nodes.len();
        let arguments = self.placeholders(&init, 0);
        let operands = [&arguments[..], &shared].concat();
        let holds = self.results_of(node, bodies[0], &operands)?;
        let [holds] = holds[..] else { return Err("its condition does not give one value".into()) };
        let holds = self.cx.b.cast(holds, DType::Bool)?;
        let holds = self.cx.b.reshape(holds, ())?;
        let next = self.results_of(node, bodies[1], &operands)?;
        region::while_loop(&mut self.cx.b, start, &init, &arguments, holds, &next)
    }

    /// Values for a body's arguments: of these tensors, without so many of their first dimensions.
    fn placeholders(&mut self, of: &[Value], without: usize) -> Vec<Value> {
        let b = &mut self.cx.b;
        let ty = |ty: &TensorType| TensorType { dtype: ty.dtype, shape: Shape::new(ty.shape.0.iter().skip(without).cloned().collect()) };
        let types: Vec<TensorType> = of.iter().map(|v| ty(b.ty(*v))).collect();
        types.into_iter().map(|ty| b.placeholder(ty)).collect()
    }

    /// The tensors of a list.
    fn tensors(&mut self, list: &Argument) -> Result<Vec<Value>, String> {
        match list {
            Argument::Tensors(names) => names.iter().map(|n| self.tensor(&n.name)).collect(),
            Argument::None => Ok(vec![]),
            _ => Err("operands that are no tensors are not supported".into()),
        }
    }

    /// What a subgraph gives.
    fn results_of(&mut self, node: &ExportedNode, body: &GraphArgument, operands: &[Value]) -> Result<Vec<Value>, String> {
        let items = operands.iter().map(|v| Item::Tensor(self.storages.fresh(*v))).collect();
        let results = self.inline(node, body, items)?;
        let tensor = |item| if let Item::Tensor(t) = item { Ok(t) } else { Err("a result of its subgraph is no tensor".to_string()) };
        let mut tensors = results.into_iter().map(tensor).collect::<Result<Vec<_>, _>>()?;
        tensors.iter_mut().map(|t| self.storages.read(&mut self.cx.b, t)).collect()
    }
}
