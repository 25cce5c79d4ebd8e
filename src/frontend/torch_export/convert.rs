//! The exported graph, node by node, into the graph IR.

use super::alias::{StorageId, Storages, Tensor, view_strides};
use super::lstm_states::{self, Misdeclared};
use super::regions::{self, Region};
use super::schema::{Argument, ExportedGraph, ExportedNode, OptionalTensor, Range, SymArgument, SymInt, TensorMeta};
use super::{expr, statistics, symbols, weights};
use crate::frontend::aten::args::{Arg, Args, Cx, Scalar};
use crate::frontend::aten::gradients::{detached, straight_through};
use crate::frontend::aten::promotion::{has_declared_dtype, promote_arguments};
use crate::frontend::aten::{self, Effect, Target};
use crate::graph::Value;
use crate::ops::Op;
use crate::types::{DType, Dim, Location, Provenance, Shape};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Nodes of any graph, and bytes of the archive for each further one: a call of few bytes may become many nodes.
const NODES: usize = 1 << 15;
const BYTES_PER_NODE: usize = 512;
/// Elements of constants of any graph; an archive of more bytes may have more.
const CONSTANTS: usize = 1 << 20;
/// Module paths and names of files are cut to so many characters: each node has its own.
const NAME_LENGTH: usize = 96;

/// What a name of the exported graph stands for.
#[derive(Clone, Debug)]
pub enum Item {
    /// A tensor.
    Tensor(Tensor),
    /// A number.
    Scalar(Scalar),
    /// Nothing: an effect's token, or a result that is None.
    Nothing,
}

/// State of a conversion.
pub struct Converter<'a> {
    /// The graph under construction.
    pub cx: Cx,
    /// Tensors that share memory.
    pub storages: Storages,
    ranges: &'a BTreeMap<String, Range>,
    pub(super) names: HashMap<String, Item>,
    /// Names that something in the graph at hand reads.
    read: HashSet<String>,
    misdeclared: Misdeclared,
    /// Whether the program declares other dtypes than PyTorch computes in: without automatic casts, as its strict mode does, or behind
    /// losses that write in place.
    pub(super) cast_unseen: bool,
    /// What holds in the subgraph at hand.
    pub(super) region: Region,
    /// The graph may have so many nodes.
    max_nodes: usize,
    /// Constants may have so many elements more.
    constants: usize,
}

/// One operator that the registry lacks.
struct Missing {
    target: String,
    count: usize,
    first: String,
}

