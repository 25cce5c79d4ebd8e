//! The loop that the training examples share: it stops at a signal with a checkpoint and goes on exactly, takes no other run's
//! checkpoint, and stops at a loss that is no number.
#![cfg(all(unix, feature = "interrupt"))]

#[path = "../examples/common/mod.rs"]
mod common;

use anyhow::Result;
use clap::Parser;
use common::{Common, random, training::Training};
use inductor::optim::{AdamW, Schedule};
use inductor::runtime::load_tensors;
use inductor::train::{Checkpoints, History};
use inductor::{DType, HostTensor, Initializer, compile_train, trace};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Arguments of a child, one a line.
const ARGUMENTS: &str = "TRAINING_LOOP_ARGUMENTS";

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    common: Common,
    #[arg(long)]
    lr: Option<f64>,
    /// The step whose loss is no number.
    #[arg(long)]
    spoil: Option<u64>,
    /// Milliseconds of a step.
    #[arg(long, default_value_t = 0)]
    pause: u64,
}

/// A step of a small regression with dropout.
fn train(mut options: Options) -> Result<()> {
    let device = options.common.start()?;
    let notes = options.common.recall()?;
    notes.recall(&mut options.lr, "lr")?;
    let traced = trace("regression", |t| {
        let (x, scale) = (t.input("x", DType::F32, 8), t.input("scale", DType::F32, ()));
        let w = t.parameter("w", DType::F32, 8, Initializer::Uniform { low: -1.0, high: 1.0 });
        Ok(((x * w).dropout(0.25, &t.key()).sum_all() - 1.0).square() * scale.log())
    })?;
    let lr = options.lr.unwrap_or(0.01);
    let step = compile_train(&traced, &device, AdamW::new(lr), &options.common.config())?;
    let steps = options.common.steps.unwrap_or(40);
    let training = Training {
        common: &options.common,
        step: &step,
        steps,
        schedule: Some(Schedule::Cosine { peak: lr, floor: 0.0, warmup: 5, total: steps }),
        size: (8, "numbers"),
        facts: vec![("lr", lr.to_string())],
    };
    let mut state = training.begin()?;
    let seed = state.seed();
    let batch = |number: u64| {
        std::thread::sleep(std::time::Duration::from_millis(options.pause));
        let x: Vec<f32> = (0..8).map(|i| (random(seed, number * 8 + i) % 100) as f32 / 50.0 - 1.0).collect();
        let scale = if options.spoil == Some(number) { -1.0 } else { 3.0 };
        Ok([HostTensor::f32(&[8], &x), HostTensor::f32(&[], &[scale])])
    };
    training.run(training.trainer()?, &mut state, batch).map(|_| ())
}

/// The program of the tests below, in a process of its own: signals are the process's.
#[test]
fn child() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else { return };
    if let Err(error) = train(Options::parse_from(arguments.lines())) {
        eprintln!("Error: {error:#}");
        std::process::exit(1);
    }
    std::process::exit(0);
}

fn start(out: &Path, arguments: &[&str]) -> Child {
    let all = ["child", "--device", "cpu", "--out", out.to_str().unwrap()].iter().chain(arguments).copied().collect::<Vec<_>>().join("\n");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture"]).env(ARGUMENTS, all);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Exit code, and what was said.
fn finish(child: Child) -> (i32, String) {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).to_string() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), said)
}

fn run(out: &Path, arguments: &[&str]) -> (i32, String) {
    finish(start(out, arguments))
}

/// Runs until a step is shown, then sends a signal.
fn run_until_signal(out: &Path, arguments: &[&str], shown: &str, signal: &str) -> (i32, String) {
    let mut child = start(out, arguments);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = String::new();
    for line in lines.by_ref() {
        let line = line.unwrap();
        let is_there = line.contains(shown);
        said += &(line + "\n");
        if is_there {
            break;
        }
    }
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    lines.for_each(|line| said += &(line.unwrap() + "\n"));
    let (code, rest) = finish(child);
    (code, said + &rest)
}

