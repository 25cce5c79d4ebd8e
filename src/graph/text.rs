//! Printing graphs. [`super::parse`] reads the text back, node numbering included.
//!
//! ```text
//! graph body @0
//!   %0 = input x : f32[4]
//!   %1 = tanh(%0) : f32[4]
//!   return %1 as y
//!
//! graph mlp
//! symbols b 1..64, t 1..128
//!   %0 = input x : f32[b, 784]
//!   %1 = input fc1.weight parameter : f32[256, 784]
//!   %2 = matmul(%0, %1) {transpose_a=false, transpose_b=true} : f32[b, 256]  // src/model.rs:12 fc1
//!   %3:2 = topk(%2) {k=2} : f32[b, 2], i32[b, 2] region 0 must_recompute
//!   %4 = checkpoint @0 (%3.0) {policy="must_recompute"} : f32[b, 2]
//!   return %4 as y
//!   return loss %5 as loss
//!   return gradient fc1.weight %6 as grad.fc1.weight
//! ```
//!
//! * A scalar function is written as its name; any other op as its text name with its attributes as `key=json`.
//! * Names that are not words of letters, digits, `_` and `.` are JSON strings.
//! * Subgraphs are blocks with a label, before the graphs that hold them; equal subgraphs are one block. The main graph is
//!   last and has no label.
//! * Symbols of types are declared after the graph's name; attributes carry ranges of their own, as in `"t{1..64}*3"`.
//! * What a graph assumes about sizes of its inputs is a line `guard` with the guard as JSON.
//! * An input that is not in its place of the input list says `at 3`.
//! * Everything from `//` to the end of the line is a comment. Provenance is printed as one. A line `// ----` ends the text: what
//!   follows is what a test expects.

use super::verify::symbols;
use super::{Graph, NodeId, Output, OutputRole, Policy, Value};
use crate::ops::{Op, OpDef};
use crate::types::Provenance;
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

/// The text of a graph and of its subgraphs. Faulty graphs print too, but need not parse back.
pub fn print(graph: &Graph) -> String {
    let mut printer = Printer::default();
    printer.print_bodies(graph);
    printer.print_block(graph, None);
    printer.out
}

/// A name in graph text: as it is if it is a word, else as a JSON string.
pub(super) fn quote(name: &str) -> String {
    let starts_well = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let is_word = starts_well && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
    if is_word { name.into() } else { serde_json::Value::from(name).to_string() }
}

/// Word of a policy.
pub(super) fn policy_name(policy: Policy) -> &'static str {
    match policy {
        Policy::MustRecompute => "must_recompute",
        Policy::MustSave => "must_save",
    }
}

#[derive(Default)]
struct Printer {
    out: String,
    labels: HashMap<Arc<Graph>, usize>,
}

impl Printer {
    /// Prints the blocks of all subgraphs that have none yet, innermost first.
    fn print_bodies(&mut self, graph: &Graph) {
        for body in graph.nodes.iter().flat_map(|n| n.op.subgraphs()) {
            if !self.labels.contains_key(&body) {
                self.print_bodies(&body);
                let label = self.labels.len();
                self.print_block(&body, Some(label));
                self.out.push('\n');
                self.labels.insert(body, label);
            }
        }
    }

    fn print_block(&mut self, graph: &Graph, label: Option<usize>) {
        self.out += &format!("graph {}", quote(&graph.name));
        if let Some(label) = label {
            self.out += &format!(" @{label}");
        }
        self.out.push('\n');
        let symbols: Vec<String> = symbols(graph).iter().map(|s| format!("{} {}..{}", s.name, s.min, s.max)).collect();
        if !symbols.is_empty() {
            self.out += &format!("symbols {}\n", symbols.join(", "));
        }
        for guard in &graph.guards {
            self.out += &format!("guard {}\n", serde_json::json!(guard));
        }
        let mut inputs = 0;
        for id in graph.ids() {
            self.out += "  ";
            self.print_node(graph, id, &mut inputs);
            self.out += &comment(graph.provenance.get(id.0 as usize));
            self.out.push('\n');
        }
        for output in &graph.outputs {
            self.out += &format!("  return {}\n", output_text(output));
        }
    }

