//! Matrix products in tiles: `shaders/matmul.wgsl.j2` with hooks generated from the body.
//!
//! Operand hooks compute four neighboring values with whatever the body does to them first (prologue), along the dimension
//! that is contiguous in memory; the epilogue hook runs the statements after the product and the writes, four neighboring
//! columns at once. Sizes that do not divide by the tile are guarded; guards vanish where sizes are known to divide.

use super::plan::Variant;
use super::text::emit::{Emitter, Ex};
use super::text::module::{self, header};
use super::text::storage::Kind;
use super::text::unit::Unit;
use super::text::{helpers, vector};
use crate::forms::Lane;
use crate::loop_ir::{IndexExpr, Instr, Nest, Tag, Val, unflatten};
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

/// Sizes of a tile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tile {
    /// Rows of the output tile.
    pub bm: u32,
    /// Columns of the output tile.
    pub bn: u32,
    /// Depth of a step.
    pub bk: u32,
    /// Rows of an invocation, a multiple of four.
    pub tm: u32,
    /// Columns of an invocation, a multiple of four.
    pub tn: u32,
    /// Padding of a staged row, in vec4.
    pub pad: u32,
    /// Steps of the inner loop spelled out.
    pub unroll: u32,
}

impl Tile {
    const fn new(bm: u32, bn: u32, bk: u32, tm: u32, tn: u32) -> Tile {
        Tile { bm, bn, bk, tm, tn, pad: 0, unroll: 4 }
    }

    /// Invocations of a workgroup.
    pub fn threads(&self) -> u32 {
        (self.bm / self.tm) * (self.bn / self.tn)
    }

    fn shared_bytes(&self) -> u32 {
        self.bk * (self.bm + self.bn + 8 * self.pad) * 4
    }
}

/// Tiles, with their speed relative to the first when the device is full.
const TILES: [(Tile, f64); 5] = [
    (Tile::new(128, 128, 16, 8, 8), 1.0),
    (Tile::new(128, 64, 16, 8, 4), 0.75),
    (Tile::new(64, 128, 16, 4, 8), 0.75),
    (Tile::new(64, 64, 16, 4, 4), 0.6),
    (Tile::new(32, 32, 16, 4, 4), 0.3),
];

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
    let Some(p) = product(unit) else { return Ok(None) };
    let Some(tile) = choose(unit, &p) else { return Ok(None) };
    // A hook may need an axis that its operand is not supposed to have; the generic form takes any body.
    Ok(build(unit, &p, tile).ok())
}

fn product<'a>(unit: &Unit<'a>) -> Option<Product<'a>> {
    let nest = unit.nest;
    let Tag::Matmul { a, b, dot, batch } = nest.tag else { return None };
    let batch = batch as usize;
    let only = nest.body.iter().enumerate().all(|(i, s)| !matches!(s.instr, Instr::Reduce(..)) || i == dot.0 as usize);
    let float = [a, b, dot].iter().all(|&v| unit.kind(nest.dtype(v)) == Ok(Kind::F32));
    let Instr::Reduce(_, arg) = nest.stmt(dot).instr else { return None };
    let multiplies = match &nest.stmt(arg).instr {
        Instr::Call(ScalarFn::Mul, args) => args[..] == [a, b] || args[..] == [b, a],
        _ => false,
    };
    let rows_only = nest.writes.iter().all(|w| !nest.is_element_write(w, &unit.level));
    if !only || !float || !multiplies || !rows_only || nest.rows.len() != batch + 2 {
        return None;
    }
    let checks = checks(unit, a, b)?;
    Some(Product { nest, a, b, dot, batch, m: nest.rows[batch].clone(), n: nest.rows[batch + 1].clone(), k: nest.col_count(), checks })
}

