//! Functions made of others: error functions, signs, padding with a constant, differences.

use super::args::{Args, Cx, Operand, Scalar};
use super::gradients::detached;
use super::opmath::{self, with_partials, zero_at_zero};
use super::pointwise::composed;
use super::resample::{Border, padded};
use super::{Row, fits, pure, reduce};
use crate::graph::Value;
use crate::scalar::ScalarFn as F;
use crate::types::{DType, Dim};
use std::f64::consts::FRAC_1_SQRT_2;

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["erfc.default", "special_erfc.default"], |cx, a| composed(cx, a, |cx, x| erfc(cx, x, false))),
    pure(&["special_erfcx.default"], |cx, a| composed(cx, a, |cx, x| erfc(cx, x, true))),
    pure(&["signbit.default"], |cx, a| {
        let x = a.tensor("self")?;
        Ok(vec![sign_bit(cx, x)?])
    }),
    pure(&["copysign.Tensor", "copysign.Scalar"], copysign),
    pure(&["ldexp.Tensor", "ldexp.default"], |cx, a| {
        let (x, y) = (float(cx, a)?, a.tensor("other")?);
        let dtype = cx.result_type(&[&Operand::Tensor(x), &Operand::Tensor(y)]);
        let operands = [cx.b.cast(x, dtype)?, cx.b.cast(y, dtype)?];
        let y = opmath::wide(cx, operands, |cx, [x, y]| {
            let power = cx.b.scalar(F::Exp2, &[y])?;
            cx.b.mul(x, power)
        })?;
        Ok(vec![y])
    }),
    pure(&["angle.default"], |cx, a| {
        let x = float(cx, a)?;
        let dtype = cx.b.dtype(x);
        let (zero, pi) = (cx.b.constant(dtype, 0.0)?, cx.b.constant(dtype, std::f64::consts::PI)?);
        let negative = cx.b.scalar(F::Lt, &[x, zero])?;
        let nan = cx.b.scalar(F::IsNan, &[x])?;
        let fixed = detached(&mut cx.b, x)?;
        let angle = cx.b.where_(negative, pi, zero)?;
        Ok(vec![cx.b.where_(nan, fixed, angle)?])
    }),
    pure(&["hypot.default"], |cx, a| {
        let (x, y) = (a.tensor("self")?, a.tensor("other")?);
        let dtype = cx.result_type(&[&Operand::Tensor(x), &Operand::Tensor(y)]);
        let operands = [cx.b.cast(x, dtype)?, cx.b.cast(y, dtype)?];
        Ok(vec![opmath::wide(cx, operands, hypot)?])
    }),
    pure(&["dist.default"], |cx, a| {
        let (x, y) = (a.tensor("self")?, a.tensor("other")?);
        let difference = cx.b.sub(x, y)?;
        let dims: Vec<usize> = (0..cx.b.shape(difference).rank()).collect();
        Ok(vec![reduce::norm(cx, difference, a.float_or("p", 2.0)?, &dims, false)?])
    }),
    pure(&["diff.default"], diff),
    pure(&["constant_pad_nd.default"], |cx, a| {
        let value = a.scalar_opt("value")?.unwrap_or(Scalar::Int(Dim::int(0)));
        constant_pad(cx, a, &value)
    }),
    pure(&["pad.default"], pad),
    pure(&["addcmul.default"], |cx, a| combined(cx, a, F::Mul)),
    pure(&["addcdiv.default"], |cx, a| combined(cx, a, F::Div)),
    pure(&["lerp.Tensor", "lerp.Scalar"], lerp),
    pure(
        &[
            "xlogy.Tensor",
            "xlogy.Scalar_Self",
            "xlogy.Scalar_Other",
            "special_xlogy.default",
            "special_xlogy.self_scalar",
            "special_xlogy.other_scalar",
        ],
        |cx, a| xlogy(cx, a, F::Log),
    ),
    pure(&["special_xlog1py.default", "special_xlog1py.self_scalar", "special_xlog1py.other_scalar"], |cx, a| xlogy(cx, a, F::Log1p)),
    pure(&["special_log_ndtr.default"], |cx, a| {
        let x = float(cx, a)?;
        Ok(vec![log_ndtr(cx, x)?])
    }),
    pure(&["nan_to_num.default"], nan_to_num),
];

fn float(cx: &mut Cx, a: &Args) -> Result<Value, String> {
    let x = a.tensor("self")?;
    cx.widen_to_float(x)
}

