//! Batching of convolutions and their transposes.

use super::array::coordinates;
use super::batch::BatchContext;
use super::conv::Problem;
use super::{Built, Matmul, Op, Pad, ReduceKind};
use crate::graph::{Builder, Value};
use crate::types::{Dim, Shape};

/// What an op computes of a convolution's output, input and weight.
#[derive(Clone, Copy)]
pub(super) enum Part {
    /// The output, from input and weight.
    Output,
    /// The derivative by the input, from that by the output and the weight.
    Input,
    /// The derivative by the weight, from the input and the derivative by the output.
    Weight,
}

/// A dimension that takes the examples of a batch, and whether they go behind the groups there.
type Fold = (usize, bool);

/// Where the examples go.
struct Folds {
    /// Those of the first operand alone, and where they are in the result.
    first: [Fold; 2],
    /// Those of the second operand alone.
    second: [Fold; 2],
    /// Those of both, as further groups, and in the result.
    both: [usize; 3],
}

impl Part {
    fn folds(self) -> Folds {
        match self {
            Part::Output => Folds { first: [(0, false), (0, false)], second: [(0, true), (1, true)], both: [1, 0, 1] },
            Part::Input => Folds { first: [(0, false), (0, false)], second: [(1, false), (1, true)], both: [1, 0, 1] },
            Part::Weight => Folds { first: [(1, true), (1, false)], second: [(1, true), (0, true)], both: [1, 1, 0] },
        }
    }
}

/// A batch of convolutions as one, `op` of so many groups. Where the examples are along one operand they are further items or channels,
/// along both further groups; of groups whose number is not known nothing is made, but products of patches.
pub(super) fn batched(cx: &mut BatchContext<'_>, part: Part, p: &Problem, op: impl Fn(u32) -> Op) -> Built<Vec<Value>> {
    let (folds, groups) = (part.folds(), u32::try_from(p.groups).map_err(|_| "there are too many groups")?);
    let of = |is_grouped: bool| if is_grouped { groups } else { 1 };
    let known = cx.size.as_int().and_then(|n| u32::try_from(n).ok()?.checked_mul(groups));
    let (a, b, all, (at, is_grouped)) = match (cx.is_each(0), cx.is_each(1), known) {
        (true, false, _) => (cx.fold(0, folds.first[0].0, of(folds.first[0].1))?, cx.value(1), groups, folds.first[1]),
        (false, _, _) => (cx.value(0), cx.fold(1, folds.second[0].0, of(folds.second[0].1))?, groups, folds.second[1]),
        (true, true, Some(all)) => (cx.fold(0, folds.both[0], 1)?, cx.fold(1, folds.both[1], 1)?, all, (folds.both[2], false)),
        (true, true, None) => return of_patches(cx, part, p),
    };
    let y = cx.b.op(op(all), &[a, b])?;
    Ok(vec![cx.unfold(y, at, of(is_grouped))?])
}

/// The same by matrix products of what each position of the kernel sees.
fn of_patches(cx: &mut BatchContext<'_>, part: Part, p: &Problem) -> Built<Vec<Value>> {
    let (first, second, size) = (cx.value(0), cx.value(1), cx.size.clone());
    let dtype = cx.b.dtype(first);
    let b = &mut *cx.b;
    let accumulator = if dtype.is_float() { dtype.accumulator() } else { dtype };
    let (first, second) = (b.cast(first, accumulator)?, b.cast(second, accumulator)?);
    let lead = |rest: &[&[Dim]]| Shape::new([&[size.clone(), p.batch.clone()][..], &rest.concat()].concat());
    let (groups, rows, columns) = (Dim::int(p.groups), p.outer.clone(), p.inner.clone() * &Dim::product(&p.kernel_dims()));
    let places = Dim::product(&p.output);
    let product = |transpose_a, transpose_b| Matmul { transpose_a, transpose_b };
    let weight_of = |b: &mut Builder, w: Value| {
        let split = b.reshape(w, [size.clone(), Dim::int(1), groups.clone(), rows.clone(), columns.clone()])?;
        b.broadcast_to(split, &lead(&[&[groups.clone(), rows.clone(), columns.clone()]]))
    };
    let output_of = |b: &mut Builder, y: Value| b.reshape(y, lead(&[&[groups.clone(), rows.clone(), places.clone()]]));
    let patches_of = |b: &mut Builder, x: Value| {
        let seen = p.seen(b, x)?;
        b.reshape(seen, lead(&[&[groups.clone(), columns.clone(), places.clone()]]))
    };
    let result = match part {
        Part::Output => {
            let (patches, weight) = (patches_of(b, first)?, weight_of(b, second)?);
            let y = b.op(product(false, false), &[weight, patches])?;
            b.reshape(y, lead(&[&[p.full(&rows)], &p.output]))?
        }
        Part::Input => {
            let (g, weight) = (output_of(b, first)?, weight_of(b, second)?);
            let patches = b.op(product(true, false), &[weight, g])?;
            let positions = Dim::product(&p.kernel_dims());
            let split = b.reshape(patches, lead(&[&[p.full(&p.inner), positions], &p.output]))?;
            p.unseen(b, split)?
        }
        Part::Weight => {
            let (patches, g) = (patches_of(b, first)?, output_of(b, second)?);
            let of_items = b.op(product(false, true), &[g, patches])?;
            let sum = b.reduce(ReduceKind::Sum, of_items, &[1], false)?;
            b.reshape(sum, Shape::new([&[size.clone(), p.full(&rows), p.inner.clone()][..], &p.kernel_dims()].concat()))?
        }
    };
    Ok(vec![b.cast(result, dtype)?])
}

