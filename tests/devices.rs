//! The public interface on every device of this machine: the interpreter, and the software adapter or a GPU where there is one.

use inductor::compile::inductor_with_report;
use inductor::config::{Mode, Optimizer};
use inductor::graph::InputRole;
use inductor::loop_ir::Instr;
use inductor::models::{GptConfig, gpt, gpt_sized, mlp};
use inductor::optim::{AdamW, Sgd};
use inductor::runtime::replay;
use inductor::scalar::ScalarFn;
use inductor::types::TensorType;
use inductor::{
    Config, DType, Device, Dim, Error, HostTensor, Initializer, State, Step, Traced, Verify, compile, compile_train, compile_vjp, nn, trace,
};

/// The interpreter, and what else there is; what is missing is said.
fn devices() -> Vec<Device> {
    let mut out = vec![Device::cpu()];
    for (name, device) in [("gpu", Device::best()), ("software", Device::software())] {
        match device {
            Ok(device) => out.push(device),
            Err(error) => eprintln!("{name}: skipped, {error}"),
        }
    }
    out
}

fn spirals(batch: usize, step: u64) -> [HostTensor; 2] {
    let of = |i: usize, k: usize| ((i * 7 + k * 3 + step as usize * 11) % 17) as f32 / 8.0 - 1.0;
    let x: Vec<f32> = (0..batch * 8).map(|i| of(i / 8, i % 8)).collect();
    let y: Vec<i32> = (0..batch).map(|i| (i % 4) as i32).collect();
    [HostTensor::f32(&[batch, 8], &x), HostTensor::i32(&[batch], &y)]
}

fn losses(step: &Step, state: &mut State, from: u64, until: u64) -> Vec<f32> {
    (from..until).map(|k| step.run(state, spirals(16, k)).unwrap().loss().unwrap()).collect()
}

fn dropout_model() -> Traced {
    trace("dropped", |t| {
        let x = t.input("x", DType::F32, (16, 8));
        let y = t.input("y", DType::I32, 16);
        let h = nn::dropout(&t.path("dropout"), &nn::linear(&t.path("fc1"), &x, 32).relu(), 0.3);
        Ok(nn::linear(&t.path("fc2"), &h, 4).cross_entropy(&y))
    })
    .unwrap()
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| (x - y).abs() <= 1e-3 * y.abs().max(1e-3))
}

#[test]
fn devices_agree() {
    let traced = mlp(16, &[8, 32, 4]).unwrap();
    let mut reference: Option<Vec<f32>> = None;
    for device in devices() {
        for config in [Config::default(), Config { reuse: false, ..Config::default() }, Config { fuse: false, ..Config::default() }] {
            let step = compile_train(&traced, &device, AdamW::new(1e-2), &config).unwrap();
            let mut state = step.init(1).unwrap();
            step.poison_temporaries();
            let got: Vec<f32> = (0..10).map(|_| step.run(&mut state, spirals(16, 0)).unwrap().loss().unwrap()).collect();
            assert!(got[9] < got[0], "{device:?}: {got:?}");
            let want = reference.get_or_insert_with(|| got.clone());
            assert!(close(&got, want), "{device:?} {config:?}: {got:?} against {want:?}");
        }
    }
}

