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
//! Where only the first k elements of a row are written, there are no merges: the first k of each block are kept, and then the first k
//! of those. Up to sixteen an invocation holds at hand, so that rows of any length are one kernel; but a few long rows become
//! blocks all the same, to have work for the whole device.
//!
//! Preserves the order exactly. Costs log2(S) passes of log2(N) reads an element, most of them from a cache, against N comparisons an
//! element. Every row that no workgroup holds is worth it: even of a single one, counting takes longer than the launches.
//! Source: merging by ranks, as in Satish, Harris and Garland, "Designing efficient sorting algorithms for manycore GPUs" (2009).

use super::search::count_before;
use crate::config::Target;
use crate::forms::parts::of_head;
use crate::forms::{SORTED_HEAD, sorted_elements};
use crate::loop_ir::facts::cone;
use crate::loop_ir::{
    BodyBuilder, Buffer, BufferId, Element, IndexExpr, Instr, Nest, Number, Rebase, Tag, Val, Write, axes, eliminate_dead, flatten, unflatten,
};
use crate::scalar::ScalarFn;
use crate::types::{DType, DeviceCaps, Dim, Shape, Sizes, TensorType};

/// The nests that replace a sort of rows that no workgroup holds.
pub fn sort_rows(nest: &Nest, buffers: &mut Vec<Buffer>, target: &Target) -> Option<Vec<Nest>> {
    let (sort, caps) = (plain_sort(nest)?, &target.caps);
    let most = sorted_elements(caps, nest.dtype(sort.key)) as i64;
    let count = nest.col_count().as_int()?;
    if caps.is_cpu() {
        return None;
    }
    if let Some(parts) = head_blocks(nest, sort.first, most, target)
        && let Some(nests) = heads(nest, &sort, &parts, caps, buffers)
    {
        return Some(nests.into_iter().flat_map(|n| sort_rows(&n, buffers, target).unwrap_or_else(|| vec![n])).collect());
    }
    if count <= most || sort.first.is_some_and(|n| n <= SORTED_HEAD) {
        return None;
    }
    let runs = ((count + most - 1) / most) as u64;
    let runs = runs.next_power_of_two() as i64;
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
    /// How many elements of a row are written, when that is not all.
    first: Option<i64>,
}

/// The sort of a nest that has one, no other work on columns, no check, and writes each element or the first ones of each row.
fn plain_sort(nest: &Nest) -> Option<Sort> {
    let mut found = None;
    for (i, stmt) in nest.body.iter().enumerate() {
        match stmt.instr {
            Instr::Sort { key, descending } if found.is_none() => found = Some(Sort { at: Val(i as u32), key, descending, first: None }),
            Instr::Sort { .. } | Instr::Reduce(..) | Instr::Scan(..) | Instr::Bound { .. } => return None,
            _ => {}
        }
    }
    let (level, mut found) = (nest.element_level(), found?);
    let first = &nest.writes.first()?.first;
    if let Some(first) = first {
        found.first = Some(first.as_int().filter(|_| nest.cols.len() == 1)?);
    }
    let plain = |w: &Write| !w.fold && w.first == *first && nest.is_element_write(w, &level);
    (nest.tag == Tag::Loop && nest.writes.iter().all(plain)).then_some(found)
}

/// How a row becomes blocks.
struct Blocks {
    /// Number of blocks.
    runs: i64,
    /// Elements of a block.
    length: Dim,
    /// Elements of a sorted block that are kept.
    kept: Dim,
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
        let shape = Shape::new(vec![nest.row_count(), total.clone()]);
        buffers.push(Buffer { name: format!("{}.{name}", nest.label), ty: TensorType { dtype, shape } });
        BufferId(buffers.len() as u32 - 1)
    };
    let mut pair = || Pair { keys: scratch("keys", dtype), columns: scratch("columns", DType::I32) };
    let mut sorted = pair();
    let mut out = vec![blocks(nest, sort, &Blocks { runs, length: length.clone(), kept: length.clone() }, sorted, caps)];
    let mut length = length.as_int().expect("runs are of a known length");
    let mut runs = runs;
    while runs > 1 {
        let next = pair();
        runs /= 2;
        out.push(merge(nest, sort, [length, runs], sorted, next));
        (sorted, length) = (next, length * 2);
    }
    out.push(finish(nest, sort, &total, sorted));
    out
}

