//! Pooling over sliding windows: the maximum with its index, the sum, and what carries cotangents back.

use super::array::{coordinates, flat_index, sizes};
use super::window::{Window, all_inside, constants};
use super::{Array, BatchContext, Built, Class, Data, Grads, NestBuilder, OpDef, OperandView, Precision, Sample, VjpContext};
use crate::graph::Value;
use crate::loop_ir::{BodyBuilder, Combiner, IndexExpr, Val, flatten};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, Shape, TensorType};
use serde::{Deserialize, Serialize};

/// A pooling window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pool {
    /// How it slides.
    pub window: Window,
    /// Its sizes.
    pub kernel: Vec<Dim>,
    /// Windows that begin inside but end beyond the padding count as well.
    pub ceil: bool,
}

/// Two results: the largest element that each window sees, and its flat index in the plane of the spatial dimensions, i32.
///
/// * One number operand `[..., spatial...]`. Elements of the padding are not there, so they never win.
/// * NaN is larger than everything. Of equal elements the first wins, in row-major order.
/// * Gradient: [`MaxPoolGrad`], through the indices, so that no float is compared again.
/// * PyTorch: `max_pool*d_with_indices`, whose indices are i64.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MaxPool {
    /// The window.
    pub pool: Box<Pool>,
}

/// `dx[s] = sum of dy[p] over the windows p that see s and whose index is s`: the cotangent of [`MaxPool`]'s input.
///
/// * Operands: a cotangent and indices of one shape; `size` are the spatial sizes of the result. An index that its window does
///   not see takes nothing.
/// * Written as a reduction over windows: no atomics, the same bits every time.
/// * Gradient: the cotangent read at the indices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MaxPoolGrad {
    /// The window.
    pub pool: Box<Pool>,
    /// Spatial sizes of the result.
    pub size: Vec<Dim>,
}

/// The sum of what each window sees; padding counts as zero. Gradient: [`WindowSpread`].
///
/// * One number operand `[..., spatial...]`. Half floats accumulate in f32.
/// * PyTorch: `avg_pool*d` before the division.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WindowSum {
    /// The window.
    pub pool: Box<Pool>,
}

/// `dx[s] = sum of dy[p] over the windows p that see s`: the transpose of [`WindowSum`], which is its gradient.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WindowSpread {
    /// The window.
    pub pool: Box<Pool>,
    /// Spatial sizes of the result.
    pub size: Vec<Dim>,
}

impl Pool {
    fn kernel(&self) -> Result<Vec<i64>, String> {
        self.window.check()?;
        if self.kernel.len() != self.window.rank() {
            return Err(format!("the kernel has {} dimensions, the window {}", self.kernel.len(), self.window.rank()));
        }
        constants(&self.kernel)
    }

    /// Sizes of the result: leading ones as they are, then the number of windows.
    fn output(&self, shape: &Shape) -> Result<Shape, String> {
        let kernel = self.kernel()?;
        let lead = shape.rank().checked_sub(kernel.len()).ok_or_else(|| format!("takes {} dimensions at least", kernel.len()))?;
        let mut out = shape.clone();
        for (i, k) in kernel.into_iter().enumerate() {
            out.0[lead + i] = self.window.output(i, &shape[lead + i], k, self.ceil)?;
        }
        Ok(out)
    }

    /// `shape` with other spatial sizes, from which the windows give `shape`.
    fn input(&self, shape: &Shape, size: &[Dim]) -> Result<Shape, String> {
        self.kernel()?;
        let lead = shape.rank().checked_sub(size.len()).filter(|_| size.len() == self.kernel.len());
        let lead = lead.ok_or_else(|| format!("takes {} sizes", self.kernel.len()))?;
        let input = Shape::new(shape.0[..lead].iter().chain(size).cloned().collect());
        let expected = self.output(&input)?;
        if expected != *shape { Err(format!("the cotangent must be {expected}")) } else { Ok(input) }
    }

    fn rank(&self) -> usize {
        self.kernel.len()
    }

    fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        self.kernel.iter_mut().for_each(|d| *d = f(d));
    }

    /// For evaluation: flat indices of what window `at` sees, in row-major order, with the index in the plane.
    fn seen(&self, at: &[usize], shape: &[usize]) -> Vec<(usize, usize)> {
        let lead = at.len() - self.rank();
        let kernel: Vec<usize> = self.kernel.iter().map(|k| k.as_int().unwrap_or(0) as usize).collect();
        let place = |k: Vec<usize>| {
            let inside: Option<Vec<usize>> = (0..k.len()).map(|i| self.window.input(i, at[lead + i], k[i], shape[lead + i])).collect();
            let from: Vec<usize> = at[..lead].iter().copied().chain(inside.clone()?).collect();
            Some((flat_index(&from, shape), flat_index(&inside?, &shape[lead..])))
        };
        coordinates(&kernel).filter_map(place).collect()
    }

    /// The element that window `row` sees at kernel position `col`, loaded where it exists.
    fn load(&self, b: &mut BodyBuilder, x: &OperandView, row: &[IndexExpr], out: &Shape, col: &[IndexExpr], kernel: &[i64]) -> (Val, Option<Val>) {
        let lead = row.len() - kernel.len();
        let places = (0..kernel.len())
            .map(|i| self.window.input_at(b, i, (&row[lead + i], &out[lead + i]), (&col[i], kernel[i]), &x.ty.shape[lead + i]))
            .collect();
        let (at, mask) = all_inside(b, places, &x.ty.shape.0[lead..]);
        let at: Vec<IndexExpr> = row[..lead].iter().cloned().chain(at).collect();
        (b.load_if(x.at(&at), mask), mask)
    }

    /// Windows that may see one element.
    fn sight(&self, kernel: &[i64]) -> Vec<Dim> {
        (0..kernel.len()).map(|i| self.window.sight(i, kernel[i])).collect()
    }

    /// Coordinates of number `col` of the windows that may see element `row`, and the condition under which it does.
    fn window_at(&self, b: &mut BodyBuilder, row: &[IndexExpr], windows: &Shape, col: &[IndexExpr], kernel: &[i64]) -> (Vec<IndexExpr>, Option<Val>) {
        let lead = row.len() - kernel.len();
        let places = (0..kernel.len()).map(|i| self.window.seen_at(b, i, &row[lead + i], (&col[i], kernel[i]), &windows[lead + i]).0).collect();
        let (at, mask) = all_inside(b, places, &windows.0[lead..]);
        (row[..lead].iter().cloned().chain(at).collect(), mask)
    }

    /// The index in the plane of the element at flat kernel position `k` of window `row`. A position before the input, which a
    /// tie may choose, stands for the first that is inside.
    fn plane_index(&self, b: &mut BodyBuilder, k: Val, row: &[IndexExpr], size: &[Dim], kernel: &[i64]) -> Val {
        let lead = row.len() - kernel.len();
        let (mut rest, mut stride) = (k, Dim::int(1));
        let mut index = b.constant(DType::I32, 0.0);
        for i in (0..kernel.len()).rev() {
            let [s, p, d] = [self.window.stride[i], self.window.padding[i], self.window.dilation[i]].map(|n| n as i64);
            let n = b.constant(DType::I32, kernel[i] as f64);
            let at = b.call(ScalarFn::Remainder, &[rest, n]);
            rest = b.call(ScalarFn::FloorDiv, &[rest, n]);
            let step = b.constant(DType::I32, d as f64);
            let offset = b.call(ScalarFn::Mul, &[at, step]);
            let start = b.index(&row[lead + i].times(&Dim::int(s)).plus(&Dim::int(-p)), DType::I32);
            let mut at = b.call(ScalarFn::Add, &[start, offset]);
            if p > 0 {
                let zero = b.constant(DType::I32, 0.0);
                let before = b.call(ScalarFn::Lt, &[at, zero]);
                let first = b.call(ScalarFn::Remainder, &[at, step]);
                at = b.call(ScalarFn::Where, &[before, first, at]);
            }
            let width = b.index(&IndexExpr::constant(stride.clone()), DType::I32);
            let part = b.call(ScalarFn::Mul, &[at, width]);
            index = b.call(ScalarFn::Add, &[index, part]);
            stride = stride * &size[i];
        }
        index
    }
}

fn number(operands: &[TensorType]) -> Result<&TensorType, String> {
    let [x] = operands else { return Err("takes one operand".into()) };
    if x.dtype == DType::Bool { Err("does not take bool; cast first".into()) } else { Ok(x) }
}

fn accumulator(dtype: DType) -> DType {
    if dtype.is_float() { dtype.accumulator() } else { dtype }
}

