//! Index maps: affine expressions over iteration axes with floor division and modulo, kept canonical.

use crate::types::{Bindings, Dim};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// An axis of an iteration domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Axis {
    /// Position in the domain: rows first, then columns.
    pub id: u32,
    /// Size: the axis runs over `0..size`.
    pub size: Dim,
}

/// A variable part of an index.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Term {
    /// An iteration axis.
    Axis(Axis),
    /// An integer computed by the body (a gathered index), known to lie in `0..size`.
    Value {
        /// SSA value.
        value: u32,
        /// Exclusive bound.
        size: Dim,
    },
    /// `floor(e / d)`.
    Div(Arc<IndexExpr>, Dim),
    /// `e mod d`.
    Mod(Arc<IndexExpr>, Dim),
}

impl Term {
    /// Inclusive bounds, where they are known.
    fn bounds(&self) -> Option<(Dim, Dim)> {
        let below = |size: &Dim| (Dim::int(0), size.clone() - &Dim::int(1));
        Some(match self {
            Term::Axis(a) => below(&a.size),
            Term::Value { size, .. } | Term::Mod(_, size) => below(size),
            Term::Div(e, d) => {
                let (lo, hi) = e.bounds()?;
                (lo.floor_div(d), hi.floor_div(d))
            }
        })
    }
}

/// `offset + sum(coefficient * term)`; terms sorted and distinct, coefficients nonzero. Quotients of what may be below zero may be
/// below zero, every other term is not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IndexExpr {
    /// Variable parts with their coefficients.
    pub terms: Vec<(Term, Dim)>,
    /// Constant part.
    pub offset: Dim,
}

impl IndexExpr {
    /// A constant.
    pub fn constant(d: impl Into<Dim>) -> IndexExpr {
        IndexExpr { terms: vec![], offset: d.into() }
    }

    /// Zero.
    pub fn zero() -> IndexExpr {
        IndexExpr::constant(0)
    }

    /// Axis `id` of that size. An axis of size one is the constant zero.
    pub fn axis(id: u32, size: &Dim) -> IndexExpr {
        if size.is(1) { IndexExpr::zero() } else { IndexExpr::term(Term::Axis(Axis { id, size: size.clone() })) }
    }

    /// An integer SSA value in `0..size`.
    pub fn value(value: u32, size: &Dim) -> IndexExpr {
        IndexExpr::term(Term::Value { value, size: size.clone() })
    }

    fn term(term: Term) -> IndexExpr {
        IndexExpr { terms: vec![(term, Dim::int(1))], offset: Dim::int(0) }
    }

    /// The constant, when nothing varies.
    pub fn as_constant(&self) -> Option<&Dim> {
        self.terms.is_empty().then_some(&self.offset)
    }

    /// The sum.
    pub fn add(&self, other: &IndexExpr) -> IndexExpr {
        let mut terms = self.terms.clone();
        terms.extend(other.terms.iter().cloned());
        IndexExpr::canonical(terms, self.offset.clone() + &other.offset)
    }

    /// Plus a constant.
    pub fn plus(&self, d: &Dim) -> IndexExpr {
        IndexExpr { terms: self.terms.clone(), offset: self.offset.clone() + d }
    }

    /// Times a constant.
    pub fn times(&self, d: &Dim) -> IndexExpr {
        if d.is(0) {
            return IndexExpr::zero();
        }
        if d.is(1) {
            return self.clone();
        }
        IndexExpr { terms: self.terms.iter().map(|(t, k)| (t.clone(), k.clone() * d)).collect(), offset: self.offset.clone() * d }
    }

    /// `d - self`.
    pub fn subtract_from(&self, d: &Dim) -> IndexExpr {
        self.times(&Dim::int(-1)).plus(d)
    }

    /// Floor division by a positive size.
    pub fn div(&self, d: &Dim) -> IndexExpr {
        if d.is(1) {
            return self.clone();
        }
        if d.is(0) {
            // A coordinate of an empty domain: never evaluated, but it keeps the axes it depends on.
            return self.clone();
        }
        if self.terms.is_empty() {
            return IndexExpr::constant(self.offset.floor_div(d));
        }
        let (multiple, rest) = self.split_multiples(d);
        if rest.is_within(d) {
            return multiple;
        }
        if let Some((reduced, divisor)) = rest.reduce_by_common_factor(d) {
            return multiple.add(&reduced.div(&divisor));
        }
        if let [(Term::Div(inner, by), k)] = &rest.terms[..]
            && k.is(1)
            && rest.offset.is(0)
        {
            return multiple.add(&inner.div(&(by.clone() * d)));
        }
        if let [(Term::Mod(inner, by), k)] = &rest.terms[..]
            && k.is(1)
            && rest.offset.is(0)
            && let Some(outer) = by.try_div(d)
        {
            return multiple.add(&inner.div(d).modulo(&outer));
        }
        multiple.add(&IndexExpr::term(Term::Div(Arc::new(rest), d.clone())))
    }

