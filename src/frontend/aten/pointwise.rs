//! Functions of one element: arithmetic, comparisons, selection, activations.

use super::args::{Args, Cx, Operand, Scalar};
use super::{Row, opmath, pure, view_if_strided};
use crate::graph::Value;
use crate::ops::{Op, ReduceKind};
use crate::scalar::ScalarFn as F;
use crate::types::{DType, broadcast_shapes};

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["acos.default", "arccos.default"], |cx, a| float(cx, a, F::Acos)),
    pure(&["acosh.default", "arccosh.default"], |cx, a| composed(cx, a, acosh)),
    pure(&["asin.default", "arcsin.default"], |cx, a| float(cx, a, F::Asin)),
    pure(&["asinh.default", "arcsinh.default"], |cx, a| composed(cx, a, asinh)),
    pure(&["atan.default", "arctan.default"], |cx, a| float(cx, a, F::Atan)),
    pure(&["atanh.default", "arctanh.default"], |cx, a| composed(cx, a, atanh)),
    pure(&["cos.default"], |cx, a| float(cx, a, F::Cos)),
    pure(&["cosh.default"], |cx, a| float(cx, a, F::Cosh)),
    pure(&["erf.default", "special_erf.default"], |cx, a| float(cx, a, F::Erf)),
    pure(&["exp.default"], |cx, a| float(cx, a, F::Exp)),
    pure(&["exp2.default", "special_exp2.default"], |cx, a| float(cx, a, F::Exp2)),
    pure(&["expm1.default", "special_expm1.default"], |cx, a| float(cx, a, F::Expm1)),
    pure(&["log.default"], |cx, a| float(cx, a, F::Log)),
    pure(&["log10.default"], |cx, a| {
        let y = float(cx, a, F::Log)?[0];
        Ok(vec![cx.b.scale(y, std::f64::consts::LOG10_E)?])
    }),
    pure(&["log1p.default", "special_log1p.default"], |cx, a| float(cx, a, F::Log1p)),
    pure(&["log2.default"], |cx, a| float(cx, a, F::Log2)),
    pure(&["reciprocal.default"], |cx, a| float(cx, a, F::Reciprocal)),
    pure(&["rsqrt.default"], |cx, a| float(cx, a, F::Rsqrt)),
    pure(&["sigmoid.default", "special_expit.default"], |cx, a| float(cx, a, F::Sigmoid)),
    pure(&["sin.default"], |cx, a| float(cx, a, F::Sin)),
    pure(&["sinh.default"], |cx, a| float(cx, a, F::Sinh)),
    pure(&["sqrt.default"], |cx, a| float(cx, a, F::Sqrt)),
    pure(&["tan.default"], |cx, a| float(cx, a, F::Tan)),
    pure(&["tanh.default"], |cx, a| float(cx, a, F::Tanh)),
    pure(&["abs.default", "absolute.default"], |cx, a| number(cx, a, F::Abs)),
    pure(&["ceil.default"], |cx, a| number(cx, a, F::Ceil)),
    pure(&["floor.default"], |cx, a| number(cx, a, F::Floor)),
    pure(&["neg.default", "negative.default"], |cx, a| number(cx, a, F::Neg)),
    pure(&["relu.default"], |cx, a| number(cx, a, F::Relu)),
    pure(&["round.default"], |cx, a| number(cx, a, F::Round)),
    pure(&["round.decimals", "special_round.default"], round_decimals),
    pure(&["sign.default", "sgn.default"], |cx, a| number(cx, a, F::Sign)),
    pure(&["trunc.default", "fix.default"], |cx, a| number(cx, a, F::Trunc)),
    pure(&["positive.default"], |_, a| Ok(vec![a.tensor("self")?])),
    pure(&["square.default"], |cx, a| {
        let x = a.tensor("self")?;
        // As the power of a bool and an integer.
        let x = if cx.b.dtype(x) == DType::Bool { cx.b.cast(x, DType::I64)? } else { x };
        Ok(vec![cx.b.mul(x, x)?])
    }),
    pure(&["isnan.default"], |cx, a| number_flag(cx, a, F::IsNan)),
    pure(&["isinf.default"], |cx, a| number_flag(cx, a, F::IsInf)),
    pure(&["isfinite.default"], |cx, a| {
        let x = a.tensor("self")?;
        let x = cx.widen_to_float(x)?;
        Ok(vec![is_finite(cx, x)?])
    }),
    pure(&["bitwise_not.default"], |cx, a| one(cx, a, F::BitwiseNot)),
    pure(&["logical_not.default"], |cx, a| {
        let x = a.tensor("self")?;
        let x = cx.b.cast(x, DType::Bool)?;
        Ok(vec![cx.b.scalar(F::LogicalNot, &[x])?])
    }),
    pure(&["add.Tensor", "add.Scalar", "__radd__.Tensor"], |cx, a| scaled(cx, a, F::Add)),
    pure(&["sub.Tensor", "sub.Scalar", "subtract.Tensor", "subtract.Scalar"], |cx, a| scaled(cx, a, F::Sub)),
    pure(&["rsub.Scalar", "rsub.Tensor"], rsub),
    pure(&["mul.Tensor", "mul.Scalar", "multiply.Tensor", "multiply.Scalar"], mul),
    pure(&["div.Tensor", "div.Scalar", "true_divide.Tensor", "true_divide.Scalar", "divide.Tensor", "divide.Scalar"], div),
    pure(&["div.Tensor_mode", "div.Scalar_mode", "divide.Tensor_mode", "divide.Scalar_mode"], div_mode),
    pure(&["floor_divide.default", "floor_divide.Tensor", "floor_divide.Scalar"], |cx, a| whole_quotient(cx, a, F::Floor)),
    pure(&["remainder.Tensor", "remainder.Scalar", "remainder.Scalar_Tensor"], |cx, a| binary(cx, a, F::Remainder)),
    pure(&["fmod.Tensor", "fmod.Scalar"], |cx, a| binary(cx, a, F::Fmod)),
    pure(&["pow.Tensor_Scalar", "pow.Tensor", "pow.Tensor_Tensor", "pow.Scalar"], pow),
    pure(&["atan2.default", "arctan2.default"], |cx, a| float_binary(cx, a, F::Atan2)),
    pure(&["maximum.default", "max.other"], |cx, a| binary(cx, a, F::Maximum)),
    pure(&["minimum.default", "min.other"], |cx, a| binary(cx, a, F::Minimum)),
    pure(&["fmax.default"], |cx, a| ignoring_nan(cx, a, F::Maximum, F::Ge)),
    pure(&["fmin.default"], |cx, a| ignoring_nan(cx, a, F::Minimum, F::Le)),
    pure(&["eq.Tensor", "eq.Scalar"], |cx, a| binary(cx, a, F::Eq)),
    pure(&["ne.Tensor", "ne.Scalar", "not_equal.Tensor", "not_equal.Scalar"], |cx, a| binary(cx, a, F::Ne)),
    pure(&["lt.Tensor", "lt.Scalar", "less.Tensor", "less.Scalar"], |cx, a| binary(cx, a, F::Lt)),
    pure(&["le.Tensor", "le.Scalar", "less_equal.Tensor", "less_equal.Scalar"], |cx, a| binary(cx, a, F::Le)),
    pure(&["gt.Tensor", "gt.Scalar", "greater.Tensor", "greater.Scalar"], |cx, a| binary(cx, a, F::Gt)),
    pure(&["ge.Tensor", "ge.Scalar", "greater_equal.Tensor", "greater_equal.Scalar"], |cx, a| binary(cx, a, F::Ge)),
    pure(&["logical_and.default"], |cx, a| logical(cx, a, F::LogicalAnd)),
    pure(&["logical_or.default"], |cx, a| logical(cx, a, F::LogicalOr)),
    pure(&["logical_xor.default"], |cx, a| logical(cx, a, F::LogicalXor)),
    pure(&["bitwise_and.Tensor", "bitwise_and.Scalar", "bitwise_and.Scalar_Tensor", "__and__.Tensor", "__and__.Scalar"], |cx, a| {
        binary(cx, a, F::BitwiseAnd)
    }),
    pure(&["bitwise_or.Tensor", "bitwise_or.Scalar", "bitwise_or.Scalar_Tensor", "__or__.Tensor", "__or__.Scalar"], |cx, a| {
        binary(cx, a, F::BitwiseOr)
    }),
    pure(&["bitwise_xor.Tensor", "bitwise_xor.Scalar", "bitwise_xor.Scalar_Tensor", "__xor__.Tensor", "__xor__.Scalar"], |cx, a| {
        binary(cx, a, F::BitwiseXor)
    }),
    pure(
        &[
            "bitwise_left_shift.Tensor",
            "bitwise_left_shift.Tensor_Scalar",
            "bitwise_left_shift.Scalar_Tensor",
            "__lshift__.Scalar",
            "__lshift__.Tensor",
        ],
        |cx, a| binary(cx, a, F::ShiftLeft),
    ),
    pure(
        &[
            "bitwise_right_shift.Tensor",
            "bitwise_right_shift.Tensor_Scalar",
            "bitwise_right_shift.Scalar_Tensor",
            "__rshift__.Scalar",
            "__rshift__.Tensor",
        ],
        |cx, a| binary(cx, a, F::ShiftRight),
    ),
    pure(&["where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar"], where_),
    pure(&["masked_fill.Scalar", "masked_fill.Tensor"], masked_fill),
    pure(&["clamp.default", "clamp.Tensor", "clip.default", "clip.Tensor"], clamp),
    pure(&["clamp_min.default", "clamp_min.Tensor"], |cx, a| one_bound(cx, a, "min", F::Maximum)),
    pure(&["clamp_max.default", "clamp_max.Tensor"], |cx, a| one_bound(cx, a, "max", F::Minimum)),
    pure(&["hardtanh.default"], hardtanh),
    pure(&["relu6.default"], |cx, a| {
        let x = a.tensor("self")?;
        Ok(vec![bounded(cx, x, 0.0, 6.0)?])
    }),
    pure(&["prims.copy_strided.default"], |_, a| {
        // Where the copy lies is nobody's concern.
        a.disregard(&["stride"]);
        Ok(vec![a.tensor("a")?])
    }),
    pure(&["prims.convert_element_type.default"], |cx, a| {
        let (x, dtype) = (a.tensor("a")?, a.dtype_opt("dtype")?.ok_or("it names no type")?);
        Ok(vec![cx.convert(x, dtype)?])
    }),
    pure(&["_to_copy.default", "_to_copy.out"], to_dtype),
    view_if_strided(&["to.dtype", "to.dtype_layout", "to.device", "to.other", "type_as.default"], to_dtype),
];

