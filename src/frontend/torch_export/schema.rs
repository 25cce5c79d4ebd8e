//! The JSON of a `torch.export` program, schema major 8: only what the importer reads. Unknown keys are passed over, unknown kinds
//! of argument are kept as [`Argument::Other`], so that they fail where they are used and not before.

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// `models/model.json`.
#[derive(Debug, Deserialize)]
pub struct Program {
    /// The graph with its signature.
    pub graph_module: GraphModule,
    /// Ranges of symbols.
    #[serde(default)]
    pub range_constraints: BTreeMap<String, Range>,
    /// Version of this format.
    pub schema_version: SchemaVersion,
}

/// Version of the format.
#[derive(Debug, Deserialize)]
pub struct SchemaVersion {
    /// Changes when readers must change.
    pub major: i64,
    /// Changes when something is added.
    #[serde(default)]
    pub minor: i64,
}

/// Inclusive bounds of a symbol; absent where there is none.
#[derive(Clone, Debug, Deserialize)]
pub struct Range {
    /// Smallest value.
    pub min_val: Option<i64>,
    /// Largest value.
    pub max_val: Option<i64>,
}

/// A graph and what its inputs and outputs are.
#[derive(Debug, Deserialize)]
pub struct GraphModule {
    /// The graph.
    pub graph: ExportedGraph,
    /// Roles of inputs and outputs.
    pub signature: Signature,
}

/// Nodes in order, and the types of values by name.
#[derive(Debug, Deserialize)]
pub struct ExportedGraph {
    /// Inputs in order.
    pub inputs: Vec<Argument>,
    /// Outputs in order.
    pub outputs: Vec<Argument>,
    /// Nodes in order of evaluation.
    pub nodes: Vec<ExportedNode>,
    /// Types of tensors.
    #[serde(default)]
    pub tensor_values: BTreeMap<String, TensorMeta>,
    /// Symbolic integers.
    #[serde(default)]
    pub sym_int_values: BTreeMap<String, SymInt>,
}

/// A call of an operator.
#[derive(Debug, Deserialize)]
pub struct ExportedNode {
    /// `torch.ops.aten.add.Tensor`, or a function of Python.
    pub target: String,
    /// Arguments; those that have their default are left out.
    pub inputs: Vec<NamedArgument>,
    /// Names of results.
    pub outputs: Vec<Argument>,
    /// Where it came from.
    #[serde(default)]
    pub metadata: Metadata,
}

impl ExportedNode {
    /// Names of tensors that the call takes.
    pub fn reads(&self) -> Vec<&str> {
        self.inputs.iter().flat_map(|i| i.arg.tensors()).collect()
    }

    /// The function of PyTorch that the call came from, without its module.
    pub fn function(&self) -> &str {
        self.metadata.torch_fn.rsplit('.').next().unwrap_or_default()
    }
}

/// What the importer reads of a node's metadata.
#[derive(Debug, Default, Deserialize)]
pub struct Metadata {
    /// Lines of Python, innermost last.
    #[serde(default)]
    pub stack_trace: String,
    /// `key,path,class` of each module around the call, separated by `;`.
    #[serde(default)]
    pub nn_module_stack: String,
    /// The function of PyTorch that the call came from, such as `lstm_1;builtin_function_or_method.lstm`.
    #[serde(default)]
    pub torch_fn: String,
    /// Whether the call takes the place of a `detach`.
    #[serde(default, rename = "from_node", deserialize_with = "names_detach")]
    pub from_detach: bool,
}

/// Whether the history of a node, as JSON in a text, names a `detach`.
fn names_detach<'de, D: Deserializer<'de>>(d: D) -> Result<bool, D::Error> {
    Cow::<str>::deserialize(d).map(|history| history.contains("\"aten.detach.default\""))
}

/// An argument with its name in the operator's schema.
#[derive(Debug, Deserialize)]
pub struct NamedArgument {
    /// The name; empty for higher-order operators.
    #[serde(default)]
    pub name: String,
    /// The argument.
    pub arg: Argument,
}

/// Something with a name.
#[derive(Clone, Debug, Deserialize)]
pub struct Name {
    /// The name.
    pub name: String,
}

/// An element of a list of optional tensors.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptionalTensor {
    /// A tensor.
    AsTensor(Name),
    /// None.
    AsNone(IgnoredAny),
}

/// A size or number that may be symbolic.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SymInt {
    /// A constant.
    AsInt(i64),
    /// An expression over symbols.
    AsExpr(SymExpr),
}

/// An expression in SymPy's notation.
#[derive(Clone, Debug, Deserialize)]
pub struct SymExpr {
    /// Such as `Mul(Integer(2), Symbol('s0', integer=True))`.
    pub expr_str: String,
}

/// A symbolic argument, by name or as a constant.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::enum_variant_names)] // The file's own names.
pub enum SymArgument {
    /// A result of another node.
    AsName(String),
    /// An integer.
    AsInt(i64),
    /// A float.
    AsFloat(Number),
    /// A bool.
    AsBool(bool),
}

/// A float; infinities and NaN are strings.
#[derive(Clone, Copy, Debug)]
pub struct Number(pub f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Number, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(f64),
            Text(String),
        }
        match Either::deserialize(d)? {
            Either::Number(x) => Ok(Number(x)),
            Either::Text(s) => match s.as_str() {
                "Infinity" | "inf" => Ok(Number(f64::INFINITY)),
                "-Infinity" | "-inf" => Ok(Number(f64::NEG_INFINITY)),
                "NaN" | "nan" => Ok(Number(f64::NAN)),
                _ => Err(D::Error::custom(format!("{s} is no number"))),
            },
        }
    }
}

