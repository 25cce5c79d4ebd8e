//! Rearrangements and products made of other operators, as `torch.export` leaves them in programs that are not decomposed.

use super::args::{Args, Cx, Operand, promote};
use super::opmath::{flag, with_partials};
use super::views::diagonal_of;
use super::{Row, opmath, pure, reduce, view, view_if_strided};
use crate::graph::Value;
use crate::ops::{Constant, Op, ReduceKind};
use crate::scalar::ScalarFn as F;
use crate::types::{DType, Dim, HostTensor, Shape, broadcast_shapes};

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["addr.default"], |cx, a| {
        let (x, left, right) = (a.tensor("self")?, a.tensor("vec1")?, a.tensor("vec2")?);
        cx.expect_rank(left, 1..=1)?;
        let left = cx.b.unsqueeze(left, 1)?;
        let product = cx.b.mul(left, right)?;
        let (x, product) = (times(cx, x, a, "beta")?, times(cx, product, a, "alpha")?);
        Ok(vec![cx.b.add(x, product)?])
    }),
    pure(&["block_diag.default"], block_diag),
    pure(&["cartesian_prod.default"], |cx, a| {
        let list = a.tensors("tensors")?;
        if let [only] = list[..] {
            return Ok(vec![only]);
        }
        let grid = meshgrid(cx, &list, "ij")?;
        let n = cx.shape(*grid.first().ok_or("there is no tensor")?).numel();
        let columns: Vec<Value> = grid.iter().map(|&x| cx.b.reshape(x, [n.clone()])).collect::<Result<_, _>>()?;
        Ok(vec![cx.b.stack(&columns, 1)?])
    }),
    view(&["meshgrid.default", "meshgrid.indexing"], |cx, a| meshgrid(cx, &a.tensors("tensors")?, a.text_or("indexing", "ij")?)),
    pure(&["cdist.default", "_cdist_forward.default"], |cx, a| {
        let (x, y) = (a.tensor("x1")?, a.tensor("x2")?);
        [x, y].into_iter().try_for_each(|v| cx.expect_rank(v, 2..=64))?;
        let (x, y) = (cx.b.unsqueeze(x, cx.b.shape(x).rank() - 1)?, cx.b.unsqueeze(y, cx.b.shape(y).rank() - 2)?);
        let difference = cx.b.sub(x, y)?;
        Ok(vec![reduce::distance(cx, difference, a.float_or("p", 2.0)?)?])
    }),
    pure(&["pdist.default", "_pdist_forward.default"], |cx, a| {
        let x = a.tensor("self")?;
        cx.expect_rank(x, 2..=2)?;
        let n = cx.b.shape(x)[0].as_int().filter(|n| *n <= 1 << 10).ok_or("pairs of so many rows are not supported")?;
        let pairs: Vec<(i64, i64)> = (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j))).collect();
        let index = |of: fn(&(i64, i64)) -> i64| {
            let list: Vec<f64> = pairs.iter().map(|p| of(p) as f64).collect();
            Constant::from_host(&HostTensor::from_f64(DType::I32, &[list.len()], &list))
        };
        let (i, j) = (cx.b.op(index(|p| p.0), &[])?, cx.b.op(index(|p| p.1), &[])?);
        let (left, right) = (cx.b.index_select(x, 0, i)?, cx.b.index_select(x, 0, j)?);
        let difference = cx.b.sub(left, right)?;
        Ok(vec![reduce::distance(cx, difference, a.float_or("p", 2.0)?)?])
    }),
    pure(&["cross.default"], |cx, a| {
        let shape = broadcast_shapes(cx.b.shape(a.tensor("self")?), cx.b.shape(a.tensor("other")?))?;
        let first = shape.0.iter().position(|d| d.is(3)).ok_or("no dimension has size 3")?;
        cross(cx, a, first as i64)
    }),
    pure(&["linalg_cross.default"], |cx, a| cross(cx, a, -1)),
    pure(&["diag.default"], |cx, a| {
        let (x, offset) = (a.tensor("self")?, a.int_in("diagonal", 0, OFFSETS)?);
        Ok(vec![if cx.b.shape(x).rank() == 1 { diag_embed(cx, x, offset, 0, 1)? } else { diagonal_of(cx, x, 0, 1, offset)? }])
    }),
    pure(&["diag_embed.default"], |cx, a| {
        let x = a.tensor("self")?;
        cx.expect_rank(x, 1..=64)?;
        let rank = cx.b.shape(x).rank() + 1;
        let at = |name: &str, default| super::args::dim_index(a.int_or(name, default)?, rank);
        Ok(vec![diag_embed(cx, x, a.int_in("offset", 0, OFFSETS)?, at("dim1", -2)?, at("dim2", -1)?)?])
    }),
    pure(&["diagonal_scatter.default"], diagonal_scatter),
    pure(&["trace.default"], |cx, a| {
        let x = a.tensor("self")?;
        let diagonal = diagonal_of(cx, x, 0, 1, 0)?;
        let diagonal = if cx.b.dtype(x).is_float() { diagonal } else { cx.b.cast(diagonal, DType::I64)? };
        Ok(vec![cx.b.reduce(ReduceKind::Sum, diagonal, &[0], false)?])
    }),
    pure(&["fliplr.default"], |cx, a| Ok(vec![cx.b.flip(a.tensor("self")?, &[1])?])),
    pure(&["flipud.default"], |cx, a| Ok(vec![cx.b.flip(a.tensor("self")?, &[0])?])),
    pure(&["rot90.default"], |cx, a| {
        let x = a.tensor("self")?;
        let dims = if a.has("dims") { a.ints("dims")? } else { vec![0, 1] };
        let [i, j] = dims[..] else { return Err("it turns two dimensions".into()) };
        let (i, j) = (cx.dim(x, i)?, cx.dim(x, j)?);
        let mut order: Vec<usize> = (0..cx.b.shape(x).rank()).collect();
        order.swap(i, j);
        Ok(vec![match a.int_or("k", 1)?.rem_euclid(4) {
            0 => x,
            1 => {
                let y = cx.b.flip(x, &[j])?;
                cx.b.permute(y, &order)?
            }
            2 => cx.b.flip(x, &[i, j])?,
            _ => {
                let y = cx.b.flip(x, &[i])?;
                cx.b.permute(y, &order)?
            }
        }])
    }),
    view(&["mH.default"], |cx, a| Ok(vec![cx.b.transpose(a.tensor("self")?)?])),
    view_if_strided(&["ravel.default"], |cx, a| {
        let x = a.tensor("self")?;
        Ok(vec![cx.b.reshape(x, [cx.shape(x).numel()])?])
    }),
    view_if_strided(&["reshape_as.default"], |cx, a| {
        let shape = cx.shape(a.tensor("other")?);
        Ok(vec![cx.b.reshape(a.tensor("self")?, shape)?])
    }),
    pure(&["sum_to_size.default"], |cx, a| {
        let (x, shape) = (a.tensor("self")?, Shape::new(a.dims("size")?));
        if broadcast_shapes(&shape, cx.b.shape(x))? != *cx.b.shape(x) {
            return Err(format!("{} is no sum to {shape}", cx.b.ty(x)));
        }
        Ok(vec![cx.b.sum_to(x, &shape)?])
    }),
    pure(&["repeat_interleave.self_int"], repeat_interleave),
    pure(&["take_along_dim.default"], take_along_dim),
    pure(&["pixel_shuffle.default"], |cx, a| {
        let (x, r) = (a.tensor("self")?, Dim::int(a.int_in("upscale_factor", 1, 1..=1 << 15)?));
        let (lead, [c, h, w]) = image(cx, x)?;
        let out = c.try_div(&(r.clone() * &r)).ok_or("channels are no multiple of the factor's square")?;
        let y = cx.b.reshape(x, Shape::new([&lead[..], &[out.clone(), r.clone(), r.clone(), h.clone(), w.clone()]].concat()))?;
        let n = lead.len();
        let order: Vec<usize> = (0..n).chain([n, n + 3, n + 1, n + 4, n + 2]).collect();
        let y = cx.b.permute(y, &order)?;
        Ok(vec![cx.b.reshape(y, Shape::new([&lead[..], &[out, h * &r, w * &r]].concat()))?])
    }),
    pure(&["pixel_unshuffle.default"], |cx, a| {
        let (x, r) = (a.tensor("self")?, Dim::int(a.int_in("downscale_factor", 1, 1..=1 << 15)?));
        let (lead, [c, h, w]) = image(cx, x)?;
        let (h, w) = (h.try_div(&r).ok_or("the height is no multiple")?, w.try_div(&r).ok_or("the width is no multiple")?);
        let y = cx.b.reshape(x, Shape::new([&lead[..], &[c.clone(), h.clone(), r.clone(), w.clone(), r.clone()]].concat()))?;
        let n = lead.len();
        let order: Vec<usize> = (0..n).chain([n, n + 2, n + 4, n + 1, n + 3]).collect();
        let y = cx.b.permute(y, &order)?;
        Ok(vec![cx.b.reshape(y, Shape::new([&lead[..], &[c * &(r.clone() * &r), h, w]].concat()))?])
    }),
    pure(&["channel_shuffle.default", "native_channel_shuffle.default"], |cx, a| {
        let (x, groups) = (a.tensor("self")?, Dim::int(a.int_in("groups", 1, 1..=1 << 30)?));
        cx.expect_rank(x, 2..=64)?;
        let shape = cx.shape(x);
        let each = shape[1].try_div(&groups).ok_or("channels are no multiple of the groups")?;
        let split = Shape::new([&shape.0[..1], &[groups, each], &shape.0[2..]].concat());
        let order: Vec<usize> = [0, 2, 1].into_iter().chain(3..split.rank()).collect();
        let y = cx.b.reshape(x, split)?;
        let y = cx.b.permute(y, &order)?;
        Ok(vec![cx.b.reshape(y, shape)?])
    }),
    pure(&["repeat_interleave.Tensor"], |cx, a| {
        let repeats = a.tensor("repeats")?;
        cx.expect_rank(repeats, 1..=1)?;
        Ok(vec![repeated(cx, a, repeats)?])
    }),
    pure(&["repeat_interleave.self_Tensor"], repeat_interleave_by),
    pure(&["one_hot.default"], |cx, a| {
        let (x, classes) = (a.tensor("self")?, a.int_or("num_classes", -1)?);
        if classes < 0 {
            return Err("a number of classes that depends on the data is not supported".into());
        }
        Ok(vec![cx.b.one_hot(x, classes, DType::I64)?])
    }),
    pure(&["isin.Tensor_Tensor", "isin.Tensor_Scalar", "isin.Scalar_Tensor"], |cx, a| {
        let (x, tests) = (
            a.operand(if a.has("element") { "element" } else { "elements" })?,
            a.operand(if a.has("test_element") { "test_element" } else { "test_elements" })?,
        );
        a.disregard(&["assume_unique"]);
        let dtype = cx.result_type(&[&x, &tests]);
        let (x, tests) = (cx.as_tensor(&x, dtype)?, cx.as_tensor(&tests, dtype)?);
        let (rank, n) = (cx.b.shape(x).rank(), cx.shape(tests).numel());
        let (x, tests) = (cx.b.unsqueeze(x, rank)?, cx.b.reshape(tests, [n])?);
        let equal = cx.b.scalar(F::Eq, &[x, tests])?;
        let found = cx.b.reduce(ReduceKind::Any, equal, &[rank], false)?;
        Ok(vec![if a.bool_or("invert", false)? { cx.b.scalar(F::LogicalNot, &[found])? } else { found }])
    }),
    pure(&["trapezoid.x", "trapezoid.dx", "trapz.x", "trapz.dx"], |cx, a| {
        if !a.has("x") {
            return trapezoid_of_even(cx, a);
        }
        let (areas, dim) = areas(cx, a)?;
        Ok(vec![cx.b.reduce(ReduceKind::Sum, areas, &[dim], false)?])
    }),
    pure(&["cumulative_trapezoid.x", "cumulative_trapezoid.dx"], |cx, a| {
        let (areas, dim) = areas(cx, a)?;
        Ok(vec![cx.b.cumsum(areas, dim)?])
    }),
    pure(&["nansum.default"], |cx, a| {
        let x = a.tensor("self")?;
        let x = without_nan(cx, x)?;
        let dtype = a.dtype_opt("dtype")?.unwrap_or(if cx.b.dtype(x).is_float() { cx.b.dtype(x) } else { DType::I64 });
        let x = cx.b.cast(x, dtype)?;
        let dims = cx.dims_or_all(x, &a.ints_or_empty("dim")?)?;
        Ok(vec![reduce::over(cx, ReduceKind::Sum, x, &dims, a.bool_or("keepdim", false)?)?])
    }),
    // The elements that `nansum` and `nanmean` add, in programs where those are decomposed: `where(isnan(x), 0, x)` with their derivative.
    pure(&["nansum.where"], |cx, a| {
        a.disregard(&["condition", "self"]);
        Ok(vec![without_nan(cx, a.tensor("other")?)?])
    }),
    // The root that `std` takes, in programs where it is decomposed: the derivative of a deviation of zero is zero.
    pure(&["std.sqrt"], |cx, a| {
        let variance = a.tensor("self")?;
        Ok(vec![reduce::deviation(cx, variance)?])
    }),
    pure(&["nanmean.default"], |cx, a| {
        let x = a.tensor("self")?;
        let nan = cx.b.scalar(F::IsNan, &[x])?;
        let number = cx.b.scalar(F::LogicalNot, &[nan])?;
        let dtype = a.dtype_opt("dtype")?.unwrap_or(cx.b.dtype(x));
        let (x, wide) = (without_nan(cx, x)?, dtype.accumulator());
        let (x, number) = (cx.b.cast(x, wide)?, cx.b.cast(number, wide)?);
        let (dims, keep) = (cx.dims_or_all(x, &a.ints_or_empty("dim")?)?, a.bool_or("keepdim", false)?);
        let (sum, count) = (reduce::over(cx, ReduceKind::Sum, x, &dims, keep)?, reduce::over(cx, ReduceKind::Sum, number, &dims, keep)?);
        let mean = cx.b.div(sum, count)?;
        Ok(vec![cx.b.cast(mean, dtype)?])
    }),
    pure(&["renorm.default"], |cx, a| {
        let x = a.tensor("self")?;
        let (dim, rank) = (cx.dim(x, a.int("dim")?)?, cx.b.shape(x).rank());
        let others: Vec<usize> = (0..rank).filter(|&d| d != dim).collect();
        let (p, most) = (a.float("p")?, a.float("maxnorm")?);
        let y = opmath::wide(cx, [x], |cx, [x]| {
            let size = reduce::norm(cx, x, p, &others, true)?;
            let dtype = cx.b.dtype(x);
            let [most, eps, one] = [most, 1e-7, 1.0].map(|k| cx.b.constant(dtype, k));
            let most = most?;
            let shifted = cx.b.add(size, eps?)?;
            let factor = cx.b.div(most, shifted)?;
            let large = cx.b.scalar(F::Gt, &[size, most])?;
            let factor = cx.b.where_(large, factor, one?)?;
            cx.b.mul(x, factor)
        })?;
        Ok(vec![y])
    }),
];

