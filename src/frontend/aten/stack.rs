//! Tensors joined after their ranks are made equal, and cut into parts.

use super::args::{Args, Cx, promote};
use super::views::slice_ends;
use super::{Row, pure, view};
use crate::graph::Value;
use crate::types::Dim;

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["hstack.default"], |cx, a| stacked(cx, a, 1, |rank| (rank > 1) as usize)),
    pure(&["vstack.default", "row_stack.default"], |cx, a| stacked(cx, a, 2, |_| 0)),
    pure(&["dstack.default"], |cx, a| stacked(cx, a, 3, |_| 2)),
    pure(&["column_stack.default"], |cx, a| {
        let mut list = a.tensors("tensors")?;
        for x in &mut list {
            *x = if cx.b.shape(*x).rank() < 2 { cx.b.reshape(*x, [cx.shape(*x).numel(), Dim::int(1)])? } else { *x };
        }
        joined(cx, &list, 1)
    }),
    view(&["atleast_1d.default", "atleast_1d.Sequence"], |cx, a| at_least(cx, a, 1)),
    view(&["atleast_2d.default", "atleast_2d.Sequence"], |cx, a| at_least(cx, a, 2)),
    view(&["atleast_3d.default", "atleast_3d.Sequence"], |cx, a| at_least(cx, a, 3)),
    view(&["tensor_split.sections"], |cx, a| sections(cx, a, a.int_or("dim", 0)?, "sections")),
    view(&["tensor_split.indices"], |cx, a| at_indices(cx, a, a.int_or("dim", 0)?)),
    view(&["hsplit.int"], |cx, a| sections(cx, a, (cx.b.shape(a.tensor("self")?).rank() > 1) as i64, "sections")),
    view(&["hsplit.array"], |cx, a| at_indices(cx, a, (cx.b.shape(a.tensor("self")?).rank() > 1) as i64)),
    view(&["vsplit.int"], |cx, a| sections(cx, a, 0, "sections")),
    view(&["vsplit.array"], |cx, a| at_indices(cx, a, 0)),
    view(&["dsplit.int"], |cx, a| sections(cx, a, 2, "sections")),
    view(&["dsplit.array"], |cx, a| at_indices(cx, a, 2)),
];

/// Tensors of rank `rank` at least, joined.
fn stacked(cx: &mut Cx, a: &Args, rank: usize, dim: fn(usize) -> usize) -> Built {
    let mut list = a.tensors("tensors")?;
    for x in &mut list {
        *x = raised(cx, *x, rank)?;
    }
    let rank = cx.b.shape(*list.first().ok_or("there is no tensor")?).rank();
    joined(cx, &list, dim(rank))
}

fn joined(cx: &mut Cx, list: &[Value], dim: usize) -> Built {
    let dtype = list.iter().map(|&x| cx.b.dtype(x)).reduce(promote).ok_or("there is no tensor")?;
    let list: Vec<Value> = list.iter().map(|&x| cx.b.cast(x, dtype)).collect::<Result<_, _>>()?;
    Ok(vec![cx.b.concat(&list, dim)?])
}

/// With dimensions of size one as `atleast_2d` and `atleast_3d` add them.
fn raised(cx: &mut Cx, x: Value, rank: usize) -> Result<Value, String> {
    let mut x = x;
    if cx.b.shape(x).rank() == 0 && rank > 0 {
        x = cx.b.reshape(x, [1i64])?;
    }
    if cx.b.shape(x).rank() == 1 && rank > 1 {
        x = cx.b.unsqueeze(x, 0)?;
    }
    if cx.b.shape(x).rank() == 2 && rank > 2 {
        x = cx.b.unsqueeze(x, 2)?;
    }
    Ok(x)
}

fn at_least(cx: &mut Cx, a: &Args, rank: usize) -> Built {
    let list = if a.has("tensors") { a.tensors("tensors")? } else { vec![a.tensor("self")?] };
    list.into_iter().map(|x| raised(cx, x, rank)).collect()
}

/// Equal parts; the first ones are one longer where they do not divide.
fn sections(cx: &mut Cx, a: &Args, dim: i64, name: &str) -> Built {
    let (x, count) = (a.tensor("self")?, a.int(name)?);
    let dim = cx.dim(x, dim)?;
    let size = cx.b.shape(x).0.get(dim).cloned().ok_or("a 0-d tensor has no parts")?;
    if !(1..=1 << 16).contains(&count) {
        return Err(format!("{count} parts"));
    }
    let (each, longer) = (size.floor_div(&Dim::int(count)), size.modulo(&Dim::int(count)));
    let ends: Vec<Dim> = (1..count).map(|k| each.clone() * Dim::int(k) + Dim::int(k).min_with(&longer)).collect();
    cut(cx, x, dim, size, ends)
}

fn at_indices(cx: &mut Cx, a: &Args, dim: i64) -> Built {
    let (x, ends) = (a.tensor("self")?, a.dims("indices")?);
    let dim = cx.dim(x, dim)?;
    let size = cx.b.shape(x).0.get(dim).cloned().ok_or("a 0-d tensor has no parts")?;
    cut(cx, x, dim, size, ends)
}

/// Parts that end at these positions, by Python's rule for slices.
fn cut(cx: &mut Cx, x: Value, dim: usize, size: Dim, ends: Vec<Dim>) -> Built {
    let mut start = Dim::int(0);
    let mut out = vec![];
    for end in ends.into_iter().map(Some).chain([None]) {
        let (_, end) = slice_ends(&size, None, end);
        let to = end.max_with(&start);
        out.push(cx.b.slice(x, dim, start, to, 1)?);
        start = end;
    }
    Ok(out)
}
