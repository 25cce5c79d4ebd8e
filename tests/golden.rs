//! Counts of launches, kernels and bytes of whole training steps, for named targets: a change of fusion, scheduling or memory
//! planning shows here. `UPDATE_EXPECT=1 cargo test --test golden` rewrites them. Every kernel of these plans is validated, and can
//! be written in MSL, HLSL and WGSL.
//!
//! A change that must not change any plan proves it by the bytes of the plans before and after:
//! `INDUCTOR_PLANS=<folder> cargo test --test golden -- --ignored` in both checkouts, then `diff -r` of the folders.
#![cfg(feature = "torch")]
#![allow(missing_docs)]

#[path = "support/nests.rs"]
mod nests;
#[path = "kernels/valid.rs"]
mod valid;

use expect_test::expect_file;
use inductor::codegen::Plan;
use inductor::compile::{Report, inductor_with_report};
use inductor::config::{Config, Mode, Target};
use inductor::graph::{Builder, Graph, InputRole, OutputRole, parse, print};
use inductor::lower::lower;
use inductor::ops::samples;
use inductor::runtime::Explain;
use inductor::schedule::{Program, buffer_bytes};
use inductor::types::Bindings;
use inductor::{Traced, models, optim, torch_export};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Each buffer that a command touches read or written once, over all commands.
fn traffic(program: &Program) -> i64 {
    let bytes = |b: u32| {
        let placed = &program.buffers[b as usize];
        buffer_bytes(&placed.ty, placed.storage).eval(&Bindings::new()).expect("fixed sizes")
    };
    let of_command = |c: &inductor::schedule::Dispatch| {
        let kernel = &program.kernels[c.kernel as usize];
        let written: BTreeSet<_> = kernel.writes.iter().map(|w| w.buffer).collect();
        kernel.reads().into_iter().chain(written).map(|local| bytes(c.buffers[local.0 as usize].0)).sum::<i64>()
    };
    program.commands.iter().map(of_command).sum()
}

