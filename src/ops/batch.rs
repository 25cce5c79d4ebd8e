//! Batching: from what a graph computes of one example to what it computes of all examples of a batch. The walk is here; each operator
//! has its rule beside its derivative.
//!
//! A value that differs from example to example has the examples along a dimension before all others; a value that does not is what it
//! was. A node all of whose operands are the same for all examples stays one node. Of any other node every result has the examples in
//! front, by the rule of its operator, of which there are few kinds:
//!
//! * *Along dimensions.* Where dimensions in front pass through (pointwise functions, views, reductions, sorts, scans, pooling, gathers
//!   and scatters, softmax), the operator itself, its dimension numbers one higher; operands that are the same for all are repeated, which
//!   is a view: [`BatchContext::apply`].
//! * *Over the last dimensions.* A linear layer, a norm or attention leaves leading dimensions alone, and takes parameters as they are.
//! * *Folded.* A product, a convolution or an embedding whose examples are along one operand only is one larger product or convolution:
//!   the examples go into a dimension that the other operand lacks ([`BatchContext::fold`]); a convolution of both has more groups.
//! * *By parts.* What a composite decomposes into, batched: [`BatchContext::through`]. Bodies of subgraphs are batched as graphs.
//!
//! Random numbers are functions of their keys: one key is one draw for all examples, keys of examples give each its own. Indices are
//! checked as before. (Bradbury and others, "JAX: composable transformations of Python+NumPy programs", 2018.)

use super::{Built, Op, OpDef};
use crate::error::TraceFault;
use crate::graph::{Builder, Graph, InputRole, NodeId, OutputRole, Value, ValueMap};
use crate::types::{Dim, Shape, TensorType};
use rustc_hash::FxHashSet;

/// What a value of one example is for a batch of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batched {
    /// The same value for all.
    Same(Value),
    /// One for each, along dimension 0.
    Each(Value),
}

impl Batched {
    /// The value, of one example or of all.
    pub fn value(self) -> Value {
        match self {
            Batched::Same(v) | Batched::Each(v) => v,
        }
    }

    /// The value with the examples in front, repeated where it is the same for all.
    pub fn each(self, b: &mut Builder, size: &Dim) -> Built {
        let Batched::Same(v) = self else { return Ok(self.value()) };
        let shape = in_front(size, b.shape(v));
        b.broadcast_to(v, &shape)
    }
}

/// Why an operator that takes no operand has no rule.
pub(super) const NO_OPERAND: &str = "has no operand, and so the same value for all examples";

/// The outputs of `graph`, which is of one example, for a batch of `size` examples. A mistake names the operator and its line.
pub fn batch(b: &mut Builder, graph: &Graph, inputs: &[Batched], size: &Dim) -> Built<Vec<Batched>> {
    let mut map: ValueMap = graph.inputs.iter().zip(inputs).map(|(i, x)| (i.value, x.value())).collect();
    let is_each = |x: &Batched| matches!(x, Batched::Each(_));
    let mut each: FxHashSet<Value> = graph.inputs.iter().zip(inputs).filter(|(_, x)| is_each(x)).map(|(i, _)| i.value).collect();
    for id in graph.ids() {
        if graph.node(id).operands.iter().any(|v| each.contains(v)) {
            let location = graph.provenance(id).line().cloned();
            let of_batch = |v: &Value| if each.contains(v) { Batched::Each(map[v]) } else { Batched::Same(map[v]) };
            let operands: Vec<Batched> = graph.node(id).operands.iter().map(of_batch).collect();
            let built = b.rebuild_node(graph, id, &mut map, |b, _| apply_rule(b, graph, id, &operands, size));
            built.map_err(|message| TraceFault { location, message }.to_string())?;
            each.extend(graph.results(id));
        } else {
            b.copy_node(graph, id, &mut map)?;
        }
    }
    let of = |v: Value| if each.contains(&v) { Batched::Each(map[&v]) } else { Batched::Same(map[&v]) };
    Ok(graph.outputs.iter().map(|o| of(o.value)).collect())
}

/// The results of a node for all examples.
fn apply_rule(b: &mut Builder, graph: &Graph, id: NodeId, operands: &[Batched], size: &Dim) -> Built<Vec<Value>> {
    let node = graph.node(id);
    let name = node.op.name();
    let results = node.op.batch(&mut BatchContext { b, size, operands }).map_err(|m| if m.starts_with(name) { m } else { format!("{name}: {m}") })?;
    let found: Vec<&TensorType> = results.iter().map(|&v| b.ty(v)).collect();
    let fits = |(ty, found): (&TensorType, &&TensorType)| found.dtype == ty.dtype && found.shape.known_eq(&in_front(size, &ty.shape));
    if found.len() != node.types.len() || !node.types.iter().zip(&found).all(fits) {
        return Err(format!("{name}: its batching rule gives {found:?} for {size} examples of {:?}", node.types));
    }
    Ok(results)
}

pub(super) fn in_front(size: &Dim, shape: &Shape) -> Shape {
    Shape::new(std::iter::once(size).chain(&shape.0).cloned().collect())
}

/// Dimension numbers behind the examples.
pub(super) fn behind(dims: &[u32]) -> Vec<u32> {
    dims.iter().map(|d| d + 1).collect()
}

