//! Printing of nests, for dumps, reproducers and tests. `parse.rs` reads the text back, all but where a nest came from.
//!
//! ```text
//! buffer b0 f32[n{1..64}, 32] x
//! buffer b1 f32[n{1..64}] sum.3
//! nest exp sum rows[n] cols[32] symbols[n 1..64] {
//!   %0: f32 = load b0[i0*32 + i1]
//!   %1: f32 = exp %0
//!   %2: f32 = reduce Sum %1
//!   b1[i0] = %2
//! }
//! ```
//!
//! * A nest is named by its ops. A tag is written behind its sizes, as `matmul(a=%0 b=%1 dot=%3 batch=0)`. Inner axes stand behind
//!   the columns, as `inner[64]`, and are counted from 0 by `contract %0, %1 over 0`.
//! * An index is a sum of terms with their coefficients: axes `i0`, values `%4{10}` with the size that they are below, quotients
//!   `(i0 + i1*4)/3` and remainders `(i0)%3`. Sizes of several words stand in parentheses.
//! * Buffers are listed where the text is of a program: with their types, and their names to the end of the line.

use super::{Buffer, Instr, Nest, Number, Tag, Term, Triangle, Write};
use crate::types::{Dim, MatmulPrecision, Symbol};
use std::fmt;

/// The text of nests over buffers.
pub fn print(buffers: &[Buffer], nests: &[Nest]) -> String {
    let buffer = |(k, b): (usize, &Buffer)| {
        let sizes: Vec<String> = b.ty.shape.0.iter().map(Dim::text_with_ranges).collect();
        format!("buffer b{k} {}[{}] {}\n", b.ty.dtype.name(), sizes.join(", "), b.name)
    };
    buffers.iter().enumerate().map(buffer).chain(nests.iter().map(|n| format!("{n}\n"))).collect()
}

/// Symbols that occur in a nest, by name.
fn symbols(nest: &Nest) -> Vec<Symbol> {
    let mut out = vec![];
    nest.rows.iter().chain(&nest.cols).chain(&nest.inner).for_each(|d| d.collect_symbols(&mut out));
    let indices = nest.body.iter().filter_map(|s| s.instr.index()).chain(nest.writes.iter().map(|w| &w.index));
    for e in indices {
        collect(e, &mut out);
    }
    for stmt in &nest.body {
        if let Instr::Bound { size, .. } = &stmt.instr {
            size.collect_symbols(&mut out);
        }
    }
    nest.writes.iter().filter_map(|w| w.first.as_ref()).for_each(|d| d.collect_symbols(&mut out));
    out.sort();
    out.dedup();
    out
}

fn collect(e: &super::IndexExpr, out: &mut Vec<Symbol>) {
    e.offset.collect_symbols(out);
    for (term, k) in &e.terms {
        k.collect_symbols(out);
        match term {
            Term::Axis(a) => a.size.collect_symbols(out),
            Term::Value { size, .. } => size.collect_symbols(out),
            Term::Div(e, d) | Term::Mod(e, d) => {
                d.collect_symbols(out);
                collect(e, out);
            }
        }
    }
}

impl fmt::Display for Nest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes = |dims: &[Dim]| dims.iter().map(|d| d.to_string()).collect::<Vec<_>>().join(", ");
        write!(f, "nest {} rows[{}] cols[{}]", self.label, sizes(&self.rows), sizes(&self.cols))?;
        if !self.inner.is_empty() {
            write!(f, " inner[{}]", sizes(&self.inner))?;
        }
        let symbols: Vec<String> = symbols(self).iter().map(|s| format!("{} {}..{}", s.name, s.min, s.max)).collect();
        if !symbols.is_empty() {
            write!(f, " symbols[{}]", symbols.join(", "))?;
        }
        writeln!(f, "{} {{", self.tag)?;
        for v in self.values() {
            let stmt = self.stmt(v);
            writeln!(f, "  %{}: {} = {}", v.0, stmt.dtype, stmt.instr)?;
        }
        for w in &self.writes {
            writeln!(f, "  {w}")?;
        }
        write!(f, "}}")
    }
}

impl fmt::Display for Tag {
    /// With a space before it; nothing for a plain loop.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tag::Loop => Ok(()),
            Tag::Control { number } => write!(f, " control(number={number})"),
            Tag::Attention { batch, seen, precision } => {
                write!(f, " attention(batch={batch} seen={}{})", seen.name(), Admitted(*precision))
            }
            Tag::Segments { start, end } => write!(f, " segments(start=%{} end=%{})", start.0, end.0),
            Tag::Matmul { a, b, dot, batch, m, triangle, precision } => {
                write!(f, " matmul(a=%{} b=%{} dot=%{} batch={batch}", a.0, b.0, dot.0)?;
                if *m != 1 {
                    write!(f, " m={m}")?;
                }
                if *triangle != Triangle::Whole {
                    write!(f, " triangle={}", triangle.name())?;
                }
                write!(f, "{})", Admitted(*precision))
            }
            Tag::ScatterSum { index, axis, source, sum } => {
                write!(f, " scatter_sum(index=%{} axis=i{axis} source=%{} sum=%{})", index.0, source.0, sum.0)
            }
        }
    }
}

/// A precision below the highest, with its name before it.
struct Admitted(MatmulPrecision);

impl fmt::Display for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == MatmulPrecision::Highest { Ok(()) } else { write!(f, " precision={}", self.0.name()) }
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = if self.fold { "sum over rows of " } else { "" };
        write!(f, "b{}[{}] = {sum}%{}", self.buffer.0, self.index, self.value.0)?;
        self.first.as_ref().map_or(Ok(()), |n| write!(f, " in the first {n} columns"))
    }
}

impl fmt::Display for Instr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Instr::Const(n) => write!(f, "const {n}"),
            Instr::Index(e) => write!(f, "index {e}"),
            Instr::Load { buffer, index, mask } => {
                write!(f, "load b{}[{index}]", buffer.0)?;
                mask.map_or(Ok(()), |m| write!(f, " if %{}", m.0))
            }
            Instr::Call(g, args) => {
                let args: Vec<String> = args.iter().map(|v| format!("%{}", v.0)).collect();
                write!(f, "{} {}", g.name(), args.join(", "))
            }
            Instr::Cast(v) => write!(f, "cast %{}", v.0),
            Instr::Bitcast(v) => write!(f, "bitcast %{}", v.0),
            Instr::Bound { index, size, mask, code } => {
                write!(f, "bound %{} < {size} code {code}", index.0)?;
                mask.map_or(Ok(()), |m| write!(f, " if %{}", m.0))
            }
            Instr::Reduce(c, v) => write!(f, "reduce {c:?} %{}", v.0),
            Instr::Contract { a, b, over } => write!(f, "contract %{}, %{} over {over}", a.0, b.0),
            Instr::Scan(c, v) => write!(f, "scan {c:?} %{}", v.0),
            Instr::Sort { key, descending } => write!(f, "sort {} %{}", if *descending { "descending" } else { "ascending" }, key.0),
            Instr::Proj(v, k) => write!(f, "result {k} of %{}", v.0),
        }
    }
}

impl fmt::Display for Number {
    /// Floats have a point or an exponent; NaN of other bits than ours is written with them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Number::Int(n) => write!(f, "{n}"),
            Number::Float(bits) if f64::from_bits(bits).is_nan() && bits != f64::NAN.to_bits() => write!(f, "NaN:{bits:x}"),
            Number::Float(bits) => write!(f, "{:?}", f64::from_bits(bits)),
        }
    }
}
