//! Parsing the text of nests; the format is described in `text.rs`. Bad text is an error at its line and column, never a panic.
//!
//! Indices are simplified as they are read, so that text written by hand is as canonical as any.

use super::{Axis, Buffer, BufferId, Combiner, IndexExpr, Instr, Nest, Number, Seen, Stmt, Tag, Triangle, Val, Write};
use crate::scalar::ScalarFn;
use crate::types::{Cursor, DType, Dim, MatmulPrecision, Provenance, Shape, Symbol, TensorType};
use std::fmt;

/// Axes, statements and terms within terms that a text may have: more are refused, so that no text takes a program apart.
const MOST_AXES: usize = 64;
const MOST_STATEMENTS: usize = 1 << 16;
const DEEPEST: usize = 64;

/// Where a text does not parse, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// Line, counted from 1.
    pub line: usize,
    /// Character of the line, counted from 1.
    pub column: usize,
    /// What was expected.
    pub message: String,
}

impl std::error::Error for ParseError {}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nests, line {}, column {}: {}", self.line, self.column, self.message)
    }
}

/// The buffers and nests of a text. Lines of `//` are comments, and a line `// ----` ends the text.
pub fn parse(text: &str) -> Result<(Vec<Buffer>, Vec<Nest>), ParseError> {
    let mut parser = Parser::default();
    let mut last = 1;
    for (i, text) in text.lines().enumerate().take_while(|(_, line)| line.trim_end() != "// ----") {
        if text.trim().is_empty() || text.trim_start().starts_with("//") {
            continue;
        }
        last = i + 1;
        let mut line = Cursor::new(text);
        let done = parser.line(&mut line).and_then(|()| line.end());
        done.map_err(|message| ParseError { line: last, column: line.column(), message })?;
    }
    match parser.open {
        Some(open) => Err(ParseError { line: last, column: 1, message: format!("nest {} lacks its `}}`", open.nest.label) }),
        None => Ok((parser.buffers, parser.nests)),
    }
}

#[derive(Default)]
struct Parser {
    buffers: Vec<Buffer>,
    nests: Vec<Nest>,
    open: Option<Open>,
}

/// A nest whose end has not come.
struct Open {
    nest: Nest,
    symbols: Vec<Symbol>,
}

impl Parser {
    fn line(&mut self, line: &mut Cursor<'_>) -> Result<(), String> {
        match &mut self.open {
            Some(open) if !line.eat("}") => open.statement(line),
            Some(_) => {
                self.nests.extend(self.open.take().map(|open| open.nest));
                Ok(())
            }
            None if line.eat("buffer ") => self.buffer(line),
            None if line.eat("nest ") => {
                self.open = Some(header(line)?);
                Ok(())
            }
            None => Err("expected `buffer` or `nest`".into()),
        }
    }

    /// `b0 f32[4, 3] x`
    fn buffer(&mut self, line: &mut Cursor<'_>) -> Result<(), String> {
        line.expect("b")?;
        let number = line.integer()?;
        if number != self.buffers.len() as i64 {
            return Err(format!("expected b{}", self.buffers.len()));
        }
        let dtype = dtype(line)?;
        line.expect("[")?;
        let shape = Shape::new(sizes(line.until("]")?, &[])?);
        let name = line.rest.trim().to_string();
        line.rest = "";
        self.buffers.push(Buffer { name, ty: TensorType { dtype, shape } });
        Ok(())
    }
}

/// `exp sum rows[n] cols[32] symbols[n 1..64] matmul(a=%0 b=%1 dot=%3 batch=0) {`
fn header(line: &mut Cursor<'_>) -> Result<Open, String> {
    let label = line.until("rows[")?.trim_end().to_string();
    let rows = line.until("]")?;
    line.expect("cols[")?;
    let cols = line.until("]")?;
    let inner = if line.eat("inner[") { line.until("]")? } else { "" };
    let symbols = if line.eat("symbols[") { self::symbols(line.until("]")?)? } else { vec![] };
    let (rows, cols, inner) = (sizes(rows, &symbols)?, sizes(cols, &symbols)?, sizes(inner, &symbols)?);
    if rows.len() + cols.len() + inner.len() > MOST_AXES {
        return Err(format!("there are more than {MOST_AXES} axes"));
    }
    let tag = tag(line)?;
    line.expect("{")?;
    Ok(Open {
        nest: Nest {
            label: label.into(),
            rows: rows.into(),
            cols: cols.into(),
            inner: inner.into(),
            body: vec![],
            writes: vec![],
            tag,
            provenance: Provenance::default(),
        },
        symbols,
    })
}

