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

/// Whether `got` agrees with another framework's `reference`: within the tolerance of the dtype (wider for gradients) times the
/// largest magnitude, or at most 4 times as far from our f64 evaluation as the reference or our own working evaluation.
pub fn check_against_reference(
    got: &HostTensor,
    reference: &HostTensor,
    oracle: Option<(&HostTensor, &Array)>,
    is_gradient: bool,
) -> Result<(), String> {
    check_type(got, reference)?;
    if !got.dtype().is_float() {
        return check_equal(got, reference);
    }
    let (x, r) = (got.to_f64(), reference.to_f64());
    if let Some(i) = (0..x.len()).find(|&i| !same_kind(x[i], r[i])) {
        return Err(format!("element {i} is {}, expected {}", x[i], r[i]));
    }
    let (output, gradient) = match got.dtype() {
        DType::F16 => (2e-3, 1e-2),
        DType::BF16 => (2e-2, 5e-2),
        _ => (1e-4, 1e-3),
    };
    let plain = within(&x, &r, if is_gradient { gradient } else { output } * magnitude(&r));
    match (plain, oracle) {
        (Err(_), Some((working, exact))) => {
            let exact = exact.floats();
            let error = distance(&r, &exact).1.max(distance(&working.to_f64(), &exact).1);
            within(&x, &exact, SLACK * error)
        }
        (result, _) => result,
    }
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
    if let Some(i) = (0..x.len()).find(|&i| !same_kind(x[i], y[i])) {
        return Err(format!("element {i} is {}, expected {}", x[i], y[i]));
    }
    let tolerance = match got.dtype() {
        DType::F16 => 2e-3,
        DType::BF16 => 2e-2,
        _ => 1e-4,
    };
    within(&x, &y, tolerance * magnitude(&y) + 1e-6 * input_scale)
}

fn check_type(got: &HostTensor, expected: &HostTensor) -> Result<(), String> {
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
        assert!(check_against_reference(&of(1.0, 2.0), &of(1.0, 2.0001), None, false).is_ok());
        assert!(check_against_reference(&of(1.0, 2.0), &of(1.0, 2.001), None, false).is_err());
        assert!(check_against_reference(&of(1.0, 2.0), &of(1.0, 2.001), None, true).is_ok());
        assert!(check_against_oracle(&HostTensor::i32(&[1], &[1]), &HostTensor::i32(&[1], &[2]), &exact, 1.0).is_err());
    }
}
