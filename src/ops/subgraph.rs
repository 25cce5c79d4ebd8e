//! Ops that hold closed subgraphs: everything a body reads is an operand, in the order of the body's inputs.
//!
//! A call is function application and nothing else: it folds nothing into the keys it passes. Whoever records a call passes it
//! a key of its own (`fold_in(key, stream)` with a stream assigned at trace time), so that two calls of one body draw
//! different numbers, and equal calls are still equal. Only [`Scan`] folds: its trips share their operands.

use super::batch_bodies;
use super::run::run;
use super::{Array, BatchContext, Built, Class, Data, Grads, OpDef, Precision, Sample, VjpContext};
use crate::graph::{Builder, Graph, InputRole, Policy, Region, Value, map_dims};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, Shape, TensorType};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Trips after which the evaluation of a `while_loop` gives up.
const MAX_TRIPS: usize = 1 << 20;
/// Nodes of a graph beyond which a `scan` is not unrolled.
const MAX_UNROLLED: u64 = 1 << 16;

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

/// `out... = if predicate { then_body(operands...) } else { else_body(operands...) }`. Operands: a 0-d bool, then the
/// operands of both bodies, whose signatures are equal. A device runs both branches and selects, so a NaN or infinity of
/// the branch not taken reaches a gradient only through a product with a zero cotangent; differentiated after decomposition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cond {
    /// Taken when the predicate holds.
    #[serde(skip)]
    pub then_body: Arc<Graph>,
    /// Taken otherwise.
    #[serde(skip)]
    pub else_body: Arc<Graph>,
}

/// `while condition(values...) { values... = body(values...) }`: results are the last values. `condition` gives a 0-d bool;
/// `body` gives the types it takes. Represented and evaluated; no device runs it, and it is not differentiable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WhileLoop {
    /// Whether to go on.
    #[serde(skip)]
    pub condition: Arc<Graph>,
    /// One trip.
    #[serde(skip)]
    pub body: Arc<Graph>,
}

/// `length` trips of `body(carries..., slices..., constants...) -> (carries..., slices...)`. Operands: `carries` starting values;
/// `stacked` tensors whose dimension 0 is `length`, sliced one index a trip; constants. Results: the last carries, then
/// the slices of all trips stacked along a new dimension 0. A constant that the body takes as a key reaches trip `i` as
/// `fold_in(key, i)`, so that trips draw different numbers. Differentiated after decomposition, which unrolls. JAX: `lax.scan`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scan {
    /// Trip count.
    pub length: u32,
    /// Number of carried values.
    pub carries: u32,
    /// Number of operands sliced along dimension 0.
    pub stacked: u32,
    /// One trip.
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

impl OpDef for Cond {
    fn name(&self) -> &'static str {
        "cond"
    }
    fn class(&self) -> Class {
        Class::Subgraph
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let Some((predicate, rest)) = operands.split_first() else { return Err("takes a predicate".into()) };
        check_predicate(predicate)?;
        let (yes, no) = (call_types("then body", &self.then_body, rest)?, call_types("else body", &self.else_body, rest)?);
        if yes != no {
            return Err(format!("the branches give different types: {} and {}", list(&yes), list(&no)));
        }
        Ok(yes)
    }
    fn eval(&self, operands: &[Array], _types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        let body = if operands[0].ints()[0] != 0 { &self.then_body } else { &self.else_body };
        Ok(run(body, &operands[1..], precision)?)
    }
    fn vjp(&self, _cx: &mut VjpContext<'_>) -> Built<Grads> {
        Err("cond is decomposed before it is differentiated".into())
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        if cx.is_each(0) { cx.decomposed(self) } else { batch_bodies::call(cx, self.clone(), 1) }
    }
    fn decompose(&self, b: &mut Builder, operands: &[Value]) -> Option<Built<Vec<Value>>> {
        let mut build = || {
            let yes = b.inline(&self.then_body, &operands[1..])?;
            let no = b.inline(&self.else_body, &operands[1..])?;
            yes.into_iter().zip(no).map(|(x, y)| if x == y { Ok(x) } else { b.where_(operands[0], x, y) }).collect()
        };
        Some(build())
    }
    fn subgraphs(&self) -> Vec<Arc<Graph>> {
        vec![self.then_body.clone(), self.else_body.clone()]
    }
    fn set_subgraphs(&mut self, graphs: Vec<Arc<Graph>>) {
        if let [yes, no] = &graphs[..] {
            (self.then_body, self.else_body) = (yes.clone(), no.clone());
        }
    }
    fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        self.then_body = Arc::new(map_dims(&self.then_body, f));
        self.else_body = Arc::new(map_dims(&self.else_body, f));
    }
    fn samples(&self) -> Vec<Sample> {
        let op = Cond { then_body: Arc::new(sample_body(ScalarFn::Sin)), else_body: Arc::new(sample_body(ScalarFn::Cos)) };
        let mut operands = vec![TensorType::new(DType::Bool, ())];
        operands.extend(sample_types());
        vec![Sample::new(op, operands)]
    }
}

