//! Views: ops that rename elements and cost nothing.

use super::array::{coordinates, flat_index, sizes};
use super::batch::behind;
use super::{Array, BatchContext, Built, Class, Grads, OpDef, Pad, Precision, Sample, VjpContext};
use crate::graph::Value;
use crate::loop_ir::{IndexExpr, flatten, unflatten};
use crate::types::{DType, Dim, Shape, TensorType, broadcast_pairs};
use serde::{Deserialize, Serialize};

/// The same elements in row-major order under another shape. The gradient reshapes back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reshape {
    /// New sizes; as many elements as before.
    pub shape: Shape,
}

impl OpDef for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }
    fn class(&self) -> Class {
        Class::View
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = operands else { return Err("takes one operand".into()) };
        if !x.numel().known_eq(&self.shape.numel()) {
            return Err(format!("{} elements do not reshape to {}", x.numel(), self.shape));
        }
        Ok(vec![TensorType { dtype: x.dtype, shape: self.shape.clone() }])
    }
    fn equal_sizes(&self, operands: &[TensorType]) -> Vec<(Dim, Dim)> {
        let [x] = operands else { return vec![] };
        vec![(x.numel(), self.shape.numel())]
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], _precision: Precision) -> Result<Vec<Array>, String> {
        Ok(vec![Array { shape: sizes(&types[0]), ..operands[0].clone() }])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let Some(g) = cx.cotangents[0] else { return Ok(vec![None]) };
        let shape = cx.b.shape(cx.operands[0]).clone();
        Ok(vec![Some(cx.b.reshape(g, shape)?)])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(Reshape { shape: cx.lead(&self.shape) })
    }
    fn view(&self, operand: &Shape, result: &Shape, out: &[IndexExpr]) -> Option<Vec<IndexExpr>> {
        Some(unflatten(&flatten(out, &result.0), &operand.0))
    }
    fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        self.shape = self.shape.map(f);
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |from: &[i64], to: &[i64]| {
            Sample::new(Reshape { shape: Shape::new(to.iter().map(|&d| d.into()).collect()) }, vec![TensorType::new(DType::F32, from)])
        };
        vec![of(&[6, 5], &[2, 15]), of(&[2, 3, 5], &[30]), of(&[1], &[]), of(&[3, 0], &[0, 7])]
    }
}

/// Reorders dimensions: result dimension `i` is operand dimension `order[i]`. The gradient permutes back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Permute {
    /// A permutation of `0..rank`.
    pub order: Vec<u32>,
}

impl OpDef for Permute {
    fn name(&self) -> &'static str {
        "permute"
    }
    fn class(&self) -> Class {
        Class::View
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = operands else { return Err("takes one operand".into()) };
        let mut sorted = self.order.clone();
        sorted.sort_unstable();
        if sorted != (0..x.shape.rank() as u32).collect::<Vec<_>>() {
            return Err(format!("{:?} does not permute the dimensions of {x}", self.order));
        }
        Ok(vec![TensorType { dtype: x.dtype, shape: Shape::new(self.order.iter().map(|&o| x.shape[o as usize].clone()).collect()) }])
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], _precision: Precision) -> Result<Vec<Array>, String> {
        let (x, shape) = (&operands[0], sizes(&types[0]));
        let mut from = vec![0; shape.len()];
        let index = coordinates(&shape).map(|at| {
            for (i, &o) in self.order.iter().enumerate() {
                from[o as usize] = at[i];
            }
            flat_index(&from, &x.shape)
        });
        Ok(vec![x.gather(shape.clone(), index)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let Some(g) = cx.cotangents[0] else { return Ok(vec![None]) };
        let mut back = vec![0; self.order.len()];
        for (i, &o) in self.order.iter().enumerate() {
            back[o as usize] = i;
        }
        Ok(vec![Some(cx.b.permute(g, &back)?)])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(Permute { order: [vec![0], behind(&self.order)].concat() })
    }
    fn view(&self, _operand: &Shape, _result: &Shape, out: &[IndexExpr]) -> Option<Vec<IndexExpr>> {
        let mut at = vec![IndexExpr::zero(); out.len()];
        for (i, &o) in self.order.iter().enumerate() {
            at[o as usize] = out[i].clone();
        }
        Some(at)
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |from: &[i64], order: &[u32]| Sample::new(Permute { order: order.to_vec() }, vec![TensorType::new(DType::F32, from)]);
        vec![of(&[3, 5], &[1, 0]), of(&[2, 3, 4], &[2, 0, 1])]
    }
}

/// Repeats dimensions of size one: NumPy's broadcast at equal rank. The gradient sums over the repeated dimensions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Expand {
    /// Result sizes; equal to the operand's wherever those are not one.
    pub shape: Shape,
}

