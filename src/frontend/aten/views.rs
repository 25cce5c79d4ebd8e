//! Views, and copies that only move elements.

use super::args::{Args, Cx, dim_index, promote};
use super::gradients::{detached, put_slice};
use super::{Row, pure, view, view_if_strided};
use crate::graph::Value;
use crate::scalar::ScalarFn as F;
use crate::types::{DType, Dim, Shape};

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    view(&["alias.default", "lift_fresh.default", "lift.default", "view_as.default"], alias),
    view(&["detach.default"], |cx, a| Ok(vec![detached(&mut cx.b, a.tensor("self")?)?])),
    pure(&["clone.default", "lift_fresh_copy.default", "alias_copy.default"], |_, a| Ok(vec![a.tensor("self")?])),
    pure(&["detach_copy.default"], |cx, a| Ok(vec![detached(&mut cx.b, a.tensor("self")?)?])),
    view_if_strided(&["contiguous.default"], |_, a| Ok(vec![a.tensor("self")?])),
    view(&["view.default", "_unsafe_view.default", "_reshape_alias.default"], reshape),
    pure(&["view_copy.default"], reshape),
    view_if_strided(&["reshape.default"], reshape),
    view_if_strided(&["flatten.using_ints"], flatten),
    view_if_strided(&["unflatten.int"], unflatten),
    view(&["permute.default"], permute),
    pure(&["permute_copy.default"], permute),
    view(&["transpose.int", "transpose.default", "swapaxes.default", "swapdims.default"], transpose),
    pure(&["transpose_copy.int"], transpose),
    view(&["t.default"], t),
    pure(&["t_copy.default"], t),
    view(&["numpy_T.default"], |cx, a| {
        let x = a.tensor("self")?;
        let order: Vec<usize> = (0..cx.b.shape(x).rank()).rev().collect();
        Ok(vec![cx.b.permute(x, &order)?])
    }),
    view(&["mT.default", "matrix_H.default", "adjoint.default"], |cx, a| {
        let x = a.tensor("self")?;
        Ok(vec![cx.b.transpose(x)?])
    }),
    view(&["movedim.intlist", "movedim.int", "moveaxis.intlist"], movedim),
    view(&["expand.default"], expand),
    pure(&["expand_copy.default"], expand),
    view(&["expand_as.default"], |cx, a| {
        let (x, shape) = (a.tensor("self")?, cx.shape(a.tensor("other")?));
        Ok(vec![cx.b.broadcast_to(x, &shape)?])
    }),
    view(&["broadcast_to.default"], expand),
    view(&["unsqueeze.default"], unsqueeze),
    pure(&["unsqueeze_copy.default"], unsqueeze),
    view(&["squeeze.default", "squeeze.dim", "squeeze.dims"], squeeze),
    pure(&["squeeze_copy.default", "squeeze_copy.dim", "squeeze_copy.dims"], squeeze),
    view(&["slice.Tensor"], |cx, a| slice(cx, a, "self")),
    pure(&["slice_copy.Tensor"], |cx, a| slice(cx, a, "self")),
    view(&["narrow.default"], narrow),
    pure(&["narrow_copy.default"], narrow),
    view(&["select.int"], select),
    pure(&["select_copy.int"], select),
    view(&["split.Tensor", "unsafe_split.Tensor"], split),
    pure(&["split_copy.Tensor"], split),
    view(&["split_with_sizes.default", "split.sizes", "unsafe_split_with_sizes.default"], split_with_sizes),
    pure(&["split_with_sizes_copy.default"], split_with_sizes),
    view(&["chunk.default", "unsafe_chunk.default"], chunk),
    view(&["unbind.int"], unbind),
    pure(&["unbind_copy.int"], unbind),
    view(&["diagonal.default"], diagonal),
    pure(&["diagonal_copy.default"], diagonal),
    pure(&["slice_scatter.default"], slice_scatter),
    pure(&["select_scatter.default"], select_scatter),
    pure(&["cat.default", "concat.default", "concatenate.default"], cat),
    pure(&["stack.default"], stack),
    pure(&["repeat.default"], |cx, a| {
        let x = a.tensor("self")?;
        repeat(cx, x, a.dims("repeats")?)
    }),
    pure(&["tile.default"], |cx, a| {
        let (x, mut dims) = (a.tensor("self")?, a.dims("dims")?);
        while dims.len() < cx.b.shape(x).rank() {
            dims.insert(0, Dim::int(1));
        }
        repeat(cx, x, dims)
    }),
    pure(&["flip.default"], |cx, a| {
        let x = a.tensor("self")?;
        let dims = a.ints("dims")?;
        if cx.b.shape(x).rank() == 0 {
            return Ok(vec![x]);
        }
        let dims: Vec<usize> = dims.iter().map(|&d| cx.dim(x, d)).collect::<Result<_, _>>()?;
        Ok(vec![cx.b.flip(x, &dims)?])
    }),
    pure(&["roll.default"], roll),
    pure(&["tril.default"], |cx, a| triangle(cx, a, F::Le)),
    pure(&["triu.default"], |cx, a| triangle(cx, a, F::Ge)),
    view(&["broadcast_tensors.default"], |cx, a| {
        let tensors = a.tensors("tensors")?;
        let mut shape = Shape::scalar();
        for &x in &tensors {
            shape = crate::types::broadcast_shapes(&shape, cx.b.shape(x))?;
        }
        tensors.iter().map(|&x| cx.b.broadcast_to(x, &shape)).collect()
    }),
];

