//! What holds for all values of the symbols: bounds, and with them comparisons.
//!
//! A lower bound is the best of several sound ones: interval arithmetic, term by term; the polynomial over symbols that start at
//! zero, where only negative terms cost anything; the corners of the ranges, for polynomials that are linear in each symbol; and
//! the bound of what replaces one quotient (`(x - k + 1) / k <= floor(x / k) <= x / k`) or one positive part (both cases).
//! Comparisons that fail are tried once more for each remainder that the symbols can leave when divided by the divisors in
//! the expression, where quotients by constants resolve.

use super::divide::greatest_common_divisor;
use super::{Atom, Bindings, Dim, Repr, Symbol, Terms};

/// Quotients and positive parts that are replaced for one bound.
const DEPTH: usize = 6;
/// Symbols whose corners are tried.
const CORNERS: usize = 4;
/// Combinations of remainders that are tried.
const CASES: i64 = 64;

/// Inclusive bounds. The ends of i128 stand for infinity, and stay so in sums.
type Wide = (i128, i128);

impl Dim {
    /// Inclusive lower and upper bound over the declared ranges.
    pub fn range(&self) -> (i64, i64) {
        let (low, high) = self.bounds();
        (narrow(low), narrow(high))
    }

    fn bounds(&self) -> Wide {
        match &self.0 {
            Repr::Int(n) => (*n as i128, *n as i128),
            Repr::Poly(terms) if is_exact(terms) => interval(terms),
            Repr::Poly(_) => (self.lower_bound(DEPTH), (Dim::int(0) - self).lower_bound(DEPTH).saturating_neg()),
        }
    }

    /// True when `self <= other` over all declared ranges, as far as it can be shown.
    pub fn known_le(&self, other: &Dim) -> bool {
        match (self.as_int(), other.as_int()) {
            (Some(a), Some(b)) => a <= b,
            _ => {
                let gap = other.clone() - self;
                gap.range().0 >= 0 || gap.holds_by_remainder(&|case| case.range().0 >= 0)
            }
        }
    }

    /// True when `self < other` over all declared ranges, as far as it can be shown.
    pub fn known_lt(&self, other: &Dim) -> bool {
        (self.clone() + Dim::int(1)).known_le(other)
    }

    /// True when both are equal for all values, as far as it can be shown.
    pub fn known_eq(&self, other: &Dim) -> bool {
        if self == other {
            return true;
        }
        if self.as_int().is_some() && other.as_int().is_some() {
            return false;
        }
        let gap = self.clone() - other;
        gap.is(0) || gap.range() == (0, 0) || gap.holds_by_remainder(&|case| case.range() == (0, 0))
    }

    fn lower_bound(&self, depth: usize) -> i128 {
        let Repr::Poly(terms) = &self.0 else { return self.bounds().0 };
        let best = interval(terms).0;
        if is_exact(terms) || depth == 0 {
            return best;
        }
        match self.heaviest_composite() {
            Some(atom) => best.max(self.relaxed(&atom, depth - 1).unwrap_or(best)),
            None => best.max(self.shifted_to_zero().lower_interval()).max(self.lowest_corner().unwrap_or(best)),
        }
    }

    fn lower_interval(&self) -> i128 {
        match &self.0 {
            Repr::Int(n) => *n as i128,
            Repr::Poly(terms) => interval(terms).0,
        }
    }

    /// The longest quotient or positive part, which may hold others.
    fn heaviest_composite(&self) -> Option<Atom> {
        let atoms = self.terms().into_iter().flat_map(|(atoms, _)| atoms);
        let composite = atoms.filter(|a| !matches!(a, Atom::Symbol(_)));
        composite.max_by_key(|a| Dim::atom(a.clone()).weight())
    }

