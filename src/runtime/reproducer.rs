//! Self-contained folders for what verification found wrong, and running them again.

use super::device::Device;
use super::oracle::{Sources, compare_program};
use super::tensor_file::{load_tensors, save_tensors};
use crate::error::{Error, Result};
use crate::graph::{Value, parse, print};
use crate::loop_ir::{BufferId, Phase};
use crate::schedule::Program;
use crate::types::{Bindings, HostTensor};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

#[cfg(feature = "gpu")]
pub(super) use kernel::KernelCase;

/// What running a reproducer again gives.
#[derive(Clone, Debug)]
pub struct Replay {
    /// What was wrong when it was written, and where.
    pub recorded: String,
    /// What is wrong now; `None` when everything agrees.
    pub difference: Option<String>,
    /// What ran it.
    pub device: String,
}

/// Runs the reproducer in `folder`: one kernel on `device` against the interpreter, or a whole program in the interpreter
/// against the evaluation of its graphs.
pub fn replay(folder: &Path, device: &Device) -> Result<Replay> {
    let path = folder.join("case.json");
    let text = std::fs::read_to_string(&path).map_err(|e| Error::file(&path, e))?;
    let broken = |e: serde_json::Error| Error::file(&path, format!("not a reproducer: {e}"));
    let kind: Kind = serde_json::from_str(&text).map_err(broken)?;
    match kind.kind.as_str() {
        "program" => replay_program(folder, serde_json::from_str(&text).map_err(broken)?),
        #[cfg(feature = "gpu")]
        "kernel" => kernel::replay(folder, device, serde_json::from_str(&text).map_err(broken)?),
        other => Err(Error::file(&path, format!("{other} cannot be replayed by this build on {}", device.describe()))),
    }
}

#[derive(Deserialize)]
struct Kind {
    kind: String,
}

/// A program that disagrees with its graphs, with the inputs of one step.
#[derive(Serialize, Deserialize)]
struct ProgramFacts {
    kind: String,
    difference: String,
    bindings: Bindings,
    program: Program,
    graphs: Vec<(Phase, String)>,
    values: Vec<(Phase, Value, BufferId)>,
}

/// Writes the folder of a program that disagrees with its graphs, and gives its path.
pub(super) fn save_program(
    below: &Path,
    difference: &str,
    program: &Program,
    sources: &Sources,
    bindings: &Bindings,
    feeds: &[(BufferId, HostTensor)],
) -> Result<PathBuf> {
    let facts = ProgramFacts {
        kind: "program".into(),
        difference: difference.into(),
        bindings: bindings.clone(),
        program: program.clone(),
        graphs: sources.graphs.iter().map(|(phase, graph)| (*phase, print(graph))).collect(),
        values: sources.values.clone(),
    };
    let name = file_name(&format!("{}-program", program.name));
    let inputs: Vec<(String, HostTensor)> = feeds.iter().map(|(b, t)| (format!("b{}", b.0), t.clone())).collect();
    let readme = format!(
        "# A program that disagrees with its graph\n\n{difference}\n\n\
         Run it again, with no GPU, from the folder above this one:\n\n    inductor replay {name}\n\n\
         * `case.json`: the scheduled program, the text of the graphs it was made from, where it stores their values\n\
         * `kernel.txt`: the kernels, for reading\n\
         * `inputs.safetensors`: what the step was given\n"
    );
    let kernels = program.kernels.iter().enumerate().map(|(i, k)| format!("kernel {i}\n{k}\n\n")).collect();
    write_case(&below.join(&name), &facts, readme, kernels, &inputs)
}

fn replay_program(folder: &Path, facts: ProgramFacts) -> Result<Replay> {
    let mut graphs = vec![];
    for (phase, text) in facts.graphs {
        graphs.push((phase, parse(&text)?));
    }
    let feeds = load_buffers(&folder.join("inputs.safetensors"))?;
    let sources = Sources { graphs, values: facts.values };
    let difference = compare_program(&facts.program, &sources, &facts.bindings, &feeds)?;
    Ok(Replay { recorded: facts.difference, difference, device: "interpreter".into() })
}

fn write_case(folder: &Path, facts: &impl Serialize, readme: String, kernels: String, inputs: &[(String, HostTensor)]) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).map_err(|e| Error::file(folder, e))?;
    let put = |name: &str, text: String| crate::files::write(folder.join(name), text);
    put("case.json", serde_json::to_string_pretty(facts).map_err(|e| Error::file(folder, e))?)?;
    put("kernel.txt", kernels)?;
    put("README.md", readme)?;
    save_tensors(&folder.join("inputs.safetensors"), inputs, None)?;
    Ok(folder.to_path_buf())
}

/// Tensors named `b<k>`, by buffer.
fn load_buffers(path: &Path) -> Result<Vec<(BufferId, HostTensor)>> {
    let id = |name: &str| name.strip_prefix('b').and_then(|n| n.parse().ok()).map(BufferId);
    let (tensors, _) = load_tensors(path)?;
    tensors.into_iter().map(|(name, t)| Ok((id(&name).ok_or_else(|| Error::file(path, format!("{name} is no buffer")))?, t))).collect()
}

fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' }).collect()
}

/// One kernel that a GPU computes differently from the interpreter.
#[cfg(feature = "gpu")]
mod kernel {
    use super::super::gpu::GpuEngine;
    use super::super::verify::compare_launch;
    use super::*;
    use crate::codegen::{Launch, Plan};
    use crate::interp::Interpreter;
    use crate::schedule::SlotId;
    use std::sync::Arc;

    /// One kernel with the inputs on which it was wrong.
    pub struct KernelCase {
        name: String,
        facts: KernelFacts,
        inputs: Vec<(String, HostTensor)>,
        expected: Vec<(String, HostTensor)>,
    }

