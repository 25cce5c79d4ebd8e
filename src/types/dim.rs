//! Symbolic sizes: canonical polynomials over named symbols.

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
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
    Div(Dim, Dim),
    Mod(Dim, Dim),
    Max(Dim, Dim),
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

impl Dim {
    /// A constant.
    pub fn int(n: i64) -> Dim {
        Dim(Repr::Int(n))
    }

    /// A symbol with its inclusive range.
    pub fn symbol(name: &str, min: i64, max: i64) -> Dim {
        Dim::atom(Atom::Symbol(Symbol { name: name.into(), min, max }))
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
            Atom::Div(x, y) | Atom::Mod(x, y) | Atom::Max(x, y) => 1 + x.weight() + y.weight(),
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

    /// Inclusive lower and upper bound over the declared ranges.
    pub fn range(&self) -> (i64, i64) {
        match &self.0 {
            Repr::Int(n) => (*n, *n),
            Repr::Poly(terms) => terms.iter().fold((0i64, 0i64), |(lo, hi), (atoms, factor)| {
                let (mut a, mut b) = (1i64, 1i64);
                for atom in atoms {
                    (a, b) = mul_range((a, b), atom.range());
                }
                let (a, b) = mul_range((a, b), (*factor, *factor));
                (lo.saturating_add(a), hi.saturating_add(b))
            }),
        }
    }

    /// True when `self <= other` over all declared ranges, as far as interval arithmetic shows.
    pub fn known_le(&self, other: &Dim) -> bool {
        match (self.as_int(), other.as_int()) {
            (Some(a), Some(b)) => a <= b,
            _ => (other.clone() - self).range().0 >= 0,
        }
    }

    /// `self / other` when it is exact for every binding.
    pub fn try_div(&self, other: &Dim) -> Option<Dim> {
        if other.is(1) {
            return Some(self.clone());
        }
        if self.is(0) && !other.is(0) {
            return Some(Dim::int(0));
        }
        if self == other {
            return Some(Dim::int(1));
        }
        let other_terms = other.terms();
        let [(divisor_atoms, divisor)] = &other_terms[..] else { return None };
        let mut out = Vec::new();
        for (atoms, factor) in self.terms() {
            let mut rest = atoms.clone();
            for atom in divisor_atoms {
                let at = rest.iter().position(|a| a == atom)?;
                rest.remove(at);
            }
            if factor.checked_rem(*divisor) != Some(0) {
                return None;
            }
            out.push((rest, factor / divisor));
        }
        Some(Dim::from_terms(out))
    }

    /// `floor(self / other)`, for a positive divisor.
    pub fn floor_div(&self, other: &Dim) -> Dim {
        if let (Some(a), Some(b)) = (self.as_int(), other.as_int())
            && b != 0
        {
            return Dim::int(a.checked_div_euclid(b).unwrap_or(i64::MAX));
        }
        self.try_div(other).unwrap_or_else(|| Dim::atom(Atom::Div(self.clone(), other.clone())))
    }

    /// `ceil(self / other)`, for a positive divisor.
    pub fn ceil_div(&self, other: &Dim) -> Dim {
        (self.clone() + other - &Dim::int(1)).floor_div(other)
    }

    /// `self` modulo a positive `other`.
    pub fn modulo(&self, other: &Dim) -> Dim {
        if let (Some(a), Some(b)) = (self.as_int(), other.as_int())
            && b != 0
        {
            return Dim::int(a.checked_rem_euclid(b).unwrap_or(0));
        }
        if self.try_div(other).is_some() { Dim::int(0) } else { Dim::atom(Atom::Mod(self.clone(), other.clone())) }
    }

    /// The larger of two sizes.
    pub fn max_with(&self, other: &Dim) -> Dim {
        if other.known_le(self) {
            self.clone()
        } else if self.known_le(other) {
            other.clone()
        } else {
            Dim::atom(Atom::Max(self.clone(), other.clone()))
        }
    }

    /// Collects the symbols into `into`.
    pub fn collect_symbols(&self, into: &mut Vec<Symbol>) {
        for (atoms, _) in self.terms() {
            for atom in atoms {
                match atom {
                    Atom::Symbol(s) if !into.contains(&s) => into.push(s),
                    Atom::Symbol(_) => {}
                    Atom::Div(a, b) | Atom::Mod(a, b) | Atom::Max(a, b) => {
                        a.collect_symbols(into);
                        b.collect_symbols(into);
                    }
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
                        Atom::Mod(a, b) => a.substitute(value).modulo(&b.substitute(value)),
                        Atom::Max(a, b) => a.substitute(value).max_with(&b.substitute(value)),
                    }
                });
                sum + product
            }),
        }
    }

    /// WGSL or C-like spelling with each symbol spelled by `name` and unsigned arithmetic.
    pub fn render(&self, name: &dyn Fn(&Symbol) -> String) -> String {
        match &self.0 {
            Repr::Int(n) => format!("{n}u"),
            Repr::Poly(terms) => {
                let (minus, plus): (Vec<_>, Vec<_>) = terms.iter().partition(|(_, f)| *f < 0);
                let spell = |(atoms, factor): &(Vec<Atom>, i64)| {
                    let mut parts: Vec<String> = atoms.iter().map(|a| a.render(name)).collect();
                    if factor.abs() != 1 || parts.is_empty() {
                        parts.push(format!("{}u", factor.abs()));
                    }
                    parts.join(" * ")
                };
                let mut out = plus.iter().map(|t| spell(t)).collect::<Vec<_>>().join(" + ");
                if out.is_empty() {
                    out = "0u".into();
                }
                for t in minus {
                    out = format!("{out} - {}", spell(t));
                }
                format!("({out})")
            }
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
        let pair = |a: &Dim, b: &Dim| Ok::<_, String>((a.eval(bindings)?, b.eval(bindings)?));
        Ok(match self {
            Atom::Symbol(s) => *bindings.get(&*s.name).ok_or_else(|| format!("symbol {} has no value", s.name))?,
            Atom::Div(a, b) => {
                let (a, b) = pair(a, b)?;
                a.checked_div_euclid(b).ok_or("division by zero in a size")?
            }
            Atom::Mod(a, b) => {
                let (a, b) = pair(a, b)?;
                a.checked_rem_euclid(b).ok_or("division by zero in a size")?
            }
            Atom::Max(a, b) => {
                let (a, b) = pair(a, b)?;
                a.max(b)
            }
        })
    }

    fn range(&self) -> (i64, i64) {
        match self {
            Atom::Symbol(s) => (s.min, s.max),
            Atom::Div(a, b) => {
                let ((lo, hi), (dlo, dhi)) = (a.range(), b.range());
                if dlo < 1 || lo < 0 { (i64::MIN, i64::MAX) } else { (lo / dhi.max(1), hi / dlo) }
            }
            Atom::Mod(_, b) => (0, b.range().1.saturating_sub(1).max(0)),
            Atom::Max(a, b) => (a.range().0.max(b.range().0), a.range().1.max(b.range().1)),
        }
    }

    fn render(&self, name: &dyn Fn(&Symbol) -> String) -> String {
        match self {
            Atom::Symbol(s) => name(s),
            Atom::Div(a, b) => format!("({} / {})", a.render(name), b.render(name)),
            Atom::Mod(a, b) => format!("({} % {})", a.render(name), b.render(name)),
            Atom::Max(a, b) => format!("max({}, {})", a.render(name), b.render(name)),
        }
    }
}

