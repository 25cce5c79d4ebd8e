//! Comparing a step, as it runs, with an independent execution of the same program.
//!
//! `Verify::Kernels` blames code generation or the driver: each launch on the GPU is compared with the program interpreter
//! on the very inputs the launch had. The first kernel that differs is named with its ops and lines, and leaves a
//! reproducer. `Verify::Full` first blames the compiler: see `oracle`.

use super::engine::{Engine, Started};
use super::oracle::compare_program;
use super::reproducer;
use super::resident::Core;
use super::state::{State, lock};
use super::step::Shared;
use crate::config::Verify;
use crate::error::{Error, Result};
use crate::loop_ir::BufferId;
use crate::schedule::Program;
use crate::types::{Bindings, HostTensor};
use std::path::PathBuf;

#[cfg(feature = "gpu")]
use super::gpu::GpuEngine;
#[cfg(feature = "gpu")]
use crate::eval::accuracy;
#[cfg(feature = "gpu")]
use crate::interp::Interpreter;

impl Shared {
    /// Runs the step, comparing as `level` says. On a difference the state stays as it was.
    pub(super) fn run_verified(
        &self,
        core: &mut Core,
        state: &State,
        bindings: &Bindings,
        feeds: &[(BufferId, HostTensor)],
        level: Verify,
    ) -> Result<Started> {
        let result = match &mut core.engine {
            Engine::Cpu { .. } => self.compare_with_graphs(state, bindings, feeds, level).and_then(|()| core.engine.run()),
            #[cfg(feature = "gpu")]
            Engine::Gpu(engine) => {
                self.compare_with_graphs(state, bindings, feeds, level).and_then(|()| self.run_kernel_by_kernel(engine, &mut core.verifier))
            }
        };
        if result.is_err() {
            // State was brought to the host before the run; what the device holds now may be wrong.
            core.forget_tenant();
        }
        result
    }

    /// The program interpreter against the graphs, apart from the engine.
    fn compare_with_graphs(&self, state: &State, bindings: &Bindings, feeds: &[(BufferId, HostTensor)], level: Verify) -> Result<()> {
        if level != Verify::Full || self.sources.graphs.is_empty() {
            return Ok(());
        }
        let program = &self.plan.program;
        let mut all = feeds.to_vec();
        let entries = lock(&state.entries);
        for input in &program.inputs {
            let host = entries.get(&input.name).and_then(|e| e.host.clone());
            all.extend(host.filter(|_| !feeds.iter().any(|(b, _)| *b == input.buffer)).map(|t| (input.buffer, t)));
        }
        drop(entries);
        match compare_program(program, &self.sources, bindings, &all)? {
            None => Ok(()),
            Some(difference) => {
                let path = reproducer::save_program(&self.verify_folder(), &difference, program, &self.sources, bindings, &all)?;
                Err(Error::Verify(format!("{difference}; run it again with: inductor replay {}", path.display())))
            }
        }
    }

    fn verify_folder(&self) -> PathBuf {
        self.config.dump.clone().unwrap_or_else(|| "inductor-verify".into())
    }

    #[cfg(feature = "gpu")]
    fn run_kernel_by_kernel(&self, engine: &mut GpuEngine, verifier: &mut Option<Interpreter>) -> Result<Started> {
        let program = &self.plan.program;
        let interpreter = match verifier {
            Some(interpreter) => interpreter,
            None => {
                super::counters::count(super::counters::Counted::Interpreter);
                verifier.insert(Interpreter::new(std::sync::Arc::new(program.clone()))?)
            }
        };
        interpreter.bind(engine.bindings())?;
        interpreter.reset_status();
        engine.reset()?;
        for index in self.plan.launches_of(&program.main()) {
            let compared = compare_launch(engine, interpreter, index)?;
            if let Some(difference) = compared.difference {
                if self.plan.launches[index].code.is_none() {
                    return Err(Error::Verify(difference));
                }
                let case = reproducer::KernelCase::new(engine, index, &difference, compared.inputs, compared.expected);
                let path = case.save(&self.verify_folder())?;
                return Err(Error::Verify(format!("{difference}; run it again with: inductor replay {}", path.display())));
            }
        }
        let loss = program.outputs.iter().find(|o| o.role == crate::graph::OutputRole::Loss);
        let loss = loss.map(|o| engine.read(o.buffer)).transpose()?;
        Ok(Started::Done { status: engine.status()?, loss })
    }
}

/// Inputs, expectations and verdict of one launch.
#[cfg(feature = "gpu")]
pub(super) struct Compared {
    pub inputs: Vec<(BufferId, HostTensor)>,
    pub expected: Vec<(BufferId, HostTensor)>,
    /// What differs, naming the kernel, its ops and lines.
    pub difference: Option<String>,
}