/// `n 1..64, t 1..128`
fn symbols(text: &str) -> Result<Vec<Symbol>, String> {
    let symbol = |text: &str| {
        let (name, range) = text.trim().split_once(' ').ok_or_else(|| format!("`{text}` is no symbol with its range"))?;
        let (min, max) = range.split_once("..").ok_or("a range is written min..max")?;
        let bound = |s: &str| s.parse::<i64>().map_err(|e| format!("range `{range}`: {e}"));
        Ok(Symbol { name: name.into(), min: bound(min)?, max: bound(max)? })
    };
    text.split(',').map(symbol).collect()
}

/// Sizes between commas that are in no parenthesis.
fn sizes(text: &str, symbols: &[Symbol]) -> Result<Vec<Dim>, String> {
    let (mut depth, mut start, mut out) = (0, 0, vec![]);
    if text.trim().is_empty() {
        return Ok(out);
    }
    for (i, c) in text.char_indices() {
        depth += (c == '(') as i32 - (c == ')') as i32;
        if c == ',' && depth == 0 {
            out.push(size(&text[start..i], symbols)?);
            start = i + 1;
        }
    }
    out.push(size(&text[start..], symbols)?);
    Ok(out)
}

fn size(text: &str, symbols: &[Symbol]) -> Result<Dim, String> {
    Dim::parse(text, &|name| symbols.iter().find(|s| &*s.name == name).cloned())
}

fn dtype(line: &mut Cursor<'_>) -> Result<DType, String> {
    let word = line.take(|c| c.is_ascii_alphanumeric());
    DType::parse(word).ok_or_else(|| format!("there is no dtype `{word}`"))
}

fn tag(line: &mut Cursor<'_>) -> Result<Tag, String> {
    let tag = if line.eat("segments(") {
        Tag::Segments { start: named(line, "start")?, end: named(line, "end")? }
    } else if line.eat("control(") {
        line.expect("number=")?;
        Tag::Control { number: number(line)? }
    } else if line.eat("attention(") {
        line.expect("batch=")?;
        let batch = number(line)?;
        line.expect("seen=")?;
        let word = line.word();
        let (seen, _) = Seen::NAMES.into_iter().find(|(_, name)| *name == word).ok_or_else(|| format!("no columns are seen as `{word}`"))?;
        Tag::Attention { batch, seen, precision: admitted(line)? }
    } else if line.eat("matmul(") {
        let (a, b, dot) = (named(line, "a")?, named(line, "b")?, named(line, "dot")?);
        line.expect("batch=")?;
        let batch = number(line)?;
        let m = if line.eat("m=") { number(line)? } else { 1 };
        Tag::Matmul { a, b, dot, batch, m, triangle: triangle(line)?, precision: admitted(line)? }
    } else if line.eat("scatter_sum(") {
        let index = named(line, "index")?;
        line.expect("axis=i")?;
        let axis = number(line)?;
        Tag::ScatterSum { index, axis, source: named(line, "source")?, sum: named(line, "sum")? }
    } else {
        return Ok(Tag::Loop);
    };
    line.expect(")")?;
    Ok(tag)
}

/// `triangle=results`, or nothing where everything is needed.
fn triangle(line: &mut Cursor<'_>) -> Result<Triangle, String> {
    if !line.eat("triangle=") {
        return Ok(Triangle::Whole);
    }
    let word = line.word();
    let found = Triangle::NAMES.into_iter().find(|(_, name)| *name == word);
    found.map(|(triangle, _)| triangle).ok_or_else(|| format!("no part of a product is called `{word}`"))
}

/// `precision=high`, or nothing for the highest.
fn admitted(line: &mut Cursor<'_>) -> Result<MatmulPrecision, String> {
    if line.eat("precision=") { line.take(|c| c.is_ascii_lowercase()).parse() } else { Ok(MatmulPrecision::default()) }
}

fn named(line: &mut Cursor<'_>, name: &str) -> Result<Val, String> {
    line.expect(&format!("{name}="))?;
    value(line)
}

/// `%3`
fn value(line: &mut Cursor<'_>) -> Result<Val, String> {
    line.expect("%")?;
    number(line).map(Val)
}

fn number(line: &mut Cursor<'_>) -> Result<u32, String> {
    let n = line.integer()?;
    u32::try_from(n).ok().filter(|n| (*n as usize) < MOST_STATEMENTS).ok_or_else(|| format!("the number {n} is out of range"))
}

fn mask(line: &mut Cursor<'_>) -> Result<Option<Val>, String> {
    if line.eat("if ") { value(line).map(Some) } else { Ok(None) }
}

fn combiner(line: &mut Cursor<'_>) -> Result<Combiner, String> {
    let word = line.word();
    Combiner::ALL.into_iter().find(|c| format!("{c:?}") == word).ok_or_else(|| format!("there is no combiner `{word}`"))
}