/// `sqrt(x^2 + y^2)`, scaled by the larger so that squares do not overflow; an infinity wins over a NaN.
fn hypot(cx: &mut Cx, [x, y]: [Value; 2]) -> Result<Value, String> {
    let dtype = cx.b.dtype(x);
    let (one, high) = (cx.b.constant(dtype, 1.0)?, cx.b.constant(dtype, f64::INFINITY)?);
    let (a, b) = (cx.b.scalar(F::Abs, &[x])?, cx.b.scalar(F::Abs, &[y])?);
    let (large, small) = (cx.b.scalar(F::Maximum, &[a, b])?, cx.b.scalar(F::Minimum, &[a, b])?);
    let ratio = cx.b.div(small, large)?;
    let ratio = zero_at_zero(cx, large, ratio)?;
    let square = cx.b.mul(ratio, ratio)?;
    let sum = cx.b.add(square, one)?;
    let root = cx.b.scalar(F::Sqrt, &[sum])?;
    let length = cx.b.mul(large, root)?;
    let (a, b) = (cx.b.scalar(F::IsInf, &[x])?, cx.b.scalar(F::IsInf, &[y])?);
    let infinite = cx.b.scalar(F::LogicalOr, &[a, b])?;
    let length = cx.b.where_(infinite, high, length)?;
    let partials = [(x, cx.b.div(x, length)?), (y, cx.b.div(y, length)?)];
    with_partials(cx, length, &partials)
}

/// `erfc(x)`, or with `scaled` `e^(x^2) erfc(x)`, without cancellation for large x.
pub fn erfc(cx: &mut Cx, x: Value, scaled: bool) -> Result<Value, String> {
    let y = erfc_value(cx, x, scaled)?;
    if scaled {
        return Ok(y);
    }
    let square = cx.b.mul(x, x)?;
    let minus = cx.b.neg(square)?;
    let e = cx.b.scalar(F::Exp, &[minus])?;
    let partial = cx.b.scale(e, -std::f64::consts::FRAC_2_SQRT_PI)?;
    with_partials(cx, y, &[(x, partial)])
}

fn erfc_value(cx: &mut Cx, x: Value, scaled: bool) -> Result<Value, String> {
    let dtype = cx.b.dtype(x);
    let [zero, two] = [0.0, 2.0].map(|k| cx.b.constant(dtype, k));
    let (zero, two) = (zero?, two?);
    let negative = cx.b.scalar(F::Lt, &[x, zero])?;
    let minus = cx.b.neg(x)?;
    let z = cx.b.where_(negative, minus, x)?;
    let far = cx.b.add(z, two)?;
    let t = cx.b.scalar(F::Reciprocal, &[far])?;
    let t = cx.b.scale(t, 2.0)?;
    let mut exponent = fits::ERFC.at(cx, t)?;
    let square = cx.b.mul(z, z)?;
    if !scaled {
        exponent = cx.b.sub(exponent, square)?;
    }
    let e = cx.b.scalar(F::Exp, &[exponent])?;
    let positive = cx.b.mul(t, e)?;
    // erfc(-z) = 2 - erfc(z). The large exponential is taken where it is used only.
    let whole = if scaled {
        let square = cx.b.where_(negative, square, zero)?;
        let e = cx.b.scalar(F::Exp, &[square])?;
        cx.b.mul(two, e)?
    } else {
        two
    };
    let reflected = cx.b.sub(whole, positive)?;
    cx.b.where_(negative, reflected, positive)
}

/// `log(erfc(-x / sqrt(2)) / 2)`: below -1 by the scaled function, since the other one vanishes, elsewhere by that of the rest. Each
/// is taken of what is used only, so that no infinite slope meets a zero.
pub fn log_ndtr(cx: &mut Cx, x: Value) -> Result<Value, String> {
    let dtype = cx.b.dtype(x);
    let minus_one = cx.b.constant(dtype, -1.0)?;
    let low = cx.b.scalar(F::Lt, &[x, minus_one])?;
    let (below, above) = (cx.b.where_(low, x, minus_one)?, cx.b.where_(low, minus_one, x)?);
    let t = cx.b.scale(below, FRAC_1_SQRT_2)?;
    let minus = cx.b.neg(t)?;
    let e = erfc(cx, minus, true)?;
    let half = cx.b.scale(e, 0.5)?;
    let (log, square) = (cx.b.scalar(F::Log, &[half])?, cx.b.mul(t, t)?);
    let far = cx.b.sub(log, square)?;
    let t = cx.b.scale(above, FRAC_1_SQRT_2)?;
    let e = erfc(cx, t, false)?;
    let half = cx.b.scale(e, -0.5)?;
    let near = cx.b.scalar(F::Log1p, &[half])?;
    cx.b.where_(low, far, near)
}

