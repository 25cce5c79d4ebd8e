"""Programs as people write them, of what operator samples leave out: `python written.py OUT [--filter cross]`.

Defaults that differ between operators of one family, tensors of equal sizes along several dimensions, arguments `out`, masks and tables
that the program holds, casts of floats to narrow integers, writes through windows, bits as other dtypes. Expected are values and
gradients of PyTorch's eager mode. Programs are not decomposed, but those of `DECOMPOSED`, in which what stops gradients is only seen in
what PyTorch notes about nodes; those of `STRICT` are exported in strict mode. Writes `OUT/written/<name>/`. All of them are kept, in `written/`.
"""

import torch
import torch.nn.functional as F

from cases import chosen, write_case

NAN, INF = float("nan"), float("inf")


def x(*shape):
    return torch.randn(shape)


def filled(a):
    square, tall = a[:3].clone(), a.clone()
    return square.fill_diagonal_(2.0), tall.fill_diagonal_(3.0, wrap=True), a.expand(3, 7, 3)[:, :3].clone().fill_diagonal_(1.5)


def cropped_circles(a):
    pads = [2, -1, 0, 2], [-1, 2, 2, -2], [-2, -1, 0, 0], [3, -1, -3, 1]
    return [F.pad(a, p, mode="circular") for p in pads] + [F.pad(a, [2, -1, -2, 1], mode=m) for m in ("reflect", "replicate")]


def written_infinities(a, i, v):
    b, c = a.clone(), a.clone()
    b[i] = v
    c.index_copy_(0, i.flip(0), v)
    return b, c, a.index_put((i - 3,), v)


def gamma_functions(a):
    s = torch.special
    return a.lgamma(), torch.mvlgamma(a.abs() + 2.5, 3), a.digamma(), s.polygamma(1, a), s.polygamma(3, a)


def bessel_functions(a):
    s = torch.special
    return s.i0e(a), s.i1e(a)


def statistics_of_halves(a, w):
    mean, variance = torch.zeros(4).bfloat16(), torch.ones(4).bfloat16()
    batch = torch.native_batch_norm(a, w, None, mean, variance, True, 0.1, 1e-5)
    rows = torch.native_layer_norm(a, [3], None, None, 1e-5)
    return batch[0], batch[1].detach(), rows[0], rows[1].detach()


def into_out(a, b):
    sum, norm = torch.empty_like(a), torch.zeros(3)
    torch.add(a, b, alpha=2, out=sum)
    torch.linalg.vector_norm(sum, dim=1, out=norm)
    return torch.mul(sum, norm[:, None], out=torch.empty(3, 4, dtype=torch.float64)), sum


def into_empty(a, b):
    sum, columns = torch.empty(0), torch.empty(0, dtype=torch.float64)
    torch.add(a, b, out=sum)
    torch.sum(sum, 0, out=columns)
    return sum * 2, columns


def through_windows(a):
    apart, first, read = a * 2, a.clone(), a.clone()
    apart.unfold(0, 2, 2).mul_(3.0)
    first.unfold(1, 3, 1)[:, 0].zero_()
    windows = read.unfold(0, 2, 1)
    read.add_(1)
    return apart, first, windows * 2


def through_strides(a, s):
    part, last = a.clone(), a.clone()
    part.as_strided((2, 3), (4, 1), 1).copy_(s)
    view = last.as_strided((3,), (5,))
    view.add_(1)
    last.mul_(2)
    return part * a, view, last


def bits(a, half, double, narrow, bytes):
    wide = narrow.view(torch.int64)
    return (
        a.view(torch.int32),
        (a.view(torch.int32) ^ 1).view(torch.float32),
        half.view(torch.int16).long(),
        half.view(torch.bfloat16),
        double.view(torch.int64),
        (double.view(torch.int64) + 1).view(torch.float64),
        wide,
        narrow.view(torch.uint8),
        a.view(torch.uint8),
        bytes.view(torch.float32),
        bytes.view(torch.int8),
    )


