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

use super::statements::Statements;
use crate::forms::parts::{self, Along, is_column_reduction};
use crate::loop_ir::{Buffer, BufferId, Combiner, IndexExpr, Instr, Nest, Tag, Val, Write, axes, flatten, unflatten};
use crate::scalar::ScalarFn;
use crate::types::{DType, DeviceModel, Dim, Shape, TensorType};

/// The nests that replace a scan of long rows, where that is worth it.
pub fn split_scan(nest: &Nest, buffers: &mut Vec<Buffer>, model: &DeviceModel) -> Option<Vec<Nest>> {
    let scan = scan(nest)?;
    let (rows, cols) = (nest.row_count().as_int()?, nest.col_count().as_int()?);
    let along = Along { rows, cols, bytes: nest.body[scan.at].dtype.size() as i64, rows_first: is_column_reduction(nest) };
    let count = parts::of_scan(along, model)?;
    Some(split(nest, &scan, count, along.rows_first, buffers))
}

struct Scan {
    at: usize,
    combiner: Combiner,
    function: ScalarFn,
    argument: Val,
}

/// The scan, when it is the only work along columns and there is nothing to check.
fn scan(nest: &Nest) -> Option<Scan> {
    let mut found = None;
    for (at, stmt) in nest.body.iter().enumerate() {
        match stmt.instr {
            // Parts of a product of floats may leave the range of the type where the whole does not.
            Instr::Scan(Combiner::Prod, _) if stmt.dtype.is_float() => return None,
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
        let mut rows = self.nest.rows.clone();
        rows.insert(at, self.count.clone());
        let mut own = axes(&rows, 0);
        let chunk = own.remove(at);
        (rows, chunk, own)
    }

    fn part(&self, name: &str, rows: Vec<Dim>, cols: Dim, body: Statements, writes: Vec<Write>) -> Nest {
        let label = format!("{}{name}", self.nest.label);
        Nest { label, rows, cols: vec![cols], body: body.0, writes, tag: Tag::Loop, provenance: self.nest.provenance.clone() }
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
        buffers.push(Buffer { name: format!("{}.{name}", nest.label), ty: TensorType { dtype, shape: Shape(sizes.clone()) } });
        BufferId(buffers.len() as u32 - 1)
    };
    let (totals, prefixes) = (scratch("totals"), scratch("prefixes"));

    let column = IndexExpr::axis(sizes.len() as u32, &chunks.length);
    let at = |column: &IndexExpr| [own.clone(), unflatten(&chunk.times(&chunks.length).add(column), &nest.cols)].concat();
    let mut body = Statements::default();
    let map = copy(nest, 0..scan.at, &at(&column), &mut body, vec![]);
    let total = body.push(Instr::Reduce(scan.combiner, map[scan.argument.0 as usize]), dtype);
    let writes = vec![Write::new(totals, chunks.place(&chunk, &own), total)];
    let mut out = vec![chunks.part(".totals", sizes.clone(), chunks.length.clone(), body, writes)];

    let mut body = Statements::default();
    let place = chunks.place(&IndexExpr::axis(nest.rows.len() as u32, &chunks.count), &nest.row_axes());
    let own_total = body.push(Instr::Load { buffer: totals, index: place.clone(), mask: None }, dtype);
    let prefix = body.push(Instr::Scan(scan.combiner, own_total), dtype);
    out.push(chunks.part(".prefixes", nest.rows.clone(), chunks.count.clone(), body, vec![Write::new(prefixes, place, prefix)]));

    let mut body = Statements::default();
    let number = body.push(Instr::Index(chunk.clone()), DType::I32);
    let zero = body.push(Instr::Const(crate::loop_ir::Number::Int(0)), DType::I32);
    let later = body.push(Instr::Call(ScalarFn::Gt, vec![number, zero]), DType::Bool);
    let before = chunks.place(&chunk.plus(&Dim::int(-1)), &own);
    let before = body.push(Instr::Load { buffer: prefixes, index: before, mask: Some(later) }, dtype);
    let nothing = body.push(Instr::Const(scan.combiner.identity(dtype)), dtype);
    let before = body.push(Instr::Call(ScalarFn::Where, vec![later, before, nothing]), dtype);
    let writes = apply(nest, scan, &at(&column), before, &mut body);
    out.push(chunks.part("", sizes.clone(), chunks.length.clone(), body, writes));

    let rest = Dim::int(cols - count * length);
    if !rest.is(0) {
        let column = IndexExpr::axis(nest.rows.len() as u32, &rest).plus(&Dim::int(count * length));
        let mut body = Statements::default();
        let last = chunks.place(&IndexExpr::constant(Dim::int(count - 1)), &nest.row_axes());
        let before = body.push(Instr::Load { buffer: prefixes, index: last, mask: None }, dtype);
        let at = [nest.row_axes(), unflatten(&column, &nest.cols)].concat();
        let writes = apply(nest, scan, &at, before, &mut body);
        out.push(chunks.part(".rest", nest.rows.clone(), rest, body, writes));
    }
    out
}

/// The whole body with axes at `at`, and `before` combined with the scan.
fn apply(nest: &Nest, scan: &Scan, at: &[IndexExpr], before: Val, body: &mut Statements) -> Vec<Write> {
    let dtype = nest.body[scan.at].dtype;
    let mut map = copy(nest, 0..scan.at + 1, at, body, vec![]);
    map[scan.at] = body.push(Instr::Call(scan.function, vec![before, map[scan.at]]), dtype);
    let map = copy(nest, scan.at + 1..nest.body.len(), at, body, map);
    let write = |w: &Write| Write::new(w.buffer, moved(&w.index, at, &map), map[w.value.0 as usize]);
    nest.writes.iter().map(write).collect()
}

/// Appends these statements with axes at `at`; `map` says where earlier ones are.
fn copy(nest: &Nest, range: std::ops::Range<usize>, at: &[IndexExpr], body: &mut Statements, mut map: Vec<Val>) -> Vec<Val> {
    for stmt in &nest.body[range] {
        let instr = stmt.instr.map(&|v| map[v.0 as usize], &|e| moved(e, at, &map));
        map.push(body.push(instr, stmt.dtype));
    }
    map
}

fn moved(e: &IndexExpr, at: &[IndexExpr], map: &[Val]) -> IndexExpr {
    e.substitute(&|a| at[a.id as usize].clone(), &|v, size| IndexExpr::value(map[v as usize].0, size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::graph::{Builder, InputRole, OutputRole};
    use crate::loop_ir::naive::{self, Memory};
    use crate::loop_ir::{Phase, verify};
    use crate::lower::lower;
    use crate::ops::{Cumextremum, Cumprod, Cumsum};
    use crate::types::Bindings;

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
                    let fill = |b: &Buffer| Memory::from_f64(b.ty.dtype, &(0..b.ty.numel().as_int().unwrap()).map(start).collect::<Vec<_>>());
                    let mut memory: Vec<Memory> = lowered.buffers.iter().map(fill).collect();
                    for nest in nests {
                        assert_eq!(verify(nest), Vec::<String>::new(), "{nest}");
                        naive::run(nest, &mut memory, &Bindings::new()).unwrap();
                    }
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
