//! f32 functions without branches or calls, so that loops over them become vector code. Within about two units in the last
//! place of the exact value; NaN, infinities and denormals as in the scalar table. Polynomials are Chebyshev interpolants;
//! no fused multiply-add is used, so that every processor gives the same bits. Integer arithmetic wraps, because
//! overflow checks would be branches.

/// `2^n` for `n` in the normal range.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) << 23) as u32)
}

/// Magnitudes of the largest exponent that can be added at once; adding and subtracting rounds to an integer.
const ROUND: f32 = 12_582_912.0;

/// e^x.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let clamped = if x > 89.0 { 89.0 } else { x };
    let clamped = if clamped < -104.0 { -104.0 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let r = clamped - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = r * 1.392_625_1e-3 + 8.363_233e-3;
    let p = p * r + 4.166_655_4e-2;
    let p = p * r + 1.666_657_7e-1;
    let p = p * r + 0.5;
    let p = p * (r * r) + r + 1.0;
    // In two steps, so that results below the normal range and above 2^127 come out right.
    let half = exponent >> 1;
    let y = p * power_of_two(half) * power_of_two(exponent.wrapping_sub(half));
    if x.is_nan() { x } else { y }
}

/// 2^x.
#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    let clamped = if x > 129.0 { 129.0 } else { x };
    let clamped = if clamped < -151.0 { -151.0 } else { clamped };
    let shifted = clamped + ROUND;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let r = (clamped - (shifted - ROUND)) * std::f32::consts::LN_2;
    let p = r * 1.392_625_1e-3 + 8.363_233e-3;
    let p = p * r + 4.166_655_4e-2;
    let p = p * r + 1.666_657_7e-1;
    let p = p * r + 0.5;
    let p = p * (r * r) + r + 1.0;
    let half = exponent >> 1;
    let y = p * power_of_two(half) * power_of_two(exponent.wrapping_sub(half));
    if x.is_nan() { x } else { y }
}

/// Exponent and `log(mantissa)` in two parts, for positive finite x.
#[inline(always)]
fn log_parts(x: f32) -> (f32, f32, f32) {
    let denormal = x < f32::MIN_POSITIVE;
    let scaled = if denormal { x * 8_388_608.0 } else { x };
    let bits = scaled.to_bits() as i32;
    // The mantissa in [sqrt(1/2), sqrt(2)).
    let exponent = bits.wrapping_sub(0x3f35_04f3) >> 23;
    let f = f32::from_bits(bits.wrapping_sub(exponent << 23) as u32) - 1.0;
    let e = exponent.wrapping_sub(if denormal { 23 } else { 0 }) as f32;
    let p = f * 6.971_611e-2 - 1.147_973_4e-1;
    let p = p * f + 1.168_542e-1;
    let p = p * f - 1.242_568_7e-1;
    let p = p * f + 1.424_905_8e-1;
    let p = p * f - 1.666_780_2e-1;
    let p = p * f + 2.000_071_6e-1;
    let p = p * f - 2.499_999_7e-1;
    let p = p * f + 3.333_333e-1;
    (e, f, p * (f * f * f) - 0.5 * (f * f))
}

/// Puts in what the definition says where x is not positive and finite.
#[inline(always)]
fn log_edges(x: f32, y: f32) -> f32 {
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    let y = if x < 0.0 { f32::NAN } else { y };
    if x.is_nan() || x == f32::INFINITY { x } else { y }
}

/// Natural logarithm.
#[inline(always)]
pub fn log(x: f32) -> f32 {
    let (e, f, p) = log_parts(x);
    log_edges(x, (p - e * 2.121_944_4e-4) + f + e * 0.693_359_4)
}

/// Binary logarithm.
#[inline(always)]
pub fn log2(x: f32) -> f32 {
    let (e, f, p) = log_parts(x);
    // log2(e) = 1 + 0.4426950, so that the large part of the mantissa's logarithm is not rounded.
    let y = (f + p) as f64 * std::f64::consts::LOG2_E + e as f64;
    log_edges(x, y as f32)
}

/// log(1 + x).
#[inline(always)]
pub fn log1p(x: f32) -> f32 {
    let u = 1.0 + x;
    // The rounding of 1 + x is undone by the quotient.
    let y = log(u) * (x / (u - 1.0));
    let y = if u == 1.0 { x } else { y };
    if x == f32::INFINITY || x <= -1.0 { log_edges(u, y) } else { y }
}

/// Hyperbolic tangent.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let t = x.abs();
    let s = x * x;
    let p = s * 2.269_501_6e-3 - 8.323_187e-3;
    let p = p * s + 2.176_250_3e-2;
    let p = p * s - 5.395_846e-2;
    let p = p * s + 1.333_33e-1;
    let p = p * s - 3.333_333_3e-1;
    // Minus zero stays.
    let small = if s == 0.0 { x } else { x + x * (s * p) };
    let large = (1.0 - 2.0 / (exp(t + t) + 1.0)).copysign(x);
    if t < 0.625 { small } else { large }
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    let e = exp(-x.abs());
    (if x < 0.0 { e } else { 1.0 }) / (1.0 + e)
}

