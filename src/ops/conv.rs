//! Convolution and its two transposes. Each is linear in both operands and its derivatives are the other two, so that every
//! derivative of any order is one of them, as is a transposed convolution.

use super::array::{coordinates, flat_index, sizes};
use super::batch_conv::{Part, batched};
use super::window::{Phases, Window, all_of, constants};
use super::{Array, BatchContext, Built, Class, Grads, NestBuilder, OpDef, OperandView, Precision, Sample, VjpContext};
use crate::graph::Value;
use crate::loop_ir::{BodyBuilder, Combiner, IndexExpr, Tag, Triangle, Val, flatten};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, MatmulPrecision, Shape, TensorType};
use serde::{Deserialize, Serialize};

/// `y[n, o, p] = sum over c, k of x[n, g * C + c, p * stride - padding + k * dilation] * w[o, c, k]`, where `g` is the group of
/// `o` and elements outside of `x` are zero.
///
/// * Operands `x[n, groups * C, spatial...]` and `w[groups * O, C, kernel...]` of one float or integer dtype; `p` and `k` have as
///   many dimensions as the window, the kernel's sizes are constant.
/// * Result `[n, groups * O, ...]`; size `(s + 2 * padding - dilation * (k - 1) - 1) / stride + 1` of a dimension of size `s`.
/// * Gradient: [`ConvolutionInput`] and [`ConvolutionWeight`]. A bias is an addition.
/// * Numerics: half floats accumulate in f32. Elements outside are not read, so they never make a NaN.
/// * PyTorch: `convolution` that is not transposed, without bias.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Convolution {
    /// Where the kernel lies.
    pub window: Box<Window>,
    /// Channels fall into so many independent parts.
    pub groups: u32,
}

/// The derivative of a [`Convolution`] by its input: `dx[n, g * C + c, s] = sum over o, k of dy[n, o, p] * w[o, c, k]` for those
/// `p * stride - padding + k * dilation` that are `s`.
///
/// * Operands `dy[n, groups * O, ...]` and `w[groups * O, C, kernel...]`; `size` are the spatial sizes of the result, from which
///   the convolution gives those of `dy`.
/// * Gradient: [`Convolution`] and [`ConvolutionWeight`].
/// * PyTorch: `convolution` with `transposed`, where `size` follows from `output_padding`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConvolutionInput {
    /// Where the kernel lies.
    pub window: Box<Window>,
    /// Channels fall into so many independent parts.
    pub groups: u32,
    /// Spatial sizes of the result.
    pub size: Vec<Dim>,
}

/// The derivative of a [`Convolution`] by its weight: `dw[o, c, k] = sum over n, p of x[n, g * C + c, p * stride - padding + k *
/// dilation] * dy[n, o, p]`.
///
/// * Operands `x[n, groups * C, spatial...]` and `dy[n, groups * O, ...]`; `size` are the kernel's sizes.
/// * Gradient: [`ConvolutionInput`] and [`Convolution`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConvolutionWeight {
    /// Where the kernel lies.
    pub window: Box<Window>,
    /// Channels fall into so many independent parts.
    pub groups: u32,
    /// Sizes of the kernel.
    pub size: Vec<Dim>,
}

/// Sizes of one convolution.
pub(super) struct Problem {
    pub(super) window: Window,
    pub(super) groups: i64,
    pub(super) batch: Dim,
    /// Input channels of a group.
    pub(super) inner: Dim,
    /// Output channels of a group.
    pub(super) outer: Dim,
    pub(super) input: Vec<Dim>,
    pub(super) kernel: Vec<i64>,
    pub(super) output: Vec<Dim>,
}

fn check_operands(window: &Window, groups: u32, operands: &[TensorType]) -> Result<(), String> {
    let [a, b] = operands else { return Err("takes two operands".into()) };
    window.check()?;
    if groups == 0 {
        return Err("there is no group".into());
    }
    if a.dtype != b.dtype || a.dtype == DType::Bool {
        return Err("operand dtypes differ or are bool".into());
    }
    if a.shape.rank() != window.rank() + 2 || b.shape.rank() != window.rank() + 2 {
        return Err(format!("operands must have {} dimensions", window.rank() + 2));
    }
    Ok(())
}

