//! An online softmax as a maximum and a sum of exponentials: another spelling of a nest, for rows that stay in registers.

use super::{Form, Team};
use crate::loop_ir::{Combiner, IndexExpr, Instr, Nest, Stmt, Tag, Val, Write};
use crate::scalar::ScalarFn;
use serde::{Deserialize, Serialize};

/// A sum of exponentials below a maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ExpSum {
    /// The maximum.
    pub max: Val,
    /// The exponential of an element below it.
    pub exp: Val,
    /// Their sum.
    pub sum: Val,
}

/// The nest with the maximum and the sum of exponentials as two reductions: where rows stay in registers, each exponential is
/// computed once and serves the sum and what is written. `None` where there is nothing to expand.
pub fn expand_online(nest: &Nest) -> Option<(Nest, Vec<ExpSum>)> {
    let online = |s: &Stmt| matches!(s.instr, Instr::Reduce(Combiner::OnlineSoftmax, _));
    if nest.tag != Tag::Loop || !nest.body.iter().any(online) {
        return None;
    }
    let (mut body, mut map): (Vec<Stmt>, Vec<Val>) = (vec![], vec![]);
    let mut sums = vec![None; nest.body.len()];
    let mut all = vec![];
    for (i, stmt) in nest.body.iter().enumerate() {
        let mut push = |instr: Instr| {
            body.push(Stmt { instr, dtype: stmt.dtype });
            Val(body.len() as u32 - 1)
        };
        let value = match stmt.instr {
            Instr::Reduce(Combiner::OnlineSoftmax, x) => {
                let x = map[x.0 as usize];
                let max = push(Instr::Reduce(Combiner::Max, x));
                let below = push(Instr::Call(ScalarFn::Sub, vec![x, max]));
                let exp = push(Instr::Call(ScalarFn::Exp, vec![below]));
                let sum = push(Instr::Reduce(Combiner::Sum, exp));
                sums[i] = Some(sum);
                all.push(ExpSum { max, exp, sum });
                max
            }
            Instr::Proj(of, 1) if sums[of.0 as usize].is_some() => sums[of.0 as usize].expect("just seen"),
            _ => push(stmt.instr.map(&|v| map[v.0 as usize], &|e| rename(nest, e, &map))),
        };
        map.push(value);
    }
    let writes = nest.writes.iter().map(|w| Write { index: rename(nest, &w.index, &map), value: map[w.value.0 as usize], ..w.clone() });
    Some((Nest { writes: writes.collect(), body, ..nest.clone() }, all))
}

fn rename(nest: &Nest, e: &IndexExpr, map: &[Val]) -> IndexExpr {
    let axes = [nest.row_axes(), nest.col_axes()].concat();
    e.substitute(&|a| axes[a.id as usize].clone(), &|v, size| IndexExpr::value(map[v as usize].0, size))
}

/// The form of an expanded nest with what it says about these sums, where it keeps rows in registers.
pub fn keeping(form: &Form, nest: &Nest, sums: Vec<ExpSum>) -> Option<Form> {
    let Form::Rows(team) = form else { return None };
    // Where an exponential serves its sum alone, errors relative to the largest, which is one, are what counts.
    let level = nest.element_level();
    let rough = !nest.writes.iter().any(|w| nest.is_element_write(w, &level));
    (team.kept > 0).then(|| Form::Rows(Team { rough: if rough { sums } else { vec![] }, ..team.clone() }))
}
