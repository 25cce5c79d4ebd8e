//! Loops and branches of recorded programs, on the interpreter and on the software adapter. Layer by layer they are held against the
//! evaluation by `ops.rs` and by the filetests of `run`.

use inductor::ops::OpDef;
use inductor::{
    Config, DType, Device, Dim, Error, HostTensor, Initializer, Step, Tensor, Trace, Traced, compile, compile_train, nn, optim, trace, trace_eval,
};
use std::time::Instant;

/// The devices there are; one that is missing is said.
fn devices() -> Vec<Device> {
    let software = Device::software().inspect_err(|why| eprintln!("software adapter: skipped, {why}")).ok();
    [Some(Device::cpu()), software].into_iter().flatten().collect()
}

fn outputs(traced: &Traced, device: &Device, inputs: &[HostTensor]) -> Vec<HostTensor> {
    let step = compile(traced, device, &Config::default()).expect("compiles");
    run(&step, inputs).expect("runs")
}

fn run(step: &Step, inputs: &[HostTensor]) -> Result<Vec<HostTensor>, Error> {
    let mut state = step.init(3)?;
    Ok(step.run(&mut state, inputs)?.outputs()?.into_iter().map(|(_, t)| t).collect())
}

fn faults(traced: inductor::Result<Traced>) -> String {
    traced.expect_err("refused").to_string()
}

fn numbers(n: usize, seed: f32) -> Vec<f32> {
    (0..n).map(|k| ((k as f32 * 0.7 + seed).sin() * 1.3).fract()).collect()
}

fn close(a: &HostTensor, b: &HostTensor, tolerance: f64) {
    assert_eq!(a.ty(), b.ty());
    for (x, y) in a.to_f64().into_iter().zip(b.to_f64()) {
        assert!((x - y).abs() <= tolerance * (1.0 + y.abs()), "{x} and {y} in {a:?} and {b:?}");
    }
}

fn summed(length: usize) -> Traced {
    trace_eval("sum", |t| {
        let xs = t.input("xs", DType::F32, length);
        let (last, _) = t.scan(|sum: Tensor, x: Tensor| (&sum * 0.5 + &x, ()), t.zeros(DType::F32, ()), xs);
        Ok(vec![last])
    })
    .expect("recorded")
}

#[test]
fn a_long_scan_compiles_in_no_time_and_takes_no_memory() {
    let long = 1 << 20;
    let started = Instant::now();
    let step = compile(&summed(long), &Device::cpu(), &Config::default()).expect("compiles");
    assert!(started.elapsed().as_secs_f64() < 0.5, "{:?}", started.elapsed());
    let short = compile(&summed(8), &Device::cpu(), &Config::default()).expect("compiles");
    assert_eq!(step.peak_bytes() - 4 * long as u64, short.peak_bytes() - 4 * 8, "beside what is sliced");
    let last = run(&step, &[HostTensor::f32(&[long], &vec![1.0; long])]).expect("runs").remove(0);
    assert_eq!(last.to_f32(), [2.0]);
    for device in devices() {
        let xs = numbers(3000, 0.1);
        let expected = xs.iter().fold(0.0f32, |sum, x| sum * 0.5 + x);
        let last = outputs(&summed(3000), &device, &[HostTensor::f32(&[3000], &xs)]).remove(0);
        close(&last, &HostTensor::f32(&[], &[expected]), 1e-6);
    }
}