    /// Remainder modulo a positive size.
    pub fn modulo(&self, d: &Dim) -> IndexExpr {
        if d.is(1) {
            return IndexExpr::zero();
        }
        if d.is(0) {
            return self.clone();
        }
        if self.terms.is_empty() {
            return IndexExpr::constant(self.offset.modulo(d));
        }
        let (_, rest) = self.split_multiples(d);
        if rest.is_within(d) {
            return rest;
        }
        if rest.terms.is_empty() {
            return IndexExpr::constant(rest.offset.modulo(d));
        }
        if let [(Term::Mod(inner, by), k)] = &rest.terms[..]
            && k.is(1)
            && rest.offset.is(0)
            && by.try_div(d).is_some()
        {
            return inner.modulo(d);
        }
        if let Some(split) = rest.mod_by_common_factor(d) {
            return split;
        }
        IndexExpr::term(Term::Mod(Arc::new(rest), d.clone()))
    }

    /// Replaces axes by `axis(id)` and values by `value(id)`, simplifying again.
    pub fn substitute(&self, axis: &dyn Fn(&Axis) -> IndexExpr, value: &dyn Fn(u32, &Dim) -> IndexExpr) -> IndexExpr {
        let mut out = IndexExpr::constant(self.offset.clone());
        for (term, k) in &self.terms {
            let replaced = match term {
                Term::Axis(a) => axis(a),
                Term::Value { value: v, size } => value(*v, size),
                Term::Div(e, d) => e.substitute(axis, value).div(d),
                Term::Mod(e, d) => e.substitute(axis, value).modulo(d),
            };
            out = out.add(&replaced.times(k));
        }
        out
    }

    /// The same with its axes at these coordinates.
    pub fn moved(&self, axes: &[IndexExpr]) -> IndexExpr {
        self.substitute(&|a| axes[a.id as usize].clone(), &IndexExpr::value)
    }

    /// The number at concrete axes and values.
    pub fn eval(&self, axes: &[i64], values: &dyn Fn(u32) -> i64, bindings: &Bindings) -> Result<i64, String> {
        let mut sum = self.offset.eval(bindings)?;
        for (term, k) in &self.terms {
            let x = match term {
                Term::Axis(a) => axes[a.id as usize],
                Term::Value { value, .. } => values(*value),
                Term::Div(e, d) => e.eval(axes, values, bindings)?.div_euclid(d.eval(bindings)?),
                Term::Mod(e, d) => e.eval(axes, values, bindings)?.rem_euclid(d.eval(bindings)?),
            };
            sum = sum.saturating_add(x.saturating_mul(k.eval(bindings)?));
        }
        Ok(sum)
    }

    /// Calls `visit` for every term, nested ones included.
    pub fn visit(&self, visit: &mut dyn FnMut(&Term)) {
        for (term, _) in &self.terms {
            visit(term);
            if let Term::Div(e, _) | Term::Mod(e, _) = term {
                e.visit(visit);
            }
        }
    }

    /// Whether an axis with `id` satisfying `test` occurs.
    pub fn uses_axis(&self, test: impl Fn(u32) -> bool) -> bool {
        let mut found = false;
        self.visit(&mut |t| found |= matches!(t, Term::Axis(a) if test(a.id)));
        found
    }

    /// SSA values it reads.
    pub fn values(&self) -> Vec<u32> {
        let mut out = vec![];
        self.visit(&mut |t| {
            if let Term::Value { value, .. } = t {
                out.push(*value);
            }
        });
        out
    }

    /// The coefficient of axis `id` when the axis occurs only linearly (zero when absent); `None` when it is inside a
    /// division or modulo.
    pub fn linear_coefficient(&self, id: u32) -> Option<Dim> {
        let mut coefficient = Dim::int(0);
        for (term, k) in &self.terms {
            match term {
                Term::Axis(a) if a.id == id => coefficient = k.clone(),
                Term::Div(e, _) | Term::Mod(e, _) if e.uses_axis(|i| i == id) => return None,
                _ => {}
            }
        }
        Some(coefficient)
    }

