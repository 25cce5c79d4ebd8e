//! The sum of squared deviations in one pass.

use super::array::sizes;
use super::batch::behind;
use super::composite::{check_dims, dim_numbers, rows};
use super::{Array, BatchContext, Built, Class, Grads, NestBuilder, OpDef, Precision, Sample, VjpContext};
use crate::graph::Value;
use crate::loop_ir::{Combiner, IndexExpr, flatten};
use crate::types::{DType, Dim, TensorType};
use serde::{Deserialize, Serialize};

/// `sum over dims of (x - mean x)^2`, with the mean over the same dims, which the result keeps with size one; one pass over the data
/// (B. P. Welford, "Note on a method for calculating corrected sums of squares and products", 1962; parts combined after T. F. Chan,
/// G. H. Golub and R. J. LeVeque, 1979).
///
/// * One operand, f32 or f64, with an element to each result.
/// * No gradient: passes introduce it after differentiation.
/// * Numerics: no cancellation; a NaN or an infinity makes it NaN.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SquaredDeviations {
    /// Dimensions reduced: sorted, distinct.
    pub dims: Vec<u32>,
}

impl SquaredDeviations {
    fn is_reduced(&self, dim: usize) -> bool {
        self.dims.contains(&(dim as u32))
    }
}

impl OpDef for SquaredDeviations {
    fn name(&self) -> &'static str {
        "squared_deviations"
    }
    fn class(&self) -> Class {
        Class::Reduction
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = operands else { return Err("takes one operand".into()) };
        check_dims(&x.shape, &self.dims)?;
        if self.dims.iter().any(|&d| x.shape[d as usize].is(0)) {
            return Err("there is no element to take a mean of".into());
        }
        if !matches!(x.dtype, DType::F32 | DType::F64) {
            return Err(format!("does not take {}", x.dtype));
        }
        let mut out = x.clone();
        self.dims.iter().for_each(|&d| out.shape.0[d as usize] = Dim::int(1));
        Ok(vec![out])
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        let (x, dtype) = (operands[0].floats(), operands[0].dtype);
        let round = |y: f64| precision.round(dtype, y);
        let of_row = |row: Vec<usize>| {
            let mean = round(row.iter().fold(0.0, |s, &i| round(s + x[i])) / row.len() as f64);
            row.iter().fold(0.0, |s, &i| round(s + round(round(x[i] - mean).powi(2))))
        };
        let sums = rows(&operands[0].shape, &dim_numbers(&self.dims)).into_iter().map(of_row).collect();
        Ok(vec![Array::float(dtype, sizes(&types[0]), sums)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let _ = cx;
        Err("squared_deviations is not differentiable; differentiate the reductions it replaces".into())
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(SquaredDeviations { dims: behind(&self.dims) })
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let x = cx.operand(0);
        let result = cx.results[0].0;
        let side = |reduced: bool| {
            let of_side = x.ty.shape.0.iter().enumerate().filter(move |(d, _)| self.is_reduced(*d) == reduced);
            of_side.map(|(_, n)| n.clone()).collect::<Vec<Dim>>()
        };
        let (kept, reduced) = (side(false), side(true));
        cx.nest(&kept, &reduced, |b, row, col| {
            let (mut row_axes, mut col_axes) = (row.iter(), col.iter());
            let mut axis = |d: usize| if self.is_reduced(d) { col_axes.next() } else { row_axes.next() }.cloned();
            let at: Vec<IndexExpr> = (0..x.ty.shape.rank()).filter_map(&mut axis).collect();
            let v = b.load(x.at(&at));
            let mean = b.reduce(Combiner::Welford, v);
            let sum = b.proj(mean, 1);
            b.write(result, flatten(row, &kept), sum);
            Ok(())
        })
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |shape: &[i64], dims: &[u32]| Sample::new(SquaredDeviations { dims: dims.to_vec() }, vec![TensorType::new(DType::F32, shape)]);
        vec![of(&[3, 7], &[0]), of(&[3, 7], &[1]), of(&[2, 5, 3], &[0, 2]), of(&[4], &[0])]
    }
}
