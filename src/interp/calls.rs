//! Scalar functions over registers: tight loops for the hot ones, the scalar table's row lane by lane for the others.

use super::lanes::{Lane, Reg, Src, Value};
use super::math;
use super::raw::vectorized;
use crate::scalar::{ScalarFn, philox};
use crate::types::DType;
use bytemuck::Pod;

/// `dst = f(args)` over `n` lanes; `dtype` is that of the (last) operand.
pub fn call(f: ScalarFn, dtype: DType, dst: &mut Reg, n: usize, args: &[Value<'_>]) {
    let done = match (f, args) {
        (ScalarFn::Where, [Value::Bool(c), a, b]) => select(dst, n, *c, *a, *b),
        (_, [Value::F32(a)]) => unary_f32(f, dst, n, *a),
        (_, [Value::F32(a), Value::F32(b)]) => binary_f32(f, dst, n, *a, *b),
        (ScalarFn::Clamp, [Value::F32(x), Value::F32(Src::One(lo)), Value::F32(Src::One(hi))]) => {
            let (lo, hi) = (*lo, *hi);
            map(dst, n, *x, move |x: f32| math::minimum(math::maximum(x, lo), hi))
        }
        (_, [Value::F64(a), Value::F64(b)]) => binary_f64(f, dst, n, *a, *b),
        (_, [Value::I32(a), Value::I32(b)]) => binary_i32(f, dst, n, *a, *b),
        (_, [Value::I64(a), Value::I64(b)]) => binary_i64(f, dst, n, *a, *b),
        (_, [Value::Bool(a), Value::Bool(b)]) => binary_bool(f, dst, n, *a, *b),
        (ScalarFn::LogicalNot | ScalarFn::BitwiseNot, [Value::Bool(a)]) => map(dst, n, *a, |x: u8| x ^ 1),
        (ScalarFn::Philox, [Value::I64(a), Value::I64(b), Value::I64(i)]) => random_bits(dst, n, *a, *b, *i),
        _ => false,
    };
    if !done {
        fallback(f, dtype, dst, n, args);
    } else if matches!(args[args.len() - 1], Value::I64(_)) && !f.row().predicate && dtype != DType::I64 {
        wrap(dtype, dst.lanes_mut(n));
    }
}

/// Wraps lanes to a dtype narrower than i64.
pub fn wrap(dtype: DType, lanes: &mut [i64]) {
    match dtype {
        DType::U32 => lanes.iter_mut().for_each(|x| *x = *x as u32 as i64),
        DType::U8 => lanes.iter_mut().for_each(|x| *x = *x as u8 as i64),
        DType::I8 => lanes.iter_mut().for_each(|x| *x = *x as i8 as i64),
        DType::I16 => lanes.iter_mut().for_each(|x| *x = *x as i16 as i64),
        _ => {}
    }
}

/// `dst = f(a)`.
#[inline(always)]
pub fn map<T: Pod, U: Pod>(dst: &mut Reg, n: usize, a: Src<'_, T>, f: impl Fn(T) -> U + Copy) -> bool {
    let out = dst.lanes_mut::<U>(n);
    match a {
        Src::All(a) => vectorized(|| {
            for (o, &a) in out.iter_mut().zip(a) {
                *o = f(a);
            }
        }),
        Src::One(a) => out.fill(f(a)),
    }
    true
}

/// `dst = f(a, b)`.
#[inline(always)]
pub fn zip<T: Pod, U: Pod>(dst: &mut Reg, n: usize, a: Src<'_, T>, b: Src<'_, T>, f: impl Fn(T, T) -> U + Copy) -> bool {
    let out = dst.lanes_mut::<U>(n);
    match (a, b) {
        (Src::All(a), Src::All(b)) => vectorized(|| {
            for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
                *o = f(a, b);
            }
        }),
        (Src::All(a), Src::One(b)) => vectorized(|| {
            for (o, &a) in out.iter_mut().zip(a) {
                *o = f(a, b);
            }
        }),
        (Src::One(a), Src::All(b)) => vectorized(|| {
            for (o, &b) in out.iter_mut().zip(b) {
                *o = f(a, b);
            }
        }),
        (Src::One(a), Src::One(b)) => out.fill(f(a, b)),
    }
    true
}

