//! Tokens of a file that is larger than memory. It is read in pieces rather than mapped: a file that another process cuts short
//! while it is mapped would end this one, and the system keeps pieces that are read again all the same.

use super::below;
use crate::error::{Error, Result};
use crate::runtime::Inputs;
use crate::types::HostTensor;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// How a token is written, little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenWidth {
    /// `u16`.
    Two,
    /// `u32`.
    Four,
}

/// A file of tokens without a header, as nanoGPT's `train.bin`.
#[derive(Debug)]
pub struct Tokens {
    path: PathBuf,
    file: File,
    width: usize,
    len: u64,
}

impl Tokens {
    /// Opens a file.
    pub fn open(path: impl AsRef<Path>, width: TokenWidth) -> Result<Tokens> {
        let path = path.as_ref();
        let fail = |e: std::io::Error| Error::file(path, e);
        let file = File::open(path).map_err(fail)?;
        let (bytes, width) = (file.metadata().map_err(fail)?.len(), if width == TokenWidth::Two { 2 } else { 4 });
        if bytes % width as u64 != 0 {
            return Err(Error::file(path, format!("{bytes} bytes are no tokens of {width} bytes each")));
        }
        Ok(Tokens { path: path.into(), file, width, len: bytes / width as u64 })
    }

    /// How many tokens.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// So many tokens from a place on.
    pub fn read(&mut self, start: u64, count: usize) -> Result<Vec<i32>> {
        if start.checked_add(count as u64).is_none_or(|end| end > self.len) {
            return Err(Error::file(&self.path, format!("{count} tokens from {start} on, of {}", self.len)));
        }
        let mut bytes = vec![0; count * self.width];
        let read = self.file.seek(SeekFrom::Start(start * self.width as u64)).and_then(|_| self.file.read_exact(&mut bytes));
        read.map_err(|e| Error::file(&self.path, e))?;
        let token = |c: &[u8]| c.iter().rev().fold(0u32, |x, &byte| x << 8 | byte as u32);
        let all = bytes.chunks(self.width).map(|c| i32::try_from(token(c)));
        all.collect::<Result<_, _>>().map_err(|_| Error::file(&self.path, "a token does not fit i32"))
    }

    /// Batches for a language model, without end: `[batch, context]` tokens from places of the seed and the step, and the tokens that
    /// follow each of them. The first `done` are left out.
    pub fn batches(mut self, batch: usize, context: usize, seed: u64, done: u64) -> impl Iterator<Item = Result<Inputs>> + Send {
        (done..).map(move |step| self.batch(batch, context, seed, step))
    }

    fn batch(&mut self, batch: usize, context: usize, seed: u64, step: u64) -> Result<Inputs> {
        let starts = self.len.checked_sub(context as u64).filter(|&n| n > 0);
        let starts = starts.ok_or_else(|| Error::file(&self.path, format!("{} tokens are too few for a context of {context}", self.len)))?;
        let (mut tokens, mut targets) = (vec![], vec![]);
        for row in 0..batch as u64 {
            let start = below(starts as usize, seed, step.wrapping_mul(batch as u64).wrapping_add(row)) as u64;
            let window = self.read(start, context + 1)?;
            tokens.extend_from_slice(&window[..context]);
            targets.extend_from_slice(&window[1..]);
        }
        let shape = [batch, context];
        Ok(vec![HostTensor::i32(&shape, &tokens), HostTensor::i32(&shape, &targets)].into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_and_what_follows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.bin");
        let bytes: Vec<u8> = (0..1000u16).flat_map(u16::to_le_bytes).collect();
        std::fs::write(&path, &bytes).unwrap();
        let open = || Tokens::open(&path, TokenWidth::Two).unwrap();
        assert_eq!((open().len(), open().read(997, 3).unwrap()), (1000, vec![997, 998, 999]));
        assert!(open().read(998, 3).is_err());
        let take = |done: u64| -> Vec<(Vec<i64>, Vec<i64>)> {
            let both = |b: Inputs| match b {
                Inputs::Positional(t) => (t[0].to_i64(), t[1].to_i64()),
                Inputs::Named(_) => panic!("they are in order"),
            };
            open().batches(4, 8, 7, done).take(3).map(|b| both(b.unwrap())).collect()
        };
        let first = take(0);
        assert!(first.iter().all(|(x, y)| x.iter().zip(y).all(|(a, b)| a + 1 == *b) && x.len() == 32));
        assert_eq!(take(1)[..2], first[1..]);
        assert!(Tokens::open(&path, TokenWidth::Four).unwrap().read(0, 2).is_ok());
        std::fs::write(&path, &bytes[..3]).unwrap();
        assert!(Tokens::open(&path, TokenWidth::Two).is_err());
    }
}
