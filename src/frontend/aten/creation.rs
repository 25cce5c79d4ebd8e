//! Tensors made from sizes and numbers.

use super::args::{Args, Cx, Scalar};
use super::{Row, pure};
use crate::graph::Value;
use crate::ops::Constant;
use crate::scalar::ScalarFn as F;
use crate::types::{DType, Dim, HostTensor, Shape};

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["full.default"], |cx, a| {
        let value = a.scalar("fill_value")?;
        let dtype = a.dtype_opt("dtype")?.unwrap_or(value.dtype());
        filled(cx, Shape::new(a.dims("size")?), &value, dtype)
    }),
    pure(&["full_like.default"], |cx, a| like(cx, a, a.scalar("fill_value")?)),
    pure(&["new_full.default"], |cx, a| sized(cx, a, a.scalar("fill_value")?)),
    pure(&["empty.memory_format", "empty_permuted.default", "new_empty.default", "new_empty_strided.default"], |cx, a| {
        let dtype = dtype_of(cx, a)?;
        // The order in memory says nothing of what nobody wrote.
        a.disregard(&["physical_layout", "stride"]);
        Ok(vec![cx.b.empty(dtype, Shape::new(a.dims("size")?))?])
    }),
    pure(&["empty_like.default"], |cx, a| {
        let x = a.tensor("self")?;
        let (dtype, shape) = (dtype_of(cx, a)?, cx.shape(x));
        Ok(vec![cx.b.empty(dtype, shape)?])
    }),
    pure(&["zeros.default"], |cx, a| sized(cx, a, Scalar::Float(0.0))),
    pure(&["ones.default"], |cx, a| sized(cx, a, Scalar::Float(1.0))),
    pure(&["zeros_like.default"], |cx, a| like(cx, a, Scalar::Float(0.0))),
    pure(&["ones_like.default"], |cx, a| like(cx, a, Scalar::Float(1.0))),
    pure(&["new_zeros.default"], |cx, a| sized(cx, a, Scalar::Float(0.0))),
    pure(&["new_ones.default"], |cx, a| sized(cx, a, Scalar::Float(1.0))),
    pure(&["scalar_tensor.default"], |cx, a| {
        let value = a.scalar("s")?;
        let dtype = a.dtype_opt("dtype")?.unwrap_or(DType::F32);
        Ok(vec![cx.number(&value, dtype)?])
    }),
    pure(&["arange.default", "arange.start", "arange.start_step"], arange),
    pure(&["linspace.default"], |cx, a| {
        let dtype = a.dtype_opt("dtype")?.unwrap_or(DType::F32);
        let out = linspace(cx, a, dtype)?;
        Ok(vec![cx.b.cast(out, dtype)?])
    }),
    pure(&["logspace.default"], |cx, a| {
        let dtype = a.dtype_opt("dtype")?.unwrap_or(DType::F32);
        let exponent = linspace(cx, a, dtype)?;
        let base = cx.b.constant(cx.b.dtype(exponent), a.float_or("base", 10.0)?)?;
        let out = cx.b.scalar(F::Pow, &[base, exponent])?;
        Ok(vec![cx.b.cast(out, dtype)?])
    }),
    pure(&["tril_indices.default"], |cx, a| triangle(cx, a, |row, column, offset| column <= row + offset)),
    pure(&["triu_indices.default"], |cx, a| triangle(cx, a, |row, column, offset| column >= row + offset)),
    pure(&["fill_diagonal.default"], fill_diagonal),
    pure(&["eye.default", "eye.m"], eye),
    pure(&["fill.Scalar", "fill.Tensor"], |cx, a| {
        let (x, value) = (a.tensor("self")?, a.operand("value")?);
        let (dtype, shape) = (cx.b.dtype(x), cx.shape(x));
        let value = cx.as_tensor(&value, dtype)?;
        Ok(vec![cx.b.broadcast_to(value, &shape)?])
    }),
    pure(&["zero.default"], |cx, a| like(cx, a, Scalar::Float(0.0))),
    pure(&["copy.default"], |cx, a| {
        let (x, src) = (a.tensor("self")?, a.tensor("src")?);
        let (dtype, shape) = (cx.b.dtype(x), cx.shape(x));
        let src = cx.convert(src, dtype)?;
        Ok(vec![cx.b.broadcast_to(src, &shape)?])
    }),
];

fn filled(cx: &mut Cx, shape: Shape, value: &Scalar, dtype: DType) -> Built {
    let value = cx.number(value, dtype)?;
    Ok(vec![cx.b.broadcast_to(value, &shape)?])
}

/// Of the size given; the dtype is given, or that of `self`, or f32.
fn sized(cx: &mut Cx, a: &Args, value: Scalar) -> Built {
    let dtype = dtype_of(cx, a)?;
    a.disregard(&["physical_layout", "stride"]);
    filled(cx, Shape::new(a.dims("size")?), &value, dtype)
}

fn dtype_of(cx: &Cx, a: &Args) -> Result<DType, String> {
    let own = a.tensor_opt("self")?.map(|x| cx.b.dtype(x));
    Ok(a.dtype_opt("dtype")?.or(own).unwrap_or(DType::F32))
}

fn like(cx: &mut Cx, a: &Args, value: Scalar) -> Built {
    let x = a.tensor("self")?;
    let dtype = a.dtype_opt("dtype")?.unwrap_or(cx.b.dtype(x));
    let shape = cx.shape(x);
    filled(cx, shape, &value, dtype)
}