def parts_of_floats(a, b, half):
    narrow = half.bfloat16()
    return (
        *torch.frexp(a),
        *torch.frexp(b.detach()),
        *torch.frexp(half),
        *[torch.nextafter(x.detach(), x.detach().flip(0)) for x in (a, b, narrow)],
        *[torch.nextafter(x.detach(), torch.zeros_like(x)) for x in (a, b, narrow)],
        *[torch.signbit(x) for x in (a, b, half, narrow)],
        *[torch.copysign(torch.ones_like(x), x.detach()) for x in (a, b, half)],
    )


def recurrent_in_autocast(a, h, c, *w):
    w, projected, gru, three = w[:4], w[4:9], w[9:13], w[13:]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        whole = torch.lstm(a, [h, c], w, True, 1, 0.0, False, False, False)
        short = torch.lstm(a, [h[..., :2], c], projected, True, 1, 0.0, False, False, False)
        gates = torch.gru(a, h, gru, True, 1, 0.0, False, False, False)
        plain = torch.rnn_tanh(a, h, [t[:4] for t in gru], True, 1, 0.0, False, False, False)
        cells = torch.lstm_cell(a[0], [h[0], c[0]], *w), torch.gru_cell(a[0], h[0], *gru), torch.rnn_relu_cell(a[0], h[0], *[t[:4] for t in gru])
        product = F.bilinear(a, h.expand(5, -1, -1), three[0], three[1]), F.bilinear(a, h.expand(5, -1, -1), three[0])
    return *whole, *short, *gates, *plain, *cells[0], *cells[1:], *product


def windows(a):
    lengths = [torch.hann_window(n) for n in (0, 1, 2)]
    return (
        *lengths,
        torch.hann_window(5) * a,
        torch.hann_window(5, periodic=False, dtype=torch.float64),
        torch.hamming_window(6),
        torch.hamming_window(5, False, 0.6, 0.3) * a,
        torch.blackman_window(5) * a,
        torch.blackman_window(6, False),
        torch.bartlett_window(5) * a,
        torch.bartlett_window(6, False),
        torch.kaiser_window(5) * a,
        torch.kaiser_window(6, False, 3.5),
    )


def other_names(a, i):
    named = torch.special
    return (
        named.psi(a),
        named.round(a, decimals=1),
        named.round(a),
        named.logsumexp(a, 1),
        named.softmax(a, 0),
        named.log_softmax(a, 1),
        torch.isin(i, 2),
        torch.isin(3, i),
        torch.isin(i, 2.5, invert=True),
    )


def smooth(a):
    size = dict(size=(5, 4), antialias=True)
    return (
        F.interpolate(a, mode="bilinear", **size),
        F.interpolate(a, mode="bicubic", **size),
        F.interpolate(a, scale_factor=(0.4, 1.7), mode="bilinear", antialias=True),
        F.interpolate(a, scale_factor=0.37, mode="bicubic", antialias=True, align_corners=True),
        F.interpolate(a, size=(1, 20), mode="bilinear", antialias=True, align_corners=True),
        F.interpolate(a.double(), size=(3, 6), mode="bicubic", antialias=True),
    )


def detached(a, b):
    rounded = a + (a.round() - a).detach()
    with torch.no_grad():
        scale, top = b.norm(), a.max(1, keepdim=True)[0]
    return rounded, F.l1_loss(a, b.detach(), reduction="sum"), (a - top).exp() * scale, a.detach() + 1


def without_gradients(a, b):
    sum, product = torch.empty(0), torch.zeros(3, 4)
    with torch.no_grad():
        torch.add(a, b, out=sum)
        torch.mul(a, b, out=product)
        twice = a * 2
        with torch.enable_grad():
            again = a * b
        both = again * twice
    return sum * a, product * b, twice + a, again, both * a


def lstm_of_halves(a, h, c, *w):
    return torch.lstm(a, [h, c], w, True, 1, 0.0, False, False, False)


