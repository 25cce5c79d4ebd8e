//! Matrix products, linear layers, attention.

use super::args::{Args, Cx, Scalar};
use super::{Row, pure};
use crate::graph::Value;
use crate::ops::{Real, ReduceKind, ScaledDotProductAttention};
use crate::types::{DType, Dim, Shape, broadcast_shapes};

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["mm.default"], |cx, a| plain(cx, a, "self", "mat2")),
    pure(&["bmm.default"], |cx, a| plain(cx, a, "self", "mat2")),
    pure(&["mv.default"], |cx, a| plain(cx, a, "self", "vec")),
    pure(&["linalg_vecdot.default"], |cx, a| {
        let product = cx.b.mul(a.tensor("x")?, a.tensor("y")?)?;
        super::rank_of(cx, product, 1)?;
        let dim = cx.dim(product, a.int_or("dim", -1)?)?;
        Ok(vec![cx.b.reduce(ReduceKind::Sum, product, &[dim], false)?])
    }),
    pure(&["dot.default", "vdot.default", "inner.default"], |cx, a| {
        let name = if a.has("tensor") { "tensor" } else { "other" };
        let (x, mut y) = (a.tensor("self")?, a.tensor(name)?);
        if cx.b.shape(x).rank() == 0 || cx.b.shape(y).rank() == 0 {
            return Ok(vec![cx.b.mul(x, y)?]);
        }
        if cx.b.shape(y).rank() > 1 {
            y = matrix(cx, y)?;
            y = cx.b.transpose(y)?;
            let (rows, rest) = (cx.shape(x), cx.shape(a.tensor(name)?));
            let out = matmul(cx, x, y)?;
            let shape = [&rows.0[..rows.rank() - 1], &rest.0[..rest.rank() - 1]].concat();
            return Ok(vec![cx.b.reshape(out, shape)?]);
        }
        Ok(vec![matmul(cx, x, y)?])
    }),
    pure(&["matmul.default", "__matmul__.default", "linalg_matmul.default"], |cx, a| plain(cx, a, "self", "other")),
    pure(&["addmm.default"], |cx, a| added(cx, a, "mat1", "mat2", false)),
    pure(&["addmv.default"], |cx, a| added(cx, a, "mat", "vec", false)),
    pure(&["baddbmm.default"], |cx, a| added(cx, a, "batch1", "batch2", false)),
    pure(&["addbmm.default"], |cx, a| added(cx, a, "batch1", "batch2", true)),
    pure(&["linear.default"], linear),
    pure(&["matrix_power.default", "linalg_matrix_power.default"], |cx, a| {
        let x = a.tensor("self")?;
        Ok(vec![power(cx, x, a.int("n")?)?])
    }),
    pure(&["scaled_dot_product_attention.default"], attention),
];

fn plain(cx: &mut Cx, a: &Args, left: &str, right: &str) -> Built {
    let (x, y) = (a.tensor(left)?, a.tensor(right)?);
    Ok(vec![matmul(cx, x, y)?])
}

/// All dimensions but the last joined.
fn matrix(cx: &mut Cx, x: Value) -> Result<Value, String> {
    let shape = cx.shape(x);
    let (last, lead) = shape.0.split_last().ok_or("a 0-d tensor is no matrix")?;
    let rows = Dim::product(lead);
    cx.b.reshape(x, [rows, last.clone()])
}

