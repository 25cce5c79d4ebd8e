//! Initial values of parameters and buffers.

use crate::scalar::philox;
use crate::threads;
use crate::types::{DType, HostTensor};
use serde::{Deserialize, Serialize};

/// How a parameter or buffer starts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
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
}

impl Initializer {
    /// Why no tensor of that dtype starts like this.
    pub(super) fn fault(&self, dtype: DType) -> Option<String> {
        let fits = |x: f64| dtype.int_range().is_none_or(|(low, high)| x >= low as f64 && x <= high as f64);
        match *self {
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
        match *self {
            Initializer::Zeros => HostTensor::zeros(dtype, shape),
            Initializer::Ones => HostTensor::from_f64(dtype, shape, &vec![1.0; numel]),
            Initializer::Constant(x) => HostTensor::from_f64(dtype, shape, &vec![x; numel]),
            Initializer::Normal { std } => draw(dtype, shape, &|pair| bits.normals(pair).map(|x| std * x)),
            Initializer::Uniform { low, high } => {
                draw(dtype, shape, &|pair| [2 * pair, 2 * pair + 1].map(|index| low + (high - low) * bits.uniform(index)))
            }
        }
    }
}

/// Elements that a thread draws at a time, an even number.
const CHUNK: usize = 1 << 16;

/// A tensor of numbers that come in pairs, drawn by all threads.
fn draw(dtype: DType, shape: &[usize], pair: &(dyn Fn(u64) -> [f64; 2] + Sync)) -> HostTensor {
    let numel: usize = shape.iter().product();
    if dtype != DType::F32 {
        let drawn = threads::collect(numel.div_ceil(2), |k| pair(k as u64));
        return HostTensor::from_f64(dtype, shape, &drawn.as_flattened()[..numel]);
    }
    let mut bytes = vec![0; 4 * numel];
    let chunks = bytes.chunks_mut(4 * CHUNK).enumerate().collect();
    threads::consume(chunks, |(k, chunk): (usize, &mut [u8])| {
        let drawn = (k * CHUNK / 2..).flat_map(|k| pair(k as u64));
        for (place, x) in chunk.chunks_exact_mut(4).zip(drawn) {
            place.copy_from_slice(&(x as f32).to_le_bytes());
        }
    });
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

    fn word(&self, index: u64) -> u32 {
        // The upper half of the index goes into the key: one key serves 2^32 words.
        philox(self.key[0], self.key[1] ^ (index >> 32) as u32, index as u32)
    }

    /// Strictly inside 0..1.
    fn uniform(&self, index: u64) -> f64 {
        (self.word(index) as f64 + 0.5) / 4294967296.0
    }

    /// Standard normals by Box and Muller: elements `2k` and `2k + 1` share two words.
    fn normals(&self, pair: u64) -> [f64; 2] {
        let radius = (-2.0 * libm::log(self.uniform(2 * pair))).sqrt();
        let angle = std::f64::consts::TAU * self.uniform(2 * pair + 1);
        [radius * libm::cos(angle), radius * libm::sin(angle)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(x: &[f64]) -> (f64, f64) {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        (mean, (x.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / x.len() as f64).sqrt())
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
    fn constants_fill_every_dtype() {
        assert_eq!(Initializer::Ones.sample(DType::I64, &[2], 0, "n").to_i64(), [1, 1]);
        assert_eq!(Initializer::Constant(0.5).sample(DType::F16, &[1], 0, "n").to_f64(), [0.5]);
        assert_eq!(Initializer::Zeros.sample(DType::Bool, &[0, 3], 0, "n").numel(), 0);
    }
}
