//! An allocator that counts what the thread holds, so that a test can state the memory that a call needs.
//!
//! The one unsafe file of the tests: an allocator can be written in no other way. Every call goes to the system's allocator with
//! the arguments it came with; what is added is a sum in a thread-local cell without a destructor, which allocates nothing.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;

/// Counts, for `#[global_allocator]`.
pub struct Counting;

/// A thread that holds more ends the process, before the machine runs out of memory.
const LIMIT: i64 = 2 << 30;

thread_local! {
    /// What this thread works at, for the message.
    pub static TASK: Cell<u64> = const { Cell::new(0) };
    static HELD: Cell<i64> = const { Cell::new(0) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
}

/// The most bytes that this thread held more than before, while it ran `f`.
pub fn peak_of<T>(f: impl FnOnce() -> T) -> (T, u64) {
    let before = HELD.get();
    PEAK.set(before);
    let result = f();
    (result, (PEAK.get() - before).max(0) as u64)
}

fn count(bytes: i64) {
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
        if held.get() > LIMIT {
            // Formatting this allocates, which is no excess.
            held.set(0);
            // Not through `eprintln`, which a test captures.
            let _ = writeln!(std::io::stderr(), "task {} holds more than {} MiB", TASK.get(), LIMIT >> 20);
            std::process::abort();
        }
    });
}

/// What the system gave, counted unless it gave nothing.
fn counted(at: *mut u8, bytes: i64) -> *mut u8 {
    if !at.is_null() {
        count(bytes);
    }
    at
}

// SAFETY: all methods are the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        counted(unsafe { System.alloc(layout) }, layout.size() as i64)
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        counted(unsafe { System.alloc_zeroed(layout) }, layout.size() as i64)
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        counted(unsafe { System.realloc(at, layout, size) }, size as i64 - layout.size() as i64)
    }
}
