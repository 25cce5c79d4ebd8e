//! The update of parameters as a pure graph, the third of a training step.
//!
//! * Comes in: an optimizer's settings, and the names and types of the parameters that have a gradient.
//! * Goes out: [`update_graph`]: a graph with roles at its border, in the form that the passes before the last stage would give.
//! * Invariants: inputs and outputs have the names that states and checkpoints use; what is not trained is not mentioned; settings
//!   that no optimizer means are errors.
//! * Must not know: the loss, kernels, where a state lives.
//! * Add here: an optimizer is a variant of [`OptimizerKind`], its ranges in `ranges.rs` and a function in
//!   `algorithms.rs`; its builder is in `frontend/optim`.

mod algorithms;
mod loss_scale;
mod ranges;
mod slot;

use crate::config::{Gradients, LossScale, Optimizer, OptimizerKind};
use crate::error::Error;
use crate::graph::{Builder, Graph, InputRole, OutputRole, Value};
use crate::ops::ReduceKind;
use crate::scalar::ScalarFn;
use crate::types::{DType, Provenance, TensorType, matches_pattern};
use loss_scale::Scaling;
use slot::Slot;

pub(crate) use loss_scale::scale_loss;

type Built<T = Value> = Result<T, String>;

/// The update as a pure graph. Inputs: each parameter `<p>`, its gradient `grad.<p>`, its state `optimizer.<p>.exp_avg` and others
/// of PyTorch's names (all starting at zero), and the host scalars `lr` and, where the algorithm counts, `step` (f32, from 1; with
/// `step_per_parameter`, `step.optimizer.<p>` for each). The state of an optimizer with a name is `optimizer[<name>].<p>...`.
/// Outputs: `new.<name>` for each parameter and state; where asked for, `gradient.<p>` and `gradient_norm.<p>`, before clipping.
/// Half-precision parameters are updated in f32, where their state lives. Where gradients of several steps accumulate, their mean
/// so far is the state `grad_sum`, and the host scalar `micro_batch` counts the steps of an update from 1. Gradients of a scaled loss
/// are divided by its scale, and where one of them is not finite, nothing is updated but the scale.
pub fn update_graph(
    optimizer: &Optimizer,
    parameters: &[(String, TensorType)],
    gradients: Gradients,
    loss_scale: Option<&LossScale>,
) -> Result<Graph, Error> {
    // What AdamW has for a parameter.
    let mut b = Builder::with_room("update", 24 * parameters.len());
    // A parameter, its gradient and its moments; what is new of them.
    b.reserve_border(4 * parameters.len(), 4 * parameters.len());
    let built = ranges::check(optimizer).and_then(|()| update(&mut b, optimizer, parameters, gradients, loss_scale));
    built.map_err(|message| Error::compile(format!("optimizer: {message}")))?;
    Ok(b.finish())
}

/// Patterns of groups that fit none of those names: most often a mistake.
pub(crate) fn idle_patterns(optimizer: &Optimizer, names: &[&str]) -> Vec<String> {
    let is_idle = |pattern: &&str| !names.iter().any(|name| matches_pattern(pattern, name));
    optimizer.groups.iter().map(|g| g.pattern.as_str()).filter(is_idle).map(String::from).collect()
}

/// Whether a tensor of a state belongs to an optimizer, by its name.
pub(crate) fn is_optimizer_state(tensor: &str) -> bool {
    tensor.starts_with("optimizer.") || tensor.starts_with("optimizer[")
}

/// What an optimizer's tensor of the state belongs to, `optimizer.<p>`, whose updates are counted.
pub(crate) fn moments_of(tensor: &str) -> Option<&str> {
    tensor.rsplit_once('.').map(|(moments, _)| moments).filter(|_| is_optimizer_state(tensor))
}

/// The parameter that an optimizer's tensor of the state belongs to.
pub(crate) fn parameter_of(tensor: &str) -> Option<&str> {
    let rest = moments_of(tensor)?.strip_prefix("optimizer")?;
    rest.strip_prefix('.').or_else(|| rest.split_once("].").map(|(_, parameter)| parameter))
}

/// The parameter that a tensor of a state is the average of.
pub(crate) fn averaged_parameter(tensor: &str) -> Option<&str> {
    parameter_of(tensor).filter(|_| tensor.ends_with(&format!(".{AVERAGE}")))
}

