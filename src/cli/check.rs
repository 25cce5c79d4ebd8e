//! `inductor check`: every case below some folders, compared with PyTorch's results.
//!
//! Cases run in worker processes, which take one after the other from a queue: a crash or a hang costs one case and one worker.

#[path = "check_workers.rs"]
mod workers;

use crate::case::{self, Request, Verdict};
use crate::write_json;
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use inductor::report::Table;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

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
    /// run, those of its cases that pass now, and names that are no case below the folders.
    #[arg(long)]
    known: Option<PathBuf>,
    /// Write what the program gives of each case into this folder, as NAME.safetensors under the names of expected.safetensors.
    #[arg(long)]
    outputs: Option<PathBuf>,
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
    scope: String,
    /// Why it cannot run at all.
    broken: Option<String>,
}

/// What `--json` writes. Every case is in exactly one of the lists, or passed.
#[derive(Default, Serialize)]
struct Summary {
    cases: usize,
    passed: usize,
    failed: Vec<String>,
    unsupported: Vec<String>,
    /// Not comparable: something depends on random draws or on memory that nobody wrote, and nothing is known to be wrong.
    random: Vec<String>,
    /// Why each case that did not pass did not.
    reasons: BTreeMap<String, String>,
    /// With `--known`: those that did not pass and are not in the list.
    unexpected: Vec<String>,
    /// With `--known`: those of the list that passed.
    fixed: Vec<String>,
}

