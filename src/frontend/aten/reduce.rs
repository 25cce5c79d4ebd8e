//! Reductions over dimensions.

use super::args::{Args, Cx};
use super::gradients::detached;
use super::opmath::{flag, with_partials, with_partials_over, zero_at_zero};
use super::{Row, pure};
use crate::graph::Value;
use crate::ops::ReduceKind;
use crate::scalar::ScalarFn as F;
use crate::types::{DType, Dim};

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["sum.default", "sum.dim_IntList"], |cx, a| accumulate(cx, a, ReduceKind::Sum)),
    pure(&["prod.default", "prod.dim_int"], |cx, a| accumulate(cx, a, ReduceKind::Prod)),
    pure(&["mean.default", "mean.dim"], |cx, a| {
        let (x, dims, keep) = float_over(cx, a)?;
        Ok(vec![mean(cx, x, &dims, keep)?])
    }),
    pure(&["amax.default"], |cx, a| extremum(cx, a, ReduceKind::Max)),
    pure(&["amin.default"], |cx, a| extremum(cx, a, ReduceKind::Min)),
    pure(&["aminmax.default"], |cx, a| {
        let (low, high) = (extremum(cx, a, ReduceKind::Min)?, extremum(cx, a, ReduceKind::Max)?);
        Ok([low, high].concat())
    }),
    pure(&["max.default"], |cx, a| whole(cx, a, ReduceKind::Max)),
    pure(&["min.default"], |cx, a| whole(cx, a, ReduceKind::Min)),
    pure(&["max.dim"], |cx, a| with_index(cx, a, ReduceKind::Max, ReduceKind::Argmax)),
    pure(&["min.dim"], |cx, a| with_index(cx, a, ReduceKind::Min, ReduceKind::Argmin)),
    pure(&["argmax.default"], |cx, a| position(cx, a, ReduceKind::Argmax)),
    pure(&["argmin.default"], |cx, a| position(cx, a, ReduceKind::Argmin)),
    pure(&["any.default", "any.dim", "any.dims"], |cx, a| flags(cx, a, ReduceKind::Any)),
    pure(&["all.default", "all.dim", "all.dims"], |cx, a| flags(cx, a, ReduceKind::All)),
    pure(&["var.correction", "var.default", "var.dim"], |cx, a| Ok(vec![variance(cx, a)?.0])),
    pure(&["var_mean.correction", "var_mean.dim", "var_mean.default"], |cx, a| {
        let (var, mean) = variance(cx, a)?;
        Ok(vec![var, mean])
    }),
    pure(&["std.correction", "std.default", "std.dim"], |cx, a| {
        let (deviation, _) = deviation_and_mean(cx, a)?;
        Ok(vec![deviation])
    }),
    pure(&["std_mean.correction", "std_mean.dim", "std_mean.default"], |cx, a| {
        let (deviation, mean) = deviation_and_mean(cx, a)?;
        Ok(vec![deviation, mean])
    }),
    pure(&["logsumexp.default", "special_logsumexp.default"], logsumexp),
    pure(&["linalg_vector_norm.default"], |cx, a| Ok(vec![vector_norm(cx, a, "ord")?])),
    pure(&["linalg_norm.default"], |cx, a| {
        let x = a.tensor("self")?;
        let dims = if a.has("dim") { a.ints("dim")?.len() } else { cx.b.shape(x).rank() };
        // Two dimensions with an order are a matrix.
        Ok(vec![if a.has("ord") && dims != 1 { matrix_norm(cx, a)? } else { vector_norm(cx, a, "ord")? }])
    }),
    pure(&["linalg_matrix_norm.default"], |cx, a| Ok(vec![matrix_norm(cx, a)?])),
    pure(&["linalg_norm.ord_str", "linalg_matrix_norm.str_ord"], |cx, a| {
        if a.text_or("ord", "fro")? != "fro" {
            return Err("norms of matrices by their singular values are not supported".into());
        }
        let (x, dtype) = (a.tensor("self")?, a.dtype_opt("dtype")?);
        let x = dtype.map_or(Ok(x), |d| cx.b.cast(x, d))?;
        let dims = if a.has("dim") { a.ints("dim")? } else { vec![-2, -1] };
        let dims = cx.dims_or_all(x, &dims)?;
        Ok(vec![norm(cx, x, 2.0, &dims, a.bool_or("keepdim", false)?)?])
    }),
    pure(&["norm.Scalar", "norm.ScalarOpt_dim", "norm.ScalarOpt_dim_dtype"], |cx, a| Ok(vec![vector_norm(cx, a, "p")?])),
    pure(&["cumsum.default"], cumsum),
    pure(&["count_nonzero.default", "count_nonzero.dim_IntList"], |cx, a| {
        let x = a.tensor("self")?;
        let dims = cx.dims_or_all(x, &a.ints_or_empty("dim")?)?;
        let flag = cx.b.cast(x, DType::Bool)?;
        let count = cx.b.cast(flag, DType::I64)?;
        Ok(vec![over(cx, ReduceKind::Sum, count, &dims, false)?])
    }),
];

