//! Element types.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The element type of a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE 754 binary32, the default.
    #[default]
    F32,
    /// IEEE 754 binary16; accumulates in f32.
    F16,
    /// The upper half of an f32; accumulates in f32.
    BF16,
    /// IEEE 754 binary64.
    F64,
    /// Signed 32-bit integer.
    I32,
    /// Signed 64-bit integer.
    I64,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 8-bit integer.
    U8,
    /// Signed 8-bit integer.
    I8,
    /// Signed 16-bit integer.
    I16,
    /// A truth value, one byte on the host.
    Bool,
}

impl DType {
    /// Every dtype, in declaration order.
    pub const ALL: [DType; 11] =
        [DType::F32, DType::F16, DType::BF16, DType::F64, DType::I32, DType::I64, DType::U32, DType::U8, DType::I8, DType::I16, DType::Bool];

    /// Bytes of one element on the host.
    pub fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F16 | DType::BF16 | DType::I16 => 2,
            DType::U8 | DType::I8 | DType::Bool => 1,
        }
    }

    /// True for f16 and bf16.
    pub fn is_half(self) -> bool {
        matches!(self, DType::F16 | DType::BF16)
    }

    /// True for f16, bf16, f32 and f64.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::BF16 | DType::F64)
    }

    /// True for signed and unsigned integers, false for bool.
    pub fn is_int(self) -> bool {
        !self.is_float() && self != DType::Bool
    }

    /// The name used in graph text, as `f32`.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::F64 => "f64",
            DType::I32 => "i32",
            DType::I64 => "i64",
            DType::U32 => "u32",
            DType::U8 => "u8",
            DType::I8 => "i8",
            DType::I16 => "i16",
            DType::Bool => "bool",
        }
    }

    /// The dtype of that [`name`](DType::name), if there is one.
    pub fn parse(name: &str) -> Option<DType> {
        DType::ALL.into_iter().find(|d| d.name() == name)
    }

    /// The dtype in which sums of this dtype are accumulated: f32 for half types, i64 for integers and bool.
    pub fn accumulator(self) -> DType {
        match self {
            DType::F16 | DType::BF16 => DType::F32,
            DType::F32 | DType::F64 | DType::I32 | DType::U32 => self,
            _ => DType::I64,
        }
    }

    /// Rounds a float to this dtype (ties to even); identity for f64 and for integers.
    pub fn round(self, x: f64) -> f64 {
        match self {
            DType::F32 => x as f32 as f64,
            DType::F16 => half::f16::from_f64(x).to_f64(),
            DType::BF16 => half::bf16::from_f32(x as f32).to_f64(),
            _ => x,
        }
    }

    /// Wraps an integer to this dtype's width; identity for i64 and for floats; 0 or 1 for bool.
    pub fn wrap(self, x: i64) -> i64 {
        match self {
            DType::I32 => x as i32 as i64,
            DType::U32 => x as u32 as i64,
            DType::U8 => x as u8 as i64,
            DType::I8 => x as i8 as i64,
            DType::I16 => x as i16 as i64,
            DType::Bool => (x != 0) as i64,
            _ => x,
        }
    }

    /// The bits of a float of this dtype, as a signed integer of its size.
    pub fn bits(self, x: f64) -> i64 {
        match self {
            DType::F16 => half::f16::from_f64(x).to_bits() as i16 as i64,
            DType::BF16 => half::bf16::from_f32(x as f32).to_bits() as i16 as i64,
            DType::F32 => (x as f32).to_bits() as i32 as i64,
            _ => x.to_bits() as i64,
        }
    }

    /// The float of this dtype that has these bits.
    pub fn of_bits(self, bits: i64) -> f64 {
        match self {
            DType::F16 => half::f16::from_bits(bits as u16).to_f64(),
            DType::BF16 => half::bf16::from_bits(bits as u16).to_f64(),
            DType::F32 => f32::from_bits(bits as u32) as f64,
            _ => f64::from_bits(bits as u64),
        }
    }

    /// Smallest and largest integer of an integer dtype (0 and 1 for bool); `None` for floats.
    pub fn int_range(self) -> Option<(i64, i64)> {
        match self {
            DType::I32 => Some((i32::MIN as i64, i32::MAX as i64)),
            DType::I64 => Some((i64::MIN, i64::MAX)),
            DType::U32 => Some((0, u32::MAX as i64)),
            DType::U8 => Some((0, 255)),
            DType::I8 => Some((-128, 127)),
            DType::I16 => Some((-32768, 32767)),
            DType::Bool => Some((0, 1)),
            _ => None,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
