//! Small expression trees over scalar functions: how rows state derivatives and decompositions.

use super::ScalarFn;
use std::ops::{Add, Div, Mul, Neg, Sub};

/// An expression over the operands and the result of a scalar function.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// Operand `k`.
    Arg(usize),
    /// The function's own result.
    Out,
    /// A constant of the operands' dtype.
    Const(f64),
    /// A scalar function applied to expressions.
    Call(ScalarFn, Vec<Expr>),
}

impl Expr {
    /// `f(self)`.
    pub fn unary(self, f: ScalarFn) -> Expr {
        Expr::Call(f, vec![self])
    }

    /// `f(self, other)`.
    pub fn binary(self, f: ScalarFn, other: impl Into<Expr>) -> Expr {
        Expr::Call(f, vec![self, other.into()])
    }

    /// `if cond { self } else { other }`.
    pub fn if_(self, cond: Expr, other: impl Into<Expr>) -> Expr {
        Expr::Call(ScalarFn::Where, vec![cond, self, other.into()])
    }

    /// Folds the tree with `leaf` for operands, result and constants and `call` for functions.
    pub fn fold<T, E>(&self, leaf: &mut dyn FnMut(&Expr) -> Result<T, E>, call: &mut dyn FnMut(ScalarFn, Vec<T>) -> Result<T, E>) -> Result<T, E> {
        match self {
            Expr::Call(f, args) => {
                let mut values = Vec::with_capacity(args.len());
                for a in args {
                    values.push(a.fold(leaf, call)?);
                }
                call(*f, values)
            }
            _ => leaf(self),
        }
    }
}

impl From<f64> for Expr {
    fn from(x: f64) -> Expr {
        Expr::Const(x)
    }
}

macro_rules! operator {
    ($trait:ident, $method:ident, $function:ident) => {
        impl<T: Into<Expr>> $trait<T> for Expr {
            type Output = Expr;
            fn $method(self, other: T) -> Expr {
                self.binary(ScalarFn::$function, other)
            }
        }
        impl $trait<Expr> for f64 {
            type Output = Expr;
            fn $method(self, other: Expr) -> Expr {
                Expr::Const(self).binary(ScalarFn::$function, other)
            }
        }
    };
}
operator!(Add, add, Add);
operator!(Sub, sub, Sub);
operator!(Mul, mul, Mul);
operator!(Div, div, Div);

impl Neg for Expr {
    type Output = Expr;
    fn neg(self) -> Expr {
        self.unary(ScalarFn::Neg)
    }
}
