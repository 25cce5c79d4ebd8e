//! How exactly a program computes.

use super::Config;
use crate::types::{DType, MatmulPrecision};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// Products, convolutions and attention in a half type, the rest in f32, parameters and their updates too: automatic mixed
/// precision (Micikevicius et al. 2018; `torch.autocast` with a `GradScaler`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MixedPrecision {
    /// Type of the operands and results of products, f16 or bf16. Sums are of f32.
    pub dtype: DType,
    /// What keeps small gradients in the range of f16; bf16 has the range of f32.
    pub loss_scale: Option<LossScale>,
}

impl MixedPrecision {
    /// f16 with a dynamic loss scale.
    pub fn f16() -> MixedPrecision {
        MixedPrecision { dtype: DType::F16, loss_scale: Some(LossScale::default()) }
    }

    /// bf16.
    pub fn bf16() -> MixedPrecision {
        MixedPrecision { dtype: DType::BF16, loss_scale: None }
    }
}

/// A factor of the loss that gradients are divided by again: PyTorch's `GradScaler`. A step whose gradients are not finite changes
/// nothing but the factor, which it halves; after a number of finite ones in a row it doubles. It lives in the state, beside
/// the optimizer's (`optimizer.loss_scale.*`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    /// The first factor, a power of two.
    pub initial: f64,
    /// Steps in a row with finite gradients after which the factor doubles.
    pub growth_interval: u32,
}

impl Default for LossScale {
    fn default() -> LossScale {
        LossScale { initial: 65536.0, growth_interval: 2000 }
    }
}

/// How exactly a program computes, by one name: `highest`, `high` and `medium` are precisions of products of f32, `f16` and `bf16` are
/// mixed precision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Precision {
    /// f32 throughout, with products as exact as said.
    Products(MatmulPrecision),
    /// Products in halves.
    Mixed(MixedPrecision),
}

impl Precision {
    /// The configuration with this precision.
    pub fn of(self, config: Config) -> Config {
        match self {
            Precision::Products(matmul_precision) => Config { matmul_precision, mixed_precision: None, ..config },
            Precision::Mixed(mixed) => Config { mixed_precision: Some(mixed), ..config },
        }
    }

    /// The dtype of what products multiply.
    pub fn operands(self) -> DType {
        match self {
            Precision::Products(_) => DType::F32,
            Precision::Mixed(mixed) => mixed.dtype,
        }
    }
}

impl Default for Precision {
    fn default() -> Precision {
        Precision::Products(MatmulPrecision::default())
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Precision, String> {
        match name {
            "f16" => Ok(Precision::Mixed(MixedPrecision::f16())),
            "bf16" => Ok(Precision::Mixed(MixedPrecision::bf16())),
            name => {
                let products = MatmulPrecision::parse(name).map(Precision::Products);
                products.ok_or_else(|| format!("{name} is no precision: use highest, high, medium, f16 or bf16"))
            }
        }
    }
}
