//! The geometry that convolution and pooling share: which elements of the input an element of the output sees.

use crate::loop_ir::{BodyBuilder, IndexExpr, Val};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim};
use serde::{Deserialize, Serialize};

/// Kernels and dimensions beyond this are refused: arithmetic on them stays within 64 bits.
const MAX_SIZE: i64 = 1 << 40;

/// A window that slides over the last dimensions: output `o` sees input `o * stride - padding + k * dilation` at kernel position
/// `k`, where that exists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Window {
    /// Distance between neighboring windows, for each spatial dimension.
    pub stride: Vec<u32>,
    /// Elements that do not exist, before and after the input.
    pub padding: Vec<u32>,
    /// Distance between neighboring elements of a window.
    pub dilation: Vec<u32>,
}

/// An element's coordinate along one dimension, and the conditions under which it exists.
pub(super) type Place = (IndexExpr, Vec<Val>);

impl Window {
    /// Number of spatial dimensions.
    pub fn rank(&self) -> usize {
        self.stride.len()
    }

    /// What is wrong with the attributes.
    pub(super) fn check(&self) -> Result<(), String> {
        let rank = self.rank();
        if rank == 0 || self.padding.len() != rank || self.dilation.len() != rank {
            return Err("stride, padding and dilation are not of one length".into());
        }
        let fits = |list: &[u32], low: u32| list.iter().all(|&x| (low..1 << 20).contains(&x));
        if !fits(&self.stride, 1) || !fits(&self.dilation, 1) || !fits(&self.padding, 0) {
            return Err("stride and dilation are at least one, and all are below 2^20".into());
        }
        Ok(())
    }

    fn numbers(&self, i: usize) -> [i64; 3] {
        [self.stride[i] as i64, self.padding[i] as i64, self.dilation[i] as i64]
    }

    /// Windows of `kernel` elements over `n` elements of dimension `i`. With `ceil`, a last window may reach beyond the end, as
    /// long as it begins inside the input or the padding before it.
    pub(super) fn output(&self, i: usize, n: &Dim, kernel: i64, ceil: bool) -> Result<Dim, String> {
        let [s, p, d] = self.numbers(i);
        if !(0..=MAX_SIZE).contains(&kernel) || n.as_int().is_some_and(|n| !(0..=MAX_SIZE).contains(&n)) {
            return Err(format!("windows of {kernel} over {n} elements are not supported"));
        }
        let reach = Dim::int(2 * p - d * (kernel - 1) - 1);
        let span = n.clone() + &reach;
        if ceil && n.as_int().is_none() && Dim::int(0).known_le(&span) {
            // The last window begins inside the input or the padding before it.
            let begins = (n.clone() + Dim::int(p - 1)).floor_div(&Dim::int(s));
            return Ok(span.ceil_div(&Dim::int(s)).min_with(&begins) + Dim::int(1));
        }
        if ceil {
            let n = n.as_int().ok_or_else(|| self.too_large(i, n, kernel))?;
            let span = n + reach.as_int().unwrap_or_default();
            let windows = (span + s - 1).div_euclid(s) + 1;
            let windows = if (windows - 1) * s >= n + p { windows - 1 } else { windows };
            return if windows >= 0 { Ok(Dim::int(windows)) } else { Err(self.too_large(i, &Dim::int(n), kernel)) };
        }
        if !Dim::int(0).known_le(&span) {
            return Err(self.too_large(i, n, kernel));
        }
        Ok(span.floor_div(&Dim::int(s)) + Dim::int(1))
    }

    fn too_large(&self, i: usize, n: &Dim, kernel: i64) -> String {
        format!("a window of {kernel} elements {} apart is larger than {n} elements padded by {}", self.dilation[i], self.padding[i])
    }

    /// The input element along dimension `i` that output `o` sees at `k`, in evaluation.
    pub(super) fn input(&self, i: usize, o: usize, k: usize, n: usize) -> Option<usize> {
        let [s, p, d] = self.numbers(i);
        let at = o as i64 * s - p + k as i64 * d;
        (0..n as i64).contains(&at).then_some(at as usize)
    }

