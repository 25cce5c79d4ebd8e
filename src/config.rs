//! Options, and the only place that reads the environment.

mod optimizer;
mod precision;

pub use optimizer::{Gradients, Optimizer, OptimizerKind, ParameterGroup};
pub use precision::{LossScale, MixedPrecision, Precision};

use crate::types::{Cooperative, DeviceCaps, DeviceModel, MatmulPrecision};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::str::FromStr;

/// What is compiled from a forward graph.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Mode {
    /// The forward alone.
    #[default]
    Inference,
    /// Forward, backward and the update of every parameter: one step of training.
    Train(Optimizer),
    /// Forward, and gradients of given cotangents (a scalar single output takes 1).
    Vjp,
}

/// What `verify` compares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verify {
    /// Nothing.
    #[default]
    Off,
    /// Each kernel on the GPU with the program interpreter on the same inputs; a difference blames codegen or the driver.
    Kernels,
    /// That, and every stored value of the program interpreter with the graph evaluation; a difference blames lowering,
    /// fusion or aliasing.
    Full,
}

/// What the partitioner saves between forward and backward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Saving {
    /// The minimum cut with rematerialization.
    #[default]
    MinCut,
    /// Every value that crosses, nothing recomputed.
    Everything,
}

/// How much memory a step may take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum MemoryBudget {
    /// Bytes of all buffers on the device.
    Bytes(u64),
    /// A share of what the step takes without a budget.
    Fraction(f64),
}

impl MemoryBudget {
    /// In bytes, for a step that takes `unbounded` without it.
    pub fn bytes(self, unbounded: u64) -> u64 {
        match self {
            MemoryBudget::Bytes(bytes) => bytes,
            MemoryBudget::Fraction(share) => (unbounded as f64 * share.clamp(0.0, 1.0)) as u64,
        }
    }
}

impl FromStr for MemoryBudget {
    type Err = String;

    /// `0.5` and `50%` are shares, `3000MiB`, `3GiB` and `3000000000B` are bytes.
    fn from_str(text: &str) -> Result<MemoryBudget, String> {
        let units = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
        let wrong = || format!("{text} is no memory budget: give a share as 0.5 or 50%, or bytes as 3000MiB or 3GiB");
        let number = |digits: &str| digits.trim().parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0).ok_or_else(wrong);
        if let Some((digits, unit)) = units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit))) {
            return Ok(MemoryBudget::Bytes((number(digits)? * *unit as f64) as u64));
        }
        let share = match text.strip_suffix('%') {
            Some(percent) => number(percent)? / 100.0,
            None => number(text)?,
        };
        if share <= 1.0 { Ok(MemoryBudget::Fraction(share)) } else { Err(wrong()) }
    }
}

/// Options of a compilation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// What is compiled.
    pub mode: Mode,
    /// What is compared while running.
    pub verify: Verify,
    /// What crosses from forward to backward.
    pub saving: Saving,
    /// How much memory a step may take: activations are computed again, products among them, until it fits. A budget that no cut
    /// meets is an error that names the smallest one that can be met. With one, gradients of attention store no scores.
    #[serde(default)]
    pub memory_budget: Option<MemoryBudget>,
    /// Fuse nests into kernels; off gives one kernel per node.
    pub fuse: bool,
    /// Let buffers whose lifetimes do not meet share a slot.
    pub reuse: bool,
    /// Round values of half precision to their type after every operation, as if each were stored. Without it operations that are
    /// fused hand on f32, so that a comparison, `trunc` or a conversion to integers may see what a half cannot hold: closer to
    /// the exact value, and further from a framework that runs one operation at a time.
    pub emulate_precision_casts: bool,
    /// How exactly products of f32 matrices, and those of attention, are computed, where the device has matrix units.
    #[serde(default)]
    pub matmul_precision: MatmulPrecision,
    /// Compute products in halves.
    #[serde(default)]
    pub mixed_precision: Option<MixedPrecision>,
    /// Refuse steps whose gradients are not finite; state stays as it was.
    pub check_gradients: bool,
    /// Hunt for the first value of a step that is NaN or infinite. Outputs, gradients and new values of state are checked before
    /// state is written; a step with one that is not finite is refused, runs again on the interpreter, one operator at a time, and
    /// the error names the first operator that made such a value from finite ones, its source line and the step. Each step is waited for,
    /// and new values of state need memory beside the old ones.
    #[serde(default)]
    pub detect_anomaly: bool,
    /// What a step of training tells about its gradients, beside using them.
    #[serde(default)]
    pub gradients: Gradients,
    /// Accept NaN and infinities in float inputs of training.
    pub allow_non_finite: bool,
    /// Accept batches without elements in training.
    pub allow_empty: bool,
    /// Write graphs, nests and WGSL of every stage into this folder.
    pub dump: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            mode: Mode::Inference,
            verify: Verify::Off,
            saving: Saving::MinCut,
            memory_budget: None,
            fuse: true,
            reuse: true,
            emulate_precision_casts: false,
            matmul_precision: MatmulPrecision::default(),
            mixed_precision: None,
            check_gradients: false,
            detect_anomaly: false,
            gradients: Gradients::Internal,
            allow_non_finite: false,
            allow_empty: false,
            dump: None,
        }
    }
}

