//! One test for each trick that an archive may try: every one is an error that says what is wrong, or a program that takes no more
//! memory than its file.
#![cfg(feature = "torch")]

#[path = "support/archive.rs"]
mod archive;
#[path = "support/memory.rs"]
mod memory;

use archive::{Files, MODEL, zip};
use inductor::torch_export::{Imported, load_bytes};
use inductor::{Config, Device, Result, compile};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

/// Importing, and compiling what came of it, takes at most twice the file and this.
const ROOM: u64 = 64 << 20;

fn files(case: &str) -> Files {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance").join(case).join("model.pt2");
    Files::read(&std::fs::read(path).expect("a vendored archive"))
}

/// A program of one operator on tensors.
fn addmm() -> Files {
    files("ops/addmm/float32_0")
}

/// A program with weights.
fn vae() -> Files {
    files("models/nn_vae")
}

/// Imports within the bound of memory.
fn import(bytes: Vec<u8>) -> Result<Imported> {
    let len = bytes.len() as u64;
    let (result, peak) = memory::peak_of(|| load_bytes(bytes));
    assert!(peak <= 2 * len + ROOM, "{peak} bytes for a file of {len}");
    result
}

#[track_caller]
fn refused(bytes: Vec<u8>, message: &str) {
    match import(bytes) {
        Ok(_) => panic!("it was imported; expected: {message}"),
        Err(error) => assert!(error.to_string().contains(message), "{error}\nexpected: {message}"),
    }
}

/// The program with one value of it replaced.
#[track_caller]
fn edited(files: Files, path: &str, value: Value) -> Vec<u8> {
    let mut model = files.model();
    *model.pointer_mut(path).unwrap_or_else(|| panic!("there is no {path}")) = value;
    files.with_model(&model)
}

/// A program without inputs: one call of an operator, whose result has these sizes.
fn call(target: &str, inputs: Value, dtype: i64, sizes: &[i64]) -> Vec<u8> {
    let mut model = addmm().model();
    let sizes: Vec<Value> = sizes.iter().map(|n| json!({ "as_int": n })).collect();
    model["graph_module"]["graph"] = json!({
        "inputs": [],
        "outputs": [{"as_tensor": {"name": "y"}}],
        "nodes": [{"target": target, "inputs": inputs, "outputs": [{"as_tensor": {"name": "y"}}], "metadata": {}}],
        "tensor_values": {"y": {"dtype": dtype, "sizes": sizes, "strides": sizes, "storage_offset": {"as_int": 0}}},
    });
    model["graph_module"]["signature"] = json!({"input_specs": [], "output_specs": [{"user_output": {"arg": {"as_tensor": {"name": "y"}}}}]});
    addmm().with_model(&model)
}

#[test]
fn the_sound_archives_are_programs() {
    assert!(import(addmm().zip()).is_ok());
    assert_eq!(import(vae().zip()).unwrap().tensors.len(), 10);
}

#[test]
fn every_truncation_is_refused() {
    let whole = addmm().zip();
    for n in (0..whole.len()).step_by(7) {
        assert!(import(whole[..n].to_vec()).is_err(), "{n}");
    }
}

#[test]
fn absurd_sizes_in_the_directory_are_refused() {
    let whole = addmm().zip();
    let directory = (0..whole.len()).find(|&i| whole[i..].starts_with(b"PK\x01\x02")).expect("a directory");
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = whole.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    refused(with(directory + 20, &[0xfe; 8]), "past the end");
    refused(with(directory + 42, &[0xfe; 4]), "past the end");
    refused(with(directory + 28, &[0xff; 2]), "a name in its directory has 65535 bytes");
    refused(with(whole.len() - 12, &[0xff; 2]), "cannot hold 65535 entries");
    refused(with(whole.len() - 6, &[0xfe; 4]), "past the end");
}

#[test]
fn names_that_leave_the_archive_are_refused() {
    let model = addmm().get(MODEL).to_vec();
    for name in ["../x/models/model.json", "/models/model.json", "x\\models/model.json", "x/../../models/model.json", ""] {
        refused(zip([(name.to_string(), &model[..])]), "is no name of a file in an archive");
    }
    let mut files = vae();
    let path = "data/weights/model_weights_config.json";
    let mut config: Value = serde_json::from_slice(files.get(path)).unwrap();
    let first = config["config"].as_object().unwrap().keys().next().unwrap().clone();
    config["config"][&first]["path_name"] = json!("../../../../etc/passwd");
    files.set(path, serde_json::to_vec(&config).unwrap());
    refused(files.zip(), "../../../../etc/passwd is missing");
}

