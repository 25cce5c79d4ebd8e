//! Matrix products in tiles: `shaders/matmul.wgsl.j2`, or `shaders/cooperative.wgsl.j2` for matrix units, with hooks generated from
//! the body.
//!
//! Operand hooks compute four neighboring values with whatever the body does to them first (prologue), along the dimension
//! that is contiguous in memory; the epilogue hook runs the statements after the product and the writes, four neighboring
//! columns at once. Rows and columns beyond the end read the last ones and are not stored; only the step that goes beyond the terms reads
//! under a guard, so that sizes that divide by nothing run the same inner loop as the others.

use crate::codegen::plan::{Binding, Variant};
use crate::codegen::text::emit::{Emitter, Ex};
use crate::codegen::text::module::{self, header};
use crate::codegen::text::storage::Kind;
use crate::codegen::text::unit::Unit;
use crate::codegen::text::{helpers, spell, vector};
use crate::forms::contraction::{Along, BATCH, CLAMPED, K, Limit, M, N, Product, STEP, divides, in_range, lanes, prefers, product};
use crate::forms::product::{Math, SHARED_TILES, TEAM, Terms, Tile, stride};
use crate::loop_ir::facts::{cone, needed, needed_before, stored};
use crate::loop_ir::{Instr, Val, Write};
use crate::types::{Cooperative, Dim};
use std::collections::BTreeSet;
use std::sync::LazyLock;

static TEMPLATES: LazyLock<minijinja::Environment<'static>> = LazyLock::new(|| {
    let mut env = minijinja::Environment::new();
    env.add_template("matmul", include_str!("../../../shaders/matmul.wgsl.j2")).expect("the matmul template is sound");
    env.add_template("attention", include_str!("../../../shaders/attention.wgsl.j2")).expect("the attention template is sound");
    env.add_template("attention_units", include_str!("../../../shaders/attention_units.wgsl.j2")).expect("attention by units is sound");
    env.add_template("attention_scaled", include_str!("../../../shaders/attention_scaled.wgsl.j2")).expect("attention of scaled values is sound");
    env.add_template("attention_blocks", include_str!("../../../shaders/attention_blocks.wgsl.j2")).expect("blocks of attention are sound");
    env.add_template("unit_lines", include_str!("../../../shaders/unit_lines.wgsl.j2")).expect("lines of units are sound");
    env.add_template("unit_halves", include_str!("../../../shaders/unit_halves.wgsl.j2")).expect("halves of units are sound");
    env.add_template("unit_entry", include_str!("../../../shaders/unit_entry.wgsl.j2")).expect("the entry point of units is sound");
    env.add_template("tile_order", include_str!("../../../shaders/tile_order.wgsl.j2")).expect("the order of tiles is sound");
    env.add_template("shared_tiles", include_str!("../../../shaders/shared_tiles.wgsl.j2")).expect("shared tiles are sound");
    env.add_template("cooperative", include_str!("../../../shaders/cooperative.wgsl.j2")).expect("the cooperative template is sound");
    env
});

/// What a shader with matrix units begins with.
pub(super) const UNITS: &str = "enable f16;\nenable wgpu_cooperative_matrix;\n";

/// A template with its context put in.
pub(super) fn template(name: &str, context: minijinja::Value) -> Result<String, String> {
    let template = TEMPLATES.get_template(name).map_err(|e| e.to_string())?;
    template.render(context).map_err(|e| format!("{name} template: {e:#}"))
}

/// Functions that a template calls.
pub(super) struct Functions {
    pub text: String,
    pub helpers: BTreeSet<String>,
    pub uses_symbols: bool,
    /// Lines of the last one.
    pub last_lines: usize,
}

/// Spelled functions with their heads, and what they and the entry point use.
pub(super) fn functions_of(hooks: Vec<Emitter>, heads: Vec<String>, mut helpers: BTreeSet<String>, mut uses_symbols: bool) -> Functions {
    let (mut text, mut last_lines) = (String::new(), 0);
    for (em, head) in hooks.into_iter().zip(heads) {
        let (lines, used, globals, symbols) = em.finish();
        debug_assert!(globals.is_empty());
        helpers.extend(used);
        uses_symbols |= symbols;
        last_lines = lines.len();
        let body: Vec<String> = lines.iter().map(|l| format!("  {}\n", l.replace('\n', "\n  "))).collect();
        text += &format!("{head} {{\n{}}}\n", body.concat());
    }
    Functions { text, helpers, uses_symbols, last_lines }
}