/// What is compiled for: capabilities and a speed model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Capabilities and limits.
    pub caps: DeviceCaps,
    /// Coarse speeds.
    pub model: DeviceModel,
}

impl Target {
    /// The CPU interpreter.
    pub fn cpu() -> Target {
        Target { caps: DeviceCaps::cpu(), model: DeviceModel::cpu() }
    }

    /// Any WebGPU implementation.
    pub fn webgpu_default() -> Target {
        Target { caps: DeviceCaps::webgpu_default(), model: DeviceModel::small_gpu() }
    }

    /// The reference card, without a device.
    pub fn h100() -> Target {
        Target { caps: DeviceCaps::h100(), model: DeviceModel::large_gpu() }
    }

    /// The same without matrix units.
    pub fn without_units(self) -> Target {
        Target { caps: DeviceCaps { cooperative: Cooperative::Absent, ..self.caps }, ..self }
    }
}

/// What the environment asks for. Read once, when a device is first looked for.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `WGPU_ADAPTER_NAME`: a part of the adapter's name, any case.
    pub adapter_name: Option<String>,
    /// `WGPU_BACKEND`: `vulkan`, `metal`, `dx12`, comma separated.
    pub backend: Option<String>,
    /// `INDUCTOR_CACHE_DIR`, or the user's cache folder.
    pub cache_dir: Option<PathBuf>,
}

impl Environment {
    /// Reads the process environment.
    pub fn read() -> Environment {
        let text = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let user = || directories::ProjectDirs::from("", "", "inductor").map(|d| d.cache_dir().to_path_buf());
        Environment {
            adapter_name: text("WGPU_ADAPTER_NAME"),
            backend: text("WGPU_BACKEND"),
            cache_dir: text("INDUCTOR_CACHE_DIR").map(PathBuf::from).or_else(user),
        }
    }
}

/// For the first line of a program's `main`: keeps the Vulkan loader's device selection from asking for a window system where there is
/// none, which complains on the standard error. Nothing here shows windows. The environment of a process can be changed safely only
/// from outside, so that the process starts itself again, once.
pub fn leave_windows_alone() {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::process::CommandExt;
        let is_set = |name: &str| std::env::var_os(name).is_some();
        if ["XDG_RUNTIME_DIR", SELECTION].into_iter().any(is_set) {
            return;
        }
        let mut arguments = std::env::args_os();
        let (Some(name), Ok(program)) = (arguments.next(), std::env::current_exe()) else { return };
        // It returns only where that fails; then the lines appear, and nothing else is worse.
        let error = std::process::Command::new(program).arg0(name).args(arguments).env(SELECTION, "1").exec();
        tracing::debug!(%error, "the process did not start again");
    }
}

/// Switches off the layer of the Vulkan loader that selects a device by the window system.
#[cfg(target_os = "linux")]
const SELECTION: &str = "NODEVICE_SELECT";
