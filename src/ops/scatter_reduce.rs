//! Products and extrema at computed indices, written as reductions so that they need no atomics and are deterministic.

use super::array::{coordinates, flat_index, sizes};
use super::gather::{checked_indices, load_index};
use super::scatter::{bounded_sizes, check_scatter, reached};
use super::{
    Array, BatchContext, Built, Class, Data, Gather, Grads, NestBuilder, OpDef, OperandView, Precision, ReduceKind, Sample, ScatterAdd, VjpContext,
};
use crate::graph::{Builder, Value};
use crate::loop_ir::flatten;
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, TensorType, paired};
use serde::{Deserialize, Serialize};

/// `out = base`, then `out[i, index[i, j, ...], ...] = combine(out[...], src[i, j, ...])` with the index in place of coordinate
/// `dim`, where `combine` multiplies or takes the larger or the smaller. For extrema two more results, bool: which elements of
/// `src`, and which of `base`, are equal to the extremum in their place (nothing is equal to NaN).
///
/// * Operands `base` and `src` of one float or integer dtype, and `index` of an integer dtype, all of one rank; `src` has the
///   index's shape, which besides `dim` is not larger than `base`. An index outside `0..size` is an error.
/// * Gradient of extrema: elements that tie share the cotangent, through the two masks, so that no float is compared again. All that
///   meet in a place whose extremum is NaN have the gradient NaN, as in PyTorch.
///   Of products: `g * out / x`, and where a factor is zero the product of the others.
/// * PyTorch: `scatter_reduce` with `include_self`; its other forms are built from this one and [`ScatterAdd`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ScatterReduce {
    /// The dimension indexed.
    pub dim: u32,
    /// `Prod`, `Max` or `Min`.
    pub kind: ReduceKind,
}

impl ScatterReduce {
    fn function(&self) -> Result<ScalarFn, String> {
        match self.kind {
            ReduceKind::Prod => Ok(ScalarFn::Mul),
            ReduceKind::Max => Ok(ScalarFn::Maximum),
            ReduceKind::Min => Ok(ScalarFn::Minimum),
            other => Err(format!("does not combine by {other:?}")),
        }
    }

    fn identity(&self, dtype: DType) -> f64 {
        let (low, high) = dtype.int_range().map_or((f64::NEG_INFINITY, f64::INFINITY), |(low, high)| (low as f64, high as f64));
        match self.kind {
            ReduceKind::Max => low,
            ReduceKind::Min => high,
            _ => 1.0,
        }
    }

    /// Nests for the two masks, which read the result.
    fn lower_masks(&self, cx: &mut NestBuilder<'_>, code: u32) -> Result<(), String> {
        let (base, index, src, dim) = (cx.operand(0), cx.operand(1), cx.operand(2), self.dim as usize);
        let (buffer, ty) = cx.results[0].clone();
        let out = OperandView::of(buffer, ty.clone());
        cx.pointwise(1, |b, at| {
            let i = load_index(b, &index, at, None);
            let mut to = at.to_vec();
            to[dim] = b.bound(i, &ty.shape[dim], None, code);
            let (x, y) = (b.load(src.at(at)), b.load(out.at(&to)));
            Ok(b.call(ScalarFn::Eq, &[x, y]))
        })?;
        cx.pointwise(2, |b, at| {
            let (x, y) = (b.load(base.at(at)), b.load(out.at(at)));
            Ok(b.call(ScalarFn::Eq, &[x, y]))
        })
    }
}