/// A node as its batching rule sees it. At least one operand differs from example to example.
pub struct BatchContext<'a> {
    /// The graph under construction.
    pub b: &'a mut Builder,
    /// Number of examples.
    pub size: &'a Dim,
    /// Operands of the node.
    pub operands: &'a [Batched],
}

impl BatchContext<'_> {
    /// Whether operand `k` differs from example to example.
    pub fn is_each(&self, k: usize) -> bool {
        matches!(self.operands[k], Batched::Each(_))
    }

    /// Operand `k` as it is.
    pub fn value(&self, k: usize) -> Value {
        self.operands[k].value()
    }

    /// All operands as they are.
    pub fn values(&self) -> Vec<Value> {
        self.operands.iter().map(|x| x.value()).collect()
    }

    /// Operand `k` with the examples in front.
    pub fn each(&mut self, k: usize) -> Built {
        self.operands[k].each(self.b, self.size)
    }

    /// The type that operand `k` has of one example.
    pub fn example(&self, k: usize) -> TensorType {
        let mut ty = self.b.ty(self.value(k)).clone();
        if self.is_each(k) {
            ty.shape.0.remove(0);
        }
        ty
    }

    /// The shape of a result with the examples in front.
    pub fn lead(&self, shape: &Shape) -> Shape {
        in_front(self.size, shape)
    }

    /// `op` of all operands with the examples in front.
    pub fn apply(&mut self, op: impl Into<Op>) -> Built<Vec<Value>> {
        let operands: Vec<Value> = (0..self.operands.len()).map(|k| self.each(k)).collect::<Built<_>>()?;
        self.b.node(op, &operands)
    }

    /// Operand `k` so that it broadcasts to `rank` dimensions behind the examples as it did to `rank` dimensions.
    pub fn aligned(&mut self, k: usize, rank: usize) -> Built {
        if !self.is_each(k) {
            return Ok(self.value(k));
        }
        let own = self.example(k).shape;
        let ones = vec![Dim::int(1); rank - own.rank()];
        self.b.reshape(self.value(k), in_front(self.size, &Shape::new([&ones[..], &own.0].concat())))
    }

    /// What `build` makes of one example's operands, for all examples.
    pub fn through(&mut self, build: impl FnOnce(&mut Builder, &[Value]) -> Built<Vec<Value>>) -> Built<Vec<Value>> {
        let mut b = Builder::new("example");
        let mut inputs = vec![];
        for k in 0..self.operands.len() {
            inputs.push(b.input(&format!("x.{k}"), InputRole::Input, self.example(k))?);
        }
        for (k, v) in build(&mut b, &inputs)?.into_iter().enumerate() {
            b.output(&format!("y.{k}"), OutputRole::User, v);
        }
        let results = batch(self.b, &b.finish(), self.operands, self.size)?;
        results.into_iter().map(|y| y.each(self.b, self.size)).collect()
    }

    /// What a composite decomposes into, for all examples.
    pub fn decomposed(&mut self, op: &dyn OpDef) -> Built<Vec<Value>> {
        self.through(|b, operands| op.decompose(b, operands).ok_or_else(|| format!("{} does not decompose", op.name()))?)
    }

    /// Operand `k`, which has the examples in front, with them in dimension `at` of one example's instead, behind the groups that this
    /// dimension falls into.
    pub fn fold(&mut self, k: usize, at: usize, groups: u32) -> Built {
        let own = self.example(k).shape.0.to_vec();
        let (outer, per) = self.grouped(&own[at], groups)?;
        let split = [std::slice::from_ref(self.size), &own[..at], &outer, &[per], &own[at + 1..]].concat();
        let (place, rank) = (at + outer.len(), split.len());
        let x = self.b.reshape(self.value(k), Shape::new(split))?;
        let x = self.b.permute(x, &(1..=place).chain([0]).chain(place + 1..rank).collect::<Vec<_>>())?;
        let mut folded = own;
        folded[at] = folded[at].clone() * self.size;
        self.b.reshape(x, Shape::new(folded))
    }

    /// A result whose dimension `at` holds the examples behind its groups, with the examples in front: the opposite of
    /// [`BatchContext::fold`].
    pub fn unfold(&mut self, y: Value, at: usize, groups: u32) -> Built {
        let mut own = self.b.shape(y).0.to_vec();
        own[at] = own[at].try_div(self.size).ok_or_else(|| format!("{} does not hold {} examples", own[at], self.size))?;
        let (outer, per) = self.grouped(&own[at], groups)?;
        let split = [&own[..at], &outer, &[self.size.clone(), per], &own[at + 1..]].concat();
        let (place, rank) = (at + outer.len(), split.len());
        let y = self.b.reshape(y, Shape::new(split))?;
        let y = self.b.permute(y, &[place].into_iter().chain(0..place).chain(place + 1..rank).collect::<Vec<_>>())?;
        self.b.reshape(y, in_front(self.size, &Shape::new(own)))
    }

    /// A size as groups, where there are several, and what each has.
    fn grouped(&self, size: &Dim, groups: u32) -> Built<(Vec<Dim>, Dim)> {
        let count = Dim::int(groups as i64);
        let per = size.try_div(&count).ok_or_else(|| format!("{size} does not fall into {groups} groups"))?;
        Ok((if groups > 1 { vec![count] } else { vec![] }, per))
    }
}