#[test]
fn launches_of_loops_are_timed_as_often_as_they_run() {
    let Ok(device) = Device::software() else { return eprintln!("software adapter: skipped") };
    let step = compile(&summed(5), &device, &Config::default()).expect("compiles");
    run(&step, &[HostTensor::f32(&[5], &[1.0; 5])]).expect("runs");
    let times = match step.command_times() {
        Err(Error::Platform(why)) => return eprintln!("skipped, {why}"),
        times => times.expect("timed"),
    };
    let plan = step.plan();
    let trips = |launch: usize| times.iter().filter(|t| t.launch == launch).count();
    let is_in_main = |launch: usize| plan.program.main().contains(&(plan.launches[launch].commands[0] as usize));
    let looped: Vec<usize> = (0..plan.launches.len()).filter(|&l| !is_in_main(l) && trips(l) == 5).collect();
    assert!(!looped.is_empty(), "{times:?}");
    assert!(times.iter().all(|t| plan.launches[t.launch].code.is_some()), "what stands for the loop is no launch");
    assert!(times.windows(2).all(|pair| pair[0].start_us <= pair[1].start_us), "in the order in which they ran");

    // Only the device knows how many trips there are.
    let doubled = trace_eval("doubled", |t| {
        let x = t.input("x", DType::F32, 4);
        Ok(vec![t.while_loop(|x: Tensor| x.amax(()).lt(100.0), |x: Tensor| x * 2.0, x)])
    });
    let step = compile(&doubled.expect("recorded"), &device, &Config::default()).expect("compiles");
    let found = run(&step, &[HostTensor::f32(&[4], &[1.0; 4])]).expect("runs").remove(0);
    let profile = step.profile().expect("profiled");
    assert!(profile.commands.iter().any(|c| profile.commands.iter().filter(|other| other.command == c.command).count() >= 7));
    assert_eq!(found.to_f32(), [128.0; 4]);
}

#[test]
fn products_of_loops_are_tuned() {
    let Ok(device) = Device::software() else { return eprintln!("software adapter: skipped") };
    let traced = trace_eval("powers", |t| {
        let x = t.input("x", DType::F32, (64, 64));
        Ok(vec![t.fori_loop(2, |_, y: Tensor| y.matmul(&x), x.clone())])
    });
    match device.tune(&traced.expect("recorded"), &Config::default(), &[HostTensor::zeros(DType::F32, &[64, 64])]) {
        Err(Error::Platform(why)) => eprintln!("skipped, {why}"),
        found => assert!(found.expect("tuned").1.iter().any(|kernel| kernel.label.contains("matmul")), "the product in the loop has forms"),
    }
}

/// A recurrent net with a loss, by a loop in the program or unrolled.
fn recurrent(unrolled: bool) -> Traced {
    trace("net", |t| {
        let (xs, y) = (t.input("xs", DType::F32, (6, 4, 3)), t.input("y", DType::F32, (4, 5)));
        let (w, u) = (t.parameter("w", DType::F32, (3, 5), Initializer::Normal { std: 0.5 }), weights(t));
        let cell = |h: &Tensor, x: &Tensor| (x.matmul(&w) + h.matmul(&u)).tanh();
        let mut h = t.zeros(DType::F32, (4, 5));
        let mut all = vec![];
        if unrolled {
            for k in 0..6 {
                h = cell(&h, &xs.narrow(0, k, 1).squeeze(0));
                all.push(h.square().sum_all());
            }
        } else {
            let step = |h: Tensor, x: Tensor| (cell(&h, &x), cell(&h, &x).square().sum_all());
            let (last, norms) = t.scan(step, h, xs);
            (h, all) = (last, vec![norms.sum_all()]);
        }
        let penalty = all.into_iter().reduce(|a, b| a + b).expect("norms");
        Ok(h.mse(&y) + penalty * 0.01)
    })
    .expect("recorded")
}

fn weights(t: &Trace) -> Tensor {
    t.path("cell").parameter("u", DType::F32, (5, 5), Initializer::Normal { std: 0.5 })
}

#[test]
fn training_through_a_scan_is_training_through_the_unrolled_loop() {
    let (xs, y) = (HostTensor::f32(&[6, 4, 3], &numbers(72, 0.3)), HostTensor::f32(&[4, 5], &numbers(20, 0.9)));
    let losses = |traced: &Traced, device: &Device| {
        let step = compile_train(traced, device, optim::AdamW::new(0.02), &Config::default()).expect("compiles");
        let mut state = step.init(5).expect("a state");
        (0..20).map(|_| step.run(&mut state, [&xs, &y]).and_then(|r| r.loss()).expect("a step")).collect::<Vec<f32>>()
    };
    let expected = losses(&recurrent(true), &Device::cpu());
    assert!(expected[19] < 0.8 * expected[0], "{expected:?}");
    for device in devices() {
        let got = losses(&recurrent(false), &device);
        assert!(got.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5 * b.abs()), "{got:?}\n{expected:?}");
    }
}

