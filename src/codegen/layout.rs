//! How rows and columns of nests with reductions or scans are laid over workgroups and invocations.
//!
//! * Comes in: a nest and what the device is like. Goes out: a [`Shape`], and coordinates of the nest over the kernel's axes.
//! * Short rows take an invocation each, longer ones a team of a power of two, the longest a loop of their team; where memory
//!   runs along rows, neighboring invocations take neighboring rows.

use super::emit::{Emitter, Lane};
use super::unit::Unit;
use crate::fusion::HELD_COLUMNS;
use crate::loop_ir::{Combiner, IndexExpr, Instr, Nest, Tag, Val, Write, flatten, unflatten};
use crate::scalar::ScalarFn;
use crate::types::{DeviceCaps, Dim};

/// Kernel axis of rows.
pub const ROW: u32 = 0;
/// Kernel axis of the rows of a chunk, where there are sums over them.
pub const STEP: u32 = 1;
/// Kernel axis of the first group of columns.
pub const COLUMN: u32 = 2;

/// Registers of an invocation that may hold elements of a row between passes.
const REGISTERS: u32 = 96;
/// Columns of an invocation that holds sums over rows, where the workgroup may be as large as that takes.
const COLUMNS_AT_HAND: u32 = 8;
/// Statements that a row kept in registers may be spelled in.
const STATEMENTS: u32 = 1600;

/// How rows and columns are laid over workgroups and invocations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows of a workgroup.
    pub rows: u32,
    /// Invocations of a row, a power of two.
    pub threads: u32,
    /// Neighboring invocations take neighboring rows instead of neighboring columns.
    pub rows_first: bool,
    /// Consecutive columns that an invocation takes at once.
    pub lanes: u32,
    /// Groups of columns that an invocation keeps in registers; 0 loops over them.
    pub kept: u32,
    /// Groups of columns that a step of the loop takes.
    pub unroll: u32,
    /// Consecutive rows that an invocation takes at once, where rows are neighbors in memory; then it takes columns one by one.
    pub across: u32,
}

impl Shape {
    /// The size of subgroups, when all have that size and invocations of a row lie in neighboring ones.
    pub fn subgroup(&self, caps: &DeviceCaps) -> Option<u32> {
        let (low, high) = caps.subgroups?;
        let fits = low == high && low.is_power_of_two() && low >= 4 && (self.rows * self.threads).is_multiple_of(low);
        (fits && self.threads > 1 && !self.rows_first).then_some(low)
    }
}

impl Default for Shape {
    /// A row and an invocation for each workgroup.
    fn default() -> Shape {
        Shape { rows: 1, threads: 1, rows_first: false, lanes: 1, kept: 0, unroll: 1, across: 1 }
    }
}

/// Chunks of rows that have a team of invocations each, and rows of a chunk: single rows, unless there are sums over rows.
pub fn chunks(nest: &Nest) -> (Dim, Dim) {
    let at = nest.chunk_axes().unwrap_or(nest.rows.len());
    let count = |sizes: &[Dim]| sizes.iter().fold(Dim::int(1), |n, d| n * d);
    (count(&nest.rows[..at]), count(&nest.rows[at..]))
}

/// The row axes over the kernel's axes, in row `r` of the `across` that an invocation takes.
pub fn row_axes(nest: &Nest, across: u32, r: u32) -> Vec<IndexExpr> {
    let at = nest.chunk_axes().unwrap_or(nest.rows.len());
    let (teams, length) = chunks(nest);
    let n = Dim::int(across as i64);
    let team = IndexExpr::axis(ROW, &teams.ceil_div(&n)).times(&n).plus(&Dim::int(r as i64));
    let mut axes = unflatten(&team, &nest.rows[..at]);
    axes.extend(unflatten(&IndexExpr::axis(STEP, &length), &nest.rows[at..]));
    axes
}

/// Column `l` and row `r` of those that an invocation takes at once.
pub fn lane(nest: &Nest, shape: &Shape, id: u32, l: u32, r: u32) -> Lane {
    let n = Dim::int(shape.lanes as i64);
    let groups = nest.col_count().ceil_div(&n);
    let col = IndexExpr::axis(id, &groups).times(&n).plus(&Dim::int(l as i64));
    let mut axes = row_axes(nest, shape.across, r);
    axes.extend(unflatten(&col, &nest.cols));
    Lane { axes, write_axes: None, whole: None }
}

