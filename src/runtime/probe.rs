//! Whether an adapter computes what it says that it can: asked when a device is first used, kept in the cache folder.
//!
//! Small programs hold the driver against the graph evaluation: 64-bit integers (functions of loaded, widened and literal
//! operands), comparisons of them, floats of 32 and 64 bits with NaN, infinities, signed zeros and sums that must not be
//! reordered. What fails is spelled otherwise, or counts as missing: see the fields of [`DeviceCaps`].

use super::gpu::GpuDevice;
use super::gpu::cache::BlobFile;
use super::{Device, Step, compile};
use crate::config::{Config, Target};
use crate::error::{Error, Result};
use crate::eval::evaluate;
use crate::frontend::Traced;
use crate::graph::{Builder, Graph, InputRole, OutputRole, Value, print};
use crate::ops::{Built, Precision};
use crate::scalar::ScalarFn;
use crate::threads;
use crate::types::{DType, DeviceCaps, HostTensor, IntoShape, Shape, TensorType};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

/// What was found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Findings {
    /// Floats come out right with the driver's own compiler as it is.
    exact_floats: bool,
    /// They do when it is forbidden to simplify.
    exact_when_asked: bool,
    converts_halves: bool,
    i64: bool,
    i64_comparisons: bool,
    f64: bool,
}

impl Findings {
    fn over(self, caps: DeviceCaps) -> DeviceCaps {
        let Findings { exact_floats, converts_halves, i64, i64_comparisons, f64, .. } = self;
        DeviceCaps { i64: caps.i64 && i64, f64: caps.f64 && f64, i64_comparisons, exact_floats, converts_halves, ..caps }
    }
}

/// What programs on an adapter may rely on. Errors of a probe count as its failure.
pub(super) fn target(gpu: &Arc<GpuDevice>) -> Target {
    let probes = Probes::new();
    let kept = gpu.cache_folder().map(|folder| file(folder, &gpu.key(), &probes));
    let known: Option<Findings> = kept.as_ref().and_then(|f| serde_json::from_slice(&f.load()?).ok());
    let findings = known.unwrap_or_else(|| {
        let found = probes.ask(gpu);
        // What a lost device answers says nothing about the next one.
        if let (Some(kept), Ok(text), None) = (kept, serde_json::to_vec(&found), gpu.lost()) {
            kept.store(&text);
        }
        found
    });
    gpu.forbid_simplification(findings.exact_when_asked && !findings.exact_floats);
    tracing::info!(adapter = %gpu.caps().name, ?findings, "probed");
    Target { caps: findings.over(gpu.caps().clone()), model: gpu.model().clone() }
}

fn file(folder: &Path, adapter: &str, probes: &Probes) -> BlobFile {
    let texts: Vec<String> = probes.all().map(print).collect();
    // Another version spells the same programs otherwise.
    let spelling = [adapter.as_bytes(), env!("CARGO_PKG_VERSION").as_bytes(), include_bytes!("../../shaders/helpers.wgsl").as_slice()];
    blob(folder, spelling.into_iter().chain(texts.iter().map(|t| t.as_bytes())))
}

/// The file of findings that depend on these texts.
pub(super) fn blob<'a>(folder: &Path, texts: impl IntoIterator<Item = &'a [u8]>) -> BlobFile {
    let mut hash = blake3::Hasher::new();
    for text in texts {
        hash.update(text);
    }
    BlobFile::at(folder.join("probes").join(format!("{}.json", &hash.finalize().to_hex()[..32])))
}

/// The programs of each probe. Each folds everything that it computes into one word an element.
struct Probes {
    floats: Vec<Graph>,
    doubles: Vec<Graph>,
    halves: Vec<Graph>,
    arithmetic: Vec<Graph>,
    comparisons: Vec<Graph>,
}

/// Programs that a long probe is divided into. Compiling a program takes long in proportion to the square of what it fuses, and
/// several are compiled side by side.
const PARTS: usize = 6;

