//! `inductor check`: every case below some folders, compared with PyTorch's results.
//!
//! Cases run in worker processes, which take one after the other from a queue: a crash or a hang costs one case and one worker.

use crate::case::{self, Request, Verdict};
use crate::write_json;
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use inductor::report::Table;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A line of progress without a terminal, every so many cases.
const PROGRESS_EVERY: usize = 100;

#[derive(clap::Args)]
pub struct CheckOptions {
    /// Folders with cases: `model.pt2` beside `expected.safetensors`, at any depth.
    #[arg(required = true)]
    dirs: Vec<PathBuf>,
    /// Where to run: auto, gpu, software or cpu.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Compare gradients too, where a case has them.
    #[arg(long)]
    grad: bool,
    /// Cases of these scopes: core, extended, all.
    #[arg(long, default_value = "core", value_delimiter = ',')]
    scope: Vec<String>,
    /// Only cases whose name contains this.
    #[arg(long)]
    filter: Option<String>,
    /// Write the result as JSON into this file; `-` is the standard output.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Compare each kernel and each stored value of every case, and name the layer that is wrong.
    #[arg(long)]
    verify: bool,
    /// Worker processes; one for each core by default.
    #[arg(long)]
    jobs: Option<usize>,
    /// File with the names of cases that are known not to pass, one a line, each followed by its reason. Then only others fail the
    /// run, and those of its cases that pass now.
    #[arg(long)]
    known: Option<PathBuf>,
    /// Seconds that one case may take.
    #[arg(long, default_value_t = 120)]
    timeout: u64,
}

/// A case, before it runs.
#[derive(Clone, Debug)]
struct Case {
    /// `ops/abs/float32_0`, `models/hf_gpt2`.
    name: String,
    /// What the table groups by.
    group: String,
    dir: PathBuf,
}

/// What `--json` writes.
#[derive(Serialize)]
struct Summary {
    cases: usize,
    passed: usize,
    failed: Vec<String>,
    unsupported: Vec<String>,
    /// Why each case that did not pass did not.
    reasons: BTreeMap<String, String>,
    /// With `--known`: those that did not pass and are not in the list.
    unexpected: Vec<String>,
    /// With `--known`: those of the list that passed.
    fixed: Vec<String>,
}

/// Runs all cases; success when all of them passed.
pub fn check(options: &CheckOptions) -> Result<ExitCode> {
    let cases = find_cases(options)?;
    if cases.is_empty() {
        bail!("there is no case to check: a case is a folder with model.pt2 and expected.safetensors, of a scope in --scope");
    }
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let jobs = options.jobs.unwrap_or(cores).clamp(1, cases.len());
    let verdicts = run_all(&cases, options, jobs)?;
    let mut summary = summarize(&cases, &verdicts);
    if let Some(path) = &options.known {
        let known = known_failures(path)?;
        summary.unexpected = summary.reasons.keys().filter(|name| !known.contains_key(*name)).cloned().collect();
        let passed = |case: &&Case| known.contains_key(&case.name) && !summary.reasons.contains_key(&case.name);
        summary.fixed = cases.iter().filter(passed).map(|c| c.name.clone()).collect();
    }
    if options.json.as_ref().is_none_or(|p| p != Path::new("-")) {
        print_table(&cases, &verdicts)?;
    }
    write_json(options.json.as_deref(), &summary)?;
    let is_good = match &options.known {
        Some(path) => report_unexpected(path, &summary),
        None => summary.passed == summary.cases,
    };
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Names with their reasons. Empty lines and those that start with `#` say nothing.
fn known_failures(path: &Path) -> Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut known = BTreeMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#')) {
        let Some((name, reason)) = line.split_once(char::is_whitespace).filter(|(_, reason)| !reason.trim().is_empty()) else {
            bail!("{}:{}: a name and the reason why it fails are expected", path.display(), number + 1);
        };
        known.insert(name.to_string(), reason.trim().to_string());
    }
    Ok(known)
}