/// One program for all sizes trains as a program of each size does on the interpreter.
#[test]
fn a_program_of_symbolic_sizes_trains_at_any_size() {
    let config = GptConfig { layers: 1, width: 32, heads: 2, context: 37, batch: 3, ..GptConfig::small(11) };
    let symbolic = gpt_sized(&config, Dim::symbol("batch", 1, 64), Dim::symbol("time", 1, 37)).unwrap();
    let tokens = |batch: usize, time: usize, by: usize| {
        let values: Vec<i32> = (0..batch * time).map(|i| (i * by % 11) as i32).collect();
        HostTensor::i32(&[batch, time], &values)
    };
    let train = |traced: &Traced, device: &Device, batch: usize, time: usize| -> Vec<f32> {
        let step = compile_train(traced, device, AdamW::new(1e-2), &Config::default()).unwrap();
        let mut state = step.init(1).unwrap();
        (0..3).map(|_| step.run(&mut state, [tokens(batch, time, 5), tokens(batch, time, 3)]).unwrap().loss().unwrap()).collect()
    };
    for (batch, time) in [(1, 1), (3, 37), (64, 25)] {
        let want = train(&gpt_sized(&config, batch as i64, time as i64).unwrap(), &Device::cpu(), batch, time);
        for device in devices() {
            let got = train(&symbolic, &device, batch, time);
            assert!(close(&got, &want), "{device:?} {batch} x {time}: {got:?} against {want:?}");
        }
    }
}

#[test]
fn verification_passes_what_is_right() {
    let tiny = GptConfig { layers: 1, width: 16, heads: 2, context: 8, batch: 2, ..GptConfig::small(11) };
    let traced = gpt(&tiny).unwrap();
    let tokens: Vec<i32> = (0..16).map(|i| i * 5 % 11).collect();
    let tokens = HostTensor::i32(&[2, 8], &tokens);
    for device in devices() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { verify: Verify::Full, dump: Some(folder.path().into()), ..Config::default() };
        let step = compile_train(&traced, &device, AdamW::new(1e-2), &config).unwrap();
        let mut state = step.init(1).unwrap();
        for _ in 0..3 {
            step.run(&mut state, [&tokens, &tokens]).and_then(|r| r.loss()).unwrap_or_else(|e| panic!("{device:?}: {e}"));
        }
    }
}