/// Offsets of diagonals.
const OFFSETS: std::ops::RangeInclusive<i64> = -(1 << 30)..=1 << 30;

fn times(cx: &mut Cx, x: Value, a: &Args, name: &str) -> Result<Value, String> {
    match a.scalar_opt(name)? {
        Some(by) if by.to_f64() != Some(1.0) => {
            let by = cx.number(&by, cx.b.dtype(x))?;
            cx.b.mul(x, by)
        }
        _ => Ok(x),
    }
}

/// The vector product along a dimension of three, which is given or else `dim`.
fn cross(cx: &mut Cx, a: &Args, dim: i64) -> Built {
    let (x, y) = (a.tensor("self")?, a.tensor("other")?);
    let shape = broadcast_shapes(cx.b.shape(x), cx.b.shape(y))?;
    let dim = super::args::dim_index(a.int_or("dim", dim)?, shape.rank())?;
    if !shape.0.get(dim).is_some_and(|d| d.is(3)) {
        return Err(format!("dimension {dim} of {shape} has no three elements"));
    }
    let (x, y) = (cx.b.broadcast_to(x, &shape)?, cx.b.broadcast_to(y, &shape)?);
    let rolled = |cx: &mut Cx, v: Value, by: i64| {
        let (head, tail) = (cx.b.slice(v, dim, by, 3, 1)?, cx.b.slice(v, dim, 0, by, 1)?);
        cx.b.concat(&[head, tail], dim)
    };
    let (x1, y2) = (rolled(cx, x, 1)?, rolled(cx, y, 2)?);
    let (x2, y1) = (rolled(cx, x, 2)?, rolled(cx, y, 1)?);
    let (plus, minus) = (cx.b.mul(x1, y2)?, cx.b.mul(x2, y1)?);
    Ok(vec![cx.b.sub(plus, minus)?])
}