impl OpDef for Expand {
    fn name(&self) -> &'static str {
        "expand"
    }
    fn class(&self) -> Class {
        Class::View
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = operands else { return Err("takes one operand".into()) };
        let fits = x.shape.rank() == self.shape.rank() && x.shape.0.iter().zip(&self.shape.0).all(|(a, b)| a.is(1) || a.known_eq(b));
        if !fits {
            return Err(format!("does not expand to {}", self.shape));
        }
        Ok(vec![TensorType { dtype: x.dtype, shape: self.shape.clone() }])
    }
    fn equal_sizes(&self, operands: &[TensorType]) -> Vec<(Dim, Dim)> {
        let [x] = operands else { return vec![] };
        broadcast_pairs(&self.shape, &x.shape)
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], _precision: Precision) -> Result<Vec<Array>, String> {
        let (x, shape) = (&operands[0], sizes(&types[0]));
        let index = coordinates(&shape).map(|mut at| {
            for (i, &n) in x.shape.iter().enumerate() {
                at[i] = if n == 1 { 0 } else { at[i] };
            }
            flat_index(&at, &x.shape)
        });
        Ok(vec![x.gather(shape.clone(), index)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let Some(g) = cx.cotangents[0] else { return Ok(vec![None]) };
        let shape = cx.b.shape(cx.operands[0]).clone();
        Ok(vec![Some(cx.b.sum_to(g, &shape)?)])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(Expand { shape: cx.lead(&self.shape) })
    }
    fn view(&self, operand: &Shape, _result: &Shape, out: &[IndexExpr]) -> Option<Vec<IndexExpr>> {
        Some(out.iter().zip(&operand.0).map(|(e, n)| if n.is(1) { IndexExpr::zero() } else { e.clone() }).collect())
    }
    fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        self.shape = self.shape.map(f);
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |from: &[i64], to: &[i64]| {
            Sample::new(Expand { shape: Shape::new(to.iter().map(|&d| d.into()).collect()) }, vec![TensorType::new(DType::F32, from)])
        };
        vec![of(&[3, 1], &[3, 5]), of(&[1, 4, 1], &[2, 4, 3])]
    }
}

/// Elements `start, start + step, ...` below `end` of one dimension, `0 <= start <= end <= size`, `step >= 1`. The gradient
/// pads with zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Slice {
    /// The dimension sliced.
    pub dim: u32,
    /// First index.
    pub start: Dim,
    /// Exclusive end.
    pub end: Dim,
    /// Distance between elements taken.
    pub step: i64,
}

