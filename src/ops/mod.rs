//! Every operator, each in one file: attributes, inference, reference evaluation, derivative, batching rule, decomposition or
//! lowering, samples, docs. The only place that lists ops.
//!
//! * Comes in: operand types, operand values, cotangents, the lowering context.
//! * Goes out: [`Op`], a closed enum over attribute structs, and [`OpDef`], the questions other rooms may ask.
//! * Invariants: `infer` accepts exactly the operand types that `eval` and `lower` handle; `vjp` returns one gradient per
//!   operand or says in words that there is none; `batch` gives for all examples of a batch what the op gives for each; exactly one of
//!   `decompose` and `lower` is implemented (views implement `view` instead of `lower`, control flow `flow`, with `decompose` as what tests
//!   compare it with).
//! * Must not know: passes, partition, schedule, devices.
//! * Add here: one file `ops/<name>.rs` and one line in the table below.

mod array;
mod batch;
mod batch_bodies;
mod batch_conv;
mod lowering;
mod table;

// One line per file of operators.
mod activation;
mod attention;
mod bitcast;
mod border;
mod cast;
mod composite;
mod concat;
mod cond;
mod conv;
mod detach;
mod deviations;
mod dropout;
mod fused_attention;
mod gather;
mod linear;
mod loss;
mod matmul;
mod moments;
mod norm;
mod pad;
mod pointwise;
mod pool;
mod random;
mod reduce;
mod run;
mod scan;
mod scan_loop;
mod scatter;
mod scatter_reduce;
mod softmax;
mod softmax_stats;
mod sort;
mod subgraph;
mod triangular_matmul;
mod views;
mod while_loop;
mod window;

pub use activation::{Gelu, Silu};
pub use array::{Array, Data, Precision};
pub use attention::ScaledDotProductAttention;
pub use batch::{BatchContext, Batched, batch};
pub use bitcast::Bitcast;
pub use border::{Constant, Empty, Full, InputOp, Iota, Real, SizeOf};
pub use cast::Cast;
pub use concat::Concat;
pub use cond::Cond;
pub use conv::{Convolution, ConvolutionInput, ConvolutionWeight};
pub use detach::{Constancy, Detach};
pub use deviations::SquaredDeviations;
pub use dropout::Dropout;
pub(crate) use dropout::drop_threshold;
pub use fused_attention::{AttentionOperand, FusedAttention, FusedAttentionGrad};
pub use gather::{CheckIndex, Gather, IndexSelect};
pub use linear::Linear;
pub use loss::{CrossEntropy, Mse, Reduction};
pub use lowering::{NestBuilder, OperandView};
pub use matmul::Matmul;
pub use moments::{Mean, Var};
pub use norm::{LayerNorm, RmsNorm};
pub use pad::Pad;
pub use pointwise::Pointwise;
pub use pool::{MaxPool, MaxPoolGrad, Pool, WindowSpread, WindowSum};
pub use random::{FoldIn, RandomBits};
pub use reduce::{Reduce, ReduceKind};
pub use run::{Fault, run, run_all};
pub use scan::{Cumextremum, Cumprod, Cumsum};
pub use scan_loop::{Scan, Split};
pub use scatter::{IndexAdd, ScatterAdd};
pub use scatter_reduce::ScatterReduce;
pub use softmax::{LogSoftmax, Softmax};
pub use softmax_stats::OnlineSoftmaxStats;
pub use sort::{Sort, TopK};
pub(crate) use subgraph::fresh_region;
pub use subgraph::{Checkpoint, Flow, InvokeSubgraph};
pub use table::Op;
pub use triangular_matmul::TriangularMatmul;
pub use views::{Expand, Flip, Permute, Reshape, Slice};
pub use while_loop::WhileLoop;
pub use window::Window;

use crate::graph::{Builder, Graph, Value};
use crate::loop_ir::IndexExpr;
use crate::types::{Dim, Shape, TensorType};
use std::sync::Arc;

/// What kind of work an op is. Passes, partition and fusion decide by class and by the questions of [`OpDef`], never by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// A graph input.
    Input,
    /// Produces values from attributes alone (constants, iota).
    Source,
    /// Renames elements; costs nothing.
    View,
    /// One scalar function per element.
    Pointwise,
    /// Reads at computed indices.
    Gather,
    /// Accumulates at computed indices.
    Scatter,
    /// Combines along dimensions.
    Reduction,
    /// Prefix combination along a dimension.
    Scan,
    /// Reorders along a dimension.
    Sort,
    /// Matrix product and other kernels from templates.
    Template,
    /// Random bits from a key.
    Random,
    /// Has its own derivative and a decomposition into other ops.
    Composite,
    /// Holds closed subgraphs.
    Subgraph,
}