/// Runs all cases; success when all of them passed, but for those that are not comparable.
pub fn check(options: &CheckOptions) -> Result<ExitCode> {
    let all = find_cases(options)?;
    let known = options.known.as_ref().map(|path| known_failures(path)).transpose()?;
    if let (Some(path), Some(known)) = (&options.known, &known) {
        refuse_unknown(path, known, &all, &options.dirs)?;
    }
    let cases: Vec<Case> = all.into_iter().filter(|c| is_wanted(c, options)).collect();
    if cases.is_empty() {
        bail!("there is no case to check: a case is a folder with model.pt2 and expected.safetensors, of a scope in --scope");
    }
    if options.outputs.is_some() {
        refuse_equal_names(&cases)?;
    }
    // A device that is not there is refused once, not by each worker.
    inductor::Device::from_name(&options.device)?;
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let jobs = options.jobs.unwrap_or(cores).clamp(1, cases.len());
    let verdicts = workers::run_all(&cases, options, jobs)?;
    let mut summary = summarize(&cases, &verdicts);
    if let Some(known) = &known {
        let bad = summary.failed.iter().chain(&summary.unsupported);
        summary.unexpected = bad.clone().filter(|name| !known.contains_key(*name)).cloned().collect();
        let bad: BTreeSet<&String> = bad.collect();
        let passed = |case: &&Case| known.contains_key(&case.name) && !bad.contains(&case.name);
        summary.fixed = cases.iter().filter(passed).map(|c| c.name.clone()).collect();
    }
    if options.json.as_ref().is_none_or(|p| p != Path::new("-")) {
        print_table(&cases, &verdicts)?;
    }
    write_json(options.json.as_deref(), &summary)?;
    let is_good = match &options.known {
        Some(path) => report_unexpected(path, &summary),
        None => summary.failed.is_empty() && summary.unsupported.is_empty(),
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

/// An error that lists the names which are no case, though the folders that are searched would hold it. One list so serves a whole
/// collection and any part of it.
fn refuse_unknown(path: &Path, known: &BTreeMap<String, String>, cases: &[Case], roots: &[PathBuf]) -> Result<()> {
    let found: BTreeSet<&str> = cases.iter().map(|c| c.name.as_str()).collect();
    let roots: Vec<PathBuf> = roots.iter().filter_map(|r| r.canonicalize().ok()).collect();
    let places: BTreeSet<&Path> =
        cases.iter().filter(|c| c.broken.is_none()).filter_map(|c| c.dir.ancestors().nth(Path::new(&c.name).components().count())).collect();
    let is_searched = |name: &str| places.iter().any(|place| roots.iter().any(|root| place.join(name).starts_with(root)));
    let unknown: Vec<&str> = known.keys().map(String::as_str).filter(|name| !found.contains(name) && is_searched(name)).collect();
    if !unknown.is_empty() {
        bail!("{}: there is no case {}", path.display(), unknown.join(", no case "));
    }
    Ok(())
}

/// Outputs of two cases of one name would go to one file.
fn refuse_equal_names(cases: &[Case]) -> Result<()> {
    let mut seen = BTreeMap::new();
    for case in cases {
        if let Some(other) = seen.insert(&case.name, &case.dir) {
            bail!("--outputs: {} and {} are both named {}", other.display(), case.dir.display(), case.name);
        }
    }
    Ok(())
}

/// Whether the run is what the list of known failures says; tells what is not.
fn report_unexpected(path: &Path, summary: &Summary) -> bool {
    for name in &summary.unexpected {
        crate::complain(&format!("{name} does not pass, and is not known to fail: {}", summary.reasons[name].replace('\n', " ")));
    }
    for name in &summary.fixed {
        crate::complain(&format!("{name} passes now: take it out of {}", path.display()));
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

/// Every case below the folders, whatever is asked for, sorted by folder.
fn find_cases(options: &CheckOptions) -> Result<Vec<Case>> {
    for scope in &options.scope {
        if !["core", "extended", "all"].contains(&scope.as_str()) {
            bail!("{scope} is no scope: use core, extended or all");
        }
    }
    let mut found = BTreeMap::new();
    for dir in &options.dirs {
        let dir = dir.canonicalize().with_context(|| format!("cannot read {}", dir.display()))?;
        std::fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
        collect(&dir, &mut BTreeSet::new(), &mut found);
    }
    Ok(found.into_iter().map(|(dir, broken)| describe(&dir, broken)).collect())
}

fn is_wanted(case: &Case, options: &CheckOptions) -> bool {
    // What cannot say its scope is of every scope.
    let in_scope = case.broken.is_some() || options.scope.iter().any(|s| s == "all" || *s == case.scope);
    in_scope && options.filter.as_ref().is_none_or(|f| case.name.contains(f.as_str()))
}

/// Folders of cases, with what is wrong with them. A folder of half a case, or one that cannot be read, is a case that fails.
fn collect(dir: &Path, seen: &mut BTreeSet<PathBuf>, out: &mut BTreeMap<PathBuf, Option<String>>) {
    // Links may go in a circle.
    if !dir.canonicalize().is_ok_and(|real| seen.insert(real)) {
        return;
    }
    let halves = ["model.pt2", "expected.safetensors"].map(|file| dir.join(file).is_file());
    let broken = match halves {
        [true, true] => None,
        [true, false] => Some("there is no expected.safetensors".to_string()),
        _ => match std::fs::read_dir(dir) {
            Ok(entries) => {
                let paths = entries.flatten().map(|e| e.path()).filter(|p| p.is_dir());
                return paths.for_each(|path| collect(&path, seen, out));
            }
            Err(error) => Some(format!("the folder cannot be read: {error}")),
        },
    };
    out.insert(dir.to_path_buf(), broken);
}

/// Models are named by two folders, cases of operators by three.
fn describe(dir: &Path, broken: Option<String>) -> Case {
    let parts: Vec<String> = dir.components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect();
    let (facts, unreadable) = match case::facts(dir) {
        Ok(facts) => (facts, None),
        Err(error) => (case::Facts::default(), Some(format!("{error:#}"))),
    };
    let depth = if facts.op.is_some() { 3 } else { 2 };
    let name = parts[parts.len().saturating_sub(depth)..].join("/");
    let group = facts.op.clone().unwrap_or_else(|| name.clone());
    let scope = facts.scope.unwrap_or_else(|| "core".into());
    Case { name, group, dir: dir.to_path_buf(), scope, broken: broken.or(unreadable) }
}

fn summarize(cases: &[Case], verdicts: &[Verdict]) -> Summary {
    let mut summary = Summary { cases: cases.len(), ..Summary::default() };
    for (case, verdict) in cases.iter().zip(verdicts) {
        let (list, why) = match verdict {
            Verdict::Passed => {
                summary.passed += 1;
                continue;
            }
            Verdict::Failed(why) => (&mut summary.failed, why),
            Verdict::Unsupported(why) => (&mut summary.unsupported, why),
            Verdict::Random(why) => (&mut summary.random, why),
        };
        list.push(case.name.clone());
        summary.reasons.insert(case.name.clone(), why.clone());
    }
    summary
}

/// Counts of one operator or model, or of all.
#[derive(Default)]
struct Counts {
    passed: usize,
    failed: usize,
    unsupported: usize,
    random: usize,
    /// Why the first case that did not pass did not; of those that went wrong, if there are any.
    first: String,
    first_is_random: bool,
}

impl Counts {
    fn add(&mut self, case: &Case, verdict: &Verdict) {
        let (count, why, is_random) = match verdict {
            Verdict::Passed => (&mut self.passed, "", false),
            Verdict::Failed(why) => (&mut self.failed, why.as_str(), false),
            Verdict::Unsupported(why) => (&mut self.unsupported, why.as_str(), false),
            Verdict::Random(why) => (&mut self.random, why.as_str(), true),
        };
        *count += 1;
        if !why.is_empty() && (self.first.is_empty() || (self.first_is_random && !is_random)) {
            self.first = format!("{}: {why}", case.name);
            self.first_is_random = is_random;
        }
    }
}

/// One row for each operator or model.
fn print_table(cases: &[Case], verdicts: &[Verdict]) -> Result<()> {
    let (mut groups, mut all) = (BTreeMap::<&str, Counts>::new(), Counts::default());
    for (case, verdict) in cases.iter().zip(verdicts) {
        groups.entry(&case.group).or_default().add(case, verdict);
        all.add(case, verdict);
    }
    let mut table = Table::new(&["operator", "passed", "failed", "unsupported", "random", "first that did not pass"]);
    for (group, c) in groups {
        let counts = [c.passed, c.failed, c.unsupported, c.random].map(|n| n.to_string());
        table.row(&[&[group.to_string()], &counts[..], &[c.first.replace('\n', " ")]].concat());
    }
    let Counts { passed, failed, unsupported, random, .. } = all;
    let total = cases.len();
    crate::emit(&format!("{table}{total} cases: {passed} passed, {failed} failed, {unsupported} unsupported, {random} not comparable (random)\n"))
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
        done.1 += !matches!(verdict, Verdict::Passed | Verdict::Random(_)) as usize;
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
