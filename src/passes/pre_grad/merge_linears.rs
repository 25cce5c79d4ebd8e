//! Computes linear layers of one input as one product.

use crate::forms::merged::Layers;
use crate::graph::{Builder, Graph, Input, NodeId, OutputRole, Region, Value, ValueMap};
use crate::ops::{Built, Class, Linear, Matmul, Op, OpDef};
use crate::rewrite::through_broadcast;
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, Provenance};
use std::collections::{HashMap, HashSet};

/// What the pass asks about the program and the device.
pub(in crate::passes) struct Questions<'a> {
    /// Whether a gradient of an input is computed.
    pub is_asked: &'a dyn Fn(&Input) -> bool,
    /// Whether a gradient flows from an output.
    pub is_seeded: &'a dyn Fn(&OutputRole) -> bool,
    /// Whether one product is clearly faster.
    pub pays: &'a dyn Fn(&Layers) -> bool,
    /// Whether products are computed in halves whatever their operands are.
    pub halves: bool,
}

/// Multiplies an input by the weights of several linear layers at once, where that pays, in subgraphs too; gives nothing where it changes nothing.
///
/// ```text
/// %5 = linear(%0, %1, %2) : [m, a]   ->   %5 = cat(%1, %3) {dim=0} : [a+b, k]
/// %6 = linear(%0, %3, %4) : [m, b]        %6 = cat(%2, %4) {dim=0} : [a+b]
///                                         %7 = linear(%0, %5, %6) : [m, a+b]
///                                         %8 = slice(%7) : [m, a]
///                                         %9 = slice(%7) : [m, b]
/// ```
///
/// Queries, keys and values of attention mostly: narrow products leave a GPU half empty. Each result is the sum of the same terms as before.
/// Before autograd, so that the gradient of the input is one product over the columns of all layers, whose cotangents are concatenated, and
/// the weights' gradients are parts of another.
///
/// Layers are merged where all that they multiply by is at hand before the first: inputs of the graph, seen through views, casts and `detach`.
/// Those whose weight has a gradient stay apart from those whose weight has none, for which nothing is to be computed: frozen ones, and ones whose
/// results do not reach the loss.
/// The price is [`Layers::pays`]. TorchInductor merges layers before autograd too (`batch_linear`, as batches of equal layers). Linear.
pub(in crate::passes) fn merge_linears(graph: &Graph, ask: &Questions<'_>) -> Result<Option<Graph>, String> {
    let asked: Vec<bool> = graph.inputs.iter().map(|i| (ask.is_asked)(i)).collect();
    let seeded: Vec<bool> = graph.outputs.iter().map(|o| (ask.is_seeded)(&o.role)).collect();
    merged(graph, &asked, &seeded, ask)
}

/// The same for a graph of whose inputs and outputs it is known.
fn merged(graph: &Graph, asked: &[bool], seeded: &[bool], ask: &Questions<'_>) -> Result<Option<Graph>, String> {
    let flow = Flow::of(graph, asked, seeded);
    let bodies = bodies(graph, &flow, asked, ask)?;
    let groups = groups(graph, &flow, ask);
    if groups.is_empty() && bodies.is_empty() {
        return Ok(None);
    }
    let first: HashMap<NodeId, &Group> = groups.iter().map(|g| (g.layers[0].product, g)).collect();
    let others: HashSet<NodeId> = groups.iter().flat_map(|g| &g.layers).map(|l| l.product).collect();
    let (mut b, mut map) = (Builder::like(&graph.name, graph), ValueMap::default());
    b.copy_inputs(graph, &mut map)?;
    for id in graph.ids() {
        match (first.get(&id), bodies.get(&id)) {
            (Some(group), _) => group.build(&mut b, graph, &mut map)?,
            _ if others.contains(&id) => {}
            (_, Some(op)) => b.copy_changed_node(graph, id, op.clone(), &mut map)?,
            _ => b.copy_node(graph, id, &mut map)?,
        }
    }
    for output in &graph.outputs {
        b.output(&output.name, output.role.clone(), map[&output.value]);
    }
    Ok(Some(b.finish()))
}

