//! Initial values of parameters and buffers.

use crate::scalar::philox_words;
use crate::threads;
use crate::types::{DType, HostTensor, TensorType};
use serde::{Deserialize, Serialize};

/// How a parameter or buffer starts.
///
/// Fans are those of a weight `[out, in, sizes...]`: `in` and `out` times the sizes.
///
/// ```
/// use inductor::{DType, Initializer, nn, trace};
/// let traced = trace("init", |t| {
///     let x = t.input("x", DType::F32, (4, 8));
///     let fc = nn::Linear::new(16).init(Initializer::kaiming_normal());
///     let w = t.parameter("w", DType::F32, (16, 16), Initializer::Orthogonal { gain: 1.0 });
///     Ok(nn::linear(&t.path("fc"), &x, fc).matmul(&w).sum(()))
/// })?;
/// let w = traced.initializer("w").sample(DType::F32, &[16, 16], 0, "w");
/// assert!((w.to_f64().iter().map(|x| x * x).sum::<f64>() - 16.0).abs() < 1e-4);
/// # Ok::<(), inductor::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Initializer {
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
    /// One number everywhere.
    Constant(f64),
    /// The normal distribution around 0.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// The uniform distribution over `low..high`.
    Uniform {
        /// Inclusive lower end.
        low: f64,
        /// Exclusive upper end.
        high: f64,
    },
    /// The normal distribution around 0, of which only what lies in `low..=high` is drawn.
    TruncatedNormal {
        /// Standard deviation before it is cut.
        std: f64,
        /// Lower end.
        low: f64,
        /// Upper end.
        high: f64,
    },
    /// Uniform with the variance `2 gain^2 / (fan_in + fan_out)` (Glorot and Bengio, 2010).
    XavierUniform {
        /// A factor, 1 for linear layers.
        gain: f64,
    },
    /// Normal with the variance `2 gain^2 / (fan_in + fan_out)`.
    XavierNormal {
        /// A factor, 1 for linear layers.
        gain: f64,
    },
    /// Uniform with the variance `gain^2 / fan_in` (He and others, 2015).
    KaimingUniform {
        /// A factor, `sqrt(2)` before rectifiers.
        gain: f64,
    },
    /// Normal with the variance `gain^2 / fan_in`.
    KaimingNormal {
        /// A factor, `sqrt(2)` before rectifiers.
        gain: f64,
    },
    /// Rows (dimension 0) or columns (all others), whichever are fewer, orthogonal to one another (Saxe and others, 2013).
    Orthogonal {
        /// The length of each.
        gain: f64,
    },
    /// As `rest`, with zeros at one index of dimension 0: the row of an embedding that stands for padding.
    ZeroRow {
        /// The index.
        row: usize,
        /// How all others start.
        rest: Box<Initializer>,
    },
    /// The norms of the rows (dimension 0) of another parameter as it starts.
    RowNorms {
        /// The other parameter's name.
        of: String,
        /// Its sizes.
        shape: Vec<usize>,
        /// How it starts.
        start: Box<Initializer>,
    },
    /// These elements, whose dtype and shape are the parameter's.
    Tensor(HostTensor),
}

impl Initializer {
    /// [`Initializer::XavierUniform`] for linear layers.
    pub fn xavier_uniform() -> Initializer {
        Initializer::XavierUniform { gain: 1.0 }
    }

    /// [`Initializer::XavierNormal`] for linear layers.
    pub fn xavier_normal() -> Initializer {
        Initializer::XavierNormal { gain: 1.0 }
    }

    /// [`Initializer::KaimingUniform`] before rectifiers.
    pub fn kaiming_uniform() -> Initializer {
        Initializer::KaimingUniform { gain: std::f64::consts::SQRT_2 }
    }

    /// [`Initializer::KaimingNormal`] before rectifiers.
    pub fn kaiming_normal() -> Initializer {
        Initializer::KaimingNormal { gain: std::f64::consts::SQRT_2 }
    }

