//! Long rows are sorted in blocks that a workgroup holds, and the blocks are merged.
//!
//! Before: `rows[R] cols[N]`, one sort. After:
//!
//! * `blocks`: `rows[R, S] cols[N / S]`, one sort, into scratch buffers of keys and of columns. Where S does not divide N, the last
//!   block ends with keys that go behind everything, at columns behind all others;
//! * `merge`, log2(S) times: each element of two neighboring sorted runs finds its place by its position in its own run and the
//!   number of elements of the other run that go before it, a binary search. Elements of the earlier run go before equal ones of
//!   the later run, so that the order stays stable;
//! * the original body at rows x columns, with sorted keys and columns read from the last buffers.
//!
//! Preserves the order exactly. Costs log2(S) passes of log2(N) reads an element, most of them from a cache, against N comparisons an
//! element. Every row that no workgroup holds is worth it: even of a single one, counting takes longer than the launches.
//! Source: merging by ranks, as in Satish, Harris and Garland, "Designing efficient sorting algorithms for manycore GPUs" (2009).

use super::statements::{Statements, needed};
use crate::fusion::eliminate_dead;
use crate::loop_ir::{Buffer, BufferId, IndexExpr, Instr, Nest, Number, Tag, Val, Write, axes, flatten, unflatten};
use crate::scalar::ScalarFn;
use crate::types::{DType, DeviceCaps, Dim, Shape, TensorType};

/// The nests that replace a sort of rows that no workgroup holds.
pub fn sort_rows(nest: &Nest, buffers: &mut Vec<Buffer>, caps: &DeviceCaps) -> Option<Vec<Nest>> {
    let sort = plain_sort(nest)?;
    let most = caps.sorted_elements(nest.dtype(sort.key)) as i64;
    let count = nest.col_count().as_int()?;
    if caps.is_cpu() || count <= most {
        return None;
    }
    let runs = (count + most - 1) / most;
    let runs = (runs as u64).next_power_of_two() as i64;
    let elements = nest.row_count().range().1.checked_mul(count + runs)?;
    if elements > u32::MAX as i64 || elements.checked_mul(8)? as u64 > caps.max_binding_bytes {
        return None;
    }
    Some(replace(nest, &sort, runs, caps, buffers))
}

/// A sort and what it sorts.
struct Sort {
    at: Val,
    key: Val,
    descending: bool,
}

/// The sort of a nest that has one, no other work on columns, no check, and writes each element.
fn plain_sort(nest: &Nest) -> Option<Sort> {
    let mut found = None;
    for (i, stmt) in nest.body.iter().enumerate() {
        match stmt.instr {
            Instr::Sort { key, descending } if found.is_none() => found = Some(Sort { at: Val(i as u32), key, descending }),
            Instr::Sort { .. } | Instr::Reduce(..) | Instr::Scan(..) | Instr::Bound { .. } => return None,
            _ => {}
        }
    }
    let level = nest.element_level();
    (nest.tag == Tag::Loop && nest.writes.iter().all(|w| !w.fold && nest.is_element_write(w, &level))).then_some(found).flatten()
}

/// Keys and columns in scratch buffers of rows x elements.
#[derive(Clone, Copy)]
struct Pair {
    keys: BufferId,
    columns: BufferId,
}

fn replace(nest: &Nest, sort: &Sort, runs: i64, caps: &DeviceCaps, buffers: &mut Vec<Buffer>) -> Vec<Nest> {
    let (count, dtype) = (nest.col_count(), nest.dtype(sort.key));
    let length = count.ceil_div(&Dim::int(runs));
    let total = length.clone() * Dim::int(runs);
    let mut scratch = |name: &str, dtype: DType| {
        let shape = Shape(vec![nest.row_count(), total.clone()]);
        buffers.push(Buffer { name: format!("{}.{name}", nest.label), ty: TensorType { dtype, shape } });
        BufferId(buffers.len() as u32 - 1)
    };
    let mut pair = || Pair { keys: scratch("keys", dtype), columns: scratch("columns", DType::I32) };
    let mut sorted = pair();
    let mut out = vec![blocks(nest, sort, &length, runs, sorted, caps)];
    let mut length = length.as_int().unwrap_or(1);
    let mut runs = runs;
    while runs > 1 {
        let next = pair();
        runs /= 2;
        out.push(merge(nest, sort, length, runs, sorted, next));
        (sorted, length) = (next, length * 2);
    }
    out.push(finish(nest, sort, &total, sorted));
    out
}

