//! What each algorithm subtracts from a parameter, over primitives, so that it fuses with whatever computes the gradient.

use super::Built;
use super::slot::Slot;
use crate::config::OptimizerKind;
use crate::graph::Value;
use crate::ops::{Matmul, ReduceKind};
use crate::scalar::{Expr, ScalarFn as F};
use crate::types::{DType, Shape};

/// What goes off the parameter, the rate included. `decay` is for algorithms that decay within their update.
pub(super) fn delta(slot: &mut Slot<'_>, kind: &OptimizerKind, decay: f64) -> Built {
    use OptimizerKind as K;
    match *kind {
        K::Sgd { momentum, dampening, nesterov } => sgd(slot, momentum, dampening, nesterov),
        K::Adam { beta1, beta2, eps, amsgrad } => adam(slot, (beta1, beta2), eps, amsgrad),
        K::Adamax { beta1, beta2, eps } => adamax(slot, (beta1, beta2), eps),
        K::NAdam { beta1, beta2, eps, momentum_decay } => nadam(slot, (beta1, beta2), eps, momentum_decay),
        K::RAdam { beta1, beta2, eps } => radam(slot, (beta1, beta2), eps),
        K::RmsProp { alpha, eps, momentum, centered } => rms_prop(slot, alpha, eps, momentum, centered),
        K::Adagrad { lr_decay, initial, eps } => adagrad(slot, lr_decay, initial, eps),
        K::Adadelta { rho, eps } => adadelta(slot, rho, eps),
        K::Adafactor { beta2_decay, eps1, eps2, clip } => adafactor(slot, beta2_decay, (eps1, eps2), clip),
        K::Lion { beta1, beta2 } => lion(slot, beta1, beta2),
        K::Lamb { beta1, beta2, eps } => lamb(slot, (beta1, beta2), eps, decay),
        K::Muon { momentum, nesterov, coefficients, iterations, eps, match_adamw } => {
            let direction = muon(slot, momentum, nesterov, eps, coefficients, iterations)?;
            let rate = slot.b.scale(slot.lr, muon_rate(slot, match_adamw)?)?;
            slot.b.mul(rate, direction)
        }
    }
}

/// Whether the algorithm asks how many updates there were.
pub(super) fn counts_steps(kind: &OptimizerKind) -> bool {
    use OptimizerKind as K;
    match *kind {
        K::Sgd { momentum, dampening, .. } => momentum != 0.0 && dampening != 0.0,
        K::Adagrad { lr_decay, .. } => lr_decay != 0.0,
        K::RmsProp { .. } | K::Adadelta { .. } | K::Lion { .. } | K::Muon { .. } => false,
        K::Adam { .. } | K::Adamax { .. } | K::NAdam { .. } | K::RAdam { .. } | K::Adafactor { .. } | K::Lamb { .. } => true,
    }
}

fn sqrt(x: Expr) -> Expr {
    x.unary(F::Sqrt)
}

fn max(x: Expr, y: impl Into<Expr>) -> Expr {
    x.binary(F::Maximum, y)
}

fn sgd(slot: &mut Slot<'_>, momentum: f64, dampening: f64, nesterov: bool) -> Built {
    if momentum == 0.0 {
        return slot.b.mul(slot.lr, slot.g);
    }
    let velocity = if dampening == 0.0 {
        slot.moment("momentum_buffer", (momentum, 1.0), slot.g)?
    } else {
        let old = slot.old("momentum_buffer")?;
        let args = [slot.g, old, slot.step];
        let new = slot.expr(args, |[g, v, step]| g.clone().if_(step.binary(F::Le, 1.0), v * momentum + g * (1.0 - dampening)))?;
        slot.keep("momentum_buffer", old, new)?;
        new
    };
    let args = [slot.lr, slot.g, velocity];
    slot.expr(args, |[lr, g, v]| lr * if nesterov { g + v * momentum } else { v })
}

fn adam(slot: &mut Slot<'_>, (beta1, beta2): (f64, f64), eps: f64, amsgrad: bool) -> Built {
    let square = slot.square(slot.g)?;
    let m = slot.average("exp_avg", beta1, slot.g)?;
    let mut v = slot.average("exp_avg_sq", beta2, square)?;
    if amsgrad {
        v = largest(slot, "max_exp_avg_sq", v)?;
    }
    let (seen1, seen2) = (slot.bias_correction(beta1)?, slot.bias_correction(beta2)?);
    let args = [slot.lr, m, v, seen1, seen2];
    slot.expr(args, |[lr, m, v, seen1, seen2]| (lr / seen1) * (m / (sqrt(v) / sqrt(seen2) + eps)))
}

