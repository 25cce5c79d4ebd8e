//! Every wrong input is a clear error, nothing panics, and parameters, buffers and optimizer state stay as they were.

use inductor::config::Target;
use inductor::optim::AdamW;
use inductor::types::DeviceCaps;
use inductor::{
    Config, DType, Device, Dim, Error, HostTensor, Initializer, Inputs, State, Step, Tensor, Trace, Traced, compile, compile_train, nn, trace,
    trace_eval,
};

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

/// A classifier of eight rows with an embedding, a norm and a running mean: parameters, a buffer, optimizer state.
fn model(batch: impl Into<Dim>) -> Traced {
    let batch = batch.into();
    trace("model", |t| {
        let x = t.input("x", DType::F32, [batch.clone(), 4.into()]);
        let words = t.input("words", DType::I32, [batch.clone()]);
        let y = t.input("y", DType::I32, [batch.clone()]);
        let h = nn::linear(&t.path("fc1"), &x, 6) + nn::embedding(&t.path("emb"), &words, nn::Embedding::new(10, 6));
        let mean = t.buffer("mean", DType::F32, 6, Initializer::Zeros);
        t.update_buffer("mean", &(&mean * 0.9 + h.mean([0]) * 0.1));
        Ok(nn::linear(&t.path("fc2"), &h.relu(), 3).cross_entropy_with(&y, inductor::CrossEntropy::new().ignore_index(-100)))
    })
    .unwrap()
}

fn x(rows: usize) -> HostTensor {
    HostTensor::f32(&[rows, 4], &(0..rows * 4).map(|i| (i % 7) as f32 / 3.0 - 1.0).collect::<Vec<_>>())
}

fn integers(values: &[i32]) -> HostTensor {
    HostTensor::i32(&[values.len()], values)
}

fn words() -> HostTensor {
    integers(&[0, 9, 3, 3, 1, 4, 8, 2])
}

fn labels() -> HostTensor {
    integers(&[0, 2, 1, -100, 1, 0, 2, 2])
}

/// Everything a state holds, bit for bit.
fn contents(state: &State) -> Vec<(String, HostTensor)> {
    state.names().into_iter().map(|n| (n.clone(), state.get(&n).unwrap())).collect()
}

/// A step that has run twice, so that optimizer state and buffers are not zero and live on the device.
fn trained(device: &Device, config: &Config) -> (Step, State) {
    let step = compile_train(&model(8), device, AdamW::new(1e-2), config).unwrap();
    let mut state = step.init(1).unwrap();
    for _ in 0..2 {
        step.run(&mut state, [&x(8), &words(), &labels()]).unwrap().loss().unwrap();
    }
    (step, state)
}

/// The message of a refused step; state and step counter are as before, and a good step still runs.
#[track_caller]
fn refused(step: &Step, state: &mut State, inputs: impl Into<Inputs>, parts: &[&str]) -> Error {
    let (before, count) = (contents(state), state.step());
    let error = match step.run(state, inputs).and_then(|r| r.loss()) {
        Ok(loss) => panic!("{:?}: not refused, loss {loss}", step.device()),
        Err(error) => error,
    };
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{:?}: {part:?} is not in: {message}", step.device());
    }
    assert_eq!(state.step(), count, "{message}");
    assert!(contents(state) == before, "{:?}: the state changed: {message}", step.device());
    error
}

