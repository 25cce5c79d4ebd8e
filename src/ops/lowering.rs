//! What an op's lowering sees: operand views and result buffers.

use super::{Op, OpDef};
use crate::loop_ir::{BodyBuilder, Buffer, BufferId, Element, IndexExpr, Nest, Val, axes, flatten};
use crate::types::{Dim, Provenance, Sizes, TensorType};
use std::borrow::Cow;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

/// An operand: a buffer, or a view of another operand. Views never copy, and copies share it.
#[derive(Clone, Debug)]
pub struct OperandView(Rc<View>);

/// What an operand is.
#[derive(Clone, Debug)]
pub struct View {
    /// The buffer read.
    pub buffer: BufferId,
    /// Type of the operand as the op sees it.
    pub ty: TensorType,
    /// The view and what it is of; nothing for a whole buffer.
    of: Option<(Arc<Op>, OperandView)>,
}

impl Deref for OperandView {
    type Target = View;

    fn deref(&self) -> &View {
        &self.0
    }
}

impl OperandView {
    /// A whole buffer.
    pub fn of(buffer: BufferId, ty: TensorType) -> OperandView {
        OperandView(Rc::new(View { buffer, ty, of: None }))
    }

    /// This operand seen through one more view.
    pub fn through(&self, op: &Arc<Op>, result: &TensorType) -> OperandView {
        OperandView(Rc::new(View { buffer: self.buffer, ty: result.clone(), of: Some((op.clone(), self.clone())) }))
    }

    /// Whether it is the buffer as it stands.
    pub fn is_whole(&self) -> bool {
        self.of.is_none()
    }

    /// The element at `coords`.
    pub fn at(&self, coords: &[IndexExpr]) -> Element {
        Element { buffer: self.buffer, index: self.index(coords), dtype: self.ty.dtype }
    }

    /// Flat index into the buffer of the element at `coords`.
    fn index(&self, coords: &[IndexExpr]) -> IndexExpr {
        let (mut view, mut at) = (self, Cow::Borrowed(coords));
        while let Some((op, operand)) = &view.of {
            at = op.view(&operand.ty.shape, &view.ty.shape, &at).expect("views are of views").into();
            view = operand;
        }
        flatten(&at, &view.ty.shape.0)
    }
}

/// Where an op's lowering appends its nests.
pub struct NestBuilder<'a> {
    /// Operands, in the op's order.
    pub operands: Vec<OperandView>,
    /// Buffers of the results, with their types.
    pub results: Vec<(BufferId, TensorType)>,
    /// Name for the nests.
    pub label: Cow<'static, str>,
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
        build: impl FnOnce(&mut BodyBuilder, &[IndexExpr], &[IndexExpr]) -> Result<(), String>,
    ) -> Result<(), String> {
        self.nest_of(rows.into(), cols.into(), build)
    }

    fn nest_of(
        &mut self,
        rows: Sizes,
        cols: Sizes,
        build: impl FnOnce(&mut BodyBuilder, &[IndexExpr], &[IndexExpr]) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut body = BodyBuilder::default();
        build(&mut body, &axes(&rows, 0), &axes(&cols, rows.len() as u32))?;
        self.nests.push(body.nest(self.label.clone(), rows, cols, self.provenance.clone()));
        Ok(())
    }

    /// Appends a nest over the elements of result `k`, which `value` computes from the coordinates.
    pub fn pointwise(&mut self, k: usize, value: impl FnOnce(&mut BodyBuilder, &[IndexExpr]) -> Result<Val, String>) -> Result<(), String> {
        let (buffer, ty) = self.results[k].clone();
        self.nest_of(ty.shape.0.clone(), Sizes::default(), |b, at, _| {
            let v = value(b, at)?;
            b.write(buffer, flatten(at, &ty.shape.0), v);
            Ok(())
        })
    }
}
