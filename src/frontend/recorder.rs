//! The program that a trace records: one builder, mistakes, and what is known of the state.

use super::Initializer;
use super::aten::args::Cx;
use super::tensor::Tensor;
use crate::error::TraceFault;
use crate::graph::{Builder, InputRole, OutputRole, Value};
use crate::types::{DType, Location, Provenance, TensorType};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// The program under construction, shared by its handles.
pub(super) struct Recorder {
    pub(super) builder: RefCell<Builder>,
    pub(super) faults: RefCell<Vec<TraceFault>>,
    pub(super) initializers: RefCell<Vec<(String, Initializer)>>,
    /// Patterns of parameters that are not trained, with the user's lines.
    pub(super) frozen: RefCell<Vec<(String, Location)>>,
    pub(super) path: RefCell<String>,
    pub(super) streams: Cell<u32>,
    /// Of the functions that are being mapped, outermost first: the number of the example.
    pub(super) examples: RefCell<Vec<Value>>,
    /// How many bodies of loops and branches are being recorded, one in the other.
    pub(super) bodies: Cell<u32>,
    pub(super) finished: Cell<bool>,
    pub(super) training: bool,
    pub(super) training_only: RefCell<Vec<TraceFault>>,
}

impl Recorder {
    /// A program without anything.
    pub(super) fn new(name: &str, training: bool) -> Recorder {
        Recorder {
            builder: RefCell::new(Builder::assuming(name)),
            faults: RefCell::default(),
            initializers: RefCell::default(),
            frozen: RefCell::default(),
            path: RefCell::default(),
            streams: Cell::new(0),
            examples: RefCell::default(),
            bodies: Cell::new(0),
            finished: Cell::new(false),
            training,
            training_only: RefCell::default(),
        }
    }

    /// A finished program with one mistake at the caller's line.
    #[track_caller]
    pub(super) fn stray(message: String) -> Recorder {
        let recorder = Recorder::new("stray", false);
        recorder.fault(message);
        recorder.finished.set(true);
        recorder
    }

    /// Records a body of a loop or branch.
    pub(super) fn in_body<T>(&self, body: impl FnOnce() -> T) -> T {
        self.bodies.set(self.bodies.get() + 1);
        let out = body();
        self.bodies.set(self.bodies.get() - 1);
        out
    }

    /// Whether a buffer may get a new value here; a report where it may not.
    #[track_caller]
    pub(super) fn may_update(&self, name: &str) -> bool {
        let is_outside = self.bodies.get() == 0;
        if !is_outside {
            self.fault(format!(
                "update_buffer: {name} gets a new value in a body of scan, map, cond or while_loop, which may run never or often: return the value, and update behind"
            ));
        }
        is_outside
    }

    /// Reports a mistake at the caller's line.
    #[track_caller]
    pub(super) fn fault(&self, message: String) {
        self.faults.borrow_mut().push(TraceFault { location: Some(Location::caller()), message });
    }

    /// The value behind a handle; `None` when it is poisoned, or (reported) when it belongs to another trace.
    #[track_caller]
    pub(super) fn operand(self: &Rc<Self>, x: &Tensor, op: &str) -> Option<Value> {
        if self.finished.get() {
            return None;
        }
        if !Rc::ptr_eq(self, &x.recorder) {
            let theirs = x.recorder.faults.borrow();
            if x.value.is_none() && !theirs.is_empty() {
                let mut faults = self.faults.borrow_mut();
                let news: Vec<TraceFault> = theirs.iter().filter(|f| !faults.contains(f)).cloned().collect();
                faults.extend(news);
                return None;
            }
            self.fault(format!("{op}: the operand {} belongs to another trace", x.ty));
            return None;
        }
        x.value
    }

    /// Records one op; a mistake is reported with op and operand types, and poisons the result.
    #[track_caller]
    pub(super) fn apply(
        self: &Rc<Self>,
        op: &str,
        operands: &[&Tensor],
        build: impl FnOnce(&mut Builder, &[Value]) -> Result<Value, String>,
    ) -> Tensor {
        let guess = operands.first().map_or_else(|| TensorType::new(DType::F32, ()), |x| x.ty.clone());
        let mut results = self.apply_many(op, operands, |b, v| Ok(vec![build(b, v)?]));
        results.pop().unwrap_or_else(|| self.poison(guess))
    }

