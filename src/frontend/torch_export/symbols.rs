//! Operators on sizes and numbers, which the exported graph computes beside its tensors.

use super::schema::Range;
use crate::frontend::aten::args::{Arg, Args, Cx, Formula, Scalar, fraction};
use crate::scalar::ScalarFn as F;
use crate::types::{Dim, Relation, Shape};

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
        return Err(format!("a tensor of {} elements is larger than any device", Shape::new(sizes)));
    }
    bounded_list(sizes)
}

/// Computes a number from arguments; `None` for assertions.
pub type Body = fn(&mut Cx, &Args) -> Result<Option<Scalar>, String>;

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
        "torch.ops.aten._assert_scalar.default" => |cx, a| assert_sizes(cx, a).map(|()| None),
        "torch.ops.aten._assert_async.msg" | "torch.ops.aten._assert_tensor_metadata.default" => |_, _| Ok(None),
        "torch.ops.aten.sym_constrain_range_for_size.default" | "torch.ops.aten.sym_constrain_range.default" => |cx, a| {
            let size = a.dim("size")?;
            if let Some(min) = a.dim_opt("min")? {
                cx.b.assume_at_most(&min, &size, "sym_constrain_range");
            }
            if let Some(max) = a.dim_opt("max")? {
                cx.b.assume_at_most(&size, &max, "sym_constrain_range");
            }
            Ok(None)
        },
        "_operator.add" => |_, a| ADD.apply(a),
        "_operator.sub" => |_, a| SUB.apply(a),
        "_operator.mul" => |_, a| MUL.apply(a),
        "_operator.floordiv" => |_, a| FLOOR_DIV.apply(a),
        "_operator.mod" => |_, a| MOD.apply(a),
        "_operator.truediv" => |_, a| quotient(a),
        "_operator.pow" => |_, a| match pair(a)? {
            (Scalar::Int(x), Scalar::Int(n)) => power(x, n).map(|d| Some(Scalar::Int(d))),
            (x, y) => match x.to_f64().zip(y.to_f64()) {
                Some((x, y)) => Ok(Some(Scalar::Float(x.powf(y)))),
                None => formula(F::Pow, &[x, y]),
            },
        },
        "torch._sym_sqrt" => |_, a| match only(a)? {
            x if x.to_f64().is_some() => Ok(x.to_f64().map(|x| Scalar::Float(x.sqrt()))),
            x => formula(F::Sqrt, &[x]),
        },
        "_operator.neg" => |_, a| match only(a)? {
            Scalar::Int(n) => Ok(Some(Scalar::Int(Dim::int(0) - n))),
            Scalar::Float(x) => Ok(Some(Scalar::Float(-x))),
            Scalar::Quotient(x, y) => Ok(Some(Scalar::Quotient(Dim::int(0) - x, y.clone()))),
            x @ Scalar::Formula(_) => formula(F::Neg, &[x]),
            other => Err(format!("{other:?} has no negative")),
        },
        "torch.sym_max" => |_, a| MAX.apply(a),
        "torch.sym_min" => |_, a| MIN.apply(a),
        "torch.sym_float" => |_, a| match only(a)? {
            Scalar::Int(n) if n.as_int().is_none() => Ok(Some(Scalar::Quotient(n.clone(), Dim::int(1)))),
            number @ (Scalar::Quotient(..) | Scalar::Formula(_)) => Ok(Some(number.clone())),
            other => other.to_f64().map(|x| Some(Scalar::Float(x))).ok_or_else(|| format!("{other:?} as a float is not supported")),
        },
        "torch.sym_int" | "math.trunc" | "math.floor" => |_, a| match only(a)? {
            Scalar::Float(x) => Ok(Some(Scalar::Int(Dim::int(*x as i64)))),
            // Sizes are not negative, so that both round in the same way.
            Scalar::Quotient(x, y) if x.range().0 >= 0 && y.range().0 > 0 => Ok(Some(Scalar::Int(bounded(x.floor_div(y))?))),
            Scalar::Quotient(..) | Scalar::Formula(_) => Err("rounding a quotient that may be negative is not supported".into()),
            other => Ok(Some(other.clone())),
        },
        "math.ceil" => |_, a| match only(a)? {
            Scalar::Float(x) => Ok(Some(Scalar::Int(Dim::int(x.ceil() as i64)))),
            Scalar::Quotient(x, y) if y.range().0 > 0 => Ok(Some(Scalar::Int(bounded(x.ceil_div(y))?))),
            Scalar::Quotient(..) | Scalar::Formula(_) => Err("rounding a quotient by what may not be positive is not supported".into()),
            other => Ok(Some(other.clone())),
        },
        "torch.sym_not" => |_, a| match only(a)? {
            Scalar::Bool(x) => Ok(Some(Scalar::Bool(x.map(|x| !x)))),
            Scalar::Test(..) => Ok(Some(Scalar::Bool(None))),
            other => Err(format!("{other:?} is no bool")),
        },
        "_operator.ge" => |cx, a| compare(cx, a, |x, y| Scalar::Test(y, Relation::AtMost, x)),
        "_operator.le" => |cx, a| compare(cx, a, |x, y| Scalar::Test(x, Relation::AtMost, y)),
        "_operator.gt" => |cx, a| compare(cx, a, |x, y| Scalar::Test(y + Dim::int(1), Relation::AtMost, x)),
        "_operator.lt" => |cx, a| compare(cx, a, |x, y| Scalar::Test(x + Dim::int(1), Relation::AtMost, y)),
        "_operator.eq" => |cx, a| compare(cx, a, |x, y| Scalar::Test(x, Relation::Equal, y)),
        "_operator.ne" => |cx, a| match compare(cx, a, |x, y| Scalar::Test(x, Relation::Equal, y))? {
            Some(Scalar::Bool(known)) => Ok(Some(Scalar::Bool(known.map(|x| !x)))),
            _ => Ok(Some(Scalar::Bool(None))),
        },
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

