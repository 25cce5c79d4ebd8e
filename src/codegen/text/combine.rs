//! Accumulators of reductions and scans: identity, one more element, two partial results, the end.

use super::emit::Emitter;
use super::spell;
use super::storage::Kind;
use crate::loop_ir::{Combiner, Merge, Number, Part};
use crate::scalar::{ScalarFn, Wgsl};
use crate::types::DType;

/// The variables of one reduction.
#[derive(Clone, Debug)]
pub struct Accumulator {
    /// How it combines.
    pub combiner: Combiner,
    /// Names of its variables, one for each result.
    pub names: Vec<String>,
    /// Their kinds.
    pub kinds: Vec<Kind>,
    /// The identity.
    pub start: Vec<String>,
    /// What is reduced.
    pub dtype: DType,
    /// The variable with the largest magnitude of the bits of all elements, which tells whether a NaN was among them. A look at
    /// it in the end costs less than one at every element.
    pub nan: Option<String>,
}

impl Accumulator {
    /// Names variables for a reduction of values of `dtype`. Nothing is declared yet.
    pub fn new(em: &mut Emitter, combiner: Combiner, dtype: DType) -> Result<Accumulator, String> {
        let kind = em.unit.kind(dtype)?;
        let mut kinds = vec![];
        for k in 0..combiner.results() {
            kinds.push(em.unit.kind(combiner.result_dtype(k, dtype))?);
        }
        if matches!(combiner.row().merge, Merge::State { .. }) && kind != Kind::F32 {
            return Err(format!("{combiner:?} of {dtype} is not available on GPUs"));
        }
        let identity = match combiner.identity(dtype) {
            Number::Int(n) => Number::Int(saturate(n, kind)),
            float => float,
        };
        let mut start = vec![spell::constant(em, kind, identity)?];
        // A column behind all others, which tells that there was none.
        start.extend(combiner.row().parts.iter().map(|p| if *p == Part::Column { "2147483647i".to_string() } else { "0.0f".into() }));
        let names = (0..combiner.results()).map(|_| em.fresh("a")).collect();
        Ok(Accumulator { combiner, names, kinds, start, dtype, nan: None })
    }

    /// For many elements: looks for NaN among the elements of a maximum or minimum in [`Accumulator::close`] only.
    pub fn of_many(self, em: &mut Emitter) -> Accumulator {
        let extreme = self.kinds[0] == Kind::F32 && matches!(self.combiner, Combiner::Max | Combiner::Min);
        Accumulator { nan: extreme.then(|| em.fresh("n")), ..self }
    }

    /// Declares the variables in the innermost block.
    pub fn declare(&self, em: &mut Emitter) {
        for (name, start) in self.names.iter().zip(&self.start) {
            em.line(format!("var {name} = {start};"));
        }
        if let Some(nan) = &self.nan {
            em.line(format!("var {nan} = 0u;"));
        }
    }

    /// Statements behind the last element of an invocation.
    pub fn close(&self, em: &mut Emitter) -> Vec<String> {
        let Some(nan) = &self.nan else { return vec![] };
        let bits = em.helper("bits_");
        vec![format!("{0} = select({0}, {bits}(0x7fc00000u), {nan} > 0x7f800000u);", self.names[0])]
    }

    /// Whether elements are added several at once.
    pub fn takes_several(&self) -> bool {
        matches!(self.combiner, Combiner::OnlineSoftmax | Combiner::Welford)
    }

    /// Statements that add the element `x` of a column.
    pub fn add(&self, em: &mut Emitter, x: &str, column: &str) -> Vec<String> {
        match self.combiner {
            Combiner::Welford | Combiner::OnlineSoftmax => self.add_all(em, &[x.to_string()]),
            Combiner::Max | Combiner::Min if self.nan.is_some() => {
                let (a, nan) = (&self.names[0], self.nan.as_deref().unwrap_or_default());
                let better = if self.combiner == Combiner::Max { "max" } else { "min" };
                vec![format!("{a} = {better}({a}, {x});"), format!("{nan} = max({nan}, bitcast<u32>({x}) & 0x7fffffffu);")]
            }
            _ => {
                let part = |p: &Part| match p {
                    Part::Column => format!("i32({column})"),
                    Part::Zero => "0.0f".into(),
                    Part::One => "1.0f".into(),
                };
                let state: Vec<String> = [x.to_string()].into_iter().chain(self.combiner.row().parts.iter().map(part)).collect();
                self.merge(em, &state)
            }
        }
    }

    /// Statements that add several elements to an online softmax, with one new maximum for all of them, or to Welford's
    /// moments, with one division.
    pub fn add_all(&self, em: &mut Emitter, xs: &[String]) -> Vec<String> {
        if self.combiner == Combiner::Welford { self.add_moments(em, xs) } else { self.add_exponentials(em, xs) }
    }

