//! Attention in blocks: `shaders/attention.wgsl.j2` with hooks generated from the body.
//!
//! Hooks of operands compute four neighboring terms or features with whatever the body does to them first; that of weights runs the
//! statements between contractions and the sum for four neighboring columns, and the last the statements behind the sum. Rows and columns
//! beyond the end read the last ones: rows are not stored, columns get no weight.

use super::product::{UNITS, functions_of, template};
use crate::codegen::plan::Variant;
use crate::codegen::text::emit::{Emitter, Ex};
use crate::codegen::text::module::{self, header};
use crate::codegen::text::storage::Kind;
use crate::codegen::text::unit::Unit;
use crate::codegen::text::{helpers, spell, vector};
use crate::forms::attention::{BATCH, CLAMPED, F, INNER, Layout, VALUES, X, Y, lanes, shared_columns, terms};
use crate::forms::contraction::divides;
use crate::forms::product::stride;
use crate::forms::{Blocks, Terms};
use crate::loop_ir::facts::{needed, stored};
use crate::loop_ir::{Attention, Instr, Nest, Number, Tag, Val, Write, attention};
use crate::types::{Cooperative, Dim};

/// A function that the template calls.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    /// Four terms of what rows hold.
    Row(usize),
    /// Four terms of what columns hold.
    Column(usize),
    /// Four features of what is summed.
    Values,
    /// Weights of four columns, or their scores.
    Weight,
    /// Weights out of exponentials.
    Kept,
    /// What follows the sum.
    Store,
}

/// Attention as it is to be spelled.
struct Kernel<'p> {
    nest: &'p Nest,
    parts: &'p Attention,
    blocks: Blocks,
    terms: Vec<u32>,
}

/// The kernel of attention in blocks.
pub fn spell_attention(unit: &Unit, blocks: Blocks) -> Result<Variant, String> {
    let parts = attention(unit.nest)?;
    let terms = terms(unit.nest, &parts).ok_or("the number of terms is not known")?;
    let kernel = Kernel { nest: unit.nest, parts: &parts, blocks, terms };
    let roles = kernel.roles();
    let mut hooks: Vec<Emitter> = roles.iter().map(|&role| kernel.hook(unit, role)).collect();
    let vector = kernel.vectors(unit, &roles, &hooks);
    let mut heads = vec![];
    for (em, &role) in hooks.iter_mut().zip(&roles) {
        em.vector.clone_from(&vector);
        heads.push(kernel.spell(em, role)?);
    }
    let mut main = Emitter::new(unit);
    let groups = kernel.groups();
    let (blocks_x, columns) = (main.size_text(&kernel.blocks_x()), main.size_text(&kernel.nest.cols[0]));
    let batches = main.size_text(&kernel.batches());
    let lowest = spell::opaque(&mut main, Kind::F32, Ok(Number::Float(f64::NEG_INFINITY.to_bits())));
    let mut entry = module::entry(&mut main, &groups);
    let (before, helpers, _, symbols) = main.finish();
    let functions = functions_of(hooks, heads, helpers, symbols);
    entry.splice(0..0, helpers::opening(&functions.helpers));
    let native = blocks.units.is_some() && unit.target.caps.cooperative == Cooperative::Native;
    let pinned = native.then(|| unit.pinned());
    let (bindings, head) = header(pinned.as_ref().unwrap_or(unit), &vector, functions.uses_symbols, &functions.helpers);
    let softmax = parts.online.is_some();
    let context = minijinja::context! {
        softmax, kept => roles.contains(&Role::Kept), batches, blocks_x, blocks_f => kernel.blocks_f(), columns, seen => kernel.seen(), lowest, entry, before,
        functions => functions.text,
    };
    let (name, own) = match blocks.units {
        Some(Terms::Halves) => ("attention_units", kernel.by_units(!native)),
        Some(_) => ("attention_scaled", kernel.by_units(!native)),
        None => ("attention", minijinja::context! { tile => kernel.context(), contractions => kernel.contractions() }),
    };
    let body = template(name, minijinja::context! { ..context, ..own })?;
    let enable = if native { UNITS } else { "" };
    let name = format!("attention-{}x{}x{}{}", blocks.bx, blocks.by, blocks.bf, blocks.units.map_or("", Terms::suffix));
    Ok(Variant {
        name,
        wgsl: format!("{enable}{head}\n{body}\n"),
        workgroup: [blocks.threads(), 1, 1],
        groups,
        bindings,
        scratch_bytes: 0,
        cooperative: native,
    })
}

