//! Nests without column work: one invocation for each element, or for each packed word or vector of elements.

use crate::codegen::text::emit::{Emitter, Ex};
use crate::codegen::text::module::{Geometry, Shader, assemble};
use crate::codegen::text::unit::Unit;
use crate::codegen::text::vector;
use crate::forms::{Map, flat_lanes};
use crate::loop_ir::{IndexExpr, Nest, flatten, unflatten};
use crate::types::Dim;

/// The kernel of a nest without reductions, scans and sorts.
pub fn spell(unit: &Unit, map: &Map) -> Result<Shader, String> {
    let nest = unit.nest;
    let mut em = Emitter::new(unit);
    em.lanes = flat_lanes(nest, map.lanes);
    let packed = nest.writes.iter().any(|w| unit.buffers[w.buffer.0 as usize].format.per_word > 1);
    if map.lanes > 1 && !packed {
        vector::mark(&mut em, &[(0..map.lanes as usize).collect()]);
    }
    let Map { lanes, threads } = *map;
    let numel = nest.row_count() * nest.col_count();
    let steps = numel.ceil_div(&Dim::int(lanes as i64));
    let has_tail = numel.try_div(&Dim::int(lanes as i64)).is_none();
    em.line(format!("let g = group * {threads}u + lid;"));
    let bound = em.size(&steps);
    em.leave_if(&format!("g >= {}", bound.text));
    em.axes.insert(0, Ex::global("g"));
    let mut active: Vec<Option<String>> = vec![None; lanes as usize];
    if has_tail && lanes > 1 {
        let partly = nest.writes.iter().map(|w| &em.unit.buffers[w.buffer.0 as usize]).find(|b| b.format.per_word > 1 && b.operand.numel != numel);
        if let Some(b) = partly {
            return Err(format!("{}: a packed write of a part of the buffer does not own whole words; word storage is needed", b.name));
        }
        let count = em.size(&numel);
        for (l, active) in active.iter_mut().enumerate() {
            let at = em.fresh("e");
            em.line(format!("let {at} = g * {lanes}u + {l}u;"));
            let clamped = em.fresh("e");
            em.line(format!("let {clamped} = min({at}, {} - 1u);", count.text));
            let id = 1 + l as u32;
            em.axes.insert(id, Ex::global(clamped));
            let flat = IndexExpr::axis(id, &numel);
            em.lanes[l].write_axes = Some(std::mem::replace(&mut em.lanes[l].axes, coordinates(nest, &flat)));
            *active = Some(format!("({at} < {})", count.text));
        }
    }
    em.check(&nest.checks().collect::<Vec<_>>(), 0..lanes as usize)?;
    emit_writes(&mut em, nest, lanes as usize, &active)?;
    let groups = steps.ceil_div(&Dim::int(threads as i64));
    let name = if lanes > 1 { format!("flat-{threads}x{lanes}") } else { format!("flat-{threads}") };
    assemble(em, Geometry { name, threads, groups, shared_bytes: 0 })
}

/// Emits all writes: element-level ones by every lane, row-level ones by the lane of the first column.
fn emit_writes(em: &mut Emitter, nest: &Nest, lanes: usize, active: &[Option<String>]) -> Result<(), String> {
    let all: Vec<usize> = (0..lanes).collect();
    let columns = flatten(&nest.col_axes(), &nest.cols);
    let mut stores = vec![];
    for w in &nest.writes {
        let is_row = !nest.is_element_write(w, &em.unit.level) && !nest.col_count().is(1);
        if !is_row {
            stores.extend(em.stores(w, &all, &|l| active[l].clone())?);
            continue;
        }
        for (l, active) in active.iter().enumerate().take(lanes) {
            let column = em.in_lane(&columns, l);
            let column = em.index(&column, l)?;
            let first = format!("{} == 0u", column.text);
            let test = match active {
                Some(a) => format!("{a} && {first}"),
                None => first,
            };
            stores.extend(em.stores(w, &[l], &|_| Some(test.clone()))?);
        }
    }
    for s in stores {
        em.line(s);
    }
    Ok(())
}

/// Coordinates of all axes of a nest from the flat position in its domain.
fn coordinates(nest: &Nest, flat: &IndexExpr) -> Vec<IndexExpr> {
    let sizes: Vec<Dim> = nest.rows.iter().chain(&nest.cols).cloned().collect();
    unflatten(flat, &sizes)
}
