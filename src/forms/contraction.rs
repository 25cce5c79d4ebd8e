//! The parts of a nest that is a matrix product, and the coordinates of its elements over the kernel's axes.

use super::product::{Machine, Sizes};
use super::{Cost, Form, Lane, Operand, owns_words};
use crate::config::Target;
use crate::loop_ir::facts::{cone, is_constant_along, needed, product_axes, stepped};
use crate::loop_ir::{BodyBuilder, Element, IndexExpr, Instr, Nest, Rebase, Tag, Term, Triangle, Val, Write, unflatten};
use crate::scalar::ScalarFn;
use crate::types::{DType, DeviceCaps, Dim, MatmulPrecision};
use std::ops::Range;

/// Kernel axis of matrices.
pub const BATCH: u32 = 0;
/// Kernel axis of rows.
pub const M: u32 = 1;
/// Kernel axis of columns.
pub const N: u32 = 2;
/// Kernel axis of terms.
pub const K: u32 = 3;
/// First of the clamped axes of lanes behind an end that does not divide by four.
pub const CLAMPED: u32 = 4;
/// Kernel axis of where a step begins along the terms, apart from [`K`]: what does not vary in a loop over steps is computed in front of it.
pub const STEP: u32 = 8;

/// The parts of a matmul nest.
#[derive(Clone, Debug)]
pub struct Product<'a> {
    /// The nest.
    pub nest: &'a Nest,
    /// Left operand.
    pub a: Val,
    /// Right operand.
    pub b: Val,
    /// The reduction.
    pub dot: Val,
    /// What need not be computed.
    pub triangle: Triangle,
    /// Row axes of matrices, of their rows and of their columns.
    axes: [Range<usize>; 3],
    /// Rows.
    pub m: Dim,
    /// Columns.
    pub n: Dim,
    /// Terms.
    pub k: Dim,
    /// Checks that each operand's hook makes, and the epilogue.
    pub checks: [Vec<Val>; 3],
}

/// Tiles that can run a product, shortest time first. Empty where a nest is none, or so small that loops over its terms serve.
pub fn candidates(nest: &Nest, operands: &[Operand], target: &Target) -> Vec<(Form, Cost)> {
    let Some(p) = product(nest).filter(|p| p.fits(operands, &target.caps)) else { return vec![] };
    let machine = machine(nest, target);
    // The status word and the memory of shared tiles are bound, too.
    let machine = Machine { shares: machine.shares && operands.len() + 2 <= target.caps.max_storage_buffers as usize, ..machine };
    machine.by_time(&p.sizes()).into_iter().map(|(tile, units)| (Form::Product(tile), machine.price(units))).collect()
}

/// What multiplies the elements of a product.
pub fn machine<'a>(nest: &Nest, target: &'a Target) -> Machine<'a> {
    let Target { caps, model } = target;
    let Tag::Matmul { dot, precision, .. } = nest.tag else {
        return Machine { caps, model, bytes: 4, loads: [0.0; 2], precision: MatmulPrecision::Highest, halves: false, shares: false };
    };
    let bytes = caps.computes_in(nest.dtype(dot)).map_or(4, |kind| kind.size().max(4) as u32);
    let shares = caps.shares_storage && product(nest).is_some_and(|p| p.has_known_sizes() && p.limit().is_none() && p.triangle == Triangle::Whole);
    let halves = product(nest).is_some_and(|p| p.multiplies_halves());
    Machine { caps, model, bytes, loads: loads(nest), precision, halves, shares: shares && caps.computes_in(nest.dtype(dot)) == Some(DType::F32) }
}

/// Whether a value of f32 is one of f16, or zero outside of it.
pub(super) fn is_half(nest: &Nest, v: Val) -> bool {
    match &nest.stmt(v).instr {
        Instr::Cast(from) => nest.dtype(*from) == DType::F16,
        Instr::Const(n) => n.as_f64() == 0.0,
        Instr::Call(ScalarFn::Where, args) => args[1..].iter().all(|v| is_half(nest, *v)),
        _ => false,
    }
}

/// What loading an element that comes alone costs: its place, its bounds and a select. Layers of ResNet-18 on the reference H100 are so much
/// slower than the products that they are.
const ALONE: f64 = 14.0;

/// What loading an element of each operand costs beside vectors.
fn loads(nest: &Nest) -> [f64; 2] {
    let Some(p) = product(nest) else { return [0.0; 2] };
    let Some(limit) = p.limit() else { return p.loads() };
    product(&in_range(nest, &limit)).map_or([0.0; 2], |p| p.loads())
}

