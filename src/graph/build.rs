//! The one door into a graph: checks types, shares equal nodes, records provenance.

use super::assume::Unified;
use super::{Graph, Input, InputRole, Node, NodeId, Operands, Output, OutputRole, Region, Value, ValueMap};
use crate::ops::{self, InputOp, Op, OpDef};
use crate::scalar::{Expr, ScalarFn};
use crate::types::{DType, Dim, IntoShape, Provenance, Shape, TensorType, broadcast_pairs, broadcast_shapes};
use rustc_hash::{FxHashSet, FxHasher};
use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;

/// Builds a graph node by node. Every method infers types and returns an error message naming the op and the operands'
/// types; equal nodes of one region are built once.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    pub(super) graph: Graph,
    /// The newest node of each [`key`]; `older` has the one before it.
    known: HashMap<u32, NodeId, BuildHasherDefault<InOrder>>,
    /// For each node, the one before it with the same key.
    older: Vec<Option<NodeId>>,
    /// Types of results of fixed sizes so far: there are few in a graph, so that all of them stay in caches.
    types: FxHashSet<Arc<[TensorType]>>,
    /// Ops of fixed sizes so far, for the same reason.
    ops: FxHashSet<Arc<Op>>,
    /// Hashes of the names of inputs, of the first `named`: those that came from another graph have names of their own until somebody asks.
    names: FxHashSet<u64>,
    named: usize,
    /// Sizes that operators need equal may become so.
    pub(super) assumes: bool,
    pub(super) unified: Unified,
    /// Attached to nodes built from now on.
    pub provenance: Provenance,
    /// Region of nodes built from now on.
    pub region: Option<Region>,
}

/// Results of building.
pub type Built<T = Value> = Result<T, String>;

impl Builder {
    /// An empty graph of that name.
    pub fn new(name: &str) -> Builder {
        Builder { graph: Graph { name: name.into(), ..Graph::default() }, ..Builder::default() }
    }

    /// An empty graph of that name, with room for as many nodes as `graph` has.
    pub fn like(name: &str, graph: &Graph) -> Builder {
        let mut b = Builder::with_room(name, graph.nodes.len());
        b.reserve_border(graph.inputs.len(), graph.outputs.len());
        b
    }

    /// Room for so many inputs and outputs.
    pub fn reserve_border(&mut self, inputs: usize, outputs: usize) {
        self.graph.inputs.reserve(inputs);
        self.names.reserve(inputs);
        self.graph.outputs.reserve(outputs);
    }

    /// An empty graph of that name, with room for so many nodes: large lists that grow are copied into memory that nobody has touched.
    pub fn with_room(name: &str, nodes: usize) -> Builder {
        let mut b = Builder::new(name);
        b.graph.nodes.reserve(nodes);
        b.graph.provenance.reserve(nodes);
        b.older.reserve(nodes);
        b.known.reserve(PLACES as usize * nodes);
        b
    }

    /// The graph so far.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The type of a value.
    pub fn ty(&self, value: Value) -> &TensorType {
        self.graph.ty(value)
    }

    /// The shape of a value.
    pub fn shape(&self, value: Value) -> &Shape {
        &self.ty(value).shape
    }

    /// The dtype of a value.
    pub fn dtype(&self, value: Value) -> DType {
        self.ty(value).dtype
    }

    /// Adds an input; names must be unique.
    pub fn input(&mut self, name: &str, role: InputRole, ty: TensorType) -> Built {
        if self.has_input(name) {
            return Err(format!("there are two inputs named {name}"));
        }
        if let Some(fault) = ty.fault() {
            return Err(fault);
        }
        let ty = if self.unified.is_empty() { ty } else { TensorType { shape: ty.shape.map(&|d| self.resolve(d)), ..ty } };
        let types = self.shared(vec![ty]);
        let op = Op::from(InputOp { index: self.graph.inputs.len() as u32, ty: types[0].clone() });
        let node = Node { op: op.into(), operands: Operands::new(), types, region: self.region };
        let node = self.push(node, self.provenance.clone());
        let value = Value::first(node);
        self.graph.inputs.push(Input { name: name.into(), role, value });
        Ok(value)
    }

