//! Collects every fault of a nest.

use super::facts::is_constant_along;
use super::{Combiner, IndexExpr, Instr, Nest, Number, Stmt, Tag, Term, Val, Write};
use crate::scalar::ScalarFn;
use crate::types::{Bindings, DType, Dim};
use std::collections::HashSet;

/// Points of a domain that are visited one by one to see whether an index repeats, where its strides do not tell.
const VISITED: i64 = 4096;

/// Every broken invariant of `nest`, in order; empty when it is sound. Values that are not there are told alone: what else is to hold
/// speaks of values.
pub fn verify(nest: &Nest) -> Vec<String> {
    let missing = check_values(nest);
    if !missing.is_empty() {
        return missing;
    }
    let mut faults = vec![];
    for (i, stmt) in nest.body.iter().enumerate() {
        check_statement(nest, stmt, nest.dtype(Val(i as u32)), &mut |message| faults.push(format!("%{i}: {}: {message}", stmt.instr)));
    }
    for w in &nest.writes {
        check_write(nest, w, &mut |message| faults.push(format!("write to b{}: {message}", w.buffer.0)));
    }
    check_tag(nest, &mut faults);
    faults
}

/// Values are read after their definition only, and results that a statement has.
fn check_values(nest: &Nest) -> Vec<String> {
    let mut faults = vec![];
    for (i, stmt) in nest.body.iter().enumerate() {
        let fault = match &stmt.instr {
            instr if instr.operands().iter().any(|v| v.0 as usize >= i) => "reads a value that is not defined before it".into(),
            Instr::Proj(t, k) if *k as usize >= results_of(&nest.stmt(*t).instr) => {
                format!("%{} has {} results", t.0, results_of(&nest.stmt(*t).instr))
            }
            _ => continue,
        };
        faults.push(format!("%{i}: {}: {fault}", stmt.instr));
    }
    let is_missing = |v: &Val| v.0 as usize >= nest.body.len();
    let writes = nest.writes.iter().filter(|w| super::facts::stored(w).any(|v| is_missing(&v)));
    faults.extend(writes.map(|w| format!("write to b{}: stores a value that does not exist", w.buffer.0)));
    if nest.tag.values().iter().any(is_missing) {
        faults.push("the tag names a value that does not exist".into());
    }
    faults
}

fn results_of(instr: &Instr) -> usize {
    match instr {
        Instr::Reduce(c, _) => c.results(),
        Instr::Sort { .. } => 2,
        _ => 1,
    }
}

fn check_statement(nest: &Nest, stmt: &Stmt, result: DType, fault: &mut dyn FnMut(String)) {
    match &stmt.instr {
        Instr::Const(n) if stmt.dtype.is_float() != matches!(n, Number::Float(_)) => fault(format!("is no constant of {}", stmt.dtype)),
        Instr::Index(e) => check_axes(nest, e, fault),
        Instr::Load { index, mask, .. } => {
            check_axes(nest, index, fault);
            check_mask(nest, *mask, fault);
        }
        Instr::Bound { index, mask, .. } => {
            if nest.dtype(*index).is_float() || nest.dtype(*index) != stmt.dtype {
                fault("the index is no integer of the result's dtype".into());
            }
            check_mask(nest, *mask, fault);
        }
        Instr::Call(f, args) => check_call(nest, *f, args, stmt.dtype, fault),
        Instr::Bitcast(x) if nest.dtype(*x).size() != stmt.dtype.size() || nest.dtype(*x).is_float() == stmt.dtype.is_float() => {
            fault(format!("no bits of {} are those of {}", nest.dtype(*x), stmt.dtype));
        }
        Instr::Contract { a, b, .. } if [*a, *b].iter().any(|v| nest.dtype(*v) != stmt.dtype) || stmt.dtype != DType::F32 => {
            fault("the factors are not f32".into());
        }
        Instr::Proj(..) if stmt.dtype != result => fault(format!("the result is of {result}")),
        _ => {}
    }
}

fn check_call(nest: &Nest, f: ScalarFn, args: &[Val], result: DType, fault: &mut dyn FnMut(String)) {
    if args.len() != f.row().arity {
        return fault(format!("takes {} operands", f.row().arity));
    }
    let data = if f == ScalarFn::Where { &args[1..] } else { args };
    let dtype = data.first().map_or(result, |&v| nest.dtype(v));
    if data.iter().any(|&v| nest.dtype(v) != dtype) || result != f.result(dtype) {
        fault(format!("dtypes disagree: {:?} gives {result}", args.iter().map(|&v| nest.dtype(v).name()).collect::<Vec<_>>()));
    }
}

fn check_write(nest: &Nest, w: &Write, fault: &mut dyn FnMut(String)) {
    check_axes(nest, &w.index, fault);
    if w.first.is_some()
        && (w.fold || !nest.is_element_write(w, &nest.element_level()) || !nest.body.iter().any(|s| matches!(s.instr, Instr::Sort { .. })))
    {
        return fault("only a sorted row has a head to store".into());
    }
    check_once(nest, w, fault);
    if w.fold {
        check_fold(nest, w, fault);
    }
}

fn check_mask(nest: &Nest, mask: Option<Val>, fault: &mut dyn FnMut(String)) {
    if mask.is_some_and(|m| nest.dtype(m) != DType::Bool) {
        fault("the mask is not bool".into());
    }
}

fn check_axes(nest: &Nest, e: &IndexExpr, fault: &mut dyn FnMut(String)) {
    e.visit(&mut |t| {
        if let Term::Axis(a) = t {
            let size = nest.rows.iter().chain(&nest.cols).chain(&nest.inner).nth(a.id as usize);
            if size != Some(&a.size) {
                fault(format!("axis i{} of size {} is not in the domain", a.id, a.size));
            }
        }
    });
}

