//! How PyTorch computes functions that are composed here: half floats in wider arithmetic, and with derivatives of their own.
//!
//! The derivative of a composed formula is right but at singular points, where its parts have infinite slopes that do not cancel.
//! PyTorch states a derivative for the operator as a whole, and so do these functions.

use super::args::Cx;
use crate::graph::Value;
use crate::ops::{Constancy, Detach, ReduceKind};
use crate::scalar::ScalarFn as F;
use crate::types::DType;

/// `f` of floats in the dtype that sums of theirs are accumulated in, rounded to their own once, at the end.
pub fn wide<const N: usize>(cx: &mut Cx, x: [Value; N], f: impl FnOnce(&mut Cx, [Value; N]) -> Result<Value, String>) -> Result<Value, String> {
    let dtype = cx.b.dtype(x[0]);
    let mut operands = x;
    for x in &mut operands {
        *x = cx.b.cast(*x, dtype.accumulator())?;
    }
    let y = f(cx, operands)?;
    cx.b.cast(y, dtype)
}

/// `y` whose derivative with respect to each operand is the factor given with it, whatever `y` is computed from. All are of one
/// dtype.
pub fn with_partials(cx: &mut Cx, y: Value, partials: &[(Value, Value)]) -> Result<Value, String> {
    let linear = linear(cx, partials)?;
    cx.b.scalar(F::StraightThrough, &[y, linear])
}

/// `y` whose derivative with respect to each operand is one where the condition with it holds, and zero elsewhere: a cotangent that
/// is infinite meets no factor.
pub fn with_choices(cx: &mut Cx, y: Value, choices: &[(Value, Value)]) -> Result<Value, String> {
    let zero = cx.b.constant(cx.b.dtype(y), 0.0)?;
    let terms = choices.iter().map(|&(x, condition)| cx.b.where_(condition, x, zero)).collect::<Result<Vec<_>, _>>()?;
    let linear = sum(cx, terms)?;
    cx.b.scalar(F::StraightThrough, &[y, linear])
}

/// [`with_partials`] of a reduction over `dims`, kept with size one.
pub fn with_partials_over(cx: &mut Cx, y: Value, dims: &[usize], x: Value, partial: Value) -> Result<Value, String> {
    let linear = linear(cx, &[(x, partial)])?;
    let sum = cx.b.reduce(ReduceKind::Sum, linear, dims, true)?;
    cx.b.scalar(F::StraightThrough, &[y, sum])
}

/// The sum of operands times factors that are constants to this derivative.
fn linear(cx: &mut Cx, partials: &[(Value, Value)]) -> Result<Value, String> {
    let mut terms = vec![];
    for &(x, partial) in partials {
        let fixed = cx.b.op(Detach { constancy: Constancy::Partial }, &[partial])?;
        terms.push(cx.b.mul(x, fixed)?);
    }
    sum(cx, terms)
}

fn sum(cx: &mut Cx, terms: Vec<Value>) -> Result<Value, String> {
    let total = terms.into_iter().map(Ok).reduce(|x, y| cx.b.add(x?, y?));
    total.ok_or("there is no operand")?
}

/// One where the condition holds, else zero.
pub fn flag(cx: &mut Cx, condition: Value, dtype: DType) -> Result<Value, String> {
    cx.b.cast(condition, dtype)
}

/// `value` where `x` is not zero; zero there.
pub fn zero_at_zero(cx: &mut Cx, x: Value, value: Value) -> Result<Value, String> {
    let zero = cx.b.constant(cx.b.dtype(x), 0.0)?;
    let none = cx.b.scalar(F::Eq, &[x, zero])?;
    cx.b.where_(none, zero, value)
}