/// Ops whose bodies change.
fn bodies(graph: &Graph, flow: &Flow, asked: &[bool], ask: &Questions<'_>) -> Result<HashMap<NodeId, Op>, String> {
    let mut out = HashMap::new();
    for id in graph.ids() {
        let node = graph.node(id);
        let before = node.op.subgraphs();
        if before.is_empty() {
            continue;
        }
        let is_call = node.op.flow().is_none();
        let mut after = vec![];
        for body in &before {
            // What a loop carries may get a gradient on a later trip.
            let own = |k: usize| if is_call { flow.is_asked(node.operands[k]) } else { asked.contains(&true) };
            let inputs: Vec<bool> = (0..body.inputs.len()).map(own).collect();
            after.push(merged(body, &inputs, &vec![true; body.outputs.len()], ask)?);
        }
        if after.iter().any(Option::is_some) {
            let mut op = Op::clone(&node.op);
            op.set_subgraphs(before.into_iter().zip(after).map(|(old, new)| new.map_or(old, Into::into)).collect());
            out.insert(id, op);
        }
    }
    Ok(out)
}

/// Where gradients flow.
struct Flow {
    /// Nodes that depend on what a gradient is asked of.
    asked: Vec<bool>,
    /// Nodes that an output with a cotangent depends on.
    seeded: Vec<bool>,
}

impl Flow {
    fn of(graph: &Graph, inputs: &[bool], outputs: &[bool]) -> Flow {
        let passes = |id: NodeId| !graph.node(id).op.stops_gradient() && graph.node(id).types.iter().any(|ty| ty.dtype.is_float());
        let mut flow = Flow { asked: vec![false; graph.nodes.len()], seeded: vec![false; graph.nodes.len()] };
        for (input, asked) in graph.inputs.iter().zip(inputs) {
            flow.asked[input.value.node.0 as usize] = *asked && graph.ty(input.value).dtype.is_float();
        }
        for (output, seeded) in graph.outputs.iter().zip(outputs) {
            flow.seeded[output.value.node.0 as usize] |= *seeded && passes(output.value.node);
        }
        for id in graph.ids().filter(|id| passes(*id)) {
            flow.asked[id.0 as usize] |= graph.node(id).operands.iter().any(|v| flow.is_asked(*v));
        }
        for id in graph.ids().rev().filter(|id| passes(*id)) {
            if flow.seeded[id.0 as usize] {
                graph.node(id).operands.iter().for_each(|v| flow.seeded[v.node.0 as usize] = true);
            }
        }
        flow
    }

    fn is_asked(&self, v: Value) -> bool {
        self.asked[v.node.0 as usize]
    }

    /// Whether a gradient of a value is computed.
    fn has_gradient(&self, v: Value) -> bool {
        self.is_asked(v) && self.seeded[v.node.0 as usize]
    }
}

/// What layers that may be merged have in common.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    x: Value,
    of: Of,
    region: Option<Region>,
    /// Whether the results have a gradient.
    flows: bool,
    /// Whether the weight has.
    weight_gradient: bool,
}

/// How a layer is written.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Of {
    /// As the operator.
    Linear,
    /// As a product of matrices.
    Product {
        /// The weight's rows are columns of the results.
        transposed: bool,
    },
}

/// A linear layer.
#[derive(Clone, Copy)]
struct Layer {
    product: NodeId,
    weight: Value,
    bias: Option<Value>,
    /// The product, or the sum with the bias.
    result: Value,
    columns: i64,
}

/// Layers that one product computes.
struct Group {
    kind: Kind,
    layers: Vec<Layer>,
}

/// Operands of one concatenation.
const MOST: usize = 6;

fn groups(graph: &Graph, flow: &Flow, ask: &Questions<'_>) -> Vec<Group> {
    let mut of_kind: HashMap<Kind, usize> = HashMap::new();
    let mut found: Vec<Group> = vec![];
    for id in graph.ids() {
        let Some((kind, layer)) = layer(graph, flow, id) else { continue };
        let at = *of_kind.entry(kind).or_insert(found.len());
        if at == found.len() {
            found.push(Group { kind, layers: vec![] });
        }
        let group = &mut found[at];
        if group.layers.len() < MOST && group.layers.iter().all(|l| l.weight != layer.weight) {
            group.layers.push(layer);
        }
    }
    found.retain(|group| group.layers.len() > 1);
    if found.is_empty() {
        return found;
    }
    let readers = Readers::of(graph);
    found.into_iter().filter_map(|group| group.with_biases(graph, &readers).paying(graph, &readers, flow, ask)).collect()
}