fn per_group(channels: &Dim, groups: u32) -> Result<Dim, String> {
    channels.try_div(&Dim::int(groups as i64)).ok_or_else(|| format!("{channels} channels do not fall into {groups} groups"))
}

impl Problem {
    fn new(window: &Window, groups: u32, input: &Shape, weight: &[Dim], batch: Dim) -> Result<Problem, String> {
        let (inner, outer) = (weight[1].clone(), per_group(&weight[0], groups)?);
        if per_group(&input[1], groups)? != inner {
            return Err(format!("the weight takes {inner} channels of each of {groups} groups, the input has {}", input[1]));
        }
        let kernel = constants(&weight[2..])?;
        let input = input.0[2..].to_vec();
        let output = input.iter().enumerate().map(|(i, n)| window.output(i, n, kernel[i], false)).collect::<Result<_, _>>()?;
        Ok(Problem { window: window.clone(), groups: groups as i64, batch, inner, outer, input, kernel, output })
    }

    fn of_forward(op: &Convolution, x: &Shape, w: &Shape) -> Result<Problem, String> {
        Problem::new(&op.window, op.groups, x, &w.0, x[0].clone())
    }

    fn of_input(op: &ConvolutionInput, dy: &Shape, w: &Shape) -> Result<Problem, String> {
        if op.size.len() != op.window.rank() {
            return Err(format!("takes {} sizes", op.window.rank()));
        }
        let channels = w[1].clone() * &Dim::int(op.groups as i64);
        let input = Shape::new([dy[0].clone(), channels].into_iter().chain(op.size.iter().cloned()).collect());
        let p = Problem::new(&op.window, op.groups, &input, &w.0, dy[0].clone())?;
        p.check_output(dy, &w[0])?;
        Ok(p)
    }

    fn of_weight(op: &ConvolutionWeight, x: &Shape, dy: &Shape) -> Result<Problem, String> {
        if op.size.len() != op.window.rank() {
            return Err(format!("takes {} sizes", op.window.rank()));
        }
        let weight: Vec<Dim> = [dy[1].clone(), per_group(&x[1], op.groups)?].into_iter().chain(op.size.iter().cloned()).collect();
        let p = Problem::new(&op.window, op.groups, x, &weight, x[0].clone())?;
        p.check_output(dy, &weight[0])?;
        Ok(p)
    }

    fn check_output(&self, dy: &Shape, channels: &Dim) -> Result<(), String> {
        let expected: Vec<Dim> = [self.batch.clone(), channels.clone()].into_iter().chain(self.output.iter().cloned()).collect();
        if dy.0 == expected { Ok(()) } else { Err(format!("the cotangent must be {}", Shape::new(expected))) }
    }

    pub(super) fn full(&self, dim: &Dim) -> Dim {
        dim.clone() * &Dim::int(self.groups)
    }

    pub(super) fn kernel_dims(&self) -> Vec<Dim> {
        self.kernel.iter().map(|&k| Dim::int(k)).collect()
    }

    /// One input and one output channel in each group: no matrix product, but a reduction over the kernel.
    fn is_depthwise(&self) -> bool {
        self.inner.is(1) && self.outer.is(1)
    }

    /// Channel `c` of group `g` among `per` of each.
    fn channel(&self, g: &IndexExpr, per: &Dim, c: &IndexExpr) -> IndexExpr {
        g.times(per).add(c)
    }

    /// The input element that output `o` sees at `k`, loaded where it exists.
    fn load_input(&self, b: &mut BodyBuilder, x: &OperandView, lead: [&IndexExpr; 2], o: &[IndexExpr], k: &[IndexExpr]) -> Val {
        let places = (0..o.len()).map(|i| self.window.input_at(b, i, (&o[i], &self.output[i]), (&k[i], self.kernel[i]), &self.input[i])).collect();
        let (at, mask) = all_of(b, places);
        load(b, x, lead, at, mask)
    }

