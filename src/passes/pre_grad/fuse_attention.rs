//! Replaces attention by one kernel.

use crate::ops::{FusedAttention, Op};
use crate::rewrite::{Rewritten, Rule, Site};

/// Fuses attention whose kernel takes less time than products and a softmax; what it does not take is decomposed behind autograd.
///
/// ```text
/// %3 = scaled_dot_product_attention(%0, %1, %2)   ->   %3, %4 = fused_attention(%0, %1, %2)
/// ```
///
/// Before autograd, since the kernel's derivative reads the logarithms beside its result. Linear.
pub(in crate::passes) const RULES: &[Rule] = &[Rule { name: "attention -> fused attention", apply: fuse }];

fn fuse(site: &mut Site<'_>) -> Rewritten {
    let Op::ScaledDotProductAttention(op) = site.op() else { return Ok(None) };
    let types: Vec<_> = site.operands.iter().map(|&v| site.b.ty(v).clone()).collect();
    let Some(fused) = FusedAttention::of(op, &types) else { return Ok(None) };
    Ok(Some(vec![site.b.node(fused, site.operands)?[0]]))
}