/// PyTorch's `matmul`: vectors take a dimension of size one that goes away, leading dimensions broadcast.
pub fn matmul(cx: &mut Cx, x: Value, y: Value) -> Result<Value, String> {
    if cx.b.dtype(x) == DType::Bool || cx.b.dtype(x) != cx.b.dtype(y) {
        return Err(format!("matmul: {} x {}", cx.b.ty(x), cx.b.ty(y)));
    }
    let (sx, sy) = (cx.shape(x), cx.shape(y));
    if sx.rank() == 0 || sy.rank() == 0 {
        return Err(format!("matmul: {} x {}", cx.b.ty(x), cx.b.ty(y)));
    }
    let wide_x = if sx.rank() == 1 { cx.b.unsqueeze(x, 0)? } else { x };
    let wide_y = if sy.rank() == 1 { cx.b.unsqueeze(y, 1)? } else { y };
    let (tx, ty) = (cx.shape(wide_x), cx.shape(wide_y));
    let (rx, ry) = (tx.rank(), ty.rank());
    if tx[rx - 1] != ty[ry - 2] {
        return Err(format!("matmul: inner dimensions differ: {} x {}", cx.b.ty(x), cx.b.ty(y)));
    }
    let batch = broadcast_shapes(&Shape::new(tx.0[..rx - 2].to_vec()), &Shape::new(ty.0[..ry - 2].to_vec()))?;
    let mut shape = batch.0.to_vec();
    shape.extend(if sx.rank() == 1 { None } else { Some(tx[rx - 2].clone()) });
    shape.extend(if sy.rank() == 1 { None } else { Some(ty[ry - 1].clone()) });
    let out = if ry == 2 {
        // One matrix for all of the batch: a single product over all rows.
        let flat = matrix(cx, wide_x)?;
        cx.b.matmul(flat, wide_y)?
    } else {
        let with = |t: &Shape| Shape::new([&batch.0[..], &t.0[t.rank() - 2..]].concat());
        let (x, y) = (cx.b.broadcast_to(wide_x, &with(&tx))?, cx.b.broadcast_to(wide_y, &with(&ty))?);
        cx.b.matmul(x, y)?
    };
    cx.b.reshape(out, shape)
}

/// `beta * self + alpha * (x @ y)`, the product summed over the batch if asked for.
fn added(cx: &mut Cx, a: &Args, left: &str, right: &str, sum: bool) -> Built {
    let (x, y) = (a.tensor(left)?, a.tensor(right)?);
    let product = if sum {
        // The batch joins the inner dimension.
        super::rank_of(cx, x, 3)?;
        super::rank_of(cx, y, 3)?;
        let (sx, sy) = (cx.shape(x), cx.shape(y));
        let inner = sx[0].clone() * &sx[2];
        let x = cx.b.permute(x, &[1, 0, 2])?;
        let x = cx.b.reshape(x, [sx[1].clone(), inner.clone()])?;
        let y = cx.b.reshape(y, [inner, sy[2].clone()])?;
        matmul(cx, x, y)?
    } else {
        matmul(cx, x, y)?
    };
    let product = factor(cx, product, a.scalar_opt("alpha")?)?;
    let beta = a.scalar_opt("beta")?;
    if beta.as_ref().and_then(Scalar::to_f64) == Some(0.0) {
        // NaN in it is not seen.
        a.disregard(&["self"]);
        return Ok(vec![product]);
    }
    let bias = a.tensor("self")?;
    let bias = factor(cx, bias, beta)?;
    let shape = cx.shape(product);
    let bias = cx.b.broadcast_to(bias, &shape)?;
    Ok(vec![cx.b.add(product, bias)?])
}

fn factor(cx: &mut Cx, x: Value, by: Option<Scalar>) -> Result<Value, String> {
    match by {
        Some(by) if by.to_f64() != Some(1.0) => {
            let by = cx.number(&by, cx.b.dtype(x))?;
            cx.b.mul(by, x)
        }
        _ => Ok(x),
    }
}

fn linear(cx: &mut Cx, a: &Args) -> Built {
    let (x, weight, bias) = (a.tensor("input")?, a.tensor("weight")?, a.tensor_opt("bias")?);
    if cx.b.shape(weight).rank() == 2 && cx.b.shape(x).rank() >= 1 && cx.b.dtype(x).is_float() {
        return Ok(vec![cx.b.linear(x, weight, bias)?]);
    }
    let transposed = if cx.b.shape(weight).rank() == 2 { cx.b.transpose(weight)? } else { weight };
    let out = matmul(cx, x, transposed)?;
    Ok(vec![match bias {
        Some(bias) => cx.b.add(out, bias)?,
        None => out,
    }])
}

