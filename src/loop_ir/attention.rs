//! The parts of a nest that is attention in shape.

use super::facts::{is_constant_along, needed};
use super::{Combiner, Instr, Nest, Number, Tag, Val};
use crate::scalar::ScalarFn;

/// Attention, forward or backward: for each row x and feature, the sum over the columns y of `weight[x, y] * values[y, feature]`. The
/// weight is computed from contractions of what rows and columns hold.
///
/// ```text
/// nest rows[.., x, f] cols[y] inner[d] attention(batch=.. seen=all) {
///   %2 = contract %0, %1 over 0    // a[x, d] * b[y, d]
///   %3 = ...                       // the score, element by element
///   %4 = reduce OnlineSoftmax %3
///   %5 = sub %3, %4
///   %6 = exp %5                    // the weight; zeros may be selected for it where a condition holds
///   %8 = mul %6, %7                // values[y, f]
///   %9 = reduce Sum %8
///   ...                            // of rows: the quotient by the sum of exponentials, and stores
/// ```
///
/// Without the softmax, the weight is any function of contractions, rows and columns: so are gradients.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Number of batch axes.
    pub batch: u32,
    /// Contractions, in order.
    pub contractions: Vec<Contraction>,
    /// The softmax, where there is one.
    pub online: Option<Online>,
    /// What values are weighted by.
    pub weight: Val,
    /// What is summed: of columns and features.
    pub values: Val,
    /// The sum.
    pub sum: Val,
}

/// A contraction of attention: `a` varies with x, `b` with y, both with the inner axis.
#[derive(Clone, Copy, Debug)]
pub struct Contraction {
    /// The statement.
    pub dot: Val,
    /// What rows hold.
    pub a: Val,
    /// What columns hold.
    pub b: Val,
    /// The inner axis.
    pub over: u32,
}

/// The softmax of attention.
#[derive(Clone, Copy, Debug)]
pub struct Online {
    /// The row's maximum; the sum of exponentials is its result 1.
    pub max: Val,
    /// What it is a softmax of.
    pub score: Val,
    /// The exponential below the maximum.
    pub exp: Val,
}

/// The parts of a nest with [`Tag::Attention`], or what is otherwise than its docs say.
pub fn attention(nest: &Nest) -> Result<Attention, String> {
    let Tag::Attention { batch, .. } = nest.tag else { return Err("the nest is not tagged as attention".into()) };
    if nest.rows.len() != batch as usize + 2 || nest.cols.len() != 1 {
        return Err("rows are batch axes, x and features, columns are one axis".into());
    }
    let (sum, weight, values) = weighted_sum(nest)?;
    let online = online(nest)?;
    let out = Attention { batch, contractions: contractions(nest)?, online, weight, values, sum };
    out.check(nest)?;
    Ok(out)
}

/// The one sum, which is of products.
fn weighted_sum(nest: &Nest) -> Result<(Val, Val, Val), String> {
    let mut sums = nest.values().filter(|v| matches!(nest.stmt(*v).instr, Instr::Reduce(Combiner::Sum, _)));
    let (Some(sum), None) = (sums.next(), sums.next()) else { return Err("there is to be one sum".into()) };
    let Instr::Reduce(_, term) = nest.stmt(sum).instr else { unreachable!("found as a reduction") };
    match &nest.stmt(term).instr {
        Instr::Call(ScalarFn::Mul, args) => Ok((sum, args[0], args[1])),
        _ => Err("the sum is not of products".into()),
    }
}

/// The softmax; no other reduction may be there.
fn online(nest: &Nest) -> Result<Option<Online>, String> {
    let mut found = None;
    for v in nest.values() {
        match nest.stmt(v).instr {
            Instr::Reduce(Combiner::OnlineSoftmax, score) if found.is_none() => found = Some((v, score)),
            Instr::Reduce(Combiner::Sum, _) => {}
            Instr::Reduce(..) | Instr::Scan(..) | Instr::Sort { .. } | Instr::Bound { .. } => {
                return Err("there are other reductions, scans, sorts or checks".into());
            }
            _ => {}
        }
    }
    let Some((max, score)) = found else { return Ok(None) };
    let below = Instr::Call(ScalarFn::Sub, vec![score, max]);
    let find = |instr: &Instr| nest.values().find(|v| nest.stmt(*v).instr == *instr);
    let exp = find(&below).and_then(|below| find(&Instr::Call(ScalarFn::Exp, vec![below])));
    Ok(Some(Online { max, score, exp: exp.ok_or("no exponential is taken below the maximum")? }))
}

