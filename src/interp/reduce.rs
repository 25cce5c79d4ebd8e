//! Reductions over the columns of a block, scans and sorts.
//!
//! Partial results of a chunk of columns are computed in the lane type, sixteen or more independent partial results at a time;
//! chunks are combined in f64 (i64 for integers). So a sum is blocked: no f32 addend meets more than a few dozen others.

use super::access::Block;
use super::lanes::{Lane, Reg, Src, Value};
use super::math;
use super::raw::vectorized;
use crate::loop_ir::{Combiner, Merge, Part};
use crate::scalar::ScalarFn;
use crate::types::DType;
use bytemuck::Pod;
use std::cmp::Ordering;

/// Independent partial results of a row.
const WIDE: usize = 16;
/// Elements of a row, and columns of a block, that are added in the lane type before the sum moves to f64.
const GROUP: usize = 16;

/// What a reduction or scan knows of each row so far.
#[derive(Default)]
pub struct Accumulator {
    float: Vec<f64>,
    second: Vec<f64>,
    int: Vec<i64>,
    place: Vec<i64>,
    /// Columns seen.
    count: i64,
}

impl Accumulator {
    /// The identity for `rows` rows.
    pub fn start(&mut self, combiner: Combiner, dtype: DType, rows: usize) {
        let identity = combiner.identity(dtype);
        let set = |v: &mut Vec<f64>, x: f64| {
            v.clear();
            v.resize(rows, x);
        };
        set(&mut self.float, identity.as_f64());
        set(&mut self.second, 0.0);
        for (v, x) in [(&mut self.int, identity.as_i64()), (&mut self.place, 0)] {
            v.clear();
            v.resize(rows, x);
        }
        self.count = 0;
    }

    /// Takes in the columns of a block; every lane of `x` is there.
    pub fn add(&mut self, combiner: Combiner, x: Value<'_>, block: &Block) {
        let n = block.rows * block.cols;
        if n == 0 {
            return;
        }
        match x {
            Value::F32(Src::All(x)) => self.add_reals(combiner, &x[..n], block),
            Value::F64(Src::All(x)) => self.add_reals(combiner, &x[..n], block),
            Value::I32(Src::All(x)) => self.add_ints(combiner, &x[..n], block),
            Value::I64(Src::All(x)) => self.add_ints(combiner, &x[..n], block),
            Value::Bool(Src::All(x)) => self.add_ints(combiner, &x[..n], block),
            _ => unreachable!("reduced values have a lane for each element"),
        }
        self.count += block.cols as i64;
    }

    fn add_reals<T: Real>(&mut self, combiner: Combiner, x: &[T], block: &Block) {
        let first = self.count == 0;
        let a = &mut self.float;
        match combiner.row().merge {
            Merge::Function(ScalarFn::Add) => fold(x, block, GROUP, T::of(0.0), T::add, |r, s| a[r] += s.real()),
            Merge::Function(ScalarFn::Mul) => fold(x, block, GROUP, T::of(1.0), T::mul, |r, s| a[r] *= s.real()),
            Merge::Function(ScalarFn::Maximum) => {
                fold(x, block, usize::MAX, T::of(f64::NEG_INFINITY), T::max, |r, s| a[r] = f64::max_nan(a[r], s.real()))
            }
            Merge::Function(ScalarFn::Minimum) => {
                fold(x, block, usize::MAX, T::of(f64::INFINITY), T::min, |r, s| a[r] = f64::min_nan(a[r], s.real()))
            }
            Merge::Function(f) => each(x, block, |r, _, x| a[r] = (f.row().eval_f64)(&[a[r], x.real()])),
            Merge::Winner { order, .. } => {
                let largest = order == Ordering::Greater;
                let place = &mut self.place;
                let better = |x: f64, best: f64| !best.is_nan() && (x.is_nan() || if largest { x > best } else { x < best });
                each(x, block, |r, c, x| {
                    let x = x.real();
                    if (first && c == 0) || better(x, a[r]) {
                        (a[r], place[r]) = (x, block.col + c as i64);
                    }
                });
            }
            Merge::State { .. } if combiner == Combiner::Welford => self.add_moments(x, block),
            Merge::State { .. } => self.add_exponentials(x, block),
        }
    }

