//! When is a result right: the one home of accuracy rules, shared by tests and `check`.
//!
//! Integers and bools are exact. Of floats, NaNs and infinities stand at the same places, and the distance of two tensors is
//! the max norm of the difference of the rest.

use crate::ops::Array;
use crate::types::{DType, HostTensor};

/// How often the error of the working evaluation is granted.
const SLACK: f64 = 4.0;

/// Accuracy granted to every executor besides, relative to the largest magnitude: a few units in the last place, which two
/// orders of one sum may differ by even where the working evaluation happens to be exact.
pub fn floor(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 1e-3,
        DType::BF16 => 8e-3,
        DType::F64 => 1e-12,
        _ => 1e-6,
    }
}

/// Whether `got` is right against our own oracle: at most 4 times as far from `exact` (evaluated in f64) as `working` (evaluated
/// in the dtypes' arithmetic), plus `floor` times the largest magnitude.
pub fn check_against_oracle(got: &HostTensor, working: &HostTensor, exact: &Array, floor: f64) -> Result<(), String> {
    check_type(got, working)?;
    if !got.dtype().is_float() {
        return check_equal(got, working);
    }
    let exact = exact.floats();
    let dtype = got.dtype();
    let (x, w) = (got.to_f64(), working.to_f64());
    // What overflows the dtype is an infinity in one arithmetic and a number in the other: either is right.
    for (i, &a) in x.iter().enumerate() {
        let rounded = dtype.round(exact[i]);
        if !same_kind(a, w[i]) && !same_kind(a, rounded) {
            return Err(format!("element {i} is {a}, expected {rounded}"));
        }
    }
    let bound = SLACK * distance(&w, &exact).1 + floor * magnitude(&exact);
    within(&x, &exact, bound)
}

/// Tolerance of a comparison with another framework, relative to the largest magnitude of the tensor.
fn tolerance(dtype: DType, is_gradient: bool) -> f64 {
    let (output, gradient) = match dtype {
        DType::F64 => (1e-9, 1e-8),
        DType::F16 => (2e-3, 1e-2),
        DType::BF16 => (2e-2, 5e-2),
        _ => (1e-4, 1e-3),
    };
    if is_gradient { gradient } else { output }
}

/// Share of a program's largest expected magnitude below which differences do not count: gradients that are mathematically zero
/// are noise of the size of what cancels in them. Types of higher precision are held to a tenth of their tolerance.
fn noise(dtype: DType) -> f64 {
    (tolerance(dtype, false) / 10.0).min(1e-5)
}

/// How a result can be wrong against another framework.
#[derive(Clone, Debug, PartialEq)]
pub enum Mismatch {
    /// The program computes something else than the framework and than our definition of its operators.
    Program(String),
    /// The framework and our definition of the operators disagree, by more than rounding explains: import, decomposition,
    /// derivative or definition is wrong, here or there.
    Definition(String),
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Mismatch::Program(what) => f.write_str(what),
            Mismatch::Definition(what) => write!(f, "PyTorch and our definition disagree: {what}"),
        }
    }
}

/// Whether `got` agrees with another framework's `reference`. One of three is enough: the distance is at most the tolerance of the
/// dtype (wider for gradients) times the largest magnitude; it is below a 1e-5th of `largest`, the largest magnitude that the
/// program's results are expected to have; or `got` is at most 4 times as far from our f64 evaluation as our own working
/// evaluation, and the reference no farther. The reference's distance from our evaluation never widens a bound.
pub fn check_against_reference(
    got: &HostTensor,
    reference: &HostTensor,
    oracle: Option<(&HostTensor, &Array)>,
    largest: f64,
    is_gradient: bool,
) -> Result<(), Mismatch> {
    check_type(got, reference).map_err(Mismatch::Program)?;
    let oracle = oracle.filter(|(w, _)| w.dtype() == got.dtype() && w.numel() == got.numel());
    if !got.dtype().is_float() {
        return check_equal(got, reference).map_err(|what| match oracle {
            Some((working, _)) if check_equal(got, working).is_ok() => Mismatch::Definition(what),
            _ => Mismatch::Program(what),
        });
    }
    let (x, r) = (got.to_f64(), reference.to_f64());
    let granted = (tolerance(got.dtype(), is_gradient) * magnitude(&r)).max(noise(got.dtype()) * largest);
    let agree = |x: &[f64], y: &[f64], bound: f64| check_kinds(x, y).and_then(|()| within(x, y, bound));
    let Err(plain) = agree(&x, &r, granted) else { return Ok(()) };
    let Some((working, exact)) = oracle else { return Err(Mismatch::Program(plain)) };
    let (working, exact) = (working.to_f64(), exact.floats());
    let rounding = SLACK * distance(&working, &exact).1;
    // What overflows the dtype is an infinity in one arithmetic and a number in the other.
    let rounded: Vec<f64> = exact.iter().map(|&v| got.dtype().round(v)).collect();
    if agree(&r, &rounded, granted.max(rounding)).is_err() && agree(&r, &working, granted.max(rounding)).is_err() {
        return Err(Mismatch::Definition(plain));
    }
    check_kinds(&x, &r).and_then(|()| within(&x, &exact, rounding)).map_err(|_| Mismatch::Program(plain))
}

