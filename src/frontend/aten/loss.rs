//! Losses.

use super::args::{Args, Cx, Operand};
use super::opmath::{self, with_partials};
use super::reduce::norm;
use super::special::times_log;
use super::{Row, pure};
use crate::graph::Value;
use crate::ops::{ReduceKind, Reduction};
use crate::scalar::ScalarFn as F;
use crate::types::{DType, Dim, Shape};

type Built = Result<Vec<Value>, String>;

/// Rows of this family.
pub const ROWS: &[Row] = &[
    pure(&["cross_entropy_loss.default"], cross_entropy),
    pure(&["mse_loss.default"], |cx, a| {
        let (x, y) = (a.tensor("self")?, a.tensor("target")?);
        let difference = cx.b.sub(x, y)?;
        let square = cx.b.mul(difference, difference)?;
        reduced(cx, a, square)
    }),
    pure(&["l1_loss.default"], |cx, a| {
        let (x, y) = (a.tensor("self")?, a.tensor("target")?);
        let difference = cx.b.sub(x, y)?;
        let size = cx.b.scalar(F::Abs, &[difference])?;
        reduced(cx, a, size)
    }),
    pure(&["binary_cross_entropy_with_logits.default"], with_logits),
    pure(&["binary_cross_entropy.default"], binary_cross_entropy),
    pure(&["nll_loss_nd.default", "nll_loss.default", "nll_loss2d.default"], |cx, a| {
        let (x, target) = (a.tensor("self")?, a.tensor("target")?);
        let x = classes_last(cx, x)?;
        Ok(vec![negative_likelihood(cx, a, x, target)?])
    }),
    pure(&["kl_div.default"], |cx, a| {
        let (x, y) = (a.tensor("self")?, a.tensor("target")?);
        let loss = if a.bool_or("log_target", false)? {
            let difference = cx.b.sub(y, x)?;
            let e = cx.b.scalar(F::Exp, &[y])?;
            cx.b.mul(e, difference)?
        } else {
            let entropy = times_log(cx, y, y, F::Log)?;
            let crossed = cx.b.mul(y, x)?;
            cx.b.sub(entropy, crossed)?
        };
        reduced(cx, a, loss)
    }),
    pure(&["huber_loss.default"], |cx, a| huber(cx, a, "delta", true)),
    pure(&["smooth_l1_loss.default"], |cx, a| huber(cx, a, "beta", false)),
    pure(&["soft_margin_loss.default"], |cx, a| {
        let (x, y) = (a.tensor("self")?, a.tensor("target")?);
        let product = in_common(cx, F::Mul, x, y)?;
        let product = cx.b.cast(product, cx.b.dtype(x))?;
        let minus = cx.b.neg(product)?;
        let e = cx.b.scalar(F::Exp, &[minus])?;
        let loss = cx.b.scalar(F::Log1p, &[e])?;
        reduced(cx, a, loss)
    }),
    pure(&["margin_ranking_loss.default"], |cx, a| {
        let (x, y, target) = (a.tensor("input1")?, a.tensor("input2")?, a.tensor("target")?);
        let difference = cx.b.sub(x, y)?;
        let product = cx.b.mul(target, difference)?;
        let margin = cx.b.constant(cx.b.dtype(product), a.float_or("margin", 0.0)?)?;
        let loss = cx.b.sub(margin, product)?;
        let loss = at_least_zero(cx, loss)?;
        reduced(cx, a, loss)
    }),
    pure(&["hinge_embedding_loss.default"], |cx, a| {
        let (x, mut y) = (a.tensor("self")?, a.tensor("target")?);
        if cx.b.dtype(y) == DType::Bool {
            y = cx.b.cast(y, DType::I32)?;
        }
        let margin = cx.b.constant(cx.b.dtype(x), a.float_or("margin", 1.0)?)?;
        let below = cx.b.sub(margin, x)?;
        let below = at_least_zero(cx, below)?;
        // A label that is neither 1 nor -1 has both terms.
        let dtype = cx.b.dtype(y);
        let [one, minus, zero] = [1.0, -1.0, 0.0].map(|k| cx.b.constant(dtype, k));
        let (positive, negative, zero) = (cx.b.scalar(F::Eq, &[y, one?])?, cx.b.scalar(F::Eq, &[y, minus?])?, zero?);
        let zero = cx.b.cast(zero, cx.b.dtype(x))?;
        let (near, far) = (cx.b.where_(negative, zero, x)?, cx.b.where_(positive, zero, below)?);
        let loss = cx.b.add(near, far)?;
        reduced(cx, a, loss)
    }),
    pure(&["cosine_embedding_loss.default"], |cx, a| {
        let (x, y, target) = (a.tensor("input1")?, a.tensor("input2")?, a.tensor("target")?);
        cx.expect_rank(x, 1..=2)?;
        let last = cx.b.shape(x).rank() - 1;
        let [xx, yy, xy] = [(x, x), (y, y), (x, y)].map(|(p, q)| {
            let product = cx.b.mul(p, q)?;
            cx.b.reduce(ReduceKind::Sum, product, &[last], false)
        });
        let eps = cx.b.constant(cx.b.dtype(x), 1e-12)?;
        let (xx, yy) = (cx.b.add(xx?, eps)?, cx.b.add(yy?, eps)?);
        let product = cx.b.mul(xx, yy)?;
        let root = cx.b.scalar(F::Sqrt, &[product])?;
        let cosine = cx.b.div(xy?, root)?;
        let (one, margin) = (cx.b.constant(cx.b.dtype(x), 1.0)?, cx.b.constant(cx.b.dtype(x), a.float_or("margin", 0.0)?)?);
        let (near, far) = (cx.b.sub(one, cosine)?, cx.b.sub(cosine, margin)?);
        let far = at_least_zero(cx, far)?;
        let loss = by_sign(cx, target, near, far)?;
        reduced(cx, a, loss)
    }),
    pure(&["triplet_margin_loss.default"], triplet),
    pure(&["poisson_nll_loss.default"], poisson),
    pure(&["multi_margin_loss.default"], multi_margin),
    pure(&["multilabel_margin_loss.default"], multilabel_margin),
    pure(&["cosine_similarity.default"], |cx, a| {
        let (x, y) = (a.tensor("x1")?, a.tensor("x2")?);
        let shape = crate::types::broadcast_shapes(cx.b.shape(x), cx.b.shape(y))?;
        let dtype = cx.result_type(&[&Operand::Tensor(x), &Operand::Tensor(y)]);
        let dtype = if dtype.is_float() { dtype } else { DType::F32 };
        let dim = cx.dim(x, a.int_or("dim", 1)?)?;
        let mut units = vec![];
        for x in [x, y] {
            // Floats are divided by their length in their own dtype, before they are promoted.
            let own = if cx.b.dtype(x).is_float() { cx.b.dtype(x) } else { dtype };
            let x = cx.b.cast(x, own)?;
            let x = cx.b.broadcast_to(x, &shape)?;
            let eps = cx.b.constant(own, a.float_or("eps", 1e-8)?)?;
            let size = norm(cx, x, 2.0, &[dim], true)?;
            // As in PyTorch, the bound has no part in the derivative.
            let bounded = cx.b.scalar(F::Maximum, &[size, eps])?;
            let size = cx.b.scalar(F::StraightThrough, &[bounded, size])?;
            let unit = cx.b.div(x, size)?;
            units.push(cx.b.cast(unit, dtype)?);
        }
        let product = cx.b.mul(units[0], units[1])?;
        Ok(vec![cx.b.reduce(ReduceKind::Sum, product, &[dim], false)?])
    }),
    pure(&["pairwise_distance.default"], |cx, a| {
        let (x, y) = (a.tensor("x1")?, a.tensor("x2")?);
        let (p, eps) = (a.float_or("p", 2.0)?, a.float_or("eps", 1e-6)?);
        Ok(vec![distance(cx, x, y, p, eps, a.bool_or("keepdim", false)?)?])
    }),
];

