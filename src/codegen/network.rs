//! Sorts within a workgroup: a bitonic network (Batcher, 1968) over elements that invocations hold in registers.
//!
//! An element is its key, as words that order as the numbers do, and its column, which makes every element different and the
//! order stable; elements behind the end of a row carry the largest key and columns behind all others. An invocation loads columns
//! that lie as many apart as the row has invocations, sorts what it holds, and then runs of neighboring invocations are merged two
//! by two: the first step of a merge meets elements mirrored, so that every step puts the smaller element first. Partners are
//! reached by shuffles within a subgroup and through workgroup memory beyond; strides within an invocation are exchanges of
//! registers.
//!
//! Memory traffic: keys are read along memory; sorted columns are laid out in workgroup memory, so that neighbors take neighboring
//! ranks, whose values are read again where they come from (a row of this size is still in the cache) and written along memory.
//! With N elements there are log2(N)^2 / 2 steps; of a row of 2,048 in 256 invocations without subgroups, 36 go through workgroup
//! memory, with subgroups of 32 six do.

use super::combine::suffix;
use super::emit::{Emitter, Ex, Lane};
use super::exchange::subgroup_size;
use super::module::{Launch, assemble};
use super::plan::Variant;
use super::pointwise::axis;
use super::reduce::Shape as Team;
use super::sort::Sort;
use super::storage::Kind;
use super::unit::Unit;
use crate::loop_ir::{Nest, unflatten};
use crate::types::Dim;

/// Elements of an invocation, where rows have that many.
const EACH: u32 = 8;
/// Invocations of a workgroup at least, where there are several rows.
const THREADS: u32 = 64;
/// Kernel axis of rows; lanes have theirs behind it.
const ROW: u32 = 0;

/// How rows are laid over workgroups and invocations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    /// Rows of a workgroup.
    rows: u32,
    /// Invocations of a row, a power of two.
    threads: u32,
    /// Elements of an invocation, a power of two.
    each: u32,
    /// Words of an element: those of its key and its column.
    words: u32,
    /// Invocations that reach each other by shuffles, a power of two.
    near: u32,
}

/// The kernel of a row that one workgroup holds; `None` where it does not.
pub fn generate(unit: &Unit, sort: &Sort) -> Result<Option<Variant>, String> {
    let nest = unit.nest;
    let dtype = nest.dtype(sort.key);
    let kind = unit.kind(dtype)?;
    let (low, high) = nest.col_count().range();
    let words = if kind == Kind::I64 { 3 } else { 2 };
    if kind == Kind::F64 || low < 1 || high > unit.target.caps.sorted_elements(dtype) as i64 {
        return Ok(None);
    }
    let caps = &unit.target.caps;
    let length = (high as u32).next_power_of_two();
    let limit = 1 << caps.max_invocations.min(caps.max_workgroup_size).ilog2();
    let each = EACH.min(length).max(length / limit);
    let threads = length / each;
    let rows = (THREADS.min(limit) / threads).max(1);
    let team = Team { rows, threads, rows_first: false, lanes: 1, kept: 0, unroll: 1 };
    let subgroup = subgroup_size(unit, &team);
    let shape = Shape { rows, threads, each, words, near: subgroup.unwrap_or(1).min(threads) };
    let mut em = Emitter::new(unit);
    em.subgroup = subgroup;
    let mut network = Network { em, nest, shape, full: low == high && high == length as i64 };
    network.load(sort, kind)?;
    network.sort_own();
    network.merge_runs();
    let sources = network.spread();
    network.store(sort, &sources)?;
    let shared_bytes = if threads > 1 { 4 * words * rows * length } else { 0 };
    let groups = nest.row_count().ceil_div(&Dim::int(rows as i64));
    let name = format!("sort-{rows}x{threads}x{each}");
    Ok(Some(assemble(network.em, Launch { name, threads: rows * threads, groups, shared_bytes })?))
}

/// A kernel under construction. The elements of an invocation are the variables `own0`, `own1` and so on, vectors of key and column.
struct Network<'a> {
    em: Emitter<'a>,
    nest: &'a Nest,
    shape: Shape,
    /// No element lies behind the end of a row.
    full: bool,
}

/// Where a step of a merge finds its partners.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Shuffle,
    Memory,
}