fn alias(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("self")?;
    match a.tensor_opt("other")? {
        Some(other) => {
            let shape = cx.shape(other);
            Ok(vec![cx.b.reshape(x, shape)?])
        }
        None => Ok(vec![x]),
    }
}

/// Sizes with one -1 filled in.
pub fn fill_in(sizes: Vec<Dim>, numel: Dim) -> Result<Shape, String> {
    let mut shape = Shape::new(sizes);
    if let Some(open) = (0..shape.rank()).find(|&i| shape[i].is(-1)) {
        shape.0[open] = Dim::int(1);
        let known = shape.numel();
        shape.0[open] = if known.is(0) { Dim::int(0) } else { numel.try_div(&known).unwrap_or_else(|| numel.floor_div(&known)) };
    }
    Ok(shape)
}

fn reshape(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("self")?;
    a.disregard(&["stride"]);
    let sizes = if a.has("size") { a.dims("size")? } else { a.dims("shape")? };
    let shape = fill_in(sizes, cx.b.ty(x).numel())?;
    Ok(vec![cx.b.reshape(x, shape)?])
}

fn flatten(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("self")?;
    let (from, to) = (cx.dim(x, a.int_or("start_dim", 0)?)?, cx.dim(x, a.int_or("end_dim", -1)?)?);
    let mut sizes = cx.shape(x).0.to_vec();
    if sizes.is_empty() {
        return Ok(vec![cx.b.reshape(x, [1i64])?]);
    }
    if from > to {
        return Err(format!("dimensions {from} to {to} are out of order"));
    }
    let joined = Dim::product(&sizes.drain(from..=to).collect::<Vec<_>>());
    sizes.insert(from, joined);
    Ok(vec![cx.b.reshape(x, Shape::new(sizes))?])
}

fn unflatten(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("self")?;
    let dim = cx.dim(x, a.int("dim")?)?;
    let mut sizes = cx.shape(x).0.to_vec();
    let parts = fill_in(a.dims("sizes")?, sizes[dim].clone())?;
    sizes.splice(dim..=dim, parts.0);
    Ok(vec![cx.b.reshape(x, Shape::new(sizes))?])
}

fn permute(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("self")?;
    let dims = a.ints("dims")?;
    if dims.is_empty() {
        return Ok(vec![x]);
    }
    let order: Vec<usize> = dims.iter().map(|&d| cx.dim(x, d)).collect::<Result<_, _>>()?;
    Ok(vec![cx.b.permute(x, &order)?])
}

fn transpose(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("self")?;
    let (first, second) = if a.has("dim0") { ("dim0", "dim1") } else { ("axis0", "axis1") };
    let (i, j) = (cx.dim(x, a.int(first)?)?, cx.dim(x, a.int(second)?)?);
    let mut order: Vec<usize> = (0..cx.b.shape(x).rank()).collect();
    if !order.is_empty() {
        order.swap(i, j);
    }
    Ok(vec![cx.b.permute(x, &order)?])
}

fn t(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("self")?;
    Ok(vec![if cx.b.shape(x).rank() < 2 { x } else { cx.b.transpose(x)? }])
}

