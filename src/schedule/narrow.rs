//! i64 on a device without 64-bit integers: it is computed in 32 bits, so that every value must fit them.
//!
//! * Before: `%2 = mul(%0, %1) : i64`, with operands that may be anything.
//! * After: the same, and a check that computes it in f32 as well: the status word is set where its magnitude comes near 2^31.
//! * A range proof leaves the check out: positions, booleans, counts of booleans and small integers never leave 32 bits. Ranges are
//!   found by interval arithmetic, statement by statement, and go from the nest that stores a buffer to those that load it. Inputs
//!   are checked when they are uploaded.
//! * The check is conservative by the rounding of f32; for sums and products of rows it bounds the sum of magnitudes.
//! * Cost: one pass over all statements.

use crate::loop_ir::{BodyBuilder, BufferId, Combiner, Instr, Nest, Tag, Val};
use crate::lower::Lowered;
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim};

/// Inclusive bounds of an integer value.
type Range = (i128, i128);

/// What an f32 may say of a number that fits 32 bits, rounding included.
const FITS: f64 = 2_147_483_000.0;
/// The same for a sum of many, each rounded.
const SUM_FITS: f64 = (1u64 << 30) as f64;

/// Adds a check wherever an i64 value is not known to fit 32 bits.
pub fn check_narrowed(nests: &mut [Nest], lowered: &mut Lowered) {
    let inputs: Vec<BufferId> = lowered.inputs.iter().map(|i| i.buffer).collect();
    let mut stored: Vec<Option<Range>> = vec![None; lowered.buffers.len()];
    for nest in nests {
        let ranges = check_nest(nest, &stored, &mut lowered.checks);
        for write in nest.writes.iter().filter(|w| !inputs.contains(&w.buffer)) {
            let known = &mut stored[write.buffer.0 as usize];
            let any = all(nest.dtype(write.value));
            let range = if nest.control().is_some() { any } else { ranges[write.value.0 as usize].unwrap_or(any) };
            *known = Some(known.map_or(range, |k| union(k, range)));
        }
    }
}

/// The range of each integer value, where it is narrower than the dtype's.
fn check_nest(nest: &mut Nest, stored: &[Option<Range>], checks: &mut Vec<String>) -> Vec<Option<Range>> {
    let mut ranges: Vec<Option<Range>> = vec![];
    let mut code = None;
    let mut b = BodyBuilder::of(nest);
    for v in nest.values() {
        let dtype = nest.dtype(v);
        let found = if dtype.is_float() { None } else { range(nest, v, &ranges, stored) };
        let limits = all(dtype);
        let proven = found.filter(|r| limits.0 <= r.0 && r.1 <= limits.1);
        if dtype == DType::I64
            && proven.is_none()
            && let Some((estimate, limit)) = estimate(&mut b, &nest.stmt(v).instr)
        {
            let code = *code.get_or_insert_with(|| {
                checks.push(message(nest));
                checks.len() as u32
            });
            push_check(&mut b, estimate, limit, code);
        }
        ranges.push(proven);
    }
    *nest = b.replace(nest);
    ranges
}

fn message(nest: &Nest) -> String {
    let line = nest.provenance.line().map(|l| format!(" (at {l})")).unwrap_or_default();
    format!(
        "{}: an i64 value leaves 32 bits, and this device lacks 64-bit integers: use --device cpu, or cast to i32 where it may wrap{line}",
        nest.label
    )
}

/// The range of a dtype; i64 values fit 32 bits by these checks.
fn all(dtype: DType) -> Range {
    let dtype = if dtype == DType::I64 { DType::I32 } else { dtype };
    dtype.int_range().map_or((i128::MIN, i128::MAX), |(lo, hi)| (lo as i128, hi as i128))
}

fn union(a: Range, b: Range) -> Range {
    (a.0.min(b.0), a.1.max(b.1))
}

/// The range that a statement's result has before it is wrapped; `None` where nothing is known.
fn range(nest: &Nest, v: Val, ranges: &[Option<Range>], stored: &[Option<Range>]) -> Option<Range> {
    let known = |v: Val| ranges[v.0 as usize].or_else(|| (!nest.dtype(v).is_float()).then(|| all(nest.dtype(v))));
    match &nest.stmt(v).instr {
        Instr::Const(n) => Some((n.as_i64() as i128, n.as_i64() as i128)),
        Instr::Index(e) => e.bounds().map(|(lo, hi)| (lo.range().0 as i128, hi.range().1 as i128)),
        Instr::Load { buffer, mask, .. } => {
            let range = stored.get(buffer.0 as usize).copied().flatten().unwrap_or(all(nest.dtype(v)));
            Some(if mask.is_some() { union(range, (0, 0)) } else { range })
        }
        Instr::Cast(x) => known(*x),
        Instr::Bound { size, .. } => Some((0, (size.range().1 as i128 - 1).max(0))),
        Instr::Call(f, args) => call_range(*f, &args.iter().map(|&a| known(a)).collect::<Option<Vec<_>>>()?),
        Instr::Reduce(c, x) | Instr::Scan(c, x) => combined_range(*c, known(*x)?, nest.col_count().range().1 as i128),
        Instr::Sort { key, .. } => known(*key),
        Instr::Contract { .. } | Instr::Bitcast(_) => None,
        Instr::Proj(..) => Some((0, nest.col_count().range().1 as i128)),
    }
}