/// The reduction over dimensions; the tensor itself over none.
pub fn over(cx: &mut Cx, kind: ReduceKind, x: Value, dims: &[usize], keep: bool) -> Result<Value, String> {
    if dims.is_empty() { Ok(x) } else { cx.b.reduce(kind, x, dims, keep) }
}

/// The mean over dimensions; of a half float in f32.
pub fn mean(cx: &mut Cx, x: Value, dims: &[usize], keep: bool) -> Result<Value, String> {
    if dims.is_empty() { Ok(x) } else { cx.b.mean(x, dims, keep) }
}

/// Dimensions and whether they are kept.
fn chosen(cx: &Cx, a: &Args, x: Value) -> Result<(Vec<usize>, bool), String> {
    Ok((cx.dims_or_all(x, &a.ints_or_empty("dim")?)?, a.bool_or("keepdim", false)?))
}

/// Sums and products: integers and bool give i64, unless a dtype is asked for.
fn accumulate(cx: &mut Cx, a: &Args, kind: ReduceKind) -> Built {
    let x = a.tensor("self")?;
    let own = cx.b.dtype(x);
    let dtype = a.dtype_opt("dtype")?.unwrap_or(if own.is_float() { own } else { DType::I64 });
    let x = cx.b.cast(x, dtype)?;
    let (dims, keep) = chosen(cx, a, x)?;
    if dtype == DType::Bool {
        return Ok(vec![over(cx, if kind == ReduceKind::Sum { ReduceKind::Any } else { ReduceKind::All }, x, &dims, keep)?]);
    }
    Ok(vec![over(cx, kind, x, &dims, keep)?])
}

fn float_over(cx: &mut Cx, a: &Args) -> Result<(Value, Vec<usize>, bool), String> {
    let x = a.tensor("self")?;
    let dtype = a.dtype_opt("dtype")?.unwrap_or(cx.b.dtype(x));
    let x = cx.b.cast(x, dtype)?;
    let x = cx.widen_to_float(x)?;
    let (dims, keep) = chosen(cx, a, x)?;
    Ok((x, dims, keep))
}

/// `amax` and `amin`: all elements that tie share the cotangent, as in PyTorch; where the extremum is NaN, none does, and the
/// shares are NaN.
fn extremum(cx: &mut Cx, a: &Args, kind: ReduceKind) -> Built {
    let x = a.tensor("self")?;
    let (dims, keep) = chosen(cx, a, x)?;
    if dims.is_empty() {
        return Ok(vec![x]);
    }
    bool_safe(cx, x, |cx, x| shared_extremum(cx, x, kind, &dims, keep, Ties::Equal)).map(|v| vec![v])
}

/// The extremum of all elements; ties share the cotangent, NaN among them.
fn whole(cx: &mut Cx, a: &Args, kind: ReduceKind) -> Built {
    let x = a.tensor("self")?;
    let dims: Vec<usize> = (0..cx.b.shape(x).rank()).collect();
    if dims.is_empty() {
        return Ok(vec![x]);
    }
    bool_safe(cx, x, |cx, x| shared_extremum(cx, x, kind, &dims, false, Ties::EqualOrNan)).map(|v| vec![v])
}