    /// [`Initializer::TruncatedNormal`] between -2 and 2, PyTorch's defaults.
    pub fn truncated_normal(std: f64) -> Initializer {
        Initializer::TruncatedNormal { std, low: -2.0, high: 2.0 }
    }

    /// Why no tensor of that type starts like this.
    pub(super) fn fault(&self, ty: &TensorType) -> Option<String> {
        let (dtype, rank) = (ty.dtype, ty.shape.rank());
        let fits = |x: f64| dtype.int_range().is_none_or(|(low, high)| x >= low as f64 && x <= high as f64);
        match *self {
            Initializer::XavierUniform { .. }
            | Initializer::XavierNormal { .. }
            | Initializer::KaimingUniform { .. }
            | Initializer::KaimingNormal { .. }
            | Initializer::Orthogonal { .. }
                if rank < 2 || !dtype.is_float() =>
            {
                Some(format!("it is for floats of two dimensions or more, not {ty}"))
            }
            Initializer::TruncatedNormal { std, low, high } if !(std > 0.0 && low < high && low <= 3.0 * std && high >= -3.0 * std) => {
                Some(format!("a normal number of deviation {std} is hardly ever in {low}..{high}"))
            }
            Initializer::ZeroRow { row, ref rest } => match ty.shape.0.first().and_then(|n| n.as_int()) {
                Some(n) if (row as i64) < n => rest.fault(ty),
                _ => Some(format!("{ty} has no row {row}")),
            },
            Initializer::RowNorms { ref shape, .. } if ty.shape.numel().as_int() != shape.first().map(|&n| n as i64) => {
                Some(format!("{ty} has not one element for each row of {shape:?}"))
            }
            Initializer::Tensor(ref value) => match value.fault() {
                Some(fault) => Some(fault.into()),
                None => (value.ty() != *ty).then(|| format!("types differ: {ty} x {}", value.ty())),
            },
            Initializer::Constant(x) if !fits(x) => Some(format!("{x} is no {dtype}")),
            Initializer::Normal { std } if !(std >= 0.0 && std.is_finite()) => Some(format!("a deviation of {std} is not finite and not negative")),
            Initializer::Uniform { low, high } if !(low <= high && low.is_finite() && high.is_finite()) => {
                Some(format!("there are no numbers in {low}..{high}"))
            }
            _ => None,
        }
    }

    /// The tensor of that name for that seed. Element `i` depends on (seed, name, i) alone, so that neither the order of
    /// parameters nor the number of threads matters. Integer and bool dtypes round toward zero.
    pub fn sample(&self, dtype: DType, shape: &[usize], seed: u64, name: &str) -> HostTensor {
        let numel: usize = shape.iter().product();
        let bits = Bits::new(seed, name);
        let normal = |std: f64| draw(dtype, shape, |block| bits.block_of_normals(block).map(|x| std * x));
        let uniform = |low: f64, high: f64| draw(dtype, shape, |block| bits.words(block).map(|w| low + (high - low) * inside(w)));
        let (fan_in, fan_out) = fans(shape);
        let (xavier, kaiming) = ((2.0 / (fan_in + fan_out)).sqrt(), (1.0 / fan_in).sqrt());
        match *self {
            Initializer::Zeros => HostTensor::zeros(dtype, shape),
            Initializer::Ones => HostTensor::from_f64(dtype, shape, &vec![1.0; numel]),
            Initializer::Constant(x) => HostTensor::from_f64(dtype, shape, &vec![x; numel]),
            Initializer::Normal { std } => normal(std),
            Initializer::Uniform { low, high } => uniform(low, high),
            Initializer::XavierNormal { gain } => normal(gain * xavier),
            Initializer::KaimingNormal { gain } => normal(gain * kaiming),
            Initializer::XavierUniform { gain } => uniform(-gain * xavier * UNIFORM, gain * xavier * UNIFORM),
            Initializer::KaimingUniform { gain } => uniform(-gain * kaiming * UNIFORM, gain * kaiming * UNIFORM),
            Initializer::TruncatedNormal { std, low, high } => draw(dtype, shape, |block| bits.block_of_truncated(block, std, low, high)),
            Initializer::Orthogonal { gain } => HostTensor::from_f64(dtype, shape, &orthogonal(&bits, shape, gain)),
            Initializer::ZeroRow { row, ref rest } => {
                let mut values = rest.sample(dtype, shape, seed, name).to_f64();
                let length = shape.get(1..).unwrap_or_default().iter().product::<usize>();
                values[row * length..(row + 1) * length].fill(0.0);
                HostTensor::from_f64(dtype, shape, &values)
            }
            Initializer::RowNorms { ref of, shape: ref other, ref start } => {
                let length = other.get(1..).unwrap_or_default().iter().product::<usize>().max(1);
                let values = start.sample(dtype, other, seed, of).to_f64();
                let norms: Vec<f64> = values.chunks(length).map(|row| row.iter().map(|x| x * x).sum::<f64>().sqrt()).collect();
                HostTensor::from_f64(dtype, shape, &norms)
            }
            Initializer::Tensor(ref value) => value.clone(),
        }
    }
}

