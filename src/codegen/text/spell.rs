//! WGSL spelling of constants, conversions and the functions of the scalar table.

use super::emit::Emitter;
use super::storage::{Kind, long_literal};
use crate::loop_ir::Number;
use crate::scalar::{ScalarFn, Wgsl};
use crate::types::DType;

/// A constant of a kind. WGSL has no infinities, NaN or subnormal literals: they are spelled by their bits.
pub fn constant(em: &mut Emitter, kind: Kind, n: Number) -> Result<String, String> {
    Ok(match kind {
        Kind::F32 => float(em, n.as_f64() as f32),
        Kind::F64 => {
            let x = n.as_f64();
            if x.is_finite() { format!("({x:?}lf)") } else { format!("f64({})", float(em, x as f32)) }
        }
        Kind::I32 => int(n.as_i64())?,
        Kind::U32 => format!("{}u", u32::try_from(n.as_i64()).map_err(|_| format!("the constant {} does not fit u32", n.as_i64()))?),
        Kind::I64 => match n.as_i64() {
            i64::MIN => "(-9223372036854775807li - 1li)".into(),
            n if n < 0 => format!("({n}li)"),
            n => format!("{n}li"),
        },
        Kind::Bool => (n.as_i64() != 0).to_string(),
    })
}

fn int(n: i64) -> Result<String, String> {
    Ok(match i32::try_from(n).map_err(|_| format!("the constant {n} does not fit 32 bits; this device lacks the capability i64"))? {
        i32::MIN => "(-2147483647i - 1i)".into(),
        n if n < 0 => format!("({n}i)"),
        n => format!("{n}i"),
    })
}

/// An f32 constant.
pub fn float(em: &mut Emitter, x: f32) -> String {
    if x == 0.0 && x.is_sign_positive() {
        "0.0f".into()
    } else if x.is_normal() {
        if x < 0.0 { format!("({x:?}f)") } else { format!("{x:?}f") }
    } else {
        format!("{}({:#010x}u)", em.helper("bits_"), x.to_bits())
    }
}

/// A u32 index as a number of a kind; an index below zero has wrapped.
pub fn from_index(kind: Kind, index: &str) -> String {
    match kind {
        Kind::U32 => index.to_string(),
        Kind::I32 => format!("i32({index})"),
        Kind::I64 => format!("i64(i32({index}))"),
        Kind::F32 => format!("f32(i32({index}))"),
        Kind::F64 => format!("f64(i32({index}))"),
        Kind::Bool => format!("({index} != 0u)"),
    }
}

/// An i64 as an i32, whose lowest bits it is.
pub fn to_i32(text: &str) -> String {
    match long_literal(text).map(|n| int(n as i32 as i64)) {
        Some(Ok(literal)) => literal,
        _ => format!("i32({text})"),
    }
}

/// Reduces the result of integer arithmetic to the width of `dtype`.
pub fn wrap(dtype: DType, text: String) -> String {
    match dtype {
        DType::I8 => format!("(({text} << 24u) >> 24u)"),
        DType::I16 => format!("(({text} << 16u) >> 16u)"),
        DType::U8 => format!("({text} & 0xffu)"),
        _ => text,
    }
}

/// A scalar function of operands of `dtype`.
pub fn call(em: &mut Emitter, f: ScalarFn, dtype: DType, args: &[&str]) -> Result<String, String> {
    let kind = em.unit.kind(dtype)?;
    if let Some(text) = special(f, kind, args).or_else(|| compared(em, f, kind, args)) {
        return Ok(text);
    }
    Ok(match f.row().wgsl {
        // The built-in takes f32 only.
        Wgsl::Call("exp2") if kind == Kind::F64 => format!("{}({})", em.helper("exp2_d"), args[0]),
        Wgsl::Infix(op) => format!("({} {op} {})", args[0], args[1]),
        Wgsl::Call(name) => format!("{name}({})", args.join(", ")),
        Wgsl::Template(template) => {
            let mut out = template.to_string();
            for (k, a) in args.iter().enumerate() {
                out = out.replace(&format!("{{{k}}}"), a);
            }
            out
        }
        Wgsl::Helper(name) => {
            let suffix = match kind {
                Kind::Bool => return Err(format!("{} of bool has no WGSL spelling", f.name())),
                kind => kind.suffix(),
            };
            let full = format!("{name}{suffix}");
            if !super::helpers::exists(&full) {
                return Err(format!("{} of {dtype} is not available on GPUs", f.name()));
            }
            format!("{}({})", em.helper(&full), args.join(", "))
        }
    })
}

