//! Worker processes of `check`: they take cases one after the other from a queue. A crash, a hang or nonsense costs one case and one
//! worker.

use super::{Case, CheckOptions, Progress};
use crate::case::{Request, Verdict};
use anyhow::{Context, Result, bail};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Bytes of an answer beyond which a worker is not listened to.
const MAX_ANSWER: u64 = 1 << 24;

/// The verdict of every case, by up to `jobs` workers at a time.
pub fn run_all(cases: &[Case], options: &CheckOptions, jobs: usize) -> Result<Vec<Verdict>> {
    let queue: Mutex<VecDeque<usize>> = Mutex::new((0..cases.len()).collect());
    let verdicts: Mutex<Vec<Option<Verdict>>> = Mutex::new(vec![None; cases.len()]);
    let progress = Progress::new(cases.len());
    let take = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let drive = || {
        let mut worker = None;
        while let Some(k) = take() {
            let verdict = run_one(&mut worker, &cases[k], options);
            progress.step(&verdict);
            verdicts.lock().unwrap_or_else(PoisonError::into_inner)[k] = Some(verdict);
        }
    };
    std::thread::scope(|scope| {
        // This thread drives a worker too; where the system gives no more threads, it does so alone.
        for k in 1..jobs {
            if std::thread::Builder::new().name(format!("worker-{k}")).spawn_scoped(scope, drive).is_err() {
                break;
            }
        }
        drive();
    });
    progress.finish();
    let verdicts = verdicts.into_inner().unwrap_or_else(PoisonError::into_inner);
    verdicts.into_iter().map(|v| v.context("a case was not run")).collect()
}

/// A worker process with its answers.
struct Worker {
    child: Child,
    requests: ChildStdin,
    answers: Receiver<String>,
}

impl Worker {
    fn start(options: &CheckOptions) -> Result<Worker> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["check-worker", "--device", &options.device]);
        if options.grad {
            command.arg("--grad");
        }
        if options.verify {
            command.arg("--verify");
        }
        // Workers run side by side: each takes one thread for itself.
        command.env("RAYON_NUM_THREADS", "1");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start a worker")?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        match pipes {
            Some((requests, answers)) => Ok(Worker { child, requests, answers: listen(answers)? }),
            None => bail!("a worker has no pipes"),
        }
    }

    /// Sends a request; the line that answers it, or why there is none.
    fn ask(&mut self, request: &str, seconds: u64) -> Result<String, String> {
        let sent = writeln!(self.requests, "{request}").and_then(|()| self.requests.flush());
        let answer = sent.map_err(|_| RecvTimeoutError::Disconnected).and_then(|()| self.answers.recv_timeout(Duration::from_secs(seconds)));
        answer.map_err(|error| match (error, self.child.try_wait()) {
            (RecvTimeoutError::Timeout, _) => format!("no answer within {seconds} seconds"),
            (_, Ok(Some(status))) => format!("the worker ended: {status}"),
            _ => "the worker stopped answering".into(),
        })
    }
}

/// Lines of a worker, as they come. A line that is too long, or no text, ends them.
fn listen(answers: impl std::io::Read + Send + 'static) -> Result<Receiver<String>> {
    let (sender, receiver) = channel();
    let mut reader = BufReader::new(answers);
    let pass_on = move || {
        loop {
            let mut line = String::new();
            match std::io::Read::take(&mut reader, MAX_ANSWER).read_line(&mut line) {
                Ok(n) if n > 0 && line.ends_with('\n') && sender.send(line).is_ok() => {}
                _ => break,
            }
        }
    };
    std::thread::Builder::new().name("answers".into()).spawn(pass_on).context("cannot start a thread")?;
    Ok(receiver)
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a case on the worker, which is started when there is none, and given up when it does not answer properly.
fn run_one(worker: &mut Option<Worker>, case: &Case, options: &CheckOptions) -> Verdict {
    let verdict = match &case.broken {
        Some(what) => Err(what.clone()),
        None => ask_worker(worker, case, options),
    };
    verdict.unwrap_or_else(Verdict::Failed)
}

fn ask_worker(worker: &mut Option<Worker>, case: &Case, options: &CheckOptions) -> Result<Verdict, String> {
    let request = request(case, options).map_err(|e| format!("{e:#}"))?;
    if worker.is_none() {
        *worker = Some(Worker::start(options).map_err(|e| format!("{e:#}"))?);
    }
    let Some(running) = worker else { return Err("no worker".into()) };
    let answer = running.ask(&request, options.timeout);
    let verdict = answer.and_then(|line| serde_json::from_str(&line).map_err(|_| "the worker answered something else than a verdict".to_string()));
    if verdict.is_err() {
        *worker = None;
    }
    verdict
}

/// What a worker is asked, as a line. The folder that its outputs go to is made here.
fn request(case: &Case, options: &CheckOptions) -> Result<String> {
    let outputs = options.outputs.as_ref().map(|dir| dir.join(format!("{}.safetensors", case.name)));
    if let Some(folder) = outputs.as_ref().and_then(|path| path.parent()) {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    Ok(serde_json::to_string(&Request { dir: case.dir.clone(), outputs })?)
}