    /// Chan, Golub and LeVeque's combination of the chunk's two-pass moments with those so far.
    fn add_moments<T: Real>(&mut self, x: &[T], block: &Block) {
        let (n, before) = (block.cols as f64, self.count as f64);
        let mut means = vec![0.0; block.rows];
        fold(x, block, GROUP, T::of(0.0), T::add, |r, s| means[r] += s.real());
        means.iter_mut().for_each(|m| *m /= n);
        let mut squares = vec![0.0; block.rows];
        fold_by(
            x,
            block,
            GROUP,
            T::of(0.0),
            T::add,
            |x, r| {
                let d = x.sub(T::of(means[r]));
                d.mul(d)
            },
            |r, s| squares[r] += s.real(),
        );
        for r in 0..block.rows {
            let delta = means[r] - self.float[r];
            if before == 0.0 {
                (self.float[r], self.second[r]) = (means[r], squares[r]);
            } else {
                self.float[r] += delta * n / (before + n);
                self.second[r] += squares[r] + delta * delta * before * n / (before + n);
            }
        }
    }

    /// A row of minus infinities so far has sum 0 here and NaN, as the definition says, at the end.
    fn add_exponentials<T: Real>(&mut self, x: &[T], block: &Block) {
        let mut largest = vec![f64::NEG_INFINITY; block.rows];
        fold(x, block, usize::MAX, T::of(f64::NEG_INFINITY), T::max, |r, m| largest[r] = f64::max_nan(largest[r], m.real()));
        let mut sums = vec![0.0; block.rows];
        fold_by(x, block, GROUP, T::of(0.0), T::add, |x, r| x.sub(T::of(largest[r])).exp(), |r, s| sums[r] += s.real());
        for r in 0..block.rows {
            let (m1, m2) = (self.float[r], largest[r]);
            let m = f64::max_nan(m1, m2);
            let scaled = |m1: f64, s: f64| if m1 == f64::NEG_INFINITY { 0.0 } else { s * (m1 - m).exp() };
            self.second[r] = scaled(m1, self.second[r]) + scaled(m2, sums[r]);
            self.float[r] = m;
        }
    }

    fn add_ints<T: Int>(&mut self, combiner: Combiner, x: &[T], block: &Block) {
        let first = self.count == 0;
        let a = &mut self.int;
        let put = |a: &mut Vec<i64>, f: fn(i64, i64) -> i64, r: usize, s: T| a[r] = f(a[r], s.into());
        match combiner.row().merge {
            Merge::Function(ScalarFn::Add) => fold(x, block, usize::MAX, T::ZERO, T::add, |r, s| put(a, i64::wrapping_add, r, s)),
            Merge::Function(ScalarFn::Mul) => fold(x, block, usize::MAX, T::ONE, T::mul, |r, s| put(a, i64::wrapping_mul, r, s)),
            Merge::Function(ScalarFn::Maximum | ScalarFn::LogicalOr) => fold(x, block, usize::MAX, T::LEAST, T::max, |r, s| put(a, i64::max, r, s)),
            Merge::Function(ScalarFn::Minimum | ScalarFn::LogicalAnd) => fold(x, block, usize::MAX, T::MOST, T::min, |r, s| put(a, i64::min, r, s)),
            Merge::Function(f) => each(x, block, |r, _, x| a[r] = int_step(f, a[r], x.into())),
            Merge::Winner { order, .. } => {
                let largest = order == Ordering::Greater;
                let place = &mut self.place;
                each(x, block, |r, c, x| {
                    let x: i64 = x.into();
                    if (first && c == 0) || if largest { x > a[r] } else { x < a[r] } {
                        (a[r], place[r]) = (x, block.col + c as i64);
                    }
                });
            }
            Merge::State { .. } => unreachable!("moments are of floats"),
        }
    }

