//! The vendored cases agree with PyTorch, outputs and gradients, on the interpreter and on the software adapter: the command line
//! program says so, on any machine.

use inductor::Device;
use std::path::Path;
use std::process::Command;

fn check(device: &str) {
    let cases = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/conformance"));
    let output = Command::new(env!("CARGO_BIN_EXE_inductor"))
        .args(["check", "--grad", "--scope", "all", "--device", device])
        .arg(cases)
        .output()
        .expect("the program starts");
    let (table, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{table}\n{log}");
    println!("{device}: {}", table.lines().last().unwrap_or_default());
}

#[test]
fn vendored_cases_agree_on_the_interpreter() {
    check("cpu");
}

#[test]
fn vendored_cases_agree_on_the_software_adapter() {
    match Device::software() {
        Ok(_) => check("software"),
        Err(error) => eprintln!("skipped: {error}"),
    }
}

#[test]
fn a_list_of_known_failures_decides() {
    let folder = tempfile::tempdir().expect("a folder");
    let cases = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/conformance/ops/abs"));
    let run = |list: &str| {
        let known = folder.path().join("known.txt");
        std::fs::write(&known, list).expect("writable");
        let output = Command::new(env!("CARGO_BIN_EXE_inductor")).arg("check").arg(cases).arg("--known").arg(&known).output();
        let output = output.expect("the program starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(run("# nothing\n").0, Some(0));
    let (code, log) = run("ops/abs/float32_0  wrong in this test\n");
    assert_eq!(code, Some(1));
    assert!(log.contains("ops/abs/float32_0 passes now"), "{log}");
    assert!(run("ops/abs/float32_0\n").1.contains("a name and the reason"));
}
