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
#[derive(Clone, PartialEq)]
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
        let axes: Vec<usize> = axes.iter().copied().filter(|&i| axis_size(nest, i) != 1).collect();
        let over = |e: &IndexExpr| {
            let (offset, strides) = linear(e, axis_count(nest))?;
            let elsewhere = strides.iter().enumerate().any(|(i, s)| *s != 0 && !axes.contains(&i));
            (!elsewhere).then(|| Linear { offset, strides: axes.iter().map(|&i| strides[i]).collect() })
        };
        let mut conditions: Vec<Condition> = vec![];
        let mut add = |at: Linear, low: i64, high: i64| match conditions.iter_mut().find(|c| c.at == at) {
            Some(c) => (c.low, c.high) = (c.low.max(low), c.high.min(high)),
            None => conditions.push(Condition { at, low, high }),
        };
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
                    add(at, low, i64::MAX);
                }
                ScalarFn::Lt => {
                    let (at, high) = compared()?;
                    add(at, i64::MIN, high);
                }
                _ => return None,
            }
        }
        let sizes = axes.iter().map(|&i| axis_size(nest, i)).collect();
        let mut patch = Patch { buffer: buffer.0 as usize, load: over(index)?, conditions, sizes };
        patch.merge_axes();
        Some(patch)
    }

    /// Axes that load and conditions see as one become one.
    fn merge_axes(&mut self) {
        for i in (0..self.sizes.len().saturating_sub(1)).rev() {
            let size = self.sizes[i + 1];
            let continues = |e: &Linear| e.strides[i] == e.strides[i + 1] * size;
            if continues(&self.load) && self.conditions.iter().all(|c| continues(&c.at)) {
                let outer = self.sizes.remove(i);
                self.sizes[i] = outer * size;
                self.load.strides.remove(i);
                for c in &mut self.conditions {
                    c.at.strides.remove(i);
                }
            }
        }
    }

    /// What an element costs, in nanoseconds or so: its share of a run, and a load by itself where neighbors are none in memory.
    pub fn cost(&self) -> f64 {
        let (run, step) = (self.sizes.last().copied().unwrap_or(1).max(1), self.load.strides.last().copied().unwrap_or(1));
        10.0 / run as f64 + if step == 1 { 0.25 } else { 1.0 }
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
        let mut at = vec![0i64; outer.len()];
        let mut rest = runs.start;
        for (place, n) in at.iter_mut().zip(outer).rev() {
            (*place, rest) = (rest % n, rest / n);
        }
        let all: Vec<&Linear> = std::iter::once(&self.load).chain(self.conditions.iter().map(|c| &c.at)).collect();
        let steps: Vec<i64> = all.iter().map(|e| e.strides.get(outer.len()).copied().unwrap_or(0)).collect();
        let mut bases: Vec<i64> = all.iter().map(|e| e.offset + at.iter().zip(&e.strides).map(|(i, s)| i * s).sum::<i64>()).collect();
        for run in runs {
            let (mut first, mut end) = (0, inner);
            for (c, (base, step)) in self.conditions.iter().zip(bases[1..].iter().zip(&steps[1..])) {
                (first, end) = c.narrow(*base, *step, first, end);
            }
            let (first, end, start) = (first.min(inner), end.max(first).min(inner), run * inner);
            to.fill(start, 1, first as usize, T::ZERO);
            to.copy::<T>(start + first, (end - first) as usize, from, bases[0] + first * steps[0], steps[0]);
            to.fill(start + end, 1, (inner - end) as usize, T::ZERO);
            for i in (0..outer.len()).rev() {
                at[i] += 1;
                let moved = if at[i] < outer[i] { 1 } else { 1 - outer[i] };
                bases.iter_mut().zip(&all).for_each(|(base, e)| *base += moved * e.strides[i]);
                if moved == 1 {
                    break;
                }
                at[i] = 0;
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
    fn axes_that_all_see_as_one_are_merged() {
        let linear = |strides: [i64; 4]| Linear { offset: 0, strides: strides.to_vec() };
        let conditions = vec![Condition { at: linear([0, 1, 0, 0]), low: 0, high: 2 }];
        let mut patch = Patch { buffer: 0, load: linear([30, 12, 4, 1]), conditions, sizes: vec![5, 2, 3, 4] };
        patch.merge_axes();
        assert_eq!((patch.sizes, patch.load.strides, &patch.conditions[0].at.strides[..]), (vec![5, 2, 12], vec![30, 12, 1], &[0, 1, 0][..]));
    }

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
