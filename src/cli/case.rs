//! One conformance case: import, compile, run, compare.

use crate::chance::{self, Chance};
use anyhow::{Context, Result, bail, ensure};
use inductor::autograd::{Seed, Wrt, joint_graph, set_unit_cotangents};
use inductor::eval::{accuracy, evaluate, evaluate_exact};
use inductor::graph::{Builder, Graph, InputRole, OutputRole, ValueMap};
use inductor::ops::{Array, Precision};
use inductor::runtime::{load_tensors, save_tensors};
use inductor::torch_export::{Imported, load};
use inductor::types::TensorType;
use inductor::{Config, DType, Device, Error, HostTensor, Inputs, Verify, compile, compile_vjp};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Relative error that a model's loss may have.
const LOSS_TOLERANCE: f64 = 1e-5;
/// Bytes that a `meta.json` has at most.
const MAX_META: u64 = 1 << 20;

/// What a worker is asked.
#[derive(Serialize, Deserialize)]
pub struct Request {
    /// Folder of the case.
    pub dir: PathBuf,
    /// Where what the program gives is written, if anywhere.
    pub outputs: Option<PathBuf>,
}

/// What is compared.
#[derive(Clone, Copy)]
pub struct Mode {
    /// Gradients too.
    pub grad: bool,
    /// Each kernel and stored value with the oracle.
    pub verify: bool,
}

/// How a case ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Verdict {
    /// Everything agrees.
    Passed,
    /// Nothing is known to be wrong, and something depends on random draws or on memory that nobody wrote.
    Random(String),
    /// Something differs or went wrong.
    Failed(String),
    /// The program needs what is not there, and says what.
    Unsupported(String),
}

/// What `meta.json` says of a case.
#[derive(Default, Deserialize)]
pub struct Facts {
    /// The operator, for cases of operators.
    pub op: Option<String>,
    /// `core` or `extended`.
    pub scope: Option<String>,
    /// The loss, for models.
    pub loss: Option<f64>,
}

/// Reads `meta.json`; a case without one is of scope core.
pub fn facts(dir: &Path) -> Result<Facts> {
    let path = dir.join("meta.json");
    if !path.is_file() {
        return Ok(Facts::default());
    }
    let length = std::fs::metadata(&path).map_or(0, |m| m.len());
    ensure!(length <= MAX_META, "{} has {length} bytes, expected at most {MAX_META}", path.display());
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

/// [`run`], with errors and panics as verdicts.
pub fn run_guarded(request: &Request, device: &Device, mode: Mode) -> Verdict {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(request, device, mode)));
    match outcome {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(error)) => match error.downcast_ref::<Error>() {
            Some(Error::Import(_) | Error::Platform(_)) => Verdict::Unsupported(format!("{error:#}")),
            _ => Verdict::Failed(format!("{error:#}")),
        },
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()));
            Verdict::Failed(format!("panicked: {}", text.unwrap_or_default()))
        }
    }
}

/// Everything that a case gives and expects.
struct Case {
    imported: Imported,
    /// By name: `input.N`, `output.N`, `cotangent.N`, `grad.N` or `grad.NAME`.
    expected: BTreeMap<String, HostTensor>,
    facts: Facts,
    /// Whether the only cotangent is that of a 0-d output, which the program takes as a vector of one.
    is_widened: bool,
}