/// Elements that two samples of one distribution have at least, before their moments say anything.
const SAMPLE: usize = 64;
/// Standard errors that the moments of two samples may differ by.
const SIGMAS: f64 = 6.0;

/// Whether `got` may be drawn from the distribution that `reference` is drawn from, element by element and independently: NaNs and
/// infinities occur in both or in none, and mean and mean square differ by at most six standard errors. Of a few elements only the
/// type is compared.
pub fn check_distribution(got: &HostTensor, reference: &HostTensor) -> Result<(), String> {
    check_type(got, reference)?;
    let (x, r) = (got.to_f64(), reference.to_f64());
    if x.len() < SAMPLE {
        return Ok(());
    }
    for kind in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let has = |values: &[f64]| values.iter().any(|v| !v.is_finite() && same_kind(*v, kind));
        if has(&x) != has(&r) {
            return Err(format!("of two draws of {} elements, one has {kind} and one has none", x.len()));
        }
    }
    for (moment, power) in [("mean", 1), ("mean square", 2)] {
        let differences: Vec<f64> = x.iter().zip(&r).map(|(a, b)| a.powi(power) - b.powi(power)).filter(|d| d.is_finite()).collect();
        let n = differences.len() as f64;
        let mean = differences.iter().sum::<f64>() / n;
        let spread = (differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / n / n).sqrt();
        if mean.abs() > SIGMAS * spread + 1e-6 * magnitude(&r).powi(power) {
            return Err(format!("two draws of {n} elements differ in their {moment} by {mean:e}, {:.0} standard errors", mean.abs() / spread));
        }
    }
    Ok(())
}

/// The largest finite magnitude among float tensors.
pub fn largest<'a>(tensors: impl IntoIterator<Item = &'a HostTensor>) -> f64 {
    tensors.into_iter().filter(|t| t.dtype().is_float()).map(|t| magnitude(&t.to_f64())).fold(0.0, f64::max)
}

/// Whether a kernel's `got` agrees with the interpreter's `expected` for the very same inputs: within the tolerance of the dtype
/// times the largest magnitude. Sums may cancel, so that rounding errors of the size of `input_scale` (the largest input times
/// the root of the number of terms) in f32 are granted as well.
pub fn check_kernel(got: &HostTensor, expected: &HostTensor, input_scale: f64) -> Result<(), String> {
    check_type(got, expected)?;
    if !got.dtype().is_float() {
        return check_equal(got, expected);
    }
    let (x, y) = (got.to_f64(), expected.to_f64());
    check_kinds(&x, &y)?;
    within(&x, &y, tolerance(got.dtype(), false) * magnitude(&y) + floor(got.dtype()).min(1e-6) * input_scale)
}

/// Whether dtype and shape are those expected.
pub fn check_type(got: &HostTensor, expected: &HostTensor) -> Result<(), String> {
    let same = got.dtype() == expected.dtype() && got.shape() == expected.shape();
    if same { Ok(()) } else { Err(format!("{} in place of {}", got.ty(), expected.ty())) }
}

fn check_equal(got: &HostTensor, expected: &HostTensor) -> Result<(), String> {
    let (x, y) = (got.to_i64(), expected.to_i64());
    match (0..x.len()).find(|&i| x[i] != y[i]) {
        Some(i) => Err(format!("element {i} is {}, expected {}", x[i], y[i])),
        None => Ok(()),
    }
}

fn check_kinds(got: &[f64], expected: &[f64]) -> Result<(), String> {
    match (0..got.len()).find(|&i| !same_kind(got[i], expected[i])) {
        Some(i) => Err(format!("element {i} is {}, expected {}", got[i], expected[i])),
        None => Ok(()),
    }
}

/// Both NaN, the same infinity, or both finite.
fn same_kind(a: f64, b: f64) -> bool {
    if a.is_nan() || b.is_nan() { a.is_nan() && b.is_nan() } else { a == b || (a.is_finite() && b.is_finite()) }
}

/// Where two tensors differ most among finite elements, and by how much.
fn distance(a: &[f64], b: &[f64]) -> (usize, f64) {
    let differences = a.iter().zip(b).map(|(x, y)| (x - y).abs()).enumerate().filter(|(_, d)| d.is_finite());
    differences.fold((0, 0.0), |most, (i, d)| if d > most.1 { (i, d) } else { most })
}

fn magnitude(x: &[f64]) -> f64 {
    x.iter().map(|v| v.abs()).filter(|v| v.is_finite()).fold(0.0, f64::max)
}

