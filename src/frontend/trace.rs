//! Recording a closure as a graph.

use super::freeze::freeze;
use super::recorder::Recorder;
use super::region::stray_placeholders;
use super::tensor::Tensor;
use super::{Initializer, Traced};
use crate::error::{Error, Result, TraceFault};
use crate::graph::{Graph, InputRole, OutputRole, outline, size_conflicts};
use crate::ops;
use crate::types::{DType, IntoShape, Location, Symbol, TensorType};
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
#[track_caller]
pub fn trace<O: IntoOutputs>(name: &str, f: impl FnOnce(&Trace) -> Result<O>) -> Result<Traced> {
    record(name, true, f)
}

/// Records `f` as an inference program: [`Trace::training`] is false, so that dropout records nothing.
#[track_caller]
pub fn trace_eval<O: IntoOutputs>(name: &str, f: impl FnOnce(&Trace) -> Result<O>) -> Result<Traced> {
    record(name, false, f)
}

#[track_caller]
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
    let mut faults = stray_placeholders(&graph);
    if faults.is_empty() {
        faults = size_faults(&graph);
    }
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
        let Some(new) = self.recorder.operand(value, "update_buffer").filter(|_| self.recorder.may_update(&full)) else { return };
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
            (Some(_), Some(_)) if !self.recorder.may_update(&self.name(name)) => {}
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
