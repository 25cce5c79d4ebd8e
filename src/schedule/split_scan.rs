//! Scans of long rows become two passes over the data, so that the device has enough independent work.
//!
//! Before: `rows[P] cols[R]`, one scan. After, with S chunks of a row:
//!
//! * `totals`: each chunk combined, `rows[P, S] cols[R / S]`;
//! * `prefixes`: the totals scanned, `rows[P] cols[S]`;
//! * the scan of each chunk, combined with the prefix of the chunk before it; what remains behind the last whole chunk is a
//!   nest of its own.
//!
//! Blelloch, "Prefix sums and their applications" (reduce, then scan).

use crate::forms::parts::{self, Along};
use crate::loop_ir::facts::{is_column_reduction, scans_in_order};
use crate::loop_ir::{BodyBuilder, Buffer, BufferId, Combiner, Element, IndexExpr, Instr, Nest, Number, Rebase, Tag, Val, axes, flatten, unflatten};
use crate::scalar::ScalarFn;
use crate::types::{DType, DeviceModel, Dim, Shape, Sizes, TensorType};

/// The nests that replace a scan of long rows, where that is worth it.
pub fn split_scan(nest: &Nest, buffers: &mut Vec<Buffer>, model: &DeviceModel) -> Option<Vec<Nest>> {
    let scan = scan(nest)?;
    let (rows, cols) = (nest.row_count().as_int()?, nest.col_count().as_int()?);
    let along = Along { rows, cols, bytes: nest.body[scan.at].dtype.size() as i64, rows_first: is_column_reduction(nest) };
    let count = parts::of_scan(along, model)?;
    Some(split(nest, &scan, count, along.rows_first, buffers))
}

/// The scan of a nest.
pub(super) struct Scan {
    /// Its number in the body.
    pub(super) at: usize,
    /// What combines.
    pub(super) combiner: Combiner,
    /// The combiner as a function of two values.
    pub(super) function: ScalarFn,
    /// What is scanned.
    pub(super) argument: Val,
}

/// The scan that may be split: parts of a product of floats may leave the range of the type where the whole does not.
fn scan(nest: &Nest) -> Option<Scan> {
    only_scan(nest).filter(|_| !scans_in_order(nest))
}

/// The scan, when it is the only work along columns and there is nothing to check.
pub(super) fn only_scan(nest: &Nest) -> Option<Scan> {
    let mut found = None;
    for (at, stmt) in nest.body.iter().enumerate() {
        match stmt.instr {
            Instr::Scan(combiner, argument) if found.is_none() => found = Some(Scan { at, combiner, function: combiner.function()?, argument }),
            Instr::Reduce(..) | Instr::Scan(..) | Instr::Sort { .. } | Instr::Bound { .. } => return None,
            _ => {}
        }
    }
    found.filter(|_| nest.tag == Tag::Loop && nest.writes.iter().all(|w| !w.fold))
}

/// Where chunks and their totals lie.
struct Chunks<'a> {
    nest: &'a Nest,
    count: Dim,
    length: Dim,
    /// The axis of chunks comes before the rows, so that neighbors in memory stay neighboring rows.
    first: bool,
}

impl Chunks<'_> {
    /// The place of a chunk's total, in a nest whose rows are those of the scan.
    fn place(&self, chunk: &IndexExpr, rows: &[IndexExpr]) -> IndexExpr {
        let row = flatten(rows, &self.nest.rows);
        if self.first { chunk.times(&self.nest.row_count()).add(&row) } else { row.times(&self.count).add(chunk) }
    }

    /// Rows with the axis of chunks, its coordinate, and those of the scan's own rows.
    fn rows(&self) -> (Vec<Dim>, IndexExpr, Vec<IndexExpr>) {
        let at = if self.first { 0 } else { self.nest.rows.len() };
        let mut rows = self.nest.rows.to_vec();
        rows.insert(at, self.count.clone());
        let mut own = axes(&rows, 0);
        let chunk = own.remove(at);
        (rows, chunk, own)
    }

    fn part(&self, name: &str, rows: impl Into<Sizes>, cols: Dim, body: BodyBuilder) -> Nest {
        body.nest(format!("{}{name}", self.nest.label), rows, vec![cols], self.nest.provenance.clone())
    }
}

