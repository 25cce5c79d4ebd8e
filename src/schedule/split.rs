//! Long reductions with few results become two stages, so that the device has enough independent work.
//!
//! Before: `rows[P] cols[R]`, one sum. After: `rows[S, P] cols[R / S]` into a scratch buffer, then `rows[P] cols[S]`. The same
//! transformation splits the k of a matrix product with few tiles. A chunk that does not divide R is guarded by a mask.

use super::sort_rows::sort_rows;
use super::sort_scatter::sort_scatter;
use super::split_scan::split_scan;
use crate::config::Target;
use crate::forms::parts::{self, Along, is_column_reduction};
use crate::forms::product::{self as form, Sizes};
use crate::fusion::hint;
use crate::loop_ir::{Buffer, BufferId, Combiner, IndexExpr, Instr, Nest, Number, Stmt, Tag, Val, Write, axes, flatten, unflatten};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, Shape, TensorType};
use std::collections::HashSet;

/// Splits what is worth splitting; gives the nests in order, with their position in the input.
pub fn split_nests(nests: Vec<Nest>, buffers: &mut Vec<Buffer>, target: &Target) -> Vec<(usize, Nest)> {
    let model = &target.model;
    let along_rows: HashSet<(Dim, Dim)> =
        nests.iter().filter(|n| reduction(n).is_some() && !is_column_reduction(n)).map(|n| (n.row_count(), n.col_count())).collect();
    let mixed = |nest: &Nest| along_rows.contains(&(nest.col_count(), nest.row_count()));
    let mut out = Vec::with_capacity(nests.len() + nests.len() / 4);
    for (at, nest) in nests.into_iter().enumerate() {
        let parts = match sort_scatter(&nest, buffers, model) {
            Some(parts) => parts.into_iter().flat_map(|n| sort_rows(&n, buffers, target).unwrap_or_else(|| vec![n])).collect(),
            None => match (sort_rows(&nest, buffers, target).or_else(|| split_scan(&nest, buffers, model)), stages(&nest, mixed(&nest), target)) {
                (Some(parts), _) => parts,
                (None, Some((chunks, rows_inner))) => split(&nest, &chunks, rows_inner, buffers).to_vec(),
                (None, None) => vec![nest],
            },
        };
        out.extend(parts.into_iter().map(|n| (at, n)));
    }
    out
}