/// Chooses the layout from sizes and from which axis is contiguous in memory.
pub fn choose(unit: &Unit) -> Result<Shape, String> {
    let nest = unit.nest;
    let packed = nest.writes.iter().map(|w| unit.buffers[w.buffer.0 as usize].format.per_word).max().unwrap_or(1);
    let cols = nest.col_count();
    let divides = |n: i64| cols.try_div(&Dim::int(n)).is_some() && !cols.is(0);
    let limit = unit.target.caps.max_invocations.min(256);
    if matches!(nest.tag, Tag::Segments { .. }) {
        return Ok(Shape { rows: limit, threads: 1, rows_first: true, lanes: 1, ..Shape::default() });
    }
    let lazy: Vec<u32> = (0..nest.body.len() as u32).filter(|&i| lazy_source(nest, &nest.body[i as usize].instr).is_some()).collect();
    let scatter = lazy.iter().any(|&i| picked(unit, i).is_none());
    let small_body = nest.body.len() <= 60;
    let lanes = if packed > 1 {
        packed
    } else if divides(4) && !scatter && small_body {
        4
    } else {
        1
    };
    let n = cols.as_int().unwrap_or(cols.range().1.min(1 << 20)).max(1) as u64;
    let groups = n.div_ceil(lanes as u64);
    let rows = chunks(nest).0.as_int().unwrap_or(1 << 16).max(1) as u64;
    if nest.chunk_axes().is_some() {
        return folding(unit, groups, lanes);
    }
    // A team whose invocations are not neighbors has no prefixes.
    if scans_in_order(nest) || (scans(nest) && rows_contiguous(nest)) {
        return Ok(Shape { rows: 64.min(limit), threads: 1, rows_first: true, lanes, ..Shape::default() });
    }
    if rows_contiguous(nest) {
        let by_four = rows_by_four(unit) && lazy.is_empty() && small_body;
        let four = || Shape { across: 4, ..column_shape(rows / 4, n, 1, limit) };
        return Ok(unrolled(nest, if by_four { four() } else { column_shape(rows, groups, lanes, limit) }));
    }
    if groups < 4 || scatter {
        return Ok(Shape { rows: limit.min(if rows < 4096 { 64 } else { 256 }), threads: 1, rows_first: true, lanes, ..Shape::default() });
    }
    // Few rows get more invocations each than many rows do.
    let most = if rows * 64 < unit.target.model.parallel_lanes as u64 { 256 } else { 64 };
    let mut threads = 4u32;
    while threads < most.min(limit) && (threads as u64) < groups {
        threads *= 2;
    }
    while threads < limit && groups > 4 * threads as u64 {
        threads *= 2;
    }
    let held = held_values(nest);
    let most = unit.target.caps.max_invocations.min(unit.target.caps.max_workgroup_size);
    let fits = |threads: u32| {
        let kept = groups.div_ceil(threads as u64) as u32;
        kept <= 4 && scan_fits(unit, threads, kept) && held * lanes * kept <= REGISTERS && nest.body.len() as u32 * lanes * kept <= STATEMENTS
    };
    // Rows that fit no workgroup of the usual size may fit the largest.
    let wider = (threads == limit && unit.target.model.parallel_lanes >= 1 << 16).then_some([2, 4]).into_iter().flatten().map(|k| k * threads);
    let keeping = std::iter::once(threads).chain(wider).find(|&t| t <= most && fits(t)).filter(|_| cols.as_int().is_some());
    let threads = keeping.unwrap_or(threads);
    let kept = keeping.map_or(0, |t| groups.div_ceil(t as u64) as u32);
    // Many short rows would make more workgroups than are started in time.
    let workgroup = if threads <= 32 && rows * threads as u64 >= 1 << 18 { 256.min(limit) } else { 64 };
    Ok(unrolled(nest, Shape { rows: (workgroup / threads).max(1), threads, rows_first: false, lanes, kept, ..Shape::default() }))
}

