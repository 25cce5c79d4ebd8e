//! One unfused loop nest per node: graphs in, loop nests over buffers out. No cleverness.
//!
//! * Comes in: the forward, backward and update graphs of one program, each after its post-grad passes, without composites.
//! * Goes out: [`Lowered`]: buffers, nests in execution order with their phase, the border.
//! * Invariants: views make no nest; a value saved by one graph and read by the next is one buffer; new values of state are
//!   written by *commit* nests that come last and copy into the state's own buffer, so that `schedule` may fuse them into
//!   the kernels that compute the values; outputs own their buffers (a view or an input that is an output is copied).
//! * Control flow is one nest, tagged [`Tag::Control`], that stands for its blocks: it reads its operands and writes its results, so
//!   that order and memory see it as any other. Each block is lowered by itself ([`Control`], `control.rs`).
//! * Must not know: fusion, devices, storage.
//! * Add here: nothing for a new op; its `lower` does it.

mod control;

pub use control::{Block, Control, Repeat};

use crate::config::Config;
use crate::error::Error;
use crate::graph::{Graph, InputRole, NodeId, OutputRole, Value, ValueMap};
use crate::loop_ir::{BodyBuilder, Buffer, BufferId, Combiner, Instr, Nest, Phase, Tag, Val, flatten};
use crate::ops::{NestBuilder, OpDef, OperandView};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, HostTensor, MatmulPrecision, Provenance, TensorType};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;

/// An input or output of the lowered program.
#[derive(Clone, Debug, PartialEq)]
pub struct Border<Role> {
    /// Unique name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Its buffer.
    pub buffer: BufferId,
}

/// Loop nests of a whole program, before fusion.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lowered {
    /// Logical buffers.
    pub buffers: Vec<Buffer>,
    /// Nests in execution order.
    pub nests: Vec<Nest>,
    /// The graph each nest belongs to.
    pub phases: Vec<Phase>,
    /// For each nest, whether it writes state (and must come after everything that can set the status word).
    pub commits: Vec<bool>,
    /// Inputs of the border.
    pub inputs: Vec<Border<InputRole>>,
    /// Outputs of the border, without new values of state.
    pub outputs: Vec<Border<OutputRole>>,
    /// Contents of constant buffers.
    pub constants: Vec<(BufferId, HostTensor)>,
    /// Messages of the status word.
    pub checks: Vec<String>,
    /// The buffer of each stored graph value, by phase: what `verify` compares with the graph evaluation.
    pub values: Vec<(Phase, Value, BufferId)>,
    /// What nests tagged as control flow stand for, by the tag's number.
    pub controls: Vec<Control>,
    /// Whether it is a block, whose inputs and outputs are buffers of what is around it.
    pub is_block: bool,
    /// In a block that may be skipped: the input that says so where it is not zero.
    pub skip: Option<BufferId>,
}

/// Lowers the graphs of one program in execution order. Values named alike connect them: `saved.*` and `grad.*` outputs of an
/// earlier graph are inputs of a later one.
pub fn lower(graphs: &[(Phase, &Graph)], config: &Config) -> Result<Lowered, Error> {
    let mut lowering = Lowering::new(config.emulate_precision_casts, config.matmul_precision);
    // The last graph that reads each carried value.
    let mut readers: FxHashMap<&str, usize> = FxHashMap::default();
    for (position, (_, graph)) in graphs.iter().enumerate() {
        let carried = graph.inputs.iter().filter(|i| matches!(i.role, InputRole::Saved | InputRole::Gradient));
        readers.extend(carried.map(|i| (i.name.as_str(), position)));
    }
    lowering.reserve(graphs.iter().map(|(_, graph)| graph.nodes.len()).sum());
    for (position, (phase, graph)) in graphs.iter().enumerate() {
        lowering.graph(*phase, graph, &|name| readers.get(name).is_some_and(|&last| last > position), config)?;
    }
    lowering.finish()
}

/// Lets products of f32 be computed as inexactly as the program admits.
fn allow(nest: &mut Nest, admitted: MatmulPrecision) {
    let is_f32 = |v: Val| nest.dtype(v) == DType::F32;
    let of_f32 = match nest.tag {
        Tag::Matmul { dot, .. } => is_f32(dot),
        Tag::Attention { .. } => true,
        _ => false,
    };
    if let Tag::Matmul { precision, .. } | Tag::Attention { precision, .. } = &mut nest.tag
        && of_f32
    {
        *precision = admitted;
    }
}

/// Whether an output must be finite.
fn is_checked(role: &OutputRole, phase: Phase, config: &Config) -> bool {
    match role {
        OutputRole::Gradient(_) => phase == Phase::Backward && (config.check_gradients || config.detect_anomaly),
        OutputRole::Loss | OutputRole::User | OutputRole::NewValue(_) => config.detect_anomaly,
        _ => false,
    }
}