    /// Inclusive bounds as sizes, when the signs of all coefficients are known.
    pub fn bounds(&self) -> Option<(Dim, Dim)> {
        let (mut lo, mut hi) = (self.offset.clone(), self.offset.clone());
        for (term, k) in &self.terms {
            let (bottom, top) = term.bounds()?;
            let (min, max) = k.range();
            if min >= 0 {
                (lo, hi) = (lo + bottom * k, hi + top * k);
            } else if max <= 0 {
                (lo, hi) = (lo + top * k, hi + bottom * k);
            } else {
                return None;
            }
        }
        Some((lo, hi))
    }

    /// Proven to lie in `0..d`.
    pub fn is_within(&self, d: &Dim) -> bool {
        let Some((lo, hi)) = self.bounds() else { return false };
        Dim::int(0).known_le(&lo) && (hi + Dim::int(1)).known_le(d)
    }

    /// Splits into `multiple * d + rest`; gives `multiple` and `rest`.
    fn split_multiples(&self, d: &Dim) -> (IndexExpr, IndexExpr) {
        let (mut multiple, mut rest) = (vec![], vec![]);
        for (term, k) in &self.terms {
            match k.try_div(d) {
                Some(q) => multiple.push((term.clone(), q)),
                None => rest.push((term.clone(), k.clone())),
            }
        }
        let (whole, part) = match (self.offset.try_div(d), self.offset.as_int(), d.as_int()) {
            (Some(q), _, _) => (q, Dim::int(0)),
            (None, Some(o), Some(n)) => (Dim::int(o.div_euclid(n)), Dim::int(o.rem_euclid(n))),
            _ => (Dim::int(0), self.offset.clone()),
        };
        (IndexExpr { terms: multiple, offset: whole }, IndexExpr { terms: rest, offset: part })
    }

    /// For `k * x + r` with `0 <= r < k` and `d = k * m`: gives `x` and `m`, since the quotient does not see `r`.
    fn reduce_by_common_factor(&self, d: &Dim) -> Option<(IndexExpr, Dim)> {
        self.candidate_factors().into_iter().find_map(|k| {
            let m = d.try_div(&k)?;
            let (multiple, rest) = self.split_multiples(&k);
            (!multiple.terms.is_empty() && rest.is_within(&k)).then_some((multiple, m))
        })
    }

    /// For the same shape: `(k * x + r) mod (k * m) = k * (x mod m) + r`.
    fn mod_by_common_factor(&self, d: &Dim) -> Option<IndexExpr> {
        self.candidate_factors().into_iter().find_map(|k| {
            let m = d.try_div(&k)?;
            let (multiple, rest) = self.split_multiples(&k);
            (!multiple.terms.is_empty() && rest.is_within(&k)).then(|| multiple.modulo(&m).times(&k).add(&rest))
        })
    }

    /// Coefficients other than one that may divide out.
    fn candidate_factors(&self) -> Vec<Dim> {
        let mut factors: Vec<Dim> = vec![];
        for (_, k) in &self.terms {
            if !k.is(1) && !k.is(0) && k.range().0 > 0 && !factors.contains(k) {
                factors.push(k.clone());
            }
        }
        factors
    }

    fn canonical(mut terms: Vec<(Term, Dim)>, offset: Dim) -> IndexExpr {
        terms.sort();
        terms.dedup_by(|next, last| {
            let is_same = next.0 == last.0;
            if is_same {
                last.1 = last.1.clone() + &next.1;
            }
            is_same
        });
        terms.retain(|(_, k)| !k.is(0));
        let mut out = IndexExpr { terms, offset };
        while let Some(next) = out.recombine() {
            out = next;
        }
        out
    }

    /// `c * d * floor(e / d) + c * (e mod d)` is `c * e`, and `c * d * (floor(e / d) mod m) + c * (e mod d)` is `c * (e mod d * m)`.
    fn recombine(&self) -> Option<IndexExpr> {
        self.recombine_quotient().or_else(|| self.recombine_remainders())
    }

    fn recombine_remainders(&self) -> Option<IndexExpr> {
        for (i, (term, k)) in self.terms.iter().enumerate() {
            let Term::Mod(e, d) = term else { continue };
            let (quotient, scale) = (e.div(d), k.clone() * d);
            let higher = self.terms.iter().enumerate().find_map(|(j, (t, c))| match t {
                Term::Mod(q, m) if j != i && *c == scale && **q == quotient => Some((j, m)),
                _ => None,
            });
            if let Some((j, m)) = higher {
                let others = self.terms.iter().enumerate().filter(|(at, _)| *at != i && *at != j).map(|(_, t)| t.clone()).collect();
                return Some(IndexExpr { terms: others, offset: self.offset.clone() }.add(&e.modulo(&(d.clone() * m)).times(k)));
            }
        }
        None
    }

