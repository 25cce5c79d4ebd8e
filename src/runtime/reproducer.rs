//! A self-contained folder for one kernel that was wrong, and running it again.

use super::device::Device;
use super::gpu::GpuEngine;
use super::state::{load_tensors, save_tensors};
use super::verify::compare_command;
use crate::codegen::Plan;
use crate::error::{Error, Result};
use crate::interp::Interpreter;
use crate::loop_ir::BufferId;
use crate::schedule::{Program, SlotId};
use crate::types::{Bindings, HostTensor};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One kernel with the inputs on which it was wrong.
pub(super) struct Case {
    name: String,
    facts: Facts,
    inputs: Vec<(String, HostTensor)>,
    expected: Vec<(String, HostTensor)>,
}

/// What is not tensors.
#[derive(Serialize, Deserialize)]
struct Facts {
    difference: String,
    adapter: String,
    backend: String,
    bindings: Bindings,
    plan: Plan,
}

/// What running a reproducer again gives.
#[derive(Clone, Debug)]
pub struct Replay {
    /// What was wrong when it was written, and where.
    pub recorded: String,
    /// What is wrong now; `None` when the kernel agrees with the interpreter.
    pub difference: Option<String>,
    /// Which device ran it.
    pub device: String,
}

impl Case {
    /// Cuts command `index` out of the engine's plan.
    pub fn new(
        engine: &GpuEngine,
        index: usize,
        difference: &str,
        inputs: Vec<(BufferId, HostTensor)>,
        expected: Vec<(BufferId, HostTensor)>,
    ) -> Result<Case> {
        let plan = engine.plan();
        let (small, renumbered) = cut(plan, index);
        let named = |tensors: Vec<(BufferId, HostTensor)>| {
            let place = |b: BufferId| renumbered.iter().position(|o| *o == b).map(|k| format!("b{k}"));
            tensors.into_iter().filter_map(|(b, t)| Some((place(b)?, t))).collect()
        };
        let caps = engine.device().caps();
        Ok(Case {
            name: file_name(&format!("{}-{index}", plan.program.name)),
            facts: Facts {
                difference: difference.into(),
                adapter: caps.name.clone(),
                backend: caps.backend.clone(),
                bindings: engine.bindings().clone(),
                plan: small,
            },
            inputs: named(inputs),
            expected: named(expected),
        })
    }

    /// Writes the folder and gives its path.
    pub fn save(&self, below: &Path) -> Result<PathBuf> {
        let folder = below.join(&self.name);
        std::fs::create_dir_all(&folder).map_err(|e| Error::file(&folder, e))?;
        let put = |name: &str, text: String| std::fs::write(folder.join(name), text).map_err(|e| Error::file(folder.join(name), e));
        let facts = serde_json::to_string_pretty(&self.facts).map_err(|e| Error::file(&folder, e))?;
        put("case.json", facts)?;
        let plan = &self.facts.plan;
        put("kernel.txt", plan.program.kernels.iter().map(|n| format!("{n}\n")).collect())?;
        if let Some(variant) = plan.code.first().and_then(|c| c.variants.first()) {
            put("kernel.wgsl", variant.wgsl.clone())?;
        }
        put("README.md", self.readme())?;
        save_tensors(&folder.join("inputs.safetensors"), &self.inputs, None)?;
        save_tensors(&folder.join("expected.safetensors"), &self.expected, None)?;
        Ok(folder)
    }

    fn readme(&self) -> String {
        format!(
            "# A kernel that disagrees with the interpreter\n\n{}\n\nAdapter: {} ({}).\n\n\
             Run it again, here or on another device, from the folder above this one:\n\n    inductor replay {} --device auto\n\n\
             * `case.json`: the plan of this one kernel, with the values of symbols; edit its `wgsl` to try a fix\n\
             * `kernel.txt`: the loop nest; `kernel.wgsl`: the shader, for reading\n\
             * `inputs.safetensors`, `expected.safetensors`: buffers before, and as the interpreter leaves them\n",
            self.facts.difference, self.facts.adapter, self.facts.backend, self.name
        )
    }
}

/// Runs the reproducer in `folder` on `device`, and compares with the interpreter here and with the recorded expectation.
pub fn replay(folder: &Path, device: &Device) -> Result<Replay> {
    let path = folder.join("case.json");
    let text = std::fs::read_to_string(&path).map_err(|e| Error::file(&path, e))?;
    let facts: Facts = serde_json::from_str(&text).map_err(|e| Error::file(&path, format!("not a reproducer: {e}")))?;
    let Some(gpu) = device.gpu() else {
        return Err(Error::Platform("a reproducer compares a GPU with the interpreter: use --device gpu or software".into()));
    };
    let mut interpreter = Interpreter::new(Arc::new(facts.plan.program.clone()))?;
    interpreter.bind(&facts.bindings)?;
    let mut engine = GpuEngine::new(gpu, Arc::new(facts.plan))?;
    engine.bind(&facts.bindings)?;
    engine.reset_status();
    for (name, tensor) in load_tensors(&folder.join("inputs.safetensors"))?.0 {
        let id = name.strip_prefix('b').and_then(|n| n.parse().ok()).map(BufferId);
        engine.write(id.ok_or_else(|| Error::file(folder, format!("{name} is no buffer")))?, &tensor)?;
    }
    let compared = compare_command(&mut engine, &mut interpreter, 0)?;
    Ok(Replay { recorded: facts.difference, difference: compared.difference, device: device.describe() })
}

/// The plan of one command alone, and the buffer of the whole plan behind each of its buffers.
fn cut(plan: &Plan, index: usize) -> (Plan, Vec<BufferId>) {
    let whole = &plan.program;
    let mut command = whole.commands[index].clone();
    let mut kept: Vec<BufferId> = vec![];
    for b in &mut command.buffers {
        let at = kept.iter().position(|k| k == b).unwrap_or(kept.len());
        if at == kept.len() {
            kept.push(*b);
        }
        *b = BufferId(at as u32);
    }
    let mut slots: Vec<SlotId> = vec![];
    let mut buffers = vec![];
    for b in &kept {
        let mut placed = whole.buffers[b.0 as usize].clone();
        let at = slots.iter().position(|s| *s == placed.slot).unwrap_or(slots.len());
        if at == slots.len() {
            slots.push(placed.slot);
        }
        placed.slot = SlotId(at as u32);
        buffers.push(placed);
    }
    let kernel = whole.kernels[command.kernel as usize].clone();
    command.kernel = 0;
    let program = Program {
        name: whole.name.clone(),
        symbols: whole.symbols.clone(),
        buffers,
        slots: slots.iter().map(|s| whole.slots[s.0 as usize].clone()).collect(),
        kernels: vec![kernel],
        commands: vec![command],
        checks: whole.checks.clone(),
        ..Program::default()
    };
    let code = plan.code[plan.dispatch_code[index] as usize].clone();
    (Plan { program, target: plan.target.clone(), code: vec![code], dispatch_code: vec![0] }, kept)
}

fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' }).collect()
}
