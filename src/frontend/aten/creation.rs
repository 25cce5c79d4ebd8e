//! Tensors made from sizes and numbers.

use super::args::{Args, Cx, Scalar};
use super::{Row, pure};
use crate::graph::Value;
use crate::scalar::ScalarFn as F;
use crate::types::{DType, Dim, Shape};

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["full.default"], |cx, a| {
        let value = a.scalar("fill_value")?;
        let dtype = a.dtype_opt("dtype")?.unwrap_or(value.dtype());
        filled(cx, Shape(a.dims("size")?), &value, dtype)
    }),
    pure(&["full_like.default"], |cx, a| like(cx, a, a.scalar("fill_value")?)),
    pure(&["new_full.default"], |cx, a| sized(cx, a, a.scalar("fill_value")?)),
    pure(&["empty.memory_format", "empty_permuted.default", "new_empty.default", "new_empty_strided.default"], |cx, a| {
        let dtype = dtype_of(cx, a)?;
        // The order in memory says nothing of what nobody wrote.
        a.disregard(&["physical_layout", "stride"]);
        Ok(vec![cx.b.empty(dtype, Shape(a.dims("size")?))?])
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
    pure(&["linspace.default"], linspace),
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
        let src = cx.b.cast(src, dtype)?;
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
    filled(cx, Shape(a.dims("size")?), &value, dtype)
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

/// From both ends toward the middle, so that both ends are exact.
fn linspace(cx: &mut Cx, a: &Args) -> Built {
    let (start, end, steps) = (a.float("start")?, a.float("end")?, a.int("steps")?);
    let dtype = a.dtype_opt("dtype")?.unwrap_or(DType::F32);
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
    let out = if steps == 1 { up } else { cx.b.where_(lower, up, down)? };
    Ok(vec![cx.b.cast(out, dtype)?])
}

fn eye(cx: &mut Cx, a: &Args) -> Built {
    let n = a.dim("n")?;
    let m = a.dim_opt("m")?.unwrap_or(n.clone());
    let dtype = a.dtype_opt("dtype")?.unwrap_or(DType::F32);
    let shape = Shape(vec![n, m]);
    let (row, column) = (cx.b.iota(DType::I32, &shape, 0)?, cx.b.iota(DType::I32, &shape, 1)?);
    let equal = cx.b.scalar(F::Eq, &[row, column])?;
    Ok(vec![cx.b.cast(equal, dtype)?])
}