    fn recombine_quotient(&self) -> Option<IndexExpr> {
        for (i, (term, k)) in self.terms.iter().enumerate() {
            let Term::Mod(e, d) = term else { continue };
            let quotient = e.div(d);
            let scale = k.clone() * d;
            let has_all = quotient.offset.is(0)
                && !quotient.terms.is_empty()
                && quotient.terms.iter().all(|(t, q)| self.terms.iter().any(|(u, c)| u == t && *c == q.clone() * &scale));
            if !has_all {
                continue;
            }
            let terms = self
                .terms
                .iter()
                .enumerate()
                .filter(|(j, (u, _))| *j != i && !quotient.terms.iter().any(|(t, _)| t == u))
                .map(|(_, t)| t.clone())
                .collect();
            return Some(IndexExpr { terms, offset: self.offset.clone() }.add(&e.times(k)));
        }
        None
    }
}

/// Row-major flat index of coordinates.
pub fn flatten(coords: &[IndexExpr], shape: &[Dim]) -> IndexExpr {
    let mut stride = Dim::int(1);
    let (mut terms, mut offset) = (vec![], Dim::int(0));
    for (c, size) in coords.iter().zip(shape).rev() {
        if !stride.is(0) {
            terms.extend(c.terms.iter().map(|(t, k)| (t.clone(), k.clone() * &stride)));
            offset = offset + c.offset.clone() * &stride;
        }
        stride = stride * size;
    }
    IndexExpr::canonical(terms, offset)
}

/// Coordinates of a row-major flat index.
pub fn unflatten(flat: &IndexExpr, shape: &[Dim]) -> Vec<IndexExpr> {
    let mut rest = flat.clone();
    let mut out = vec![IndexExpr::zero(); shape.len()];
    for (i, size) in shape.iter().enumerate().rev() {
        if i == 0 {
            out[0] = if size.is(1) { IndexExpr::zero() } else { rest.clone() };
        } else {
            out[i] = rest.modulo(size);
            rest = rest.div(size);
        }
    }
    out
}

/// The axes of a domain as coordinates, numbered from `first`.
pub fn axes(sizes: &[Dim], first: u32) -> Vec<IndexExpr> {
    sizes.iter().enumerate().map(|(i, size)| IndexExpr::axis(first + i as u32, size)).collect()
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Term::Axis(a) => write!(f, "i{}", a.id),
            Term::Value { value, size } => write!(f, "%{value}{{{size}}}"),
            Term::Div(e, d) => write!(f, "({e})/{}", parens(d)),
            Term::Mod(e, d) => write!(f, "({e})%{}", parens(d)),
        }
    }
}

fn parens(d: &Dim) -> String {
    if d.as_int().is_some() { d.to_string() } else { format!("({d})") }
}

