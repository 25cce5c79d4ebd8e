//! Passes on each graph that is lowered: forward, backward, update.

mod one_hot_scatter_to_where;
mod prepare_online_softmax;
mod prepare_variance;
mod use_rsqrt;

use super::Pass;
use super::joint_graph::FOLD_UNIFORM_CONSTANTS;

/// In order.
pub(super) const PASSES: &[Pass] = &[
    // The partition has made unit cotangents numbers.
    FOLD_UNIFORM_CONSTANTS,
    Pass::Rules("one_hot_scatter_to_where", &[one_hot_scatter_to_where::RULES]),
    Pass::Rules("use_rsqrt", &[use_rsqrt::RULES]),
    // Here and not on the joint graph, where the pair could only be saved together.
    Pass::Rebuild("prepare_online_softmax", prepare_online_softmax::prepare_online_softmax),
    Pass::Rebuild("prepare_variance", prepare_variance::prepare_variance),
];
