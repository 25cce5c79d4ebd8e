//! Formats what `explain` returns.