/// What a host scalar of that name counts, of the moments that it names, or of all.
pub(crate) fn counter(scalar: &str) -> Option<(Counter, Option<&str>)> {
    let of = |kind: Counter, name: &str| match scalar.strip_prefix(name)? {
        "" => Some((kind, None)),
        rest => rest.strip_prefix('.').filter(|moments| is_optimizer_state(moments)).map(|moments| (kind, Some(moments))),
    };
    of(Counter::Step, STEP).or_else(|| of(Counter::MicroBatch, MICRO_BATCH))
}

/// What a host scalar counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counter {
    /// Updates.
    Step,
    /// Steps of the next update.
    MicroBatch,
}

const STEP: &str = "step";
const MICRO_BATCH: &str = "micro_batch";
const AVERAGE: &str = "average";

/// A parameter that is trained, and by what.
struct Parameter<'a> {
    name: &'a str,
    ty: &'a TensorType,
    optimizer: &'a Optimizer,
    value: Value,
    /// As the backward gives it, or the mean of an accumulation so far.
    gradient: Value,
    /// Whether this step is the last of its accumulation.
    applies: Option<Value>,
}

/// Host scalars, made once where they are common to all parameters.
struct Scalars<'a> {
    optimizer: &'a Optimizer,
    /// Of rates and norms: f64 where a parameter is trained in it.
    dtype: DType,
    lr: Value,
    step: Option<Value>,
    micro_batch: Option<Value>,
    /// Of the loss, where it has a scale.
    scaling: Option<Scaling<'a>>,
}

impl Scalars<'_> {
    fn new<'a>(b: &mut Builder, optimizer: &'a Optimizer, trained: &[Parameter<'_>], loss_scale: Option<&'a LossScale>) -> Built<Scalars<'a>> {
        let apart = optimizer.step_per_parameter;
        let counts = trained.iter().any(|p| algorithms::counts_steps(&p.optimizer.kind)) || optimizer.average.is_some();
        let dtype = if trained.iter().any(|p| p.ty.dtype == DType::F64) { DType::F64 } else { DType::F32 };
        let lr = b.input("lr", InputRole::HostScalar, TensorType::new(dtype, ()))?;
        let step = if counts && !apart { Some(count(b, STEP)?) } else { None };
        let micro_batch = if optimizer.accumulate > 1 && !apart { Some(count(b, MICRO_BATCH)?) } else { None };
        let scaling = loss_scale.map(|scale| Scaling::new(b, scale)).transpose()?;
        Ok(Scalars { optimizer, dtype, lr, step, micro_batch, scaling })
    }

    /// The number of this update of a parameter, from 1: steps without those that were skipped.
    fn step_of(&self, b: &mut Builder, parameter: &str) -> Built {
        let step = self.of(b, self.step, STEP, parameter)?;
        self.scaling.as_ref().map_or(Ok(step), |scaling| b.sub(step, scaling.skipped))
    }

    fn of(&self, b: &mut Builder, common: Option<Value>, name: &str, parameter: &str) -> Built {
        match common {
            Some(common) => Ok(common),
            None => count(b, &format!("{name}.{}", state_of(self.optimizer, parameter))),
        }
    }
}

/// A number of steps, from 1.
fn count(b: &mut Builder, name: &str) -> Built {
    b.input(name, InputRole::HostScalar, TensorType::new(DType::F32, ()))
}

/// What the names of an optimizer's state of a parameter begin with.
fn state_of(optimizer: &Optimizer, parameter: &str) -> String {
    let apart = if optimizer.name.is_empty() { String::new() } else { format!("[{}]", optimizer.name) };
    format!("optimizer{apart}.{parameter}")
}