    fn has_input(&mut self, name: &str) -> bool {
        let hash = |name: &str| BuildHasherDefault::<FxHasher>::default().hash_one(name);
        self.names.extend(self.graph.inputs[self.named..].iter().map(|i| hash(&i.name)));
        self.named = self.graph.inputs.len();
        self.names.contains(&hash(name)) && self.graph.input(name).is_some()
    }

    /// Adds a value that stands for an input of a part of the graph until that part is taken out; see [`super::outline()`].
    pub fn placeholder(&mut self, ty: TensorType) -> Value {
        let op = Op::from(InputOp { index: u32::MAX - self.graph.nodes.len() as u32, ty: ty.clone() });
        let node = Node { op: op.into(), operands: Operands::new(), types: [ty].into(), region: self.region };
        Value::first(self.push(node, self.provenance.clone()))
    }

    /// Adds an output.
    pub fn output(&mut self, name: &str, role: OutputRole, value: Value) {
        self.graph.outputs.push(Output { name: name.into(), role, value });
    }

    /// Gives the output of that name another value.
    pub fn replace_output(&mut self, name: &str, value: Value) {
        self.graph.outputs.iter_mut().filter(|o| o.name == name).for_each(|o| o.value = value);
    }

    /// Adds `op` applied to `operands`, or finds it; all results.
    pub fn node(&mut self, op: impl Into<Op>, operands: &[Value]) -> Built<Vec<Value>> {
        let op = self.with_needed_sizes(op.into(), operands);
        let key = key(&op, operands, self.region);
        if let Some(node) = self.find(key, &op, operands, self.region) {
            self.graph.provenance[node.0 as usize].merge(&self.provenance);
            return Ok(self.results(node));
        }
        let inferred = self.infer(&op, operands)?;
        let (op, types) = (self.shared_op(op), self.shared(inferred));
        Ok(self.insert(key, Node { op, operands: operands.into(), types, region: self.region }, self.provenance.clone()))
    }

    /// As [`Builder::node`] for a node of `graph`, whose operands here have the types that they have there.
    fn copy(&mut self, graph: &Graph, id: NodeId, operands: Operands) -> Vec<Value> {
        let node = graph.node(id);
        let (op, types) = (node.op.clone(), node.types.clone());
        self.adopt(Node { op, operands, types, region: self.region }, self.provenance.clone())
    }

    /// Adds a node that came from there, or finds it. The types of its results are those that its op infers from its operands.
    pub(crate) fn adopt(&mut self, node: Node, provenance: Provenance) -> Vec<Value> {
        let key = key(&node.op, &node.operands, node.region);
        match self.find(key, &node.op, &node.operands, node.region) {
            Some(known) => {
                self.graph.provenance[known.0 as usize].merge(&provenance);
                self.results(known)
            }
            None => self.insert(key, node, provenance),
        }
    }

    /// The node of that op, those operands and that region.
    fn find(&self, key: u32, op: &Op, operands: &[Value], region: Option<Region>) -> Option<NodeId> {
        let mut next = self.known.get(&key).copied();
        while let Some(id) = next {
            let node = self.graph.node(id);
            if node.region == region && *node.operands == *operands && *node.op == *op {
                return Some(id);
            }
            next = self.older[id.0 as usize];
        }
        None
    }

    /// Finds nodes by what they are now. Of equal ones the first is found.
    pub(super) fn index_anew(&mut self) {
        self.known.clear();
        self.older.fill(None);
        for i in 0..self.graph.nodes.len() {
            let (id, node) = (NodeId(i as u32), &self.graph.nodes[i]);
            let key = key(&node.op, &node.operands, node.region);
            if self.find(key, &node.op, &node.operands, node.region).is_none() {
                self.older[i] = self.known.insert(key, id);
            }
        }
    }

