//! The one way to make the body of a nest. Equal statements are built once, so that what two parts of a kernel have in common is
//! computed once, whoever puts them together.

use super::{BufferId, Combiner, IndexExpr, Instr, Nest, Number, Stmt, Tag, Val, Write, result_dtype};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, Provenance, Sizes};
use rustc_hash::{FxHashMap, FxHasher};
use std::borrow::Cow;
use std::hash::{Hash, Hasher};

/// An element of a buffer.
#[derive(Clone, Debug)]
pub struct Element {
    /// The buffer.
    pub buffer: BufferId,
    /// Flat element index.
    pub index: IndexExpr,
    /// The buffer's element type.
    pub dtype: DType,
}

/// Statements that are compared one by one.
const FEW: usize = 16;

fn hash(stmt: &Stmt) -> u64 {
    let mut hasher = FxHasher::default();
    stmt.hash(&mut hasher);
    hasher.finish()
}

/// A body under construction, and what it stores.
#[derive(Default)]
pub struct BodyBuilder {
    stmts: Vec<Stmt>,
    /// The newest statement of each hash, once there are more than a few; `older` has the one before it.
    known: FxHashMap<u64, Val>,
    older: Vec<Option<Val>>,
    /// Stores so far.
    pub writes: Vec<Write>,
    /// Known shape; `Tag::Loop` unless set.
    pub tag: Tag,
    /// Sizes of the nest's inner axes; none unless set.
    pub inner: Sizes,
}

impl BodyBuilder {
    /// An empty body with room for so many statements.
    pub fn with_capacity(statements: usize) -> BodyBuilder {
        BodyBuilder { stmts: Vec::with_capacity(statements), ..BodyBuilder::default() }
    }

    /// The body of a nest with what it stores, to be continued.
    pub fn of(nest: &Nest) -> BodyBuilder {
        let mut b = BodyBuilder::with_capacity(nest.body.len());
        nest.body.iter().for_each(|stmt| b.append(stmt.clone()));
        BodyBuilder { writes: nest.writes.clone(), tag: nest.tag, inner: nest.inner.clone(), ..b }
    }

    /// The nest over `rows` x `cols` with this body.
    pub fn nest(self, label: impl Into<Cow<'static, str>>, rows: impl Into<Sizes>, cols: impl Into<Sizes>, provenance: Provenance) -> Nest {
        let BodyBuilder { stmts: body, writes, tag, inner, .. } = self;
        Nest { label: label.into(), rows: rows.into(), cols: cols.into(), inner, body, writes, tag, provenance }
    }

    /// The nest with this body in the place of its own.
    pub fn replace(self, nest: &Nest) -> Nest {
        self.nest(nest.label.clone(), nest.rows.clone(), nest.cols.clone(), nest.provenance.clone())
    }

    /// Dtype of a value.
    pub fn dtype(&self, v: Val) -> DType {
        result_dtype(&self.stmts, v)
    }

    /// A statement; the one that is there already, where there is one.
    pub fn push(&mut self, instr: Instr, dtype: DType) -> Val {
        let stmt = Stmt { instr, dtype };
        self.find(&stmt).unwrap_or_else(|| {
            self.append(stmt);
            Val(self.stmts.len() as u32 - 1)
        })
    }

    /// The first statement like that one. Most bodies are so short that a look at each is faster than a map.
    fn find(&self, stmt: &Stmt) -> Option<Val> {
        if self.stmts.len() <= FEW {
            return self.stmts.iter().position(|s| s == stmt).map(|at| Val(at as u32));
        }
        let newest = self.known.get(&hash(stmt)).copied();
        let alike = std::iter::successors(newest, |v| self.older[v.0 as usize]);
        alike.filter(|v| self.stmts[v.0 as usize] == *stmt).last()
    }

    /// Adds a statement, whether there is one like it or not.
    fn append(&mut self, stmt: Stmt) {
        self.stmts.push(stmt);
        if self.stmts.len() <= FEW {
            return;
        }
        for at in self.older.len()..self.stmts.len() {
            self.older.push(self.known.insert(hash(&self.stmts[at]), Val(at as u32)));
        }
    }

    /// A constant.
    pub fn constant(&mut self, dtype: DType, x: f64) -> Val {
        self.number(dtype, Number::new(dtype, x))
    }

    /// A constant of a number that the dtype has.
    pub fn number(&mut self, dtype: DType, n: Number) -> Val {
        self.push(Instr::Const(n), dtype)
    }

