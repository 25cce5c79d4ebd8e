//! Executes a program on the CPU.
