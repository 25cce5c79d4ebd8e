//! Functions of one example mapped over a batch.
//!
//! The function is recorded once, of tensors without the dimension that is mapped; then what it recorded is batched by the rules of its
//! operators, and what was recorded of one example is dropped. Nothing is a loop: a mapped product is one larger product.

use super::recorder::Recorder;
use super::tensor::Tensor;
use crate::graph::{Builder, Value, outline};
use crate::ops::{Batched, batch};
use crate::types::{DType, Dim, Shape, TensorType};
use std::rc::Rc;

/// A tensor, or tuples, arrays, slices and vectors of what this is: what functions that are mapped take and give.
pub trait Tensors {
    /// The same with tensors in place of references.
    type Owned;

    /// All tensors in order.
    fn collect(&self, into: &mut Vec<Tensor>);

    /// The same structure with other tensors, which come in order.
    fn rebuild(&self, tensors: &mut dyn Iterator<Item = Tensor>) -> Self::Owned;
}

impl Tensors for Tensor {
    type Owned = Tensor;
    fn collect(&self, into: &mut Vec<Tensor>) {
        into.push(self.clone());
    }
    fn rebuild(&self, tensors: &mut dyn Iterator<Item = Tensor>) -> Tensor {
        tensors.next().expect("as many tensors as before")
    }
}

impl Tensors for () {
    type Owned = ();
    fn collect(&self, _into: &mut Vec<Tensor>) {}
    fn rebuild(&self, _tensors: &mut dyn Iterator<Item = Tensor>) {}
}

impl<T: Tensors + ?Sized> Tensors for &T {
    type Owned = T::Owned;
    fn collect(&self, into: &mut Vec<Tensor>) {
        (**self).collect(into);
    }
    fn rebuild(&self, tensors: &mut dyn Iterator<Item = Tensor>) -> T::Owned {
        (**self).rebuild(tensors)
    }
}

impl<T: Tensors> Tensors for [T] {
    type Owned = Vec<T::Owned>;
    fn collect(&self, into: &mut Vec<Tensor>) {
        self.iter().for_each(|x| x.collect(into));
    }
    fn rebuild(&self, tensors: &mut dyn Iterator<Item = Tensor>) -> Vec<T::Owned> {
        self.iter().map(|x| x.rebuild(tensors)).collect()
    }
}

impl<T: Tensors> Tensors for Vec<T> {
    type Owned = Vec<T::Owned>;
    fn collect(&self, into: &mut Vec<Tensor>) {
        self[..].collect(into);
    }
    fn rebuild(&self, tensors: &mut dyn Iterator<Item = Tensor>) -> Vec<T::Owned> {
        self[..].rebuild(tensors)
    }
}

impl<T: Tensors, const N: usize> Tensors for [T; N] {
    type Owned = [T::Owned; N];
    fn collect(&self, into: &mut Vec<Tensor>) {
        self[..].collect(into);
    }
    fn rebuild(&self, tensors: &mut dyn Iterator<Item = Tensor>) -> [T::Owned; N] {
        std::array::from_fn(|i| self[i].rebuild(tensors))
    }
}

macro_rules! tuples {
    ($(($($part:ident $at:tt),+))+) => {
        $(impl<$($part: Tensors),+> Tensors for ($($part,)+) {
            type Owned = ($($part::Owned,)+);
            fn collect(&self, into: &mut Vec<Tensor>) {
                $(self.$at.collect(into);)+
            }
            fn rebuild(&self, tensors: &mut dyn Iterator<Item = Tensor>) -> Self::Owned {
                ($(self.$at.rebuild(tensors),)+)
            }
        })+
    };
}
tuples! { (A 0, B 1) (A 0, B 1, C 2) (A 0, B 1, C 2, D 3) (A 0, B 1, C 2, D 3, E 4) }

