//! Sums of products by letters, and the products that are made of them.

use super::args::{Args, Cx};
use super::matmul::matmul;
use super::{Row, pure, reduce};
use crate::graph::Value;
use crate::ops::ReduceKind;
use crate::types::{Dim, Shape};

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["einsum.default"], |cx, a| {
        let tensors = a.tensors("tensors")?;
        // The order of the products decides on rounding only.
        a.disregard(&["path"]);
        Ok(vec![einsum(cx, a.text_or("equation", "")?, &tensors)?])
    }),
    pure(&["tensordot.default"], |cx, a| {
        let (x, y) = (a.tensor("self")?, a.tensor("other")?);
        let (left, right) = (cx.dims_or_all(x, &a.ints_or_empty("dims_self")?)?, cx.dims_or_all(y, &a.ints_or_empty("dims_other")?)?);
        let contracted = if a.ints_or_empty("dims_self")?.is_empty() { (vec![], vec![]) } else { (left, right) };
        Ok(vec![tensordot(cx, x, y, &contracted.0, &contracted.1)?])
    }),
    pure(&["outer.default", "ger.default"], |cx, a| {
        let (x, y) = (a.tensor("self")?, a.tensor(if a.has("vec2") { "vec2" } else { "other" })?);
        cx.expect_rank(x, 1..=1)?;
        let x = cx.b.unsqueeze(x, 1)?;
        Ok(vec![cx.b.mul(x, y)?])
    }),
    pure(&["kron.default"], kron),
    pure(&["chain_matmul.default", "linalg_multi_dot.default"], |cx, a| {
        let list = a.tensors(if a.has("matrices") { "matrices" } else { "tensors" })?;
        let (&first, rest) = list.split_first().ok_or("there is no matrix")?;
        Ok(vec![rest.iter().try_fold(first, |x, &y| matmul(cx, x, y))?])
    }),
    pure(&["bilinear.default"], |cx, a| {
        let (x, y, weight) = (a.tensor("input1")?, a.tensor("input2")?, a.tensor("weight")?);
        let out = einsum(cx, "...i,oij,...j->...o", &[x, weight, y])?;
        let out = cx.b.cast(out, a.dtype_opt("dtype")?.unwrap_or(cx.b.dtype(x)))?;
        Ok(vec![match a.tensor_opt("bias")? {
            Some(bias) => cx.b.add(out, bias)?,
            None => out,
        }])
    }),
    pure(&["_trilinear.default"], trilinear),
];

/// An operand and the label of each of its dimensions.
struct Labeled {
    value: Value,
    labels: Vec<u32>,
}

/// Labels of dimensions that an ellipsis stands for: the last is `ELLIPSIS`, those before it count up.
const ELLIPSIS: u32 = 1 << 16;

/// Operands are multiplied from the left to the right; what no later operand and no result names is summed as soon as possible.
fn einsum(cx: &mut Cx, equation: &str, tensors: &[Value]) -> Result<Value, String> {
    let text: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (inputs, output) = match text.split_once("->") {
        Some((inputs, output)) => (inputs, Some(output)),
        None => (text.as_str(), None),
    };
    let parts: Vec<&str> = inputs.split(',').collect();
    if parts.len() != tensors.len() || parts.is_empty() {
        return Err(format!("{equation} names {} operands, there are {}", parts.len(), tensors.len()));
    }
    let (mut operands, mut all) = (vec![], vec![]);
    for (part, &value) in parts.iter().zip(tensors) {
        let labels = labels(part, Some(cx.b.shape(value).rank()))?;
        all.extend_from_slice(&labels);
        operands.push(unique(cx, Labeled { value, labels })?);
    }
    let dots = all.iter().filter(|l| **l >= ELLIPSIS).max().map_or(0, |l| (l - ELLIPSIS + 1) as usize);
    let result = match output {
        Some(output) => labels(output, Some(output.replace("...", "").chars().count() + if output.contains("...") { dots } else { 0 }))?,
        None => implied(&all, dots),
    };
    let mut operands = operands.into_iter();
    let mut left = operands.next().ok_or("there is no operand")?;
    let mut rest: Vec<Labeled> = operands.collect();
    while !rest.is_empty() {
        let right = rest.remove(0);
        let kept: Vec<u32> = result.iter().copied().chain(rest.iter().flat_map(|o| o.labels.iter().copied())).collect();
        left = contract(cx, left, right, &kept)?;
    }
    let left = summed(cx, left, &result)?;
    let order: Option<Vec<usize>> = result.iter().map(|l| left.labels.iter().position(|m| m == l)).collect();
    cx.b.permute(left.value, &order.ok_or_else(|| format!("{equation} has a label in its result that no operand has"))?)
}