/// Whether the run is what the list of known failures says; tells what is not.
fn report_unexpected(path: &Path, summary: &Summary) -> bool {
    for name in &summary.unexpected {
        eprintln!("{name} does not pass, and is not known to fail: {}", summary.reasons[name].replace('\n', " "));
    }
    for name in &summary.fixed {
        eprintln!("{name} passes now: take it out of {}", path.display());
    }
    summary.unexpected.is_empty() && summary.fixed.is_empty()
}

/// Runs the cases that the standard input names, one by line, and answers each with a line.
pub fn worker(device: &str, mode: case::Mode) -> Result<ExitCode> {
    // A panic becomes the case's verdict; its message is there already.
    std::panic::set_hook(Box::new(|_| {}));
    let device = inductor::Device::from_name(device)?;
    for line in std::io::stdin().lock().lines() {
        let request: Request = serde_json::from_str(&line?)?;
        let verdict = case::run_guarded(&request, &device, mode);
        println!("{}", serde_json::to_string(&verdict)?);
        std::io::stdout().flush()?;
    }
    Ok(ExitCode::SUCCESS)
}

fn find_cases(options: &CheckOptions) -> Result<Vec<Case>> {
    for scope in &options.scope {
        if !["core", "extended", "all"].contains(&scope.as_str()) {
            bail!("{scope} is no scope: use core, extended or all");
        }
    }
    let mut dirs = vec![];
    for dir in &options.dirs {
        let dir = dir.canonicalize().with_context(|| format!("cannot read {}", dir.display()))?;
        collect(&dir, &mut dirs)?;
    }
    dirs.sort();
    dirs.dedup();
    let mut cases = vec![];
    for dir in dirs {
        let facts = case::facts(&dir)?;
        let scope = facts.scope.as_deref().unwrap_or("core");
        let case = describe(&dir, &facts);
        let wanted = options.scope.iter().any(|s| s == "all" || s == scope);
        if wanted && options.filter.as_ref().is_none_or(|f| case.name.contains(f.as_str())) {
            cases.push(case);
        }
    }
    Ok(cases)
}

fn collect(dir: &Path, out: &mut Vec<PathBuf>) -> Result<()> {
    if dir.join("model.pt2").is_file() && dir.join("expected.safetensors").is_file() {
        out.push(dir.to_path_buf());
        return Ok(());
    }
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, out)?;
        }
    }
    Ok(())
}

/// Models are named by two folders, cases of operators by three.
fn describe(dir: &Path, facts: &case::Facts) -> Case {
    let parts: Vec<String> = dir.components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect();
    let depth = if facts.op.is_some() { 3 } else { 2 };
    let name = parts[parts.len().saturating_sub(depth)..].join("/");
    let group = facts.op.clone().unwrap_or_else(|| name.clone());
    Case { name, group, dir: dir.to_path_buf() }
}

fn run_all(cases: &[Case], options: &CheckOptions, jobs: usize) -> Result<Vec<Verdict>> {
    let queue: Mutex<VecDeque<usize>> = Mutex::new((0..cases.len()).collect());
    let verdicts: Mutex<Vec<Option<Verdict>>> = Mutex::new(vec![None; cases.len()]);
    let progress = Progress::new(cases.len());
    let take = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    let mut worker = None;
                    while let Some(k) = take() {
                        let verdict = run_one(&mut worker, &cases[k], options)?;
                        progress.step(&verdict);
                        verdicts.lock().unwrap_or_else(PoisonError::into_inner)[k] = Some(verdict);
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|t| t.join().map_err(|_| anyhow::anyhow!("a thread that drives a worker panicked"))?)
    })?;
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
        let (requests, answers) = (child.stdin.take().context("no pipe")?, child.stdout.take().context("no pipe")?);
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(answers).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Worker { child, requests, answers: receiver })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a case on the worker, which is started when there is none, and given up when it does not answer.
fn run_one(worker: &mut Option<Worker>, case: &Case, options: &CheckOptions) -> Result<Verdict> {
    if worker.is_none() {
        *worker = Some(Worker::start(options)?);
    }
    let Some(running) = worker else { bail!("no worker") };
    let request = serde_json::to_string(&Request { dir: case.dir.clone() })?;
    let answer = match writeln!(running.requests, "{request}").and_then(|()| running.requests.flush()) {
        Ok(()) => running.answers.recv_timeout(Duration::from_secs(options.timeout)).map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    };
    if let Ok(line) = answer {
        return Ok(serde_json::from_str(&line)?);
    }
    let why = match running.child.try_wait()? {
        Some(status) => format!("the worker ended: {status}"),
        None => format!("no answer within {} seconds", options.timeout),
    };
    *worker = None;
    Ok(Verdict::Failed(why))
}