impl OpDef for ScatterReduce {
    fn name(&self) -> &'static str {
        "scatter_reduce"
    }
    fn class(&self) -> Class {
        Class::Scatter
    }
    fn infer(&self, operands: &[TensorType]) -> Result<Vec<TensorType>, String> {
        let [base, index, src] = operands else { return Err("takes a base, an index and a source".into()) };
        self.function()?;
        check_scatter(base, index, src, self.dim)?;
        let flags = |shape: &TensorType| TensorType { dtype: DType::Bool, shape: shape.shape.clone() };
        Ok(if self.kind == ReduceKind::Prod { vec![base.clone()] } else { vec![base.clone(), flags(src), flags(base)] })
    }
    fn equal_sizes(&self, operands: &[TensorType]) -> Vec<(Dim, Dim)> {
        let [_, index, src] = operands else { return vec![] };
        paired(&index.shape.0, &src.shape.0)
    }
    fn bounded_sizes(&self, operands: &[TensorType]) -> Vec<(Dim, Dim)> {
        let [base, index, _] = operands else { return vec![] };
        bounded_sizes(base, index, self.dim)
    }
    fn eval(&self, operands: &[Array], types: &[TensorType], precision: Precision) -> Result<Vec<Array>, String> {
        let (base, index, src, dim) = (&operands[0], &operands[1], &operands[2], self.dim as usize);
        let (f, dtype) = (self.function()?, base.dtype);
        let rows = checked_indices(self.name(), index, base.shape[dim])?;
        let places: Vec<usize> = coordinates(&index.shape)
            .zip(rows)
            .map(|(mut at, row)| {
                at[dim] = row;
                flat_index(&at, &base.shape)
            })
            .collect();
        let mut out = base.clone();
        match (&mut out.data, &src.data) {
            (Data::Float(out), Data::Float(src)) => {
                for (&to, &x) in places.iter().zip(src) {
                    out[to] = precision.round(dtype.accumulator(), (f.row().eval_f64)(&[out[to], x]));
                }
                out.iter_mut().for_each(|x| *x = precision.round(dtype, *x));
            }
            (Data::Int(out), Data::Int(src)) => {
                for (&to, &x) in places.iter().zip(src) {
                    out[to] = f.eval_int(dtype, &[out[to], x]).ok_or("takes floats only")?;
                }
            }
            _ => return Err("base and source differ in dtype".into()),
        }
        if self.kind == ReduceKind::Prod {
            return Ok(vec![out]);
        }
        let equal = |a: f64, b: f64| (a == b) as i64;
        let result = out.floats();
        let from_src = src.floats().into_iter().zip(&places).map(|(x, &to)| equal(x, result[to])).collect();
        let from_base = base.floats().into_iter().zip(&result).map(|(x, &y)| equal(x, y)).collect();
        let masks = [Array::int(DType::Bool, sizes(&types[1]), from_src), Array::int(DType::Bool, sizes(&types[2]), from_base)];
        Ok([vec![out], masks.to_vec()].concat())
    }
    fn vjp(&self, cx: &mut VjpContext<'_>) -> Built<Grads> {
        let (Some(g), base) = (cx.cotangents[0], cx.operands[0]) else { return Ok(vec![None; 3]) };
        if !cx.b.dtype(base).is_float() {
            return Ok(vec![None; 3]);
        }
        let (dbase, dsrc) = match self.kind {
            ReduceKind::Prod => self.product_gradient(cx.b, cx.operands, cx.results[0], g)?,
            _ => self.extremum_gradient(cx.b, cx.operands, cx.results, g)?,
        };
        Ok(vec![Some(dbase), None, Some(dsrc)])
    }
    fn batch(&self, cx: &mut BatchContext<'_>) -> Built<Vec<Value>> {
        cx.apply(ScatterReduce { dim: self.dim + 1, ..self.clone() })
    }
    fn lower(&self, cx: &mut NestBuilder<'_>) -> Result<(), String> {
        let (base, index, src, dim) = (cx.operand(0), cx.operand(1), cx.operand(2), self.dim as usize);
        let (buffer, ty) = cx.results[0].clone();
        let size = ty.shape[dim].clone();
        let code = cx.check(format!("scatter_reduce: index outside 0..{size} of dimension {dim}"));
        let accumulator = if ty.dtype.is_float() { ty.dtype.accumulator() } else { ty.dtype };
        let f = self.function()?;
        cx.nest(&ty.shape.0, &[index.ty.shape[dim].clone()], |b, row, col| {
            let mut at = row.to_vec();
            at[dim] = col[0].clone();
            let mask = reached(b, &index.ty.shape, &ty.shape, row, dim);
            let i = load_index(b, &index, &at, mask);
            let i = b.bound(i, &size, mask, code);
            let (i, own) = (b.index(&i, DType::I32), b.index(&row[dim], DType::I32));
            let mut hit = b.call(ScalarFn::Eq, &[i, own]);
            if let Some(mask) = mask {
                hit = b.call(ScalarFn::LogicalAnd, &[hit, mask]);
            }
            let x = b.load_if(src.at(&at), hit);
            let (x, none) = (b.cast(x, accumulator), b.constant(accumulator, self.identity(ty.dtype)));
            let term = b.call(ScalarFn::Where, &[hit, x, none]);
            let combined = b.reduce(self.kind.combiner(), term);
            let start = b.load(base.at(row));
            let start = b.cast(start, accumulator);
            let out = b.call(f, &[start, combined]);
            let out = b.cast(out, ty.dtype);
            b.write(buffer, flatten(row, &ty.shape.0), out);
            Ok(())
        })?;
        if self.kind == ReduceKind::Prod { Ok(()) } else { self.lower_masks(cx, code) }
    }
    fn samples(&self) -> Vec<Sample> {
        let of = |kind: ReduceKind, dtype: DType, dim: u32, base: &[i64], at: &[i64]| {
            let operands = vec![TensorType::new(dtype, base), TensorType::new(DType::I32, at), TensorType::new(dtype, at)];
            Sample::new(ScatterReduce { dim, kind }, operands).index_below(base[dim as usize])
        };
        let mut out = vec![];
        for kind in [ReduceKind::Prod, ReduceKind::Max, ReduceKind::Min] {
            out.push(of(kind, DType::F32, 0, &[5, 3], &[7, 3]));
            out.push(of(kind, DType::F32, 1, &[3, 4], &[2, 5]));
            out.push(of(kind, DType::I32, 0, &[4], &[6]));
            out.push(of(kind, DType::F32, 0, &[3, 2], &[0, 2]));
        }
        out
    }
}