    /// The value of an index expression.
    pub fn index(&mut self, e: &IndexExpr, dtype: DType) -> Val {
        self.push(Instr::Index(e.clone()), dtype)
    }

    /// An element of a buffer.
    pub fn load(&mut self, from: Element) -> Val {
        self.load_if(from, None)
    }

    /// An element of a buffer where `mask` holds, else zero, without reading.
    pub fn load_if(&mut self, from: Element, mask: impl Into<Option<Val>>) -> Val {
        self.push(Instr::Load { buffer: from.buffer, index: from.index, mask: mask.into() }, from.dtype)
    }

    /// A scalar function.
    pub fn call(&mut self, f: ScalarFn, args: &[Val]) -> Val {
        let data = if f == ScalarFn::Where { args[1] } else { args[0] };
        let dtype = f.result(self.dtype(data));
        self.push(Instr::Call(f, args.to_vec()), dtype)
    }

    /// Where both conditions hold; a condition that is absent always holds.
    pub fn both(&mut self, a: Option<Val>, b: Option<Val>) -> Option<Val> {
        match (a, b) {
            (Some(a), Some(b)) => Some(self.call(ScalarFn::LogicalAnd, &[a, b])),
            (a, b) => a.or(b),
        }
    }

    /// The value where the condition holds, else that number.
    pub fn value_or(&mut self, condition: Option<Val>, v: Val, otherwise: Number) -> Val {
        let Some(condition) = condition else { return v };
        let otherwise = self.number(self.dtype(v), otherwise);
        self.call(ScalarFn::Where, &[condition, v, otherwise])
    }

    /// A conversion; nothing when the dtype is right already.
    pub fn cast(&mut self, v: Val, dtype: DType) -> Val {
        if self.dtype(v) == dtype { v } else { self.push(Instr::Cast(v), dtype) }
    }

    /// The bits of a value as those of another dtype of its size.
    pub fn bitcast(&mut self, v: Val, dtype: DType) -> Val {
        if self.dtype(v) == dtype { v } else { self.push(Instr::Bitcast(v), dtype) }
    }

    /// An integer clamped to `0..size` that sets the status word when it was outside where `mask` holds; as an index coordinate.
    pub fn bound(&mut self, index: Val, size: &Dim, mask: impl Into<Option<Val>>, code: u32) -> IndexExpr {
        let dtype = self.dtype(index);
        let v = self.push(Instr::Bound { index, size: size.clone(), mask: mask.into(), code }, dtype);
        IndexExpr::value(v.0, size)
    }

    /// A reduction over all columns; further results through [`BodyBuilder::proj`].
    pub fn reduce(&mut self, combiner: Combiner, v: Val) -> Val {
        let dtype = self.dtype(v);
        self.push(Instr::Reduce(combiner, v), dtype)
    }

    /// The sum of products over an inner axis.
    pub fn contract(&mut self, a: Val, b: Val, over: u32) -> Val {
        let dtype = self.dtype(a);
        self.push(Instr::Contract { a, b, over }, dtype)
    }

    /// An inclusive scan along the columns.
    pub fn scan(&mut self, combiner: Combiner, v: Val) -> Val {
        let dtype = self.dtype(v);
        self.push(Instr::Scan(combiner, v), dtype)
    }

    /// A stable sort along the columns: the value, then through [`BodyBuilder::proj`] 1 its source column.
    pub fn sort(&mut self, key: Val, descending: bool) -> Val {
        let dtype = self.dtype(key);
        self.push(Instr::Sort { key, descending }, dtype)
    }

    /// Result `k` of a statement with several.
    pub fn proj(&mut self, v: Val, k: u32) -> Val {
        if k == 0 {
            return v;
        }
        let dtype = match &self.stmts[v.0 as usize].instr {
            Instr::Reduce(c, _) => c.result_dtype(k as usize, self.dtype(v)),
            _ => DType::I32,
        };
        self.push(Instr::Proj(v, k), dtype)
    }

    /// Stores a value.
    pub fn write(&mut self, buffer: BufferId, index: IndexExpr, value: Val) {
        self.writes.push(Write::new(buffer, index, value));
    }

    /// Stores the first columns of a sorted row.
    pub fn write_first(&mut self, buffer: BufferId, index: IndexExpr, value: Val, columns: &Dim) {
        self.writes.push(Write::new(buffer, index, value).of_first(columns));
    }
}
