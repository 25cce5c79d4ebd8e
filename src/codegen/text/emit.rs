//! Writing WGSL statements into nested blocks, each at the outermost block where its operands are known.
//!
//! Expressions carry the depth of the block that defines their operands. A binding is placed there, not where it is asked
//! for, so that whatever does not vary in a loop is computed before it, and equal text is bound once.

use super::unit::Unit;
use crate::forms::Lane;
use crate::loop_ir::{IndexExpr, Number, Term, Val};
use crate::types::Dim;
use rustc_hash::FxHashMap;
use std::collections::BTreeSet;

/// A spelled expression and the depth of the block it is known in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ex {
    /// WGSL: a name, a literal or a parenthesized expression.
    pub text: String,
    /// Number of the innermost block that defines something in it.
    pub depth: usize,
}

impl Ex {
    /// An expression known everywhere.
    pub fn global(text: impl Into<String>) -> Ex {
        Ex { text: text.into(), depth: 0 }
    }

    /// A name or literal, that needs no binding.
    pub fn is_atom(&self) -> bool {
        self.text.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.')
    }
}

/// Depth of an expression over several.
pub fn deepest<'a>(parts: impl IntoIterator<Item = &'a Ex>) -> usize {
    parts.into_iter().map(|e| e.depth).max().unwrap_or(0)
}

/// Whether invocations of a workgroup wait for one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// They do not.
    None,
    /// All of them do.
    Uniform,
    /// Some of them would wait for ever.
    Divergent,
}

/// How the invocations of a workgroup pass through a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Block {
    /// All of them, equally often: only here may they wait for one another.
    #[default]
    Uniform,
    /// Some of them, or some more often than others.
    Divergent,
    /// Some of them, and what depends on the block around it stays inside.
    Branch,
}

/// A block under construction.
#[derive(Default)]
struct Frame {
    lines: Vec<String>,
    /// Text already bound here, and its name.
    named: FxHashMap<String, Ex>,
    /// Values of the body already computed here, by value and lane.
    values: FxHashMap<(u32, usize), Ex>,
    block: Block,
}

/// A kernel's function body under construction.
pub struct Emitter<'a> {
    /// What is compiled.
    pub unit: &'a Unit<'a>,
    /// Lanes of the invocation.
    pub lanes: Vec<Lane>,
    /// Names of the kernel's axes, by axis number.
    pub axes: FxHashMap<u32, Ex>,
    /// Helper functions called.
    pub helpers: BTreeSet<String>,
    /// Module-scope declarations.
    pub globals: Vec<String>,
    /// Whether the symbols' block is read.
    pub uses_symbols: bool,
    /// Vectorized bindings: declared as arrays of `vec4`.
    pub vector: Vec<bool>,
    /// Depth of the loop over columns, for scans.
    pub loop_depth: Option<usize>,
    /// Exponentials for which the built-in's accuracy is enough: those of numbers below zero in sums that are one at least, where
    /// its error of `3 + 2 |x|` ULP stays within four ULP of one.
    pub rough_exp: Vec<Val>,
    /// Rows that the lanes belong to.
    pub across: u32,
    /// Size of the subgroups whose operations the kernel uses.
    pub subgroup: Option<u32>,
    /// Values that are a number in a lane, as far as was asked.
    pub numbers: FxHashMap<(u32, usize), Option<Number>>,
    /// Checks that are spelled where nothing skips them, by value and lane.
    checked: BTreeSet<(u32, usize)>,
    frames: Vec<Frame>,
    /// Some invocations have ended.
    left: bool,
    barrier: Barrier,
    counter: u32,
}

