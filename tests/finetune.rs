//! A program of `torch.export` is trained as PyTorch trains it: the same losses, the same weights and buffers at the end, under the
//! names that `load_state_dict` expects.
//!
//! The vendored model has a symbolic batch, a batch norm, tied weights, a parameter that nothing reads and a buffer that is not
//! saved. `expected.safetensors` holds 24 losses of `torch.optim.AdamW(lr=1e-2)` on batches of eight, taken in order, and the
//! state dict afterwards, under `state.`.
#![cfg(feature = "torch")]

use inductor::optim::AdamW;
use inductor::runtime::load_tensors;
use inductor::torch_export::load;
use inductor::{Config, Device, HostTensor, Inputs, compile_train};
use std::path::{Path, PathBuf};

const BATCH: usize = 8;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/finetune").join(name)
}

fn rows(tensor: &HostTensor, first: usize) -> HostTensor {
    let width = tensor.bytes().len() / tensor.shape()[0];
    let shape = [&[BATCH], &tensor.shape()[1..]].concat();
    HostTensor::from_bytes(tensor.dtype(), shape, tensor.bytes()[first * width..(first + BATCH) * width].to_vec()).expect("rows")
}

/// The largest difference, in parts of the largest number.
fn distance(a: &HostTensor, b: &HostTensor) -> f64 {
    assert_eq!((a.dtype(), a.shape()), (b.dtype(), b.shape()));
    let largest = b.to_f64().iter().fold(1e-12f64, |m, x| m.max(x.abs()));
    a.to_f64().iter().zip(b.to_f64()).fold(0.0f64, |m, (x, y)| m.max((x - y).abs())) / largest
}

fn check(device: &Device) {
    let imported = load(file("model.pt2")).expect("a program");
    let data = load_tensors(&file("data.safetensors")).expect("data").0;
    let expected = load_tensors(&file("expected.safetensors")).expect("results").0;
    let expected = |name: &str| &expected.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{name} is expected")).1;

    let step = compile_train(&imported.traced, device, AdamW::new(1e-2).decay_vectors(true), &Config::default()).expect("it compiles");
    let mut state = step.init(0).expect("a state");
    let examples = data[0].1.shape()[0];
    for (k, loss) in expected("losses").to_f64().into_iter().enumerate() {
        let batch = data.iter().map(|(name, tensor)| (name.clone(), rows(tensor, k * BATCH % examples))).collect();
        let found = step.run(&mut state, Inputs::Named(batch)).and_then(|r| r.loss()).expect("a loss") as f64;
        assert!((found - loss).abs() <= 1e-4 * loss, "step {k}: {found}, PyTorch has {loss}");
    }
    let mut saved = imported.state_dict(&|name| state.get(name)).expect("weights");
    saved.sort_by(|a, b| a.0.cmp(&b.0));
    let names: Vec<&str> = saved.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(
        names,
        [
            "embed.weight",
            "head.weight",
            "mix.bias",
            "mix.weight",
            "norm.bias",
            "norm.num_batches_tracked",
            "norm.running_mean",
            "norm.running_var",
            "norm.weight",
            "unused.bias",
            "unused.weight"
        ]
    );
    for (name, tensor) in &saved {
        let far = distance(tensor, expected(&format!("state.{name}")));
        assert!(far < 1e-3, "{name} is {far:e} from PyTorch's");
    }
}

#[test]
fn losses_and_weights_are_those_of_pytorch() {
    check(&Device::cpu());
}

#[test]
fn losses_and_weights_are_those_of_pytorch_on_the_software_adapter() {
    match Device::software() {
        Ok(device) => check(&device),
        Err(error) => eprintln!("skipped: {error}"),
    }
}
