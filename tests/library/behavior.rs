//! What layers keep in state, what is drawn, what is shared, and mistakes.

use super::wave;
use inductor::nn::{self, Attention, Cache, Embedding, Linear, Lora, Rotary};
use inductor::runtime::save_tensors;
use inductor::{
    Config, DType, Device, Dim, Error, HostTensor, State, Step, Tensor, Trace, Traced, compile, compile_train, compile_vjp, optim, trace, trace_eval,
};

fn numbers(seed: usize, shape: &[usize]) -> HostTensor {
    HostTensor::from_f64(DType::F32, shape, &wave(seed, shape))
}

fn ready(traced: &Traced) -> (Step, State) {
    let step = compile(traced, &Device::cpu(), &Config::default()).unwrap();
    let state = step.init(3).unwrap();
    (step, state)
}

fn trained(traced: &Traced) -> (Step, State) {
    let step = compile_train(traced, &Device::cpu(), optim::Sgd::new(0.0), &Config::default()).unwrap();
    let state = step.init(3).unwrap();
    (step, state)
}

fn near(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance, "element {i}: {a}, expected {b}");
    }
}

/// Positions one at a time, and all but the last together, give what the whole sequence gives.
#[test]
fn a_cache_of_keys_and_values_gives_what_the_whole_sequence_gives() {
    let variants = [
        Attention::causal(4),
        Attention { kv_heads: Some(2), rotary: Some(Rotary { base: 100.0 }), ..Attention::causal(4) },
        Attention { alibi: true, ..Attention::causal(4) },
    ];
    for config in variants {
        let program = |time: Dim, cache: Option<Cache>| {
            let config = Attention { cache, ..config.clone() };
            trace_eval("attend", |t| Ok(vec![nn::multi_head_attention(&t.path("attn"), &t.input("x", DType::F32, (2, time, 8)), &config)])).unwrap()
        };
        let x = numbers(1, &[2, 6, 8]);
        let (whole, mut state) = ready(&program(6.into(), None));
        let expected = whole.run(&mut state, [&x]).unwrap().outputs().unwrap()[0].1.to_f64();
        let at = |from: usize, to: usize| {
            let rows: Vec<f64> = (0..2).flat_map(|b| x.to_f64()[(b * 6 + from) * 8..(b * 6 + to) * 8].to_vec()).collect();
            HostTensor::from_f64(DType::F32, &[2, to - from, 8], &rows)
        };
        let cache = Some(Cache { context: 7 });
        let one = ready(&program(1.into(), cache)).0;
        for several in [4.into(), Dim::symbol("time", 1, 7)] {
            let (several, mut state) = ready(&program(several, cache));
            let mut found = vec![vec![]; 2];
            for (from, to) in [(0, 1), (1, 5), (5, 6)] {
                let step = if to - from == 4 { &several } else { &one };
                let y = step.run(&mut state, [&at(from, to)]).unwrap().outputs().unwrap()[0].1.to_f64();
                for (rows, half) in found.iter_mut().zip(y.chunks(y.len() / 2)) {
                    rows.extend_from_slice(half);
                }
            }
            near(&found.concat(), &expected, 1e-5);
            assert_eq!(state.get("attn.cache.length").unwrap().item().unwrap(), 6.0);
            assert!(several.run(&mut state, [&at(0, 4)]).and_then(|r| r.outputs()).is_err(), "there is room for one more only");
        }
    }
}