/// `f` of each example, all of them at once: of tensors without their first dimension, along which the examples lie. Results have the
/// examples in front. PyTorch's `torch.func.vmap`, JAX's `jax.vmap`.
///
/// `f` is called once. What it takes from outside (parameters, other tensors) is the same for every example, and so is what it declares
/// inside, so that layers share their parameters. It may take derivatives, call [`vmap()`] itself, and be differentiated: gradients of
/// examples are `vmap` of [`Tensor::grad`], a Hessian is `vmap` of [`Tensor::hvp`].
///
/// A [`Trace::key`](crate::Trace::key) that `f` asks for is another one for each example, so that dropout and noise differ
/// (`randomness="different"`); one from outside draws the same for all (`"same"`).
///
/// # Errors
///
/// Tensors that have no dimension to map, or differ in its size; tensors of one example that are used behind `f` (buffers that `f` gives
/// a new value, such as running statistics, among them); what an operator's rule does not take, by its name. They come back from the trace,
/// with the line.
///
/// ```
/// use inductor::{Config, DType, Device, HostTensor, Initializer, compile, trace_eval, vmap};
/// // The gradient of each example's own loss with respect to shared weights.
/// let traced = trace_eval("per example", |t| {
///     let (x, y) = (t.input("x", DType::F32, (8, 3)), t.input("y", DType::F32, 8));
///     let w = t.parameter("w", DType::F32, 3, Initializer::Ones);
///     Ok(vmap((&x, &y), |(x, y)| ((&w * x).sum(()) - y).square().grad(&[&w])))
/// })?;
/// assert_eq!(traced.graph.ty(traced.graph.outputs[0].value).to_string(), "f32[8, 3]");
/// # Ok::<(), inductor::Error>(())
/// ```
#[track_caller]
pub fn vmap<I: Tensors, O: Tensors>(inputs: I, f: impl FnOnce(I::Owned) -> O) -> O::Owned {
    Vmap::over(inputs).map(f)
}

/// A [`vmap()`] along other dimensions than the first.
///
/// ```
/// use inductor::{DType, Vmap, trace_eval};
/// let traced = trace_eval("columns", |t| {
///     let (x, w) = (t.input("x", DType::F32, (3, 8)), t.input("w", DType::F32, (5, 3)));
///     Ok(Vmap::over((&w, &x)).in_dims(&[None, Some(1)]).out_dims(&[-1]).map(|(w, x)| w.matmul(&x)))
/// })?;
/// assert_eq!(traced.graph.ty(traced.graph.outputs[0].value).to_string(), "f32[5, 8]");
/// # Ok::<(), inductor::Error>(())
/// ```
#[must_use = "a function is mapped by Vmap::map"]
pub struct Vmap<I> {
    inputs: I,
    in_dims: Vec<Option<i64>>,
    out_dims: Vec<i64>,
}

impl<I: Tensors> Vmap<I> {
    /// Over the first dimension of each of these tensors.
    pub fn over(inputs: I) -> Vmap<I> {
        Vmap { inputs, in_dims: vec![], out_dims: vec![] }
    }

    /// The dimension of each tensor along which its examples lie, counted from the end when negative; none where all examples take the
    /// whole tensor. Tensors beyond the list are mapped over their first.
    pub fn in_dims(mut self, dims: &[Option<i64>]) -> Vmap<I> {
        self.in_dims = dims.to_vec();
        self
    }

    /// The dimension that the examples take in each result; in results beyond the list the first.
    pub fn out_dims(mut self, dims: &[i64]) -> Vmap<I> {
        self.out_dims = dims.to_vec();
        self
    }

    /// `f` of each example. See [`vmap()`].
    #[track_caller]
    pub fn map<O: Tensors>(self, f: impl FnOnce(I::Owned) -> O) -> O::Owned {
        let mut inputs = vec![];
        self.inputs.collect(&mut inputs);
        let mapping = begin(&inputs, &self.in_dims);
        let examples = mapping.as_ref().map_or_else(|| poisoned(&inputs), |mapping| mapping.examples.clone());
        let outputs = f(self.inputs.rebuild(&mut examples.into_iter()));
        let mut of_one = vec![];
        outputs.collect(&mut of_one);
        let of_all = match (mapping, of_one.first()) {
            (Some(mapping), _) => end(&mapping, &of_one, &self.out_dims),
            (None, Some(y)) if inputs.is_empty() => {
                y.report("vmap", "there is no tensor to map over");
                poisoned(&of_one)
            }
            (None, _) => poisoned(&of_one),
        };
        outputs.rebuild(&mut of_all.into_iter())
    }
}

/// A function that is being recorded of one example.
struct Mapping {
    recorder: Rc<Recorder>,
    /// What the function takes.
    examples: Vec<Tensor>,
    /// The number of the example.
    number: Value,
    /// What the mapped tensors are for a batch: each example's stand-in, and all examples along dimension 0.
    batch: Vec<(Value, Value)>,
    size: Dim,
}