def losses_of_mixed_types(a, b, n, i):
    return (
        F.mse_loss(a, n),
        F.l1_loss(a, b),
        F.smooth_l1_loss(b, n.double()),
        F.huber_loss(a, n),
        F.kl_div(b, a.double().softmax(1)),
        F.poisson_nll_loss(a, n),
        F.margin_ranking_loss(a, b, n.sign()),
        F.hinge_embedding_loss(a, n > 1),
        F.soft_margin_loss(a, n.sign()),
        F.cosine_similarity(a, b.float()),
        F.pairwise_distance(a, n),
        torch.dist(a, b),
        torch.kron(a, b),
        torch.outer(a[0], i),
    )


def losses_of_one_type(a, p, t, d):
    half, wide = a.detach().half(), a.detach().double()
    with_logits = F.binary_cross_entropy_with_logits
    return (
        F.huber_loss(a.detach(), d, reduction="none", delta=0.3),
        F.huber_loss(half, a.detach()) * 2,
        F.soft_margin_loss(a.detach(), d.sign()),
        F.soft_margin_loss(half, a.detach().sign(), reduction="none") + 1,
        F.poisson_nll_loss(a, d.abs(), full=True),
        F.poisson_nll_loss(p, d.abs() * 3, log_input=False, full=True, reduction="none"),
        F.poisson_nll_loss(wide, (3 * p).detach().round().long(), full=True).float(),
        F.poisson_nll_loss(half, p.detach(), reduction="sum"),
        with_logits(a, t.double()).float(),
        with_logits(wide, t, reduction="none"),
        with_logits(a, t.bfloat16(), weight=p.detach()) * 3,
        with_logits(a, t.double(), pos_weight=p[0].detach(), reduction="sum").float(),
    )


def norms_of_mixed_types(a, w, b):
    half = a.bfloat16()
    plain = F.layer_norm(half, (4,), w, b), F.layer_norm(half, (4,), None, b), F.rms_norm(half, (4,), w), F.layer_norm(a.half(), (4,), w)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h = F.linear(a, a)
        normal = F.layer_norm(h, (3,), w[:3], b[:3])
        loss = F.nll_loss(F.log_softmax(normal, 1), torch.tensor([0, 2, 1]))
        return *plain, normal, loss, F.pad(h, (1, 1), mode="reflect"), F.pad(h, (1, 1)), F.normalize(h), h.norm()


def resized_bytes(a):
    sizes = [dict(size=(5, 2)), dict(size=(3, 9)), dict(scale_factor=1.5)]
    return [F.interpolate(a, mode=m, align_corners=c, **s) for s in sizes for m in ("bilinear", "bicubic") for c in (True, False)]


def nested_autocast(a, b):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lower = a @ b
        with torch.no_grad():
            fixed = a @ b
            with torch.autocast("cpu", dtype=torch.float16):
                half = a @ b
        again = lower @ b
    return lower, fixed, half, again, a


def composed_in_autocast(a):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outer, product = torch.einsum("i,j->ij", a[0], a[1]), torch.einsum("ij,jk->ik", a, a)
        return outer, product, torch.inner(a, a), torch.linalg.multi_dot([a, a, a]), torch.tensordot(a, a)


