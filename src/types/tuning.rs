//! Forms of kernels that were measured to be the fastest on a device.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What was measured: for kernels, by their hash, the text of the fastest form. An input of compilation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tuning(Arc<BTreeMap<String, String>>);

impl Tuning {
    /// The form of that kernel, if it was measured.
    pub fn form(&self, kernel: &str) -> Option<&str> {
        self.0.get(kernel).map(String::as_str)
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps the form of a kernel.
    pub fn keep(&mut self, kernel: String, form: String) {
        Arc::make_mut(&mut self.0).insert(kernel, form);
    }

    /// Keeps the forms of another measurement, which is newer.
    pub fn extend(&mut self, newer: &Tuning) {
        Arc::make_mut(&mut self.0).extend(newer.0.iter().map(|(kernel, form)| (kernel.clone(), form.clone())));
    }
}