/// Leading dimensions, and channels, height and width.
fn image(cx: &Cx, x: Value) -> Result<(Vec<Dim>, [Dim; 3]), String> {
    let shape = cx.shape(x).0;
    match &shape[..] {
        [lead @ .., c, h, w] => Ok((lead.to_vec(), [c.clone(), h.clone(), w.clone()])),
        _ => Err("an image has three dimensions".into()),
    }
}

/// Each vector along a dimension of its own; `xy` swaps the first two.
fn meshgrid(cx: &mut Cx, list: &[Value], indexing: &str) -> Built {
    let mut places: Vec<usize> = (0..list.len()).collect();
    match indexing {
        "ij" => {}
        "xy" if places.len() > 1 => places.swap(0, 1),
        "xy" => {}
        other => return Err(format!("indexing {other} is not known")),
    }
    let full = Shape::new(places.iter().map(|&d| cx.shape(list[d]).numel()).collect());
    let mut out = vec![];
    for (d, &x) in list.iter().enumerate() {
        let mut shape = vec![Dim::int(1); list.len()];
        shape[places[d]] = full[places[d]].clone();
        let x = cx.b.reshape(x, Shape::new(shape))?;
        out.push(cx.b.broadcast_to(x, &full)?);
    }
    Ok(out)
}