/// Numerator and denominator.
type Ratio = (Dim, Dim);

/// A function of sizes and floats that has no simpler form.
fn formula(f: F, operands: &[&Scalar]) -> Result<Option<Scalar>, String> {
    let part = |x: &&Scalar| match x {
        Scalar::Formula(formula) => formula.clone(),
        number => Formula::Number(Box::new((*number).clone())),
    };
    let formula = Formula::Apply(f, operands.iter().map(part).collect());
    match formula.weight() {
        0..=MAX_WEIGHT => Ok(Some(Scalar::Formula(formula))),
        n => Err(format!("a number is a function of {n} others, more than {MAX_WEIGHT}")),
    }
}

/// Arithmetic on sizes, on floats, and on quotients of sizes where it has a rule for them.
struct Arithmetic {
    sizes: fn(&Dim, &Dim) -> Result<Dim, String>,
    floats: fn(f64, f64) -> f64,
    quotients: Option<fn(Ratio, Ratio) -> Ratio>,
    /// Of anything else.
    function: F,
}

impl Arithmetic {
    fn apply(&self, a: &Args) -> Result<Option<Scalar>, String> {
        let (x, y) = pair(a)?;
        if let (Scalar::Int(x), Scalar::Int(y)) = (x, y) {
            return Ok(Some(Scalar::Int(bounded((self.sizes)(x, y)?)?)));
        }
        if let Some((x, y)) = x.to_f64().zip(y.to_f64()) {
            return Ok(Some(Scalar::Float((self.floats)(x, y))));
        }
        match (self.quotients, as_quotient(x).ok().zip(as_quotient(y).ok())) {
            (Some(rule), Some((x, y))) => {
                let (top, bottom) = rule(x, y);
                Ok(Some(Scalar::Quotient(bounded(top)?, bounded(bottom)?)))
            }
            _ => formula(self.function, &[x, y]),
        }
    }
}