fn movedim(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("self")?;
    let rank = cx.b.shape(x).rank();
    let resolve = |list: Vec<i64>| list.iter().map(|&d| dim_index(d, rank)).collect::<Result<Vec<usize>, String>>();
    let (from, to) = (resolve(a.ints("source")?)?, resolve(a.ints("destination")?)?);
    if rank == 0 || from.len() != to.len() {
        return Ok(vec![x]);
    }
    let mut order = vec![None; rank];
    for (&f, &t) in from.iter().zip(&to) {
        order[t] = Some(f);
    }
    let mut rest = (0..rank).filter(|d| !from.contains(d));
    let order: Vec<usize> = order.into_iter().filter_map(|o| o.or_else(|| rest.next())).collect();
    Ok(vec![cx.b.permute(x, &order)?])
}

fn expand(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("self")?;
    let mut sizes = a.dims("size")?;
    a.disregard(&["implicit"]);
    let own = cx.shape(x);
    let missing = sizes.len().checked_sub(own.rank()).ok_or("it has fewer dimensions than the tensor")?;
    for (size, old) in sizes[missing..].iter_mut().zip(&own.0) {
        if size.is(-1) {
            *size = old.clone();
        }
    }
    Ok(vec![cx.b.broadcast_to(x, &Shape::new(sizes))?])
}

fn unsqueeze(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("self")?;
    let dim = dim_index(a.int("dim")?, cx.b.shape(x).rank() + 1)?;
    Ok(vec![cx.b.unsqueeze(x, dim)?])
}

fn squeeze(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("self")?;
    let shape = cx.shape(x);
    let chosen: Vec<usize> = match a.has("dim") {
        true => a.ints("dim")?.iter().map(|&d| cx.dim(x, d)).collect::<Result<_, _>>()?,
        false => (0..shape.rank()).collect(),
    };
    let kept = shape.0.iter().enumerate().filter(|(i, d)| !(chosen.contains(i) && d.is(1))).map(|(_, d)| d.clone()).collect();
    Ok(vec![cx.b.reshape(x, Shape::new(kept))?])
}

/// Python's rule for the ends of a slice: negative ones count from the end, both are kept inside.
pub fn slice_ends(size: &Dim, start: Option<Dim>, end: Option<Dim>) -> (Dim, Dim) {
    let clamp = |at: Dim, low: &Dim| {
        let at = if at.range().1 < 0 { at + size } else { at };
        at.max_with(low).min_with(size)
    };
    let start = clamp(start.unwrap_or(Dim::int(0)), &Dim::int(0));
    let end = end.map_or(size.clone(), |e| clamp(e, &start));
    (start, end)
}

fn slice(cx: &mut Cx, a: &Args, name: &str) -> Built {
    let x = a.tensor(name)?;
    let dim = cx.dim(x, a.int_or("dim", 0)?)?;
    let size = cx.b.shape(x).0.get(dim).cloned().ok_or("a 0-d tensor has no slice")?;
    let (start, end) = slice_ends(&size, a.dim_opt("start")?, a.dim_opt("end")?);
    Ok(vec![cx.b.slice(x, dim, start, end, a.int_or("step", 1)?)?])
}

fn slice_scatter(cx: &mut Cx, a: &Args) -> Built {
    let (x, src) = (a.tensor("self")?, a.tensor("src")?);
    let dim = cx.dim(x, a.int_or("dim", 0)?)?;
    let size = cx.b.shape(x).0.get(dim).cloned().ok_or("a 0-d tensor has no slice")?;
    let (start, end) = slice_ends(&size, a.dim_opt("start")?, a.dim_opt("end")?);
    let src = cx.b.cast(src, cx.b.dtype(x))?;
    let step = a.int_or("step", 1)?;
    let part = cx.b.slice(x, dim, start.clone(), end.clone(), step)?;
    let shape = cx.shape(part);
    let src = cx.b.broadcast_to(src, &shape)?;
    Ok(vec![put_slice(&mut cx.b, x, src, dim, &start, &end, step)?])
}

fn select_scatter(cx: &mut Cx, a: &Args) -> Built {
    let (x, src) = (a.tensor("self")?, a.tensor("src")?);
    let dim = cx.dim(x, a.int("dim")?)?;
    let at = index_in(cx, x, dim, a.dim("index")?)?;
    let src = cx.b.cast(src, cx.b.dtype(x))?;
    let src = cx.b.unsqueeze(src, dim)?;
    let end = at.clone() + Dim::int(1);
    Ok(vec![put_slice(&mut cx.b, x, src, dim, &at, &end, 1)?])
}

