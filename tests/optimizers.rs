//! Optimizers, clipping, groups, accumulation, averages and schedules against PyTorch's, over 50 steps (`optimizers/make.py`).

use inductor::config::{Gradients, Optimizer};
use inductor::graph::{InputRole, OutputRole};
use inductor::optim::{Adadelta, Adafactor, Adagrad, Adam, AdamW, Adamax, Goal, Lamb, Lion, Muon, NAdam, Plateau, RAdam, RmsProp, Schedule, Sgd};
use inductor::train::Trainer;
use inductor::{Config, DType, Device, HostTensor, Initializer, State, Step, Trace, Traced, Verify, compile_train, nn, trace};
use serde_json::Value;

const STEPS: u64 = 50;

fn devices() -> Vec<Device> {
    let mut out = vec![Device::cpu()];
    match Device::software() {
        Ok(device) => out.push(device),
        Err(error) => eprintln!("software adapter: skipped, {error}"),
    }
    out
}

fn expected(name: &str) -> Value {
    let all: Value = serde_json::from_str(include_str!("optimizers/expected.json")).unwrap();
    all[name].clone()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list")).iter().map(|x| x.as_f64().unwrap()).collect()
}

/// Numbers that look irregular.
fn wave(shape: &[usize], scale: f64, shift: f64) -> HostTensor {
    let data: Vec<f32> = (0..shape.iter().product::<usize>()).map(|i| (scale * i as f64 + shift).sin() as f32).collect();
    HostTensor::f32(shape, &data)
}

fn program() -> Traced {
    trace("regression", |t: &Trace| {
        let (x, y) = (t.input("x", DType::F32, (5, 3)), t.input("y", DType::F32, (5, 3)));
        let w = t.parameter("w", DType::F32, (3, 4), Initializer::Zeros);
        let v = t.parameter("v", DType::F32, (4, 3), Initializer::Zeros);
        let b = t.parameter("b", DType::F32, 4, Initializer::Zeros);
        Ok(((x.matmul(&w) + b).tanh().matmul(&v) - y).square().mean_all())
    })
    .unwrap()
}

fn batch(step: u64) -> [HostTensor; 2] {
    [wave(&[5, 3], 1.7, step as f64), wave(&[5, 3], 2.9, 0.3 * step as f64)]
}

fn start(step: &Step) -> State {
    let mut state = step.init(1).unwrap();
    state.set("w", wave(&[3, 4], 2.3, 0.5)).unwrap();
    state.set("v", wave(&[4, 3], 1.9, 1.5)).unwrap();
    state.set("b", wave(&[4], 3.1, 0.2)).unwrap();
    state
}

#[track_caller]
fn near(found: &[f64], expected: &[f64], bound: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let far = found.iter().zip(expected).fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
    assert!(far <= bound, "{what} is {far:e} from PyTorch's: {found:?}, not {expected:?}");
}

/// Rates, counters and the norm of all gradients are as exact as the parameters.
#[test]
fn updates_of_f64_are_of_f64() {
    let traced = trace("square", |t: &Trace| {
        let w = t.parameter("w", DType::F64, 3, Initializer::Ones);
        Ok((&w * &w * &w).sum_all())
    })
    .unwrap();
    let step = compile_train(&traced, &Device::cpu(), Sgd::new(0.1).clip_norm(0.3), &Config::default()).unwrap();
    let (mut state, mut expected) = (step.init(1).unwrap(), [0.7, 1.1, 1.3]);
    state.set("w", HostTensor::from_f64(DType::F64, &[3], &expected)).unwrap();
    for _ in 0..5 {
        step.run(&mut state, Vec::<HostTensor>::new()).unwrap();
        let gradients = expected.map(|w: f64| 3.0 * w * w);
        let norm = gradients.iter().map(|g| g * g).sum::<f64>().sqrt();
        expected = std::array::from_fn(|i| expected[i] - 0.1 * (0.3 / (norm + 1e-6)).min(1.0) * gradients[i]);
    }
    near(&state.get("w").unwrap().to_f64(), &expected, 1e-14, "w");
}