fn update(
    b: &mut Builder,
    optimizer: &Optimizer,
    parameters: &[(String, TensorType)],
    gradients: Gradients,
    loss_scale: Option<&LossScale>,
) -> Built<()> {
    let mut trained = vec![];
    for (name, ty) in parameters {
        let Some(own) = optimizer.of(name) else { continue };
        if !ty.dtype.is_float() {
            return Err(format!("parameter {name} is {ty}; only floats are trained"));
        }
        let value = b.input(name, InputRole::Parameter, ty.clone())?;
        let gradient = b.input(&format!("grad.{name}"), InputRole::Gradient, ty.clone())?;
        trained.push(Parameter { name, ty, optimizer: own, value, gradient, applies: None });
    }
    let scalars = Scalars::new(b, optimizer, &trained, loss_scale)?;
    if let Some(scaling) = &scalars.scaling {
        trained.iter_mut().try_for_each(|p| scaling.unscale(b, p))?;
    }
    if optimizer.accumulate > 1 {
        trained.iter_mut().try_for_each(|p| accumulate(b, &scalars, p))?;
    }
    if let Some(scaling) = &scalars.scaling {
        scaling.skip_infinite(b, &mut trained)?;
    }
    trained.iter().try_for_each(|p| tell(b, p, gradients))?;
    if let Some(limit) = optimizer.clip_value {
        trained.iter_mut().try_for_each(|p| clip_value(b, p, limit))?;
    }
    let clip = match optimizer.clip_norm {
        Some(norm) => Some(clip_factor(b, &trained, norm, scalars.dtype)?),
        None => None,
    };
    trained.iter().try_for_each(|p| update_parameter(b, &scalars, p, clip))
}

/// Adds this step's share of the mean to those of the steps before it.
fn accumulate(b: &mut Builder, scalars: &Scalars<'_>, p: &mut Parameter<'_>) -> Built<()> {
    b.provenance = Provenance::new(vec![], vec![p.name.to_string()]);
    let (count, dtype) = (scalars.optimizer.accumulate, p.ty.dtype.accumulator());
    let number = scalars.of(b, scalars.micro_batch, MICRO_BATCH, p.name)?;
    let last = b.constant(DType::F32, count as f64)?;
    let applies = b.scalar(ScalarFn::Ge, &[number, last])?;
    let name = format!("{}.grad_sum", state_of(scalars.optimizer, p.name));
    let old = b.input(&name, InputRole::Optimizer, TensorType { dtype, shape: p.ty.shape.clone() })?;
    let gradient = b.cast(p.gradient, dtype)?;
    let share = b.scale(gradient, 1.0 / count as f64)?;
    p.gradient = b.add(old, share)?;
    let zero = b.constant(dtype, 0.0)?;
    let left = b.where_(applies, zero, p.gradient)?;
    b.output(&format!("new.{name}"), OutputRole::NewValue(name), left);
    p.applies = Some(applies);
    Ok(())
}

/// Outputs of what the user reads of a gradient.
fn tell(b: &mut Builder, p: &Parameter<'_>, gradients: Gradients) -> Built<()> {
    if gradients == Gradients::Internal {
        return Ok(());
    }
    b.provenance = Provenance::new(vec![], vec![p.name.to_string()]);
    let square = squares(b, p, p.ty.dtype.accumulator())?;
    let norm = b.scalar(ScalarFn::Sqrt, &[square])?;
    b.output(&format!("gradient_norm.{}", p.name), OutputRole::GradientNorm(p.name.into()), norm);
    if gradients == Gradients::Values {
        b.output(&format!("gradient.{}", p.name), OutputRole::Gradient(p.name.into()), p.gradient);
    }
    Ok(())
}

fn clip_value(b: &mut Builder, p: &mut Parameter<'_>, limit: f64) -> Built<()> {
    let dtype = b.dtype(p.gradient);
    let (low, high) = (b.constant(dtype, -limit)?, b.constant(dtype, limit)?);
    p.gradient = b.scalar(ScalarFn::Clamp, &[p.gradient, low, high])?;
    Ok(())
}