/// The larger of it and zero, which takes the gradient at zero, as in PyTorch's `clamp_min_`.
fn at_least_zero(cx: &mut Cx, x: Value) -> Result<Value, String> {
    let (zero, open) = (cx.b.constant(cx.b.dtype(x), 0.0)?, cx.b.constant(cx.b.dtype(x), f64::INFINITY)?);
    cx.b.scalar(F::Clamp, &[x, zero, open])
}

/// `positive` where the label is 1, `negative` where it is -1, zero elsewhere.
fn by_sign(cx: &mut Cx, label: Value, positive: Value, negative: Value) -> Result<Value, String> {
    let dtype = cx.b.dtype(label);
    let (one, minus, zero) = (cx.b.constant(dtype, 1.0)?, cx.b.constant(dtype, -1.0)?, cx.b.constant(cx.b.dtype(positive), 0.0)?);
    let (plus, minus) = (cx.b.scalar(F::Eq, &[label, one])?, cx.b.scalar(F::Eq, &[label, minus])?);
    let low = cx.b.where_(minus, negative, zero)?;
    cx.b.where_(plus, positive, low)
}

/// The norm of `x - y + eps` over the last dimension.
fn distance(cx: &mut Cx, x: Value, y: Value, p: f64, eps: f64, keep: bool) -> Result<Value, String> {
    let difference = cx.b.sub(x, y)?;
    let eps = cx.b.constant(cx.b.dtype(difference), eps)?;
    let difference = cx.b.add(difference, eps)?;
    cx.expect_rank(difference, 1..=64)?;
    let last = cx.b.shape(difference).rank() - 1;
    norm(cx, difference, p, &[last], keep)
}