fn select(dst: &mut Reg, n: usize, c: Src<'_, u8>, a: Value<'_>, b: Value<'_>) -> bool {
    fn lanes<T: Pod>(dst: &mut Reg, n: usize, c: Src<'_, u8>, a: Src<'_, T>, b: Src<'_, T>) -> bool {
        let c = match c {
            Src::One(c) => return map(dst, n, if c != 0 { a } else { b }, |x| x),
            Src::All(c) => c,
        };
        let out = dst.lanes_mut::<T>(n);
        match (a, b) {
            (Src::All(a), Src::All(b)) => vectorized(|| {
                for (((o, &c), &a), &b) in out.iter_mut().zip(c).zip(a).zip(b) {
                    *o = if c != 0 { a } else { b };
                }
            }),
            (Src::All(a), Src::One(b)) => vectorized(|| {
                for ((o, &c), &a) in out.iter_mut().zip(c).zip(a) {
                    *o = if c != 0 { a } else { b };
                }
            }),
            (Src::One(a), Src::All(b)) => vectorized(|| {
                for ((o, &c), &b) in out.iter_mut().zip(c).zip(b) {
                    *o = if c != 0 { a } else { b };
                }
            }),
            (Src::One(a), Src::One(b)) => vectorized(|| {
                for (o, &c) in out.iter_mut().zip(c) {
                    *o = if c != 0 { a } else { b };
                }
            }),
        }
        true
    }
    match (a, b) {
        (Value::F32(a), Value::F32(b)) => lanes(dst, n, c, a, b),
        (Value::F64(a), Value::F64(b)) => lanes(dst, n, c, a, b),
        (Value::I32(a), Value::I32(b)) => lanes(dst, n, c, a, b),
        (Value::I64(a), Value::I64(b)) => lanes(dst, n, c, a, b),
        (Value::Bool(a), Value::Bool(b)) => lanes(dst, n, c, a, b),
        _ => false,
    }
}

fn unary_f32(f: ScalarFn, dst: &mut Reg, n: usize, a: Src<'_, f32>) -> bool {
    let reducible = |a: &Src<'_, f32>| match a {
        Src::All(x) => x[..n].iter().all(|x| x.abs() <= math::TRIGONOMETRIC_LIMIT),
        Src::One(x) => x.abs() <= math::TRIGONOMETRIC_LIMIT,
    };
    match f {
        ScalarFn::Neg => map(dst, n, a, |x: f32| -x),
        ScalarFn::Abs => map(dst, n, a, f32::abs),
        ScalarFn::Sign => map(dst, n, a, |x: f32| (x > 0.0) as u8 as f32 - (x < 0.0) as u8 as f32),
        ScalarFn::Sqrt => map(dst, n, a, f32::sqrt),
        ScalarFn::Rsqrt => map(dst, n, a, |x: f32| 1.0 / x.sqrt()),
        ScalarFn::Exp => map(dst, n, a, math::exp),
        ScalarFn::Exp2 => map(dst, n, a, math::exp2),
        ScalarFn::Log => map(dst, n, a, math::log),
        ScalarFn::Log2 => map(dst, n, a, math::log2),
        ScalarFn::Log1p => map(dst, n, a, math::log1p),
        ScalarFn::Sin if reducible(&a) => map(dst, n, a, math::sin),
        ScalarFn::Cos if reducible(&a) => map(dst, n, a, math::cos),
        ScalarFn::Tanh => map(dst, n, a, math::tanh),
        ScalarFn::Erf => map(dst, n, a, math::erf),
        ScalarFn::Sigmoid => map(dst, n, a, math::sigmoid),
        ScalarFn::Floor => map(dst, n, a, f32::floor),
        ScalarFn::Ceil => map(dst, n, a, f32::ceil),
        ScalarFn::Round => map(dst, n, a, f32::round_ties_even),
        ScalarFn::Trunc => map(dst, n, a, f32::trunc),
        ScalarFn::Reciprocal => map(dst, n, a, |x: f32| 1.0 / x),
        ScalarFn::Relu => map(dst, n, a, |x: f32| if x < 0.0 { 0.0 } else { x }),
        ScalarFn::IsNan => map(dst, n, a, |x: f32| x.is_nan() as u8),
        ScalarFn::IsInf => map(dst, n, a, |x: f32| x.is_infinite() as u8),
        _ => false,
    }
}

macro_rules! comparisons {
    ($f:expr, $dst:expr, $n:expr, $a:expr, $b:expr, $ty:ty, else $rest:expr) => {
        match $f {
            ScalarFn::Eq => zip($dst, $n, $a, $b, |x: $ty, y: $ty| (x == y) as u8),
            ScalarFn::Ne => zip($dst, $n, $a, $b, |x: $ty, y: $ty| (x != y) as u8),
            ScalarFn::Lt => zip($dst, $n, $a, $b, |x: $ty, y: $ty| (x < y) as u8),
            ScalarFn::Le => zip($dst, $n, $a, $b, |x: $ty, y: $ty| (x <= y) as u8),
            ScalarFn::Gt => zip($dst, $n, $a, $b, |x: $ty, y: $ty| (x > y) as u8),
            ScalarFn::Ge => zip($dst, $n, $a, $b, |x: $ty, y: $ty| (x >= y) as u8),
            _ => $rest,
        }
    };
}

