//! Weights of others, parts that stay as they are, batches and data of several sizes, averages of weights.

use super::{STEPS, begin, classes, fit, floats, losses, weight};
use inductor::nn::{self, Embedding, Linear, Lora, RmsNorm};
use inductor::optim::{Adam, AdamW, Goal, Sgd};
use inductor::train::{EarlyStopping, Trainer, data::Dataset};
use inductor::{AttentionOptions, Config, DType, Device, Dim, HostTensor, Load, Result, Tensor, Trace, compile, compile_train, trace, trace_eval};

const HEADS: i64 = 4;
const WIDTH: usize = 16;

/// Llama as Hugging Face names it: rotary positions by halves, two heads of keys and values.
fn llama_layer(t: &Trace, x: &Tensor, (cos, sin): (&Tensor, &Tensor)) -> Tensor {
    let norm = |name: &str, x: &Tensor| nn::rms_norm_with(&t.path(name), x, RmsNorm { eps: 1e-6 });
    let (h, attn) = (norm("input_layernorm", x), t.path("self_attn"));
    let heads = |name: &str, n: i64| {
        let y = nn::linear(&attn.path(name), &h, Linear::new(n as usize * WIDTH / HEADS as usize).bias(false));
        y.unflatten(-1, [n, -1]).transpose(1, 2)
    };
    let (q, k) = (heads("q_proj", HEADS).rotary(cos, sin, false), heads("k_proj", 2).rotary(cos, sin, false));
    let y = q.attention(&k, &heads("v_proj", 2), &AttentionOptions { causal: true, ..Default::default() });
    let x = x + nn::linear(&attn.path("o_proj"), &y.transpose(1, 2).flatten(-2, -1), Linear::new(WIDTH).bias(false));
    &x + nn::swiglu(&t.path("mlp"), &norm("post_attention_layernorm", &x), 40)
}

/// Weights in Hugging Face's names are loaded and trained further.
pub fn llama(device: &Device) -> Result<Vec<f64>> {
    let traced = trace("llama", |t| {
        let (x, y) = (t.input("x", DType::I32, (2, 10)), t.input("y", DType::I32, (2, 10)));
        let mut h = nn::embedding(&t.path("embed_tokens"), &x, Embedding::new(23, WIDTH));
        let rates = t.constant(&HostTensor::f32(&[1, 2], &[1.0, 0.01]));
        let angles = t.iota(DType::F32, 10).unsqueeze(1) * rates;
        for i in 0..2 {
            h = llama_layer(&t.path("layers").path(i), &h, (&angles.cos(), &angles.sin()));
        }
        let h = nn::rms_norm_with(&t.path("norm"), &h, RmsNorm { eps: 1e-6 });
        Ok(nn::linear(&t.path("lm_head"), &h, Linear::new(23).bias(false)).cross_entropy(&y))
    })?;
    let step = compile_train(&traced, device, AdamW::new(1e-3).decay_vectors(true), &Config::default())?;
    let mut state = step.init(0)?;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    published(&state, &path)?;
    let report = state.load_with(&path, &Load::new().strip_prefix("model.").cast(true))?;
    assert!(report.missing.is_empty() && report.unexpected.is_empty(), "{report}");
    losses(&step, &mut state, |k| ["x", "y"].map(|name| classes(&format!("{name}{}", k % 4), 23, &[2, 10])))
}

/// Stands for who published the weights: half of the models there are have a prefix and are in half precision.
fn published(state: &inductor::State, path: &std::path::Path) -> Result<()> {
    let tensors = state.parameters().into_iter().map(|name| {
        let whole = weight(&name, state.get(&name)?.shape());
        let half = HostTensor::from_f64(DType::BF16, whole.shape(), &whole.to_f64());
        Ok((if name.starts_with("lm_head") { name } else { format!("model.{name}") }, half))
    });
    inductor::runtime::save_tensors(path, &tensors.collect::<Result<Vec<_>>>()?, None)
}

