//! How elements lie in memory.

use super::DType;
use serde::{Deserialize, Serialize};

/// How elements lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Storage {
    /// As WGSL has it: f32, i32, u32; f16, i64 and f64 where the device has them.
    Native,
    /// One 32-bit word an element: bool and small integers as i32 or u32, half floats as f32.
    Word,
    /// Bool and 8-bit integers four, half floats and i16 two to a 32-bit word, little-endian, the last word zero-filled. A
    /// kernel that writes packed elements owns whole words.
    Packed,
    /// i64 in an i32 word, with values proven or checked to fit.
    Narrow,
}

/// Elements of `dtype` that a packed 32-bit word holds; 1 for dtypes that are never packed.
pub fn per_word(dtype: DType) -> u32 {
    match dtype {
        DType::Bool | DType::U8 | DType::I8 => 4,
        DType::F16 | DType::BF16 | DType::I16 => 2,
        _ => 1,
    }
}
