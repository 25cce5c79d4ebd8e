//! Examples in memory.

use super::loader::Loader;
use super::permutation;
use crate::error::{Error, Result};
use crate::runtime::{Inputs, Shards};
use crate::types::HostTensor;
use std::path::Path;
use std::sync::Arc;

/// Examples: tensors whose first dimension counts them, under the names of a program's inputs. Cheap to clone.
///
/// ```
/// use inductor::{HostTensor, train::data::Dataset};
/// let (x, y) = (HostTensor::f32(&[4, 2], &[0.0; 8]), HostTensor::i32(&[4], &[0, 1, 1, 0]));
/// let data = Dataset::new([("x", x), ("y", y)])?;
/// let (train, held_out) = data.split(3)?;
/// assert_eq!((train.len(), held_out.len()), (3, 1));
/// # Ok::<(), inductor::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Dataset {
    source: Arc<Source>,
    /// Which rows, and in what order.
    rows: Arc<Vec<usize>>,
}

/// Where examples are.
#[derive(Debug)]
pub(super) enum Source {
    /// In memory, by the names of inputs.
    Memory(Vec<(String, HostTensor)>),
    /// In files, which are decoded when they are asked for.
    #[cfg(any(feature = "images", test))]
    Images(super::ImageFolder),
}

/// Rows of named tensors.
fn taken(columns: &[(String, HostTensor)], rows: &[usize]) -> Result<Inputs> {
    let take = |tensor: &HostTensor| {
        let width = tensor.bytes().len() / tensor.shape()[0].max(1);
        let mut bytes = Vec::with_capacity(rows.len() * width);
        rows.iter().for_each(|&row| bytes.extend_from_slice(&tensor.bytes()[row * width..][..width]));
        HostTensor::from_bytes(tensor.dtype(), [&[rows.len()], &tensor.shape()[1..]].concat(), bytes).map_err(Error::Input)
    };
    Ok(Inputs::Named(columns.iter().map(|(name, tensor)| Ok((name.clone(), take(tensor)?))).collect::<Result<_>>()?))
}

impl Dataset {
    /// Of named tensors of one length.
    pub fn new<S: Into<String>>(columns: impl IntoIterator<Item = (S, HostTensor)>) -> Result<Dataset> {
        let columns: Vec<(String, HostTensor)> = columns.into_iter().map(|(name, tensor)| (name.into(), tensor)).collect();
        let length = |t: &HostTensor| t.shape().first().copied();
        let Some(n) = columns.first().and_then(|(_, t)| length(t)) else {
            return Err(Error::Input("a data set has tensors whose first dimension counts examples".into()));
        };
        for (name, tensor) in &columns {
            if let Some(fault) = tensor.fault() {
                return Err(Error::Input(format!("{name}: {fault}")));
            }
            if length(tensor) != Some(n) {
                let (first, other) = (&columns[0], tensor.ty());
                return Err(Error::Input(format!("the data set's {} is {}, its {name} is {other}: lengths differ", first.0, first.1.ty())));
            }
        }
        Ok(Dataset::of_source(Source::Memory(columns), n))
    }

    /// Of `n` examples in order.
    pub(super) fn of_source(source: Source, n: usize) -> Dataset {
        Dataset { source: Arc::new(source), rows: Arc::new((0..n).collect()) }
    }

    /// Of all tensors of a safetensors file, or of several with an index.
    pub fn from_safetensors(path: impl AsRef<Path>) -> Result<Dataset> {
        let mut files = Shards::open(path.as_ref())?;
        let names: Vec<String> = files.tensors().map(|(name, ..)| name.to_string()).collect();
        Dataset::new(names.into_iter().map(|name| Ok((name.clone(), files.read(&name)?))).collect::<Result<Vec<_>>>()?)
    }

    /// How many examples.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The first `n` examples, and the rest.
    pub fn split(&self, n: usize) -> Result<(Dataset, Dataset)> {
        if n > self.len() {
            return Err(Error::Input(format!("{n} of {} examples are asked for", self.len())));
        }
        Ok((self.of(self.rows[..n].to_vec()), self.of(self.rows[n..].to_vec())))
    }

    /// The same examples in an order of the seed, once: before a split.
    pub fn shuffled(&self, seed: u64) -> Dataset {
        self.of(permutation(self.len(), seed).into_iter().map(|k| self.rows[k]).collect())
    }

    /// For each of `k` folds, the others' examples and its own, in order. Where `k` does not divide them, the first folds have one more.
    ///
    /// ```
    /// use inductor::{HostTensor, train::data::Dataset};
    /// let data = Dataset::new([("x", HostTensor::i32(&[4], &[10, 11, 12, 13]))])?;
    /// let sizes: Vec<(usize, usize)> = data.folds(2)?.iter().map(|(others, own)| (others.len(), own.len())).collect();
    /// assert_eq!(sizes, [(2, 2), (2, 2)]);
    /// # Ok::<(), inductor::Error>(())
    /// ```
    pub fn folds(&self, k: usize) -> Result<Vec<(Dataset, Dataset)>> {
        if k < 2 || k > self.len() {
            return Err(Error::Input(format!("{k} folds of {} examples", self.len())));
        }
        let n = self.len();
        let at = |i: usize| i * (n / k) + i.min(n % k);
        let fold = |i: usize| {
            let others = (0..at(i)).chain(at(i + 1)..n).map(|r| self.rows[r]).collect();
            (self.of(others), self.of(self.rows[at(i)..at(i + 1)].to_vec()))
        };
        Ok((0..k).map(fold).collect())
    }

    /// Those examples, as inputs of a step.
    pub fn rows(&self, rows: &[usize]) -> Result<Inputs> {
        if let Some(row) = rows.iter().find(|&&row| row >= self.len()) {
            return Err(Error::Input(format!("example {row} of {}", self.len())));
        }
        let rows: Vec<usize> = rows.iter().map(|&row| self.rows[row]).collect();
        match &*self.source {
            Source::Memory(columns) => taken(columns, &rows),
            #[cfg(any(feature = "images", test))]
            Source::Images(pictures) => pictures.rows(&rows),
        }
    }

    /// Batches of so many examples.
    ///
    /// ```
    /// use inductor::{HostTensor, Inputs, train::data::Dataset};
    /// let data = Dataset::new([("x", HostTensor::i32(&[4], &[10, 11, 12, 13]))])?;
    /// let loader = data.loader(3).keep_last(true).shuffle(7);
    /// assert_eq!(loader.batches_per_epoch(), 2);
    /// let Inputs::Named(batch) = loader.epoch(0).nth(1).unwrap()? else { panic!("inputs have names") };
    /// assert_eq!((batch[0].0.as_str(), batch[0].1.shape()), ("x", &[1][..]));
    /// # Ok::<(), inductor::Error>(())
    /// ```
    pub fn loader(&self, batch: usize) -> Loader {
        Loader::new(self.clone(), batch)
    }

    fn of(&self, rows: Vec<usize>) -> Dataset {
        Dataset { source: self.source.clone(), rows: Arc::new(rows) }
    }
}