    fn print_node(&mut self, graph: &Graph, id: NodeId, inputs: &mut u32) {
        let node = graph.node(id);
        self.out += &match node.types.len() {
            1 => format!("%{} = ", id.0),
            n => format!("%{}:{n} = ", id.0),
        };
        self.out += &match input_text(graph, id, inputs) {
            Some(text) => text,
            None => self.call_text(graph, id),
        };
        let types: Vec<String> = node.types.iter().map(|t| t.to_string()).collect();
        self.out += " : ";
        self.out += if types.is_empty() { "()" } else { "" };
        self.out += &types.join(", ");
        if let Some(region) = node.region {
            self.out += &format!(" region {} {}", region.id, policy_name(region.policy));
        }
    }

    fn call_text(&self, graph: &Graph, id: NodeId) -> String {
        let node = graph.node(id);
        let name = if matches!(*node.op, Op::Pointwise(_)) { node.op.name() } else { node.op.text_name() };
        let mut text = name.to_string();
        let labels: Vec<String> = node.op.subgraphs().iter().map(|g| format!("@{}", self.labels.get(g).copied().unwrap_or(usize::MAX))).collect();
        if !labels.is_empty() {
            text += &format!(" {} ", labels.join(" "));
        }
        let operands: Vec<String> = node.operands.iter().map(|&v| value_text(graph, v)).collect();
        text += &format!("({})", operands.join(", "));
        if !matches!(*node.op, Op::Pointwise(_))
            && let serde_json::Value::Object(attributes) = node.op.attributes()
            && !attributes.is_empty()
        {
            let attributes: Vec<String> = attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
            text += &format!(" {{{}}}", attributes.join(", "));
        }
        text
    }
}

/// `input name role`, if the node is in the input list.
fn input_text(graph: &Graph, id: NodeId, inputs: &mut u32) -> Option<String> {
    let Op::InputOp(op) = &*graph.node(id).op else { return None };
    let input = graph.inputs.get(op.index as usize).filter(|i| i.value == Value::first(id))?;
    let mut text = format!("input {}", quote(&input.name));
    if input.role != super::InputRole::Input {
        let _ = write!(text, " {}", serde_json::to_value(&input.role).ok()?.as_str()?);
    }
    if op.index != *inputs {
        let _ = write!(text, " at {}", op.index);
    }
    *inputs += 1;
    Some(text)
}

fn value_text(graph: &Graph, v: Value) -> String {
    match graph.nodes.get(v.node.0 as usize) {
        Some(node) if node.types.len() == 1 && v.result == 0 => format!("%{}", v.node.0),
        _ => format!("%{}.{}", v.node.0, v.result),
    }
}

fn output_text(output: &Output) -> String {
    let role = match &output.role {
        OutputRole::User => String::new(),
        OutputRole::Loss => "loss ".into(),
        OutputRole::Gradient(of) => format!("gradient {} ", quote(of)),
        OutputRole::GradientNorm(of) => format!("gradient_norm {} ", quote(of)),
        OutputRole::NewValue(of) => format!("new_value {} ", quote(of)),
        OutputRole::Saved => "saved ".into(),
    };
    let v = output.value;
    let result = if v.result == 0 { String::new() } else { format!(".{}", v.result) };
    format!("{role}%{}{result} as {}", v.node.0, quote(&output.name))
}

fn comment(provenance: Option<&Provenance>) -> String {
    let Some(provenance) = provenance else { return String::new() };
    let line = provenance.line().map(|at| at.to_string());
    let parts: Vec<String> = line.into_iter().chain(provenance.paths().first().cloned()).filter(|p| !p.is_empty()).collect();
    if parts.is_empty() { String::new() } else { format!("  // {}", parts.join(" ").replace(char::is_control, " ")) }
}
