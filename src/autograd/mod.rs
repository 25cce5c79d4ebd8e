//! Reverse-mode differentiation: a forward graph becomes a joint graph.
//!
//! * Comes in: a forward graph, what to differentiate with respect to ([`Wrt`]) and where cotangents start ([`Seed`]).
//! * Goes out: one graph with the forward's outputs first, then one output `grad.<input>` of role `Gradient(input)` per
//!   input asked for; a parameter that no gradient reaches has none. Its cotangents are further inputs: `cotangent.<output>`,
//!   given by the user, or `unit.<output>`, which is one. Unit cotangents stay inputs up to the partition, which tells by them what belongs
//!   to the backward, and makes them the number there; whoever wants to evaluate the joint graph calls [`set_unit_cotangents`].
//! * Invariants: forward nodes keep their region; nodes built by a VJP carry none, and the provenance of the forward node
//!   they differentiate. Only values that lie between an input asked for and a seeded output are walked, so an op without
//!   a derivative is an error only where its derivative is needed. Every gradient has its input's type.
//! * Must not know: particular ops. Derivatives live in `ops`, with each op; this room walks and adds up.
//! * Ops that hold bodies are differentiated through their bodies' gradients (`bodies.rs`), which they ask for by
//!   `VjpContext::pull_back`; what their derivative reads beside their results they give as further results (`OpDef::saving`).
//! * Add here: nothing when an op is added. Gradients within a program that is being recorded are in `within.rs`.
//!
//! The method is reverse accumulation over a topological order (Griewank and Walther, "Evaluating Derivatives", 2008); its
//! cost is one VJP per walked node.

mod bodies;
mod within;

pub use bodies::pull_back;
pub use within::{Fault, gradients_within};

use crate::error::Error;
use crate::graph::{Builder, Graph, Inline, Input, InputRole, NodeId, Output, OutputRole, Value, ValueMap, inline_subgraphs};
use crate::ops::{OpDef, VjpContext};
use crate::types::{Location, TensorType};

/// What gradients are taken with respect to. Inputs that are no floats have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrt {
    /// Every parameter.
    Parameters,
    /// Every parameter and every user input.
    Inputs,
}

/// Where cotangents start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seed {
    /// One (the input `unit.<loss>`) at the output of role `loss`, which must be a 0-d float.
    Loss,
    /// An input `cotangent.<output>` for every float output of role `user` or `loss`; a single such output that is 0-d takes
    /// one instead, as does the loss.
    Cotangents,
    /// An input `cotangent.<output>` for every float output: a body's.
    Each,
}

/// Before the name of the output in the name of a cotangent that is one.
const UNIT: &str = "unit.";

/// The graph with its unit cotangents replaced by the number one. Other inputs stay.
pub fn set_unit_cotangents(graph: &Graph) -> Result<Graph, String> {
    let mut b = Builder::new(&graph.name);
    let mut map = ValueMap::default();
    for input in &graph.inputs {
        map.insert(input.value, copy_input_or_unit(&mut b, graph, input)?);
    }
    for id in graph.ids() {
        b.copy_node(graph, id, &mut map)?;
    }
    for output in &graph.outputs {
        b.output(&output.name, output.role.clone(), map[&output.value]);
    }
    Ok(b.finish())
}

/// An input in a graph whose unit cotangents are the number one.
pub(crate) fn copy_input_or_unit(b: &mut Builder, graph: &Graph, input: &Input) -> Result<Value, String> {
    let is_unit = input.role == InputRole::Cotangent && input.name.starts_with(UNIT);
    let ty = graph.ty(input.value);
    if is_unit { b.full(ty.dtype, 1.0, &ty.shape) } else { b.copy_input(graph, input) }
}

