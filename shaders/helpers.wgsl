// Scalar functions that generated kernels call. Bindings: none. A module gets the functions it uses and those they call.
//
// Why not the built-ins: WGSL lets exp, log, sin, tanh and others be as wrong as the driver likes (an NVIDIA log is off by 2^-22
// near one), drivers may assume that there are no NaN and infinities, and `x != x` is folded. Tests for NaN are made on bits.
// Polynomials follow Cephes (Moshier) and fdlibm (Sun); each function is within 1e-6 of the exact value, relatively, but for
// pow (2e-5) and tan (4e-6). Variants: `_i` for i32 (i64's `_l` is derived from it), `_u` for u32, `_d` for f64.

fn bits_(u: u32) -> f32 {
  var v = u;
  return bitcast<f32>(v);
}

fn is_nan_(x: f32) -> bool {
  return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

fn is_inf_(x: f32) -> bool {
  return (bitcast<u32>(x) & 0x7fffffffu) == 0x7f800000u;
}

fn sign_(x: f32) -> f32 {
  if (is_nan_(x)) { return 0.0f; }
  return select(select(0.0f, 1.0f, x > 0.0f), -1.0f, x < 0.0f);
}

fn sign_i(x: i32) -> i32 {
  return select(select(i32(0), i32(1), x > i32(0)), i32(-1), x < i32(0));
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
  if (abs(x) < 0.34f) { return fma(x * x, exp_tail_(x), x); }
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
  return special_angle_(x, sin_turned_(x, 0u));
}

fn cos_(x: f32) -> f32 {
  return special_angle_(x, sin_turned_(x, 1u));
}

fn tan_(x: f32) -> f32 {
  let p = quadrant_(x);
  let s = sin_near_(p.x);
  let c = cos_near_(p.x);
  let odd = (u32(p.y) & 1u) == 1u;
  return special_angle_(x, select(s, -c, odd) / select(c, s, odd));
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
  return select(y, -y, x < 0.0f);
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
  return select(select(y, -y, x < 0.0f), x, is_nan_(x));
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
    return fma(((((-5.70498872745e-3f * z + 2.06390887954e-2f) * z - 5.37397155531e-2f) * z + 1.33314422036e-1f) * z - 3.33332819422e-1f) * z, x, x);
  }
  let y = 1.0f - 2.0f / (exp_(2.0f * min(a, 10.0f)) + 1.0f);
  return select(select(y, -y, x < 0.0f), x, is_nan_(x));
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

fn maximum_(x: f32, y: f32) -> f32 {
  return select(select(max(x, y), y, is_nan_(y)), x, is_nan_(x));
}

fn maximum_i(x: i32, y: i32) -> i32 {
  return max(x, y);
}

fn maximum_u(x: u32, y: u32) -> u32 {
  return max(x, y);
}

fn minimum_(x: f32, y: f32) -> f32 {
  return select(select(min(x, y), y, is_nan_(y)), x, is_nan_(x));
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

// By way of the exact remainder, so that no quotient rounds up to the next integer.
fn floor_div_(x: f32, y: f32) -> f32 {
  if (y == 0.0f) { return x / y; }
  let r = fmod_(x, y);
  if (is_nan_(r)) { return r; }
  let q = (x - r) / y - select(0.0f, 1.0f, r != 0.0f && (r < 0.0f) != (y < 0.0f));
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
  return select(q, q - i32(1), y != i32(0) && r != i32(0) && (r < i32(0)) != (y < i32(0)));
}

fn floor_div_u(x: u32, y: u32) -> u32 {
  return select(x / max(y, 1u), 0u, y == 0u);
}

// Exact: subtracts y scaled by powers of two.
fn fmod_(x: f32, y: f32) -> f32 {
  let b = abs(y);
  var a = abs(x);
  if (is_nan_(x) || is_nan_(y) || is_inf_(x) || b == 0.0f) { return bits_(0x7fc00000u); }
  if (is_inf_(y)) { return x; }
  for (var step = 0; step < 300 && a >= b; step++) {
    let shift = (bitcast<u32>(a) >> 23u) - max(bitcast<u32>(b) >> 23u, 1u);
    let half = i32(shift >> 1u);
    var t = b * power_of_two_(min(half, 126)) * power_of_two_(min(i32(shift) - half, 126));
    t = select(t, t * 0.5f, t > a);
    a = a - t;
  }
  return select(a, -a, (bitcast<u32>(x) >> 31u) == 1u);
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
  return select(r, r + y, r != i32(0) && (r < i32(0)) != (y < i32(0)));
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
  if (y < i32(0)) {
    if (x == i32(1)) { return i32(1); }
    if (x == i32(-1)) { return select(i32(1), i32(-1), (y & i32(1)) != i32(0)); }
    return i32(0);
  }
  var p = i32(1);
  var b = x;
  var n = y;
  for (var step = 0; step < 64 && n > i32(0); step++) {
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
  return select(0li, x << (u32(y) & 63u), y >= 0li && y < 64li);
}

fn shift_right_i(x: i32, y: i32) -> i32 {
  return x >> u32(clamp(y, 0i, 31i));
}

fn shift_right_u(x: u32, y: u32) -> u32 {
  return select(0u, x >> (y & 31u), y < 32u);
}

fn shift_right_l(x: i64, y: i64) -> i64 {
  return x >> u32(clamp(y, 0li, 63li));
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
  return x > y || (x == y && i < j);
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
  return x < y || (x == y && i < j);
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
  return x < y || (x == y && i < j);
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
  return x > y || (x == y && i < j);
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

// The upper half of an f32, rounded to nearest even.
fn bf16_bits_(x: f32) -> u32 {
  let u = bitcast<u32>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) { return (u >> 16u) | 0x40u; }
  return (u + 0x7fffu + ((u >> 16u) & 1u)) >> 16u;
}

fn round_bf16_(x: f32) -> f32 {
  return bitcast<f32>(bf16_bits_(x) << 16u);
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
  if (!(x == x)) { return 0i; }
  if (x >= 2147483647.0lf) { return 2147483647i; }
  return i32(max(x, -2147483648.0lf));
}

fn to_u32_d(x: f64) -> u32 {
  if (!(x == x)) { return 0u; }
  if (x >= 4294967295.0lf) { return 4294967295u; }
  return u32(max(x, 0.0lf));
}

fn to_i64_d(x: f64) -> i64 {
  if (!(x == x)) { return 0li; }
  if (x >= 9223372036854775807.0lf) { return 9223372036854775807li; }
  if (x <= -9223372036854775807.0lf) { return -9223372036854775807li - 1li; }
  return i64(x);
}

fn is_nan_d(x: f64) -> bool {
  return !(x == x);
}

fn is_inf_d(x: f64) -> bool {
  return abs(x) > 1.7976931348623157e308lf;
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
  return select(select(max(x, y), y, is_nan_d(y)), x, is_nan_d(x));
}

fn minimum_d(x: f64, y: f64) -> f64 {
  return select(select(min(x, y), y, is_nan_d(y)), x, is_nan_d(x));
}

fn clamp_d(x: f64, low: f64, high: f64) -> f64 {
  return minimum_d(maximum_d(x, low), high);
}

fn floor_div_d(x: f64, y: f64) -> f64 {
  if (y == 0.0lf) { return x / y; }
  let r = fmod_d(x, y);
  let q = (x - r) / y - select(0.0lf, 1.0lf, r != 0.0lf && (r < 0.0lf) != (y < 0.0lf));
  let n = floor(q);
  return n + select(0.0lf, 1.0lf, q - n > 0.5lf);
}

fn fmod_d(x: f64, y: f64) -> f64 {
  return x - trunc(x / y) * y;
}

fn remainder_d(x: f64, y: f64) -> f64 {
  return x - floor(x / y) * y;
}

// 2^n by squaring: bits of f64 cannot be set everywhere.
fn power_of_two_d(n: i32) -> f64 {
  var p = 1.0lf;
  var b = select(2.0lf, 0.5lf, n < 0i);
  for (var k = u32(abs(n)); k > 0u; k = k >> 1u) {
    if ((k & 1u) == 1u) { p = p * b; }
    b = b * b;
  }
  return p;
}

fn exp_d(x: f64) -> f64 {
  if (!(x == x)) { return x; }
  let c = clamp(x, -746.0lf, 710.0lf);
  let n = round(c * 1.4426950408889634lf);
  let r = (c - n * 0.693147180369123816490lf) - n * 1.90821492927058770002e-10lf;
  var p = 1.0lf;
  for (var k = 14i; k > 0i; k--) { p = 1.0lf + p * r / f64(k); }
  let h = i32(n) / 2i;
  return p * power_of_two_d(h) * power_of_two_d(i32(n) - h);
}

// Scaled into [1, 2) by powers of two; log(m) = 2 atanh((m - 1) / (m + 1)).
fn log_d(x: f64) -> f64 {
  if (!(x == x)) { return x; }
  if (x < 0.0lf) { return f64(bits_(0x7fc00000u)); }
  if (x == 0.0lf) { return f64(bits_(0xff800000u)); }
  if (is_inf_d(x)) { return x; }
  var m = x;
  var e = 0i;
  if (m < 1.0e-290lf) { m = m * power_of_two_d(100i); e = -100i; }
  for (var k = 512i; k > 0i; k = k / 2i) {
    if (m >= power_of_two_d(k)) { m = m * power_of_two_d(-k); e = e + k; }
    if (m < power_of_two_d(1i - k)) { m = m * power_of_two_d(k); e = e - k; }
  }
  if (m > 1.4142135623730951lf) { m = m * 0.5lf; e = e + 1i; }
  let s = (m - 1.0lf) / (m + 1.0lf);
  var sum = 0.0lf;
  for (var k = 25i; k > 0i; k = k - 2i) { sum = sum * s * s + 1.0lf / f64(k); }
  return f64(e) * 0.693147180369123816490lf + (f64(e) * 1.90821492927058770002e-10lf + 2.0lf * s * sum);
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
    p = select(0.0lf, f64(bits_(0x7f800000u)), y < 0.0lf);
  } else if (a != 1.0lf) {
    p = exp_d(y * log_d(a));
  }
  if (x < 0.0lf) {
    if (!integral && !is_inf_d(x)) { return f64(bits_(0x7fc00000u)); }
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