impl Network<'_> {
    /// Names the row, and loads the elements.
    fn load(&mut self, sort: &Sort, kind: Kind) -> Result<(), String> {
        let Shape { rows, threads, each, words, .. } = self.shape;
        let (em, nest) = (&mut self.em, self.nest);
        let (row_count, columns) = (nest.row_count(), nest.col_count());
        // An element's own column, the column of what it becomes, and the rank of that.
        for lane in 0..3 * each {
            let mut axes = unflatten(&axis(ROW, &row_count), &nest.rows);
            axes.extend(unflatten(&axis(ROW + 1 + lane, &columns), &nest.cols));
            em.lanes.push(Lane { axes, write_axes: None, whole: None });
        }
        let (row_size, size) = (em.size(&row_count).text, em.size(&columns).text);
        em.line(format!("let tx = lid % {threads}u;"));
        em.line(format!("let ty = lid / {threads}u;"));
        em.line(format!("let here = group * {rows}u + ty;"));
        em.line(format!("let row = min(here, {row_size} - 1u);"));
        em.line(format!("let live = here < {row_size};"));
        em.line(format!("let size = {size};"));
        em.axes.insert(ROW, Ex::global("row"));
        let mut keys = vec![];
        for e in 0..each {
            let column = format!("(tx + {}u)", e * threads);
            let column = self.column(e, &column);
            keys.push((self.em.value(sort.key, e as usize)?.text, column));
        }
        let largest = if words == 3 { "vec2<u32>(0xffffffffu)" } else { "0xffffffffu" };
        for (e, (key, column)) in keys.into_iter().enumerate() {
            let key = match kind {
                Kind::Bool => format!("select(0u, 1u, {key})"),
                _ => format!("{}({key})", self.em.helper(&format!("sort_key_{}", suffix(kind)))),
            };
            let key = if sort.descending { format!("~{key}") } else { key };
            let key = if self.full { key } else { format!("select({largest}, {key}, {column} < size)") };
            let ty = self.vector();
            self.em.line(format!("var own{e} = {ty}({key}, {column});"));
        }
        Ok(())
    }

    /// Places a lane at a column; columns behind the end stand for the last.
    fn column(&mut self, lane: u32, text: &str) -> String {
        let column = self.em.fresh("c");
        self.em.line(format!("let {column} = {text};"));
        let inside = if self.full { column.clone() } else { format!("min({column}, size - 1u)") };
        let inside = self.em.bind(Ex::global(inside), "c");
        self.em.axes.insert(ROW + 1 + lane, inside);
        column
    }

    fn vector(&self) -> &'static str {
        if self.shape.words == 3 { "vec3<u32>" } else { "vec2<u32>" }
    }

    fn components(&self) -> &'static [&'static str] {
        if self.shape.words == 3 { &["x", "y", "z"] } else { &["x", "y"] }
    }

    fn goes_before(&mut self) -> String {
        let name = if self.shape.words == 3 { "goes_before_wide_" } else { "goes_before_" };
        self.em.helper(name)
    }

    /// Puts two elements of the invocation in order.
    fn order(&mut self, first: u32, second: u32) {
        let before = self.goes_before();
        let (a, b) = (format!("own{first}"), format!("own{second}"));
        self.em.line(format!("{{ let s = {before}({b}, {a}); let t = {a}; {a} = select({a}, {b}, s); {b} = select({b}, t, s); }}"));
    }

    /// Sorts the elements of each invocation.
    fn sort_own(&mut self) {
        let each = self.shape.each;
        let mut run = 2;
        while run <= each {
            for first in (0..each).step_by(run as usize) {
                (0..run / 2).for_each(|k| self.order(first + k, first + run - 1 - k));
            }
            self.merge_own(run / 4);
            run *= 2;
        }
    }

    /// The steps of a merge within each invocation, from a stride on.
    fn merge_own(&mut self, mut stride: u32) {
        while stride > 0 {
            for e in (0..self.shape.each).filter(|e| e & stride == 0) {
                self.order(e, e + stride);
            }
            stride /= 2;
        }
    }

    /// Merges the runs of neighboring invocations until the row is one.
    fn merge_runs(&mut self) {
        let Shape { rows, threads, each, words, near } = self.shape;
        if threads > 1 {
            self.em.globals.push(format!("var<workgroup> exchanged: array<u32, {}>;", words * rows * threads * each));
        }
        if near > 1 {
            self.em.open(false);
            self.meet(Reach::Shuffle, true);
            self.strides(Reach::Shuffle, "span / 2u", 1);
            self.merge_own(each / 2);
            self.em.close(&format!("for (var span = 1u; span < {near}u; span *= 2u)"));
        }
        if threads > near {
            self.em.open(false);
            self.meet(Reach::Memory, true);
            self.strides(Reach::Memory, "span / 2u", near);
            if near > 1 {
                self.strides(Reach::Shuffle, &format!("{}u", near / 2), 1);
            }
            self.merge_own(each / 2);
            self.em.close(&format!("for (var span = {near}u; span < {threads}u; span *= 2u)"));
        }
    }

    /// Steps of falling strides, counted in invocations.
    fn strides(&mut self, reach: Reach, first: &str, last: u32) {
        self.em.open(false);
        self.meet(reach, false);
        self.em.close(&format!("for (var stride = {first}; stride >= {last}u; stride /= 2u)"));
    }

    /// One step between invocations: the lower one keeps the smaller element. The first step of a merge meets the other run mirrored.
    fn meet(&mut self, reach: Reach, mirrored: bool) {
        let Shape { rows, threads, each, .. } = self.shape;
        let (mask, bit) = if mirrored { ("(2u * span - 1u)", "span") } else { ("stride", "stride") };
        let (before, vector, components) = (self.goes_before(), self.vector(), self.components());
        let place = |at: &str, c: usize, e: u32| format!("exchanged[{at} + {}u]", (c as u32 * each + e) * rows * threads);
        let em = &mut self.em;
        em.open(false);
        if reach == Reach::Memory {
            for e in 0..each {
                for (c, component) in components.iter().enumerate() {
                    em.line(format!("{} = own{e}.{component};", place("lid", c, e)));
                }
            }
            em.line("workgroupBarrier();");
            em.line(format!("let other = lid ^ {mask};"));
        }
        for e in 0..each {
            let theirs = if mirrored { each - 1 - e } else { e };
            let text = match reach {
                Reach::Shuffle => format!("subgroupShuffleXor(own{theirs}, {mask})"),
                Reach::Memory => {
                    let parts: Vec<String> = (0..components.len()).map(|c| place("other", c, theirs)).collect();
                    format!("{vector}({})", parts.join(", "))
                }
            };
            em.line(format!("let met{e} = {text};"));
        }
        if reach == Reach::Memory {
            em.line("workgroupBarrier();");
        }
        em.line(format!("let low = (tx & {bit}) == 0u;"));
        for e in 0..each {
            em.line(format!("own{e} = select(own{e}, met{e}, {before}(met{e}, own{e}) == low);"));
        }
        em.close("");
    }

    /// Hands sorted columns out so that neighboring invocations have neighboring ranks. Gives the column of each rank.
    fn spread(&mut self) -> Vec<String> {
        let Shape { threads, each, .. } = self.shape;
        let column = self.components()[self.shape.words as usize - 1];
        if threads == 1 {
            return (0..each).map(|e| format!("own{e}.{column}")).collect();
        }
        // Places are permuted within each 32, against bank conflicts.
        let place = |rank: String| format!("exchanged[ty * {}u + ({rank} ^ (({rank} >> 5u) & 31u))]", threads * each);
        for e in 0..each {
            self.em.line(format!("{} = own{e}.{column};", place(format!("(tx * {each}u + {e}u)"))));
        }
        self.em.line("workgroupBarrier();");
        (0..each).map(|e| place(format!("(tx + {}u)", e * threads))).collect()
    }

    /// Runs the rest of the body at the ranks and writes.
    fn store(&mut self, sort: &Sort, sources: &[String]) -> Result<(), String> {
        let Shape { threads, each, .. } = self.shape;
        let nest = self.nest;
        let (at_source, at_rank) = (each, 2 * each);
        let mut ranks = vec![];
        for (e, source) in (0..each).zip(sources) {
            let source = self.column(at_source + e, source);
            let proj = Ex::global(format!("i32({source})"));
            sort.columns(nest).into_iter().for_each(|v| self.em.set_computed(v.0, (at_rank + e) as usize, &proj));
        }
        for e in 0..each {
            if sort.value_is_used(nest) {
                let value = self.em.value(sort.key, (at_source + e) as usize)?;
                self.em.set_computed(sort.at.0, (at_rank + e) as usize, &value);
            }
            let rank = if threads == 1 { format!("{e}u") } else { format!("(tx + {}u)", e * threads) };
            ranks.push(self.column(at_rank + e, &rank));
        }
        let lanes: Vec<usize> = (at_rank as usize..(at_rank + each) as usize).collect();
        let inside = |l: usize| {
            let rank = &ranks[l - at_rank as usize];
            Some(if self.full { "live".into() } else { format!("live && {rank} < size") })
        };
        let mut stores = vec![];
        for w in &nest.writes {
            if nest.is_element_write(w, &self.em.unit.level) {
                stores.extend(self.em.stores(w, &lanes, &inside)?);
            } else {
                stores.extend(self.em.stores(w, &lanes[..1], &|_| Some("live && tx == 0u".into()))?);
            }
        }
        stores.into_iter().for_each(|s| self.em.line(s));
        Ok(())
    }
}
