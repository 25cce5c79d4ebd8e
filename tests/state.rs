//! One state under several programs: optimizers, random keys, refused steps, checkpoints, and what is not trained.

use inductor::optim::{Adam, AdamW, Sgd};
use inductor::runtime::{checkpoint_notes, load_tensors, save_tensors};
use inductor::{
    Config, DType, Device, Error, HostTensor, Initializer, State, Step, Tensor, Trace, compile, compile_train, compile_vjp, trace, trace_eval,
};
use std::path::Path;

fn devices() -> Vec<Device> {
    let mut out = vec![Device::cpu()];
    match Device::software() {
        Ok(device) => out.push(device),
        Err(error) => eprintln!("software adapter: skipped, {error}"),
    }
    out
}

const X: [f32; 3] = [1.0, -2.0, 0.5];

fn x() -> HostTensor {
    HostTensor::f32(&[3], &X)
}

/// A parameter of three elements, zero until the test sets it.
fn weight(t: &Trace, name: &str) -> Tensor {
    t.parameter(name, DType::F32, 3, Initializer::Zeros)
}

fn program(device: &Device, optimizer: impl Into<inductor::config::Optimizer>, loss: impl FnOnce(&Trace, &Tensor) -> Tensor) -> Step {
    let traced = trace("program", |t| Ok(loss(t, &t.input("x", DType::F32, 3)).square().sum_all())).unwrap();
    compile_train(&traced, device, optimizer, &Config::default()).unwrap()
}

fn set(state: &mut State, name: &str, values: [f32; 3]) {
    state.set(name, HostTensor::f32(&[3], &values)).unwrap();
}

fn train(step: &Step, state: &mut State) {
    step.run(state, [&x()]).unwrap().loss().unwrap();
}

#[track_caller]
fn near(state: &State, name: &str, expected: [f32; 3]) {
    let found = state.get(name).unwrap().to_f32();
    let far = found.iter().zip(expected).any(|(a, b)| (a - b).abs() > 2e-6);
    assert!(!far, "{name} is {found:?}, PyTorch has {expected:?}");
}

/// The two programs of a GAN: each updates its own parameters, and reads the other's.
fn gan(device: &Device) -> [Step; 2] {
    let made = |t: &Trace, x: &Tensor| (weight(t, "d"), weight(t, "g") * x);
    [
        program(device, Adam::new(0.05), |t, x| {
            let (d, fake) = made(t, x);
            d * fake.detach() - 1.0
        }),
        program(device, Adam::new(0.1).betas(0.5, 0.9), |t, x| {
            let (d, fake) = made(t, x);
            d.detach() * fake - 2.0
        }),
    ]
}

/// Numbers of `torch.optim.Adam`, one optimizer for each of `d` and `g`.
#[test]
fn two_optimizers_of_one_state_count_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gan.safetensors");
    for device in devices() {
        let [critic, generator] = gan(&device);
        let look = trace_eval("look", |t| Ok(weight(t, "g") * weight(t, "d"))).unwrap();
        let look = compile(&look, &device, &Config::default()).unwrap();
        let mut state = critic.init(1).unwrap();
        set(&mut state, "g", [0.5, -0.3, 0.8]);
        set(&mut state, "d", [0.2, 0.4, -0.6]);
        for round in 0..3 {
            train(&critic, &mut state);
            look.run(&mut state, ()).unwrap().outputs().unwrap();
            train(&generator, &mut state);
            if round == 1 {
                state.save_checkpoint(&path).unwrap();
                // The generator has not run with this one.
                state = critic.init(7).unwrap();
                state.load_checkpoint(&path).unwrap();
            }
        }
        assert_eq!(state.step(), 6);
        near(&state, "g", [0.8059568, -0.600724, 0.5064505]);
        near(&state, "d", [0.3502434, 0.5501581, -0.451543]);
    }
}

