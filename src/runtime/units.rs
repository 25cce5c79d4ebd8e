//! Whether an adapter's matrix units compute what they are taken for: each way of using them is tried before the first program that does, and
//! the outcome kept in the cache folder.

use super::gpu::GpuDevice;
use super::probe::blob;
use super::{Device, compile};
use crate::config::{Config, Target};
use crate::error::{Error, Result};
use crate::eval::evaluate;
use crate::forms::{Form, Math, Terms};
use crate::frontend::{Initializer, Traced};
use crate::graph::{Builder, Graph, InputRole, OutputRole, print};
use crate::ops::{AttentionOperand, Built, FusedAttention, FusedAttentionGrad, Precision, ReduceKind, ScaledDotProductAttention};
use crate::types::{DType, HostTensor, MatmulPrecision, TensorType};
use std::sync::{Arc, OnceLock};

/// What is known of an adapter's matrix units, by [`TRIALS`].
#[derive(Debug, Default)]
pub(super) struct Units([OnceLock<bool>; TRIALS.len()]);

/// A way of using matrix units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Trial {
    /// In attention, or else in products.
    attention: bool,
    terms: Terms,
}

const TRIALS: [Trial; 6] = [
    Trial { attention: false, terms: Terms::Halves },
    Trial { attention: false, terms: Terms::Rounded },
    Trial { attention: false, terms: Terms::Split },
    Trial { attention: true, terms: Terms::Halves },
    Trial { attention: true, terms: Terms::Rounded },
    Trial { attention: true, terms: Terms::Split },
];

impl Units {
    /// Units of which nothing is tried.
    pub(super) fn assumed(right: bool) -> Units {
        Units(std::array::from_fn(|_| OnceLock::from(right)))
    }

    /// Whether they compute rightly what kernels of these forms take them for. A failure is warned of once.
    pub(super) fn are_right(&self, forms: &[Form], gpu: &Arc<GpuDevice>, target: &Target) -> bool {
        let used = TRIALS.iter().zip(&self.0).filter(|(trial, _)| forms.iter().any(|form| trial.is_of(form)));
        used.fold(true, |right, (trial, known)| *known.get_or_init(|| trial.passes(gpu, target)) && right)
    }
}

impl Trial {
    fn is_of(&self, form: &Form) -> bool {
        match form {
            Form::Product(tile) => !self.attention && tile.math == Math::Cooperative(self.terms),
            Form::Attention(blocks) => self.attention && blocks.units == Some(self.terms),
            _ => false,
        }
    }

