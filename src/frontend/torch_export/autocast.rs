//! Automatic casts of the CPU: which operators compute in the lower precision, which in f32, and which in the widest dtype of
//! their tensors (`autocast_mode.h`). All others take their arguments as they are.

use crate::frontend::aten::args::{Arg, Args, Cx};
use crate::graph::Value;
use crate::types::DType;

/// Operators that compute in the lower precision.
const LOWER: &[&str] = &[
    "_convolution.deprecated",
    "_native_multi_head_attention.default",
    "addbmm.default",
    "addmm.default",
    "baddbmm.default",
    "bmm.default",
    "conv1d.default",
    "conv1d.padding",
    "conv2d.default",
    "conv2d.padding",
    "conv3d.default",
    "conv3d.padding",
    "conv_tbc.default",
    "conv_transpose1d.default",
    "conv_transpose2d.input",
    "conv_transpose3d.input",
    "linalg_vecdot.default",
    "linear.default",
    "matmul.default",
    "mm.default",
    "prelu.default",
    "scaled_dot_product_attention.default",
];

/// Operators that compute in f32.
const WIDE: &[&str] = &[
    "adaptive_avg_pool3d.default",
    "adaptive_max_pool3d.default",
    "avg_pool3d.default",
    "binary_cross_entropy.default",
    "binary_cross_entropy_with_logits.default",
    "cdist.default",
    "cosine_embedding_loss.default",
    "cross_entropy_loss.default",
    "ctc_loss.IntList",
    "ctc_loss.Tensor",
    "fake_quantize_per_tensor_affine.default",
    "fractional_max_pool2d.default",
    "fractional_max_pool3d.default",
    "grid_sampler.default",
    "grid_sampler_2d.default",
    "grid_sampler_3d.default",
    "hinge_embedding_loss.default",
    "huber_loss.default",
    "kl_div.default",
    "l1_loss.default",
    "margin_ranking_loss.default",
    "max_pool3d.default",
    "max_unpool2d.default",
    "max_unpool3d.default",
    "mse_loss.default",
    "multi_margin_loss.default",
    "multilabel_margin_loss.default",
    "nanquantile.default",
    "nanquantile.scalar",
    "nll_loss.default",
    "nll_loss2d.default",
    "nll_loss_nd.default",
    "poisson_nll_loss.default",
    "prod.default",
    "prod.dim_int",
    "quantile.default",
    "quantile.scalar",
    "reflection_pad1d.default",
    "reflection_pad2d.default",
    "replication_pad1d.default",
    "replication_pad2d.default",
    "replication_pad3d.default",
    "smooth_l1_loss.default",
    "soft_margin_loss.default",
    "trace.default",
    "triplet_margin_loss.default",
];

/// Operators that PyTorch composes of others, some of which compute in the lower precision and some not: what the program declares
/// for the result says which.
const COMPOSED: &[&str] = &[
    "chain_matmul.default",
    "cov.default",
    "einsum.default",
    "inner.default",
    "linalg_matrix_power.default",
    "linalg_multi_dot.default",
    "matrix_power.default",
    "tensordot.default",
];

/// Whether a call computes in the lower precision.
pub fn lowers(target: &str) -> bool {
    LOWER.contains(&target.strip_prefix("torch.ops.aten.").unwrap_or(target))
}

/// Products of three tensors, which are cast and come back in the dtype of the first one, and the names of the three.
const OF_THREE: &[(&str, [&str; 3])] = &[("_trilinear.default", ["i1", "i2", "i3"]), ("bilinear.default", ["input1", "weight", "input2"])];

/// Recurrent nets, whose products are cast. What PyTorch declares for them does not know that.
const RECURRENT: &[&str] = &[
    "gru.input",
    "gru_cell.default",
    "lstm.input",
    "lstm_cell.default",
    "rnn_relu.input",
    "rnn_relu_cell.default",
    "rnn_tanh.input",
    "rnn_tanh_cell.default",
];

/// Operators that compute in the widest dtype of their tensors.
const WIDEST: &[&str] = &["cat.default", "index_copy.default", "stack.default"];

/// Casts the float tensors among the arguments of a call, but those of f64. Its result is declared to be of that dtype, where
/// the program is to be believed.
pub fn cast_arguments(cx: &mut Cx, target: &str, args: &mut Args, lower: DType, declared: Option<DType>) -> Result<(), String> {
    let name = target.strip_prefix("torch.ops.aten.").unwrap_or(target);
    let dtype = match name {
        _ if LOWER.contains(&name) => lower,
        _ if COMPOSED.contains(&name) && declared == Some(lower) => lower,
        _ if COMPOSED.contains(&name) && declared.is_none() => return Err("in which dtype it computes here is not said".into()),
        _ if COMPOSED.contains(&name) => return Ok(()),
        _ if WIDE.contains(&name) => DType::F32,
        // Padding by an image's own elements is wide, by a number it is not.
        "pad.default" if declared == Some(DType::F32) => DType::F32,
        _ if WIDEST.contains(&name) => widest(cx, args, lower),
        _ if RECURRENT.contains(&name) => return cast_weights(cx, name, args, lower),
        _ => match OF_THREE.iter().find(|(of, _)| *of == name) {
            Some((_, names)) => return cast_three(cx, args, names, lower),
            None => return Ok(()),
        },
    };
    args.iter_mut().try_for_each(|arg| cast_argument(cx, arg, dtype))
}

fn cast_argument(cx: &mut Cx, arg: &mut Arg, dtype: DType) -> Result<(), String> {
    match arg {
        Arg::Tensor(v) => cast(cx, v, dtype),
        Arg::Tensors(list) => list.iter_mut().try_for_each(|v| cast(cx, v, dtype)),
        Arg::OptionalTensors(list) => list.iter_mut().flatten().try_for_each(|v| cast(cx, v, dtype)),
        _ => Ok(()),
    }
}

fn cast_three(cx: &mut Cx, args: &mut Args, names: &[&str], lower: DType) -> Result<(), String> {
    let dtype = cx.b.dtype(args.tensor(names[0])?);
    for (name, arg) in args.named_mut() {
        if names.contains(&name) {
            cast_argument(cx, arg, lower)?;
        }
    }
    if is_cast(dtype) {
        args.push("dtype", Arg::DType(dtype));
    }
    Ok(())
}

/// Casts weights and inputs, and the states of an LSTM without projections, which PyTorch has a library compute as a whole.
fn cast_weights(cx: &mut Cx, name: &str, args: &mut Args, lower: DType) -> Result<(), String> {
    let last = |v: &Value| cx.b.shape(*v).0.last().cloned();
    let whole = name == "lstm.input" && args.tensors("hx")?.windows(2).all(|s| last(&s[0]) == last(&s[1]));
    for (name, arg) in args.named_mut() {
        if name != "hx" || whole {
            cast_argument(cx, arg, lower)?;
        }
    }
    Ok(())
}

fn is_cast(dtype: DType) -> bool {
    dtype.is_float() && dtype != DType::F64
}

fn cast(cx: &mut Cx, v: &mut Value, dtype: DType) -> Result<(), String> {
    if is_cast(cx.b.dtype(*v)) {
        *v = cx.b.cast(*v, dtype)?;
    }
    Ok(())
}

fn widest(cx: &Cx, args: &mut Args, lower: DType) -> DType {
    let is_wide = |v: &Value| cx.b.dtype(*v) == DType::F32;
    let any = args.iter_mut().any(|arg| match arg {
        Arg::Tensor(v) => is_wide(v),
        Arg::Tensors(list) => list.iter().any(is_wide),
        _ => false,
    });
    if any { DType::F32 } else { lower }
}
