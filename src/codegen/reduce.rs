//! Nests with reductions or scans: rows across workgroups, columns in loops or across the invocations of a workgroup.
//!
//! A workgroup takes `rows` rows and gives `threads` invocations to each. The body runs in passes: pass `p` computes the
//! reductions whose arguments need the results of passes before `p`. Each invocation combines its columns alone, then the
//! invocations of a row combine through workgroup memory, in a tree with the same shape on every device. When a row fits
//! the registers of its invocations, elements are loaded once and kept across passes; otherwise every pass reloads them.

use super::combine::Accumulator;
use super::emit::{Emitter, Ex, Lane};
use super::exchange::{Reduction, subgroup_size};
use super::module::{Launch, assemble};
use super::plan::Variant;
use super::pointwise::axis;
use super::unit::Unit;
use crate::fusion::HELD_COLUMNS;
use crate::loop_ir::{Combiner, IndexExpr, Instr, Nest, Stmt, Tag, Val, Write, flatten, unflatten};
use crate::scalar::ScalarFn;
use crate::types::Dim;

/// Kernel axis of rows.
const ROW: u32 = 0;
/// Kernel axis of the rows of a chunk, where there are sums over them.
const STEP: u32 = 1;
/// Kernel axis of the first group of columns.
const COLUMN: u32 = 2;

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
}

/// The kernel of a nest with reductions or scans.
pub fn generate(unit: &Unit) -> Result<Variant, String> {
    let plain = expand_online(unit.nest);
    if let Some((nest, sums)) = &plain
        && let unit = unit.of(nest)
        && let shape = choose(&unit)?
        && shape.kept > 0
    {
        // Where an exponential serves its sum alone, errors relative to the largest, which is one, are what counts.
        let rough = !nest.writes.iter().any(|w| nest.is_element_write(w, &unit.level));
        return build(&unit, shape, if rough { sums } else { &[] });
    }
    build(unit, choose(unit)?, &[])
}

/// A sum of exponentials below a maximum.
#[derive(Clone, Copy, Debug)]
pub struct ExpSum {
    max: Val,
    exp: Val,
    sum: Val,
}

/// The nest with the maximum and the sum of exponentials as two reductions: where rows stay in registers, each exponential is
/// computed once and serves the sum and what is written. `None` where there is nothing to expand.
fn expand_online(nest: &Nest) -> Option<(Nest, Vec<ExpSum>)> {
    let online = |s: &Stmt| matches!(s.instr, Instr::Reduce(Combiner::OnlineSoftmax, _));
    if nest.tag != Tag::Loop || !nest.body.iter().any(online) {
        return None;
    }
    let (mut body, mut map): (Vec<Stmt>, Vec<Val>) = (vec![], vec![]);
    let mut sums = vec![None; nest.body.len()];
    let mut all = vec![];
    for (i, stmt) in nest.body.iter().enumerate() {
        let mut push = |instr: Instr| {
            body.push(Stmt { instr, dtype: stmt.dtype });
            Val(body.len() as u32 - 1)
        };
        let value = match stmt.instr {
            Instr::Reduce(Combiner::OnlineSoftmax, x) => {
                let x = map[x.0 as usize];
                let max = push(Instr::Reduce(Combiner::Max, x));
                let below = push(Instr::Call(ScalarFn::Sub, vec![x, max]));
                let e = push(Instr::Call(ScalarFn::Exp, vec![below]));
                let sum = push(Instr::Reduce(Combiner::Sum, e));
                sums[i] = Some(sum);
                all.push(ExpSum { max, exp: e, sum });
                max
            }
            Instr::Proj(of, 1) if sums[of.0 as usize].is_some() => sums[of.0 as usize].expect("just seen"),
            _ => push(stmt.instr.map(&|v| map[v.0 as usize], &|e| rename(nest, e, &map))),
        };
        map.push(value);
    }
    let writes = nest.writes.iter().map(|w| Write { index: rename(nest, &w.index, &map), value: map[w.value.0 as usize], ..w.clone() });
    Some((Nest { writes: writes.collect(), body, ..nest.clone() }, all))
}

