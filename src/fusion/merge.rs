//! Merging two nests into one.
//!
//! A nest is embedded into the domain of the host (the nest whose axes stay): its axes become index expressions over the
//! host's axes. Loads of what the producer writes turn into the SSA value; everything else is copied under common
//! subexpression elimination. Element-level and row-level follow from the axes an expression uses.

use super::{Limits, WhyNot};
use crate::loop_ir::facts::{is_bijective, reads_along_columns, reads_at_its_place};
use crate::loop_ir::{
    BodyBuilder, BufferId, Combiner, IndexExpr, Instr, Nest, Number, Rebase, Stmt, Tag, Val, attention, axes, eliminate_dead, factor_domain, flatten,
    unflatten,
};
use crate::types::{DType, Dim, Provenance, Sizes};
use std::borrow::Cow;

/// One nest doing the work of `a` and then `b`. `keep` says which buffers written by `a` other kernels still read.
/// `b` may read what `a` writes; they may also just share reads.
pub fn fuse(a: &Nest, b: &Nest, keep: &dyn Fn(BufferId) -> bool, limits: &Limits) -> Result<Nest, WhyNot> {
    if a.control().or(b.control()).is_some() {
        return Err(WhyNot::Template("control flow has kernels of its own"));
    }
    if b.chunk_axes().is_some() {
        return Err(WhyNot::Chunks("the kernel that has them is complete"));
    }
    let kept = a.writes.iter().any(|w| keep(w.buffer));
    let mut fused = if a.is_pointwise() { fuse_pointwise(a, b, kept, limits)? } else { fuse_columns(a, b, limits)? };
    fused.writes.retain(|w| keep(w.buffer) || b.writes.iter().any(|v| v.buffer == w.buffer));
    eliminate_dead(&mut fused);
    if fused.attention_features().is_some() && attention(&fused).is_err() {
        return Err(WhyNot::Template("attention without its weighted sum is no attention"));
    }
    check_overwrites(&fused)?;
    let buffers = fused.buffers();
    if buffers.len() > limits.buffers {
        return Err(WhyNot::Buffers { need: buffers.len(), limit: limits.buffers });
    }
    if fused.body.len() > limits.statements {
        return Err(WhyNot::Statements(fused.body.len()));
    }
    Ok(fused)
}

/// Whether the second nest's domain stays, else the first's.
pub(super) fn consumer_hosts(a: &Nest, b: &Nest) -> bool {
    a.is_pointwise() && b.reads().iter().any(|r| a.writes.iter().any(|w| w.buffer == *r))
}

/// The name of a kernel of two, as long as it stays readable; `None` where it is the host's.
pub(super) fn merge_labels(host: &str, guest: &str) -> Option<String> {
    let known = host.len() + guest.len() >= 80 || host.split(' ').any(|l| l == guest);
    (!known).then(|| format!("{host} {guest}"))
}

/// A pointwise producer moves into the consumer's domain: each load of its result becomes an instance of its body.
fn fuse_pointwise(a: &Nest, b: &Nest, kept: bool, limits: &Limits) -> Result<Nest, WhyNot> {
    let written: Vec<BufferId> = a.writes.iter().map(|w| w.buffer).collect();
    let (level, inner) = (b.element_level(), b.inner_level());
    let mut embedding: Option<IndexExpr> = None;
    let mut related = false;
    let mut times = 1;
    for (i, stmt) in b.body.iter().enumerate() {
        let Instr::Load { buffer, index, .. } = &stmt.instr else { continue };
        if !written.contains(buffer) {
            continue;
        }
        related = true;
        if matches!(b.tag, Tag::Segments { .. }) && a.checks().next().is_some() {
            return Err(WhyNot::Template("a sum of segments does not visit every element to check it"));
        }
        if matches!(b.tag, Tag::Matmul { .. }) && level[i] && (kept || !a.is_trivial() || a.narrows()) {
            return Err(WhyNot::Template("operands of a matrix product are read from memory"));
        }
        let is_operand = inner[i] || b.attention_features().is_some_and(|f| index.uses_axis(|a| a as usize == f));
        if b.attention_features().is_some() && (kept || (is_operand && !a.is_trivial())) {
            return Err(WhyNot::Template("operands of attention are read from memory"));
        }
        let once = if level[i] || b.cols.is_empty() { b.sizes() } else { b.rows.to_vec() };
        // A consumer that reads a part of the buffer would store that part only.
        let points = Dim::product(&once);
        times = times.max(points.hint() / a.row_count().hint().max(1));
        let all = points == a.row_count();
        if all && is_bijective(index, &once, 0) {
            embedding = Some(index.clone());
        }
    }
    if !related {
        return fuse_siblings(a, b, limits);
    }
    if times >= OFTEN && cost(a) > DEAR {
        return Err(WhyNot::Recomputes(times));
    }
    if kept {
        let Some(e) = &embedding else { return Err(WhyNot::NotOnce) };
        let element = e.uses_axis(|id| id as usize >= b.rows.len());
        check_rows(b, element, limits)?;
        if b.is_ordered() {
            return Err(WhyNot::Ordered);
        }
        if b.body.iter().any(|s| matches!(&s.instr, Instr::Load { buffer, index, .. } if written.contains(buffer) && index != e)) {
            return Err(WhyNot::Index(written[0]));
        }
    }
    let mut merger = Merger::new(b, a);
    let to = merger.append(b, b.all_axes(), Some(a))?;
    if let Some(e) = embedding.filter(|_| kept) {
        let stored = instance(&mut merger.body, a, &e, None);
        merger.writes(a, &stored);
    }
    merger.writes(b, &to);
    merger.body.tag = to.tag(b.tag);
    Ok(merger.finish())
}