fn call_range(f: ScalarFn, args: &[Range]) -> Option<Range> {
    use ScalarFn as F;
    let magnitude = |r: Range| r.0.abs().max(r.1.abs());
    let corners = |op: fn(i128, i128) -> Option<i128>| {
        let (a, b) = (args[0], args[1]);
        let list = [op(a.0, b.0)?, op(a.0, b.1)?, op(a.1, b.0)?, op(a.1, b.1)?];
        Some((list.into_iter().min()?, list.into_iter().max()?))
    };
    match f {
        F::Add => corners(i128::checked_add),
        F::Sub => corners(i128::checked_sub),
        F::Mul => corners(i128::checked_mul),
        F::Neg => Some((-args[0].1, -args[0].0)),
        F::Abs => Some((0, magnitude(args[0]))),
        F::Relu => Some((args[0].0.max(0), args[0].1.max(0))),
        F::Sign => Some((-1, 1)),
        F::Floor | F::Ceil | F::Round | F::Trunc | F::ShiftRight | F::StraightThrough => Some(union(args[0], (0, 0))),
        F::Maximum => Some((args[0].0.max(args[1].0), args[0].1.max(args[1].1))),
        F::Minimum => Some((args[0].0.min(args[1].0), args[0].1.min(args[1].1))),
        F::Where => Some(union(args[1], args[2])),
        F::Clamp => Some(union(args[0], union(args[1], args[2]))),
        // A quotient by minus one may be larger by one than its numerator's magnitude allows.
        F::Div | F::FloorDiv if args[1].0 > -1 || args[1].1 < -1 => Some((-magnitude(args[0]), magnitude(args[0]))),
        F::Remainder | F::Fmod => {
            let below = (magnitude(args[1]) - 1).max(0);
            Some((-below, below))
        }
        F::BitwiseNot => Some((-args[0].1 - 1, -args[0].0 - 1)),
        F::BitwiseAnd | F::BitwiseOr | F::BitwiseXor => {
            let bits = |r: Range| 128 - r.1.max(-r.0 - 1).max(0).leading_zeros();
            let top = 1i128.checked_shl(args.iter().map(|&r| bits(r)).max()?)?;
            Some((-top, top - 1))
        }
        _ if f.row().predicate => Some((0, 1)),
        _ => None,
    }
}

fn combined_range(combiner: Combiner, x: Range, count: i128) -> Option<Range> {
    match combiner {
        Combiner::Max | Combiner::Min | Combiner::ArgMax | Combiner::ArgMin => Some(x),
        Combiner::Any | Combiner::All => Some((0, 1)),
        Combiner::Sum => Some(union((x.0.checked_mul(count)?, x.1.checked_mul(count)?), (0, 0))),
        Combiner::Prod if (-1..=1).contains(&x.0) && x.1 <= 1 => Some((-1, 1)),
        _ => None,
    }
}

/// Statements that compute the magnitude of a value in f32, and what it stays below in 32 bits. `None` where the value cannot leave
/// the range of what it is made of.
fn estimate(b: &mut BodyBuilder, instr: &Instr) -> Option<(Val, f64)> {
    use ScalarFn as F;
    match instr {
        Instr::Cast(x) => Some((magnitude(b, *x), FITS)),
        Instr::Call(F::ShiftLeft, args) => {
            let amount = b.cast(args[1], DType::F32);
            let (x, power) = (b.cast(args[0], DType::F32), b.call(F::Exp2, &[amount]));
            let value = b.call(F::Mul, &[x, power]);
            Some((b.call(F::Abs, &[value]), FITS))
        }
        Instr::Call(F::Div | F::FloorDiv, args) => Some((magnitude(b, args[0]), FITS)),
        Instr::Call(f, args) => {
            let args = args.iter().map(|&a| b.cast(a, DType::F32)).collect();
            let value = b.push(Instr::Call(*f, args), DType::F32);
            Some((b.call(F::Abs, &[value]), FITS))
        }
        Instr::Reduce(combiner, x) => {
            let x = summand(b, *combiner, *x);
            Some((b.push(Instr::Reduce(*combiner, x), DType::F32), SUM_FITS))
        }
        Instr::Scan(combiner, x) => {
            let x = summand(b, *combiner, *x);
            Some((b.push(Instr::Scan(*combiner, x), DType::F32), SUM_FITS))
        }
        _ => None,
    }
}