#[test]
fn batch_norm_keeps_running_statistics() {
    let program = |t: &Trace| Ok(vec![nn::batch_norm(&t.path("bn"), &t.input("x", DType::F32, (4, 3)), nn::BatchNorm::default())]);
    let (step, mut state) = trained(&trace("bn", |t| program(t).map(|y| (y[0].sum(()), y[0].clone()))).unwrap());
    let x = numbers(1, &[4, 3]);
    step.run(&mut state, [&x]).unwrap().outputs().unwrap();
    let (mean, var) = (state.get("bn.running_mean").unwrap().to_f64(), state.get("bn.running_var").unwrap().to_f64());
    let columns: Vec<Vec<f64>> = (0..3).map(|c| (0..4).map(|r| x.to_f64()[3 * r + c]).collect()).collect();
    let of = |c: &Vec<f64>| c.iter().sum::<f64>() / 4.0;
    near(&mean, &columns.iter().map(|c| 0.1 * of(c)).collect::<Vec<_>>(), 1e-6);
    let spread = |c: &Vec<f64>| c.iter().map(|x| (x - of(c)).powi(2)).sum::<f64>() / 3.0;
    near(&var, &columns.iter().map(|c| 0.9 + 0.1 * spread(c)).collect::<Vec<_>>(), 1e-6);
    let (eval, _) = ready(&trace_eval("bn", program).unwrap());
    let y = eval.run(&mut state, [&x]).unwrap().outputs().unwrap()[0].1.to_f64();
    let expected: Vec<f64> = (0..12).map(|i| (x.to_f64()[i] - mean[i % 3]) / (var[i % 3] + 1e-5).sqrt()).collect();
    near(&y, &expected, 1e-5);
}

/// Called twice, the statistics move twice.
#[test]
fn a_shared_batch_norm_moves_twice() {
    let traced = trace("twice", |t| {
        let (a, b) = (t.input("a", DType::F32, (4, 3)), t.input("b", DType::F32, (4, 3)));
        let norm = |x: &Tensor| nn::batch_norm(&t.path("bn"), x, nn::BatchNorm::default()).square().sum(());
        Ok(norm(&a) + norm(&b))
    })
    .unwrap();
    let (step, mut state) = trained(&traced);
    let (a, b) = (numbers(1, &[4, 3]), numbers(2, &[4, 3]));
    step.run(&mut state, [&a, &b]).unwrap().loss().unwrap();
    let mean = |x: &HostTensor, c: usize| (0..4).map(|r| x.to_f64()[3 * r + c]).sum::<f64>() / 4.0;
    let expected: Vec<f64> = (0..3).map(|c| 0.9 * 0.1 * mean(&a, c) + 0.1 * mean(&b, c)).collect();
    near(&state.get("bn.running_mean").unwrap().to_f64(), &expected, 1e-6);
    assert_eq!(state.get("bn.num_batches_tracked").unwrap().to_i64(), [2]);
}