    fn name(&self) -> &'static str {
        if self.attention { "attention" } else { "products" }
    }

    fn dtype(&self) -> DType {
        if self.terms == Terms::Halves { DType::F16 } else { DType::F32 }
    }

    /// The precision that admits it. Halves are multiplied by matrix units at any.
    fn precision(&self) -> MatmulPrecision {
        match self.terms {
            Terms::Halves => MatmulPrecision::Highest,
            Terms::Rounded => MatmulPrecision::Medium,
            Terms::Split => MatmulPrecision::High,
        }
    }

    /// The largest error that is right.
    fn bound(&self) -> f64 {
        match (self.terms, self.attention) {
            (Terms::Split, _) => 2e-6,
            (_, false) => 2e-3,
            // Weights are rounded, too.
            (_, true) => 4e-3,
        }
    }

    /// Whether the adapter passes, which is kept.
    fn passes(&self, gpu: &Arc<GpuDevice>, target: &Target) -> bool {
        let graph = if self.attention { attention(self.dtype()) } else { product(self.dtype()) }.expect("the program is sound");
        let kept = gpu.cache_folder().map(|folder| {
            let way = format!("{self:?}");
            let texts = [gpu.key().as_bytes(), way.as_bytes(), print(&graph).as_bytes(), env!("CARGO_PKG_VERSION").as_bytes()].map(<[u8]>::to_vec);
            blob(folder, TEMPLATES.into_iter().chain(texts.iter().map(Vec::as_slice)))
        });
        let known: Option<bool> = kept.as_ref().and_then(|f| serde_json::from_slice(&f.load()?).ok());
        known.unwrap_or_else(|| {
            let right = self.is_right(&graph, gpu, target);
            if let (Some(kept), Ok(text)) = (kept, serde_json::to_vec(&right)) {
                kept.store(&text);
            }
            right
        })
    }

    fn is_right(&self, graph: &Graph, gpu: &Arc<GpuDevice>, target: &Target) -> bool {
        let (what, adapter) = (self.name(), &gpu.caps().name);
        let error = self.error(graph, gpu, target).unwrap_or_else(|error| {
            tracing::warn!(%error, "{what} by cooperative matrices failed");
            f64::INFINITY
        });
        tracing::info!(%adapter, terms = ?self.terms, error, "probed {what} by cooperative matrices");
        let right = error <= self.bound();
        if !right {
            tracing::warn!(%adapter, terms = ?self.terms, "{what} by cooperative matrices come out wrong here: programs are computed without");
        }
        right
    }

    /// The largest error of the program's results. A program without matrix units is an error.
    fn error(&self, graph: &Graph, gpu: &Arc<GpuDevice>, target: &Target) -> Result<f64> {
        let device = Device::assumed(gpu.clone(), target.clone());
        let inputs = operands(graph)?;
        let traced = Traced { graph: graph.clone(), ..Traced::default() };
        let step = compile(&traced, &device, &Config { matmul_precision: self.precision(), ..Config::default() })?;
        let multiplies = |form: &&Form| matches!(form, Form::Product(_) | Form::Attention(_));
        let mut forms = step.plan().program.forms.iter().filter(multiplies);
        if !forms.any(|form| self.is_of(form)) {
            return Err(Error::Device("no cooperative matrices were chosen for the probe".into()));
        }
        let results = step.run(&mut step.init(0)?, &inputs[..])?;
        let got = graph.outputs.iter().map(|o| results.output(&o.name)).collect::<Result<Vec<_>>>()?;
        if self.attention { error_of_attention(graph, &inputs, &got) } else { Ok(error_of_product(&inputs, &got[0])) }
    }
}

const TEMPLATES: [&[u8]; 8] = [
    include_bytes!("../../shaders/cooperative.wgsl.j2"),
    include_bytes!("../../shaders/tile_order.wgsl.j2"),
    include_bytes!("../../shaders/attention_units.wgsl.j2"),
    include_bytes!("../../shaders/attention_scaled.wgsl.j2"),
    include_bytes!("../../shaders/attention_blocks.wgsl.j2"),
    include_bytes!("../../shaders/unit_lines.wgsl.j2"),
    include_bytes!("../../shaders/unit_halves.wgsl.j2"),
    include_bytes!("../../shaders/unit_entry.wgsl.j2"),
];

fn operands(graph: &Graph) -> Result<Vec<HostTensor>> {
    let sample = |(input, seed): (&crate::graph::Input, u64)| {
        let ty = graph.ty(input.value);
        let shape = ty.shape.as_ints().ok_or_else(|| Error::Device("a probe has symbolic sizes".into()))?;
        Ok(Initializer::Uniform { low: -1.0, high: 1.0 }.sample(ty.dtype, &shape, seed, "operand"))
    };
    graph.inputs.iter().zip(1..).map(sample).collect()
}

/// Sizes of the probed product: no multiples of a tile, and so many that matrix units are chosen.
const PRODUCT: [usize; 3] = [1000, 1032, 1036];

/// `x y` with every product of tiles: several workgroups, steps, promotions, a last step that is not whole.
fn product(dtype: DType) -> Built<Graph> {
    let [m, n, k] = PRODUCT.map(|size| size as i64);
    let mut b = Builder::new("product");
    let (x, y) = (b.input("x", InputRole::Input, TensorType::new(dtype, (m, k)))?, b.input("y", InputRole::Input, TensorType::new(dtype, (k, n)))?);
    let z = b.matmul(x, y)?;
    b.output("z", OutputRole::User, z);
    Ok(b.finish())
}