/// The kernel of a product in tiles.
pub fn spell_product(unit: &Unit, tile: Tile) -> Result<Variant, String> {
    let p = product(unit.nest).ok_or("the nest is no product in shape")?;
    let Some(limit) = p.limit() else { return build(unit, &p, None, tile) };
    let nest = in_range(unit.nest, &limit);
    let p = product(&nest).ok_or("masks are no part of a product's shape")?;
    build(&unit.of(&nest), &p, Some(&limit), tile)
}

/// Whether sums are fused multiply-adds as spelled. How others round is left to the driver, which may fuse them here and not there.
pub fn is_fused(unit: &Unit) -> bool {
    product(unit.nest).is_some_and(|p| unit.kind(p.nest.dtype(p.dot)) == Ok(Kind::F32))
}

/// A product as it is to be spelled.
struct Kernel<'p> {
    p: &'p Product<'p>,
    limit: Option<&'p Limit>,
    tile: Tile,
    /// For each operand, whether it is read along k.
    along_k: [bool; 2],
    arrangement: Arrangement,
    /// Whether four terms may go beyond the last.
    ragged: bool,
    kind: Kind,
    /// Whether the shader has matrix units, rather than what stands for them.
    native: bool,
    /// Loads of the epilogue that are fetched ahead.
    fetched: Vec<Val>,
}

/// A function that the template calls.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    /// Four values of operand `row`, [`M`] or [`N`]; `last` in the step that goes beyond the terms.
    Load { row: u32, last: bool },
    /// What the epilogue reads, so that it is under way while the rows before are finished, or others hand over.
    Fetch,
    /// What follows the product.
    Store,
}

/// Steps of cooperative products that are summed before they are added to f32: 128 terms, whose error is half of what f32 has in 4,096.
const SEGMENT: u32 = 4;

/// How invocations of a block go about a tile. What a driver makes of it, which has registers to share out, is not foreseen: of all ways these were
/// the fastest, by up to a tenth of the slowest (`benches/results.md`).
#[derive(Clone, Copy)]
struct Arrangement {
    /// Whether they lie eight down and four across, rather than four and eight.
    wide: bool,
    /// For each operand, whether its loads are told where a step begins, so that what does not change from step to step is computed once.
    apart: [bool; 2],
}

impl Arrangement {
    fn of(p: &Product, limit: Option<&Limit>, tile: &Tile, along_k: [bool; 2]) -> Arrangement {
        let even = divides(&p.m, tile.bm) && divides(&p.n, tile.bn) && divides(&p.k, tile.bk) && limit.is_none();
        let [a, b] = along_k;
        match (tile.math, tile.wm, tile.wn) {
            // In larger blocks each would hold rows of four vectors, and an epilogue that is spelled once for four rows would have no
            // registers for them.
            (Math::Fma { .. }, 32, 32) if even => Arrangement { wide: true, apart: [!a, !b] },
            // Workgroups that share tiles have more to keep, and are slower so.
            (Math::Fma { .. }, 64, _) if tile.workers.is_none() => Arrangement { wide: false, apart: [a && !b, b] },
            _ => Arrangement { wide: false, apart: [false, false] },
        }
    }
}

/// Statements of an epilogue that is spelled for each output of an invocation.
const LONG: usize = 12;

