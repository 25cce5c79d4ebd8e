//! What composite ops share: evaluation through their decomposition, accumulation dtypes, rows of host arrays.

use super::array::{coordinates, flat_index};
use super::{Array, Built, OpDef, Precision, ReduceKind};
use crate::graph::{Builder, InputRole, OutputRole, Value};
use crate::types::{Dim, Shape};

/// Evaluates an op through its decomposition. Composites do this in working precision, where every step rounds; in exact
/// arithmetic they evaluate their formula directly, so that the two check each other.
pub(super) fn eval_decomposed(op: &dyn OpDef, operands: &[Array], precision: Precision) -> Result<Vec<Array>, String> {
    eval_built(operands, precision, |b, inputs| op.decompose(b, inputs).ok_or_else(|| format!("{} has no decomposition", op.name()))?)
}

/// Evaluates what is built of operands.
pub(super) fn eval_built(
    operands: &[Array],
    precision: Precision,
    build: impl FnOnce(&mut Builder, &[Value]) -> Built<Vec<Value>>,
) -> Result<Vec<Array>, String> {
    let mut b = Builder::new("decomposition");
    let mut inputs = vec![];
    for (i, x) in operands.iter().enumerate() {
        inputs.push(b.input(&format!("x{i}"), InputRole::Input, x.to_host().ty())?);
    }
    for (i, v) in build(&mut b, &inputs)?.into_iter().enumerate() {
        b.output(&format!("y{i}"), OutputRole::User, v);
    }
    Ok(super::run(&b.finish(), operands, precision)?)
}

/// `x` in the dtype its sums are accumulated in: half floats become f32.
pub(super) fn widen(b: &mut Builder, x: Value) -> Built {
    let accumulator = b.dtype(x).accumulator();
    b.cast(x, accumulator)
}

/// Sum over `dims`, kept with size one.
pub(super) fn sum_kept(b: &mut Builder, x: Value, dims: &[usize]) -> Built {
    b.reduce(ReduceKind::Sum, x, dims, true)
}

/// Largest along the last dimension, kept with size one.
pub(super) fn largest_kept(b: &mut Builder, x: Value) -> Built {
    let last = b.shape(x).rank() - 1;
    b.reduce(ReduceKind::Max, x, &[last], true)
}

/// Mean over `dims`, kept with size one.
pub(super) fn mean_kept(b: &mut Builder, x: Value, dims: &[usize]) -> Built {
    let (sum, count) = (sum_kept(b, x, dims)?, count(b.shape(x), dims));
    let count = b.size(&count, b.dtype(x))?;
    b.div(sum, count)
}

/// Number of elements along `dims`.
pub(super) fn count(shape: &Shape, dims: &[usize]) -> Dim {
    Dim::product(dims.iter().map(|&d| &shape[d]))
}

/// `x` with one dimension of size one added at the end.
pub(super) fn unsqueeze_last(b: &mut Builder, x: Value) -> Built {
    let rank = b.shape(x).rank();
    b.unsqueeze(x, rank)
}

/// The last `n` of `rank` dimensions.
pub(super) fn last_dims(rank: usize, n: usize) -> Vec<usize> {
    (rank - n..rank).collect()
}

/// Dimensions that are reduced are sorted, distinct and in range.
pub(super) fn check_dims(shape: &Shape, dims: &[u32]) -> Result<(), String> {
    let fits = dims.iter().all(|&d| (d as usize) < shape.rank()) && dims.windows(2).all(|w| w[0] < w[1]);
    if fits { Ok(()) } else { Err(format!("dimensions {dims:?} are not sorted and in range")) }
}

/// Dimension numbers as attributes hold them.
pub(super) fn dim_numbers(dims: &[u32]) -> Vec<usize> {
    dims.iter().map(|&d| d as usize).collect()
}

/// Flat indices of the elements along `dims`, for every place in the other dimensions, both in row-major order.
pub(super) fn rows(shape: &[usize], dims: &[usize]) -> Vec<Vec<usize>> {
    let kept: Vec<usize> = (0..shape.len()).filter(|i| !dims.contains(i)).collect();
    let sizes = |of: &[usize]| of.iter().map(|&i| shape[i]).collect::<Vec<usize>>();
    let mut at = vec![0; shape.len()];
    let mut out = vec![];
    for outer in coordinates(&sizes(&kept)) {
        for (&i, &c) in kept.iter().zip(&outer) {
            at[i] = c;
        }
        let mut row = vec![];
        for inner in coordinates(&sizes(dims)) {
            for (&i, &c) in dims.iter().zip(&inner) {
                at[i] = c;
            }
            row.push(flat_index(&at, shape));
        }
        out.push(row);
    }
    out
}

/// Largest of some numbers; NaN wins.
pub(super) fn largest(x: impl Iterator<Item = f64>) -> f64 {
    x.fold(f64::NEG_INFINITY, |a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) })
}
