//! Which of the forms that promise much is the fastest for each product of a program, measured on the device on the program's own
//! buffers; kept in the cache folder, an input of later compilations ([`Tuning`]).
//!
//! A round spells the program with the next form of every product and times a few steps by timestamps, so that there are as many
//! rounds as a product has forms, however many products there are.

use super::gpu::cache::BlobFile;
use super::{Device, Step};
use crate::codegen::generate;
use crate::compile::{Report, inductor_with_report};
use crate::config::{Config, Target};
use crate::error::{Error, Result};
use crate::forms::Form;
use crate::frontend::Traced;
use crate::schedule::{Program, alternatives, form_text, kernel_hashes};
use crate::types::{DeviceModel, HostTensor, TensorType, Tuning};
use std::path::Path;
use std::time::Instant;

/// Steps of a round, whose median counts.
const STEPS: usize = 7;
/// Seconds of steps, one queued behind the other, before a round is measured: clocks rise under load only, and timed steps leave gaps.
const WARM_UP_S: f64 = 0.4;
/// A form is kept where it takes less than this share of the time of the one that the model chooses: less is noise.
const NOTICEABLE: f64 = 0.98;

/// What was measured of one kernel.
#[derive(Clone, Debug)]
pub struct TunedKernel {
    /// Its operators, and the user's lines.
    pub label: String,
    /// Forms with their microseconds; the first is the one that the model chooses.
    pub forms: Vec<(Form, f64)>,
}

impl TunedKernel {
    /// The fastest form, where it is noticeably faster than the one that the model chooses.
    pub fn better(&self) -> Option<&Form> {
        let (_, first) = self.forms.first()?;
        let (form, us) = self.forms.iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
        (*us < NOTICEABLE * first).then_some(form)
    }
}

impl Device {
    /// Measures the products of a program of fixed sizes as `config` compiles it, with these inputs. What is faster than the model's choice is
    /// kept in the cache folder for devices opened later, and given with what was measured. Errors: the interpreter, symbolic sizes, a
    /// device without timestamps.
    pub fn tune(&self, traced: &Traced, config: &Config, inputs: &[HostTensor]) -> Result<(Tuning, Vec<TunedKernel>)> {
        let Some(gpu) = self.gpu() else { return Err(Error::Platform("the interpreter has no forms to measure".into())) };
        let mut target = self.target();
        target.model.tuning = Tuning::default();
        let graph = &traced.graph;
        let examples: Vec<TensorType> = graph.inputs.iter().map(|i| graph.ty(i.value).clone()).collect();
        let (mut plan, mut report) = inductor_with_report(graph, &examples, &target, config)?;
        if !self.multiplies(&alternatives(&plan.program, &target).concat()) {
            target = target.without_units();
            (plan, report) = inductor_with_report(graph, &examples, &target, config)?;
        }
        let program = plan.program;
        if !program.symbols.is_empty() {
            return Err(Error::Input("sizes of a program that is tuned are fixed".into()));
        }
        let hashes = kernel_hashes(&program);
        let kernels = Rounds { traced, device: self, config, target, program, report }.measure(inputs)?;
        let mut found = Tuning::default();
        for (hash, kernel) in hashes.into_iter().zip(&kernels) {
            if let Some(form) = kernel.better() {
                found.keep(hash, form_text(form));
            }
        }
        if let Some(folder) = gpu.cache_folder() {
            let (file, mut all) = (file(folder, &gpu.key()), self.model().tuning.clone());
            all.extend(&found);
            let text = serde_json::to_vec(&all).map_err(|e| Error::Device(format!("writing a measurement: {e}")))?;
            file.store(&text);
        }
        Ok((found, kernels.into_iter().filter(|k| k.forms.len() > 1).collect()))
    }

    /// This device, for compilations that know of a measurement.
    pub fn tuned(&self, tuning: &Tuning) -> Result<Device> {
        let mut target = self.target();
        target.model.tuning.extend(tuning);
        self.retargeted(target).ok_or_else(|| Error::Platform("the interpreter has no forms".into()))
    }
}

