//! Programs by hand against expectations.