impl<'a> Converter<'a> {
    /// An empty graph of that name, for an archive of so many bytes.
    pub fn new(name: &str, ranges: &'a BTreeMap<String, Range>, archive: u64) -> Converter<'a> {
        let archive = usize::try_from(archive).unwrap_or(usize::MAX);
        let (max_nodes, constants) = (NODES + archive / BYTES_PER_NODE, CONSTANTS + archive / 16);
        Converter {
            cx: Cx::new(name),
            storages: Storages::default(),
            ranges,
            names: HashMap::new(),
            read: HashSet::new(),
            misdeclared: Misdeclared::default(),
            cast_unseen: false,
            region: Region::default(),
            max_nodes,
            constants,
        }
    }

    /// Declares a tensor under a name of the exported graph.
    pub fn declare(&mut self, name: &str, value: Value) -> Result<StorageId, String> {
        let tensor = self.storages.fresh(value);
        self.define(name, Item::Tensor(tensor))?;
        Ok(tensor.storage)
    }

    /// Declares a tensor that is the same as another one.
    pub fn declare_tied(&mut self, name: &str, other: &str) -> Result<(), String> {
        let item = self.item(other)?.clone();
        self.define(name, item)
    }

    /// Declares what is no tensor.
    pub fn declare_nothing(&mut self, name: &str) -> Result<(), String> {
        self.define(name, Item::Nothing)
    }

    fn define(&mut self, name: &str, item: Item) -> Result<(), String> {
        if self.names.insert(name.to_string(), item).is_some() {
            return Err(format!("{name} is defined twice"));
        }
        Ok(())
    }

    pub(super) fn item(&self, name: &str) -> Result<&Item, String> {
        self.names.get(name).ok_or_else(|| format!("{name} is used before it is defined"))
    }

    /// The current value of a tensor.
    pub fn tensor(&mut self, name: &str) -> Result<Value, String> {
        match self.names.get_mut(name) {
            Some(Item::Tensor(tensor)) => self.storages.read(&mut self.cx.b, tensor),
            Some(other) => Err(format!("{name} is {other:?}, expected a tensor")),
            None => Err(format!("{name} is used before it is defined")),
        }
    }

    /// The shape that a tensor's meta data give.
    pub fn shape(&self, meta: &TensorMeta) -> Result<Shape, String> {
        let sizes = meta.sizes.iter().map(|s| self.size(s)).collect::<Result<_, _>>()?;
        symbols::bounded_shape(sizes).map(Shape::new)
    }

    fn size(&self, size: &SymInt) -> Result<Dim, String> {
        match size {
            SymInt::AsInt(n) if *n >= 0 => Ok(Dim::int(*n)),
            SymInt::AsInt(n) => Err(format!("{n} is no size")),
            SymInt::AsExpr(e) => {
                let size = expr::parse(&e.expr_str, &|name| symbols::symbol(name, self.ranges.get(name)))?;
                Ok(self.cx.b.resolve(&size))
            }
        }
    }

    /// Converts all nodes of the graph.
    pub fn run(&mut self, graph: &ExportedGraph) -> Result<(), String> {
        let outer = std::mem::replace(&mut self.read, names_read(graph));
        for node in &graph.nodes {
            self.cx.b.provenance = provenance(node);
            let before = self.cx.b.graph().nodes.len();
            self.node(node, graph).and_then(|()| self.account(before)).map_err(|what| at(node, &what))?;
        }
        self.read = outer;
        self.cx.b.provenance = Provenance::default();
        Ok(())
    }

    /// The nodes since `before`, and their constants, are within what the archive warrants.
    fn account(&mut self, before: usize) -> Result<(), String> {
        let nodes = &self.cx.b.graph().nodes;
        let constants = nodes[before.min(nodes.len())..].iter().map(|n| if let Op::Constant(c) = &*n.op { c.data.len() } else { 0 });
        let (count, size) = (nodes.len(), constants.sum::<usize>());
        self.constants = self.constants.saturating_sub(size);
        match (count > self.max_nodes, self.constants == 0) {
            (true, _) => Err(format!("the graph has grown to {count} nodes, more than an archive of this size warrants")),
            (_, true) => Err("the tables in the graph have more elements than an archive of this size warrants".into()),
            _ => Ok(()),
        }
    }

    fn node(&mut self, node: &ExportedNode, graph: &ExportedGraph) -> Result<(), String> {
        if let Some(body) = symbols::find(&node.target) {
            let args = self.args(node)?;
            let result = body(&mut self.cx, &args)?;
            return match (&node.outputs[..], result) {
                ([], _) => Ok(()),
                ([Argument::Sym(SymArgument::AsName(name))], Some(scalar)) => {
                    let scalar = self.declared(name, graph, scalar)?;
                    self.define(name, Item::Scalar(scalar))
                }
                _ => Err("its result is no number".into()),
            };
        }
        if node.target.starts_with("torch.ops.higher_order.") {
            let Some(values) = self.control_flow(node)? else { return self.higher_order(node, graph) };
            let values = self.without_gradients(node, values)?;
            let results = values.into_iter().map(|v| self.storages.fresh(v)).collect();
            return self.define_results(node, graph, results);
        }
        let (row, target) = aten::find(own_target(node)).ok_or("it is not supported")?;
        let mut args = self.args(node)?;
        let declared = declared_dtype(node, graph)?;
        let believed = declared.filter(|_| !self.cast_unseen);
        self.region.cast_arguments(&mut self.cx, &node.target, &mut args, believed)?;
        promote_arguments(&mut self.cx, &node.target, &mut args)?;
        self.misdeclared.follow(node, &mut args)?;
        if row.effect == Effect::Snapshot && node.target.contains("as_strided") && !fills_its_memory(node, graph) {
            return Err("strides of a tensor that is itself a view are not supported".into());
        }
        if target == Target::Out {
            args.disregard(&["out"]);
            if computes_in_dtype_of_out(&node.target) && !args.has("dtype") {
                let out = tensor_name(node, "out").ok_or("there is no argument out")?;
                let out = self.tensor(out)?;
                args.push("dtype", Arg::DType(self.cx.b.dtype(out)));
            }
        }
        self.cx.writes.clear();
        let mut results = (row.build)(&mut self.cx, &args)?;
        // `to` gives a view where it changes nothing, unless it is asked for a copy.
        let copies = args.bool_or("copy", false)?;
        args.expect_all_read()?;
        if target == Target::Fresh {
            results = self.without_gradients(node, results)?;
        }
        let effect = if copies { Effect::Pure } else { row.effect };
        let results = self.apply_effects(node, graph, effect, target, results)?;
        self.define_results(node, graph, results)
    }

    /// Whether what a call computes has gradients: they are on here, and were where the call stood.
    fn has_gradients(&self, node: &ExportedNode) -> bool {
        self.region.has_gradients() && !was_without_gradients(node)
    }

    /// New values of a call, detached where gradients are off.
    fn without_gradients(&mut self, node: &ExportedNode, values: Vec<Value>) -> Result<Vec<Value>, String> {
        if self.has_gradients(node) {
            return Ok(values);
        }
        values.into_iter().map(|x| detached(&mut self.cx.b, x)).collect()
    }

    /// Writes what the call writes, and finds what its results share storage with.
    fn apply_effects(
        &mut self,
        node: &ExportedNode,
        graph: &ExportedGraph,
        effect: Effect,
        target: Target,
        results: Vec<Value>,
    ) -> Result<Vec<Tensor>, String> {
        for (argument, value) in std::mem::take(&mut self.cx.writes) {
            if let Some(name) = tensor_name(node, &argument) {
                self.write(node, name, value)?;
            }
        }
        let first = node.inputs.iter().find_map(|a| if let Argument::Tensor(name) = &a.arg { Some(name.as_str()) } else { None });
        let base = match first.map(|name| (name, self.names.get(name))) {
            Some((name, Some(Item::Tensor(t)))) => Some((name, *t)),
            _ => None,
        };
        if target == Target::Out {
            return self.write_out(node, &results).map(|tensor| vec![tensor]);
        }
        if target == Target::InPlace {
            let ((name, base), [value]) = (base.ok_or("it writes no tensor")?, &results[..]) else { return Err("it has several results".into()) };
            if effect != Effect::Pure {
                let view = self.storages.view(&self.cx.b, base, *value);
                self.names.insert(name.to_string(), Item::Tensor(view));
                return Ok(vec![view]);
            }
            self.write(node, name, *value)?;
            return match self.names.get(name) {
                Some(Item::Tensor(t)) => Ok(vec![*t]),
                _ => Err(format!("{name} is no tensor")),
            };
        }
        let mut out = vec![];
        for (k, value) in results.into_iter().enumerate() {
            let aliases = match (effect, base) {
                (Effect::View, Some(_)) => true,
                (Effect::ViewIfStrided, Some((name, _))) => is_view_by_strides(graph, name, node.outputs.get(k)),
                _ => false,
            };
            out.push(match base {
                Some((_, base)) if effect == Effect::Snapshot => self.storages.view_or_snapshot(&self.cx.b, base, value),
                Some((_, base)) if aliases => self.storages.view(&self.cx.b, base, value),
                _ => self.storages.fresh(value),
            });
        }
        Ok(out)
    }

    /// Writes the only result of a call into its argument `out`, which is of the same shape, or without elements: then it has new memory.
    fn write_out(&mut self, node: &ExportedNode, results: &[Value]) -> Result<Tensor, String> {
        let (Some(name), [value]) = (tensor_name(node, "out"), results) else { return Err("it has several results".into()) };
        let old = self.tensor(name)?;
        if self.cx.b.shape(old) != self.cx.b.shape(*value) && self.cx.b.shape(old).numel().is(0) {
            let value = self.cx.convert(*value, self.cx.b.dtype(old))?;
            let value = self.without_gradients(node, vec![value])?[0];
            let tensor = self.storages.fresh(value);
            self.names.insert(name.to_string(), Item::Tensor(tensor));
            return Ok(tensor);
        }
        if self.cx.b.shape(old) != self.cx.b.shape(*value) {
            return Err(format!("out is {} and the result {}, which would change its size", self.cx.b.ty(old), self.cx.b.ty(*value)));
        }
        self.write(node, name, *value)?;
        match self.names.get(name) {
            Some(Item::Tensor(tensor)) => Ok(*tensor),
            _ => Err(format!("{name} is no tensor")),
        }
    }

    /// Writes into a tensor, which keeps its dtype and shape.
    fn write(&mut self, node: &ExportedNode, name: &str, value: Value) -> Result<(), String> {
        let old = self.tensor(name)?;
        let ty = self.cx.b.ty(old).clone();
        let value = self.cx.convert(value, ty.dtype)?;
        let mut value = self.cx.b.broadcast_to(value, &ty.shape)?;
        if !self.has_gradients(node) {
            value = straight_through(&mut self.cx.b, old, value)?;
        }
        match self.names.get_mut(name) {
            Some(Item::Tensor(tensor)) => self.storages.write(&mut self.cx.b, tensor, value),
            _ => Err(format!("{name} is no tensor")),
        }
    }

    pub(super) fn define_results(&mut self, node: &ExportedNode, graph: &ExportedGraph, results: Vec<Tensor>) -> Result<(), String> {
        let mut results = results.into_iter();
        for output in &node.outputs {
            let names: Vec<&str> = match output {
                Argument::Tensor(name) => vec![name],
                Argument::Tensors(names) => names.iter().map(|n| n.name.as_str()).collect(),
                Argument::None => continue,
                other => return Err(format!("its result {other:?} is no tensor")),
            };
            for name in names {
                // What PyTorch declares for results that nothing reads depends on its kernels.
                if !self.read.contains(name) {
                    results.next();
                    self.define(name, Item::Nothing)?;
                    continue;
                }
                let mut tensor = results.next().ok_or("it gives fewer results than the program declares")?;
                let mut value = self.storages.read(&mut self.cx.b, &mut tensor)?;
                if let Some(shape) = lstm_states::states_shape(node, self.cx.b.shape(value)) {
                    value = self.cx.b.reshape(value, shape)?;
                    tensor = self.storages.fresh(value);
                }
                if let Some(meta) = graph.tensor_values.get(name) {
                    if let Some(stored) = statistics::as_declared(&mut self.cx, node, value, meta)? {
                        value = stored;
                        tensor = self.storages.fresh(value);
                    }
                    self.check_result(node, name, value, meta)?;
                }
                self.define(name, Item::Tensor(tensor))?;
            }
        }
        Ok(())
    }

    /// A result has the declared type, or comes from the last states of an LSTM, which PyTorch declares wrongly.
    fn check_result(&mut self, node: &ExportedNode, name: &str, value: Value, meta: &TensorMeta) -> Result<(), String> {
        let (found, declared) = (self.cx.b.shape(value).clone(), self.shape(meta)?);
        let may_differ = self.region.casts() || !has_declared_dtype(&node.target);
        self.cast_unseen |= may_differ && self.cx.b.dtype(value) != weights::dtype(meta.dtype)?;
        if found == declared || !self.misdeclared.may_differ(node) {
            return self.check_type(name, value, meta);
        }
        self.misdeclared.insert(node, name, found, declared);
        Ok(())
    }

    /// What the importer builds must have the type that PyTorch recorded.
    pub fn check_type(&self, name: &str, value: Value, meta: &TensorMeta) -> Result<(), String> {
        let (found, dtype, shape) = (self.cx.b.ty(value), weights::dtype(meta.dtype)?, self.shape(meta)?);
        let same = found.shape.rank() == shape.rank()
            && found.shape.0.iter().zip(&shape.0).all(|(a, b)| a == b || a.as_int().is_none() || b.as_int().is_none());
        if (found.dtype == dtype || self.cast_unseen) && same {
            Ok(())
        } else {
            Err(format!("{name} is {found} here, {dtype}{shape} in the program"))
        }
    }

    /// A size as the program declares it, when it does: symbols that only data decides have no other value.
    fn declared(&self, name: &str, graph: &ExportedGraph, scalar: Scalar) -> Result<Scalar, String> {
        match (graph.sym_int_values.get(name), &scalar) {
            (Some(declared), Scalar::Int(found)) => {
                let declared = self.size(declared)?;
                let agree = found.as_int().is_none() || declared.as_int().is_none() || *found == declared;
                if agree { Ok(scalar) } else { Err(format!("{name} is {found} here, {declared} in the program")) }
            }
            _ => Ok(scalar),
        }
    }

    fn args(&mut self, node: &ExportedNode) -> Result<Args, String> {
        let mut list = vec![];
        for input in &node.inputs {
            let arg = self.arg(&input.arg).map_err(|what| format!("argument {}: {what}", input.name))?;
            list.push((input.name.clone(), arg));
        }
        Ok(Args::new(list))
    }

    fn arg(&mut self, argument: &Argument) -> Result<Arg, String> {
        Ok(match argument {
            Argument::None => Arg::None,
            Argument::Tensor(name) => match self.item(name)? {
                Item::Tensor(_) => Arg::Tensor(self.tensor(name)?),
                Item::Scalar(s) => Arg::Scalar(s.clone()),
                Item::Nothing => Arg::None,
            },
            Argument::Tensors(names) => Arg::Tensors(names.iter().map(|n| self.tensor(&n.name)).collect::<Result<_, _>>()?),
            Argument::OptionalTensors(names) => {
                let mut list = vec![];
                for name in names {
                    list.push(match name {
                        OptionalTensor::AsTensor(n) => Some(self.tensor(&n.name)?),
                        OptionalTensor::AsNone(_) => None,
                    });
                }
                Arg::OptionalTensors(list)
            }
            Argument::Int(n) => Arg::Scalar(Scalar::Int(Dim::int(*n))),
            Argument::Ints(list) => Arg::Dims(list.iter().map(|&n| Dim::int(n)).collect()),
            Argument::Float(x) => Arg::Scalar(Scalar::Float(*x)),
            Argument::Floats(list) => Arg::Floats(list.iter().map(|x| x.0).collect()),
            Argument::Bool(x) => Arg::Scalar(Scalar::Bool(Some(*x))),
            Argument::Text(s) => Arg::Text(s.clone()),
            Argument::ScalarType(n) => Arg::DType(weights::dtype(*n)?),
            Argument::Sym(s) => Arg::Scalar(self.symbolic(s)?),
            Argument::Syms(list) => {
                let mut dims = vec![];
                for s in list {
                    match self.symbolic(s)? {
                        Scalar::Int(n) => dims.push(n),
                        other => return Err(format!("{other:?} is no size")),
                    }
                }
                Arg::Dims(symbols::bounded_list(dims)?)
            }
            Argument::Graph(_) => return Err("a subgraph is no argument here".into()),
            Argument::Other => Arg::Other,
        })
    }

    fn symbolic(&self, s: &SymArgument) -> Result<Scalar, String> {
        Ok(match s {
            SymArgument::AsInt(n) => Scalar::Int(Dim::int(*n)),
            SymArgument::AsFloat(x) => Scalar::Float(x.0),
            SymArgument::AsBool(x) => Scalar::Bool(Some(*x)),
            SymArgument::AsName(name) => match self.item(name)? {
                Item::Scalar(s) => s.clone(),
                other => return Err(format!("{name} is {other:?}, expected a number")),
            },
        })
    }
}

/// The target of a call; of a part of an operator that PyTorch decomposed, one that has the operator's derivative.
fn own_target(node: &ExportedNode) -> &str {
    match (&node.target[..], node.function()) {
        ("torch.ops.aten.where.self", "nansum" | "nanmean") => "torch.ops.aten.nansum.where",
        ("torch.ops.aten.sqrt.default", "std" | "std_mean") => "torch.ops.aten.std.sqrt",
        ("torch.ops.aten.where.self", "sinc") => "torch.ops.aten.sinc.where",
        ("torch.ops.aten.log.default", "logit") => "torch.ops.aten.logit.log",
        // Decompositions leave an alias in the place of a `detach`.
        ("torch.ops.aten.alias.default", function) if node.metadata.from_detach || function == "detach" => "torch.ops.aten.detach.default",
        (target, _) => target,
    }
}

/// The dtype that the program declares for the first result of a call, where that is a tensor.
pub(super) fn declared_dtype(node: &ExportedNode, graph: &ExportedGraph) -> Result<Option<DType>, String> {
    let Some(Argument::Tensor(name)) = node.outputs.first() else { return Ok(None) };
    graph.tensor_values.get(name).map(|meta| weights::dtype(meta.dtype)).transpose()
}

/// Whether a call stood where gradients are off, in a region that PyTorch decomposed with everything else. Regions where they are on
/// again are never within one: what they hold lies between two.
fn was_without_gradients(node: &ExportedNode) -> bool {
    node.function() == "wrap_with_set_grad_enabled"
}

/// Whether a call with an argument `out` computes in its dtype, unless it is given another one.
fn computes_in_dtype_of_out(target: &str) -> bool {
    let name = target.strip_prefix("torch.ops.aten.").and_then(|t| t.split('.').next());
    name.is_some_and(|name| ["sum", "nansum", "mean", "prod", "cumsum", "cumprod"].contains(&name))
}

/// Names of tensors that a call takes or that the graph gives back.
fn names_read(graph: &ExportedGraph) -> HashSet<String> {
    let given = graph.nodes.iter().flat_map(|n| n.inputs.iter().map(|i| &i.arg)).chain(&graph.outputs);
    given.flat_map(Argument::tensors).map(str::to_string).collect()
}

/// The tensor that a call has for an argument.
fn tensor_name<'n>(node: &'n ExportedNode, argument: &str) -> Option<&'n str> {
    node.inputs.iter().find(|a| a.name == argument).and_then(|a| if let Argument::Tensor(name) = &a.arg { Some(name.as_str()) } else { None })
}