fn one(cx: &mut Cx, a: &Args, f: F) -> Built {
    let x = a.tensor("self")?;
    Ok(vec![cx.b.scalar(f, &[x])?])
}

/// A function of floats; integers become f32 first.
fn float(cx: &mut Cx, a: &Args, f: F) -> Built {
    let x = a.tensor("self")?;
    let x = cx.widen_to_float(x)?;
    Ok(vec![cx.b.scalar(f, &[x])?])
}

/// Whether a float is a number and no infinity.
pub fn is_finite(cx: &mut Cx, x: Value) -> Result<Value, String> {
    let (nan, infinite) = (cx.b.scalar(F::IsNan, &[x])?, cx.b.scalar(F::IsInf, &[x])?);
    let broken = cx.b.scalar(F::LogicalOr, &[nan, infinite])?;
    cx.b.scalar(F::LogicalNot, &[broken])
}

/// A function of floats and integers.
fn number(cx: &mut Cx, a: &Args, f: F) -> Built {
    let x = a.tensor("self")?;
    if cx.b.dtype(x) == DType::Bool {
        return Ok(vec![x]);
    }
    Ok(vec![cx.b.scalar(f, &[x])?])
}

/// A predicate that only floats can satisfy.
fn number_flag(cx: &mut Cx, a: &Args, f: F) -> Built {
    let x = a.tensor("self")?;
    if !cx.b.dtype(x).is_float() {
        let shape = cx.shape(x);
        return Ok(vec![cx.b.full(DType::Bool, 0.0, shape)?]);
    }
    Ok(vec![cx.b.scalar(f, &[x])?])
}

