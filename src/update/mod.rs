//! The update of parameters as a pure graph, the third of a training step.
//!
//! * Comes in: an optimizer's settings, and the names and types of the parameters that have a gradient.
//! * Goes out: [`update_graph`]: a graph with roles at its border, in the form that the passes before the last stage would give.
//! * Invariants: inputs and outputs have the names that states and checkpoints use; what is not trained is not mentioned; settings
//!   that no optimizer means are errors.
//! * Must not know: the loss, kernels, where a state lives.
//! * Add here: an optimizer is a variant of [`OptimizerKind`] and an arm of `update_parameter`; its builder is in `frontend/optim.rs`.

use crate::config::{Optimizer, OptimizerKind};
use crate::error::Error;
use crate::graph::{Builder, Graph, InputRole, OutputRole, Value};
use crate::ops::ReduceKind;
use crate::scalar::ScalarFn;
use crate::types::{DType, Provenance, TensorType};

type Built<T = Value> = Result<T, String>;

/// The update as a pure graph. Inputs: each parameter `<p>`, its gradient `grad.<p>`, its state `optimizer.<p>.exp_avg`,
/// `.exp_avg_sq` or `.momentum_buffer` (all starting at zero), and the host scalars `lr` and `step` (f32, `step` from 1; with
/// `step_per_parameter`, `step.optimizer.<p>` for each). The state of an optimizer with a name is `optimizer[<name>].<p>...`.
/// Outputs: `new.<name>` for each parameter and state. Half-precision parameters are updated in f32, where their state lives.
pub fn update_graph(optimizer: &Optimizer, parameters: &[(String, TensorType)]) -> Result<Graph, Error> {
    let mut b = Builder::new("update");
    let built = check_settings(optimizer).and_then(|()| update(&mut b, optimizer, parameters));
    built.map_err(|message| Error::compile(format!("optimizer: {message}")))?;
    Ok(b.finish())
}

/// Whether a tensor of a state belongs to an optimizer, by its name.
pub(crate) fn is_optimizer_state(tensor: &str) -> bool {
    tensor.starts_with("optimizer.") || tensor.starts_with("optimizer[")
}

/// The moments that an optimizer's tensor of the state belongs to, `optimizer.<p>`, if their updates are counted.
pub(crate) fn moments_of(tensor: &str) -> Option<&str> {
    tensor.strip_suffix(".exp_avg").filter(|moments| is_optimizer_state(moments))
}

/// The moments whose count a host scalar of that name is.
pub(crate) fn counted_moments(scalar: &str) -> Option<&str> {
    scalar.strip_prefix("step.").filter(|moments| is_optimizer_state(moments))
}

/// Refuses numbers that no optimizer means.
fn check_settings(optimizer: &Optimizer) -> Built<()> {
    let not_negative = |x: f64| x.is_finite() && x >= 0.0;
    let below_one = |x: f64| (0.0..1.0).contains(&x);
    let mut settings = vec![
        ("the learning rate", optimizer.lr, not_negative(optimizer.lr), "finite and not negative"),
        ("weight decay", optimizer.weight_decay, not_negative(optimizer.weight_decay), "finite and not negative"),
    ];
    settings.extend(optimizer.clip_norm.map(|norm| ("the norm to clip to", norm, norm >= 0.0, "not negative")));
    match optimizer.kind {
        OptimizerKind::Sgd { momentum } => settings.push(("momentum", momentum, not_negative(momentum), "finite and not negative")),
        OptimizerKind::Adam { beta1, beta2, eps } | OptimizerKind::AdamW { beta1, beta2, eps } => settings.extend([
            ("the first beta", beta1, below_one(beta1), "in 0..1"),
            ("the second beta", beta2, below_one(beta2), "in 0..1"),
            ("eps", eps, not_negative(eps), "finite and not negative"),
        ]),
    }
    match settings.into_iter().find(|(_, _, is_sound, _)| !is_sound) {
        Some((what, x, _, wanted)) => Err(format!("{what} is {x}, and must be {wanted}")),
        None => Ok(()),
    }
}

fn update(b: &mut Builder, optimizer: &Optimizer, parameters: &[(String, TensorType)]) -> Built<()> {
    let mut slots = vec![];
    for (name, ty) in parameters {
        if !ty.dtype.is_float() {
            return Err(format!("parameter {name} is {ty}; only floats are trained"));
        }
        let value = b.input(name, InputRole::Parameter, ty.clone())?;
        let gradient = b.input(&format!("grad.{name}"), InputRole::Gradient, ty.clone())?;
        slots.push(Parameter { name, ty, value, gradient });
    }
    let lr = b.input("lr", InputRole::HostScalar, TensorType::new(DType::F32, ()))?;
    let common = if optimizer.step_per_parameter { None } else { Some(b.input("step", InputRole::HostScalar, TensorType::new(DType::F32, ()))?) };
    let clip = match optimizer.clip_norm {
        Some(norm) => Some(clip_factor(b, &slots, norm)?),
        None => None,
    };
    for slot in &slots {
        b.provenance = Provenance::new(vec![], vec![slot.name.to_string()]);
        let step = match common {
            Some(step) => step,
            None => b.input(&format!("step.{}", state_of(optimizer, slot)), InputRole::HostScalar, TensorType::new(DType::F32, ()))?,
        };
        update_parameter(b, optimizer, slot, Scalars { lr, step, clip })?;
    }
    Ok(())
}

