//! A hand-written training program with its WGSL, for tests of everything above code generation.

use crate::codegen::{Binding, KernelCode, Plan, Variant};
use crate::config::{Config, Mode, Target};
use crate::frontend::optim::Sgd;
use crate::frontend::{Initializer, Traced};
use crate::graph::{InputRole, OutputRole};
use crate::loop_ir::{BodyBuilder, BufferId, Combiner, Element, IndexExpr, Nest, Phase};
use crate::scalar::ScalarFn;
use crate::schedule::{Dispatch, PlacedBuffer, Program, ProgramInput, ProgramOutput, Slot, SlotId, SlotKind};
use crate::types::{DType, Dim, Provenance, Storage, Symbol, TensorType};

/// `loss = sum(x * w)`, refused unless `0 <= i < 4`; then `w -= lr * x`. `x` and `w` have four elements.
pub fn training_plan(target: Target) -> Plan {
    let vector = TensorType::new(DType::F32, 4);
    let buffers = vec![
        placed("x", vector.clone(), 0),
        placed("w", vector, 1),
        placed("i", TensorType::new(DType::I32, ()), 2),
        placed("lr", TensorType::new(DType::F32, ()), 3),
        placed("loss", TensorType::new(DType::F32, ()), 4),
    ];
    let slot = |kind, bytes: i64| Slot { bytes: Dim::int(bytes), kind };
    let program = Program {
        name: "fixture".into(),
        buffers,
        slots: vec![
            slot(SlotKind::Input, 16),
            slot(SlotKind::State, 16),
            slot(SlotKind::Input, 4),
            slot(SlotKind::Input, 4),
            slot(SlotKind::Output, 4),
        ],
        kernels: vec![loss_nest(), update_nest()],
        commands: vec![dispatch(0, &[0, 1, 2, 4], Phase::Forward, false, "dot"), dispatch(1, &[1, 3, 0], Phase::Update, true, "sgd")],
        inputs: vec![
            input("x", InputRole::Input, 0),
            input("w", InputRole::Parameter, 1),
            input("i", InputRole::Input, 2),
            input("lr", InputRole::HostScalar, 3),
        ],
        outputs: vec![ProgramOutput { name: "loss".into(), role: OutputRole::Loss, buffer: BufferId(4) }],
        checks: vec!["index i is out of range".into()],
        ..Program::default()
    };
    let code = vec![
        code("dot", LOSS_WGSL, vec![Binding::Read(0), Binding::Read(1), Binding::Read(2), Binding::ReadWrite(3), Binding::StatusWrite]),
        code("sgd", UPDATE_WGSL, vec![Binding::ReadWrite(0), Binding::Read(1), Binding::Read(2), Binding::StatusRead]),
    ];
    Plan { program, target, code, launches: Plan::one_by_one([0, 1]) }
}

/// `y = 2 x` over a symbolic size `n`.
pub fn symbolic_plan(target: Target) -> Plan {
    let n = Dim::symbol("n", 1, 1 << 24);
    let ty = TensorType::new(DType::F32, n.clone());
    let bytes = n.clone() * Dim::int(4);
    let axis = IndexExpr::axis(0, &n);
    let mut b = BodyBuilder::default();
    let x = b.load(element(0, axis.clone()));
    let double = b.call(ScalarFn::Add, &[x, x]);
    b.write(BufferId(1), axis, double);
    let nest = b.nest("double", vec![n.clone()], vec![], Provenance::default());
    let program = Program {
        name: "double".into(),
        symbols: vec![Symbol { name: "n".into(), min: 1, max: 1 << 24 }],
        buffers: vec![placed("x", ty.clone(), 0), placed("y", ty, 1)],
        slots: vec![Slot { bytes: bytes.clone(), kind: SlotKind::Input }, Slot { bytes, kind: SlotKind::Output }],
        kernels: vec![nest],
        commands: vec![dispatch(0, &[0, 1], Phase::Forward, false, "double")],
        inputs: vec![input("x", InputRole::Input, 0)],
        outputs: vec![ProgramOutput { name: "y".into(), role: OutputRole::User, buffer: BufferId(1) }],
        ..Program::default()
    };
    let mut double = code("double", DOUBLE_WGSL, vec![Binding::Read(0), Binding::ReadWrite(1), Binding::Symbols]);
    double.variants[0].groups = n.ceil_div(&Dim::int(64));
    Plan { program, target, code: vec![double], launches: Plan::one_by_one([0]) }
}

