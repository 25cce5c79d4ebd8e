//! Shapes and tensor types.

use super::{DType, Dim, Sizes};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The sizes of a tensor, outermost first. Row-major order is implied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Shape(pub Sizes);

impl Shape {
    /// Of those sizes.
    pub fn new(sizes: Vec<Dim>) -> Shape {
        Shape(sizes.into())
    }

    /// The shape of a 0-d tensor.
    pub fn scalar() -> Shape {
        Shape::new(vec![])
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// Number of elements.
    pub fn numel(&self) -> Dim {
        Dim::product(&self.0)
    }

    /// All sizes as integers, when none is symbolic.
    pub fn as_ints(&self) -> Option<Vec<usize>> {
        self.0.iter().map(|d| d.as_int().map(|n| n as usize)).collect()
    }

    /// True when both are equal for all sizes, as far as it can be shown.
    pub fn known_eq(&self, other: &Shape) -> bool {
        self.rank() == other.rank() && self.0.iter().zip(&other.0).all(|(a, b)| a.known_eq(b))
    }

    /// The shape with every size replaced.
    pub fn map(&self, f: &dyn Fn(&Dim) -> Dim) -> Shape {
        Shape::new(self.0.iter().map(f).collect())
    }

    /// Resolves a possibly negative dimension number.
    pub fn dim_index(&self, dim: i64) -> Result<usize, String> {
        let rank = self.rank() as i64;
        let at = if dim < 0 { dim + rank } else { dim };
        if (0..rank).contains(&at) { Ok(at as usize) } else { Err(format!("dimension {dim} is out of range for {self}")) }
    }
}

impl std::ops::Index<usize> for Shape {
    type Output = Dim;
    fn index(&self, i: usize) -> &Dim {
        &self.0[i]
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")
    }
}

/// Anything that names a shape: integers, `Dim`s, tuples and slices of them.
pub trait IntoShape {
    /// The shape.
    fn into_shape(self) -> Shape;
}

impl IntoShape for Shape {
    fn into_shape(self) -> Shape {
        self
    }
}
impl IntoShape for &Shape {
    fn into_shape(self) -> Shape {
        self.clone()
    }
}
impl<T: Into<Dim>> IntoShape for T {
    fn into_shape(self) -> Shape {
        Shape::new(vec![self.into()])
    }
}
impl IntoShape for () {
    fn into_shape(self) -> Shape {
        Shape::scalar()
    }
}
impl<T: Into<Dim> + Clone> IntoShape for &[T] {
    fn into_shape(self) -> Shape {
        Shape::new(self.iter().cloned().map(Into::into).collect())
    }
}
impl<T: Into<Dim> + Clone, const N: usize> IntoShape for &[T; N] {
    fn into_shape(self) -> Shape {
        self[..].into_shape()
    }
}
impl<T: Into<Dim> + Clone> IntoShape for &Vec<T> {
    fn into_shape(self) -> Shape {
        self[..].into_shape()
    }
}
impl<T: Into<Dim>> IntoShape for Vec<T> {
    fn into_shape(self) -> Shape {
        Shape::new(self.into_iter().map(Into::into).collect())
    }
}
impl<T: Into<Dim>, const N: usize> IntoShape for [T; N] {
    fn into_shape(self) -> Shape {
        Shape::new(self.into_iter().map(Into::into).collect())
    }
}
macro_rules! tuple_shape {
    ($($name:ident $var:ident),+) => {
        impl<$($name: Into<Dim>),+> IntoShape for ($($name,)+) {
            fn into_shape(self) -> Shape {
                let ($($var,)+) = self;
                Shape::new(vec![$($var.into()),+])
            }
        }
    };
}
tuple_shape!(A a);
tuple_shape!(A a, B b);
tuple_shape!(A a, B b, C c);
tuple_shape!(A a, B b, C c, D d);
tuple_shape!(A a, B b, C c, D d, E e);
tuple_shape!(A a, B b, C c, D d, E e, F f);
tuple_shape!(A a, B b, C c, D d, E e, F f, G g);
tuple_shape!(A a, B b, C c, D d, E e, F f, G g, H h);

/// Which dimensions an operator works on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dims {
    /// All of them.
    All,
    /// These; negative ones count from the end.
    Of(Vec<i64>),
}

