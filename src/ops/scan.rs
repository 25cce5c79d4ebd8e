//! Prefix sums.

use super::array::sizes;
use super::composite::rows;
use super::{Array, Built, Class, Grads, NestBuilder, OpDef, Precision, Sample, VjpContext};
use crate::loop_ir::{Combiner, flatten};
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

impl OpDef for Cumsum {
    fn name(&self) -> &'static str {
        "cumsum"
    }
    fn class(&self) -> Class {
        Class::Scan
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = operands else { return Err("takes one operand".into()) };
        if self.dim as usize >= x.shape.rank() {
            return Err(format!("dimension {} is out of range", self.dim));
        }
        if x.dtype == DType::Bool {
            return Err("does not take bool; cast first".into());
        }
        Ok(vec![x.clone()])
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        let (x, shape) = (&operands[0], sizes(&types[0]));
        let rows = rows(&x.shape, &[self.dim as usize]);
        if x.dtype.is_float() {
            let (mut y, accumulator) = (x.floats(), x.dtype.accumulator());
            for row in rows {
                let mut sum = 0.0;
                for i in row {
                    sum = precision.round(accumulator, sum + y[i]);
                    y[i] = precision.round(x.dtype, sum);
                }
            }
            return Ok(vec![Array::float(x.dtype, shape, y)]);
        }
        let mut y = x.ints();
        for row in rows {
            let mut sum = 0;
            for i in row {
                sum = x.dtype.wrap(y[i].wrapping_add(sum));
                y[i] = sum;
            }
        }
        Ok(vec![Array::int(x.dtype, shape, y)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let Some(g) = cx.cotangents[0] else { return Ok(vec![None]) };
        let dims = [self.dim as usize];
        let back = cx.b.flip(g, &dims)?;
        let sums = cx.b.op(self.clone(), &[back])?;
        Ok(vec![Some(cx.b.flip(sums, &dims)?)])
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let (x, dim) = (cx.operand(0), self.dim as usize);
        let (buffer, ty) = cx.results[0].clone();
        let mut rows: Vec<Dim> = ty.shape.0.clone();
        let cols = [rows.remove(dim)];
        let accumulator = if ty.dtype.is_float() { ty.dtype.accumulator() } else { ty.dtype };
        cx.nest(&rows, &cols, |b, row, col| {
            let mut at = row.to_vec();
            at.insert(dim, col[0].clone());
            let v = b.load(&x, &at);
            let v = b.cast(v, accumulator);
            let sum = b.scan(Combiner::Sum, v);
            let y = b.cast(sum, ty.dtype);
            b.write(buffer, flatten(&at, &ty.shape.0), y);
            Ok(())
        })
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