#[test]
fn shapes_dtypes_and_names() {
    for device in devices() {
        let (step, state) = &mut trained(&device, &Config::default());
        refused(step, state, [&x(8), &words()], &["3 inputs expected, 2 given", "x: f32[8, 4]", "y: i32[8]"]);
        refused(step, state, [&x(7), &words(), &labels()], &["x: expected f32[8, 4], got f32[7, 4]"]);
        refused(step, state, [&HostTensor::f32(&[32], &[0.0; 32]), &words(), &labels()], &["x: expected f32[8, 4], got f32[32]"]);
        refused(step, state, [&words(), &x(8), &labels()], &["x: expected f32[8, 4], got i32[8]", "words: expected i32[8], got f32[8, 4]"]);
        let wide = HostTensor::from_i64(DType::I64, &[8], &[0; 8]);
        refused(step, state, [&x(8), &words(), &wide], &["y: expected i32[8], got i64[8]"]);
        refused(step, state, [("x", &x(8)), ("words", &words()), ("label", &labels())], &["there is no input label", "y is missing"]);
        refused(step, state, [("x", &x(8)), ("x", &x(8)), ("y", &labels())], &["x is given twice", "words is missing"]);
        assert!(step.run(state, [&x(8), &words(), &labels()]).unwrap().loss().unwrap().is_finite());
    }
}

#[test]
fn values_that_are_not_finite() {
    for device in devices() {
        let (step, state) = &mut trained(&device, &Config::default());
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut data = vec![0.5; 32];
            data[13] = bad;
            refused(step, state, [&HostTensor::f32(&[8, 4], &data), &words(), &labels()], &["x: element 13 is not finite", "allow_non_finite"]);
        }
        let regression = trace("regression", |t| {
            let (x, y) = (t.input("x", DType::F32, (8, 4)), t.input("y", DType::F32, (8, 2)));
            Ok(nn::linear(&t.path("fc"), &x, 2).mse(&y))
        });
        let step = &compile_train(&regression.unwrap(), &device, AdamW::new(1e-2), &Config::default()).unwrap();
        let state = &mut step.init(1).unwrap();
        let mut targets = [0.0; 16];
        targets[5] = f32::NAN;
        refused(step, state, [&x(8), &HostTensor::f32(&[8, 2], &targets)], &["y: element 5 is not finite"]);
        let error = step.set_scalar("lr", f64::NAN).unwrap_err().to_string();
        assert!(error.contains("lr: NaN is not finite"), "{error}");
        assert!(step.set_scalar("rate", 1.0).unwrap_err().to_string().contains("there are [lr]"));
        // Gradients that overflow on the device, when the user asks for the check.
        let (step, state) = &mut trained(&device, &Config { check_gradients: true, ..Config::default() });
        state.set("fc1.weight", HostTensor::f32(&[6, 4], &[10.0; 24])).unwrap();
        let error = refused(step, state, [&HostTensor::f32(&[8, 4], &[f32::MAX; 32]), &words(), &labels()], &["not finite"]);
        assert!(matches!(error, Error::Step(_)), "{error}");
    }
}

#[test]
fn labels_and_indices_out_of_range() {
    for device in devices() {
        let (step, state) = &mut trained(&device, &Config::default());
        let mut bad = labels();
        for (at, label) in [(0usize, 3), (6, -1), (7, i32::MAX), (2, i32::MIN)] {
            let mut values = labels().to_i64().iter().map(|&v| v as i32).collect::<Vec<_>>();
            values[at] = label;
            bad = integers(&values);
            let error = refused(step, state, [&x(8), &words(), &bad], &["y: element", &format!("[{at}] is {label}"), "cross_entropy"]);
            assert!(matches!(error, Error::Input(_)), "{error}");
        }
        let error = refused(step, state, [&x(8), &integers(&[0, 0, 0, 10, 0, 0, 0, 0]), &labels()], &["words: element [3] is 10"]);
        assert!(matches!(error, Error::Input(_)), "{error}");
        drop(bad);
        // What the device computes is found there.
        let computed = trace("computed", |t| {
            let x = t.input("x", DType::F32, (8, 4));
            let table = t.parameter("table", DType::F32, (3, 2), Initializer::Uniform { low: -1.0, high: 1.0 });
            Ok(x.argmax(-1).embedding(&table).square().mean_all())
        });
        let step = &compile_train(&computed.unwrap(), &device, AdamW::new(1e-2), &Config::default()).unwrap();
        let state = &mut step.init(1).unwrap();
        let row = |k: usize| HostTensor::f32(&[8, 4], &(0..32).map(|i| (i % 4 == k) as u8 as f32).collect::<Vec<_>>());
        step.run(state, [&row(2)]).unwrap().loss().unwrap();
        let error = refused(step, state, [&row(3)], &["outside 0..3"]);
        assert!(matches!(error, Error::Step(_)), "{error}");
        step.run(state, [&row(1)]).unwrap().loss().unwrap();
    }
}