/// Anything that names dimensions, or one number for each: an integer, a tuple, array, slice or vector of integers, `()` for all.
pub trait IntoDims {
    /// The dimensions.
    fn into_dims(self) -> Dims;
}

impl IntoDims for Dims {
    fn into_dims(self) -> Dims {
        self
    }
}
impl IntoDims for () {
    fn into_dims(self) -> Dims {
        Dims::All
    }
}
macro_rules! integer_dims {
    ($($int:ty),+) => {
        $(
            impl IntoDims for $int {
                fn into_dims(self) -> Dims { Dims::Of(vec![self as i64]) }
            }
            impl IntoDims for &[$int] {
                fn into_dims(self) -> Dims { Dims::Of(self.iter().map(|&n| n as i64).collect()) }
            }
            impl<const N: usize> IntoDims for [$int; N] {
                fn into_dims(self) -> Dims { self[..].into_dims() }
            }
            impl<const N: usize> IntoDims for &[$int; N] {
                fn into_dims(self) -> Dims { self[..].into_dims() }
            }
            impl IntoDims for Vec<$int> {
                fn into_dims(self) -> Dims { self[..].into_dims() }
            }
            impl IntoDims for &Vec<$int> {
                fn into_dims(self) -> Dims { self[..].into_dims() }
            }
            impl IntoDims for ($int, $int) {
                fn into_dims(self) -> Dims { [self.0, self.1].into_dims() }
            }
            impl IntoDims for ($int, $int, $int) {
                fn into_dims(self) -> Dims { [self.0, self.1, self.2].into_dims() }
            }
            impl IntoDims for ($int, $int, $int, $int) {
                fn into_dims(self) -> Dims { [self.0, self.1, self.2, self.3].into_dims() }
            }
        )+
    };
}
integer_dims!(i32, i64, u32, usize);

/// Element type and shape of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Sizes.
    pub shape: Shape,
}

impl TensorType {
    /// A type of that dtype and shape.
    pub fn new(dtype: DType, shape: impl IntoShape) -> TensorType {
        TensorType { dtype, shape: shape.into_shape() }
    }

    /// Number of elements.
    pub fn numel(&self) -> Dim {
        self.shape.numel()
    }

    /// Why no tensor is of this type: a size is negative for all values of its symbols, or its bytes cannot be counted.
    pub fn fault(&self) -> Option<String> {
        if let Some(size) = self.shape.0.iter().find(|d| d.range().1 < 0) {
            return Some(format!("size {size} of {self} is negative"));
        }
        let constants = || self.shape.0.iter().filter_map(Dim::as_int);
        let bytes = constants().try_fold(self.dtype.size() as i64, |n, d| n.checked_mul(d));
        let is_too_large = bytes.is_none() && !constants().any(|d| d == 0);
        is_too_large.then(|| format!("{self} has more elements than can be counted"))
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}

/// The NumPy broadcast of two shapes; the error names both.
pub fn broadcast_shapes(a: &Shape, b: &Shape) -> Result<Shape, String> {
    let rank = a.rank().max(b.rank());
    let one = Dim::int(1);
    let at = |s: &Shape, i: usize| -> Dim {
        let skip = rank - s.rank();
        if i < skip { one.clone() } else { s.0[i - skip].clone() }
    };
    (0..rank)
        .map(|i| {
            let (x, y) = (at(a, i), at(b, i));
            if y == one || x.known_eq(&y) {
                Ok(x)
            } else if x == one {
                Ok(y)
            } else {
                Err(format!("shapes do not broadcast: {a} and {b}"))
            }
        })
        .collect::<Result<Vec<_>, _>>()
        .map(Shape::new)
}

/// Row-major strides, in elements.
pub fn contiguous_strides(shape: &Shape) -> Vec<Dim> {
    let mut strides = vec![Dim::int(1); shape.rank()];
    for i in (0..shape.rank().saturating_sub(1)).rev() {
        strides[i] = strides[i + 1].clone() * &shape.0[i + 1];
    }
    strides
}
