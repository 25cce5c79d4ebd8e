//! Verifier.
use super::Graph;
/// Faults.
pub fn verify(_g: &Graph) -> Vec<String> {
    vec![]
}