#[test]
fn names_that_occur_twice_are_refused() {
    let model = addmm().get(MODEL).to_vec();
    let twice = [("x/models/model.json".to_string(), &model[..]), ("x/models/model.json".to_string(), &model[..])];
    refused(zip(twice), "x/models/model.json is in it twice");
    refused(edited(addmm(), "/graph_module/graph/nodes/0/outputs/0/as_tensor/name", json!("ts_0")), "ts_0 is ");
    refused(edited(addmm(), "/graph_module/signature/input_specs/1/user_input/arg/as_tensor/name", json!("ts_0")), "ts_0");
    let text = String::from_utf8(model).unwrap();
    let doubled = text.replacen("\"opset_version\"", "\"schema_version\":{\"major\":8},\"opset_version\"", 1);
    let mut files = addmm();
    files.set(MODEL, doubled.into_bytes());
    refused(files.zip(), "duplicate field `schema_version`");
}

#[test]
fn what_is_used_before_it_is_defined_is_refused() {
    let operand = "/graph_module/graph/nodes/0/inputs/1/arg/as_tensor/name";
    refused(edited(addmm(), operand, json!("addmm")), "addmm is used before it is defined");
    refused(edited(addmm(), operand, json!("nobody")), "nobody is used before it is defined");
    refused(
        edited(addmm(), "/graph_module/signature/output_specs/0/user_output/arg/as_tensor/name", json!("nobody")),
        "nobody is used before it is defined",
    );
}

#[test]
fn what_pytorch_decomposed_for_a_wrong_shape_is_refused() {
    let view = "/graph_module/graph/nodes/106/metadata/torch_fn";
    let bytes = edited(files("programs/lstm_last/dec"), view, json!("flatten_1;method_descriptor.flatten"));
    refused(bytes, "PyTorch decomposed flatten for [1, 2, 4], a shape that its decomposition of lstm gets wrong: it is [2, 4]");
}

#[test]
fn wrong_types_are_refused() {
    let meta = "/graph_module/graph/tensor_values";
    refused(edited(addmm(), &format!("{meta}/ts_0/dtype"), json!(99)), "dtype number 99 is not supported");
    refused(edited(addmm(), &format!("{meta}/ts_0/dtype"), json!(9)), "complex numbers are not supported");
    refused(edited(addmm(), &format!("{meta}/ts_0/dtype"), json!(5)), "addmm");
    refused(edited(addmm(), &format!("{meta}/addmm/dtype"), json!(8)), "in the program");
    refused(edited(addmm(), &format!("{meta}/addmm/sizes/0/as_int"), json!(3)), "in the program");
    refused(edited(addmm(), &format!("{meta}/ts_0/sizes/0/as_int"), json!(-3)), "-3 is no size");
    refused(edited(addmm(), "/schema_version/major", json!(9)), "its schema is version 9");
    // A weight is declared as something else than its file is.
    let model = vae().model();
    let graph = &model["graph_module"]["graph"];
    let weight = graph["inputs"][0]["as_tensor"]["name"].as_str().unwrap();
    refused(edited(vae(), &format!("{meta}/{weight}/dtype"), json!(8)), weight);
    refused(edited(vae(), &format!("{meta}/{weight}/sizes/0/as_int"), json!(1i64 << 40)), weight);
}

/// An edit of the first weight's layout.
fn layout(key: &str, value: Value) -> Vec<u8> {
    let mut files = vae();
    let path = "data/weights/model_weights_config.json";
    let mut config: Value = serde_json::from_slice(files.get(path)).unwrap();
    let first = config["config"].as_object().unwrap().keys().next().unwrap().clone();
    config["config"][&first]["tensor_meta"][key] = value;
    files.set(path, serde_json::to_vec(&config).unwrap());
    files.zip()
}