/// Values computed so many times over are worth storing,
const OFTEN: i64 = 8;
/// when they cost more instructions than this.
const DEAR: u32 = 100;

/// Instructions of an element, about; loads at computed places wait for one another.
fn cost(nest: &Nest) -> u32 {
    let of = |s: &Stmt| match &s.instr {
        Instr::Call(f, _) => f.row().cost,
        Instr::Load { index, .. } if !index.values().is_empty() => 8,
        _ => 0,
    };
    nest.body.iter().map(of).sum()
}

/// Two pointwise nests over equally many elements that read the same data.
fn fuse_siblings(a: &Nest, b: &Nest, _limits: &Limits) -> Result<Nest, WhyNot> {
    let shared = a.reads().iter().any(|r| b.reads().contains(r));
    if !shared || !b.is_pointwise() {
        return Err(WhyNot::Unrelated);
    }
    if a.row_count() != b.row_count() {
        return Err(WhyNot::Domain(format!("{} against {} elements", a.row_count(), b.row_count())));
    }
    let axes = unflatten(&flatten(&a.row_axes(), &a.rows), &b.rows);
    if shared_loads(a, b, &axes).next().is_none() {
        return Err(WhyNot::Unrelated);
    }
    let mut merger = Merger::new(a, b);
    let first = merger.append(a, a.all_axes(), None)?;
    let second = merger.append(b, axes, None)?;
    merger.writes(a, &first);
    merger.writes(b, &second);
    Ok(merger.finish())
}

/// Loads of `a` that `b` has too when its axes are those. What is read in another order is not shared.
fn shared_loads(a: &Nest, b: &Nest, axes: &[IndexExpr]) -> impl Iterator<Item = usize> {
    let load = |s: &Stmt| if let Instr::Load { buffer, index, .. } = &s.instr { Some((*buffer, index.moved(axes))) } else { None };
    let others: Vec<(BufferId, IndexExpr)> = b.body.iter().filter_map(load).collect();
    a.body.iter().enumerate().filter_map(move |(i, stmt)| match &stmt.instr {
        Instr::Load { buffer, index, .. } if others.iter().any(|(b, e)| b == buffer && e == index) => Some(i),
        _ => None,
    })
}

/// A nest with column work takes in a pointwise one that reads the same elements: of its whole domain, or one for each row.
fn fuse_reader(a: &Nest, b: &Nest, limits: &Limits) -> Result<Nest, WhyNot> {
    let (rows, numel) = (a.row_count(), b.row_count());
    let for_rows = numel == rows;
    if !for_rows && (a.tag != Tag::Loop || numel != rows * &a.col_count()) {
        return Err(WhyNot::Domain(format!("{} x {} against {numel} elements", a.row_count(), a.col_count())));
    }
    check_rows(a, !for_rows, limits)?;
    let (level, inner) = (a.element_level(), a.inner_level());
    let sizes = if for_rows { a.rows.to_vec() } else { a.sizes() };
    let reads = b.reads();
    for (i, stmt) in a.body.iter().enumerate() {
        let Instr::Load { buffer, index, .. } = &stmt.instr else { continue };
        if level[i] == for_rows || inner[i] || !reads.contains(buffer) || !is_bijective(index, &sizes, 0) {
            continue;
        }
        let axes = unflatten(index, &b.rows);
        if shared_loads(a, b, &axes).any(|shared| shared == i) {
            return try_embedding(a, b, axes);
        }
    }
    Err(WhyNot::Unrelated)
}

