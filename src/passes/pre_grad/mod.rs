//! Passes on the forward graph before it is differentiated.

mod deduplicate;
mod fold_constants;
mod raise_attention;
mod raise_norms;
mod raise_softmax;
mod remove_identities;

use super::Pass;
pub(super) use fold_constants::fold_constants;
pub(super) use remove_identities::remove_identities;

/// In order.
pub(super) const PASSES: &[Pass] = &[
    // First, so that patterns are not hidden behind ops that do nothing.
    ("remove_identities", remove_identities),
    ("fold_constants", fold_constants),
    // Equal values become one, which patterns ask for: the x of `x - amax(x)`.
    ("deduplicate", deduplicate::deduplicate),
    // Before attention and cross entropy, which contain it.
    ("raise_softmax", raise_softmax::raise_softmax),
    ("raise_attention", raise_attention::raise_attention),
    ("raise_norms", raise_norms::raise_norms),
];