fn rename(nest: &Nest, e: &IndexExpr, map: &[Val]) -> IndexExpr {
    let axes = [nest.row_axes(), nest.col_axes()].concat();
    e.substitute(&|a| axes[a.id as usize].clone(), &|v, size| IndexExpr::value(map[v as usize].0, size))
}

/// Lanes of consecutive columns with row and column-group axes, for legality checks.
pub fn column_lanes(nest: &Nest, lanes: u32) -> Vec<Lane> {
    (0..lanes).map(|l| lane(nest, lanes, COLUMN, l)).collect()
}

/// Chunks of rows that have a team of invocations each, and rows of a chunk: single rows, unless there are sums over rows.
fn chunks(nest: &Nest) -> (Dim, Dim) {
    let at = nest.chunk_axes().unwrap_or(nest.rows.len());
    let count = |sizes: &[Dim]| sizes.iter().fold(Dim::int(1), |n, d| n * d);
    (count(&nest.rows[..at]), count(&nest.rows[at..]))
}

/// The row axes over the kernel's axes.
fn row_axes(nest: &Nest) -> Vec<IndexExpr> {
    let at = nest.chunk_axes().unwrap_or(nest.rows.len());
    let (teams, length) = chunks(nest);
    let mut axes = unflatten(&axis(ROW, &teams), &nest.rows[..at]);
    axes.extend(unflatten(&axis(STEP, &length), &nest.rows[at..]));
    axes
}

fn lane(nest: &Nest, lanes: u32, id: u32, l: u32) -> Lane {
    let n = Dim::int(lanes as i64);
    let groups = nest.col_count().ceil_div(&n);
    let col = axis(id, &groups).times(&n).plus(&Dim::int(l as i64));
    let mut axes = row_axes(nest);
    axes.extend(unflatten(&col, &nest.cols));
    Lane { axes, write_axes: None, whole: None }
}

/// Chooses the layout from sizes and from which axis is contiguous in memory.
fn choose(unit: &Unit) -> Result<Shape, String> {
    let nest = unit.nest;
    let packed = nest.writes.iter().map(|w| unit.buffers[w.buffer.0 as usize].format.per_word).max().unwrap_or(1);
    let cols = nest.col_count();
    let divides = |n: i64| cols.try_div(&Dim::int(n)).is_some() && !cols.is(0);
    let has_scan = nest.body.iter().any(|s| matches!(s.instr, Instr::Scan(..)));
    let limit = unit.target.caps.max_invocations.min(256);
    let segments = matches!(nest.tag, Tag::Segments { .. });
    if has_scan || segments {
        return Ok(Shape { rows: if segments { limit } else { 64.min(limit) }, threads: 1, rows_first: true, lanes: 1, kept: 0, unroll: 1 });
    }
    let scatter = (0..nest.body.len() as u32).any(|i| lazy_source(nest, &nest.body[i as usize].instr).is_some() && picked(unit, i).is_none());
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
    if rows_contiguous(nest) {
        return Ok(unrolled(nest, column_shape(rows, groups, lanes, limit)));
    }
    if n < 32 || scatter {
        return Ok(Shape { rows: limit.min(if rows < 4096 { 64 } else { 256 }), threads: 1, rows_first: true, lanes, kept: 0, unroll: 1 });
    }
    // Few rows get more invocations each than many rows do.
    let most = if rows * 64 < unit.target.model.parallel_lanes as u64 { 256 } else { 64 };
    let mut threads = 8u32;
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
        kept <= 4 && held * lanes * kept <= REGISTERS && nest.body.len() as u32 * lanes * kept <= STATEMENTS
    };
    // Rows that fit no workgroup of the usual size may fit the largest.
    let wider = (threads == limit && unit.target.model.parallel_lanes >= 1 << 16).then_some([2, 4]).into_iter().flatten().map(|k| k * threads);
    let keeping = std::iter::once(threads).chain(wider).find(|&t| t <= most && fits(t)).filter(|_| cols.as_int().is_some());
    let threads = keeping.unwrap_or(threads);
    let kept = keeping.map_or(0, |t| groups.div_ceil(t as u64) as u32);
    Ok(unrolled(nest, Shape { rows: (64 / threads).max(1), threads, rows_first: false, lanes, kept, unroll: 1 }))
}

