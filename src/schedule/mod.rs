//! Grouping, layouts, order and the memory plan: loop nests in, a [`Program`] out.

mod program;

pub use crate::loop_ir::Phase;
pub use program::*;