/// Whether a result lies in the memory of `base`, by what the program says about strides.
fn is_view_by_strides(graph: &ExportedGraph, base: &str, output: Option<&Argument>) -> bool {
    let Some(Argument::Tensor(name)) = output else { return false };
    let (Some(from), Some(to)) = (graph.tensor_values.get(base), graph.tensor_values.get(name)) else { return false };
    let ints = |x: &[SymInt]| x.iter().map(|n| if let SymInt::AsInt(n) = n { Some(*n) } else { None }).collect::<Option<Vec<i64>>>();
    let (Some(sizes), Some(strides), Some(new), Some(found)) = (ints(&from.sizes), ints(&from.strides), ints(&to.sizes), ints(&to.strides)) else {
        return false;
    };
    let same = |expected: Vec<i64>| expected.iter().zip(&found).zip(&new).all(|((a, b), &n)| n == 1 || a == b);
    from.dtype == to.dtype && sizes.len() == strides.len() && view_strides(&sizes, &strides, &new).is_some_and(same)
}

/// Whether the first tensor of a call lies in memory row by row from the first element on, by what the program says.
fn fills_its_memory(node: &ExportedNode, graph: &ExportedGraph) -> bool {
    let name = node.inputs.iter().find_map(|a| if let Argument::Tensor(name) = &a.arg { Some(name) } else { None });
    let Some(meta) = name.and_then(|name| graph.tensor_values.get(name)) else { return false };
    let int = |n: &SymInt| if let SymInt::AsInt(n) = n { Some(*n) } else { None };
    let from_start = meta.storage_offset.as_ref().is_none_or(|n| int(n) == Some(0));
    let mut expected = Some(1i64);
    let packed = meta.sizes.len() == meta.strides.len()
        && meta.sizes.iter().zip(&meta.strides).rev().all(|(size, stride)| {
            let (Some(size), Some(stride), Some(packed)) = (int(size), int(stride), expected) else { return false };
            expected = packed.checked_mul(size);
            size == 1 || stride == packed
        });
    from_start && packed
}