impl Kernel<'_> {
    fn x(&self) -> &Dim {
        &self.nest.rows[self.parts.x() as usize]
    }

    fn features(&self) -> &Dim {
        &self.nest.rows[self.parts.features() as usize]
    }

    fn y(&self) -> &Dim {
        &self.nest.cols[0]
    }

    fn blocks_x(&self) -> Dim {
        self.x().ceil_div(&Dim::int(self.blocks.bx as i64))
    }

    fn blocks_f(&self) -> i64 {
        let features = self.features().as_int().unwrap_or(self.blocks.bf as i64);
        (features + self.blocks.bf as i64 - 1) / self.blocks.bf as i64
    }

    fn batches(&self) -> Dim {
        Dim::product(&self.nest.rows[..self.parts.batch as usize])
    }

    fn groups(&self) -> Dim {
        self.batches() * &self.blocks_x() * Dim::int(self.blocks_f())
    }

    fn seen(&self) -> &'static str {
        let Tag::Attention { seen, .. } = self.nest.tag else { unreachable!("attention has its tag") };
        seen.name()
    }

    /// The functions that the template calls.
    fn roles(&self) -> Vec<Role> {
        let operands = (0..self.terms.len()).flat_map(|k| [Role::Row(k), Role::Column(k)]);
        let kept = self.parts.online.is_some_and(|o| o.exp != self.parts.weight);
        operands.chain([Role::Values, Role::Weight]).chain(kept.then_some(Role::Kept)).chain([Role::Store]).collect()
    }

    /// Sizes that the template spells.
    fn context(&self) -> minijinja::Value {
        let Blocks { bx, by, bf, bk, unroll, .. } = self.blocks;
        let threads = self.blocks.threads();
        let [row_items, col_items] = [bx, by].map(|n| n / 4 * (bk / 4));
        // Where few invocations stage rows, others stage columns.
        let col_first = if row_items + col_items <= threads { row_items } else { 0 };
        let value_items = VALUES * bf / 4;
        minijinja::context! {
            bx, by, bf, bk, unroll, threads, row_items, col_items, col_first, staged => self.blocks.staged(),
            values => VALUES, value_items, value_rounds => value_items.div_ceil(threads),
        }
    }

    /// What the template of matrix units spells.
    fn by_units(&self, emulated: bool) -> minijinja::Value {
        // What the reference of a row lies above its first scores, and how far from it the maximum may be: exponentials of 11 are the largest
        // that f16 holds.
        // With two terms weights are exact below the reference, where it matters.
        let above: f32 = if self.blocks.units == Some(Terms::Split) { -2.0 } else { 5.0 };
        const MOST: f32 = 10.5;
        const LEAST: f32 = -6.0;
        let Blocks { bx, by, bf, .. } = self.blocks;
        let threads = self.blocks.threads();
        let shared = shared_columns(self.nest, self.parts).filter(|_| divides(self.features(), bf));
        let at = Layout::new(&self.blocks, &self.terms, shared, emulated);
        let count = self.blocks.term_count();
        let stage = |name: String, hook: String, first: &str, base: u32, lines: u32, length: u32| {
            let (quads, items) = (length / 4, lines * length / 4);
            minijinja::context! { name, hook, first, base, quads, items, rounds => items.div_ceil(threads), stride => stride(length * count) }
        };
        let (mut contractions, mut stages) = (vec![], vec![]);
        for (number, terms) in self.terms.iter().enumerate() {
            let depth = terms.next_multiple_of(16);
            let rows = at.rows[number];
            let column = stage(format!("c{number}"), format!("col_{number}"), "0u", at.columns[number], by, depth);
            stages.push(column.clone());
            contractions.push(minijinja::context! { number, rows, column, depth => depth / 16 });
        }
        // Values that are columns of a contraction are scaled as such.
        let name = shared.map_or("v".to_string(), |k| format!("c{k}"));
        let values = stage(name, "values".into(), "start_f", at.values, by, bf);
        stages.extend(shared.is_none().then(|| values.clone()));
        let quad = if emulated { "vec2<u32>" } else { "vec4<f16>" };
        let slice = stride(16 * count);
        let tile = minijinja::context! {
            bx, by, bf, threads, emulated, quad, slice, row_step => if emulated { bx * slice } else { 0 }, terms => count,
            halves => at.halves, weights => at.weights, weight_stride => stride(by * count), score_stride => stride(by),
            above => format!("{above:?}"), most => format!("{MOST:?}"), least => format!("{LEAST:?}"),
        };
        minijinja::context! { tile, contractions, stages, values }
    }

    /// Stages of each contraction.
    fn contractions(&self) -> Vec<u32> {
        self.terms.iter().map(|k| k.div_ceil(self.blocks.bk)).collect()
    }

    /// The kernel axis that a function's lanes run along, and its size.
    fn along(&self, role: Role) -> (u32, &Dim) {
        match role {
            Role::Row(k) | Role::Column(k) => {
                let over = self.parts.contractions[k].over;
                (INNER + over, &self.nest.inner[over as usize])
            }
            Role::Values | Role::Store => (F, self.features()),
            Role::Weight | Role::Kept => (Y, self.y()),
        }
    }

    fn hook<'a>(&self, unit: &'a Unit<'a>, role: Role) -> Emitter<'a> {
        let (along, size) = self.along(role);
        let mut em = Emitter::new(unit);
        em.lanes = lanes(self.nest, self.parts, along, !divides(size, 4));
        em.axes.insert(BATCH, Ex::global("z"));
        em
    }

    /// Spells a function's statements; gives its head.
    fn spell(&self, em: &mut Emitter, role: Role) -> Result<String, String> {
        match role {
            Role::Row(k) => self.spell_operand(em, role, k, "row", self.parts.contractions[k].a),
            Role::Column(k) => self.spell_operand(em, role, k, "col", self.parts.contractions[k].b),
            Role::Values => self.spell_values(em),
            Role::Weight => self.spell_weight(em),
            Role::Kept => self.spell_kept(em),
            Role::Store => self.spell_store(em),
        }
    }

    /// Four terms of a row or column; zero behind the last.
    fn spell_operand(&self, em: &mut Emitter, role: Role, k: usize, name: &str, v: Val) -> Result<String, String> {
        let (axis, size, block) = match role {
            Role::Row(_) => (X, self.x(), self.blocks.bx),
            _ => (Y, self.y(), self.blocks.by),
        };
        let at = clamp(em, "x", size, block);
        em.axes.insert(axis, at);
        let (along, terms) = self.along(role);
        let active = name_quad(em, along, terms, self.blocks.bk, true);
        self.give(em, &[v; 4], &active, "0.0")?;
        Ok(format!("fn {name}_{k}(z: u32, x: u32, q: u32) -> vec4<f32>"))
    }

    /// Four features of a column; zero for columns behind the last, whatever is there.
    fn spell_values(&self, em: &mut Emitter) -> Result<String, String> {
        let (size, count) = (self.y().clone(), em.size(self.y()).text);
        if !divides(&size, self.blocks.by) {
            em.line(format!("if (y >= {count}) {{ return vec4<f32>(); }}"));
        }
        em.axes.insert(Y, Ex::global("y"));
        let features = self.features();
        name_quad(em, F, features, self.blocks.bf, false);
        self.give(em, &[self.parts.values; 4], &[const { None }; 4], "0.0")?;
        Ok("fn values(z: u32, y: u32, q: u32) -> vec4<f32>".into())
    }

    /// Names the row and the columns of a function over scores; gives the conditions of its lanes.
    fn name_scores(&self, em: &mut Emitter) -> [Option<String>; 4] {
        let x = clamp(em, "x", self.x(), self.blocks.bx);
        em.axes.insert(X, x);
        name_quad(em, Y, self.y(), self.blocks.by, false)
    }

    fn spell_weight(&self, em: &mut Emitter) -> Result<String, String> {
        let active = self.name_scores(em);
        for (k, c) in self.parts.contractions.iter().enumerate() {
            name_lanes(em, c.dot, &format!("s{k}"));
        }
        let (v, otherwise) = match self.parts.online {
            Some(online) => (online.score, spell::opaque(em, Kind::F32, Ok(Number::Float(f64::NEG_INFINITY.to_bits())))),
            None => (self.parts.weight, "0.0".into()),
        };
        self.give(em, &[v; 4], &active, &otherwise)?;
        let sums: Vec<String> = (0..self.terms.len()).map(|k| format!("s{k}: vec4<f32>")).collect();
        Ok(format!("fn weight(z: u32, x: u32, q: u32, {}) -> vec4<f32>", sums.join(", ")))
    }

    fn spell_kept(&self, em: &mut Emitter) -> Result<String, String> {
        self.name_scores(em);
        let exp = self.parts.online.ok_or("weights are kept of a softmax")?.exp;
        name_lanes(em, exp, "e");
        self.give(em, &[self.parts.weight; 4], &[const { None }; 4], "0.0")?;
        Ok("fn kept(z: u32, x: u32, q: u32, e: vec4<f32>) -> vec4<f32>".into())
    }

    /// Returns a value in each lane, where it has a condition only where that holds.
    fn give(&self, em: &mut Emitter, values: &[Val; 4], active: &[Option<String>; 4], otherwise: &str) -> Result<(), String> {
        let mut parts = vec![];
        for (l, (v, test)) in values.iter().zip(active).enumerate() {
            let x = em.value(*v, l)?.text;
            parts.push(match test {
                Some(test) => format!("select({otherwise}, {x}, {test})"),
                None => x,
            });
        }
        em.line(format!("return vec4<f32>({});", parts.join(", ")));
        Ok(())
    }

    /// The function behind the sum.
    fn spell_store(&self, em: &mut Emitter) -> Result<String, String> {
        let (x, quads) = (em.size_text(self.x()), em.size_text(&self.features().ceil_div(&Dim::int(4))));
        em.line(format!("if (x >= {x} || q >= {quads}) {{ return; }}"));
        em.axes.insert(X, Ex::global("x"));
        let active = name_quad(em, F, self.features(), 4, false);
        name_lanes(em, self.parts.sum, "sums");
        let mut head = "fn store(z: u32, x: u32, q: u32, sums: vec4<f32>".to_string();
        if let Some(online) = self.parts.online {
            head += ", m: f32, l: f32";
            self.name_softmax(em, online.max);
        }
        let mut stores = vec![];
        for w in &self.nest.writes {
            stores.extend(match self.is_of_row(w) {
                true => em.stores(w, &[0], &|_| Some("q == 0u".into()))?,
                false => em.stores(w, &[0, 1, 2, 3], &|l| active[l].clone())?,
            });
        }
        stores.into_iter().for_each(|s| em.line(s));
        Ok(head + ")")
    }

    /// The softmax's numbers of a row: NaN where one of its scores is, and no sum below a maximum that is not finite.
    fn name_softmax(&self, em: &mut Emitter, max: Val) {
        let nan = spell::opaque(em, Kind::F32, Ok(Number::Float(f64::NAN.to_bits())));
        let exponent = |x: &str, test: &str| format!("(bitcast<u32>({x}) & 0x7fffffffu) {test} 0x7f800000u");
        let top = em.bind(Ex::global(format!("select(m, l, {})", exponent("l", ">"))), "m");
        let sum = em.bind(Ex::global(format!("select(l, {nan}, {})", exponent(&top.text, ">="))), "l");
        for l in 0..4 {
            em.set_computed(max.0, l, &top);
            for v in self.nest.values().filter(|v| self.nest.stmt(*v).instr == Instr::Proj(max, 1)) {
                em.set_computed(v.0, l, &sum);
            }
        }
    }

    /// Whether a write stores one value for all features.
    fn is_of_row(&self, w: &Write) -> bool {
        !w.index.uses_axis(|a| a == self.parts.features())
    }

    /// Bindings that every hook reads and writes by aligned vectors.
    fn vectors(&self, unit: &Unit, roles: &[Role], hooks: &[Emitter]) -> Vec<bool> {
        let (nest, parts) = (self.nest, self.parts);
        let mut fits = vector::candidates(unit);
        let (of_row, of_features): (Vec<&Write>, Vec<&Write>) = nest.writes.iter().partition(|w| self.is_of_row(w));
        of_row.into_iter().for_each(|w| fits[unit.buffers[w.buffer.0 as usize].binding] = false);
        let of_features: Vec<Write> = of_features.into_iter().cloned().collect();
        for (em, &role) in hooks.iter().zip(roles) {
            let (set, writes): (_, &[Write]) = match role {
                Role::Row(k) => (needed(nest, [parts.contractions[k].a]), &[]),
                Role::Column(k) => (needed(nest, [parts.contractions[k].b]), &[]),
                Role::Values => (needed(nest, [parts.values]), &[]),
                Role::Weight => (parts.surface(nest, [parts.online.map_or(parts.weight, |o| o.score)]), &[]),
                Role::Kept => (parts.surface(nest, [parts.weight]), &[]),
                Role::Store => (parts.surface(nest, nest.writes.iter().flat_map(stored)), &of_features),
            };
            let spelled = nest.body.iter().zip(set).filter(|(_, needed)| *needed).map(|(s, _)| &s.instr);
            vector::restrict(em, spelled, writes, &[vec![0, 1, 2, 3]], &mut fits);
        }
        fits
    }
}

