//! Nests with a sort: rows that a workgroup holds go to `network`, others are sorted by counting.
//!
//! Counting: the rank of an element is the number of elements of its row that go before it. One invocation for each element
//! computes its key, loops over the row to count, and then runs the rest of the body at the column that equals the rank. Every
//! column is the rank of one element, so every element is written once. Work is quadratic in the row; reads of a row are shared
//! by the cache. `schedule` splits long rows, so that only rows of unknown length come here.

use crate::codegen::text::emit::{Block, Emitter, Ex};
use crate::codegen::text::helpers;
use crate::codegen::text::module::{Geometry, Shader, assemble};
use crate::codegen::text::storage::Kind;
use crate::codegen::text::unit::Unit;
use crate::forms::{Lane, Sort, sorts};
use crate::loop_ir::{IndexExpr, Instr, unflatten};
use crate::types::Dim;

const THREADS: u32 = 64;
/// Kernel axes: row, this element's column, the loop's column, the rank.
const AXES: [u32; 4] = [0, 1, 2, 3];
/// Lanes: at this element's column, at the loop's column, at the rank.
const HERE: usize = 0;
const THERE: usize = 1;
const RANK: usize = 2;

/// The one sort of a nest without other work on columns.
pub fn the_sort(unit: &Unit) -> Result<Sort, String> {
    let nest = unit.nest;
    let sorts = sorts(nest);
    let [sort] = sorts[..] else { return Err(format!("{} sorts in one kernel; schedule them apart", sorts.len())) };
    if nest.body.iter().any(|s| matches!(s.instr, Instr::Reduce(..) | Instr::Scan(..))) {
        return Err("a sort is fused with a reduction or scan; schedule them apart".into());
    }
    if nest.writes.iter().any(|w| unit.buffers[w.buffer.0 as usize].format.per_word > 1) {
        return Err("a packed write of sorted values does not own whole words; word storage is needed".into());
    }
    Ok(sort)
}

/// The kernel of a nest with one sort and no reduction or scan.
pub fn spell(unit: &Unit) -> Result<Shader, String> {
    let sort = the_sort(unit)?;
    let nest = unit.nest;
    let Sort { key, descending, .. } = sort;
    let mut em = Emitter::new(unit);
    let (rows, cols) = (nest.row_count(), nest.col_count());
    for id in &AXES[1..] {
        let mut axes = unflatten(&IndexExpr::axis(AXES[0], &rows), &nest.rows);
        axes.extend(unflatten(&IndexExpr::axis(*id, &cols), &nest.cols));
        em.lanes.push(Lane::at(axes));
    }
    let (total, count) = (em.size(&(rows.clone() * &cols)), em.size(&cols));
    em.line(format!("let g = group * {THREADS}u + lid;"));
    em.leave_if(&format!("g >= {}", total.text));
    // Nothing runs over rows without columns, but the shader must be valid.
    em.line(format!("let row = g / max({}, 1u);", count.text));
    em.line(format!("let c = g - row * {};", count.text));
    em.axes.insert(AXES[0], Ex::global("row"));
    em.axes.insert(AXES[1], Ex::global("c"));
    let (sorted, checks) = sort.checks(nest);
    em.check(&checks, HERE..HERE + 1)?;
    let mine = em.value(key, HERE)?;
    em.line("var rank = 0u;");
    em.open(Block::Divergent);
    let depth = em.depth();
    em.axes.insert(AXES[2], Ex { text: "j".into(), depth });
    let other = em.value(key, THERE)?;
    let kind = unit.kind(nest.dtype(key))?;
    let (mine_text, other_text) = match kind {
        Kind::Bool => (format!("select(0u, 1u, {})", mine.text), format!("select(0u, 1u, {})", other.text)),
        _ => (mine.text.clone(), other.text),
    };
    let kind_suffix = if kind == Kind::Bool { "u" } else { kind.suffix() };
    let name = format!("{}{kind_suffix}", if descending { "sort_down_" } else { "sort_up_" });
    if !helpers::exists(&name) {
        return Err(format!("sort of {} is not available on GPUs", nest.dtype(key)));
    }
    let f = em.helper(&name);
    em.line(format!("if ({f}({other_text}, j, {mine_text}, c)) {{ rank += 1u; }}"));
    em.close(&format!("for (var j = 0u; j < {}; j++)", count.text));
    em.axes.insert(AXES[3], Ex::global("rank"));
    em.set_computed(sort.at.0, RANK, &mine);
    sort.columns(nest).into_iter().for_each(|v| em.set_computed(v.0, RANK, &Ex::global("i32(c)")));
    em.check(&sorted, RANK..RANK + 1)?;
    let mut stores = vec![];
    for w in &nest.writes {
        if !nest.is_element_write(w, &unit.level) {
            stores.extend(em.stores(w, &[RANK], &|_| Some("rank == 0u".into()))?);
        } else {
            let first = w.first.as_ref().map(|n| em.size(n).text);
            stores.extend(em.stores(w, &[RANK], &|_| first.as_ref().map(|n| format!("rank < {n}")))?);
        }
    }
    for s in stores {
        em.line(s);
    }
    let groups = (rows * cols).ceil_div(&Dim::int(THREADS as i64));
    assemble(em, Geometry { name: format!("sort-by-rank-{THREADS}"), threads: THREADS, groups, shared_bytes: 0 })
}