/// Spatial dimensions stand behind examples, items and channels.
const SPATIAL: usize = 3;

impl Problem {
    /// Positions of the kernel, in row-major order.
    fn positions(&self) -> Vec<Vec<usize>> {
        coordinates(&self.kernel.iter().map(|&k| k as usize).collect::<Vec<_>>()).collect()
    }

    /// Along spatial dimension `i`: where a position of the kernel begins in the padded input, how far its places reach, their distance.
    fn reach(&self, i: usize, k: usize) -> (Dim, Dim, i64) {
        let (step, begin) = (self.window.stride[i] as i64, Dim::int(k as i64 * self.window.dilation[i] as i64));
        (begin, (self.output[i].clone() - &Dim::int(1)) * &Dim::int(step) + Dim::int(1), step)
    }

    fn padding(&self) -> Vec<Dim> {
        std::iter::repeat_n(0, SPATIAL).chain(self.window.padding.iter().map(|&p| p as i64)).map(Dim::int).collect()
    }

    /// `[examples, n, channels, positions, places...]`: what each position of the kernel sees.
    fn seen(&self, b: &mut Builder, x: Value) -> Built {
        let padding = self.padding();
        let padded = b.pad(x, &padding, &padding, 0.0)?;
        let mut parts = vec![];
        for position in self.positions() {
            let mut part = padded;
            for (i, k) in position.into_iter().enumerate() {
                let (begin, length, step) = self.reach(i, k);
                part = b.slice(part, SPATIAL + i, begin.clone(), begin + &length, step)?;
            }
            parts.push(part);
        }
        b.stack(&parts, SPATIAL)
    }

    /// The transpose of [`Problem::seen`].
    fn unseen(&self, b: &mut Builder, patches: Value) -> Built {
        let padding = self.padding();
        let mut total = None;
        for (number, position) in self.positions().into_iter().enumerate() {
            let part = b.select(patches, SPATIAL, number as i64)?;
            let mut pad = Pad { low: vec![Dim::int(0); padding.len()].into(), high: vec![Dim::int(0); padding.len()].into(), ..Pad::default() };
            pad.interior = vec![0; padding.len()].into();
            for (i, k) in position.into_iter().enumerate() {
                let (begin, length, step) = self.reach(i, k);
                let padded = self.input[i].clone() + &(padding[SPATIAL + i].clone() * &Dim::int(2));
                pad.high[SPATIAL + i] = padded - &begin - &length;
                pad.low[SPATIAL + i] = begin;
                pad.interior[SPATIAL + i] = step as u32 - 1;
            }
            let part = b.op(pad, &[part])?;
            total = Some(match total {
                None => part,
                Some(sum) => b.add(sum, part)?,
            });
        }
        let mut total = total.ok_or("the kernel has no position")?;
        for (i, size) in self.input.iter().enumerate() {
            let begin = padding[SPATIAL + i].clone();
            total = b.slice(total, SPATIAL + i, begin.clone(), begin + size, 1)?;
        }
        Ok(total)
    }
}
