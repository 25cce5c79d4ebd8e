//! Graph passes, in three stages: before autograd, on the joint graph, and on each graph that is lowered.
//!
//! * Comes in: a graph. Goes out: a graph that computes the same outputs from the same inputs.
//! * Invariants: a pass rebuilds old -> new through the builder with a value map; it never mutates. Inputs and outputs keep
//!   names, roles, types and order. Nodes keep their region and provenance. Subgraphs are visited before the graph that
//!   holds them. After each pass the graph is verified in debug builds and tests.
//! * Must not know: kernels, devices; but [`fuse_attention`] and [`merge_linears`] ask `forms` for a price.
//! * Add here: one file `<stage>/<verb_noun>.rs` with one function, and one line in the stage's ordered list, with a comment
//!   where its place matters. A family of algebraic rules is a list of `rewrite::Rule`s in such a file.

mod joint_graph;
mod post_grad;
mod pre_grad;

use crate::config::{Config, Mode, Target};
use crate::error::{Error, Result};
use crate::forms::attention::Scores;
use crate::graph::{Builder, Graph, InputRole, OutputRole, ValueMap, verify};
use crate::ops::{Op, OpDef};
use crate::rewrite::{Rule, rewrite};
use crate::types::{DType, MatmulPrecision};
use std::borrow::Cow;
use std::sync::Arc;

/// A pass, with its name.
#[derive(Clone, Copy)]
pub enum Pass {
    /// Families of rules. Those of neighbors run together, in one visit of the graph, and the earlier of two that fit a node wins;
    /// equal nodes become one, and what no output needs is dropped.
    Rules(&'static str, &'static [&'static [Rule]]),
    /// A function that rebuilds the graph, or gives nothing where it has nothing to change.
    Rebuild(&'static str, fn(&Graph) -> std::result::Result<Option<Graph>, String>),
}

impl Pass {
    fn name(&self) -> &'static str {
        match self {
            Pass::Rules(name, _) | Pass::Rebuild(name, _) => name,
        }
    }
}

/// Passes on the forward graph, before it is differentiated: cleans up, and raises patterns written out by hand to ops that
/// have their own derivative.
pub fn recursive_pre_grad_passes(graph: &Graph) -> Result<Graph> {
    run_stage("pre_grad", pre_grad::PASSES, Cow::Borrowed(graph))
}

/// Attention becomes one kernel where that pays on a device of these speeds, with its gradients or without; behind the passes before
/// autograd, which raise it.
pub fn fuse_attention(graph: &Graph, target: &Target, precision: MatmulPrecision, gradients: Option<Scores>) -> Result<Graph> {
    let rebuild = |m: String| Error::compile(format!("fuse_attention: {m}"));
    pre_grad::fuse_attention::fuse_attention(graph, &|problem| problem.fastest(gradients, precision, target)).map_err(rebuild)
}

/// Linear layers of one input become one product where that pays on a device; behind the passes before autograd, which raise them.
pub fn merge_linears(graph: Graph, target: &Target, config: &Config) -> Result<Graph> {
    let asks = |role: &InputRole| match config.mode {
        Mode::Inference => false,
        Mode::Train(_) => *role == InputRole::Parameter,
        Mode::Vjp => matches!(role, InputRole::Parameter | InputRole::Input),
    };
    let is_frozen = |name: &str| matches!(&config.mode, Mode::Train(optimizer) if optimizer.of(name).is_none());
    let ask = pre_grad::merge_linears::Questions {
        is_asked: &|input| asks(&input.role) && !is_frozen(&input.name),
        is_seeded: &|role| *role == OutputRole::Loss || config.mode == Mode::Vjp && *role == OutputRole::User,
        pays: &|layers| layers.pays(config.matmul_precision, target),
        halves: config.mixed_precision.as_ref().is_some_and(|mixed| mixed.dtype == DType::F16),
    };
    let merged = pre_grad::merge_linears::merge_linears(&graph, &ask).map_err(|m| Error::compile(format!("merge_linears: {m}")))?;
    Ok(merged.unwrap_or(graph))
}

/// Products of f32 are computed in a half type; behind the passes before autograd, which raise some of them.
pub fn halve_products(graph: &Graph, half: DType) -> Result<Graph> {
    pre_grad::halve_products::halve_products(graph, half).map_err(|m| Error::compile(format!("halve_products: {m}")))
}

/// Passes on the joint graph, or on the forward graph for inference: simplifies, and decomposes every composite.
pub fn recursive_joint_graph_passes(graph: Graph) -> Result<Graph> {
    run_stage("joint_graph", joint_graph::PASSES, Cow::Owned(graph))
}

/// Passes on each graph that is lowered: forward, backward, update.
pub fn post_grad_passes(graph: Graph) -> Result<Graph> {
    run_stage("post_grad", post_grad::PASSES, Cow::Owned(graph))
}

/// One pass by name, subgraphs included; for filetests.
pub fn run_pass(name: &str, graph: &Graph) -> Result<Graph> {
    let all = [("pre_grad", pre_grad::PASSES), ("joint_graph", joint_graph::PASSES), ("post_grad", post_grad::PASSES)];
    let found = all.into_iter().find_map(|(stage, passes)| passes.iter().find(|p| p.name() == name).map(|p| (stage, *p)));
    let (stage, pass) = found.ok_or_else(|| Error::compile(format!("there is no pass named {name}")))?;
    run_stage(stage, &[pass], Cow::Borrowed(graph))
}

/// Names of all passes, in order.
pub fn pass_names() -> Vec<&'static str> {
    pre_grad::PASSES.iter().chain(joint_graph::PASSES).chain(post_grad::PASSES).map(Pass::name).collect()
}

fn run_stage(stage: &'static str, passes: &[Pass], graph: Cow<'_, Graph>) -> Result<Graph> {
    let mut current = in_subgraphs(stage, passes, graph)?;
    for run in passes.chunk_by(|a, b| matches!((a, b), (Pass::Rules(..), Pass::Rules(..)))) {
        let names = run.iter().map(Pass::name).collect::<Vec<_>>().join(", ");
        let span = tracing::debug_span!("pass", stage, names, before = current.nodes.len(), after = tracing::field::Empty).entered();
        let before = cfg!(debug_assertions).then(|| current.clone());
        current = apply(run, current).map_err(|m| Error::compile(format!("pass {names}: {m}")))?;
        span.record("after", current.nodes.len());
        if let Some(before) = before {
            check(&names, &before, &current);
        }
    }
    Ok(current.into_owned())
}

/// One pass that rebuilds, or neighbors that are rules.
fn apply<'a>(run: &[Pass], graph: Cow<'a, Graph>) -> std::result::Result<Cow<'a, Graph>, String> {
    let mut families: Vec<&[Rule]> = vec![];
    for pass in run {
        match pass {
            Pass::Rules(_, rules) => families.extend_from_slice(rules),
            Pass::Rebuild(_, rebuild) => return Ok(rebuild(&graph)?.map_or(graph, Cow::Owned)),
        }
    }
    rewrite(graph, &families).map(Cow::Owned)
}

