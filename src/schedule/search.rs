//! Searching inside a body.

use crate::loop_ir::{BodyBuilder, IndexExpr, Number, Val};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim};

/// The number of elements of a run for which a condition holds that no element after one without it has: a binary search, digit by
/// digit. `holds` tests the element at a place of the run.
pub fn count_before(b: &mut BodyBuilder, length: i64, holds: &mut dyn FnMut(&mut BodyBuilder, IndexExpr) -> Val) -> Val {
    let number = |b: &mut BodyBuilder, n: i64| b.number(DType::I32, Number::Int(n));
    let (end, one, mut count) = (number(b, length), number(b, 1), number(b, 0));
    let mut step = if length > 0 { 1 << length.ilog2() } else { 0 };
    while step > 0 {
        let width = number(b, step);
        let more = b.call(ScalarFn::Add, &[count, width]);
        let within = b.call(ScalarFn::Minimum, &[more, end]);
        let probe = b.call(ScalarFn::Sub, &[within, one]);
        let there = holds(b, IndexExpr::value(probe.0, &Dim::int(length)));
        let fits = b.call(ScalarFn::Le, &[more, end]);
        let counts = b.call(ScalarFn::LogicalAnd, &[there, fits]);
        count = b.call(ScalarFn::Where, &[counts, more, count]);
        step /= 2;
    }
    count
}
