//! Where the time of a step goes: each command with its time, its traffic and what the device copies in that time.

use super::{Device, Step, compile};
use crate::config::Config;
use crate::error::Result;
use crate::frontend::{Initializer, trace_eval};
use crate::loop_ir::Phase;
use crate::loop_ir::facts::multiply_adds;
use crate::schedule::{Dispatch, Program, buffer_bytes};
use crate::types::{Bindings, DType};
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::Instant;

/// One command of a step, or several that one launch runs.
#[derive(Clone, Debug, Serialize)]
pub struct ProfiledCommand {
    /// Its number in the program; the first one's.
    pub command: usize,
    /// The graph it belongs to.
    pub phase: Phase,
    /// Its operators, and the user's lines; how many more commands run beside it.
    pub label: String,
    /// Microseconds since the first command started.
    pub start_us: f64,
    /// Microseconds on the device, by timestamps.
    pub us: f64,
    /// Compulsory traffic: each buffer read once and each buffer written once, wholly.
    pub bytes: u64,
    /// Operations of products and attention, two for each multiply-add.
    pub flops: f64,
    /// Its shader: launches of one shader do the same.
    pub shader: u32,
}

/// The commands of a step in execution order.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    /// The program.
    pub name: String,
    /// The device.
    pub device: String,
    /// What a kernel that reads and writes each element once moves on this device, GB/s counted both ways.
    pub copy_gbps: f64,
    /// Arithmetic of the device's speed model, GFLOP/s.
    pub peak_gflops: u32,
    /// In execution order.
    pub commands: Vec<ProfiledCommand>,
}

/// Seconds of load before anything is measured: clocks rise under load only.
const WARM_UP_S: f64 = 0.4;
/// Bytes that are copied, where one binding holds them: more than caches hold.
const COPIED: usize = 256 << 20;

impl Step {
    /// Times the commands of this step, after some load; those of loops as often as they run. They run on what the buffers hold: a
    /// training step takes part in the training. Needs a device with timestamps.
    pub fn profile(&self) -> Result<Profile> {
        let warm = Instant::now();
        while warm.elapsed().as_secs_f64() < WARM_UP_S {
            self.command_times()?;
        }
        let (program, bindings) = (&self.plan().program, self.bindings());
        let commands = self.command_times()?.into_iter().map(|time| {
            let launch = &self.plan().launches[time.launch];
            let dispatches = launch.commands.iter().map(|&c| &program.commands[c as usize]).collect::<Vec<_>>();
            let bytes = compulsory_bytes(program, &dispatches, &bindings);
            let flops = dispatches.iter().map(|d| 2.0 * multiply_adds(&program.kernels[d.kernel as usize], &bindings)).sum();
            let (command, shader) = (launch.commands[0] as usize, launch.code.unwrap_or_default());
            ProfiledCommand { command, phase: dispatches[0].phase, label: time.label, start_us: time.start_us, us: time.us, bytes, flops, shader }
        });
        let commands = commands.collect();
        let copy_gbps = copy_gbps(self.device(), COPIED.min(self.device().caps().max_binding_bytes as usize))?;
        let (name, peak_gflops) = (program.name.clone(), self.device().model().gflops);
        Ok(Profile { name, device: self.device().caps().name.clone(), copy_gbps, peak_gflops, commands })
    }
}

/// What a kernel that reads and writes each of `bytes` once moves on a device with timestamps, in GB/s counted both ways.
pub fn copy_gbps(device: &Device, bytes: usize) -> Result<f64> {
    let traced = trace_eval("copy", |t| {
        let x = t.parameter("x", DType::F32, bytes / 4, Initializer::Zeros);
        Ok(vec![("y", -x)])
    })?;
    let step = compile(&traced, device, &Config::default())?;
    let mut state = step.init(1)?;
    step.run(&mut state, ())?.wait()?;
    let (warm, mut times) = (Instant::now(), vec![]);
    while warm.elapsed().as_secs_f64() < WARM_UP_S || times.len() < 21 {
        times.push(step.command_times()?.iter().map(|t| t.us).sum::<f64>());
    }
    let mut last = times.split_off(times.len() - 21);
    last.sort_by(f64::total_cmp);
    Ok(2.0 * bytes as f64 / last[10] / 1e3)
}

/// Every buffer that these dispatches read, once, and every one they write.
fn compulsory_bytes(program: &Program, dispatches: &[&Dispatch], bindings: &Bindings) -> u64 {
    let (mut read, mut written) = (BTreeSet::new(), BTreeSet::new());
    for dispatch in dispatches {
        let kernel = &program.kernels[dispatch.kernel as usize];
        read.extend(kernel.reads().into_iter().map(|local| dispatch.buffers[local.0 as usize]));
        written.extend(kernel.writes.iter().map(|w| dispatch.buffers[w.buffer.0 as usize]));
    }
    let bytes = read.into_iter().chain(written).map(|b| {
        let buffer = &program.buffers[b.0 as usize];
        buffer_bytes(&buffer.ty, buffer.storage).eval(bindings).unwrap_or(0).max(0) as u64
    });
    bytes.sum()
}