fn block_diag(cx: &mut Cx, a: &Args) -> Built {
    let list = a.tensors("tensors")?;
    let dtype = list.iter().map(|&x| cx.b.dtype(x)).reduce(promote).ok_or("there is no tensor")?;
    let mut blocks = vec![];
    for x in list {
        let x = cx.b.cast(x, dtype)?;
        cx.expect_rank(x, 0..=2)?;
        let shape = cx.shape(x);
        blocks.push(match shape.rank() {
            0 => cx.b.reshape(x, [1i64, 1])?,
            1 => cx.b.unsqueeze(x, 0)?,
            _ => x,
        });
    }
    let columns = blocks.iter().fold(Dim::int(0), |n, &x| n + &cx.b.shape(x)[1]);
    let (mut before, mut rows) = (Dim::int(0), vec![]);
    for x in blocks {
        let own = cx.b.shape(x)[1].clone();
        let after = columns.clone() - &before - &own;
        rows.push(cx.b.pad(x, &[Dim::int(0), before.clone()], &[Dim::int(0), after], 0.0)?);
        before = before + &own;
    }
    Ok(vec![cx.b.concat(&rows, 0)?])
}

/// The last dimension on a diagonal of two dimensions of zeros.
fn diag_embed(cx: &mut Cx, x: Value, offset: i64, i: usize, j: usize) -> Result<Value, String> {
    let shape = cx.shape(x);
    let (last, rank) = (shape.rank() - 1, shape.rank() + 1);
    let n = shape[last].clone() + Dim::int(offset.abs());
    let corner = Shape::new(vec![n.clone(), n]);
    let (row, column) = (cx.b.iota(DType::I32, corner.clone(), 0)?, cx.b.iota(DType::I32, corner, 1)?);
    let offset_value = cx.b.constant(DType::I32, offset as f64)?;
    let target = cx.b.add(row, offset_value)?;
    let hit = cx.b.scalar(F::Eq, &[column, target])?;
    // The shorter way along the diagonal counts its elements: rows when it is above, columns when it is below.
    let zeros = vec![Dim::int(0); last + 1];
    let mut high = zeros.clone();
    high[last] = Dim::int(offset.abs());
    let padded = cx.b.pad(x, &zeros, &high, 0.0)?;
    let spread = cx.b.unsqueeze(padded, if offset >= 0 { last + 1 } else { last })?;
    let zero = cx.b.constant(cx.b.dtype(x), 0.0)?;
    let out = cx.b.where_(hit, spread, zero)?;
    let mut rest = 0..rank - 2;
    let order: Vec<usize> = (0..rank)
        .map(|d| {
            if d == i {
                rank - 2
            } else if d == j {
                rank - 1
            } else {
                rest.next().unwrap_or(0)
            }
        })
        .collect();
    cx.b.permute(out, &order)
}

