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
//! The first line names a function of [`FUNCTIONS`], of [`ON_NESTS`], or a pass, which runs in subgraphs too. Lines
//! `// given <name> <numbers>` give inputs. An error is written `error: <message>`. `UPDATE_EXPECT=1` rewrites the
//! expected texts. A test is named after its file, so `cargo test --test filetests -- passes/` runs those of one room.

use inductor::autograd::{Seed, Wrt, joint_graph};
use inductor::codegen::Plan;
use inductor::compile::inductor;
use inductor::config::{Config, Mode, Saving, Target};
use inductor::forms::attention::Scores;
use inductor::graph::{Graph, Inline, inline_subgraphs, parse, print, verify};
use inductor::loop_ir::naive::{self, Memory};
use inductor::loop_ir::{self, Buffer, Nest};
use inductor::optim;
use inductor::partition::{fusible_by_traits, min_cut_rematerialization_partition};
use inductor::passes;
use inductor::types::{Bindings, DType, HostTensor, MatmulPrecision};
use libtest_mimic::{Arguments, Failed, Trial};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use support::cases;
use support::layers::{self, What};

mod support;

/// What a test does with its graph, by name. Add a line for a new function; a pass is `|g, _| transformed(g, <pass>)`.
const FUNCTIONS: &[(&str, Function)] = &[
    ("print", |g, _| Ok(print(g))),
    ("fuse_attention", |g, _| fused_attention(g, false)),
    ("halve_products", |g, _| transformed(g, |g| passes::halve_products(g, DType::F16).map_err(|e| e.to_string()))),
    ("fuse_attention gradients", |g, _| fused_attention(g, true)),
    ("merge_linears", |g, _| merged_linears(g, &Target::h100(), Mode::Inference)),
    ("merge_linears training", |g, _| merged_linears(g, &Target::h100(), half_frozen())),
    ("merge_linears training cpu", |g, _| merged_linears(g, &Target::cpu(), half_frozen())),
    ("verify", |g, _| Ok(verify(g).join("\n"))),
    ("inline_calls", |g, _| transformed(g, |g| inline_subgraphs(g, Inline::Calls).map(Cow::into_owned))),
    ("inline_all", |g, _| transformed(g, |g| inline_subgraphs(g, Inline::All).map(Cow::into_owned))),
    ("autograd", |g, _| differentiated(g, Wrt::Parameters, Seed::Loss)),
    ("vjp", |g, _| differentiated(g, Wrt::Inputs, Seed::Cotangents)),
    ("partition", |g, _| partitioned(&training(g)?, Saving::MinCut)),
    ("partition_everything", |g, _| partitioned(&training(g)?, Saving::Everything)),
    ("schedule cpu", |g, _| scheduled(g, &Target::cpu())),
    ("schedule h100", |g, _| scheduled(g, &Target::h100())),
    ("schedule webgpu-default", |g, _| scheduled(g, &Target::webgpu_default())),
    ("wgsl h100", |g, _| spelled(g, &Target::h100())),
    ("wgsl webgpu-default", |g, _| spelled(g, &Target::webgpu_default())),
    ("run", |g, text| ran(g, What::Forward, text)),
    ("run gradients", |g, text| ran(g, What::Gradients, text)),
];

/// A function of [`FUNCTIONS`].
type Function = fn(&Graph, &str) -> Result<String, String>;

/// What a test does with the nests of its text.
const ON_NESTS: &[(&str, OnNests)] = &[
    ("print nests", |p, _| Ok(loop_ir::print(&p.0, &p.1))),
    ("verify nests", |p, _| Ok(p.1.iter().flat_map(loop_ir::verify).collect::<Vec<_>>().join("\n"))),
    ("naive", |p, text| executed(&p.0, &p.1, text)),
];

