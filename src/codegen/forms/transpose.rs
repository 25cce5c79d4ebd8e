//! Pointwise nests that read along one axis and write along another: square tiles pass through workgroup memory.
//!
//! Memory traffic: each tile is read in lines of 32 elements along the axis that is contiguous in the operand, and written in
//! lines of 32 along the last axis. Rows of the staged tile are padded by one element, against bank conflicts. 256
//! invocations, four elements each.

use crate::codegen::text::emit::{Emitter, Ex};
use crate::codegen::text::module::{Geometry, Shader, assemble};
use crate::codegen::text::storage::Kind;
use crate::codegen::text::unit::Unit;
use crate::forms::{Lane, Transpose};
use crate::loop_ir::{IndexExpr, Val, unflatten};
use crate::types::Dim;

const SIDE: u32 = Transpose::SIDE;
const THREADS: u32 = Transpose::THREADS;
const LINES: u32 = THREADS / SIDE;
/// Elements of an invocation.
const EACH: u32 = SIDE / LINES;

/// Kernel axes: batch, the operand's contiguous axis and the last one while staging, then the same while computing.
const BATCH: u32 = 0;
const ACROSS_IN: u32 = 1;
const ALONG_IN: u32 = 2;
const ALONG_OUT: u32 = 10;
const ACROSS_OUT: u32 = 11;

/// Spells the kernel.
pub fn spell(unit: &Unit, form: &Transpose) -> Result<Shader, String> {
    let (across_axis, along_axis) = (form.across as usize, form.along as usize);
    let nest = unit.nest;
    let sizes = nest.sizes();
    let batch: Vec<Dim> = sizes.iter().enumerate().map(|(a, s)| if a == across_axis || a == along_axis { Dim::int(1) } else { s.clone() }).collect();
    let batches = Dim::product(&batch);
    let side = Dim::int(SIDE as i64);
    let (tiles_across, tiles_along) = (sizes[across_axis].ceil_div(&side), sizes[along_axis].ceil_div(&side));
    let groups = batches.clone() * &tiles_across * &tiles_along;
    let mut em = Emitter::new(unit);
    let (across_count, along_count) = (em.size(&tiles_across).text, em.size(&tiles_along).text);
    em.line(format!("let x = lid % {SIDE}u;"));
    em.line(format!("let y = lid / {SIDE}u;"));
    em.line(format!("let first_along = (group % {along_count}) * {SIDE}u;"));
    em.line(format!("let first_across = (group / {along_count}) % {across_count} * {SIDE}u;"));
    em.line(format!("let batch = group / ({along_count} * {across_count});"));
    em.axes.insert(BATCH, Ex::global("batch"));
    let place = |across: u32, along: u32| {
        let mut axes = unflatten(&IndexExpr::axis(BATCH, &batches), &batch);
        axes[across_axis] = IndexExpr::axis(across, &sizes[across_axis]);
        axes[along_axis] = IndexExpr::axis(along, &sizes[along_axis]);
        Lane::at(axes)
    };
    let clamped = |em: &mut Emitter, name: &str, text: String, a: usize| {
        em.line(format!("let {name} = {text};"));
        if sizes[a].try_div(&side).is_some() {
            return (name.to_string(), None);
        }
        let size = em.size(&sizes[a]).text;
        em.line(format!("let {name}_in = min({name}, {size} - 1u);"));
        (format!("{name}_in"), Some(format!("{name} < {size}")))
    };
    // Staging: neighbors along the operand's contiguous axis.
    let (name, _) = clamped(&mut em, "r", "first_across + x".into(), across_axis);
    em.axes.insert(ACROSS_IN, Ex::global(name));
    for e in 0..EACH {
        let (name, _) = clamped(&mut em, &format!("c{e}"), format!("first_along + y + {}u", e * LINES), along_axis);
        em.axes.insert(ALONG_IN + e, Ex::global(name));
        em.lanes.push(place(ACROSS_IN, ALONG_IN + e));
    }
    // Computing: neighbors along the last axis.
    let (name, along_test) = clamped(&mut em, "column", "first_along + x".into(), along_axis);
    em.axes.insert(ALONG_OUT, Ex::global(name));
    let mut active = vec![None; EACH as usize];
    for e in 0..EACH {
        let (name, test) = clamped(&mut em, &format!("row{e}"), format!("first_across + y + {}u", e * LINES), across_axis);
        em.axes.insert(ACROSS_OUT + e, Ex::global(name));
        em.lanes.push(place(ACROSS_OUT + e, ALONG_OUT));
        let tests: Vec<String> = along_test.iter().cloned().chain(test).collect();
        active.push((!tests.is_empty()).then(|| tests.join(" && ")));
    }
    let shared_bytes = stage(&mut em, &form.staged)?;
    let mut stores = vec![];
    for w in &nest.writes {
        for lane in EACH as usize..2 * EACH as usize {
            stores.extend(em.stores(w, &[lane], &|l| active[l].clone())?);
        }
    }
    stores.into_iter().for_each(|s| em.line(s));
    assemble(em, Geometry { name: format!("tile-{SIDE}x{SIDE}-transposed"), threads: THREADS, groups, shared_bytes })
}

/// Loads the tiles, and makes their elements known to the computing lanes. Gives the bytes of workgroup memory.
fn stage(em: &mut Emitter, staged: &[u32]) -> Result<u32, String> {
    let pitch = SIDE + 1;
    let mut bytes = 0;
    let mut kinds = vec![];
    for (k, &v) in staged.iter().enumerate() {
        let kind = em.unit.kind(em.unit.nest.body[v as usize].dtype)?;
        em.globals.push(format!("var<workgroup> tile{k}: array<{}, {}>;", kind.shared(), SIDE * pitch));
        bytes += kind.bytes() * SIDE * pitch;
        kinds.push(kind);
        for e in 0..EACH {
            let x = em.value(Val(v), e as usize)?;
            let x = if kind == Kind::Bool { format!("select(0u, 1u, {})", x.text) } else { x.text };
            em.line(format!("tile{k}[(y + {}u) * {pitch}u + x] = {x};", e * LINES));
        }
    }
    em.barrier();
    for (k, (&v, kind)) in staged.iter().zip(&kinds).enumerate() {
        for e in 0..EACH {
            let text = format!("tile{k}[x * {pitch}u + y + {}u]", e * LINES);
            let name = em.fresh("t");
            em.line(format!("let {name} = {};", if *kind == Kind::Bool { format!("({text} != 0u)") } else { text }));
            em.set_computed(v, (EACH + e) as usize, &Ex::global(name));
        }
    }
    Ok(bytes)
}