fn diagonal_scatter(cx: &mut Cx, a: &Args) -> Built {
    let (x, src, offset) = (a.tensor("self")?, a.tensor("src")?, a.int_in("offset", 0, OFFSETS)?);
    cx.expect_rank(x, 2..=64)?;
    let rank = cx.b.shape(x).rank();
    cx.expect_rank(src, rank - 1..=rank - 1)?;
    let (i, j) = (cx.dim(x, a.int_or("dim1", 0)?)?, cx.dim(x, a.int_or("dim2", 1)?)?);
    if i == j {
        return Err(format!("dimensions {i} and {j} have no diagonal"));
    }
    let shape = cx.shape(x);
    let (row, column) = (cx.b.iota(DType::I32, shape.clone(), i)?, cx.b.iota(DType::I32, shape.clone(), j)?);
    let shift = cx.b.constant(DType::I32, offset as f64)?;
    let target = cx.b.add(row, shift)?;
    let hit = cx.b.scalar(F::Eq, &[column, target])?;
    let along = if offset >= 0 { i } else { j };
    let last = cx.b.shape(src).rank() - 1;
    let length = cx.b.shape(src)[last].clone();
    if length.is(0) {
        return Ok(vec![x]);
    }
    // The source, which has the diagonal as its last dimension, padded to the dimension that counts it.
    let zeros = vec![Dim::int(0); last + 1];
    let mut high = zeros.clone();
    high[last] = shape[along].clone() - &length;
    let padded = cx.b.pad(src, &zeros, &high, 0.0)?;
    let other = if along == i { j } else { i };
    let mut rest = 0..last;
    let order: Vec<usize> = (0..shape.rank()).filter(|&d| d != other).map(|d| if d == along { last } else { rest.next().unwrap_or(0) }).collect();
    let placed = cx.b.permute(padded, &order)?;
    let placed = cx.b.unsqueeze(placed, other)?;
    Ok(vec![cx.b.where_(hit, placed, x)?])
}

