//! The table of scalar functions shared by graph, loop IR, interpreters and code generation.
//!
//! * Comes in: nothing but dtypes.
//! * Goes out: [`ScalarFn`] and its [`Row`]: documentation, evaluation in f64, f32 and i64, derivative, WGSL spelling,
//!   accuracy floor.
//! * Invariants: `row(f).op == f`; `eval` agrees with the WGSL spelling within `floor`; NaN propagates unless a row says
//!   otherwise; a derivative is an [`Expr`] over operands and result, or written out as not differentiable.
//! * Must not know: tensors, graphs, kernels.
//! * Add here: a pointwise function is one row of `table.rs`.

mod arithmetic;
mod expr;
mod table;

pub use arithmetic::{philox, philox_words};
pub use expr::Expr;
pub use table::{Domain, Grad, Row, ScalarFn, TABLE, Wgsl, row};

#[cfg(test)]
mod tests;
