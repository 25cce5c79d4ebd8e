//! Scalar functions applied to every element.

use super::array::sizes;
use super::{Array, BatchContext, Built, Class, Grads, NestBuilder, OpDef, Precision, Sample, VjpContext};
use crate::graph::Value;
use crate::scalar::{Domain, Grad, ScalarFn};
use crate::types::{DType, Dim, TensorType, paired};
use serde::{Deserialize, Serialize};

/// `out[i...] = f(operands[i...])`: one row of the scalar table. Operands share one shape (the builder broadcasts) and, but
/// for the condition of `where`, one dtype. The row states formula, NaN behavior and derivative; f16 and bf16 are computed in
/// f32. Written in graph text as the function's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pointwise {
    /// The function.
    pub f: ScalarFn,
}

impl Default for Pointwise {
    fn default() -> Pointwise {
        Pointwise { f: ScalarFn::Neg }
    }
}

impl OpDef for Pointwise {
    fn name(&self) -> &'static str {
        self.f.name()
    }
    fn class(&self) -> Class {
        Class::Pointwise
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let row = self.f.row();
        if operands.len() != row.arity {
            return Err(format!("takes {} operands, got {}", row.arity, operands.len()));
        }
        if operands.iter().any(|t| !t.shape.known_eq(&operands[0].shape)) {
            return Err("operand shapes differ".into());
        }
        let data = if self.f == ScalarFn::Where { &operands[1..] } else { operands };
        if self.f == ScalarFn::Where && operands[0].dtype != DType::Bool {
            return Err("the condition is not bool".into());
        }
        if data.iter().any(|t| t.dtype != data[0].dtype) {
            return Err("operand dtypes differ".into());
        }
        if !row.domain.admits(data[0].dtype) {
            return Err(format!("does not take {}", data[0].dtype));
        }
        Ok(vec![TensorType { dtype: self.f.result(data[0].dtype), shape: operands[0].shape.clone() }])
    }
    fn equal_sizes(&self, operands: &[TensorType]) -> Vec<(Dim, Dim)> {
        let Some((first, rest)) = operands.split_first() else { return vec![] };
        rest.iter().flat_map(|t| paired(&first.shape.0, &t.shape.0)).collect()
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        let shape = sizes(&types[0]);
        let numel: usize = shape.iter().product();
        let dtype = operands.last().expect("arity is at least one").dtype;
        let out = types[0].dtype;
        if dtype.is_float() {
            let columns: Vec<Vec<f64>> = operands.iter().map(Array::floats).collect();
            let mut args = vec![0.0; columns.len()];
            let values = (0..numel).map(|i| {
                for (a, c) in args.iter_mut().zip(&columns) {
                    *a = c[i];
                }
                precision.round(out, (self.f.row().eval_f64)(&args))
            });
            let values: Vec<f64> = values.collect();
            return Ok(vec![if out.is_float() {
                Array::float(out, shape, values)
            } else {
                Array::int(out, shape, values.iter().map(|&x| x as i64).collect())
            }]);
        }
        let columns: Vec<Vec<i64>> = operands.iter().map(Array::ints).collect();
        let mut args = vec![0; columns.len()];
        let mut values = Vec::with_capacity(numel);
        for i in 0..numel {
            for (a, c) in args.iter_mut().zip(&columns) {
                *a = c[i];
            }
            values.push(self.f.eval_int(dtype, &args).ok_or("takes floats only")?);
        }
        Ok(vec![Array::int(out, shape, values)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let Some(g) = cx.cotangents[0] else { return Ok(vec![None; cx.operands.len()]) };
        match self.f.row().grad {
            Grad::Zero => Ok(vec![None; cx.operands.len()]),
            Grad::NotDifferentiable => Err(format!("{} is not differentiable", self.name())),
            Grad::Partials(partials) => {
                let args: Vec<crate::scalar::Expr> = (0..cx.operands.len()).map(crate::scalar::Expr::Arg).collect();
                let mut grads = vec![];
                for (k, partial) in partials(&args, crate::scalar::Expr::Out).into_iter().enumerate() {
                    grads.push(match partial {
                        Some(e) if cx.b.dtype(cx.operands[k]).is_float() => Some(product(cx, g, &e)?),
                        _ => None,
                    });
                }
                Ok(grads)
            }
        }
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(self.clone())
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let operands = cx.operands.clone();
        cx.pointwise(0, |b, at| {
            let args: Vec<_> = operands.iter().map(|o| b.load(o.at(at))).collect();
            Ok(b.call(self.f, &args))
        })
    }
    fn samples(&self) -> Vec<Sample> {
        let row = self.f.row();
        let of = |dtype: DType| {
            let ty = |d| TensorType::new(d, (3, 5));
            let operands = match self.f {
                ScalarFn::Where => vec![ty(DType::Bool), ty(dtype), ty(dtype)],
                _ => vec![ty(dtype); row.arity],
            };
            let sample = Sample::new(self.clone(), operands);
            let needs_positive = matches!(
                self.f,
                ScalarFn::Sqrt
                    | ScalarFn::Rsqrt
                    | ScalarFn::Log
                    | ScalarFn::Log2
                    | ScalarFn::Log1p
                    | ScalarFn::Pow
                    | ScalarFn::Div
                    | ScalarFn::Reciprocal
                    | ScalarFn::Remainder
                    | ScalarFn::Fmod
                    | ScalarFn::Atan2
            );
            if needs_positive { sample.positive() } else { sample }
        };
        match row.domain {
            Domain::Float => vec![of(DType::F32)],
            Domain::Number => vec![of(DType::F32), of(DType::I32)],
            Domain::Int if self.f == ScalarFn::Philox => vec![of(DType::U32)],
            Domain::Int => vec![of(DType::I32), of(DType::U32)],
            Domain::Bits => vec![of(DType::I32), of(DType::Bool)],
            Domain::Bool => vec![of(DType::Bool)],
            Domain::Any => vec![of(DType::F32), of(DType::I32), of(DType::Bool)],
        }
    }
}

/// `g * partial`, without multiplying by one.
fn product(cx: &mut VjpContext<'_>, g: crate::graph::Value, partial: &crate::scalar::Expr) -> Built {
    use crate::scalar::Expr;
    match partial {
        Expr::Const(1.0) => Ok(g),
        Expr::Const(-1.0) => cx.b.neg(g),
        Expr::Call(ScalarFn::Where, parts) => {
            // Select the cotangent itself, so that an infinite cotangent does not meet a zero factor.
            let cond = cx.b.expr(&parts[0], cx.operands, cx.results[0])?;
            let yes = product_or_zero(cx, g, &parts[1])?;
            let no = product_or_zero(cx, g, &parts[2])?;
            cx.b.where_(cond, yes, no)
        }
        // An inverse may overflow where the quotient does not, and be infinite where the cotangent is zero.
        Expr::Call(ScalarFn::Reciprocal, parts) => {
            let divisor = cx.b.expr(&parts[0], cx.operands, cx.results[0])?;
            cx.b.div(g, divisor)
        }
        _ => {
            let factor = cx.b.expr(partial, cx.operands, cx.results[0])?;
            cx.b.mul(g, factor)
        }
    }
}

fn product_or_zero(cx: &mut VjpContext<'_>, g: crate::graph::Value, partial: &crate::scalar::Expr) -> Built {
    match partial {
        crate::scalar::Expr::Const(x) if *x == 0.0 => cx.b.constant(cx.b.dtype(g), 0.0),
        _ => product(cx, g, partial),
    }
}
