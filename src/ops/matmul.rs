//! Batched matrix products.

use super::array::sizes;
use super::{Array, BatchContext, Built, Class, Grads, NestBuilder, OpDef, Precision, Sample, VjpContext};
use crate::graph::Value;
use crate::loop_ir::{BodyBuilder, Combiner, IndexExpr, Tag, Triangle, Val, flatten};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, MatmulPrecision, Shape, TensorType, paired};
use serde::{Deserialize, Serialize};

/// `out[..., m, n] = sum over k of a[..., m, k] * b[..., k, n]`. Floats and integers; equal leading (batch) dimensions, rank at
/// least two. `transpose_a` reads `a` as `[..., k, m]`, `transpose_b` reads `b` as `[..., n, k]`. Half types accumulate in f32.
/// Gradients are matrix products with other transpositions, so that no transpose is ever copied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Matmul {
    /// `a` holds k x m.
    pub transpose_a: bool,
    /// `b` holds n x k.
    pub transpose_b: bool,
}

impl Matmul {
    /// Lowers a product with zeros in place of a triangle of its result or of its left operand.
    pub(super) fn lower_part(&self, cx: &mut NestBuilder<'_>, triangle: Triangle) -> Result<(), String> {
        let (a, b) = (cx.operand(0), cx.operand(1));
        let (buffer, ty) = cx.results[0].clone();
        let rank = ty.shape.rank();
        let k = a.ty.shape[if self.transpose_a { rank - 2 } else { rank - 1 }].clone();
        let accumulator = if ty.dtype.is_float() { ty.dtype.accumulator() } else { ty.dtype };
        cx.nest(&ty.shape.0, &[k], |body, row, col| {
            let (batch, m, n, p) = (&row[..rank - 2], &row[rank - 2], &row[rank - 1], &col[0]);
            let at = |x: &IndexExpr, y: &IndexExpr, swap: bool| {
                let mut at = batch.to_vec();
                at.extend(if swap { [y.clone(), x.clone()] } else { [x.clone(), y.clone()] });
                at
            };
            let (x, y) = (body.load(a.at(&at(m, p, self.transpose_a))), body.load(b.at(&at(p, n, self.transpose_b))));
            let (x, y) = (body.cast(x, accumulator), body.cast(y, accumulator));
            let x = match triangle {
                Triangle::TermsAfter => unless_after(body, x, p, m),
                Triangle::TermsBefore => unless_after(body, x, m, p),
                _ => x,
            };
            let product = body.call(ScalarFn::Mul, &[x, y]);
            let dot = body.reduce(Combiner::Sum, product);
            body.tag = Tag::Matmul { a: x, b: y, dot, batch: rank as u32 - 2, m: 1, triangle, precision: MatmulPrecision::default() };
            let kept = if triangle == Triangle::Results { unless_after(body, dot, n, m) } else { dot };
            let out = body.cast(kept, ty.dtype);
            body.write(buffer, flatten(row, &ty.shape.0), out);
            Ok(())
        })
    }
}

/// `x`, or zero at a column that comes after the row.
fn unless_after(b: &mut BodyBuilder, x: Val, column: &IndexExpr, row: &IndexExpr) -> Val {
    let [column, row] = [column, row].map(|at| b.index(at, DType::I32));
    let is_below = b.call(ScalarFn::Ge, &[row, column]);
    let zero = b.constant(b.dtype(x), 0.0);
    b.call(ScalarFn::Where, &[is_below, x, zero])
}

