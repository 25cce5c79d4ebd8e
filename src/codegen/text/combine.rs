//! Accumulators of reductions and scans: identity, one more element, two partial results, the end.

use super::emit::Emitter;
use super::spell;
use super::storage::Kind;
use crate::loop_ir::{Combiner, Number};
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
        let float = matches!(kind, Kind::F32 | Kind::F64);
        let needs_float = matches!(combiner, Combiner::Welford | Combiner::OnlineSoftmax);
        if needs_float && kind != Kind::F32 {
            return Err(format!("{combiner:?} of {dtype} is not available on GPUs"));
        }
        let number = |em: &mut Emitter, x: f64, lowest: bool| {
            let n = match dtype.int_range() {
                Some((lo, hi)) if !x.is_finite() => Number::Int(saturate(if lowest { lo } else { hi }, kind)),
                _ if float => Number::Float(x.to_bits()),
                _ => Number::Int(x as i64),
            };
            spell::constant(em, kind, n)
        };
        let start = match combiner {
            Combiner::Sum => vec![number(em, 0.0, false)?],
            Combiner::Prod => vec![number(em, 1.0, false)?],
            Combiner::Max => vec![number(em, f64::NEG_INFINITY, true)?],
            Combiner::Min => vec![number(em, f64::INFINITY, false)?],
            Combiner::Any => vec!["false".into()],
            Combiner::All => vec!["true".into()],
            Combiner::ArgMax => vec![number(em, f64::NEG_INFINITY, true)?, "2147483647i".into()],
            Combiner::ArgMin => vec![number(em, f64::INFINITY, false)?, "2147483647i".into()],
            Combiner::Welford => vec!["0.0f".into(), "0.0f".into(), "0.0f".into()],
            Combiner::OnlineSoftmax => vec![number(em, f64::NEG_INFINITY, true)?, "0.0f".into()],
        };
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
            Combiner::ArgMax | Combiner::ArgMin => self.merge(em, &[x.to_string(), format!("i32({column})")]),
            Combiner::Welford | Combiner::OnlineSoftmax => self.add_all(em, &[x.to_string()]),
            Combiner::Max | Combiner::Min if self.nan.is_some() => {
                let (a, nan) = (&self.names[0], self.nan.as_deref().unwrap_or_default());
                let better = if self.combiner == Combiner::Max { "max" } else { "min" };
                vec![format!("{a} = {better}({a}, {x});"), format!("{nan} = max({nan}, bitcast<u32>({x}) & 0x7fffffffu);")]
            }
            _ => self.merge(em, &[x.to_string()]),
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
        let suffix = self.kinds[0].suffix();
        match self.combiner {
            Combiner::Sum => vec![format!("{a} = {a} + {b};")],
            Combiner::Prod => vec![format!("{a} = {a} * {b};")],
            Combiner::Max | Combiner::Min if self.kinds[0] == Kind::Bool => {
                vec![format!("{a} = {a} {} {b};", if self.combiner == Combiner::Max { "||" } else { "&&" })]
            }
            Combiner::Max => vec![format!("{a} = {}({a}, {b});", em.helper(&format!("maximum_{suffix}")))],
            Combiner::Min => vec![format!("{a} = {}({a}, {b});", em.helper(&format!("minimum_{suffix}")))],
            Combiner::Any => vec![format!("{a} = {a} || {b};")],
            Combiner::All => vec![format!("{a} = {a} && {b};")],
            Combiner::ArgMax | Combiner::ArgMin => {
                let name = if self.combiner == Combiner::ArgMax { "arg_max_wins_" } else { "arg_min_wins_" };
                let f = em.helper(&format!("{name}{suffix}"));
                let (i, j) = (&self.names[1], &other[1]);
                vec![format!("if ({f}({b}, {j}, {a}, {i})) {{ {a} = {b}; {i} = {j}; }}")]
            }
            Combiner::Welford => {
                let f = em.helper("welford_");
                let w = em.fresh("w");
                vec![
                    format!("let {w} = {f}(vec3<f32>({}), vec3<f32>({}));", self.names.join(", "), other.join(", ")),
                    format!("{} = {w}.x; {} = {w}.y; {} = {w}.z;", self.names[0], self.names[1], self.names[2]),
                ]
            }
            Combiner::OnlineSoftmax => {
                let f = em.helper("online_softmax_");
                let w = em.fresh("w");
                vec![
                    format!("let {w} = {f}(vec2<f32>({}), vec2<f32>({}));", self.names.join(", "), other.join(", ")),
                    format!("{} = {w}.x; {} = {w}.y;", self.names[0], self.names[1]),
                ]
            }
        }
    }

    /// The results, out of the final values of the variables.
    pub fn results(&self, em: &mut Emitter, finals: &[String]) -> Vec<String> {
        match self.combiner {
            Combiner::OnlineSoftmax => {
                let (top, sum) = (em.helper("online_softmax_max_"), em.helper("online_softmax_sum_"));
                let (m, s) = (&finals[0], &finals[1]);
                vec![format!("{top}({m}, {s})"), format!("{sum}({m}, {s})")]
            }
            Combiner::ArgMax | Combiner::ArgMin => {
                vec![finals[0].clone(), format!("select({0}, 0i, {0} == 2147483647i)", finals[1])]
            }
            Combiner::Sum | Combiner::Prod => vec![spell::wrap(self.dtype, finals[0].clone())],
            _ => finals.to_vec(),
        }
    }
}

fn saturate(n: i64, kind: Kind) -> i64 {
    if kind == Kind::I32 { n.clamp(i32::MIN as i64, i32::MAX as i64) } else { n }
}