impl Probes {
    fn new() -> Probes {
        let sound = "the probes are sound";
        Probes {
            floats: (0..PARTS).map(|part| floats(DType::F32, part).expect(sound)).collect(),
            doubles: (0..PARTS).map(|part| floats(DType::F64, part).expect(sound)).collect(),
            halves: vec![halves().expect(sound)],
            arithmetic: vec![integers(false).expect(sound)],
            comparisons: vec![integers(true).expect(sound)],
        }
    }

    fn all(&self) -> impl Iterator<Item = &Graph> {
        [&self.floats, &self.doubles, &self.halves, &self.arithmetic, &self.comparisons].into_iter().flatten()
    }

    fn ask(&self, gpu: &Arc<GpuDevice>) -> Findings {
        let raw = gpu.caps().clone();
        let passes = |graphs: &[Graph], i64_comparisons: bool| passes(gpu, graphs, &DeviceCaps { i64_comparisons, ..raw.clone() });
        // Division and others compare, too.
        let computes = || passes(&self.arithmetic, true);
        let integers = || raw.i64 && beside(&computes, || passes(&self.comparisons, true)) == (true, true);
        let (i64_comparisons, found) = beside(&integers, || self.ask_floats(gpu, &raw));
        let i64 = i64_comparisons || raw.i64 && passes(&self.comparisons, false) && passes(&self.arithmetic, false);
        Findings { i64, i64_comparisons, ..found }
    }

    /// In two rounds, since compiling takes most of the time: what a driver may simplify changes floats only, and is known before the others.
    fn ask_floats(&self, gpu: &Arc<GpuDevice>, raw: &DeviceCaps) -> Findings {
        let (exact_floats, questions) = match Question::all(gpu, &self.floats, raw) {
            Ok(questions) => (judged(answers(&questions, Question::is_right)), questions),
            Err(error) => (judged(Err(error)), vec![]),
        };
        let forbidden = !exact_floats && !questions.is_empty() && gpu.forbid_simplification(true);
        let asked = || forbidden && judged(answers(&questions, Question::again));
        let halves = || passes(gpu, &self.halves, raw);
        let others = || beside(&halves, || raw.f64 && passes(gpu, &self.doubles, raw));
        let (helps, mut found) = beside(&asked, others);
        if forbidden && !helps {
            gpu.forbid_simplification(false);
            found = others();
        }
        let (converts_halves, f64) = found;
        Findings { exact_floats, exact_when_asked: exact_floats || helps, converts_halves, f64, ..Findings::default() }
    }
}

/// Whether an adapter that is taken to have those capabilities answers all of these right.
fn passes(gpu: &Arc<GpuDevice>, graphs: &[Graph], caps: &DeviceCaps) -> bool {
    judged(Question::all(gpu, graphs, caps).and_then(|asked| answers(&asked, Question::is_right)))
}

/// The first on a thread of its own, where there is one.
fn beside<A: Send, B>(first: &(impl Fn() -> A + Sync), second: impl FnOnce() -> B) -> (A, B) {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("probe".into()).spawn_scoped(scope, first);
        let second = second();
        let joined = thread.ok().and_then(|t| t.join().ok());
        (joined.unwrap_or_else(first), second)
    })
}

/// What came of a probe; an error counts as a wrong answer.
fn judged(right: Result<bool>) -> bool {
    right.unwrap_or_else(|error| {
        tracing::warn!(%error, "a probe of the adapter failed");
        false
    })
}

/// Whether all questions are answered rightly.
fn answers<'g>(questions: &[Question<'g>], ask: fn(&Question<'g>) -> Result<bool>) -> Result<bool> {
    threads::collect(questions.len(), |k| ask(&questions[k])).into_iter().try_fold(true, |all, right| Ok(all && right?))
}

/// A program compiled for an adapter that is taken to have certain capabilities, with its operands and the right answer.
struct Question<'g> {
    graph: &'g Graph,
    step: Step,
    inputs: Vec<HostTensor>,
    expected: Vec<i64>,
}