impl OpDef for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool"
    }
    fn class(&self) -> Class {
        Class::Reduction
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let x = number(operands)?;
        let shape = self.pool.output(&x.shape)?;
        if x.shape.0[x.shape.rank() - self.pool.rank()..].iter().any(|d| d.is(0)) {
            return Err("there is no element to choose from".into());
        }
        let kernel = self.pool.kernel()?;
        let misplaced = (0..kernel.len()).any(|i| 2 * self.pool.window.padding[i] as i64 > kernel[i]);
        if misplaced {
            return Err("padding is more than half of the kernel".into());
        }
        Ok(vec![TensorType { dtype: x.dtype, shape: shape.clone() }, TensorType { dtype: DType::I32, shape }])
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], _precision: Precision) -> Result<Vec<Array>, String> {
        let (x, shape) = (&operands[0], sizes(&types[0]));
        let values = x.floats();
        let (mut from, mut index) = (vec![], vec![]);
        for at in coordinates(&shape) {
            let seen = self.pool.seen(&at, &x.shape);
            let first = *seen.first().ok_or("a window sees nothing")?;
            let wins = |a: f64, b: f64| !b.is_nan() && (a.is_nan() || a > b);
            let best = seen.into_iter().fold(first, |best, next| if wins(values[next.0], values[best.0]) { next } else { best });
            from.push(best.0);
            index.push(best.1 as i64);
        }
        Ok(vec![x.gather(shape.clone(), from.into_iter()), Array::int(DType::I32, shape, index)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let (Some(g), x) = (cx.cotangents[0], cx.operands[0]) else { return Ok(vec![None]) };
        if !cx.b.dtype(x).is_float() {
            return Ok(vec![None]);
        }
        let shape = cx.b.shape(x);
        let size = shape.0[shape.rank() - self.pool.rank()..].to_vec();
        Ok(vec![Some(cx.b.op(MaxPoolGrad { pool: self.pool.clone(), size }, &[g, cx.results[1]])?)])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(self.clone())
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let x = cx.operand(0);
        let ((values, ty), (indices, _)) = (cx.results[0].clone(), cx.results[1].clone());
        let kernel = self.pool.kernel()?;
        let size = x.ty.shape.0[x.ty.shape.rank() - kernel.len()..].to_vec();
        let lowest = ty.dtype.int_range().map_or(f64::NEG_INFINITY, |(low, _)| low as f64);
        cx.nest(&ty.shape.0, &self.pool.kernel, |b, row, col| {
            let (v, mask) = self.pool.load(b, &x, row, &ty.shape, col, &kernel);
            let mut v = b.cast(v, accumulator(ty.dtype));
            if let Some(mask) = mask {
                let low = b.constant(accumulator(ty.dtype), lowest);
                v = b.call(ScalarFn::Where, &[mask, v, low]);
            }
            let best = b.reduce(Combiner::ArgMax, v);
            let at = b.proj(best, 1);
            let index = self.pool.plane_index(b, at, row, &size, &kernel);
            let best = b.cast(best, ty.dtype);
            b.write(values, flatten(row, &ty.shape.0), best);
            b.write(indices, flatten(row, &ty.shape.0), index);
            Ok(())
        })
    }
    fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        self.pool.map_dims(f);
    }
    fn samples(&self) -> Vec<Sample> {
        let mut out: Vec<Sample> = cases().into_iter().map(|(pool, x)| Sample::new(MaxPool { pool: pool.into() }, vec![x])).collect();
        let (pool, x) = cases().swap_remove(1);
        out.push(Sample::new(MaxPool { pool: pool.into() }, vec![TensorType { dtype: DType::I32, ..x }]));
        out
    }
}

