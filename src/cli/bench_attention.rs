//! The attention suite: causal attention of common shapes, its output and the gradients of its operands.

use super::{BenchOptions, Profiles, Work, arithmetic};
use anyhow::Result;
use inductor::graph::{Builder, InputRole, OutputRole};
use inductor::ops::{AttentionOperand, FusedAttention, FusedAttentionGrad, ReduceKind, ScaledDotProductAttention};
use inductor::report::Row;
use inductor::types::TensorType;
use inductor::{DType, Device, Initializer, State, Traced};

/// Heads, and rows and features of each.
#[derive(Clone, Copy)]
struct Problem {
    heads: usize,
    rows: usize,
    features: usize,
    backward: bool,
    dtype: DType,
}

/// Heads and features of the reference model (4 x 16 heads), of GPT-2 and of larger heads.
const SHAPES: [(usize, usize); 3] = [(64, 64), (48, 64), (16, 128)];

/// Rows whose error is looked at.
const SAMPLE: usize = 16;

/// Runs the suite; `--size` gives numbers of rows.
pub fn attention(options: &BenchOptions, device: &Device, profiles: &mut Profiles) -> Result<Vec<Row>> {
    let few: &[usize] = if device.is_cpu() || device.is_software() { &[256] } else { &[1024, 4096] };
    let sizes = if options.size.is_empty() { few } else { &options.size };
    let mut out = vec![];
    for &rows in sizes {
        for (heads, features) in SHAPES {
            let passes = [false, true].map(|backward| Problem { heads, rows, features, backward, dtype: options.precision.operands() });
            for problem in passes.into_iter().filter(|p| options.filter.as_ref().is_none_or(|f| p.name().contains(f.as_str()))) {
                out.push(arithmetic(options, device, &problem, profiles)?);
            }
        }
    }
    Ok(out)
}

impl Work for Problem {
    fn suite(&self) -> &'static str {
        "attention"
    }

    fn name(&self) -> String {
        let pass = if self.backward { "backward" } else { "forward" };
        format!("{}x{}x{} causal {pass}", self.heads, self.rows, self.features)
    }

    fn traced(&self) -> Result<Traced> {
        self.program().map_err(anyhow::Error::msg)
    }

    fn output(&self) -> &'static str {
        if self.backward { "dq" } else { "y" }
    }

    /// Two products forward, five backward, of the half of the scores that is seen.
    fn flops(&self) -> f64 {
        let products = if self.backward { 5.0 } else { 2.0 };
        products * (self.heads * self.features) as f64 * (self.rows as f64).powi(2)
    }

    fn sample(&self, state: &State, result: &[f64]) -> Result<Vec<(f64, f64)>> {
        let names: &[&str] = if self.backward { &["q", "k", "v", "y", "g", "logsumexp"] } else { &["q", "k", "v"] };
        let inputs: Vec<Vec<f64>> = names.iter().map(|name| Ok(state.get(name)?.to_f64())).collect::<Result<_>>()?;
        let rows = (0..SAMPLE).flat_map(|sample| {
            let (head, i) = (sample * self.heads / SAMPLE, (sample + 1) * self.rows / SAMPLE - 1);
            let start = (head * self.rows + i) * self.features;
            self.expected(&inputs, head * self.rows, i).into_iter().zip(result[start..start + self.features].iter().copied())
        });
        Ok(rows.collect())
    }
}

impl Problem {
    /// Operands are state, so that no step uploads them.
    fn program(&self) -> Result<Traced, String> {
        let mut b = Builder::new("attention");
        let of_rows = TensorType::new(DType::F32, [self.heads, self.rows]);
        let of_features = TensorType::new(self.dtype, [self.heads, self.rows, self.features]);
        let mut input = |name: &str, ty: &TensorType| b.input(name, InputRole::Parameter, ty.clone());
        let attention = ScaledDotProductAttention { causal: true, ..ScaledDotProductAttention::default() };
        let operands = [input("q", &of_features)?, input("k", &of_features)?, input("v", &of_features)?];
        let mut names = vec!["q", "k", "v"];
        if self.backward {
            let [y, g, logsumexp] = [input("y", &of_features)?, input("g", &of_features)?, input("logsumexp", &of_rows)?];
            names.extend(["y", "g", "logsumexp"]);
            let [y, g32] = [b.cast(y, DType::F32)?, b.cast(g, DType::F32)?];
            let product = b.mul(y, g32)?;
            let delta = b.reduce(ReduceKind::Sum, product, &[2], false)?;
            let operands: Vec<_> = operands.into_iter().chain([g, logsumexp, delta]).collect();
            for (name, of) in [("dq", AttentionOperand::Query), ("dk", AttentionOperand::Key), ("dv", AttentionOperand::Value)] {
                let grad = b.op(FusedAttentionGrad { of, attention: attention.clone() }, &operands)?;
                b.output(name, OutputRole::User, grad);
            }
        } else {
            let y = b.node(FusedAttention { attention, stores_weights: false }, &operands)?[0];
            b.output("y", OutputRole::User, y);
        }
        let uniform = Initializer::Uniform { low: -1.0, high: 1.0 };
        let initializers = names.into_iter().map(|name| (name.to_string(), uniform.clone())).collect();
        Ok(Traced { graph: b.finish(), initializers, ..Traced::default() })
    }

    /// Row `i` of the head whose rows start at `first`.
    fn expected(&self, inputs: &[Vec<f64>], first: usize, i: usize) -> Vec<f64> {
        let d = self.features;
        let row = |k: usize, j: usize| &inputs[k][(first + j) * d..(first + j + 1) * d];
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        let scale = 1.0 / (d as f64).sqrt();
        let scores: Vec<f64> = (0..=i).map(|j| dot(row(0, i), row(1, j)) * scale).collect();
        let of_scores = |weight: &dyn Fn(usize) -> f64, held: usize| {
            let mut sum = vec![0.0; d];
            for j in 0..=i {
                let w = weight(j);
                sum.iter_mut().zip(row(held, j)).for_each(|(s, x)| *s += w * x);
            }
            sum
        };
        if self.backward {
            let (logsumexp, delta) = (inputs[5][first + i], dot(row(3, i), row(4, i)));
            return of_scores(&|j| scale * (scores[j] - logsumexp).exp() * (dot(row(4, i), row(2, j)) - delta), 1);
        }
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
        of_scores(&|j| (scores[j] - max).exp() / sum, 2)
    }
}