impl Open {
    fn statement(&mut self, line: &mut Cursor<'_>) -> Result<(), String> {
        if line.eat("b") {
            let write = self.write(line)?;
            self.nest.writes.push(write);
            return Ok(());
        }
        let Val(v) = value(line)?;
        if v as usize != self.nest.body.len() {
            return Err(format!("expected %{}", self.nest.body.len()));
        }
        line.expect(":")?;
        let dtype = dtype(line)?;
        line.expect("=")?;
        let instr = self.instr(line)?;
        if let Some(o) = instr.operands().iter().find(|o| o.0 >= v) {
            return Err(format!("%{} is not defined before %{v}", o.0));
        }
        self.nest.body.push(Stmt { instr, dtype });
        Ok(())
    }

    /// Everything after the `b` of `b1[i0*32 + i1] = sum over rows of %5 in the first 3 columns`
    fn write(&self, line: &mut Cursor<'_>) -> Result<Write, String> {
        let (buffer, index) = self.place(line)?;
        line.expect("=")?;
        let fold = line.eat("sum over rows of ");
        let value = value(line)?;
        let first = if line.eat("in the first ") { Some(self.size(line.until(" columns")?)?) } else { None };
        Ok(Write { buffer, index, value, fold, first })
    }

    /// Everything after the `b` of `b1[i0*32 + i1]`
    fn place(&self, line: &mut Cursor<'_>) -> Result<(BufferId, IndexExpr), String> {
        let buffer = BufferId(number(line)?);
        line.expect("[")?;
        let index = self.index(line, 0)?;
        line.expect("]")?;
        Ok((buffer, index))
    }

    fn instr(&self, line: &mut Cursor<'_>) -> Result<Instr, String> {
        Ok(match line.word() {
            "const" => Instr::Const(constant(line)?),
            "index" => Instr::Index(self.index(line, 0)?),
            "load" => {
                line.expect("b")?;
                let (buffer, index) = self.place(line)?;
                Instr::Load { buffer, index, mask: mask(line)? }
            }
            "cast" => Instr::Cast(value(line)?),
            "bitcast" => Instr::Bitcast(value(line)?),
            "bound" => {
                let index = value(line)?;
                line.expect("<")?;
                let size = self.size(line.until(" code ")?)?;
                Instr::Bound { index, size, code: number(line)?, mask: mask(line)? }
            }
            "reduce" => Instr::Reduce(combiner(line)?, value(line)?),
            "scan" => Instr::Scan(combiner(line)?, value(line)?),
            "contract" => {
                let a = value(line)?;
                line.expect(",")?;
                let b = value(line)?;
                line.expect("over")?;
                Instr::Contract { a, b, over: number(line)? }
            }
            "sort" => {
                let descending = line.eat("descending ");
                if !descending {
                    line.expect("ascending ")?;
                }
                Instr::Sort { key: value(line)?, descending }
            }
            "result" => {
                let k = number(line)?;
                line.expect("of ")?;
                Instr::Proj(value(line)?, k)
            }
            name => {
                let f = ScalarFn::parse(name).ok_or_else(|| format!("there is no operation `{name}`"))?;
                let mut args = vec![value(line)?];
                while line.eat(",") {
                    args.push(value(line)?);
                }
                Instr::Call(f, args)
            }
        })
    }

    fn size(&self, text: &str) -> Result<Dim, String> {
        size(text, &self.symbols)
    }

    /// A sum of terms: `i0*30 + (i1 + 2)/3*5 + %4{10} + -1`.
    fn index(&self, line: &mut Cursor<'_>, depth: usize) -> Result<IndexExpr, String> {
        if depth > DEEPEST {
            return Err("the index is nested too deeply".into());
        }
        let mut sum = IndexExpr::zero();
        loop {
            let term = self.term(line, depth)?;
            let term = if line.eat("*") { term.times(&self.factor(line)?) } else { term };
            sum = sum.add(&term);
            if !line.eat("+") {
                return Ok(sum);
            }
        }
    }

    fn term(&self, line: &mut Cursor<'_>, depth: usize) -> Result<IndexExpr, String> {
        if line.eat("%") {
            let v = number(line)?;
            line.expect("{")?;
            return Ok(IndexExpr::value(v, &self.size(line.until("}")?)?));
        }
        if line.eat("i") {
            let id = number(line)?;
            let size = self.nest.rows.iter().chain(&self.nest.cols).chain(&self.nest.inner).nth(id as usize);
            let axis = Axis { id, size: size.ok_or_else(|| format!("there is no axis i{id}"))?.clone() };
            return Ok(IndexExpr::axis(axis.id, &axis.size));
        }
        if !is_quotient(line.rest) {
            return Ok(IndexExpr::constant(self.factor(line)?));
        }
        line.expect("(")?;
        let inner = self.index(line, depth + 1)?;
        line.expect(")")?;
        if line.eat("/") {
            return Ok(inner.div(&self.divisor(line)?));
        }
        line.expect("%")?;
        Ok(inner.modulo(&self.divisor(line)?))
    }