/// The bound of a uniform distribution around 0, in deviations.
const UNIFORM: f64 = 1.732_050_807_568_877_2;

/// Inputs that an output of a weight `[out, in, sizes...]` sees, and outputs that an input reaches; at least one.
fn fans(shape: &[usize]) -> (f64, f64) {
    let (Some(&outputs), Some(&inputs)) = (shape.first(), shape.get(1)) else { return (1.0, 1.0) };
    let field: usize = shape[2..].iter().product();
    ((inputs * field).max(1) as f64, (outputs * field).max(1) as f64)
}

/// The rows or columns of a normal matrix made orthogonal by Gram and Schmidt's method, twice each, in f64.
fn orthogonal(bits: &Bits, shape: &[usize], gain: f64) -> Vec<f64> {
    let (rows, columns) = (shape[0], shape[1..].iter().product::<usize>());
    let (count, length) = (rows.min(columns), rows.max(columns));
    let mut drawn = (0..).flat_map(|pair| bits.normals(pair));
    let mut vectors: Vec<Vec<f64>> = vec![];
    for _ in 0..count {
        let mut v: Vec<f64> = drawn.by_ref().take(length).collect();
        for other in vectors.iter().chain(&vectors) {
            let along: f64 = other.iter().zip(&v).map(|(a, b)| a * b).sum();
            v.iter_mut().zip(other).for_each(|(x, o)| *x -= along * o);
        }
        let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        v.iter_mut().for_each(|x| *x /= norm);
        vectors.push(v);
    }
    let at = |r: usize, c: usize| if rows <= columns { vectors[r][c] } else { vectors[c][r] };
    (0..rows * columns).map(|i| gain * at(i / columns, i % columns)).collect()
}

/// Elements that are drawn together, so that the loops over them run on vectors. What these loops call must be inlined: only so is it
/// compiled for the widest vectors.
const BLOCK: usize = 256;

/// Elements that a thread draws at a time, whole blocks.
const CHUNK: usize = 256 * BLOCK;