/// Numbers of one `torch.optim.Adam` that steps on two losses, and of two optimizers over one parameter.
#[test]
fn optimizers_of_the_same_parameters_share_their_moments_or_have_names() {
    for device in devices() {
        let fit = |t: &Trace, x: &Tensor| weight(t, "w") * x - 1.0;
        let follow = |t: &Trace, x: &Tensor| weight(t, "w") - x;
        let (a, b) = (program(&device, Adam::new(0.05), fit), program(&device, Adam::new(0.05), follow));
        let mut state = a.init(1).unwrap();
        set(&mut state, "w", [0.5, -0.3, 0.8]);
        for _ in 0..3 {
            train(&a, &mut state);
            train(&b, &mut state);
        }
        near(&state, "w", [0.7928818, -0.5688781, 0.847155]);

        let other = AdamW::new(0.02).betas(0.8, 0.99).weight_decay(0.1).decay_vectors(true).named("other");
        let b = program(&device, other, follow);
        let mut state = a.init(1).unwrap();
        set(&mut state, "w", [0.5, -0.3, 0.8]);
        for round in 0..3 {
            train(&a, &mut state);
            if round != 1 {
                train(&b, &mut state);
            }
        }
        assert!(state.names().contains(&"optimizer[other].w.exp_avg".to_string()), "{:?}", state.names());
        near(&state, "w", [0.6859239, -0.4824693, 0.9061607]);
    }
}

/// One `torch.optim.Adam` over a trunk and two heads, of which each loss reaches one.
#[test]
fn parameters_that_were_updated_more_often_than_others() {
    for device in devices() {
        let head = |name: &'static str, to: f64| move |t: &Trace, x: &Tensor| weight(t, "trunk") * weight(t, name) * x - to;
        let start = |step: &Step| {
            let mut state = step.init(1).unwrap();
            for (name, values) in [("trunk", [0.5, -0.3, 0.8]), ("first", [0.2, 0.4, -0.6]), ("second", [0.1, -0.4, 0.3])] {
                set(&mut state, name, values);
            }
            state
        };
        let both = trace("both", |t| Ok((weight(t, "trunk") + weight(t, "first") + weight(t, "second")).sum_all())).unwrap();
        let both = compile_train(&both, &device, Sgd::new(0.0), &Config::default()).unwrap();
        let optimizer = Adam::new(0.05).step_per_parameter(true);
        let (a, b) = (program(&device, optimizer.clone(), head("first", 1.0)), program(&device, optimizer, head("second", 2.0)));
        let mut state = start(&both);
        for step in [&a, &a, &b, &a] {
            train(step, &mut state);
        }
        near(&state, "trunk", [0.7002094, -0.3858366, 0.6566079]);
        near(&state, "first", [0.3502166, 0.550105, -0.4507358]);
        near(&state, "second", [0.15, -0.35, 0.35]);

        // One count for all would be wrong, and is not taken.
        let (a, b) = (program(&device, Adam::new(0.05), head("first", 1.0)), program(&device, Adam::new(0.05), head("second", 2.0)));
        let mut state = start(&both);
        train(&a, &mut state);
        let error = b.run(&mut state, [&x()]).err().expect("refused").to_string();
        for part in ["optimizer.trunk was updated 1 times", "optimizer.second 0 times", "step_per_parameter", "named"] {
            assert!(error.contains(part), "{part} is missing in {error}");
        }
        assert_eq!(state.step(), 1);
    }
}

