//! The pipeline as one readable function.
