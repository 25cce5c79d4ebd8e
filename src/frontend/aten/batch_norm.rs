//! Normalization of channels over the batch, over instances and over groups of channels, with running statistics.

use super::args::{Args, Cx};
use super::gradients::detached;
use super::norm::{channel_shape, statistics};
use super::{Row, pure};
use crate::graph::Value;
use crate::scalar::ScalarFn as F;
use crate::types::{DType, Dim, Shape};

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["_native_batch_norm_legit_functional.default"], |cx, a| {
        let n = normalize(cx, a, a.bool_or("training", false)?)?;
        let (mean, var) = (a.tensor("running_mean")?, a.tensor("running_var")?);
        let (mean, var) = n.running.unwrap_or((mean, var));
        Ok(vec![n.y, n.mean, n.rstd, mean, var])
    }),
    pure(&["_native_batch_norm_legit.default", "native_batch_norm.default", "cudnn_batch_norm.default"], |cx, a| {
        let n = normalize(cx, a, a.bool_or("training", false)?)?;
        n.write(cx);
        Ok(vec![n.y, n.mean, n.rstd])
    }),
    pure(&["_batch_norm_with_update.default"], |cx, a| {
        let n = normalize(cx, a, true)?;
        n.write(cx);
        let reserve = cx.b.full(DType::U8, 0.0, [Dim::int(0)])?;
        Ok(vec![n.y, n.mean, n.rstd, reserve])
    }),
    pure(&["_batch_norm_with_update_functional.default"], |cx, a| {
        let n = normalize(cx, a, true)?;
        let (mean, var) = n.running.ok_or("it has no running statistics")?;
        let reserve = cx.b.full(DType::U8, 0.0, [Dim::int(0)])?;
        Ok(vec![n.y, n.mean, n.rstd, reserve, mean, var])
    }),
    pure(&["_batch_norm_no_update.default"], |cx, a| {
        let n = normalize(cx, a, !a.has("running_mean"))?;
        let reserve = cx.b.full(DType::U8, 0.0, [Dim::int(0)])?;
        Ok(vec![n.y, n.mean, n.rstd, reserve])
    }),
    pure(&["_native_batch_norm_legit.no_stats"], |cx, a| {
        a.expect_bool("training", true)?;
        let n = normalize(cx, a, true)?;
        Ok(vec![n.y, n.mean, n.rstd])
    }),
    pure(&["_native_batch_norm_legit_no_training.default"], |cx, a| {
        let n = normalize(cx, a, false)?;
        Ok(vec![n.y, n.mean, n.rstd])
    }),
    pure(&["batch_norm.default"], |cx, a| {
        let training = a.bool_or("training", false)? || !a.has("running_mean");
        let n = normalize(cx, a, training)?;
        n.write(cx);
        Ok(vec![n.y])
    }),
    pure(&["instance_norm.default"], instance_norm),
    pure(&["native_group_norm.default"], |cx, a| {
        a.disregard(&["N", "C", "HxW"]);
        let (y, mean, rstd) = group_norm(cx, a, a.int("group")?)?;
        Ok(vec![y, mean, rstd])
    }),
    pure(&["group_norm.default"], |cx, a| Ok(vec![group_norm(cx, a, a.int("num_groups")?)?.0])),
];

/// A normalized tensor with what it was normalized by.
struct Normalized {
    y: Value,
    mean: Value,
    rstd: Value,
    /// New running statistics.
    running: Option<(Value, Value)>,
}

impl Normalized {
    fn write(&self, cx: &mut Cx) {
        if let Some((mean, var)) = self.running {
            cx.write("running_mean", mean);
            cx.write("running_var", var);
        }
    }
}

/// All dimensions but the channels.
fn reduced(rank: usize) -> Vec<usize> {
    (0..rank).filter(|&d| d != 1).collect()
}

fn normalize(cx: &mut Cx, a: &Args, training: bool) -> Result<Normalized, String> {
    let x = a.tensor("input")?;
    let eps = a.float_or(if a.has("epsilon") { "epsilon" } else { "eps" }, 1e-5)?;
    a.disregard(&["momentum", "exponential_average_factor", "running_mean", "running_var"]);
    let shape = cx.shape(x);
    let channels = shape.0.get(1).cloned().ok_or("it has no channels")?;
    let dtype = cx.b.dtype(x);
    let wide_type = dtype.accumulator();
    let wide = cx.b.cast(x, wide_type)?;
    let spread = channel_shape(&channels, shape.rank());
    let (mean, rstd, saved, running) = if training {
        let dims = reduced(shape.rank());
        let (mean, rstd) = statistics(cx, x, &dims, eps)?;
        let flat = [cx.b.reshape(mean, [channels.clone()])?, cx.b.reshape(rstd, [channels.clone()])?];
        let running = new_running(cx, a, wide, &dims, flat[0])?;
        (mean, rstd, flat, running)
    } else {
        let mean = cx.b.cast(a.tensor("running_mean")?, wide_type)?;
        let var = cx.b.cast(a.tensor("running_var")?, wide_type)?;
        let eps = cx.b.constant(wide_type, eps)?;
        let shifted = cx.b.add(var, eps)?;
        let rstd = cx.b.scalar(F::Rsqrt, &[shifted])?;
        let none = cx.b.full(wide_type, 0.0, [Dim::int(0)])?;
        (cx.b.reshape(mean, spread.clone())?, cx.b.reshape(rstd, spread.clone())?, [none, none], None)
    };
    let centered = cx.b.sub(wide, mean)?;
    let mut y = cx.b.mul(centered, rstd)?;
    if let Some(weight) = a.tensor_opt("weight")? {
        let weight = cx.b.reshape(weight, spread.clone())?;
        let weight = cx.b.cast(weight, wide_type)?;
        y = cx.b.mul(y, weight)?;
    }
    if let Some(bias) = a.tensor_opt("bias")? {
        let bias = cx.b.reshape(bias, spread)?;
        let bias = cx.b.cast(bias, wide_type)?;
        y = cx.b.add(y, bias)?;
    }
    Ok(Normalized { y: cx.b.cast(y, dtype)?, mean: saved[0], rstd: saved[1], running })
}