fn part(nest: &Nest, name: &str, rows: Vec<Dim>, cols: Vec<Dim>, body: Statements, writes: Vec<Write>) -> Nest {
    Nest { label: format!("{}.{name}", nest.label), rows, cols, body: body.0, writes, tag: Tag::Loop, provenance: nest.provenance.clone() }
}

/// Sorts each block of a row.
fn blocks(nest: &Nest, sort: &Sort, length: &Dim, runs: i64, to: Pair, caps: &DeviceCaps) -> Nest {
    let (count, dtype, runs) = (nest.col_count(), nest.dtype(sort.key), Dim::int(runs));
    let total = length.clone() * &runs;
    let rows: Vec<Dim> = nest.rows.iter().cloned().chain([runs.clone()]).collect();
    let (run, own) = (IndexExpr::axis(nest.rows.len() as u32, &runs), IndexExpr::axis(rows.len() as u32, length));
    let first = run.times(length);
    let flat = first.add(&own);
    let mut at = axes(&nest.rows, 0);
    at.extend(unflatten(&flat, &nest.cols));
    let mut b = Statements::default();
    let inside = (total != count).then(|| {
        let column = b.push(Instr::Index(flat.clone()), DType::I32);
        let end = b.push(Instr::Const(Number::Int(count.as_int().unwrap_or(i64::MAX))), DType::I32);
        b.call(ScalarFn::Lt, &[column, end], DType::Bool)
    });
    let mut map = vec![Val(u32::MAX); nest.body.len()];
    for v in needed(nest, sort.key) {
        let stmt = nest.stmt(v);
        let mut instr = stmt
            .instr
            .map(&|v| map[v.0 as usize], &|e| e.substitute(&|a| at[a.id as usize].clone(), &|v, size| IndexExpr::value(map[v as usize].0, size)));
        if let (Instr::Load { mask, .. }, Some(inside)) = (&mut instr, inside) {
            *mask = Some(match *mask {
                Some(own) => b.call(ScalarFn::LogicalAnd, &[own, inside], DType::Bool),
                None => inside,
            });
        }
        map[v.0 as usize] = b.push(instr, stmt.dtype);
    }
    let mut key = map[sort.key.0 as usize];
    if let Some(inside) = inside {
        let last = b.push(Instr::Const(last_key(dtype, sort.descending, caps)), dtype);
        key = b.call(ScalarFn::Where, &[inside, key, last], dtype);
    }
    let sorted = b.push(Instr::Sort { key, descending: sort.descending }, dtype);
    let position = b.push(Instr::Proj(sorted, 1), DType::I32);
    let start = b.push(Instr::Index(first), DType::I32);
    let column = b.call(ScalarFn::Add, &[position, start], DType::I32);
    let place = flatten(&axes(&nest.rows, 0), &nest.rows).times(&total).add(&flat);
    let writes = vec![Write::new(to.keys, place.clone(), sorted), Write::new(to.columns, place, column)];
    part(nest, "blocks", rows, vec![length.clone()], b, writes)
}

/// A key that nothing goes behind, but for equal ones at later columns.
fn last_key(dtype: DType, descending: bool, caps: &DeviceCaps) -> Number {
    let range = if dtype == DType::I64 && !caps.i64 { DType::I32 } else { dtype }.int_range();
    match (range, descending) {
        (Some((_, high)), false) => Number::Int(high),
        (Some((low, _)), true) => Number::Int(low),
        (None, false) => Number::new(dtype, f64::NAN),
        (None, true) => Number::new(dtype, f64::NEG_INFINITY),
    }
}