/// `start + i * step`, computed in the result's dtype as PyTorch does (integers exactly).
fn arange(cx: &mut Cx, a: &Args) -> Built {
    let start = a.scalar_opt("start")?.unwrap_or(Scalar::Int(Dim::int(0)));
    let end = a.scalar("end")?;
    let step = a.scalar_opt("step")?.unwrap_or(Scalar::Int(Dim::int(1)));
    let all_int = [&start, &end, &step].iter().all(|s| matches!(s, Scalar::Int(_)));
    let dtype = a.dtype_opt("dtype")?.unwrap_or(if all_int { DType::I64 } else { DType::F32 });
    let count = match (&start, &end, &step) {
        (Scalar::Int(s), Scalar::Int(e), Scalar::Int(by)) if by.is(1) => e.clone() - s,
        _ => {
            let [s, e, by] = [&start, &end, &step].map(|x| x.to_f64().ok_or("symbolic steps are not supported"));
            let count = ((e? - s?) / by?).ceil();
            if !(0.0..=1e12).contains(&count) {
                return Err(format!("it would have {count} elements"));
            }
            Dim::int(count as i64)
        }
    };
    let exact = if dtype.is_float() { dtype } else { DType::I64 };
    let index = cx.b.iota(exact, [count], 0)?;
    let (step, start) = (cx.number(&step, exact)?, cx.number(&start, exact)?);
    let scaled = cx.b.mul(index, step)?;
    let out = cx.b.add(scaled, start)?;
    Ok(vec![cx.b.cast(out, dtype)?])
}

/// From both ends toward the middle, so that both ends are exact; in f64 where integers are asked for.
fn linspace(cx: &mut Cx, a: &Args, dtype: DType) -> Result<Value, String> {
    let (start, end, steps) = (a.float("start")?, a.float("end")?, a.int("steps")?);
    let work = if dtype.is_float() { dtype } else { DType::F64 };
    let step = if steps > 1 { (end - start) / (steps - 1) as f64 } else { 0.0 };
    let i = cx.b.iota(work, [steps], 0)?;
    let [start, end, step, last, half] = [start, end, step, (steps - 1) as f64, (steps / 2) as f64].map(|x| cx.b.constant(work, x));
    let (start, end, step) = (start?, end?, step?);
    let up = cx.b.mul(i, step)?;
    let up = cx.b.add(start, up)?;
    let from_end = cx.b.sub(last?, i)?;
    let down = cx.b.mul(from_end, step)?;
    let down = cx.b.sub(end, down)?;
    let lower = cx.b.scalar(F::Lt, &[i, half?])?;
    if steps == 1 { Ok(up) } else { cx.b.where_(lower, up, down) }
}

fn eye(cx: &mut Cx, a: &Args) -> Built {
    let n = a.dim("n")?;
    let m = a.dim_opt("m")?.unwrap_or(n.clone());
    let dtype = a.dtype_opt("dtype")?.unwrap_or(DType::F32);
    Ok(vec![identity(cx, n, m, dtype)?])
}

/// Ones where the row is the column.
pub fn identity(cx: &mut Cx, rows: Dim, columns: Dim, dtype: DType) -> Result<Value, String> {
    let shape = Shape::new(vec![rows, columns]);
    let (row, column) = (cx.b.iota(DType::I32, &shape, 0)?, cx.b.iota(DType::I32, &shape, 1)?);
    let equal = cx.b.scalar(F::Eq, &[row, column])?;
    cx.b.cast(equal, dtype)
}

/// Rows and columns of a triangle, row by row.
fn triangle(cx: &mut Cx, a: &Args, is_inside: fn(i64, i64, i64) -> bool) -> Built {
    let (rows, columns, offset) = (a.int("row")?, a.int("col")?, a.int_in("offset", 0, -(1 << 30)..=1 << 30)?);
    super::table_length(rows.max(0).saturating_mul(columns.max(0)))?;
    let all = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
    let (row, column): (Vec<f64>, Vec<f64>) = all.filter(|&(r, c)| is_inside(r, c, offset)).map(|(r, c)| (r as f64, c as f64)).unzip();
    let table = HostTensor::from_f64(DType::I64, &[2, row.len()], &[row, column].concat());
    let index = cx.b.op(Constant::from_host(&table), &[])?;
    Ok(vec![cx.b.cast(index, a.dtype_opt("dtype")?.unwrap_or(DType::I64))?])
}

/// The tensor with a number where all coordinates are equal. A matrix with more rows than columns may have a diagonal that begins
/// again, with a row between.
fn fill_diagonal(cx: &mut Cx, a: &Args) -> Built {
    let (x, value) = (a.tensor("self")?, a.scalar("fill_value")?);
    let (shape, value) = (cx.shape(x), cx.number(&value, cx.b.dtype(x))?);
    let Some(last) = shape.rank().checked_sub(1).filter(|&last| last > 0) else { return Err("a diagonal needs two dimensions".into()) };
    let mut first = cx.b.iota(DType::I32, &shape, 0)?;
    if a.bool_or("wrap", false)? && shape.rank() == 2 {
        let period = cx.b.size(&(shape[1].clone() + Dim::int(1)), DType::I32)?;
        first = cx.b.scalar(F::Remainder, &[first, period])?;
    }
    let mut on = None;
    for d in 1..=last {
        let at = cx.b.iota(DType::I32, &shape, d)?;
        let equal = cx.b.scalar(F::Eq, &[first, at])?;
        on = Some(on.map_or(Ok(equal), |before| cx.b.scalar(F::LogicalAnd, &[before, equal]))?);
    }
    Ok(vec![cx.b.where_(on.ok_or("a diagonal needs two dimensions")?, value, x)?])
}