/// A position of a dimension, which may count from its end.
fn index_in(cx: &Cx, x: Value, dim: usize, index: Dim) -> Result<Dim, String> {
    let size = cx.b.shape(x).0.get(dim).ok_or("a 0-d tensor has no elements to select")?;
    Ok(if index.range().1 < 0 { index + size } else { index })
}

fn narrow(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("self")?;
    let dim = cx.dim(x, a.int("dim")?)?;
    let start = index_in(cx, x, dim, a.dim("start")?)?;
    let end = start.clone() + &a.dim("length")?;
    Ok(vec![cx.b.slice(x, dim, start, end, 1)?])
}

fn select(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("self")?;
    let dim = cx.dim(x, a.int("dim")?)?;
    let at = index_in(cx, x, dim, a.dim("index")?)?;
    Ok(vec![cx.b.select(x, dim, at)?])
}

fn parts(cx: &mut Cx, x: Value, dim: usize, sizes: &[Dim]) -> Built {
    let mut start = Dim::int(0);
    let mut out = vec![];
    for size in sizes {
        let end = start.clone() + size;
        out.push(cx.b.slice(x, dim, start, end.clone(), 1)?);
        start = end;
    }
    Ok(out)
}

/// So many parts of `size`, the last one smaller.
fn equal_parts(cx: &mut Cx, x: Value, dim: usize, size: &Dim, count: i64) -> Built {
    if count > 1 << 16 {
        return Err(format!("it would have {count} parts"));
    }
    let rest = cx.b.shape(x)[dim].clone() - size.clone() * Dim::int(count - 1);
    let mut sizes = vec![size.clone(); count as usize - 1];
    sizes.push(size.min_with(&rest));
    parts(cx, x, dim, &sizes)
}

/// Parts of `size`, the last one smaller.
fn parts_of(cx: &mut Cx, x: Value, dim: usize, size: &Dim) -> Built {
    let all = cx.b.shape(x).0.get(dim).cloned().ok_or("a 0-d tensor has no parts")?;
    if size.range().0 <= 0 {
        return if all.is(0) { Ok(vec![x]) } else { Err(format!("parts of {size} elements")) };
    }
    let count = all.ceil_div(size);
    let count = count.as_int().ok_or_else(|| format!("{all} elements in parts of {size} are {count} parts, no constant number"))?.max(1);
    equal_parts(cx, x, dim, size, count)
}

fn split(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("self")?;
    let dim = cx.dim(x, a.int_or("dim", 0)?)?;
    parts_of(cx, x, dim, &a.dim("split_size")?)
}

fn split_with_sizes(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("self")?;
    let dim = cx.dim(x, a.int_or("dim", 0)?)?;
    let sizes = if a.has("split_sizes") { a.dims("split_sizes")? } else { a.dims("split_size")? };
    let (whole, sum) = (&cx.b.shape(x).0[dim], sizes.iter().fold(Dim::int(0), |sum, size| sum + size));
    if whole.as_int().zip(sum.as_int()).is_some_and(|(whole, sum)| whole != sum) {
        return Err(format!("parts of {sum} elements in all do not make {whole}"));
    }
    parts(cx, x, dim, &sizes)
}

fn chunk(cx: &mut Cx, a: &Args) -> Built {
    let (x, chunks) = (a.tensor("self")?, a.int("chunks")?);
    let dim = cx.dim(x, a.int_or("dim", 0)?)?;
    let all = cx.b.shape(x).0.get(dim).cloned().ok_or("a 0-d tensor has no parts")?;
    if chunks < 1 {
        return Err(format!("{chunks} parts"));
    }
    match all.as_int() {
        // An empty dimension has as many empty parts as asked for.
        Some(0) if chunks <= 1 << 16 => parts(cx, x, dim, &vec![Dim::int(0); chunks as usize]),
        Some(n) => parts_of(cx, x, dim, &Dim::int((n + chunks - 1) / chunks)),
        // As many as asked for, or the program that PyTorch exported would have another number of results.
        None => equal_parts(cx, x, dim, &all.ceil_div(&Dim::int(chunks)), chunks),
    }
}