/// A nest with column work hosts its consumer.
fn fuse_columns(a: &Nest, b: &Nest, limits: &Limits) -> Result<Nest, WhyNot> {
    if a.is_ordered() || b.is_ordered() {
        return Err(WhyNot::Ordered);
    }
    let (rows, cols) = (a.row_count(), a.col_count());
    let template = a.tag != Tag::Loop;
    if b.tag != Tag::Loop || (template && b.has_column_work()) {
        return Err(WhyNot::Template("a template takes a pointwise epilogue only"));
    }
    let related = b.reads().iter().any(|r| a.writes.iter().any(|w| w.buffer == *r));
    if !related && b.is_pointwise() {
        return fuse_reader(a, b, limits);
    }
    let row_flat = flatten(&a.row_axes(), &a.rows);
    let col_flat = flatten(&a.col_axes(), &a.cols);
    let both = row_flat.times(&cols).add(&col_flat);
    if !b.cols.is_empty() {
        if b.row_count() != rows || b.col_count() != cols {
            if let Some(chunks) = folds_into(a, b, limits) {
                return fold_rows(a, b, &chunks?);
            }
            return Err(WhyNot::Domain(format!("{rows} x {cols} against {} x {}", b.row_count(), b.col_count())));
        }
        let mut axes = unflatten(&row_flat, &b.rows);
        axes.extend(unflatten(&col_flat, &b.cols));
        if let (Some(x), Some(y)) = (reads_along_columns(a, &a.sizes(), &a.all_axes()), reads_along_columns(b, &a.sizes(), &axes))
            && x != y
        {
            return Err(WhyNot::MemoryOrder);
        }
        return try_embedding(a, b, axes);
    }
    if !b.is_pointwise() {
        return Err(WhyNot::Template("only pointwise consumers are embedded"));
    }
    let numel = b.row_count();
    if numel == rows {
        let place = place_of(a, b).unwrap_or(&row_flat);
        return try_embedding(a, b, unflatten(place, &b.rows)).or_else(|why| {
            let b = factor_domain(b.clone());
            permuted_axes(a, &b, place).map_or(Err(why), |axes| try_embedding(a, &b, axes))
        });
    }
    if numel != rows.clone() * &cols || template {
        return Err(WhyNot::Domain(format!("{rows} x {cols} against {numel} elements")));
    }
    check_rows(a, true, limits)?;
    let mut candidates = vec![both];
    let level = a.element_level();
    for (i, stmt) in a.body.iter().enumerate() {
        if let Instr::Load { index, .. } = &stmt.instr
            && level[i]
            && is_bijective(index, &a.sizes(), 0)
            && !candidates.contains(index)
        {
            candidates.push(index.clone());
        }
    }
    let mut refusal = WhyNot::Unrelated;
    for e in &candidates {
        match try_embedding(a, b, unflatten(e, &b.rows)) {
            Ok(nest) => return Ok(nest),
            Err(why) => refusal = why,
        }
    }
    Err(refusal)
}