    /// The input element along dimension `i` that output `o` of `out` sees at `k` of `kernel`.
    pub(super) fn input_at(&self, b: &mut BodyBuilder, i: usize, (o, out): (&IndexExpr, &Dim), (k, kernel): (&IndexExpr, i64), n: &Dim) -> Place {
        let [s, p, d] = self.numbers(i);
        let at = o.times(&Dim::int(s)).add(&k.times(&Dim::int(d))).plus(&Dim::int(-p));
        let last = (out.clone() - &Dim::int(1)) * &Dim::int(s) + Dim::int(d * (kernel - 1) - p);
        let mut conditions = vec![];
        if p > 0 {
            conditions.push(compare(b, ScalarFn::Ge, &at, &Dim::int(0)));
        }
        if !(last + Dim::int(1)).known_le(n) {
            conditions.push(compare(b, ScalarFn::Lt, &at, n));
        }
        (if n.is(1) { IndexExpr::zero() } else { at }, conditions)
    }

    /// Windows along dimension `i`, of `kernel` elements each, that may see one input element: those whose kernel position falls on it.
    /// Where elements of a window lie apart, all positions are tried.
    pub(super) fn sight(&self, i: usize, kernel: i64) -> Dim {
        let [s, _, d] = self.numbers(i);
        Dim::int(if d == 1 { (kernel + s - 1) / s } else { kernel })
    }

    /// The output along dimension `i`, of `out`, that sees input `x` as number `t` of [`Window::sight`], and at which position.
    pub(super) fn seen_at(&self, b: &mut BodyBuilder, i: usize, x: &IndexExpr, (t, kernel): (&IndexExpr, i64), out: &Dim) -> (Place, IndexExpr) {
        let [s, p, d] = self.numbers(i);
        if d != 1 {
            return (self.output_at(b, i, x, (t, kernel), out), t.clone());
        }
        let (step, reach) = (Dim::int(s), x.plus(&Dim::int(p)));
        let at = reach.div(&step).add(&t.times(&Dim::int(-1)));
        let k = reach.modulo(&step).add(&t.times(&step));
        let mut conditions = within(b, &at, out);
        if !k.is_within(&Dim::int(kernel)) {
            conditions.push(compare(b, ScalarFn::Lt, &k, &Dim::int(kernel)));
        }
        ((if out.is(1) { IndexExpr::zero() } else { at }, conditions), k)
    }

    /// The output along dimension `i`, of `out`, that sees input `x` at `k` of `kernel`.
    fn output_at(&self, b: &mut BodyBuilder, i: usize, x: &IndexExpr, (k, kernel): (&IndexExpr, i64), out: &Dim) -> Place {
        let [s, p, d] = self.numbers(i);
        // Steps are added so that nothing below zero is divided.
        let steps = (d * (kernel - 1) - p).max(0).div_euclid(s) + 1;
        let shifted = x.add(&k.times(&Dim::int(-d))).plus(&Dim::int(p + steps * s));
        let at = shifted.div(&Dim::int(s)).plus(&Dim::int(-steps));
        let mut conditions = within(b, &at, out);
        if s > 1 {
            conditions.push(compare(b, ScalarFn::Eq, &shifted.modulo(&Dim::int(s)), &Dim::int(0)));
        }
        (if out.is(1) { IndexExpr::zero() } else { at }, conditions)
    }

    /// How the inputs of dimension `i` are told apart by what sees them.
    pub(super) fn phases(&self, i: usize, n: &Dim, kernel: i64) -> Phases {
        let [s, p, d] = self.numbers(i);
        match n.try_div(&Dim::int(s)).filter(|_| d == 1) {
            Some(each) => {
                // The outputs `ceil((p - kernel + 1) / s)` to `floor((p + s - 1) / s)` behind `j`.
                let (first, last) = ((p - kernel + s).div_euclid(s), (p + s - 1).div_euclid(s));
                Phases { count: Dim::int(s), each, taps: Dim::int(last - first + 1), sight: Sight::Around(last) }
            }
            None => Phases { count: Dim::int(1), each: n.clone(), taps: Dim::int(kernel), sight: Sight::Any },
        }
    }

    /// All inputs of dimension `i` as one phase, for whom the kernel position may vary with the input.
    pub(super) fn one_phase(&self, i: usize, n: &Dim, kernel: i64) -> Phases {
        Phases { count: Dim::int(1), each: n.clone(), taps: self.sight(i, kernel), sight: Sight::Near }
    }