/// Both operands in their common dtype.
fn operands(cx: &mut Cx, a: &Args) -> Result<(Value, Value, DType), String> {
    let (x, y) = (a.operand("self")?, a.operand("other")?);
    let dtype = cx.result_type(&[&x, &y]);
    Ok((cx.as_tensor(&x, dtype)?, cx.as_tensor(&y, dtype)?, dtype))
}

fn binary(cx: &mut Cx, a: &Args, f: F) -> Built {
    let (x, y, _) = operands(cx, a)?;
    Ok(vec![cx.b.scalar(f, &[x, y])?])
}

fn float_binary(cx: &mut Cx, a: &Args, f: F) -> Built {
    let (x, y, _) = operands(cx, a)?;
    let (x, y) = (cx.widen_to_float(x)?, cx.widen_to_float(y)?);
    Ok(vec![cx.b.scalar(f, &[x, y])?])
}

/// A function of bools; everything that is not zero is true.
fn logical(cx: &mut Cx, a: &Args, f: F) -> Built {
    let (x, y) = (a.tensor("self")?, a.tensor("other")?);
    let (x, y) = (cx.b.cast(x, DType::Bool)?, cx.b.cast(y, DType::Bool)?);
    Ok(vec![cx.b.scalar(f, &[x, y])?])
}