/// A subgraph as an argument.
#[derive(Debug, Deserialize)]
pub struct GraphArgument {
    /// The graph.
    pub graph: ExportedGraph,
}

/// An argument, input, output or result.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Argument {
    None,
    Tensor(String),
    Tensors(Vec<Name>),
    OptionalTensors(Vec<OptionalTensor>),
    Int(i64),
    Ints(Vec<i64>),
    Float(f64),
    Floats(Vec<Number>),
    Bool(bool),
    Text(String),
    ScalarType(i64),
    Sym(SymArgument),
    Syms(Vec<SymArgument>),
    Graph(Box<GraphArgument>),
    /// Devices, layouts and memory formats, which mean nothing here, and kinds that the importer does not know.
    Other,
}

impl Argument {
    /// Names of its tensors.
    pub fn tensors(&self) -> Vec<&str> {
        match self {
            Argument::Tensor(name) => vec![name],
            Argument::Tensors(names) => names.iter().map(|n| n.name.as_str()).collect(),
            Argument::OptionalTensors(names) => {
                names.iter().filter_map(|n| if let OptionalTensor::AsTensor(n) = n { Some(n.name.as_str()) } else { None }).collect()
            }
            _ => vec![],
        }
    }
}

impl<'de> Deserialize<'de> for Argument {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Argument, D::Error> {
        struct Kinds;
        impl<'de> Visitor<'de> for Kinds {
            type Value = Argument;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an argument as a map with one key")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Argument, A::Error> {
                let Some(kind) = map.next_key::<String>()? else { return Err(A::Error::custom("an argument without a kind")) };
                let argument = match kind.as_str() {
                    "as_none" => map.next_value::<IgnoredAny>().map(|_| Argument::None)?,
                    "as_tensor" => Argument::Tensor(map.next_value::<Name>()?.name),
                    "as_tensors" => Argument::Tensors(map.next_value()?),
                    "as_optional_tensors" => Argument::OptionalTensors(map.next_value()?),
                    "as_optional_tensor" => match map.next_value()? {
                        OptionalTensor::AsTensor(t) => Argument::Tensor(t.name),
                        OptionalTensor::AsNone(_) => Argument::None,
                    },
                    "as_int" => Argument::Int(map.next_value()?),
                    "as_ints" => Argument::Ints(map.next_value()?),
                    "as_float" => Argument::Float(map.next_value::<Number>()?.0),
                    "as_floats" => Argument::Floats(map.next_value()?),
                    "as_bool" => Argument::Bool(map.next_value()?),
                    "as_string" => Argument::Text(map.next_value()?),
                    "as_scalar_type" => Argument::ScalarType(map.next_value()?),
                    "as_sym_int" | "as_sym_bool" | "as_sym_float" => Argument::Sym(map.next_value()?),
                    "as_sym_ints" | "as_sym_floats" => Argument::Syms(map.next_value()?),
                    "as_graph" => Argument::Graph(map.next_value()?),
                    _ => map.next_value::<IgnoredAny>().map(|_| Argument::Other)?,
                };
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(argument)
            }
        }
        d.deserialize_map(Kinds)
    }
}

/// The type of a tensor.
#[derive(Clone, Debug, Deserialize)]
pub struct TensorMeta {
    /// Number of the dtype.
    pub dtype: i64,
    /// Sizes.
    pub sizes: Vec<SymInt>,
    /// Strides in elements.
    #[serde(default)]
    pub strides: Vec<SymInt>,
    /// First element in the storage.
    #[serde(default)]
    pub storage_offset: Option<SymInt>,
    /// Whether it is trained; meant for parameters.
    #[serde(default)]
    pub requires_grad: Option<bool>,
}

/// Roles of inputs and outputs.
#[derive(Debug, Deserialize)]
pub struct Signature {
    /// Of inputs, in order.
    pub input_specs: Vec<InputSpec>,
    /// Of outputs, in order.
    pub output_specs: Vec<OutputSpec>,
}

/// What an input is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum InputSpec {
    UserInput { arg: Argument },
    Parameter { arg: Name, parameter_name: String },
    Buffer { arg: Name, buffer_name: String },
    TensorConstant { arg: Name, tensor_constant_name: String },
    CustomObj { arg: Name },
    Token { arg: Name },
    ConstantInput { name: String },
}

/// What an output is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum OutputSpec {
    UserOutput { arg: Argument },
    LossOutput { arg: Name },
    BufferMutation { arg: Name, buffer_name: String },
    ParameterMutation { arg: Name, parameter_name: String },
    UserInputMutation { arg: Name, user_input_name: String },
    GradientToParameter {},
    GradientToUserInput {},
    Token {},
}

/// `model_weights_config.json` and `model_constants_config.json`.
#[derive(Debug, Deserialize)]
pub struct PayloadConfig {
    /// What lies where, by name.
    pub config: BTreeMap<String, Payload>,
}

/// One tensor's file.
#[derive(Debug, Deserialize)]
pub struct Payload {
    /// The file, in the folder of the configuration.
    pub path_name: String,
    /// Whether it is pickled, which is never read.
    #[serde(default)]
    pub use_pickle: bool,
    /// Its type; absent for what is no tensor.
    pub tensor_meta: Option<TensorMeta>,
}