fn unbind(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("self")?;
    let dim = cx.dim(x, a.int_or("dim", 0)?)?;
    let n = cx.b.shape(x).0.get(dim).and_then(Dim::as_int).ok_or("taking a symbolic dimension apart is not supported")?;
    if n > 1 << 16 {
        return Err(format!("it would have {n} parts"));
    }
    (0..n).map(|i| cx.b.select(x, dim, i)).collect()
}

fn diagonal(cx: &mut Cx, a: &Args) -> Built {
    let (x, offset) = (a.tensor("self")?, a.int_or("offset", 0)?);
    let (i, j) = (cx.dim(x, a.int_or("dim1", 0)?)?, cx.dim(x, a.int_or("dim2", 1)?)?);
    Ok(vec![diagonal_of(cx, x, i, j, offset)?])
}

/// The diagonal of two dimensions, as the last one: every `columns + 1`-th element of both joined.
pub fn diagonal_of(cx: &mut Cx, x: Value, i: usize, j: usize, offset: i64) -> Result<Value, String> {
    let rank = cx.b.shape(x).rank();
    if i == j || rank < 2 || offset.unsigned_abs() > 1 << 40 {
        return Err(format!("dimensions {i} and {j} have no diagonal"));
    }
    let mut order: Vec<usize> = (0..rank).filter(|&d| d != i && d != j).collect();
    order.extend([i, j]);
    let x = cx.b.permute(x, &order)?;
    let shape = cx.shape(x);
    let (Some(rows), Some(columns)) = (shape[rank - 2].as_int(), shape[rank - 1].as_int()) else {
        return symbolic_diagonal(cx, x, offset);
    };
    let offset = offset.clamp(-rows.max(0), columns.max(0));
    let length = if offset >= 0 { rows.min(columns - offset) } else { (rows + offset).min(columns) }.max(0);
    let start = if offset >= 0 { offset } else { -offset * columns };
    let mut flat = shape.0[..rank - 2].to_vec();
    flat.push(Dim::int(rows * columns));
    let flat = cx.b.reshape(x, Shape::new(flat))?;
    let (start, end) = if length == 0 { (0, 0) } else { (start, start + (length - 1) * (columns + 1) + 1) };
    cx.b.slice(flat, rank - 2, start, end, columns + 1)
}

/// The diagonal of the last two dimensions, read at computed places, since no slice has a symbolic step.
fn symbolic_diagonal(cx: &mut Cx, x: Value, offset: i64) -> Result<Value, String> {
    let (shape, zero) = (cx.shape(x), Dim::int(0));
    let (lead, [rows, columns]) = shape.0.split_at(shape.rank() - 2) else { return Err("a diagonal needs two dimensions".into()) };
    let (down, right) = (Dim::int((-offset).max(0)), Dim::int(offset.max(0)));
    let length = (rows.clone() - &down).min_with(&(columns.clone() - &right)).max_with(&zero);
    let flat = cx.b.reshape(x, Shape::new([lead, &[rows.clone() * columns]].concat()))?;
    let (step, start) = (cx.b.size(&(columns.clone() + Dim::int(1)), DType::I32)?, cx.b.size(&(down * columns + right), DType::I32)?);
    let at = cx.b.iota(DType::I32, [length], 0)?;
    let at = cx.b.mul(at, step)?;
    let at = cx.b.add(at, start)?;
    cx.b.index_select(flat, lead.len(), at)
}

fn cat(cx: &mut Cx, a: &Args) -> Built {
    let tensors = a.tensors("tensors")?;
    let dtype = tensors.iter().map(|&x| cx.b.dtype(x)).reduce(promote).ok_or("it concatenates nothing")?;
    // Empty tensors of rank one are passed over, whatever the others' shapes are.
    let is_old_empty = |cx: &Cx, x: Value| cx.b.shape(x).rank() == 1 && cx.b.shape(x)[0].is(0);
    let mut kept: Vec<Value> = tensors.iter().copied().filter(|&x| !is_old_empty(cx, x)).collect();
    if kept.is_empty() {
        kept.push(tensors[0]);
    }
    let dim = cx.dim(kept[0], a.int_or("dim", 0)?)?;
    let kept: Vec<Value> = kept.into_iter().map(|x| cx.b.cast(x, dtype)).collect::<Result<_, _>>()?;
    Ok(vec![cx.b.concat(&kept, dim)?])
}

