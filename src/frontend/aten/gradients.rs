//! Values with another gradient than their own, and writes of slices as functions.

use crate::graph::{Builder, Value};
use crate::ops::{Constancy, Detach};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, Shape};

/// The value without its gradient; integers have none.
pub fn detached(b: &mut Builder, x: Value) -> Result<Value, String> {
    if b.dtype(x).is_float() { b.op(Detach::default(), &[x]) } else { Ok(x) }
}

/// The value of `new` with the gradient of `old`, of the same type.
pub fn straight_through(b: &mut Builder, old: Value, new: Value) -> Result<Value, String> {
    if !b.dtype(old).is_float() {
        return Ok(new);
    }
    let (new, nothing) = (detached(b, new)?, gradient_only(b, old)?);
    b.add(new, nothing)
}

/// `x` with its gradient times a factor that has none.
pub fn scaled_gradient(b: &mut Builder, x: Value, factor: Value) -> Result<Value, String> {
    let (fixed, nothing) = (detached(b, x)?, gradient_only(b, x)?);
    let nothing = b.mul(nothing, factor)?;
    b.add(fixed, nothing)
}

/// Zero with the gradient of a float `x`: `x - x`, of which only the first has one.
pub fn gradient_only(b: &mut Builder, x: Value) -> Result<Value, String> {
    let fixed = b.op(Detach { constancy: Constancy::Surrogate }, &[x])?;
    let difference = b.sub(x, fixed)?;
    // Infinity less itself is NaN.
    let (broken, zero) = (b.scalar(ScalarFn::IsNan, &[difference])?, b.constant(b.dtype(x), 0.0)?);
    let zero = b.scalar(ScalarFn::StraightThrough, &[zero, x])?;
    b.where_(broken, zero, difference)
}

/// `source` with `start..end` by `step` of a dimension replaced by `new`: positions outside keep the source's elements.
pub fn put_slice(b: &mut Builder, source: Value, new: Value, dim: usize, start: &Dim, end: &Dim, step: i64) -> Result<Value, String> {
    let shape = b.shape(source).clone();
    let size = shape[dim].clone();
    if start.is(0) && step == 1 && *end == size {
        return Ok(new);
    }
    if step == 1 {
        let head = b.slice(source, dim, 0, start.clone(), 1)?;
        let tail = b.slice(source, dim, end.clone(), size, 1)?;
        let parts: Vec<Value> = [head, new, tail].into_iter().filter(|&v| !b.shape(v)[dim].is(0)).collect();
        return if parts.is_empty() { Ok(source) } else { b.concat(&parts, dim) };
    }
    // Spread `new` to every `step`-th position by repeating each element, and choose by position.
    let count = b.shape(new)[dim].clone();
    if count.is(0) {
        return Ok(source);
    }
    let mut spread = b.shape(new).clone();
    spread.0.insert(dim + 1, Dim::int(step));
    let repeated = b.unsqueeze(new, dim + 1)?;
    let repeated = b.broadcast_to(repeated, &spread)?;
    let mut joined = b.shape(new).clone();
    joined.0[dim] = count * Dim::int(step);
    let length = joined[dim].clone();
    let repeated = b.reshape(repeated, joined)?;
    let rank = shape.rank();
    let (mut low, mut high) = (vec![Dim::int(0); rank], vec![Dim::int(0); rank]);
    low[dim] = start.clone();
    high[dim] = size - start - &length;
    let placed = b.pad(repeated, &low, &high, 0.0)?;
    let chosen = is_on_stride(b, &shape, dim, start, end, step)?;
    b.where_(chosen, placed, source)
}

/// Where a position of `dim` is one of `start, start + step, ...` below `end`.
fn is_on_stride(b: &mut Builder, shape: &Shape, dim: usize, start: &Dim, end: &Dim, step: i64) -> Result<Value, String> {
    let at = b.iota(DType::I32, shape, dim)?;
    let (first, last) = (b.size(start, DType::I32)?, b.size(end, DType::I32)?);
    let (stride, zero) = (b.constant(DType::I32, step as f64)?, b.constant(DType::I32, 0.0)?);
    let offset = b.sub(at, first)?;
    let rest = b.scalar(ScalarFn::Remainder, &[offset, stride])?;
    let hit = b.scalar(ScalarFn::Eq, &[rest, zero])?;
    let after = b.scalar(ScalarFn::Ge, &[at, first])?;
    let before = b.scalar(ScalarFn::Lt, &[at, last])?;
    let inside = b.scalar(ScalarFn::LogicalAnd, &[after, before])?;
    b.scalar(ScalarFn::LogicalAnd, &[hit, inside])
}
