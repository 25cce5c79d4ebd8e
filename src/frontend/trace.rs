//! Recording a closure as a graph.

use super::aten::args::Cx;
use super::freeze::freeze;
use super::region::stray_placeholders;
use super::tensor::Tensor;
use super::{Initializer, Traced};
use crate::error::{Error, Result, TraceFault};
use crate::graph::{Builder, Graph, InputRole, OutputRole, Value, outline, size_conflicts};
use crate::ops;
use crate::types::{DType, IntoShape, Location, Provenance, Symbol, TensorType};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Records `f` as a training program: dropout is active. The first value returned is the loss when it is a 0-d float; others
/// are outputs for the user. Mistakes poison the values they touch and come back together, each with the user's line.
///
/// ```
/// use inductor::{DType, Trace, nn, trace};
/// let traced = trace("mlp", |t: &Trace| {
///     let x = t.input("x", DType::F32, (32, 784));
///     let y = t.input("y", DType::F32, (32, 10));
///     let h = nn::linear(&t.path("fc1"), &x, 256).relu();
///     let error = nn::linear(&t.path("fc2"), &h, 10) - y;
///     Ok((&error * &error).mean_all())
/// })?;
/// assert_eq!(traced.initializers[0].0, "fc1.weight");
///
/// let error = trace("wrong", |t: &Trace| Ok(t.input("a", DType::F32, 3) + t.input("b", DType::F32, 4))).unwrap_err();
/// assert!(error.to_string().contains("add: shapes do not broadcast: [3] and [4]"));
/// # Ok::<(), inductor::Error>(())
/// ```
pub fn trace<O: IntoOutputs>(name: &str, f: impl FnOnce(&Trace) -> Result<O>) -> Result<Traced> {
    record(name, true, f)
}

/// Records `f` as an inference program: [`Trace::training`] is false, so that dropout records nothing.
pub fn trace_eval<O: IntoOutputs>(name: &str, f: impl FnOnce(&Trace) -> Result<O>) -> Result<Traced> {
    record(name, false, f)
}

fn record<O: IntoOutputs>(name: &str, training: bool, f: impl FnOnce(&Trace) -> Result<O>) -> Result<Traced> {
    let recorder = Rc::new(Recorder::new(name, training));
    let root = Trace { recorder: recorder.clone(), prefix: String::new() };
    let returned = f(&root).map(IntoOutputs::into_outputs);
    if let Ok(outputs) = &returned {
        recorder.returned(outputs);
    }
    recorder.finished.set(true);
    let faults = recorder.faults.take();
    if !faults.is_empty() {
        return Err(Error::Trace(faults));
    }
    returned?;
    let mut graph = recorder.builder.take().finish();
    let mut faults = leaked_examples(&graph);
    if faults.is_empty() {
        faults = size_faults(&graph);
    }
    faults.extend(stray_placeholders(&graph));
    for (pattern, location) in recorder.frozen.take() {
        match freeze(&graph, &pattern) {
            Ok(frozen) => graph = frozen,
            Err(message) => faults.push(TraceFault { location: Some(location), message }),
        }
    }
    if !faults.is_empty() {
        return Err(Error::Trace(faults));
    }
    Ok(Traced { graph, initializers: recorder.initializers.take(), training_only: recorder.training_only.take() })
}

/// What is read of one example where no example is.
fn leaked_examples(graph: &Graph) -> Vec<TraceFault> {
    let message = "vmap: a tensor of one example is used outside of the function that is mapped";
    graph.placeholders().map(|id| TraceFault { location: graph.provenance(id).line().cloned(), message: message.into() }).collect()
}

/// Symbols without a value, or with several ranges: found when all of them are known.
fn size_faults(graph: &Graph) -> Vec<TraceFault> {
    let at = |id| graph.provenance(id).line().cloned();
    let mut faults: Vec<TraceFault> = size_conflicts(graph).into_iter().map(|(id, message)| TraceFault { location: at(id), message }).collect();
    let symbols = |ty: &TensorType, into: &mut Vec<Symbol>| ty.shape.0.iter().for_each(|d| d.collect_symbols(into));
    let mut known = vec![];
    graph.inputs.iter().for_each(|input| symbols(graph.ty(input.value), &mut known));
    for id in graph.ids() {
        let mut used = vec![];
        graph.node(id).types.iter().for_each(|ty| symbols(ty, &mut used));
        for symbol in used.into_iter().filter(|s| !known.contains(s)).collect::<Vec<_>>() {
            faults.push(TraceFault { location: at(id), message: format!("symbol {} is in the size of no input", symbol.name) });
            known.push(symbol);
        }
    }
    faults
}

