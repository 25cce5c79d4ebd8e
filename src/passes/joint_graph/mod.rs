//! Passes on the joint graph, or on the forward graph for inference.

mod cancel_cast_chains;
mod cancel_view_pairs;
mod decompose_attention;
mod decompose_composites;
mod eliminate_dead_code;
mod fold_uniform_constants;
mod inline_calls;
mod move_scale_around_softmax;
mod remove_noops;

use super::Pass;
pub(super) use eliminate_dead_code::eliminate_dead_code;
pub(super) use fold_uniform_constants::fold_uniform_constants;

/// In order.
pub(super) const PASSES: &[Pass] = &[
    // Only inference has calls here: autograd inlines them.
    ("inline_calls", inline_calls::inline_calls),
    // Before everything that looks at ops: what remains is what is lowered. Attention is a pass of its own, to be dropped
    // when it has a template.
    ("decompose_attention", decompose_attention::decompose_attention),
    ("decompose_composites", decompose_composites::decompose_composites),
    ("remove_noops", remove_noops::remove_noops),
    // Turns views of numbers into numbers, so that fewer views stand between the ops the rest looks for.
    ("fold_uniform_constants", fold_uniform_constants),
    ("cancel_view_pairs", cancel_view_pairs::cancel_view_pairs),
    ("cancel_cast_chains", cancel_cast_chains::cancel_cast_chains),
    // After decomposition, which shows the row maximum.
    ("move_scale_around_softmax", move_scale_around_softmax::move_scale_around_softmax),
    // Last: the partition must not see what nothing needs.
    ("eliminate_dead_code", eliminate_dead_code),
];
