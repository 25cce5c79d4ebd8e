//! Labels and indices that the caller gives are checked before they reach the device, as the program says.

use crate::error::{Error, Result};
use crate::loop_ir::BufferId;
use crate::loop_ir::naive::{self, Memory};
use crate::schedule::InputCheck;
use crate::types::{Bindings, DType, HostTensor};
use std::collections::HashMap;

impl InputCheck {
    /// Refuses a tensor with an element out of range.
    pub(super) fn check(&self, feeds: &[(BufferId, HostTensor)], bindings: &Bindings) -> Result<()> {
        let Some((_, tensor)) = feeds.iter().find(|(b, _)| *b == self.input) else { return Ok(()) };
        let size = self.size.eval(bindings).map_err(Error::Input)?;
        let inside = 0..size;
        let mut known: HashMap<i64, bool> = HashMap::new();
        let mut fits = |x: i64| -> Result<bool> {
            if self.direct {
                return Ok(inside.contains(&x));
            }
            if let Some(&known) = known.get(&x) {
                return Ok(known);
            }
            let mut memory = [Memory::from_i64(tensor.dtype(), &[x])];
            let fits = naive::run(&self.body, &mut memory, bindings).map_err(Error::Input)?.is_none();
            known.insert(x, fits);
            Ok(fits)
        };
        let refuse = |at: usize, x: i64| {
            let place = unravel(at, tensor.shape());
            Err(Error::Input(format!("{}: element {place:?} is {x}: {}", self.name, self.message)))
        };
        match tensor.dtype() {
            DType::I32 => {
                for (at, c) in tensor.bytes().chunks_exact(4).enumerate() {
                    let x = i32::from_le_bytes([c[0], c[1], c[2], c[3]]) as i64;
                    if !fits(x)? {
                        return refuse(at, x);
                    }
                }
            }
            dtype if dtype.is_float() => {}
            _ => {
                for (at, x) in tensor.to_i64().into_iter().enumerate() {
                    if !fits(x)? {
                        return refuse(at, x);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Coordinates of a flat position.
fn unravel(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut out = vec![0; shape.len()];
    for (place, &n) in out.iter_mut().zip(shape).rev() {
        (*place, at) = (at % n.max(1), at / n.max(1));
    }
    out
}
