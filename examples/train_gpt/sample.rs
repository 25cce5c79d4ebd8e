//! Text from a trained model.

use crate::common::uniform;
use crate::data::Corpus;
use anyhow::Result;
use inductor::{HostTensor, State, Step};

/// Sharpens the distribution: below 1, likely characters become likelier.
const TEMPERATURE: f64 = 0.8;
/// Separates the sample's random numbers from those of the batches.
const STREAM: u64 = 0x5a3b;

/// `length` characters after a line break, one run of the inference program each. The window is filled up on the right, which a
/// causal model does not see.
pub fn generate(step: &Step, state: &mut State, corpus: &Corpus, context: usize, length: usize, seed: u64) -> Result<String> {
    let mut tokens = corpus.encode(b"\n");
    if tokens.is_empty() {
        tokens.push(0);
    }
    let start = tokens.len();
    for drawn in 0..length {
        let recent = &tokens[tokens.len().saturating_sub(context)..];
        let mut window = recent.to_vec();
        window.resize(context, 0);
        let logits = step.run(state, [&HostTensor::i32(&[1, context], &window)])?.output("logits")?.to_f32();
        let classes = logits.len() / context;
        let row = &logits[(recent.len() - 1) * classes..recent.len() * classes];
        tokens.push(draw(row, uniform(seed ^ STREAM, drawn as u64)));
    }
    Ok(corpus.decode(&tokens[start..]))
}

/// The class where the cumulative softmax passes `at`.
fn draw(logits: &[f32], at: f64) -> i32 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    let weights: Vec<f64> = logits.iter().map(|&x| ((x as f64 - highest) / TEMPERATURE).exp()).collect();
    let mut left = at * weights.iter().sum::<f64>();
    for (class, weight) in weights.iter().enumerate() {
        left -= weight;
        if left <= 0.0 {
            return class as i32;
        }
    }
    weights.len() as i32 - 1
}
