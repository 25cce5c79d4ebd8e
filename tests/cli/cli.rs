//! The command line program towards careless and unlucky users: files are not lost, names obey nobody, errors are one line.

use inductor::HostTensor;
use inductor::runtime::{load_tensors, save_tensors};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const RELU: &str = "graph relu\n  %0 = input x : f32[2]\n  %1 = relu(%0)\n  return %1 as y\n";

/// A folder with a program and its input.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place { folder: tempfile::tempdir().expect("a folder") };
        std::fs::write(place.at("relu.ir"), RELU).expect("writable");
        save_tensors(&place.at("in.safetensors"), &[("x".to_string(), HostTensor::f32(&[2], &[-1.0, 3.0]))], None).expect("writable");
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, output: &Path) -> Output {
        let (model, input) = (self.at("relu.ir"), self.at("in.safetensors"));
        command().arg("run").arg(model).arg("--input").arg(input).arg("--output").arg(output).args(["--device", "cpu"]).output().expect("it starts")
    }
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inductor"));
    command.env("RUST_BACKTRACE", "1");
    command
}

fn log(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text_of(model: &str, options: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.ir");
    std::fs::write(&path, model).expect("writable");
    command().arg("explain").arg(path).args(options).output().expect("it starts")
}

#[test]
fn outputs_never_replace_what_is_read() {
    let place = Place::new();
    for (name, other) in [("relu.ir", "./relu.ir"), ("in.safetensors", "in.safetensors")] {
        let before = std::fs::read(place.at(name)).unwrap();
        let output = place.run(&place.at(other));
        assert!(output.status.code() == Some(1) && log(&output).contains("which is read"), "{}", log(&output));
        assert_eq!(std::fs::read(place.at(name)).unwrap(), before);
    }
    let model = place.at("relu.ir");
    for option in ["--json", "--html"] {
        let output = command().arg("explain").arg(&model).args(["--device", "cpu", option]).arg(&model).output().unwrap();
        assert!(output.status.code() == Some(1) && log(&output).contains("which is read"), "{}", log(&output));
    }
    std::fs::copy(&model, place.at("forward.ir")).unwrap();
    let output = command().arg("explain").arg(place.at("forward.ir")).args(["--device", "cpu", "--dump"]).arg(place.folder.path()).output().unwrap();
    assert!(output.status.code() == Some(1) && log(&output).contains("which is read"), "{}", log(&output));
    assert_eq!(std::fs::read_to_string(place.at("forward.ir")).unwrap(), RELU);
}

#[cfg(unix)]
#[test]
fn outputs_go_through_links_and_pipes() {
    use std::os::unix::fs::{FileTypeExt, symlink};
    let place = Place::new();
    symlink("real.safetensors", place.at("link")).unwrap();
    for _ in 0..2 {
        let output = place.run(&place.at("link"));
        assert!(output.status.success(), "{}", log(&output));
        assert!(place.at("link").is_symlink());
        assert_eq!(load_tensors(&place.at("real.safetensors")).unwrap().0[0].1.to_f32(), [0.0, 3.0]);
    }
    symlink("relu.ir", place.at("model_link")).unwrap();
    assert!(log(&place.run(&place.at("model_link"))).contains("which is read"));
    std::fs::hard_link(place.at("in.safetensors"), place.at("same")).unwrap();
    assert!(log(&place.run(&place.at("same"))).contains("which is read"));
    assert!(place.run(Path::new("/dev/null")).status.success());
    assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    assert!(Command::new("mkfifo").arg(place.at("pipe")).status().unwrap().success());
    let pipe = place.at("pipe");
    let reader = std::thread::spawn(move || std::fs::read(pipe).unwrap());
    assert!(place.run(&place.at("pipe")).status.success());
    assert_eq!(reader.join().unwrap(), std::fs::read(place.at("real.safetensors")).unwrap());
    assert!(std::fs::metadata(place.at("pipe")).unwrap().file_type().is_fifo());
}

#[test]
fn inputs_are_checked_before_they_are_read() {
    let place = Place::new();
    let header = r#"{"x":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    std::fs::write(place.at("in.safetensors"), &bytes).unwrap();
    std::fs::OpenOptions::new().write(true).open(place.at("in.safetensors")).unwrap().set_len(bytes.len() as u64 + (4 << 40)).unwrap();
    let output = place.run(&place.at("out.safetensors"));
    assert!(output.status.code() == Some(1) && log(&output).contains("x: expected f32[2], got f32[1099511627776]"), "{}", log(&output));
}

#[test]
fn errors_are_one_line_and_names_obey_nobody() {
    let bad = "graph main\n  %0 = input \"a\\u001b[31mred\\nerror: fake\" : f32[2]\n  %1 = relu(%0)\n  return %1 as \"y\\u009b2J\"\n";
    for device in ["cpu", "webgpu-default"] {
        let output = text_of(bad, &["--device", device, "--json", "-"]);
        let shown = String::from_utf8_lossy(&output.stdout).into_owned() + &log(&output);
        assert!(output.status.success() && !shown.contains('\u{1b}') && !shown.contains('\u{9b}'), "{shown}");
        let output = text_of(bad, &["--device", device]);
        let shown = String::from_utf8_lossy(&output.stdout).into_owned() + &log(&output);
        assert!(output.status.success() && !shown.contains('\u{1b}') && !shown.contains('\u{9b}') && !shown.contains("\nerror: fake"), "{shown}");
    }
    let output = text_of(&bad.replace("relu(%0)", "matmul(%0, %0)"), &["--device", "cpu"]);
    let shown = log(&output);
    assert!(output.status.code() == Some(1) && shown.starts_with("error: ") && !shown.contains("backtrace"), "{shown}");
    let place = Place::new();
    let absent = place.at("absent\u{1b}[31m.ir");
    let shown = log(&command().arg("explain").arg(absent).output().unwrap());
    assert!(shown.lines().count() == 1 && !shown.contains('\u{1b}') && shown.contains("absent\\u{1b}[31m.ir"), "{shown}");
}

#[test]
fn texts_that_ask_for_too_much_are_refused() {
    let trip = "graph trip @0\n  %0 = input c : f32[]\n  %1 = sin(%0)\n  return %1 as c\n\ngraph main\n  %0 = input s : f32[]\n";
    let scan = format!("{trip}  %1 = scan @0 (%0) {{length=2147483647, carries=1, stacked=0}}\n  return %1 as y\n");
    let calls = |label: usize, held: usize| {
        format!(
            "graph f{label} @{label}\n  %0 = input x : f32[]\n  %1 = invoke_subgraph @{held} (%0)\n  %2 = sin(%1)\n  %3 = invoke_subgraph @{held} (%2)\n  return %3 as y\n\n"
        )
    };
    let doubling = (1..40)
        .fold("graph f0 @0\n  %0 = input x : f32[]\n  %1 = sin(%0)\n  return %1 as y\n\n".to_string(), |text, k| text + &calls(k, k - 1))
        + "graph main\n  %0 = input x : f32[]\n  %1 = invoke_subgraph @39 (%0)\n  return %1 as y\n";
    let line = |k: usize| format!("  %{k} = input x{k} : f32[2]\n");
    let wide = "graph wide\n".to_string() + &(0..50_000).map(line).collect::<String>() + "  return %0 as y\n";
    let twice = "graph a\n  %0 = input x : f32[2]\n  %1 = relu(%0)\n  %2 = exp(%0)\n  return %1 as y\n  return %2 as y\n";
    // A loop stays a loop, however long it is.
    assert_eq!(text_of(&scan, &["--device", "cpu"]).status.code(), Some(0));
    let endless = scan.replace("2147483647", "2147483648");
    for (text, message) in [
        (&endless[..], "trips are more than a loop counts"),
        (&wide, "inputs"),
        (&doubling, "subgraphs have"),
        (twice, "line 6: there are two outputs named y"),
    ] {
        let output = text_of(text, &["--device", "cpu"]);
        assert!(output.status.code() == Some(1) && log(&output).contains(message), "{message}: {}", log(&output));
    }
}

/// A peak beyond the machine's memory is named before anything runs; where the system does not tell its memory, the allocation fails.
#[test]
fn programs_beyond_the_memory_are_refused() {
    let place = Place::new();
    let large = "graph large\n  %0 = input x : f32[2]\n  %1 = reshape(%0) {shape=[1, 2]}\n  %2 = expand(%1) {shape=[549755813888, 2]}\n  %3 = exp(%2)\n  return %3 as huge\n";
    std::fs::write(place.at("relu.ir"), large).unwrap();
    let output = place.run(&place.at("out.safetensors"));
    let shown = log(&output);
    assert!(output.status.code() == Some(1) && shown.contains("memory") && !shown.contains("panicked"), "{shown}");
    if cfg!(target_os = "linux") {
        for part in ["predicted peak", "its largest tensor", "f32[549755813888, 2]", "are available"] {
            assert!(shown.contains(part), "{part} is not in {shown}");
        }
    }
}

#[test]
fn every_filetest_can_be_explained() {
    let mut folders = vec![Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/filetests")).to_path_buf()];
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
            if path.is_dir() {
                // Files of nests are no programs.
                folders.extend(Some(path).filter(|p| !p.ends_with("loop_ir")));
                continue;
            }
            count += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            let output = command().args(["explain", "--device", "webgpu-default"]).arg(&path).output().unwrap();
            let shown = log(&output);
            // Programs that are errors say so.
            let is_wrong = text.contains("// test: verify") || text.contains("\nerror: graph text");
            assert_eq!(output.status.code(), Some(is_wrong as i32), "{}: {shown}", path.display());
            assert!(!shown.contains("panicked"), "{}: {shown}", path.display());
        }
    }
    assert!(count > 40, "{count}");
}