/// Merges the two sorted runs of `length` elements of each of `pairs` pairs in a row.
fn merge(nest: &Nest, sort: &Sort, length: i64, pairs: i64, from: Pair, to: Pair) -> Nest {
    let dtype = nest.dtype(sort.key);
    let (size, two) = (Dim::int(length), Dim::int(2));
    let rows = vec![nest.row_count(), Dim::int(pairs), two.clone(), size.clone()];
    let at = axes(&rows, 0);
    let pair = at[0].times(&Dim::int(pairs)).add(&at[1]).times(&Dim::int(2 * length));
    let own = pair.add(&at[2].times(&size)).add(&at[3]);
    let other = pair.add(&at[2].subtract_from(&Dim::int(1)).times(&size));
    let mut b = Statements::default();
    let key = b.push(Instr::Load { buffer: from.keys, index: own.clone(), mask: None }, dtype);
    let column = b.push(Instr::Load { buffer: from.columns, index: own, mask: None }, DType::I32);
    let half = b.push(Instr::Index(at[2].clone()), DType::I32);
    let later = b.push(Instr::Cast(half), DType::Bool);
    let number = |b: &mut Statements, n: i64| b.push(Instr::Const(Number::Int(n)), DType::I32);
    let (end, one) = (number(&mut b, length), number(&mut b, 1));
    let mut before = number(&mut b, 0);
    // The number of elements of the other run that go before this one, digit by digit.
    let mut step = 1 << length.ilog2();
    while step > 0 {
        let width = number(&mut b, step);
        let more = b.call(ScalarFn::Add, &[before, width], DType::I32);
        let within = b.call(ScalarFn::Minimum, &[more, end], DType::I32);
        let probe = b.call(ScalarFn::Sub, &[within, one], DType::I32);
        let theirs = b.push(Instr::Load { buffer: from.keys, index: other.add(&IndexExpr::value(probe.0, &size)), mask: None }, dtype);
        // Of equal keys the earlier run's goes first.
        let first = b.call(ScalarFn::Where, &[later, key, theirs], dtype);
        let second = b.call(ScalarFn::Where, &[later, theirs, key], dtype);
        let less = goes_before(&mut b, first, second, dtype, sort.descending);
        let counts = b.call(ScalarFn::LogicalXor, &[less, later], DType::Bool);
        let fits = b.call(ScalarFn::Le, &[more, end], DType::Bool);
        let counts = b.call(ScalarFn::LogicalAnd, &[counts, fits], DType::Bool);
        before = b.call(ScalarFn::Where, &[counts, more, before], DType::I32);
        step /= 2;
    }
    let place = pair.add(&at[3]).add(&IndexExpr::value(before.0, &Dim::int(length + 1)));
    let writes = vec![Write::new(to.keys, place.clone(), key), Write::new(to.columns, place, column)];
    part(nest, "merge", rows, vec![], b, writes)
}

/// Whether one key sorts before another that is not equal to it: NaN is larger than everything.
fn goes_before(b: &mut Statements, x: Val, y: Val, dtype: DType, descending: bool) -> Val {
    let (x, y) = if descending { (y, x) } else { (x, y) };
    let less = b.call(ScalarFn::Lt, &[x, y], DType::Bool);
    if !dtype.is_float() {
        return less;
    }
    let (x, y) = (b.call(ScalarFn::IsNan, &[x], DType::Bool), b.call(ScalarFn::IsNan, &[y], DType::Bool));
    let number = b.call(ScalarFn::LogicalNot, &[x], DType::Bool);
    let last = b.call(ScalarFn::LogicalAnd, &[number, y], DType::Bool);
    b.call(ScalarFn::LogicalOr, &[less, last], DType::Bool)
}