/// What a traced closure may return: a tensor, a tuple or a vector of tensors, or a vector of names with tensors.
pub trait IntoOutputs {
    /// Values with their names, where they have one.
    fn into_outputs(self) -> Vec<(Option<String>, Tensor)>;
}

impl IntoOutputs for Tensor {
    fn into_outputs(self) -> Vec<(Option<String>, Tensor)> {
        vec![(None, self)]
    }
}
impl IntoOutputs for Vec<Tensor> {
    fn into_outputs(self) -> Vec<(Option<String>, Tensor)> {
        self.into_iter().map(|x| (None, x)).collect()
    }
}
impl<S: Into<String>> IntoOutputs for Vec<(S, Tensor)> {
    fn into_outputs(self) -> Vec<(Option<String>, Tensor)> {
        self.into_iter().map(|(name, x)| (Some(name.into()), x)).collect()
    }
}
impl<const N: usize> IntoOutputs for [Tensor; N] {
    fn into_outputs(self) -> Vec<(Option<String>, Tensor)> {
        self.into_iter().map(|x| (None, x)).collect()
    }
}
impl IntoOutputs for (Tensor, Tensor) {
    fn into_outputs(self) -> Vec<(Option<String>, Tensor)> {
        vec![(None, self.0), (None, self.1)]
    }
}
impl IntoOutputs for (Tensor, Tensor, Tensor) {
    fn into_outputs(self) -> Vec<(Option<String>, Tensor)> {
        vec![(None, self.0), (None, self.1), (None, self.2)]
    }
}

/// A program being recorded, seen from one module path. Cheap to clone.
#[derive(Clone)]
pub struct Trace {
    pub(super) recorder: Rc<Recorder>,
    prefix: String,
}

impl Trace {
    /// The same program seen from a module below this one: names given there start with `name.`.
    pub fn path(&self, name: impl std::fmt::Display) -> Trace {
        Trace { recorder: self.recorder.clone(), prefix: self.name(&name.to_string()) }
    }

    /// Marks what is recorded until the guard drops as belonging to this module path.
    pub fn enter(&self) -> Scope {
        let previous = self.recorder.path.replace(self.prefix.clone());
        Scope { recorder: self.recorder.clone(), previous }
    }

    /// Whether the program is recorded for training. A program that was, and asked, is not compiled for inference: see
    /// [`Traced::inference`].
    #[track_caller]
    pub fn training(&self) -> bool {
        if self.recorder.training {
            let message = "the program asks whether it is recorded for training, and was; record it with trace_eval for inference";
            let fault = TraceFault { location: Some(Location::caller()), message: message.into() };
            self.recorder.training_only.borrow_mut().push(fault);
        }
        self.recorder.training
    }

    /// User data of one step.
    #[track_caller]
    pub fn input(&self, name: &str, dtype: DType, shape: impl IntoShape) -> Tensor {
        self.border(name, InputRole::Input, TensorType::new(dtype, shape))
    }