/// A frozen net that learns by narrow matrices beside its own.
pub fn lora(device: &Device) -> Result<Vec<f64>> {
    let traced = trace("lora", |t| {
        let (x, y) = (t.input("x", DType::F32, (8, 6)), t.input("y", DType::I32, 8));
        let adapted = |features: usize| Linear::new(features).lora(Lora { rank: 2, alpha: 4.0 });
        let h = nn::linear(&t.path("one"), &x, adapted(16)).gelu();
        Ok(nn::linear(&t.path("two"), &h, adapted(5)).cross_entropy(&y))
    })?;
    fit(device, &traced, AdamW::new(1e-2).decay_vectors(true), |k| [floats(&format!("x{k}"), &[8, 6]), classes(&format!("y{k}"), 5, &[8])])
}

/// One program for batches and sequences of any length.
pub fn sizes(device: &Device) -> Result<Vec<f64>> {
    let traced = trace("sizes", |t| {
        let (batch, time) = (Dim::symbol("batch", 1, 8), Dim::symbol("time", 1, 8));
        let x = t.input("x", DType::F32, (batch.clone(), time, 4));
        let y = t.input("y", DType::F32, (batch, 2));
        let h = nn::linear(&t.path("one"), &x, 12).tanh();
        let weights = nn::linear(&t.path("score"), &h, 1).softmax(1);
        Ok(nn::linear(&t.path("two"), &(h * weights).sum(1), 2).mse(&y))
    })?;
    fit(device, &traced, Sgd::new(0.1).momentum(0.9), |k| {
        let (batch, time) = (1 + k as usize % 5, 2 + k as usize % 3);
        [floats(&format!("x{k}"), &[batch, time, 4]), floats(&format!("y{k}"), &[batch, 2])]
    })
}

fn regression(t: &Trace, batch: usize) -> Tensor {
    let (x, y) = (t.input("x", DType::F32, (batch, 3)), t.input("y", DType::F32, (batch, 1)));
    nn::mlp(t, &x, &[16, 1]).mse(&y)
}

fn examples(name: &str, n: usize) -> Result<Dataset> {
    Dataset::new([("x", floats(&format!("{name}.x"), &[n, 3])), ("y", floats(&format!("{name}.y"), &[n, 1]))])
}

/// Five trainings, each tried on what it has not seen.
pub fn folds(device: &Device) -> Result<Vec<f64>> {
    let step = compile_train(&trace("folds", |t| Ok(regression(t, 4)))?, device, Adam::new(1e-2), &Config::default())?;
    let held_out = compile(&trace_eval("folds", |t| Ok(regression(t, 4)))?, device, &Config::default())?;
    let mut found = vec![];
    for (train, own) in examples("folds", 20)?.folds(5)? {
        let mut state = begin(&step)?;
        let run = Trainer::new(step.clone()).steps(STEPS / 5).run(&mut state, |done| train.loader(4).from(done))?;
        found.extend(run.history.losses().into_iter().map(|(_, loss)| loss));
        found.push(held_out.run(&mut state, own.rows(&[0, 1, 2, 3])?)?.loss()? as f64);
    }
    Ok(found)
}

/// Averages of the weights are evaluated, and decide when the run ends.
pub fn averages(device: &Device) -> Result<Vec<f64>> {
    let adam = Adam::new(3e-2).average(0.9);
    let step = compile_train(&trace("averages", |t| Ok(regression(t, 4)))?, device, adam, &Config::default())?;
    let held_out = compile(&trace_eval("averages", |t| Ok(regression(t, 8)))?, device, &Config::default())?;
    let (train, own) = (examples("train", 8)?, examples("own", 8)?.rows(&[0, 1, 2, 3, 4, 5, 6, 7])?);
    let mut state = begin(&step)?;
    let mut trainer = Trainer::new(step)
        .steps(STEPS)
        .evaluate(5, |state| Ok([("loss", held_out.run(state, own.clone())?.loss()? as f64)]))
        .evaluate_averages(true)
        .early_stopping(EarlyStopping::new("loss", Goal::Smaller).patience(2));
    let run = trainer.run(&mut state, |done| train.loader(4).from(done))?;
    Ok(run.history.metric("loss").into_iter().map(|(_, loss)| loss).collect())
}