    /// Mean and squared deviations of the elements by themselves, then both parts together.
    fn add_moments(&self, em: &mut Emitter, xs: &[String]) -> Vec<String> {
        let [mean, m2, n] = &self.names[..] else { unreachable!("three results") };
        let (own, squares, d, w) = (em.fresh("m"), em.fresh("q"), em.fresh("d"), em.fresh("w"));
        let count = xs.len();
        let mut lines = vec![format!("let {own} = ({}) * {:?}f;", xs.join(" + "), 1.0 / count as f32), format!("var {squares} = 0.0f;")];
        lines.extend(xs.iter().map(|x| format!("{squares} = fma({x} - {own}, {x} - {own}, {squares});")));
        lines.extend([
            format!("let {d} = {own} - {mean};"),
            format!("let {w} = {count}.0f / ({n} + {count}.0f);"),
            format!("{mean} = fma({d}, {w}, {mean});"),
            // In this order a large distance times no elements is zero.
            format!("{m2} = fma({d} * ({n} * {w}), {d}, {m2} + {squares});"),
            format!("{n} += {count}.0f;"),
        ]);
        lines
    }

    fn add_exponentials(&self, em: &mut Emitter, xs: &[String]) -> Vec<String> {
        let [m, s] = &self.names[..] else { unreachable!("two results") };
        let (below, top) = (em.helper("exp_below_"), em.fresh("m"));
        // A balanced tree, so that the comparisons do not wait for one another.
        let mut level: Vec<String> = xs.to_vec();
        while level.len() > 1 {
            level = level.chunks(2).map(|c| if let [a, b] = c { format!("max({a}, {b})") } else { c[0].clone() }).collect();
        }
        let mut lines = vec![format!("let {top} = max({m}, {});", level[0]), format!("{s} = {s} * {below}({m}, {top});")];
        lines.extend(xs.iter().map(|x| format!("{s} += {below}({x}, {top});")));
        lines.push(format!("{m} = {top};"));
        lines
    }

    /// Statements that combine with another partial result, whose columns come after.
    pub fn merge(&self, em: &mut Emitter, other: &[String]) -> Vec<String> {
        let (a, b) = (&self.names[0], &other[0]);
        match self.combiner.row().merge {
            Merge::Function(f) => vec![format!("{a} = {};", self.both(em, f, a, b))],
            Merge::Winner { helper, .. } => {
                let f = em.helper(&format!("{helper}{}", self.kinds[0].suffix()));
                let (i, j) = (&self.names[1], &other[1]);
                vec![format!("if ({f}({b}, {j}, {a}, {i})) {{ {a} = {b}; {i} = {j}; }}")]
            }
            Merge::State { helper, .. } => {
                let (f, w, n) = (em.helper(helper), em.fresh("w"), self.names.len());
                let assigned: Vec<String> = self.names.iter().zip(["x", "y", "z", "w"]).map(|(name, c)| format!("{name} = {w}.{c};")).collect();
                vec![format!("let {w} = {f}(vec{n}<f32>({}), vec{n}<f32>({}));", self.names.join(", "), other.join(", ")), assigned.join(" ")]
            }
        }
    }

    /// A scalar function of two numbers, as partial results have it: NaN and zeros come out as the definition says, and integers
    /// are wrapped in the end.
    fn both(&self, em: &mut Emitter, f: ScalarFn, a: &str, b: &str) -> String {
        let (kind, maximum) = (self.kinds[0], f == ScalarFn::Maximum);
        match (f, f.row().wgsl) {
            (ScalarFn::Maximum | ScalarFn::Minimum, _) if kind == Kind::Bool => format!("{a} {} {b}", if maximum { "||" } else { "&&" }),
            (_, Wgsl::Infix(op)) => format!("{a} {op} {b}"),
            (_, Wgsl::Helper(name)) => format!("{}({a}, {b})", em.helper(&format!("{name}{}", kind.suffix()))),
            (_, Wgsl::Call(name)) => format!("{name}({a}, {b})"),
            (_, Wgsl::Template(template)) => template.replace("{0}", a).replace("{1}", b),
        }
    }

    /// The results, out of the final values of the variables.
    pub fn results(&self, em: &mut Emitter, finals: &[String]) -> Vec<String> {
        match self.combiner.row().merge {
            Merge::State { results, .. } if !results.is_empty() => {
                let finals = finals.join(", ");
                results.iter().map(|helper| format!("{}({finals})", em.helper(helper))).collect()
            }
            Merge::Winner { .. } => vec![finals[0].clone(), format!("select({0}, 0i, {0} == 2147483647i)", finals[1])],
            Merge::Function(ScalarFn::Add | ScalarFn::Mul) => vec![spell::wrap(self.dtype, finals[0].clone())],
            _ => finals.to_vec(),
        }
    }
}

fn saturate(n: i64, kind: Kind) -> i64 {
    if kind == Kind::I32 { n.clamp(i32::MIN as i64, i32::MAX as i64) } else { n }
}
