//! Nests over some of their rows, sums over rows so far, and pieces put together.

use crate::loop_ir::{BodyBuilder, BufferId, Element, IndexExpr, Instr, Nest, Rebase, Val, axes, flatten};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, Provenance};

/// A nest over one of `count` equal parts of an axis. `place` gives the buffer that has this part of another, and the first element of
/// it.
pub fn part(nest: &Nest, axis: usize, (chunk, count): (i64, i64), place: &dyn Fn(BufferId) -> Option<(BufferId, Dim)>) -> Nest {
    let mut sizes = nest.sizes();
    let size = sizes[axis].try_div(&Dim::int(count)).expect("chunks divide the axis");
    sizes[axis] = size.clone();
    let mut coordinates = axes(&[&sizes[..], &nest.inner].concat(), 0);
    coordinates[axis] = coordinates[axis].plus(&(size * Dim::int(chunk)));
    let (rows, cols) = sizes.split_at(nest.rows.len());
    let mut out = Rebase::new(coordinates).nest(nest, rows, cols);
    let relocate = |buffer: &mut BufferId, index: &mut IndexExpr| {
        if let Some((piece, first)) = place(*buffer) {
            (*buffer, *index) = (piece, index.plus(&(Dim::int(0) - first)));
        }
    };
    for stmt in &mut out.body {
        if let Instr::Load { buffer, index, .. } = &mut stmt.instr {
            relocate(buffer, index);
        }
    }
    out.writes.iter_mut().for_each(|w| relocate(&mut w.buffer, &mut w.index));
    out
}

/// A sum, in statement `at`, with what an earlier nest summed added to it. It is stored as it is in `so_far`, else as the nest does;
/// sums on their way are of type `dtype`.
pub fn accumulated(nest: &Nest, at: usize, dtype: DType, before: Option<BufferId>, so_far: Option<BufferId>) -> Nest {
    let mut b = BodyBuilder::with_capacity(nest.body.len() + 2);
    let mut to = Rebase::in_place();
    to.copy_all(&mut b, nest, nest.values().take(at + 1));
    let (write, sum) = (&nest.writes[0], Val(at as u32));
    b.tag = to.tag(nest.tag);
    b.inner.clone_from(&nest.inner);
    let mut total = b.cast(to.value(sum), dtype);
    if let Some(buffer) = before {
        let earlier = b.load(Element { buffer, index: write.index.clone(), dtype });
        total = b.call(ScalarFn::Add, &[earlier, total]);
    }
    if let Some(buffer) = so_far {
        b.write(buffer, write.index.clone(), total);
        return b.replace(nest);
    }
    to.set(sum, b.cast(total, nest.dtype(sum)));
    to.copy_all(&mut b, nest, nest.values().skip(at + 1));
    b.writes.push(to.write(write));
    b.replace(nest)
}

/// A value put together of its pieces.
pub fn joined(pieces: &[BufferId], piece: &Dim, whole: BufferId, dtype: DType, provenance: Provenance) -> Nest {
    let rows = vec![Dim::int(pieces.len() as i64), piece.clone()];
    let at = axes(&rows, 0);
    let mut b = BodyBuilder::default();
    let chunk = b.index(&at[0], DType::I32);
    let mut value: Option<Val> = None;
    for (k, &buffer) in pieces.iter().enumerate() {
        let number = b.constant(DType::I32, k as f64);
        let here = b.call(ScalarFn::Eq, &[chunk, number]);
        let own = b.load_if(Element { buffer, index: at[1].clone(), dtype }, here);
        value = Some(value.map_or(own, |others| b.call(ScalarFn::Where, &[here, own, others])));
    }
    b.write(whole, flatten(&at, &rows), value.expect("two pieces at least"));
    b.nest("join", rows, vec![], provenance)
}