/// Runs the case, and says how what it gives compares.
fn run(request: &Request, device: &Device, mode: Mode) -> Result<Verdict> {
    let dir = &request.dir;
    let imported = load(dir.join("model.pt2"))?;
    let expected: BTreeMap<String, HostTensor> = load_tensors(&dir.join("expected.safetensors"))?.0.into_iter().collect();
    let mut case = Case { imported, expected, facts: facts(dir)?, is_widened: false };
    let has_gradients = mode.grad && case.expected.keys().any(|k| k.starts_with("grad."));
    if has_gradients {
        case.widen_scalar()?;
    }
    // Cases are of any data: empty tensors, NaN and infinities are what they test. PyTorch stores what each operator gives.
    let verify = if mode.verify { Verify::Full } else { Verify::Off };
    let config = Config { allow_empty: true, allow_non_finite: true, emulate_precision_casts: true, verify, ..Config::default() };
    let step = if has_gradients { compile_vjp } else { compile }(&case.imported.traced, device, &config)?;
    let mut state = step.init(0)?;
    for (name, tensor) in &case.imported.tensors {
        state.set(name, tensor.clone())?;
    }
    let plan_inputs = &step.plan().program.inputs;
    let wanted: Vec<&str> =
        plan_inputs.iter().filter(|i| matches!(i.role, InputRole::Input | InputRole::Cotangent)).map(|i| i.name.as_str()).collect();
    let inputs = case.inputs(&wanted)?;
    let result = step.run(&mut state, Inputs::Named(inputs))?;
    result.wait()?;
    let outputs: HashMap<String, HostTensor> = result.outputs()?.into_iter().collect();
    let gradients: HashMap<String, HostTensor> = if has_gradients { result.gradients()?.into_iter().collect() } else { HashMap::new() };
    let given = case.given(outputs, gradients, has_gradients);
    if let Some(path) = &request.outputs {
        save_tensors(path, &given.iter().map(|(key, tensor)| (key.clone(), tensor.clone())).collect::<Vec<_>>(), None)?;
    }
    case.compare(&given, has_gradients)
}

impl Case {
    /// A program whose only float output is 0-d takes one as its cotangent. Where another one is given, the output becomes a
    /// vector of one element, which takes any.
    fn widen_scalar(&mut self) -> Result<()> {
        let graph = &self.imported.traced.graph;
        let is_result = |role: &OutputRole| matches!(role, OutputRole::User | OutputRole::Loss);
        let floats: Vec<_> = graph.outputs.iter().filter(|o| is_result(&o.role) && graph.ty(o.value).dtype.is_float()).collect();
        let [only] = floats[..] else { return Ok(()) };
        if graph.ty(only.value).shape.rank() != 0 || !self.expected.contains_key(&cotangent_of(&only.name)) {
            return Ok(());
        }
        let mut b = Builder::new(&graph.name);
        let mut map: ValueMap = ValueMap::default();
        let fail = |e: String| anyhow::anyhow!(e);
        b.copy_inputs(graph, &mut map).map_err(fail)?;
        for id in graph.ids() {
            b.copy_node(graph, id, &mut map).map_err(fail)?;
        }
        for output in &graph.outputs {
            let mut value = map[&output.value];
            let mut role = output.role.clone();
            if output.name == only.name {
                value = b.reshape(value, [1i64]).map_err(fail)?;
                role = OutputRole::User;
            }
            b.output(&output.name, role, value);
        }
        self.imported.traced.graph = b.finish();
        self.is_widened = true;
        Ok(())
    }

    /// Names of the program's inputs, in the order of `input.0`, `input.1`, ...
    fn input_names(&self) -> Vec<&str> {
        self.imported.traced.graph.inputs.iter().filter(|i| i.role == InputRole::Input).map(|i| i.name.as_str()).collect()
    }

    /// The tensor of an input or cotangent of the program.
    fn feed(&self, name: &str, graph: &Graph) -> Result<HostTensor> {
        if let Some(position) = self.input_names().iter().position(|n| *n == name) {
            let key = format!("input.{position}");
            return self.expected.get(&key).cloned().with_context(|| format!("{key} is missing"));
        }
        let output = name.strip_prefix("cotangent.").with_context(|| format!("the program has an input {name}, which no case gives"))?;
        let ty = graph.ty(graph.output(output).with_context(|| format!("there is no output {output}"))?.value);
        let shape = if self.is_widened { vec![1] } else { self.shape_of(output, ty)? };
        // A cotangent may come in a wider dtype than its output's; one that is not given is zero.
        Ok(match self.expected.get(&cotangent_of(output)) {
            Some(given) if given.numel() != shape.iter().product::<usize>() => given.clone(),
            Some(given) if given.dtype() == ty.dtype => {
                HostTensor::from_bytes(ty.dtype, shape, given.bytes().to_vec()).map_err(anyhow::Error::msg)?
            }
            Some(given) => HostTensor::from_f64(ty.dtype, &shape, &given.to_f64()),
            None => HostTensor::zeros(ty.dtype, &shape),
        })
    }

