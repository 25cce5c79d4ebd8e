//! What nests in chunks compute is what whole nests compute, for every loss; what has no rows stays whole.

use super::*;
use crate::autograd::{Seed, Wrt, joint_graph, set_unit_cotangents};
use crate::config::Config;
use crate::frontend::{CrossEntropy, Initializer, Tensor, Trace, trace};
use crate::loop_ir::Phase;
use crate::loop_ir::naive::Memory;
use crate::lower::lower;
use crate::ops::Reduction;
use crate::passes::{post_grad_passes, recursive_joint_graph_passes, recursive_pre_grad_passes};
use crate::schedule::fixtures;

/// A sequence is enough for a chunk.
const TINY: Bounds = Bounds { bytes: 1, rows: 6, most: i64::MAX, count: 16 };
const WORDS: i64 = 40;

/// Forward and gradients of the loss of a head over four sequences of six tokens.
fn lowered(loss: impl FnOnce(&Trace, &Tensor, &Tensor) -> Tensor, half: bool) -> Lowered {
    let traced = trace("head", |t| {
        let weight = |name: &str, shape: &[usize]| t.parameter(name, DType::F32, shape, Initializer::Zeros);
        let (x, w) = (weight("x", &[4, 6, 5]), weight("w", &[WORDS as usize, 5]));
        let labels = t.input("labels", DType::I32, (4, 6));
        let logits = match half {
            true => x.cast(DType::F16).linear(&w.cast(DType::F16), None).cast(DType::F32),
            false => x.linear(&w, None),
        };
        Ok(loss(t, &logits, &labels))
    })
    .unwrap();
    let forward = recursive_pre_grad_passes(&traced.graph).unwrap();
    let joint = set_unit_cotangents(&joint_graph(&forward, Wrt::Parameters, Seed::Cotangents).unwrap()).unwrap();
    let graph = post_grad_passes(recursive_joint_graph_passes(joint).unwrap()).unwrap();
    lower(&[(Phase::Forward, &graph)], &Config::default()).unwrap()
}

/// What outputs hold after all nests.
fn run(lowered: &Lowered) -> Vec<Vec<f64>> {
    let mut memory: Vec<Memory> = lowered.buffers.iter().map(|b| Memory::zeros(b.ty.dtype, b.ty.numel().as_int().unwrap() as usize)).collect();
    for (k, input) in lowered.inputs.iter().enumerate() {
        let Memory { dtype, elements } = memory[input.buffer.0 as usize].clone();
        let number = |i: usize| if dtype.is_float() { ((i * 7 + k * 3) % 11) as f64 / 8.0 - 0.6 } else { ((i * 5) % 9) as f64 };
        memory[input.buffer.0 as usize] = Memory::from_f64(dtype, &(0..elements.len()).map(number).collect::<Vec<_>>());
    }
    for (buffer, tensor) in &lowered.constants {
        memory[buffer.0 as usize] = Memory::from_f64(tensor.dtype(), &tensor.to_f64());
    }
    fixtures::run(&lowered.nests, &mut memory);
    lowered.outputs.iter().map(|o| memory[o.buffer.0 as usize].to_f64()).collect()
}

/// Elements of the largest value that is no output, among those written.
fn largest(lowered: &Lowered) -> i64 {
    let stays = stays(lowered);
    let written = lowered.nests.iter().flat_map(|n| &n.writes).map(|w| w.buffer).filter(|b| !stays.contains(b));
    written.filter_map(|b| elements(lowered, b)).max().unwrap()
}

#[test]
fn chunks_compute_what_the_whole_does() {
    let settings = |t: CrossEntropy| move |_: &Trace, x: &Tensor, y: &Tensor| x.cross_entropy_with(y, t);
    let mean = || CrossEntropy::new();
    type Loss = Box<dyn FnOnce(&Trace, &Tensor, &Tensor) -> Tensor>;
    let losses: Vec<(&str, Loss)> = vec![
        ("mean", Box::new(settings(mean()))),
        ("labels left out", Box::new(settings(mean().ignore_index(3)))),
        ("smooth labels left out", Box::new(settings(mean().smoothing(0.1).ignore_index(3)))),
        ("sum", Box::new(settings(mean().reduction(Reduction::Sum)))),
        ("each", Box::new(settings(mean().reduction(Reduction::None)))),
        (
            "weights of classes",
            Box::new(|t, x, y| {
                let weight = t.input("weight", DType::F32, WORDS as usize).square();
                x.cross_entropy_with(y, CrossEntropy::new().weight(&weight))
            }),
        ),
        (
            "a bias and a scale",
            Box::new(|t, x, y| {
                let bias = t.parameter("bias", DType::F32, WORDS as usize, Initializer::Zeros);
                (x + &bias).cross_entropy(y) * &t.input("scale", DType::F32, ())
            }),
        ),
        ("the next token", Box::new(|_, x, y| x.slice(1, 0, 5).cross_entropy(&y.slice(1, 1, 6)))),
        ("large logits", Box::new(|_, x, y| x.cross_entropy(y) + x.square().mean_all() * 0.1 + x.logsumexp(-1).square().mean_all())),
    ];
    for (name, loss) in losses {
        check(name, &lowered(loss, false), HALF / 2, 1e-5);
    }
    check("halves", &lowered(settings(mean()), true), HALF / 4, 2e-3);
}

