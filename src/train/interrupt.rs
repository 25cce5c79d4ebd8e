//! Ctrl-C and the signals that ask a process to end.

use crate::error::{Error, Result};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the process was asked to end. While this lives the first request is noted, so that a run ends after its step, with a
/// checkpoint, and a second one ends the process at once; afterwards the first one does.
pub struct Interrupt {
    flags: Arc<Flags>,
}

#[derive(Default)]
struct Flags {
    is_asked: AtomicBool,
    is_over: AtomicBool,
}

impl Interrupt {
    /// What a process that was asked to end gives back, as shells have it.
    pub const EXIT_CODE: i32 = 130;

    /// From now on requests are noted. Once in a process.
    pub fn watch() -> Result<Interrupt> {
        let flags = Arc::new(Flags::default());
        let seen = flags.clone();
        let handler = move || {
            if seen.is_over.load(Ordering::SeqCst) || seen.is_asked.swap(true, Ordering::SeqCst) {
                std::process::exit(Interrupt::EXIT_CODE);
            }
            // Nobody is there to hear of a standard error that is closed.
            let _ = writeln!(std::io::stderr(), "stopping after this step; once more to end at once");
        };
        ctrlc::set_handler(handler).map_err(|e| Error::Platform(format!("cannot watch for Ctrl-C: {e}")))?;
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
