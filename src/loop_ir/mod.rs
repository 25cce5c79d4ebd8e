//! Kernel IR: explicit buffers, iteration domains, index maps and scalar bodies.
//!
//! * Comes in: nests built by op lowering; merged by `schedule`.
//! * Goes out: [`Nest`], executed by `interp` and spelled in WGSL by `codegen`. The unfused nest of one node and a fused
//!   kernel of fifty are the same type.
//! * Semantics: a nest iterates over rows x columns. A value of the body is *row-level* when it depends on no column axis,
//!   else *element-level*. [`Instr::Reduce`] turns an element-level value into a row-level one by combining over all
//!   columns; [`Instr::Scan`] and [`Instr::Sort`] work along the flat column index. Writes happen after all reads of the
//!   same point; a row-level write happens once per row, an element-level write once per element. An empty column domain
//!   (no column axes) has one column. A nest may have *inner* axes, numbered behind the columns: what depends on one is seen by
//!   [`Instr::Contract`] only, which sums a product over it and gives a value of the element.
//! * Invariants ([`verify`]): SSA order; dtypes agree; axes are numbered rows first and carry their sizes; every element of
//!   a written buffer is written exactly once by the nests that write it; operands of a tag are what executors take them for.
//! * Text: what [`print()`] and `Display` write, [`parse`] reads, so that tests and reproducers are files.
//! * A [`Tag`] never changes meaning: it says that the body has a shape for which a faster execution exists.
//! * Three doors: a body is made by [`BodyBuilder`] only, a body or a part of one is copied by [`Rebase`] only, and what can be read
//!   off a nest is asked in [`facts`], once for all executors.
//! * Must not know: graphs, ops, devices.
//! * Add here: an instruction is a variant with its row in `verify`, `text`, `interp` and `codegen`; a combiner is a variant with
//!   its row in `combiner.rs`, and a helper in `shaders/helpers.wgsl` where its state is more than one number; a question about nests
//!   that two rooms ask goes to `facts`.

mod attention;
mod build;
mod combiner;
mod factor;
pub mod facts;
mod index;
pub mod naive;
mod parse;
mod rebase;
mod text;
mod verify;

pub use attention::{Attention, Contraction, Online, attention};
pub use build::{BodyBuilder, Element};
pub use combiner::{Combiner, CombinerRow, Identity, Merge, Part};
pub use factor::factor_domain;
pub use index::{Axis, IndexExpr, Term, axes, flatten, unflatten};
pub use parse::{ParseError, parse};
pub use rebase::{Rebase, eliminate_dead};
pub use text::print;
pub use verify::verify;

use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, MatmulPrecision, Provenance, Sizes};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::borrow::Cow;

/// A logical buffer: one value of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BufferId(pub u32);

/// Buffers of a nest: few, and in place.
pub type Buffers = SmallVec<[BufferId; 4]>;

/// Which graph a command belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Forward, or the whole of inference.
    Forward,
    /// Backward.
    Backward,
    /// Optimizer.
    Update,
}

/// What a buffer holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Buffer {
    /// Name for people: the input's or the defining op's.
    pub name: String,
    /// Element type and logical shape; elements are stored row-major.
    pub ty: crate::types::TensorType,
}

/// An SSA value of a nest's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Val(pub u32);

/// A number with bitwise equality, so that NaN and both zeros keep their identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Number {
    /// Bits of an f64 that holds the constant exactly.
    Float(u64),
    /// An integer or bool.
    Int(i64),
}

impl Number {
    /// The number as a constant of `dtype`, rounded or wrapped to it.
    pub fn new(dtype: DType, x: f64) -> Number {
        if dtype.is_float() { Number::Float(dtype.round(x).to_bits()) } else { Number::Int(dtype.wrap(x as i64)) }
    }

    /// As f64.
    pub fn as_f64(self) -> f64 {
        match self {
            Number::Float(bits) => f64::from_bits(bits),
            Number::Int(n) => n as f64,
        }
    }

    /// As i64.
    pub fn as_i64(self) -> i64 {
        match self {
            Number::Float(bits) => f64::from_bits(bits) as i64,
            Number::Int(n) => n,
        }
    }
}

