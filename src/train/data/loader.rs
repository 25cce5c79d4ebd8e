//! Batches of a data set, epoch after epoch.

use super::dataset::Dataset;
use super::{permutation, random};
use crate::error::{Error, Result};
use crate::runtime::Inputs;

/// Batches of a data set. Which examples are in the batch of a step is a function of the seed and the step's number, so that a run
/// that goes on sees what it would have seen.
#[derive(Clone, Debug)]
pub struct Loader {
    data: Dataset,
    batch: usize,
    seed: Option<u64>,
    keeps_last: bool,
}

impl Loader {
    pub(super) fn new(data: Dataset, batch: usize) -> Loader {
        Loader { data, batch, seed: None, keeps_last: false }
    }

    /// Another order in every epoch.
    pub fn shuffle(mut self, seed: u64) -> Loader {
        self.seed = Some(seed);
        self
    }

    /// Gives the last examples of an epoch as a smaller batch, for programs with a size that is a symbol, instead of leaving them out.
    pub fn keep_last(mut self, keeps_last: bool) -> Loader {
        self.keeps_last = keeps_last;
        self
    }

    /// How many batches an epoch has.
    pub fn batches_per_epoch(&self) -> u64 {
        let n = if self.keeps_last { self.data.len().div_ceil(self.batch.max(1)) } else { self.data.len() / self.batch.max(1) };
        n as u64
    }

    /// All batches behind the first `done`, without end: epochs follow one another.
    pub fn from(&self, done: u64) -> Batches {
        Batches { loader: self.clone(), next: done, end: u64::MAX, order: None }
    }

    /// The batches of one epoch, counted from 0.
    pub fn epoch(&self, number: u64) -> Batches {
        let each = self.batches_per_epoch();
        Batches { loader: self.clone(), next: number.saturating_mul(each), end: (number + 1).saturating_mul(each), order: None }
    }

    fn order(&self, epoch: u64) -> Vec<usize> {
        let n = self.data.len();
        self.seed.map_or_else(|| (0..n).collect(), |seed| permutation(n, random(seed, epoch)))
    }
}

/// See [`Loader::from`].
#[derive(Clone, Debug)]
pub struct Batches {
    loader: Loader,
    next: u64,
    end: u64,
    /// The order of the epoch at hand, by its number.
    order: Option<(u64, Vec<usize>)>,
}

impl Iterator for Batches {
    type Item = Result<Inputs>;

    fn next(&mut self) -> Option<Result<Inputs>> {
        if self.next >= self.end {
            return None;
        }
        let (loader, each) = (&self.loader, self.loader.batches_per_epoch());
        if each == 0 {
            self.end = 0;
            return Some(Err(Error::Input(format!("{} examples give no batch of {}", loader.data.len(), loader.batch))));
        }
        let (epoch, at) = (self.next / each, (self.next % each) as usize * loader.batch);
        self.next += 1;
        if self.order.as_ref().is_none_or(|(of, _)| *of != epoch) {
            self.order = Some((epoch, loader.order(epoch)));
        }
        let order = self.order.as_ref().map_or(&[][..], |(_, order)| order);
        Some(loader.data.rows(&order[at..(at + loader.batch).min(order.len())]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::HostTensor;

    fn firsts(batches: impl Iterator<Item = Result<Inputs>>) -> Vec<Vec<i64>> {
        let ids = |inputs: Inputs| match inputs {
            Inputs::Named(named) => named[0].1.to_i64(),
            Inputs::Positional(_) => panic!("they have names"),
        };
        batches.map(|b| ids(b.unwrap())).collect()
    }

    fn data(n: usize) -> Dataset {
        let ids: Vec<i32> = (0..n as i32).collect();
        Dataset::new([("id", HostTensor::i32(&[n], &ids)), ("x", HostTensor::f32(&[n, 2], &vec![0.5; 2 * n]))]).unwrap()
    }

    #[test]
    fn epochs_hold_every_example_once_and_go_on_anywhere() {
        let loader = data(10).loader(3).shuffle(5).keep_last(true);
        let all = firsts(loader.from(0).take(8));
        for epoch in all.chunks(4) {
            let mut seen = epoch.concat();
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..10) && epoch[3].len() == 1);
        }
        assert_ne!(all[..4], all[4..]);
        assert_eq!(firsts(loader.from(3).take(5)), all[3..]);
        assert_eq!(firsts(loader.epoch(1)), all[4..]);
        assert_eq!(firsts(data(10).loader(3).from(0).take(4)), [[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 1, 2]]);
        assert!(data(2).loader(3).from(0).next().unwrap().is_err());
    }

    #[test]
    fn parts_share_nothing() {
        let (a, b) = data(10).shuffled(1).split(7).unwrap();
        let mut all = [firsts(a.loader(7).epoch(0)), firsts(b.loader(3).epoch(0))].concat().concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..10));
        let folds = data(10).folds(3).unwrap();
        assert_eq!(folds.iter().map(|(rest, own)| (rest.len(), own.len())).collect::<Vec<_>>(), [(6, 4), (7, 3), (7, 3)]);
        assert!(data(4).split(5).is_err() && data(4).folds(1).is_err());
        let uneven = [("x", HostTensor::f32(&[2], &[0.0; 2])), ("y", HostTensor::f32(&[3], &[0.0; 3]))];
        assert!(Dataset::new(uneven).unwrap_err().to_string().contains("lengths differ"));
    }
}
