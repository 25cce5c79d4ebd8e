//! Passes on the forward graph before it is differentiated.

pub(super) mod fold_constants;
pub(super) mod fuse_attention;
pub(super) mod halve_products;
pub(super) mod merge_linears;
mod raise_attention;
mod raise_causal;
mod raise_norms;
mod raise_softmax;
pub(super) mod remove_identities;
mod share_loops;

use super::Pass;

/// In order.
pub(super) const PASSES: &[Pass] = &[
    // First, so that patterns are not hidden behind ops that do nothing.
    Pass::Rules("remove_identities", &[remove_identities::RULES]),
    Pass::Rules("fold_constants", &[fold_constants::RULES]),
    // Before attention and cross entropy, which contain it.
    Pass::Rules("raise_softmax", &[raise_softmax::RULES]),
    Pass::Rules("raise_attention", &[raise_attention::RULES]),
    Pass::Rules("raise_causal", &[raise_causal::RULES]),
    Pass::Rules("raise_norms", &[raise_norms::RULES]),
    // Before the program is differentiated, which finds what its gradient reads.
    Pass::Rebuild("share_loops", share_loops::share_loops),
];