/// One operation of a body.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Instr {
    /// A constant.
    Const(Number),
    /// The value of an index expression, as a number of the statement's dtype.
    Index(IndexExpr),
    /// `buffer[index]`; where `mask` is false nothing is read and the value is zero.
    Load {
        /// Buffer read.
        buffer: BufferId,
        /// Flat element index.
        index: IndexExpr,
        /// Bool value that guards the read.
        mask: Option<Val>,
    },
    /// A scalar function; operands share a dtype (but for the condition of `where`).
    Call(ScalarFn, Vec<Val>),
    /// Conversion to the statement's dtype: floats to integers truncate and saturate, anything to bool is `!= 0`.
    Cast(Val),
    /// The bits of a value as those of the statement's dtype, which is as wide: a float as a signed integer, or back.
    Bitcast(Val),
    /// An integer clamped to `0..size`; when it was outside where `mask` holds, the status word is set to `code`. That is an effect:
    /// every executor checks every point of the domain, whether anything uses the result or not.
    Bound {
        /// The index.
        index: Val,
        /// Exclusive bound.
        size: Dim,
        /// Bool value that guards the check.
        mask: Option<Val>,
        /// What the status word says: 1 + number of the message in the program's table.
        code: u32,
    },
    /// Combines an element-level value over all columns. Result 0; further results through `Proj`.
    Reduce(Combiner, Val),
    /// The sum of `a * b` over an inner axis, for each element.
    Contract {
        /// Left factor.
        a: Val,
        /// Right factor.
        b: Val,
        /// Number of the inner axis, among [`Nest::inner`].
        over: u32,
    },
    /// Inclusive prefix combination along the flat column index (single-result combiners).
    Scan(Combiner, Val),
    /// Stable sort along the flat column index, ascending or descending, NaN last (first when descending). Result 0 is the
    /// value that ends up in this column; `Proj` 1 is the column it came from, i32.
    Sort {
        /// Sorted value.
        key: Val,
        /// Largest first.
        descending: bool,
    },
    /// Result `1..` of a statement with several results.
    Proj(Val, u32),
}

/// An operation with its result dtype.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stmt {
    /// The operation.
    pub instr: Instr,
    /// Dtype of its (first) result. f16 and bf16 are computed in f32 and rounded where they are stored or cast.
    pub dtype: DType,
}

/// A store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Write {
    /// Buffer written.
    pub buffer: BufferId,
    /// Flat element index.
    pub index: IndexExpr,
    /// The value.
    pub value: Val,
    /// Stores the sum over the innermost row axes, those that the index does not use, of an element-level f32. A kernel that works
    /// along its rows so sums along its columns too, chunk by chunk of rows, and reads the data once.
    pub fold: bool,
    /// Stores only the first so many columns, in the order of the flat column index: the head of a sorted row. Needs a sort.
    pub first: Option<Dim>,
}

impl Write {
    /// A store of each value.
    pub fn new(buffer: BufferId, index: IndexExpr, value: Val) -> Write {
        Write { buffer, index, value, fold: false, first: None }
    }

    /// A store of the first columns of a sorted row.
    pub fn of_first(self, columns: &Dim) -> Write {
        Write { first: Some(columns.clone()), ..self }
    }
}

/// A known shape of the body, for which executors have something faster than running it as it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Tag {
    /// Nothing special.
    #[default]
    Loop,
    /// `dot = sum over the columns (k) of a * b`; rows are batch axes, then those of m, then those of n, one at least of each; `a` does
    /// not depend on n, `b` not on m. Statements after `dot` that depend on it are the epilogue.
    Matmul {
        /// Left operand, element-level.
        a: Val,
        /// Right operand, element-level.
        b: Val,
        /// The reduction.
        dot: Val,
        /// Number of batch axes.
        batch: u32,
        /// Number of axes of m.
        m: u32,
        /// What need not be computed.
        triangle: Triangle,
        /// How exactly it is to be computed at least.
        precision: MatmulPrecision,
    },
    /// `sum = sum over columns of where(index == row axis, source, 0)`; `index` and `source` do not depend on that axis.
    ScatterSum {
        /// Integer value compared.
        index: Val,
        /// Row axis it is compared with.
        axis: u32,
        /// What is summed.
        source: Val,
        /// The reduction.
        sum: Val,
    },
    /// Every reduction takes zeros outside the columns `start..end`, two integers known for the whole row.
    Segments {
        /// First column that counts.
        start: Val,
        /// The column behind the last that counts.
        end: Val,
    },
    /// Scores of rows against columns, and a sum of what columns hold, weighted by them ([`attention()`]); rows are batch axes, then x,
    /// then features.
    Attention {
        /// Number of batch axes; rows are `batch + 2` axes.
        batch: u32,
        /// Columns with weights that are not zero.
        seen: Seen,
        /// How exactly products of f32 are to be computed at least.
        precision: MatmulPrecision,
    },
    /// Stands for control flow, whose blocks run in its place: what it reads and writes, and whether it checks, is theirs. Its body means
    /// nothing.
    Control {
        /// Which control flow of the program.
        number: u32,
    },
}

