//! Prefixes along a row that an invocation has for itself.

use super::combine::Accumulator;
use super::emit::{Emitter, Ex};
use super::spell;
use crate::loop_ir::{Combiner, Val};

impl Emitter<'_> {
    /// A scan of an invocation that has the row for itself: one variable outside the loop over columns.
    pub fn running(&mut self, v: Val, combiner: Combiner, x: Val, lane: usize) -> Result<Ex, String> {
        let depth = self.loop_depth.ok_or_else(|| format!("%{}: a scan is used outside a loop over columns", v.0))?;
        let mut acc = Accumulator::new(self, combiner, self.unit.nest.dtype(x))?;
        let x = self.value(x, lane)?;
        // Known as long as the loop is open, so that all lanes of a step go on with the same variable.
        let key = format!("scan %{}", v.0);
        match self.known(&key) {
            Some(known) => acc.names = vec![known.text],
            None => {
                self.line_at(depth - 1, format!("var {} = {};", acc.names[0], acc.start[0]));
                self.remember(key, &Ex { text: acc.names[0].clone(), depth });
            }
        }
        for line in acc.add(self, &x.text, "0u") {
            self.line_at(depth, line);
        }
        let name = self.fresh("v");
        let text = spell::wrap(self.unit.nest.dtype(v), acc.names.remove(0));
        self.line_at(depth, format!("let {name} = {text};"));
        Ok(Ex { text: name, depth })
    }
}