fn check(name: &str, whole: &Lowered, most: i64, tolerance: f64) {
    let (subject, chunked) = in_chunks(whole, Bounds { most, ..TINY }).unwrap();
    assert_eq!(elements(whole, subject), Some(24 * WORDS), "{name}");
    let Chunked { lowered, turns, count } = chunked.unwrap_or_else(|why| panic!("{name}: {why}"));
    assert_eq!((count, turns.len()), (4, lowered.nests.len()), "{name}");
    assert_eq!((lowered.phases.len(), lowered.commits.len()), (turns.len(), turns.len()), "{name}");
    // The gradient of the table is as large as a chunk of the logits.
    assert!(largest(&lowered) <= 6 * WORDS, "{name}: {} elements", largest(&lowered));
    let (expected, found) = (run(whole), run(&lowered));
    for (a, b) in expected.iter().flatten().zip(found.iter().flatten()) {
        assert!((a - b).abs() <= tolerance * a.abs().max(1.0), "{name}: {a} and {b}");
    }
    assert!(expected.iter().flatten().any(|x| *x != 0.0), "{name}");
}

const HALF: i64 = 4 * 24 * WORDS / 2;

#[test]
fn what_needs_all_rows_stays_whole() {
    let refused = |loss: fn(&Trace, &Tensor, &Tensor) -> Tensor| {
        let (_, chunked) = in_chunks(&lowered(loss, false), Bounds { bytes: HALF, ..TINY }).unwrap();
        chunked.map(|c| c.count).unwrap_err()
    };
    assert!(refused(|_, x, _| x.softmax(0).square().mean_all()).contains("does not go through its rows one by one"));
    assert!(refused(|_, x, y| (x - x.mean_keepdim([0, 1])).cross_entropy(y)).contains("does not go through its rows one by one"));
}

#[test]
fn the_largest_that_has_chunks_is_taken() {
    let beside = |t: &Trace, x: &Tensor, y: &Tensor| {
        let weight = |name: &str, shape: &[usize]| t.parameter(name, DType::F32, shape, Initializer::Zeros);
        let larger = weight("v", &[4, 6, 5]).linear(&weight("u", &[2 * WORDS as usize, 5]), None);
        x.cross_entropy(y) + larger.softmax(0).square().mean_all()
    };
    let whole = lowered(beside, false);
    let (subject, chunked) = in_chunks(&whole, TINY).unwrap();
    assert_eq!((elements(&whole, subject), chunked.map(|c| c.count)), (Some(24 * WORDS), Ok(2)));
}

#[test]
fn chunks_have_rows_and_bytes_enough() {
    let whole = lowered(|_, x, y| x.cross_entropy(y), false);
    let chunks = |bytes, rows, most, count| in_chunks(&whole, Bounds { bytes, rows, most, count }).map(|(_, chunked)| chunked.map(|c| c.count));
    let count = |bytes, rows, count| chunks(bytes, rows, i64::MAX, count);
    assert_eq!(count(HALF + 1, 1, 16), None);
    assert_eq!(count(HALF, 1, 16), Some(Ok(2)));
    assert_eq!(count(HALF / 2, 12, 16), Some(Ok(2)));
    assert_eq!(count(HALF / 2, 6, 16), Some(Ok(2)));
    assert!(count(HALF / 2, 13, 16).unwrap().unwrap_err().contains("no number of chunks"));
    // As few as a binding holds.
    assert_eq!(chunks(HALF / 2, 6, HALF, 16), Some(Ok(2)));
    assert_eq!(chunks(HALF / 2, 6, HALF - 1, 16), Some(Ok(4)));
    assert!(chunks(HALF / 2, 6, HALF - 1, 3).unwrap().unwrap_err().contains("no number of chunks"));
}
