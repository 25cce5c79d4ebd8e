//! Which elements of a nest one invocation computes, as coordinates over the kernel's own axes, and which words of memory it so
//! owns.

use super::Operand;
use crate::loop_ir::{BufferId, IndexExpr, Instr, Nest, Val, Write, flatten, unflatten};
use crate::types::Dim;

/// One element of the several that an invocation computes: where each axis of the nest stands.
#[derive(Clone, Debug)]
pub struct Lane {
    /// For each axis of the nest, its coordinate over the kernel's own axes.
    pub axes: Vec<IndexExpr>,
    /// The same without clamping, for the places of writes: a lane behind the end stays in the last word of its invocation.
    pub write_axes: Option<Vec<IndexExpr>>,
    /// The row-major position in the whole domain over the nest's axes, and the same over the kernel's: known also where
    /// axes of size one hide the lane.
    pub whole: Option<(IndexExpr, IndexExpr)>,
}

impl Lane {
    /// A lane at these coordinates.
    pub fn at(axes: Vec<IndexExpr>) -> Lane {
        Lane { axes, write_axes: None, whole: None }
    }

    /// An index over the kernel's axes.
    pub fn index(&self, e: &IndexExpr) -> IndexExpr {
        e.moved(&self.axes)
    }

    /// A place written, over the kernel's axes.
    pub fn write_index(&self, e: &IndexExpr) -> IndexExpr {
        if let Some((whole, flat)) = &self.whole
            && whole == e
        {
            return flat.clone();
        }
        e.moved(self.write_axes.as_ref().unwrap_or(&self.axes))
    }
}

/// Lanes of an invocation that owns `width` consecutive elements of the domain; kernel axis 0 counts invocations.
pub fn flat_lanes(nest: &Nest, width: u32) -> Vec<Lane> {
    let numel = nest.row_count() * nest.col_count();
    let n = Dim::int(width as i64);
    let step = IndexExpr::axis(0, &numel.ceil_div(&n));
    let sizes = nest.sizes();
    let whole = flatten(&[nest.row_axes(), nest.col_axes()].concat(), &sizes);
    let lane = |l: u32| {
        let flat = step.times(&n).plus(&Dim::int(l as i64));
        Lane { whole: Some((whole.clone(), flat.clone())), ..Lane::at(unflatten(&flat, &sizes)) }
    };
    (0..width).map(lane).collect()
}

/// Whether the elements at `index` in these lanes, which belong to `across` rows, are exactly one aligned word of `width` elements.
pub fn owns_words(nest: &Nest, lanes: &[&Lane], across: u32, index: &IndexExpr, width: u32) -> bool {
    if lanes.len() != width as usize {
        return false;
    }
    let base = lanes[0].write_index(index);
    base.modulo(&Dim::int(width as i64)) == IndexExpr::zero()
        && lanes.iter().enumerate().all(|(k, lane)| lane.write_index(index) == base.plus(&Dim::int(k as i64)))
        && index.values().into_iter().all(|v| is_uniform(nest, lanes, across, Val(v)))
}

/// Whether a value is the same in all of these lanes, by its index expressions.
fn is_uniform(nest: &Nest, lanes: &[&Lane], across: u32, v: Val) -> bool {
    let same = |e: &IndexExpr| lanes.iter().all(|l| l.index(e) == lanes[0].index(e));
    match &nest.stmt(v).instr {
        Instr::Reduce(..) => across == 1,
        Instr::Scan(..) | Instr::Sort { .. } => false,
        Instr::Proj(of, _) => is_uniform(nest, lanes, across, *of),
        instr => {
            let indices = match instr {
                Instr::Index(e) | Instr::Load { index: e, .. } => same(e),
                _ => true,
            };
            indices && instr.operands().into_iter().all(|o| is_uniform(nest, lanes, across, o))
        }
    }
}

/// Whether a buffer may be declared as an array of vectors of four: plain elements of 32 bits or f16, in numbers that divide by four.
pub fn fits_vectors(operand: &Operand) -> bool {
    operand.has_vectors() && operand.numel.range().0 >= 4 && operand.numel.try_div(&Dim::int(4)).is_some()
}

/// Clears buffers that these statements and writes access otherwise than by aligned vectors of four, in the given groups of lanes.
pub fn restrict_to_vectors<'i>(
    nest: &Nest,
    groups: &[Vec<&Lane>],
    across: u32,
    instrs: impl Iterator<Item = &'i Instr>,
    writes: &[Write],
    fits: &mut [bool],
) {
    let mut check = |buffer: BufferId, index: &IndexExpr, masked: bool| {
        let fits = &mut fits[buffer.0 as usize];
        *fits = *fits && !masked && groups.iter().all(|g| owns_words(nest, g, across, index, 4));
    };
    for instr in instrs {
        if let Instr::Load { buffer, index, mask } = instr {
            check(*buffer, index, mask.is_some());
        }
    }
    for w in writes {
        check(w.buffer, &w.index, false);
    }
}

/// Whether any buffer is accessed by aligned vectors only, when these four lanes belong to one invocation.
pub fn has_vectors(nest: &Nest, operands: &[Operand], lanes: &[Lane], across: u32) -> bool {
    let mut fits: Vec<bool> = operands.iter().map(fits_vectors).collect();
    restrict_to_vectors(nest, &[lanes.iter().collect()], across, nest.body.iter().map(|s| &s.instr), &nest.writes, &mut fits);
    fits.contains(&true)
}