/// Rows in registers, with sums over rows beside them.
fn folding(unit: &Unit, groups: u64, lanes: u32) -> Result<Shape, String> {
    let most = unit.target.caps.max_invocations.min(unit.target.caps.max_workgroup_size);
    let kept = |threads: u32| groups.div_ceil(threads as u64) as u32;
    let fits = |limit: u32| move |threads: &u32| kept(*threads) * lanes <= limit;
    let sizes = || (3..16).map(|k| 1u32 << k).filter(|t| *t <= most);
    let threads = sizes().find(fits(COLUMNS_AT_HAND)).or_else(|| sizes().find(fits(HELD_COLUMNS)));
    let threads = threads.ok_or("a workgroup does not hold the sums over rows")?;
    Ok(Shape { rows: (64 / threads).max(1), threads, rows_first: false, lanes, kept: kept(threads), unroll: 1 })
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
    let step = shape.lanes * shape.threads;
    let small = |n: &u32| nest.body.len() as u32 * shape.lanes * n <= 200;
    let divides = |n: &u32| nest.col_count().try_div(&Dim::int((step * n) as i64)).is_some();
    let unroll = if shape.kept > 0 { 1 } else { [4, 2].into_iter().find(|n| small(n) && divides(n)).unwrap_or(1) };
    Shape { unroll, ..shape }
}

