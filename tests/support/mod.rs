//! Shared by the test binaries.
pub mod cases;
pub mod layers;
pub mod nests;
