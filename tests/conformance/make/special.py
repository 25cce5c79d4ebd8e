"""Cases of special values: `python special.py OUT [--dtypes float32,int8] [--filter abs]`.

NaN, infinities, signed zeros, ties, halves between integers, the extremes of integers and points where derivatives are singular.
Writes `OUT/special/<name>/<dtype>/`.
"""

import argparse
import multiprocessing
import pathlib

import torch
import torch.nn.functional as F

from cases import DTYPES, initialize, write_case

NAN, INF = float("nan"), float("inf")
FLOATS = [0.0, -0.0, 1.0, -1.0, NAN, INF, -INF, 0.5, -0.5, 1.5, -1.5, 2.5, -2.5, 2.0, -3.0, 0.1]
FLOAT_ROWS = [
    [1.0, 3.0, 2.0, -1.0],
    [2.0, 2.0, -2.0, 2.0],
    [NAN, 3.0, NAN, 1.0],
    [1.0, NAN, 5.0, -2.0],
    [INF, 1.0, INF, 0.0],
    [-INF, -INF, -INF, -INF],
    [INF, -INF, 1.0, 2.0],
    [0.0, 0.0, 0.0, 0.0],
    [0.0, -0.0, 0.0, -0.0],
    [0.0, 2.0, 0.0, 3.0],
    [0.0, 2.0, -4.0, 3.0],
    [-INF, 1.0, -3.0, 1.0],
]


def extremes(dtype):
    info = torch.iinfo(dtype)
    small = [0, 1, 2, 3, 5, 7, info.max, info.max - 1, info.min, info.min + 1]
    return small + ([-1, -2, -3, -7] if info.min < 0 else [])


def values(dtype):
    if dtype == torch.bool:
        return torch.tensor([False, True])
    return torch.tensor(FLOATS if dtype.is_floating_point else extremes(dtype), dtype=dtype)


def rows(dtype):
    if dtype.is_floating_point:
        return torch.tensor(FLOAT_ROWS, dtype=dtype)
    if dtype == torch.bool:
        return torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
    x = extremes(dtype)
    return torch.tensor([[3, 1, 2, 1], [2, 2, 2, 2], x[6:10], [x[6], x[8], x[6], x[8]], [0, 0, 5, 0]], dtype=dtype)


def pairs(dtype, divisor=False):
    x = values(dtype)
    y = x if dtype.is_floating_point or not divisor else x[x != 0]
    return [t.reshape(-1).clone() for t in torch.meshgrid(x, y, indexing="ij")]


ALL = tuple(DTYPES)
FLOATING = ("float64", "float32", "float16", "bfloat16")
INTEGER = ("int64", "int32", "uint8", "int8")
NUMBERS = FLOATING + INTEGER

UNARY = (
    "abs acos acosh asin asinh atan atanh cos cosh deg2rad erf erfc exp exp2 expm1 log log10 log1p log2 logit rad2deg reciprocal rsqrt "
    "sigmoid sin sinc sinh sqrt tan tanh isnan isinf isfinite isposinf isneginf sign sgn signbit square positive"
).split()
ROUNDING = "ceil floor round trunc frac nan_to_num neg relu".split()
BINARY = "add sub mul div pow atan2 maximum minimum eq ne lt le gt ge".split()
FLOAT_BINARY = "fmax fmin hypot copysign nextafter xlogy logaddexp logaddexp2 heaviside".split()
BITS = "bitwise_and bitwise_or bitwise_xor".split()


