//! Derivatives inside a program: against PyTorch, and of every operator against differences.

use super::{Case, input};
use inductor::autograd::gradients_within;
use inductor::eval::evaluate_exact;
use inductor::graph::{Builder, Graph, InputRole, OutputRole, Value};
use inductor::nn::{self, Recurrent};
use inductor::ops::{Array, Class, Data, Op, OpDef, Sample, samples};
use inductor::types::TensorType;
use inductor::{AttentionOptions, ConvOptions, DType, HostTensor, Tensor, Trace, trace};

fn mlp(t: &Trace, x: &Tensor) -> Tensor {
    nn::linear(&t.path("l2"), &nn::linear(&t.path("l1"), x, 8).tanh(), 1)
}

fn grad(y: Tensor, x: &Tensor) -> Tensor {
    y.grad(&[x]).remove(0)
}

pub const CASES: &[Case] = &[
    ("gradient_penalty", |t| {
        let x = input(t, "a", [5, 4]);
        vec![(grad(mlp(t, &x), &x).norm(1) - 1).square()]
    }),
    ("pinn", |t| {
        let x = input(t, "a", [5, 2]);
        let u = mlp(t, &x);
        let first = grad(u.clone(), &x);
        vec![grad(first.select(1, 0), &x).select(1, 0) + first.select(1, 1) - u.select(1, 0)]
    }),
    ("hvp", |t| {
        let (x, v) = (input(t, "a", [6]), input(t, "b", [6]));
        vec![(x.sin() * x.cumsum(0)).sum(()).hvp(&x, &v)]
    }),
    ("jvp", |t| {
        let (x, v, w) = (input(t, "a", [3, 4]), input(t, "b", [3, 4]), input(t, "c", [4, 5]));
        vec![x.exp().matmul(&w).softmax(-1).jvp(&[(&x, &v)])]
    }),
    ("second_order_activations", |t| {
        let x = input(t, "a", [3, 5]);
        let y = 2.0 * &x;
        let all = [
            y.hardswish(),
            y.softplus(),
            y.mish(),
            y.elu(1.0),
            y.selu(),
            y.gelu(),
            y.silu(),
            y.logsigmoid(),
            y.leaky_relu(0.01),
            y.relu(),
            y.softsign(),
            y.tanh(),
        ];
        all.into_iter().map(|y| grad(y, &x)).collect()
    }),
    ("second_order_entropy", |t| {
        let x = input(t, "a", [3, 4]);
        let labels = (2.0 * &x).sigmoid().detach();
        vec![grad(x.sigmoid().binary_cross_entropy(&labels, None, inductor::Reduction::Mean), &x)]
    }),
    ("second_order_parts", |t| {
        let (x, w, k) = (input(t, "a", [3, 4]), input(t, "b", [4, 6]), input(t, "c", [2, 3, 3]));
        let (h, labels) = (x.matmul(&w), t.constant(&HostTensor::i32(&[3], &[1, 0, 5])));
        let y = h.layer_norm(None, None, 1e-5).log_softmax(-1) + h.cross_entropy(&labels) + x.std(()) + x.logsumexp_keepdim(1) + x.norm_keepdim(1);
        let z = x.unsqueeze(0).sin().conv1d(&k, ConvOptions::new().padding(1)).max_pool1d(2).avg_pool1d(2);
        let q = x.reshape((1, 1, 3, 4));
        let causal = AttentionOptions { causal: true, ..Default::default() };
        let last = x.binary_cross_entropy_with_logits(&x.detach().sigmoid()) * x.mse(&x.cos());
        let of_z = z.square().grad(&[&x, &k]);
        vec![grad(y.square(), &x), of_z[0].clone(), of_z[1].clone(), grad(q.attention(&q.sin(), &q, &causal).square(), &x), grad(last, &x)]
    }),
    ("second_order_lstm", |t| {
        let x = input(t, "a", [4, 2, 3]);
        vec![grad(nn::lstm(&t.path("rnn"), &x, None, Recurrent::new(4)).0.square(), &x)]
    }),
];

/// Operators whose gradient's derivative is refused by name.
const REFUSED: &[&str] = &["fused_attention"];

/// A graph whose outputs are gradients of a sample by its float operands, behind them the gradients of their weighted sum.
struct Second {
    graph: Graph,
    floats: Vec<usize>,
}

fn second(sample: &Sample) -> Result<Option<Second>, String> {
    let mut b = Builder::new("second");
    let declare = |b: &mut Builder, name: String, ty: &TensorType| b.input(&name, InputRole::Input, ty.clone());
    let operands: Vec<Value> = sample.operands.iter().enumerate().map(|(k, ty)| declare(&mut b, format!("x{k}"), ty)).collect::<Result<_, _>>()?;
    let results = b.node(sample.op.clone(), &operands)?;
    let floats: Vec<usize> = (0..operands.len()).filter(|&k| b.dtype(operands[k]).is_float()).collect();
    let wrt: Vec<Value> = floats.iter().map(|&k| operands[k]).collect();
    let mut of = vec![];
    for (k, &y) in results.iter().enumerate().filter(|(_, y)| b.dtype(**y).is_float()).collect::<Vec<_>>() {
        let ty = b.ty(y).clone();
        of.push((y, declare(&mut b, format!("w{k}"), &ty)?));
    }
    let first = match gradients_within(&mut b, &of, &wrt) {
        Err((message, _)) if message.contains("not differentiable") => return Ok(None),
        other => other.map_err(|(message, _)| message)?,
    };
    let mut of = vec![];
    for (k, g) in first.iter().enumerate() {
        if let Some(g) = *g {
            let ty = b.ty(g).clone();
            of.push((g, declare(&mut b, format!("v{k}"), &ty)?));
            b.output(&format!("g{k}"), OutputRole::User, g);
        }
    }
    let second = gradients_within(&mut b, &of, &wrt).map_err(|(message, _)| message)?;
    for (k, h) in second.into_iter().enumerate() {
        let zero = b.full(b.dtype(wrt[k]), 0.0, b.shape(wrt[k]).clone())?;
        b.output(&format!("h{k}"), OutputRole::User, h.unwrap_or(zero));
    }
    Ok(Some(Second { graph: b.finish(), floats }))
}