    /// Rows of a nest: groups, an axis or more for channels, then the batch and places, where a matrix product takes all that follow the
    /// channels as its columns. Weights are the same for all of those.
    fn rows(&self, channels: &[Dim], places: &[Dim]) -> Vec<Dim> {
        let batch = std::iter::once(self.batch.clone());
        let groups = std::iter::once(Dim::int(self.groups));
        match self.is_depthwise() {
            true => batch.chain(groups).chain(channels.iter().chain(places).cloned()).collect(),
            false => groups.chain(channels.iter().cloned()).chain(batch).chain(places.iter().cloned()).collect(),
        }
    }

    /// Batch, group, channels and places among those rows.
    fn of_rows<'r>(&self, row: &'r [IndexExpr], channels: usize) -> (&'r IndexExpr, &'r IndexExpr, &'r [IndexExpr], &'r [IndexExpr]) {
        match self.is_depthwise() {
            true => (&row[0], &row[1], &row[2..2 + channels], &row[2 + channels..]),
            false => (&row[1 + channels], &row[0], &row[1..1 + channels], &row[2 + channels..]),
        }
    }

    /// Inputs of a dimension by what sees them; a product's weights must not depend on places.
    fn phases(&self, i: usize) -> Phases {
        let (n, kernel) = (&self.input[i], self.kernel[i]);
        if self.is_depthwise() { self.window.one_phase(i, n, kernel) } else { self.window.phases(i, n, kernel) }
    }

    /// Axes of the result's rows, where it is a product.
    fn axes(&self, channels: usize) -> Option<u32> {
        (!self.is_depthwise()).then_some(channels as u32)
    }
}

fn load(b: &mut BodyBuilder, x: &OperandView, lead: [&IndexExpr; 2], at: Vec<IndexExpr>, mask: Option<Val>) -> Val {
    let at: Vec<IndexExpr> = lead.into_iter().cloned().chain(at).collect();
    b.load_if(x.at(&at), mask)
}

/// `sum over columns of a * b`. With a number of axes of rows behind the groups, it is a matrix product.
struct Dot {
    a: Val,
    b: Val,
    axes: Option<u32>,
}

impl Dot {
    fn build(self, body: &mut BodyBuilder, dtype: DType) -> Val {
        let accumulator = if dtype.is_float() { dtype.accumulator() } else { dtype };
        let (x, y) = (body.cast(self.a, accumulator), body.cast(self.b, accumulator));
        let product = body.call(ScalarFn::Mul, &[x, y]);
        let dot = body.reduce(Combiner::Sum, product);
        if let Some(m) = self.axes {
            body.tag = Tag::Matmul { a: x, b: y, dot, batch: 1, m, triangle: Triangle::Whole, precision: MatmulPrecision::default() };
        }
        body.cast(dot, dtype)
    }
}

/// For evaluation: the sum of products of these pairs of elements, for each element of the result.
fn dots(a: &Array, b: &Array, ty: &TensorType, precision: Precision, pairs: impl Fn(&[usize]) -> Vec<(usize, usize)>) -> Array {
    let shape = sizes(ty);
    if ty.dtype.is_float() {
        let (x, y, accumulator) = (a.floats(), b.floats(), ty.dtype.accumulator());
        let dot = |at: Vec<usize>| {
            let sum = pairs(&at).into_iter().fold(0.0, |s, (i, j)| precision.round(accumulator, s + x[i] * y[j]));
            precision.round(ty.dtype, sum)
        };
        let values = coordinates(&shape).map(dot).collect();
        return Array::float(ty.dtype, shape, values);
    }
    let (x, y) = (a.ints(), b.ints());
    let dot = |at: Vec<usize>| ty.dtype.wrap(pairs(&at).into_iter().fold(0i64, |s, (i, j)| s.wrapping_add(x[i].wrapping_mul(y[j]))));
    let values = coordinates(&shape).map(dot).collect();
    Array::int(ty.dtype, shape, values)
}

/// Constant sizes for evaluation.
struct Sizes {
    window: Window,
    inner: usize,
    outer: usize,
    batch: usize,
    input: Vec<usize>,
    kernel: Vec<usize>,
    output: Vec<usize>,
}

impl Sizes {
    fn of(p: &Problem) -> Sizes {
        let int = |d: &Dim| d.as_int().expect("evaluation resolves symbols first") as usize;
        let ints = |d: &[Dim]| d.iter().map(int).collect();
        let (input, output) = (ints(&p.input), ints(&p.output));
        let kernel = p.kernel.iter().map(|&k| k as usize).collect();
        Sizes { window: p.window.clone(), inner: int(&p.inner), outer: int(&p.outer), batch: int(&p.batch), input, kernel, output }
    }