def unary_cases():
    for name in UNARY:
        yield name, getattr(torch, name), ALL
    for name in ROUNDING:
        yield name, getattr(torch, name), NUMBERS
    yield "round.decimals_1", lambda x: torch.round(x, decimals=1), NUMBERS
    yield "round.decimals_neg_1", lambda x: torch.round(x, decimals=-1), NUMBERS
    yield "nan_to_num.given", lambda x: torch.nan_to_num(x, nan=3.0, posinf=7.0, neginf=2.0), NUMBERS
    for power in (0, 1, 2, 3, 4):
        yield f"pow.{power}", lambda x, p=power: torch.pow(x, p), NUMBERS
    for power in (-1.0, -2.0, 0.5, -0.5, 1.5, 3.0):
        yield f"pow.{power}", lambda x, p=power: torch.pow(x, p), FLOATING
    yield "pow.base_2", lambda x: torch.pow(2.0, x), FLOATING
    yield "pow.base_0", lambda x: torch.pow(0.0, x), FLOATING
    yield "clamp.min", lambda x: torch.clamp(x, min=1), NUMBERS
    yield "clamp.max", lambda x: torch.clamp(x, max=1), NUMBERS
    yield "clamp.both", lambda x: torch.clamp(x, 0, 2), NUMBERS
    yield "clamp.crossed", lambda x: torch.clamp(x, 2, 0), NUMBERS
    yield "add.alpha", lambda x: torch.add(x, x, alpha=3), NUMBERS
    yield "sub.alpha", lambda x: torch.sub(1, x, alpha=2), NUMBERS
    for name in "gelu silu mish elu celu selu softplus softsign logsigmoid hardswish hardsigmoid hardtanh relu6 leaky_relu softshrink hardshrink tanhshrink".split():
        yield f"nn.{name}", getattr(F, name), FLOATING
    yield "nn.gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), FLOATING
    yield "nn.threshold", lambda x: F.threshold(x, 1.0, 7.0), NUMBERS
    yield "nn.softplus_threshold", lambda x: F.softplus(x, beta=2.0, threshold=2.0), FLOATING
    yield "nn.elu_scaled", lambda x: F.elu(x, alpha=2.0), FLOATING
    yield "frexp", torch.frexp, FLOATING
    yield "ldexp", lambda x: torch.ldexp(x, torch.tensor([3])), FLOATING
    yield "signed_zero.add", lambda x: 1 / (x + 0.0), FLOATING
    yield "signed_zero.mul", lambda x: (1 / (x * -1.0), 1 / (0.0 * x)), FLOATING
    yield "signed_zero.cast", lambda x: tuple(1 / (x * 1e-30).to(t).to(torch.float32) for t in (torch.float16, torch.bfloat16, torch.float32, torch.float64)), FLOATING
    yield "signed_zero.round", lambda x: tuple(1 / f(x) for f in (torch.round, torch.ceil, torch.floor, torch.trunc, torch.sign, torch.relu, torch.frac)), FLOATING
    yield "signed_zero.functions", lambda x: tuple(1 / f(x) for f in (torch.sin, torch.tan, torch.asin, torch.atan, torch.sinh, torch.tanh, torch.expm1, torch.log1p, torch.sqrt, torch.erf, torch.asinh, torch.atanh)), FLOATING
    for to in ("float64", "float32", "float16", "bfloat16", "bool"):
        yield f"to.{to}", lambda x, t=DTYPES[to]: x.to(t), ALL
    for to in INTEGER:
        yield f"to.{to}", lambda x, t=DTYPES[to]: x.to(t), INTEGER + ("bool",)
        yield f"to.{to}_finite", lambda x, t=DTYPES[to]: torch.where(torch.isfinite(x), x, 0).abs().to(t), FLOATING
    yield "shift.left", lambda x: tuple(torch.bitwise_left_shift(x, n) for n in (0, 1, 7, 8, 31, 32, 63, -1)), INTEGER
    yield "shift.right", lambda x: tuple(torch.bitwise_right_shift(x, n) for n in (0, 1, 7, 8, 31, 32, 63, 100, -1)), INTEGER
    yield "bitwise_not", torch.bitwise_not, INTEGER + ("bool",)
    yield "logical_not", torch.logical_not, ALL
    yield "bucketize", lambda x: torch.bucketize(x, torch.tensor([-1, 0, 1, 2], dtype=x.dtype)), FLOATING + ("int64", "int32", "int8")
    yield "bucketize.right", lambda x: torch.bucketize(x, torch.tensor([-1, 0, 1, 2], dtype=x.dtype), right=True), FLOATING + ("int64", "int32", "int8")
    yield "lerp.ends", lambda x: tuple(torch.lerp(x, x.flip(0), w) for w in (0.0, 0.5, 1.0, 2.0)), FLOATING
    yield "where.grad", lambda x: torch.where(x > 0, torch.log(x), x), FLOATING
    yield "max.all", lambda x: (torch.max(x), torch.min(x), torch.argmax(x), torch.argmin(x)), NUMBERS
    yield "addcdiv", lambda x: torch.addcdiv(x, x, x.flip(0), value=2), FLOATING
    yield "floor_divide.0.1", lambda x: torch.floor_divide(x, 0.1), FLOATING
    yield "remainder.0.1", lambda x: torch.remainder(x, 0.1), FLOATING
    yield "div.by_zero", lambda x: (x / 0.0, torch.floor_divide(x, 0.0), torch.remainder(x, 0.0), torch.fmod(x, 0.0)), FLOATING


