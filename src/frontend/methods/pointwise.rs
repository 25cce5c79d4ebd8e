//! Functions of elements, selection and conversion.

use crate::frontend::tensor::{Operand, Tensor};
use crate::ops;
use crate::scalar::ScalarFn;
use crate::types::DType;

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident = $function:ident;)+) => {
        /// Functions of one element.
        impl Tensor {
            $($(#[$doc])* #[track_caller] pub fn $name(&self) -> Tensor { self.pointwise(ScalarFn::$function, &[]) })+
        }
    };
}
unary! {
    /// `-x`, as the operator.
    neg = Neg;
    /// `|x|`.
    abs = Abs;
    /// -1, 0 or 1.
    sign = Sign;
    /// Square root.
    sqrt = Sqrt;
    /// `1 / sqrt(x)`.
    rsqrt = Rsqrt;
    /// `e^x`.
    exp = Exp;
    /// `2^x`.
    exp2 = Exp2;
    /// `e^x - 1`, exact near zero.
    expm1 = Expm1;
    /// Natural logarithm.
    log = Log;
    /// Binary logarithm.
    log2 = Log2;
    /// `log(1 + x)`, exact near zero.
    log1p = Log1p;
    /// Sine.
    sin = Sin;
    /// Cosine.
    cos = Cos;
    /// Tangent.
    tan = Tan;
    /// Inverse sine.
    asin = Asin;
    /// Inverse cosine.
    acos = Acos;
    /// Inverse tangent.
    atan = Atan;
    /// Hyperbolic sine.
    sinh = Sinh;
    /// Hyperbolic cosine.
    cosh = Cosh;
    /// Hyperbolic tangent.
    tanh = Tanh;
    /// Error function.
    erf = Erf;
    /// `1 / (1 + e^-x)`.
    sigmoid = Sigmoid;
    /// Largest integer below.
    floor = Floor;
    /// Smallest integer above.
    ceil = Ceil;
    /// Nearest integer, ties to even.
    round = Round;
    /// Toward zero.
    trunc = Trunc;
    /// `1 / x`.
    reciprocal = Reciprocal;
    /// `max(x, 0)`.
    relu = Relu;
    /// Whether it is NaN.
    is_nan = IsNan;
    /// Whether it is an infinity.
    is_inf = IsInf;
    /// Whether it is false.
    logical_not = LogicalNot;
    /// All bits inverted.
    bitwise_not = BitwiseNot;
}

macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident = $function:ident;)+) => {
        /// Functions of two elements; operands broadcast, numbers take the tensor's dtype.
        impl Tensor {
            $($(#[$doc])* #[track_caller] pub fn $name(&self, other: impl Into<Operand>) -> Tensor {
                self.pointwise(ScalarFn::$function, &[other.into()])
            })+
        }
    };
}
binary! {
    /// `x + y`, as the operator.
    add = Add;
    /// `x - y`, as the operator.
    sub = Sub;
    /// `x * y`, as the operator.
    mul = Mul;
    /// `x / y`, as the operator.
    div = Div;
    /// Quotient toward minus infinity.
    floor_div = FloorDiv;
    /// Remainder with the divisor's sign.
    remainder = Remainder;
    /// Remainder with the dividend's sign.
    fmod = Fmod;
    /// Power.
    pow = Pow;
    /// Larger of both; NaN wins.
    maximum = Maximum;
    /// Smaller of both; NaN wins.
    minimum = Minimum;
    /// Angle of the point (`other`, `self`).
    atan2 = Atan2;
    /// Whether equal.
    eq = Eq;
    /// Whether not equal.
    ne = Ne;
    /// Whether less.
    lt = Lt;
    /// Whether less or equal.
    le = Le;
    /// Whether greater.
    gt = Gt;
    /// Whether greater or equal.
    ge = Ge;
    /// Whether both hold.
    logical_and = LogicalAnd;
    /// Whether any holds.
    logical_or = LogicalOr;
    /// Whether exactly one holds.
    logical_xor = LogicalXor;
    /// Bits shifted up.
    shift_left = ShiftLeft;
    /// Bits shifted down.
    shift_right = ShiftRight;
}

