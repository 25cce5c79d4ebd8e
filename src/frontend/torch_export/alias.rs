//! Tensors that share storage: what makes programs with writes in place pure.
//!
//! A storage has a current value and a version. A tensor is a value computed from its storage's value by views. After a write
//! its storage has a later version, and the tensor is computed anew, by the same views, when it is read next. A write through a
//! view goes the views back: each writes its part into the value that it was taken from (an array as a functional store, as in
//! "Functionalization in PyTorch", 2022). Views are the nodes of class `View` between the value and its storage's value, so
//! that no operator says anything about aliases but that it is a view.
//!
//! Windows and strided parts are views, too, which read elements at positions. A write through one goes to the positions that the whole
//! view has in the storage, of which each must be another (`put_positions`).
//!
//! A detached tensor is a view that lets no gradient through. What is written through it, or where gradients are off, has the new
//! value and the gradient of the old one, as autograd does not see such a write (`straight_through`).

use crate::frontend::aten::gradients::{put_slice, straight_through};
use crate::graph::{Builder, Value};
use crate::ops::{Array, Data, Op, OpDef, Precision};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim};

/// Positions beyond so many are not looked at.
const MAX_POSITIONS: i64 = 1 << 20;

/// A storage, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageId(usize);

/// A tensor of the program.
#[derive(Clone, Copy, Debug)]
pub struct Tensor {
    value: Value,
    /// The storage's value that `value` was computed from, and its version.
    from: Value,
    version: u32,
    /// Its storage.
    pub storage: StorageId,
}

#[derive(Debug)]
struct Storage {
    value: Value,
    version: u32,
    /// The storage and version that it was read from, where memory is shared in a way that no view says.
    of: Option<(StorageId, u32)>,
}

/// All storages of a program.
#[derive(Debug, Default)]
pub struct Storages {
    list: Vec<Storage>,
}

impl Storages {
    /// A tensor with a storage of its own.
    pub fn fresh(&mut self, value: Value) -> Tensor {
        self.list.push(Storage { value, version: 0, of: None });
        Tensor { value, from: value, version: 0, storage: StorageId(self.list.len() - 1) }
    }

    /// A tensor that shares the storage of `base`, from whose current value `value` was computed; one with a storage of its own
    /// when something else than views lies between.
    pub fn view(&mut self, b: &Builder, base: Tensor, value: Value) -> Tensor {
        let storage = &self.list[base.storage.0];
        let view = Tensor { value, from: storage.value, version: storage.version, storage: base.storage };
        if chain(b, value, storage.value).is_some() { view } else { self.fresh(value) }
    }

    /// A tensor that shares memory with `base`: a view, or, in a way that no view says, one that may be read until one of them is
    /// written.
    pub fn view_or_snapshot(&mut self, b: &Builder, base: Tensor, value: Value) -> Tensor {
        if chain(b, value, self.list[base.storage.0].value).is_some() {
            return self.view(b, base, value);
        }
        let tensor = self.fresh(value);
        self.list[tensor.storage.0].of = Some((base.storage, self.list[base.storage.0].version));
        tensor
    }

    /// The current value of a tensor.
    pub fn read(&self, b: &mut Builder, tensor: &mut Tensor) -> Result<Value, String> {
        let storage = &self.list[tensor.storage.0];
        if storage.of.is_some_and(|(base, version)| self.list[base.0].version != version) {
            return Err("a view of another dtype is read after what it shows was written, which is not supported".into());
        }
        if storage.version != tensor.version {
            let steps = chain(b, tensor.value, tensor.from).ok_or("a view was lost")?;
            tensor.value = replay(b, &steps, storage.value)?;
            (tensor.from, tensor.version) = (storage.value, storage.version);
        }
        Ok(tensor.value)
    }

    /// Writes `value`, of the tensor's type, into a tensor and with it into everything that shares its storage.
    pub fn write(&mut self, b: &mut Builder, tensor: &mut Tensor, value: Value) -> Result<(), String> {
        if self.list[tensor.storage.0].of.is_some() {
            return Err("a write through a view of another dtype is not supported".into());
        }
        let now = self.read(b, tensor)?;
        let mut steps = chain(b, now, tensor.from).ok_or("a view was lost")?;
        let new = if steps.iter().any(Step::reads_positions) {
            put_positions(b, &steps, tensor.from, value)?
        } else {
            let mut new = value;
            while let Some(step) = steps.pop() {
                new = put_back(b, &step.op, step.operands[0], new)?;
            }
            new
        };
        let storage = &mut self.list[tensor.storage.0];
        storage.value = new;
        storage.version += 1;
        // What is read back is what was written, by the same views.
        tensor.value = replay(b, &chain(b, now, tensor.from).ok_or("a view was lost")?, new)?;
        (tensor.from, tensor.version) = (new, storage.version);
        Ok(())
    }