/// How expensive recomputing a value is, for the partitioner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecomputeCost {
    /// Nothing at all: views and sources.
    Free,
    /// Pointwise arithmetic and random bits: fuses into whatever reads it.
    Cheap,
    /// A reduction, scan or gather: another pass over its operands.
    Pass,
    /// A matrix product, sort or scatter: never recomputed unless a region demands it.
    Heavy,
}

/// Result of building values.
pub type Built<T = Value> = Result<T, String>;

/// Gradients of operands: `None` where the operand takes no gradient (an integer index, or an exact zero).
pub type Grads = Vec<Option<Value>>;

/// A node as its derivative sees it, inside the joint graph.
pub struct VjpContext<'a> {
    /// The joint graph under construction.
    pub b: &'a mut Builder,
    /// Operands of the forward node.
    pub operands: &'a [Value],
    /// Results of the forward node.
    pub results: &'a [Value],
    /// Cotangent of each result; `None` where nothing flows.
    pub cotangents: &'a [Option<Value>],
    /// Whether the gradient of each operand is asked for. Ops that leave the others out spare the work.
    pub wanted: &'a [bool],
    /// The gradient of a body: a graph that takes the body's inputs and a cotangent for each of its float outputs, and gives a gradient
    /// for each of its float inputs.
    pub pull_back: &'a dyn Fn(&Graph) -> Built<Graph>,
}

impl VjpContext<'_> {
    /// The cotangent of result `k`, zeros where nothing flows.
    fn cotangent_or_zeros(&mut self, k: usize) -> Built {
        let Some(cotangent) = self.cotangents[k] else {
            let ty = self.b.ty(self.results[k]).clone();
            return self.b.full(ty.dtype, 0.0, ty.shape);
        };
        Ok(cotangent)
    }

    /// The cotangents of all float results.
    fn float_cotangents(&mut self) -> Built<Vec<Value>> {
        let floats: Vec<usize> = (0..self.results.len()).filter(|&k| self.b.dtype(self.results[k]).is_float()).collect();
        floats.into_iter().map(|k| self.cotangent_or_zeros(k)).collect()
    }
}

/// Which inputs of a body are floats: those that have a gradient.
fn float_positions(body: &Graph) -> Vec<usize> {
    (0..body.inputs.len()).filter(|&k| body.ty(body.inputs[k].value).dtype.is_float()).collect()
}

/// A program with operands that tests generated from the table run through every layer.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The op with attributes.
    pub op: Op,
    /// Operand types, constant sizes. Test values are drawn by dtype from a seed: floats in (-2, 2) unless `positive`,
    /// integers in `0..index_below`.
    pub operands: Vec<TensorType>,
    /// Draw floats in (0.1, 2) instead.
    pub positive: bool,
    /// Integers are drawn below this (a valid index range).
    pub index_below: i64,
}

impl Sample {
    /// A sample with operands of these types.
    pub fn new(op: impl Into<Op>, operands: Vec<TensorType>) -> Sample {
        Sample { op: op.into(), operands, positive: false, index_below: 4 }
    }

    /// Draw positive floats.
    pub fn positive(mut self) -> Sample {
        self.positive = true;
        self
    }

    /// Draw integers below `n`.
    pub fn index_below(mut self, n: i64) -> Sample {
        self.index_below = n;
        self
    }
}

/// What an operator is. Implemented by each attribute struct; [`Op`] dispatches.
pub trait OpDef {
    /// Name in graph text: ATen's core name where one exists.
    fn name(&self) -> &'static str;

    /// Its class.
    fn class(&self) -> Class;

    /// Result types, or what is wrong with the operands (the builder adds op name and types).
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String>;

    /// Pairs of sizes that [`OpDef::infer`] needs equal. Where a program does not prove it, the border assumes it with a guard.
    fn equal_sizes(&self, _operands: &[TensorType]) -> Vec<(Dim, Dim)> {
        vec![]
    }

    /// Pairs of sizes of which [`OpDef::infer`] needs the first at most the second, assumed likewise.
    fn bounded_sizes(&self, _operands: &[TensorType]) -> Vec<(Dim, Dim)> {
        vec![]
    }

    /// The definition, on host arrays: obvious, never optimized. `types` are the result types with constant sizes.
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String>;

    /// The vector-Jacobian product. "Not differentiable" is an error that says so.
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads>;

    /// The batching rule: the results for all examples of a batch, each with the examples along dimension 0.
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>>;

