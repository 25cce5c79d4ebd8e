//! What a device can do, and how fast it is. Written by hand in tests, read from an adapter by `runtime`.

use super::{DType, Tuning};
use serde::{Deserialize, Serialize};

/// Capabilities and limits that decide which kernels are legal. Each optional capability names what it unlocks and what
/// is done without it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceCaps {
    /// Adapter name, for messages and cache keys.
    pub name: String,
    /// `cpu` for the interpreter, else `vulkan`, `metal`, `dx12`, `webgpu`.
    pub backend: String,
    /// Storage buffers that one dispatch may bind.
    pub max_storage_buffers: u32,
    /// Bytes of one storage binding.
    pub max_binding_bytes: u64,
    /// Bytes of one buffer.
    pub max_buffer_bytes: u64,
    /// Bytes of its own memory, where that is known: a program that takes more is refused when it is compiled.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// Bytes of workgroup memory.
    pub max_workgroup_bytes: u32,
    /// Invocations of one workgroup.
    pub max_invocations: u32,
    /// Invocations of one workgroup along x and y.
    pub max_workgroup_size: u32,
    /// Workgroups along one dimension of a grid.
    pub max_groups: u32,
    /// Smallest and largest subgroup size, when subgroup operations may be used. Unlocks subgroup reductions;
    /// without it reductions combine through workgroup memory.
    pub subgroups: Option<(u32, u32)>,
    /// `array<f16>` storage and f16 arithmetic. Without it f16 is packed two to a word and computed in f32.
    pub f16: bool,
    /// 64-bit integers in shaders, whose arithmetic the start-up probe found right. Without it i64 is narrowed under a range proof
    /// or a checked upload.
    pub i64: bool,
    /// Ordered comparisons of 64-bit integers come out right, by the start-up probe. Without it they compare words.
    pub i64_comparisons: bool,
    /// 64-bit floats (and 64-bit integers, for their bits) in shaders, whose arithmetic the start-up probe found right. Without
    /// it f64 programs are refused on the GPU.
    pub f64: bool,
    /// Float expressions are evaluated as they are written, by the start-up probe: NaN and infinities are not simplified away and
    /// sums not reordered. Without it shaders are handed over as SPIR-V that forbids both, where the adapter takes SPIR-V.
    pub exact_floats: bool,
    /// What is converted to f16 to be stored is rounded to nearest even, with subnormals, infinities and NaN. Without it halves are rounded
    /// by their bits.
    #[serde(default)]
    pub converts_halves: bool,
    /// 16x16x16 cooperative matrices of f16 with f32 accumulators, by subgroups of 32. Unlocks products of
    /// [`MatmulPrecision`](super::MatmulPrecision) high and medium, in attention too; without it all products are f32 tiles.
    pub cooperative: Cooperative,
    /// A workgroup sees what others of its dispatch stored before a storage barrier and an atomic. Unlocks tiles of products that
    /// workgroups share; without it each has tiles of its own.
    #[serde(default)]
    pub shares_storage: bool,
    /// Steps of loops that an invocation takes at most. Mesa's driver for the CPU ends all loops of a shader together behind 65,535 of
    /// them, without an error: what loops longer takes another form, or is refused.
    #[serde(default)]
    pub max_steps: Option<u32>,
    /// Timestamp queries around a dispatch. Unlocks per-kernel times; without it only wall clock is reported.
    pub timestamps: bool,
}

/// Whether shaders multiply matrices by subgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cooperative {
    /// No.
    #[default]
    Absent,
    /// The device does.
    Native,
    /// Invocations do in their place: slow, and for tests on devices without them.
    Emulated,
}

impl DeviceCaps {
    /// The optional capabilities, with what is done without each.
    pub fn optional(&self) -> Vec<Capability> {
        let subgroups = self.subgroups.map(|(min, max)| if min == max { format!("on, size {min}") } else { format!("on, sizes {min} to {max}") });
        let is = |has: bool, name, state: &str, otherwise| Capability { name, state: has.then(|| state.to_string()), otherwise };
        let probed = "right by the start-up probe";
        vec![
            Capability { name: "subgroup operations", state: subgroups, otherwise: "reductions combine through workgroup memory" },
            is(self.f16, "f16 arithmetic and storage", "on", "halves are packed in words and computed in f32"),
            is(self.i64, "64-bit integers", "on", "i64 is narrowed under a proof or a checked upload"),
            is(self.f64, "64-bit floats", "on", "f64 programs are refused"),
            is(self.cooperative != Cooperative::Absent, "cooperative matrices", "on, 16x16x16 f16 to f32", "matmul uses f32 tiles"),
            is(self.timestamps, "timestamps", "on", "only wall clock is reported"),
            is(self.shares_storage, "storage shared within a dispatch", "on", "each workgroup of a product has tiles of its own"),
            is(self.i64_comparisons, "comparisons of 64-bit integers", probed, "they compare words"),
            is(self.converts_halves, "conversions to f16", probed, "halves are rounded by their bits"),
            is(self.exact_floats, "floats as written, NaN and infinities", probed, "shaders are SPIR-V that forbids simplification"),
        ]
    }