#[test]
fn layouts_past_the_end_are_refused() {
    let ints = |x: &[i64]| Value::Array(x.iter().map(|n| json!({ "as_int": n })).collect());
    refused(layout("storage_offset", json!({"as_int": 1})), "it reaches byte");
    refused(layout("storage_offset", json!({"as_int": i64::MAX})), "its layout overflows");
    refused(layout("storage_offset", json!({"as_int": -1})), "-1 is no size");
    refused(layout("sizes", ints(&[i64::MAX, i64::MAX])), "its size overflows");
    refused(layout("sizes", ints(&[1 << 40, 1])), "are more than the archive holds");
    refused(layout("strides", ints(&[i64::MAX, 1])), "its layout overflows");
    refused(layout("strides", ints(&[1 << 20, 1])), "it reaches byte");
    refused(layout("strides", ints(&[1])), "sizes and 1 strides");
    refused(layout("sizes", ints(&[1; 100])), "100 sizes");
}

#[test]
fn an_expanded_weight_does_not_fill_the_memory() {
    // A stride of zero repeats one element as often as the sizes say.
    let mut files = vae();
    let path = "data/weights/model_weights_config.json";
    let mut config: Value = serde_json::from_slice(files.get(path)).unwrap();
    for payload in config["config"].as_object_mut().unwrap().values_mut() {
        payload["tensor_meta"]["sizes"] = json!([{"as_int": 4 << 20}]);
        payload["tensor_meta"]["strides"] = json!([{"as_int": 0}]);
    }
    files.set(path, serde_json::to_vec(&config).unwrap());
    refused(files.zip(), "");
}

#[test]
fn pickles_are_not_read() {
    let mut files = vae();
    let path = "data/weights/model_weights_config.json";
    let mut config: Value = serde_json::from_slice(files.get(path)).unwrap();
    config["config"].as_object_mut().unwrap().values_mut().for_each(|payload| payload["use_pickle"] = json!(true));
    files.set(path, serde_json::to_vec(&config).unwrap());
    refused(files.zip(), "unpickling untrusted data is not safe");
}

#[test]
fn deep_nesting_is_refused() {
    let deep = |open: &str, n: usize| {
        let mut files = addmm();
        let text = String::from_utf8(files.get(MODEL).to_vec()).unwrap();
        files.set(MODEL, text.replacen("\"opset_version\"", &format!("\"opset\":{},\"opset_version\"", open.repeat(n)), 1).into_bytes());
        files.zip()
    };
    refused(deep("[", 1_000_000), "models/model.json");
    refused(deep("{\"a\":", 1_000_000), "models/model.json");
    let size = |text: String| edited(addmm(), "/graph_module/graph/tensor_values/ts_0/sizes/0", json!({"as_expr": {"expr_str": text}}));
    refused(size("Add(".repeat(1_000_000)), "nested too deeply");
    refused(size(format!("Symbol('{}", "s".repeat(1_000_000))), "does not end");
    // Subgraphs in subgraphs.
    let mut model = addmm().model();
    let graph = model["graph_module"]["graph"].clone();
    let wrap = |inner: Value| {
        let mut outer = graph.clone();
        outer["nodes"][0]["target"] = json!("torch.ops.higher_order.wrap");
        outer["nodes"][0]["inputs"] = json!([{"name": "", "arg": {"as_graph": {"name": "g", "graph": inner}}}]);
        outer
    };
    model["graph_module"]["graph"] = (0..12).fold(graph.clone(), |inner, _| wrap(inner));
    assert!(import(addmm().with_model(&model)).is_err());
}

#[test]
fn sizes_that_grow_are_bounded() {
    // The product of many sums has as many terms as there are combinations.
    let sum = |k: usize| format!("Add(Symbol('a{k}', integer=True), Symbol('b{k}', integer=True))");
    let product = format!("Mul({})", (0..200).map(sum).collect::<Vec<_>>().join(", "));
    let power = format!("Pow(Pow(Pow(Pow(Pow({}, Integer(8)), Integer(8)), Integer(8)), Integer(8)), Integer(8))", sum(0));
    for text in [product, power] {
        refused(edited(addmm(), "/graph_module/graph/tensor_values/ts_0/sizes/0", json!({"as_expr": {"expr_str": text}})), "");
    }
}

