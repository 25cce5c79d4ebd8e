//! Support of the kernel tests: programs of one nest, validation, execution, comparison.

pub mod device;
pub mod reference;
mod valid;

pub use valid::validate;

use inductor::codegen::{Plan, generate};
use inductor::config::Target;
use inductor::loop_ir::Phase;
use inductor::loop_ir::{Buffer, BufferId, Nest};
use inductor::ops::{Array, NestBuilder, OperandView};
use inductor::schedule::{Dispatch, PlacedBuffer, Program, Slot, SlotId, SlotKind, choose_forms};
use inductor::types::{Bindings, DType, DeviceCaps, DeviceModel, Dim, HostTensor, Provenance, Storage, Symbol, TensorType};

/// A program under test: buffers, of which the first are inputs with contents.
pub struct Case {
    pub name: String,
    pub inputs: Vec<HostTensor>,
    pub types: Vec<TensorType>,
    pub storage: Vec<Storage>,
    /// Slot of each buffer; its own when absent.
    pub slots: Vec<u32>,
    pub nests: Vec<Nest>,
    pub bindings: Bindings,
    pub symbols: Vec<Symbol>,
    /// Relative tolerance for f32 results.
    pub tolerance: f64,
    /// All nests in one launch.
    pub together: bool,
}

/// Random numbers that do not depend on anything.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }
    pub fn unit(&mut self) -> f64 {
        self.next() as f64 / (1u64 << 31) as f64
    }
}

/// A type of fixed sizes.
pub fn ty<N: Into<Dim> + Clone>(dtype: DType, shape: &[N]) -> TensorType {
    TensorType::new(dtype, shape)
}

/// A tensor with random elements of its type.
pub fn random(dtype: DType, shape: &[usize], seed: u64) -> HostTensor {
    let mut r = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) + 7);
    let n: usize = shape.iter().product();
    if dtype.is_float() {
        HostTensor::from_f64(dtype, shape, &(0..n).map(|_| r.unit() * 4.0 - 2.0).collect::<Vec<_>>())
    } else {
        let top = if dtype == DType::Bool { 2 } else { 100 };
        HostTensor::from_i64(dtype, shape, &(0..n).map(|_| (r.next() % top) as i64).collect::<Vec<_>>())
    }
}

/// The default storage of a dtype on a GPU.
pub fn storage(dtype: DType) -> Storage {
    match dtype {
        DType::F32 | DType::I32 | DType::U32 | DType::F64 => Storage::Native,
        DType::I64 => Storage::Narrow,
        _ => Storage::Word,
    }
}

impl Case {
    /// `build` appends nests that read `inputs` (operands) and write `outputs` (results).
    pub fn new(
        name: impl Into<String>,
        inputs: Vec<HostTensor>,
        outputs: Vec<TensorType>,
        build: impl FnOnce(&mut NestBuilder) -> Result<(), String>,
    ) -> Case {
        let types = inputs.iter().map(|t| t.ty()).collect();
        Case::symbolic(name, inputs, types, outputs, &[], build)
    }

    /// The same with symbolic sizes: `input_types` state the inputs' types.
    pub fn symbolic(
        name: impl Into<String>,
        inputs: Vec<HostTensor>,
        input_types: Vec<TensorType>,
        outputs: Vec<TensorType>,
        sizes: &[(&Dim, i64)],
        build: impl FnOnce(&mut NestBuilder) -> Result<(), String>,
    ) -> Case {
        let name = name.into();
        let mut buffers: Vec<Buffer> = vec![];
        for (i, ty) in input_types.iter().enumerate() {
            buffers.push(Buffer { name: format!("x{i}"), ty: ty.clone() });
        }
        let operands = input_types.iter().enumerate().map(|(i, ty)| OperandView::of(BufferId(i as u32), ty.clone())).collect();
        let mut results = vec![];
        for (i, ty) in outputs.iter().enumerate() {
            results.push((BufferId(buffers.len() as u32), ty.clone()));
            buffers.push(Buffer { name: format!("y{i}"), ty: ty.clone() });
        }
        let (mut nests, mut checks) = (vec![], vec![]);
        let mut cx = NestBuilder {
            operands,
            results,
            label: name.clone().into(),
            provenance: Provenance::default(),
            buffers: &mut buffers,
            nests: &mut nests,
            checks: &mut checks,
        };
        build(&mut cx).unwrap();
        let types: Vec<TensorType> = buffers.into_iter().map(|b| b.ty).collect();
        let (mut symbols, mut bindings) = (vec![], Bindings::new());
        for (d, n) in sizes {
            d.collect_symbols(&mut symbols);
            bindings.insert(symbols.last().unwrap().name.to_string(), *n);
        }
        let storage = types.iter().map(|t| storage(t.dtype)).collect();
        let slots = (0..types.len() as u32).collect();
        for nest in &nests {
            let faults = inductor::loop_ir::verify(nest);
            assert!(faults.is_empty(), "{name}: {faults:?}\n{nest}");
        }
        Case { name, inputs, types, storage, slots, nests, bindings, symbols, tolerance: 2e-6, together: false }
    }

