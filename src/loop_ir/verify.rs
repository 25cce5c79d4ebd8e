//! Collects every fault of a nest.

use super::{IndexExpr, Instr, Nest, Tag, Term, Val, Write};
use crate::types::DType;

/// Every broken invariant of `nest`, in order; empty when it is sound.
pub fn verify(nest: &Nest) -> Vec<String> {
    let mut faults = vec![];
    for (i, stmt) in nest.body.iter().enumerate() {
        let mut fault = |message: String| faults.push(format!("%{i}: {}: {message}", stmt.instr));
        if stmt.instr.operands().iter().any(|v| v.0 as usize >= i) {
            fault("reads a value that is not defined before it".into());
            continue;
        }
        match &stmt.instr {
            Instr::Index(e) => check_axes(nest, e, &mut fault),
            Instr::Load { index, mask, .. } => {
                check_axes(nest, index, &mut fault);
                check_mask(nest, *mask, &mut fault);
            }
            Instr::Bound { index, mask, .. } => {
                if nest.dtype(*index).is_float() || nest.dtype(*index) != stmt.dtype {
                    fault("the index is no integer of the result's dtype".into());
                }
                check_mask(nest, *mask, &mut fault);
            }
            Instr::Call(f, args) => {
                let data = if *f == crate::scalar::ScalarFn::Where { &args[1..] } else { &args[..] };
                let dtype = data.first().map(|&v| nest.dtype(v)).unwrap_or(stmt.dtype);
                if args.len() != f.row().arity {
                    fault(format!("takes {} operands", f.row().arity));
                } else if data.iter().any(|&v| nest.dtype(v) != dtype) || stmt.dtype != f.result(dtype) {
                    fault(format!("dtypes disagree: {:?} gives {}", args.iter().map(|&v| nest.dtype(v).name()).collect::<Vec<_>>(), stmt.dtype));
                }
            }
            Instr::Proj(t, k) => {
                let results = match &nest.stmt(*t).instr {
                    Instr::Reduce(c, _) => c.results(),
                    Instr::Sort { .. } => 2,
                    _ => 1,
                };
                if *k as usize >= results {
                    fault(format!("%{} has {results} results", t.0));
                }
            }
            _ => {}
        }
    }
    for w in &nest.writes {
        let mut fault = |message: String| faults.push(format!("write to b{}: {message}", w.buffer.0));
        if w.value.0 as usize >= nest.body.len() {
            fault("stores a value that does not exist".into());
        }
        check_axes(nest, &w.index, &mut fault);
        if w.fold {
            check_fold(nest, w, &mut fault);
        }
        if w.first.is_some() && (w.fold || !nest.body.iter().any(|s| matches!(s.instr, Instr::Sort { .. }))) {
            fault("only a sorted row has a head to store".into());
        }
    }
    check_tag(nest, &mut faults);
    faults
}

fn check_mask(nest: &Nest, mask: Option<Val>, fault: &mut dyn FnMut(String)) {
    if mask.is_some_and(|m| nest.dtype(m) != DType::Bool) {
        fault("the mask is not bool".into());
    }
}

fn check_axes(nest: &Nest, e: &IndexExpr, fault: &mut dyn FnMut(String)) {
    e.visit(&mut |t| {
        if let Term::Axis(a) = t {
            let size = nest.rows.iter().chain(&nest.cols).nth(a.id as usize);
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
    if nest.body.get(w.value.0 as usize).is_some_and(|_| nest.dtype(w.value) != DType::F32) {
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

fn check_tag(nest: &Nest, faults: &mut Vec<String>) {
    let is_reduce = |v: Val| nest.body.get(v.0 as usize).is_some_and(|s| matches!(s.instr, Instr::Reduce(super::Combiner::Sum, _)));
    match nest.tag {
        Tag::Matmul { dot, batch, .. } if !is_reduce(dot) || nest.rows.len() != batch as usize + 2 => {
            faults.push("the matmul tag does not fit the body".into());
        }
        Tag::ScatterSum { sum, axis, .. } if !is_reduce(sum) || axis as usize >= nest.rows.len() => {
            faults.push("the scatter tag does not fit the body".into());
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