# Name: the function and its tensors.
PROGRAMS = {
    "bag_padding_from_end": (lambda i, w: F.embedding_bag(i, w, padding_idx=-1), lambda: [torch.tensor([[1, 6], [6, 2]]), x(7, 3)]),
    "conv_tbc": (lambda a, w, b: torch.conv_tbc(a, w, b, 1), lambda: [x(5, 2, 3), x(3, 3, 4), x(4)]),
    "cross_last": (lambda a, b: (torch.linalg.cross(a, b), torch.linalg.cross(a, b, dim=0)), lambda: [x(3, 2, 3), x(3, 2, 3)]),
    "einsum_trace": (lambda a: (torch.einsum("ii", a), torch.einsum("jji", a.expand(4, 4, 4))), lambda: [x(4, 4)]),
    "fake_quantize": (
        lambda a, s: (
            torch.fake_quantize_per_tensor_affine(a, 0.1, 3, -8, 7),
            torch.fake_quantize_per_channel_affine(a, s, torch.tensor([0, 1, 2], dtype=torch.int32), 0, 0, 15),
        ),
        lambda: [x(3, 4), torch.tensor([0.1, 0.2, 0.05])],
    ),
    "fill_diagonal": (filled, lambda: [x(7, 3)]),
    "fixed_masks": (
        lambda a: (a[:, torch.tensor([True, False, True])], a[torch.tensor([[False, True, True], [True, False, False]])], a[[True, False]]),
        lambda: [x(2, 3)],
    ),
    "float_to_narrow": (
        lambda a: (a.to(torch.uint8), a.to(torch.int8), a.to(torch.int16).long(), a.double().to(torch.uint8)),
        lambda: [torch.tensor([0.5, -0.5, -1.7, 255.9, 256.0, 300.2, -100.99, -129.0, 40000.0, 1e10, -1e10])],
    ),
    "gradient": (
        lambda a: [*torch.gradient(a), *torch.gradient(a, spacing=0.5, dim=1, edge_order=2), *torch.gradient(a, spacing=[2.0, 0.3])],
        lambda: [x(4, 5)],
    ),
    "into_out": (into_out, lambda: [x(3, 4), x(3, 4)]),
    "into_empty": (into_empty, lambda: [x(3, 4), x(4)]),
    "log_sums_of_long_rows": (
        lambda a: (a.logcumsumexp(1), (a * 20).logcumsumexp(1), (a[:, ::4] * 3).double().logcumsumexp(0)),
        lambda: [torch.cat([torch.full((2, 40), -INF), x(2, 60).abs().cumsum(1), torch.full((2, 20), -INF), x(2, 31)], 1)],
    ),
    "losses_of_mixed_types": (
        losses_of_mixed_types,
        lambda: [x(3, 4), x(3, 4).bfloat16(), torch.randint(1, 4, (3, 4)), torch.tensor([2, -1, 3], dtype=torch.int32)],
    ),
    "losses_of_one_type": (losses_of_one_type, lambda: [x(3, 4), torch.rand(3, 4) + 0.1, torch.rand(3, 4).round(), x(3, 4).double()]),
    "logspace": (
        lambda a: (a * torch.logspace(0, 2, 5), a * torch.logspace(-1, 1, 5, base=2, dtype=torch.float64), a + torch.logspace(0, 4, 5, dtype=torch.int64)),
        lambda: [x(5)],
    ),
    "lstm_of_halves": (
        lstm_of_halves,
        lambda: [t.bfloat16() for t in (x(5, 2, 3), x(1, 2, 4), x(1, 2, 4), x(16, 3) / 2, x(16, 4) / 2, x(16), x(16))],
    ),
    "matrix_norms": (
        lambda a: [torch.linalg.norm(a, p, dim=(0, 1)) for p in (1, -1, float("inf"), -float("inf"))] + [torch.linalg.matrix_norm(a, 1, keepdim=True)],
        lambda: [x(3, 4, 2)],
    ),
    "matrix_power": (lambda a: [torch.matrix_power(a, n) for n in (0, 1, 2, 5)], lambda: [x(2, 3, 3)]),
    "median_of_equal": (
        lambda a, b: (a.median(), b.median(), b.nanmedian()),
        lambda: [torch.tensor([[1.0, 1.0, 2.0, 2.0], [3.0, 3.0, 3.0, 0.0]]), torch.tensor([NAN, 1.0, 1.0, NAN])],
    ),
    "meshgrid_xy": (
        lambda a, b, c: [u * (k + 1) for k, u in enumerate(torch.meshgrid(a, b, indexing="xy") + torch.meshgrid(a, b, c, indexing="xy"))],
        lambda: [x(3), x(3), x(4)],
    ),
    "bits": (
        bits,
        lambda: [
            torch.tensor([[0.0, -0.0, 1.5, -3.25e-39], [INF, -INF, NAN, 1e38]]),
            torch.tensor([0.0, -0.0, 1.5, 6e-8, 65504.0, -INF, -2.1e-5]).half(),
            torch.tensor([0.0, -0.0, -1.5, 5e-324, 1.7e308, INF, -1e-310], dtype=torch.float64),
            torch.tensor([[-3, 2, 1 << 30, -(1 << 31)], [0, -1, 7, 5]], dtype=torch.int32),
            torch.randint(0, 255, (2, 8), dtype=torch.uint8),
        ],
    ),
    "parts_of_floats": (
        parts_of_floats,
        lambda: [
            torch.tensor([0.0, -0.0, 1.5, -3.25e-39, 1e-45, -1e-45, INF, -INF, 1e38, 3.0, -1.1754944e-38, 1.0]),
            torch.tensor([0.0, -0.0, -1.5, 5e-324, -5e-324, 1.7e308, INF, -1e-310, 2.2250738585072014e-308, 8.0], dtype=torch.float64),
            torch.tensor([0.0, -0.0, 1.5, 6e-8, -6e-8, 65504.0, -INF, -2.1e-5, 3.0, 1.0]).half(),
        ],
    ),
    "recurrent_in_autocast": (
        recurrent_in_autocast,
        lambda: [x(5, 2, 3), x(1, 2, 4), x(1, 2, 4)]
        + [x(16, 3) / 2, x(16, 4) / 2, x(16), x(16)]
        + [x(16, 3) / 2, x(16, 2) / 2, x(16), x(16), x(2, 4) / 2]
        + [x(12, 3) / 2, x(12, 4) / 2, x(12), x(12)]
        + [x(5, 3, 4) / 3, x(5)],
    ),
    "smooth": (smooth, lambda: [x(2, 2, 11, 9)]),
    "smooth_bytes": (
        lambda a: [F.interpolate(a, size=(3, 6), mode=m, antialias=True) for m in ("bilinear", "bicubic")],
        lambda: [torch.randint(0, 256, (1, 2, 11, 13), dtype=torch.uint8)],
    ),
    "through_strides": (through_strides, lambda: [x(3, 4), x(2, 3)]),
    "through_windows": (through_windows, lambda: [x(4, 6)]),
    "vecdot": (
        lambda a, b: (torch.linalg.vecdot(a, b), torch.linalg.vecdot(a, b[0], dim=1), torch.vdot(a[0, 0], b[0, 0])),
        lambda: [x(2, 3, 4), x(2, 3, 4)],
    ),
    "msort": (lambda a: torch.msort(a), lambda: [x(4, 5)]),
    "multilabel_margin": (
        lambda a, t: [F.multilabel_margin_loss(a, t, reduction=r) for r in ("none", "mean")] + [F.multilabel_margin_loss(a[0], t[0])],
        lambda: [x(4, 5), torch.tensor([[0, 2, -1, 1, 1], [1, -1, 0, 0, 0], [4, 3, 2, 1, 0], [-1, 0, 0, 0, 0]])],
    ),
    "nanmean_of_nan": (lambda a: (a.nanmean(1), a.nansum(0)), lambda: [torch.tensor([[1.0, NAN, 2.0], [NAN] * 3, [1.0, 2.0, 3.0]])]),
    "norms_of_mixed_types": (norms_of_mixed_types, lambda: [x(3, 4), x(4), x(4)]),
    "resized_bytes": (resized_bytes, lambda: [torch.randint(0, 256, (1, 2, 6, 4), dtype=torch.uint8)]),
    "products_in_autocast": (composed_in_autocast, lambda: [x(3, 3)]),
    "triangle_indices": (lambda a: (a[tuple(torch.triu_indices(4, 5, 1))], a[tuple(torch.tril_indices(4, 5, -1))]), lambda: [x(4, 5)]),
    "other_names": (other_names, lambda: [torch.rand(3, 4) + 0.3, torch.tensor([0, 2, 3])]),
    "windows": (windows, lambda: [x(5)]),
    "no_grad_into_out": (without_gradients, lambda: [x(3, 4), x(3, 4)]),
    "cropped_circles": (cropped_circles, lambda: [x(1, 2, 5, 4)]),
    "largest_of_bags": (
        lambda i, w, o: (F.embedding_bag(i, w, o, mode="max"), F.embedding_bag(i[:6].view(2, 3), w, mode="max", padding_idx=4)),
        lambda: [
            torch.tensor([2, 4, 5, 4, 2, 1, 2, 5, 4]),
            torch.tensor([[0.5, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.5], [1.0, 2.0], [-1.0, 2.0]]),
            torch.tensor([0, 0, 7]),
        ],
    ),
    "passed_over_factors": (
        lambda i, w, f: F.embedding_bag(i, w, per_sample_weights=f, mode="sum", padding_idx=1),
        lambda: [torch.tensor([[0, 1, 2, 1], [2, 2, 1, 0]]), x(3, 2), torch.tensor([[0.5, NAN, 2.0, INF], [1.0, -1.0, -INF, 0.25]])],
    ),
    "points_on_borders": (
        lambda a, g: [F.grid_sample(a, g, padding_mode=m, align_corners=True) for m in ("border", "reflection")],
        lambda: [x(1, 2, 3, 5), torch.tensor([-1.0, -0.5, 0.0, 0.25, 1.0, 1.5]).view(1, 1, 6, 1).expand(1, 2, 6, 2).contiguous()],
    ),
    "points_on_borders_3d": (
        lambda a, g: F.grid_sample(a, g, padding_mode="border", align_corners=True),
        lambda: [x(1, 2, 3, 3, 5), torch.tensor([-1.0, -0.5, 0.25, 1.0]).view(1, 1, 1, 4, 1).expand(1, 1, 2, 4, 3).contiguous()],
    ),
    "written_infinities": (written_infinities, lambda: [x(3, 2), torch.tensor([1, 0, 2]), torch.tensor([[1.0, INF], [NAN, 2.0], [-INF, 0.0]])]),
    "frequent_infinities": (
        lambda i, w: F.embedding(i, w, scale_grad_by_freq=True),
        lambda: [torch.tensor([0, 1, 1, 2, 1]), torch.tensor([[1.0, INF], [NAN, 2.0], [-INF, 0.0]])],
    ),
    "sums_of_nothing": (
        lambda a: (torch.cumulative_trapezoid(a[:, 1:2], dx=0.5), a[:0].cumsum(0), a[:, :0].sort(1)[0], a[1:1].cummax(0)[0], a * 2),
        lambda: [x(3, 3).bfloat16()],
    ),
    "trapezoids_of_halves": (lambda a: (torch.trapezoid(a), torch.trapezoid(a, dx=0.25, dim=0)), lambda: [torch.tensor([[-6e4, -2e4, 5e4, 6e4], [1.0, 2.0, 3.0, 9.0]]).half()]),
    "gamma_of_halves": (gamma_functions, lambda: [torch.tensor([-3.7, -1.5, -0.5, 0.25, 0.5, 1.0, 2.0, 3.0, 8.5, 20.0]).half()]),
    "gamma_at_poles": (
        lambda a, b: (torch.lgamma(a), torch.polygamma(2, b)),
        lambda: [torch.tensor([-2.0, -1.0, -0.0, 0.0, 0.5, 3.0]), torch.tensor([-2.0, 0.0, 0.5, 3.0])],
    ),
    "bessel_of_halves": (bessel_functions, lambda: [torch.tensor([-9.0, -3.7, -0.5, 0.0, 0.25, 1.0, 4.5, 7.25, 10.0]).half()]),
    "bessel_at_zero": (lambda a: (*bessel_functions(a), torch.special.i1(a)), lambda: [torch.tensor([-1.0, 0.0, 2.0, 9.0], dtype=torch.float64)]),
    "bessel_of_small_halves": (lambda a: torch.i0(a), lambda: [torch.tensor([-3.7, -0.5, 0.25, 1.0, 4.5]).half()]),
    "bessel_overflows": (lambda a: torch.i0(a), lambda: [torch.tensor([-300.0, -1.0, 120.0])]),
    "small_halves": (lambda a: a.log10(), lambda: [torch.tensor([6e-6, 3e-5, 1e-4, 0.33, 7.0]).half()]),
    "whole_quotients_of_halves": (
        lambda a, b: [torch.div(t, d, rounding_mode=r) for t, d in ((a, 0.1), (a.half(), 0.1), (a, b)) for r in ("floor", "trunc")] + [a.half() // 0.1, 7.0 // a],
        lambda: [torch.tensor([1.0, 2.0, 0.3, 0.7, -1.0, 5.0]).bfloat16(), torch.full((6,), 0.1).bfloat16()],
    ),
    "large_halves": (
        lambda a: (a.std(), a.std(1, correction=0), torch.std_mean(a, 0, correction=0.5)[0], torch.round(a * 30, decimals=1), torch.round(a, decimals=-2)),
        lambda: [torch.tensor([[-1500.0, 300.0, 2e3], [400.0, -1e3, 10.25]]).half()],
    ),
    "entropy_of_halves": (
        lambda a: F.binary_cross_entropy(a.sigmoid(), a.flip(0).sigmoid()),
        lambda: [torch.tensor([-300.0, -120, -60, -30, -17, -12, -8.5, -6.25, 12, 16, 20, 30, 45, 60, 90, 120, 200, 300, 500, 1000, 2000, 4000]).half()],
    ),
    "divergence_at_zero": (lambda a: F.kl_div(a, a.flip(0).softmax(0), reduction="none"), lambda: [torch.tensor([-300.0, 1.0, 2.5, 400.0])]),
    "steep_softmax": (lambda a: (a.logcumsumexp(1).tanh(), F.max_pool3d(a.view(1, 1, 1, 2, 2), 1).tanh()), lambda: [torch.tensor([[0.5, 0.0], [1.0, -0.5]])]),
    "pooled_tanh": (
        lambda a: torch.tanh(F.max_pool3d(-a, (2, 3, 1), (1, 2, 3), (1, 0, 0), (2, 1, 2))),
        lambda: [((x(2, 2, 4, 5, 6)) * 2).round() / 2],
    ),
    "vander": (lambda a: (torch.vander(a), torch.vander(a, 3, True), torch.linalg.vander(a, N=5)), lambda: [x(4)]),
}

DECOMPOSED = {
    "decomposed_lerp": (lambda a: torch.lerp(a, a.mT, 0.3) @ a, lambda: [x(4, 4)]),
    "decomposed_detach": (detached, lambda: [x(3, 4), x(3, 4)]),
    "decomposed_no_grad": (without_gradients, lambda: [x(3, 4), x(3, 4)]),
    "decomposed_singular": (
        lambda a, b: (torch.sinc(a), torch.logit(b), torch.logit(b * 1, eps=0.1)),
        lambda: [torch.tensor([0.0, -0.0, 0.5, 2.0]), torch.tensor([0.0, -0.0, 1.0, 0.25, -0.25, 1.5])],
    ),
    "decomposed_statistics": (statistics_of_halves, lambda: [(x(2, 4, 3) * 2).bfloat16(), x(4).bfloat16()]),
    "decomposed_xlogy": (
        lambda a, b, k: (torch.xlogy(a, b), torch.special.xlog1py(a, k), torch.xlogy(a, k)),
        lambda: [torch.tensor([[0.0, 1.5], [-0.5, 0.0]]), torch.rand(2) + 0.5, torch.tensor(0.75)],
    ),
    "decomposed_nanmean": PROGRAMS["nanmean_of_nan"],
    "decomposed_smooth": PROGRAMS["smooth"],
    "decomposed_std": (
        lambda a: (a.std(1), a.std((0, 1), correction=0), torch.std_mean(a, 1, correction=0, keepdim=True)[0] * a),
        lambda: [torch.tensor([[1.0, 1.0, 1.0], [2.0, -1.0, 3.0], [0.0, 0.0, 0.0]])],
    ),
}

STRICT = {
    "strict_autocast": (nested_autocast, lambda: [x(4, 4), x(4, 4)]),
}


def main():
    all = PROGRAMS | DECOMPOSED | STRICT
    out, names = chosen(__doc__, all)
    for name in names:
        function, tensors = all[name]
        torch.manual_seed(0)
        how = dict(decompose=name in DECOMPOSED, strict=name in STRICT)
        what = write_case(out / "written" / name, function, tuple(tensors()), {}, {"op": name, "scope": "core"}, **how)
        if what:
            print(f"{name}: {what}")


if __name__ == "__main__":
    main()
