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
        match tensor.dtype() {
            DType::I32 => self.check_all(i32s(tensor), size, tensor, bindings),
            dtype if dtype.is_float() => Ok(()),
            _ => self.check_all(tensor.to_i64().into_iter(), size, tensor, bindings),
        }
    }

    fn check_all(&self, elements: impl Iterator<Item = i64> + Clone, size: i64, tensor: &HostTensor, bindings: &Bindings) -> Result<()> {
        // Nearly always all are inside, which the smallest and the largest tell.
        let (low, high) = elements.clone().fold((0, 0), |(low, high), x| (x.min(low), x.max(high)));
        if self.direct && low >= 0 && high < size.max(1) {
            return Ok(());
        }
        let mut known: HashMap<i64, bool> = HashMap::new();
        for (at, x) in elements.enumerate() {
            let fits = match known.get(&x) {
                Some(&fits) => fits,
                None => *known.entry(x).or_insert(self.admits(x, size, tensor.dtype(), bindings)?),
            };
            if !fits {
                let place = unravel(at, tensor.shape());
                return Err(Error::Input(format!("{}: element {place:?} is {x}: {}", self.name, self.message)));
            }
        }
        Ok(())
    }

    fn admits(&self, x: i64, size: i64, dtype: DType, bindings: &Bindings) -> Result<bool> {
        if self.direct {
            return Ok((0..size).contains(&x));
        }
        let mut memory = [Memory::from_i64(dtype, &[x])];
        Ok(naive::run(&self.body, &mut memory, bindings).map_err(Error::Input)?.is_none())
    }
}

fn i32s(tensor: &HostTensor) -> impl Iterator<Item = i64> + Clone {
    tensor.bytes().as_chunks::<4>().0.iter().map(|&c| i32::from_le_bytes(c) as i64)
}

/// Coordinates of a flat position.
pub(super) fn unravel(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut out = vec![0; shape.len()];
    for (place, &n) in out.iter_mut().zip(shape).rev() {
        (*place, at) = (at % n.max(1), at / n.max(1));
    }
    out
}