/// Which element each of the results is: as many ends of repetitions lie before it. How many there are depends on the data,
/// unless the program says so or the repetitions are constant.
fn repeated(cx: &mut Cx, a: &Args, repeats: Value) -> Result<Value, String> {
    let count = match a.dim_opt("output_size")? {
        Some(count) => count,
        None => match &*cx.b.graph().def(repeats).op {
            Op::Constant(c) => Dim::int(c.to_host().to_i64().iter().sum()),
            _ => return Err("a number of repetitions that depends on the data is not supported, unless output_size is given".into()),
        },
    };
    let repeats = cx.b.cast(repeats, DType::I64)?;
    let ends = cx.b.cumsum(repeats, 0)?;
    let at = cx.b.iota(DType::I64, [count, Dim::int(1)], 0)?;
    let passed = cx.b.scalar(F::Le, &[ends, at])?;
    let passed = cx.b.cast(passed, DType::I64)?;
    cx.b.reduce(ReduceKind::Sum, passed, &[1], false)
}

fn repeat_interleave_by(cx: &mut Cx, a: &Args) -> Built {
    let (mut x, repeats) = (a.tensor("self")?, a.tensor("repeats")?);
    let dim = if a.has("dim") {
        cx.dim(x, a.int("dim")?)?
    } else {
        x = cx.b.reshape(x, [cx.shape(x).numel()])?;
        0
    };
    let x = cx.at_least_1d(x)?;
    let size = cx.b.shape(x)[dim].clone();
    let repeats = cx.b.broadcast_to(repeats, &Shape::new(vec![size]))?;
    let index = repeated(cx, a, repeats)?;
    Ok(vec![cx.b.index_select(x, dim, index)?])
}

