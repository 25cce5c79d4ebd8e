//! Where a value came from: the user's source lines and module paths.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A line of the user's program.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Location {
    /// Source file, as the compiler that recorded it names it.
    pub file: String,
    /// Line, counted from 1.
    pub line: u32,
}

impl Location {
    /// The caller's line.
    #[track_caller]
    pub fn caller() -> Location {
        let at = std::panic::Location::caller();
        Location { file: at.file().to_string(), line: at.line() }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// The side set attached to a node: lines and module paths, merged when equal nodes are shared. Never part of equality of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Source lines, in order of arrival, without repeats.
    pub locations: Vec<Location>,
    /// Module paths such as `blocks.0.attn`.
    pub paths: Vec<String>,
}

impl Provenance {
    /// Adds what `other` has and this one lacks; keeps at most eight entries of each kind.
    pub fn merge(&mut self, other: &Provenance) {
        for location in &other.locations {
            if self.locations.len() < 8 && !self.locations.contains(location) {
                self.locations.push(location.clone());
            }
        }
        for path in &other.paths {
            if self.paths.len() < 8 && !self.paths.contains(path) {
                self.paths.push(path.clone());
            }
        }
    }

    /// Whether [`merge`](Provenance::merge) would add nothing.
    pub fn covers(&self, other: &Provenance) -> bool {
        let lines = self.locations.len() >= 8 || other.locations.iter().all(|l| self.locations.contains(l));
        lines && (self.paths.len() >= 8 || other.paths.iter().all(|p| self.paths.contains(p)))
    }

    /// The first source line, if any was recorded.
    pub fn line(&self) -> Option<&Location> {
        self.locations.first()
    }
}