/// The reduction statement, when the nest is one single-result reduction followed by casts at most, or the squared deviations
/// of Welford's.
fn reduction(nest: &Nest) -> Option<(usize, Combiner, Val)> {
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
    let (rows, cols) = (nest.row_count().as_int()?, nest.col_count().as_int()?);
    let rows_first = is_column_reduction(nest);
    match nest.tag {
        Tag::Matmul { batch, .. } => Some((product_chunks(nest, batch as usize, target)?, false)),
        Tag::ScatterSum { .. } | Tag::Segments { .. } => None,
        Tag::Loop => {
            let along = Along { rows, cols, bytes: nest.body[at].dtype.size() as i64, rows_first };
            // Parts of unequal sizes would want weights.
            let even = combiner == Combiner::Welford;
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

fn product_chunks(nest: &Nest, batch: usize, target: &Target) -> Option<Chunks> {
    let size = |dims: &[Dim]| dims.iter().map(|d| hint(d) as f64).product();
    let [m, n] = nest.rows.get(batch..)? else { return None };
    let sizes = Sizes { batch: size(&nest.rows[..batch]), m: hint(m) as f64, n: hint(n) as f64, k: size(&nest.cols) };
    let bytes = nest.writes.first().map(|w| nest.dtype(w.value).size() as u32)?;
    let (count, size) = form::parts(&sizes, bytes.max(4), &target.caps, &target.model)?;
    Some(Chunks { count, size: Dim::int(size) })
}

fn split(nest: &Nest, chunks: &Chunks, rows_inner: bool, buffers: &mut Vec<Buffer>) -> [Nest; 2] {
    let (at, combiner, value) = reduction(nest).expect("stages found one");
    let dtype = nest.body[at].dtype;
    let (stage, total, chunk) = (Dim::int(chunks.count), nest.col_count(), chunks.size.clone());
    let exact = chunk.clone() * &stage == total;
    let matmul = matches!(nest.tag, Tag::Matmul { .. });
    let stage_first = rows_inner || matmul;
    let mut rows = nest.rows.clone();
    rows.insert(if stage_first { 0 } else { rows.len() }, stage.clone());
    let stage_axis = IndexExpr::axis(if stage_first { 0 } else { nest.rows.len() as u32 }, &stage);
    let col_axis = IndexExpr::axis(rows.len() as u32, &chunk);
    let flat = stage_axis.times(&chunk).add(&col_axis);
    let mut map_axes: Vec<IndexExpr> = axes(&rows, 0);
    map_axes.remove(if stage_first { 0 } else { nest.rows.len() });
    map_axes.extend(unflatten(&flat, &nest.cols));

    let mut body: Vec<Stmt> = vec![];
    let mut push = |instr: Instr, dtype: DType| {
        body.push(Stmt { instr, dtype });
        Val(body.len() as u32 - 1)
    };
    let inside = (!exact).then(|| {
        let position = push(Instr::Index(flat.clone()), DType::I32);
        let end = push(Instr::Const(Number::Int(total.as_int().expect("only sums of a known length are split"))), DType::I32);
        push(Instr::Call(ScalarFn::Lt, vec![position, end]), DType::Bool)
    });
    let mut map: Vec<Val> = vec![];
    for stmt in &nest.body[..at] {
        let mut instr = stmt.instr.map(&|v| map[v.0 as usize], &|e| {
            e.substitute(&|a| map_axes[a.id as usize].clone(), &|v, size| IndexExpr::value(map[v as usize].0, size))
        });
        if let (Instr::Load { mask, .. }, Some(inside)) = (&mut instr, inside) {
            *mask = Some(match *mask {
                Some(own) => push(Instr::Call(ScalarFn::LogicalAnd, vec![own, inside]), DType::Bool),
                None => inside,
            });
        }
        map.push(push(instr, stmt.dtype));
    }
    let guarded = |v: Val, push: &mut dyn FnMut(Instr, DType) -> Val| match inside {
        Some(inside) => {
            let identity = push(Instr::Const(combiner.identity(dtype)), dtype);
            push(Instr::Call(ScalarFn::Where, vec![inside, v, identity]), dtype)
        }
        None => v,
    };
    // Outside, both factors of a product are zero, so that it stays one.
    let factors = match nest.tag {
        Tag::Matmul { a, b, .. } => Some([a, b].map(|v| guarded(map[v.0 as usize], &mut push))),
        _ => None,
    };
    let operand = match factors {
        Some([a, b]) if !exact => push(Instr::Call(ScalarFn::Mul, vec![a, b]), dtype),
        Some(_) => map[value.0 as usize],
        None => guarded(map[value.0 as usize], &mut push),
    };
    let partial = push(Instr::Reduce(combiner, operand), dtype);
    let mut scratch = || {
        buffers.push(Buffer { name: format!("{}.partial", nest.label), ty: TensorType { dtype, shape: Shape(rows.clone()) } });
        BufferId(buffers.len() as u32 - 1)
    };
    let tag = match (nest.tag, factors) {
        (Tag::Matmul { batch, .. }, Some([a, b])) => Tag::Matmul { a, b, dot: partial, batch: batch + 1 },
        _ => Tag::Loop,
    };
    let place = flatten(&axes(&rows, 0), &rows);
    let mut writes = vec![Write::new(scratch(), place.clone(), partial)];
    let parts = Parts { stage, stage_first };
    let second = if combiner == Combiner::Welford {
        body.push(Stmt { instr: Instr::Proj(partial, 1), dtype });
        writes.push(Write::new(scratch(), place, Val(body.len() as u32 - 1)));
        combine_deviations(nest, dtype, [writes[0].buffer, writes[1].buffer], &parts, &chunk)
    } else {
        combine(nest, at, combiner, writes[0].buffer, &parts)
    };
    let first = Nest { label: nest.label.clone(), rows: rows.clone(), cols: vec![chunk], body, writes, tag, provenance: nest.provenance.clone() };
    [first, second]
}

/// Where partial results lie: an axis of stages before or behind the rows.
struct Parts {
    stage: Dim,
    stage_first: bool,
}

impl Parts {
    /// The place of a partial result; stages are the columns.
    fn index(&self, nest: &Nest) -> IndexExpr {
        let row_flat = flatten(&nest.row_axes(), &nest.rows);
        let stage_axis = IndexExpr::axis(nest.rows.len() as u32, &self.stage);
        if self.stage_first { stage_axis.times(&nest.row_count()).add(&row_flat) } else { row_flat.times(&self.stage).add(&stage_axis) }
    }
}

/// The second stage of squared deviations: those of each part, and those of the parts' means, each of which stands for `chunk`
/// elements (Chan, Golub and LeVeque, for parts of equal sizes).
fn combine_deviations(nest: &Nest, dtype: DType, [means, sums]: [BufferId; 2], parts: &Parts, chunk: &Dim) -> Nest {
    let mut body: Vec<Stmt> = vec![];
    let mut push = |instr: Instr| {
        body.push(Stmt { instr, dtype });
        Val(body.len() as u32 - 1)
    };
    let number = |n: &Dim| Instr::Const(Number::new(dtype, n.as_int().expect("only sums of a known length are split") as f64));
    let own = push(Instr::Load { buffer: means, index: parts.index(nest), mask: None });
    let total = push(Instr::Reduce(Combiner::Sum, own));
    let count = push(number(&parts.stage));
    let mean = push(Instr::Call(ScalarFn::Div, vec![total, count]));
    let distance = push(Instr::Call(ScalarFn::Sub, vec![own, mean]));
    let square = push(Instr::Call(ScalarFn::Mul, vec![distance, distance]));
    let weight = push(number(chunk));
    let between = push(Instr::Call(ScalarFn::Mul, vec![square, weight]));
    let within = push(Instr::Load { buffer: sums, index: parts.index(nest), mask: None });
    let both = push(Instr::Call(ScalarFn::Add, vec![within, between]));
    let sum = push(Instr::Reduce(Combiner::Sum, both));
    let writes = vec![Write::new(nest.writes[0].buffer, nest.writes[0].index.clone(), sum)];
    second_stage(nest, &parts.stage, body, writes)
}

fn second_stage(nest: &Nest, stage: &Dim, body: Vec<Stmt>, writes: Vec<Write>) -> Nest {
    Nest {
        label: format!("{}.combine", nest.label),
        rows: nest.rows.clone(),
        cols: vec![stage.clone()],
        body,
        writes,
        tag: Tag::Loop,
        provenance: nest.provenance.clone(),
    }
}

/// The second stage: combines the partial results and does what followed the reduction.
fn combine(nest: &Nest, at: usize, combiner: Combiner, scratch: BufferId, parts: &Parts) -> Nest {
    let dtype = nest.body[at].dtype;
    let index = parts.index(nest);
    let mut body =
        vec![Stmt { instr: Instr::Load { buffer: scratch, index, mask: None }, dtype }, Stmt { instr: Instr::Reduce(combiner, Val(0)), dtype }];
    let mut map = vec![Val(u32::MAX); nest.body.len()];
    map[at] = Val(1);
    for (i, stmt) in nest.body.iter().enumerate().skip(at + 1) {
        let Instr::Cast(v) = stmt.instr else { continue };
        if map[v.0 as usize].0 == u32::MAX {
            continue;
        }
        map[i] = Val(body.len() as u32);
        body.push(Stmt { instr: Instr::Cast(map[v.0 as usize]), dtype: stmt.dtype });
    }
    let write = &nest.writes[0];
    let writes = vec![Write::new(write.buffer, write.index.clone(), map[write.value.0 as usize])];
    second_stage(nest, &parts.stage, body, writes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::graph::{Builder, InputRole, OutputRole};
    use crate::loop_ir::naive::{self, Memory};
    use crate::loop_ir::{Phase, verify};
    use crate::lower::lower;
    use crate::ops::SquaredDeviations;
    use crate::types::{Bindings, DeviceModel};

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
                let mut memory: Vec<Memory> = lowered
                    .buffers
                    .iter()
                    .map(|b| {
                        Memory::from_f64(DType::F32, &(0..b.ty.numel().as_int().unwrap()).map(|k| 1000.0 + (k * 7 % 11) as f64).collect::<Vec<_>>())
                    })
                    .collect();
                for nest in nests {
                    assert_eq!(verify(nest), Vec::<String>::new(), "{nest}");
                    naive::run(nest, &mut memory, &Bindings::new()).unwrap();
                }
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
        assert_eq!(split_nests(nests, &mut lowered.buffers, &target).len(), 2);
    }
}