    /// The sizes that an output has here: symbolic ones are those of the result that is expected.
    fn shape_of(&self, output: &str, ty: &TensorType) -> Result<Vec<usize>> {
        let expected = || self.expected.get(output).map(|t| t.shape().to_vec());
        ty.shape.as_ints().or_else(expected).with_context(|| format!("{output} has no fixed size, and no result of it is expected"))
    }

    fn inputs(&self, names: &[&str]) -> Result<Vec<(String, HostTensor)>> {
        names.iter().map(|n| Ok((n.to_string(), self.feed(n, &self.imported.traced.graph)?))).collect()
    }

    /// What the program gave of what is expected, under the names of the case.
    fn given(
        &self,
        outputs: HashMap<String, HostTensor>,
        gradients: HashMap<String, HostTensor>,
        with_gradients: bool,
    ) -> BTreeMap<String, HostTensor> {
        let mut given = BTreeMap::new();
        for (key, reference) in &self.expected {
            let found = match key.strip_prefix("grad.").filter(|_| with_gradients) {
                Some(of) => gradients.get(&self.gradient_name(of)).cloned(),
                None => outputs.get(key).map(|x| if self.is_widened && reference.shape().is_empty() { narrow(x) } else { x.clone() }),
            };
            given.extend(found.map(|tensor| (key.clone(), tensor)));
        }
        given
    }

    fn compare(&self, given: &BTreeMap<String, HostTensor>, with_gradients: bool) -> Result<Verdict> {
        let is_compared = |key: &str| key.starts_with("output.") || (with_gradients && key.starts_with("grad."));
        let compared: Vec<(&String, &HostTensor)> = self.expected.iter().filter(|(key, _)| is_compared(key)).collect();
        if compared.is_empty() {
            bail!("expected.safetensors holds nothing to compare with");
        }
        let largest = accuracy::largest(compared.iter().map(|(_, t)| *t));
        let (mut oracle, mut chances, mut random) = (None, None, vec![]);
        for (key, reference) in compared {
            let name = key.strip_prefix("grad.").map_or_else(|| key.clone(), |of| format!("grad.{}", self.gradient_name(of)));
            let is_gradient = key.starts_with("grad.");
            let Some(got) = given.get(key) else { return Ok(Verdict::Failed(format!("{key}: the program does not give it"))) };
            let loss = if is_gradient { None } else { self.loss_difference(key, got) };
            if loss.is_none() && accuracy::check_against_reference(got, reference, None, largest, is_gradient).is_ok() {
                continue;
            }
            if chances.is_none() {
                chances = Some(self.chances(with_gradients)?);
            }
            let chance = chances.as_ref().and_then(|c| c.get(&name)).copied().unwrap_or(Chance::None);
            let fault = if chance != Chance::None {
                let like = like_reference(chance, got, reference);
                random.extend(like.is_ok().then(|| format!("{key} {}", chance.describe())));
                like.err()
            } else if loss.is_some() {
                loss
            } else {
                if oracle.is_none() {
                    oracle = Some(self.oracle(with_gradients)?);
                }
                let found = oracle.as_ref().and_then(|o| o.get(&name)).map(|(w, e)| (w, e));
                accuracy::check_against_reference(got, reference, found, largest, is_gradient).err().map(|what| what.to_string())
            };
            if let Some(what) = fault {
                return Ok(Verdict::Failed(format!("{key}{}: {what}", self.module_of(&name))));
            }
        }
        Ok(if random.is_empty() { Verdict::Passed } else { Verdict::Random(random.join("; ")) })
    }