/// `-y log(x) - (1 - y) log(1 - x)`, with logarithms of -100 at least. The derivatives are PyTorch's: `(x - y) / max(x (1 - x), 1e-12)`,
/// which is finite at the ends, and `log(1 - x) - log(x)`, which is not.
fn binary_cross_entropy(cx: &mut Cx, a: &Args) -> Built {
    let (x, y) = (a.tensor("self")?, a.tensor("target")?);
    let dtype = cx.b.dtype(x);
    let [one, lowest, least] = [1.0, -100.0, 1e-12].map(|k| cx.b.constant(dtype, k));
    let (one, lowest) = (one?, lowest?);
    let (rest, minus) = (cx.b.sub(one, y)?, cx.b.neg(x)?);
    let (log, other) = (cx.b.scalar(F::Log, &[x])?, cx.b.scalar(F::Log1p, &[minus])?);
    let of_label = cx.b.sub(other, log)?;
    let (log, other) = (cx.b.scalar(F::Maximum, &[log, lowest])?, cx.b.scalar(F::Maximum, &[other, lowest])?);
    let (hit, miss) = (cx.b.mul(y, log)?, cx.b.mul(rest, other)?);
    let sum = cx.b.add(hit, miss)?;
    let value = cx.b.neg(sum)?;
    let (difference, away) = (cx.b.sub(x, y)?, cx.b.sub(one, x)?);
    let spread = cx.b.mul(away, x)?;
    let spread = cx.b.scalar(F::Maximum, &[spread, least?])?;
    let slope = cx.b.div(difference, spread)?;
    let loss = with_partials(cx, value, &[(x, slope), (y, of_label)])?;
    weighted(cx, a, loss)
}

/// Times the weight, if there is one, and reduced.
fn weighted(cx: &mut Cx, a: &Args, loss: Value) -> Built {
    let loss = match a.tensor_opt("weight")? {
        Some(weight) => cx.b.mul(loss, weight)?,
        None => loss,
    };
    reduced(cx, a, loss)
}

