//! Scans in order, of rows that are longer than a device's loops, become parts in turn.
//!
//! Before: `rows[P] cols[R]`, one scan, which one invocation takes in order: a part of a product of floats may leave the range of the
//! type where the whole does not. After, for parts of so many columns as loops may have steps: the same scan of the part, whose first
//! element is combined with the last prefix of the part before it. The numbers are the same, bit for bit.
//!
//! Requires a known length and a device that limits loops ([`DeviceCaps::max_steps`](crate::types::DeviceCaps::max_steps)). Each part
//! but the last stores its prefixes once more.

use super::split_scan::{Scan, only_scan};
use crate::loop_ir::facts::scans_in_order;
use crate::loop_ir::{BodyBuilder, Buffer, BufferId, Element, IndexExpr, Nest, Number, Rebase, Val, axes, flatten, unflatten};
use crate::scalar::ScalarFn;
use crate::types::{DType, DeviceCaps, Dim, Shape, TensorType};

/// The parts of a scan in order that takes more steps than loops of the device may have.
pub fn scan_in_turns(nest: &Nest, buffers: &mut Vec<Buffer>, caps: &DeviceCaps) -> Option<Vec<Nest>> {
    let most = caps.max_steps? as i64;
    let (columns, scan) = (nest.col_count().as_int()?, only_scan(nest)?);
    if columns <= most || !scans_in_order(nest) {
        return None;
    }
    // Parts of whole vectors.
    let length = most / 4 * 4;
    let (mut out, mut before) = (vec![], None);
    for start in (0..columns).step_by(length as usize) {
        let part = Part { start, columns: length.min(columns - start), before };
        before = (start + length < columns).then(|| prefixes(nest, &scan, &part, buffers));
        out.push(part.nest(nest, &scan, before));
    }
    Some(out)
}

/// A buffer of the prefixes of a part.
fn prefixes(nest: &Nest, scan: &Scan, part: &Part, buffers: &mut Vec<Buffer>) -> Prefixes {
    let shape = Shape::new([&nest.rows[..], &[Dim::int(part.columns)]].concat());
    buffers.push(Buffer { name: format!("{}.prefixes", nest.label), ty: TensorType { dtype: nest.body[scan.at].dtype, shape } });
    Prefixes { buffer: BufferId(buffers.len() as u32 - 1), columns: part.columns }
}

/// Where the prefixes of a part lie, row by row.
#[derive(Clone, Copy)]
struct Prefixes {
    buffer: BufferId,
    columns: i64,
}

impl Prefixes {
    fn place(&self, nest: &Nest, column: &IndexExpr) -> IndexExpr {
        flatten(&nest.row_axes(), &nest.rows).times(&Dim::int(self.columns)).add(column)
    }
}

/// Columns that are scanned at once.
struct Part {
    start: i64,
    columns: i64,
    before: Option<Prefixes>,
}

impl Part {
    /// The scan of the part, which also stores its prefixes where a part follows.
    fn nest(&self, nest: &Nest, scan: &Scan, own: Option<Prefixes>) -> Nest {
        let columns = Dim::int(self.columns);
        let column = IndexExpr::axis(nest.rows.len() as u32, &columns);
        let place = column.plus(&Dim::int(self.start));
        let mut body = BodyBuilder::default();
        let mut to = Rebase::new([axes(&nest.rows, 0), unflatten(&place, &nest.cols)].concat());
        to.copy_all(&mut body, nest, nest.values().take(scan.at));
        let argument = match self.before {
            Some(before) => self.join(nest, scan, before, to.value(scan.argument), &mut body),
            None => to.value(scan.argument),
        };
        let at = Val(scan.at as u32);
        let scanned = body.scan(scan.combiner, argument);
        to.set(at, scanned);
        to.copy_all(&mut body, nest, nest.values().skip(scan.at + 1));
        body.writes.extend(nest.writes.iter().map(|w| to.write(w)));
        if let Some(own) = own {
            body.write(own.buffer, own.place(nest, &column), scanned);
        }
        let label = if own.is_some() { format!("{}.{}", nest.label, self.start).into() } else { nest.label.clone() };
        body.nest(label, nest.rows.clone(), vec![columns], nest.provenance.clone())
    }

    /// The argument, whose first element is combined with the last prefix before it.
    fn join(&self, nest: &Nest, scan: &Scan, before: Prefixes, argument: Val, body: &mut BodyBuilder) -> Val {
        let last = IndexExpr::constant(Dim::int(before.columns - 1));
        let dtype = nest.body[scan.at].dtype;
        let carry = body.load(Element { buffer: before.buffer, index: before.place(nest, &last), dtype });
        let joined = body.call(scan.function, &[carry, argument]);
        let position = body.index(&IndexExpr::axis(nest.rows.len() as u32, &Dim::int(self.columns)), DType::I32);
        let zero = body.number(DType::I32, Number::Int(0));
        let is_first = body.call(ScalarFn::Eq, &[position, zero]);
        body.call(ScalarFn::Where, &[is_first, joined, argument])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::graph::{Builder, InputRole, OutputRole};
    use crate::loop_ir::Phase;
    use crate::lower::lower;
    use crate::ops::Cumprod;
    use crate::schedule::fixtures::run_from;

    /// Rows along either dimension, with products that a part by itself could not hold.
    #[test]
    fn prefixes_of_parts_in_turn_are_those_of_the_row() {
        for (shape, dim) in [((2, 23), 1), ((21, 2), 0), ((1, 16), 1), ((1, 12), 1)] {
            let mut b = Builder::new("scan");
            let x = b.input("x", InputRole::Input, TensorType::new(DType::F32, shape)).unwrap();
            let y = b.op(Cumprod { dim }, &[x]).unwrap();
            b.output("y", OutputRole::User, y);
            let mut lowered = lower(&[(Phase::Forward, &b.finish())], &Config::default()).unwrap();
            let nest = lowered.nests[0].clone();
            let caps = DeviceCaps { max_steps: Some(9), ..DeviceCaps::h100() };
            let parts = scan_in_turns(&nest, &mut lowered.buffers, &caps).unwrap();
            let result = |nests: &[Nest]| {
                let start = |k: i64| if k % 23 < 7 { 1e-6 } else { 1e7 };
                let memory = run_from(nests, &lowered.buffers, start);
                memory[nest.writes[0].buffer.0 as usize].to_f64()
            };
            assert_eq!(result(std::slice::from_ref(&nest)), result(&parts), "{shape:?} {dim}");
            assert!(scan_in_turns(&nest, &mut lowered.buffers, &DeviceCaps::h100()).is_none());
        }
    }
}