/// Trains for 50 steps and compares losses and weights.
fn check_to(name: &str, optimizer: impl Into<Optimizer>, bound: f64) {
    let (optimizer, expected) = (optimizer.into(), expected(name));
    for device in devices() {
        let step = compile_train(&program(), &device, optimizer.clone(), &Config::default()).unwrap();
        let mut state = start(&step);
        let losses: Vec<f64> = (1..=STEPS).map(|k| step.run(&mut state, batch(k)).unwrap().loss().unwrap() as f64).collect();
        near(&[0, 9, 24, 49].map(|k| losses[k]), &numbers(&expected["loss"]), bound, &format!("{name} on {device:?}: the loss"));
        for p in ["w", "v", "b"] {
            near(&state.get(p).unwrap().to_f64(), &numbers(&expected[p]), bound, &format!("{name} on {device:?}: {p}"));
            if optimizer.average.is_some() {
                let averaged = state.averaged().unwrap().get(p).unwrap().to_f64();
                near(&averaged, &numbers(&expected["average"][p]), bound, &format!("{name} on {device:?}: the average of {p}"));
            }
        }
    }
}

fn check(name: &str, optimizer: impl Into<Optimizer>) {
    check_to(name, optimizer, 1e-5);
}

#[test]
fn descent() {
    check("sgd", Sgd::new(0.1).weight_decay(0.01).decay_vectors(true));
    check("sgd_momentum", Sgd::new(0.05).momentum(0.9).dampening(0.2).weight_decay(0.01).decay_vectors(true));
    check("sgd_nesterov", Sgd::new(0.05).momentum(0.9).nesterov(true));
}

#[test]
fn adam_and_its_kin() {
    check("adam", Adam::new(0.02).weight_decay(0.01).decay_vectors(true));
    check("adam_amsgrad", Adam::new(0.02).betas(0.8, 0.95).amsgrad(true));
    check("adamw", AdamW::new(0.02).weight_decay(0.1).decay_vectors(true));
    check("adamax", Adamax::new(0.02).weight_decay(0.01).decay_vectors(true));
    check("nadam", NAdam::new(0.02).weight_decay(0.01).decay_vectors(true));
    let nadam = NAdam::new(0.02).weight_decay(0.1).momentum_decay(0.02);
    check("nadam_decoupled", nadam.decoupled_weight_decay(true).decay_vectors(true));
    check("radam", RAdam::new(0.05).weight_decay(0.01).decay_vectors(true));
    let radam = RAdam::new(0.05).betas(0.8, 0.95).weight_decay(0.1);
    check("radam_decoupled", radam.decoupled_weight_decay(true).decay_vectors(true));
    check("lamb", Lamb::new(0.02).weight_decay(0.01).decay_vectors(true));
}

#[test]
fn optimizers_of_squares_and_signs() {
    check("rmsprop", RmsProp::new(0.01).weight_decay(0.01).decay_vectors(true));
    check("rmsprop_centered", RmsProp::new(0.005).alpha(0.95).momentum(0.8).centered(true));
    check("adagrad", Adagrad::new(0.1).lr_decay(0.02).initial_accumulator_value(0.1).weight_decay(0.01).decay_vectors(true));
    check("adadelta", Adadelta::new(1.0).weight_decay(0.01).decay_vectors(true));
    check("adafactor", Adafactor::new(0.1).weight_decay(0.1).decay_vectors(true));
    check("adafactor_clip", Adafactor::new(0.2).beta2_decay(-0.6).eps(Some(1e-3), 0.1).clip(2.0));
    check("lion", Lion::new(0.003).weight_decay(0.1).decay_vectors(true));
}

#[test]
fn matrices_made_orthogonal() {
    let vectors = AdamW::new(0.005).weight_decay(0.05).decay_vectors(true);
    check("muon", Muon::new(0.01).group("b", vectors.clone()));
    // What PyTorch's rounding to bf16 is worth.
    check_to("muon_bf16", Muon::new(0.01).group("b", vectors.clone()), 2e-2);
    check("muon_adamw", Muon::new(0.01).nesterov(false).ns_steps(3).match_rms_adamw(true).group("b", vectors));
    let error = compile_train(&program(), &Device::cpu(), Muon::new(0.1), &Config::default()).err().unwrap().to_string();
    assert!(error.contains("optimizer.b is f32[4]: Muon trains matrices only"), "{error}");
}

#[test]
fn clipping_accumulation_and_averages() {
    check("clip_norm", Sgd::new(0.1).clip_norm(0.3));
    check("clip_value", Sgd::new(0.1).clip_value(0.05));
    check("accumulate", AdamW::new(0.02).weight_decay(0.1).decay_vectors(true).clip_norm(0.3).accumulate(5));
    check("average", Sgd::new(0.1).average(0.9));
    check("accumulate_average", Sgd::new(0.1).momentum(0.9).dampening(0.5).accumulate(2).average(0.8).step_per_parameter(true));
}