/// `self + alpha * other`, or minus.
fn scaled(cx: &mut Cx, a: &Args, f: F) -> Built {
    let (x, mut y, dtype) = operands(cx, a)?;
    if dtype == DType::Bool {
        // A factor of false leaves nothing to add.
        if a.scalar_opt("alpha")?.is_some_and(|alpha| alpha.to_f64() == Some(0.0)) {
            let shape = broadcast_shapes(cx.b.shape(x), cx.b.shape(y))?;
            return Ok(vec![cx.b.broadcast_to(x, &shape)?]);
        }
        return Ok(vec![cx.b.scalar(F::LogicalOr, &[x, y])?]);
    }
    if let Some(alpha) = a.scalar_opt("alpha")?
        && alpha.to_f64() != Some(1.0)
    {
        let alpha = cx.number(&alpha, dtype)?;
        y = cx.b.mul(alpha, y)?;
    }
    Ok(vec![cx.b.scalar(f, &[x, y])?])
}

fn rsub(cx: &mut Cx, a: &Args) -> Built {
    let (x, y, dtype) = operands(cx, a)?;
    let alpha = a.scalar_opt("alpha")?.unwrap_or(Scalar::Float(1.0));
    let alpha = cx.number(&alpha, dtype)?;
    let x = cx.b.mul(x, alpha)?;
    Ok(vec![cx.b.sub(y, x)?])
}

fn mul(cx: &mut Cx, a: &Args) -> Built {
    let (x, y, dtype) = operands(cx, a)?;
    Ok(vec![cx.b.scalar(if dtype == DType::Bool { F::LogicalAnd } else { F::Mul }, &[x, y])?])
}

fn div(cx: &mut Cx, a: &Args) -> Built {
    float_binary(cx, a, F::Div)
}

/// Division rounded toward zero or down; without a mode it is `div`.
fn div_mode(cx: &mut Cx, a: &Args) -> Built {
    let mode = a.text_or("rounding_mode", "")?.to_string();
    match mode.as_str() {
        "" => div(cx, a),
        "floor" => whole_quotient(cx, a, F::Floor),
        "trunc" => whole_quotient(cx, a, F::Trunc),
        other => Err(format!("rounding mode {other} is not known")),
    }
}

/// The quotient rounded down or toward zero. Half floats are divided in f32, by a number as that, not as half of it: a quotient that
/// is rounded before, or a divisor, may step over an integer.
fn whole_quotient(cx: &mut Cx, a: &Args, rounding: F) -> Built {
    let (x, y) = (a.operand("self")?, a.operand("other")?);
    let dtype = cx.result_type(&[&x, &y]);
    let wide = if dtype.is_float() { dtype.accumulator() } else { dtype };
    let divisor = match &y {
        Operand::Scalar(_) => cx.as_tensor(&y, wide)?,
        Operand::Tensor(_) => cx.as_tensor(&y, dtype)?,
    };
    let dividend = cx.as_tensor(&x, dtype)?;
    let (dividend, divisor) = (cx.b.cast(dividend, wide)?, cx.b.cast(divisor, wide)?);
    let quotient = match rounding {
        F::Floor => cx.b.scalar(F::FloorDiv, &[dividend, divisor])?,
        _ if dtype.is_float() => {
            let quotient = cx.b.div(dividend, divisor)?;
            cx.b.scalar(F::Trunc, &[quotient])?
        }
        _ => integer_quotient(cx, dividend, divisor)?,
    };
    Ok(vec![cx.b.cast(quotient, dtype)?])
}

/// The quotient of integers, rounded toward zero.
pub fn integer_quotient(cx: &mut Cx, x: Value, y: Value) -> Result<Value, String> {
    // x - fmod(x, y) divides exactly, so that rounding down is rounding toward zero.
    let rest = cx.b.scalar(F::Fmod, &[x, y])?;
    let even = cx.b.sub(x, rest)?;
    cx.b.scalar(F::FloorDiv, &[even, y])
}