impl<'g> Question<'g> {
    fn all(gpu: &Arc<GpuDevice>, graphs: &'g [Graph], caps: &DeviceCaps) -> Result<Vec<Question<'g>>> {
        threads::collect(graphs.len(), |k| Question::new(gpu, &graphs[k], caps.clone())).into_iter().collect()
    }

    fn new(gpu: &Arc<GpuDevice>, graph: &'g Graph, caps: DeviceCaps) -> Result<Question<'g>> {
        let device = Device::assumed(gpu.clone(), Target { caps, model: gpu.model().clone() });
        let inputs: Vec<HostTensor> = graph.inputs.iter().map(|i| operand(&i.name, graph.ty(i.value).dtype)).collect();
        let expected = evaluate(graph, &inputs, Precision::Working)?;
        let expected = expected.first().ok_or_else(|| Error::Device("a probe gives nothing".into()))?.to_i64();
        let traced = Traced { graph: graph.clone(), ..Traced::default() };
        // Halves are looked at as they are stored.
        let fuse = graph.nodes.iter().all(|n| n.types.iter().all(|t| t.dtype != DType::F16));
        let step = compile(&traced, &device, &Config { fuse, ..Config::default() })?;
        Ok(Question { graph, step, inputs, expected })
    }

    /// Whether the adapter computes what the graph evaluation does.
    fn is_right(&self) -> Result<bool> {
        self.answers(&self.step)
    }

    /// The same of shaders that are compiled anew, which the device may hand over otherwise by now.
    fn again(&self) -> Result<bool> {
        self.answers(&self.step.rebuild(self.step.device())?)
    }

    fn answers(&self, step: &Step) -> Result<bool> {
        let got = step.run(&mut step.init(0)?, &self.inputs[..])?.output("digest")?.to_i64();
        let differing: Vec<usize> = (0..got.len()).filter(|&k| got.get(k) != self.expected.get(k)).collect();
        if !differing.is_empty() {
            tracing::info!(probe = %self.graph.name, ?differing, "a probe of the adapter found differences");
        }
        Ok(got.len() == self.expected.len() && differing.is_empty())
    }
}

const NARROW: [i64; 12] = [0, 1, -1, 2, -2, 3, 7, -7, 100, -100, i32::MAX as i64, i32::MIN as i64];
const WIDE: [i64; 12] = [0, 1, -1, 3, -3, 1 << 32, -1 << 32, (1 << 33) + 5, 1 << 53, -7, i64::MAX, i64::MIN];
const LARGE: f64 = (1u128 << 100) as f64;
/// Without subnormals, which a device may flush. Products and quotients of these are exact, so that fusing them with a sum changes
/// nothing.
const REAL: [f64; 12] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 1.0, -1.0, 2.0, -4.0, 1.0 / LARGE, LARGE, -LARGE];

/// Numbers around those that f16 holds: ties, the largest, the first infinite one, subnormals and what is nearest to zero.
const ROUNDED: [f64; 12] = [
    1.0 + 1.0 / 2048.0,
    1.0 + 3.0 / 2048.0,
    -1.0 - 1.0 / 4096.0,
    1.0 / 3.0,
    65519.0,
    65520.0,
    -1e9,
    1.0 / (1 << 24) as f64,
    1.0 / (1 << 25) as f64,
    -1.5 / (1 << 24) as f64,
    5.25 / (1 << 20) as f64,
    f64::NAN,
];

/// Every pair of special values: `x` varies slowly, `y` fast.
fn operand(name: &str, dtype: DType) -> HostTensor {
    let n = REAL.len();
    if name == "rounded" {
        return HostTensor::from_f64(dtype, &[n * n], &(0..n * n).map(|k| ROUNDED[k % n]).collect::<Vec<_>>());
    }
    let at = |k: usize| if name.starts_with('x') { k / n } else { k % n };
    if dtype.is_float() {
        return HostTensor::from_f64(dtype, &[n * n], &(0..n * n).map(|k| REAL[at(k)]).collect::<Vec<_>>());
    }
    let values = if dtype == DType::I64 { WIDE } else { NARROW };
    HostTensor::from_i64(dtype, &[n * n], &(0..n * n).map(|k| values[at(k)]).collect::<Vec<_>>())
}

/// A program that folds what it computes into one word an element.
struct Digest {
    b: Builder,
    word: Value,
    /// Which of so many programs this is: it takes every so-many-th of what all of them compute.
    part: (usize, usize),
    seen: usize,
}

impl Digest {
    fn new(name: &str, part: (usize, usize)) -> Built<Digest> {
        let mut b = Builder::new(name);
        let word = b.full(DType::U32, 1.0, Digest::shape())?;
        Ok(Digest { b, word, part, seen: 0 })
    }