fn poisoned(tensors: &[Tensor]) -> Vec<Tensor> {
    tensors.iter().map(|x| x.recorder.poison(x.ty.clone())).collect()
}

/// Stand-ins for one example; nothing, and a report, where there is no example.
#[track_caller]
fn begin(inputs: &[Tensor], dims: &[Option<i64>]) -> Option<Mapping> {
    let recorder = inputs.first()?.recorder.clone();
    let dims: Vec<Option<i64>> = (0..inputs.len()).map(|k| dims.get(k).copied().unwrap_or(Some(0))).collect();
    let operands: Vec<&Tensor> = inputs.iter().collect();
    let (mut batch, mut size) = (vec![], Dim::int(0));
    let mut examples = recorder.apply_many("vmap", &operands, |b, values| {
        size = common_size(b, values, &dims)?;
        let mut examples = vec![];
        for (&v, &dim) in values.iter().zip(&dims) {
            let Some(dim) = dim else {
                examples.push(v);
                continue;
            };
            let all = front(b, v, dim)?;
            let one = TensorType { dtype: b.dtype(all), shape: Shape::new(b.shape(all).0[1..].to_vec()) };
            let example = b.placeholder(one);
            batch.push((example, all));
            examples.push(example);
        }
        examples.push(b.placeholder(TensorType::new(DType::I32, ())));
        Ok(examples)
    });
    let number = examples.pop()?.value?;
    recorder.examples.borrow_mut().push(number);
    Some(Mapping { recorder, examples, number, batch, size })
}

/// The number of examples, which all mapped tensors have.
fn common_size(b: &mut Builder, values: &[Value], dims: &[Option<i64>]) -> Result<Dim, String> {
    let mut size: Option<Dim> = None;
    for (&v, dim) in values.iter().zip(dims) {
        let Some(dim) = dim else { continue };
        let at = b.shape(v).dim_index(*dim)?;
        let own = b.shape(v)[at].clone();
        if let Some(size) = &size {
            b.assume_equal(size, &own, "vmap");
            if !b.resolve(size).known_eq(&b.resolve(&own)) {
                return Err(format!("tensors have different numbers of examples, {size} and {own}"));
            }
        }
        size = Some(b.resolve(&own));
    }
    match size {
        Some(size) if size.is(0) => Err("there is no example".into()),
        Some(size) => Ok(size),
        None => Err("no tensor is mapped".into()),
    }
}

/// The dimension moved to the front.
fn front(b: &mut Builder, x: Value, dim: i64) -> Result<Value, String> {
    let (at, rank) = (b.shape(x).dim_index(dim)?, b.shape(x).rank());
    b.permute(x, &[at].into_iter().chain((0..rank).filter(|&d| d != at)).collect::<Vec<_>>())
}

/// The first dimension moved to `dim`.
fn back(b: &mut Builder, x: Value, dim: i64) -> Result<Value, String> {
    let (at, rank) = (b.shape(x).dim_index(dim)?, b.shape(x).rank());
    b.permute(x, &(1..=at).chain([0]).chain(at + 1..rank).collect::<Vec<_>>())
}

/// What was recorded of one example, for all of them.
#[track_caller]
fn end(mapping: &Mapping, of_one: &[Tensor], dims: &[i64]) -> Vec<Tensor> {
    mapping.recorder.examples.borrow_mut().pop();
    let operands: Vec<&Tensor> = of_one.iter().collect();
    let of_all = mapping.recorder.apply_many("vmap", &operands, |b, values| {
        let (graph, read) = outline(b.graph(), "example", mapping.number.node.0 as usize + 1, values)?;
        let size = b.resolve(&mapping.size);
        let numbers = b.iota(DType::I32, [size.clone()], 0)?;
        let of_batch = |v: Value| match mapping.batch.iter().find(|(example, _)| *example == v) {
            Some(&(_, all)) => Batched::Each(all),
            None if v == mapping.number => Batched::Each(numbers),
            None => Batched::Same(v),
        };
        let inputs: Vec<Batched> = read.into_iter().map(of_batch).collect();
        let mut results = vec![];
        for (k, y) in batch(b, &graph, &inputs, &size)?.into_iter().enumerate() {
            let y = y.each(b, &size)?;
            results.push(back(b, y, dims.get(k).copied().unwrap_or(0))?);
        }
        Ok(results)
    });
    if of_all.len() == of_one.len() { of_all } else { poisoned(of_one) }
}
