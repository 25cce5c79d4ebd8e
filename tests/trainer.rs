//! The training loop: it goes on exactly, evaluates, stops, keeps checkpoints, and writes logs.

use inductor::config::{Gradients, Optimizer};
use inductor::optim::{Adam, Goal, Plateau, Schedule, Sgd};
use inductor::train::data::{Dataset, Loader};
use inductor::train::{Checkpoints, EarlyStopping, End, Event, History, Run, Trainer};
use inductor::{Config, DType, Device, Error, HostTensor, Initializer, Inputs, State, Step, compile, compile_train, trace, trace_eval};
use std::path::Path;

fn devices() -> Vec<Device> {
    let mut out = vec![Device::cpu()];
    match Device::software() {
        Ok(device) => out.push(device),
        Err(error) => eprintln!("software adapter: skipped, {error}"),
    }
    out
}

const EXAMPLES: usize = 40;

fn data() -> Dataset {
    let x: Vec<f32> = (0..EXAMPLES * 3).map(|i| (i as f32 * 1.7).sin()).collect();
    let y: Vec<f32> = x.chunks(3).map(|x| x[0] - 2.0 * x[1] + 0.5 * x[2]).collect();
    Dataset::new([("x", HostTensor::f32(&[EXAMPLES, 3], &x)), ("y", HostTensor::f32(&[EXAMPLES], &y))]).unwrap()
}

fn loader() -> Loader {
    data().loader(8).shuffle(11)
}

/// A linear regression with dropout, so that keys matter, too.
fn step_on(device: &Device, optimizer: impl Into<Optimizer>, config: &Config) -> Step {
    regression(device, optimizer, config, 0.1)
}

fn regression(device: &Device, optimizer: impl Into<Optimizer>, config: &Config, dropout: f64) -> Step {
    let program = trace("regression", |t| {
        let (x, y) = (t.input("x", DType::F32, (8, 3)), t.input("y", DType::F32, 8));
        let w = t.parameter("w", DType::F32, 3, Initializer::Uniform { low: -1.0, high: 1.0 });
        let sums = (x * w).dropout(dropout, &t.key()).matmul(&t.full(DType::F32, (3, 1), 1.0));
        Ok((sums.reshape(8) - y).square().mean_all())
    });
    compile_train(&program.unwrap(), device, optimizer, config).unwrap()
}

fn step(optimizer: impl Into<Optimizer>) -> Step {
    step_on(&Device::cpu(), optimizer, &Config::default())
}