/// The largest value so far.
fn largest(slot: &mut Slot<'_>, kind: &str, x: Value) -> Built {
    let old = slot.old(kind)?;
    let new = slot.expr([old, x], |[old, x]| max(old, x))?;
    slot.keep(kind, old, new)?;
    Ok(new)
}

fn adamax(slot: &mut Slot<'_>, (beta1, beta2): (f64, f64), eps: f64) -> Built {
    let m = slot.average("exp_avg", beta1, slot.g)?;
    let old = slot.old("exp_inf")?;
    let norm = slot.expr([old, slot.g], |[u, g]| max(u * beta2, g.unary(F::Abs) + eps))?;
    slot.keep("exp_inf", old, norm)?;
    let seen = slot.bias_correction(beta1)?;
    slot.expr([slot.lr, m, norm, seen], |[lr, m, norm, seen]| (lr / seen) * (m / norm))
}

fn nadam(slot: &mut Slot<'_>, (beta1, beta2): (f64, f64), eps: f64, momentum_decay: f64) -> Built {
    let square = slot.square(slot.g)?;
    let m = slot.average("exp_avg", beta1, slot.g)?;
    let v = slot.average("exp_avg_sq", beta2, square)?;
    let at = |step: Expr| (1.0 - (step * (momentum_decay * 0.96f64.ln())).unary(F::Exp) * 0.5) * beta1;
    let mu = slot.expr([slot.step], |[step]| at(step))?;
    let mu_next = slot.expr([slot.step], |[step]| at(step + 1.0))?;
    // One minus the product of all momenta, since state starts at zero.
    let old = slot.old_of("mu_complement", Shape::scalar())?;
    let left = slot.expr([old, mu], |[left, mu]| left * mu.clone() + (1.0 - mu))?;
    slot.keep("mu_complement", old, left)?;
    let seen = slot.bias_correction(beta2)?;
    let denominator = slot.expr([v, seen], |[v, seen]| sqrt(v / seen) + eps)?;
    let by_gradient = slot.expr([slot.lr, mu, left], |[lr, mu, left]| lr * (1.0 - mu) / left)?;
    let by_moment = slot.expr([slot.lr, mu_next, left], |[lr, next, left]| lr * next.clone() / (left * next.clone() + (1.0 - next)))?;
    slot.expr([slot.g, m, by_gradient, by_moment, denominator], |[g, m, a, b, d]| (g / d.clone()) * a + (m / d) * b)
}

/// With `q = -ln beta2`, the length of the approximated average, `rho_inf - 2 t beta2^t / (1 - beta2^t)`, equals
/// `t + 2 (h(q/2) - h(t q/2)) / q` for `h(x) = x coth x - 1`: the two large numbers whose difference it is cancel before
/// anything is rounded.
fn radam(slot: &mut Slot<'_>, (beta1, beta2): (f64, f64), eps: f64) -> Built {
    let square = slot.square(slot.g)?;
    let m = slot.average("exp_avg", beta1, slot.g)?;
    let v = slot.average("exp_avg_sq", beta2, square)?;
    let (seen1, seen2) = (slot.bias_correction(beta1)?, slot.bias_correction(beta2)?);
    let (q, limit) = (-beta2.ln(), 2.0 / (1.0 - beta2) - 1.0);
    let start = libm::tanh(q / 2.0).recip() * q / 2.0 - 1.0;
    let half = slot.b.scale(slot.step, q / 2.0)?;
    let grown = slot.expr([half], |[x]| coth_excess(x))?;
    let rho = slot.expr([slot.step, grown], |[t, grown]| t + (start - grown) * (2.0 / q))?;
    let rectified = slot.expr([rho], |[rho]| {
        let inside = (rho.clone() - 4.0) * (rho.clone() - 2.0) * limit / (rho.clone() * ((limit - 4.0) * (limit - 2.0)));
        sqrt(max(inside, 0.0))
    })?;
    let args = [slot.lr, m, v, seen1, seen2, rectified, rho];
    slot.expr(args, |[lr, m, v, seen1, seen2, rectified, rho]| {
        let adaptive = sqrt(seen2) * rectified / (sqrt(v) + eps);
        lr * (m / seen1) * adaptive.if_(rho.binary(F::Gt, 5.0), 1.0)
    })
}