/// What a row's sum or product is bounded by: magnitudes, of factors at least one.
fn summand(b: &mut BodyBuilder, combiner: Combiner, x: Val) -> Val {
    b.tag = Tag::Loop;
    let x = magnitude(b, x);
    if combiner != Combiner::Prod {
        return x;
    }
    let one = b.constant(DType::F32, 1.0);
    b.call(ScalarFn::Maximum, &[x, one])
}

fn magnitude(b: &mut BodyBuilder, x: Val) -> Val {
    let x = b.cast(x, DType::F32);
    b.call(ScalarFn::Abs, &[x])
}

/// Sets the status word where the estimate reaches the limit.
fn push_check(b: &mut BodyBuilder, estimate: Val, limit: f64, code: u32) {
    let limit = b.constant(DType::F32, limit);
    let leaves = b.call(ScalarFn::Ge, &[estimate, limit]);
    let index = b.cast(leaves, DType::I32);
    b.bound(index, &Dim::int(1), None, code);
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Target};
    use crate::graph::{Builder, InputRole, OutputRole, Value};
    use crate::scalar::ScalarFn;
    use crate::types::{DType, TensorType};

    /// How many checks the program has on a device without 64-bit integers.
    #[track_caller]
    fn checks(expected: usize, dtype: DType, f: impl Fn(&mut Builder, Value) -> Value) {
        let mut b = Builder::new("narrow");
        let ty = TensorType { dtype, shape: crate::types::Shape::new(vec![64i64.into()]) };
        let x = b.input("x", InputRole::Input, ty.clone()).unwrap();
        let y = f(&mut b, x);
        b.output("y", OutputRole::User, y);
        let graph = b.finish();
        let count = |target: &Target| {
            let plan = crate::compile::inductor(&graph, std::slice::from_ref(&ty), target, &Config::default()).unwrap();
            plan.program.checks.iter().filter(|c| c.contains("leaves 32 bits")).count()
        };
        assert_eq!(count(&Target::webgpu_default()), expected);
        assert_eq!(count(&Target::h100()), 0);
    }

    fn times(b: &mut Builder, x: Value, k: f64) -> Value {
        let k = b.full(DType::I64, k, [64i64]).unwrap();
        b.scalar(ScalarFn::Mul, &[x, k]).unwrap()
    }

    #[test]
    fn products_are_checked_unless_they_fit() {
        let widened = |b: &mut Builder, x: Value, k: f64| {
            let x = b.cast(x, DType::I64).unwrap();
            times(b, x, k)
        };
        checks(1, DType::I32, |b, x| widened(b, x, 1_000_000_007.0));
        checks(0, DType::U8, |b, x| widened(b, x, 1000.0));
        checks(0, DType::Bool, |b, x| widened(b, x, 1_000_000_007.0));
    }

    #[test]
    fn conversions_are_checked_unless_they_fit() {
        checks(1, DType::F32, |b, x| b.cast(x, DType::I64).unwrap());
        checks(1, DType::U32, |b, x| b.cast(x, DType::I64).unwrap());
        checks(0, DType::I32, |b, x| b.cast(x, DType::I64).unwrap());
    }

    #[test]
    fn bits_and_quotients_fit() {
        let of = |f: ScalarFn| {
            move |b: &mut Builder, x: Value| {
                let x = b.cast(x, DType::I64).unwrap();
                let y = b.neg(x).unwrap();
                b.scalar(f, &[x, y]).unwrap()
            }
        };
        // Of the smallest number there is no negative.
        for f in [ScalarFn::BitwiseAnd, ScalarFn::BitwiseXor, ScalarFn::Remainder, ScalarFn::Maximum] {
            checks(1, DType::I32, of(f));
            checks(0, DType::I16, of(f));
        }
        checks(2, DType::I32, of(ScalarFn::FloorDiv));
        checks(0, DType::I8, of(ScalarFn::Mul));
    }

    #[test]
    fn ranges_go_through_memory() {
        let squares = |b: &mut Builder, x: Value| {
            let x = b.cast(x, DType::I64).unwrap();
            let x = b.reduce(crate::ops::ReduceKind::Sum, x, &[0], true).unwrap();
            b.scalar(ScalarFn::Mul, &[x, x]).unwrap()
        };
        checks(0, DType::Bool, squares);
        checks(2, DType::I32, squares);
    }
}