/// `min(1, limit / (norm + 1e-6))` with the norm over all gradients in `dtype`, as PyTorch's `clip_grad_norm_`.
fn clip_factor(b: &mut Builder, parameters: &[Parameter<'_>], limit: f64, dtype: DType) -> Built {
    let mut total = b.constant(dtype, 0.0)?;
    for p in parameters {
        let sum = squares(b, p, dtype)?;
        total = b.add(total, sum)?;
    }
    let norm = b.scalar(ScalarFn::Sqrt, &[total])?;
    let (eps, limit, one) = (b.constant(dtype, 1e-6)?, b.constant(dtype, limit)?, b.constant(dtype, 1.0)?);
    let norm = b.add(norm, eps)?;
    let factor = b.div(limit, norm)?;
    b.scalar(ScalarFn::Minimum, &[factor, one])
}

/// The sum of a gradient's squares, in `dtype`.
fn squares(b: &mut Builder, p: &Parameter<'_>, dtype: DType) -> Built {
    let g = b.cast(p.gradient, dtype)?;
    let square = b.mul(g, g)?;
    let dims: Vec<usize> = (0..p.ty.shape.rank()).collect();
    if dims.is_empty() { Ok(square) } else { b.reduce(ReduceKind::Sum, square, &dims, false) }
}

fn update_parameter(b: &mut Builder, scalars: &Scalars<'_>, p: &Parameter<'_>, clip: Option<Value>) -> Built<()> {
    b.provenance = Provenance::new(vec![], vec![p.name.to_string()]);
    let counts = algorithms::counts_steps(&p.optimizer.kind) || scalars.optimizer.average.is_some();
    let step = if counts { scalars.step_of(b, p.name)? } else { scalars.lr };
    let mut slot = slot(b, scalars, p, step)?;
    if let Some(clip) = clip {
        let clip = slot.b.cast(clip, slot.dtype())?;
        slot.g = slot.b.mul(slot.g, clip)?;
    }
    let decay = if slot.ty.shape.rank() >= 2 || p.optimizer.decay_vectors { p.optimizer.weight_decay } else { 0.0 };
    match (&p.optimizer.kind, p.optimizer.decoupled_decay) {
        (OptimizerKind::Lamb { .. }, _) => {}
        _ if decay == 0.0 => {}
        (_, true) => slot.shrink(decay)?,
        (_, false) => slot.pull(decay)?,
    }
    let delta = algorithms::delta(&mut slot, &p.optimizer.kind, decay)?;
    let new = slot.b.sub(slot.p, delta)?;
    if let Some(keep) = scalars.optimizer.average {
        average(&mut slot, keep, new)?;
    }
    let new = slot.b.cast(new, p.ty.dtype)?;
    let new = slot.if_applies(new, p.value)?;
    b.output(&format!("new.{}", p.name), OutputRole::NewValue(p.name.to_string()), new);
    Ok(())
}

fn slot<'a>(b: &'a mut Builder, scalars: &Scalars<'_>, p: &Parameter<'_>, step: Value) -> Built<Slot<'a>> {
    let dtype = p.ty.dtype.accumulator();
    let (value, g) = (b.cast(p.value, dtype)?, b.cast(p.gradient, dtype)?);
    let (mut lr, step) = (b.cast(scalars.lr, dtype)?, b.cast(step, dtype)?);
    if p.optimizer.lr != scalars.optimizer.lr {
        lr = b.scale(lr, p.optimizer.lr / scalars.optimizer.lr)?;
    }
    let state = state_of(scalars.optimizer, p.name);
    Ok(Slot { b, state, ty: p.ty.clone(), value, p: value, g, lr, step, applies: p.applies })
}