/// Powers of a constant small exponent are products, which are exact where `pow` is not.
fn pow(cx: &mut Cx, a: &Args) -> Built {
    let (x, y) = (a.operand("self")?, a.operand("exponent")?);
    let dtype = cx.result_type(&[&x, &y]);
    let base = cx.as_tensor(&x, dtype)?;
    if let Operand::Scalar(exponent) = &y
        && let Some(exponent) = exponent.to_f64()
        && let Some(power) = simple_power(cx, base, exponent)?
    {
        return Ok(vec![power]);
    }
    let exponent = cx.as_tensor(&y, dtype)?;
    Ok(vec![cx.b.scalar(F::Pow, &[base, exponent])?])
}

/// The power of an exponent that is spelled otherwise than by `pow`. A root keeps the derivative of `pow`, so that it is not one
/// with a root of the same base, whose infinite slope meets another cotangent.
fn simple_power(cx: &mut Cx, base: Value, exponent: f64) -> Result<Option<Value>, String> {
    let is_float = cx.b.dtype(base).is_float();
    Ok(Some(match exponent {
        1.0 => base,
        2.0 => cx.b.mul(base, base)?,
        3.0 => {
            let square = cx.b.mul(base, base)?;
            cx.b.mul(square, base)?
        }
        0.5 | -0.5 if is_float => {
            let root = cx.b.scalar(if exponent > 0.0 { F::Sqrt } else { F::Rsqrt }, &[base])?;
            let slope = if exponent > 0.0 {
                cx.b.scalar(F::Rsqrt, &[base])?
            } else {
                let power = cx.b.constant(cx.b.dtype(base), exponent - 1.0)?;
                cx.b.scalar(F::Pow, &[base, power])?
            };
            let partial = cx.b.scale(slope, exponent)?;
            opmath::with_partials(cx, root, &[(base, partial)])?
        }
        // Its slope has PyTorch's root, which is NaN where the power of minus infinity is not.
        1.5 if is_float => {
            let exponent = cx.b.constant(cx.b.dtype(base), exponent)?;
            let (power, root) = (cx.b.scalar(F::Pow, &[base, exponent])?, cx.b.scalar(F::Sqrt, &[base])?);
            let partial = cx.b.scale(root, 1.5)?;
            opmath::with_partials(cx, power, &[(base, partial)])?
        }
        -1.0 if is_float => cx.b.scalar(F::Reciprocal, &[base])?,
        _ => return Ok(None),
    }))
}

fn round_decimals(cx: &mut Cx, a: &Args) -> Built {
    let (x, decimals) = (a.tensor("self")?, a.int_or("decimals", 0)?);
    if !cx.b.dtype(x).is_float() || decimals == 0 {
        return number(cx, a, F::Round);
    }
    // Multiplying and dividing by the same positive power, as PyTorch does, gives its very roundings.
    let (up, down) = if decimals > 0 { (F::Mul, F::Div) } else { (F::Div, F::Mul) };
    let rounded = opmath::wide(cx, [x], |cx, [x]| {
        let factor = cx.b.constant(cx.b.dtype(x), 10f64.powi(decimals.unsigned_abs().min(300) as i32))?;
        let scaled = cx.b.scalar(up, &[x, factor])?;
        let rounded = cx.b.scalar(F::Round, &[scaled])?;
        cx.b.scalar(down, &[rounded, factor])
    })?;
    Ok(vec![rounded])
}

/// The larger or smaller; a NaN gives way to a number. Equal operands share the cotangent's first place, as in PyTorch.
fn ignoring_nan(cx: &mut Cx, a: &Args, _f: F, wins: F) -> Built {
    let (x, y, dtype) = operands(cx, a)?;
    let first = cx.b.scalar(wins, &[x, y])?;
    let first = if dtype.is_float() {
        let missing = cx.b.scalar(F::IsNan, &[y])?;
        cx.b.scalar(F::LogicalOr, &[first, missing])?
    } else {
        first
    };
    Ok(vec![cx.b.where_(first, x, y)?])
}

/// A composed function of one float; integers become f32 first, halves are rounded at the end.
pub fn composed(cx: &mut Cx, a: &Args, f: impl FnOnce(&mut Cx, Value) -> Result<Value, String>) -> Built {
    let x = a.tensor("self")?;
    let x = cx.widen_to_float(x)?;
    Ok(vec![opmath::wide(cx, [x], |cx, [x]| f(cx, x))?])
}