def binary_cases():
    for name in BINARY:
        yield name, getattr(torch, name), NUMBERS if name != "pow" else FLOATING
    for name in FLOAT_BINARY:
        yield name, getattr(torch, name), FLOATING
    for name in BITS:
        yield name, getattr(torch, name), INTEGER
    yield "rsub", torch.rsub, NUMBERS
    yield "isclose", lambda x, y: (torch.isclose(x, y), torch.isclose(x, y, equal_nan=True)), NUMBERS
    yield "special.xlog1py", torch.special.xlog1py, FLOATING
    yield "logical", lambda x, y: (torch.logical_and(x, y), torch.logical_or(x, y), torch.logical_xor(x, y)), NUMBERS
    yield "clamp.tensors", lambda x, y: torch.clamp(x, y, torch.zeros_like(y)), NUMBERS
    yield "clamp.min_tensor", lambda x, y: torch.clamp(x, min=y), NUMBERS
    yield "nn.bce_with_logits", lambda x, y: F.binary_cross_entropy_with_logits(x, y, reduction="none"), FLOATING
    yield "nn.l1_loss", lambda x, y: F.l1_loss(x, y, reduction="none"), FLOATING
    yield "nn.smooth_l1_loss", lambda x, y: F.smooth_l1_loss(x, y, reduction="none"), FLOATING
    yield "nn.huber_loss", lambda x, y: F.huber_loss(x, y, reduction="none", delta=0.5), FLOATING
    yield "nn.kl_div", lambda x, y: F.kl_div(x, y, reduction="none"), FLOATING
    yield "nn.kl_div_log", lambda x, y: F.kl_div(x, y, reduction="none", log_target=True), FLOATING
    yield "nn.soft_margin_loss", lambda x, y: F.soft_margin_loss(x, y, reduction="none"), FLOATING
    yield "nn.hinge_embedding_loss", lambda x, y: F.hinge_embedding_loss(x, y, reduction="none"), FLOATING
    yield "nn.prelu", lambda x, y: F.prelu(x, y[:1]), FLOATING


def division_cases():
    yield "floor_divide", torch.floor_divide, NUMBERS
    yield "remainder", torch.remainder, NUMBERS
    yield "fmod", torch.fmod, NUMBERS
    yield "div.trunc", lambda x, y: torch.div(x, y, rounding_mode="trunc"), NUMBERS
    yield "div.floor", lambda x, y: torch.div(x, y, rounding_mode="floor"), NUMBERS
    yield "gcd", torch.gcd, INTEGER