fn checkpoint(out: &Path) -> PathBuf {
    Checkpoints::new(out.join("checkpoints")).last().unwrap().expect("a checkpoint").1
}

fn tensors(out: &Path) -> Vec<(String, HostTensor)> {
    load_tensors(&checkpoint(out)).unwrap().0
}

#[test]
fn a_signal_stops_with_a_checkpoint_and_the_run_goes_on_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let (code, said) = run(&whole, &["--steps", "40", "--seed", "7", "--lr", "0.02"]);
    assert_eq!(code, 0, "{said}");
    let options = ["--steps", "40", "--seed", "7", "--lr", "0.02", "--pause", "20"];
    for (signal, first) in [("-TERM", true), ("-INT", false)] {
        let resumed = if first { options.to_vec() } else { vec!["--resume", "--pause", "20"] };
        let shown = if first { "step 4 " } else { "step 12 " };
        let (code, said) = run_until_signal(&parts, &resumed, shown, signal);
        assert_eq!(code, 130, "{said}");
        assert!(said.contains("stopped after step") && said.contains("--resume goes on"), "{said}");
    }
    // What was left out is what the run began with.
    let (code, said) = run(&parts, &["--resume"]);
    assert!(code == 0 && said.contains("resumed after step "), "{said}");
    assert!(tensors(&whole) == tensors(&parts), "the run went on otherwise");
    let losses = |out: &Path| History::read(out.join("metrics.jsonl"), u64::MAX).unwrap().losses();
    assert_eq!(losses(&whole), losses(&parts));
    assert_eq!(losses(&whole).len(), 40);
    let names = |out: &Path| std::fs::read_dir(out).unwrap().map(|e| e.unwrap().file_name()).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(names(&parts), names(&whole), "nothing else is left behind");
}

#[test]
fn a_second_signal_ends_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = start(folder.path(), &["--steps", "3", "--pause", "20000"]);
    std::thread::sleep(std::time::Duration::from_millis(700));
    for _ in 0..2 {
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    let waited = std::time::Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(waited.elapsed().as_secs() < 10, "it still runs");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(Checkpoints::new(folder.path().join("checkpoints")).last().unwrap(), None);
}

#[test]
fn other_options_and_other_runs_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let (code, said) = run(out, &["--resume"]);
    assert!(code == 1 && said.contains("there is no checkpoint"), "{said}");
    let begun = run(out, &["--steps", "20", "--until", "8", "--seed", "3"]);
    assert_eq!(begun.0, 0, "{}", begun.1);
    let before = std::fs::read(checkpoint(out)).unwrap();
    for (option, value, part) in
        [("--seed", "4", "seed: it has \"3\""), ("--steps", "30", "steps: it has \"20\""), ("--lr", "0.5", "lr: it has \"0.01\"")]
    {
        let (code, said) = run(out, &["--resume", option, value]);
        assert!(code == 1 && said.contains(part) && said.contains("--resume takes the options"), "{said}");
    }
    let mut damaged = before.clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(checkpoint(out), &damaged).unwrap();
    let (code, said) = run(out, &["--resume"]);
    assert!(code == 1 && said.contains("its checksum is another"), "{said}");
    std::fs::write(checkpoint(out), &before).unwrap();
    let (code, said) = run(out, &["--resume"]);
    assert!(code == 0 && said.contains("resumed after step 8"), "{said}");
}

#[test]
fn a_loss_that_is_no_number_stops() {
    let folder = tempfile::tempdir().unwrap();
    let (code, said) = run(folder.path(), &["--steps", "12", "--spoil", "7", "--checkpoint-every", "3"]);
    assert!(code == 1 && said.contains("the loss of step 7 is NaN"), "{said}");
    // The checkpoint is the last one from before.
    let (code, said) = run(folder.path(), &["--resume", "--until", "6"]);
    assert!(code == 0 && said.contains("resumed after step 6"), "{said}");
    let (code, said) = run(folder.path(), &["--steps", "12", "--spoil", "7", "--keep-going"]);
    assert!(code == 0 && said.contains("step 12 loss NaN"), "{said}");
}
