//! What `inductor check` counts: every case is passed, failed, unsupported or not comparable, and no case ends the run.

#[path = "../support/archive.rs"]
mod archive;

use archive::Files;
use inductor::HostTensor;
use inductor::runtime::{load_tensors, save_tensors};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

fn vendored(case: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/conformance")).join(case)
}

struct Run {
    code: Option<i32>,
    table: String,
    log: String,
    json: Value,
}

fn check(cases: &Path, options: &[&str]) -> Run {
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("result.json");
    let output = Command::new(env!("CARGO_BIN_EXE_inductor"))
        .args(["check", "--grad", "--device", "cpu", "--jobs", "2", "--json"])
        .arg(&json)
        .arg(cases)
        .args(options)
        .output()
        .expect("the program starts");
    let [table, log] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    let json = std::fs::read(&json).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    Run { code: output.status.code(), table, log, json }
}

/// A folder of cases: each a name with the model's bytes and what is expected.
fn make(folder: &Path, name: &str, model: &[u8], expected: &[(String, HostTensor)]) {
    let dir = folder.join(name);
    std::fs::create_dir_all(&dir).expect("a folder");
    std::fs::write(dir.join("model.pt2"), model).expect("writable");
    save_tensors(&dir.join("expected.safetensors"), expected, None).expect("writable");
}

fn addmm() -> (Vec<u8>, Vec<(String, HostTensor)>) {
    let case = vendored("ops/addmm/float32_0");
    let expected = load_tensors(&case.join("expected.safetensors")).expect("tensors").0;
    (std::fs::read(case.join("model.pt2")).expect("a model"), expected)
}

/// A program without inputs, of calls that each give a tensor of one f32 dimension.
fn program(calls: &[(&str, &str, Value)], output: &str, size: i64) -> Vec<u8> {
    let files = Files::read(&addmm().0);
    let mut model = files.model();
    let nodes = calls.iter().map(|(name, target, inputs)| {
        json!({"target": format!("torch.ops.aten.{target}"), "inputs": inputs, "outputs": [{"as_tensor": {"name": name}}], "metadata": {}})
    });
    let meta = json!({"dtype": 7, "sizes": [{"as_int": size}], "strides": [{"as_int": 1}], "storage_offset": {"as_int": 0}});
    model["graph_module"]["graph"] = json!({
        "inputs": [],
        "outputs": [{"as_tensor": {"name": output}}],
        "nodes": nodes.collect::<Vec<_>>(),
        "tensor_values": calls.iter().map(|(name, ..)| (name.to_string(), meta.clone())).collect::<serde_json::Map<_, _>>(),
    });
    model["graph_module"]["signature"] = json!({"input_specs": [], "output_specs": [{"user_output": {"arg": {"as_tensor": {"name": output}}}}]});
    files.with_model(&model)
}

fn size_argument(size: i64) -> Value {
    json!([{"name": "size", "arg": {"as_ints": [size]}, "kind": 1}])
}

fn output(values: &[f32]) -> Vec<(String, HostTensor)> {
    vec![("output.0".to_string(), HostTensor::f32(&[values.len()], values))]
}

#[test]
fn a_wrong_reference_never_passes() {
    let folder = tempfile::tempdir().unwrap();
    let (model, good) = addmm();
    let changed = |prefix: &str, f: &dyn Fn(f64) -> f64| -> Vec<(String, HostTensor)> {
        let change = |(name, t): &(String, HostTensor)| {
            let values: Vec<f64> = t.to_f64().into_iter().map(f).collect();
            (name.clone(), if name.starts_with(prefix) { HostTensor::from_f64(t.dtype(), t.shape(), &values) } else { t.clone() })
        };
        good.iter().map(change).collect()
    };
    make(folder.path(), "ops/noise", &model, &changed("output.", &|x| x + 0.5));
    make(folder.path(), "ops/doubled", &model, &changed("grad.", &|x| 2.0 * x));
    make(folder.path(), "ops/good", &model, &good);
    let run = check(folder.path(), &[]);
    assert_eq!((run.code, &run.json["passed"]), (Some(1), &json!(1)), "{}{}", run.table, run.log);
    assert_eq!(run.json["failed"], json!(["ops/doubled", "ops/noise"]));
    assert!(run.json["reasons"]["ops/noise"].as_str().unwrap().contains("PyTorch and our definition disagree"), "{}", run.json);
}