#[test]
fn sizes_of_benchmarks_are_checked() {
    for suite in ["matmul", "memory", "compile"] {
        for size in ["18446744073709551615", "9223372036854775807", "4294967296", "0"] {
            let output = command().args(["bench", suite, "--device", "cpu", "--steps", "1", "--size", size]).output().unwrap();
            let shown = log(&output);
            assert!(output.status.code() == Some(1) && !shown.contains("panicked"), "{suite} {size}: {shown}");
        }
    }
}

#[test]
fn a_summary_as_a_table_and_as_json() {
    let shown = |options: &[&str]| {
        let output = command().args(["summary", "small"]).args(options).output().expect("it starts");
        assert!(output.status.success(), "{}", log(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let table = shown(&[]);
    assert!(table.contains("parameters: 813,568, of which trained: 813,568, frozen: 0"), "{table}");
    assert!(table.lines().any(|l| l.contains("qkv") && l.contains("49,152") && l.contains("weight f32[384, 128]")), "{table}");
    let json: serde_json::Value = serde_json::from_str(&shown(&["--json", "-"])).unwrap();
    let modules = json["modules"].as_array().unwrap();
    assert!(modules[0]["path"] == "" && modules[0]["parameters"] == 813_568, "{}", modules[0]);
    assert!(modules.iter().any(|m| m["path"] == "blocks.3.mlp.fc"));
    let place = Place::new();
    let model = place.at("relu.ir");
    let output = command().arg("summary").arg(&model).arg("--json").arg(&model).output().expect("it starts");
    assert!(!output.status.success() && log(&output).contains("which is read"), "{}", log(&output));
}