impl OpDef for WhileLoop {
    fn name(&self) -> &'static str {
        "while_loop"
    }
    fn class(&self) -> Class {
        Class::Subgraph
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        match &call_types("condition", &self.condition, operands)?[..] {
            [predicate] => check_predicate(predicate)?,
            other => return Err(format!("the condition gives {} values, expected one", other.len())),
        }
        let results = call_types("body", &self.body, operands)?;
        if results != operands {
            return Err(format!("the body takes {} and gives {}", list(operands), list(&results)));
        }
        Ok(results)
    }
    fn eval(&self, operands: &[Array], _types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        let mut values = operands.to_vec();
        for _ in 0..MAX_TRIPS {
            if run(&self.condition, &values, precision)?[0].ints()[0] == 0 {
                return Ok(values);
            }
            values = run(&self.body, &values, precision)?;
        }
        Err(format!("no end after {MAX_TRIPS} trips"))
    }
    fn vjp(&self, _cx: &mut VjpContext<'_>) -> Built<Grads> {
        Err("while_loop is not differentiable".into())
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        batch_bodies::while_loop(cx, self)
    }
    fn lower(&self, _cx: &mut super::NestBuilder<'_>) -> Result<(), String> {
        Err("while_loop cannot be compiled: its trip count is known to the device only, and programs have no host loop".into())
    }
    fn subgraphs(&self) -> Vec<Arc<Graph>> {
        vec![self.condition.clone(), self.body.clone()]
    }
    fn set_subgraphs(&mut self, graphs: Vec<Arc<Graph>>) {
        if let [condition, body] = &graphs[..] {
            (self.condition, self.body) = (condition.clone(), body.clone());
        }
    }
    fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        self.condition = Arc::new(map_dims(&self.condition, f));
        self.body = Arc::new(map_dims(&self.body, f));
    }
    fn samples(&self) -> Vec<Sample> {
        let (count, x) = (TensorType::new(DType::I32, ()), TensorType::new(DType::F32, (3,)));
        let mut c = Builder::new("condition");
        let mut b = Builder::new("body");
        let mut build = || {
            let n = c.input("n", InputRole::Input, count.clone())?;
            c.input("x", InputRole::Input, x.clone())?;
            let bound = c.constant(DType::I32, 5.0)?;
            let more = c.scalar(ScalarFn::Lt, &[n, bound])?;
            c.output("more", crate::graph::OutputRole::User, more);
            let (n, v) = (b.input("n", InputRole::Input, count.clone())?, b.input("x", InputRole::Input, x.clone())?);
            let one = b.constant(DType::I32, 1.0)?;
            let (n, v) = (b.add(n, one)?, b.scalar(ScalarFn::Sin, &[v])?);
            b.output("n", crate::graph::OutputRole::User, n);
            b.output("x", crate::graph::OutputRole::User, v);
            Ok::<_, String>(())
        };
        build().expect("the sample is well typed");
        let op = WhileLoop { condition: Arc::new(c.finish()), body: Arc::new(b.finish()) };
        vec![Sample::new(op, vec![count, x])]
    }
}