    /// Whether the next value is this program's.
    fn is_mine(&mut self) -> bool {
        self.seen += 1;
        self.seen % self.part.1 == self.part.0
    }

    fn shape() -> Shape {
        [(REAL.len() * REAL.len()) as i64].into_shape()
    }

    fn input(&mut self, name: &str, dtype: DType) -> Built {
        self.b.input(name, InputRole::Input, TensorType { dtype, shape: Digest::shape() })
    }

    fn literal(&mut self, dtype: DType, x: f64) -> Built {
        self.b.full(dtype, x, Digest::shape())
    }

    /// Takes in a number that converts to u32.
    fn take(&mut self, v: Value) -> Built<()> {
        let v = self.b.cast(v, DType::U32)?;
        let factor = self.literal(DType::U32, 31.0)?;
        let scaled = self.b.mul(self.word, factor)?;
        self.word = self.b.add(scaled, v)?;
        Ok(())
    }

    /// Takes in both words of a 64-bit integer.
    fn take_wide(&mut self, v: Value) -> Built<()> {
        let bits = self.literal(DType::I64, 32.0)?;
        let high = self.b.scalar(ScalarFn::ShiftRight, &[v, bits])?;
        self.take(v)?;
        self.take(high)
    }

    /// Takes in whether a float is NaN and whether it is zero, and its sign, that of zeros included, if it is this program's.
    fn take_float(&mut self, v: Value) -> Built<()> {
        if !self.is_mine() {
            return Ok(());
        }
        let zero = self.literal(self.b.dtype(v), 0.0)?;
        let inverse = self.b.scalar(ScalarFn::Reciprocal, &[v])?;
        for (f, operands) in [(ScalarFn::IsNan, vec![v]), (ScalarFn::Eq, vec![v, zero]), (ScalarFn::Gt, vec![inverse, zero])] {
            let flag = self.b.scalar(f, &operands)?;
            self.take(flag)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Graph {
        self.b.output("digest", OutputRole::User, self.word);
        self.b.finish()
    }
}

/// All functions of one or two 64-bit integers, or all comparisons: of loaded operands, of operands widened from 32 bits, and of
/// such with a literal on either side.
fn integers(comparisons: bool) -> Built<Graph> {
    let mut p = Digest::new(if comparisons { "i64_comparisons" } else { "i64" }, (0, 1))?;
    let (x, y) = (p.input("x", DType::I64)?, p.input("y", DType::I64)?);
    let narrow = [p.input("x_narrow", DType::I32)?, p.input("y_narrow", DType::I32)?];
    let widened = [p.b.cast(narrow[0], DType::I64)?, p.b.cast(narrow[1], DType::I64)?];
    let small = [p.literal(DType::I64, 3.0)?, p.literal(DType::I64, -2.0)?];
    let large = p.literal(DType::I64, (1i64 << 33) as f64)?;
    let pairs = [[x, y], widened, [widened[0], small[0]], [small[1], widened[1]], [large, y]];
    // Powers are made of the others.
    let takes = |f: &&ScalarFn| f.row().domain.admits(DType::I64) && f.row().predicate == comparisons && **f != ScalarFn::Pow;
    for f in ScalarFn::ALL.iter().filter(takes) {
        for pair in pairs {
            let result = match f.row().arity {
                1 => p.b.scalar(*f, &pair[..1])?,
                2 => p.b.scalar(*f, &pair)?,
                _ => continue,
            };
            if comparisons { p.take(result)? } else { p.take_wide(result)? }
        }
    }
    if !comparisons {
        for (from, to) in [(x, DType::F32), (x, DType::I32), (x, DType::Bool), (widened[0], DType::F32)] {
            let converted = p.b.cast(from, to)?;
            let back = p.b.cast(converted, DType::I64)?;
            p.take_wide(back)?;
        }
    }
    Ok(p.finish())
}

/// Numbers of f32 stored as f16.
fn halves() -> Built<Graph> {
    let mut p = Digest::new("converts_halves", (0, 1))?;
    let x = p.input("rounded", DType::F32)?;
    let half = p.b.cast(x, DType::F16)?;
    let rounded = p.b.cast(half, DType::F32)?;
    for scale in [1.0, 2048.0, (1 << 25) as f64] {
        let scaled = p.b.scale(rounded, scale)?;
        p.take(scaled)?;
        let negative = p.b.scale(scaled, -1.0)?;
        p.take(negative)?;
    }
    p.take_float(rounded)?;
    Ok(p.finish())
}

/// Expressions that are simplified wrongly where NaN, infinities and rounding are forgotten.
fn floats(dtype: DType, part: usize) -> Built<Graph> {
    let mut p = Digest::new(if dtype == DType::F64 { "f64" } else { "exact_floats" }, (part, PARTS))?;
    let (x, y) = (p.input("x", dtype)?, p.input("y", dtype)?);
    let literals =
        [p.literal(dtype, 0.0)?, p.literal(dtype, -0.0)?, p.literal(dtype, 1.0)?, p.literal(dtype, f64::INFINITY)?, p.literal(dtype, f64::NAN)?];
    let mut values = vec![x];
    for f in [ScalarFn::Add, ScalarFn::Sub, ScalarFn::Mul, ScalarFn::Div] {
        values.push(p.b.scalar(f, &[x, y])?);
        for literal in literals {
            values.push(p.b.scalar(f, &[x, literal])?);
        }
    }
    for value in values.clone() {
        // Differences with what is in them already, and with what cancels.
        for subtrahend in [x, literals[2]] {
            let nested = p.b.scalar(ScalarFn::Sub, &[value, subtrahend])?;
            p.take_float(nested)?;
        }
    }
    for f in [ScalarFn::Floor, ScalarFn::Trunc, ScalarFn::Abs, ScalarFn::Neg, ScalarFn::Relu] {
        values.push(p.b.scalar(f, &[x])?);
    }
    for f in [ScalarFn::Lt, ScalarFn::Le, ScalarFn::Eq, ScalarFn::Ne] {
        let flag = p.b.scalar(f, &[x, y])?;
        p.take(flag)?;
        let not = p.b.scalar(ScalarFn::LogicalNot, &[flag])?;
        p.take(not)?;
        let itself = p.b.scalar(f, &[x, x])?;
        p.take(itself)?;
    }
    for value in values {
        p.take_float(value)?;
    }
    let truncated = p.b.cast(x, DType::I32)?;
    p.take(truncated)?;
    Ok(p.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_kept_for_devices_opened_later() {
        let folder = tempfile::tempdir().unwrap();
        let probes = Probes::new();
        let findings =
            Findings { exact_floats: false, exact_when_asked: true, converts_halves: false, i64: true, i64_comparisons: false, f64: false };
        file(folder.path(), "adapter", &probes).store(&serde_json::to_vec(&findings).unwrap());
        let load = |adapter: &str| file(folder.path(), adapter, &probes).load().and_then(|b| serde_json::from_slice::<Findings>(&b).ok());
        assert_eq!(load("adapter"), Some(findings));
        assert_eq!(load("another"), None);
        let caps = findings.over(DeviceCaps::h100());
        assert_eq!((caps.i64, caps.i64_comparisons, caps.f64, caps.exact_floats), (true, false, false, false));
        assert!(!findings.over(DeviceCaps::webgpu_default()).i64);
    }

    /// The interpreter passes, so that what fails on an adapter is the adapter's.
    #[test]
    fn the_interpreter_passes_every_probe() {
        let probes = Probes::new();
        for graph in probes.all() {
            let inputs: Vec<HostTensor> = graph.inputs.iter().map(|i| operand(&i.name, graph.ty(i.value).dtype)).collect();
            let expected = evaluate(graph, &inputs, Precision::Working).unwrap();
            let step = compile(&Traced { graph: graph.clone(), ..Traced::default() }, &Device::cpu(), &Config::default()).unwrap();
            let got = step.run(&mut step.init(0).unwrap(), &inputs[..]).unwrap().output("digest").unwrap();
            assert_eq!(got.to_i64(), expected[0].to_i64(), "{}", graph.name);
        }
    }
}