/// Every op that reads or writes at an index, with indices that only the device knows.
#[test]
fn computed_indices_out_of_range() {
    type Use = fn(&Tensor, &Tensor, &Tensor) -> Tensor;
    let uses: [(&str, Use); 3] = [
        ("gather", |table, at, _| table.gather(0, at)),
        ("index_select", |table, at, _| table.index_select(0, &at.slice(1, 0, 1).reshape(8))),
        ("scatter_add", |table, at, x| table.scatter_add(0, at, x)),
    ];
    for (device, (name, apply)) in devices().into_iter().flat_map(|d| uses.map(|u| (d.clone(), u))) {
        let traced = trace(name, |t| {
            let x = t.input("x", DType::F32, (8, 4));
            let table = t.parameter("table", DType::F32, (5, 4), Initializer::Uniform { low: -1.0, high: 1.0 });
            // Of two inputs: no element of one alone is wrong.
            let at = t.input("shift", DType::I32, (8, 4)) + t.input("base", DType::I32, (8, 4));
            let y = apply(&table, &at, &x);
            let seen = t.buffer("seen", DType::F32, (), Initializer::Zeros);
            t.update_buffer("seen", &(&seen + 1.0));
            Ok(y.square().mean_all())
        })
        .unwrap();
        let step = &compile_train(&traced, &device, AdamW::new(1e-2), &Config::default()).unwrap();
        let state = &mut step.init(1).unwrap();
        let base = HostTensor::i32(&[8, 4], &[1; 32]);
        let shift = |i: i32| HostTensor::i32(&[8, 4], &(0..32).map(|k| if k == 12 { i } else { k % 3 }).collect::<Vec<_>>());
        step.run(state, [&x(8), &shift(2), &base]).unwrap().loss().unwrap();
        for outside in [4, -2, i32::MAX - 1, i32::MIN] {
            let error = refused(step, state, [&x(8), &shift(outside), &base], &[name, "outside 0..5", "bad_inputs.rs"]);
            assert!(matches!(error, Error::Step(_)), "{error}");
        }
        step.run(state, [&x(8), &shift(0), &base]).unwrap().loss().unwrap();
        assert_eq!(state.get("seen").unwrap().to_f32(), [2.0]);
    }
}

#[test]
fn empty_batches_and_sizes_out_of_range() {
    for device in devices() {
        let step = &compile_train(&model(Dim::symbol("batch", 0, 16)), &device, AdamW::new(1e-2), &Config::default()).unwrap();
        let state = &mut step.init(1).unwrap();
        step.run(state, [&x(8), &words(), &labels()]).unwrap().loss().unwrap();
        let empty = integers(&[]);
        refused(step, state, [&HostTensor::f32(&[0, 4], &[]), &empty, &empty], &["is empty", "allow_empty"]);
        let many = integers(&[0; 17]);
        refused(step, state, [&x(17), &many, &many], &["outside its declared range"]);
        refused(step, state, [&x(8), &words(), &integers(&[0; 7])], &["batch"]);
    }
}

