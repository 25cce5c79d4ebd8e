//! Arithmetic that a row of the table does not say in one expression.

/// One for true.
pub(super) fn b(x: bool) -> f64 {
    x as u8 as f64
}

/// The quotient rounded down, by way of the exact remainder: it never rounds up to the next integer, and an infinite divisor
/// gives -1 for the other sign.
pub(super) fn floor_div(x: f64, y: f64) -> f64 {
    if y == 0.0 {
        return x / y;
    }
    let rest = x % y;
    let below = rest != 0.0 && (rest < 0.0) != (y < 0.0);
    let quotient = (x - rest) / y - b(below);
    // The division above may have rounded to just below the integer that it is.
    if quotient == 0.0 { 0f64.copysign(x / y) } else { quotient.floor() + b(quotient - quotient.floor() > 0.5) }
}

/// Sign of the divisor, as Python and `torch.remainder`.
pub(super) fn remainder(x: f64, y: f64) -> f64 {
    let r = x % y;
    if r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r }
}

/// Of equal operands the first, so that a clamped zero keeps its sign.
pub(super) fn maximum(x: f64, y: f64) -> f64 {
    if x.is_nan() || y.is_nan() {
        return f64::NAN;
    }
    if x < y { y } else { x }
}
pub(super) fn minimum(x: f64, y: f64) -> f64 {
    if x.is_nan() || y.is_nan() {
        return f64::NAN;
    }
    if x > y { y } else { x }
}

pub(super) fn pow_i64(x: i64, y: i64) -> i64 {
    match y {
        0.. => (0..63).rev().fold(1i64, |p, bit| p.wrapping_mul(p).wrapping_mul(if y >> bit & 1 == 1 { x } else { 1 })),
        _ => match x {
            1 => 1,
            -1 => 1 - 2 * (y & 1),
            _ => 0,
        },
    }
}

/// Word `index % 4` of [`philox_words`] of block `index / 4`.
pub fn philox(k0: u32, k1: u32, index: u32) -> u32 {
    philox_words(k0, k1, index >> 2)[(index & 3) as usize]
}

/// Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), key (k0, k1), counter
/// (block, 0, 0, 0).
#[inline(always)]
pub fn philox_words(k0: u32, k1: u32, block: u32) -> [u32; 4] {
    let (mut key0, mut key1) = (k0, k1);
    let mut ctr = [block, 0u32, 0u32, 0u32];
    for _ in 0..10 {
        let p0 = 0xD251_1F53u64 * ctr[0] as u64;
        let p1 = 0xCD9E_8D57u64 * ctr[2] as u64;
        ctr = [(p1 >> 32) as u32 ^ ctr[1] ^ key0, p1 as u32, (p0 >> 32) as u32 ^ ctr[3] ^ key1, p0 as u32];
        key0 = key0.wrapping_add(0x9E37_79B9);
        key1 = key1.wrapping_add(0xBB67_AE85);
    }
    ctr
}