/// The checks by the hook that makes them; `None` where one varies along the columns and belongs to no operand.
fn checks(unit: &Unit, a: Val, b: Val) -> Option<[Vec<Val>; 3]> {
    let operands = [a, b].map(|v| reachable(unit.nest, v, None));
    let mut out = [vec![], vec![], vec![]];
    for v in unit.nest.checks() {
        let at = operands.iter().position(|set| set.contains(&v.0)).unwrap_or(2);
        if at == 2 && unit.level[v.0 as usize] {
            return None;
        }
        out[at].push(v);
    }
    Some(out)
}

fn batch_count(p: &Product) -> Dim {
    p.nest.rows[..p.batch].iter().fold(Dim::int(1), |n, d| n * d)
}

/// The tile that promises the shortest time: its speed when the device is full, less what padding and idle parts cost.
fn choose(unit: &Unit, p: &Product) -> Option<Tile> {
    let size = |d: &Dim| d.as_int().unwrap_or_else(|| d.range().1.min(1024)).max(1) as f64;
    let (m, n, k, z) = (size(&p.m), size(&p.n), size(&p.k), size(&batch_count(p)));
    if m.min(n) <= 4.0 || m * n < 256.0 || k < 4.0 {
        return None;
    }
    let caps = &unit.target.caps;
    let lanes = unit.target.model.parallel_lanes as f64;
    let fits = |t: &Tile| t.threads() <= caps.max_invocations.min(caps.max_workgroup_size) && t.shared_bytes() <= caps.max_workgroup_bytes;
    let score = |t: &Tile, speed: f64| {
        let (tm, tn) = ((m / t.bm as f64).ceil(), (n / t.bn as f64).ceil());
        let useful = m * n / (tm * tn * (t.bm * t.bn) as f64);
        // Registers let a multiprocessor hold a quarter of its invocations.
        let full = (tm * tn * z * t.threads() as f64 / (lanes / 4.0)).min(1.0);
        speed * useful * full
    };
    let mut best: Option<(f64, Tile)> = None;
    for (tile, speed) in TILES {
        if fits(&tile) && best.is_none_or(|(s, _)| score(&tile, speed) > s) {
            best = Some((score(&tile, speed), tile));
        }
    }
    best.map(|(_, t)| t)
}

