//! An online softmax as a maximum and a sum of exponentials: another spelling of a nest, for rows that stay in registers.

use super::{Form, Team};
use crate::loop_ir::{BodyBuilder, Combiner, Instr, Nest, Rebase, Tag, Val};
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
    let online = |v: Val| matches!(nest.stmt(v).instr, Instr::Reduce(Combiner::OnlineSoftmax, _));
    if nest.tag != Tag::Loop || !nest.values().any(online) {
        return None;
    }
    let (mut b, mut to) = (BodyBuilder::with_capacity(nest.body.len()), Rebase::in_place());
    let mut sums: Vec<(Val, ExpSum)> = vec![];
    for v in nest.values() {
        match nest.stmt(v).instr {
            Instr::Reduce(Combiner::OnlineSoftmax, x) => {
                let x = to.value(x);
                let max = b.reduce(Combiner::Max, x);
                let below = b.call(ScalarFn::Sub, &[x, max]);
                let exp = b.call(ScalarFn::Exp, &[below]);
                let sum = b.reduce(Combiner::Sum, exp);
                to.set(v, max);
                sums.push((v, ExpSum { max, exp, sum }));
            }
            Instr::Proj(of, 1) if online(of) => {
                let (_, found) = sums.iter().find(|(v, _)| *v == of).expect("its statement came before");
                to.set(v, found.sum);
            }
            _ => drop(to.copy(&mut b, nest, v)),
        }
    }
    Some((to.finish(b, nest), sums.into_iter().map(|(_, sum)| sum).collect()))
}

/// The form of an expanded nest with what it says about these sums, where it keeps rows in registers.
pub fn keeping(form: &Form, nest: &Nest, sums: Vec<ExpSum>) -> Option<Form> {
    let Form::Rows(team) = form else { return None };
    // Where an exponential serves its sum alone, errors relative to the largest, which is one, are what counts.
    let level = nest.element_level();
    let rough = !nest.writes.iter().any(|w| nest.is_element_write(w, &level));
    (team.kept > 0).then(|| Form::Rows(Team { rough: if rough { sums } else { vec![] }, ..team.clone() }))
}