/// Which elements share the cotangent of an extremum.
#[derive(Clone, Copy, PartialEq)]
enum Ties {
    /// Those equal to it.
    Equal,
    /// Those and NaN.
    EqualOrNan,
}

/// The extremum, whose cotangent ties share evenly. The gradient of the plain reduction goes to the first of them.
fn shared_extremum(cx: &mut Cx, x: Value, kind: ReduceKind, dims: &[usize], keep: bool, ties: Ties) -> Result<Value, String> {
    let mut value = cx.b.reduce(kind, x, dims, true)?;
    let dtype = cx.b.dtype(x);
    if dtype.is_float() {
        let mut hit = cx.b.scalar(F::Eq, &[x, value])?;
        if ties == Ties::EqualOrNan {
            let nan = cx.b.scalar(F::IsNan, &[x])?;
            hit = cx.b.scalar(F::LogicalOr, &[hit, nan])?;
        }
        let ones = flag(cx, hit, dtype.accumulator())?;
        let count = cx.b.reduce(ReduceKind::Sum, ones, dims, true)?;
        let share = cx.b.div(ones, count)?;
        let share = cx.b.cast(share, dtype)?;
        value = with_partials_over(cx, value, dims, x, share)?;
    }
    kept_or_not(cx, value, dims, keep)
}

/// The largest magnitude along a dimension. Each element of that magnitude has all of the cotangent, as in PyTorch's distances.
fn largest_magnitude(cx: &mut Cx, x: Value, dim: usize) -> Result<Value, String> {
    let (magnitude, zero) = (cx.b.scalar(F::Abs, &[x])?, cx.b.constant(cx.b.dtype(x), 0.0)?);
    let largest = cx.b.reduce(ReduceKind::Max, magnitude, &[dim], true)?;
    let (hit, sign) = (cx.b.scalar(F::Eq, &[magnitude, largest])?, cx.b.scalar(F::Sign, &[x])?);
    let partial = cx.b.where_(hit, sign, zero)?;
    let largest = with_partials_over(cx, largest, &[dim], x, partial)?;
    kept_or_not(cx, largest, &[dim], false)
}

/// The norm along the last dimension, of differences between all rows.
pub fn distance(cx: &mut Cx, difference: Value, p: f64) -> Result<Value, String> {
    let last = cx.b.shape(difference).rank() - 1;
    if p == f64::INFINITY { largest_magnitude(cx, difference, last) } else { norm(cx, difference, p, &[last], false) }
}

/// A value with reduced dimensions of size one, which stay or go.
fn kept_or_not(cx: &mut Cx, value: Value, dims: &[usize], keep: bool) -> Result<Value, String> {
    if keep {
        return Ok(value);
    }
    let left = cx.shape(value).0.into_iter().enumerate().filter(|(i, _)| !dims.contains(i)).map(|(_, d)| d).collect::<Vec<Dim>>();
    cx.b.reshape(value, left)
}

/// The root of a variance; where it is zero it has no gradient.
pub fn deviation(cx: &mut Cx, variance: Value) -> Result<Value, String> {
    let root = cx.b.scalar(F::Sqrt, &[variance])?;
    let half = cx.b.constant(cx.b.dtype(root), 0.5)?;
    let slope = cx.b.div(half, root)?;
    let partial = zero_at_zero(cx, root, slope)?;
    with_partials(cx, root, &[(variance, partial)])
}

/// Bools are ordered through u8.
fn bool_safe(cx: &mut Cx, x: Value, f: impl FnOnce(&mut Cx, Value) -> Result<Value, String>) -> Result<Value, String> {
    if cx.b.dtype(x) != DType::Bool {
        return f(cx, x);
    }
    let wide = cx.b.cast(x, DType::I32)?;
    let out = f(cx, wide)?;
    cx.b.cast(out, DType::Bool)
}

