//! Concatenation.

use super::array::{coordinates, flat_index, sizes};
use super::pad::within;
use super::{Array, BatchContext, Built, Class, Data, Grads, NestBuilder, OpDef, Precision, Sample, VjpContext};
use crate::graph::Value;
use crate::loop_ir::IndexExpr;
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, TensorType, paired_besides};
use serde::{Deserialize, Serialize};

/// The operands one after the other along `dim`: `out[..., o_k + i, ...] = x_k[..., i, ...]` with `o_k` the sizes before.
///
/// * One or more operands of one dtype whose other sizes agree; nothing broadcasts. Any dtype.
/// * Gradient: a slice of the cotangent for each operand.
/// * Lowered to one pointwise nest that reads each operand only where it is; the builder's shorthand splits long lists, since
///   a kernel binds a limited number of buffers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Concat {
    /// The dimension along which operands follow each other.
    pub dim: u32,
}

impl OpDef for Concat {
    fn name(&self) -> &'static str {
        "cat"
    }
    fn class(&self) -> Class {
        Class::Pointwise
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let Some(first) = operands.first() else { return Err("takes at least one operand".into()) };
        let dim = self.dim as usize;
        if dim >= first.shape.rank() {
            return Err(format!("dimension {dim} is out of range"));
        }
        let mut shape = first.shape.clone();
        shape.0[dim] = Dim::int(0);
        for t in operands {
            let fits = t.dtype == first.dtype
                && t.shape.rank() == first.shape.rank()
                && (0..shape.rank()).all(|i| i == dim || t.shape[i].known_eq(&first.shape[i]));
            if !fits {
                return Err(format!("operands differ besides dimension {dim}"));
            }
            shape.0[dim] = shape.0[dim].clone() + &t.shape[dim];
        }
        Ok(vec![TensorType { dtype: first.dtype, shape }])
    }
    fn equal_sizes(&self, operands: &[TensorType]) -> Vec<(Dim, Dim)> {
        let Some((first, rest)) = operands.split_first() else { return vec![] };
        rest.iter().flat_map(|t| paired_besides(&first.shape, &t.shape, self.dim)).collect()
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], _precision: Precision) -> Result<Vec<Array>, String> {
        let (shape, dim) = (sizes(&types[0]), self.dim as usize);
        let place = |mut at: Vec<usize>| {
            let mut k = 0;
            while at[dim] >= operands[k].shape[dim] {
                at[dim] -= operands[k].shape[dim];
                k += 1;
            }
            (k, flat_index(&at, &operands[k].shape))
        };
        let dtype = types[0].dtype;
        let data = if dtype.is_float() {
            let parts: Vec<Vec<f64>> = operands.iter().map(Array::floats).collect();
            Data::Float(coordinates(&shape).map(place).map(|(k, i)| parts[k][i]).collect())
        } else {
            let parts: Vec<Vec<i64>> = operands.iter().map(Array::ints).collect();
            Data::Int(coordinates(&shape).map(place).map(|(k, i)| parts[k][i]).collect())
        };
        Ok(vec![Array { dtype, shape, data }])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let Some(g) = cx.cotangents[0] else { return Ok(vec![None; cx.operands.len()]) };
        let dim = self.dim as usize;
        let mut start = Dim::int(0);
        let mut grads = vec![];
        for &x in cx.operands {
            let end = start.clone() + &cx.b.shape(x)[dim];
            grads.push(if cx.b.dtype(x).is_float() { Some(cx.b.slice(g, dim, start, end.clone(), 1)?) } else { None });
            start = end;
        }
        Ok(grads)
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(Concat { dim: self.dim + 1 })
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let (operands, dim) = (cx.operands.clone(), self.dim as usize);
        if let [only] = &operands[..] {
            return cx.pointwise(0, |b, at| Ok(b.load(only.at(at))));
        }
        cx.pointwise(0, |b, at| {
            let position = b.index(&at[dim], DType::I32);
            let mut start = Dim::int(0);
            let mut parts = vec![];
            for x in &operands {
                let end = start.clone() + &x.ty.shape[dim];
                let (from, to) = (b.index(&IndexExpr::constant(start.clone()), DType::I32), b.index(&IndexExpr::constant(end.clone()), DType::I32));
                let (after, before) = (b.call(ScalarFn::Ge, &[position, from]), b.call(ScalarFn::Lt, &[position, to]));
                let here = b.call(ScalarFn::LogicalAnd, &[after, before]);
                let mut source = at.to_vec();
                source[dim] =
                    if x.ty.shape[dim].is(1) { IndexExpr::zero() } else { within(at[dim].plus(&(Dim::int(0) - &start)), &start, &x.ty.shape[dim]) };
                parts.push((here, b.load_if(x.at(&source), here)));
                start = end;
            }
            let mut out = parts.pop().expect("two operands at least").1;
            for (here, value) in parts.into_iter().rev() {
                out = b.call(ScalarFn::Where, &[here, value, out]);
            }
            Ok(out)
        })
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |dtype: DType, dim: u32, shapes: &[&[i64]]| Sample::new(Concat { dim }, shapes.iter().map(|&s| TensorType::new(dtype, s)).collect());
        vec![
            of(DType::F32, 0, &[&[3, 5], &[2, 5]]),
            of(DType::F32, 1, &[&[3, 1], &[3, 4], &[3, 0], &[3, 2]]),
            of(DType::F32, 2, &[&[2, 3, 1], &[2, 3, 7]]),
            of(DType::F32, 0, &[&[3]]),
            of(DType::I32, 0, &[&[3], &[1]]),
            of(DType::Bool, 1, &[&[1, 2], &[1, 3]]),
        ]
    }
}