fn acosh(cx: &mut Cx, x: Value) -> Result<Value, String> {
    // log(x + sqrt(x - 1) sqrt(x + 1)): no overflow for large x, and NaN below one.
    let one = cx.b.constant(cx.b.dtype(x), 1.0)?;
    let (below, above) = (cx.b.sub(x, one)?, cx.b.add(x, one)?);
    let (below, above) = (cx.b.scalar(F::Sqrt, &[below])?, cx.b.scalar(F::Sqrt, &[above])?);
    let root = cx.b.mul(below, above)?;
    // With t = x - 1, log1p(t + root) keeps its digits near one.
    let t = cx.b.sub(x, one)?;
    let sum = cx.b.add(t, root)?;
    let y = cx.b.scalar(F::Log1p, &[sum])?;
    let square = cx.b.mul(x, x)?;
    let rest = cx.b.sub(square, one)?;
    let partial = cx.b.scalar(F::Rsqrt, &[rest])?;
    opmath::with_partials(cx, y, &[(x, partial)])
}

/// Where `asinh` is the logarithm of twice its operand to the last digit, and squares are far from overflow.
const LARGE: f64 = 1e9;

fn asinh(cx: &mut Cx, x: Value) -> Result<Value, String> {
    // log1p(m + m^2 / (1 + sqrt(m^2 + 1))) of the magnitude m, which does not cancel.
    let dtype = cx.b.dtype(x);
    let [zero, one, large, log2] = [0.0, 1.0, LARGE, std::f64::consts::LN_2].map(|k| cx.b.constant(dtype, k));
    let (zero, one) = (zero?, one?);
    let magnitude = cx.b.scalar(F::Abs, &[x])?;
    let square = cx.b.mul(magnitude, magnitude)?;
    let under = cx.b.add(square, one)?;
    let root = cx.b.scalar(F::Sqrt, &[under])?;
    let low = cx.b.add(root, one)?;
    let ratio = cx.b.div(square, low)?;
    let sum = cx.b.add(magnitude, ratio)?;
    let near = cx.b.scalar(F::Log1p, &[sum])?;
    let log = cx.b.scalar(F::Log, &[magnitude])?;
    let far = cx.b.add(log, log2?)?;
    let is_far = cx.b.scalar(F::Gt, &[magnitude, large?])?;
    let y = cx.b.where_(is_far, far, near)?;
    let minus = cx.b.neg(y)?;
    let negative = cx.b.scalar(F::Lt, &[x, zero])?;
    let y = cx.b.where_(negative, minus, y)?;
    // A zero keeps its sign.
    let none = cx.b.scalar(F::Eq, &[x, zero])?;
    let y = cx.b.where_(none, x, y)?;
    let partial = cx.b.scalar(F::Rsqrt, &[under])?;
    opmath::with_partials(cx, y, &[(x, partial)])
}

fn atanh(cx: &mut Cx, x: Value) -> Result<Value, String> {
    let minus = cx.b.neg(x)?;
    let (plus, minus) = (cx.b.scalar(F::Log1p, &[x])?, cx.b.scalar(F::Log1p, &[minus])?);
    let difference = cx.b.sub(plus, minus)?;
    let y = cx.b.scale(difference, 0.5)?;
    let (one, square) = (cx.b.constant(cx.b.dtype(x), 1.0)?, cx.b.mul(x, x)?);
    let rest = cx.b.sub(one, square)?;
    let partial = cx.b.scalar(F::Reciprocal, &[rest])?;
    opmath::with_partials(cx, y, &[(x, partial)])
}

fn where_(cx: &mut Cx, a: &Args) -> Built {
    let (x, y) = (a.operand("self")?, a.operand("other")?);
    let dtype = cx.result_type(&[&x, &y]);
    let condition = a.tensor("condition")?;
    let condition = cx.b.cast(condition, DType::Bool)?;
    let (x, y) = (cx.as_tensor(&x, dtype)?, cx.as_tensor(&y, dtype)?);
    if let Some((operand, dim)) = safe_softmax(cx, condition, x, y) {
        return Ok(vec![super::norm::without_dead_rows(cx, operand, dim)?]);
    }
    if let Some((factor, operand, log)) = xlogy(cx, condition, x, y) {
        return Ok(vec![super::special::times_log(cx, factor, operand, log)?]);
    }
    if let Some(operand) = log_ndtr(cx, condition, x, y) {
        return Ok(vec![super::special::log_ndtr(cx, operand)?]);
    }
    Ok(vec![cx.b.where_(condition, x, y)?])
}