/// A sum over rows needs columns of its own, chunks that agree with the nest's other sums, and a dtype that sums.
fn check_fold(nest: &Nest, w: &Write, fault: &mut dyn FnMut(String)) {
    let first_col = nest.rows.len() as u32;
    let chunks = nest.chunk_axes().unwrap_or(0) as u32;
    if nest.dtype(w.value) != DType::F32 {
        fault("sums over rows are of f32".into());
    }
    if nest.tag != Tag::Loop || !w.index.values().is_empty() {
        fault("sums over rows are of plain loops at plain places".into());
    }
    let sizes = nest.rows.iter().chain(&nest.cols);
    for (id, size) in sizes.enumerate().map(|(id, size)| (id as u32, size)) {
        if (id < chunks || id >= first_col) && !size.is(1) && !w.index.uses_axis(|a| a == id) {
            fault(format!("the sum does not tell i{id} apart"));
        }
    }
}

/// Every point that a write visits stores at a place of its own; places computed by the body are not looked at.
fn check_once(nest: &Nest, w: &Write, fault: &mut dyn FnMut(String)) {
    let level = nest.element_level();
    let mut sizes = if nest.is_element_write(w, &level) { nest.sizes() } else { nest.rows.to_vec() };
    match (&w.first, &nest.cols[..]) {
        (None, _) => {}
        (Some(first), [_]) => sizes[nest.rows.len()] = first.clone(),
        _ => return,
    }
    if w.fold || !w.index.values().is_empty() || sizes.iter().any(|d| d.range().0 <= 0) {
        return;
    }
    // Features share their row's softmax: what is the same for all of them is stored once.
    let shared = |i: usize| nest.attention_features() == Some(i) && is_constant_along(nest, w.value, i as u32);
    let told = |(i, d): (usize, &Dim)| d.is(1) || w.index.uses_axis(|a| a as usize == i) || shared(i);
    match sizes.iter().enumerate().position(|axis| !told(axis)) {
        Some(i) => fault(format!("every i{i} stores at the same place")),
        None if !(0..sizes.len()).any(shared) && repeats(&w.index, &sizes) => fault("two points store at the same place".into()),
        None => {}
    }
}

/// Whether an index takes a number twice, as far as can be seen: by its strides, or by visiting a small domain.
fn repeats(e: &IndexExpr, sizes: &[Dim]) -> bool {
    let Some(sizes) = sizes.iter().map(Dim::as_int).collect::<Option<Vec<i64>>>() else { return false };
    let stride = |i: usize| e.linear_coefficient(i as u32)?.as_int()?.checked_abs();
    let strides: Option<Vec<(i64, i64)>> = (0..sizes.len()).filter(|&i| sizes[i] > 1).map(|i| Some((stride(i)?, sizes[i]))).collect();
    let mut reached = 0i64;
    let apart = strides.is_some_and(|mut strides| {
        strides.sort_unstable();
        strides.into_iter().all(|(stride, size)| {
            let wider = stride > reached;
            reached = reached.saturating_add(stride.saturating_mul(size - 1));
            wider
        })
    });
    let points = sizes.iter().try_fold(1i64, |n, d| n.checked_mul(*d));
    let small = points.is_some_and(|n| n <= VISITED);
    let mut seen = HashSet::new();
    let fresh = |at: Vec<i64>| e.eval(&at, &|_| 0, &Bindings::new()).is_ok_and(|i| seen.insert(i));
    !apart && small && !super::naive::points(&sizes).into_iter().all(fresh)
}

fn check_tag(nest: &Nest, faults: &mut Vec<String>) {
    let summed = |v: Val| if let Instr::Reduce(Combiner::Sum, x) = nest.stmt(v).instr { Some(x) } else { None };
    match nest.tag {
        Tag::Matmul { a, b, dot, batch, m, .. } => {
            let products = [vec![a, b], vec![b, a]].map(|factors| Instr::Call(ScalarFn::Mul, factors));
            let (first, rows) = (batch.saturating_add(m), nest.rows.len() as u32);
            let along = |v: Val, mut axes: std::ops::Range<u32>| axes.any(|axis| !is_constant_along(nest, v, axis));
            if m == 0 || first >= rows || summed(dot).is_none_or(|x| !products.contains(&nest.stmt(x).instr)) {
                faults.push("the matmul tag does not fit the body".into());
            } else if along(a, first..rows) || along(b, batch..first) {
                faults.push("the left operand of a product varies with its columns, or the right one with its rows".into());
            }
        }
        Tag::ScatterSum { index, axis, source, sum } => {
            if summed(sum).is_none() || axis as usize >= nest.rows.len() {
                faults.push("the scatter tag does not fit the body".into());
            } else if !is_constant_along(nest, index, axis) || !is_constant_along(nest, source, axis) {
                faults.push("what is scattered varies with the place that it is scattered to".into());
            }
        }
        Tag::Attention { .. } => faults.extend(super::attention(nest).err()),
        _ if !nest.inner.is_empty() || nest.body.iter().any(|s| matches!(s.instr, Instr::Contract { .. })) => {
            faults.push("inner axes are of attention".into());
        }
        Tag::Segments { start, end } => {
            let level = nest.element_level();
            if [start, end].iter().any(|v| level.get(v.0 as usize) != Some(&false)) {
                faults.push("the segments of a row differ by column".into());
            }
        }
        _ => {}
    }
}