fn attention(cx: &mut Cx, a: &Args) -> Built {
    let (q, mut k, mut v) = (a.tensor("query")?, a.tensor("key")?, a.tensor("value")?);
    if a.bool_or("enable_gqa", false)? {
        (k, v) = (repeat_heads(cx, q, k)?, repeat_heads(cx, q, v)?);
    }
    let rank = cx.b.shape(q).rank();
    if rank < 2 || cx.b.shape(k).rank() < 2 || cx.b.shape(v).rank() < 2 {
        return Err("its operands have two dimensions at least".into());
    }
    // Leading dimensions broadcast.
    let lead = |cx: &Cx, x: Value| Shape::new(cx.b.shape(x).0[..cx.b.shape(x).rank() - 2].to_vec());
    let batch = broadcast_shapes(&lead(cx, q), &broadcast_shapes(&lead(cx, k), &lead(cx, v))?)?;
    let mut expanded = [q, k, v];
    for x in &mut expanded {
        let shape = cx.shape(*x);
        let full = Shape::new([&batch.0[..], &shape.0[shape.rank() - 2..]].concat());
        *x = cx.b.broadcast_to(*x, &full)?;
    }
    let dropout = a.float_or("dropout_p", 0.0)?;
    let op = ScaledDotProductAttention {
        causal: a.bool_or("is_causal", false)?,
        scale: if a.has("scale") { Some(Real::new(a.float("scale")?)) } else { None },
        dropout: Real::new(dropout),
    };
    let mut rest = vec![];
    if let Some(mask) = a.tensor_opt("attn_mask")? {
        rest.push(mask);
    }
    if dropout != 0.0 {
        rest.push(cx.key()?);
    }
    let [q, k, v] = expanded;
    Ok(vec![cx.b.attention(op, q, k, v, &rest)?])
}

/// Each head of keys or values as often as there are queries for it.
fn repeat_heads(cx: &mut Cx, q: Value, x: Value) -> Result<Value, String> {
    let (sq, sx) = (cx.shape(q), cx.shape(x));
    let at = sx.rank().checked_sub(3).ok_or("grouped heads need three dimensions")?;
    let times = sq[sq.rank() - 3].try_div(&sx[at]).ok_or("heads of queries are no multiple of those of keys")?;
    if times.is(1) {
        return Ok(x);
    }
    let mut wide = sx.clone();
    wide.0.insert(at + 1, times.clone());
    let mut out = sx.clone();
    out.0[at] = out.0[at].clone() * &times;
    let x = cx.b.unsqueeze(x, at + 1)?;
    let x = cx.b.broadcast_to(x, &wide)?;
    cx.b.reshape(x, out)
}

/// A square matrix multiplied with itself, by squares.
fn power(cx: &mut Cx, x: Value, n: i64) -> Result<Value, String> {
    let mut left = u64::try_from(n).map_err(|_| "a negative power needs the inverse, which is not supported")?;
    let shape = cx.shape(x);
    let size = match &shape.0[..] {
        [.., rows, columns] if rows == columns => rows.clone(),
        _ => return Err(format!("{} is no square matrix", cx.b.ty(x))),
    };
    if left == 0 {
        let one = super::creation::identity(cx, size.clone(), size, cx.b.dtype(x))?;
        return cx.b.broadcast_to(one, &shape);
    }
    let (mut square, mut product) = (x, None);
    loop {
        if left & 1 == 1 {
            product = Some(product.map_or(Ok(square), |p| matmul(cx, p, square))?);
        }
        left >>= 1;
        match product {
            Some(product) if left == 0 => return Ok(product),
            _ => square = matmul(cx, square, square)?,
        }
    }
}
