//! The compile suite: how long each stage takes as the program grows, and `schedule` by itself, on transformers of identical blocks for the
//! reference card, which needs no device.

use super::BenchOptions;
use anyhow::{Context, Result};
use inductor::compile::inductor_with_report;
use inductor::config::{Mode, Target};
use inductor::lower::lower;
use inductor::models::{GptConfig, gpt};
use inductor::report::CompileRow;
use inductor::schedule::schedule;
use inductor::{Config, optim};
use std::time::Instant;

/// Blocks of the measured transformers: about 1,000, 5,000 and 50,000 nodes of the joint graph.
const BLOCKS: [usize; 3] = [6, 32, 320];

/// Compilations of a program at most, of which each stage's least time counts: what else a machine does only adds to it.
const COMPILATIONS: usize = 5;

/// Runs the suite; `--size` gives numbers of blocks.
pub fn compile(options: &BenchOptions) -> Result<Vec<CompileRow>> {
    let sizes: &[usize] = if options.size.is_empty() { &BLOCKS } else { &options.size };
    sizes.iter().map(|&blocks| measure(options, blocks)).collect()
}

/// Times each stage of compiling a training step, then its schedule alone.
fn measure(options: &BenchOptions, blocks: usize) -> Result<CompileRow> {
    let traced = gpt(&GptConfig { layers: blocks, ..GptConfig::small(65) })?;
    let (target, config) = (Target::h100(), Config { mode: Mode::Train(optim::AdamW::new(1e-3).into()), ..Config::default() });
    let examples: Vec<_> = traced.graph.inputs.iter().map(|i| traced.graph.ty(i.value).clone()).collect();
    let (plan, mut report) = inductor_with_report(&traced.graph, &examples, &target, &config)?;
    for _ in 1..options.steps.clamp(1, COMPILATIONS) {
        let (_, again) = inductor_with_report(&traced.graph, &examples, &target, &config)?;
        for (least, stage) in report.stage_ms.iter_mut().zip(again.stage_ms) {
            least.1 = least.1.min(stage.1);
        }
    }
    let graphs: Vec<_> = report.graphs.iter().map(|(phase, graph)| (*phase, graph)).collect();
    let lowered = lower(&graphs, &config)?;
    let mut times = vec![];
    for _ in 0..options.steps.max(1) {
        let nests = lowered.clone();
        let started = Instant::now();
        let program = schedule(&traced.graph.name, nests, &target, &config)?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
        drop(program);
    }
    times.sort_by(f64::total_cmp);
    let schedule_ms = *times.get(times.len() / 2).context("at least one step is measured")?;
    let row = CompileRow {
        suite: "compile".into(),
        name: format!("gpt of {blocks} blocks"),
        joint_nodes: report.joint_nodes,
        nests: lowered.nests.len(),
        kernels: plan.program.commands.len(),
        schedule_ms,
        stage_ms: report.stage_ms,
    };
    eprintln!("  {}: {} nodes, schedule {schedule_ms:.1} ms", row.name, row.joint_nodes);
    Ok(row)
}