/// A node as a linear layer, without a bias that is added behind it.
fn layer(graph: &Graph, flow: &Flow, id: NodeId) -> Option<(Kind, Layer)> {
    let node = graph.node(id);
    let (of, x, weight, bias) = match (&*node.op, &node.operands[..]) {
        (Op::Linear(_), &[x, weight]) => (Of::Linear, x, weight, None),
        (Op::Linear(_), &[x, weight, bias]) => (Of::Linear, x, weight, Some(bias)),
        (Op::Matmul(Matmul { transpose_a: false, transpose_b }), &[x, weight]) if graph.ty(x).shape.rank() == 2 => {
            let (weight, turned) = unturned(graph, weight);
            (Of::Product { transposed: transpose_b != &turned }, x, weight, None)
        }
        _ => return None,
    };
    let result = Value::first(id);
    let columns = graph.ty(result).shape.0.last()?.as_int().filter(|n| *n > 0)?;
    let at_hand = is_at_hand(graph, weight) && bias.is_none_or(|bias| is_at_hand(graph, bias));
    if !at_hand || !graph.ty(x).dtype.is_float() {
        return None;
    }
    let flows = flow.has_gradient(result);
    let kind = Kind { x, of, region: node.region, flows, weight_gradient: flows && flow.is_asked(weight) };
    Some((kind, Layer { product: id, weight, bias, result, columns }))
}

/// A matrix without a transposition of it, and whether there was one.
fn unturned(graph: &Graph, v: Value) -> (Value, bool) {
    match &*graph.def(v).op {
        Op::Permute(permute) if permute.order == [1, 0] => (graph.def(v).operands[0], true),
        _ => (v, false),
    }
}

/// Whether a value is an input, seen through views, casts and `detach`, so that it can be read anywhere.
fn is_at_hand(graph: &Graph, v: Value) -> bool {
    let node = graph.def(v);
    match &*node.op {
        Op::InputOp(_) => true,
        Op::Cast(_) | Op::Detach(_) => is_at_hand(graph, node.operands[0]),
        op => op.is_view() && node.operands.iter().all(|&x| is_at_hand(graph, x)),
    }
}

/// Reads a value that is at hand before the graph comes to it.
fn bring(b: &mut Builder, graph: &Graph, map: &mut ValueMap, v: Value) -> Built {
    if !map.contains_key(&v) {
        for &operand in &graph.def(v).operands {
            bring(b, graph, map, operand)?;
        }
        b.copy_node(graph, v.node, map)?;
    }
    Ok(map[&v])
}

/// Who reads each node.
struct Readers {
    nodes: Vec<Vec<NodeId>>,
    outputs: HashSet<NodeId>,
}

impl Readers {
    fn of(graph: &Graph) -> Readers {
        let mut readers = vec![vec![]; graph.nodes.len()];
        for id in graph.ids() {
            for v in &graph.node(id).operands {
                readers[v.node.0 as usize].push(id);
            }
        }
        Readers { nodes: readers, outputs: graph.outputs.iter().map(|o| o.value.node).collect() }
    }

    fn get(&self, v: Value) -> &[NodeId] {
        &self.nodes[v.node.0 as usize]
    }

    /// Whether a value is an output, or first read element by element, which the kernel that computes it could do.
    fn are_of_elements(&self, graph: &Graph, v: Value) -> bool {
        let numel = graph.ty(v).numel();
        let keeps = |id: &NodeId| graph.node(*id).types[0].numel() == numel;
        let of_elements = |id: &NodeId| {
            let op = &graph.node(*id).op;
            match op.class() {
                Class::View => self.are_of_elements(graph, Value::first(*id)),
                Class::Pointwise | Class::Composite => !op.is_product(),
                _ => false,
            }
        };
        // Who reads a part of it reads it from memory.
        self.outputs.contains(&v.node) || self.get(v).iter().all(keeps) && self.get(v).iter().any(of_elements)
    }
}

impl Group {
    /// With the biases that are added to products.
    fn with_biases(mut self, graph: &Graph, readers: &Readers) -> Group {
        if self.kind.of != Of::Linear {
            for layer in &mut self.layers {
                if let Some((sum, bias)) = added(graph, readers, layer) {
                    (layer.result, layer.bias) = (sum, Some(bias));
                }
            }
        }
        self
    }

    /// The layers that pay: all, or those whose results no operation of single elements reads, which their own kernels could compute.
    fn paying(self, graph: &Graph, readers: &Readers, flow: &Flow, ask: &Questions<'_>) -> Option<Group> {
        let (kind, of_elements) = (self.kind, |l: &Layer| readers.are_of_elements(graph, l.result));
        let apart: Vec<Layer> = self.layers.iter().filter(|l| !of_elements(l)).copied().collect();
        [self.layers, apart].into_iter().map(|layers| Group { kind, layers }).find(|group| {
            let read = group.layers.iter().filter(|l| of_elements(l)).map(|l| l.columns).sum::<i64>() as f64;
            group.layers.len() > 1 && group.problem(graph, flow, read, ask.halves).is_some_and(|problem| (ask.pays)(&problem))
        })
    }

