//! Matrix products in tiles: `shaders/matmul.wgsl.j2` with hooks generated from the body.
//!
//! Operand hooks compute four neighboring values with whatever the body does to them first (prologue), along the dimension
//! that is contiguous in memory; the epilogue hook runs the statements after the product and the writes, four neighboring
//! columns at once. Rows and columns beyond the end read the last ones and are not stored; only the step that goes beyond the terms reads
//! under a guard, so that sizes that divide by nothing run the same inner loop as the others.

use super::plan::Variant;
use super::text::emit::{Emitter, Ex};
use super::text::module::{self, header};
use super::text::storage::Kind;
use super::text::unit::Unit;
use super::text::{helpers, spell, vector};
use crate::forms::Lane;
use crate::forms::product::{self as form, Sizes, Tile};
use crate::fusion::hint;
use crate::loop_ir::{IndexExpr, Instr, Nest, Tag, Val, Write, unflatten};
use crate::scalar::ScalarFn;
use crate::types::Dim;
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// Kernel axes of the hooks.
const BATCH: u32 = 0;
const M: u32 = 1;
const N: u32 = 2;
const K: u32 = 3;
/// First of the clamped axes of lanes behind an end that does not divide by four.
const CLAMPED: u32 = 4;

static TEMPLATES: LazyLock<minijinja::Environment<'static>> = LazyLock::new(|| {
    let mut env = minijinja::Environment::new();
    env.add_template("matmul", include_str!("../../shaders/matmul.wgsl.j2")).expect("the matmul template is sound");
    env
});

/// The parts of a matmul nest.
struct Product<'a> {
    nest: &'a Nest,
    a: Val,
    b: Val,
    dot: Val,
    batch: usize,
    m: Dim,
    n: Dim,
    k: Dim,
    /// Checks that each operand's hook makes, and the epilogue.
    checks: [Vec<Val>; 3],
}

/// The tiled kernel of a matmul nest; `None` where the generic form serves.
pub fn generate(unit: &Unit) -> Result<Option<Variant>, String> {
    let Some(p) = product(unit.nest).filter(|p| p.fits(unit)) else { return Ok(None) };
    let Some((tile, _)) = form::fastest(&p.sizes(), p.kind(unit)?.bytes(), &unit.target.caps, &unit.target.model) else { return Ok(None) };
    match p.limit() {
        None => build(unit, &p, None, tile).map(Some),
        Some(limit) => {
            let nest = in_range(unit.nest, &limit);
            let p = product(&nest).expect("masks are no part of a product's shape");
            build(&unit.of(&nest), &p, Some(&limit), tile).map(Some)
        }
    }
}

/// The parts of a nest that is a product in shape: no other reduction, and operands that do not vary along each other's axis.
fn product(nest: &Nest) -> Option<Product<'_>> {
    let Tag::Matmul { a, b, dot, batch } = nest.tag else { return None };
    let batch = batch as usize;
    let only = nest.body.iter().enumerate().all(|(i, s)| !matches!(s.instr, Instr::Reduce(..)) || i == dot.0 as usize);
    let Instr::Reduce(_, arg) = nest.stmt(dot).instr else { return None };
    let multiplies = match &nest.stmt(arg).instr {
        Instr::Call(ScalarFn::Mul, args) => args[..] == [a, b] || args[..] == [b, a],
        _ => false,
    };
    let level = nest.element_level();
    let rows_only = nest.writes.iter().all(|w| !nest.is_element_write(w, &level));
    if !only || !multiplies || !rows_only || nest.rows.len() != batch + 2 {
        return None;
    }
    let free = |v: Val, axis: usize| reachable(nest, v, None).iter().all(|&s| !uses_axis(&nest.body[s as usize].instr, axis as u32));
    if !free(a, batch + 1) || !free(b, batch) {
        return None;
    }
    let checks = checks(nest, &level, a, b)?;
    Some(Product { nest, a, b, dot, batch, m: nest.rows[batch].clone(), n: nest.rows[batch + 1].clone(), k: nest.col_count(), checks })
}

fn uses_axis(instr: &Instr, axis: u32) -> bool {
    match instr {
        Instr::Index(e) | Instr::Load { index: e, .. } => e.uses_axis(|a| a == axis),
        _ => false,
    }
}

