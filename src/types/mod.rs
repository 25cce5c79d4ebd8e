//! Plain data that every room speaks: dtypes, symbolic sizes, shapes, host tensors, device capabilities, provenance.
//!
//! * Comes in: nothing; this is the bottom of the dependency order.
//! * Goes out: value types that compare, hash, print and serialize.
//! * Invariants: a [`Dim`] is canonical (equal sizes compare equal); a [`HostTensor`] holds exactly
//!   `numel * size_of(dtype)` little-endian bytes in row-major order.
//! * Must not know: graphs, kernels, devices, policy of any kind.
//! * Add here: a device capability is one documented field of [`DeviceCaps`] with its line in [`DeviceCaps::optional`]; what detects it
//!   is `runtime/gpu/adapters.rs`, and one file exploits it.

mod bind;
mod caps;
mod cursor;
mod decision;
mod dim;
mod dtype;
mod guard;
mod pattern;
mod precision;
mod print;
mod provenance;
mod shape;
mod sizes;
mod storage;
mod tensor;
mod tuning;

pub use bind::{bind_named_symbols, bind_symbols};
pub use caps::{Capability, Cooperative, DeviceCaps, DeviceModel};
pub use cursor::Cursor;
pub use decision::Decision;
pub use dim::{Bindings, Dim, Symbol, is_size_function, solve_for_symbols};
pub use dtype::DType;
pub use guard::{Guard, Place, Relation, broadcast_pairs, check_guards, paired, paired_besides};
pub use pattern::matches_pattern;
pub use precision::MatmulPrecision;
pub use provenance::{Location, Provenance};
pub use shape::{Dims, IntoDims, IntoShape, Shape, TensorType, broadcast_shapes, contiguous_strides};
pub use sizes::Sizes;
pub use storage::{Storage, per_word};
pub use tensor::{HostTensor, StringError};
pub use tuning::Tuning;