/// A tensor of numbers that come in blocks, drawn by all threads where there are many.
fn draw(dtype: DType, shape: &[usize], block: impl Fn(u64) -> [f64; BLOCK] + Sync + Send) -> HostTensor {
    let numel: usize = shape.iter().product();
    if dtype != DType::F32 {
        let drawn = threads::collect(numel.div_ceil(BLOCK), |k| block(k as u64));
        return HostTensor::from_f64(dtype, shape, &drawn.as_flattened()[..numel]);
    }
    let mut bytes = vec![0; 4 * numel];
    let arch = pulp::Arch::new();
    let fill = |(k, chunk): (usize, &mut [u8])| {
        let first = k * CHUNK / BLOCK;
        for (k, place) in chunk.chunks_mut(4 * BLOCK).enumerate() {
            let drawn = arch.dispatch(|| block((first + k) as u64)).map(|x| (x as f32).to_le_bytes());
            place.copy_from_slice(&drawn.as_flattened()[..place.len()]);
        }
    };
    let chunks: Vec<(usize, &mut [u8])> = bytes.chunks_mut(4 * CHUNK).enumerate().collect();
    if chunks.len() > 1 {
        threads::consume(chunks, fill)
    } else {
        chunks.into_iter().for_each(fill)
    }
    HostTensor::from_bytes(dtype, shape.to_vec(), bytes).expect("four bytes for each element")
}

/// Random bits as a pure function of (key, index).
struct Bits {
    key: [u32; 2],
}

impl Bits {
    fn new(seed: u64, name: &str) -> Bits {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        hasher.update(name.as_bytes());
        let hash = hasher.finalize();
        let word = |k: usize| u32::from_le_bytes(hash.as_bytes()[4 * k..4 * k + 4].try_into().expect("four bytes"));
        Bits { key: [word(0), word(1)] }
    }

    /// The four words from number `4 * quad` on. The upper half of a word's number goes into the key: one key serves 2^32 words.
    #[inline(always)]
    fn quad(&self, quad: u64) -> [u32; 4] {
        philox_words(self.key[0], self.key[1] ^ (quad >> 30) as u32, quad as u32 & (u32::MAX >> 2))
    }

    /// The words of a block's elements.
    #[inline(always)]
    fn words(&self, block: u64) -> [u32; BLOCK] {
        let mut out = [0; BLOCK];
        for (k, words) in out.as_chunks_mut().0.iter_mut().enumerate() {
            *words = self.quad(block * (BLOCK / 4) as u64 + k as u64);
        }
        out
    }

    /// Standard normals by Box and Muller: elements `2k` and `2k + 1` share their two words.
    fn normals(&self, pair: u64) -> [f64; 2] {
        let words = self.quad(pair / 2);
        let first = 2 * (pair % 2) as usize;
        polar(words[first], words[first + 1])
    }

    /// The standard normals of a block. Words are sorted by their place in a quad first, or nothing of this runs on vectors.
    #[inline(always)]
    fn block_of_normals(&self, block: u64) -> [f64; BLOCK] {
        const QUADS: usize = BLOCK / 4;
        let mut words = [[0; QUADS]; 4];
        for k in 0..QUADS {
            let quad = self.quad(block * QUADS as u64 + k as u64);
            words.iter_mut().zip(quad).for_each(|(place, word)| place[k] = word);
        }
        let mut out = [0.0; BLOCK];
        for first in [0, 2] {
            for (k, (radius, angle)) in words[first].iter().zip(&words[first + 1]).enumerate() {
                let pair = polar(*radius, *angle);
                (out[4 * k + first], out[4 * k + first + 1]) = (pair[0], pair[1]);
            }
        }
        out
    }

    /// The normals of a block of which each is drawn again until it lies between the bounds.
    fn block_of_truncated(&self, block: u64, std: f64, low: f64, high: f64) -> [f64; BLOCK] {
        std::array::from_fn(|k| {
            let index = block * BLOCK as u64 + k as u64;
            let draws = (0..).map(|again: u64| std * self.normals(index / 2 + (again << 32))[k % 2]);
            let mut inside = draws.filter(|x| (low..=high).contains(x));
            inside.next().expect("a normal number lies between the bounds before long")
        })
    }
}

/// A number strictly inside 0..1.
#[inline(always)]
fn inside(word: u32) -> f64 {
    (word as f64 + 0.5) / 4294967296.0
}