/// Runs launch `index` on the GPU and its commands in the interpreter on the same inputs, and compares what they write.
#[cfg(feature = "gpu")]
pub(super) fn compare_launch(engine: &mut GpuEngine, interpreter: &mut Interpreter, index: usize) -> Result<Compared> {
    let plan = engine.plan().clone();
    let commands: Vec<usize> = plan.launches[index].commands.iter().map(|&c| c as usize).collect();
    let touched: Vec<_> = commands.iter().map(|&c| touched(&plan.program, c)).collect();
    let mut before: Vec<BufferId> = touched.iter().flat_map(|(before, _)| before.iter().copied()).collect();
    before.sort_unstable();
    before.dedup();
    let inputs: Vec<(BufferId, HostTensor)> = before.iter().copied().zip(engine.read_all(&before)?).collect();
    for (buffer, tensor) in &inputs {
        interpreter.write(*buffer, tensor)?;
    }
    engine.run_launch(index)?;
    for &command in &commands {
        interpreter.run_command(command)?;
    }
    let (mut expected, mut differences) = (vec![], vec![]);
    for (&command, (before, writes)) in commands.iter().zip(&touched) {
        let own = inputs.iter().filter(|(b, _)| before.contains(b));
        let scale = input_scale(own) * columns(&plan.program, command, engine.bindings()).sqrt();
        let mut faults = vec![];
        for (&buffer, got) in writes.iter().zip(engine.read_all(writes)?) {
            let want = interpreter.read(buffer)?;
            if let Err(fault) = accuracy::check_kernel(&got, &want, scale) {
                faults.push(format!("{}: {fault}", plan.program.buffers[buffer.0 as usize].name));
            }
            expected.push((buffer, want));
        }
        if (engine.status()? != 0) != (interpreter.status() != 0) {
            faults.push(format!("the status word is {}, expected {}", engine.status()?, interpreter.status()));
        }
        if !faults.is_empty() {
            differences.push(format!("{}: {}", describe(engine, index, command), faults.join("; ")));
        }
    }
    Ok(Compared { inputs, expected, difference: (!differences.is_empty()).then(|| differences.join("; ")) })
}

/// Names a command: its kernel variant, its ops, the user's lines.
#[cfg(feature = "gpu")]
fn describe(engine: &GpuEngine, launch: usize, index: usize) -> String {
    let program = &engine.plan().program;
    let command = &program.commands[index];
    let nest = &program.kernels[command.kernel as usize];
    let lines: Vec<String> = nest.provenance.locations().iter().map(|l| l.to_string()).collect();
    let at = if lines.is_empty() { String::new() } else { format!(" at {}", lines.join(", ")) };
    let variant = engine.variant(launch).map_or("control flow", |v| &v.name);
    format!("command {index}, kernel {} as {}, ops {} ({}){at}", command.kernel, variant, nest.label, command.label)
}

/// Buffers whose contents a command may see (what it reads, and what it writes in part), and buffers it writes. A written
/// buffer that shares its slot with a read one is not written from the host: that would overwrite the read one.
#[cfg_attr(not(feature = "gpu"), allow(dead_code))]
pub(super) fn touched(program: &Program, index: usize) -> (Vec<BufferId>, Vec<BufferId>) {
    let command = &program.commands[index];
    let nest = &program.kernels[command.kernel as usize];
    let slot = |b: &BufferId| program.buffers[b.0 as usize].slot;
    let mut before: Vec<BufferId> = nest.reads().iter().map(|b| command.buffers[b.0 as usize]).collect();
    let mut writes: Vec<BufferId> = nest.writes.iter().map(|w| command.buffers[w.buffer.0 as usize]).collect();
    for list in [&mut before, &mut writes] {
        list.sort_unstable();
        list.dedup();
    }
    let read_slots: Vec<_> = before.iter().map(slot).collect();
    before.extend(writes.iter().copied().filter(|b| !read_slots.contains(&slot(b))));
    (before, writes)
}

/// The largest finite magnitude among float inputs.
#[cfg(feature = "gpu")]
fn input_scale<'t>(inputs: impl Iterator<Item = &'t (BufferId, HostTensor)>) -> f64 {
    let floats = inputs.filter(|(_, t)| t.dtype().is_float());
    floats.flat_map(|(_, t)| t.to_f64()).map(f64::abs).filter(|x| x.is_finite()).fold(0.0, f64::max)
}

/// How many values a command combines into one.
#[cfg(feature = "gpu")]
fn columns(program: &Program, index: usize, bindings: &crate::types::Bindings) -> f64 {
    let nest = &program.kernels[program.commands[index].kernel as usize];
    nest.col_count().eval(bindings).map_or(1.0, |n| n.max(1) as f64)
}