/// The parts of a nest that is a product in shape: no other reduction, and operands that do not vary along each other's axis.
pub fn product(nest: &Nest) -> Option<Product<'_>> {
    let Tag::Matmul { a, b, dot, triangle, .. } = nest.tag else { return None };
    let axes = product_axes(nest)?;
    let only = nest.body.iter().enumerate().all(|(i, s)| !matches!(s.instr, Instr::Reduce(..)) || i == dot.0 as usize);
    let Instr::Reduce(_, arg) = nest.stmt(dot).instr else { return None };
    let multiplies = match &nest.stmt(arg).instr {
        Instr::Call(ScalarFn::Mul, args) => args[..] == [a, b] || args[..] == [b, a],
        _ => false,
    };
    let level = nest.element_level();
    let rows_only = nest.writes.iter().all(|w| !nest.is_element_write(w, &level));
    let varies = |v: Val, axes: &Range<usize>| axes.clone().any(|axis| !is_constant_along(nest, v, axis as u32));
    if !only || !multiplies || !rows_only || varies(a, &axes[2]) || varies(b, &axes[1]) {
        return None;
    }
    let checks = checks(nest, &level, a, b)?;
    let [m, n] = [1, 2].map(|k| Dim::product(&nest.rows[axes[k].clone()]));
    Some(Product { nest, a, b, dot, triangle, axes, m, n, k: nest.col_count(), checks })
}

/// Whether a nest is a product of more than a few outputs and terms: smaller ones, and those of one row or column, are as fast in loops.
pub fn is_large(nest: &Nest) -> bool {
    let Some([_, m, n]) = product_axes(nest) else { return false };
    let [m, n] = [m, n].map(|axes| Dim::product(&nest.rows[axes]).hint());
    let k = nest.col_count().hint();
    m.min(n) > 4 && m.saturating_mul(n) >= 256 && k >= 4
}

/// The checks by the hook that makes them; `None` where one varies along the columns and belongs to no operand.
fn checks(nest: &Nest, level: &[bool], a: Val, b: Val) -> Option<[Vec<Val>; 3]> {
    let operands = [a, b].map(|v| needed(nest, [v]));
    let mut out = [vec![], vec![], vec![]];
    for v in nest.checks() {
        let at = operands.iter().position(|set| set[v.0 as usize]).unwrap_or(2);
        if at == 2 && level[v.0 as usize] {
            return None;
        }
        out[at].push(v);
    }
    Some(out)
}

/// Where terms of a product end before its columns do: `mask` says that a column counts, and is true exactly below
/// `total - start` where `start` varies along batch axes only. So the parts of a sum look that was divided unevenly.
#[derive(Clone, Debug)]
pub struct Limit {
    /// The condition that a column counts.
    pub mask: Val,
    /// The first of the terms, among all of the sum.
    pub start: IndexExpr,
    /// Terms of the whole sum.
    pub total: Dim,
}