/// A coordinate that stays below `size`, which blocks of `block` may go beyond.
fn clamp(em: &mut Emitter, name: &str, size: &Dim, block: u32) -> Ex {
    if divides(size, block) {
        return Ex::global(name);
    }
    let size = em.size(size).text;
    em.bind(Ex::global(format!("min({name}, {size} - 1u)")), "c")
}

/// Names the coordinates of the quad `q` along an axis of which blocks of `block` may go beyond the end; gives the conditions of its lanes.
/// Where all lanes lie behind the end, a function that gives zeros there ends.
fn name_quad(em: &mut Emitter, axis: u32, size: &Dim, block: u32, ends: bool) -> [Option<String>; 4] {
    let four = Dim::int(4);
    if divides(size, block) {
        em.axes.insert(axis, Ex::global("q"));
        return [const { None }; 4];
    }
    if let Some(quads) = size.try_div(&four) {
        let count = em.size(&quads).text;
        if ends {
            em.line(format!("if (q >= {count}) {{ return vec4<f32>(); }}"));
            em.axes.insert(axis, Ex::global("q"));
            return [const { None }; 4];
        }
        let at = em.bind(Ex::global(format!("min(q, {count} - 1u)")), "c");
        em.axes.insert(axis, at);
        return [0; 4].map(|_| Some(format!("q < {count}")));
    }
    let count = em.size(size).text;
    [0, 1, 2, 3].map(|l| {
        let at = em.bind(Ex::global(format!("min(q * 4u + {l}u, {count} - 1u)")), "e");
        em.axes.insert(CLAMPED + l, at);
        Some(format!("q * 4u + {l}u < {count}"))
    })
}

/// A value is a vector's component in each lane.
fn name_lanes(em: &mut Emitter, v: Val, vector: &str) {
    for (l, part) in ["x", "y", "z", "w"].iter().enumerate() {
        em.set_computed(v.0, l, &Ex::global(format!("{vector}.{part}")));
    }
}
