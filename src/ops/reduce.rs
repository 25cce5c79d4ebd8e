//! Reductions along dimensions.

use super::array::{coordinates, flat_index, sizes};
use super::batch::behind;
use super::composite::check_dims;
use super::{Array, BatchContext, Built, Class, Grads, NestBuilder, OpDef, Precision, Sample, VjpContext};
use crate::graph::Value;
use crate::loop_ir::{Combiner, IndexExpr, flatten};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, Shape, TensorType};
use serde::{Deserialize, Serialize};

/// What a reduction computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReduceKind {
    /// Sum; 0 when empty. Half types accumulate in f32.
    #[default]
    Sum,
    /// Product; 1 when empty.
    Prod,
    /// Largest, NaN wins; the gradient goes to the first of equal elements. Empty is an error.
    Max,
    /// Smallest, NaN wins; the gradient goes to the first of equal elements. Empty is an error.
    Min,
    /// Whether any element of a bool tensor holds.
    Any,
    /// Whether all elements of a bool tensor hold.
    All,
    /// Index of the largest along one dimension, i32, first among equals, NaN first.
    Argmax,
    /// Index of the smallest along one dimension, i32, first among equals, NaN first.
    Argmin,
}

impl ReduceKind {
    /// The combiner of the loop IR.
    pub fn combiner(self) -> Combiner {
        match self {
            ReduceKind::Sum => Combiner::Sum,
            ReduceKind::Prod => Combiner::Prod,
            ReduceKind::Max => Combiner::Max,
            ReduceKind::Min => Combiner::Min,
            ReduceKind::Any => Combiner::Any,
            ReduceKind::All => Combiner::All,
            ReduceKind::Argmax => Combiner::ArgMax,
            ReduceKind::Argmin => Combiner::ArgMin,
        }
    }

    fn is_arg(self) -> bool {
        matches!(self, ReduceKind::Argmax | ReduceKind::Argmin)
    }
}

/// `out = combine over dims of x`. Dimensions are dropped unless `keepdim`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reduce {
    /// What is computed.
    pub kind: ReduceKind,
    /// Dimensions reduced: sorted, distinct. Argmax and argmin take exactly one.
    pub dims: Vec<u32>,
    /// Keep reduced dimensions with size one.
    pub keepdim: bool,
}

impl Reduce {
    fn is_reduced(&self, i: usize) -> bool {
        self.dims.contains(&(i as u32))
    }

    /// Operand coordinates from result coordinates and reduced coordinates.
    fn operand_at<T: Clone>(&self, rank: usize, kept: &[T], reduced: &[T]) -> Vec<T> {
        let (mut kept, mut reduced) = (kept.iter(), reduced.iter());
        (0..rank).map(|i| if self.is_reduced(i) { reduced.next() } else { kept.next() }.expect("ranks agree").clone()).collect()
    }
}

