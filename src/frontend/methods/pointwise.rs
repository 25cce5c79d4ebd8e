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
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[-1.0, 0.0, 2.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.abs())?;
    /// assert_eq!(y.to_string(), "[1. 0. 2.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    abs = Abs;
    /// -1, 0 or 1.
    sign = Sign;
    /// Square root.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2], &[4.0, 2.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.sqrt())?;
    /// assert_eq!(format!("{y:.3}"), "[2.    1.414]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    sqrt = Sqrt;
    /// `1 / sqrt(x)`.
    rsqrt = Rsqrt;
    /// `e^x`.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2], &[0.0, 1.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.exp())?;
    /// assert_eq!(format!("{y:.3}"), "[1.    2.718]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    exp = Exp;
    /// `2^x`.
    exp2 = Exp2;
    /// `e^x - 1`, exact near zero.
    expm1 = Expm1;
    /// Natural logarithm.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2], &[1.0, 10.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.log())?;
    /// assert_eq!(format!("{y:.3}"), "[0.    2.303]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
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
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[-1.0, 0.0, 2.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.tanh())?;
    /// assert_eq!(format!("{y:.3}"), "[-0.762  0.     0.964]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    tanh = Tanh;
    /// Error function.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[-1.0, 0.0, 2.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.erf())?;
    /// assert_eq!(format!("{y:.3}"), "[-0.843  0.     0.995]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    erf = Erf;
    /// `1 / (1 + e^-x)`.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[-1.0, 0.0, 2.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.sigmoid())?;
    /// assert_eq!(format!("{y:.3}"), "[0.269 0.5   0.881]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    sigmoid = Sigmoid;
    /// Largest integer below.
    floor = Floor;
    /// Smallest integer above.
    ceil = Ceil;
    /// Nearest integer, ties to even.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[0.5, 1.5, -1.2000000476837158]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.round())?;
    /// assert_eq!(y.to_string(), "[ 0.  2. -1.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    round = Round;
    /// Toward zero.
    trunc = Trunc;
    /// `1 / x`.
    reciprocal = Reciprocal;
    /// `max(x, 0)`.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[-1.0, 0.0, 2.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.relu())?;
    /// assert_eq!(y.to_string(), "[0. 0. 2.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
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
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::i32(&[2], &[-3, 5]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.floor_div(2))?;
    /// assert_eq!(y.to_string(), "[-2  2]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    floor_div = FloorDiv;
    /// Remainder with the divisor's sign.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::i32(&[2], &[-3, 5]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.remainder(4))?;
    /// assert_eq!(y.to_string(), "[1 1]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    remainder = Remainder;
    /// Remainder with the dividend's sign.
    fmod = Fmod;
    /// Power.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[1.0, -2.0, 3.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.pow(2.0))?;
    /// assert_eq!(y.to_string(), "[1. 4. 9.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    pow = Pow;
    /// Larger of both; NaN wins.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2], &[1.0, 5.0]);
    /// let y = HostTensor::f32(&[2], &[3.0, 2.0]);
    /// let z = Device::cpu().compute([&x, &y], |_, [x, y]| x.maximum(&y))?;
    /// assert_eq!(z.to_string(), "[3. 5.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
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
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[1.0, 2.0, 3.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.lt(2.0))?;
    /// assert_eq!(y.to_string(), "[ True False False]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
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
    /// `-x log(x)`, 0 at zero: an entropy's terms.
    entr = "special_entr.default";
    /// The share of a standard normal distribution below `x`.
    ndtr = "special_ndtr.default";
    /// Inverse of [`Tensor::ndtr`].
    ndtri = "special_ndtri.default";
    /// Logarithm of [`Tensor::ndtr`], exact far below zero.
    log_ndtr = "special_log_ndtr.default";
    /// Modified Bessel function of the first kind, of order 0.
    i0 = "i0.default";
    /// Whether the sign bit is set, as that of -0 is.
    signbit = "signbit.default";
    /// Whether it is infinity.
    isposinf = "isposinf.default";
    /// Whether it is minus infinity.
    isneginf = "isneginf.default";
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
    /// `log2(2^x + 2^y)`.
    logaddexp2 = "logaddexp2.default";
    /// `x log(y)`, 0 where `x` is.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2], &[0.0, 2.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.xlogy(&x))?;
    /// assert_eq!(format!("{y:.3}"), "[0.    1.386]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    xlogy = "xlogy.Tensor";
    /// `x log(1 + y)`, 0 where `x` is.
    xlog1py = "special_xlog1py.default";
    /// `x 2^y`.
    ldexp = "ldexp.Tensor";
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
    /// The number next to this one in the direction of the other.
    nextafter = "nextafter.default";
    /// The lower regularized incomplete gamma function of this shape parameter; it has a derivative by `other` only.
    igamma = "igamma.default";
    /// The upper regularized incomplete gamma function of this shape parameter; it has a derivative by `other` only.
    igammac = "igammac.default";
}