/// Where a node came from.
fn provenance(node: &ExportedNode) -> Provenance {
    let (mut locations, mut paths) = (vec![], vec![]);
    let path = module_path(node);
    if !path.is_empty() {
        paths.push(path.chars().take(NAME_LENGTH).collect());
    }
    // Innermost call last: `File "model.py", line 12, in forward`.
    if let Some((_, last)) = node.metadata.stack_trace.rsplit_once("File \"")
        && let Some((file, rest)) = last.split_once("\", line ")
        && let Ok(line) = rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse()
    {
        let skipped = file.chars().count().saturating_sub(NAME_LENGTH);
        locations.push(Location { file: file.chars().skip(skipped).collect(), line });
    }
    Provenance::new(locations, paths)
}

/// The path of the innermost module around a call.
fn module_path(node: &ExportedNode) -> &str {
    let innermost = node.metadata.nn_module_stack.rsplit(';').next().unwrap_or_default();
    innermost.split(',').nth(1).unwrap_or_default()
}

/// A message with the operator, its module and its line.
fn at(node: &ExportedNode, what: &str) -> String {
    let target = node.target.strip_prefix("torch.ops.").unwrap_or(&node.target);
    let found = provenance(node);
    let path = found.paths().first().map(|p| format!(" in {p}")).unwrap_or_default();
    let line = found.line().map(|l| format!(" (at {l})")).unwrap_or_default();
    format!("{target}{path}: {what}{line}")
}

