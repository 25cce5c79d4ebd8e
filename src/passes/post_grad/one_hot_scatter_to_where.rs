//! Scatters of one element a row.

use crate::ops::{Op, OpDef};
use crate::rewrite::{Rewritten, Rule, Site, has_no_negative_zero, uniform};
use crate::scalar::ScalarFn;
use crate::types::DType;

/// Turns a scatter that adds one element to each row of zeros into a comparison with the position.
///
/// ```text
/// %3 = scatter_add(zeros, %1, %2) {dim=1, checked=false}     // index and source are [n, 1]
///   ->
/// %3 = iota() {dim=1}
/// %4 = eq(%3, expand(%1))
/// %5 = where(%4, expand(%2 + 0), zeros)
/// ```
///
/// That is pointwise: it fuses, and the zeros and the one-hot rows are never stored (the backward of cross entropy).
/// Requires a base of zeros, one index a row, and an index that is not checked: one outside adds nothing, before and after.
/// Minus zero in the source becomes zero in both. PyTorch: `scatter_upon_const_tensor`. Linear.
pub(in crate::passes) const RULES: &[Rule] = &[Rule { name: "scatter_add(0, one index a row) -> where(position == index)", apply: to_where }];

fn to_where(site: &mut Site<'_>) -> Rewritten {
    let Op::ScatterAdd(op) = site.op() else { return Ok(None) };
    let (dim, checked) = (op.dim as usize, op.checked);
    let [base, index, src] = site.operands[..] else { return Ok(None) };
    let shape = site.ty().shape.clone();
    let index_shape = site.b.shape(index);
    let one_a_row = index_shape[dim].is(1) && (0..shape.rank()).all(|d| d == dim || index_shape[d] == shape[d]);
    if checked || !one_a_row || uniform(site.b.graph(), base) != Some(0.0) || site.node.op.class() != crate::ops::Class::Scatter {
        return Ok(None);
    }
    let dtype = site.b.dtype(index);
    let position = site.b.iota(if dtype == DType::Bool { DType::I32 } else { dtype }, shape, dim)?;
    let hit = site.b.scalar(ScalarFn::Eq, &[position, index])?;
    let zero = site.b.constant(site.ty().dtype, 0.0)?;
    let added = if has_no_negative_zero(site.b.graph(), src) { src } else { site.b.add(src, zero)? };
    Ok(Some(vec![site.b.where_(hit, added, zero)?]))
}