    fn infer(&self, op: &Op, operands: &[Value]) -> Built<Vec<TensorType>> {
        let types: Vec<TensorType> = operands.iter().map(|&v| self.ty(v).clone()).collect();
        let inferred = op.infer(&types).and_then(|inferred| match inferred.iter().find_map(TensorType::fault) {
            Some(fault) => Err(fault),
            None => Ok(inferred),
        });
        inferred.map_err(|message| {
            let shown: Vec<String> = types.iter().map(|t| t.to_string()).collect();
            let separator = if shown.is_empty() { "" } else { ": " };
            format!("{}: {message}{separator}{}", op.name(), shown.join(" x "))
        })
    }

    /// One copy of equal types. Those with symbols, which are equal whatever their ranges, stay apart.
    fn shared(&mut self, types: Vec<TensorType>) -> Arc<[TensorType]> {
        if types.iter().flat_map(|ty| &ty.shape.0).any(|d| d.as_int().is_none()) {
            return types.into();
        }
        if let Some(known) = self.types.get(&types[..]) {
            return known.clone();
        }
        let types: Arc<[TensorType]> = types.into();
        self.types.insert(types.clone());
        types
    }

    /// One copy of equal ops, as of equal types. Those that hold graphs have one already.
    fn shared_op(&mut self, mut op: Op) -> Arc<Op> {
        if let Some(known) = self.ops.get(&op) {
            return known.clone();
        }
        let is_fixed = op.subgraphs().is_empty() && has_fixed_sizes(&mut op);
        let op = Arc::new(op);
        if is_fixed {
            self.ops.insert(op.clone());
        }
        op
    }

    fn insert(&mut self, key: u32, node: Node, provenance: Provenance) -> Vec<Value> {
        let id = self.push(node, provenance);
        self.older[id.0 as usize] = self.known.insert(key, id);
        self.results(id)
    }

    /// The op in the symbols that the graph has now, after its sizes have become what it needs.
    fn with_needed_sizes(&mut self, mut op: Op, operands: &[Value]) -> Op {
        if !self.assumes {
            return op;
        }
        op.map_dims(&|d| self.resolve(d));
        let types: Vec<TensorType> = operands.iter().map(|&v| self.ty(v).clone()).collect();
        for (a, b) in op.equal_sizes(&types) {
            self.assume_equal(&a, &b, op.name());
        }
        for (a, b) in op.bounded_sizes(&types) {
            let mut symbols = vec![];
            (b.clone() - &a).collect_symbols(&mut symbols);
            // What one size alone must be is for its declaration to say.
            if symbols.len() > 1 {
                self.assume_at_most(&a, &b, op.name());
            }
            if !self.resolve(&a).known_le(&self.resolve(&b)) {
                self.assume_equal(&a, &b, op.name());
            }
        }
        op.map_dims(&|d| self.resolve(d));
        op
    }

    /// Adds an op with one result.
    pub fn op(&mut self, op: impl Into<Op>, operands: &[Value]) -> Built {
        let results = self.node(op, operands)?;
        debug_assert_eq!(results.len(), 1, "use Builder::node for ops with several results");
        Ok(results[0])
    }

    /// Finishes. Nodes that nothing needs are dropped.
    pub fn finish(self) -> Graph {
        if self.unified.is_empty() { self.finish_as_built() } else { self.merged().finish_as_built() }
    }

    /// The same graph where nodes that became equal as symbols did are one.
    fn merged(self) -> Builder {
        let (mut b, mut map) = (Builder::like(&self.graph.name, &self.graph), ValueMap::default());
        let built = b.copy_inputs(&self.graph, &mut map).and_then(|()| self.graph.ids().try_for_each(|id| b.copy_node(&self.graph, id, &mut map)));
        if let Err(message) = built {
            panic!("{}: replacing symbols of a graph made it unsound: {message}", self.graph.name);
        }
        for output in &self.graph.outputs {
            b.output(&output.name, output.role.clone(), map[&output.value]);
        }
        b
    }

    fn finish_as_built(self) -> Graph {
        let mut graph = self.graph;
        let live = graph.live();
        if live.iter().all(|l| *l) {
            return graph;
        }
        let numbers = live.iter().scan(0, |next, &l| Some(std::mem::replace(next, *next + l as u32)));
        let renumber: Vec<u32> = numbers.collect();
        let map = |v: &mut Value| v.node = NodeId(renumber[v.node.0 as usize]);
        let (mut nodes, mut provenance) = (live.iter(), live.iter());
        graph.nodes.retain(|_| nodes.next() == Some(&true));
        graph.provenance.retain(|_| provenance.next() == Some(&true));
        graph.nodes.iter_mut().flat_map(|n| &mut n.operands).for_each(map);
        graph.inputs.iter_mut().map(|i| &mut i.value).for_each(map);
        graph.outputs.iter_mut().map(|o| &mut o.value).for_each(map);
        graph
    }

