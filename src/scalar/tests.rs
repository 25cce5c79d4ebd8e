//! Functions at their edges: what PyTorch gives there.

use super::ScalarFn as F;
use crate::types::DType;

/// Equal bits, but for NaN.
fn same(a: f64, b: f64) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

#[test]
fn edges_are_those_of_pytorch() {
    const INF: f64 = f64::INFINITY;
    const NAN: f64 = f64::NAN;
    let tenth = 0.1f32 as f64;
    let cases: &[(F, &[f64], f64)] = &[
        (F::Sign, &[NAN], 0.0),
        (F::Sign, &[-0.0], 0.0),
        (F::Relu, &[-0.0], -0.0),
        (F::Relu, &[NAN], NAN),
        (F::FloorDiv, &[1.0, INF], 0.0),
        (F::FloorDiv, &[-1.0, INF], -1.0),
        (F::FloorDiv, &[INF, 1.0], NAN),
        (F::FloorDiv, &[1.0, 0.0], INF),
        (F::FloorDiv, &[0.0, 0.0], NAN),
        (F::FloorDiv, &[0.0, -1.0], -0.0),
        (F::FloorDiv, &[1.0, tenth], 9.0),
        (F::FloorDiv, &[-1.0, tenth], -10.0),
        (F::Remainder, &[1.0, INF], 1.0),
        (F::Remainder, &[-1.0, INF], INF),
        (F::Fmod, &[-1.0, INF], -1.0),
        (F::Fmod, &[1.0, 0.0], NAN),
        (F::Clamp, &[-0.0, -0.0, INF], -0.0),
        (F::Clamp, &[0.0, -0.0, INF], 0.0),
        (F::Clamp, &[NAN, 0.0, 1.0], NAN),
        (F::Clamp, &[3.0, 2.0, 0.0], 0.0),
        (F::Maximum, &[NAN, 1.0], NAN),
        (F::Minimum, &[1.0, NAN], NAN),
        (F::Round, &[2.5], 2.0),
        (F::Round, &[-0.5], -0.0),
        (F::Atan2, &[0.0, -0.0], std::f64::consts::PI),
        (F::Pow, &[NAN, 0.0], 1.0),
        (F::StraightThrough, &[1.0, NAN], 1.0),
    ];
    for (f, args, expected) in cases {
        let got = (f.row().eval_f64)(args);
        assert!(same(got, *expected), "{} of {args:?} is {got}, expected {expected}", f.name());
    }
}

#[test]
fn integers_wrap_and_round_as_in_pytorch() {
    let cases: &[(F, DType, &[i64], i64)] = &[
        (F::FloorDiv, DType::I8, &[-7, 2], -4),
        (F::Remainder, DType::I8, &[-7, 2], 1),
        (F::Fmod, DType::I8, &[-7, 2], -1),
        (F::FloorDiv, DType::I8, &[-128, -1], -128),
        (F::Remainder, DType::I64, &[i64::MIN, -1], 0),
        (F::Abs, DType::I8, &[-128], -128),
        (F::Neg, DType::U8, &[1], 255),
        (F::Mul, DType::U8, &[200, 2], 144),
        (F::Add, DType::I8, &[127, 1], -128),
        (F::ShiftLeft, DType::I8, &[1, 7], -128),
        (F::ShiftLeft, DType::I32, &[1, 40], 0),
        (F::ShiftRight, DType::I8, &[-128, 63], -1),
        (F::ShiftRight, DType::I32, &[100, -1], 0),
        (F::ShiftRight, DType::I64, &[-100, -1], -1),
    ];
    for (f, dtype, args, expected) in cases {
        assert_eq!(f.eval_int(*dtype, args), Some(*expected), "{} of {dtype} {args:?}", f.name());
    }
}