/// Whether workgroup memory holds the totals of so many invocations and groups of columns, where there are scans.
fn scan_fits(unit: &Unit, threads: u32, groups: u32) -> bool {
    !scans(unit.nest) || threads * groups * 8 <= unit.target.caps.max_workgroup_bytes / 2
}

/// Rows in registers, with sums over rows beside them.
fn folding(unit: &Unit, groups: u64, lanes: u32) -> Result<Shape, String> {
    let most = unit.target.caps.max_invocations.min(unit.target.caps.max_workgroup_size);
    let kept = |threads: u32| groups.div_ceil(threads as u64) as u32;
    let fits = |limit: u32| move |threads: &u32| kept(*threads) * lanes <= limit;
    let sizes = || (3..16).map(|k| 1u32 << k).filter(|t| *t <= most);
    let threads = sizes().find(fits(COLUMNS_AT_HAND)).or_else(|| sizes().find(fits(HELD_COLUMNS)));
    let threads = threads.ok_or("a workgroup does not hold the sums over rows")?;
    Ok(Shape { rows: (64 / threads).max(1), threads, rows_first: false, lanes, kept: kept(threads), ..Shape::default() })
}

/// Values of one column that a pass takes from passes before it: what registers hold when a row is kept in them.
fn held_values(nest: &Nest) -> u32 {
    let (level, depth) = (nest.element_level(), depths(nest));
    let element = |v: &Val| level[v.0 as usize];
    let mut ends: Vec<(usize, Val)> = vec![];
    for stmt in &nest.body {
        if let Instr::Reduce(_, arg) = stmt.instr {
            ends.push((depth[arg.0 as usize], arg));
        }
    }
    ends.extend(nest.writes.iter().filter(|w| nest.is_element_write(w, &level)).map(|w| (usize::MAX, w.value)));
    ends.sort_by_key(|(pass, _)| *pass);
    let mut known: Vec<Option<usize>> = vec![None; nest.body.len()];
    let mut held = vec![false; nest.body.len()];
    for (pass, end) in ends {
        let mut open = vec![end];
        while let Some(v) = open.pop() {
            match known[v.0 as usize] {
                Some(before) => held[v.0 as usize] |= before < pass,
                None => {
                    known[v.0 as usize] = Some(pass);
                    open.extend(nest.stmt(v).instr.operands().into_iter().filter(element));
                }
            }
        }
    }
    held.iter().filter(|h| **h).count() as u32
}

/// Takes several groups of columns in a step of the loop, so that loads do not wait for one another.
fn unrolled(nest: &Nest, shape: Shape) -> Shape {
    let step = (shape.lanes * shape.threads) as i64;
    let small = |n: &u32| nest.body.len() as u32 * shape.lanes * shape.across * n <= 200;
    let long = |n: &u32| nest.col_count().range().1 >= step * *n as i64;
    let unroll =
        if shape.kept > 0 || (scans(nest) && shape.threads == 1) { 1 } else { [4, 2].into_iter().find(|n| small(n) && long(n)).unwrap_or(1) };
    Shape { unroll, ..shape }
}

/// Whether a product of floats is scanned: a part of it may leave the range of the type where the whole does not, and times a zero
/// before it that is NaN instead of zero.
fn scans_in_order(nest: &Nest) -> bool {
    nest.body.iter().any(|s| matches!(s.instr, Instr::Scan(Combiner::Prod, _)) && s.dtype.is_float())
}

/// Whether there are prefixes to compute.
pub fn scans(nest: &Nest) -> bool {
    nest.body.iter().any(|s| matches!(s.instr, Instr::Scan(..)))
}

/// Neighboring invocations on neighboring rows; several invocations share a row when rows are few.
fn column_shape(rows: u64, groups: u64, lanes: u32, limit: u32) -> Shape {
    let side_by_side = rows.next_power_of_two().min(32) as u32;
    if rows >= 1 << 16 || groups < 8 {
        return Shape { rows: limit.min(if rows < 4096 { 64 } else { 256 }), threads: 1, rows_first: true, lanes, ..Shape::default() };
    }
    let mut threads = 8;
    while threads < limit / side_by_side && rows * (threads as u64) < 1 << 16 && (threads as u64) < groups {
        threads *= 2;
    }
    Shape { rows: side_by_side.min(limit / threads), threads, rows_first: true, lanes, ..Shape::default() }
}