/// Labels of one operand; an ellipsis fills up to the rank.
fn labels(text: &str, rank: Option<usize>) -> Result<Vec<u32>, String> {
    let letters = text.replace("...", "").chars().count();
    let mut out = vec![];
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("...") {
            let count = rank.and_then(|r| r.checked_sub(letters)).ok_or_else(|| format!("{text} has more letters than dimensions"))?;
            out.extend((0..count).rev().map(|k| ELLIPSIS + k as u32));
            rest = after;
        } else if c.is_ascii_alphabetic() {
            out.push(c as u32);
            rest = &rest[1..];
        } else {
            return Err(format!("{c} is no letter"));
        }
    }
    if rank.is_some_and(|r| r != out.len()) {
        return Err(format!("{text} does not name {} dimensions", rank.unwrap_or(0)));
    }
    Ok(out)
}

/// The result without an arrow: the ellipsis, then letters that occur once, in alphabetic order.
fn implied(all: &[u32], dots: usize) -> Vec<u32> {
    let mut letters: Vec<u32> = all.iter().copied().filter(|l| *l < ELLIPSIS && all.iter().filter(|m| *m == l).count() == 1).collect();
    letters.sort_unstable();
    (0..dots).rev().map(|k| ELLIPSIS + k as u32).chain(letters).collect()
}

/// A label that an operand has twice is its diagonal.
fn unique(cx: &mut Cx, mut x: Labeled) -> Result<Labeled, String> {
    while let Some((i, j)) = (0..x.labels.len()).find_map(|i| (i + 1..x.labels.len()).find(|&j| x.labels[i] == x.labels[j]).map(|j| (i, j))) {
        x.value = super::views::diagonal_of(cx, x.value, i, j, 0)?;
        let label = x.labels.remove(j);
        x.labels.remove(i);
        x.labels.push(label);
    }
    Ok(x)
}

/// Sums over labels that are not kept.
fn summed(cx: &mut Cx, mut x: Labeled, kept: &[u32]) -> Result<Labeled, String> {
    let dims: Vec<usize> = (0..x.labels.len()).filter(|&d| !kept.contains(&x.labels[d])).collect();
    x.value = reduce::over(cx, ReduceKind::Sum, x.value, &dims, false)?;
    x.labels.retain(|l| kept.contains(l));
    Ok(x)
}

fn contract(cx: &mut Cx, left: Labeled, right: Labeled, kept: &[u32]) -> Result<Labeled, String> {
    let both =
        |own: &Labeled, other: &Labeled| -> Vec<u32> { kept.iter().chain(&other.labels).copied().filter(|l| own.labels.contains(l)).collect() };
    let (left_kept, right_kept) = (both(&left, &right), both(&right, &left));
    let (left, right) = (summed(cx, left, &left_kept)?, summed(cx, right, &right_kept)?);
    let shared: Vec<u32> = left.labels.iter().copied().filter(|l| right.labels.contains(l)).collect();
    let (batch, inner): (Vec<u32>, Vec<u32>) = shared.iter().partition(|l| kept.contains(l));
    let only = |x: &Labeled| -> Vec<u32> { x.labels.iter().copied().filter(|l| !shared.contains(l)).collect() };
    let (rows, columns) = (only(&left), only(&right));
    let size = |cx: &Cx, label: u32| {
        let of = |x: &Labeled| x.labels.iter().position(|l| *l == label).map(|d| cx.b.shape(x.value)[d].clone());
        let (a, b) = (of(&left), of(&right));
        // A size of one broadcasts.
        match (a, b) {
            (Some(a), Some(b)) => {
                if a.is(1) {
                    b
                } else {
                    a
                }
            }
            (a, b) => a.or(b).unwrap_or(Dim::int(1)),
        }
    };
    let sizes = |cx: &Cx, labels: &[u32]| -> Vec<Dim> { labels.iter().map(|&l| size(cx, l)).collect() };
    let (b, r, i, c) = (sizes(cx, &batch), sizes(cx, &rows), sizes(cx, &inner), sizes(cx, &columns));
    let x = arranged(cx, &left, &[(&batch, &b), (&rows, &r), (&inner, &i)])?;
    let y = arranged(cx, &right, &[(&batch, &b), (&inner, &i), (&columns, &c)])?;
    let product = matmul(cx, x, y)?;
    let value = cx.b.reshape(product, Shape::new([&b[..], &r[..], &c[..]].concat()))?;
    Ok(Labeled { value, labels: [batch, rows, columns].concat() })
}