/// The checks by the hook that makes them; `None` where one varies along the columns and belongs to no operand.
fn checks(nest: &Nest, level: &[bool], a: Val, b: Val) -> Option<[Vec<Val>; 3]> {
    let operands = [a, b].map(|v| reachable(nest, v, None));
    let mut out = [vec![], vec![], vec![]];
    for v in nest.checks() {
        let at = operands.iter().position(|set| set.contains(&v.0)).unwrap_or(2);
        if at == 2 && level[v.0 as usize] {
            return None;
        }
        out[at].push(v);
    }
    Some(out)
}

/// Where terms of a product end before its columns do: `mask` says that a column counts, and is true exactly below
/// `total - start` where `start` varies along batch axes only. So the parts of a sum look that was divided unevenly.
struct Limit {
    mask: Val,
    start: IndexExpr,
    total: Dim,
}

impl Product<'_> {
    fn batch_count(&self) -> Dim {
        self.nest.rows[..self.batch].iter().fold(Dim::int(1), |n, d| n * d)
    }

    fn sizes(&self) -> Sizes {
        let size = |d: &Dim| hint(d).max(1) as f64;
        Sizes { batch: size(&self.batch_count()), m: size(&self.m), n: size(&self.n), k: size(&self.k) }
    }

    fn size(&self, row: u32) -> &Dim {
        if row == M { &self.m } else { &self.n }
    }

    fn kind(&self, unit: &Unit) -> Result<Kind, String> {
        unit.kind(self.nest.dtype(self.dot))
    }

    /// Whether tiles serve: operands of one kind, more than a few outputs and terms, and packed results whose words no two
    /// invocations share.
    fn fits(&self, unit: &Unit) -> bool {
        let kinds = [self.a, self.b, self.dot].map(|v| unit.kind(self.nest.dtype(v)).ok());
        let Sizes { m, n, k, .. } = self.sizes();
        let owned = |w: &Write| unit.buffer(w.buffer).is_ok_and(|b| b.format.per_word == 1) || output(unit, self).owns_words(&w.index, &[0, 1, 2, 3], 4);
        let numbers = kinds[0] != Some(Kind::Bool) && kinds[0].is_some() && kinds.iter().all(|k| *k == kinds[0]);
        numbers && m.min(n) > 4.0 && m * n >= 256.0 && k >= 4.0 && self.nest.writes.iter().all(owned)
    }

    fn limit(&self) -> Option<Limit> {
        let [_] = self.nest.cols[..] else { return None };
        let (col, batch) = (self.nest.rows.len() as u32, self.batch as u32);
        (0..self.nest.body.len() as u32).find_map(|v| {
            let Instr::Call(ScalarFn::Lt, args) = &self.nest.body[v as usize].instr else { return None };
            let Instr::Index(at) = &self.nest.stmt(args[0]).instr else { return None };
            let total = match &self.nest.stmt(args[1]).instr {
                Instr::Const(end) => Dim::int(end.as_i64()),
                Instr::Index(end) => end.as_constant()?.clone(),
                _ => return None,
            };
            let start = at.substitute(&|a| if a.id == col { IndexExpr::zero() } else { IndexExpr::axis(a.id, &a.size) }, &IndexExpr::value);
            let plain = at.linear_coefficient(col).is_some_and(|k| k.is(1)) && start.values().is_empty() && !start.uses_axis(|a| a >= batch);
            plain.then_some(Limit { mask: Val(v), start, total })
        })
    }
}

