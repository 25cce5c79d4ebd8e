//! Prefix sums, products and extrema.

use super::array::sizes;
use super::composite::rows;
use super::{Array, BatchContext, Built, Class, Grads, NestBuilder, OpDef, OperandView, Precision, Sample, ScatterAdd, VjpContext};
use crate::graph::{Builder, Value};
use crate::loop_ir::{Combiner, flatten};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, TensorType};
use serde::{Deserialize, Serialize};

/// `y[..., i, ...] = sum over j <= i of x[..., j, ...]` along `dim`.
///
/// * One float or integer operand; the result has its type. Half floats accumulate in f32 and are rounded once.
/// * Gradient: the cumulative sum from the other end, `flip(cumsum(flip(g)))`.
/// * PyTorch: integers are not widened to i64; cast first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cumsum {
    /// The dimension summed along.
    pub dim: u32,
}

/// `y[..., i, ...] = product over j <= i of x[..., j, ...]` along `dim`.
///
/// * One float or integer operand; the result has its type. Half floats accumulate in f32 and are rounded once.
/// * Gradient: before the first zero of a row the cumulative sum of `g * y` from the other end, divided by `x`; at that zero the
///   same sum of the products that leave it out; behind it nothing.
/// * PyTorch: integers are not widened to i64; cast first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cumprod {
    /// The dimension multiplied along.
    pub dim: u32,
}

/// Two results: the largest (or smallest) of the elements up to each one along `dim`, and its index, i32.
///
/// * One float or integer operand. NaN wins from where it first occurs. Of equal elements the last wins.
/// * Gradient: the cotangent is added at the indices, so that no float is compared again.
/// * PyTorch: `cummax` and `cummin`, whose indices are i64.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cumextremum {
    /// The dimension scanned.
    pub dim: u32,
    /// The smallest instead of the largest.
    pub min: bool,
}

fn infer_scan(operands: &[TensorType], dim: u32) -> Result<TensorType, String> {
    let [x] = operands else { return Err("takes one operand".into()) };
    if dim as usize >= x.shape.rank() {
        return Err(format!("dimension {dim} is out of range"));
    }
    if x.dtype == DType::Bool {
        return Err("does not take bool; cast first".into());
    }
    Ok(x.clone())
}

/// Prefixes by `combine`, in the accumulator of the dtype.
fn eval_scan(x: &Array, shape: Vec<usize>, dim: u32, combine: ScalarFn, precision: Precision) -> Result<Array, String> {
    let rows = rows(&x.shape, &[dim as usize]);
    if x.dtype.is_float() {
        let (mut y, accumulator) = (x.floats(), x.dtype.accumulator());
        for row in rows {
            let mut state = None;
            for i in row {
                let next = state.map_or(y[i], |s| precision.round(accumulator, (combine.row().eval_f64)(&[s, y[i]])));
                state = Some(next);
                y[i] = precision.round(x.dtype, next);
            }
        }
        return Ok(Array::float(x.dtype, shape, y));
    }
    let mut y = x.ints();
    for row in rows {
        for pair in row.windows(2) {
            y[pair[1]] = combine.eval_int(x.dtype, &[y[pair[0]], y[pair[1]]]).ok_or("takes floats only")?;
        }
    }
    Ok(Array::int(x.dtype, shape, y))
}

/// A nest of one scan, whose result goes to result 0.
fn lower_scan(cx: &mut NestBuilder<'_>, dim: usize, combiner: Combiner) -> Result<(), String> {
    let x = cx.operand(0);
    let (buffer, ty) = cx.results[0].clone();
    let mut rows: Vec<Dim> = ty.shape.0.to_vec();
    let cols = [rows.remove(dim)];
    let accumulator = if ty.dtype.is_float() { ty.dtype.accumulator() } else { ty.dtype };
    cx.nest(&rows, &cols, |b, row, col| {
        let mut at = row.to_vec();
        at.insert(dim, col[0].clone());
        let v = b.load(x.at(&at));
        let v = b.cast(v, accumulator);
        let y = b.scan(combiner, v);
        let y = b.cast(y, ty.dtype);
        b.write(buffer, flatten(&at, &ty.shape.0), y);
        Ok(())
    })
}

/// The cumulative sum from the other end.
fn reverse_sum(b: &mut Builder, x: Value, dim: u32) -> Built {
    let dims = [dim as usize];
    let back = b.flip(x, &dims)?;
    let sums = b.op(Cumsum { dim }, &[back])?;
    b.flip(sums, &dims)
}

impl OpDef for Cumsum {
    fn name(&self) -> &'static str {
        "cumsum"
    }
    fn class(&self) -> Class {
        Class::Scan
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        Ok(vec![infer_scan(operands, self.dim)?])
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        Ok(vec![eval_scan(&operands[0], sizes(&types[0]), self.dim, ScalarFn::Add, precision)?])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let Some(g) = cx.cotangents[0] else { return Ok(vec![None]) };
        Ok(vec![Some(reverse_sum(cx.b, g, self.dim)?)])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(Cumsum { dim: self.dim + 1 })
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        lower_scan(cx, self.dim as usize, Combiner::Sum)
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |dtype: DType, shape: &[i64], dim: u32| Sample::new(Cumsum { dim }, vec![TensorType::new(dtype, shape)]);
        vec![
            of(DType::F32, &[3, 7], 1),
            of(DType::F32, &[5, 2, 3], 0),
            of(DType::F32, &[1], 0),
            of(DType::F32, &[2, 0], 1),
            of(DType::I32, &[7], 0),
            of(DType::F16, &[2, 5], 1),
        ]
    }
}