/// `x coth x - 1` for positive numbers; near zero by its series, where the difference would cancel.
fn coth_excess(x: Expr) -> Expr {
    let y = x.clone() * x.clone();
    let series = [2.0 / 93555.0, -1.0 / 4725.0, 2.0 / 945.0, -1.0 / 45.0, 1.0 / 3.0];
    let near = series.into_iter().fold(Expr::Const(0.0), |sum, c| sum * y.clone() + c) * y;
    let far = x.clone() * (1.0 + 2.0 / (x.clone() * 2.0).unary(F::Expm1)) - 1.0;
    near.if_(x.binary(F::Lt, 0.5), far)
}

fn rms_prop(slot: &mut Slot<'_>, alpha: f64, eps: f64, momentum: f64, centered: bool) -> Built {
    let square = slot.square(slot.g)?;
    let mut spread = slot.average("square_avg", alpha, square)?;
    if centered {
        let mean = slot.average("grad_avg", alpha, slot.g)?;
        spread = slot.expr([spread, mean], |[square, mean]| square - mean.clone() * mean)?;
    }
    let step = slot.expr([slot.g, spread], |[g, spread]| g / (sqrt(spread) + eps))?;
    let velocity = if momentum == 0.0 { step } else { slot.moment("momentum_buffer", (momentum, 1.0), step)? };
    slot.b.mul(slot.lr, velocity)
}

fn adagrad(slot: &mut Slot<'_>, lr_decay: f64, initial: f64, eps: f64) -> Built {
    let square = slot.square(slot.g)?;
    let sum = slot.moment("sum", (1.0, 1.0), square)?;
    let rate = if lr_decay == 0.0 { slot.lr } else { slot.expr([slot.lr, slot.step], |[lr, t]| lr / ((t - 1.0) * lr_decay + 1.0))? };
    slot.expr([rate, slot.g, sum], |[rate, g, sum]| {
        let sum = if initial == 0.0 { sum } else { sum + initial };
        rate * (g / (sqrt(sum) + eps))
    })
}

fn adadelta(slot: &mut Slot<'_>, rho: f64, eps: f64) -> Built {
    let square = slot.square(slot.g)?;
    let mean = slot.average("square_avg", rho, square)?;
    let moved = slot.old("acc_delta")?;
    let delta = slot.expr([slot.g, mean, moved], |[g, mean, moved]| sqrt(moved + eps) / sqrt(mean + eps) * g)?;
    let square = slot.square(delta)?;
    let new = slot.expr([moved, square], |[moved, square]| moved * rho + square * (1.0 - rho))?;
    slot.keep("acc_delta", moved, new)?;
    slot.b.mul(slot.lr, delta)
}

fn adafactor(slot: &mut Slot<'_>, beta2_decay: f64, (eps1, eps2): (Option<f64>, f64), clip: f64) -> Built {
    let eps1 = eps1.unwrap_or_else(|| resolution(slot.ty.dtype));
    let taken = slot.expr([slot.step], |[t]| (t.unary(F::Log) * beta2_decay).unary(F::Exp))?;
    let variance = if slot.ty.shape.rank() > 1 { factored(slot, taken, eps1)? } else { whole(slot, taken)? };
    let update = slot.expr([variance, slot.g], |[v, g]| max(v, eps1 * eps1).unary(F::Rsqrt) * g)?;
    let (size, length) = (slot.rms(slot.value)?, slot.rms(update)?);
    let args = [slot.lr, slot.step, size, length];
    let rate =
        slot.expr(args, |[lr, t, size, length]| max(size, eps2) * lr.binary(F::Minimum, t.unary(F::Rsqrt)) / max(length * (1.0 / clip), 1.0))?;
    slot.b.mul(rate, update)
}

/// The second moment as the product of its means over rows and columns.
fn factored(slot: &mut Slot<'_>, taken: Value, eps1: f64) -> Built {
    let rank = slot.ty.shape.rank();
    let square = slot.square(slot.g)?;
    let rows = mean_over(slot, "row_var", square, rank - 1, taken)?;
    let columns = mean_over(slot, "col_var", square, rank - 2, taken)?;
    let mean = mean(slot, rows, rank - 2)?;
    slot.expr([rows, columns, mean], |[r, c, mean]| r * c / max(mean, eps1))
}

/// The average of means along a dimension, which stays with size one.
fn mean_over(slot: &mut Slot<'_>, kind: &str, x: Value, dim: usize, taken: Value) -> Built {
    let mean = mean(slot, x, dim)?;
    let old = slot.old_of(kind, slot.b.shape(mean).clone())?;
    let new = slot.expr([old, mean, taken], |[old, mean, taken]| old.clone() + taken * (mean - old))?;
    slot.keep(kind, old, new)?;
    Ok(new)
}

