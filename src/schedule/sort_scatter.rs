//! Large sums at computed indices become sums of segments of sorted positions, so that no invocation looks at every index.
//!
//! Before: `out[r, w] = sum over j of where(index[j] == r, source[j, w], 0)`, work in rows x columns. After, three nests:
//!
//! * `order`: positions in the order of their indices, by a stable sort, so that sums keep the order of positions;
//! * `starts[r]`: the number of indices below `r`, for `r` up to the number of rows, by a binary search among the sorted;
//! * the sum over `start[r]..start[r + 1]` of `source[order[k], w]`, tagged [`Tag::Segments`].
//!
//! Deterministic, without atomics. Sorting costs a few launches, and one invocation sums the whole of a segment: it pays where many
//! pairs are compared and segments are short, or the rows beside them many.

use super::search::count_before;
use crate::forms::parts::is_worth_sorting;
use crate::loop_ir::facts::{cone, needed};
use crate::loop_ir::{BodyBuilder, Buffer, BufferId, Combiner, Element, IndexExpr, Instr, Nest, Number, Rebase, Tag, Val};
use crate::scalar::ScalarFn;
use crate::types::{DType, DeviceModel, Dim, Shape, TensorType};

/// The nests that replace a sum at computed indices, where that is worth it.
pub fn sort_scatter(nest: &Nest, buffers: &mut Vec<Buffer>, model: &DeviceModel) -> Option<Vec<Nest>> {
    let Tag::ScatterSum { axis, .. } = nest.tag else { return None };
    let (rows, classes, count) = (nest.row_count().as_int()?, nest.rows[axis as usize].as_int()?, nest.col_count().as_int()?);
    if is_worth_sorting(rows, classes, count, model) { replace(nest, buffers) } else { None }
}

fn replace(nest: &Nest, buffers: &mut Vec<Buffer>) -> Option<Vec<Nest>> {
    let Tag::ScatterSum { index, axis, source, sum } = nest.tag else { return None };
    // Segments hold no position whose index is outside, which a check would have to see.
    if nest.cols.len() != 1 || !index_of_column(nest, index) || nest.checks().next().is_some() {
        return None;
    }
    let (classes, count) = (nest.rows[axis as usize].as_int()?, nest.cols[0].as_int()?);
    let fresh = |name: &str, n: i64, buffers: &mut Vec<Buffer>| {
        buffers.push(Buffer { name: format!("{}.{name}", nest.label), ty: TensorType { dtype: DType::I32, shape: Shape::new(vec![Dim::int(n)]) } });
        BufferId(buffers.len() as u32 - 1)
    };
    let (order, in_order, starts) = (fresh("order", count, buffers), fresh("sorted", count, buffers), fresh("starts", classes + 1, buffers));
    let sorted = Sorted { order, starts, axis, source, sum };
    let segments = segments_nest(nest, &sorted)?;
    Some(vec![order_nest(nest, index, order, in_order), starts_nest(nest, in_order, starts, classes + 1), segments])
}

struct Sorted {
    order: BufferId,
    starts: BufferId,
    axis: u32,
    source: Val,
    sum: Val,
}

/// Whether the index is a function of the column alone.
fn index_of_column(nest: &Nest, index: Val) -> bool {
    let column = nest.rows.len() as u32;
    cone(nest, index).into_iter().all(|v| match &nest.stmt(v).instr {
        Instr::Const(_) | Instr::Call(..) | Instr::Cast(_) | Instr::Bitcast(_) => true,
        Instr::Index(e) | Instr::Load { index: e, mask: None, .. } => !e.uses_axis(|a| a != column),
        _ => false,
    })
}

fn helper(nest: &Nest, name: &str, rows: Vec<Dim>, cols: Vec<Dim>, body: BodyBuilder) -> Nest {
    body.nest(format!("{}.{name}", nest.label), rows, cols, nest.provenance.clone())
}

fn order_nest(nest: &Nest, index: Val, order: BufferId, sorted: BufferId) -> Nest {
    let n = &nest.cols[0];
    let column = IndexExpr::axis(0, n);
    let mut b = BodyBuilder::default();
    // The index depends on the column alone.
    let mut to = Rebase::new([vec![IndexExpr::zero(); nest.rows.len()], vec![column.clone()]].concat());
    to.copy_all(&mut b, nest, cone(nest, index));
    let key = b.push(Instr::Cast(to.value(index)), DType::I32);
    let in_order = b.sort(key, false);
    let position = b.proj(in_order, 1);
    b.write(order, column.clone(), position);
    b.write(sorted, column, in_order);
    helper(nest, "order", vec![], vec![n.clone()], b)
}

fn starts_nest(nest: &Nest, sorted: BufferId, starts: BufferId, rows: i64) -> Nest {
    let (rows, n) = (Dim::int(rows), &nest.cols[0]);
    let r = IndexExpr::axis(0, &rows);
    let mut b = BodyBuilder::default();
    let own = b.index(&r, DType::I32);
    let start = count_before(&mut b, n.as_int().expect("only sums of a known length are sorted"), &mut |b, at| {
        let index = b.load(Element { buffer: sorted, index: at, dtype: DType::I32 });
        b.call(ScalarFn::Lt, &[index, own])
    });
    b.write(starts, r, start);
    helper(nest, "starts", vec![rows], vec![], b)
}

