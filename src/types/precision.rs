//! How exactly products are computed.

use serde::{Deserialize, Serialize};

/// How exactly products of f32 matrices, and those of attention, are computed; so `torch.set_float32_matmul_precision` names it. Applies where the device has
/// matrix units; elsewhere, and for the other dtypes, products are always exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MatmulPrecision {
    /// Operands are f16, sums f32: relative errors of 5e-4 an operand.
    Medium,
    /// Each operand is two f16 terms of 22 bits together, scaled so that the largest value of a block of at most 128 rows and 32 terms fits,
    /// and sums of 32 terms are added in f32: as exact as f32 sums where values lie within 2^16 of that largest; smaller ones are off by 2^-37
    /// of it at most. An infinite operand gives NaN in its row or column. Attention scales rows one by one, and columns and values by the largest
    /// so far; blocks with operands that are not finite it computes in f32.
    High,
    /// f32 operands and sums.
    #[default]
    Highest,
}

impl MatmulPrecision {
    /// All of them, the least exact first.
    pub const ALL: [MatmulPrecision; 3] = [MatmulPrecision::Medium, MatmulPrecision::High, MatmulPrecision::Highest];

    /// Its name in texts and options.
    pub fn name(self) -> &'static str {
        match self {
            MatmulPrecision::Medium => "medium",
            MatmulPrecision::High => "high",
            MatmulPrecision::Highest => "highest",
        }
    }

    /// The one of that name.
    pub fn parse(name: &str) -> Option<MatmulPrecision> {
        MatmulPrecision::ALL.into_iter().find(|p| p.name() == name)
    }
}

impl std::str::FromStr for MatmulPrecision {
    type Err = String;
    fn from_str(name: &str) -> Result<MatmulPrecision, String> {
        MatmulPrecision::parse(name).ok_or_else(|| format!("{name} is no precision of products: use medium, high or highest"))
    }
}
