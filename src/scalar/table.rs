//! One row per scalar function.

use super::Expr;
use super::arithmetic::{b, floor_div, maximum, minimum, philox, pow_i64, remainder};
use crate::types::DType;
use serde::{Deserialize, Serialize};

/// Which operand dtypes a function takes. All operands share one dtype, but for the condition of `where`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// Floats only.
    Float,
    /// Floats and integers.
    Number,
    /// Integers only.
    Int,
    /// Integers and bool.
    Bits,
    /// Bool only.
    Bool,
    /// Every dtype.
    Any,
}

impl Domain {
    /// Whether operands of that dtype are taken.
    pub fn admits(self, dtype: DType) -> bool {
        match self {
            Domain::Float => dtype.is_float(),
            Domain::Number => dtype != DType::Bool,
            Domain::Int => dtype.is_int(),
            Domain::Bits => !dtype.is_float(),
            Domain::Bool => dtype == DType::Bool,
            Domain::Any => true,
        }
    }
}

/// Derivative of a function, as one factor per operand to be multiplied by the cotangent.
#[derive(Clone, Copy)]
pub enum Grad {
    /// Partial derivatives from operands and result; `None` for an operand without one (the condition of `where`).
    Partials(fn(&[Expr], Expr) -> Vec<Option<Expr>>),
    /// Zero almost everywhere: the gradient is an exact zero (floor, sign, comparisons' float operands).
    Zero,
    /// Asking for a gradient is an error that names the function.
    NotDifferentiable,
}