/// A wrong fusion is planted: one scalar function of a scheduled kernel becomes another.
#[test]
fn verification_names_a_wrong_fusion() {
    let traced = mlp(16, &[8, 32, 4]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let device = Device::cpu();
    let config = Config { mode: Mode::Train(Sgd::new(0.1).into()), verify: Verify::Full, dump: Some(folder.path().into()), ..Config::default() };
    let graph = &traced.graph;
    let examples: Vec<TensorType> = graph.inputs.iter().map(|i| graph.ty(i.value).clone()).collect();
    let (mut plan, report) = inductor_with_report(graph, &examples, &device.target(), &config).unwrap();
    let is_relu = |i: &Instr| matches!(i, Instr::Call(ScalarFn::Relu, _));
    let wrong = plan.program.kernels.iter().position(|k| k.body.iter().any(|s| is_relu(&s.instr))).unwrap();
    for stmt in &mut plan.program.kernels[wrong].body {
        if let Instr::Call(f @ ScalarFn::Relu, _) = &mut stmt.instr {
            *f = ScalarFn::Neg;
        }
    }
    let step = Step::new(plan, report, &traced, &device, &config).unwrap();
    let mut state = step.init(1).unwrap();
    let before = state.get("0.weight").or_else(|_| state.get(&state.names()[0])).unwrap();
    let error = step.run(&mut state, spirals(16, 0)).err().expect("refused").to_string();
    assert!(error.contains(&format!("kernel {wrong}, ops ")) && error.contains("models.rs"), "{error}");
    assert_eq!(state.step(), 0);
    assert_eq!(state.get("0.weight").or_else(|_| state.get(&state.names()[0])).unwrap(), before);
    let replayed = replay(&folder.path().join("mlp-program"), &device).unwrap();
    // The text of a graph carries no source lines.
    let command = replayed.recorded.split(": ").next().unwrap();
    assert!(replayed.difference.as_ref().is_some_and(|d| d.starts_with(command)), "{replayed:?}");
}

/// A device without 64-bit integers computes what fits 32 bits, and refuses what does not: nothing wraps.
#[test]
fn what_leaves_32_bits_is_refused_where_there_are_no_more() {
    let program = |name: &str, f: &dyn Fn(&inductor::Tensor) -> inductor::Tensor| trace(name, |t| Ok(f(&t.input("x", DType::I32, 5)))).unwrap();
    let wide = |x: &inductor::Tensor| x.cast(DType::I64);
    let programs = [
        program("product", &|x| wide(x) * 1_000_000_007.0),
        program("sum", &|x| wide(x).sum([0])),
        program("running sum", &|x| wide(x).cumsum(0)),
        program("difference", &|x| wide(x) - 2_000_000_000.0),
        program("square", &|x| wide(x) * wide(x)),
    ];
    for device in devices() {
        let mut target = device.target();
        target.caps.i64 = false;
        for traced in &programs {
            let examples: Vec<TensorType> = traced.graph.inputs.iter().map(|i| traced.graph.ty(i.value).clone()).collect();
            let (plan, report) = inductor_with_report(&traced.graph, &examples, &target, &Config::default()).unwrap();
            let step = Step::new(plan, report, traced, &device, &Config::default()).unwrap();
            let run = |data: [i64; 5]| {
                let x = HostTensor::from_i64(DType::I32, &[5], &data);
                step.run(&mut step.init(0).unwrap(), [&x]).and_then(|result| result.outputs())
            };
            let whole = compile(traced, &Device::cpu(), &Config::default()).unwrap();
            let small = HostTensor::from_i64(DType::I32, &[5], &[1, -2, 0, 2, -1]);
            let expected = whole.run(&mut whole.init(0).unwrap(), [&small]).unwrap().outputs().unwrap();
            let name = &traced.graph.name;
            assert_eq!(run([1, -2, 0, 2, -1]).unwrap(), expected, "{name} {device:?}");
            let error = run([i32::MIN as i64, i32::MIN as i64, 3, 4, 5]).expect_err(name).to_string();
            assert!(error.contains("leaves 32 bits") && error.contains("devices.rs"), "{name} {device:?}: {error}");
        }
    }
}

#[test]
fn resuming_continues_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint.safetensors");
    let traced = dropout_model();
    for device in devices() {
        let step = compile_train(&traced, &device, AdamW::new(1e-2), &Config::default()).unwrap();
        let mut whole = step.init(3).unwrap();
        let expected = losses(&step, &mut whole, 0, 6);
        let mut first = step.init(3).unwrap();
        losses(&step, &mut first, 0, 3);
        first.save_checkpoint(&path).unwrap();
        let again = compile_train(&traced, &device, AdamW::new(1e-2), &Config::default()).unwrap();
        let mut resumed = again.init(99).unwrap();
        resumed.load_checkpoint(&path).unwrap();
        assert_eq!(losses(&again, &mut resumed, 3, 6), expected[3..], "{device:?}");
    }
}

#[test]
fn training_and_evaluation_share_a_state() {
    let traced = mlp(16, &[8, 32, 4]).unwrap();
    for device in devices() {
        let train = compile_train(&traced, &device, Sgd::new(0.1).momentum(0.9), &Config::default()).unwrap();
        let evaluate = compile(&traced, &device, &Config::default()).unwrap();
        let mut state = evaluate.init(1).unwrap();
        for k in 0..3 {
            let before = evaluate.run(&mut state, spirals(16, k)).unwrap().loss().unwrap();
            let loss = train.run(&mut state, spirals(16, k)).unwrap().loss().unwrap();
            // The same forward through the same compiler: bitwise on the interpreter.
            assert!(if device.is_cpu() { before == loss } else { close(&[before], &[loss]) }, "{device:?}: {before} and {loss}");
        }
        assert_eq!(state.step(), 3);
    }
}