fn within(got: &[f64], expected: &[f64], bound: f64) -> Result<(), String> {
    let (at, far) = distance(got, expected);
    if far <= bound { Ok(()) } else { Err(format!("element {at} is {}, expected {}: off by {far:e}, granted {bound:e}", got[at], expected[at])) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_measured_against_the_working_evaluation() {
        let exact = Array::float(DType::F32, vec![2], vec![1.0, f64::INFINITY]);
        let of = |x: f32, y: f32| HostTensor::f32(&[2], &[x, y]);
        let working = of(1.0 + 1e-4, f32::INFINITY);
        assert!(check_against_oracle(&of(1.0 - 3e-4, f32::INFINITY), &working, &exact, 0.0).is_ok());
        assert!(check_against_oracle(&of(1.0 - 5e-4, f32::INFINITY), &working, &exact, 0.0).is_err());
        assert!(check_against_oracle(&of(1.0, f32::MAX), &working, &exact, 0.0).is_err());
        assert!(check_against_oracle(&of(1.0, f32::NAN), &working, &exact, 0.0).is_err());
        assert!(check_against_oracle(&HostTensor::i32(&[1], &[1]), &HostTensor::i32(&[1], &[2]), &exact, 1.0).is_err());
    }
    fn against_reference(got: f64, reference: f64, oracle: Option<(f64, f64)>, largest: f64) -> Result<(), Mismatch> {
        let of = |v: f64| HostTensor::from_f64(DType::F32, &[2], &[1.0, v]);
        let oracle = oracle.map(|(w, e)| (of(w), Array::float(DType::F32, vec![2], vec![1.0, e])));
        check_against_reference(&of(got), &of(reference), oracle.as_ref().map(|(w, e)| (w, e)), largest, false)
    }

    #[test]
    fn results_within_the_tolerance_of_their_type_agree() {
        assert_eq!(against_reference(2.0, 2.0001, None, 2.0), Ok(()));
        assert!(against_reference(2.0, 2.001, None, 2.0).is_err());
        let (x, y) = (HostTensor::f32(&[1], &[2.0]), HostTensor::f32(&[1], &[2.001]));
        assert_eq!(check_against_reference(&x, &y, None, 2.0, true), Ok(()));
        let of = |v: f64| HostTensor::from_f64(DType::F64, &[1], &[v]);
        assert_eq!(check_against_reference(&of(2.0), &of(2.0 + 1e-9), None, 2.0, false), Ok(()));
        assert!(check_against_reference(&of(2.0), &of(2.0 + 1e-7), None, 2.0, true).is_err());
    }

    #[test]
    fn draws_are_compared_by_their_moments() {
        let draw = |seed: u64, n: usize, f: &dyn Fn(f64) -> f64| {
            let bits =
                |i: u64| (i.wrapping_add(1 + (seed << 32))).wrapping_mul(0xD1B5_4A32_D192_ED03).rotate_left(31).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let values: Vec<f64> = (0..n as u64).map(|i| f((bits(i) >> 11) as f64 / (1u64 << 53) as f64)).collect();
            HostTensor::from_f64(DType::F32, &[n], &values)
        };
        let uniform = draw(1, 1000, &|u| u);
        for same in [draw(2, 1000, &|u| u), draw(3, 1000, &|u| 1.0 - u)] {
            assert_eq!(check_distribution(&same, &uniform), Ok(()));
        }
        let log = |u: f64| -(u.max(1e-12)).ln();
        assert_eq!(check_distribution(&draw(4, 1000, &log), &draw(5, 1000, &log)), Ok(()));
        let wrong: [&dyn Fn(f64) -> f64; 5] = [&|u| u + 0.2, &|u| 2.0 * u - 0.5, &|_| 0.5, &|u| if u < 0.1 { f64::NAN } else { u }, &log];
        for (k, f) in wrong.into_iter().enumerate() {
            assert!(check_distribution(&draw(6, 1000, f), &uniform).is_err(), "{k}");
        }
        assert!(check_distribution(&draw(7, 999, &|u| u), &uniform).is_err());
        assert_eq!(check_distribution(&draw(8, 5, &|u| u + 9.0), &draw(9, 5, &|u| u)), Ok(()));
    }

    #[test]
    fn rounding_of_our_own_evaluation_is_granted_and_noise_of_large_programs() {
        assert_eq!(against_reference(2.001, 2.0, Some((2.0005, 2.0)), 2.0), Ok(()));
        assert!(matches!(against_reference(2.01, 2.0, Some((2.0005, 2.0)), 2.0), Err(Mismatch::Program(_))));
        assert_eq!(against_reference(2.009, 2.0, None, 1000.0), Ok(()));
        assert!(against_reference(2.009, 2.0, None, 100.0).is_err());
    }

    #[test]
    fn a_reference_far_from_our_definition_never_passes() {
        assert!(matches!(against_reference(2.0, 2.5, Some((2.0, 2.0)), 2.0), Err(Mismatch::Definition(_))));
        assert!(matches!(against_reference(2.5, 4.0, Some((2.0, 2.0)), 2.0), Err(Mismatch::Definition(_))));
        assert!(matches!(against_reference(2.0, f64::NAN, Some((2.0, 2.0)), 2.0), Err(Mismatch::Definition(_))));
        assert!(matches!(against_reference(f64::NAN, 2.0, Some((2.0, 2.0)), 2.0), Err(Mismatch::Program(_))));
    }
}