impl OpDef for Cumprod {
    fn name(&self) -> &'static str {
        "cumprod"
    }
    fn class(&self) -> Class {
        Class::Scan
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        Ok(vec![infer_scan(operands, self.dim)?])
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        Ok(vec![eval_scan(&operands[0], sizes(&types[0]), self.dim, ScalarFn::Mul, precision)?])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let (Some(g), x, y) = (cx.cotangents[0], cx.operands[0], cx.results[0]) else { return Ok(vec![None]) };
        let b = &mut *cx.b;
        let dtype = b.dtype(x);
        if !dtype.is_float() {
            return Ok(vec![None]);
        }
        let (zero, one) = (b.constant(dtype, 0.0)?, b.constant(dtype, 1.0)?);
        let (none, single) = (b.constant(DType::I32, 0.0)?, b.constant(DType::I32, 1.0)?);
        let is_zero = b.scalar(ScalarFn::Eq, &[x, zero])?;
        let flag = b.cast(is_zero, DType::I32)?;
        let zeros = b.op(Cumsum { dim: self.dim }, &[flag])?;
        let before = b.scalar(ScalarFn::Eq, &[zeros, none])?;
        let after_one = b.scalar(ScalarFn::Eq, &[zeros, single])?;
        let first = b.scalar(ScalarFn::LogicalAnd, &[is_zero, after_one])?;
        let safe = b.where_(is_zero, one, x)?;
        let term = b.mul(g, y)?;
        let sum = reverse_sum(b, term, self.dim)?;
        let usual = b.div(sum, safe)?;
        let without = b.where_(first, one, x)?;
        let others = b.op(self.clone(), &[without])?;
        let others = b.where_(before, zero, others)?;
        let term = b.mul(g, others)?;
        let at_first = reverse_sum(b, term, self.dim)?;
        let rest = b.where_(first, at_first, zero)?;
        Ok(vec![Some(b.where_(before, usual, rest)?)])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(Cumprod { dim: self.dim + 1 })
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        lower_scan(cx, self.dim as usize, Combiner::Prod)
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |dtype: DType, shape: &[i64], dim: u32| Sample::new(Cumprod { dim }, vec![TensorType::new(dtype, shape)]);
        vec![
            of(DType::F32, &[3, 7], 1),
            of(DType::F32, &[5, 2, 3], 0),
            of(DType::F32, &[1], 0),
            of(DType::F32, &[2, 0], 1),
            of(DType::I32, &[7], 0),
            of(DType::F16, &[2, 5], 1),
        ]
    }
}

impl Cumextremum {
    fn function(&self) -> ScalarFn {
        if self.min { ScalarFn::Minimum } else { ScalarFn::Maximum }
    }
}

impl OpDef for Cumextremum {
    fn name(&self) -> &'static str {
        if self.min { "cummin" } else { "cummax" }
    }
    fn class(&self) -> Class {
        Class::Scan
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let x = infer_scan(operands, self.dim)?;
        let index = TensorType { dtype: DType::I32, shape: x.shape.clone() };
        Ok(vec![x, index])
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        let x = &operands[0];
        let y = eval_scan(x, sizes(&types[0]), self.dim, self.function(), precision)?;
        let (from, best) = (x.floats(), y.floats());
        let mut index = vec![0; x.numel()];
        for row in rows(&x.shape, &[self.dim as usize]) {
            let mut last = 0;
            for (k, i) in row.into_iter().enumerate() {
                if from[i].is_nan() || from[i] == best[i] {
                    last = k as i64;
                }
                index[i] = last;
            }
        }
        Ok(vec![y, Array::int(DType::I32, sizes(&types[1]), index)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let (Some(g), x) = (cx.cotangents[0], cx.operands[0]) else { return Ok(vec![None]) };
        if !cx.b.dtype(x).is_float() {
            return Ok(vec![None]);
        }
        let zeros = cx.b.full(cx.b.dtype(x), 0.0, cx.b.shape(x).clone())?;
        Ok(vec![Some(cx.b.op(ScatterAdd { dim: self.dim, checked: false }, &[zeros, cx.results[1], g])?)])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(Cumextremum { dim: self.dim + 1, ..self.clone() })
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let dim = self.dim as usize;
        lower_scan(cx, dim, if self.min { Combiner::Min } else { Combiner::Max })?;
        let x = cx.operand(0);
        let ((values, ty), (buffer, _)) = (cx.results[0].clone(), cx.results[1].clone());
        let best = OperandView::of(values, ty.clone());
        let mut rows: Vec<Dim> = ty.shape.0.to_vec();
        let cols = [rows.remove(dim)];
        cx.nest(&rows, &cols, |b, row, col| {
            let mut at = row.to_vec();
            at.insert(dim, col[0].clone());
            let (v, m) = (b.load(x.at(&at)), b.load(best.at(&at)));
            let mut hit = b.call(ScalarFn::Eq, &[v, m]);
            if ty.dtype.is_float() {
                let nan = b.call(ScalarFn::IsNan, &[v]);
                hit = b.call(ScalarFn::LogicalOr, &[hit, nan]);
            }
            let (position, zero) = (b.index(&col[0], DType::I32), b.constant(DType::I32, 0.0));
            let candidate = b.call(ScalarFn::Where, &[hit, position, zero]);
            let last = b.scan(Combiner::Max, candidate);
            b.write(buffer, flatten(&at, &ty.shape.0), last);
            Ok(())
        })
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |dtype: DType, shape: &[i64], dim: u32, min: bool| Sample::new(Cumextremum { dim, min }, vec![TensorType::new(dtype, shape)]);
        vec![
            of(DType::F32, &[3, 7], 1, false),
            of(DType::F32, &[5, 2, 3], 0, true),
            of(DType::F32, &[2, 0], 1, false),
            of(DType::I32, &[11], 0, false),
            of(DType::I32, &[2, 5], 1, true),
        ]
    }
}
