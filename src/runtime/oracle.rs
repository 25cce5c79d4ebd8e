//! Comparing the program with the graphs it was made from: every stored value of the program interpreter against the graph
//! evaluation.
//!
//! A difference blames lowering, fusion, scheduling or aliasing, not the device. Each graph is evaluated on the inputs the
//! program really gave it (what the program stored for an earlier graph's outputs), so that the first wrong kernel is named
//! and not what follows from it.

use crate::error::{Error, Result};
use crate::eval::{accuracy, evaluate_all};
use crate::graph::{Graph, InputRole, OutputRole, Value};
use crate::interp::Interpreter;
use crate::loop_ir::{BufferId, Phase};
use crate::ops::{Array, Precision};
use crate::schedule::Program;
use crate::types::{Bindings, DType, HostTensor};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The graphs behind a program, and where it stores their values.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources {
    pub graphs: Vec<(Phase, Graph)>,
    pub values: Vec<(Phase, Value, BufferId)>,
}

/// A buffer's contents when it was last written, and by which command.
type Captured = HashMap<BufferId, (HostTensor, usize)>;

/// Runs the program on `feeds` and evaluates its graphs; names the first kernel whose stored values are wrong.
pub(super) fn compare_program(program: &Program, sources: &Sources, bindings: &Bindings, feeds: &[(BufferId, HostTensor)]) -> Result<Option<String>> {
    let (captured, status) = execute(program, bindings, feeds)?;
    let mut wrong: BTreeMap<usize, String> = BTreeMap::new();
    let mut carried: BTreeMap<String, HostTensor> = BTreeMap::new();
    for (phase, graph) in &sources.graphs {
        if status != 0 && *phase == Phase::Update {
            break;
        }
        let inputs = graph_inputs(program, graph, feeds, &carried)?;
        let working = evaluate_all(graph, &inputs, Precision::Working)?;
        let exact = evaluate_all(graph, &inputs, Precision::Exact)?;
        let stored: HashMap<Value, BufferId> = sources.values.iter().filter(|(p, ..)| p == phase).map(|(_, v, b)| (*v, *b)).collect();
        let of = |arrays: &[Vec<Array>], v: Value| arrays[v.node.0 as usize][v.result as usize].clone();
        for (value, buffer) in places(program, graph, &stored) {
            let Some((got, command)) = captured.get(&buffer) else { continue };
            let (w, e) = (of(&working, value).to_host(), of(&exact, value));
            if let Err(fault) = check(got, &w, &e) {
                let node = graph.def(value);
                let line = graph.provenance(value.node).line().map(|l| format!(" at {l}")).unwrap_or_default();
                let name = crate::ops::OpDef::name(&*node.op);
                let message = format!("value %{} of the {phase:?} graph ({name}{line}): {fault}", value.node.0);
                wrong.entry(*command).or_insert(message);
            }
        }
        for output in &graph.outputs {
            let got = stored.get(&output.value).and_then(|b| captured.get(b)).map(|(t, _)| t.clone());
            carried.insert(output.name.clone(), got.unwrap_or_else(|| of(&working, output.value).to_host()));
        }
    }
    Ok(wrong.into_iter().next().map(|(command, message)| {
        let dispatch = &program.commands[command];
        let nest = &program.kernels[dispatch.kernel as usize];
        format!("command {command}, kernel {}, ops {} ({}): {message}", dispatch.kernel, nest.label, dispatch.label)
    }))
}

/// Runs command by command and keeps what each writes, since slots are used again.
fn execute(program: &Program, bindings: &Bindings, feeds: &[(BufferId, HostTensor)]) -> Result<(Captured, u32)> {
    let mut interpreter = Interpreter::new(Arc::new(program.clone()))?;
    interpreter.bind(bindings)?;
    interpreter.poison_temporaries();
    for (buffer, tensor) in feeds {
        interpreter.write(*buffer, tensor)?;
    }
    interpreter.reset_status();
    let mut captured = Captured::new();
    for (index, command) in program.commands[program.main()].iter().enumerate() {
        interpreter.run_command(index)?;
        if command.guarded && interpreter.status() != 0 {
            continue;
        }
        for write in &program.kernels[command.kernel as usize].writes {
            let buffer = command.buffers[write.buffer.0 as usize];
            captured.insert(buffer, (interpreter.read(buffer)?, index));
        }
    }
    Ok((captured, interpreter.status()))
}

/// Inputs of one graph: what the step was given, and what earlier graphs computed.
fn graph_inputs(
    program: &Program,
    graph: &Graph,
    feeds: &[(BufferId, HostTensor)],
    carried: &BTreeMap<String, HostTensor>,
) -> Result<Vec<HostTensor>> {
    let given = |name: &str| {
        let buffer = program.inputs.iter().find(|i| i.name == name)?.buffer;
        feeds.iter().find(|(b, _)| *b == buffer).map(|(_, t)| t.clone())
    };
    graph
        .inputs
        .iter()
        .map(|input| {
            let found = match input.role {
                InputRole::Saved | InputRole::Gradient => carried.get(&input.name).cloned(),
                _ => given(&input.name).or_else(|| unread(graph, input.value)),
            };
            found.ok_or_else(|| Error::Verify(format!("{}: nothing gives input {}", graph.name, input.name)))
        })
        .collect()
}

/// An input of constant size that the program does not take, because nothing depends on it.
fn unread(graph: &Graph, value: Value) -> Option<HostTensor> {
    let ty = graph.ty(value);
    Some(HostTensor::zeros(ty.dtype, &ty.shape.as_ints()?))
}

/// Every value of a graph that the program may store, in node order: intermediate ones, outputs and new values of state.
fn places(program: &Program, graph: &Graph, stored: &HashMap<Value, BufferId>) -> Vec<(Value, BufferId)> {
    let mut out: Vec<(Value, BufferId)> = stored.iter().map(|(v, b)| (*v, *b)).collect();
    for output in &graph.outputs {
        let border = match &output.role {
            OutputRole::NewValue(name) => program.inputs.iter().find(|i| i.name == *name).map(|i| i.buffer),
            _ => program.outputs.iter().find(|o| o.name == output.name).map(|o| o.buffer),
        };
        out.extend(border.map(|b| (output.value, b)));
    }
    out.sort_unstable();
    out
}

fn check(got: &HostTensor, working: &HostTensor, exact: &Array) -> Result<(), String> {
    // Executors may order sums and fuse roundings as they like: some units in the last place beyond the floor.
    let slack = if matches!(got.dtype(), DType::F16 | DType::BF16) { 2.0 } else { 16.0 };
    accuracy::check_against_oracle(got, working, exact, slack * accuracy::floor(got.dtype()))
}