/// Quadratic below the border, linear above: `x^2 / 2` (over the border for the smooth L1 loss). The Huber loss of two dtypes has the
/// first one, whatever it is computed in.
fn huber(cx: &mut Cx, a: &Args, border: &str, scaled: bool) -> Built {
    let (x, y, border) = (a.tensor("self")?, a.tensor("target")?, a.float_or(border, 1.0)?);
    let difference = in_common(cx, F::Sub, x, y)?;
    let size = cx.b.scalar(F::Abs, &[difference])?;
    if border == 0.0 && !scaled {
        return reduced(cx, a, size);
    }
    let mut loss = opmath::wide(cx, [difference], |cx, [x]| bent(cx, x, border, scaled))?;
    if scaled {
        loss = cx.b.cast(loss, cx.b.dtype(x))?;
    }
    reduced(cx, a, loss)
}

/// A function of two tensors in their common dtype.
fn in_common(cx: &mut Cx, f: F, x: Value, y: Value) -> Result<Value, String> {
    let dtype = cx.result_type(&[&Operand::Tensor(x), &Operand::Tensor(y)]);
    let (x, y) = (cx.b.cast(x, dtype)?, cx.b.cast(y, dtype)?);
    cx.b.scalar(f, &[x, y])
}

/// `x^2 / 2` below the border and linear above, or both over the border. At an infinite distance the slope is the line's.
fn bent(cx: &mut Cx, x: Value, border: f64, scaled: bool) -> Result<Value, String> {
    let dtype = cx.b.dtype(x);
    let (limit, half) = (cx.b.constant(dtype, border)?, cx.b.constant(dtype, border / 2.0)?);
    let size = cx.b.scalar(F::Abs, &[x])?;
    let square = cx.b.mul(x, x)?;
    let near = cx.b.scale(square, if scaled { 0.5 } else { 0.5 / border })?;
    let far = cx.b.sub(size, half)?;
    let far = if scaled { cx.b.mul(far, limit)? } else { far };
    let is_near = cx.b.scalar(F::Lt, &[size, limit])?;
    let loss = cx.b.where_(is_near, near, far)?;
    let bounds = (cx.b.neg(limit)?, limit);
    let slope = cx.b.scalar(F::Clamp, &[x, bounds.0, bounds.1])?;
    let slope = if scaled || border == 0.0 { slope } else { cx.b.scale(slope, 1.0 / border)? };
    let slope = if border == 0.0 { cx.b.scalar(F::Sign, &[x])? } else { slope };
    with_partials(cx, loss, &[(x, slope)])
}

fn triplet(cx: &mut Cx, a: &Args) -> Built {
    let (x, positive, negative) = (a.tensor("anchor")?, a.tensor("positive")?, a.tensor("negative")?);
    let (p, eps) = (a.float_or("p", 2.0)?, a.float_or("eps", 1e-6)?);
    let near = distance(cx, x, positive, p, eps, false)?;
    let mut far = distance(cx, x, negative, p, eps, false)?;
    if a.bool_or("swap", false)? {
        let other = distance(cx, positive, negative, p, eps, false)?;
        far = cx.b.scalar(F::Minimum, &[far, other])?;
    }
    let margin = cx.b.constant(cx.b.dtype(x), a.float_or("margin", 1.0)?)?;
    let loss = cx.b.sub(near, far)?;
    let loss = cx.b.add(loss, margin)?;
    let loss = at_least_zero(cx, loss)?;
    reduced(cx, a, loss)
}

