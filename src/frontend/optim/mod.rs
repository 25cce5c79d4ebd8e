//! Optimizers: their settings, and learning-rate schedules. Names and defaults are PyTorch's, but for weight decay, which leaves
//! vectors and scalars alone unless `decay_vectors` says otherwise.

mod algorithms;
mod plateau;
mod schedule;

pub use algorithms::{Adadelta, Adafactor, Adagrad, Adam, AdamW, Adamax, Lamb, Lion, Muon, NAdam, RAdam, RmsProp, Sgd};
pub use plateau::{Goal, Plateau};
pub use schedule::Schedule;