impl Scan {
    fn split<'a, T>(&self, operands: &'a [T]) -> Result<Split<'a, T>, String> {
        let (carries, stacked) = (self.carries as usize, self.stacked as usize);
        if operands.len() < carries.saturating_add(stacked) {
            return Err(format!("takes at least {carries} carried and {stacked} stacked operands"));
        }
        let (carries, rest) = operands.split_at(carries);
        let (stacked, constants) = rest.split_at(stacked);
        Ok(Split { carries, stacked, constants })
    }

    /// Whether the body takes constant `k` as a key.
    fn is_key(&self, k: usize) -> bool {
        let at = self.carries as usize + self.stacked as usize + k;
        self.body.inputs.get(at).is_some_and(|i| i.role == InputRole::Key)
    }

    fn unroll(&self, b: &mut Builder, operands: &[Value]) -> Built<Vec<Value>> {
        let Split { carries, stacked, constants } = self.split(operands)?;
        let nodes = (self.length as u64).saturating_mul(1 + self.body.nodes.len() as u64).saturating_add(b.graph().nodes.len() as u64);
        if nodes > MAX_UNROLLED {
            return Err(format!("scan: {} trips become {nodes} nodes when they are unrolled, at most {MAX_UNROLLED} are", self.length));
        }
        let mut carried = carries.to_vec();
        let mut slices: Vec<Vec<Value>> = vec![];
        for trip in 0..self.length {
            let mut arguments = carried;
            for &x in stacked {
                arguments.push(b.select(x, 0, trip)?);
            }
            for (k, &constant) in constants.iter().enumerate() {
                arguments.push(if self.is_key(k) { b.fold_in(constant, trip)? } else { constant });
            }
            let mut results = b.inline(&self.body, &arguments)?;
            slices.push(results.split_off(self.carries as usize));
            carried = results;
        }
        let count = self.body.outputs.len() - self.carries as usize;
        for k in 0..count {
            let ty = self.body.ty(self.body.outputs[self.carries as usize + k].value).clone();
            carried.push(stack(b, &ty, &slices.iter().map(|s| s[k]).collect::<Vec<_>>())?);
        }
        Ok(carried)
    }
}

impl OpDef for Scan {
    fn name(&self) -> &'static str {
        "scan"
    }
    fn class(&self) -> Class {
        Class::Subgraph
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let Split { carries, stacked, constants } = self.split(operands)?;
        let mut arguments = carries.to_vec();
        for ty in stacked {
            match ty.shape.0.split_first() {
                Some((n, rest)) if n.is(self.length as i64) => arguments.push(TensorType { dtype: ty.dtype, shape: Shape(rest.to_vec()) }),
                _ => return Err(format!("{ty} does not have {} slices along dimension 0", self.length)),
            }
        }
        arguments.extend_from_slice(constants);
        let mut results = call_types("body", &self.body, &arguments)?;
        if results.len() < carries.len() || results[..carries.len()] != *carries {
            return Err(format!("the body gives {}, which does not begin with the carried {}", list(&results), list(carries)));
        }
        for ty in &mut results[carries.len()..] {
            ty.shape.0.insert(0, Dim::int(self.length as i64));
        }
        Ok(results)
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        let Split { carries, stacked, constants } = self.split(operands)?;
        let mut carried = carries.to_vec();
        let mut results: Vec<Array> = types[carries.len()..].iter().map(empty_stack).collect();
        for trip in 0..self.length as usize {
            let mut arguments = carried;
            arguments.extend(stacked.iter().map(|x| {
                let size = x.shape[1..].iter().product::<usize>();
                x.gather(x.shape[1..].to_vec(), trip * size..(trip + 1) * size)
            }));
            for (k, constant) in constants.iter().enumerate() {
                let fold = super::FoldIn { stream: trip as u32 };
                arguments.extend(if self.is_key(k) { fold.eval(std::slice::from_ref(constant), &[], precision)? } else { vec![constant.clone()] });
            }
            let mut out = run(&self.body, &arguments, precision)?;
            for (all, slice) in results.iter_mut().zip(out.split_off(carries.len())) {
                match (&mut all.data, slice.data) {
                    (Data::Float(all), Data::Float(slice)) => all.extend(slice),
                    (Data::Int(all), Data::Int(slice)) => all.extend(slice),
                    _ => return Err("the body changes a dtype".into()),
                }
            }
            carried = out;
        }
        carried.extend(results);
        Ok(carried)
    }
    fn vjp(&self, _cx: &mut VjpContext<'_>) -> Built<Grads> {
        Err("scan is decomposed before it is differentiated".into())
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        batch_bodies::scan(cx, self)
    }
    fn decompose(&self, b: &mut Builder, operands: &[Value]) -> Option<Built<Vec<Value>>> {
        Some(self.unroll(b, operands))
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
        let ty = TensorType::new(DType::F32, (4,));
        let mut b = Builder::new("trip");
        let mut build = || {
            let (carry, x) = (b.input("carry", InputRole::Input, ty.clone())?, b.input("x", InputRole::Input, ty.clone())?);
            let k = b.input("k", InputRole::Input, ty.clone())?;
            let (sum, product) = (b.add(carry, x)?, b.mul(carry, k)?);
            let next = b.scalar(ScalarFn::Tanh, &[sum])?;
            b.output("carry", crate::graph::OutputRole::User, next);
            b.output("y", crate::graph::OutputRole::User, product);
            Ok::<_, String>(())
        };
        build().expect("the sample is well typed");
        let body = Arc::new(b.finish());
        let of = |length: u32| {
            let operands = vec![ty.clone(), TensorType::new(DType::F32, (length, 4)), ty.clone()];
            Sample::new(Scan { length, carries: 1, stacked: 1, body: body.clone() }, operands)
        };
        vec![of(3), of(1), of(0), random_walk()]
    }
}