fn repeat_interleave(cx: &mut Cx, a: &Args) -> Built {
    let (mut x, times) = (a.tensor("self")?, a.dim("repeats")?);
    a.disregard(&["output_size"]);
    if times.range().0 < 0 {
        return Err(format!("it repeats {times} times"));
    }
    let dim = if a.has("dim") {
        cx.dim(x, a.int("dim")?)?
    } else {
        x = cx.b.reshape(x, [cx.shape(x).numel()])?;
        0
    };
    let x = cx.at_least_1d(x)?;
    let mut wide = cx.shape(x);
    wide.0.insert(dim + 1, times.clone());
    let mut out = cx.shape(x);
    out.0[dim] = out.0[dim].clone() * &times;
    let x = cx.b.unsqueeze(x, dim + 1)?;
    let x = cx.b.broadcast_to(x, &wide)?;
    Ok(vec![cx.b.reshape(x, out)?])
}

fn take_along_dim(cx: &mut Cx, a: &Args) -> Built {
    let (mut x, mut index) = (a.tensor("self")?, a.tensor("indices")?);
    let dim = if a.has("dim") {
        cx.dim(x, a.int("dim")?)?
    } else {
        x = cx.b.reshape(x, [cx.shape(x).numel()])?;
        index = cx.b.reshape(index, [cx.shape(index).numel()])?;
        0
    };
    // All dimensions but that one broadcast.
    let rank = cx.b.shape(x).rank();
    cx.expect_rank(x, 1..=64)?;
    cx.expect_rank(index, rank..=rank)?;
    let (mut own, mut of_index) = (cx.shape(x), cx.shape(index));
    let (size, count) = (own[dim].clone(), of_index[dim].clone());
    own.0[dim] = Dim::int(1);
    of_index.0[dim] = Dim::int(1);
    let mut full = broadcast_shapes(&own, &of_index)?;
    full.0[dim] = count;
    let index = cx.b.broadcast_to(index, &full)?;
    full.0[dim] = size;
    let x = cx.b.broadcast_to(x, &full)?;
    Ok(vec![cx.b.gather(x, index, dim)?])
}