/// Columns that a row of x gives weight to. The others need not be looked at: where what they hold is not finite, executors differ,
/// as zero times infinity is NaN for those that look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// All of them.
    #[default]
    All,
    /// Those up to the row's number.
    UpToRow,
    /// Those from the row's number on.
    FromRow,
}

impl Seen {
    /// Every kind with its name in text.
    pub const NAMES: [(Seen, &'static str); 3] = [(Seen::All, "all"), (Seen::UpToRow, "up_to_row"), (Seen::FromRow, "from_row")];

    /// Its name in text.
    pub fn name(self) -> &'static str {
        Seen::NAMES.iter().find(|(s, _)| *s == self).expect("every kind has a name").1
    }

    /// Which of `columns` any of the rows `first..end` sees.
    pub fn range(self, first: i64, end: i64, columns: i64) -> std::ops::Range<i64> {
        match self {
            Seen::All => 0..columns,
            Seen::UpToRow => 0..end.min(columns),
            Seen::FromRow => first.min(columns)..columns,
        }
    }
}

/// What of a product need not be computed: by the numbers of a row `m`, a column `n` and a term `k` in their matrices. Executors may leave it out or
/// not, which differs for numbers that are not finite only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Triangle {
    /// Everything is needed.
    #[default]
    Whole,
    /// Sums with `n > m`: a zero is selected for them.
    Results,
    /// Terms with `k > m`: the left operand is zero there.
    TermsAfter,
    /// Terms with `k < m`, likewise.
    TermsBefore,
}

impl Triangle {
    /// Every kind with its name in text.
    pub const NAMES: [(Triangle, &'static str); 4] =
        [(Triangle::Whole, "whole"), (Triangle::Results, "results"), (Triangle::TermsAfter, "terms_after"), (Triangle::TermsBefore, "terms_before")];

    /// Its name in text.
    pub fn name(self) -> &'static str {
        Triangle::NAMES.iter().find(|(t, _)| *t == self).expect("every kind has a name").1
    }
}

/// A loop nest over rows x columns with an SSA body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Nest {
    /// Names of the ops in it, for people.
    pub label: Cow<'static, str>,
    /// Sizes of the row axes, numbered from 0.
    pub rows: Sizes,
    /// Sizes of the column axes, numbered after the rows.
    pub cols: Sizes,
    /// Sizes of the inner axes, numbered after the columns.
    pub inner: Sizes,
    /// SSA body.
    pub body: Vec<Stmt>,
    /// Stores.
    pub writes: Vec<Write>,
    /// Known shape.
    pub tag: Tag,
    /// Where it came from; not part of kernel identity.
    pub provenance: Provenance,
}

impl Nest {
    /// The statement that defines a value.
    pub fn stmt(&self, v: Val) -> &Stmt {
        &self.body[v.0 as usize]
    }

    /// The dtype of a value.
    pub fn dtype(&self, v: Val) -> DType {
        result_dtype(&self.body, v)
    }

    /// Number of rows.
    pub fn row_count(&self) -> Dim {
        Dim::product(&self.rows)
    }

    /// Number of columns; one when there are no column axes.
    pub fn col_count(&self) -> Dim {
        Dim::product(&self.cols)
    }

    /// Row axes as coordinates.
    pub fn row_axes(&self) -> Vec<IndexExpr> {
        axes(&self.rows, 0)
    }

    /// Column axes as coordinates.
    pub fn col_axes(&self) -> Vec<IndexExpr> {
        axes(&self.cols, self.rows.len() as u32)
    }

    /// Sizes of rows and columns.
    pub fn sizes(&self) -> Vec<Dim> {
        self.rows.iter().chain(&self.cols).cloned().collect()
    }

    /// All axes as coordinates, inner ones included.
    pub fn all_axes(&self) -> Vec<IndexExpr> {
        axes(&[&self.sizes()[..], &self.inner].concat(), 0)
    }

    /// Buffers loaded, without repeats, in order of first use.
    pub fn reads(&self) -> Buffers {
        let mut out = Buffers::new();
        for stmt in &self.body {
            if let Instr::Load { buffer, .. } = &stmt.instr
                && !out.contains(buffer)
            {
                out.push(*buffer);
            }
        }
        out
    }

    /// Buffers in order of first occurrence, reads before writes.
    pub fn buffers(&self) -> Buffers {
        let mut out = self.reads();
        for w in &self.writes {
            if !out.contains(&w.buffer) {
                out.push(w.buffer);
            }
        }
        out
    }

