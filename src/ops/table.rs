//! The table of operators: one line each. The macro expands to the enum [`Op`], `From` for each attribute struct, dispatch
//! of [`OpDef`], and the text form of attributes.

use super::*;
use crate::graph::Builder;
use serde::de::Error as _;

macro_rules! operators {
    ($($variant:ident = $text:literal),+ $(,)?) => {
        /// An operator with its attributes.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)]
        pub enum Op { $($variant(super::$variant)),+ }

        $(impl From<super::$variant> for Op {
            fn from(op: super::$variant) -> Op { Op::$variant(op) }
        })+

        impl From<Arc<Op>> for Op {
            fn from(op: Arc<Op>) -> Op { Arc::unwrap_or_clone(op) }
        }

        impl Op {
            /// Names of all operators in graph text.
            pub const NAMES: &'static [&'static str] = &[$($text),+];

            /// One operator of each kind, with default attributes (not necessarily valid ones).
            pub fn exemplars() -> Vec<Op> {
                vec![$(Op::from(super::$variant::default())),+]
            }

            fn def(&self) -> &dyn OpDef {
                match self { $(Op::$variant(op) => op),+ }
            }

            fn def_mut(&mut self) -> &mut dyn OpDef {
                match self { $(Op::$variant(op) => op),+ }
            }

            /// Name in graph text.
            pub fn text_name(&self) -> &'static str {
                match self { $(Op::$variant(_) => $text),+ }
            }

            /// Attributes as a JSON object, in declaration order.
            pub fn attributes(&self) -> serde_json::Value {
                match self { $(Op::$variant(op) => serde_json::to_value(op).expect("attributes are plain data")),+ }
            }

            /// The operator of that text name with those attributes.
            pub fn from_text(name: &str, attributes: serde_json::Value) -> Result<Op, serde_json::Error> {
                match name {
                    $($text => serde_json::from_value::<super::$variant>(attributes).map(Op::$variant),)+
                    _ => Err(serde_json::Error::custom(format!("there is no operator named {name}"))),
                }
            }
        }
    };
}

operators! {
    InputOp = "input",
    Constant = "constant",
    Full = "full",
    Empty = "empty",
    Iota = "iota",
    Pointwise = "pointwise",
    Cast = "cast",
    Bitcast = "bitcast",
    Reshape = "reshape",
    Permute = "permute",
    Expand = "expand",
    Slice = "slice",
    Reduce = "reduce",
    Matmul = "matmul",
    Convolution = "convolution",
    ConvolutionInput = "convolution_input",
    ConvolutionWeight = "convolution_weight",
    MaxPool = "max_pool",
    MaxPoolGrad = "max_pool_grad",
    WindowSum = "window_sum",
    WindowSpread = "window_spread",
    Checkpoint = "checkpoint",
    InvokeSubgraph = "invoke_subgraph",
    Cond = "cond",
    WhileLoop = "while_loop",
    Scan = "scan",
    Flip = "flip",
    Pad = "pad",
    Concat = "cat",
    Gather = "gather",
    IndexSelect = "index_select",
    ScatterAdd = "scatter_add",
    IndexAdd = "index_add",
    ScatterReduce = "scatter_reduce",
    CheckIndex = "check_index",
    SizeOf = "size",
    Cumsum = "cumsum",
    Cumprod = "cumprod",
    Cumextremum = "cumextremum",
    Sort = "sort",
    TopK = "topk",
    RandomBits = "random_bits",
    FoldIn = "fold_in",
    Softmax = "softmax",
    LogSoftmax = "log_softmax",
    OnlineSoftmaxStats = "online_softmax_stats",
    SquaredDeviations = "squared_deviations",
    Mean = "mean",
    Var = "var",
    LayerNorm = "layer_norm",
    RmsNorm = "rms_norm",
    Gelu = "gelu",
    Silu = "silu",
    Dropout = "dropout",
    Detach = "detach",
    Linear = "linear",
    CrossEntropy = "cross_entropy",
    Mse = "mse_loss",
    ScaledDotProductAttention = "scaled_dot_product_attention",
    FusedAttention = "fused_attention",
    FusedAttentionGrad = "fused_attention_grad",
    TriangularMatmul = "triangular_matmul",
}

impl OpDef for Op {
    fn name(&self) -> &'static str {
        self.def().name()
    }
    fn class(&self) -> Class {
        self.def().class()
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        self.def().infer(operands)
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        self.def().eval(operands, types, precision)
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        self.def().vjp(cx)
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        self.def().batch(cx)
    }
    fn decompose(&self, b: &mut Builder, operands: &[Value]) -> Option<Built<Vec<Value>>> {
        self.def().decompose(b, operands)
    }
    fn flow(&self) -> Option<Flow> {
        self.def().flow()
    }
    fn saving(&self) -> Option<Op> {
        self.def().saving()
    }
    fn in_inference(&self, b: &mut Builder, operands: &[Value]) -> Option<Built<Vec<Value>>> {
        self.def().in_inference(b, operands)
    }
    fn view(&self, operand: &Shape, result: &Shape, out: &[IndexExpr]) -> Option<Vec<IndexExpr>> {
        self.def().view(operand, result, out)
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        self.def().lower(cx)
    }
    fn constant(&self) -> Option<crate::types::HostTensor> {
        self.def().constant()
    }
    fn recompute_cost(&self) -> RecomputeCost {
        self.def().recompute_cost()
    }
    fn multiply_adds(&self, operands: &[TensorType], results: &[TensorType]) -> f64 {
        self.def().multiply_adds(operands, results)
    }
    fn is_product(&self) -> bool {
        self.def().is_product()
    }
    fn checks_indices(&self) -> bool {
        self.def().checks_indices()
    }
    fn is_view(&self) -> bool {
        self.def().is_view()
    }
    fn stops_gradient(&self) -> bool {
        self.def().stops_gradient()
    }
    fn is_random(&self) -> bool {
        self.def().is_random()
    }
    fn is_unwritten(&self) -> bool {
        self.def().is_unwritten()
    }
    fn fusible_as_producer(&self) -> bool {
        self.def().fusible_as_producer()
    }
    fn fusible_as_consumer(&self) -> bool {
        self.def().fusible_as_consumer()
    }
    fn subgraphs(&self) -> Vec<Arc<Graph>> {
        self.def().subgraphs()
    }
    fn set_subgraphs(&mut self, graphs: Vec<Arc<Graph>>) {
        self.def_mut().set_subgraphs(graphs)
    }
    fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        self.def_mut().map_dims(f)
    }
    fn equal_sizes(&self, operands: &[TensorType]) -> Vec<(Dim, Dim)> {
        self.def().equal_sizes(operands)
    }
    fn bounded_sizes(&self, operands: &[TensorType]) -> Vec<(Dim, Dim)> {
        self.def().bounded_sizes(operands)
    }
    fn samples(&self) -> Vec<Sample> {
        self.def().samples()
    }
}