    /// For composites: the same value in simpler ops.
    fn decompose(&self, _b: &mut Builder, _operands: &[Value]) -> Option<Built<Vec<Value>>> {
        None
    }

    /// For ops that hold bodies down to the device: how they run them. They have no lowering of their own.
    fn flow(&self) -> Option<Flow> {
        None
    }

    /// For ops whose derivative reads more than their results: the op with that as further results, behind its own. `None` where it has
    /// them already. The derivative of an op without them computes them again.
    fn saving(&self) -> Option<Op> {
        None
    }

    /// For ops that do something else when a model is used than when it is trained, such as dropout: what they do then.
    fn in_inference(&self, _b: &mut Builder, _operands: &[Value]) -> Option<Built<Vec<Value>>> {
        None
    }

    /// For views: coordinates in the operand of the element at `out` coordinates of the result.
    fn view(&self, _operand: &Shape, _result: &Shape, _out: &[IndexExpr]) -> Option<Vec<IndexExpr>> {
        None
    }

    /// For everything but views and composites: appends loop nests. The default says that the op cannot be lowered.
    fn lower(&self, _cx: &mut NestBuilder<'_>) -> Result<(), String> {
        Err(format!("{} has no lowering", self.name()))
    }

    /// For sources that carry their elements: the tensor, which becomes a constant slot instead of a nest.
    fn constant(&self) -> Option<crate::types::HostTensor> {
        None
    }

    /// How expensive recomputing it is; by class unless the op knows better.
    fn recompute_cost(&self) -> RecomputeCost {
        match self.class() {
            Class::Input | Class::Source | Class::View => RecomputeCost::Free,
            Class::Pointwise | Class::Random => RecomputeCost::Cheap,
            Class::Gather | Class::Reduction | Class::Composite => RecomputeCost::Pass,
            Class::Scan | Class::Scatter | Class::Sort | Class::Template | Class::Subgraph => RecomputeCost::Heavy,
        }
    }

    /// Multiplications with additions of a product, for the price of computing it again; none of anything else.
    fn multiply_adds(&self, _operands: &[TensorType], _results: &[TensorType]) -> f64 {
        0.0
    }

    /// Whether it multiplies matrices, which mixed precision does in halves.
    fn is_product(&self) -> bool {
        self.class() == Class::Template
    }

    /// Whether its kernel checks indices, so that whatever writes state waits for it.
    fn checks_indices(&self) -> bool {
        self.class() == Class::Gather
    }

    /// Whether it renames elements.
    fn is_view(&self) -> bool {
        self.class() == Class::View
    }

    /// Whether derivatives take its results for constants.
    fn stops_gradient(&self) -> bool {
        false
    }

    /// Whether it draws random bits.
    fn is_random(&self) -> bool {
        self.class() == Class::Random
    }

    /// Whether its elements may be anything, as those of memory that nobody wrote.
    fn is_unwritten(&self) -> bool {
        false
    }

    /// Whether a kernel may compute it without storing it, for a consumer in the same kernel.
    fn fusible_as_producer(&self) -> bool {
        !matches!(self.class(), Class::Scatter | Class::Scan | Class::Sort | Class::Subgraph | Class::Input)
    }

    /// Whether a kernel that holds its producer may hold it too.
    fn fusible_as_consumer(&self) -> bool {
        !matches!(self.class(), Class::Scatter | Class::Sort | Class::Subgraph | Class::Template | Class::Input)
    }

    /// Closed subgraphs it holds, in attribute order.
    fn subgraphs(&self) -> Vec<Arc<Graph>> {
        vec![]
    }

    /// The same op holding other subgraphs, as many as [`OpDef::subgraphs`] gives.
    fn set_subgraphs(&mut self, _graphs: Vec<Arc<Graph>>) {}

    /// Replaces every size held by attributes (subgraphs included). Ops that hold a `Dim`, `Shape` or type implement it.
    fn map_dims(&mut self, _f: &dyn Fn(&Dim) -> Dim) {}

    /// Programs for the tests generated from the table; at least one per attribute that changes the result.
    fn samples(&self) -> Vec<Sample> {
        vec![]
    }
}

/// Samples of every operator and of every scalar function, in table order.
pub fn samples() -> Vec<Sample> {
    let others = Op::exemplars().into_iter().filter(|op| !matches!(op, Op::Pointwise(_)));
    let scalar = crate::scalar::ScalarFn::ALL.iter().map(|&f| Op::from(Pointwise { f }));
    others.chain(scalar).flat_map(|op| op.samples()).collect()
}

#[cfg(test)]
mod tests;