/// Two standard normals: radius and angle.
#[inline(always)]
fn polar(radius: u32, angle: u32) -> [f64; 2] {
    let radius = (-2.0 * log(inside(radius))).sqrt();
    turn(inside(angle)).map(|x| radius * x)
}

/// The logarithm of a number in 0..1, within 1e-13: by the series of `(1 + s) / (1 - s)` around a power of two. Unlike a library's it has no
/// branch, so that many are computed at once.
#[inline(always)]
fn log(x: f64) -> f64 {
    const MANTISSA: u64 = (1 << 52) - 1;
    let (bits, one) = (x.to_bits(), 1f64.to_bits());
    let m = f64::from_bits((bits & MANTISSA) | one);
    let is_large = m > std::f64::consts::SQRT_2;
    let m = if is_large { 0.5 * m } else { m };
    let exponent = (bits >> 52) as i32 - 1023 + is_large as i32;
    let s = (m - 1.0) / (m + 1.0);
    let series =
        [2.0, 2.0 / 3.0, 2.0 / 5.0, 2.0 / 7.0, 2.0 / 9.0, 2.0 / 11.0, 2.0 / 13.0, 2.0 / 15.0].iter().rev().fold(0.0, |sum, x| sum * (s * s) + x);
    exponent as f64 * std::f64::consts::LN_2 + s * series
}

/// Factors of the series of the cosine and of the sine: of even and of odd powers. A division by each would take most of the time.
const EVEN: [f64; 8] = alternating(1);
const ODD: [f64; 8] = alternating(2);

/// 1, and each the one before divided by the next two numbers from `first` on, with alternating signs.
const fn alternating(first: u32) -> [f64; 8] {
    let (mut out, mut k) = ([1.0; 8], 1);
    while k < 8 {
        let n = 2 * k as u32 + first - 2;
        out[k] = -out[k - 1] / (n * (n + 1)) as f64;
        k += 1;
    }
    out
}

