//! Text in, text out: one test for each file `tests/filetests/<room>/<name>.ir`.
//!
//! ```text
//! // test: inline_calls
//! graph main
//!   ...
//! // ----
//! the expected text
//! ```
//!
//! The first line names a function of [`FUNCTIONS`], or a pass, which runs in subgraphs too. An error is written `error: <message>`. `UPDATE_EXPECT=1` rewrites the
//! expected texts. A test is named after its file, so `cargo test --test filetests -- passes/` runs those of one room.

use inductor::autograd::{Seed, Wrt, joint_graph};
use inductor::config::Saving;
use inductor::graph::{Graph, Inline, inline_subgraphs, parse, print, verify};
use inductor::partition::{fusible_by_traits, min_cut_rematerialization_partition};
use inductor::passes;
use libtest_mimic::{Arguments, Failed, Trial};
use std::path::{Path, PathBuf};

/// What a test does with its graph, by name. Add a line for a new function; a pass is `|g| transformed(g, <pass>)`.
const FUNCTIONS: &[(&str, Function)] = &[
    ("print", |g| Ok(print(g))),
    ("verify", |g| Ok(verify(g).join("\n"))),
    ("inline_calls", |g| transformed(g, |g| inline_subgraphs(g, Inline::Calls))),
    ("inline_all", |g| transformed(g, |g| inline_subgraphs(g, Inline::All))),
    ("autograd", |g| differentiated(g, Wrt::Parameters, Seed::Loss)),
    ("vjp", |g| differentiated(g, Wrt::Inputs, Seed::Cotangents)),
    ("partition", |g| partitioned(&training(g)?, Saving::MinCut)),
    ("partition_everything", |g| partitioned(&training(g)?, Saving::Everything)),
];

/// A function of [`FUNCTIONS`].
type Function = fn(&Graph) -> Result<String, String>;

const SEPARATOR: &str = "// ----";

fn main() {
    let arguments = Arguments::from_args();
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/filetests");
    let mut paths = vec![];
    collect(&root, &mut paths);
    let trial = |path: PathBuf| {
        let name = path.strip_prefix(&root).expect("below the root").with_extension("").to_string_lossy().replace('\\', "/");
        Trial::test(name, move || run(&path).map_err(Failed::from))
    };
    libtest_mimic::run(&arguments, paths.into_iter().map(trial).collect()).exit();
}

fn collect(dir: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|e| e == "ir") {
            into.push(path);
        }
    }
    into.sort();
}

fn run(path: &Path) -> Result<(), String> {
    let file = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let (input, expected) = file.split_once(&format!("{SEPARATOR}\n")).unwrap_or((&file, ""));
    let header = input.lines().next().and_then(|l| l.strip_prefix("// test:")).ok_or("the first line is `// test: <name>`")?.trim();
    let actual = match evaluate(header, input) {
        Ok(text) => text,
        Err(message) => format!("error: {message}"),
    };
    let actual = format!("{}\n", actual.trim_end());
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let input = input.trim_end();
        return std::fs::write(path, format!("{input}\n{SEPARATOR}\n{actual}")).map_err(|e| e.to_string());
    }
    if actual.trim_end() == expected.trim_end() { Ok(()) } else { Err(difference(expected, &actual)) }
}

fn evaluate(header: &str, input: &str) -> Result<String, String> {
    let graph = parse(input).map_err(|e| e.to_string())?;
    let faults = if header == "verify" { vec![] } else { verify(&graph) };
    if !faults.is_empty() {
        return Err(format!("the input is not sound:\n{}", faults.join("\n")));
    }
    match FUNCTIONS.iter().find(|(name, _)| *name == header) {
        Some((_, function)) => function(&graph),
        None => transformed(&graph, |g| passes::run_pass(header, g).map_err(|e| e.to_string())),
    }
}

/// Forward and backward, and what was decided.
fn partitioned(joint: &Graph, saving: Saving) -> Result<String, String> {
    let p = min_cut_rematerialization_partition(joint, &fusible_by_traits, saving).map_err(|e| e.to_string())?;
    let decisions: Vec<String> = p.decisions.iter().map(|d| format!("{} {}: {}", d.verdict, d.subject, d.reason)).collect();
    let (forward, backward) = (transformed(&p.forward, |g| Ok(g.clone()))?, transformed(&p.backward, |g| Ok(g.clone()))?);
    Ok(format!("{forward}\n{backward}\n{}", decisions.join("\n")))
}

fn differentiated(graph: &Graph, wrt: Wrt, seed: Seed) -> Result<String, String> {
    transformed(graph, |g| joint_graph(g, wrt, seed).map_err(|e| e.to_string()))
}

/// The joint graph of training, after its passes.
fn training(graph: &Graph) -> Result<Graph, String> {
    joint_graph(graph, Wrt::Parameters, Seed::Loss).and_then(|g| passes::recursive_joint_graph_passes(&g)).map_err(|e| e.to_string())
}

/// The text of the graph that `f` makes, which must be sound and parse back.
fn transformed(graph: &Graph, f: impl Fn(&Graph) -> Result<Graph, String>) -> Result<String, String> {
    let out = f(graph)?;
    let (faults, text) = (verify(&out), print(&out));
    if !faults.is_empty() {
        return Err(format!("the result is not sound:\n{}\n{text}", faults.join("\n")));
    }
    match parse(&text) {
        Ok(back) if back == out => Ok(text),
        Ok(back) => Err(format!("the text parses back to another graph:\n{text}\n{}", print(&back))),
        Err(e) => Err(format!("the text does not parse back: {e}\n{text}")),
    }
}

fn difference(expected: &str, actual: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (expected.trim_end().lines().collect(), actual.trim_end().lines().collect());
    let same = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let show = |lines: &[&str], sign: &str| lines.iter().map(|l| format!("{sign} {l}\n")).collect::<String>();
    format!(
        "first difference in line {} of the expected text (UPDATE_EXPECT=1 rewrites it)\n{}{}",
        same + 1,
        show(&old[same..], "-"),
        show(&new[same..], "+")
    )
}
