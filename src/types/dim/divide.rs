//! Quotients, remainders and positive parts in canonical form.
//!
//! For a constant `k`: multiples of `k` leave the numerator of `floor(x / k)`, whose factors are then in `0..k`; common factors
//! cancel; a quotient of a quotient is one quotient. So `(2*s + 1) / 2` is `s`, and two convolutions of stride two give sizes
//! that compare equal to those of one of stride four.

use super::{Atom, Dim, Terms};

/// Steps of a polynomial division.
const STEPS: usize = 256;

impl Dim {
    /// `self / other` when it is exact for every binding: polynomial division by the leading term.
    pub fn try_div(&self, other: &Dim) -> Option<Dim> {
        if other.is(1) {
            return Some(self.clone());
        }
        let divisor = other.terms();
        let (leading, factor) = divisor.first()?;
        let (mut rest, mut quotient) = (self.clone(), vec![]);
        for _ in 0..STEPS {
            let terms = rest.terms();
            let Some((atoms, k)) = terms.first() else { return Some(Dim::from_terms(quotient)) };
            let step = (without(atoms, leading)?, divide_exactly(*k, *factor)?);
            rest = rest - &(Dim::from_terms(vec![step.clone()]) * other);
            quotient.push(step);
        }
        None
    }

    /// `floor(self / other)`, for a positive divisor.
    pub fn floor_div(&self, other: &Dim) -> Dim {
        match (self.as_int(), other.as_int()) {
            (Some(a), Some(b)) if b != 0 => Dim::int(a.checked_div_euclid(b).unwrap_or(i64::MAX)),
            (_, Some(k)) if k > 0 => self.div_by_constant(k),
            _ => self.try_div(other).unwrap_or_else(|| self.div_by_size(other)),
        }
    }

    /// `ceil(self / other)`, for a positive divisor.
    pub fn ceil_div(&self, other: &Dim) -> Dim {
        (self.clone() + other - &Dim::int(1)).floor_div(other)
    }

    /// `self` modulo a positive `other`.
    pub fn modulo(&self, other: &Dim) -> Dim {
        match (self.as_int(), other.as_int()) {
            (Some(a), Some(b)) if b != 0 => Dim::int(a.checked_rem_euclid(b).unwrap_or(0)),
            _ => self.clone() - self.floor_div(other) * other,
        }
    }

    /// The larger of two sizes.
    pub fn max_with(&self, other: &Dim) -> Dim {
        other.clone() + (self.clone() - other).positive_part()
    }

    /// The smaller of two sizes.
    pub fn min_with(&self, other: &Dim) -> Dim {
        self.clone() - (self.clone() - other).positive_part()
    }

    /// `max(self, 0)`. Of `x` and `-x` the one whose leading term is positive stays, since `max(x, 0) = x + max(-x, 0)`.
    pub(super) fn positive_part(&self) -> Dim {
        let (low, high) = self.range();
        if low >= 0 {
            return self.clone();
        }
        let terms = self.terms();
        let Some((_, leading)) = terms.first().filter(|_| high > 0) else { return Dim::int(0) };
        if *leading < 0 {
            return self.clone() + (Dim::int(0) - self).positive_part();
        }
        let common = common_factor(terms.iter().map(|(_, k)| *k), 0);
        let unit = Dim::from_terms(terms.into_iter().map(|(atoms, k)| (atoms, k / common)).collect());
        Dim::atom(Atom::Positive(unit)) * Dim::int(common)
    }

    fn div_by_constant(&self, k: i64) -> Dim {
        let (mut whole, mut rest) = (Terms::new(), Terms::new());
        for (atoms, factor) in self.terms() {
            whole.push((atoms.clone(), factor.div_euclid(k)));
            rest.push((atoms, factor.rem_euclid(k)));
        }
        Dim::from_terms(whole) + Dim::from_terms(rest).proper_quotient(k)
    }

    /// `floor(self / k)`, where all factors are in `0..k`.
    fn proper_quotient(&self, k: i64) -> Dim {
        let (low, high) = self.range();
        if low >= 0 && high < k {
            return Dim::int(0);
        }
        let (mut varying, mut constant) = (self.terms(), 0);
        if let Some((_, n)) = varying.pop_if(|(atoms, _)| atoms.is_empty()) {
            constant = n;
        }
        let common = common_factor(varying.iter().map(|(_, factor)| *factor), k);
        if common > 1 {
            let reduced = varying.into_iter().map(|(atoms, factor)| (atoms, factor / common)).collect();
            return (Dim::from_terms(reduced) + Dim::int(constant.div_euclid(common))).div_by_constant(k / common);
        }
        if let [(atoms, 1)] = &varying[..]
            && let [Atom::Div(inner, by)] = &atoms[..]
            && let Some(by) = by.as_int()
            && let (Some(divisor), Some(shift)) = (by.checked_mul(k), by.checked_mul(constant))
        {
            return (inner.clone() + Dim::int(shift)).div_by_constant(divisor);
        }
        Dim::atom(Atom::Div(self.clone(), Dim::int(k)))
    }

    /// Multiples of a divisor of one term leave the numerator, as long as what stays is known not to be negative.
    fn div_by_size(&self, other: &Dim) -> Dim {
        let (mut whole, mut rest) = (Dim::int(0), Dim::int(0));
        for term in self.terms() {
            let term = Dim::from_terms(vec![term]);
            match term.try_div(other) {
                Some(quotient) => whole = whole + quotient,
                None => rest = rest + term,
            }
        }
        for (borrowed, rest) in [(0, rest.clone()), (1, rest + other)] {
            if rest.range().0 >= 0 {
                let is_less = (other.clone() - &rest).range().0 > 0;
                let quotient = if is_less { Dim::int(0) } else { Dim::atom(Atom::Div(rest, other.clone())) };
                return whole + quotient - Dim::int(borrowed);
            }
        }
        Dim::atom(Atom::Div(self.clone(), other.clone()))
    }

    /// Terms with positive and, negated, those with negative factors.
    pub(super) fn signed_parts(&self) -> (Dim, Dim) {
        let (minus, plus): (Terms, Terms) = self.terms().into_iter().partition(|(_, factor)| *factor < 0);
        (Dim::from_terms(plus), Dim::int(0) - Dim::from_terms(minus))
    }
}

/// The factors of `all` that are not in `part`, if all of those are in it.
fn without(all: &[Atom], part: &[Atom]) -> Option<Vec<Atom>> {
    let mut rest = all.to_vec();
    for atom in part {
        let at = rest.iter().position(|a| a == atom)?;
        rest.remove(at);
    }
    Some(rest)
}

fn divide_exactly(a: i64, b: i64) -> Option<i64> {
    (a.checked_rem(b)? == 0).then(|| a / b)
}

/// The greatest common divisor of all numbers and `start`, at least one.
fn common_factor(numbers: impl Iterator<Item = i64>, start: i64) -> i64 {
    numbers.fold(start, greatest_common_divisor).max(1)
}

pub(super) fn greatest_common_divisor(a: i64, b: i64) -> i64 {
    let (mut a, mut b) = (a, b);
    while b != 0 {
        (a, b) = (b, a.checked_rem(b).unwrap_or(0));
    }
    a.checked_abs().unwrap_or(1)
}
