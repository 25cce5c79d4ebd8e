//! Pointwise nests that read along one axis and write along another: square tiles pass through workgroup memory.

use super::cost::count;
use super::{Cost, Form, Operand, Work, is_in_place};
use crate::config::Target;
use crate::loop_ir::{IndexExpr, Instr, Nest};
use crate::types::Dim;
use serde::{Deserialize, Serialize};

/// Which axes are exchanged, and what is staged.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Transpose {
    /// The axis that is contiguous in the staged operands.
    pub across: u32,
    /// The axis that is contiguous in what is written.
    pub along: u32,
    /// Loads that are staged.
    pub staged: Vec<u32>,
}

impl Transpose {
    /// Elements of a tile along each of its two axes: a line of memory.
    pub const SIDE: u32 = 32;
    /// Invocations of a workgroup.
    pub const THREADS: u32 = 256;
    /// More operands than this stay untiled: their tiles would leave no room for a second workgroup.
    const MOST: usize = 4;
}

/// The tiling of a nest; `None` where neighbors in the domain are neighbors in memory already.
pub fn candidate(nest: &Nest, operands: &[Operand], target: &Target) -> Option<(Form, Cost)> {
    let sizes: Vec<i64> = nest.rows.iter().chain(&nest.cols).map(Dim::as_int).collect::<Option<_>>()?;
    // Half a tile is filled at least.
    let long = |&a: &usize| sizes[a] >= Transpose::SIDE as i64 / 2;
    let along = (0..sizes.len()).rev().find(|&a| sizes[a] > 1).filter(long)?;
    let steps = |index: &IndexExpr, a: usize| index.linear_coefficient(a as u32).and_then(|k| k.as_int());
    let plain = operands.iter().all(|b| b.per_word() == 1);
    let in_order = nest.writes.iter().all(|w| steps(&w.index, along) == Some(1) && w.index.values().is_empty());
    let checked = nest.checks().next().is_some();
    if !plain || !in_order || checked || is_in_place(nest) || Transpose::THREADS > target.caps.max_invocations {
        return None;
    }
    let tiled = |index: &IndexExpr| {
        let far = steps(index, along).is_some_and(|k| k.abs() > 1);
        (0..along).find(|&a| far && sizes[a] > 1 && steps(index, a) == Some(1)).filter(long)
    };
    let (mut across, mut staged) = (None, vec![]);
    for (i, stmt) in nest.body.iter().enumerate() {
        let Instr::Load { index, mask: None, .. } = &stmt.instr else { continue };
        let Some(a) = tiled(index).filter(|a| index.values().is_empty() && across.is_none_or(|b| b == *a)) else { continue };
        across = Some(a);
        staged.push(i as u32);
    }
    let across = across.filter(|_| staged.len() <= Transpose::MOST)?;
    let form = Transpose { across: across as u32, along: along as u32, staged };
    let cost = price(nest, operands, &form, target);
    Some((Form::Transpose(form), cost))
}

/// Staged loads run along the axis that is contiguous in them.
fn price(nest: &Nest, operands: &[Operand], form: &Transpose, target: &Target) -> Cost {
    let staged: Vec<_> = form.staged.iter().map(|&s| nest.body[s as usize].clone()).collect();
    let mut rest = nest.clone();
    form.staged.iter().for_each(|&s| rest.body[s as usize].instr = Instr::Const(crate::loop_ir::Number::Int(0)));
    let points = count(&(nest.row_count() * nest.col_count()));
    let along = Work::of(&rest, operands, Some(form.along), 1, points);
    let tiles = Nest { body: staged, writes: vec![], ..nest.clone() };
    let across = Work::of(&tiles, operands, Some(form.across), 1, points);
    Work { bytes: along.bytes + across.bytes, ..along }.on(&target.model)
}
