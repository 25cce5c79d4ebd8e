//! Linear layers of one input that one product computes: values, gradients and steps are those of the layers one by one.
#![allow(missing_docs)]

use inductor::compile::inductor_with_report;
use inductor::config::{Config, Gradients, MixedPrecision, Mode, Optimizer, Target};
use inductor::ops::OpDef as _;
use inductor::passes::{merge_linears, recursive_pre_grad_passes};
use inductor::types::DeviceModel;
use inductor::{DType, Device, HostTensor, Initializer, State, Step, Traced, nn, optim, trace};

const ROWS: usize = 2048;
const WIDTH: usize = 64;

/// The interpreter, taken for a GPU where narrow products are slow.
fn wide() -> Target {
    let model = DeviceModel { gflops: 100, bandwidth_gbps: 100_000, launch_ns: 1, ..DeviceModel::large_gpu() };
    Target { model, ..Target::cpu() }
}

/// Queries, keys and values of one input behind a layer, of which keys have no bias and values are narrower; the weight of queries serves
/// once more.
fn network() -> Traced {
    trace("network", |t| {
        let x = t.input("x", DType::F32, (ROWS, WIDTH));
        let x = nn::linear(&t.path("first"), &x, WIDTH).tanh();
        let q = nn::linear(&t.path("q"), &x, WIDTH);
        let k = nn::linear(&t.path("k"), &x, nn::Linear::new(WIDTH).bias(false));
        let v = nn::linear(&t.path("v"), &x, WIDTH / 2);
        let rows = |y: &inductor::Tensor, width: usize| y.reshape((ROWS / 16, 16, width));
        let attended = rows(&q, WIDTH).attention(&rows(&k, WIDTH), &rows(&v, WIDTH / 2), &Default::default());
        let out = nn::linear(&t.path("out"), &attended.reshape((ROWS, WIDTH / 2)), WIDTH).tanh();
        let shared = t.path("q").parameter("weight", DType::F32, (WIDTH, WIDTH), Initializer::Zeros);
        let again = out.linear(&shared, None);
        Ok((&again * &again).mean(()))
    })
    .unwrap()
}

fn config(optimizer: impl Into<Optimizer>) -> Config {
    Config { mode: Mode::Train(optimizer.into()), gradients: Gradients::Values, ..Config::default() }
}

/// Widths of the results of layers, in order.
fn merged(target: &Target, config: &Config) -> Vec<i64> {
    let graph = merge_linears(recursive_pre_grad_passes(&network().graph).unwrap(), target, config).unwrap();
    let linears = graph.nodes.iter().filter(|n| n.op.name() == "linear");
    linears.map(|n| n.types[0].shape.0.last().unwrap().as_int().unwrap()).collect()
}

/// Gradients of a step by name.
type Named = Vec<(String, HostTensor)>;

/// Losses and gradients of some steps, and the state behind them.
fn steps(target: &Target, config: &Config) -> (Vec<f64>, Vec<Named>, State) {
    let (traced, device) = (network(), Device::cpu());
    let examples: Vec<_> = traced.graph.inputs.iter().map(|i| traced.graph.ty(i.value).clone()).collect();
    let (plan, report) = inductor_with_report(&traced.graph, &examples, target, config).unwrap();
    let step = Step::new(plan, report, &traced, &device, config).unwrap();
    let mut state = step.init(3).unwrap();
    let numbers: Vec<f64> = (0..ROWS * WIDTH).map(|i| (i as f64 * 0.7).sin()).collect();
    let x = HostTensor::from_f64(DType::F32, &[ROWS, WIDTH], &numbers);
    let (mut losses, mut gradients) = (vec![], vec![]);
    for _ in 0..4 {
        let result = step.run(&mut state, [x.clone()]).unwrap();
        losses.push(result.loss().unwrap().into());
        gradients.push(result.gradients().unwrap());
    }
    (losses, gradients, state)
}

/// Steps of merged layers are those of the layers one by one, up to rounding; gradients within that relative error.
#[track_caller]
fn check(config: &Config, widths: &[i64], bound: f64) {
    assert_eq!(merged(&wide(), config), widths);
    assert_eq!(merged(&Target::cpu(), config), [64, 64, 64, 32, 64, 64]);
    let ((losses, gradients, state), (expected, apart, state_apart)) = (steps(&wide(), config), steps(&Target::cpu(), config));
    for (step, (a, b)) in losses.iter().zip(&expected).enumerate() {
        assert!((a - b).abs() <= bound * b.abs(), "the loss of step {step} is {a}, not {b}");
    }
    for (step, (own, apart)) in gradients.iter().zip(&apart).enumerate() {
        assert_eq!(own.len(), apart.len());
        for ((name, a), (of, b)) in own.iter().zip(apart) {
            assert_eq!(name, of);
            near(a, b, bound, &format!("the gradient of {name} in step {step}"));
        }
    }
    for name in state.names_of(inductor::graph::InputRole::Parameter) {
        near(&state.get(&name).unwrap(), &state_apart.get(&name).unwrap(), bound, &name);
    }
}

#[track_caller]
fn near(a: &HostTensor, b: &HostTensor, bound: f64, what: &str) {
    let (a, b) = (a.to_f64(), b.to_f64());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let (error, size) = (norm(&mut a.iter().zip(&b).map(|(a, b)| a - b)), norm(&mut b.iter().copied()));
    assert!(error <= bound * size, "{what} is off by {:e}", error / size);
}

#[test]
fn values_and_gradients_are_those_of_layers() {
    check(&config(optim::Sgd::new(0.5)), &[64, 160, 64, 64], 1e-5);
    check(&config(optim::AdamW::new(1e-4)), &[64, 160, 64, 64], 1e-4);
}

#[test]
fn parts_of_a_gradient_are_clipped_checked_and_accumulated() {
    let config = config(optim::Sgd::new(0.5).momentum(0.9).clip_norm(1e-3).accumulate(2));
    check(&Config { check_gradients: true, ..config }, &[64, 160, 64, 64], 1e-5);
}

#[test]
fn layers_of_several_groups_are_merged_and_frozen_ones_are_not() {
    let grouped = optim::Sgd::new(0.5).group("v", optim::AdamW::new(1e-4)).group("k", optim::Sgd::new(0.1));
    check(&config(grouped), &[64, 160, 64, 64], 1e-4);
    check(&config(optim::Sgd::new(0.5).frozen("k")), &[64, 96, 64, 64, 64], 1e-5);
    check(&config(optim::Sgd::new(0.5).frozen("q")), &[64, 64, 96, 64, 64], 1e-5);
}

#[test]
fn products_of_halves_are_merged() {
    let halves = MixedPrecision::f16();
    assert!(halves.loss_scale.is_some());
    check(&Config { mixed_precision: Some(halves), ..config(optim::Sgd::new(0.5)) }, &[64, 160, 64, 64], 2e-3);
}
