//! `inductor tune`: which forms of a model's products are the fastest on this device.

use super::{bench, emit, models};
use anyhow::Result;
use clap::Args;
use inductor::config::Mode;
use inductor::config::Precision;
use inductor::report::tuning_text;
use inductor::types::Tuning;
use inductor::{Config, Device, HostTensor, Traced, optim};

/// What to measure, and where.
#[derive(Args)]
pub struct TuneOptions {
    /// mlp, small, nanogpt, gpt2, or a program of torch.export (`.pt2`) whose first output is the loss.
    model: String,
    /// Where to run: auto, gpu or software.
    #[arg(long, default_value = "auto")]
    device: String,
    /// How exactly a step computes: highest, high or medium products of f32 where there are matrix units, or f16 or bf16 for mixed precision.
    #[arg(long, default_value = "highest")]
    precision: Precision,
}

/// Measures a training step of the model with AdamW and prints what was found.
pub fn tune(options: &TuneOptions) -> Result<()> {
    let device = Device::from_name(&options.device)?;
    super::complain(&format!("device: {}", device.describe()));
    let models::Model { traced, .. } = models::load(&options.model)?;
    let config = options.precision.of(Config { mode: Mode::Train(optim::AdamW::new(1e-4).into()), ..Config::default() });
    measured(&device, &traced, &config, &bench::random_inputs(&traced, &[])?).map(drop)
}

/// The device with what was measured of a program.
pub fn measured(device: &Device, traced: &Traced, config: &Config, inputs: &[HostTensor]) -> Result<Device> {
    let (found, kernels): (Tuning, _) = device.tune(traced, config, inputs)?;
    emit(&tuning_text(&kernels))?;
    Ok(device.tuned(&found)?)
}