fn mul_range(a: (i64, i64), b: (i64, i64)) -> (i64, i64) {
    let products = [a.0.saturating_mul(b.0), a.0.saturating_mul(b.1), a.1.saturating_mul(b.0), a.1.saturating_mul(b.1)];
    (products.into_iter().min().expect("four products"), products.into_iter().max().expect("four products"))
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

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Repr::Poly(terms) = &self.0 else {
            return write!(f, "{}", self.as_int().unwrap_or(0));
        };
        for (i, (atoms, factor)) in terms.iter().enumerate() {
            let sign = if *factor < 0 { "-" } else { "+" };
            match (i, *factor < 0) {
                (0, true) => f.write_str("-")?,
                (0, false) => {}
                _ => write!(f, " {sign} ")?,
            }
            let mut parts: Vec<String> = atoms.iter().map(|a| a.to_string()).collect();
            if factor.abs() != 1 || parts.is_empty() {
                parts.push(factor.unsigned_abs().to_string());
            }
            f.write_str(&parts.join("*"))?;
        }
        Ok(())
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Atom::Symbol(s) => f.write_str(&s.name),
            Atom::Div(a, b) => write!(f, "div({a}, {b})"),
            Atom::Mod(a, b) => write!(f, "mod({a}, {b})"),
            Atom::Max(a, b) => write!(f, "max({a}, {b})"),
        }
    }
}

impl Serialize for Dim {
    /// An integer or, in text formats, the expression with each symbol's range written beside it: `t{1..64}*3 - 2`.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            return self.0.serialize(serializer);
        }
        match self.as_int() {
            Some(n) => serializer.serialize_i64(n),
            None => serializer.serialize_str(&self.text_with_ranges()),
        }
    }
}

impl<'de> Deserialize<'de> for Dim {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Dim, D::Error> {
        if !deserializer.is_human_readable() {
            return Repr::deserialize(deserializer).map(Dim);
        }
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::Number(n) => n.as_i64().map(Dim::int).ok_or_else(|| serde::de::Error::custom("size is not an integer")),
            serde_json::Value::String(s) => Dim::parse(&s, &|_| None).map_err(serde::de::Error::custom),
            other => Err(serde::de::Error::custom(format!("{other} is no size"))),
        }
    }
}

