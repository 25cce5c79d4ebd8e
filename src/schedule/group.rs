//! What becomes a kernel.

use crate::fusion::Kernel;
use crate::loop_ir::Phase;

/// When a kernel of a program in chunks of rows may run (`chunk.rs`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Turn {
    /// Whenever what it reads is there.
    #[default]
    Any,
    /// Before the first chunk, which waits for it.
    Before,
    /// With others of that chunk.
    Chunk(u32),
    /// When all chunks are done.
    After,
}

impl Turn {
    /// The turn of two kernels as one; none where they must stay apart, since what waits for one would wait for both.
    pub fn with(self, other: Turn) -> Option<Turn> {
        match (self, other) {
            (Turn::Any, turn) | (turn, Turn::Any) => Some(turn),
            (a, b) => (a == b).then_some(a),
        }
    }
}

/// A kernel in the making.
#[derive(Clone, Debug)]
pub struct Group {
    /// What it does.
    pub kernel: Kernel,
    /// The latest phase of its members.
    pub phase: Phase,
    /// Writes state.
    pub commit: bool,
    /// Position of its first member before fusion; early kernels let what they read die early.
    pub position: usize,
    /// When it may run.
    pub turn: Turn,
}
