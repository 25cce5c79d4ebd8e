//! What an op's lowering sees: operand views, result buffers and a body builder.

use super::{Op, OpDef};
use crate::loop_ir::{Buffer, BufferId, Combiner, IndexExpr, Instr, Nest, Number, Stmt, Tag, Val, Write, axes, flatten};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, Provenance, Shape, TensorType};
use rustc_hash::FxHashMap;

/// An operand: a buffer seen through a chain of views. Views never copy.
#[derive(Clone, Debug)]
pub struct OperandView {
    /// The buffer read.
    pub buffer: BufferId,
    /// Shape of the buffer.
    pub base: Shape,
    /// Type of the operand as the op sees it.
    pub ty: TensorType,
    /// Views from the buffer outwards: op, operand shape, result shape.
    pub steps: Vec<(Op, Shape, Shape)>,
}

impl OperandView {
    /// A whole buffer.
    pub fn of(buffer: BufferId, ty: TensorType) -> OperandView {
        OperandView { buffer, base: ty.shape.clone(), ty, steps: vec![] }
    }

    /// This operand seen through one more view.
    pub fn through(&self, op: &Op, result: &TensorType) -> OperandView {
        let mut out = self.clone();
        out.steps.push((op.clone(), self.ty.shape.clone(), result.shape.clone()));
        out.ty = result.clone();
        out
    }

    /// Flat index into the buffer of the element at `coords`.
    pub fn index(&self, coords: &[IndexExpr]) -> IndexExpr {
        let mut at = coords.to_vec();
        for (op, operand, result) in self.steps.iter().rev() {
            at = op.view(operand, result, &at).expect("steps are views");
        }
        flatten(&at, &self.base.0)
    }
}

/// Where an op's lowering appends its nests.
pub struct NestBuilder<'a> {
    /// Operands, in the op's order.
    pub operands: Vec<OperandView>,
    /// Buffers of the results, with their types.
    pub results: Vec<(BufferId, TensorType)>,
    /// Name for the nests.
    pub label: String,
    /// Where the node came from.
    pub provenance: Provenance,
    /// All buffers; lowering may add scratch.
    pub buffers: &'a mut Vec<Buffer>,
    /// All nests so far.
    pub nests: &'a mut Vec<Nest>,
    /// Messages of the status word; `Instr::Bound` refers to them as 1 + position.
    pub checks: &'a mut Vec<String>,
}

impl NestBuilder<'_> {
    /// Operand `k`.
    pub fn operand(&self, k: usize) -> OperandView {
        self.operands[k].clone()
    }

    /// Type of result `k`.
    pub fn result(&self, k: usize) -> TensorType {
        self.results[k].1.clone()
    }

    /// Adds a scratch buffer, readable like an operand.
    pub fn scratch(&mut self, name: &str, ty: TensorType) -> OperandView {
        let id = BufferId(self.buffers.len() as u32);
        self.buffers.push(Buffer { name: format!("{}.{name}", self.label), ty: ty.clone() });
        OperandView::of(id, ty)
    }

    /// Registers a message for the status word and gives its code. The user's line is appended.
    pub fn check(&mut self, message: impl Into<String>) -> u32 {
        let line = self.provenance.line().map(|l| format!(" (at {l})")).unwrap_or_default();
        self.checks.push(format!("{}{line}", message.into()));
        self.checks.len() as u32
    }

    /// Appends a nest over `rows` x `cols`. `build` gets the axes as coordinates.
    pub fn nest(
        &mut self,
        rows: &[Dim],
        cols: &[Dim],
        build: impl FnOnce(&mut Body, &[IndexExpr], &[IndexExpr]) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut body = Body { stmts: vec![], known: FxHashMap::default(), writes: vec![], tag: Tag::Loop };
        build(&mut body, &axes(rows, 0), &axes(cols, rows.len() as u32))?;
        self.nests.push(Nest {
            label: self.label.clone(),
            rows: rows.to_vec(),
            cols: cols.to_vec(),
            body: body.stmts,
            writes: body.writes,
            tag: body.tag,
            provenance: self.provenance.clone(),
        });
        Ok(())
    }

    /// Appends a nest over the elements of result `k`, which `value` computes from the coordinates.
    pub fn pointwise(&mut self, k: usize, value: impl FnOnce(&mut Body, &[IndexExpr]) -> Result<Val, String>) -> Result<(), String> {
        let (buffer, ty) = self.results[k].clone();
        self.nest(&ty.shape.0, &[], |b, at, _| {
            let v = value(b, at)?;
            b.write(buffer, flatten(at, &ty.shape.0), v);
            Ok(())
        })
    }
}