/// Sizes that no tensor has, each at the user's line.
#[test]
fn sizes_that_cannot_be() {
    type Build = fn(&Trace) -> Tensor;
    let cases: [(Build, &str); 21] = [
        (|t| t.input("x", DType::F32, (-3, 4)), "input: size -3 of f32[-3, 4] is negative"),
        (|t| t.parameter("w", DType::F32, -1, Initializer::Zeros), "size -1 of f32[-1] is negative"),
        (|t| t.buffer("b", DType::I64, (2, i64::MIN), Initializer::Zeros), "is negative"),
        (|t| t.full(DType::F32, (2, -2), 1.0), "size -2 of f32[2, -2] is negative"),
        (|t| t.iota(DType::I32, -5), "size -5 of i32[-5] is negative"),
        (|t| t.key().uniform(-4), "size -4 of u32[-4] is negative"),
        (|t| t.input("x", DType::F32, 6).reshape((-1, -1, 6)), "is negative"),
        (|t| t.input("x", DType::F32, 1).broadcast_to((3, -1)), "is negative"),
        (|t| t.input("x", DType::F32, (1i64 << 40, 1i64 << 40)), "has more elements than can be counted"),
        (|t| t.input("x", DType::F32, usize::MAX), "is negative"),
        (|t| t.input("x", DType::F32, (1, 1)).broadcast_to((1i64 << 32, 1i64 << 32)), "has more elements than can be counted"),
        (|t| t.input("x", DType::F32, Dim::symbol("n", 5, 3)), "symbol `n` 5..3 has no proper name or range"),
        (|t| t.input("x", DType::F32, Dim::symbol("n", -9, -2)), "is negative"),
        (
            |t| t.input("x", DType::F32, Dim::symbol("n", 1, 8)).sum_all() + t.input("y", DType::F32, Dim::symbol("n", 1, 16)).sum_all(),
            "symbol n has two ranges: 1..8 and 1..16",
        ),
        (|t| t.input("x", DType::F32, (2, 3)).sum([0, -2]), "dimension -2 of f32[2, 3] is named twice"),
        (|t| t.parameter("w", DType::F32, 2, Initializer::Uniform { low: 2.0, high: -1.0 }), "there are no numbers in 2..-1"),
        (|t| t.parameter("w", DType::F32, 2, Initializer::Normal { std: f64::NAN }), "the initializer of w: a deviation of NaN"),
        (|t| t.buffer("b", DType::I8, 2, Initializer::Constant(1000.0)), "the initializer of b: 1000 is no i8"),
        (|t| t.iota(DType::I32, Dim::symbol("n", 1, 8)), "symbol n is in the size of no input"),
        (|t| t.input("x", DType::F32, 3).one_hot(4, DType::F32), "one_hot: an index is an integer: f32[3]"),
        (|t| t.input("n", DType::I8, 2) + 1000, "add: 1000 is no i8: i8[2]"),
    ];
    for (build, part) in cases {
        let error = trace_eval("sizes", |t| Ok(vec![build(t)])).err().unwrap_or_else(|| panic!("{part:?} is accepted"));
        assert!(matches!(error, Error::Trace(_)), "{error}");
        assert!(error.to_string().contains(part) && error.to_string().contains("bad_inputs.rs:"), "{part:?} is not in: {error}");
    }
}