impl OpDef for Reduce {
    fn name(&self) -> &'static str {
        match self.kind {
            ReduceKind::Sum => "sum",
            ReduceKind::Prod => "prod",
            ReduceKind::Max => "amax",
            ReduceKind::Min => "amin",
            ReduceKind::Any => "any",
            ReduceKind::All => "all",
            ReduceKind::Argmax => "argmax",
            ReduceKind::Argmin => "argmin",
        }
    }
    fn class(&self) -> Class {
        Class::Reduction
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = operands else { return Err("takes one operand".into()) };
        check_dims(&x.shape, &self.dims)?;
        let is_bool = x.dtype == DType::Bool;
        match self.kind {
            ReduceKind::Any | ReduceKind::All if !is_bool => return Err("takes bool".into()),
            ReduceKind::Sum | ReduceKind::Prod if is_bool => return Err("does not take bool; cast first".into()),
            ReduceKind::Argmax | ReduceKind::Argmin if self.dims.len() != 1 => return Err("takes one dimension".into()),
            _ => {}
        }
        let needs_element = matches!(self.kind, ReduceKind::Max | ReduceKind::Min) || self.kind.is_arg();
        if needs_element && self.dims.iter().any(|&d| x.shape[d as usize].is(0)) {
            return Err("there is no element to choose from".into());
        }
        let mut shape = vec![];
        for (i, d) in x.shape.0.iter().enumerate() {
            if !self.is_reduced(i) {
                shape.push(d.clone());
            } else if self.keepdim {
                shape.push(Dim::int(1));
            }
        }
        let dtype = if self.kind.is_arg() { DType::I32 } else { x.dtype };
        Ok(vec![TensorType { dtype, shape: Shape::new(shape) }])
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        let (x, shape) = (&operands[0], sizes(&types[0]));
        let reduced: Vec<usize> = self.dims.iter().map(|&d| x.shape[d as usize]).collect();
        let kept: Vec<usize> = (0..x.shape.len()).filter(|&i| !self.is_reduced(i)).map(|i| x.shape[i]).collect();
        let rows = coordinates(&kept)
            .map(|at| coordinates(&reduced).map(|r| flat_index(&self.operand_at(x.shape.len(), &at, &r), &x.shape)).collect::<Vec<usize>>());
        let (floats, ints) = (x.floats(), x.ints());
        let accumulator = x.dtype.accumulator();
        if self.kind.is_arg() {
            let better = |a: f64, b: f64| if self.kind == ReduceKind::Argmax { a > b } else { a < b };
            let pick = |row: Vec<usize>| {
                let mut best = 0;
                for (i, &k) in row.iter().enumerate() {
                    let (v, w) = (floats[k], floats[row[best]]);
                    if !w.is_nan() && (v.is_nan() || better(v, w)) {
                        best = i;
                    }
                }
                best as i64
            };
            return Ok(vec![Array::int(DType::I32, shape, rows.map(pick).collect())]);
        }
        if x.dtype.is_float() {
            let step = |a: f64, b: f64| match self.kind {
                ReduceKind::Sum => precision.round(accumulator, a + b),
                ReduceKind::Prod => precision.round(accumulator, a * b),
                ReduceKind::Max => (ScalarFn::Maximum.row().eval_f64)(&[a, b]),
                _ => (ScalarFn::Minimum.row().eval_f64)(&[a, b]),
            };
            let start = match self.kind {
                ReduceKind::Sum => 0.0,
                ReduceKind::Prod => 1.0,
                ReduceKind::Max => f64::NEG_INFINITY,
                _ => f64::INFINITY,
            };
            let values = rows.map(|row| precision.round(x.dtype, row.into_iter().fold(start, |a, k| step(a, floats[k])))).collect();
            return Ok(vec![Array::float(x.dtype, shape, values)]);
        }
        let (lo, hi) = x.dtype.int_range().expect("integer or bool");
        let (start, step): (i64, fn(i64, i64) -> i64) = match self.kind {
            ReduceKind::Sum => (0, i64::wrapping_add),
            ReduceKind::Prod => (1, i64::wrapping_mul),
            ReduceKind::Max => (lo, i64::max),
            ReduceKind::Any => (0, |a, b| a | b),
            ReduceKind::All => (1, |a, b| a & b),
            _ => (hi, i64::min),
        };
        let values = rows.map(|row| x.dtype.wrap(row.into_iter().fold(start, |a, k| step(a, ints[k])))).collect();
        Ok(vec![Array::int(x.dtype, shape, values)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let (Some(g), x) = (cx.cotangents[0], cx.operands[0]) else { return Ok(vec![None]) };
        if !cx.b.dtype(x).is_float() || self.kind.is_arg() {
            return Ok(vec![None]);
        }
        let shape = cx.b.shape(x).clone();
        let dims: Vec<usize> = self.dims.iter().map(|&d| d as usize).collect();
        let mut with_ones = shape.clone();
        for &d in &dims {
            with_ones.0[d] = Dim::int(1);
        }
        let kept = cx.b.reshape(g, with_ones.clone())?;
        let spread = cx.b.broadcast_to(kept, &shape)?;
        match self.kind {
            ReduceKind::Sum => Ok(vec![Some(spread)]),
            ReduceKind::Max | ReduceKind::Min => {
                // The index is computed beside the value, so that no float is compared across the cut.
                let b = &mut *cx.b;
                let flat_shape = flatten_reduced(&shape, &dims);
                let order = kept_then_reduced(shape.rank(), &dims);
                let moved = b.permute(x, &order)?;
                let flat = b.reshape(moved, flat_shape.clone())?;
                let arg = if self.kind == ReduceKind::Max { ReduceKind::Argmax } else { ReduceKind::Argmin };
                let last = flat_shape.rank() - 1;
                let index = b.reduce(arg, flat, &[last], true)?;
                let position = b.iota(DType::I32, flat_shape, last)?;
                let hit = b.scalar(ScalarFn::Eq, &[position, index])?;
                let moved_shape = Shape::new(order.iter().map(|&o| shape[o].clone()).collect());
                let hit = b.reshape(hit, moved_shape)?;
                let mut back = vec![0; order.len()];
                for (i, &o) in order.iter().enumerate() {
                    back[o] = i;
                }
                let hit = b.permute(hit, &back)?;
                let zero = b.constant(b.dtype(g), 0.0)?;
                Ok(vec![Some(b.where_(hit, spread, zero)?)])
            }
            ReduceKind::Prod => {
                // d/dx_i = g * prod / x_i where no factor is zero; exact with zeros through the product of the others.
                let out = cx.b.reshape(cx.results[0], with_ones)?;
                let b = &mut *cx.b;
                let zero = b.constant(b.dtype(x), 0.0)?;
                let one = b.constant(b.dtype(x), 1.0)?;
                let is_zero = b.scalar(ScalarFn::Eq, &[x, zero])?;
                let count = b.where_(is_zero, one, zero)?;
                let zeros = b.reduce(ReduceKind::Sum, count, &dims, true)?;
                let safe = b.where_(is_zero, one, x)?;
                let rest = b.reduce(ReduceKind::Prod, safe, &dims, true)?;
                let single = b.scalar(ScalarFn::Eq, &[zeros, one])?;
                let only = b.where_(single, rest, zero)?;
                let quotient = b.div(out, safe)?;
                let only = b.broadcast_to(only, &shape)?;
                let partial = b.where_(is_zero, only, quotient)?;
                Ok(vec![Some(b.mul(spread, partial)?)])
            }
            ReduceKind::Any | ReduceKind::All | ReduceKind::Argmax | ReduceKind::Argmin => Ok(vec![None]),
        }
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(Reduce { dims: behind(&self.dims), ..self.clone() })
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let x = cx.operand(0);
        let (buffer, ty) = cx.results[0].clone();
        let rank = x.ty.shape.rank();
        let split = |reduced: bool| (0..rank).filter(|&i| self.is_reduced(i) == reduced).map(|i| x.ty.shape[i].clone()).collect::<Vec<Dim>>();
        let (rows, cols) = (split(false), split(true));
        let accumulator = if x.ty.dtype.is_float() { x.ty.dtype.accumulator() } else { x.ty.dtype };
        cx.nest(&rows, &cols, |b, row, col| {
            let at: Vec<IndexExpr> = self.operand_at(rank, row, col);
            let v = b.load(x.at(&at));
            let v = b.cast(v, accumulator);
            let r = b.reduce(self.kind.combiner(), v);
            let r = if self.kind.is_arg() { b.proj(r, 1) } else { b.cast(r, ty.dtype) };
            b.write(buffer, flatten(row, &rows), r);
            Ok(())
        })
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |kind: ReduceKind, dtype: DType, shape: &[i64], dims: &[u32], keepdim: bool| {
            Sample::new(Reduce { kind, dims: dims.to_vec(), keepdim }, vec![TensorType::new(dtype, shape)])
        };
        use ReduceKind::*;
        let mut out = vec![];
        for kind in [Sum, Prod, Max, Min] {
            out.push(of(kind, DType::F32, &[3, 7], &[1], false));
            out.push(of(kind, DType::F32, &[3, 7], &[0], true));
            out.push(of(kind, DType::F32, &[2, 3, 5], &[0, 2], false));
            out.push(of(kind, DType::I32, &[3, 7], &[1], false));
            out.push(of(kind, DType::F32, &[5], &[0], false));
        }
        out.push(of(Sum, DType::F32, &[3, 0], &[1], false));
        for kind in [Any, All] {
            out.push(of(kind, DType::Bool, &[3, 7], &[1], false));
        }
        for kind in [Argmax, Argmin] {
            out.push(of(kind, DType::F32, &[3, 7], &[1], false));
            out.push(of(kind, DType::F32, &[3, 7], &[0], true));
        }
        out
    }
}

fn kept_then_reduced(rank: usize, dims: &[usize]) -> Vec<usize> {
    (0..rank).filter(|i| !dims.contains(i)).chain(dims.iter().copied()).collect()
}

fn flatten_reduced(shape: &Shape, dims: &[usize]) -> Shape {
    let mut out: Vec<Dim> = (0..shape.rank()).filter(|i| !dims.contains(i)).map(|i| shape[i].clone()).collect();
    out.push(Dim::product(dims.iter().map(|&d| &shape[d])));
    Shape::new(out)
}