impl Dim {
    fn text_with_ranges(&self) -> String {
        let mut symbols = Vec::new();
        self.collect_symbols(&mut symbols);
        let named = self.substitute(&|s| Some(Dim::symbol(&format!("{}{{{}..{}}}", s.name, s.min, s.max), s.min, s.max)));
        named.to_string()
    }

    /// Parses what `Display` prints. A symbol is looked up by name, or carries its range: `t{1..64}`.
    pub fn parse(text: &str, lookup: &dyn Fn(&str) -> Option<Symbol>) -> Result<Dim, String> {
        let mut parser = Parser { rest: text.trim(), lookup, depth: 0 };
        let dim = parser.sum()?;
        if parser.rest.is_empty() { Ok(dim) } else { Err(format!("unexpected `{}` in size `{text}`", parser.rest)) }
    }
}

/// Recursive descent over `sum := product (+|- product)*`, `product := factor (* factor)*`.
struct Parser<'a> {
    rest: &'a str,
    lookup: &'a dyn Fn(&str) -> Option<Symbol>,
    depth: u32,
}

impl<'a> Parser<'a> {
    fn eat(&mut self, token: char) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }

    fn sum(&mut self) -> Result<Dim, String> {
        let mut sum = if self.eat('-') { Dim::int(0) - self.product()? } else { self.product()? };
        loop {
            if self.eat('+') {
                sum = sum + self.product()?;
            } else if self.eat('-') {
                sum = sum - self.product()?;
            } else {
                return Ok(sum);
            }
        }
    }

    fn product(&mut self) -> Result<Dim, String> {
        let mut product = self.factor()?;
        while self.eat('*') {
            product = product * self.factor()?;
        }
        Ok(product)
    }

    fn word(&mut self, ok: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !ok(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn factor(&mut self) -> Result<Dim, String> {
        let digits = self.word(|c| c.is_ascii_digit());
        if !digits.is_empty() {
            return digits.parse().map(Dim::int).map_err(|e| format!("size `{digits}`: {e}"));
        }
        let name = self.word(|c| c.is_alphanumeric() || c == '_' || c == '.');
        if name.is_empty() {
            return Err(format!("expected a size at `{}`", self.rest));
        }
        if matches!(name, "div" | "mod" | "max") && self.eat('(') {
            self.depth += 1;
            if self.depth > 64 {
                return Err("a size is nested too deeply".into());
            }
            let a = self.sum()?;
            let closed = self.eat(',');
            let b = self.sum()?;
            self.depth -= 1;
            if !closed || !self.eat(')') {
                return Err(format!("`{name}` takes two sizes"));
            }
            return Ok(match name {
                "div" => a.floor_div(&b),
                "mod" => a.modulo(&b),
                _ => a.max_with(&b),
            });
        }
        if self.eat('{') {
            let range = self.word(|c| c != '}');
            let (min, max) = range.split_once("..").ok_or("a range is written min..max")?;
            let bound = |s: &str| s.parse::<i64>().map_err(|e| format!("range `{range}`: {e}"));
            let dim = Dim::symbol(name, bound(min)?, bound(max)?);
            return if self.eat('}') { Ok(dim) } else { Err("range lacks its closing brace".into()) };
        }
        let symbol = (self.lookup)(name).ok_or_else(|| format!("unknown symbol `{name}`"))?;
        Ok(Dim::symbol(&symbol.name, symbol.min, symbol.max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_is_canonical() {
        let (b, t) = (Dim::symbol("b", 1, 64), Dim::symbol("t", 1, 1024));
        assert_eq!(b.clone() * &t, t.clone() * &b);
        assert_eq!((b.clone() + &t) * Dim::int(2), b.clone() * Dim::int(2) + t.clone() * Dim::int(2));
        assert_eq!(b.clone() - &b, Dim::int(0));
        assert_eq!((b.clone() * &t).try_div(&t), Some(b.clone()));
        assert_eq!((b.clone() * Dim::int(12)).try_div(&Dim::int(4)), Some(b.clone() * Dim::int(3)));
        assert_eq!((b.clone() + &Dim::int(1)).try_div(&t), None);
        assert!(b.known_le(&Dim::int(64)) && !b.known_le(&Dim::int(63)));
        assert_eq!((b * &t).range(), (1, 65536));
        let d = t.clone() * Dim::int(3) - Dim::int(2);
        assert_eq!(d.to_string(), "t*3 - 2");
        let json = serde_json::to_string(&d).unwrap();
        assert_eq!(json, "\"t{1..1024}*3 - 2\"");
        assert_eq!(serde_json::from_str::<Dim>(&json).unwrap(), d);
    }
}
