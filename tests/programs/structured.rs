//! Programs whose loops, lengths and fixed points are part of the loss.

use super::{classes, fit, floats};
use inductor::nn::{self, Conv1d, Linear, Recurrent};
use inductor::optim::{Adam, Sgd};
use inductor::{DType, Device, HostTensor, Initializer, Reduction, Result, Tensor, trace};

/// Labels for sequences of their own lengths, without knowing where they are: a packed GRU both ways under CTC.
pub fn speech(device: &Device) -> Result<Vec<f64>> {
    let traced = trace("speech", |t| {
        let (x, y) = (t.input("x", DType::F32, (3, 12, 4)), t.input("y", DType::I32, (3, 3)));
        let (heard, said) = (t.input("heard", DType::I32, 3), t.input("said", DType::I32, 3));
        let h = nn::conv1d(&t.path("conv"), &x.mt(), Conv1d::new(5, 3).padding(1)).gelu().mt();
        let (h, _) = nn::gru(&t.path("rnn"), &h, None, Recurrent::new(4).bidirectional().batch_first().lengths(&heard));
        let scores = nn::linear(&t.path("out"), &h, 6).log_softmax(-1).transpose(0, 1);
        Ok(scores.ctc_loss(&y, [&heard, &said], 0, Reduction::Mean, true))
    })?;
    fit(device, &traced, Adam::new(1e-2).clip_norm(1.0), |k| {
        let y: Vec<i32> = classes(&format!("y{k}"), 5, &[3, 3]).to_i64().iter().map(|&class| class as i32 + 1).collect();
        let lengths = [[12, 9, 7 + (k % 3) as i32], [3, 1 + (k % 3) as i32, 2]].map(|lengths| HostTensor::i32(&[3], &lengths));
        let [heard, said] = lengths;
        [floats(&format!("x{k}"), &[3, 12, 4]), HostTensor::i32(&[3, 3], &y), heard, said]
    })
}

/// A conditional random field over tags: its normalizer is a scan, which a mask ends early.
pub fn tags(device: &Device) -> Result<Vec<f64>> {
    let traced = trace("tags", |t| {
        let (x, tags, mask) = (t.input("x", DType::F32, (3, 6, 4)), t.input("tags", DType::I32, (3, 6)), t.input("mask", DType::Bool, (3, 6)));
        let scores = nn::linear(&t.path("emit"), &x, 5);
        let moves = t.parameter("moves", DType::F32, (5, 5), Initializer::Normal { std: 0.1 });
        let (rows, inside) = (scores.transpose(0, 1), mask.t().slice(0, 1, 6));
        let trip = |before: Tensor, (score, inside): (Tensor, Tensor)| {
            let after = (before.unsqueeze(-1) + &moves).logsumexp(1) + score;
            (inside.unsqueeze(-1).where_(after, &before), ())
        };
        let (all, ()) = t.scan(trip, rows.select(0, 0), (rows.slice(0, 1, 6), inside));
        let pairs = (tags.slice(1, 0, -1) * 5 + tags.slice(1, 1, 6)).flatten(0, -1);
        let moved = moves.flatten(0, -1).index_select(0, &pairs).reshape((3, 5));
        let counts = mask.to_dtype(DType::F32);
        let own = (scores.gather(-1, &tags.unsqueeze(-1)).squeeze(-1) * &counts).sum(1) + (moved * counts.slice(1, 1, 6)).sum(1);
        Ok((all.logsumexp(-1) - own).mean(()))
    })?;
    fit(device, &traced, Adam::new(1e-2), |k| {
        let mask: Vec<i64> = (0..18).map(|i| (i % 6 < 2 + (i / 6 + k) % 5) as i64).collect();
        let mask = HostTensor::from_i64(DType::Bool, &[3, 6], &mask);
        [floats(&format!("x{k}"), &[3, 6, 4]), classes(&format!("t{k}"), 5, &[3, 6]), mask]
    })
}

/// A net that is its own fixed point: found by a loop without gradients, of which one more step has them.
pub fn equilibrium(device: &Device) -> Result<Vec<f64>> {
    let traced = trace("equilibrium", |t| {
        let (x, y) = (t.input("x", DType::F32, (4, 3)), t.input("y", DType::F32, (4, 2)));
        let driven = nn::linear(&t.path("drive"), &x, 5);
        let step = |z: &Tensor| (nn::linear(&t.path("step"), z, Linear::new(5).bias(false)) * 0.5 + &driven).tanh();
        let moves = |(z, trips): (Tensor, Tensor)| (step(&z) - z).abs().amax(()).gt(1e-6).logical_and(trips.lt(100));
        let start = (t.zeros(DType::F32, (4, 5)), t.zeros(DType::I32, ()));
        let (z, _) = t.while_loop(moves, |(z, trips): (Tensor, Tensor)| (step(&z), trips + 1), start);
        Ok(nn::linear(&t.path("out"), &step(&z.detach()), 2).mse(&y))
    })?;
    fit(device, &traced, Sgd::new(0.1), |k| [floats(&format!("x{k}"), &[4, 3]), floats(&format!("y{k}"), &[4, 2])])
}
