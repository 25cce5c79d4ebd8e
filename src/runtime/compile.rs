//! The three doors: inference, training, and gradients of given cotangents.

use super::device::Device;
use super::step::Step;
use crate::config::{Config, Mode, Optimizer};
use crate::error::Result;
use crate::frontend::Traced;
use crate::types::TensorType;

/// Compiles the forward for inference, with dropout off. A program that was recorded for training and asked for that is an
/// error ([`Traced::inference`]). `config.mode` is set here.
pub fn compile(traced: &Traced, device: &Device, config: &Config) -> Result<Step> {
    with_mode(&traced.inference()?, device, config, Mode::Inference)
}

/// Compiles forward, backward and update into one step.
pub fn compile_train(traced: &Traced, device: &Device, optimizer: impl Into<Optimizer>, config: &Config) -> Result<Step> {
    with_mode(traced, device, config, Mode::Train(optimizer.into()))
}

/// Compiles the forward and the gradients of given cotangents.
pub fn compile_vjp(traced: &Traced, device: &Device, config: &Config) -> Result<Step> {
    with_mode(traced, device, config, Mode::Vjp)
}

fn with_mode(traced: &Traced, device: &Device, config: &Config, mode: Mode) -> Result<Step> {
    let config = Config { mode, ..config.clone() };
    let graph = &traced.graph;
    let examples: Vec<TensorType> = graph.inputs.iter().map(|i| graph.ty(i.value).clone()).collect();
    let (plan, report) = crate::compile::inductor_with_report(graph, &examples, &device.target_for(graph, &config), &config)?;
    Step::new(plan, report, traced, device, &config)
}
