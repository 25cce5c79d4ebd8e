mod counters;
mod storage;
#[cfg(feature = "gpu")]
pub mod gpu;
