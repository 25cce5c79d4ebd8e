//! Operators on sizes and numbers, which the exported graph computes beside its tensors.

use super::args::{Arg, Args, Cx, Scalar};
use super::schema::Range;
use crate::types::{Dim, Shape};

/// Sizes without an upper bound end here: index arithmetic stays inside 32 bits.
const LARGEST: i64 = i32::MAX as i64;

/// A symbol within its declared range.
pub fn symbol(name: &str, range: Option<&Range>) -> Dim {
    let min = range.and_then(|r| r.min_val).unwrap_or(0).clamp(0, LARGEST);
    let max = range.and_then(|r| r.max_val).unwrap_or(LARGEST).clamp(min, LARGEST);
    Dim::symbol(name, min, max)
}

/// Expressions longer than this are refused: the product of sums grows with the power of their number.
const MAX_WEIGHT: usize = 64;
/// Dimensions of a tensor beyond this are refused; PyTorch has as many at most.
const MAX_RANK: usize = 64;
/// The largest size of a dimension. A tensor has at most 256 times as many elements; beyond that arithmetic overflows.
const MAX_SIZE: i64 = 1 << 40;
/// Terms that the number of elements of a tensor may have.
const MAX_TERMS: usize = 1024;

/// A size, unless its expression is too long to reckon with.
pub fn bounded(size: Dim) -> Result<Dim, String> {
    match size.weight() {
        0..=MAX_WEIGHT => Ok(size),
        n => Err(format!("a size has an expression of {n} parts, more than {MAX_WEIGHT}")),
    }
}

/// Sizes, unless their product is too long to reckon with.
pub fn bounded_list(sizes: Vec<Dim>) -> Result<Vec<Dim>, String> {
    let terms = sizes.iter().fold(1usize, |n, d| n.saturating_mul(d.weight().max(1)));
    if terms > MAX_TERMS {
        return Err(format!("{} sizes whose product has up to {terms} terms are too many", sizes.len()));
    }
    sizes.into_iter().map(bounded).collect()
}

/// Sizes of one tensor, within bounds.
pub fn bounded_shape(sizes: Vec<Dim>) -> Result<Vec<Dim>, String> {
    if sizes.len() > MAX_RANK {
        return Err(format!("a tensor of {} dimensions is not supported", sizes.len()));
    }
    let known = sizes.iter().filter_map(Dim::as_int);
    if known.clone().any(|n| n > MAX_SIZE) || known.fold(1i64, |n, d| n.saturating_mul(d.max(1))) > MAX_SIZE << 8 {
        return Err(format!("a tensor of {} elements is larger than any device", Shape(sizes)));
    }
    bounded_list(sizes)
}

/// Computes a number from arguments; `None` for assertions.
pub type Body = fn(&Cx, &Args) -> Result<Option<Scalar>, String>;