/// Keys of inference and of given cotangents move as those of training do, and training's do not depend on them.
#[test]
fn every_run_draws_anew_and_equal_seeds_draw_equally() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.safetensors");
    let mut all = vec![];
    for device in devices() {
        let noise = |t: &Trace| t.key().uniform(4) - t.key().uniform(4);
        let sampler = compile(&trace_eval("sampler", |t| Ok(vec![noise(t)])).unwrap(), &device, &Config::default()).unwrap();
        let scaled = trace("scaled", |t| Ok((t.input("x", DType::F32, 4) * noise(t)).sum_all())).unwrap();
        let pull = compile_vjp(&scaled, &device, &Config::default()).unwrap();
        let noisy = trace("noisy", |t| Ok((t.parameter("w", DType::F32, 4, Initializer::Ones) * noise(t)).sum_all())).unwrap();
        let step = compile_train(&noisy, &device, Sgd::new(0.1), &Config::default()).unwrap();
        let ones = HostTensor::f32(&[4], &[1.0; 4]);
        let draw = |state: &mut State| sampler.run(state, ()).unwrap().outputs().unwrap()[0].1.to_f32();
        let pulled = |state: &mut State| pull.run(state, [&ones]).unwrap().gradients().unwrap()[0].1.to_f32();
        let trained = |state: &mut State| step.run(state, ()).unwrap().loss().unwrap();

        let mut a = step.init(5).unwrap();
        let losses = [trained(&mut a), trained(&mut a)];
        let weights = a.get("w").unwrap();
        let mut b = step.init(5).unwrap();
        let mut drawn = vec![draw(&mut b), draw(&mut b)];
        assert_eq!(trained(&mut b), losses[0], "training does not depend on what was drawn in between");
        drawn.push(pulled(&mut b));
        b.save_checkpoint(&path).unwrap();
        drawn.extend([pulled(&mut b), draw(&mut b)]);
        assert_eq!((trained(&mut b), b.get("w").unwrap()), (losses[1], weights));
        for (i, x) in drawn.iter().enumerate() {
            assert!(!drawn[..i].contains(x), "run {i} drew what a run before it drew");
        }
        let mut c = step.init(99).unwrap();
        c.load_checkpoint(&path).unwrap();
        assert_eq!([pulled(&mut c), draw(&mut c)], drawn[3..], "a checkpoint goes on where it was");
        let mut other = step.init(6).unwrap();
        assert_ne!(draw(&mut other), drawn[0]);
        all.push(drawn);
    }
    assert!(all.windows(2).all(|w| w[0] == w[1]), "devices differ");
}

/// A program recorded for training is an inference program, or says why not.
#[test]
fn training_programs_at_inference() {
    let norm = |t: &Trace| {
        let x = t.input("x", DType::F32, (4, 3));
        let mean = t.buffer("mean", DType::F32, 3, Initializer::Zeros);
        if t.training() {
            let batch = x.mean([0]);
            t.update_buffer("mean", &(&mean * 0.9 + &batch * 0.1));
            x - batch
        } else {
            x - mean
        }
    };
    let device = Device::cpu();
    let training = trace("norm", |t| Ok((weight(t, "w") * norm(t)).sum_all())).unwrap();
    let error = compile(&training, &device, &Config::default()).err().expect("refused");
    assert!(matches!(error, Error::Trace(_)), "{error}");
    for part in ["1 fault:", "asks whether it is recorded for training", "trace_eval", "state.rs:"] {
        assert!(error.to_string().contains(part), "{part} is missing in {error}");
    }
    let step = compile_train(&training, &device, Sgd::new(0.1), &Config::default()).unwrap();
    let mut state = step.init(1).unwrap();
    let rows = HostTensor::f32(&[4, 3], &[1.0; 12]);
    step.run(&mut state, [&rows]).unwrap().loss().unwrap();
    let moved = state.get("mean").unwrap();
    assert!(moved.to_f32().iter().all(|m| (m - 0.1).abs() < 1e-6));

    let inference = compile(&trace_eval("norm", |t| Ok(vec![norm(t)])).unwrap(), &device, &Config::default()).unwrap();
    let y = inference.run(&mut state, [&rows]).unwrap().outputs().unwrap()[0].1.to_f32();
    assert!(y.iter().all(|y| (y - 0.9).abs() < 1e-6), "{y:?}");
    assert_eq!(state.get("mean").unwrap(), moved, "nothing moves at inference");
    // Dropout of the library needs no second recording.
    let dropped = trace("dropped", |t| Ok(inductor::nn::dropout(&t.path("drop"), &t.input("x", DType::F32, 8), 0.5))).unwrap();
    let eight = HostTensor::f32(&[8], &[1.0; 8]);
    let step = compile(&dropped, &device, &Config::default()).unwrap();
    assert_eq!(step.run(&mut step.init(1).unwrap(), [&eight]).unwrap().outputs().unwrap()[0].1, eight);
}

/// A table read at an index that only the device knows.
fn lookup(device: &Device) -> Step {
    let traced = trace("lookup", |t| {
        let table = t.parameter("table", DType::F32, (5, 2), Initializer::Ones);
        let at = t.input("at", DType::I32, 3) + t.input("shift", DType::I32, 3);
        Ok(at.embedding(&table).square().sum_all())
    });
    compile_train(&traced.unwrap(), device, Adam::new(0.1), &Config::default()).unwrap()
}