/// The forward's outputs plus gradients, as one graph. Checkpoint regions are inlined and leave their tags.
pub fn joint_graph(forward: &Graph, wrt: Wrt, seed: Seed) -> Result<Graph, Error> {
    let inlined = inline_subgraphs(forward, Inline::Calls).map_err(|m| internal(m, None))?;
    let forward = &bodies::saving(inlined, wrt).map_err(|m| internal(m, None))?;
    let mut walk = Walk::copy_forward(forward, wrt)?;
    match seed {
        Seed::Loss => walk.seed_loss()?,
        Seed::Cotangents => walk.seed_cotangents()?,
        Seed::Each => walk.seed_each()?,
    }
    for id in forward.ids().rev() {
        walk.differentiate(id)?;
    }
    walk.finish(wrt)
}

impl Wrt {
    fn asks(self, role: &InputRole) -> bool {
        match self {
            Wrt::Parameters => *role == InputRole::Parameter,
            Wrt::Inputs => matches!(role, InputRole::Parameter | InputRole::Input),
        }
    }
}

/// Which values are floats that an input asked for flows into: a float result does when any float operand does, unless the op stops
/// gradients.
fn dependents(forward: &Graph, wrt: Wrt) -> Vec<Vec<bool>> {
    let mut out: Vec<Vec<bool>> = forward.nodes.iter().map(|n| vec![false; n.types.len()]).collect();
    for input in forward.inputs.iter().filter(|i| wrt.asks(&i.role)) {
        out[input.value.node.0 as usize][0] = forward.ty(input.value).dtype.is_float();
    }
    for id in forward.ids() {
        let node = forward.node(id);
        if !node.op.stops_gradient() && node.operands.iter().any(|v| out[v.node.0 as usize][v.result as usize]) {
            for (result, ty) in node.types.iter().enumerate() {
                out[id.0 as usize][result] |= ty.dtype.is_float();
            }
        }
    }
    out
}

/// State of the reverse walk. Values of `forward` index `dependent` and the keys of `map` and `cotangents`.
struct Walk<'a> {
    forward: &'a Graph,
    b: Builder,
    /// Forward value to joint value.
    map: ValueMap,
    /// Which forward values are floats that an input asked for flows into.
    dependent: Vec<Vec<bool>>,
    /// Cotangent of a forward value, in the joint graph.
    cotangents: ValueMap,
}