    /// As [`Recorder::apply`] for ops with several results; empty when poisoned.
    #[track_caller]
    pub(super) fn apply_many(
        self: &Rc<Self>,
        op: &str,
        operands: &[&Tensor],
        build: impl FnOnce(&mut Builder, &[Value]) -> Result<Vec<Value>, String>,
    ) -> Vec<Tensor> {
        let mut values = vec![];
        for x in operands {
            values.extend(self.operand(x, op));
        }
        if values.len() < operands.len() || self.finished.get() {
            return vec![];
        }
        let path = self.path.borrow().clone();
        let mut b = self.builder.borrow_mut();
        b.provenance = Provenance::new(vec![Location::caller()], if path.is_empty() { vec![] } else { vec![path] });
        match build(&mut b, &values) {
            Ok(results) => results.into_iter().map(|v| Tensor { recorder: self.clone(), value: Some(v), ty: b.ty(v).clone() }).collect(),
            Err(message) => {
                self.fault(complete(op, message, operands));
                vec![]
            }
        }
    }

    /// What is declared under that name.
    pub(super) fn state(self: &Rc<Self>, name: &str) -> Option<(InputRole, Tensor)> {
        let b = self.builder.borrow();
        let input = b.graph().input(name)?;
        Some((input.role.clone(), Tensor { recorder: self.clone(), value: Some(input.value), ty: b.ty(input.value).clone() }))
    }

    /// As [`Recorder::apply_many`], with what operators of PyTorch are built with.
    #[track_caller]
    pub(super) fn apply_rows(
        self: &Rc<Self>,
        op: &str,
        operands: &[&Tensor],
        build: impl FnOnce(&mut Cx, &[Value]) -> Result<Vec<Value>, String>,
    ) -> Vec<Tensor> {
        self.apply_many(op, operands, |b, values| {
            let mut cx = Cx::over(std::mem::take(b), self.streams.get());
            cx.examples = self.examples.borrow().clone();
            let results = build(&mut cx, values);
            self.streams.set(cx.streams);
            *b = cx.b;
            results
        })
    }

    /// A handle that stands for a mistake already reported.
    pub(super) fn poison(self: &Rc<Self>, ty: TensorType) -> Tensor {
        Tensor { recorder: self.clone(), value: None, ty }
    }

    /// Adds an output, whose name is new.
    #[track_caller]
    pub(super) fn output(&self, name: &str, role: OutputRole, value: Value) {
        let mut b = self.builder.borrow_mut();
        if b.graph().output(name).is_some() {
            self.fault(format!("there are two outputs named {name}"));
        } else {
            b.output(name, role, value);
        }
    }

    /// Makes outputs of what the closure returned.
    #[track_caller]
    pub(super) fn returned(self: &Rc<Self>, outputs: &[(Option<String>, Tensor)]) {
        for (i, (name, x)) in outputs.iter().enumerate() {
            let Some(value) = self.operand(x, "output") else { continue };
            let is_loss = i == 0 && x.ty.shape.rank() == 0 && x.ty.dtype.is_float();
            let name = match name {
                Some(name) => name.clone(),
                None if is_loss => "loss".into(),
                None if outputs.len() == 1 => "output".into(),
                None => format!("output.{i}"),
            };
            self.output(&name, if is_loss { OutputRole::Loss } else { OutputRole::User }, value);
        }
    }
}

/// The message with the op in front and the operands' types at the end, unless it has them.
fn complete(op: &str, message: String, operands: &[&Tensor]) -> String {
    let shown: Vec<String> = operands.iter().map(|x| x.ty.to_string()).collect();
    let types = shown.join(" x ");
    let message = if message.starts_with(&format!("{op}:")) { message } else { format!("{op}: {message}") };
    if message.contains(&types) { message } else { format!("{message}: {types}") }
}
