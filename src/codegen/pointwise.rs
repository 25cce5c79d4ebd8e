//! Nests without column work: one invocation for each element, or for each packed word or vector of elements.

use super::emit::{Emitter, Ex, Lane};
use super::module::{Geometry, Shader, assemble};
use super::unit::Unit;
use crate::loop_ir::{IndexExpr, Nest, flatten, unflatten};
use crate::types::Dim;

const THREADS: u32 = 256;

/// The kernel of a nest without reductions, scans and sorts.
pub fn generate(unit: &Unit) -> Result<Shader, String> {
    let nest = unit.nest;
    let width = packed_width(unit);
    let numel = nest.row_count() * nest.col_count();
    let lanes = if width > 1 { width } else { vector_width(unit, &numel) };
    let mut em = Emitter::new(unit);
    em.lanes = flat_lanes(nest, lanes);
    let steps = numel.ceil_div(&Dim::int(lanes as i64));
    let has_tail = numel.try_div(&Dim::int(lanes as i64)).is_none();
    if width == 1 && lanes > 1 {
        super::vector::choose(&mut em, &[(0..lanes as usize).collect()]);
        if !em.vector.iter().any(|&v| v) {
            em.lanes = flat_lanes(nest, 1);
            return finish(em, nest, numel.clone(), numel, 1, false);
        }
    }
    finish(em, nest, numel, steps, lanes, has_tail)
}

fn finish(mut em: Emitter, nest: &Nest, numel: Dim, steps: Dim, lanes: u32, has_tail: bool) -> Result<Shader, String> {
    let threads = THREADS.min(em.unit.target.caps.max_invocations);
    em.line(format!("let g = group * {threads}u + lid;"));
    let bound = em.size(&steps);
    em.line(format!("if (g >= {}) {{ return; }}", bound.text));
    em.axes.insert(0, Ex::global("g"));
    let mut active: Vec<Option<String>> = vec![None; lanes as usize];
    if has_tail && lanes > 1 {
        let partly = nest.writes.iter().map(|w| &em.unit.buffers[w.buffer.0 as usize]).find(|b| b.format.per_word > 1 && b.numel != numel);
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
            em.lanes[l].write_axes = Some(std::mem::replace(&mut em.lanes[l].axes, split(nest, &flat)));
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
fn split(nest: &Nest, flat: &IndexExpr) -> Vec<IndexExpr> {
    let sizes: Vec<Dim> = nest.rows.iter().chain(&nest.cols).cloned().collect();
    unflatten(flat, &sizes)
}

/// Lanes of an invocation that owns `width` consecutive elements of the domain; kernel axis 0 counts invocations.
fn flat_lanes(nest: &Nest, width: u32) -> Vec<Lane> {
    let numel = nest.row_count() * nest.col_count();
    let n = Dim::int(width as i64);
    let step = IndexExpr::axis(0, &numel.ceil_div(&n));
    let whole = flatten(&[nest.row_axes(), nest.col_axes()].concat(), &[nest.rows.clone(), nest.cols.clone()].concat());
    let lane = |l: u32| {
        let flat = step.times(&n).plus(&Dim::int(l as i64));
        Lane { axes: split(nest, &flat), write_axes: None, whole: Some((whole.clone(), flat)) }
    };
    (0..width).map(lane).collect()
}

/// Elements of the widest packed word among the written buffers; 1 when none is packed.
fn packed_width(unit: &Unit) -> u32 {
    unit.nest.writes.iter().map(|w| unit.buffers[w.buffer.0 as usize].format.per_word).max().unwrap_or(1)
}

/// Four where the domain divides by four and nothing is masked or irregular, else one.
fn vector_width(unit: &Unit, numel: &Dim) -> u32 {
    let four = Dim::int(4);
    let divides = numel.as_int().is_some_and(|n| n > 0) && numel.try_div(&four).is_some();
    let long = unit.nest.body.len() > 100;
    if divides && !long { 4 } else { 1 }
}