impl Product<'_> {
    /// Number of matrices.
    pub fn batch_count(&self) -> Dim {
        Dim::product(&self.nest.rows[self.axes[0].clone()])
    }

    /// Numbers to reckon with.
    pub fn sizes(&self) -> Sizes {
        // What takes the longest decides.
        let size = |d: &Dim| d.most().max(1) as f64;
        let (batch, m, n, k) = (size(&self.batch_count()), size(&self.m), size(&self.n), size(&self.k));
        Sizes { batch, m, n, k, triangle: self.triangle, beside: self.beside() as f64 }
    }

    /// Numbers of each result that are read and written behind the product, but for one.
    fn beside(&self) -> usize {
        if self.triangle == Triangle::Whole {
            return 0;
        }
        let operands = needed(self.nest, [self.a, self.b]);
        let of_columns = |e: &IndexExpr| e.uses_axis(|a| self.axes[2].contains(&(a as usize)));
        let is_read = |v: &Val| matches!(&self.nest.stmt(*v).instr, Instr::Load { index, .. } if of_columns(index)) && !operands[v.0 as usize];
        (self.nest.values().filter(is_read).count() + self.nest.writes.len()).saturating_sub(1)
    }

    /// Whether both operands are of f16, and sums of f32.
    pub fn multiplies_halves(&self) -> bool {
        self.nest.dtype(self.dot) == DType::F32 && [self.a, self.b].into_iter().all(|v| is_half(self.nest, v))
    }

    fn has_known_sizes(&self) -> bool {
        [&self.batch_count(), &self.m, &self.n, &self.k].into_iter().all(|size| size.as_int().is_some())
    }

    fn loads(&self) -> [f64; 2] {
        [(self.a, M), (self.b, N)].map(|(v, row)| {
            let axis = if prefers(self, v, row) { K } else { row };
            let four = lanes(self, Along { axis, clamped: false, stepped: false });
            let four: Vec<&Lane> = four.iter().collect();
            let in_vectors = |v: &Val| match &self.nest.stmt(*v).instr {
                Instr::Load { index, mask, .. } => mask.is_none() && owns_words(self.nest, &four, 1, index, 4),
                _ => true,
            };
            if cone(self.nest, v).iter().all(in_vectors) { 0.0 } else { ALONE }
        })
    }

    /// The size of an operand's own axis.
    pub fn size(&self, row: u32) -> &Dim {
        if row == M { &self.m } else { &self.n }
    }

    /// Whether tiles serve: operands of one kind, more than a few outputs and terms, and packed results whose words no two
    /// invocations share.
    fn fits(&self, operands: &[Operand], caps: &DeviceCaps) -> bool {
        let [a, b, dot] = [self.a, self.b, self.dot].map(|v| caps.computes_in(self.nest.dtype(v)));
        let four = lanes(self, Along { axis: N, clamped: !divides(&self.n, 4), stepped: false });
        let four: Vec<&Lane> = four.iter().collect();
        let owned = |w: &Write| operands[w.buffer.0 as usize].per_word() == 1 || owns_words(self.nest, &four, 1, &w.index, 4);
        let numbers = a.is_some_and(|kind| kind != DType::Bool) && a == b && a == dot;
        numbers && is_large(self.nest) && self.nest.writes.iter().all(owned)
    }

    /// Where terms end before columns do: both factors are zero where the same condition does not hold.
    pub fn limit(&self) -> Option<Limit> {
        let ([_], Some(mask)) = (&self.nest.cols[..], self.zero_unless(self.a)) else { return None };
        if self.zero_unless(self.b) != Some(mask) {
            return None;
        }
        let Instr::Call(ScalarFn::Lt, args) = &self.nest.stmt(mask).instr else { return None };
        let Instr::Index(at) = &self.nest.stmt(args[0]).instr else { return None };
        let total = match &self.nest.stmt(args[1]).instr {
            Instr::Const(end) => Dim::int(end.as_i64()),
            Instr::Index(end) => end.as_constant()?.clone(),
            _ => return None,
        };
        let (col, batch) = (self.nest.rows.len() as u32, self.axes[0].end as u32);
        let start = at.substitute(&|a| if a.id == col { IndexExpr::zero() } else { IndexExpr::axis(a.id, &a.size) }, &IndexExpr::value);
        let counts = at.linear_coefficient(col).is_some_and(|k| k.is(1)) && start.bounds().is_some_and(|(lo, _)| lo.range().0 >= 0);
        let plain = start.values().is_empty() && !start.uses_axis(|a| a >= batch);
        (counts && plain).then_some(Limit { mask, start, total })
    }

    /// The condition without which a value is zero.
    fn zero_unless(&self, v: Val) -> Option<Val> {
        let Instr::Call(ScalarFn::Where, args) = &self.nest.stmt(v).instr else { return None };
        matches!(self.nest.stmt(args[2]).instr, Instr::Const(n) if n.as_f64() == 0.0).then_some(args[0])
    }
}

/// The nest where all of its columns count.
pub fn in_range(nest: &Nest, limit: &Limit) -> Nest {
    let (mut body, mut to) = (BodyBuilder::default(), Rebase::in_place());
    for v in nest.values() {
        let stmt = nest.stmt(v);
        match &stmt.instr {
            Instr::Call(ScalarFn::Where, args) if args[0] == limit.mask => to.set(v, to.value(args[1])),
            Instr::Call(ScalarFn::LogicalAnd, args) if args.contains(&limit.mask) => {
                let other = args.iter().find(|m| **m != limit.mask).unwrap_or(&limit.mask);
                to.set(v, to.value(*other));
            }
            Instr::Load { buffer, index, mask: Some(mask) } if *mask == limit.mask => {
                let from = Element { buffer: *buffer, index: to.index(index), dtype: stmt.dtype };
                to.set(v, body.load(from));
            }
            _ => drop(to.copy(&mut body, nest, v)),
        }
    }
    to.finish(body, nest)
}

/// Elements between neighbors that a sector of memory still holds together.
const NEAR: i64 = 4;

