//! The conv suite: layers of ResNet-18 and ResNet-50, their outputs and both of their gradients.

use super::{BenchOptions, Profiles, Work, arithmetic};
use anyhow::Result;
use inductor::graph::{Builder, InputRole, OutputRole};
use inductor::ops::{Convolution, ConvolutionInput, ConvolutionWeight, Window};
use inductor::report::Row;
use inductor::types::TensorType;
use inductor::{DType, Device, Initializer, State, Traced};

/// A layer: channels, square images and kernels.
struct Layer {
    inner: usize,
    outer: usize,
    size: usize,
    kernel: usize,
    stride: usize,
}

const fn layer(inner: usize, outer: usize, size: usize, kernel: usize, stride: usize) -> Layer {
    Layer { inner, outer, size, kernel, stride }
}

const LAYERS: [Layer; 12] = [
    layer(3, 64, 224, 7, 2),
    layer(64, 64, 56, 3, 1),
    layer(64, 128, 56, 3, 2),
    layer(128, 128, 28, 3, 1),
    layer(128, 256, 28, 3, 2),
    layer(256, 256, 14, 3, 1),
    layer(256, 512, 14, 3, 2),
    layer(512, 512, 7, 3, 1),
    layer(64, 128, 56, 1, 2),
    layer(64, 256, 56, 1, 1),
    layer(1024, 256, 14, 1, 1),
    layer(2048, 512, 7, 1, 1),
];

/// What is computed of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pass {
    Forward,
    Input,
    Weight,
}

/// Outputs whose error is looked at.
const SAMPLE: usize = 64;

/// Runs the suite; `--size` gives numbers of images.
pub fn conv(options: &BenchOptions, device: &Device, profiles: &mut Profiles) -> Result<Vec<Row>> {
    let few: &[usize] = if device.is_cpu() || device.is_software() { &[2] } else { &[64] };
    let batches = if options.size.is_empty() { few } else { &options.size };
    let mut out = vec![];
    for &batch in batches {
        for layer in &LAYERS {
            for pass in [Pass::Forward, Pass::Input, Pass::Weight] {
                out.push(arithmetic(options, device, &Problem { batch, layer, pass, dtype: options.precision.operands() }, profiles)?);
            }
        }
    }
    Ok(out)
}

struct Problem<'l> {
    batch: usize,
    layer: &'l Layer,
    pass: Pass,
    dtype: DType,
}

impl Work for Problem<'_> {
    fn suite(&self) -> &'static str {
        "conv"
    }

    fn name(&self) -> String {
        let Layer { inner, outer, size, kernel, stride } = *self.layer;
        let pass = format!("{:?}", self.pass).to_lowercase();
        format!("{}x{inner}x{size}x{size} {outer}x{kernel}x{kernel} s{stride} {pass}", self.batch)
    }

    fn traced(&self) -> Result<Traced> {
        self.program().map_err(anyhow::Error::msg)
    }

    fn output(&self) -> &'static str {
        "y"
    }

    fn flops(&self) -> f64 {
        let Layer { inner, outer, kernel, .. } = *self.layer;
        2.0 * [self.batch, inner, outer, kernel, kernel, self.places(), self.places()].iter().map(|&n| n as f64).product::<f64>()
    }

    fn sample(&self, state: &State, result: &[f64]) -> Result<Vec<(f64, f64)>> {
        let [x, w, y] = self.shapes();
        let (names, shape) = match self.pass {
            Pass::Forward => (["x", "w"], y),
            Pass::Input => (["y", "w"], x),
            Pass::Weight => (["x", "y"], w),
        };
        let (a, b) = (state.get(names[0])?.to_f64(), state.get(names[1])?.to_f64());
        // A step that divides no size visits all coordinates.
        let places = (0..result.len()).step_by((result.len() / SAMPLE) | 1);
        Ok(places.map(|flat| (self.sum(&a, &b, unravel(flat, shape)), result[flat])).collect())
    }
}