/// The nest where all of its columns count.
fn in_range(nest: &Nest, limit: &Limit) -> Nest {
    let mut out = nest.clone();
    let mut same: Vec<Val> = (0..nest.body.len() as u32).map(Val).collect();
    for at in 0..nest.body.len() {
        let stmt = nest.body[at].instr.map(&|v| same[v.0 as usize], &|e| e.substitute(&|a| IndexExpr::axis(a.id, &a.size), &|v, size| IndexExpr::value(same[v as usize].0, size)));
        out.body[at].instr = match stmt {
            Instr::Load { buffer, index, mask } => Instr::Load { buffer, index, mask: mask.filter(|m| *m != limit.mask) },
            Instr::Call(f, args) => {
                match (f, &args[..]) {
                    (ScalarFn::Where, [m, x, _]) if *m == limit.mask => same[at] = *x,
                    (ScalarFn::LogicalAnd, [x, m]) if *m == limit.mask => same[at] = *x,
                    _ => {}
                }
                Instr::Call(f, args)
            }
            other => other,
        };
    }
    let to = |v: Val| same[v.0 as usize];
    if let Tag::Matmul { a, b, dot, batch } = nest.tag {
        out.tag = Tag::Matmul { a: to(a), b: to(b), dot, batch };
    }
    out
}

/// A product as it is to be spelled.
struct Kernel<'p> {
    p: &'p Product<'p>,
    limit: Option<&'p Limit>,
    tile: Tile,
    /// For each operand, whether it is read along k.
    along_k: [bool; 2],
    /// Whether four terms may go beyond the last.
    ragged: bool,
    kind: Kind,
}

/// A function that the template calls.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    /// Four values of operand `row`, [`M`] or [`N`]; `last` in the step that goes beyond the terms.
    Load { row: u32, last: bool },
    /// What follows the product.
    Store,
}

/// Spells the kernel with a given tile.
fn build(unit: &Unit, p: &Product, limit: Option<&Limit>, tile: Tile) -> Result<Variant, String> {
    let along_k = [prefers(p, p.a, M), prefers(p, p.b, N)];
    let ragged = !divides(&p.k, 4) || limit.is_some_and(|l| !divides(&l.total, 4));
    let kernel = Kernel { p, limit, tile, along_k, ragged, kind: p.kind(unit)? };
    let roles = kernel.roles();
    let mut hooks: Vec<Emitter> = roles.iter().map(|&role| kernel.hook(unit, role)).collect();
    let vector = vectors(unit, p, &roles, &hooks);
    let mut heads = vec![];
    for (em, &role) in hooks.iter_mut().zip(&roles) {
        em.vector.clone_from(&vector);
        heads.push(kernel.spell(em, role)?);
    }
    let missing: Vec<Val> = unit.nest.checks().filter(|v| hooks.iter().all(|em| em.unchecked().any(|w| w == *v))).collect();
    module::all_checked(&missing)?;
    let mut main = output(unit, p);
    let (tiles_m, tiles_n) = (p.m.ceil_div(&Dim::int(tile.bm as i64)), p.n.ceil_div(&Dim::int(tile.bn as i64)));
    let groups = p.batch_count() * &tiles_m * &tiles_n;
    let (tiles_m, tiles_n) = (main.size_text(&tiles_m), main.size_text(&tiles_n));
    let mut entry = module::entry(&mut main, &groups);
    let terms = kernel.terms(&mut main)?;
    let (before, mut helpers, _, mut uses_symbols) = main.finish();
    let mut functions = String::new();
    for (em, head) in hooks.into_iter().zip(heads) {
        let (lines, used, globals, symbols) = em.finish();
        debug_assert!(globals.is_empty());
        helpers.extend(used);
        uses_symbols |= symbols;
        let body: Vec<String> = lines.iter().map(|l| format!("  {}\n", l.replace('\n', "\n  "))).collect();
        functions += &format!("{head} {{\n{}}}\n", body.concat());
    }
    entry.splice(0..0, helpers::opening(&helpers));
    let (bindings, head) = header(unit, &vector, uses_symbols, &helpers);
    let has = |last: bool| roles.contains(&Role::Load { row: M, last });
    let context = minijinja::context! {
        tile => kernel.context(), tiles_m, tiles_n, entry, before, terms, steps => has(false), last => has(true), functions,
    };
    let template = TEMPLATES.get_template("matmul").map_err(|e| e.to_string())?;
    let body = template.render(context).map_err(|e| format!("matmul template: {e:#}"))?;
    let name = format!("tile-{}x{}x{}-{}x{}", tile.bm, tile.bn, tile.bk, tile.wm, tile.wn);
    Ok(Variant { name, wgsl: format!("{head}\n{body}\n"), workgroup: [tile.threads(), 1, 1], groups, bindings })
}

