//! Methods of tensors.

use super::{Case, input, table};
use inductor::{ConvOptions, DType, HostTensor, Interpolation, PadMode, PoolOptions, ScatterMode, Tensor, Trace};

fn x(t: &Trace) -> Tensor {
    input(t, "a", [2, 3, 4])
}

fn index(t: &Trace) -> Tensor {
    table(t, &[0, 2, 1, 0, 1, 1, 0, 2, 2, 0, 0, 1], &[3, 4])
}

fn ints(t: &Trace, values: &[i32]) -> Tensor {
    table(t, values, &[values.len()])
}

fn pair((a, b): (Tensor, Tensor)) -> Vec<Tensor> {
    vec![a, b]
}

pub const CASES: &[Case] = &[
    ("softplus", |t| vec![(3.0 * x(t)).softplus()]),
    ("selu", |t| vec![(3.0 * x(t)).selu()]),
    ("hardswish", |t| vec![(3.0 * x(t)).hardswish()]),
    ("hardsigmoid", |t| vec![(3.0 * x(t)).hardsigmoid()]),
    ("mish", |t| vec![(3.0 * x(t)).mish()]),
    ("logsigmoid", |t| vec![(3.0 * x(t)).logsigmoid()]),
    ("softsign", |t| vec![(3.0 * x(t)).softsign()]),
    ("tanhshrink", |t| vec![(3.0 * x(t)).tanhshrink()]),
    ("relu6", |t| vec![(3.0 * x(t)).relu6()]),
    ("gelu", |t| vec![(3.0 * x(t)).gelu()]),
    ("silu", |t| vec![(3.0 * x(t)).silu()]),
    ("leaky_relu", |t| vec![x(t).leaky_relu(0.2)]),
    ("elu", |t| vec![x(t).elu(0.7)]),
    ("celu", |t| vec![x(t).celu(0.7)]),
    ("glu", |t| vec![x(t).glu(-1)]),
    ("hardtanh", |t| vec![x(t).hardtanh(-0.4, 0.6)]),
    ("hardshrink", |t| vec![x(t).hardshrink(0.4)]),
    ("softshrink", |t| vec![x(t).softshrink(0.4)]),
    ("threshold", |t| vec![x(t).threshold(0.1, 0.7)]),
    ("prelu", |t| vec![x(t).prelu(&input(t, "b", [3]))]),
    ("log10", |t| vec![x(t).log10()]),
    ("special", |t| {
        let x = x(t);
        let back = x.flip(-1);
        let far = &x / 0.0;
        let mut all = vec![x.entr(), x.ndtr(), x.ndtri(), (-9.0 * &x).log_ndtr(), x.i0(), x.xlogy(&back), x.xlog1py(&back), x.logaddexp2(&back)];
        all.extend([x.ldexp(&x.full_like(3.0)), x.logit_with(0.3), (x.detach() - 0.5).heaviside(&x.detach()), x.signbit(), far.isposinf()]);
        all.push((-far).isneginf());
        all
    }),
    ("statistics", |t| {
        let x = x(t);
        let ((var, mean), (std, middle), (low, high)) = (x.var_mean((0, -1)), x.std_mean(1), x.aminmax((0, 2)));
        let batch = x.slice(1, 0, 1).baddbmm(&x.mt().slice(1, 1, 2), &x, 0.5, 2.0);
        let vector = x.select(0, 0).select(1, 0).addmv(&x.select(0, 1), &x.select(0, 0).select(0, 0), 3.0, 1.0);
        vec![var, mean, std, middle, low, high, batch, vector]
    }),
    ("places", |t| {
        let x = x(t);
        let of_nothing = t.zeros(DType::F32, (0, 3)).logsumexp(0).exp() + x.sum(());
        vec![
            x.slice(-1, -3, -1),
            x.narrow(-1, -2, 2),
            x.sum((0, 2)),
            x.slice(1, -3, 3).permute((-1, 0, 1)),
            of_nothing,
            x.gt(0.0).sum(-1),
            x.gt(0.0).cumsum(1),
        ]
    }),
    ("lgamma", |t| vec![x(t).lgamma()]),
    ("digamma", |t| vec![x(t).digamma()]),
    ("logit", |t| vec![x(t).logit()]),
    ("igamma", |t| {
        let x = x(t);
        vec![x.full_like(2.5).igamma(&x), x.full_like(0.5).igammac(&x)]
    }),
    ("frexp", |t| {
        let x = x(t);
        let (mantissa, exponent) = (3.0 * &x).frexp();
        vec![mantissa, exponent, x.nextafter(&x.full_like(2.0))]
    }),
    ("bincount", |t| vec![x(t).sum(()), table(t, &[1, 0, 2, 1, 4], &[5]).bincount(6)]),
    ("asinh", |t| vec![x(t).asinh()]),
    ("erfc", |t| vec![x(t).erfc()]),
    ("erfinv", |t| vec![x(t).erfinv()]),
    ("acosh", |t| vec![(x(t) + 1.5).acosh()]),
    ("atanh", |t| vec![x(t).atanh()]),
    ("std", |t| vec![x(t).std(1)]),
    ("var", |t| vec![x(t).var(())]),
    ("var_with", |t| vec![x(t).var_with([0, 2], 0.0, true)]),
    ("logsumexp", |t| vec![x(t).logsumexp([0, 1])]),
    ("norm", |t| vec![x(t).norm(())]),
    ("norm_with", |t| vec![x(t).norm_with(3.0, vec![1, 2], false)]),
    ("amax", |t| vec![x(t).amax([0, -1])]),
    ("prod", |t| vec![x(t).prod(1)]),
    ("mean_keepdim", |t| vec![x(t).mean_keepdim(-1)]),
    ("nansum", |t| {
        let x = x(t);
        vec![x.gt(0.9).where_(f64::NAN, &x).nansum(1)]
    }),
    ("argmax", |t| {
        let x = x(t);
        vec![x.argmax(1), x.argmin(()), x.argmax_keepdim(-1)]
    }),
    ("max_with_indices", |t| pair(x(t).max_with_indices(1))),
    ("median", |t| pair(x(t).median(1))),
    ("kthvalue", |t| pair(x(t).kthvalue(2, -1))),
    ("split", |t| {
        let x = x(t);
        [x.split(3, -1), x.chunk(2, 1), x.split_with_sizes([1, 2], 1), x.unbind(0)].concat()
    }),
    ("repeat", |t| {
        let x = x(t);
        vec![x.repeat((2, 1, 3, 1)), x.tile((2, 1)), x.repeat_interleave(3, 1)]
    }),
    ("roll", |t| {
        let x = x(t);
        vec![x.roll([1, -2], [0, 2]), x.roll(5, ()), x.rot90(1, [1, 2]), x.flip([0, 1])]
    }),
    ("diagonal", |t| {
        let x = x(t);
        let first = x.select(0, 0);
        vec![x.diagonal(1, 1, 2), first.select(0, 0).diag(0), first.diag(-1), x.diag_embed(0), first.trace()]
    }),
    ("movedim", |t| {
        let x = x(t);
        vec![x.movedim([0, 1], [2, 0]), x.mt(), x.select(0, 0).t(), x.unflatten(-1, (2, 2)), x.unsqueeze(0).expand((3, -1, -1, -1))]
    }),
    ("unfold", |t| vec![x(t).unfold(2, 3, 1)]),
    ("pad", |t| {
        let x = input(t, "a", [1, 2, 5, 6]);
        vec![
            x.pad([1, 2, 0, 1], 0.5),
            x.pad([1, 2, 2, 1], PadMode::Reflect),
            x.pad([1, 0, 0, 2], PadMode::Replicate),
            x.pad([2, 1, 1, 0], PadMode::Circular),
            x.pad([-1, 1], 0.0),
        ]
    }),
    ("select", |t| {
        let x = x(t);
        vec![x.select(1, -1), x.narrow(2, 1, 2), x.slice_step(2, 1, 4, 2)]
    }),
    ("products", |t| {
        let (x, v, w) = (x(t), input(t, "b", [4]), input(t, "c", [3]));
        vec![x.matmul(&v), w.matmul(&x), v.matmul(&v), v.outer(&w), Tensor::einsum("bij,j,i->b", &[&x, &v, &w]), x.tensordot(&v, 2, 0), v.kron(&w)]
    }),
    ("distances", |t| {
        let (x, y) = (input(t, "a", [4, 3]), input(t, "b", [5, 3]));
        let four = y.narrow(0, 0, 4);
        vec![x.cdist(&y, 2.0), x.cross(&four, -1), x.cosine_similarity(&four, 1), x.pairwise_distance(&four, 2.0), x.normalize(2.0, 1)]
    }),
    ("bilinear", |t| {
        let (x, y) = (input(t, "a", [2, 3]), input(t, "b", [2, 4]));
        vec![x.bilinear(&y, &input(t, "c", [5, 3, 4]), Some(&input(t, "d", [5])))]
    }),
    ("gather", |t| {
        let (x, s, i) = (input(t, "a", [3, 4]), input(t, "b", [3, 4]), index(t));
        vec![
            x.gather(0, &i),
            x.take_along_dim(&i.narrow(1, 0, 1), 1),
            x.take(&i),
            x.scatter(0, &i, 0.5),
            x.scatter_add(0, &i, &s),
            x.scatter_reduce(0, &i, &s, ScatterMode::Amax),
            x.index_add(0, &i.select(1, 1), &s),
            x.index_copy(0, &ints(t, &[2, 0]), &s.narrow(0, 0, 2)),
            x.index_fill(1, &ints(t, &[0, 3]), 2.0),
        ]
    }),
    ("index", |t| {
        let (x, s, i) = (input(t, "a", [3, 4]), input(t, "b", [3]), index(t));
        let places = [&i.select(1, 0), &i.select(1, 1)];
        vec![
            x.index(&places),
            x.index_put(&places, &s, false),
            x.masked_scatter(&x.gt(0.2), &s.repeat(4)),
            x.slice_scatter(1, 1, 2, &s.reshape((3, 1))),
            x.select_scatter(1, -1, &s),
        ]
    }),
    ("ordering", |t| {
        let x = input(t, "a", [3, 5]);
        let plain = vec![x.cumsum(1), x.cumprod(0), x.logcumsumexp(1), x.diff(-1), x.argsort(0, true)];
        [pair(x.sort(1, false)), pair(x.topk(2, 0)), plain, pair(x.cummax(1)), pair(x.cummin(0))].concat()
    }),
    ("searchsorted", |t| {
        let (x, v) = (input(t, "a", [3, 5]), input(t, "b", [3, 2]));
        let boundaries = t.constant(&HostTensor::f32(&[3], &[-0.5, 0.0, 0.5]));
        vec![x.sort(1, false).0.searchsorted(&v, false), v.bucketize(&boundaries, true), index(t).isin(&ints(t, &[0, 2]))]
    }),
    ("pointwise", |t| {
        let [x, y, z] = ["a", "b", "c"].map(|name| input(t, name, [2, 3]));
        vec![
            x.lerp(&y, &z),
            x.lerp(&y, 0.3),
            x.addcmul(&y, &z, 0.5),
            x.addcdiv(&y, &(&z + 3), 0.5),
            x.logaddexp(&y),
            x.hypot(&y),
            x.copysign(&y),
            x.fmax(&y),
            x.clamp(-0.3, 0.5),
            x.nan_to_num(),
            x.frac(),
            x.gt(&y).where_(&x, 2.0),
            x.masked_fill(&x.gt(0), 3.0),
        ]
    }),
    ("convolutions", |t| {
        let (x, w, v) = (input(t, "a", [2, 4, 7]), input(t, "b", [6, 2, 3]), input(t, "c", [4, 3, 3]));
        vec![
            x.conv1d(&w, ConvOptions::new().stride(2).padding(1).groups(2)),
            x.conv1d(&w, ConvOptions::new().same().dilation(2).groups(2)),
            x.conv_transpose1d(&v, ConvOptions::new().stride(2).padding(1).output_padding(1)),
        ]
    }),
    ("convolutions2d", |t| {
        let (x, w, v) = (input(t, "a", [1, 4, 5, 6]), input(t, "b", [2, 4, 3, 2]), input(t, "c", [4, 3, 2, 3]));
        vec![
            x.conv2d(&w, ConvOptions::new().stride([2, 1]).padding([1, 0]).dilation([1, 2])),
            x.conv_transpose2d(&v, ConvOptions::new().stride(2).dilation([2, 1])),
        ]
    }),
    ("convolutions3d", |t| {
        let (x, w, v) = (input(t, "a", [1, 2, 4, 4, 3]), input(t, "b", [2, 2, 2, 2, 2]), input(t, "c", [2, 1, 2, 2, 2]));
        vec![x.conv3d(&w, ConvOptions::new().padding(1)), x.conv_transpose3d(&v, ConvOptions::new().stride(2))]
    }),
    ("pools", |t| {
        let x = input(t, "a", [1, 2, 7, 6]);
        let row = x.select(0, 0);
        vec![
            x.max_pool2d(2),
            x.max_pool2d(PoolOptions::new(3).stride(2).padding(1).ceil()),
            x.avg_pool2d(PoolOptions::new([2, 3]).padding(1)),
            x.avg_pool2d(PoolOptions::new(3).stride(2).padding(1).without_padding()),
            row.max_pool1d(PoolOptions::new(3).stride(1)),
            row.avg_pool1d(2),
            x.adaptive_avg_pool2d((3, 2)),
            x.adaptive_max_pool2d((2, 2)),
            row.adaptive_avg_pool1d(4),
        ]
    }),
    ("resampling", |t| {
        let x = input(t, "a", [1, 4, 3, 4]);
        vec![
            x.interpolate((5, 7), Interpolation::Linear, false),
            x.interpolate((5, 7), Interpolation::Linear, true),
            x.upsample(2, Interpolation::Nearest),
            x.interpolate((5, 6), Interpolation::Cubic, false),
            x.interpolate((5, 6), Interpolation::NearestExact, false),
            x.pixel_shuffle(2),
            x.pixel_shuffle(2).pixel_unshuffle(2),
            x.im2col([2, 2], ConvOptions::new().padding(1)),
            x.im2col([2, 2], ConvOptions::new()).col2im([3, 4], [2, 2], ConvOptions::new()),
        ]
    }),
    ("norms", |t| {
        let (x, w, b) = (input(t, "a", [2, 6, 3]), input(t, "b", [6]), input(t, "c", [6]));
        vec![x.group_norm(3, Some(&w), Some(&b), 1e-5), x.instance_norm(None, None, 1e-5), x.renorm(2.0, 0, 1.5)]
    }),
    ("attention", |t| {
        let (q, k, v) = (input(t, "a", [2, 4, 3, 6]), input(t, "b", [2, 2, 5, 6]), input(t, "c", [2, 2, 5, 6]));
        let mask = t.ones(DType::F32, (3, 5)).tril(1).cast(DType::Bool);
        let masked = inductor::AttentionOptions { mask: Some(mask), ..Default::default() };
        vec![q.attention(&k, &v, &Default::default()), q.attention(&k, &v, &masked)]
    }),
];