/// Blocks of which the first elements are kept. `None` where one kernel does, or where they would be most of a block.
fn head_blocks(nest: &Nest, first: Option<i64>, most: i64, target: &Target) -> Option<Blocks> {
    let (first, count) = (first?, nest.col_count().as_int()?);
    let runs = if first <= SORTED_HEAD {
        of_head(nest.row_count().as_int().unwrap_or(i64::MAX), count, &target.model)
    } else if first <= most / 4 {
        (count + most - 1) / most
    } else {
        1
    };
    (runs > 1).then(|| Blocks { runs, length: Dim::int((count + runs - 1) / runs), kept: Dim::int(first) })
}

/// Keeps the first elements of each block of a row, and of those the first. `None` where the body makes something else of them.
fn heads(nest: &Nest, sort: &Sort, parts: &Blocks, caps: &DeviceCaps, buffers: &mut Vec<Buffer>) -> Option<Vec<Nest>> {
    let (dtype, total) = (nest.dtype(sort.key), parts.kept.clone() * Dim::int(parts.runs));
    let axis = nest.rows.len() as u32;
    let column = IndexExpr::axis(axis, &total);
    let row = flatten(&nest.row_axes(), &nest.rows).times(&total);
    let [keys, columns] = [0, 1].map(|k| BufferId(buffers.len() as u32 + k));
    let at = Rebase::new([nest.row_axes(), vec![column.clone()]].concat());
    let mut b = BodyBuilder::default();
    let key = b.load(Element { buffer: keys, index: row.add(&column), dtype });
    let sorted = b.sort(key, sort.descending);
    let position = b.proj(sorted, 1);
    let from = b.load(Element { buffer: columns, index: row.add(&IndexExpr::value(position.0, &total)), dtype: DType::I32 });
    for w in &nest.writes {
        let value = match nest.stmt(w.value).instr {
            Instr::Cast(x) => x,
            _ => w.value,
        };
        let mut out = if value == sort.at { sorted } else { from };
        if (value != sort.at && nest.stmt(value).instr != Instr::Proj(sort.at, 1)) || !w.index.values().is_empty() {
            return None;
        }
        if value != w.value {
            out = b.push(Instr::Cast(out), nest.dtype(w.value));
        }
        b.write_first(w.buffer, at.index(&w.index), out, &parts.kept);
    }
    for (name, dtype) in [("keys", dtype), ("columns", DType::I32)] {
        let shape = Shape::new(vec![nest.row_count(), total.clone()]);
        buffers.push(Buffer { name: format!("{}.{name}", nest.label), ty: TensorType { dtype, shape } });
    }
    let blocks = blocks(nest, sort, parts, Pair { keys, columns }, caps);
    Some(vec![blocks, part(nest, "heads", nest.rows.clone(), vec![total], b)])
}

fn part(nest: &Nest, name: &str, rows: impl Into<Sizes>, cols: Vec<Dim>, body: BodyBuilder) -> Nest {
    body.nest(format!("{}.{name}", nest.label), rows, cols, nest.provenance.clone())
}