/// Error function.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let t = x.abs();
    let s = x * x;
    let p = s * 8.212_78e-5 - 8.105_055e-4;
    let p = p * s + 5.197_684_9e-3;
    let p = p * s - 2.685_804_2e-2;
    let p = p * s + 1.128_367_1e-1;
    let p = p * s - 3.761_263_2e-1;
    let p = p * s + 1.283_791_7e-1;
    let small = x + x * p;
    // erfc(t) = exp(-q(t)); beyond 4 it rounds away.
    let u = if t > 4.0 { 4.0 } else { t };
    let q = u * -1.643_569_7e-6 + 4.617_779e-5;
    let q = q * u - 5.977_435e-4;
    let q = q * u + 4.763_575e-3;
    let q = q * u - 2.643_101_8e-2;
    let q = q * u + 1.100_944_8e-1;
    let q = q * u + 6.318_145e-1;
    let q = q * u + 1.130_237_6;
    let q = q * u - 3.204_415_3e-4;
    let large = (1.0 - exp(-q)).copysign(x);
    let y = if t < 0.93 { small } else { large };
    if x.is_nan() { x } else { y }
}

/// Largest magnitude that [`sin`] and [`cos`] reduce accurately.
pub const TRIGONOMETRIC_LIMIT: f32 = 1e6;

/// Reduces to (-pi/4, pi/4); gives the remainder and the quadrant.
#[inline(always)]
fn quadrant(x: f32) -> (f32, i32) {
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    let shifted = x as f64 * std::f64::consts::FRAC_2_PI + SHIFT;
    let n = shifted - SHIFT;
    // pi/2 in two parts, the first short enough that its multiples are exact.
    let r = (x as f64 - n * 1.570_796_326_734_125_6) - n * 6.077_100_506_506_192e-11;
    (r as f32, shifted.to_bits() as i32)
}

#[inline(always)]
fn sine_of(r: f32, quadrant: i32) -> f32 {
    let s = r * r;
    let p = (s * 2.724_962e-6 - 1.984_008_4e-4) * s + 8.333_332e-3;
    let sin = if s == 0.0 { r } else { r + r * s * (p * s - 1.666_666_7e-1) };
    let p = (s * 2.454_769e-5 - 1.388_830_2e-3) * s + 4.166_666_5e-2;
    let cos = 1.0 - 0.5 * s + s * s * p;
    let y = if quadrant & 1 != 0 { cos } else { sin };
    if quadrant & 2 != 0 { -y } else { y }
}

/// Sine, for magnitudes up to [`TRIGONOMETRIC_LIMIT`].
#[inline(always)]
pub fn sin(x: f32) -> f32 {
    let (r, q) = quadrant(x);
    sine_of(r, q)
}

/// Cosine, for magnitudes up to [`TRIGONOMETRIC_LIMIT`].
#[inline(always)]
pub fn cos(x: f32) -> f32 {
    let (r, q) = quadrant(x);
    sine_of(r, q.wrapping_add(1))
}

/// The larger; NaN wins.
#[inline(always)]
pub fn maximum(x: f32, y: f32) -> f32 {
    let m = if x < y { y } else { x };
    if y.is_nan() { y } else { m }
}

/// The smaller; NaN wins.
#[inline(always)]
pub fn minimum(x: f32, y: f32) -> f32 {
    let m = if x > y { y } else { x };
    if y.is_nan() { y } else { m }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scalar::ScalarFn as F;

    /// Largest relative error against the scalar table over a sweep of all magnitudes and signs; edges must agree.
    fn check(name: F, f: fn(f32) -> f32, bound: f64, within: f32) {
        let exact = |x: f32| (name.row().eval_f64)(&[x as f64]);
        for x in [0.0, -0.0, 1.0, -1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MIN_POSITIVE, 1e-45, -1e-45, f32::MAX, f32::MIN] {
            if x.abs() > within {
                continue;
            }
            let (got, want) = (f(x), exact(x) as f32);
            let near = (got - want).abs() <= want.abs() * bound as f32 || got == want;
            assert!(near || (got.is_nan() && want.is_nan()), "{} at {x:e}: {got:e}, expected {want:e}", name.name());
        }
        let mut worst = (0.0, 0.0);
        for i in 0..2_000_000u32 {
            let x = f32::from_bits(i.wrapping_mul(2147) ^ (i << 31));
            if !x.is_finite() || x.abs() > within {
                continue;
            }
            let (got, want) = (f(x) as f64, exact(x));
            let expected = want as f32 as f64;
            if got == expected || (got.is_nan() && expected.is_nan()) {
                continue;
            }
            // Results below the normal range are spaced by the smallest denormal.
            let error = (got - want).abs() / want.abs().max(f32::MIN_POSITIVE as f64);
            if error > worst.0 || error.is_nan() {
                worst = (error, x);
            }
        }
        assert!(worst.0 <= bound, "{}: relative error {:e} at {:e}", name.name(), worst.0, worst.1);
    }

    #[test]
    fn functions_are_accurate_everywhere() {
        check(F::Exp, exp, 1.5e-7, f32::INFINITY);
        check(F::Exp2, exp2, 1.5e-7, f32::INFINITY);
        check(F::Log, log, 1.5e-7, f32::INFINITY);
        check(F::Log2, log2, 1.5e-7, f32::INFINITY);
        check(F::Log1p, log1p, 3e-7, f32::INFINITY);
        check(F::Tanh, tanh, 2e-7, f32::INFINITY);
        check(F::Sigmoid, sigmoid, 3e-7, f32::INFINITY);
        check(F::Erf, erf, 2.5e-7, f32::INFINITY);
        check(F::Sin, sin, 2e-7, 1e5);
        check(F::Cos, cos, 2e-7, 1e5);
    }
}
