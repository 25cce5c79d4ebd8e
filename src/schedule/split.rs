//! Long reductions with few results become two stages, so that the device has enough independent work.
//!
//! Before: `rows[P] cols[R]`, one sum. After: `rows[S, P] cols[R / S]` into a scratch buffer, then `rows[P] cols[S]`. The same
//! transformation splits the k of a matrix product with few tiles. A chunk that does not divide R is guarded by a mask.

use super::scan_in_turns::scan_in_turns;
use super::sort_rows::sort_rows;
use super::sort_scatter::sort_scatter;
use super::split_scan::split_scan;
use crate::config::Target;
use crate::forms::contraction::machine;
use crate::forms::parts::{self, Along};
use crate::forms::product::Sizes;
use crate::fusion::{Kernel, Memo, Structure};
use crate::loop_ir::facts::{is_column_reduction, product_axes};
use crate::loop_ir::{
    BodyBuilder, Buffer, BufferId, Combiner, Element, IndexExpr, Instr, Nest, Number, Rebase, Tag, Triangle, Val, axes, flatten, unflatten,
};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, Shape, TensorType};
use std::collections::HashSet;
use std::rc::Rc;

/// Splits what is worth splitting; gives kernels in order, with the position of their nests in the input.
pub fn split_nests(nests: Vec<Nest>, buffers: &mut Vec<Buffer>, target: &Target, memo: &mut Memo) -> Vec<(usize, Kernel)> {
    let along_rows: HashSet<(Dim, Dim)> =
        nests.iter().filter(|n| reduction(n).is_some() && !is_column_reduction(n)).map(|n| (n.row_count(), n.col_count())).collect();
    let mixed = |nest: &Nest| along_rows.contains(&(nest.col_count(), nest.row_count()));
    let mut out = Vec::with_capacity(nests.len() + nests.len() / 4);
    // What becomes of nests of each structure, by its number: nests of equal layers are asked once.
    let (mut asked, mut fates): (Memo, Vec<Fate>) = (Memo::default(), vec![]);
    for (at, nest) in nests.into_iter().enumerate() {
        let kernel = asked.kernel(&nest);
        let number = kernel.structure.id as usize;
        if number == fates.len() {
            fates.push(Fate::of(&nest, mixed(&nest), target, memo));
        }
        let parts = match &fates[number] {
            Fate::Whole(structure) => {
                out.push((at, Kernel { structure: structure.clone(), ..kernel }));
                continue;
            }
            Fate::Staged(chunks, rows_inner) => split(&nest, chunks, *rows_inner, buffers).to_vec(),
            Fate::Ordered => ordered(&nest, buffers, target).expect("it was asked"),
        };
        out.extend(parts.iter().map(|part| (at, memo.kernel(part))));
    }
    out
}

/// What becomes of nests of one structure.
enum Fate {
    Whole(Rc<Structure>),
    /// Two stages, with rows innermost or not.
    Staged(Chunks, bool),
    /// The parts of a sort, a scan or a scattered sum.
    Ordered,
}

impl Fate {
    fn of(nest: &Nest, mixed: bool, target: &Target, memo: &mut Memo) -> Fate {
        if ordered(nest, &mut vec![], target).is_some() {
            return Fate::Ordered;
        }
        match stages(nest, mixed, target) {
            Some((chunks, rows_inner)) => Fate::Staged(chunks, rows_inner),
            None => Fate::Whole(memo.kernel(nest).structure),
        }
    }
}

/// The parts of a sort, a scan or a scattered sum, where it is worth them.
fn ordered(nest: &Nest, buffers: &mut Vec<Buffer>, target: &Target) -> Option<Vec<Nest>> {
    match sort_scatter(nest, buffers, &target.model) {
        Some(parts) => Some(parts.into_iter().flat_map(|n| sort_rows(&n, buffers, target).unwrap_or_else(|| vec![n])).collect()),
        None => sort_rows(nest, buffers, target)
            .or_else(|| split_scan(nest, buffers, &target.model))
            .or_else(|| scan_in_turns(nest, buffers, &target.caps)),
    }
}