/// Sorts each block of a row, and keeps all of it or the first elements.
fn blocks(nest: &Nest, sort: &Sort, parts: &Blocks, Pair { keys, columns }: Pair, caps: &DeviceCaps) -> Nest {
    let (count, dtype, runs) = (nest.col_count(), nest.dtype(sort.key), Dim::int(parts.runs));
    let (length, kept) = (&parts.length, &parts.kept);
    let total = length.clone() * &runs;
    let rows: Vec<Dim> = nest.rows.iter().cloned().chain([runs.clone()]).collect();
    let (run, own) = (IndexExpr::axis(nest.rows.len() as u32, &runs), IndexExpr::axis(rows.len() as u32, length));
    let first = run.times(length);
    let flat = first.add(&own);
    let mut at = axes(&nest.rows, 0);
    at.extend(unflatten(&flat, &nest.cols));
    let mut b = BodyBuilder::default();
    let inside = (total != count).then(|| {
        let column = b.index(&flat, DType::I32);
        let end = b.number(DType::I32, Number::Int(count.as_int().expect("only rows of a known length are sorted in runs")));
        b.call(ScalarFn::Lt, &[column, end])
    });
    let mut to = Rebase::new(at).under(inside);
    to.copy_all(&mut b, nest, cone(nest, sort.key));
    let key = b.value_or(inside, to.value(sort.key), last_key(dtype, sort.descending, caps));
    let sorted = b.sort(key, sort.descending);
    let position = b.proj(sorted, 1);
    let start = b.index(&first, DType::I32);
    let column = b.call(ScalarFn::Add, &[position, start]);
    let place = flatten(&axes(&nest.rows, 0), &nest.rows).times(&runs).add(&run).times(kept).add(&own);
    for (buffer, value) in [(keys, sorted), (columns, column)] {
        let w = Write::new(buffer, place.clone(), value);
        b.writes.push(if kept == length { w } else { w.of_first(kept) });
    }
    part(nest, "blocks", rows, vec![length.clone()], b)
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
fn merge(nest: &Nest, sort: &Sort, [length, pairs]: [i64; 2], from: Pair, to: Pair) -> Nest {
    let dtype = nest.dtype(sort.key);
    let (size, two) = (Dim::int(length), Dim::int(2));
    let rows = vec![nest.row_count(), Dim::int(pairs), two.clone(), size.clone()];
    let at = axes(&rows, 0);
    let pair = at[0].times(&Dim::int(pairs)).add(&at[1]).times(&Dim::int(2 * length));
    let own = pair.add(&at[2].times(&size)).add(&at[3]);
    let other = pair.add(&at[2].subtract_from(&Dim::int(1)).times(&size));
    let mut b = BodyBuilder::default();
    let (keys, columns) = (|index| Element { buffer: from.keys, index, dtype }, |index| Element { buffer: from.columns, index, dtype: DType::I32 });
    let (key, column) = (b.load(keys(own.clone())), b.load(columns(own)));
    let half = b.index(&at[2], DType::I32);
    let later = b.cast(half, DType::Bool);
    // How many elements of the other run go before this one: of equal keys the earlier run's goes first.
    let before = count_before(&mut b, length, &mut |b, place| {
        let theirs = b.load(keys(other.add(&place)));
        let first = b.call(ScalarFn::Where, &[later, key, theirs]);
        let second = b.call(ScalarFn::Where, &[later, theirs, key]);
        let less = goes_before(b, first, second, sort.descending);
        b.call(ScalarFn::LogicalXor, &[less, later])
    });
    let place = pair.add(&at[3]).add(&IndexExpr::value(before.0, &Dim::int(length + 1)));
    b.write(to.keys, place.clone(), key);
    b.write(to.columns, place, column);
    part(nest, "merge", rows, vec![], b)
}

/// Whether one key sorts before another that is not equal to it: NaN is larger than everything.
fn goes_before(b: &mut BodyBuilder, x: Val, y: Val, descending: bool) -> Val {
    let (x, y) = if descending { (y, x) } else { (x, y) };
    let less = b.call(ScalarFn::Lt, &[x, y]);
    if !b.dtype(x).is_float() {
        return less;
    }
    let (x, y) = (b.call(ScalarFn::IsNan, &[x]), b.call(ScalarFn::IsNan, &[y]));
    let number = b.call(ScalarFn::LogicalNot, &[x]);
    let last = b.call(ScalarFn::LogicalAnd, &[number, y]);
    b.call(ScalarFn::LogicalOr, &[less, last])
}

/// The original body over sorted keys and columns.
fn finish(nest: &Nest, sort: &Sort, total: &Dim, sorted: Pair) -> Nest {
    let nest = match sort.first {
        Some(first) => of_first(nest, &Dim::int(first)),
        None => nest.clone(),
    };
    let place = flatten(&nest.row_axes(), &nest.rows).times(total).add(&flatten(&nest.col_axes(), &nest.cols));
    let mut b = BodyBuilder::with_capacity(nest.body.len());
    let mut to = Rebase::in_place();
    for v in nest.values() {
        let (buffer, dtype) = match nest.stmt(v).instr {
            Instr::Sort { .. } => (sorted.keys, nest.dtype(v)),
            Instr::Proj(of, 1) if of == sort.at => (sorted.columns, DType::I32),
            _ => {
                to.copy(&mut b, &nest, v);
                continue;
            }
        };
        to.set(v, b.load(Element { buffer, index: place.clone(), dtype }));
    }
    let mut out = to.finish(b, &nest);
    // Axes keep their numbers.
    out.rows.append(&mut out.cols);
    eliminate_dead(&mut out);
    out
}

/// The nest over its first columns alone.
fn of_first(nest: &Nest, columns: &Dim) -> Nest {
    let cols = std::slice::from_ref(columns);
    let mut out = Rebase::new([nest.row_axes(), axes(cols, nest.rows.len() as u32)].concat()).nest(nest, &nest.rows, cols);
    out.writes.iter_mut().for_each(|w| w.first = None);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::graph::{Builder, InputRole, OutputRole, Value};
    use crate::loop_ir::Phase;
    use crate::lower::lower;
    use crate::ops::Built;
    use crate::schedule::fixtures::run_from;

    /// A device whose workgroups sort `most` elements.
    fn tiny(most: u32) -> Target {
        let target = Target::webgpu_default();
        Target { caps: DeviceCaps { max_workgroup_bytes: 8 * most, ..target.caps }, ..target }
    }

    fn sorted(dtype: DType, shape: (i64, i64), dim: usize, descending: bool) {
        check(dtype, shape, &tiny(4), &format!("{shape:?} {dtype} {descending}"), &|b, x| b.sort(x, dim, descending));
    }

    type Build<'a> = &'a dyn Fn(&mut Builder, Value) -> Built<(Value, Value)>;

    fn check(dtype: DType, shape: (i64, i64), target: &Target, name: &str, of: Build<'_>) {
        let mut b = Builder::new("sort");
        let x = b.input("x", InputRole::Input, TensorType::new(dtype, shape)).unwrap();
        let (values, index) = of(&mut b, x).unwrap();
        b.output("values", OutputRole::User, values);
        b.output("index", OutputRole::User, index);
        let mut lowered = lower(&[(Phase::Forward, &b.finish())], &Config::default()).unwrap();
        let nest = lowered.nests[0].clone();
        let parts = sort_rows(&nest, &mut lowered.buffers, target).unwrap();
        assert!(parts.len() > 1);
        let special = [1.0, f64::NAN, -0.0, 0.0, f64::INFINITY, f64::NEG_INFINITY, 1.0];
        let result = |nests: &[Nest]| {
            let number = |k: i64| if k % 3 == 0 { special[(k / 3 % 7) as usize] } else { (k * 7 % 11) as f64 - 4.0 };
            let memory = run_from(nests, &lowered.buffers, number);
            // Bits, since NaN is among them.
            nest.writes.iter().map(|w| format!("{:?}", memory[w.buffer.0 as usize].elements)).collect::<Vec<_>>()
        };
        assert_eq!(result(&parts), result(std::slice::from_ref(&nest)), "{name}");
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
    fn heads_of_blocks_hold_the_head_of_the_row() {
        // Blocks of 128 elements, of which 17 or 32 are kept; more than a quarter is not worth keeping.
        for (n, k) in [(129, 17), (700, 17), (1000, 32), (300, 40)] {
            for descending in [false, true] {
                check(DType::F32, (2, n), &tiny(128), &format!("{k} of {n} {descending}"), &|b, x| b.topk(x, k, 1, descending));
            }
        }
        // A single long row, of whose blocks an invocation holds the head.
        check(DType::I32, (1, 40_000), &tiny(128), "3 of 40,000", &|b, x| b.topk(x, 3, 1, true));
    }

    #[test]
    fn short_rows_stay_as_they_are() {
        let mut b = Builder::new("sort");
        let x = b.input("x", InputRole::Input, TensorType::new(DType::F32, (3, 4))).unwrap();
        let (values, _) = b.sort(x, 1, false).unwrap();
        b.output("values", OutputRole::User, values);
        let mut lowered = lower(&[(Phase::Forward, &b.finish())], &Config::default()).unwrap();
        let nest = lowered.nests[0].clone();
        assert!(sort_rows(&nest, &mut lowered.buffers, &tiny(4)).is_none());
    }
}