impl OpDef for MaxPoolGrad {
    fn name(&self) -> &'static str {
        "max_pool_grad"
    }
    fn class(&self) -> Class {
        Class::Reduction
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [dy, index] = operands else { return Err("takes a cotangent and indices".into()) };
        if dy.shape != index.shape || !dy.dtype.is_float() || index.dtype != DType::I32 {
            return Err("takes floats and i32 indices of one shape".into());
        }
        Ok(vec![TensorType { dtype: dy.dtype, shape: self.pool.input(&dy.shape, &self.size)? }])
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        let (dy, index, shape) = (operands[0].floats(), operands[1].ints(), sizes(&types[0]));
        let mut dx = vec![0.0; shape.iter().product()];
        for (p, at) in coordinates(&operands[0].shape).enumerate() {
            for (to, plane) in self.pool.seen(&at, &shape) {
                if plane as i64 == index[p] {
                    dx[to] = precision.round(types[0].dtype.accumulator(), dx[to] + dy[p]);
                }
            }
        }
        let dx = dx.into_iter().map(|v| precision.round(types[0].dtype, v)).collect();
        Ok(vec![Array::float(types[0].dtype, shape, dx)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let (Some(g), index) = (cx.cotangents[0], cx.operands[1]) else { return Ok(vec![None; 2]) };
        let b = &mut *cx.b;
        let flat = |shape: &Shape, rank: usize| {
            let (lead, plane) = shape.0.split_at(shape.rank() - rank);
            Shape::new(lead.iter().cloned().chain([Dim::product(plane)]).collect())
        };
        let (from, to) = (b.shape(g).clone(), b.shape(index).clone());
        let (x, at) = (b.reshape(g, flat(&from, self.size.len()))?, b.reshape(index, flat(&to, self.size.len()))?);
        let read = b.gather(x, at, from.rank() - self.size.len())?;
        Ok(vec![Some(b.reshape(read, to)?), None])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(self.clone())
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let (dy, index) = (cx.operand(0), cx.operand(1));
        let (buffer, ty) = cx.results[0].clone();
        let kernel = self.pool.kernel()?;
        let lead = ty.shape.rank() - kernel.len();
        cx.nest(&ty.shape.0, &self.pool.sight(&kernel), |b, row, col| {
            let (at, mask) = self.pool.window_at(b, row, &dy.ty.shape, col, &kernel);
            let chosen = b.load_if(index.at(&at), mask);
            let own = b.index(&flatten(&row[lead..], &self.size), DType::I32);
            let hit = b.call(ScalarFn::Eq, &[chosen, own]);
            let hit = b.both(Some(hit), mask);
            let v = b.load_if(dy.at(&at), hit);
            let v = b.cast(v, accumulator(ty.dtype));
            let sum = b.reduce(Combiner::Sum, v);
            let sum = b.cast(sum, ty.dtype);
            b.write(buffer, flatten(row, &ty.shape.0), sum);
            Ok(())
        })
    }
    fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        self.pool.map_dims(f);
        self.size.iter_mut().for_each(|d| *d = f(d));
    }
    fn samples(&self) -> Vec<Sample> {
        // Disjoint windows in one dimension of four elements: indices below four are seen by one of them.
        let pool = Pool { window: Window { stride: vec![2], padding: vec![0], dilation: vec![1] }, kernel: vec![Dim::int(4)], ceil: false };
        let operands = vec![TensorType::new(DType::F32, (3, 1)), TensorType::new(DType::I32, (3, 1))];
        vec![Sample::new(MaxPoolGrad { pool: pool.into(), size: vec![Dim::int(4)] }, operands).index_below(4)]
    }
}

impl OpDef for WindowSum {
    fn name(&self) -> &'static str {
        "window_sum"
    }
    fn class(&self) -> Class {
        Class::Reduction
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let x = number(operands)?;
        Ok(vec![TensorType { dtype: x.dtype, shape: self.pool.output(&x.shape)? }])
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        let (x, shape) = (&operands[0], sizes(&types[0]));
        let places = coordinates(&shape).map(|at| self.pool.seen(&at, &x.shape).into_iter().map(|(i, _)| i).collect());
        Ok(vec![sums(x, &shape, places, precision)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let (Some(g), x) = (cx.cotangents[0], cx.operands[0]) else { return Ok(vec![None]) };
        if !cx.b.dtype(x).is_float() {
            return Ok(vec![None]);
        }
        let shape = cx.b.shape(x);
        let size = shape.0[shape.rank() - self.pool.rank()..].to_vec();
        Ok(vec![Some(cx.b.op(WindowSpread { pool: self.pool.clone(), size }, &[g])?)])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(self.clone())
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let x = cx.operand(0);
        let (buffer, ty) = cx.results[0].clone();
        let kernel = self.pool.kernel()?;
        cx.nest(&ty.shape.0, &self.pool.kernel, |b, row, col| {
            let (v, _) = self.pool.load(b, &x, row, &ty.shape, col, &kernel);
            let v = b.cast(v, accumulator(ty.dtype));
            let sum = b.reduce(Combiner::Sum, v);
            let sum = b.cast(sum, ty.dtype);
            b.write(buffer, flatten(row, &ty.shape.0), sum);
            Ok(())
        })
    }
    fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        self.pool.map_dims(f);
    }
    fn samples(&self) -> Vec<Sample> {
        cases().into_iter().map(|(pool, x)| Sample::new(WindowSum { pool: pool.into() }, vec![x])).collect()
    }
}

