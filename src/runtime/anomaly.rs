//! The first value of a step that is not finite: [`Config::detect_anomaly`].
//!
//! Nothing is looked at in steps that go well but what the program checks itself. A refused step has left state as it was, so that it
//! can run once more: on the interpreter, one operator at a time, on the same state, inputs and keys. The first value is named that its
//! operands do not explain: NaN where none of them has any, an infinity where all are finite. Infinities that are meant, as those
//! of masks, pass.

use super::oracle::Sources;
use super::signature::first_non_finite;
use super::uploads::unravel;
use crate::config::{Config, Target};
use crate::error::{Error, Result};
use crate::interp::Interpreter;
use crate::loop_ir::{BufferId, Phase};
use crate::lower::lower;
use crate::schedule::{Program, schedule};
use crate::types::{Bindings, HostTensor};
use std::collections::HashMap;
use std::sync::Arc;

/// What a tensor has beside finite numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    #[default]
    Finite,
    Infinite,
    Nan,
}

/// The worst element of a tensor.
#[derive(Default)]
struct Worst {
    kind: Kind,
    at: usize,
    value: f64,
}

/// Names the first value that is not finite, of a run of these graphs on inputs by name. `None` where the run stops for another reason.
pub(super) fn find(sources: &Sources, config: &Config, bindings: &Bindings, inputs: &[(String, HostTensor)]) -> Result<Option<String>> {
    let program = Arc::new(one_by_one(sources, config)?);
    let mut rerun = Rerun { interpreter: Interpreter::new(program.clone())?, kinds: HashMap::new(), program: &program };
    rerun.interpreter.bind(bindings)?;
    if let Some(found) = rerun.give(inputs)? {
        return Ok(Some(found));
    }
    for index in 0..program.commands.len() {
        rerun.interpreter.run_command(index)?;
        if rerun.interpreter.status() != 0 {
            return Ok(None);
        }
        if let Some(found) = rerun.look(index)? {
            return Ok(Some(found));
        }
    }
    Ok(Some("the interpreter gets finite numbers from finite numbers throughout: either the device computes otherwise (Config::verify), or an infinite input came through".into()))
}

/// The program of those graphs with a kernel for each operator.
fn one_by_one(sources: &Sources, config: &Config) -> Result<Program> {
    let plain = Config { fuse: false, check_gradients: false, detect_anomaly: false, ..config.clone() };
    let graphs: Vec<(Phase, &crate::graph::Graph)> = sources.graphs.iter().map(|(phase, graph)| (*phase, graph)).collect();
    schedule("anomaly", lower(&graphs, &plain)?, &Target::cpu(), &plain)
}

struct Rerun<'p> {
    program: &'p Program,
    interpreter: Interpreter,
    kinds: HashMap<BufferId, Kind>,
}

impl Rerun<'_> {
    /// Gives the program its inputs, or names the one that is NaN.
    fn give(&mut self, inputs: &[(String, HostTensor)]) -> Result<Option<String>> {
        for (buffer, tensor) in &self.program.constants {
            self.kinds.insert(*buffer, worst(tensor).kind);
        }
        for input in &self.program.inputs {
            let given = inputs.iter().find(|(name, _)| *name == input.name);
            let (name, tensor) = given.ok_or_else(|| Error::Device(format!("nothing gives input {}", input.name)))?;
            let worst = worst(tensor);
            if worst.kind == Kind::Nan {
                return Ok(Some(format!("{name} itself: {}", shown(tensor, &worst))));
            }
            self.kinds.insert(input.buffer, worst.kind);
            self.interpreter.write(input.buffer, tensor)?;
        }
        Ok(None)
    }

    /// Looks at what a command has written.
    fn look(&mut self, index: usize) -> Result<Option<String>> {
        let command = &self.program.commands[index];
        let nest = &self.program.kernels[command.kernel as usize];
        let operands: Vec<BufferId> = nest.reads().iter().map(|b| command.buffers[b.0 as usize]).collect();
        let explained = operands.iter().filter_map(|b| self.kinds.get(b)).max().copied().unwrap_or_default();
        for write in &nest.writes {
            let buffer = command.buffers[write.buffer.0 as usize];
            let tensor = self.interpreter.read(buffer)?;
            let worst = worst(&tensor);
            if worst.kind > explained {
                let lines: Vec<String> = nest.provenance.locations().iter().map(|l| l.to_string()).collect();
                let at = if lines.is_empty() { String::new() } else { format!(" at {}", lines.join(", ")) };
                let phase = format!("{:?}", command.phase).to_lowercase();
                let from = self.ranges(&operands)?;
                return Ok(Some(format!("{} of the {phase}{at}: {}{from}", nest.label, shown(&tensor, &worst))));
            }
            let kind = self.kinds.entry(buffer).or_default();
            *kind = worst.kind.max(*kind);
        }
        Ok(None)
    }

    /// What the float operands of a command lie between.
    fn ranges(&self, operands: &[BufferId]) -> Result<String> {
        let mut out = String::new();
        for &b in operands {
            let placed = &self.program.buffers[b.0 as usize];
            if !placed.ty.dtype.is_float() {
                continue;
            }
            let values = self.interpreter.read(b)?.to_f64();
            let range = values.iter().filter(|x| x.is_finite()).fold(None, |range: Option<(f64, f64)>, &x| match range {
                Some((low, high)) => Some((low.min(x), high.max(x))),
                None => Some((x, x)),
            });
            if let Some((low, high)) = range {
                out += &format!("; {} is from {low:?} to {high:?}", placed.name);
            }
        }
        Ok(out)
    }
}

/// The first NaN of a tensor, else its first infinity.
fn worst(tensor: &HostTensor) -> Worst {
    let Some(first) = first_non_finite(tensor) else { return Worst::default() };
    let values = tensor.to_f64();
    let (kind, at) = match values.iter().position(|x| x.is_nan()) {
        Some(at) => (Kind::Nan, at),
        None => (Kind::Infinite, first),
    };
    Worst { kind, at, value: values[at] }
}

fn shown(tensor: &HostTensor, worst: &Worst) -> String {
    format!("element {:?} of {} is {}", unravel(worst.at, tensor.shape()), tensor.ty(), worst.value)
}
