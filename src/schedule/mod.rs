//! Grouping, layouts, order and the memory plan: loop nests in, a [`Program`] out.

mod program;

pub use program::*;