/// The function of that target, if it is one on sizes.
pub fn find(target: &str) -> Option<Body> {
    Some(match target {
        "torch.ops.aten.sym_size.int" => |cx, a| {
            let x = a.tensor("self")?;
            let dim = cx.dim(x, a.int("dim")?)?;
            let size = cx.b.shape(x).0.get(dim).cloned().ok_or("a 0-d tensor has no size")?;
            Ok(Some(Scalar::Int(size)))
        },
        "torch.ops.aten.sym_numel.default" => |cx, a| Ok(Some(Scalar::Int(bounded(cx.b.ty(a.tensor("self")?).numel())?))),
        "torch.ops.aten.sym_storage_offset.default" => |_, _| Err("storage offsets are not known here".into()),
        "torch.ops.aten._assert_scalar.default"
        | "torch.ops.aten._assert_async.msg"
        | "torch.ops.aten._assert_tensor_metadata.default"
        | "torch.ops.aten.sym_constrain_range_for_size.default"
        | "torch.ops.aten.sym_constrain_range.default" => |_, _| Ok(None),
        "_operator.add" => |_, a| arithmetic(a, |x, y| Ok(x.clone() + y), |x, y| x + y),
        "_operator.sub" => |_, a| arithmetic(a, |x, y| Ok(x.clone() - y), |x, y| x - y),
        "_operator.mul" => |_, a| arithmetic(a, |x, y| Ok(x.clone() * y), |x, y| x * y),
        "_operator.floordiv" => |_, a| arithmetic(a, |x, y| positive(y).map(|()| x.floor_div(y)), |x, y| (x / y).floor()),
        "_operator.mod" => |_, a| arithmetic(a, |x, y| positive(y).map(|()| x.modulo(y)), |x, y| x - (x / y).floor() * y),
        "_operator.truediv" => |_, a| {
            let (x, y) = pair(a)?;
            let quotient = x.to_f64().zip(y.to_f64()).map(|(x, y)| x / y);
            quotient.map(|q| Some(Scalar::Float(q))).ok_or_else(|| "a quotient of sizes is not supported".into())
        },
        "_operator.neg" => |_, a| match only(a)? {
            Scalar::Int(n) => Ok(Some(Scalar::Int(Dim::int(0) - n))),
            Scalar::Float(x) => Ok(Some(Scalar::Float(-x))),
            other => Err(format!("{other:?} has no negative")),
        },
        "torch.sym_max" => |_, a| arithmetic(a, |x, y| Ok(x.max_with(y)), f64::max),
        "torch.sym_min" => |_, a| arithmetic(a, |x, y| Ok(x.clone() + y - &x.max_with(y)), f64::min),
        "torch.sym_float" => |_, a| only(a)?.to_f64().map(|x| Some(Scalar::Float(x))).ok_or_else(|| "a size as a float is not supported".into()),
        "torch.sym_int" | "math.trunc" => |_, a| match only(a)? {
            Scalar::Float(x) => Ok(Some(Scalar::Int(Dim::int(*x as i64)))),
            other => Ok(Some(other.clone())),
        },
        "torch.sym_not" => |_, a| match only(a)? {
            Scalar::Bool(x) => Ok(Some(Scalar::Bool(x.map(|x| !x)))),
            other => Err(format!("{other:?} is no bool")),
        },
        "_operator.ge" => |_, a| compare(a, |x, y| y.known_le(x), less),
        "_operator.le" => |_, a| compare(a, |x, y| x.known_le(y), |x, y| less(y, x)),
        "_operator.gt" => |_, a| compare(a, |x, y| less(y, x), |x, y| x.known_le(y)),
        "_operator.lt" => |_, a| compare(a, less, |x, y| y.known_le(x)),
        "_operator.eq" => |_, a| compare(a, |x, y| x == y, |x, y| less(x, y) || less(y, x)),
        "_operator.ne" => |_, a| compare(a, |x, y| less(x, y) || less(y, x), |x, y| x == y),
        "_operator.and_" | "_operator.or_" => |_, _| Ok(Some(Scalar::Bool(None))),
        _ => return None,
    })
}

/// Both operands, whatever they are called.
fn pair(a: &Args) -> Result<(&Scalar, &Scalar), String> {
    match a.values()[..] {
        [Arg::Scalar(x), Arg::Scalar(y)] => Ok((x, y)),
        ref other => Err(format!("expected two numbers, got {other:?}")),
    }
}

fn only(a: &Args) -> Result<&Scalar, String> {
    match a.values()[..] {
        [Arg::Scalar(x)] => Ok(x),
        ref other => Err(format!("expected a number, got {other:?}")),
    }
}

fn positive(d: &Dim) -> Result<(), String> {
    if d.range().0 > 0 { Ok(()) } else { Err(format!("{d} may not be positive")) }
}

fn less(x: &Dim, y: &Dim) -> bool {
    (x.clone() + Dim::int(1)).known_le(y)
}

fn arithmetic(a: &Args, sizes: fn(&Dim, &Dim) -> Result<Dim, String>, floats: fn(f64, f64) -> f64) -> Result<Option<Scalar>, String> {
    match pair(a)? {
        (Scalar::Int(x), Scalar::Int(y)) => Ok(Some(Scalar::Int(bounded(sizes(x, y)?)?))),
        (x, y) => {
            let (x, y) = x.to_f64().zip(y.to_f64()).ok_or("arithmetic of sizes and floats is not supported")?;
            Ok(Some(Scalar::Float(floats(x, y))))
        }
    }
}

/// True or false where the ranges of the symbols decide.
fn compare(a: &Args, holds: fn(&Dim, &Dim) -> bool, fails: fn(&Dim, &Dim) -> bool) -> Result<Option<Scalar>, String> {
    let known = match pair(a)? {
        (Scalar::Int(x), Scalar::Int(y)) if holds(x, y) => Some(true),
        (Scalar::Int(x), Scalar::Int(y)) if fails(x, y) => Some(false),
        _ => None,
    };
    Ok(Some(Scalar::Bool(known)))
}