    /// The output along dimension `i`, of `out`, that sees input `j` of phase `r` by tap `t`; and the kernel position at which it does.
    pub(super) fn tap(
        &self,
        b: &mut BodyBuilder,
        i: usize,
        phases: &Phases,
        [r, j, t]: [&IndexExpr; 3],
        (kernel, out): (i64, &Dim),
    ) -> (Place, Place) {
        let [s, p, _] = self.numbers(i);
        let last = match phases.sight {
            Sight::Around(last) => last,
            Sight::Any => return (self.output_at(b, i, j, (t, kernel), out), (t.clone(), vec![])),
            Sight::Near => {
                let (seen, k) = self.seen_at(b, i, j, (t, kernel), out);
                // Where the position lies beyond the kernel nothing is seen.
                return (seen, (if kernel == 1 { IndexExpr::zero() } else { k.modulo(&Dim::int(kernel)) }, vec![]));
            }
        };
        let at = j.add(&t.times(&Dim::int(-1))).plus(&Dim::int(last));
        let k = r.add(&t.times(&Dim::int(s))).plus(&Dim::int(p - s * last));
        let (seen, exists) = (within(b, &at, out), within(b, &k, &Dim::int(kernel)));
        ((if out.is(1) { IndexExpr::zero() } else { at }, seen), (if kernel == 1 { IndexExpr::zero() } else { k }, exists))
    }
}

/// The inputs along a dimension by their place in a step of the window: input `j * count + r` is number `j` of phase `r`. An output
/// that sees it lies a number of taps around `j`, the same for all phases, so that the gradient of a strided convolution is one of
/// `count` times the channels that visits hardly any zero.
pub(super) struct Phases {
    /// Number of phases; one where they are not told apart.
    pub count: Dim,
    /// Inputs of each.
    pub each: Dim,
    /// Outputs that may see an input.
    pub taps: Dim,
    sight: Sight,
}

/// What sees an input.
enum Sight {
    /// Outputs around `j`, the last so far behind it.
    Around(i64),
    /// Any position of the kernel may fall on it.
    Any,
    /// Those of [`Window::sight`].
    Near,
}

/// The conditions of `0 <= at < size` that are not known to hold.
fn within(b: &mut BodyBuilder, at: &IndexExpr, size: &Dim) -> Vec<Val> {
    let bounds = at.bounds();
    let mut conditions = vec![];
    if !bounds.as_ref().is_some_and(|(low, _)| Dim::int(0).known_le(low)) {
        conditions.push(compare(b, ScalarFn::Ge, at, &Dim::int(0)));
    }
    if !bounds.is_some_and(|(_, high)| (high + Dim::int(1)).known_le(size)) {
        conditions.push(compare(b, ScalarFn::Lt, at, size));
    }
    conditions
}

fn compare(b: &mut BodyBuilder, f: ScalarFn, at: &IndexExpr, with: &Dim) -> Val {
    let (at, with) = (b.index(at, DType::I32), b.index(&IndexExpr::constant(with.clone()), DType::I32));
    b.call(f, &[at, with])
}

/// Coordinates of several dimensions, and the one condition under which they all exist.
pub(super) fn all_of(b: &mut BodyBuilder, places: Vec<Place>) -> (Vec<IndexExpr>, Option<Val>) {
    let (mut at, mut mask) = (vec![], None);
    for (coordinate, conditions) in places {
        at.push(coordinate);
        // Those of a dimension first: they are shared by whatever varies in another.
        let own = conditions.into_iter().fold(None, |own, c| b.both(own, Some(c)));
        mask = b.both(mask, own);
    }
    (at, mask)
}

/// The same, with coordinates that are known to be inside: whoever is computed from the buffer instead of reading it sees its dimensions
/// apart.
pub(super) fn all_inside(b: &mut BodyBuilder, places: Vec<Place>, sizes: &[Dim]) -> (Vec<IndexExpr>, Option<Val>) {
    let (at, mask) = all_of(b, places);
    (at.iter().zip(sizes).map(|(at, n)| if n.is(0) { at.clone() } else { at.modulo(n) }).collect(), mask)
}

/// Sizes that must be constant.
pub(super) fn constants(sizes: &[Dim]) -> Result<Vec<i64>, String> {
    sizes.iter().map(|d| d.as_int().filter(|&k| k > 0).ok_or_else(|| format!("the kernel size {d} is not a positive constant"))).collect()
}