    /// None where the terms are not known. Rows are as many as there are at least.
    fn problem(&self, graph: &Graph, flow: &Flow, read_by_elements: f64, mixed: bool) -> Option<Layers> {
        let ty = graph.ty(self.kind.x);
        let (terms, rows) = ty.shape.0.split_last()?;
        let converted = mixed && ty.dtype == DType::F32;
        Some(Layers {
            rows: rows.iter().map(|d| d.range().0.max(0) as f64).product(),
            terms: terms.as_int()? as f64,
            columns: self.layers.iter().map(|l| l.columns as f64).collect(),
            read_by_elements,
            input_gradient: self.kind.flows && flow.is_asked(self.kind.x),
            weight_gradients: self.kind.weight_gradient,
            halves: converted || ty.dtype == DType::F16,
            converted: converted || self.layers.iter().any(|l| matches!(*graph.def(l.weight).op, Op::Cast(_))),
        })
    }

    fn build(&self, b: &mut Builder, graph: &Graph, map: &mut ValueMap) -> Built<()> {
        let mut provenance = Provenance::default();
        self.layers.iter().for_each(|l| provenance.merge(graph.provenance(l.product)));
        let weights: Vec<Value> = self.layers.iter().map(|l| bring(b, graph, map, l.weight)).collect::<Built<_>>()?;
        let biases: Vec<Option<Value>> =
            self.layers.iter().map(|l| l.bias.map(|bias| bring(b, graph, map, bias)).transpose()).collect::<Built<_>>()?;
        let outer = (std::mem::replace(&mut b.provenance, provenance), b.region);
        b.region = self.kind.region.or(outer.1);
        let all = self.product(b, map[&self.kind.x], &weights, &biases)?;
        let (dim, mut start) = (b.shape(all).rank() - 1, Dim::int(0));
        for layer in &self.layers {
            let end = start.clone() + Dim::int(layer.columns);
            map.insert(layer.result, b.slice(all, dim, start, end.clone(), 1)?);
            start = end;
        }
        (b.provenance, b.region) = outer;
        Ok(())
    }

    /// The results of all layers, one behind the other.
    fn product(&self, b: &mut Builder, x: Value, weights: &[Value], biases: &[Option<Value>]) -> Built {
        let biases = match biases.iter().any(Option::is_some) {
            true => {
                let own = |(bias, layer): (&Option<Value>, &Layer)| match bias {
                    Some(bias) => Ok(*bias),
                    // Adding minus zero changes nothing, not even a sign.
                    None => b.full(b.dtype(x), -0.0, layer.columns),
                };
                let biases: Vec<Value> = biases.iter().zip(&self.layers).map(own).collect::<Built<_>>()?;
                Some(b.concat(&biases, 0)?)
            }
            false => None,
        };
        match self.kind.of {
            Of::Linear => {
                let weight = b.concat(weights, 0)?;
                b.op(Linear {}, &[x, weight].into_iter().chain(biases).collect::<Vec<_>>())
            }
            Of::Product { transposed } => {
                let weight = b.concat(weights, 1 - transposed as usize)?;
                let product = b.op(Matmul { transpose_a: false, transpose_b: transposed }, &[x, weight])?;
                biases.map_or(Ok(product), |bias| b.add(product, bias))
            }
        }
    }
}

/// The sum of a product with a bias, one number for each column, and the bias, if nothing else reads the product.
fn added(graph: &Graph, readers: &Readers, layer: &Layer) -> Option<(Value, Value)> {
    let product = Value::first(layer.product);
    let [reader] = readers.get(product) else { return None };
    let node = graph.node(*reader);
    let is_output = readers.outputs.contains(&layer.product);
    let is_sum = matches!(&*node.op, Op::Pointwise(op) if op.f == ScalarFn::Add);
    let other = *node.operands.iter().find(|v| **v != product)?;
    let bias = through_broadcast(graph, other);
    let fits = graph.ty(bias).shape.0 == [Dim::int(layer.columns)] && is_along_columns(graph, other);
    (is_sum && !is_output && fits && is_at_hand(graph, bias)).then_some((Value::first(*reader), bias))
}

/// Whether what is added has one row, below the `expand` that repeats it.
fn is_along_columns(graph: &Graph, v: Value) -> bool {
    let node = graph.def(v);
    let below = if matches!(&*node.op, Op::Expand(_)) { node.operands[0] } else { v };
    let shape = &graph.ty(below).shape.0;
    shape[..shape.len() - 1].iter().all(|d| d.is(1))
}