    /// What each output and gradient depends on.
    fn chances(&self, with_gradients: bool) -> Result<HashMap<String, Chance>> {
        Ok(chance::of_outputs(&self.whole_graph(with_gradients)?))
    }

    /// A model's loss has a bound of its own.
    fn loss_difference(&self, key: &str, got: &HostTensor) -> Option<String> {
        let loss = self.facts.loss.filter(|_| key == "output.0")?;
        let found = got.to_f64().first().copied()?;
        let far = (found - loss).abs() > LOSS_TOLERANCE * loss.abs();
        far.then(|| format!("the loss is {found}, expected {loss}"))
    }

    /// The input that `grad.N` or `grad.NAME` is of.
    fn gradient_name(&self, of: &str) -> String {
        if let Ok(position) = of.parse::<usize>()
            && let Some(name) = self.input_names().get(position)
        {
            return name.to_string();
        }
        let tied = self.imported.tied.iter().find(|(name, _)| name == of);
        tied.map_or_else(|| of.to_string(), |(_, first)| first.clone())
    }

    /// The module that computes an output, or reads an input whose gradient is meant.
    fn module_of(&self, name: &str) -> String {
        let graph = &self.imported.traced.graph;
        let node = match name.strip_prefix("grad.") {
            Some(input) => graph.input(input).and_then(|i| graph.ids().find(|&id| graph.node(id).operands.contains(&i.value))),
            None => graph.output(name).map(|o| o.value.node),
        };
        let path = node.and_then(|id| graph.provenance(id).paths().first());
        path.map(|p| format!(" in {p}")).unwrap_or_default()
    }

    /// The program, with its gradients where those are compared.
    fn whole_graph(&self, with_gradients: bool) -> Result<Graph> {
        let forward = &self.imported.traced.graph;
        if !with_gradients {
            return Ok(forward.clone());
        }
        let joint = joint_graph(forward, Wrt::Inputs, Seed::Cotangents)?;
        set_unit_cotangents(&joint).map_err(anyhow::Error::msg)
    }

    /// Outputs and gradients by the definition of each operator: in the dtypes' arithmetic, and in f64.
    fn oracle(&self, with_gradients: bool) -> Result<HashMap<String, (HostTensor, Array)>> {
        let forward = &self.imported.traced.graph;
        let graph = self.whole_graph(with_gradients)?;
        let mut inputs = vec![];
        for input in &graph.inputs {
            let held = self.imported.tensors.iter().find(|(n, _)| *n == input.name).map(|(_, t)| t.clone());
            inputs.push(match (held, &input.role) {
                (Some(tensor), _) => tensor,
                (None, InputRole::Key) => HostTensor::zeros(DType::U32, &[2]),
                (None, _) => self.feed(&input.name, forward)?,
            });
        }
        let working = evaluate(&graph, &inputs, Precision::Working)?;
        let arrays: Vec<Array> = inputs.iter().map(Array::from_host).collect();
        let exact = evaluate_exact(&graph, &arrays)?;
        let names = graph.outputs.iter().map(|o| o.name.clone());
        Ok(names.zip(working.iter().map(|w| if self.is_widened { narrow(w) } else { w.clone() }).zip(exact)).collect())
    }
}

/// Whether a result that depends on chance is like the one that is expected, as far as that can be told.
fn like_reference(chance: Chance, got: &HostTensor, reference: &HostTensor) -> Result<(), String> {
    match chance {
        Chance::Draws => accuracy::check_distribution(got, reference),
        _ => accuracy::check_type(got, reference),
    }
}

/// The cotangent that the case gives for an output.
fn cotangent_of(output: &str) -> String {
    format!("cotangent.{}", output.trim_start_matches("output."))
}

/// A vector of one as a 0-d tensor.
fn narrow(x: &HostTensor) -> HostTensor {
    let scalar = HostTensor::from_bytes(x.dtype(), vec![], x.bytes().to_vec());
    if x.shape() == [1] { scalar.unwrap_or_else(|_| x.clone()) } else { x.clone() }
}
