//! Activations with their own derivative.

use super::composite::{eval_decomposed, widen};
use super::{Array, BatchContext, Built, Class, Grads, OpDef, Precision, Sample, VjpContext};
use crate::graph::{Builder, Value};
use crate::scalar::ScalarFn;
use crate::types::{DType, TensorType};
use serde::{Deserialize, Serialize};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

/// `gelu(x) = x * Phi(x)`, with Phi the normal distribution function, or its approximation
/// `x / 2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))`.
///
/// * One float operand; the result has its type. Half floats are computed in f32.
/// * Gradient: `g * (Phi(x) + x * phi(x))`, with phi the normal density; of the approximation, its own.
/// * PyTorch: `approximate="none"` and `approximate="tanh"`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Gelu {
    /// Whether Phi is approximated through tanh.
    pub approximate: bool,
}

/// `silu(x) = x * sigmoid(x)`, also called swish.
///
/// * One float operand; the result has its type. Half floats are computed in f32.
/// * Gradient: `g * s * (1 + x * (1 - s))` with `s = sigmoid(x)`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Silu {}

/// `sqrt(2 / pi)`.
const SCALE: f64 = FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
const CUBIC: f64 = 0.044715;

fn check(operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
    let [x] = operands else { return Err("takes one operand".into()) };
    if !x.dtype.is_float() {
        return Err(format!("does not take {}", x.dtype));
    }
    Ok(vec![x.clone()])
}

fn map(x: &Array, f: impl Fn(f64) -> f64) -> Vec<Array> {
    vec![Array::float(x.dtype, x.shape.clone(), x.floats().into_iter().map(f).collect())]
}

fn plus(b: &mut Builder, x: Value, k: f64) -> Built {
    let k = b.constant(b.dtype(x), k)?;
    b.add(x, k)
}

impl Gelu {
    /// Phi(x), exact or approximate, and for the approximation the tanh in it; `x` in the accumulator's dtype.
    fn distribution(&self, b: &mut Builder, x: Value) -> Built<(Value, Option<Value>)> {
        let curve = if self.approximate {
            let square = b.mul(x, x)?;
            let square = b.scale(square, SCALE * CUBIC)?;
            let factor = plus(b, square, SCALE)?;
            let inner = b.mul(x, factor)?;
            b.scalar(ScalarFn::Tanh, &[inner])?
        } else {
            let inner = b.scale(x, FRAC_1_SQRT_2)?;
            b.scalar(ScalarFn::Erf, &[inner])?
        };
        let half = b.scale(curve, 0.5)?;
        Ok((plus(b, half, 0.5)?, self.approximate.then_some(curve)))
    }
}

impl OpDef for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }
    fn class(&self) -> Class {
        Class::Composite
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        check(operands)
    }
    fn eval(&self, operands: &[Array], _types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        match (precision, self.approximate) {
            (Precision::Working, _) => eval_decomposed(self, operands, precision),
            (Precision::Exact, true) => Ok(map(&operands[0], |x| 0.5 * x * (1.0 + (SCALE * (x + CUBIC * x.powi(3))).tanh()))),
            (Precision::Exact, false) => Ok(map(&operands[0], |x| 0.5 * x * (1.0 + libm::erf(x * FRAC_1_SQRT_2)))),
        }
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let Some(g) = cx.cotangents[0] else { return Ok(vec![None]) };
        let (dtype, b) = (cx.b.dtype(g), &mut *cx.b);
        let (x, g) = (widen(b, cx.operands[0])?, widen(b, g)?);
        let (phi, tanh) = self.distribution(b, x)?;
        let density = match tanh {
            // (1 - tanh^2) / 2 * d inner / dx
            Some(t) => {
                let square = b.mul(t, t)?;
                let rest = b.scale(square, -0.5)?;
                let rest = plus(b, rest, 0.5)?;
                let square = b.mul(x, x)?;
                let slope = b.scale(square, 3.0 * SCALE * CUBIC)?;
                let slope = plus(b, slope, SCALE)?;
                b.mul(rest, slope)?
            }
            None => {
                let square = b.mul(x, x)?;
                let exponent = b.scale(square, -0.5)?;
                let e = b.scalar(ScalarFn::Exp, &[exponent])?;
                b.scale(e, 0.5 * SCALE)?
            }
        };
        let product = b.mul(x, density)?;
        let slope = b.add(phi, product)?;
        let dx = b.mul(g, slope)?;
        Ok(vec![Some(b.cast(dx, dtype)?)])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(self.clone())
    }
    fn decompose(&self, b: &mut Builder, operands: &[Value]) -> Option<Built<Vec<Value>>> {
        let mut build = || {
            let x = widen(b, operands[0])?;
            let (phi, _) = self.distribution(b, x)?;
            let y = b.mul(x, phi)?;
            Ok(vec![b.cast(y, b.dtype(operands[0]))?])
        };
        Some(build())
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |approximate, dtype| Sample::new(Gelu { approximate }, vec![TensorType::new(dtype, (3, 7))]);
        vec![of(false, DType::F32), of(true, DType::F32), of(true, DType::F16)]
    }
}

impl OpDef for Silu {
    fn name(&self) -> &'static str {
        "silu"
    }
    fn class(&self) -> Class {
        Class::Composite
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        check(operands)
    }
    fn eval(&self, operands: &[Array], _types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        match precision {
            Precision::Working => eval_decomposed(self, operands, precision),
            Precision::Exact => Ok(map(&operands[0], |x| x * (ScalarFn::Sigmoid.row().eval_f64)(&[x]))),
        }
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let Some(g) = cx.cotangents[0] else { return Ok(vec![None]) };
        let (dtype, b) = (cx.b.dtype(g), &mut *cx.b);
        let (x, g) = (widen(b, cx.operands[0])?, widen(b, g)?);
        let s = b.scalar(ScalarFn::Sigmoid, &[x])?;
        let one = b.constant(b.dtype(s), 1.0)?;
        let rest = b.sub(one, s)?;
        let rest = b.mul(x, rest)?;
        let rest = b.add(rest, one)?;
        let slope = b.mul(s, rest)?;
        let dx = b.mul(g, slope)?;
        Ok(vec![Some(b.cast(dx, dtype)?)])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(self.clone())
    }
    fn decompose(&self, b: &mut Builder, operands: &[Value]) -> Option<Built<Vec<Value>>> {
        let mut build = || {
            let x = widen(b, operands[0])?;
            let s = b.scalar(ScalarFn::Sigmoid, &[x])?;
            let y = b.mul(x, s)?;
            Ok(vec![b.cast(y, b.dtype(operands[0]))?])
        };
        Some(build())
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |dtype| Sample::new(Silu {}, vec![TensorType::new(dtype, (3, 7))]);
        vec![of(DType::F32), of(DType::BF16)]
    }
}
