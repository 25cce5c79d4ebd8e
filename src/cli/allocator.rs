//! The program's allocator.
//!
//! Compilation makes many small values, and the system's allocator took a third of its time. Memory that is free stays with the process: stages
//! free one graph and make the next, and what was given back between them is cleared by the system page by page before it is used again, which
//! took large programs a fifth of their compilation.

use libmimalloc_sys::{mi_option_set, mi_option_t};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of `mimalloc.h`, which the crate does not name: milliseconds until free memory is given back, never below zero.
const PURGE_DELAY: mi_option_t = 15;

/// Keeps memory that is free.
#[allow(unsafe_code)]
pub fn keep_memory() {
    // SAFETY: any option may be set to any number at any time; it takes no pointers.
    unsafe { mi_option_set(PURGE_DELAY, -1) }
}