    pub fn program(&self) -> Program {
        let buffers: Vec<PlacedBuffer> = self
            .types
            .iter()
            .enumerate()
            .map(|(i, ty)| PlacedBuffer { name: format!("t{i}"), ty: ty.clone(), storage: self.storage[i], slot: SlotId(self.slots[i]) })
            .collect();
        let mut slots = vec![];
        for s in 0..self.types.len() as u32 {
            let bytes = buffers
                .iter()
                .filter(|b| b.slot.0 == s)
                .map(|b| {
                    let per = match b.storage {
                        Storage::Native | Storage::Packed => b.ty.dtype.size() as i64,
                        _ => 4,
                    };
                    (b.ty.numel() * Dim::int(per)).ceil_div(&Dim::int(4)) * Dim::int(4)
                })
                .fold(Dim::int(4), |a, b| a.max_with(&b));
            slots.push(Slot { bytes, kind: SlotKind::Temporary });
        }
        let all: Vec<BufferId> = (0..buffers.len() as u32).map(BufferId).collect();
        let (mut kernels, mut commands) = (vec![], vec![]);
        for (k, nest) in self.nests.iter().enumerate() {
            let (nest, used) = renumber(nest);
            kernels.push(nest);
            let buffers = used.iter().map(|b| all[b.0 as usize]).collect();
            commands.push(Dispatch { kernel: k as u32, buffers, phase: Phase::Forward, guarded: false, skip: None, label: self.name.clone() });
        }
        let together = if self.together { vec![commands.len() as u32] } else { vec![] };
        Program { name: self.name.clone(), symbols: self.symbols.clone(), buffers, slots, kernels, commands, together, ..Program::default() }
    }

    /// The program with forms for a target.
    pub fn program_for(&self, target: &Target) -> Program {
        let mut program = self.program();
        choose_forms(&mut program, target);
        program
    }

    /// Compiles under several targets, validates every shader and runs on the adapter, comparing every written buffer.
    pub fn check(&self) {
        for target in targets() {
            match generate(self.program_for(&target), &target) {
                Ok(plan) => validate(&plan),
                Err(e) if format!("{e}").contains("capability") => {}
                Err(e) => panic!("{} for {}: {e}", self.name, target.caps.name),
            }
        }
        if let Some(gpu) = device::gpu() {
            self.compare(gpu, &gpu.target);
            let plain = Target { caps: DeviceCaps { subgroups: None, ..gpu.target.caps.clone() }, model: DeviceModel::large_gpu() };
            self.compare(gpu, &plain);
        }
    }