/// Operands of a scan by kind.
struct Split<'a, T> {
    carries: &'a [T],
    stacked: &'a [T],
    constants: &'a [T],
}

/// A region id that no node of the graph has.
pub(crate) fn fresh_region(graph: &Graph) -> u32 {
    graph.nodes.iter().filter_map(|n| n.region).map(|r| r.id + 1).max().unwrap_or(0)
}

/// `[n, ...]` from n values of one type.
fn stack(b: &mut Builder, ty: &TensorType, values: &[Value]) -> Built {
    let mut shape = ty.shape.clone();
    shape.0.insert(0, Dim::int(1));
    if values.is_empty() {
        shape.0[0] = Dim::int(0);
        return b.full(ty.dtype, 0.0, shape);
    }
    let parts: Vec<Value> = values.iter().map(|&v| b.reshape(v, shape.clone())).collect::<Built<_>>()?;
    b.concat(&parts, 0)
}

fn empty_stack(ty: &TensorType) -> Array {
    let data = if ty.dtype.is_float() { Data::Float(vec![]) } else { Data::Int(vec![]) };
    Array { dtype: ty.dtype, shape: super::array::sizes(ty), data }
}

/// Result types of a body, after checking that it takes the operands.
fn call_types(what: &str, body: &Graph, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
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

fn check_predicate(ty: &TensorType) -> Result<(), String> {
    if *ty == TensorType::new(DType::Bool, ()) { Ok(()) } else { Err(format!("the predicate is {ty}, expected bool[]")) }
}

fn list(types: &[TensorType]) -> String {
    format!("({})", types.iter().map(|t| t.to_string()).collect::<Vec<_>>().join(", "))
}

/// A scan whose trips draw numbers from one key.
fn random_walk() -> Sample {
    let (ty, key) = (TensorType::new(DType::F32, (4,)), TensorType::new(DType::U32, (2,)));
    let mut b = Builder::new("walk");
    let mut build = || {
        let (x, k) = (b.input("x", InputRole::Input, ty.clone())?, b.input("key", InputRole::Key, key.clone())?);
        let noise = b.uniform(k, &ty.shape)?;
        let next = b.mul(x, noise)?;
        b.output("x", crate::graph::OutputRole::User, next);
        b.output("noise", crate::graph::OutputRole::User, noise);
        Ok::<_, String>(())
    };
    build().expect("the sample is well typed");
    Sample::new(Scan { length: 3, carries: 1, stacked: 0, body: Arc::new(b.finish()) }, vec![ty, key])
}

fn sample_types() -> Vec<TensorType> {
    vec![TensorType::new(DType::F32, (3, 5)), TensorType::new(DType::F32, (3, 5))]
}

/// `(f(x * y), x + y)`.
fn sample_body(f: ScalarFn) -> Graph {
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