/// All operators that the registry lacks, as one message.
pub fn missing(graph: &ExportedGraph) -> Option<String> {
    let mut missing: Vec<Missing> = vec![];
    collect_missing(graph, &mut missing);
    if missing.is_empty() {
        return None;
    }
    let list: Vec<String> = missing
        .iter()
        .map(|m| {
            let first = if m.first.is_empty() { "the top module" } else { &m.first };
            format!("\n  {}, {} time{}, first in {first}", m.target, m.count, if m.count == 1 { "" } else { "s" })
        })
        .collect();
    Some(format!(
        "the program uses {} operator{} that {} not supported:{}",
        list.len(),
        if list.len() == 1 { "" } else { "s" },
        if list.len() == 1 { "is" } else { "are" },
        list.concat()
    ))
}

fn collect_missing(graph: &ExportedGraph, out: &mut Vec<Missing>) {
    for node in &graph.nodes {
        for input in &node.inputs {
            if let Argument::Graph(body) = &input.arg {
                collect_missing(&body.graph, out);
            }
        }
        let known = match node.target.strip_prefix("torch.ops.higher_order.") {
            Some(name) => regions::is_known(name),
            None => symbols::find(&node.target).is_some() || aten::find(&node.target).is_some(),
        };
        if known {
            continue;
        }
        let target = node.target.strip_prefix("torch.ops.").unwrap_or(&node.target);
        match out.iter_mut().find(|m| m.target == target) {
            Some(m) => m.count += 1,
            None => out.push(Missing { target: target.into(), count: 1, first: module_path(node).into() }),
        }
    }
}