impl ScatterReduce {
    /// The cotangent, divided among the elements that are equal to the extremum in their place.
    fn extremum_gradient(&self, b: &mut Builder, operands: &[Value], results: &[Value], g: Value) -> Built<(Value, Value)> {
        let dtype = b.dtype(g);
        let (from_src, from_base) = (b.cast(results[1], dtype)?, b.cast(results[2], dtype)?);
        let count = b.op(ScatterAdd { dim: self.dim, checked: false }, &[from_base, operands[1], from_src])?;
        // Nothing is equal to NaN: its share is infinite or NaN there, and so no part of it is a number.
        let share = b.div(g, count)?;
        let there = b.op(Gather { dim: self.dim }, &[share, operands[1]])?;
        Ok((b.mul(from_base, share)?, b.mul(from_src, there)?))
    }

    /// With zeros among the factors, only the single zero of a place has a gradient: the product of all others.
    fn product_gradient(&self, b: &mut Builder, operands: &[Value], out: Value, g: Value) -> Built<(Value, Value)> {
        let (base, index, src) = (operands[0], operands[1], operands[2]);
        let dtype = b.dtype(g);
        let (zero, one) = (b.constant(dtype, 0.0)?, b.constant(dtype, 1.0)?);
        let base_zero = b.scalar(ScalarFn::Eq, &[base, zero])?;
        let safe_base = b.where_(base_zero, one, base)?;
        let without_base = b.op(self.clone(), &[safe_base, index, src])?;
        let quotient = b.div(without_base, safe_base)?;
        let dbase = b.mul(g, quotient)?;
        let src_zero = b.scalar(ScalarFn::Eq, &[src, zero])?;
        let safe_src = b.where_(src_zero, one, src)?;
        let without_src = b.op(self.clone(), &[base, index, safe_src])?;
        let zeros = b.cast(src_zero, dtype)?;
        let none = b.full(dtype, 0.0, b.shape(base).clone())?;
        let count = b.op(ScatterAdd { dim: self.dim, checked: false }, &[none, index, zeros])?;
        let [count, others, all, g] = [count, without_src, out, g].map(|x| b.op(Gather { dim: self.dim }, &[x, index]));
        let (count, others, all, g) = (count?, others?, all?, g?);
        let single = b.scalar(ScalarFn::Eq, &[count, one])?;
        let at_zero = b.where_(single, others, zero)?;
        let elsewhere = b.div(all, safe_src)?;
        let partial = b.where_(src_zero, at_zero, elsewhere)?;
        Ok((dbase, b.mul(g, partial)?))
    }
}