/// A float of special bits, or the value of a name, of which the driver knows nothing.
pub fn opaque(em: &mut Emitter, kind: Kind, operand: Result<Number, &str>) -> String {
    match (kind, operand) {
        (Kind::F64, Ok(n)) => format!("{}(f64({}))", em.helper("opaque_d"), float(em, n.as_f64() as f32)),
        (Kind::F64, Err(name)) => format!("{}({name})", em.helper("opaque_d")),
        (_, Ok(n)) => format!("{}({:#010x}u)", em.helper("opaque_bits_"), (n.as_f64() as f32).to_bits()),
        (_, Err(name)) => format!("{}({name})", em.helper("opaque_")),
    }
}

/// Whether drivers simplify this function of floats as if all numbers were finite: `0 * x` to 0, `x - x` to 0, `x / x` to 1.
pub fn is_simplified(f: ScalarFn) -> bool {
    use ScalarFn as F;
    matches!(f, F::Add | F::Sub | F::Mul | F::Div | F::Reciprocal)
}

/// Comparisons that are not the table's operator: of one float with itself, which drivers take as known, and of 64-bit integers
/// where the adapter gets them wrong.
fn compared(em: &mut Emitter, f: ScalarFn, kind: Kind, args: &[&str]) -> Option<String> {
    use ScalarFn as F;
    let is_float = matches!(kind, Kind::F32 | Kind::F64);
    if is_float && matches!(f, F::Eq | F::Ne | F::Le | F::Ge) && args[0] == args[1] {
        let is_nan = em.helper(&format!("is_nan_{}", kind.suffix()));
        return Some(if f == F::Ne { format!("{is_nan}({})", args[0]) } else { format!("(!{is_nan}({}))", args[0]) });
    }
    if kind != Kind::I64 || em.unit.target.caps.i64_comparisons {
        return None;
    }
    let (x, y) = (*args.first()?, *args.get(1)?);
    let (not, x, y) = match f {
        F::Lt => ("", x, y),
        F::Gt => ("", y, x),
        F::Le => ("!", y, x),
        F::Ge => ("!", x, y),
        _ => return None,
    };
    Some(format!("({not}{}({x}, {y}))", em.helper("less_l")))
}

/// Where a kind needs another spelling than the table's.
fn special(f: ScalarFn, kind: Kind, args: &[&str]) -> Option<String> {
    use ScalarFn as F;
    let integer = matches!(kind, Kind::I32 | Kind::U32 | Kind::I64);
    Some(match (f, kind) {
        (F::Neg, Kind::U32) => format!("(0u - {})", args[0]),
        (F::Abs, Kind::U32) => args[0].to_string(),
        (F::Floor | F::Ceil | F::Round | F::Trunc, _) if integer => args[0].to_string(),
        (F::IsNan | F::IsInf, _) if integer => "false".into(),
        (F::Lt, Kind::Bool) => format!("(!{} && {})", args[0], args[1]),
        (F::Le, Kind::Bool) => format!("(!{} || {})", args[0], args[1]),
        (F::Gt, Kind::Bool) => format!("({} && !{})", args[0], args[1]),
        (F::Ge, Kind::Bool) => format!("({} || !{})", args[0], args[1]),
        (F::Maximum, Kind::Bool) => format!("({} || {})", args[0], args[1]),
        (F::Minimum, Kind::Bool) => format!("({} && {})", args[0], args[1]),
        (F::BitwiseNot, Kind::Bool) => format!("(!{})", args[0]),
        (F::BitwiseNot, _) => format!("(~{})", args[0]),
        (F::BitwiseXor, Kind::Bool) => format!("({} != {})", args[0], args[1]),
        (F::BitwiseXor, _) => format!("({} ^ {})", args[0], args[1]),
        (F::Reciprocal, Kind::F64) => format!("(1.0lf / {})", args[0]),
        _ => return None,
    })
}

