//! Training loops.
