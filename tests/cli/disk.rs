//! Full disks, writers that are killed, and caches that are shared or damaged.
#![cfg(unix)]

use inductor::runtime::{load_tensors, save_tensors};
use inductor::{Device, HostTensor};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

const PROGRAM: &str = "graph relu\n  %0 = input x : f32[65536]\n  %1 = relu(%0)\n  return %1 as y\n";
const BINARY: &str = env!("CARGO_BIN_EXE_inductor");

/// A folder with a program, its input, and a cache.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place { folder: tempfile::tempdir().expect("a folder") };
        std::fs::write(place.at("relu.ir"), PROGRAM).expect("writable");
        let x: Vec<f32> = (0..65536).map(|i| i as f32 - 32768.0).collect();
        save_tensors(&place.at("in.safetensors"), &[("x".to_string(), HostTensor::f32(&[65536], &x))], None).expect("writable");
        std::fs::create_dir(place.at("out")).expect("writable");
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs the program in a shell, after what the shell is to do first.
    fn start(&self, first: &str, output: &Path, device: &str) -> Child {
        let mut command = Command::new("bash");
        command.arg("-c").arg(format!("{first} exec \"$0\" \"$@\"")).arg(BINARY).arg("run").arg(self.at("relu.ir"));
        command.arg("--input").arg(self.at("in.safetensors")).arg("--output").arg(output).args(["--device", device]);
        command.env("INDUCTOR_CACHE_DIR", self.at("cache")).env("RUST_BACKTRACE", "1");
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("bash starts")
    }

    fn run(&self, first: &str, output: &Path, device: &str) -> Output {
        self.start(first, output, device).wait_with_output().expect("it ends")
    }
}

fn log(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn is_right(path: &Path) {
    let y = load_tensors(path).unwrap().0.remove(0).1.to_f32();
    assert!(y.iter().enumerate().all(|(i, &y)| y == (i as f32 - 32768.0).max(0.0)), "{}: wrong numbers", path.display());
}

#[test]
fn a_full_disk_is_an_error_and_what_was_there_stays() {
    let place = Place::new();
    let path = place.at("out/y.safetensors");
    assert!(place.run("", &path, "cpu").status.success());
    let before = std::fs::read(&path).unwrap();
    // Files may have 64 KiB, and who writes more is told.
    let output = place.run("trap '' XFSZ; ulimit -f 64;", &path, "cpu");
    assert_eq!(output.status.code(), Some(1), "{}", log(&output));
    let said = log(&output);
    assert!(said.contains("y.safetensors: cannot write: File too large") && !said.contains("backtrace") && !said.contains("panicked"), "{said}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    let left: Vec<_> = std::fs::read_dir(place.at("out")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["y.safetensors"], "something was left behind");
    let output = place.run("", Path::new("/dev/full"), "cpu");
    assert!(output.status.code() == Some(1) && log(&output).contains("No space left on device"), "{}", log(&output));
}

#[test]
fn a_writer_that_is_killed_leaves_the_last_file() {
    let place = Place::new();
    let path = place.at("out/y.safetensors");
    assert!(place.run("", &path, "cpu").status.success());
    // Who writes more than 64 KiB is killed while writing.
    let output = place.run("ulimit -c 0; ulimit -f 64;", &path, "cpu");
    assert!(output.status.signal().is_some(), "{:?} {}", output.status, log(&output));
    is_right(&path);
    assert!(place.run("", &path, "cpu").status.success(), "what was left behind is in the way");
    is_right(&path);
}

#[test]
fn processes_share_a_cache_and_damage_is_a_miss() {
    if let Err(error) = Device::software() {
        return eprintln!("software adapter: skipped, {error}");
    }
    let place = Place::new();
    let run_all = |count: usize, first: &str| {
        let paths: Vec<PathBuf> = (0..count).map(|k| place.at(&format!("out/{k}"))).collect();
        let started: Vec<Child> = paths.iter().map(|path| place.start(first, path, "software")).collect();
        for (child, path) in started.into_iter().zip(&paths) {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", log(&output));
            is_right(path);
        }
    };
    run_all(3, "");
    let spoil = |damage: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        let mut folders = vec![place.at("cache")];
        let mut spoiled = 0;
        while let Some(folder) = folders.pop() {
            for path in std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
                match path.is_dir() {
                    true => folders.push(path),
                    false => std::fs::write(&path, damage(std::fs::read(&path).unwrap())).unwrap(),
                }
                spoiled += 1;
            }
        }
        assert!(spoiled > 0, "nothing was kept");
    };
    spoil(&|bytes| bytes[..bytes.len() / 2].to_vec());
    run_all(1, "");
    spoil(&|mut bytes| {
        bytes.iter_mut().skip(40).step_by(97).for_each(|b| *b ^= 0x5a);
        bytes
    });
    run_all(2, "");
    spoil(&|_| vec![]);
    // A cache that cannot be written is no fault of the program.
    run_all(1, "trap '' XFSZ; ulimit -f 300;");
}
