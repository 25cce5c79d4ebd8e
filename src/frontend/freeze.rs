//! Parameters and values that are not trained.

use super::tensor::Tensor;
use super::trace::Trace;
use super::traced::Traced;
use crate::error::{Error, Result};
use crate::graph::{self, Graph, InputRole};
use crate::types::matches_pattern;

impl Trace {
    /// Leaves parameters as they are: those of this module whose names fit a pattern
    /// ([`matches_pattern`](crate::types::matches_pattern)), made before or after this call. They cost neither a gradient nor
    /// optimizer state; gradients pass on to what is computed before them. A pattern that no parameter fits is a mistake.
    ///
    /// ```
    /// use inductor::{DType, nn, trace};
    /// let traced = trace("probe", |t| {
    ///     t.frozen("encoder");
    ///     let x = t.input("x", DType::F32, (8, 16));
    ///     let h = nn::linear(&t.path("encoder"), &x, 32).relu();
    ///     Ok(nn::linear(&t.path("head"), &h, 1).square().mean_all())
    /// })?;
    /// assert_eq!(traced.frozen_parameters(), ["encoder.weight", "encoder.bias"]);
    /// # Ok::<(), inductor::Error>(())
    /// ```
    #[track_caller]
    pub fn frozen(&self, pattern: &str) {
        self.freeze_later(pattern);
    }
}

impl Tensor {
    /// PyTorch's name for a value that derivatives take for a constant: `requires_grad(false)` is [`Tensor::detach`], of a parameter
    /// too, which is then not trained where it is read through this value only.
    #[track_caller]
    pub fn requires_grad(&self, requires: bool) -> Tensor {
        if requires { self.clone() } else { self.detach() }
    }
}

impl Traced {
    /// The same program with the parameters that fit a pattern left as they are: [`Trace::frozen`] for a program that is there
    /// already, such as an imported one.
    pub fn frozen(&self, pattern: &str) -> Result<Traced> {
        let graph = freeze(&self.graph, pattern).map_err(Error::compile)?;
        Ok(Traced { graph, ..self.clone() })
    }

    /// Names of the parameters that are left as they are.
    pub fn frozen_parameters(&self) -> Vec<&str> {
        let parameters = self.graph.inputs.iter().filter(|i| i.role == InputRole::Parameter);
        parameters.filter(|i| graph::is_frozen(&self.graph, i.value)).map(|i| i.name.as_str()).collect()
    }
}

/// Detaches the parameters that fit a pattern; an error where there are none.
pub(super) fn freeze(graph: &Graph, pattern: &str) -> Result<Graph, String> {
    let parameters: Vec<&str> = graph.inputs.iter().filter(|i| i.role == InputRole::Parameter).map(|i| i.name.as_str()).collect();
    if !parameters.iter().any(|name| matches_pattern(pattern, name)) {
        return Err(format!("frozen: no parameter fits {pattern}; there are {}", parameters.join(", ")));
    }
    graph::freeze(graph, &|name| matches_pattern(pattern, name))
}