/// Selection and conversion.
impl Tensor {
    /// `log(x / (1 - x))` of this tensor brought into `eps..=1 - eps`.
    #[track_caller]
    pub fn logit_with(&self, eps: f64) -> Tensor {
        self.call("logit.default").with("eps", eps).one()
    }

    /// 0 below zero, 1 above, and `at_zero` there.
    #[track_caller]
    pub fn heaviside(&self, at_zero: &Tensor) -> Tensor {
        self.call("heaviside.default").with("values", at_zero).one()
    }

    /// The mantissa, from 0.5 to 1 in magnitude, and the exponent of two, i32.
    #[track_caller]
    pub fn frexp(&self) -> (Tensor, Tensor) {
        self.call("frexp.Tensor").pair()
    }

    /// `if self { x } else { y }`, element by element; `self` is bool. At least one of both is a tensor.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[-1.0, 0.0, 2.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.gt(0.0).where_(&x, 10.0 * &x))?;
    /// assert_eq!(y.to_string(), "[-10.   0.   2.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn where_(&self, x: impl Into<Operand>, y: impl Into<Operand>) -> Tensor {
        let (x, y) = (x.into(), y.into());
        if !matches!((&x, &y), (Operand::Tensor(_), _) | (_, Operand::Tensor(_))) {
            return self.fail("where", "at least one of both values is a tensor");
        }
        self.pointwise(ScalarFn::Where, &[x, y])
    }

    /// `x` where `mask` holds.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[-1.0, 0.0, 2.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.masked_fill(&x.lt(0.0), 9.0))?;
    /// assert_eq!(y.to_string(), "[9. 0. 2.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn masked_fill(&self, mask: &Tensor, x: impl Into<Operand>) -> Tensor {
        mask.where_(x, self)
    }

    /// `min(max(x, low), high)`.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[3], &[-1.0, 0.0, 2.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.clamp(-0.5, 1.0))?;
    /// assert_eq!(y.to_string(), "[-0.5  0.   1. ]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
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

    /// The bits of a float as those of the signed integer of its size, or of such an integer as a float's; without arithmetic, so that
    /// subnormal numbers and signs of zeros are exact on every device. No gradient passes.
    #[track_caller]
    pub fn bitcast(&self, dtype: DType) -> Tensor {
        self.unary("bitcast", |b, x| b.bitcast(x, dtype))
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
    ///
    /// ```
    /// # use inductor::{DType, Device, HostTensor};
    /// let x = HostTensor::f32(&[2], &[1.7000000476837158, -1.7000000476837158]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.to_dtype(DType::I32))?;
    /// assert_eq!(y.to_string(), "[ 1 -1]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
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
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2], &[0.0, 4.0]);
    /// let y = HostTensor::f32(&[2], &[4.0, 8.0]);
    /// let z = Device::cpu().compute([&x, &y], |_, [x, y]| x.lerp(&y, 0.25))?;
    /// assert_eq!(z.to_string(), "[1. 5.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
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
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2], &[f32::NAN, 1.0]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.nan_to_num())?;
    /// assert_eq!(y.to_string(), "[0. 1.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn nan_to_num(&self) -> Tensor {
        self.call("nan_to_num.default").one()
    }

    /// The value of `new` with the gradient of this tensor: the straight-through estimator.
    ///
    /// ```
    /// # use inductor::{Device, HostTensor};
    /// let x = HostTensor::f32(&[2], &[0.4000000059604645, 1.600000023841858]);
    /// let y = Device::cpu().compute([&x], |_, [x]| x.straight_through(&x.round()).square().grad(&[&x]).remove(0))?;
    /// assert_eq!(y.to_string(), "[0. 4.]");
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn straight_through(&self, new: &Tensor) -> Tensor {
        self.recorder.apply("straight_through", &[self, new], |b, v| crate::frontend::aten::gradients::straight_through(b, v[0], v[1]))
    }
}