    #[derive(Serialize, Deserialize)]
    pub struct KernelFacts {
        kind: String,
        difference: String,
        adapter: String,
        backend: String,
        bindings: Bindings,
        plan: Plan,
    }

    impl KernelCase {
        /// Cuts launch `index` out of the engine's plan.
        pub fn new(
            engine: &GpuEngine,
            index: usize,
            difference: &str,
            inputs: Vec<(BufferId, HostTensor)>,
            expected: Vec<(BufferId, HostTensor)>,
        ) -> KernelCase {
            let (plan, kept) = cut(engine.plan(), index);
            let named = |tensors: Vec<(BufferId, HostTensor)>| {
                let place = |b: BufferId| kept.iter().position(|o| *o == b).map(|k| format!("b{k}"));
                tensors.into_iter().filter_map(|(b, t)| Some((place(b)?, t))).collect()
            };
            let caps = engine.device().caps();
            KernelCase {
                name: file_name(&format!("{}-{index}", engine.plan().program.name)),
                inputs: named(inputs),
                expected: named(expected),
                facts: KernelFacts {
                    kind: "kernel".into(),
                    difference: difference.into(),
                    adapter: caps.name.clone(),
                    backend: caps.backend.clone(),
                    bindings: engine.bindings().clone(),
                    plan,
                },
            }
        }

        /// Writes the folder and gives its path.
        pub fn save(&self, below: &Path) -> Result<PathBuf> {
            let plan = &self.facts.plan;
            let kernels = plan.program.kernels.iter().map(|n| format!("{n}\n")).collect();
            let folder = write_case(&below.join(&self.name), &self.facts, self.readme(), kernels, &self.inputs)?;
            save_tensors(&folder.join("expected.safetensors"), &self.expected, None)?;
            if let Some(variant) = plan.code.first().and_then(|c| c.variants.first()) {
                let path = folder.join("kernel.wgsl");
                crate::files::write(&path, &variant.wgsl)?;
            }
            Ok(folder)
        }

        fn readme(&self) -> String {
            format!(
                "# A kernel that disagrees with the interpreter\n\n{}\n\nAdapter: {} ({}).\n\n\
                 Run it again, here or on another device, from the folder above this one:\n\n    inductor replay {} --device gpu\n\n\
                 * `case.json`: the plan of this one kernel, with the values of symbols; edit its `wgsl` to try a fix\n\
                 * `kernel.txt`: the loop nest; `kernel.wgsl`: the shader, for reading\n\
                 * `inputs.safetensors`, `expected.safetensors`: buffers before, and as the interpreter leaves them\n",
                self.facts.difference, self.facts.adapter, self.facts.backend, self.name
            )
        }
    }

    pub fn replay(folder: &Path, device: &Device, facts: KernelFacts) -> Result<Replay> {
        let Some(gpu) = device.gpu() else {
            return Err(Error::Platform("this reproducer compares a GPU with the interpreter: use --device gpu or software".into()));
        };
        let mut interpreter = Interpreter::new(Arc::new(facts.plan.program.clone()))?;
        interpreter.bind(&facts.bindings)?;
        let mut engine = GpuEngine::new(gpu, Arc::new(facts.plan), false)?;
        engine.bind(&facts.bindings)?;
        engine.reset()?;
        for (buffer, tensor) in load_buffers(&folder.join("inputs.safetensors"))? {
            engine.write(buffer, &tensor)?;
        }
        let compared = compare_launch(&mut engine, &mut interpreter, 0)?;
        Ok(Replay { recorded: facts.difference, difference: compared.difference, device: device.describe() })
    }

    /// The plan of one launch alone, and the buffer of the whole plan behind each of its buffers.
    fn cut(plan: &Plan, index: usize) -> (Plan, Vec<BufferId>) {
        let (whole, launch) = (&plan.program, &plan.launches[index]);
        let mut commands: Vec<_> = launch.commands.iter().map(|&c| whole.commands[c as usize].clone()).collect();
        let (mut kept, mut kernels): (Vec<BufferId>, Vec<u32>) = (vec![], vec![]);
        for command in &mut commands {
            command.buffers.iter_mut().for_each(|b| *b = BufferId(number(&mut kept, *b)));
            command.kernel = number(&mut kernels, command.kernel);
        }
        let mut slots: Vec<SlotId> = vec![];
        let mut buffers = vec![];
        for b in &kept {
            let mut placed = whole.buffers[b.0 as usize].clone();
            placed.slot = SlotId(number(&mut slots, placed.slot));
            buffers.push(placed);
        }
        let program = Program {
            name: whole.name.clone(),
            symbols: whole.symbols.clone(),
            buffers,
            slots: slots.iter().map(|s| whole.slots[s.0 as usize].clone()).collect(),
            kernels: kernels.iter().map(|&k| whole.kernels[k as usize].clone()).collect(),
            forms: kernels.iter().filter_map(|&k| whole.forms.get(k as usize).cloned()).collect(),
            commands,
            checks: whole.checks.clone(),
            ..Program::default()
        };
        let launches = vec![Launch { commands: (0..program.commands.len() as u32).collect(), code: Some(0) }];
        let code = launch.code.map(|code| plan.code[code as usize].clone()).into_iter().collect();
        (Plan { program, target: plan.target.clone(), code, launches }, kept)
    }

    /// The place of `x` in a list, at whose end it is put when it is new.
    fn number<T: PartialEq>(list: &mut Vec<T>, x: T) -> u32 {
        let at = list.iter().position(|y| *y == x).unwrap_or_else(|| {
            list.push(x);
            list.len() - 1
        });
        at as u32
    }
}
