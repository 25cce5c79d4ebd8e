//! Weights under the names of others: mappings, prefixes, reports, several files, other precision, GGUF.

use inductor::runtime::{Shards, save_tensors};
use inductor::{Config, DType, Device, HostTensor, Initializer, Load, State, compile, trace_eval};
use std::path::{Path, PathBuf};

/// A state of three tensors, all zero.
fn state() -> State {
    let traced = trace_eval("model", |t| {
        let w = t.path("fc").parameter("weight", DType::F32, (2, 3), Initializer::Zeros);
        let b = t.path("fc").parameter("bias", DType::F32, 2, Initializer::Zeros);
        let mean = t.path("norm").buffer("mean", DType::F32, 3, Initializer::Zeros);
        Ok(vec![("y", w.matmul(&mean.reshape([3, 1])).reshape([2]) + b)])
    });
    compile(&traced.unwrap(), &Device::cpu(), &Config::default()).unwrap().init(1).unwrap()
}

fn numbers(shape: &[usize], first: f32) -> HostTensor {
    HostTensor::f32(shape, &(0..shape.iter().product::<usize>()).map(|i| first + i as f32).collect::<Vec<_>>())
}

fn write(path: PathBuf, tensors: &[(&str, HostTensor)]) -> PathBuf {
    let named: Vec<(String, HostTensor)> = tensors.iter().map(|(name, t)| (name.to_string(), t.clone())).collect();
    save_tensors(&path, &named, None).unwrap();
    path
}

fn said<T>(result: inductor::Result<T>) -> String {
    result.err().expect("refused").to_string()
}

#[test]
fn names_are_mapped_and_the_rest_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let theirs = [("model.fc.gamma", numbers(&[2, 3], 1.0)), ("model.head", numbers(&[1], 0.0)), ("fc.bias", numbers(&[2], 7.0))];
    let path = write(folder.path().join("theirs.safetensors"), &theirs);
    let mapped = || Load::new().strip_prefix("model.").rename(|name| Some(name.replace("gamma", "weight")));
    let mut own = state();
    let error = said(own.load_with(&path, &mapped()));
    assert!(error.ends_with("unknown tensor model.head; norm.mean is missing"), "{error}");
    assert_eq!(own.get("fc.bias").unwrap().to_f32(), [0.0; 2], "nothing changes");
    let report = own.load_with(&path, &mapped().strict(false)).unwrap();
    assert_eq!(report.to_string(), "2 tensors loaded; missing: norm.mean; unexpected: model.head");
    assert_eq!(report.loaded, ["fc.bias", "fc.weight"]);
    assert_eq!(own.get("fc.weight").unwrap(), numbers(&[2, 3], 1.0));

    let without = mapped().rename(|name| (name != "head").then(|| name.replace("gamma", "weight"))).strict(false);
    assert!(own.load_with(&path, &without).unwrap().unexpected.is_empty());
    let twice = Load::new().strict(false).rename(|_| Some("fc.bias".into()));
    let error = said(own.load_with(&path, &twice));
    assert!(error.contains("fc.bias is given twice, as fc.bias and model.fc.gamma"), "{error}");
}

#[test]
fn types_are_converted_only_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let half = |t: HostTensor| HostTensor::from_f64(DType::BF16, t.shape(), &t.to_f64());
    let all = [("fc.weight", half(numbers(&[2, 3], 1.0))), ("fc.bias", numbers(&[2], 0.5)), ("norm.mean", numbers(&[3], 0.0))];
    let path = write(folder.path().join("half.safetensors"), &all);
    let mut own = state();
    assert!(said(own.load_with(&path, &Load::new().strict(false))).contains("fc.weight: expected f32[2, 3], got bf16[2, 3]"));
    own.load_with(&path, &Load::new().cast(true)).unwrap();
    assert_eq!(own.get("fc.weight").unwrap(), numbers(&[2, 3], 1.0));
    let path = write(folder.path().join("int.safetensors"), &[("fc.bias", HostTensor::i32(&[2], &[1, 2]))]);
    assert!(said(own.load_with(&path, &Load::new().strict(false).cast(true))).contains("got i32[2]"));
    let path = write(folder.path().join("long.safetensors"), &[("fc.bias", numbers(&[3], 0.0))]);
    assert!(said(own.load_with(&path, &Load::new().strict(false).cast(true))).contains("got f32[3]"));
}

#[test]
fn models_in_several_files() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write(at("model-00001-of-00002.safetensors"), &[("fc.weight", numbers(&[2, 3], 1.0)), ("fc.bias", numbers(&[2], 7.0))]);
    write(at("model-00002-of-00002.safetensors"), &[("norm.mean", numbers(&[3], 9.0))]);
    let index = |weight: &str, mean: &str| {
        let map = serde_json::json!({"fc.weight": weight, "fc.bias": "model-00001-of-00002.safetensors", "norm.mean": mean});
        let text = serde_json::json!({"metadata": {"total_size": 44}, "weight_map": map}).to_string();
        std::fs::write(at("model.safetensors.index.json"), text).unwrap();
    };
    let [first, second] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    index(first, second);
    for path in [folder.path().to_path_buf(), at("model.safetensors.index.json")] {
        let mut own = state();
        own.load(path).unwrap();
        assert_eq!((own.get("fc.weight").unwrap(), own.get("norm.mean").unwrap()), (numbers(&[2, 3], 1.0), numbers(&[3], 9.0)));
    }
    index(second, second);
    assert!(said(state().load(folder.path())).contains("fc.weight is not in its file"));
    for wrong in ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", ".."] {
        index(wrong, second);
        assert!(said(state().load(folder.path())).contains("is no name of a file beside it"));
    }
    std::fs::write(at("model.safetensors.index.json"), "{}").unwrap();
    assert!(said(state().load(folder.path())).contains("not a sound index"));
    let empty = tempfile::tempdir().unwrap();
    assert!(said(state().load(empty.path())).contains("neither model.safetensors nor"));
}

#[test]
fn a_file_of_llama_cpp() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/weights/tiny.gguf");
    let mut file = Shards::open(&path).unwrap();
    let held: Vec<_> = file.tensors().map(|(name, dtype, shape)| (name.to_string(), dtype, shape.to_vec())).collect();
    let shape = vec![2, 32];
    assert_eq!(
        held,
        [("half".into(), DType::F16, shape.clone()), ("quantized".into(), DType::F32, shape.clone()), ("single".into(), DType::F32, shape)]
    );
    let near = |found: HostTensor, bound: f64| found.to_f64().iter().enumerate().all(|(i, x)| (x - (i as f64).sin()).abs() <= bound);
    assert!(near(file.read("single").unwrap(), 1e-7) && near(file.read("half").unwrap(), 5e-4));
    // Half a step of 1/127 of the largest of a block.
    let quantized = file.read("quantized").unwrap();
    assert!(near(quantized.clone(), 0.5 / 127.0 + 1e-4) && !near(quantized.clone(), 1e-3));
    assert_eq!(quantized.to_f32()[32..36], DEQUANTIZED);
}

/// What the `gguf` package reads.
const DEQUANTIZED: [f32; 4] = [0.55114746, 0.99993896, 0.52752686, -0.4251709];