/// What `_safe_softmax` is decomposed into: `where(not any(x != -inf), 0, softmax(x))`. As it stands there, rows of nothing
/// but minus infinity would have a gradient of NaN; the operator's own is zero.
fn safe_softmax(cx: &Cx, condition: Value, zero: Value, softmax: Value) -> Option<(Value, usize)> {
    let g = cx.b.graph();
    let Op::Softmax(s) = &*g.def(softmax).op else { return None };
    let x = *g.def(softmax).operands.first()?;
    let operand = |v: Value, f: F| match &*g.def(v).op {
        Op::Pointwise(p) if p.f == f => Some(g.def(v).operands.clone()),
        _ => None,
    };
    let any = *operand(condition, F::LogicalNot)?.first()?;
    let reduces = matches!(&*g.def(any).op, Op::Reduce(r) if r.kind == ReduceKind::Any && r.dims == [s.dim] && r.keepdim);
    let differs = *g.def(any).operands.first().filter(|_| reduces)?;
    let [of, low] = operand(*operand(differs, F::LogicalNot)?.first()?, F::Eq)?[..] else { return None };
    // A dtype that was asked for is cast to between.
    let uncast = if let Op::Cast(_) = &*g.def(x).op { *g.def(x).operands.first()? } else { x };
    let matches = [x, uncast].contains(&of) && number_everywhere(cx, low) == Some(f64::NEG_INFINITY) && number_everywhere(cx, zero) == Some(0.0);
    matches.then_some((x, s.dim as usize))
}

/// What `xlogy` and `special_xlog1py` are decomposed into: `where(x == 0, 0, x log(y))`. As it stands there, `x` has no gradient at
/// zero; the operator's own is the logarithm.
fn xlogy(cx: &Cx, condition: Value, zero: Value, product: Value) -> Option<(Value, Value, F)> {
    let g = cx.b.graph();
    let operands = |v: Value, f: F| match &*g.def(v).op {
        Op::Pointwise(p) if p.f == f => Some(&g.def(v).operands[..]),
        _ => None,
    };
    let ([x, none], [factor, log]) = (operands(condition, F::Eq)?, operands(product, F::Mul)?) else { return None };
    let is_zero = |v: Value| number_everywhere(cx, v) == Some(0.0);
    // The logarithm of a smaller tensor is taken before that is broadcast.
    let log = before_broadcast(cx, *log);
    let of = [F::Log, F::Log1p].into_iter().find_map(|f| Some((*operands(log, f)?.first()?, f)));
    let (y, f) = of.filter(|_| x == factor && is_zero(*none) && is_zero(zero))?;
    Some((*x, y, f))
}

/// What `special_log_ndtr` is decomposed into: `where(x < 1, log(erfcx(-t) / 2) - t t, log1p(-erfc(t) / 2))` with `t = x / sqrt(2)`.
/// As it stands there, its gradient is NaN far below zero, where the logarithm that is not used has an infinite slope; the
/// operator's own is finite.
fn log_ndtr(cx: &Cx, condition: Value, far: Value, near: Value) -> Option<Value> {
    let g = cx.b.graph();
    let call = |v: Value, f: F| match &*g.def(v).op {
        Op::Pointwise(p) if p.f == f => Some(&g.def(v).operands[..]),
        _ => None,
    };
    let ([x, border], [_, square]) = (call(condition, F::Lt)?, call(far, F::Sub)?) else { return None };
    let [t, again] = call(*square, F::Mul)? else { return None };
    let [of, factor] = call(*t, F::Mul)? else { return None };
    let is_half = number_everywhere(cx, *factor).is_some_and(|k| (k - std::f64::consts::FRAC_1_SQRT_2).abs() < 1e-6);
    let matches = t == again && of == x && is_half && number_everywhere(cx, *border) == Some(1.0) && call(near, F::Log1p).is_some();
    matches.then_some(*x)
}

/// What a value is a broadcast of, by dimensions in front of its own and repeated elements.
fn before_broadcast(cx: &Cx, v: Value) -> Value {
    let node = cx.b.graph().def(v);
    let Some(&from) = node.operands.first() else { return v };
    let (own, old) = (&cx.b.shape(v).0, &cx.b.shape(from).0);
    let only_leads = || own.len().checked_sub(old.len()).is_some_and(|more| own[more..] == old[..]);
    match &*node.op {
        Op::Expand(_) => before_broadcast(cx, from),
        Op::Reshape(_) if only_leads() => before_broadcast(cx, from),
        _ => v,
    }
}

