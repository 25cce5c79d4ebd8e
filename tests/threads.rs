//! One compiled program in several threads.

use inductor::models::mlp;
use inductor::optim::AdamW;
use inductor::{Config, DType, Device, Error, HostTensor, Initializer, State, Step, Trace, compile, compile_train, nn, trace, trace_eval};

fn devices() -> Vec<Device> {
    let mut out = vec![Device::cpu()];
    match Device::software() {
        Ok(device) => out.push(device),
        Err(error) => eprintln!("software adapter: skipped, {error}"),
    }
    out
}

const THREADS: usize = 4;
const REQUESTS: usize = 200;

/// Inputs of a request, no two alike.
fn rows(thread: usize, request: usize) -> HostTensor {
    let of = |i: usize| ((i * 13 + thread * 101 + request * 7) % 29) as f32 / 8.0 - 1.5;
    HostTensor::f32(&[4, 8], &(0..32).map(of).collect::<Vec<_>>())
}

fn classifier(t: &Trace) -> Vec<(&'static str, inductor::Tensor)> {
    let x = t.input("x", DType::F32, (4, 8));
    let logits = nn::linear(&t.path("fc2"), &nn::linear(&t.path("fc1"), &x, 16).tanh(), 3);
    vec![("probabilities", logits.softmax(-1)), ("class", logits.argmax(-1))]
}

fn answer(step: &Step, state: &State, thread: usize, request: usize) -> Vec<HostTensor> {
    let result = step.infer(state, [&rows(thread, request)]).unwrap();
    result.outputs().unwrap().into_iter().map(|(_, tensor)| tensor).collect()
}

#[test]
fn four_threads_get_the_answers_of_one() {
    let traced = trace_eval("classifier", |t| Ok(classifier(t))).unwrap();
    let training = mlp(16, &[8, 16, 4]).unwrap();
    for device in devices() {
        let (step, state) = {
            let step = compile(&traced, &device, &Config::default()).unwrap();
            let state = step.init(1).unwrap();
            (step, state)
        };
        let expected: Vec<Vec<_>> = (0..THREADS).map(|t| (0..REQUESTS).map(|r| answer(&step, &state, t, r)).collect()).collect();
        let trainer = compile_train(&training, &device, AdamW::new(1e-2), &Config::default()).unwrap();
        std::thread::scope(|scope| {
            for (thread, expected) in expected.iter().enumerate() {
                let (step, state) = (step.clone(), &state);
                scope.spawn(move || {
                    for (request, expected) in expected.iter().enumerate() {
                        assert!(answer(&step, state, thread, request) == *expected, "thread {thread}, request {request}");
                    }
                });
            }
            // Somebody trains meanwhile, and somebody looks at the weights.
            scope.spawn(|| {
                let mut own = trainer.init(1).unwrap();
                let (x, y) = (HostTensor::f32(&[16, 8], &[0.25; 128]), HostTensor::i32(&[16], &[2; 16]));
                let losses: Vec<f32> = (0..50).map(|_| trainer.run(&mut own, [&x, &y]).unwrap().loss().unwrap()).collect();
                assert!(losses[49] < losses[0], "{losses:?}");
            });
            scope.spawn(|| (0..50).for_each(|_| assert_eq!(state.get("fc1.weight").unwrap().numel(), 128)));
        });
    }
}

/// Threads with states of their own take turns on one engine; none sees the other's weights.
#[test]
fn states_of_several_threads_stay_apart() {
    let traced = trace_eval("scaled", |t| Ok(vec![("y", t.input("x", DType::F32, 4) * t.parameter("w", DType::F32, 4, Initializer::Ones))])).unwrap();
    let train = trace("train", |t| Ok((t.input("x", DType::F32, 4) * t.parameter("w", DType::F32, 4, Initializer::Ones)).sum_all())).unwrap();
    for device in devices() {
        let step = compile(&traced, &device, &Config::default()).unwrap();
        let training = compile_train(&train, &device, inductor::optim::Sgd::new(1.0), &Config::default()).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (step, training) = (&step, &training);
                scope.spawn(move || {
                    let (x, mut state) = (HostTensor::f32(&[4], &[thread as f32; 4]), training.init(0).unwrap());
                    for round in 0..50 {
                        training.run(&mut state, [&x]).unwrap();
                        let w = 1.0 - (round + 1) as f32 * thread as f32;
                        let y = step.infer(&state, [&x]).unwrap();
                        assert_eq!(y.output("y").unwrap().to_f32(), [w * thread as f32; 4], "thread {thread}, round {round}");
                    }
                    assert_eq!(state.step(), 50);
                });
            }
        });
    }
}

#[test]
fn results_outlive_what_made_them() {
    let traced = trace_eval("classifier", |t| Ok(classifier(t))).unwrap();
    for device in devices() {
        let step = compile(&traced, &device, &Config::default()).unwrap();
        let state = step.init(1).unwrap();
        let expected = answer(&step, &state, 0, 0);
        let results: Vec<_> = (0..3).map(|request| step.infer(&state, [&rows(0, request)]).unwrap()).collect();
        drop((state, device));
        let copy = step.clone();
        drop(step);
        drop(copy);
        let mut results = results.into_iter();
        let first = results.next().unwrap();
        drop(results);
        assert_eq!(first.outputs().unwrap().into_iter().map(|(_, t)| t).collect::<Vec<_>>(), expected);
        assert_eq!(first.output("class").unwrap(), expected[1], "a result is read as often as one likes");
    }
}

/// Two runs of one state never draw the same numbers, whoever asks.
#[test]
fn threads_draw_different_numbers() {
    let traced = trace_eval("noise", |t| Ok(vec![("y", t.rand((2, 4)))])).unwrap();
    for device in devices() {
        let step = compile(&traced, &device, &Config::default()).unwrap();
        let state = step.init(1).unwrap();
        let drawn = std::sync::Mutex::new(vec![]);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..25 {
                        let y = step.infer(&state, ()).unwrap().output("y").unwrap().bytes().to_vec();
                        drawn.lock().unwrap().push(y);
                    }
                });
            }
        });
        let mut drawn = drawn.into_inner().unwrap();
        drawn.sort();
        drawn.dedup();
        assert_eq!(drawn.len(), THREADS * 25, "{device:?}");
    }
}

#[test]
fn programs_that_update_their_state_need_it_for_themselves() {
    let step = compile_train(&mlp(16, &[8, 16, 4]).unwrap(), &Device::cpu(), AdamW::new(1e-2), &Config::default()).unwrap();
    let state = step.init(1).unwrap();
    let (x, y) = (HostTensor::f32(&[16, 8], &[0.0; 128]), HostTensor::i32(&[16], &[0; 16]));
    match step.infer(&state, [&x, &y]) {
        Err(Error::Input(message)) => assert!(message.ends_with("needs its state for itself: use Step::run"), "{message}"),
        other => panic!("not refused: {:?}", other.map(|_| ())),
    }
}
