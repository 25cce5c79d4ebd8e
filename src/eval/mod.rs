//! Graph interpreter in f32 and f64: the oracle.