/// How WGSL spells a function. Arguments are already spelled; f16 and bf16 are computed in f32.
#[derive(Clone, Copy)]
pub enum Wgsl {
    /// `(a OP b)`.
    Infix(&'static str),
    /// `name(a, ...)`, a built-in.
    Call(&'static str),
    /// A template with `{0}`, `{1}`, `{2}`.
    Template(&'static str),
    /// A function of `helpers.wgsl` of that name; variants for integers are `<name>_i` and `<name>_u`.
    Helper(&'static str),
}

/// Everything known about a scalar function.
pub struct Row {
    /// The function.
    pub op: ScalarFn,
    /// Name in graph text, ATen's where it has one.
    pub name: &'static str,
    /// Formula, NaN and infinity behavior.
    pub doc: &'static str,
    /// Number of operands.
    pub arity: usize,
    /// Dtypes taken.
    pub domain: Domain,
    /// True when the result is bool whatever the operands are.
    pub predicate: bool,
    /// Evaluation on floats; predicates give 0 or 1.
    pub eval_f64: fn(&[f64]) -> f64,
    /// Evaluation on integers and bool, before wrapping to the dtype.
    pub eval_i64: Option<fn(&[i64]) -> i64>,
    /// Derivative.
    pub grad: Grad,
    /// WGSL spelling.
    pub wgsl: Wgsl,
    /// Relative accuracy floor of the WGSL spelling against the exact value.
    pub floor: f64,
    /// Arithmetic cost, 1 for an addition.
    pub cost: u32,
}

macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// A function of the scalar table. The row of each states what it computes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[allow(missing_docs)]
        pub enum ScalarFn { $($(#[$doc])* $name),+ }
        impl ScalarFn {
            /// Every function, in table order.
            pub const ALL: &'static [ScalarFn] = &[$(ScalarFn::$name),+];
        }
    };
}
functions!(
    Neg,
    Abs,
    Sign,
    Sqrt,
    Rsqrt,
    Exp,
    Exp2,
    Expm1,
    Log,
    Log2,
    Log1p,
    Sin,
    Cos,
    Tan,
    Asin,
    Acos,
    Atan,
    Sinh,
    Cosh,
    Tanh,
    Erf,
    Sigmoid,
    Floor,
    Ceil,
    Round,
    Trunc,
    Reciprocal,
    Relu,
    IsNan,
    IsInf,
    LogicalNot,
    BitwiseNot,
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Remainder,
    Fmod,
    Pow,
    Maximum,
    Minimum,
    Atan2,
    StraightThrough,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    LogicalAnd,
    LogicalOr,
    LogicalXor,
    BitwiseAnd,
    BitwiseOr,
    BitwiseXor,
    ShiftLeft,
    ShiftRight,
    Where,
    Clamp,
    Philox,
);

impl ScalarFn {
    /// The table row.
    pub fn row(self) -> &'static Row {
        row(self)
    }

    /// Name in graph text.
    pub fn name(self) -> &'static str {
        row(self).name
    }

    /// The function of that name.
    pub fn parse(name: &str) -> Option<ScalarFn> {
        TABLE.iter().find(|r| r.name == name).map(|r| r.op)
    }

    /// Result dtype for operands of `dtype` (for `where`, the dtype of its last two operands).
    pub fn result(self, dtype: DType) -> DType {
        if row(self).predicate { DType::Bool } else { dtype }
    }

    /// Evaluates on numbers of `dtype` held as f64 or i64 bit-exactly; rounds and wraps the result to `dtype`.
    pub fn eval_float(self, dtype: DType, args: &[f64]) -> f64 {
        dtype.round((row(self).eval_f64)(args))
    }

    /// Evaluates on integers or bool; `None` when the function takes floats only.
    pub fn eval_int(self, dtype: DType, args: &[i64]) -> Option<i64> {
        if self == ScalarFn::BitwiseNot && dtype == DType::Bool {
            return Some(bi(args[0] == 0));
        }
        let value = row(self).eval_i64?(args);
        // A bool is its lowest bit, so that the inverted bits of true are false.
        Some(if row(self).predicate || dtype == DType::Bool { value & 1 } else { dtype.wrap(value) })
    }
}

/// The row of `f`.
pub fn row(f: ScalarFn) -> &'static Row {
    let row = &TABLE[f as usize];
    debug_assert!(row.op == f, "the table is in declaration order");
    row
}

const TIGHT: f64 = 1e-6;
const LN2: f64 = std::f64::consts::LN_2;

fn bi(x: bool) -> i64 {
    x as i64
}

/// The defaults of a row: a float function of one operand.
const fn float(op: ScalarFn, name: &'static str, doc: &'static str, eval: fn(&[f64]) -> f64, grad: Grad, wgsl: Wgsl) -> Row {
    Row { op, name, doc, arity: 1, domain: Domain::Float, predicate: false, eval_f64: eval, eval_i64: None, grad, wgsl, floor: TIGHT, cost: 4 }
}

impl Row {
    const fn of(mut self, domain: Domain, eval_i64: fn(&[i64]) -> i64) -> Row {
        self.domain = domain;
        self.eval_i64 = Some(eval_i64);
        self
    }
    const fn args(mut self, arity: usize) -> Row {
        self.arity = arity;
        self
    }
    const fn predicate(mut self) -> Row {
        self.predicate = true;
        self.cost = 1;
        self
    }
    const fn cheap(mut self) -> Row {
        self.cost = 1;
        self
    }
    const fn floor(mut self, floor: f64) -> Row {
        self.floor = floor;
        self
    }
}

fn none(_: &[f64]) -> f64 {
    f64::NAN
}

fn a(args: &[Expr]) -> Expr {
    args[0].clone()
}
fn c(args: &[Expr], k: usize) -> Expr {
    args[k].clone()
}
fn one(e: Expr) -> Vec<Option<Expr>> {
    vec![Some(e)]
}
fn two(x: Expr, y: Expr) -> Vec<Option<Expr>> {
    vec![Some(x), Some(y)]
}

/// Ties of `maximum` and `minimum` share the cotangent; beside a NaN nothing loses, and both have all of it, as in PyTorch.
fn extremum_grad(args: &[Expr], loses: ScalarFn) -> Vec<Option<Expr>> {
    let (x, y) = (c(args, 0), c(args, 1));
    let tie = x.clone().binary(ScalarFn::Eq, y.clone());
    let left = Expr::Const(0.5).if_(tie.clone(), Expr::Const(0.0).if_(x.clone().binary(loses, y.clone()), 1.0));
    let right = Expr::Const(0.5).if_(tie, Expr::Const(0.0).if_(y.binary(loses, x), 1.0));
    two(left, right)
}

use Grad::{NotDifferentiable, Partials, Zero};
use ScalarFn as F;
use Wgsl::{Call, Helper, Infix, Template};

/// All rows, in the order of [`ScalarFn`].
pub static TABLE: &[Row] = &[
    float(F::Neg, "neg", "-x", |x| -x[0], Partials(|_, _| one(Expr::Const(-1.0))), Template("(-{0})"))
        .of(Domain::Number, |x| x[0].wrapping_neg())
        .cheap(),
    float(F::Abs, "abs", "|x|", |x| x[0].abs(), Partials(|x, _| one(a(x).unary(F::Sign))), Call("abs"))
        .of(Domain::Number, |x| x[0].wrapping_abs())
        .cheap(),
    float(F::Sign, "sign", "-1, 0 or 1; 0 for NaN", |x| b(x[0] > 0.0) - b(x[0] < 0.0), Zero, Helper("sign_"))
        .of(Domain::Number, |x| x[0].signum())
        .cheap(),
    float(F::Sqrt, "sqrt", "square root; NaN below zero", |x| x[0].sqrt(), Partials(|_, y| one((y * 2.0).unary(F::Reciprocal))), Call("sqrt")),
    float(
        F::Rsqrt,
        "rsqrt",
        "1 / sqrt(x); infinity at zero",
        |x| 1.0 / x[0].sqrt(),
        Partials(|_, y| one(-0.5 * (y.clone() * (y.clone() * y)))),
        Helper("rsqrt_"),
    ),
    float(F::Exp, "exp", "e^x", |x| x[0].exp(), Partials(|_, y| one(y)), Helper("exp_")),
    float(F::Exp2, "exp2", "2^x", |x| x[0].exp2(), Partials(|_, y| one(y * LN2)), Call("exp2")),
    float(F::Expm1, "expm1", "e^x - 1, accurate near zero", |x| x[0].exp_m1(), Partials(|_, y| one(y + 1.0)), Helper("expm1_")),
    float(
        F::Log,
        "log",
        "natural logarithm; -infinity at zero, NaN below",
        |x| x[0].ln(),
        Partials(|x, _| one(a(x).unary(F::Reciprocal))),
        Helper("log_"),
    ),
    float(F::Log2, "log2", "binary logarithm", |x| x[0].log2(), Partials(|x, _| one((a(x) * LN2).unary(F::Reciprocal))), Helper("log2_")),
    float(
        F::Log1p,
        "log1p",
        "log(1 + x), accurate near zero",
        |x| x[0].ln_1p(),
        Partials(|x, _| one((a(x) + 1.0).unary(F::Reciprocal))),
        Helper("log1p_"),
    ),
    float(F::Sin, "sin", "sine, radians", |x| x[0].sin(), Partials(|x, _| one(a(x).unary(F::Cos))), Helper("sin_")),
    float(F::Cos, "cos", "cosine, radians", |x| x[0].cos(), Partials(|x, _| one(-a(x).unary(F::Sin))), Helper("cos_")),
    float(F::Tan, "tan", "tangent, radians", |x| x[0].tan(), Partials(|_, y| one(y.clone() * y + 1.0)), Helper("tan_")).floor(4e-6),
    float(
        F::Asin,
        "asin",
        "arc sine; NaN outside [-1, 1]",
        |x| x[0].asin(),
        Partials(|x, _| one((1.0 - a(x) * a(x)).unary(F::Rsqrt))),
        Helper("asin_"),
    ),
    float(
        F::Acos,
        "acos",
        "arc cosine; NaN outside [-1, 1]",
        |x| x[0].acos(),
        Partials(|x, _| one(-(1.0 - a(x) * a(x)).unary(F::Rsqrt))),
        Helper("acos_"),
    ),
    float(F::Atan, "atan", "arc tangent", |x| x[0].atan(), Partials(|x, _| one((a(x) * a(x) + 1.0).unary(F::Reciprocal))), Helper("atan_")),
    float(F::Sinh, "sinh", "hyperbolic sine", |x| x[0].sinh(), Partials(|x, _| one(a(x).unary(F::Cosh))), Helper("sinh_")),
    float(F::Cosh, "cosh", "hyperbolic cosine", |x| x[0].cosh(), Partials(|x, _| one(a(x).unary(F::Sinh))), Helper("cosh_")),
    float(F::Tanh, "tanh", "hyperbolic tangent", |x| x[0].tanh(), Partials(|_, y| one(1.0 - y.clone() * y)), Helper("tanh_")),
    float(
        F::Erf,
        "erf",
        "error function",
        |x| libm::erf(x[0]),
        Partials(|x, _| one((-(a(x) * a(x))).unary(F::Exp) * std::f64::consts::FRAC_2_SQRT_PI)),
        Helper("erf_"),
    ),
    float(
        F::Sigmoid,
        "sigmoid",
        "1 / (1 + e^-x), no overflow",
        |x| {
            if x[0] >= 0.0 {
                1.0 / (1.0 + (-x[0]).exp())
            } else {
                let e = x[0].exp();
                e / (1.0 + e)
            }
        },
        Partials(|_, y| one(y.clone() * (1.0 - y))),
        Helper("sigmoid_"),
    ),
    float(F::Floor, "floor", "largest integer not above", |x| x[0].floor(), Zero, Call("floor")).of(Domain::Number, |x| x[0]).cheap(),
    float(F::Ceil, "ceil", "smallest integer not below", |x| x[0].ceil(), Zero, Call("ceil")).of(Domain::Number, |x| x[0]).cheap(),
    float(F::Round, "round", "nearest integer, ties to even", |x| x[0].round_ties_even(), Zero, Call("round")).of(Domain::Number, |x| x[0]).cheap(),
    float(F::Trunc, "trunc", "integer part", |x| x[0].trunc(), Zero, Call("trunc")).of(Domain::Number, |x| x[0]).cheap(),
    float(F::Reciprocal, "reciprocal", "1 / x", |x| 1.0 / x[0], Partials(|_, y| one(-(y.clone() * y))), Template("(1.0 / {0})")).cheap(),
    float(
        F::Relu,
        "relu",
        "max(x, 0); minus zero and NaN stay, and NaN has the gradient of positive numbers",
        |x| if x[0] < 0.0 { 0.0 } else { x[0] },
        Partials(|_, y| one(Expr::Const(0.0).if_(y.binary(F::Le, 0.0), 1.0))),
        Helper("relu_"),
    )
    .of(Domain::Number, |x| x[0].max(0))
    .cheap(),
    float(F::IsNan, "is_nan", "whether x is NaN, by its bits", |x| b(x[0].is_nan()), Zero, Helper("is_nan_")).of(Domain::Number, |_| 0).predicate(),
    float(F::IsInf, "is_inf", "whether x is an infinity, by its bits", |x| b(x[0].is_infinite()), Zero, Helper("is_inf_"))
        .of(Domain::Number, |_| 0)
        .predicate(),
    float(F::LogicalNot, "logical_not", "not x, of a bool", none, NotDifferentiable, Template("(!{0})"))
        .of(Domain::Bool, |x| bi(x[0] == 0))
        .predicate(),
    float(F::BitwiseNot, "bitwise_not", "all bits inverted; logical not of a bool", none, NotDifferentiable, Helper("bitwise_not_"))
        .of(Domain::Bits, |x| !x[0])
        .cheap(),
    float(F::Add, "add", "x + y", |x| x[0] + x[1], Partials(|_, _| two(1.0.into(), 1.0.into())), Infix("+"))
        .of(Domain::Number, |x| x[0].wrapping_add(x[1]))
        .args(2)
        .cheap(),
    float(F::Sub, "sub", "x - y", |x| x[0] - x[1], Partials(|_, _| two(1.0.into(), (-1.0).into())), Infix("-"))
        .of(Domain::Number, |x| x[0].wrapping_sub(x[1]))
        .args(2)
        .cheap(),
    float(F::Mul, "mul", "x * y", |x| x[0] * x[1], Partials(|x, _| two(c(x, 1), c(x, 0))), Infix("*"))
        .of(Domain::Number, |x| x[0].wrapping_mul(x[1]))
        .args(2)
        .cheap(),
    float(F::Div, "div", "x / y, true division", |x| x[0] / x[1], Partials(|x, y| two(c(x, 1).unary(F::Reciprocal), -(y / c(x, 1)))), Infix("/"))
        .args(2)
        .cheap(),
    float(F::FloorDiv, "floor_div", "floor(x / y), exactly; integers divide by zero to 0", |x| floor_div(x[0], x[1]), Zero, Helper("floor_div_"))
        .of(Domain::Number, |x| if x[1] == 0 { 0 } else { x[0].wrapping_div(x[1]) - bi(x[0].wrapping_rem(x[1]) != 0 && (x[0] < 0) != (x[1] < 0)) })
        .args(2),
    float(
        F::Remainder,
        "remainder",
        "x - floor(x / y) * y: sign of the divisor; integer remainder by zero is 0",
        |x| remainder(x[0], x[1]),
        Partials(|x, _| two(1.0.into(), -c(x, 0).binary(F::FloorDiv, c(x, 1)))),
        Helper("remainder_"),
    )
    .of(Domain::Number, |x| {
        if x[1] == 0 {
            0
        } else {
            let r = x[0].wrapping_rem(x[1]);
            if r != 0 && (r < 0) != (x[1] < 0) { r + x[1] } else { r }
        }
    })
    .args(2),
    float(
        F::Fmod,
        "fmod",
        "x - trunc(x / y) * y: sign of the dividend",
        |x| x[0] % x[1],
        Partials(|x, _| two(1.0.into(), -(c(x, 0) / c(x, 1)).unary(F::Trunc))),
        Helper("fmod_"),
    )
    .of(Domain::Number, |x| if x[1] == 0 { 0 } else { x[0].wrapping_rem(x[1]) })
    .args(2),
    float(
        F::Pow,
        "pow",
        "x^y; x^0 = 1; negative x takes integral y",
        |x| x[0].powf(x[1]),
        Partials(|x, y| {
            let (base, exponent) = (c(x, 0), c(x, 1));
            let dx =
                Expr::Const(0.0).if_(exponent.clone().binary(F::Eq, 0.0), exponent.clone() * base.clone().binary(F::Pow, exponent.clone() - 1.0));
            let flat = base.clone().binary(F::Eq, 0.0).binary(F::LogicalAnd, exponent.binary(F::Ge, 0.0));
            let dy = Expr::Const(0.0).if_(flat, y * base.unary(F::Log));
            two(dx, dy)
        }),
        Helper("pow_"),
    )
    .of(Domain::Number, |x| pow_i64(x[0], x[1]))
    .args(2)
    .floor(2e-5),
    float(F::Maximum, "maximum", "the larger; NaN wins", |x| maximum(x[0], x[1]), Partials(|x, _| extremum_grad(x, F::Lt)), Helper("maximum_"))
        .of(Domain::Any, |x| x[0].max(x[1]))
        .args(2)
        .cheap(),
    float(F::Minimum, "minimum", "the smaller; NaN wins", |x| minimum(x[0], x[1]), Partials(|x, _| extremum_grad(x, F::Gt)), Helper("minimum_"))
        .of(Domain::Any, |x| x[0].min(x[1]))
        .args(2)
        .cheap(),
    float(
        F::Atan2,
        "atan2",
        "angle of the point (y, x) given as operands y, x; its gradient at the origin is zero",
        |x| x[0].atan2(x[1]),
        Partials(|x, _| {
            let norm = c(x, 0) * c(x, 0) + c(x, 1) * c(x, 1);
            let norm = Expr::Const(1.0).if_(norm.clone().binary(F::Eq, 0.0), norm);
            two(c(x, 1) / norm.clone(), -(c(x, 0) / norm))
        }),
        Helper("atan2_"),
    )
    .args(2),
    float(
        F::StraightThrough,
        "straight_through",
        "y in value, while the gradient goes to x as it is; operands (y, x)",
        |x| x[0],
        Partials(|_, _| vec![None, Some(1.0.into())]),
        Template("({0})"),
    )
    .args(2)
    .cheap(),
    float(F::Eq, "eq", "x = y; false with NaN", |x| b(x[0] == x[1]), Zero, Infix("==")).of(Domain::Any, |x| bi(x[0] == x[1])).args(2).predicate(),
    float(F::Ne, "ne", "x != y; true with NaN", |x| b(x[0] != x[1]), Zero, Template("(!({0} == {1}))"))
        .of(Domain::Any, |x| bi(x[0] != x[1]))
        .args(2)
        .predicate(),
    float(F::Lt, "lt", "x < y", |x| b(x[0] < x[1]), Zero, Infix("<")).of(Domain::Any, |x| bi(x[0] < x[1])).args(2).predicate(),
    float(F::Le, "le", "x <= y", |x| b(x[0] <= x[1]), Zero, Infix("<=")).of(Domain::Any, |x| bi(x[0] <= x[1])).args(2).predicate(),
    float(F::Gt, "gt", "x > y", |x| b(x[0] > x[1]), Zero, Infix(">")).of(Domain::Any, |x| bi(x[0] > x[1])).args(2).predicate(),
    float(F::Ge, "ge", "x >= y", |x| b(x[0] >= x[1]), Zero, Infix(">=")).of(Domain::Any, |x| bi(x[0] >= x[1])).args(2).predicate(),
    float(F::LogicalAnd, "logical_and", "both, of bools", none, NotDifferentiable, Infix("&&")).of(Domain::Bool, |x| x[0] & x[1]).args(2).predicate(),
    float(F::LogicalOr, "logical_or", "either, of bools", none, NotDifferentiable, Infix("||")).of(Domain::Bool, |x| x[0] | x[1]).args(2).predicate(),
    float(F::LogicalXor, "logical_xor", "exactly one, of bools", none, NotDifferentiable, Infix("!="))
        .of(Domain::Bool, |x| x[0] ^ x[1])
        .args(2)
        .predicate(),
    float(F::BitwiseAnd, "bitwise_and", "bits set in both", none, NotDifferentiable, Infix("&")).of(Domain::Bits, |x| x[0] & x[1]).args(2).cheap(),
    float(F::BitwiseOr, "bitwise_or", "bits set in either", none, NotDifferentiable, Infix("|")).of(Domain::Bits, |x| x[0] | x[1]).args(2).cheap(),
    float(F::BitwiseXor, "bitwise_xor", "bits set in one", none, NotDifferentiable, Helper("bitwise_xor_"))
        .of(Domain::Bits, |x| x[0] ^ x[1])
        .args(2)
        .cheap(),
    float(F::ShiftLeft, "shift_left", "x << y; 0 for y outside 0..31", none, NotDifferentiable, Helper("shift_left_"))
        .of(Domain::Int, |x| if (0..64).contains(&x[1]) { x[0] << x[1] } else { 0 })
        .args(2)
        .cheap(),
    float(
        F::ShiftRight,
        "shift_right",
        "x >> y, arithmetic for signed x; what is left of it by many bits for y below 0 or beyond",
        none,
        NotDifferentiable,
        Helper("shift_right_"),
    )
    .of(Domain::Int, |x| x[0] >> if (0..64).contains(&x[1]) { x[1] } else { 63 })
    .args(2)
    .cheap(),
    float(
        F::Where,
        "where",
        "x where the condition holds, else y; operands (condition, x, y)",
        |x| if x[0] != 0.0 { x[1] } else { x[2] },
        Partials(|x, _| vec![None, Some(Expr::Const(1.0).if_(c(x, 0), 0.0)), Some(Expr::Const(0.0).if_(c(x, 0), 1.0))]),
        Template("select({2}, {1}, {0})"),
    )
    .of(Domain::Any, |x| if x[0] != 0 { x[1] } else { x[2] })
    .args(3)
    .cheap(),
    float(
        F::Clamp,
        "clamp",
        "min(max(x, low), high); NaN stays, without a gradient; operands (x, low, high)",
        |x| minimum(maximum(x[0], x[1]), x[2]),
        Partials(|x, _| {
            let (v, lo, hi) = (c(x, 0), c(x, 1), c(x, 2));
            let inside = v.clone().binary(F::Ge, lo.clone()).binary(F::LogicalAnd, v.clone().binary(F::Le, hi.clone()));
            let below = v.clone().binary(F::Lt, lo.clone());
            let above = v.binary(F::Gt, hi.clone());
            let (room, crossed) = (lo.clone().binary(F::Lt, hi.clone()), lo.binary(F::Gt, hi));
            let flag = |cond: Expr| Expr::Const(1.0).if_(cond, 0.0);
            vec![Some(flag(inside)), Some(flag(below.binary(F::LogicalAnd, room))), Some(flag(above.binary(F::LogicalOr, crossed)))]
        }),
        Helper("clamp_"),
    )
    .of(Domain::Number, |x| x[0].max(x[1]).min(x[2]))
    .args(3)
    .cheap(),
    float(F::Philox, "philox", "Philox 4x32-10 bits from (key 0, key 1, element index), all u32", none, NotDifferentiable, Helper("philox_"))
        .of(Domain::Int, |x| philox(x[0] as u32, x[1] as u32, x[2] as u32) as i64)
        .args(3),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_order_and_named_uniquely() {
        assert_eq!(TABLE.len(), ScalarFn::ALL.len());
        for (row, op) in TABLE.iter().zip(ScalarFn::ALL) {
            assert_eq!(row.op, *op);
            assert_eq!(ScalarFn::parse(row.name), Some(*op));
        }
    }

    #[test]
    fn philox_matches_the_reference_vector() {
        // Random123's known answer for philox4x32-10 with zero key and zero counter.
        assert_eq!([0, 1, 2, 3].map(|i| philox(0, 0, i)), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    }
}
