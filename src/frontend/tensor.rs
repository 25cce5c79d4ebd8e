//! Handles of values being recorded, and their operators.

use super::recorder::Recorder;
use crate::graph::{Builder, Value};
use crate::scalar::ScalarFn;
use crate::types::{DType, Dim, Dims, HostTensor, IntoDims, Shape, TensorType};
use std::fmt;
use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Not, Rem, Sub};
use std::rc::Rc;

/// A value of a program being recorded. Cheap to clone, without a lifetime, and bound to its trace. A mistake gives a poisoned
/// handle: it was reported once, and whatever is made of it is silently poisoned too.
///
/// Operators take owned and borrowed operands and numbers, on the left `f64` and `i32`. Operands broadcast; dtypes do not mix, but
/// numbers take the tensor's dtype.
#[derive(Clone)]
pub struct Tensor {
    pub(super) recorder: Rc<Recorder>,
    pub(super) value: Option<Value>,
    pub(super) ty: TensorType,
}

impl Tensor {
    /// Element type and shape. Of a poisoned handle, a guess.
    pub fn ty(&self) -> &TensorType {
        &self.ty
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.ty.dtype
    }

    /// Sizes.
    pub fn shape(&self) -> &Shape {
        &self.ty.shape
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.ty.shape.rank()
    }

    /// The size of one dimension, counted from the end when negative; a dimension that is not there is reported, and has size 1.
    #[track_caller]
    pub fn size(&self, dim: i64) -> Dim {
        match self.ty.shape.dim_index(dim) {
            Ok(i) => self.ty.shape[i].clone(),
            Err(message) => {
                self.report("size", message);
                Dim::int(1)
            }
        }
    }

    /// All sizes of a tensor of rank `N`; another rank is reported, and gives ones.
    #[track_caller]
    pub fn sizes<const N: usize>(&self) -> [Dim; N] {
        match <[Dim; N]>::try_from(self.ty.shape.0.to_vec()) {
            Ok(sizes) => sizes,
            Err(_) => {
                self.report("sizes", format!("expected {N} dimensions, got {}", self.ty));
                std::array::from_fn(|_| Dim::int(1))
            }
        }
    }

    /// Whether a mistake was made on the way to this value.
    pub fn is_poisoned(&self) -> bool {
        self.value.is_none()
    }

    /// Reports a mistake about this tensor at the caller's line, unless it is poisoned already.
    #[track_caller]
    pub(super) fn report(&self, op: &str, message: impl fmt::Display) {
        if self.value.is_some() {
            self.recorder.fault(format!("{op}: {message}"));
        }
    }

    /// Reports a mistake and poisons.
    #[track_caller]
    pub(super) fn fail(&self, op: &str, message: impl fmt::Display) -> Tensor {
        self.report(op, message);
        self.recorder.poison(self.ty.clone())
    }

    /// Records an op of this tensor alone.
    #[track_caller]
    pub(super) fn unary(&self, op: &str, build: impl FnOnce(&mut Builder, Value) -> Result<Value, String>) -> Tensor {
        self.recorder.apply(op, &[self], |b, v| build(b, v[0]))
    }

    /// The index of that dimension, or a report.
    #[track_caller]
    pub(super) fn dim(&self, op: &str, dim: i64) -> Option<usize> {
        match self.ty.shape.dim_index(dim) {
            Ok(at) => Some(at),
            Err(message) => {
                self.report(op, message);
                None
            }
        }
    }

    /// Records an op of this tensor along one dimension.
    #[track_caller]
    pub(super) fn along(&self, op: &str, dim: i64, build: impl FnOnce(&mut Builder, Value, usize) -> Result<Value, String>) -> Tensor {
        match self.dim(op, dim) {
            Some(dim) => self.unary(op, |b, x| build(b, x, dim)),
            None => self.recorder.poison(self.ty.clone()),
        }
    }

    /// The indices of dimensions, all of them for `()` or an empty list, or a report.
    #[track_caller]
    pub(super) fn dims(&self, op: &str, dims: impl IntoDims) -> Option<Vec<usize>> {
        let mut at = vec![];
        let Dims::Of(list) = dims.into_dims() else { return Some((0..self.rank()).collect()) };
        for dim in list {
            match self.dim(op, dim)? {
                again if at.contains(&again) => {
                    self.report(op, format!("dimension {dim} of {} is named twice", self.ty));
                    return None;
                }
                dim => at.push(dim),
            }
        }
        Some(if at.is_empty() { (0..self.rank()).collect() } else { at })
    }

    /// Records an op of this tensor over dimensions; nothing where it has none.
    #[track_caller]
    pub(super) fn over(&self, op: &str, dims: Dims, build: impl FnOnce(&mut Builder, Value, &[usize]) -> Result<Value, String>) -> Tensor {
        match self.dims(op, dims) {
            None => self.recorder.poison(self.ty.clone()),
            Some(at) if at.is_empty() => self.clone(),
            Some(at) => self.unary(op, |b, x| build(b, x, &at)),
        }
    }