const ADD: Arithmetic = Arithmetic {
    sizes: |x, y| Ok(x.clone() + y),
    floats: |x, y| x + y,
    quotients: Some(|(x, k), (y, n)| (x * &n + y * &k, k * &n)),
    function: F::Add,
};
const SUB: Arithmetic = Arithmetic {
    sizes: |x, y| Ok(x.clone() - y),
    floats: |x, y| x - y,
    quotients: Some(|(x, k), (y, n)| (x * &n - y * &k, k * &n)),
    function: F::Sub,
};
const MUL: Arithmetic =
    Arithmetic { sizes: |x, y| Ok(x.clone() * y), floats: |x, y| x * y, quotients: Some(|(x, k), (y, n)| (x * &y, k * &n)), function: F::Mul };
const FLOOR_DIV: Arithmetic =
    Arithmetic { sizes: |x, y| positive(y).map(|()| x.floor_div(y)), floats: |x, y| (x / y).floor(), quotients: None, function: F::FloorDiv };
const MOD: Arithmetic =
    Arithmetic { sizes: |x, y| positive(y).map(|()| x.modulo(y)), floats: |x, y| x - (x / y).floor() * y, quotients: None, function: F::Remainder };
const MAX: Arithmetic = Arithmetic { sizes: |x, y| Ok(x.max_with(y)), floats: f64::max, quotients: None, function: F::Maximum };
const MIN: Arithmetic = Arithmetic { sizes: |x, y| Ok(x.min_with(y)), floats: f64::min, quotients: None, function: F::Minimum };

fn as_quotient(x: &Scalar) -> Result<(Dim, Dim), String> {
    match x {
        Scalar::Int(n) => Ok((n.clone(), Dim::int(1))),
        Scalar::Quotient(x, y) => Ok((x.clone(), y.clone())),
        Scalar::Float(f) => {
            fraction(*f).map(|(x, y)| (Dim::int(x), Dim::int(y))).ok_or_else(|| format!("arithmetic of sizes with {f} is not supported"))
        }
        other => Err(format!("{other:?} is no number")),
    }
}

fn quotient(a: &Args) -> Result<Option<Scalar>, String> {
    let (x, y) = pair(a)?;
    if let Some((x, y)) = x.to_f64().zip(y.to_f64()) {
        return Ok(Some(Scalar::Float(x / y)));
    }
    let (Ok((top, xd)), Ok((bottom, yd))) = (as_quotient(x), as_quotient(y)) else { return formula(F::Div, &[x, y]) };
    Ok(Some(Scalar::Quotient(bounded(top * yd)?, bounded(bottom * xd)?)))
}

fn power(x: &Dim, n: &Dim) -> Result<Dim, String> {
    match n.as_int() {
        Some(n @ 0..=8) => (0..n).try_fold(Dim::int(1), |p, _| bounded(p * x)),
        _ => Err(format!("{x} to the power of {n} is not supported")),
    }
}

/// True or false where the ranges of the symbols decide, else what is to be tested.
fn compare(cx: &Cx, a: &Args, test: fn(Dim, Dim) -> Scalar) -> Result<Option<Scalar>, String> {
    let (Scalar::Int(x), Scalar::Int(y)) = pair(a)? else { return Ok(Some(Scalar::Bool(None))) };
    let test = test(cx.b.resolve(x), cx.b.resolve(y));
    let Scalar::Test(x, relation, y) = &test else { return Ok(Some(test)) };
    let (holds, fails) = match relation {
        Relation::Equal => (x.known_eq(y), x.known_lt(y) || y.known_lt(x)),
        Relation::AtMost => (x.known_le(y), y.known_lt(x)),
    };
    Ok(Some(if holds || fails { Scalar::Bool(Some(holds)) } else { test }))
}

/// What the program asserts about sizes holds from there on. What cannot is an error; what is no relation of two sizes was
/// checked by PyTorch when the program was exported, or concerns data.
fn assert_sizes(cx: &mut Cx, a: &Args) -> Result<(), String> {
    match a.values().first() {
        Some(Arg::Scalar(Scalar::Test(x, Relation::Equal, y))) => cx.b.assume_equal(x, y, "assertion"),
        Some(Arg::Scalar(Scalar::Test(x, Relation::AtMost, y))) => cx.b.assume_at_most(x, y, "assertion"),
        Some(Arg::Scalar(Scalar::Bool(Some(false)))) => return Err("the program asserts what is never true".into()),
        _ => {}
    }
    Ok(())
}