    /// Copies every node of `graph` but its inputs, which are given; returns the value of each old value's node results.
    pub fn inline(&mut self, graph: &Graph, inputs: &[Value]) -> Built<Vec<Value>> {
        let mut map: ValueMap = graph.inputs.iter().zip(inputs).map(|(i, &v)| (i.value, v)).collect();
        for id in graph.ids() {
            self.copy_node(graph, id, &mut map)?;
        }
        Ok(graph.outputs.iter().map(|o| map[&o.value]).collect())
    }

    /// Copies one node under a value map, unless its results are mapped already; keeps region and provenance.
    pub fn copy_node(&mut self, graph: &Graph, id: NodeId, map: &mut ValueMap) -> Built<()> {
        self.rebuild_node(graph, id, map, |b, operands| {
            let same = graph.node(id).operands.iter().zip(&operands).all(|(&v, &w)| graph.ty(v) == b.ty(w));
            if same && !b.assumes { Ok(b.copy(graph, id, operands)) } else { b.node(Op::clone(&graph.node(id).op), &operands) }
        })
    }

    /// As [`Builder::copy_node`], with another op in the node's place.
    pub fn copy_changed_node(&mut self, graph: &Graph, id: NodeId, op: Op, map: &mut ValueMap) -> Built<()> {
        self.rebuild_node(graph, id, map, |b, operands| b.node(op, &operands))
    }

    /// Maps a node to what `build` makes of its operands, with the node's region and provenance, unless its results are mapped already.
    pub fn rebuild_node(
        &mut self,
        graph: &Graph,
        id: NodeId,
        map: &mut ValueMap,
        build: impl FnOnce(&mut Builder, Operands) -> Built<Vec<Value>>,
    ) -> Built<()> {
        if map.contains_key(&Value::first(id)) {
            return Ok(());
        }
        let node = graph.node(id);
        let operands: Operands = node.operands.iter().map(|v| map[v]).collect();
        let (provenance, region) = (std::mem::take(&mut self.provenance), self.region);
        self.provenance = graph.provenance(id).clone();
        self.provenance.merge(&provenance);
        self.region = node.region.or(region);
        let results = build(self, operands);
        (self.provenance, self.region) = (provenance, region);
        map.extend(graph.results(id).zip(results?));
        Ok(())
    }

    pub(super) fn push(&mut self, node: Node, provenance: Provenance) -> NodeId {
        let id = NodeId(self.graph.nodes.len() as u32);
        self.graph.nodes.push(node);
        self.graph.provenance.push(provenance);
        self.older.push(None);
        id
    }

    fn results(&self, node: NodeId) -> Vec<Value> {
        self.graph.results(node).collect()
    }
}

/// Whether no size that an op holds has a symbol in it.
fn has_fixed_sizes(op: &mut Op) -> bool {
    let fixed = Cell::new(true);
    op.map_dims(&|d| {
        fixed.set(fixed.get() && d.as_int().is_some());
        d.clone()
    });
    fixed.get()
}

/// Places in the table of known nodes for each node.
const PLACES: u32 = 2;

/// How much of a key is a place.
const PLACE: u32 = (1 << 21) - 1;

/// Where a node stands in the table of known nodes: near the place of the newest value that it reads, which is young itself as a rule, so
/// that building a large graph goes through the table in order. Nodes with the same key are told apart by what they are.
fn key(op: &Op, operands: &[Value], region: Option<Region>) -> u32 {
    let mut hasher = FxHasher::default();
    (op, operands, region).hash(&mut hasher);
    let hash = (hasher.finish() >> 32) as u32;
    let newest = operands.iter().map(|v| v.node.0).max();
    newest.map_or(hash, |newest| (newest.wrapping_mul(PLACES).wrapping_add(hash % 16) & PLACE) | (hash & !PLACE))
}

