//! Loads of buffers that hold one number become that number, before any kernel is looked at: most small nests are such numbers.

use crate::loop_ir::{BufferId, IndexExpr, Instr, Nest, Number, Stmt, Val, Write};
use crate::types::DType;
use rustc_hash::FxHashMap;

/// The number that a nest stores everywhere, when that is all it does: its buffer, the number and its dtype.
pub fn stored_number(nest: &Nest) -> Option<(BufferId, Number, DType)> {
    let ([stmt], [write]) = (&nest.body[..], &nest.writes[..]) else { return None };
    let Instr::Const(number) = stmt.instr else { return None };
    (nest.cols.is_empty() && !write.fold).then_some((write.buffer, number, stmt.dtype))
}

/// Puts numbers in the place of loads, and each of them once. Masked loads stay.
pub fn substitute_numbers(nest: &mut Nest, numbers: &FxHashMap<BufferId, Number>) {
    let number = |s: &Stmt| match &s.instr {
        Instr::Load { buffer, mask: None, .. } => numbers.get(buffer).copied(),
        _ => None,
    };
    if !nest.body.iter().any(|s| number(s).is_some()) {
        return;
    }
    for stmt in &mut nest.body {
        if let Some(n) = number(stmt) {
            stmt.instr = Instr::Const(n);
        }
    }
    let mut known: FxHashMap<Stmt, Val> = FxHashMap::default();
    let mut map: Vec<Val> = Vec::with_capacity(nest.body.len());
    let mut body: Vec<Stmt> = Vec::with_capacity(nest.body.len());
    for stmt in &nest.body {
        let stmt = Stmt { instr: stmt.instr.map(&|v| map[v.0 as usize], &|e| rename(e, &map)), dtype: stmt.dtype };
        let v = *known.entry(stmt.clone()).or_insert_with(|| {
            body.push(stmt);
            Val(body.len() as u32 - 1)
        });
        map.push(v);
    }
    let writes = nest.writes.iter().map(|w| Write { index: rename(&w.index, &map), value: map[w.value.0 as usize], ..w.clone() });
    nest.writes = writes.collect();
    nest.tag = super::merge::remap_tag(nest.tag, &map);
    nest.body = body;
}

fn rename(e: &IndexExpr, map: &[Val]) -> IndexExpr {
    if e.values().is_empty() {
        return e.clone();
    }
    e.substitute(&|a| IndexExpr::axis(a.id, &a.size), &|v, size| IndexExpr::value(map[v as usize].0, size))
}
