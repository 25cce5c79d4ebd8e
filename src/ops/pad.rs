//! Padding, cropping and dilation.

use super::array::{coordinates, flat_index, sizes};
use super::{Array, BatchContext, Built, Class, Data, Grads, NestBuilder, OpDef, Precision, Real, Sample, VjpContext};
use crate::graph::Value;
use crate::loop_ir::{BodyBuilder, IndexExpr, Val};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, Shape, TensorType};
use serde::{Deserialize, Serialize};

/// `out[i] = x[(i - low) / (interior + 1)]` along every dimension where that is an element of `x`, else `value`: `interior`
/// copies of `value` between neighbors, then `low` before and `high` after. Negative `low` and `high` crop.
///
/// * Result size: `low + n + (n - 1) * interior + high`, which must be provably non-negative. Any dtype.
/// * Gradient: the cotangent padded by `-low` and `-high`, then every `interior + 1`-th element.
/// * Numerics: elements are copied; elements that are cropped away are not read.
/// * PyTorch: `constant_pad_nd` without `interior`; XLA's `Pad` with it. The gradient of [`super::Slice`] is one pad.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pad {
    /// Elements added before each dimension.
    pub low: Box<[Dim]>,
    /// Elements added after each dimension.
    pub high: Box<[Dim]>,
    /// Elements added between neighbors of each dimension.
    pub interior: Box<[u32]>,
    /// What is added.
    pub value: Real,
}

impl Pad {
    /// Size of dimension `i` after dilation, before `low` and `high`.
    pub(super) fn dilated(&self, i: usize, n: &Dim) -> Dim {
        if self.interior[i] == 0 || n.is(0) {
            return n.clone();
        }
        let spread = (n.clone() - &Dim::int(1)) * &Dim::int(self.interior[i] as i64 + 1) + Dim::int(1);
        spread.max_with(&Dim::int(0))
    }

    /// Along dimension `i`: the operand's coordinate and the conditions under which it exists.
    fn source(&self, b: &mut BodyBuilder, i: usize, n: &Dim, result: &Dim, at: &IndexExpr) -> (IndexExpr, Vec<Val>) {
        let (low, dilated, step) = (&self.low[i], self.dilated(i, n), Dim::int(self.interior[i] as i64 + 1));
        let mut conditions = vec![];
        let position = b.index(at, DType::I32);
        if !low.known_le(&Dim::int(0)) {
            let bound = b.index(&IndexExpr::constant(low.clone()), DType::I32);
            conditions.push(b.call(ScalarFn::Ge, &[position, bound]));
        }
        let end = low.clone() + &dilated;
        if !result.known_le(&end) {
            let bound = b.index(&IndexExpr::constant(end), DType::I32);
            conditions.push(b.call(ScalarFn::Lt, &[position, bound]));
        }
        let shifted = at.plus(&(Dim::int(0) - low));
        if !step.is(1) {
            let rest = b.index(&shifted.modulo(&step), DType::I32);
            let zero = b.constant(DType::I32, 0.0);
            conditions.push(b.call(ScalarFn::Eq, &[rest, zero]));
        }
        (if n.is(1) { IndexExpr::zero() } else { shifted.div(&step) }, conditions)
    }
}