impl fmt::Display for IndexExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (term, k) in &self.terms {
            if !first {
                f.write_str(" + ")?;
            }
            first = false;
            if k.is(1) { write!(f, "{term}")? } else { write!(f, "{term}*{}", parens(k))? }
        }
        match (first, self.offset.is(0)) {
            (true, _) => f.write_str(&parens(&self.offset)),
            (false, true) => Ok(()),
            (false, false) => write!(f, " + {}", parens(&self.offset)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dims(sizes: &[i64]) -> Vec<Dim> {
        sizes.iter().map(|&n| Dim::int(n)).collect()
    }

    #[test]
    fn reshape_round_trip_is_identity() {
        let (a, b) = (dims(&[4, 6, 5]), dims(&[8, 15]));
        let flat = flatten(&axes(&a, 0), &a);
        assert_eq!(flat.to_string(), "i0*30 + i1*5 + i2");
        let there = unflatten(&flat, &b);
        let back = flatten(&there, &b);
        assert_eq!(back, flat);
        assert_eq!(unflatten(&back, &a), axes(&a, 0));
    }

    #[test]
    fn symbolic_round_trip_is_identity() {
        let n = Dim::symbol("n", 1, 64);
        let (a, b) = (vec![n.clone(), Dim::int(6)], vec![n.clone() * Dim::int(2), Dim::int(3)]);
        let flat = flatten(&axes(&a, 0), &a);
        let there = unflatten(&flat, &b);
        assert_eq!(there.iter().map(|e| e.to_string()).collect::<Vec<_>>(), ["i0*2 + (i1)/3", "(i1)%3"]);
        assert_eq!(unflatten(&flatten(&there, &b), &a), axes(&a, 0));
    }

    #[test]
    fn coordinates_of_a_plane_are_its_places() {
        let flat = axes(&dims(&[3 * 6 * 10]), 0).remove(0);
        let at = unflatten(&flat, &dims(&[3, 6, 10]));
        assert_eq!(flatten(&at[1..], &dims(&[6, 10])).to_string(), "(i0)%60");
        assert_eq!(at[0].times(&Dim::int(600)).add(&flatten(&at[1..], &dims(&[6, 10]))).to_string(), "(i0)/60*600 + (i0)%60");
        // Coordinates of another plane stay apart.
        assert_eq!(flatten(&at[1..], &dims(&[6, 12])).to_string(), "(i0)%10 + ((i0)/10)%6*12");
    }

    struct Random(u32);

    impl Random {
        fn below(&mut self, n: i64) -> i64 {
            self.0 = self.0.wrapping_mul(1664525).wrapping_add(1013904223);
            (self.0 >> 8) as i64 % n
        }
    }

    /// What was done to an expression.
    #[derive(Clone, Copy, Debug)]
    enum Done {
        Div(i64),
        Mod(i64),
        Times(i64),
        Plus(i64),
        Axis(usize, i64),
    }

    impl Done {
        fn random(random: &mut Random, axes: usize) -> Done {
            let (d, signed) = (1 + random.below(7), random.below(13) - 6);
            match random.below(6) {
                0 | 1 => Done::Div(d),
                2 => Done::Mod(d),
                3 => Done::Times(signed),
                4 => Done::Plus(signed * 3),
                _ => Done::Axis(random.below(axes as i64) as usize, signed),
            }
        }

        fn to(self, e: &IndexExpr, axes: &[IndexExpr]) -> IndexExpr {
            match self {
                Done::Div(d) => e.div(&Dim::int(d)),
                Done::Mod(d) => e.modulo(&Dim::int(d)),
                Done::Times(d) => e.times(&Dim::int(d)),
                Done::Plus(d) => e.plus(&Dim::int(d)),
                Done::Axis(a, d) => e.add(&axes[a].times(&Dim::int(d))),
            }
        }

        fn number(self, x: i64, axes: &[i64]) -> i64 {
            match self {
                Done::Div(d) => x.div_euclid(d),
                Done::Mod(d) => x.rem_euclid(d),
                Done::Times(d) => x * d,
                Done::Plus(d) => x + d,
                Done::Axis(a, d) => x + d * axes[a],
            }
        }
    }

    /// Quotients and remainders of what may be below zero included, and of axes that are themselves replaced afterwards.
    #[test]
    fn simplification_agrees_with_evaluation() {
        let mut random = Random(1);
        for _ in 0..20000 {
            let shape: Vec<i64> = (0..3).map(|_| 1 + random.below(5)).collect();
            let (sizes, own) = (dims(&shape), axes(&dims(&shape), 0));
            let steps: Vec<Done> = (0..1 + random.below(6)).map(|_| Done::random(&mut random, 3)).collect();
            let e = steps.iter().fold(flatten(&own, &sizes), |e, s| s.to(&e, &own));
            // Four neighbors along the last axis, as an invocation takes them, backwards or not.
            let (outer, lane, flip) = (Dim::int((shape[2] + 3) / 4), random.below(4), random.below(2) == 1);
            let last = IndexExpr::axis(2, &outer).times(&Dim::int(4)).plus(&Dim::int(lane));
            let last = if flip { last.subtract_from(&Dim::int(shape[2] - 1)) } else { last };
            let moved = e.substitute(&|a| if a.id == 2 { last.clone() } else { own[a.id as usize].clone() }, &|v, size| IndexExpr::value(v, size));
            for flat in 0..shape.iter().product::<i64>() {
                let at = [flat / (shape[1] * shape[2]), flat / shape[2] % shape[1], flat % shape[2]];
                let number = |at: &[i64]| steps.iter().fold((at[0] * shape[1] + at[1]) * shape[2] + at[2], |x, s| s.number(x, at));
                check(&e, &at, number(&at), &steps);
                if at[2] * 4 + lane < shape[2] {
                    let place = at[2] * 4 + lane;
                    check(&moved, &at, number(&[at[0], at[1], if flip { shape[2] - 1 - place } else { place }]), &steps);
                }
            }
        }
    }

    /// The number is the expected one and within the bounds.
    fn check(e: &IndexExpr, at: &[i64], want: i64, steps: &[Done]) {
        assert_eq!(e.eval(at, &|_| 0, &Bindings::new()).unwrap(), want, "{e} at {at:?} after {steps:?}");
        let (lo, hi) = e.bounds().expect("all sizes are numbers");
        assert!((lo.as_int().unwrap()..=hi.as_int().unwrap()).contains(&want), "{e} at {at:?} is {want}, outside {lo}..={hi}");
    }
}
