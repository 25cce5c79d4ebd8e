//! Where a value came from: the user's source lines and module paths.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// A line of the user's program.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Location {
    /// Source file, as the compiler that recorded it names it. Lines that Rust recorded share its name, which is compared for every merge.
    pub file: Cow<'static, str>,
    /// Line, counted from 1.
    pub line: u32,
}

impl Location {
    /// The caller's line.
    #[track_caller]
    pub fn caller() -> Location {
        let at = std::panic::Location::caller();
        Location { file: at.file().into(), line: at.line() }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// The side set attached to a node: lines and module paths, merged when equal nodes are shared. Never part of equality of nodes.
/// Copies share it, since passes copy nodes many times over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance(Option<Arc<Sources>>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Sources {
    locations: Vec<Location>,
    paths: Vec<String>,
}

/// Entries of each kind that are kept.
const MOST: usize = 8;

impl Provenance {
    /// Of those lines and paths.
    pub fn new(locations: Vec<Location>, paths: Vec<String>) -> Provenance {
        let is_empty = locations.is_empty() && paths.is_empty();
        Provenance((!is_empty).then(|| Arc::new(Sources { locations, paths })))
    }

    /// Source lines, in order of arrival, without repeats.
    pub fn locations(&self) -> &[Location] {
        self.0.as_ref().map_or(&[], |s| &s.locations)
    }

    /// Module paths such as `blocks.0.attn`.
    pub fn paths(&self) -> &[String] {
        self.0.as_ref().map_or(&[], |s| &s.paths)
    }

    /// Adds what `other` has and this one lacks; keeps at most eight entries of each kind.
    pub fn merge(&mut self, other: &Provenance) {
        let Some(added) = &other.0 else { return };
        if self.0.is_none() {
            self.0 = other.0.clone();
        }
        if self.covers(other) {
            return;
        }
        let own = Arc::make_mut(self.0.get_or_insert_default());
        extend(&mut own.locations, &added.locations);
        extend(&mut own.paths, &added.paths);
    }

    /// Whether [`merge`](Provenance::merge) would add nothing.
    pub fn covers(&self, other: &Provenance) -> bool {
        let (Some(own), Some(added)) = (&self.0, &other.0) else { return other.0.is_none() };
        Arc::ptr_eq(own, added) || (covers(&own.locations, &added.locations) && covers(&own.paths, &added.paths))
    }

    /// The first source line, if any was recorded.
    pub fn line(&self) -> Option<&Location> {
        self.locations().first()
    }
}

fn covers<T: PartialEq>(own: &[T], added: &[T]) -> bool {
    own.len() >= MOST || added.iter().all(|x| own.contains(x))
}

fn extend<T: PartialEq + Clone>(own: &mut Vec<T>, added: &[T]) {
    for x in added {
        if own.len() < MOST && !own.contains(x) {
            own.push(x.clone());
        }
    }
}