/// All of it together, in the loop: groups, warm-up and cosine, clipping, accumulation, averages.
#[test]
fn a_whole_recipe() {
    let expected = expected("recipe");
    let whole = AdamW::new(0.02).weight_decay(0.0).group("v", AdamW::new(0.01).weight_decay(0.1));
    let optimizer: Optimizer = whole.clip_norm(0.3).accumulate(2).average(0.9).into();
    for device in devices() {
        let step = compile_train(&program(), &device, optimizer.clone(), &Config::default()).unwrap();
        let mut state = start(&step);
        let mut trainer = Trainer::new(step).steps(STEPS).schedule(Schedule::cosine_annealing(0.02, 0.0, 20).warmup(5));
        let run = trainer.run(&mut state, |done| (done + 1..).map(|k| Ok(batch(k)))).unwrap();
        let losses: Vec<f64> = run.history.losses().into_iter().map(|(_, loss)| loss).collect();
        near(&[0, 9, 24, 49].map(|k| losses[k]), &numbers(&expected["loss"]), 1e-5, "the loss");
        let averaged = state.averaged().unwrap();
        for p in ["w", "v", "b"] {
            near(&state.get(p).unwrap().to_f64(), &numbers(&expected[p]), 1e-5, p);
            near(&averaged.get(p).unwrap().to_f64(), &numbers(&expected["average"][p]), 1e-5, p);
        }
    }
}

/// One optimizer of each kind, with what makes its graph the largest.
fn every_kind() -> Vec<(&'static str, Optimizer)> {
    let vectors = AdamW::new(0.01);
    vec![
        ("sgd", Sgd::new(0.1).momentum(0.9).nesterov(true).weight_decay(0.1).into()),
        ("sgd_dampening", Sgd::new(0.1).momentum(0.9).dampening(0.5).clip_value(0.1).into()),
        ("adam", Adam::new(0.1).amsgrad(true).weight_decay(0.1).into()),
        ("adamw", AdamW::new(0.1).clip_norm(0.5).into()),
        ("adamax", Adamax::new(0.1).into()),
        ("nadam", NAdam::new(0.1).decoupled_weight_decay(true).weight_decay(0.1).into()),
        ("radam", RAdam::new(0.1).into()),
        ("rmsprop", RmsProp::new(0.1).momentum(0.9).centered(true).into()),
        ("adagrad", Adagrad::new(0.1).lr_decay(0.1).into()),
        ("adadelta", Adadelta::new(1.0).into()),
        ("adafactor", Adafactor::new(0.1).weight_decay(0.1).into()),
        ("lion", Lion::new(0.01).weight_decay(0.1).into()),
        ("lamb", Lamb::new(0.1).weight_decay(0.1).into()),
        ("muon", Muon::new(0.1).group("b", vectors).into()),
    ]
}

/// Kernels agree with the interpreter, and that with the graphs' definition, in every update.
#[test]
fn every_update_is_verified() {
    let config = Config { gradients: Gradients::Values, verify: Verify::Full, ..Config::default() };
    for device in devices() {
        for (name, optimizer) in every_kind() {
            let optimizer = Optimizer { accumulate: 2, average: Some(0.9), ..optimizer };
            let step = compile_train(&program(), &device, optimizer, &config).unwrap();
            let mut state = start(&step);
            for k in 1..=4 {
                let result = step.run(&mut state, batch(k)).and_then(|r| r.loss());
                assert!(result.is_ok(), "{name} on {device:?}: {result:?}");
            }
        }
    }
}

/// Updates without norms are one kernel for each parameter, and one for the numbers that all share.
#[test]
fn updates_fuse() {
    for (name, optimizer) in every_kind() {
        let most = match name {
            // Norms of the parameter and of its update; the products of the iteration.
            "adafactor" | "lamb" | "muon" | "adamw" => continue,
            // The product of momenta is state of each parameter.
            "nadam" => 3 + 1 + 3,
            _ => 3 + 1,
        };
        let step = compile_train(&program(), &Device::cpu(), optimizer, &Config::default()).unwrap();
        let kernels = step.explain().kernels;
        assert!(kernels.update <= most, "{name}: {kernels:?}");
    }
}

#[test]
fn groups_have_settings_of_their_own() {
    let optimizer = AdamW::new(0.02).weight_decay(0.1).decay_vectors(true).group("w", AdamW::new(0.01).weight_decay(0.0)).frozen("b");
    check("groups", optimizer);
    let faults: [(Optimizer, &str); 4] = [
        (AdamW::new(0.1).frozen("encoder").into(), "no parameter fits encoder; there are w, v, b"),
        (AdamW::new(0.1).group("w", AdamW::new(-1.0)).into(), "group w: the learning rate is -1"),
        (AdamW::new(0.1).group("w", AdamW::new(1.0).clip_norm(1.0)).into(), "group w: clipping, accumulation"),
        (AdamW::new(0.0).group("w", AdamW::new(1.0)).into(), "which is 0"),
    ];
    for (optimizer, part) in faults {
        let error = compile_train(&program(), &Device::cpu(), optimizer, &Config::default()).err().unwrap().to_string();
        assert!(error.contains(part), "{error}");
    }
}