fn stack(cx: &mut Cx, a: &Args) -> Built {
    let tensors = a.tensors("tensors")?;
    let dtype = tensors.iter().map(|&x| cx.b.dtype(x)).reduce(promote).ok_or("it stacks nothing")?;
    let dim = dim_index(a.int_or("dim", 0)?, cx.b.shape(tensors[0]).rank() + 1)?;
    let tensors: Vec<Value> = tensors.into_iter().map(|x| cx.b.cast(x, dtype)).collect::<Result<_, _>>()?;
    Ok(vec![cx.b.stack(&tensors, dim)?])
}

/// Each dimension repeated as a whole.
fn repeat(cx: &mut Cx, x: Value, repeats: Vec<Dim>) -> Built {
    let own = cx.shape(x);
    let missing = repeats.len().checked_sub(own.rank()).ok_or("it has fewer repeats than dimensions")?;
    let mut sizes = vec![Dim::int(1); missing];
    sizes.extend(own.0);
    let (mut one, mut wide, mut out) = (vec![], vec![], vec![]);
    for (size, n) in sizes.iter().zip(&repeats) {
        one.extend([Dim::int(1), size.clone()]);
        wide.extend([n.clone(), size.clone()]);
        out.push(n.clone() * size);
    }
    let x = cx.b.reshape(x, Shape::new(one))?;
    let x = cx.b.broadcast_to(x, &Shape::new(wide))?;
    Ok(vec![cx.b.reshape(x, Shape::new(out))?])
}

fn roll(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("self")?;
    let (shifts, dims) = (a.dims("shifts")?, a.ints_or_empty("dims")?);
    let shape = cx.shape(x);
    if dims.is_empty() {
        let flat = cx.b.reshape(x, [shape.numel()])?;
        let rolled = roll_one(cx, flat, 0, shifts.first().unwrap_or(&Dim::int(0)))?;
        return Ok(vec![cx.b.reshape(rolled, shape)?]);
    }
    let mut out = x;
    for (shift, &dim) in shifts.iter().zip(&dims) {
        let dim = cx.dim(x, dim)?;
        out = roll_one(cx, out, dim, shift)?;
    }
    Ok(vec![out])
}

fn roll_one(cx: &mut Cx, x: Value, dim: usize, shift: &Dim) -> Result<Value, String> {
    let size = cx.b.shape(x).0.get(dim).cloned().ok_or("a 0-d tensor cannot be rolled")?;
    if size.is(0) || shift.is(0) {
        return Ok(x);
    }
    // A remainder of what is not negative; an empty dimension has none.
    let whole = size.max_with(&Dim::int(1));
    let cut = match shift.range() {
        (0.., _) => size.clone() - shift.modulo(&whole),
        (_, ..=0) => (Dim::int(0) - shift).modulo(&whole),
        _ => return Err(format!("a shift of {shift}, which may go either way, is not supported")),
    };
    let cut = if cut == size { Dim::int(0) } else { cut };
    let (head, tail) = (cx.b.slice(x, dim, 0, cut.clone(), 1)?, cx.b.slice(x, dim, cut.clone(), size, 1)?);
    if cut.is(0) { Ok(x) } else { cx.b.concat(&[tail, head], dim) }
}

fn triangle(cx: &mut Cx, a: &Args, keep: F) -> Built {
    let (x, offset) = (a.tensor("self")?, a.dim_opt("diagonal")?.unwrap_or(Dim::int(0)));
    let offset = offset.as_int().map_or(offset, |n| Dim::int(n.clamp(-(1 << 30), 1 << 30)));
    let shape = cx.shape(x);
    let rank = shape.rank();
    if rank < 2 {
        return Err("a triangle needs two dimensions".into());
    }
    let corner = Shape::new(shape.0[rank - 2..].to_vec());
    let (row, column) = (cx.b.iota(DType::I32, &corner, 0)?, cx.b.iota(DType::I32, &corner, 1)?);
    let offset = cx.b.size(&offset, DType::I32)?;
    let edge = cx.b.add(row, offset)?;
    let kept = cx.b.scalar(keep, &[column, edge])?;
    let zero = cx.b.constant(cx.b.dtype(x), 0.0)?;
    Ok(vec![cx.b.where_(kept, x, zero)?])
}