/// Whether `b` is the first stage of sums over the columns of `a`'s domain: the number of its chunks of rows. `None` where it is
/// something else.
fn folds_into(a: &Nest, b: &Nest, limits: &Limits) -> Option<Result<Dim, WhyNot>> {
    let (rows, cols) = (a.row_count().as_int()?, a.col_count().as_int()?);
    let (sums, length) = (b.row_count().as_int()?, b.col_count().as_int()?);
    let chunks = sums.checked_div(cols).filter(|n| n * cols == sums && n * length == rows)?;
    let level = b.element_level();
    let is_sum = |v: Val| matches!(b.stmt(v).instr, Instr::Reduce(Combiner::Sum, _)) && b.dtype(v) == DType::F32;
    // Nothing but writes uses the sums.
    let used = |stmt: &Stmt| stmt.instr.operands().iter().any(|v| matches!(b.stmt(*v).instr, Instr::Reduce(..)));
    let plain = b.tag == Tag::Loop && !b.body.iter().any(used) && b.writes.iter().all(|w| is_sum(w.value) && !b.is_element_write(w, &level));
    let identity = flatten(&b.row_axes(), &b.rows);
    if !plain || a.tag != Tag::Loop || b.writes.iter().any(|w| w.index != identity) {
        return None;
    }
    let told_apart = a.chunk_axes().is_some_and(|n| Dim::product(&a.rows[..n]) != Dim::int(chunks));
    let lazy = a.checks().next().is_some() || a.body.iter().any(|s| matches!(s.instr, Instr::Reduce(c, _) if c.results() > 1));
    Some(match () {
        _ if told_apart => Err(WhyNot::Chunks("of other sizes")),
        _ if lazy => Err(WhyNot::Chunks("beside reductions of pairs or checks")),
        _ if sums < 2 * limits.lanes => Err(WhyNot::Chunks("too few to fill the device")),
        _ if cols < 32 || cols > limits.held_columns => Err(WhyNot::Chunks("one workgroup does not hold a row of them")),
        _ => Ok(Dim::int(chunks)),
    })
}

/// A kernel along rows takes over sums along columns: the rows of a chunk one after the other, the sums of its columns at hand.
fn fold_rows(a: &Nest, b: &Nest, chunks: &Dim) -> Result<Nest, WhyNot> {
    let (length, cols) = (b.col_count(), a.col_count());
    let sizes: Vec<Dim> = [chunks.clone(), length.clone()].into_iter().chain(a.cols.iter().cloned()).collect();
    let all = axes(&sizes, 0);
    let (row, col) = (all[0].times(&length).add(&all[1]), flatten(&all[2..], &a.cols));
    let mut merger = Merger::new(a, b);
    merger.rows = sizes[..2].into();
    let mut own = unflatten(&row, &a.rows);
    own.extend_from_slice(&all[2..]);
    let first = merger.append(a, own, None)?;
    merger.writes(a, &first);
    let mut guest = unflatten(&all[0].times(&cols).add(&col), &b.rows);
    guest.extend(unflatten(&all[1], &b.cols));
    // Sums become what they sum.
    let mut terms = b.clone();
    for w in &mut terms.writes {
        if let Instr::Reduce(_, term) = b.stmt(w.value).instr {
            (w.value, w.fold) = (term, true);
        }
    }
    eliminate_dead(&mut terms);
    let second = merger.append(&terms, guest, None)?;
    merger.writes(&terms, &second);
    Ok(merger.finish())
}

/// Where each row of `a` writes what `b` reads, if every row has an element.
fn place_of<'n>(a: &'n Nest, b: &Nest) -> Option<&'n IndexExpr> {
    let reads = b.reads();
    a.writes.iter().find(|w| reads.contains(&w.buffer)).map(|w| &w.index).filter(|place| is_bijective(place, &a.rows, 0))
}

/// Where `b` reads what `a` writes through a permutation of its axes: those axes as expressions of `a`'s rows, each of which writes at
/// `place`.
fn permuted_axes(a: &Nest, b: &Nest, place: &IndexExpr) -> Option<Vec<IndexExpr>> {
    let index = b.body.iter().find_map(|s| match &s.instr {
        Instr::Load { buffer, index, .. } if a.writes.iter().any(|w| w.buffer == *buffer) => Some(index),
        _ => None,
    })?;
    if !b.cols.is_empty() || !is_bijective(index, &b.rows, 0) {
        return None;
    }
    // Axes from the outermost to the innermost stride of the read.
    let mut order: Vec<usize> = (0..b.rows.len()).collect();
    let coefficient = |i: usize| index.linear_coefficient(i as u32).expect("a permutation is linear");
    order.sort_by_key(|&i| (b.rows[i].is(1), std::cmp::Reverse(coefficient(i).hint())));
    let sizes: Vec<Dim> = order.iter().map(|&i| b.rows[i].clone()).collect();
    let mut axes = vec![IndexExpr::zero(); b.rows.len()];
    for (at, e) in order.into_iter().zip(unflatten(place, &sizes)) {
        axes[at] = e;
    }
    Some(axes)
}