impl<'a> Emitter<'a> {
    /// An empty function body.
    pub fn new(unit: &'a Unit<'a>) -> Emitter<'a> {
        Emitter {
            unit,
            lanes: vec![],
            axes: FxHashMap::default(),
            helpers: BTreeSet::new(),
            globals: vec![],
            uses_symbols: false,
            vector: vec![false; unit.bindings.len()],
            loop_depth: None,
            rough_exp: vec![],
            across: 1,
            subgroup: None,
            numbers: FxHashMap::default(),
            checked: BTreeSet::new(),
            frames: vec![Frame::default()],
            left: false,
            barrier: Barrier::None,
            counter: 0,
        }
    }

    /// Depth of the innermost open block.
    pub fn depth(&self) -> usize {
        self.frames.len() - 1
    }

    /// Appends a statement to the innermost block.
    pub fn line(&mut self, text: impl Into<String>) {
        let depth = self.depth();
        self.line_at(depth, text);
    }

    /// Appends a statement to an open block.
    pub fn line_at(&mut self, depth: usize, text: impl Into<String>) {
        self.frames[depth].lines.push(text.into());
    }

    /// Opens a block.
    pub fn open(&mut self, block: Block) {
        self.frames.push(Frame { block, ..Frame::default() });
    }

    /// Ends the invocations for which `test` holds. Nobody may wait for them afterwards.
    pub fn leave_if(&mut self, test: &str) {
        self.left = true;
        self.line(format!("if ({test}) {{ return; }}"));
    }

    /// All invocations of the workgroup wait for one another, and see what each wrote into workgroup memory.
    pub fn barrier(&mut self) {
        let uniform = !self.left && self.frames.iter().all(|f| f.block == Block::Uniform);
        debug_assert!(uniform, "a barrier that some invocations of the workgroup do not reach");
        self.barrier = match self.barrier {
            Barrier::Divergent => Barrier::Divergent,
            _ if uniform => Barrier::Uniform,
            _ => Barrier::Divergent,
        };
        self.line("workgroupBarrier();");
    }

    /// The same, and they see what each wrote into buffers.
    pub fn storage_barrier(&mut self) {
        self.line("storageBarrier();");
        self.barrier();
    }

    /// How invocations wait for one another in what was written so far.
    pub fn waits(&self) -> Barrier {
        self.barrier
    }

    /// Closes the innermost block and appends it, behind `head`, to the one around it.
    pub fn close(&mut self, head: &str) {
        let frame = self.frames.pop().expect("blocks are balanced");
        let outer = self.frames.last_mut().expect("the function body stays open");
        outer.lines.push(format!("{head} {{"));
        outer.lines.extend(frame.lines.into_iter().map(|l| format!("  {}", l.replace('\n', "\n  "))));
        outer.lines.push("}".into());
    }

    /// The statements of the function body.
    pub fn finish(mut self) -> (Vec<String>, BTreeSet<String>, Vec<String>, bool) {
        let frame = self.frames.pop().expect("the function body");
        debug_assert!(self.frames.is_empty(), "blocks are balanced");
        (frame.lines, self.helpers, self.globals, self.uses_symbols)
    }

    /// Where a binding that is known at `depth` is placed: inside the innermost branch that it may depend on.
    pub fn place(&self, depth: usize) -> usize {
        (depth..self.frames.len()).rev().find(|&f| f > depth && self.frames[f].block == Block::Branch && depth + 1 >= f).unwrap_or(depth)
    }

    /// A fresh name.
    pub fn fresh(&mut self, prefix: &str) -> String {
        self.counter += 1;
        format!("{prefix}{}", self.counter)
    }

    /// Binds an expression to a name, or gives the name it is bound to already. Names and literals stay as they are.
    pub fn bind(&mut self, e: Ex, prefix: &str) -> Ex {
        if e.is_atom() {
            return e;
        }
        if let Some(known) = self.known(&e.text) {
            return known;
        }
        let depth = self.place(e.depth);
        let name = self.fresh(prefix);
        self.frames[depth].lines.push(format!("let {name} = {};", e.text));
        let bound = Ex { text: name, depth };
        self.frames[depth].named.insert(e.text, bound.clone());
        bound
    }

    /// The name that `text` is bound to in an open block.
    pub fn known(&self, text: &str) -> Option<Ex> {
        self.frames.iter().rev().find_map(|f| f.named.get(text).cloned())
    }

    /// Records that `key` is bound to `e` as long as the block of `e` is open.
    pub fn remember(&mut self, key: String, e: &Ex) {
        self.frames[e.depth].named.insert(key, e.clone());
    }

    /// The computed value of a statement in a lane.
    pub fn computed(&self, v: u32, lane: usize) -> Option<Ex> {
        self.frames.iter().rev().find_map(|f| f.values.get(&(v, lane)).cloned())
    }

    /// Records the computed value of a statement in a lane.
    pub fn set_computed(&mut self, v: u32, lane: usize, e: &Ex) {
        self.frames[e.depth].values.insert((v, lane), e.clone());
    }

    /// Records that a check is spelled in the block at `depth`; in a branch it may be skipped.
    pub fn set_checked(&mut self, v: Val, lane: usize, depth: usize) {
        if !self.frames[..=depth].iter().any(|f| f.block == Block::Branch) {
            self.checked.insert((v.0, lane));
        }
    }

    /// Whether a check is spelled in all of these lanes.
    pub fn is_checked(&self, v: Val, mut lanes: impl Iterator<Item = usize>) -> bool {
        lanes.all(|l| self.checked.contains(&(v.0, l)))
    }

    /// Spells checks in these lanes, whether or not anything uses what they give.
    pub fn check(&mut self, checks: &[Val], lanes: impl Iterator<Item = usize> + Clone) -> Result<(), String> {
        for v in checks {
            for lane in lanes.clone() {
                self.value(*v, lane)?;
            }
        }
        Ok(())
    }

    /// The checks of the nest that are spelled in no lane.
    pub fn unchecked(&self) -> impl Iterator<Item = Val> + '_ {
        self.unit.nest.checks().filter(|v| !self.checked.iter().any(|(c, _)| *c == v.0))
    }

    /// Marks a helper function as used.
    pub fn helper(&mut self, name: &str) -> String {
        self.helpers.insert(name.to_string());
        name.to_string()
    }

    /// A size as u32 (negative ones wrap).
    pub fn size(&mut self, d: &Dim) -> Ex {
        match d.as_int() {
            Some(n) => Ex::global(format!("{}u", n as u32)),
            None => {
                let text = self.size_text(d);
                self.bind(Ex::global(text), "n")
            }
        }
    }

    /// A size as u32, unbound.
    pub fn size_text(&mut self, d: &Dim) -> String {
        if let Some(n) = d.as_int() {
            return format!("{}u", n as u32);
        }
        self.uses_symbols = true;
        let symbols = self.unit.symbols;
        d.render(&|s| {
            let k = symbols.iter().position(|t| t == s).unwrap_or_else(|| panic!("codegen: {} is no symbol of the program", s.name));
            format!("symbols[{}].{}", k / 4, ["x", "y", "z", "w"][k % 4])
        })
    }

    /// `e` over the kernel's axes, in a lane.
    pub fn in_lane(&self, e: &IndexExpr, lane: usize) -> IndexExpr {
        self.lanes[lane].index(e)
    }

    /// Spells an index expression over the kernel's axes, as u32. Values are those of `lane`.
    pub fn index(&mut self, e: &IndexExpr, lane: usize) -> Result<Ex, String> {
        let mut parts: Vec<(bool, Ex)> = vec![];
        for (term, k) in &e.terms {
            let t = self.term(term, lane)?;
            let negative = k.as_int().is_some_and(|k| k < 0);
            let magnitude = if negative { k.clone() * Dim::int(-1) } else { k.clone() };
            let text = if magnitude.is(1) {
                t
            } else {
                let factor = self.size(&magnitude);
                Ex { depth: t.depth.max(factor.depth), text: format!("{} * {}", t.text, factor.text) }
            };
            parts.push((negative, text));
        }
        match e.offset.as_int() {
            Some(0) => {}
            Some(n) => parts.push((n < 0, Ex::global(format!("{}u", n.unsigned_abs() as u32)))),
            None => {
                let offset = self.size(&e.offset);
                parts.push((false, offset));
            }
        }
        // Outer parts first, so that what does not vary in a loop is summed outside; subtractions last.
        parts.sort_by_key(|(negative, part)| (part.depth, *negative));
        let mut sum: Option<Ex> = None;
        for (negative, part) in parts {
            sum = Some(match sum {
                None if negative => Ex { text: format!("(0u - {})", part.text), depth: part.depth },
                None => part,
                Some(before) => {
                    let before = if before.depth < part.depth { self.bind(before, "x") } else { before };
                    let sign = if negative { "-" } else { "+" };
                    Ex { text: format!("{} {sign} {}", before.text, part.text), depth: part.depth.max(before.depth) }
                }
            });
        }
        Ok(match sum {
            None => Ex::global("0u"),
            Some(e) if e.is_atom() => e,
            Some(e) => Ex { text: format!("({})", e.text), depth: e.depth },
        })
    }

    fn term(&mut self, term: &Term, lane: usize) -> Result<Ex, String> {
        match term {
            Term::Axis(a) => self.axes.get(&a.id).cloned().ok_or_else(|| format!("axis {} is not known here", a.id)),
            Term::Value { value, .. } => {
                let v = Val(*value);
                let x = self.value(v, lane)?;
                let kind = self.unit.kind(self.unit.nest.dtype(v))?;
                Ok(Ex { text: kind.to_index(&x.text), depth: x.depth })
            }
            Term::Div(e, d) => self.division(e, d, "/", "floor_div_i", lane),
            Term::Mod(e, d) => self.division(e, d, "%", "remainder_i", lane),
        }
    }

    fn division(&mut self, e: &IndexExpr, d: &Dim, op: &str, signed: &str, lane: usize) -> Result<Ex, String> {
        let below_zero = e.bounds().is_none_or(|(lo, _)| lo.range().0 < 0);
        if let Some(steps) = lift(e, d).filter(|_| below_zero) {
            return self.lifted_division(e, d, op, &steps, lane);
        }
        let (x, y) = (self.index(e, lane)?, self.size(d));
        let depth = x.depth.max(y.depth);
        let text = if below_zero {
            let f = self.helper(signed);
            format!("u32({f}(i32({}), i32({})))", x.text, y.text)
        } else {
            format!("({} {op} {})", x.text, y.text)
        };
        Ok(self.bind(Ex { text, depth }, "x"))
    }

    /// The division of what may be below zero as one of what is not: so many divisors more in, so many less out.
    fn lifted_division(&mut self, e: &IndexExpr, d: &Dim, op: &str, steps: &Dim, lane: usize) -> Result<Ex, String> {
        let (x, y) = (self.index(&e.plus(&(steps.clone() * d)), lane)?, self.size(d));
        let quotient = self.bind(Ex { text: format!("({} {op} {})", x.text, y.text), depth: x.depth }, "x");
        if op == "%" {
            return Ok(quotient);
        }
        let text = format!("({} - {})", quotient.text, self.size(steps).text);
        Ok(self.bind(Ex { text, depth: quotient.depth }, "x"))
    }
}

