//! Parsing graph text; the format is described in `text.rs`. Bad text is an error with its line, never a panic.

use super::verify::{fault_of, is_symbol_name};
use super::{Graph, Input, InputRole, Node, NodeId, Operands, Output, OutputRole, Policy, Region, Value};
use crate::error::Error;
use crate::ops::{InputOp, Op, OpDef, Pointwise};
use crate::scalar::ScalarFn;
use crate::types::{Cursor, DType, Dim, Provenance, Shape, Symbol, TensorType};
use std::collections::HashMap;
use std::sync::Arc;

/// What follows this line is no part of the program: an expectation of tests.
const SEPARATOR: &str = "// ----";
/// Nodes of a graph with its subgraphs, each counted as often as it is held, and subgraphs within subgraphs, beyond which a text is
/// refused: a few lines can name more than any memory holds.
const MAX_NODES: usize = 1 << 16;
const MAX_DEPTH: usize = 32;
/// Inputs, and outputs, of one graph.
const MAX_BORDER: usize = 1 << 13;

/// The graph of a text: exactly the nodes written, in their order. Types of results may be left out; where they are
/// written they must be what the op infers. Labels of nodes and blocks may be any words.
pub fn parse(text: &str) -> Result<Graph, Error> {
    let mut parser = Parser::default();
    let mut last = 1;
    for (i, line) in text.lines().enumerate().take_while(|(_, line)| line.trim_end() != SEPARATOR) {
        let code = without_comment(line).trim();
        if !code.is_empty() {
            last = i + 1;
            parser.statement(code).map_err(|message| Error::Parse { line: last, message })?;
        }
    }
    parser.finish().map_err(|message| Error::Parse { line: last, message })
}

fn without_comment(line: &str) -> &str {
    let (mut quoted, mut escaped) = (false, false);
    for (i, c) in line.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '/' if !quoted && line[i..].starts_with("//") => return &line[..i],
            _ => {}
        }
    }
    line
}

/// A graph under construction.
#[derive(Default)]
struct Block {
    graph: Graph,
    label: Option<String>,
    symbols: HashMap<String, Symbol>,
    nodes: HashMap<String, NodeId>,
    /// Inputs with their position in the input list.
    inputs: Vec<(u32, Input)>,
    /// Nodes of the subgraphs that it holds, and how deep they go.
    held: usize,
    depth: usize,
}

/// A labeled graph.
#[derive(Clone)]
struct Body {
    graph: Arc<Graph>,
    /// Nodes, those of its subgraphs included.
    nodes: usize,
    /// Subgraphs within subgraphs.
    depth: usize,
}

#[derive(Default)]
struct Parser {
    bodies: HashMap<String, Body>,
    current: Option<Block>,
}

impl Parser {
    fn statement(&mut self, code: &str) -> Result<(), String> {
        let mut line = Cursor::new(code);
        if line.eat("%") {
            let bodies = &self.bodies;
            let block = self.current.as_mut().ok_or("a graph begins with `graph <name>`")?;
            return block.node(&mut line, bodies);
        }
        let keyword = line.word().to_string();
        if keyword == "graph" {
            self.close()?;
            let mut block = Block { graph: Graph { name: line.name()?, ..Graph::default() }, ..Block::default() };
            if line.eat("@") {
                block.label = Some(line.label()?);
            }
            self.current = Some(block);
            return line.end();
        }
        let block = self.current.as_mut().ok_or("a graph begins with `graph <name>`")?;
        match &keyword[..] {
            "symbols" => block.symbols(&mut line),
            "guard" => block.guard(&line),
            "return" => block.outputs(&mut line),
            _ => Err(format!("expected `graph`, `symbols`, `guard`, `return` or a node, got `{code}`")),
        }
    }