fn divides(d: &Dim, by: u32) -> bool {
    d.try_div(&Dim::int(by as i64)).is_some()
}

impl Kernel<'_> {
    /// The functions that the template calls: whole steps where there may be any, the last where steps do not come out even.
    fn roles(&self) -> Vec<Role> {
        let steps = self.p.k.as_int().is_none_or(|k| k >= self.tile.bk as i64);
        let last = !divides(&self.p.k, self.tile.bk) || self.limit.is_some_and(|l| !divides(&l.total, self.tile.bk));
        let mut roles = vec![];
        for row in [M, N] {
            roles.extend(steps.then_some(Role::Load { row, last: false }));
            roles.extend(last.then_some(Role::Load { row, last: true }));
        }
        roles.push(Role::Store);
        roles
    }

    /// Sizes that the template spells.
    fn context(&self) -> minijinja::Value {
        let Tile { bm, bn, bk, wm, wn, halves, unroll } = self.tile;
        let (threads, mi, ni) = (self.tile.threads(), wm / 16, wn / 32);
        let items = |size: u32, along_k: bool| size / 4 * if along_k { bk / 4 } else { bk };
        let [a, b] = [items(bm, self.along_k[0]), items(bn, self.along_k[1])];
        // Where few invocations stage the first operand, others stage the second.
        let second = if a + b <= threads { a } else { 0 };
        let stage = |op: &str, k: usize, size: u32, items: u32, first: u32| {
            minijinja::context! { op, along_k => self.along_k[k], items, first, stride => size / 4, rounds => items.div_ceil(threads) }
        };
        let stages = [stage("a", 0, bm, a, 0), stage("b", 1, bn, b, second)];
        // Rows of a team are four apart in vectors: what bit two of the swizzle does to them is known here, where there are several.
        let offsets_a: Vec<[u32; 4]> = (0..mi).map(|i| [0u32, 0, 4, 4].map(|c| if mi > 1 { 4 * i ^ c } else { 4 * i })).collect();
        let band = self.tile.band(&self.p.sizes());
        let (kind, fused) = (self.kind.wgsl(), self.kind == Kind::F32);
        minijinja::context! { bm, bn, bk, wm, wn, halves, unroll, threads, mi, ni, stages, offsets_a, band, kind, fused }
    }

    /// The number of terms.
    fn terms(&self, em: &mut Emitter) -> Result<String, String> {
        let k = em.size_text(&self.p.k);
        let Some(limit) = self.limit else { return Ok(k) };
        em.axes.insert(BATCH, Ex::global("z"));
        let start = em.in_lane(&limit.start, 0);
        let start = em.index(&start, 0)?;
        // A part may start behind the end where sizes are not known ahead.
        let total = em.size(&limit.total);
        Ok(format!("min({k}, max({}, {}) - {})", total.text, start.text, start.text))
    }

    fn hook<'a>(&self, unit: &'a Unit<'a>, role: Role) -> Emitter<'a> {
        let Role::Load { row, last } = role else { return output(unit, self.p) };
        let mut em = Emitter::new(unit);
        em.lanes = match self.along_k[operand(row)] {
            true => lanes(self.p, K, last && self.ragged),
            false => lanes(self.p, row, !divides(self.p.size(row), 4)),
        };
        em
    }

    /// Spells a function's statements; gives its head.
    fn spell(&self, em: &mut Emitter, role: Role) -> Result<String, String> {
        em.axes.insert(BATCH, Ex::global("z"));
        let Role::Load { row, last } = role else { return self.spell_store(em) };
        let (operand, kind) = (operand(row), self.kind.wgsl());
        let active = match self.along_k[operand] {
            true => self.name_along_k(em, row, last),
            false => self.name_along_row(em, row, last),
        };
        em.check(&self.p.checks[operand], 0..4)?;
        let mut parts = vec![];
        for (l, test) in active.iter().enumerate() {
            let x = em.value([self.p.a, self.p.b][operand], l)?.text;
            parts.push(match test {
                Some(test) => format!("select({}, {x}, {test})", self.kind.zero()),
                None => x,
            });
        }
        em.line(format!("return vec4<{kind}>({});", parts.join(", ")));
        let (name, extra) = if last { ("last", ", terms: u32") } else { ("load", "") };
        Ok(format!("fn {name}_{}(z: u32, x: u32, y: u32{extra}) -> vec4<{kind}>", ["a", "b"][operand]))
    }

    /// Names the kernel axes of a hook that reads along k: row `x`, quad `y`. Gives the conditions of its lanes.
    fn name_along_k(&self, em: &mut Emitter, row: u32, last: bool) -> [Option<String>; 4] {
        let x = clamp(em, "x", self.p.size(row), self.block(row));
        em.axes.insert(row, x);
        em.axes.insert(K, Ex::global("y"));
        if last && self.ragged {
            return name_lanes(em, "y", "terms");
        }
        if last {
            em.line(format!("if (y * 4u >= terms) {{ return vec4<{}>(); }}", self.kind.wgsl()));
        }
        [const { None }; 4]
    }

    /// Names the kernel axes of a hook that reads along a row axis: quad `x`, term `y`. Its lanes have no conditions.
    fn name_along_row(&self, em: &mut Emitter, row: u32, last: bool) -> [Option<String>; 4] {
        if last {
            em.line(format!("if (y >= terms) {{ return vec4<{}>(); }}", self.kind.wgsl()));
        }
        em.axes.insert(K, Ex::global("y"));
        let size = self.p.size(row);
        match size.try_div(&Dim::int(4)) {
            Some(quads) => {
                let x = clamp(em, "x", &quads, self.block(row) / 4);
                em.axes.insert(row, x);
            }
            None => {
                let count = em.size(size).text;
                name_lanes(em, "x", &count);
            }
        }
        [const { None }; 4]
    }

    fn block(&self, row: u32) -> u32 {
        if row == M { self.tile.bm } else { self.tile.bn }
    }

    /// The function behind the product.
    fn spell_store(&self, em: &mut Emitter) -> Result<String, String> {
        let p = self.p;
        let (m, quads) = (em.size_text(&p.m), em.size_text(&p.n.ceil_div(&Dim::int(4))));
        let rows = (!divides(&p.m, self.tile.bm)).then(|| format!("m >= {m}"));
        let columns = (!divides(&p.n, self.tile.bn)).then(|| format!("q >= {quads}"));
        let outside: Vec<String> = rows.into_iter().chain(columns).collect();
        if !outside.is_empty() {
            em.line(format!("if ({}) {{ return; }}", outside.join(" || ")));
        }
        em.axes.insert(M, Ex::global("m"));
        em.axes.insert(N, Ex::global("q"));
        let active = match divides(&p.n, 4) {
            true => [const { None }; 4],
            false => {
                let count = em.size(&p.n).text;
                name_lanes(em, "q", &count)
            }
        };
        for (l, part) in ["x", "y", "z", "w"].iter().enumerate() {
            let sum = spell::wrap(p.nest.dtype(p.dot), format!("sums.{part}"));
            let sum = em.bind(Ex::global(sum), "v");
            em.set_computed(p.dot.0, l, &sum);
        }
        em.check(&p.checks[2], 0..4)?;
        let mut stores = vec![];
        for w in &p.nest.writes {
            stores.extend(em.stores(w, &[0, 1, 2, 3], &|l| active[l].clone())?);
        }
        stores.into_iter().for_each(|s| em.line(s));
        Ok(format!("fn epilogue(z: u32, m: u32, q: u32, sums: vec4<{}>)", self.kind.wgsl()))
    }
}

