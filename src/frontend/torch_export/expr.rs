//! Sizes in SymPy's notation, such as `Add(Mul(Integer(2), Symbol('s0', integer=True)), Integer(1))`.

use super::symbols::bounded;
use crate::types::Dim;

/// Nesting beyond this is refused: the parser calls itself.
const DEPTH: usize = 64;

/// The size written in `text`; `symbol` gives each symbol by name.
pub fn parse(text: &str, symbol: &dyn Fn(&str) -> Dim) -> Result<Dim, String> {
    let mut parser = Parser { rest: text, symbol };
    let dim = parser.expression(0).map_err(|what| format!("size {}: {what}", shorten(text)))?;
    if parser.rest.trim().is_empty() { Ok(dim) } else { Err(format!("size {}: {} follows", shorten(text), shorten(parser.rest))) }
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

struct Parser<'a> {
    rest: &'a str,
    symbol: &'a dyn Fn(&str) -> Dim,
}

impl Parser<'_> {
    fn expression(&mut self, depth: usize) -> Result<Dim, String> {
        if depth > DEPTH {
            return Err("it is nested too deeply".into());
        }
        let head = self.word();
        if let Ok(n) = head.parse::<i64>() {
            return Ok(Dim::int(n));
        }
        if !self.eat("(") {
            return Err(format!("{head} is no size"));
        }
        match head.as_str() {
            "Integer" => {
                let number = self.word();
                let n = number.parse::<i64>().map_err(|_| format!("{number} is no integer"))?;
                self.close()?;
                Ok(Dim::int(n))
            }
            "Symbol" => self.symbol_name(),
            _ => {
                let mut parts = vec![self.expression(depth + 1)?];
                while self.eat(",") {
                    if parts.len() > 1024 {
                        return Err("it has too many terms".into());
                    }
                    parts.push(self.expression(depth + 1)?);
                }
                self.close()?;
                combine(&head, &parts)
            }
        }
    }

    /// The rest of `Symbol('s0', integer=True)`.
    fn symbol_name(&mut self) -> Result<Dim, String> {
        if !self.eat("'") {
            return Err("a symbol without a name".into());
        }
        let end = self.rest.find('\'').ok_or("a symbol's name does not end")?;
        let name = &self.rest[..end];
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(format!("{} is no name of a symbol", shorten(name)));
        }
        self.rest = &self.rest[end + 1..];
        let end = self.rest.find(')').ok_or("a parenthesis is missing")?;
        self.rest = &self.rest[end + 1..];
        Ok((self.symbol)(name))
    }

    fn word(&mut self) -> String {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-')).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word.to_string()
    }

    fn eat(&mut self, what: &str) -> bool {
        self.rest = self.rest.trim_start();
        let found = self.rest.strip_prefix(what);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    fn close(&mut self) -> Result<(), String> {
        if self.eat(")") { Ok(()) } else { Err("a parenthesis is missing".into()) }
    }
}

fn combine(head: &str, parts: &[Dim]) -> Result<Dim, String> {
    // Each step is bounded: a product of sums has as many terms as there are combinations.
    let fold = |f: fn(Dim, &Dim) -> Dim| parts[1..].iter().try_fold(parts[0].clone(), |a, b| bounded(f(a, b)));
    match (head, parts) {
        ("Add", _) => fold(|a, b| a + b),
        ("Mul", _) => fold(|a, b| a * b),
        ("Max", _) => fold(|a, b| a.max_with(b)),
        ("Min", _) => fold(|a, b| Dim::int(0) - (Dim::int(0) - a).max_with(&(Dim::int(0) - b))),
        ("FloorDiv" | "CleanDiv", [_, by]) if by.range().0 > 0 => bounded(parts[0].floor_div(by)),
        ("CeilDiv", [_, by]) if by.range().0 > 0 => bounded(parts[0].ceil_div(by)),
        ("Mod" | "PythonMod", [_, by]) if by.range().0 > 0 => bounded(parts[0].modulo(by)),
        ("Pow", [base, exponent]) => match exponent.as_int() {
            Some(n @ 0..=8) => (0..n).try_fold(Dim::int(1), |p, _| bounded(p * base)),
            _ => Err("only small constant powers are supported".into()),
        },
        _ => Err(format!("{head} of {} sizes is not supported", parts.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_become_sizes() {
        let symbol = |name: &str| Dim::symbol(name, 1, 64);
        let s = Dim::symbol("s0", 1, 64);
        let check = |text: &str, expected: Dim| assert_eq!(parse(text, &symbol).unwrap(), expected, "{text}");
        check("Integer(3)", Dim::int(3));
        check("Symbol('s0', positive=True, integer=True)", s.clone());
        check("Add(Mul(Integer(2), Symbol('s0', integer=True)), Integer(-1))", s.clone() * Dim::int(2) + Dim::int(-1));
        check("FloorDiv(Symbol('s0', integer=True), Integer(2))", s.floor_div(&Dim::int(2)));
        for wrong in ["", "Integer(", "Integer(x)", "Symbol(s0)", "Symbol('", "Sin(Integer(1))", "Integer(1))", "FloorDiv(Integer(1), Integer(0))"] {
            assert!(parse(wrong, &symbol).is_err(), "{wrong}");
        }
        assert!(parse(&"Add(".repeat(100_000), &symbol).unwrap_err().contains("nested too deeply"));
    }
}
