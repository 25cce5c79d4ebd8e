//! Sizes as text: printed, parsed, serialized, spelled in WGSL.

use super::{Atom, Dim, Repr, Symbol};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Whether the word is a function in size expressions, which no symbol may be called.
pub fn is_size_function(word: &str) -> bool {
    matches!(word, "div" | "mod" | "max" | "min")
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
            Atom::Positive(a) => write!(f, "max({a}, 0)"),
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

    /// The expression with each symbol's range written beside it: `t{1..64}*3 - 2`.
    pub fn text_with_ranges(&self) -> String {
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
        if is_size_function(name) && self.eat('(') {
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
                "min" => a.min_with(&b),
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

impl Atom {
    fn render(&self, name: &dyn Fn(&Symbol) -> String) -> String {
        match self {
            Atom::Symbol(s) => name(s),
            Atom::Div(a, b) => format!("({} / {})", a.render(name), b.render(name)),
            // Unsigned arithmetic has no negative numbers: `max(p - m, 0)` is `max(p, m) - m`.
            Atom::Positive(a) => {
                let (plus, minus) = a.signed_parts();
                format!("(max({}, {minus}) - {minus})", plus.render(name), minus = minus.render(name))
            }
        }
    }
}