impl<'a> Walk<'a> {
    fn copy_forward(forward: &'a Graph, wrt: Wrt) -> Result<Walk<'a>, Error> {
        // A node with its derivative becomes about so many.
        let mut b = Builder::with_room(&forward.name, 6 * forward.nodes.len());
        let mut map = ValueMap::default();
        b.copy_inputs(forward, &mut map).map_err(|m| internal(m, None))?;
        for id in forward.ids() {
            b.copy_node(forward, id, &mut map).map_err(|m| internal(m, line(forward, id)))?;
        }
        for output in &forward.outputs {
            b.output(&output.name, output.role.clone(), map[&output.value]);
        }
        Ok(Walk { forward, b, map, dependent: dependents(forward, wrt), cotangents: ValueMap::default() })
    }

    fn is_dependent(&self, v: Value) -> bool {
        self.dependent[v.node.0 as usize][v.result as usize]
    }

    fn seed_loss(&mut self) -> Result<(), Error> {
        let missing = || Error::Autograd {
            message: "there is no output of role loss to differentiate: a trace returns its loss first, a 0-d float".into(),
            location: None,
        };
        let loss = self.forward.outputs.iter().find(|o| o.role == OutputRole::Loss).ok_or_else(missing)?;
        let ty = self.forward.ty(loss.value);
        if !ty.dtype.is_float() || ty.shape.rank() != 0 {
            let message = format!("the loss {} is {ty}, not a 0-d float", loss.name);
            return Err(Error::Autograd { message, location: line(self.forward, loss.value.node) });
        }
        self.seed(loss, UNIT)
    }

    fn seed_cotangents(&mut self) -> Result<(), Error> {
        let is_result = |role: &OutputRole| matches!(role, OutputRole::User | OutputRole::Loss);
        let seeded: Vec<_> = self.forward.outputs.iter().filter(|o| is_result(&o.role) && self.forward.ty(o.value).dtype.is_float()).collect();
        if let [only] = seeded[..]
            && self.forward.ty(only.value).shape.rank() == 0
        {
            return self.seed(only, UNIT);
        }
        for output in seeded {
            self.seed(output, "cotangent.")?;
        }
        Ok(())
    }

    fn seed_each(&mut self) -> Result<(), Error> {
        let forward = self.forward;
        let floats = forward.outputs.iter().filter(|o| forward.ty(o.value).dtype.is_float());
        floats.into_iter().try_for_each(|output| self.seed(output, "cotangent."))
    }

    fn seed(&mut self, output: &Output, prefix: &str) -> Result<(), Error> {
        self.b.provenance = self.forward.provenance(output.value.node).clone();
        let ty = self.forward.ty(output.value).clone();
        let input = self.b.input(&format!("{prefix}{}", output.name), InputRole::Cotangent, ty);
        let cotangent = input.map_err(|m| internal(m, None))?;
        self.accumulate(output.value, cotangent)
    }

    /// Adds to the cotangent of a forward value, if it is on a needed path.
    fn accumulate(&mut self, value: Value, cotangent: Value) -> Result<(), Error> {
        if !self.is_dependent(value) {
            return Ok(());
        }
        let sum = match self.cotangents.get(&value) {
            None => cotangent,
            Some(&before) => self.b.add(before, cotangent).map_err(|m| internal(m, line(self.forward, value.node)))?,
        };
        self.cotangents.insert(value, sum);
        Ok(())
    }

    fn differentiate(&mut self, id: NodeId) -> Result<(), Error> {
        let node = self.forward.node(id);
        let results: Vec<Value> = (0..node.types.len() as u32).map(|result| Value { node: id, result }).collect();
        let cotangents: Vec<Option<Value>> = results.iter().map(|v| self.cotangents.get(v).copied()).collect();
        if node.operands.is_empty() || cotangents.iter().all(Option::is_none) {
            return Ok(());
        }
        self.b.provenance = self.forward.provenance(id).clone();
        let operands: Vec<Value> = node.operands.iter().map(|v| self.map[v]).collect();
        let results: Vec<Value> = results.iter().map(|v| self.map[v]).collect();
        let wanted: Vec<bool> = node.operands.iter().map(|&v| self.is_dependent(v)).collect();
        let (b, pull_back) = (&mut self.b, &pull_back);
        let mut cx = VjpContext { b, operands: &operands, results: &results, cotangents: &cotangents, wanted: &wanted, pull_back };
        let fail = |message: String| Error::Autograd { message, location: line(self.forward, id) };
        let grads = node.op.vjp(&mut cx).map_err(|m| fail(named(node.op.name(), m)))?;
        if grads.len() != operands.len() {
            return Err(fail(format!("{}: its derivative gives {} gradients for {} operands", node.op.name(), grads.len(), operands.len())));
        }
        for (&operand, grad) in node.operands.iter().zip(grads) {
            let Some(grad) = grad else { continue };
            let (found, expected) = (self.b.ty(grad), self.forward.ty(operand));
            if found != expected && self.is_dependent(operand) {
                return Err(fail(format!("{}: its derivative gives {found} for an operand of type {expected}", node.op.name())));
            }
            self.accumulate(operand, grad)?;
        }
        Ok(())
    }

    fn finish(mut self, wrt: Wrt) -> Result<Graph, Error> {
        for input in self.forward.inputs.iter().filter(|i| wrt.asks(&i.role)) {
            let ty: &TensorType = self.forward.ty(input.value);
            if !ty.dtype.is_float() {
                continue;
            }
            let gradient = match self.cotangents.get(&input.value) {
                Some(&gradient) => gradient,
                None if wrt == Wrt::Parameters => {
                    self.check_not_lost(&input.name, input.value)?;
                    continue;
                }
                None => {
                    self.b.provenance = self.forward.provenance(input.value.node).clone();
                    self.b.full(ty.dtype, 0.0, &ty.shape).map_err(|m| internal(m, None))?
                }
            };
            self.b.output(&format!("grad.{}", input.name), OutputRole::Gradient(input.name.clone()), gradient);
        }
        Ok(self.b.finish())
    }
}

impl Walk<'_> {
    /// A parameter without a gradient must have no influence but through detached values: one that reaches the loss only through
    /// integers or booleans would never be trained, which nobody asks for.
    fn check_not_lost(&self, name: &str, parameter: Value) -> Result<(), Error> {
        let forward = self.forward;
        let mut reaches = vec![false; forward.nodes.len()];
        for loss in forward.outputs.iter().filter(|o| o.role == OutputRole::Loss) {
            reaches[loss.value.node.0 as usize] = true;
        }
        for id in forward.ids().rev() {
            if reaches[id.0 as usize] {
                forward.node(id).operands.iter().for_each(|v| reaches[v.node.0 as usize] = true);
            }
        }
        let mut influenced = vec![false; forward.nodes.len()];
        influenced[parameter.node.0 as usize] = true;
        for id in forward.ids() {
            let node = forward.node(id);
            if !reaches[id.0 as usize] || node.op.stops_gradient() || !node.operands.iter().any(|v| influenced[v.node.0 as usize]) {
                continue;
            }
            influenced[id.0 as usize] = true;
            if let Some(ty) = node.types.iter().find(|t| !t.dtype.is_float()) {
                let message = format!("{}: no gradient passes to parameter {name} through {ty}", node.op.name());
                return Err(Error::Autograd { message, location: line(forward, id) });
            }
        }
        Ok(())
    }
}

