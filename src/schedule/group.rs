//! What becomes a kernel.

use crate::fusion::Kernel;
use crate::loop_ir::Phase;

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
}
