// Scalar functions that generated kernels call. Bindings: none. A module gets the functions it uses and those they call.
//
// Why not the built-ins: WGSL lets exp, log, sin, tanh and others be as wrong as the driver likes (an NVIDIA log is off by 2^-22
// near one), drivers may assume that there are no NaN and infinities, and `x != x` is folded. Tests for NaN are made on bits.
// Polynomials follow Cephes (Moshier) and fdlibm (Sun); each function is within 1e-6 of the exact value, relatively, but for
// pow (2e-5) and tan (4e-6); those of f64 are within 1e-14, pow within 1e-12. Variants: `_i` for i32 (i64's `_l` is derived from it), `_u` for u32, `_d` for f64.

fn bits_(u: u32) -> f32 {
  var v = u;
  return bitcast<f32>(v);
}

// The same number, of which a compiler knows nothing: it cannot fold 0 * x or x - x, which are NaN for infinite x.
fn opaque_(x: f32) -> f32 {
  return bitcast<f32>(bitcast<u32>(x) | opaque_zero);
}

fn opaque_bits_(u: u32) -> f32 {
  return bitcast<f32>(u | opaque_zero);
}

fn is_nan_(x: f32) -> bool {
  return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

fn is_inf_(x: f32) -> bool {
  return (bitcast<u32>(x) & 0x7fffffffu) == 0x7f800000u;
}

// The magnitude of y with the sign of x. Comparisons with zero would lose that of minus zero.
fn signed_like_(y: f32, x: f32) -> f32 {
  return select(abs(y), -abs(y), bitcast<i32>(x) < 0);
}

fn sign_(x: f32) -> f32 {
  if (is_nan_(x)) { return 0.0f; }
  return select(select(0.0f, 1.0f, x > 0.0f), -1.0f, x < 0.0f);
}

// Comparisons of signed integers. That of i64 compares words where the driver gets it wrong.
fn less_i(x: i32, y: i32) -> bool {
  return x < y;
}

fn less_words_l(x: i64, y: i64) -> bool {
  let a = i32(u32(u64(x) >> 32u));
  let b = i32(u32(u64(y) >> 32u));
  return a < b || (a == b && u32(u64(x)) < u32(u64(y)));
}

// Clamped, since NVIDIA's compiler may fail on the sign of a 64-bit integer that is spelled by comparisons with zero.
fn sign_i(x: i32) -> i32 {
  let y = select(x, i32(1), less_i(i32(1), x));
  return select(y, i32(-1), less_i(y, i32(-1)));
}

fn sign_u(x: u32) -> u32 {
  return min(x, 1u);
}

fn rsqrt_(x: f32) -> f32 {
  return 1.0f / sqrt(x);
}

// 2^n for n in -126..127.
fn power_of_two_(n: i32) -> f32 {
  return bitcast<f32>(u32(n + 127) << 23u);
}

// (e^r - 1 - r) / r^2 for |r| <= log(2) / 2.
fn exp_tail_(r: f32) -> f32 {
  return ((((1.9875691500e-4f * r + 1.3981999507e-3f) * r + 8.3334519073e-3f) * r + 4.1665795894e-2f) * r + 1.6666665459e-1f) * r + 5.0000001201e-1f;
}

fn exp_(x: f32) -> f32 {
  let c = clamp(x, -104.0f, 89.0f);
  let n = round(c * 1.44269504f);
  let k = i32(n);
  // The second n is spelled otherwise: some compilers merge products by one factor, and with it the two parts of log(2).
  let r = fma(f32(k), 2.12194440e-4f, fma(n, -0.693359375f, c));
  // The built-in is within 4 ULP for arguments below one half.
  let y = exp2(r * 1.44269504f);
  let h = k >> 1u;
  return select(y * power_of_two_(h) * power_of_two_(k - h), x, is_nan_(x));
}

fn expm1_(x: f32) -> f32 {
  if (abs(x) < 0.34f) { return signed_like_(fma(x * x, exp_tail_(x), x), x); }
  return exp_(x) - 1.0f;
}

// log(1 + r) for r in sqrt(1/2) - 1 .. sqrt(2) - 1.
fn log_near_one_(r: f32) -> f32 {
  let z = r * r;
  var p = 7.0376836292e-2f * r - 1.1514610310e-1f;
  p = p * r + 1.1676998740e-1f;
  p = p * r - 1.2420140846e-1f;
  p = p * r + 1.4249322787e-1f;
  p = p * r - 1.6668057665e-1f;
  p = p * r + 2.0000714765e-1f;
  p = p * r - 2.4999993993e-1f;
  p = p * r + 3.3333331174e-1f;
  return r + (p * r * z - 0.5f * z);
}

// For positive finite x: (e, m - 1) with x = m * 2^e and m in sqrt(1/2) .. sqrt(2).
fn log_parts_(x: f32) -> vec2<f32> {
  var u = bitcast<u32>(x);
  var shift = 127;
  if (u < 0x00800000u) {
    u = bitcast<u32>(x * 8388608.0f);
    shift = 150;
  }
  var e = i32(u >> 23u) - shift;
  var m = (u & 0x007fffffu) | 0x3f800000u;
  if (m > 0x3fb504f3u) {
    m = m - 0x00800000u;
    e = e + 1;
  }
  return vec2<f32>(f32(e), bitcast<f32>(m) - 1.0f);
}

// What a logarithm gives for zero, negative numbers, infinity and NaN; `y` for others.
fn log_special_(x: f32, y: f32) -> f32 {
  let u = bitcast<u32>(x);
  if ((u & 0x7fffffffu) == 0u) { return bits_(0xff800000u); }
  if (u == 0x7f800000u) { return x; }
  if (u > 0x7f800000u) { return bits_(0x7fc00000u); }
  return y;
}

fn log_(x: f32) -> f32 {
  let p = log_parts_(x);
  let e = f32(i32(p.x));
  return log_special_(x, p.x * 0.693359375f + (log_near_one_(p.y) + e * -2.12194440e-4f));
}

fn log2_(x: f32) -> f32 {
  let p = log_parts_(x);
  return log_special_(x, p.x + log_near_one_(p.y) * 1.44269504f);
}

fn log1p_(x: f32) -> f32 {
  if (x > -0.2928f && x < 0.4142f) { return log_near_one_(x); }
  return log_(1.0f + x);
}

// Reduces x to r in -pi/4 .. pi/4; gives (r, quadrant).
fn quadrant_(x: f32) -> vec2<f32> {
  if (abs(x) > 8192.0f) { return quadrant_large_(x); }
  let n = round(x * 0.636619772f);
  let k = i32(n);
  let r = fma(n, -7.54978995489e-8f, fma(f32(k), -4.837512969970703125e-4f, fma(n, -1.5703125f, x)));
  return vec2<f32>(r, f32(k & 3));
}

// Payne and Hanek: the bits of 2/pi that matter for the exponent of x, times its significand.
fn quadrant_large_(x: f32) -> vec2<f32> {
  let u = bitcast<u32>(x);
  let e = (u >> 23u) & 0xffu;
  if (e == 255u) { return vec2<f32>(bits_(0x7fc00000u), 0.0f); }
  let m = (u & 0x007fffffu) | 0x00800000u;
  // x = m * 2^(e - 150); the first bit of 2/pi that counts is number e - 152.
  let first = e - 120u;
  let w = first >> 5u;
  let s = first & 31u;
  var digits = array<u32, 9>(0u, 0xa2f9836eu, 0x4e441529u, 0xfc2757d1u, 0xf534ddc0u, 0xdb629599u, 0x3c439041u, 0xfe5163abu, 0xdebbc561u);
  let a = digits[w];
  let b = digits[w + 1u];
  let c = digits[w + 2u];
  let d = digits[w + 3u];
  let hi = select((a << s) | (b >> (32u - s)), a, s == 0u);
  let mid = select((b << s) | (c >> (32u - s)), b, s == 0u);
  let lo = select((c << s) | (d >> (32u - s)), c, s == 0u);
  // The low 64 bits of m * (hi, mid, lo) >> 32: two integer bits of the quadrant, then the fraction.
  let p = mul_wide_(m, lo);
  let q = mul_wide_(m, mid);
  let low = q.x + p.y;
  let high = m * hi + q.y + select(0u, 1u, low < q.x);
  var k = high >> 30u;
  var f1 = (high << 2u) | (low >> 30u);
  var f0 = low << 2u;
  let negative = (f1 >> 31u) == 1u;
  if (negative) {
    k = k + 1u;
    f1 = ~f1;
    f0 = ~f0;
  }
  let z = countLeadingZeros(f1);
  let n1 = select((f1 << z) | (f0 >> (32u - z)), f1, z == 0u);
  var r = f32(n1 >> 8u) * power_of_two_(-24 - i32(z)) * 1.57079632679f;
  r = select(r, -r, negative);
  if ((u >> 31u) == 1u) {
    r = -r;
    k = 0u - k;
  }
  return vec2<f32>(r, f32(k & 3u));
}

// (low, high) words of a product.
fn mul_wide_(x: u32, y: u32) -> vec2<u32> {
  let x0 = x & 0xffffu;
  let x1 = x >> 16u;
  let y0 = y & 0xffffu;
  let y1 = y >> 16u;
  let t = x0 * y0;
  let a = x1 * y0 + (t >> 16u);
  let b = x0 * y1 + (a & 0xffffu);
  return vec2<u32>(x * y, x1 * y1 + (a >> 16u) + (b >> 16u));
}

// The same where the device multiplies 64-bit integers.
fn mul_wide_native_(x: u32, y: u32) -> vec2<u32> {
  let p = u64(x) * u64(y);
  return vec2<u32>(u32(p), u32(p >> 32u));
}

fn sin_near_(r: f32) -> f32 {
  let z = r * r;
  return fma(((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z, r, r);
}

fn cos_near_(r: f32) -> f32 {
  let z = r * r;
  return ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z - 0.5f * z + 1.0f;
}

// Sine of the angle `turn` quadrants ahead of x.
fn sin_turned_(x: f32, turn: u32) -> f32 {
  let p = quadrant_(x);
  let q = (u32(p.y) + turn) & 3u;
  let y = select(sin_near_(p.x), cos_near_(p.x), (q & 1u) == 1u);
  return select(y, -y, q > 1u);
}

fn sin_(x: f32) -> f32 {
  return select(special_angle_(x, sin_turned_(x, 0u)), x, x == 0.0f);
}

fn cos_(x: f32) -> f32 {
  return special_angle_(x, sin_turned_(x, 1u));
}

fn tan_(x: f32) -> f32 {
  let p = quadrant_(x);
  let s = sin_near_(p.x);
  let c = cos_near_(p.x);
  let odd = (u32(p.y) & 1u) == 1u;
  return select(special_angle_(x, select(s, -c, odd) / select(c, s, odd)), x, x == 0.0f);
}

fn special_angle_(x: f32, y: f32) -> f32 {
  if ((bitcast<u32>(x) & 0x7fffffffu) >= 0x7f800000u) { return bits_(0x7fc00000u); }
  return y;
}

// asin(s) for 0 <= s <= 1/2.
fn asin_near_(s: f32) -> f32 {
  let z = s * s;
  return ((((4.2163199048e-2f * z + 2.4181311049e-2f) * z + 4.5470025998e-2f) * z + 7.4953002686e-2f) * z + 1.6666752422e-1f) * z * s + s;
}

fn asin_(x: f32) -> f32 {
  let a = abs(x);
  if (bitcast<u32>(a) > 0x3f800000u) { return bits_(0x7fc00000u); }
  var y = asin_near_(a);
  if (a > 0.5f) { y = 1.57079632679f - 2.0f * asin_near_(sqrt(0.5f * (1.0f - a))); }
  return signed_like_(y, x);
}

fn acos_(x: f32) -> f32 {
  let a = abs(x);
  if (bitcast<u32>(a) > 0x3f800000u) { return bits_(0x7fc00000u); }
  if (a > 0.5f) {
    let y = 2.0f * asin_near_(sqrt(0.5f * (1.0f - a)));
    return select(y, 3.14159265359f - y, x < 0.0f);
  }
  let y = asin_near_(a);
  return 1.57079632679f - select(y, -y, x < 0.0f);
}

fn atan_(x: f32) -> f32 {
  let a = abs(x);
  var base = 0.0f;
  var r = a;
  if (a > 2.41421356f) {
    base = 1.57079632679f;
    r = -1.0f / a;
  } else if (a > 0.41421356f) {
    base = 0.78539816340f;
    r = (a - 1.0f) / (a + 1.0f);
  }
  let z = r * r;
  let y = base + ((((8.05374449538e-2f * z - 1.38776856032e-1f) * z + 1.99777106478e-1f) * z - 3.33329491539e-1f) * z * r + r);
  return select(signed_like_(y, x), x, is_nan_(x));
}

fn atan2_(y: f32, x: f32) -> f32 {
  if (is_nan_(x)) { return x; }
  if (is_nan_(y)) { return y; }
  let left = (bitcast<u32>(x) >> 31u) == 1u;
  let below = (bitcast<u32>(y) >> 31u) == 1u;
  var t = 0.0f;
  if (y == 0.0f) {
    t = 0.0f;
  } else if (is_inf_(x) && is_inf_(y)) {
    t = 0.78539816340f;
  } else if (abs(y) > abs(x)) {
    t = 1.57079632679f - atan_(abs(x) / abs(y));
  } else {
    t = atan_(abs(y) / abs(x));
  }
  t = select(t, 3.14159265359f - t, left);
  return select(t, -t, below);
}

fn sinh_(x: f32) -> f32 {
  let a = abs(x);
  if (a < 1.0f) {
    let z = x * x;
    return fma(((2.03721912945e-4f * z + 8.33028376239e-3f) * z + 1.66667160211e-1f) * z, x, x);
  }
  var y = 0.0f;
  if (a > 40.0f) {
    let h = exp_(0.5f * a);
    y = (0.5f * h) * h;
  } else {
    let e = exp_(a);
    y = 0.5f * e - 0.5f / e;
  }
  return select(select(y, -y, x < 0.0f), x, is_nan_(x));
}

fn cosh_(x: f32) -> f32 {
  let a = abs(x);
  if (a > 40.0f) {
    let h = exp_(0.5f * a);
    return (0.5f * h) * h;
  }
  let e = exp_(a);
  return 0.5f * e + 0.5f / e;
}

fn tanh_(x: f32) -> f32 {
  let a = abs(x);
  if (a < 0.625f) {
    let z = x * x;
    let y = fma(((((-5.70498872745e-3f * z + 2.06390887954e-2f) * z - 5.37397155531e-2f) * z + 1.33314422036e-1f) * z - 3.33332819422e-1f) * z, x, x);
    return signed_like_(y, x);
  }
  let y = 1.0f - 2.0f / (exp_(2.0f * min(a, 10.0f)) + 1.0f);
  return select(signed_like_(y, x), x, is_nan_(x));
}

// Two minimax fits without a branch: erf(x) / x - 1 over x^2 below 15/16, log(1 - erf(x)) above.
fn erf_(x: f32) -> f32 {
  let a = abs(x);
  let s = x * x;
  let t = min(a, 4.0f);
  var p = fma(8.29660993e-5f, s, -8.12580646e-4f);
  p = fma(p, s, 5.19959984e-3f);
  p = fma(p, s, -2.68588512e-2f);
  p = fma(p, s, 1.12836864e-1f);
  p = fma(p, s, -3.76126332e-1f);
  p = fma(p, s, 1.28379167e-1f);
  var q = fma(1.94018777e-4f, t, -3.02433019e-3f);
  q = fma(q, t, 2.21513340e-2f);
  q = fma(q, t, -1.03774121e-1f);
  q = fma(q, t, -6.37362502e-1f);
  q = fma(q, t, -1.12756806f);
  q = fma(q, t, -2.21845743e-4f);
  let far = 1.0f - exp2(q * 1.44269504f);
  return select(select(select(far, -far, x < 0.0f), fma(p, x, x), a < 0.9375f), x, is_nan_(x));
}

fn sigmoid_(x: f32) -> f32 {
  let e = exp_(-abs(x));
  let s = 1.0f / (1.0f + e);
  return select(s, e * s, x < 0.0f);
}

fn relu_(x: f32) -> f32 {
  let u = bitcast<u32>(x);
  return select(x, 0.0f, u > 0x80000000u && u <= 0xff800000u);
}

fn relu_i(x: i32) -> i32 {
  return max(x, i32(0));
}

fn relu_u(x: u32) -> u32 {
  return x;
}

// Of equal operands the first, so that a clamped zero keeps its sign.
fn maximum_(x: f32, y: f32) -> f32 {
  return select(x, y, (x < y || is_nan_(y)) && !is_nan_(x));
}

fn maximum_i(x: i32, y: i32) -> i32 {
  return max(x, y);
}

fn maximum_u(x: u32, y: u32) -> u32 {
  return max(x, y);
}

fn minimum_(x: f32, y: f32) -> f32 {
  return select(x, y, (x > y || is_nan_(y)) && !is_nan_(x));
}

fn minimum_i(x: i32, y: i32) -> i32 {
  return min(x, y);
}

fn minimum_u(x: u32, y: u32) -> u32 {
  return min(x, y);
}

fn clamp_(x: f32, low: f32, high: f32) -> f32 {
  return minimum_(maximum_(x, low), high);
}

fn clamp_i(x: i32, low: i32, high: i32) -> i32 {
  return min(max(x, low), high);
}

fn clamp_u(x: u32, low: u32, high: u32) -> u32 {
  return min(max(x, low), high);
}

// A quotient by zero: NaN, or an infinity. Drivers get that by a literal zero wrong.
fn over_zero_(x: f32, y: f32) -> f32 {
  let infinity = 0x7f800000u | ((bitcast<u32>(x) ^ bitcast<u32>(y)) & 0x80000000u);
  return bits_(select(infinity, 0x7fc00000u, x == 0.0f || is_nan_(x)));
}

// By way of the exact remainder, so that no quotient rounds up to the next integer.
fn floor_div_(x: f32, y: f32) -> f32 {
  if (y == 0.0f) { return over_zero_(x, y); }
  let r = fmod_(x, y);
  if (is_nan_(r)) { return r; }
  let q = (x - r) / y - select(0.0f, 1.0f, r != 0.0f && (r < 0.0f) != (y < 0.0f));
  if (q == 0.0f) { return bits_((bitcast<u32>(x) ^ bitcast<u32>(y)) & 0x80000000u); }
  let n = floor(q);
  return n + select(0.0f, 1.0f, q - n > 0.5f);
}

// Quotient toward zero; 0 for division by zero, the wrapped negative for division by -1.
fn quotient_i(x: i32, y: i32) -> i32 {
  if (y == i32(0)) { return i32(0); }
  if (y == i32(-1)) { return i32(0) - x; }
  return x / y;
}

fn floor_div_i(x: i32, y: i32) -> i32 {
  let q = quotient_i(x, y);
  let r = x - q * y;
  return select(q, q - i32(1), y != i32(0) && r != i32(0) && less_i(r, i32(0)) != less_i(y, i32(0)));
}

fn floor_div_u(x: u32, y: u32) -> u32 {
  return select(x / max(y, 1u), 0u, y == 0u);
}

// The mantissa of the positive number of these bits, as an integer.
fn mantissa_(u: u32) -> u32 {
  return (u & 0x007fffffu) | select(0x00800000u, 0u, u < 0x00800000u);
}

// Exact, subnormal numbers included: the rest of a long division of integers, eight bits a step. (A loop of few operations: what
// stands in a loop is spelled at every call, and drivers take long over many long ones.)
fn fmod_(x: f32, y: f32) -> f32 {
  let a = bitcast<u32>(x) & 0x7fffffffu;
  let b = bitcast<u32>(y) & 0x7fffffffu;
  if (a >= 0x7f800000u || b > 0x7f800000u || b == 0u) { return bits_(0x7fc00000u); }
  if (a < b) { return x; }
  var e = max(b >> 23u, 1u);
  var n = max(a >> 23u, 1u) - e;
  let m = mantissa_(b);
  var r = mantissa_(a) % m;
  while (n > 0u) {
    let k = min(n, 8u);
    r = (r << k) % m;
    n -= k;
  }
  let up = min(countLeadingZeros(r) - 8u, e - 1u);
  r = r << up;
  e = select(e - up, 0u, r < 0x00800000u);
  return bitcast<f32>((bitcast<u32>(x) & 0x80000000u) | (e << 23u) | (r & 0x007fffffu));
}

fn fmod_i(x: i32, y: i32) -> i32 {
  return select(x - quotient_i(x, y) * y, i32(0), y == i32(0));
}

fn fmod_u(x: u32, y: u32) -> u32 {
  return select(x % max(y, 1u), 0u, y == 0u);
}

fn remainder_(x: f32, y: f32) -> f32 {
  let r = fmod_(x, y);
  return select(r, r + y, (bitcast<u32>(r) & 0x7fffffffu) != 0u && (r < 0.0f) != (y < 0.0f) && !is_nan_(r));
}

fn remainder_i(x: i32, y: i32) -> i32 {
  let r = fmod_i(x, y);
  return select(r, r + y, r != i32(0) && less_i(r, i32(0)) != less_i(y, i32(0)));
}

fn remainder_u(x: u32, y: u32) -> u32 {
  return fmod_u(x, y);
}

fn pow_(x: f32, y: f32) -> f32 {
  if (y == 0.0f || x == 1.0f) { return 1.0f; }
  if (is_nan_(x)) { return x; }
  if (is_nan_(y)) { return y; }
  if (y == 1.0f) { return x; }
  if (y == 2.0f) { return x * x; }
  let a = abs(x);
  let integral = floor(y) == y;
  let odd = integral && abs(y) < 16777216.0f && (i32(y) & 1) == 1;
  var p = 1.0f;
  if (a == 0.0f) {
    p = select(0.0f, bits_(0x7f800000u), y < 0.0f);
  } else if (a != 1.0f) {
    p = exp_(y * log_(a));
  }
  if ((bitcast<u32>(x) >> 31u) == 1u) {
    if (!integral && a != 0.0f && !is_inf_(x)) { return bits_(0x7fc00000u); }
    return select(p, -p, odd);
  }
  return p;
}

fn pow_i(x: i32, y: i32) -> i32 {
  if (less_i(y, i32(0))) {
    if (x == i32(1)) { return i32(1); }
    if (x == i32(-1)) { return select(i32(1), i32(-1), (y & i32(1)) != i32(0)); }
    return i32(0);
  }
  var p = i32(1);
  var b = x;
  var n = y;
  for (var step = 0; step < 64 && n != i32(0); step++) {
    if ((n & i32(1)) == i32(1)) { p = p * b; }
    b = b * b;
    n = n >> 1u;
  }
  return p;
}

fn pow_u(x: u32, y: u32) -> u32 {
  var p = 1u;
  var b = x;
  var n = y;
  for (var step = 0; step < 32 && n > 0u; step++) {
    if ((n & 1u) == 1u) { p = p * b; }
    b = b * b;
    n = n >> 1u;
  }
  return p;
}

fn shift_left_i(x: i32, y: i32) -> i32 {
  return select(0i, x << (u32(y) & 31u), y >= 0i && y < 32i);
}

fn shift_left_u(x: u32, y: u32) -> u32 {
  return select(0u, x << (y & 31u), y < 32u);
}

fn shift_left_l(x: i64, y: i64) -> i64 {
  return select(0li, x << (u32(y) & 63u), u64(y) < 64lu);
}

fn shift_right_i(x: i32, y: i32) -> i32 {
  return x >> min(u32(y), 31u);
}

fn shift_right_u(x: u32, y: u32) -> u32 {
  return select(0u, x >> (y & 31u), y < 32u);
}

fn shift_right_l(x: i64, y: i64) -> i64 {
  return x >> u32(min(u64(y), 63lu));
}

// The block of Philox 4x32-10 (Salmon et al., 2011) at a counter.
fn philox_block_(k0: u32, k1: u32, counter: u32) -> vec4<u32> {
  var key = vec2<u32>(k0, k1);
  var c = vec4<u32>(counter, 0u, 0u, 0u);
  for (var round = 0; round < 10; round++) {
    let p = mul_wide_(0xd2511f53u, c.x);
    let q = mul_wide_(0xcd9e8d57u, c.z);
    c = vec4<u32>(q.y ^ c.y ^ key.x, q.x, p.y ^ c.w ^ key.y, p.x);
    key = key + vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
  }
  return c;
}

// Word index % 4 of the block at counter index / 4.
fn philox_u(k0: u32, k1: u32, index: u32) -> u32 {
  let c = philox_block_(k0, k1, index >> 2u);
  let low = select(c.x, c.y, (index & 1u) == 1u);
  let high = select(c.z, c.w, (index & 1u) == 1u);
  return select(low, high, (index & 2u) == 2u);
}

// Whether x at column i goes before y at column j as the largest: NaN first, lowest column among equals.
fn arg_max_wins_(x: f32, i: i32, y: f32, j: i32) -> bool {
  let a = is_nan_(x);
  let b = is_nan_(y);
  if (a != b) { return a; }
  return (!a && x > y) || ((a || x == y) && i < j);
}

fn arg_max_wins_i(x: i32, i: i32, y: i32, j: i32) -> bool {
  return x > y || (x == y && i < j);
}

fn arg_max_wins_u(x: u32, i: i32, y: u32, j: i32) -> bool {
  return x > y || (x == y && i < j);
}

fn arg_max_wins_l(x: i64, i: i32, y: i64, j: i32) -> bool {
  return less_l(y, x) || (x == y && i < j);
}

fn arg_min_wins_(x: f32, i: i32, y: f32, j: i32) -> bool {
  let a = is_nan_(x);
  let b = is_nan_(y);
  if (a != b) { return a; }
  return (!a && x < y) || ((a || x == y) && i < j);
}

fn arg_min_wins_i(x: i32, i: i32, y: i32, j: i32) -> bool {
  return x < y || (x == y && i < j);
}

fn arg_min_wins_u(x: u32, i: i32, y: u32, j: i32) -> bool {
  return x < y || (x == y && i < j);
}

fn arg_min_wins_l(x: i64, i: i32, y: i64, j: i32) -> bool {
  return less_l(x, y) || (x == y && i < j);
}

// Whether x at column i sorts before y at column j, ascending, NaN last, stable.
fn sort_up_(x: f32, i: u32, y: f32, j: u32) -> bool {
  let a = is_nan_(x);
  let b = is_nan_(y);
  if (a != b) { return b; }
  return (!a && x < y) || ((a || x == y) && i < j);
}

fn sort_up_i(x: i32, i: u32, y: i32, j: u32) -> bool {
  return x < y || (x == y && i < j);
}

fn sort_up_u(x: u32, i: u32, y: u32, j: u32) -> bool {
  return x < y || (x == y && i < j);
}

fn sort_up_l(x: i64, i: u32, y: i64, j: u32) -> bool {
  return less_l(x, y) || (x == y && i < j);
}

// Whether x at column i sorts before y at column j, descending, NaN first, stable.
fn sort_down_(x: f32, i: u32, y: f32, j: u32) -> bool {
  let a = is_nan_(x);
  let b = is_nan_(y);
  if (a != b) { return a; }
  return (!a && x > y) || ((a || x == y) && i < j);
}

fn sort_down_i(x: i32, i: u32, y: i32, j: u32) -> bool {
  return x > y || (x == y && i < j);
}

fn sort_down_u(x: u32, i: u32, y: u32, j: u32) -> bool {
  return x > y || (x == y && i < j);
}

fn sort_down_l(x: i64, i: u32, y: i64, j: u32) -> bool {
  return less_l(y, x) || (x == y && i < j);
}

// Words that order as numbers do when sorted: NaN behind everything, zeros equal.
fn sort_key_(x: f32) -> u32 {
  let u = bitcast<u32>(x);
  let a = u & 0x7fffffffu;
  let key = select(u | 0x80000000u, ~u, u > 0x7fffffffu);
  return select(select(key, 0x80000000u, a == 0u), 0xffffffffu, a > 0x7f800000u);
}

fn sort_key_i(x: i32) -> u32 {
  return bitcast<u32>(x) ^ 0x80000000u;
}

fn sort_key_u(x: u32) -> u32 {
  return x;
}

// The upper word first.
fn sort_key_l(x: i64) -> vec2<u32> {
  let u = u64(x);
  return vec2<u32>(u32(u >> 32u) ^ 0x80000000u, u32(u));
}

// Whether (key, column) sorts before another such pair.
fn goes_before_(a: vec2<u32>, b: vec2<u32>) -> bool {
  return (a.x < b.x) | ((a.x == b.x) & (a.y < b.y));
}

// The same with keys of two words.
fn goes_before_wide_(a: vec3<u32>, b: vec3<u32>) -> bool {
  return (a.x < b.x) | ((a.x == b.x) & ((a.y < b.y) | ((a.y == b.y) & (a.z < b.z))));
}

// Chan's combination of (mean, sum of squared deviations, count).
fn welford_(a: vec3<f32>, b: vec3<f32>) -> vec3<f32> {
  if (b.z == 0.0f) { return a; }
  if (a.z == 0.0f) { return b; }
  let n = a.z + b.z;
  let d = b.x - a.x;
  let w = b.z / n;
  return vec3<f32>(a.x + d * w, a.y + b.y + d * d * a.z * w, n);
}

// exp(x - m) for m >= x. Among infinities each counts as one until the end.
fn exp_below_(x: f32, m: f32) -> f32 {
  return select(exp_(x - m), 1.0f, bitcast<u32>(x) == bitcast<u32>(m));
}

// Combination of (maximum m, sum of exp(x - m)). A NaN among the elements is kept by the sum alone.
fn online_softmax_(a: vec2<f32>, b: vec2<f32>) -> vec2<f32> {
  let m = max(a.x, b.x);
  return vec2<f32>(m, a.y * exp_below_(a.x, m) + b.y * exp_below_(b.x, m));
}

// The maximum at the end: NaN when an element was.
fn online_softmax_max_(m: f32, s: f32) -> f32 {
  return select(m, s, is_nan_(s));
}

// The sum at the end: a maximum that is infinite gives NaN, as exp(inf - inf) does.
fn online_softmax_sum_(m: f32, s: f32) -> f32 {
  return select(s, bits_(0x7fc00000u), is_nan_(m) || (is_inf_(m) && s != 0.0f));
}

// Half-precision bits, rounded to nearest even.
fn f16_bits_(x: f32) -> u32 {
  let u = bitcast<u32>(x);
  let s = (u >> 16u) & 0x8000u;
  let a = u & 0x7fffffffu;
  if (a > 0x7f800000u) { return s | 0x7e00u; }
  if (a >= 0x477ff000u) { return s | 0x7c00u; }
  if (a < 0x38800000u) { return s | (bitcast<u32>(bitcast<f32>(a) + 0.5f) - 0x3f000000u); }
  return s | ((a + 0xc8000fffu + ((a >> 13u) & 1u)) >> 13u);
}

fn round_f16_(x: f32) -> f32 {
  return unpack2x16float(f16_bits_(x)).x;
}

// An f32 whose upper half is rounded to nearest even; what is below is left of the rounding.
fn bf16_word_(x: f32) -> u32 {
  let u = bitcast<u32>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) { return u | 0x400000u; }
  return u + 0x7fffu + ((u >> 16u) & 1u);
}

fn bf16_bits_(x: f32) -> u32 {
  return bf16_word_(x) >> 16u;
}

// Masked, not shifted down and up: LLVM 15 (of Mesa 22.3) loses exponents of hyperbolic tangents by that.
fn round_bf16_(x: f32) -> f32 {
  return bitcast<f32>(bf16_word_(x) & 0xffff0000u);
}

fn to_i32_(x: f32) -> i32 {
  if (is_nan_(x)) { return 0i; }
  if (x >= 2147483648.0f) { return 2147483647i; }
  return i32(max(x, -2147483648.0f));
}

fn to_u32_(x: f32) -> u32 {
  if (is_nan_(x)) { return 0u; }
  if (x >= 4294967296.0f) { return 4294967295u; }
  return u32(max(x, 0.0f));
}

fn to_i64_(x: f32) -> i64 {
  if (is_nan_(x)) { return 0li; }
  if (x >= 9223372036854775808.0f) { return 9223372036854775807li; }
  if (x <= -9223372036854775808.0f) { return -9223372036854775807li - 1li; }
  return i64(x);
}

fn to_i32_d(x: f64) -> i32 {
  if (is_nan_d(x)) { return 0i; }
  if (x >= 2147483647.0lf) { return 2147483647i; }
  return i32(max(x, -2147483648.0lf));
}

fn to_u32_d(x: f64) -> u32 {
  if (is_nan_d(x)) { return 0u; }
  if (x >= 4294967295.0lf) { return 4294967295u; }
  return u32(max(x, 0.0lf));
}

fn to_i64_d(x: f64) -> i64 {
  if (is_nan_d(x)) { return 0li; }
  if (x >= 9223372036854775807.0lf) { return 9223372036854775807li; }
  if (x <= -9223372036854775807.0lf) { return -9223372036854775807li - 1li; }
  return i64(x);
}

fn opaque_d(x: f64) -> f64 {
  return bitcast<f64>(bitcast<u64>(x) | u64(opaque_zero));
}

fn bits_d(high: u32) -> f64 {
  return bitcast<f64>(u64(high) << 32u);
}

fn is_nan_d(x: f64) -> bool {
  return (bitcast<u64>(x) & 0x7ffffffffffffffflu) > 0x7ff0000000000000lu;
}

fn is_inf_d(x: f64) -> bool {
  return (bitcast<u64>(x) & 0x7ffffffffffffffflu) == 0x7ff0000000000000lu;
}

fn is_negative_d(x: f64) -> bool {
  return (bitcast<u64>(x) >> 63u) != 0lu;
}

fn sign_d(x: f64) -> f64 {
  return select(select(0.0lf, 1.0lf, x > 0.0lf), -1.0lf, x < 0.0lf);
}

fn rsqrt_d(x: f64) -> f64 {
  return 1.0lf / sqrt(x);
}

fn relu_d(x: f64) -> f64 {
  return select(x, 0.0lf, x < 0.0lf);
}

fn maximum_d(x: f64, y: f64) -> f64 {
  return select(x, y, (x < y || is_nan_d(y)) && !is_nan_d(x));
}

fn minimum_d(x: f64, y: f64) -> f64 {
  return select(x, y, (x > y || is_nan_d(y)) && !is_nan_d(x));
}

fn clamp_d(x: f64, low: f64, high: f64) -> f64 {
  return minimum_d(maximum_d(x, low), high);
}

fn over_zero_d(x: f64, y: f64) -> f64 {
  let infinity = select(0x7ff00000u, 0xfff00000u, is_negative_d(x) != is_negative_d(y));
  return bits_d(select(infinity, 0x7ff80000u, x == 0.0lf || is_nan_d(x)));
}

fn floor_div_d(x: f64, y: f64) -> f64 {
  if (y == 0.0lf) { return over_zero_d(x, y); }
  let r = fmod_d(x, y);
  if (is_nan_d(r)) { return r; }
  let q = (x - r) / y - select(0.0lf, 1.0lf, r != 0.0lf && (r < 0.0lf) != (y < 0.0lf));
  if (q == 0.0lf) { return bits_d(select(0u, 0x80000000u, is_negative_d(x) != is_negative_d(y))); }
  let n = floor(q);
  return n + select(0.0lf, 1.0lf, q - n > 0.5lf);
}

// The exponent of a positive number, subnormal ones included.
fn exponent_d(x: f64) -> i32 {
  let e = i32(u32(bitcast<u64>(x) >> 52u));
  if (e > 0i) { return e - 1023i; }
  return i32(u32(bitcast<u64>(x * 18014398509481984.0lf) >> 52u)) - 1077i;
}

// x * 2^n.
fn scale_d(x: f64, n: i32) -> f64 {
  let h = n / 3i;
  let p = power_of_two_d(h);
  return x * p * p * power_of_two_d(n - 2i * h);
}

// The mantissa of the positive number of these bits, as an integer.
fn mantissa_d(u: u64) -> u64 {
  return (u & 0xffffffffffffflu) | select(0x10000000000000lu, 0lu, u < 0x10000000000000lu);
}

// Exact: the rest of a long division of integers, eleven bits a step.
fn fmod_d(x: f64, y: f64) -> f64 {
  let a = bitcast<u64>(x) & 0x7ffffffffffffffflu;
  let b = bitcast<u64>(y) & 0x7ffffffffffffffflu;
  if (a >= 0x7ff0000000000000lu || b > 0x7ff0000000000000lu || b == 0lu) { return bits_d(0x7ff80000u); }
  if (a < b) { return x; }
  let e = max(u32(b >> 52u), 1u);
  var n = max(u32(a >> 52u), 1u) - e;
  let m = mantissa_d(b);
  var r = mantissa_d(a) % m;
  while (n > 0u) {
    let k = min(n, 11u);
    r = (r << k) % m;
    n -= k;
  }
  let size = scale_d(f64(r), i32(e) - 1075i);
  return select(size, bitcast<f64>(bitcast<u64>(size) | 0x8000000000000000lu), is_negative_d(x));
}

fn remainder_d(x: f64, y: f64) -> f64 {
  let r = fmod_d(x, y);
  return select(r, r + y, r != 0.0lf && (r < 0.0lf) != (y < 0.0lf) && !is_nan_d(r));
}

// 2^n for n in -1022..1023.
fn power_of_two_d(n: i32) -> f64 {
  return bitcast<f64>(u64(n + 1023i) << 52u);
}

// (e^r - 1) / r for |r| <= 1/2.
fn exp_slope_d(r: f64) -> f64 {
  var p = 1.0lf;
  for (var k = 17i; k > 1i; k--) { p = 1.0lf + p * r / f64(k); }
  return p;
}

fn exp_d(x: f64) -> f64 {
  if (is_nan_d(x)) { return x; }
  let c = clamp(x, -746.0lf, 710.0lf);
  let n = round(c * 1.4426950408889634lf);
  let r = (c - n * 0.693147180369123816490lf) - n * 1.90821492927058770002e-10lf;
  return scale_d(1.0lf + r * exp_slope_d(r), i32(n));
}

fn exp2_d(x: f64) -> f64 {
  if (is_nan_d(x)) { return x; }
  let c = clamp(x, -1080.0lf, 1025.0lf);
  let n = round(c);
  let r = (c - n) * 0.6931471805599453lf;
  return scale_d(1.0lf + r * exp_slope_d(r), i32(n));
}

fn expm1_d(x: f64) -> f64 {
  if (abs(x) < 0.5lf) { return x * exp_slope_d(x); }
  return exp_d(x) - 1.0lf;
}

// log((1 + s) / (1 - s)) for |s| <= 0.172.
fn log_ratio_d(s: f64) -> f64 {
  let z = s * s;
  var sum = 0.0lf;
  for (var k = 25i; k > 1i; k = k - 2i) { sum = (sum + 1.0lf / f64(k)) * z; }
  return 2.0lf * s + 2.0lf * s * sum;
}

// What a logarithm gives for zero, negative numbers, infinity and NaN; `y` for others.
fn log_special_d(x: f64, y: f64) -> f64 {
  if (is_nan_d(x)) { return x; }
  if (x == 0.0lf) { return bits_d(0xfff00000u); }
  if (x < 0.0lf) { return bits_d(0x7ff80000u); }
  return select(y, x, is_inf_d(x));
}

// The exponent of a positive finite number whose significand lies in sqrt(1/2) .. sqrt(2).
fn log_exponent_d(x: f64) -> i32 {
  let e = clamp(exponent_d(x), -1074i, 1023i);
  return select(e, e + 1i, scale_d(x, -e) > 1.4142135623730951lf);
}

fn log_d(x: f64) -> f64 {
  let e = log_exponent_d(abs(x));
  let m = scale_d(x, -e);
  let y = log_ratio_d((m - 1.0lf) / (m + 1.0lf));
  return log_special_d(x, f64(e) * 0.693147180369123816490lf + (f64(e) * 1.90821492927058770002e-10lf + y));
}

fn log2_d(x: f64) -> f64 {
  let e = log_exponent_d(abs(x));
  let m = scale_d(x, -e);
  return log_special_d(x, f64(e) + log_ratio_d((m - 1.0lf) / (m + 1.0lf)) * 1.4426950408889634lf);
}

fn log1p_d(x: f64) -> f64 {
  if (x > -0.2928lf && x < 0.4142lf) { return log_ratio_d(x / (2.0lf + x)); }
  return log_d(1.0lf + x);
}

// Reduces x to r in -pi/4 .. pi/4; gives (r, quadrant).
fn quadrant_d(x: f64) -> vec2<f64> {
  if (abs(x) > 1048576.0lf) { return quadrant_large_d(x); }
  let n = round(x * 0.6366197723675814lf);
  let r = ((x - n * 1.57079632673412561417e+00lf) - n * 6.07710050630396597660e-11lf) - n * 2.02226624879595063154e-21lf;
  return vec2<f64>(r, f64(i32(n) & 3i));
}

// Payne and Hanek, as for f32: 192 bits of 2/pi that matter for the exponent of x, times its significand.
fn quadrant_large_d(x: f64) -> vec2<f64> {
  let u = bitcast<u64>(x);
  let e = u32(u >> 52u) & 0x7ffu;
  if (e == 2047u) { return vec2<f64>(bits_d(0x7ff80000u), 0.0lf); }
  let m = (u & 0xffffffffffffflu) | 0x10000000000000lu;
  var digits = array<u32, 39>(0u, 0u, 0xa2f9836eu, 0x4e441529u, 0xfc2757d1u, 0xf534ddc0u, 0xdb629599u, 0x3c439041u, 0xfe5163abu, 0xdebbc561u, 0xb7246e3au, 0x424dd2e0u, 0x06492eeau, 0x09d1921cu, 0xfe1deb1cu, 0xb129a73eu, 0xe88235f5u, 0x2ebb4484u, 0xe99c7026u, 0xb45f7e41u, 0x3991d639u, 0x835339f4u, 0x9c845f8bu, 0xbdf9283bu, 0x1ff897ffu, 0xde05980fu, 0xef2f118bu, 0x5a0a6d1fu, 0x6d367ecfu, 0x27cb09b7u, 0x4f463f66u, 0x9e5fea2du, 0x7527bac7u, 0xebe5f17bu, 0x3d0739f7u, 0x8a5292eau, 0x6bfb5fb1u, 0x1f8d5d08u, 0x56033046u);
  // x = m * 2^(e - 1075); the first bit of 2/pi that counts is number e - 1076, and 64 zeros lead the digits.
  let first = e - 1013u;
  let shift = first & 31u;
  var part = array<u32, 6>();
  for (var k = 0u; k < 6u; k++) {
    let at = (first >> 5u) + k;
    part[k] = u32((((u64(digits[at]) << 32u) | u64(digits[at + 1u])) << shift) >> 32u);
  }
  // The low 192 bits of the product: two bits of the quadrant, then the fraction.
  var product = array<u32, 6>();
  for (var half = 0u; half < 2u; half++) {
    let factor = (m >> (32u * half)) & 0xfffffffflu;
    var carry = 0lu;
    for (var k = 0u; k + half < 6u; k++) {
      let at = 5u - k - half;
      let sum = u64(part[5u - k]) * factor + u64(product[at]) + carry;
      product[at] = u32(sum & 0xfffffffflu);
      carry = sum >> 32u;
    }
  }
  var quadrant = product[0] >> 30u;
  let negative = ((product[0] >> 29u) & 1u) == 1u;
  product[0] = product[0] & 0x3fffffffu;
  var rest = 0.0lf;
  var weight = 9.313225746154785e-10lf;
  if (negative) { quadrant = quadrant + 1u; product[0] = product[0] ^ 0x3fffffffu; }
  for (var k = 0u; k < 6u; k++) {
    let word = select(product[k], ~product[k], negative && k > 0u);
    rest = rest + f64(word) * weight;
    weight = weight * 2.3283064365386963e-10lf;
  }
  rest = select(rest, -rest, negative) * 1.5707963267948966lf;
  if (is_negative_d(x)) {
    rest = -rest;
    quadrant = 0u - quadrant;
  }
  return vec2<f64>(rest, f64(quadrant & 3u));
}

fn sin_near_d(r: f64) -> f64 {
  let z = r * r;
  var p = 1.58969099521155010221e-10lf * z - 2.50507602534068634195e-08lf;
  p = p * z + 2.75573137070700676789e-06lf;
  p = p * z - 1.98412698298579493134e-04lf;
  p = p * z + 8.33333333332248946124e-03lf;
  p = p * z - 1.66666666666666324348e-01lf;
  return r + r * (z * p);
}

fn cos_near_d(r: f64) -> f64 {
  let z = r * r;
  var p = -1.13596475577881948265e-11lf * z + 2.08757232129817482790e-09lf;
  p = p * z - 2.75573143513906633035e-07lf;
  p = p * z + 2.48015872894767294178e-05lf;
  p = p * z - 1.38888888888741095749e-03lf;
  p = p * z + 4.16666666666666019037e-02lf;
  return 1.0lf - (0.5lf * z - z * z * p);
}

// Sine of the angle `turn` quadrants ahead of x.
fn sin_turned_d(x: f64, turn: u32) -> f64 {
  let p = quadrant_d(x);
  let q = (u32(p.y) + turn) & 3u;
  let y = select(sin_near_d(p.x), cos_near_d(p.x), (q & 1u) == 1u);
  return select(y, -y, q > 1u);
}

fn special_angle_d(x: f64, y: f64) -> f64 {
  return select(y, bits_d(0x7ff80000u), is_nan_d(x) || is_inf_d(x));
}

fn sin_d(x: f64) -> f64 {
  return select(special_angle_d(x, sin_turned_d(x, 0u)), x, x == 0.0lf);
}

fn cos_d(x: f64) -> f64 {
  return special_angle_d(x, sin_turned_d(x, 1u));
}

fn tan_d(x: f64) -> f64 {
  let p = quadrant_d(x);
  let s = sin_near_d(p.x);
  let c = cos_near_d(p.x);
  let odd = (u32(p.y) & 1u) == 1u;
  return select(special_angle_d(x, select(s, -c, odd) / select(c, s, odd)), x, x == 0.0lf);
}

fn asin_d(x: f64) -> f64 {
  if (abs(x) > 1.0lf) { return bits_d(0x7ff80000u); }
  return atan_d(x / sqrt((1.0lf - x) * (1.0lf + x)));
}

fn acos_d(x: f64) -> f64 {
  if (abs(x) > 1.0lf) { return bits_d(0x7ff80000u); }
  return 2.0lf * atan_d(sqrt((1.0lf - x) / (1.0lf + x)));
}

fn atan_d(x: f64) -> f64 {
  let a = abs(x);
  var base = 0.0lf;
  var r = a;
  if (a >= 2.4375lf) {
    base = 1.5707963267948966lf;
    r = -1.0lf / a;
  } else if (a >= 1.1875lf) {
    base = 9.82793723247329054082e-01lf;
    r = (a - 1.5lf) / (1.0lf + 1.5lf * a);
  } else if (a >= 0.6875lf) {
    base = 7.85398163397448278999e-01lf;
    r = (a - 1.0lf) / (a + 1.0lf);
  } else if (a >= 0.4375lf) {
    base = 4.63647609000806093515e-01lf;
    r = (2.0lf * a - 1.0lf) / (2.0lf + a);
  }
  let z = r * r;
  var p = 1.62858201153657823623e-02lf * z - 3.65315727442169155270e-02lf;
  p = p * z + 4.97687799461593236017e-02lf;
  p = p * z - 5.83357013379057348645e-02lf;
  p = p * z + 6.66107313738753120669e-02lf;
  p = p * z - 7.69187620504482999495e-02lf;
  p = p * z + 9.09088713343650656196e-02lf;
  p = p * z - 1.11111104054623557880e-01lf;
  p = p * z + 1.42857142725034663711e-01lf;
  p = p * z - 1.99999999998764832476e-01lf;
  p = p * z + 3.33333333333329318027e-01lf;
  let y = base + (r - r * (z * p));
  return select(select(y, -y, is_negative_d(x)), x, is_nan_d(x));
}

fn atan2_d(y: f64, x: f64) -> f64 {
  if (is_nan_d(x)) { return x; }
  if (is_nan_d(y)) { return y; }
  var t = 0.0lf;
  if (y == 0.0lf) {
    t = 0.0lf;
  } else if (is_inf_d(x) && is_inf_d(y)) {
    t = 0.7853981633974483lf;
  } else if (abs(y) > abs(x)) {
    t = 1.5707963267948966lf - atan_d(abs(x) / abs(y));
  } else {
    t = atan_d(abs(y) / abs(x));
  }
  t = select(t, 3.141592653589793lf - t, is_negative_d(x));
  return select(t, -t, is_negative_d(y));
}

fn sinh_d(x: f64) -> f64 {
  let a = abs(x);
  var y = 0.0lf;
  if (a > 700.0lf) {
    let h = exp_d(0.5lf * a);
    y = (0.5lf * h) * h;
  } else {
    let t = expm1_d(a);
    y = 0.5lf * (t + t / (t + 1.0lf));
  }
  return select(select(y, -y, is_negative_d(x)), x, is_nan_d(x));
}

fn cosh_d(x: f64) -> f64 {
  let h = exp_d(0.5lf * abs(x));
  return (0.5lf * h) * h + (0.5lf / h) / h;
}

fn tanh_d(x: f64) -> f64 {
  let t = expm1_d(2.0lf * min(abs(x), 22.0lf));
  let y = t / (t + 2.0lf);
  return select(select(y, -y, is_negative_d(x)), x, is_nan_d(x));
}

// A series of positive terms below 3, a continued fraction of erfc above.
fn erf_d(x: f64) -> f64 {
  let a = abs(x);
  var y = 1.0lf;
  if (a < 3.0lf) {
    var sum = 1.0lf;
    for (var k = 60i; k > 0i; k--) { sum = 1.0lf + sum * (2.0lf * a * a) / f64(2i * k + 1i); }
    y = 1.1283791670955126lf * exp_d(-(a * a)) * sum * a;
  } else if (a < 6.0lf) {
    var below = a;
    for (var k = 40i; k > 0i; k--) { below = a + 0.5lf * f64(k) / below; }
    y = 1.0lf - exp_d(-(a * a)) * 0.5641895835477563lf / below;
  }
  return select(select(y, -y, is_negative_d(x)), x, is_nan_d(x));
}

fn sigmoid_d(x: f64) -> f64 {
  let e = exp_d(-abs(x));
  let s = 1.0lf / (1.0lf + e);
  return select(s, e * s, x < 0.0lf);
}

fn pow_d(x: f64, y: f64) -> f64 {
  if (y == 0.0lf || x == 1.0lf) { return 1.0lf; }
  if (is_nan_d(x)) { return x; }
  if (is_nan_d(y)) { return y; }
  if (y == 1.0lf) { return x; }
  if (y == 2.0lf) { return x * x; }
  let a = abs(x);
  let integral = floor(y) == y;
  let odd = integral && floor(y * 0.5lf) * 2.0lf != y;
  var p = 1.0lf;
  if (a == 0.0lf) {
    p = select(0.0lf, bits_d(0x7ff00000u), y < 0.0lf);
  } else if (a != 1.0lf) {
    p = exp_d(y * log_d(a));
  }
  if (is_negative_d(x)) {
    if (!integral && a != 0.0lf && !is_inf_d(x)) { return bits_d(0x7ff80000u); }
    return select(p, -p, odd);
  }
  return p;
}

fn arg_max_wins_d(x: f64, i: i32, y: f64, j: i32) -> bool {
  let a = is_nan_d(x);
  let b = is_nan_d(y);
  if (a != b) { return a; }
  return (!a && x > y) || ((a || x == y) && i < j);
}

fn arg_min_wins_d(x: f64, i: i32, y: f64, j: i32) -> bool {
  let a = is_nan_d(x);
  let b = is_nan_d(y);
  if (a != b) { return a; }
  return (!a && x < y) || ((a || x == y) && i < j);
}

fn sort_up_d(x: f64, i: u32, y: f64, j: u32) -> bool {
  let a = is_nan_d(x);
  let b = is_nan_d(y);
  if (a != b) { return b; }
  return (!a && x < y) || ((a || x == y) && i < j);
}

fn sort_down_d(x: f64, i: u32, y: f64, j: u32) -> bool {
  let a = is_nan_d(x);
  let b = is_nan_d(y);
  if (a != b) { return a; }
  return (!a && x > y) || ((a || x == y) && i < j);
}