/// The extremum along one dimension and its first position, i64. The value is read at the position, so that one element takes
/// the cotangent.
fn with_index(cx: &mut Cx, a: &Args, value: ReduceKind, index: ReduceKind) -> Built {
    let x = a.tensor("self")?;
    let keep = a.bool_or("keepdim", false)?;
    let dim = cx.dim(x, a.int("dim")?)?;
    if cx.b.shape(x).rank() == 0 {
        let zero = cx.b.constant(DType::I64, 0.0)?;
        return Ok(vec![x, zero]);
    }
    let numbers = if cx.b.dtype(x) == DType::Bool { cx.b.cast(x, DType::I32)? } else { x };
    let extremum = bool_safe(cx, x, |cx, x| cx.b.reduce(value, x, &[dim], keep))?;
    let at = cx.b.reduce(index, numbers, &[dim], keep)?;
    Ok(vec![extremum, cx.b.cast(at, DType::I64)?])
}

fn position(cx: &mut Cx, a: &Args, kind: ReduceKind) -> Built {
    let mut x = a.tensor("self")?;
    let keep = a.bool_or("keepdim", false)?;
    if cx.b.dtype(x) == DType::Bool {
        x = cx.b.cast(x, DType::I32)?;
    }
    let shape = cx.shape(x);
    let at = if a.has("dim") && shape.rank() > 0 {
        let dim = cx.dim(x, a.int("dim")?)?;
        cx.b.reduce(kind, x, &[dim], keep)?
    } else {
        let flat = cx.b.reshape(x, [shape.numel()])?;
        let at = cx.b.reduce(kind, flat, &[0], false)?;
        let ones = vec![Dim::int(1); if keep { shape.rank() } else { 0 }];
        cx.b.reshape(at, ones)?
    };
    Ok(vec![cx.b.cast(at, DType::I64)?])
}

fn flags(cx: &mut Cx, a: &Args, kind: ReduceKind) -> Built {
    let x = a.tensor("self")?;
    let own = cx.b.dtype(x);
    let flag = cx.b.cast(x, DType::Bool)?;
    let dims = match a.has("dim") {
        // An empty list of dimensions reduces nothing here, unlike for sums.
        true => a.ints("dim")?.iter().map(|&d| cx.dim(x, d)).collect::<Result<Vec<_>, _>>()?,
        false => (0..cx.b.shape(x).rank()).collect(),
    };
    let dims: Vec<usize> = dims.into_iter().filter(|&d| d < cx.b.shape(x).rank()).collect();
    let out = over(cx, kind, flag, &dims, a.bool_or("keepdim", false)?)?;
    Ok(vec![if own == DType::U8 { cx.b.cast(out, DType::U8)? } else { out }])
}

/// Variance and mean; the correction may be any number.
fn variance(cx: &mut Cx, a: &Args) -> Result<(Value, Value), String> {
    let (x, dims, keep) = float_over(cx, a)?;
    variance_of(cx, a, x, dims, keep)
}

/// Roots of variances that may be too large for half precision where the roots are not.
fn deviation_and_mean(cx: &mut Cx, a: &Args) -> Result<(Value, Value), String> {
    let (x, dims, keep) = float_over(cx, a)?;
    let dtype = cx.b.dtype(x);
    let x = cx.b.cast(x, dtype.accumulator())?;
    let (variance, mean) = variance_of(cx, a, x, dims, keep)?;
    let deviation = deviation(cx, variance)?;
    Ok((cx.b.cast(deviation, dtype)?, cx.b.cast(mean, dtype)?))
}

