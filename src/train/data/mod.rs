//! Data: rows in memory, files of common formats, pictures in folders (with the feature `images`), tokens of a file that is read in
//! pieces; batches in an order that is a function of seed and step.

mod csv;
mod dataset;
mod idx;
#[cfg(any(feature = "images", test))]
mod images;
mod loader;
mod tokens;

pub use csv::Csv;
pub use dataset::Dataset;
pub use idx::read_idx;
#[cfg(any(feature = "images", test))]
pub use images::ImageFolder;
pub use loader::{Batches, Loader};
pub use tokens::{TokenWidth, Tokens};

/// Random numbers as a function of seed and counter, so that batches do not depend on what was drawn before: SplitMix64's finalizer
/// over a Weyl sequence (Steele, Lea and Flood, 2014).
pub fn random(seed: u64, counter: u64) -> u64 {
    let mut x = seed.wrapping_mul(0xD1B5_4A32_D192_ED03).wrapping_add(counter.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// A number below `n` without preference, as far as 64 bits go.
fn below(n: usize, seed: u64, counter: u64) -> usize {
    ((random(seed, counter) as u128 * n as u128) >> 64) as usize
}

/// `0..n` in an order of the seed (Fisher and Yates).
fn permutation(n: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for last in (1..n).rev() {
        order.swap(last, below(last + 1, seed, last as u64));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_hold_everything_once() {
        let mut order = permutation(1000, 3);
        assert!(order != permutation(1000, 4) && order == permutation(1000, 3));
        order.sort_unstable();
        assert!(order.into_iter().eq(0..1000));
        // Each place gets each element about as often: 6 orders of 3, 1000 each of 6000.
        let mut counts = std::collections::BTreeMap::new();
        (0..6000).for_each(|seed| *counts.entry(permutation(3, seed)).or_insert(0) += 1);
        assert!(counts.len() == 6 && counts.values().all(|n| (850..1150).contains(n)), "{counts:?}");
    }
}