/// How many neighbors along an axis an index reads next to one another.
fn run(index: &IndexExpr, axis: u32, size: &Dim) -> i64 {
    let of = |(t, k): &(Term, Dim)| {
        let (step, size) = match t {
            Term::Axis(a) if a.id == axis => (k.as_int()?, size.hint()),
            Term::Mod(e, d) => (e.linear_coefficient(axis)?.as_int()?.checked_mul(k.as_int()?)?, size.hint().min(d.hint())),
            _ => return None,
        };
        (1..=NEAR).contains(&step).then(|| (size / step).max(1))
    };
    index.terms.iter().filter_map(of).max().unwrap_or(0)
}

/// The transposed product, where that is what runs along memory: whatever is stored, and read beside it, lies along its rows, as the
/// gradient of a transposed weight does.
pub fn transposed(nest: &Nest) -> Option<Nest> {
    let Tag::Matmul { a, b, dot, batch, triangle: Triangle::Whole, precision, .. } = nest.tag else { return None };
    let [_, m, n] = product_axes(nest)?;
    let along = |axes: &Range<usize>, w: &Write| {
        let axis = stepped(&nest.rows[axes.clone()], axes.start);
        axis.map_or(0, |axis| run(&w.index, axis, &nest.rows[axis as usize]))
    };
    if nest.writes.is_empty() || !nest.writes.iter().all(|w| along(&m, w) > along(&n, w)) {
        return None;
    }
    let order: Vec<usize> = (0..m.start).chain(n.clone()).chain(m).collect();
    let rows: Vec<Dim> = order.iter().map(|&i| nest.rows[i].clone()).collect();
    let mut axes = nest.all_axes();
    for (to, &from) in order.iter().enumerate() {
        axes[from] = IndexExpr::axis(to as u32, &rows[to]);
    }
    let tag = Tag::Matmul { a: b, b: a, dot, batch, m: n.len() as u32, triangle: Triangle::Whole, precision };
    Some(Rebase::new(axes).nest(&Nest { tag, ..nest.clone() }, &rows, &nest.cols))
}

/// Whether an operand's loads run along memory with the column axis rather than with its row axis: by the longer runs.
pub fn prefers(p: &Product, v: Val, row: u32) -> bool {
    let (nest, rows) = (p.nest, &p.axes[row as usize]);
    let by_row = stepped(&nest.rows[rows.clone()], rows.start);
    let by_col = stepped(&nest.cols, nest.rows.len());
    let sizes = nest.sizes();
    let runs = |axis: Option<u32>| {
        let longest = |s: &Val| match (&nest.stmt(*s).instr, axis) {
            (Instr::Load { index, .. }, Some(axis)) => Some(run(index, axis, &sizes[axis as usize])),
            _ => None,
        };
        cone(nest, v).iter().filter_map(longest).sum::<i64>()
    };
    runs(by_col) > runs(by_row)
}

/// What four lanes are coordinates of.
#[derive(Clone, Copy, Debug)]
pub struct Along {
    /// The kernel axis that they lie along.
    pub axis: u32,
    /// Whether lanes have a clamped axis each.
    pub clamped: bool,
    /// Whether terms are counted from [`STEP`].
    pub stepped: bool,
}

/// The coordinates of the nest's axes for four lanes along kernel axis `axis`, the other axes by themselves.
pub fn lanes(p: &Product, Along { axis, clamped, stepped }: Along) -> Vec<Lane> {
    let sizes = |id: u32| match id {
        M => p.m.clone(),
        N => p.n.clone(),
        _ => p.k.clone(),
    };
    let four = Dim::int(4);
    let lane = |l: u32| {
        let at = |id: u32| -> IndexExpr {
            let size = sizes(id);
            // Along the terms, quads or terms of a step and those in front of it.
            let from = |size: &Dim| {
                let own = IndexExpr::axis(id, size);
                if id == K && stepped { own.add(&IndexExpr::axis(STEP, size)) } else { own }
            };
            if id != axis {
                from(&size)
            } else if clamped {
                IndexExpr::axis(CLAMPED + l, &size)
            } else {
                from(&size.ceil_div(&four)).times(&four).plus(&Dim::int(l as i64))
            }
        };
        let rows = |id: u32| &p.nest.rows[p.axes[id as usize].clone()];
        let mut axes = unflatten(&IndexExpr::axis(BATCH, &p.batch_count()), rows(BATCH));
        axes.extend(unflatten(&at(M), rows(M)));
        axes.extend(unflatten(&at(N), rows(N)));
        axes.extend(unflatten(&at(K), &p.nest.cols));
        Lane::at(axes)
    };
    (0..4).map(lane).collect()
}

/// Whether a size comes out even.
pub fn divides(d: &Dim, by: u32) -> bool {
    d.try_div(&Dim::int(by as i64)).is_some()
}