    /// A trained tensor, named by path. The same name with the same type is the same parameter.
    ///
    /// ```
    /// use inductor::{DType, nn, trace};
    /// let siamese = trace("siamese", |t| {
    ///     let (a, b) = (t.input("a", DType::F32, (8, 4)), t.input("b", DType::F32, (8, 4)));
    ///     let tower = |x| nn::linear(&t.path("tower"), x, 16).tanh();
    ///     Ok(tower(&a).mse(&tower(&b)))
    /// })?;
    /// assert_eq!(siamese.initializers.len(), 2, "one weight and one bias");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn parameter(&self, name: &str, dtype: DType, shape: impl IntoShape, initializer: Initializer) -> Tensor {
        self.state(name, InputRole::Parameter, TensorType::new(dtype, shape), initializer)
    }

    /// State that is not trained, named by path; [`Trace::update_buffer`] gives it a new value.
    ///
    /// ```
    /// # use inductor::{Config, DType, Device, HostTensor, Initializer, compile, trace_eval};
    /// let counter = trace_eval("counter", |t| {
    ///     let n = t.buffer("n", DType::I32, (), Initializer::Zeros);
    ///     t.update_buffer("n", &(&n + 1));
    ///     Ok(vec![("n", n)])
    /// })?;
    /// let step = compile(&counter, &Device::cpu(), &Config::default())?;
    /// let mut state = step.init(0)?;
    /// let seen: Vec<f64> = (0..3).map(|_| step.run(&mut state, ())?.output("n")?.item()).collect::<inductor::Result<_>>()?;
    /// assert_eq!(seen, [0.0, 1.0, 2.0]);
    /// assert_eq!(state.get("n")?.item()?, 3.0);
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn buffer(&self, name: &str, dtype: DType, shape: impl IntoShape, initializer: Initializer) -> Tensor {
        self.state(name, InputRole::Buffer, TensorType::new(dtype, shape), initializer)
    }

    /// A 0-d number given per step by `set_scalar`.
    ///
    /// ```
    /// # use inductor::{Config, DType, Device, HostTensor, compile, trace};
    /// let scaled = trace("scaled", |t| Ok(vec![("y", t.input("x", DType::F32, 2) * t.scalar("factor", DType::F32))]))?;
    /// let step = compile(&scaled, &Device::cpu(), &Config::default())?;
    /// step.set_scalar("factor", 3.0)?;
    /// let y = step.run(&mut step.init(0)?, [HostTensor::f32(&[2], &[1.0, 2.0])])?.output("y")?;
    /// assert_eq!(y.to_f32(), [3.0, 6.0]);
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn scalar(&self, name: &str, dtype: DType) -> Tensor {
        self.border(name, InputRole::HostScalar, TensorType::new(dtype, ()))
    }

    /// A random key of its own, `u32[2]`: each call, in order, is another stream of the run's `key`, which the state makes of its
    /// seed. Every step of training has another key, a function of the seed and the step's number; so has every run for inference
    /// or for given cotangents, by a count of such runs that the state keeps. Equal seeds give equal sequences of runs, on every
    /// device. In a function that is mapped by [`crate::vmap()`], each example has a key of its own.
    ///
    /// ```
    /// # use inductor::{Config, Device, compile, trace_eval};
    /// let noise = trace_eval("noise", |t| Ok(vec![("noise", t.key().normal(4))]))?;
    /// let step = compile(&noise, &Device::cpu(), &Config::default())?;
    /// let (mut a, mut b) = (step.init(7)?, step.init(7)?);
    /// let first = step.run(&mut a, ())?.output("noise")?;
    /// assert_eq!(step.run(&mut b, ())?.output("noise")?, first);
    /// assert_ne!(step.run(&mut a, ())?.output("noise")?, first, "the next run draws anew");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn key(&self) -> Tensor {
        let keys = self.recorder.apply_rows("key", &[], |cx, _| Ok(vec![cx.key()?]));
        keys.into_iter().next().unwrap_or_else(|| self.recorder.poison(TensorType::new(DType::U32, 2)))
    }

    /// Records `f(x)` as a region whose values are computed again in the backward instead of being saved. Like
    /// `torch.utils.checkpoint`; random numbers repeat, since they are functions of their keys.
    ///
    /// ```
    /// # use inductor::{DType, nn, trace};
    /// let traced = trace("deep", |t| {
    ///     let x = t.input("x", DType::F32, (8, 32));
    ///     let h = (0..4).fold(x, |h, i| t.checkpoint(&h, |h| nn::linear(&t.path(i), h, 32).gelu()));
    ///     Ok(h.square().mean(()))
    /// })?;
    /// assert_eq!(traced.initializers.len(), 8);
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn checkpoint(&self, x: &Tensor, f: impl FnOnce(&Tensor) -> Tensor) -> Tensor {
        let start = self.recorder.builder.borrow().graph().nodes.len();
        let y = f(x);
        self.recorder.apply("checkpoint", &[&y], |b, v| {
            let (body, operands) = outline(b.graph(), "checkpoint", start, v)?;
            b.op(ops::Checkpoint::new(body), &operands)
        })
    }

    /// The value a buffer has after this run, be it a step of training or inference: what is to move in training only asks
    /// [`Trace::training`].
    #[track_caller]
    pub fn update_buffer(&self, name: &str, value: &Tensor) {
        let full = self.name(name);
        let Some(new) = self.recorder.operand(value, "update_buffer") else { return };
        let mut b = self.recorder.builder.borrow_mut();
        let buffer = b.graph().input(&full).filter(|i| i.role == InputRole::Buffer).map(|i| b.ty(i.value).clone());
        let fault = match buffer {
            None => Some(format!("update_buffer: there is no buffer named {full}")),
            Some(ty) if ty != *b.ty(new) => Some(format!("update_buffer: types differ: {ty} x {}", b.ty(new))),
            Some(_) if b.graph().output(&format!("new.{full}")).is_some() => Some(format!("update_buffer: {full} has a new value already")),
            Some(_) => None,
        };
        match fault {
            Some(message) => self.recorder.fault(message),
            None => b.output(&format!("new.{full}"), OutputRole::NewValue(full), new),
        }
    }

    /// A further output for the user.
    #[track_caller]
    pub fn output(&self, name: &str, value: &Tensor) {
        if let Some(value) = self.recorder.operand(value, "output") {
            self.recorder.output(name, OutputRole::User, value);
        }
    }

    /// The name that state declared here under `name` has.
    pub fn full_name(&self, name: &str) -> String {
        self.name(name)
    }

    /// The parameters that are declared so far in this module and below it, with their full names, in order. For what is said of all
    /// of them at once: a penalty on weights, or derivatives with respect to them.
    ///
    /// ```
    /// use inductor::{DType, nn, trace};
    /// trace("penalty", |t| {
    ///     let loss = nn::mlp(&t.path("critic"), &t.input("x", DType::F32, (8, 2)), &[16, 1]).square().mean(());
    ///     let parameters = t.path("critic").parameters();
    ///     assert_eq!(parameters[3].0, "critic.layers.1.bias");
    ///     Ok(parameters.iter().fold(loss, |loss, (_, p)| loss + 1e-4 * p.abs().sum(())))
    /// })?;
    /// # Ok::<(), inductor::Error>(())
    /// ```
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        let (b, below) = (self.recorder.builder.borrow(), self.name(""));
        let own = b.graph().inputs.iter().filter(|i| i.role == InputRole::Parameter && i.name.starts_with(&below));
        own.map(|i| (i.name.clone(), Tensor { recorder: self.recorder.clone(), value: Some(i.value), ty: b.ty(i.value).clone() })).collect()
    }

    /// Remembers a pattern of parameters that are to be frozen when all of them are known.
    #[track_caller]
    pub(super) fn freeze_later(&self, pattern: &str) {
        self.recorder.frozen.borrow_mut().push((self.name(pattern), Location::caller()));
    }

    fn name(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }

    #[track_caller]
    fn border(&self, name: &str, role: InputRole, ty: TensorType) -> Tensor {
        let name = self.name(name);
        self.recorder.apply("input", &[], |b, _| b.input(&name, role, ty))
    }

    /// Declares state, or finds what has its name and type already: a layer called twice has one set of parameters, which start as
    /// its first call says.
    #[track_caller]
    fn state(&self, name: &str, role: InputRole, ty: TensorType, initializer: Initializer) -> Tensor {
        let full = self.name(name);
        if let Some((known, old)) = self.recorder.state(&full) {
            return match known == role && old.ty == ty {
                true => old,
                false => {
                    old.fail("state", format!("there is a {} {full} of type {}, and this is a {} of type {ty}", word(&known), old.ty, word(&role)))
                }
            };
        }
        if ty.shape.as_ints().is_none() {
            self.recorder.fault(format!("{full} is {ty}; the sizes of state are constants"));
        }
        if let Some(fault) = initializer.fault(&ty) {
            self.recorder.fault(format!("the initializer of {full}: {fault}"));
        }
        let tensor = self.border(name, role, ty);
        self.recorder.initializers.borrow_mut().push((full, initializer));
        tensor
    }

    /// What a buffer has become so far in this program, where that is another value than the one it had before.
    pub(super) fn moved_buffer(&self, name: &str) -> Option<Tensor> {
        let b = self.recorder.builder.borrow();
        let value = b.graph().output(&format!("new.{}", self.name(name)))?.value;
        Some(Tensor { recorder: self.recorder.clone(), value: Some(value), ty: b.ty(value).clone() })
    }

    /// As [`Trace::update_buffer`], where a later value replaces one that the same layer gave before.
    #[track_caller]
    pub(super) fn move_buffer(&self, name: &str, value: &Tensor) {
        match (self.moved_buffer(name), self.recorder.operand(value, "update_buffer")) {
            (Some(_), Some(new)) => self.recorder.builder.borrow_mut().replace_output(&format!("new.{}", self.name(name)), new),
            _ => self.update_buffer(name, value),
        }
    }
}