/// `e^x - y x` or, of no logarithm, `x - y log(x + eps)`; with Stirling's term where the target is above one. Each part is computed in
/// the dtype of what it is made of.
fn poisson(cx: &mut Cx, a: &Args) -> Built {
    let (x, y) = (a.tensor("input")?, a.tensor("target")?);
    let x = cx.widen_to_float(x)?;
    let eps = cx.b.constant(cx.b.dtype(x), a.float_or("eps", 1e-8)?)?;
    let (rate, log) = if a.bool_or("log_input", true)? {
        (cx.b.scalar(F::Exp, &[x])?, x)
    } else {
        let shifted = cx.b.add(x, eps)?;
        (x, cx.b.scalar(F::Log, &[shifted])?)
    };
    let product = in_common(cx, F::Mul, y, log)?;
    let mut loss = in_common(cx, F::Sub, rate, product)?;
    if a.bool_or("full", false)? {
        let y = cx.widen_to_float(y)?;
        let dtype = cx.b.dtype(y);
        let (one, zero) = (cx.b.constant(dtype, 1.0)?, cx.b.constant(dtype, 0.0)?);
        let (log, angle) = (cx.b.scalar(F::Log, &[y])?, cx.b.scale(y, 2.0 * std::f64::consts::PI)?);
        let power = cx.b.mul(y, log)?;
        let spread = cx.b.scalar(F::Log, &[angle])?;
        let spread = cx.b.scale(spread, 0.5)?;
        let term = cx.b.sub(power, y)?;
        let term = cx.b.add(term, spread)?;
        let large = cx.b.scalar(F::Gt, &[y, one])?;
        let term = cx.b.where_(large, term, zero)?;
        let sum = in_common(cx, F::Add, loss, term)?;
        loss = cx.b.cast(sum, cx.b.dtype(loss))?;
    }
    reduced(cx, a, loss)
}

/// The mean over the other classes of `max(0, margin - x[target] + x)^p`.
fn multi_margin(cx: &mut Cx, a: &Args) -> Built {
    let (x, target) = (a.tensor("self")?, a.tensor("target")?);
    cx.expect_rank(x, 1..=2)?;
    let (x, target) = if cx.b.shape(x).rank() == 1 { (cx.b.unsqueeze(x, 0)?, cx.b.reshape(target, [1i64])?) } else { (x, target) };
    let single = cx.b.shape(a.tensor("self")?).rank() == 1;
    cx.expect_rank(target, 1..=1)?;
    let at = cx.b.unsqueeze(target, 1)?;
    let own = cx.b.gather(x, at, 1)?;
    let margin = cx.b.constant(cx.b.dtype(x), a.float_or("margin", 1.0)?)?;
    let excess = cx.b.sub(x, own)?;
    let excess = cx.b.add(excess, margin)?;
    let excess = at_least_zero(cx, excess)?;
    let mut loss = if a.float_or("p", 1.0)? == 2.0 { cx.b.mul(excess, excess)? } else { excess };
    if let Some(weight) = a.tensor_opt("weight")? {
        let weight = cx.b.index_select(weight, 0, target)?;
        let weight = cx.b.unsqueeze(weight, 1)?;
        loss = cx.b.mul(loss, weight)?;
    }
    let shape = cx.shape(x);
    let (class, zero) = (cx.b.iota(DType::I64, shape, 1)?, cx.b.constant(cx.b.dtype(x), 0.0)?);
    let at = cx.b.cast(at, DType::I64)?;
    let is_own = cx.b.scalar(F::Eq, &[class, at])?;
    let loss = cx.b.where_(is_own, zero, loss)?;
    let mut loss = cx.b.mean(loss, &[1], false)?;
    if single {
        loss = cx.b.squeeze(loss, 0)?;
    }
    reduced(cx, a, loss)
}

