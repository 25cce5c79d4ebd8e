//! Spelling of values, storage and modules, whatever the form of the kernel.

pub mod combine;
pub mod emit;
pub mod helpers;
pub mod module;
pub mod running;
pub mod spell;
pub mod storage;
pub mod unit;
pub mod value;
pub mod vector;