fn xlogy(cx: &mut Cx, a: &Args, log: F) -> Built {
    let (x, y) = (a.operand("self")?, a.operand("other")?);
    let dtype = cx.result_type(&[&x, &y]);
    let dtype = if dtype.is_float() { dtype } else { DType::F32 };
    let (x, y) = (cx.as_tensor(&x, dtype)?, cx.as_tensor(&y, dtype)?);
    Ok(vec![times_log(cx, x, y, log)?])
}

/// `x log(y)`, or with log1p; zero where x is zero and y is a number.
pub fn times_log(cx: &mut Cx, x: Value, y: Value, log: F) -> Result<Value, String> {
    // Where the logarithm begins.
    let pole = if log == F::Log1p { -1.0 } else { 0.0 };
    opmath::wide(cx, [x, y], |cx, [x, y]| {
        let dtype = cx.b.dtype(x);
        let (zero, pole) = (cx.b.constant(dtype, 0.0)?, cx.b.constant(dtype, pole)?);
        let log = cx.b.scalar(log, &[y])?;
        let product = cx.b.mul(x, log)?;
        let (is_zero, nan) = (cx.b.scalar(F::Eq, &[x, zero])?, cx.b.scalar(F::IsNan, &[y])?);
        let number = cx.b.scalar(F::LogicalNot, &[nan])?;
        let none = cx.b.scalar(F::LogicalAnd, &[is_zero, number])?;
        let result = cx.b.where_(none, zero, product)?;
        let outside = cx.b.scalar(F::Le, &[y, pole])?;
        let flat = cx.b.scalar(F::LogicalAnd, &[is_zero, outside])?;
        let first = cx.b.where_(flat, zero, log)?;
        let distance = cx.b.sub(y, pole)?;
        let second = cx.b.div(x, distance)?;
        with_partials(cx, result, &[(x, first), (y, second)])
    })
}

/// Whether the sign is minus, of zeros and NaN too; of floats by their bits.
pub(super) fn sign_bit(cx: &mut Cx, x: Value) -> Result<Value, String> {
    let dtype = cx.b.dtype(x);
    if dtype == DType::Bool {
        let shape = cx.shape(x);
        return cx.b.full(DType::Bool, 0.0, shape);
    }
    let bits = if dtype.is_float() { cx.b.bitcast(x, super::bits::integer(dtype.size()))? } else { x };
    let zero = cx.b.constant(cx.b.dtype(bits), 0.0)?;
    cx.b.scalar(F::Lt, &[bits, zero])
}

/// The magnitude of one with the sign of the other.
fn copysign(cx: &mut Cx, a: &Args) -> Built {
    let (x, y) = (a.operand("self")?, a.operand("other")?);
    let dtype = cx.result_type(&[&x, &y]);
    let dtype = if dtype.is_float() { dtype } else { DType::F32 };
    let (x, y) = (cx.as_tensor(&x, dtype)?, cx.as_tensor(&y, dtype)?);
    let minus = sign_bit(cx, y)?;
    let magnitude = cx.b.scalar(F::Abs, &[x])?;
    let negative = cx.b.neg(magnitude)?;
    let signed = cx.b.where_(minus, negative, magnitude)?;
    let ratio = cx.b.div(signed, x)?;
    let partial = zero_at_zero(cx, x, ratio)?;
    Ok(vec![with_partials(cx, signed, &[(x, partial)])?])
}

/// Differences of neighbors, `n` times.
fn diff(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("self")?;
    let (dim, times) = (cx.dim(x, a.int_or("dim", -1)?)?, a.int_or("n", 1)?);
    if times == 0 {
        // What would be put around it is not.
        a.disregard(&["prepend", "append"]);
        return Ok(vec![x]);
    }
    let mut parts = vec![];
    parts.extend(a.tensor_opt("prepend")?);
    parts.push(x);
    parts.extend(a.tensor_opt("append")?);
    let mut out = cx.b.concat(&parts, dim)?;
    for _ in 0..times.min(1 << 16) {
        let size = cx.b.shape(out).0.get(dim).cloned().ok_or("a 0-d tensor has no neighbors")?;
        if size.range().1 <= 1 {
            return Ok(vec![cx.b.slice(out, dim, 0, 0, 1)?]);
        }
        let before = cx.b.slice(out, dim, 0, size.clone() - Dim::int(1), 1)?;
        let after = cx.b.slice(out, dim, 1, size, 1)?;
        out = if cx.b.dtype(out) == DType::Bool { cx.b.scalar(F::LogicalXor, &[after, before])? } else { cx.b.sub(after, before)? };
    }
    Ok(vec![out])
}

