//! Ops that hold closed subgraphs: everything a body reads is an operand, in the order of the body's inputs.
//!
//! A call is function application and nothing else: it folds nothing into the keys it passes. Whoever records a call passes it
//! a key of its own (`fold_in(key, stream)` with a stream assigned at trace time), so that two calls of one body draw
//! different numbers, and equal calls are still equal. Only `scan` folds: its trips share their operands.
//!
//! `checkpoint` and `invoke_subgraph` give way to their bodies before a program is differentiated. Control flow stays: its bodies
//! are lowered to blocks of commands that the runtime repeats or skips ([`Flow`]), and its derivative is control flow again, over the
//! bodies' gradients, which compute again what a body computes.

use super::batch_bodies;
use super::run::run;
use super::{Array, BatchContext, Built, Class, Cond, Grads, OpDef, Precision, Sample, Scan, VjpContext, WhileLoop};
use crate::graph::{Builder, Graph, InputRole, Policy, Region, Value, map_dims};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, TensorType};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How an op runs its bodies, where they stay bodies down to the device.
#[derive(Clone, Debug)]
pub enum Flow {
    /// One of two.
    Cond(Cond),
    /// One, so many times.
    Scan(Scan),
    /// One, as long as another says so.
    While(WhileLoop),
}

/// `out... = body(operands...)`, with a policy for the values inside: recomputed in the backward (the default), or saved.
/// Differentiated after inlining, which leaves the policy on the nodes as a region tag. PyTorch: `torch.utils.checkpoint`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Checkpoint {
    /// What the partitioner must do with values of the body.
    pub policy: Policy,
    /// The body.
    #[serde(skip)]
    pub body: Arc<Graph>,
}

/// `out... = body(operands...)`: a call of a shared body. Differentiated after inlining.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InvokeSubgraph {
    /// The body.
    #[serde(skip)]
    pub body: Arc<Graph>,
}

impl Checkpoint {
    /// A body whose values are recomputed in the backward.
    pub fn new(body: Graph) -> Checkpoint {
        Checkpoint { policy: Policy::MustRecompute, body: Arc::new(body) }
    }
}

impl Default for Checkpoint {
    fn default() -> Checkpoint {
        Checkpoint::new(Graph::default())
    }
}

impl OpDef for Checkpoint {
    fn name(&self) -> &'static str {
        "checkpoint"
    }
    fn class(&self) -> Class {
        Class::Subgraph
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        call_types("body", &self.body, operands)
    }
    fn eval(&self, operands: &[Array], _types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        Ok(run(&self.body, operands, precision)?)
    }
    fn vjp(&self, _cx: &mut VjpContext<'_>) -> Built<Grads> {
        Err("checkpoint is inlined before it is differentiated".into())
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        batch_bodies::call(cx, self.clone(), 0)
    }
    fn decompose(&self, b: &mut Builder, operands: &[Value]) -> Option<Built<Vec<Value>>> {
        let outer = b.region;
        b.region = Some(Region { id: fresh_region(b.graph()), policy: self.policy });
        let results = b.inline(&self.body, operands);
        b.region = outer;
        Some(results)
    }
    fn subgraphs(&self) -> Vec<Arc<Graph>> {
        vec![self.body.clone()]
    }
    fn set_subgraphs(&mut self, graphs: Vec<Arc<Graph>>) {
        if let [body] = &graphs[..] {
            self.body = body.clone();
        }
    }
    fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        self.body = Arc::new(map_dims(&self.body, f));
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |policy| Sample::new(Checkpoint { policy, body: Arc::new(sample_body(ScalarFn::Tanh)) }, sample_types());
        vec![of(Policy::MustRecompute), of(Policy::MustSave)]
    }
}

impl OpDef for InvokeSubgraph {
    fn name(&self) -> &'static str {
        "invoke_subgraph"
    }
    fn class(&self) -> Class {
        Class::Subgraph
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        call_types("body", &self.body, operands)
    }
    fn eval(&self, operands: &[Array], _types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        Ok(run(&self.body, operands, precision)?)
    }
    fn vjp(&self, _cx: &mut VjpContext<'_>) -> Built<Grads> {
        Err("invoke_subgraph is inlined before it is differentiated".into())
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        batch_bodies::call(cx, self.clone(), 0)
    }
    fn decompose(&self, b: &mut Builder, operands: &[Value]) -> Option<Built<Vec<Value>>> {
        Some(b.inline(&self.body, operands))
    }
    fn subgraphs(&self) -> Vec<Arc<Graph>> {
        vec![self.body.clone()]
    }
    fn set_subgraphs(&mut self, graphs: Vec<Arc<Graph>>) {
        if let [body] = &graphs[..] {
            self.body = body.clone();
        }
    }
    fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        self.body = Arc::new(map_dims(&self.body, f));
    }
    fn samples(&self) -> Vec<Sample> {
        vec![Sample::new(InvokeSubgraph { body: Arc::new(sample_body(ScalarFn::Sigmoid)) }, sample_types())]
    }
}

/// A region id that no node of the graph has.
pub(crate) fn fresh_region(graph: &Graph) -> u32 {
    graph.nodes.iter().filter_map(|n| n.region).map(|r| r.id + 1).max().unwrap_or(0)
}

/// Result types of a body, after checking that it takes the operands.
pub(super) fn call_types(what: &str, body: &Graph, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
    if body.inputs.len() != operands.len() {
        return Err(format!("the {what} {} takes {} operands, got {}", body.name, body.inputs.len(), operands.len()));
    }
    for (input, ty) in body.inputs.iter().zip(operands) {
        let expected = body.ty(input.value);
        if expected != ty {
            return Err(format!("the {what} {} takes {expected} as {}, got {ty}", body.name, input.name));
        }
    }
    Ok(body.outputs.iter().map(|o| body.ty(o.value).clone()).collect())
}

pub(super) fn check_predicate(ty: &TensorType) -> Result<(), String> {
    if *ty == TensorType::new(DType::Bool, ()) { Ok(()) } else { Err(format!("the predicate is {ty}, expected bool[]")) }
}

pub(super) fn list(types: &[TensorType]) -> String {
    format!("({})", types.iter().map(|t| t.to_string()).collect::<Vec<_>>().join(", "))
}

pub(super) fn sample_types() -> Vec<TensorType> {
    vec![TensorType::new(DType::F32, (3, 5)), TensorType::new(DType::F32, (3, 5))]
}

/// `(f(x * y), x + y)`.
pub(super) fn sample_body(f: ScalarFn) -> Graph {
    let mut b = Builder::new(f.name());
    let mut build = || {
        let ty = TensorType::new(DType::F32, (3, 5));
        let (x, y) = (b.input("x", InputRole::Input, ty.clone())?, b.input("y", InputRole::Input, ty)?);
        let product = b.mul(x, y)?;
        let (first, second) = (b.scalar(f, &[product])?, b.add(x, y)?);
        b.output("first", crate::graph::OutputRole::User, first);
        b.output("second", crate::graph::OutputRole::User, second);
        Ok::<_, String>(())
    };
    build().expect("the sample is well typed");
    b.finish()
}
