//! Bodies of the nests that `schedule` makes.

use crate::loop_ir::{IndexExpr, Instr, Nest, Number, Stmt, Val};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim};

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

    /// The number of elements of a run for which a condition holds that no element after one without it has: a binary search, digit by
    /// digit. `holds` tests the element at a place of the run.
    pub fn count_before(&mut self, length: i64, holds: &mut dyn FnMut(&mut Statements, IndexExpr) -> Val) -> Val {
        let number = |b: &mut Statements, n: i64| b.push(Instr::Const(Number::Int(n)), DType::I32);
        let (end, one, mut count) = (number(self, length), number(self, 1), number(self, 0));
        let mut step = if length > 0 { 1 << length.ilog2() } else { 0 };
        while step > 0 {
            let width = number(self, step);
            let more = self.call(ScalarFn::Add, &[count, width], DType::I32);
            let within = self.call(ScalarFn::Minimum, &[more, end], DType::I32);
            let probe = self.call(ScalarFn::Sub, &[within, one], DType::I32);
            let there = holds(self, IndexExpr::value(probe.0, &Dim::int(length)));
            let fits = self.call(ScalarFn::Le, &[more, end], DType::Bool);
            let counts = self.call(ScalarFn::LogicalAnd, &[there, fits], DType::Bool);
            count = self.call(ScalarFn::Where, &[counts, more, count], DType::I32);
            step /= 2;
        }
        count
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