/// Running statistics moved towards those of the batch, whose variance is taken unbiased; of half floats in f32.
fn new_running(cx: &mut Cx, a: &Args, x: Value, dims: &[usize], mean: Value) -> Result<Option<(Value, Value)>, String> {
    let (Some(old_mean), Some(old_var)) = (a.tensor_opt("running_mean")?, a.tensor_opt("running_var")?) else { return Ok(None) };
    let momentum = a.float_or(if a.has("exponential_average_factor") { "exponential_average_factor" } else { "momentum" }, 0.1)?;
    let var = cx.b.var(x, dims, 1, false)?;
    let dtype = cx.b.dtype(x);
    let mut moved = |old: Value, new: Value| -> Result<Value, String> {
        let (old, new) = (cx.b.cast(old, dtype)?, cx.b.cast(new, dtype)?);
        let new = detached(&mut cx.b, new)?;
        let (new, old) = (cx.b.scale(new, momentum)?, cx.b.scale(old, 1.0 - momentum)?);
        cx.b.add(new, old)
    };
    Ok(Some((moved(old_mean, mean)?, moved(old_var, var)?)))
}

/// Each channel of each instance by itself; running statistics move towards the average over instances.
fn instance_norm(cx: &mut Cx, a: &Args) -> Built {
    let x = a.tensor("input")?;
    a.disregard(&["momentum", "running_mean", "running_var"]);
    let shape = cx.shape(x);
    if !a.bool_or("use_input_stats", true)? {
        return Ok(vec![normalize(cx, a, false)?.y]);
    }
    let dims: Vec<usize> = (2..shape.rank()).collect();
    let wide_type = cx.b.dtype(x).accumulator();
    let wide = cx.b.cast(x, wide_type)?;
    let (mean, rstd) = statistics(cx, x, &dims, a.float_or("eps", 1e-5)?)?;
    if let (Some(old_mean), Some(old_var)) = (a.tensor_opt("running_mean")?, a.tensor_opt("running_var")?) {
        let momentum = a.float_or("momentum", 0.1)?;
        let var = cx.b.var(wide, &dims, 1, true)?;
        for (name, old, new) in [("running_mean", old_mean, mean), ("running_var", old_var, var)] {
            let new = cx.b.reshape(new, Shape::new(shape.0[..2].to_vec()))?;
            let new = cx.b.mean(new, &[0], false)?;
            let new = cx.b.cast(new, cx.b.dtype(old))?;
            let (new, old) = (cx.b.scale(new, momentum)?, cx.b.scale(old, 1.0 - momentum)?);
            let value = cx.b.add(new, old)?;
            cx.write(name, value);
        }
    }
    let centered = cx.b.sub(wide, mean)?;
    let y = cx.b.mul(centered, rstd)?;
    affine(cx, a, y, x).map(|y| vec![y])
}

/// Times the weight, plus the bias, in the dtype of `x`.
fn affine(cx: &mut Cx, a: &Args, mut y: Value, x: Value) -> Result<Value, String> {
    let shape = cx.shape(x);
    let wide = cx.b.dtype(y);
    for (name, f) in [("weight", F::Mul), ("bias", F::Add)] {
        if let Some(v) = a.tensor_opt(name)? {
            let v = cx.b.reshape(v, channel_shape(&shape[1], shape.rank()))?;
            let v = cx.b.cast(v, wide)?;
            y = cx.b.scalar(f, &[y, v])?;
        }
    }
    cx.b.cast(y, cx.b.dtype(x))
}

/// The result, and mean and `1 / sqrt(var + eps)` of each group.
fn group_norm(cx: &mut Cx, a: &Args, groups: i64) -> Result<(Value, Value, Value), String> {
    let x = a.tensor("input")?;
    let shape = cx.shape(x);
    let channels = shape.0.get(1).cloned().ok_or("it has no channels")?;
    let per = channels.try_div(&Dim::int(groups)).ok_or_else(|| format!("{channels} channels do not fall into {groups} groups"))?;
    let grouped: Vec<Dim> = [shape[0].clone(), Dim::int(groups), per].into_iter().chain(shape.0[2..].iter().cloned()).collect();
    let parts = cx.b.reshape(x, grouped)?;
    let dims: Vec<usize> = (2..shape.rank() + 1).collect();
    let (mean, rstd) = statistics(cx, parts, &dims, a.float_or("eps", 1e-5)?)?;
    let wide = cx.b.cast(parts, cx.b.dtype(mean))?;
    let centered = cx.b.sub(wide, mean)?;
    let y = cx.b.mul(centered, rstd)?;
    let y = cx.b.reshape(y, shape.clone())?;
    let y = affine(cx, a, y, x)?;
    let flat = [shape[0].clone(), Dim::int(groups)];
    let (mean, rstd) = (cx.b.reshape(mean, flat.clone())?, cx.b.reshape(rstd, flat)?);
    let dtype = cx.b.dtype(x);
    Ok((y, cx.b.cast(mean, dtype)?, cx.b.cast(rstd, dtype)?))
}
