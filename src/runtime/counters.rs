//! Process-wide counters of expensive things, so that tests can prove that nothing starts before it is needed.

use std::sync::atomic::{AtomicU64, Ordering};

/// How many of each expensive thing this process has made so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// wgpu instances.
    pub instances: u64,
    /// GPU devices.
    pub devices: u64,
    /// Compute pipelines compiled (not those found in a device's memory).
    pub pipelines: u64,
    /// Interpreters, which start the thread pool when they first run.
    pub interpreters: u64,
    /// Cache folders created.
    pub cache_folders: u64,
}

static INSTANCES: AtomicU64 = AtomicU64::new(0);
static DEVICES: AtomicU64 = AtomicU64::new(0);
static PIPELINES: AtomicU64 = AtomicU64::new(0);
static INTERPRETERS: AtomicU64 = AtomicU64::new(0);
static CACHE_FOLDERS: AtomicU64 = AtomicU64::new(0);

/// What is counted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Counted {
    #[cfg_attr(not(feature = "gpu"), allow(dead_code))]
    Instance,
    #[cfg_attr(not(feature = "gpu"), allow(dead_code))]
    Device,
    #[cfg_attr(not(feature = "gpu"), allow(dead_code))]
    Pipeline,
    Interpreter,
    #[cfg_attr(not(feature = "gpu"), allow(dead_code))]
    CacheFolder,
}

/// The counters now.
pub fn counters() -> Counters {
    let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
    Counters {
        instances: get(&INSTANCES),
        devices: get(&DEVICES),
        pipelines: get(&PIPELINES),
        interpreters: get(&INTERPRETERS),
        cache_folders: get(&CACHE_FOLDERS),
    }
}

/// Adds one.
pub(super) fn count(what: Counted) {
    let counter = match what {
        Counted::Instance => &INSTANCES,
        Counted::Device => &DEVICES,
        Counted::Pipeline => &PIPELINES,
        Counted::Interpreter => &INTERPRETERS,
        Counted::CacheFolder => &CACHE_FOLDERS,
    };
    counter.fetch_add(1, Ordering::Relaxed);
}