/// Values by a fixed rule: floats without ties, integers below a bound.
fn values(sample: &Sample, seed: usize, ty: &TensorType) -> Array {
    let shape = ty.shape.as_ints().expect("constant sizes");
    let unit = |i: usize| ((i * 7919 + seed * 104_729 + 13) % 10_007) as f64 / 10_007.0;
    let numel = shape.iter().product();
    if ty.dtype.is_float() {
        let (low, high) = match sample.op.name() {
            "asin" | "acos" => (-0.9, 0.9),
            _ if sample.positive => (0.1, 2.0),
            _ => (-2.0, 2.0),
        };
        return Array::from_host(&HostTensor::from_f64(ty.dtype, &shape, &(0..numel).map(|i| low + (high - low) * unit(i)).collect::<Vec<_>>()));
    }
    let below = if ty.dtype == DType::Bool { 2 } else { sample.index_below.max(1) };
    Array::from_host(&HostTensor::from_i64(ty.dtype, &shape, &(0..numel).map(|i| (unit(i) * below as f64) as i64).collect::<Vec<_>>()))
}

/// The weighted sum of the gradients changes along a direction as their own gradients say.
fn check(sample: &Sample) -> Result<(), String> {
    let Some(Second { graph, floats }) = second(sample)? else { return Ok(()) };
    let inputs: Vec<Array> = graph.inputs.iter().enumerate().map(|(k, i)| values(sample, k, graph.ty(i.value))).collect();
    let direction = |k: usize, i: usize| ((i * 31 + k * 17 + 5) % 23) as f64 / 11.0 - 1.0;
    let gradients = graph.outputs.iter().filter(|o| o.name.starts_with('g')).count();
    let run = |step: f64| -> Result<Vec<Array>, String> {
        let mut moved = inputs.clone();
        for &k in &floats {
            let values = inputs[k].floats().iter().enumerate().map(|(i, x)| x + step * direction(k, i)).collect();
            moved[k].data = Data::Float(values);
        }
        evaluate_exact(&graph, &moved).map_err(|e| e.to_string())
    };
    let weights: Vec<Vec<f64>> = graph.inputs.iter().zip(&inputs).filter(|(i, _)| i.name.starts_with('v')).map(|(_, a)| a.floats()).collect();
    let sum = |out: &[Array]| -> f64 {
        out[..gradients].iter().zip(&weights).map(|(g, v)| g.floats().iter().zip(v).map(|(g, v)| g * v).sum::<f64>()).sum()
    };
    let step = 1e-5;
    let [a, b, c, d] = [2.0, 1.0, -1.0, -2.0].map(|k| run(k * step));
    let difference = (8.0 * (sum(&b?) - sum(&c?)) - (sum(&a?) - sum(&d?))) / (12.0 * step);
    let here = run(0.0)?;
    let terms: Vec<f64> =
        floats.iter().zip(&here[gradients..]).flat_map(|(&k, h)| h.floats().into_iter().enumerate().map(move |(i, h)| h * direction(k, i))).collect();
    let derivative: f64 = terms.iter().sum();
    let scale = terms.iter().map(|x| x.abs()).sum::<f64>().max(1.0);
    if (derivative - difference).abs() <= 1e-4 * scale { Ok(()) } else { Err(format!("derivative {derivative}, difference {difference}")) }
}

#[test]
fn gradients_of_gradients_of_every_operator() {
    let (mut faults, mut tried) = (vec![], 0);
    for sample in samples() {
        let is_half = |ty: &TensorType| matches!(ty.dtype, DType::F16 | DType::BF16);
        // A detached value has no derivative on purpose, and a surrogate another one than its value.
        let states_another = matches!(&sample.op, Op::Detach(_)) || sample.op.name() == "straight_through";
        if states_another || sample.operands.iter().any(is_half) || sample.op.class() == Class::Random {
            continue;
        }
        tried += 1;
        match check(&sample) {
            Err(message) if REFUSED.contains(&sample.op.name()) && message.contains("not differentiable") => {}
            Err(message) => faults.push(format!("{} {}: {message}", sample.op.name(), sample.op.attributes())),
            Ok(()) => {}
        }
    }
    assert!(faults.is_empty() && tried > 100, "{} of {tried}:\n{}", faults.len(), faults.join("\n"));
}

/// What states its gradient only is refused by name, not given a wrong derivative.
#[test]
fn unknown_second_derivatives_are_refused() {
    let penalty = |t: &Trace| {
        let x = t.input("x", DType::F32, 4);
        let y = (0.5 * x.tanh()).erfinv();
        Ok(grad(y, &x).square().sum(()))
    };
    let traced = trace("penalty", penalty).expect("the first derivative is known");
    let error = inductor::compile_vjp(&traced, &inductor::Device::cpu(), &inductor::Config::default()).err().expect("the second is not");
    assert!(error.to_string().contains("the derivative of this gradient is not known"), "{error}");
}
