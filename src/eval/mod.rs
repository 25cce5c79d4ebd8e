//! The graph interpreter: the oracle for every number. Obvious, never optimized.
//!
//! * Comes in: a [`Graph`], and a tensor for each of its inputs.
//! * Goes out: its outputs ([`evaluate`]), the results of every node ([`evaluate_all`]), or outputs in f64 arithmetic without
//!   any rounding ([`evaluate_exact`]).
//! * Invariants: symbols are resolved from the shapes of the inputs before anything is evaluated; each op's own
//!   [`OpDef::eval`](crate::ops::OpDef::eval) is the definition, node by node in graph order; nothing is fused, reordered or skipped.
//! * Must not know: particular ops, passes, kernels, devices.
//! * Add here: nothing for a new op; ops define themselves.

pub mod accuracy;

use crate::error::Error;
use crate::graph::{Graph, concretize};
use crate::ops::{Array, Fault, Precision, run, run_all};
use crate::types::{Bindings, HostTensor, Location, bind_named_symbols, check_guards};

/// Outputs in order. Floats of `Precision::Working` are rounded to their dtype after every op; of `Precision::Exact`, only in
/// the tensors returned.
pub fn evaluate(graph: &Graph, inputs: &[HostTensor], precision: Precision) -> Result<Vec<HostTensor>, Error> {
    let arrays: Vec<Array> = inputs.iter().map(Array::from_host).collect();
    let graph = resolve(graph, &arrays)?;
    let outputs = run(&graph, &arrays, precision).map_err(|fault| error(&graph, fault))?;
    Ok(outputs.iter().map(Array::to_host).collect())
}

/// Results of every node, indexed by node and result: for locating the first wrong one.
pub fn evaluate_all(graph: &Graph, inputs: &[HostTensor], precision: Precision) -> Result<Vec<Vec<Array>>, Error> {
    let arrays: Vec<Array> = inputs.iter().map(Array::from_host).collect();
    let graph = resolve(graph, &arrays)?;
    run_all(&graph, &arrays, precision).map_err(|fault| error(&graph, fault))
}

/// Outputs in order, in f64 arithmetic, not rounded to their dtypes. Inputs need not be representable in theirs either.
pub fn evaluate_exact(graph: &Graph, inputs: &[Array]) -> Result<Vec<Array>, Error> {
    let graph = resolve(graph, inputs)?;
    run(&graph, inputs, Precision::Exact).map_err(|fault| error(&graph, fault))
}

/// Values of the graph's symbols, from the inputs' shapes. Checks number, dtypes, shapes and ranges.
pub fn bind_inputs(graph: &Graph, inputs: &[Array]) -> Result<Bindings, Error> {
    if inputs.len() != graph.inputs.len() {
        return Err(Error::Input(format!("graph {} takes {} inputs, got {}", graph.name, graph.inputs.len(), inputs.len())));
    }
    let names: Vec<&str> = graph.inputs.iter().map(|i| &i.name[..]).collect();
    let types: Vec<_> = graph.inputs.iter().map(|i| graph.ty(i.value)).collect();
    for ((name, ty), array) in names.iter().zip(&types).zip(inputs) {
        if ty.dtype != array.dtype {
            return Err(Error::Input(format!("{name}: expected {ty}, got {}{:?}", array.dtype, array.shape)));
        }
    }
    let shapes: Vec<&[usize]> = inputs.iter().map(|a| &a.shape[..]).collect();
    check_guards(&graph.guards, &names, &shapes).map_err(Error::Input)?;
    bind_named_symbols(&names, &types, &shapes).map_err(Error::Input)
}

/// The graph without symbols.
fn resolve(graph: &Graph, inputs: &[Array]) -> Result<Graph, Error> {
    concretize(graph, &bind_inputs(graph, inputs)?).map_err(Error::Input)
}

/// At the user's line, where the node has one.
fn error(graph: &Graph, fault: Fault) -> Error {
    let location: Option<Location> = fault.node.and_then(|id| graph.provenance(id).line().cloned());
    let message = match fault.node {
        Some(id) => format!("evaluation of %{}: {}", id.0, fault.message),
        None => fault.message,
    };
    Error::Compile { message, location }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::parse;

    fn check(text: &str, inputs: &[HostTensor]) -> Result<Vec<HostTensor>, String> {
        evaluate(&parse(text).map_err(|e| e.to_string())?, inputs, Precision::Working).map_err(|e| e.to_string())
    }

    #[test]
    fn one_symbolic_graph_runs_at_several_sizes() {
        let text = r#"graph sums
            symbols b 1..8
              %0 = input x : f32[b, 2]
              %1 = reduce(%0) {kind="sum", dims=[0], keepdim=false}
              %2 = iota() {dtype="f32", shape=["b{1..8}"], dim=0}
              return %1 as sum, %2 as count"#;
        for b in 1..4 {
            let x: Vec<f32> = (0..2 * b).map(|i| i as f32).collect();
            let out = check(text, &[HostTensor::f32(&[b, 2], &x)]).unwrap();
            let even: f32 = x.iter().step_by(2).sum();
            assert_eq!((out[0].to_f32()[0], out[1].shape()), (even, &[b][..]));
        }
        assert_eq!(
            check(text, &[HostTensor::zeros(crate::types::DType::F32, &[9, 2])]).unwrap_err(),
            "input: b = 9 is outside its declared range 1..8"
        );
        assert_eq!(check(text, &[HostTensor::i32(&[1, 2], &[0, 0])]).unwrap_err(), "input: x: expected f32[b, 2], got i32[1, 2]");
        assert_eq!(check(text, &[]).unwrap_err(), "input: graph sums takes 1 inputs, got 0");
    }

    #[test]
    fn exact_arithmetic_is_not_rounded() {
        let graph = parse("graph g\n %0 = input x : f16[1]\n %1 = exp(%0)\n return %1 as y").unwrap();
        let x = Array::float(crate::types::DType::F16, vec![1], vec![0.1]);
        assert_eq!(evaluate_exact(&graph, &[x]).unwrap()[0].floats(), [0.1f64.exp()]);
        let all = evaluate_all(&graph, &[HostTensor::from_f64(crate::types::DType::F16, &[1], &[0.5])], Precision::Working).unwrap();
        assert_eq!((all.len(), all[1][0].floats()[0]), (2, half::f16::from_f64(half::f16::from_f64(0.5).to_f64().exp()).to_f64()));
    }

    #[test]
    fn subgraphs_are_evaluated_with_their_symbols() {
        let text = r#"graph body @0
            symbols n 1..9
              %0 = input x : f32[n]
              %1 = full() {value=2.0, dtype="f32", shape=["n{1..9}"]}
              %2 = mul(%0, %1)
              return %2 as y
            graph main
            symbols n 1..9
              %0 = input x : f32[n]
              %1 = checkpoint @0 (%0) {policy="must_save"}
              return %1 as y"#;
        assert_eq!(check(text, &[HostTensor::f32(&[3], &[1.0, 2.0, 3.0])]).unwrap()[0].to_f32(), [2.0, 4.0, 6.0]);
    }
}