/// Amounts come in pairs, the last dimension first; negative ones crop.
fn constant_pad(cx: &mut Cx, a: &Args, value: &Scalar) -> Built {
    let x = a.tensor("self")?;
    let amounts = a.dims("pad")?;
    let rank = cx.b.shape(x).rank();
    if amounts.len() % 2 != 0 || amounts.len() / 2 > rank {
        return Err(format!("{} amounts do not fit {}", amounts.len(), cx.b.ty(x)));
    }
    let (mut low, mut high) = (vec![Dim::int(0); rank], vec![Dim::int(0); rank]);
    for (k, pair) in amounts.chunks_exact(2).enumerate() {
        (low[rank - 1 - k], high[rank - 1 - k]) = (pair[0].clone(), pair[1].clone());
    }
    let value = value.to_f64().ok_or("the value is not constant")?;
    Ok(vec![cx.b.pad(x, &low, &high, value)?])
}

fn pad(cx: &mut Cx, a: &Args) -> Built {
    let border = match a.text_or("mode", "constant")? {
        "constant" => {
            let value = a.scalar_opt("value")?.unwrap_or(Scalar::Int(Dim::int(0)));
            return constant_pad(cx, a, &value);
        }
        "reflect" => Border::Reflect,
        "replicate" => Border::Replicate,
        "circular" => Border::Circular,
        other => return Err(format!("mode {other} is not known")),
    };
    let x = a.tensor("self")?;
    Ok(vec![padded(cx, x, &a.ints("pad")?, border)?])
}

/// `self + value * f(tensor1, tensor2)`.
fn combined(cx: &mut Cx, a: &Args, f: F) -> Built {
    let [x, y, z] = ["self", "tensor1", "tensor2"].map(|name| a.tensor(name).map(Operand::Tensor));
    let (x, y, z) = (x?, y?, z?);
    let dtype = cx.result_type(&[&x, &y, &z]);
    let (x, y, z) = (cx.as_tensor(&x, dtype)?, cx.as_tensor(&y, dtype)?, cx.as_tensor(&z, dtype)?);
    let mut term = cx.b.scalar(f, &[y, z])?;
    if let Some(value) = a.scalar_opt("value")?
        && value.to_f64() != Some(1.0)
    {
        let value = cx.number(&value, dtype)?;
        term = cx.b.mul(value, term)?;
    }
    Ok(vec![cx.b.add(x, term)?])
}

/// `self + weight * (end - self)`, from the nearer end.
fn lerp(cx: &mut Cx, a: &Args) -> Built {
    let (x, end, weight) = (a.tensor("self")?, a.tensor("end")?, a.operand("weight")?);
    let dtype = cx.b.dtype(x);
    let weight = cx.as_tensor(&weight, dtype)?;
    let (half, one) = (cx.b.constant(dtype, 0.5)?, cx.b.constant(dtype, 1.0)?);
    let magnitude = cx.b.scalar(F::Abs, &[weight])?;
    let near = cx.b.scalar(F::Lt, &[magnitude, half])?;
    let difference = cx.b.sub(end, x)?;
    let step = cx.b.mul(weight, difference)?;
    let from_start = cx.b.add(x, step)?;
    let rest = cx.b.sub(one, weight)?;
    let back = cx.b.mul(difference, rest)?;
    let from_end = cx.b.sub(end, back)?;
    Ok(vec![cx.b.where_(near, from_start, from_end)?])
}

fn nan_to_num(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("self")?;
    let dtype = cx.b.dtype(x);
    let largest = match dtype {
        DType::F64 => f64::MAX,
        DType::F16 => 65504.0,
        DType::BF16 => 3.3895313892515355e38,
        DType::F32 => f32::MAX as f64,
        _ => {
            a.disregard(&["nan", "posinf", "neginf"]);
            return Ok(vec![x]);
        }
    };
    let [nan, high, low] = [("nan", 0.0), ("posinf", largest), ("neginf", -largest)].map(|(name, default)| {
        let k = a.float_or(name, default)?;
        cx.b.constant(dtype, k)
    });
    let (plus, minus) = (cx.b.constant(dtype, f64::INFINITY)?, cx.b.constant(dtype, f64::NEG_INFINITY)?);
    let (is_nan, is_plus, is_minus) = (cx.b.scalar(F::IsNan, &[x])?, cx.b.scalar(F::Eq, &[x, plus])?, cx.b.scalar(F::Eq, &[x, minus])?);
    let out = cx.b.where_(is_nan, nan?, x)?;
    let out = cx.b.where_(is_plus, high?, out)?;
    Ok(vec![cx.b.where_(is_minus, low?, out)?])
}
