//! Ctrl-C and the signals that ask a process to end.

use anyhow::{Context, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a process that was asked to end gives back, as shells have it.
pub const EXIT_CODE: i32 = 130;

/// Whether the process was asked to end. While this lives the first request is noted, and a second one ends the process at once;
/// afterwards the first one does.
pub struct Interrupt {
    flags: Arc<Flags>,
}

#[derive(Default)]
struct Flags {
    is_asked: AtomicBool,
    is_over: AtomicBool,
}

impl Interrupt {
    /// From now on requests are noted. Once in a process.
    pub fn watch() -> Result<Interrupt> {
        let flags = Arc::new(Flags::default());
        let seen = flags.clone();
        let handler = move || {
            if seen.is_over.load(Ordering::SeqCst) || seen.is_asked.swap(true, Ordering::SeqCst) {
                std::process::exit(EXIT_CODE);
            }
            eprintln!("stopping after this step, with a checkpoint; once more to end at once");
        };
        ctrlc::set_handler(handler).context("cannot watch for Ctrl-C")?;
        Ok(Interrupt { flags })
    }

    /// Whether a request came.
    pub fn is_asked(&self) -> bool {
        self.flags.is_asked.load(Ordering::SeqCst)
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.flags.is_over.store(true, Ordering::SeqCst);
    }
}
