//! Orthogonal polynomials by their recurrence in the degree, which is a number or a tensor. PyTorch knows no derivative of them.

use super::args::{Args, Cx, Operand};
use super::{Row, pure};
use crate::graph::Value;
use crate::ops::CheckIndex;
use crate::scalar::ScalarFn as F;
use crate::types::{DType, Dim};

type Built = Result<Vec<Value>, String>;

/// The largest degree that an element of a tensor may have, which is checked when the program runs, and that a number may be.
const MAX_DEGREE: i64 = 32;
const MAX_FIXED_DEGREE: i64 = 1024;

macro_rules! polynomial {
    ($name:literal, $kind:expr) => {
        pure(&[concat!($name, ".default"), concat!($name, ".x_scalar"), concat!($name, ".n_scalar")], |cx, a| evaluate(cx, a, &$kind))
    };
}

/// Rows of this family.
pub const ROWS: &[Row] = &[
    polynomial!("special_chebyshev_polynomial_t", Kind::chebyshev(1.0, 0.0)),
    polynomial!("special_chebyshev_polynomial_u", Kind::chebyshev(2.0, 0.0)),
    polynomial!("special_chebyshev_polynomial_v", Kind::chebyshev(2.0, -1.0)),
    polynomial!("special_chebyshev_polynomial_w", Kind::chebyshev(2.0, 1.0)),
    polynomial!("special_shifted_chebyshev_polynomial_t", Kind::chebyshev(1.0, 0.0).shifted()),
    polynomial!("special_shifted_chebyshev_polynomial_u", Kind::chebyshev(2.0, 0.0).shifted()),
    polynomial!("special_shifted_chebyshev_polynomial_v", Kind::chebyshev(2.0, -1.0).shifted()),
    polynomial!("special_shifted_chebyshev_polynomial_w", Kind::chebyshev(2.0, 1.0).shifted()),
    polynomial!("special_hermite_polynomial_h", Kind { first: (2.0, 0.0), next: |k| (2.0, 0.0, 2.0 * k), is_shifted: false }),
    polynomial!("special_hermite_polynomial_he", Kind { first: (1.0, 0.0), next: |k| (1.0, 0.0, k), is_shifted: false }),
    polynomial!(
        "special_laguerre_polynomial_l",
        Kind { first: (-1.0, 1.0), next: |k| (-1.0 / (k + 1.0), (2.0 * k + 1.0) / (k + 1.0), k / (k + 1.0)), is_shifted: false }
    ),
    polynomial!(
        "special_legendre_polynomial_p",
        Kind { first: (1.0, 0.0), next: |k| ((2.0 * k + 1.0) / (k + 1.0), 0.0, k / (k + 1.0)), is_shifted: false }
    ),
];

/// A family: that of degree 0 is one.
struct Kind {
    /// The one of degree 1 is `first.0 x + first.1`.
    first: (f64, f64),
    /// That of degree `k + 1` is `(a x + b) p[k] - c p[k - 1]`.
    next: fn(f64) -> (f64, f64, f64),
    /// Whether it is taken at `2 x - 1`.
    is_shifted: bool,
}

impl Kind {
    fn chebyshev(slope: f64, offset: f64) -> Kind {
        Kind { first: (slope, offset), next: |_| (2.0, 0.0, 1.0), is_shifted: false }
    }

    fn shifted(self) -> Kind {
        Kind { is_shifted: true, ..self }
    }
}

/// The polynomial of each element's degree; zero below degree 0. Degrees are cut to integers.
fn evaluate(cx: &mut Cx, a: &Args, kind: &Kind) -> Built {
    let (x, n) = (a.operand("x")?, a.operand("n")?);
    let dtype = match cx.result_type(&[&x, &n]) {
        d if d.is_float() => d,
        _ => DType::F32,
    };
    let mut x = cx.as_tensor(&x, dtype)?;
    if kind.is_shifted {
        x = line(cx, x, 2.0, -1.0)?;
    }
    if let Operand::Scalar(n) = &n {
        let n = n.to_f64().ok_or("the degree is not constant")? as i64;
        return of_degree(cx, x, n, kind);
    }
    let n = cx.as_tensor(&n, dtype)?;
    let n = cx.b.cast(n, DType::I32)?;
    let (zero, none) = (cx.b.constant(dtype, 0.0)?, cx.b.constant(DType::I32, 0.0)?);
    let degree = cx.b.scalar(F::Maximum, &[n, none])?;
    let check = CheckIndex { size: Dim::int(MAX_DEGREE + 1), ignore: None, subject: "the degree of a polynomial".into() };
    let degree = cx.b.op(check, &[degree])?;
    let mut chosen = zero;
    for (k, value) in sequence(cx, x, MAX_DEGREE, kind)?.into_iter().enumerate() {
        let k = cx.b.constant(DType::I32, k as f64)?;
        let here = cx.b.scalar(F::Eq, &[degree, k])?;
        chosen = cx.b.where_(here, value, chosen)?;
    }
    let below = cx.b.scalar(F::Lt, &[n, none])?;
    Ok(vec![cx.b.where_(below, zero, chosen)?])
}

fn of_degree(cx: &mut Cx, x: Value, n: i64, kind: &Kind) -> Built {
    if n > MAX_FIXED_DEGREE {
        return Err(format!("a polynomial of degree {n} is not supported, up to {MAX_FIXED_DEGREE} are"));
    }
    let value = sequence(cx, x, n.max(0), kind)?.pop().ok_or("it has no degree")?;
    Ok(vec![if n < 0 { cx.b.scale(value, 0.0)? } else { value }])
}

/// The polynomials of degrees up to `last`.
fn sequence(cx: &mut Cx, x: Value, last: i64, kind: &Kind) -> Result<Vec<Value>, String> {
    let (dtype, shape) = (cx.b.dtype(x), cx.shape(x));
    let mut out = vec![cx.b.full(dtype, 1.0, shape)?];
    if last > 0 {
        out.push(line(cx, x, kind.first.0, kind.first.1)?);
    }
    for k in 1..last {
        let (slope, offset, factor) = (kind.next)(k as f64);
        let (at, before) = (out[k as usize], out[k as usize - 1]);
        let slope = line(cx, x, slope, offset)?;
        let product = cx.b.mul(slope, at)?;
        let before = cx.b.scale(before, factor)?;
        out.push(cx.b.sub(product, before)?);
    }
    Ok(out)
}

/// `slope x + offset`.
fn line(cx: &mut Cx, x: Value, slope: f64, offset: f64) -> Result<Value, String> {
    let scaled = cx.b.scale(x, slope)?;
    if offset == 0.0 {
        return Ok(scaled);
    }
    let offset = cx.b.constant(cx.b.dtype(x), offset)?;
    cx.b.add(scaled, offset)
}