fn split(nest: &Nest, scan: &Scan, count: i64, first: bool, buffers: &mut Vec<Buffer>) -> Vec<Nest> {
    let cols = nest.col_count().as_int().expect("only scans of a known length are split");
    // Chunks of whole vectors.
    let length = if cols / count >= 64 { cols / count / 4 * 4 } else { cols / count };
    let count = cols / length;
    let chunks = Chunks { nest, count: Dim::int(count), length: Dim::int(length), first };
    let dtype = nest.body[scan.at].dtype;
    let (sizes, chunk, own) = chunks.rows();
    let mut scratch = |name: &str| {
        buffers.push(Buffer { name: format!("{}.{name}", nest.label), ty: TensorType { dtype, shape: Shape::new(sizes.clone()) } });
        BufferId(buffers.len() as u32 - 1)
    };
    let (totals, prefixes) = (scratch("totals"), scratch("prefixes"));

    let column = IndexExpr::axis(sizes.len() as u32, &chunks.length);
    let at = |column: &IndexExpr| [own.clone(), unflatten(&chunk.times(&chunks.length).add(column), &nest.cols)].concat();
    let mut body = BodyBuilder::default();
    let mut to = Rebase::new(at(&column));
    to.copy_all(&mut body, nest, nest.values().take(scan.at));
    let total = body.reduce(scan.combiner, to.value(scan.argument));
    body.write(totals, chunks.place(&chunk, &own), total);
    let mut out = vec![chunks.part(".totals", sizes.clone(), chunks.length.clone(), body)];

    let mut body = BodyBuilder::default();
    let place = chunks.place(&IndexExpr::axis(nest.rows.len() as u32, &chunks.count), &nest.row_axes());
    let own_total = body.load(Element { buffer: totals, index: place.clone(), dtype });
    let prefix = body.scan(scan.combiner, own_total);
    body.write(prefixes, place, prefix);
    out.push(chunks.part(".prefixes", nest.rows.clone(), chunks.count.clone(), body));

    let mut body = BodyBuilder::default();
    let number = body.index(&chunk, DType::I32);
    let zero = body.number(DType::I32, Number::Int(0));
    let later = body.call(ScalarFn::Gt, &[number, zero]);
    let before = Element { buffer: prefixes, index: chunks.place(&chunk.plus(&Dim::int(-1)), &own), dtype };
    let before = body.load_if(before, later);
    let before = body.value_or(Some(later), before, scan.combiner.identity(dtype));
    apply(nest, scan, at(&column), before, &mut body);
    out.push(chunks.part("", sizes.clone(), chunks.length.clone(), body));

    let rest = Dim::int(cols - count * length);
    if !rest.is(0) {
        let column = IndexExpr::axis(nest.rows.len() as u32, &rest).plus(&Dim::int(count * length));
        let mut body = BodyBuilder::default();
        let last = chunks.place(&IndexExpr::constant(Dim::int(count - 1)), &nest.row_axes());
        let before = body.load(Element { buffer: prefixes, index: last, dtype });
        let at = [nest.row_axes(), unflatten(&column, &nest.cols)].concat();
        apply(nest, scan, at, before, &mut body);
        out.push(chunks.part(".rest", nest.rows.clone(), rest, body));
    }
    out
}

/// The whole body with axes at `at`, and `before` combined with the scan.
fn apply(nest: &Nest, scan: &Scan, at: Vec<IndexExpr>, before: Val, body: &mut BodyBuilder) {
    let mut to = Rebase::new(at);
    to.copy_all(body, nest, nest.values().take(scan.at + 1));
    let at = Val(scan.at as u32);
    to.set(at, body.call(scan.function, &[before, to.value(at)]));
    to.copy_all(body, nest, nest.values().skip(scan.at + 1));
    body.writes.extend(nest.writes.iter().map(|w| to.write(w)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::graph::{Builder, InputRole, OutputRole};
    use crate::loop_ir::Phase;
    use crate::lower::lower;
    use crate::ops::{Cumextremum, Cumprod, Cumsum};
    use crate::schedule::fixtures::run_from;

    /// Chunks of rows and of columns, with and without a rest, against the scan as it was.
    #[test]
    fn prefixes_of_chunks_are_those_of_the_row() {
        let kinds = [(Combiner::Sum, DType::F32), (Combiner::Sum, DType::F16), (Combiner::Prod, DType::I32), (Combiner::Max, DType::I32)];
        for (combiner, dtype) in kinds {
            for (shape, dim, count) in [((3, 20), 1, 5), ((3, 23), 1, 4), ((12, 5), 0, 3), ((13, 5), 0, 4), ((1, 1000), 1, 7)] {
                let mut b = Builder::new("scan");
                let x = b.input("x", InputRole::Input, TensorType::new(dtype, shape)).unwrap();
                let y = match combiner {
                    Combiner::Sum => b.op(Cumsum { dim }, &[x]).unwrap(),
                    Combiner::Prod => b.op(Cumprod { dim }, &[x]).unwrap(),
                    _ => b.node(Cumextremum { dim, min: false }, &[x]).unwrap()[0],
                };
                b.output("y", OutputRole::User, y);
                let mut lowered = lower(&[(Phase::Forward, &b.finish())], &Config::default()).unwrap();
                let nest = lowered.nests[0].clone();
                let parts = split(&nest, &scan(&nest).unwrap(), count, dim == 0, &mut lowered.buffers);
                let result = |nests: &[Nest]| {
                    // Multiples of an eighth, whose sums and products are exact.
                    let start = |k: i64| if combiner == Combiner::Prod { 1.0 + ((k % 50) / 49) as f64 } else { (k * 7 % 11) as f64 / 8.0 };
                    let memory = run_from(nests, &lowered.buffers, start);
                    memory[nest.writes[0].buffer.0 as usize].to_f64()
                };
                assert_eq!(result(std::slice::from_ref(&nest)), result(&parts), "{combiner:?} {dtype} {shape:?} {dim}");
            }
        }
    }

    #[test]
    fn only_long_rows_on_a_large_device_are_split() {
        for (shape, dim, nests) in [((1, 1 << 20), 1, 3), ((1, (1 << 20) + 1), 1, 4), ((65536, 4096), 1, 1), ((4096, 256), 0, 3), ((7, 4096), 1, 1)] {
            let mut b = Builder::new("scan");
            let x = b.input("x", InputRole::Input, TensorType::new(DType::F32, shape)).unwrap();
            let y = b.op(Cumsum { dim }, &[x]).unwrap();
            b.output("y", OutputRole::User, y);
            let mut lowered = lower(&[(Phase::Forward, &b.finish())], &Config::default()).unwrap();
            let nest = lowered.nests.remove(0);
            let found = |model: &DeviceModel, buffers: &mut Vec<Buffer>| split_scan(&nest, buffers, model).map_or(1, |n| n.len());
            assert_eq!(found(&DeviceModel::cpu(), &mut lowered.buffers), 1);
            assert_eq!(found(&DeviceModel::large_gpu(), &mut lowered.buffers), nests, "{shape:?}");
        }
    }
}
