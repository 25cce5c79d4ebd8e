//! The two numbers of a softmax row in one pass.

use super::array::sizes;
use super::composite::{largest, rows};
use super::{Array, BatchContext, Built, Class, Grads, NestBuilder, OpDef, Precision, Sample, VjpContext};
use crate::graph::Value;
use crate::loop_ir::{Combiner, IndexExpr, flatten};
use crate::types::{DType, Dim, TensorType};
use serde::{Deserialize, Serialize};

/// `max = max x` and `sum = sum exp(x - max)` along `dim`, which both results keep with size one: two results, one pass over the
/// row (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018).
///
/// * One operand, f32 or f64, not empty along `dim`.
/// * No gradient: passes introduce it after differentiation.
/// * Numerics: a NaN makes both NaN; so does an infinite maximum the sum, since `inf - inf` is NaN.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OnlineSoftmaxStats {
    /// The dimension reduced.
    pub dim: u32,
}

impl OpDef for OnlineSoftmaxStats {
    fn name(&self) -> &'static str {
        "online_softmax_stats"
    }
    fn class(&self) -> Class {
        Class::Reduction
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = operands else { return Err("takes one operand".into()) };
        let size = x.shape.0.get(self.dim as usize).ok_or_else(|| format!("dimension {} is out of range", self.dim))?;
        if size.is(0) {
            return Err("there is no element to choose from".into());
        }
        if !matches!(x.dtype, DType::F32 | DType::F64) {
            return Err(format!("does not take {}", x.dtype));
        }
        let mut row = x.clone();
        row.shape.0[self.dim as usize] = Dim::int(1);
        Ok(vec![row.clone(), row])
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        let (x, shape, dtype) = (operands[0].floats(), sizes(&types[0]), operands[0].dtype);
        let (mut maxima, mut sums) = (vec![], vec![]);
        for row in rows(&operands[0].shape, &[self.dim as usize]) {
            let max = largest(row.iter().map(|&i| x[i]));
            let term = |i: usize| precision.round(dtype, precision.round(dtype, x[i] - max).exp());
            sums.push(row.iter().fold(0.0, |s, &i| precision.round(dtype, s + term(i))));
            maxima.push(max);
        }
        Ok(vec![Array::float(dtype, shape.clone(), maxima), Array::float(dtype, shape, sums)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let _ = cx;
        Err("online_softmax_stats is not differentiable; differentiate the reductions it replaces".into())
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(OnlineSoftmaxStats { dim: self.dim + 1 })
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let x = cx.operand(0);
        let (max, sum) = (cx.results[0].0, cx.results[1].0);
        let dim = self.dim as usize;
        let mut rows = x.ty.shape.0.to_vec();
        let columns = vec![rows.remove(dim)];
        cx.nest(&rows, &columns, |b, row, col| {
            let mut at: Vec<IndexExpr> = row.to_vec();
            at.insert(dim, col[0].clone());
            let v = b.load(x.at(&at));
            let largest = b.reduce(Combiner::OnlineSoftmax, v);
            let total = b.proj(largest, 1);
            b.write(max, flatten(row, &rows), largest);
            b.write(sum, flatten(row, &rows), total);
            Ok(())
        })
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |shape: &[i64], dim: u32| Sample::new(OnlineSoftmaxStats { dim }, vec![TensorType::new(DType::F32, shape)]);
        vec![of(&[3, 7], 1), of(&[2, 5, 3], 1), of(&[4], 0)]
    }
}