    /// The current value of a storage.
    pub fn value(&self, storage: StorageId) -> Value {
        self.list[storage.0].value
    }

    /// Whether a storage was written.
    pub fn is_written(&self, storage: StorageId) -> bool {
        self.list[storage.0].version > 0
    }
}

/// One view of a chain, as it was recorded: its first operand is what it shows.
#[derive(Clone)]
struct Step {
    op: Op,
    operands: Vec<Value>,
}

impl Step {
    fn reads_positions(&self) -> bool {
        matches!(&self.op, Op::IndexSelect(_))
    }

    /// The same view of something else.
    fn of(&self, b: &mut Builder, x: Value) -> Result<Value, String> {
        b.op(self.op.clone(), &[&[x], &self.operands[1..]].concat())
    }
}

/// Views from `from` to `to`, first one first.
fn chain(b: &Builder, to: Value, from: Value) -> Option<Vec<Step>> {
    let (mut at, mut steps) = (to, vec![]);
    while at != from {
        let node = b.graph().def(at);
        let step = Step { op: Op::clone(&node.op), operands: node.operands.to_vec() };
        if !step.op.is_view() && !is_detach(&step.op) && !step.reads_positions() {
            return None;
        }
        at = node.operands[0];
        steps.push(step);
    }
    steps.reverse();
    Some(steps)
}

fn is_detach(op: &Op) -> bool {
    matches!(op, Op::Detach(_))
}

fn replay(b: &mut Builder, steps: &[Step], from: Value) -> Result<Value, String> {
    steps.iter().try_fold(from, |x, step| step.of(b, x))
}

/// `source`, which the views `steps` lead from, with what they show replaced by `new`.
fn put_positions(b: &mut Builder, steps: &[Step], source: Value, new: Value) -> Result<Value, String> {
    let shape = b.shape(source).clone();
    let n = shape.numel();
    let count = b.shape(new).numel();
    if count.is(0) {
        return Ok(source);
    }
    let all = b.iota(DType::I32, [n.clone()], 0)?;
    let mut at = b.reshape(all, shape.clone())?;
    for step in steps.iter().filter(|s| !is_detach(&s.op)) {
        at = step.of(b, at)?;
    }
    if !differ(b, at, &n, &count) {
        return Err("a write through windows or strides that overlap, or of a symbolic size, is not supported".into());
    }
    let at = b.reshape(at, [count.clone()])?;
    let (values, old) = (b.reshape(new, [count.clone()])?, b.reshape(source, [n.clone()])?);
    // Which of the new elements comes to each position, counted from one.
    let (none, number, one) = (b.full(DType::I32, 0.0, [n])?, b.iota(DType::I32, [count], 0)?, b.constant(DType::I32, 1.0)?);
    let number = b.add(number, one)?;
    let number = b.index_add(none, 0, at, number)?;
    let zero = b.constant(DType::I32, 0.0)?;
    let is_written = b.scalar(ScalarFn::Gt, &[number, zero])?;
    let number = b.sub(number, one)?;
    let number = b.scalar(ScalarFn::Maximum, &[number, zero])?;
    let written = b.index_select(values, 0, number)?;
    let flat = b.where_(is_written, written, old)?;
    let whole = b.reshape(flat, shape)?;
    if steps.iter().any(|s| is_detach(&s.op)) { straight_through(b, source, whole) } else { Ok(whole) }
}

/// Whether positions in `n` elements, which depend on nothing but sizes, are known to be all different.
fn differ(b: &Builder, at: Value, n: &Dim, count: &Dim) -> bool {
    let (Some(n), Some(count)) = (n.as_int(), count.as_int()) else { return false };
    if n.max(count) > MAX_POSITIONS {
        return false;
    }
    let Some(Data::Int(mut at)) = known(b, at).map(|array| array.data) else { return false };
    at.sort_unstable();
    at.windows(2).all(|pair| pair[0] != pair[1])
}

/// The elements of what is computed from constants alone.
fn known(b: &Builder, v: Value) -> Option<Array> {
    let node = b.graph().def(v);
    let operands = node.operands.iter().map(|&v| known(b, v)).collect::<Option<Vec<Array>>>()?;
    let small = node.types.iter().all(|ty| ty.numel().as_int().is_some_and(|n| n <= MAX_POSITIONS));
    if !small || matches!(*node.op, Op::InputOp(_)) || node.types.len() != 1 {
        return None;
    }
    node.op.eval(&operands, &node.types, Precision::Working).ok()?.pop()
}