#[test]
fn draws_are_not_comparable_and_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let rand = program(&[("u", "rand.default", size_argument(1000))], "u", 1000);
    let even: Vec<f32> = (0..1000).map(|i| (i * 617 % 1000) as f32 / 1000.0).collect();
    make(folder.path(), "ops/rand", &rand, &output(&even));
    make(folder.path(), "ops/doubled", &rand, &output(&even.iter().map(|u| 2.0 * u).collect::<Vec<_>>()));
    make(folder.path(), "ops/short", &rand, &output(&even[1..]));
    let empty = [("e", "empty.memory_format", size_argument(4))];
    make(folder.path(), "ops/empty", &program(&empty, "e", 4), &output(&[1e20, -3.0, 0.5, f32::NAN]));
    let filled = json!([{"name": "self", "arg": {"as_tensor": {"name": "e"}}, "kind": 1}, {"name": "value", "arg": {"as_float": 2.0}, "kind": 1}]);
    let filled = program(&[empty[0].clone(), ("f", "fill.Scalar", filled)], "f", 4);
    make(folder.path(), "ops/filled", &filled, &output(&[2.0; 4]));
    make(folder.path(), "ops/filled_wrong", &filled, &output(&[3.0; 4]));
    let run = check(folder.path(), &[]);
    assert_eq!(run.json["random"], json!(["ops/empty", "ops/rand"]), "{}{}", run.table, run.log);
    assert_eq!(run.json["failed"], json!(["ops/doubled", "ops/filled_wrong", "ops/short"]));
    assert_eq!((&run.json["cases"], &run.json["passed"], run.code), (&json!(6), &json!(1), Some(1)));
    assert!(run.table.contains("6 cases: 1 passed, 3 failed, 0 unsupported, 2 not comparable (random)"), "{}", run.table);
    assert!(run.json["reasons"]["ops/empty"].as_str().unwrap().contains("memory that nobody wrote"), "{}", run.json);
    let run = check(folder.path(), &["--filter", "rand"]);
    assert_eq!(run.code, Some(0), "{}", run.log);
}

#[test]
fn outputs_are_written_also_of_cases_that_fail() {
    let folder = tempfile::tempdir().unwrap();
    let (model, good) = addmm();
    let shifted = |(name, t): &(String, HostTensor)| {
        let values: Vec<f64> = t.to_f64().into_iter().map(|x| x + 1.0).collect();
        (name.clone(), if name == "output.0" { HostTensor::from_f64(t.dtype(), t.shape(), &values) } else { t.clone() })
    };
    make(folder.path(), "cases/good", &model, &good);
    make(folder.path(), "cases/bad", &model, &good.iter().map(shifted).collect::<Vec<_>>());
    let outputs = folder.path().join("outputs");
    let run = check(&folder.path().join("cases"), &["--outputs", outputs.to_str().unwrap()]);
    assert_eq!(run.json["failed"], json!(["cases/bad"]), "{}", run.log);
    for case in ["good", "bad"] {
        let written = load_tensors(&outputs.join("cases").join(format!("{case}.safetensors"))).unwrap().0;
        let wanted: Vec<&(String, HostTensor)> = good.iter().filter(|(n, _)| n.starts_with("output.") || n.starts_with("grad.")).collect();
        assert_eq!(written.iter().map(|(n, _)| n).collect::<Vec<_>>(), wanted.iter().map(|(n, _)| n).collect::<Vec<_>>());
        for ((name, found), (_, expected)) in written.iter().zip(wanted) {
            assert_eq!(found.ty(), expected.ty(), "{name}");
            assert!(found.to_f32().iter().zip(expected.to_f32()).all(|(a, b)| (a - b).abs() < 1e-3), "{name}");
        }
    }
    make(folder.path(), "other/cases/good", &model, &good);
    let run = check(folder.path(), &["--outputs", outputs.to_str().unwrap()]);
    assert!(run.code == Some(1) && run.log.contains("both named cases/good"), "{}", run.log);
}

#[test]
fn no_case_ends_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let (model, good) = addmm();
    for name in ["good", "long", "meta", "huge_meta", "no_expected", "no_tensors", "nothing", "no_archive", "a\u{1b}[31m\nred"] {
        make(folder.path(), &format!("ops/{name}"), &model, &good);
    }
    let at = |path: &str| folder.path().join("ops").join(path);
    let mut long = Files::read(&model).model();
    long["graph_module"]["graph"]["nodes"][0]["target"] = json!("n".repeat(70_000));
    std::fs::write(at("long/model.pt2"), Files::read(&model).with_model(&long)).unwrap();
    std::fs::write(at("long/meta.json"), json!({"op": "o".repeat(70_000)}).to_string()).unwrap();
    std::fs::write(at("meta/meta.json"), "{").unwrap();
    std::fs::File::create(at("huge_meta/meta.json")).unwrap().set_len(1 << 40).unwrap();
    std::fs::remove_file(at("no_expected/expected.safetensors")).unwrap();
    std::fs::write(at("no_tensors/expected.safetensors"), "xxxxxxxxxxxxxxxx").unwrap();
    save_tensors(&at("nothing/expected.safetensors"), &[], None).unwrap();
    std::fs::write(at("no_archive/model.pt2"), "PK").unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(folder.path(), at("circle")).unwrap();
    let run = check(folder.path(), &["--scope", "core"]);
    assert_eq!((&run.json["cases"], &run.json["passed"], run.code), (&json!(9), &json!(2), Some(1)), "{}{}", run.table, run.log);
    let not_passed = run.json["failed"].as_array().unwrap().len() + run.json["unsupported"].as_array().unwrap().len();
    assert_eq!(not_passed, 7, "{}", run.json);
    assert!(!run.table.contains('\u{1b}') && run.table.lines().all(|l| l.len() < 4000), "{}", run.table);
    assert!(!run.log.contains("panicked"), "{}", run.log);
}