#[test]
fn a_refused_step_whose_result_is_dropped_is_reported_and_does_not_count() {
    let at = |i: i32| [HostTensor::i32(&[3], &[0, 1, i]), HostTensor::i32(&[3], &[1; 3])];
    for device in devices() {
        let step = lookup(&device);
        let mut state = step.init(1).unwrap();
        step.run(&mut state, at(2)).unwrap().loss().unwrap();
        let before = state.get("table").unwrap();
        let report = match step.run(&mut state, at(4)) {
            // The interpreter knows at once.
            Err(error) => error.to_string(),
            Ok(unread) => {
                drop(unread);
                assert_eq!(state.step(), 1, "{device:?}");
                let error = step.run(&mut state, at(2)).err().expect("the next run reports").to_string();
                assert!(error.contains("step 2 of lookup, whose result was dropped unread"), "{error}");
                error
            }
        };
        assert!(report.starts_with("step refused: ") && report.contains("outside 0..5"), "{report}");
        assert_eq!((state.step(), state.get("table").unwrap()), (1, before));
        // Reported once; bias correction goes on with the second update, as without the refusal.
        step.run(&mut state, at(2)).unwrap().loss().unwrap();
        let mut fresh = step.init(1).unwrap();
        for _ in 0..2 {
            step.run(&mut fresh, at(2)).unwrap().loss().unwrap();
        }
        assert_eq!((state.step(), state.get("table").unwrap()), (2, fresh.get("table").unwrap()));
        // A refusal that was read is not reported again, and the pipelined loop learns of its own.
        let queued = step.run(&mut state, at(4));
        let next = step.run(&mut state, at(2)).unwrap();
        assert!(queued.and_then(|r| r.loss()).is_err());
        next.loss().unwrap();
        assert_eq!(state.step(), 3);
        step.run(&mut state, at(2)).unwrap().loss().unwrap();
    }
}

/// Each bit of a checkpoint matters: a file with one flipped is refused, and nothing changes.
#[test]
fn damaged_checkpoints_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (folder.path().join("good.safetensors"), folder.path().join("bad.safetensors"));
    let [critic, _] = gan(&Device::cpu());
    let mut state = critic.init(3).unwrap();
    state.note("lr", 0.05);
    train(&critic, &mut state);
    state.save_checkpoint(&good).unwrap();
    let bytes = std::fs::read(&good).unwrap();
    let before = contents(&state);
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        std::fs::write(&bad, damaged).unwrap();
        let refused = state.load_checkpoint(&bad).is_err();
        assert!(refused && contents(&state) == before, "byte {at} of {}", bytes.len());
    }
    state.load_checkpoint(&good).unwrap();
    assert_eq!(contents(&state), before);
}

fn contents(state: &State) -> Vec<(String, HostTensor)> {
    state.names().into_iter().map(|n| (n.clone(), state.get(&n).unwrap())).collect()
}

/// Rewrites the metadata of a checkpoint, as an older version or another program would have written it.
fn with_metadata(from: &Path, to: &Path, metadata: &[(&str, &str)]) {
    let (tensors, _) = load_tensors(from).unwrap();
    let metadata = metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    save_tensors(to, &tensors, Some(metadata)).unwrap();
}

