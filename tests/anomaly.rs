//! `Config::detect_anomaly`: the first value of a step that is not finite, by operator, line and step.

use inductor::models::mlp;
use inductor::optim::{AdamW, Sgd};
use inductor::{Config, DType, Device, Error, HostTensor, Initializer, State, Step, Tensor, Traced, compile, compile_train, trace, trace_eval};

fn devices() -> Vec<Device> {
    let mut out = vec![Device::cpu()];
    match Device::software() {
        Ok(device) => out.push(device),
        Err(error) => eprintln!("software adapter: skipped, {error}"),
    }
    out
}

fn hunting() -> Config {
    Config { detect_anomaly: true, ..Config::default() }
}

/// A loss of `x` and a parameter `w` that starts at one.
fn traced(loss: impl FnOnce(&Tensor, &Tensor) -> Tensor) -> Traced {
    trace("hunt", |t| Ok(loss(&t.input("x", DType::F32, 4), &t.parameter("w", DType::F32, 4, Initializer::Ones)))).unwrap()
}

fn x(values: [f32; 4]) -> HostTensor {
    HostTensor::f32(&[4], &values)
}

/// The refusal of a run that leaves state as it was.
#[track_caller]
fn refusal(step: &Step, state: &mut State, x: &HostTensor) -> String {
    let before = (state.step(), state.get("w").unwrap());
    let message = match step.run(state, [x]).and_then(|r| r.loss()) {
        Err(Error::Step(message)) => message,
        other => panic!("not refused: {other:?}"),
    };
    assert_eq!((state.step(), state.get("w").unwrap()), before, "{message}");
    message
}

#[track_caller]
fn has(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "no {part:?} in: {message}");
    }
}

#[test]
fn an_overflow_of_the_forward_is_named() {
    let mut line = 0;
    let traced = traced(|x, w| {
        line = line!() + 1;
        let grown = (x * w).exp();
        (grown.log() * 0.5).sum_all()
    });
    let at = format!("tests/anomaly.rs:{line}");
    for device in devices() {
        let step = compile_train(&traced, &device, Sgd::new(0.0), &hunting()).unwrap();
        let mut state = step.init(0).unwrap();
        for _ in 0..2 {
            step.run(&mut state, [&x([1.0, 2.0, 3.0, 4.0])]).unwrap().loss().unwrap();
        }
        let message = refusal(&step, &mut state, &x([1.0, 2.0, 99.0, 4.0]));
        has(&message, &["of step 3 that is not finite is of exp of the forward", &at, "element [2] of f32[4] is inf", "from 1.0 to 99.0"]);
        step.run(&mut state, [&x([1.0; 4])]).unwrap().loss().unwrap();
        assert_eq!(state.step(), 3, "{device:?}");
    }
}

/// The forward hides it; the backward multiplies an infinite slope by zero.
#[test]
fn nan_of_the_backward_alone_is_named() {
    let mut line = 0;
    let traced = traced(|x, w| {
        line = line!() + 1;
        let root = (x * w).sqrt();
        x.gt(0.0).where_(root, 0.0).sum_all()
    });
    let at = format!("tests/anomaly.rs:{line}");
    for device in devices() {
        let step = compile_train(&traced, &device, AdamW::new(0.1), &hunting()).unwrap();
        let mut state = step.init(0).unwrap();
        let message = refusal(&step, &mut state, &x([1.0, 0.0, 4.0, 9.0]));
        has(&message, &["w is not finite; the first value of step 1", "of the backward", &at, "element [1] of f32[4]"]);
    }
}

#[test]
fn an_overflow_of_the_update_is_named() {
    let traced = traced(|x, w| (x * w).sum_all());
    for device in devices() {
        let step = compile_train(&traced, &device, Sgd::new(1.0), &hunting()).unwrap();
        let mut state = step.init(0).unwrap();
        step.set_scalar("lr", 1e38).unwrap();
        let message = refusal(&step, &mut state, &x([0.0, 0.0, 10.0, 0.0]));
        has(&message, &["of the update", "element [2] of f32[4] is"]);
    }
}

/// Masks are infinite on purpose, and numbers are those of a program that nobody watches.
#[test]
fn what_is_meant_passes() {
    let masked = traced(|x, w| {
        let scores = x.gt(0.0).where_(x * w, f64::NEG_INFINITY);
        (scores.softmax(-1) * x).sum_all()
    });
    for device in devices() {
        let trained = |config: &Config| {
            let step = compile_train(&masked, &device, AdamW::new(0.1), config).unwrap();
            let mut state = step.init(0).unwrap();
            let run = |_| step.run(&mut state, [&x([1.0, -2.0, 3.0, 0.5])]).unwrap().loss().unwrap();
            let losses: Vec<f32> = (0..4).map(run).collect();
            (losses, state.get("w").unwrap())
        };
        assert_eq!(trained(&hunting()), trained(&Config::default()), "{device:?}");
    }
}

#[test]
fn what_comes_from_outside_is_named() {
    let traced = traced(|x, w| (x * w).sum_all());
    for device in devices() {
        let config = Config { allow_non_finite: true, ..hunting() };
        let step = compile_train(&traced, &device, Sgd::new(1.0), &config).unwrap();
        let mut state = step.init(0).unwrap();
        has(&refusal(&step, &mut state, &x([0.0, f32::NAN, 1.0, 1.0])), &["x itself: element [1] of f32[4] is NaN"]);
        state.set("w", x([1.0, 1.0, 1.0, f32::NAN])).unwrap();
        let message = match step.run(&mut state, [&x([1.0; 4])]) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("not refused"),
        };
        has(&message, &["w itself: element [3] of f32[4] is NaN"]);
    }
}

#[test]
fn inference_and_many_steps() {
    let logs = trace_eval("logs", |t| Ok(vec![("y", t.input("x", DType::F32, 4).log())])).unwrap();
    for device in devices() {
        let step = compile(&logs, &device, &hunting()).unwrap();
        let state = step.init(0).unwrap();
        assert_eq!(step.infer(&state, [&x([1.0; 4])]).unwrap().output("y").unwrap().to_f32(), [0.0; 4]);
        let error = step.infer(&state, [&x([1.0, -1.0, 1.0, 1.0])]).err().expect("refused").to_string();
        has(&error, &["log of the forward", "element [1] of f32[4] is NaN"]);

        let step = compile_train(&mlp(16, &[8, 32, 4]).unwrap(), &device, AdamW::new(1e-2), &hunting()).unwrap();
        let (mut state, y) = (step.init(1).unwrap(), HostTensor::i32(&[16], &[1; 16]));
        for k in 0..5 {
            step.run(&mut state, [&HostTensor::f32(&[16, 8], &[k as f32 / 8.0; 128]), &y]).unwrap().loss().unwrap();
        }
        assert_eq!(state.step(), 5);
        assert!(step.run(&mut state, [&HostTensor::f32(&[16, 8], &[0.0; 128]), &HostTensor::i32(&[16], &[7; 16])]).is_err());
    }
}