/// For each pair of a label and a class that is no label, how far the class comes within one of the label. Labels of a row end
/// before the first negative one.
fn multilabel_margin(cx: &mut Cx, a: &Args) -> Built {
    let (x, target) = (a.tensor("self")?, a.tensor("target")?);
    cx.expect_rank(x, 0..=2)?;
    let (own, shape) = (cx.shape(x), cx.shape(x).0);
    let rows = Shape::new(vec![if own.rank() == 2 { shape[0].clone() } else { Dim::int(1) }, shape.last().cloned().unwrap_or(Dim::int(1))]);
    let (x, target) = (cx.b.reshape(x, rows.clone())?, cx.b.reshape(target, rows.clone())?);
    let (zero, one) = (cx.b.constant(cx.b.dtype(target), 0.0)?, cx.b.constant(cx.b.dtype(x), 1.0)?);
    let ends = cx.b.scalar(F::Lt, &[target, zero])?;
    let ends = cx.b.cast(ends, DType::I32)?;
    let ended = cx.b.cumsum(ends, 1)?;
    let ended = cx.b.cast(ended, DType::Bool)?;
    let label = cx.b.where_(ended, zero, target)?;
    let score = cx.b.gather(x, label, 1)?;
    let (label, ended, score) = (cx.b.unsqueeze(label, 2)?, cx.b.unsqueeze(ended, 2)?, cx.b.unsqueeze(score, 2)?);
    let class = cx.b.iota(cx.b.dtype(label), rows, 1)?;
    let class = cx.b.unsqueeze(class, 1)?;
    let same = cx.b.scalar(F::Eq, &[label, class])?;
    let begun = cx.b.scalar(F::LogicalNot, &[ended])?;
    let hit = cx.b.scalar(F::LogicalAnd, &[same, begun])?;
    let is_label = cx.b.reduce(ReduceKind::Any, hit, &[1], true)?;
    let x = cx.b.unsqueeze(x, 1)?;
    let excess = cx.b.sub(one, score)?;
    let excess = cx.b.add(excess, x)?;
    let excess = cx.b.scalar(F::Relu, &[excess])?;
    let passed = cx.b.scalar(F::LogicalOr, &[ended, is_label])?;
    let nothing = cx.b.constant(cx.b.dtype(x), 0.0)?;
    let excess = cx.b.where_(passed, nothing, excess)?;
    let sum = cx.b.reduce(ReduceKind::Sum, excess, &[1], false)?;
    let mut loss = cx.b.mean(sum, &[1], false)?;
    if own.rank() < 2 {
        loss = cx.b.squeeze(loss, 0)?;
    }
    reduced(cx, a, loss)
}

/// Classes, which are dimension 1 (or the only one), as the last dimension.
fn classes_last(cx: &mut Cx, x: Value) -> Result<Value, String> {
    cx.expect_rank(x, 1..=64)?;
    let rank = cx.b.shape(x).rank();
    if rank <= 2 {
        return Ok(x);
    }
    let order: Vec<usize> = (0..rank).filter(|&d| d != 1).chain([1]).collect();
    cx.b.permute(x, &order)
}

/// Which labels count, and the weight of each label's class, zero for those that do not.
fn label_weights(cx: &mut Cx, a: &Args, target: Value, dtype: DType) -> Result<(Value, Value), String> {
    let target = cx.b.cast(target, DType::I64)?;
    let (ignored, zero) = (cx.b.constant(DType::I64, a.int_or("ignore_index", -100)? as f64)?, cx.b.constant(DType::I64, 0.0)?);
    let counts = cx.b.scalar(F::Ne, &[target, ignored])?;
    let safe = cx.b.where_(counts, target, zero)?;
    let weight = match a.tensor_opt("weight")? {
        Some(weight) => cx.b.index_select(weight, 0, safe)?,
        None => {
            let shape = cx.shape(target);
            cx.b.full(dtype, 1.0, shape)?
        }
    };
    let none = cx.b.constant(dtype, 0.0)?;
    Ok((safe, cx.b.where_(counts, weight, none)?))
}

/// A loss for each label, reduced: the mean is over the weights.
fn weighted_mean(cx: &mut Cx, a: &Args, loss: Value, weight: Value) -> Result<Value, String> {
    let dims: Vec<usize> = (0..cx.b.shape(loss).rank()).collect();
    let over = |cx: &mut Cx, x: Value| if dims.is_empty() { Ok(x) } else { cx.b.reduce(ReduceKind::Sum, x, &dims, false) };
    match reduction(a)? {
        Reduction::None => Ok(loss),
        Reduction::Sum => over(cx, loss),
        Reduction::Mean => {
            let (sum, total) = (over(cx, loss)?, over(cx, weight)?);
            cx.b.div(sum, total)
        }
    }
}