/// The reduction statement, when the nest is one single-result reduction followed by casts at most, or the squared deviations
/// of Welford's.
pub fn reduction(nest: &Nest) -> Option<(usize, Combiner, Val)> {
    let mut found = None;
    for (i, stmt) in nest.body.iter().enumerate() {
        match &stmt.instr {
            Instr::Reduce(c, v) if (c.results() == 1 || *c == Combiner::Welford) && found.is_none() => found = Some((i, *c, *v)),
            Instr::Proj(_, 1) if i + 1 == nest.body.len() && matches!(found, Some((_, Combiner::Welford, _))) => {}
            Instr::Reduce(..) | Instr::Scan(..) | Instr::Sort { .. } | Instr::Bound { .. } => return None,
            Instr::Cast(_) => {}
            _ if found.is_some() => return None,
            _ => {}
        }
    }
    (nest.writes.len() == 1).then_some(found).flatten()
}

/// Number of stages and whether rows stay innermost (a column reduction, coalesced across rows). `mixed` tells that another
/// reduction takes the rows of the same matrix, whose kernel may take over this one's first stage: then there are as many stages
/// as there are workgroups to fill the device.
fn stages(nest: &Nest, mixed: bool, target: &Target) -> Option<(Chunks, bool)> {
    let (at, combiner, _) = reduction(nest)?;
    let (rows, cols) = (nest.row_count().hint(), nest.col_count().hint());
    let rows_first = is_column_reduction(nest);
    match nest.tag {
        Tag::Matmul { triangle: Triangle::Whole, .. } => Some((product_chunks(nest, target)?, false)),
        Tag::Matmul { .. } | Tag::ScatterSum { .. } | Tag::Segments { .. } | Tag::Attention { .. } | Tag::Control { .. } => None,
        Tag::Loop => {
            let along = Along { rows, cols, bytes: nest.body[at].dtype.size() as i64, rows_first };
            let is_fixed = nest.col_count().as_int().is_some();
            // Parts of unequal sizes would want weights.
            let even = combiner == Combiner::Welford;
            if even && !is_fixed {
                return None;
            }
            let count = parts::of_reduction(along, mixed && combiner == Combiner::Sum, even, &target.model)?;
            Some((Chunks::even(count, &nest.col_count()), rows_first))
        }
    }
}

/// Parts of the columns: so many, of so many columns each; the last may have fewer.
struct Chunks {
    count: i64,
    size: Dim,
}

impl Chunks {
    fn even(count: i64, columns: &Dim) -> Chunks {
        Chunks { count, size: columns.ceil_div(&Dim::int(count)) }
    }
}

fn product_chunks(nest: &Nest, target: &Target) -> Option<Chunks> {
    let size = |dims: &[Dim]| dims.iter().map(|d| d.hint() as f64).product();
    let [batch, m, n] = product_axes(nest)?.map(|axes| size(&nest.rows[axes]));
    let sizes = Sizes { batch, m, n, k: size(&nest.cols), ..Sizes::default() };
    let machine = machine(nest, target);
    let count = machine.parts(&sizes)?;
    if let Some(even) = even_chunks(nest, count, machine.step()) {
        return Some(even);
    }
    // Whole steps, so that only the last part ends within one.
    let step = Dim::int(machine.step());
    let size = nest.col_count().ceil_div(&(Dim::int(count) * &step)) * &step;
    // Parts that would start behind the end are left out, where that is known.
    let count = nest.col_count().as_int().map_or(count, |k| (k as u64).div_ceil(size.as_int().map_or(1, |s| s.max(1)) as u64) as i64);
    Some(Chunks { count, size })
}

/// About so many parts of whole steps, none of which ends early, best where each takes whole rows of an outermost axis of terms: then
/// what a part reads is addressed as before.
fn even_chunks(nest: &Nest, count: i64, step: i64) -> Option<Chunks> {
    let outer = nest.cols.first().filter(|_| nest.cols.len() > 1)?.as_int()?;
    let total = nest.col_count().as_int()?;
    let fits = |c: &i64| outer % c == 0 && (total / c) % step == 0;
    let near = count / 16;
    let count = (count - near..=count + near).filter(|c| *c > 1).filter(fits).min_by_key(|c| (c - count).abs())?;
    Some(Chunks::even(count, &nest.col_count()))
}