fn summarize(cases: &[Case], verdicts: &[Verdict]) -> Summary {
    let mut summary =
        Summary { cases: cases.len(), passed: 0, failed: vec![], unsupported: vec![], reasons: BTreeMap::new(), unexpected: vec![], fixed: vec![] };
    for (case, verdict) in cases.iter().zip(verdicts) {
        let (list, why) = match verdict {
            Verdict::Passed => {
                summary.passed += 1;
                continue;
            }
            Verdict::Failed(why) => (&mut summary.failed, why),
            Verdict::Unsupported(why) => (&mut summary.unsupported, why),
        };
        list.push(case.name.clone());
        summary.reasons.insert(case.name.clone(), why.clone());
    }
    summary
}

/// One row for each operator or model.
fn print_table(cases: &[Case], verdicts: &[Verdict]) -> Result<()> {
    let mut groups: BTreeMap<&str, (usize, usize, usize, String)> = BTreeMap::new();
    for (case, verdict) in cases.iter().zip(verdicts) {
        let row = groups.entry(&case.group).or_default();
        let why = match verdict {
            Verdict::Passed => {
                row.0 += 1;
                continue;
            }
            Verdict::Failed(why) => {
                row.1 += 1;
                why
            }
            Verdict::Unsupported(why) => {
                row.2 += 1;
                why
            }
        };
        if row.3.is_empty() {
            row.3 = format!("{}: {}", case.name, why.replace('\n', " "));
        }
    }
    let mut table = Table::new(&["operator", "passed", "failed", "unsupported", "first failure"]);
    for (group, (passed, failed, unsupported, first)) in groups {
        table.row(&[group.into(), passed.to_string(), failed.to_string(), unsupported.to_string(), first]);
    }
    let count = |f: fn(&Verdict) -> bool| verdicts.iter().filter(|v| f(v)).count();
    let (passed, failed) = (count(|v| matches!(v, Verdict::Passed)), count(|v| matches!(v, Verdict::Failed(_))));
    let text = format!("{table}{} cases: {passed} passed, {failed} failed, {} unsupported\n", cases.len(), cases.len() - passed - failed);
    crate::emit(&text)
}

/// A bar on a terminal, a line now and then elsewhere.
struct Progress {
    bar: ProgressBar,
    done: Mutex<(usize, usize)>,
    total: usize,
    is_terminal: bool,
}

impl Progress {
    fn new(total: usize) -> Progress {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total as u64), target);
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg} {eta}") {
            bar.set_style(style);
        }
        Progress { bar, done: Mutex::default(), total, is_terminal }
    }

    fn step(&self, verdict: &Verdict) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.0 += 1;
        done.1 += !matches!(verdict, Verdict::Passed) as usize;
        self.bar.set_message(format!("{} did not pass", done.1));
        self.bar.inc(1);
        if !self.is_terminal && (done.0.is_multiple_of(PROGRESS_EVERY) || done.0 == self.total) {
            eprintln!("{} of {} cases, {} did not pass", done.0, self.total, done.1);
        }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