fn word(role: &InputRole) -> &'static str {
    match role {
        InputRole::Parameter => "parameter",
        InputRole::Buffer => "buffer",
        _ => "input",
    }
}

/// See [`Trace::enter`].
pub struct Scope {
    recorder: Rc<Recorder>,
    previous: String,
}

impl Drop for Scope {
    fn drop(&mut self) {
        self.recorder.path.replace(std::mem::take(&mut self.previous));
    }
}

/// The program under construction, shared by its handles.
pub(super) struct Recorder {
    pub(super) builder: RefCell<Builder>,
    faults: RefCell<Vec<TraceFault>>,
    initializers: RefCell<Vec<(String, Initializer)>>,
    /// Patterns of parameters that are not trained, with the user's lines.
    frozen: RefCell<Vec<(String, Location)>>,
    path: RefCell<String>,
    streams: Cell<u32>,
    /// Of the functions that are being mapped, outermost first: the number of the example.
    pub(super) examples: RefCell<Vec<Value>>,
    finished: Cell<bool>,
    pub(super) training: bool,
    training_only: RefCell<Vec<TraceFault>>,
}

impl Recorder {
    fn new(name: &str, training: bool) -> Recorder {
        Recorder {
            builder: RefCell::new(Builder::assuming(name)),
            faults: RefCell::default(),
            initializers: RefCell::default(),
            frozen: RefCell::default(),
            path: RefCell::default(),
            streams: Cell::new(0),
            examples: RefCell::default(),
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

    /// Reports a mistake at the caller's line.
    #[track_caller]
    pub(super) fn fault(&self, message: String) {
        self.faults.borrow_mut().push(TraceFault { location: Some(Location::caller()), message });
    }

    /// The value behind a handle; `None` when it is poisoned, or (reported) when it belongs to another trace.
    #[track_caller]
    fn operand(self: &Rc<Self>, x: &Tensor, op: &str) -> Option<Value> {
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
    fn state(self: &Rc<Self>, name: &str) -> Option<(InputRole, Tensor)> {
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

    #[track_caller]
    fn output(&self, name: &str, role: OutputRole, value: Value) {
        let mut b = self.builder.borrow_mut();
        if b.graph().output(name).is_some() {
            self.fault(format!("there are two outputs named {name}"));
        } else {
            b.output(name, role, value);
        }
    }

    fn returned(self: &Rc<Self>, outputs: &[(Option<String>, Tensor)]) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::OpDef;

    fn faults(result: Result<Traced>) -> Vec<TraceFault> {
        match result {
            Err(Error::Trace(faults)) => faults,
            other => panic!("expected faults, got {other:?}"),
        }
    }

    #[test]
    fn every_mistake_comes_back_with_its_line() {
        let line = line!();
        let found = faults(trace("wrong", |t| {
            let a = t.input("a", DType::F32, (32, 784));
            let b = t.input("b", DType::F32, (10, 784));
            let product = a.matmul(&b);
            let poisoned = product.relu() + 1.0;
            let mixed = &a + &t.input("n", DType::I32, (32, 784));
            Ok(vec![poisoned, mixed])
        }));
        let shown: Vec<(u32, &str)> = found.iter().map(|f| (f.location.as_ref().unwrap().line - line, f.message.as_str())).collect();
        assert_eq!(
            shown,
            [(4, "matmul: inner dimensions differ: f32[32, 784] x f32[10, 784]"), (6, "add: operand dtypes differ: f32[32, 784] x i32[32, 784]"),]
        );
        assert!(found[0].location.as_ref().unwrap().file.ends_with("trace.rs"));
    }

    #[test]
    fn handles_of_another_trace_poison() {
        let mut leaked = None;
        trace("first", |t| {
            leaked = Some(t.input("x", DType::F32, 3));
            Ok(t.input("y", DType::F32, 3))
        })
        .unwrap();
        let leaked = leaked.unwrap();
        let after = &leaked + 1.0;
        assert!(after.value.is_none(), "a finished trace records nothing");
        let found = faults(trace("second", |t| Ok(t.input("x", DType::F32, 3) + &leaked)));
        assert_eq!(found[0].message, "add: the operand f32[3] belongs to another trace");
    }

    #[test]
    fn roles_and_names_at_the_border() {
        let traced = trace("border", |t| {
            let x = t.input("x", DType::F32, 3);
            let w = t.path("blocks").path(0).parameter("weight", DType::F32, 3, Initializer::Ones);
            let mean = t.buffer("mean", DType::F32, 3, Initializer::Zeros);
            t.update_buffer("mean", &(&mean * 0.9 + &x));
            t.output("extra", &w);
            Ok(((&x * &w).sum_all(), x))
        })
        .unwrap();
        let inputs: Vec<_> = traced.graph.inputs.iter().map(|i| (i.name.as_str(), &i.role)).collect();
        assert_eq!(inputs, [("x", &InputRole::Input), ("blocks.0.weight", &InputRole::Parameter), ("mean", &InputRole::Buffer)]);
        let outputs: Vec<_> = traced.graph.outputs.iter().map(|o| (o.name.as_str(), &o.role)).collect();
        let new_mean = OutputRole::NewValue("mean".into());
        assert_eq!(outputs, [("new.mean", &new_mean), ("extra", &OutputRole::User), ("loss", &OutputRole::Loss), ("output.1", &OutputRole::User)]);
        assert_eq!(traced.initializer("blocks.0.weight"), Initializer::Ones);
    }

    #[test]
    fn a_checkpoint_closes_over_what_it_reads() {
        let traced = trace("region", |t| {
            let x = t.input("x", DType::F32, (4, 8));
            let h = x.exp();
            let y = t.checkpoint(&h, |h| {
                let w = t.parameter("w", DType::F32, (8, 8), Initializer::Ones);
                (h.matmul(&w).tanh() * &h.relu()).dropout(0.5, &t.key())
            });
            Ok(y.sum_all())
        })
        .unwrap();
        let region = traced.graph.nodes.iter().find(|n| n.op.name() == "checkpoint").unwrap();
        assert_eq!(region.operands.len(), 3, "h, w and the key");
        assert!(!traced.graph.nodes.iter().any(|n| n.op.name() == "matmul"), "recorded inside only");
        assert_eq!(crate::graph::verify(&traced.graph), Vec::<String>::new());
    }

    #[test]
    fn provenance_has_line_and_path() {
        let traced = trace("where", |t| {
            let x = t.input("x", DType::F32, 3);
            let scope = t.path("block");
            let _inside = scope.enter();
            Ok(x.exp())
        })
        .unwrap();
        let node = traced.graph.outputs[0].value.node;
        assert_eq!(traced.graph.provenance(node).paths(), ["block"]);
        assert!(traced.graph.provenance(node).line().unwrap().file.ends_with("trace.rs"));
    }

    #[test]
    fn names_clash_without_a_panic() {
        let found = faults(trace("twice", |t| {
            t.input("x", DType::F32, 3);
            Ok(t.input("x", DType::F32, 3))
        }));
        assert_eq!(found[0].message, "input: there are two inputs named x");
        let found = faults(trace("unknown", |t| {
            let x = t.input("x", DType::F32, 3);
            t.update_buffer("x", &x);
            Ok(x)
        }));
        assert_eq!(found[0].message, "update_buffer: there is no buffer named x");
    }
}