    /// The same nest over other buffers.
    pub fn map_buffers(&self, to: &dyn Fn(BufferId) -> BufferId) -> Nest {
        let mut out = self.clone();
        for stmt in &mut out.body {
            if let Instr::Load { buffer, .. } = &mut stmt.instr {
                *buffer = to(*buffer);
            }
        }
        out.writes.iter_mut().for_each(|w| w.buffer = to(w.buffer));
        out
    }
}

/// The dtype of a value of a body.
fn result_dtype(body: &[Stmt], v: Val) -> DType {
    let stmt = &body[v.0 as usize];
    let Instr::Proj(of, k) = &stmt.instr else { return stmt.dtype };
    match &body[of.0 as usize] {
        Stmt { instr: Instr::Reduce(c, _), dtype } => c.result_dtype(*k as usize, *dtype),
        _ => DType::I32,
    }
}

impl Tag {
    /// The values that it names.
    pub fn values(&self) -> Vec<Val> {
        match *self {
            Tag::Loop | Tag::Attention { .. } | Tag::Control { .. } => vec![],
            Tag::Matmul { a, b, dot, .. } => vec![a, b, dot],
            Tag::ScatterSum { index, source, sum, .. } => vec![index, source, sum],
            Tag::Segments { start, end } => vec![start, end],
        }
    }

    /// The same about other values.
    pub fn map(self, at: impl Fn(Val) -> Val) -> Tag {
        match self {
            Tag::Loop | Tag::Attention { .. } | Tag::Control { .. } => self,
            Tag::Matmul { a, b, dot, batch, m, triangle, precision } => {
                Tag::Matmul { a: at(a), b: at(b), dot: at(dot), batch, m, triangle, precision }
            }
            Tag::ScatterSum { index, axis, source, sum } => Tag::ScatterSum { index: at(index), axis, source: at(source), sum: at(sum) },
            Tag::Segments { start, end } => Tag::Segments { start: at(start), end: at(end) },
        }
    }
}

impl Instr {
    /// The index expression that it evaluates.
    pub fn index(&self) -> Option<&IndexExpr> {
        match self {
            Instr::Index(e) | Instr::Load { index: e, .. } => Some(e),
            _ => None,
        }
    }

    /// SSA values it reads, index values included.
    pub fn operands(&self) -> Vec<Val> {
        let index = |e: &IndexExpr| e.values().into_iter().map(Val).collect::<Vec<_>>();
        match self {
            Instr::Const(_) => vec![],
            Instr::Index(e) => index(e),
            Instr::Load { index: e, mask, .. } => index(e).into_iter().chain(*mask).collect(),
            Instr::Call(_, args) => args.clone(),
            Instr::Bound { index: v, mask, .. } => std::iter::once(*v).chain(*mask).collect(),
            Instr::Cast(v) | Instr::Bitcast(v) | Instr::Reduce(_, v) | Instr::Scan(_, v) | Instr::Proj(v, _) => vec![*v],
            Instr::Contract { a, b, .. } => vec![*a, *b],
            Instr::Sort { key, .. } => vec![*key],
        }
    }

    /// The same operation with every value renamed and every index expression rewritten.
    pub fn map(&self, value: &dyn Fn(Val) -> Val, index: &dyn Fn(&IndexExpr) -> IndexExpr) -> Instr {
        match self {
            Instr::Const(n) => Instr::Const(*n),
            Instr::Index(e) => Instr::Index(index(e)),
            Instr::Load { buffer, index: e, mask } => Instr::Load { buffer: *buffer, index: index(e), mask: mask.map(value) },
            Instr::Call(f, args) => Instr::Call(*f, args.iter().map(|&v| value(v)).collect()),
            Instr::Cast(v) => Instr::Cast(value(*v)),
            Instr::Bitcast(v) => Instr::Bitcast(value(*v)),
            Instr::Bound { index: v, size, mask, code } => Instr::Bound { index: value(*v), size: size.clone(), mask: mask.map(value), code: *code },
            Instr::Reduce(c, v) => Instr::Reduce(*c, value(*v)),
            Instr::Contract { a, b, over } => Instr::Contract { a: value(*a), b: value(*b), over: *over },
            Instr::Scan(c, v) => Instr::Scan(*c, value(*v)),
            Instr::Sort { key, descending } => Instr::Sort { key: value(*key), descending: *descending },
            Instr::Proj(v, k) => Instr::Proj(value(*v), *k),
        }
    }
}