/// Tensors whose length does not fit their shape, wherever they are given.
#[test]
fn tensors_that_do_not_fit_their_shape() {
    let short = HostTensor::f32(&[8, 4], &[0.5; 31]);
    let parts = ["f32[8, 4] has 32 elements, and 31 are given", "bad_inputs.rs:"];
    for device in devices() {
        let (step, state) = &mut trained(&device, &Config::default());
        refused(step, state, [&short, &words(), &labels()], &parts);
        let huge = HostTensor::zeros(DType::F32, &[usize::MAX, 4]);
        refused(step, state, [&huge, &words(), &labels()], &["has more elements than can be addressed", "bad_inputs.rs:"]);
        let error = state.set("fc1.bias", HostTensor::i32(&[6], &[])).unwrap_err().to_string();
        assert!(error.contains("i32[6] has 6 elements, and 0 are given"), "{error}");
        for (name, value, part) in [("lr", -0.1, "lr: -0.1 is negative"), ("lr", 1e300, "is not finite as f32")] {
            let error = step.set_scalar(name, value).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
    let error = trace("constant", |t| Ok(t.constant(&short).sum_all())).unwrap_err().to_string();
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let error = inductor::runtime::save_tensors(&folder.path().join("x"), &[("x".into(), short)], None).unwrap_err().to_string();
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
}

#[test]
fn weights_that_do_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    for device in devices() {
        let (step, mut state) = trained(&device, &Config::default());
        state.save(&path).unwrap();
        let good = std::fs::read(&path).unwrap();
        let before = contents(&state);
        let mut fault = |bytes: &[u8], parts: &[&str]| {
            let bad = folder.path().join("bad.safetensors");
            std::fs::write(&bad, bytes).unwrap();
            for error in [state.load(&bad).err(), state.load_checkpoint(&bad).err()] {
                let message = error.unwrap_or_else(|| panic!("{parts:?} was accepted")).to_string();
                assert!(message.contains("bad.safetensors"), "{message}");
            }
            let message = state.load(&bad).unwrap_err().to_string();
            parts.iter().for_each(|p| assert!(message.contains(p), "{p:?} is not in: {message}"));
            assert!(contents(&state) == before, "the state changed: {message}");
        };
        for end in [0, 4, 8, 40, good.len() / 2, good.len() - 1] {
            fault(&good[..end], &[]);
        }
        let mut header = good.clone();
        header[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        fault(&header, &[]);
        header[..8].copy_from_slice(&(good.len() as u64 / 3).to_le_bytes());
        fault(&header, &[]);
        let json = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
        let edited = |from: &str, to: &str| {
            assert_eq!(from.len(), to.len());
            let text = String::from_utf8(good[8..8 + json].to_vec()).unwrap();
            assert!(text.contains(from), "{text}");
            [&good[..8], text.replacen(from, to, 1).as_bytes(), &good[8 + json..]].concat()
        };
        fault(&edited("fc1.bias", "fc9.bias"), &["unknown tensor fc9.bias", "fc1.bias is missing"]);
        fault(&edited("\"F32\"", "\"I32\""), &["expected f32", "got i32"]);
        let other = trace_eval("other", |t| Ok(vec![("y", nn::linear(&t.path("fc1"), &t.input("x", DType::F32, (2, 5)), 6))])).unwrap();
        let other = compile(&other, &device, &Config::default()).unwrap().init(1).unwrap();
        other.save(&path).unwrap();
        fault(&std::fs::read(&path).unwrap(), &["fc1.weight: expected f32[6, 4], got f32[6, 5]", "fc2.weight is missing"]);
        assert!(state.load(folder.path().join("nowhere.safetensors")).unwrap_err().to_string().contains("nowhere.safetensors"));
        // Unknown names, wrong types, the state of another model.
        assert!(state.set("fc7.weight", x(8)).unwrap_err().to_string().contains("no tensor fc7.weight"));
        assert!(state.set("fc1.weight", x(8)).unwrap_err().to_string().contains("expected f32[6, 4], got f32[8, 4]"));
        assert!(state.get("nothing").unwrap_err().to_string().contains("no tensor nothing"));
        let mut foreign = other;
        refused(&step, &mut foreign, [&x(8), &words(), &labels()], &["does not fit this step", "fc2.weight is missing"]);
        assert!(contents(&state) == before);
    }
}

#[test]
fn mistakes_of_a_trace_come_together_with_their_lines() {
    let error = trace("wrong", |t| {
        let x = t.input("x", DType::F32, (32, 784));
        let y = t.input("y", DType::I32, 32);
        let first = line!() + 1;
        let a = x.matmul(&t.parameter("w", DType::F32, (10, 784), Initializer::Zeros));
        let b = x.reshape((32, 700));
        assert!(a.is_poisoned() && b.is_poisoned() && (&a + &b).is_poisoned());
        let loss = x.sum([5]);
        assert_eq!(first + 3, line!() - 1);
        Ok((loss + y.cast(DType::F32)).sum_all())
    })
    .unwrap_err();
    let Error::Trace(faults) = &error else { panic!("{error}") };
    assert_eq!(faults.len(), 3, "{error}");
    assert!(faults.iter().all(|f| f.location.as_ref().is_some_and(|l| l.to_string().contains("bad_inputs.rs"))), "{error}");
    assert!(faults[0].message.contains("f32[32, 784] x f32[10, 784]"), "{error}");

    let mut stray: Option<Tensor> = None;
    trace_eval("first", |t| {
        let x = t.input("x", DType::F32, 3);
        stray = Some(x.clone());
        Ok(vec![("x", x)])
    })
    .unwrap();
    let error = trace_eval("second", |t| Ok(vec![("y", t.input("x", DType::F32, 3) + stray.clone().unwrap())])).unwrap_err();
    assert!(error.to_string().contains("another trace") && error.to_string().contains("bad_inputs.rs"), "{error}");
}

#[test]
fn gradients_through_what_has_none() {
    let traced = trace("bits", |t| {
        let x = t.input("x", DType::F32, 4);
        let w = t.parameter("w", DType::F32, 4, Initializer::Ones);
        Ok((x * w.cast(DType::I32).cast(DType::F32)).sum_all())
    })
    .unwrap();
    let error = compile_train(&traced, &Device::cpu(), AdamW::new(1e-2), &Config::default()).err().expect("there is no gradient");
    assert!(matches!(error, Error::Autograd { .. }), "{error}");
    assert!(error.to_string().contains("cast") && error.to_string().contains("bad_inputs.rs"), "{error}");
}

#[test]
fn devices_that_do_not_serve() {
    let refused = |caps: DeviceCaps, parts: &[&str]| {
        let target = Target { caps, ..Target::webgpu_default() };
        let graph = model(8).graph;
        let examples: Vec<_> = graph.inputs.iter().map(|i| graph.ty(i.value).clone()).collect();
        let error = inductor::compile::inductor(&graph, &examples, &target, &Config::default()).expect_err("the device lacks something");
        parts.iter().for_each(|p| assert!(error.to_string().contains(p), "{p:?} is not in: {error}"));
        assert!(matches!(error, Error::Platform(_)), "{error}");
    };
    refused(DeviceCaps { max_storage_buffers: 2, ..DeviceCaps::webgpu_default() }, &["storage buffers", "2"]);
    refused(DeviceCaps { max_invocations: 16, ..DeviceCaps::webgpu_default() }, &["invocations", "16"]);
    refused(DeviceCaps { max_binding_bytes: 64, ..DeviceCaps::webgpu_default() }, &["64"]);
    assert!(Device::from_name("abacus").unwrap_err().to_string().contains("abacus"));
}

#[test]
fn sizes_that_the_program_needs_equal_are_checked_on_every_device() {
    let traced = trace_eval("shifted", |t| {
        let a = t.input("a", DType::F32, [Dim::symbol("n", 2, 64), 3.into()]);
        let b = t.input("b", DType::F32, [Dim::symbol("m", 2, 64), 3.into()]);
        Ok((&a + &b).sum_all())
    })
    .unwrap();
    let ones = |rows: usize| HostTensor::f32(&[rows, 3], &vec![1.0; rows * 3]);
    for device in devices() {
        let step = compile(&traced, &device, &Config::default()).unwrap();
        let mut state = step.init(0).unwrap();
        for rows in [2, 5] {
            assert_eq!(step.run(&mut state, [&ones(rows), &ones(rows)]).unwrap().loss().unwrap(), 6.0 * rows as f32);
        }
        let expected = "input a has size 5 in dimension 0, but input b has size 4 in dimension 0: the program needs them equal (add at ";
        refused(&step, &mut state, [&ones(5), &ones(4)], &[expected, "bad_inputs.rs"]);
    }
}
