//! Solving equations of sizes for symbols.

use super::{Atom, Dim, Symbol};

/// Steps of one solution.
const STEPS: usize = 8;

/// Where a symbol is read off: position of the input, and the dimension.
pub type Position = (usize, usize);

/// Values of symbols that make `gap` zero, each over symbols that stay; `None` when there are none that follow.
///
/// A symbol with the factor one or minus one follows from the others: the one of the latest input gives way. Products are
/// compared factor by factor: in `a*b == c*d`, sizes of the same dimension of two inputs are paired.
pub fn solve_for_symbols(gap: &Dim, position: &dyn Fn(&Symbol) -> Option<Position>) -> Option<Vec<(Symbol, Dim)>> {
    solve(gap, position, STEPS)
}

fn solve(gap: &Dim, position: &dyn Fn(&Symbol) -> Option<Position>, steps: usize) -> Option<Vec<(Symbol, Dim)>> {
    let gap = gap.without_common_factors();
    if gap.is(0) {
        return Some(vec![]);
    }
    let (low, high) = gap.range();
    if steps == 0 || low > 0 || high < 0 {
        return None;
    }
    let mut symbols = vec![];
    gap.collect_symbols(&mut symbols);
    symbols.retain(|s| position(s).is_some());
    symbols.sort_by_key(|s| std::cmp::Reverse(position(s)));
    if let Some(found) = symbols.iter().find_map(|s| Some((s.clone(), gap.solved_for(s)?.0))) {
        return Some(vec![found]);
    }
    let pairs = symbols.iter().enumerate().flat_map(|(k, s)| symbols[k + 1..].iter().map(move |t| (s, t)));
    let beside = |(s, t): &(&Symbol, &Symbol)| matches!((position(s), position(t)), (Some(a), Some(b)) if a.0 != b.0 && a.1 == b.1);
    pairs.filter(beside).find_map(|(s, t)| {
        let value = Dim::atom(Atom::Symbol(t.clone()));
        let next = gap.substitute(&|x| (x == s).then(|| value.clone()));
        let simpler = next.without_common_factors().weight() < gap.weight();
        let mut rest = if simpler { solve(&next, position, steps - 1)? } else { return None };
        rest.insert(0, (s.clone(), value));
        Some(rest)
    })
}

impl Dim {
    /// The value of `symbol` at which this is zero, and whether this rises with it: when its factor is one or minus one.
    pub fn solved_for(&self, symbol: &Symbol) -> Option<(Dim, bool)> {
        let (factor, rest) = self.collect(&Atom::Symbol(symbol.clone()))?;
        let mut inside = vec![];
        rest.collect_symbols(&mut inside);
        match factor.as_int() {
            Some(1) if !inside.contains(symbol) => Some((Dim::int(0) - rest, true)),
            Some(-1) if !inside.contains(symbol) => Some((rest, false)),
            _ => None,
        }
    }

    /// Sizes of which the first is at most the second just where this is zero: this is `max(x, 0)` or `max(x, 0) - x`, up to its sign
    /// and to factors that are never zero.
    pub fn zero_where_at_most(&self) -> Option<(Dim, Dim)> {
        let gap = self.without_common_factors();
        [gap.clone(), Dim::int(0) - gap].into_iter().find_map(|gap| {
            let positive = |(atoms, factor): (Vec<Atom>, i64)| match &atoms[..] {
                [Atom::Positive(x)] if factor == 1 => Some(x.clone()),
                _ => None,
            };
            let x = gap.terms().into_iter().find_map(positive)?;
            let rest = gap - &Dim::atom(Atom::Positive(x.clone()));
            let (plus, minus) = x.by_sign();
            if rest.is(0) { Some((plus, minus)) } else { (rest + &x).is(0).then_some((minus, plus)) }
        })
    }

    /// Two sums whose difference this is, of terms with positive factors only.
    fn by_sign(&self) -> (Dim, Dim) {
        let (plus, minus): (Vec<_>, Vec<_>) = self.terms().into_iter().partition(|(_, factor)| *factor > 0);
        let minus = minus.into_iter().map(|(atoms, factor)| (atoms, factor.saturating_neg())).collect();
        (Dim::from_terms(plus), Dim::from_terms(minus))
    }

    /// Divided by the symbols, at least one everywhere, and by the constant that all terms share.
    fn without_common_factors(&self) -> Dim {
        let mut out = self.clone();
        let mut symbols = vec![];
        self.collect_symbols(&mut symbols);
        for symbol in symbols.into_iter().filter(|s| s.min > 0) {
            let factor = Dim::atom(Atom::Symbol(symbol));
            while let Some(divided) = out.try_div(&factor).filter(|d| !d.is(0)) {
                out = divided;
            }
        }
        let common = out.terms().iter().fold(0, |k, (_, factor)| super::divide::greatest_common_divisor(k, *factor));
        if common > 1 { out.try_div(&Dim::int(common)).unwrap_or(out) } else { out }
    }
}
