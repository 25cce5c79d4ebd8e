//! The platform check.