/// A GPT with dropout: inference computes what a training step computes with dropout off, bit for bit on the interpreter, and
/// within the accuracy rule's floor of f32 elsewhere.
#[test]
fn inference_is_the_training_forward_without_dropout() {
    let config = GptConfig { layers: 2, width: 24, heads: 3, context: 7, batch: 3, dropout: 0.2, ..GptConfig::small(11) };
    let with_dropout = gpt(&config).unwrap();
    let off = gpt(&GptConfig { dropout: 0.0, ..config }).unwrap();
    let tokens = |k: i32| HostTensor::i32(&[3, 7], &(0..21).map(|i| (i * 5 + k) % 11).collect::<Vec<_>>());
    let mut reference: Option<Vec<f32>> = None;
    for device in devices() {
        let train = compile_train(&off, &device, AdamW::new(1e-2), &Config::default()).unwrap();
        let steps = [&with_dropout, &off].map(|t| compile(t, &device, &Config::default()).unwrap());
        let mut state = train.init(5).unwrap();
        let mut seen = vec![];
        for k in 0..3 {
            let inputs = [tokens(k), tokens(k + 1)];
            let infer = steps.each_ref().map(|s| s.run(&mut state, inputs.clone()).unwrap().loss().unwrap());
            let loss = train.run(&mut state, inputs).unwrap().loss().unwrap();
            for got in infer {
                let equal = if device.is_cpu() { got.to_bits() == loss.to_bits() } else { (got - loss).abs() <= 1e-5 * loss.abs() };
                assert!(equal, "{device:?}, step {k}: {got} and {loss}");
            }
            seen.push(loss);
        }
        let want = reference.get_or_insert_with(|| seen.clone());
        assert!(close(&seen, want), "{device:?}: {seen:?} against {want:?}");
    }
}

#[test]
fn one_plan_runs_every_batch_size() {
    let traced = mlp(Dim::symbol("batch", 1, 64), &[8, 32, 4]).unwrap();
    for device in devices() {
        let step = compile_train(&traced, &device, Sgd::new(0.1), &Config::default()).unwrap();
        let mut state = step.init(1).unwrap();
        for batch in [16, 3, 64, 1] {
            let fixed = compile_train(&mlp(batch, &[8, 32, 4]).unwrap(), &device, Sgd::new(0.1), &Config::default()).unwrap();
            let mut other = fixed.init(0).unwrap();
            for name in other.names_of(InputRole::Parameter) {
                other.set(&name, state.get(&name).unwrap()).unwrap();
            }
            let want = fixed.run(&mut other, spirals(batch, 0)).unwrap().loss().unwrap();
            let got = step.run(&mut state, spirals(batch, 0)).unwrap().loss().unwrap();
            assert!(close(&[got], &[want]), "{device:?} {batch}: {got} against {want}");
        }
        assert!(matches!(step.run(&mut state, spirals(65, 0)), Err(Error::Input(_))));
    }
}

/// Mesa's driver for the CPU ends loops behind 65,535 steps and says nothing.
#[test]
fn loops_that_a_driver_ends_take_another_form() {
    let n = 140_003;
    let traced = trace("long", |t| {
        let x = t.input("x", DType::F32, (1, n));
        let (row, index) = (x.reshape(n), t.input("index", DType::I32, n));
        let scattered = t.zeros(DType::F32, 3).index_add(0, &index, &row);
        let columns = x.transpose(0, 1).expand((n, 2)).cumsum(0);
        let products = (1.0 + 1e-4 * (&row - 1.0)).cumprod(0);
        Ok(vec![x.sum([1]) + x.amax([1]), scattered, columns.slice(0, n - 1, n), products.slice(0, n - 1, n), x.eq(2.0).cast(DType::F32).sum([1])])
    })
    .unwrap();
    let x: Vec<f32> = (0..n).map(|k| (k % 3) as f32).collect();
    let index: Vec<i32> = (0..n).map(|k| (k % 3) as i32).collect();
    let product = x.iter().fold(1f64, |p, x| p * (1.0 + 1e-4 * (*x as f64 - 1.0)));
    let sum = x.iter().sum::<f32>() as f64;
    let of = |k: f32| x.iter().filter(|x| **x == k).count() as f64;
    for device in devices() {
        let step = compile(&traced, &device, &Config::default()).unwrap();
        let tensors = [HostTensor::f32(&[1, n], &x), HostTensor::i32(&[n], &index)];
        let found = step.run(&mut step.init(0).unwrap(), &tensors[..]).unwrap().outputs().unwrap();
        let found: Vec<Vec<f64>> = found.iter().map(|(_, y)| y.to_f64()).collect();
        assert_eq!(found[..3], [vec![sum + 2.0], vec![0.0, of(1.0), 2.0 * of(2.0)], vec![sum, sum]], "{device:?}");
        assert!((found[3][0] / product - 1.0).abs() < 1e-3, "{device:?}: {} for {product}", found[3][0]);
        assert_eq!(found[4], [of(2.0)]);
    }
}