    /// The dtype whose arithmetic serves values of `dtype`: halves are computed as f32, small integers as 32 bits, and so is i64 where
    /// the device lacks it. `None` where there is none.
    pub fn computes_in(&self, dtype: DType) -> Option<DType> {
        match dtype {
            DType::F32 | DType::F16 | DType::BF16 => Some(DType::F32),
            DType::F64 => self.f64.then_some(DType::F64),
            DType::I64 if self.i64 => Some(DType::I64),
            DType::I64 | DType::I32 | DType::I16 | DType::I8 => Some(DType::I32),
            DType::U32 | DType::U8 => Some(DType::U32),
            DType::Bool => Some(DType::Bool),
        }
    }

    /// The CPU interpreter: every dtype, no limits that matter.
    pub fn cpu() -> DeviceCaps {
        DeviceCaps {
            name: "cpu interpreter".into(),
            backend: "cpu".into(),
            max_storage_buffers: 1 << 20,
            max_binding_bytes: 1 << 46,
            max_buffer_bytes: 1 << 46,
            memory_bytes: None,
            max_workgroup_bytes: 32768,
            max_invocations: 1024,
            max_workgroup_size: 1024,
            max_groups: u32::MAX,
            subgroups: None,
            f16: true,
            i64: true,
            i64_comparisons: true,
            f64: true,
            exact_floats: true,
            converts_halves: true,
            cooperative: Cooperative::Absent,
            shares_storage: false,
            max_steps: None,
            timestamps: false,
        }
    }

    /// The limits every WebGPU implementation guarantees, with no optional feature.
    pub fn webgpu_default() -> DeviceCaps {
        DeviceCaps {
            name: "webgpu-default".into(),
            backend: "webgpu".into(),
            max_storage_buffers: 8,
            max_binding_bytes: 128 << 20,
            max_buffer_bytes: 256 << 20,
            memory_bytes: None,
            max_workgroup_bytes: 16384,
            max_invocations: 256,
            max_workgroup_size: 256,
            max_groups: 65535,
            subgroups: None,
            f16: false,
            i64: false,
            i64_comparisons: true,
            f64: false,
            exact_floats: true,
            converts_halves: true,
            cooperative: Cooperative::Absent,
            shares_storage: false,
            max_steps: None,
            timestamps: false,
        }
    }

    /// The reference card, an H100 through Vulkan: for plans and counts that do not depend on the machine they are made on.
    pub fn h100() -> DeviceCaps {
        DeviceCaps {
            name: "h100".into(),
            backend: "vulkan".into(),
            max_storage_buffers: 1 << 19,
            max_binding_bytes: (1 << 31) - 4,
            max_buffer_bytes: (1 << 32) - (2 << 20),
            memory_bytes: Some(81_559 << 20),
            max_workgroup_bytes: 49152,
            max_invocations: 1024,
            max_workgroup_size: 1024,
            max_groups: 65535,
            subgroups: Some((32, 32)),
            f16: true,
            i64: true,
            i64_comparisons: true,
            f64: true,
            exact_floats: true,
            converts_halves: true,
            cooperative: Cooperative::Native,
            shares_storage: true,
            max_steps: None,
            timestamps: true,
        }
    }

    /// True for the interpreter.
    pub fn is_cpu(&self) -> bool {
        self.backend == "cpu"
    }
}

/// An optional capability as people see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Capability {
    /// What it is.
    pub name: &'static str,
    /// What there is of it; `None` where the device lacks it or gets it wrong.
    pub state: Option<String>,
    /// What is done without it.
    pub otherwise: &'static str,
}

/// Coarse speed figures, an input of compilation so that it stays deterministic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceModel {
    /// Name of the model, recorded in the plan.
    pub name: String,
    /// Memory bandwidth, GB/s counted as bytes read plus bytes written.
    pub bandwidth_gbps: u32,
    /// Cost of one dispatch, nanoseconds.
    pub launch_ns: u32,
    /// f32 arithmetic, GFLOP/s.
    pub gflops: u32,
    /// Invocations needed to fill the device.
    pub parallel_lanes: u32,
    /// Parts that workgroups are spread over.
    pub processors: u32,
    /// Forms of kernels that were measured. A plan has them in its kernels.
    #[serde(skip)]
    pub tuning: Tuning,
}

impl DeviceModel {
    /// A data-center GPU.
    pub fn large_gpu() -> DeviceModel {
        DeviceModel {
            name: "large-gpu".into(),
            bandwidth_gbps: 3000,
            launch_ns: 4000,
            gflops: 60000,
            parallel_lanes: 1 << 18,
            processors: 132,
            tuning: Tuning::default(),
        }
    }

    /// An integrated or small discrete GPU.
    pub fn small_gpu() -> DeviceModel {
        DeviceModel {
            name: "small-gpu".into(),
            bandwidth_gbps: 100,
            launch_ns: 8000,
            gflops: 2000,
            parallel_lanes: 1 << 14,
            processors: 8,
            tuning: Tuning::default(),
        }
    }

    /// A software adapter or the interpreter.
    pub fn cpu() -> DeviceModel {
        DeviceModel {
            name: "cpu".into(),
            bandwidth_gbps: 10,
            launch_ns: 20000,
            gflops: 50,
            parallel_lanes: 1 << 6,
            processors: 1,
            tuning: Tuning::default(),
        }
    }
}