/// `-x[target]` by class weights, of logarithms of probabilities with the classes last.
fn negative_likelihood(cx: &mut Cx, a: &Args, x: Value, target: Value) -> Result<Value, String> {
    let (safe, weight) = label_weights(cx, a, target, cx.b.dtype(x))?;
    let last = cx.b.shape(x).rank() - 1;
    cx.expect_rank(safe, last..=last)?;
    let at = cx.b.unsqueeze(safe, last)?;
    let own = cx.b.gather(x, at, last)?;
    let own = cx.b.squeeze(own, last)?;
    // Labels that do not count leave no trace, whatever their element is.
    let (none, zero) = (cx.b.constant(cx.b.dtype(x), 0.0)?, cx.b.constant(cx.b.dtype(weight), 0.0)?);
    let counts = cx.b.scalar(F::Ne, &[weight, zero])?;
    let product = cx.b.mul(weight, own)?;
    let product = cx.b.where_(counts, product, none)?;
    let loss = cx.b.neg(product)?;
    weighted_mean(cx, a, loss, weight)
}

/// Cross-entropy with class weights or label smoothing.
fn smoothed(cx: &mut Cx, a: &Args, x: Value, target: Value) -> Built {
    let smoothing = a.float_or("label_smoothing", 0.0)?;
    let last = cx.b.shape(x).rank() - 1;
    let log = cx.b.log_softmax(x, last)?;
    let likelihood = negative_likelihood(cx, a, log, target)?;
    if smoothing == 0.0 {
        return Ok(vec![likelihood]);
    }
    let classes = cx.b.shape(x)[last].as_int().ok_or("smoothing over a symbolic number of classes is not supported")?;
    let all = match a.tensor_opt("weight")? {
        Some(weight) => cx.b.mul(log, weight)?,
        None => log,
    };
    let sum = cx.b.reduce(ReduceKind::Sum, all, &[last], false)?;
    let minus = cx.b.neg(sum)?;
    let (_, weight) = label_weights(cx, a, target, cx.b.dtype(x))?;
    let target = cx.b.cast(target, DType::I64)?;
    let ignored = cx.b.constant(DType::I64, a.int_or("ignore_index", -100)? as f64)?;
    let counts = cx.b.scalar(F::Ne, &[target, ignored])?;
    let none = cx.b.constant(cx.b.dtype(x), 0.0)?;
    let smooth = cx.b.where_(counts, minus, none)?;
    let smooth = weighted_mean(cx, a, smooth, weight)?;
    let (likelihood, smooth) = (cx.b.scale(likelihood, 1.0 - smoothing)?, cx.b.scale(smooth, smoothing / classes as f64)?);
    Ok(vec![cx.b.add(likelihood, smooth)?])
}

/// Cross-entropy with probabilities as labels; the mean is over the rows.
fn of_probabilities(cx: &mut Cx, a: &Args, x: Value, target: Value) -> Built {
    // There is no index to ignore.
    a.disregard(&["ignore_index"]);
    let target = classes_last(cx, target)?;
    let last = cx.b.shape(x).rank() - 1;
    let smoothing = a.float_or("label_smoothing", 0.0)?;
    let mut target = target;
    if smoothing != 0.0 {
        let classes = cx.b.shape(x)[last].as_int().ok_or("smoothing over a symbolic number of classes is not supported")?;
        let share = cx.b.constant(cx.b.dtype(target), smoothing / classes as f64)?;
        target = cx.b.scale(target, 1.0 - smoothing)?;
        target = cx.b.add(target, share)?;
    }
    let log = cx.b.log_softmax(x, last)?;
    let mut product = cx.b.mul(log, target)?;
    if let Some(weight) = a.tensor_opt("weight")? {
        product = cx.b.mul(product, weight)?;
    }
    let sum = cx.b.reduce(ReduceKind::Sum, product, &[last], false)?;
    let loss = cx.b.neg(sum)?;
    reduced(cx, a, loss)
}

