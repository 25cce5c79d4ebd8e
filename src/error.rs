//! The public error: one variant per stage, with op, shapes and source line where there is one.

use crate::types::Location;
use std::fmt;

/// One mistake found while a program was traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceFault {
    /// The user's line, when known.
    pub location: Option<Location>,
    /// What is wrong, naming the op and both operands' types.
    pub message: String,
}

impl fmt::Display for TraceFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.location {
            Some(at) => write!(f, "{at}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// Whatever can go wrong for a user. Messages are lower case, name the op and show both sides.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Faults of a traced or parsed program, all of them at once.
    #[error("{}", list(.0))]
    Trace(Vec<TraceFault>),
    /// Graph text that does not parse.
    #[error("graph text, line {line}: {message}")]
    Parse {
        /// Line in the text, counted from 1.
        line: usize,
        /// What was expected.
        message: String,
    },
    /// The device lacks what the program needs; found before any work.
    #[error("platform: {0}")]
    Platform(String),
    /// A gradient was asked through an op that has none, or of a value the loss does not depend on.
    #[error("autograd: {message}{}", at(.location))]
    Autograd {
        /// What is wrong, naming the op.
        message: String,
        /// The user's line.
        location: Option<Location>,
    },
    /// The program cannot be compiled for this target.
    #[error("compile: {message}{}", at(.location))]
    Compile {
        /// What is wrong.
        message: String,
        /// The user's line.
        location: Option<Location>,
    },
    /// Arguments of a compiled step do not fit its signature.
    #[error("input: {0}")]
    Input(String),
    /// A device status word, or non-finite values, refused a step; state is as it was.
    #[error("step refused: {0}")]
    Step(String),
    /// The GPU or its driver failed.
    #[error("device: {0}")]
    Device(String),
    /// The GPU is gone: reset, unplugged, or taken by its driver's watchdog. What was only on it is gone, too;
    /// [`Step::rebuild`](crate::Step::rebuild) goes on from a snapshot of the state.
    #[error("device lost: {0}")]
    Lost(String),
    /// `verify` found a difference.
    #[error("verify: {0}")]
    Verify(String),
    /// A file could not be read or written, or does not hold what it should.
    #[error("{path}: {message}")]
    File {
        /// The file.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// A program of another framework could not be imported.
    #[error("import: {0}")]
    Import(String),
}

/// Results of the public interface.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A compile error without a line.
    pub fn compile(message: impl Into<String>) -> Error {
        Error::Compile { message: message.into(), location: None }
    }

    /// A file error.
    pub fn file(path: impl AsRef<std::path::Path>, message: impl fmt::Display) -> Error {
        Error::File { path: path.as_ref().display().to_string(), message: message.to_string() }
    }
}

fn at(location: &Option<Location>) -> String {
    location.as_ref().map(|l| format!(" (at {l})")).unwrap_or_default()
}

fn list(faults: &[TraceFault]) -> String {
    let lines: Vec<String> = faults.iter().map(|f| format!("  {f}")).collect();
    format!("the program has {} fault{}:\n{}", faults.len(), if faults.len() == 1 { "" } else { "s" }, lines.join("\n"))
}
