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
//! Where only the first few elements of a row are written, an invocation holds as many: it sorts that many of its columns at a time
//! and keeps the smaller half of those and what it has, which takes about K / 4 + 3 exchanges of registers for each K elements
//! read; then invocations do the same with each other. No row is too long for that.
//!
//! With N elements there are log2(N)^2 / 2 steps; of a row of 2,048 in 256 invocations without subgroups, 36 go through workgroup
//! memory, with subgroups of 32 six do.

use crate::codegen::text::emit::{Block, Emitter, Ex};
use crate::codegen::text::module::{Geometry, Shader, assemble};
use crate::codegen::text::storage::Kind;
use crate::codegen::text::unit::Unit;
use crate::forms::{Lane, Network, Sort};
use crate::loop_ir::{IndexExpr, Nest, unflatten};
use crate::types::Dim;

/// Kernel axis of rows; lanes have theirs behind it.
const ROW: u32 = 0;

/// The kernel of rows that one workgroup holds, or of which it holds what is written.
pub fn spell(unit: &Unit, form: &Network) -> Result<Shader, String> {
    let sort = super::rank::the_sort(unit)?;
    let kind = unit.kind(unit.nest.dtype(sort.key))?;
    if form.head { head(unit, &sort, kind, form) } else { whole(unit, &sort, kind, form) }
}

fn whole(unit: &Unit, sort: &Sort, kind: Kind, form: &Network) -> Result<Shader, String> {
    let Network { threads, each, .. } = *form;
    let mut sorter = Sorter::new(unit, sort, form, each);
    let keys = sorter.keys("0u")?;
    sorter.elements("own", &keys, kind);
    sorter.sort_own("own");
    sorter.merge_runs();
    let sources = sorter.spread();
    let ranks: Vec<String> = (0..each).map(|e| if threads == 1 { format!("{e}u") } else { format!("tx + {}u", e * threads) }).collect();
    sorter.store(&sources, &ranks)?;
    sorter.finish("sort")
}

fn head(unit: &Unit, sort: &Sort, kind: Kind, form: &Network) -> Result<Shader, String> {
    let Network { threads, each, words, .. } = *form;
    let mut sorter = Sorter::new(unit, sort, form, 1);
    for e in 0..each {
        let last = sorter.last();
        sorter.em.line(format!("var own{e} = {}({last}, 0xffffffffu);", sorter.vector()));
    }
    sorter.em.open(Block::Uniform);
    let keys = sorter.keys("base")?;
    sorter.elements("next", &keys, kind);
    sorter.sort_own("next");
    let before = sorter.goes_before();
    for e in 0..each {
        let next = format!("next{}", each - 1 - e);
        sorter.em.line(format!("own{e} = select(own{e}, {next}, {before}({next}, own{e}));"));
    }
    sorter.merge_own("own", each / 2);
    sorter.em.close(&format!("for (var base = 0u; base < size; base += {}u)", threads * each));
    sorter.merge_first();
    let column = sorter.components()[words as usize - 1];
    sorter.em.line(format!("var pick = own0.{column};"));
    for e in 1..each {
        sorter.em.line(format!("pick = select(pick, own{e}.{column}, tx == {e}u);"));
    }
    sorter.store(&["pick".into()], &["tx".into()])?;
    sorter.finish("first")
}

/// A kernel under construction. The elements of an invocation are the variables `own0`, `own1` and so on, vectors of key and column.
struct Sorter<'a> {
    em: Emitter<'a>,
    nest: &'a Nest,
    sort: &'a Sort,
    shape: &'a Network,
    /// Elements that an invocation writes.
    outputs: u32,
    /// Elements pass through workgroup memory.
    exchanges: bool,
}

/// Where a step of a merge finds its partners.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Shuffle,
    Memory,
}

/// A step between invocations.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The first of a merge: the lower invocation keeps the smaller of its elements and those of the other run, mirrored.
    Mirrored,
    /// The others: elements at a distance.
    Straight,
    /// Both keep the smaller half of their elements together.
    Best,
}