/// What the names of an optimizer's state of a parameter begin with.
fn state_of(optimizer: &Optimizer, slot: &Parameter<'_>) -> String {
    let apart = if optimizer.name.is_empty() { String::new() } else { format!("[{}]", optimizer.name) };
    format!("optimizer{apart}.{}", slot.name)
}

struct Parameter<'a> {
    name: &'a str,
    ty: &'a TensorType,
    value: Value,
    gradient: Value,
}

#[derive(Clone, Copy)]
struct Scalars {
    lr: Value,
    step: Value,
    clip: Option<Value>,
}

/// `min(1, limit / (norm + 1e-6))` with the norm over all gradients in f32, as PyTorch's `clip_grad_norm_`.
fn clip_factor(b: &mut Builder, slots: &[Parameter<'_>], limit: f64) -> Built {
    let mut total = b.constant(DType::F32, 0.0)?;
    for slot in slots {
        let g = b.cast(slot.gradient, DType::F32)?;
        let square = b.mul(g, g)?;
        let dims: Vec<usize> = (0..slot.ty.shape.rank()).collect();
        let sum = if dims.is_empty() { square } else { b.reduce(ReduceKind::Sum, square, &dims, false)? };
        total = b.add(total, sum)?;
    }
    let norm = b.scalar(ScalarFn::Sqrt, &[total])?;
    let (eps, limit, one) = (b.constant(DType::F32, 1e-6)?, b.constant(DType::F32, limit)?, b.constant(DType::F32, 1.0)?);
    let norm = b.add(norm, eps)?;
    let factor = b.div(limit, norm)?;
    b.scalar(ScalarFn::Minimum, &[factor, one])
}

fn update_parameter(b: &mut Builder, optimizer: &Optimizer, slot: &Parameter<'_>, scalars: Scalars) -> Built<()> {
    let dtype = slot.ty.dtype.accumulator();
    let (mut p, mut g) = (b.cast(slot.value, dtype)?, b.cast(slot.gradient, dtype)?);
    let (lr, step) = (b.cast(scalars.lr, dtype)?, b.cast(scalars.step, dtype)?);
    if let Some(clip) = scalars.clip {
        let clip = b.cast(clip, dtype)?;
        g = b.mul(g, clip)?;
    }
    let decay = if slot.ty.shape.rank() >= 2 || optimizer.decay_vectors { optimizer.weight_decay } else { 0.0 };
    let decoupled = matches!(optimizer.kind, OptimizerKind::AdamW { .. });
    if decay != 0.0 && decoupled {
        let one = b.constant(dtype, 1.0)?;
        let lost = b.scale(lr, decay)?;
        let kept = b.sub(one, lost)?;
        p = b.mul(p, kept)?;
    } else if decay != 0.0 {
        let pull = b.scale(p, decay)?;
        g = b.add(g, pull)?;
    }
    let state = |kind: &str| format!("{}.{kind}", state_of(optimizer, slot));
    let delta = match optimizer.kind {
        OptimizerKind::Sgd { momentum } => {
            let velocity = if momentum == 0.0 { g } else { moment(b, slot, &state("momentum_buffer"), (momentum, 1.0), g)? };
            b.mul(lr, velocity)?
        }
        OptimizerKind::Adam { beta1, beta2, eps } | OptimizerKind::AdamW { beta1, beta2, eps } => {
            let square = b.mul(g, g)?;
            let m = moment(b, slot, &state("exp_avg"), (beta1, 1.0 - beta1), g)?;
            let v = moment(b, slot, &state("exp_avg_sq"), (beta2, 1.0 - beta2), square)?;
            let (seen1, seen2) = (bias_correction(b, beta1, step)?, bias_correction(b, beta2, step)?);
            let (root, scale) = (b.scalar(ScalarFn::Sqrt, &[v])?, b.scalar(ScalarFn::Sqrt, &[seen2])?);
            let (root, eps) = (b.div(root, scale)?, b.constant(dtype, eps)?);
            let denominator = b.add(root, eps)?;
            let rate = b.div(lr, seen1)?;
            let direction = b.div(m, denominator)?;
            b.mul(rate, direction)?
        }
    };
    let new = b.sub(p, delta)?;
    let new = b.cast(new, slot.ty.dtype)?;
    b.output(&format!("new.{}", slot.name), OutputRole::NewValue(slot.name.to_string()), new);
    Ok(())
}

/// `keep * state + take * x`, as the new value of the state of that name.
fn moment(b: &mut Builder, slot: &Parameter<'_>, name: &str, (keep, take): (f64, f64), x: Value) -> Built {
    let state = b.input(name, InputRole::Optimizer, TensorType { dtype: slot.ty.dtype.accumulator(), shape: slot.ty.shape.clone() })?;
    let kept = b.scale(state, keep)?;
    let taken = if take == 1.0 { x } else { b.scale(x, take)? };
    let new = b.add(kept, taken)?;
    b.output(&format!("new.{name}"), OutputRole::NewValue(name.into()), new);
    Ok(new)
}

/// `1 - beta^step`, without the cancellation that subtracting from one has at the first steps.
fn bias_correction(b: &mut Builder, beta: f64, step: Value) -> Built {
    if beta == 0.0 {
        return b.constant(b.dtype(step), 1.0);
    }
    let exponent = b.scale(step, beta.ln())?;
    let lost = b.scalar(ScalarFn::Expm1, &[exponent])?;
    b.neg(lost)
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
            if matches!(node.op, Op::InputOp(_)) {
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
        let graph = update_graph(&optimizer, &weight()).unwrap();
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
        let graph = update_graph(&optimizer, &[("b".into(), TensorType::new(DType::F32, 3))]).unwrap();
        let with_rank_two = update_graph(&optimizer, &[("b".into(), TensorType::new(DType::F32, (3, 1)))]).unwrap();
        assert!(with_rank_two.nodes.len() > graph.nodes.len() + 4, "decay and its constants");
        let as_pytorch = AdamW::new(0.1).decay_vectors(true).into();
        let graph = update_graph(&as_pytorch, &[("b".into(), TensorType::new(DType::F32, 3))]).unwrap();
        assert_eq!(graph.nodes.len(), with_rank_two.nodes.len());
    }

    #[test]
    fn names_and_roles_are_as_promised() {
        let graph = update_graph(&AdamW::new(0.1).into(), &weight()).unwrap();
        let inputs: Vec<&str> = graph.inputs.iter().map(|i| i.name.as_str()).collect();
        assert_eq!(inputs, ["w", "grad.w", "lr", "step", "optimizer.w.exp_avg", "optimizer.w.exp_avg_sq"]);
        let outputs: Vec<&str> = graph.outputs.iter().map(|o| o.name.as_str()).collect();
        assert_eq!(outputs, ["new.optimizer.w.exp_avg", "new.optimizer.w.exp_avg_sq", "new.w"]);
    }

    #[test]
    fn half_weights_keep_their_state_in_f32() {
        let graph = update_graph(&AdamW::new(0.1).into(), &[("w".into(), TensorType::new(DType::BF16, (2, 2)))]).unwrap();
        assert_eq!(graph.ty(graph.input("optimizer.w.exp_avg").unwrap().value).dtype, DType::F32);
        assert_eq!(graph.ty(graph.output("new.w").unwrap().value).dtype, DType::BF16);
    }

    #[test]
    fn optimizers_with_names_and_counts_keep_apart() {
        let optimizer = AdamW::new(0.1).named("critic").step_per_parameter(true).into();
        let graph = update_graph(&optimizer, &weight()).unwrap();
        let inputs: Vec<&str> = graph.inputs.iter().map(|i| i.name.as_str()).collect();
        let critic = "optimizer[critic].w";
        assert_eq!(inputs[3..], [format!("step.{critic}"), format!("{critic}.exp_avg"), format!("{critic}.exp_avg_sq")]);
        assert_eq!((moments_of(inputs[4]), moments_of(inputs[5]), counted_moments(inputs[3])), (Some(critic), None, Some(critic)));
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
            let error = update_graph(&optimizer, &weight()).unwrap_err().to_string();
            assert!(error.starts_with("compile: optimizer: ") && error.contains(part), "{error}");
        }
        // The borders themselves are fine: without a memory, each step of Adam has the length of the rate.
        near(descend(Adam::new(0.1).betas(0.0, 0.0).eps(0.0), &[0.5, -3.0]), 1.0);
        near(descend(Sgd::new(0.1).clip_norm(0.0), &[2.0]), 1.0);
    }

    #[test]
    fn integers_are_not_trained() {
        let error = update_graph(&Sgd::new(0.1).into(), &[("n".into(), TensorType::new(DType::I32, 1))]).unwrap_err();
        assert_eq!(error.to_string(), "compile: optimizer: parameter n is i32[1]; only floats are trained");
    }
}