fn split(nest: &Nest, chunks: &Chunks, rows_inner: bool, buffers: &mut Vec<Buffer>) -> [Nest; 2] {
    let (at, combiner, value) = reduction(nest).expect("stages found one");
    let dtype = nest.body[at].dtype;
    let (stage, total, chunk) = (Dim::int(chunks.count), nest.col_count(), chunks.size.clone());
    let exact = chunk.clone() * &stage == total;
    let matmul = matches!(nest.tag, Tag::Matmul { .. });
    let stage_first = rows_inner || matmul;
    let mut rows = nest.rows.to_vec();
    rows.insert(if stage_first { 0 } else { rows.len() }, stage.clone());
    let stage_axis = IndexExpr::axis(if stage_first { 0 } else { nest.rows.len() as u32 }, &stage);
    let col_axis = IndexExpr::axis(rows.len() as u32, &chunk);
    let flat = stage_axis.times(&chunk).add(&col_axis);
    let mut map_axes: Vec<IndexExpr> = axes(&rows, 0);
    map_axes.remove(if stage_first { 0 } else { nest.rows.len() });
    map_axes.extend(unflatten(&flat, &nest.cols));

    let mut body = BodyBuilder::default();
    let inside = (!exact).then(|| {
        let position = body.index(&flat, DType::I32);
        let end = match total.as_int() {
            Some(total) => body.number(DType::I32, Number::Int(total)),
            None => body.index(&IndexExpr::constant(&total), DType::I32),
        };
        body.call(ScalarFn::Lt, &[position, end])
    });
    let mut to = Rebase::new(map_axes).under(inside);
    to.copy_all(&mut body, nest, nest.values().take(at));
    let mut guarded = |v: Val| body.value_or(inside, to.value(v), combiner.identity(dtype));
    // Outside, both factors of a product are zero, so that it stays one.
    let factors = match nest.tag {
        Tag::Matmul { a, b, .. } => Some([a, b].map(&mut guarded)),
        _ => None,
    };
    let operand = match factors {
        Some(factors) if !exact => body.call(ScalarFn::Mul, &factors),
        Some(_) => to.value(value),
        None => guarded(value),
    };
    let partial = body.reduce(combiner, operand);
    let mut scratch = || {
        buffers.push(Buffer { name: format!("{}.partial", nest.label), ty: TensorType { dtype, shape: Shape::new(rows.clone()) } });
        BufferId(buffers.len() as u32 - 1)
    };
    if let (Tag::Matmul { batch, m, triangle, precision, .. }, Some([a, b])) = (nest.tag, factors) {
        body.tag = Tag::Matmul { a, b, dot: partial, batch: batch + 1, m, triangle, precision };
    }
    let place = flatten(&axes(&rows, 0), &rows);
    let sums = scratch();
    body.write(sums, place.clone(), partial);
    let parts = Parts { stage, stage_first };
    let second = if combiner == Combiner::Welford {
        let (squares, deviations) = (scratch(), body.proj(partial, 1));
        body.write(squares, place, deviations);
        combine_deviations(nest, dtype, [sums, squares], &parts, &chunk)
    } else {
        combine(nest, at, combiner, sums, &parts)
    };
    [body.nest(nest.label.clone(), rows, vec![chunk], nest.provenance.clone()), second]
}

/// Where partial results lie: an axis of stages before or behind the rows.
struct Parts {
    stage: Dim,
    stage_first: bool,
}

impl Parts {
    /// A partial result of that buffer; stages are the columns.
    fn of(&self, nest: &Nest, buffer: BufferId, dtype: DType) -> Element {
        Element { buffer, index: self.index(nest), dtype }
    }

    fn index(&self, nest: &Nest) -> IndexExpr {
        let row_flat = flatten(&nest.row_axes(), &nest.rows);
        let stage_axis = IndexExpr::axis(nest.rows.len() as u32, &self.stage);
        if self.stage_first { stage_axis.times(&nest.row_count()).add(&row_flat) } else { row_flat.times(&self.stage).add(&stage_axis) }
    }
}