fn try_embedding(a: &Nest, b: &Nest, axes: Vec<IndexExpr>) -> Result<Nest, WhyNot> {
    let mut merger = Merger::new(a, b);
    let first = merger.append(a, a.all_axes(), None)?;
    merger.writes(a, &first);
    let second = merger.append(b, axes, None)?;
    merger.writes(b, &second);
    merger.body.tag = first.tag(a.tag);
    Ok(merger.finish())
}

/// Element-level work in a kernel with few long rows would leave the device idle.
fn check_rows(nest: &Nest, element: bool, limits: &Limits) -> Result<(), WhyNot> {
    let rows = nest.row_count().hint();
    if element && nest.has_column_work() && rows < limits.rows && nest.col_count().hint() > 1024 {
        return Err(WhyNot::Rows(rows));
    }
    Ok(())
}

/// A buffer may be read and overwritten by one kernel only at the same index, by the invocation that owns it.
fn check_overwrites(nest: &Nest) -> Result<(), WhyNot> {
    let level = nest.element_level();
    let attention = nest.attention_features().is_some();
    let is_operand = |i: usize| attention || (nest.tag != Tag::Loop && level[i]);
    for w in &nest.writes {
        let mut loads = nest.body.iter().enumerate().filter(|(_, s)| matches!(s.instr, Instr::Load { buffer, .. } if buffer == w.buffer));
        if !reads_at_its_place(nest, w) || loads.any(|(i, _)| is_operand(i) || nest.is_ordered()) {
            return Err(WhyNot::Overwrite(w.buffer));
        }
    }
    Ok(())
}

/// A nest under construction in the host's domain.
struct Merger {
    label: Cow<'static, str>,
    rows: Sizes,
    cols: Sizes,
    provenance: Provenance,
    body: BodyBuilder,
    /// Values of buffers written so far: buffer, index, value; sums over rows have none yet.
    forwards: Vec<(BufferId, IndexExpr, Option<Val>)>,
}

impl Merger {
    fn new(host: &Nest, guest: &Nest) -> Merger {
        let label = merge_labels(&host.label, &guest.label).map_or_else(|| host.label.clone(), Cow::from);
        let mut provenance = host.provenance.clone();
        provenance.merge(&guest.provenance);
        let mut body = BodyBuilder::with_capacity(host.body.len() + guest.body.len());
        body.inner.clone_from(&host.inner);
        Merger { label, rows: host.rows.clone(), cols: host.cols.clone(), provenance, body, forwards: vec![] }
    }

    fn finish(self) -> Nest {
        self.body.nest(self.label, self.rows, self.cols, self.provenance)
    }

    /// Copies a body with its axes replaced. Loads of what `inline` writes become instances of its body; loads of forwarded
    /// buffers become their values.
    fn append(&mut self, nest: &Nest, axes: Vec<IndexExpr>, inline: Option<&Nest>) -> Result<Rebase, WhyNot> {
        let (mut to, forwards) = (Rebase::new(axes), &self.forwards);
        to.inline(&mut self.body, nest, nest.values(), |body, instr, dtype| {
            let Instr::Load { buffer, index, mask } = instr else { return Ok(None) };
            let written = inline.and_then(|producer| Some((producer, producer.writes.iter().find(|w| w.buffer == *buffer)?)));
            let value = match written {
                Some((producer, write)) => instance(body, producer, index, *mask).value(write.value),
                None if forwards.iter().any(|(b, ..)| b == buffer) => {
                    let hit = forwards.iter().find(|(b, e, _)| b == buffer && e == index).and_then(|f| f.2);
                    hit.ok_or(WhyNot::Index(*buffer))?
                }
                None => return Ok(None),
            };
            // A masked load gives zero where the mask does not hold.
            Ok(Some(body.value_or(*mask, value, Number::new(dtype, 0.0))))
        })?;
        Ok(to)
    }

    fn writes(&mut self, nest: &Nest, to: &Rebase) {
        for w in &nest.writes {
            let w = to.write(w);
            self.forwards.push((w.buffer, w.index.clone(), (!w.fold).then_some(w.value)));
            self.body.writes.push(w);
        }
    }
}

/// A pointwise body at one flat element; its loads and checks are guarded by `mask` as well.
fn instance(body: &mut BodyBuilder, nest: &Nest, flat: &IndexExpr, mask: Option<Val>) -> Rebase {
    let mut to = Rebase::new(unflatten(flat, &nest.rows)).under(mask);
    to.copy_all(body, nest, nest.values());
    to
}