def row_cases():
    for name in "sum prod argmax argmin any all cumsum cumprod cummax cummin".split():
        yield name, lambda x, f=getattr(torch, name): f(x, dim=1), NUMBERS
    for name in "mean logcumsumexp nansum nanmean softmax log_softmax".split():
        yield name, lambda x, f=getattr(torch, name): f(x, dim=1), FLOATING
    for name in "amax amin".split():
        yield name, lambda x, f=getattr(torch, name): f(x, dim=1), NUMBERS
        yield f"{name}.all_dims", lambda x, f=getattr(torch, name): f(x[:2]), NUMBERS
    for name in "max min median nanmedian mode".split():
        yield name, lambda x, f=getattr(torch, name): f(x, dim=1), NUMBERS
    yield "sum.float32", lambda x: torch.sum(x, dim=1, dtype=torch.float32), NUMBERS
    yield "sum.int8", lambda x: torch.sum(x, dim=1, dtype=torch.int8), INTEGER
    yield "cumsum.int32", lambda x: torch.cumsum(x, dim=1, dtype=torch.int32), INTEGER
    yield "prod.all", lambda x: torch.prod(x[:2]), NUMBERS
    yield "aminmax", lambda x: torch.aminmax(x, dim=1), NUMBERS
    yield "logsumexp", lambda x: torch.logsumexp(x, dim=1), FLOATING
    yield "count_nonzero", lambda x: torch.count_nonzero(x, dim=1), NUMBERS
    for correction in (0, 1, 2, 4, 6):
        yield f"var.{correction}", lambda x, c=correction: torch.var(x, dim=1, correction=c), FLOATING
        yield f"std.{correction}", lambda x, c=correction: torch.std(x, dim=1, correction=c), FLOATING
    yield "var_mean", lambda x: torch.var_mean(x, dim=1), FLOATING
    yield "std_mean", lambda x: torch.std_mean(x, dim=1), FLOATING
    for p in (0, 0.5, 1, 2, 3, INF, -INF, -1):
        yield f"norm.{p}", lambda x, p=p: torch.linalg.vector_norm(x, p, dim=1), FLOATING
        yield f"nn.normalize.{p}", lambda x, p=p: F.normalize(x, p=p, dim=1), FLOATING
        yield f"dist.{p}", lambda x, p=p: torch.dist(x[:3], x[7:10], p), FLOATING
        if p >= 0:
            yield f"cdist.{p}", lambda x, p=p: torch.cdist(x[:2], torch.cat([x[:2], x[7:8]]), p=p), ("float64", "float32")
            yield f"renorm.{p}", lambda x, p=p: torch.renorm(x[7:11], p, 0, 1.0) if p else x, FLOATING
    yield "sort", lambda x: torch.sort(x, dim=1, stable=True), NUMBERS
    yield "sort.descending", lambda x: torch.sort(x, dim=1, stable=True, descending=True), NUMBERS
    yield "topk.values", lambda x: torch.topk(x, 2, dim=1)[0], NUMBERS
    yield "kthvalue.values", lambda x: torch.kthvalue(x, 2, dim=1)[0], NUMBERS
    yield "histc", lambda x: torch.histc(x[:2], bins=4, min=-2, max=3), ("float64", "float32")
    yield "nn.layer_norm", lambda x: F.layer_norm(x, (x.shape[1],)), FLOATING
    yield "nn.gumbel_free_softmin", lambda x: F.softmin(x, dim=1), FLOATING
    yield "nn.max_pool1d", lambda x: F.max_pool1d(x[:, None], 2, return_indices=True), FLOATING
    yield "nn.max_pool2d", lambda x: F.max_pool2d(x[None], 2, stride=1, return_indices=True), FLOATING
    yield "nn.adaptive_max_pool1d", lambda x: F.adaptive_max_pool1d(x[:, None], 3, return_indices=True), FLOATING
    for name, k, size in (("square", 2, (5, 3)), ("high", (3, 2), (4, 2))):
        yield (
            f"nn.fractional_max_pool2d.{name}",
            lambda x, k=k, size=size: F.fractional_max_pool2d(
                x[None, None, 3:], k, output_size=size, return_indices=True, _random_samples=torch.tensor([[[0.3, 0.75]]], dtype=x.dtype)
            ),
            ("float64", "float32"),
        )
    for a in (0.25, 1.0, 7.5):
        yield f"igamma.{a}", lambda x, a=a: torch.special.gammainc(torch.tensor(a, dtype=x.dtype), x), ("float64", "float32")
        yield f"igammac.{a}", lambda x, a=a: torch.special.gammaincc(torch.tensor(a, dtype=x.dtype), x), ("float64", "float32")
    yield "nn.avg_pool1d", lambda x: F.avg_pool1d(x[:, None], 2, padding=1), FLOATING
    yield "nn.cross_entropy", lambda x: F.cross_entropy(x, torch.arange(x.shape[0]) % 4, reduction="none"), FLOATING
    yield "nn.nll_loss", lambda x: F.nll_loss(x, torch.arange(x.shape[0]) % 4, reduction="none"), FLOATING
    yield "nn.cosine_similarity", lambda x: F.cosine_similarity(x, x.flip(0), dim=1), FLOATING
    yield "nn.cosine_similarity.small", lambda x: F.cosine_similarity(x[:2] * 1e-10, x[9:11], dim=1), FLOATING
    yield "nn.pairwise_distance", lambda x: F.pairwise_distance(x, x.clone(), eps=0.0), FLOATING
    index = torch.tensor([[0, 0, 1, 2]])
    for reduce in ("sum", "prod", "amax", "amin", "mean"):
        for inclusive in (True, False):
            yield (
                f"scatter_reduce.{reduce}_{inclusive}",
                lambda x, r=reduce, i=inclusive: torch.scatter_reduce(x, 1, index.expand_as(x), x.flip(1), r, include_self=i),
                NUMBERS,
            )
    lengths, offsets = torch.tensor([2, 0, 6, 3]), torch.tensor([[0, 1, 4]]).repeat(12, 1)
    for reduce in ("sum", "mean", "max", "min", "prod"):
        yield f"segment_reduce.{reduce}", lambda x, r=reduce: torch.segment_reduce(x, r, lengths=lengths, unsafe=True), ("float64", "float32")
        yield (
            f"segment_reduce.{reduce}_apart",
            lambda x, r=reduce: torch.segment_reduce(x[[0, 1, 10]], r, lengths=torch.tensor([2, 0, 1]), unsafe=True),
            ("float64", "float32"),
        )
        yield (
            f"segment_reduce.{reduce}_offsets",
            lambda x, r=reduce: torch.segment_reduce(x[:, :, None], r, offsets=offsets, axis=1, initial=2.0, unsafe=True),
            ("float64", "float32"),
        )
    at = torch.tensor([0, 0, 2])
    yield "index_put.accumulate", lambda x: torch.index_put(x, (at,), x[1:4], accumulate=True), NUMBERS
    yield "index_add", lambda x: torch.index_add(x, 0, at, x[1:4], alpha=2), NUMBERS
    for mode in ("reflect", "replicate", "circular"):
        yield f"nn.pad.{mode}", lambda x, m=mode: F.pad(x[None], (2, 1), mode=m), FLOATING
    yield "nn.pad.constant", lambda x: F.pad(x, (2, 1), value=1), NUMBERS
    yield "searchsorted", lambda x: torch.searchsorted(torch.sort(x, dim=1)[0], x), NUMBERS
    yield "searchsorted.right", lambda x: torch.searchsorted(torch.sort(x, dim=1)[0], x, right=True), NUMBERS
    yield "diff", lambda x: torch.diff(x, dim=1), NUMBERS
    yield "dot", lambda x: torch.dot(x[0], x[1]), NUMBERS
    yield "matmul", lambda x: x @ x.transpose(0, 1), NUMBERS