    /// Puts result `k` of every row into `dst`.
    pub fn finish(&self, combiner: Combiner, k: usize, dtype: DType, dst: &mut Reg) {
        let n = self.float.len();
        let real = |r: usize| match (combiner, k) {
            (Combiner::Welford, 2) => self.count as f64,
            (Combiner::OnlineSoftmax, 1) if self.count > 0 && self.float[r] == f64::NEG_INFINITY => f64::NAN,
            (_, 0) => self.float[r],
            _ => self.second[r],
        };
        let is_place = k > 0 && combiner.row().parts[k - 1] == Part::Column;
        match Lane::of(dtype) {
            Lane::F32 => super::calls::fill(dst, n, |r| real(r) as f32),
            Lane::F64 => super::calls::fill(dst, n, real),
            Lane::I32 if is_place => super::calls::fill(dst, n, |r| self.place[r] as i32),
            Lane::I32 => super::calls::fill(dst, n, |r| self.int[r] as i32),
            Lane::I64 => super::calls::fill(dst, n, |r| dtype.wrap(self.int[r])),
            Lane::Bool => super::calls::fill(dst, n, |r| (self.int[r] != 0) as u8),
        }
    }

    /// Inclusive prefix combination of a block whose lanes are neighboring columns; carries on from the block before.
    pub fn scan(&mut self, combiner: Combiner, dtype: DType, x: Value<'_>, block: &Block, dst: &mut Reg) {
        let n = block.rows * block.cols;
        let f = combiner.function().unwrap_or_else(|| unreachable!("scans have one result"));
        match x {
            Value::F32(Src::All(x)) => prefix(x, dst.lanes_mut(n), block, &mut self.float, |a, x| real_step(f, a, x as f64), |a| a as f32),
            Value::F64(Src::All(x)) => prefix(x, dst.lanes_mut(n), block, &mut self.float, |a, x| real_step(f, a, x), |a| a),
            Value::I32(Src::All(x)) => prefix(x, dst.lanes_mut(n), block, &mut self.int, |a, x| int_step(f, a, x as i64), |a| a as i32),
            Value::I64(Src::All(x)) => prefix(x, dst.lanes_mut(n), block, &mut self.int, |a, x| dtype.wrap(int_step(f, a, x)), |a| a),
            Value::Bool(Src::All(x)) => prefix(x, dst.lanes_mut(n), block, &mut self.int, |a, x| (int_step(f, a, x as i64) != 0) as i64, |a| a as u8),
            _ => unreachable!("scanned values have a lane for each element"),
        }
    }
}

fn real_step(f: ScalarFn, a: f64, x: f64) -> f64 {
    match f {
        ScalarFn::Add => a + x,
        ScalarFn::Mul => a * x,
        ScalarFn::Maximum => f64::max_nan(a, x),
        ScalarFn::Minimum => f64::min_nan(a, x),
        f => (f.row().eval_f64)(&[a, x]),
    }
}

fn int_step(f: ScalarFn, a: i64, x: i64) -> i64 {
    match f {
        ScalarFn::Add => a.wrapping_add(x),
        ScalarFn::Mul => a.wrapping_mul(x),
        ScalarFn::Maximum => a.max(x),
        ScalarFn::Minimum => a.min(x),
        ScalarFn::LogicalOr => a | x,
        ScalarFn::LogicalAnd => a & x,
        f => f.eval_int(DType::I64, &[a, x]).unwrap_or_else(|| unreachable!("combiners take every dtype they are used with")),
    }
}

#[inline(always)]
fn prefix<T: Copy, A: Copy>(x: &[T], dst: &mut [T], block: &Block, carry: &mut [A], step: impl Fn(A, T) -> A, out: impl Fn(A) -> T) {
    for (r, carry) in carry[..block.rows].iter_mut().enumerate() {
        let mut a = *carry;
        let row = r * block.cols..(r + 1) * block.cols;
        for (o, &x) in dst[row.clone()].iter_mut().zip(&x[row]) {
            a = step(a, x);
            *o = out(a);
        }
        *carry = a;
    }
}

