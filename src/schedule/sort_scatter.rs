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

use super::statements::{Statements, needed};
use crate::forms::parts::is_worth_sorting;
use crate::loop_ir::{Buffer, BufferId, Combiner, IndexExpr, Instr, Nest, Number, Tag, Val, Write, axes};
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
        buffers.push(Buffer { name: format!("{}.{name}", nest.label), ty: TensorType { dtype: DType::I32, shape: Shape(vec![Dim::int(n)]) } });
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
    needed(nest, index).into_iter().all(|v| match &nest.stmt(v).instr {
        Instr::Const(_) | Instr::Call(..) | Instr::Cast(_) => true,
        Instr::Index(e) | Instr::Load { index: e, mask: None, .. } => !e.uses_axis(|a| a != column),
        _ => false,
    })
}

impl Statements {
    /// The statements that `v` needs, with the column at `at`, as i32.
    fn index_at(&mut self, nest: &Nest, v: Val, at: &IndexExpr) -> Val {
        let mut map = vec![Val(u32::MAX); v.0 as usize + 1];
        for n in needed(nest, v) {
            let instr = nest
                .stmt(n)
                .instr
                .map(&|v| map[v.0 as usize], &|e| e.substitute(&|_| at.clone(), &|v, size| IndexExpr::value(map[v as usize].0, size)));
            map[n.0 as usize] = self.push(instr, nest.stmt(n).dtype);
        }
        self.push(Instr::Cast(map[v.0 as usize]), DType::I32)
    }
}

fn helper(nest: &Nest, name: &str, rows: Vec<Dim>, cols: Vec<Dim>, body: Statements, writes: Vec<Write>) -> Nest {
    let label = format!("{}.{name}", nest.label);
    Nest { label, rows, cols, body: body.0, writes, tag: Tag::Loop, provenance: nest.provenance.clone() }
}

fn order_nest(nest: &Nest, index: Val, order: BufferId, sorted: BufferId) -> Nest {
    let n = &nest.cols[0];
    let column = IndexExpr::axis(0, n);
    let mut b = Statements::default();
    let key = b.index_at(nest, index, &column);
    let in_order = b.push(Instr::Sort { key, descending: false }, DType::I32);
    let position = b.push(Instr::Proj(in_order, 1), DType::I32);
    let writes = vec![Write::new(order, column.clone(), position), Write::new(sorted, column, in_order)];
    helper(nest, "order", vec![], vec![n.clone()], b, writes)
}

fn starts_nest(nest: &Nest, sorted: BufferId, starts: BufferId, rows: i64) -> Nest {
    let (rows, n) = (Dim::int(rows), &nest.cols[0]);
    let r = IndexExpr::axis(0, &rows);
    let mut b = Statements::default();
    let own = b.push(Instr::Index(r.clone()), DType::I32);
    let start = b.count_before(n.as_int().expect("only sums of a known length are sorted"), &mut |b, at| {
        let index = b.push(Instr::Load { buffer: sorted, index: at, mask: None }, DType::I32);
        b.call(ScalarFn::Lt, &[index, own], DType::Bool)
    });
    helper(nest, "starts", vec![rows], vec![], b, vec![Write::new(starts, r, start)])
}

/// The original body, with sorted positions for columns.
fn segments_nest(nest: &Nest, sorted: &Sorted) -> Option<Nest> {
    let (column, n) = (nest.rows.len() as u32, &nest.cols[0]);
    let row = IndexExpr::axis(sorted.axis, &nest.rows[sorted.axis as usize]);
    let mut b = Statements::default();
    let start = b.push(Instr::Load { buffer: sorted.starts, index: row.clone(), mask: None }, DType::I32);
    let end = b.push(Instr::Load { buffer: sorted.starts, index: row.plus(&Dim::int(1)), mask: None }, DType::I32);
    let k = b.push(Instr::Index(IndexExpr::axis(column, n)), DType::I32);
    let from = b.call(ScalarFn::Ge, &[k, start], DType::Bool);
    let until = b.call(ScalarFn::Lt, &[k, end], DType::Bool);
    let inside = b.call(ScalarFn::LogicalAnd, &[from, until], DType::Bool);
    let position = b.push(Instr::Load { buffer: sorted.order, index: IndexExpr::axis(column, n), mask: None }, DType::I32);
    let position = IndexExpr::value(position.0, n);
    let own_axes = axes(&nest.rows, 0);
    let mut map = vec![Val(u32::MAX); nest.body.len()];
    let mut wanted: Vec<Val> = needed(nest, sorted.source);
    let rest = sorted.sum.0 as usize + 1;
    for (i, stmt) in nest.body.iter().enumerate() {
        let v = Val(i as u32);
        let dtype = stmt.dtype;
        if v == sorted.sum {
            let zero = b.push(Instr::Const(Number::new(dtype, 0.0)), dtype);
            let term = b.call(ScalarFn::Where, &[inside, map[sorted.source.0 as usize], zero], dtype);
            map[i] = b.push(Instr::Reduce(Combiner::Sum, term), dtype);
            wanted = follows(nest, sorted.sum)?;
            continue;
        }
        if i < rest && !wanted.contains(&v) && !row_level(nest, v) {
            continue;
        }
        let instr = stmt.instr.map(&|v| map[v.0 as usize], &|e| {
            let at = |a: &crate::loop_ir::Axis| if a.id == column { position.clone() } else { own_axes[a.id as usize].clone() };
            e.substitute(&at, &|v, size| IndexExpr::value(map[v as usize].0, size))
        });
        map[i] = b.push(instr, dtype);
    }
    let writes = nest.writes.iter().map(|w| {
        let index = w.index.substitute(&|a| own_axes[a.id as usize].clone(), &|v, size| IndexExpr::value(map[v as usize].0, size));
        Write::new(w.buffer, index, map[w.value.0 as usize])
    });
    let writes = writes.collect();
    Some(Nest { body: b.0, writes, tag: Tag::Segments { start, end }, ..nest.clone() })
}

fn row_level(nest: &Nest, v: Val) -> bool {
    !nest.element_level()[v.0 as usize]
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
    use crate::loop_ir::naive::{self, Memory};
    use crate::loop_ir::{Phase, verify};
    use crate::lower::lower;
    use crate::ops::IndexAdd;
    use crate::types::Bindings;

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
            for nest in nests {
                assert_eq!(verify(nest), Vec::<String>::new(), "{nest}");
                naive::run(nest, &mut memory, &Bindings::new()).unwrap();
            }
            memory[scatter.writes[0].buffer.0 as usize].clone()
        };
        assert_ne!(after(&[]), after(std::slice::from_ref(scatter)));
        assert_eq!(after(&whole), after(std::slice::from_ref(scatter)));
        assert_eq!(after(&parts), after(std::slice::from_ref(scatter)));
    }
}