#[test]
fn checkpoints_of_other_runs_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (path, other) = (folder.path().join("run.safetensors"), folder.path().join("other.safetensors"));
    let [critic, _] = gan(&Device::cpu());
    let mut state = critic.init(3).unwrap();
    state.note("lr", 0.05);
    state.note("batch", 8);
    train(&critic, &mut state);
    state.save_checkpoint(&path).unwrap();
    assert_eq!(checkpoint_notes(&path).unwrap().get("batch").unwrap(), "8");

    let mut run = critic.init(1).unwrap();
    for (name, value) in [("lr", "0.1"), ("seed", "1"), ("batch", "8")] {
        run.note(name, value);
    }
    let error = run.load_checkpoint(&path).unwrap_err().to_string();
    for part in ["lr: it has \"0.05\", this run \"0.1\"", "seed: it has nothing, this run \"1\""] {
        assert!(error.contains(part), "{part} is missing in {error}");
    }
    assert!(!error.contains("batch") && run.step() == 0, "{error}");
    let mut run = critic.init(1).unwrap();
    run.load_checkpoint(&path).unwrap();
    run.save_checkpoint(&other).unwrap();
    assert_eq!(load_tensors(&path).unwrap(), load_tensors(&other).unwrap(), "a resumed state is the same state");

    // Older checkpoints have no checksum; their optimizer has taken every step.
    with_metadata(&path, &other, &[("inductor.step", "1"), ("inductor.seed", "3")]);
    let mut old = critic.init(1).unwrap();
    old.load_checkpoint(&other).unwrap();
    train(&critic, &mut old);
    train(&critic, &mut run);
    assert_eq!(contents(&old), contents(&run));
    let faults: [(&[(&str, &str)], &str); 4] = [
        (&[("inductor.step", "18446744073709551615"), ("inductor.seed", "3")], "inductor.step is \"18446744073709551615\""),
        (&[("inductor.step", "-1"), ("inductor.seed", "3")], "inductor.step is \"-1\""),
        (&[("inductor.step", "1"), ("inductor.seed", "3"), ("inductor.notes2", "{}")], "its metadata has \"inductor.notes2\""),
        (&[("format", "pt")], "its metadata has \"format\""),
    ];
    for (metadata, part) in faults {
        with_metadata(&path, &other, metadata);
        let error = run.load_checkpoint(&other).unwrap_err().to_string();
        assert!(error.contains(part), "{part} is missing in {error}");
    }
}

#[test]
fn what_is_not_trained() {
    let device = Device::cpu();
    let traced = trace("integers", |t| {
        let n = t.parameter("n", DType::I32, 3, Initializer::Ones);
        Ok((weight(t, "w") * n.cast(DType::F32)).sum_all())
    });
    let error = compile_train(&traced.unwrap(), &device, Sgd::new(0.1), &Config::default()).err().expect("refused").to_string();
    assert!(error.contains("parameter n is i32[3]; only floats are trained") && error.contains("state.rs:"), "{error}");
    let error = compile_train(&trace("w", |t| Ok(weight(t, "w").sum_all())).unwrap(), &device, Adam::new(f64::NAN), &Config::default());
    assert!(error.err().expect("refused").to_string().contains("the learning rate is NaN"));

    // Names that the optimizer has, too.
    type Other = fn(&Trace) -> Tensor;
    let others: [(Other, &str); 3] = [
        (|t| t.scalar("lr", DType::I32).cast(DType::F32), "the program's lr is i32[]"),
        (|t| t.buffer("optimizer.w.exp_avg", DType::F32, 3, Initializer::Ones), "the program's optimizer.w.exp_avg is f32[3]"),
        (|t| t.input("grad.w", DType::F32, 3), "the program's grad.w is f32[3]"),
    ];
    for (other, part) in others {
        let traced = trace("names", |t| Ok((weight(t, "w") * other(t)).sum_all())).unwrap();
        let error = compile_train(&traced, &device, Adam::new(0.1), &Config::default()).err().expect("refused").to_string();
        assert!(error.contains(part) && error.contains("state.rs:"), "{error}");
    }

    // As in PyTorch, what the loss does not reach keeps its value: no decay, no momentum.
    let traced = trace("parts", |t| {
        let (used, idle, held) = (weight(t, "used"), weight(t, "idle"), weight(t, "held"));
        t.output("other", &(idle * 2.0));
        Ok((used * held.detach()).sum_all())
    });
    let optimizer = AdamW::new(0.1).weight_decay(0.5).decay_vectors(true);
    let step = compile_train(&traced.unwrap(), &device, optimizer, &Config::default()).unwrap();
    assert_eq!(step.explain().untrained, ["idle", "held"]);
    assert!(step.explain().to_string().contains("not trained: idle, held"), "{}", step.explain());
    let mut state = step.init(1).unwrap();
    for name in ["used", "idle", "held"] {
        set(&mut state, name, X);
    }
    step.run(&mut state, ()).unwrap().loss().unwrap();
    assert!(state.get("idle").unwrap() == x() && state.get("held").unwrap() == x() && state.get("used").unwrap() != x());
    assert_eq!(state.names().iter().filter(|n| n.starts_with("optimizer")).count(), 2);
}