/// A body under construction. Equal statements are built once.
pub struct Body {
    stmts: Vec<Stmt>,
    known: FxHashMap<Stmt, Val>,
    writes: Vec<Write>,
    /// Known shape; `Tag::Loop` unless set.
    pub tag: Tag,
}

impl Body {
    /// Dtype of a value.
    pub fn dtype(&self, v: Val) -> DType {
        match &self.stmts[v.0 as usize].instr {
            Instr::Proj(t, k) => match &self.stmts[t.0 as usize].instr {
                Instr::Reduce(c, _) => c.result_dtype(*k as usize, self.stmts[t.0 as usize].dtype),
                _ => DType::I32,
            },
            _ => self.stmts[v.0 as usize].dtype,
        }
    }

    /// A constant.
    pub fn constant(&mut self, dtype: DType, x: f64) -> Val {
        self.push(Instr::Const(Number::new(dtype, x)), dtype)
    }

    /// The value of an index expression.
    pub fn index(&mut self, e: &IndexExpr, dtype: DType) -> Val {
        self.push(Instr::Index(e.clone()), dtype)
    }

    /// The operand's element at `coords`.
    pub fn load(&mut self, operand: &OperandView, coords: &[IndexExpr]) -> Val {
        self.push(Instr::Load { buffer: operand.buffer, index: operand.index(coords), mask: None }, operand.ty.dtype)
    }

    /// The operand's element at `coords` where `mask` holds, else zero, without reading.
    pub fn load_if(&mut self, operand: &OperandView, coords: &[IndexExpr], mask: Val) -> Val {
        self.push(Instr::Load { buffer: operand.buffer, index: operand.index(coords), mask: Some(mask) }, operand.ty.dtype)
    }

    /// A scalar function.
    pub fn call(&mut self, f: ScalarFn, args: &[Val]) -> Val {
        let data = if f == ScalarFn::Where { args[1] } else { args[0] };
        let dtype = f.result(self.dtype(data));
        self.push(Instr::Call(f, args.to_vec()), dtype)
    }

    /// A conversion; nothing when the dtype is right already.
    pub fn cast(&mut self, v: Val, dtype: DType) -> Val {
        if self.dtype(v) == dtype { v } else { self.push(Instr::Cast(v), dtype) }
    }

    /// An integer clamped to `0..size` that sets the status word when it was outside; as an index coordinate.
    pub fn bound(&mut self, index: Val, size: &Dim, code: u32) -> IndexExpr {
        self.bound_if(index, size, None, code)
    }

    /// The same, but checked only where `mask` holds.
    pub fn bound_if(&mut self, index: Val, size: &Dim, mask: Option<Val>, code: u32) -> IndexExpr {
        let dtype = self.dtype(index);
        let v = self.push(Instr::Bound { index, size: size.clone(), mask, code }, dtype);
        IndexExpr::value(v.0, size)
    }

    /// A reduction over all columns; further results through [`Body::proj`].
    pub fn reduce(&mut self, combiner: Combiner, v: Val) -> Val {
        let dtype = self.dtype(v);
        self.push(Instr::Reduce(combiner, v), dtype)
    }

    /// An inclusive scan along the columns.
    pub fn scan(&mut self, combiner: Combiner, v: Val) -> Val {
        let dtype = self.dtype(v);
        self.push(Instr::Scan(combiner, v), dtype)
    }

    /// A stable sort along the columns: the value, then through [`Body::proj`] 1 its source column.
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

    fn push(&mut self, instr: Instr, dtype: DType) -> Val {
        let stmt = Stmt { instr, dtype };
        if let Some(&v) = self.known.get(&stmt) {
            return v;
        }
        let v = Val(self.stmts.len() as u32);
        self.known.insert(stmt.clone(), v);
        self.stmts.push(stmt);
        v
    }
}