/// f32 and f64.
trait Real: Pod {
    fn of(x: f64) -> Self;
    fn real(self) -> f64;
    fn add(self, y: Self) -> Self;
    fn sub(self, y: Self) -> Self;
    fn mul(self, y: Self) -> Self;
    fn max(self, y: Self) -> Self;
    fn min(self, y: Self) -> Self;
    fn exp(self) -> Self;
}

macro_rules! real {
    ($ty:ty, $max:expr, $min:expr, $exp:expr) => {
        impl Real for $ty {
            #[inline(always)]
            fn of(x: f64) -> $ty {
                x as $ty
            }
            #[inline(always)]
            fn real(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn add(self, y: $ty) -> $ty {
                self + y
            }
            #[inline(always)]
            fn sub(self, y: $ty) -> $ty {
                self - y
            }
            #[inline(always)]
            fn mul(self, y: $ty) -> $ty {
                self * y
            }
            #[inline(always)]
            fn max(self, y: $ty) -> $ty {
                $max(self, y)
            }
            #[inline(always)]
            fn min(self, y: $ty) -> $ty {
                $min(self, y)
            }
            #[inline(always)]
            fn exp(self) -> $ty {
                $exp(self)
            }
        }
    };
}
real!(f32, math::maximum, math::minimum, math::exp);
real!(f64, f64::max_nan, f64::min_nan, f64::exp);

/// NaN wins.
trait NanWins {
    fn max_nan(self, y: Self) -> Self;
    fn min_nan(self, y: Self) -> Self;
}
impl NanWins for f64 {
    #[inline(always)]
    fn max_nan(self, y: f64) -> f64 {
        if self.is_nan() || self > y { self } else { y }
    }
    #[inline(always)]
    fn min_nan(self, y: f64) -> f64 {
        if self.is_nan() || self < y { self } else { y }
    }
}

/// i32, i64 and bool bytes.
trait Int: Pod + Ord + Into<i64> {
    const ZERO: Self;
    const ONE: Self;
    const LEAST: Self;
    const MOST: Self;
    fn add(self, y: Self) -> Self;
    fn mul(self, y: Self) -> Self;
}
macro_rules! int {
    ($($ty:ty),+) => {$(
        impl Int for $ty {
            const ZERO: $ty = 0;
            const ONE: $ty = 1;
            const LEAST: $ty = <$ty>::MIN;
            const MOST: $ty = <$ty>::MAX;
            #[inline(always)]
            fn add(self, y: $ty) -> $ty {
                self.wrapping_add(y)
            }
            #[inline(always)]
            fn mul(self, y: $ty) -> $ty {
                self.wrapping_mul(y)
            }
        }
    )+};
}
int!(i32, i64, u8);

/// Combines the columns of every row with `f`; gives partial results of `group` consecutive steps to `put(row, partial)`.
#[inline(always)]
fn fold<T: Pod>(x: &[T], block: &Block, group: usize, identity: T, f: impl Fn(T, T) -> T + Copy, put: impl FnMut(usize, T)) {
    fold_by(x, block, group, identity, f, |x, _| x, put);
}

/// The same over `by(element, row)`.
#[inline(always)]
fn fold_by<T: Pod>(
    x: &[T],
    block: &Block,
    group: usize,
    identity: T,
    f: impl Fn(T, T) -> T + Copy,
    by: impl Fn(T, usize) -> T + Copy,
    mut put: impl FnMut(usize, T),
) {
    if block.cols_inner {
        vectorized(|| {
            for (r, row) in x.chunks_exact(block.cols).enumerate() {
                for part in row.chunks(group.saturating_mul(WIDE)) {
                    put(r, fold_row(part, identity, f, |x| by(x, r)));
                }
            }
        });
    } else {
        vectorized(|| {
            for part in x.chunks(block.rows.saturating_mul(group)) {
                fold_columns(part, block.rows, identity, f, by, &mut put);
            }
        });
    }
}

#[inline(always)]
fn fold_row<T: Pod>(row: &[T], identity: T, f: impl Fn(T, T) -> T + Copy, by: impl Fn(T) -> T + Copy) -> T {
    let mut tail = identity;
    if row.len() < WIDE {
        for &x in row {
            tail = f(tail, by(x));
        }
        return tail;
    }
    let mut lanes = [identity; WIDE];
    let wide = row.chunks_exact(WIDE);
    for &x in wide.remainder() {
        tail = f(tail, by(x));
    }
    for chunk in wide {
        for i in 0..WIDE {
            lanes[i] = f(lanes[i], by(chunk[i]));
        }
    }
    let mut width = WIDE / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    f(lanes[0], tail)
}

#[inline(always)]
fn fold_columns<T: Pod>(
    x: &[T],
    rows: usize,
    identity: T,
    f: impl Fn(T, T) -> T + Copy,
    by: impl Fn(T, usize) -> T + Copy,
    put: &mut impl FnMut(usize, T),
) {
    const TILE: usize = 32;
    let mut r = 0;
    while r + TILE <= rows {
        let mut lanes = [identity; TILE];
        for column in x.chunks_exact(rows) {
            let column = &column[r..r + TILE];
            for i in 0..TILE {
                lanes[i] = f(lanes[i], by(column[i], r + i));
            }
        }
        for (i, &lane) in lanes.iter().enumerate() {
            put(r + i, lane);
        }
        r += TILE;
    }
    for r in r..rows {
        let mut lane = identity;
        for column in x.chunks_exact(rows) {
            lane = f(lane, by(column[r], r));
        }
        put(r, lane);
    }
}

/// Calls `visit(row, column, element)` for all elements, the columns of a row in order.
#[inline(always)]
fn each<T: Copy>(x: &[T], block: &Block, mut visit: impl FnMut(usize, usize, T)) {
    let (outer, inner) = if block.cols_inner { (block.rows, block.cols) } else { (block.cols, block.rows) };
    for o in 0..outer {
        for i in 0..inner {
            let (r, c) = if block.cols_inner { (o, i) } else { (i, o) };
            visit(r, c, x[o * inner + i]);
        }
    }
}

/// Stable sort of every row; `from` gets the column each value came from.
pub fn sort(x: Value<'_>, descending: bool, block: &Block, dst: &mut Reg, from: &mut Reg) {
    match x {
        Value::F32(Src::All(x)) => sort_rows(x, block, dst, from, |a, b| real_order(*a as f64, *b as f64, descending)),
        Value::F64(Src::All(x)) => sort_rows(x, block, dst, from, |a, b| real_order(*a, *b, descending)),
        Value::I32(Src::All(x)) => sort_rows(x, block, dst, from, |a, b| if descending { b.cmp(a) } else { a.cmp(b) }),
        Value::I64(Src::All(x)) => sort_rows(x, block, dst, from, |a, b| if descending { b.cmp(a) } else { a.cmp(b) }),
        Value::Bool(Src::All(x)) => sort_rows(x, block, dst, from, |a, b| if descending { b.cmp(a) } else { a.cmp(b) }),
        _ => unreachable!("sorted values have a lane for each element"),
    }
}

/// NaN is larger than everything.
fn real_order(a: f64, b: f64, descending: bool) -> std::cmp::Ordering {
    let order = a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()));
    if descending { order.reverse() } else { order }
}

fn sort_rows<T: Pod>(x: &[T], block: &Block, dst: &mut Reg, from: &mut Reg, order: impl Fn(&T, &T) -> std::cmp::Ordering) {
    let n = block.rows * block.cols;
    let (dst, from) = (dst.lanes_mut::<T>(n), from.lanes_mut::<i32>(n));
    let mut keyed: Vec<(T, i32)> = Vec::with_capacity(block.cols);
    for r in 0..block.rows {
        let start = r * block.cols;
        keyed.clear();
        keyed.extend(x[start..start + block.cols].iter().copied().zip(0..));
        keyed.sort_by(|a, b| order(&a.0, &b.0));
        for (c, (value, column)) in keyed.iter().enumerate() {
            (dst[start + c], from[start + c]) = (*value, *column);
        }
    }
}