struct Lowering {
    out: Lowered,
    /// Saved values and gradients on their way to a later graph.
    carried: BTreeMap<String, OperandView>,
    inputs: BTreeMap<String, OperandView>,
    /// Buffers of inputs, constants and outputs.
    taken: FxHashSet<BufferId>,
    /// State buffers with the views of their new values.
    states: Vec<(BufferId, OperandView, Provenance)>,
    /// Whether halves are rounded where they would be stored without fusion.
    rounds: bool,
    /// How inexact products of f32 may be.
    admitted: MatmulPrecision,
}

impl Lowering {
    fn new(rounds: bool, admitted: MatmulPrecision) -> Lowering {
        let (carried, inputs) = (BTreeMap::new(), BTreeMap::new());
        Lowering { out: Lowered::default(), carried, inputs, taken: FxHashSet::default(), states: vec![], rounds, admitted }
    }

    /// Room for what so many nodes become: about a nest and a buffer each.
    fn reserve(&mut self, nodes: usize) {
        self.out.nests.reserve(nodes);
        self.out.buffers.reserve(nodes);
        self.out.phases.reserve(nodes);
        self.out.commits.reserve(nodes);
        self.out.values.reserve(nodes);
    }

    fn finish(mut self) -> Result<Lowered, Error> {
        self.commit()?;
        self.out.nests.iter_mut().for_each(|nest| allow(nest, self.admitted));
        Ok(self.out)
    }

    fn graph(&mut self, phase: Phase, graph: &Graph, consumed: &dyn Fn(&str) -> bool, config: &Config) -> Result<(), Error> {
        let mut views: ValueMap<OperandView> = ValueMap::default();
        for input in &graph.inputs {
            let view = self.input(graph, &input.name, &input.role, graph.ty(input.value))?;
            views.insert(input.value, view);
        }
        for id in graph.ids() {
            self.node(phase, graph, id, &mut views)?;
        }
        for output in graph.outputs.iter().filter(|o| is_checked(&o.role, phase, config) && graph.ty(o.value).dtype.is_float()) {
            self.check_finite(phase, &output.name, &views[&output.value])?;
        }
        for output in &graph.outputs {
            let view = views[&output.value].clone();
            match &output.role {
                OutputRole::NewValue(state) => {
                    let target = self.inputs.get(state).ok_or_else(|| Error::compile(format!("new value of {state}, which is no input")))?;
                    self.states.push((target.buffer, view, graph.provenance(output.value.node).clone()));
                }
                OutputRole::Saved | OutputRole::Gradient(_) if consumed(&output.name) => {
                    self.carried.insert(output.name.clone(), view);
                }
                OutputRole::Saved => {}
                role => {
                    let buffer = self.owned(phase, &output.name, &view, graph.provenance(output.value.node))?;
                    self.out.outputs.push(Border { name: output.name.clone(), role: role.clone(), buffer });
                }
            }
        }
        Ok(())
    }

    fn input(&mut self, graph: &Graph, name: &str, role: &InputRole, ty: &TensorType) -> Result<OperandView, Error> {
        if matches!(role, InputRole::Saved | InputRole::Gradient) {
            let view = self.carried.get(name).ok_or_else(|| Error::compile(format!("{}: no earlier graph computes {name}", graph.name)))?;
            return Ok(view.clone());
        }
        if let Some(view) = self.inputs.get(name) {
            return Ok(view.clone());
        }
        let view = self.buffer(name, ty);
        self.taken.insert(view.buffer);
        self.out.inputs.push(Border { name: name.into(), role: role.clone(), buffer: view.buffer });
        self.inputs.insert(name.into(), view.clone());
        Ok(view)
    }

    fn buffer(&mut self, name: &str, ty: &TensorType) -> OperandView {
        let id = BufferId(self.out.buffers.len() as u32);
        self.out.buffers.push(Buffer { name: name.into(), ty: ty.clone() });
        OperandView::of(id, ty.clone())
    }

    fn node(&mut self, phase: Phase, graph: &Graph, id: NodeId, views: &mut ValueMap<OperandView>) -> Result<(), Error> {
        let node = graph.node(id);
        if views.contains_key(&Value::first(id)) {
            return Ok(());
        }
        let operands: Vec<OperandView> = node.operands.iter().map(|v| views[v].clone()).collect();
        if node.op.is_view() {
            let view = operands[0].through(&node.op, &node.types[0]);
            views.insert(Value::first(id), view);
            return Ok(());
        }
        let results: Vec<OperandView> = node.types.iter().map(|ty| self.buffer(&format!("{}.{}", node.op.name(), id.0), ty)).collect();
        for (k, view) in results.iter().enumerate() {
            let value = Value { node: id, result: k as u32 };
            views.insert(value, view.clone());
            self.out.values.push((phase, value, view.buffer));
        }
        if let Some(tensor) = node.op.constant() {
            self.taken.insert(results[0].buffer);
            self.out.constants.push((results[0].buffer, tensor));
            return Ok(());
        }
        let provenance = graph.provenance(id);
        let fault = |message: String| Error::Compile { message, location: provenance.line().cloned() };
        if let Some(flow) = node.op.flow() {
            return self.control(phase, node.op.name(), flow, provenance, operands, results);
        }
        let results = results.iter().map(|v| (v.buffer, v.ty.clone())).collect();
        self.append(phase, false, node.op.name(), provenance, operands, results, |cx| node.op.lower(cx)).map_err(fault)
    }