/// Spells the kernel with a given tile.
fn build(unit: &Unit, p: &Product, limit: Option<&Limit>, tile: Tile) -> Result<Variant, String> {
    let along_k = [prefers(p, p.a, M), prefers(p, p.b, N)];
    let ragged = !divides(&p.k, 4) || limit.is_some_and(|l| !divides(&l.total, 4));
    let native = matches!(tile.math, Math::Cooperative(_)) && unit.target.caps.cooperative == Cooperative::Native;
    let fetched = if fetches_ahead(&tile) { loads_behind(p) } else { vec![] };
    let kernel = Kernel {
        p,
        limit,
        tile,
        along_k,
        arrangement: Arrangement::of(p, limit, &tile, along_k),
        ragged,
        kind: unit.kind(p.nest.dtype(p.dot))?,
        native,
        fetched,
    };
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
    let tiles = p.batch_count() * &tiles_m * &tiles_n;
    let groups = tile.workers.map_or_else(|| tiles.clone(), |workers| Dim::int(workers as i64));
    let (tiles_m, tiles_n, tiles) = (main.size_text(&tiles_m), main.size_text(&tiles_n), main.size_text(&tiles));
    let mut entry = module::entry(&mut main, &groups);
    let terms = kernel.terms(&mut main)?;
    let (before, helpers, _, uses_symbols) = main.finish();
    let functions = functions_of(hooks, heads, helpers, uses_symbols);
    entry.splice(0..0, helpers::opening(&functions.helpers));
    let pinned = native.then(|| unit.pinned());
    let (mut bindings, mut head) = header(pinned.as_ref().unwrap_or(unit), &vector, functions.uses_symbols, &functions.helpers);
    if tile.workers.is_some() {
        if unit.guarded && unit.sets_status {
            return Err("workgroups that share tiles may not be skipped by a status word that they set".into());
        }
        head += &format!("@group(0) @binding({}) var<storage, read_write> scratch: array<atomic<u32>>;\n", bindings.len());
        bindings.push(Binding::Scratch);
    }
    let long = functions.last_lines > LONG;
    let rounds = tile.wm > 16 && long;
    let has = |last: bool| roles.contains(&Role::Load { row: M, last });
    let (name, sizes) = match tile.math {
        Math::Fma { halves, unroll, slices } => ("matmul", kernel.of_invocations(halves, unroll, slices)),
        Math::Cooperative(terms) => ("cooperative", kernel.of_subgroups(terms, !long && terms == Terms::Halves && kernel.fetched.is_empty())),
    };
    let context = minijinja::context! {
        triangle => p.triangle.name(), tile => sizes, tiles_m, tiles_n, tiles, workers => tile.workers, first_part => SHARED_TILES, entry, before, terms, steps => has(false), last => has(true),
        functions => functions.text, rounds, fetches => !kernel.fetched.is_empty(), draft => tile.is_draft(),
    };
    let body = template(name, context)?;
    let enable = if native { UNITS } else { "" };
    let wgsl = format!("{enable}{head}\n{body}\n");
    Ok(Variant {
        name: tile.to_string(),
        wgsl,
        workgroup: [tile.threads(), 1, 1],
        groups,
        bindings,
        scratch_bytes: tile.scratch_bytes(),
        cooperative: native,
    })
}

