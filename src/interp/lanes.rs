//! Registers: one value of a body for every lane of a block.

use super::raw::Format;
use crate::types::{DType, Storage};
use bytemuck::Pod;

/// The type in which a register holds its lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// f32, f16 and bf16.
    F32,
    /// f64.
    F64,
    /// i32.
    I32,
    /// Every other integer, wrapped to its dtype.
    I64,
    /// Bool, 0 or 1.
    Bool,
}

impl Lane {
    /// The lane type of a dtype.
    pub fn of(dtype: DType) -> Lane {
        match dtype {
            DType::F32 | DType::F16 | DType::BF16 => Lane::F32,
            DType::F64 => Lane::F64,
            DType::I32 => Lane::I32,
            DType::Bool => Lane::Bool,
            _ => Lane::I64,
        }
    }
}

/// How elements of that dtype lie in memory under that storage. Packed bytes are the host layout.
pub fn format_of(dtype: DType, storage: Storage) -> Format {
    match (dtype, storage) {
        (DType::I64, Storage::Narrow) => Format::I32,
        (DType::F16 | DType::BF16, Storage::Word) => Format::F32,
        (DType::I8 | DType::I16, Storage::Word) => Format::I32,
        (DType::U8 | DType::Bool, Storage::Word) => Format::U32,
        (DType::F32, _) => Format::F32,
        (DType::F16, _) => Format::F16,
        (DType::BF16, _) => Format::BF16,
        (DType::F64, _) => Format::F64,
        (DType::I32, _) => Format::I32,
        (DType::I64, _) => Format::I64,
        (DType::U32, _) => Format::U32,
        (DType::U8 | DType::Bool, _) => Format::U8,
        (DType::I8, _) => Format::I8,
        (DType::I16, _) => Format::I16,
    }
}

/// A register. It grows and never shrinks, so that blocks reuse its memory.
#[derive(Default)]
pub struct Reg(Vec<u64>);

impl Reg {
    /// The first `n` lanes, to be overwritten.
    #[inline]
    pub fn lanes_mut<T: Pod>(&mut self, n: usize) -> &mut [T] {
        let words = (n * size_of::<T>()).div_ceil(8);
        if self.0.len() < words {
            self.0.resize(words, 0);
        }
        &mut bytemuck::cast_slice_mut(&mut self.0)[..n]
    }

    /// The first `n` lanes.
    #[inline]
    pub fn lanes<T: Pod>(&self, n: usize) -> &[T] {
        &bytemuck::cast_slice(&self.0)[..n]
    }
}

/// An operand of a loop: a lane each, or one number for all.
#[derive(Clone, Copy)]
pub enum Src<'a, T> {
    /// A lane each.
    All(&'a [T]),
    /// The same for all lanes.
    One(T),
}

impl<T: Copy> Src<'_, T> {
    /// Lane `i`.
    #[inline(always)]
    pub fn at(&self, i: usize) -> T {
        match self {
            Src::All(x) => x[i],
            Src::One(x) => *x,
        }
    }
}

/// An operand with its lane type.
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub enum Value<'a> {
    F32(Src<'a, f32>),
    F64(Src<'a, f64>),
    I32(Src<'a, i32>),
    I64(Src<'a, i64>),
    Bool(Src<'a, u8>),
}

impl<'a> Value<'a> {
    /// The first `n` lanes of a register; one number for all when `one`.
    #[inline]
    pub fn new(reg: &'a Reg, lane: Lane, n: usize, one: bool) -> Value<'a> {
        fn src<T: Pod>(reg: &Reg, n: usize, one: bool) -> Src<'_, T> {
            if one { Src::One(reg.lanes::<T>(1)[0]) } else { Src::All(reg.lanes(n)) }
        }
        match lane {
            Lane::F32 => Value::F32(src(reg, n, one)),
            Lane::F64 => Value::F64(src(reg, n, one)),
            Lane::I32 => Value::I32(src(reg, n, one)),
            Lane::I64 => Value::I64(src(reg, n, one)),
            Lane::Bool => Value::Bool(src(reg, n, one)),
        }
    }

    /// Lane `i` as f64.
    #[inline(always)]
    pub fn float(&self, i: usize) -> f64 {
        match self {
            Value::F32(x) => x.at(i) as f64,
            Value::F64(x) => x.at(i),
            Value::I32(x) => x.at(i) as f64,
            Value::I64(x) => x.at(i) as f64,
            Value::Bool(x) => x.at(i) as f64,
        }
    }

    /// Lane `i` as i64; floats truncate and saturate.
    #[inline(always)]
    pub fn int(&self, i: usize) -> i64 {
        match self {
            Value::F32(x) => x.at(i) as i64,
            Value::F64(x) => x.at(i) as i64,
            Value::I32(x) => x.at(i) as i64,
            Value::I64(x) => x.at(i),
            Value::Bool(x) => x.at(i) as i64,
        }
    }
}
