//! Removes ops whose result is one of their operands.

use crate::graph::Value;
use crate::ops::{Op, ReduceKind};
use crate::rewrite::{Rewritten, Rule, Site, has_no_negative_zero};
use crate::scalar::ScalarFn;
use crate::types::DType;

/// Removes ops whose result is one of their operands, bit for bit.
///
/// ```text
/// %2 = full() {value=1.0, ...}
/// %3 = mul(%0, %2)         ->     %3 = neg(%0)
/// %4 = neg(%3)
/// ```
///
/// Adding zero to a float is removed only where the float is known not to be minus zero (`-0 + 0 = +0`); multiplying by
/// zero is not touched, since NaN and infinities survive it. One sweep per nesting of identities.
pub(in crate::passes) const RULES: &[Rule] = &[
    Rule { name: "view, pad, cast or concatenation that changes nothing -> x", apply: structure },
    Rule { name: "x + 0, x - 0 -> x", apply: add_zero },
    Rule { name: "x * 1, x / 1, pow(x, 1) -> x", apply: multiply_by_one },
    Rule { name: "f(f(x)) -> x for neg and not", apply: involution },
    Rule { name: "where with one outcome, maximum(x, x), minimum(x, x) -> x", apply: choice },
    Rule { name: "logical identities -> x", apply: logic },
];

fn keep(v: Value) -> Rewritten {
    Ok(Some(vec![v]))
}

fn structure(site: &mut Site<'_>) -> Rewritten {
    let [x] = site.operands[..] else { return Ok(None) };
    let same_type = site.b.ty(x) == site.ty();
    let is_identity = match site.op() {
        Op::Cast(_) | Op::Reshape(_) | Op::Expand(_) => true,
        Op::Permute(p) => p.order.iter().enumerate().all(|(i, &o)| i == o as usize),
        Op::Slice(s) => s.start.is(0) && s.step == 1,
        Op::Pad(p) => p.low.iter().chain(&p.high).all(|d| d.is(0)) && p.interior.iter().all(|&n| n == 0),
        Op::Concat(_) => true,
        Op::Flip(f) => f.dims.iter().all(|&d| site.ty().shape[d as usize].is(1)),
        Op::Reduce(r) => r.dims.is_empty() && keeps_one(site, x, r.kind),
        _ => false,
    };
    if same_type && is_identity { keep(x) } else { Ok(None) }
}

/// Whether a reduction of one element is that element. A sum starts from zero: minus zero becomes zero.
fn keeps_one(site: &Site<'_>, x: Value, kind: ReduceKind) -> bool {
    match kind {
        ReduceKind::Argmax | ReduceKind::Argmin => false,
        ReduceKind::Sum => has_no_negative_zero(site.b.graph(), x),
        _ => true,
    }
}

fn add_zero(site: &mut Site<'_>) -> Rewritten {
    if let Some([x, y]) = site.call(ScalarFn::Add) {
        for (x, k) in [(x, 1), (y, 0)] {
            let zero = site.uniform(k).filter(|z| *z == 0.0);
            if zero.is_some_and(|z| z.is_sign_negative() || has_no_negative_zero(site.b.graph(), x)) {
                return keep(x);
            }
        }
    }
    if let Some([x, _]) = site.call(ScalarFn::Sub) {
        let zero = site.uniform(1).filter(|z| *z == 0.0);
        if zero.is_some_and(|z| z.is_sign_positive() || has_no_negative_zero(site.b.graph(), x)) {
            return keep(x);
        }
    }
    Ok(None)
}

fn multiply_by_one(site: &mut Site<'_>) -> Rewritten {
    if let Some([x, y]) = site.call(ScalarFn::Mul) {
        for (x, k) in [(x, 1), (y, 0)] {
            if site.uniform(k) == Some(1.0) {
                return keep(x);
            }
        }
    }
    for f in [ScalarFn::Div, ScalarFn::Pow] {
        if let Some([x, _]) = site.call(f)
            && site.uniform(1) == Some(1.0)
        {
            return keep(x);
        }
    }
    Ok(None)
}

fn involution(site: &mut Site<'_>) -> Rewritten {
    for f in [ScalarFn::Neg, ScalarFn::LogicalNot, ScalarFn::BitwiseNot] {
        if let Some([x]) = site.call::<1>(f).and_then(|[x]| site.call_of::<1>(x, f)) {
            return keep(x);
        }
    }
    Ok(None)
}

fn choice(site: &mut Site<'_>) -> Rewritten {
    if let Some([_, x, y]) = site.call(ScalarFn::Where) {
        return match site.uniform(0) {
            _ if x == y => keep(x),
            Some(c) => keep(if c != 0.0 { x } else { y }),
            None => Ok(None),
        };
    }
    for f in [ScalarFn::Maximum, ScalarFn::Minimum] {
        if let Some([x, y]) = site.call(f)
            && x == y
        {
            return keep(x);
        }
    }
    Ok(None)
}

fn logic(site: &mut Site<'_>) -> Rewritten {
    if site.ty().dtype != DType::Bool {
        return Ok(None);
    }
    // The number that leaves the other operand as it is.
    let neutral = [
        (ScalarFn::LogicalAnd, 1.0),
        (ScalarFn::LogicalOr, 0.0),
        (ScalarFn::LogicalXor, 0.0),
        (ScalarFn::BitwiseAnd, 1.0),
        (ScalarFn::BitwiseOr, 0.0),
        (ScalarFn::BitwiseXor, 0.0),
    ];
    for (f, number) in neutral {
        if let Some([x, y]) = site.call(f) {
            for (x, k) in [(x, 1), (y, 0)] {
                if site.uniform(k) == Some(number) && site.b.dtype(x) == DType::Bool {
                    return keep(x);
                }
            }
        }
    }
    Ok(None)
}
