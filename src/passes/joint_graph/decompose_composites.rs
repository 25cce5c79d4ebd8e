//! Replaces composites by simpler ops.

use crate::ops::{Class, Op, OpDef};
use crate::rewrite::{Rewritten, Rule, Site};

/// Decomposes until no composite is left.
///
/// ```text
/// %1 = silu(%0)            ->     %1 = sigmoid(%0)
///                                 %2 = mul(%0, %1)
/// ```
///
/// What a decomposition builds carries the composite's region and provenance. Equal subexpressions, those of derivatives
/// included, are shared by hash-consing. Linear in the result.
pub(in crate::passes) const RULES: &[Rule] =
    &[Rule { name: "composite -> its decomposition", apply: |site| decompose(site, &|op| op.class() == Class::Composite) }];

/// The decomposition of an op that `which` names.
pub(super) fn decompose(site: &mut Site<'_>, which: &dyn Fn(&Op) -> bool) -> Rewritten {
    if !which(site.op()) {
        return Ok(None);
    }
    site.node.op.decompose(site.b, site.operands).transpose()
}