def probability_cases():
    yield "nn.bce", lambda x, y: F.binary_cross_entropy(x, y, reduction="none"), FLOATING
    yield "nn.bce_mean", lambda x, y: F.binary_cross_entropy(x, y), FLOATING
    yield "special.entr", lambda x, y: torch.special.entr(x), FLOATING
    yield "nn.kl_div_targets", lambda x, y: F.kl_div(torch.log(x), y, reduction="none"), FLOATING
    yield "logit.eps", lambda x, y: torch.logit(x, eps=0.25), FLOATING


def probabilities(dtype):
    x = torch.tensor([0.0, 1.0, 0.5, 0.25, 1.0, 0.0], dtype=dtype)
    return [t.reshape(-1).clone() for t in torch.meshgrid(x, x, indexing="ij")]


FAMILIES = [
    (unary_cases, lambda dtype: [values(dtype)]),
    (binary_cases, pairs),
    (division_cases, lambda dtype: pairs(dtype, divisor=True)),
    (row_cases, lambda dtype: [rows(dtype)]),
    (probability_cases, probabilities),
]


def write(job):
    family, index, dtype, out, decompose = job
    cases, inputs = FAMILIES[family]
    name, function, _ = list(cases())[index]
    facts = {"op": name, "dtype": dtype, "scope": "core"}
    why = write_case(out / "special" / name / dtype, function, inputs(DTYPES[dtype]), {}, facts, decompose=decompose)
    return why and f"{name} {dtype}: {why}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--dtypes", default=",".join(DTYPES))
    parser.add_argument("--filter", default="", help="only cases whose name contains this")
    parser.add_argument("--decompose", action="store_true", help="with run_decompositions(), which loses the derivatives at singular points")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    chosen = options.dtypes.split(",")
    jobs = [
        (family, index, dtype, options.out, options.decompose)
        for dtype in chosen
        for family, (cases, _) in enumerate(FAMILIES)
        for index, (name, _, dtypes) in enumerate(cases())
        if dtype in dtypes and options.filter in name
    ]
    with multiprocessing.get_context("fork").Pool(options.jobs, initialize) as pool:
        skipped = [why for why in pool.imap(write, jobs, chunksize=2) if why]
    (options.out / "skipped_special.txt").write_text("".join(f"{why}\n" for why in skipped))
    print(f"{len(jobs) - len(skipped)} cases")


if __name__ == "__main__":
    main()