/// The average of a parameter's values, which the first update starts; before it, the average is the parameter.
fn average(slot: &mut Slot<'_>, keep: f64, new: Value) -> Built<()> {
    let old = slot.old(AVERAGE)?;
    let args = [new, old, slot.step];
    let average = slot.expr(args, |[new, old, step]| {
        let moved = old * keep + new.clone() * (1.0 - keep);
        new.if_(step.binary(ScalarFn::Le, 1.0), moved)
    })?;
    let before = match slot.applies {
        Some(_) => slot.expr([slot.value, old, slot.step], |[p, old, step]| p.if_(step.binary(ScalarFn::Le, 1.0), old))?,
        None => old,
    };
    slot.keep(AVERAGE, before, average)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::optim::{Adam, AdamW, Sgd};
    use crate::graph::Value;
    use crate::ops::{Array, Op, OpDef, Precision};
    use crate::types::HostTensor;
    use std::collections::BTreeMap;

    /// Runs `graph` on named numbers of each input's shape `[1, 1]` or `[]`, in f64.
    fn run(graph: &Graph, inputs: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
        let mut values: BTreeMap<Value, Array> = BTreeMap::new();
        for input in &graph.inputs {
            let shape = graph.ty(input.value).shape.as_ints().unwrap();
            let x = inputs.get(&input.name).copied().unwrap_or(0.0);
            values.insert(input.value, Array::from_host(&HostTensor::from_f64(DType::F64, &shape, &[x])));
        }
        for id in graph.ids() {
            let node = graph.node(id);
            if matches!(*node.op, Op::InputOp(_)) {
                continue;
            }
            let operands: Vec<Array> = node.operands.iter().map(|v| values[v].clone()).collect();
            for (k, out) in node.op.eval(&operands, &node.types, Precision::Exact).unwrap().into_iter().enumerate() {
                values.insert(Value { node: id, result: k as u32 }, out);
            }
        }
        graph.outputs.iter().map(|o| (o.name.clone(), values[&o.value].floats()[0])).collect()
    }

    fn weight() -> Vec<(String, TensorType)> {
        vec![("w".into(), TensorType::new(DType::F64, (1, 1)))]
    }

    /// Steps `optimizer` on one weight that starts at 1, with those gradients.
    fn descend(optimizer: impl Into<Optimizer>, gradients: &[f64]) -> f64 {
        let optimizer = optimizer.into();
        let graph = update_graph(&optimizer, &weight(), Gradients::Internal, None).unwrap();
        let mut state: BTreeMap<String, f64> = BTreeMap::from([("w".into(), 1.0), ("lr".into(), optimizer.lr)]);
        for (i, &g) in gradients.iter().enumerate() {
            state.insert("grad.w".into(), g);
            state.insert("step".into(), (i + 1) as f64);
            for (name, x) in run(&graph, &state) {
                state.insert(name.strip_prefix("new.").unwrap().to_string(), x);
            }
        }
        state["w"]
    }

    #[track_caller]
    fn near(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-6, "{a} is not {b}");
    }

    #[test]
    fn adamw_follows_the_hand_computed_numbers() {
        // Step 1: 0.999 - 0.1 * 0.5 / 0.5. Step 2: m = 0.02, v = 3.1225e-4, 0.898101 - 0.1 * (0.02 / 0.19) / sqrt(v / 0.001999).
        near(descend(AdamW::new(0.1), &[0.5]), 0.899);
        near(descend(AdamW::new(0.1), &[0.5, -0.25]), 0.898101 - 0.1 * (0.02 / 0.19) / (3.1225e-4f64 / 0.001999).sqrt());
    }

    #[test]
    fn adam_adds_decay_to_the_gradient() {
        // The first step of Adam has length lr whatever the gradient is, so decay does not show.
        near(descend(Adam::new(0.1).weight_decay(0.5), &[0.5]), 0.9);
        near(descend(Sgd::new(0.1).weight_decay(0.5), &[0.5]), 0.9);
    }

    #[test]
    fn sgd_gathers_momentum() {
        near(descend(Sgd::new(0.1), &[1.0, 1.0]), 0.8);
        near(descend(Sgd::new(0.1).momentum(0.9), &[1.0, 1.0]), 1.0 - 0.1 - 0.19);
    }

    #[test]
    fn clipping_bounds_the_global_norm() {
        near(descend(Sgd::new(1.0).clip_norm(0.25), &[2.0]), 0.75);
        near(descend(Sgd::new(1.0).clip_norm(4.0), &[2.0]), -1.0);
    }

    #[test]
    fn vectors_do_not_decay() {
        let optimizer = AdamW::new(0.1).into();
        let graph = update_graph(&optimizer, &[("b".into(), TensorType::new(DType::F32, 3))], Gradients::Internal, None).unwrap();
        let with_rank_two = update_graph(&optimizer, &[("b".into(), TensorType::new(DType::F32, (3, 1)))], Gradients::Internal, None).unwrap();
        assert!(with_rank_two.nodes.len() > graph.nodes.len() + 4, "decay and its constants");
        let as_pytorch = AdamW::new(0.1).decay_vectors(true).into();
        let graph = update_graph(&as_pytorch, &[("b".into(), TensorType::new(DType::F32, 3))], Gradients::Internal, None).unwrap();
        assert_eq!(graph.nodes.len(), with_rank_two.nodes.len());
    }

    #[test]
    fn names_and_roles_are_as_promised() {
        let graph = update_graph(&AdamW::new(0.1).into(), &weight(), Gradients::Internal, None).unwrap();
        let inputs: Vec<&str> = graph.inputs.iter().map(|i| i.name.as_str()).collect();
        assert_eq!(inputs, ["w", "grad.w", "lr", "step", "optimizer.w.exp_avg", "optimizer.w.exp_avg_sq"]);
        let outputs: Vec<&str> = graph.outputs.iter().map(|o| o.name.as_str()).collect();
        assert_eq!(outputs, ["new.optimizer.w.exp_avg", "new.optimizer.w.exp_avg_sq", "new.w"]);
    }

    #[test]
    fn half_weights_keep_their_state_in_f32() {
        let graph = update_graph(&AdamW::new(0.1).into(), &[("w".into(), TensorType::new(DType::BF16, (2, 2)))], Gradients::Internal, None).unwrap();
        assert_eq!(graph.ty(graph.input("optimizer.w.exp_avg").unwrap().value).dtype, DType::F32);
        assert_eq!(graph.ty(graph.output("new.w").unwrap().value).dtype, DType::BF16);
    }

    #[test]
    fn optimizers_with_names_and_counts_keep_apart() {
        let optimizer = AdamW::new(0.1).named("critic").step_per_parameter(true).into();
        let graph = update_graph(&optimizer, &weight(), Gradients::Internal, None).unwrap();
        let inputs: Vec<&str> = graph.inputs.iter().map(|i| i.name.as_str()).collect();
        let critic = "optimizer[critic].w";
        assert_eq!(inputs[3..], [format!("step.{critic}"), format!("{critic}.exp_avg"), format!("{critic}.exp_avg_sq")]);
        assert_eq!(
            (moments_of(inputs[4]), moments_of(inputs[5]), counter(inputs[3])),
            (Some(critic), Some(critic), Some((Counter::Step, Some(critic))))
        );
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let nan = f64::NAN;
        let faults: [(Optimizer, &str); 14] = [
            (Sgd::new(nan).into(), "the learning rate is NaN"),
            (Sgd::new(-0.1).into(), "the learning rate is -0.1"),
            (AdamW::new(f64::INFINITY).into(), "the learning rate is inf"),
            (Sgd::new(0.1).momentum(-0.5).into(), "momentum is -0.5"),
            (Sgd::new(0.1).momentum(nan).into(), "momentum is NaN"),
            (Sgd::new(0.1).weight_decay(-1.0).into(), "weight decay is -1"),
            (Adam::new(0.1).weight_decay(nan).into(), "weight decay is NaN"),
            (Adam::new(0.1).clip_norm(-1.0).into(), "the norm to clip to is -1"),
            (Adam::new(0.1).clip_norm(nan).into(), "the norm to clip to is NaN"),
            (Adam::new(0.1).betas(1.0, 0.9).into(), "the first beta is 1"),
            (Adam::new(0.1).betas(0.9, 2.0).into(), "the second beta is 2"),
            (Adam::new(0.1).betas(0.9, -0.1).into(), "the second beta is -0.1"),
            (AdamW::new(0.1).eps(-1e-8).into(), "eps is -0.00000001"),
            (AdamW::new(0.1).eps(nan).into(), "eps is NaN"),
        ];
        for (optimizer, part) in faults {
            let error = update_graph(&optimizer, &weight(), Gradients::Internal, None).unwrap_err().to_string();
            assert!(error.starts_with("compile: optimizer: ") && error.contains(part), "{error}");
        }
        // The borders themselves are fine: without a memory, each step of Adam has the length of the rate.
        near(descend(Adam::new(0.1).betas(0.0, 0.0).eps(0.0), &[0.5, -3.0]), 1.0);
        near(descend(Sgd::new(0.1).clip_norm(0.0), &[2.0]), 1.0);
    }

    #[test]
    fn integers_are_not_trained() {
        let error = update_graph(&Sgd::new(0.1).into(), &[("n".into(), TensorType::new(DType::I32, 1))], Gradients::Internal, None).unwrap_err();
        assert_eq!(error.to_string(), "compile: optimizer: parameter n is i32[1]; only floats are trained");
    }
}
