//! A plan: a program with WGSL for each kernel.

use crate::config::Target;
use crate::loop_ir::BufferId;
use crate::schedule::Program;
use crate::types::{Bindings, Dim};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// How a shader sees one binding. Binding `k` of group 0 is entry `k` of [`Variant::bindings`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Binding {
    /// Buffer `k` of the launch, read only: `var<storage, read>`.
    Read(u32),
    /// Buffer `k` of the launch, written and perhaps read: `var<storage, read_write>`. When two buffers of a dispatch share
    /// a slot (in-place update), they share this binding.
    ReadWrite(u32),
    /// The status word, one u32: `var<storage, read_write> status: atomic<u32>` in kernels that may set it.
    StatusWrite,
    /// The status word of guarded kernels: `var<storage, read> status: u32`.
    StatusRead,
    /// The word that skips kernels of a block where it is not zero, that of the launch's first command: `var<storage, read> skip: u32`.
    Skip,
    /// Values of the program's symbols, `array<vec4<u32>, ceil(n / 4)>` in a uniform buffer, in the order of
    /// `Program::symbols`. Absent when there are none.
    Symbols,
    /// Memory that workgroups of one dispatch share, `array<atomic<u32>>`: [`Variant::scratch_bytes`] of zeros, which a dispatch leaves
    /// so that every kernel of a plan may use the same.
    Scratch,
}

/// One way to run a kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    /// What it is, as `row-per-workgroup-256`.
    pub name: String,
    /// The shader, entry point `main`.
    pub wgsl: String,
    /// Invocations of a workgroup.
    pub workgroup: [u32; 3],
    /// Number of workgroups. The runtime folds it into x and y when it exceeds the limit per dimension; the shader computes
    /// `workgroup_id.x + workgroup_id.y * num_workgroups.x` and returns (uniformly) when that is not below the count.
    pub groups: Dim,
    /// Bindings of group 0.
    pub bindings: Vec<Binding>,
    /// Bytes of [`Binding::Scratch`].
    #[serde(default)]
    pub scratch_bytes: u64,
    /// Uses cooperative matrices.
    #[serde(default)]
    pub cooperative: bool,
}

/// WGSL of one kernel, best variant first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelCode {
    /// Variants for the same dispatches; `Dispatch::guarded` ones have their own entry.
    pub variants: Vec<Variant>,
}

/// A program with its code for one target. Prints, serializes and replays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The program.
    pub program: Program,
    /// What it was compiled for.
    pub target: Target,
    /// Distinct shaders.
    pub code: Vec<KernelCode>,
    /// What a step launches, in order: every command of the program once, those of blocks included. Empty for the interpreter.
    pub launches: Vec<Launch>,
}

/// One launch: a command, or several that do not need one another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Commands of the program. Bindings count the buffers of all of them, in this order.
    pub commands: Vec<u32>,
    /// Its entry in [`Plan::code`]; none where it stands for control flow, whose blocks are launches of their own.
    pub code: Option<u32>,
}

impl Plan {
    /// Launches of one plan whose commands run one by one, with these shaders.
    pub fn one_by_one(code: impl IntoIterator<Item = u32>) -> Vec<Launch> {
        code.into_iter().enumerate().map(|(command, code)| Launch { commands: vec![command as u32], code: Some(code) }).collect()
    }

    /// The launches of a range of commands, which no launch crosses.
    pub fn launches_of(&self, commands: &Range<usize>) -> Range<usize> {
        let before = |end: usize| self.launches.partition_point(|l| (l.commands[0] as usize) < end);
        before(commands.start)..before(commands.end)
    }

    /// The buffers of a launch: those of its commands, one behind the other.
    pub fn buffers(&self, launch: &Launch) -> Vec<BufferId> {
        launch.commands.iter().flat_map(|&c| self.program.commands[c as usize].buffers.iter().copied()).collect()
    }

    /// Whether nothing of a launch has an element to work for at these sizes.
    pub fn is_idle(&self, launch: &Launch, bindings: &Bindings) -> Result<bool, String> {
        for &command in &launch.commands {
            let nest = &self.program.kernels[self.program.commands[command as usize].kernel as usize];
            if nest.col_count().eval(bindings)? != 0 || !nest.works_per_element() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The launch as people name it.
    pub fn label(&self, launch: &Launch) -> String {
        let first = &self.program.commands[launch.commands[0] as usize].label;
        match launch.commands.len() - 1 {
            0 => first.clone(),
            more => format!("{first} and {more} more"),
        }
    }
}