/// The second stage of squared deviations: those of each part, and those of the parts' means, each of which stands for `chunk`
/// elements (Chan, Golub and LeVeque, for parts of equal sizes).
fn combine_deviations(nest: &Nest, dtype: DType, [means, sums]: [BufferId; 2], parts: &Parts, chunk: &Dim) -> Nest {
    let mut b = BodyBuilder::default();
    let number = |n: &Dim| n.as_int().expect("only sums of a known length are split") as f64;
    let own = b.load(parts.of(nest, means, dtype));
    let total = b.reduce(Combiner::Sum, own);
    let count = b.constant(dtype, number(&parts.stage));
    let mean = b.call(ScalarFn::Div, &[total, count]);
    let distance = b.call(ScalarFn::Sub, &[own, mean]);
    let square = b.call(ScalarFn::Mul, &[distance, distance]);
    let weight = b.constant(dtype, number(chunk));
    let between = b.call(ScalarFn::Mul, &[square, weight]);
    let within = b.load(parts.of(nest, sums, dtype));
    let both = b.call(ScalarFn::Add, &[within, between]);
    let sum = b.reduce(Combiner::Sum, both);
    b.write(nest.writes[0].buffer, nest.writes[0].index.clone(), sum);
    second_stage(nest, &parts.stage, b)
}

fn second_stage(nest: &Nest, stage: &Dim, body: BodyBuilder) -> Nest {
    body.nest(format!("{}.combine", nest.label), nest.rows.clone(), vec![stage.clone()], nest.provenance.clone())
}

/// The second stage: combines the partial results and does what followed the reduction.
fn combine(nest: &Nest, at: usize, combiner: Combiner, scratch: BufferId, parts: &Parts) -> Nest {
    let mut b = BodyBuilder::default();
    let partial = b.load(parts.of(nest, scratch, nest.body[at].dtype));
    let mut to = Rebase::in_place();
    to.set(Val(at as u32), b.reduce(combiner, partial));
    for v in nest.values().skip(at + 1) {
        if matches!(nest.stmt(v).instr, Instr::Cast(x) if to.copied(x).is_some()) {
            to.copy(&mut b, nest, v);
        }
    }
    let write = &nest.writes[0];
    b.write(write.buffer, write.index.clone(), to.value(write.value));
    second_stage(nest, &parts.stage, b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::graph::{Builder, InputRole, OutputRole};
    use crate::loop_ir::Phase;
    use crate::lower::lower;
    use crate::ops::SquaredDeviations;
    use crate::schedule::fixtures::run_from;
    use crate::types::DeviceModel;

    /// Parts of columns and of rows, far from zero, against the sum as it was.
    #[test]
    fn parts_of_squared_deviations_make_the_whole() {
        for (shape, dims, stages) in [((12, 5), vec![0], 4), ((3, 20), vec![1], 5), ((8, 6), vec![0, 1], 6)] {
            let mut b = Builder::new("deviations");
            let x = b.input("x", InputRole::Input, TensorType::new(DType::F32, shape)).unwrap();
            let y = b.op(SquaredDeviations { dims }, &[x]).unwrap();
            b.output("y", OutputRole::User, y);
            let mut lowered = lower(&[(Phase::Forward, &b.finish())], &Config::default()).unwrap();
            let nest = lowered.nests[0].clone();
            let parts = split(&nest, &Chunks::even(stages, &nest.col_count()), is_column_reduction(&nest), &mut lowered.buffers);
            let result = |nests: &[Nest]| {
                let memory = run_from(nests, &lowered.buffers, |k| 1000.0 + (k * 7 % 11) as f64);
                memory[nest.writes[0].buffer.0 as usize].to_f64()
            };
            let (whole, parts) = (result(std::slice::from_ref(&nest)), result(&parts));
            for (a, b) in whole.iter().zip(&parts) {
                assert!((a - b).abs() <= 1e-5 * a.abs() && *a > 1.0, "{whole:?} {parts:?}");
            }
        }
    }

    #[test]
    fn deviations_of_many_columns_are_split_for_a_large_device() {
        let mut b = Builder::new("deviations");
        let x = b.input("x", InputRole::Input, TensorType::new(DType::F32, (4096, 64))).unwrap();
        let y = b.op(SquaredDeviations { dims: vec![0] }, &[x]).unwrap();
        b.output("y", OutputRole::User, y);
        let mut lowered = lower(&[(Phase::Forward, &b.finish())], &Config::default()).unwrap();
        let nests = std::mem::take(&mut lowered.nests);
        let target = Target { model: DeviceModel::large_gpu(), ..Target::webgpu_default() };
        assert_eq!(split_nests(nests, &mut lowered.buffers, &target, &mut Memo::default()).len(), 2);
    }
}