fn operand(row: u32) -> usize {
    (row == N) as usize
}

/// A coordinate that stays below `size`, which blocks of `block` may go beyond.
fn clamp(em: &mut Emitter, name: &str, size: &Dim, block: u32) -> Ex {
    if divides(size, block) {
        return Ex::global(name);
    }
    let size = em.size(size).text;
    em.bind(Ex::global(format!("min({name}, {size} - 1u)")), "c")
}

/// Names the clamped axes of the lanes of a quad; gives their conditions.
fn name_lanes(em: &mut Emitter, quad: &str, count: &str) -> [Option<String>; 4] {
    [0, 1, 2, 3].map(|l| {
        let at = em.bind(Ex::global(format!("min({quad} * 4u + {l}u, {count} - 1u)")), "e");
        em.axes.insert(CLAMPED + l, at);
        Some(format!("{quad} * 4u + {l}u < {count}"))
    })
}

/// Whether an operand's loads run along memory with the column axis rather than with its row axis.
fn prefers(p: &Product, v: Val, row: u32) -> bool {
    let nest = p.nest;
    let row = (p.batch + (row == N) as usize) as u32;
    let last = (0..nest.cols.len()).rev().find(|&i| !nest.cols[i].is(1)).unwrap_or(0) + nest.rows.len();
    let (mut by_row, mut by_col) = (0, 0);
    for &s in &reachable(nest, v, None) {
        if let Instr::Load { index, .. } = &nest.body[s as usize].instr {
            let one = |axis: u32| {
                let steps = index.terms.iter().any(|(t, k)| {
                    let inside = match t {
                        crate::loop_ir::Term::Axis(a) => a.id == axis,
                        crate::loop_ir::Term::Mod(e, _) => e.linear_coefficient(axis).is_some_and(|c| c.is(1)),
                        _ => false,
                    };
                    inside && k.is(1)
                });
                steps as u32
            };
            by_row += one(row);
            by_col += one(last as u32);
        }
    }
    by_col > by_row
}