/// The state of a batch norm has PyTorch's names and types, and without a momentum its statistics are means over all batches.
#[test]
fn a_batch_norm_counts_its_batches() {
    let program = |t: &Trace| Ok(nn::batch_norm(&t.path("bn"), &t.input("x", DType::F32, (4, 2)), nn::BatchNorm::default().momentum(None)).sum(()));
    let (step, mut state) = trained(&trace("bn", program).unwrap());
    let path = std::env::temp_dir().join(format!("inductor-batch-norm-{}.safetensors", std::process::id()));
    let weights = [("weight", 1.0), ("bias", 0.0), ("running_mean", 7.0), ("running_var", 9.0)];
    let mut tensors: Vec<(String, HostTensor)> = weights.map(|(name, x)| (format!("bn.{name}"), HostTensor::f32(&[2], &[x; 2]))).to_vec();
    tensors.push(("bn.num_batches_tracked".into(), HostTensor::from_i64(DType::I64, &[], &[0])));
    save_tensors(&path, &tensors, None).unwrap();
    state.load(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let batches: Vec<HostTensor> = (1..4).map(|seed| numbers(seed, &[4, 2])).collect();
    for x in &batches {
        step.run(&mut state, [x]).unwrap().loss().unwrap();
    }
    let column = |x: &HostTensor, c: usize| (0..4).map(|r| x.to_f64()[2 * r + c]).collect::<Vec<f64>>();
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let var = |v: &[f64]| v.iter().map(|x| (x - mean(v)).powi(2)).sum::<f64>() / 3.0;
    let over = |of: &dyn Fn(&[f64]) -> f64| (0..2).map(|c| mean(&batches.iter().map(|x| of(&column(x, c))).collect::<Vec<_>>())).collect::<Vec<_>>();
    near(&state.get("bn.running_mean").unwrap().to_f64(), &over(&mean), 1e-6);
    near(&state.get("bn.running_var").unwrap().to_f64(), &over(&var), 1e-6);
    assert_eq!(state.get("bn.num_batches_tracked").unwrap().to_i64(), [3]);
}

#[test]
fn one_name_is_one_parameter_of_one_type() {
    let error = trace("clash", |t| {
        let x = t.input("x", DType::F32, (2, 4));
        let y = nn::linear(&t.path("fc"), &x, 4);
        Ok(nn::linear(&t.path("fc"), &y, 5))
    });
    let Err(Error::Trace(faults)) = error else { panic!("expected a fault") };
    assert!(faults[0].message.contains("there is a parameter fc.weight of type f32[4, 4], and this is a parameter of type f32[5, 4]"), "{faults:?}");
    assert!(faults[0].location.as_ref().unwrap().file.ends_with("behavior.rs"));
}

#[test]
fn mistakes_come_back_with_their_lines() {
    let line = line!();
    let error = trace("wrong", |t| {
        let x = t.input("x", DType::F32, (2, 3, 8));
        let none: [Tensor; 0] = [];
        Ok(vec![
            Tensor::cat(&none, 0) + &x,
            x.conv2d(&x, Default::default()),
            nn::multi_head_attention(t, &x, &Attention::new(3)),
            nn::encoder_layer(t, &x, &nn::TransformerLayer::new(3)),
            nn::batch_norm(t, &x.select(0, 0).select(0, 0), Default::default()),
            nn::lstm(t, &x.select(0, 0), None, nn::Recurrent::new(3)).0,
            x.interpolate(3, inductor::Interpolation::Cubic, false),
            x.argmax([0, 1]),
        ])
    });
    let Err(Error::Trace(faults)) = error else { panic!("expected faults") };
    let mut shown: Vec<(i64, &str)> =
        faults.iter().map(|f| (f.location.as_ref().unwrap().line as i64 - line as i64, f.message.split(':').next().unwrap())).collect();
    let expected =
        [(5, "cat"), (6, "conv2d"), (7, "attention"), (8, "attention"), (9, "batch_norm"), (10, "lstm"), (11, "interpolate"), (12, "argmax")];
    shown.sort_unstable();
    assert_eq!(shown, expected, "{faults:?}");
}

#[test]
fn mistakes_say_what_is_meant() {
    let said = |build: &dyn Fn(&inductor::Trace, &Tensor) -> Tensor| {
        let error = trace("wrong", |t| Ok(build(t, &t.input("x", DType::F32, (2, 3, 8)))));
        error.expect_err("refused").to_string()
    };
    let labels = |t: &inductor::Trace| t.input("y", DType::I32, (2, 8));
    assert!(said(&|t, x| x.cross_entropy(&labels(t))).contains("CrossEntropy::new().dim(1)"));
    assert!(said(&|t, x| x.cross_entropy(&t.input("y", DType::F32, (2, 3)))).contains("are probabilities, of the shape of the logits"));
    assert!(said(&|_, x| x.topk(9, -1).0).contains("topk: 9 elements of a dimension of size 8"));
    assert!(said(&|_, x| x.select(1, -4)).contains("select: there is no element -4 in dimension 1 of size 3"));
    assert!(said(&|_, x| x.narrow(1, -1, 2)).contains("narrow: slice: 2..4"));
    let lengths = |t: &inductor::Trace, dtype, n: usize| nn::Recurrent::new(4).lengths(&t.input("lengths", dtype, n));
    assert!(said(&|t, x| nn::gru(t, x, None, lengths(t, DType::F32, 3)).0).contains("gru: lengths are integers of shape [batch]"));
    assert!(said(&|t, x| nn::gru(t, x, None, lengths(t, DType::I32, 2)).0).contains("gru: expected i32[3], got i32[2]"));
    let state = |t: &inductor::Trace| t.input("h", DType::F32, (2, 3, 4));
    assert!(said(&|t, x| nn::gru(t, x, Some(&state(t)), nn::Recurrent::new(4)).0).contains("gru: expected f32[1, 3, 4], got f32[2, 3, 4]"));
    assert!(said(&|_, x| x.index(&[x])).contains("index: index is f32[2, 3, 8], not an integer"));
    assert!(said(&|_, x| x.split_with_sizes((1, 2), -1).remove(0)).contains("split_with_sizes: parts of 3 elements in all do not make 8"));
    assert!(said(&|_, x| x.multinomial(9, false)).contains("multinomial: 9 draws of 8 without replacement"));
    let norm = |t: &inductor::Trace, x: &Tensor| nn::batch_norm(&t.path("norm"), x, Default::default());
    let branch = said(&|t, x| t.cond(&x.sum(()).gt(0.0), || norm(t, x), || x.clone()));
    assert!(branch.contains("norm.running_mean gets a new value in a body of scan, map, cond or while_loop"), "{branch}");
    let line = line!() + 1;
    let twice = trace_eval("twice", |t| Ok(vec![("y", t.zeros(DType::F32, 2)), ("y", t.zeros(DType::F32, 2))])).unwrap_err().to_string();
    assert!(twice.contains(&format!("behavior.rs:{line}: there are two outputs named y")), "{twice}");

    let step = compile_train(
        &trace("fc", |t| Ok(nn::linear(t, &t.input("x", DType::F32, (2, 3)), 1).sum(()))).unwrap(),
        &Device::cpu(),
        optim::Sgd::new(0.1),
        &Config::default(),
    )
    .unwrap();
    let result = step.run(&mut step.init(0).unwrap(), [&numbers(0, &[2, 3])]).unwrap();
    assert!(result.gradients().unwrap_err().to_string().contains("Config::gradients = Gradients::Values"));
    assert!(result.gradient_norms().unwrap_err().to_string().contains("Config::gradients = Gradients::Norms"));
}

#[test]
fn statistics_of_nothing_are_no_number() {
    let traced = trace_eval("nothing", |t| {
        let x = t.input("x", DType::F32, (0, 3));
        Ok(vec![x.mean(()), x.var(0).sum(()), x.sum(()), x.logsumexp(0).amax(())])
    });
    let devices = [Ok(Device::cpu()), Device::software()];
    for device in devices.into_iter().flatten() {
        let step = compile(traced.as_ref().unwrap(), &device, &Config::default()).unwrap();
        let result = step.run(&mut step.init(0).unwrap(), [numbers(0, &[0, 3])]).unwrap();
        let found: Vec<f64> = result.outputs().unwrap().iter().map(|(_, x)| x.item().unwrap()).collect();
        assert!(found[0].is_nan() && found[1].is_nan() && found[2..] == [0.0, f64::NEG_INFINITY], "{device:?}: {found:?}");
    }
}

#[test]
fn padding_rows_stay_zero() {
    let traced = trace("padding", |t| {
        let index = t.input("i", DType::I32, 4);
        Ok(nn::embedding(&t.path("e"), &index, Embedding::new(5, 3).padding_index(2)).sum(()))
    })
    .unwrap();
    let step = compile_vjp(&traced, &Device::cpu(), &Config::default()).unwrap();
    let mut state = step.init(0).unwrap();
    assert_eq!(state.get("e.weight").unwrap().to_f64()[6..9], [0.0; 3]);
    let result = step.run(&mut state, [&HostTensor::i32(&[4], &[2, 1, 1, 2])]).unwrap();
    assert_eq!(result.gradients().unwrap()[0].1.to_f64(), [0., 0., 0., 2., 2., 2., 0., 0., 0., 0., 0., 0., 0., 0., 0.]);
}

/// A weight norm starts as the plain layer; an adaptation starts as its layer, which it leaves as it is.
#[test]
fn adapted_layers_start_as_plain_ones() {
    let program =
        |layer: Linear| trace_eval("fc", |t| Ok(vec![nn::linear(&t.path("fc"), &t.input("x", DType::F32, (3, 4)), layer.clone())])).unwrap();
    let x = numbers(1, &[3, 4]);
    let (plain, mut state) = ready(&program(Linear::new(5)));
    let (lora, mut adapted) = ready(&program(Linear::new(5).lora(Lora { rank: 2, alpha: 4.0 })));
    let y = plain.run(&mut state, [&x]).unwrap().outputs().unwrap()[0].1.to_f64();
    near(&lora.run(&mut adapted, [&x]).unwrap().outputs().unwrap()[0].1.to_f64(), &y, 1e-6);
    let (normed, mut state) = ready(&program(Linear::new(5).weight_norm()));
    let v = state.get("fc.weight_v").unwrap().to_f64();
    let lengths: Vec<f64> = v.chunks(4).map(|row| row.iter().map(|x| x * x).sum::<f64>().sqrt()).collect();
    near(&state.get("fc.weight_g").unwrap().to_f64(), &lengths, 1e-6);
    let bias = state.get("fc.bias").unwrap().to_f64();
    let expected: Vec<f64> = (0..15).map(|i| bias[i % 5] + (0..4).map(|k| x.to_f64()[i / 5 * 4 + k] * v[i % 5 * 4 + k]).sum::<f64>()).collect();
    near(&normed.run(&mut state, [&x]).unwrap().outputs().unwrap()[0].1.to_f64(), &expected, 1e-5);
    let training = trace("fc", |t| {
        Ok(nn::linear(&t.path("fc"), &t.input("x", DType::F32, (3, 4)), Linear::new(5).lora(Lora { rank: 2, alpha: 4.0 })).square().sum(()))
    });
    let step = compile_train(&training.unwrap(), &Device::cpu(), optim::Sgd::new(0.1), &Config::default()).unwrap();
    let mut state = step.init(0).unwrap();
    let before = state.get("fc.weight").unwrap();
    let b = state.get("fc.lora_b").unwrap();
    step.run(&mut state, [&x]).unwrap().loss().unwrap();
    assert_eq!(state.get("fc.weight").unwrap(), before);
    assert_ne!(state.get("fc.lora_b").unwrap(), b);
}

#[test]
fn random_numbers_have_their_moments() {
    let traced = trace_eval("draws", |t| {
        let p = t.full(DType::F32, 4000, 0.3);
        let weights = t.constant(&HostTensor::f32(&[3], &[1.0, 0.0, 3.0]));
        Ok(vec![
            t.randn(4000),
            t.rand(4000),
            p.bernoulli(),
            t.randint(-2, 3, 4000).cast(DType::F32),
            weights.multinomial(4000, true).cast(DType::F32),
            weights.expand((1000, 3)).multinomial(2, false).sum(-1).cast(DType::F32),
            t.key().normal(4000),
            t.randperm(4000).cast(DType::F32),
        ])
    })
    .unwrap();
    let (step, mut state) = ready(&traced);
    let out: Vec<Vec<f64>> = step.run(&mut state, &[] as &[&HostTensor]).unwrap().outputs().unwrap().iter().map(|(_, x)| x.to_f64()).collect();
    let expected = [(0.0, 1.0), (0.5, 12f64.powf(-0.5)), (0.3, 0.21f64.sqrt()), (0.0, 2f64.sqrt()), (1.5, 0.75f64.sqrt()), (2.0, 0.0), (0.0, 1.0)];
    for (k, (mean, std)) in expected.into_iter().enumerate() {
        let found = out[k].iter().sum::<f64>() / out[k].len() as f64;
        let spread = (out[k].iter().map(|x| (x - found).powi(2)).sum::<f64>() / out[k].len() as f64).sqrt();
        assert!((found - mean).abs() < 0.06 && (spread - std).abs() < 0.04, "draw {k}: {found} +- {spread}");
    }
    let mut order = out[7].clone();
    order.sort_by(f64::total_cmp);
    assert!(order.iter().enumerate().all(|(i, &x)| x == i as f64) && order != out[7]);
}