/// A function of [`ON_NESTS`]: buffers with nests, and the text.
type OnNests = fn(&(Vec<Buffer>, Vec<Nest>), &str) -> Result<String, String>;

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
    if let Some((_, function)) = ON_NESTS.iter().find(|(name, _)| *name == header) {
        return function(&loop_ir::parse(input).map_err(|e| e.to_string())?, input);
    }
    let graph = parse(input).map_err(|e| e.to_string())?;
    let faults = if header == "verify" { vec![] } else { verify(&graph) };
    if !faults.is_empty() {
        return Err(format!("the input is not sound:\n{}", faults.join("\n")));
    }
    match FUNCTIONS.iter().find(|(name, _)| *name == header) {
        Some((_, function)) => function(&graph, input),
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

fn compiled(graph: &Graph, target: &Target) -> Result<Plan, String> {
    let types: Vec<_> = graph.inputs.iter().map(|i| graph.ty(i.value).clone()).collect();
    inductor(graph, &types, target, &Config::default()).map_err(|e| e.to_string())
}

/// Kernels in launch order with their buffers, what was not fused and why, and the kernels.
fn scheduled(graph: &Graph, target: &Target) -> Result<String, String> {
    let program = compiled(graph, target)?.program;
    let buffer = |b: &inductor::loop_ir::BufferId| {
        let placed = &program.buffers[b.0 as usize];
        format!("{}: {} in slot {}", placed.name, placed.ty, placed.slot.0)
    };
    let command = |c: &inductor::schedule::Dispatch| {
        let buffers: Vec<String> = c.buffers.iter().map(buffer).collect();
        format!("kernel {} {} ({})", c.kernel, c.label, buffers.join(", "))
    };
    let mut lines: Vec<String> = program.commands.iter().map(command).collect();
    let refused = program.decisions.iter().filter(|d| d.stage == "fusion" && d.verdict == "refused");
    lines.extend(refused.map(|d| format!("refused {}: {}", d.subject, d.reason)));
    lines.extend(program.kernels.iter().map(|k| k.to_string()));
    Ok(lines.join("\n"))
}

/// The shaders of a program.
fn spelled(graph: &Graph, target: &Target) -> Result<String, String> {
    let plan = compiled(graph, target)?;
    let variants = plan.code.iter().flat_map(|c| &c.variants);
    Ok(variants.map(|v| format!("{} on {:?}, groups {}\n{}", v.name, v.workgroup, v.groups, v.wgsl)).collect::<Vec<_>>().join("\n"))
}

/// The outputs, which every layer gives: those of the interpreter, and those of the adapter where there is one.
fn ran(graph: &Graph, what: What, text: &str) -> Result<String, String> {
    let inputs = cases::inputs(graph, what, text)?;
    let adapters = if layers::software().is_some() { layers::ADAPTERS } else { &[] };
    cases::run(graph, what, &inputs, &[layers::LAYERS, adapters].concat())
}

/// What the nests store, by their definition.
fn executed(buffers: &[Buffer], nests: &[Nest], text: &str) -> Result<String, String> {
    let given = cases::given(text);
    let memory = |(k, b): (usize, &Buffer)| {
        let zeros = || b.ty.shape.as_ints().map(|shape| HostTensor::zeros(b.ty.dtype, &shape)).ok_or_else(|| format!("{} has no fixed size", b.ty));
        let numbers = given.iter().find(|(name, _)| *name == format!("b{k}"));
        numbers.map_or_else(zeros, |(_, numbers)| cases::tensor(&b.ty, numbers)).map(|t| layers::to_memory(&t))
    };
    let mut memory = buffers.iter().enumerate().map(memory).collect::<Result<Vec<Memory>, String>>()?;
    let mut out = String::new();
    for nest in nests {
        let status = naive::run(nest, &mut memory, &Bindings::new())?;
        out += &status.map(|code| format!("{}: check {code} fails\n", nest.label)).unwrap_or_default();
        for w in &nest.writes {
            let stored = &memory[w.buffer.0 as usize];
            out += &format!("b{} = {}\n", w.buffer.0, cases::numbers(&layers::to_tensor(stored, &[stored.elements.len()])));
        }
    }
    Ok(out)
}

fn fused_attention(graph: &Graph, gradients: bool) -> Result<String, String> {
    let gradients = gradients.then_some(Scores::Stored);
    let fused = |g: &Graph| passes::fuse_attention(g, &Target::h100(), MatmulPrecision::Highest, gradients).map_err(|e| e.to_string());
    transformed(graph, fused)
}

fn merged_linears(graph: &Graph, target: &Target, mode: Mode) -> Result<String, String> {
    let config = Config { mode, ..Config::default() };
    transformed(graph, |g| passes::merge_linears(g.clone(), target, &config).map_err(|e| e.to_string()))
}

/// Training of all parameters but those below `frozen`.
fn half_frozen() -> Mode {
    Mode::Train(optim::AdamW::new(1e-3).frozen("frozen").into())
}

fn differentiated(graph: &Graph, wrt: Wrt, seed: Seed) -> Result<String, String> {
    transformed(graph, |g| joint_graph(g, wrt, seed).map_err(|e| e.to_string()))
}

/// The joint graph of training, after its passes.
fn training(graph: &Graph) -> Result<Graph, String> {
    joint_graph(graph, Wrt::Parameters, Seed::Loss).and_then(passes::recursive_joint_graph_passes).map_err(|e| e.to_string())
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