fn mean(slot: &mut Slot<'_>, x: Value, dim: usize) -> Built {
    let count = slot.sizes()?[dim] as f64;
    let sum = slot.b.reduce(ReduceKind::Sum, x, &[dim], true)?;
    slot.b.scale(sum, 1.0 / count)
}

fn whole(slot: &mut Slot<'_>, taken: Value) -> Built {
    let square = slot.square(slot.g)?;
    let old = slot.old("variance")?;
    let new = slot.expr([old, square, taken], |[old, square, taken]| old.clone() + taken * (square - old))?;
    slot.keep("variance", old, new)?;
    Ok(new)
}

/// The distance from one to the next number.
fn resolution(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::EPSILON,
        DType::F16 => f64::from(half::f16::EPSILON),
        DType::BF16 => f64::from(half::bf16::EPSILON),
        _ => f64::from(f32::EPSILON),
    }
}

fn lion(slot: &mut Slot<'_>, beta1: f64, beta2: f64) -> Built {
    let old = slot.old("exp_avg")?;
    let new = slot.expr([old, slot.g], |[m, g]| m * beta2 + g * (1.0 - beta2))?;
    slot.keep("exp_avg", old, new)?;
    slot.expr([slot.lr, old, slot.g], |[lr, m, g]| lr * (m * beta1 + g * (1.0 - beta1)).unary(F::Sign))
}

fn lamb(slot: &mut Slot<'_>, (beta1, beta2): (f64, f64), eps: f64, decay: f64) -> Built {
    let square = slot.square(slot.g)?;
    let m = slot.average("exp_avg", beta1, slot.g)?;
    let v = slot.average("exp_avg_sq", beta2, square)?;
    let (seen1, seen2) = (slot.bias_correction(beta1)?, slot.bias_correction(beta2)?);
    let mut update = slot.expr([m, v, seen1, seen2], |[m, v, seen1, seen2]| (m / seen1) / (sqrt(v / seen2) + eps))?;
    if decay != 0.0 {
        update = slot.expr([update, slot.p], |[update, p]| update + p * decay)?;
    }
    let (size, length) = (slot.norm(slot.p)?, slot.norm(update)?);
    let trust = slot.expr([size, length], |[size, length]| {
        let both = size.clone().binary(F::Gt, 0.0).binary(F::LogicalAnd, length.clone().binary(F::Gt, 0.0));
        (size / length).if_(both, 1.0)
    })?;
    slot.expr([slot.lr, trust, update], |[lr, trust, update]| lr * trust * update)
}

/// The momentum, made orthogonal.
fn muon(slot: &mut Slot<'_>, momentum: f64, nesterov: bool, eps: f64, [a, b, c]: [f64; 3], iterations: u32) -> Built {
    let [rows, columns] = slot.sizes()?[..] else {
        return Err(format!("{} is {}: Muon trains matrices only; give other parameters a group of another optimizer", slot.state, slot.ty));
    };
    let velocity = slot.average("momentum_buffer", momentum, slot.g)?;
    let update = if nesterov { slot.expr([slot.g, velocity], |[g, v]| g * (1.0 - momentum) + v * momentum)? } else { velocity };
    let is_tall = rows > columns;
    let mut x = if is_tall { slot.b.transpose(update)? } else { update };
    let norm = slot.norm(x)?;
    x = slot.expr([x, norm], |[x, norm]| x / max(norm, eps))?;
    for _ in 0..iterations {
        let gram = slot.b.op(Matmul { transpose_a: false, transpose_b: true }, &[x, x])?;
        let square = slot.b.matmul(gram, gram)?;
        let gram = slot.expr([gram, square], |[gram, square]| gram * b + square * c)?;
        let product = slot.b.matmul(gram, x)?;
        x = slot.expr([x, product], |[x, product]| x * a + product)?;
    }
    if is_tall { slot.b.transpose(x) } else { Ok(x) }
}

fn muon_rate(slot: &Slot<'_>, match_adamw: bool) -> Built<f64> {
    let sizes = slot.sizes()?;
    let (rows, columns) = (sizes[0] as f64, sizes[1] as f64);
    Ok(if match_adamw { 0.2 * rows.max(columns).sqrt() } else { (rows / columns).max(1.0).sqrt() })
}