/// The mean squared error over all examples.
fn error_of(device: &Device) -> impl FnMut(&mut State) -> inductor::Result<Vec<(String, f64)>> + use<> {
    let program = trace_eval("error", |t| {
        let (x, y) = (t.input("x", DType::F32, (EXAMPLES, 3)), t.input("y", DType::F32, EXAMPLES));
        let w = t.parameter("w", DType::F32, 3, Initializer::Zeros);
        Ok(vec![("error", (x.matmul(&w.reshape([3, 1])).reshape(EXAMPLES) - y).square().mean_all())])
    });
    let look = compile(&program.unwrap(), device, &Config::default()).unwrap();
    move |state| {
        let batch = data().loader(EXAMPLES).epoch(0).next().expect("one")?;
        Ok(vec![("error".into(), look.run(state, batch)?.output("error")?.to_f64()[0])])
    }
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Without the clock.
fn facts(history: &History) -> Vec<(u64, f64, f64)> {
    history.steps.iter().map(|s| (s.step, s.loss, s.lr)).collect()
}

#[test]
fn a_run_goes_on_exactly() {
    for device in devices() {
        let run = |folder: &Path, until: u64, resume: bool, prefetch: usize| -> (Run, State) {
            let step = step_on(&device, Adam::new(0.1).average(0.9), &Config::default());
            let mut state = step.init(5).unwrap();
            let plateau = Plateau::new(0.1, Goal::Smaller).patience(0).threshold(0.9, true).factor(0.5);
            let mut trainer = Trainer::new(step)
                .steps(30)
                .plateau("error", plateau)
                .evaluate(4, error_of(&device))
                .evaluate_averages(true)
                .checkpoints(Checkpoints::new(folder.join("checkpoints")).every(5).keep(2).best("error", Goal::Smaller))
                .folder(folder)
                .prefetch(prefetch)
                .resume(resume);
            let run = trainer.run(&mut state, |done| loader().from(done).take((until - done) as usize)).unwrap();
            (run, state)
        };
        let folder = tempfile::tempdir().unwrap();
        let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
        let (expected, a) = run(&whole, 30, true, 2);
        let (first, _) = run(&parts, 12, true, 0);
        assert_eq!((first.end, first.steps), (End::NoBatches, 12));
        // As if the process had died behind its last checkpoint but one.
        std::fs::remove_file(parts.join("checkpoints/step-00000012.safetensors")).unwrap();
        std::fs::write(parts.join("checkpoints/best.safetensors"), "").unwrap();
        let (found, b) = run(&parts, 30, true, 3);
        assert_eq!((found.end, found.steps, expected.end), (End::Done, 30, End::Done));
        for name in a.names() {
            assert!(a.get(&name).unwrap() == b.get(&name).unwrap(), "{name} on {device:?}");
        }
        assert_eq!(facts(&expected.history), facts(&found.history));
        assert_eq!(expected.history.evaluations, found.history.evaluations);
        assert!(expected.history.steps.last().unwrap().lr < 0.1, "the plateau was reached");
        let written = History::read(parts.join("metrics.jsonl"), u64::MAX).unwrap();
        assert_eq!(facts(&written), facts(&found.history));
        assert_eq!(written.evaluations, found.history.evaluations);
        let kept = ["best.safetensors", "step-00000025.json", "step-00000025.safetensors", "step-00000030.json", "step-00000030.safetensors"];
        assert_eq!(files(&whole.join("checkpoints")), kept);
        assert!(std::fs::read_to_string(parts.join("report.html")).unwrap().contains("evaluation: error"));
    }
}

#[test]
fn early_stopping_and_the_best_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let step = step(Sgd::new(0.1));
    let mut state = step.init(1).unwrap();
    let errors = [5.0, 3.0, 2.9, 3.5, 1.0, 2.0, 2.0, 2.0, 0.5];
    let (mut at, checkpoints) = (0, Checkpoints::new(folder.path()).best("error", Goal::Smaller));
    let best = checkpoints.best_path();
    let mut seen = vec![];
    let mut trainer = Trainer::new(step.clone())
        .evaluate(1, |_| {
            at += 1;
            Ok([("error", errors[at - 1])])
        })
        .early_stopping(EarlyStopping::new("error", Goal::Smaller).patience(3).min_delta(0.2))
        .checkpoints(checkpoints)
        .on_step(|record| {
            seen.push(record.step);
            Ok(())
        });
    let run = trainer.run(&mut state, |done| loader().from(done)).unwrap();
    drop(trainer);
    assert_eq!((run.end, run.steps, seen), (End::Stopped, 8, (1..=8).collect()));
    let mut other = step.init(2).unwrap();
    other.load_checkpoint(best).unwrap();
    assert_eq!(other.step(), 5);

    let mut trainer = Trainer::new(step.clone()).evaluate(1, |_| Ok([("loss", 0.0)])).early_stopping(EarlyStopping::new("error", Goal::Smaller));
    let error = trainer.run(&mut state, |done| loader().from(done)).unwrap_err().to_string();
    assert!(error.contains("the evaluation gives no error; it gives [loss]"), "{error}");
    let metrics = || Ok(vec![("error", 1.0)]);
    let plateau = || Plateau::new(0.1, Goal::Smaller);
    for (mut trainer, part) in [
        (Trainer::new(step.clone()).plateau("error", plateau()), "Trainer::plateau goes by evaluations"),
        (Trainer::new(step.clone()).evaluate_averages(true), "Trainer::evaluate_averages goes by evaluations"),
        (
            Trainer::new(step.clone()).evaluate(1, move |_| metrics()).plateau("error", plateau()).schedule(Schedule::Constant(0.1)),
            "both set the learning rate",
        ),
    ] {
        let error = trainer.run(&mut state, |done| loader().from(done)).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let error = Trainer::new(step).resume(true).run(&mut state, |done| loader().from(done)).unwrap_err().to_string();
    assert!(error.contains("Trainer::checkpoints"), "{error}");
}

#[test]
fn schedules_count_updates_and_norms_are_read() {
    let config = Config { gradients: Gradients::Norms, ..Config::default() };
    for device in devices() {
        let step = step_on(&device, Sgd::new(0.5).accumulate(2), &config);
        let mut state = step.init(1).unwrap();
        let schedule = Schedule::Exponential { lr: 0.5, factor: 0.5 };
        let mut trainer = Trainer::new(step).steps(6).schedule(schedule).gradient_norms(3);
        let run = trainer.run(&mut state, |done| loader().from(done)).unwrap();
        let rates: Vec<f64> = run.history.steps.iter().map(|s| s.lr).collect();
        assert_eq!(rates, [0.5, 0.5, 0.25, 0.25, 0.125, 0.125]);
        let norms: Vec<usize> = run.history.steps.iter().map(|s| s.gradient_norms.len()).collect();
        assert_eq!(norms, [0, 0, 1, 0, 0, 1]);
        assert!(run.history.steps[2].gradient_norms["w"] > 0.0);
    }
}

#[test]
fn what_goes_wrong_ends_the_run() {
    let spoil = |done: u64| {
        (done + 1..).map(|k| {
            let y = if k == 3 { f32::MAX } else { 0.0 };
            if k == 6 {
                Err(Error::Input("the disk is gone".into()))
            } else {
                Ok([HostTensor::f32(&[8, 3], &[0.5; 24]), HostTensor::f32(&[8], &[y; 8])])
            }
        })
    };
    let step = step(Sgd::new(0.0));
    let mut state = step.init(1).unwrap();
    let error = Trainer::new(step.clone()).run(&mut state, spoil).unwrap_err().to_string();
    assert!(error.contains("the loss of step 3 is inf"), "{error}");
    let mut state = step.init(1).unwrap();
    let error = Trainer::new(step.clone()).keep_going(true).run(&mut state, spoil).unwrap_err().to_string();
    assert_eq!(error, "input: the disk is gone");
    assert_eq!(state.step(), 5);
    let stop = |event: Event<'_>| match event {
        Event::Step(record) if record.step == 2 => Err(Error::Input("enough".into())),
        _ => Ok(()),
    };
    let mut state = step.init(1).unwrap();
    let error = Trainer::new(step.clone()).observe(stop).run(&mut state, spoil).unwrap_err().to_string();
    assert_eq!(error, "input: enough");
    let none = |_| std::iter::empty::<inductor::Result<Inputs>>();
    assert_eq!(Trainer::new(step).run(&mut state, none).unwrap().end, End::NoBatches);
}

