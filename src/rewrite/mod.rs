//! Patterns, rules, fixpoint driver with fuel.