    /// Ends a labeled block.
    fn close(&mut self) -> Result<(), String> {
        if let Some(mut block) = self.current.take() {
            let label = block.label.take().ok_or("the graph without a label comes last")?;
            let (held, depth) = (block.held, block.depth);
            let graph = Arc::new(block.finish()?);
            let body = Body { nodes: graph.nodes.len() + held, depth: depth + 1, graph };
            if self.bodies.insert(label.clone(), body).is_some() {
                return Err(format!("there are two graphs @{label}"));
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Graph, String> {
        let block = self.current.take().ok_or("there is no graph")?;
        match &block.label {
            Some(label) => Err(format!("the last graph has the label @{label}; the main graph has none")),
            None => block.finish(),
        }
    }
}

impl Block {
    fn finish(mut self) -> Result<Graph, String> {
        self.inputs.sort_by_key(|(index, _)| *index);
        for (k, (index, input)) in self.inputs.iter().enumerate() {
            if *index as usize != k {
                return Err(format!("graph {}: input {} is at {index}, expected {k}", self.graph.name, input.name));
            }
        }
        self.graph.inputs = self.inputs.into_iter().map(|(_, input)| input).collect();
        Ok(self.graph)
    }

    /// `symbols b 1..64, t 1..128`
    fn symbols(&mut self, line: &mut Cursor<'_>) -> Result<(), String> {
        loop {
            let name = line.word().to_string();
            if !is_symbol_name(&name) {
                return Err(format!("`{name}` is no name of a symbol"));
            }
            let min = line.integer()?;
            line.expect("..")?;
            let max = line.integer()?;
            if min > max {
                return Err(format!("the range {min}..{max} of {name} is empty"));
            }
            let symbol = Symbol { name: name.as_str().into(), min, max };
            if self.symbols.insert(name.clone(), symbol).is_some() {
                return Err(format!("symbol {name} is declared twice"));
            }
            if !line.eat(",") {
                return line.end();
            }
        }
    }

    /// `guard {"left":...}`
    fn guard(&mut self, line: &Cursor<'_>) -> Result<(), String> {
        self.graph.guards.push(serde_json::from_str(line.rest).map_err(|e| format!("guard: {e}"))?);
        Ok(())
    }

    /// `return loss %9 as loss, %2 as logits`
    fn outputs(&mut self, line: &mut Cursor<'_>) -> Result<(), String> {
        loop {
            let role = match line.word() {
                "" => OutputRole::User,
                "loss" => OutputRole::Loss,
                "saved" => OutputRole::Saved,
                "gradient" => OutputRole::Gradient(line.name()?),
                "gradient_norm" => OutputRole::GradientNorm(line.name()?),
                "new_value" => OutputRole::NewValue(line.name()?),
                other => return Err(format!("there is no output role `{other}`")),
            };
            line.expect("%")?;
            let value = self.value(line)?;
            line.expect("as")?;
            let name = line.name()?;
            if self.graph.output(&name).is_some() {
                return Err(format!("there are two outputs named {name}"));
            }
            if self.graph.outputs.len() >= MAX_BORDER {
                return Err(format!("there are more than {MAX_BORDER} outputs"));
            }
            self.graph.outputs.push(Output { name, role, value });
            if !line.eat(",") {
                return line.end();
            }
        }
    }

    /// Everything after the `%` of `%3:2 = op(%0, %1.1) {k=2} : f32[b], i32[b] region 0 must_save`
    fn node(&mut self, line: &mut Cursor<'_>, bodies: &HashMap<String, Body>) -> Result<(), String> {
        let label = line.label()?;
        let count = if line.eat(":") { Some(line.integer()?) } else { None };
        line.expect("=")?;
        let name = line.word().to_string();
        let node = if name == "input" { self.input(line)? } else { self.call(line, &name, bodies)? };
        if let Some(n) = count
            && n != node.types.len() as i64
        {
            return Err(format!("{name} has {} results, not {n}", node.types.len()));
        }
        line.end()?;
        let id = NodeId(self.graph.nodes.len() as u32);
        if self.nodes.insert(label.clone(), id).is_some() {
            return Err(format!("%{label} is defined twice"));
        }
        self.graph.nodes.push(node);
        self.graph.provenance.push(Provenance::default());
        Ok(())
    }

    /// `x parameter at 3 : f32[b]`
    fn input(&mut self, line: &mut Cursor<'_>) -> Result<Node, String> {
        let name = line.name()?;
        let mut index = self.inputs.len() as i64;
        let mut role = InputRole::Input;
        let word = line.word();
        let at = if word.is_empty() || word == "at" {
            word == "at"
        } else {
            role = serde_json::from_value(word.into()).map_err(|_| format!("there is no input role `{word}`"))?;
            line.eat("at")
        };
        if at {
            index = line.integer()?;
        }
        let index = u32::try_from(index).map_err(|e| format!("position {index}: {e}"))?;
        line.expect(":")?;
        let ty = self.ty(line)?;
        let region = region(line)?;
        if self.inputs.iter().any(|(_, i)| i.name == name) {
            return Err(format!("there are two inputs named {name}"));
        }
        if self.inputs.len() >= MAX_BORDER {
            return Err(format!("there are more than {MAX_BORDER} inputs"));
        }
        let value = Value::first(NodeId(self.graph.nodes.len() as u32));
        self.inputs.push((index, Input { name, role, value }));
        Ok(Node { op: Op::from(InputOp { index, ty: ty.clone() }).into(), operands: Operands::new(), types: [ty].into(), region })
    }

    /// `@0 (%0, %1.1) {k=2} : f32[b], i32[b] region 0 must_save`
    fn call(&mut self, line: &mut Cursor<'_>, name: &str, bodies: &HashMap<String, Body>) -> Result<Node, String> {
        let mut held = vec![];
        while line.eat("@") {
            let label = line.label()?;
            let body = bodies.get(&label).ok_or_else(|| format!("there is no graph @{label} above"))?;
            self.held += body.nodes;
            self.depth = self.depth.max(body.depth);
            held.push(body.graph.clone());
        }
        if self.held > MAX_NODES || self.depth > MAX_DEPTH {
            return Err(format!("subgraphs have {} nodes in {} levels, more than {MAX_NODES} in {MAX_DEPTH}", self.held, self.depth));
        }
        let operands = self.operands(line)?;
        let attributes = attributes(line)?;
        let mut op = build_op(name, attributes)?;
        if op.subgraphs().len() != held.len() {
            return Err(format!("{name} holds {} graphs, got {}", op.subgraphs().len(), held.len()));
        }
        op.set_subgraphs(held);
        let types: Vec<TensorType> = operands.iter().map(|&v| self.graph.ty(v).clone()).collect();
        let inferred = op.infer(&types).map_err(|message| format!("{name}: {message}: {}", list(&types, " x ")))?;
        if let Some((ty, fault)) = inferred.iter().find_map(|t| Some((t, fault_of(t)?))) {
            return Err(format!("{name}: {fault}: {ty}"));
        }
        if line.eat(":") {
            let written = self.types(line)?;
            if written != inferred {
                return Err(format!("{name} gives {}, not {}", list(&inferred, ", "), list(&written, ", ")));
            }
        }
        Ok(Node { op: op.into(), operands: operands.into(), types: inferred.into(), region: region(line)? })
    }

    fn operands(&self, line: &mut Cursor<'_>) -> Result<Vec<Value>, String> {
        line.expect("(")?;
        let mut operands = vec![];
        if line.eat(")") {
            return Ok(operands);
        }
        loop {
            line.expect("%")?;
            operands.push(self.value(line)?);
            if !line.eat(",") {
                line.expect(")")?;
                return Ok(operands);
            }
        }
    }

    /// What follows the `%` of an operand.
    fn value(&self, line: &mut Cursor<'_>) -> Result<Value, String> {
        let label = line.label()?;
        let node = *self.nodes.get(&label).ok_or_else(|| format!("%{label} is not defined above"))?;
        let result = if line.rest.starts_with('.') && line.eat(".") { line.integer()? } else { 0 };
        let count = self.graph.node(node).types.len();
        match u32::try_from(result) {
            Ok(result) if (result as usize) < count => Ok(Value { node, result }),
            _ => Err(format!("%{label} has {count} results, there is no %{label}.{result}")),
        }
    }

    fn types(&self, line: &mut Cursor<'_>) -> Result<Vec<TensorType>, String> {
        let mut types = vec![];
        if line.eat("(") {
            line.expect(")")?;
            return Ok(types);
        }
        loop {
            types.push(self.ty(line)?);
            if !line.eat(",") {
                return Ok(types);
            }
        }
    }

    /// `f32[b, div(t, 2)]`
    fn ty(&self, line: &mut Cursor<'_>) -> Result<TensorType, String> {
        let word = line.word();
        let dtype = DType::parse(word).ok_or_else(|| format!("there is no dtype `{word}`"))?;
        line.expect("[")?;
        let (inside, rest) = line.rest.split_once(']').ok_or("a shape lacks its closing bracket")?;
        line.rest = rest;
        let mut dims = vec![];
        if !inside.trim().is_empty() {
            for part in split_sizes(inside) {
                dims.push(Dim::parse(part, &|name| self.symbols.get(name).cloned())?);
            }
        }
        let ty = TensorType { dtype, shape: Shape::new(dims) };
        match fault_of(&ty) {
            Some(fault) => Err(format!("{fault}: {ty}")),
            None => Ok(ty),
        }
    }
}

/// Splits at the commas that are in no parenthesis.
fn split_sizes(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0i32, 0, vec![]);
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn region(line: &mut Cursor<'_>) -> Result<Option<Region>, String> {
    if !line.eat("region") {
        return Ok(None);
    }
    let id = line.integer()?;
    let id = u32::try_from(id).map_err(|e| format!("region {id}: {e}"))?;
    let policy = match line.word() {
        "must_recompute" => Policy::MustRecompute,
        "must_save" => Policy::MustSave,
        other => return Err(format!("there is no policy `{other}`")),
    };
    Ok(Some(Region { id, policy }))
}

/// The op of that name. Attributes that it does not have are refused.
fn build_op(name: &str, attributes: serde_json::Map<String, serde_json::Value>) -> Result<Op, String> {
    if let Some(f) = ScalarFn::parse(name)
        && attributes.is_empty()
    {
        return Ok(Pointwise { f }.into());
    }
    let keys: Vec<String> = attributes.keys().cloned().collect();
    // An op without attributes may be a unit struct, which JSON writes as null.
    let op = Op::from_text(name, attributes.clone().into()).or_else(|e| {
        let unit = if attributes.is_empty() { Op::from_text(name, serde_json::Value::Null).ok() } else { None };
        unit.ok_or_else(|| format!("{name}: {e}"))
    })?;
    if matches!(op, Op::InputOp(_)) {
        return Err("an input is written `input <name> : <type>`".into());
    }
    let known = op.attributes();
    match keys.iter().find(|key| known.get(key).is_none()) {
        Some(key) => Err(format!("{name} has no attribute {key}")),
        None => Ok(op),
    }
}

fn list(types: &[TensorType], between: &str) -> String {
    types.iter().map(|t| t.to_string()).collect::<Vec<_>>().join(between)
}

/// `{key=json, ...}`, or nothing.
fn attributes(line: &mut Cursor<'_>) -> Result<serde_json::Map<String, serde_json::Value>, String> {
    let mut attributes = serde_json::Map::new();
    if !line.eat("{") || line.eat("}") {
        return Ok(attributes);
    }
    loop {
        let key = line.name()?;
        line.expect("=")?;
        if attributes.insert(key.clone(), line.json()?).is_some() {
            return Err(format!("attribute {key} is given twice"));
        }
        if !line.eat(",") {
            line.expect("}")?;
            return Ok(attributes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Builder, Inline, inline_subgraphs, print, verify};
    use super::*;
    use crate::ops::{Checkpoint, ReduceKind};
    use crate::types::Location;

    fn body() -> Graph {
        let mut b = Builder::new("odd \"name\"");
        let t = Dim::symbol("t", 2, 128);
        let x = b.input("x y", InputRole::Input, TensorType::new(DType::F32, (t.clone() * Dim::int(3) - Dim::int(2), 4))).unwrap();
        let y = b.reduce(ReduceKind::Sum, x, &[0], true).unwrap();
        b.output("sum", OutputRole::User, y);
        b.output("x // again", OutputRole::User, x);
        b.finish()
    }

    fn example() -> Graph {
        let mut b = Builder::new("main");
        let t = Dim::symbol("t", 2, 128);
        let ty = TensorType::new(DType::F32, (t.clone() * Dim::int(3) - Dim::int(2), 4));
        let x = b.input("x", InputRole::Input, ty.clone()).unwrap();
        let w = b.input("blocks.0.w-1", InputRole::Parameter, ty).unwrap();
        b.input("lr", InputRole::HostScalar, TensorType::new(DType::F32, ())).unwrap();
        b.provenance = Provenance::new(vec![Location { file: "src/model.rs".into(), line: 12 }], vec![]);
        let call = b.node(Checkpoint::new(body()), &[x]).unwrap();
        let shape = Shape::new(vec![t.floor_div(&Dim::int(2)), 4.into()]);
        let zero = b.full(DType::F32, f64::NEG_INFINITY, shape).unwrap();
        b.region = Some(Region { id: 3, policy: Policy::MustRecompute });
        let sum = b.add(call[1], w).unwrap();
        let again = b.node(Checkpoint { policy: Policy::MustSave, body: Arc::new(body()) }, &[sum]).unwrap();
        let loss = b.reduce(ReduceKind::Max, again[0], &[0, 1], false).unwrap();
        b.output("y", OutputRole::User, again[1]);
        b.output("zero", OutputRole::Saved, zero);
        b.output("loss", OutputRole::Loss, loss);
        b.output("g", OutputRole::Gradient("blocks.0.w-1".into()), w);
        b.output("n", OutputRole::NewValue("x".into()), x);
        b.finish()
    }

    #[test]
    fn text_is_readable_and_parses_back() {
        let graph = example();
        assert_eq!(verify(&graph), Vec::<String>::new());
        let text = print(&graph);
        expect_test::expect![[r#"
            graph "odd \"name\"" @0
            symbols t 2..128
              %0 = input "x y" : f32[t*3 - 2, 4]
              %1 = reduce(%0) {kind="sum", dims=[0], keepdim=true} : f32[1, 4]
              return %1 as sum
              return %0 as "x // again"

            graph main
            symbols t 2..128
              %0 = input x : f32[t*3 - 2, 4]
              %1 = input "blocks.0.w-1" parameter : f32[t*3 - 2, 4]
              %2 = input lr host_scalar : f32[]
              %3:2 = checkpoint @0 (%0) {policy="must_recompute"} : f32[1, 4], f32[t*3 - 2, 4]  // src/model.rs:12
              %4 = full() {value="-inf", dtype="f32", shape=["div(t{2..128}, 2)",4]} : f32[div(t, 2), 4]  // src/model.rs:12
              %5 = add(%3.1, %1) : f32[t*3 - 2, 4] region 3 must_recompute  // src/model.rs:12
              %6:2 = checkpoint @0 (%5) {policy="must_save"} : f32[1, 4], f32[t*3 - 2, 4] region 3 must_recompute  // src/model.rs:12
              %7 = reduce(%6.0) {kind="max", dims=[0,1], keepdim=false} : f32[] region 3 must_recompute  // src/model.rs:12
              return %6.1 as y
              return saved %4 as zero
              return loss %7 as loss
              return gradient "blocks.0.w-1" %1 as g
              return new_value x %0 as n
        "#]]
        .assert_eq(&text);
        assert_eq!(parse(&text).unwrap(), graph);
    }

    #[test]
    fn order_of_inputs_and_equal_nodes_survive() {
        let mut graph = example();
        graph.inputs.swap(0, 1);
        for (k, i) in graph.inputs.iter().enumerate() {
            let Op::InputOp(op) = Arc::make_mut(&mut graph.nodes[i.value.node.0 as usize].op) else { unreachable!() };
            op.index = k as u32;
        }
        let twin = graph.nodes[4].clone();
        graph.nodes.push(twin);
        graph.provenance.push(Provenance::default());
        assert_eq!(parse(&print(&graph)).unwrap(), graph);
    }

    #[test]
    fn bad_text_is_an_error_with_its_line() {
        let error = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(error(""), "graph text, line 1: there is no graph");
        assert_eq!(error("graph g\n%0 = input x : f32[n]"), "graph text, line 2: unknown symbol `n`");
        assert_eq!(error("graph g\n%0 = input x : f32[2]\n%1 = exp(%0) : f32[3]"), "graph text, line 3: exp gives f32[2], not f32[3]");
        assert_eq!(error("graph g\n%0 = input x : f32[2]\n%1 = add(%0, %2)"), "graph text, line 3: %2 is not defined above");
        assert_eq!(
            error("graph g\n%0 = input x : f32[2]\n%1 = frobnicate(%0)"),
            "graph text, line 3: frobnicate: there is no operator named frobnicate"
        );
        assert_eq!(error("graph g\n%0 = full() {value=1, dtype=\"f32\", shape=[-2]}"), "graph text, line 2: full: negative size: f32[-2]");
        assert_eq!(
            error("graph g\n%0 = input x : f32[2]\n%1 = cast(%0) {dtype=\"i32\", fast=true}"),
            "graph text, line 3: cast has no attribute fast"
        );
        assert_eq!(error("graph g\nreturn %0 as y"), "graph text, line 2: %0 is not defined above");
        assert_eq!(error("graph g\n%0 = checkpoint @1 () {policy=\"must_save\"}"), "graph text, line 2: there is no graph @1 above");
        let deep = "div(".repeat(100_000);
        assert_eq!(error(&format!("graph g\nsymbols n 1..2\n%0 = input x : f32[{deep}]")), "graph text, line 3: a size is nested too deeply");
    }

    #[test]
    fn mutated_text_never_panics() {
        let text = print(&example());
        let mut state = 7u64;
        let mut next = |n: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % n
        };
        for _ in 0..3000 {
            let mut chars: Vec<char> = text.chars().collect();
            for _ in 0..1 + next(4) {
                let (from, to) = (next(chars.len()), next(chars.len()));
                match next(4) {
                    0 => chars[from] = chars[to],
                    1 => chars.insert(from, ['9', '-', '"', '[', '(', '%', '.', '@', '\n', 'é'][next(10)]),
                    2 => drop(chars.remove(from)),
                    _ => drop(chars.drain(from..(from + next(30)).min(chars.len()))),
                }
            }
            if let Ok(graph) = parse(&chars.into_iter().collect::<String>()) {
                verify(&graph);
                assert_eq!(parse(&print(&graph)).unwrap(), graph);
            }
        }
    }

    #[test]
    fn inlined_checkpoints_leave_regions_of_their_own() {
        let graph = example();
        let inlined = inline_subgraphs(&graph, Inline::Calls).unwrap();
        assert_eq!(verify(&inlined), Vec::<String>::new());
        let regions: Vec<Option<(u32, Policy)>> =
            inlined.nodes.iter().filter(|n| n.op.name() == "sum").map(|n| n.region.map(|r| (r.id, r.policy))).collect();
        // The first call's sum is dead; its region was 4.
        assert_eq!(regions, [Some((5, Policy::MustSave))]);
        assert_eq!(inlined.outputs.len(), 5);
    }
}