/// States as wholes and parts.
#[test]
fn copies_parts_and_unions() {
    let step = regression(&Device::cpu(), Adam::new(0.1), &Config::default(), 0.0);
    let mut state = step.init(1).unwrap();
    let batch = || loader().from(0).next().unwrap().unwrap();
    step.run(&mut state, batch()).unwrap();
    let mut copy = state.try_clone().unwrap();
    let before = state.get("w").unwrap();
    step.run(&mut copy, batch()).unwrap();
    assert!(state.get("w").unwrap() == before && copy.get("w").unwrap() != before);
    assert_eq!((state.step(), copy.step()), (1, 2));
    let mut other = state.subset("w").unwrap();
    assert_eq!(other.names(), state.names());
    other.merge(&copy).unwrap();
    assert!(other.get("w").unwrap() == copy.get("w").unwrap());
    step.run(&mut other, batch()).unwrap();
    step.run(&mut copy, batch()).unwrap();
    assert!(other.get("optimizer.w.exp_avg").unwrap() == copy.get("optimizer.w.exp_avg").unwrap());
    let wrong =
        compile(&trace_eval("v", |t| Ok(vec![t.parameter("w", DType::F32, 4, Initializer::Zeros)])).unwrap(), &Device::cpu(), &Config::default());
    let error = state.merge(&wrong.unwrap().init(1).unwrap()).err().unwrap().to_string();
    assert!(error.contains("w: expected f32[3], got f32[4]"), "{error}");
    assert!(state.subset("v").err().unwrap().to_string().contains("no tensor that fits v"));
    assert!(state.averaged().err().unwrap().to_string().contains("no averages"));
}