/// `source` with the part that the view `op` shows replaced by `new`.
fn put_back(b: &mut Builder, op: &Op, source: Value, new: Value) -> Result<Value, String> {
    let shape = b.shape(source).clone();
    match op {
        Op::Reshape(_) => b.reshape(new, shape),
        Op::Permute(p) => {
            let mut inverse = vec![0; p.order.len()];
            for (i, &o) in p.order.iter().enumerate() {
                inverse[o as usize] = i;
            }
            b.permute(new, &inverse)
        }
        Op::Flip(f) => b.flip(new, &f.dims.iter().map(|&d| d as usize).collect::<Vec<_>>()),
        Op::Slice(s) => put_slice(b, source, new, s.dim as usize, &s.start, &s.end, s.step),
        Op::Detach(_) => straight_through(b, source, new),
        Op::Expand(_) => Err("a write through an expanded tensor would write one element several times".into()),
        other => Err(format!("a write through the view {} is not supported", other.name())),
    }
}

/// Whether PyTorch's `reshape` of a tensor of these sizes and strides to `new` sizes is a view, by its strides.
pub fn view_strides(sizes: &[i64], strides: &[i64], new: &[i64]) -> Option<Vec<i64>> {
    if sizes.contains(&0) {
        return Some(vec![]);
    }
    // Runs of dimensions that lie behind each other in memory, innermost last: elements and innermost stride.
    let mut runs: Vec<(i64, i64)> = vec![];
    for (&n, &stride) in sizes.iter().zip(strides).rev().filter(|(n, _)| **n != 1) {
        match runs.last_mut() {
            Some((count, inner)) if stride == inner.checked_mul(*count)? => *count = count.checked_mul(n)?,
            _ => runs.push((n, stride)),
        }
    }
    let (mut runs, mut out) = (runs.into_iter(), vec![]);
    let (mut left, mut stride) = runs.next().unwrap_or((1, 1));
    for &n in new.iter().rev() {
        if n == 1 {
            out.push(stride);
            continue;
        }
        if left == 1 {
            (left, stride) = runs.next()?;
        }
        if n == 0 || left % n != 0 {
            return None;
        }
        out.push(stride);
        left /= n;
        stride = stride.checked_mul(n)?;
    }
    out.reverse();
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::evaluate;
    use crate::graph::{InputRole, OutputRole};
    use crate::types::{HostTensor, TensorType};

    /// Writes `value` into `view(x)` for `x = 0..12` of shape 3 x 4, and gives the new `x`.
    fn check(value: f64, view: impl Fn(&mut Builder, Value) -> Result<Value, String>, expected: &[f32]) {
        let mut b = Builder::new("write");
        let x = b.input("x", InputRole::Input, TensorType::new(DType::F32, (3, 4))).unwrap();
        let mut storages = Storages::default();
        let mut base = storages.fresh(x);
        let part = view(&mut b, x).unwrap();
        let mut part = storages.view(&b, base, part);
        let shape = b.shape(part.value).clone();
        let new = b.full(DType::F32, value, shape).unwrap();
        storages.write(&mut b, &mut part, new).unwrap();
        let now = storages.read(&mut b, &mut base).unwrap();
        b.output("x", OutputRole::User, now);
        let part = storages.read(&mut b, &mut part).unwrap();
        b.output("part", OutputRole::User, part);
        let x: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let out = evaluate(&b.finish(), &[HostTensor::f32(&[3, 4], &x)], Precision::Working).unwrap();
        assert_eq!(out[0].to_f32(), expected);
        assert!(out[1].to_f64().iter().all(|&v| v == value));
    }

    #[test]
    fn writes_go_through_views() {
        let column = [0., 9., 2., 3., 4., 9., 6., 7., 8., 9., 10., 11.];
        check(9.0, |b, x| b.select(x, 1, 1), &column);
        check(
            9.0,
            |b, x| {
                let t = b.permute(x, &[1, 0])?;
                b.select(t, 0, 1)
            },
            &column,
        );
        check(
            9.0,
            |b, x| {
                let t = b.flip(x, &[1])?;
                b.slice(t, 1, 2, 3, 1)
            },
            &column,
        );
        check(
            9.0,
            |b, x| {
                let t = b.reshape(x, [12i64])?;
                b.slice(t, 0, 1, 12, 4)
            },
            &column,
        );
        check(5.0, |b, x| b.slice(x, 1, 0, 4, 3), &[5., 1., 2., 5., 5., 5., 6., 5., 5., 9., 10., 5.]);
        check(7.0, |_, x| Ok(x), &[7.0; 12]);
    }

    #[test]
    fn reshapes_are_views_where_strides_allow() {
        assert_eq!(view_strides(&[2, 3], &[3, 1], &[6]), Some(vec![1]));
        assert_eq!(view_strides(&[2, 3], &[1, 2], &[6]), None);
        assert_eq!(view_strides(&[4, 6], &[6, 1], &[2, 2, 3, 2]), Some(vec![12, 6, 2, 1]));
        assert_eq!(view_strides(&[2, 3, 4], &[4, 8, 1], &[6, 4]), None);
        assert_eq!(view_strides(&[2, 1, 4], &[4, 99, 1], &[8]), Some(vec![1]));
    }
}