    /// A poisoned handle of no trace: its mistake is reported by the trace that it meets.
    #[track_caller]
    pub(super) fn stray(message: String) -> Tensor {
        Rc::new(Recorder::stray(message)).poison(TensorType::new(DType::F32, ()))
    }

    /// Records a scalar function of this tensor and others, which broadcast.
    #[track_caller]
    pub(super) fn pointwise(&self, f: ScalarFn, others: &[Operand]) -> Tensor {
        combine(f, &self.recorder, std::iter::once(Operand::Tensor(self.clone())).chain(others.iter().cloned()).collect())
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value {
            Some(v) => write!(f, "%{}: {}", v.node.0, self.ty),
            None => write!(f, "poison: {}", self.ty),
        }
    }
}

/// A tensor, or a number that takes the dtype of the tensor it meets.
#[derive(Clone, Debug)]
pub enum Operand {
    /// A tensor.
    Tensor(Tensor),
    /// A number.
    Number(f64),
    /// An integer, exactly.
    Integer(i64),
}

impl Operand {
    /// A number as a 0-d constant of that dtype, which must hold it: rounded where it is a float, as it is where not.
    pub(super) fn constant(&self, b: &mut Builder, dtype: DType) -> Result<Value, String> {
        match (self, dtype.int_range()) {
            (Operand::Number(x), Some((low, high))) if x.fract() != 0.0 || *x < low as f64 || *x > high as f64 => Err(format!("{x} is no {dtype}")),
            (Operand::Integer(n), Some((low, high))) if !(low..=high).contains(n) => Err(format!("{n} is no {dtype}")),
            (Operand::Integer(n), Some(_)) if n.unsigned_abs() > EXACT => {
                b.op(crate::ops::Constant::from_host(&HostTensor::from_i64(dtype, &[], &[*n])), &[])
            }
            (Operand::Integer(n), _) => b.constant(dtype, *n as f64),
            (Operand::Number(x), _) => b.constant(dtype, *x),
            (Operand::Tensor(x), _) => Err(format!("{x:?} is no number")),
        }
    }
}

/// Integers up to this are f64 numbers.
const EXACT: u64 = 1 << 53;

impl From<Tensor> for Operand {
    fn from(x: Tensor) -> Operand {
        Operand::Tensor(x)
    }
}
impl From<&Tensor> for Operand {
    fn from(x: &Tensor) -> Operand {
        Operand::Tensor(x.clone())
    }
}

/// Records `f`; numbers become 0-d constants of the dtype of the last tensor (the first may be a condition).
#[track_caller]
fn combine(f: ScalarFn, recorder: &Rc<Recorder>, operands: Vec<Operand>) -> Tensor {
    let tensors: Vec<&Tensor> = operands.iter().filter_map(|o| if let Operand::Tensor(x) = o { Some(x) } else { None }).collect();
    let dtype = tensors.last().map_or(DType::F32, |x| x.dtype());
    let data = if f == ScalarFn::Where { tensors.get(1..).unwrap_or_default() } else { &tensors[..] };
    let mixed = data.iter().any(|x| x.dtype() != dtype);
    recorder.apply(f.name(), &tensors, |b, values| {
        if mixed {
            // Found before broadcasting, so that the message shows the types as the user has them.
            return Err("operand dtypes differ".into());
        }
        let mut values = values.iter();
        let mut all = vec![];
        for operand in &operands {
            all.push(match operand {
                Operand::Tensor(_) => *values.next().expect("one value for each tensor"),
                number => number.constant(b, dtype)?,
            });
        }
        b.scalar(f, &all)
    })
}

macro_rules! numbers {
    ($($number:ty as $wide:ty as $variant:ident),+) => {
        $(impl From<$number> for Operand {
            fn from(x: $number) -> Operand { Operand::$variant(x as $wide) }
        })+
    };
}
numbers!(f32 as f64 as Number, f64 as f64 as Number, i32 as i64 as Integer, i64 as i64 as Integer, u32 as i64 as Integer);

impl From<usize> for Operand {
    fn from(x: usize) -> Operand {
        i64::try_from(x).map_or(Operand::Number(x as f64), Operand::Integer)
    }
}