/// The reduction that PyTorch numbers 0 (none), 1 (mean) and 2 (sum).
fn reduction(a: &Args) -> Result<Reduction, String> {
    match a.int_or("reduction", 1)? {
        0 => Ok(Reduction::None),
        1 => Ok(Reduction::Mean),
        2 => Ok(Reduction::Sum),
        n => Err(format!("reduction {n} is not known")),
    }
}

/// Reduces a loss for each element.
pub fn reduced(cx: &mut Cx, a: &Args, x: Value) -> Built {
    let dims: Vec<usize> = (0..cx.b.shape(x).rank()).collect();
    Ok(vec![match reduction(a)? {
        _ if dims.is_empty() => x,
        Reduction::None => x,
        Reduction::Sum => cx.b.reduce(ReduceKind::Sum, x, &dims, false)?,
        Reduction::Mean => cx.b.mean(x, &dims, false)?,
    }])
}

fn cross_entropy(cx: &mut Cx, a: &Args) -> Built {
    let (x, target) = (a.tensor("self")?, a.tensor("target")?);
    let x = classes_last(cx, x)?;
    if cx.b.dtype(target).is_float() {
        return of_probabilities(cx, a, x, target);
    }
    if a.has("weight") || a.float_or("label_smoothing", 0.0)? != 0.0 {
        return smoothed(cx, a, x, target);
    }
    Ok(vec![cx.b.cross_entropy(x, target, Some(a.int_or("ignore_index", -100)?), reduction(a)?)?])
}

/// `(1 - y) x + l (log(1 + e^-|x|) + max(-x, 0))`, with `l = 1 + (pos_weight - 1) y`. Of two dtypes, the loss has that of the target,
/// and the logarithm its own: PyTorch computes both in place.
fn with_logits(cx: &mut Cx, a: &Args) -> Built {
    let (x, y) = (a.tensor("self")?, a.tensor("target")?);
    let (dtype, of_loss) = (cx.b.dtype(x), cx.b.dtype(y));
    if !of_loss.is_float() {
        return Err(format!("a target of {of_loss} is not supported"));
    }
    let (zero, one) = (cx.b.constant(dtype, 0.0)?, cx.b.constant(of_loss, 1.0)?);
    let rest = cx.b.sub(one, y)?;
    let linear = in_common(cx, F::Mul, rest, x)?;
    let linear = cx.b.cast(linear, of_loss)?;
    let positive = cx.b.scalar(F::Ge, &[x, zero])?;
    let minus = cx.b.neg(x)?;
    let low = cx.b.where_(positive, minus, x)?;
    let e = cx.b.scalar(F::Exp, &[low])?;
    let log = cx.b.scalar(F::Log1p, &[e])?;
    let high = cx.b.where_(positive, zero, minus)?;
    let mut soft = cx.b.add(log, high)?;
    if let Some(weight) = a.tensor_opt("pos_weight")? {
        let one = cx.b.constant(cx.b.dtype(weight), 1.0)?;
        let excess = cx.b.sub(weight, one)?;
        let factor = in_common(cx, F::Mul, excess, y)?;
        let one = cx.b.constant(cx.b.dtype(factor), 1.0)?;
        let factor = cx.b.add(factor, one)?;
        let weighted = in_common(cx, F::Mul, factor, soft)?;
        soft = cx.b.cast(weighted, dtype)?;
    }
    let loss = in_common(cx, F::Add, linear, soft)?;
    let mut loss = cx.b.cast(loss, of_loss)?;
    if let Some(weight) = a.tensor_opt("weight")? {
        let weighted = in_common(cx, F::Mul, loss, weight)?;
        loss = cx.b.cast(weighted, of_loss)?;
    }
    reduced(cx, a, loss)
}
