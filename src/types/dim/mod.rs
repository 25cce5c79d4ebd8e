//! Symbolic sizes: canonical polynomials over named symbols.
//!
//! Factors of a term are symbols, floor quotients and positive parts. A remainder is `x - k*div(x, k)`, the larger of two sizes
//! `y + max(x - y, 0)`, the smaller `x - max(x - y, 0)`, so that what belongs together cancels. All factors are non-negative as
//! long as the symbols are. `divide.rs` builds quotients and positive parts, `bounds.rs` proves what holds for all values.

mod bounds;
mod divide;
mod equation;
#[cfg(test)]
mod tests;
mod text;

pub use equation::solve_for_symbols;
pub use text::is_size_function;

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::{Add, Mul, Sub};
use std::sync::Arc;

/// Concrete sizes of symbols, by name.
pub type Bindings = BTreeMap<String, i64>;

/// A named size with its declared inclusive range. Symbols of one program are equal when their names are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Symbol {
    /// Name, unique in a program.
    pub name: Arc<str>,
    /// Smallest admissible value.
    pub min: i64,
    /// Largest admissible value.
    pub max: i64,
}

impl PartialEq for Symbol {
    fn eq(&self, other: &Symbol) -> bool {
        self.name == other.name
    }
}
impl Eq for Symbol {}
impl std::hash::Hash for Symbol {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}
impl PartialOrd for Symbol {
    fn partial_cmp(&self, other: &Symbol) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Symbol {
    fn cmp(&self, other: &Symbol) -> Ordering {
        self.name.cmp(&other.name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
enum Atom {
    Symbol(Symbol),
    /// `floor(x / y)` for a positive `y`.
    Div(Dim, Dim),
    /// `max(x, 0)`.
    Positive(Dim),
}

/// Products of atoms (sorted, with repeats) with their integer factors; sorted, no zero factor.
type Terms = Vec<(Vec<Atom>, i64)>;

/// A size: an integer or a canonical expression over symbols. Equal sizes compare equal as long as polynomial
/// arithmetic proves it. Arithmetic saturates at the bounds of i64.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dim(Repr);

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
enum Repr {
    Int(i64),
    Poly(Arc<Terms>),
}

/// A size that nothing bounds counts as so many.
const MOST: i64 = 1 << 40;

impl Dim {
    /// A constant.
    pub fn int(n: i64) -> Dim {
        Dim(Repr::Int(n))
    }

    /// The product of sizes, one when there are none.
    pub fn product<'a>(sizes: impl IntoIterator<Item = &'a Dim>) -> Dim {
        sizes.into_iter().fold(Dim::int(1), |n, d| n * d)
    }

    /// A symbol with its inclusive range.
    pub fn symbol(name: &str, min: i64, max: i64) -> Dim {
        Dim::atom(Atom::Symbol(Symbol { name: name.into(), min, max }))
    }

    /// A number to reason with: itself, or the middle of its range.
    pub fn hint(&self) -> i64 {
        let (lo, hi) = self.range();
        lo / 2 + hi.min(MOST) / 2 + ((lo & 1) + (hi & 1)) / 2
    }

    /// The largest that it may be, as far as one can reckon with it.
    pub fn most(&self) -> i64 {
        self.range().1.min(MOST)
    }

    /// The constant, when there is no symbol in it.
    pub fn as_int(&self) -> Option<i64> {
        match &self.0 {
            Repr::Int(n) => Some(*n),
            Repr::Poly(_) => None,
        }
    }

    /// True when this is the constant `n`.
    pub fn is(&self, n: i64) -> bool {
        self.as_int() == Some(n)
    }

    /// Length of the expression: what arithmetic on it costs. A constant has none.
    pub fn weight(&self) -> usize {
        let Repr::Poly(terms) = &self.0 else { return 0 };
        let atom = |a: &Atom| match a {
            Atom::Symbol(_) => 1,
            Atom::Div(x, y) => 1 + x.weight() + y.weight(),
            Atom::Positive(x) => 1 + x.weight(),
        };
        terms.iter().map(|(atoms, _)| 1 + atoms.iter().map(atom).sum::<usize>()).sum()
    }

    /// The value under `bindings`; the error names the symbol that is missing.
    pub fn eval(&self, bindings: &Bindings) -> Result<i64, String> {
        match &self.0 {
            Repr::Int(n) => Ok(*n),
            Repr::Poly(terms) => terms.iter().try_fold(0i64, |sum, (atoms, factor)| {
                let product = atoms.iter().try_fold(*factor, |p, a| Ok::<_, String>(p.saturating_mul(a.eval(bindings)?)))?;
                Ok(sum.saturating_add(product))
            }),
        }
    }

    /// Collects the symbols into `into`.
    pub fn collect_symbols(&self, into: &mut Vec<Symbol>) {
        for (atoms, _) in self.terms() {
            for atom in atoms {
                match atom {
                    Atom::Symbol(s) if !into.contains(&s) => into.push(s),
                    Atom::Symbol(_) => {}
                    Atom::Div(a, b) => {
                        a.collect_symbols(into);
                        b.collect_symbols(into);
                    }
                    Atom::Positive(a) => a.collect_symbols(into),
                }
            }
        }
    }

    /// The expression with every symbol replaced by what `value` gives for it; symbols it declines stay.
    pub fn substitute(&self, value: &dyn Fn(&Symbol) -> Option<Dim>) -> Dim {
        match &self.0 {
            Repr::Int(_) => self.clone(),
            Repr::Poly(terms) => terms.iter().fold(Dim::int(0), |sum, (atoms, factor)| {
                let product = atoms.iter().fold(Dim::int(*factor), |p, atom| {
                    p * &match atom {
                        Atom::Symbol(s) => value(s).unwrap_or_else(|| Dim::atom(atom.clone())),
                        Atom::Div(a, b) => a.substitute(value).floor_div(&b.substitute(value)),
                        Atom::Positive(a) => a.substitute(value).positive_part(),
                    }
                });
                sum + product
            }),
        }
    }

    fn atom(atom: Atom) -> Dim {
        Dim(Repr::Poly(Arc::new(vec![(vec![atom], 1)])))
    }

    fn terms(&self) -> Terms {
        match &self.0 {
            Repr::Int(0) => vec![],
            Repr::Int(n) => vec![(vec![], *n)],
            Repr::Poly(terms) => terms.as_ref().clone(),
        }
    }

    fn from_terms(mut terms: Terms) -> Dim {
        terms.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.0.cmp(&b.0)));
        let mut merged: Terms = Vec::with_capacity(terms.len());
        for (atoms, factor) in terms {
            match merged.last_mut() {
                Some(last) if last.0 == atoms => last.1 = last.1.saturating_add(factor),
                _ => merged.push((atoms, factor)),
            }
        }
        merged.retain(|(_, factor)| *factor != 0);
        match &merged[..] {
            [] => Dim::int(0),
            [(atoms, n)] if atoms.is_empty() => Dim::int(*n),
            _ => Dim(Repr::Poly(Arc::new(merged))),
        }
    }
}

impl Atom {
    fn eval(&self, bindings: &Bindings) -> Result<i64, String> {
        Ok(match self {
            Atom::Symbol(s) => *bindings.get(&*s.name).ok_or_else(|| format!("symbol {} has no value", s.name))?,
            Atom::Div(a, b) => a.eval(bindings)?.checked_div_euclid(b.eval(bindings)?).ok_or("division by zero in a size")?,
            Atom::Positive(a) => a.eval(bindings)?.max(0),
        })
    }
}

impl Default for Dim {
    fn default() -> Dim {
        Dim::int(0)
    }
}

impl From<i64> for Dim {
    fn from(n: i64) -> Dim {
        Dim::int(n)
    }
}
impl From<i32> for Dim {
    fn from(n: i32) -> Dim {
        Dim::int(n as i64)
    }
}
impl From<usize> for Dim {
    fn from(n: usize) -> Dim {
        Dim::int(n as i64)
    }
}
impl From<u32> for Dim {
    fn from(n: u32) -> Dim {
        Dim::int(n as i64)
    }
}
impl From<&Dim> for Dim {
    fn from(d: &Dim) -> Dim {
        d.clone()
    }
}

impl Add<&Dim> for Dim {
    type Output = Dim;
    fn add(self, other: &Dim) -> Dim {
        if let (Some(a), Some(b)) = (self.as_int(), other.as_int()) {
            return Dim::int(a.saturating_add(b));
        }
        let mut terms = self.terms();
        terms.extend(other.terms());
        Dim::from_terms(terms)
    }
}
impl Sub<&Dim> for Dim {
    type Output = Dim;
    fn sub(self, other: &Dim) -> Dim {
        self + &(other.clone() * &Dim::int(-1))
    }
}
impl Mul<&Dim> for Dim {
    type Output = Dim;
    fn mul(self, other: &Dim) -> Dim {
        if let (Some(a), Some(b)) = (self.as_int(), other.as_int()) {
            return Dim::int(a.saturating_mul(b));
        }
        let mut out = Vec::new();
        for (a, x) in self.terms() {
            for (b, y) in other.terms() {
                let mut atoms = a.clone();
                atoms.extend(b);
                atoms.sort();
                out.push((atoms, x.saturating_mul(y)));
            }
        }
        Dim::from_terms(out)
    }
}
impl Add<Dim> for Dim {
    type Output = Dim;
    fn add(self, other: Dim) -> Dim {
        self + &other
    }
}
impl Sub<Dim> for Dim {
    type Output = Dim;
    fn sub(self, other: Dim) -> Dim {
        self - &other
    }
}
impl Mul<Dim> for Dim {
    type Output = Dim;
    fn mul(self, other: Dim) -> Dim {
        self * &other
    }
}