impl Kernel<'_> {
    /// The functions that the template calls: whole steps where there may be any, the last where steps do not come out even. Slices take as
    /// many steps as one another, of which some may lie behind the end.
    fn roles(&self) -> Vec<Role> {
        let sliced = self.tile.slices() > 1;
        let steps = !sliced && self.p.k.as_int().is_none_or(|k| k >= self.tile.bk as i64);
        let last = sliced || !divides(&self.p.k, self.tile.bk) || self.limit.is_some_and(|l| !divides(&l.total, self.tile.bk));
        let mut roles = vec![];
        for row in [M, N] {
            roles.extend(steps.then_some(Role::Load { row, last: false }));
            roles.extend(last.then_some(Role::Load { row, last: true }));
        }
        roles.extend((!self.fetched.is_empty()).then_some(Role::Fetch));
        roles.push(Role::Store);
        roles
    }

    /// Sizes that the template of cooperative matrices spells. Lines of workgroup memory lie along k or across, as memory does.
    fn of_subgroups(&self, terms: Terms, unrolled: bool) -> minijinja::Value {
        let Tile { bm, bn, bk, wm, wn, .. } = self.tile;
        let threads = self.tile.threads();
        let stage = |op: &str, k: usize, size: u32| {
            let (lines, length) = if self.along_k[k] { (size, bk) } else { (bk, size) };
            let (across, stride, rounds) = (length / 4, stride(length), size * bk / 4 / threads);
            minijinja::context! { op, along_k => self.along_k[k], lines, across, stride, rounds }
        };
        let (stages, band) = ([stage("a", 0, bm), stage("b", 1, bn)], self.tile.band(&self.p.sizes()));
        let (teams, mi, ni) = (threads / TEAM, wm / 16, wn / 16);
        let (scaled, loaded, quad) = (terms != Terms::Halves, self.loaded(), self.halves());
        let (terms, emulated, segment) = (terms.count(), !self.native, SEGMENT);
        let (span, hands) = (self.tile.span(), self.tile.hands());
        let (handed, pieces, turns) = (64 * span * hands, mi * ni / span, teams / hands);
        minijinja::context! {
            bm, bn, bk, wm, wn, threads, teams, mi, ni, terms, scaled, loaded, quad, emulated, stages, band, segment, span, hands, handed, pieces, turns,
            unrolled,
        }
    }

    /// Four values of f16 in workgroup memory.
    fn halves(&self) -> &'static str {
        if self.native { "vec4<f16>" } else { "vec2<u32>" }
    }

    /// What a load hook gives: four values.
    fn loaded(&self) -> String {
        match self.tile.math {
            Math::Cooperative(Terms::Halves) => self.halves().into(),
            _ => format!("vec4<{}>", self.kind.wgsl()),
        }
    }

    /// Sizes that the template of multiply-adds spells.
    fn of_invocations(&self, halves: u32, unroll: u32, slices: u32) -> minijinja::Value {
        let Tile { bm, bn, bk, wm, wn, .. } = self.tile;
        let threads = self.tile.threads() / slices;
        let (down, across) = if self.arrangement.wide { (8, 4) } else { (4, 8) };
        let (mi, ni) = (wm / (4 * down), wn / (4 * across));
        let items = |size: u32, along_k: bool| size / 4 * if along_k { bk / 4 } else { bk };
        let [a, b] = [items(bm, self.along_k[0]), items(bn, self.along_k[1])];
        // Where few invocations stage the first operand, others stage the second.
        let second = if a + b <= threads { a } else { 0 };
        let stage = |op: &str, k: usize, (size, items, first): (u32, u32, u32), (spacing, quads): (u32, u32)| {
            // What bit two of the swizzle does to vectors that are four apart is known here, where there are several.
            let folds = spacing == 4 && quads > 1;
            let offsets: Vec<[u32; 4]> = (0..quads).map(|i| [0u32, 0, 4, 4].map(|c| (spacing * i) ^ if folds { c } else { 0 })).collect();
            let rounds = items.div_ceil(threads);
            let (along_k, apart, stride) = (self.along_k[k], self.arrangement.apart[k], size / 4);
            minijinja::context! { op, along_k, apart, items, first, stride, rounds, spacing, quads, folds, offsets }
        };
        let stages = [stage("a", 0, (bm, a, 0), (down, mi)), stage("b", 1, (bn, b, second), (across, ni))];
        let band = self.tile.band(&self.p.sizes());
        let (kind, fused) = (self.kind.wgsl(), self.kind == Kind::F32);
        let invocations = self.tile.threads();
        minijinja::context! { bm, bn, bk, wm, wn, halves, unroll, slices, threads, invocations, mi, ni, stages, band, kind, fused }
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
        let operand = operand(row);
        let (axis, clamped) = match self.along_k[operand] {
            true => (K, last && self.ragged),
            false => (row, !divides(self.p.size(row), 4)),
        };
        em.lanes = lanes(self.p, Along { axis, clamped, stepped: self.arrangement.apart[operand] && !last });
        em
    }

    /// Spells a function's statements; gives its head.
    fn spell(&self, em: &mut Emitter, role: Role) -> Result<String, String> {
        em.axes.insert(BATCH, Ex::global("z"));
        em.axes.insert(STEP, Ex::global("k"));
        let (row, last) = match role {
            Role::Load { row, last } => (row, last),
            Role::Fetch => return self.spell_fetch(em),
            Role::Store => return self.spell_store(em),
        };
        let (operand, loaded) = (operand(row), self.loaded());
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
        let four = format!("vec4<{}>({})", self.kind.wgsl(), parts.join(", "));
        em.line(match self.tile.math {
            Math::Cooperative(Terms::Halves) => format!("return packed({four});"),
            _ => format!("return {four};"),
        });
        let (name, extra) = match (last, self.arrangement.apart[operand]) {
            (true, _) => ("last", ", terms: u32"),
            (false, true) => ("load", ", k: u32"),
            (false, false) => ("load", ""),
        };
        Ok(format!("fn {name}_{}(z: u32, x: u32, y: u32{extra}) -> {loaded}", ["a", "b"][operand]))
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
            em.line(format!("if (y * 4u >= terms) {{ return {}(); }}", self.loaded()));
        }
        [const { None }; 4]
    }

    /// Names the kernel axes of a hook that reads along a row axis: quad `x`, term `y`. Its lanes have no conditions.
    fn name_along_row(&self, em: &mut Emitter, row: u32, last: bool) -> [Option<String>; 4] {
        if last {
            em.line(format!("if (y >= terms) {{ return {}(); }}", self.loaded()));
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

    /// Names the axes of a quad of outputs; `leave` ends a function for those beyond the last. Gives the conditions of its lanes.
    fn name_outputs(&self, em: &mut Emitter, leave: &str) -> [Option<String>; 4] {
        let p = self.p;
        let (m, quads) = (em.size_text(&p.m), em.size_text(&p.n.ceil_div(&Dim::int(4))));
        let rows = (!divides(&p.m, self.tile.bm)).then(|| format!("m >= {m}"));
        let columns = (!divides(&p.n, self.tile.bn)).then(|| format!("q >= {quads}"));
        let outside: Vec<String> = rows.into_iter().chain(columns).collect();
        if !outside.is_empty() {
            em.line(format!("if ({}) {{ {leave} }}", outside.join(" || ")));
        }
        em.axes.insert(M, Ex::global("m"));
        em.axes.insert(N, Ex::global("q"));
        if divides(&p.n, 4) {
            return [const { None }; 4];
        }
        let count = em.size(&p.n).text;
        name_lanes(em, "q", &count)
    }

    /// The function that reads what the epilogue of a quad needs.
    fn spell_fetch(&self, em: &mut Emitter) -> Result<String, String> {
        self.name_outputs(em, "return Fetched();");
        let (mut fields, mut parts) = (vec![], vec![]);
        for v in &self.fetched {
            let kind = em.unit.kind(self.p.nest.dtype(*v))?.wgsl();
            let lanes: Vec<String> = (0..4).map(|l| Ok(em.value(*v, l)?.text)).collect::<Result<_, String>>()?;
            fields.push(format!("v{}: vec4<{kind}>", v.0));
            parts.push(format!("vec4<{kind}>({})", lanes.join(", ")));
        }
        em.line(format!("return Fetched({});", parts.join(", ")));
        Ok(format!("struct Fetched {{ {} }}\nfn fetch(z: u32, m: u32, q: u32) -> Fetched", fields.join(", ")))
    }

    /// The function behind the product.
    fn spell_store(&self, em: &mut Emitter) -> Result<String, String> {
        let p = self.p;
        let active = self.name_outputs(em, "return;");
        for (l, part) in ["x", "y", "z", "w"].iter().enumerate() {
            let sum = spell::wrap(p.nest.dtype(p.dot), format!("sums.{part}"));
            let sum = em.bind(Ex::global(sum), "v");
            em.set_computed(p.dot.0, l, &sum);
            for v in &self.fetched {
                em.set_computed(v.0, l, &Ex::global(format!("fetched.v{}.{part}", v.0)));
            }
        }
        em.check(&p.checks[2], 0..4)?;
        let mut stores = vec![];
        for w in &p.nest.writes {
            stores.extend(em.stores(w, &[0, 1, 2, 3], &|l| active[l].clone())?);
        }
        stores.into_iter().for_each(|s| em.line(s));
        let fetched = if self.fetched.is_empty() { "" } else { ", fetched: Fetched" };
        Ok(format!("fn epilogue(z: u32, m: u32, q: u32, sums: vec4<{}>{fetched})", self.kind.wgsl()))
    }
}

/// Whether epilogues are given what they read: where an invocation has many rows, or waits for others between them.
fn fetches_ahead(tile: &Tile) -> bool {
    match tile.math {
        Math::Fma { slices, .. } => slices == 1 && tile.wm > 16,
        Math::Cooperative(_) => true,
    }
}

/// Loads that the epilogue needs and the product has no part in. Those behind checks stay with them.
fn loads_behind(p: &Product) -> Vec<Val> {
    let nest = p.nest;
    let after = needed_before(nest, nest.writes.iter().flat_map(stored), Some(p.dot));
    let is_free = |v: &Val| cone(nest, *v).iter().all(|w| *w != p.dot && !matches!(nest.stmt(*w).instr, Instr::Bound { .. }));
    nest.values().filter(|v| after[v.0 as usize] && matches!(nest.stmt(*v).instr, Instr::Load { .. })).filter(is_free).collect()
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

fn output<'a>(unit: &'a Unit<'a>, p: &Product) -> Emitter<'a> {
    let mut em = Emitter::new(unit);
    em.lanes = lanes(p, Along { axis: N, clamped: !divides(&p.n, 4), stepped: false });
    em
}

/// Bindings that every hook reads and writes by aligned vectors.
fn vectors(unit: &Unit, p: &Product, roles: &[Role], hooks: &[Emitter]) -> Vec<bool> {
    let nest = p.nest;
    let behind = nest.writes.iter().flat_map(stored).chain(p.checks[2].iter().copied());
    let after = needed_before(nest, behind, Some(p.dot));
    let [a, b] = [p.a, p.b].map(|v| needed(nest, [v]));
    let mut fits = vector::candidates(unit);
    for (em, role) in hooks.iter().zip(roles) {
        let (set, writes): (_, &[Write]) = match role {
            Role::Load { row: M, .. } => (&a, &[]),
            Role::Load { .. } => (&b, &[]),
            Role::Fetch => (&after, &[]),
            Role::Store => (&after, &nest.writes),
        };
        let spelled = nest.body.iter().zip(set).filter(|(_, needed)| **needed).map(|(s, _)| &s.instr);
        vector::restrict(em, spelled, writes, &[vec![0, 1, 2, 3]], &mut fits);
    }
    fits
}
