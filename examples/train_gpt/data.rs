//! The texts, as characters: vocabulary, held-out parts, batches, and the bigram model to beat.
// Each example uses a part.
#![allow(dead_code)]

use anyhow::{Context, Result, ensure};
use inductor::HostTensor;
use inductor::train::data::random;

const TEXTS: [&[u8]; 3] = [include_bytes!("../data/alice29.txt"), include_bytes!("../data/asyoulik.txt"), include_bytes!("../data/plrabn12.txt")];

/// Tokens of several texts; the last tenth of each is held out.
pub struct Corpus {
    /// Every character that occurs, in order; a token is a place in here.
    pub vocabulary: Vec<u8>,
    train: Vec<Vec<i32>>,
    held_out: Vec<Vec<i32>>,
}

impl Corpus {
    /// The shipped texts.
    pub fn shipped() -> Corpus {
        Corpus::new(&TEXTS.map(<[u8]>::to_vec))
    }

    /// Texts of files.
    pub fn read(paths: &[std::path::PathBuf]) -> Result<Corpus> {
        let read = |p: &std::path::PathBuf| std::fs::read(p).with_context(|| format!("cannot read {}", p.display()));
        let texts = paths.iter().map(read).collect::<Result<Vec<_>>>()?;
        ensure!(texts.iter().any(|t| !t.is_empty()), "there is no text in {paths:?}");
        Ok(Corpus::new(&texts))
    }

    fn new(texts: &[Vec<u8>]) -> Corpus {
        let mut seen = [false; 256];
        texts.iter().flatten().for_each(|&c| seen[c as usize] = true);
        let vocabulary: Vec<u8> = (0..=255u8).filter(|&c| seen[c as usize]).collect();
        let mut corpus = Corpus { vocabulary, train: vec![], held_out: vec![] };
        for text in texts {
            let tokens = corpus.encode(text);
            let (train, held_out) = tokens.split_at(tokens.len() * 9 / 10);
            corpus.train.push(train.to_vec());
            corpus.held_out.push(held_out.to_vec());
        }
        corpus
    }

    /// Tells texts apart.
    pub fn digest(&self) -> String {
        let mut hash = blake3::Hasher::new();
        hash.update(&self.vocabulary);
        for text in self.train.iter().chain(&self.held_out) {
            for token in text {
                hash.update(&token.to_le_bytes());
            }
        }
        hash.finalize().to_hex()[..16].to_string()
    }

    /// Tokens of a text; characters that never occur are left out.
    pub fn encode(&self, text: &[u8]) -> Vec<i32> {
        text.iter().filter_map(|c| self.vocabulary.binary_search(c).ok()).map(|k| k as i32).collect()
    }

    /// The text of tokens.
    pub fn decode(&self, tokens: &[i32]) -> String {
        let bytes: Vec<u8> = tokens.iter().map(|&k| self.vocabulary[k as usize]).filter(|&c| c != b'\r').collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The batch of one step, tokens and targets: a pure function of (seed, step).
    pub fn batch(&self, seed: u64, step: u64, batch: usize, context: usize) -> Result<[HostTensor; 2]> {
        let places: Vec<usize> = self.train.iter().map(|t| t.len().saturating_sub(context)).collect();
        let total: usize = places.iter().sum();
        ensure!(total > 0, "the texts are shorter than {context} characters");
        let window = |row: usize| {
            let mut at = (random(seed, step.wrapping_mul(batch as u64).wrapping_add(row as u64)) % total as u64) as usize;
            let mut text = 0;
            while at >= places[text] {
                at -= places[text];
                text += 1;
            }
            &self.train[text][at..at + context + 1]
        };
        Ok(tensors(&(0..batch).map(window).collect::<Vec<_>>(), context))
    }

    /// Batches that together cover the held-out parts without overlap, but for a remainder; at most `limit`, spread evenly.
    pub fn held_out(&self, batch: usize, context: usize, limit: usize) -> Vec<[HostTensor; 2]> {
        let windows: Vec<&[i32]> = self
            .held_out
            .iter()
            .flat_map(|t| (0..t.len().saturating_sub(1) / context).map(move |k| &t[k * context..k * context + context + 1]))
            .collect();
        let batches = windows.len() / batch;
        let taken = batches.min(limit);
        (0..taken).map(|k| k * batches / taken).map(|k| tensors(&windows[k * batch..(k + 1) * batch], context)).collect()
    }

    /// Nats per character of a bigram model with add-one smoothing on the held-out parts.
    pub fn bigram_loss(&self) -> f64 {
        let n = self.vocabulary.len();
        let mut counts = vec![1.0f64; n * n];
        for pair in self.train.iter().flat_map(|t| t.windows(2)) {
            counts[pair[0] as usize * n + pair[1] as usize] += 1.0;
        }
        let totals: Vec<f64> = counts.chunks(n).map(|row| row.iter().sum()).collect();
        let mut loss = (0.0, 0usize);
        for pair in self.held_out.iter().flat_map(|t| t.windows(2)) {
            loss.0 -= (counts[pair[0] as usize * n + pair[1] as usize] / totals[pair[0] as usize]).ln();
            loss.1 += 1;
        }
        loss.0 / loss.1.max(1) as f64
    }
}

/// Windows of `context + 1` tokens as inputs and the same moved by one as targets.
fn tensors(windows: &[&[i32]], context: usize) -> [HostTensor; 2] {
    let of = |from: usize| {
        let tokens: Vec<i32> = windows.iter().flat_map(|w| w[from..from + context].iter().copied()).collect();
        HostTensor::i32(&[windows.len(), context], &tokens)
    };
    [of(0), of(1)]
}
