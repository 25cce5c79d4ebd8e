//! Bodies of the nests that `schedule` makes.

use crate::loop_ir::{Instr, Nest, Stmt, Val};
use crate::scalar::ScalarFn;
use crate::types::DType;

/// A body under construction.
#[derive(Default)]
pub struct Statements(pub Vec<Stmt>);

impl Statements {
    /// Appends a statement.
    pub fn push(&mut self, instr: Instr, dtype: DType) -> Val {
        self.0.push(Stmt { instr, dtype });
        Val(self.0.len() as u32 - 1)
    }

    /// Appends a scalar function.
    pub fn call(&mut self, f: ScalarFn, args: &[Val], dtype: DType) -> Val {
        self.push(Instr::Call(f, args.to_vec()), dtype)
    }
}

/// What a value is computed from, itself last.
pub fn needed(nest: &Nest, v: Val) -> Vec<Val> {
    let mut wanted = vec![false; v.0 as usize + 1];
    wanted[v.0 as usize] = true;
    for i in (0..wanted.len()).rev() {
        if wanted[i] {
            nest.body[i].instr.operands().iter().for_each(|o| wanted[o.0 as usize] = true);
        }
    }
    (0..wanted.len() as u32).map(Val).filter(|v| wanted[v.0 as usize]).collect()
}