    fn divisor(&self, line: &mut Cursor<'_>) -> Result<Dim, String> {
        let by = self.factor(line)?;
        if by.range().0 < 0 { Err(format!("`{by}` may be negative")) } else { Ok(by) }
    }

    /// An integer, or a size in parentheses.
    fn factor(&self, line: &mut Cursor<'_>) -> Result<Dim, String> {
        if !line.rest.trim_start().starts_with('(') {
            return line.integer().map(Dim::int);
        }
        let end = closing(line.rest).ok_or("a parenthesis is open")?;
        let (inside, rest) = line.rest.split_at(end);
        line.rest = &rest[1..];
        self.size(inside.trim_start().trim_start_matches('('))
    }
}

/// Where the parenthesis that a text begins with is closed.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (i, c) in text.char_indices() {
        depth += (c == '(') as i32 - (c == ')') as i32;
        if c == ')' && depth == 0 {
            return Some(i);
        }
    }
    None
}

/// Whether a parenthesis comes next that is divided.
fn is_quotient(text: &str) -> bool {
    let behind = |end: usize| text[end + 1..].trim_start().starts_with(['/', '%']);
    text.trim_start().starts_with('(') && closing(text).is_some_and(behind)
}

fn constant(line: &mut Cursor<'_>) -> Result<Number, String> {
    let word = line.take(|c| !c.is_whitespace());
    if let Some(bits) = word.strip_prefix("NaN:") {
        return u64::from_str_radix(bits, 16).map(Number::Float).map_err(|e| format!("`{word}`: {e}"));
    }
    match word.parse::<i64>() {
        Ok(n) => Ok(Number::Int(n)),
        Err(_) => word.parse::<f64>().map(|x| Number::Float(x.to_bits())).map_err(|e| format!("`{word}`: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::print;
    use super::*;

    const PROGRAM: &str = "\
buffer b0 f32[n{1..64}, 32] x of all
buffer b1 f32[] sum.3
nest exp sum rows[n, 2] cols[32] symbols[n 1..64] segments(start=%1 end=%2) {
  %0: f32 = load b0[i0*32 + i2]
  %1: i32 = index (n*2 + 1)
  %2: i32 = bound %1 < n + 3 code 2
  %3: bool = ge %1, %2
  %4: f32 = load b0[i1*(n*2) + %2{n + 3} + (i0*3 + i1)/2*5 + (i0)%3 + -1] if %3
  %5: f32 = const -0.0
  %6: f32 = const NaN
  %7: f32 = const NaN:7ff8000000000001
  %8: f32 = reduce ArgMax %4
  %9: i32 = result 1 of %8
  %10: f32 = sort descending %4
  b1[0] = sum over rows of %10
  b1[i0 + (n*2)] = %9 in the first n + 1 columns
}
";

    #[test]
    fn text_parses_back() {
        let (buffers, nests) = parse(PROGRAM).unwrap();
        assert_eq!(print(&buffers, &nests), PROGRAM);
        assert_eq!(buffers[0].name, "x of all");
    }

    #[test]
    fn bad_text_is_an_error_at_its_place() {
        let faults = [
            ("rows[n, 2]", "rows[m, 2]", 3, "unknown symbol `m`"),
            ("load b0[i0*32 + i2]", "load b0[i0*32 + i7]", 4, "there is no axis i7"),
            ("%1: i32 = index", "%2: i32 = index", 5, "expected %1"),
            ("ge %1, %2", "ge %1, %9", 7, "%9 is not defined before %3"),
            ("ge %1", "gee %1", 7, "there is no operation `gee`"),
            ("const -0.0", "const zero", 9, "`zero`: invalid float literal"),
            ("reduce ArgMax", "reduce Most", 12, "there is no combiner `Most`"),
            ("\n}", "", 16, "nest exp sum lacks its `}`"),
        ];
        for (good, bad, line, message) in faults {
            let error = parse(&PROGRAM.replace(good, bad)).unwrap_err();
            assert_eq!((error.line, &error.message[..]), (line, message), "{bad}");
        }
        let error = parse(&PROGRAM.replace("i0*32 + i2]", "i0*32 + i7]")).unwrap_err();
        assert_eq!(error.to_string(), "nests, line 4, column 31: there is no axis i7");
    }
}