fn names(step: &Step, role: InputRole) -> Vec<String> {
    step.plan().program.inputs.iter().filter(|i| i.role == role).map(|i| i.name.clone()).collect()
}

/// Neither a gradient nor state of what is frozen is in the plan, nor anything that only they need.
#[test]
fn what_is_frozen_costs_nothing() {
    let model = |frozen: bool| {
        trace("probe", |t| {
            if frozen {
                t.path("encoder").frozen("*");
            }
            let x = t.input("x", DType::F32, (16, 64));
            let h = nn::linear(&t.path("encoder"), &x, 128).relu();
            Ok(nn::linear(&t.path("head"), &h, 1).square().mean_all())
        })
        .unwrap()
    };
    let device = Device::cpu();
    let compiled = |traced: &Traced, optimizer: AdamW| compile_train(traced, &device, optimizer, &Config::default()).unwrap();
    let all = compiled(&model(false), AdamW::new(0.1));
    let probes = [
        compiled(&model(true), AdamW::new(0.1)),
        compiled(&model(false), AdamW::new(0.1).frozen("encoder")),
        compiled(&model(false).frozen("encoder").unwrap(), AdamW::new(0.1)),
    ];
    for probe in &probes {
        let head = ["weight", "bias"].map(|p| format!("optimizer.head.{p}"));
        assert_eq!(names(probe, InputRole::Optimizer), head.each_ref().map(|p| [format!("{p}.exp_avg"), format!("{p}.exp_avg_sq")]).concat());
        let (mine, whole) = (probe.explain(), all.explain());
        assert!(mine.kernels.total() < whole.kernels.total(), "{:?} kernels, {:?} with the encoder trained", mine.kernels, whole.kernels);
        let products = |step: &Step| step.plan().program.kernels.iter().filter(|k| k.to_string().contains("matmul")).count();
        assert!(products(probe) < products(&all), "the encoder's weight gradient is a product");
        let mut state = probe.init(3).unwrap();
        let before = ["encoder.weight", "encoder.bias", "head.weight"].map(|name| state.get(name).unwrap());
        probe.run(&mut state, [wave(&[16, 64], 1.1, 0.0)]).unwrap().loss().unwrap();
        let after = ["encoder.weight", "encoder.bias", "head.weight"].map(|name| state.get(name).unwrap());
        assert!(before[..2] == after[..2] && before[2] != after[2]);
    }
    assert_eq!(model(true).frozen_parameters(), ["encoder.weight", "encoder.bias"]);
    let line = line!() + 2;
    let error = trace("typo", |t| {
        t.frozen("encode");
        Ok(nn::linear(&t.path("encoder"), &t.input("x", DType::F32, (2, 3)), 1).mean_all())
    });
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("frozen: no parameter fits encode; there are encoder.weight, encoder.bias") && error.contains(&format!(":{line}")),
        "{error}"
    );
}

#[test]
fn gradients_of_a_step_are_read_without_another_program() {
    for device in devices() {
        let config = Config { gradients: Gradients::Values, ..Config::default() };
        let step = compile_train(&program(), &device, Sgd::new(0.1).clip_norm(1e-3), &config).unwrap();
        let pull = inductor::compile_vjp(&program(), &device, &Config::default()).unwrap();
        let mut state = start(&step);
        let [x, y] = batch(1);
        let expected = pull.run(&mut state, [&x, &y]).unwrap().gradients().unwrap();
        let result = step.run(&mut state, [&x, &y]).unwrap();
        let (found, norms) = (result.gradients().unwrap(), result.gradient_norms().unwrap());
        assert_eq!(found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["w", "v", "b"]);
        for ((name, gradient), (of, norm)) in found.iter().zip(&norms) {
            let other = &expected.iter().find(|(n, _)| n == name).unwrap().1;
            near(&gradient.to_f64(), &other.to_f64(), 1e-6, name);
            let by_hand = gradient.to_f64().iter().map(|x| x * x).sum::<f64>().sqrt();
            assert!(name == of && (norm - by_hand).abs() < 1e-6 * by_hand, "{norm} is not {by_hand}");
        }
        assert!(result.outputs().unwrap().len() == 1, "the loss alone");

        let config = Config { gradients: Gradients::Norms, ..Config::default() };
        let step = compile_train(&program(), &device, Sgd::new(0.1).accumulate(2), &config).unwrap();
        let has_values = step.plan().program.outputs.iter().any(|o| matches!(o.role, OutputRole::Gradient(_)));
        assert!(!has_values);
        let mut state = start(&step);
        let once = step.run(&mut state, [&x, &y]).unwrap().gradient_norms().unwrap();
        let twice = step.run(&mut state, [&x, &y]).unwrap().gradient_norms().unwrap();
        for (((_, a), (_, b)), (_, whole)) in once.iter().zip(&twice).zip(&norms) {
            assert!((a - whole / 2.0).abs() < 1e-6 && (b - whole).abs() < 1e-6, "shares of the mean: {a}, {b} of {whole}");
        }
    }
}