#[test]
fn lists_of_known_failures_name_cases() {
    let folder = tempfile::tempdir().unwrap();
    let (model, good) = addmm();
    make(folder.path(), "ops/good", &model, &good);
    make(folder.path(), "models/net", &model, &good);
    let known = folder.path().join("known.txt");
    let run = |cases: &Path, list: &str, options: &[&str]| {
        std::fs::write(&known, list).unwrap();
        check(cases, &[&["--known", known.to_str().unwrap()], options].concat())
    };
    let whole = run(folder.path(), "ops/godo  misspelled\n", &[]);
    assert!(whole.code == Some(1) && whole.log.contains("there is no case ops/godo"), "{}", whole.log);
    let part = run(&folder.path().join("models"), "ops/godo  in another folder\n", &[]);
    assert_eq!(part.code, Some(0), "{}", part.log);
    // A case that was not run is neither wrong nor right.
    let filtered = run(folder.path(), "ops/good  not run\n", &["--filter", "net"]);
    assert_eq!(filtered.code, Some(0), "{}", filtered.log);
}

#[test]
fn a_device_that_is_not_there_is_refused_once() {
    let folder = tempfile::tempdir().unwrap();
    let (model, good) = addmm();
    for k in 0..3 {
        make(folder.path(), &format!("ops/{k}"), &model, &good);
    }
    let output = Command::new(env!("CARGO_BIN_EXE_inductor"))
        .args(["check", "--device", "gpu"])
        .arg(folder.path())
        .envs([("VK_DRIVER_FILES", "/nonexistent.json"), ("VK_ICD_FILENAMES", "/nonexistent.json"), ("WGPU_BACKEND", "vulkan")])
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert_eq!(log.matches("no hardware GPU found").count(), 1, "{log}");
    assert!(output.stdout.is_empty());
}

#[test]
fn cotangents_of_symbolic_outputs_have_the_size_at_hand() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = Files::read(&addmm().0).model();
    let (x, y) = ("x", "y");
    let size = json!({"as_expr": {"expr_str": "Symbol('s0', integer=True, positive=True)", "hint": {"as_int": 3}}});
    let meta = json!({"dtype": 7, "sizes": [size, {"as_int": 2}], "strides": [{"as_int": 2}, {"as_int": 1}], "storage_offset": {"as_int": 0}});
    model["graph_module"]["graph"] = json!({
        "inputs": [{"as_tensor": {"name": x}}],
        "outputs": [{"as_tensor": {"name": y}}],
        "nodes": [{
            "target": "torch.ops.aten.exp.default",
            "inputs": [{"name": "self", "arg": {"as_tensor": {"name": x}}, "kind": 1}],
            "outputs": [{"as_tensor": {"name": y}}],
            "metadata": {},
        }],
        "tensor_values": {x: meta, y: meta},
    });
    model["graph_module"]["signature"] = json!({
        "input_specs": [{"user_input": {"arg": {"as_tensor": {"name": x}}}}],
        "output_specs": [{"user_output": {"arg": {"as_tensor": {"name": y}}}}],
    });
    model["range_constraints"] = json!({"s0": {"min_val": 2, "max_val": 64}});
    let tensor = |f: &dyn Fn(f32) -> f32| HostTensor::f32(&[3, 2], &(0..6).map(|i| f(i as f32 / 4.0)).collect::<Vec<_>>());
    let expected =
        [("input.0", tensor(&|v| v)), ("output.0", tensor(&f32::exp)), ("cotangent.0", tensor(&|_| 2.0)), ("grad.0", tensor(&|v| 2.0 * v.exp()))];
    make(folder.path(), "ops/exp", &Files::read(&addmm().0).with_model(&model), &expected.map(|(n, t)| (n.to_string(), t)));
    let run = check(folder.path(), &[]);
    assert_eq!((run.code, &run.json["passed"]), (Some(0), &json!(1)), "{}{}", run.table, run.log);
}