/// The graph with the stage run in every subgraph that its ops hold.
fn in_subgraphs<'a>(stage: &'static str, passes: &[Pass], graph: Cow<'a, Graph>) -> Result<Cow<'a, Graph>> {
    if !graph.has_subgraphs() {
        return Ok(graph);
    }
    let rebuild = |m: String| Error::compile(format!("{stage}: {m}"));
    let mut b = Builder::new(&graph.name);
    let mut map = ValueMap::default();
    b.copy_inputs(&graph, &mut map).map_err(rebuild)?;
    for id in graph.ids() {
        let mut op = Op::clone(&graph.node(id).op);
        change_bodies(&mut op, |g| run_stage(stage, passes, Cow::Borrowed(g)))?;
        b.copy_changed_node(&graph, id, op, &mut map).map_err(rebuild)?;
    }
    for output in &graph.outputs {
        b.output(&output.name, output.role.clone(), map[&output.value]);
    }
    Ok(Cow::Owned(b.finish()))
}

/// Gives an op other bodies, if it holds any.
fn change_bodies<E>(op: &mut Op, change: impl Fn(&Graph) -> std::result::Result<Graph, E>) -> std::result::Result<(), E> {
    let bodies = op.subgraphs();
    if !bodies.is_empty() {
        let changed: std::result::Result<Vec<Arc<Graph>>, E> = bodies.iter().map(|g| change(g).map(Arc::new)).collect();
        op.set_subgraphs(changed?);
    }
    Ok(())
}

/// A fault after a pass is a fault of that pass.
fn check(pass: &str, before: &Graph, after: &Graph) {
    let faults = verify(after);
    assert!(
        faults.is_empty(),
        "pass {pass} broke the graph:\n  {}\nbefore:\n{}\nafter:\n{}",
        faults.join("\n  "),
        crate::graph::print(before),
        crate::graph::print(after)
    );
}