impl Problem<'_> {
    fn padding(&self) -> usize {
        self.layer.kernel / 2
    }

    /// Places of the output along a side.
    fn places(&self) -> usize {
        (self.layer.size + 2 * self.padding() - self.layer.kernel) / self.layer.stride + 1
    }

    /// Shapes of the input, of the weight and of the output.
    fn shapes(&self) -> [[usize; 4]; 3] {
        let Layer { inner, outer, size, kernel, .. } = *self.layer;
        let side = self.places();
        [[self.batch, inner, size, size], [outer, inner, kernel, kernel], [self.batch, outer, side, side]]
    }

    /// Operands are state, so that no step uploads them.
    fn program(&self) -> Result<Traced, String> {
        let mut b = Builder::new("conv");
        let window = Window { stride: vec![self.layer.stride as u32; 2], padding: vec![self.padding() as u32; 2], dilation: vec![1; 2] };
        let [x, w, y] = self.shapes();
        let mut input = |name: &str, shape: [usize; 4]| b.input(name, InputRole::Parameter, TensorType::new(self.dtype, shape));
        let side = |n: usize| vec![n.into(); 2];
        let y = match self.pass {
            Pass::Forward => {
                let operands = [input("x", x)?, input("w", w)?];
                b.op(Convolution { window: window.into(), groups: 1 }, &operands)?
            }
            Pass::Input => {
                let operands = [input("y", y)?, input("w", w)?];
                b.op(ConvolutionInput { window: window.into(), groups: 1, size: side(x[2]) }, &operands)?
            }
            Pass::Weight => {
                let operands = [input("x", x)?, input("y", y)?];
                b.op(ConvolutionWeight { window: window.into(), groups: 1, size: side(w[2]) }, &operands)?
            }
        };
        b.output("y", OutputRole::User, y);
        let uniform = Initializer::Uniform { low: -1.0, high: 1.0 };
        let initializers = ["x", "w", "y"].map(|name| (name.to_string(), uniform.clone())).to_vec();
        Ok(Traced { graph: b.finish(), initializers, ..Traced::default() })
    }

    /// One element of the result.
    fn sum(&self, a: &[f64], b: &[f64], at: [usize; 4]) -> f64 {
        let Layer { inner, outer, kernel, .. } = *self.layer;
        let [x, w, y] = self.shapes();
        let side = self.places();
        let square = |n: usize| (0..n).flat_map(move |i| (0..n).map(move |j| [i, j]));
        let seen = |p: [usize; 2], k: [usize; 2]| Some([self.seen(p[0], k[0])?, self.seen(p[1], k[1])?]);
        let (place, mut sum) = ([at[2], at[3]], 0.0);
        match self.pass {
            Pass::Forward => {
                for (k, s) in square(kernel).filter_map(|k| Some((k, seen(place, k)?))) {
                    sum += (0..inner).map(|c| a[flat([at[0], c, s[0], s[1]], x)] * b[flat([at[1], c, k[0], k[1]], w)]).sum::<f64>();
                }
            }
            Pass::Input => {
                for (k, p) in square(kernel).flat_map(|k| square(side).map(move |p| (k, p))).filter(|&(k, p)| seen(p, k) == Some(place)) {
                    sum += (0..outer).map(|o| a[flat([at[0], o, p[0], p[1]], y)] * b[flat([o, at[1], k[0], k[1]], w)]).sum::<f64>();
                }
            }
            Pass::Weight => {
                for (p, s) in square(side).filter_map(|p| Some((p, seen(p, place)?))) {
                    sum += (0..self.batch).map(|n| a[flat([n, at[1], s[0], s[1]], x)] * b[flat([n, at[0], p[0], p[1]], y)]).sum::<f64>();
                }
            }
        }
        sum
    }

    /// The input along a side that output `p` sees at kernel position `k`.
    fn seen(&self, p: usize, k: usize) -> Option<usize> {
        (p * self.layer.stride + k).checked_sub(self.padding()).filter(|&s| s < self.layer.size)
    }
}

fn flat(at: [usize; 4], shape: [usize; 4]) -> usize {
    at.iter().zip(shape).fold(0, |flat, (i, n)| flat * n + i)
}

fn unravel(mut flat: usize, shape: [usize; 4]) -> [usize; 4] {
    let mut at = [0; 4];
    for (place, n) in at.iter_mut().zip(shape).rev() {
        (*place, flat) = (flat % n, flat / n);
    }
    at
}
