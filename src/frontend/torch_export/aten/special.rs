//! Functions made of others: error functions, signs, padding with a constant, differences.

use super::opmath::{self, with_partials, zero_at_zero};
use super::pointwise::composed;
use super::resample::{Border, padded};
use super::{Row, pure, reduce};
use crate::frontend::torch_export::args::{Args, Cx, Operand, Scalar};
use crate::graph::Value;
use crate::scalar::ScalarFn as F;
use crate::types::{DType, Dim};

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
    pure(&["ldexp.Tensor"], |cx, a| {
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
        let fixed = cx.b.scalar(F::Detach, &[x])?;
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
    pure(&["xlogy.Tensor", "xlogy.Scalar_Self", "xlogy.Scalar_Other", "special_xlogy.default"], |cx, a| times_log(cx, a, F::Log, 0.0)),
    pure(&["special_xlog1py.default"], |cx, a| times_log(cx, a, F::Log1p, -1.0)),
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

/// `x log(y)`, or with log1p; zero where x is zero and y is a number. `pole` is where the logarithm begins.
fn times_log(cx: &mut Cx, a: &Args, log: F, pole: f64) -> Built {
    let (x, y) = (a.operand("self")?, a.operand("other")?);
    let dtype = cx.result_type(&[&x, &y]);
    let dtype = if dtype.is_float() { dtype } else { DType::F32 };
    let operands = [cx.as_tensor(&x, dtype)?, cx.as_tensor(&y, dtype)?];
    let y = opmath::wide(cx, operands, |cx, [x, y]| {
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
    })?;
    Ok(vec![y])
}

/// Coefficients of W. J. Cody's form of `log(erfc(z) e^(z^2) / t)` in `t = 1 / (1 + z / 2)` (Chebyshev fit of "Numerical
/// Recipes", relative error below 1.2e-7).
const ERFC: [f64; 10] = [-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277];

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
    let [zero, one, two, half] = [0.0, 1.0, 2.0, 0.5].map(|k| cx.b.constant(dtype, k));
    let (zero, one, two, half) = (zero?, one?, two?, half?);
    if dtype == DType::F64 && !scaled {
        let erf = cx.b.scalar(F::Erf, &[x])?;
        return cx.b.sub(one, erf);
    }
    let negative = cx.b.scalar(F::Lt, &[x, zero])?;
    let minus = cx.b.neg(x)?;
    let z = cx.b.where_(negative, minus, x)?;
    let low = cx.b.mul(z, half)?;
    let low = cx.b.add(low, one)?;
    let t = cx.b.scalar(F::Reciprocal, &[low])?;
    let mut exponent = cx.b.constant(dtype, ERFC[9])?;
    for k in ERFC[..9].iter().rev() {
        let k = cx.b.constant(dtype, *k)?;
        let product = cx.b.mul(exponent, t)?;
        exponent = cx.b.add(product, k)?;
    }
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

/// Whether the sign is minus; minus zero has one, which its reciprocal shows.
fn sign_bit(cx: &mut Cx, x: Value) -> Result<Value, String> {
    let dtype = cx.b.dtype(x);
    if dtype == DType::Bool {
        let shape = cx.shape(x);
        return cx.b.full(DType::Bool, 0.0, shape);
    }
    let zero = cx.b.constant(dtype, 0.0)?;
    let below = cx.b.scalar(F::Lt, &[x, zero])?;
    if !dtype.is_float() {
        return Ok(below);
    }
    let inverse = cx.b.scalar(F::Reciprocal, &[x])?;
    let low = cx.b.constant(dtype, f64::NEG_INFINITY)?;
    let minus_zero = cx.b.scalar(F::Eq, &[inverse, low])?;
    let is_zero = cx.b.scalar(F::Eq, &[x, zero])?;
    let minus_zero = cx.b.scalar(F::LogicalAnd, &[minus_zero, is_zero])?;
    cx.b.scalar(F::LogicalOr, &[below, minus_zero])
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
    let dim = cx.dim(x, a.int_or("dim", -1)?)?;
    let mut parts = vec![];
    parts.extend(a.tensor_opt("prepend")?);
    parts.push(x);
    parts.extend(a.tensor_opt("append")?);
    let mut out = cx.b.concat(&parts, dim)?;
    for _ in 0..a.int_or("n", 1)?.min(1 << 16) {
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
        _ => return Ok(vec![x]),
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