/// The message with the op's name before it, once.
fn named(op: &str, message: String) -> String {
    if message.starts_with(op) { message } else { format!("{op}: {message}") }
}

fn line(graph: &Graph, id: NodeId) -> Option<Location> {
    graph.provenance(id).line().cloned()
}

fn internal(message: String, location: Option<Location>) -> Error {
    Error::Autograd { message, location }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Detach, Permute, ReduceKind};
    use crate::scalar::ScalarFn;
    use crate::types::{DType, Provenance};

    fn ty(shape: &[i64]) -> TensorType {
        TensorType::new(DType::F32, shape)
    }

    fn linear() -> Graph {
        let mut b = Builder::new("linear");
        let x = b.input("x", InputRole::Input, ty(&[4, 3])).unwrap();
        let w = b.input("w", InputRole::Parameter, ty(&[3, 2])).unwrap();
        b.input("unused", InputRole::Parameter, ty(&[5])).unwrap();
        let y = b.matmul(x, w).unwrap();
        let y = b.mul(y, y).unwrap();
        let loss = b.reduce(ReduceKind::Sum, y, &[0, 1], false).unwrap();
        b.output("y", OutputRole::User, y);
        b.output("loss", OutputRole::Loss, loss);
        b.finish()
    }

    #[test]
    fn training_gives_gradients_of_parameters() {
        let joint = joint_graph(&linear(), Wrt::Parameters, Seed::Loss).unwrap();
        let names: Vec<&str> = joint.outputs.iter().map(|o| o.name.as_str()).collect();
        assert_eq!(names, ["y", "loss", "grad.w"], "the unused parameter has no gradient");
        assert_eq!(joint.ty(joint.output("grad.w").unwrap().value), &ty(&[3, 2]));
        let inputs: Vec<&str> = joint.inputs.iter().map(|i| i.name.as_str()).collect();
        assert_eq!(inputs, ["x", "w", "unused", "unit.loss"]);
        let set = set_unit_cotangents(&joint).unwrap();
        assert_eq!(set.inputs.len(), 3);
        assert_eq!(set.outputs.len(), 3);
    }

    #[test]
    fn vjp_adds_cotangent_inputs() {
        let joint = joint_graph(&linear(), Wrt::Inputs, Seed::Cotangents).unwrap();
        assert_eq!(joint.input("cotangent.y").unwrap().role, InputRole::Cotangent);
        assert!(joint.input("cotangent.loss").is_some());
        assert!(joint.output("grad.x").is_some());
    }

    #[test]
    fn a_single_scalar_output_takes_one() {
        let mut b = Builder::new("g");
        let x = b.input("x", InputRole::Input, ty(&[4])).unwrap();
        let s = b.reduce(ReduceKind::Sum, x, &[0], false).unwrap();
        b.output("s", OutputRole::User, s);
        let joint = joint_graph(&b.finish(), Wrt::Inputs, Seed::Cotangents).unwrap();
        assert_eq!(joint.inputs[1].name, "unit.s");
        assert_eq!(joint.ty(joint.output("grad.x").unwrap().value), &ty(&[4]));
    }

    #[test]
    fn the_loss_must_be_a_scalar() {
        let mut b = Builder::new("g");
        b.provenance = Provenance::new(vec![Location { file: "a.rs".into(), line: 7 }], vec![]);
        let x = b.input("x", InputRole::Parameter, ty(&[4])).unwrap();
        let y = b.neg(x).unwrap();
        b.output("loss", OutputRole::Loss, y);
        let error = joint_graph(&b.finish(), Wrt::Parameters, Seed::Loss).unwrap_err();
        assert_eq!(error.to_string(), "autograd: the loss loss is f32[4], not a 0-d float (at a.rs:7)");
    }

    #[test]
    fn integers_between_stop_gradients() {
        let mut b = Builder::new("g");
        let x = b.input("x", InputRole::Parameter, ty(&[4])).unwrap();
        let flag = b.scalar(ScalarFn::Gt, &[x, x]).unwrap();
        let y = b.where_(flag, x, x).unwrap();
        let loss = b.reduce(ReduceKind::Sum, y, &[0], false).unwrap();
        b.output("loss", OutputRole::Loss, loss);
        assert!(joint_graph(&b.finish(), Wrt::Parameters, Seed::Loss).is_ok());
    }

    #[test]
    fn detached_values_are_constants() {
        let mut b = Builder::new("g");
        let (w, v) = (b.input("w", InputRole::Parameter, ty(&[4])).unwrap(), b.input("v", InputRole::Parameter, ty(&[4])).unwrap());
        let (frozen, target) = (b.op(Detach::default(), &[v]).unwrap(), b.op(Detach::default(), &[w]).unwrap());
        // What has no derivative may stand behind a detached value.
        let order = b.argsort(frozen, 0, false).unwrap();
        let sorted = b.gather(target, order, 0).unwrap();
        let y = b.mul(w, sorted).unwrap();
        let loss = b.reduce(ReduceKind::Sum, y, &[0], false).unwrap();
        b.output("loss", OutputRole::Loss, loss);
        let joint = joint_graph(&b.finish(), Wrt::Parameters, Seed::Loss).unwrap();
        assert!(joint.output("grad.v").is_none(), "no gradient, and not one of zeros");
        let gradient = joint.def(joint.output("grad.w").unwrap().value);
        assert_eq!(gradient.op.name(), "mul", "the other factor is a constant");
    }

    #[test]
    fn regions_stay_on_the_forward() {
        use crate::graph::{Policy, Region};
        let mut b = Builder::new("g");
        let x = b.input("x", InputRole::Parameter, ty(&[2, 3])).unwrap();
        b.region = Some(Region { id: 1, policy: Policy::MustRecompute });
        let y = b.op(Permute { order: vec![1, 0] }, &[x]).unwrap();
        let y = b.scalar(ScalarFn::Exp, &[y]).unwrap();
        b.region = None;
        let loss = b.reduce(ReduceKind::Sum, y, &[0, 1], false).unwrap();
        b.output("loss", OutputRole::Loss, loss);
        let forward = b.finish();
        let joint = joint_graph(&forward, Wrt::Parameters, Seed::Loss).unwrap();
        assert_eq!(joint.nodes.iter().filter(|n| n.region.is_some()).count(), 2);
    }
}
