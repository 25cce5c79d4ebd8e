"""Programs as people write them, of what operator samples leave out: `python written.py OUT [--filter cross]`.

Defaults that differ between operators of one family, tensors of equal sizes along several dimensions, arguments `out`, masks and tables
that the program holds, casts of floats to narrow integers. Expected are values and gradients of PyTorch's eager mode; programs are not
decomposed. Writes `OUT/written/<name>/`. All of them are kept, in `written/`.
"""

import torch
import torch.nn.functional as F

from cases import chosen, write_case

NAN = float("nan")


def x(*shape):
    return torch.randn(shape)


def filled(a):
    square, tall = a[:3].clone(), a.clone()
    return square.fill_diagonal_(2.0), tall.fill_diagonal_(3.0, wrap=True), a.expand(3, 7, 3)[:, :3].clone().fill_diagonal_(1.5)


def into_out(a, b):
    sum, norm = torch.empty_like(a), torch.zeros(3)
    torch.add(a, b, alpha=2, out=sum)
    torch.linalg.vector_norm(sum, dim=1, out=norm)
    return torch.mul(sum, norm[:, None], out=torch.empty(3, 4, dtype=torch.float64)), sum


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
    "logspace": (
        lambda a: (a * torch.logspace(0, 2, 5), a * torch.logspace(-1, 1, 5, base=2, dtype=torch.float64), a + torch.logspace(0, 4, 5, dtype=torch.int64)),
        lambda: [x(5)],
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
    "msort": (lambda a: torch.msort(a), lambda: [x(4, 5)]),
    "multilabel_margin": (
        lambda a, t: [F.multilabel_margin_loss(a, t, reduction=r) for r in ("none", "mean")] + [F.multilabel_margin_loss(a[0], t[0])],
        lambda: [x(4, 5), torch.tensor([[0, 2, -1, 1, 1], [1, -1, 0, 0, 0], [4, 3, 2, 1, 0], [-1, 0, 0, 0, 0]])],
    ),
    "nanmean_of_nan": (lambda a: (a.nanmean(1), a.nansum(0)), lambda: [torch.tensor([[1.0, NAN, 2.0], [NAN] * 3, [1.0, 2.0, 3.0]])]),
    "products_in_autocast": (composed_in_autocast, lambda: [x(3, 3)]),
    "triangle_indices": (lambda a: (a[tuple(torch.triu_indices(4, 5, 1))], a[tuple(torch.tril_indices(4, 5, -1))]), lambda: [x(4, 5)]),
    "vander": (lambda a: (torch.vander(a), torch.vander(a, 3, True), torch.linalg.vander(a, N=5)), lambda: [x(4)]),
}


def main():
    out, names = chosen(__doc__, PROGRAMS)
    for name in names:
        function, tensors = PROGRAMS[name]
        torch.manual_seed(0)
        what = write_case(out / "written" / name, function, tuple(tensors()), {}, {"op": name, "scope": "core"}, decompose=False)
        if what:
            print(f"{name}: {what}")


if __name__ == "__main__":
    main()
