//! The linear layer.

use super::composite::eval_decomposed;
use super::{Array, BatchContext, Built, Class, Grads, Matmul, OpDef, Precision, Sample, VjpContext};
use crate::graph::{Builder, Value};
use crate::types::{DType, Dim, Shape, TensorType};
use serde::{Deserialize, Serialize};

/// `y[..., o] = sum over i of x[..., i] * weight[o, i] + bias[o]`.
///
/// * Operands `x[..., in]`, `weight[out, in]` and optionally `bias[out]`, floats of one dtype.
/// * One matrix product over all leading dimensions; half floats accumulate in f32.
/// * Gradient: `dx = g @ weight`, `dweight = g^T @ x`, `dbias = sum g`, products without copied transposes.
/// * PyTorch: `linear`; the weight is stored the same way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Linear {}

/// `x` with its leading dimensions flattened to one.
fn flatten(b: &mut Builder, x: Value) -> Built {
    let shape = b.shape(x);
    let (last, lead) = shape.0.split_last().expect("rank is checked");
    let flat = Shape::new(vec![Dim::product(lead), last.clone()]);
    b.reshape(x, flat)
}

fn product(transpose_a: bool, transpose_b: bool) -> Matmul {
    Matmul { transpose_a, transpose_b }
}

impl OpDef for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }
    fn class(&self) -> Class {
        Class::Composite
    }
    fn is_product(&self) -> bool {
        true
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let ([x, weight] | [x, weight, _]) = operands else { return Err("takes an input, a weight and at most one bias".into()) };
        if !x.dtype.is_float() || operands.iter().any(|t| t.dtype != x.dtype) {
            return Err("operands are not floats of one dtype".into());
        }
        let (Some(last), [out, inner]) = (x.shape.0.last(), &weight.shape.0[..]) else {
            return Err("takes an input of rank one at least and a weight of rank two".into());
        };
        if !last.known_eq(inner) {
            return Err("inner dimensions differ".into());
        }
        if operands.get(2).is_some_and(|bias| bias.shape.0 != [out.clone()]) {
            return Err(format!("the bias must be [{out}]"));
        }
        let mut shape = x.shape.clone();
        *shape.0.last_mut().expect("rank is one at least") = out.clone();
        Ok(vec![TensorType { dtype: x.dtype, shape }])
    }
    fn equal_sizes(&self, operands: &[TensorType]) -> Vec<(Dim, Dim)> {
        let [x, weight, ..] = operands else { return vec![] };
        x.shape.0.last().cloned().zip(weight.shape.0.get(1).cloned()).into_iter().collect()
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        if precision == Precision::Working {
            return eval_decomposed(self, operands, precision);
        }
        let (x, w, bias) = (operands[0].floats(), operands[1].floats(), operands.get(2).map(Array::floats));
        let shape = super::array::sizes(&types[0]);
        let (out, inner) = (operands[1].shape[0], operands[1].shape[1]);
        let n: usize = shape[..shape.len() - 1].iter().product();
        let element = |r: usize, o: usize| {
            let dot: f64 = (0..inner).map(|i| x[r * inner + i] * w[o * inner + i]).sum();
            dot + bias.as_ref().map_or(0.0, |b| b[o])
        };
        Ok(vec![Array::float(operands[0].dtype, shape, (0..n).flat_map(|r| (0..out).map(move |o| (r, o))).map(|(r, o)| element(r, o)).collect())])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let (Some(g), x, weight) = (cx.cotangents[0], cx.operands[0], cx.operands[1]) else { return Ok(vec![None; cx.operands.len()]) };
        let b = &mut *cx.b;
        let shape = b.shape(x).clone();
        let (flat_g, flat_x) = (flatten(b, g)?, flatten(b, x)?);
        let dx = b.op(product(false, false), &[flat_g, weight])?;
        let dx = b.reshape(dx, shape)?;
        let dweight = b.op(product(true, false), &[flat_g, flat_x])?;
        let mut grads = vec![Some(dx), Some(dweight)];
        if cx.operands.len() == 3 {
            grads.push(Some(b.reduce(super::ReduceKind::Sum, flat_g, &[0], false)?));
        }
        Ok(grads)
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        let own_parameters = (1..cx.operands.len()).any(|k| cx.is_each(k));
        if own_parameters { cx.decomposed(self) } else { cx.b.node(self.clone(), &cx.values()) }
    }
    fn decompose(&self, b: &mut Builder, operands: &[Value]) -> Option<Built<Vec<Value>>> {
        let mut build = || {
            let (x, weight) = (operands[0], operands[1]);
            let mut shape = b.shape(x).clone();
            *shape.0.last_mut().expect("rank is checked") = b.shape(weight)[0].clone();
            let flat = flatten(b, x)?;
            let mut y = b.op(product(false, true), &[flat, weight])?;
            if let Some(&bias) = operands.get(2) {
                y = b.add(y, bias)?;
            }
            Ok(vec![b.reshape(y, shape)?])
        };
        Some(build())
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |dtype: DType, x: &[i64], out: i64, bias: bool| {
            let inner = x[x.len() - 1];
            let mut operands = vec![TensorType::new(dtype, x), TensorType::new(dtype, (out, inner))];
            if bias {
                operands.push(TensorType::new(dtype, out));
            }
            Sample::new(Linear {}, operands)
        };
        vec![
            of(DType::F32, &[3, 5], 7, true),
            of(DType::F32, &[2, 3, 5], 4, true),
            of(DType::F32, &[5], 2, false),
            of(DType::F32, &[0, 3], 2, true),
            of(DType::F16, &[3, 4], 2, true),
        ]
    }
}