macro_rules! unary_rows {
    ($($(#[$doc:meta])* $name:ident = $row:literal;)+) => {
        /// Further functions of one element.
        impl Tensor {
            $($(#[$doc])* #[track_caller] pub fn $name(&self) -> Tensor { self.call($row).one() })+
        }
    };
}
unary_rows! {
    /// Decimal logarithm.
    log10 = "log10.default";
    /// Inverse hyperbolic sine.
    asinh = "asinh.default";
    /// Inverse hyperbolic cosine.
    acosh = "acosh.default";
    /// Inverse hyperbolic tangent.
    atanh = "atanh.default";
    /// `1 - erf(x)`, exact for large `x`.
    erfc = "erfc.default";
    /// Inverse of the error function.
    erfinv = "erfinv.default";
    /// Logarithm of the absolute gamma function.
    lgamma = "lgamma.default";
    /// Derivative of [`Tensor::lgamma`].
    digamma = "digamma.default";
    /// `x - trunc(x)`.
    frac = "frac.default";
    /// Whether it is neither infinite nor NaN.
    is_finite = "isfinite.default";
    /// `log(x / (1 - x))`.
    logit = "logit.default";
    /// `sin(pi x) / (pi x)`, 1 at zero.
    sinc = "sinc.default";
    /// Degrees as radians.
    deg2rad = "deg2rad.default";
    /// Radians as degrees.
    rad2deg = "rad2deg.default";
}

macro_rules! binary_rows {
    ($($(#[$doc:meta])* $name:ident = $row:literal;)+) => {
        /// Further functions of two tensors, which broadcast.
        impl Tensor {
            $($(#[$doc])* #[track_caller] pub fn $name(&self, other: &Tensor) -> Tensor { self.call($row).with("other", other).one() })+
        }
    };
}
binary_rows! {
    /// `log(e^x + e^y)`.
    logaddexp = "logaddexp.default";
    /// `sqrt(x^2 + y^2)`.
    hypot = "hypot.default";
    /// The magnitude of the first with the sign of the second.
    copysign = "copysign.Tensor";
    /// Larger of both; a number wins over NaN.
    fmax = "fmax.default";
    /// Smaller of both; a number wins over NaN.
    fmin = "fmin.default";
    /// Greatest common divisor of integers.
    gcd = "gcd.default";
    /// Least common multiple of integers.
    lcm = "lcm.default";
}

/// Selection and conversion.
impl Tensor {
    /// `if self { x } else { y }`, element by element; `self` is bool. At least one of both is a tensor.
    #[track_caller]
    pub fn where_(&self, x: impl Into<Operand>, y: impl Into<Operand>) -> Tensor {
        let (x, y) = (x.into(), y.into());
        if !matches!((&x, &y), (Operand::Tensor(_), _) | (_, Operand::Tensor(_))) {
            return self.fail("where", "at least one of both values is a tensor");
        }
        self.pointwise(ScalarFn::Where, &[x, y])
    }

    /// `x` where `mask` holds.
    #[track_caller]
    pub fn masked_fill(&self, mask: &Tensor, x: impl Into<Operand>) -> Tensor {
        mask.where_(x, self)
    }

    /// `min(max(x, low), high)`.
    #[track_caller]
    pub fn clamp(&self, low: impl Into<Operand>, high: impl Into<Operand>) -> Tensor {
        self.pointwise(ScalarFn::Clamp, &[low.into(), high.into()])
    }

    /// `max(x, low)`.
    #[track_caller]
    pub fn clamp_min(&self, low: impl Into<Operand>) -> Tensor {
        self.maximum(low)
    }

    /// `min(x, high)`.
    #[track_caller]
    pub fn clamp_max(&self, high: impl Into<Operand>) -> Tensor {
        self.minimum(high)
    }

    /// Converted to `dtype`.
    #[track_caller]
    pub fn cast(&self, dtype: DType) -> Tensor {
        self.unary("cast", |b, x| b.cast(x, dtype))
    }

    /// The same value as a constant to derivatives: no gradient passes. What reaches the loss only through detached values is
    /// not trained, so that parts of a model can be held still, or a target made of the model itself.
    ///
    /// ```
    /// use inductor::{Config, DType, Device, HostTensor, compile_vjp, trace};
    /// let traced = trace("square", |t| {
    ///     let x = t.input("x", DType::F32, 3);
    ///     Ok((&x * x.detach()).sum_all())
    /// })?;
    /// let step = compile_vjp(&traced, &Device::cpu(), &Config::default())?;
    /// let result = step.run(&mut step.init(0)?, [&HostTensor::f32(&[3], &[1.0, 2.0, 3.0])])?;
    /// assert_eq!(result.gradients()?[0].1.to_f32(), [1.0, 2.0, 3.0]);
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn detach(&self) -> Tensor {
        self.unary("detach", |b, x| b.op(ops::Detach::default(), &[x]))
    }

    /// Converted to `dtype`; another name of [`Tensor::cast`].
    #[track_caller]
    pub fn to_dtype(&self, dtype: DType) -> Tensor {
        self.cast(dtype)
    }

    /// As an index, i32.
    #[track_caller]
    pub(in crate::frontend) fn as_index(&self) -> Tensor {
        if self.is_poisoned() { self.clone() } else { self.cast(DType::I32) }
    }

    /// `x * x`.
    #[track_caller]
    pub fn square(&self) -> Tensor {
        self * self
    }

    /// Whether both are equal but for a difference of `atol + rtol * |other|`.
    #[track_caller]
    pub fn isclose(&self, other: &Tensor, rtol: f64, atol: f64) -> Tensor {
        self.call("isclose.default").with("other", other).with("rtol", rtol).with("atol", atol).one()
    }

    /// `self + weight * (end - self)`.
    #[track_caller]
    pub fn lerp(&self, end: &Tensor, weight: impl Into<Operand>) -> Tensor {
        match weight.into() {
            Operand::Tensor(weight) => self.call("lerp.Tensor").with("end", end).with("weight", &weight).one(),
            weight => self.call("lerp.Scalar").with("end", end).with("weight", weight).one(),
        }
    }

    /// `self + value * x * y`.
    #[track_caller]
    pub fn addcmul(&self, x: &Tensor, y: &Tensor, value: f64) -> Tensor {
        self.call("addcmul.default").with("tensor1", x).with("tensor2", y).with("value", value).one()
    }

    /// `self + value * x / y`.
    #[track_caller]
    pub fn addcdiv(&self, x: &Tensor, y: &Tensor, value: f64) -> Tensor {
        self.call("addcdiv.default").with("tensor1", x).with("tensor2", y).with("value", value).one()
    }

    /// NaN replaced by zero, and infinities by the largest and smallest finite numbers.
    #[track_caller]
    pub fn nan_to_num(&self) -> Tensor {
        self.call("nan_to_num.default").one()
    }

    /// The value of `new` with the gradient of this tensor: the straight-through estimator.
    #[track_caller]
    pub fn straight_through(&self, new: &Tensor) -> Tensor {
        self.recorder.apply("straight_through", &[self, new], |b, v| crate::frontend::aten::gradients::straight_through(b, v[0], v[1]))
    }
}
