//! Python's numbers, constant or functions of sizes.

use crate::scalar::ScalarFn as F;
use crate::types::{DType, Dim, Relation};

/// A Python number.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// An integer or a size.
    Int(Dim),
    /// A float.
    Float(f64),
    /// A bool; `None` when it depends on sizes that are not known.
    Bool(Option<bool>),
    /// A quotient of two sizes, as a float.
    Quotient(Dim, Dim),
    /// A float that is a function of sizes.
    Formula(Formula),
    /// A bool: whether two sizes relate so.
    Test(Dim, Relation, Dim),
}

/// A function of sizes and floats.
#[derive(Clone, Debug, PartialEq)]
pub enum Formula {
    /// A number that is no formula.
    Number(Box<Scalar>),
    /// A function of others.
    Apply(F, Vec<Formula>),
}

impl Formula {
    /// Numbers that it is made of.
    pub fn weight(&self) -> usize {
        match self {
            Formula::Number(_) => 1,
            Formula::Apply(_, parts) => parts.iter().map(Formula::weight).sum(),
        }
    }
}

impl Scalar {
    /// As a float, when it is constant.
    pub fn to_f64(&self) -> Option<f64> {
        match self {
            Scalar::Int(n) => n.as_int().map(|n| n as f64),
            Scalar::Float(x) => Some(*x),
            Scalar::Bool(x) => x.map(|x| x as u8 as f64),
            Scalar::Quotient(..) | Scalar::Formula(_) | Scalar::Test(..) => None,
        }
    }

    /// The dtype that a number alone has: PyTorch's default dtypes.
    pub fn dtype(&self) -> DType {
        match self {
            Scalar::Int(_) => DType::I64,
            Scalar::Float(_) | Scalar::Quotient(..) | Scalar::Formula(_) => DType::F32,
            Scalar::Bool(_) | Scalar::Test(..) => DType::Bool,
        }
    }
}

/// A float as a quotient of integers, where its denominator is a small power of two.
pub fn fraction(x: f64) -> Option<(i64, i64)> {
    let scaled = x * 1024.0;
    let exact = scaled.fract() == 0.0 && scaled.abs() < (1u64 << 40) as f64;
    let shift = (scaled as i64).trailing_zeros().min(10);
    exact.then(|| (scaled as i64 >> shift, 1024 >> shift))
}