impl OpDef for WindowSpread {
    fn name(&self) -> &'static str {
        "window_spread"
    }
    fn class(&self) -> Class {
        Class::Reduction
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let dy = number(operands)?;
        Ok(vec![TensorType { dtype: dy.dtype, shape: self.pool.input(&dy.shape, &self.size)? }])
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        let (dy, shape) = (&operands[0], sizes(&types[0]));
        let mut places: Vec<Vec<usize>> = vec![vec![]; shape.iter().product()];
        for (p, at) in coordinates(&dy.shape).enumerate() {
            for (to, _) in self.pool.seen(&at, &shape) {
                places[to].push(p);
            }
        }
        Ok(vec![sums(dy, &shape, places.into_iter(), precision)])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let (Some(g), dy) = (cx.cotangents[0], cx.operands[0]) else { return Ok(vec![None]) };
        if !cx.b.dtype(dy).is_float() {
            return Ok(vec![None]);
        }
        Ok(vec![Some(cx.b.op(WindowSum { pool: self.pool.clone() }, &[g])?)])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(self.clone())
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let dy = cx.operand(0);
        let (buffer, ty) = cx.results[0].clone();
        let kernel = self.pool.kernel()?;
        cx.nest(&ty.shape.0, &self.pool.sight(&kernel), |b, row, col| {
            let (at, mask) = self.pool.window_at(b, row, &dy.ty.shape, col, &kernel);
            let v = b.load_if(dy.at(&at), mask);
            let v = b.cast(v, accumulator(ty.dtype));
            let sum = b.reduce(Combiner::Sum, v);
            let sum = b.cast(sum, ty.dtype);
            b.write(buffer, flatten(row, &ty.shape.0), sum);
            Ok(())
        })
    }
    fn map_dims(&mut self, f: &dyn Fn(&Dim) -> Dim) {
        self.pool.map_dims(f);
        self.size.iter_mut().for_each(|d| *d = f(d));
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |(pool, x): (Pool, TensorType)| {
            let shape = pool.output(&x.shape).expect("cases are sound");
            let size = x.shape.0[x.shape.rank() - pool.rank()..].to_vec();
            Sample::new(WindowSpread { pool: pool.into(), size }, vec![TensorType { dtype: x.dtype, shape }])
        };
        cases().into_iter().map(of).collect()
    }
}

/// The sum of these elements, for each element of the result.
fn sums(x: &Array, shape: &[usize], places: impl Iterator<Item = Vec<usize>>, precision: Precision) -> Array {
    let (dtype, wide) = (x.dtype, x.dtype.accumulator());
    let data = match &x.data {
        Data::Float(v) => {
            let sum = |from: Vec<usize>| from.into_iter().fold(0.0, |s, i| precision.round(wide, s + v[i]));
            Data::Float(places.map(|from| precision.round(dtype, sum(from))).collect())
        }
        Data::Int(v) => Data::Int(places.map(|from| dtype.wrap(from.into_iter().fold(0i64, |s, i| s.wrapping_add(v[i])))).collect()),
    };
    Array { dtype, shape: shape.to_vec(), data }
}

/// Windows to test with, and an operand for each.
fn cases() -> Vec<(Pool, TensorType)> {
    let of = |x: &[i64], kernel: &[i64], stride: &[u32], padding: &[u32], dilation: &[u32], ceil: bool| {
        let window = Window { stride: stride.to_vec(), padding: padding.to_vec(), dilation: dilation.to_vec() };
        (Pool { window, kernel: kernel.iter().map(|&k| k.into()).collect(), ceil }, TensorType::new(DType::F32, x))
    };
    vec![
        of(&[2, 3, 7], &[3], &[2], &[0], &[1], false),
        of(&[2, 5, 6], &[3, 2], &[2, 1], &[1, 1], &[1, 1], false),
        of(&[1, 2, 4, 5], &[2, 2], &[2, 2], &[0, 0], &[1, 1], true),
        of(&[1, 7, 5], &[3, 3], &[1, 2], &[1, 1], &[2, 1], true),
        of(&[2, 3, 4, 3], &[2, 2, 3], &[1, 2, 2], &[1, 0, 1], &[1, 1, 1], false),
        of(&[2, 6, 8], &[3, 3], &[2, 2], &[1, 1], &[1, 1], false),
        of(&[0, 4], &[2], &[2], &[0], &[1], false),
        of(&[1, 1], &[1], &[1], &[0], &[1], false),
    ]
}