// Numbers on the left are of one float and one integer type, so that a literal has one type and so has the result.
macro_rules! operator {
    ($trait:ident $method:ident $function:ident: $($number:ty),*) => {
        impl<T: Into<Operand>> $trait<T> for &Tensor {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, other: T) -> Tensor { self.pointwise(ScalarFn::$function, &[other.into()]) }
        }
        impl<T: Into<Operand>> $trait<T> for Tensor {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, other: T) -> Tensor { self.pointwise(ScalarFn::$function, &[other.into()]) }
        }
        $(
            impl $trait<Tensor> for $number {
                type Output = Tensor;
                #[track_caller]
                fn $method(self, other: Tensor) -> Tensor { self.$method(&other) }
            }
            impl $trait<&Tensor> for $number {
                type Output = Tensor;
                #[track_caller]
                fn $method(self, other: &Tensor) -> Tensor {
                    combine(ScalarFn::$function, &other.recorder, vec![self.into(), other.into()])
                }
            }
        )*
    };
}
operator!(Add add Add: f64, i32);
operator!(Sub sub Sub: f64, i32);
operator!(Mul mul Mul: f64, i32);
operator!(Div div Div: f64, i32);
operator!(Rem rem Remainder: f64, i32);
operator!(BitAnd bitand BitwiseAnd:);
operator!(BitOr bitor BitwiseOr:);
operator!(BitXor bitxor BitwiseXor:);

impl Neg for &Tensor {
    type Output = Tensor;
    #[track_caller]
    fn neg(self) -> Tensor {
        self.pointwise(ScalarFn::Neg, &[])
    }
}
impl Neg for Tensor {
    type Output = Tensor;
    #[track_caller]
    fn neg(self) -> Tensor {
        -&self
    }
}
impl Not for &Tensor {
    type Output = Tensor;
    #[track_caller]
    fn not(self) -> Tensor {
        self.pointwise(if self.dtype() == DType::Bool { ScalarFn::LogicalNot } else { ScalarFn::BitwiseNot }, &[])
    }
}
impl Not for Tensor {
    type Output = Tensor;
    #[track_caller]
    fn not(self) -> Tensor {
        !&self
    }
}

#[cfg(test)]
mod tests {
    use crate::error::Error;
    use crate::frontend::{Tensor, Trace, trace};
    use crate::types::{DType, Dim};

    /// The type of what `f` makes of an f32[3, 4] and an i32[4], or the faults.
    fn check(f: impl FnOnce(&Trace, &Tensor, &Tensor) -> Tensor) -> String {
        let mut ty = String::new();
        let result = trace("t", |t| {
            let (x, n) = (t.input("x", DType::F32, (3, 4)), t.input("n", DType::I32, 4));
            let out = f(t, &x, &n);
            ty = out.ty().to_string();
            Ok(out)
        });
        match result {
            Ok(_) => ty,
            Err(Error::Trace(faults)) => faults.into_iter().map(|f| f.message).collect::<Vec<_>>().join("; "),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn operators_take_owned_borrowed_and_numbers() {
        assert_eq!(check(|_, x, _| 2.0 * x + x.clone() - 1 / (x * x)), "f32[3, 4]");
        assert_eq!(check(|_, _, n| (n % 3) & !(n.clone()) | n), "i32[4]");
        assert_eq!(check(|_, x, _| -x / 3.5f32), "f32[3, 4]");
        assert_eq!(check(|_, x, _| (1.0 - x).exp() + (2 * x).sqrt()), "f32[3, 4]");
    }

    #[test]
    fn dtypes_do_not_mix() {
        assert_eq!(check(|_, x, n| x * n), "mul: operand dtypes differ: f32[3, 4] x i32[4]");
        assert_eq!(check(|_, _, n| n * 0.5), "mul: 0.5 is no i32: i32[4]");
    }

    #[test]
    fn numbers_fit_their_dtype() {
        assert_eq!(check(|_, _, n| n.cast(DType::I8) + 1000), "add: 1000 is no i8: i8[4]");
        assert_eq!(check(|_, _, n| n.cast(DType::U8) + -1), "add: -1 is no u8: u8[4]");
        assert_eq!(check(|_, _, n| n + 3e9), "add: 3000000000 is no i32: i32[4]");
        assert_eq!(check(|_, _, n| n + f64::NAN), "add: NaN is no i32: i32[4]");
        assert_eq!(check(|t, _, _| t.full(DType::I8, 3, 128.0)), "full: 128 is no i8");
        assert_eq!(check(|t, _, _| t.full(DType::I32, 3, 0.5)), "full: 0.5 is no i32");
        assert_eq!(check(|_, _, n| n.cast(DType::I16).clamp(-1.0, 1e6)), "clamp: 1000000 is no i16: i16[4]");
        assert_eq!(check(|_, _, n| n.cast(DType::I64) + i64::MAX), "i64[4]");
        assert_eq!(check(|_, x, _| x + usize::MAX), "f32[3, 4]");
    }

    #[test]
    fn sizes_never_panic() {
        assert_eq!(check(|_, x, _| x.reshape([x.size(-1), x.size(0)])), "f32[4, 3]");
        assert_eq!(check(|_, x, _| x * x.size(2).as_int().unwrap()), "size: dimension 2 is out of range for [3, 4]");
        assert_eq!(
            check(|_, x, _| {
                let [a, _, _] = x.sizes();
                assert_eq!(a, Dim::int(1));
                x.clone()
            }),
            "sizes: expected 3 dimensions, got f32[3, 4]"
        );
    }
}
