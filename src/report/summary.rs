//! What a model is made of, module by module, as a table that people know.

use super::{Table, bytes};
use crate::compile::fw_compiler_base;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::frontend::Traced;
use crate::graph::{Graph, Inline, InputRole, inline_subgraphs, is_frozen};
use crate::loop_ir::Phase;
use crate::loop_ir::facts::multiply_adds;
use crate::lower::{Lowered, Repeat, lower};
use crate::ops::OpDef;
use crate::passes::recursive_joint_graph_passes;
use crate::types::{Bindings, Provenance, TensorType};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// One module, with everything below it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ModuleSummary {
    /// Path; empty for the whole model.
    pub path: String,
    /// Type of what it computes last.
    pub output: Option<String>,
    /// Its own parameters and buffers, not those below it: names and types.
    pub tensors: Vec<(String, String)>,
    /// Elements of parameters.
    pub parameters: u64,
    /// Elements of parameters that are not frozen.
    pub trained: u64,
    /// Bytes of parameters and buffers.
    pub weight_bytes: u64,
    /// Arithmetic of the forward's products, two operations for each multiply-add; those of kernels that are no products are not
    /// counted.
    pub flops: f64,
    /// Bytes of all values that its operators make, one by one: what a framework that keeps each of them would hold. What this
    /// compiler saves is in [`Explain`](crate::runtime::Explain).
    pub activation_bytes: u64,
}

/// A model's modules, in the order in which they come first. Symbols count at their smallest value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Name of the program.
    pub name: String,
    /// The whole model, then modules, those below one behind it.
    pub modules: Vec<ModuleSummary>,
}

impl Traced {
    /// Parameters, shapes, arithmetic and activations by module.
    ///
    /// ```
    /// let summary = inductor::models::mlp(32, &[784, 256, 10])?.summary()?;
    /// println!("{summary}");
    /// assert_eq!(summary.total().flops, 2.0 * 32.0 * (784.0 * 256.0 + 256.0 * 10.0));
    /// # Ok::<(), inductor::Error>(())
    /// ```
    pub fn summary(&self) -> Result<Summary> {
        let graph = inline_subgraphs(&self.graph, Inline::Calls).map_err(Error::compile)?;
        let smallest = smallest(&graph);
        let mut rows = Rows { smallest: &smallest, modules: vec![], places: BTreeMap::new() };
        rows.at("");
        rows.weights(&self.graph);
        rows.activations(&graph);
        rows.arithmetic(&graph)?;
        Ok(Summary { name: self.graph.name.clone(), modules: rows.in_order() })
    }
}

impl Summary {
    /// The whole model.
    pub fn total(&self) -> &ModuleSummary {
        &self.modules[0]
    }

    /// The module of that path.
    pub fn module(&self, path: &str) -> Option<&ModuleSummary> {
        self.modules.iter().find(|m| m.path == path)
    }
}

/// Every symbol of the inputs at its smallest value.
fn smallest(graph: &Graph) -> Bindings {
    let mut symbols = vec![];
    graph.inputs.iter().flat_map(|i| &graph.ty(i.value).shape.0).for_each(|d| d.collect_symbols(&mut symbols));
    symbols.into_iter().map(|s| (s.name.to_string(), s.min)).collect()
}

/// Modules as they are found.
struct Rows<'a> {
    smallest: &'a Bindings,
    modules: Vec<ModuleSummary>,
    places: BTreeMap<String, usize>,
}

impl Rows<'_> {
    fn at(&mut self, path: &str) -> &mut ModuleSummary {
        let next = self.modules.len();
        let place = *self.places.entry(path.to_string()).or_insert(next);
        if place == next {
            self.modules.push(ModuleSummary { path: path.into(), ..ModuleSummary::default() });
        }
        &mut self.modules[place]
    }

    /// Does something to a module and to all that hold it.
    fn each(&mut self, path: &str, change: impl Fn(&mut ModuleSummary)) {
        change(self.at(""));
        let ends = path.match_indices('.').map(|(at, _)| at).chain((!path.is_empty()).then_some(path.len()));
        ends.for_each(|end| change(self.at(&path[..end])));
    }

    fn weights(&mut self, graph: &Graph) {
        for input in &graph.inputs {
            let is_parameter = match input.role {
                InputRole::Parameter => true,
                InputRole::Buffer => false,
                _ => continue,
            };
            let ty = graph.ty(input.value);
            let (module, own) = input.name.rsplit_once('.').unwrap_or(("", &input.name));
            let count = if is_parameter { self.elements(ty) } else { 0 };
            let (trained, size) = (if is_frozen(graph, input.value) { 0 } else { count }, self.size(ty));
            self.each(module, |m| {
                m.parameters += count;
                m.trained += trained;
                m.weight_bytes += size;
            });
            self.at(module).tensors.push((own.into(), ty.to_string()));
        }
    }

    fn activations(&mut self, graph: &Graph) {
        let inputs: Vec<_> = graph.inputs.iter().map(|i| i.value.node).collect();
        for id in graph.ids().filter(|id| !inputs.contains(id)) {
            let node = graph.node(id);
            let made = !node.op.is_view() && !node.operands.is_empty();
            let size: u64 = if made { node.types.iter().map(|ty| self.size(ty)).sum() } else { 0 };
            let output = node.types.first().map(ToString::to_string);
            self.each(&path_of(graph.provenance(id)), |m| {
                m.activation_bytes += size;
                m.output.clone_from(&output);
            });
        }
    }

    fn arithmetic(&mut self, graph: &Graph) -> Result<()> {
        let ready = fw_compiler_base(recursive_joint_graph_passes(graph.clone())?)?;
        let lowered = lower(&[(Phase::Forward, &ready)], &Config::default())?;
        self.arithmetic_of(&lowered, 1.0);
        Ok(())
    }

    /// What nests compute that run so many times. All branches of a `cond` count, and one trip of a `while_loop`.
    fn arithmetic_of(&mut self, lowered: &Lowered, times: f64) {
        for nest in &lowered.nests {
            let flops = 2.0 * times * multiply_adds(nest, self.smallest);
            if flops > 0.0 {
                self.each(&path_of(&nest.provenance), |m| m.flops += flops);
            }
        }
        for control in &lowered.controls {
            let trips = if let Repeat::Times(n) = &control.repeat { n.eval(self.smallest).unwrap_or(1) } else { 1 };
            control.blocks.iter().for_each(|block| self.arithmetic_of(&block.lowered, times * trips as f64));
        }
    }

    fn elements(&self, ty: &TensorType) -> u64 {
        ty.shape.0.iter().map(|d| d.eval(self.smallest).unwrap_or(0).max(0) as u64).product()
    }

    fn size(&self, ty: &TensorType) -> u64 {
        self.elements(ty) * ty.dtype.size() as u64
    }

    /// Modules behind the one that holds them, in the order in which they came.
    fn in_order(self) -> Vec<ModuleSummary> {
        let first = |path: &str| self.places.iter().filter(|(p, _)| is_below(p, path)).map(|(_, &place)| place).min();
        let key = |path: &str| -> Vec<usize> {
            let ends = path.match_indices('.').map(|(at, _)| at).chain((!path.is_empty()).then_some(path.len()));
            ends.map(|end| first(&path[..end]).unwrap_or(0)).collect()
        };
        let mut keyed: Vec<(Vec<usize>, ModuleSummary)> = self.modules.iter().map(|m| (key(&m.path), m.clone())).collect();
        keyed.sort_by(|a, b| a.0.cmp(&b.0));
        keyed.into_iter().map(|(_, m)| m).collect()
    }
}