    fn input(&self, o: &[usize], k: &[usize]) -> Option<Vec<usize>> {
        (0..o.len()).map(|i| self.window.input(i, o[i], k[i], self.input[i])).collect()
    }

    /// All meetings of an input, a kernel and an output position, by flat spatial index; grouped by the one that `group` picks,
    /// with the other two that it gives. They are the same for every channel.
    fn taps(&self, count: usize, group: impl Fn(usize, usize, usize) -> (usize, (usize, usize))) -> Vec<Vec<(usize, usize)>> {
        let mut taps = vec![vec![]; count];
        for (kernel, k) in coordinates(&self.kernel).enumerate() {
            for (output, p) in coordinates(&self.output).enumerate() {
                if let Some(from) = self.input(&p, &k) {
                    let (at, pair) = group(flat_index(&from, &self.input), kernel, output);
                    taps[at].push(pair);
                }
            }
        }
        taps
    }
}

/// The first element of a channel of an item.
fn plane(array: &Array, n: usize, c: usize) -> usize {
    (n * array.shape[1] + c) * array.shape[2..].iter().product::<usize>()
}

impl OpDef for Convolution {
    fn name(&self) -> &'static str {
        "convolution"
    }
    fn class(&self) -> Class {
        Class::Template
    }
    fn multiply_adds(&self, operands: &[TensorType], results: &[TensorType]) -> f64 {
        let weight = &operands[1];
        let terms = weight.numel().hint() as f64 / weight.shape.0.first().map_or(1.0, |d| d.hint().max(1) as f64);
        results[0].numel().hint() as f64 * terms
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        check_operands(&self.window, self.groups, operands)?;
        let (x, w) = (&operands[0], &operands[1]);
        let p = Problem::of_forward(self, &x.shape, &w.shape)?;
        let shape = [p.batch, w.shape[0].clone()].into_iter().chain(p.output).collect();
        Ok(vec![TensorType { dtype: x.dtype, shape: Shape::new(shape) }])
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        let (x, w) = (&operands[0], &operands[1]);
        let s = Sizes::of(&Problem::of_forward(self, &shape_of(x), &shape_of(w))?);
        let taps = s.taps(s.output.iter().product(), |input, kernel, output| (output, (input, kernel)));
        let pairs = |at: &[usize]| {
            let (n, o, p) = (at[0], at[1], flat_index(&at[2..], &s.output));
            let group = o / s.outer;
            let mut out = vec![];
            for c in 0..s.inner {
                let (from, weight) = (plane(x, n, group * s.inner + c), plane(w, o, c));
                out.extend(taps[p].iter().map(|&(i, k)| (from + i, weight + k)));
            }
            out
        };
        Ok(vec![dots(x, w, &types[0], precision, pairs)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let (Some(g), x, w) = (cx.cotangents[0], cx.operands[0], cx.operands[1]) else { return Ok(vec![None; 2]) };
        if !cx.b.dtype(x).is_float() {
            return Ok(vec![None; 2]);
        }
        let (window, groups) = (self.window.clone(), self.groups);
        let (size, kernel) = (cx.b.shape(x).0[2..].to_vec(), cx.b.shape(w).0[2..].to_vec());
        let dx = cx.b.op(ConvolutionInput { window: window.clone(), groups, size }, &[g, w])?;
        let dw = cx.b.op(ConvolutionWeight { window, groups, size: kernel }, &[x, g])?;
        Ok(vec![Some(dx), Some(dw)])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        let p = Problem::of_forward(self, &cx.example(0).shape, &cx.example(1).shape)?;
        batched(cx, Part::Output, &p, |groups| Convolution { groups, ..self.clone() }.into())
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let (x, w) = (cx.operand(0), cx.operand(1));
        let (buffer, ty) = cx.results[0].clone();
        let p = Problem::of_forward(self, &x.ty.shape, &w.ty.shape)?;
        let domain = p.rows(std::slice::from_ref(&p.outer), &p.output);
        let cols: Vec<Dim> = [p.inner.clone()].into_iter().chain(p.kernel_dims()).collect();
        cx.nest(&domain, &cols, |b, row, col| {
            let (n, g, m, at) = p.of_rows(row, 1);
            let o = p.channel(g, &p.outer, &m[0]);
            let weight = load(b, &w, [&o, &col[0]], col[1..].to_vec(), None);
            let input = p.load_input(b, &x, [n, &p.channel(g, &p.inner, &col[0])], at, &col[1..]);
            let value = Dot { a: weight, b: input, axes: p.axes(1) }.build(b, ty.dtype);
            let to: Vec<IndexExpr> = [n.clone(), o].into_iter().chain(at.iter().cloned()).collect();
            b.write(buffer, flatten(&to, &ty.shape.0), value);
            Ok(())
        })
    }
    fn samples(&self) -> Vec<Sample> {
        cases().into_iter().map(|c| Sample::new(Convolution { window: c.window.clone().into(), groups: c.groups }, vec![c.x(), c.w()])).collect()
    }
}

impl OpDef for ConvolutionInput {
    fn name(&self) -> &'static str {
        "convolution_input"
    }
    fn class(&self) -> Class {
        Class::Template
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        check_operands(&self.window, self.groups, operands)?;
        let p = Problem::of_input(self, &operands[0].shape, &operands[1].shape)?;
        let shape = [p.batch.clone(), p.full(&p.inner)].into_iter().chain(p.input).collect();
        Ok(vec![TensorType { dtype: operands[0].dtype, shape: Shape::new(shape) }])
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        let (dy, w) = (&operands[0], &operands[1]);
        let s = Sizes::of(&Problem::of_input(self, &shape_of(dy), &shape_of(w))?);
        let taps = s.taps(s.input.iter().product(), |input, kernel, output| (input, (output, kernel)));
        let pairs = |at: &[usize]| {
            let (n, channel, input) = (at[0], at[1], flat_index(&at[2..], &s.input));
            let (group, c) = (channel / s.inner, channel % s.inner);
            let mut out = vec![];
            for o in group * s.outer..(group + 1) * s.outer {
                let (from, weight) = (plane(dy, n, o), plane(w, o, c));
                out.extend(taps[input].iter().map(|&(p, k)| (from + p, weight + k)));
            }
            out
        };
        Ok(vec![dots(dy, w, &types[0], precision, pairs)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let (Some(g), dy, w) = (cx.cotangents[0], cx.operands[0], cx.operands[1]) else { return Ok(vec![None; 2]) };
        if !cx.b.dtype(dy).is_float() {
            return Ok(vec![None; 2]);
        }
        let (window, groups, kernel) = (self.window.clone(), self.groups, cx.b.shape(w).0[2..].to_vec());
        let ddy = cx.b.op(Convolution { window: window.clone(), groups }, &[g, w])?;
        let dw = cx.b.op(ConvolutionWeight { window, groups, size: kernel }, &[g, dy])?;
        Ok(vec![Some(ddy), Some(dw)])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        let p = Problem::of_input(self, &cx.example(0).shape, &cx.example(1).shape)?;
        batched(cx, Part::Input, &p, |groups| ConvolutionInput { groups, ..self.clone() }.into())
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let (dy, w) = (cx.operand(0), cx.operand(1));
        let (buffer, ty) = cx.results[0].clone();
        let p = Problem::of_input(self, &dy.ty.shape, &w.ty.shape)?;
        let phases: Vec<Phases> = (0..p.kernel.len()).map(|i| p.phases(i)).collect();
        let sizes = |of: fn(&Phases) -> &Dim| phases.iter().map(of).cloned();
        let channels: Vec<Dim> = std::iter::once(p.inner.clone()).chain(sizes(|f| &f.count)).collect();
        let domain = p.rows(&channels, &sizes(|f| &f.each).collect::<Vec<_>>());
        let cols: Vec<Dim> = std::iter::once(p.outer.clone()).chain(sizes(|f| &f.taps)).collect();
        cx.nest(&domain, &cols, |b, row, col| {
            let (n, g, m, at) = p.of_rows(row, channels.len());
            let o = p.channel(g, &p.outer, &col[0]);
            let taps = (0..at.len()).map(|i| p.window.tap(b, i, &phases[i], [&m[i + 1], &at[i], &col[i + 1]], (p.kernel[i], &p.output[i])));
            let (seen, positions) = taps.collect::<Vec<_>>().into_iter().unzip();
            let ((k, exists), (from, sees)) = (all_of(b, positions), all_of(b, seen));
            let weight = load(b, &w, [&o, &m[0]], k, exists);
            let output = load(b, &dy, [n, &o], from, sees);
            let value = Dot { a: weight, b: output, axes: p.axes(channels.len()) }.build(b, ty.dtype);
            let input = (0..at.len()).map(|i| at[i].times(&phases[i].count).add(&m[i + 1]));
            let to: Vec<IndexExpr> = [n.clone(), p.channel(g, &p.inner, &m[0])].into_iter().chain(input).collect();
            b.write(buffer, flatten(&to, &ty.shape.0), value);
            Ok(())
        })
    }
    fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        self.size.iter_mut().for_each(|d| *d = f(d));
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |c: Case| {
            let size = c.x().shape.0[2..].to_vec();
            Sample::new(ConvolutionInput { window: c.window.clone().into(), groups: c.groups, size }, vec![c.y(), c.w()])
        };
        cases().into_iter().map(of).collect()
    }
}

impl OpDef for ConvolutionWeight {
    fn name(&self) -> &'static str {
        "convolution_weight"
    }
    fn class(&self) -> Class {
        Class::Template
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        check_operands(&self.window, self.groups, operands)?;
        let p = Problem::of_weight(self, &operands[0].shape, &operands[1].shape)?;
        let shape = [p.full(&p.outer), p.inner.clone()].into_iter().chain(p.kernel_dims()).collect();
        Ok(vec![TensorType { dtype: operands[0].dtype, shape: Shape::new(shape) }])
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        let (x, dy) = (&operands[0], &operands[1]);
        let s = Sizes::of(&Problem::of_weight(self, &shape_of(x), &shape_of(dy))?);
        let taps = s.taps(s.kernel.iter().product(), |input, kernel, output| (kernel, (input, output)));
        let pairs = |at: &[usize]| {
            let (o, c, k) = (at[0], at[1], flat_index(&at[2..], &s.kernel));
            let channel = o / s.outer * s.inner + c;
            let mut out = vec![];
            for n in 0..s.batch {
                let (from, to) = (plane(x, n, channel), plane(dy, n, o));
                out.extend(taps[k].iter().map(|&(i, p)| (from + i, to + p)));
            }
            out
        };
        Ok(vec![dots(x, dy, &types[0], precision, pairs)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let (Some(g), x, dy) = (cx.cotangents[0], cx.operands[0], cx.operands[1]) else { return Ok(vec![None; 2]) };
        if !cx.b.dtype(x).is_float() {
            return Ok(vec![None; 2]);
        }
        let (window, groups, size) = (self.window.clone(), self.groups, cx.b.shape(x).0[2..].to_vec());
        let dx = cx.b.op(ConvolutionInput { window: window.clone(), groups, size }, &[dy, g])?;
        let ddy = cx.b.op(Convolution { window, groups }, &[x, g])?;
        Ok(vec![Some(dx), Some(ddy)])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        let p = Problem::of_weight(self, &cx.example(0).shape, &cx.example(1).shape)?;
        batched(cx, Part::Weight, &p, |groups| ConvolutionWeight { groups, ..self.clone() }.into())
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let (x, dy) = (cx.operand(0), cx.operand(1));
        let (buffer, ty) = cx.results[0].clone();
        let p = Problem::of_weight(self, &x.ty.shape, &dy.ty.shape)?;
        let domain: Vec<Dim> = [Dim::int(p.groups), p.outer.clone(), p.inner.clone()].into_iter().chain(p.kernel_dims()).collect();
        let cols: Vec<Dim> = [p.batch.clone()].into_iter().chain(p.output.iter().cloned()).collect();
        cx.nest(&domain, &cols, |b, row, col| {
            let (g, m, at) = (&row[0], &row[1], &row[2..]);
            let o = p.channel(g, &p.outer, m);
            let output = load(b, &dy, [&col[0], &o], col[1..].to_vec(), None);
            let input = p.load_input(b, &x, [&col[0], &p.channel(g, &p.inner, &at[0])], &col[1..], &at[1..]);
            let value = Dot { a: output, b: input, axes: p.axes(1) }.build(b, ty.dtype);
            let to: Vec<IndexExpr> = [o].into_iter().chain(at.iter().cloned()).collect();
            b.write(buffer, flatten(&to, &ty.shape.0), value);
            Ok(())
        })
    }
    fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        self.size.iter_mut().for_each(|d| *d = f(d));
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |c: Case| {
            let size = c.w().shape.0[2..].to_vec();
            Sample::new(ConvolutionWeight { window: c.window.clone().into(), groups: c.groups, size }, vec![c.x(), c.y()])
        };
        cases().into_iter().map(of).collect()
    }
}

fn shape_of(x: &Array) -> Shape {
    Shape::new(x.shape.iter().map(|&n| Dim::int(n as i64)).collect())
}

/// A convolution to test all three ops with.
struct Case {
    dtype: DType,
    window: Window,
    groups: u32,
    x: Vec<i64>,
    w: Vec<i64>,
}

impl Case {
    fn x(&self) -> TensorType {
        TensorType::new(self.dtype, &self.x[..])
    }
    fn w(&self) -> TensorType {
        TensorType::new(self.dtype, &self.w[..])
    }
    fn y(&self) -> TensorType {
        let op = Convolution { window: self.window.clone().into(), groups: self.groups };
        op.infer(&[self.x(), self.w()]).expect("cases are sound").remove(0)
    }
}

fn cases() -> Vec<Case> {
    let of = |x: &[i64], w: &[i64], stride: &[u32], padding: &[u32], dilation: &[u32], groups: u32| {
        let window = Window { stride: stride.to_vec(), padding: padding.to_vec(), dilation: dilation.to_vec() };
        Case { dtype: DType::F32, window, groups, x: x.to_vec(), w: w.to_vec() }
    };
    let mut out = vec![
        of(&[2, 3, 5], &[4, 3, 2], &[1], &[0], &[1], 1),
        of(&[1, 4, 7], &[6, 2, 3], &[2], &[2], &[2], 2),
        of(&[2, 2, 4, 5], &[3, 2, 3, 2], &[1, 2], &[1, 0], &[1, 1], 1),
        of(&[1, 2, 5, 6], &[2, 2, 1, 1], &[2, 2], &[0, 0], &[1, 1], 1),
        of(&[2, 3, 4, 4], &[3, 1, 3, 3], &[2, 1], &[1, 1], &[1, 1], 3),
        of(&[1, 2, 3, 4], &[4, 1, 2, 2], &[3, 1], &[1, 2], &[1, 2], 2),
        of(&[1, 2, 3, 2, 3], &[2, 2, 2, 1, 2], &[1, 1, 2], &[1, 0, 1], &[1, 1, 1], 1),
        of(&[0, 2, 4], &[2, 2, 3], &[1], &[1], &[1], 1),
        of(&[2, 1, 1], &[1, 1, 1], &[1], &[0], &[1], 1),
        // Of steps that divide the input: with overlaps, without, and with inputs that nothing sees.
        of(&[2, 5, 6, 4], &[9, 5, 3, 3], &[2, 2], &[1, 1], &[1, 1], 1),
        of(&[1, 4, 4, 9], &[6, 2, 2, 2], &[2, 3], &[0, 1], &[1, 1], 2),
        of(&[1, 2, 8], &[3, 2, 1], &[2], &[0], &[1], 1),
        of(&[1, 3, 8, 6], &[3, 1, 3, 4], &[2, 2], &[1, 1], &[1, 1], 3),
        of(&[2, 2, 6, 7], &[5, 2, 3, 3], &[2, 2], &[1, 2], &[1, 2], 1),
        // In tiles, of several images.
        of(&[3, 6, 5, 7], &[16, 6, 3, 3], &[1, 1], &[1, 1], &[1, 1], 1),
    ];
    let mut integer = of(&[1, 2, 4], &[2, 2, 3], &[1], &[1], &[1], 1);
    integer.dtype = DType::I32;
    out.push(integer);
    out
}