/// Statements that a value needs, not going past `stop`.
fn reachable(nest: &Nest, v: Val, stop: Option<Val>) -> BTreeSet<u32> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![v]);
    while let Some(v) = open.pop() {
        if Some(v) != stop && seen.insert(v.0) {
            open.extend(nest.stmt(v).instr.operands());
        }
    }
    seen
}

/// The coordinates of the nest's axes for four lanes along kernel axis `along`, the other axes by themselves. `clamped` lanes have
/// an axis each.
fn lanes(p: &Product, along: u32, clamped: bool) -> Vec<Lane> {
    let sizes = |id: u32| match id {
        M => p.m.clone(),
        N => p.n.clone(),
        _ => p.k.clone(),
    };
    let four = Dim::int(4);
    let lane = |l: u32| {
        let at = |id: u32| -> IndexExpr {
            let size = sizes(id);
            if id != along {
                IndexExpr::axis(id, &size)
            } else if clamped {
                IndexExpr::axis(CLAMPED + l, &size)
            } else {
                IndexExpr::axis(id, &size.ceil_div(&four)).times(&four).plus(&Dim::int(l as i64))
            }
        };
        let mut axes = unflatten(&IndexExpr::axis(BATCH, &p.batch_count()), &p.nest.rows[..p.batch]);
        axes.extend([at(M), at(N)]);
        axes.extend(unflatten(&at(K), &p.nest.cols));
        Lane::at(axes)
    };
    (0..4).map(lane).collect()
}

fn output<'a>(unit: &'a Unit<'a>, p: &Product) -> Emitter<'a> {
    let mut em = Emitter::new(unit);
    em.lanes = lanes(p, N, !divides(&p.n, 4));
    em
}

/// Bindings that every hook reads and writes by aligned vectors.
fn vectors(unit: &Unit, p: &Product, roles: &[Role], hooks: &[Emitter]) -> Vec<bool> {
    let nest = p.nest;
    let mut after = BTreeSet::new();
    for w in &nest.writes {
        after.extend(reachable(nest, w.value, Some(p.dot)));
        w.index.values().into_iter().for_each(|v| after.extend(reachable(nest, Val(v), Some(p.dot))));
    }
    p.checks[2].iter().for_each(|v| after.extend(reachable(nest, *v, Some(p.dot))));
    let [a, b] = [p.a, p.b].map(|v| reachable(nest, v, None));
    let mut fits = vector::candidates(unit);
    for (em, role) in hooks.iter().zip(roles) {
        let (set, writes): (_, &[Write]) = match role {
            Role::Load { row: M, .. } => (&a, &[]),
            Role::Load { .. } => (&b, &[]),
            Role::Store => (&after, &nest.writes),
        };
        vector::restrict(em, set.iter().map(|&s| &nest.body[s as usize].instr), writes, &[vec![0, 1, 2, 3]], &mut fits);
    }
    fits
}