/// Whether four neighboring rows are aligned vectors of something that is read or written.
fn rows_by_four(unit: &Unit) -> bool {
    let divides = chunks(unit.nest).0.as_int().is_some_and(|n| n > 0 && n % 4 == 0);
    if !divides || unit.buffers.iter().any(|b| b.format.per_word > 1) {
        return false;
    }
    let mut em = Emitter::new(unit);
    let shape = Shape { across: 4, ..Shape::default() };
    em.across = shape.across;
    em.lanes = (0..4).map(|r| lane(unit.nest, &shape, COLUMN, 0, r)).collect();
    super::vector::choose(&mut em, &[vec![0, 1, 2, 3]]);
    em.vector.iter().any(|v| *v)
}

/// Whether loads inside the column loop run along memory with the last row axis and not with the last column axis.
fn rows_contiguous(nest: &Nest) -> bool {
    let stepped = |n: &[Dim], first: usize| (0..n.len()).rev().find(|&i| !n[i].is(1)).map(|i| (first + i) as u32);
    let (Some(row), Some(col)) = (stepped(&nest.rows, 0), stepped(&nest.cols, nest.rows.len())) else { return false };
    let (mut by_row, mut by_col) = (0, 0);
    let level = nest.element_level();
    for (i, stmt) in nest.body.iter().enumerate() {
        if let Instr::Load { index, .. } = &stmt.instr
            && level[i]
        {
            let one = |a: u32| index.linear_coefficient(a).is_some_and(|k| k.is(1));
            by_row += one(row) as u32;
            // What all rows share is small and stays in caches.
            by_col += (one(col) && index.uses_axis(|a| a == row)) as u32;
        }
    }
    by_row > by_col
}

/// For each value, the number of the pass in which it can be computed.
pub fn depths(nest: &Nest) -> Vec<usize> {
    let mut out: Vec<usize> = vec![];
    for stmt in &nest.body {
        let deepest = stmt.instr.operands().iter().map(|o| out[o.0 as usize]).max().unwrap_or(0);
        out.push(deepest + matches!(stmt.instr, Instr::Reduce(..)) as usize);
    }
    out
}

/// The pass in which a write can happen.
pub fn write_depth(w: &Write, depth: &[usize]) -> usize {
    w.index.values().into_iter().map(|v| depth[v as usize]).fold(depth[w.value.0 as usize], usize::max)
}

/// `sum of where(c, x, 0)`: gives `c` and `x`, so that `x` is computed only where `c` holds.
pub fn lazy_source(nest: &Nest, instr: &Instr) -> Option<(Val, Val)> {
    let Instr::Reduce(Combiner::Sum, arg) = instr else { return None };
    let Instr::Call(ScalarFn::Where, args) = &nest.stmt(*arg).instr else { return None };
    let zero = matches!(&nest.stmt(args[2]).instr, Instr::Const(n) if n.as_f64() == 0.0);
    let compares = matches!(&nest.stmt(args[0]).instr, Instr::Call(ScalarFn::Eq, _));
    (zero && compares).then_some((args[0], args[1]))
}

/// A sum that takes one column: `sum of where(column == at, source, 0)`.
pub struct Pick {
    /// Number of the column.
    pub at: Val,
    /// What is taken there.
    pub source: Val,
}

/// Finds sums of one column whose number is known for the whole row. Where a row is overwritten in place, other invocations
/// may be ahead, and the column is found in turn as any other.
pub fn picked(unit: &Unit, i: u32) -> Option<Pick> {
    let nest = unit.nest;
    let (condition, source) = lazy_source(nest, &nest.body[i as usize].instr)?;
    let Instr::Call(ScalarFn::Eq, args) = &nest.stmt(condition).instr else { return None };
    let column = flatten(&nest.col_axes(), &nest.cols);
    let is_column = |v: Val| matches!(&nest.stmt(v).instr, Instr::Index(e) if *e == column);
    let at = match args[..] {
        [a, b] if is_column(a) => b,
        [a, b] if is_column(b) => a,
        _ => return None,
    };
    let known = !unit.level[at.0 as usize] && nest.col_count().range().0 > 0;
    (known && !unit.is_in_place() && !scans(nest)).then_some(Pick { at, source })
}