impl OpDef for Matmul {
    fn name(&self) -> &'static str {
        "matmul"
    }
    fn class(&self) -> Class {
        Class::Template
    }
    fn multiply_adds(&self, operands: &[TensorType], results: &[TensorType]) -> f64 {
        let shape = &operands[0].shape.0;
        let terms = if self.transpose_a { shape.iter().rev().nth(1) } else { shape.last() };
        results[0].numel().hint() as f64 * terms.map_or(1.0, |d| d.hint() as f64)
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [a, b] = operands else { return Err("takes two operands".into()) };
        let rank = a.shape.rank();
        if rank < 2 || b.shape.rank() != rank {
            return Err("operands must have the same rank of at least two".into());
        }
        if a.dtype != b.dtype || a.dtype == DType::Bool {
            return Err("operand dtypes differ or are bool".into());
        }
        let (batch_a, batch_b) = (&a.shape.0[..rank - 2], &b.shape.0[..rank - 2]);
        if !batch_a.iter().zip(batch_b).all(|(a, b)| a.known_eq(b)) {
            return Err("batch dimensions differ".into());
        }
        let pair = |t: &TensorType, transposed: bool| {
            let (r, c) = (t.shape[rank - 2].clone(), t.shape[rank - 1].clone());
            if transposed { (c, r) } else { (r, c) }
        };
        let ((m, ka), (kb, n)) = (pair(a, self.transpose_a), pair(b, self.transpose_b));
        if !ka.known_eq(&kb) {
            return Err("inner dimensions differ".into());
        }
        let mut shape = batch_a.to_vec();
        shape.extend([m, n]);
        Ok(vec![TensorType { dtype: a.dtype, shape: Shape::new(shape) }])
    }
    fn equal_sizes(&self, operands: &[TensorType]) -> Vec<(Dim, Dim)> {
        let [a, b] = operands else { return vec![] };
        let rank = a.shape.rank();
        if rank < 2 || b.shape.rank() != rank {
            return vec![];
        }
        let (row, column) = (rank - 1 - self.transpose_a as usize, rank - 2 + self.transpose_b as usize);
        let inner = [(a.shape[row].clone(), b.shape[column].clone())];
        paired(&a.shape.0[..rank - 2], &b.shape.0[..rank - 2]).into_iter().chain(inner).collect()
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        let (a, b, shape) = (&operands[0], &operands[1], sizes(&types[0]));
        let rank = shape.len();
        let (m, n) = (shape[rank - 2], shape[rank - 1]);
        let k = if self.transpose_a { a.shape[rank - 2] } else { a.shape[rank - 1] };
        let batch: usize = shape[..rank - 2].iter().product();
        let at_a = |z: usize, i: usize, p: usize| z * m * k + if self.transpose_a { p * m + i } else { i * k + p };
        let at_b = |z: usize, p: usize, j: usize| z * k * n + if self.transpose_b { j * k + p } else { p * n + j };
        let places = (0..batch).flat_map(|z| (0..m).flat_map(move |i| (0..n).map(move |j| (z, i, j))));
        if a.dtype.is_float() {
            let (x, y, accumulator) = (a.floats(), b.floats(), a.dtype.accumulator());
            let dot = |(z, i, j): (usize, usize, usize)| {
                let sum = (0..k).fold(0.0, |s, p| precision.round(accumulator, s + x[at_a(z, i, p)] * y[at_b(z, p, j)]));
                precision.round(a.dtype, sum)
            };
            return Ok(vec![Array::float(a.dtype, shape.clone(), places.map(dot).collect())]);
        }
        let (x, y) = (a.ints(), b.ints());
        let dot = |(z, i, j): (usize, usize, usize)| {
            a.dtype.wrap((0..k).fold(0i64, |s, p| s.wrapping_add(x[at_a(z, i, p)].wrapping_mul(y[at_b(z, p, j)]))))
        };
        Ok(vec![Array::int(a.dtype, shape.clone(), places.map(dot).collect())])
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let (Some(g), a, b) = (cx.cotangents[0], cx.operands[0], cx.operands[1]) else { return Ok(vec![None; 2]) };
        if !cx.b.dtype(a).is_float() {
            return Ok(vec![None; 2]);
        }
        let product = |transpose_a, transpose_b| Matmul { transpose_a, transpose_b };
        let da =
            if self.transpose_a { cx.b.op(product(self.transpose_b, true), &[b, g])? } else { cx.b.op(product(false, !self.transpose_b), &[g, b])? };
        let db =
            if self.transpose_b { cx.b.op(product(true, self.transpose_a), &[g, a])? } else { cx.b.op(product(!self.transpose_a, false), &[a, g])? };
        Ok(vec![Some(da), Some(db)])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        // Examples of matrices that all meet the same one are further rows.
        let are_rows = cx.is_each(0) && !cx.is_each(1) && !self.transpose_a && cx.example(0).shape.rank() == 2;
        if !are_rows {
            return cx.apply(self.clone());
        }
        let rows = cx.fold(0, 0, 1)?;
        let product = cx.b.op(self.clone(), &[rows, cx.value(1)])?;
        Ok(vec![cx.unfold(product, 0, 1)?])
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        self.lower_part(cx, Triangle::Whole)
    }
    fn samples(&self) -> Vec<Sample> {
        let mut out = vec![];
        for (transpose_a, transpose_b) in [(false, false), (true, false), (false, true), (true, true)] {
            let ty = |rows: i64, cols: i64, swap: bool| TensorType::new(DType::F32, if swap { (2, cols, rows) } else { (2, rows, cols) });
            out.push(Sample::new(Matmul { transpose_a, transpose_b }, vec![ty(3, 5, transpose_a), ty(5, 7, transpose_b)]));
        }
        let plain = Matmul { transpose_a: false, transpose_b: false };
        out.push(Sample::new(plain.clone(), vec![TensorType::new(DType::I32, (4, 3)), TensorType::new(DType::I32, (3, 2))]));
        out.push(Sample::new(plain, vec![TensorType::new(DType::F32, (4, 0)), TensorType::new(DType::F32, (0, 2))]));
        out
    }
}
