//! Programs over images.

use super::{STEPS, begin, classes, fit, floats};
use inductor::nn::{self, BatchNorm, Conv2d};
use inductor::optim::{AdamW, Schedule, Sgd};
use inductor::train::Trainer;
use inductor::{Config, DType, Device, HostTensor, Reduction, Result, Tensor, Trace, compile_train, trace};

/// Two convolutions beside a shortcut.
fn residual(t: &Trace, x: &Tensor, channels: usize, stride: i64) -> Tensor {
    let y = nn::conv_block(&t.path("a"), x, Conv2d::new(channels, 3).stride(stride).padding(1));
    let y = nn::conv2d(&t.path("b"), &y, Conv2d::new(channels, 3).padding(1).bias(false));
    let y = nn::batch_norm(&t.path("norm"), &y, BatchNorm::default());
    let shortcut = match stride {
        1 => x.clone(),
        _ => nn::conv2d(&t.path("shortcut"), x, Conv2d::new(channels, 1).stride(stride).bias(false)),
    };
    (y + shortcut).relu()
}

/// Batch norm, a schedule, clipping, accumulation, groups.
pub fn resnet(device: &Device) -> Result<Vec<f64>> {
    let traced = trace("resnet", |t| {
        let (x, y) = (t.input("x", DType::F32, (8, 3, 8, 8)), t.input("y", DType::I32, 8));
        let h = nn::conv_block(&t.path("stem"), &x, Conv2d::new(8, 3).padding(1));
        let h = residual(&t.path("one"), &h, 8, 1);
        let h = residual(&t.path("two"), &h, 16, 2);
        Ok(nn::linear(&t.path("fc"), &h.mean([2, 3]), 10).cross_entropy(&y))
    })?;
    let sgd = Sgd::new(0.05).momentum(0.9).nesterov(true).weight_decay(5e-4).clip_norm(0.5).accumulate(2);
    let step = compile_train(&traced, device, sgd.group("fc", Sgd::new(0.01).momentum(0.9)), &Config::default())?;
    let mut state = begin(&step)?;
    let batch = |k: u64| Ok([floats(&format!("x{k}"), &[8, 3, 8, 8]), classes(&format!("y{k}"), 10, &[8])]);
    let mut trainer = Trainer::new(step).steps(STEPS).schedule(Schedule::cosine_annealing(0.05, 0.0, STEPS / 2));
    let run = trainer.run(&mut state, |done| (done..).map(batch))?;
    Ok(run.history.losses().into_iter().map(|(_, loss)| loss).collect())
}

/// Down and up again, with what went down beside what comes up.
pub fn unet(device: &Device) -> Result<Vec<f64>> {
    let block = |t: &Trace, x: &Tensor, channels| {
        let y = nn::conv2d(&t.path("conv"), x, Conv2d::new(channels, 3).same());
        nn::group_norm(&t.path("norm"), &y, 4).silu()
    };
    let traced = trace("unet", |t| {
        let (x, mask) = (t.input("x", DType::F32, (2, 1, 8, 8)), t.input("mask", DType::F32, (2, 1, 8, 8)));
        let wide = block(&t.path("down"), &x, 8);
        let deep = block(&t.path("middle"), &wide.max_pool2d(2), 16);
        let up = nn::conv_transpose2d(&t.path("up"), &deep, Conv2d::new(8, 2).stride(2));
        let h = block(&t.path("merge"), &Tensor::cat(&[up, wide], 1), 8);
        let logits = nn::conv2d(&t.path("head"), &h, Conv2d::new(1, 1));
        Ok(logits.binary_cross_entropy_with_logits(&mask) + logits.sigmoid().dice_loss(&mask, 1.0))
    })?;
    let mask = classes("mask", 2, &[2, 1, 8, 8]).to_f64();
    let mask = HostTensor::from_f64(DType::F32, &[2, 1, 8, 8], &mask);
    fit(device, &traced, AdamW::new(1e-3).decay_vectors(true), |k| [floats(&format!("x{}", k % 5), &[2, 1, 8, 8]), mask.clone()])
}

/// One tower called on both sides.
pub fn siamese(device: &Device) -> Result<Vec<f64>> {
    let traced = trace("siamese", |t| {
        let side = |name: &str| {
            let x = t.input(name, DType::F32, (6, 1, 6, 6));
            let h = nn::conv2d(&t.path("conv"), &x, Conv2d::new(4, 3)).relu();
            nn::linear(&t.path("fc"), &h.avg_pool2d(2).flatten(1, -1), 8)
        };
        let (a, b) = (side("a"), side("b"));
        Ok(a.cosine_embedding_loss(&b, &t.input("same", DType::F32, 6), 0.2, Reduction::Mean))
    })?;
    let same = HostTensor::f32(&[6], &[1.0, -1.0, 1.0, 1.0, -1.0, -1.0]);
    fit(device, &traced, Sgd::new(0.05), |k| [floats(&format!("a{k}"), &[6, 1, 6, 6]), floats(&format!("b{k}"), &[6, 1, 6, 6]), same.clone()])
}