/// The original body, with sorted positions for columns.
fn segments_nest(nest: &Nest, sorted: &Sorted) -> Option<Nest> {
    let (column, n) = (IndexExpr::axis(nest.rows.len() as u32, &nest.cols[0]), &nest.cols[0]);
    let row = IndexExpr::axis(sorted.axis, &nest.rows[sorted.axis as usize]);
    let mut b = BodyBuilder::default();
    let of = |buffer: BufferId, index: IndexExpr| Element { buffer, index, dtype: DType::I32 };
    let start = b.load(of(sorted.starts, row.clone()));
    let end = b.load(of(sorted.starts, row.plus(&Dim::int(1))));
    let k = b.index(&column, DType::I32);
    let from = b.call(ScalarFn::Ge, &[k, start]);
    let until = b.call(ScalarFn::Lt, &[k, end]);
    let inside = b.call(ScalarFn::LogicalAnd, &[from, until]);
    let position = b.load(of(sorted.order, column));
    let mut to = Rebase::new([nest.row_axes(), vec![IndexExpr::value(position.0, n)]].concat());
    let (wanted, level) = (needed(nest, [sorted.source]), nest.element_level());
    to.copy_all(&mut b, nest, nest.values().take(sorted.sum.0 as usize).filter(|v| wanted[v.0 as usize] || !level[v.0 as usize]));
    let term = b.value_or(Some(inside), to.value(sorted.source), Number::new(nest.dtype(sorted.sum), 0.0));
    to.set(sorted.sum, b.reduce(Combiner::Sum, term));
    to.copy_all(&mut b, nest, follows(nest, sorted.sum)?);
    let out = to.finish(b, &Nest { tag: Tag::Loop, ..nest.clone() });
    Some(Nest { tag: Tag::Segments { start, end }, ..out })
}

/// What stands after the sum, when none of it works on columns again.
fn follows(nest: &Nest, sum: Val) -> Option<Vec<Val>> {
    let level = nest.element_level();
    let after: Vec<Val> = (sum.0 + 1..nest.body.len() as u32).map(Val).collect();
    let plain = |v: &Val| !level[v.0 as usize] && !matches!(nest.stmt(*v).instr, Instr::Reduce(..) | Instr::Scan(..) | Instr::Sort { .. });
    after.iter().all(plain).then_some(after)
}

#[cfg(test)]
mod tests {
    use super::super::sort_rows::sort_rows;
    use super::*;
    use crate::config::{Config, Target};
    use crate::graph::{Builder, InputRole, OutputRole};
    use crate::loop_ir::Phase;
    use crate::loop_ir::naive::Memory;
    use crate::lower::lower;
    use crate::ops::IndexAdd;
    use crate::schedule::fixtures::run;

    /// Rows by index sorted, against the sum as it was: repeated indices, one outside, rows nobody writes.
    #[test]
    fn segments_sum_what_scattering_sums() {
        let mut b = Builder::new("scatter");
        let (classes, width, indices) = (5, 3, [4i64, 0, 4, 7, 2, 0, 4]);
        let base = b.input("base", InputRole::Input, TensorType::new(DType::F32, (classes, width))).unwrap();
        let index = b.input("index", InputRole::Input, TensorType::new(DType::I32, indices.len() as i64)).unwrap();
        let src = b.input("src", InputRole::Input, TensorType::new(DType::F32, (indices.len() as i64, width))).unwrap();
        let y = b.op(IndexAdd { dim: 0, checked: false }, &[base, index, src]).unwrap();
        b.output("y", OutputRole::User, y);
        let mut lowered = lower(&[(Phase::Forward, &b.finish())], &Config::default()).unwrap();
        let nests = std::mem::take(&mut lowered.nests);
        let scatter = nests.iter().find(|n| matches!(n.tag, Tag::ScatterSum { .. })).unwrap();
        let whole = replace(scatter, &mut lowered.buffers).unwrap();
        // The same with indices that no workgroup holds.
        let mut target = Target::webgpu_default();
        target.caps.max_workgroup_bytes = 32;
        let parts: Vec<Nest> = whole.iter().flat_map(|n| sort_rows(n, &mut lowered.buffers, &target).unwrap_or_else(|| vec![n.clone()])).collect();
        assert!(parts.len() > whole.len());
        let start: Vec<Memory> = lowered
            .buffers
            .iter()
            .map(|buffer| {
                let n = buffer.ty.numel().as_int().unwrap() as usize;
                match buffer.ty.dtype {
                    DType::I32 if n == indices.len() => Memory::from_i64(DType::I32, &indices),
                    dtype => Memory::from_f64(dtype, &(0..n).map(|k| k as f64 * 0.5 + 1.0).collect::<Vec<_>>()),
                }
            })
            .collect();
        let after = |nests: &[Nest]| {
            let mut memory = start.clone();
            run(nests, &mut memory);
            memory[scatter.writes[0].buffer.0 as usize].clone()
        };
        assert_ne!(after(&[]), after(std::slice::from_ref(scatter)));
        assert_eq!(after(&whole), after(std::slice::from_ref(scatter)));
        assert_eq!(after(&parts), after(std::slice::from_ref(scatter)));
    }
}
