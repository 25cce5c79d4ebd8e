//! What `inductor doctor` says of machines that lack something.

use std::process::Command;

/// No driver at all, in a process of its own: the environment is read once.
#[test]
fn no_adapter() {
    let run = |device: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_inductor"));
        command.args(["doctor", "--device", device]).env("VK_DRIVER_FILES", "/nonexistent.json").env("VK_ICD_FILENAMES", "/nonexistent.json");
        let output = command.env("WGPU_BACKEND", "vulkan").output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).to_string() + &String::from_utf8_lossy(&output.stdout))
    };
    let (code, text) = run("gpu");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("adapter") && !text.contains("panicked"), "{text}");
    let (code, text) = run("cpu");
    assert_eq!(code, Some(0), "{text}");
}