impl<'a> Sorter<'a> {
    /// Names the row. Lanes: an element's own column, the column of what it becomes, and the rank of that.
    fn new(unit: &'a Unit<'a>, sort: &'a Sort, shape: &'a Network, outputs: u32) -> Sorter<'a> {
        let nest = unit.nest;
        let mut em = Emitter::new(unit);
        let (row_count, columns) = (nest.row_count(), nest.col_count());
        for lane in 0..shape.each + 2 * outputs {
            let mut axes = unflatten(&IndexExpr::axis(ROW, &row_count), &nest.rows);
            axes.extend(unflatten(&IndexExpr::axis(ROW + 1 + lane, &columns), &nest.cols));
            em.lanes.push(Lane::at(axes));
        }
        em.subgroup = shape.subgroup;
        let (row_size, size) = (em.size(&row_count).text, em.size(&columns).text);
        em.line(format!("let tx = lid % {}u;", shape.threads));
        em.line(format!("let ty = lid / {}u;", shape.threads));
        em.line(format!("let here = group * {}u + ty;", shape.rows));
        em.line(format!("let row = min(here, {row_size} - 1u);"));
        em.line(format!("let live = here < {row_size};"));
        em.line(format!("let size = {size};"));
        em.axes.insert(ROW, Ex::global("row"));
        Sorter { em, nest, sort, shape, outputs, exchanges: false }
    }

    /// The key and the column of each element of an invocation, the first columns of all invocations at `base`.
    fn keys(&mut self, base: &str) -> Result<Vec<(String, String)>, String> {
        let (mut keys, checks) = (vec![], self.sort.checks(self.nest).1);
        for e in 0..self.shape.each {
            let column = self.column(e, &format!("{base} + tx + {}u", e * self.shape.threads));
            self.em.check(&checks, e as usize..e as usize + 1)?;
            keys.push((self.em.value(self.sort.key, e as usize)?.text, column));
        }
        Ok(keys)
    }

    /// Names the elements of those keys and columns.
    fn elements(&mut self, name: &str, keys: &[(String, String)], kind: Kind) {
        for (e, (key, column)) in keys.iter().enumerate() {
            let key = match kind {
                Kind::Bool => format!("select(0u, 1u, {key})"),
                _ => format!("{}({key})", self.em.helper(&format!("sort_key_{}", kind.suffix()))),
            };
            let key = if self.sort.descending { format!("~{key}") } else { key };
            let key = if self.shape.full { key } else { format!("select({}, {key}, {column} < size)", self.last()) };
            self.em.line(format!("var {name}{e} = {}({key}, {column});", self.vector()));
        }
    }

    /// Places a lane at a column; columns behind the end stand for the last.
    fn column(&mut self, lane: u32, text: &str) -> String {
        let (column, depth) = (self.em.fresh("c"), self.em.depth());
        self.em.line(format!("let {column} = {text};"));
        let inside = if self.shape.full { column.clone() } else { format!("min({column}, size - 1u)") };
        let inside = self.em.bind(Ex { text: inside, depth }, "c");
        self.em.axes.insert(ROW + 1 + lane, inside);
        column
    }

    /// Invocations that reach each other by shuffles, a power of two.
    fn near(&self) -> u32 {
        self.shape.subgroup.unwrap_or(1).min(self.shape.threads)
    }

    /// The words of the largest key.
    fn last(&self) -> &'static str {
        if self.shape.words == 3 { "vec2<u32>(0xffffffffu)" } else { "0xffffffffu" }
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
    fn order(&mut self, name: &str, first: u32, second: u32) {
        let before = self.goes_before();
        let (a, b) = (format!("{name}{first}"), format!("{name}{second}"));
        self.em.line(format!("{{ let s = {before}({b}, {a}); let t = {a}; {a} = select({a}, {b}, s); {b} = select({b}, t, s); }}"));
    }

    /// Sorts the elements of each invocation.
    fn sort_own(&mut self, name: &str) {
        let each = self.shape.each;
        let mut run = 2;
        while run <= each {
            for first in (0..each).step_by(run as usize) {
                (0..run / 2).for_each(|k| self.order(name, first + k, first + run - 1 - k));
            }
            self.merge_own(name, run / 4);
            run *= 2;
        }
    }

    /// The steps of a merge within each invocation, from a stride on.
    fn merge_own(&mut self, name: &str, mut stride: u32) {
        while stride > 0 {
            for e in (0..self.shape.each).filter(|e| e & stride == 0) {
                self.order(name, e, e + stride);
            }
            stride /= 2;
        }
    }

    /// The smallest elements of all invocations of a row, in each of them.
    fn merge_first(&mut self) {
        let (Network { threads, each, .. }, near) = (*self.shape, self.near());
        for (reach, start, end) in [(Reach::Shuffle, 1, near), (Reach::Memory, near, threads)] {
            if start < end {
                self.em.open(Block::Uniform);
                self.meet(reach, Step::Best);
                self.merge_own("own", each / 2);
                self.em.close(&format!("for (var span = {start}u; span < {end}u; span *= 2u)"));
            }
        }
    }

    /// Merges the runs of neighboring invocations until the row is one.
    fn merge_runs(&mut self) {
        let (Network { threads, each, .. }, near) = (*self.shape, self.near());
        if near > 1 {
            self.em.open(Block::Uniform);
            self.meet(Reach::Shuffle, Step::Mirrored);
            self.strides(Reach::Shuffle, "span / 2u", 1);
            self.merge_own("own", each / 2);
            self.em.close(&format!("for (var span = 1u; span < {near}u; span *= 2u)"));
        }
        if threads > near {
            self.em.open(Block::Uniform);
            self.meet(Reach::Memory, Step::Mirrored);
            self.strides(Reach::Memory, "span / 2u", near);
            if near > 1 {
                self.strides(Reach::Shuffle, &format!("{}u", near / 2), 1);
            }
            self.merge_own("own", each / 2);
            self.em.close(&format!("for (var span = {near}u; span < {threads}u; span *= 2u)"));
        }
    }

    /// Steps of falling strides, counted in invocations.
    fn strides(&mut self, reach: Reach, first: &str, last: u32) {
        self.em.open(Block::Uniform);
        self.meet(reach, Step::Straight);
        self.em.close(&format!("for (var stride = {first}; stride >= {last}u; stride /= 2u)"));
    }

    /// One step between invocations.
    fn meet(&mut self, reach: Reach, step: Step) {
        let Network { rows, threads, each, .. } = *self.shape;
        let (mask, bit) = match step {
            Step::Mirrored => ("(2u * span - 1u)", "span"),
            Step::Straight => ("stride", "stride"),
            Step::Best => ("span", "span"),
        };
        let (before, vector, components) = (self.goes_before(), self.vector(), self.components());
        let place = |at: &str, c: usize, e: u32| format!("exchanged[{at} + {}u]", (c as u32 * each + e) * rows * threads);
        self.exchanges |= reach == Reach::Memory;
        let em = &mut self.em;
        em.open(Block::Uniform);
        if reach == Reach::Memory {
            for e in 0..each {
                for (c, component) in components.iter().enumerate() {
                    em.line(format!("{} = own{e}.{component};", place("lid", c, e)));
                }
            }
            em.barrier();
            em.line(format!("let other = lid ^ {mask};"));
        }
        for e in 0..each {
            let theirs = if step == Step::Straight { e } else { each - 1 - e };
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
            em.barrier();
        }
        let keeps = if step == Step::Best { "" } else { " == low" };
        if step != Step::Best {
            em.line(format!("let low = (tx & {bit}) == 0u;"));
        }
        for e in 0..each {
            em.line(format!("own{e} = select(own{e}, met{e}, {before}(met{e}, own{e}){keeps});"));
        }
        em.close("");
    }

    /// Hands sorted columns out so that neighboring invocations have neighboring ranks. Gives the column of each rank.
    fn spread(&mut self) -> Vec<String> {
        let Network { threads, each, .. } = *self.shape;
        let column = self.components()[self.shape.words as usize - 1];
        if threads == 1 {
            return (0..each).map(|e| format!("own{e}.{column}")).collect();
        }
        self.exchanges = true;
        // Places are permuted within each 32, against bank conflicts.
        let place = |rank: String| format!("exchanged[ty * {}u + ({rank} ^ (({rank} >> 5u) & 31u))]", threads * each);
        for e in 0..each {
            self.em.line(format!("{} = own{e}.{column};", place(format!("(tx * {each}u + {e}u)"))));
        }
        self.em.barrier();
        (0..each).map(|e| place(format!("(tx + {}u)", e * threads))).collect()
    }

    /// Runs the rest of the body at the ranks and writes.
    fn store(&mut self, sources: &[String], ranks: &[String]) -> Result<(), String> {
        let (nest, sort, outputs) = (self.nest, self.sort, self.outputs);
        let (at_source, at_rank) = (self.shape.each, self.shape.each + outputs);
        for (k, source) in (0..outputs).zip(sources) {
            let source = self.column(at_source + k, source);
            let column = Ex::global(format!("i32({source})"));
            sort.columns(nest).into_iter().for_each(|v| self.em.set_computed(v.0, (at_rank + k) as usize, &column));
        }
        let mut places = vec![];
        for (k, rank) in (0..outputs).zip(ranks) {
            if sort.value_is_used(nest) {
                let value = self.em.value(sort.key, (at_source + k) as usize)?;
                self.em.set_computed(sort.at.0, (at_rank + k) as usize, &value);
            }
            places.push(self.column(at_rank + k, rank));
        }
        let lanes: Vec<usize> = (at_rank as usize..(at_rank + outputs) as usize).collect();
        self.em.check(&sort.checks(nest).0, lanes.iter().copied())?;
        let mut stores = vec![];
        for w in &nest.writes {
            if !nest.is_element_write(w, &self.em.unit.level) {
                stores.extend(self.em.stores(w, &lanes[..1], &|_| Some("live && tx == 0u".into()))?);
                continue;
            }
            let first = w.first.as_ref().map(|n| self.em.size(n).text);
            let test = |lane: usize| {
                let rank = &places[lane - at_rank as usize];
                let inside = if self.shape.full { "live".into() } else { format!("live && {rank} < size") };
                Some(first.as_ref().map_or(inside.clone(), |n| format!("{inside} && {rank} < {n}")))
            };
            stores.extend(self.em.stores(w, &lanes, &test)?);
        }
        stores.into_iter().for_each(|s| self.em.line(s));
        Ok(())
    }

    fn finish(mut self, name: &str) -> Result<Shader, String> {
        let Network { rows, threads, each, words, .. } = *self.shape;
        let elements = if self.exchanges { words * rows * threads * each } else { 0 };
        if self.exchanges {
            self.em.globals.push(format!("var<workgroup> exchanged: array<u32, {elements}>;"));
        }
        let groups = self.nest.row_count().ceil_div(&Dim::int(rows as i64));
        let name = format!("{name}-{rows}x{threads}x{each}");
        assemble(self.em, Geometry { name, threads: rows * threads, groups, shared_bytes: 4 * elements })
    }
}
