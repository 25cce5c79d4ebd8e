//! Passes on the joint graph, or on the forward graph for inference.

mod cancel_cast_chains;
mod cancel_view_pairs;
mod decompose_attention;
mod decompose_composites;
mod fold_uniform_constants;
mod inline_calls;
mod move_scale_around_softmax;
mod remove_noops;

use super::Pass;
use super::pre_grad::{fold_constants, remove_identities};

/// In order.
pub(super) const PASSES: &[Pass] = &[
    // Only inference has calls here: autograd inlines them.
    Pass::Rebuild("inline_calls", inline_calls::inline_calls),
    // Before everything that looks at ops: what remains is what is lowered. Attention that no kernel takes whole is a pass of its own.
    Pass::Rules("decompose_attention", &[decompose_attention::RULES]),
    Pass::Rules("decompose_composites", &[decompose_composites::RULES]),
    Pass::Rules("remove_noops", &[remove_noops::RULES, remove_identities::RULES]),
    // Turns views of numbers into numbers, so that fewer views stand between the ops the rest looks for.
    FOLD_UNIFORM_CONSTANTS,
    Pass::Rules("cancel_view_pairs", &[cancel_view_pairs::RULES]),
    Pass::Rules("cancel_cast_chains", &[cancel_cast_chains::RULES]),
    // After decomposition, which shows the row maximum.
    Pass::Rules("move_scale_around_softmax", &[move_scale_around_softmax::RULES]),
];

/// Numbers propagated, and what they make constant or idle removed.
pub(super) const FOLD_UNIFORM_CONSTANTS: Pass =
    Pass::Rules("fold_uniform_constants", &[fold_uniform_constants::RULES, fold_constants::RULES, remove_identities::RULES]);
