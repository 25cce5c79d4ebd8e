//! Choices of the compiler, with their reasons.

use serde::{Deserialize, Serialize};

/// A decision with its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Stage: `fusion`, `partition`, `memory`, `layout`.
    pub stage: String,
    /// What it is about.
    pub subject: String,
    /// What was decided: `fused`, `refused`, `saved`, `recomputed`, ...
    pub verdict: String,
    /// Why.
    pub reason: String,
}