/// Parts of a scan in order need a known length.
#[test]
fn loops_that_a_driver_ends_are_refused_where_sizes_are_symbolic() {
    let traced = trace("products", |t| Ok(t.input("x", DType::F32, Dim::symbol("n", 1, 1 << 20)).cumprod(0))).unwrap();
    for device in devices().into_iter().filter(|d| d.target().caps.max_steps.is_some()) {
        let step = compile(&traced, &device, &Config::default()).unwrap();
        let run = |n: usize| step.run(&mut step.init(0).unwrap(), [&HostTensor::f32(&[n], &vec![1.0; n])]).map(drop);
        assert!(run(1000).is_ok());
        let error = run(70_001).expect_err("one invocation multiplies all of a row");
        assert!(error.to_string().contains("loops take 70001 steps"), "{error}");
    }
}

#[test]
fn bad_steps_are_refused_and_change_nothing() {
    let traced = mlp(16, &[8, 32, 4]).unwrap();
    for device in devices() {
        let step = compile_train(&traced, &device, AdamW::new(1e-2), &Config { check_gradients: true, ..Config::default() }).unwrap();
        let mut state = step.init(1).unwrap();
        losses(&step, &mut state, 0, 2);
        let [x, y] = spirals(16, 0);
        let kept: Vec<HostTensor> = state.names().iter().map(|n| state.get(n).unwrap()).collect();
        let mut labels = [0i32; 16];
        labels[5] = 4;
        let mut fault = |x: &HostTensor, y: &HostTensor| {
            let loss = step.run(&mut state, [x, y]).and_then(|r| r.loss());
            loss.err().unwrap_or_else(|| panic!("{device:?}: the step was not refused: {x:?} {y:?}"))
        };
        assert!(matches!(fault(&x, &HostTensor::i32(&[16], &labels)), Error::Input(_)));
        assert!(matches!(fault(&HostTensor::f32(&[16, 8], &[f32::INFINITY; 128]), &y), Error::Input(_)));
        let e = fault(&HostTensor::f32(&[16, 8], &[f32::MAX; 128]), &y);
        assert!(matches!(e, Error::Step(_)), "{e}");
        assert!(matches!(fault(&y, &x), Error::Input(_)));
        assert_eq!(state.step(), 2);
        for (name, before) in state.names().iter().zip(&kept) {
            assert_eq!(&state.get(name).unwrap(), before, "{device:?}: {name}");
        }
    }
}