/// `y` of a loop, its gradient and the gradient's along a direction, by a scan or unrolled.
fn derivatives(unrolled: bool) -> Traced {
    trace_eval("derivatives", |t| {
        let (x, w) = (t.input("x", DType::F32, (4, 3)), t.input("w", DType::F32, 3));
        let start = t.ones(DType::F32, 3);
        let cell = |c: &Tensor, x: &Tensor| (c * &w + x.sin()).tanh() * x;
        let last = if unrolled {
            (0..4).fold(start, |c, k| cell(&c, &x.narrow(0, 3 - k, 1).squeeze(0)))
        } else {
            t.reverse_scan(|c: Tensor, x: Tensor| (cell(&c, &x), ()), start, x.clone()).0
        };
        let y = last.square().sum_all();
        let first = y.grad(&[&x, &w]);
        let second = (first[0].square().sum_all() + first[1].square().sum_all()).grad(&[&x, &w]);
        let along = y.jvp(&[(&w, &t.ones(DType::F32, 3))]);
        Ok([vec![y, along], first, second].concat())
    })
    .expect("recorded")
}

#[test]
fn gradients_of_gradients_pass_through_loops() {
    let inputs = [HostTensor::f32(&[4, 3], &numbers(12, 0.5)), HostTensor::f32(&[3], &[0.5, -0.7, 0.9])];
    let expected = outputs(&derivatives(true), &Device::cpu(), &inputs);
    for device in devices() {
        let got = outputs(&derivatives(false), &device, &inputs);
        got.iter().zip(&expected).for_each(|(a, b)| close(a, b, 2e-5));
    }
}

#[test]
fn a_loop_with_its_gradient_runs_once() {
    let traced = trace_eval("descent", |t| {
        let (x, w) = (t.input("x", DType::F32, (6, 3)), t.input("w", DType::F32, 3));
        let (last, all) = t.scan(
            |h: Tensor, x: Tensor| {
                let h = (&h * &w + x).tanh();
                (h.clone(), h)
            },
            t.zeros(DType::F32, 3),
            &x,
        );
        let gradient = (last.square().sum(()) + all.sum(())).grad(&[&w]).remove(0);
        Ok(vec![last, all, gradient])
    })
    .expect("recorded");
    let unrolled = trace_eval("unrolled", |t| {
        let (x, w) = (t.input("x", DType::F32, (6, 3)), t.input("w", DType::F32, 3));
        let mut all = vec![t.zeros(DType::F32, 3)];
        (0..6).for_each(|k| all.push((&all[k as usize] * &w + x.select(0, k)).tanh()));
        let gradient = (all[6].square().sum(()) + Tensor::stack(&all[1..], 0).sum(())).grad(&[&w]).remove(0);
        Ok(vec![all[6].clone(), Tensor::stack(&all[1..], 0), gradient])
    })
    .expect("recorded");
    let inputs = [HostTensor::f32(&[6, 3], &numbers(18, 0.2)), HostTensor::f32(&[3], &[0.5, -0.7, 0.9])];
    for device in devices() {
        let step = compile(&traced, &device, &Config::default()).expect("compiles");
        assert_eq!(step.plan().program.controls.len(), 2, "forward and backward");
        let expected = outputs(&unrolled, &device, &inputs);
        run(&step, &inputs).expect("runs").iter().zip(&expected).for_each(|(a, b)| close(a, b, 1e-5));
    }
}

#[test]
fn only_the_branch_that_is_taken_checks() {
    let traced = trace_eval("lookup", |t| {
        let (x, at) = (t.input("x", DType::F32, 4), t.input("at", DType::I32, 1));
        let inside = at.sum_all().lt(4).logical_and(at.sum_all().ge(0));
        Ok(vec![t.cond(&inside, || x.index_select(0, &(&at * 1)), || t.full(DType::F32, 1, -1.0))])
    })
    .expect("recorded");
    let x = HostTensor::f32(&[4], &[1.0, 2.0, 3.0, 4.0]);
    for device in devices() {
        let step = compile(&traced, &device, &Config::default()).expect("compiles");
        let at = |k: i32| run(&step, &[x.clone(), HostTensor::i32(&[1], &[k])]).expect("runs").remove(0).to_f32();
        assert_eq!((at(2), at(7), at(-1)), (vec![3.0], vec![-1.0], vec![-1.0]));
    }
}