/// The smallest number of divisors by which an expression of known bounds is not below zero any more, where it then still fits 32
/// bits.
fn lift(e: &IndexExpr, d: &Dim) -> Option<Dim> {
    let (lo, hi) = e.bounds()?;
    let (lo, hi, d) = (lo.as_int()?, hi.as_int()?, d.as_int().filter(|d| *d > 0)?);
    let steps = lo.min(0).checked_neg()?.checked_add(d - 1)? / d;
    (steps.checked_mul(d)?.checked_add(hi)? <= u32::MAX as i64).then(|| Dim::int(steps))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Target;
    use crate::forms::{Form, Map};
    use crate::loop_ir::{Nest, Tag};
    use crate::types::Sizes;

    /// What `write` makes of an empty body.
    fn waits(write: impl FnOnce(&mut Emitter)) -> Barrier {
        let (rows, cols, inner, body, writes) = (Sizes::default(), Sizes::default(), Sizes::default(), vec![], vec![]);
        let nest = Nest { label: "".into(), rows, cols, inner, body, writes, tag: Tag::Loop, provenance: Default::default() };
        let (form, target) = (Form::Map(Map { lanes: 1, threads: 64 }), Target::h100());
        let (buffers, bindings, level) = (vec![], vec![], vec![]);
        let unit = Unit {
            nest: &nest,
            form: &form,
            target: &target,
            symbols: &[],
            buffers,
            bindings,
            guarded: false,
            skips: false,
            sets_status: false,
            level,
        };
        let mut em = Emitter::new(&unit);
        write(&mut em);
        em.waits()
    }

    #[test]
    fn invocations_wait_where_all_of_them_come() {
        assert_eq!(waits(|em| em.line("let x = 1u;")), Barrier::None);
        let in_a_loop = waits(|em| {
            em.open(Block::Divergent);
            em.close("if (lid == 0u)");
            em.open(Block::Uniform);
            em.barrier();
            em.close("for (var c = 0u; c < 8u; c++)");
        });
        assert_eq!(in_a_loop, Barrier::Uniform);
    }

    #[test]
    #[should_panic(expected = "do not reach")]
    fn nobody_waits_in_a_block_that_some_skip() {
        waits(|em| {
            em.open(Block::Divergent);
            em.open(Block::Uniform);
            em.barrier();
        });
    }

    #[test]
    #[should_panic(expected = "do not reach")]
    fn nobody_waits_for_those_that_ended() {
        waits(|em| {
            em.leave_if("lid > 7u");
            em.storage_barrier();
        });
    }
}