/// Cosine and sine of that part of a turn, of 0..1, within 1e-13: by their series around the nearest quarter.
#[inline(always)]
fn turn(part: f64) -> [f64; 2] {
    let quarters = 4.0 * part;
    let nearest = (quarters + 0.5) as i32;
    let x = (quarters - nearest as f64) * std::f64::consts::FRAC_PI_2;
    let series = |factors: [f64; 8]| factors.into_iter().rev().fold(0.0, |sum, factor| sum * (x * x) + factor);
    let (cos, sin) = (series(EVEN), x * series(ODD));
    let (near, far) = if nearest & 1 == 0 { (cos, sin) } else { (sin, cos) };
    let sign = |negative: bool| if negative { -1.0 } else { 1.0 };
    [sign((nearest + 1) & 2 != 0) * near, sign(nearest & 2 != 0) * far]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scalar::philox;

    fn moments(x: &[f64]) -> (f64, f64) {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        (mean, (x.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / x.len() as f64).sqrt())
    }

    #[test]
    fn series_are_as_exact_as_they_say() {
        for k in 0..100_000u64 {
            let x = ((k * 42_949 + 1) as f64 + 0.5) / 4294967296.0;
            let angle = std::f64::consts::TAU * x;
            assert!((log(x) - libm::log(x)).abs() <= 1e-13 * libm::log(x).abs().max(1.0), "log {x}");
            let [cos, sin] = turn(x);
            assert!((cos - libm::cos(angle)).abs() < 1e-13 && (sin - libm::sin(angle)).abs() < 1e-13, "turn {x}");
        }
        assert!((log(0.5 / 4294967296.0) - libm::log(0.5 / 4294967296.0)).abs() < 1e-12);
    }

    #[test]
    fn blocks_are_their_elements() {
        let bits = Bits::new(5, "w");
        for block in [0, 1, (1 << 24) - 1, 1 << 24] {
            let (words, normals) = (bits.words(block), bits.block_of_normals(block));
            for k in 0..BLOCK {
                let index = block * BLOCK as u64 + k as u64;
                let word = philox(bits.key[0], bits.key[1] ^ (index >> 32) as u32, index as u32);
                assert_eq!((words[k], normals[k]), (word, bits.normals(index / 2)[k % 2]), "element {index}");
            }
        }
        let whole = Initializer::Normal { std: 1.0 }.sample(DType::F64, &[3, 333], 5, "w").to_f64();
        assert_eq!(whole[..BLOCK], bits.block_of_normals(0));
        assert_eq!(whole[3 * BLOCK..], bits.block_of_normals(3)[..999 - 3 * BLOCK]);
    }

    #[test]
    fn normal_has_its_moments() {
        let x = Initializer::Normal { std: 0.02 }.sample(DType::F32, &[300, 400], 7, "w").to_f64();
        let (mean, std) = moments(&x);
        assert!(mean.abs() < 2e-4 && (std / 0.02 - 1.0).abs() < 0.01, "{mean} {std}");
    }

    #[test]
    fn uniform_stays_inside() {
        let x = Initializer::Uniform { low: -0.5, high: 0.25 }.sample(DType::F32, &[10_000], 7, "w").to_f64();
        assert!(x.iter().all(|&v| (-0.5..=0.25).contains(&v)));
        assert!((moments(&x).0 + 0.125).abs() < 0.01);
    }

    #[test]
    fn values_depend_on_seed_and_name_alone() {
        let of = |seed, name: &str| Initializer::Normal { std: 1.0 }.sample(DType::F32, &[8], seed, name);
        assert_eq!(of(1, "a"), of(1, "a"));
        assert_ne!(of(1, "a"), of(2, "a"));
        assert_ne!(of(1, "a"), of(1, "b"));
    }

    #[test]
    fn fans_decide_the_deviation() {
        for (init, std) in [
            (Initializer::xavier_uniform(), (2.0f64 / (150.0 + 400.0 * 3.0)).sqrt()),
            (Initializer::xavier_normal(), (2.0f64 / (150.0 + 400.0 * 3.0)).sqrt()),
            (Initializer::kaiming_uniform(), (2.0f64 / 150.0).sqrt()),
            (Initializer::kaiming_normal(), (2.0f64 / 150.0).sqrt()),
        ] {
            let x = init.sample(DType::F32, &[400, 50, 3], 7, "w").to_f64();
            assert!((moments(&x).1 / std - 1.0).abs() < 0.01, "{init:?}");
        }
        let x = Initializer::truncated_normal(1.5).sample(DType::F32, &[100_000], 7, "w").to_f64();
        assert!(x.iter().all(|v| v.abs() <= 2.0));
        // The deviation of a normal number of deviation 1.5 between -2 and 2.
        assert!((moments(&x).1 - 1.0158).abs() < 0.01, "{}", moments(&x).1);
    }

    #[test]
    fn orthogonal_rows_or_columns() {
        for shape in [[6, 20], [20, 6]] {
            let x = Initializer::Orthogonal { gain: 2.0 }.sample(DType::F64, &shape, 3, "w").to_f64();
            let at = |vector: usize, i: usize| if shape[0] == 6 { x[vector * 20 + i] } else { x[i * 6 + vector] };
            for (a, b) in (0..6).flat_map(|a| (0..6).map(move |b| (a, b))) {
                let product: f64 = (0..20).map(|i| at(a, i) * at(b, i)).sum();
                assert!((product - if a == b { 4.0 } else { 0.0 }).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn constants_fill_every_dtype() {
        assert_eq!(Initializer::Ones.sample(DType::I64, &[2], 0, "n").to_i64(), [1, 1]);
        assert_eq!(Initializer::Constant(0.5).sample(DType::F16, &[1], 0, "n").to_f64(), [0.5]);
        assert_eq!(Initializer::Zeros.sample(DType::Bool, &[0, 3], 0, "n").numel(), 0);
    }
}