/// Neighboring invocations on neighboring rows; several invocations share a row when rows are few.
fn column_shape(rows: u64, groups: u64, lanes: u32, limit: u32) -> Shape {
    if rows >= 1 << 15 || groups < 8 {
        return Shape { rows: limit.min(if rows < 4096 { 64 } else { 256 }), threads: 1, rows_first: true, lanes, kept: 0, unroll: 1 };
    }
    let mut threads = 8;
    while threads < limit / 32 && rows * (threads as u64) < 1 << 16 && (threads as u64) < groups {
        threads *= 2;
    }
    Shape { rows: 32.min(limit / threads), threads, rows_first: true, lanes, kept: 0, unroll: 1 }
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
fn depths(nest: &Nest) -> Vec<usize> {
    let mut out: Vec<usize> = vec![];
    for stmt in &nest.body {
        let deepest = stmt.instr.operands().iter().map(|o| out[o.0 as usize]).max().unwrap_or(0);
        out.push(deepest + matches!(stmt.instr, Instr::Reduce(..)) as usize);
    }
    out
}

fn write_depth(w: &crate::loop_ir::Write, depth: &[usize]) -> usize {
    w.index.values().into_iter().map(|v| depth[v as usize]).fold(depth[w.value.0 as usize], usize::max)
}

/// `sum of where(c, x, 0)`: gives `c` and `x`, so that `x` is computed only where `c` holds.
fn lazy_source(nest: &Nest, instr: &Instr) -> Option<(Val, Val)> {
    let Instr::Reduce(Combiner::Sum, arg) = instr else { return None };
    let Instr::Call(ScalarFn::Where, args) = &nest.stmt(*arg).instr else { return None };
    let zero = matches!(&nest.stmt(args[2]).instr, Instr::Const(n) if n.as_f64() == 0.0);
    let compares = matches!(&nest.stmt(args[0]).instr, Instr::Call(ScalarFn::Eq, _));
    (zero && compares).then_some((args[0], args[1]))
}

/// A sum that takes one column: `sum of where(column == at, source, 0)`.
struct Pick {
    at: Val,
    source: Val,
}

/// Finds sums of one column whose number is known for the whole row. Where a row is overwritten in place, other invocations
/// may be ahead, and the column is found in turn as any other.
fn picked(unit: &Unit, i: u32) -> Option<Pick> {
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
    (known && !unit.is_in_place()).then_some(Pick { at, source })
}

/// State of a kernel under construction.
pub(super) struct Rows<'u, 'n> {
    pub(super) em: Emitter<'u>,
    pub(super) nest: &'n Nest,
    pub(super) shape: Shape,
    /// Active condition of each lane; `None` when always active.
    active: Vec<Option<String>>,
    row_active: Option<String>,
    groups: Dim,
    /// Depth of the block that works on one row.
    pub(super) base: usize,
    /// Sums over rows: names of the variables of each lane, for each write that has them.
    sums: Vec<(Write, Vec<String>)>,
    rough: Vec<ExpSum>,
    /// Workgroup arrays: element type and bytes.
    pub(super) shared: Vec<(&'static str, u32)>,
}

/// Spells the kernel in a given layout; the exponentials of `rough` sums need no more than the built-in's accuracy.
pub fn build(unit: &Unit, shape: Shape, rough: &[ExpSum]) -> Result<Variant, String> {
    let nest = unit.nest;
    let groups = nest.col_count().ceil_div(&Dim::int(shape.lanes as i64));
    let mut k = Rows {
        em: Emitter::new(unit),
        nest,
        shape,
        active: vec![],
        row_active: None,
        groups,
        base: 0,
        sums: vec![],
        rough: rough.to_vec(),
        shared: vec![],
    };
    k.em.rough_exp = rough.iter().map(|r| r.exp).collect();
    k.em.subgroup = subgroup_size(unit, &shape);
    k.prologue();
    k.lanes();
    if shape.lanes == 4 {
        let sets: Vec<Vec<usize>> = (0..k.sets()).map(|e| k.lane_set(e)).collect();
        super::vector::choose(&mut k.em, &sets);
    }
    k.open_chunk()?;
    let depth = depths(nest);
    let element: Vec<_> = nest.writes.iter().filter(|w| nest.is_element_write(w, &unit.level)).collect();
    let last_reduction = nest.body.iter().enumerate().filter(|(_, s)| matches!(s.instr, Instr::Reduce(..))).map(|(i, _)| depth[i]).max();
    let write_pass = element.iter().map(|w| write_depth(w, &depth)).max().map(|d| {
        // Values stored in place may still be read by later passes.
        if unit.is_in_place() { d.max(last_reduction.unwrap_or(1) - 1) } else { d }
    });
    let end = last_reduction.unwrap_or(0).max(write_pass.map_or(0, |p| p + 1));
    for pass in 0..end {
        let reductions: Vec<u32> = (0..nest.body.len() as u32)
            .filter(|&i| matches!(nest.body[i as usize].instr, Instr::Reduce(..)) && depth[i as usize] == pass + 1)
            .collect();
        k.pass(&reductions, if write_pass == Some(pass) { &element } else { &[] })?;
    }
    k.row_writes()?;
    k.close_chunk()?;
    let bytes: u32 = k.shared.iter().map(|(_, bytes)| bytes).sum();
    let name = match (shape.threads, shape.rows_first) {
        (1, _) => format!("row-per-invocation-{}", shape.rows),
        (t, true) => format!("{}-rows-across-{t}", shape.rows),
        (t, false) if shape.kept > 0 => format!("{}-rows-of-{t}x{}-in-registers", shape.rows, shape.lanes * shape.kept),
        (t, false) => format!("{}-rows-of-{t}", shape.rows),
    };
    let row_groups = chunks(nest).0.ceil_div(&Dim::int(shape.rows as i64));
    assemble(k.em, Launch { name, threads: shape.rows * shape.threads, groups: row_groups, shared_bytes: bytes })
}

impl Rows<'_, '_> {
    /// Finds the invocation's row and its place among the invocations of the row.
    fn prologue(&mut self) {
        let Shape { rows, threads, rows_first, .. } = self.shape;
        let em = &mut self.em;
        if threads == 1 {
            em.line("let ty = lid;");
        } else if rows == 1 {
            em.line("let tx = lid;");
        } else if rows_first {
            em.line(format!("let tx = lid / {rows}u;"));
            em.line(format!("let ty = lid % {rows}u;"));
        } else {
            em.line(format!("let tx = lid % {threads}u;"));
            em.line(format!("let ty = lid / {threads}u;"));
        }
        let count = chunks(self.nest).0;
        if rows == 1 {
            em.axes.insert(ROW, Ex::global("group"));
            return;
        }
        em.line(format!("let row = group * {rows}u + ty;"));
        em.axes.insert(ROW, Ex::global("row"));
        if count.try_div(&Dim::int(rows as i64)).is_some() {
            return;
        }
        let bound = em.size(&count);
        if threads == 1 {
            em.line(format!("if (row >= {}) {{ return; }}", bound.text));
        } else {
            // Barriers are ahead: invocations behind the last row repeat it and store nothing.
            em.line(format!("let r = min(row, {} - 1u);", bound.text));
            em.axes.insert(ROW, Ex::global("r"));
            self.row_active = Some(format!("row < {}", bound.text));
        }
    }

    /// The end of a sum of rough exponentials: NaN where the maximum is NaN or infinite, as the definition has it.
    pub(super) fn finish(&mut self, i: u32, text: String) -> String {
        let Some(max) = self.rough.iter().find(|r| r.sum == Val(i)).and_then(|r| self.em.computed(r.max.0, 0)) else { return text };
        format!("{}({}, {text})", self.em.helper("online_softmax_sum_"), max.text)
    }

    /// Declares the sums over rows and opens the loop over the rows of a chunk, where there are such sums.
    fn open_chunk(&mut self) -> Result<(), String> {
        for w in self.nest.writes.iter().filter(|w| w.fold) {
            let names: Vec<String> = (0..self.active.len()).map(|_| self.em.fresh("s")).collect();
            names.iter().for_each(|name| self.em.line(format!("var {name} = 0.0f;")));
            self.sums.push((w.clone(), names));
        }
        if self.sums.is_empty() {
            return Ok(());
        }
        self.em.open(false);
        self.base = self.em.depth();
        self.em.axes.insert(STEP, Ex { text: "m".into(), depth: self.base });
        Ok(())
    }

    /// Closes that loop and stores the sums.
    fn close_chunk(&mut self) -> Result<(), String> {
        if self.sums.is_empty() {
            return Ok(());
        }
        // The next row writes into the workgroup memory that this one reads.
        if self.shape.threads > 1 {
            self.em.line("workgroupBarrier();");
        }
        let length = self.em.size(&chunks(self.nest).1);
        self.em.close(&format!("for (var m = 0u; m < {}; m++)", length.text));
        self.base = 0;
        let tests: Vec<Option<String>> = self.active.iter().map(|a| both(a.as_deref(), self.row_active.as_deref())).collect();
        for (w, names) in std::mem::take(&mut self.sums) {
            for (lane, name) in names.iter().enumerate() {
                self.em.set_computed(w.value.0, lane, &Ex::global(name.clone()));
            }
            for set in 0..self.sets() {
                let lanes = self.lane_set(set);
                let stores = self.em.stores(&w, &lanes, &|l| tests[l].clone())?;
                stores.into_iter().for_each(|s| self.em.line(s));
            }
        }
        Ok(())
    }

    /// Adds the values of the columns at hand to a sum over rows.
    fn add_to_sums(&mut self, w: &Write) -> Result<(), String> {
        let names = self.sums.iter().find(|(own, _)| own == w).map(|(_, names)| names.clone()).unwrap_or_default();
        for (lane, name) in names.iter().enumerate() {
            let x = self.em.value(w.value, lane)?;
            // Columns behind the last are never stored.
            self.em.line(format!("{name} = {name} + {};", x.text));
        }
        Ok(())
    }

    /// Groups of columns an invocation holds at once.
    fn sets(&self) -> usize {
        self.shape.kept.max(self.shape.unroll) as usize
    }

    fn lane_set(&self, e: usize) -> Vec<usize> {
        let n = self.shape.lanes as usize;
        (e * n..(e + 1) * n).collect()
    }

    fn lanes(&mut self) {
        let Shape { threads, lanes, kept, .. } = self.shape;
        for e in 0..self.sets() as u32 {
            let id = COLUMN + e;
            let mut active = None;
            if kept > 0 {
                let count = self.groups.as_int().unwrap_or(0);
                let place = if e == 0 { "tx".to_string() } else { format!("tx + {}u", e * threads) };
                let place = if threads == 1 { format!("{e}u") } else { place };
                let name = self.em.fresh("c");
                if count >= ((e + 1) * threads) as i64 {
                    self.em.line(format!("let {name} = {place};"));
                } else {
                    self.em.line(format!("let {name} = min({place}, {}u);", count - 1));
                    active = Some(format!("{place} < {count}u"));
                }
                self.em.axes.insert(id, Ex::global(name));
            }
            for l in 0..lanes {
                self.em.lanes.push(lane(self.nest, lanes, id, l));
                self.active.push(active.clone());
            }
        }
    }

    /// One pass over the columns: these reductions, then these element-level writes.
    fn pass(&mut self, reductions: &[u32], writes: &[&crate::loop_ir::Write]) -> Result<(), String> {
        let nest = self.nest;
        let mut accumulators = vec![];
        for &i in reductions {
            let Instr::Reduce(combiner, arg) = nest.body[i as usize].instr else { continue };
            if let Some(pick) = picked(self.em.unit, i) {
                self.pick(i, &pick)?;
                continue;
            }
            let acc = Accumulator::new(&mut self.em, combiner, nest.dtype(arg))?.of_many(&mut self.em);
            acc.declare(&mut self.em);
            accumulators.push((i, arg, acc));
        }
        if accumulators.is_empty() && writes.is_empty() {
            return Ok(());
        }
        if self.shape.kept > 0 {
            self.columns(&accumulators, writes)?;
        } else {
            self.column_loop(&accumulators, writes)?;
        }
        for (_, _, acc) in &accumulators {
            acc.close(&mut self.em).into_iter().for_each(|l| self.em.line(l));
        }
        if !accumulators.is_empty() {
            self.combine(&accumulators);
        }
        Ok(())
    }

    fn column_loop(&mut self, accumulators: &[Reduction], writes: &[&crate::loop_ir::Write]) -> Result<(), String> {
        let count = self.em.size(&self.groups);
        let single = self.groups.is(1) && self.shape.threads == 1;
        self.em.open(false);
        let depth = self.em.depth();
        self.em.loop_depth = Some(depth);
        for e in 0..self.shape.unroll {
            let text = match e {
                _ if single => "0u".to_string(),
                0 => "c".to_string(),
                e => {
                    let name = self.em.fresh("c");
                    self.em.line(format!("let {name} = c + {}u;", e * self.shape.threads));
                    name
                }
            };
            self.em.axes.insert(COLUMN + e, Ex { text, depth });
        }
        self.columns(accumulators, writes)?;
        self.em.loop_depth = None;
        let threads = self.shape.threads;
        let (start, end) = self.column_range(&count.text)?;
        self.em.close(&format!("for (var c = {start}; c < {end}; c += {}u)", threads * self.shape.unroll));
        Ok(())
    }

    /// First column of an invocation, and where its row ends.
    fn column_range(&mut self, count: &str) -> Result<(String, String), String> {
        if let Tag::Segments { start, end } = self.nest.tag
            && self.shape.threads == 1
            && self.shape.lanes == 1
            && self.shape.unroll == 1
        {
            let (start, end) = (self.em.value(start, 0)?, self.em.value(end, 0)?);
            return Ok((format!("u32(max({}, 0i))", start.text), format!("min(u32(max({}, 0i)), {count})", end.text)));
        }
        let first = if self.shape.threads == 1 { "0u" } else { "tx" };
        Ok((first.into(), count.into()))
    }

    /// The columns that are at hand: all lanes of one step of the loop, or everything in registers.
    fn columns(&mut self, accumulators: &[Reduction], writes: &[&crate::loop_ir::Write]) -> Result<(), String> {
        self.prefetch(accumulators)?;
        for (_, arg, acc) in accumulators.iter().filter(|(_, _, acc)| acc.takes_several()) {
            self.add_sets(acc, *arg)?;
        }
        for lane in 0..self.active.len() {
            for (i, arg, acc) in accumulators {
                self.add_lane(*i, *arg, acc, lane)?;
            }
        }
        let mut stores = vec![];
        for w in writes {
            if w.fold {
                self.add_to_sums(w)?;
                continue;
            }
            for set in 0..self.sets() {
                let tests: Vec<Option<String>> = self.active.iter().map(|a| both(a.as_deref(), self.row_active.as_deref())).collect();
                let lanes = self.lane_set(set);
                stores.extend(self.em.stores(w, &lanes, &|l| tests[l].clone())?);
            }
        }
        for s in stores {
            self.em.line(s);
        }
        Ok(())
    }

    /// The result of a sum of one column: that column's element, or zero when there is no such column.
    fn pick(&mut self, i: u32, pick: &Pick) -> Result<(), String> {
        let lane = self.em.lanes.len();
        let id = COLUMN + lane as u32;
        let count = self.nest.col_count();
        let size = self.em.size(&count);
        let kind = self.em.unit.kind(self.nest.dtype(pick.at))?;
        let at = self.em.value(pick.at, 0)?;
        let at = self.em.bind(Ex { text: super::spell::to_index(kind, &at.text), depth: at.depth }, "x");
        let place = Ex { text: format!("min({}, {} - 1u)", at.text, size.text), depth: at.depth };
        let place = self.em.bind(place, "x");
        self.em.axes.insert(id, place);
        let mut axes = row_axes(self.nest);
        axes.extend(unflatten(&axis(id, &count), &self.nest.cols));
        self.em.lanes.push(Lane { axes, write_axes: None, whole: None });
        // What earlier passes found holds for the new lane too.
        for v in 0..self.nest.body.len() as u32 {
            if !self.em.unit.level[v as usize]
                && let Some(known) = self.em.computed(v, 0)
            {
                self.em.set_computed(v, lane, &known);
            }
        }
        let x = self.em.value(pick.source, lane)?;
        let kind = self.em.unit.kind(self.nest.dtype(pick.source))?;
        let text = format!("select({}, {}, {} < {})", kind.zero(), x.text, at.text, size.text);
        let result = self.em.bind(Ex { text, depth: x.depth }, "r");
        self.set_result(i, 0, &result);
        Ok(())
    }

    /// Starts all loads of the columns at hand before anything waits for the first.
    fn prefetch(&mut self, accumulators: &[Reduction]) -> Result<(), String> {
        let nest = self.nest;
        if self.sets() == 1 || accumulators.is_empty() {
            return Ok(());
        }
        for (v, stmt) in nest.body.iter().enumerate() {
            let Instr::Load { index, mask: None, .. } = &stmt.instr else { continue };
            if self.em.unit.level[v] && index.values().is_empty() {
                for lane in 0..self.active.len() {
                    self.em.value(Val(v as u32), lane)?;
                }
            }
        }
        Ok(())
    }

    /// Adds an element to a reduction that takes elements one by one.
    fn add_lane(&mut self, i: u32, arg: Val, acc: &Accumulator, lane: usize) -> Result<(), String> {
        if let Some((condition, source)) = lazy_source(self.nest, &self.nest.body[i as usize].instr)
            && self.active[lane].is_none()
        {
            return self.add_where(acc, condition, source, lane);
        }
        let column = match acc.combiner {
            _ if acc.takes_several() => return Ok(()),
            Combiner::ArgMax | Combiner::ArgMin => {
                let flat = flatten(&self.nest.col_axes(), &self.nest.cols);
                let at = self.em.in_lane(&flat, lane);
                self.em.index(&at, lane)?.text
            }
            _ => String::new(),
        };
        let x = self.em.value(arg, lane)?;
        let lines = acc.add(&mut self.em, &x.text, &column);
        self.guarded(self.active[lane].clone(), lines);
        Ok(())
    }

    /// Adds elements to a reduction that takes several, as many at once as share a condition.
    fn add_sets(&mut self, acc: &Accumulator, arg: Val) -> Result<(), String> {
        let sets: Vec<Vec<usize>> = match self.active.iter().all(Option::is_none) {
            true => vec![(0..self.active.len()).collect()],
            false => (0..self.sets()).map(|e| self.lane_set(e)).collect(),
        };
        for set in sets {
            let values = set.iter().map(|&l| self.em.value(arg, l).map(|e| e.text)).collect::<Result<Vec<_>, _>>()?;
            let lines = acc.add_all(&mut self.em, &values);
            self.guarded(self.active[set[0]].clone(), lines);
        }
        Ok(())
    }

    fn add_where(&mut self, acc: &Accumulator, condition: Val, source: Val, lane: usize) -> Result<(), String> {
        let test = self.em.value(condition, lane)?;
        self.em.open(true);
        let x = self.em.value(source, lane)?;
        for line in acc.add(&mut self.em, &x.text, "") {
            self.em.line(line);
        }
        self.em.close(&format!("if ({})", test.text));
        Ok(())
    }

    fn guarded(&mut self, test: Option<String>, lines: Vec<String>) {
        match test {
            Some(test) => {
                self.em.open(false);
                for line in lines {
                    self.em.line(line);
                }
                self.em.close(&format!("if ({test})"));
            }
            None => lines.into_iter().for_each(|l| self.em.line(l)),
        }
    }

    /// Row-level writes, once per row.
    fn row_writes(&mut self) -> Result<(), String> {
        let unit = self.em.unit;
        let writes: Vec<_> = self.nest.writes.iter().filter(|w| !self.nest.is_element_write(w, &unit.level)).collect();
        let first = (self.shape.threads > 1).then(|| "tx == 0u".to_string());
        let test = both(first.as_deref(), self.row_active.as_deref());
        let mut stores = vec![];
        for w in writes {
            if unit.buffers[w.buffer.0 as usize].format.per_word > 1 {
                let b = &unit.buffers[w.buffer.0 as usize];
                return Err(format!("{}: a packed write once per row does not own whole words; word storage is needed", b.name));
            }
            stores.extend(self.em.stores(w, &[0], &|_| test.clone())?);
        }
        if !stores.is_empty() && unit.is_in_place() && self.shape.threads > 1 {
            // Other invocations of the row may still read what is overwritten here.
            self.em.line("storageBarrier();");
            self.em.line("workgroupBarrier();");
        }
        for s in stores {
            self.em.line(s);
        }
        Ok(())
    }
}

fn both(a: Option<&str>, b: Option<&str>) -> Option<String> {
    match (a, b) {
        (Some(a), Some(b)) => Some(format!("{a} && {b}")),
        (Some(a), None) | (None, Some(a)) => Some(a.to_string()),
        (None, None) => None,
    }
}