fn binary_f32(f: ScalarFn, dst: &mut Reg, n: usize, a: Src<'_, f32>, b: Src<'_, f32>) -> bool {
    let rest = |dst: &mut Reg| match (f, b) {
        (ScalarFn::Add, _) => zip(dst, n, a, b, |x: f32, y: f32| x + y),
        (ScalarFn::Sub, _) => zip(dst, n, a, b, |x: f32, y: f32| x - y),
        (ScalarFn::Mul, _) => zip(dst, n, a, b, |x: f32, y: f32| x * y),
        (ScalarFn::Div, _) => zip(dst, n, a, b, |x: f32, y: f32| x / y),
        (ScalarFn::Maximum, _) => zip(dst, n, a, b, math::maximum),
        (ScalarFn::Minimum, _) => zip(dst, n, a, b, math::minimum),
        (ScalarFn::Pow, Src::One(1.0)) => map(dst, n, a, |x: f32| x),
        (ScalarFn::Pow, Src::One(2.0)) => map(dst, n, a, |x: f32| x * x),
        (ScalarFn::Pow, Src::One(3.0)) => map(dst, n, a, |x: f32| ((x as f64) * (x as f64) * (x as f64)) as f32),
        _ => false,
    };
    comparisons!(f, dst, n, a, b, f32, else rest(dst))
}

fn binary_f64(f: ScalarFn, dst: &mut Reg, n: usize, a: Src<'_, f64>, b: Src<'_, f64>) -> bool {
    let rest = |dst: &mut Reg| match f {
        ScalarFn::Add => zip(dst, n, a, b, |x: f64, y: f64| x + y),
        ScalarFn::Sub => zip(dst, n, a, b, |x: f64, y: f64| x - y),
        ScalarFn::Mul => zip(dst, n, a, b, |x: f64, y: f64| x * y),
        ScalarFn::Div => zip(dst, n, a, b, |x: f64, y: f64| x / y),
        _ => false,
    };
    comparisons!(f, dst, n, a, b, f64, else rest(dst))
}

macro_rules! integers {
    ($name:ident, $ty:ty) => {
        fn $name(f: ScalarFn, dst: &mut Reg, n: usize, a: Src<'_, $ty>, b: Src<'_, $ty>) -> bool {
            let rest = |dst: &mut Reg| match f {
                ScalarFn::Add => zip(dst, n, a, b, <$ty>::wrapping_add),
                ScalarFn::Sub => zip(dst, n, a, b, <$ty>::wrapping_sub),
                ScalarFn::Mul => zip(dst, n, a, b, <$ty>::wrapping_mul),
                ScalarFn::Maximum => zip(dst, n, a, b, |x: $ty, y: $ty| x.max(y)),
                ScalarFn::Minimum => zip(dst, n, a, b, |x: $ty, y: $ty| x.min(y)),
                ScalarFn::BitwiseAnd => zip(dst, n, a, b, |x: $ty, y: $ty| x & y),
                ScalarFn::BitwiseOr => zip(dst, n, a, b, |x: $ty, y: $ty| x | y),
                ScalarFn::BitwiseXor => zip(dst, n, a, b, |x: $ty, y: $ty| x ^ y),
                _ => false,
            };
            comparisons!(f, dst, n, a, b, $ty, else rest(dst))
        }
    };
}
integers!(binary_i32, i32);
integers!(binary_i64, i64);

fn binary_bool(f: ScalarFn, dst: &mut Reg, n: usize, a: Src<'_, u8>, b: Src<'_, u8>) -> bool {
    let rest = |dst: &mut Reg| match f {
        ScalarFn::LogicalAnd | ScalarFn::BitwiseAnd | ScalarFn::Minimum => zip(dst, n, a, b, |x: u8, y: u8| x & y),
        ScalarFn::LogicalOr | ScalarFn::BitwiseOr | ScalarFn::Maximum => zip(dst, n, a, b, |x: u8, y: u8| x | y),
        ScalarFn::LogicalXor | ScalarFn::BitwiseXor => zip(dst, n, a, b, |x: u8, y: u8| x ^ y),
        _ => false,
    };
    comparisons!(f, dst, n, a, b, u8, else rest(dst))
}