#[test]
fn a_check_within_a_loop_refuses_the_step() {
    let traced = trace_eval("walk", |t| {
        let (next, start) = (t.input("next", DType::I32, 4), t.input("start", DType::I32, 1));
        let far = |at: Tensor| at.sum_all().ge(0);
        Ok(vec![t.while_loop(far, |at: Tensor| next.index_select(0, &at), start)])
    })
    .expect("recorded");
    for device in devices() {
        let step = compile(&traced, &device, &Config::default()).expect("compiles");
        let walk = |next: [i32; 4]| run(&step, &[HostTensor::i32(&[4], &next), HostTensor::i32(&[1], &[0])]);
        assert_eq!(walk([2, -5, 1, 0]).expect("runs")[0].to_i64(), [-5]);
        let refused = walk([2, -5, 7, 0]).expect_err("an index that is not there").to_string();
        assert!(refused.contains("index outside 0..4"), "{refused}");
    }
}

#[test]
fn trips_draw_different_numbers() {
    let traced = trace_eval("noise", |t| {
        let row = |_: Tensor, x: Tensor| {
            let drawn = t.key().uniform(8);
            (drawn.clone(), drawn + &x)
        };
        let (last, all) = t.scan(row, t.zeros(DType::F32, 8), t.zeros(DType::F32, (3, 8)));
        Ok(vec![last, all])
    })
    .expect("recorded");
    let expected = outputs(&traced, &Device::cpu(), &[]);
    let rows: Vec<Vec<f32>> = expected[1].to_f32().chunks(8).map(<[f32]>::to_vec).collect();
    assert!(rows[0] != rows[1] && rows[1] != rows[2] && rows[2] == expected[0].to_f32(), "{rows:?}");
    for device in devices() {
        assert_eq!(outputs(&traced, &device, &[]), expected);
    }
}

#[test]
fn a_loop_of_symbolic_length() {
    let traced = trace_eval("sizes", |t| {
        let n = Dim::symbol("n", 1, 64);
        let xs = t.input("xs", DType::F32, [n.clone(), 2.into()]);
        let (last, all) = t.reverse_scan(|sum: Tensor, x: Tensor| (&sum + &x, sum * &x), t.zeros(DType::F32, 2), xs);
        Ok(vec![last, all, t.fori_loop(n, |i, count: Tensor| count + i, t.zeros(DType::I32, ())).cast(DType::F32)])
    })
    .expect("recorded");
    for device in devices() {
        let step = compile(&traced, &device, &Config::default()).expect("compiles");
        for n in [5usize, 1, 17] {
            let xs = numbers(2 * n, 0.2);
            let (mut sum, mut all) = ([0.0f32; 2], vec![0.0f32; 2 * n]);
            for k in (0..2 * n).rev() {
                let column = k % 2;
                all[k] = sum[column] * xs[k];
                sum[column] += xs[k];
            }
            let got = run(&step, &[HostTensor::f32(&[n, 2], &xs)]).expect("runs");
            close(&got[0], &HostTensor::f32(&[2], &sum), 1e-5);
            close(&got[1], &HostTensor::f32(&[n, 2], &all), 1e-5);
            assert_eq!(got[2].to_f32(), [(n * (n - 1) / 2) as f32]);
        }
    }
}