/// The model with what was measured on an adapter before, if anything.
pub(super) fn known(folder: Option<&Path>, adapter: &str, model: DeviceModel) -> DeviceModel {
    let kept: Option<Tuning> = folder.and_then(|f| serde_json::from_slice(&file(f, adapter).load()?).ok());
    DeviceModel { tuning: kept.unwrap_or_default(), ..model }
}

fn file(folder: &Path, adapter: &str) -> BlobFile {
    let key = blake3::hash(adapter.as_bytes()).to_hex();
    BlobFile::at(folder.join("tuning").join(format!("{}.json", &key[..32])))
}

struct Rounds<'a> {
    traced: &'a Traced,
    device: &'a Device,
    config: &'a Config,
    target: Target,
    program: Program,
    report: Report,
}

impl Rounds<'_> {
    /// The forms of each kernel with their times; kernels without a choice have one.
    fn measure(&self, inputs: &[HostTensor]) -> Result<Vec<TunedKernel>> {
        let forms = alternatives(&self.program, &self.target);
        let label = |k: usize| self.program.commands.iter().find(|c| c.kernel as usize == k).map(|c| c.label.clone()).unwrap_or_default();
        let mut kernels: Vec<TunedKernel> = (0..forms.len()).map(|k| TunedKernel { label: label(k), forms: vec![] }).collect();
        for round in 0..forms.iter().map(Vec::len).max().unwrap_or(0) {
            let times = self.round(&forms, round, inputs)?;
            for ((kernel, forms), us) in kernels.iter_mut().zip(&forms).zip(times) {
                kernel.forms.extend(forms.get(round).map(|form| (form.clone(), us)));
            }
        }
        Ok(kernels)
    }

    /// Microseconds of each kernel with its form of that number, or with its first.
    fn round(&self, forms: &[Vec<Form>], round: usize, inputs: &[HostTensor]) -> Result<Vec<f64>> {
        let forms_of_round = forms.iter().filter_map(|forms| forms.get(round).or(forms.first()).cloned()).collect();
        let program = Program { forms: forms_of_round, ..self.program.clone() };
        let step = Step::new(generate(program, &self.target)?, self.report.clone(), self.traced, self.device, self.config)?;
        step.settle()?;
        let mut state = step.init(0)?;
        step.run(&mut state, inputs)?.wait()?;
        let warm = Instant::now();
        let mut last = step.run(&mut state, inputs)?;
        while warm.elapsed().as_secs_f64() < WARM_UP_S {
            last = step.run(&mut state, inputs)?;
        }
        last.wait()?;
        let mut times: Vec<Vec<f64>> = vec![vec![]; forms.len()];
        for _ in 0..STEPS {
            for time in step.command_times()? {
                let first = step.plan().launches[time.launch].commands[0] as usize;
                times[step.plan().program.commands[first].kernel as usize].push(time.us);
            }
        }
        Ok(times.into_iter().map(median).collect())
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forms::{Math, Tile};

    fn tile(bm: u32) -> Form {
        Form::Product(Tile { bm, bn: 64, bk: 16, wm: 32, wn: 32, math: Math::Fma { halves: 1, unroll: 16, slices: 1 }, workers: None })
    }

    #[test]
    fn only_a_noticeably_faster_form_is_kept() {
        let kernel = |times: &[f64]| TunedKernel { label: "k".into(), forms: times.iter().map(|&us| (tile(us as u32), us)).collect() };
        assert_eq!(kernel(&[100.0, 99.0, 120.0]).better(), None);
        assert_eq!(kernel(&[100.0, 90.0, 80.0]).better(), Some(&tile(80)));
        assert_eq!(kernel(&[]).better(), None);
    }

    #[test]
    fn a_measurement_is_known_to_devices_opened_later() {
        let folder = tempfile::tempdir().unwrap();
        let mut tuning = Tuning::default();
        tuning.keep("kernel".into(), form_text(&tile(64)));
        file(folder.path(), "adapter").store(&serde_json::to_vec(&tuning).unwrap());
        assert_eq!(known(Some(folder.path()), "adapter", DeviceModel::large_gpu()).tuning, tuning);
        assert!(known(Some(folder.path()), "another", DeviceModel::large_gpu()).tuning.is_empty());
    }
}
