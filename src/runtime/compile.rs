//! The three doors: inference, training, and gradients of given cotangents.

use super::device::Device;
use super::step::Step;
use crate::compile::inductor_with_report;
use crate::config::{Config, Mode, Optimizer};
use crate::error::{Error, Result};
use crate::frontend::{Tensor, Trace, Traced, trace_eval};
use crate::types::{HostTensor, TensorType};

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
///
/// ```
/// # use inductor::{Config, DType, Device, HostTensor, Initializer, compile_vjp, trace};
/// let model = trace("w", |t| Ok(t.parameter("w", DType::F32, 2, Initializer::Ones).square().sum(())))?;
/// let step = compile_vjp(&model, &Device::cpu(), &Config::default())?;
/// assert_eq!(step.run(&mut step.init(0)?, ())?.gradients()?[0].1.to_f32(), [2.0, 2.0]);
/// # Ok::<(), inductor::Error>(())
/// ```
pub fn compile_vjp(traced: &Traced, device: &Device, config: &Config) -> Result<Step> {
    with_mode(traced, device, config, Mode::Vjp)
}

impl Device {
    /// Computes a function of tensors at once: for trying things out, and for what is done once. What runs often is traced and
    /// compiled once. Parameters and buffers that the function declares are as they begin.
    ///
    /// ```
    /// use inductor::{Device, HostTensor};
    /// let (a, b) = (HostTensor::f32(&[2, 2], &[1.0, 2.0, 3.0, 4.0]), HostTensor::f32(&[2], &[1.0, -1.0]));
    /// let y = Device::cpu().compute([&a, &b], |_, [a, b]| a.mv(&b).relu() + 0.5)?;
    /// assert_eq!(y.to_string(), "[0.5 0.5]");
    ///
    /// let table = Device::cpu().compute([], |t, []| t.linspace(0.0, 1.0, 5))?;
    /// assert_eq!(table.to_f32(), [0.0, 0.25, 0.5, 0.75, 1.0]);
    /// # Ok::<(), inductor::Error>(())
    /// ```
    pub fn compute<const N: usize>(&self, inputs: [&HostTensor; N], f: impl FnOnce(&Trace, [Tensor; N]) -> Tensor) -> Result<HostTensor> {
        if let Some(fault) = inputs.iter().find_map(|x| x.fault()) {
            return Err(Error::Input(fault.into()));
        }
        let traced = trace_eval("compute", |t| {
            let mut names = (0..).map(|i| format!("input.{i}"));
            let given = inputs.map(|x| t.input(&names.next().unwrap_or_default(), x.dtype(), x.shape()));
            Ok(vec![("result", f(t, given))])
        })?;
        let step = compile(&traced, self, &Config::default())?;
        step.run(&mut step.init(0)?, inputs)?.output("result")
    }
}

fn with_mode(traced: &Traced, device: &Device, config: &Config, mode: Mode) -> Result<Step> {
    let config = Config { mode, ..config.clone() };
    let graph = &traced.graph;
    let examples: Vec<TensorType> = graph.inputs.iter().map(|i| graph.ty(i.value).clone()).collect();
    let (mut plan, mut report) = device.beside_probing(|target| inductor_with_report(graph, &examples, target, &config))?;
    plan.target = device.target();
    if !device.multiplies(&plan.program.forms) {
        (plan, report) = inductor_with_report(graph, &examples, &device.target().without_units(), &config)?;
    }
    Step::new(plan, report, traced, device, &config)
}