impl OpDef for Slice {
    fn name(&self) -> &'static str {
        "slice"
    }
    fn class(&self) -> Class {
        Class::View
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = operands else { return Err("takes one operand".into()) };
        let size = x.shape.0.get(self.dim as usize).ok_or_else(|| format!("dimension {} is out of range", self.dim))?;
        let inside = Dim::int(0).known_le(&self.start) && self.start.known_le(&self.end) && self.end.known_le(size);
        if !inside || self.step < 1 {
            return Err(format!("{}..{} step {} is not inside dimension {} of size {size}", self.start, self.end, self.step, self.dim));
        }
        let mut shape = x.shape.clone();
        shape.0[self.dim as usize] = (self.end.clone() - &self.start).ceil_div(&Dim::int(self.step));
        Ok(vec![TensorType { dtype: x.dtype, shape }])
    }
    fn bounded_sizes(&self, operands: &[TensorType]) -> Vec<(Dim, Dim)> {
        let size = operands.first().and_then(|x| x.shape.0.get(self.dim as usize));
        let Some(size) = size else { return vec![] };
        vec![(Dim::int(0), self.start.clone()), (self.start.clone(), self.end.clone()), (self.end.clone(), size.clone())]
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], _precision: Precision) -> Result<Vec<Array>, String> {
        let (x, shape) = (&operands[0], sizes(&types[0]));
        let start = self.start.as_int().ok_or("symbolic start")? as usize;
        let index = coordinates(&shape).map(|mut at| {
            at[self.dim as usize] = start + at[self.dim as usize] * self.step as usize;
            flat_index(&at, &x.shape)
        });
        Ok(vec![x.gather(shape.clone(), index)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let (Some(g), x) = (cx.cotangents[0], cx.operands[0]) else { return Ok(vec![None]) };
        if !cx.b.dtype(x).is_float() {
            return Ok(vec![None]);
        }
        let (shape, dim) = (cx.b.shape(x).clone(), self.dim as usize);
        let taken = cx.b.shape(g)[dim].clone();
        let mut pad = Pad {
            low: vec![Dim::int(0); shape.rank()].into(),
            high: vec![Dim::int(0); shape.rank()].into(),
            interior: vec![0; shape.rank()].into(),
            ..Pad::default()
        };
        // Of one element, no step is taken.
        let between = if taken.is(1) { 0 } else { self.step - 1 };
        pad.interior[dim] = u32::try_from(between).map_err(|_| format!("a step of {} has no gradient", self.step))?;
        let covered = pad.dilated(dim, &taken);
        pad.high[dim] = shape[dim].clone() - &self.start - &covered;
        pad.low[dim] = self.start.clone();
        Ok(vec![Some(cx.b.op(pad, &[g])?)])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(Slice { dim: self.dim + 1, ..self.clone() })
    }
    fn view(&self, _operand: &Shape, _result: &Shape, out: &[IndexExpr]) -> Option<Vec<IndexExpr>> {
        let mut at = out.to_vec();
        let dim = self.dim as usize;
        at[dim] = at[dim].times(&Dim::int(self.step)).plus(&self.start);
        Some(at)
    }
    fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        (self.start, self.end) = (f(&self.start), f(&self.end));
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |start: i64, end: i64, step: i64| {
            Sample::new(Slice { dim: 1, start: start.into(), end: end.into(), step }, vec![TensorType::new(DType::F32, (3, 7))])
        };
        vec![of(0, 7, 2), of(2, 6, 1), of(3, 3, 1)]
    }
}

/// The order of some dimensions reversed: `out[..., i, ...] = x[..., size - 1 - i, ...]`. The gradient is flipped back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Flip {
    /// The dimensions reversed.
    pub dims: Vec<u32>,
}

impl OpDef for Flip {
    fn name(&self) -> &'static str {
        "flip"
    }
    fn class(&self) -> Class {
        Class::View
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = operands else { return Err("takes one operand".into()) };
        let in_range = self.dims.iter().all(|&d| (d as usize) < x.shape.rank());
        if !in_range || self.dims.iter().enumerate().any(|(i, d)| self.dims[..i].contains(d)) {
            return Err(format!("dimensions {:?} are not distinct and in range", self.dims));
        }
        Ok(vec![x.clone()])
    }
    fn eval(&self, operands: &[Array], _types: &[TensorType], _precision: Precision) -> Result<Vec<Array>, String> {
        let x = &operands[0];
        let index = coordinates(&x.shape).map(|mut at| {
            for &d in &self.dims {
                at[d as usize] = x.shape[d as usize] - 1 - at[d as usize];
            }
            flat_index(&at, &x.shape)
        });
        Ok(vec![x.gather(x.shape.clone(), index)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let Some(g) = cx.cotangents[0] else { return Ok(vec![None]) };
        Ok(vec![Some(cx.b.op(self.clone(), &[g])?)])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(Flip { dims: behind(&self.dims) })
    }
    fn view(&self, operand: &Shape, _result: &Shape, out: &[IndexExpr]) -> Option<Vec<IndexExpr>> {
        let mut at = out.to_vec();
        for &d in &self.dims {
            at[d as usize] = at[d as usize].subtract_from(&(operand[d as usize].clone() - &Dim::int(1)));
        }
        Some(at)
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |shape: &[i64], dims: &[u32]| Sample::new(Flip { dims: dims.to_vec() }, vec![TensorType::new(DType::F32, shape)]);
        vec![of(&[3, 5], &[1]), of(&[2, 3, 4], &[0, 2]), of(&[7], &[0]), of(&[1, 3], &[0])]
    }
}