fn is_below(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The module that an operator belongs to.
fn path_of(provenance: &Provenance) -> String {
    provenance.paths().first().cloned().unwrap_or_default()
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(&["module", "output", "parameters", "FLOPs", "activations", "tensors"]);
        for m in &self.modules {
            let depth = if m.path.is_empty() { 0 } else { 1 + m.path.matches('.').count() };
            let name = if m.path.is_empty() { &self.name } else { m.path.rsplit('.').next().unwrap_or_default() };
            let tensors: Vec<String> = m.tensors.iter().map(|(name, ty)| format!("{name} {ty}")).collect();
            table.row(&[
                format!("{}{name}", "  ".repeat(depth)),
                m.output.clone().unwrap_or_default(),
                if m.parameters == 0 { String::new() } else { thousands(m.parameters) },
                if m.flops == 0.0 { String::new() } else { scaled(m.flops) },
                if m.activation_bytes == 0 { String::new() } else { bytes(m.activation_bytes) },
                tensors.join(", "),
            ]);
        }
        let total = self.total();
        write!(f, "{table}")?;
        let frozen = total.parameters - total.trained;
        writeln!(f, "  parameters: {}, of which trained: {}, frozen: {}", thousands(total.parameters), thousands(total.trained), thousands(frozen))?;
        writeln!(
            f,
            "  weights and buffers: {}; forward: {}FLOPs; activations, one by one: {}",
            bytes(total.weight_bytes),
            scaled(total.flops),
            bytes(total.activation_bytes)
        )
    }
}

/// `1,234,567`.
fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// With a prefix: `12.3 G`.
fn scaled(x: f64) -> String {
    let (unit, name) = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")].into_iter().find(|(unit, _)| x >= *unit).unwrap_or((1.0, ""));
    format!("{:.3} {name}", x / unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::models::{GptConfig, gpt};
    use crate::frontend::{nn, trace};
    use crate::types::DType;

    #[test]
    fn numbers_by_hand() {
        let traced = trace("probe", |t| {
            t.frozen("encoder");
            let x = t.input("x", DType::F32, (16, 64));
            let h = nn::linear(&t.path("encoder").path("fc"), &x, 128).relu();
            Ok(nn::linear(&t.path("head"), &h, 10).mean_all())
        })
        .unwrap();
        let summary = traced.summary().unwrap();
        let paths: Vec<&str> = summary.modules.iter().map(|m| m.path.as_str()).collect();
        assert_eq!(paths, ["", "encoder", "encoder.fc", "head"]);
        let (total, encoder) = (summary.total(), summary.module("encoder").unwrap());
        assert_eq!((total.parameters, total.trained, total.weight_bytes), (64 * 128 + 128 + 1290, 1290, 4 * (64 * 128 + 128 + 1290)));
        assert_eq!((encoder.flops, total.flops), (2.0 * 16.0 * 64.0 * 128.0, 2.0 * 16.0 * 128.0 * 74.0));
        assert_eq!(summary.module("head").unwrap().output.as_deref(), Some("f32[16, 10]"));
        let text = summary.to_string();
        assert!(
            text.contains("    fc")
                && text.contains("8,320")
                && text.contains("frozen: 8,320")
                && text.contains("weight f32[128, 64], bias f32[128]"),
            "{text}"
        );
    }

    #[test]
    fn a_transformer_counts_its_attention() {
        let config = GptConfig { layers: 2, ..GptConfig::small(65) };
        let summary = gpt(&config).unwrap().summary().unwrap();
        let (tokens, width, context) = ((config.batch * config.context) as f64, config.width as f64, config.context as f64);
        let block = 2.0 * tokens * width * (12.0 * width + 2.0 * context);
        assert_eq!(summary.total().flops, 2.0 * block + 2.0 * tokens * width * 65.0);
        assert_eq!([thousands(7), thousands(1234567)], ["7", "1,234,567"]);
    }
}
