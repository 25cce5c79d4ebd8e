//! Numbers rounded as a quantized model would have them, in floats.

use super::args::{Args, Cx};
use super::opmath::{flag, with_partials};
use super::{Row, pure};
use crate::graph::Value;
use crate::scalar::ScalarFn as F;
use crate::types::{DType, Dim, Shape};

type Built = Result<Vec<Value>, String>;

/// Rows of this family. The forms with a mask give it as a second result.
pub const ROWS: &[Row] = &[
    pure(&["fake_quantize_per_tensor_affine.default"], |cx, a| first(per_tensor(cx, a)?)),
    pure(&["fake_quantize_per_tensor_affine_cachemask.default"], per_tensor),
    pure(&["fake_quantize_per_tensor_affine.tensor_qparams"], |cx, a| first(by_tensors(cx, a)?)),
    pure(&["fake_quantize_per_channel_affine.default"], |cx, a| first(per_channel(cx, a)?)),
    pure(&["fake_quantize_per_channel_affine_cachemask.default"], per_channel),
];

fn first(results: Vec<Value>) -> Built {
    Ok(results[..1].to_vec())
}

fn per_tensor(cx: &mut Cx, a: &Args) -> Built {
    let dtype = cx.b.dtype(a.tensor("self")?);
    let (scale, zero) = (cx.b.constant(DType::F32, a.float("scale")?)?, cx.b.constant(dtype, a.int("zero_point")? as f64)?);
    quantize(cx, a, scale, zero)
}

fn by_tensors(cx: &mut Cx, a: &Args) -> Built {
    let (scale, zero) = (a.tensor("scale")?, a.tensor("zero_point")?);
    let (scale, zero) = (cx.b.reshape(scale, Shape::scalar())?, cx.b.reshape(zero, Shape::scalar())?);
    quantize(cx, a, scale, zero)
}

fn per_channel(cx: &mut Cx, a: &Args) -> Built {
    let (x, mut scale, mut zero) = (a.tensor("self")?, a.tensor("scale")?, a.tensor("zero_point")?);
    let axis = cx.dim(x, a.int("axis")?)?;
    let mut shape = Shape::new(vec![Dim::int(1); cx.b.shape(x).rank()]);
    shape.0[axis] = cx.b.shape(x)[axis].clone();
    for v in [&mut scale, &mut zero] {
        *v = cx.b.reshape(*v, shape.clone())?;
    }
    quantize(cx, a, scale, zero)
}

/// The multiple of the scale that is nearest, within bounds. What is rounded beyond them takes no gradient.
fn quantize(cx: &mut Cx, a: &Args, scale: Value, zero: Value) -> Built {
    let x = a.tensor("self")?;
    let dtype = cx.b.dtype(x);
    let (scale, zero) = (cx.b.cast(scale, dtype)?, cx.b.cast(zero, dtype)?);
    let (low, high) = (cx.b.constant(dtype, a.int("quant_min")? as f64)?, cx.b.constant(dtype, a.int("quant_max")? as f64)?);
    let inverse = cx.b.scalar(F::Reciprocal, &[scale])?;
    let steps = cx.b.mul(x, inverse)?;
    let steps = cx.b.scalar(F::Round, &[steps])?;
    let level = cx.b.add(steps, zero)?;
    let (above, below) = (cx.b.scalar(F::Ge, &[level, low])?, cx.b.scalar(F::Le, &[level, high])?);
    let inside = cx.b.scalar(F::LogicalAnd, &[above, below])?;
    let bounded = cx.b.scalar(F::Clamp, &[level, low, high])?;
    let offset = cx.b.sub(bounded, zero)?;
    let value = cx.b.mul(offset, scale)?;
    let slope = flag(cx, inside, dtype)?;
    Ok(vec![with_partials(cx, value, &[(x, slope)])?, inside])
}