#[test]
fn mistakes_are_told_at_their_line() {
    let eval = |f: &dyn Fn(&Trace) -> Tensor| trace_eval("wrong", |t| Ok(vec![f(t)]));
    let x = |t: &Trace| t.input("x", DType::F32, 3);
    let message = faults(eval(&|t| t.cond(&x(t).sum_all().gt(0.0), || x(t), || t.zeros(DType::F32, 4))));
    assert!(message.contains("two inputs named x"), "{message}");
    let message = faults(eval(&|t| {
        let x = x(t);
        t.cond(&x.sum_all().gt(0.0), || x.clone(), || t.zeros(DType::F32, 4))
    }));
    assert!(message.contains("cond: the branches give different types: (f32[3]) and (f32[4])") && message.contains("control.rs"), "{message}");
    let message = faults(eval(&|t| t.scan(|c: Tensor, x: Tensor| (c.cast(DType::F64), x), t.zeros(DType::F32, ()), x(t)).1));
    assert!(message.contains("scan: the body takes (f32[]) and gives (f64[])"), "{message}");
    let message = faults(eval(&|t| {
        let mut leaked = None;
        let (last, _) = t.scan(|c: Tensor, x: Tensor| (leaked.insert(&c + &x).clone(), ()), t.zeros(DType::F32, ()), x(t));
        last + leaked.expect("recorded")
    }));
    assert!(message.contains("is read outside of it: return it from there") && message.contains("control.rs"), "{message}");
    let message = faults(eval(&|t| {
        let x = x(t);
        t.while_loop(|y: Tensor| y.sum_all().lt(9.0), |y: Tensor| y * 2.0, x.clone()).grad(&[&x]).remove(0)
    }));
    assert!(message.contains("while_loop is not differentiable") && message.contains("control.rs"), "{message}");
}

#[test]
fn a_program_holds_its_loops_as_loops() {
    let traced = trace_eval("rows", |t| Ok(vec![t.map(|row: Tensor| row.softmax(-1), t.input("x", DType::F32, (50, 8)))])).expect("recorded");
    assert_eq!(traced.graph.nodes.iter().filter(|n| n.op.name() == "scan").count(), 1);
    let x = HostTensor::f32(&[50, 8], &numbers(400, 0.4));
    let plain = trace_eval("rows", |t| Ok(vec![t.input("x", DType::F32, (50, 8)).softmax(-1)])).expect("recorded");
    let expected = outputs(&plain, &Device::cpu(), std::slice::from_ref(&x)).remove(0);
    for device in devices() {
        let step = compile(&traced, &device, &Config::default()).expect("compiles");
        close(&run(&step, std::slice::from_ref(&x)).expect("runs")[0], &expected, 1e-6);
        let said = step.explain().launches.total();
        assert_eq!(said, step.launches(), "{}", device.describe());
        assert!(said >= 50 && step.plan().program.commands.len() < 12, "{}", step.explain());
        let verified = Config { verify: inductor::Verify::Full, ..Config::default() };
        let step = compile(&traced, &device, &verified).expect("compiles");
        close(&run(&step, std::slice::from_ref(&x)).expect("agrees with the graph")[0], &expected, 1e-6);
    }
}

#[test]
fn long_sequences_are_loops_that_give_what_short_ones_do() {
    let layer = || nn::Recurrent::new(3).layers(2);
    let whole = |length: Dim| {
        trace_eval("whole", move |t| {
            let x = t.input("x", DType::F32, [length.clone(), 2.into(), 4.into()]);
            let (y, (h, c)) = nn::lstm(&t.path("lstm"), &x, None, layer());
            let gradient = y.square().sum_all().grad(&[&x]).remove(0);
            Ok(vec![y, h, c, gradient])
        })
        .expect("recorded")
    };
    let halves = trace_eval("halves", |t| {
        let x = t.input("x", DType::F32, (80, 2, 4));
        let (first, (h, c)) = nn::lstm(&t.path("lstm"), &x.narrow(0, 0, 40), None, layer());
        let (second, (h, c)) = nn::lstm(&t.path("lstm"), &x.narrow(0, 40, 40), Some((&h, &c)), layer());
        let y = Tensor::cat(&[&first, &second], 0);
        let gradient = y.square().sum_all().grad(&[&x]).remove(0);
        Ok(vec![y, h, c, gradient])
    })
    .expect("recorded");
    let x = HostTensor::f32(&[80, 2, 4], &numbers(640, 0.6));
    let expected = outputs(&halves, &Device::cpu(), std::slice::from_ref(&x));
    let loops = |traced: &Traced| traced.graph.nodes.iter().filter(|n| n.op.name() == "scan").count();
    assert_eq!((loops(&halves), loops(&whole(80.into()))), (0, 6), "two forward, two that save, two backward");
    for device in devices() {
        for length in [80.into(), Dim::symbol("n", 1, 100)] {
            let got = outputs(&whole(length), &device, std::slice::from_ref(&x));
            got.iter().zip(&expected).for_each(|(a, b)| close(a, b, 1e-5));
        }
    }
}