fn random_bits(dst: &mut Reg, n: usize, a: Src<'_, i64>, b: Src<'_, i64>, index: Src<'_, i64>) -> bool {
    let (Src::One(a), Src::One(b)) = (a, b) else { return false };
    map(dst, n, index, move |i: i64| philox(a as u32, b as u32, i as u32) as i64)
}

/// The scalar table's row, lane by lane.
fn fallback(f: ScalarFn, dtype: DType, dst: &mut Reg, n: usize, args: &[Value<'_>]) {
    let predicate = f.row().predicate;
    let float = matches!(args[args.len() - 1], Value::F32(_) | Value::F64(_));
    let arity = args.len();
    let floats = |i: usize| {
        let mut x = [0.0; 3];
        args.iter().zip(&mut x).for_each(|(a, x)| *x = a.float(i));
        (f.row().eval_f64)(&x[..arity])
    };
    let ints = |i: usize| {
        let mut x = [0; 3];
        args.iter().zip(&mut x).for_each(|(a, x)| *x = a.int(i));
        f.eval_int(dtype, &x[..arity]).unwrap_or_else(|| panic!("interp: {} takes no {dtype}", f.name()))
    };
    match (float, predicate, Lane::of(dtype)) {
        (true, true, _) => fill(dst, n, |i| (floats(i) != 0.0) as u8),
        (true, _, Lane::F64) => fill(dst, n, floats),
        (true, ..) => fill(dst, n, |i| floats(i) as f32),
        (false, true, _) => fill(dst, n, |i| (ints(i) != 0) as u8),
        (false, _, Lane::I32) => fill(dst, n, |i| ints(i) as i32),
        (false, _, Lane::Bool) => fill(dst, n, |i| (ints(i) != 0) as u8),
        (false, ..) => fill(dst, n, ints),
    }
}

/// `dst[i] = value(i)`.
pub fn fill<T: Pod>(dst: &mut Reg, n: usize, value: impl Fn(usize) -> T) {
    for (i, o) in dst.lanes_mut::<T>(n).iter_mut().enumerate() {
        *o = value(i);
    }
}

/// Conversion to `dtype`: floats to integers truncate and saturate, NaN to zero; anything to bool is `!= 0`; halves round.
pub fn cast(dtype: DType, dst: &mut Reg, n: usize, a: Value<'_>) {
    match (Lane::of(dtype), a) {
        (Lane::F32, Value::F32(a)) => {
            map(dst, n, a, |x: f32| x);
            round(dtype, dst.lanes_mut(n));
        }
        (Lane::F32, Value::I32(a)) => {
            map(dst, n, a, |x: i32| x as f32);
            round(dtype, dst.lanes_mut(n));
        }
        (Lane::F32, Value::Bool(a)) => _ = map(dst, n, a, |x: u8| x as f32),
        (Lane::F32, Value::F64(a)) => fill(dst, n, |i| dtype.round(a.at(i)) as f32),
        // Once, not through f64, which would round twice.
        (Lane::F32, Value::I64(a)) if dtype == DType::F32 => _ = map(dst, n, a, |x: i64| x as f32),
        (Lane::F32, Value::I64(a)) => fill(dst, n, |i| dtype.round(a.at(i) as f64) as f32),
        (Lane::F64, Value::F32(a)) => _ = map(dst, n, a, |x: f32| x as f64),
        (Lane::F64, a) => fill(dst, n, |i| a.float(i)),
        (Lane::Bool, Value::F32(a)) => _ = map(dst, n, a, |x: f32| (x != 0.0) as u8),
        (Lane::Bool, Value::F64(a)) => _ = map(dst, n, a, |x: f64| (x != 0.0) as u8),
        (Lane::Bool, Value::I32(a)) => _ = map(dst, n, a, |x: i32| (x != 0) as u8),
        (Lane::Bool, Value::I64(a)) => _ = map(dst, n, a, |x: i64| (x != 0) as u8),
        (Lane::Bool, Value::Bool(a)) => _ = map(dst, n, a, |x: u8| x),
        (Lane::I32, Value::F32(a)) => _ = map(dst, n, a, |x: f32| x as i32),
        (Lane::I32, Value::F64(a)) => _ = map(dst, n, a, |x: f64| x as i32),
        (Lane::I32, Value::I32(a)) => _ = map(dst, n, a, |x: i32| x),
        (Lane::I32, Value::I64(a)) => _ = map(dst, n, a, |x: i64| x as i32),
        (Lane::I32, Value::Bool(a)) => _ = map(dst, n, a, |x: u8| x as i32),
        (Lane::I64, Value::F32(_) | Value::F64(_)) => {
            let (lo, hi) = dtype.int_range().expect("integer lanes hold integers");
            fill(dst, n, |i| a.int(i).clamp(lo, hi));
        }
        (Lane::I64, a) => {
            fill(dst, n, |i| a.int(i));
            wrap(dtype, dst.lanes_mut(n));
        }
    }
}

/// The bits of numbers as those of another dtype of their size.
pub fn bitcast(from: DType, to: DType, dst: &mut Reg, n: usize, a: Value<'_>) {
    match (Lane::of(to), a) {
        (Lane::I32, Value::F32(a)) => _ = map(dst, n, a, |x: f32| x.to_bits() as i32),
        (Lane::F32, Value::I32(a)) => _ = map(dst, n, a, |x: i32| f32::from_bits(x as u32)),
        (Lane::I64, Value::F64(a)) => _ = map(dst, n, a, |x: f64| x.to_bits() as i64),
        (Lane::F64, Value::I64(a)) => _ = map(dst, n, a, |x: i64| f64::from_bits(x as u64)),
        // Halves are lanes of f32, and their bits lanes of i64.
        (Lane::I64, a) => fill(dst, n, |i| from.bits(a.float(i))),
        (_, a) => fill(dst, n, |i| to.of_bits(a.int(i)) as f32),
    }
}

/// Rounds lanes to a half type.
pub fn round(dtype: DType, lanes: &mut [f32]) {
    match dtype {
        DType::F16 => lanes.iter_mut().for_each(|x| *x = half::f16::from_f32(*x).to_f32()),
        DType::BF16 => lanes.iter_mut().for_each(|x| *x = half::bf16::from_f32(*x).to_f32()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scalar::TABLE;

    fn value<'a>(reg: &'a mut Reg, lane: Lane, n: usize, at: &dyn Fn(usize) -> f64) -> Value<'a> {
        match lane {
            Lane::F32 => fill(reg, n, |i| at(i) as f32),
            Lane::F64 => fill(reg, n, at),
            Lane::I32 => fill(reg, n, |i| at(i) as i32),
            Lane::I64 => fill(reg, n, |i| at(i) as i64),
            Lane::Bool => fill(reg, n, |i| (at(i) > 0.0) as u8),
        }
        Value::new(reg, lane, n, false)
    }

    #[test]
    fn every_row_agrees_with_the_table_on_every_dtype() {
        let n = 300;
        let numbers = [0.0, -0.0, 1.0, -1.0, 2.5, -3.5, 0.5, 7.0, -20.0, 90.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
        for row in TABLE {
            for dtype in DType::ALL.into_iter().filter(|&d| row.domain.admits(d)) {
                let lane = Lane::of(dtype);
                let limit = if dtype.is_float() { numbers.len() } else { 10 };
                let pick = |k: usize, i: usize| {
                    let x = numbers[(i * (2 * k + 1) + i / 13 * (k + 2)) % limit];
                    dtype.int_range().map_or(dtype.round(x), |(lo, hi)| (x.trunc() as i64).clamp(lo, hi) as f64)
                };
                let mut regs: Vec<Reg> = (0..3).map(|_| Reg::default()).collect();
                let args: Vec<Value<'_>> = regs
                    .iter_mut()
                    .enumerate()
                    .take(row.arity)
                    .map(|(k, r)| {
                        let is_condition = row.op == ScalarFn::Where && k == 0;
                        value(r, if is_condition { Lane::Bool } else { lane }, n, &move |i| pick(k, i))
                    })
                    .collect();
                let mut dst = Reg::default();
                call(row.op, dtype, &mut dst, n, &args);
                let got = Value::new(&dst, Lane::of(row.op.result(dtype)), n, false);
                for i in 0..n {
                    let text = || format!("{} {dtype} at {:?}", row.name, args.iter().map(|a| a.float(i)).collect::<Vec<_>>());
                    if dtype.is_float() {
                        let x: Vec<f64> = args.iter().map(|a| a.float(i)).collect();
                        let want = if dtype == DType::F64 || row.predicate { (row.eval_f64)(&x) } else { (row.eval_f64)(&x) as f32 as f64 };
                        let same = got.float(i) == want || (got.float(i).is_nan() && want.is_nan());
                        assert!(same || (got.float(i) - want).abs() <= 3e-7 * want.abs(), "{}: {} expected {want}", text(), got.float(i));
                    } else {
                        let x: Vec<i64> = args.iter().map(|a| a.int(i)).collect();
                        assert_eq!(Some(got.int(i)), row.op.eval_int(dtype, &x), "{}", text());
                    }
                }
            }
        }
    }
}
