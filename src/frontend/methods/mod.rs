//! Operators as methods of tensors, by families, with PyTorch's names. Each records one op of [`crate::ops`], whose page has formula,
//! dtypes and gradient, or what PyTorch's operator of that name is built of for imported programs.
//!
//! Dimensions count from the end when negative. Where several may be given, so may one, a tuple, an array, a slice, a vector, or `()` for
//! all of them. Indices that an operator gives are i32.

mod activations;
mod creation;
mod indexing;
mod losses;
mod norms;
mod ordering;
mod parts;
mod pointwise;
mod products;
mod random;
mod reductions;
mod shapes;
#[cfg(test)]
mod tests;
mod windows;

pub use indexing::ScatterMode;
pub use losses::{CrossEntropy, Triplet};
pub use norms::AttentionOptions;
pub use shapes::PadMode;
pub use windows::{ConvOptions, Interpolation, PoolOptions};