/// One gradient is infinite, and each optimizer's update reads it in another kernel: none may be written.
#[test]
fn infinite_gradients_are_seen_by_every_optimizer() {
    let traced = trace("log", |t| {
        let x = t.input("x", DType::F32, 5);
        let w = t.parameter("w", DType::F32, 5, Initializer::Constant(1.0));
        Ok((&w.log() * &x).sum_all())
    })
    .unwrap();
    let start = HostTensor::f32(&[5], &[1.0, 2.0, 0.0, 3.0, 4.0]);
    let x = HostTensor::f32(&[5], &[1.0; 5]);
    for device in devices() {
        for optimizer in [Optimizer::from(Sgd::new(0.1)), Sgd::new(0.1).momentum(0.9).into(), AdamW::new(0.1).into()] {
            let config = Config { check_gradients: true, ..Config::default() };
            let step = compile_train(&traced, &device, optimizer.clone(), &config).unwrap();
            let mut state = step.init(0).unwrap();
            state.set("w", start.clone()).unwrap();
            let error = step.run(&mut state, [&x]).and_then(|r| r.loss()).unwrap_err();
            assert!(error.to_string().contains("not finite"), "{device:?} {optimizer:?}: {error}");
            assert_eq!((state.get("w").unwrap(), state.step()), (start.clone(), 0), "{device:?} {optimizer:?}");
        }
    }
}

#[test]
fn cotangents_give_gradients() {
    let traced = inductor::trace_eval("scaled", |t| {
        let x = t.input("x", DType::F32, 3);
        let w = t.parameter("w", DType::F32, 3, Initializer::Constant(2.0));
        Ok(vec![("y", &x * &w)])
    })
    .unwrap();
    for device in devices() {
        let step = compile_vjp(&traced, &device, &Config::default()).unwrap();
        let mut state = step.init(1).unwrap();
        let x = HostTensor::f32(&[3], &[1.0, 2.0, 3.0]);
        let result = step.run(&mut state, [("x", &x), ("cotangent.y", &HostTensor::f32(&[3], &[1.0, 10.0, 100.0]))]).unwrap();
        let gradients = result.gradients().unwrap();
        let of = |name: &str| gradients.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{name} of {gradients:?}")).1.to_f32();
        assert_eq!(of("x"), [2.0, 20.0, 200.0], "{device:?}");
        assert_eq!(of("w"), [1.0, 20.0, 300.0]);
        assert_eq!(result.output("y").unwrap().to_f32(), [2.0, 4.0, 6.0]);
    }
}

/// Every form of a product is measured, one that is kept is used, and gives the same numbers.
#[test]
fn measured_forms_are_used() {
    let traced = inductor::trace_eval("product", |t| {
        let x = t.parameter("x", DType::F32, (70, 50), Initializer::Normal { std: 1.0 });
        let y = t.parameter("y", DType::F32, (50, 90), Initializer::Normal { std: 1.0 });
        Ok(vec![("z", x.matmul(&y))])
    })
    .unwrap();
    let examples: Vec<TensorType> = vec![];
    for device in devices() {
        if device.is_cpu() {
            assert!(device.tune(&traced, &Config::default(), &[]).is_err());
            continue;
        }
        let (_, kernels) = device.tune(&traced, &Config::default(), &[]).unwrap();
        let [kernel] = &kernels[..] else { panic!("{kernels:?}") };
        assert!(kernel.forms.len() > 1 && kernel.forms.iter().all(|(_, us)| *us > 0.0), "{kernels:?}");
        let run = |device: &Device| {
            let step = compile(&traced, device, &Config::default()).unwrap();
            let z = step.run(&mut step.init(1).unwrap(), ()).unwrap().output("z").unwrap().to_f32();
            (step.plan().program.forms[0].clone(), z)
        };
        let (plan, _) = inductor_with_report(&traced.graph, &examples, &device.target(), &Config::default()).unwrap();
        // The device may have been tuned before, to whatever was the fastest then: another form is kept here.
        let (chosen, z) = run(&device);
        let other = kernel.forms.iter().rev().map(|(form, _)| form).find(|form| **form != chosen).unwrap();
        let mut tuning = inductor::types::Tuning::default();
        tuning.keep(inductor::schedule::kernel_hashes(&plan.program)[0].clone(), inductor::schedule::form_text(other));
        let (used, same) = run(&device.tuned(&tuning).unwrap());
        assert!(&used == other && used != chosen);
        assert!(z.iter().zip(&same).all(|(a, b)| (a - b).abs() <= 1e-4));
    }
}