/// The original body over sorted keys and columns.
fn finish(nest: &Nest, sort: &Sort, total: &Dim, sorted: Pair) -> Nest {
    let column = flatten(&nest.col_axes(), &nest.cols);
    let place = flatten(&nest.row_axes(), &nest.rows).times(total).add(&column);
    let mut out = nest.clone();
    out.body[sort.at.0 as usize].instr = Instr::Load { buffer: sorted.keys, index: place.clone(), mask: None };
    for stmt in &mut out.body {
        if stmt.instr == Instr::Proj(sort.at, 1) {
            stmt.instr = Instr::Load { buffer: sorted.columns, index: place.clone(), mask: None };
            stmt.dtype = DType::I32;
        }
    }
    // Axes keep their numbers.
    out.rows.append(&mut out.cols);
    eliminate_dead(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::graph::{Builder, InputRole, OutputRole};
    use crate::loop_ir::naive::{self, Memory};
    use crate::loop_ir::{Phase, verify};
    use crate::lower::lower;
    use crate::types::Bindings;

    /// Caps of a device whose workgroups sort four elements.
    fn tiny() -> DeviceCaps {
        DeviceCaps { max_workgroup_bytes: 32, ..DeviceCaps::webgpu_default() }
    }

    fn sorted(dtype: DType, shape: (i64, i64), dim: usize, descending: bool) {
        let mut b = Builder::new("sort");
        let x = b.input("x", InputRole::Input, TensorType::new(dtype, shape)).unwrap();
        let (values, index) = b.sort(x, dim, descending).unwrap();
        b.output("values", OutputRole::User, values);
        b.output("index", OutputRole::User, index);
        let mut lowered = lower(&[(Phase::Forward, &b.finish())], &Config::default()).unwrap();
        let nest = lowered.nests[0].clone();
        let parts = sort_rows(&nest, &mut lowered.buffers, &tiny()).unwrap();
        let special = [1.0, f64::NAN, -0.0, 0.0, f64::INFINITY, f64::NEG_INFINITY, 1.0];
        let result = |nests: &[Nest]| {
            let number = |k: i64| if k % 3 == 0 { special[(k / 3 % 7) as usize] } else { (k * 7 % 11) as f64 - 4.0 };
            let fill = |b: &Buffer| Memory::from_f64(b.ty.dtype, &(0..b.ty.numel().as_int().unwrap()).map(number).collect::<Vec<_>>());
            let mut memory: Vec<Memory> = lowered.buffers.iter().map(fill).collect();
            for nest in nests {
                assert_eq!(verify(nest), Vec::<String>::new(), "{nest}");
                naive::run(nest, &mut memory, &Bindings::new()).unwrap();
            }
            // Bits, since NaN is among them.
            nest.writes.iter().map(|w| format!("{:?}", memory[w.buffer.0 as usize].elements)).collect::<Vec<_>>()
        };
        assert_eq!(result(&parts), result(std::slice::from_ref(&nest)), "{shape:?} {dtype} {descending}");
    }

    #[test]
    fn merged_blocks_are_the_sorted_row() {
        for n in [5, 7, 8, 9, 16, 17, 31, 33, 64, 65] {
            for descending in [false, true] {
                sorted(DType::F32, (2, n), 1, descending);
                sorted(DType::I32, (2, n), 1, descending);
            }
        }
        sorted(DType::F16, (3, 21), 1, true);
        sorted(DType::Bool, (3, 21), 1, false);
        sorted(DType::F32, (21, 3), 0, false);
    }

    #[test]
    fn short_rows_stay_as_they_are() {
        let mut b = Builder::new("sort");
        let x = b.input("x", InputRole::Input, TensorType::new(DType::F32, (3, 4))).unwrap();
        let (values, _) = b.sort(x, 1, false).unwrap();
        b.output("values", OutputRole::User, values);
        let mut lowered = lower(&[(Phase::Forward, &b.finish())], &Config::default()).unwrap();
        let nest = lowered.nests[0].clone();
        assert!(sort_rows(&nest, &mut lowered.buffers, &tiny()).is_none());
    }
}
