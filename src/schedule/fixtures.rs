//! Running nests one after another, for tests of what divides and replaces them.

use crate::loop_ir::naive::{self, Memory};
use crate::loop_ir::{Buffer, Nest, verify};
use crate::types::Bindings;

/// Runs valid nests, whose checks hold.
pub fn run(nests: &[Nest], memory: &mut [Memory]) {
    for nest in nests {
        assert_eq!(verify(nest), Vec::<String>::new(), "{nest}");
        assert_eq!(naive::run(nest, memory, &Bindings::new()).unwrap(), None, "{nest}");
    }
}

/// What buffers of fixed sizes hold after the nests, when each began with `number` of an element's place.
pub fn run_from(nests: &[Nest], buffers: &[Buffer], number: impl Fn(i64) -> f64) -> Vec<Memory> {
    let fill = |b: &Buffer| Memory::from_f64(b.ty.dtype, &(0..b.ty.numel().as_int().unwrap()).map(&number).collect::<Vec<_>>());
    let mut memory: Vec<Memory> = buffers.iter().map(fill).collect();
    run(nests, &mut memory);
    memory
}
