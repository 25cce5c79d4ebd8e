//! Replaces attention by one kernel.

use crate::ops::{FusedAttention, Op};
use crate::rewrite::{Rewritten, Rule, Site};

/// Fuses attention whose kernel takes less time than products and a softmax; the rest is decomposed behind autograd.
///
/// ```text
/// %3 = scaled_dot_product_attention(%0, %1, %2)   ->   %3, %4 = fused_attention(%0, %1, %2)
/// ```
///
/// A gradient computes each score again twice, some eight operations for each feature, and saves ten passes over the scores and half of the
/// launches. That pays where arithmetic is cheap. Before autograd, since the kernel's derivative reads the logarithms beside its
/// result. Linear.
pub(in crate::passes) const RULES: &[Rule] = &[Rule { name: "attention -> fused attention", apply: |site| fuse(site, 0) }];

/// The same where arithmetic is dear: only scores that no memory should hold.
pub(in crate::passes) const LARGE: &[Rule] = &[Rule { name: "attention with many scores -> fused attention", apply: |site| fuse(site, MANY) }];

/// Scores of 64 MiB.
const MANY: i64 = 1 << 24;

fn fuse(site: &mut Site<'_>, fewest: i64) -> Rewritten {
    let Op::ScaledDotProductAttention(op) = site.op() else { return Ok(None) };
    let types: Vec<_> = site.operands.iter().map(|&v| site.b.ty(v).clone()).collect();
    let Some(fused) = FusedAttention::of(op, &types) else { return Ok(None) };
    let (q, k) = (&types[0].shape, &types[1].shape);
    let scores = q.0[..q.rank() - 1].iter().chain([&k[k.rank() - 2]]).fold(1i64, |n, d| n.saturating_mul(d.hint()));
    if scores < fewest {
        return Ok(None);
    }
    Ok(Some(vec![site.b.node(fused, site.operands)?[0]]))
}
