//! Programs with their inputs and outputs as text: what `filetests/run` holds and where random failures are saved.
//!
//! ```text
//! // test: run
//! // given x 1.0 -0.0 NaN
//! graph main
//!   ...
//! // ----
//! y = 2.0 0.0 NaN
//! ```
#![allow(dead_code)]

use super::layers::{self, Named, What};
use inductor::graph::{Graph, print};
use inductor::ops::Precision;
use inductor::types::{HostTensor, TensorType};

/// Passes after which every value is what it was, bit for bit.
const EXACT: [&str; 7] = [
    "remove_identities",
    "fold_constants",
    "remove_noops",
    "fold_uniform_constants",
    "cancel_view_pairs",
    "cancel_cast_chains",
    "one_hot_scatter_to_where",
];

/// The numbers of a tensor, exactly.
pub fn numbers(t: &HostTensor) -> String {
    let text: Vec<String> = match t.dtype().is_float() {
        true => t.to_f64().iter().map(|x| format!("{x:?}")).collect(),
        false => t.to_i64().iter().map(i64::to_string).collect(),
    };
    text.join(" ")
}

/// A tensor of that type from its numbers.
pub fn tensor(ty: &TensorType, numbers: &str) -> Result<HostTensor, String> {
    let shape = ty.shape.as_ints().ok_or_else(|| format!("{ty} has no fixed size"))?;
    let words: Vec<&str> = numbers.split_whitespace().collect();
    if words.len() != shape.iter().product::<usize>() {
        return Err(format!("{} numbers are given for {ty}", words.len()));
    }
    let fault = |word: &str, e: &dyn std::fmt::Display| format!("`{word}`: {e}");
    Ok(match ty.dtype.is_float() {
        true => HostTensor::from_f64(ty.dtype, &shape, &words.iter().map(|w| w.parse().map_err(|e| fault(w, &e))).collect::<Result<Vec<f64>, _>>()?),
        false => HostTensor::from_i64(ty.dtype, &shape, &words.iter().map(|w| w.parse().map_err(|e| fault(w, &e))).collect::<Result<Vec<i64>, _>>()?),
    })
}

/// The lines `// given <name> <numbers>` of a text.
pub fn given(text: &str) -> Vec<(&str, &str)> {
    let lines = text.lines().filter_map(|l| l.strip_prefix("// given "));
    lines.map(|l| l.split_once(' ').unwrap_or((l, ""))).collect()
}

/// The values that a text gives for the inputs of a graph and, where gradients are wanted, for the cotangents of its outputs.
pub fn inputs(graph: &Graph, what: What, text: &str) -> Result<Named, String> {
    let given = given(text);
    let mut types: Vec<(String, &TensorType)> = graph.inputs.iter().map(|i| (i.name.clone(), graph.ty(i.value))).collect();
    if what == What::Gradients {
        types.extend(graph.outputs.iter().map(|o| (format!("cotangent.{}", o.name), graph.ty(o.value))));
    }
    let value = |(name, ty): (String, &TensorType)| {
        let (_, numbers) = given.iter().find(|(n, _)| *n == name).ok_or_else(|| format!("no `// given {name}`"))?;
        Ok((name, tensor(ty, numbers)?))
    };
    types.into_iter().map(value).collect()
}

/// Holds every exact pass and every layer against the evaluation; gives the outputs.
pub fn run(graph: &Graph, what: What, inputs: &Named, layers: &[layers::Layer]) -> Result<String, String> {
    let own: Named = graph.inputs.iter().filter_map(|i| inputs.iter().find(|(n, _)| *n == i.name).cloned()).collect();
    passes_keep_values(graph, &own)?;
    for layer in layers {
        layers::check(layer, graph, what, inputs, 4e-6)?;
    }
    let outputs = layers::oracle(graph, what, inputs)?;
    Ok(outputs.iter().map(|(name, working, _)| format!("{name} = {}\n", numbers(working))).collect())
}

/// The file of a program with its inputs, which passes when every layer gives the outputs of the evaluation.
pub fn file(graph: &Graph, what: What, inputs: &Named) -> String {
    let test = if what == What::Forward { "run" } else { "run gradients" };
    let given: String = inputs.iter().map(|(name, t)| format!("// given {name} {}\n", numbers(t))).collect();
    let outputs = run(graph, what, inputs, &[]).unwrap_or_default();
    format!("// test: {test}\n{given}{}\n// ----\n{outputs}", print(graph).trim_end())
}

/// Holds the evaluation after each exact pass against the one before, special values included.
pub fn passes_keep_values(graph: &Graph, inputs: &Named) -> Result<(), String> {
    let tensors: Vec<HostTensor> = inputs.iter().map(|(_, t)| t.clone()).collect();
    let evaluated = |g: &Graph| inductor::eval::evaluate(g, &tensors, Precision::Working).map_err(|e| e.to_string());
    let (mut graph, mut before) = (graph.clone(), evaluated(graph)?);
    for pass in EXACT {
        let next = inductor::passes::run_pass(pass, &graph).map_err(|e| e.to_string())?;
        let after = evaluated(&next)?;
        for ((x, y), output) in before.iter().zip(&after).zip(&graph.outputs) {
            let same = |(a, b): (f64, f64)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
            if let Some(i) = x.to_f64().into_iter().zip(y.to_f64()).position(|pair| !same(pair)) {
                return Err(format!("pass {pass}: {}: element {i} was {}, is {}\n{}", output.name, x.to_f64()[i], y.to_f64()[i], print(&next)));
            }
        }
        (graph, before) = (next, after);
    }
    Ok(())
}
