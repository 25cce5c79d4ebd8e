//! Printing of nests, for dumps and expectations.

use super::{Instr, Nest, Number, Tag};
use std::fmt;

impl fmt::Display for Nest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes = |dims: &[crate::types::Dim]| dims.iter().map(|d| d.to_string()).collect::<Vec<_>>().join(", ");
        write!(f, "nest {} rows[{}] cols[{}]", self.label, sizes(&self.rows), sizes(&self.cols))?;
        match self.tag {
            Tag::Loop => {}
            Tag::Segments { start, end } => write!(f, " segments(start=%{} end=%{})", start.0, end.0)?,
            Tag::Matmul { a, b, dot, batch } => write!(f, " matmul(a=%{} b=%{} dot=%{} batch={batch})", a.0, b.0, dot.0)?,
            Tag::ScatterSum { index, axis, source, sum } => {
                write!(f, " scatter_sum(index=%{} axis=i{axis} source=%{} sum=%{})", index.0, source.0, sum.0)?
            }
        }
        writeln!(f, " {{")?;
        for (i, stmt) in self.body.iter().enumerate() {
            writeln!(f, "  %{i}: {} = {}", self.dtype(super::Val(i as u32)), stmt.instr)?;
        }
        for w in &self.writes {
            let sum = if w.fold { "sum over rows of " } else { "" };
            let first = w.first.as_ref().map(|n| format!(" in the first {n} columns")).unwrap_or_default();
            writeln!(f, "  b{}[{}] = {sum}%{}{first}", w.buffer.0, w.index, w.value.0)?;
        }
        write!(f, "}}")
    }
}

impl fmt::Display for Instr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Instr::Const(Number::Float(bits)) => write!(f, "const {:?}", f64::from_bits(*bits)),
            Instr::Const(Number::Int(n)) => write!(f, "const {n}"),
            Instr::Index(e) => write!(f, "index {e}"),
            Instr::Load { buffer, index, mask: None } => write!(f, "load b{}[{index}]", buffer.0),
            Instr::Load { buffer, index, mask: Some(m) } => write!(f, "load b{}[{index}] if %{}", buffer.0, m.0),
            Instr::Call(g, args) => {
                let args: Vec<String> = args.iter().map(|v| format!("%{}", v.0)).collect();
                write!(f, "{} {}", g.name(), args.join(", "))
            }
            Instr::Cast(v) => write!(f, "cast %{}", v.0),
            Instr::Bound { index, size, mask, code } => {
                write!(f, "bound %{} < {size} code {code}", index.0)?;
                mask.map_or(Ok(()), |m| write!(f, " if %{}", m.0))
            }
            Instr::Reduce(c, v) => write!(f, "reduce {c:?} %{}", v.0),
            Instr::Scan(c, v) => write!(f, "scan {c:?} %{}", v.0),
            Instr::Sort { key, descending } => write!(f, "sort {} %{}", if *descending { "descending" } else { "ascending" }, key.0),
            Instr::Proj(v, k) => write!(f, "result {k} of %{}", v.0),
        }
    }
}