    /// A lower bound by way of an expression without `atom`.
    fn relaxed(&self, atom: &Atom, depth: usize) -> Option<i128> {
        let (factor, rest) = self.collect(atom)?;
        let (low, high) = factor.range();
        let is_positive = low >= 0;
        if !is_positive && high > 0 {
            return None;
        }
        match atom {
            Atom::Symbol(_) => None,
            Atom::Positive(x) => {
                let (without, with) = (rest.lower_bound(depth), (rest + factor * x).lower_bound(depth));
                Some(if is_positive { without.max(with) } else { without.min(with) })
            }
            Atom::Div(x, by) => {
                let one = Dim::int(1);
                let numerator = if is_positive { x.clone() - by + &one } else { x.clone() };
                let scaled = factor * &numerator + rest * by;
                match by.as_int() {
                    Some(k) if k > 0 => Some(above(scaled.lower_bound(depth), k as i128)),
                    // An integer above minus one is at least zero.
                    _ => (by.range().0 > 0 && (scaled + by - &one).lower_bound(depth) >= 0).then_some(0),
                }
            }
        }
    }

    /// `factor` and `rest` with `self = factor * atom + rest`, when it is linear in `atom`.
    pub(super) fn collect(&self, atom: &Atom) -> Option<(Dim, Dim)> {
        let (mut factor, mut rest) = (Terms::new(), Terms::new());
        for (mut atoms, k) in self.terms() {
            match atoms.iter().position(|a| a == atom) {
                Some(at) => {
                    atoms.remove(at);
                    factor.push((atoms, k));
                }
                None => rest.push((atoms, k)),
            }
        }
        let linear = factor.iter().all(|(atoms, _)| !atoms.contains(atom));
        linear.then(|| (Dim::from_terms(factor), Dim::from_terms(rest)))
    }

    /// The polynomial over symbols that start at zero.
    fn shifted_to_zero(&self) -> Dim {
        self.substitute(&|s| Some(Dim::symbol(&s.name, 0, s.max.saturating_sub(s.min)) + Dim::int(s.min)))
    }

    /// The least value at the corners of the ranges: the least of all, for a polynomial that is linear in each symbol.
    fn lowest_corner(&self) -> Option<i128> {
        let terms = self.terms();
        let mut symbols = vec![];
        self.collect_symbols(&mut symbols);
        let repeated = |atoms: &[Atom]| atoms.windows(2).any(|pair| pair[0] == pair[1]);
        if symbols.len() > CORNERS || terms.iter().any(|(atoms, _)| repeated(atoms)) {
            return None;
        }
        let corners = (0..1usize << symbols.len()).map(|corner| {
            let value = |(k, s): (usize, &Symbol)| (s.name.to_string(), if corner >> k & 1 == 0 { s.min } else { s.max });
            exact_value(&terms, &symbols.iter().enumerate().map(value).collect())
        });
        corners.collect::<Option<Vec<i128>>>()?.into_iter().min()
    }

    /// Whether `holds` for every combination of remainders of the symbols, with quotients by constants resolved.
    fn holds_by_remainder(&self, holds: &dyn Fn(&Dim) -> bool) -> bool {
        let mut moduli: Vec<(Symbol, i64)> = vec![];
        self.collect_moduli(&mut moduli);
        let cases = moduli.iter().fold(1i64, |n, (_, k)| n.saturating_mul(*k));
        !moduli.is_empty() && cases <= CASES && (0..cases).all(|case| self.with_remainders(&moduli, case).is_none_or(|d| holds(&d)))
    }

    /// For each symbol in a numerator, the least common multiple of the constants that divide it.
    fn collect_moduli(&self, into: &mut Vec<(Symbol, i64)>) {
        for atom in self.terms().iter().flat_map(|(atoms, _)| atoms) {
            match atom {
                Atom::Symbol(_) => {}
                Atom::Positive(x) => x.collect_moduli(into),
                Atom::Div(x, by) => {
                    x.collect_moduli(into);
                    let mut symbols = vec![];
                    x.collect_symbols(&mut symbols);
                    for symbol in symbols {
                        add_modulus(into, symbol, by.as_int().filter(|k| *k > 0).unwrap_or(1));
                    }
                }
            }
        }
    }