fn contractions(nest: &Nest) -> Result<Vec<Contraction>, String> {
    let found = nest.values().filter_map(|dot| match nest.stmt(dot).instr {
        Instr::Contract { a, b, over } => Some(Contraction { dot, a, b, over }),
        _ => None,
    });
    let found: Vec<Contraction> = found.collect();
    if found.is_empty() { Err("nothing is contracted".into()) } else { Ok(found) }
}

impl Attention {
    /// The row axis x.
    pub fn x(&self) -> u32 {
        self.batch
    }

    /// The row axis of features.
    pub fn features(&self) -> u32 {
        self.batch + 1
    }

    /// The column axis.
    pub fn y(&self) -> u32 {
        self.batch + 2
    }

    /// What a value is computed from, itself included, without what lies behind contractions and reductions.
    pub fn surface(&self, nest: &Nest, roots: impl IntoIterator<Item = Val>) -> Vec<bool> {
        let mut found = vec![false; nest.body.len()];
        roots.into_iter().for_each(|v| found[v.0 as usize] = true);
        for v in nest.values().rev() {
            let instr = &nest.stmt(v).instr;
            if found[v.0 as usize] && !matches!(instr, Instr::Contract { .. } | Instr::Reduce(..) | Instr::Proj(..)) {
                instr.operands().iter().for_each(|o| found[o.0 as usize] = true);
            }
        }
        found
    }

    fn check(&self, nest: &Nest) -> Result<(), String> {
        let first = nest.rows.len() as u32 + 1;
        for c in &self.contractions {
            let others = (0..nest.inner.len() as u32).filter(|i| *i != c.over).map(|i| first + i);
            let strange = |v: Val, axis: u32| !others.clone().chain([axis, self.features()]).all(|axis| is_constant_along(nest, v, axis));
            let nested = [c.a, c.b].iter().any(|v| has_work(nest, &needed(nest, [*v])));
            if c.over as usize >= nest.inner.len() || nested || strange(c.a, self.y()) || strange(c.b, self.x()) {
                return Err(format!("%{} is no contraction of what rows and columns hold", c.dot.0));
            }
        }
        let values = needed(nest, [self.values]);
        let of_columns = (first..first + nest.inner.len() as u32).chain([self.x()]).all(|axis| is_constant_along(nest, self.values, axis));
        if has_work(nest, &values) || !of_columns {
            return Err("what is summed is not held by columns".into());
        }
        self.check_weight(nest)?;
        let level = nest.element_level();
        if nest.writes.iter().any(|w| nest.is_element_write(w, &level)) {
            return Err("elements are stored".into());
        }
        Ok(())
    }

    /// The weight and the score vary with neither features nor inner axes, and a softmax is used in no other way than it is said.
    fn check_weight(&self, nest: &Nest) -> Result<(), String> {
        let surface = self.surface(nest, [self.weight].into_iter().chain(self.online.map(|o| o.score)));
        let varies = |v: Val| {
            let e = nest.stmt(v).instr.index();
            e.is_some_and(|e| e.uses_axis(|a| a == self.features() || a > self.y()))
        };
        if nest.values().any(|v| surface[v.0 as usize] && varies(v)) {
            return Err("a weight varies with features".into());
        }
        let Some(online) = self.online else { return Ok(()) };
        let score = self.surface(nest, [online.score]);
        if has_reduction(nest, &score) || !is_weight(nest, self.weight, online.exp) {
            return Err("the weight is not the exponential, or zero where a condition holds".into());
        }
        Ok(())
    }
}

/// Whether a weight is the exponential, or zeros selected for it by conditions that know of no softmax.
fn is_weight(nest: &Nest, v: Val, exp: Val) -> bool {
    let Instr::Call(ScalarFn::Where, args) = &nest.stmt(v).instr else { return v == exp };
    let zero = matches!(nest.stmt(args[2]).instr, Instr::Const(n) if n == Number::Float(0));
    zero && !has_work(nest, &needed(nest, [args[0]])) && is_weight(nest, args[1], exp)
}

fn has_reduction(nest: &Nest, set: &[bool]) -> bool {
    nest.values().any(|v| set[v.0 as usize] && matches!(nest.stmt(v).instr, Instr::Reduce(..) | Instr::Proj(..)))
}

fn has_work(nest: &Nest, set: &[bool]) -> bool {
    has_reduction(nest, set) || nest.values().any(|v| set[v.0 as usize] && matches!(nest.stmt(v).instr, Instr::Contract { .. }))
}
