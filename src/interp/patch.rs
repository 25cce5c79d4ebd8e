//! Operands of products that are loads within bounds, such as what the windows of a convolution see: copied run by run.
//!
//! Along the innermost axis every condition holds for an interval of places, so that a run is zeros, neighbors in memory, and zeros.
//! What a kernel computes for each element, four comparisons and an index, is computed once a run.

use super::exec::{Context, PARALLEL};
use super::raw::{Memory, Scalar};
use crate::loop_ir::{IndexExpr, Instr, Nest, Term, Val};
use crate::scalar::ScalarFn;
use crate::types::Dim;

/// `offset + sum of stride * axis` over the axes of a patch.
#[derive(Clone)]
struct Linear {
    offset: i64,
    strides: Vec<i64>,
}

/// `low <= at < high`.
struct Condition {
    at: Linear,
    low: i64,
    high: i64,
}

/// A load within bounds over some axes.
pub struct Patch {
    buffer: usize,
    load: Linear,
    conditions: Vec<Condition>,
    sizes: Vec<i64>,
}

impl Patch {
    /// What `v` is over these axes, outermost first, where it is a load within bounds that are linear in them.
    pub fn new(nest: &Nest, v: Val, axes: &[usize]) -> Option<Patch> {
        let Instr::Load { buffer, index, mask } = &nest.stmt(v).instr else { return None };
        let over = |e: &IndexExpr| {
            let (offset, strides) = linear(e, axis_count(nest))?;
            let elsewhere = strides.iter().enumerate().any(|(i, s)| *s != 0 && !axes.contains(&i));
            (!elsewhere).then(|| Linear { offset, strides: axes.iter().map(|&i| strides[i]).collect() })
        };
        let mut conditions = vec![];
        let mut open: Vec<Val> = mask.iter().copied().collect();
        while let Some(v) = open.pop() {
            let Instr::Call(f, args) = &nest.stmt(v).instr else { return None };
            let compared = || match &nest.stmt(args[0]).instr {
                Instr::Index(e) => Some((over(e)?, number(nest, args[1])?)),
                _ => None,
            };
            match f {
                ScalarFn::LogicalAnd => open.extend(args),
                ScalarFn::Ge => {
                    let (at, low) = compared()?;
                    conditions.push(Condition { at, low, high: i64::MAX });
                }
                ScalarFn::Lt => {
                    let (at, high) = compared()?;
                    conditions.push(Condition { at, low: i64::MIN, high });
                }
                _ => return None,
            }
        }
        let sizes = axes.iter().map(|&i| axis_size(nest, i)).collect();
        Some(Patch { buffer: buffer.0 as usize, load: over(index)?, conditions, sizes })
    }

    /// Writes all elements to neighbors in `to`.
    pub fn copy<T: Scalar>(&self, cx: &Context<'_>, to: &Memory<'_>) {
        let (inner, outer) = self.sizes.split_last().map_or((1, &[][..]), |(n, outer)| (*n, outer));
        let runs: i64 = outer.iter().product();
        if runs * inner == 0 {
            return;
        }
        let tasks = (runs * inner / (PARALLEL / 4)).clamp(1, runs);
        let task = |t: usize| {
            let run = |t: i64| t * runs / tasks;
            self.copy_runs::<T>(&cx.memories[self.buffer], to, run(t as i64)..run(t as i64 + 1), inner, outer);
        };
        if tasks == 1 { task(0) } else { crate::threads::for_each(tasks as usize, task) }
    }

    fn copy_runs<T: Scalar>(&self, from: &Memory<'_>, to: &Memory<'_>, runs: std::ops::Range<i64>, inner: i64, outer: &[i64]) {
        let of = |e: &Linear, at: &[i64]| e.offset + at.iter().zip(&e.strides).map(|(i, s)| i * s).sum::<i64>();
        let step = |e: &Linear| e.strides.get(outer.len()).copied().unwrap_or(0);
        let mut at = vec![0i64; outer.len()];
        let mut rest = runs.start;
        for (place, n) in at.iter_mut().zip(outer).rev() {
            (*place, rest) = (rest % n, rest / n);
        }
        for run in runs {
            let (mut first, mut end) = (0, inner);
            for c in &self.conditions {
                (first, end) = c.narrow(of(&c.at, &at), step(&c.at), first, end);
            }
            let (first, end, start) = (first.min(inner), end.max(first).min(inner), run * inner);
            to.fill(start, 1, first as usize, T::ZERO);
            to.copy::<T>(start + first, (end - first) as usize, from, of(&self.load, &at) + first * step(&self.load), step(&self.load));
            to.fill(start + end, 1, (inner - end) as usize, T::ZERO);
            for (place, n) in at.iter_mut().zip(outer).rev() {
                *place += 1;
                if *place < *n {
                    break;
                }
                *place = 0;
            }
        }
    }
}

impl Condition {
    /// The part of `first..end` where the condition holds, which is `base` at place zero and moves by `step`; `first` is not above the
    /// end where there is none.
    fn narrow(&self, base: i64, step: i64, first: i64, end: i64) -> (i64, i64) {
        let up = |n: i64, d: i64| n.div_euclid(d) + (n.rem_euclid(d) != 0) as i64;
        let (low, high) = (self.low.max(i64::MIN / 4) - base, self.high.min(i64::MAX / 4) - base);
        match step {
            0 if low <= 0 && 0 < high => (first, end),
            0 => (first, first),
            1 => (first.max(low), end.min(high)),
            s if s > 0 => (first.max(up(low, s)), end.min(up(high, s))),
            s => (first.max((-high).div_euclid(-s) + 1), end.min((-low).div_euclid(-s) + 1)),
        }
    }
}

/// Elements along an axis.
pub fn axis_size(nest: &Nest, i: usize) -> i64 {
    nest.rows.iter().chain(&nest.cols).chain(&nest.inner).nth(i).and_then(Dim::as_int).expect("sizes are bound")
}

/// Number of axes.
pub fn axis_count(nest: &Nest) -> usize {
    nest.rows.len() + nest.cols.len() + nest.inner.len()
}

/// Offset and the stride of every axis, when the index is linear in the axes.
pub fn linear(e: &IndexExpr, axes: usize) -> Option<(i64, Vec<i64>)> {
    let mut strides = vec![0; axes];
    for (term, k) in &e.terms {
        match term {
            Term::Axis(a) => strides[a.id as usize] += k.as_int()?,
            _ => return None,
        }
    }
    Some((e.offset.as_int()?, strides))
}

/// The integer that a value is.
fn number(nest: &Nest, v: Val) -> Option<i64> {
    match &nest.stmt(v).instr {
        Instr::Const(n) => Some(n.as_i64()),
        Instr::Index(e) => e.as_constant()?.as_int(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_hold_for_an_interval() {
        for (low, high) in [(0, i64::MAX), (i64::MIN, 5), (2, 7), (-3, 1), (9, 9)] {
            for (base, step) in [(0, 1), (-2, 1), (3, 2), (-5, 3), (6, -1), (11, -2), (4, 0), (-1, 0)] {
                let condition = Condition { at: Linear { offset: 0, strides: vec![] }, low, high };
                let (first, end) = condition.narrow(base, step, 0, 8);
                let held: Vec<i64> = (0..8).filter(|j| (low..high).contains(&(base + j * step))).collect();
                assert_eq!((first..end).collect::<Vec<_>>(), held, "{low}..{high} of {base} + {step} j");
            }
        }
    }
}