    /// Every symbol as `modulus * q + remainder`; `None` when its range holds no such number.
    fn with_remainders(&self, moduli: &[(Symbol, i64)], case: i64) -> Option<Dim> {
        let (mut left, mut values) = (case, vec![]);
        for (symbol, k) in moduli {
            let remainder = left % k;
            left /= k;
            let min = symbol.min.saturating_sub(remainder).saturating_add(k - 1).div_euclid(*k);
            let max = symbol.max.saturating_sub(remainder).div_euclid(*k);
            if min > max {
                return None;
            }
            values.push((symbol, Dim::symbol(&symbol.name, min, max) * Dim::int(*k) + Dim::int(remainder)));
        }
        Some(self.substitute(&|s| values.iter().find(|(symbol, _)| *symbol == s).map(|(_, value)| value.clone())))
    }
}

fn add_modulus(moduli: &mut Vec<(Symbol, i64)>, symbol: Symbol, k: i64) {
    match moduli.iter_mut().find(|(s, _)| *s == symbol) {
        Some((_, known)) => *known = (*known / greatest_common_divisor(*known, k)).saturating_mul(k),
        None => moduli.push((symbol, k)),
    }
}

/// Bounds of a sum of products, each term by itself.
fn interval(terms: &Terms) -> Wide {
    terms.iter().fold((0, 0), |(low, high), (atoms, factor)| {
        let product = atoms.iter().fold((1, 1), |range, atom| mul_range(range, atom.range()));
        let (a, b) = mul_range(product, (*factor as i128, *factor as i128));
        (sum(low, a, i128::MIN), sum(high, b, i128::MAX))
    })
}

/// The sum, unless one of both is the infinity.
fn sum(a: i128, b: i128, infinity: i128) -> i128 {
    if a == infinity || b == infinity { infinity } else { a.saturating_add(b) }
}

/// `ceil(n / k)`, which leaves infinity as it is.
fn above(n: i128, k: i128) -> i128 {
    if n == i128::MIN { n } else { n.saturating_add(k - 1).div_euclid(k) }
}

fn narrow(n: i128) -> i64 {
    i64::try_from(n).unwrap_or(if n < 0 { i64::MIN } else { i64::MAX })
}

/// Whether no symbol occurs twice and nothing is composite: then interval arithmetic loses nothing.
fn is_exact(terms: &Terms) -> bool {
    let atoms: Vec<&Atom> = terms.iter().flat_map(|(atoms, _)| atoms).collect();
    atoms.iter().enumerate().all(|(i, a)| matches!(a, Atom::Symbol(_)) && !atoms[..i].contains(a))
}

/// The value, unless it overflows.
fn exact_value(terms: &Terms, bindings: &Bindings) -> Option<i128> {
    terms.iter().try_fold(0i128, |sum, (atoms, factor)| {
        let product = atoms.iter().try_fold(*factor as i128, |p, atom| match atom {
            Atom::Symbol(s) => p.checked_mul(*bindings.get(&*s.name)? as i128),
            _ => None,
        })?;
        sum.checked_add(product)
    })
}

impl Atom {
    fn range(&self) -> Wide {
        match self {
            Atom::Symbol(s) => (s.min as i128, s.max as i128),
            Atom::Div(a, b) => {
                let ((low, high), (least, most)) = (a.bounds(), b.bounds());
                if least < 1 || low == i128::MIN || high == i128::MAX {
                    return (i128::MIN, i128::MAX);
                }
                let by_sign = |n: i128, positive: i128, negative: i128| n.div_euclid(if n >= 0 { positive } else { negative });
                (by_sign(low, most, least), by_sign(high, least, most))
            }
            Atom::Positive(a) => {
                let (low, high) = a.bounds();
                (low.max(0), high.max(0))
            }
        }
    }
}

fn mul_range(a: Wide, b: Wide) -> Wide {
    let products = [a.0.saturating_mul(b.0), a.0.saturating_mul(b.1), a.1.saturating_mul(b.0), a.1.saturating_mul(b.1)];
    products.iter().fold((i128::MAX, i128::MIN), |(low, high), &p| (low.min(p), high.max(p)))
}