/// The number that all elements are, where the graph says so.
fn number_everywhere(cx: &Cx, v: Value) -> Option<f64> {
    let node = cx.b.graph().def(v);
    match &*node.op {
        Op::Full(f) => Some(f.value.get()),
        Op::Expand(_) | Op::Reshape(_) => number_everywhere(cx, *node.operands.first()?),
        _ => None,
    }
}

fn masked_fill(cx: &mut Cx, a: &Args) -> Built {
    let (x, mask) = (a.tensor("self")?, a.tensor("mask")?);
    let value = a.operand("value")?;
    let value = cx.as_tensor(&value, cx.b.dtype(x))?;
    Ok(vec![cx.b.where_(mask, value, x)?])
}

fn clamp(cx: &mut Cx, a: &Args) -> Built {
    let x = Operand::Tensor(a.tensor("self")?);
    let bounds = [a.has("min").then(|| a.operand("min")).transpose()?, a.has("max").then(|| a.operand("max")).transpose()?];
    let mut all = vec![&x];
    all.extend(bounds.iter().flatten());
    let dtype = cx.result_type(&all);
    let value = cx.as_tensor(&x, dtype)?;
    let [low, high] = bounds.map(|bound| bound.map(|bound| cx.as_tensor(&bound, dtype)));
    Ok(vec![match (low.transpose()?, high.transpose()?) {
        (Some(low), Some(high)) => cx.b.scalar(F::Clamp, &[value, low, high])?,
        (Some(low), None) => lower_bound(cx, value, low, F::Lt)?,
        (None, Some(high)) => lower_bound(cx, value, high, F::Gt)?,
        (None, None) => return Err("it has neither a lower nor an upper bound".into()),
    }])
}

/// `bound` where `outside(x, bound)`, else `x`: at the bound the cotangent goes to `x` alone, as PyTorch's clamp has it. A NaN
/// bound wins; a NaN has no gradient.
fn lower_bound(cx: &mut Cx, x: Value, bound: Value, outside: F) -> Result<Value, String> {
    let (dtype, is_lower) = (cx.b.dtype(x), outside == F::Lt);
    if dtype.is_float() {
        let open = cx.b.constant(dtype, if is_lower { f64::INFINITY } else { f64::NEG_INFINITY })?;
        let (low, high) = if is_lower { (bound, open) } else { (open, bound) };
        let y = cx.b.scalar(F::Clamp, &[x, low, high])?;
        let within = cx.b.scalar(if is_lower { F::Ge } else { F::Le }, &[x, bound])?;
        let crossed = cx.b.scalar(outside, &[x, bound])?;
        return opmath::with_choices(cx, y, &[(x, within), (bound, crossed)]);
    }
    let crossed = cx.b.scalar(outside, &[x, bound])?;
    cx.b.where_(crossed, bound, x)
}

fn one_bound(cx: &mut Cx, a: &Args, name: &str, f: F) -> Built {
    let (x, bound) = (Operand::Tensor(a.tensor("self")?), a.operand(name)?);
    let dtype = cx.result_type(&[&x, &bound]);
    let (x, bound) = (cx.as_tensor(&x, dtype)?, cx.as_tensor(&bound, dtype)?);
    Ok(vec![lower_bound(cx, x, bound, if f == F::Maximum { F::Lt } else { F::Gt })?])
}

/// Between two numbers; outside, and at the bounds themselves, the gradient is zero.
fn bounded(cx: &mut Cx, x: Value, low: f64, high: f64) -> Result<Value, String> {
    let dtype = cx.b.dtype(x);
    let (low, high) = (cx.b.constant(dtype, low)?, cx.b.constant(dtype, high)?);
    let y = cx.b.scalar(F::Clamp, &[x, low, high])?;
    if !dtype.is_float() {
        return Ok(y);
    }
    let (above, below) = (cx.b.scalar(F::Gt, &[x, low])?, cx.b.scalar(F::Lt, &[x, high])?);
    let inside = cx.b.scalar(F::LogicalAnd, &[above, below])?;
    opmath::with_choices(cx, y, &[(x, inside)])
}

fn hardtanh(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("self")?;
    Ok(vec![bounded(cx, x, a.float_or("min_val", -1.0)?, a.float_or("max_val", 1.0)?)?])
}

fn to_dtype(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("self")?;
    let other = a.tensor_opt("other")?.map(|o| cx.b.dtype(o));
    let dtype = a.dtype_opt("dtype")?.or(other).unwrap_or(cx.b.dtype(x));
    Ok(vec![cx.convert(x, dtype)?])
}
