//! Replaces attention by products and a softmax.

use super::decompose_composites::decompose;
use crate::ops::Op;
use crate::rewrite::Rule;

/// Decomposes attention that no kernel takes whole; its derivative is written in products already.
///
/// ```text
/// %3 = scaled_dot_product_attention(%0, %1, %2)   ->   matmul, mul, amax, sub, exp, sum, div, matmul
/// ```
///
/// Region and provenance stay. Linear.
pub(in crate::passes) const RULES: &[Rule] =
    &[Rule { name: "attention -> products", apply: |site| decompose(site, &|op| matches!(op, Op::ScaledDotProductAttention(_))) }];
