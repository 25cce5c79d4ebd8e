//! Stage.

use super::Pass;

/// In order.
pub(super) const PASSES: &[Pass] = &[];
