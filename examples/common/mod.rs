//! What the examples share: options, how they use the training loop, charts.

#![allow(dead_code)]

pub mod chart;
pub mod training;

use anyhow::{Context, Result};
use clap::{CommandFactory, FromArgMatches};
use inductor::config::Precision;
use inductor::report::printable;
pub use inductor::train::data::random;
use inductor::{Config, Device, Step, Verify};
use std::process::ExitCode;

/// Options of every example.
#[derive(clap::Parser, Clone, Debug)]
pub struct Common {
    /// Where to run: auto (a GPU, else the CPU interpreter), gpu, software or cpu.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Training steps.
    #[arg(long)]
    pub steps: Option<u64>,
    /// Seed of weights, batches and samples [default: 1].
    #[arg(long)]
    pub seed: Option<u64>,
    /// Print what the compiler decided.
    #[arg(long)]
    pub explain: bool,
    /// In every training step, compare every kernel with the interpreter, and that with the graph's definition. Slow.
    #[arg(long)]
    pub verify: bool,
    /// Name the first operator whose value is NaN or infinite, with its line and step. Waits for each step.
    #[arg(long)]
    pub detect_anomaly: bool,
    /// In the end, time each kernel of a step, and write a trace that Perfetto and Chrome read. Needs a GPU with timestamps.
    #[arg(long)]
    pub profile: bool,
    /// How exactly a step computes: products of f32 as highest, high (as exact as f32 for all but extreme ranges, and faster) or medium (of
    /// f16 operands) where the GPU has matrix units; or mixed precision, f16 or bf16.
    #[arg(long, default_value = "highest")]
    pub precision: Precision,
    /// Folder for everything that is written.
    #[arg(long, default_value = "out")]
    pub out: std::path::PathBuf,
    #[command(flatten)]
    pub run: training::RunOptions,
}

impl Common {
    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or(1)
    }

    /// What the run to go on from noted, from which options that were left out are taken.
    pub fn recall(&mut self) -> Result<training::Notes> {
        let notes = training::Notes::read(self)?;
        notes.recall(&mut self.seed, "seed")?;
        notes.recall(&mut self.steps, "steps")?;
        Ok(notes)
    }

    /// Opens the device and makes the output folder.
    pub fn start(&self) -> Result<Device> {
        let device = Device::from_name(&self.device)?;
        say(format!("device: {}", device.describe()));
        std::fs::create_dir_all(&self.out).with_context(|| format!("cannot make the folder {}", self.out.display()))?;
        Ok(device)
    }

    /// Shows where the time of a step goes, when that was asked for. The step's commands run: nothing of its state is used behind.
    pub fn show_profile(&self, step: &Step) -> Result<()> {
        if !self.profile {
            return Ok(());
        }
        #[cfg(not(feature = "gpu"))]
        {
            let _ = step;
            anyhow::bail!("--profile: this build has no GPU support");
        }
        #[cfg(feature = "gpu")]
        {
            let profile = step.profile().context("--profile")?;
            say(inductor::report::profile_text(&profile, 40));
            let path = self.out.join("profile.json");
            inductor::files::write(&path, inductor::report::chrome_trace(&[profile]))?;
            say(format!("wrote {}", path.display()));
            Ok(())
        }
    }

    /// The compiler's options.
    pub fn config(&self) -> Config {
        let verify = if self.verify { Verify::Full } else { Verify::Off };
        self.precision.of(Config { verify, detect_anomaly: self.detect_anomaly, ..Config::default() })
    }
}

/// The program of an example that has these options alone, and what `--help` says of it.
pub fn example(about: &'static str, run: fn(Common) -> Result<()>) -> ExitCode {
    main(|| run(Common::from_arg_matches(&Common::command().about(about).get_matches())?))
}

/// Runs a program. What is wrong is said in one line, without a backtrace: it is the user's to mend.
pub fn main(run: impl FnOnce() -> Result<()>) -> ExitCode {
    inductor::config::leave_windows_alone();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", printable(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

/// Prints a line. A reader that has gone, as `head` does, does not stop the training.
pub fn say(line: impl std::fmt::Display) {
    use std::io::{ErrorKind, Write};
    if let Err(error) = writeln!(std::io::stdout(), "{}", printable(&line.to_string()))
        && error.kind() != ErrorKind::BrokenPipe
    {
        eprintln!("standard output: {error}");
    }
}

/// Random numbers in `0..1` as a function of seed and counter.
pub fn uniform(seed: u64, counter: u64) -> f64 {
    (random(seed, counter) >> 11) as f64 / (1u64 << 53) as f64
}