impl OpDef for Pad {
    fn name(&self) -> &'static str {
        "pad"
    }
    fn class(&self) -> Class {
        Class::Pointwise
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = operands else { return Err("takes one operand".into()) };
        let rank = x.shape.rank();
        if [self.low.len(), self.high.len(), self.interior.len()] != [rank; 3] {
            return Err(format!("takes {rank} amounts on each side and between"));
        }
        let mut shape = vec![];
        for (i, n) in x.shape.0.iter().enumerate() {
            let size = self.low[i].clone() + &self.dilated(i, n) + &self.high[i];
            if !Dim::int(0).known_le(&size) {
                return Err(format!("dimension {i} of size {n} padded by {} and {} is negative", self.low[i], self.high[i]));
            }
            shape.push(size);
        }
        Ok(vec![TensorType { dtype: x.dtype, shape: Shape::new(shape) }])
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], _precision: Precision) -> Result<Vec<Array>, String> {
        let (x, shape) = (&operands[0], sizes(&types[0]));
        let low: Option<Vec<i64>> = self.low.iter().map(Dim::as_int).collect();
        let low = low.ok_or("symbolic padding")?;
        let from = coordinates(&shape).map(|at| {
            let mut source = vec![0; at.len()];
            for (i, &a) in at.iter().enumerate() {
                let (shifted, step) = (a as i64 - low[i], self.interior[i] as i64 + 1);
                if shifted < 0 || shifted % step != 0 || shifted / step >= x.shape[i] as i64 {
                    return None;
                }
                source[i] = (shifted / step) as usize;
            }
            Some(flat_index(&source, &x.shape))
        });
        let data = match &x.data {
            Data::Float(v) => Data::Float(from.map(|k| k.map_or(self.value.get(), |k| v[k])).collect()),
            Data::Int(v) => Data::Int(from.map(|k| k.map_or(self.value.get() as i64, |k| v[k])).collect()),
        };
        Ok(vec![Array { dtype: x.dtype, shape: shape.clone(), data }])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let (Some(g), x) = (cx.cotangents[0], cx.operands[0]) else { return Ok(vec![None]) };
        let shape = cx.b.shape(x).clone();
        let minus = |amounts: &[Dim]| amounts.iter().map(|d| Dim::int(0) - d).collect::<Vec<Dim>>();
        let mut g = cx.b.pad(g, &minus(&self.low), &minus(&self.high), 0.0)?;
        for i in 0..shape.rank() {
            if self.interior[i] != 0 {
                let size = cx.b.shape(g)[i].clone();
                g = cx.b.slice(g, i, 0, size, self.interior[i] as i64 + 1)?;
            }
        }
        Ok(vec![Some(g)])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        let none = |amounts: &[Dim]| [&[Dim::int(0)], amounts].concat();
        let interior = [&[0], &self.interior[..]].concat().into();
        cx.apply(Pad { low: none(&self.low).into(), high: none(&self.high).into(), interior, value: self.value })
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let (x, ty) = (cx.operand(0), cx.result(0));
        cx.pointwise(0, |b, at| {
            let (mut from, mut mask) = (vec![], None);
            for (i, a) in at.iter().enumerate() {
                let (coordinate, conditions) = self.source(b, i, &x.ty.shape[i], &ty.shape[i], a);
                from.push(within(coordinate, &self.low[i], &x.ty.shape[i]));
                for c in conditions {
                    mask = b.both(mask, Some(c));
                }
            }
            let Some(mask) = mask else { return Ok(b.load(x.at(&from))) };
            let loaded = b.load_if(x.at(&from), mask);
            if self.value.get() == 0.0 {
                return Ok(loaded);
            }
            let value = b.constant(ty.dtype, self.value.get());
            Ok(b.call(ScalarFn::Where, &[mask, loaded, value]))
        })
    }
    fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        for d in self.low.iter_mut().chain(&mut self.high) {
            *d = f(d);
        }
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |dtype: DType, shape: &[i64], low: &[i64], high: &[i64], interior: &[u32], value: f64| {
            let dims = |d: &[i64]| d.iter().map(|&n| n.into()).collect();
            let op = Pad { low: dims(low), high: dims(high), interior: interior.into(), value: Real::new(value) };
            Sample::new(op, vec![TensorType::new(dtype, shape)])
        };
        vec![
            of(DType::F32, &[3, 5], &[1, 0], &[0, 2], &[0, 0], 0.0),
            of(DType::F32, &[3, 5], &[2, -1], &[-1, 3], &[0, 0], 1.5),
            of(DType::F32, &[4], &[1], &[2], &[2], 0.0),
            of(DType::F32, &[2, 3], &[-1, -2], &[1, 0], &[1, 3], f64::NEG_INFINITY),
            of(DType::F32, &[1, 7], &[3, -3], &[0, -4], &[0, 0], 0.0),
            of(DType::F32, &[0, 2], &[1, 0], &[2, 0], &[1, 0], 4.0),
            of(DType::I32, &[3], &[1], &[1], &[0], -7.0),
            of(DType::Bool, &[3, 2], &[1, 0], &[0, 1], &[0, 0], 1.0),
        ]
    }
}

/// A coordinate known to lie in `0..size` wherever it is read. Where the offset is a multiple of the size, as for one of
/// several equal parts, the remainder says so to later simplification: views of the part stay affine.
pub(super) fn within(coordinate: IndexExpr, offset: &Dim, size: &Dim) -> IndexExpr {
    if !size.is(0) && !coordinate.is_within(size) && offset.try_div(size).is_some() { coordinate.modulo(size) } else { coordinate }
}