/// The operand with its dimensions in groups, each joined into one.
fn arranged(cx: &mut Cx, x: &Labeled, groups: &[(&Vec<u32>, &Vec<Dim>)]) -> Result<Value, String> {
    let order: Option<Vec<usize>> = groups.iter().flat_map(|(labels, _)| labels.iter()).map(|l| x.labels.iter().position(|m| m == l)).collect();
    let y = cx.b.permute(x.value, &order.ok_or("a label is lost")?)?;
    let full = Shape::new(groups.iter().flat_map(|(_, sizes)| sizes.iter().cloned()).collect());
    let y = cx.b.broadcast_to(y, &full)?;
    let joined = groups.iter().map(|(_, sizes)| Dim::product(sizes.iter())).collect();
    cx.b.reshape(y, Shape::new(joined))
}

/// The sum of products over pairs of dimensions.
fn tensordot(cx: &mut Cx, x: Value, y: Value, left: &[usize], right: &[usize]) -> Result<Value, String> {
    let (ranks, inner) = ((cx.b.shape(x).rank() as u32, cx.b.shape(y).rank() as u32), left.len() as u32);
    if left.len() != right.len() {
        return Err("it contracts pairs of dimensions".into());
    }
    let named = |rank: u32, dims: &[usize], first: u32| -> Vec<u32> {
        (0..rank).map(|d| dims.iter().position(|&k| k == d as usize).map_or(first + d, |k| k as u32)).collect()
    };
    let (of_x, of_y) = (named(ranks.0, left, inner), named(ranks.1, right, inner + ranks.0));
    let kept: Vec<u32> = of_x.iter().chain(&of_y).copied().filter(|l| *l >= inner).collect();
    let out = contract(cx, Labeled { value: x, labels: of_x }, Labeled { value: y, labels: of_y }, &kept)?;
    Ok(out.value)
}

/// Each element of the first times the whole second.
fn kron(cx: &mut Cx, a: &Args) -> Built {
    let (x, y) = (a.tensor("self")?, a.tensor("other")?);
    let rank = cx.b.shape(x).rank().max(cx.b.shape(y).rank());
    let padded = |cx: &Cx, v: Value| [vec![Dim::int(1); rank - cx.b.shape(v).rank()], cx.shape(v).0.to_vec()].concat();
    let (sx, sy) = (padded(cx, x), padded(cx, y));
    let spread = |sizes: &[Dim], first: bool| {
        let one = Dim::int(1);
        Shape::new(sizes.iter().flat_map(|d| if first { [d.clone(), one.clone()] } else { [one.clone(), d.clone()] }).collect())
    };
    let (x, y) = (cx.b.reshape(x, spread(&sx, true))?, cx.b.reshape(y, spread(&sy, false))?);
    let product = cx.b.mul(x, y)?;
    let joined = sx.iter().zip(&sy).map(|(a, b)| a.clone() * b).collect();
    Ok(vec![cx.b.reshape(product, Shape::new(joined))?])
}

/// The product of three tensors, each with dimensions inserted, summed over some.
fn trilinear(cx: &mut Cx, a: &Args) -> Built {
    let mut product = None;
    a.disregard(&["unroll_dim"]);
    for (name, dims) in [("i1", "expand1"), ("i2", "expand2"), ("i3", "expand3")] {
        let (mut x, mut dims) = (a.tensor(name)?, a.ints_or_empty(dims)?);
        dims.sort_unstable();
        for d in dims {
            let d = usize::try_from(d).ok().filter(|d| *d <= cx.b.shape(x).rank()).ok_or("a dimension to insert is out of range")?;
            x = cx.b.unsqueeze(x, d)?;
        }
        product = Some(match product {
            Some(before) => cx.b.mul(before, x)?,
            None => x,
        });
    }
    let product = product.ok_or("there are three operands")?;
    let dims: Vec<usize> = a.ints_or_empty("sumdim")?.iter().map(|&d| cx.dim(product, d)).collect::<Result<_, _>>()?;
    let sum = reduce::over(cx, ReduceKind::Sum, product, &dims, false)?;
    Ok(vec![cx.b.cast(sum, a.dtype_opt("dtype")?.unwrap_or(cx.b.dtype(product)))?])
}
