//! The small examples run at a tiny size, and leave what they promise.

// Each example has the common parts as a module of its own, as it has where it is a program.
#![allow(clippy::duplicate_mod)]
#![cfg(feature = "interrupt")]
#![allow(dead_code)]

#[path = "../examples/gan.rs"]
mod gan;
#[path = "../examples/generate.rs"]
mod generate;
#[path = "../examples/lora.rs"]
mod lora;
#[path = "../examples/pinn.rs"]
mod pinn;
#[path = "../examples/resnet.rs"]
mod resnet;
#[path = "../examples/train_mlp.rs"]
mod train_mlp;
#[path = "../examples/vae.rs"]
mod vae;

use clap::Parser;
use std::path::Path;
use std::process::Command;

/// An example and its arguments, one a line.
const ARGUMENTS: &str = "EXAMPLE_ARGUMENTS";

/// The program of the tests below, in a process of its own: signals are the process's.
#[test]
fn child() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else { return };
    let ran = match arguments.lines().next() {
        Some("gan") => gan::run(Parser::parse_from(arguments.lines())),
        Some("generate") => generate::run(Parser::parse_from(arguments.lines())),
        Some("lora") => lora::run(Parser::parse_from(arguments.lines())),
        Some("pinn") => pinn::run(Parser::parse_from(arguments.lines())),
        Some("resnet") => resnet::run(Parser::parse_from(arguments.lines())),
        Some("train_mlp") => train_mlp::run(Parser::parse_from(arguments.lines())),
        Some("vae") => vae::run(Parser::parse_from(arguments.lines())),
        other => panic!("there is no example {other:?}"),
    };
    if let Err(error) = ran {
        eprintln!("Error: {error:#}");
        std::process::exit(1);
    }
    std::process::exit(0);
}

fn run(name: &str, arguments: &[&str]) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let all = [&[name, "--device", "cpu", "--out", folder.path().to_str().unwrap()], arguments].concat().join("\n");
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", "child", "--nocapture"]).env(ARGUMENTS, all).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).to_string() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {said}");
    (folder, said)
}

fn is_png(folder: &Path, name: &str) -> bool {
    std::fs::read(folder.join(name)).is_ok_and(|bytes| bytes.starts_with(b"\x89PNG\r\n\x1a\n") && bytes.len() > 2000)
}

#[test]
fn a_gan() {
    let (folder, said) = run("gan", &["--steps", "20"]);
    assert!(is_png(folder.path(), "gan.png") && said.contains("step 20 loss") && said.contains("of 8 clusters"), "{said}");
}

#[test]
fn a_vae() {
    let (folder, said) = run("vae", &["--steps", "30", "--tensorboard"]);
    assert!(is_png(folder.path(), "vae.png") && said.contains("30 steps in"), "{said}");
    let names: Vec<String> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    for wanted in ["metrics.jsonl", "report.html", "checkpoints", "tensorboard"] {
        assert!(names.iter().any(|n| n == wanted), "{wanted} is missing in {names:?}");
    }
}

#[test]
fn a_residual_net() {
    let (folder, said) = run("resnet", &["--steps", "3"]);
    assert!(is_png(folder.path(), "resnet.png") && said.contains("step 3 loss") && said.contains("% of the pictures held out"), "{said}");
}

#[test]
fn a_differential_equation() {
    let (folder, said) = run("pinn", &["--steps", "20"]);
    assert!(is_png(folder.path(), "pinn.png") && said.contains("finite differences"), "{said}");
}

/// Longer than the cache: it is filled anew by the last tokens. The most likely text does not depend on how it was drawn.
#[test]
fn generated_text() {
    let (folder, said) = run("generate", &["--steps", "4", "--length", "150", "--prompt", "Alice ", "--top-k", "1"]);
    let text = std::fs::read_to_string(folder.path().join("generated.txt")).unwrap();
    assert!(text.starts_with("Alice ") && text.chars().count() == 156 && said.contains("tokens per second"), "{said}");
    let (other, _) = run("generate", &["--steps", "4", "--length", "150", "--prompt", "Alice ", "--top-p", "0"]);
    assert_eq!(std::fs::read_to_string(other.path().join("generated.txt")).unwrap(), text);
}

#[test]
fn an_adapter() {
    let (folder, said) = run("lora", &["--steps", "20"]);
    assert!(said.contains("by 1044 of 5591 numbers"), "{said}");
    let saved = inductor::runtime::load_tensors(&folder.path().join("lora.safetensors")).unwrap().0;
    assert!(saved.len() == 6 && saved.iter().all(|(name, _)| name.contains(".lora_")), "{saved:?}");
}

#[test]
fn spirals() {
    let (folder, said) = run("train_mlp", &["--steps", "30"]);
    assert!(is_png(folder.path(), "spirals.png") && said.contains("classified rightly"), "{said}");
}