/// The largest error of a sample of the product's rows, relative to the norms of a row and a column.
fn error_of_product(operands: &[HostTensor], got: &HostTensor) -> f64 {
    let [m, n, k] = PRODUCT;
    let (x, y, got) = (operands[0].to_f64(), operands[1].to_f64(), got.to_f64());
    let mut worst = 0f64;
    for i in (0..m).step_by(37) {
        for j in 0..n {
            let terms = (0..k).map(|t| (x[i * k + t], y[t * n + j]));
            let (sum, left, right) = terms.fold((0.0, 0.0, 0.0), |(s, l, r), (a, b)| (s + a * b, l + a * a, r + b * b));
            let error = (got[i * n + j] - sum).abs() / f64::sqrt(left * right);
            // NaN is no small error.
            worst = if error <= worst { worst } else { error };
        }
    }
    worst
}

/// Causal attention and its gradients: several workgroups and steps, rows, columns and features that fill no block.
fn attention(dtype: DType) -> Built<Graph> {
    let mut b = Builder::new("attention");
    let mut input = |name: &str, rows: i64| b.input(name, InputRole::Input, TensorType::new(dtype, (2, rows, 40)));
    let (q, k, v, g) = (input("q", 200)?, input("k", 264)?, input("v", 264)?, input("g", 200)?);
    let attention = ScaledDotProductAttention { causal: true, ..ScaledDotProductAttention::default() };
    let results = b.node(FusedAttention { attention: attention.clone(), stores_weights: false }, &[q, k, v])?;
    let (y, logsumexp) = (results[0], results[1]);
    let (y32, g32) = (b.cast(y, DType::F32)?, b.cast(g, DType::F32)?);
    let product = b.mul(y32, g32)?;
    let delta = b.reduce(ReduceKind::Sum, product, &[2], false)?;
    b.output("y", OutputRole::User, y);
    for (name, of) in [("dq", AttentionOperand::Query), ("dk", AttentionOperand::Key), ("dv", AttentionOperand::Value)] {
        let gradient = b.op(FusedAttentionGrad { of, attention: attention.clone() }, &[q, k, v, g, logsumexp, delta])?;
        b.output(name, OutputRole::User, gradient);
    }
    Ok(b.finish())
}

/// The largest error of a result, relative to its norm.
fn error_of_attention(graph: &Graph, operands: &[HostTensor], got: &[HostTensor]) -> Result<f64> {
    let expected = evaluate(graph, operands, Precision::Exact)?;
    let error = |(got, expected): (&HostTensor, &HostTensor)| {
        let (got, expected) = (got.to_f64(), expected.to_f64());
        let (error, norm) = got.iter().zip(&expected).fold((0.0, 0.0), |(e, n), (x, y)| (e + (x - y) * (x - y), n + y * y));
        f64::sqrt(error / norm)
    };
    // NaN is no small error.
    Ok(got.iter().zip(&expected).map(error).fold(0.0, |worst, error| if error <= worst { worst } else { error }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Cooperative, DeviceCaps, DeviceModel};

    /// Emulated, so that what fails on an adapter is the adapter's. Products are too large for that.
    #[test]
    fn attention_passes_its_trials_where_units_are_emulated() {
        let Ok(software) = Device::software() else { return };
        let gpu = software.gpu().expect("a software adapter is one");
        let caps = DeviceCaps { cooperative: Cooperative::Emulated, max_workgroup_bytes: 48 << 10, ..software.caps().clone() };
        let target = Target { caps, model: DeviceModel::large_gpu() };
        for trial in TRIALS.iter().filter(|trial| trial.attention && trial.terms != Terms::Rounded) {
            let error = trial.error(&attention(trial.dtype()).unwrap(), gpu, &target).unwrap();
            assert!(error <= trial.bound(), "{trial:?}: {error:e}");
        }
    }

    #[test]
    fn only_what_forms_use_is_asked() {
        let Ok(software) = Device::software() else { return };
        let (gpu, target) = (software.gpu().expect("a software adapter is one"), software.target());
        let units = Units::assumed(false);
        assert!(units.are_right(&[Form::Rank], gpu, &target));
        let blocks = crate::forms::Blocks { bx: 64, by: 16, bf: 64, bk: 16, unroll: 16, units: None };
        assert!(units.are_right(&[Form::Attention(blocks)], gpu, &target));
        let split = crate::forms::Blocks { units: Some(Terms::Split), ..blocks };
        assert!(!units.are_right(&[Form::Rank, Form::Attention(split)], gpu, &target));
    }
}