fn variance_of(cx: &mut Cx, a: &Args, x: Value, dims: Vec<usize>, keep: bool) -> Result<(Value, Value), String> {
    let correction = match a.has("correction") {
        true => a.float("correction")?,
        false => a.bool_or("unbiased", true)? as u8 as f64,
    };
    let average = mean(cx, x, &dims, keep)?;
    if !dims.is_empty() && correction.fract() == 0.0 && (0.0..1e9).contains(&correction) {
        return Ok((cx.b.var(x, &dims, correction as u32, keep)?, average));
    }
    let dtype = cx.b.dtype(x);
    let kept = mean(cx, x, &dims, true)?;
    let centered = cx.b.sub(x, kept)?;
    let square = cx.b.mul(centered, centered)?;
    let sum = over(cx, ReduceKind::Sum, square, &dims, keep)?;
    let count = Dim::product(dims.iter().map(|&d| &cx.b.shape(x)[d]));
    let count = cx.b.size(&count, dtype)?;
    let (correction, zero) = (cx.b.constant(dtype, correction)?, cx.b.constant(dtype, 0.0)?);
    let divisor = cx.b.sub(count, correction)?;
    let divisor = cx.b.scalar(F::Maximum, &[divisor, zero])?;
    Ok((cx.b.div(sum, divisor)?, average))
}

fn logsumexp(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("self")?;
    let x = cx.widen_to_float(x)?;
    let (dims, keep) = chosen(cx, a, x)?;
    if dims.is_empty() {
        return Ok(vec![x]);
    }
    if dims.iter().any(|&d| cx.b.shape(x)[d].is(0)) {
        let nothing = cx.b.reduce(ReduceKind::Sum, x, &dims, keep)?;
        return Ok(vec![cx.b.scalar(F::Log, &[nothing])?]);
    }
    let top = cx.b.reduce(ReduceKind::Max, x, &dims, true)?;
    let top = detached(&mut cx.b, top)?;
    // An infinite maximum is not subtracted: infinity minus itself is NaN.
    let infinite = cx.b.scalar(F::IsInf, &[top])?;
    let zero = cx.b.constant(cx.b.dtype(x), 0.0)?;
    let top = cx.b.where_(infinite, zero, top)?;
    let shifted = cx.b.sub(x, top)?;
    let e = cx.b.scalar(F::Exp, &[shifted])?;
    let sum = cx.b.reduce(ReduceKind::Sum, e, &dims, keep)?;
    let log = cx.b.scalar(F::Log, &[sum])?;
    let shape = cx.shape(log);
    let top = cx.b.reshape(top, shape)?;
    Ok(vec![cx.b.add(log, top)?])
}

fn vector_norm(cx: &mut Cx, a: &Args, order: &str) -> Result<Value, String> {
    let p = a.float_or(order, 2.0)?;
    let (x, dims, keep) = float_over(cx, a)?;
    norm(cx, x, p, &dims, keep)
}

/// The largest or smallest sum of magnitudes of a column (of order 1 and -1) or of a row (of infinite order).
fn matrix_norm(cx: &mut Cx, a: &Args) -> Result<Value, String> {
    let (x, dtype, order) = (a.tensor("self")?, a.dtype_opt("dtype")?, a.float("ord")?);
    let x = dtype.map_or(Ok(x), |d| cx.b.cast(x, d))?;
    let dims = if a.has("dim") { a.ints("dim")? } else { vec![-2, -1] };
    let [row, column] = dims[..] else { return Err(format!("a matrix has two dimensions, not {}", dims.len())) };
    let (row, column) = (cx.dim(x, row)?, cx.dim(x, column)?);
    if row == column {
        return Err("the dimensions of a matrix are the same".into());
    }
    let (summed, compared) = match order.abs() {
        1.0 => (row, column),
        f64::INFINITY => (column, row),
        _ => return Err("norms of matrices by their singular values are not supported".into()),
    };
    let magnitude = cx.b.scalar(F::Abs, &[x])?;
    let sums = cx.b.reduce(ReduceKind::Sum, magnitude, &[summed], true)?;
    let kind = if order > 0.0 { ReduceKind::Max } else { ReduceKind::Min };
    let norm = shared_extremum(cx, sums, kind, &[compared], true, Ties::Equal)?;
    kept_or_not(cx, norm, &[row, column], a.bool_or("keepdim", false)?)
}