/// Spells the kernel with a given tile.
fn build(unit: &Unit, p: &Product, tile: Tile) -> Result<Variant, String> {
    let (a_along_k, b_along_k) = (prefers(p, p.a, M), prefers(p, p.b, N));
    let mut hooks = [operand(unit, p, a_along_k, M), operand(unit, p, b_along_k, N), output(unit, p)];
    let vector = vectors(unit, p, &hooks);
    for h in &mut hooks {
        h.vector.clone_from(&vector);
    }
    let [mut a, mut b, mut e] = hooks;
    let load_a = load(&mut a, p, &tile, "load_a", (p.a, &p.checks[0]), a_along_k, M)?;
    let load_b = load(&mut b, p, &tile, "load_b", (p.b, &p.checks[1]), b_along_k, N)?;
    let epilogue = epilogue(&mut e, p)?;
    module::all_checked(&a.unchecked().filter(|v| b.unchecked().any(|w| w == *v) && e.unchecked().any(|w| w == *v)).collect::<Vec<_>>())?;
    let (tiles_m, tiles_n) = (p.m.ceil_div(&Dim::int(tile.bm as i64)), p.n.ceil_div(&Dim::int(tile.bn as i64)));
    let groups = batch_count(p) * &tiles_m * &tiles_n;
    let (tiles_m, tiles_n, k) = (e.size_text(&tiles_m), e.size_text(&tiles_n), e.size_text(&p.k));
    let mut entry = module::entry(&mut e, &groups);
    let mut helpers = BTreeSet::new();
    let (mut uses_symbols, mut functions) = (false, vec![]);
    for (em, open) in [(a, load_a), (b, load_b), (e, epilogue)] {
        let (lines, used, globals, symbols) = em.finish();
        debug_assert!(globals.is_empty());
        helpers.extend(used);
        uses_symbols |= symbols;
        let body: Vec<String> = lines.iter().map(|l| format!("  {}\n", l.replace('\n', "\n  "))).collect();
        functions.push(format!("{open} {{\n{}}}\n", body.concat()));
    }
    entry.splice(0..0, helpers::opening(&helpers));
    let (bindings, head) = header(unit, &vector, uses_symbols, &helpers);
    let a_items = tile.bm / 4 * tile.bk / 4;
    let b_items = tile.bn / 4 * tile.bk / 4;
    // With both operands transposed, the second is staged by the other half of the invocations.
    let b_first = if a_along_k && b_along_k && a_items + b_items <= tile.threads() { a_items } else { 0 };
    let stages = [("a", a_along_k, tile.bm, 0), ("b", b_along_k, tile.bn, b_first)].map(|(op, along_k, size, first)| {
        minijinja::context! { op, along_k, size, first, stride => size / 4 + tile.pad }
    });
    let context = minijinja::context! {
        bm => tile.bm, bn => tile.bn, bk => tile.bk, tm => tile.tm, tn => tile.tn, unroll => tile.unroll,
        sa => tile.bm / 4 + tile.pad, sb => tile.bn / 4 + tile.pad, threads => tile.threads(), stages, tiles_m, tiles_n, k, entry,
        load_a => &functions[0], load_b => &functions[1], epilogue => &functions[2],
    };
    let template = TEMPLATES.get_template("matmul").map_err(|e| e.to_string())?;
    let body = template.render(context).map_err(|e| format!("matmul template: {e:#}"))?;
    let name = format!("tile-{}x{}x{}-{}x{}", tile.bm, tile.bn, tile.bk, tile.tm, tile.tn);
    Ok(Variant { name, wgsl: format!("{head}\n{body}\n"), workgroup: [tile.threads(), 1, 1], groups, bindings })
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

/// The coordinates of the nest's axes for four lanes along kernel axis `along`, the other axes by themselves.
fn lanes(p: &Product, along: u32) -> Vec<Lane> {
    let sizes = |id: u32| match id {
        M => p.m.clone(),
        N => p.n.clone(),
        _ => p.k.clone(),
    };
    let four = Dim::int(4);
    let divides = sizes(along).try_div(&four).is_some();
    let lane = |l: u32| {
        let at = |id: u32| -> IndexExpr {
            let size = sizes(id);
            if id != along {
                IndexExpr::axis(id, &size)
            } else if divides {
                IndexExpr::axis(id, &size.ceil_div(&four)).times(&four).plus(&Dim::int(l as i64))
            } else {
                IndexExpr::axis(CLAMPED + l, &size)
            }
        };
        let mut axes = unflatten(&IndexExpr::axis(BATCH, &batch_count(p)), &p.nest.rows[..p.batch]);
        axes.extend([at(M), at(N)]);
        axes.extend(unflatten(&at(K), &p.nest.cols));
        Lane::at(axes)
    };
    (0..4).map(lane).collect()
}

fn operand<'a>(unit: &'a Unit<'a>, p: &Product, along_k: bool, row: u32) -> Emitter<'a> {
    let mut em = Emitter::new(unit);
    em.lanes = lanes(p, if along_k { K } else { row });
    em
}

fn output<'a>(unit: &'a Unit<'a>, p: &Product) -> Emitter<'a> {
    let mut em = Emitter::new(unit);
    em.lanes = lanes(p, N);
    em
}

/// Bindings that every hook reads and writes by aligned vectors.
fn vectors(unit: &Unit, p: &Product, hooks: &[Emitter; 3]) -> Vec<bool> {
    let nest = p.nest;
    let mut after = BTreeSet::new();
    for w in &nest.writes {
        after.extend(reachable(nest, w.value, Some(p.dot)));
        w.index.values().into_iter().for_each(|v| after.extend(reachable(nest, Val(v), Some(p.dot))));
    }
    p.checks[2].iter().for_each(|v| after.extend(reachable(nest, *v, Some(p.dot))));
    let sets = [reachable(nest, p.a, None), reachable(nest, p.b, None), after];
    let mut fits = vector::candidates(unit);
    for (k, (em, set)) in hooks.iter().zip(&sets).enumerate() {
        let writes: &[crate::loop_ir::Write] = if k == 2 { &nest.writes } else { &[] };
        vector::restrict(em, set.iter().map(|&s| &nest.body[s as usize].instr), writes, &[vec![0, 1, 2, 3]], &mut fits);
    }
    fits
}

/// Names the kernel axes of a hook whose lanes run along `along`, with `quad` counting fours, and guards the end.
fn name_axes(em: &mut Emitter, other: (u32, &str), along: (u32, &Dim, &str)) -> Vec<Option<String>> {
    em.axes.insert(BATCH, Ex::global("z"));
    em.axes.insert(other.0, Ex::global(other.1));
    let (id, size, quad) = along;
    if size.try_div(&Dim::int(4)).is_some() {
        em.axes.insert(id, Ex::global(quad));
        return vec![None; 4];
    }
    let count = em.size(size);
    let mut active = vec![];
    for l in 0..4 {
        em.line(format!("let e{l} = min({quad} * 4u + {l}u, {} - 1u);", count.text));
        em.axes.insert(CLAMPED + l, Ex::global(format!("e{l}")));
        active.push(Some(format!("{quad} * 4u + {l}u < {}", count.text)));
    }
    active
}

/// A load hook; gives its head, its statements are in `em`.
fn load(em: &mut Emitter, p: &Product, tile: &Tile, name: &str, (v, checks): (Val, &[Val]), along_k: bool, row: u32) -> Result<String, String> {
    let (size, block) = if row == M { (&p.m, tile.bm) } else { (&p.n, tile.bn) };
    let (x, y) = if along_k { ("x", "q") } else { ("q", "y") };
    let inside = |d: &Dim, b: u32| d.try_div(&Dim::int(b as i64)).is_some();
    let mut tests = vec![];
    let quads = |d: &Dim| d.ceil_div(&Dim::int(4));
    if !inside(size, block) {
        let bound = if along_k { size.clone() } else { quads(size) };
        tests.push(format!("{x} >= {}", em.size_text(&bound)));
    }
    if !inside(&p.k, tile.bk) {
        let bound = if along_k { quads(&p.k) } else { p.k.clone() };
        tests.push(format!("{y} >= {}", em.size_text(&bound)));
    }
    if !tests.is_empty() {
        em.line(format!("if ({}) {{ return vec4<f32>(); }}", tests.join(" || ")));
    }
    let along = if along_k { (K, &p.k, "q") } else { (row, size, "q") };
    let other = if along_k { (row, "x") } else { (K, "y") };
    let active = name_axes(em, other, along);
    em.check(checks, 0..4)?;
    let mut parts = vec![];
    for (l, test) in active.iter().enumerate() {
        let x = em.value(v, l)?.text;
        parts.push(match test {
            Some(test) => format!("select(0.0f, {x}, {test})"),
            None => x,
        });
    }
    em.line(format!("return vec4<f32>({});", parts.join(", ")));
    Ok(format!("fn {name}(z: u32, {x}: u32, {y}: u32) -> vec4<f32>"))
}

/// The epilogue hook; gives its head, its statements are in `em`.
fn epilogue(em: &mut Emitter, p: &Product) -> Result<String, String> {
    let (m, quads) = (em.size_text(&p.m), em.size_text(&p.n.ceil_div(&Dim::int(4))));
    em.line(format!("if (m >= {m} || q >= {quads}) {{ return; }}"));
    let active = name_axes(em, (M, "m"), (N, &p.n, "q"));
    for (l, part) in ["x", "y", "z", "w"].iter().enumerate() {
        em.set_computed(p.dot.0, l, &Ex::global(format!("sums.{part}")));
    }
    em.check(&p.checks[2], 0..4)?;
    let mut stores = vec![];
    for w in &p.nest.writes {
        stores.extend(em.stores(w, &[0, 1, 2, 3], &|l| active[l].clone())?);
    }
    for s in stores {
        em.line(s);
    }
    Ok("fn epilogue(z: u32, m: u32, q: u32, sums: vec4<f32>)".into())
}