/// `(sum - (first + last) / 2) dx`, as PyTorch adds values at even distances.
fn trapezoid_of_even(cx: &mut Cx, a: &Args) -> Built {
    let y = a.tensor("y")?;
    cx.expect_rank(y, 1..=64)?;
    let dim = cx.dim(y, a.int_or("dim", -1)?)?;
    let y = if cx.b.dtype(y).is_float() { y } else { cx.b.cast(y, DType::F32)? };
    let sum = cx.b.reduce(ReduceKind::Sum, y, &[dim], false)?;
    if cx.b.shape(y)[dim].is(0) {
        return Ok(vec![sum]);
    }
    let size = cx.b.shape(y)[dim].clone();
    let first = cx.b.slice(y, dim, 0, 1, 1)?;
    let last = cx.b.slice(y, dim, size.clone() - Dim::int(1), size, 1)?;
    let ends = cx.b.add(first, last)?;
    let ends = cx.b.scale(ends, 0.5)?;
    let ends = cx.b.reshape(ends, cx.shape(sum))?;
    let inner = cx.b.sub(sum, ends)?;
    Ok(vec![cx.b.scale(inner, a.float_or("dx", 1.0)?)?])
}

/// Widths times mean heights between neighbors, and the dimension.
fn areas(cx: &mut Cx, a: &Args) -> Result<(Value, usize), String> {
    let y = a.tensor("y")?;
    cx.expect_rank(y, 1..=64)?;
    let dim = cx.dim(y, a.int_or("dim", -1)?)?;
    let y = if cx.b.dtype(y).is_float() { y } else { cx.b.cast(y, DType::F32)? };
    let size = cx.b.shape(y)[dim].clone();
    let (left, right) = (cx.b.slice(y, dim, 0, size.clone() - Dim::int(1), 1)?, cx.b.slice(y, dim, 1, size, 1)?);
    let both = cx.b.add(left, right)?;
    let Some(mut x) = a.tensor_opt("x")? else {
        return Ok((cx.b.scale(both, a.float_or("dx", 1.0)? / 2.0)?, dim));
    };
    if cx.b.shape(x).rank() == 1 {
        let mut shape = vec![Dim::int(1); cx.b.shape(y).rank()];
        shape[dim] = cx.b.shape(x)[0].clone();
        x = cx.b.reshape(x, Shape::new(shape))?;
    }
    let at = (cx.b.shape(x).rank() + dim).checked_sub(cx.b.shape(y).rank()).ok_or("the positions have too few dimensions")?;
    let n = cx.b.shape(x)[at].clone();
    let (from, to) = (cx.b.slice(x, at, 0, n.clone() - Dim::int(1), 1)?, cx.b.slice(x, at, 1, n, 1)?);
    let width = cx.b.sub(to, from)?;
    let dtype = cx.result_type(&[&Operand::Tensor(width), &Operand::Tensor(both)]);
    let (width, both) = (cx.b.cast(width, dtype)?, cx.b.cast(both, dtype)?);
    let area = cx.b.mul(width, both)?;
    Ok((cx.b.scale(area, 0.5)?, dim))
}

/// NaN replaced by zero.
fn without_nan(cx: &mut Cx, x: Value) -> Result<Value, String> {
    if !cx.b.dtype(x).is_float() {
        return Ok(x);
    }
    let (nan, zero) = (cx.b.scalar(F::IsNan, &[x])?, cx.b.constant(cx.b.dtype(x), 0.0)?);
    let (value, number) = (cx.b.where_(nan, zero, x)?, cx.b.scalar(F::LogicalNot, &[nan])?);
    let number = flag(cx, number, cx.b.dtype(x))?;
    with_partials(cx, value, &[(x, number)])
}
