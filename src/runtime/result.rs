//! What one step computed.

use super::engine::Copies;
use super::ledger::{Ledger, Ticket};
use super::state::lock;
use crate::config::{Gradients, Mode};
use crate::error::{Error, Result};
use crate::graph::OutputRole;
use crate::loop_ir::BufferId;
use crate::types::HostTensor;
use std::sync::{Arc, Mutex};

/// What one step computed. Loss and status arrive when asked for. Other outputs of [`Step::run`](super::Step::run) stay on the device
/// until they are read, which must happen before the step runs again; those of [`Step::infer`](super::Step::infer) are the result's own. When a step is refused whose result was dropped unread, the next run of its
/// state says so.
pub struct StepResult {
    ticket: Arc<Ticket>,
    ledger: Arc<Ledger>,
    outputs: Outputs,
}

/// Where the outputs of a run are.
pub(super) enum Outputs {
    /// On the engine until it runs again; this was the run of that number.
    OnEngine(u64),
    /// In copies of their own.
    Own(Mutex<Copied>),
}

/// Copies of some buffers, each once.
pub(super) struct Copied {
    buffers: Vec<BufferId>,
    copies: Copies,
}

impl Outputs {
    pub fn own(buffers: Vec<BufferId>, copies: Copies) -> Outputs {
        Outputs::Own(Mutex::new(Copied { buffers, copies }))
    }
}

impl Copied {
    /// Waits for the copies, if nobody has.
    fn read(&mut self, wanted: &[BufferId]) -> Result<Vec<HostTensor>> {
        let here = self.copies.arrived()?;
        let find = |b: &BufferId| self.buffers.iter().position(|own| own == b).map(|k| here[k].clone());
        wanted.iter().map(|b| find(b).ok_or_else(|| Error::Device(format!("buffer {} was not copied", b.0)))).collect()
    }
}

impl StepResult {
    pub(super) fn new(ticket: Arc<Ticket>, ledger: Arc<Ledger>, outputs: Outputs) -> StepResult {
        StepResult { ticket, ledger, outputs }
    }

    /// Waits for the step; an error when its status word refused it (the state is then as it was).
    pub fn wait(&self) -> Result<()> {
        self.settle().map(|_| ())
    }

    /// The loss.
    pub fn loss(&self) -> Result<f32> {
        let loss = self.settle()?;
        let loss = loss.ok_or_else(|| Error::Input("the program has no loss".into()))?;
        loss.to_f32().first().copied().ok_or_else(|| Error::Input("the loss has no element".into()))
    }

    /// An output by name.
    pub fn output(&self, name: &str) -> Result<HostTensor> {
        let outputs = &self.ticket.shared.plan.program.outputs;
        let found = outputs.iter().find(|o| o.name == name).ok_or_else(|| {
            let names: Vec<&str> = outputs.iter().map(|o| o.name.as_str()).collect();
            Error::Input(format!("there is no output {name}; there are [{}]", names.join(", ")))
        })?;
        Ok(self.read(&[found.buffer])?.remove(0))
    }

    /// The user's outputs and the loss, in order, by name.
    pub fn outputs(&self) -> Result<Vec<(String, HostTensor)>> {
        self.read_where(|role| match role {
            OutputRole::User | OutputRole::Loss => Some(None),
            _ => None,
        })
    }

    /// Gradients, by the name of the input: of given cotangents, and of steps of training that were compiled with
    /// `Config::gradients`, as the loss has them, before clipping.
    ///
    /// ```
    /// # use inductor::{Config, DType, Device, Gradients, HostTensor, Initializer, compile_train, optim, trace};
    /// let model = trace("w", |t| Ok(t.parameter("w", DType::F32, 2, Initializer::Ones).dot(&t.input("x", DType::F32, 2))))?;
    /// let config = Config { gradients: Gradients::Values, ..Config::default() };
    /// let step = compile_train(&model, &Device::cpu(), optim::Adam::new(0.1), &config)?;
    /// let result = step.run(&mut step.init(0)?, [HostTensor::f32(&[2], &[3.0, 4.0])])?;
    /// assert_eq!(result.gradients()?, [("w".to_string(), HostTensor::f32(&[2], &[3.0, 4.0]))]);
    /// assert_eq!(result.gradient_norms()?, [("w".to_string(), 5.0)]);
    /// # Ok::<(), inductor::Error>(())
    /// ```
    pub fn gradients(&self) -> Result<Vec<(String, HostTensor)>> {
        self.expect_told(Gradients::Values)?;
        self.read_where(|role| match role {
            OutputRole::Gradient(of) => Some(Some(of.clone())),
            _ => None,
        })
    }

    /// The norm of each parameter's gradient, before clipping, by the name of the parameter: of steps of training that were compiled
    /// with `Config::gradients`.
    pub fn gradient_norms(&self) -> Result<Vec<(String, f64)>> {
        self.expect_told(Gradients::Norms)?;
        let norms = self.read_where(|role| match role {
            OutputRole::GradientNorm(of) => Some(Some(of.clone())),
            _ => None,
        })?;
        Ok(norms.into_iter().map(|(name, norm)| (name, norm.to_f64()[0])).collect())
    }

    /// An error where a step of training was compiled without telling of its gradients, or a program has none.
    fn expect_told(&self, wanted: Gradients) -> Result<()> {
        let config = &self.ticket.shared.config;
        let told = match config.mode {
            Mode::Train(_) => config.gradients == Gradients::Values || config.gradients == wanted,
            Mode::Vjp => wanted == Gradients::Values,
            Mode::Inference => false,
        };
        match (told, &config.mode) {
            (true, _) => Ok(()),
            (false, Mode::Train(_)) => {
                Err(Error::Input(format!("the step does not tell its gradients: compile it with Config::gradients = Gradients::{wanted:?}")))
            }
            (false, _) => Err(Error::Input("the program computes no such gradients: see compile_train and compile_vjp".into())),
        }
    }

    fn read_where(&self, name: impl Fn(&OutputRole) -> Option<Option<String>>) -> Result<Vec<(String, HostTensor)>> {
        let outputs = &self.ticket.shared.plan.program.outputs;
        let chosen = outputs.iter().filter_map(|o| Some((name(&o.role)?.unwrap_or_else(|| o.name.clone()), o.buffer)));
        let (names, buffers): (Vec<String>, Vec<BufferId>) = chosen.unzip();
        Ok(names.into_iter().zip(self.read(&buffers)?).collect())
    }

    fn read(&self, buffers: &[BufferId]) -> Result<Vec<HostTensor>> {
        self.settle()?;
        let run = match &self.outputs {
            Outputs::Own(copied) => return lock(copied).read(buffers),
            Outputs::OnEngine(run) => *run,
        };
        let core = lock(&self.ticket.shared.core);
        if core.runs != run {
            let overwritten = format!("the outputs of run {run} were overwritten by run {}", core.runs);
            return Err(Error::Input(format!("{overwritten}; read them before the step runs again, or use Step::infer")));
        }
        core.engine.read_all(buffers)
    }

    fn settle(&self) -> Result<Option<HostTensor>> {
        self.ticket.tell(&self.ledger)
    }
}

impl Drop for StepResult {
    fn drop(&mut self) {
        self.ticket.drop_result();
    }
}
