//! Passes on each graph that is lowered: forward, backward, update.

mod inline_control_flow;
mod one_hot_scatter_to_where;
mod prepare_online_softmax;
mod prepare_variance;
mod use_rsqrt;

use super::Pass;
use super::joint_graph::{eliminate_dead_code, fold_uniform_constants};

/// In order.
pub(super) const PASSES: &[Pass] = &[
    // The stage has run in the bodies when it comes to the graph that holds them; from here on there is one graph.
    ("inline_control_flow", inline_control_flow::inline_control_flow),
    // The partition has made unit cotangents numbers.
    ("fold_uniform_constants", fold_uniform_constants),
    ("one_hot_scatter_to_where", one_hot_scatter_to_where::one_hot_scatter_to_where),
    // Here and not on the joint graph, where the pair could only be saved together.
    ("prepare_online_softmax", prepare_online_softmax::prepare_online_softmax),
    ("prepare_variance", prepare_variance::prepare_variance),
    ("use_rsqrt", use_rsqrt::use_rsqrt),
    ("eliminate_dead_code", eliminate_dead_code),
];
