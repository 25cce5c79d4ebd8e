//! Operators that PyTorch composes of ones which promote their operands: their tensors come to a common dtype first.

use super::args::{Arg, Args, Cx, Operand};
use crate::types::DType;

/// Which arguments of which calls are promoted together.
struct Promotion {
    names: &'static [&'static str],
    arguments: &'static [&'static str],
    to: To,
}

/// What the promoted tensors become.
#[derive(Clone, Copy, PartialEq)]
enum To {
    /// Of their common dtype.
    Common,
    /// The same, but floats where that is an integer.
    Floats,
}

const TABLE: &[Promotion] = &[
    Promotion { names: &["mse_loss.default", "l1_loss.default", "smooth_l1_loss.default"], arguments: &["self", "target"], to: To::Common },
    Promotion { names: &["kl_div.default"], arguments: &["self", "target"], to: To::Floats },
    Promotion { names: &["margin_ranking_loss.default"], arguments: &["input1", "input2", "target"], to: To::Common },
    Promotion { names: &["cosine_embedding_loss.default"], arguments: &["input1", "input2"], to: To::Floats },
    Promotion { names: &["pairwise_distance.default"], arguments: &["x1", "x2"], to: To::Floats },
    Promotion { names: &["triplet_margin_loss.default"], arguments: &["anchor", "positive", "negative"], to: To::Floats },
    Promotion { names: &["dist.default", "kron.default"], arguments: &["self", "other"], to: To::Common },
    Promotion { names: &["outer.default", "ger.default"], arguments: &["self", "vec2"], to: To::Common },
];

/// Losses whose results have another dtype than PyTorch declares where those of their operands differ: its kernels write in place.
const OF_ONE_OPERAND: &[&str] = &["huber_loss.default", "soft_margin_loss.default", "binary_cross_entropy_with_logits.default"];

/// Whether what the program declares for the dtype of such a call is to be believed.
pub fn has_declared_dtype(target: &str) -> bool {
    !target.strip_prefix("torch.ops.aten.").is_some_and(|name| OF_ONE_OPERAND.contains(&name))
}

/// Casts what a call promotes.
pub fn promote_arguments(cx: &mut Cx, target: &str, args: &mut Args) -> Result<(), String> {
    let name = target.strip_prefix("torch.ops.aten.").unwrap_or(target);
    let Some(row) = TABLE.iter().find(|row| row.names.contains(&name)) else { return Ok(()) };
    let mut tensors = vec![];
    for (name, arg) in args.named_mut() {
        match arg {
            Arg::Tensor(v) if row.arguments.contains(&name) => tensors.push(v),
            _ => {}
        }
    }
    let operands: Vec<Operand> = tensors.iter().map(|v| Operand::Tensor(**v)).collect();
    let dtype = cx.result_type(&operands.iter().collect::<Vec<_>>());
    let dtype = if row.to != To::Common && !dtype.is_float() { DType::F32 } else { dtype };
    for v in tensors {
        *v = cx.b.cast(*v, dtype)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promoted_operators_exist() {
        assert!(TABLE.iter().flat_map(|row| row.names).all(|name| super::super::row(name).is_some()));
    }
}