/// A checkpoint between two updates goes on with the share that there is.
#[test]
fn an_accumulation_is_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("half.safetensors");
    let optimizer = Adam::new(0.02).accumulate(3).average(0.5);
    let step = compile_train(&program(), &Device::cpu(), optimizer, &Config::default()).unwrap();
    let mut state = start(&step);
    for k in 1..=8 {
        step.run(&mut state, batch(k)).unwrap();
        if k < 3 {
            let averaged = state.averaged().unwrap().get("w").unwrap();
            assert!(averaged == state.get("w").unwrap() && averaged == wave(&[3, 4], 2.3, 0.5), "before the first update");
        }
        if k == 4 {
            state.save_checkpoint(&path).unwrap();
        }
    }
    let mut other = step.init(9).unwrap();
    other.load_checkpoint(&path).unwrap();
    (5..=8).for_each(|k| drop(step.run(&mut other, batch(k)).unwrap()));
    for name in state.names() {
        assert_eq!(state.get(&name).unwrap(), other.get(&name).unwrap(), "{name}");
    }
    assert_eq!((state.step(), other.step()), (8, 8));
}

#[test]
fn schedules() {
    let expected = expected("schedules");
    let (lr, steps) = (0.5, 60);
    let warm_then_cool =
        Schedule::Linear { from: 0.05, to: 0.5, steps: 9 }.then(9, Schedule::Constant(0.5).then(11, Schedule::Exponential { lr, factor: 0.9 }));
    let all = [
        ("linear", Schedule::Linear { from: 0.125, to: 0.375, steps: 20 }),
        ("cosine", Schedule::cosine_annealing(0.5, 0.05, 59)),
        ("restarts", Schedule::WarmRestarts { peak: lr, floor: 0.05, first: 7, factor: 2 }),
        ("one_cycle", Schedule::one_cycle(0.5, 60)),
        ("one_cycle_linear", Schedule::OneCycle { peak: lr, steps, rise: 0.4, start_divisor: 10.0, end_divisor: 100.0, linear: true }),
        ("step", Schedule::Step { lr, every: 7, factor: 0.5 }),
        ("multi_step", Schedule::MultiStep { lr, after: vec![5, 30, 31], factor: 0.1 }),
        ("exponential", Schedule::Exponential { lr, factor: 0.95 }),
        ("polynomial", Schedule::Polynomial { lr, steps: 40, power: 2.0 }),
        ("sequence", warm_then_cool),
    ];
    for (name, schedule) in all {
        let found: Vec<f64> = (1..=60).map(|step| schedule.lr(step)).collect();
        near(&found, &numbers(&expected[name]), 1e-8, name);
    }
    let metric = |k: u64| 1.0 / (1 + k.min(12)) as f64 + 0.02 * (k as f64).sin();
    let plateaus = [
        ("plateau", Plateau::new(lr, Goal::Smaller).factor(0.5).patience(3).cooldown(2).floor(0.02)),
        ("plateau_max", Plateau::new(lr, Goal::Larger).threshold(0.01, false).patience(5)),
    ];
    for (name, mut plateau) in plateaus {
        let found: Vec<f64> = (0..60).map(|k| plateau.observe(metric(k))).collect();
        near(&found, &numbers(&expected[name]), 1e-8, name);
    }
}

#[test]
fn a_warm_up_is_that_of_the_cosine() {
    let whole = Schedule::Cosine { peak: 2.0, floor: 0.5, warmup: 10, total: 50 };
    let parts = Schedule::cosine_annealing(2.0, 0.5, 40).warmup(10);
    (1..60).for_each(|step| assert!((whole.lr(step) - parts.lr(step)).abs() < 1e-12, "{step}"));
}