#[test]
fn many_values_in_little_text_are_refused() {
    let ones = |n: usize| format!("[{}1]", "1,".repeat(n));
    let with = |text: String| {
        let mut files = addmm();
        let model = String::from_utf8(files.get(MODEL).to_vec()).unwrap();
        files.set(MODEL, model.replacen("{\"as_float\":0.2}", &format!("{{\"as_ints\":{text}}}"), 1).into_bytes());
        files.zip()
    };
    refused(with(ones(1000)), "beta");
    refused(with(ones(20_000_000)), "values are too many for");
    refused(with(ones(600_000)), "");
}

#[test]
fn a_call_that_becomes_many_nodes_is_bounded() {
    // Each of these calls takes a tensor into 60,000 parts, of which one is declared.
    let mut model = addmm().model();
    let path = "m".repeat(100_000);
    let node = |k: usize| {
        json!({
            "target": "torch.ops.aten.split.Tensor",
            "inputs": [{"name": "self", "arg": {"as_tensor": {"name": "x"}}}, {"name": "split_size", "arg": {"as_int": 1 + k}}],
            "outputs": [{"as_tensors": [{"name": format!("y{k}")}]}],
            "metadata": {"nn_module_stack": if k == 0 { format!("a,{path},c") } else { String::new() }},
        })
    };
    let meta = json!({"dtype": 7, "sizes": [{"as_int": 60_000}], "strides": [{"as_int": 1}], "storage_offset": {"as_int": 0}});
    model["graph_module"]["graph"] = json!({
        "inputs": [{"as_tensor": {"name": "x"}}],
        "outputs": [{"as_tensor": {"name": "y0"}}],
        "nodes": (0..20).map(node).collect::<Vec<_>>(),
        "tensor_values": {"x": meta},
    });
    model["graph_module"]["signature"] = json!({
        "input_specs": [{"user_input": {"arg": {"as_tensor": {"name": "x"}}}}],
        "output_specs": [{"user_output": {"arg": {"as_tensor": {"name": "y0"}}}}],
    });
    refused(addmm().with_model(&model), "");
}

/// Programs of little text that ask for much: an error at import, at compilation or at the first run, never the memory.
#[test]
fn programs_that_ask_for_much_take_little() {
    let int = |name: &str, n: i64| json!({"name": name, "arg": {"as_int": n}, "kind": 1});
    let ints = |name: &str, n: &[i64]| json!({"name": name, "arg": {"as_ints": n}, "kind": 1});
    let tera = 1_000_000_000_000;
    let full = call("torch.ops.aten.full.default", json!([ints("size", &[tera]), int("fill_value", 1)]), 5, &[tera]);
    let ones = call("torch.ops.aten.ones.default", json!([ints("size", &[1 << 20, 1 << 20])]), 7, &[1 << 20, 1 << 20]);
    let arange = call("torch.ops.aten.arange.default", json!([int("end", 1000 * tera)]), 5, &[1000 * tera]);
    let steps = call("torch.ops.aten.arange.start_step", json!([int("start", 0), int("end", tera), int("step", 2)]), 5, &[tera / 2]);
    let eye = call("torch.ops.aten.eye.default", json!([int("n", 1 << 30)]), 7, &[1 << 30, 1 << 30]);
    let whole = call("torch.ops.aten.full.default", json!([ints("size", &[i64::MAX, i64::MAX]), int("fill_value", 1)]), 5, &[i64::MAX, i64::MAX]);
    for (name, bytes) in [("full", full), ("ones", ones), ("arange", arange), ("steps", steps), ("eye", eye), ("whole", whole)] {
        let len = bytes.len() as u64;
        let Ok(imported) = import(bytes) else { continue };
        for device in devices() {
            let (result, peak) = memory::peak_of(|| {
                let step = compile(&imported.traced, &device, &Config::default())?;
                let mut state = step.init(0)?;
                step.run(&mut state, ())?.wait()
            });
            let error = result.expect_err(name).to_string();
            assert!(error.contains("memory") || error.contains("holds") || error.contains("bytes"), "{name}: {error}");
            assert!(peak <= 2 * len + ROOM, "{name}: {peak} bytes");
        }
    }
}

fn devices() -> Vec<Device> {
    let mut out = vec![Device::cpu()];
    match Device::software() {
        Ok(device) => out.push(device),
        Err(error) => eprintln!("software: skipped, {error}"),
    }
    out
}
