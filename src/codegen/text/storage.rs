//! Element formats: what a WGSL value of a dtype is, and how elements lie in a binding.

use crate::types::{DType, DeviceCaps, Storage, per_word};

/// A WGSL type that values are computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// f32, f16 and bf16.
    F32,
    /// f64.
    F64,
    /// i32, i16 and i8; i64 where the device lacks it.
    I32,
    /// u32 and u8.
    U32,
    /// i64.
    I64,
    /// bool.
    Bool,
}

impl Kind {
    /// The kind values of `dtype` are computed in.
    pub fn of(dtype: DType, caps: &DeviceCaps) -> Result<Kind, String> {
        Ok(match caps.computes_in(dtype) {
            Some(DType::F32) => Kind::F32,
            Some(DType::F64) => Kind::F64,
            Some(DType::I32) => Kind::I32,
            Some(DType::I64) => Kind::I64,
            Some(DType::U32) => Kind::U32,
            Some(DType::Bool) => Kind::Bool,
            _ => return Err("f64 arithmetic needs the capability f64 (SHADER_F64), which this device lacks".into()),
        })
    }

    /// WGSL spelling.
    pub fn wgsl(self) -> &'static str {
        match self {
            Kind::F32 => "f32",
            Kind::F64 => "f64",
            Kind::I32 => "i32",
            Kind::U32 => "u32",
            Kind::I64 => "i64",
            Kind::Bool => "bool",
        }
    }

    /// Spelling in workgroup memory, where bool is a word.
    pub fn shared(self) -> &'static str {
        if self == Kind::Bool { "u32" } else { self.wgsl() }
    }

    /// Bytes in workgroup memory.
    pub fn bytes(self) -> u32 {
        if matches!(self, Kind::F64 | Kind::I64) { 8 } else { 4 }
    }

    /// Suffix of the helper functions of the kind.
    pub fn suffix(self) -> &'static str {
        match self {
            Kind::I32 => "i",
            Kind::U32 => "u",
            Kind::I64 => "l",
            Kind::F64 => "d",
            Kind::F32 | Kind::Bool => "",
        }
    }

    /// An integer of the kind as a u32 index; one below zero wraps.
    pub fn to_index(self, text: &str) -> String {
        match long_literal(text) {
            Some(n) => format!("{}u", n as u32),
            None if self == Kind::U32 => text.to_string(),
            None => format!("u32({text})"),
        }
    }

    /// The zero of the kind.
    pub fn zero(self) -> &'static str {
        match self {
            Kind::F32 => "0.0f",
            Kind::F64 => "0.0lf",
            Kind::I32 => "0i",
            Kind::U32 => "0u",
            Kind::I64 => "0li",
            Kind::Bool => "false",
        }
    }
}

/// The number of a literal of 64 bits, which does not convert in constant expressions.
pub fn long_literal(text: &str) -> Option<i64> {
    text.trim_matches(['(', ')']).strip_suffix("li")?.parse().ok()
}

/// The element type of a storage array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// 64-bit float.
    F64,
    /// 32-bit signed integer.
    I32,
    /// 32-bit word.
    U32,
    /// 64-bit signed integer.
    I64,
}

impl Element {
    /// WGSL spelling.
    pub fn wgsl(self) -> &'static str {
        match self {
            Element::F32 => "f32",
            Element::F16 => "f16",
            Element::F64 => "f64",
            Element::I32 => "i32",
            Element::U32 => "u32",
            Element::I64 => "i64",
        }
    }

    /// Whether vectors of four of it are accessed at once.
    pub fn has_vectors(self) -> bool {
        self.is_word() || self == Element::F16
    }

    /// Whether it is one 32-bit word.
    pub fn is_word(self) -> bool {
        matches!(self, Element::F32 | Element::I32 | Element::U32)
    }
}

/// How elements of a dtype lie in a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Format {
    /// Type of the array's elements.
    pub element: Element,
    /// Tensor elements in one array element.
    pub per_word: u32,
}

impl Format {
    /// The format of a buffer; an error names the missing capability.
    pub fn of(dtype: DType, storage: Storage, caps: &DeviceCaps) -> Result<Format, String> {
        let plain = |element| Ok(Format { element, per_word: 1 });
        let unfit = || Err(format!("{dtype} cannot be stored as {storage:?} on this device"));
        match (storage, dtype) {
            (Storage::Native | Storage::Word, DType::F32) => plain(Element::F32),
            (Storage::Native | Storage::Word, DType::I32) => plain(Element::I32),
            (Storage::Native | Storage::Word, DType::U32) => plain(Element::U32),
            (Storage::Native, DType::F16) if caps.f16 => plain(Element::F16),
            (Storage::Native, DType::F64) if caps.f64 => plain(Element::F64),
            (Storage::Native, DType::I64) if caps.i64 => plain(Element::I64),
            (Storage::Native, DType::F64) => Err("f64 storage needs the capability f64 (SHADER_F64), which this device lacks".into()),
            (Storage::Native, DType::I64) => {
                Err("i64 storage needs the capability i64 (SHADER_INT64), which this device lacks; narrow storage is possible under a range proof"
                    .into())
            }
            (Storage::Native, _) => unfit(),
            (Storage::Word, DType::F16 | DType::BF16) => plain(Element::F32),
            (Storage::Word, DType::Bool | DType::U8) => plain(Element::U32),
            (Storage::Word, DType::I8 | DType::I16) => plain(Element::I32),
            (Storage::Word, _) => unfit(),
            (Storage::Packed, _) => match per_word(dtype) {
                1 => unfit(),
                n => Ok(Format { element: Element::U32, per_word: n }),
            },
            (Storage::Narrow, DType::I64) => plain(Element::I32),
            (Storage::Narrow, _) => unfit(),
        }
    }
}