/// `sum(|x|^p)^(1/p)`, with its limits at 0 and the infinities. The gradient at zero is zero.
pub fn norm(cx: &mut Cx, x: Value, p: f64, dims: &[usize], keep: bool) -> Result<Value, String> {
    let dtype = cx.b.dtype(x);
    let zero = cx.b.constant(dtype, 0.0)?;
    if p == 0.0 {
        let hit = cx.b.scalar(F::Ne, &[x, zero])?;
        let count = cx.b.cast(hit, dtype)?;
        return over(cx, ReduceKind::Sum, count, dims, keep);
    }
    let magnitude = cx.b.scalar(F::Abs, &[x])?;
    if p.is_infinite() || dims.is_empty() || p == 1.0 {
        let kind = if p == 1.0 {
            ReduceKind::Sum
        } else if p > 0.0 {
            ReduceKind::Max
        } else {
            ReduceKind::Min
        };
        return match kind {
            _ if dims.is_empty() => Ok(magnitude),
            ReduceKind::Sum => over(cx, kind, magnitude, dims, keep),
            _ => shared_extremum(cx, magnitude, kind, dims, keep, Ties::EqualOrNan),
        };
    }
    let wide = dtype.accumulator();
    if p != 2.0 {
        let x = cx.b.cast(x, wide)?;
        let root = norm_of_powers(cx, x, p, dims)?;
        let root = kept_or_not(cx, root, dims, keep)?;
        return cx.b.cast(root, dtype);
    }
    let magnitude = cx.b.cast(magnitude, wide)?;
    let power = cx.b.mul(magnitude, magnitude)?;
    let sum = over(cx, ReduceKind::Sum, power, dims, keep)?;
    // The root's slope at zero is infinite: the sum is replaced by one there, so that the gradient is zero and not NaN.
    let zero = cx.b.constant(wide, 0.0)?;
    let one = cx.b.constant(wide, 1.0)?;
    let empty = cx.b.scalar(F::Eq, &[sum, zero])?;
    let safe = cx.b.where_(empty, one, sum)?;
    let root = cx.b.scalar(F::Sqrt, &[safe])?;
    let root = cx.b.where_(empty, zero, root)?;
    cx.b.cast(root, dtype)
}

/// `sum(|x|^p)^(1/p)`, kept, with the derivative `sgn(x) |x|^(p-1) / norm^(p-1)`. What is zero has none, below p = 1 each
/// element, above it the norm.
fn norm_of_powers(cx: &mut Cx, x: Value, p: f64, dims: &[usize]) -> Result<Value, String> {
    let dtype = cx.b.dtype(x);
    let [power, inverse, slope, rest] = [p, 1.0 / p, p - 1.0, 1.0 - p].map(|k| cx.b.constant(dtype, k));
    let magnitude = cx.b.scalar(F::Abs, &[x])?;
    let powers = cx.b.scalar(F::Pow, &[magnitude, power?])?;
    let sum = cx.b.reduce(ReduceKind::Sum, powers, dims, true)?;
    let root = cx.b.scalar(F::Pow, &[sum, inverse?])?;
    let (sign, size) = (cx.b.scalar(F::Sign, &[x])?, cx.b.scalar(F::Pow, &[magnitude, slope?])?);
    let mut own = cx.b.mul(sign, size)?;
    let mut scale = cx.b.scalar(F::Pow, &[root, rest?])?;
    if p < 1.0 {
        own = zero_at_zero(cx, x, own)?;
    } else {
        scale = zero_at_zero(cx, root, scale)?;
    }
    let partial = cx.b.mul(own, scale)?;
    with_partials_over(cx, root, dims, x, partial)
}

fn cumsum(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("self")?;
    let own = cx.b.dtype(x);
    let dtype = a.dtype_opt("dtype")?.unwrap_or(if own.is_float() { own } else { DType::I64 });
    let x = cx.b.cast(x, dtype)?;
    let dim = cx.dim(x, a.int("dim")?)?;
    if cx.b.shape(x).rank() == 0 {
        return Ok(vec![x]);
    }
    Ok(vec![cx.b.cumsum(x, dim)?])
}