fn targets() -> [(&'static str, Target); 3] {
    [("h100", Target::h100()), ("webgpu-default", Target::webgpu_default()), ("cpu", Target::cpu())]
}

fn config() -> Config {
    Config { mode: Mode::Train(optim::AdamW::new(1e-3).into()), ..Config::default() }
}

fn training(traced: &Traced, target: &Target) -> (Plan, Report) {
    let config = config();
    let examples: Vec<_> = traced.graph.inputs.iter().map(|i| traced.graph.ty(i.value).clone()).collect();
    inductor_with_report(&traced.graph, &examples, target, &config).unwrap_or_else(|e| panic!("{}: {e}", target.caps.name))
}

/// A table of a model's training step, a line for each target.
fn counts(traced: &Traced) -> String {
    let mut out = String::from("target          forward  backward  update  kernels  shaders  KB moved  KB held  KB saved\n");
    for (name, target) in targets() {
        let (plan, report) = training(traced, &target);
        valid::validate(&plan);
        nests_parse_back(&plan, &report);
        let explain = Explain::new(&plan, &report);
        let l = &explain.launches;
        let (moved, held) = (traffic(&plan.program) / 1024, explain.memory.predicted_peak_bytes / 1024);
        let (kernels, shaders, saved) = (plan.program.kernels.len(), plan.code.len(), explain.partition.saved_activation_bytes / 1024);
        let counted = format!("{:>8} {:>9} {:>7} {kernels:>8} {shaders:>8} {moved:>9} {held:>8} {saved:>9}", l.forward, l.backward, l.update);
        writeln!(out, "{name:<14} {counted}").expect("text grows");
    }
    out
}

/// The nests of a program before fusion and its kernels are what their text says.
fn nests_parse_back(plan: &Plan, report: &Report) {
    let graphs: Vec<_> = report.graphs.iter().map(|(phase, graph)| (*phase, graph)).collect();
    let lowered = lower(&graphs, &config()).expect("it was lowered before");
    let parsed = nests::parse_back(&lowered.buffers, &lowered.nests).and_then(|()| nests::parse_back(&[], &plan.program.kernels));
    parsed.unwrap_or_else(|e| panic!("{}: {e}", plan.program.name));
}

fn exported(name: &str) -> Traced {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/models").join(name).join("model.pt2");
    torch_export::load(&file).unwrap_or_else(|e| panic!("{name}: {e}")).traced
}

macro_rules! golden {
    ($($name:ident: $traced:expr;)*) => {
        $(#[test]
        fn $name() {
            expect_file![concat!("golden/", stringify!($name), ".txt")].assert_eq(&counts(&$traced));
        })*

        /// The models by name.
        fn models() -> Vec<(&'static str, Traced)> {
            vec![$((stringify!($name), $traced)),*]
        }
    };
}

golden! {
    mlp: models::mnist_mlp().unwrap();
    small_gpt: models::gpt(&models::GptConfig::small(65)).unwrap();
    nanogpt: models::gpt(&models::GptConfig::nanogpt()).unwrap();
    hf_bert: exported("hf_bert");
    hf_convnext: exported("hf_convnext");
    hf_gpt2: exported("hf_gpt2");
    hf_llama: exported("hf_llama");
    hf_mamba: exported("hf_mamba");
    hf_t5: exported("hf_t5");
    hf_vit: exported("hf_vit");
    nn_unet: exported("nn_unet");
    nn_vae: exported("nn_vae");
}

/// Launches of forward and backward, on the reference card, stay below those of torch.compile 2.11.
#[test]
fn fewer_launches_than_torch_compile() {
    let bars = [
        ("hf_gpt2", 108),
        ("hf_llama", 126),
        ("hf_bert", 147),
        ("hf_vit", 151),
        ("hf_convnext", 174),
        ("hf_mamba", 262),
        ("hf_t5", 298),
        ("nn_unet", 71),
        ("nn_vae", 23),
    ];
    for (name, bar) in bars {
        let traced = exported(name);
        let (plan, report) = training(&traced, &Target::h100());
        let launches = Explain::new(&plan, &report).launches;
        let count = launches.forward + launches.backward;
        assert!(count < bar, "{name}: {count} launches, torch.compile has {bar}");
    }
}

/// Writes the plans of the models, of the graphs for the scheduler below `filetests` and of every op's samples, for each target.
#[test]
#[ignore = "writes plans into the folder INDUCTOR_PLANS, to compare two checkouts"]
fn plans_are_written() {
    let root = PathBuf::from(std::env::var_os("INDUCTOR_PLANS").expect("INDUCTOR_PLANS names a folder"));
    std::fs::create_dir_all(&root).expect("the folder can be made");
    let write = |name: &str, target: &str, text: String| std::fs::write(root.join(format!("{name}.{target}.txt")), text).expect("room for plans");
    for (name, traced) in models() {
        targets().iter().for_each(|(target, t)| write(name, target, lines(&training(&traced, t).0)));
    }
    for (target, t) in targets() {
        write("scheduler", target, schedules().iter().map(|g| inference(g, &t)).collect());
        write("samples", target, samples().iter().map(|s| inference(&graph_of(s), &t)).collect());
    }
}

/// The plan with a line for each kernel, command, buffer and shader.
fn lines(plan: &Plan) -> String {
    fn add(at: &str, depth: u32, value: &serde_json::Value, out: &mut String) {
        match value {
            serde_json::Value::Object(members) if depth < 3 => members.iter().for_each(|(k, v)| add(&format!("{at}.{k}"), depth + 1, v, out)),
            serde_json::Value::Array(members) if depth < 3 => members.iter().for_each(|v| add(at, depth + 1, v, out)),
            _ => writeln!(out, "{at} {value}").expect("text grows"),
        }
    }
    let mut out = String::new();
    add("plan", 0, &serde_json::to_value(plan).expect("plans are data"), &mut out);
    out
}

/// The graph and its plan, or why there is none.
fn inference(graph: &Graph, target: &Target) -> String {
    let examples: Vec<_> = graph.inputs.iter().map(|i| graph.ty(i.value).clone()).collect();
    let plan = inductor_with_report(graph, &examples, target, &Config::default());
    format!("{}{}\n", print(graph), plan.map_or_else(|e| format!("error: {e}\n"), |(plan, _)| lines(&plan)))
}

fn graph_of(sample: &inductor::ops::Sample) -> Graph {
    let mut b = Builder::new("sample");
    let operands = sample.operands.iter().enumerate().map(|(k, ty)| b.input(&format!("x{k}"), InputRole::Input, ty.clone()));
    let operands: Vec<_> = operands.collect::<Result<_, _>>().expect("inputs have their own names");
    let results = b.node(sample.op.clone(), &operands).expect("samples are sound");
    results.into_iter().enumerate().for_each(|(k, v)| b.output(&format!("y{k}"), OutputRole::User, v));
    b.finish()
}

/// Graphs of tests that make the scheduler split, sort and join.
fn schedules() -> Vec<Graph> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/filetests/schedule");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).expect("the tests are there").map(|e| e.expect("a file").path()).collect();
    files.sort();
    let graph = |file: PathBuf| parse(&std::fs::read_to_string(&file).expect("a text")).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    files.into_iter().map(graph).collect()
}