    #[allow(clippy::too_many_arguments)]
    fn append(
        &mut self,
        phase: Phase,
        commit: bool,
        label: &'static str,
        provenance: &Provenance,
        operands: Vec<OperandView>,
        results: Vec<(BufferId, TensorType)>,
        emit: impl FnOnce(&mut NestBuilder<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        let first = self.out.nests.len();
        let mut cx = NestBuilder {
            operands,
            results,
            label: label.into(),
            provenance: provenance.clone(),
            buffers: &mut self.out.buffers,
            nests: &mut self.out.nests,
            checks: &mut self.out.checks,
        };
        emit(&mut cx)?;
        if self.rounds {
            self.out.nests[first..].iter_mut().for_each(round_halves);
        }
        for nest in &self.out.nests[first..] {
            let faults = if cfg!(debug_assertions) { crate::loop_ir::verify(nest) } else { vec![] };
            assert!(faults.is_empty(), "lowering of {label} made an unsound nest:\n{}\n{nest}", faults.join("\n"));
            self.out.phases.push(phase);
            self.out.commits.push(commit);
        }
        Ok(())
    }

    /// A buffer that holds exactly the view's elements and is nobody else's.
    fn owned(&mut self, phase: Phase, name: &str, view: &OperandView, provenance: &Provenance) -> Result<BufferId, Error> {
        if view.is_whole() && self.taken.insert(view.buffer) {
            return Ok(view.buffer);
        }
        let target = self.buffer(name, &view.ty);
        self.taken.insert(target.buffer);
        self.copy(phase, false, view, target.buffer, provenance)?;
        Ok(target.buffer)
    }

    fn copy(&mut self, phase: Phase, commit: bool, view: &OperandView, target: BufferId, provenance: &Provenance) -> Result<(), Error> {
        let label = if commit { "commit" } else { "copy" };
        let results = vec![(target, view.ty.clone())];
        self.append(phase, commit, label, provenance, vec![view.clone()], results, |cx| {
            let x = cx.operand(0);
            cx.pointwise(0, |b, at| Ok(b.load(x.at(at))))
        })
        .map_err(Error::compile)
    }

    /// Sets the status word when an element is NaN or infinite.
    fn check_finite(&mut self, phase: Phase, name: &str, view: &OperandView) -> Result<(), Error> {
        let flag = self.buffer(&format!("{name}.finite"), &TensorType::new(DType::I32, ()));
        let results = vec![(flag.buffer, flag.ty.clone())];
        self.append(phase, false, "check_finite", &Provenance::default(), vec![view.clone()], results, |cx| {
            let code = cx.check(format!("{name} is not finite"));
            let (x, target) = (cx.operand(0), cx.results[0].0);
            cx.nest(&[], &x.ty.shape.0, |b, _, col| {
                let v = b.load(x.at(col));
                let (nan, inf) = (b.call(ScalarFn::IsNan, &[v]), b.call(ScalarFn::IsInf, &[v]));
                let bad = b.call(ScalarFn::LogicalOr, &[nan, inf]);
                let any = b.reduce(Combiner::Any, bad);
                let number = b.cast(any, DType::I32);
                b.bound(number, &Dim::int(1), None, code);
                b.write(target, flatten(&[], &[]), number);
                Ok(())
            })
        })
        .map_err(Error::compile)
    }

    /// New values of state, copied into the state's own buffers after everything else.
    fn commit(&mut self) -> Result<(), Error> {
        let states = std::mem::take(&mut self.states);
        // A new value that reads another state's old value through a view must be taken before that state is overwritten.
        let targets: FxHashSet<BufferId> = states.iter().map(|(target, ..)| *target).collect();
        let mut ready = vec![];
        for (target, view, provenance) in states {
            let aliases_state = targets.contains(&view.buffer) && view.buffer != target;
            let permutes_itself = view.buffer == target && !view.is_whole();
            let view = if aliases_state || permutes_itself {
                let scratch = self.buffer("old_state", &view.ty);
                self.copy(Phase::Update, false, &view, scratch.buffer, &provenance)?;
                scratch
            } else {
                view
            };
            ready.push((target, view, provenance));
        }
        for (target, view, provenance) in ready {
            if view.buffer != target {
                self.copy(Phase::Update, true, &view, target, &provenance)?;
            }
        }
        Ok(())
    }
}

/// Rounds what a nest writes in half precision, so that a nest that takes it over unstored sees the rounded value.
fn round_halves(nest: &mut Nest) {
    let mut b = BodyBuilder::of(nest);
    for (k, w) in nest.writes.iter().enumerate() {
        let (dtype, value) = (nest.dtype(w.value), &nest.stmt(w.value).instr);
        let is_rounded = matches!(value, Instr::Load { .. } | Instr::Cast(_) | Instr::Bitcast(_) | Instr::Const(_));
        if matches!(dtype, DType::F16 | DType::BF16) && !is_rounded {
            b.writes[k].value = b.push(Instr::Cast(w.value), dtype);
        }
    }
    *nest = b.replace(nest);
}