    /// The plan for a target.
    pub fn plan(&self, target: &Target) -> Plan {
        generate(self.program_for(target), target).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    /// Runs on the adapter, compiled for a target, and compares every written buffer.
    pub fn compare(&self, gpu: &device::Gpu, target: &Target) {
        self.compare_plan(gpu, &self.plan(target));
    }

    /// Runs a plan of this case on the adapter, and compares every written buffer.
    pub fn compare_plan(&self, gpu: &device::Gpu, plan: &Plan) {
        self.compare_runs(gpu, plan, 1);
    }

    /// The same after several runs.
    pub fn compare_runs(&self, gpu: &device::Gpu, plan: &Plan, runs: u32) {
        let mut initial: Vec<Option<HostTensor>> = self.inputs.iter().cloned().map(Some).collect();
        initial.resize(self.types.len(), None);
        let (got, _, _) = gpu.run(plan, &initial, &self.bindings, runs);
        let mut expected: Vec<Array> = plan
            .program
            .buffers
            .iter()
            .enumerate()
            .map(|(i, b)| match self.inputs.get(i) {
                Some(t) => Array::from_host(t),
                None => Array::from_host(&HostTensor::zeros(b.ty.dtype, &device::shape_of(b, &self.bindings))),
            })
            .collect();
        let mut written = vec![];
        for nest in &self.nests {
            reference::execute(nest, &mut expected, &self.bindings);
            written.extend(nest.writes.iter().map(|w| w.buffer.0 as usize));
        }
        for b in written {
            let placed = &plan.program.buffers[b];
            let shape = device::shape_of(placed, &self.bindings);
            let bytes = &got[placed.slot.0 as usize];
            let t = device::decode(bytes, placed, &shape);
            let fail = |what: String| {
                panic!("{} on {}: buffer {b}: {what}\n{}\n{}", self.name, plan.target.caps.name, self.nests[0], inductor::codegen::dump(plan))
            };
            if placed.ty.dtype.is_float() {
                let (x, y) = (t.to_f64(), expected[b].floats());
                let floor = match placed.ty.dtype {
                    DType::F16 => 1e-3,
                    DType::BF16 => 8e-3,
                    _ => 0.0,
                };
                let scale = y.iter().filter(|v| v.is_finite()).fold(0f64, |m, v| m.max(v.abs()));
                for i in 0..x.len() {
                    let same = x[i] == y[i] || x[i].is_nan() && y[i].is_nan();
                    let tolerance = self.tolerance.max(floor);
                    let close = (x[i] - y[i]).abs() <= tolerance * scale;
                    if !same && !close {
                        fail(format!("element {i} of {shape:?}: got {}, expected {}", x[i], y[i]));
                    }
                }
            } else {
                let (x, y) = (t.to_i64(), expected[b].ints());
                if let Some(i) = (0..x.len()).find(|&i| x[i] != y[i]) {
                    fail(format!("element {i} of {shape:?}: got {}, expected {}", x[i], y[i]));
                }
            }
            if placed.storage == Storage::Packed {
                let used = t.bytes().len();
                let word = used.next_multiple_of(4);
                if bytes[used..word].iter().any(|&b| b != 0) {
                    fail("the last word is not filled with zeros".into());
                }
            }
        }
    }
}

/// Buffers numbered from 0 in order of first occurrence, as a program's kernels are.
fn renumber(nest: &Nest) -> (Nest, Vec<BufferId>) {
    use inductor::loop_ir::{Instr, Stmt, Write};
    let mut used = nest.reads().to_vec();
    for w in &nest.writes {
        if !used.contains(&w.buffer) {
            used.push(w.buffer);
        }
    }
    let to = |b: BufferId| BufferId(used.iter().position(|u| *u == b).unwrap() as u32);
    let mut out = nest.clone();
    out.body = nest
        .body
        .iter()
        .map(|s| match &s.instr {
            Instr::Load { buffer, index, mask } => {
                Stmt { instr: Instr::Load { buffer: to(*buffer), index: index.clone(), mask: *mask }, dtype: s.dtype }
            }
            _ => s.clone(),
        })
        .collect();
    out.writes = nest.writes.iter().map(|w| Write { buffer: to(w.buffer), ..w.clone() }).collect();
    (out, used)
}

/// Capabilities under which everything must be valid.
pub fn targets() -> Vec<Target> {
    let web = DeviceCaps::webgpu_default();
    let big = DeviceCaps {
        name: "large".into(),
        backend: "vulkan".into(),
        max_storage_buffers: 1000,
        max_binding_bytes: 2147483644,
        max_buffer_bytes: 1 << 36,
        max_workgroup_bytes: 49152,
        max_invocations: 1024,
        max_workgroup_size: 1024,
        subgroups: Some((32, 32)),
        f16: true,
        i64: true,
        ..web.clone()
    };
    let software = DeviceCaps { name: "software".into(), max_workgroup_bytes: 32768, subgroups: Some((8, 8)), ..big.clone() };
    vec![
        Target { caps: web, model: DeviceModel::small_gpu() },
        Target { caps: big, model: DeviceModel::large_gpu() },
        Target { caps: software, model: DeviceModel::cpu() },
    ]
}