/// The trace behind [`training_plan`].
pub fn traced() -> Traced {
    Traced { initializers: vec![("w".into(), Initializer::Ones)], ..Traced::default() }
}

/// The configuration behind [`training_plan`].
pub fn config() -> Config {
    Config { mode: Mode::Train(Sgd::new(0.5).into()), ..Config::default() }
}

const LOSS_WGSL: &str = "
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read> i: array<i32>;
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;
@group(0) @binding(4) var<storage, read_write> status: atomic<u32>;
@compute @workgroup_size(1) fn main() {
  if (i[0] < 0 || i[0] >= 4) { atomicMax(&status, 1u); }
  var sum = 0.0;
  for (var k = 0u; k < 4u; k++) { sum += x[k] * w[k]; }
  loss[0] = sum;
}";

const UPDATE_WGSL: &str = "
@group(0) @binding(0) var<storage, read_write> w: array<f32>;
@group(0) @binding(1) var<storage, read> lr: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> status: u32;
@compute @workgroup_size(4) fn main(@builtin(local_invocation_id) id: vec3<u32>) {
  if (status != 0u) { return; }
  w[id.x] = w[id.x] - lr[0] * x[id.x];
}";

const DOUBLE_WGSL: &str = "
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> symbols: array<vec4<u32>, 1>;
@compute @workgroup_size(64) fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_id) id: vec3<u32>) {
  let k = (group.x + group.y * groups.x) * 64u + id.x;
  if (k < symbols[0].x) { y[k] = x[k] + x[k]; }
}";

fn loss_nest() -> Nest {
    let four = Dim::int(4);
    let axis = IndexExpr::axis(0, &four);
    let mut b = BodyBuilder::default();
    let (x, y) = (b.load(element(0, axis.clone())), b.load(element(1, axis)));
    // A masked index is none that the host checks: the status word is what these tests are about.
    let mask = b.constant(DType::Bool, 1.0);
    let index = b.load_if(Element { dtype: DType::I32, ..element(2, IndexExpr::zero()) }, mask);
    b.bound(index, &four, None, 1);
    let product = b.call(ScalarFn::Mul, &[x, y]);
    let sum = b.reduce(Combiner::Sum, product);
    b.write(BufferId(3), IndexExpr::zero(), sum);
    b.nest("dot", vec![], vec![four], Provenance::default())
}

fn update_nest() -> Nest {
    let four = Dim::int(4);
    let axis = IndexExpr::axis(0, &four);
    let mut b = BodyBuilder::default();
    let (p, rate, g) = (b.load(element(0, axis.clone())), b.load(element(1, IndexExpr::zero())), b.load(element(2, axis.clone())));
    let step = b.call(ScalarFn::Mul, &[rate, g]);
    let new = b.call(ScalarFn::Sub, &[p, step]);
    b.write(BufferId(0), axis, new);
    b.nest("sgd", vec![four], vec![], Provenance::default())
}

fn element(buffer: u32, index: IndexExpr) -> Element {
    Element { buffer: BufferId(buffer), index, dtype: DType::F32 }
}

fn placed(name: &str, ty: TensorType, slot: u32) -> PlacedBuffer {
    PlacedBuffer { name: name.into(), ty, storage: Storage::Native, slot: SlotId(slot) }
}

fn input(name: &str, role: InputRole, buffer: u32) -> ProgramInput {
    ProgramInput { name: name.into(), role, buffer: BufferId(buffer) }
}

fn dispatch(kernel: u32, buffers: &[u32], phase: Phase, guarded: bool, label: &str) -> Dispatch {
    Dispatch { kernel, buffers: buffers.iter().map(|&b| BufferId(b)).collect(), phase, guarded, skip: None, label: label.into() }
}

fn code(name: &str, wgsl: &str, bindings: Vec<Binding>) -> KernelCode {
    KernelCode {
        variants: vec![Variant {
            name: name.into(),
            wgsl: wgsl.into(),
            workgroup: [1, 1, 1],
            groups: Dim::int(1),
            bindings,
            scratch_bytes: 0,
            cooperative: false,
        }],
    }
}
