//! The compile suite: how long each stage takes as the program grows, and `schedule` by itself, on transformers of identical blocks for the
//! reference card, which needs no device.

use super::BenchOptions;
use anyhow::{Context, Result};
use inductor::codegen::Plan;
use inductor::compile::{Report, inductor_with_report};
use inductor::config::{Mode, Target};
use inductor::graph::Graph;
use inductor::lower::lower;
use inductor::models::{GptConfig, gpt};
use inductor::report::CompileRow;
use inductor::schedule::schedule;
use inductor::types::TensorType;
use inductor::{Config, optim};
use std::time::Instant;

/// Blocks of the measured transformers: about 1,000, 5,000 and 50,000 nodes of the joint graph.
const BLOCKS: [usize; 3] = [6, 32, 320];

/// Turns of a program at most, of which each stage's least time counts: what else a machine does only adds to it.
const TURNS: usize = 5;

/// Compilations of a small program in one turn, at most.
const COMPILATIONS: usize = 16;

/// Runs the suite; `--size` gives numbers of blocks.
///
/// A turn compiles about as many nodes of each program: a stage of half a millisecond would otherwise be timed at the best moment there was, and
/// one of half a second through good and bad ones.
pub fn compile(options: &BenchOptions) -> Result<Vec<CompileRow>> {
    let sizes: &[usize] = if options.size.is_empty() { &BLOCKS } else { &options.size };
    let most = sizes.iter().copied().max().unwrap_or(0);
    let measure = |&blocks: &usize| {
        let mut program = Measured::new(blocks)?;
        for _ in 0..options.steps.clamp(1, TURNS) {
            program.turn((most / blocks.max(1)).clamp(1, COMPILATIONS))?;
        }
        program.row(options)
    };
    sizes.iter().map(measure).collect()
}

/// A program with the times of its stages so far.
struct Measured {
    blocks: usize,
    graph: Graph,
    target: Target,
    config: Config,
    plan: Plan,
    /// Of the first compilation, which takes memory from the system and is not timed.
    report: Report,
    /// Milliseconds of each stage, the least of all turns.
    stage_ms: Vec<(String, f64)>,
}

impl Measured {
    fn new(blocks: usize) -> Result<Measured> {
        let graph = gpt(&GptConfig { layers: blocks, ..GptConfig::small(65) })?.graph;
        let (target, config) = (Target::h100(), Config { mode: Mode::Train(optim::AdamW::new(1e-3).into()), ..Config::default() });
        let (plan, report) = inductor_with_report(&graph, &examples(&graph), &target, &config)?;
        let stage_ms = report.stage_ms.iter().map(|(name, _)| (name.clone(), f64::INFINITY)).collect();
        Ok(Measured { blocks, graph, target, config, plan, report, stage_ms })
    }

    fn compile(&self) -> Result<Vec<(String, f64)>> {
        Ok(inductor_with_report(&self.graph, &examples(&self.graph), &self.target, &self.config)?.1.stage_ms)
    }

    /// Compiles it so many times; the mean counts.
    fn turn(&mut self, times: usize) -> Result<()> {
        let mut sums = vec![0.0; self.stage_ms.len()];
        for _ in 0..times {
            sums.iter_mut().zip(self.compile()?).for_each(|(sum, stage)| *sum += stage.1);
        }
        self.stage_ms.iter_mut().zip(sums).for_each(|(least, sum)| least.1 = least.1.min(sum / times as f64));
        Ok(())
    }

    /// Times its schedule alone, too.
    fn row(&self, options: &BenchOptions) -> Result<CompileRow> {
        let graphs: Vec<_> = self.report.graphs.iter().map(|(phase, graph)| (*phase, graph)).collect();
        let lowered = lower(&graphs, &self.config)?;
        let mut times = vec![];
        for _ in 0..options.steps.max(1) {
            let nests = lowered.clone();
            let started = Instant::now();
            let program = schedule(&self.graph.name, nests, &self.target, &self.config)?;
            times.push(started.elapsed().as_secs_f64() * 1e3);
            drop(program);
        }
        times.sort_by(f64::total_cmp);
        let schedule_ms = *times.get(times.len() / 2).context("at least one step is measured")?;
        let row = CompileRow {
            suite: "compile".into(),
            name: format!("gpt of {} blocks", self.blocks),
            joint_nodes: self.report.joint_nodes,
            nests: lowered.nests.len(),
            kernels: self.plan.program.commands.len(),
            schedule_ms,
            stage_ms: self.stage_ms.clone(),
        };
        eprintln!("  {}: {} nodes, schedule {schedule_ms:.1} ms", row.name, row.joint_nodes);
        Ok(row)
    }
}

fn examples(graph: &Graph) -> Vec<TensorType> {
    graph.inputs.iter().map(|i| graph.ty(i.value).clone()).collect()
}