/// Leaves keys where they stand: the table takes the place from the low end, and tells keys of one place apart by the high end.
#[derive(Clone, Default)]
struct InOrder(u64);

impl Hasher for InOrder {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.0 = self.0 << 8 | b as u64);
    }

    fn write_u32(&mut self, key: u32) {
        self.0 = (key as u64) << 32 | key as u64;
    }
}

/// Shorthands that keep VJPs and decompositions readable. Binary functions broadcast.
impl Builder {
    /// A scalar function of operands that broadcast against each other.
    pub fn scalar(&mut self, f: ScalarFn, operands: &[Value]) -> Built {
        self.assume_broadcast(f.name(), operands);
        let mut shape = Shape::scalar();
        for &v in operands {
            shape = broadcast_shapes(&shape, self.shape(v)).map_err(|e| {
                let shown: Vec<String> = operands.iter().map(|&v| self.ty(v).to_string()).collect();
                format!("{}: {e}: {}", f.name(), shown.join(" x "))
            })?;
        }
        let mut expanded = Vec::with_capacity(operands.len());
        for &v in operands {
            expanded.push(self.broadcast_to(v, &shape)?);
        }
        self.op(ops::Pointwise { f }, &expanded)
    }

    /// Sizes that broadcasting needs equal become so, where that is assumed.
    fn assume_broadcast(&mut self, name: &str, operands: &[Value]) {
        let operands = if self.assumes { operands } else { &[] };
        for (k, &x) in operands.iter().enumerate() {
            for &y in &operands[..k] {
                for (a, b) in broadcast_pairs(self.shape(y), self.shape(x)) {
                    self.assume_equal(&a, &b, name);
                }
            }
        }
    }

    /// `-x`.
    pub fn neg(&mut self, x: Value) -> Built {
        self.scalar(ScalarFn::Neg, &[x])
    }
    /// `x + y`.
    pub fn add(&mut self, x: Value, y: Value) -> Built {
        self.scalar(ScalarFn::Add, &[x, y])
    }
    /// `x - y`.
    pub fn sub(&mut self, x: Value, y: Value) -> Built {
        self.scalar(ScalarFn::Sub, &[x, y])
    }
    /// `x * y`.
    pub fn mul(&mut self, x: Value, y: Value) -> Built {
        self.scalar(ScalarFn::Mul, &[x, y])
    }
    /// `x / y`.
    pub fn div(&mut self, x: Value, y: Value) -> Built {
        self.scalar(ScalarFn::Div, &[x, y])
    }
    /// `if cond { x } else { y }`.
    pub fn where_(&mut self, cond: Value, x: Value, y: Value) -> Built {
        self.scalar(ScalarFn::Where, &[cond, x, y])
    }

    /// A 0-d constant of that dtype.
    pub fn constant(&mut self, dtype: DType, x: f64) -> Built {
        self.full(dtype, x, Shape::scalar())
    }

    /// A tensor filled with one number.
    pub fn full(&mut self, dtype: DType, x: f64, shape: impl IntoShape) -> Built {
        self.op(ops::Full::new(x, dtype, shape.into_shape()), &[])
    }

    /// A tensor whose elements may be anything.
    pub fn empty(&mut self, dtype: DType, shape: impl IntoShape) -> Built {
        self.op(ops::Empty { dtype, shape: shape.into_shape() }, &[])
    }

    /// The tensor's value times a number of its own dtype.
    pub fn scale(&mut self, x: Value, factor: f64) -> Built {
        let k = self.constant(self.dtype(x), factor)?;
        self.mul(x, k)
    }

    /// `0, 1, 2, ...` along `dim` of `shape`.
    pub fn iota(&mut self, dtype: DType, shape: impl IntoShape, dim: usize) -> Built {
        self.op(ops::Iota { dtype, shape: shape.into_shape(), dim: dim as u32 }, &[])
    }

    /// The bits as those of a dtype of the same size; nothing when it is that dtype already.
    pub fn bitcast(&mut self, x: Value, dtype: DType) -> Built {
        if self.dtype(x) == dtype { Ok(x) } else { self.op(ops::Bitcast { dtype }, &[x]) }
    }