/// The bits of a number as those of another dtype of its size. Halves are f32 in shaders, and their bits i32.
pub fn bitcast(em: &mut Emitter, from: DType, to: DType, x: &str) -> Result<String, String> {
    if from.size() == 8 && em.unit.kind(DType::I64)? != Kind::I64 {
        return Err("bits of f64 need the capability of 64-bit integers".into());
    }
    Ok(match (from, to) {
        (DType::F16, _) => format!("(bitcast<i32>({}({x}) << 16u) >> 16u)", em.helper("f16_bits_")),
        (DType::BF16, _) => format!("(bitcast<i32>({}({x}) << 16u) >> 16u)", em.helper("bf16_bits_")),
        (_, DType::F16) => format!("unpack2x16float(bitcast<u32>({x}) & 0xffffu).x"),
        (_, DType::BF16) => format!("bitcast<f32>(bitcast<u32>({x}) << 16u)"),
        (DType::F32, _) => format!("bitcast<i32>({x})"),
        (_, DType::F32) => format!("bitcast<f32>({x})"),
        (DType::F64, _) => format!("bitcast<i64>({x})"),
        _ => format!("bitcast<f64>({x})"),
    })
}

/// Conversion between dtypes: floats to integers truncate and saturate and NaN gives 0, anything to bool is `!= 0`.
pub fn cast(em: &mut Emitter, from: DType, to: DType, x: &str) -> Result<String, String> {
    let (source, target) = (em.unit.kind(from)?, em.unit.kind(to)?);
    if to == DType::Bool {
        return Ok(match source {
            Kind::Bool => x.to_string(),
            Kind::F32 => format!("((bitcast<u32>({x}) & 0x7fffffffu) != 0u)"),
            _ => format!("(!({x} == {}))", source.zero()),
        });
    }
    if source == Kind::Bool {
        return Ok(match target {
            Kind::F32 => format!("select(0.0f, 1.0f, {x})"),
            Kind::F64 => format!("select(0.0lf, 1.0lf, {x})"),
            Kind::I32 => format!("select(0i, 1i, {x})"),
            Kind::U32 => format!("select(0u, 1u, {x})"),
            Kind::I64 => format!("select(0li, 1li, {x})"),
            Kind::Bool => x.to_string(),
        });
    }
    let from_float = matches!(source, Kind::F32 | Kind::F64);
    let converted = match (source, target) {
        (a, b) if a == b => x.to_string(),
        (Kind::F32, Kind::I32) => format!("{}({x})", em.helper("to_i32_")),
        (Kind::F32, Kind::U32) => format!("{}({x})", em.helper("to_u32_")),
        (Kind::F32, Kind::I64) => format!("{}({x})", em.helper("to_i64_")),
        (Kind::F64, Kind::I32) => format!("{}({x})", em.helper("to_i32_d")),
        (Kind::F64, Kind::U32) => format!("{}({x})", em.helper("to_u32_d")),
        (Kind::F64, Kind::I64) => format!("{}({x})", em.helper("to_i64_d")),
        // The front end extends by the sign of the target, not of the source.
        (Kind::U32, Kind::I64) => format!("i64(u64({x}))"),
        _ => format!("{}({x})", target.wgsl()),
    };
    Ok(match to {
        DType::F16 => format!("{}({converted})", em.helper("round_f16_")),
        DType::BF16 => format!("{}({converted})", em.helper("round_bf16_")),
        DType::I8 if from_float => format!("clamp({converted}, -128i, 127i)"),
        DType::I16 if from_float => format!("clamp({converted}, -32768i, 32767i)"),
        DType::U8 if from_float => format!("min({converted}, 255u)"),
        _ => wrap(to, converted),
    })
}