    /// Converts the dtype; nothing when it is that dtype already.
    pub fn cast(&mut self, x: Value, dtype: DType) -> Built {
        if self.dtype(x) == dtype { Ok(x) } else { self.op(ops::Cast { dtype }, &[x]) }
    }

    /// Reshapes; nothing when it is that shape already.
    pub fn reshape(&mut self, x: Value, shape: impl IntoShape) -> Built {
        let shape = shape.into_shape();
        if *self.shape(x) == shape { Ok(x) } else { self.op(ops::Reshape { shape }, &[x]) }
    }

    /// Permutes dimensions; nothing when the order stays.
    pub fn permute(&mut self, x: Value, order: &[usize]) -> Built {
        if order.iter().enumerate().all(|(i, &o)| i == o) {
            return Ok(x);
        }
        self.op(ops::Permute { order: order.iter().map(|&o| o as u32).collect() }, &[x])
    }

    /// Exchanges the last two dimensions.
    pub fn transpose(&mut self, x: Value) -> Built {
        let rank = self.shape(x).rank();
        let mut order: Vec<usize> = (0..rank).collect();
        order.swap(rank - 2, rank - 1);
        self.permute(x, &order)
    }

    /// Broadcasts to `shape`, aligning trailing dimensions.
    pub fn broadcast_to(&mut self, x: Value, shape: &Shape) -> Built {
        if self.shape(x) == shape {
            return Ok(x);
        }
        let missing = shape.rank().checked_sub(self.shape(x).rank()).ok_or_else(|| format!("{} does not broadcast to {shape}", self.ty(x)))?;
        let mut dims = vec![Dim::int(1); missing];
        dims.extend(self.shape(x).0.iter().cloned());
        let x = self.reshape(x, Shape::new(dims))?;
        if self.shape(x) == shape { Ok(x) } else { self.op(ops::Expand { shape: shape.clone() }, &[x]) }
    }

    /// Sums `x` down to `shape`: the transpose of [`Builder::broadcast_to`].
    pub fn sum_to(&mut self, x: Value, shape: &Shape) -> Built {
        if self.shape(x) == shape {
            return Ok(x);
        }
        let from = self.shape(x).clone();
        let missing = from.rank() - shape.rank();
        let dims: Vec<usize> = (0..from.rank()).filter(|&i| i < missing || (shape[i - missing].is(1) && !from[i].is(1))).collect();
        let summed = if dims.is_empty() { x } else { self.reduce(ops::ReduceKind::Sum, x, &dims, false)? };
        self.reshape(summed, shape.clone())
    }

    /// Reduces over `dims`.
    pub fn reduce(&mut self, kind: ops::ReduceKind, x: Value, dims: &[usize], keepdim: bool) -> Built {
        let mut sorted: Vec<u32> = dims.iter().map(|&d| d as u32).collect();
        sorted.sort_unstable();
        sorted.dedup();
        self.op(ops::Reduce { kind, dims: sorted, keepdim }, &[x])
    }

    /// Batched matrix product of `[..., m, k]` and `[..., k, n]`; equal batch dimensions.
    pub fn matmul(&mut self, a: Value, b: Value) -> Built {
        self.op(ops::Matmul { transpose_a: false, transpose_b: false }, &[a, b])
    }

    /// Instantiates a scalar expression over tensors of one shape; constants take the dtype of the operand they meet.
    pub fn expr(&mut self, e: &Expr, args: &[Value], out: Value) -> Built {
        match e {
            Expr::Arg(k) => Ok(args[*k]),
            Expr::Out => Ok(out),
            Expr::Const(x) => {
                let dtype = args.iter().map(|&v| self.dtype(v)).find(|d| *d != DType::Bool).unwrap_or(DType::F32);
                self.constant(dtype, *x)
            }
            Expr::Call(f, children) => {
                let mut values = Vec::with_capacity(children.len());
                for child in children {
                    values.push(self.expr(child, args, out)?);
                }
                self.scalar(*f, &values)
            }
        }
    }
}
